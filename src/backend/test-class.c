/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Messages of one class of device: network cards, crypto; and the byte order of rings. */
#include "backend/test-backend.h"

#define WITH_MTU (FEATURES | VHK_BIT(VHK_F_NET_MTU))
#define CLASS (VHK_BIT(VHK_PF_RARP) | VHK_BIT(VHK_PF_NET_MTU) | VHK_BIT(VHK_PF_CRYPTO_SESSION))

/* dev_ops has room for a struct dev; what these see is kept beside it. */
static uint8_t got_mac[6], got_session[1072];
static unsigned got_mtu, n_rarp, n_sessions;
static enum vhk_crypto_form got_form;
static uint64_t closed;
static int refuses;

static int dev_send_rarp(void *dev, const uint8_t mac[6]) {
        memcpy(got_mac, mac, 6);
        n_rarp++;
        return refuses;
}

static int dev_set_mtu(void *dev, uint16_t mtu) {
        got_mtu = mtu;
        return mtu > 9000 ? -ERANGE : 0;
}

static int64_t dev_create_session(void *dev, enum vhk_crypto_form form, const void *session) {
        got_form = form;
        memcpy(got_session, session, form == VHK_CRYPTO_FORM_632 ? 632 : 1072);
        n_sessions++;
        return refuses ? refuses : INT64_C(0x123456789);
}

static int dev_close_session(void *dev, uint64_t id) {
        closed = id;
        return id == 7 ? 0 : -ENOENT;
}

static const struct vhk_net_ops net = { sizeof(net), dev_send_rarp, dev_set_mtu };
static const struct vhk_crypto_ops crypto = { sizeof(crypto), dev_create_session, dev_close_session };

static void open_class(struct rig *r, const struct vhk_net_ops *n, const struct vhk_crypto_ops *c, uint64_t class) {
        static struct vhk_device_ops ops;

        ops = dev_ops;
        ops.features |= VHK_BIT(VHK_F_NET_MTU);
        ops.net = n;
        ops.crypto = c;
        n_rarp = n_sessions = got_mtu = 0;
        refuses = 0;
        rig_open(r, NULL, &ops);
        fe_connect(r);
        CHECK_EQ(fe_get(r, VHK_FE_GET_PROTOCOL_FEATURES) & CLASS, class);
        fe_negotiate(r, WITH_MTU, PROTOCOL | class);
}

TEST(offered_when_the_device_has_it) {
        static const struct vhk_net_ops only_mtu = { sizeof(only_mtu), NULL, dev_set_mtu };
        static struct rig r;

        open_class(&r, NULL, NULL, 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SEND_RARP, 0x02), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_NET_SET_MTU, 1500), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_CLOSE_CRYPTO_SESSION, 7), 1);
        rig_close(&r);
        open_class(&r, &only_mtu, NULL, VHK_BIT(VHK_PF_NET_MTU));
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SEND_RARP, 0x02), 1);
        CHECK_EQ(n_rarp, 0);
        rig_close(&r);
        open_class(&r, NULL, &crypto, VHK_BIT(VHK_PF_CRYPTO_SESSION));
        rig_close(&r);
}

TEST(groups_of_another_version) {
        static const struct vhk_net_ops bad_net = { sizeof(bad_net) - 1, dev_send_rarp, dev_set_mtu };
        static const struct vhk_crypto_ops bad_crypto = { sizeof(bad_crypto), dev_create_session, NULL };
        struct vhk_device_ops ops = dev_ops;
        struct vhk_worker *w;
        struct vhk_backend *b;
        struct vhk_error e;

        CHECK_OK(vhk_worker_new(NULL, NULL, &w));
        struct vhk_backend_options o = { .size = sizeof(o), .control = w };
        ops.net = &bad_net;
        CHECK_EQ(vhk_backend_open("/tmp/x", &o, &ops, NULL, &b, &e), -EINVAL);
        CHECK_STR(e.rule, "backend.net");
        ops.net = NULL;
        ops.crypto = &bad_crypto;
        CHECK_EQ(vhk_backend_open("/tmp/x", &o, &ops, NULL, &b, &e), -EINVAL);
        CHECK_STR(e.rule, "backend.crypto");
        vhk_worker_free(w);
}

TEST(rarp) {
        static const uint8_t mac[8] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0xde, 0xad };
        static struct rig r;
        uint64_t word;

        open_class(&r, &net, NULL, CLASS & ~VHK_BIT(VHK_PF_CRYPTO_SESSION));
        memcpy(&word, mac, sizeof(word));
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SEND_RARP, word), 0);    /* what stands behind the address means nothing */
        CHECK(!memcmp(got_mac, mac, 6));
        CHECK_EQ(n_rarp, 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SEND_RARP, 0), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SEND_RARP, ~0ull), 1);
        memcpy(&word, "\1\0\x5e\0\0\1", 6);                     /* a group's */
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SEND_RARP, word), 1);
        CHECK_EQ(fe_ask(&r, VHK_FE_SEND_RARP, mac, 6, -1), 1);
        CHECK_EQ(fe_ask(&r, VHK_FE_SEND_RARP, mac, 8, r.memfd), 1);
        CHECK_EQ(n_rarp, 1);
        refuses = -EIO;
        memcpy(&word, mac, sizeof(word));
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SEND_RARP, word), 1);
        rig_close(&r);
}

