/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The device side of a split virtqueue (virtio 1.3, 2.7): what happens per request. On the queue's home; no allocation,
 * no lock, no system call but a notification that is due.
 *
 * The ring is hostile: it changes while we look. Each shared field is loaded once into a local, by one load, and checked
 * there. A walk ends: a buffer takes an iovec and iovecs end, a zero-length one takes none and is counted.
 *
 * pop() makes two passes over a burst: the heads are copied first (into q->popped, where unpop finds them) while their
 * descriptors are prefetched; so the lines that are dirty in the driver's cache travel side by side.
 */
#include "base/fd.h"
#include "ring/queue.h"

/* A descriptor as loaded: the address, and length, flags and next in one word. */
struct desc { uint64_t addr, word; };

static inline struct desc desc_load(const struct vhk_desc *d) {
        const uint64_t *p = (const uint64_t *)d;
        return (struct desc){
                vhk_le64_get((vhk_le64){ vhk_load_relaxed(&p[0]) }),
                vhk_le64_get((vhk_le64){ vhk_load_relaxed(&p[1]) }),
        };
}

static inline uint32_t desc_len(struct desc d) { return (uint32_t)d.word; }
static inline uint32_t desc_flags(struct desc d) { return (uint32_t)(d.word >> 32); }  /* NEXT's number in the upper half */
static inline uint32_t desc_next(struct desc d) { return (uint32_t)(d.word >> 48); }

static inline uint16_t load_idx(const vhk_le16 *p) { return vhk_le16_get((vhk_le16){ vhk_load_relaxed(&p->v) }); }

/* A walk's result besides enum vhk_ring_rule */
#define WALK_MISS (-1)                  /* q->miss_iova, q->miss_perm */

struct walk {
        struct iovec *base, *end;       /* the slot's own iovecs, or the block of its head, which takes their place */
        struct iovec *iov;              /* the next free one, while it is not in walk_chain's register */
        const struct vhk_desc *table;
        uint32_t n_table;
        struct {
                uint16_t n_empty, n_crossings;
                uint16_t grown;         /* 1: into the block */
                uint8_t in_table;       /* 1: an indirect one */
                uint8_t hole;           /* 1: a buffer outside of shared memory */
        };
};

/* The slot's own iovecs are full: the chain goes on in the block of its head. */
static int walk_grow(struct vhk_queue *q, struct walk *w) {
        size_t n = (size_t)(w->iov - w->base);

        if (w->grown)
                return n - w->n_crossings >= w->n_table ? VHK_RING_LOOP : VHK_RING_TOO_LONG;
        struct iovec *block = q->blocks + (size_t)vhk_container_of(w->base, struct vhk_slot, iov)->req.head * VHK_BLOCK_IOVECS;

        memcpy(block, w->base, n * sizeof(*block));
        w->grown = 1;
        w->base = block;
        w->iov = block + n;
        w->end = block + VHK_BLOCK_IOVECS;
        return 0;
}

static int find_iov(struct vhk_queue *q, struct walk *w, uint64_t addr, uint32_t len, uint32_t direction) {
        unsigned room = (unsigned)(w->end - w->iov), perm = direction ? VHK_IOTLB_W : VHK_IOTLB_R;

        if (!q->mem->guest)
                return vhk_memmap_iov(q->mem, &q->cache, addr, len, w->iov, room);
        q->miss_perm = (uint8_t)perm;
        return vhk_iotlb_iov(q->mem, addr, len, perm, w->iov, room, &q->miss_iova);
}

/* A buffer that is not simply a piece of one region: empty, in several, in none, or one that finds no room; and of translations
 * all those that do not allow everything. */
static __attribute__((noinline)) int walk_add(struct vhk_queue *q, struct walk *w, uint64_t addr, uint32_t len, uint32_t direction) {
        if (!len)
                return w->n_empty++ < w->n_table ? 0 : VHK_RING_LOOP;

        for (;;) {
                int n = find_iov(q, w, addr, len, direction);
                if (n == -EAGAIN)
                        return WALK_MISS;
                if (n > 0) {
                        w->iov += n;
                        w->n_crossings += (uint16_t)(n - 1);
                        return 0;
                }
                if (n != -ENOSPC && !q->holes)
                        return VHK_RING_HOLE;
                if (n != -ENOSPC && w->iov < w->end) {
                        *w->iov++ = (struct iovec){ NULL, len };
                        w->hole = 1;
                        return 0;
                }
                int r = walk_grow(q, w);
                if (r)
                        return r;
        }
}

