/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Waiting for a ring. See wait.h. */
#include "driver/wait.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fd.h"

#define IDLE_LOOKS 4096u                /* empty reaps between two looks at the connection */
#define SPINS_PER_CLOCK 256u
#define SPINS_PER_YIELD 1024u

static int watch(int epoll_fd, int op, int fd, uint32_t events) {
        struct epoll_event e = { .events = events, .data.fd = fd };

        return epoll_ctl(epoll_fd, op, fd, &e) < 0 ? vhk_errno() : 0;
}

int vhk_drvwait_init(struct vhk_drvwait *w, const struct vhk_drvwait *values) {
        *w = *values;
        w->epoll_fd = -1;
        w->next = w->d->waits;
        w->d->waits = w;
        if (w->polling)
                return 0;
        vhk_drvq_disarm(w->ring);
        w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (w->epoll_fd < 0)
                return vhk_errno();
        int k = watch(w->epoll_fd, EPOLL_CTL_ADD, vhk_drvq_get_fd(w->ring), EPOLLIN);
        return k < 0 ? k : watch(w->epoll_fd, EPOLL_CTL_ADD, vhk_frontend_get_fd(w->d->f), EPOLLIN);
}

void vhk_drvwait_done(struct vhk_drvwait *w) {
        if (!w->d)
                return;
        struct vhk_drvwait **at = &w->d->waits;
        while (*at != w)
                at = &(*at)->next;
        *at = w->next;
        vhk_close(&w->epoll_fd);
        w->d = NULL;
}

/* What came before anybody asked for the descriptor may have left the ring, and still wait to be
 * reaped: the first reap finds out. */
int vhk_drvwait_get_fd(struct vhk_drvwait *w) {
        if (w->polling)
                return -1;
        if (!w->wants_fd) {
                w->wants_fd = true;
                vhk_peer_notify(vhk_drvq_get_fd(w->ring));
        }
        return w->epoll_fd;
}

/* ---- the connection ---- */

/* While another thread is in the front-end, that one's descriptor may stay readable for long: it is
 * not watched then. */
static void set_front_busy(struct vhk_drvwait *w, bool busy) {
        if (w->is_front_busy == busy)
                return;
        w->is_front_busy = busy;
        if (w->epoll_fd >= 0)
                (void)watch(w->epoll_fd, EPOLL_CTL_MOD, vhk_frontend_get_fd(w->d->f), busy ? 0 : EPOLLIN);
}

/* 0, or -EPIPE: the connection has ended */
static int look_after(struct vhk_drvwait *w) {
        if (w->polling)
                return vhk_drvdev_look_after(w->d);
        set_front_busy(w, vhk_drvdev_try_serve(w->d, w) == -EBUSY);
        return vhk_drvdev_is_gone(w->d) ? -EPIPE : 0;
}

/* The connection has ended: what the device had done before comes first. */
static int reap_last(struct vhk_drvwait *w, void *ret, unsigned n) {
        int k = w->ready(w->q, ret, 0, n);

        return k != 0 ? k : vhk_drvdev_fail_end(w->d, w->ring);
}

/* The descriptor stays readable until a reap finds the ring empty and armed. */
int vhk_drvwait_reap_and_arm(struct vhk_drvwait *w, void *ret, unsigned n) {
        int fd = vhk_drvq_get_fd(w->ring), got = 0, k;
        bool drained = false;

        for (;;) {
                k = w->ready(w->q, ret, (unsigned)got, n - (unsigned)got);
                if (k < 0)
                        return got ? got : k;
                got += k;
                if ((unsigned)got == n)
                        break;
                vhk_peer_drain(fd);
                drained = true;
                if (vhk_drvq_arm(w->ring))
                        continue;
                k = got && !w->is_front_busy ? 0 : look_after(w);       /* the end is reported when nothing is left */
                return got || k == 0 ? got : reap_last(w, ret, n);
        }
        if (drained)
                vhk_peer_notify(fd);      /* there may be more */
        return got;
}

/* ---- waiting ---- */

#define NOTHING_MAY_COME (-EAGAIN)

static int look(struct vhk_drvwait *w, void *ret, unsigned n) {
        int k = w->ready(w->q, ret, 0, n);

        return k == 0 && !w->may_come(w->q) ? NOTHING_MAY_COME : k;
}

static int wait_polling(struct vhk_drvwait *w, void *ret, unsigned n, uint64_t deadline) {
        for (unsigned spins = 1;; spins++) {
                int k = look(w, ret, n);
                if (k != 0)
                        return k;
                vhk_cpu_relax();
                if (spins % SPINS_PER_CLOCK == 0 && vhk_now_ns() >= deadline)
                        return 0;
                if (spins % SPINS_PER_YIELD == 0)
                        sched_yield();          /* the device may wait for this very CPU */
                if (spins % IDLE_LOOKS == 0 && look_after(w) < 0)
                        return reap_last(w, ret, n);
        }
}

static int wait_sleeping(struct vhk_drvwait *w, void *ret, unsigned n, uint64_t deadline) {
        struct pollfd p[2] = { { .fd = vhk_drvq_get_fd(w->ring), .events = POLLIN }, { .events = POLLIN } };

        for (;;) {
                bool more = vhk_drvq_arm(w->ring);
                int k = more ? look(w, ret, n) : 0;
                if (k != 0)
                        return k;
                if (vhk_now_ns() >= deadline)
                        return 0;
                if (w->is_front_busy && look_after(w) < 0)      /* else we are notified from now on */
                        return reap_last(w, ret, n);
                p[0].revents = p[1].revents = 0;
                p[1].fd = w->is_front_busy ? -1 : vhk_frontend_get_fd(w->d->f);
                if (poll(p, 2, more ? 0 : vhk_poll_timeout_ms(deadline)) < 0 && errno != EINTR)
                        return vhk_errno();
                if (p[0].revents)
                        vhk_peer_drain(p[0].fd);
                if (p[1].revents && look_after(w) < 0)
                        return reap_last(w, ret, n);
                k = look(w, ret, n);
                if (k != 0)
                        return k;
        }
}

/* Waiting took notifications from the descriptor: is there more that they were for, or will none
 * come for what comes next? */
static void restore_fd(struct vhk_drvwait *w, int got, unsigned n) {
        if (w->wants_fd && ((got > 0 && (unsigned)got == n) || vhk_drvq_arm(w->ring)))
                vhk_peer_notify(vhk_drvq_get_fd(w->ring));
}

VHK_COLD int vhk_drvwait_some(struct vhk_drvwait *w, void *ret, unsigned n, int timeout_ms) {
        int k = vhk_drvdev_is_gone(w->d) ? -EPIPE : 0;

        if (++w->idle >= IDLE_LOOKS) {
                w->idle = 0;
                k = look_after(w);
        }
        if (n == 0)
                return k;
        if (k < 0)
                return reap_last(w, ret, n);
        if (timeout_ms == 0 || !w->may_come(w->q))
                return 0;
        uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : vhk_time_after(vhk_now_ns(), (uint64_t)timeout_ms * 1000000);
        k = w->polling ? wait_polling(w, ret, n, deadline) : wait_sleeping(w, ret, n, deadline);
        restore_fd(w, k, n);
        return k == NOTHING_MAY_COME ? 0 : k;
}
