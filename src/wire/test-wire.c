/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The checks, derived from the columns of messages.def: each row's valid form in each size, and every way to break it, each
 * with the rule that it must break. Only the list of broken fields and of replies is written by hand. The last test holds
 * that no rule is without a test.
 */
#include "base/test.h"

#include "wire/sample.h"
#include "wire/wire.h"

static bool seen[VHK_N_RULES];

static enum vhk_rule run(struct vhk_sample *m, enum vhk_dir dir) {
        const struct vhk_row *row;
        enum vhk_rule r = vhk_wire_check(&m->state, dir, &m->hdr, m->u.bytes, m->n_fds, &row);

        seen[r] = true;
        return r;
}

#define CHECK_RULE(got, expected, row, ...)                                                             \
        do {                                                                                            \
                enum vhk_rule g_ = (got), e_ = (expected);                                              \
                char t_[100];                                                                           \
                snprintf(t_, sizeof(t_), __VA_ARGS__);                                                  \
                CHECK_MSG(g_ == e_, "%s %s: %s, expected %s", (row)->name, t_, vhk_rule_id(g_), vhk_rule_id(e_)); \
        } while (0)

/* Every valid message that the columns allow, one @fn call each. */
static void each_sample(void (*fn)(const struct vhk_row *row, struct vhk_sample *m)) {
        static struct vhk_sample m;

        for (const struct vhk_row *row = vhk_rows; row < vhk_rows + vhk_n_rows; row++)
                for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++)
                        for (unsigned n = v->each ? 1 : 0; n <= v->max; n++)
                                if (vhk_sample_make(&m, row, v, n))
                                        fn(row, &m);
}

static unsigned n_valid;
static bool row_was_valid[128];

static void valid(const struct vhk_row *row, struct vhk_sample *m) {
        const struct vhk_row *found = NULL;

        CHECK_RULE(run(m, row->dir), VHK_RULE_OK, row, "of %u bytes", m->hdr.size);
        CHECK_RULE(vhk_wire_check_header(&m->state, row->dir, &m->hdr), VHK_RULE_OK, row, "header");
        vhk_wire_check(&m->state, row->dir, &m->hdr, m->u.bytes, m->n_fds, &found);
        CHECK(found == row);
        m->hdr.flags |= VHK_HDR_NEED_REPLY;
        CHECK_RULE(run(m, row->dir), VHK_RULE_OK, row, "with NEED_REPLY");
        row_was_valid[row - vhk_rows] = true;
        n_valid++;
}

TEST(every_row_has_a_valid_form) {
        each_sample(valid);
        for (unsigned i = 0; i < vhk_n_rows; i++)
                CHECK_MSG(row_was_valid[i], "%s has no valid form", vhk_rows[i].name);
        CHECK(n_valid > vhk_n_rows);
}

TEST(every_number_of_the_protocol_has_a_row) {
        for (uint32_t id = 1; id <= 45; id++)
                CHECK_MSG(vhk_wire_row(VHK_FROM_FRONTEND, id, VHK_PHASE_NORMAL), "front-end message %u", id);
        for (uint32_t id = 1; id <= 10; id++)
                CHECK_MSG(vhk_wire_row(VHK_FROM_BACKEND, id, VHK_PHASE_NORMAL), "back-end message %u", id);
        CHECK_EQ(VHK_FE_LAST, 45);
        CHECK_EQ(VHK_BE_LAST, 10);
        for (unsigned i = 0; i < vhk_n_rows; i++)
                CHECK(vhk_wire_row(vhk_rows[i].dir, vhk_rows[i].id, vhk_rows[i].phase) == &vhk_rows[i]);
}

static void broken_header(const struct vhk_row *row, struct vhk_sample *m) {
        for (uint32_t version = 0; version < 4; version++) {
                enum vhk_rule expected = version == 1 ? VHK_RULE_OK : VHK_RULE_VERSION;

                m->hdr.flags = version;
                CHECK_RULE(run(m, row->dir), expected, row, "version %u", version);
                CHECK_RULE(vhk_wire_check_header(&m->state, row->dir, &m->hdr), expected, row, "header of version %u", version);
        }
        for (unsigned bit = 4; bit < 32; bit++) {
                m->hdr.flags = VHK_HDR_VERSION | 1u << bit;
                CHECK_RULE(run(m, row->dir), VHK_RULE_FLAGS, row, "flag bit %u", bit);
        }
        m->hdr.flags = VHK_HDR_VERSION | VHK_HDR_REPLY;
        CHECK_RULE(run(m, row->dir), VHK_RULE_REPLY_BIT, row, "stray reply bit");
}

TEST(a_broken_header_breaks_its_rule) {
        each_sample(broken_header);
        CHECK(vhk_rule_is_fatal(VHK_RULE_VERSION) && vhk_rule_is_fatal(VHK_RULE_REPLY_BIT) && vhk_rule_is_fatal(VHK_RULE_OVERSIZE));
}

/* What the size column says of @size, or OK where a variant has it (then a field rule may still object). */
static enum vhk_rule expected_size(const struct vhk_row *row, const struct vhk_wire_state *s, uint64_t size) {
        uint64_t longest = 0;

        if (size > 2056)
                return VHK_RULE_OVERSIZE;
        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++) {
                if (v->payload != row->request || (s->protocol & v->with) != v->with || (s->protocol & v->without))
                        continue;
                for (unsigned n = 0; n <= v->max; n++) {
                        uint64_t legal = v->fixed + n * (uint64_t)v->each;
                        if (legal == size)
                                return VHK_RULE_OK;
                        longest = legal > longest ? legal : longest;
                }
        }
        return size > longest ? VHK_RULE_SIZE_LONG : VHK_RULE_SIZE_SHORT;
}

static void broken_size(const struct vhk_row *row, struct vhk_sample *m) {
        uint32_t good = m->hdr.size, sizes[] = { 0, good - 1, good + 1, 2056, 2057, 4096, 0x80000000, 0xffffffff };

        for (unsigned i = 0; i < VHK_N(sizes); i++) {
                if (sizes[i] == good || (!good && i == 1))
                        continue;
                m->hdr.size = sizes[i];
                enum vhk_rule expected = expected_size(row, &m->state, sizes[i]), r = run(m, row->dir);
                if (expected)
                        CHECK_RULE(r, expected, row, "%u bytes instead of %u", sizes[i], good);
                else if (row->request == VHK_P_CONFIG)
                        CHECK_RULE(r, VHK_RULE_CONFIG_SIZE, row, "%u bytes instead of %u", sizes[i], good);
                else
                        CHECK_MSG(row->request == VHK_P_INFLIGHT || row->request == VHK_P_IOTLB, "%s: unexpected second size", row->name);
        }
}

TEST(a_wrong_size_breaks_its_rule) {
        each_sample(broken_size);
}

