/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A ring whose addresses are translated: misses of buffers, tables and areas; permissions; invalidations under load. */
#include "ring/test-ring.h"

#include "ring/queue.h"

#define IOVA UINT64_C(0xffff000000)             /* of guest address 0; areas and buffers at the same offsets */
#define DATA UINT64_C(0x20000)
#define PAGE UINT64_C(4096)
#define AREAS free_gpa(16)

struct stall {
        struct rig g;                   /* g.mem is guest memory; g.config unused */
        struct vhk_memmap *t;           /* translations */
        struct vhk_fdref *call;
        uint64_t miss_iova;
        unsigned miss_perm, n_misses;
};

static void on_miss(void *owner, struct vhk_queue *q, uint64_t iova, unsigned perm) {
        struct stall *s = owner;
        s->miss_iova = iova;
        s->miss_perm = perm;
        s->n_misses++;
}

static const struct vhk_queue_owner_ops ops = { .broken = rig_broken, .settled = rig_settled, .run = rig_run, .miss = on_miss };

static struct vhk_ring_config *config_now(struct stall *s) {
        struct vhk_ring_config v = {
                .mem = s->t, .num = 16, .enabled = true, .event_idx = true, .indirect = true, .call = s->call,
                .desc = vhk_iotlb_host(s->t, IOVA, 256, VHK_IOTLB_R),
                .avail = vhk_iotlb_host(s->t, IOVA + avail_gpa(16), vhk_avail_bytes(16), VHK_IOTLB_R),
                .used = vhk_iotlb_host(s->t, IOVA + used_gpa(16), vhk_used_bytes(16), VHK_IOTLB_RW),
        }, *c;

        if (!v.desc || !v.avail || !v.used) {
                v.stalled = true;
                v.desc = NULL;
                v.avail = NULL;
                v.used = NULL;
        }
        CHECK_OK(vhk_ring_config_new(&v, &c));
        return c;
}

static int adopt(struct stall *s) {
        struct vhk_ring_config *c = config_now(s);
        int k = vhk_queue_adopt(s->g.q, c);
        vhk_ring_config_unref(c);
        return k;
}

static void know(struct stall *s, uint64_t off, uint64_t len, uint64_t to, unsigned perm) {
        CHECK_OK(vhk_iotlb_update(&s->t, IOVA + off, len, UVA + to, false, perm, NULL));
}

static void forget(struct stall *s, uint64_t off, uint64_t len) {
        CHECK_OK(vhk_iotlb_invalidate(&s->t, len ? IOVA + off : 0, len));
}

static void stall_open(struct stall *s, bool with_areas) {
        *s = (struct stall){ .g.num = 16 };
        s->g.mem = make_memory(three_regions, 3, NULL);
        s->g.call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        CHECK_OK(vhk_fdref_new(dup(s->g.call), &s->call));
        CHECK_OK(vhk_worker_new(NULL, NULL, &s->g.home));
        CHECK_OK(vhk_iotlb_new(s->g.mem, &s->t));
        rig_points(&s->g);
        if (with_areas)
                know(s, 0, AREAS, 0, VHK_IOTLB_RW);
        CHECK_OK(vhk_queue_new(3, 16, 0, s->g.home, &ops, &s->g, &s->g.q));
        struct vhk_ring_config *c = config_now(s);
        CHECK_EQ(c->stalled, !with_areas);
        CHECK_OK(vhk_queue_start(s->g.q, c, 0, -1));
        vhk_ring_config_unref(c);
}

static void stall_close(struct stall *s) {
        vhk_queue_stop(s->g.q);
        vhk_queue_free(s->g.q);
        vhk_worker_free(s->g.home);
        vhk_memmap_unref(s->t);
        vhk_memmap_unref(s->g.mem);
        vhk_fdref_unref(s->call);
        close(s->g.call);
}

static int pop(struct stall *s, struct vhk_req **r) {
        return vhk_queue_pop(s->g.q, r, 4);
}

