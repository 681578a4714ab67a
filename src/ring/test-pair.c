/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Our driver against our device: random chains with checksums in one thread and in two, where each side sleeps until it is
 * notified; and our device against a thread that changes the ring all the time.
 */
#include <vhostkit/drvq.h>

#include <pthread.h>
#include <poll.h>
#include <sched.h>

#include "ring/test-ring.h"

#define DATA UINT64_C(0x80000)
#define SLOT 4096u                      /* bytes of guest memory per request in flight */

static uint64_t gpa_of(void *arg, const void *va, uint64_t len) {
        const struct vhk_memmap *m = arg;

        for (unsigned i = 0; i < m->n; i++) {
                uint64_t off = (uint64_t)((const uint8_t *)va - m->regs[i].host);
                if (vhk_range_within(off, len, m->regs[i].len))
                        return m->regs[i].gpa + off;
        }
        return UINT64_MAX;
}

/* One request of the driver's: random bytes out, and the sum of them expected in every four bytes in. */
struct job {
        struct iovec sg[12];
        unsigned n_out, n_in;
        uint32_t sum, in_len;
        bool busy;
};

struct pair {
        struct rig g;
        struct vhk_drvring *drv;
        struct job *jobs;
        uint64_t seed, added, reaped, total;
        int kick;
        bool end;                       /* shared (atomic) */
};

static void pair_open(struct pair *p, uint16_t num, bool event_idx, bool indirect, uint64_t total) {
        struct rig_options o = { .num = num, .event_idx = event_idx, .indirect = indirect, .used = -1, .req_size = 8 };

        *p = (struct pair){ .seed = 12345u + num * 4u + event_idx * 2u + indirect, .total = total };
        rig_open(&p->g, &o);
        p->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        p->jobs = calloc(num, sizeof(*p->jobs));
        struct vhk_drvring_setup s = {
                .num = num, .event_idx = event_idx, .indirect = indirect, .desc = p->g.desc, .avail = p->g.avail, .used = p->g.used,
                .gpa = gpa_of, .gpa_arg = p->g.mem, .indirect_tables = at(&p->g, 0x40000), .indirect_max = 8,
        };
        CHECK_OK(vhk_drvring_new(&s, &p->drv));
}

static void pair_close(struct pair *p) {
        vhk_drvring_free(p->drv);
        free(p->jobs);
        close(p->kick);
        rig_close(&p->g);
}

static void fill(struct pair *p, struct job *j, unsigned index) {
        uint8_t *base = at(&p->g, DATA + index * SLOT), *at_ = base;
        unsigned max = VHK_MIN(p->g.num, 6u);

        j->n_out = random_next(&p->seed) % max;
        j->n_in = random_next(&p->seed) % (max - j->n_out + 1u);
        if (!j->n_out && !j->n_in)
                j->n_in = 1;
        j->sum = j->in_len = 0;
        for (unsigned i = 0; i < j->n_out + j->n_in; i++) {
                size_t len = 1 + random_next(&p->seed) % 200;
                j->sg[i] = (struct iovec){ at_, len };
                if (i >= j->n_out)
                        j->in_len += (uint32_t)len;
                for (size_t k = 0; k < len; k++) {
                        at_[k] = i < j->n_out ? (uint8_t)random_next(&p->seed) : 0xee;
                        j->sum += i < j->n_out ? at_[k] * (uint32_t)(j->sum + 1) : 0;
                }
                at_ += len;
        }
}

static void driver_add(struct pair *p) {
        for (unsigned i = 0; i < p->g.num && p->added < p->total; i++) {
                struct job *j = &p->jobs[i];
                if (j->busy)
                        continue;
                fill(p, j, i);
                int r = vhk_drvring_add(p->drv, j->sg, j->n_out, j->n_in, j);
                if (r == -EAGAIN)
                        break;
                CHECK_EQ(r, 0);
                j->busy = true;
                p->added++;
                if (random_next(&p->seed) % 4 == 0)
                        break;
        }
        int r = vhk_drvring_publish(p->drv);
        CHECK(r >= 0);
        if (r)
                CHECK_OK(vhk_notify_fd(p->kick));
}

