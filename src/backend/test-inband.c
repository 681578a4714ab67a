/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* In-band notifications: rings without descriptors. */
#include "backend/test-backend.h"

#define INBAND (PROTOCOL | VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS))

static struct vhk_conn channel = { .fd = -1 };

static void open_inband(struct rig *r) {
        rig_open(r, &(struct vhk_backend_options){ .protocol_offer = VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS) }, NULL);
        fe_connect(r);
        fe_negotiate(r, FEATURES, INBAND);
        CHECK_EQ(fe_mem_reg(r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
}

static void open_channel(struct rig *r) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), 0);
        close(pair[1]);
        vhk_conn_done(&channel);
        CHECK_OK(vhk_conn_init(&channel, pair[0]));
}

static void close_inband(struct rig *r) {
        vhk_conn_done(&channel);
        channel.fd = -1;
        rig_close(r);
}

/* Everything but descriptors. */
static void ring_without(struct rig *r, unsigned i) {
        struct vhk_p_vring_addr a = ring_addr(r, i);

        ring_make(r, i);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_NUM, i, RING_SIZE), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_BASE, i, 0), 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_ENABLE, i, 1), 0);
}

/* The next message on the channel, as its number and ring; 0: none. */
static uint32_t heard(unsigned *ret_ring) {
        struct vhk_p_vring_state p;
        int k;

        while ((k = vhk_conn_receive(&channel)) == VHK_CONN_HEADER)
                ;
        if (k != VHK_CONN_MESSAGE)
                return 0;
        struct vhk_hdr h = vhk_decoder_header(&channel.in);
        CHECK_EQ(h.size, sizeof(p));
        CHECK_EQ(h.flags, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY);
        memcpy(&p, channel.in.payload, sizeof(p));
        CHECK_EQ(p.num, 0);
        vhk_decoder_next(&channel.in);
        *ret_ring = p.index;
        return h.request;
}

static void acknowledge(uint32_t id, uint64_t word) {
        struct vhk_hdr ack = { id, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 };

        CHECK_OK(vhk_conn_send(&channel, &ack, &word, NULL, 0));
}

static void expect_call(struct rig *r, uint32_t id, unsigned ring) {
        unsigned got = ~0u;
        uint32_t k = 0;

        PUMP_UNTIL(r, (k = heard(&got)) != 0);
        CHECK_EQ(k, id);
        CHECK_EQ(got, ring);
}

static void expect_silence(struct rig *r) {
        unsigned got;

        pump(r);
        CHECK_EQ(heard(&got), 0);
}

/* A request, kicked in-band. */
static void request(struct rig *r, unsigned i) {
        ring_add(r, i);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_VRING_KICK, i, 0), 0);
}

TEST(only_when_asked_for) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK(!(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS)));
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, 0, 0), 1);
        rig_close(&r);
        /* what it needs is not on offer, so neither is it */
        rig_open(&r, &(struct vhk_backend_options){ .protocol_offer = VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS),
                                                    .protocol_no_offer = VHK_BIT(VHK_PF_BACKEND_REQ) }, NULL);
        fe_connect(&r);
        CHECK(!(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS)));
        rig_close(&r);
}

/* The text: the connection is closed, also where a refusal could be told. */
TEST(needs_5_and_3) {
        static const unsigned lacks[] = { VHK_PF_BACKEND_REQ, VHK_PF_REPLY_ACK };
        static struct rig r;
        uint64_t x;

        for (unsigned i = 0; i < VHK_N(lacks); i++) {
                uint64_t set = INBAND & ~VHK_BIT(lacks[i]);
                rig_open(&r, &(struct vhk_backend_options){ .protocol_offer = VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS) }, NULL);
                fe_connect(&r);
                fe_negotiate(&r, FEATURES, PROTOCOL);
                fe_send(&r, VHK_FE_SET_PROTOCOL_FEATURES, VHK_HDR_NEED_REPLY, &set, 8, NULL, 0);
                CHECK_EQ(fe_receive(&r, VHK_FE_SET_PROTOCOL_FEATURES, &x, 8), -EPIPE);
                PUMP_UNTIL(&r, r.n_disconnected == 1);
                CHECK_STR(r.last_rule, "wire.needs-inband");
                rig_close(&r);
        }
}

TEST(kick_starts_and_kicks) {
        static struct rig r;

        open_inband(&r);
        open_channel(&r);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, 2, 0), 1);          /* not set up: refused as SET_VRING_KICK would be */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, 2, 1), 1);          /* reserved */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, N_RINGS, 0), 1);
        ring_without(&r, 2);
        request(&r, 2);                         /* starts it, and the ring is looked at */
        expect_call(&r, VHK_BE_VRING_CALL, 2);
        CHECK_EQ(ring_reap(&r, 2), 1);
        acknowledge(VHK_BE_VRING_CALL, 0);
        request(&r, 2);
        expect_call(&r, VHK_BE_VRING_CALL, 2);
        acknowledge(VHK_BE_VRING_CALL, 1);      /* a front-end that refuses changes nothing */
        CHECK_EQ(ring_reap(&r, 2), 1);
        CHECK_EQ(ring_stop(&r, 2), 2);
        expect_silence(&r);
        request(&r, 2);                         /* and starts it again */
        expect_call(&r, VHK_BE_VRING_CALL, 2);
        CHECK_EQ(ring_reap(&r, 2), 1);
        close_inband(&r);
}