static void finish(struct stall *s, struct vhk_req *r) {
        vhk_queue_push(s->g.q, r, 0);
        CHECK_OK(vhk_queue_flush(s->g.q));
}

TEST(a_buffer_is_missing) {
        struct vhk_req *r[4];
        struct stall s;

        stall_open(&s, true);
        know(&s, DATA, PAGE, DATA, VHK_IOTLB_RW);
        CHECK_EQ(adopt(&s), 0);
        offer_one(&s.g, 0, IOVA + DATA, 512, 0);
        offer_one(&s.g, 1, IOVA + DATA + PAGE - 512, 1024, VHK_DESC_WRITE);
        CHECK_EQ(pop(&s, r), 1);                        /* what comes before is given */
        CHECK(r[0]->out[0].iov_base == at(&s.g, DATA));
        CHECK_EQ(s.n_misses, 1);
        CHECK_EQ(s.miss_iova, IOVA + DATA + PAGE);
        CHECK_EQ(s.miss_perm, VHK_IOTLB_W);
        CHECK_EQ(pop(&s, r), -EAGAIN);
        CHECK_EQ(s.n_misses, 1);                        /* told once */
        CHECK(!vhk_queue_has_work(s.g.q) && !vhk_queue_arm(s.g.q));
        finish(&s, r[0]);                               /* others go on */
        CHECK_EQ(used_idx(&s.g), 1);

        CHECK_EQ(adopt(&s), 0);                         /* the same translations: nothing new */
        CHECK_EQ(pop(&s, r), -EAGAIN);
        CHECK_EQ(s.n_misses, 1);
        know(&s, 0x900000, PAGE, 0, VHK_IOTLB_RW);      /* something else: it looks again, and says so again */
        CHECK_EQ(adopt(&s), 0);
        CHECK_EQ(pop(&s, r), -EAGAIN);
        CHECK_EQ(s.n_misses, 2);
        know(&s, DATA + PAGE, PAGE, 4 << 20, VHK_IOTLB_RW);
        CHECK_EQ(adopt(&s), 0);
        CHECK(vhk_queue_has_work(s.g.q));
        CHECK_EQ(pop(&s, r), 1);
        CHECK_EQ(r[0]->n_in, 2);
        CHECK(r[0]->in[0].iov_base == at(&s.g, DATA + PAGE - 512) && r[0]->in[1].iov_base == at(&s.g, 4 << 20));
        finish(&s, r[0]);
        CHECK_EQ(s.g.n_broken, 0);
        stall_close(&s);
}

/* A read-only translation is never written through, whichever way the first access went. */
TEST(permissions) {
        static const struct { unsigned perm; uint16_t flags; bool first_ok, second_ok; } cases[] = {
                { VHK_IOTLB_R, 0, true, false }, { VHK_IOTLB_W, 0, false, true }, { VHK_IOTLB_RW, 0, true, true },
        };

        for (unsigned i = 0; i < VHK_N(cases); i++) {
                struct vhk_req *r[4];
                struct stall s;
                stall_open(&s, true);
                know(&s, DATA, PAGE, DATA, cases[i].perm);
                CHECK_EQ(adopt(&s), 0);
                set_desc(&s.g.desc[0], IOVA + DATA, 16, 0, 0);
                set_desc(&s.g.desc[1], IOVA + DATA, 16, VHK_DESC_WRITE, 0);
                offer(&s.g, cases[i].first_ok ? 0 : 1);
                offer(&s.g, cases[i].first_ok ? 1 : 0);
                publish(&s.g);
                bool both = cases[i].first_ok && cases[i].second_ok;
                CHECK_EQ(pop(&s, r), both ? 2 : 1);
                if (!both) {
                        CHECK_EQ(s.miss_perm, cases[i].first_ok ? VHK_IOTLB_W : VHK_IOTLB_R);
                        CHECK_EQ(s.miss_iova, IOVA + DATA);
                        CHECK_EQ(pop(&s, r + 1), -EAGAIN);
                        know(&s, DATA, PAGE, DATA, VHK_IOTLB_RW);
                        CHECK_EQ(adopt(&s), 0);
                        CHECK_EQ(pop(&s, r + 1), 1);
                }
                finish(&s, r[0]);
                finish(&s, r[1]);
                stall_close(&s);
        }
}