static void broken_fds(const struct vhk_row *row, struct vhk_sample *m) {
        unsigned most = row->fds == VHK_FDS_OPTIONAL ? 1 : m->n_fds, least = m->n_fds;
        unsigned extra[] = { most + 1, most + 2, 32 + 1, 253 };

        for (unsigned i = 0; i < VHK_N(extra); i++) {
                m->n_fds = extra[i];
                CHECK_RULE(run(m, row->dir), VHK_RULE_FDS_EXTRA, row, "with %u fds", m->n_fds);
        }
        m->n_fds = VHK_FDS_LOST;
        CHECK_RULE(run(m, row->dir), VHK_RULE_FDS_LOST, row, "with its fds lost");
        for (m->n_fds = 0; m->n_fds < least; m->n_fds++)
                CHECK_RULE(run(m, row->dir), VHK_RULE_FDS_MISSING, row, "with %u fds", m->n_fds);
        for (m->n_fds = least; m->n_fds <= most; m->n_fds++)
                CHECK_RULE(run(m, row->dir), VHK_RULE_OK, row, "with %u fds", m->n_fds);
        if (row->fds != VHK_FDS_UNLESS_BIT_8)
                return;
        m->u.p.u64.value |= VHK_RING_NO_FD;
        m->n_fds = 0;
        CHECK_RULE(run(m, row->dir), VHK_RULE_OK, row, "bit 8 and no fd");
        m->n_fds = 1;
        CHECK_RULE(run(m, row->dir), VHK_RULE_FDS_EXTRA, row, "bit 8 and an fd");
}

TEST(a_wrong_number_of_descriptors_breaks_its_rule) {
        each_sample(broken_fds);
}

static void without_each_bit(const struct vhk_row *row, struct vhk_sample *m, uint64_t *bits, uint64_t needed) {
        uint64_t all = *bits;

        for (unsigned i = 0; i < 64; i++) {
                if (!(needed & VHK_BIT(i)))
                        continue;
                *bits = all & ~VHK_BIT(i);
                CHECK_RULE(run(m, row->dir), VHK_RULE_GATE, row, "without bit %u", i);
        }
        *bits = all;
}

static void broken_gate(const struct vhk_row *row, struct vhk_sample *m) {
        without_each_bit(row, m, &m->state.features_offered, row->gate.offered);
        without_each_bit(row, m, &m->state.features, row->gate.virtio);
        without_each_bit(row, m, &m->state.protocol, row->gate.protocol);
        for (unsigned i = 0; i < 64; i++) {
                if (!(row->gate.without & VHK_BIT(i)))
                        continue;
                m->state.protocol |= VHK_BIT(i);
                CHECK_RULE(run(m, row->dir), VHK_RULE_GATE_FORBIDDEN, row, "with bit %u", i);
                m->state.protocol &= ~VHK_BIT(i);
        }
        CHECK_RULE(run(m, row->dir), VHK_RULE_OK, row, "after all");
}

TEST(a_closed_gate_breaks_its_rule) {
        each_sample(broken_gate);
}

static void broken_ring(const struct vhk_row *row, struct vhk_sample *m) {
        uint32_t bad[] = { VHK_SAMPLE_RINGS, 255, 256, 0xffff, 0x10000, 0x10000 + VHK_SAMPLE_RING, 0x80000000, 0xffffffff };
        bool byte = row->scope == VHK_SCOPE_RING_BYTE;

        if (row->scope != VHK_SCOPE_RING && !byte) {
                CHECK_EQ(vhk_wire_ring(row, m->u.bytes), -1);
                return;
        }
        CHECK_EQ(vhk_wire_ring(row, m->u.bytes), VHK_SAMPLE_RING);
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                if (byte)
                        m->u.p.u64.value = bad[i];
                else
                        m->u.p.vring_state.index = bad[i];
                m->n_fds = byte && (bad[i] & VHK_RING_NO_FD) ? 0 : m->n_fds;
                bool only_high = byte && (bad[i] & 0xff) < VHK_SAMPLE_RINGS;
                enum vhk_rule expected = !only_high ? VHK_RULE_RING_INDEX : bad[i] > 0x1ff ? VHK_RULE_VRING_WORD : VHK_RULE_OK;
                CHECK_RULE(run(m, row->dir), expected, row, "ring 0x%x", bad[i]);
        }
        m->state.n_queues = 0;
        m->u.p.u64.value = 0;
        CHECK_RULE(run(m, row->dir), VHK_RULE_RING_INDEX, row, "ring 0 of none");
}

TEST(a_ring_index_is_not_truncated) {
        each_sample(broken_ring);
}

static void while_running(const struct vhk_row *row, struct vhk_sample *m) {
        m->state.running = true;
        CHECK_RULE(run(m, row->dir), row->scope == VHK_SCOPE_QUIESCED ? VHK_RULE_RUNNING : VHK_RULE_OK, row, "while a ring runs");
}

TEST(quiesced_rows_wait_for_the_rings) {
        each_sample(while_running);
}

static void in_postcopy_ack(const struct vhk_row *row, struct vhk_sample *m) {
        m->state.phase = VHK_PHASE_POSTCOPY_ACK;
        if (row->dir == VHK_FROM_BACKEND || row->phase == VHK_PHASE_POSTCOPY_ACK)
                CHECK_RULE(run(m, row->dir), VHK_RULE_OK, row, "while an acknowledgement is awaited");
        else if (row->id != VHK_FE_SET_MEM_TABLE)
                CHECK_RULE(run(m, row->dir), VHK_RULE_PHASE, row, "while an acknowledgement is awaited");
        else
                CHECK(run(m, row->dir) != VHK_RULE_OK);
}

TEST(only_the_acknowledgement_follows_a_postcopy_table) {
        each_sample(in_postcopy_ack);
}

TEST(unknown_messages_are_refused_and_can_be_answered) {
        const uint32_t front[] = { 0, 46, 47, 0xffff, 0xffffffff }, back[] = { 0, 11, 12, 46, 0xffffffff };
        struct vhk_wire_state s = { .n_queues = 1 };
        const struct vhk_row *row;

        for (unsigned i = 0; i < 2 * VHK_N(front); i++) {
                bool b = i >= VHK_N(front);
                struct vhk_hdr h = { b ? back[i - VHK_N(front)] : front[i], VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, 8 };
                enum vhk_rule r = vhk_wire_check(&s, b ? VHK_FROM_BACKEND : VHK_FROM_FRONTEND, &h, &(uint64_t){ 0 }, 0, &row);

                seen[r] = true;
                CHECK_EQ(r, VHK_RULE_UNKNOWN);
                CHECK(!row && !vhk_rule_is_fatal(r));
                s.protocol = VHK_BIT(VHK_PF_REPLY_ACK);
                CHECK_EQ(vhk_wire_answer(&s, NULL, &h), VHK_ANSWER_ACK);
                s.protocol = 0;
                CHECK_EQ(vhk_wire_answer(&s, NULL, &h), VHK_ANSWER_NONE);
                h.size = 0xffffffff;
                CHECK_EQ(vhk_wire_check_header(&s, VHK_FROM_FRONTEND, &h), VHK_RULE_OVERSIZE);
        }
}

