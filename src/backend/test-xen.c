/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * XEN_MMAP: offered only when asked for; regions of 40 bytes instead of 32, in both messages; plain memory works, anything
 * that only Xen could map is refused.
 */
#include "backend/test-backend.h"

#define XEN VHK_BIT(VHK_PF_XEN_MMAP)

static struct vhk_p_region_xen region_xen(struct rig *r, uint64_t off, uint64_t len, uint32_t flags) {
        return (struct vhk_p_region_xen){ GPA + off, len, (uint64_t)(uintptr_t)r->mem + off, off, flags, 7 };
}

static int64_t xen_reg(struct rig *r, uint32_t id, uint32_t flags, uint32_t size) {
        struct { struct vhk_p_mem_region_single_xen p; uint64_t more; } m = { .p.region = { region_xen(r, 0, MEM_BYTES, flags) } };

        return fe_ask(r, id, &m, size, id == VHK_FE_ADD_MEM_REG ? r->memfd : -1);
}

/* Two halves; @size is that of the payload. */
static int64_t xen_table(struct rig *r, uint32_t flags, uint32_t size) {
        struct vhk_p_mem_regions_xen p = { .n_regions = 2, .regions = { region_xen(r, 0, MEM_BYTES / 2, 0), region_xen(r, MEM_BYTES / 2, MEM_BYTES / 2, flags) } };
        int fds[2] = { r->memfd, r->memfd };
        uint64_t x;

        fe_send(r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &p, size, fds, 2);
        int k = fe_receive(r, VHK_FE_SET_MEM_TABLE, &x, sizeof(x));
        return k < 0 ? k : (int64_t)x;
}

static void begin(struct rig *r) {
        struct vhk_backend_options o = { .protocol_offer = XEN };

        rig_open(r, &o, NULL);
        fe_connect(r);
        fe_negotiate(r, FEATURES, PROTOCOL | XEN);
}

static void check_that_a_ring_works(struct rig *r) {
        ring_make(r, 0);
        ring_set_up(r, 0, 0);
        ring_go(r, 0);
        for (unsigned i = 0; i < 3; i++)
                ring_add(r, 0);
        PUMP_UNTIL(r, ring_is_idle(r, 0));
        CHECK_EQ(ring_stop(r, 0), 3);
}

TEST(offered_only_when_asked_for) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_EQ(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & XEN, 0);
        rig_close(&r);
}

TEST(single_regions) {
        static struct rig r;

        begin(&r);
        CHECK_EQ(xen_reg(&r, VHK_FE_ADD_MEM_REG, 0, 40), 1);            /* the form without XEN_MMAP */
        CHECK(strstr(r.log, "wire.size-short"));
        CHECK_EQ(xen_reg(&r, VHK_FE_ADD_MEM_REG, 0, 56), 1);
        CHECK(strstr(r.log, "wire.size-long"));
        CHECK_EQ(xen_reg(&r, VHK_FE_ADD_MEM_REG, 0, 48), 0);
        check_that_a_ring_works(&r);
        CHECK_EQ(xen_reg(&r, VHK_FE_REM_MEM_REG, 0, 40), 1);
        CHECK_EQ(xen_reg(&r, VHK_FE_REM_MEM_REG, 0, 48), 0);
        CHECK_EQ(xen_reg(&r, VHK_FE_REM_MEM_REG, 0, 48), 1);
        rig_close(&r);
}

TEST(tables) {
        static struct rig r;

        begin(&r);
        CHECK_EQ(xen_table(&r, 0, 8 + 2 * 32), 1);
        CHECK_EQ(xen_table(&r, 0, 8 + 2 * 40 - 4), 1);
        CHECK_EQ(xen_table(&r, 0, 8 + 1 * 40), 1);
        CHECK_EQ(xen_table(&r, 0, 8 + 2 * 40), 0);
        check_that_a_ring_works(&r);
        CHECK_EQ(xen_table(&r, 0, 8 + 8 * 40), 0);      /* room for all eight, as User-Mode Linux has for two */
        rig_close(&r);
}

TEST(what_only_xen_could_map) {
        static const struct { uint32_t flags; const char *rule; } rows[] = {
                { VHK_XEN_FOREIGN, "memory.xen" }, { VHK_XEN_GRANT, "memory.xen" }, { VHK_XEN_GRANT | VHK_XEN_LAZY, "memory.xen" },
                { VHK_XEN_FOREIGN | VHK_XEN_GRANT, "wire.region-xen" }, { VHK_XEN_LAZY, "wire.region-xen" },
                { VHK_XEN_FOREIGN | VHK_XEN_LAZY, "wire.region-xen" }, { 4, "wire.region-xen" }, { 1u << 31, "wire.region-xen" },
        };
        static struct rig r;

        begin(&r);
        for (unsigned i = 0; i < VHK_N(rows); i++) {
                r.log[0] = 0;
                CHECK_EQ(xen_reg(&r, VHK_FE_ADD_MEM_REG, rows[i].flags, 48), 1);
                CHECK_MSG(strstr(r.log, rows[i].rule), "row %u: %s", i, r.log);
                r.log[0] = 0;
                CHECK_EQ(xen_table(&r, rows[i].flags, 8 + 2 * 40), 1);
                CHECK_MSG(strstr(r.log, rows[i].rule), "row %u: %s", i, r.log);
        }
        CHECK_EQ(xen_reg(&r, VHK_FE_REM_MEM_REG, 0, 48), 1);            /* nothing of it stayed */
        CHECK_EQ(xen_reg(&r, VHK_FE_ADD_MEM_REG, 0, 48), 0);
        check_that_a_ring_works(&r);
        rig_close(&r);
}

/* Who cannot be told is not left in the belief that the region is there. */
TEST(a_refusal_without_words_closes) {
        struct vhk_backend_options o = { .protocol_offer = XEN };
        static struct rig r;
        uint64_t x;

        rig_open(&r, &o, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, (PROTOCOL | XEN) & ~VHK_BIT(VHK_PF_REPLY_ACK));
        struct vhk_p_mem_region_single_xen p = { .region = { region_xen(&r, 0, MEM_BYTES, VHK_XEN_FOREIGN) } };
        fe_send(&r, VHK_FE_ADD_MEM_REG, 0, &p, sizeof(p), &r.memfd, 1);
        CHECK_EQ(fe_receive(&r, VHK_FE_ADD_MEM_REG, &x, sizeof(x)), -EPIPE);
        PUMP_UNTIL(&r, r.n_disconnected);
        CHECK_STR(r.last_rule, "memory.xen");
        rig_close(&r);
}
