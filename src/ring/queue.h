/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The insides of struct vhk_queue, for this room alone: queue.c (its life) and split.c (its work). Everything here is the
 * home's, but for the members marked otherwise.
 */
#pragma once

#include "mem/iotlb.h"
#include "ring/inflight.h"
#include "ring/ring.h"

#define VHK_SLOT_IOVECS 8u              /* in the slot itself; longer chains take a block */
#define VHK_BLOCK_IOVECS (VHK_QUEUE_MAX_INDIRECT + 512u)        /* every entry served, and 512 crossings into other regions */
#define VHK_QUEUE_BLOCKS 32u            /* at most, and never more than the ring has entries; touched only when used */
#define VHK_QUEUE_MISSES (2 * VHK_IOTLB_MAX)    /* in a row for one request: it needs more translations at once than are kept */
#define VHK_QUEUE_GENERATIONS 8u        /* memory snapshots with requests in flight, the current one included */

/* A request and what belongs to it. One per descriptor index, found by the chain's head. priv is behind it. */
struct vhk_slot {
        struct vhk_req req;
        struct iovec iov[VHK_SLOT_IOVECS];
};
static_assert(sizeof(struct vhk_slot) % 16 == 0, "priv is 16-byte aligned");

/* The members of vhk_req.internal */
enum {
        VHK_REQ_QUEUE,                  /* its struct vhk_queue, from start on */
        VHK_REQ_META,                   /* 0: not in flight; else generation + 1, and (block + 1) << 8 */
        VHK_REQ_NEXT,                   /* in the list of completions from other threads */
};

/* Reasons for which pop gives nothing. */
enum {
        VHK_HOLD_STOPPED = 1,
        VHK_HOLD_DRAINING = 2,
        VHK_HOLD_DISABLED = 4,
        VHK_HOLD_BROKEN = 8,
        VHK_HOLD_GENERATIONS = 16,      /* too many snapshots have requests in flight */
        VHK_HOLD_STALLED = 64,          /* a translation is missing */
        VHK_HOLD_TRACKED = 32,          /* no reason to hold anything: pop has an in-flight record to write */
};
#define VHK_HOLD_REASONS (~(unsigned)VHK_HOLD_TRACKED)

/* What a flush has to do beside publishing. */
enum {
        VHK_AFTER_SETTLE = 1,           /* somebody waits for ops->settled */
        VHK_AFTER_UNBLOCKED = 2,        /* a block, or a generation, came free: pop may go on */
        VHK_AFTER_LOG = 4,              /* a dirty log is in use */
        VHK_AFTER_TRACKED = 8,          /* the in-flight record has answers that it does not know to be published */
};

struct vhk_queue {
        /* pop, on one cache line */
        struct vhk_desc *desc VHK_ALIGNED(VHK_CACHE_LINE);
        struct vhk_avail *avail;
        char *slots;
        struct vhk_mem_cache cache;
        uint32_t stride;                /* bytes from slot to slot */
        uint16_t mask;                  /* size - 1 */
        uint16_t last_avail;            /* next to be popped */
        uint16_t avail_seen;            /* the index as last read: it must not go back */
        uint16_t in_flight;
        uint8_t hold;                   /* VHK_HOLD_* */
        uint8_t meta;                   /* of a request of the current generation without a block */

        /* push and flush, on the next one */
        struct vhk_used *used VHK_ALIGNED(VHK_CACHE_LINE);
        uint16_t used_idx;              /* with what was pushed */
        uint16_t used_published;
        bool event_idx, indirect;
        bool blocked;                   /* pop stopped because no block was free */
        uint8_t ordinary;               /* meta of a request that push need not think about; 0xff: there is none */
        uint8_t after;                  /* VHK_AFTER_* */
        uint8_t generation;             /* current */
        uint8_t n_old;                  /* older generations with requests in flight */
        uint8_t n_blocks_free;
        uint32_t bad_seen;
        struct vhk_memmap *mem;         /* of config, which owns the reference */
        struct vhk_fdref *call;         /* likewise */
        uint16_t *popped;               /* heads by available index: what unpop gives back */
        uint64_t n_requests;            /* metrics: written at home, read anywhere */

