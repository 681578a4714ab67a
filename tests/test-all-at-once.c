/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Everything that control may change changes at random, under load, at the same time: memory (slots and tables), translations, the
 * dirty log, call and kick descriptors, enable, stop, suspend and restart. Four rings have a home thread each, control has one,
 * the device completes half of the requests on another, and a thread per ring drives it. For ThreadSanitizer above all.
 *
 * What is checked: each answer, word by word; that a page which a device wrote while logging was on is marked, and no other; that no
 * page is touched which was taken away (it is filled with a pattern and looked at when it comes back); that a ring which
 * is disabled or stopped takes nothing; the base that a stop tells; that all rings go on, woken by their notifications alone.
 *
 * Each page of a request has one I/O address and three places: two in memory that stays (B), one in memory that comes, goes and moves
 * (C). A request whose page is in C while C is away waits for its translation.
 *
 * VHK_TEST_SECONDS: how long (5); VHK_TEST_SEED: the changes of an earlier run, though not its threads.
 */
#include <sys/random.h>

#include "backend/test-home.h"
#include "backend/test-iotlb.h"
#include "mem/iotlb.h"
#include "ring/inflight.h"

#define N_TRACKED 2u                    /* rings with an in-flight record; the others drain when they are suspended */
#define N_SLOTS (RING_SIZE / 2)         /* requests of two descriptors */
#define RING_PAGES (2 * N_SLOTS)        /* I/O pages of a ring's requests */
#define N_PAGES (N_RINGS * RING_PAGES)
#define OUT_MAX 48u                     /* words */
#define IN_MAX 200u
#define POISON 0xdbdbdbdbdbdbdbdbull

/* guest addresses; user addresses lie UVA above */
#define A_BYTES (N_RINGS * RING_BYTES)  /* at 0: rings */
#define B_AT (1u << 20)
#define B_BYTES (2 * N_PAGES * PAGE)
#define C_BYTES (N_PAGES * PAGE)
#define SPARE_AT (8u << 20)             /* regions that nothing lies in */
#define N_SPARE 2u
#define GUEST_BYTES (16u << 20)
#define UVA 0x7f0000000000ull
static const uint64_t c_at[2] = { 2u << 20, 4u << 20 };

#define RINGS_IOVA (1ull << 40)
#define DATA_IOVA (1ull << 41)

#define MY_FEATURES (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_PROTOCOL_FEATURES) | VHK_BIT(VHK_F_EVENT_IDX) | PLATFORM)
#define MY_PROTOCOL                                                                                                     \
        (VHK_BIT(VHK_PF_MQ) | VHK_BIT(VHK_PF_REPLY_ACK) | VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) | \
         VHK_BIT(VHK_PF_LOG_SHMFD) | VHK_BIT(VHK_PF_INFLIGHT_SHMFD) | VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT) |        \
         VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN))

struct random { uint64_t s; };

static unsigned rnd(struct random *r, unsigned n) {
        r->s = r->s * 6364136223846793005u + 1442695040888963407u;
        return (unsigned)(r->s >> 33) % n;
}

/* The first thing that any thread finds wrong; the main thread tells. */
static char failure[400];
static unsigned failed;

#define FAIL(...)                                                                                                       \
        do {                                                                                                            \
                if (__atomic_compare_exchange_n(&failed, &(unsigned){ 0 }, 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) { \
                        snprintf(failure, sizeof(failure), __VA_ARGS__);                                                \
                        vhk_store_release(&failed, 2);                                                                  \
                }                                                                                                       \
        } while (0)

/* ---- the device: answers a sum; odd ones by a thread of its own ---- */

static struct {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t cond;
        struct vhk_req *todo[N_RINGS * RING_SIZE];
        unsigned n;
        bool quit;
        uint64_t n_popped[N_RINGS], n_left;             /* atomic */
} dev;

static uint64_t word_of(uint64_t sum, unsigned k) {
        return (sum + k) * 0x9e3779b97f4a7c15u;
}

static uint32_t answer(struct vhk_req *r, uint64_t sum) {
        for (unsigned k = 0; k < r->in_len / 8; k++) {
                uint64_t x = word_of(sum, k);
                vhk_req_write(r, 8ull * k, &x, 8);
        }
        return r->in_len;
}

static uint64_t sum_of(const struct vhk_req *r) {
        uint64_t sum = 0, x;

        for (unsigned k = 0; vhk_req_read(r, 8ull * k, &x, 8) == 8; k++)
                sum += x;
        return sum;
}

static void *complete(void *arg) {
        pthread_mutex_lock(&dev.lock);
        for (;;) {
                while (!dev.n && !dev.quit)
                        pthread_cond_wait(&dev.cond, &dev.lock);
                if (!dev.n)
                        break;
                struct vhk_req *r = dev.todo[--dev.n];
                pthread_mutex_unlock(&dev.lock);
                vhk_req_complete(r, answer(r, sum_of(r)));
                pthread_mutex_lock(&dev.lock);
        }
        pthread_mutex_unlock(&dev.lock);
        return NULL;
}

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r[4];
        int n;

        while ((n = vhk_queue_pop(q, r, 4)) > 0) {
                __atomic_fetch_add(&dev.n_popped[vhk_queue_get_index(q)], (uint64_t)n, __ATOMIC_RELAXED);
                for (int i = 0; i < n; i++) {
                        uint64_t sum = sum_of(r[i]);
                        if (sum % 2 == 0) {
                                vhk_queue_push(q, r[i], answer(r[i], sum));
                                continue;
                        }
                        pthread_mutex_lock(&dev.lock);
                        dev.todo[dev.n++] = r[i];
                        pthread_cond_signal(&dev.cond);
                        pthread_mutex_unlock(&dev.lock);
                }
        }
        vhk_queue_flush(q);
}

