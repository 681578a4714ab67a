/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The device side of a split ring, against rings written by hand. */
#include "ring/test-ring.h"

#include <linux/virtio_ring.h>

#define DATA(i) (UINT64_C(0x20000) + (i) * UINT64_C(0x1000))
#define N VHK_DESC_NEXT
#define W VHK_DESC_WRITE
#define I VHK_DESC_INDIRECT

static const struct rig_options plain = { .num = 16, .used = -1 };
static const struct rig_options with_indirect = { .num = 16, .indirect = true, .used = -1 };
static const struct rig_options crossing = { .num = 16, .indirect = true, .areas = three_regions, .n_areas = 3, .used = -1 };

/* ---- layouts ---- */

TEST(layouts_are_the_kernels) {
        CHECK_EQ(sizeof(struct vhk_desc), sizeof(struct vring_desc));
        CHECK_EQ(offsetof(struct vhk_desc, next), offsetof(struct vring_desc, next));
        CHECK_EQ(offsetof(struct vhk_desc, flags), offsetof(struct vring_desc, flags));
        CHECK_EQ(offsetof(struct vhk_avail, ring), offsetof(struct vring_avail, ring));
        CHECK_EQ(offsetof(struct vhk_used, ring), offsetof(struct vring_used, ring));
        CHECK_EQ(offsetof(struct vhk_used, idx), offsetof(struct vring_used, idx));
        CHECK_EQ(sizeof(struct vhk_used_elem), sizeof(struct vring_used_elem));
        CHECK_EQ(VHK_DESC_NEXT, VRING_DESC_F_NEXT);
        CHECK_EQ(VHK_DESC_WRITE, VRING_DESC_F_WRITE);
        CHECK_EQ(VHK_DESC_INDIRECT, VRING_DESC_F_INDIRECT);
        CHECK_EQ(VHK_AVAIL_NO_INTERRUPT, VRING_AVAIL_F_NO_INTERRUPT);
        CHECK_EQ(VHK_USED_NO_NOTIFY, VRING_USED_F_NO_NOTIFY);
        CHECK_EQ(sizeof(struct vhk_req), sizeof(void *) == 8 ? 64 : sizeof(struct vhk_req));
}

/* ---- chains ---- */

TEST(a_chain_becomes_iovecs) {
        struct rig g;

        rig_open(&g, &plain);
        set_desc(&g.desc[5], DATA(0), 16, N, 9);
        set_desc(&g.desc[9], DATA(1), 100, N, 2);
        set_desc(&g.desc[2], DATA(2), 4096, N | W, 0);
        set_desc(&g.desc[0], DATA(4), 1, W, 7);
        offer(&g, 5);
        publish(&g);

        struct vhk_req *r = pop_one(&g);
        CHECK_EQ(r->head, 5);
        CHECK_EQ(r->n_out, 2);
        CHECK_EQ(r->n_in, 2);
        CHECK_EQ(r->out_len, 116);
        CHECK_EQ(r->in_len, 4097);
        CHECK_EQ(r->flags, 0);
        CHECK(r->out[0].iov_base == at(&g, DATA(0)) && r->out[0].iov_len == 16);
        CHECK(r->out[1].iov_base == at(&g, DATA(1)) && r->out[1].iov_len == 100);
        CHECK(r->in[0].iov_base == at(&g, DATA(2)) && r->in[0].iov_len == 4096);
        CHECK(r->in[1].iov_base == at(&g, DATA(4)) && r->in[1].iov_len == 1);
        CHECK_EQ((uintptr_t)r->priv % 16, 0);
        CHECK(vhk_req_get_queue(r) == g.q);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 1);
        CHECK_EQ(vhk_queue_get_index(g.q), 3);
        CHECK_EQ(vhk_queue_get_size(g.q), 16);

        vhk_queue_push(g.q, r, 4097);
        CHECK_EQ(used_idx(&g), 0);                      /* shadowed */
        CHECK_EQ(vhk_queue_flush(g.q), 0);
        CHECK_EQ(used_idx(&g), 1);
        CHECK_EQ(vhk_le32_get(g.used->ring[0].id), 5);
        CHECK_EQ(vhk_le32_get(g.used->ring[0].len), 4097);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
        CHECK_EQ(vhk_drain_fd(g.call), 1);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), 0);
        rig_close(&g);
}

TEST(priv_is_the_requests_own) {
        struct rig_options o = plain;
        struct vhk_req *r[16];
        struct rig g;

        o.req_size = 100;
        rig_open(&g, &o);
        for (unsigned i = 0; i < 16; i++)
                offer_one(&g, (uint16_t)i, DATA(i), 8, 0);
        CHECK_EQ(vhk_queue_pop(g.q, r, 32), 16);
        for (unsigned i = 0; i < 16; i++)
                memset(r[i]->priv, (int)i, 100);
        for (unsigned i = 0; i < 16; i++) {
                CHECK(((char *)r[i]->priv)[0] == (char)i && ((char *)r[i]->priv)[99] == (char)i);
                CHECK(r[i]->head == i && r[i]->out[0].iov_base == at(&g, DATA(i)));
        }
        rig_close(&g);
}

TEST(readable_only_and_writable_only) {
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 1, DATA(0), 64, 0);
        offer_one(&g, 2, DATA(1), 32, W);
        struct vhk_req *r = pop_one(&g);
        CHECK(r->n_out == 1 && r->n_in == 0 && r->out_len == 64 && r->in_len == 0);
        r = pop_one(&g);
        CHECK(r->n_out == 0 && r->n_in == 1 && r->out_len == 0 && r->in_len == 32);
        rig_close(&g);
}

TEST(empty_buffers_take_no_iovec) {
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA(0), 0, 0);                        /* nothing at all */
        set_desc(&g.desc[1], UINT64_MAX, 0, N, 2);              /* wherever it points */
        set_desc(&g.desc[2], DATA(0), 5, N, 3);
        set_desc(&g.desc[3], DATA(0), 0, N | W, 4);
        set_desc(&g.desc[4], DATA(1), 6, W, 0);
        offer(&g, 1);
        publish(&g);
        struct vhk_req *r = pop_one(&g);
        CHECK(!r->n_out && !r->n_in && !r->out_len && !r->in_len);
        vhk_queue_push(g.q, r, 0);
        r = pop_one(&g);
        CHECK(r->n_out == 1 && r->n_in == 1 && r->out_len == 5 && r->in_len == 6);
        rig_close(&g);
}