TEST(an_indirect_table_is_missing) {
        struct vhk_req *r[4];
        struct stall s;

        stall_open(&s, true);
        for (unsigned perm = VHK_IOTLB_R; perm <= VHK_IOTLB_RW; perm += 2) {
                forget(&s, DATA, 2 * PAGE);
                know(&s, DATA, PAGE, DATA, perm);
                CHECK_OK(adopt(&s));
                struct vhk_desc *table = at(&s.g, DATA + PAGE - 16);   /* crosses into the missing page */
                set_desc(&table[0], IOVA + DATA, 8, VHK_DESC_NEXT, 1);
                set_desc(&table[1], IOVA + DATA + 64, 8, VHK_DESC_NEXT, 2);
                set_desc(&table[2], IOVA + 64, 8, VHK_DESC_WRITE, 0);
                unsigned before = s.n_misses;
                offer_one(&s.g, 0, IOVA + DATA + PAGE - 16, 48, VHK_DESC_INDIRECT);
                CHECK_EQ(pop(&s, r), -EAGAIN);
                CHECK_EQ(s.n_misses, before + 1);
                CHECK_EQ(s.miss_iova, IOVA + DATA + PAGE);
                CHECK_EQ(s.miss_perm, VHK_IOTLB_R);
                know(&s, DATA + PAGE, PAGE, DATA + PAGE, perm);
                CHECK_EQ(adopt(&s), 0);
                CHECK_EQ(pop(&s, r), 1);
                CHECK(r[0]->n_out == 2 && r[0]->n_in == 1);
                CHECK(r[0]->out[1].iov_base == at(&s.g, DATA + 64));
                finish(&s, r[0]);
        }
        offer_one(&s.g, 0, UINT64_MAX - 15, 32, VHK_DESC_INDIRECT);     /* no miss: nothing can be there */
        CHECK_EQ(pop(&s, r), -EPIPE);
        CHECK_EQ(s.g.rule, VHK_RING_INDIRECT_HOLE);
        stall_close(&s);
}

TEST(a_buffer_that_wraps_is_no_miss) {
        struct vhk_req *r[4];
        struct stall s;

        stall_open(&s, true);
        offer_one(&s.g, 0, UINT64_MAX - 15, 32, 0);
        CHECK_EQ(pop(&s, r), -EPIPE);
        CHECK_EQ(s.g.rule, VHK_RING_HOLE);
        CHECK_EQ(s.n_misses, 0);
        stall_close(&s);
}

/* The block of a long chain comes back when the chain has to wait. */
TEST(blocks_come_back) {
        struct vhk_req *r[4];
        struct stall s;

        stall_open(&s, true);
        know(&s, DATA, PAGE, DATA, VHK_IOTLB_RW);
        CHECK_EQ(adopt(&s), 0);
        for (uint16_t i = 0; i < 12; i++)
                set_desc(&s.g.desc[i], IOVA + DATA + 64u * i + (i == 11 ? PAGE : 0), 8, i < 11 ? VHK_DESC_NEXT : 0, i + 1);
        offer(&s.g, 0);
        publish(&s.g);
        for (unsigned i = 0; i < 100; i++) {
                CHECK_EQ(pop(&s, r), -EAGAIN);
                know(&s, 0x900000, PAGE, i % 2 * PAGE, VHK_IOTLB_RW);
                CHECK_EQ(adopt(&s), 0);
        }
        know(&s, DATA + PAGE, PAGE, DATA + PAGE, VHK_IOTLB_RW);
        CHECK_EQ(adopt(&s), 0);
        CHECK_EQ(pop(&s, r), 1);
        CHECK_EQ(r[0]->n_out, 12);
        finish(&s, r[0]);
        stall_close(&s);
}

