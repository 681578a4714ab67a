/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The driver side of a split ring, against a device played by hand; also one that lies. */
#include <vhostkit/drvq.h>

#include "base/test.h"
#include "ring/ring.h"

#define NUM 8u
#define GPA UINT64_C(0x40000000)
#define MEM 65536u

struct lent { char *mem; };

static uint64_t gpa_of(void *arg, const void *va, uint64_t len) {
        const struct lent *l = arg;
        uint64_t off = (uint64_t)((const char *)va - l->mem);
        return vhk_range_within(off, len, MEM) ? GPA + off : UINT64_MAX;
}

struct rig {
        struct lent lent;
        struct vhk_drvring *r;
        struct vhk_desc *desc, *tables;
        struct vhk_avail *avail;
        struct vhk_used *used;
        uint16_t used_idx;
};

static void rig_open(struct rig *g, bool event_idx, bool indirect) {
        *g = (struct rig){ 0 };
        g->lent.mem = aligned_alloc(4096, MEM);
        CHECK(g->lent.mem);
        memset(g->lent.mem, 0, MEM);
        g->desc = (void *)g->lent.mem;
        g->avail = (void *)(g->lent.mem + 1024);
        g->used = (void *)(g->lent.mem + 2048);
        g->tables = (void *)(g->lent.mem + 4096);
        struct vhk_drvring_setup s = {
                .num = NUM, .event_idx = event_idx, .indirect = indirect, .desc = g->desc, .avail = g->avail, .used = g->used,
                .gpa = gpa_of, .gpa_arg = &g->lent, .indirect_tables = g->tables, .indirect_max = 16,
        };
        CHECK_OK(vhk_drvring_new(&s, &g->r));
}

static void rig_close(struct rig *g) {
        vhk_drvring_free(g->r);
        free(g->lent.mem);
}

static struct iovec piece(struct rig *g, unsigned i, size_t len) {
        return (struct iovec){ g->lent.mem + 32768 + 1024 * i, len };
}

static uint64_t piece_gpa(unsigned i) { return GPA + 32768 + 1024 * i; }

static void use(struct rig *g, uint32_t id, uint32_t len) {
        g->used->ring[g->used_idx++ & (NUM - 1)] = (struct vhk_used_elem){ vhk_le32_of(id), vhk_le32_of(len) };
        vhk_store_release(&g->used->idx.v, vhk_le16_of(g->used_idx).v);
}

static void check_desc(const struct vhk_desc *d, uint64_t addr, uint32_t len, uint16_t flags) {
        CHECK_EQ(vhk_le64_get(d->addr), addr);
        CHECK_EQ(vhk_le32_get(d->len), len);
        CHECK_EQ(vhk_le16_get(d->flags), flags);
}

TEST(direct_chain) {
        struct vhk_done done[4];
        struct rig g;
        int cookie;

        rig_open(&g, false, false);
        struct iovec sg[] = { piece(&g, 0, 16), piece(&g, 1, 512), piece(&g, 2, 1) };
        CHECK_EQ(vhk_drvring_publish(g.r), 0);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 1, 2, &cookie), 0);
        CHECK_EQ(vhk_le16_get(g.avail->idx), 0);
        CHECK_EQ(vhk_drvring_publish(g.r), 1);
        CHECK_EQ(vhk_le16_get(g.avail->idx), 1);
        unsigned d = vhk_le16_get(g.avail->ring[0]), head = d;
        check_desc(&g.desc[d], piece_gpa(0), 16, VHK_DESC_NEXT);
        d = vhk_le16_get(g.desc[d].next);
        check_desc(&g.desc[d], piece_gpa(1), 512, VHK_DESC_NEXT | VHK_DESC_WRITE);
        d = vhk_le16_get(g.desc[d].next);
        check_desc(&g.desc[d], piece_gpa(2), 1, VHK_DESC_WRITE);
        CHECK_EQ(vhk_drvring_reap(g.r, done, 4), 0);
        CHECK_EQ(vhk_drvring_n_in_flight(g.r), 1);
        use(&g, head, 513);
        CHECK_EQ(vhk_drvring_reap(g.r, done, 4), 1);
        CHECK(done[0].cookie == &cookie && done[0].len == 513);
        CHECK_EQ(vhk_drvring_n_in_flight(g.r), 0);
        rig_close(&g);
}

