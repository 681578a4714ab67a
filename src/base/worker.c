/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The worker: mailbox, loop, timers, pollers (see <vhostkit/worker.h>). Everything runs on the worker's thread except
 * vhk_worker_post().
 *
 * Mailbox: posters push onto a stack by compare-and-swap; the worker takes the whole stack at once and turns it round,
 * so posts run in the order of their pushes and there is no ABA case.
 *
 * Sleeping: at rest, and while it blocks, a worker has asleep = 1. It stores that BEFORE it looks at the stack for the
 * last time; a poster pushes BEFORE it looks at asleep. All four are seq_cst, so that at least one of the two sees
 * the other: either the worker finds the post or the poster rings. Of several posters one rings (it exchanges
 * asleep for 0).
 *
 * A watch that is freed while a batch of events is handled may still stand in that batch: it is marked dead at once
 * and given back to the allocator after the batch.
 */
#include <vhostkit/worker.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/base.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/struct.h"

enum {
        BATCH = 64,             /* events per epoll_wait(2) */
        EVENTS_EVERY = 32,      /* a spinning worker asks for events every so many rounds ... */
        CLOCK_EVERY = 64,       /* ... and for the time: both cost more than a round */
};

struct vhk_watch {
        struct vhk_worker *worker;
        struct vhk_watch *next_dead;
        int fd;
        uint32_t events;        /* 0: not in the epoll set, which would report EPOLLHUP all the same */
        bool dead;
        vhk_watch_fn fn;
        void *arg;
};

struct vhk_timer {
        struct vhk_watch *watch;
        int fd;
        vhk_timer_fn fn;
        void *arg;
};

struct vhk_worker {
        /* worker */
        struct vhk_loop_ops ops;
        bool is_foreign;
        void *loop;
        int epoll_fd, bell_fd;
        struct vhk_watch *bell;
        unsigned n_watches, depth;
        struct vhk_watch *dead;
        struct vhk_poller *pollers, *next_poller;
        uint64_t spin_ns, idle_since;
        uint32_t rounds;
        bool disarmed;          /* notifications of the pollers are off ... */
        bool has_new;           /* ... but not those of one that was added since */
        bool fd_given;          /* somebody may wait for our epoll set: pollers are armed whenever dispatch returns */

        /* shared (atomic) */
        VHK_ALIGNED(VHK_CACHE_LINE) struct vhk_post *posts;
        unsigned asleep;
};

/* ---- the mailbox ---- */

static void ring_if_asleep(struct vhk_worker *w) {
        /* the load pairs with the store in may_sleep(); the exchange makes one ringer of many */
        if (__atomic_load_n(&w->asleep, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&w->asleep, 0, __ATOMIC_SEQ_CST))
                vhk_notify_fd(w->bell_fd);
}

