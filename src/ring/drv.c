/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The driver side of a split virtqueue in memory of our own (virtio 1.3, 2.7.13 and 2.7.14). One thread at a time.
 *
 * The device is not trusted: it can write to the whole ring. So nothing is read back but the used ring and what it wishes
 * about notifications, each word once; free descriptors and what is in flight are kept in memory that the device does
 * not see.
 */
#include <vhostkit/drvq.h>

#include "ring/ring.h"

/* What belongs to a descriptor index; the chain's head holds the request. */
struct entry {
        void *cookie;
        uint32_t in_len;        /* bytes that the device may write */
        uint16_t n;             /* descriptors of the chain; 0: no request begins here */
        uint16_t last;          /* of the chain */
        uint16_t next;          /* the next free one, or of the chain */
};

struct vhk_drvring {
        struct vhk_desc *desc;
        struct vhk_avail *avail;
        struct vhk_used *used;
        struct entry *entries;
        uint16_t mask, free, n_free;
        uint16_t avail_idx, published;  /* with what was added; as the device sees it */
        uint16_t last_used;
        uint16_t in_flight;             /* added and not reaped */
        bool event_idx, strict, broken;
        uint16_t indirect_max;          /* 0: no indirect tables */
        struct vhk_desc *tables;
        uint64_t tables_gpa;
        uint64_t (*gpa)(void *arg, const void *va, uint64_t len);
        void *gpa_arg;
};

int vhk_drvring_new(const struct vhk_drvring_setup *s, struct vhk_drvring **ret_r) {
        bool tables = s->indirect && s->indirect_tables && s->indirect_max > 1;
        uint64_t gpa = 0;

        if (!vhk_is_pow2(s->num) || s->num > VHK_QUEUE_MAX_SIZE || s->indirect_max > VHK_QUEUE_MAX_INDIRECT)
                return -EINVAL;
        if (tables) {
                gpa = s->gpa(s->gpa_arg, s->indirect_tables, (uint64_t)s->num * s->indirect_max * sizeof(struct vhk_desc));
                if (gpa == UINT64_MAX)
                        return -EFAULT;
        }
        VHK_AUTOFREE struct entry *entries = calloc(s->num, sizeof(*entries));
        struct vhk_drvring *r = calloc(1, sizeof(*r));
        if (!entries || !r) {
                free(r);
                return -ENOMEM;
        }
        for (uint32_t i = 0; i < s->num; i++)
                entries[i].next = (uint16_t)((i + 1) & (s->num - 1u));
        *r = (struct vhk_drvring){
                .desc = s->desc, .avail = s->avail, .used = s->used, .entries = VHK_STEAL(entries),
                .mask = s->num - 1, .n_free = s->num, .event_idx = s->event_idx, .strict = s->strict,
                .indirect_max = tables ? s->indirect_max : 0, .tables = s->indirect_tables, .tables_gpa = gpa,
                .gpa = s->gpa, .gpa_arg = s->gpa_arg,
        };
        *ret_r = r;
        return 0;
}

struct vhk_drvring *vhk_drvring_free(struct vhk_drvring *r) {
        if (r)
                free(r->entries);
        free(r);
        return NULL;
}

/* ---- adding ---- */

static inline void write_desc(struct vhk_desc *d, uint64_t addr, uint32_t len, uint32_t flags, uint16_t next) {
        *d = (struct vhk_desc){ vhk_le64_of(addr), vhk_le32_of(len), vhk_le16_of((uint16_t)flags), vhk_le16_of(next) };
}

/* Buffers as the caller has them: to be translated (iov), or guest addresses already (gpa). One of the two is a constant NULL
 * at each use, and all of this is inlined. */
struct buffers {
        const struct iovec *iov;
        const struct vhk_drvring_buf *gpa;
};
#define INLINE static inline __attribute__((always_inline))

