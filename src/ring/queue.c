/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The life of a device-side queue: start, new configurations, drain, stop, completions from other threads, faults. What
 * happens per request is in split.c. On the queue's home, but for vhk_req_complete() and the metrics.
 *
 * Memory snapshots: a request in flight holds no reference; the queue counts them. Requests of the current generation
 * are in_flight less the old ones; when a snapshot is adopted that does not extend the former one,
 * their generation keeps their number and a reference to that snapshot, and each is counted down
 * there when it is pushed.
 *
 * Callbacks that may take the queue apart (settled) or call the device (run) go through home's mailbox, so that
 * they never run inside of a device's call.
 */
#include "ring/queue.h"

#include "base/fd.h"
#include "mem/mapping.h"

#include <sys/mman.h>

#define META_NONE 0xffff        /* no request is ordinary: each push takes the slow way */

static void events(struct vhk_post *p);
static void completions(struct vhk_post *p);
static void reset_generations(struct vhk_queue *q);

int vhk_queue_new(unsigned index, uint16_t size_max, uint32_t req_size, struct vhk_worker *home,
                  const struct vhk_queue_owner_ops *ops, void *owner, struct vhk_queue **ret_q) {
        struct vhk_queue *q = aligned_alloc(VHK_CACHE_LINE, sizeof(*q));

        if (!q)
                return -ENOMEM;
        *q = (struct vhk_queue){
                .hold = VHK_HOLD_STOPPED, .ordinary = META_NONE,
                .index = index, .size_max = size_max, .req_size = req_size,
                .home = home, .ops = ops, .owner = owner,
                .events.fn = events, .completions.fn = completions,
        };
        *ret_q = q;
        return 0;
}

/* Address space only: a block costs memory from its first use on, and then as much as its longest
 * chain. */
static size_t blocks_bytes(uint16_t num) {
        return (size_t)num * VHK_BLOCK_IOVECS * sizeof(struct iovec);
}

