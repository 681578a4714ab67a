/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include <vhostkit/worker.h>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "base/base.h"
#include "base/fd.h"
#include "base/test.h"

static struct vhk_worker *new_worker(void) {
        struct vhk_worker *w = NULL;
        CHECK_OK(vhk_worker_new(NULL, NULL, &w));
        return w;
}

static bool fd_is_readable(int fd) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        return poll(&p, 1, 0) == 1;
}

/* ---- the mailbox ---- */

enum { N_THREADS = 4, N_POSTS = 25000, WINDOW = 64 };

struct numbered {
        struct vhk_post post;
        struct poster *poster;
        unsigned number;
        unsigned free;          /* shared (atomic): released by the worker, acquired by the poster */
};

struct poster {
        pthread_t thread;
        struct vhk_worker *worker;
        struct numbered posts[WINDOW];
        unsigned next, disorder;        /* worker */
};

static unsigned n_seen;

static void on_numbered(struct vhk_post *p) {
        struct numbered *m = vhk_container_of(p, struct numbered, post);

        m->poster->disorder += m->number != m->poster->next++;
        n_seen++;
        vhk_store_release(&m->free, 1);
}

static void *post_many(void *arg) {
        struct poster *poster = arg;

        for (unsigned i = 0; i < N_POSTS; i++) {
                struct numbered *m = &poster->posts[i % WINDOW];
                while (!vhk_load_acquire(&m->free))
                        usleep(50);
                m->free = 0;
                m->number = i;
                vhk_worker_post(poster->worker, &m->post);
        }
        return NULL;
}

static void many_threads(struct vhk_worker *w, int (*turn)(struct vhk_worker *w)) {
        static struct poster posters[N_THREADS];

        n_seen = 0;
        for (int i = 0; i < N_THREADS; i++) {
                posters[i] = (struct poster){ .worker = w };
                for (int k = 0; k < WINDOW; k++)
                        posters[i].posts[k] = (struct numbered){ .post.fn = on_numbered, .poster = &posters[i], .free = 1 };
                CHECK_EQ(pthread_create(&posters[i].thread, NULL, post_many, &posters[i]), 0);
        }
        while (n_seen < N_THREADS * N_POSTS)
                CHECK(turn(w) > 0);     /* a lost post or ring ends here, after ten seconds */
        for (int i = 0; i < N_THREADS; i++) {
                pthread_join(posters[i].thread, NULL);
                CHECK_EQ(posters[i].disorder, 0);
        }
        CHECK_EQ(n_seen, N_THREADS * N_POSTS);
}

static int turn_own(struct vhk_worker *w) {
        return vhk_worker_dispatch(w, 10000);
}

TEST(posts_of_four_threads_keep_their_order_and_none_is_lost) {
        struct vhk_worker *w = new_worker();
        many_threads(w, turn_own);
        vhk_worker_free(w);
}

struct counted {
        struct vhk_post post;
        struct vhk_worker *worker;
        int runs, again, seen;
        int value;              /* written before each post, read by fn */
};

static void on_counted(struct vhk_post *p) {
        struct counted *c = vhk_container_of(p, struct counted, post);
        c->runs++;
        c->seen = vhk_load_relaxed(&c->value);
        if (c->again-- > 0)
                vhk_worker_post(c->worker, p);
}

TEST(a_post_that_is_queued_is_not_queued_twice) {
        struct vhk_worker *w = new_worker();
        struct counted c = { .post.fn = on_counted, .worker = w };

        vhk_worker_post(w, &c.post);
        vhk_worker_post(w, &c.post);
        CHECK_EQ(vhk_worker_dispatch(w, 0), 1);
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        CHECK_EQ(c.runs, 1);
        vhk_worker_free(w);
}

TEST(a_post_may_post_itself_and_runs_once_per_dispatch) {
        struct vhk_worker *w = new_worker();
        struct counted c = { .post.fn = on_counted, .worker = w, .again = 2 };

        vhk_worker_post(w, &c.post);
        for (int i = 1; i <= 3; i++) {
                CHECK(fd_is_readable(vhk_worker_get_fd(w)));
                CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
                CHECK_EQ(c.runs, i);
        }
        CHECK(!fd_is_readable(vhk_worker_get_fd(w)));
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        vhk_worker_free(w);
}