/* One field made wrong in an otherwise valid message. */
static const struct {
        enum vhk_dir dir;
        uint32_t id;
        uint8_t phase;
        uint16_t offset, bytes;
        uint64_t value;
        enum vhk_rule rule;
        uint64_t protocol, features;            /* added to the session */
} fields[] = {
#define F(name, offset, bytes, value, rule, ...) { VHK_FROM_FRONTEND, VHK_FE_##name, VHK_PHASE_NORMAL, offset, bytes, value, VHK_RULE_##rule, __VA_ARGS__ }
#define B(name, offset, bytes, value, rule, ...) { VHK_FROM_BACKEND, VHK_BE_##name, VHK_PHASE_NORMAL, offset, bytes, value, VHK_RULE_##rule, __VA_ARGS__ }
#define PF(name) VHK_BIT(VHK_PF_##name)
        F(SET_FEATURES, 0, 8, VHK_BIT(5), FEATURES_OFFERED),
        F(SET_FEATURES, 0, 8, VHK_BIT(23), FEATURES_OFFERED),
        F(SET_FEATURES, 0, 8, VHK_BIT(42), FEATURES_OFFERED),
        F(SET_FEATURES, 0, 8, VHK_BIT(63), FEATURES_OFFERED),
        F(SET_FEATURES, 0, 8, VHK_BIT(28) | VHK_BIT(29) | VHK_BIT(34) | VHK_BIT(24) | VHK_BIT(41), OK),
        F(SET_FEATURES, 0, 8, VHK_BIT(33), NEEDS_IOMMU),
        F(SET_FEATURES, 0, 8, VHK_BIT(33), NEEDS_IOMMU, PF(BACKEND_REQ)),
        F(SET_FEATURES, 0, 8, VHK_BIT(33), OK, PF(BACKEND_REQ) | PF(REPLY_ACK)),
        F(SET_PROTOCOL_FEATURES, 0, 8, PF(INBAND_NOTIFICATIONS), NEEDS_INBAND),
        F(SET_PROTOCOL_FEATURES, 0, 8, PF(SHMEM) | PF(BACKEND_REQ), NEEDS_SEND_FD),
        F(SET_PROTOCOL_FEATURES, 0, 8, PF(MQ), NEEDS_IOMMU, 0, VHK_BIT(33)),
        F(SET_VRING_NUM, 4, 4, 0, VRING_NUM),
        F(SET_VRING_NUM, 4, 4, 1, OK),
        F(SET_VRING_NUM, 4, 4, 32768, OK),
        F(SET_VRING_NUM, 4, 4, 32769, VRING_NUM),
        F(SET_VRING_NUM, 4, 4, 65536, VRING_NUM),
        F(SET_VRING_NUM, 4, 4, 0xffffffff, VRING_NUM),
        F(SET_VRING_ADDR, 4, 4, 1, OK),
        F(SET_VRING_ADDR, 4, 4, 2, VRING_ADDR_FLAGS),
        F(SET_VRING_ADDR, 4, 4, 0x80000001, VRING_ADDR_FLAGS),
        F(SET_VRING_BASE, 4, 4, 0xffff, OK),
        F(SET_VRING_BASE, 4, 4, 0x10000, VRING_BASE),
        F(SET_VRING_BASE, 4, 4, 0x80008000, OK, 0, VHK_BIT(34)),
        F(GET_VRING_BASE, 4, 4, 1, OK),         /* an interim text asked for in-flight recording so */
        F(SET_VRING_KICK, 0, 8, 0x200, VRING_WORD),
        F(SET_VRING_CALL, 0, 8, VHK_BIT(63), VRING_WORD),
        F(SET_VRING_ERR, 0, 8, VHK_BIT(32), VRING_WORD),
        F(SET_VRING_ENABLE, 4, 4, 1, OK),
        F(SET_VRING_ENABLE, 4, 4, 2, VRING_ENABLE),
        F(SET_VRING_ENDIAN, 4, 4, 1, OK),
        F(SET_VRING_ENDIAN, 4, 4, 2, VRING_ENDIAN),
        F(VRING_KICK, 4, 4, 1, VRING_RESERVED),
        F(GET_VRING_BASE_SKIP_DRAIN, 4, 4, 1, VRING_RESERVED),
        B(VRING_CALL, 4, 4, 1, VRING_RESERVED),
        B(VRING_ERR, 4, 4, 0x80000000, VRING_RESERVED),
        F(SET_MEM_TABLE, 0, 4, 0, REGIONS_COUNT),
        F(SET_MEM_TABLE, 0, 4, 33, REGIONS_COUNT),
        F(SET_MEM_TABLE, 0, 4, 0xffffffff, REGIONS_COUNT),
        F(SET_MEM_TABLE, 0, 4, 2, REGIONS_SIZE),
        F(SET_MEM_TABLE, 4, 4, 7, OK),
        F(SET_MEM_TABLE, 16, 8, 0, REGION_EMPTY),
        F(SET_MEM_TABLE, 8, 8, UINT64_MAX, REGION_GPA),
        F(SET_MEM_TABLE, 24, 8, UINT64_MAX - 0xffff, REGION_UVA),
        F(SET_MEM_TABLE, 32, 8, UINT64_MAX - 0xffff, REGION_OFFSET),
        F(ADD_MEM_REG, 16, 8, 0, REGION_EMPTY),
        F(ADD_MEM_REG, 16, 8, UINT64_MAX, REGION_UVA),
        F(ADD_MEM_REG, 8, 8, UINT64_MAX, REGION_GPA),
        F(ADD_MEM_REG, 32, 8, UINT64_MAX, REGION_OFFSET),
        F(ADD_MEM_REG, 24, 8, 0x1000, REGION_GPA_ADDRESSES, PF(GPA_ADDRESSES)),
        F(ADD_MEM_REG, 24, 8, 0, OK, PF(GPA_ADDRESSES)),
        F(REM_MEM_REG, 16, 8, 0, REGION_EMPTY),
        F(REM_MEM_REG, 32, 8, UINT64_MAX, OK),  /* the offset says nothing in a removal */
        F(SET_LOG_BASE, 0, 8, 0, LOG_EMPTY),
        F(SET_LOG_BASE, 0, 8, UINT64_MAX, LOG_RANGE),
        F(SET_LOG_BASE, 8, 8, UINT64_MAX - 0x1fff, LOG_RANGE),
        F(NET_SET_MTU, 0, 8, 67, MTU),
        F(NET_SET_MTU, 0, 8, 68, OK),
        F(NET_SET_MTU, 0, 8, 65535, OK),
        F(NET_SET_MTU, 0, 8, 65536, MTU),
        F(SET_STATUS, 0, 8, 0xff, OK),
        F(SET_STATUS, 0, 8, 0x100, STATUS),
        F(IOTLB_MSG, 25, 1, 0, IOTLB_TYPE),
        F(IOTLB_MSG, 25, 1, VHK_IOTLB_MISS, IOTLB_TYPE),
        F(IOTLB_MSG, 25, 1, VHK_IOTLB_ACCESS_FAIL, IOTLB_TYPE),
        F(IOTLB_MSG, 25, 1, 99, IOTLB_TYPE),
        F(IOTLB_MSG, 24, 1, 0, IOTLB_PERM),
        F(IOTLB_MSG, 24, 1, 4, IOTLB_PERM),
        F(IOTLB_MSG, 24, 1, 255, IOTLB_PERM),
        F(IOTLB_MSG, 24, 2, 0x03ff, OK),        /* little endian: perm 255 in an invalidation */
        F(IOTLB_MSG, 8, 8, 0, IOTLB_EMPTY),
        F(IOTLB_MSG, 0, 8, UINT64_MAX, IOTLB_RANGE),
        F(IOTLB_MSG, 16, 8, UINT64_MAX, IOTLB_RANGE),
        B(IOTLB_MSG, 25, 1, VHK_IOTLB_UPDATE, IOTLB_TYPE),
        B(IOTLB_MSG, 25, 1, VHK_IOTLB_INVALIDATE, IOTLB_TYPE),
        B(IOTLB_MSG, 25, 1, VHK_IOTLB_ACCESS_FAIL, OK),
        B(IOTLB_MSG, 24, 1, 0, IOTLB_PERM),
        F(GET_CONFIG, 4, 4, 0, CONFIG_SIZE),
        F(GET_CONFIG, 4, 4, 257, CONFIG_SIZE),
        F(GET_CONFIG, 4, 4, 0xfffffff5, CONFIG_SIZE),
        F(GET_CONFIG, 0, 4, 255, OK),
        F(GET_CONFIG, 0, 4, 256, CONFIG_RANGE),
        F(GET_CONFIG, 0, 4, 0xffffffff, CONFIG_RANGE),
        F(GET_CONFIG, 8, 4, 1, OK),
        F(GET_CONFIG, 8, 4, 0xffffffff, OK),
        F(SET_CONFIG, 8, 4, 1, OK),
        F(SET_CONFIG, 8, 4, 2, CONFIG_FLAGS),
        F(SET_CONFIG, 0, 4, 256, CONFIG_RANGE),
        F(SET_CONFIG, 4, 4, 2, CONFIG_SIZE),
        F(GET_INFLIGHT_FD, 16, 2, 0, INFLIGHT_QUEUES),
        F(GET_INFLIGHT_FD, 16, 2, VHK_SAMPLE_RINGS + 1, INFLIGHT_QUEUES),
        F(GET_INFLIGHT_FD, 16, 2, 0xffff, INFLIGHT_QUEUES),
        F(GET_INFLIGHT_FD, 18, 2, 0, INFLIGHT_QUEUE_SIZE),
        F(GET_INFLIGHT_FD, 18, 2, 32769, INFLIGHT_QUEUE_SIZE),
        F(GET_INFLIGHT_FD, 0, 8, 0, OK),
        F(SET_INFLIGHT_FD, 16, 2, 0xffff, INFLIGHT_QUEUES),
        F(SET_INFLIGHT_FD, 18, 2, 0, INFLIGHT_QUEUE_SIZE),
        F(SET_INFLIGHT_FD, 0, 8, 0, INFLIGHT_RANGE),
        F(SET_INFLIGHT_FD, 8, 8, UINT64_MAX, INFLIGHT_RANGE),
        F(SET_DEVICE_STATE_FD, 0, 4, 1, OK),
        F(SET_DEVICE_STATE_FD, 0, 4, 2, STATE_DIRECTION),
        F(SET_DEVICE_STATE_FD, 4, 4, 1, STATE_PHASE),
        B(VRING_HOST_NOTIFIER_MSG, 0, 8, 0x201, VRING_WORD),
        B(VRING_HOST_NOTIFIER_MSG, 8, 8, 0, AREA_RANGE),
        B(VRING_HOST_NOTIFIER_MSG, 16, 8, UINT64_MAX, AREA_RANGE),
        B(SHMEM_MAP, 24, 8, 0, MMAP_EMPTY),
        B(SHMEM_MAP, 8, 8, UINT64_MAX, MMAP_RANGE),
        B(SHMEM_MAP, 16, 8, UINT64_MAX, MMAP_RANGE),
        B(SHMEM_MAP, 32, 8, 0, OK),
        B(SHMEM_MAP, 32, 8, 2, MMAP_FLAGS),
        B(SHMEM_UNMAP, 24, 8, 0, MMAP_EMPTY),
        B(SHMEM_UNMAP, 16, 8, UINT64_MAX, MMAP_RANGE),
        B(SHMEM_UNMAP, 8, 8, UINT64_MAX, OK),
        { VHK_FROM_FRONTEND, VHK_FE_SET_MEM_TABLE, VHK_PHASE_POSTCOPY_ACK, 0, 8, 1, VHK_RULE_POSTCOPY_ACK },
#undef PF
};

