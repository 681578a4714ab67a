/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The in-flight record of a packed ring: see inflight-packed.h. On the ring's home. */
#include "ring/inflight-packed.h"
#include "ring/inflight.h"

#define STORE(p, x)                                                                             \
        do {                                                                                    \
                vhk_store_release((p), (x));    /* the order that a successor relies on */      \
                vhk_inflight_stored();                                                          \
        } while (0)

int vhk_packed_record_new(uint16_t num, struct vhk_packed_record **ret_p) {
        struct vhk_packed_record *p = calloc(1, sizeof(*p));

        if (!p)
                return -ENOMEM;
        p->num = num;
        p->links = calloc(num, sizeof(*p->links));
        p->batch = calloc(num, sizeof(*p->batch));
        p->recovered = calloc(num, sizeof(*p->recovered));
        p->found = calloc(num, sizeof(*p->found));
        if (!p->links || !p->batch || !p->recovered || !p->found) {
                vhk_packed_record_free(p);
                return -ENOMEM;
        }
        *ret_p = p;
        return 0;
}

struct vhk_packed_record *vhk_packed_record_free(struct vhk_packed_record *p) {
        if (p) {
                free(p->links);
                free(p->batch);
                free(p->recovered);
                free(p->found);
                free(p);
        }
        return NULL;
}

static void advance(const struct vhk_packed_record *p, unsigned n, uint16_t *idx, bool *wrap) {
        unsigned at = *idx + n;

        if (at >= p->num) {
                at -= p->num;
                *wrap = !*wrap;
        }
        *idx = (uint16_t)at;
}

static void store_used(struct vhk_packed_record *p, struct vhk_inflight_packed_used u) {
        uint64_t word;

        memcpy(&word, &u, sizeof(word));
        STORE((uint64_t *)&p->record->used, word);
}

static struct vhk_inflight_packed_used load_used(const struct vhk_packed_record *p) {
        uint64_t word = vhk_load_relaxed((const uint64_t *)&p->record->used);
        struct vhk_inflight_packed_used u;

        memcpy(&u, &word, sizeof(u));
        return u;
}

/* ---- recovery ---- */

/* The version comes last: a record that is half made is made again. A free list ends with a number that is no entry. */
static void initialise(struct vhk_packed_record *p, uint16_t used, bool wrap) {
        struct vhk_inflight_packed *r = p->record;

        for (unsigned k = 0; k < p->num; k++) {
                STORE(&r->entries[k].inflight, 0);
                STORE(&r->entries[k].next, (uint16_t)(k + 1));
        }
        STORE(&r->n_entries, p->num);
        STORE(&r->free_head, 0);
        STORE(&r->old_free_head, 0);
        store_used(p, (struct vhk_inflight_packed_used){ .idx = used, .old_idx = used, .wrap = wrap, .old_wrap = wrap });
        STORE(&r->version, VHK_INFLIGHT_VERSION);
}

/* Is the descriptor where the flush began no longer available? Then the driver may have seen the batch. */
static bool was_published(const struct vhk_packed_desc *ring, uint16_t old_idx, bool old_wrap) {
        uint16_t flags = vhk_le16_get((vhk_le16){ vhk_load_acquire(&ring[old_idx].flags.v) });
        unsigned available = old_wrap ? VHK_PACKED_AVAIL : VHK_PACKED_USED;

        return (flags & (VHK_PACKED_AVAIL | VHK_PACKED_USED)) != available;
}

/* The batch was not published, but its later elements may have been written: the driver must not find them when it gets there.
 * What is available there is in the record; nobody reads it from the ring again. */
static void take_back(const struct vhk_packed_record *p, struct vhk_packed_desc *ring, const struct vhk_inflight_packed_used *u) {
        uint16_t at = u->old_idx;
        bool wrap = u->old_wrap;

        for (unsigned k = 0; k < p->num && (at != u->idx || wrap != u->wrap); k++) {
                vhk_store_release(&ring[at].flags.v, vhk_le16_of(wrap ? VHK_PACKED_AVAIL : VHK_PACKED_USED).v);
                advance(p, 1, &at, &wrap);
        }
}