/* One post that a thread posts again and again while the worker runs it: the last value is always seen. */
static void *post_values(void *arg) {
        struct counted *c = arg;
        for (int i = 1; i <= 20000; i++) {
                vhk_store_relaxed(&c->value, i);
                vhk_worker_post(c->worker, &c->post);
        }
        return NULL;
}

TEST(posting_again_while_it_runs_is_neither_lost_nor_doubled) {
        struct vhk_worker *w = new_worker();
        struct counted c = { .post.fn = on_counted, .worker = w };
        pthread_t t;

        CHECK_EQ(pthread_create(&t, NULL, post_values, &c), 0);
        while (c.seen < 20000)
                CHECK(vhk_worker_dispatch(w, 10000) > 0);
        pthread_join(t, NULL);
        vhk_worker_dispatch(w, 0);      /* the last post may have been queued after its value was seen */
        CHECK(c.runs <= 20000);
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        vhk_worker_free(w);
}

TEST(free_runs_what_is_posted) {
        struct vhk_worker *w = new_worker();
        struct counted c = { .post.fn = on_counted, .worker = w, .again = 3 };

        vhk_worker_post(w, &c.post);
        CHECK(!vhk_worker_free(w));
        CHECK_EQ(c.runs, 4);
        CHECK(!vhk_worker_free(NULL));
}

/* ---- descriptors ---- */

struct watched {
        int fd, calls;
        uint32_t events;
        struct vhk_watch *watch, **victim;
};

static void on_watched(void *arg, uint32_t events) {
        struct watched *x = arg;
        x->calls++;
        x->events = events;
        if (x->victim)
                *x->victim = vhk_watch_free(*x->victim);
}

static void watch(struct vhk_worker *w, struct watched *x, uint32_t events) {
        *x = (struct watched){ .fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC) };
        CHECK(x->fd >= 0);
        CHECK_OK(vhk_worker_watch(w, x->fd, events, on_watched, x, &x->watch));
}

static void unwatch(struct watched *x) {
        x->watch = vhk_watch_free(x->watch);
        close(x->fd);
}

TEST(a_watch_freed_by_another_of_the_same_batch_is_not_called) {
        struct vhk_worker *w = new_worker();
        struct watched a, b;

        watch(w, &a, EPOLLIN);
        watch(w, &b, EPOLLIN);
        a.victim = &b.watch;
        b.victim = &a.watch;
        CHECK_EQ(vhk_worker_dispatch(w, -1), 2);
        CHECK_EQ(a.calls + b.calls, 1);
        CHECK_EQ(!a.watch + !b.watch, 1);
        unwatch(&a);
        unwatch(&b);
        vhk_worker_free(w);
}

/* What must not be done (vhk_watch_free() comes before close()), but happens: then epoll cannot be told. */
static void on_closing(void *arg, uint32_t events) {
        struct watched *x = arg;
        x->calls++;
        if (x->victim) {
                struct watched *victim = vhk_container_of(x->victim, struct watched, watch);
                vhk_close(&victim->fd);
                victim->watch = vhk_watch_free(victim->watch);
        }
}

TEST(a_watch_freed_after_its_descriptor_is_not_called) {
        struct vhk_worker *w = new_worker();
        struct watched x[2];

        for (int i = 0; i < 2; i++) {
                x[i] = (struct watched){ .fd = eventfd(1, EFD_CLOEXEC), .victim = &x[1 - i].watch };
                CHECK_OK(vhk_worker_watch(w, x[i].fd, EPOLLIN, on_closing, &x[i], &x[i].watch));
        }
        CHECK_EQ(vhk_worker_dispatch(w, -1), 2);
        CHECK_EQ(x[0].calls + x[1].calls, 1);
        for (int i = 0; i < 2; i++) {
                vhk_watch_free(x[i].watch);
                vhk_close(&x[i].fd);
        }
        vhk_worker_free(w);
}

TEST(a_watch_may_free_itself) {
        struct vhk_worker *w = new_worker();
        struct watched a;

        watch(w, &a, EPOLLIN);
        a.victim = &a.watch;
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        CHECK_EQ(a.calls, 1);
        unwatch(&a);
        vhk_worker_free(w);
}

