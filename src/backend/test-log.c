/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The dirty log over a session: QEMU's two orders, switching on and off while rings run, a log that is exchanged, memory that
 * is added, what is refused (H23-H25); and a whole pre-copy with homes of their own and random changes, whose copy must
 * equal the source.
 */
#include <pthread.h>

#include "backend/test-backend.h"
#include "backend/test-home.h"

#define LOG_PROTOCOL (PROTOCOL | VHK_BIT(VHK_PF_LOG_SHMFD))
#define LOGGING (FEATURES | VHK_BIT(VHK_F_LOG_ALL))
#define LOG_BYTES 0x10000u              /* 2 GiB of guest memory; the test's lies at 1 GiB */
#define PAGES (MEM_BYTES / 4096)

struct log {
        int fd;
        uint8_t *bits;
};

static struct log log_make(void) {
        struct log l = { memfd_create("test-log", MFD_CLOEXEC), NULL };

        CHECK(l.fd >= 0 && ftruncate(l.fd, 2 * LOG_BYTES) == 0);
        l.bits = mmap(NULL, 2 * LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, l.fd, 0);
        CHECK(l.bits != MAP_FAILED);
        return l;
}

static void log_done(struct log *l) {
        munmap(l->bits, 2 * LOG_BYTES);
        close(l->fd);
}

static bool take(const struct log *l, unsigned page) {
        uint64_t at = GPA / 4096 + page;
        uint8_t mask = (uint8_t)(1u << at % 8);
        /* acquire: pairs with the release of the mark */
        return __atomic_fetch_and(&l->bits[at / 8], (uint8_t)~mask, __ATOMIC_ACQUIRE) & mask;
}

static unsigned count(const struct log *l) {
        unsigned n = 0;
        for (unsigned i = 0; i < 2 * LOG_BYTES; i++)
                n += (unsigned)__builtin_popcount(vhk_load_relaxed(&l->bits[i]));
        return n;
}

/* SET_LOG_BASE: the size of the answer, -EPIPE: it was refused */
static int set_base(struct rig *r, int fd, uint64_t size, uint64_t offset) {
        struct vhk_p_log p = { size, offset }, reply = { 0 };

        fe_send(r, VHK_FE_SET_LOG_BASE, 0, &p, sizeof(p), &fd, fd >= 0);
        int k = fe_receive(r, VHK_FE_SET_LOG_BASE, &reply, sizeof(reply));
        if (k > 0) {
                CHECK_EQ(reply.mmap_size, size);
                CHECK_EQ(reply.mmap_offset, offset);
        }
        return k;
}

static int64_t set_addr(struct rig *r, unsigned i, bool on) {
        struct vhk_p_vring_addr a = ring_addr(r, i);

        a.flags = on ? VHK_VRING_F_LOG : 0;
        a.log_guest_addr = GPA + (a.used - (uint64_t)(uintptr_t)r->mem);
        return fe_ask(r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1);
}

static void switch_all(struct rig *r, unsigned n, bool on) {
        CHECK_EQ(fe_ask_u64(r, VHK_FE_SET_FEATURES, on ? LOGGING : FEATURES), 0);
        for (unsigned i = 0; i < n; i++)
                CHECK_EQ(set_addr(r, i, on), 0);
}

static void fe_begin(struct rig *r, unsigned n) {
        fe_connect(r);
        fe_negotiate(r, FEATURES, LOG_PROTOCOL);
        CHECK_EQ(fe_mem_reg(r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        for (unsigned i = 0; i < n; i++) {
                ring_make(r, i);
                ring_set_up(r, i, 0);
                ring_go(r, i);
        }
}

static void work(struct rig *r, unsigned i, unsigned n) {
        while (n--) {
                ring_add(r, i);
                PUMP_UNTIL(r, ring_is_idle(r, i));
        }
        pump(r);
}

/* The rings have said what notifications they want, which is a write too. */
static void forget(struct rig *r, const struct log *l) {
        pump(r);
        memset(l->bits, 0, 2 * LOG_BYTES);
}

/* Ring @i's pages: used ring and answers, and no others; or none at all. */
static void check_marks(const struct log *l, unsigned i, bool on) {
        unsigned page = i * RING_BYTES / 4096;

        CHECK_EQ(take(l, page + 2), on);
        CHECK_EQ(take(l, page + BUFFERS / 4096), on);
        CHECK_EQ(count(l), 0);
}

/* As QEMU does when a migration begins: log, features, rings. Then it is cancelled, and begins again. */
TEST(on_and_off) {
        static struct rig r;
        struct log l = log_make();

        rig_open(&r, NULL, NULL);
        fe_begin(&r, 2);
        for (int round = 0; round < 3; round++) {
                work(&r, 0, 3);
                CHECK_EQ(count(&l), 0);
                CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, 0), 16);
                work(&r, 0, 1);
                CHECK_EQ(count(&l), 0);
                switch_all(&r, 2, true);
                forget(&r, &l);
                work(&r, 0, 1);
                check_marks(&l, 0, true);
                work(&r, 1, 3);
                check_marks(&l, 1, true);
                switch_all(&r, 2, false);
                forget(&r, &l);
                work(&r, 0, 3);
                check_marks(&l, 0, false);
        }
        CHECK_EQ(r.dev.n_negotiated, 1);        /* the device does not hear of it */
        rig_close(&r);
        log_done(&l);
}