/* A table is copied when it does not lie in one region, or where a descriptor would not be loaded by aligned loads (no rule
 * aligns tables). The copy is what is read. */
static VHK_COLD const struct vhk_desc *table_copy(struct vhk_queue *q, uint64_t addr, uint32_t len) {
        uint8_t *to = (uint8_t *)q->scratch;
        uint64_t end;

        if (vhk_add_overflows(addr, (uint64_t)len, &end))
                return NULL;
        while (addr < end) {
                const struct vhk_memreg *r = vhk_memmap_find_gpa(q->mem, addr);
                if (q->mem->guest && !(r && (r->perm & VHK_IOTLB_R))) {
                        q->miss_iova = addr;
                        q->miss_perm = VHK_IOTLB_R;
                        return NULL;
                }
                if (!r)
                        return NULL;
                uint64_t n = VHK_MIN(r->len - (addr - r->gpa), end - addr);
                for (const uint8_t *from = r->host + (addr - r->gpa), *stop = from + n; from < stop;)
                        *to++ = vhk_load_relaxed(from++);
                addr += n;
        }
        return q->scratch;
}

static inline bool in_region(const struct vhk_mem_cache *c, uint64_t addr, uint64_t len) {
        uint64_t off = addr - c->gpa;
        /* an empty buffer wraps around in the second comparison, and is out of the ordinary too */
        return off < c->len && len - 1 < c->len - off;
}

/* Makes the region of @addr the cached one, if there is one; of translations only one that allows everything. */
static VHK_HOT __attribute__((noinline)) void turn_to(struct vhk_queue *q, struct vhk_mem_cache *c, uint64_t addr) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(q->mem, addr);
        if (r && (!q->mem->guest || r->perm == VHK_IOTLB_RW))
                *c = (struct vhk_mem_cache){ .gpa = r->gpa, .len = r->len, .host = r->host };
}

static VHK_COLD int refuse_table(struct vhk_queue *q, const struct walk *w, uint32_t flags) {
        if (flags & ~(VHK_DESC_NEXT | VHK_DESC_WRITE | VHK_DESC_INDIRECT))
                return VHK_RING_FLAGS;
        if (w->in_table)
                return VHK_RING_INDIRECT_NESTED;
        return q->indirect ? VHK_RING_INDIRECT_NEXT : VHK_RING_INDIRECT;
}

/* @d refers to an indirect table: the walk goes on there (2.7.5.3). WRITE is ignored, as a device must. */
static VHK_HOT __attribute__((noinline)) int walk_enter(struct vhk_queue *q, struct walk *w, struct desc d) {
        uint32_t flags = desc_flags(d) & 0xffff, len = desc_len(d);

        if (vhk_unlikely((flags & ~VHK_DESC_WRITE) != VHK_DESC_INDIRECT || w->in_table || !q->indirect))
                return refuse_table(q, w, flags);
        if (vhk_unlikely(!len || len % sizeof(struct vhk_desc) || len > VHK_QUEUE_MAX_INDIRECT * sizeof(struct vhk_desc)))
                return VHK_RING_INDIRECT_LENGTH;

        if (vhk_unlikely(!in_region(&q->table_cache, d.addr, len)))
                turn_to(q, &q->table_cache, d.addr);
        const void *table = NULL;
        if (vhk_likely(in_region(&q->table_cache, d.addr, len)))
                table = q->table_cache.host + (d.addr - q->table_cache.gpa);
        else if (q->mem->guest)
                table = vhk_iotlb_host(q->mem, d.addr, len, VHK_IOTLB_R);
        q->miss_perm = 0;
        if (vhk_unlikely(!table || (uintptr_t)table % sizeof(uint64_t)))
                table = table_copy(q, d.addr, len);
        if (vhk_unlikely(!table))
                return q->miss_perm ? WALK_MISS : VHK_RING_INDIRECT_HOLE;
        w->table = table;
        w->n_table = len / sizeof(struct vhk_desc);
        w->in_table = 1;
        return 0;
}

