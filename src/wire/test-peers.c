/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What deployed front-ends send, in their order, after recordings of QEMU 7.2 and User-Mode Linux 6.1 (tests/traces has those
 * themselves), with messages added that those do not happen to hold: nothing of it may break a rule, and each message gets
 * the answer that they wait for (or none, where they wait for none). Numbers by hand: this list is independent of
 * messages.def.
 */
#include "base/test.h"

#include "wire/wire.h"

enum { NO, ACK, REPLY };        /* the answer */

struct step {
        uint8_t id, flags;
        uint16_t size;
        uint8_t n_fds, answer;
        uint64_t first, second;         /* the payload's first two words; the rest is zero, or regions */
};

#define STATE(ring, num) ((uint64_t)(num) << 32 | (ring))
#define OFFERED (UINT64_C(1) << 32 | 1u << 30 | 1u << 29 | 1u << 28 | 1u << 26 | 1u << 12 | 1u << 9 | 1u << 6 | 1u << 3)
#define ALL_17 0x1ffffull

static void apply(struct vhk_wire_state *s, const struct step *m) {
        switch (m->id) {
        case 2: s->features = m->first; break;
        case 16: s->protocol = m->first; break;
        case 12: s->running = true; break;
        case 11: s->running = false; break;
        case 29: s->phase = VHK_PHASE_POSTCOPY; break;
        case 30: s->phase = VHK_PHASE_NORMAL; break;
        case 5:
                if (s->phase != VHK_PHASE_NORMAL)
                        s->phase = s->phase == VHK_PHASE_POSTCOPY ? VHK_PHASE_POSTCOPY_ACK : VHK_PHASE_POSTCOPY;
                break;
        default: break;
        }
}

static void payload_of(const struct step *m, uint64_t words[40]) {
        memset(words, 0, 40 * sizeof(*words));
        words[0] = m->first;
        words[1] = m->second;
        if (m->id != 5 && m->id != 37 && m->id != 38)
                return;
        for (unsigned i = 0; 8u + 32 * (i + 1) <= m->size; i++) {       /* 0, 0xc0000 and 4 GiB: QEMU's q35 */
                uint64_t gpa = i == 2 ? 0x100000000 : i * 0xc0000, len = i == 2 ? 0x80000000 : i ? 0x7ff40000 : 0xa0000;
                memcpy(words + 1 + i * 4, (uint64_t[]){ gpa, len, 0x7f1000000000 + gpa, i == 2 ? 0x80000000 : gpa }, 32);
        }
}

static void play(const char *name, const struct step *steps, size_t n, uint64_t offered) {
        static const char *const answers[] = { "no answer", "an acknowledgement", "a reply" };
        struct vhk_wire_state s = { .features_offered = offered, .protocol_offered = ~UINT64_C(0), .n_queues = 4 };
        const struct vhk_row *row;
        uint64_t words[40];

        for (size_t i = 0; i < n; i++) {
                struct vhk_hdr h = { steps[i].id, steps[i].flags, steps[i].size };
                payload_of(&steps[i], words);
                enum vhk_rule r = vhk_wire_check(&s, VHK_FROM_FRONTEND, &h, words, steps[i].n_fds, &row);
                CHECK_MSG(r == VHK_RULE_OK, "%s, step %zu, message %u: %s", name, i, steps[i].id, vhk_rule_id(r));
                if (steps[i].id == 16)          /* REPLY_ACK counts for the message that brings it */
                        apply(&s, &steps[i]);
                enum vhk_answer a = vhk_wire_answer(&s, row, &h);
                CHECK_MSG((int)a == steps[i].answer, "%s, step %zu, message %u: %s, expected %s", name, i, steps[i].id, answers[a],
                          answers[steps[i].answer]);
                apply(&s, &steps[i]);
        }
}

/* The beginning of every connection; OFFER is what is taken of the protocol features. */
#define BRING_UP(protocol) \
        { 1, 1, 0, 0, REPLY }, { 15, 1, 0, 0, REPLY }, { 16, 1, 8, 0, NO, protocol }, { 17, 1, 0, 0, REPLY }, \
        { 21, 9, 0, 1, ACK }, { 3, 1, 0, 0, NO }, { 1, 1, 0, 0, REPLY }, \
        { 13, 1, 8, 1, NO, 0 }, { 14, 1, 8, 1, NO, 0 }, { 13, 1, 8, 1, NO, 1 }, { 14, 1, 8, 1, NO, 1 }
#define RING(i, num) \
        { 8, 1, 8, 0, NO, STATE(i, num) }, { 10, 1, 8, 0, NO, STATE(i, 0) }, { 9, 1, 40, 0, NO, i, 0x7f1000001000 }, { 12, 1, 8, 1, NO, i }

