/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The back-end channel. Control worker.
 *
 * A request is sent at once, or queued by the connection; those that have an answer wait in a bounded ring, and answers are
 * matched by order. One that takes too long is given up, but keeps its place: its answer may still come. Whatever is not
 * the answer that is due closes the channel, without harm to the session. Nobody waits for an answer: QEMU does not read
 * this channel while it waits for a reply on the main one.
 *
 * Source: vhost-user, "Back-end message types", "Communication".
 */
#include <sys/epoll.h>

#include "backend/session.h"

#define BURST 64                /* steps of the stream per wake-up */

static struct vhk_channel_request *nth(struct vhk_channel *c, uint32_t i) {
        return &c->waiting[(c->first + i) % VHK_CHANNEL_MAX];
}

/* ---- the time limit ---- */

static void set_timer(struct vhk_channel *c) {
        uint64_t now = vhk_now_ns(), ns = 0;

        for (uint32_t i = 0; i < c->n; i++)
                if (nth(c, i)->done) {
                        ns = nth(c, i)->deadline > now ? nth(c, i)->deadline - now : 1;
                        break;
                }
        (void)vhk_timer_set(c->timer, ns);
}

static void on_timer(void *arg) {
        struct vhk_channel *c = arg;
        uint64_t now = vhk_now_ns();

        for (uint32_t i = 0; i < c->n && nth(c, i)->deadline <= now; i++) {
                vhk_channel_fn done = VHK_STEAL(nth(c, i)->done);
                if (!done)
                        continue;
                int none = -1;
                vhk_log(&c->b->log, VHK_LOG_WARNING, "request %u on the back-end channel was not answered in time", nth(c, i)->header.request);
                done(c->b, -ETIMEDOUT, NULL, 0, &none, nth(c, i)->arg);
        }
        if (c->is_open)
                set_timer(c);
}

/* ---- answers ---- */

static void answered(struct vhk_channel *c, int error, const void *reply, uint32_t size, int *fd) {
        struct vhk_channel_request r = *nth(c, 0);

        c->first = (c->first + 1) % VHK_CHANNEL_MAX;
        c->n--;
        if (r.done)
                r.done(c->b, error, reply, size, fd, r.arg);
}

static int take_answer(struct vhk_channel *c) {
        struct vhk_decoder *in = &c->conn.in;
        struct vhk_hdr got = vhk_decoder_header(in);
        enum vhk_rule rule = VHK_RULE_REPLY_UNEXPECTED;
        uint64_t word = 0;
        int fd = -1;

        vhk_session_trace(c->b, "~>", &got, in->payload, vhk_decoder_n_fds(in));
        if (c->n)
                rule = vhk_wire_check_reply(&c->b->session.wire, VHK_FROM_BACKEND, &nth(c, 0)->header, &got, in->payload,
                                            vhk_decoder_n_fds(in));
        if (rule != VHK_RULE_OK) {
                vhk_log(&c->b->log, VHK_LOG_WARNING, "on the back-end channel (%s): %s", vhk_rule_id(rule), vhk_rule_text(rule));
                return -EPROTO;
        }
        if (got.size >= sizeof(word))
                memcpy(&word, in->payload, sizeof(word));
        if (in->n_fds) {
                fd = in->fds[0];
                in->fds[0] = -1;
        }
        vhk_decoder_next(in);
        answered(c, word ? -EREMOTEIO : 0, &word, sizeof(word), &fd);
        vhk_close(&fd);
        return 0;
}

static int receive(struct vhk_channel *c) {
        int k = vhk_conn_receive(&c->conn);

        if (k == VHK_CONN_EOF || k == VHK_CONN_CUT)
                return -EPIPE;
        if (k == VHK_CONN_HEADER && vhk_decoder_header(&c->conn.in).size > VHK_MAX_PAYLOAD)
                return -EPROTO;
        if (k != VHK_CONN_MESSAGE)
                return k;
        k = take_answer(c);
        return k < 0 ? k : VHK_CONN_MESSAGE;
}

