/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Every message: success and refusal; where front-ends come from; how it ends. */
#include <sys/resource.h>

#include "backend/test-backend.h"

TEST(offers) {
        static struct rig r;

        rig_open(&r, &(struct vhk_backend_options){ .features_no_offer = VHK_BIT(VHK_F_EVENT_IDX),
                                                    .protocol_no_offer = VHK_BIT(VHK_PF_STATUS) }, NULL);
        fe_connect(&r);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_FEATURES), (FEATURES | VHK_BIT(5) | VHK_BIT(VHK_F_LOG_ALL)) & ~VHK_BIT(VHK_F_EVENT_IDX));
        CHECK_EQ(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES), (PROTOCOL | VHK_BIT(VHK_PF_LOG_SHMFD) |
                 VHK_BIT(VHK_PF_INFLIGHT_SHMFD) |
                 VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT) | VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN)) & ~VHK_BIT(VHK_PF_STATUS));
        CHECK_EQ(r.n_connected, 1);
        rig_close(&r);
        CHECK_EQ(r.n_disconnected, 1);
        CHECK_EQ(r.n_ended, 1);
        CHECK_EQ(r.last_error, 0);
}

/* Front-ends on rust vhost 0.16 acknowledge bit 21 and mean another feature. */
TEST(guest_addresses_are_offered_only_on_request) {
        static struct rig r;

        for (unsigned asked = 0; asked < 2; asked++) {
                rig_open(&r, &(struct vhk_backend_options){ .protocol_offer = asked ? VHK_BIT(VHK_PF_GPA_ADDRESSES) : 0 }, NULL);
                fe_connect(&r);
                CHECK_EQ(!!(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & VHK_BIT(VHK_PF_GPA_ADDRESSES)), asked);
                rig_close(&r);
        }
}

TEST(no_protocol_features_without_bit_30) {
        static struct rig r;

        rig_open(&r, &(struct vhk_backend_options){ .features_no_offer = VHK_BIT(VHK_F_PROTOCOL_FEATURES) }, NULL);
        fe_connect(&r);
        CHECK(!(fe_get(&r, VHK_FE_GET_FEATURES) & VHK_BIT(VHK_F_PROTOCOL_FEATURES)));
        fe_send(&r, VHK_FE_GET_PROTOCOL_FEATURES, 0, NULL, 0, NULL, 0);         /* ungated, and its reply cannot say no */
        uint64_t x;
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_PROTOCOL_FEATURES, &x, 8), -EPIPE);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_STR(r.last_rule, "wire.gate");
        rig_close(&r);
}

TEST(questions) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_QUEUE_NUM), N_RINGS);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_MAX_MEM_SLOTS), VHK_MEM_MAX_REGIONS);
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_OWNER, NULL, 0, -1), 0);
        CHECK_EQ(fe_ask(&r, VHK_FE_RESET_OWNER, NULL, 0, -1), 0);
        rig_close(&r);
}

TEST(features) {
        static struct rig r;

        rig_open(&r, &(struct vhk_backend_options){ .features_no_offer = VHK_BIT(VHK_F_EVENT_IDX) | VHK_BIT(VHK_F_INDIRECT_DESC) }, NULL);
        fe_connect(&r);
        fe_negotiate(&r, VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_PROTOCOL_FEATURES), PROTOCOL);
        fe_get(&r, VHK_FE_GET_FEATURES);
        CHECK_EQ(r.dev.n_negotiated, 1);
        CHECK_EQ(r.dev.features, VHK_BIT(VHK_F_VERSION_1));     /* the carrier's bits stay with the carrier */
        /* the same again changes nothing; a real QEMU passes on 28 and 29 though they were not offered */
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_PROTOCOL_FEATURES)), 0);
        CHECK_EQ(r.dev.n_negotiated, 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 0);
        CHECK_EQ(r.dev.n_negotiated, 2);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(VHK_F_RING_RESET)), 0);         /* and 40, for a GPU */
        CHECK_EQ(r.dev.n_negotiated, 3);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(VHK_F_RING_PACKED)), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(7)), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(VHK_F_ACCESS_PLATFORM)), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, VHK_BIT(VHK_F_PROTOCOL_FEATURES)), 0);     /* crypto: no VERSION_1 */
        r.dev.refuse_features = -ENODEV;
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 1);
        CHECK_EQ(r.dev.n_negotiated, 4);
        rig_close(&r);
}

