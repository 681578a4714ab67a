/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * For the tests of this room: guest memory of memfds, a ring in it written by hand, and the queue that serves it.
 * Region i of a layout holds what the test puts there; the ring's areas lie at the start of region 0.
 */
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/test.h"
#include "ring/ring.h"

#define UVA UINT64_C(0x7f0000000000)    /* user address of guest address 0 */

struct area { uint64_t gpa, len; };

static const struct area one_region[] = { { 0, 2 << 20 } };
/* 0-1 M | 1-2 M adjacent | hole | 4-5 M */
static const struct area three_regions[] = { { 0, 1 << 20 }, { 1 << 20, 1 << 20 }, { 4 << 20, 1 << 20 } };

struct rig {
        struct vhk_memmap *mem;
        struct vhk_worker *home;
        struct vhk_queue *q;
        struct vhk_ring_config *config;
        uint16_t num, avail_idx;
        struct vhk_desc *desc;
        struct vhk_avail *avail;
        struct vhk_used *used;
        int call;
        enum vhk_ring_rule rule;        /* of ops->broken */
        unsigned n_broken, n_settled, n_run;
        void (*on_run)(struct rig *g);
};

static void rig_broken(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule) {
        struct rig *g = owner;
        g->n_broken++;
        g->rule = rule;
}

static void rig_settled(void *owner, struct vhk_queue *q) {
        ((struct rig *)owner)->n_settled++;
}

static void rig_run(void *owner, struct vhk_queue *q) {
        struct rig *g = owner;
        g->n_run++;
        if (g->on_run)
                g->on_run(g);
}

static const struct vhk_queue_owner_ops rig_ops = { rig_broken, rig_settled, rig_run };

static inline struct vhk_memmap *make_memory(const struct area *a, unsigned n, int *fds) {
        struct vhk_memmap *m, *next;
        void *guards[8];

        CHECK(n <= VHK_N(guards));
        CHECK_OK(vhk_memmap_new(&m));
        for (unsigned i = 0; i < n; i++) {
                /* regions that are neighbours in the guest are none here, wherever the kernel likes to put them */
                guards[i] = mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                int fd = fds && fds[i] >= 0 ? fds[i] : memfd_create("test-ring", MFD_CLOEXEC);
                struct vhk_region_desc d = { .gpa = { a[i].gpa }, .uva = { UVA + a[i].gpa }, .len = a[i].len, .fd = fd };
                CHECK(fd >= 0 && !ftruncate(fd, (off_t)a[i].len));
                CHECK_OK(vhk_memmap_add(m, &d, &next, NULL));
                if (fds)
                        fds[i] = fd;
                else
                        close(fd);
                vhk_memmap_unref(m);
                m = next;
        }
        for (unsigned i = 0; i < n; i++)
                munmap(guards[i], 65536);
        return m;
}

/* Host address of guest memory. */
static inline void *at(const struct rig *g, uint64_t gpa) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(g->mem, gpa);
        CHECK(r);
        return r->host + (gpa - r->gpa);
}

struct rig_options {
        uint16_t num;
        bool event_idx, indirect, disabled, discard;
        const struct area *areas;
        unsigned n_areas;
        uint16_t avail;                 /* start here */
        int used;
        uint32_t req_size;
};

static inline uint64_t avail_gpa(unsigned num) { return 16ull * num; }
static inline uint64_t used_gpa(unsigned num) { return (avail_gpa(num) + 8 + 2ull * num + 63) & ~63ull; }
static inline uint64_t free_gpa(unsigned num) { return (used_gpa(num) + 8 + 8ull * num + 4095) & ~4095ull; }   /* behind the areas */

static inline struct vhk_ring_config *make_config(const struct vhk_memmap *m, const struct rig_options *o, struct vhk_fdref *call) {
        char *base = (char *)vhk_memmap_find_gpa(m, 0)->host;
        struct vhk_ring_config values = {
                .mem = (struct vhk_memmap *)m, .num = o->num, .enabled = !o->disabled, .discard = o->discard,
                .event_idx = o->event_idx, .indirect = o->indirect, .call = call,
                .desc = (void *)base, .avail = (void *)(base + avail_gpa(o->num)), .used = (void *)(base + used_gpa(o->num)),
        }, *c;

        CHECK_OK(vhk_ring_config_new(&values, &c));
        return c;
}

static inline void rig_points(struct rig *g) {
        g->desc = at(g, 0);
        g->avail = at(g, avail_gpa(g->num));
        g->used = at(g, used_gpa(g->num));
}

static inline void rig_open(struct rig *g, const struct rig_options *o) {
        struct vhk_fdref *call;

        *g = (struct rig){ .num = o->num, .avail_idx = o->avail };
        g->mem = o->areas ? make_memory(o->areas, o->n_areas, NULL) : make_memory(one_region, 1, NULL);
        g->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        CHECK_OK(vhk_fdref_new(dup(g->call), &call));
        CHECK_OK(vhk_worker_new(NULL, NULL, &g->home));
        CHECK_OK(vhk_queue_new(3, o->num, o->req_size, g->home, &rig_ops, g, &g->q));
        g->config = make_config(g->mem, o, call);
        vhk_fdref_unref(call);
        rig_points(g);
        g->avail->idx = vhk_le16_of(o->avail);
        CHECK_OK(vhk_queue_start(g->q, g->config, o->avail, o->used));
        CHECK_EQ(vhk_drain_fd(g->call), 1);                     /* a ring that starts signals once */
}

static inline void rig_close(struct rig *g) {
        if (g->q)
                vhk_queue_stop(g->q);
        vhk_queue_free(g->q);
        vhk_ring_config_unref(g->config);
        vhk_worker_free(g->home);
        vhk_memmap_unref(g->mem);
        close(g->call);
}

/* ---- the driver's hand ---- */

static inline void set_desc(struct vhk_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next) {
        *d = (struct vhk_desc){ vhk_le64_of(addr), vhk_le32_of(len), vhk_le16_of(flags), vhk_le16_of(next) };
}

static inline void offer(struct rig *g, uint16_t head) {
        g->avail->ring[g->avail_idx++ & (g->num - 1)] = vhk_le16_of(head);
}

static inline void publish(struct rig *g) {
        vhk_store_release(&g->avail->idx.v, vhk_le16_of(g->avail_idx).v);
}

/* One descriptor, offered and published. */
static inline void offer_one(struct rig *g, uint16_t head, uint64_t addr, uint32_t len, uint16_t flags) {
        set_desc(&g->desc[head], addr, len, flags, 0);
        offer(g, head);
        publish(g);
}

static inline vhk_le16 *used_event(struct rig *g) { return &g->avail->ring[g->num]; }
static inline vhk_le16 *avail_event_of(struct rig *g) { return (vhk_le16 *)&g->used->ring[g->num]; }
static inline uint16_t used_idx(const struct rig *g) { return vhk_le16_get((vhk_le16){ vhk_load_acquire(&g->used->idx.v) }); }

static inline struct vhk_req *pop_one(struct rig *g) {
        struct vhk_req *r = NULL;
        CHECK_EQ(vhk_queue_pop(g->q, &r, 1), 1);
        return r;
}

/* xorshift: the same numbers in every run. */
static inline uint32_t random_next(uint64_t *s) {
        *s ^= *s << 13;
        *s ^= *s >> 7;
        *s ^= *s << 17;
        return (uint32_t)(*s >> 32);
}