/* As QEMU does when the guest's driver starts a device during a migration: the log comes last. And data without rings. */
TEST(log_comes_last) {
        static struct rig r;
        struct log l = log_make();

        rig_open(&r, NULL, NULL);
        fe_begin(&r, 1);
        switch_all(&r, 1, true);
        work(&r, 0, 1);
        CHECK_EQ(count(&l), 0);
        CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, LOG_BYTES), 16);
        forget(&r, &l);
        work(&r, 0, 1);
        memcpy(l.bits, l.bits + LOG_BYTES, LOG_BYTES);
        memset(l.bits + LOG_BYTES, 0, LOG_BYTES);
        check_marks(&l, 0, true);
        CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, 0), 16);
        CHECK_EQ(set_addr(&r, 0, false), 0);
        forget(&r, &l);
        work(&r, 0, 1);
        CHECK(!take(&l, 2) && take(&l, 4));
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 0);
        CHECK_EQ(set_addr(&r, 0, true), 0);     /* the used ring alone */
        work(&r, 0, 1);
        CHECK(take(&l, 2) && !take(&l, 4));
        rig_close(&r);
        log_done(&l);
}

/* The log grows with memory: exchanged while requests are in flight, and the former one is let go of before the answer. */
/* Rust vhost up to 0.15 reads nothing without NEED_REPLY, and with it a u64 of 0. */
TEST(with_the_quirk_set_log_base_is_acknowledged_like_other_messages) {
        struct vhk_p_log p = { LOG_BYTES, 0 };
        struct log l = log_make();
        static struct rig r;

        rig_open(&r, &(struct vhk_backend_options){ .quirks = VHK_QUIRK_LOG_REPLY_U64 }, NULL);
        for (unsigned round = 0; round < 2; round++) {
                fe_begin(&r, 1);
                switch_all(&r, 1, true);
                CHECK_EQ(fe_ask(&r, VHK_FE_SET_LOG_BASE, &p, sizeof(p), l.fd), 0);      /* when the ring has it */
                fe_send(&r, VHK_FE_SET_LOG_BASE, 0, &p, sizeof(p), &l.fd, 1);
                CHECK(fe_get(&r, VHK_FE_GET_FEATURES));         /* no reply comes before this one */
                forget(&r, &l);
                work(&r, 0, 1);
                check_marks(&l, 0, true);
                p.mmap_size = 1;                                /* does not reach the end of memory */
                CHECK_EQ(fe_ask(&r, VHK_FE_SET_LOG_BASE, &p, sizeof(p), l.fd), 1);
                p.mmap_size = LOG_BYTES;
                fe_close(&r);
                PUMP_UNTIL(&r, r.n_disconnected == round + 1);
        }
        rig_close(&r);
        log_done(&l);
        struct vhk_error e;
        CHECK_OK(vhk_worker_new(NULL, NULL, &r.control));
        struct vhk_backend_options o = { .size = sizeof(o), .control = r.control, .quirks = 2 };
        CHECK_EQ(vhk_backend_open("/tmp/x", &o, &dev_ops, &r.dev, &r.b, &e), -EOPNOTSUPP);
        CHECK_STR(e.rule, "backend.quirks");
        vhk_worker_free(r.control);
}