TEST(protocol_features) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_PROTOCOL_FEATURES, PROTOCOL | VHK_BIT(63)), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_PROTOCOL_FEATURES, PROTOCOL), 0);
        /* without REPLY_ACK a refusal has no words: the end */
        uint64_t none = 0, bad = VHK_BIT(63);
        fe_send(&r, VHK_FE_SET_PROTOCOL_FEATURES, 0, &none, 8, NULL, 0);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        fe_send(&r, VHK_FE_SET_PROTOCOL_FEATURES, VHK_HDR_NEED_REPLY, &bad, 8, NULL, 0);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_STR(r.last_rule, "wire.protocol-offered");
        rig_close(&r);
}

/* Every number from 0 to 64 that is not served: refused, and the connection lives. */
TEST(rows_without_handler) {
        static struct rig r;
        static const uint8_t zeroes[4096];
        unsigned n = 0;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        for (uint32_t id = 0; id < 64; id++) {
                const struct vhk_row *row = vhk_wire_row(VHK_FROM_FRONTEND, id, VHK_PHASE_NORMAL);
                bool gated = row && (row->gate.protocol & ~PROTOCOL || row->gate.virtio & ~FEATURES || row->gate.offered & ~FEATURES);
                bool absent = id == VHK_FE_GPU_SET_SOCKET;
                if (row && !gated && !absent)
                        continue;
                uint32_t size = 8;
                switch (row ? row->request : VHK_P_U64) {
                case VHK_P_NONE: size = 0; break;
                case VHK_P_IOTLB: size = 32; break;
                case VHK_P_LOG: case VHK_P_UUID: size = 16; break;
                case VHK_P_INFLIGHT: size = 24; break;
                case VHK_P_CRYPTO_SESSION: size = 632; break;
                default: break;
                }
                int fd = row && row->fds == VHK_FDS_ONE ? r.memfd : -1;
                struct vhk_hdr asked = { id, VHK_HDR_VERSION, size };
                union vhk_p_any no;
                int own = row ? vhk_wire_refusal(row, &asked, &no) : -1;
                if (own >= 0) {         /* by its own reply */
                        uint8_t got[sizeof(no)];
                        fe_send(&r, id, VHK_HDR_NEED_REPLY, zeroes, size, &fd, fd >= 0);
                        CHECK_EQ(fe_receive(&r, id, got, sizeof(got)), own);
                        CHECK_MSG(!memcmp(got, &no, (size_t)own), "message %u", id);
                } else {
                        CHECK_MSG(fe_ask(&r, id, zeroes, size, fd) == 1, "message %u", id);
                }
                /* and without NEED_REPLY, where there is no reply to wait for, it is ignored */
                if (!row || row->reply_rule == VHK_REPLY_ASKED)
                        fe_send(&r, id, 0, zeroes, size, &fd, fd >= 0);
                n++;
        }
        CHECK(n > 30);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_EQ(r.n_disconnected, 0);
        rig_close(&r);
}

/* A row with a reply of its own cannot say no: 1 would be a set of features, the base of ring 1. */
TEST(no_refusal_in_place_of_a_reply) {
        static struct rig r;
        static const struct { uint32_t id, size; } bad[] = {
                { VHK_FE_GET_FEATURES, 1 }, { VHK_FE_GET_PROTOCOL_FEATURES, 8 }, { VHK_FE_GET_QUEUE_NUM, 4 }, { VHK_FE_GET_STATUS, 1 },
                { VHK_FE_GET_VRING_BASE, 7 }, { VHK_FE_GET_VRING_BASE, 8 }, { VHK_FE_GET_MAX_MEM_SLOTS, 2 },
        };
        struct vhk_p_vring_state p = { N_RINGS, 0 };

        rig_open(&r, NULL, NULL);
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                fe_connect(&r);
                fe_negotiate(&r, FEATURES, PROTOCOL);
                CHECK_EQ(fe_ask(&r, bad[i].id, &p, bad[i].size, -1), -EPIPE);
                fe_close(&r);
                PUMP_UNTIL(&r, r.n_disconnected == i + 1);
        }
        rig_close(&r);
}

