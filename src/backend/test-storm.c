/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Front-ends that leave: at every step of the handshake, in the middle of messages, ten thousand times. */
#include <malloc.h>

#include "backend/test-backend.h"

/* The handshake, one message at a time, none of them waited for. */
static void step_get_features(struct rig *r) { fe_send(r, VHK_FE_GET_FEATURES, 0, NULL, 0, NULL, 0); }
static void step_get_protocol(struct rig *r) { fe_send(r, VHK_FE_GET_PROTOCOL_FEATURES, 0, NULL, 0, NULL, 0); }
static void step_set_protocol(struct rig *r) {
        uint64_t x = PROTOCOL;
        fe_send(r, VHK_FE_SET_PROTOCOL_FEATURES, 0, &x, 8, NULL, 0);
}
static void step_channel(struct rig *r) {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        fe_send(r, VHK_FE_SET_BACKEND_REQ_FD, VHK_HDR_NEED_REPLY, NULL, 0, &pair[1], 1);
        close(pair[0]);
        close(pair[1]);
}
static void step_owner(struct rig *r) { fe_send(r, VHK_FE_SET_OWNER, 0, NULL, 0, NULL, 0); }
static void step_set_features(struct rig *r) {
        uint64_t x = r->features = FEATURES;
        fe_send(r, VHK_FE_SET_FEATURES, 0, &x, 8, NULL, 0);
}
static void step_memory(struct rig *r) {
        struct vhk_p_mem_regions t = { .n_regions = 2, .regions = { region(r, 0, 1 << 20), region(r, 1 << 20, 1 << 20) } };
        int fds[2] = { r->memfd, r->memfd };
        fe_send(r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 64, fds, 2);
}
static void step_call(struct rig *r) {
        uint64_t x = 0;
        ring_make(r, 0);
        fe_send(r, VHK_FE_SET_VRING_CALL, 0, &x, 8, &r->rings[0].call, 1);
}
static void step_num(struct rig *r) {
        struct vhk_p_vring_state p = { 0, RING_SIZE };
        fe_send(r, VHK_FE_SET_VRING_NUM, 0, &p, 8, NULL, 0);
}
static void step_addr(struct rig *r) {
        struct vhk_p_vring_addr a = ring_addr(r, 0);
        fe_send(r, VHK_FE_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
}
static void step_kick(struct rig *r) {
        uint64_t x = 0;
        fe_send(r, VHK_FE_SET_VRING_KICK, 0, &x, 8, &r->rings[0].kick, 1);
}
static void step_enable(struct rig *r) {
        struct vhk_p_vring_state p = { 0, 1 };
        fe_send(r, VHK_FE_SET_VRING_ENABLE, VHK_HDR_NEED_REPLY, &p, 8, NULL, 0);
}
static void step_request(struct rig *r) { ring_add(r, 0); }
static void step_memory_again(struct rig *r) {
        struct vhk_p_mem_regions t = { .n_regions = 1, .regions = { region(r, 0, 1 << 20) } };
        fe_send(r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 32, &r->memfd, 1);
}
static void step_base(struct rig *r) {
        struct vhk_p_vring_state p = { 0, 0 };
        fe_send(r, VHK_FE_GET_VRING_BASE, 0, &p, 8, NULL, 0);
}
static void step_reset(struct rig *r) { fe_send(r, VHK_FE_RESET_DEVICE, VHK_HDR_NEED_REPLY, NULL, 0, NULL, 0); }

static void (*const steps[])(struct rig *r) = {
        step_get_features, step_get_protocol, step_set_protocol, step_channel, step_owner, step_set_features, step_memory,
        step_call, step_num, step_addr, step_kick, step_enable, step_request, step_memory_again, step_request, step_base,
        step_kick, step_request, step_reset,
};

/* A header, or half of one, with a descriptor that nobody takes. */
static void half_message(struct rig *r, unsigned bytes) {
        struct vhk_hdr h = { VHK_FE_SET_VRING_CALL, VHK_HDR_VERSION, 8 };
        union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } control = { { 0 } };
        struct iovec iov = { &h, bytes };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

        control.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.h), &r->memfd, sizeof(int));
        CHECK_EQ(sendmsg(r->fe.fd, &m, MSG_NOSIGNAL), bytes);
}

static unsigned count_fds(void) {
        return (unsigned)vhk_test_count_("/proc/self/fd");
}

TEST(leave_at_every_step) {
        static struct rig r;
        unsigned n = 0;

        rig_open(&r, NULL, NULL);
        unsigned fds = count_fds();
        for (unsigned last = 0; last <= VHK_N(steps); last++)
                for (unsigned pumped = 0; pumped < 3; pumped++) {
                        fe_connect(&r);
                        for (unsigned i = 0; i < last; i++) {
                                steps[i](&r);
                                if (pumped)
                                        pump(&r);
                        }
                        if (pumped == 2)
                                half_message(&r, 1 + last % 12);
                        fe_close(&r);
                        PUMP_UNTIL(&r, r.n_disconnected == n + 1);
                        CHECK_EQ(r.n_connected, ++n);
                        CHECK_EQ(count_fds(), fds);
                        CHECK_EQ(r.dev.n_start, r.dev.n_stopped);
                        CHECK_EQ(r.dev.n_reset, n + (last == VHK_N(steps) && pumped));
                        r.dev.n_reset = n;
                }
        /* and nothing of them is left for the next */
        fe_set_up(&r, 1);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

TEST(ten_thousand) {
        static struct rig r;
        uint32_t seed = 1;
        size_t memory = 0;

        rig_open(&r, NULL, NULL);
        unsigned fds = count_fds(), rounds = getenv("VHK_TEST_SLOW") ? 500 : 10000;
        for (unsigned n = 0; n < rounds; n++) {
                seed = seed * 1664525 + 1013904223;
                unsigned last = (seed >> 8) % (VHK_N(steps) + 1);
                fe_connect(&r);
                for (unsigned i = 0; i < last; i++)
                        steps[i](&r);
                if ((seed >> 20) % 4 == 0)
                        pump(&r);
                if ((seed >> 24) % 4 == 0)
                        half_message(&r, 1 + (seed >> 28) % 12);
                fe_close(&r);
                if (seed >> 31)         /* else the next one waits in the backlog while this one is taken down */
                        pump(&r);
                while (r.n_disconnected + 8 < n)
                        vhk_worker_dispatch(r.control, 1);
                if (n == rounds / 2)
                        memory = mallinfo2().uordblks;
        }
        PUMP_UNTIL(&r, r.n_disconnected == rounds);
        CHECK_EQ(r.n_connected, rounds);
        CHECK_EQ(count_fds(), fds);
        size_t now = mallinfo2().uordblks;
        CHECK_MSG(now < memory + 65536, "%zu bytes in use, %zu at half time", now, memory);
        rig_close(&r);
}