/* What the other thread has not begun is left in the record. */
static void device_stop(void *arg, struct vhk_queue *q, enum vhk_stop how) {
        unsigned n = 0;

        if (how != VHK_STOP_SUSPEND)
                return;
        pthread_mutex_lock(&dev.lock);
        for (unsigned i = 0; i < dev.n; i++) {
                if (vhk_req_get_queue(dev.todo[i]) != q)
                        dev.todo[n++] = dev.todo[i];
                else if (vhk_queue_leave(q, dev.todo[i]) < 0)
                        FAIL("ring %u: a request cannot be left", vhk_queue_get_index(q));
                else
                        __atomic_fetch_add(&dev.n_left, 1, __ATOMIC_RELAXED);
        }
        dev.n = n;
        pthread_mutex_unlock(&dev.lock);
}

static const struct vhk_device_ops ops = {
        .size = sizeof(ops), .virtio_id = VHK_ID_RNG, .n_queues = N_RINGS, .queue_size_max = 64, .threads = VHK_THREADS_PER_QUEUE,
        .queue_run = device_run, .queue_stop = device_stop,
};

/* ---- the guest's memory as its owner sees it ---- */

enum place { IN_B0, IN_B1, IN_C };

static struct rig rig;                  /* its front-end: no back-end, control or rings of its own */
static uint8_t *fixed, *c_mem[2];       /* A and B; C's content is in one of two files */
static int fixed_fd, c_fd[2];
static enum place place_of[N_PAGES];    /* under the lock of the page's ring */
static unsigned c_file;                 /* under all rings' locks */

static uint64_t *host_of(unsigned v, enum place p) {
        return (uint64_t *)(p == IN_C ? c_mem[c_file] + v * PAGE : fixed + B_AT + (2 * v + p) * PAGE);
}

static uint64_t *host_at(unsigned v, uint64_t off) {
        return host_of(v, place_of[v]) + off / 8;
}

/* Word @k of what begins in page @v at @off, and may go on in the next. */
static uint64_t *word_at(unsigned v, uint64_t off, unsigned k) {
        off += 8ull * k;
        return host_at(v + (unsigned)(off / PAGE), off % PAGE);
}

/* ---- logs ---- */

static struct { int fd; uint8_t *bits; } logs[2];
/* One word for all data, and one for each used ring: 0 off, 1 changes, 2 on, 3 changes, 4 off ... */
static uint32_t data_epoch, used_epoch[N_RINGS];

static bool take_mark(uint64_t gpa) {
        uint8_t mask = (uint8_t)(1u << gpa / PAGE % 8), any = 0;

        for (unsigned i = 0; i < 2; i++)
                any |= __atomic_fetch_and(&logs[i].bits[gpa / PAGE / 8], (uint8_t)~mask, __ATOMIC_ACQUIRE) & mask;
        return any;
}

/* Of a page of data, wherever it was when the device wrote to it. */
static bool take_data_mark(unsigned v) {
        bool any = take_mark(c_at[0] + v * PAGE);

        any |= take_mark(c_at[1] + v * PAGE);
        any |= take_mark(B_AT + 2 * v * PAGE);
        any |= take_mark(B_AT + (2 * v + 1) * PAGE);
        return any;
}

static uint64_t used_gpa(unsigned i) {
        return i * RING_BYTES + 0x2000;
}

/* ---- drivers, each with a thread ---- */

struct slot {
        bool busy;
        unsigned n_out, n_in, in_at;    /* words; bytes into the first page */
        uint64_t sum;
        uint32_t epoch;
};

static struct driver {
        pthread_t thread;
        pthread_mutex_t lock;           /* the ring's pages, place_of[] of them, and which kick descriptor counts */
        struct random random;
        struct vhk_drvring *drv;
        struct slot slots[N_SLOTS];
        unsigned index, kick_now;
        int kick[2], call[2], err, wake;
        bool fresh;                     /* the used ring's mark was taken when nothing was in flight */
        uint32_t epoch;                 /* at that time */
        /* atomic */
        unsigned call_now;              /* the call descriptor it listens to, 2: none */
        bool quit, done;                /* nothing new is added; nothing is in flight */
        uint64_t n_reaped;
} drivers[N_RINGS];

