/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Configuration space, status and reset. Control worker.
 *
 * Status is remembered and read back, nothing waits for DRIVER_OK: most front-ends never deliver it. Status 0 comes from
 * QEMU before GET_VRING_BASE, so it leaves the rings alone; the device is reset when the last ring has stopped.
 *
 * Source: vhost-user, "VHOST_USER_GET_CONFIG", "VHOST_USER_SET_STATUS", "VHOST_USER_RESET_DEVICE".
 */
#include "backend/session.h"

/* Front-ends ask for as much as their own version of the structure is long: what the device does not have reads as zeroes. */
int vhk_on_GET_CONFIG(struct vhk_backend *b, const struct vhk_p_config *p, struct vhk_call *c, struct vhk_p_config *ret_reply) {
        uint32_t there = p->offset < b->ops->config_len ? VHK_MIN(p->len, b->ops->config_len - p->offset) : 0;

        if (!b->ops->get_config)
                return vhk_refuse(b, -EOPNOTSUPP, "device.config", "the device has no configuration space");
        int k = there ? b->ops->get_config(b->dev, p->offset, ret_reply->data, there) : 0;
        if (k < 0)
                return vhk_refuse(b, k, "device.config", "the device does not tell configuration bytes %u to %u: %s", p->offset,
                                  p->offset + p->len, strerror(-k));
        ret_reply->offset = p->offset;
        ret_reply->len = p->len;
        ret_reply->flags = p->flags;
        c->reply_size = c->header.size;
        return 0;
}

int vhk_on_SET_CONFIG(struct vhk_backend *b, const struct vhk_p_config *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        enum vhk_config_origin from = p->flags == VHK_CONFIG_FLAG_MIGRATION ? VHK_CONFIG_MIGRATION : VHK_CONFIG_DRIVER;

        if (!vhk_range_within(p->offset, p->len, b->ops->config_len))
                return vhk_refuse(b, -EINVAL, "device.config", "configuration space has %u bytes; %u to %u were written",
                                  b->ops->config_len, p->offset, p->offset + p->len);
        int k = b->ops->set_config ? b->ops->set_config(b->dev, p->offset, p->data, p->len, from) : -EPERM;
        if (k < 0)
                return vhk_refuse(b, k, "device.config", "the device does not take configuration bytes %u to %u: %s", p->offset,
                                  p->offset + p->len, strerror(-k));
        return 0;
}

/* Back to the state after attach, if that is due and no ring runs. The device learns the features again before a start. */
void vhk_session_reset_device(struct vhk_backend *b) {
        struct vhk_session *s = &b->session;

        if ((!s->reset_due && !s->reset_pending) || s->wire.running)
                return;
        s->reset_due = s->reset_pending = s->negotiated = false;
        if (b->ops->reset)
                b->ops->reset(b->dev);
}

int vhk_on_SET_STATUS(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        bool was = b->session.status;

        b->session.status = (uint8_t)p->value;
        if (p->value)
                b->session.reset_due = false;
        else if (was)
                b->session.reset_due = true;
        vhk_session_reset_device(b);
        return 0;
}

int vhk_on_GET_STATUS(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_u64 *ret_reply) {
        ret_reply->value = b->session.status;
        return 0;
}

static void reset_done(struct vhk_backend *b, int error) {
        vhk_token_answer(b, error, NULL, 0);
}

/*
 * Memory, protocol features, owner and the notification descriptors stay. Whatever becomes of the
 * answer, rings are forgotten as they stop, and the device is reset when the last one has.
 */
int vhk_on_RESET_DEVICE(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        b->session.status = 0;
        b->session.reset_pending = true;
        for (unsigned i = 0; i < b->n_queues; i++) {
                if (!vhk_ring_runs(b, i)) {
                        vhk_ring_forget(&b->session.rings[i]);
                        continue;
                }
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_RESET);
                b->session.rings[i].forget_due = true;
                vhk_ring_stop(b, i, VHK_STOP_ABORT);
                vhk_ring_wait(b, i, VHK_WAIT_STOPPED);
        }
        vhk_session_reset_device(b);
        return vhk_ring_waits(b) ? vhk_token_take(b, c, reset_done) : 0;
}
