/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A connection from its first byte to its last ring. Control worker.
 *
 * At most BURST messages are handled per wake-up, so that a flood does not starve whoever shares this worker. While the
 * token is out, or an answer waits for room in the socket, no message is read; that the front-end has gone is seen all the
 * same: by EPOLLRDHUP where the loop knows it, and by a look at the socket ten times per second.
 *
 * A failure found deep inside a handler only marks the connection; vhk_session_check() closes it when nothing of the
 * message is in use any more. Closing stops all rings and waits for the requests that the device has; then everything that
 * came with the connection is let go and the device is reset.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#include "backend/session.h"

#define BURST 64
#define LOOK_NS 100000000u

uint64_t vhk_now(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- sending ---- */

void vhk_session_trace(struct vhk_backend *b, const char *arrow, const struct vhk_hdr *h, const void *payload, unsigned n_fds) {
        enum vhk_dir dir = strchr(arrow, '~') ? VHK_FROM_BACKEND : VHK_FROM_FRONTEND;
        char line[400];

        if (!b->trace.fn)
                return;
        vhk_wire_print(dir, h, payload, n_fds, line, sizeof(line));
        vhk_log(&b->trace, VHK_LOG_DEBUG, "%s %s", arrow, line);
}

void vhk_session_send(struct vhk_backend *b, uint32_t request, const void *payload, uint32_t size, int fd) {
        struct vhk_hdr h = { request, VHK_HDR_VERSION | VHK_HDR_REPLY, size };

        if (b->failed)
                return;
        vhk_session_trace(b, "<-", &h, payload, fd >= 0);
        int k = vhk_conn_send(&b->conn, &h, payload, &fd, fd >= 0);
        if (k < 0)
                vhk_session_fail(b, k, "backend.send", "cannot answer the front-end: %s", strerror(-k));
        else if (vhk_conn_wants_out(&b->conn))
                vhk_session_watch(b);
}

/* ---- the end ---- */

void vhk_session_fail(struct vhk_backend *b, int code, const char *rule, const char *format, ...) {
        va_list ap;

        if (b->failed)
                return;
        b->failed = true;
        va_start(ap, format);
        vhk_error_vset(&b->failure, code, rule, format, ap);
        va_end(ap);
}

void vhk_session_check(struct vhk_backend *b) {
        if (b->failed && b->state == VHK_BACKEND_SERVING)
                vhk_session_close(b, VHK_STOP_ABORT);
}

static void close_connection(struct vhk_backend *b) {
        b->conn_watch = vhk_watch_free(b->conn_watch);
        vhk_conn_done(&b->conn);
        vhk_host_close_channel(&b->host);
        vhk_postcopy_end(b);
        vhk_state_abort(b);
}

static void forget_session(struct vhk_backend *b) {
        struct vhk_session *s = &b->session;

        for (unsigned i = 0; i < b->n_queues; i++) {
                vhk_ring_forget(&s->rings[i]);
                vhk_fdref_unref(s->rings[i].call);
                vhk_fdref_unref(s->rings[i].err);
        }
        vhk_memmap_unref(s->iotlb);
        vhk_memmap_unref(s->mem);
        vhk_inflight_forget(b);
        vhk_inband_forget(b);
        vhk_dirty_unref(s->log);
        vhk_fdref_unref(s->log_fd);
        *s = (struct vhk_session){ .wire = {
                .features_offered = s->wire.features_offered,
                .protocol_offered = s->wire.protocol_offered,
                .n_queues = s->wire.n_queues,
        } };
}

/* The rings have not stopped in time. Their homes hold references of their own to what they still use. */
void vhk_session_abandon(struct vhk_backend *b) {
        close_connection(b);
        forget_session(b);
}

/* All rings have stopped. */
static void session_ended(struct vhk_backend *b) {
        close_connection(b);
        vhk_timer_set(b->timer, 0);
        forget_session(b);
        if (b->ops->reset)
                b->ops->reset(b->dev);
        vhk_backend_session_ended(b);
}

static bool all_stopped(struct vhk_backend *b) {
        return !vhk_ring_waits(b);
}

void vhk_session_close(struct vhk_backend *b, enum vhk_stop how) {
        b->state = VHK_BACKEND_CLOSING;
        vhk_token_drop(b);
        if (b->failed)
                vhk_log(&b->trace, VHK_LOG_DEBUG, "-- the connection ends (%s): %s", b->failure.rule ? b->failure.rule : "in order", b->failure.text);
        if (b->failed)
                vhk_log(&b->log, b->failure.code ? VHK_LOG_ERROR : VHK_LOG_INFO, "closing the connection: %s", b->failure.text);
        if (how == VHK_STOP_ABORT)
                close_connection(b);
        else
                vhk_session_watch(b);
        for (unsigned i = 0; i < b->n_queues; i++) {
                if (!vhk_ring_runs(b, i))
                        continue;
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_RESET);
                (void)vhk_ring_stop(b, i, how);         /* has memory set aside */
                vhk_ring_wait(b, i, VHK_WAIT_STOPPED);
        }
        if (all_stopped(b))
                session_ended(b);
}

/* ---- what the rings tell ---- */

static void look_at_fault(struct vhk_backend *b, struct vhk_vring *v) {
        enum vhk_ring_rule rule = vhk_vring_take_broken(v);
        uint32_t seen = 0;

        if (rule == VHK_RING_OK || b->state != VHK_BACKEND_SERVING)
                return;
        vhk_log(&b->log, VHK_LOG_ERROR, "ring %u is broken (%s): %s", v->index, vhk_ring_rule_id(rule), vhk_ring_rule_text(rule));
        if (vhk_ring_runs(b, v->index))
                (void)vhk_ring_event(b, v->index, VHK_RING_EVENT_FAULT);
        if (b->session.mem && vhk_memmap_is_bad(b->session.mem, &seen))
                vhk_session_fail(b, -EFAULT, "mem.bad", "memory that the front-end lent has vanished (its file was truncated)");
        if (b->session.log && vhk_dirty_is_bad(b->session.log))
                vhk_session_fail(b, -EFAULT, "log.bad", "the dirty log has vanished (its file was truncated)");
        if (vhk_inflight_is_bad(b))
                vhk_session_fail(b, -EFAULT, "inflight.bad", "the in-flight record has vanished (its file was truncated)");
}