TEST(qemu_block_starts_migrates_and_stops) {
        static const struct step steps[] = {
                BRING_UP(ALL_17), { 36, 1, 0, 0, REPLY }, { 24, 1, 69, 0, REPLY, STATE(0, 57) },
                { 2, 1, 8, 0, NO, OFFERED & ~(1u << 26) }, { 40, 1, 0, 0, REPLY }, { 39, 1, 8, 0, NO, 8 },
                { 2, 1, 8, 0, NO, OFFERED & ~(1u << 26) }, { 37, 9, 40, 1, ACK }, { 37, 9, 40, 1, ACK },
                RING(0, 128), RING(1, 128),
                { 18, 1, 8, 0, NO, STATE(0, 1) }, { 18, 1, 8, 0, NO, STATE(1, 1) }, { 18, 1, 8, 0, NO, STATE(3, 1) },
                { 40, 1, 0, 0, REPLY }, { 39, 1, 8, 0, NO, 0xf },
                { 38, 9, 40, 0, ACK }, { 37, 9, 40, 1, ACK }, { 25, 9, 13, 0, ACK, STATE(32, 1) },
                /* a migration begins */
                { 6, 1, 16, 1, REPLY, 0x2000, 0 }, { 2, 9, 8, 0, ACK, OFFERED }, { 40, 1, 0, 0, REPLY },
                { 9, 9, 40, 0, ACK, STATE(0, 1), 0x7f1000001000 }, { 9, 9, 40, 0, ACK, STATE(1, 1), 0x7f1000001000 },
                /* the device stops */
                { 39, 1, 8, 0, NO, 0 }, { 18, 1, 8, 0, NO, STATE(0, 0) }, { 18, 1, 8, 0, NO, STATE(1, 0) },
                { 11, 1, 8, 0, REPLY, STATE(0, 0) }, { 11, 1, 8, 0, REPLY, STATE(1, 0) }, { 13, 1, 8, 1, NO, 0 },
        };

        play("block", steps, VHK_N(steps), OFFERED);
}

/* QEMU takes GET_INFLIGHT_FD's 24 bytes; num_queues and queue_size are in the third word. */
TEST(qemu_inflight_descriptions_have_24_bytes) {
        struct vhk_wire_state s = { .protocol = 1u << 12, .n_queues = 4 };
        struct vhk_p_inflight p = { .num_queues = 4, .queue_size = 128, .padding = 0xdeadbeef };
        struct vhk_hdr h = { 31, 1, 24 };
        const struct vhk_row *row;

        CHECK_EQ(vhk_wire_check(&s, VHK_FROM_FRONTEND, &h, &p, 0, &row), VHK_RULE_OK);
        p.mmap_size = 0x2100;
        h.request = 32;
        CHECK_EQ(vhk_wire_check(&s, VHK_FROM_FRONTEND, &h, &p, 1, &row), VHK_RULE_OK);
        CHECK_EQ(vhk_wire_check_reply(&s, VHK_FROM_FRONTEND, &(struct vhk_hdr){ 31, 1, 24 }, &(struct vhk_hdr){ 31, 5, 24 }, &p, 1), VHK_RULE_OK);
}

TEST(qemu_net_enables_before_everything_and_repeats_itself) {
        static const struct step steps[] = {
                BRING_UP(0x1fdff), BRING_UP(0x1fdff),
                { 18, 1, 8, 0, NO, STATE(0, 1) }, { 18, 1, 8, 0, NO, STATE(1, 1) }, { 18, 1, 8, 0, NO, STATE(2, 0) },
                { 20, 9, 8, 0, ACK, 1500 },
                { 2, 1, 8, 0, NO, OFFERED }, { 5, 9, 72, 2, ACK, 2 }, RING(0, 256), RING(1, 256),
                { 2, 1, 8, 0, NO, OFFERED }, { 5, 9, 104, 3, ACK, 3 }, RING(2, 256), RING(3, 256),
                { 16, 1, 8, 0, NO, 0x1fdff }, { 19, 1, 8, 0, NO, 0x563412005452 }, { 13, 1, 8, 1, NO, 3 },
                { 11, 1, 8, 0, REPLY, 0 }, { 11, 1, 8, 0, REPLY, 1 }, { 18, 1, 8, 0, NO, STATE(0, 1) },
        };

        play("net", steps, VHK_N(steps), OFFERED | 1u << 5);
}

/* The guest's ring bits pass through although they were not offered. */
TEST(qemu_rng_takes_ring_bits_that_were_not_offered) {
        static const struct step steps[] = {
                BRING_UP(0x1fdff), { 13, 1, 8, 1, NO, 0 }, { 2, 1, 8, 0, NO, 0x170000000 }, { 39, 1, 8, 0, NO, 8 }, { 5, 9, 40, 1, ACK, 1 },
                RING(0, 4), { 18, 1, 8, 0, NO, STATE(0, 1) }, { 13, 1, 8, 1, NO, 0 }, { 18, 1, 8, 0, NO, 0 }, { 11, 1, 8, 0, REPLY, 0 },
        };

        play("rng", steps, VHK_N(steps), 0x140000000);
}