static unsigned driver_reap(struct pair *p) {
        struct vhk_done done[16];
        int n = vhk_drvring_reap(p->drv, done, 1 + random_next(&p->seed) % 16);

        CHECK(n >= 0);
        for (int i = 0; i < n; i++) {
                struct job *j = done[i].cookie;
                CHECK(j->busy);
                CHECK_EQ(done[i].len, j->in_len);
                uint32_t off = 0;
                for (unsigned k = j->n_out; k < j->n_out + j->n_in; k++)
                        for (size_t b = 0; b < j->sg[k].iov_len; b++, off++)
                                CHECK_EQ(((uint8_t *)j->sg[k].iov_base)[b], (uint8_t)(j->sum >> 8 * (off % 4)));
                j->busy = false;
                p->reaped++;
        }
        return (unsigned)n;
}

static void device_answer(struct vhk_req *r) {
        uint8_t buf[2048];
        uint32_t sum = 0;
        size_t n = vhk_req_read(r, 0, buf, sizeof(buf));

        CHECK_EQ(n, r->out_len);
        for (size_t i = 0; i < n; i++)
                sum += buf[i] * (uint32_t)(sum + 1);
        for (size_t i = 0; i < r->in_len; i++)
                buf[i] = (uint8_t)(sum >> 8 * (i % 4));
        CHECK_EQ(vhk_req_write(r, 0, buf, r->in_len), r->in_len);
}

/* A device's queue_run that also unpops, and finishes out of order. */
static unsigned device_run(struct pair *p, uint64_t *seed) {
        struct vhk_req *r[16];
        unsigned total = 0;
        int n;

        while ((n = vhk_queue_pop(p->g.q, r, 1 + random_next(seed) % 16)) > 0) {
                if (n > 1 && random_next(seed) % 8 == 0) {
                        unsigned back = 1 + random_next(seed) % (unsigned)(n - 1);
                        vhk_queue_unpop(p->g.q, back);
                        n -= (int)back;
                }
                for (int i = n - 1; i >= 0; i--) {
                        device_answer(r[i]);
                        vhk_queue_push(p->g.q, r[i], r[i]->in_len);
                }
                total += (unsigned)n;
                if (random_next(seed) % 2)
                        CHECK_EQ(vhk_queue_flush(p->g.q), 0);
        }
        CHECK_EQ(n, 0);
        CHECK_EQ(vhk_queue_flush(p->g.q), 0);
        return total;
}

static const struct { uint16_t num; bool event_idx, indirect; } shapes[] = {
        { 1, false, true }, { 2, true, false }, { 8, false, false }, { 8, true, true }, { 64, true, false }, { 128, false, true }, { 128, true, true },
};

TEST(one_thread) {
        for (unsigned i = 0; i < VHK_N(shapes); i++) {
                uint64_t seed = 5;
                struct pair p;
                pair_open(&p, shapes[i].num, shapes[i].event_idx, shapes[i].indirect, 70000 / (i ? 7 : 1));    /* the first wraps around */
                while (p.reaped < p.total) {
                        driver_add(&p);
                        device_run(&p, &seed);
                        CHECK(driver_reap(&p) || p.reaped == p.total);
                }
                CHECK_EQ(vhk_drvring_n_in_flight(p.drv), 0);
                pair_close(&p);
        }
}

/* Sleeps until @fd is written to. A lost notification ends here. */
static void sleep_on(int fd) {
        struct pollfd pfd = { .fd = fd, .events = POLLIN };
        int n = poll(&pfd, 1, 20000);
        CHECK_MSG(n == 1, "nobody was woken");
        vhk_drain_fd(fd);
}

static void *device_thread(void *arg) {
        struct pair *p = arg;
        uint64_t seed = 77;

        while (!vhk_load_acquire(&p->end)) {
                device_run(p, &seed);
                if (random_next(&seed) % 3 == 0)
                        vhk_queue_disarm(p->g.q);
                if (vhk_queue_arm(p->g.q))
                        continue;
                struct pollfd pfd = { .fd = p->kick, .events = POLLIN };
                if (poll(&pfd, 1, 20000) != 1)
                        return (void *)"the device was not woken";
                vhk_drain_fd(p->kick);
        }
        return NULL;
}

TEST(two_threads_that_sleep) {
        for (unsigned i = 0; i < VHK_N(shapes); i++) {
                pthread_t t;
                void *why = NULL;
                struct pair p;
                pair_open(&p, shapes[i].num, shapes[i].event_idx, shapes[i].indirect, 3000);
                CHECK(!pthread_create(&t, NULL, device_thread, &p));
                while (p.reaped < p.total) {
                        driver_add(&p);
                        while (driver_reap(&p))
                                ;
                        if (random_next(&p.seed) % 4 == 0)
                                vhk_drvring_disarm(p.drv);
                        if (p.reaped < p.total && p.reaped != p.added && !vhk_drvring_arm(p.drv))
                                sleep_on(p.g.call);
                }
                vhk_store_release(&p.end, true);
                CHECK_OK(vhk_notify_fd(p.kick));
                pthread_join(t, &why);
                CHECK_MSG(!why, "%s", (char *)why);
                pair_close(&p);
        }
}

