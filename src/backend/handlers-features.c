/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Features, owner, numbers of rings. Control worker.
 * Source: vhost-user, "Front-end message types"; QEMU 7.2 passes on INDIRECT_DESC and EVENT_IDX of its guest for some
 * devices though they were not offered: both are always implemented, and what was set is honoured. For vhost-user-gpu it passes on
 * RING_RESET too, which is nothing to a back-end: a ring is reset by GET_VRING_BASE and all that sets it up.
 */
#include "backend/session.h"

#define ALWAYS_IMPLEMENTED (VHK_BIT(VHK_F_INDIRECT_DESC) | VHK_BIT(VHK_F_EVENT_IDX))
#define NOTHING_TO_US VHK_BIT(VHK_F_RING_RESET)
#define CARRIER_BITS (VHK_BIT(VHK_F_PROTOCOL_FEATURES) | VHK_BIT(VHK_F_LOG_ALL) | VHK_BIT(VHK_F_ACCESS_PLATFORM))

int vhk_on_GET_FEATURES(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_u64 *ret_reply) {
        ret_reply->value = b->session.wire.features_offered;
        return 0;
}

static int tell_device(struct vhk_backend *b, uint64_t features) {
        int k = b->ops->negotiated ? b->ops->negotiated(b->dev, features & ~CARRIER_BITS) : 0;
        if (k < 0)
                return vhk_refuse(b, k, "device.features", "the device does not take the features 0x%llx: %s",
                                  (unsigned long long)features, strerror(-k));
        b->session.negotiated = true;
        return 0;
}

int vhk_on_SET_FEATURES(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_session *s = &b->session;
        uint64_t old = s->wire.features, extra = p->value & ~(s->wire.features_offered | ALWAYS_IMPLEMENTED | NOTHING_TO_US);
        bool republish = (old ^ p->value) & (ALWAYS_IMPLEMENTED | VHK_BIT(VHK_F_LOG_ALL));

        if (extra)
                return vhk_refuse(b, -EINVAL, "backend.features", "feature bits 0x%llx were not offered", (unsigned long long)extra);
        int e = vhk_iotlb_set_features(b, p->value);
        if (e < 0)
                return e;
        if (!s->negotiated || ((old ^ p->value) & ~CARRIER_BITS)) {
                int k = tell_device(b, p->value);
                if (k < 0)
                        return k;
        }
        s->wire.features = p->value;
        if (!(p->value & VHK_BIT(VHK_F_PROTOCOL_FEATURES)))     /* then there is no SET_VRING_ENABLE */
                for (unsigned i = 0; i < b->n_queues; i++) {
                        republish |= !s->rings[i].enabled;
                        s->rings[i].enabled = true;
                }
        vhk_host_update(&b->host);
        return republish ? vhk_ring_publish_and_answer(b, c, (old ^ p->value) & VHK_BIT(VHK_F_LOG_ALL)) : 0;
}

int vhk_session_negotiate(struct vhk_backend *b) {
        return b->session.negotiated ? 0 : tell_device(b, b->session.wire.features);
}

int vhk_on_SET_OWNER(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        b->session.has_owner = true;
        return 0;
}

/* Deprecated, and what it means was never agreed upon: nothing. */
int vhk_on_RESET_OWNER(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        return 0;
}

int vhk_on_GET_PROTOCOL_FEATURES(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_u64 *ret_reply) {
        ret_reply->value = b->session.wire.protocol_offered;
        return 0;
}

/* Whether NEED_REPLY counts here is decided after the set is in use: it may hold REPLY_ACK. */
int vhk_on_SET_PROTOCOL_FEATURES(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        b->session.wire.protocol = p->value;
        vhk_host_update(&b->host);
        return 0;
}

int vhk_on_GET_QUEUE_NUM(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_u64 *ret_reply) {
        ret_reply->value = b->n_queues;
        return 0;
}

int vhk_on_SET_BACKEND_REQ_FD(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        int k = vhk_host_set_channel(&b->host, VHK_STEAL_FD(c->fds[0]));
        if (k == -EINVAL)
                return vhk_refuse(b, k, "backend.channel", "the descriptor of the back-end channel is no connected unix stream socket");
        if (k < 0)
                return vhk_refuse(b, k, "backend.channel", "the back-end channel cannot be opened: %s", strerror(-k));
        return 0;
}
