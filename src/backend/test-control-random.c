/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Every order to a queue's worker at every point of the others: start, updates (memory,
 * translations, call, log, enable), stop, break, reset, refused and late translations, disconnects,
 * and stops that a slow device delays past their time limit. Control and the front-end are this
 * thread; four queues live on three workers with threads of their own, and the device completes
 * half of the requests on a fifth thread. For ThreadSanitizer above all.
 *
 * What is checked: no request is executed twice; a memory change or invalidation that is
 * acknowledged leaves no request of the former memory in flight; a stop is always answered, with
 * the right base; a queue runs only after a kick, and not after its stop or reset was answered;
 * every start has its stop; nothing is lost while nothing breaks.
 *
 * VHK_TEST_SECONDS: how long (3); VHK_TEST_SEED: the steps of an earlier run, though not its
 * threads.
 */
#include "backend/test-home.h"
#include "backend/test-iotlb.h"

#define ACK 0
#define NACK 1
#define GONE (-EPIPE)
#define LIMIT_SHORT UINT64_C(60000000)
#define N_SLOTS (RING_SIZE / 2)         /* requests of two descriptors */
#define N_PLACES 16u                    /* files (2), or pages of N_SLOTS / 2 requests each */
#define N_IDS (1u << 16)
#define N_WORKERS 3u
#define B_AT (1u << 20)                 /* buffers: the second half of guest memory */
#define LOG_BYTES 0x10000u
#define MY_PROTOCOL (PROTOCOL | VHK_BIT(VHK_PF_LOG_SHMFD))
#define LOG_ALL VHK_BIT(VHK_F_LOG_ALL)

static uint64_t random_state;

static unsigned rnd(unsigned n) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        return (unsigned)(random_state >> 33) % n;
}

/* The first thing that any thread finds wrong; the main thread tells. */
static char failure[200];
static unsigned failed;

#define FAIL(...)                                                                                       \
        do {                                                                                            \
                if (!__atomic_exchange_n(&failed, 1, __ATOMIC_RELAXED)) {                               \
                        snprintf(failure, sizeof(failure), __VA_ARGS__);                                \
                        vhk_store_release(&failed, 2);                                                  \
                }                                                                                       \
        } while (0)

#define CHECK_FAILURE(r) CHECK_MSG(vhk_load_acquire(&failed) != 2, "%s; log:\n%s", failure, (r)->log)

/* ---- the device ---- */

struct words { uint64_t id, place; };

static struct {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t cond, unstuck;
        struct vhk_req *todo[N_RINGS * RING_SIZE];
        unsigned n;
        bool quit, slow, stuck;         /* slow: completes nothing; stuck: so slow that it blocks the worker */
        /* shared (atomic, relaxed unless stated) */
        uint8_t executed[N_IDS];
        unsigned in_flight[N_PLACES];   /* release when it falls: pairs with check_places() */
        bool may_run[N_RINGS], runs[N_RINGS];
        unsigned n_start, n_stopped, n_reset;
} dev;

static void begin_request(unsigned ring, const struct words *w) {
        if (w->id >= N_IDS || w->place >= N_PLACES)
                FAIL("ring %u: request %llu", ring, (unsigned long long)w->id);
        else if (__atomic_fetch_add(&dev.executed[w->id], 1, __ATOMIC_RELAXED))
                FAIL("ring %u: request %llu is executed twice", ring, (unsigned long long)w->id);
        else if (!vhk_load_relaxed(&dev.may_run[ring]) || !vhk_load_relaxed(&dev.runs[ring]))
                FAIL("ring %u: runs, but was not started", ring);
        __atomic_fetch_add(&dev.in_flight[w->place % N_PLACES], 1, __ATOMIC_RELAXED);
}

/* The last access to memory of the request. */
static uint32_t end_request(struct vhk_req *r) {
        struct words w = { 0 };

        vhk_req_read(r, 0, &w, sizeof(w));
        uint64_t answer = w.id + 1;
        uint32_t n = (uint32_t)vhk_req_write(r, 0, &answer, sizeof(answer));
        __atomic_fetch_sub(&dev.in_flight[w.place % N_PLACES], 1, __ATOMIC_RELEASE);
        return n;
}