static unsigned first_page(const struct driver *d, unsigned slot) {
        return d->index * RING_PAGES + 2 * slot;
}

static void submit(struct driver *d, unsigned n) {
        struct slot *s = &d->slots[n];
        unsigned v = first_page(d, n), out_at = 8 * rnd(&d->random, 16);

        s->n_out = 1 + rnd(&d->random, OUT_MAX);
        s->n_in = 1 + rnd(&d->random, IN_MAX);
        s->in_at = (unsigned)PAGE - 8 * rnd(&d->random, IN_MAX + 1);
        s->sum = 0;
        for (unsigned k = 0; k < s->n_out; k++) {
                uint64_t x = (uint64_t)rnd(&d->random, 1u << 31) * (d->index + 1);
                *word_at(v, out_at, k) = x;
                s->sum += x;
        }
        for (unsigned k = 0; k < s->n_in; k++)
                *word_at(v, s->in_at, k) = 0;
        (void)take_data_mark(v);
        (void)take_data_mark(v + 1);
        s->epoch = vhk_load_acquire(&data_epoch);
        s->busy = true;
        struct vhk_drvring_buf sg[2] = { { DATA_IOVA + v * PAGE + out_at, 8 * s->n_out }, { DATA_IOVA + v * PAGE + s->in_at, 8 * s->n_in } };
        if (vhk_drvring_add_gpa(d->drv, sg, 1, 1, s) < 0)
                FAIL("ring %u: no room for a request", d->index);
}

static void check_marks(struct driver *d, const struct slot *s, unsigned v) {
        bool first = take_data_mark(v), second = take_data_mark(v + 1), on = s->epoch % 4 == 2;

        if (s->epoch % 2 || vhk_load_acquire(&data_epoch) != s->epoch)
                return;
        if (first != (on && s->in_at < PAGE) || second != (on && s->in_at + 8 * s->n_in > PAGE))
                FAIL("ring %u: logging is %s, pages are marked %u%u; %u words were written at 0x%x", d->index, on ? "on" : "off", first, second,
                     s->n_in, s->in_at);
}

/* The used ring is marked behind the index: soon, if not yet. */
static void check_used_mark(struct driver *d) {
        uint64_t until = now_ns() + 10000000000u;
        bool marked = take_mark(used_gpa(d->index)), on = d->epoch % 4 == 2;

        while (on && !marked && vhk_load_acquire(&used_epoch[d->index]) == d->epoch && now_ns() < until) {
                usleep(50);
                marked = take_mark(used_gpa(d->index));
        }
        if (d->epoch % 2 == 0 && vhk_load_acquire(&used_epoch[d->index]) == d->epoch && marked != on)
                FAIL("ring %u: logging of the used ring is %s, and it is %smarked", d->index, on ? "on" : "off", marked ? "" : "not ");
        d->fresh = false;
}

static void check_answer(struct driver *d, struct slot *s, uint32_t len) {
        unsigned v = first_page(d, (unsigned)(s - d->slots));

        if (!s->busy || len != 8 * s->n_in)
                FAIL("ring %u: %u bytes were written, of %u", d->index, len, 8 * s->n_in);
        for (unsigned k = 0; k < s->n_in; k++)
                if (*word_at(v, s->in_at, k) != word_of(s->sum, k)) {
                        FAIL("ring %u: word %u of an answer is wrong", d->index, k);
                        break;
                }
        check_marks(d, s, v);
        s->busy = false;
}

static int reap(struct driver *d) {
        struct vhk_done done[N_SLOTS];

        int n = vhk_drvring_reap(d->drv, done, N_SLOTS);
        if (n < 0)
                FAIL("ring %u: the used ring is wrong", d->index);
        for (int i = 0; i < n; i++)
                check_answer(d, done[i].cookie, done[i].len);
        if (n > 0)
                vhk_store_relaxed(&d->n_reaped, d->n_reaped + (unsigned)n);
        return n;
}

static void fill(struct driver *d) {
        unsigned depth = 1 + rnd(&d->random, N_SLOTS);

        if (!vhk_drvring_n_in_flight(d->drv)) {
                d->epoch = vhk_load_acquire(&used_epoch[d->index]);
                (void)take_mark(used_gpa(d->index));
                d->fresh = true;
        }
        for (unsigned n = 0; n < N_SLOTS && vhk_drvring_n_in_flight(d->drv) < depth; n++)
                if (!d->slots[n].busy)
                        submit(d, n);
        if (vhk_drvring_publish(d->drv))
                vhk_notify_fd(d->kick[d->kick_now]);
}

