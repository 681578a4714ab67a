/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The virtio block driver, in four files: config.c what the disk says of itself, blk.c its life and its memory, queue.c the
 * asynchronous queues, sync.c pread and pwrite on top of them. Source: virtio 1.3, 5.2.
 *
 * Threads: each queue belongs to one thread at a time, the calls on the disk to one of them. What queues share is marked (see drvdev.h).
 */
#pragma once

#include <vhostkit/blk.h>

#include "driver/wait.h"

/* virtio 1.3, 5.2.3 and 6 */
enum {
        VHK_BLK_F_SIZE_MAX = 1, VHK_BLK_F_SEG_MAX = 2, VHK_BLK_F_RO = 5, VHK_BLK_F_BLK_SIZE = 6, VHK_BLK_F_FLUSH = 9, VHK_BLK_F_TOPOLOGY = 10,
        VHK_BLK_F_CONFIG_WCE = 11, VHK_BLK_F_MQ = 12, VHK_BLK_F_DISCARD = 13, VHK_BLK_F_WRITE_ZEROES = 14,
};

#define VHK_BLK_SECTOR 512u
#define VHK_BLK_MAX_SEGMENTS 126u       /* data segments of one request; with header and status an indirect table of 128 */
#define VHK_BLK_DEPTH 8u                /* requests that a synchronous call keeps in flight */
#define VHK_BLK_BOUNCE 131072u          /* bytes that one of them bounces */

/* Configuration space as numbers; 0 where the disk does not say. */
struct vhk_blk_config {
        uint64_t capacity, size_max, seg_max, blk_size, physical_exp, min_io, opt_io, writeback, n_queues;
        uint64_t discard_sectors, discard_segments, discard_alignment, zeroes_sectors, zeroes_segments, zeroes_unmap;
};

/* Request header and discard segment, as the device reads them. */
struct vhk_blk_header { vhk_le32 type, reserved; vhk_le64 sector; };
struct vhk_blk_range { vhk_le64 sector; vhk_le32 n_sectors, flags; };

struct vhk_blk_queue {
        struct vhk_blk *b;
        struct vhk_drvq *ring;
        /* one slot per request in flight, in lent memory: headers and status bytes lie apart, for they go opposite ways */
        struct vhk_blk_header *headers;
        struct vhk_blk_range *ranges;
        uint8_t *status;
        uint64_t headers_gpa, ranges_gpa, status_gpa;
        void **cookies;                 /* by slot */
        uint32_t *least;                /* by slot: bytes that the device must have written, if it reports success */
        uint16_t *free_slots;           /* a stack */
        unsigned n_free, num;
        struct vhk_chunk last;          /* translated last */
        unsigned n_abandoned;           /* synchronous requests whose caller gave up waiting */
        struct vhk_drvwait wait;
};

struct vhk_blk {
        struct vhk_drvdev d;
        /* constant after opening */
        struct vhk_blk_queue *queues;
        unsigned n_queues;
        uint32_t block_size, max_segment, max_segments;         /* max_segment: bytes */
        uint64_t max_request;           /* bytes, a multiple of block_size */
        uint64_t max_discard, max_zeroes;
        bool read_only, polling;
        uint64_t capacity;              /* shared (atomic, relaxed: a hint by itself, nothing is published with it) */
        struct vhk_blk_config config;   /* under d.lock */
        /* of the synchronous calls: queue 0's thread */
        uint8_t *bounce;                /* VHK_BLK_DEPTH times VHK_BLK_BOUNCE, lent */
        struct iovec *iov;              /* VHK_BLK_DEPTH times max_segments */
};

static inline bool vhk_blk_has(const struct vhk_blk *b, unsigned bit) {
        return vhk_drvdev_has(&b->d, bit);
}

/* config.c; under the lock or before anybody else knows of @b */
int vhk_blk_read_config(struct vhk_frontend *f, uint64_t features, struct vhk_blk_config *ret_c);
int vhk_blk_refresh(struct vhk_drvdev *d);                      /* reads again if the disk said that something changed */

/* blk.c */
uint64_t vhk_blk_gpa(void *queue, const void *va, uint64_t len);        /* UINT64_MAX: not lent */

/* queue.c */
int vhk_blk_queue_init(struct vhk_blk_queue *q, struct vhk_blk *b, unsigned i, uint16_t num, uint8_t *mem);
void vhk_blk_queue_done(struct vhk_blk_queue *q);
size_t vhk_blk_queue_bytes(uint16_t num);
int vhk_blk_add(struct vhk_blk_queue *q, const struct vhk_blk_io *ios, unsigned n);                     /* vhk_blk_submit() and */
int vhk_blk_take(struct vhk_blk_queue *q, struct vhk_blk_done *ret_done, unsigned n, int timeout_ms);   /* vhk_blk_reap(), without the bracket */
void vhk_blk_abandon(struct vhk_blk_queue *q);                  /* all that is in flight: results are dropped when they come */
/* Waits for abandoned requests. 0: nothing is in flight (any more); -EBUSY: the caller's
 * asynchronous requests are; -ETIMEDOUT; -EPIPE */
int vhk_blk_wait_idle(struct vhk_blk_queue *q, int timeout_ms);