TEST(a_chain_as_long_as_the_ring) {
        struct rig g;

        for (unsigned num = 1; num <= 1024; num *= 2) {
                struct rig_options o = { .num = (uint16_t)num, .used = -1 };
                rig_open(&g, &o);
                for (unsigned i = 0; i < num; i++)
                        set_desc(&g.desc[i], free_gpa(num) + i, 1, (uint16_t)(i + 1 < num ? N : 0), (uint16_t)(i + 1));
                for (unsigned round = 0; round < 40; round++) { /* the block comes back each time */
                        offer(&g, 0);
                        publish(&g);
                        struct vhk_req *r = pop_one(&g);
                        CHECK_EQ(r->n_out, num);
                        for (unsigned i = 0; i < num; i++)
                                CHECK(r->out[i].iov_base == at(&g, free_gpa(num) + i) && r->out[i].iov_len == 1);
                        vhk_queue_push(g.q, r, 0);
                        CHECK_EQ(vhk_queue_flush(g.q), 0);
                }
                rig_close(&g);
        }
}

/* ---- indirect ---- */

static void indirect_head(struct rig *g, uint16_t head, uint64_t table, unsigned n, uint16_t flags) {
        set_desc(&g->desc[head], table, 16 * n, I | flags, 0);
        offer(g, head);
        publish(g);
}

TEST(indirect_table) {
        struct rig g;

        rig_open(&g, &with_indirect);
        struct vhk_desc *t = at(&g, 0x10000);
        set_desc(&t[0], DATA(0), 16, N, 2);
        set_desc(&t[2], DATA(1), 512, N | W, 1);
        set_desc(&t[1], DATA(2), 1, W, 0xffff);
        indirect_head(&g, 7, 0x10000, 3, 0);
        indirect_head(&g, 8, 0x10000, 3, W);                    /* WRITE is ignored */
        for (unsigned i = 0; i < 2; i++) {
                struct vhk_req *r = pop_one(&g);
                CHECK_EQ(r->head, 7 + i);
                CHECK(r->n_out == 1 && r->n_in == 2 && r->out_len == 16 && r->in_len == 513);
                CHECK(r->in[0].iov_base == at(&g, DATA(1)) && r->in[1].iov_base == at(&g, DATA(2)));
        }
        rig_close(&g);
}

TEST(chain_that_ends_in_an_indirect_table) {
        struct rig g;

        rig_open(&g, &with_indirect);
        struct vhk_desc *t = at(&g, 0x10000);
        set_desc(&g.desc[0], DATA(0), 16, N, 1);
        set_desc(&g.desc[1], 0x10000, 32, I, 0);
        set_desc(&t[0], DATA(1), 8, N, 1);
        set_desc(&t[1], DATA(2), 4, W, 0);
        offer(&g, 0);
        set_desc(&g.desc[2], DATA(0), 16, N | W, 3);            /* writable buffers, and the table goes on with them */
        set_desc(&g.desc[3], 0x10020, 16, I, 0);
        set_desc(&t[2], DATA(3), 4, W, 0);
        offer(&g, 2);
        publish(&g);
        struct vhk_req *r = pop_one(&g);
        CHECK(r->n_out == 2 && r->n_in == 1 && r->out_len == 24 && r->in_len == 4);
        r = pop_one(&g);
        CHECK(r->n_out == 0 && r->n_in == 2 && r->in_len == 20);
        rig_close(&g);
}

TEST(indirect_table_longer_than_the_ring_and_misaligned) {
        struct rig g;

        rig_open(&g, &with_indirect);
        for (unsigned shift = 0; shift < 16; shift++) {
                char *t = at(&g, 0x10000 + shift);
                for (unsigned i = 0; i < VHK_QUEUE_MAX_INDIRECT; i++) {
                        struct vhk_desc d;
                        set_desc(&d, DATA(0) + i, 1 + i % 3, (uint16_t)(i + 1 < VHK_QUEUE_MAX_INDIRECT ? N : 0), (uint16_t)(i + 1));
                        memcpy(t + 16 * i, &d, 16);
                }
                indirect_head(&g, 3, 0x10000 + shift, VHK_QUEUE_MAX_INDIRECT, 0);
                struct vhk_req *r = pop_one(&g);
                CHECK_EQ(r->n_out, VHK_QUEUE_MAX_INDIRECT);
                for (unsigned i = 0; i < VHK_QUEUE_MAX_INDIRECT; i++)
                        CHECK(r->out[i].iov_base == at(&g, DATA(0) + i) && r->out[i].iov_len == 1 + i % 3);
                vhk_queue_push(g.q, r, 0);
        }
        rig_close(&g);
}

TEST(indirect_table_across_adjacent_regions) {
        struct rig g;

        rig_open(&g, &crossing);
        for (unsigned before = 1; before < 64; before++) {      /* bytes of the table in the first region */
                struct vhk_desc d[4];
                uint64_t table = (1 << 20) - before;
                set_desc(&d[0], DATA(0), 16, N, 3);
                set_desc(&d[3], DATA(1), 17, N, 1);
                set_desc(&d[1], DATA(2), 18, N | W, 2);
                set_desc(&d[2], DATA(3), 19, W, 0);
                memcpy(at(&g, table), d, before);
                memcpy(at(&g, 1 << 20), (char *)d + before, sizeof(d) - before);
                indirect_head(&g, 1, table, 4, 0);
                struct vhk_req *r = pop_one(&g);
                CHECK(r->n_out == 2 && r->n_in == 2 && r->out_len == 33 && r->in_len == 37);
                vhk_queue_push(g.q, r, 0);
                vhk_queue_flush(g.q);
        }
        rig_close(&g);
}

/* ---- regions ---- */