TEST(indirect_where_it_pays) {
        struct vhk_done done[4];
        struct iovec sg[20];
        struct rig g;

        rig_open(&g, false, true);
        for (unsigned i = 0; i < 20; i++)
                sg[i] = piece(&g, i, 10 + i);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 1, 0, NULL), 0);              /* one buffer: direct */
        check_desc(&g.desc[vhk_le16_get(g.avail->ring[0])], piece_gpa(0), 10, 0);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 2, 14, NULL), 0);             /* longer than the ring */
        unsigned head = vhk_le16_get(g.avail->ring[1]);
        uint64_t table = vhk_le64_get(g.desc[head].addr);
        check_desc(&g.desc[head], table, 256, VHK_DESC_INDIRECT);
        const struct vhk_desc *t = (void *)(g.lent.mem + (table - GPA));
        for (unsigned i = 0; i < 16; i++) {
                check_desc(&t[i], piece_gpa(i), 10 + i, (uint16_t)((i < 15 ? VHK_DESC_NEXT : 0) | (i < 2 ? 0 : VHK_DESC_WRITE)));
                CHECK(i == 15 || vhk_le16_get(t[i].next) == i + 1);
        }
        CHECK_EQ(vhk_drvring_add(g.r, sg, 2, 15, NULL), -EINVAL);       /* more than a table and than the ring */
        for (unsigned i = 2; i < NUM; i++)
                CHECK_EQ(vhk_drvring_add(g.r, sg, 1, 3, NULL), 0);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 1, 0, NULL), -EAGAIN);
        vhk_drvring_publish(g.r);
        use(&g, head, 1);
        CHECK_EQ(vhk_drvring_reap(g.r, done, 4), 1);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 1, 3, NULL), 0);
        rig_close(&g);
}

TEST(refusals_leave_no_trace) {
        struct iovec sg[9];
        struct rig g;

        rig_open(&g, false, false);
        for (unsigned i = 0; i < 9; i++)
                sg[i] = piece(&g, i, 1);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 0, 0, NULL), -EINVAL);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 9, 0, NULL), -EINVAL);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 1, UINT32_MAX, NULL), -EINVAL);       /* wraps around */
        sg[3].iov_base = &g;
        CHECK_EQ(vhk_drvring_add(g.r, sg, 4, 0, NULL), -EFAULT);
        sg[3] = piece(&g, 3, (size_t)UINT32_MAX + 1);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 4, 0, NULL), sizeof(size_t) == 8 ? -EINVAL : -EFAULT);
        CHECK_EQ(vhk_drvring_n_in_flight(g.r), 0);
        CHECK_EQ(vhk_drvring_publish(g.r), 0);
        sg[3] = piece(&g, 3, 1);
        CHECK_EQ(vhk_drvring_add(g.r, sg, 8, 0, NULL), 0);                      /* all are still there */
        CHECK_EQ(vhk_drvring_add(g.r, sg, 1, 0, NULL), -EAGAIN);
        rig_close(&g);
}

static uint64_t any_gpa(void *arg, const void *va, uint64_t len) { return GPA; }

TEST(four_gibibytes) {
        struct rig g;
        struct vhk_drvring *r;

        rig_open(&g, false, false);
        struct vhk_drvring_setup s = { .num = NUM, .desc = g.desc, .avail = g.avail, .used = g.used, .gpa = any_gpa };
        CHECK_OK(vhk_drvring_new(&s, &r));
        struct iovec sg[] = { piece(&g, 0, 0x80000000), piece(&g, 0, 0x80000000) };
        CHECK_EQ(vhk_drvring_add(r, sg, 1, 1, NULL), -EINVAL);
        sg[1].iov_len--;
        CHECK_EQ(vhk_drvring_add(r, sg, 1, 1, NULL), 0);
        vhk_drvring_free(r);
        rig_close(&g);
}

