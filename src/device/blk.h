/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The block device's inside (virtio 1.3, 5.2). A request is parsed once into struct blk_req (the slot's private bytes),
 * and then goes through steps, each of them one system call's worth: read, write, sync, punch, zero ... An engine takes a
 * step and answers with the system call's result, at once or later; what follows from it is decided in blk-request.c alone.
 *
 * Threads: struct vhk_blkdev is written by control while no ring runs, and read by all homes; its atomics are marked. A request
 * is checked against the capacity that its home saw when it was parsed.
 * struct blk_queue belongs to its ring's home.
 */
#pragma once

#include <pthread.h>
#include <sys/uio.h>
#include <vhostkit/blkdev.h>

#include "base/base.h"
#include "base/log.h"
#include "base/clock.h"

#define BLK_SECTOR 512u
#define BLK_SERIAL_LEN 20u
#define BLK_BURST 32u                   /* requests popped at once */
#define BLK_NULL_BUDGET 1024u           /* requests that cost nothing, in one run: well below VHK_WORK_NS */
#define BLK_SEG_MAX 126u                /* data segments of a request */
#define BLK_MAX_SEGMENTS 8u             /* ranges of one discard or write zeroes request */
#define BLK_MAX_DISCARD_SECTORS (1u << 21)      /* 1 GiB: a hole of any size costs the same */
#define BLK_MAX_ZEROES_SECTORS (1u << 16)       /* 32 MiB: where zeroes are really written, that is what one request may take */
#define BLK_ERRORS_LOGGED 16u           /* a guest can make as many as it likes */
#define BLK_IOV_MAX 1024u               /* of preadv(2) and io_uring */
#define BLK_ARENA 2048u                 /* iovecs for requests whose buffers had to be trimmed, per ring */
#define BLK_BOUNCE_BYTES (256u << 10)
#define BLK_N_BOUNCES 8u                /* per ring, with direct I/O; more requests wait for one */
#define BLK_ZERO_BYTES (64u << 10)
#define BLK_N_ZERO_IOV 16u

/* virtio 1.3, 5.2.6 */
struct blk_header { vhk_le32 type, reserved; vhk_le64 sector; };
struct blk_segment { vhk_le64 sector; vhk_le32 n_sectors, flags; };
enum blk_type { BLK_T_IN = 0, BLK_T_OUT = 1, BLK_T_FLUSH = 4, BLK_T_GET_ID = 8, BLK_T_DISCARD = 11, BLK_T_WRITE_ZEROES = 13 };
enum blk_status { BLK_S_OK, BLK_S_IOERR, BLK_S_UNSUPP };
#define BLK_SEGMENT_UNMAP 1u

/* virtio 1.3, 5.2.4, as far as it is served */
struct blk_config {
        vhk_le64 capacity;
        vhk_le32 size_max, seg_max;
        vhk_le16 cylinders;
        uint8_t heads, sectors;
        vhk_le32 blk_size;
        uint8_t physical_block_exp, alignment_offset;
        vhk_le16 min_io_size;
        vhk_le32 opt_io_size;
        uint8_t writeback, unused0;
        vhk_le16 num_queues;
        vhk_le32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
        vhk_le32 max_write_zeroes_sectors, max_write_zeroes_seg;
        uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));

static_assert(sizeof(struct blk_header) == 16, "virtio_blk_req");
static_assert(sizeof(struct blk_segment) == 16, "virtio_blk_discard_write_zeroes");
static_assert(sizeof(struct blk_config) == 60, "virtio_blk_config up to unused1");
static_assert(offsetof(struct blk_config, writeback) == 32, "virtio_blk_config.writeback");

/* What an engine is asked to do. */
enum blk_step { BLK_READ, BLK_WRITE, BLK_SYNC, BLK_PUNCH, BLK_ZERO, BLK_DISCARD, BLK_WRITE_ZEROES };

struct blk_range { uint64_t off, len; bool unmap; };

/* One request: vhk_req.priv. */
struct blk_req {
        uint8_t *status;                /* last byte of the writable buffers; NULL: the request has none */
        enum blk_type type;
        enum blk_step step;
        uint64_t off;                   /* bytes: of the data, in the file; for ranges: of the step */
        uint32_t len, done;             /* data bytes: in all, done so far */
        bool dsync;                     /* stable before completion (write-through) */
        uint8_t retries, range, n_ranges;
        /* the step: */
        const struct iovec *iov;        /* stable until the engine has handed it to the kernel */
        unsigned n_iov;
        uint64_t step_off, step_len;
        struct iovec one;
        void *bounce;
        struct blk_queue *bq;           /* of the engine: whose it is */
        struct vhk_req *next;           /* waits for a bounce buffer */
        struct blk_range ranges[BLK_MAX_SEGMENTS];
};

struct blk_queue;
struct blk_uring;