/* Copies the chain that begins with descriptor @head into the request; 0, or why not. */
static inline __attribute__((always_inline)) int walk_chain(struct vhk_queue *q, struct vhk_req *req, uint32_t head) {
        struct iovec *iov = ((struct vhk_slot *)req)->iov;
        struct walk w;
        struct desc d = desc_load(q->desc + head);
        uint64_t sum = 0;
        uint32_t direction = 0;
        int r;

        w.base = iov;
        w.end = iov + VHK_SLOT_IOVECS;
        w.table = q->desc;
        w.n_table = q->mask + 1u;
        w.n_empty = w.n_crossings = w.grown = w.in_table = w.hole = 0;
        for (;;) {
                if (vhk_unlikely(desc_flags(d) & 0xffff & ~(VHK_DESC_NEXT | VHK_DESC_WRITE))) {
                        r = walk_enter(q, &w, d);
                        if (vhk_unlikely(r))
                                break;
                        d = desc_load(w.table);
                        continue;
                }
                if ((desc_flags(d) & VHK_DESC_WRITE) != direction) {
                        r = VHK_RING_ORDER;
                        if (vhk_unlikely(direction))
                                break;
                        direction = VHK_DESC_WRITE;
                        req->n_out = (uint16_t)(iov - w.base);
                        req->out_len = (uint32_t)sum;
                }
                uint64_t len = desc_len(d);
                if (vhk_unlikely(!in_region(&q->cache, d.addr, len)))
                        turn_to(q, &q->cache, d.addr);
                if (vhk_likely(in_region(&q->cache, d.addr, len) && iov != w.end)) {
                        *iov++ = (struct iovec){ q->cache.host + (d.addr - q->cache.gpa), len };
                } else {
                        w.iov = iov;
                        r = walk_add(q, &w, d.addr, (uint32_t)len, direction);
                        if (vhk_unlikely(r))
                                break;
                        iov = w.iov;
                }
                sum += len;
                if (!(desc_flags(d) & VHK_DESC_NEXT)) {
                        r = sum > UINT32_MAX ? VHK_RING_LENGTH : 0;
                        break;
                }
                r = VHK_RING_NEXT;
                if (vhk_unlikely(desc_next(d) >= w.n_table))
                        break;
                d = desc_load(w.table + desc_next(d));
        }
        if (vhk_unlikely(r))
                return r;
        if (!direction) {
                req->n_out = (uint16_t)(iov - w.base);
                req->out_len = (uint32_t)sum;
        }
        req->out = w.base;
        req->in = w.base + req->n_out;
        req->n_in = (uint16_t)(iov - req->in);
        req->in_len = (uint32_t)sum - req->out_len;
        req->internal[VHK_REQ_META] = q->meta;
        if (vhk_unlikely(w.hole)) {
                req->internal[VHK_REQ_META] |= VHK_META_HOLE;
                req->flags = VHK_REQ_HOLE;
        }
        return 0;
}

/* How many can be popped; -EPIPE if the index is impossible. */
static inline int pending(struct vhk_queue *q) {
        /* acquire: the entries and descriptors below the index are read after it; pairs with the driver's release */
        uint16_t idx = vhk_le16_get((vhk_le16){ vhk_load_acquire(&q->avail->idx.v) });
        uint16_t n = idx - q->last_avail, seen = q->avail_seen - q->last_avail;

        /* those in flight have a descriptor each that is not free; and their places in q->popped are not overwritten */
        if (vhk_unlikely((uint32_t)n + q->in_flight > q->mask + 1u || n < seen)) {
                vhk_queue_fault(q, VHK_RING_AVAIL_JUMP);
                return -EPIPE;
        }
        q->avail_seen = idx;
        return n;
}