TEST(bad_setups) {
        struct rig g;
        struct vhk_drvring *r;

        rig_open(&g, false, false);
        struct vhk_drvring_setup s = { .num = 3, .gpa = gpa_of, .gpa_arg = &g.lent };
        CHECK_EQ(vhk_drvring_new(&s, &r), -EINVAL);
        s.num = 0;
        CHECK_EQ(vhk_drvring_new(&s, &r), -EINVAL);
        s.num = 4;
        s.indirect = true;
        s.indirect_max = 16;
        s.indirect_tables = (void *)&g;
        CHECK_EQ(vhk_drvring_new(&s, &r), -EFAULT);
        rig_close(&g);
        CHECK(!vhk_drvring_free(NULL));
}

/* Random chains, finished in random order, until the free list has seen everything. */
TEST(free_list_keeps_all_descriptors) {
        struct vhk_done done[NUM];
        struct iovec sg[NUM];
        unsigned n_descs[NUM] = { 0 }, busy = 0, in_flight = 0;
        uint64_t seed = 7;
        struct rig g;

        rig_open(&g, true, false);
        for (unsigned i = 0; i < NUM; i++)
                sg[i] = piece(&g, i, 1);
        for (unsigned step = 0; step < 200000; step++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                unsigned x = (unsigned)(seed >> 40), n = 1 + x % 4;
                if (x & 256) {
                        int r = vhk_drvring_add(g.r, sg, n / 2, n - n / 2, (void *)(uintptr_t)n);
                        CHECK_EQ(r, busy + n > NUM ? -EAGAIN : 0);
                        if (!r) {
                                vhk_drvring_publish(g.r);
                                unsigned head = vhk_le16_get(g.avail->ring[(vhk_le16_get(g.avail->idx) - 1) & (NUM - 1)]);
                                CHECK_EQ(n_descs[head], 0);
                                n_descs[head] = n;
                                busy += n;
                                in_flight++;
                        }
                } else if (in_flight) {
                        unsigned head = x % NUM;
                        while (!n_descs[head])
                                head = (head + 1) % NUM;
                        use(&g, head, x);
                        CHECK_EQ(vhk_drvring_reap(g.r, done, NUM), 1);
                        CHECK_EQ((uintptr_t)done[0].cookie, n_descs[head]);
                        CHECK(done[0].len <= n_descs[head] - n_descs[head] / 2);
                        busy -= n_descs[head];
                        n_descs[head] = 0;
                        in_flight--;
                }
                CHECK_EQ(vhk_drvring_n_in_flight(g.r), in_flight);
        }
        rig_close(&g);
}

/* ---- a device that lies ---- */

static void lie(void (*how)(struct rig *g), int good) {
        struct vhk_done done[4];
        struct rig g;
        struct iovec sg[2];

        rig_open(&g, false, false);
        sg[0] = piece(&g, 0, 1);
        sg[1] = piece(&g, 1, 1);
        CHECK_OK(vhk_drvring_add(g.r, sg, 1, 0, NULL));         /* head 0 */
        CHECK_OK(vhk_drvring_add(g.r, sg, 1, 1, NULL));         /* head 1 and 2 */
        vhk_drvring_publish(g.r);
        CHECK_OK(vhk_drvring_add(g.r, sg, 1, 0, NULL));         /* head 3, not published */
        how(&g);
        if (good)
                CHECK_EQ(vhk_drvring_reap(g.r, done, 4), good);
        CHECK_EQ(vhk_drvring_reap(g.r, done, 4), -EPIPE);
        CHECK_EQ(vhk_drvring_reap(g.r, done, 4), -EPIPE);       /* for good */
        CHECK_EQ(vhk_drvring_arm(g.r), 1);                      /* nobody sleeps on a broken ring */
        rig_close(&g);
}

static void l_id_big(struct rig *g) { use(g, NUM, 0); }
static void l_id_huge(struct rig *g) { use(g, UINT32_MAX, 0); }
static void l_id_aliased(struct rig *g) { use(g, 0x10000, 0); }
static void l_middle(struct rig *g) { use(g, 2, 0); }
static void l_free(struct rig *g) { use(g, 5, 0); }
static void l_twice(struct rig *g) { use(g, 0, 0); use(g, 0, 0); }
static void l_jump(struct rig *g) { use(g, 0, 0); use(g, 1, 0); use(g, 3, 0); }
static void l_back(struct rig *g) { g->used->idx = vhk_le16_of(0xffff); }