/* A chain that never gets all of its translations at the same time ends in a fault. */
TEST(misses_without_end) {
        struct vhk_req *r[4];
        struct stall s;
        unsigned n = 0;

        stall_open(&s, true);
        offer_one(&s.g, 0, IOVA + DATA, 8, 0);
        while (pop(&s, r) == -EAGAIN) {
                know(&s, 0x900000, PAGE, ++n % 2 * PAGE, VHK_IOTLB_RW);
                CHECK_EQ(adopt(&s), 0);
                CHECK(n <= VHK_QUEUE_MISSES);
        }
        CHECK_EQ(n, VHK_QUEUE_MISSES);
        CHECK_EQ(s.g.rule, VHK_RING_TRANSLATION);
        CHECK_EQ(s.g.n_broken, 1);
        stall_close(&s);
}

TEST(areas_come_later) {
        struct vhk_req *r[4];
        struct stall s;

        stall_open(&s, false);
        s.g.used->idx = vhk_le16_of(0);
        offer_one(&s.g, 0, IOVA + DATA, 8, VHK_DESC_WRITE);
        CHECK_EQ(pop(&s, r), -EAGAIN);
        CHECK(!vhk_queue_arm(s.g.q));
        vhk_queue_disarm(s.g.q);
        CHECK_OK(vhk_queue_flush(s.g.q));
        know(&s, 0, AREAS, 0, VHK_IOTLB_R);             /* not enough for the used ring */
        CHECK_EQ(adopt(&s), 0);
        CHECK_EQ(pop(&s, r), -EAGAIN);
        know(&s, 0, AREAS, 0, VHK_IOTLB_RW);
        know(&s, DATA, PAGE, DATA, VHK_IOTLB_W);
        s.g.used->idx = vhk_le16_of(0);
        CHECK_EQ(adopt(&s), 0);
        CHECK_EQ(pop(&s, r), 1);
        finish(&s, r[0]);
        CHECK_EQ(used_idx(&s.g), 1);
        CHECK_EQ(s.g.n_broken, 0);
        stall_close(&s);
}

/* Three requests on three pages, and translations that nobody uses. */
static void three_requests(struct stall *s, struct vhk_req **r) {
        stall_open(s, true);
        know(s, DATA, 8 * PAGE, DATA, VHK_IOTLB_RW);
        CHECK_EQ(adopt(s), 0);
        for (unsigned i = 0; i < 3; i++)
                offer_one(&s->g, (uint16_t)i, IOVA + DATA + i * PAGE, 64, VHK_DESC_WRITE);
        CHECK_EQ(pop(s, r), 3);
}

TEST(an_invalidation_waits_only_for_requests_that_touch_it) {
        struct vhk_req *r[4], *more[4];
        struct stall s;

        three_requests(&s, r);
        forget(&s, DATA + 5 * PAGE, PAGE);
        CHECK_EQ(adopt(&s), 0);                         /* nobody's */
        forget(&s, DATA + PAGE, PAGE);
        CHECK_EQ(adopt(&s), 1);
        offer_one(&s.g, 3, IOVA + DATA, 64, VHK_DESC_WRITE);
        CHECK_EQ(pop(&s, more), 1);
        finish(&s, r[0]);
        finish(&s, more[0]);
        CHECK(!vhk_queue_is_quiesced(s.g.q));
        finish(&s, r[1]);
        CHECK(vhk_queue_is_quiesced(s.g.q));
        vhk_worker_dispatch(s.g.home, 0);
        CHECK_EQ(s.g.n_settled, 1);
        CHECK_EQ(vhk_queue_n_in_flight(s.g.q), 1);
        finish(&s, r[2]);
        stall_close(&s);
}