static void *complete(void *arg) {
        pthread_mutex_lock(&dev.lock);
        for (;;) {
                while ((!dev.n || dev.slow) && !dev.quit)
                        pthread_cond_wait(&dev.cond, &dev.lock);
                if (!dev.n)
                        break;
                struct vhk_req *r = dev.todo[--dev.n];
                pthread_mutex_unlock(&dev.lock);
                vhk_req_complete(r, end_request(r));
                pthread_mutex_lock(&dev.lock);
        }
        pthread_mutex_unlock(&dev.lock);
        return NULL;
}

static void set_slow(bool on) {
        pthread_mutex_lock(&dev.lock);
        dev.slow = on;
        pthread_cond_signal(&dev.cond);
        pthread_mutex_unlock(&dev.lock);
}

static void set_stuck(bool on) {
        pthread_mutex_lock(&dev.lock);
        dev.stuck = on;
        pthread_cond_broadcast(&dev.unstuck);
        pthread_mutex_unlock(&dev.lock);
}

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r[4];
        int n;

        pthread_mutex_lock(&dev.lock);
        while (dev.stuck)
                pthread_cond_wait(&dev.unstuck, &dev.lock);
        pthread_mutex_unlock(&dev.lock);
        while ((n = vhk_queue_pop(q, r, 4)) > 0)
                for (int i = 0; i < n; i++) {
                        struct words w = { 0 };
                        vhk_req_read(r[i], 0, &w, sizeof(w));
                        begin_request(vhk_queue_get_index(q), &w);
                        if (w.id % 2) {
                                vhk_queue_push(q, r[i], end_request(r[i]));
                                continue;
                        }
                        pthread_mutex_lock(&dev.lock);
                        dev.todo[dev.n++] = r[i];
                        pthread_cond_signal(&dev.cond);
                        pthread_mutex_unlock(&dev.lock);
                }
        vhk_queue_flush(q);
}

static int device_start(void *arg, struct vhk_queue *q, struct vhk_worker *home) {
        if (__atomic_exchange_n(&dev.runs[vhk_queue_get_index(q)], true, __ATOMIC_RELAXED))
                FAIL("ring %u: started while it runs", vhk_queue_get_index(q));
        __atomic_fetch_add(&dev.n_start, 1, __ATOMIC_RELAXED);
        return 0;
}

static void device_stopped(void *arg, struct vhk_queue *q) {
        if (vhk_queue_n_in_flight(q))
                FAIL("ring %u: stopped with requests in flight", vhk_queue_get_index(q));
        vhk_store_relaxed(&dev.runs[vhk_queue_get_index(q)], false);
        __atomic_fetch_add(&dev.n_stopped, 1, __ATOMIC_RELEASE);
}

static void device_reset(void *arg) {
        dev.n_reset++;
        for (unsigned i = 0; i < N_RINGS; i++)
                if (vhk_load_relaxed(&dev.runs[i]))
                        FAIL("ring %u: runs while the device is reset", i);
}

static int device_get_config(void *arg, uint32_t off, void *buf, uint32_t n) {
        memset(buf, 1, n);
        return 0;
}

static const struct vhk_device_ops device_ops = {
        .size = sizeof(device_ops), .virtio_id = VHK_ID_RNG, .n_queues = N_RINGS, .queue_size_max = 256,
        .req_size = 16, .config_len = 4, .get_config = device_get_config, .threads = VHK_THREADS_PER_QUEUE, .disabled = VHK_DISABLED_HOLD,
        .queue_start = device_start, .queue_run = device_run, .queue_stopped = device_stopped,
        .reset = device_reset,
};

static void device_begin(void) {
        memset(&dev, 0, sizeof(dev));
        pthread_mutex_init(&dev.lock, NULL);
        pthread_cond_init(&dev.cond, NULL);
        pthread_cond_init(&dev.unstuck, NULL);
        CHECK_EQ(pthread_create(&dev.thread, NULL, complete, NULL), 0);
}