TEST(broken_headers_close) {
        static const uint32_t flags[] = { 0, 2, 3, VHK_HDR_VERSION | VHK_HDR_REPLY };
        static struct rig r;

        rig_open(&r, NULL, NULL);
        for (unsigned i = 0; i < VHK_N(flags) + 1; i++) {
                struct vhk_hdr h = { VHK_FE_GET_FEATURES, i < VHK_N(flags) ? flags[i] : VHK_HDR_VERSION, i < VHK_N(flags) ? 0 : 0xffffffff };
                uint8_t buf[8];

                fe_connect(&r);
                CHECK_EQ(send(r.fe.fd, &h, sizeof(h), MSG_NOSIGNAL), sizeof(h));
                CHECK_EQ(fe_receive(&r, 0, buf, sizeof(buf)), -EPIPE);
                PUMP_UNTIL(&r, r.n_disconnected == i + 1);
                CHECK_EQ(r.last_error, -EPROTO);
                fe_close(&r);
        }
        rig_close(&r);
}

/* One byte at a time, with the descriptors on the first. */
TEST(slow_front_end) {
        static struct rig r;
        struct __attribute__((packed)) { struct vhk_hdr h; uint64_t x; } m = { { VHK_FE_SET_FEATURES, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, 8 }, FEATURES };

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        for (unsigned i = 0; i < sizeof(m.h) + 8; i++) {
                CHECK_EQ(send(r.fe.fd, (char *)&m + i, 1, MSG_NOSIGNAL), 1);
                pump(&r);
        }
        uint64_t x = 7;
        CHECK_EQ(fe_receive(&r, VHK_FE_SET_FEATURES, &x, 8), 8);
        CHECK_EQ(x, 0);
        rig_close(&r);
}

static int get_config(struct rig *r, uint32_t off, uint32_t len, struct vhk_p_config *c) {
        struct vhk_p_config p = { .offset = off, .len = len, .flags = 1 };      /* flags mean nothing here */

        fe_send(r, VHK_FE_GET_CONFIG, 0, &p, 12 + len, NULL, 0);
        return fe_receive(r, VHK_FE_GET_CONFIG, c, sizeof(*c));
}

TEST(config) {
        static struct rig r;
        struct vhk_p_config c;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK_EQ(get_config(&r, 0, 8, &c), 0);          /* not negotiated */
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(get_config(&r, 0, 8, &c), 20);
        CHECK(!memcmp(c.data, r.dev.config, 8));
        /* longer than the device's: zeroes behind it */
        CHECK_EQ(get_config(&r, 4, 60, &c), 72);
        CHECK(c.offset == 4 && c.len == 60 && !memcmp(c.data, r.dev.config + 4, 16));
        for (unsigned i = 16; i < 60; i++)
                CHECK_EQ(c.data[i], 0);
        CHECK_EQ(get_config(&r, 200, 56, &c), 68);
        CHECK_EQ(c.data[0], 0);
        CHECK_EQ(get_config(&r, 200, 57, &c), 0);       /* beyond 256 */
        CHECK_EQ(get_config(&r, 0xfffffff0, 32, &c), 0);
        CHECK_EQ(get_config(&r, 0, 0, &c), 0);

        struct vhk_p_config w = { .offset = 8, .len = 2, .data = { 77, 78 } };
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_CONFIG, &w, 14, -1), 0);
        CHECK(r.dev.config[8] == 77 && r.dev.config[9] == 78);
        w.offset = 0;                                   /* read-only for the driver */
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_CONFIG, &w, 14, -1), 1);
        w.flags = VHK_CONFIG_FLAG_MIGRATION;
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_CONFIG, &w, 14, -1), 0);
        w.flags = 2;
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_CONFIG, &w, 14, -1), 1);
        w = (struct vhk_p_config){ .offset = 19, .len = 2 };
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_CONFIG, &w, 14, -1), 1);
        fe_send(&r, VHK_FE_SET_CONFIG, 0, &w, 14, NULL, 0);     /* a guest's write that nobody asks about is no reason to end */
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        rig_close(&r);
}