static void sleep_until_called(struct driver *d) {
        unsigned call = vhk_load_acquire(&d->call_now);         /* 2: none */
        struct pollfd p[2] = { { .fd = d->wake, .events = POLLIN }, { .fd = call < 2 ? d->call[call] : -1, .events = POLLIN } };

        poll(p, 2, call < 2 ? -1 : 1);
        for (unsigned i = 0; i < 2; i++)
                if (p[i].revents)
                        vhk_drain_fd(p[i].fd);
}

static void *drive(void *arg) {
        struct driver *d = arg;

        while (!vhk_load_acquire(&failed)) {
                pthread_mutex_lock(&d->lock);
                int n = reap(d);
                if (!vhk_load_acquire(&d->quit))
                        fill(d);
                else if (!vhk_drvring_n_in_flight(d->drv))
                        vhk_store_release(&d->done, true);
                pthread_mutex_unlock(&d->lock);
                if (n > 0 && d->fresh)
                        check_used_mark(d);
                if (vhk_load_acquire(&d->done))
                        break;
                if (n == 0 && !vhk_drvring_arm(d->drv))
                        sleep_until_called(d);
        }
        return NULL;
}

/* ---- the front-end: everything below on the main thread ---- */

static struct random chance;
static struct {
        bool running, enabled;
        uint16_t base;
        uint64_t n_popped;              /* when it was stopped or disabled: that stays */
} state[N_RINGS];
static bool plugged, spare[N_SPARE];
static unsigned c_now, log_now;         /* where C is; which log is in use */
static uint8_t owed[N_PAGES];           /* translations that were asked for while C was away, by access */
static unsigned n_misses;

static void check_failure(void) {
        CHECK_MSG(vhk_load_acquire(&failed) != 2, "%s", failure);
}

static uint64_t gpa_of(unsigned v) {
        return place_of[v] == IN_C ? c_at[c_now] + v * PAGE : B_AT + (2 * v + place_of[v]) * PAGE;
}

static bool is_there(unsigned v) { return place_of[v] != IN_C || plugged; }

static void translate(unsigned v, unsigned perm) {
        CHECK_EQ(iotlb_send(&rig, VHK_IOTLB_UPDATE, DATA_IOVA + v * PAGE, PAGE, UVA + gpa_of(v), perm), 0);
        owed[v] = 0;
}

static void translate_owed(void) {
        for (unsigned v = 0; v < N_PAGES; v++)
                if (owed[v] && is_there(v))
                        translate(v, VHK_IOTLB_RW);
}

/* All of the rings, or a page of them. */
static void translate_rings(uint64_t off, bool all) {
        CHECK_EQ(iotlb_send(&rig, VHK_IOTLB_UPDATE, RINGS_IOVA + (all ? 0 : off), all ? A_BYTES : PAGE, UVA + (all ? 0 : off), 3), 0);
}

static void serve(void) {
        struct vhk_p_iotlb p;

        check_failure();
        while (channel_poll(&p)) {
                CHECK_EQ(p.type, VHK_IOTLB_MISS);
                channel_answer(0);
                n_misses++;
                if (p.iova >= RINGS_IOVA && p.iova < RINGS_IOVA + A_BYTES) {
                        translate_rings(p.iova - RINGS_IOVA, rnd(&chance, 2));
                        continue;
                }
                unsigned v = (unsigned)((p.iova - DATA_IOVA) / PAGE);
                CHECK_MSG(p.iova >= DATA_IOVA && v < N_PAGES, "a miss at 0x%llx", (unsigned long long)p.iova);
                owed[v] |= p.perm;
                if (is_there(v))
                        translate(v, p.perm == 1 && rnd(&chance, 2) ? 1 : VHK_IOTLB_RW);
        }
}

/* ---- changes ---- */

/* What went to the former one is not looked at: the new one is signalled once, whatever it missed. */
static void change_call(unsigned i) {
        struct driver *d = &drivers[i];
        unsigned which = rnd(&chance, 3);

        vhk_store_release(&d->call_now, which);
        vhk_notify_fd(d->wake);
        CHECK_EQ(fe_ask_fd(&rig, VHK_FE_SET_VRING_CALL, i, which < 2 ? d->call[which] : -1), 0);
}

/* Also starts a ring. */
static void set_kick(unsigned i) {
        struct driver *d = &drivers[i];
        unsigned which = rnd(&chance, 4);

        CHECK_EQ(fe_ask_fd(&rig, VHK_FE_SET_VRING_KICK, i, which == 3 ? -1 : d->kick[which % 2]), 0);
        pthread_mutex_lock(&d->lock);
        d->kick_now = which % 2;
        vhk_notify_fd(d->kick[d->kick_now]);            /* the last ones may have gone to the other */
        pthread_mutex_unlock(&d->lock);
}

static void change_kick(unsigned i) {
        if (state[i].running)
                set_kick(i);
}

static void note_popped(unsigned i) { state[i].n_popped = vhk_load_relaxed(&dev.n_popped[i]); }