/* What was going on is carried through, or taken back. */
static int settle(struct vhk_packed_record *p, struct vhk_packed_desc *ring) {
        struct vhk_inflight_packed *r = p->record;
        struct vhk_inflight_packed_used u = load_used(p);

        if (u.idx >= p->num || u.old_idx >= p->num || u.wrap > 1 || u.old_wrap > 1)
                return -EPROTO;
        if ((u.idx != u.old_idx || u.wrap != u.old_wrap) && was_published(ring, u.old_idx, u.old_wrap)) {
                STORE(&r->old_free_head, vhk_load_relaxed(&r->free_head));
                u.old_idx = u.idx;
                u.old_wrap = u.wrap;
                store_used(p, u);
        } else
                take_back(p, ring, &u);
        p->used_idx = u.old_idx;
        p->used_wrap = u.old_wrap;
        p->free_head = vhk_load_relaxed(&r->old_free_head);
        STORE(&r->free_head, p->free_head);
        u.idx = u.old_idx;
        u.wrap = u.old_wrap;
        store_used(p, u);
        return 0;
}

static int compare(const void *a, const void *b) {
        const struct vhk_packed_found *x = a, *y = b;

        if (x->counter != y->counter)
                return x->counter < y->counter ? -1 : 1;
        return x->head < y->head ? -1 : x->head > y->head;
}

/* Copies one chain's links; its length, -EPROTO if it leaves the record or uses an entry that is @taken. */
static int copy_chain(struct vhk_packed_record *p, uint16_t head) {
        const struct vhk_inflight_packed_entry *e = p->record->entries;
        unsigned n = vhk_load_relaxed(&e[head].num);
        uint16_t at = head;

        if (!n || n > p->num)
                return -EPROTO;
        for (unsigned k = 0; k < n; k++) {
                if (at >= p->num || p->links[at].taken)
                        return -EPROTO;
                p->links[at].taken = true;
                p->links[head].last = at;
                p->links[at].next = vhk_load_relaxed(&e[at].next);
                at = p->links[at].next;
        }
        p->links[head].num = (uint16_t)n;
        return (int)n;
}

/* What is on the free list was answered, or taken back: struck out. */
static int strike_out_free(struct vhk_packed_record *p) {
        struct vhk_inflight_packed *r = p->record;

        for (uint16_t at = p->free_head; at < p->num; at = p->links[at].next) {
                if (p->links[at].taken)
                        return -EPROTO;
                p->links[at].taken = true;
                STORE(&r->entries[at].inflight, 0);
                p->links[at].next = vhk_load_relaxed(&r->entries[at].next);
                p->n_free++;
        }
        return 0;
}

static int collect(struct vhk_packed_record *p) {
        const struct vhk_inflight_packed_entry *e = p->record->entries;
        unsigned n = 0, n_descs = 0;

        for (unsigned i = 0; i < p->num; i++)
                p->links[i].taken = false;
        int k = strike_out_free(p);
        for (unsigned i = 0; i < p->num; i++)
                if (vhk_load_relaxed(&e[i].inflight) == 1)
                        p->found[n++] = (struct vhk_packed_found){ vhk_load_relaxed(&e[i].counter), (uint16_t)i };
        qsort(p->found, n, sizeof(*p->found), compare);
        for (unsigned i = 0; i < n && k >= 0; i++) {
                k = copy_chain(p, p->found[i].head);
                n_descs += k > 0 ? (unsigned)k : 0;
                p->recovered[i] = p->found[i].head;
        }
        if (k < 0)
                return k;
        if (p->n_free + n_descs != p->num)
                return -EPROTO;
        p->n_recovered = (uint16_t)n;
        p->counter = n ? p->found[n - 1].counter + 1 : 0;
        advance(p, n_descs, &p->avail_idx, &p->avail_wrap);
        return 1;
}

int vhk_packed_record_open(struct vhk_packed_record *p, void *record, struct vhk_packed_desc *ring, uint16_t used, bool wrap) {
        struct vhk_inflight_packed *r = record;
        uint16_t version = vhk_load_acquire(&r->version);       /* pairs with initialise() in the predecessor */
        int k;

        p->record = r;
        p->counter = 0;
        p->n_free = p->n_batch = p->n_recovered = 0;
        if (version > VHK_INFLIGHT_VERSION || used >= p->num)
                return -EPROTO;
        if (!version)
                initialise(p, used, wrap);
        else if (vhk_load_relaxed(&r->n_entries) != p->num)
                return -EPROTO;
        k = settle(p, ring);
        if (k < 0)
                return k;
        p->avail_idx = p->used_idx;
        p->avail_wrap = p->used_wrap;
        k = collect(p);
        return k < 0 ? k : version;
}

