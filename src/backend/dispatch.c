/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * One message: verified against its row, handed to its typed handler, answered as the row demands. Control worker.
 *
 * A handler returns 0 (acknowledged, or *ret_reply goes out), VHK_CALL_LATER (it took the token) or a negative errno.
 * Descriptors that it did not take are closed by the decoder. The token is answered exactly once: by the rings' last
 * report, with an error at the time limit, or not at all because the connection is closed. What it
 * waited for goes on after the time limit: vhk_session_collect() consumes the report whenever it
 * comes.
 *
 * A refusal is sent where the protocol has a way: an acknowledgement that is not zero, or a reply
 * of the row's own that reports an error (vhk_wire_refusal()). Without (no REPLY_ACK, or a row
 * whose own reply cannot report an error) a message of a feature that was not negotiated, an
 * unknown one and a write to the configuration are ignored with a line in the log; for anything
 * else the connection is closed, for the front-end would go on in the belief that it was heard
 * (vhost-user, "Communication").
 */
#include "backend/session.h"

#define REFUSALS_MAX 500u               /* within REFUSALS_NS */
#define REFUSALS_NS UINT64_C(10000000000)

/* The payload and the reply lose their types on the way through the table, and find them again here: a handler of another
 * type does not compile. */
#define FRONTEND(id, name, phase, request, fds, fields, gate, reply, ...)                                               \
        static int call_##name(struct vhk_backend *b, const void *p, struct vhk_call *c, void *ret_reply) {             \
                const struct vhk_p_##request *typed = p;                                                                \
                struct vhk_p_##reply *typed_reply = ret_reply;                                                          \
                return vhk_on_##name(b, typed, c, typed_reply);                                                         \
        }
#include "wire/messages.def"

/* In the order of messages.def, whose front-end rows come first: the index of a row in vhk_rows. */
static const struct {
        int (*fn)(struct vhk_backend *b, const void *p, struct vhk_call *c, void *ret_reply);
        uint32_t reply_size;
} calls[] = {
#define FRONTEND(id, name, phase, request, fds, fields, gate, reply, ...) { call_##name, sizeof(struct vhk_p_##reply) },
#include "wire/messages.def"
};

int vhk_refuse(struct vhk_backend *b, int code, const char *rule, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vhk_error_vset(&b->story, code, rule, format, ap);
        va_end(ap);
        return code;
}

static const char *name_of(const struct vhk_row *row) {
        return row ? row->name : "an unknown message";
}

static void acknowledge(struct vhk_backend *b, uint32_t request, bool ok) {
        vhk_session_send(b, request, &(struct vhk_p_u64){ .value = !ok }, sizeof(struct vhk_p_u64), -1);
}

/* A front-end that is answered with a refusal again and again loses its connection: each costs it
 * little, and us a line of the log. What is ignored without an answer costs no more than other
 * messages, and is not counted. */
static void count_refusal(struct vhk_backend *b) {
        struct vhk_session *s = &b->session;
        uint64_t now = vhk_now_ns();

        if (now - s->refusals_since >= REFUSALS_NS) {
                s->refusals_since = now;
                s->n_refusals = 0;
        }
        if (++s->n_refusals > REFUSALS_MAX)
                vhk_session_fail(b, -EPROTO, "backend.refusals", "more than %u messages were refused within %u seconds, the last one: %s",
                                 REFUSALS_MAX, (unsigned)(REFUSALS_NS / 1000000000u), b->story.text);
}

/* Says no, for the reason in b->story. */
static void refuse(struct vhk_backend *b, const struct vhk_row *row, const struct vhk_hdr *h, bool ignorable) {
        enum vhk_answer answer = vhk_wire_answer(&b->session.wire, row, h);
        /* Not in place of a reply that was negotiated: 1 is a legal set of features, a ring's base ... */
        bool may_ack = ignorable && (h->flags & VHK_HDR_NEED_REPLY) && (b->session.wire.protocol & VHK_BIT(VHK_PF_REPLY_ACK));
        union vhk_p_any reply;

        vhk_log_id(&b->log, VHK_LOG_WARNING, b->story.rule, "%s refused (%s): %s", name_of(row), b->story.rule, b->story.text);
        vhk_log(&b->trace, VHK_LOG_DEBUG, "-- %s refused (%s): %s", name_of(row), b->story.rule, b->story.text);
        int size = row ? vhk_wire_refusal(row, h, &reply) : -1;
        if (size >= 0)
                vhk_session_send(b, h->request, &reply, (uint32_t)size, -1);
        else if (answer == VHK_ANSWER_ACK || may_ack)
                acknowledge(b, h->request, false);
        else if (answer == VHK_ANSWER_REPLY || !ignorable)
                vhk_session_fail(b, b->story.code, b->story.rule, "%s: %s", name_of(row), b->story.text);
        else
                return;
        count_refusal(b);
}