static void check_popped(unsigned i) {
        if (!state[i].running || !state[i].enabled)
                CHECK_MSG(state[i].n_popped == vhk_load_relaxed(&dev.n_popped[i]), "ring %u has taken requests while it was not to", i);
}

static void change_enable(unsigned i) {
        check_popped(i);
        CHECK_EQ(fe_ask_ring(&rig, VHK_FE_SET_VRING_ENABLE, i, !state[i].enabled), 0);
        state[i].enabled = !state[i].enabled;
        note_popped(i);
}

static void start(unsigned i) {
        check_popped(i);
        CHECK_EQ(fe_ask_ring(&rig, VHK_FE_SET_VRING_BASE, i, state[i].base), 0);
        set_kick(i);
        state[i].running = true;
        note_popped(i);
}

static void stop(unsigned i, uint32_t how) {
        struct vhk_p_vring_state p = { i, 0 }, base = { ~0u, ~0u };
        bool left = how == VHK_FE_GET_VRING_BASE_SKIP_DRAIN && i < N_TRACKED;

        check_popped(i);
        fe_send(&rig, how, 0, &p, sizeof(p), NULL, 0);
        CHECK_EQ(fe_receive(&rig, how, &base, sizeof(base)), 8);
        CHECK_EQ(base.index, i);
        CHECK_EQ(base.num & ~0xffffu, 0);
        const struct vhk_used *used = (void *)(fixed + used_gpa(i));
        uint16_t n_left = (uint16_t)(base.num - vhk_le16_get((vhk_le16){ vhk_load_acquire(&used->idx.v) }));
        /* requests that an earlier stop left are taken again when the ring is enabled */
        CHECK_MSG(n_left <= (left || i < N_TRACKED ? N_SLOTS : 0), "ring %u stopped with %u requests undone", i, n_left);
        state[i].running = false;
        state[i].base = (uint16_t)base.num;
        note_popped(i);
}

static void change_run(unsigned i) {
        if (!state[i].running)
                start(i);
        else
                stop(i, rnd(&chance, 2) ? VHK_FE_GET_VRING_BASE : VHK_FE_GET_VRING_BASE_SKIP_DRAIN);
}

static void set_log(void) {
        struct vhk_p_log p = { PAGE, 0 }, reply;

        fe_send(&rig, VHK_FE_SET_LOG_BASE, 0, &p, sizeof(p), &logs[log_now].fd, 1);
        CHECK_EQ(fe_receive(&rig, VHK_FE_SET_LOG_BASE, &reply, sizeof(reply)), 16);
}

static void change_log(unsigned i) {
        log_now = !log_now;
        set_log();
}

static void next_epoch(uint32_t *epoch) { vhk_store_release(epoch, *epoch + 1); }

static void change_log_data(unsigned i) {
        bool on = data_epoch % 4 == 0;

        next_epoch(&data_epoch);
        CHECK_EQ(fe_ask_u64(&rig, VHK_FE_SET_FEATURES, MY_FEATURES | (on ? VHK_BIT(VHK_F_LOG_ALL) : 0)), 0);
        next_epoch(&data_epoch);
}