/* The first legal sample of a row. */
static const struct vhk_row *sample_of(enum vhk_dir dir, uint32_t id, uint8_t phase, struct vhk_sample *m) {
        const struct vhk_row *row = vhk_wire_row(dir, id, phase);

        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++)
                if (vhk_sample_make(m, row, v, v->each ? 1 : 0))
                        return row;
        CHECK_MSG(false, "%s has no sample", row->name);
        return NULL;
}

TEST(a_wrong_field_breaks_its_rule) {
        static struct vhk_sample m;

        for (unsigned i = 0; i < VHK_N(fields); i++) {
                const struct vhk_row *row = sample_of(fields[i].dir, fields[i].id, fields[i].phase, &m);

                m.state.protocol |= fields[i].protocol;
                m.state.features |= fields[i].features;
                memcpy(m.u.bytes + fields[i].offset, &fields[i].value, fields[i].bytes);
                CHECK_RULE(run(&m, row->dir), fields[i].rule, row, "%u bytes at %u are 0x%llx", fields[i].bytes, fields[i].offset,
                           (unsigned long long)fields[i].value);
        }
}

TEST(a_region_of_a_long_table_is_checked_like_the_first) {
        static struct vhk_sample m;
        const struct vhk_row *row = vhk_wire_row(VHK_FROM_FRONTEND, VHK_FE_SET_MEM_TABLE, VHK_PHASE_NORMAL);

        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++) {
                if (!vhk_sample_make(&m, row, v, 8))
                        continue;
                CHECK_EQ(vhk_wire_region(m.state.protocol, m.u.bytes, 7).guest_addr, 7 * 0x200000);
                CHECK_EQ(vhk_wire_region(m.state.protocol, m.u.bytes, 7).xen_domid, v->with ? 3 : 0);
                memset(m.u.bytes + 8 + 7 * v->each + 8, 0, 8);
                CHECK_RULE(run(&m, row->dir), VHK_RULE_REGION_EMPTY, row, "empty last region");
        }
}