/* Copies the heads of a burst and asks for their descriptors. */
static inline void copy_heads(struct vhk_queue *q, unsigned n) {
        uint32_t mask = q->mask, at = q->last_avail;

        for (unsigned i = 0; i < n; i++, at++) {
                uint16_t head = load_idx(&q->avail->ring[at & mask]);
                q->popped[at & mask] = head;
                __builtin_prefetch(q->desc + (head & mask));
        }
}

/* The burst ends at a chain that cannot be taken: the ring waits for a translation, or is BROKEN. Those before it are good. */
static VHK_COLD int pop_ends(struct vhk_queue *q, int why, int done) {
        int k = -EPIPE;

        if (why == WALK_MISS)
                k = vhk_queue_stall(q);
        else
                vhk_queue_fault(q, (enum vhk_ring_rule)why);    /* completed in vain */
        return done ? done : k;
}

/* Requests that the in-flight record has from the time before: their heads are known, their chains are walked as ever. */
static VHK_COLD int pop_recovered(struct vhk_queue *q, struct vhk_req **ret_reqs, unsigned n) {
        struct vhk_inflight *f = q->inflight;
        unsigned done = 0;

        for (; done < n && f->at < f->n_recovered; done++, f->at++) {
                uint32_t head = f->recovered[f->at];
                struct vhk_req *req = &vhk_queue_slot(q, head)->req;
                int r = req->internal[VHK_REQ_META] ? VHK_RING_HEAD_TWICE : walk_chain(q, req, head);
                if (r)
                        return pop_ends(q, r, (int)done);
                ret_reqs[done] = req;
                q->in_flight++;
        }
        if (q->drains_recovered && f->at == f->n_recovered) {
                q->tell_settled = true;         /* the owner may go on with its stop */
                vhk_worker_post(q->home, &q->events);
        }
        return (int)done;
}

/* A pop that is out of the ordinary: something holds it, or it goes into the record. */
static VHK_COLD int pop_odd(struct vhk_queue *q, struct vhk_req **ret_reqs, unsigned n) {
        unsigned reasons = vhk_queue_get_hold(q);
        struct vhk_inflight *f = q->inflight;

        if (reasons & VHK_HOLD_BROKEN)
                return -EPIPE;
        if (reasons)
                return reasons & VHK_HOLD_STALLED ? -EAGAIN : 0;
        if (f->at < f->n_recovered)     /* the others come with the next call */
                return pop_recovered(q, ret_reqs, n);
        q->hold = 0;
        int k = vhk_queue_pop(q, ret_reqs, n);
        q->hold |= VHK_HOLD_TRACKED;
        for (int i = 0; i < k; i++)
                vhk_inflight_take(f, ret_reqs[i]->head);
        f->n_ring += (uint64_t)VHK_MAX(k, 0);
        return k;
}

VHK_API VHK_HOT int vhk_queue_pop(struct vhk_queue *q, struct vhk_req **ret_reqs, unsigned n) {
        if (vhk_unlikely(q->hold))
                return pop_odd(q, ret_reqs, n);

        int n_pending = pending(q), r = 0;
        if (n_pending <= 0)
                return n_pending;
        n = VHK_MIN(n, (unsigned)n_pending);
        copy_heads(q, n);

        uint16_t at = q->last_avail, end = (uint16_t)(at + n);
        for (; at != end; at++) {
                uint32_t head = q->popped[at & q->mask];
                r = VHK_RING_HEAD;
                if (vhk_unlikely(head > q->mask))
                        break;
                struct vhk_req *req = &vhk_queue_slot(q, head)->req;
                r = VHK_RING_HEAD_TWICE;
                if (vhk_unlikely(req->internal[VHK_REQ_META]))
                        break;
                r = walk_chain(q, req, head);
                if (vhk_unlikely(r))
                        break;
                *ret_reqs++ = req;
        }
        uint16_t done = at - q->last_avail;
        q->last_avail = at;
        q->in_flight += done;
        if (vhk_unlikely(at != end))
                return pop_ends(q, r, done);
        return done;
}