TEST(buffer_across_adjacent_regions_becomes_two_iovecs) {
        struct rig g;

        rig_open(&g, &crossing);
        offer_one(&g, 0, (1 << 20) - 100, 300, W);
        struct vhk_req *r = pop_one(&g);
        CHECK(r->n_in == 2 && r->in_len == 300);
        CHECK(r->in[0].iov_base == at(&g, (1 << 20) - 100) && r->in[0].iov_len == 100);
        CHECK(r->in[1].iov_base == at(&g, 1 << 20) && r->in[1].iov_len == 200);
        offer_one(&g, 1, (5 << 20) - 8, 8, W);                  /* up to the last byte */
        r = pop_one(&g);
        CHECK(r->n_in == 1 && r->in_len == 8);
        rig_close(&g);
}

TEST(crossing_at_the_end_of_the_slots_iovecs) {
        struct rig g;

        for (unsigned n = 1; n <= 12; n++) {                    /* n crossing buffers: 2n iovecs, on both sides of eight */
                rig_open(&g, &crossing);
                for (unsigned lead = 0; lead < 2; lead++) {
                        unsigned d = 0;
                        if (lead)
                                set_desc(&g.desc[d++], DATA(0), 1, N, 1);
                        for (unsigned i = 0; i < n; i++, d++)
                                set_desc(&g.desc[d], (1 << 20) - 1, 2, (uint16_t)(i + 1 < n ? N : 0), (uint16_t)(d + 1));
                        offer(&g, 0);
                        publish(&g);
                        struct vhk_req *r = pop_one(&g);
                        CHECK_EQ(r->n_out, 2 * n + lead);
                        CHECK_EQ(r->out_len, 2 * n + lead);
                        for (unsigned i = lead; i < r->n_out; i++)
                                CHECK(r->out[i].iov_base == at(&g, (1 << 20) - 1 + (i - lead) % 2) && r->out[i].iov_len == 1);
                        vhk_queue_push(g.q, r, 0);
                }
                rig_close(&g);
        }
}

TEST(region_cache_is_not_believed_beyond_its_end) {
        struct rig g;

        rig_open(&g, &crossing);
        offer_one(&g, 0, DATA(0), 8, W);                        /* region 0 is the cached one */
        offer_one(&g, 1, 4 << 20, 8, W);
        offer_one(&g, 2, DATA(0), 8, W);
        offer_one(&g, 3, 3 << 20, 8, W);
        struct vhk_req *r;
        for (unsigned i = 0; i < 3; i++) {
                r = pop_one(&g);
                CHECK(r->in[0].iov_base == at(&g, i == 1 ? 4 << 20 : DATA(0)));
        }
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), -EPIPE);
        CHECK_STR(vhk_ring_rule_id(g.rule), "ring.hole");
        rig_close(&g);
}

/* ---- every rule ---- */

struct crime {
        const char *name, *rule;
        void (*commit)(struct rig *g);
        bool no_indirect;
};

static void jump_by(struct rig *g, unsigned n) { g->avail->idx = vhk_le16_of((uint16_t)n); }
static void head_is(struct rig *g, uint16_t head) { offer(g, head); publish(g); }
static void one(struct rig *g, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next) {
        set_desc(&g->desc[0], addr, len, flags, next);
        head_is(g, 0);
}
static struct vhk_desc *table(struct rig *g) { return at(g, 0x10000); }