        struct vhk_mem_cache table_cache VHK_ALIGNED(VHK_CACHE_LINE);   /* indirect tables live apart from buffers */

        /* seldom */
        uint64_t n_notifications VHK_ALIGNED(VHK_CACHE_LINE), n_flushes, n_faults, n_device_bugs;
        struct vhk_ring_config *config; /* owned */
        struct { struct vhk_memmap *mem; uint32_t n; } old[VHK_QUEUE_GENERATIONS];      /* owned reference, requests in flight */
        struct iovec *blocks;           /* VHK_BLOCK_IOVECS each */
        uint8_t free_blocks[VHK_QUEUE_BLOCKS];
        struct vhk_desc *scratch;       /* an indirect table that is not one aligned piece of memory */
        void *allocated;                /* slots */
        uint16_t num_allocated;
        unsigned index;
        uint16_t size_max;
        uint32_t req_size;
        void *priv;
        struct vhk_worker *home;
        const struct vhk_queue_owner_ops *ops;
        void *owner;
        struct vhk_inflight *inflight;  /* the record in use; NULL: none (config->inflight) */
        uint32_t inflight_bad_seen;
        uint64_t miss_iova;             /* the translation that is missing, */
        uint8_t miss_perm;              /* for this access; 0: none is */
        bool opened;                    /* its areas have been there: the used index is known */
        uint16_t missed_at;             /* for which request, and how often in a row */
        uint32_t n_misses;
        int used_given;                 /* of vhk_queue_start() */
        bool marked;                    /* in the dirty log, since the front-end was told */
        uint32_t log_hint;              /* the region that was marked last */
        bool tell_settled, tell_run, dying;     /* what events shall do */
        struct vhk_post events;         /* posted by home to itself: callbacks never run inside of a device's call */
        struct vhk_post completions;    /* posted by whoever made the list below not empty */

        struct vhk_req *completed VHK_ALIGNED(VHK_CACHE_LINE);  /* shared (atomic): newest first; see vhk_req_complete() */
};

static inline struct vhk_slot *vhk_queue_slot(const struct vhk_queue *q, uint32_t head) {
        return (struct vhk_slot *)(q->slots + (size_t)head * q->stride);
}

static inline void vhk_count(uint64_t *counter, uint64_t n) {
        vhk_store_relaxed(counter, *counter + n);       /* only home writes */
}

void vhk_queue_fault(struct vhk_queue *q, enum vhk_ring_rule rule) VHK_COLD;
/* The walk found no translation (q->miss_iova, miss_perm): pop waits for a snapshot that has it. -EAGAIN, or -EPIPE. */
int vhk_queue_stall(struct vhk_queue *q) VHK_COLD;
/* What q->after asks for; @old: the used index as published before. */
void vhk_queue_after_flush(struct vhk_queue *q, uint16_t old) VHK_COLD;
/* After a flush: did what somebody waits for happen? */
void vhk_queue_check_settled(struct vhk_queue *q) VHK_COLD;
void vhk_queue_put_block(struct vhk_queue *q, unsigned block) VHK_COLD;
/* A request of an older generation, or one with a block, is no longer in flight. */
void vhk_queue_put_meta(struct vhk_queue *q, uintptr_t meta) VHK_COLD;

/* ---- log.c ---- */

/* The device has written to the request's buffers. Before vhk_queue_put_meta(). */
void vhk_queue_log_request(struct vhk_queue *q, const struct vhk_req *r, uintptr_t meta) VHK_COLD;
/* The used elements [@old, published) and the index were written; the front-end is told of all marks. */
void vhk_queue_log_used(struct vhk_queue *q, uint16_t old) VHK_COLD;
/* The word that tells the driver when to notify was written. */
void vhk_queue_log_wish(struct vhk_queue *q) VHK_COLD;
