/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A back-end that went away is looked for again, with growing pauses, until one is there that takes over: then the call
 * that noticed goes on as if nothing had been. One thread, as all of the front-end.
 *
 * Nothing here waits but calls that need an answer; dispatch tries when it is time (the carrier's alarm makes the
 * front-end's descriptor readable then), and costs as long as one handshake.
 */
#include <time.h>

#include "frontend/frontend.h"

#define PAUSE_MIN_NS 2000000u
#define PAUSE_MAX_NS 500000000u

static uint64_t now_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t later(uint64_t now, uint64_t ns) {
        uint64_t then;

        return vhk_add_overflows(now, ns, &then) ? UINT64_MAX : then;
}

bool vhk_frontend_is_final(const struct vhk_frontend *f) {
        return f->end.code && (f->again.hopeless || !f->options.reconnect_ns || !f->ops->reconnect);
}

/* The next try is due at once: a daemon that was restarted may be there already. */
static void begin(struct vhk_frontend *f) {
        uint64_t now = now_ns();

        f->again.searching = true;
        f->again.pause = PAUSE_MIN_NS;
        f->again.next = now;
        f->again.deadline = later(now, f->options.reconnect_ns);
        f->ops->disconnect(f);
        f->ops->set_alarm(f, 1);
        vhk_log(&f->log, VHK_LOG_INFO, "looking for the back-end again");
}

static int found(struct vhk_frontend *f) {
        f->again.searching = false;
        f->again.reconnected = f->config_changed = true;
        f->end = (struct vhk_error){ .code = 0 };
        f->ops->set_alarm(f, 0);
        vhk_log(&f->log, VHK_LOG_INFO, "the back-end is back");
        return 0;
}

int vhk_frontend_try_again(struct vhk_frontend *f) {
        struct vhk_error end = f->end;
        uint64_t now;

        if (!f->again.searching)
                begin(f);
        now = now_ns();
        if (now < f->again.next)
                return -EAGAIN;
        f->end = (struct vhk_error){ .code = 0 };
        int k = f->ops->reconnect(f);
        if (k == 0)
                return found(f);
        f->end = end;                   /* the story is how it was lost, unless it ends with this try */
        f->ops->disconnect(f);
        now = now_ns();
        if (k == -EOPNOTSUPP || now >= f->again.deadline) {
                f->again.hopeless = true;
                f->end = f->error;
                f->end.code = f->error.code ? f->error.code : k;
                f->ops->set_alarm(f, 0);
                return -EPIPE;
        }
        f->again.next = VHK_MIN(later(now, f->again.pause), f->again.deadline);
        f->again.pause = VHK_MIN(2 * f->again.pause, (uint64_t)PAUSE_MAX_NS);
        f->ops->set_alarm(f, f->again.next > now ? f->again.next - now : 1);
        return -EAGAIN;
}

int vhk_frontend_wait_again(struct vhk_frontend *f) {
        uint64_t deadline = later(now_ns(), f->options.limit_ns);
        int k;

        while ((k = vhk_frontend_try_again(f)) == -EAGAIN) {
                uint64_t now = now_ns();
                if (now >= deadline)
                        return vhk_frontend_fail(f, -ETIMEDOUT, "frontend.time-limit", "the back-end has gone and is not back: %s", f->end.text);
                if (f->again.next > now) {
                        uint64_t ns = VHK_MIN(f->again.next, deadline) - now;
                        nanosleep(&(struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) }, NULL);
                }
        }
        return k;
}