TEST(xen_regions_are_one_kind) {
        static const struct { uint32_t flags; enum vhk_rule rule; } cases[] = {
                { 0, VHK_RULE_OK }, { 1, VHK_RULE_OK }, { 2, VHK_RULE_OK }, { 0x102, VHK_RULE_OK }, { 3, VHK_RULE_REGION_XEN },
                { 4, VHK_RULE_REGION_XEN }, { 0x100, VHK_RULE_REGION_XEN }, { 0x101, VHK_RULE_REGION_XEN }, { 0x80000000, VHK_RULE_REGION_XEN },
        };
        static struct vhk_sample m;
        const struct vhk_row *row = vhk_wire_row(VHK_FROM_FRONTEND, VHK_FE_ADD_MEM_REG, VHK_PHASE_NORMAL);

        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++)
                for (unsigned i = 0; i < VHK_N(cases); i++) {
                        if (!v->with || !vhk_sample_make(&m, row, v, 0))
                                continue;
                        m.u.p.mem_region_single_xen.region[0].xen_flags = cases[i].flags;
                        CHECK_RULE(run(&m, row->dir), cases[i].rule, row, "flags 0x%x", cases[i].flags);
                }
}

TEST(empty_config_is_refused) {
        static struct vhk_sample m;
        const struct vhk_row *row = sample_of(VHK_FROM_FRONTEND, VHK_FE_GET_CONFIG, VHK_PHASE_NORMAL, &m);

        m.hdr.size = 12;
        m.u.p.config.len = 0;
        CHECK_RULE(run(&m, row->dir), VHK_RULE_CONFIG_EMPTY, row, "of no byte");
}

TEST(an_invalidation_counts_iova_and_length_alone) {
        static struct vhk_sample m;
        const struct vhk_row *row = sample_of(VHK_FROM_FRONTEND, VHK_FE_IOTLB_MSG, VHK_PHASE_NORMAL, &m);

        memset(m.u.bytes, 0xff, 32);
        m.u.p.iotlb.type = VHK_IOTLB_INVALIDATE;
        CHECK_RULE(run(&m, row->dir), VHK_RULE_OK, row, "invalidation of everything, rest uninitialised");
        m.u.p.iotlb.len = 0;
        CHECK_RULE(run(&m, row->dir), VHK_RULE_OK, row, "invalidation of length 0");
}

TEST(protocol_features_come_from_the_offer_and_stay_while_running) {
        static struct vhk_sample m;
        const struct vhk_row *row = sample_of(VHK_FROM_FRONTEND, VHK_FE_SET_PROTOCOL_FEATURES, VHK_PHASE_NORMAL, &m);

        m.state.protocol_offered = 0xb;
        m.u.p.u64.value = 0xb;
        CHECK_RULE(run(&m, row->dir), VHK_RULE_OK, row, "all that was offered");
        m.u.p.u64.value = 0x1b;
        CHECK_RULE(run(&m, row->dir), VHK_RULE_PROTOCOL_OFFERED, row, "one more");
        m.state.protocol = 0xb;
        m.state.running = true;
        m.u.p.u64.value = 0xb;
        CHECK_RULE(run(&m, row->dir), VHK_RULE_OK, row, "the same again");
        m.u.p.u64.value = 0x3;
        CHECK_RULE(run(&m, row->dir), VHK_RULE_PROTOCOL_RUNNING, row, "another set while running");
}

/* Section "Protocol features" by hand: which bits need which. */
TEST(dependencies_of_protocol_features) {
        static const struct { uint64_t features, protocol; enum vhk_rule rule; } cases[] = {
                { 0, 0, VHK_RULE_OK },
                { 0, 1 << 14, VHK_RULE_NEEDS_INBAND }, { 0, 1 << 14 | 1 << 5, VHK_RULE_NEEDS_INBAND },
                { 0, 1 << 14 | 1 << 3, VHK_RULE_NEEDS_INBAND }, { 0, 1 << 14 | 1 << 5 | 1 << 3, VHK_RULE_OK },
                { 0, 1 << 11, VHK_RULE_NEEDS_SEND_FD }, { 0, 1 << 11 | 1 << 5, VHK_RULE_NEEDS_SEND_FD },
                { 0, 1 << 11 | 1 << 10 | 1 << 5, VHK_RULE_OK }, { 0, 1 << 22 | 1 << 10, VHK_RULE_NEEDS_SEND_FD },
                { 0, 1 << 22 | 1 << 10 | 1 << 5, VHK_RULE_OK },
                { 0, 1 << 20, VHK_RULE_NEEDS_INFLIGHT }, { 0, 1 << 20 | 1 << 12, VHK_RULE_OK },
                { 0, 1 << 23, VHK_RULE_NEEDS_SKIP_DRAIN }, { 0, 1 << 23 | 1 << 12, VHK_RULE_NEEDS_SKIP_DRAIN },
                { 0, 1 << 23 | 1 << 20 | 1 << 12, VHK_RULE_OK },
                { 0, 1 << 8 | 1 << 15, VHK_RULE_OK },
                { UINT64_C(1) << 33, 0, VHK_RULE_NEEDS_IOMMU }, { UINT64_C(1) << 33, 1 << 3, VHK_RULE_NEEDS_IOMMU },
                { UINT64_C(1) << 33, 1 << 5 | 1 << 3, VHK_RULE_OK },
        };

        for (unsigned i = 0; i < VHK_N(cases); i++) {
                enum vhk_rule r = vhk_wire_check_protocol(cases[i].features, cases[i].protocol);
                seen[r] = true;
                CHECK_MSG(r == cases[i].rule, "0x%llx, 0x%llx: %s", (unsigned long long)cases[i].features,
                          (unsigned long long)cases[i].protocol, vhk_rule_id(r));
        }
        CHECK_EQ(vhk_wire_check_protocol(UINT64_MAX, UINT64_MAX), VHK_RULE_OK);
}

static void answers(const struct vhk_row *row, struct vhk_sample *m) {
        for (unsigned asked = 0; asked < 2; asked++)
                for (unsigned negotiated = 0; negotiated < 2; negotiated++) {
                        m->hdr.flags = VHK_HDR_VERSION | (asked ? VHK_HDR_NEED_REPLY : 0);
                        m->state.protocol = (m->state.protocol & ~VHK_BIT(3)) | (negotiated ? VHK_BIT(3) : 0);
                        enum vhk_answer a = vhk_wire_answer(&m->state, row, &m->hdr);
                        switch (row->reply_rule) {
                        case VHK_REPLY_NEVER: CHECK_EQ(a, VHK_ANSWER_NONE); break;
                        case VHK_REPLY_ACKED: CHECK_EQ(a, VHK_ANSWER_ACK); break;
                        case VHK_REPLY_ASKED: CHECK_EQ(a, asked && negotiated ? VHK_ANSWER_ACK : VHK_ANSWER_NONE); break;
                        default: CHECK_EQ(a, VHK_ANSWER_REPLY);
                        }
                }
}