/* Who executes steps; everything on the home. */
struct blk_engine {
        const char *name;
        int (*start)(struct blk_queue *bq);                             /* may be NULL */
        /* the step of @r: its result as the system call gives it (>= 0, negative errno), or -EINPROGRESS: comes later through
         * blk_continue() */
        int64_t (*submit)(struct blk_queue *bq, struct vhk_req *r);
        void (*kick)(struct blk_queue *bq);                             /* end of a burst; afterwards the kernel has all iovecs; may be NULL */
        void (*cancel)(struct blk_queue *bq);                           /* what has not begun comes back with -ECANCELED; may be NULL */
        void (*stop)(struct blk_queue *bq);                             /* nothing is in flight; may be NULL */
};
extern const struct blk_engine blk_engine_sync, blk_engine_null;
extern const struct blk_engine blk_engine_uring;        /* where built with liburing */
int blk_uring_probe(void);                              /* can an io_uring be had? 0 or a negative errno */

struct blk_queue {
        struct vhk_blkdev *d;
        struct vhk_queue *q;
        struct vhk_worker *home;
        const struct blk_engine *engine;        /* that of the disk, or sync where that one could not start */
        void *engine_data;              /* of the engine */
        struct blk_queue *next_active;  /* of the engine: in a list, if */
        bool is_active;
        bool waits;                     /* somebody else has the image's lock: nothing is popped */
        bool suspends;                  /* what is not done yet is left undone */
        struct vhk_timer *lock_timer;
        struct vhk_req *wait, **wait_tail;
        unsigned n_bounces;             /* free ones */
        void *bounces[BLK_N_BOUNCES], *bounce_memory;
        unsigned burst;                 /* requests popped at once: as many as take VHK_WORK_NS, BLK_BURST at most */
        unsigned n_arena;
        struct iovec arena[BLK_ARENA];
};

/* What is known of the file. */
struct blk_file {
        int fd;
        bool is_block;
        uint64_t size;                  /* bytes */
        uint32_t align;                 /* of offsets, lengths and addresses with direct I/O; else 1 */
        uint32_t sector;                /* of a block device; else BLK_SECTOR */
        uint32_t physical;              /* block size */
};

/* Of the image, shared by all rings; under the mutex. */
struct blk_lock {
        pthread_mutex_t mutex;
        unsigned n_rings;               /* started */
        bool held, told;
};

struct vhk_blkdev {
        struct blk_lock lock;
        const struct blk_engine *engine;
        struct blk_file file;
        enum vhk_blkdev_engine kind;
        bool may_fall_back;             /* this engine was not asked for: another one will do */
        struct blk_uring *urings;       /* under the mutex, see blk-uring.c */
        pthread_mutex_t urings_mutex;
        bool read_only, direct;
        uint16_t n_queues, queue_size;
        uint32_t block_size;
        char serial[BLK_SERIAL_LEN];
        uint8_t *zeroes;
        struct iovec zero_iov[BLK_N_ZERO_IOV];
        struct vhk_log log;
        struct vhk_host *host;          /* control; NULL: not served */
        bool write_through;             /* control: a driver wrote 0 to writeback, see blk.c */
        bool is_inherited;              /* control: it did so in an earlier connection */
        /* shared (atomic), relaxed: each a fact of its own */
        uint64_t capacity;              /* sectors; changed by control */
        uint32_t writeback;             /* 0: writes are stable before they complete */
        uint32_t indirect;              /* the driver may use indirect descriptors (or has not chosen yet) */
        uint32_t ring_size;             /* the smallest that a front-end has started so far; 0: none */
        uint32_t no_dsync;              /* the file refused RWF_DSYNC: a sync step follows instead */
        uint32_t n_errors;              /* logged */
        uint32_t n_fallbacks;           /* queues that the sync engine serves instead: logged */
};

/* blk-file.c */
int blk_file_open(const struct vhk_blkdev_options *o, struct blk_file *ret_f, struct vhk_error *ret_e);
int blk_file_get_size(const struct blk_file *f, uint64_t *ret_size);    /* what it is now */

/* blk.c: a ring of @size entries starts. Any thread */
void blk_note_ring_size(struct vhk_blkdev *d, uint32_t size);

/* blk-request.c */
#define BLK_GO (-1)                     /* blk_parse(): the engine has to do something */
int blk_parse(const struct vhk_blkdev *d, struct vhk_req *r, struct blk_req *b);       /* a status, or BLK_GO */
void blk_continue(struct blk_queue *bq, struct vhk_req *r, int64_t result);     /* the step that was -EINPROGRESS has ended */
void blk_wake(struct blk_queue *bq);                                            /* requests that wait, if they can go on */
void blk_queue_run(struct vhk_blkdev *d, struct vhk_queue *q);
void blk_queue_run_null(struct vhk_blkdev *d, struct vhk_queue *q);

/* The ring is being suspended: requests that wait are left, and the engine's as they come back. */
void blk_suspend(struct blk_queue *bq);

/* blk-lock.c */
int blk_lock_enter(struct blk_queue *bq);       /* a ring starts; bq->waits says whether it has to wait */
void blk_lock_leave(struct blk_queue *bq);      /* it has stopped */

/* blk-sync.c: execute a step here and now */
int64_t blk_execute(const struct vhk_blkdev *d, const struct blk_req *b);
