/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * One mmap(2) of a part of a peer's descriptor, and the process-wide registry of such mappings that SIGBUS asks.
 * Region tables are made of these; other memory of the peer (dirty log, in-flight record) goes through the same guard.
 */
#pragma once

#include <sys/stat.h>
#include <vhostkit/error.h>

#include "base/base.h"

struct vhk_mapping {
        unsigned refs;                  /* shared (atomic) */
        uint32_t bad;                   /* shared (atomic): stored by the SIGBUS handler before the zeroes can be read */
        uint8_t *base;                  /* what was mapped: whole (huge) pages */
        size_t size, page;
        uint8_t *host;                  /* where the wanted part begins */
        uint64_t fd_offset, len;        /* the wanted part */
        dev_t dev;                      /* the file; it cannot vanish and its inode number be reused while it is mapped */
        ino_t ino;
        struct vhk_sigbus_slot *slot;
};

/* Is [offset, offset + len) of @fd something that can be mapped? Fills *ret_st. Rules mem.size-zero, mem.offset-align,
 * mem.wrap-offset, mem.fd, mem.file-type, mem.fd-access, mem.beyond-file. */
int vhk_mapping_check(int fd, uint64_t offset, uint64_t len, struct stat *ret_st, struct vhk_error *ret_e);

/* Maps what vhk_mapping_check() accepted, shared, for reading and writing. Rule mem.map. */
int vhk_mapping_new(int fd, const struct stat *st, uint64_t offset, uint64_t len, struct vhk_mapping **ret_m,
                    struct vhk_error *ret_e);
/* The same of a descriptor that the kernel handed out for it (VDUSE), of whatever kind; only a regular file has a size to check, and
 * any @offset will do. */
int vhk_mapping_new_lent(int fd, uint64_t offset, uint64_t len, bool writable, struct vhk_mapping **ret_m, struct vhk_error *ret_e);
struct vhk_mapping *vhk_mapping_ref(struct vhk_mapping *m);
struct vhk_mapping *vhk_mapping_unref(struct vhk_mapping *m);   /* NULL is legal; returns NULL */
bool vhk_mapping_is_bad(const struct vhk_mapping *m);

/* Does the mapping show that part of that file, undamaged? */
bool vhk_mapping_shows(const struct vhk_mapping *m, const struct stat *st, uint64_t offset, uint64_t len);

/* ---- area.c: shared memory that is no guest memory ---- */

/* A zeroed memfd of @len bytes that nobody can shrink. Rule mem.area. */
int vhk_area_make(const char *name, uint64_t len, int *ret_fd, struct vhk_error *ret_e);
/* [offset, offset + len) of a peer's descriptor, checked and mapped as above. */
int vhk_area_map(int fd, uint64_t offset, uint64_t len, struct vhk_mapping **ret_m, struct vhk_error *ret_e);

/* ---- sigbus.c ---- */

/* Any thread. The range and *bad stay valid until vhk_sigbus_remove(). @page: what one fault replaces. -ENOMEM. */
int vhk_sigbus_add(void *base, size_t size, size_t page, uint32_t *bad, struct vhk_sigbus_slot **ret_slot);
void vhk_sigbus_remove(struct vhk_sigbus_slot *slot);
/* How many pages were replaced since the process began. */
uint32_t vhk_sigbus_count(void);