TEST(a_watch_for_nothing_does_not_report_a_hangup) {
        struct vhk_worker *w = new_worker();
        struct watched a;
        int p[2];

        watch(w, &a, EPOLLIN);
        CHECK_OK(vhk_watch_set(a.watch, 0));
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        CHECK_OK(vhk_watch_set(a.watch, EPOLLIN | EPOLLOUT));
        CHECK_EQ(vhk_worker_dispatch(w, 0), 1);
        CHECK_EQ(a.events, EPOLLIN | EPOLLOUT);
        unwatch(&a);

        CHECK_OK(pipe2(p, O_CLOEXEC));
        a = (struct watched){ .fd = p[0] };
        CHECK_OK(vhk_worker_watch(w, a.fd, EPOLLIN, on_watched, &a, &a.watch));
        CHECK_OK(vhk_watch_set(a.watch, 0));
        close(p[1]);
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        CHECK_OK(vhk_watch_set(a.watch, EPOLLIN));
        CHECK_EQ(vhk_worker_dispatch(w, 0), 1);
        CHECK_EQ(a.events, EPOLLHUP);
        unwatch(&a);
        vhk_worker_free(w);
}

TEST(what_cannot_be_watched_is_an_error) {
        struct vhk_worker *w = new_worker();
        struct vhk_watch *watch = NULL;
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

        CHECK_EQ(vhk_worker_watch(w, fd, EPOLLIN, on_watched, NULL, &watch), -EPERM);
        close(fd);
        CHECK_EQ(vhk_worker_watch(w, fd, EPOLLIN, on_watched, NULL, &watch), -EBADF);
        CHECK(!watch);
        vhk_worker_free(w);
}

/* ---- timers ---- */

struct timed { struct vhk_timer *timer; int calls; bool frees; };

static void on_time(void *arg) {
        struct timed *t = arg;
        t->calls++;
        if (t->frees)
                t->timer = vhk_timer_free(t->timer);
}

TEST(a_timer_fires_once_and_may_free_itself) {
        struct vhk_worker *w = new_worker();
        struct timed t = { 0 };

        CHECK_OK(vhk_worker_timer(w, on_time, &t, &t.timer));
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        CHECK_OK(vhk_timer_set(t.timer, 1000));
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK_EQ(vhk_worker_dispatch(w, 2), 0);
        CHECK_EQ(t.calls, 1);
        CHECK_OK(vhk_timer_set(t.timer, UINT64_MAX));
        CHECK_OK(vhk_timer_set(t.timer, 1000));
        usleep(1000);
        CHECK(fd_is_readable(vhk_worker_get_fd(w)));
        CHECK_OK(vhk_timer_set(t.timer, 0));
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        t.frees = true;
        CHECK_OK(vhk_timer_set(t.timer, 1));
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK_EQ(t.calls, 2);
        CHECK(!t.timer);
        vhk_worker_free(w);
}

/* ---- pollers ---- */

struct polled {
        struct vhk_poller poller;
        int work, late_work;            /* found by poll; found by arm */
        int polls, arms, disarms;
        bool is_armed, has_gone;
        struct vhk_worker *removes_from;
};

static int on_poll(struct vhk_poller *p) {
        struct polled *x = vhk_container_of(p, struct polled, poller);
        x->polls++;
        if (x->removes_from) {
                vhk_worker_remove_poller(VHK_STEAL(x->removes_from), p);
                x->has_gone = true;
        }
        return x->work ? x->work-- : 0;
}

static int on_arm(struct vhk_poller *p) {
        struct polled *x = vhk_container_of(p, struct polled, poller);
        x->arms++;
        x->is_armed = true;
        return x->late_work ? x->late_work-- : 0;
}

static void on_disarm(struct vhk_poller *p) {
        struct polled *x = vhk_container_of(p, struct polled, poller);
        x->disarms++;
        x->is_armed = false;
}

static const struct polled a_poller = { .poller = { .poll = on_poll, .arm = on_arm, .disarm = on_disarm }, .is_armed = true };

TEST(without_spin_pollers_stay_armed) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller;

        vhk_worker_add_poller(w, &x.poller);
        CHECK_EQ(vhk_worker_dispatch(w, 1), 0);
        CHECK_EQ(x.polls + x.arms + x.disarms, 0);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
}

