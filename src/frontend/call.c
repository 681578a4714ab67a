/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How a vhost-user front-end talks: one request at a time, its answer awaited with a time limit, the back-end's own
 * requests served meanwhile (a back-end may insist on that before it answers). What the table of messages says about
 * payloads, gates and answers is not repeated here.
 *
 * A refusal leaves the connection alone. A late, wrong or missing answer cannot be told from the answer to
 * the next request, so it ends the connection. Source: vhost-user.rst, "Communication", "REPLY_ACK".
 */
#include <poll.h>

#include "base/clock.h"
#include "frontend/vhost_user.h"

#define SERVE_AT_ONCE 64        /* requests of the back-end before we look at our own business again */

static void trace(struct vhk_vhost_user *u, const char *arrow, enum vhk_dir dir, const struct vhk_hdr *h, const void *payload, unsigned n_fds) {
        char text[400];

        if (!u->f.trace.fn)
                return;
        vhk_wire_print(dir, h, payload, n_fds, text, sizeof(text));
        vhk_log(&u->f.trace, VHK_LOG_DEBUG, "%s %s", arrow, text);
}

/* ---- ends ---- */

static int lost(struct vhk_vhost_user *u, int k, const char *what) {
        if (k == VHK_CONN_EOF && !u->answered)
                return vhk_frontend_end(&u->f, -EPROTO, "frontend.not-vhost-user",
                                        "%s closed the connection instead of answering %s: not a vhost-user back-end, or one that serves somebody else",
                                        u->name, what);
        if (k == VHK_CONN_EOF)
                return vhk_frontend_end(&u->f, -EPIPE, "frontend.gone", "the back-end on %s closed the connection (%s)", u->name, what);
        if (k == VHK_CONN_CUT)
                return vhk_frontend_end(&u->f, u->answered ? -EPIPE : -EPROTO, "frontend.gone",
                                        "the back-end on %s closed the connection in the middle of a message (%s)", u->name, what);
        return vhk_frontend_end(&u->f, k, "frontend.socket", "the connection to %s failed (%s): %s", u->name, what, strerror(-k));
}

static int wrong(struct vhk_vhost_user *u, enum vhk_rule rule, const char *what, const struct vhk_hdr *h) {
        return vhk_frontend_end(&u->f, -EPROTO, vhk_rule_id(rule),
                                "%s %s: %s; instead of an answer to %s came number %u, flags 0x%x, size %u", u->name,
                                u->answered ? "broke the protocol" : "is not a vhost-user back-end", vhk_rule_text(rule), what,
                                h->request, h->flags, h->size);
}

static int silent(struct vhk_vhost_user *u, const char *what) {
        if (!u->answered)
                return vhk_frontend_end(&u->f, -ETIMEDOUT, "frontend.busy",
                                        "%s accepts connections but does not answer: most likely it is busy with another front-end", u->name);
        return vhk_frontend_end(&u->f, -ETIMEDOUT, "frontend.time-limit", "the back-end on %s did not answer %s within %.3g s", u->name, what,
                                (double)u->f.options.limit_ns / 1e9);
}

/* ---- the back-end's channel ---- */

static void close_channel(struct vhk_vhost_user *u) {
        vhk_conn_done(&u->channel);             /* leaves the epoll set with its descriptor */
        u->channel.fd = -1;
}

static int answer(struct vhk_vhost_user *u, uint32_t request, uint64_t value, int fd) {
        struct vhk_hdr h = { request, VHK_HDR_VERSION | VHK_HDR_REPLY, sizeof(value) };

        trace(u, "~>", VHK_FROM_BACKEND, &h, &value, fd >= 0);
        int k = vhk_conn_send(&u->channel, &h, &value, &fd, fd >= 0);
        if (k == -EPIPE) {
                close_channel(u);
                return 0;
        }
        return k < 0 ? lost(u, k, "an answer on its channel") : 0;
}

static void refused(struct vhk_vhost_user *u, const struct vhk_hdr *h, const struct vhk_error *e) {
        vhk_log_id(&u->f.log, VHK_LOG_WARNING, e->rule, "request %u of the back-end on %s is refused (%s): %s", h->request, u->name, e->rule, e->text);
        vhk_log(&u->f.trace, VHK_LOG_DEBUG, "-- request %u of the back-end refused (%s): %s", h->request, e->rule, e->text);
}

static int note_queue(struct vhk_vhost_user *u, uint32_t i, enum vhk_frontend_queue_event ev) {
        u->f.queue_events[i % VHK_N(u->f.queue_events)] |= (uint8_t)(1u << ev);         /* the index was checked */
        u->f.has_queue_events = true;
        return 0;
}