static void device_end(void) {
        pthread_mutex_lock(&dev.lock);
        dev.quit = true;
        pthread_cond_signal(&dev.cond);
        pthread_mutex_unlock(&dev.lock);
        pthread_join(dev.thread, NULL);
        pthread_cond_destroy(&dev.cond);
        pthread_cond_destroy(&dev.unstuck);
        pthread_mutex_destroy(&dev.lock);
}

/* ---- the front-end ---- */

struct my_ring {
        bool runs, enabled, logs;
        uint32_t busy;                  /* slots */
};

static struct {
        struct rig r;
        bool translates, is_patient;    /* with translations; with a time limit that nothing exceeds */
        struct my_ring rings[N_RINGS];
        uint64_t n_ids;
        uint8_t *files[2];              /* where buffers may be, mapped */
        int file_fds[2];
        unsigned file;
        bool logs;
        int log_fd;
} me;

static int receive_word(uint32_t id) {
        uint64_t word = ~0ull;
        int ret = fe_receive(&me.r, id, &word, sizeof(word));

        CHECK_FAILURE(&me.r);
        if (ret < 0) {
                CHECK_MSG(!me.is_patient, "message %u closed the connection; log:\n%s", id, me.r.log);
                return ret;
        }
        CHECK_EQ(ret, 8);
        CHECK(word <= 1);
        CHECK_MSG(word == ACK || !me.is_patient, "message %u was refused; log:\n%s", id, me.r.log);
        return (int)word;
}

static int ask(uint32_t id, const void *payload, uint32_t size, int fd) {
        fe_send(&me.r, id, VHK_HDR_NEED_REPLY, payload, size, &fd, fd >= 0);
        return receive_word(id);
}

static int ask_ring(uint32_t id, unsigned i, uint32_t value) {
        struct vhk_p_vring_state p = { i, value };
        return ask(id, &p, sizeof(p), -1);
}

static int ask_fd(uint32_t id, unsigned i, int fd) {
        uint64_t x = i;
        return ask(id, &x, sizeof(x), fd);
}

static struct vhk_p_vring_addr my_addr(unsigned i) {
        struct vhk_p_vring_addr a = ring_addr(&me.r, i);
        uint64_t move = me.translates ? GPA - (uint64_t)(uintptr_t)me.r.mem : 0;

        a.log_guest_addr = GPA + (a.used - (uint64_t)(uintptr_t)me.r.mem);
        a.flags = me.rings[i].logs ? VHK_VRING_F_LOG : 0;
        a.desc += move;
        a.avail += move;
        a.used += move;
        return a;
}

static int send_addr(unsigned i) {
        struct vhk_p_vring_addr a = my_addr(i);
        return ask(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1);
}

static int kick(unsigned i) {
        vhk_store_relaxed(&dev.may_run[i], true);       /* the message orders */
        int ret = ask_fd(VHK_FE_SET_VRING_KICK, i, me.r.rings[i].kick);
        me.rings[i].runs = true;        /* or may, until it is stopped */
        return ret;
}

/* A ring that begins anew. */
static int set_up(unsigned i) {
        struct ring *g = &me.r.rings[i];

        ring_make(&me.r, i);
        me.rings[i].busy = 0;
        me.rings[i].enabled = true;
        int ret = ask_fd(VHK_FE_SET_VRING_CALL, i, g->call);
        if (ret == ACK)
                ret = ask_fd(VHK_FE_SET_VRING_ERR, i, g->err);
        if (ret == ACK)
                ret = ask_ring(VHK_FE_SET_VRING_NUM, i, RING_SIZE);
        if (ret == ACK)
                ret = ask_ring(VHK_FE_SET_VRING_BASE, i, 0);
        if (ret == ACK)
                ret = send_addr(i);
        if (ret == ACK)
                ret = ask_ring(VHK_FE_SET_VRING_ENABLE, i, 1);
        return ret == ACK ? kick(i) : ret;
}

static bool is_broken(unsigned i) { return is_readable(me.r.rings[i].err); }

static unsigned place_of(unsigned slot) { return me.translates ? slot * N_PLACES / (N_RINGS * N_SLOTS) : 0; }