/* ---- a guest that changes everything all the time (CVE-2020-14375) ---- */

struct hostile {
        struct rig *g;
        bool end;                       /* shared (atomic) */
};

static void *flipper(void *arg) {
        struct hostile *h = arg;
        uint64_t seed = 4711;
        uint64_t *desc = (uint64_t *)h->g->desc, *table = at(h->g, 0x10000);
        uint16_t *avail = &h->g->avail->ring[0].v;

        while (!vhk_load_acquire(&h->end)) {
                uint32_t x = random_next(&seed), i = x % 16;
                uint64_t *d = x & 0x100 ? &desc[2 * i] : &table[2 * i];
                /* mostly plausible words, so that walks get far */
                uint64_t addr = x & 0x600 ? DATA + (x >> 12) : random_next(&seed) * UINT64_C(0x100000001);
                uint32_t flags = x & 0x1800 ? (x >> 16) & 3 : (x >> 16) & 0xffff;
                if (!(x & 0xe000))
                        flags = VHK_DESC_INDIRECT, addr = 0x10000 + (x >> 24) % 4;
                uint64_t word = (x & 0x4000 ? x % 300 : 64) | (uint64_t)flags << 32 | (uint64_t)(random_next(&seed) % 17) << 48;
                __atomic_store_n(&d[0], addr, __ATOMIC_RELAXED);
                __atomic_store_n(&d[1], word, __ATOMIC_RELAXED);
                __atomic_store_n(&avail[i], (uint16_t)(x >> 20) % 17, __ATOMIC_RELAXED);
                if (x % 64 == 0)
                        __atomic_store_n(&h->g->avail->idx.v, (uint16_t)(vhk_load_relaxed(&h->g->used->idx.v) + x % 19), __ATOMIC_RELEASE);
        }
        return NULL;
}

static void check_inside(struct rig *g, const struct iovec *iov, unsigned n, uint32_t len) {
        uint64_t sum = 0;

        for (unsigned i = 0; i < n; i++) {
                uint64_t off = (uint64_t)((uint8_t *)iov[i].iov_base - g->mem->regs[0].host);
                CHECK(iov[i].iov_len && vhk_range_within(off, iov[i].iov_len, g->mem->regs[0].len));
                sum += iov[i].iov_len;
        }
        CHECK_EQ(sum, len);
}

TEST(whatever_the_guest_does_a_request_is_sound) {
        struct rig_options o = { .num = 16, .event_idx = true, .indirect = true, .used = 0 };
        unsigned served = 0, broken = 0;
        struct hostile h;
        struct rig g;
        pthread_t t;

        rig_open(&g, &o);
        h = (struct hostile){ .g = &g };
        CHECK(!pthread_create(&t, NULL, flipper, &h));
        for (unsigned i = 0; served < 5000 || broken < 1000; i++) {     /* the harness's time limit ends it otherwise */
                struct vhk_req *r[16];
                int n = vhk_queue_pop(g.q, r, 1 + i % 16);
                for (int k = 0; k < n; k++) {
                        check_inside(&g, r[k]->out, r[k]->n_out, r[k]->out_len);
                        check_inside(&g, r[k]->in, r[k]->n_in, r[k]->in_len);
                        CHECK(r[k]->head < 16 && r[k]->in == r[k]->out + r[k]->n_out);
                        vhk_queue_push(g.q, r[k], r[k]->in_len);
                        served++;
                }
                vhk_queue_flush(g.q);
                if (n <= 0)
                        sched_yield();
                if (vhk_queue_is_broken(g.q)) {
                        broken++;
                        vhk_queue_stop(g.q);
                        uint16_t idx = vhk_load_relaxed(&g.avail->idx.v);
                        CHECK_OK(vhk_queue_start(g.q, g.config, (uint16_t)(idx - 4), 0));
                        CHECK_EQ(g.n_broken, broken);
                }
        }
        vhk_store_release(&h.end, true);
        pthread_join(t, NULL);
        rig_close(&g);
}