static int on_VRING_CALL(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return note_queue(u, p->vring_state.index, VHK_FRONTEND_QUEUE_CALLED);
}

static int on_VRING_ERR(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return note_queue(u, p->vring_state.index, VHK_FRONTEND_QUEUE_BROKEN);
}

static int on_VRING_HOST_NOTIFIER_MSG(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return vhk_vu_set_notifier(u, &p->vring_area, fds[0], ret_e);
}

static int on_CONFIG_CHANGE_MSG(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        u->f.config_changed = true;
        return 0;
}

static int on_SHMEM_MAP(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return vhk_vu_shmem_map(u, &p->mmap, fds[0], ret_e);
}

static int on_SHMEM_UNMAP(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return vhk_vu_shmem_unmap(u, &p->mmap, ret_e);
}

static int on_IOTLB_MSG(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        if (vhk_vu_missed(u, &p->iotlb))
                return 0;
        return vhk_error_set(ret_e, -EFAULT, "frontend.translation", "nothing is at I/O address 0x%llx", (unsigned long long)p->iotlb.iova);
}

static int on_SHARED_OBJECT_ADD(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return vhk_vu_object_add(u, p->uuid.uuid, ret_e);
}

static int on_SHARED_OBJECT_REMOVE(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return vhk_vu_object_remove(u, p->uuid.uuid, ret_e);
}

static int on_SHARED_OBJECT_LOOKUP(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e) {
        return vhk_vu_object_lookup(u, p->uuid.uuid, ret_e);
}

/* Requests that are served, when they are in order: 0; 1: the answer comes later; or a negative errno with the reason. */
static const struct {
        uint32_t id;
        int (*fn)(struct vhk_vhost_user *u, const union vhk_p_any *p, const int *fds, struct vhk_error *ret_e);
} requests[] = {
        { VHK_BE_IOTLB_MSG, on_IOTLB_MSG },
        { VHK_BE_VRING_HOST_NOTIFIER_MSG, on_VRING_HOST_NOTIFIER_MSG },
        { VHK_BE_VRING_CALL, on_VRING_CALL }, { VHK_BE_VRING_ERR, on_VRING_ERR },
        { VHK_BE_CONFIG_CHANGE_MSG, on_CONFIG_CHANGE_MSG }, { VHK_BE_SHMEM_MAP, on_SHMEM_MAP }, { VHK_BE_SHMEM_UNMAP, on_SHMEM_UNMAP },
        { VHK_BE_SHARED_OBJECT_ADD, on_SHARED_OBJECT_ADD }, { VHK_BE_SHARED_OBJECT_REMOVE, on_SHARED_OBJECT_REMOVE },
        { VHK_BE_SHARED_OBJECT_LOOKUP, on_SHARED_OBJECT_LOOKUP },
};

static int do_request(struct vhk_vhost_user *u, uint32_t id, const struct vhk_decoder *d, struct vhk_error *ret_e) {
        for (size_t i = 0; i < VHK_N(requests); i++)
                if (requests[i].id == id)
                        return requests[i].fn(u, (const void *)d->payload, d->fds, ret_e);
        return vhk_error_set(ret_e, -EOPNOTSUPP, "frontend.absent", "this front-end does not serve it");
}

static int handle(struct vhk_vhost_user *u) {
        struct vhk_decoder *d = &u->channel.in;
        struct vhk_hdr h = vhk_decoder_header(d);
        unsigned n_fds = vhk_decoder_n_fds(d);
        const struct vhk_row *row = NULL;

        trace(u, "<~", VHK_FROM_BACKEND, &h, d->payload, n_fds);
        enum vhk_rule rule = vhk_wire_check(&u->state, VHK_FROM_BACKEND, &h, d->payload, n_fds, &row);
        if (rule != VHK_RULE_OK && vhk_rule_is_fatal(rule))
                return vhk_frontend_end(&u->f, -EPROTO, vhk_rule_id(rule), "the back-end on %s broke the protocol on its channel: %s", u->name, vhk_rule_text(rule));
        struct vhk_error e = { .text = "" };
        int k = rule == VHK_RULE_OK ? do_request(u, row->id, d, &e) : vhk_error_set(&e, -EPROTO, vhk_rule_id(rule), "%s", vhk_rule_text(rule));
        if (k < 0)
                refused(u, &h, &e);
        if (k > 0)
                return 0;               /* will be answered later */
        bool asks = row ? vhk_wire_answer(&u->state, row, &h) != VHK_ANSWER_NONE
                        : (h.flags & VHK_HDR_NEED_REPLY) && vhk_vu_has(u, VHK_PF_REPLY_ACK);
        return asks ? answer(u, h.request, k < 0, -1) : 0;
}