static struct iovec *alloc_blocks(uint16_t num) {
        void *p = mmap(NULL, blocks_bytes(num), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return p == MAP_FAILED ? NULL : p;
}

static void free_storage(struct vhk_queue *q) {
        free(VHK_STEAL(q->allocated));
        free(VHK_STEAL(q->generations));
        if (q->blocks)
                munmap(VHK_STEAL(q->blocks), blocks_bytes(q->num_allocated));
        free(VHK_STEAL(q->popped));
        free(VHK_STEAL(q->scratch));
        q->inflight = vhk_inflight_free(q->inflight);
        q->num_allocated = 0;
}

struct vhk_queue *vhk_queue_free(struct vhk_queue *q) {
        if (!q)
                return NULL;
        if (!(q->hold & VHK_HOLD_STOPPED))
                vhk_queue_stop(q);
        if (vhk_load_relaxed(&q->events.queued)) {              /* home's own post: no other thread queues it */
                q->dying = true;
                return NULL;
        }
        free_storage(q);
        free(q);
        return NULL;
}

/* ---- start and stop ---- */

/* An odd number of cache lines, so that the slots do not all fall into the same sets. */
static uint32_t slot_stride(uint32_t req_size) {
        uint32_t lines = (uint32_t)((sizeof(struct vhk_slot) + req_size + VHK_CACHE_LINE - 1) / VHK_CACHE_LINE);
        return (lines | 1) * VHK_CACHE_LINE;
}

static int allocate(struct vhk_queue *q, uint16_t num) {
        if (q->num_allocated == num)
                return 0;
        free_storage(q);

        q->num_allocated = num;
        q->stride = slot_stride(q->req_size);
        q->allocated = aligned_alloc(VHK_CACHE_LINE, (size_t)num * q->stride);
        q->blocks = alloc_blocks(num);
        q->generations = malloc((num + 1u) * sizeof(*q->generations));
        q->popped = malloc(num * sizeof(*q->popped));
        q->scratch = malloc(VHK_QUEUE_MAX_INDIRECT * sizeof(struct vhk_desc));
        if (!q->allocated || !q->blocks || !q->generations || !q->popped || !q->scratch) {
                free_storage(q);
                return -ENOMEM;
        }
        q->slots = q->allocated;
        return 0;
}

static void reset_slots(struct vhk_queue *q) {
        for (uint32_t i = 0; i < q->num_allocated; i++) {
                struct vhk_slot *s = vhk_queue_slot(q, i);
                s->req = (struct vhk_req){
                        .out = s->iov, .in = s->iov, .head = (uint16_t)i, .priv = s + 1,
                        .internal[VHK_REQ_QUEUE] = (uintptr_t)q,
                };
        }
        memset(q->popped, 0, q->num_allocated * sizeof(*q->popped));
}

static void set_hold(struct vhk_queue *q, unsigned bit, bool on) {
        q->hold = (uint8_t)(on ? q->hold | bit : q->hold & ~bit);
}

/* Which requests does push do nothing special for? */
static void choose_ordinary(struct vhk_queue *q) {
        bool none = (q->hold & (VHK_HOLD_STOPPED | VHK_HOLD_BROKEN | VHK_HOLD_TRACKED)) || q->config->log_data;

        q->ordinary = none ? META_NONE : q->meta;
}

static void point_at_areas(struct vhk_queue *q, struct vhk_ring_config *c) {
        vhk_ring_config_ref(c);
        vhk_ring_config_unref(q->areas_config);
        q->areas_config = c;
        q->desc = c->desc;
        q->avail = c->avail;
        q->used = c->used;
}

/* Points the queue at @c, whose reference it takes over. Without translations of its areas requests
 * in flight are still published where the areas were. */
static void point_at(struct vhk_queue *q, struct vhk_ring_config *c) {
        q->config = c;
        if (!c->stalled || !q->in_flight)
                point_at_areas(q, c);
        q->mem = c->mem;
        q->call = c->call;
        q->event_idx = c->event_idx;
        q->indirect = c->indirect;
        q->cache = q->table_cache = (struct vhk_mem_cache){ 0 };
        q->bad_seen = 0;
        q->log_hint = 0;
        q->after = (uint8_t)((q->after & ~VHK_AFTER_LOG) | (c->log ? VHK_AFTER_LOG : 0));
        set_hold(q, VHK_HOLD_DISABLED, !c->enabled && !c->discard);
        choose_ordinary(q);
}

static void notify(struct vhk_queue *q) {
        vhk_count(&q->n_notifications, 1);
        vhk_fdref_notify(q->call);
}

/* The ring goes on where its record says. */
static int open_record(struct vhk_queue *q) {
        const struct vhk_ring_config *c = q->config;

        if (!c->inflight)
                return 0;
        int r = q->inflight ? 0 : vhk_inflight_new(q->num_allocated, &q->inflight);
        if (r >= 0) {
                set_hold(q, VHK_HOLD_TRACKED, true);
                choose_ordinary(q);
                q->inflight_bad_seen = 0;
                r = vhk_inflight_open(q->inflight, c->inflight, c->inflight_num, q->used_idx);
        }
        if (r > 0)
                q->last_avail = q->avail_seen = q->inflight->first;
        if (r >= 0 && (q->after & VHK_AFTER_LOG))       /* the predecessor may have died between publishing and marking */
                vhk_queue_log_used(q, (uint16_t)(q->used_published - q->mask - 1));
        if (r >= 0)
                return 0;
        vhk_queue_fault(q, r == -EPROTO ? VHK_RING_INFLIGHT : VHK_RING_DEVICE);
        return -EPIPE;
}

/* Its areas are there, for the first time. */
static int open_areas(struct vhk_queue *q) {
        int given = q->used_given;

        q->opened = true;
        q->used_idx = q->used_published = given >= 0 ? (uint16_t)given : vhk_le16_get((vhk_le16){ vhk_load_relaxed(&q->used->idx.v) });
        /* The process that served the ring before may have died between publishing and notifying.
         * And libvhost-user signals each call descriptor at the start, so front-ends wait for it
         * (QEMU's vhost-user-blk-test); a notification that is an ioctl instead (VDUSE) is not made
         * without need. */
        if (q->used_idx || vhk_fdref_get(q->call) >= 0)
                notify(q);
        return open_record(q);
}

/* Must the ring be BROKEN at once, with @c? */
static enum vhk_ring_rule find_fault(const struct vhk_ring_config *c) {
        bool has_areas = c->desc && c->avail && c->used;