/* Of slot @slot of all rings: in its page, or in both files. */
static uint64_t offset_of(unsigned slot) {
        return me.translates ? place_of(slot) * PAGE + slot % 8 * 64 : slot * 64;
}

static void add(unsigned i) {
        struct ring *g = &me.r.rings[i];
        unsigned k = 0;

        while (k < N_SLOTS && (me.rings[i].busy >> k & 1))
                k++;
        if (!g->drv || k == N_SLOTS || me.n_ids == N_IDS)
                return;
        unsigned slot = i * N_SLOTS + k;
        for (unsigned f = 0; f < (me.translates ? 1 : 2); f++) {
                struct words *w = (void *)(me.files[f] + offset_of(slot));
                *w = (struct words){ me.n_ids, me.translates ? place_of(slot) : f };
        }
        uint8_t *at = me.r.mem + B_AT + offset_of(slot);
        struct iovec sg[2] = { { at, sizeof(struct words) }, { at + sizeof(struct words), 8 } };
        CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 1, (void *)(uintptr_t)(k + 1)));
        me.n_ids++;
        g->n_added++;
        me.rings[i].busy |= 1u << k;
        (void)vhk_drvring_arm(g->drv);
        if (vhk_drvring_publish(g->drv))
                vhk_notify_fd(g->kick);
}

static void reap(unsigned i) {
        struct vhk_done done[RING_SIZE];

        if (!me.r.rings[i].drv)
                return;
        int n = vhk_drvring_reap(me.r.rings[i].drv, done, RING_SIZE);
        CHECK_OK(n);
        for (int k = 0; k < n; k++) {
                CHECK_EQ(done[k].len, 8);
                me.rings[i].busy &= ~(1u << ((uintptr_t)done[k].cookie - 1));
        }
        me.r.rings[i].n_reaped += (unsigned)n;
}

/* ---- translations ---- */

/* Updates and invalidations are acknowledged without being asked to. */
static int send_iotlb(unsigned type, uint64_t iova, uint64_t len) {
        struct vhk_p_iotlb p = {
                .iova = iova, .len = len, .user_addr = (uint64_t)(uintptr_t)me.r.mem + (iova - GPA), .perm = 3, .type = (uint8_t)type,
        };

        fe_send(&me.r, VHK_FE_IOTLB_MSG, 0, &p, sizeof(p), NULL, 0);
        return receive_word(VHK_FE_IOTLB_MSG);
}

/* Answers what is missed: @refuse one of so many (0: none). */
static int serve_misses(unsigned refuse) {
        struct vhk_p_iotlb p;
        int ret = ACK;

        while (me.translates && ret != GONE && channel_poll(&p)) {
                bool no = refuse && rnd(refuse) == 0;
                channel_answer(no);
                if (!no && p.type == VHK_IOTLB_MISS)
                        ret = send_iotlb(VHK_IOTLB_UPDATE, p.iova, PAGE);
        }
        return ret;
}

static void check_places(uint32_t mask) {
        for (unsigned p = 0; p < N_PLACES; p++)
                if (mask >> p & 1)
                        CHECK_MSG(vhk_load_acquire(&dev.in_flight[p]) == 0,
                                  "a change of memory is acknowledged with requests in flight in place %u", p);
}

static int invalidate(unsigned i) {
        if (rnd(4) == 0) {
                int ret = send_iotlb(VHK_IOTLB_INVALIDATE, GPA + i * RING_BYTES, 4 * PAGE);     /* a ring's own areas */
                return ret == ACK ? serve_misses(0) : ret;
        }
        unsigned first = rnd(N_PLACES), n = 1 + rnd(N_PLACES - first);
        int ret = send_iotlb(VHK_IOTLB_INVALIDATE, GPA + B_AT + first * PAGE, n * PAGE);
        if (ret == ACK)
                check_places(((1u << n) - 1) << first);
        return ret;
}

