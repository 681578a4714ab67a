/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Waiting for a ring. See wait.h. */
#include "driver/wait.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <time.h>

#include "base/fd.h"

#define IDLE_LOOKS 4096u                /* empty reaps between two looks at the connection */
#define SPINS_PER_CLOCK 256u
#define SPINS_PER_YIELD 1024u

static int watch(int epoll_fd, int fd, uint64_t which) {
        struct epoll_event e = { .events = EPOLLIN, .data.u64 = which };

        return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? vhk_errno() : 0;
}

int vhk_drvwait_init(struct vhk_drvwait *w, const struct vhk_drvwait *values) {
        *w = *values;
        w->epoll_fd = -1;
        if (w->polling)
                return 0;
        vhk_drvq_disarm(w->ring);
        w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (w->epoll_fd < 0)
                return vhk_errno();
        int k = watch(w->epoll_fd, vhk_drvq_get_fd(w->ring), 0);
        return k < 0 ? k : watch(w->epoll_fd, vhk_frontend_get_fd(w->d->f), 1);
}

void vhk_drvwait_done(struct vhk_drvwait *w) {
        if (w->d)
                vhk_close(&w->epoll_fd);
        w->d = NULL;
}

int vhk_drvwait_get_fd(struct vhk_drvwait *w) {
        if (w->polling)
                return -1;
        if (!w->wants_fd) {
                w->wants_fd = true;
                if (vhk_drvq_arm(w->ring))
                        vhk_peer_notify(vhk_drvq_get_fd(w->ring));
        }
        return w->epoll_fd;
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
                if (!vhk_drvq_arm(w->ring))
                        return got ? got : vhk_drvdev_look_after(w->d);
        }
        if (drained)
                vhk_peer_notify(fd);    /* there may be more */
        return got;
}

static uint64_t now_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int wait_polling(struct vhk_drvwait *w, void *ret, unsigned n, uint64_t deadline) {
        for (unsigned spins = 1;; spins++) {
                int k = w->ready(w->q, ret, 0, n);
                if (k != 0)
                        return k;
                vhk_cpu_relax();
                if (spins % SPINS_PER_CLOCK == 0 && now_ns() >= deadline)
                        return 0;
                if (spins % SPINS_PER_YIELD == 0)
                        sched_yield();          /* the device may wait for this very CPU */
                if (spins % IDLE_LOOKS == 0 && vhk_drvdev_look_after(w->d) < 0)
                        return w->ready(w->q, ret, 0, n) ?: -EPIPE;
        }
}

static int wait_sleeping(struct vhk_drvwait *w, void *ret, unsigned n, uint64_t deadline) {
        struct pollfd p[2] = { { .fd = vhk_drvq_get_fd(w->ring), .events = POLLIN }, { .fd = vhk_frontend_get_fd(w->d->f), .events = POLLIN } };

        for (;;) {
                bool more = vhk_drvq_arm(w->ring);
                int k = more ? w->ready(w->q, ret, 0, n) : 0;
                if (k != 0)
                        return k;
                uint64_t now = now_ns();
                if (now >= deadline)
                        return 0;
                uint64_t ms = VHK_MIN((deadline - now + 999999) / 1000000, (uint64_t)INT32_MAX);
                if (poll(p, 2, more ? 0 : (int)ms) < 0 && errno != EINTR)
                        return vhk_errno();
                if (p[0].revents)
                        vhk_peer_drain(p[0].fd);
                k = p[1].revents ? vhk_drvdev_look_after(w->d) : 0;
                int got = w->ready(w->q, ret, 0, n);
                if (got != 0 || k < 0)
                        return got ? got : k;
                p[0].revents = p[1].revents = 0;
        }
}

VHK_COLD int vhk_drvwait_some(struct vhk_drvwait *w, void *ret, unsigned n, int timeout_ms, bool may_come) {
        int k = vhk_load_relaxed(&w->d->gone) ? -EPIPE : 0;

        if (++w->idle >= IDLE_LOOKS) {
                w->idle = 0;
                k = vhk_drvdev_look_after(w->d);
        }
        if (k < 0 || timeout_ms == 0 || n == 0 || !may_come)
                return k;
        uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : now_ns() + (uint64_t)timeout_ms * 1000000;
        return w->polling ? wait_polling(w, ret, n, deadline) : wait_sleeping(w, ret, n, deadline);
}