/* The newest that was popped, as pop_recovered() or pop() would give it again; ring: it was one of the ring's own. */
static uint16_t newest(const struct vhk_queue *q, bool *ret_ring) {
        const struct vhk_inflight *f = q->hold & VHK_HOLD_TRACKED ? q->inflight : NULL;

        *ret_ring = !f || !f->at || f->n_ring;
        return *ret_ring ? q->popped[(uint16_t)(q->last_avail - 1) & q->mask] : f->recovered[f->at - 1];
}

VHK_API void vhk_queue_unpop(struct vhk_queue *q, unsigned n) {
        while (n--) {
                bool ring;
                uint16_t head = newest(q, &ring);
                struct vhk_slot *slot = vhk_queue_slot(q, head & q->mask);
                uintptr_t meta = slot->req.internal[VHK_REQ_META];

                if (!q->in_flight || !meta) {
                        vhk_count(&q->n_device_bugs, 1);        /* pushed already */
                        return;
                }
                slot->req.internal[VHK_REQ_META] = 0;
                slot->req.flags = 0;
                q->in_flight--;
                if (ring)
                        q->last_avail--;
                else
                        q->inflight->at--;
                if (ring && (q->hold & VHK_HOLD_TRACKED)) {
                        q->inflight->n_ring--;
                        vhk_inflight_untake(q->inflight, slot->req.head);
                }
                vhk_queue_put_meta(q, meta);
        }
        if (q->after & (VHK_AFTER_QUIESCED | VHK_AFTER_DRAINED))        /* it may have been the last */
                vhk_queue_check_settled(q);
}

/* The seldom cases of a push: true if the request is to be published. */
static VHK_COLD bool push_odd(struct vhk_queue *q, struct vhk_req *r, uintptr_t meta) {
        if (!meta) {
                vhk_count(&q->n_device_bugs, 1);                /* pushed twice */
                return false;
        }
        if (q->config && q->config->log_data)
                vhk_queue_log_request(q, r, meta);
        r->flags = 0;
        vhk_queue_put_meta(q, meta);
        if (q->hold & (VHK_HOLD_BROKEN | VHK_HOLD_STOPPED)) {
                r->internal[VHK_REQ_META] = 0;
                q->in_flight--;
                return false;
        }
        if (q->hold & VHK_HOLD_TRACKED) {
                vhk_inflight_answer(q->inflight, r->head);
                q->after |= VHK_AFTER_TRACKED;
        }
        return true;
}

VHK_API int vhk_queue_leave(struct vhk_queue *q, struct vhk_req *r) {
        uintptr_t meta = r->internal[VHK_REQ_META];

        if (!(q->hold & VHK_HOLD_TRACKED))
                return -EOPNOTSUPP;
        if (!(q->hold & VHK_HOLD_DRAINING) || !meta) {
                vhk_count(&q->n_device_bugs, 1);
                return -EINVAL;
        }
        vhk_queue_put_meta(q, meta);
        r->internal[VHK_REQ_META] = 0;
        r->flags = 0;
        q->in_flight--;
        if (q->after & (VHK_AFTER_QUIESCED | VHK_AFTER_DRAINED))
                vhk_queue_check_settled(q);
        return 0;
}

static VHK_COLD uint32_t push_too_much(struct vhk_queue *q, const struct vhk_req *r) {
        vhk_count(&q->n_device_bugs, 1);
        return r->in_len;
}

static inline __attribute__((always_inline)) void push(struct vhk_queue *q, struct vhk_req *r, uint32_t len) {
        uintptr_t meta = r->internal[VHK_REQ_META];

        if (vhk_unlikely(meta != q->ordinary) && !push_odd(q, r, meta))
                return;
        if (vhk_unlikely(len > r->in_len))
                len = push_too_much(q, r);
        r->internal[VHK_REQ_META] = 0;
        q->in_flight--;
        /* relaxed: published by the release in flush */
        uint64_t *elem = (uint64_t *)&q->used->ring[q->used_idx & q->mask];
        uint64_t word = vhk_le64_of((uint64_t)len << 32 | r->head).v;
        memcpy(elem, &word, sizeof(word));
        q->used_idx++;
}