/* The buffers move to the other file, which has the same requests. */
static int move_memory(unsigned i) {
        struct vhk_p_mem_regions t = { .n_regions = 2, .regions = { region(&me.r, 0, B_AT), region(&me.r, B_AT, B_AT) } };
        unsigned other = !me.file;
        int fds[2] = { me.r.memfd, me.file_fds[other] };

        if (other)
                t.regions[1].mmap_offset = 0;
        fe_send(&me.r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 2 * 32, fds, 2);
        int ret = receive_word(VHK_FE_SET_MEM_TABLE);
        if (ret == ACK) {
                check_places(1u << me.file);
                me.file = other;
        }
        return ret;
}

static int change_memory(unsigned i) { return me.translates ? invalidate(i) : move_memory(i); }

/* ---- stops ---- */

static int receive_base(unsigned i) {
        struct vhk_p_vring_state base = { ~0u, ~0u };
        int ret = fe_receive(&me.r, VHK_FE_GET_VRING_BASE, &base, sizeof(base));

        CHECK_FAILURE(&me.r);
        CHECK_MSG(ret > 0 || !me.is_patient, "GET_VRING_BASE closed the connection; log:\n%s", me.r.log);
        if (ret < 0)
                return ret;
        CHECK_EQ(base.index, i);
        CHECK(!vhk_load_relaxed(&dev.runs[i]));
        vhk_store_relaxed(&dev.may_run[i], false);
        reap(i);
        if (!is_broken(i))
                CHECK_EQ(base.num, (uint16_t)me.r.rings[i].n_reaped);
        else
                CHECK(base.num >= me.r.rings[i].n_reaped && base.num <= me.r.rings[i].n_added);
        me.rings[i].runs = false;
        return (int)base.num;
}

static void send_call(unsigned i) {
        uint64_t index = i;
        fe_send(&me.r, VHK_FE_SET_VRING_CALL, 0, &index, 8, &me.r.rings[i].call, 1);
}

/* What may come while a stop waits, or arrives together with it; nobody asks for an
 * acknowledgement. */
static void send_in_between(unsigned i) {
        struct vhk_p_vring_state e = { i, rnd(2) };

        switch (rnd(6)) {
        case 0:
                send_call(i);
                break;
        case 1:
                fe_send(&me.r, VHK_FE_SET_VRING_ENABLE, 0, &e, sizeof(e), NULL, 0);
                me.rings[i].enabled = e.num;
                break;
        case 2:
                turn(&me.r, 0);
                break;
        case 3:
                add(i);
                break;
        default:
                break;
        }
}

/* Misses that were answered, or refused, while a stop waits: their updates come after it. */
static uint64_t taken[16];

static unsigned answer_misses(void) {
        struct vhk_p_iotlb miss;
        unsigned n = 0;

        while (me.translates && n < VHK_N(taken) && channel_poll(&miss)) {
                bool no = rnd(2);
                channel_answer(no);
                if (!no && miss.type == VHK_IOTLB_MISS)
                        taken[n++] = miss.iova;
        }
        return n;
}

