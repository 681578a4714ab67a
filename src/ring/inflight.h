/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The in-flight record of a ring (vhost-user, "Inflight I/O tracking"): memory that the front-end keeps, in which the
 * device side notes what it has taken, so that a successor can finish the work of one that was killed.
 *
 * The order of the stores is the whole point. A process may die between any two of them, and whatever has been stored by then
 * stays; each is a release store, so that the compiler and weaker machines keep the order as well:
 *
 *   request taken       counter, then inflight = 1; only then does the device see it
 *   request answered    next = last_batch_head, then last_batch_head = its head
 *   flush               the ring's used index, then inflight = 0 for each of the batch, then used_idx
 *
 * If used_idx differs from the ring's index, death came in the middle of a flush: so many entries from last_batch_head on have
 * been answered. What is in flight after they are struck out is done again, in order of counter; and the driver's next
 * request is the one at used index + number in flight, for requests are taken in the order of the available ring.
 *
 * Everything in the record may have been written by anybody: values are copied, ranges checked, walks bounded by the
 * ring's size. All on the ring's home.
 */
#pragma once

#include "base/base.h"

#define VHK_INFLIGHT_VERSION 1u

struct vhk_inflight_split_entry {
        uint8_t inflight, padding[5];
        uint16_t next;
        uint64_t counter;
};
struct vhk_inflight_split {
        uint64_t features;
        uint16_t version, n_entries, last_batch_head, used_idx;
        struct vhk_inflight_split_entry entries[];
};
static_assert(sizeof(struct vhk_inflight_split_entry) == 16 && offsetof(struct vhk_inflight_split_entry, next) == 6, "DescStateSplit");
static_assert(offsetof(struct vhk_inflight_split, n_entries) == 10 && offsetof(struct vhk_inflight_split, used_idx) == 14 &&
              offsetof(struct vhk_inflight_split, entries) == 16, "QueueRegionSplit");

/* Bytes of one ring's record; the rings' records follow each other. */
static inline uint64_t vhk_inflight_split_bytes(unsigned num) {
        return (16ull * num + 16 + 63) & ~63ull;
}

/* How many requests @record has in flight now, of the first @num. Any thread; who knows what it will be next. */
unsigned vhk_inflight_count(const void *record, uint16_t num);

/* A ring's record in use. */
struct vhk_inflight {
        struct vhk_inflight_split *record;      /* the peer's memory */
        uint64_t counter;               /* of the next request */
        uint16_t num;                   /* entries of the ring, at most those of the record */
        uint16_t batch_head;            /* what last_batch_head was set to: the record is not believed */
        uint16_t n_batch;               /* answered, not yet published */
        uint16_t n_recovered, at;       /* to be done again; popped of them */
        uint16_t first;                 /* available index of the first request behind them */
        uint64_t n_ring;                /* popped behind them, from the available ring */
        uint16_t *batch, *recovered;    /* heads; @num each */
};

/* Room for rings of @num entries. -ENOMEM */
int vhk_inflight_new(uint16_t num, struct vhk_inflight **ret_i);
struct vhk_inflight *vhk_inflight_free(struct vhk_inflight *i);

/* Begins to use @record, which is for @n_entries, while the ring's used index is @used. 0: it is new, nothing was in flight;
 * 1: recovered, i->recovered says what is to be done again; -EPROTO: it is no record of such a ring */
int vhk_inflight_open(struct vhk_inflight *i, void *record, uint16_t n_entries, uint16_t used);

/* ---- per request; heads are below @num ---- */
void vhk_inflight_take(struct vhk_inflight *i, uint16_t head);          /* before the device sees it */
void vhk_inflight_untake(struct vhk_inflight *i, uint16_t head);        /* given back to the available ring */
void vhk_inflight_answer(struct vhk_inflight *i, uint16_t head);        /* pushed; the used element is written */
void vhk_inflight_published(struct vhk_inflight *i, uint16_t used);     /* the ring's index, just stored */
void vhk_inflight_drop_batch(struct vhk_inflight *i);                   /* what was pushed is never published */

/* A test that dies after every single store is compiled with this; otherwise nothing is left of it. */
#ifdef VHK_INFLIGHT_STORE_HOOK
void vhk_inflight_stored(void);
#else
static inline void vhk_inflight_stored(void) {}
#endif
