/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a device asks of whoever serves it, sent on the back-end channel. vhk_host_config_changed(): any thread; the rest on
 * the control worker.
 *
 * Changes are merged: while one is unanswered, or does not fit the socket, the next ones wait as one. Nothing waits for
 * the answer (QEMU does not read this channel while it waits for a reply on the main one), and a channel that breaks
 * is closed without harm to the session.
 *
 * Source: vhost-user, "Back-end message types".
 */
#include <sys/epoll.h>

#include "backend/session.h"

void vhk_host_update(struct vhk_host *h) {
        uint64_t needs = VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_CONFIG);

        /* relaxed: a hint for the return value; control looks again */
        vhk_store_relaxed(&h->available, h->has_conn && (h->b->session.wire.protocol & needs) == needs);
}

void vhk_host_close_channel(struct vhk_host *h) {
        if (h->has_conn) {
                h->watch = vhk_watch_free(h->watch);
                vhk_conn_done(&h->conn);
        }
        h->has_conn = h->waits_for_ack = false;
        vhk_host_update(h);
}

static void send_change(struct vhk_host *h) {
        uint64_t ack = h->b->session.wire.protocol & VHK_BIT(VHK_PF_REPLY_ACK);
        struct vhk_hdr m = { VHK_BE_CONFIG_CHANGE_MSG, VHK_HDR_VERSION | (ack ? VHK_HDR_NEED_REPLY : 0), 0 };

        if (!vhk_load_relaxed(&h->available) || h->waits_for_ack || vhk_conn_wants_out(&h->conn) ||
            !__atomic_exchange_n(&h->changed, false, __ATOMIC_RELAXED))
                return;
        if (h->b->trace.fn)
                vhk_log(&h->b->trace, VHK_LOG_DEBUG, "< CONFIG_CHANGE_MSG (back-end channel)");
        int k = vhk_conn_send(&h->conn, &m, NULL, NULL, 0);
        if (k >= 0 && vhk_conn_wants_out(&h->conn))
                k = vhk_watch_set(h->watch, EPOLLIN | EPOLLOUT);
        h->waits_for_ack = ack;
        if (k < 0) {
                vhk_log(&h->b->log, VHK_LOG_WARNING, "the back-end channel is closed: %s", strerror(-k));
                vhk_host_close_channel(h);
        }
}

/* One message on the channel: only the acknowledgement that is due is legal. */
static int take_answer(struct vhk_host *h) {
        struct vhk_hdr got = vhk_decoder_header(&h->conn.in);
        struct vhk_hdr sent = { VHK_BE_CONFIG_CHANGE_MSG, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, 0 };
        enum vhk_rule rule = VHK_RULE_REPLY_UNEXPECTED;

        if (h->waits_for_ack)
                rule = vhk_wire_check_reply(&h->b->session.wire, VHK_FROM_BACKEND, &sent, &got, h->conn.in.payload,
                                            vhk_decoder_n_fds(&h->conn.in));
        vhk_decoder_next(&h->conn.in);
        h->waits_for_ack = false;
        if (rule == VHK_RULE_OK)
                return 0;
        vhk_log(&h->b->log, VHK_LOG_WARNING, "on the back-end channel (%s): %s", vhk_rule_id(rule), vhk_rule_text(rule));
        return -EPROTO;
}

static void on_channel(void *arg, uint32_t events) {
        struct vhk_host *h = arg;
        int k = vhk_conn_wants_out(&h->conn) ? vhk_conn_flush(&h->conn) : 1;

        if (k == 1)
                k = vhk_watch_set(h->watch, EPOLLIN);
        for (unsigned i = 0; i < 8 && k >= 0; i++) {
                k = vhk_conn_receive(&h->conn);
                if (k == VHK_CONN_AGAIN)
                        break;
                if (k == VHK_CONN_EOF || k == VHK_CONN_CUT)
                        k = -EPIPE;
                else if (k == VHK_CONN_MESSAGE)
                        k = take_answer(h);
                else if (k == VHK_CONN_HEADER && vhk_decoder_header(&h->conn.in).size > VHK_MAX_PAYLOAD)
                        k = -EPROTO;
        }
        if (k < 0)
                vhk_host_close_channel(h);
        else
                send_change(h);
}

/* A second channel replaces the first. */
int vhk_host_set_channel(struct vhk_host *h, int fd) {
        VHK_AUTOCLOSE int owned = fd;

        if (vhk_sock_classify(fd, NULL) != 0)
                return -EINVAL;
        vhk_host_close_channel(h);
        int k = vhk_conn_init(&h->conn, VHK_STEAL_FD(owned));
        if (k < 0)
                return k;
        h->has_conn = true;
        k = vhk_worker_watch(h->b->o.control, h->conn.fd, EPOLLIN, on_channel, h, &h->watch);
        if (k < 0)
                vhk_host_close_channel(h);
        vhk_host_update(h);
        return k;
}

static void on_changed(struct vhk_post *p) {
        struct vhk_host *h = vhk_container_of(p, struct vhk_host, post);

        if (h->has_conn)
                send_change(h);
        else
                vhk_store_relaxed(&h->changed, false);  /* nobody to tell; a front-end that comes reads the new values */
}

void vhk_host_init(struct vhk_host *h, struct vhk_backend *b) {
        *h = (struct vhk_host){ .b = b, .post.fn = on_changed, .conn.fd = -1 };
}

VHK_API int vhk_host_config_changed(struct vhk_host *h) {
        if (!vhk_load_relaxed(&h->available))
                return -EOPNOTSUPP;
        vhk_store_relaxed(&h->changed, true);           /* ordered by the post */
        vhk_worker_post(h->b->o.control, &h->post);
        return 0;
}