TEST(status_and_reset) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_STATUS), 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 0xf), 0);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_STATUS), 0xf);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 0x100), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 0), 0);
        CHECK_EQ(r.dev.n_reset, 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 0), 0);      /* it is in that state already */
        CHECK_EQ(r.dev.n_reset, 1);
        CHECK_EQ(fe_ask(&r, VHK_FE_RESET_DEVICE, NULL, 0, -1), 0);
        CHECK_EQ(r.dev.n_reset, 2);
        unsigned before = r.dev.n_negotiated;
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 0);     /* the device has to be told again */
        CHECK_EQ(r.dev.n_negotiated, before + 1);
        CHECK_EQ(r.dev.n_disconnected, 0);
        fe_close(&r);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_EQ(r.dev.n_reset, 3);
        CHECK_EQ(r.dev.n_disconnected, 1);
        rig_close(&r);
}

TEST(memory) {
        static struct rig r;
        struct vhk_p_mem_regions t = { .n_regions = 2 };

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);            /* QEMU's net does that */
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 4096, 1 << 20), 1);         /* overlap */
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 2 << 20), 1);      /* beyond the end of the file */
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 1 << 20, 4096), 1);         /* not there */
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 0, 1 << 20), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 0, 1 << 20), 1);
        /* with one descriptor, which is closed */
        struct vhk_p_mem_region_single p = { .region = { region(&r, 1 << 20, 1 << 20) } };
        CHECK_EQ(fe_ask(&r, VHK_FE_REM_MEM_REG, &p, sizeof(p), r.memfd), 0);
        CHECK_EQ(fe_ask(&r, VHK_FE_ADD_MEM_REG, &p, sizeof(p), -1), 1);         /* without */

        t.regions[0] = region(&r, 0, 1 << 20);
        t.regions[1] = region(&r, 1 << 20, 1 << 20);
        int fds[2] = { r.memfd, r.memfd };
        for (unsigned i = 0; i < 3; i++) {
                uint64_t x = 9;
                struct vhk_mem_counters before = vhk_mem_counters();
                fe_send(&r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 64, fds, i == 2 ? 1 : 2);
                CHECK_EQ(fe_receive(&r, VHK_FE_SET_MEM_TABLE, &x, 8), 8);
                CHECK_EQ(x, i == 2);                                    /* a descriptor too few */
                CHECK_EQ(vhk_mem_counters().mmaps - before.mmaps, i ? 0 : 2);   /* the same again costs nothing */
        }
        fe_close(&r);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        rig_close(&r);
}

/* As many as the rust-vmm crates send. */
TEST(a_memory_table_may_have_32_regions) {
        static struct rig r;
        struct vhk_p_mem_regions t = { .n_regions = 32 };
        uint64_t x = 9, page = 4096;
        int fds[33];

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        for (unsigned i = 0; i < 33; i++)
                fds[i] = r.memfd;
        t.regions[0] = region(&r, 0, 1 << 20);
        for (unsigned i = 1; i < 32; i++)
                t.regions[i] = region(&r, (1 << 20) + i * page, page);
        fe_send(&r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 32 * 32, fds, 32);
        CHECK_EQ(fe_receive(&r, VHK_FE_SET_MEM_TABLE, &x, 8), 8);
        CHECK_EQ(x, 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

/* ---- the back-end channel ---- */

TEST(config_change) {
        static struct rig r;
        struct vhk_conn channel;
        int pair[2];

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK_EQ(vhk_host_config_changed(r.dev.host), -EOPNOTSUPP);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, r.memfd), 1);   /* no socket */
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), 0);
        close(pair[1]);
        CHECK_OK(vhk_conn_init(&channel, pair[0]));

        for (unsigned i = 0; i < 3; i++)                /* three changes before anybody looks are one message */
                CHECK_OK(vhk_host_config_changed(r.dev.host));
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_HEADER);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_MESSAGE);
        struct vhk_hdr h = vhk_decoder_header(&channel.in);
        CHECK(h.request == VHK_BE_CONFIG_CHANGE_MSG && h.flags == (VHK_HDR_VERSION | VHK_HDR_NEED_REPLY) && !h.size);
        vhk_decoder_next(&channel.in);
        CHECK_OK(vhk_host_config_changed(r.dev.host));  /* waits for the answer to the first */
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_AGAIN);
        struct vhk_hdr ack = { VHK_BE_CONFIG_CHANGE_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 };
        uint64_t zero = 0;
        CHECK_OK(vhk_conn_send(&channel, &ack, &zero, NULL, 0));
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_HEADER);
        vhk_decoder_next(&channel.in);
        CHECK_OK(vhk_conn_send(&channel, &ack, &zero, NULL, 0));
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_AGAIN);

        /* an answer that nobody asked for ends the channel, not the session */
        CHECK_OK(vhk_conn_send(&channel, &ack, &zero, NULL, 0));
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_EOF);
        CHECK_EQ(vhk_host_config_changed(r.dev.host), -EOPNOTSUPP);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        vhk_conn_done(&channel);
        rig_close(&r);
}