TEST(exchanged) {
        static struct rig r;
        struct log a = log_make(), b = log_make();

        rig_open(&r, NULL, NULL);
        fe_begin(&r, 1);
        CHECK_EQ(set_base(&r, a.fd, GPA / 4096 / 8 + 32, 0), 16);
        switch_all(&r, 1, true);
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 1);      /* behind the log's end */
        CHECK(strstr(r.log, "log.range"));
        struct vhk_mem_counters before = vhk_mem_counters();
        CHECK_EQ(set_base(&r, b.fd, LOG_BYTES, 0), 16);
        CHECK_EQ(vhk_mem_counters().munmaps - before.munmaps, 1);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        forget(&r, &b);
        forget(&r, &a);
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        pump(&r);
        CHECK_EQ(count(&a), 0);
        check_marks(&b, 0, true);
        /* off, and memory outgrows the log: it is the log that goes */
        switch_all(&r, 1, false);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 1 << 20, 1 << 20), 0);
        CHECK_EQ(set_base(&r, a.fd, GPA / 4096 / 8 + 32, 0), 16);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        switch_all(&r, 1, true);
        r.dev.hold = false;
        forget(&r, &a);
        forget(&r, &b);
        work(&r, 0, 1);
        CHECK_EQ(count(&a) + count(&b), 0);
        rig_close(&r);
        log_done(&a);
        log_done(&b);
}

TEST(stop_has_all_marks) {
        static struct rig r;
        struct log l = log_make();

        rig_open(&r, NULL, NULL);
        fe_begin(&r, 1);
        CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, 0), 16);
        switch_all(&r, 1, true);
        r.dev.hold = true;
        for (unsigned i = 0; i < 8; i++)
                ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 8);
        struct vhk_p_vring_state p = { 0, 0 }, base;
        fe_send(&r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
        PUMP_UNTIL(&r, r.dev.n_stop == 1);
        forget(&r, &l);
        dev_release(&r.dev);
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_VRING_BASE, &base, sizeof(base)), 8);
        CHECK_EQ(base.num, 8);
        check_marks(&l, 0, true);
        rig_close(&r);
        log_done(&l);
}

TEST(log_fd_is_signalled) {
        static struct rig r;
        struct log l = log_make();
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

        rig_open(&r, NULL, NULL);
        fe_begin(&r, 1);
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_LOG_FD, NULL, 0, l.fd), 1);      /* not an eventfd */
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_LOG_FD, NULL, 0, -1), 1);
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_LOG_FD, NULL, 0, fd), 0);
        work(&r, 0, 1);
        CHECK(!is_readable(fd));
        CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, 0), 16);
        switch_all(&r, 1, true);
        work(&r, 0, 1);
        CHECK_EQ(vhk_drain_fd(fd), 1);
        CHECK(!is_readable(fd));
        int other = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_LOG_FD, NULL, 0, other), 0);     /* while the rings run */
        vhk_drain_fd(fd);                       /* what was marked before is told first */
        work(&r, 0, 1);
        CHECK(!is_readable(fd) && !is_readable(other));         /* nobody took the marks: nothing is new */
        memset(l.bits, 0, LOG_BYTES);
        work(&r, 0, 1);
        CHECK(!is_readable(fd) && is_readable(other));
        /* A kick descriptor: a run that only marks its wish must not wake itself. */
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_LOG_FD, NULL, 0, r.rings[0].kick), 0);
        memset(l.bits, 0, LOG_BYTES);
        work(&r, 0, 1);
        int n = 0;
        while (vhk_worker_dispatch(r.control, 0) > 0)
                CHECK(++n < 20);
        rig_close(&r);
        close(fd);
        close(other);
        log_done(&l);
}