static void c_jump_1(struct rig *g) { jump_by(g, 17); }
static void c_jump_2(struct rig *g) { jump_by(g, 0xffff); }
static void c_jump_3(struct rig *g) { jump_by(g, 0x8000); }
static void c_back(struct rig *g) {
        struct vhk_req *r;
        for (unsigned i = 0; i < 3; i++)
                offer_one(g, (uint16_t)i, DATA(0), 1, 0);
        CHECK_EQ(vhk_queue_pop(g->q, &r, 1), 1);        /* three were seen */
        vhk_queue_unpop(g->q, 1);
        jump_by(g, 2);
}
static void c_more_than_free(struct rig *g) {           /* found by fuzz-split: unpop gave back another request than the newest */
        struct vhk_req *r[2];
        offer_one(g, 0, DATA(0), 1, 0);
        offer_one(g, 1, DATA(0), 1, 0);
        CHECK_EQ(vhk_queue_pop(g->q, r, 2), 2);
        jump_by(g, 2 + 15);
}
static void c_head_1(struct rig *g) { head_is(g, 16); }
static void c_head_2(struct rig *g) { head_is(g, 0xffff); }
static void c_twice(struct rig *g) {
        struct vhk_req *r;
        offer_one(g, 4, DATA(0), 1, 0);
        CHECK_EQ(vhk_queue_pop(g->q, &r, 1), 1);
        head_is(g, 4);
}
static void c_next_1(struct rig *g) { one(g, DATA(0), 1, N, 16); }
static void c_next_2(struct rig *g) { one(g, DATA(0), 1, N, 0xffff); }
static void c_next_table(struct rig *g) {
        set_desc(&table(g)[0], DATA(0), 1, N, 2);
        one(g, 0x10000, 32, I, 0);
}
static void c_self_loop(struct rig *g) { one(g, DATA(0), 1, N, 0); }
static void c_two_loop(struct rig *g) {
        set_desc(&g->desc[1], DATA(0), 1, N, 0);
        one(g, DATA(0), 1, N, 1);
}
static void c_empty_loop(struct rig *g) { one(g, DATA(0), 0, N, 0); }
static void c_mixed_loop(struct rig *g) {
        set_desc(&g->desc[1], DATA(0), 0, N, 0);
        one(g, DATA(0), 1, N, 1);
}
static void c_table_loop(struct rig *g) {
        set_desc(&table(g)[0], DATA(0), 1, N, 1);
        set_desc(&table(g)[1], DATA(0), 1, N, 0);
        one(g, 0x10000, 32, I, 0);
}
static void c_empty_table_loop(struct rig *g) {
        set_desc(&table(g)[0], DATA(0), 0, N, 0);
        one(g, 0x10000, 16, I, 0);
}
static void c_too_long(struct rig *g) {                 /* 1000 entries, each across two regions */
        for (unsigned i = 0; i < 1000; i++)
                set_desc(&table(g)[i], (1 << 20) - 1, 2, (uint16_t)(i < 999 ? N : 0), (uint16_t)(i + 1));
        one(g, 0x10000, 16000, I, 0);
}
static void c_flags_1(struct rig *g) { one(g, DATA(0), 1, 8, 0); }
static void c_flags_2(struct rig *g) { one(g, DATA(0), 1, 0x8000, 0); }
static void c_flags_3(struct rig *g) { one(g, 0x10000, 16, I | 0x80, 0); }
static void c_order(struct rig *g) {
        set_desc(&g->desc[1], DATA(0), 1, 0, 0);
        one(g, DATA(0), 1, N | W, 1);
}
static void c_order_table(struct rig *g) {
        set_desc(&table(g)[0], DATA(0), 1, 0, 0);
        set_desc(&g->desc[1], 0x10000, 16, I, 0);
        one(g, DATA(0), 1, N | W, 1);
}
static void c_order_empty(struct rig *g) {
        set_desc(&g->desc[1], DATA(0), 0, 0, 0);
        one(g, DATA(0), 0, N | W, 1);
}
static void c_hole_1(struct rig *g) { one(g, 3 << 20, 1, W, 0); }
static void c_hole_2(struct rig *g) { one(g, (2 << 20) - 1, 2, W, 0); }
static void c_hole_3(struct rig *g) { one(g, UINT64_MAX, 1, W, 0); }
static void c_hole_4(struct rig *g) { one(g, UINT64_MAX - 10, 0x1000, W, 0); }
static void c_hole_5(struct rig *g) { one(g, DATA(0), UINT32_MAX, W, 0); }
static void c_hole_6(struct rig *g) { one(g, 5 << 20, 1, W, 0); }
static void c_indirect(struct rig *g) { one(g, 0x10000, 16, I, 0); }
static void c_indirect_next(struct rig *g) { one(g, 0x10000, 16, I | N, 1); }
static void c_nested(struct rig *g) {
        set_desc(&table(g)[0], 0x10000, 16, I, 0);
        one(g, 0x10000, 16, I, 0);
}
static void c_len_0(struct rig *g) { one(g, 0x10000, 0, I, 0); }
static void c_len_17(struct rig *g) { one(g, 0x10000, 17, I, 0); }
static void c_len_long(struct rig *g) { one(g, 0x10000, 16 * (VHK_QUEUE_MAX_INDIRECT + 1), I, 0); }
static void c_len_max(struct rig *g) { one(g, 0x10000, 0xfffffff0, I, 0); }
static void c_table_hole_1(struct rig *g) { one(g, 3 << 20, 16, I, 0); }
static void c_table_hole_2(struct rig *g) { one(g, (2 << 20) - 8, 16, I, 0); }
static void c_table_hole_3(struct rig *g) { one(g, UINT64_MAX - 7, 16, I, 0); }

static const struct crime crimes[] = {
        { "one more than the ring holds", "ring.avail-jump", c_jump_1 },
        { "back by one", "ring.avail-jump", c_jump_2 },
        { "half the numbers", "ring.avail-jump", c_jump_3 },
        { "back behind what was seen", "ring.avail-jump", c_back },
        { "more than there are free descriptors", "ring.avail-jump", c_more_than_free },
        { "head 16 of 16", "ring.head", c_head_1 },
        { "head 65535", "ring.head", c_head_2 },
        { "head in flight", "ring.head-twice", c_twice },
        { "next 16 of 16", "ring.next", c_next_1 },
        { "next 65535", "ring.next", c_next_2 },
        { "next 2 of 2 in a table", "ring.next", c_next_table },
        { "CVE-2019-9547: loop of one", "ring.loop", c_self_loop },
        { "loop of two", "ring.loop", c_two_loop },
        { "CVE-2016-6490: loop of an empty one", "ring.loop", c_empty_loop },
        { "loop with an empty one", "ring.loop", c_mixed_loop },
        { "loop in a table", "ring.loop", c_table_loop },
        { "loop of an empty one in a table", "ring.loop", c_empty_table_loop },
        { "more iovecs than served", "ring.too-long", c_too_long },
        { "flag 8", "ring.flags", c_flags_1 },
        { "flag 0x8000", "ring.flags", c_flags_2 },
        { "flag 0x80 with INDIRECT", "ring.flags", c_flags_3 },
        { "readable after writable", "ring.order", c_order },
        { "readable table entry after writable", "ring.order", c_order_table },
        { "empty readable after empty writable", "ring.order", c_order_empty },
        { "in a hole", "ring.hole", c_hole_1 },
        { "CVE-2018-1059: into a hole", "ring.hole", c_hole_2 },
        { "last byte of all", "ring.hole", c_hole_3 },
        { "around the end of all", "ring.hole", c_hole_4 },
        { "4 GiB - 1", "ring.hole", c_hole_5 },
        { "at the end of a region", "ring.hole", c_hole_6 },
        { "indirect, not negotiated", "ring.indirect", c_indirect, true },
        { "indirect and next", "ring.indirect-next", c_indirect_next },
        { "nested", "ring.indirect-nested", c_nested },
        { "table of 0 bytes", "ring.indirect-length", c_len_0 },
        { "table of 17 bytes", "ring.indirect-length", c_len_17 },
        { "table of 1025 entries", "ring.indirect-length", c_len_long },
        { "table of 4 GiB", "ring.indirect-length", c_len_max },
        { "table in a hole", "ring.indirect-hole", c_table_hole_1 },
        { "table into a hole", "ring.indirect-hole", c_table_hole_2 },
        { "table around the end of all", "ring.indirect-hole", c_table_hole_3 },
};