TEST(a_spinning_worker_disarms_once_and_arms_before_it_sleeps) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller, y = a_poller;

        x.work = 500;
        vhk_worker_set_spin(w, 1000);
        vhk_worker_add_poller(w, &x.poller);
        vhk_worker_add_poller(w, &y.poller);
        CHECK_EQ(vhk_worker_dispatch(w, 20), 0);
        CHECK(x.polls > 500);
        CHECK_EQ(x.work, 0);
        CHECK_EQ(x.disarms, 1);
        CHECK_EQ(y.disarms, 1);
        CHECK_EQ(x.arms, 1);
        CHECK_EQ(y.arms, 1);
        CHECK(x.is_armed && y.is_armed);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_remove_poller(w, &y.poller);
        vhk_worker_free(w);
}

TEST(a_poller_that_comes_later_is_disarmed_too) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller, y = a_poller;
        struct counted c = { .post.fn = on_counted, .worker = w };

        vhk_worker_set_spin(w, UINT64_MAX);
        vhk_worker_add_poller(w, &x.poller);
        vhk_worker_post(w, &c.post);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        vhk_worker_add_poller(w, &y.poller);
        vhk_worker_post(w, &c.post);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK(!x.is_armed && !y.is_armed);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_remove_poller(w, &y.poller);
        vhk_worker_free(w);
}

TEST(work_that_comes_while_arming_keeps_the_worker_awake) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller, y = a_poller;

        y.late_work = 3;
        vhk_worker_set_spin(w, 1000);
        vhk_worker_add_poller(w, &x.poller);
        vhk_worker_add_poller(w, &y.poller);
        CHECK_EQ(vhk_worker_dispatch(w, 20), 0);
        CHECK_EQ(y.arms, 4);
        CHECK_EQ(y.disarms, 4);
        CHECK(x.is_armed && y.is_armed);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_remove_poller(w, &y.poller);
        vhk_worker_free(w);
}

TEST(dispatch_0_is_one_round_and_neither_arms_nor_disarms) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller;

        x.work = 10;
        vhk_worker_set_spin(w, UINT64_MAX);
        vhk_worker_add_poller(w, &x.poller);
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        CHECK_EQ(x.polls, 1);
        CHECK_EQ(x.arms + x.disarms, 0);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
}

TEST(control_is_heard_while_rings_are_busy) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller;
        struct counted c = { .post.fn = on_counted, .worker = w };
        struct watched a;

        x.work = INT32_MAX;
        vhk_worker_set_spin(w, 1000);
        vhk_worker_add_poller(w, &x.poller);
        vhk_worker_post(w, &c.post);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK_EQ(c.runs, 1);
        watch(w, &a, EPOLLIN);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK_EQ(a.calls, 1);
        CHECK_EQ(x.disarms, 1);
        CHECK_EQ(x.arms, 0);
        CHECK_OK(vhk_watch_set(a.watch, 0));
        CHECK_EQ(vhk_worker_dispatch(w, 1), 0);         /* the time is kept, too */
        unwatch(&a);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
}

TEST(who_waits_for_the_workers_fd_finds_pollers_armed) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller;
        struct counted c = { .post.fn = on_counted, .worker = w };

        vhk_worker_set_spin(w, UINT64_MAX);
        vhk_worker_add_poller(w, &x.poller);
        CHECK(!fd_is_readable(vhk_worker_get_fd(w)));
        vhk_worker_post(w, &c.post);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK(x.is_armed);
        vhk_worker_dispatch(w, 0);                      /* the doorbell of the post */
        CHECK(!fd_is_readable(vhk_worker_get_fd(w)));

        x.late_work = 1;
        vhk_worker_post(w, &c.post);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK(!x.is_armed);
        CHECK(fd_is_readable(vhk_worker_get_fd(w)));
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
}

TEST(spin_0_arms_what_was_disarmed) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller;
        struct counted c = { .post.fn = on_counted, .worker = w };

        vhk_worker_set_spin(w, UINT64_MAX);
        vhk_worker_add_poller(w, &x.poller);
        vhk_worker_post(w, &c.post);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        CHECK(!x.is_armed);
        vhk_worker_set_spin(w, 0);
        CHECK_EQ(vhk_worker_dispatch(w, 20), 0);
        CHECK(x.is_armed);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
}