/* ---- per request ---- */

/* An entry of the chain that begins at @head gets its copy. */
static void copy(struct vhk_packed_record *p, uint16_t head, uint16_t at, const struct vhk_packed_desc *d, unsigned k, bool last) {
        struct vhk_inflight_packed *r = p->record;

        if (last) {
                STORE(&r->entries[head].last, at);
                p->links[head].last = at;
        }
        STORE(&r->entries[head].num, (uint16_t)(k + 1));
        STORE(&r->entries[at].addr, vhk_le64_get(d->addr));
        STORE(&r->entries[at].len, vhk_le32_get(d->len));
        STORE(&r->entries[at].flags, vhk_le16_get(d->flags));
        STORE(&r->entries[at].id, vhk_le16_get(d->id));
        STORE(&r->free_head, p->links[at].next);
}

int vhk_packed_record_take(struct vhk_packed_record *p, const struct vhk_packed_desc *d, unsigned n) {
        struct vhk_inflight_packed *r = p->record;
        uint16_t head = p->free_head, at = head;

        if (p->n_batch || !n)
                return -EAGAIN;
        if (n > p->n_free)
                return -ENOSPC;
        STORE(&r->entries[head].num, 0);
        STORE(&r->entries[head].counter, p->counter++);
        STORE(&r->entries[head].inflight, 1);
        for (unsigned k = 0; k < n; k++, at = p->links[at].next)
                copy(p, head, at, &d[k], k, k + 1 == n);
        p->free_head = at;
        p->links[head].num = (uint16_t)n;
        p->n_free -= (uint16_t)n;
        advance(p, n, &p->avail_idx, &p->avail_wrap);
        STORE(&r->old_free_head, at);
        return head;
}

unsigned vhk_packed_record_get(const struct vhk_packed_record *p, uint16_t head, struct vhk_packed_desc *ret_d) {
        unsigned n = p->links[head].num;

        for (uint16_t k = 0, at = head; k < n; k++, at = p->links[at].next) {
                const struct vhk_inflight_packed_entry *e = &p->record->entries[at];
                ret_d[k] = (struct vhk_packed_desc){
                        vhk_le64_of(vhk_load_relaxed(&e->addr)), vhk_le32_of(vhk_load_relaxed(&e->len)),
                        vhk_le16_of(vhk_load_relaxed(&e->id)), vhk_le16_of(vhk_load_relaxed(&e->flags)),
                };
        }
        return n;
}

void vhk_packed_record_answer(struct vhk_packed_record *p, uint16_t head) {
        uint16_t last = p->links[head].last;

        p->links[last].next = p->free_head;
        STORE(&p->record->entries[last].next, p->free_head);
        STORE(&p->record->free_head, head);
        p->free_head = head;
        p->batch[p->n_batch++] = head;
}

void vhk_packed_record_publish(struct vhk_packed_record *p) {
        uint16_t old_idx = p->used_idx;
        bool old_wrap = p->used_wrap;

        for (unsigned k = 0; k < p->n_batch; k++)
                advance(p, p->links[p->batch[k]].num, &p->used_idx, &p->used_wrap);
        store_used(p, (struct vhk_inflight_packed_used){ .idx = p->used_idx, .old_idx = old_idx, .wrap = p->used_wrap, .old_wrap = old_wrap });
}

void vhk_packed_record_published(struct vhk_packed_record *p) {
        struct vhk_inflight_packed *r = p->record;

        for (unsigned k = 0; k < p->n_batch; k++) {
                STORE(&r->entries[p->batch[k]].inflight, 0);
                p->n_free += p->links[p->batch[k]].num;
        }
        p->n_batch = 0;
        STORE(&r->old_free_head, p->free_head);
        store_used(p, (struct vhk_inflight_packed_used){ .idx = p->used_idx, .old_idx = p->used_idx, .wrap = p->used_wrap, .old_wrap = p->used_wrap });
}