static void set_addr(unsigned i, bool logged) {
        uint64_t at = RINGS_IOVA + i * RING_BYTES;
        struct vhk_p_vring_addr a = { .index = i, .flags = logged ? VHK_VRING_F_LOG : 0, .desc = at, .avail = at + 0x1000, .used = at + 0x2000,
                                      .log_guest_addr = at + 0x2000 };

        CHECK_EQ(fe_ask(&rig, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
}

static void change_log_used(unsigned i) {
        bool on = used_epoch[i] % 4 == 0;

        next_epoch(&used_epoch[i]);
        set_addr(i, on);
        next_epoch(&used_epoch[i]);
}

static void invalidate(uint64_t iova, uint64_t len) {
        CHECK_EQ(iotlb_send(&rig, VHK_IOTLB_INVALIDATE, iova, len, 0x5555555555555555, 0xff), 0);
}

static void change_translation(unsigned i) {
        unsigned v = i * RING_PAGES + rnd(&chance, RING_PAGES), n = 1 + rnd(&chance, 4);

        switch (rnd(&chance, 8)) {
        case 0: invalidate(0, rnd(&chance, 2) ? 0 : UINT64_MAX); break;
        case 1: invalidate(RINGS_IOVA + rnd(&chance, A_BYTES), 1 + rnd(&chance, 0x3000)); break;
        case 2: translate_rings(rnd(&chance, A_BYTES / PAGE) * PAGE, rnd(&chance, 2)); break;
        case 3:
        case 4: invalidate(DATA_IOVA + v * PAGE, n * PAGE); break;
        default:
                for (; n && v < N_PAGES; n--, v++)
                        if (is_there(v))
                                translate(v, VHK_IOTLB_RW);
        }
}

static void fill_page(uint64_t *p) {
        for (unsigned k = 0; k < PAGE / 8; k++)
                p[k] = POISON;
}

static void check_page(const uint64_t *p, unsigned v) {
        for (unsigned k = 0; k < PAGE / 8; k++)
                CHECK_MSG(p[k] == POISON, "page %u was written to where it was before", v);
}

/* A page moves; its requests find it where it is. */
static void change_place(unsigned i) {
        unsigned v = i * RING_PAGES + rnd(&chance, RING_PAGES);
        enum place to = (place_of[v] + 1 + rnd(&chance, 2)) % 3;

        invalidate(DATA_IOVA + v * PAGE, PAGE);
        pthread_mutex_lock(&drivers[i].lock);
        uint64_t *old = host_at(v, 0), *new = host_of(v, to);
        check_page(new, v);
        memcpy(new, old, PAGE);
        fill_page(old);
        place_of[v] = to;
        pthread_mutex_unlock(&drivers[i].lock);
        if (is_there(v) && (owed[v] || rnd(&chance, 2)))
                translate(v, VHK_IOTLB_RW);
}

/* ---- memory ---- */

static struct vhk_p_region region_at(uint64_t gpa, uint64_t len) {
        return (struct vhk_p_region){ gpa, len, UVA + gpa, gpa < 2 * B_AT ? gpa : 0 };
}

/* C comes back somewhere, perhaps as another file. */
static void choose_c(void) {
        unsigned file = rnd(&chance, 2);

        c_now = rnd(&chance, 2);
        if (file == c_file)
                return;
        for (unsigned i = 0; i < N_RINGS; i++)
                pthread_mutex_lock(&drivers[i].lock);
        for (unsigned v = 0; v < N_PAGES; v++)
                check_page((uint64_t *)(c_mem[file] + v * PAGE), v);
        memcpy(c_mem[file], c_mem[c_file], C_BYTES);
        for (unsigned v = 0; v < N_PAGES; v++)
                fill_page((uint64_t *)(c_mem[c_file] + v * PAGE));
        c_file = file;
        for (unsigned i = 0; i < N_RINGS; i++)
                pthread_mutex_unlock(&drivers[i].lock);
}

static void change_slot(uint32_t id, uint64_t gpa, uint64_t len, int fd) {
        struct vhk_p_mem_region_single p = { .region = { region_at(gpa, len) } };

        CHECK_EQ(fe_ask(&rig, id, &p, sizeof(p), id == VHK_FE_ADD_MEM_REG ? fd : -1), 0);
}

static void plug(bool on) {
        if (on)
                choose_c();
        change_slot(on ? VHK_FE_ADD_MEM_REG : VHK_FE_REM_MEM_REG, c_at[c_now], C_BYTES, c_fd[c_file]);
        plugged = on;
        translate_owed();
}

static void change_plugged(unsigned i) { plug(!plugged); }

static void change_spare(unsigned i) {
        unsigned k = i % N_SPARE;

        spare[k] = !spare[k];
        change_slot(spare[k] ? VHK_FE_ADD_MEM_REG : VHK_FE_REM_MEM_REG, SPARE_AT + k * B_AT, PAGE, fixed_fd);
}

/* A whole table, with C, without it, or with C elsewhere. */
static void change_table(unsigned i) {
        struct vhk_p_mem_regions t = { .n_regions = 2, .regions = { region_at(0, A_BYTES), region_at(B_AT, B_BYTES) } };
        int fds[8] = { fixed_fd, fixed_fd };
        bool was = plugged;

        plugged = rnd(&chance, 4);
        if (plugged && !was)
                choose_c();
        else if (plugged)
                c_now = rnd(&chance, 2);
        if (plugged) {
                fds[t.n_regions] = c_fd[c_file];
                t.regions[t.n_regions++] = region_at(c_at[c_now], C_BYTES);
        }
        for (unsigned k = 0; k < N_SPARE; k++) {
                spare[k] = rnd(&chance, 2);
                if (spare[k]) {
                        fds[t.n_regions] = fixed_fd;
                        t.regions[t.n_regions++] = region_at(SPARE_AT + k * B_AT, PAGE);
                }
        }
        for (unsigned k = t.n_regions - 1; k; k--) {            /* in any order */
                unsigned with = rnd(&chance, k + 1);
                struct vhk_p_region r = t.regions[k];
                int fd = fds[k];
                t.regions[k] = t.regions[with];
                fds[k] = fds[with];
                t.regions[with] = r;
                fds[with] = fd;
        }
        uint64_t x = 9;
        fe_send(&rig, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 32 * t.n_regions, fds, t.n_regions);
        CHECK_EQ(fe_receive(&rig, VHK_FE_SET_MEM_TABLE, &x, 8), 8);
        CHECK_EQ(x, 0);
        translate_owed();
}

static void (*const changes[])(unsigned i) = {
        change_call, change_call, change_kick, change_enable, change_enable, change_run, change_run, change_run, change_log, change_log_data,
        change_log_used, change_log_used, change_translation, change_translation, change_translation, change_place, change_place, change_place,
        change_place, change_plugged, change_spare, change_table,
};

/* Everything is there and on: all rings must go on, and nothing but their notifications wakes their drivers. */
static void expect_progress(uint64_t n) {
        uint64_t before[N_RINGS], until;

        if (!plugged)
                plug(true);
        for (unsigned i = 0; i < N_RINGS; i++) {
                if (!state[i].running)
                        start(i);
                if (!state[i].enabled)
                        change_enable(i);
                before[i] = vhk_load_relaxed(&drivers[i].n_reaped);
        }
        until = now_ns() + 60000000000u;
        for (unsigned i = 0; i < N_RINGS; i++)
                while (vhk_load_relaxed(&drivers[i].n_reaped) < before[i] + n && !vhk_load_acquire(&drivers[i].done)) {
                        serve();
                        CHECK_MSG(now_ns() < until, "ring %u does not go on: %llu requests after %llu", i,
                                  (unsigned long long)vhk_load_relaxed(&drivers[i].n_reaped), (unsigned long long)before[i]);
                        poll(&(struct pollfd){ .fd = channel.fd, .events = POLLIN }, 1, 1);
                }
}

/* ---- the whole ---- */

static struct home control, homes[N_RINGS];
static struct vhk_backend *backend;

static void on_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        if (ev == VHK_BACKEND_DISCONNECTED && e && e->code)
                FAIL("the back-end left: %s", e->text);
        if (ev == VHK_BACKEND_ENDED) {
                vhk_backend_free(backend);
                control.quit = true;
        }
}

static void on_log(void *arg, enum vhk_log_level level, const char *text) {
        if (level <= VHK_LOG_WARNING)
                FAIL("the back-end says: %s", text);
}

/* Control has a thread of its own: whoever waits for an answer sleeps. */
static int rest(struct rig *r, int timeout_ms) {
        check_failure();
        return poll(&(struct pollfd){ .fd = r->fe.fd, .events = POLLIN }, 1, timeout_ms) < 0;
}

static int make_file(uint64_t bytes, uint8_t **ret_p) {
        int fd = memfd_create("test-all-at-once", MFD_CLOEXEC);

        CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
        *ret_p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(*ret_p != MAP_FAILED);
        return fd;
}

static void make_memory_and_logs(void) {
        fixed_fd = make_file(2 * B_AT, &fixed);
        for (unsigned i = 0; i < 2; i++) {
                c_fd[i] = make_file(C_BYTES, &c_mem[i]);
                logs[i].fd = make_file(PAGE, &logs[i].bits);
        }
        for (unsigned v = 0; v < N_PAGES; v++) {
                fill_page(host_of(v, IN_B1));
                fill_page((uint64_t *)(c_mem[0] + v * PAGE));
                fill_page((uint64_t *)(c_mem[1] + v * PAGE));
        }
}

static void open_back_end(void) {
        struct vhk_backend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 60000000000u, .features_offer = PLATFORM,
                                         .on_event = on_event, .log = on_log };
        struct vhk_error e = { .text = "" };
        int pair[2];

        pthread_mutex_init(&dev.lock, NULL);
        pthread_cond_init(&dev.cond, NULL);
        CHECK_EQ(pthread_create(&dev.thread, NULL, complete, NULL), 0);
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_OK(vhk_worker_new(NULL, NULL, &control.w));
        o.fd = pair[0];
        o.control = control.w;
        CHECK_MSG(vhk_backend_open(NULL, &o, &ops, NULL, &backend, &e) == 0, "%s", e.text);
        for (unsigned i = 0; i < N_RINGS; i++) {
                homes[i].quit_post.fn = on_quit;
                CHECK_OK(vhk_worker_new(NULL, NULL, &homes[i].w));
                vhk_worker_set_spin(homes[i].w, i == N_RINGS - 1 ? 20000 : 0);
                CHECK_OK(vhk_backend_set_worker(backend, i, homes[i].w));
                CHECK_EQ(pthread_create(&homes[i].thread, NULL, home_thread, &homes[i]), 0);
        }
        CHECK_EQ(pthread_create(&control.thread, NULL, home_thread, &control), 0);
        CHECK_OK(vhk_conn_init(&rig.fe, pair[1]));
        rig.turn = rest;
}

