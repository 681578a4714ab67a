/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Rings change while they work: call descriptor, memory table, enable, GET_VRING_BASE and restart come at random, and
 * nothing is lost. Once with a home thread for every ring and completions from a fifth thread, once with control and
 * rings on one foreign poll(2) loop. Meant for ThreadSanitizer.
 */
#include <pthread.h>

#include "backend/test-backend.h"
#include "backend/test-home.h"

static uint32_t rand_state;

static unsigned rnd(unsigned n) {
        rand_state = rand_state * 1664525 + 1013904223;
        return (rand_state >> 8) % n;
}

/* ---- a device for many threads: odd numbers are answered by a thread of its own ---- */

struct tdev {
        struct vhk_host *host;
        pthread_mutex_t lock;
        pthread_cond_t cond;
        struct vhk_req *todo[N_RINGS * RING_SIZE];
        unsigned n;
        bool quit;
        pthread_t thread;
        unsigned n_start[N_RINGS], n_stopped[N_RINGS];          /* each at its ring's home */
};

static void *completer(void *arg) {
        struct tdev *d = arg;

        pthread_mutex_lock(&d->lock);
        for (;;) {
                while (!d->n && !d->quit)
                        pthread_cond_wait(&d->cond, &d->lock);
                if (!d->n)
                        break;
                struct vhk_req *r = d->todo[--d->n];
                pthread_mutex_unlock(&d->lock);
                (void)vhk_host_config_changed(d->host);
                vhk_req_complete(r, dev_answer(r));
                pthread_mutex_lock(&d->lock);
        }
        pthread_mutex_unlock(&d->lock);
        return NULL;
}

static void tdev_run(void *arg, struct vhk_queue *q) {
        struct tdev *d = arg;
        struct vhk_req *r[4];
        int n;

        while ((n = vhk_queue_pop(q, r, 4)) > 0)
                for (int i = 0; i < n; i++) {
                        uint64_t x = 0;
                        vhk_req_read(r[i], 0, &x, sizeof(x));
                        if (x % 2 == 0) {
                                vhk_queue_push(q, r[i], dev_answer(r[i]));
                                continue;
                        }
                        pthread_mutex_lock(&d->lock);
                        d->todo[d->n++] = r[i];
                        pthread_cond_signal(&d->cond);
                        pthread_mutex_unlock(&d->lock);
                }
        vhk_queue_flush(q);
}

static int tdev_attach(void *arg, struct vhk_host *host) {
        ((struct tdev *)arg)->host = host;
        return 0;
}

static int tdev_get_config(void *arg, uint32_t off, void *buf, uint32_t n) {
        memset(buf, 1, n);
        return 0;
}

static int tdev_start(void *arg, struct vhk_queue *q, struct vhk_worker *home) {
        ((struct tdev *)arg)->n_start[vhk_queue_get_index(q)]++;
        return 0;
}

static void tdev_stopped(void *arg, struct vhk_queue *q) {
        ((struct tdev *)arg)->n_stopped[vhk_queue_get_index(q)]++;
}

static const struct vhk_device_ops tdev_ops = {
        .size = sizeof(tdev_ops), .virtio_id = VHK_ID_RNG, .n_queues = N_RINGS, .queue_size_max = 256, .req_size = 16,
        .config_len = 4, .threads = VHK_THREADS_PER_QUEUE, .attach = tdev_attach, .get_config = tdev_get_config, .queue_start = tdev_start, .queue_run = tdev_run, .queue_stopped = tdev_stopped,
};

static void tdev_begin(struct tdev *d) {
        *d = (struct tdev){ .n = 0 };
        pthread_mutex_init(&d->lock, NULL);
        pthread_cond_init(&d->cond, NULL);
        CHECK_EQ(pthread_create(&d->thread, NULL, completer, d), 0);
}

static void tdev_end(struct tdev *d) {
        pthread_mutex_lock(&d->lock);
        d->quit = true;
        pthread_cond_signal(&d->cond);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->thread, NULL);
        pthread_cond_destroy(&d->cond);
        pthread_mutex_destroy(&d->lock);
}

/* ---- the storm: front-end and control are this thread ---- */

static bool second_region, enabled[N_RINGS];

static void change_call(struct rig *r, unsigned i) {
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

        CHECK(fd >= 0);
        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_CALL, i, fd), 0);
        close(r->rings[i].call);
        r->rings[i].call = fd;
}

static void change_enable(struct rig *r, unsigned i) {
        enabled[i] = !enabled[i];
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_ENABLE, i, enabled[i]), 0);
}

static void restart(struct rig *r, unsigned i) {
        int base = ring_stop(r, i);

        ring_reap(r, i);                        /* all that was popped is done and published */
        CHECK_EQ(base, r->rings[i].n_reaped & 0xffff);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_BASE, i, (uint32_t)base), 0);
        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_KICK, i, r->rings[i].kick), 0);
}

static void change_region(struct rig *r, unsigned i) {
        second_region = !second_region;
        CHECK_EQ(fe_mem_reg(r, second_region ? VHK_FE_ADD_MEM_REG : VHK_FE_REM_MEM_REG, 1 << 20, 1 << 20), 0);
}