TEST(an_answer_is_what_the_row_says) {
        static const uint8_t acked[] = { 22, 29, 30 };
        static const uint8_t own[] = { 1, 6, 11, 15, 17, 24, 26, 28, 31, 36, 40, 41, 42, 43, 44, 45 };

        each_sample(answers);
        for (unsigned i = 0; i < VHK_N(acked); i++)
                CHECK_EQ(vhk_wire_row(VHK_FROM_FRONTEND, acked[i], 0)->reply_rule, VHK_REPLY_ACKED);
        unsigned n = 0;
        for (unsigned i = 0; i < vhk_n_rows; i++)
                n += vhk_rows[i].dir == VHK_FROM_FRONTEND && vhk_rows[i].phase == VHK_PHASE_NORMAL && vhk_rows[i].reply_rule >= VHK_REPLY_ALWAYS;
        CHECK_EQ(n, VHK_N(own));
        for (unsigned i = 0; i < VHK_N(own); i++)
                CHECK(vhk_wire_row(VHK_FROM_FRONTEND, own[i], 0)->reply_rule >= VHK_REPLY_ALWAYS);
}

static enum vhk_rule reply(const struct vhk_row *row, const struct vhk_sample *m, uint32_t id, uint32_t flags, uint32_t size,
                           const void *payload, unsigned n_fds) {
        struct vhk_hdr h = { id, flags, size };
        enum vhk_rule r = vhk_wire_check_reply(&m->state, row->dir, &m->hdr, &h, payload, n_fds);

        seen[r] = true;
        return r;
}

/* Sizes that peers were seen to answer with, by hand (0xffff: the size of the request). */
static const struct { enum vhk_dir dir; uint8_t id, phase, n_fds; uint16_t sizes[3]; uint8_t n_sizes; uint64_t first; } replies[] = {
        { VHK_FROM_FRONTEND, 1, 0, 0, { 8 }, 1 }, { VHK_FROM_FRONTEND, 6, 0, 0, { 0, 8, 16 }, 3 },
        { VHK_FROM_FRONTEND, 11, 0, 0, { 8 }, 1 }, { VHK_FROM_FRONTEND, 15, 0, 0, { 8 }, 1 },
        { VHK_FROM_FRONTEND, 17, 0, 0, { 8 }, 1 }, { VHK_FROM_FRONTEND, 24, 0, 0, { 0, 12, 0xffff }, 3 },
        { VHK_FROM_FRONTEND, 26, 0, 0, { 0xffff }, 1 }, { VHK_FROM_FRONTEND, 28, 0, 1, { 0 }, 1 },
        { VHK_FROM_FRONTEND, 31, 0, 1, { 20, 24 }, 2, 4096 }, { VHK_FROM_FRONTEND, 31, 0, 0, { 20, 24 }, 2, 0 },
        { VHK_FROM_FRONTEND, 36, 0, 0, { 8 }, 1 }, { VHK_FROM_FRONTEND, 40, 0, 0, { 8 }, 1 },
        { VHK_FROM_FRONTEND, 41, 0, 0, { 0, 8, 16 }, 3 }, { VHK_FROM_FRONTEND, 41, 0, 1, { 0, 8, 16 }, 3 },
        { VHK_FROM_FRONTEND, 42, 0, 1, { 8 }, 1, 0 }, { VHK_FROM_FRONTEND, 42, 0, 0, { 8 }, 1, 0x100 },
        { VHK_FROM_FRONTEND, 42, 0, 0, { 8 }, 1, 0x101 }, { VHK_FROM_FRONTEND, 43, 0, 0, { 8 }, 1, 1 },
        { VHK_FROM_FRONTEND, 44, 0, 0, { 2056 }, 1 }, { VHK_FROM_FRONTEND, 45, 0, 0, { 8 }, 1 },
        { VHK_FROM_FRONTEND, 5, VHK_PHASE_POSTCOPY, 0, { 0xffff }, 1 },
        { VHK_FROM_FRONTEND, 22, 0, 0, { 8 }, 1 }, { VHK_FROM_FRONTEND, 29, 0, 0, { 8 }, 1 }, { VHK_FROM_FRONTEND, 30, 0, 0, { 8 }, 1 },
        { VHK_FROM_BACKEND, 8, 0, 1, { 8 }, 1, 0 }, { VHK_FROM_BACKEND, 8, 0, 0, { 8 }, 1, 1 },
};

TEST(replies_have_the_sizes_that_peers_send) {
        static struct vhk_sample m;
        static uint64_t body[300];

        for (unsigned i = 0; i < VHK_N(replies); i++) {
                const struct vhk_row *row = sample_of(replies[i].dir, replies[i].id, replies[i].phase, &m);
                uint8_t n_fds = replies[i].n_fds;
                unsigned k;

                body[0] = replies[i].first;
                for (uint32_t size = 0; size <= 2100; size++) {
                        for (k = 0; k < replies[i].n_sizes; k++)
                                if ((replies[i].sizes[k] == 0xffff ? m.hdr.size : replies[i].sizes[k]) == size)
                                        break;
                        CHECK_RULE(reply(row, &m, row->id, 5, size, body, n_fds), k < replies[i].n_sizes ? VHK_RULE_OK : VHK_RULE_REPLY_SIZE,
                                   row, "reply of %u bytes", size);
                }
                uint32_t size = replies[i].sizes[0] == 0xffff ? m.hdr.size : replies[i].sizes[0];
                CHECK_RULE(reply(row, &m, row->id + 1, 5, size, body, n_fds), VHK_RULE_REPLY_ID, row, "another id");
                CHECK_RULE(reply(row, &m, row->id, 5, size, body, 2), VHK_RULE_REPLY_FDS_EXTRA, row, "2 fds");
                CHECK_RULE(reply(row, &m, row->id, 5, size, body, VHK_FDS_LOST), VHK_RULE_REPLY_FDS_LOST, row, "fds lost");
                for (uint32_t flags = 0; flags < 32; flags++)
                        if (flags != 5)
                                CHECK_RULE(reply(row, &m, row->id, flags, size, body, n_fds), VHK_RULE_REPLY_FLAGS, row, "flags %u", flags);
                if (row->reply_fds != VHK_FDS_OPTIONAL)
                        CHECK_RULE(reply(row, &m, row->id, 5, size, body, !n_fds),
                                   n_fds ? VHK_RULE_REPLY_FDS_MISSING : VHK_RULE_REPLY_FDS_EXTRA, row, "%u fds", !n_fds);
        }
}