static void look_at_miss(struct vhk_backend *b, struct vhk_vring *v) {
        uint64_t iova;
        unsigned perm;

        if (vhk_vring_take_miss(v, &iova, &perm))
                vhk_iotlb_missed(b, v->index, iova, perm);
}

void vhk_session_reported(struct vhk_vring *v) {
        struct vhk_backend *b = v->owner;

        look_at_fault(b, v);
        look_at_miss(b, v);
        switch (b->state) {
        case VHK_BACKEND_SERVING:
                vhk_token_check(b);
                vhk_session_check(b);
                break;
        case VHK_BACKEND_CLOSING:
                if (all_stopped(b))
                        session_ended(b);
                break;
        default:
                vhk_backend_retire(b);
                break;
        }
}

/* ---- receiving ---- */

static bool has_gone(const struct vhk_backend *b) {
        struct pollfd p = { .fd = b->conn.fd, .events = POLLRDHUP };

        return poll(&p, 1, 0) > 0;
}

void vhk_session_watch(struct vhk_backend *b) {
        bool deaf = b->token.out || b->state != VHK_BACKEND_SERVING || vhk_conn_wants_out(&b->conn);
        uint32_t events = (deaf ? (uint32_t)EPOLLRDHUP : (uint32_t)EPOLLIN) | (vhk_conn_wants_out(&b->conn) ? (uint32_t)EPOLLOUT : 0);

        if (!b->conn_watch)
                return;
        int k = vhk_watch_set(b->conn_watch, events);
        if (k >= 0)
                k = vhk_timer_set(b->timer, deaf ? VHK_MIN(LOOK_NS, b->limit_ns) : 0);
        if (k < 0)
                vhk_session_fail(b, k, "backend.loop", "cannot watch the connection: %s", strerror(-k));
}

static void gone(struct vhk_backend *b) {
        if (!b->failed) {
                b->failed = true;
                b->failure = (struct vhk_error){ .text = "the front-end has gone" };    /* code 0: an orderly end */
        }
}

/* One step of the stream; false: nothing more to do now. */
static bool receive(struct vhk_backend *b) {
        struct vhk_hdr h;

        int k = vhk_conn_receive(&b->conn);
        switch (k) {
        case VHK_CONN_AGAIN:
                return false;
        case VHK_CONN_HEADER:
                h = vhk_decoder_header(&b->conn.in);
                enum vhk_rule rule = vhk_wire_check_header(&b->session.wire, VHK_FROM_FRONTEND, &h);
                if (vhk_rule_is_fatal(rule))
                        vhk_session_fail(b, -EPROTO, vhk_rule_id(rule), "message %u: %s", h.request, vhk_rule_text(rule));
                return true;
        case VHK_CONN_MESSAGE:
                vhk_dispatch(b);
                vhk_decoder_next(&b->conn.in);
                return true;
        case VHK_CONN_EOF:
                gone(b);
                return true;
        case VHK_CONN_CUT:
                vhk_session_fail(b, -EPROTO, "wire.cut", "the connection ended in the middle of a message");
                return true;
        default:
                vhk_session_fail(b, k, "backend.receive", "cannot receive from the front-end: %s", strerror(-k));
                return true;
        }
}

static void on_connection(void *arg, uint32_t events) {
        struct vhk_backend *b = arg;

        if (vhk_conn_wants_out(&b->conn)) {
                int k = vhk_conn_flush(&b->conn);
                if (k < 0)
                        vhk_session_fail(b, k, "backend.send", "cannot answer the front-end: %s", strerror(-k));
                vhk_session_watch(b);
        }
        if (b->state != VHK_BACKEND_SERVING) {
                if (has_gone(b))                /* while it stops: nobody needs to be told the end any more */
                        close_connection(b);
                return;
        }
        /* A header counts as a step of its own. */
        for (unsigned i = 0; i < 2 * BURST && !b->failed && !b->token.out && !vhk_conn_wants_out(&b->conn); i++)
                if (!receive(b))
                        break;
        if ((b->token.out || vhk_conn_wants_out(&b->conn)) && has_gone(b))
                gone(b);
        vhk_session_check(b);
}

void vhk_session_on_timer(struct vhk_backend *b) {
        if (b->state != VHK_BACKEND_SERVING)
                return;
        if (has_gone(b))
                gone(b);
        else
                vhk_token_check(b);
        if (!b->failed)
                vhk_session_watch(b);
        vhk_session_check(b);
}

/* ---- the beginning ---- */

int vhk_session_begin(struct vhk_backend *b, int fd) {
        b->failed = false;
        int k = vhk_memmap_new(&b->session.mem);
        if (k < 0) {
                close(fd);
                return k;
        }
        k = vhk_conn_init(&b->conn, fd);
        if (k >= 0)
                k = vhk_worker_watch(b->o.control, b->conn.fd, EPOLLIN, on_connection, b, &b->conn_watch);
        if (k < 0) {
                close_connection(b);
                forget_session(b);
                return k;
        }
        vhk_backend_set_offers(b);
        vhk_state_abort(b);             /* of the front-end before, if any */
        b->state = VHK_BACKEND_SERVING;
        return 0;
}