VHK_API void vhk_worker_post(struct vhk_worker *w, struct vhk_post *p) {
        /* An exchange even when it finds 1: the worker's exchange in run_posts() reads from it and so sees our writes. */
        if (__atomic_exchange_n(&p->queued, 1, __ATOMIC_ACQ_REL))
                return;
        struct vhk_post *head = vhk_load_relaxed(&w->posts);
        do
                p->next = head;
        while (!__atomic_compare_exchange_n(&w->posts, &head, p, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
        ring_if_asleep(w);
}

/* One stack of posts. What they post in turn waits for the next call. */
static int run_posts(struct vhk_worker *w) {
        if (!vhk_load_relaxed(&w->posts))       /* a hint; may_sleep() looks properly */
                return 0;
        struct vhk_post *p = __atomic_exchange_n(&w->posts, NULL, __ATOMIC_ACQUIRE), *first = NULL, *next;
        int n = 0;

        for (; p; p = next) {
                next = p->next;
                p->next = first;
                first = p;
        }
        for (; (p = first); n++) {
                first = p->next;        /* before queued is 0: from then on p belongs to its posters */
                __atomic_exchange_n(&p->queued, 0, __ATOMIC_ACQ_REL);
                p->fn(p);
        }
        return n;
}

/* From here on posters ring. False: a post is there already. */
static bool may_sleep(struct vhk_worker *w) {
        __atomic_store_n(&w->asleep, 1, __ATOMIC_SEQ_CST);
        return !__atomic_load_n(&w->posts, __ATOMIC_SEQ_CST);
}

static void wake(struct vhk_worker *w) {
        vhk_store_relaxed(&w->asleep, 0);       /* a hint to posters: the next may_sleep() finds what they then push */
}

static void on_bell(void *arg, uint32_t events) {
        struct vhk_worker *w = arg;

        if (read(w->bell_fd, &(uint64_t){ 0 }, 8) < 0 || !w->is_foreign)
                return;                 /* dispatch runs the posts after the events */
        wake(w);
        run_posts(w);
        if (!may_sleep(w))
                ring_if_asleep(w);
}

/* ---- descriptors ---- */

static int watch_apply(struct vhk_watch *watch, uint32_t events) {
        struct vhk_worker *w = watch->worker;

        if (w->is_foreign)
                return w->ops.set(w->loop, watch->fd, events, watch);
        if (events == watch->events)
                return 0;
        struct epoll_event e = { .events = events, .data.ptr = watch };
        int op = !watch->events ? EPOLL_CTL_ADD : !events ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
        return epoll_ctl(w->epoll_fd, op, watch->fd, &e) < 0 ? vhk_errno() : 0;
}

VHK_API int vhk_watch_set(struct vhk_watch *watch, uint32_t events) {
        int k = watch_apply(watch, events);
        if (k >= 0)
                watch->events = events;
        return k;
}

VHK_API int vhk_worker_watch(struct vhk_worker *w, int fd, uint32_t events, vhk_watch_fn fn, void *arg,
                             struct vhk_watch **ret_watch) {
        struct vhk_watch *watch = malloc(sizeof(*watch));
        if (!watch)
                return -ENOMEM;
        *watch = (struct vhk_watch){ .worker = w, .fd = fd, .fn = fn, .arg = arg };
        int k = vhk_watch_set(watch, events);
        if (k < 0) {
                free(watch);
                return k;
        }
        w->n_watches++;
        *ret_watch = watch;
        return 0;
}

/* To be called before the descriptor is closed: epoll keeps what the peer's copy of it keeps open. */
VHK_API struct vhk_watch *vhk_watch_free(struct vhk_watch *watch) {
        if (!watch)
                return NULL;
        struct vhk_worker *w = watch->worker;

        if (w->is_foreign)
                w->ops.del(w->loop, watch->fd, watch);
        else
                vhk_watch_set(watch, 0);
        w->n_watches--;
        watch->dead = true;
        if (w->depth) {
                watch->next_dead = w->dead;
                w->dead = watch;
        } else {
                free(watch);
        }
        return NULL;
}

static void bury(struct vhk_worker *w) {
        while (!w->depth && w->dead) {
                struct vhk_watch *watch = w->dead;
                w->dead = watch->next_dead;
                free(watch);
        }
}

VHK_API void vhk_watch_fire(struct vhk_watch *watch, uint32_t events) {
        struct vhk_worker *w = watch->worker;

        /* An earlier callback of the batch may have freed this watch, or no longer want what was found ready. */
        events &= watch->events | EPOLLHUP | EPOLLERR;
        if (watch->dead || !watch->events || !events)
                return;
        w->depth++;
        watch->fn(watch->arg, events);
        w->depth--;
        bury(w);
}

/* Waits for events and handles one batch. Their number without the doorbell; 0 also if a signal came. */
static int handle_events(struct vhk_worker *w, int timeout_ms) {
        struct epoll_event e[BATCH];
        int found = epoll_wait(w->epoll_fd, e, BATCH, timeout_ms), n = 0;

        wake(w);
        if (found < 0)
                return errno == EINTR ? 0 : vhk_errno();
        w->depth++;
        for (int i = 0; i < found; i++) {
                struct vhk_watch *watch = e[i].data.ptr;
                n += watch != w->bell;
                vhk_watch_fire(watch, e[i].events);
        }
        w->depth--;
        bury(w);
        return n;
}

/* ---- timers ---- */

static void on_timer(void *arg, uint32_t events) {
        struct vhk_timer *t = arg;
        uint64_t n;

        if (read(t->fd, &n, sizeof(n)) == sizeof(n))    /* else it was set anew by an earlier callback of the batch */
                t->fn(t->arg);                          /* t may be gone now */
}

VHK_API int vhk_worker_timer(struct vhk_worker *w, vhk_timer_fn fn, void *arg, struct vhk_timer **ret_t) {
        VHK_AUTOFREE struct vhk_timer *t = malloc(sizeof(*t));
        VHK_AUTOCLOSE int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        if (fd < 0)
                return vhk_errno();
        if (!t)
                return -ENOMEM;
        *t = (struct vhk_timer){ .fd = fd, .fn = fn, .arg = arg };
        int k = vhk_worker_watch(w, fd, EPOLLIN, on_timer, t, &t->watch);
        if (k < 0)
                return k;
        VHK_STEAL_FD(fd);
        *ret_t = VHK_STEAL(t);
        return 0;
}

VHK_API int vhk_timer_set(struct vhk_timer *t, uint64_t ns) {
        struct itimerspec s = { .it_value = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) } };
        return timerfd_settime(t->fd, 0, &s, NULL) < 0 ? vhk_errno() : 0;
}

