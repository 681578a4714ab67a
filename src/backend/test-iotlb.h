/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * For the tests with translations: a scripted front-end with a back-end channel. What test-backend.h calls guest addresses
 * (GPA and on) are I/O addresses here; guest memory itself begins at guest address 0.
 */
#pragma once

#include "backend/test-backend.h"

#define PLATFORM VHK_BIT(VHK_F_ACCESS_PLATFORM)
#define PAGE UINT64_C(4096)

static struct vhk_conn channel = { .fd = -1 };

static inline void channel_open(struct rig *r) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), 0);
        close(pair[1]);
        vhk_conn_done(&channel);
        CHECK_OK(vhk_conn_init(&channel, pair[0]));
}

static inline struct vhk_p_region iotlb_region(struct rig *r, uint64_t off, uint64_t len) {
        return (struct vhk_p_region){ off, len, (uint64_t)(uintptr_t)r->mem + off, off };
}

static inline int64_t iotlb_memory(struct rig *r, uint32_t id, uint64_t off, uint64_t len) {
        struct vhk_p_mem_region_single p = { .region = { iotlb_region(r, off, len) } };
        return fe_ask(r, id, &p, sizeof(p), id == VHK_FE_ADD_MEM_REG ? r->memfd : -1);
}

/* The acknowledgement, or -EPIPE. */
static inline int64_t iotlb_send(struct rig *r, unsigned type, uint64_t iova, uint64_t len, uint64_t user_addr, unsigned perm) {
        struct vhk_p_iotlb p = { .iova = iova, .len = len, .user_addr = user_addr, .perm = (uint8_t)perm, .type = (uint8_t)type };
        uint64_t x = ~0ull;

        fe_send(r, VHK_FE_IOTLB_MSG, 0, &p, sizeof(p), NULL, 0);        /* acknowledged without NEED_REPLY too */
        int k = fe_receive(r, VHK_FE_IOTLB_MSG, &x, sizeof(x));
        return k < 0 ? k : (int64_t)x;
}

static inline int64_t iotlb_update(struct rig *r, uint64_t iova, uint64_t len, unsigned perm) {
        return iotlb_send(r, VHK_IOTLB_UPDATE, iova, len, (uint64_t)(uintptr_t)r->mem + (iova - GPA), perm);
}

static inline int64_t iotlb_invalidate(struct rig *r, uint64_t iova, uint64_t len) {
        return iotlb_send(r, VHK_IOTLB_INVALIDATE, iova, len, 0x5555555555555555, 0xff);
}

/* The next message on the channel, if there is one. */
static inline bool channel_poll(struct vhk_p_iotlb *ret_p) {
        int k;

        while ((k = vhk_conn_receive(&channel)) == VHK_CONN_HEADER)
                ;
        if (k != VHK_CONN_MESSAGE)
                return false;
        struct vhk_hdr h = vhk_decoder_header(&channel.in);
        CHECK(h.request == VHK_BE_IOTLB_MSG && h.flags == (VHK_HDR_VERSION | VHK_HDR_NEED_REPLY) && h.size == sizeof(*ret_p));
        memcpy(ret_p, channel.in.payload, sizeof(*ret_p));
        vhk_decoder_next(&channel.in);
        return true;
}

static inline void channel_answer(uint64_t word) {
        static const struct vhk_hdr ack = { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 };
        CHECK_OK(vhk_conn_send(&channel, &ack, &word, NULL, 0));
}

static inline struct vhk_p_iotlb next_miss(struct rig *r) {
        struct vhk_p_iotlb p;

        PUMP_UNTIL(r, channel_poll(&p));
        CHECK_EQ(p.type, VHK_IOTLB_MISS);
        CHECK_EQ(p.iova % PAGE, 0);
        return p;
}

/* Everything in @cond's way that is missed is answered. */
#define SERVE_UNTIL(r, cond)                                                                                            \
        PUMP_UNTIL(r, ({                                                                                                \
                struct vhk_p_iotlb p_;                                                                                  \
                while (channel_poll(&p_)) {                                                                             \
                        channel_answer(0);                                                                              \
                        CHECK_EQ(iotlb_update(r, p_.iova, PAGE, 3), 0);                                                \
                }                                                                                                       \
                cond;                                                                                                   \
        }))

static inline void iotlb_connect(struct rig *r, uint64_t protocol) {
        fe_connect(r);
        fe_negotiate(r, FEATURES | PLATFORM, PROTOCOL | protocol);
        channel_open(r);
        CHECK_EQ(iotlb_memory(r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
}

/* Ring @i with I/O addresses, started. */
static inline void iotlb_ring(struct rig *r, unsigned i) {
        struct vhk_p_vring_addr a = ring_addr(r, i);

        ring_make(r, i);
        ring_set_up(r, i, 0);
        a.desc += GPA - (uintptr_t)r->mem;
        a.avail += GPA - (uintptr_t)r->mem;
        a.used += GPA - (uintptr_t)r->mem;
        CHECK_EQ(fe_ask(r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        ring_go(r, i);
}

static inline void iotlb_open(struct rig *r, struct vhk_backend_options o, unsigned n) {
        o.features_offer = PLATFORM;
        rig_open(r, &o, NULL);
        iotlb_connect(r, 0);
        for (unsigned i = 0; i < n; i++)
                iotlb_ring(r, i);
}

static inline void iotlb_close(struct rig *r) {
        vhk_conn_done(&channel);
        channel.fd = -1;
        rig_close(r);
}

static inline uint64_t area_iova(unsigned i, unsigned page) { return GPA + i * RING_BYTES + page * PAGE; }