static void acks(const struct vhk_row *row, struct vhk_sample *m) {
        if (row->reply_rule != VHK_REPLY_ASKED)
                return;
        m->hdr.flags |= VHK_HDR_NEED_REPLY;
        m->state.protocol |= VHK_BIT(VHK_PF_REPLY_ACK);
        CHECK_RULE(reply(row, m, row->id, 5, 8, m->u.bytes, 0), VHK_RULE_OK, row, "ack");
        CHECK_RULE(reply(row, m, row->id, 5, 8, m->u.bytes, 1), VHK_RULE_REPLY_FDS_EXTRA, row, "ack with an fd");
        CHECK_RULE(reply(row, m, row->id, 5, 0, m->u.bytes, 0), VHK_RULE_REPLY_SIZE, row, "empty ack");
        CHECK_RULE(reply(row, m, row->id, 5, 12, m->u.bytes, 0), VHK_RULE_REPLY_SIZE, row, "long ack");
        m->hdr.flags &= ~VHK_HDR_NEED_REPLY;
        CHECK_RULE(reply(row, m, row->id, 5, 8, m->u.bytes, 0), VHK_RULE_REPLY_UNEXPECTED, row, "ack unasked");
}

TEST(an_acknowledgement_is_a_u64) {
        each_sample(acks);
}

static void printed(const struct vhk_row *row, struct vhk_sample *m) {
        char line[4096], cut[64];
        size_t n = vhk_wire_print(row->dir, &m->hdr, m->u.bytes, m->n_fds, line, sizeof(line));

        CHECK_EQ(n, strlen(line));
        if (row->phase != VHK_PHASE_POSTCOPY)
                CHECK_MSG(!strncmp(line, row->name, strlen(row->name)), "%s is printed as %s", row->name, line);
        for (size_t size = 0; size <= sizeof(cut); size++) {
                memset(cut, '#', sizeof(cut));
                size_t k = vhk_wire_print(row->dir, &m->hdr, m->u.bytes, m->n_fds, cut, size);
                CHECK(k == (size ? (n < size ? n : size - 1) : 0));
                CHECK(!size || (!memcmp(cut, line, k) && !cut[k]));
        }
        m->hdr.flags |= VHK_HDR_REPLY;
        vhk_wire_print(row->dir, &m->hdr, m->u.bytes, m->n_fds, line, sizeof(line));
        CHECK(strstr(line, " reply"));
}

TEST(every_message_prints_in_any_space) {
        each_sample(printed);
}