/* H23. SET_LOG_BASE has no word for no: the connection ends, and the next front-end is served. */
TEST(h23_bad_logs) {
        static const struct { uint64_t size, offset; const char *rule; } cases[] = {
                { 3 * LOG_BYTES, 0, "mem.beyond-file" }, { LOG_BYTES, 2 * LOG_BYTES, "mem.beyond-file" }, { LOG_BYTES, 1, "mem.offset-align" },
                { 0, 0, "wire.log-empty" }, { UINT64_MAX, 4096, "wire.log-range" }, { 4096, UINT64_MAX & ~4095ull, "wire.log-range" },
                { GPA / 4096 / 8 + 31, 0, "log.range" }, { 1, 0, "log.range" }, { UINT64_MAX, 0, "mem.beyond-file" },
        };
        static struct rig r;
        struct log l = log_make();

        rig_open(&r, NULL, NULL);
        for (unsigned i = 0; i < 2 * VHK_N(cases); i++) {
                fe_begin(&r, 1);
                if (i % 2) {                    /* while another is in use */
                        CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, 0), 16);
                        switch_all(&r, 1, true);
                }
                CHECK_EQ(set_base(&r, l.fd, cases[i / 2].size, cases[i / 2].offset), -EPIPE);
                PUMP_UNTIL(&r, r.n_disconnected == i + 1);
                CHECK_STR(r.last_rule, cases[i / 2].rule);
                fe_close(&r);
        }
        fe_begin(&r, 1);
        CHECK_EQ(set_base(&r, -1, LOG_BYTES, 0), -EPIPE);
        fe_close(&r);
        fe_begin(&r, 1);
        work(&r, 0, 3);
        rig_close(&r);
        log_done(&l);
}

/* H24: a used ring that is said to lie behind the log; and without LOG_SHMFD there is nothing to mark. */
TEST(h24_beyond_the_log) {
        static struct rig r;
        struct log l = log_make();
        struct vhk_p_vring_addr a;

        rig_open(&r, NULL, NULL);
        fe_begin(&r, 1);
        CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, 0), 16);
        a = ring_addr(&r, 0);
        a.flags = VHK_VRING_F_LOG;
        static const uint64_t bad[] = { UINT64_MAX, UINT64_MAX - 16, (uint64_t)LOG_BYTES * 8 * 4096, (uint64_t)LOG_BYTES * 8 * 4096 - 64 };
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                a.log_guest_addr = bad[i];
                CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 1);
        }
        a.log_guest_addr = 0x7000;              /* not in any region, and legal */
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        work(&r, 0, 1);
        CHECK(l.bits[0] == 0x80 && count(&l) == 1);
        fe_close(&r);
        fe_set_up(&r, 1);
        CHECK_EQ(set_addr(&r, 0, true), 1);
        rig_close(&r);
        log_done(&l);
}

/* ---- a migration: source pages are copied while rings work, until nothing is marked any more ---- */

static uint32_t rand_state;

static unsigned rnd(unsigned n) {
        rand_state = rand_state * 1664525 + 1013904223;
        return (rand_state >> 8) % n;
}

/* What a device writes: one number a request, anywhere in the upper half of memory, of @len bytes. */
static void storm_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r[4];
        int n;

        while ((n = vhk_queue_pop(q, r, 4)) > 0)
                for (int i = 0; i < n; i++) {
                        uint64_t x = 0;
                        vhk_req_read(r[i], 0, &x, sizeof(x));
                        for (unsigned k = 0; k < r[i]->n_in; k++)
                                for (size_t at = 0; at + 8 <= r[i]->in[k].iov_len; at += 8)
                                        vhk_store_relaxed((uint64_t *)((char *)r[i]->in[k].iov_base + at), x + at);
                        vhk_queue_push(q, r[i], 0);     /* claims nothing: all of it counts */
                }
        vhk_queue_flush(q);
}

static const struct vhk_device_ops storm_ops = {
        .size = sizeof(storm_ops), .virtio_id = VHK_ID_RNG, .n_queues = N_RINGS, .queue_size_max = 256, .req_size = 16,
        .threads = VHK_THREADS_PER_QUEUE, .queue_run = storm_run,
};

struct copier {
        struct rig *r;
        uint8_t *copy;
        struct log *logs[2];            /* every log that may be in use */
        bool quit;                      /* atomic */
        uint64_t n_copied;
};

/* The guest's own writes (and the driver's side of rings) are the hypervisor's to know: the test copies those pages at the end. */
static bool is_guests(unsigned page) {
        unsigned at = page % (RING_BYTES / 4096);
        return page < N_RINGS * RING_BYTES / 4096 && (at < 2 || (at >= BUFFERS / 4096 && at < BUFFERS / 4096 + 4));
}

static void copy_page(struct copier *c, unsigned page) {
        uint64_t *from = (uint64_t *)(c->r->mem + page * 4096), *to = (uint64_t *)(c->copy + page * 4096);

        for (unsigned i = 0; i < 512; i++)
                to[i] = vhk_load_relaxed(&from[i]);
}