VHK_API struct vhk_timer *vhk_timer_free(struct vhk_timer *t) {
        if (t) {
                vhk_watch_free(t->watch);
                close(t->fd);
                free(t);
        }
        return NULL;
}

/* ---- pollers ---- */

VHK_API void vhk_worker_set_spin(struct vhk_worker *w, uint64_t ns) {
        w->spin_ns = ns;                /* dispatch arms pollers that are disarmed now */
}

VHK_API void vhk_worker_add_poller(struct vhk_worker *w, struct vhk_poller *p) {
        p->next = w->pollers;
        p->prev = &w->pollers;
        if (p->next)
                p->next->prev = &p->next;
        w->pollers = p;
        w->has_new = true;
}

VHK_API void vhk_worker_remove_poller(struct vhk_worker *w, struct vhk_poller *p) {
        if (w->next_poller == p)        /* a walk over the list stands before it */
                w->next_poller = p->next;
        *p->prev = p->next;
        if (p->next)
                p->next->prev = p->prev;
        p->next = NULL;
        p->prev = NULL;
}

static bool poll_all(struct vhk_worker *w) {
        bool work = false;

        for (struct vhk_poller *p = w->pollers; p; p = w->next_poller) {
                w->next_poller = p->next;
                work |= p->poll(p) > 0;
        }
        return work;
}

static void disarm_all(struct vhk_worker *w) {
        for (struct vhk_poller *p = w->pollers; p; p = w->next_poller) {
                w->next_poller = p->next;
                if (p->disarm)
                        p->disarm(p);
        }
        w->disarmed = true;
        w->has_new = false;
        w->idle_since = 0;
}

/* False: one of them has work. Then all are disarmed as before. */
static bool arm_all(struct vhk_worker *w) {
        for (struct vhk_poller *p = w->pollers; p; p = w->next_poller) {
                w->next_poller = p->next;
                if (p->arm(p) > 0) {
                        disarm_all(w);
                        return false;
                }
        }
        w->disarmed = false;
        return true;
}

static bool wants_polls(const struct vhk_worker *w) {
        return w->pollers && (w->spin_ns || w->disarmed);
}

/*
 * Looks at the pollers and the mailbox until an event or post was handled (their number), or there has been no work for
 * long enough and all pollers are armed (0), or time is up (0).
 */