/* Is it safe to go on as if the message had not come? */
static bool is_ignorable(const struct vhk_row *row, enum vhk_rule rule, int code) {
        return rule == VHK_RULE_UNKNOWN || rule == VHK_RULE_GATE || rule == VHK_RULE_GATE_FORBIDDEN || code == -EOPNOTSUPP ||
               (row && row->id == VHK_FE_SET_CONFIG);
}

static void answer(struct vhk_backend *b, const struct vhk_call *c, const void *reply) {
        switch (vhk_wire_answer(&b->session.wire, c->row, &c->header)) {
        case VHK_ANSWER_NONE:
                break;
        case VHK_ANSWER_ACK:
                acknowledge(b, c->header.request, true);
                break;
        case VHK_ANSWER_REPLY:
                vhk_session_send(b, c->header.request, reply, c->reply_size, c->reply_fd);
                break;
        }
}

static void handle(struct vhk_backend *b, const struct vhk_row *row, const struct vhk_hdr *h, const void *payload, int *fds) {
        union vhk_p_any reply;
        size_t i = (size_t)(row - vhk_rows);

        assert(i < VHK_N(calls));
        struct vhk_call c = { .header = *h, .row = row, .fds = fds, .reply_size = calls[i].reply_size, .reply_fd = -1 };
        memset(&reply, 0, calls[i].reply_size);
        b->handling = true;
        int k = calls[i].fn(b, payload, &c, &reply);
        b->handling = false;
        if (k == VHK_CALL_LATER)
                vhk_token_check(b);
        else if (k < 0)
                refuse(b, row, h, is_ignorable(row, VHK_RULE_OK, k));
        else
                answer(b, &c, &reply);
        vhk_close(&c.reply_fd);
}

void vhk_dispatch(struct vhk_backend *b) {
        struct vhk_decoder *in = &b->conn.in;
        struct vhk_hdr h = vhk_decoder_header(in);
        unsigned n_fds = vhk_decoder_n_fds(in);
        const struct vhk_row *row = NULL;

        vhk_session_trace(b, "->", &h, in->payload, n_fds);
        b->story = (struct vhk_error){ .code = -EINVAL, .rule = "backend.refused", .text = "refused" };
        enum vhk_rule rule = vhk_wire_check(&b->session.wire, VHK_FROM_FRONTEND, &h, in->payload, n_fds, &row);
        if (rule == VHK_RULE_OK) {
                handle(b, row, &h, in->payload, in->fds);
                return;
        }
        vhk_refuse(b, -EPROTO, vhk_rule_id(rule), "%s", vhk_rule_text(rule));
        if (vhk_rule_is_fatal(rule))
                vhk_session_fail(b, -EPROTO, vhk_rule_id(rule), "%s: %s", name_of(row), vhk_rule_text(rule));
        else
                refuse(b, row, &h, is_ignorable(row, rule, 0));
}

/* ---- the token ---- */

int vhk_token_take(struct vhk_backend *b, const struct vhk_call *c, void (*finish)(struct vhk_backend *b, int error)) {
        assert(!b->token.out);
        b->token.out = true;
        if (c) {
                b->token.request = c->header;
                b->token.row = c->row;
        }
        b->token.finish = finish;
        b->token.deadline = vhk_now_ns() + b->limit_ns;
        b->carrier->watch(b);
        return VHK_CALL_LATER;
}

void vhk_token_answer(struct vhk_backend *b, int error, const void *reply, uint32_t size) {
        struct vhk_token t = b->token;
        struct vhk_call c = { .header = t.request, .row = t.row, .reply_size = size, .reply_fd = -1 };

        vhk_token_drop(b);
        if (error < 0)
                refuse(b, t.row, &t.request, false);
        else
                answer(b, &c, reply);
        b->carrier->watch(b);
}

void vhk_token_check(struct vhk_backend *b) {
        if (!b->token.out)
                return;
        for (unsigned i = 0; i < b->n_queues; i++)
                vhk_session_collect(b, i);
        if (!vhk_ring_waits(b)) {
                b->token.finish(b, 0);
        } else if (vhk_now_ns() >= b->token.deadline) {
                vhk_refuse(b, -ETIMEDOUT, "backend.time-limit", "requests were in flight, or a worker was busy, for longer than %llu ms",
                           (unsigned long long)(b->limit_ns / 1000000));
                b->token.finish(b, -ETIMEDOUT);
        }
}

void vhk_token_drop(struct vhk_backend *b) {
        b->token.old_mem = vhk_memmap_unref(b->token.old_mem);
        b->token = (struct vhk_token){ .out = false };
        for (unsigned i = 0; i < b->n_queues; i++)
                b->rings[i].wait = VHK_WAIT_NONE;
}