TEST(a_poller_may_remove_itself_while_it_is_polled) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller, y = a_poller;

        vhk_worker_set_spin(w, 1000);
        vhk_worker_add_poller(w, &x.poller);
        vhk_worker_add_poller(w, &y.poller);
        y.removes_from = w;
        CHECK_EQ(vhk_worker_dispatch(w, 0), 0);
        CHECK(y.has_gone);
        CHECK_EQ(x.polls, 1);
        x.removes_from = w;
        CHECK_EQ(vhk_worker_dispatch(w, 5), 0);
        CHECK_EQ(y.polls, 1);
        CHECK_EQ(x.polls, 2);
        vhk_worker_free(w);
}

TEST(posts_of_four_threads_reach_a_worker_that_spins_and_sleeps) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller;

        vhk_worker_set_spin(w, 2000);
        vhk_worker_add_poller(w, &x.poller);
        many_threads(w, turn_own);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
}

/* ---- quiet ---- */

TEST(an_idle_worker_sleeps_until_its_time) {
        struct vhk_worker *w = new_worker();
        struct polled x = a_poller;
        struct watched a;
        struct rusage before, after;

        vhk_worker_set_spin(w, 1000);
        vhk_worker_add_poller(w, &x.poller);
        watch(w, &a, EPOLLIN);
        CHECK_EQ(vhk_drain_fd(a.fd), 1);
        getrusage(RUSAGE_THREAD, &before);
        CHECK_EQ(vhk_worker_dispatch(w, 100), 0);
        getrusage(RUSAGE_THREAD, &after);
        CHECK_EQ(x.arms, 1);            /* it went to sleep once, and nothing called it back */
        CHECK_EQ(x.disarms, 1);
        CHECK_MSG(after.ru_nvcsw - before.ru_nvcsw <= 2, "slept %ld times", after.ru_nvcsw - before.ru_nvcsw);
        unwatch(&a);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
}

struct disturber { struct counted c; pthread_t sleeper; };
static int n_signals;           /* shared (atomic) */

static void on_signal(int sig) {
        __atomic_fetch_add(&n_signals, 1, __ATOMIC_RELAXED);
}

static void *disturb(void *arg) {
        struct disturber *d = arg;

        for (int i = 0; i < 5; i++) {
                usleep(2000);
                pthread_kill(d->sleeper, SIGUSR1);
        }
        vhk_worker_post(d->c.worker, &d->c.post);
        return NULL;
}

TEST(a_signal_does_not_end_the_wait) {
        struct vhk_worker *w = new_worker();
        struct disturber d = { .c = { .post.fn = on_counted, .worker = w }, .sleeper = pthread_self() };
        struct sigaction sa = { .sa_handler = on_signal };
        pthread_t t;

        CHECK_EQ(sigaction(SIGUSR1, &sa, NULL), 0);
        CHECK_EQ(pthread_create(&t, NULL, disturb, &d), 0);
        CHECK_EQ(vhk_worker_dispatch(w, -1), 1);
        pthread_join(t, NULL);
        CHECK(vhk_load_relaxed(&n_signals) > 0);
        CHECK_EQ(d.c.runs, 1);
        vhk_worker_free(w);
}

TEST(one_doorbell_for_many_posts) {
        struct vhk_worker *w = new_worker();
        struct counted c[3] = { { .post.fn = on_counted }, { .post.fn = on_counted }, { .post.fn = on_counted } };
        int fd = vhk_worker_get_fd(w);

        CHECK(!fd_is_readable(fd));
        for (int i = 0; i < 3; i++)
                vhk_worker_post(w, &c[i].post);
        CHECK(fd_is_readable(fd));
        CHECK_EQ(vhk_worker_dispatch(w, -1), 3);
        CHECK(!fd_is_readable(fd));
        vhk_worker_free(w);
}

/* ---- a foreign loop: poll(2) and a table ---- */

struct loop {
        struct pollfd fds[8];
        struct vhk_watch *watches[8];
        int n, n_sets;
};

