/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a device asks of whoever serves it, sent on the back-end channel (channel.c). vhk_host_config_changed(): any thread;
 * the rest on the control worker.
 *
 * Changes are merged: while one is unanswered the next ones wait as one. A change that waits when
 * the front-end replaces its channel, or when the channel fails, is sent on the next channel of the
 * session.
 *
 * Source: vhost-user, "Back-end message types".
 */
#include "backend/session.h"

void vhk_host_update(struct vhk_host *h) {
        uint64_t needs = VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_CONFIG);

        /* relaxed: a hint for the return value; control looks again */
        vhk_store_relaxed(&h->available, h->b->channel.is_open && (h->b->session.wire.protocol & needs) == needs);
        vhk_store_relaxed(&h->usable, h->b->channel.is_open ? h->b->session.wire.protocol : 0);
}

static void change_answered(struct vhk_backend *b, int error, const void *reply, uint32_t size, int *fd, uint64_t arg) {
        b->host.waits_for_ack = false;
        if (error == -EPIPE)            /* the channel is closed: it may not have been read */
                vhk_store_relaxed(&b->host.changed, true);
        vhk_host_send_change(&b->host);
}

void vhk_host_send_change(struct vhk_host *h) {
        if (h->b->state != VHK_BACKEND_SERVING) {
                vhk_store_relaxed(&h->changed, false);  /* a front-end that connects later reads the new values */
                return;
        }
        if (!vhk_load_relaxed(&h->available) || h->waits_for_ack || !__atomic_exchange_n(&h->changed, false, __ATOMIC_RELAXED))
                return;
        int k = vhk_channel_send(&h->b->channel, VHK_BE_CONFIG_CHANGE_MSG, NULL, 0, -1, change_answered, 0);
        h->waits_for_ack = k == 0;
        if (k < 0)                      /* sent again when the channel has room, or on the next one */
                vhk_store_relaxed(&h->changed, true);
}

void vhk_host_close_channel(struct vhk_host *h) {
        vhk_channel_close(&h->b->channel);
        vhk_store_relaxed(&h->changed, false);
}

int vhk_host_set_channel(struct vhk_host *h, int fd) {
        int k = vhk_channel_open(&h->b->channel, fd);

        vhk_host_update(h);
        if (k < 0)
                return k;
        vhk_iotlb_channel_opened(h->b);
        vhk_inband_resume(h->b);
        vhk_host_send_change(h);
        return 0;
}

static void on_changed(struct vhk_post *p) {
        struct vhk_host *h = vhk_container_of(p, struct vhk_host, post);

        h->b->carrier->config_changed(h);
}

void vhk_host_init(struct vhk_host *h, struct vhk_backend *b) {
        *h = (struct vhk_host){ .b = b, .post.fn = on_changed };
        vhk_channel_init(&b->channel, b);
        vhk_display_init(&b->display, b);
}

VHK_API int vhk_host_config_changed(struct vhk_host *h) {
        if (!vhk_load_relaxed(&h->available))
                return -EOPNOTSUPP;
        vhk_store_relaxed(&h->changed, true);           /* ordered by the post */
        vhk_worker_post(h->b->o.control, &h->post);
        return 0;
}