static void open_channel(struct rig *r, struct vhk_conn *c, int64_t expected) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), expected);
        close(pair[1]);
        CHECK_OK(vhk_conn_init(c, pair[0]));
}

/* The next message on the channel is a configuration change; it is taken, and not answered. */
static void expect_change(struct rig *r, struct vhk_conn *c) {
        int k;

        PUMP_UNTIL(r, (k = vhk_conn_receive(c)) == VHK_CONN_MESSAGE);
        CHECK_EQ(vhk_decoder_header(&c->in).request, VHK_BE_CONFIG_CHANGE_MSG);
        vhk_decoder_next(&c->in);
}

/* One that was sent on the former channel and not acknowledged may not have been read: it is sent
 * again, with what came since. */
TEST(a_configuration_change_that_waits_is_sent_on_the_next_channel) {
        static struct rig r;
        struct vhk_conn a, b, c;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        open_channel(&r, &a, 0);
        CHECK_OK(vhk_host_config_changed(r.dev.host));
        expect_change(&r, &a);
        CHECK_OK(vhk_host_config_changed(r.dev.host));  /* waits for the acknowledgement of the first */
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&a), VHK_CONN_AGAIN);
        open_channel(&r, &b, 0);
        expect_change(&r, &b);
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&b), VHK_CONN_AGAIN);
        CHECK_EQ(vhk_conn_receive(&a), VHK_CONN_EOF);
        vhk_conn_done(&b);                              /* the front-end closes it, and gives another one later */
        PUMP_UNTIL(&r, vhk_host_config_changed(r.dev.host) == -EOPNOTSUPP);
        open_channel(&r, &c, 0);
        expect_change(&r, &c);

        /* the next front-end has nothing of it: it reads the new values */
        fe_close(&r);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        vhk_conn_done(&a);
        vhk_conn_done(&c);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        open_channel(&r, &a, 0);
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&a), VHK_CONN_AGAIN);
        vhk_conn_done(&a);
        rig_close(&r);
}

/* Without descriptors: the former one stays in use, and the error is the reason. */
TEST(a_channel_that_cannot_be_opened_leaves_the_former_one) {
        static struct rig r;
        struct rlimit old, few;
        struct vhk_conn a;
        int pair[2], fill[64];
        unsigned n = 0;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        open_channel(&r, &a, 0);
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
        few = (struct rlimit){ .rlim_cur = 60, .rlim_max = old.rlim_max };
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        while (n < VHK_N(fill) && (fill[n] = dup(0)) >= 0)
                n++;
        CHECK(n && n < VHK_N(fill));
        close(fill[--n]);                               /* room for the message's descriptor, and for nothing else */
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), 1);
        while (n)
                close(fill[--n]);
        CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
        CHECK(strstr(r.log, strerror(EMFILE)));
        CHECK_OK(vhk_host_config_changed(r.dev.host));
        expect_change(&r, &a);
        close(pair[0]);
        close(pair[1]);
        vhk_conn_done(&a);
        rig_close(&r);
}

/* ---- front-ends come and go ---- */

TEST(one_after_the_other) {
        static struct rig r;
        int second;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_OK(vhk_sock_connect(r.path, 0, &second, NULL));   /* waits in the backlog */
        struct vhk_hdr h = { VHK_FE_GET_FEATURES, VHK_HDR_VERSION, 0 };
        CHECK_EQ(write(second, &h, sizeof(h)), sizeof(h));
        pump(&r);
        CHECK_EQ(r.n_connected, 1);
        CHECK_EQ(turn(&r, 5), 0);               /* and costs nothing while it waits */
        CHECK(!is_readable(second));
        fe_close(&r);
        PUMP_UNTIL(&r, is_readable(second));
        CHECK_EQ(r.n_connected, 2);
        CHECK_EQ(r.n_disconnected, 1);
        close(second);
        rig_close(&r);
}