TEST(invalidations_that_are_adopted_together_wait_for_all_that_touch_them) {
        struct vhk_req *r[4];
        struct stall s;

        three_requests(&s, r);
        forget(&s, DATA + 2 * PAGE, PAGE);
        know(&s, DATA + 2 * PAGE, PAGE, DATA, VHK_IOTLB_RW);    /* and is known again, elsewhere */
        forget(&s, DATA, PAGE);
        CHECK_EQ(adopt(&s), 1);
        finish(&s, r[1]);
        finish(&s, r[0]);
        CHECK(!vhk_queue_is_quiesced(s.g.q));
        finish(&s, r[2]);
        CHECK(vhk_queue_is_quiesced(s.g.q));
        stall_close(&s);
}

TEST(more_invalidations_than_are_remembered_wait_for_everything) {
        struct vhk_req *r[4];
        struct stall s;

        three_requests(&s, r);
        for (unsigned i = 0; i < VHK_IOTLB_GONE + 1; i++) {
                know(&s, DATA + 5 * PAGE, PAGE, DATA + 5 * PAGE, VHK_IOTLB_RW);
                forget(&s, DATA + 5 * PAGE, PAGE);
        }
        CHECK_EQ(adopt(&s), 1);
        for (unsigned i = 0; i < 3; i++) {
                CHECK(!vhk_queue_is_quiesced(s.g.q));
                finish(&s, r[i]);
        }
        CHECK(vhk_queue_is_quiesced(s.g.q));
        stall_close(&s);
}

/* What was replaced may be in use, and no invalidation names it: the next one waits for
 * everything. */
TEST(an_invalidation_waits_for_what_was_replaced_before_it) {
        struct vhk_req *r[4];
        struct stall s;

        three_requests(&s, r);
        know(&s, DATA + PAGE, PAGE, DATA + PAGE, VHK_IOTLB_RW);         /* the same once more is nothing new */
        forget(&s, DATA + 5 * PAGE, PAGE);
        CHECK_EQ(adopt(&s), 0);
        know(&s, DATA + PAGE, PAGE, DATA + 7 * PAGE, VHK_IOTLB_RW);
        CHECK_EQ(adopt(&s), 0);
        forget(&s, DATA + PAGE, PAGE);
        CHECK_EQ(adopt(&s), 1);
        finish(&s, r[1]);
        finish(&s, r[0]);
        CHECK(!vhk_queue_is_quiesced(s.g.q));
        finish(&s, r[2]);
        CHECK(vhk_queue_is_quiesced(s.g.q));
        stall_close(&s);
}

/* Everything is invalidated while requests are in flight: they are published where the areas were, and only then is it
 * settled; behind that the old place is not touched any more. */
TEST(areas_go_and_come) {
        struct vhk_req *r[4], *more[4];
        struct stall s;

        stall_open(&s, true);
        know(&s, DATA, PAGE, DATA, VHK_IOTLB_RW);
        CHECK_EQ(adopt(&s), 0);
        offer_one(&s.g, 0, IOVA + DATA, 8, VHK_DESC_WRITE);
        offer_one(&s.g, 1, IOVA + DATA, 8, VHK_DESC_WRITE);
        CHECK_EQ(pop(&s, r), 2);
        forget(&s, 0, 0);
        CHECK_EQ(adopt(&s), 1);
        offer_one(&s.g, 2, IOVA + DATA, 8, VHK_DESC_WRITE);
        CHECK_EQ(pop(&s, more), -EAGAIN);
        finish(&s, r[1]);
        vhk_worker_dispatch(s.g.home, 0);
        CHECK_EQ(s.g.n_settled, 0);
        vhk_queue_push(s.g.q, r[0], 8);
        CHECK_EQ(used_idx(&s.g), 1);
        CHECK_OK(vhk_queue_flush(s.g.q));
        CHECK_EQ(used_idx(&s.g), 2);
        vhk_worker_dispatch(s.g.home, 0);
        CHECK_EQ(s.g.n_settled, 1);
        CHECK(!s.g.q->used && !s.g.q->desc && !s.g.q->avail);
        vhk_queue_disarm(s.g.q);
        CHECK(!vhk_queue_arm(s.g.q));

        memcpy(at(&s.g, 0x40000), s.g.desc, AREAS);     /* the driver moves house */
        know(&s, 0, AREAS, 0x40000, VHK_IOTLB_RW);
        know(&s, DATA, PAGE, DATA, VHK_IOTLB_RW);
        memset(s.g.desc, 0xff, AREAS);
        CHECK_EQ(adopt(&s), 0);
        CHECK_EQ(pop(&s, more), 1);
        CHECK_EQ(more[0]->head, 2);
        finish(&s, more[0]);
        const struct vhk_used *used = at(&s.g, 0x40000 + used_gpa(16));
        CHECK_EQ(vhk_le16_get(used->idx), 3);
        CHECK_EQ(vhk_le32_get(used->ring[2].id), 2);
        CHECK_EQ(s.g.n_broken, 0);
        stall_close(&s);
}