static void change_table(struct rig *r, unsigned i) {
        struct vhk_p_mem_regions t = { .regions = { region(r, 0, 1 << 20), region(r, 1 << 20, 1 << 20) } };
        int fds[2] = { r->memfd, r->memfd };
        uint64_t x = 9;

        second_region = rnd(2);
        t.n_regions = 1 + second_region;
        fe_send(r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 32 * t.n_regions, fds, t.n_regions);
        CHECK_EQ(fe_receive(r, VHK_FE_SET_MEM_TABLE, &x, 8), 8);
        CHECK_EQ(x, 0);
}

static void repeat_features(struct rig *r, unsigned i) {
        CHECK_EQ(fe_ask_u64(r, VHK_FE_SET_FEATURES, FEATURES), 0);
}

static void look_at_metrics(struct rig *r, unsigned i) {
        struct vhk_ring_metrics m = { .size = sizeof(m) };
        CHECK_OK(vhk_backend_get_metrics(r->b, i, &m));
        CHECK_EQ(m.faults, 0);
}

static struct vhk_conn channel = { .fd = -1 };
static unsigned n_config_changes;

static void open_channel(struct rig *r) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), 0);
        close(pair[1]);
        vhk_conn_done(&channel);
        CHECK_OK(vhk_conn_init(&channel, pair[0]));
}

/* Takes what the back-end has to say of its configuration, and acknowledges it. */
static void serve_channel(struct rig *r, unsigned i) {
        static const struct vhk_hdr ack = { VHK_BE_CONFIG_CHANGE_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 };
        int k;

        while ((k = vhk_conn_receive(&channel)) == VHK_CONN_HEADER || k == VHK_CONN_MESSAGE) {
                if (k == VHK_CONN_HEADER)
                        continue;
                CHECK_EQ(vhk_decoder_header(&channel.in).request, VHK_BE_CONFIG_CHANGE_MSG);
                vhk_decoder_next(&channel.in);
                CHECK_OK(vhk_conn_send(&channel, &ack, &(uint64_t){ 0 }, NULL, 0));
                n_config_changes++;
        }
        CHECK_EQ(k, VHK_CONN_AGAIN);
}

static void (*const changes[])(struct rig *r, unsigned i) = {
        change_call, change_call, change_enable, change_enable, restart, restart, change_region, change_table, repeat_features,
        look_at_metrics, serve_channel,
};

/* Waits for the device's notification, not for time to pass: one that is lost is a failure. */
static void wait_idle(struct rig *r, unsigned i) {
        uint64_t until = now_ns() + 10000000000u;

        while (!ring_is_idle(r, i)) {
                if (vhk_drvring_arm(r->rings[i].drv))
                        continue;
                while (!is_readable(r->rings[i].call)) {
                        CHECK_MSG(now_ns() < until, "ring %u: no notification; %u in flight; log:\n%s", i,
                                  vhk_drvring_n_in_flight(r->rings[i].drv), r->log);
                        turn(r, 1);
                }
                vhk_drain_fd(r->rings[i].call);
        }
}

