/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A virtio disk as a program uses it (virtio 1.3, 5.2): pread and pwrite, and asynchronous queues. Offsets and sizes are
 * bytes and multiples of the device's block size. An object belongs to one thread at a time; different queues of one
 * disk may be used by different threads. The front-end's callbacks run inside these calls and may not call back in
 * (-EDEADLK), but may close the disk.
 */
#ifndef VHOSTKIT_BLK_H
#define VHOSTKIT_BLK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <vhostkit/error.h>
#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_blk;
struct vhk_blk_queue;

/**
 * struct vhk_blk_options - zero it, set @size
 * @frontend: how to open; NULL: defaults
 * @n_queues: rings to use; 0: 1. More than the device has is -EINVAL
 * @queue_size: entries per ring; 0: 128, or as many of them as the back-end takes
 * @polling: 1: wait by polling the rings (lowest latency, burns a CPU while waiting); 0: sleep on a descriptor
 * @features_no_take: virtio feature bits not to take though offered
 * @reconnect_ns: a back-end that dies is waited for so long; requests in flight go on with its successor, and nobody
 *                notices but by the time it took. 0: as @frontend says
 */
struct vhk_blk_options {
        size_t size;
        const struct vhk_frontend_options *frontend;
        uint16_t n_queues, queue_size;
        uint8_t polling;
        uint64_t features_no_take;
        uint64_t reconnect_ns;
};

/** struct vhk_blk_info - the disk; set @size. Sizes in bytes, 0 where the device does not say */
struct vhk_blk_info {
        size_t size;
        uint64_t capacity, features;
        uint32_t block_size, physical_block_size, min_io_size, opt_io_size;
        uint32_t max_segment_size, max_segments;
        uint32_t max_discard_bytes, max_discard_segments, discard_alignment;
        uint32_t max_write_zeroes_bytes, max_write_zeroes_segments;
        uint8_t read_only, writeback, write_zeroes_may_unmap;
        uint16_t n_queues;              /* of the device */
};

/** vhk_blk_open() - find the disk, negotiate, start the rings. Returns what vhk_frontend_open()
 * does, with the error message in @ret_e; when it fails an inherited descriptor stays the
 * caller's */
int vhk_blk_open(const char *spec, const struct vhk_blk_options *o, struct vhk_blk **ret_b, struct vhk_error *ret_e);
/**
 * vhk_blk_close() - stop the rings, reset the device, free; NULL is legal, and comes back
 *
 * No other thread may be in a call on the disk or its queues. Looks for no back-end that has gone,
 * and takes no longer than the front-end's limit_ns. From inside of a callback, too
 * (VHK_FRONTEND_GONE, say): then no further one is called, and the disk is closed when the call
 * that runs is over, which returns what it would have (-EPIPE, say); the memory of vhk_blk_alloc()
 * goes then.
 */
struct vhk_blk *vhk_blk_close(struct vhk_blk *b);
int vhk_blk_get_info(struct vhk_blk *b, struct vhk_blk_info *ret_i);
struct vhk_frontend *vhk_blk_get_frontend(struct vhk_blk *b);   /* stays the disk's */

/** vhk_blk_alloc() - memory that is lent to the back-end: sent as it is; any other buffer bounces. Freed with the disk. NULL: out of memory */
void *vhk_blk_alloc(struct vhk_blk *b, size_t len);

/* Synchronous, on queue 0. Return: bytes done (all of them), 0 for the calls without data, or a negative errno:
 * -EINVAL (not a multiple of the block size), -ENXIO (beyond the end), -EROFS, -EIO (reported by
 * the device), -EOPNOTSUPP; -EPROTO (of a read the device reports success, and fewer bytes written
 * than were asked for); -EBUSY (asynchronous requests are in flight on queue 0); -ETIMEDOUT (a
 * later call waits for the unanswered requests first, and returns the same again if they are not
 * answered in time); -EPIPE (the connection has ended, or the device broke the rules of the ring:
 * from then on every call returns it). vhk_frontend_get_error() of vhk_blk_get_frontend() has the
 * text. */
ssize_t vhk_blk_pread(struct vhk_blk *b, void *buf, size_t n, uint64_t off);
ssize_t vhk_blk_pwrite(struct vhk_blk *b, const void *buf, size_t n, uint64_t off);
int vhk_blk_flush(struct vhk_blk *b);
int vhk_blk_discard(struct vhk_blk *b, uint64_t off, uint64_t len);
int vhk_blk_write_zeroes(struct vhk_blk *b, uint64_t off, uint64_t len, int may_unmap);
int vhk_blk_get_id(struct vhk_blk *b, char ret_id[21]);         /* terminated */
int vhk_blk_set_writeback(struct vhk_blk *b, int on);           /* needs CONFIG_WCE */

/* ---- asynchronous ---- */

enum vhk_blk_op { VHK_BLK_READ, VHK_BLK_WRITE, VHK_BLK_FLUSH, VHK_BLK_DISCARD, VHK_BLK_WRITE_ZEROES, VHK_BLK_GET_ID };
#define VHK_BLK_IO_UNMAP (1u << 0)      /* with WRITE_ZEROES */

/**
 * struct vhk_blk_io - one request; @iov must be shared memory (vhk_blk_alloc()), and stay until it
 * is reaped. It has no size, for arrays of it are taken; other requests will be other values of @op
 * and bits of @flags (those that are not defined are 0)
 */
struct vhk_blk_io {
        enum vhk_blk_op op;
        uint32_t flags;
        uint64_t off, len;              /* @len for DISCARD and WRITE_ZEROES; else the sum of @iov counts */
        const struct iovec *iov;
        unsigned n_iov;
        void *cookie;
};
/** struct vhk_blk_done - a finished request. It has no size, since arrays of it are filled; further
 * results will have a call of their own */
struct vhk_blk_done {
        void *cookie;
        int result;                     /* 0 or a negative errno, as above */
        uint32_t len;                   /* used.len as the device reported it */
};

/** vhk_blk_get_queue() - queue @i of those opened; queue 0 is shared with the synchronous calls, which need it idle (-EBUSY) */
int vhk_blk_get_queue(struct vhk_blk *b, unsigned i, struct vhk_blk_queue **ret_q);
/** vhk_blk_submit() - returns how many of @n were taken (fewer when the ring is full), or a
 * negative errno if none for another reason; -EPIPE as above */
int vhk_blk_submit(struct vhk_blk_queue *q, const struct vhk_blk_io *ios, unsigned n);
/** vhk_blk_reap() - up to @n finished requests; waits at most @timeout_ms for the first (-1 without
 * limit, 0 not at all). 0 at once if nothing is in flight; -EPIPE as above, when no result is
 * left */
int vhk_blk_reap(struct vhk_blk_queue *q, struct vhk_blk_done *ret_done, unsigned n, int timeout_ms);
/** vhk_blk_queue_get_fd() - readable when vhk_blk_reap() has something; -1 while polling */
int vhk_blk_queue_get_fd(struct vhk_blk_queue *q);

#ifdef __cplusplus
}
#endif

#endif
