/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The insides of struct vhk_queue, for this room alone: queue.c (its life) and split.c (its work). Everything here is the
 * home's, but for the members marked otherwise.
 */
#pragma once

#include "mem/iotlb.h"
#include "ring/inflight.h"
#include "ring/ring.h"

#define VHK_SLOT_IOVECS 8u              /* in the slot itself; longer chains go on in the block of their head */
/* Every entry served, 512 crossings into other regions, and a cache line so that blocks do not all
 * begin in the same cache set. */
#define VHK_BLOCK_IOVECS (VHK_QUEUE_MAX_INDIRECT + 512u + VHK_CACHE_LINE / sizeof(struct iovec))
#define VHK_QUEUE_MISSES (2 * VHK_IOTLB_MAX)    /* in a row for one request: it needs more translations at once than are kept */

/* A request and what belongs to it. One per descriptor index, found by the chain's head. priv is behind it. */
struct vhk_slot {
        struct vhk_req req;
        struct iovec iov[VHK_SLOT_IOVECS];
};
static_assert(sizeof(struct vhk_slot) % 16 == 0, "priv is 16-byte aligned");

/* The members of vhk_req.internal */
enum {
        VHK_REQ_QUEUE,                  /* its struct vhk_queue, from start on */
        VHK_REQ_META,                   /* 0: not in flight; else generation + 1, and VHK_META_HOLE */
        VHK_REQ_NEXT,                   /* in the list of completions from other threads */
};

#define VHK_META_HOLE ((uintptr_t)1 << 16)      /* VHK_REQ_HOLE is set: no request is ordinary that has it */
static inline uint32_t vhk_meta_generation(uintptr_t meta) { return (uint32_t)(meta & 0xffff) - 1; }

/* Reasons for which pop gives nothing. */
enum {
        VHK_HOLD_STOPPED = 1,
        VHK_HOLD_DRAINING = 2,
        VHK_HOLD_DISABLED = 4,
        VHK_HOLD_BROKEN = 8,
        VHK_HOLD_STALLED = 16,          /* a translation is missing */
        VHK_HOLD_TRACKED = 32,          /* no reason to hold anything: pop has an in-flight record to write */
};
#define VHK_HOLD_REASONS (~(unsigned)VHK_HOLD_TRACKED)

/* What a flush has to do beside publishing. */
enum {
        VHK_AFTER_QUIESCED = 1,         /* ops->settled is due when vhk_queue_is_quiesced() */
        VHK_AFTER_DRAINED = 2,          /* ... when vhk_queue_is_drained() */
        VHK_AFTER_LOG = 4,              /* a dirty log is in use */
        VHK_AFTER_TRACKED = 8,          /* the in-flight record has answers that it does not know to be published */
};

/*
 * Requests in flight that were popped under one memory snapshot. There is room for one generation
 * per request of a full ring, and for the current one, so a new snapshot always finds a free one.
 */
struct vhk_generation {
        struct vhk_memmap *mem;         /* owned reference; NULL: the current one, or free */
        uint32_t n;                     /* requests in flight, unless it is the current one */
        uint32_t next_free;
};
#define VHK_NO_GENERATION UINT32_MAX

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
        uint16_t meta;                  /* of a request of the current generation */
        uint8_t hold;                   /* VHK_HOLD_* */

        /* push and flush, on the next one */
        struct vhk_used *used VHK_ALIGNED(VHK_CACHE_LINE);
        uint16_t used_idx;              /* with what was pushed */
        uint16_t used_published;
        uint16_t ordinary;              /* meta of a request that push need not think about; 0xffff: there is none */
        bool event_idx, indirect;
        uint8_t after;                  /* VHK_AFTER_* */
        uint32_t bad_seen;
        struct vhk_memmap *mem;         /* of config, which owns the reference */
        struct vhk_fdref *call;         /* likewise */
        uint16_t *popped;               /* heads by available index: what unpop gives back */
        uint64_t n_requests;            /* metrics: written at home, read anywhere */

        struct vhk_mem_cache table_cache VHK_ALIGNED(VHK_CACHE_LINE);   /* indirect tables live apart from buffers */

        /* seldom */
        uint64_t n_notifications VHK_ALIGNED(VHK_CACHE_LINE), n_flushes, n_faults, n_device_bugs;
        struct vhk_ring_config *config; /* owned */
        struct vhk_generation *generations;
        uint32_t generation;            /* the current one */
        uint32_t free_generation;       /* a list; VHK_NO_GENERATION: empty */
        uint32_t n_generations;         /* used so far: those from here on are free, too */
        uint32_t n_old, n_old_requests; /* older generations that have requests in flight, and how many these are */
        struct iovec *blocks;           /* VHK_BLOCK_IOVECS for each head; memory is allocated to those that were used */
        struct vhk_desc *scratch;       /* an indirect table that is not one aligned piece of memory */
        struct vhk_ring_config *areas_config;   /* owned; whose areas are pointed at: config, or the one before while it is stalled */
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
        bool holes;                     /* requests with buffers outside of shared memory are popped */
        bool drains_recovered;          /* DRAINING: recovered requests that were not popped yet are to be done, too */
        int32_t declined_at;            /* position at which the device took none of them; -1: none */
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
/* A request is no longer in flight: it counts in its generation no more. */
void vhk_queue_put_meta(struct vhk_queue *q, uintptr_t meta) VHK_COLD;
/* Why pop gives nothing: VHK_HOLD_REASONS, but for recovered requests that a drain still wants. */
unsigned vhk_queue_get_hold(const struct vhk_queue *q) VHK_COLD;

/* ---- log.c ---- */

/* The device has written to the request's buffers. Before vhk_queue_put_meta(). */
void vhk_queue_log_request(struct vhk_queue *q, const struct vhk_req *r, uintptr_t meta) VHK_COLD;
/* The used elements [@old, published) and the index were written; the front-end is told of all marks. */
void vhk_queue_log_used(struct vhk_queue *q, uint16_t old) VHK_COLD;
/* The word that tells the driver when to notify was written. */
void vhk_queue_log_wish(struct vhk_queue *q) VHK_COLD;