TEST(mtu) {
        static struct rig r;

        open_class(&r, &net, NULL, CLASS & ~VHK_BIT(VHK_PF_CRYPTO_SESSION));
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_NET_SET_MTU, 68), 0);
        CHECK_EQ(got_mtu, 68);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_NET_SET_MTU, 67), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_NET_SET_MTU, 0x10000 + 1500), 1);
        CHECK_EQ(got_mtu, 68);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_NET_SET_MTU, 65535), 1);         /* the device's own limit */
        CHECK_EQ(got_mtu, 65535);
        rig_close(&r);
}

static int64_t create(struct rig *r, const void *session, uint32_t size) {
        uint8_t reply[1072];
        int64_t id;

        fe_send(r, VHK_FE_CREATE_CRYPTO_SESSION, 0, session, size, NULL, 0);
        CHECK_EQ(fe_receive(r, VHK_FE_CREATE_CRYPTO_SESSION, reply, sizeof(reply)), size);
        memcpy(&id, reply + (size == 632 ? 0 : 1064), 8);
        for (uint32_t i = 0; i < size; i++)             /* no key comes back */
                CHECK_MSG(!reply[i] || (size == 632 ? i < 8 : i >= 1064), "byte %u of the answer", i);
        return id;
}

TEST(crypto_sessions) {
        static const struct { uint32_t size, op_at, op, len_at, max; } rows[] = {
                { 632, 8, 2, 16, 64 }, { 632, 8, 2, 28, 512 },
                { 1072, 0, 2, 12, 64 }, { 1072, 0, 2, 24, 512 }, { 1072, 0, 0x404, 16, 1024 },
        };
        static struct rig r;
        uint8_t s[1072];

        open_class(&r, NULL, &crypto, VHK_BIT(VHK_PF_CRYPTO_SESSION));
        for (unsigned i = 0; i < VHK_N(rows); i++)
                for (unsigned over = 0; over < 3; over++) {
                        uint32_t len = over < 2 ? rows[i].max + over : UINT32_MAX;
                        memset(s, 0, sizeof(s));
                        memset(s + 56, 0x55, 512);
                        memcpy(s + rows[i].op_at, &rows[i].op, 4);
                        memcpy(s + rows[i].len_at, &len, 4);
                        n_sessions = 0;
                        int64_t id = create(&r, s, rows[i].size);
                        CHECK_MSG(over ? id == -EINVAL && !n_sessions : id == INT64_C(0x123456789) && n_sessions == 1,
                                  "row %u, %u: session %lld", i, len, (long long)id);
                        if (!over)
                                CHECK(got_form == (rows[i].size == 632 ? VHK_CRYPTO_FORM_632 : VHK_CRYPTO_FORM_1072) &&
                                      !memcmp(got_session, s, rows[i].size));
                }
        memset(s, 0, sizeof(s));
        refuses = -ENOSPC;
        CHECK_EQ(create(&r, s, 1072), -ENOSPC);
        CHECK_EQ(create(&r, s, 632), -ENOSPC);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_CLOSE_CRYPTO_SESSION, 7), 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_CLOSE_CRYPTO_SESSION, UINT64_MAX), 1);
        CHECK_EQ(closed, UINT64_MAX);
        /* any other size: refused by the longer reply */
        struct vhk_p_crypto_session no;
        fe_send(&r, VHK_FE_CREATE_CRYPTO_SESSION, 0, s, 640, NULL, 0);
        CHECK_EQ(fe_receive(&r, VHK_FE_CREATE_CRYPTO_SESSION, &no, sizeof(no)), sizeof(no));
        CHECK_EQ(no.session_id, -1);
        CHECK(strstr(r.log, "wire.size-short"));
        CHECK_EQ(r.n_disconnected, 0);
        rig_close(&r);
}

TEST(byte_order) {
        static struct rig r;
        struct vhk_p_vring_state big = { 0, 1 };
        uint64_t x;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK(!(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & VHK_BIT(VHK_PF_CROSS_ENDIAN)));
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENDIAN, 0, 0), 1);
        rig_close(&r);
        for (unsigned ack = 0; ack < 2; ack++) {
                uint64_t protocol = (PROTOCOL & ~(ack ? 0 : VHK_BIT(VHK_PF_REPLY_ACK))) | VHK_BIT(VHK_PF_CROSS_ENDIAN);
                rig_open(&r, &(struct vhk_backend_options){ .protocol_offer = VHK_BIT(VHK_PF_CROSS_ENDIAN) }, NULL);
                fe_connect(&r);
                fe_negotiate(&r, FEATURES, protocol);
                if (ack) {
                        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENDIAN, 0, 0), 0);
                        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENDIAN, 0, 1), 1);
                        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENDIAN, 0, 2), 1);
                        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENDIAN, N_RINGS, 0), 1);
                        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
                        ring_make(&r, 0);
                        ring_set_up(&r, 0, 0);
                        ring_go(&r, 0);
                        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENDIAN, 0, 0), 1);
                } else {                        /* a driver must not go on in the belief that its ring is big endian */
                        fe_send(&r, VHK_FE_SET_VRING_ENDIAN, 0, &big, sizeof(big), NULL, 0);
                        CHECK_EQ(fe_receive(&r, VHK_FE_SET_VRING_ENDIAN, &x, 8), -EPIPE);
                        PUMP_UNTIL(&r, r.n_disconnected == 1);
                        CHECK_STR(r.last_rule, "ring.endian");
                }
                rig_close(&r);
        }
}