static void storm(struct rig *r, unsigned rounds) {
        if (getenv("VHK_TEST_SLOW"))
                rounds /= 10;
        second_region = true;
        fe_connect(r);
        fe_negotiate(r, FEATURES, PROTOCOL);
        open_channel(r);
        n_config_changes = 0;
        CHECK_EQ(fe_mem_reg(r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        CHECK_EQ(fe_mem_reg(r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        for (unsigned i = 0; i < N_RINGS; i++) {
                ring_make(r, i);
                ring_set_up(r, i, 0);
                ring_go(r, i);
                enabled[i] = true;
        }
        for (unsigned k = 0; k < rounds; k++) {
                for (unsigned n = rnd(8); n; n--) {
                        unsigned i = rnd(N_RINGS);
                        if (vhk_drvring_n_in_flight(r->rings[i].drv) < RING_SIZE / 2)
                                ring_add(r, i);
                }
                changes[rnd(VHK_N(changes))](r, rnd(N_RINGS));
                if (rnd(4) == 0) {
                        unsigned i = rnd(N_RINGS);
                        if (enabled[i])
                                wait_idle(r, i);
                }
                for (unsigned i = 0; i < N_RINGS; i++)
                        ring_reap(r, i);
        }
        for (unsigned i = 0; i < N_RINGS; i++) {
                if (!enabled[i])
                        change_enable(r, i);
                wait_idle(r, i);
                CHECK(r->rings[i].n_added > rounds / 8);
        }
        serve_channel(r, 0);
        CHECK(n_config_changes > 0);
        vhk_conn_done(&channel);
}

/* ---- four homes, five threads ---- */

static void with_four_homes(unsigned rounds, uint64_t spin_ns) {
        static struct rig r;
        static struct tdev d;
        struct home h[N_RINGS];

        memset(&r, 0, sizeof(r));
        tdev_begin(&d);
        rig_open_with(&r, NULL, &tdev_ops, &d);
        for (unsigned i = 0; i < N_RINGS; i++) {
                h[i] = (struct home){ .quit_post.fn = on_quit };
                CHECK_OK(vhk_worker_new(NULL, NULL, &h[i].w));
                vhk_worker_set_spin(h[i].w, i % 2 ? spin_ns : 0);
                CHECK_OK(vhk_backend_set_worker(r.b, i, h[i].w));
                CHECK_EQ(pthread_create(&h[i].thread, NULL, home_thread, &h[i]), 0);
        }
        storm(&r, rounds);
        CHECK_EQ(vhk_backend_set_worker(r.b, 0, h[1].w), -EBUSY);
        fe_close(&r);                           /* with everything running */
        storm(&r, rounds / 4);                  /* and the next front-end */
        rig_end(&r);
        tdev_end(&d);                           /* a thread that completes must be through before a worker is freed */
        rig_close(&r);
        for (unsigned i = 0; i < N_RINGS; i++) {
                vhk_worker_post(h[i].w, &h[i].quit_post);
                pthread_join(h[i].thread, NULL);
                vhk_worker_free(h[i].w);
                CHECK_EQ(d.n_start[i], d.n_stopped[i]);
        }
}

TEST(four_homes) {
        rand_state = 1;
        with_four_homes(2000, 0);
}

TEST(four_homes_two_spin) {
        rand_state = 2;
        with_four_homes(1000, 20000);
}

/* ---- one foreign loop ---- */

/* poll(2), and nothing that the contract does not promise: it knows EPOLLIN and EPOLLOUT only, and reports nothing for 0. */
struct loop {
        struct { int fd; uint32_t events; struct vhk_watch *w; } e[64];
        unsigned n;
};
static struct loop the_loop;

static int loop_set(void *arg, int fd, uint32_t events, struct vhk_watch *w) {
        struct loop *l = arg;
        unsigned i = 0;

        while (i < l->n && l->e[i].w != w)
                i++;
        if (i == VHK_N(l->e))
                return -ENOSPC;
        l->n += i == l->n;
        l->e[i].fd = fd;
        l->e[i].events = events & (POLLIN | POLLOUT);
        l->e[i].w = w;
        return 0;
}

static void loop_del(void *arg, int fd, struct vhk_watch *w) {
        struct loop *l = arg;

        for (unsigned i = 0; i < l->n; i++)
                if (l->e[i].w == w) {
                        CHECK_EQ(l->e[i].fd, fd);
                        l->e[i] = l->e[--l->n];
                        return;
                }
        CHECK(!"deleted what was not there");
}

static const struct vhk_loop_ops loop_ops = { sizeof(loop_ops), loop_set, loop_del };

static int loop_turn(struct rig *r, int timeout_ms) {
        struct loop *l = &the_loop;
        struct pollfd p[64];
        struct vhk_watch *w[64];
        unsigned n = l->n;
        int fired = 0;

        for (unsigned i = 0; i < n; i++) {
                p[i] = (struct pollfd){ .fd = l->e[i].events ? l->e[i].fd : -1, .events = (short)l->e[i].events };
                w[i] = l->e[i].w;
        }
        if (poll(p, n, timeout_ms) <= 0)
                return 0;
        for (unsigned i = 0; i < n; i++)
                for (unsigned k = 0; p[i].revents && k < l->n; k++)
                        if (l->e[k].w == w[i] && l->e[k].events) {      /* still there, after what the others did */
                                vhk_watch_fire(w[i], (uint32_t)p[i].revents);
                                fired++;
                                break;
                        }
        return fired;
}

static void foreign_open(struct rig *r, const struct vhk_device_ops *ops, void *dev) {
        memset(r, 0, sizeof(*r));
        the_loop.n = 0;
        CHECK_OK(vhk_worker_new(&loop_ops, &the_loop, &r->control));
        r->turn = loop_turn;
        rig_open_with(r, NULL, ops, dev);
}

TEST(one_foreign_loop) {
        static struct rig r;
        static struct tdev d;

        rand_state = 3;
        tdev_begin(&d);
        foreign_open(&r, &tdev_ops, &d);
        storm(&r, 2000);
        fe_close(&r);
        storm(&r, 500);
        rig_end(&r);
        tdev_end(&d);
        rig_close(&r);
        for (unsigned i = 0; i < N_RINGS; i++)
                CHECK_EQ(d.n_start[i], d.n_stopped[i]);
        CHECK_EQ(the_loop.n, 0);
}

/* Such a loop does not tell that a peer has gone while its messages are not wanted. */
TEST(foreign_loop_sees_a_disconnect_while_it_drains) {
        static struct rig r;
        struct vhk_p_vring_state p = { 0, 0 };

        foreign_open(&r, NULL, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 1);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        fe_send(&r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
        PUMP_UNTIL(&r, r.dev.n_stop == 1);
        fe_close(&r);
        PUMP_UNTIL(&r, strstr(r.log, "has gone"));
        dev_release(&r.dev);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        rig_close(&r);
}