TEST(every_rule_breaks_the_ring_and_nothing_else) {
        bool seen[VHK_N_RING_RULES] = { false };

        for (unsigned i = 0; i < VHK_N(crimes); i++) {
                const struct crime *c = &crimes[i];
                struct vhk_queue_metrics m;
                struct vhk_req *r;
                struct rig_options o = crossing;
                struct rig g;

                o.indirect = !c->no_indirect;
                rig_open(&g, &o);
                c->commit(&g);
                CHECK_MSG(vhk_queue_pop(g.q, &r, 1) == -EPIPE, "%s: was served", c->name);
                CHECK_MSG(!strcmp(vhk_ring_rule_id(g.rule), c->rule), "%s: %s", c->name, vhk_ring_rule_id(g.rule));
                CHECK(strlen(vhk_ring_rule_text(g.rule)) > 10);
                CHECK(vhk_queue_is_broken(g.q));
                CHECK_EQ(vhk_queue_pop(g.q, &r, 1), -EPIPE);
                CHECK_EQ(vhk_queue_flush(g.q), -EPIPE);
                CHECK_EQ(vhk_queue_arm(g.q), 0);
                CHECK(!vhk_queue_has_work(g.q));
                CHECK_EQ(g.n_broken, 1);
                vhk_queue_get_metrics(g.q, &m);
                CHECK_EQ(m.faults, 1);
                seen[g.rule] = true;
                /* it stops, and starts again on a ring that is sound */
                vhk_queue_stop(g.q);
                g.avail->idx = vhk_le16_of(0);
                CHECK_OK(vhk_queue_start(g.q, g.config, 0, 0));
                g.avail_idx = 0;
                offer_one(&g, 0, DATA(0), 1, 0);
                r = pop_one(&g);
                vhk_queue_push(g.q, r, 0);
                CHECK_EQ(vhk_queue_flush(g.q), 0);
                rig_close(&g);
        }
        /* tests of their own */
        seen[VHK_RING_OK] = seen[VHK_RING_TRANSLATION] = seen[VHK_RING_DEVICE] = seen[VHK_RING_INFLIGHT] = seen[VHK_RING_MEMORY] = seen[VHK_RING_LENGTH] = true;
        for (unsigned i = 0; i < VHK_N_RING_RULES; i++)
                CHECK_MSG(seen[i], "no test for %s", vhk_ring_rule_id(i));
        CHECK_STR(vhk_ring_rule_id(VHK_N_RING_RULES), "ring.?");
}

TEST(four_gibibytes) {
        static const struct area big[] = { { 0, 1 << 20 }, { UINT64_C(1) << 32, UINT64_C(3) << 30 } };
        struct rig_options o = { .num = 16, .areas = big, .n_areas = 2, .used = -1 };
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &o);
        set_desc(&g.desc[0], UINT64_C(1) << 32, 0x80000000, N, 1);
        set_desc(&g.desc[1], UINT64_C(1) << 32, 0x7fffffff, W, 0);
        offer(&g, 0);
        publish(&g);
        r = pop_one(&g);
        CHECK(r->out_len == 0x80000000 && r->in_len == 0x7fffffff);
        vhk_queue_push(g.q, r, 0x7fffffff);
        set_desc(&g.desc[1], UINT64_C(1) << 32, 0x80000000, W, 0);
        offer(&g, 0);
        publish(&g);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), -EPIPE);
        CHECK_STR(vhk_ring_rule_id(g.rule), "ring.length");
        rig_close(&g);
}

TEST(those_before_the_fault_are_handed_out) {
        struct vhk_req *r[4];
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA(0), 1, W);
        offer_one(&g, 1, DATA(1), 1, W);
        offer_one(&g, 2, DATA(2), 1, 8);
        CHECK_EQ(vhk_queue_pop(g.q, r, 4), 2);
        CHECK_EQ(vhk_queue_pop(g.q, r + 2, 2), -EPIPE);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 2);
        vhk_queue_push(g.q, r[0], 1);
        vhk_queue_push(g.q, r[1], 1);
        CHECK_EQ(vhk_queue_flush(g.q), -EPIPE);
        CHECK_EQ(used_idx(&g), 0);                              /* nothing is published any more */
        CHECK_EQ(vhk_le32_get(g.used->ring[1].id), 0);
        CHECK_EQ(vhk_drain_fd(g.call), 0);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
        CHECK_EQ(vhk_queue_stop(g.q), 2);
        rig_close(&g);
}

TEST(what_was_pushed_and_not_flushed_dies_with_the_ring) {
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA(0), 1, W);
        vhk_queue_push(g.q, pop_one(&g), 1);
        offer_one(&g, 1, DATA(0), 1, 8);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), -EPIPE);
        CHECK_EQ(vhk_queue_flush(g.q), -EPIPE);
        CHECK_EQ(used_idx(&g), 0);
        rig_close(&g);
}

TEST(owner_breaks_a_ring) {
        struct rig g;

        rig_open(&g, &plain);
        vhk_queue_break(g.q, VHK_RING_DEVICE);
        vhk_queue_break(g.q, VHK_RING_DEVICE);
        CHECK(vhk_queue_is_broken(g.q) && g.n_broken == 1 && g.rule == VHK_RING_DEVICE);
        rig_close(&g);
}

/* ---- sizes, wrap, batches, unpop ---- */

TEST(sizes_that_are_refused) {
        struct rig g;
        struct vhk_ring_config values, *c;

        rig_open(&g, &plain);
        vhk_queue_stop(g.q);
        static const uint16_t bad[] = { 0, 3, 15, 17, 32, 32769 };
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                values = *g.config;
                values.num = bad[i];
                CHECK_OK(vhk_ring_config_new(&values, &c));
                CHECK_EQ(vhk_queue_start(g.q, c, 0, -1), -EINVAL);
                vhk_ring_config_unref(c);
        }
        rig_close(&g);
}