static int spin(struct vhk_worker *w, uint64_t until) {
        if (!w->disarmed || w->has_new)
                disarm_all(w);
        wake(w);
        while (w->pollers) {
                bool work = poll_all(w);
                int n = run_posts(w);
                if (++w->rounds % EVENTS_EVERY == 0) {
                        int k = handle_events(w, 0);
                        if (k < 0)
                                return k;
                        n += k;
                }
                if (work || n)
                        w->idle_since = 0;
                else
                        vhk_cpu_relax();
                if (n)
                        return n;
                if (w->rounds % CLOCK_EVERY)
                        continue;
                uint64_t now = vhk_now_ns();
                if (now >= until)
                        return 0;
                if (!w->idle_since)
                        w->idle_since = now;
                else if (now - w->idle_since >= w->spin_ns && arm_all(w))
                        return 0;
        }
        return 0;
}

/* ---- the loop ---- */

static int time_left_ms(uint64_t until) {
        if (until == UINT64_MAX)
                return -1;
        uint64_t now = until ? vhk_now_ns() : 0;
        return now >= until ? 0 : (int)VHK_MIN((until - now + 999999) / 1000000, (uint64_t)INT32_MAX);
}

/* Blocks until something is ready; armed pollers have their descriptors in the set. */
static int wait_and_handle(struct vhk_worker *w, uint64_t until) {
        int n = handle_events(w, may_sleep(w) ? time_left_ms(until) : 0);
        return n < 0 ? n : n + run_posts(w);
}

/* Whatever comes until the next dispatch must make our epoll set readable. */
static void rest(struct vhk_worker *w) {
        bool work = w->fd_given && w->disarmed && w->pollers && !arm_all(w);

        if (!may_sleep(w) || work)
                ring_if_asleep(w);
}

VHK_API int vhk_worker_dispatch(struct vhk_worker *w, int timeout_ms) {
        if (w->is_foreign)
                return -EOPNOTSUPP;
        uint64_t until = timeout_ms < 0 ? UINT64_MAX : timeout_ms ? vhk_now_ns() + (uint64_t)timeout_ms * 1000000u : 0;
        int n;

        do {
                n = 0;
                if (wants_polls(w)) {
                        if (until)
                                n = spin(w, until);
                        else
                                poll_all(w);
                }
                if (!n)
                        n = wait_and_handle(w, until);
        } while (!n && until && (until == UINT64_MAX || vhk_now_ns() < until));
        rest(w);
        return n;
}

VHK_API int vhk_worker_get_fd(struct vhk_worker *w) {
        if (w->is_foreign)
                return -EOPNOTSUPP;
        w->fd_given = true;
        return w->epoll_fd;
}

/* ---- birth and death ---- */

VHK_API int vhk_worker_new(const struct vhk_loop_ops *ops, void *loop, struct vhk_worker **ret_w) {
        struct vhk_loop_ops own = { .size = sizeof(own) };
        if (ops) {
                int ret = VHK_STRUCT_TAKE(&own, ops, del);
                if (ret < 0 || !own.set || !own.del)
                        return ret < 0 ? ret : -EINVAL;
        }
        VHK_AUTOCLOSE int bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (bell_fd < 0)
                return vhk_errno();
        VHK_AUTOCLOSE int epoll_fd = -1;
        if (!ops && (epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
                return vhk_errno();
        VHK_AUTOFREE struct vhk_worker *w = aligned_alloc(VHK_CACHE_LINE, sizeof(*w));
        if (!w)
                return -ENOMEM;
        *w = (struct vhk_worker){ .is_foreign = ops, .loop = loop, .epoll_fd = epoll_fd, .bell_fd = bell_fd, .asleep = 1 };
        if (ops)
                w->ops = own;
        int k = vhk_worker_watch(w, bell_fd, EPOLLIN, on_bell, w, &w->bell);
        if (k < 0)
                return k;
        VHK_STEAL_FD(bell_fd);
        VHK_STEAL_FD(epoll_fd);
        *ret_w = VHK_STEAL(w);
        return 0;
}

VHK_API struct vhk_worker *vhk_worker_free(struct vhk_worker *w) {
        if (!w)
                return NULL;
        while (run_posts(w))
                ;
        w->bell = vhk_watch_free(w->bell);
        bury(w);
        assert(!w->n_watches && !w->pollers);
        vhk_close(&w->bell_fd);
        vhk_close(&w->epoll_fd);
        free(w);
        return NULL;
}