TEST(id_behind_the_ring) { lie(l_id_big, 0); lie(l_id_huge, 0); lie(l_id_aliased, 0); }
TEST(id_that_is_no_head) { lie(l_middle, 0); lie(l_free, 0); }
TEST(id_twice) { lie(l_twice, 1); }
TEST(index_beyond_what_was_published) { lie(l_jump, 0); }
TEST(index_that_goes_back) { lie(l_back, 0); }

TEST(claims_more_than_there_was) {
        struct vhk_done done;
        struct rig g;

        rig_open(&g, false, false);
        struct iovec sg[] = { piece(&g, 0, 100), piece(&g, 1, 20) };
        CHECK_OK(vhk_drvring_add(g.r, sg, 1, 1, NULL));
        vhk_drvring_publish(g.r);
        use(&g, 0, UINT32_MAX);
        CHECK_EQ(vhk_drvring_reap(g.r, &done, 1), 1);
        CHECK_EQ(done.len, 20);
        rig_close(&g);
}

/* ---- notification ---- */

TEST(device_says_no_notify) {
        struct rig g;

        rig_open(&g, false, false);
        struct iovec sg = piece(&g, 0, 1);
        CHECK_OK(vhk_drvring_add(g.r, &sg, 1, 0, NULL));
        g.used->flags = vhk_le16_of(VHK_USED_NO_NOTIFY);
        CHECK_EQ(vhk_drvring_publish(g.r), 0);
        CHECK_OK(vhk_drvring_add(g.r, &sg, 1, 0, NULL));
        g.used->flags = vhk_le16_of(0);
        CHECK_EQ(vhk_drvring_publish(g.r), 1);
        vhk_drvring_disarm(g.r);
        CHECK_EQ(vhk_le16_get(g.avail->flags), VHK_AVAIL_NO_INTERRUPT);
        CHECK_EQ(vhk_drvring_arm(g.r), 0);
        CHECK_EQ(vhk_le16_get(g.avail->flags), 0);
        use(&g, 0, 0);
        CHECK_EQ(vhk_drvring_arm(g.r), 1);
        rig_close(&g);
}

TEST(event_idx_against_brute_force) {
        struct vhk_done done[NUM];
        struct rig g;
        uint16_t old = 0;

        rig_open(&g, true, false);
        struct iovec sg = piece(&g, 0, 1);
        vhk_le16 *avail_event = (vhk_le16 *)&g.used->ring[NUM];
        for (unsigned round = 0; round < 20000; round++) {      /* more than once around 65536 */
                unsigned n = 1 + round % NUM;
                uint16_t event = (uint16_t)(old + (int)(round % 23) - 11), new = (uint16_t)(old + n);
                bool expect = false;
                for (uint16_t i = old; i != new; i++)
                        expect |= i == event;
                *avail_event = vhk_le16_of(event);
                g.used->flags = vhk_le16_of(VHK_USED_NO_NOTIFY);        /* to be ignored */
                for (unsigned i = 0; i < n; i++)
                        CHECK_OK(vhk_drvring_add(g.r, &sg, 1, 0, NULL));
                CHECK_EQ(vhk_drvring_publish(g.r), expect);
                for (unsigned i = 0; i < n; i++)
                        use(&g, vhk_le16_get(g.avail->ring[(uint16_t)(old + i) & (NUM - 1)]), 0);
                CHECK_EQ(vhk_drvring_arm(g.r), 1);
                CHECK_EQ(vhk_le16_get(g.avail->ring[NUM]), old);
                CHECK_EQ(vhk_drvring_reap(g.r, done, NUM), n);
                CHECK_EQ(vhk_drvring_arm(g.r), 0);
                vhk_drvring_disarm(g.r);
                CHECK_EQ(vhk_le16_get(g.avail->ring[NUM]), (uint16_t)(new - 1));
                CHECK_EQ(vhk_le16_get(g.avail->flags), 0);              /* MUST be 0 */
                old = new;
        }
        rig_close(&g);
}
