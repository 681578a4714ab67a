/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Reconnection: a back-end that went away is looked for again, with growing pauses, until one is
 * there that takes over; then the call that noticed goes on. One thread, as all of the front-end.
 *
 * A call waits for it, at most until its own deadline. Dispatch makes one step when it is time (the
 * transport's timer makes the front-end's descriptor readable then) and does not wait for a peer
 * that accepts a connection and does not answer.
 *
 * A back-end that dies of a message is started again, receives the same message and dies again. So
 * the pause and the end of the search are kept until a connection has achieved something: it lasted
 * a second, or requests were done, or none was in flight and a call succeeded. LOSSES_MAX losses in
 * a row without that are the end.
 */
#include "base/clock.h"
#include "frontend/frontend.h"

#define PAUSE_MIN_NS 2000000u
#define PAUSE_MAX_NS 500000000u
#define LASTED_NS UINT64_C(1000000000)
#define LOSSES_MAX 8u

bool vhk_frontend_is_final(const struct vhk_frontend *f) {
        return f->end.code && (f->again.hopeless || !f->options.reconnect_ns || !f->ops->reconnect);
}

static bool has_achieved(struct vhk_frontend *f, uint64_t now, char *text, size_t n) {
        if (!f->again.since || now - f->again.since >= LASTED_NS)
                return true;
        switch (f->ops->get_progress(f, text, n)) {
        case VHK_PROGRESS_MOVED:
                return true;
        case VHK_PROGRESS_STALLED:
                return false;
        case VHK_PROGRESS_IDLE:
                break;
        }
        return f->again.succeeded;
}

static int give_up(struct vhk_frontend *f) {
        f->again.hopeless = true;
        f->ops->set_alarm(f, 0);
        return -EPIPE;
}

/* It was lost once more. */
static int count_loss(struct vhk_frontend *f, const char *in_flight) {
        struct vhk_error last = f->end;

        if (++f->again.n_losses < LOSSES_MAX)
                return 0;
        f->end.code = 0;
        vhk_frontend_end(f, last.code, "frontend.keeps-dying", "the connection was lost %u times in a row%s; the last time: %.120s", f->again.n_losses,
                         in_flight, last.text);
        return give_up(f);
}

/* The first try is due at once: a daemon that was restarted may be there already. 0, or -EPIPE:
 * there will be none */
static int begin(struct vhk_frontend *f) {
        uint64_t now = vhk_now_ns();
        char in_flight[80] = "";

        f->again.searching = true;
        f->again.next = now;
        if (has_achieved(f, now, in_flight, sizeof(in_flight))) {
                f->again.n_losses = 0;
                f->again.pause = PAUSE_MIN_NS;
                f->again.deadline = vhk_time_after(now, f->options.reconnect_ns);
        } else {
                f->again.next = vhk_time_after(now, f->again.pause);
                f->again.pause = VHK_MIN(2 * f->again.pause, (uint64_t)PAUSE_MAX_NS);
        }
        f->ops->disconnect(f);
        int ret = count_loss(f, in_flight);
        if (ret < 0)
                return ret;
        f->ops->set_alarm(f, f->again.next > now ? f->again.next - now : 1);
        vhk_log(&f->log, VHK_LOG_INFO, "looking for the back-end again");
        return 0;
}

static int found(struct vhk_frontend *f) {
        f->again.searching = f->again.succeeded = false;
        f->again.reconnected = f->config_changed = true;
        f->again.since = vhk_now_ns();
        f->end = (struct vhk_error){ .code = 0 };
        f->ops->set_alarm(f, 0);
        vhk_log(&f->log, VHK_LOG_INFO, "the back-end is back");
        return 0;
}

/* The try has failed with @k, and @before is why the connection was lost. */
static int after_failure(struct vhk_frontend *f, int k, const struct vhk_error *before) {
        struct vhk_error why = f->error;
        uint64_t now = vhk_now_ns();

        f->ops->disconnect(f);
        f->end = *before;               /* the error is how it was lost, unless it ends with this try */
        if (k == -EOPNOTSUPP || now >= f->again.deadline) {
                f->end = why;
                f->end.code = why.code ? why.code : k;
                return give_up(f);
        }
        if (k == -EPIPE && f->again.answered) {
                char in_flight[80] = "";
                if (f->ops->get_progress(f, in_flight, sizeof(in_flight)) == VHK_PROGRESS_MOVED)
                        f->again.n_losses = 0;
                f->end = why;
                int ret = count_loss(f, in_flight);
                if (ret < 0)
                        return ret;
                f->end = *before;
        }
        f->again.next = VHK_MIN(vhk_time_after(now, f->again.pause), f->again.deadline);
        f->again.pause = VHK_MIN(2 * f->again.pause, (uint64_t)PAUSE_MAX_NS);
        f->ops->set_alarm(f, f->again.next > now ? f->again.next - now : 1);
        return -EAGAIN;
}

int vhk_frontend_try_again(struct vhk_frontend *f, bool may_wait) {
        int k = f->again.searching ? 0 : begin(f);
        struct vhk_error end = f->end;

        if (k < 0)
                return k;
        if (vhk_now_ns() < f->again.next)
                return -EAGAIN;
        f->end = (struct vhk_error){ .code = 0 };
        k = f->ops->reconnect(f, may_wait);
        if (k == 0)
                return found(f);
        uint64_t now = vhk_now_ns();
        if (k == -EINPROGRESS && now < f->again.deadline) {
                f->end = end;
                f->ops->set_alarm(f, f->again.deadline - now);
                return -EAGAIN;
        }
        if (k == -EINPROGRESS)
                k = vhk_frontend_fail(f, -ETIMEDOUT, "frontend.busy", "a back-end accepts connections again, but does not answer");
        return after_failure(f, k, &end);
}

int vhk_frontend_wait_again(struct vhk_frontend *f) {
        int k;

        while ((k = vhk_frontend_try_again(f, true)) == -EAGAIN) {
                uint64_t now = vhk_now_ns();
                if (now >= f->deadline)
                        return vhk_frontend_fail(f, -ETIMEDOUT, "frontend.time-limit", "the back-end has gone and is not back: %s", f->end.text);
                if (f->again.next > now) {
                        uint64_t ns = VHK_MIN(f->again.next, f->deadline) - now;
                        nanosleep(&(struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) }, NULL);
                }
        }
        return k;
}