static void negotiate(void) {
        uint64_t bytes = N_TRACKED * vhk_inflight_split_bytes(RING_SIZE);
        struct vhk_p_inflight p = { bytes, 0, N_TRACKED, RING_SIZE, 0 };
        VHK_AUTOCLOSE int fd = memfd_create("record", MFD_CLOEXEC);

        fe_negotiate(&rig, MY_FEATURES, MY_PROTOCOL);
        channel_open(&rig);
        change_slot(VHK_FE_ADD_MEM_REG, 0, A_BYTES, fixed_fd);
        change_slot(VHK_FE_ADD_MEM_REG, B_AT, B_BYTES, fixed_fd);
        CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
        CHECK_EQ(fe_ask(&rig, VHK_FE_SET_INFLIGHT_FD, &p, sizeof(p), fd), 0);
        set_log();
}

static void start_driver(unsigned i, uint64_t seed) {
        struct driver *d = &drivers[i];
        uint8_t *at = fixed + i * RING_BYTES;
        struct vhk_drvring_setup s = { .num = RING_SIZE, .event_idx = true, .desc = at, .avail = at + 0x1000, .used = at + 0x2000 };

        *d = (struct driver){ .index = i, .random = { seed + i + 1 }, .err = eventfd(0, EFD_CLOEXEC) };
        d->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        pthread_mutex_init(&d->lock, NULL);
        for (unsigned k = 0; k < 2; k++) {
                d->kick[k] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                d->call[k] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        }
        CHECK_OK(vhk_drvring_new(&s, &d->drv));
        CHECK_EQ(fe_ask_fd(&rig, VHK_FE_SET_VRING_CALL, i, d->call[0]), 0);
        CHECK_EQ(fe_ask_fd(&rig, VHK_FE_SET_VRING_ERR, i, d->err), 0);
        CHECK_EQ(fe_ask_ring(&rig, VHK_FE_SET_VRING_NUM, i, RING_SIZE), 0);
        set_addr(i, false);
        CHECK_EQ(pthread_create(&d->thread, NULL, drive, d), 0);
}