/* An answer that was put off: nothing more is read before it has gone. 1: go on reading */
static int answer_lookup(struct vhk_vhost_user *u) {
        VHK_AUTOCLOSE int fd = -1;

        if (!u->objects.waits)
                return 1;
        if (!vhk_vu_lookup_is_over(u, &fd))
                return 0;
        int k = answer(u, VHK_BE_SHARED_OBJECT_LOOKUP, fd < 0, fd);
        return k < 0 ? k : 1;
}

static int serve_channel(struct vhk_vhost_user *u) {
        int n = 0;

        while (u->channel.fd >= 0 && n < SERVE_AT_ONCE) {
                int ready = answer_lookup(u);
                if (ready <= 0 || u->channel.fd < 0)
                        return ready < 0 ? ready : n;
                if (vhk_conn_wants_out(&u->channel) && vhk_conn_flush(&u->channel) < 0) {
                        close_channel(u);
                        break;
                }
                int k = vhk_conn_receive(&u->channel);
                if (k == VHK_CONN_AGAIN)
                        break;
                if (k == VHK_CONN_HEADER) {
                        struct vhk_hdr h = vhk_decoder_header(&u->channel.in);
                        enum vhk_rule rule = vhk_wire_check_header(&u->state, VHK_FROM_BACKEND, &h);
                        if (rule != VHK_RULE_OK && vhk_rule_is_fatal(rule))
                                return vhk_frontend_end(&u->f, -EPROTO, vhk_rule_id(rule),
                                                        "the back-end on %s broke the protocol on its channel: %s", u->name, vhk_rule_text(rule));
                        continue;
                }
                if (k != VHK_CONN_MESSAGE) {
                        vhk_log(&u->f.log, VHK_LOG_INFO, "the back-end on %s closed its channel", u->name);
                        close_channel(u);
                        break;
                }
                k = handle(u);
                if (k < 0)
                        return k;
                if (u->channel.fd >= 0)
                        vhk_decoder_next(&u->channel.in);
                n++;
        }
        return n;
}

int vhk_vu_serve(struct vhk_vhost_user *u) {
        int n = serve_channel(u);

        return n < 0 ? n : n + vhk_vu_display_serve(u);
}

/* ---- requests ---- */

/* What is wrong with a header already: so that nobody waits for 1.3 GB of payload that a web server announces. */
static enum vhk_rule check_reply_header(const struct vhk_hdr *request, const struct vhk_hdr *h) {
        if (h->request != request->request)
                return VHK_RULE_REPLY_ID;
        if (h->flags != (VHK_HDR_VERSION | VHK_HDR_REPLY))
                return VHK_RULE_REPLY_FLAGS;
        return h->size > VHK_MAX_PAYLOAD ? VHK_RULE_OVERSIZE : VHK_RULE_OK;
}

/* The first of the posted requests has its reply, in u->conn.in. */
static void take_posted(struct vhk_vhost_user *u) {
        struct vhk_decoder *d = &u->conn.in;
        struct vhk_vu_posted p = u->posted[0];
        uint64_t value = 0;

        memmove(u->posted, u->posted + 1, --u->n_posted * sizeof(*u->posted));
        memcpy(&value, d->payload, VHK_MIN(sizeof(value), (size_t)vhk_decoder_header(d).size));
        switch (p.header.request) {
        case VHK_FE_GET_FEATURES:
                u->state.features_offered = value;
                break;
        case VHK_FE_GET_SHARED_OBJECT:
                vhk_vu_answer_lookup(u, p.ticket, d->n_fds ? VHK_STEAL_FD(d->fds[0]) : -1);
                break;
        default:                        /* its loss */
                if (value)
                        vhk_log(&u->f.log, VHK_LOG_INFO, "the back-end on %s refused %s (its answer: %llu)", u->name, p.row->name, (unsigned long long)value);
        }
        vhk_decoder_next(d);
}

/* Replies come in order: first those of posted requests. 1: that of @request is there, complete and
 * right, in u->conn.in; 0: not yet.
 * @row NULL: only posted ones are due. */