static void copy_marked(struct copier *c) {
        for (unsigned page = 0; page < PAGES; page++) {
                bool marked = false;
                for (unsigned k = 0; k < 2; k++)
                        marked |= take(c->logs[k], page);
                if (marked) {
                        copy_page(c, page);
                        c->n_copied++;
                }
        }
}

static void *copier_thread(void *arg) {
        struct copier *c = arg;

        while (!vhk_load_acquire(&c->quit)) {
                copy_marked(c);
                usleep(200);
        }
        return NULL;
}

/* A request that writes @len bytes in the upper half. */
static void storm_add(struct rig *r, unsigned i) {
        struct ring *g = &r->rings[i];
        uint64_t *number = (uint64_t *)(g->area + BUFFERS) + g->n_added % RING_SIZE;
        uint64_t off = (1 << 20) + (rnd((1 << 20) - 12288) & ~7u), len = 8 + (rnd(12280) & ~7u);
        struct iovec sg[2] = { { number, 8 }, { r->mem + off, len } };

        vhk_store_relaxed(number, (uint64_t)rnd(1 << 24) << 20);
        CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 1, number));
        g->n_added++;
        (void)vhk_drvring_arm(g->drv);
        if (vhk_drvring_publish(g->drv))
                vhk_notify_fd(g->kick);
}

static void storm_reap(struct rig *r, unsigned i) {
        struct vhk_done done[RING_SIZE];
        int n = vhk_drvring_reap(r->rings[i].drv, done, RING_SIZE);
        CHECK_OK(n);
        r->rings[i].n_reaped += (unsigned)n;
}

/* One migration: on, changes at random, off again (cancelled) or all rings stopped and the copy compared. */
static void migrate(struct rig *r, struct copier *c, unsigned rounds, bool cancel) {
        pthread_t thread;
        unsigned use = 0, more = 0;

        CHECK_EQ(set_base(r, c->logs[0]->fd, LOG_BYTES, 0), 16);
        switch_all(r, N_RINGS, true);
        for (unsigned page = 0; page < PAGES; page++)           /* the first round copies everything */
                copy_page(c, page);
        c->quit = false;
        CHECK_EQ(pthread_create(&thread, NULL, copier_thread, c), 0);
        for (unsigned k = 0; k < rounds; k++) {
                for (unsigned n = rnd(8); n; n--) {
                        unsigned i = rnd(N_RINGS);
                        if (vhk_drvring_n_in_flight(r->rings[i].drv) < RING_SIZE / 2)
                                storm_add(r, i);
                }
                switch (rnd(8)) {
                case 0: use = !use; CHECK_EQ(set_base(r, c->logs[use]->fd, LOG_BYTES, 0), 16); break;
                case 1: CHECK_EQ(fe_ask_u64(r, VHK_FE_SET_FEATURES, LOGGING), 0); break;
                case 2: CHECK_EQ(set_addr(r, rnd(N_RINGS), true), 0); break;
                case 3:
                        more = !more;           /* a region of other guest addresses comes and goes */
                        struct vhk_p_mem_region_single p = { .region = { { GPA + (8 << 20), 4096, 4096, 0 } } };
                        CHECK_EQ(fe_ask(r, more ? VHK_FE_ADD_MEM_REG : VHK_FE_REM_MEM_REG, &p, sizeof(p), more ? r->memfd : -1), 0);
                        break;
                default: turn(r, 0);
                }
                for (unsigned i = 0; i < N_RINGS; i++)
                        storm_reap(r, i);
        }
        if (more) {
                struct vhk_p_mem_region_single p = { .region = { { GPA + (8 << 20), 4096, 4096, 0 } } };
                CHECK_EQ(fe_ask(r, VHK_FE_REM_MEM_REG, &p, sizeof(p), -1), 0);
        }
        if (cancel)
                switch_all(r, N_RINGS, false);
        int base[N_RINGS];
        for (unsigned i = 0; i < N_RINGS && !cancel; i++)
                base[i] = ring_stop(r, i);
        vhk_store_release(&c->quit, true);
        pthread_join(thread, NULL);
        copy_marked(c);                         /* the last round, with the rings stopped */
        for (unsigned page = 0; page < PAGES && !cancel; page++)
                if (!is_guests(page))
                        CHECK_MSG(!memcmp(c->copy + page * 4096, r->mem + page * 4096, 4096), "page %u is not as in the source", page);
        for (unsigned i = 0; i < N_RINGS && !cancel; i++) {
                storm_reap(r, i);
                CHECK_EQ(base[i], r->rings[i].n_reaped & 0xffff);
                CHECK_EQ(fe_ask_u64(r, VHK_FE_SET_FEATURES, FEATURES), 0);
                CHECK_EQ(set_addr(r, i, false), 0);
                CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_BASE, i, (uint32_t)base[i]), 0);
                CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_KICK, i, r->rings[i].kick), 0);
        }
        CHECK(c->n_copied > 0);
}