static int stop(unsigned i) {
        struct vhk_p_vring_state p = { i, 0 };

        send_in_between(i);
        fe_send(&me.r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
        unsigned n_taken = rnd(2) ? answer_misses() : 0;
        for (unsigned n = rnd(4); n; n--)
                turn(&me.r, 0);
        if (me.is_patient)
                set_slow(false);
        int base = receive_base(i);
        for (unsigned n = 0; base >= 0 && n < n_taken; n++)
                if (send_iotlb(VHK_IOTLB_UPDATE, taken[n], PAGE) == GONE)
                        return GONE;
        return base;
}

static int restart(unsigned i) {
        int base = stop(i);

        if (base < 0)
                return GONE;
        if (is_broken(i))
                return set_up(i);
        int ret = ask_ring(VHK_FE_SET_VRING_BASE, i, (uint32_t)base);
        return ret == ACK ? kick(i) : ret;
}

/* The guest breaks the ring: its index jumps. */
static int break_ring(unsigned i) {
        struct vhk_avail *avail = (void *)(ring_area(&me.r, i) + 0x1000);

        if (rnd(3))
                return ACK;
        vhk_store_release(&avail->idx.v, vhk_le16_of((uint16_t)(vhk_le16_get(avail->idx) + 1000)).v);
        vhk_notify_fd(me.r.rings[i].kick);
        for (unsigned n = rnd(4); n; n--)
                turn(&me.r, 0);
        struct vhk_p_vring_state p = { i, 0 }, base;
        fe_send(&me.r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
        if (me.is_patient)
                set_slow(false);
        if (fe_receive(&me.r, VHK_FE_GET_VRING_BASE, &base, sizeof(base)) < 0)
                return GONE;
        CHECK(!vhk_load_relaxed(&dev.runs[i]));
        vhk_store_relaxed(&dev.may_run[i], false);
        reap(i);
        CHECK((uint16_t)(base.num - me.r.rings[i].n_reaped) <= N_SLOTS);
        return set_up(i);
}

/* A reset that is refused at its limit is done when the device is: until then no ring starts. */
static int reset(unsigned i) {
        unsigned n_reset = dev.n_reset;

        if (me.is_patient)
                set_slow(false);
        else if (rnd(3) == 0)           /* orders that the worker does not take */
                set_stuck(true);
        for (unsigned k = 0; k < N_RINGS; k++)
                add(k);
        int ret = ask(VHK_FE_RESET_DEVICE, NULL, 0, -1);
        if (ret == GONE)
                return ret;
        if (ret == NACK) {
                for (unsigned n = rnd(3); n; n--) {
                        send_in_between(rnd(N_RINGS));
                        if (rnd(2) && change_memory(i) == GONE)
                                return GONE;
                }
                set_stuck(false);
                if (rnd(2))             /* some of the next orders find a queue that has just stopped */
                        set_slow(false);
                for (unsigned n = rnd(50); n; n--)
                        send_call(rnd(N_RINGS));
                unsigned k = rnd(N_RINGS), n_start = vhk_load_relaxed(&dev.n_start);
                bool draining = vhk_load_acquire(&dev.n_stopped) != n_start;
                ret = ask_fd(VHK_FE_SET_VRING_KICK, k, me.r.rings[k].kick);
                CHECK_MSG(ret != ACK || !draining || vhk_load_acquire(&dev.n_stopped) == n_start,
                          "a ring starts before the reset is done");
                if (ret == GONE)
                        return ret;
                set_slow(false);
                PUMP_UNTIL(&me.r, dev.n_reset == n_reset + 1);
                CHECK_FAILURE(&me.r);
        }
        for (unsigned k = 0; k < N_RINGS; k++) {
                CHECK(!vhk_load_relaxed(&dev.runs[k]));
                vhk_store_relaxed(&dev.may_run[k], false);
                me.rings[k].runs = false;
                reap(k);
        }
        for (unsigned k = 0; k < N_RINGS; k++) {
                ret = set_up(k);
                if (ret != ACK)
                        return ret;
        }
        return ACK;
}

/* ---- steps ---- */

static int change_call(unsigned i) {
        int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

        CHECK(fd >= 0);
        int ret = ask_fd(VHK_FE_SET_VRING_CALL, i, fd);
        close(me.r.rings[i].call);
        me.r.rings[i].call = fd;
        return ret;
}

static int change_enable(unsigned i) {
        me.rings[i].enabled = !me.rings[i].enabled;
        return ask_ring(VHK_FE_SET_VRING_ENABLE, i, me.rings[i].enabled);
}

static int change_log(unsigned i) {
        if (me.translates)              /* addresses to be marked are those of the guest: the other tests have that */
                return ACK;
        if (rnd(2)) {
                me.rings[i].logs = !me.rings[i].logs;
                return send_addr(i);
        }
        me.logs = !me.logs;
        uint64_t features = FEATURES | (me.logs ? LOG_ALL : 0);
        fe_send(&me.r, VHK_FE_SET_FEATURES, 0, &features, 8, NULL, 0);
        fe_send(&me.r, VHK_FE_GET_FEATURES, 0, NULL, 0, NULL, 0);       /* the barrier */
        int ret = fe_receive(&me.r, VHK_FE_GET_FEATURES, &features, sizeof(features));
        CHECK(ret == 8 || !me.is_patient);
        return ret == 8 ? ACK : GONE;
}

static int change_kick(unsigned i) {
        return is_broken(i) ? ACK : ask_fd(VHK_FE_SET_VRING_KICK, i, me.r.rings[i].kick);
}

static int be_slow(unsigned i) {
        set_slow(rnd(2));
        return ACK;
}

static int serve(unsigned i) { return serve_misses(16); }

static int (*const steps[])(unsigned i) = {
        change_call, change_enable, change_enable, change_log, change_kick, be_slow, serve, serve, serve,
        change_memory, change_memory, change_memory, restart, restart, restart, break_ring, reset,
};

static int step(void) {
        unsigned i = rnd(N_RINGS);
        int (*fn)(unsigned i) = steps[rnd(VHK_N(steps))];

        if (me.is_patient && fn == change_memory)       /* it waits for requests */
                set_slow(false);
        int ret = fn(i);
        CHECK_FAILURE(&me.r);
        for (unsigned k = 0; k < N_RINGS; k++) {
                if (ret != GONE && is_broken(k) && rnd(2)) {    /* a translation was refused */
                        ret = restart(k);
                } else if (ret == NACK && rnd(2)) {             /* what became of it is not known: begin it anew */
                        int base = stop(k);
                        ret = base < 0 ? GONE : set_up(k);
                }
        }
        return ret;
}

/* ---- sessions ---- */

static int begin_session(void) {
        struct vhk_p_log log = { LOG_BYTES, 0 }, said;

        for (unsigned i = 0; i < N_RINGS; i++)
                me.rings[i] = (struct my_ring){ .runs = false };
        me.logs = false;
        me.file = 0;
        if (me.translates) {
                iotlb_connect(&me.r, 0);
        } else {
                fe_connect(&me.r);
                fe_negotiate(&me.r, FEATURES, MY_PROTOCOL);
                CHECK_EQ(fe_mem_reg(&me.r, VHK_FE_ADD_MEM_REG, 0, B_AT), ACK);
                CHECK_EQ(fe_mem_reg(&me.r, VHK_FE_ADD_MEM_REG, B_AT, B_AT), ACK);
                fe_send(&me.r, VHK_FE_SET_LOG_BASE, 0, &log, sizeof(log), &me.log_fd, 1);
                CHECK_EQ(fe_receive(&me.r, VHK_FE_SET_LOG_BASE, &said, sizeof(said)), sizeof(said));
        }
        for (unsigned i = 0; i < N_RINGS; i++) {
                int ret = set_up(i);
                if (ret != ACK)
                        return ret;
        }
        return ACK;
}

/* All that was added is done. */
static void finish_all(void) {
        set_slow(false);
        for (unsigned i = 0; i < N_RINGS; i++) {
                if (is_broken(i))
                        continue;
                if (!me.rings[i].enabled)
                        (void)change_enable(i);
                PUMP_UNTIL(&me.r, ((void)serve_misses(0), reap(i), me.r.rings[i].n_reaped == me.r.rings[i].n_added || is_broken(i)));
        }
        for (unsigned i = 0; i < N_RINGS; i++) {
                int base = stop(i);
                CHECK(base >= 0);
        }
}

static void end_session(int last, unsigned n_before) {
        if (last != GONE && me.is_patient && rnd(2)) {
                finish_all();
        } else if (last != GONE) {      /* in the middle of whatever */
                struct vhk_p_vring_state p = { rnd(N_RINGS), 0 };
                for (unsigned n = rnd(4); n; n--) {
                        add(rnd(N_RINGS));
                        send_in_between(rnd(N_RINGS));
                }
                if (rnd(2))
                        fe_send(&me.r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
                else if (rnd(2))
                        fe_send(&me.r, VHK_FE_RESET_DEVICE, 0, NULL, 0, NULL, 0);
                for (unsigned n = rnd(3); n; n--)
                        turn(&me.r, 0);
        }
        vhk_conn_done(&me.r.fe);
        set_slow(false);
        set_stuck(false);
        PUMP_UNTIL(&me.r, me.r.n_disconnected == n_before + 1);
        CHECK_FAILURE(&me.r);
        CHECK_EQ(vhk_load_acquire(&dev.n_stopped), vhk_load_relaxed(&dev.n_start));
        for (unsigned p = 0; p < N_PLACES; p++)
                CHECK_EQ(vhk_load_acquire(&dev.in_flight[p]), 0);
        for (unsigned i = 0; i < N_RINGS; i++)
                vhk_store_relaxed(&dev.may_run[i], false);
        vhk_conn_done(&channel);
        channel.fd = -1;
}

static void session(void) {
        unsigned n_before = me.r.n_disconnected;
        int ret = begin_session();

        me.r.log[0] = 0;
        for (unsigned n = 10 + rnd(60); n && ret == ACK; n--) {
                for (unsigned k = rnd(8); k; k--)
                        add(rnd(N_RINGS));
                ret = step();
                for (unsigned i = 0; ret != GONE && i < N_RINGS; i++)
                        if (!is_broken(i))
                                reap(i);
        }
        end_session(ret, n_before);
}

/* A back-end, some sessions, its end. */
static void round_of_sessions(bool translates, bool is_patient) {
        struct home h[N_WORKERS];

        memset(&me, 0, sizeof(me));
        failed = 0;
        me.translates = translates;
        me.is_patient = is_patient;
        device_begin();
        rig_open_with(&me.r, &(struct vhk_backend_options){ .features_offer = translates ? PLATFORM : 0,
                                                            .limit_ns = is_patient ? 0 : LIMIT_SHORT }, &device_ops, NULL);
        me.log_fd = memfd_create("log", MFD_CLOEXEC);
        me.file_fds[0] = me.r.memfd;
        me.file_fds[1] = memfd_create("other", MFD_CLOEXEC);
        CHECK(me.file_fds[1] >= 0 && ftruncate(me.file_fds[1], B_AT) == 0);
        CHECK(me.log_fd >= 0 && ftruncate(me.log_fd, LOG_BYTES) == 0);
        me.files[0] = me.r.mem + B_AT;
        me.files[1] = mmap(NULL, B_AT, PROT_READ | PROT_WRITE, MAP_SHARED, me.file_fds[1], 0);
        CHECK(me.files[1] != MAP_FAILED);
        for (unsigned i = 0; i < N_WORKERS; i++) {
                h[i] = (struct home){ .quit_post.fn = on_quit };
                CHECK_OK(vhk_worker_new(NULL, NULL, &h[i].w));
                vhk_worker_set_spin(h[i].w, i == 0 ? 20000 : 0);
                CHECK_EQ(pthread_create(&h[i].thread, NULL, home_thread, &h[i]), 0);
        }
        for (unsigned i = 0; i < N_RINGS; i++)          /* two share one */
                CHECK_OK(vhk_backend_set_worker(me.r.b, i, h[i % N_WORKERS].w));
        for (unsigned n = 0; n < 4; n++)
                session();
        rig_end(&me.r);
        device_end();
        rig_close(&me.r);
        for (unsigned i = 0; i < N_WORKERS; i++) {
                vhk_worker_post(h[i].w, &h[i].quit_post);
                pthread_join(h[i].thread, NULL);
                vhk_worker_free(h[i].w);
        }
        munmap(me.files[1], B_AT);
        close(me.file_fds[1]);
        close(me.log_fd);
}

static void run_for(bool translates, bool is_patient) {
        const char *seconds = getenv("VHK_TEST_SECONDS"), *seed = getenv("VHK_TEST_SEED");
        uint64_t ns = (seconds ? strtoull(seconds, NULL, 10) : 3) * UINT64_C(1000000000) / 4, until = now_ns() + ns;
        unsigned n = 0;

        random_state = seed ? strtoull(seed, NULL, 10) : 1;
        do {
                uint64_t before = random_state;
                printf("  round %u: VHK_TEST_SEED=%llu\n", n++, (unsigned long long)before);
                fflush(stdout);
                round_of_sessions(translates, is_patient);
        } while (now_ns() < until && !getenv("VHK_TEST_SLOW"));
}

TEST(every_order_at_every_point) { run_for(false, true); }
TEST(every_order_at_every_point_with_translations) { run_for(true, true); }
TEST(stops_that_outlast_their_limit) { run_for(false, false); }
TEST(stops_that_outlast_their_limit_with_translations) { run_for(true, false); }