/* Every size, indices that wrap around 65535, all burst sizes up to the whole ring. */
TEST(all_sizes_wrap_around) {
        for (unsigned num = 1; num <= 32768; num *= 2) {
                struct rig_options o = { .num = (uint16_t)num, .avail = (uint16_t)(65536 - num / 2 - 1), .used = (uint16_t)(65535 - num / 4) };
                unsigned n_rounds = num > 1024 ? 4 : 20;
                struct vhk_req **r = malloc(num * sizeof(*r));
                uint16_t used = (uint16_t)o.used, published = used;
                uint64_t seed = num + 1;
                struct rig g;

                rig_open(&g, &o);
                for (unsigned i = 0; i < num; i++)
                        set_desc(&g.desc[i], free_gpa(num) + i, 1, W, 0);
                for (unsigned round = 0; round < n_rounds; round++) {
                        unsigned n = round == 0 ? num : 1 + random_next(&seed) % num;
                        uint16_t first = (uint16_t)random_next(&seed);
                        for (unsigned i = 0; i < n; i++)
                                offer(&g, (uint16_t)((first + i) & (num - 1)));
                        publish(&g);
                        CHECK(vhk_queue_has_work(g.q));
                        CHECK_EQ(vhk_queue_pop(g.q, r, num), n);
                        CHECK_EQ(vhk_queue_pop(g.q, r + n, 1), 0);
                        for (unsigned i = 0; i < n; i++) {
                                CHECK_EQ(r[i]->head, (first + i) & (num - 1));
                                vhk_queue_push(g.q, r[i], i & 1);
                        }
                        CHECK_EQ(vhk_queue_flush(g.q), 0);
                        for (unsigned i = 0; i < n; i++, used++) {
                                struct vhk_used_elem *e = &g.used->ring[used & (num - 1)];
                                CHECK(vhk_le32_get(e->id) == ((first + i) & (num - 1)) && vhk_le32_get(e->len) == (i & 1));
                        }
                        published = (uint16_t)(published + n);
                        CHECK_EQ(used_idx(&g), published);
                }
                CHECK_EQ(vhk_queue_stop(g.q), g.avail_idx);
                rig_close(&g);
                free(r);
        }
}

TEST(push_batch_and_out_of_order) {
        struct vhk_req *r[8], *back[8];
        uint32_t len[8];
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned i = 0; i < 8; i++)
                offer_one(&g, (uint16_t)i, DATA(i), 100, W);
        CHECK_EQ(vhk_queue_pop(g.q, r, 8), 8);
        for (unsigned i = 0; i < 8; i++) {
                back[i] = r[7 - i];
                len[i] = i * 10;
        }
        vhk_queue_push_batch(g.q, back, len, 8);
        CHECK_EQ(vhk_queue_flush(g.q), 0);
        for (unsigned i = 0; i < 8; i++)
                CHECK(vhk_le32_get(g.used->ring[i].id) == 7 - i && vhk_le32_get(g.used->ring[i].len) == i * 10);
        CHECK_EQ(used_idx(&g), 8);
        rig_close(&g);
}

TEST(unpop_gives_back_the_newest) {
        struct vhk_req *r[8], *again[8];
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned i = 0; i < 6; i++)
                offer_one(&g, (uint16_t)(15 - i), DATA(i), 100, W);
        CHECK_EQ(vhk_queue_pop(g.q, r, 5), 5);
        vhk_queue_unpop(g.q, 3);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 2);
        CHECK_EQ(vhk_queue_pop(g.q, again, 8), 4);
        for (unsigned i = 0; i < 3; i++)
                CHECK(again[i] == r[2 + i]);
        CHECK_EQ(again[3]->head, 10);
        vhk_queue_unpop(g.q, 6);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
        CHECK_EQ(vhk_queue_stop(g.q), 0);
        rig_close(&g);
}

TEST(unpop_across_the_wrap_and_with_blocks) {
        struct rig_options o = { .num = 16, .avail = 65534, .used = 0 };
        struct vhk_req *r[4];
        struct rig g;

        rig_open(&g, &o);
        for (unsigned i = 0; i < 12; i++)
                set_desc(&g.desc[i], DATA(0), 1, (uint16_t)(i < 11 ? N : 0), (uint16_t)(i + 1));
        for (unsigned round = 0; round < 100; round++) {        /* a block that leaked would be missed */
                if (!round) {
                        offer(&g, 0);
                        offer_one(&g, 12, DATA(0), 1, 0);
                        offer_one(&g, 13, DATA(0), 1, 0);
                }
                CHECK_EQ(vhk_queue_pop(g.q, r, 4), 3);
                CHECK_EQ(r[0]->n_out, 12);
                vhk_queue_unpop(g.q, 3);
        }
        CHECK_EQ(vhk_queue_stop(g.q), 65534);
        rig_close(&g);
}

TEST(all_requests_of_a_full_ring_may_be_long_chains) {
        struct rig_options o = { .num = 256, .indirect = true, .used = -1 };
        struct vhk_req *r[256];
        struct rig g;

        rig_open(&g, &o);
        for (unsigned round = 0; round < 3; round++) {
                for (unsigned i = 0; i < 256; i++) {
                        struct vhk_desc *t = at(&g, 0x10000 + i * 0x1000);      /* header, 126 segments, status */
                        for (unsigned k = 0; k < 128; k++)
                                set_desc(&t[k], DATA(i), k + 1, (uint16_t)((k < 127 ? N : 0) | (k ? W : 0)), (uint16_t)(k + 1));
                        indirect_head(&g, (uint16_t)i, 0x10000 + i * 0x1000, 128, 0);
                }
                CHECK_EQ(vhk_queue_pop(g.q, r, 256), 256);
                for (unsigned i = 0; i < 256; i++) {
                        CHECK(r[i]->head == i && r[i]->n_out == 1 && r[i]->n_in == 127);
                        CHECK(r[i]->in[126].iov_base == at(&g, DATA(i)) && r[i]->in[126].iov_len == 128);
                }
                for (unsigned i = 256; i-- > 0;)
                        vhk_queue_push(g.q, r[i], 0);
                CHECK_EQ(vhk_queue_flush(g.q), 0);
        }
        rig_close(&g);
}