/* H25, too: the flags of rings and the features change while requests complete. */
TEST(pre_copy) {
        static struct rig r;
        struct home h[N_RINGS];
        struct log a = log_make(), b = log_make();
        struct copier c = { .r = &r, .logs = { &a, &b }, .copy = calloc(1, MEM_BYTES) };

        rand_state = 1;
        memset(&r, 0, sizeof(r));
        rig_open_with(&r, NULL, &storm_ops, &r);
        for (unsigned i = 0; i < N_RINGS; i++) {
                h[i] = (struct home){ .quit_post.fn = on_quit };
                CHECK_OK(vhk_worker_new(NULL, NULL, &h[i].w));
                CHECK_OK(vhk_backend_set_worker(r.b, i, h[i].w));
                CHECK_EQ(pthread_create(&h[i].thread, NULL, home_thread, &h[i]), 0);
        }
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, LOG_PROTOCOL & ~VHK_BIT(VHK_PF_CONFIG));
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        for (unsigned i = 0; i < N_RINGS; i++) {
                ring_make(&r, i);
                ring_set_up(&r, i, 0);
                ring_go(&r, i);
        }
        for (unsigned k = 0; k < 6; k++)
                migrate(&r, &c, 200, k % 2);
        rig_close(&r);
        for (unsigned i = 0; i < N_RINGS; i++) {
                vhk_worker_post(h[i].w, &h[i].quit_post);
                pthread_join(h[i].thread, NULL);
                vhk_worker_free(h[i].w);
        }
        free(c.copy);
        log_done(&a);
        log_done(&b);
}

/* The answers that a front-end relies on come when the ring's home, here driven by hand, marks accordingly. */
TEST(answered_by_the_home) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;
        struct vhk_worker *home;
        struct log l = log_make();
        struct vhk_p_log p = { LOG_BYTES, 0 }, reply;
        struct vhk_p_vring_addr a;
        uint64_t x = LOGGING, ring = 0;

        ops.threads = VHK_THREADS_PER_QUEUE;
        rig_open(&r, NULL, &ops);
        CHECK_OK(vhk_worker_new(NULL, NULL, &home));
        CHECK_OK(vhk_backend_set_worker(r.b, 0, home));
        fe_begin(&r, 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        fe_send(&r, VHK_FE_SET_VRING_KICK, 0, &ring, 8, &r.rings[0].kick, 1);
        pump(&r);
        vhk_worker_dispatch(home, 0);
        CHECK_EQ(set_base(&r, l.fd, LOG_BYTES, 0), 16);         /* nothing is marked yet: nobody needs to know */
        for (int i = 0; i < 3; i++) {
                static const uint32_t ids[] = { VHK_FE_SET_FEATURES, VHK_FE_SET_LOG_BASE, VHK_FE_SET_VRING_ADDR };
                a = ring_addr(&r, 0);
                a.flags = VHK_VRING_F_LOG;
                a.log_guest_addr = GPA;
                if (i == 0)
                        fe_send(&r, ids[i], VHK_HDR_NEED_REPLY, &x, 8, NULL, 0);
                else if (i == 1)
                        fe_send(&r, ids[i], 0, &p, sizeof(p), &l.fd, 1);
                else
                        fe_send(&r, ids[i], VHK_HDR_NEED_REPLY, &a, sizeof(a), NULL, 0);
                pump(&r);
                CHECK(!is_readable(r.fe.fd));
                vhk_worker_dispatch(home, 0);
                CHECK_EQ(fe_receive(&r, ids[i], &reply, sizeof(reply)), i == 1 ? 16 : 8);
                CHECK_EQ(reply.mmap_size, i == 1 ? LOG_BYTES : 0);
        }
        fe_close(&r);
        pump(&r);
        vhk_worker_dispatch(home, 0);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_DRAIN, 0));
        pump(&r);
        vhk_worker_dispatch(home, 0);
        rig_close(&r);
        vhk_worker_free(home);
        log_done(&l);
}