static int receive(struct vhk_vhost_user *u, const struct vhk_row *row, const struct vhk_hdr *request) {
        struct vhk_decoder *d = &u->conn.in;

        for (;;) {
                const struct vhk_vu_posted *p = u->n_posted ? &u->posted[0] : NULL;
                const struct vhk_hdr *due = p ? &p->header : request;
                const char *name = "nothing was asked";
                if (p || row)
                        name = p ? p->row->name : row->name;
                int k = vhk_conn_receive(&u->conn);
                if (k == VHK_CONN_AGAIN)
                        return 0;
                if (k != VHK_CONN_HEADER && k != VHK_CONN_MESSAGE)
                        return lost(u, k, name);
                struct vhk_hdr h = vhk_decoder_header(d);
                if (!due)
                        return wrong(u, VHK_RULE_REPLY_UNEXPECTED, "nothing", &h);
                enum vhk_rule rule = check_reply_header(due, &h);
                if (rule == VHK_RULE_OK && k == VHK_CONN_MESSAGE)
                        rule = vhk_wire_check_reply(&u->state, VHK_FROM_FRONTEND, due, &h, d->payload, vhk_decoder_n_fds(d));
                if (rule != VHK_RULE_OK)
                        return wrong(u, rule, name, &h);
                if (k != VHK_CONN_MESSAGE)
                        continue;
                trace(u, "<-", VHK_FROM_FRONTEND, &h, d->payload, d->n_fds);
                u->answered = u->f.again.answered = true;
                if (!p)
                        return 1;
                take_posted(u);
        }
}

static int wait_for_io(struct vhk_vhost_user *u, bool answer_due, uint64_t deadline) {
        struct pollfd p[] = {
                { .fd = u->conn.fd, .events = (short)((answer_due ? POLLIN : 0) | (vhk_conn_wants_out(&u->conn) ? POLLOUT : 0)) },
                { .fd = u->channel.fd, .events = (short)((u->objects.waits ? 0 : POLLIN) | (vhk_conn_wants_out(&u->channel) ? POLLOUT : 0)) },
                { .fd = u->objects.waits ? u->objects.answer_bell : -1, .events = POLLIN },
                { .fd = u->display.conn.fd, .events = vhk_conn_wants_out(&u->display.conn) ? POLLOUT : POLLIN },
        };

        if (vhk_now_ns() >= deadline)
                return -ETIMEDOUT;
        if (poll(p, VHK_N(p), vhk_poll_timeout_ms(VHK_MIN(deadline, vhk_vu_lookup_deadline(u)))) < 0 && errno != EINTR)
                return vhk_errno();
        return 0;
}

/* Sends what waits, and awaits the answer if one is due. */
static int finish(struct vhk_vhost_user *u, const struct vhk_row *row, const struct vhk_hdr *h, bool answer_due) {
        for (;;) {
                int k = vhk_conn_flush(&u->conn);
                if (k < 0)
                        return lost(u, k, row->name);
                if (k == 1 && !answer_due)
                        return 0;
                k = answer_due ? receive(u, row, h) : 0;
                if (k != 0)
                        return k < 0 ? k : 0;
                k = vhk_vu_serve(u);
                if (k < 0)
                        return k;
                k = wait_for_io(u, answer_due, u->f.deadline);
                if (k < 0)
                        return k == -ETIMEDOUT ? silent(u, row->name) : lost(u, k, row->name);
        }
}

/* Hold the message against its row, and send it. */
static int send_request(struct vhk_vhost_user *u, const struct vhk_vu_call *c, struct vhk_hdr *ret_h, const struct vhk_row **ret_row) {
        struct vhk_hdr h = { c->id, VHK_HDR_VERSION, c->size };
        const struct vhk_row *row = vhk_wire_row(VHK_FROM_FRONTEND, c->id, u->state.phase);
        bool may_ask = row && (row->reply_rule == VHK_REPLY_ASKED || row->reply_rule == VHK_REPLY_ACKED);

        if (may_ask && vhk_vu_has(u, VHK_PF_REPLY_ACK)) /* ACKED too: DPDK answers IOTLB_MSG with the flag alone */
                h.flags |= VHK_HDR_NEED_REPLY;
        enum vhk_rule rule = vhk_wire_check(&u->state, VHK_FROM_FRONTEND, &h, c->payload, c->n_fds, &row);
        if (rule != VHK_RULE_OK)
                return vhk_frontend_fail(&u->f, rule == VHK_RULE_GATE || rule == VHK_RULE_GATE_FORBIDDEN ? -EOPNOTSUPP : -EINVAL, vhk_rule_id(rule),
                                         "%s is not sent: %s", row ? row->name : "a message", vhk_rule_text(rule));
        trace(u, "->", VHK_FROM_FRONTEND, &h, c->payload, c->n_fds);
        int k = vhk_conn_send(&u->conn, &h, c->payload, c->fds, c->n_fds);
        if (k < 0)
                return lost(u, k == -EPIPE ? VHK_CONN_EOF : k, row->name);
        *ret_h = h;
        *ret_row = row;
        return 0;
}