/* unpop may end the last request of the time before, with others pushed and not yet flushed. */
TEST(areas_go_with_a_request_given_back) {
        struct vhk_req *r[4];
        struct stall s;

        stall_open(&s, true);
        know(&s, DATA, PAGE, DATA, VHK_IOTLB_RW);
        CHECK_EQ(adopt(&s), 0);
        offer_one(&s.g, 0, IOVA + DATA, 8, 0);
        offer_one(&s.g, 1, IOVA + DATA, 8, 0);
        CHECK_EQ(pop(&s, r), 2);
        forget(&s, 0, 0);
        CHECK_EQ(adopt(&s), 1);
        vhk_queue_push(s.g.q, r[0], 0);
        vhk_queue_unpop(s.g.q, 1);
        vhk_worker_dispatch(s.g.home, 0);
        CHECK_EQ(s.g.n_settled, 0);                     /* nobody has seen the first one yet */
        CHECK_OK(vhk_queue_flush(s.g.q));
        CHECK_EQ(used_idx(&s.g), 1);
        vhk_worker_dispatch(s.g.home, 0);
        CHECK_EQ(s.g.n_settled, 1);
        stall_close(&s);
}

/* Updates alone never make requests wait for each other, however many there are. */
TEST(updates_are_of_one_time) {
        struct vhk_req *r[16];
        struct stall s;

        stall_open(&s, true);
        for (uint16_t i = 0; i < 16; i++) {
                know(&s, DATA + i * 2 * PAGE, PAGE, DATA, VHK_IOTLB_RW);
                CHECK_EQ(adopt(&s), 0);
                offer_one(&s.g, i, IOVA + DATA + i * 2 * PAGE, 8, VHK_DESC_WRITE);
                CHECK_EQ(pop(&s, &r[i]), 1);
        }
        forget(&s, DATA, PAGE);
        CHECK_EQ(adopt(&s), 1);
        for (unsigned i = 0; i < 16; i++) {
                *(volatile char *)r[i]->in[0].iov_base = 1;
                CHECK_EQ(s.g.n_settled, 0);
                finish(&s, r[i]);
                vhk_worker_dispatch(s.g.home, 0);
        }
        CHECK_EQ(s.g.n_settled, 1);
        stall_close(&s);
}

TEST(the_owner_gives_up) {
        struct vhk_req *r[4];
        struct stall s;

        stall_open(&s, false);
        vhk_queue_break(s.g.q, VHK_RING_TRANSLATION);
        CHECK_EQ(pop(&s, r), -EPIPE);
        CHECK_EQ(s.g.rule, VHK_RING_TRANSLATION);
        vhk_queue_break(s.g.q, VHK_RING_MEMORY);        /* once */
        CHECK_EQ(s.g.n_broken, 1);
        vhk_queue_stop(s.g.q);
        stall_close(&s);
}