TEST(qemu_crypto_never_enables) {
        static const struct step steps[] = {
                BRING_UP(0x1fdff), { 2, 1, 8, 0, NO, 0x40000000 }, { 39, 1, 8, 0, NO, 8 }, { 5, 9, 40, 1, ACK, 1 }, RING(0, 1024),
                { 26, 1, 632, 0, REPLY }, { 26, 1, 1072, 0, REPLY }, { 27, 1, 8, 0, NO, 1 }, { 11, 1, 8, 0, REPLY, 0 },
        };

        play("crypto", steps, VHK_N(steps), 0x140000000);
}

/* A packed ring starts at 0x80008000; with an IOMMU the used ring's translation comes at once and is always acknowledged. */
TEST(qemu_packed_behind_an_iommu) {
        const uint64_t features = OFFERED | UINT64_C(3) << 33;
        const struct step steps[] = {
                BRING_UP(ALL_17), { 2, 1, 8, 0, NO, features }, { 5, 9, 40, 1, ACK, 1 },
                { 8, 1, 8, 0, NO, STATE(0, 128) }, { 10, 1, 8, 0, NO, STATE(0, 0x80008000) }, { 9, 1, 40, 0, NO, 0, 0x1000 }, { 12, 1, 8, 1, NO, 0 },
                { 34, 1, 0, 0, NO }, { 11, 1, 8, 0, REPLY, 0 },
        };
        struct vhk_wire_state s = { .features = features, .n_queues = 1 };
        struct vhk_p_iotlb p = { .iova = 0x1000, .len = 0x1000, .user_addr = 0x7f1000001000, .perm = 3, .type = 2 };
        struct vhk_hdr h = { 22, 9, 32 };
        const struct vhk_row *row;

        play("packed", steps, VHK_N(steps), features);
        CHECK_EQ(vhk_wire_check(&s, VHK_FROM_FRONTEND, &h, &p, 0, &row), VHK_RULE_OK);
        CHECK_EQ(vhk_wire_answer(&s, row, &h), VHK_ANSWER_ACK);
}

TEST(qemu_postcopy) {
        static const struct step steps[] = {
                BRING_UP(0x17fff), { 28, 1, 0, 0, REPLY }, { 29, 9, 0, 0, ACK }, { 2, 1, 8, 0, NO, OFFERED },
                { 5, 1, 72, 2, REPLY, 2 }, { 5, 1, 8, 0, NO, 0 }, RING(0, 128), { 18, 1, 8, 0, NO, STATE(0, 1) }, { 30, 9, 0, 0, ACK },
                { 5, 9, 72, 2, ACK, 2 },
        };

        play("postcopy", steps, VHK_N(steps), OFFERED);
}

/* User-Mode Linux asks for an acknowledgement of everything but SET_OWNER and what has a reply, of SET_PROTOCOL_FEATURES itself
 * too, which is what brings REPLY_ACK. Its configuration reads have any size. A driver gives the device back with ENABLE 0
 * alone: the memory and the ring are set up anew without GET_VRING_BASE (tests/traces/uml-blk.trace). */
TEST(user_mode_linux) {
#define CONFIG_READ(n) { 24, 1, 12 + (n), 0, REPLY, STATE(0, n) }
#define DRIVER \
        { 2, 9, 8, 0, ACK, OFFERED }, CONFIG_READ(16), CONFIG_READ(36), { 5, 9, 40, 1, ACK, 1 }, \
        { 13, 9, 8, 1, ACK, 0 }, { 8, 9, 8, 0, ACK, STATE(0, 256) }, { 10, 9, 8, 0, ACK, STATE(0, 0) }, \
        { 9, 9, 40, 0, ACK, 0, 0x7b10000 }, { 12, 9, 8, 1, ACK, 0 }, { 18, 9, 8, 0, ACK, STATE(0, 1) }, \
        CONFIG_READ(33), CONFIG_READ(24), CONFIG_READ(25), CONFIG_READ(8)
        static const struct step steps[] = {
                { 3, 1, 0, 0, NO }, { 1, 1, 0, 0, REPLY }, { 15, 1, 0, 0, REPLY }, { 16, 9, 8, 0, ACK, 0x228 }, { 21, 9, 0, 1, ACK },
                DRIVER, { 18, 9, 8, 0, ACK, STATE(0, 0) }, { 1, 1, 0, 0, REPLY }, DRIVER,
        };

        play("uml", steps, VHK_N(steps), OFFERED);
}
