/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Signals and the limit of the end, see signals.h.
 *
 * A thread that a peer, a file system or a defect has stopped cannot be ended, only abandoned: when
 * the limit is over the process ends with _exit(2). The limit is longer than the drain and the
 * removal from the vDPA bus, which have limits of their own, so in an orderly end it is never
 * reached.
 */
#include "daemon/signals.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "daemon/log.h"

#define AGAIN_NS UINT64_C(1000000000)   /* from the second SIGTERM or SIGINT to the end */

static void signals_set_limit(struct dmn_signals *s, uint64_t limit_ns) {
        uint64_t deadline = vhk_now_ns() + limit_ns, old = vhk_load_relaxed(&s->deadline);

        if (!old || deadline < old)
                vhk_store_relaxed(&s->deadline, deadline);
}

/* One signal. @n: SIGTERM and SIGINT so far. */
static void signals_take(struct dmn_signals *s, unsigned *n) {
        struct signalfd_siginfo si;

        if (read(s->signal_fd, &si, sizeof(si)) != sizeof(si))
                return;
        if (si.ssi_signo == SIGHUP) {
                __atomic_fetch_add(&s->n_reload, 1, __ATOMIC_RELEASE);
        } else {
                __atomic_fetch_add(&s->n_stop, 1, __ATOMIC_RELEASE);    /* pairs with the exchange in signals_on_event() */
                signals_set_limit(s, ++*n == 1 ? s->limit_ns : AGAIN_NS);
        }
        vhk_notify_fd(s->event_fd);
}

static void signals_give_up(const struct dmn_signals *s) {
        char text[160];

        snprintf(text, sizeof(text), "the end has not come within its limit of %llu s: some thread does not return; the process ends without it",
                 (unsigned long long)(s->limit_ns / 1000000000u));
        dmn_log_line(text);
        _exit(EXIT_FAILURE);
}

static void *signals_main(void *arg) {
        struct dmn_signals *s = arg;
        unsigned n = 0;

        prctl(PR_SET_NAME, "signals");
        while (!vhk_load_acquire(&s->is_over)) {        /* pairs with dmn_signals_stop() */
                struct pollfd p[2] = { { .fd = s->signal_fd, .events = POLLIN }, { .fd = s->wake_fd, .events = POLLIN } };
                uint64_t deadline = vhk_load_relaxed(&s->deadline), now = vhk_now_ns();
                if (deadline && now >= deadline)
                        signals_give_up(s);
                poll(p, 2, deadline ? (int)((deadline - now + 999999) / 1000000) : -1);
                if (p[0].revents)
                        signals_take(s, &n);
                if (p[1].revents)
                        vhk_drain_fd(s->wake_fd);
        }
        return NULL;
}

int dmn_signals_start(struct dmn_signals *s, bool has_reload, uint64_t limit_ns, struct vhk_error *ret_e) {
        struct sigaction ignore = { .sa_handler = SIG_IGN };
        sigset_t set;

        *s = (struct dmn_signals){ .limit_ns = limit_ns, .signal_fd = -1, .event_fd = -1, .wake_fd = -1 };
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        if (has_reload)
                sigaddset(&set, SIGHUP);
        sigprocmask(SIG_BLOCK, &set, NULL);
        sigaction(SIGPIPE, &ignore, NULL);
        s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (s->signal_fd < 0 || s->event_fd < 0 || s->wake_fd < 0)
                return vhk_error_set(ret_e, vhk_errno(), "daemon.signals", "no descriptors for signals: %s", strerror(errno));
        int ret = -pthread_create(&s->thread, NULL, signals_main, s);
        if (ret < 0)
                return vhk_error_set(ret_e, ret, "daemon.signals", "no thread for signals: %s", strerror(-ret));
        s->is_running = true;
        return 0;
}

static void signals_on_event(void *arg, uint32_t events) {
        struct dmn_signals *s = arg;

        vhk_drain_fd(s->event_fd);
        /* one SIGHUP or several: the same. Pairs with signals_take() */
        if (__atomic_exchange_n(&s->n_reload, 0, __ATOMIC_ACQUIRE))
                s->fn(s->arg, SIGHUP);
        for (uint32_t n = __atomic_exchange_n(&s->n_stop, 0, __ATOMIC_ACQUIRE); n > 0; n--)
                s->fn(s->arg, SIGTERM);
}

int dmn_signals_watch(struct dmn_signals *s, struct vhk_worker *control, dmn_signal_fn fn, void *arg) {
        s->fn = fn;
        s->arg = arg;
        return vhk_worker_watch(control, s->event_fd, EPOLLIN, signals_on_event, s, &s->watch);
}

void dmn_signals_begin_end(struct dmn_signals *s) {
        if (!s->is_running)
                return;
        signals_set_limit(s, s->limit_ns);
        vhk_notify_fd(s->wake_fd);
}

void dmn_signals_unwatch(struct dmn_signals *s) {
        s->watch = vhk_watch_free(s->watch);
}

void dmn_signals_stop(struct dmn_signals *s) {
        if (s->is_running) {
                vhk_store_release(&s->is_over, true);
                vhk_notify_fd(s->wake_fd);
                pthread_join(s->thread, NULL);
        }
        s->is_running = false;
        vhk_close(&s->signal_fd);
        vhk_close(&s->event_fd);
        vhk_close(&s->wake_fd);
}