static int loop_find(struct loop *l, struct vhk_watch *w) {
        for (int i = 0; i < l->n; i++)
                if (l->watches[i] == w)
                        return i;
        return -1;
}

static int loop_set(void *arg, int fd, uint32_t events, struct vhk_watch *w) {
        struct loop *l = arg;
        int i = loop_find(l, w);

        if (i < 0 && l->n == 8)
                return -ENOSPC;
        if (i < 0)
                i = l->n++;
        l->fds[i] = (struct pollfd){ .fd = events ? fd : -1, .events = (short)events };
        l->watches[i] = w;
        l->n_sets++;
        return 0;
}

static void loop_del(void *arg, int fd, struct vhk_watch *w) {
        struct loop *l = arg;
        int i = loop_find(l, w);

        l->n--;
        l->fds[i] = l->fds[l->n];
        l->watches[i] = l->watches[l->n];
}

static int loop_turn(struct loop *l, int timeout_ms) {
        int n = poll(l->fds, (nfds_t)l->n, timeout_ms);

        for (int i = l->n - 1; i >= 0; i--)     /* backwards: a removal moves only what was handled */
                if (i < l->n && l->fds[i].revents)
                        vhk_watch_fire(l->watches[i], (uint32_t)(unsigned short)l->fds[i].revents);
        return n;
}

static const struct vhk_loop_ops loop_ops = { sizeof(loop_ops), loop_set, loop_del };
static struct loop the_loop;

static int turn_foreign(struct vhk_worker *w) {
        return loop_turn(&the_loop, 10000);
}

TEST(a_foreign_loop_drives_posts_watches_and_timers) {
        struct loop l = { .n = 0 };
        struct vhk_worker *w = NULL;
        struct counted c = { .post.fn = on_counted, .again = 1 };
        struct watched a;
        struct timed t = { .frees = true };
        struct polled x = a_poller;

        CHECK_OK(vhk_worker_new(&loop_ops, &l, &w));
        c.worker = w;
        CHECK_EQ(vhk_worker_dispatch(w, 0), -EOPNOTSUPP);
        CHECK_EQ(vhk_worker_get_fd(w), -EOPNOTSUPP);
        vhk_worker_set_spin(w, 1000);
        vhk_worker_add_poller(w, &x.poller);
        CHECK_EQ(loop_turn(&l, 0), 0);
        vhk_worker_post(w, &c.post);
        CHECK_EQ(loop_turn(&l, -1), 1);
        CHECK_EQ(loop_turn(&l, -1), 1);
        CHECK_EQ(c.runs, 2);
        CHECK_EQ(loop_turn(&l, 0), 0);
        watch(w, &a, EPOLLIN);
        CHECK_OK(vhk_watch_set(a.watch, 0));
        CHECK_EQ(loop_turn(&l, 0), 0);
        CHECK_OK(vhk_watch_set(a.watch, EPOLLIN));
        a.victim = &a.watch;
        CHECK_EQ(loop_turn(&l, 0), 1);
        CHECK_EQ(a.calls, 1);
        CHECK_OK(vhk_worker_timer(w, on_time, &t, &t.timer));
        CHECK_OK(vhk_timer_set(t.timer, 1));
        CHECK_EQ(loop_turn(&l, -1), 1);
        CHECK_EQ(t.calls, 1);
        CHECK_EQ(x.polls + x.arms + x.disarms, 0);
        unwatch(&a);
        vhk_worker_remove_poller(w, &x.poller);
        vhk_worker_free(w);
        CHECK_EQ(l.n, 0);
}

TEST(posts_of_four_threads_reach_a_foreign_loop) {
        struct vhk_worker *w = NULL;

        the_loop = (struct loop){ .n = 0 };
        CHECK_OK(vhk_worker_new(&loop_ops, &the_loop, &w));
        many_threads(w, turn_foreign);
        vhk_worker_free(w);
}

TEST(a_loop_of_another_size_is_refused) {
        struct vhk_loop_ops ops = loop_ops;
        struct vhk_worker *w = NULL;

        ops.size--;
        CHECK_EQ(vhk_worker_new(&ops, NULL, &w), -EINVAL);
        CHECK(!w);
}