TEST(state_is_fresh_for_the_next) {
        static struct rig r;
        struct vhk_p_config c;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 2);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 0xf), 0);
        fe_close(&r);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        fe_connect(&r);
        CHECK_EQ(get_config(&r, 0, 8, &c), 0);                  /* CONFIG is not negotiated any more */
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_STATUS), 0);
        CHECK_EQ(ring_stop(&r, 0), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 0, MEM_BYTES), 1);
        rig_close(&r);
}

static void open_on(struct rig *r, int fd) {
        struct vhk_error e;

        rig_open(r, NULL, NULL);
        CHECK_OK(vhk_backend_stop(r->b, VHK_STOP_DRAIN, 0));
        PUMP_UNTIL(r, r->freed);
        r->freed = false;
        r->n_ended = 0;
        r->o.has_fd = 1;
        r->o.fd = fd;
        CHECK_OK(vhk_backend_open(NULL, &r->o, &dev_ops, &r->dev, &r->b, &e));
}

TEST(connected_descriptor) {
        static struct rig r;
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        open_on(&r, pair[1]);
        CHECK_OK(vhk_conn_init(&r.fe, pair[0]));
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_EQ(r.n_connected, 1);
        fe_close(&r);
        PUMP_UNTIL(&r, r.freed);                /* its only peer has left */
        CHECK_EQ(r.n_ended, 1);
        rig_close(&r);
}

TEST(connected_descriptor_freed_at_once) {
        static struct rig r;
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        open_on(&r, pair[1]);
        r.b = vhk_backend_free(r.b);
        close(pair[0]);
        rig_close(&r);
}

TEST(listening_descriptor) {
        static struct rig r;
        struct vhk_listener l;
        int fd;

        CHECK_OK(vhk_listener_open("/tmp/vhk-test-backend-listening", &l, NULL));
        open_on(&r, l.fd);
        for (unsigned i = 0; i < 2; i++) {
                CHECK_OK(vhk_sock_connect(l.path, 0, &fd, NULL));
                CHECK_OK(vhk_conn_init(&r.fe, fd));
                CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
                fe_close(&r);
        }
        rig_close(&r);
        CHECK_EQ(unlink(l.path), 0);            /* somebody else's socket file is not ours to remove */
}

TEST(connects_to_a_listening_front_end) {
        static struct rig r;
        struct vhk_listener l;
        struct vhk_error e;
        int fd;

        rig_open(&r, NULL, NULL);
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_DRAIN, 0));
        PUMP_UNTIL(&r, r.freed);
        r.freed = false;
        CHECK_OK(vhk_listener_open(r.path, &l, NULL));
        r.o.mode = VHK_SOCKET_CONNECT;
        CHECK_OK(vhk_backend_open(r.path, &r.o, &dev_ops, &r.dev, &r.b, &e));
        CHECK_OK(vhk_listener_accept(&l, &fd));
        CHECK_OK(vhk_conn_init(&r.fe, fd));
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_DRAIN, 0));
        PUMP_UNTIL(&r, r.freed);
        vhk_listener_close(&l);
        rig_close(&r);
}

TEST(wrong_use) {
        struct vhk_worker *w;
        struct vhk_backend *b = NULL;
        struct vhk_error e = { .code = 0 };
        struct dev d = { 0 };

        CHECK_OK(vhk_worker_new(NULL, NULL, &w));
        struct vhk_backend_options o = { .size = sizeof(o), .control = w };
        struct vhk_device_ops ops = dev_ops;
        CHECK_EQ(vhk_backend_open(NULL, &o, &ops, &d, &b, &e), -EINVAL);
        CHECK_STR(e.rule, "backend.spec");
        CHECK_EQ(vhk_backend_open("/nonexistent/dir/socket", &o, &ops, &d, &b, &e), -ENOENT);
        CHECK_EQ(vhk_backend_open("/tmp", &o, &ops, &d, &b, &e), -EADDRINUSE);
        o.n_queues = N_RINGS + 1;
        CHECK_EQ(vhk_backend_open("/tmp/x", &o, &ops, &d, &b, &e), -EINVAL);
        o.n_queues = 0;
        o.queue_size_max = 100;
        CHECK_EQ(vhk_backend_open("/tmp/x", &o, &ops, &d, &b, &e), -EINVAL);
        o.queue_size_max = 0;
        ops.get_config = NULL;
        CHECK_EQ(vhk_backend_open("/tmp/x", &o, &ops, &d, &b, &e), -EINVAL);
        CHECK_STR(e.rule, "backend.config");
        ops = dev_ops;
        o.protocol_offer = VHK_BIT(40);
        CHECK_EQ(vhk_backend_open("/tmp/x", &o, &ops, &d, &b, &e), -EOPNOTSUPP);
        o.protocol_offer = 0;
        o.has_fd = 1;
        o.fd = 0x7ffffff0;
        CHECK(vhk_backend_open(NULL, &o, &ops, &d, &b, &e) < 0);
        CHECK(b == NULL && vhk_backend_free(NULL) == NULL);
        vhk_worker_free(w);
}