TEST(set_vring_kick_without_a_descriptor) {
        static struct rig r;

        open_inband(&r);
        open_channel(&r);
        ring_without(&r, 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, -1), 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, -1), 0);
        expect_call(&r, VHK_BE_VRING_CALL, 0);                          /* every start signals once */
        acknowledge(VHK_BE_VRING_CALL, 0);
        ring_add(&r, 0);
        for (unsigned i = 0; i < 5; i++)        /* without in-band notifications it would be polled every millisecond */
                turn(&r, 1);
        CHECK_EQ(ring_reap(&r, 0), 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, 0, 0), 0);
        expect_call(&r, VHK_BE_VRING_CALL, 0);
        CHECK_EQ(ring_reap(&r, 0), 1);
        close_inband(&r);
}

/* Whoever gave a descriptor is told by it, and may kick by either. */
TEST(descriptors_come_first) {
        static struct rig r;

        open_inband(&r);
        open_channel(&r);
        ring_make(&r, 1);
        ring_set_up(&r, 1, 0);
        ring_go(&r, 1);
        ring_add(&r, 1);
        PUMP_UNTIL(&r, ring_reap(&r, 1) == 1);
        CHECK_EQ(vhk_drain_fd(r.rings[1].call), 1);
        request(&r, 1);
        PUMP_UNTIL(&r, ring_reap(&r, 1) == 1);
        CHECK_EQ(vhk_drain_fd(r.rings[1].call), 1);
        expect_silence(&r);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 1, -1), 0);       /* taken away while it runs */
        request(&r, 1);
        expect_call(&r, VHK_BE_VRING_CALL, 1);
        CHECK_EQ(vhk_drain_fd(r.rings[1].call), 0);
        close_inband(&r);
}

TEST(calls_are_merged_while_one_is_unanswered) {
        static struct rig r;

        open_inband(&r);
        open_channel(&r);
        ring_without(&r, 0);
        ring_without(&r, 1);
        request(&r, 0);
        expect_call(&r, VHK_BE_VRING_CALL, 0);
        for (unsigned n = 1; n <= 4; n++) {
                request(&r, 0);
                PUMP_UNTIL(&r, ring_reap(&r, 0) > 0);
        }
        expect_silence(&r);
        request(&r, 1);                         /* another ring does not wait for it */
        expect_call(&r, VHK_BE_VRING_CALL, 1);
        acknowledge(VHK_BE_VRING_CALL, 0);
        expect_call(&r, VHK_BE_VRING_CALL, 0);
        acknowledge(VHK_BE_VRING_CALL, 0);
        acknowledge(VHK_BE_VRING_CALL, 0);
        expect_silence(&r);
        close_inband(&r);
}

/* What a ring has to say goes out before the answer that it has stopped; a channel that comes late is told all. */
TEST(nothing_is_lost_and_nothing_comes_late) {
        static struct rig r;
        unsigned ring;

        open_inband(&r);
        ring_without(&r, 0);
        request(&r, 0);
        PUMP_UNTIL(&r, ring_reap(&r, 0) == 1);
        open_channel(&r);
        expect_call(&r, VHK_BE_VRING_CALL, 0);
        request(&r, 0);                         /* the first is unanswered: this one waits ... */
        PUMP_UNTIL(&r, ring_reap(&r, 0) == 1);
        expect_silence(&r);
        CHECK_EQ(ring_stop(&r, 0), 2);
        CHECK_EQ(heard(&ring), VHK_BE_VRING_CALL);      /* ... and is there when the answer is */
        acknowledge(VHK_BE_VRING_CALL, 0);
        acknowledge(VHK_BE_VRING_CALL, 0);
        expect_silence(&r);
        close_inband(&r);
}

TEST(an_error_is_told) {
        static struct rig r;

        open_inband(&r);
        open_channel(&r);
        ring_without(&r, 3);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, 3, 0), 0);
        expect_call(&r, VHK_BE_VRING_CALL, 3);
        acknowledge(VHK_BE_VRING_CALL, 0);
        *(volatile uint16_t *)(r.rings[3].area + 0x1002) = 1000;        /* more than the ring has */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, 3, 0), 0);
        expect_call(&r, VHK_BE_VRING_ERR, 3);
        acknowledge(VHK_BE_VRING_ERR, 0);
        expect_silence(&r);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_VRING_KICK, 3, 0), 0);          /* a broken ring is not kicked to life */
        expect_silence(&r);
        close_inband(&r);
}

/* A front-end that never answers, closes its channel, or leaves, harms nobody. */
TEST(channel_that_ends) {
        static struct rig r;

        open_inband(&r);
        open_channel(&r);
        ring_without(&r, 0);
        request(&r, 0);
        expect_call(&r, VHK_BE_VRING_CALL, 0);
        CHECK_EQ(ring_reap(&r, 0), 1);
        vhk_conn_done(&channel);
        channel.fd = -1;
        pump(&r);
        for (unsigned n = 0; n < 3; n++)
                request(&r, 0);
        PUMP_UNTIL(&r, ring_reap(&r, 0) > 0);
        pump(&r);
        CHECK_EQ(turn(&r, 0), 0);               /* and nothing spins */
        open_channel(&r);
        expect_call(&r, VHK_BE_VRING_CALL, 0);
        fe_close(&r);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, INBAND);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        open_channel(&r);
        ring_without(&r, 0);
        request(&r, 0);
        expect_call(&r, VHK_BE_VRING_CALL, 0);
        close_inband(&r);
}

