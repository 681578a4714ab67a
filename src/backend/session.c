/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A session from its first message to its last ring, whoever carries it. Control worker.
 *
 * A failure found deep inside a handler only marks the session; vhk_session_check() closes it when nothing of the
 * message is in use any more: never inside of a handler, whatever calls it there. Closing stops all
 * rings and waits for the requests that the device has; then everything that came with the session
 * is let go and the device is reset.
 */
#include "backend/session.h"

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
        if (b->failed && !b->handling && b->state == VHK_BACKEND_SERVING)
                vhk_session_close(b, VHK_STOP_ABORT);
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
                .log_reply_u64 = s->wire.log_reply_u64,
        } };
}

/* The rings have not stopped in time. Their homes hold references of their own to what they still use. */
void vhk_session_abandon(struct vhk_backend *b) {
        b->carrier->close(b);
        forget_session(b);
}

/* All rings have stopped. */
static void session_ended(struct vhk_backend *b) {
        b->carrier->close(b);
        vhk_timer_set(b->timer, 0);
        forget_session(b);
        if (b->ops->reset)
                b->ops->reset(b->dev);
        if (b->ops->disconnected)
                b->ops->disconnected(b->dev);
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
                vhk_log_id(&b->log, b->failure.code ? VHK_LOG_ERROR : VHK_LOG_INFO, b->failure.rule, "closing the connection: %s", b->failure.text);
        if (how == VHK_STOP_ABORT)
                b->carrier->close(b);
        else
                b->carrier->watch(b);
        for (unsigned i = 0; i < b->n_queues; i++) {
                if (!vhk_ring_runs(b, i))
                        continue;
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_RESET);
                vhk_ring_stop(b, i, how);
                vhk_ring_wait(b, i, VHK_WAIT_STOPPED);
        }
        if (all_stopped(b))
                session_ended(b);
}

/* ---- what the rings tell ---- */

static void look_at_fault(struct vhk_backend *b, struct vhk_vring *v) {
        enum vhk_ring_rule rule = vhk_vring_take_broken(v);

        if (rule == VHK_RING_OK || b->state != VHK_BACKEND_SERVING)
                return;
        vhk_log(&b->log, VHK_LOG_ERROR, "ring %u is broken (%s): %s", v->index, vhk_ring_rule_id(rule), vhk_ring_rule_text(rule));
        if (vhk_ring_runs(b, v->index))
                (void)vhk_ring_event(b, v->index, VHK_RING_EVENT_FAULT);
        b->carrier->faulted(b, v->index);
}

static void look_at_miss(struct vhk_backend *b, struct vhk_vring *v) {
        uint64_t iova;
        unsigned perm;

        if (vhk_vring_take_miss(v, &iova, &perm))
                b->carrier->missed(b, v->index, iova, perm);
}

/* A stop is looked at first and consumed last: what the ring reported before it belongs to the time
 * before it. */
void vhk_session_collect(struct vhk_backend *b, unsigned i) {
        struct vhk_vring *v = &b->rings[i];
        bool has_stopped = vhk_vring_has_stopped(v);
        int start = vhk_vring_take_start(v);

        look_at_fault(b, v);
        look_at_miss(b, v);
        if (start < 0)
                vhk_ring_not_started(b, i, start);
        if (has_stopped)
                vhk_ring_stopped(b, i);
}

void vhk_session_reported(struct vhk_vring *v) {
        struct vhk_backend *b = v->owner;

        if (b->state == VHK_BACKEND_SERVING || b->state == VHK_BACKEND_CLOSING)
                vhk_session_collect(b, v->index);
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

void vhk_session_gone(struct vhk_backend *b) {
        if (!b->failed) {
                b->failed = true;
                b->failure = (struct vhk_error){ .text = "the front-end has gone" };    /* code 0: an orderly end */
        }
}

void vhk_session_on_timer(struct vhk_backend *b) {
        if (b->state != VHK_BACKEND_SERVING)
                return;
        if (b->carrier->has_gone(b))
                vhk_session_gone(b);
        else
                vhk_token_check(b);
        if (!b->failed)
                b->carrier->watch(b);
        vhk_session_check(b);
}

/* ---- the beginning ---- */

int vhk_session_begin(struct vhk_backend *b, int fd) {
        b->failed = false;
        int k = vhk_memmap_new(&b->session.mem);
        if (k < 0) {
                vhk_close(&fd);
                return k;
        }
        b->state = VHK_BACKEND_SERVING;
        k = b->carrier->begin(b, fd);
        if (k < 0) {
                forget_session(b);
                b->state = VHK_BACKEND_WAITING;
        }
        return k;
}