INLINE int get_buffer(struct vhk_drvring *r, struct buffers b, unsigned k, uint64_t *ret_gpa, uint32_t *ret_len) {
        if (b.gpa) {
                *ret_gpa = b.gpa[k].gpa;
                *ret_len = b.gpa[k].len;
                return 0;
        }
        if (b.iov[k].iov_len > UINT32_MAX)
                return -EINVAL;
        *ret_gpa = r->gpa(r->gpa_arg, b.iov[k].iov_base, b.iov[k].iov_len);
        *ret_len = (uint32_t)b.iov[k].iov_len;
        return *ret_gpa == UINT64_MAX ? -EFAULT : 0;
}

/* Writes @b into @table, the entry after i being next_of[i].next (a chain of free descriptors) or, without, i + 1. Returns the
 * index of the last. Nothing is visible or taken until the caller says so, so a failure leaves no trace. */
INLINE int write_chain(struct vhk_drvring *r, struct vhk_desc *table, uint16_t i, const struct entry *next_of,
                       struct buffers b, unsigned n_out, unsigned n, uint64_t *ret_in_len) {
        uint64_t in_len = 0, sum = 0, gpa;
        uint32_t len;

        for (unsigned k = 0;;) {
                int e = get_buffer(r, b, k, &gpa, &len);
                if (vhk_unlikely(e < 0))
                        return e;
                sum += len;
                in_len += k < n_out ? 0 : len;
                uint16_t next = next_of ? next_of[i].next : (uint16_t)(i + 1);
                write_desc(&table[i], gpa, len, (k < n_out ? 0 : VHK_DESC_WRITE) | (k + 1 < n ? VHK_DESC_NEXT : 0), next);
                if (++k == n)
                        break;
                i = next;
        }
        if (vhk_unlikely(sum > UINT32_MAX))             /* 2.7.5.2: no chain of more than 4 GiB */
                return -EINVAL;
        *ret_in_len = in_len;
        return i;
}

INLINE int add(struct vhk_drvring *r, struct buffers b, unsigned n_out, unsigned n_in, void *cookie) {
        unsigned n = n_out + n_in;
        bool indirect = n > 1 && n <= r->indirect_max;
        uint16_t n_descs = indirect ? 1 : (uint16_t)n, head = r->free;
        uint64_t in_len;
        int last;

        if (vhk_unlikely(!n || n < n_out || (!indirect && n > r->mask + 1u)))
                return -EINVAL;
        if (vhk_unlikely(n_descs > r->n_free))
                return r->broken ? -EPIPE : -EAGAIN;
        if (indirect) {
                size_t at = (size_t)head * r->indirect_max;
                last = write_chain(r, r->tables + at, 0, NULL, b, n_out, n, &in_len);
                if (vhk_unlikely(last < 0))
                        return last;
                write_desc(&r->desc[head], r->tables_gpa + at * sizeof(struct vhk_desc), n * (uint32_t)sizeof(struct vhk_desc),
                           VHK_DESC_INDIRECT, 0);
                last = head;
        } else {
                last = write_chain(r, r->desc, head, r->entries, b, n_out, n, &in_len);
                if (vhk_unlikely(last < 0))
                        return last;
        }
        struct entry *e = &r->entries[head];
        r->free = r->entries[last].next;
        r->n_free -= n_descs;
        e->cookie = cookie;
        e->in_len = (uint32_t)in_len;
        e->n = n_descs;
        e->last = (uint16_t)last;
        r->in_flight++;
        /* relaxed: published by the release in vhk_drvring_publish() */
        vhk_store_relaxed(&r->avail->ring[r->avail_idx++ & r->mask].v, vhk_le16_of(head).v);
        return 0;
}

VHK_HOT int vhk_drvring_add(struct vhk_drvring *r, const struct iovec *sg, unsigned n_out, unsigned n_in, void *cookie) {
        return add(r, (struct buffers){ .iov = sg }, n_out, n_in, cookie);
}

VHK_HOT int vhk_drvring_add_gpa(struct vhk_drvring *r, const struct vhk_drvring_buf *sg, unsigned n_out, unsigned n_in, void *cookie) {
        return add(r, (struct buffers){ .gpa = sg }, n_out, n_in, cookie);
}

static inline uint16_t load_idx(const vhk_le16 *p) { return vhk_le16_get((vhk_le16){ vhk_load_relaxed(&p->v) }); }