TEST(lines_are_for_people) {
        char line[300];
        struct vhk_p_vring_state st = { 0, 128 };
        uint64_t bits = VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_EVENT_IDX) | VHK_BIT(5), kick = 0x102;

        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_VRING_NUM, 1, 8 }, &st, 0, line, sizeof(line));
        CHECK_STR(line, "SET_VRING_NUM ring 0 num 128 (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_GET_FEATURES, 5, 8 }, &bits, 0, line, sizeof(line));
        CHECK_STR(line, "GET_FEATURES reply 0x120000020 bit-5 EVENT_IDX VERSION_1 (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_PROTOCOL_FEATURES, 1, 8 }, &(uint64_t){ 9 }, 0, line, sizeof(line));
        CHECK_STR(line, "SET_PROTOCOL_FEATURES 0x9 MQ REPLY_ACK (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_VRING_KICK, 9, 8 }, &kick, 0, line, sizeof(line));
        CHECK_STR(line, "SET_VRING_KICK ring 2 without descriptor (8 bytes, no fds, wants a reply)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_OWNER, 5, 8 }, &(uint64_t){ 1 }, 0, line, sizeof(line));
        CHECK_STR(line, "SET_OWNER reply value 0x1 (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_STATUS, 1, 8 }, &(uint64_t){ 31 }, 0, line, sizeof(line));
        CHECK_STR(line, "SET_STATUS 0x1f ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK SUSPEND (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_GET_STATUS, 5, 8 }, &(uint64_t){ 0 }, 0, line, sizeof(line));
        CHECK_STR(line, "GET_STATUS reply 0x0 (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_BACKEND, &(struct vhk_hdr){ 77, 0x11, 0xffffffff }, NULL, 2, line, sizeof(line));
        CHECK_STR(line, "message 77 (4294967295 bytes, 2 fds, flags 0x11)");
}

/* An acknowledgement is a status, whatever the request's payload means. */
TEST(acknowledgements_print_as_a_status) {
        static const uint32_t ids[] = { VHK_FE_SET_VRING_KICK, VHK_FE_SET_VRING_CALL, VHK_FE_SET_VRING_ERR, VHK_FE_SET_FEATURES,
                                        VHK_FE_SET_PROTOCOL_FEATURES, VHK_FE_SET_STATUS };
        char line[200], expected[200];

        for (unsigned i = 0; i < VHK_N(ids); i++)
                for (uint64_t x = 0; x < 2; x++) {
                        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ ids[i], 5, 8 }, &x, 0, line, sizeof(line));
                        snprintf(expected, sizeof(expected), "%s reply value 0x%u (8 bytes, no fds)",
                                 vhk_wire_row(VHK_FROM_FRONTEND, ids[i], VHK_PHASE_NORMAL)->name, (unsigned)x);
                        CHECK_STR(line, expected);
                }
        vhk_wire_print(VHK_FROM_BACKEND, &(struct vhk_hdr){ VHK_BE_VRING_HOST_NOTIFIER_MSG, 5, 8 }, &(uint64_t){ 1 }, 0, line, sizeof(line));
        CHECK_STR(line, "VRING_HOST_NOTIFIER_MSG reply value 0x1 (8 bytes, no fds)");
}

/* What a row's own reply says no with is a legal reply, to a request of each size. */
TEST(refusals_are_legal_replies) {
        static const uint32_t ids[] = { VHK_FE_GET_CONFIG, VHK_FE_CREATE_CRYPTO_SESSION, VHK_FE_GET_INFLIGHT_FD, VHK_FE_GET_SHARED_OBJECT,
                                        VHK_FE_SET_DEVICE_STATE_FD, VHK_FE_CHECK_DEVICE_STATE };
        struct vhk_wire_state s = { .protocol = ~0ull, .n_queues = 1 };
        union vhk_p_any reply;
        unsigned n = 0;

        for (const struct vhk_row *row = vhk_rows; row < vhk_rows + vhk_n_rows; row++) {
                bool listed = false;
                for (unsigned i = 0; i < VHK_N(ids); i++)
                        listed |= row->dir == VHK_FROM_FRONTEND && row->id == ids[i];
                n += listed;
                for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++) {
                        if (v->payload != row->request)
                                continue;
                        struct vhk_hdr asked = { row->id, VHK_HDR_VERSION, v->fixed + v->each };
                        int size = vhk_wire_refusal(row, &asked, &reply);
                        CHECK_MSG((size >= 0) == listed, "%s", row->name);
                        if (size < 0)
                                continue;
                        struct vhk_hdr h = { row->id, VHK_HDR_VERSION | VHK_HDR_REPLY, (uint32_t)size };
                        CHECK_MSG(vhk_wire_check_reply(&s, row->dir, &asked, &h, &reply, 0) == VHK_RULE_OK, "%s (%u bytes): %d bytes are no reply",
                                  row->name, asked.size, size);
                }
        }
        CHECK_EQ(n, VHK_N(ids));
}

static void check_line(uint32_t id, uint64_t with, unsigned n, const char *expected) {
        static struct vhk_sample m;
        char line[2000];

        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++) {
                if (v->with != with || !vhk_sample_make(&m, vhk_wire_row(VHK_FROM_FRONTEND, id, 0), v, n))
                        continue;
                /* An exact copy, so that a read beyond the payload is seen. */
                uint8_t *exact = malloc(m.hdr.size);
                memcpy(exact, m.u.bytes, m.hdr.size);
                vhk_wire_print(VHK_FROM_FRONTEND, &m.hdr, exact, m.n_fds, line, sizeof(line));
                free(exact);
                CHECK_STR(line, expected);
                return;
        }
        CHECK_MSG(false, "message %u has no such form", id);
}

TEST(lines_show_regions) {
        check_line(VHK_FE_SET_MEM_TABLE, 0, 2,
                   "SET_MEM_TABLE n_regions 2 [ guest_addr 0x0 len 0x100000 user_addr 0x7f0000000000 mmap_offset 0x0 ]"
                   " [ guest_addr 0x200000 len 0x100000 user_addr 0x7f0000200000 mmap_offset 0x100000 ] (72 bytes, 2 fds)");
        check_line(VHK_FE_SET_MEM_TABLE, VHK_BIT(VHK_PF_XEN_MMAP), 1,
                   "SET_MEM_TABLE n_regions 1 [ guest_addr 0x0 len 0x100000 user_addr 0x7f0000000000 mmap_offset 0x0 xen_flags 0x1 "
                   "xen_domid 3 ] (48 bytes, 1 fd)");
        check_line(VHK_FE_ADD_MEM_REG, 0, 0,
                   "ADD_MEM_REG [ guest_addr 0x0 len 0x100000 user_addr 0x7f0000000000 mmap_offset 0x0 ] (40 bytes, 1 fd)");
        check_line(VHK_FE_ADD_MEM_REG, VHK_BIT(VHK_PF_XEN_MMAP), 0,
                   "ADD_MEM_REG [ guest_addr 0x0 len 0x100000 user_addr 0x7f0000000000 mmap_offset 0x0 xen_flags 0x1 xen_domid 3 ] (48 bytes, 1 fd)");
        check_line(VHK_FE_IOTLB_MSG, 0, 0, "IOTLB_MSG iova 0x1000 len 0x1000 user_addr 0x7f0000001000 perm 3 type 2 (32 bytes, no fds)");
}

TEST(lines_show_what_is_not_a_number) {
        char line[300];
        uint8_t uuid[16];
        uint64_t crypto[134] = { 7 }, words[257] = { 2 };

        for (unsigned i = 0; i < 16; i++)
                uuid[i] = (uint8_t)(0x10 + i);
        crypto[133] = 9;
        vhk_wire_print(VHK_FROM_BACKEND, &(struct vhk_hdr){ VHK_BE_SHARED_OBJECT_ADD, 1, 16 }, uuid, 0, line, sizeof(line));
        CHECK_STR(line, "SHARED_OBJECT_ADD 10111213-1415-1617-1819-1a1b1c1d1e1f (16 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_GET_SHARED_OBJECT, 5, 16 }, uuid, 1, line, sizeof(line));
        CHECK_STR(line, "GET_SHARED_OBJECT reply 10111213-1415-1617-1819-1a1b1c1d1e1f (16 bytes, 1 fd)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_CREATE_CRYPTO_SESSION, 1, 1072 }, crypto, 0, line, sizeof(line));
        CHECK_STR(line, "CREATE_CRYPTO_SESSION op_code 0x7 session_id 9 (1072 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_CREATE_CRYPTO_SESSION, 5, 632 }, crypto, 0, line, sizeof(line));
        CHECK_STR(line, "CREATE_CRYPTO_SESSION reply session_id 7 (632 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_GET_SHMEM_CONFIG, 5, 2056 }, words, 0, line, sizeof(line));
        CHECK_STR(line, "GET_SHMEM_CONFIG reply n_regions 2 (2056 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_LOG_BASE, 5, 8 }, words, 0, line, sizeof(line));
        CHECK_STR(line, "SET_LOG_BASE reply mmap_size 0x2 (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_MEM_TABLE, 1, 8 }, &(uint64_t){ 0 }, 0, line, sizeof(line));
        CHECK_STR(line, "SET_MEM_TABLE_ACK value 0x0 (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_MEM_TABLE, 5, 8 }, &(uint64_t){ 0 }, 0, line, sizeof(line));
        CHECK_STR(line, "SET_MEM_TABLE reply value 0x0 (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_BACKEND, &(struct vhk_hdr){ VHK_BE_VRING_ERR, 1, 8 }, words, 0, line, sizeof(line));
        CHECK_STR(line, "VRING_ERR ring 2 num 0 (8 bytes, no fds)");
        /* A header alone, and one that announces more than there can be. */
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_FEATURES, 1, 8 }, NULL, 0, line, sizeof(line));
        CHECK_STR(line, "SET_FEATURES (8 bytes, no fds)");
        vhk_wire_print(VHK_FROM_FRONTEND, &(struct vhk_hdr){ VHK_FE_SET_FEATURES, 1, 0xffffffff }, words, 0, line, sizeof(line));
        CHECK_STR(line, "SET_FEATURES (4294967295 bytes, no fds)");
}

TEST(rows_and_rules_have_names_of_their_own) {
        for (unsigned i = 0; i < vhk_n_rows; i++) {
                CHECK(vhk_rows[i].witness && vhk_rows[i].ioctl_twin && *vhk_rows[i].witness && *vhk_rows[i].ioctl_twin);
                for (unsigned k = 0; k < i; k++)
                        CHECK_MSG(vhk_rows[i].dir != vhk_rows[k].dir || strcmp(vhk_rows[i].name, vhk_rows[k].name), "%s twice", vhk_rows[i].name);
        }
        for (unsigned i = 0; i < VHK_N_RULES; i++) {
                CHECK(*vhk_rule_text(i));
                for (unsigned k = 0; k < i; k++)
                        CHECK_MSG(strcmp(vhk_rule_id(i), vhk_rule_id(k)), "%s twice", vhk_rule_id(i));
        }
        CHECK_STR(vhk_rule_id(VHK_N_RULES), "wire.unknown-rule");
        CHECK(vhk_rule_is_fatal(VHK_N_RULES));
        CHECK(*vhk_rule_text(VHK_N_RULES));
}

TEST(every_rule_was_broken) {
        if (!seen[VHK_RULE_OK])
                SKIP("cannot: the other tests did not run");
        for (unsigned i = 0; i < VHK_RULE_GPU_REPLY_FLAGS; i++)       /* the rest is the display's: test-gpu.c */
                CHECK_MSG(seen[i], "no test breaks %s", vhk_rule_id(i));
}