int vhk_vu_call(struct vhk_vhost_user *u, const struct vhk_vu_call *c, union vhk_p_any *ret_reply, uint32_t *ret_size) {
        struct vhk_decoder *d = &u->conn.in;
        const struct vhk_row *row;
        struct vhk_hdr h;
        uint64_t value;

        int k = send_request(u, c, &h, &row);
        if (k < 0)
                return k;
        enum vhk_answer due = vhk_wire_answer(&u->state, row, &h);
        k = finish(u, row, &h, due != VHK_ANSWER_NONE);
        if (k < 0 || due == VHK_ANSWER_NONE)
                return k;
        uint32_t size = vhk_decoder_header(d).size;
        if (due == VHK_ANSWER_ACK) {
                memcpy(&value, d->payload, sizeof(value));
                if (value)
                        k = vhk_frontend_fail(&u->f, -EREMOTEIO, "frontend.refused", "the back-end on %s refused %s (its answer: %llu)", u->name, row->name,
                                              (unsigned long long)value);
        } else if (ret_reply) {
                memcpy(ret_reply, d->payload, size);
                if (ret_size)
                        *ret_size = size;
        }
        if (c->ret_fd && due == VHK_ANSWER_REPLY && d->n_fds)
                *c->ret_fd = VHK_STEAL_FD(d->fds[0]);
        vhk_decoder_next(d);
        int e = vhk_vu_send_translations(u);
        return e < 0 ? e : k;
}

/* ---- requests whose reply is not waited for ---- */

int vhk_vu_post(struct vhk_vhost_user *u, const struct vhk_vu_call *c, uint64_t ticket) {
        struct vhk_vu_posted p = { .deadline = vhk_time_after(vhk_now_ns(), u->f.options.limit_ns), .ticket = ticket };

        if (u->n_posted == VHK_VU_POSTED)
                return -EAGAIN;
        int k = send_request(u, c, &p.header, &p.row);
        if (k < 0)
                return k;
        if (vhk_wire_answer(&u->state, p.row, &p.header) != VHK_ANSWER_NONE)
                u->posted[u->n_posted++] = p;
        vhk_vu_arm_timer(u);
        return 0;
}

int vhk_vu_take_replies(struct vhk_vhost_user *u) {
        int k = vhk_conn_flush(&u->conn);

        if (k < 0)
                return lost(u, k, "a message that waited");
        k = receive(u, NULL, NULL);
        if (k < 0)
                return k;
        return u->n_posted && vhk_now_ns() >= u->posted[0].deadline ? silent(u, u->posted[0].row->name) : 0;
}

int vhk_vu_await_replies(struct vhk_vhost_user *u) {
        for (;;) {
                int k = vhk_vu_take_replies(u);
                if (k < 0 || !u->n_posted)
                        return k;
                k = vhk_vu_serve(u);
                if (k < 0)
                        return k;
                k = wait_for_io(u, true, u->f.deadline);
                if (k < 0)
                        return k == -ETIMEDOUT ? silent(u, u->posted[0].row->name) : lost(u, k, u->posted[0].row->name);
        }
}

int vhk_vu_call_u64(struct vhk_vhost_user *u, enum vhk_msg_id id, uint64_t value) {
        struct vhk_p_u64 p = { .value = value };

        return vhk_vu_call(u, &(struct vhk_vu_call){ .id = id, .payload = &p, .size = sizeof(p) }, NULL, NULL);
}

int vhk_vu_call_state(struct vhk_vhost_user *u, enum vhk_msg_id id, uint32_t index, uint32_t num) {
        struct vhk_p_vring_state p = { .index = index, .num = num };

        return vhk_vu_call(u, &(struct vhk_vu_call){ .id = id, .payload = &p, .size = sizeof(p) }, NULL, NULL);
}

int vhk_vu_get_u64(struct vhk_vhost_user *u, enum vhk_msg_id id, uint64_t *ret_value) {
        union vhk_p_any reply;

        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = id }, &reply, NULL);
        if (k < 0)
                return k;
        *ret_value = reply.u64.value;
        return 0;
}

int vhk_vu_settle(struct vhk_vhost_user *u) {
        uint64_t unused;

        return vhk_vu_has(u, VHK_PF_REPLY_ACK) ? 0 : vhk_vu_get_u64(u, VHK_FE_GET_FEATURES, &unused);
}