TEST(a_hole_is_popped_only_where_the_device_wants_it) {
        struct rig_options o = { .num = 16, .used = -1 };
        struct vhk_req *r, *again;
        struct rig g;

        rig_open(&g, &o);
        vhk_queue_set_holes(g.q, true);
        for (unsigned i = 0; i < 12; i++)               /* the hole is the 11th: in a block */
                set_desc(&g.desc[i], i == 10 ? UINT64_C(1) << 40 : DATA(i), 64, (uint16_t)(i < 11 ? N : 0), (uint16_t)(i + 1));
        offer(&g, 0);
        publish(&g);
        r = pop_one(&g);
        CHECK(r->flags == VHK_REQ_HOLE && r->n_out == 12);
        CHECK(!r->out[10].iov_base && r->out[10].iov_len == 64 && r->out[11].iov_base == at(&g, DATA(11)));
        vhk_queue_unpop(g.q, 1);
        again = pop_one(&g);
        CHECK(again == r && r->flags == VHK_REQ_HOLE);
        vhk_queue_push(g.q, r, 0);
        CHECK_EQ(vhk_queue_flush(g.q), 0);
        offer_one(&g, 0, DATA(0), 64, 0);
        CHECK(pop_one(&g)->flags == 0);
        vhk_queue_set_holes(g.q, false);
        offer_one(&g, 1, UINT64_C(1) << 40, 64, 0);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), -EPIPE);
        CHECK_EQ(g.rule, VHK_RING_HOLE);
        rig_close(&g);
}

/* ---- pushing ---- */

TEST(used_len_is_what_was_written_and_never_more_than_there_was) {
        struct vhk_queue_metrics m;
        struct rig g;

        rig_open(&g, &plain);
        set_desc(&g.desc[0], DATA(0), 50, N, 1);
        set_desc(&g.desc[1], DATA(1), 20, W, 0);
        static const uint32_t len[] = { 0, 1, 19, 20, 21, UINT32_MAX };
        for (unsigned i = 0; i < VHK_N(len); i++) {
                offer(&g, 0);
                publish(&g);
                vhk_queue_push(g.q, pop_one(&g), len[i]);
                CHECK_EQ(vhk_queue_flush(g.q), 0);
                CHECK_EQ(vhk_le32_get(g.used->ring[i].len), len[i] < 20 ? len[i] : 20);
        }
        vhk_queue_get_metrics(g.q, &m);
        CHECK_EQ(m.device_bugs, 2);
        CHECK_EQ(m.requests, VHK_N(len));
        CHECK_EQ(m.flushes, VHK_N(len));
        rig_close(&g);
}

TEST(pushed_twice_is_counted_and_dropped) {
        struct vhk_queue_metrics m;
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA(0), 50, 0);
        struct vhk_req *r = pop_one(&g);
        vhk_queue_push(g.q, r, 0);
        vhk_queue_push(g.q, r, 0);
        vhk_queue_unpop(g.q, 1);
        vhk_queue_flush(g.q);
        CHECK_EQ(used_idx(&g), 1);
        vhk_queue_get_metrics(g.q, &m);
        CHECK_EQ(m.device_bugs, 2);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
        rig_close(&g);
}

TEST(read_and_write_any_shape) {
        struct rig g;
        char buf[64];

        rig_open(&g, &crossing);
        set_desc(&g.desc[0], DATA(0), 3, N, 1);
        set_desc(&g.desc[1], (1 << 20) - 2, 5, N, 2);
        set_desc(&g.desc[2], DATA(1), 1, N | W, 3);
        set_desc(&g.desc[3], (1 << 20) - 20, 24, W, 0);
        offer(&g, 0);
        publish(&g);
        memcpy(at(&g, DATA(0)), "abc", 3);
        memcpy(at(&g, (1 << 20) - 2), "de", 2);
        memcpy(at(&g, 1 << 20), "fgh", 3);
        struct vhk_req *r = pop_one(&g);
        for (unsigned off = 0; off < 12; off++)
                for (unsigned n = 0; n < 12; n++) {
                        size_t expect = off >= 8 ? 0 : n < 8 - off ? n : 8 - off;
                        memset(buf, 'x', sizeof(buf));
                        CHECK_EQ(vhk_req_read(r, off, buf, n), expect);
                        CHECK(!memcmp(buf, &"abcdefgh"[off < 8 ? off : 8], expect) && buf[expect] == 'x');
                }
        CHECK_EQ(vhk_req_write(r, 0, "0123456789abcdefghijklmnopqrstuvwxyz", 36), 25);
        CHECK_EQ(*(char *)at(&g, DATA(1)), '0');
        CHECK(!memcmp(at(&g, (1 << 20) - 20), "123456789abcdefghijk", 20) && !memcmp(at(&g, 1 << 20), "lmno", 4));
        CHECK_EQ(vhk_req_write(r, 24, "Z!", 2), 1);
        CHECK_EQ(((char *)at(&g, 1 << 20))[3], 'Z');
        CHECK_EQ(vhk_req_write(r, UINT64_MAX, "Z", 1), 0);
        rig_close(&g);
}

/* ---- notification ---- */

TEST(no_interrupt_flag) {
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned flag = 0; flag < 2; flag++) {
                g.avail->flags = vhk_le16_of((uint16_t)flag);
                offer_one(&g, 0, DATA(0), 1, 0);
                vhk_queue_push(g.q, pop_one(&g), 0);
                vhk_queue_flush(g.q);
                CHECK_EQ(vhk_drain_fd(g.call), !flag);
                vhk_queue_flush(g.q);                           /* nothing new: nothing is said */
                CHECK_EQ(vhk_drain_fd(g.call), 0);
        }
        rig_close(&g);
}

/* Brute force: does one of the entries [old, new) stand where used_event points? */
static bool oracle(uint16_t old, uint16_t new, uint16_t event) {
        for (uint16_t i = old; i != new; i++)
                if (i == event)
                        return true;
        return false;
}