static void count_line(void *arg, enum vhk_log_level level, const char *text) {
        ++*(unsigned *)arg;
}

/* A flood of messages takes its turns: others of the same worker come between. */
TEST(flood_of_messages) {
        static struct rig r;
        unsigned lines = 0, most = 0;

        rig_open(&r, &(struct vhk_backend_options){ .trace = count_line, .trace_arg = &lines }, NULL);
        fe_connect(&r);
        PUMP_UNTIL(&r, r.n_connected == 1);
        for (unsigned i = 0; i < 150; i++)
                fe_send(&r, VHK_FE_SET_OWNER, 0, NULL, 0, NULL, 0);
        for (unsigned before = 0; before < 150;) {
                CHECK_EQ(turn(&r, 100), 1);
                most = lines - before > most ? lines - before : most;
                before = lines;
        }
        CHECK(most > 8 && most <= 64);
        rig_close(&r);
}

/* The kernel drops descriptors for which the process has no room: the refusal names the limit, not the front-end's message. */
TEST(lost_descriptors_name_the_limit) {
        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind keeps descriptors of its own from a process without any");
        static struct rig r;
        struct rlimit old, few;
        int fill[64], fd;
        unsigned n = 0;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        fd = eventfd(0, EFD_CLOEXEC);
        CHECK(fd >= 0);
        CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
        few = (struct rlimit){ .rlim_cur = 60, .rlim_max = old.rlim_max };
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        while (n < VHK_N(fill) && (fill[n] = dup(0)) >= 0)
                n++;
        CHECK(n && n < VHK_N(fill));
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_KICK, &(struct vhk_p_u64){ 0 }, sizeof(uint64_t), fd), 1);
        while (n)
                close(fill[--n]);
        CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
        CHECK(strstr(r.log, "RLIMIT_NOFILE"));
        close(fd);
        rig_close(&r);
}

/* Without descriptors left a client waits in the backlog; the worker does not spin meanwhile. */
TEST(no_descriptors_left) {
        static struct rig r;
        struct rlimit old, few;

        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind does not leave a connection in the backlog that it has no descriptor for");
        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
        few = old;
        few.rlim_cur = (rlim_t)r.fe.fd + 1;
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        CHECK_EQ(turn(&r, 100), 1);
        CHECK_EQ(turn(&r, 10), 0);
        CHECK_EQ(r.n_connected, 0);
        CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        rig_close(&r);
}

/* A front-end that does not read what it asked for: answers wait in bounded memory, nothing blocks, nothing is lost. */
TEST(front_end_that_does_not_read) {
        static struct rig r;
        struct vhk_p_config p = { .len = 256 }, c;
        unsigned sent = 0;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        fe_get(&r, VHK_FE_GET_FEATURES);
        int small = 4096;
        CHECK(setsockopt(r.fe.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
        while (!vhk_conn_wants_out(&r.fe)) {
                fe_send(&r, VHK_FE_GET_CONFIG, 0, &p, sizeof(p), NULL, 0);
                sent++;
                pump(&r);
        }
        CHECK(sent > 10);
        for (unsigned i = 0; i < sent; i++) {
                vhk_conn_flush(&r.fe);
                CHECK_EQ(fe_receive(&r, VHK_FE_GET_CONFIG, &c, sizeof(c)), sizeof(c));
        }
        CHECK_EQ(r.n_disconnected, 0);
        rig_close(&r);
}
