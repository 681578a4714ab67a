/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Guest memory as a front-end lends it: a table of regions. A device never needs this header. Also the guard against
 * memory that vanishes (SIGBUS).
 */
#ifndef VHOSTKIT_MEMORY_H
#define VHOSTKIT_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A guest-physical address. One-member structs, so that address spaces are not mixed up. */
typedef struct { uint64_t v; } vhk_gpa_t;
/** A user virtual address of the front-end, as it stands in vhost-user messages. */
typedef struct { uint64_t v; } vhk_uva_t;

/**
 * struct vhk_region - one region of guest memory
 * @size: sizeof(struct vhk_region) of the caller
 * @gpa: guest-physical address of its first byte
 * @va: where the caller has it mapped (that is also the user address given to a back-end)
 * @len: bytes, a multiple of 4096
 * @fd: a descriptor that a back-end can mmap(2) shared: memfd, hugetlbfs file, tmpfs file; stays the caller's
 * @fd_offset: of the region's first byte in @fd, page aligned
 */
struct vhk_region {
        size_t size;
        vhk_gpa_t gpa;
        void *va;
        uint64_t len;
        int fd;
        uint64_t fd_offset;
};

struct vhk_memory;

/** vhk_memory_new() - an empty table. The table belongs to one thread at a time. -ENOMEM. */
int vhk_memory_new(struct vhk_memory **ret_m);
struct vhk_memory *vhk_memory_free(struct vhk_memory *m);

/**
 * vhk_memory_add() - add a region; a front-end that uses the table learns of it with the next vhk_frontend_set_memory()
 *
 * The descriptor is duplicated. Seal the file against shrinking (F_SEAL_SHRINK), or a back-end can
 * truncate it and make the next access raise SIGBUS. Return: 0; -EINVAL (size, alignment, length 0,
 * beyond the end of the file, wraps); -EEXIST (overlaps another region in guest or user addresses);
 * -EMFILE; -ENOMEM.
 */
int vhk_memory_add(struct vhk_memory *m, const struct vhk_region *r);

/** vhk_memory_remove() - remove the region with exactly that address and length (or the one that
 * vhk_memory_alloc() was asked for). -ENOENT. */
int vhk_memory_remove(struct vhk_memory *m, vhk_gpa_t gpa, uint64_t len);

/**
 * vhk_memory_alloc() - memory for a driver that has no guest: a new region of a memfd that is sealed against shrinking,
 * mapped here, at a guest address above all others; freed with the table
 * @len: bytes, rounded up to 2 MiB
 *
 * Guest address, address here, length and offset in the file are multiples of 2 MiB, for back-ends
 * that map whole huge pages (SPDK's vhost target); of 4096 bytes where the range that was set has
 * no room for that. Pages that are not touched cost nothing.
 *
 * -ENOSPC: no room left in the range that was set.
 */
int vhk_memory_alloc(struct vhk_memory *m, size_t len, void **ret_va);

/** vhk_memory_set_range() - guest addresses for vhk_memory_alloc(), @last included: vhk_frontend_info.iova_first and iova_last. -EINVAL */
int vhk_memory_set_range(struct vhk_memory *m, uint64_t first, uint64_t last);

/** vhk_memory_get_region() - the @i-th region in order of guest address; set @ret_r->size. -ENOENT
 * past the last; -EINVAL: size is not set */
int vhk_memory_get_region(const struct vhk_memory *m, unsigned i, struct vhk_region *ret_r);

/** vhk_memory_find() - guest address of [@va, @va + @len), which must lie in one region; -EFAULT */
int vhk_memory_find(const struct vhk_memory *m, const void *va, uint64_t len, vhk_gpa_t *ret_gpa);

/**
 * A dirty log: one bit per page of 4096 bytes of guest memory, from guest address 0 on (vhost-user, "Migration"). A back-end
 * sets a page's bit after it has written to it. Pre-copy goes like this:
 *
 *   log, data and rings on (<vhostkit/migration.h>); copy all pages;
 *   while it is worth it: for each page taken from the log: copy it;
 *   stop the rings; once more: for each page taken from the log: copy it; all off.
 *
 * A page that is taken before it is copied cannot be missed: what is written to it later marks it again.
 */
struct vhk_dirty_log;

/**
 * vhk_dirty_log_new() - a log for guest addresses below @end
 *
 * Memory that a back-end may mark must lie below: of the regions that are lent, and of rings whose address is given to
 * vhk_frontend_log_queue(). -EINVAL (0), -ENOMEM, -EFBIG, -EMFILE.
 */
int vhk_dirty_log_new(uint64_t end, struct vhk_dirty_log **ret_l);
struct vhk_dirty_log *vhk_dirty_log_free(struct vhk_dirty_log *l);
/** vhk_dirty_log_get_fd() - the log's memory, at offset 0; stays the log's */
int vhk_dirty_log_get_fd(const struct vhk_dirty_log *l);
/** vhk_dirty_log_get_size() - bytes of it, each for 8 pages */
uint64_t vhk_dirty_log_get_size(const struct vhk_dirty_log *l);

/**
 * vhk_dirty_log_take() - the next run of marked pages; their marks are taken away
 * @from: look from this guest address on
 *
 * While back-ends mark. A longer run may come in pieces. Return: 1 (@ret_gpa, and @ret_len in bytes); 0: there is none.
 */
int vhk_dirty_log_take(struct vhk_dirty_log *l, uint64_t from, uint64_t *ret_gpa, uint64_t *ret_len);

/**
 * vhk_sigbus_install() - handle SIGBUS for this process
 *
 * A peer can truncate memory that it shares with us at any time, and the next access to it raises
 * SIGBUS, which ends the process by default. A program that serves a back-end (vhk_backend_open())
 * must therefore call this once at its start, or vhk_sigbus_try() from a handler of its own.
 * vhk_daemon_run() calls it.
 *
 * The handler calls vhk_sigbus_try(); a SIGBUS that is not ours goes to the handler that was there
 * before, or ends the process as by default. It runs on the alternate signal stack of a thread that
 * has one. A second call does nothing. A program that installs another handler afterwards must call
 * vhk_sigbus_try() from it. Any thread.
 *
 * Return: 0, or what sigaction(2) gives.
 */
int vhk_sigbus_install(void);

/**
 * vhk_sigbus_try() - was this SIGBUS caused by a peer that truncated, or poisoned, memory that it
 * shares with us?
 * @siginfo: the siginfo_t that the handler got
 *
 * For programs with a SIGBUS handler of their own, which calls this first; others call
 * vhk_sigbus_install(). Async-signal-safe, any thread. If the fault is in memory of a peer, a
 * private page of zeroes is put in place, the memory is marked bad (the connection that it belongs
 * to fails soon after) and the result is 1: the handler returns. 0: the fault is somewhere else,
 * and the program does what it would do without vhostkit.
 */
int vhk_sigbus_try(const void *siginfo);

#ifdef __cplusplus
}
#endif

#endif