static void check_event(struct rig *g, uint16_t old, uint16_t n, uint16_t event) {
        struct vhk_queue_metrics before, after;
        uint16_t new = (uint16_t)(old + n);
        struct vhk_req *r[16];

        vhk_queue_stop(g->q);
        CHECK_OK(vhk_queue_start(g->q, g->config, g->avail_idx, old));
        vhk_drain_fd(g->call);
        *used_event(g) = vhk_le16_of(event);
        g->avail->flags = vhk_le16_of(1);                       /* to be ignored */
        for (unsigned i = 0; i < n; i++)
                offer(g, (uint16_t)i);
        publish(g);
        CHECK_EQ(vhk_queue_pop(g->q, r, 16), n);
        for (unsigned i = 0; i < n; i++)
                vhk_queue_push(g->q, r[i], 0);
        vhk_queue_get_metrics(g->q, &before);
        CHECK_EQ(vhk_queue_flush(g->q), 0);
        vhk_queue_get_metrics(g->q, &after);
        bool told = vhk_drain_fd(g->call) == 1;
        CHECK_MSG(told == oracle(old, new, event), "old %u new %u event %u: %d", old, new, event, told);
        CHECK_EQ(after.notifications - before.notifications, told);
        CHECK_EQ(used_idx(g), new);
}

TEST(event_idx_against_brute_force) {
        struct rig_options o = { .num = 16, .event_idx = true, .used = -1 };
        static const uint16_t starts[] = { 0, 5, 32760, 65520, 65531, 65535 };
        struct rig g;

        rig_open(&g, &o);
        for (unsigned i = 0; i < 16; i++)
                set_desc(&g.desc[i], DATA(i), 1, 0, 0);
        for (unsigned s = 0; s < VHK_N(starts); s++)
                for (unsigned n = 1; n <= 16; n++)
                        for (int delta = -20; delta <= 20; delta++)
                                check_event(&g, starts[s], (uint16_t)n, (uint16_t)(starts[s] + delta));
        rig_close(&g);
}

TEST(arm_and_disarm_with_flags) {
        struct rig g;

        rig_open(&g, &plain);
        vhk_queue_disarm(g.q);
        CHECK_EQ(vhk_le16_get(g.used->flags), VHK_USED_NO_NOTIFY);
        CHECK_EQ(vhk_queue_arm(g.q), 0);
        CHECK_EQ(vhk_le16_get(g.used->flags), 0);
        offer_one(&g, 0, DATA(0), 1, 0);
        CHECK_EQ(vhk_queue_arm(g.q), 1);
        pop_one(&g);
        CHECK_EQ(vhk_queue_arm(g.q), 0);
        CHECK_EQ(vhk_le16_get(*avail_event_of(&g)), 0);         /* not ours without the feature */
        rig_close(&g);
}

TEST(arm_and_disarm_with_event_idx) {
        struct rig_options o = { .num = 16, .event_idx = true, .avail = 65535, .used = 0 };
        struct rig g;

        rig_open(&g, &o);
        CHECK_EQ(vhk_queue_arm(g.q), 0);
        CHECK_EQ(vhk_le16_get(*avail_event_of(&g)), 65535);
        CHECK(oracle(65535, 0, 65535));                         /* a driver that adds one tells us */
        offer_one(&g, 0, DATA(0), 1, 0);
        CHECK_EQ(vhk_queue_arm(g.q), 1);
        pop_one(&g);
        vhk_queue_disarm(g.q);
        CHECK_EQ(vhk_le16_get(g.used->flags), 0);               /* MUST be 0 */
        for (unsigned n = 1; n <= 65535; n += 4369)
                CHECK(!oracle(0, (uint16_t)n, vhk_le16_get(*avail_event_of(&g))));
        rig_close(&g);
}

/* ---- states ---- */

TEST(disabled_holds_and_discards) {
        struct rig_options o = plain;
        struct vhk_req *r;
        struct rig g;

        o.disabled = true;
        rig_open(&g, &o);
        offer_one(&g, 0, DATA(0), 1, 0);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), 0);
        CHECK_EQ(vhk_queue_arm(g.q), 0);
        CHECK(!vhk_queue_has_work(g.q));
        rig_close(&g);
        o.discard = true;
        rig_open(&g, &o);
        offer_one(&g, 0, DATA(0), 1, 0);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), 1);
        rig_close(&g);
}

TEST(drain_then_stop) {
        struct vhk_req *r[4];
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned i = 0; i < 4; i++)
                offer_one(&g, (uint16_t)i, DATA(i), 1, 0);
        CHECK_EQ(vhk_queue_pop(g.q, r, 3), 3);
        CHECK_EQ(vhk_queue_drain(g.q, true), 1);
        CHECK_EQ(vhk_queue_pop(g.q, r + 3, 1), 0);
        vhk_queue_push(g.q, r[2], 0);
        vhk_queue_push(g.q, r[0], 0);
        vhk_queue_flush(g.q);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 0);
        vhk_queue_push(g.q, r[1], 0);
        vhk_queue_flush(g.q);
        CHECK_EQ(g.n_settled, 0);                               /* never from inside of the device's call */
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        CHECK_EQ(vhk_queue_stop(g.q), 3);
        CHECK_EQ(used_idx(&g), 3);
        CHECK_EQ(vhk_queue_pop(g.q, r, 1), 0);
        CHECK_EQ(vhk_queue_flush(g.q), 0);
        /* and on from there */
        CHECK_OK(vhk_queue_start(g.q, g.config, 3, -1));
        CHECK_EQ(vhk_queue_pop(g.q, r, 4), 1);
        CHECK_EQ(r[0]->head, 3);
        vhk_queue_push(g.q, r[0], 0);
        CHECK_EQ(vhk_queue_drain(g.q, true), 0);
        CHECK_EQ(used_idx(&g), 4);                              /* what was pushed and not yet flushed */
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        rig_close(&g);
}

TEST(free_with_a_post_under_way) {
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA(0), 1, 0);
        r = pop_one(&g);
        CHECK_EQ(vhk_queue_drain(g.q, true), 1);
        vhk_queue_push(g.q, r, 0);
        vhk_queue_flush(g.q);                                   /* ops->settled is posted */
        vhk_queue_stop(g.q);
        g.q = vhk_queue_free(g.q);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 0);
        rig_close(&g);
}

TEST(device_priv_of_a_ring) {
        struct rig g;

        rig_open(&g, &plain);
        CHECK(!vhk_queue_get_priv(g.q));
        vhk_queue_set_priv(g.q, &g);
        CHECK(vhk_queue_get_priv(g.q) == &g);
        rig_close(&g);
}