        return has_areas || c->stalled ? VHK_RING_OK : VHK_RING_MEMORY;
}

int vhk_queue_start(struct vhk_queue *q, struct vhk_ring_config *c, uint16_t avail, int used) {
        assert(q->hold & VHK_HOLD_STOPPED);
        if (!vhk_is_pow2(c->num) || c->num > q->size_max)
                return -EINVAL;
        int r = allocate(q, c->num);
        if (r < 0)
                return r;
        reset_slots(q);
        q->mask = c->num - 1;
        q->last_avail = q->avail_seen = avail;
        q->in_flight = 0;
        reset_generations(q);
        q->hold = 0;
        q->marked = q->opened = q->drains_recovered = q->holes = false;
        q->used_given = used;
        q->used_idx = q->used_published = 0;
        q->n_misses = 0;
        q->after = 0;
        point_at(q, vhk_ring_config_ref(c));
        set_hold(q, VHK_HOLD_STALLED, c->stalled);
        enum vhk_ring_rule rule = find_fault(c);
        if (!rule && vhk_memmap_is_bad(c->mem, &q->bad_seen))
                rule = VHK_RING_MEMORY;
        if (rule) {
                vhk_queue_fault(q, rule);
                return -EPIPE;
        }
        return c->stalled ? 0 : open_areas(q);
}

uint16_t vhk_queue_stop(struct vhk_queue *q) {
        if (q->hold & VHK_HOLD_STOPPED)
                return q->last_avail;
        vhk_queue_flush(q);
        if (q->in_flight)
                reset_slots(q);         /* the device's bug: a push that comes too late finds nothing in flight */
        q->hold = VHK_HOLD_STOPPED;
        q->ordinary = META_NONE;
        q->in_flight = 0;
        for (uint32_t i = 0; i < q->n_generations; i++)
                q->generations[i].mem = vhk_memmap_unref(q->generations[i].mem);
        q->n_old = q->n_old_requests = 0;
        q->tell_settled = q->tell_run = false;
        q->after = 0;
        q->desc = NULL;
        q->avail = NULL;
        q->used = NULL;
        q->mem = NULL;
        q->call = NULL;
        q->areas_config = vhk_ring_config_unref(q->areas_config);
        q->config = vhk_ring_config_unref(q->config);
        return q->last_avail;
}

bool vhk_queue_is_drained(const struct vhk_queue *q) {
        return !q->in_flight && !vhk_queue_is_recovering(q);
}

bool vhk_queue_is_recovering(const struct vhk_queue *q) {
        return q->drains_recovered && !(q->hold & VHK_HOLD_BROKEN) && vhk_queue_n_recovered(q);
}

int vhk_queue_drain(struct vhk_queue *q, bool recovered) {
        set_hold(q, VHK_HOLD_DRAINING, true);
        q->drains_recovered = recovered;
        q->declined_at = -1;
        vhk_queue_flush(q);
        q->after &= (uint8_t)~VHK_AFTER_DRAINED;
        if (vhk_queue_is_drained(q))
                return 0;
        q->after |= VHK_AFTER_DRAINED;
        if (vhk_queue_is_recovering(q))
                vhk_queue_resume(q);
        return 1;
}

/* Recovered requests that the device does not take, and that the available ring still has in this
 * order, are left to the process that is given the base: nothing was done to them here. */
static void give_back_recovered(struct vhk_queue *q) {
        struct vhk_inflight *f = q->inflight;
        uint16_t n = (uint16_t)vhk_queue_n_recovered(q), from = (uint16_t)(q->last_avail - n);

        if (!q->avail)                  /* its translation is missing */
                return;
        for (uint16_t i = 0; i < n; i++) {
                const vhk_le16 *entry = &q->avail->ring[(uint16_t)(from + i) & q->mask];
                if (vhk_le16_get((vhk_le16){ vhk_load_relaxed(&entry->v) }) != f->recovered[f->at + i])
                        return;
        }
        while (f->n_recovered > f->at)          /* the newest first: the record is right at any point in between */
                vhk_inflight_untake(f, f->recovered[--f->n_recovered]);
        q->last_avail = q->avail_seen = from;
}

/* Lets the device take recovered requests while the queue drains. */
static void run_recovered(struct vhk_queue *q) {
        uint16_t before = vhk_queue_get_position(q);

        if (!vhk_queue_get_hold(q))
                q->ops->run(q->owner, q);
        if (vhk_queue_is_recovering(q) && !q->in_flight && vhk_queue_get_position(q) == before) {
                q->declined_at = before;
                give_back_recovered(q);
                if (q->hold & VHK_HOLD_STALLED)         /* no translation comes during a drain: they stay in the record */
                        q->drains_recovered = false;
        }
        if (!vhk_queue_is_recovering(q))
                q->tell_settled = true;
}

unsigned vhk_queue_get_hold(const struct vhk_queue *q) {
        unsigned reasons = q->hold & VHK_HOLD_REASONS;

        if (q->drains_recovered && vhk_queue_n_recovered(q))
                reasons &= ~(unsigned)(VHK_HOLD_DRAINING | VHK_HOLD_DISABLED);
        return reasons;
}

/* ---- generations ---- */

static void reset_generations(struct vhk_queue *q) {
        q->generations[0] = (struct vhk_generation){ .mem = NULL };
        q->generation = 0;
        q->n_generations = 1;
        q->free_generation = VHK_NO_GENERATION;
        q->n_old = q->n_old_requests = 0;
        q->meta = 1;
}

/* One that has no requests. There is always one: all others have a request in flight at least. */
static uint32_t take_generation(struct vhk_queue *q) {
        uint32_t i = q->free_generation;

        if (i == VHK_NO_GENERATION) {
                assert(q->n_generations <= q->num_allocated);
                i = q->n_generations++;
                q->generations[i].mem = NULL;
        } else {
                q->free_generation = q->generations[i].next_free;
        }
        return i;
}

/* The current snapshot gives way to another; requests that use it keep it alive. */
static void retire_generation(struct vhk_queue *q) {
        struct vhk_generation *g = &q->generations[q->generation];
        uint32_t n = q->in_flight - q->n_old_requests;

        if (!n)
                return;
        g->mem = vhk_memmap_ref(q->mem);
        g->n = n;
        q->n_old++;
        q->n_old_requests += n;
        q->generation = take_generation(q);
        q->meta = (uint16_t)(q->generation + 1);
}

/* Does a request in flight use what translations between the current snapshot and @new took
 * away? */
static bool loses_buffers(const struct vhk_queue *q, const struct vhk_req *req, const struct vhk_memmap *new) {
        for (unsigned i = 0; i < (unsigned)req->n_out + req->n_in; i++)         /* req->in follows req->out */
                if (vhk_iotlb_took(new, q->mem, req->out[i].iov_base, req->out[i].iov_len))
                        return true;
        return false;
}

/* Translations were invalidated: requests that use them become a generation of their own. The
 * others are as good as those that will be popped under @new. */
static void retire_touching(struct vhk_queue *q, const struct vhk_memmap *new) {
        uint32_t left = q->in_flight - q->n_old_requests, n = 0, old = q->generation;

        for (uint32_t i = 0; left && i <= q->mask; i++) {
                struct vhk_req *req = &vhk_queue_slot(q, i)->req;
                uintptr_t meta = req->internal[VHK_REQ_META];
                if (!meta || vhk_meta_generation(meta) != q->generation)
                        continue;
                left--;
                if (!loses_buffers(q, req, new))
                        continue;
                if (!n++)
                        old = take_generation(q);
                req->internal[VHK_REQ_META] = (old + 1) | (meta & VHK_META_HOLE);
        }
        if (!n)
                return;
        q->generations[old] = (struct vhk_generation){ .mem = vhk_memmap_ref(q->mem), .n = n };
        q->n_old++;
        q->n_old_requests += n;
}

/* Requests in flight were popped under q->mem; @new is the next snapshot. */
static void change_memory(struct vhk_queue *q, const struct vhk_memmap *new) {
        if (vhk_memmap_extends(new, q->mem))
                return;
        if (new->guest && q->mem->guest && vhk_memmap_extends(new->guest, q->mem->guest))
                retire_touching(q, new);
        else
                retire_generation(q);
}

void vhk_queue_put_meta(struct vhk_queue *q, uintptr_t meta) {
        uint32_t i = vhk_meta_generation(meta);
        struct vhk_generation *g = &q->generations[i];

        if (i == q->generation)
                return;
        q->n_old_requests--;
        if (--g->n)
                return;
        q->n_old--;
        g->mem = vhk_memmap_unref(g->mem);
        g->next_free = q->free_generation;
        q->free_generation = i;
}

static bool keeps_old_areas(const struct vhk_queue *q) {
        return q->config->stalled && q->areas_config != q->config && !(q->hold & VHK_HOLD_BROKEN);
}

bool vhk_queue_is_quiesced(const struct vhk_queue *q) {
        return !q->n_old && !keeps_old_areas(q);
}

int vhk_queue_adopt(struct vhk_queue *q, struct vhk_ring_config *c) {
        assert(!(q->hold & VHK_HOLD_STOPPED) && c->num == q->mask + 1u);
        vhk_queue_flush(q);             /* what was pushed goes to the areas that it was written to */

        struct vhk_ring_config *former = q->config;
        bool other_call = c->call && c->call != q->call;

        change_memory(q, c->mem);
        if (c->stalled || c->mem != q->mem)
                set_hold(q, VHK_HOLD_STALLED, c->stalled);
        point_at(q, vhk_ring_config_ref(c));
        vhk_ring_config_unref(former);
        if (find_fault(c))
                vhk_queue_fault(q, find_fault(c));
        else if (!q->opened && !c->stalled)
                (void)open_areas(q);    /* BROKEN if it fails */
        if (other_call && !(q->hold & VHK_HOLD_BROKEN))
                notify(q);
        q->after &= (uint8_t)~VHK_AFTER_QUIESCED;
        if (vhk_queue_is_quiesced(q))
                return 0;
        q->after |= VHK_AFTER_QUIESCED;
        return 1;
}

/* ---- faults ---- */

void vhk_queue_fault(struct vhk_queue *q, enum vhk_ring_rule rule) {
        if (q->hold & VHK_HOLD_BROKEN)
                return;
        set_hold(q, VHK_HOLD_BROKEN, true);
        q->ordinary = META_NONE;
        q->used_published = q->used_idx;        /* nothing more is published */
        q->after &= (uint8_t)~VHK_AFTER_TRACKED;
        if (q->hold & VHK_HOLD_TRACKED)
                vhk_inflight_drop_batch(q->inflight);
        vhk_count(&q->n_faults, 1);
        q->ops->broken(q->owner, q, rule);
}

int vhk_queue_stall(struct vhk_queue *q) {
        uint16_t at = vhk_queue_get_position(q);

        q->n_misses = q->missed_at == at && q->n_misses ? q->n_misses + 1 : 1;
        q->missed_at = at;
        if (q->n_misses > VHK_QUEUE_MISSES) {
                vhk_queue_fault(q, VHK_RING_TRANSLATION);
                return -EPIPE;
        }
        set_hold(q, VHK_HOLD_STALLED, true);
        q->ops->miss(q->owner, q, q->miss_iova, q->miss_perm);
        return -EAGAIN;
}

void vhk_queue_break(struct vhk_queue *q, enum vhk_ring_rule rule) {
        vhk_queue_fault(q, rule);
}

VHK_API void vhk_queue_set_holes(struct vhk_queue *q, int wanted) {
        q->holes = wanted;
}

VHK_API void vhk_queue_refuse_hole(struct vhk_queue *q) {
        vhk_queue_fault(q, VHK_RING_HOLE);
}

bool vhk_queue_is_broken(const struct vhk_queue *q) {
        return q->hold & VHK_HOLD_BROKEN;
}

/* ---- what home tells itself ---- */

/* Behind a SIGBUS the record is a page of zeroes that nobody else sees. */
static bool record_is_bad(struct vhk_queue *q) {
        uint32_t now = vhk_sigbus_count();

        if (vhk_likely(now == q->inflight_bad_seen) || !q->config->inflight_mapping)
                return false;
        q->inflight_bad_seen = now;
        return vhk_mapping_is_bad(q->config->inflight_mapping);
}

void vhk_queue_after_flush(struct vhk_queue *q, uint16_t old) {
        if (q->after & VHK_AFTER_TRACKED) {
                q->after &= (uint8_t)~VHK_AFTER_TRACKED;
                vhk_inflight_published(q->inflight, q->used_published);
                if (record_is_bad(q))
                        vhk_queue_fault(q, VHK_RING_MEMORY);
        }
        if (q->after & VHK_AFTER_LOG)
                vhk_queue_log_used(q, old);     /* first: a stop that is told below has all its marks */
        if (q->after & (VHK_AFTER_QUIESCED | VHK_AFTER_DRAINED))
                vhk_queue_check_settled(q);
}

void vhk_queue_check_settled(struct vhk_queue *q) {
        if (q->used_idx != q->used_published)
                return;                 /* the flush comes */
        if (keeps_old_areas(q) && !q->in_flight)
                point_at_areas(q, q->config);   /* nothing is left to be published there */

        unsigned done = 0;
        if (q->after & VHK_AFTER_QUIESCED && vhk_queue_is_quiesced(q))
                done |= VHK_AFTER_QUIESCED;
        if (q->after & VHK_AFTER_DRAINED && vhk_queue_is_drained(q))
                done |= VHK_AFTER_DRAINED;
        q->after &= (uint8_t)~done;
        q->tell_settled |= done != 0;
        if (vhk_queue_is_recovering(q) && !q->in_flight && q->declined_at != vhk_queue_get_position(q))
                q->tell_run = true;     /* a device that waited for something of its own can take more now */
        if (q->tell_settled || q->tell_run)
                vhk_worker_post(q->home, &q->events);
}

static void events(struct vhk_post *p) {
        struct vhk_queue *q = vhk_container_of(p, struct vhk_queue, events);

        if (q->dying) {
                free_storage(q);
                free(q);
                return;
        }
        bool run = q->tell_run;
        q->tell_run = false;
        if (run && vhk_queue_is_recovering(q))
                run_recovered(q);
        else if (run && !vhk_queue_get_hold(q))
                q->ops->run(q->owner, q);
        if (!q->tell_settled)
                return;
        q->tell_settled = false;
        q->ops->settled(q->owner, q);           /* last: it may end the queue */
}

VHK_API void vhk_queue_resume(struct vhk_queue *q) {
        q->tell_run = true;
        vhk_worker_post(q->home, &q->events);
}

/* ---- completions from other threads ---- */

/*
 * A list, newest first, that any thread may grow and home takes as a whole. Who makes it not empty posts to home, and only
 * that post empties it: so a request cannot be pushed, and its queue cannot go away, before its completer has posted.
 */
VHK_API void vhk_req_complete(struct vhk_req *r, uint32_t len) {
        struct vhk_queue *q = (struct vhk_queue *)r->internal[VHK_REQ_QUEUE];
        struct vhk_req *first = vhk_load_relaxed(&q->completed);

        r->flags = len > r->in_len;
        if (!r->flags)
                r->in_len = len;        /* the slot is ours until home has it: no room is needed for another length */
        do
                r->internal[VHK_REQ_NEXT] = (uintptr_t)first;
        while (!__atomic_compare_exchange_n(&q->completed, &first, r, true,
                                            __ATOMIC_RELEASE,           /* pairs with home's exchange: it sees the request's data */
                                            __ATOMIC_RELAXED));
        if (!first)
                vhk_worker_post(q->home, &q->completions);
}

static void completions(struct vhk_post *p) {
        struct vhk_queue *q = vhk_container_of(p, struct vhk_queue, completions);
        struct vhk_req *newest = __atomic_exchange_n(&q->completed, NULL, __ATOMIC_ACQUIRE), *oldest = NULL;

        while (newest) {                        /* turn it around: completions are pushed in their order */
                struct vhk_req *next = (struct vhk_req *)newest->internal[VHK_REQ_NEXT];
                newest->internal[VHK_REQ_NEXT] = (uintptr_t)oldest;
                oldest = newest;
                newest = next;
        }
        for (struct vhk_req *r = oldest, *next; r; r = next) {
                next = (struct vhk_req *)r->internal[VHK_REQ_NEXT];
                if (r->flags)
                        vhk_count(&q->n_device_bugs, 1);
                r->flags = 0;
                vhk_queue_push(q, r, r->in_len);
        }
        vhk_queue_flush(q);
        if (!vhk_queue_get_hold(q))
                q->ops->run(q->owner, q);
}

/* ---- small things ---- */

VHK_API unsigned vhk_queue_n_in_flight(const struct vhk_queue *q) { return q->in_flight; }
VHK_API unsigned vhk_queue_get_index(const struct vhk_queue *q) { return q->index; }
VHK_API unsigned vhk_queue_get_size(const struct vhk_queue *q) { return q->mask + 1u; }
unsigned vhk_queue_n_recovered(const struct vhk_queue *q) {
        return q->hold & VHK_HOLD_TRACKED ? q->inflight->n_recovered - (unsigned)q->inflight->at : 0;
}
uint16_t vhk_queue_get_next(const struct vhk_queue *q) { return q->last_avail; }
uint16_t vhk_queue_get_position(const struct vhk_queue *q) {
        return (uint16_t)(q->last_avail - vhk_queue_n_recovered(q));
}
VHK_API void *vhk_queue_get_priv(const struct vhk_queue *q) { return q->priv; }
VHK_API void vhk_queue_set_priv(struct vhk_queue *q, void *priv) { q->priv = priv; }

void vhk_queue_get_metrics(const struct vhk_queue *q, struct vhk_queue_metrics *ret_m) {
        *ret_m = (struct vhk_queue_metrics){
                .requests = vhk_load_relaxed(&q->n_requests),
                .notifications = vhk_load_relaxed(&q->n_notifications),
                .flushes = vhk_load_relaxed(&q->n_flushes),
                .faults = vhk_load_relaxed(&q->n_faults),
                .device_bugs = vhk_load_relaxed(&q->n_device_bugs),
        };
}