int vhk_drvring_publish(struct vhk_drvring *r) {
        uint16_t old = r->published, new = r->avail_idx;

        if (old == new)
                return 0;
        /* release: descriptors and entries come before the index; pairs with the device's acquire */
        vhk_store_release(&r->avail->idx.v, vhk_le16_of(new).v);
        r->published = new;
        /* the index is out before the device's wish is read; pairs with the fence in vhk_queue_arm() */
        vhk_fence_seq_cst();
        if (!r->event_idx)
                return !(load_idx(&r->used->flags) & VHK_USED_NO_NOTIFY);

        uint16_t event = load_idx((vhk_le16 *)&r->used->ring[r->mask + 1u]);
        return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* ---- reaping ---- */

/* Takes the request that begins at @id; false: there is none. */
static inline bool take(struct vhk_drvring *r, uint32_t id, uint32_t len, struct vhk_done *ret_done) {
        struct entry *e = &r->entries[id & r->mask];

        if (vhk_unlikely(id > r->mask || !e->n || (r->strict && len > e->in_len)))
                return false;
        /* a device that claims to have written more than it could has written at most all, where that is let pass */
        *ret_done = (struct vhk_done){ .cookie = e->cookie, .len = VHK_MIN(len, e->in_len) };
        r->entries[e->last].next = r->free;
        r->free = (uint16_t)id;
        r->n_free += e->n;
        r->in_flight--;
        e->n = 0;
        return true;
}

/* Nothing is added any more either. */
static VHK_COLD void set_broken(struct vhk_drvring *r) {
        r->broken = true;
        r->n_free = 0;
}

int vhk_drvring_reap(struct vhk_drvring *r, struct vhk_done *ret_done, unsigned n) {
        if (vhk_unlikely(r->broken))
                return -EPIPE;

        /* acquire: entries and data come after the index; pairs with the release in vhk_queue_flush() */
        uint16_t idx = vhk_le16_get((vhk_le16){ vhk_load_acquire(&r->used->idx.v) });
        uint16_t ready = idx - r->last_used, in_flight = r->in_flight - (uint16_t)(r->avail_idx - r->published);
        if (vhk_unlikely(ready > in_flight)) {
                set_broken(r);
                return -EPIPE;
        }
        n = VHK_MIN(n, (unsigned)ready);
        for (unsigned i = 0; i < n; i++) {
                const struct vhk_used_elem *e = &r->used->ring[r->last_used & r->mask];
                uint32_t id = vhk_le32_get((vhk_le32){ vhk_load_relaxed(&e->id.v) });
                uint32_t len = vhk_le32_get((vhk_le32){ vhk_load_relaxed(&e->len.v) });
                if (vhk_unlikely(!take(r, id, len, &ret_done[i]))) {
                        set_broken(r);
                        return i ? (int)i : -EPIPE;     /* those before it are good */
                }
                r->last_used++;
        }
        return (int)n;
}

/* ---- notification ---- */

int vhk_drvring_arm(struct vhk_drvring *r) {
        if (r->event_idx)
                vhk_store_relaxed(&r->avail->ring[r->mask + 1u].v, vhk_le16_of(r->last_used).v);
        else
                vhk_store_relaxed(&r->avail->flags.v, vhk_le16_of(0).v);
        /* our wish is out before the second look; pairs with the fence in vhk_queue_flush() */
        vhk_fence_seq_cst();
        return r->broken || load_idx(&r->used->idx) != r->last_used;
}

void vhk_drvring_disarm(struct vhk_drvring *r) {
        if (r->event_idx)       /* just behind: 65535 requests away */
                vhk_store_relaxed(&r->avail->ring[r->mask + 1u].v, vhk_le16_of(r->last_used - 1).v);
        else
                vhk_store_relaxed(&r->avail->flags.v, vhk_le16_of(VHK_AVAIL_NO_INTERRUPT).v);
}

bool vhk_drvring_is_broken(const struct vhk_drvring *r) {
        return r->broken;
}

unsigned vhk_drvring_n_in_flight(const struct vhk_drvring *r) {
        return r->in_flight;
}