static void end_drivers(void) {
        for (unsigned i = 0; i < N_RINGS; i++) {
                vhk_store_release(&drivers[i].quit, true);
                vhk_notify_fd(drivers[i].wake);
        }
        expect_progress(UINT32_MAX);            /* until all are done */
        for (unsigned i = 0; i < N_RINGS; i++) {
                struct driver *d = &drivers[i];
                pthread_join(d->thread, NULL);
                CHECK(!is_readable(d->err));
                stop(i, VHK_FE_GET_VRING_BASE);
                CHECK_EQ(state[i].base, d->n_reaped & 0xffff);
                start(i);
        }
        check_failure();
}

/* With the rings running. */
static void close_all(void) {
        vhk_conn_done(&rig.fe);
        vhk_conn_done(&channel);
        pthread_join(control.thread, NULL);
        pthread_mutex_lock(&dev.lock);
        dev.quit = true;
        pthread_cond_signal(&dev.cond);
        pthread_mutex_unlock(&dev.lock);
        pthread_join(dev.thread, NULL);
        for (unsigned i = 0; i < N_RINGS; i++) {
                struct driver *d = &drivers[i];
                vhk_worker_post(homes[i].w, &homes[i].quit_post);
                pthread_join(homes[i].thread, NULL);
                vhk_worker_free(homes[i].w);
                vhk_drvring_free(d->drv);
                for (unsigned k = 0; k < 2; k++)
                        CHECK(close(d->kick[k]) == 0 && close(d->call[k]) == 0);
                CHECK(close(d->err) == 0 && close(d->wake) == 0);
        }
        vhk_worker_free(control.w);
        munmap(fixed, 2 * B_AT);
        close(fixed_fd);
        for (unsigned i = 0; i < 2; i++) {
                munmap(c_mem[i], C_BYTES);
                munmap(logs[i].bits, PAGE);
                close(c_fd[i]);
                close(logs[i].fd);
        }
}

TEST(all_at_once) {
        const char *seconds = getenv("VHK_TEST_SECONDS"), *given = getenv("VHK_TEST_SEED");
        uint64_t seed = 0, n_changes = 0, n = 0;

        CHECK(getrandom(&seed, sizeof(seed), 0) == sizeof(seed));
        seed = given ? strtoull(given, NULL, 0) : seed >> 1;
        printf("  VHK_TEST_SEED=%llu\n", (unsigned long long)seed);
        chance.s = seed;
        make_memory_and_logs();
        open_back_end();
        negotiate();
        for (unsigned i = 0; i < N_RINGS; i++)
                start_driver(i, seed);
        expect_progress(10);
        for (uint64_t until = now_ns() + 1000000000u * (seconds ? strtoull(seconds, NULL, 0) : 5); now_ns() < until; n_changes++) {
                changes[rnd(&chance, VHK_N(changes))](rnd(&chance, N_RINGS));
                serve();
                if (rnd(&chance, 50) == 0)
                        expect_progress(10);
        }
        end_drivers();
        for (unsigned i = 0; i < N_RINGS; i++)
                n += drivers[i].n_reaped;
        printf("  %llu changes, %llu requests, %llu of them left undone at first, %u misses\n", (unsigned long long)n_changes, (unsigned long long)n,
               (unsigned long long)dev.n_left, n_misses);
        close_all();
}
