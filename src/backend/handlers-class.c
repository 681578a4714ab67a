/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Messages of one class of device alone: network cards, crypto. They go to the device if it has the group of operations
 * (only then is their feature offered). Control worker.
 *
 * Source: vhost-user, VHOST_USER_SEND_RARP, VHOST_USER_NET_SET_MTU, VHOST_USER_CREATE_CRYPTO_SESSION,
 * VHOST_USER_CLOSE_CRYPTO_SESSION. The text has no layout of a session; two are deployed, told apart by their size.
 */
#include "backend/session.h"

int vhk_on_SEND_RARP(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        uint8_t mac[6];

        memcpy(mac, &p->value, sizeof(mac));            /* the first six bytes, whatever the byte order; two mean nothing */
        if ((mac[0] & 1) || !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]))
                return vhk_refuse(b, -EINVAL, "net.mac", "%02x:%02x:%02x:%02x:%02x:%02x is the address of no card", mac[0], mac[1], mac[2],
                                  mac[3], mac[4], mac[5]);
        int k = b->ops->net->send_rarp(b->dev, mac);
        return k < 0 ? vhk_refuse(b, k, "device.rarp", "the device sends no RARP: %s", strerror(-k)) : 0;
}

int vhk_on_NET_SET_MTU(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        int k = b->ops->net->set_mtu(b->dev, (uint16_t)p->value);

        return k < 0 ? vhk_refuse(b, k, "device.mtu", "the device does not take the MTU %u: %s", (unsigned)p->value, strerror(-k)) : 0;
}

/* Keys stay here: the answer is the session's number and zeroes. It says no by a number below 0. */
int vhk_on_CREATE_CRYPTO_SESSION(struct vhk_backend *b, const struct vhk_p_crypto_session *p, struct vhk_call *c,
                                 struct vhk_p_crypto_session *ret_reply) {
        bool is_old = c->header.size == sizeof(struct vhk_p_crypto_session_old);
        enum vhk_crypto_form form = is_old ? VHK_CRYPTO_FORM_632 : VHK_CRYPTO_FORM_1072;

        int64_t id = vhk_crypto_session_check(form, p);
        if (id >= 0)
                id = b->ops->crypto->create_session(b->dev, form, p);
        if (id < 0)
                vhk_log(&b->log, VHK_LOG_WARNING, "a crypto session is refused: %s", strerror((int)-VHK_MAX(id, INT64_C(-4095))));
        if (is_old)
                ((struct vhk_p_crypto_session_old *)(void *)ret_reply)->session_id = id;
        else
                ret_reply->session_id = id;
        c->reply_size = c->header.size;
        return 0;
}

int vhk_on_CLOSE_CRYPTO_SESSION(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        int k = b->ops->crypto->close_session(b->dev, p->value);

        return k < 0 ? vhk_refuse(b, k, "device.crypto-session", "the device has no crypto session %llu: %s", (unsigned long long)p->value,
                                  strerror(-k)) : 0;
}

/* Offsets of the lengths, and what there is room for. */
VHK_API int vhk_crypto_session_check(enum vhk_crypto_form form, const void *session) {
        enum { SYM_632, SYM_1072, ASYM_1072 };
        static const struct { uint16_t at, max; } lengths[][2] = {
                [SYM_632] = { { 16, 64 }, { 28, 512 } },        /* cipher key, authentication key */
                [SYM_1072] = { { 12, 64 }, { 24, 512 } },
                [ASYM_1072] = { { 16, 1024 } },
        };
        uint32_t op_code, len;

        memcpy(&op_code, session, sizeof(op_code));             /* virtio 1.3, 5.9.7: the service is in bits 8 on; 4 is AKCIPHER */
        unsigned row = form == VHK_CRYPTO_FORM_632 ? SYM_632 : op_code >> 8 == 4 ? ASYM_1072 : SYM_1072;
        for (unsigned i = 0; i < 2 && lengths[row][i].max; i++) {
                memcpy(&len, (const uint8_t *)session + lengths[row][i].at, sizeof(len));
                if (len > lengths[row][i].max)
                        return -EINVAL;
        }
        return 0;
}