static void on_channel(void *arg, uint32_t events) {
        struct vhk_channel *c = arg;
        int k = vhk_conn_wants_out(&c->conn) ? vhk_conn_flush(&c->conn) : 1;

        if (k == 1)
                k = vhk_watch_set(c->watch, EPOLLIN);
        for (unsigned i = 0; i < BURST && k >= 0; i++) {
                k = receive(c);
                if (k == VHK_CONN_AGAIN || !c->is_open)
                        break;
        }
        if (k < 0) {
                vhk_log(&c->b->log, VHK_LOG_INFO, "the back-end channel is closed: %s", strerror(-k));
                vhk_channel_close(c);
        } else if (c->is_open) {
                vhk_inband_resume(c->b);
                vhk_host_send_change(&c->b->host);
        }
        if (c->is_open)
                set_timer(c);
}

/* ---- requests ---- */

int vhk_channel_send(struct vhk_channel *c, uint32_t id, const void *payload, uint32_t size, int fd, vhk_channel_fn done, uint64_t arg) {
        const struct vhk_wire_state *w = &c->b->session.wire;
        bool may_ask = w->protocol & VHK_BIT(VHK_PF_REPLY_ACK);
        struct vhk_hdr h = { id, VHK_HDR_VERSION | (may_ask ? VHK_HDR_NEED_REPLY : 0), size };
        const struct vhk_row *row = NULL;

        if (!c->is_open)
                return -EOPNOTSUPP;
        enum vhk_rule rule = vhk_wire_check(w, VHK_FROM_BACKEND, &h, payload, fd >= 0, &row);
        if (rule != VHK_RULE_OK)
                return rule == VHK_RULE_GATE ? -EOPNOTSUPP : -EINVAL;
        bool waits = vhk_wire_answer(w, row, &h) != VHK_ANSWER_NONE;
        if (waits && c->n == VHK_CHANNEL_MAX)
                return -ENOBUFS;
        vhk_session_trace(c->b, "<~", &h, payload, fd >= 0);
        int k = vhk_conn_send(&c->conn, &h, payload, &fd, fd >= 0);
        if (k >= 0 && vhk_conn_wants_out(&c->conn))
                k = vhk_watch_set(c->watch, EPOLLIN | EPOLLOUT);
        if (k == -ENOBUFS)
                return k;
        if (k < 0) {
                vhk_log(&c->b->log, VHK_LOG_WARNING, "the back-end channel is closed: %s", strerror(-k));
                vhk_channel_close(c);
                return k;
        }
        if (!waits)
                return 1;
        *nth(c, c->n++) = (struct vhk_channel_request){ .header = h, .done = done, .arg = arg, .deadline = vhk_now_ns() + c->b->limit_ns };
        set_timer(c);
        return 0;
}

/* ---- open and closed ---- */

void vhk_channel_init(struct vhk_channel *c, struct vhk_backend *b) {
        *c = (struct vhk_channel){ .b = b, .conn.fd = -1 };
}

int vhk_channel_open(struct vhk_channel *c, int fd) {
        VHK_AUTOCLOSE int owned = fd;
        struct vhk_watch *watch = NULL;
        struct vhk_timer *timer = NULL;
        struct vhk_conn conn;

        if (vhk_sock_classify(fd, NULL) != 0)
                return -EINVAL;
        int ret = vhk_conn_init(&conn, VHK_STEAL_FD(owned));
        if (ret < 0)
                return ret;
        ret = vhk_worker_timer(c->b->o.control, on_timer, c, &timer);
        if (ret >= 0)
                ret = vhk_worker_watch(c->b->o.control, conn.fd, EPOLLIN, on_channel, c, &watch);
        if (ret < 0) {
                vhk_timer_free(timer);
                vhk_conn_done(&conn);
                return ret;
        }
        vhk_channel_close(c);           /* the former one, now that nothing can fail any more */
        c->conn = conn;
        c->conn.out_tail = &c->conn.out_head;
        c->timer = timer;
        c->watch = watch;
        c->is_open = true;
        return 0;
}

void vhk_channel_close(struct vhk_channel *c) {
        if (!c->is_open)
                return;
        c->is_open = false;             /* whoever is told now cannot send */
        c->watch = vhk_watch_free(c->watch);
        c->timer = vhk_timer_free(c->timer);
        vhk_conn_done(&c->conn);
        vhk_host_update(&c->b->host);
        while (c->n) {
                int none = -1;
                answered(c, -EPIPE, NULL, 0, &none);
        }
}