VHK_API VHK_HOT void vhk_queue_push(struct vhk_queue *q, struct vhk_req *r, uint32_t len) {
        push(q, r, len);
}

VHK_API VHK_HOT void vhk_queue_push_batch(struct vhk_queue *q, struct vhk_req *const *r, const uint32_t *len, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                push(q, r[i], len[i]);
}

/* Does the driver want to hear of the entries [@old, @new)? (2.7.7.2) */
static inline bool wants_notification(const struct vhk_queue *q, uint16_t old, uint16_t new) {
        if (!q->event_idx)
                return !(load_idx(&q->avail->flags) & VHK_AVAIL_NO_INTERRUPT);

        uint16_t event = load_idx(&q->avail->ring[q->mask + 1u]);
        return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

VHK_API VHK_HOT int vhk_queue_flush(struct vhk_queue *q) {
        uint16_t old = q->used_published, new = q->used_idx;

        if (vhk_likely(old != new)) {
                if (vhk_unlikely(vhk_memmap_is_bad(q->mem, &q->bad_seen))) {
                        vhk_queue_fault(q, VHK_RING_MEMORY);
                } else {
                        /* release: entries and data come before the index; pairs with the driver's acquire */
                        vhk_store_release(&q->used->idx.v, vhk_le16_of(new).v);
                        vhk_inflight_stored();          /* nothing, but for the test that dies here */
                        q->used_published = new;
                        /* the index is out before the driver's wish is read; pairs with the fence between the driver's
                         * writing used_event (or flags) and its second look at the index */
                        vhk_fence_seq_cst();
                        vhk_count(&q->n_requests, (uint16_t)(new - old));
                        vhk_count(&q->n_flushes, 1);
                        if (wants_notification(q, old, new)) {
                                vhk_count(&q->n_notifications, 1);
                                vhk_fdref_notify(q->call);
                        }
                }
        }
        if (vhk_unlikely(q->after))
                vhk_queue_after_flush(q, old);
        return vhk_unlikely(q->hold & VHK_HOLD_BROKEN) ? -EPIPE : 0;
}

static inline vhk_le16 *avail_event(const struct vhk_queue *q) {
        return (vhk_le16 *)&q->used->ring[q->mask + 1u];
}

static VHK_COLD bool has_work_odd(const struct vhk_queue *q) {
        return !vhk_queue_get_hold(q) && (q->inflight->at < q->inflight->n_recovered || load_idx(&q->avail->idx) != q->last_avail);
}

bool vhk_queue_has_work(const struct vhk_queue *q) {
        if (vhk_unlikely(q->hold))
                return has_work_odd(q);
        return load_idx(&q->avail->idx) != q->last_avail;
}

VHK_API int vhk_queue_arm(struct vhk_queue *q) {
        if (q->hold & (VHK_HOLD_STOPPED | VHK_HOLD_BROKEN | VHK_HOLD_STALLED))
                return 0;
        if (q->event_idx)
                vhk_store_relaxed(&avail_event(q)->v, vhk_le16_of(q->last_avail).v);
        else
                vhk_store_relaxed(&q->used->flags.v, vhk_le16_of(0).v);
        if (vhk_unlikely(q->after & VHK_AFTER_LOG))
                vhk_queue_log_wish(q);
        /* our wish is out before the second look; pairs with the driver's fence between its index and its look at our wish */
        vhk_fence_seq_cst();
        return vhk_queue_has_work(q);
}

VHK_API void vhk_queue_disarm(struct vhk_queue *q) {
        if (q->hold & (VHK_HOLD_STOPPED | VHK_HOLD_BROKEN | VHK_HOLD_STALLED))
                return;
        /* with an event index there is no "never", only one that lies just behind: the driver needs 65535 requests to get there */
        if (q->event_idx)
                vhk_store_relaxed(&avail_event(q)->v, vhk_le16_of(q->last_avail - 1).v);
        else
                vhk_store_relaxed(&q->used->flags.v, vhk_le16_of(VHK_USED_NO_NOTIFY).v);
        if (vhk_unlikely(q->after & VHK_AFTER_LOG))
                vhk_queue_log_wish(q);
}
