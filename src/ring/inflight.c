/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The in-flight record of a split ring: see inflight.h. On the ring's home. */
#include "ring/inflight.h"

#define STORE(p, x)                                                                             \
        do {                                                                                    \
                vhk_store_release((p), (x));    /* see inflight.h; pairs with the successor's life, after a process's end */ \
                vhk_inflight_stored();                                                          \
        } while (0)

int vhk_inflight_new(uint16_t num, struct vhk_inflight **ret_i) {
        struct vhk_inflight *i = calloc(1, sizeof(*i));

        if (!i)
                return -ENOMEM;
        i->num = num;
        i->batch = calloc(num, sizeof(*i->batch));
        i->recovered = calloc(num, sizeof(*i->recovered));
        if (!i->batch || !i->recovered) {
                vhk_inflight_free(i);
                return -ENOMEM;
        }
        *ret_i = i;
        return 0;
}

struct vhk_inflight *vhk_inflight_free(struct vhk_inflight *i) {
        if (i) {
                free(i->batch);
                free(i->recovered);
                free(i);
        }
        return NULL;
}

unsigned vhk_inflight_count(const void *record, uint16_t num) {
        const struct vhk_inflight_split *r = record;
        unsigned n = 0;

        for (unsigned i = 0; i < num; i++)
                n += vhk_load_relaxed(&r->entries[i].inflight) == 1;
        return n;
}

/* ---- recovery ---- */

static void strike_out_all(struct vhk_inflight *i) {
        for (unsigned k = 0; k < i->num; k++)
                STORE(&i->record->entries[k].inflight, 0);
}

/* The version comes last: a record that is half made is made again. */
static void initialise(struct vhk_inflight *i, uint16_t n_entries, uint16_t used) {
        struct vhk_inflight_split *r = i->record;

        strike_out_all(i);
        STORE(&r->n_entries, n_entries);
        STORE(&r->last_batch_head, 0);
        STORE(&r->used_idx, used);
        STORE(&r->version, VHK_INFLIGHT_VERSION);
}

/* Strikes out what had been published when death came. used_idx comes last: a walk that is cut short is walked again. */
static int finish_flush(struct vhk_inflight *i, uint16_t used) {
        struct vhk_inflight_split *r = i->record;
        uint16_t n = used - vhk_load_relaxed(&r->used_idx), head = vhk_load_relaxed(&r->last_batch_head);

        if (n > i->num)                 /* the ring began anew, and this record is of the time before */
                strike_out_all(i);
        else
                for (; n; n--) {
                        if (head >= i->num)
                                return -EPROTO;
                        uint16_t next = vhk_load_relaxed(&r->entries[head].next);
                        STORE(&r->entries[head].inflight, 0);
                        head = next;
                }
        STORE(&r->used_idx, used);
        return 0;
}

struct found { uint64_t counter; uint16_t head; };

/* A total order, whatever the counters are. */
static int compare(const void *a, const void *b) {
        const struct found *x = a, *y = b;

        if (x->counter != y->counter)
                return x->counter < y->counter ? -1 : 1;
        return x->head < y->head ? -1 : x->head > y->head;
}

static int collect(struct vhk_inflight *i, uint16_t used) {
        VHK_AUTOFREE struct found *found = calloc(i->num, sizeof(*found));
        unsigned n = 0;

        if (!found)
                return -ENOMEM;
        for (unsigned k = 0; k < i->num; k++)
                if (vhk_load_relaxed(&i->record->entries[k].inflight) == 1)
                        found[n++] = (struct found){ vhk_load_relaxed(&i->record->entries[k].counter), (uint16_t)k };
        qsort(found, n, sizeof(*found), compare);
        for (unsigned k = 0; k < n; k++)
                i->recovered[k] = found[k].head;
        i->n_recovered = (uint16_t)n;
        i->first = (uint16_t)(used + n);
        i->counter = n ? found[n - 1].counter + 1 : 0;
        return 1;
}

int vhk_inflight_open(struct vhk_inflight *i, void *record, uint16_t n_entries, uint16_t used) {
        struct vhk_inflight_split *r = record;
        uint16_t version = vhk_load_acquire(&r->version);       /* pairs with initialise() in the predecessor */

        i->record = r;
        i->counter = 0;
        i->n_batch = i->n_recovered = i->at = i->batch_head = 0;
        i->n_ring = 0;
        if (i->num > n_entries || version > VHK_INFLIGHT_VERSION)
                return -EPROTO;
        if (!version) {
                initialise(i, n_entries, used);
                return 0;
        }
        if (vhk_load_relaxed(&r->n_entries) != n_entries)
                return -EPROTO;
        int k = vhk_load_relaxed(&r->used_idx) == used ? 0 : finish_flush(i, used);
        if (k < 0)
                return k;
        uint16_t head = vhk_load_relaxed(&r->last_batch_head);
        i->batch_head = head < i->num ? head : 0;
        return collect(i, used);
}

/* ---- per request ---- */

void vhk_inflight_take(struct vhk_inflight *i, uint16_t head) {
        STORE(&i->record->entries[head].counter, i->counter++);
        STORE(&i->record->entries[head].inflight, 1);
}

void vhk_inflight_untake(struct vhk_inflight *i, uint16_t head) {
        STORE(&i->record->entries[head].inflight, 0);
}

void vhk_inflight_answer(struct vhk_inflight *i, uint16_t head) {
        if (i->n_batch == i->num)       /* a driver that makes heads available again before they were published */
                return;
        STORE(&i->record->entries[head].next, i->batch_head);
        STORE(&i->record->last_batch_head, head);
        i->batch_head = head;
        i->batch[i->n_batch++] = head;
}

void vhk_inflight_published(struct vhk_inflight *i, uint16_t used) {
        for (unsigned k = 0; k < i->n_batch; k++)
                STORE(&i->record->entries[i->batch[k]].inflight, 0);
        i->n_batch = 0;
        STORE(&i->record->used_idx, used);
}

void vhk_inflight_drop_batch(struct vhk_inflight *i) {
        i->n_batch = 0;
}
