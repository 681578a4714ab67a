/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Memory, mappings, descriptors, watches and io_uring run out, at every call and at both ends (fault.h): a disk is opened, read and
 * written, loses its back-end and finds the next one, and is closed, while the n-th call of one kind fails, for n from 1 until a run in
 * which none fails. A run may go on in spite of it, or a public call returns a negative errno with an error message. Nothing crashes,
 * hangs or leaks, and a back-end that failed to serve one front-end serves the next.
 *
 * With VHK_FAULT_VERBOSE set, each error message is printed.
 *
 * The front-end is the test's thread; the back-end's control and its ring are one thread, so that each end's calls have an order.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include <vhostkit/blkdev.h>
#include <vhostkit/vhostkit.h>

#include "base/base.h"
#include "base/test.h"
#include "fault.h"

#define DISK_BYTES (1u << 20)
#define BLOCK 4096u
#define SHARED_BYTES (32u << 20)        /* more than a disk brings along: a region is added */
#define N_ASYNC 4u
#define LIMIT_NS UINT64_C(3000000000)
#define BACK_LIMIT_NS UINT64_C(500000000)
#define RUN_LIMIT_S 60u                 /* a run is milliseconds, or a few time limits */

/* ---- what happens in a run ---- */

enum phase { CONNECT, LOAD, RECONNECT, STOP, PHASES };
static const char *const phase_names[] = { "connect, negotiate, start", "load", "reconnect", "stop" };

static struct run {
        enum phase phase;               /* atomic */
        enum phase failed_in;
        unsigned n_refused;             /* public calls that failed */
        char point[100];                /* for messages: what fails in this run */
} run;
static unsigned n_points[FAULT_KINDS][FAULT_ENDS][PHASES], n_coped, n_failed, n_uring_refusals;

static void fault_on_injection(void) {
        run.failed_in = __atomic_load_n(&run.phase, __ATOMIC_RELAXED);
}

static void set_phase(enum phase phase) {
        __atomic_store_n(&run.phase, phase, __ATOMIC_RELAXED);
}

/* As CHECK_MSG(), but the run goes on to its end, and so do the other runs. Names what failed. */
#define EXPECT(cond, ...)                                                                               \
        do {                                                                                            \
                if (!(cond)) {                                                                          \
                        const char *call_ = fault_failed_call();                                        \
                        printf("  %s (%s): ", run.point, call_ ? call_ : "nothing failed");             \
                        printf(__VA_ARGS__);                                                            \
                        putchar('\n');                                                                  \
                        vhk_test_failed_ = 1;                                                           \
                }                                                                                       \
        } while (0)

/* The run hangs or has crashed: which one was it? */
static void on_signal(int number) {
        static const char text[] = "a run does not end, or crashed: ";

        (void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
        (void)!write(STDOUT_FILENO, run.point, strlen(run.point));
        (void)!write(STDOUT_FILENO, "\n", 1);
        signal(number, SIG_DFL);
        raise(number);
}

static void check_message(int ret, const struct vhk_error *e, const char *call) {
        run.n_refused++;
        if (getenv("VHK_FAULT_VERBOSE"))
                printf("  %s (%s): %s gave %d: %s: %s\n", run.point, fault_failed_call(), call, ret, e->rule, e->text);
        EXPECT(fault_failed_call(), "%s gave %d (%s), %s", call, ret, strerror(-ret), e->text);
        EXPECT(e->code == ret && e->text[0] && e->rule && strcmp(e->rule, "frontend.ok"), "%s gave %d (%s), the message is %d \"%s\"", call, ret, strerror(-ret), e->code, e->text);
}

/* ---- who takes part ---- */

/* A device of the back-end's, and what the front-end does with it. */
struct subject {
        int (*open)(void **ret_dev, struct vhk_device_ops *ret_ops, struct vhk_error *ret_e);   /* on the back-end's thread, as the next */
        void (*close)(void *dev);
        void (*use)(bool reconnect);                    /* on the front-end's */
        uint64_t features_offer, protocol_offer;
};
static const struct subject *subject;
static enum vhk_blkdev_engine engine;

/* ---- the back-end: a life is what a daemon does from its start to its end; after a life that failed comes another ---- */

#define MAX_LIVES 4u

static struct back {
        char dir[40], socket[64], image[64];
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t changed;
        /* under the lock */
        struct vhk_backend *serving;    /* NULL: not yet, or no more */
        bool stops, is_over;
        unsigned n_over;                /* lives that have ended */
        unsigned n_errors;
        char log[240];                  /* its last warning or error */
        bool broke_ring;                /* and that is in the log */
        struct { int ret; struct vhk_error error; } errors[MAX_LIVES];
        /* the thread's */
        bool has_ended;
} back = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void set_serving(struct vhk_backend *b, bool is_over) {
        pthread_mutex_lock(&back.lock);
        back.serving = b;
        back.is_over = is_over;
        pthread_cond_broadcast(&back.changed);
        pthread_mutex_unlock(&back.lock);
}

/* Waits for the next life, or the end of them all. */
static bool await_back(void) {
        pthread_mutex_lock(&back.lock);
        while (!back.serving && !back.is_over)
                pthread_cond_wait(&back.changed, &back.lock);
        bool is_over = back.is_over;
        pthread_mutex_unlock(&back.lock);
        return !is_over;
}

/* Ends this life, and waits for that; @for_good: the last one. */
static void stop_back(enum vhk_stop how, bool for_good) {
        if (!await_back())
                return;
        pthread_mutex_lock(&back.lock);
        struct vhk_backend *b = back.serving;
        back.serving = NULL;
        back.stops = for_good;
        unsigned n_over = back.n_over;
        pthread_mutex_unlock(&back.lock);
        CHECK_OK(vhk_backend_stop(b, how, 0));
        pthread_mutex_lock(&back.lock);
        while (back.n_over == n_over)
                pthread_cond_wait(&back.changed, &back.lock);
        pthread_mutex_unlock(&back.lock);
}

static void on_back_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        back.has_ended |= ev == VHK_BACKEND_ENDED;
}

static void on_back_log(void *arg, enum vhk_log_level level, const char *text) {
        pthread_mutex_lock(&back.lock);
        if (level <= VHK_LOG_WARNING)
                snprintf(back.log, sizeof(back.log), "%s", text);
        back.broke_ring |= !strncmp(text, "ring 0 is broken", 16);
        pthread_mutex_unlock(&back.lock);
}

static bool has_broken_ring(void) {
        pthread_mutex_lock(&back.lock);
        bool has = back.broke_ring;
        pthread_mutex_unlock(&back.lock);
        return has;
}

static int serve(void *dev, const struct vhk_device_ops *ops, struct vhk_worker *w, struct vhk_error *ret_e) {
        struct vhk_backend_options o = { .size = sizeof(o), .control = w, .on_event = on_back_event, .limit_ns = BACK_LIMIT_NS,
                                         .features_offer = subject->features_offer, .protocol_offer = subject->protocol_offer,
                                         .log = on_back_log };
        struct vhk_backend *b;

        int ret = vhk_backend_open(back.socket, &o, ops, dev, &b, ret_e);
        if (ret < 0)
                return ret;
        back.has_ended = false;
        set_serving(b, false);
        while (!back.has_ended)
                vhk_worker_dispatch(w, -1);
        vhk_backend_free(b);
        return 0;
}

static int live(struct vhk_error *ret_e) {
        struct vhk_device_ops ops = { .size = sizeof(ops) };
        struct vhk_worker *w;
        void *dev;

        int ret = vhk_worker_new(NULL, NULL, &w);
        if (ret < 0) {                  /* has no message of its own */
                *ret_e = (struct vhk_error){ ret, "worker", "no worker" };
                return ret;
        }
        ret = subject->open(&dev, &ops, ret_e);
        if (ret == 0) {
                ret = serve(dev, &ops, w, ret_e);
                subject->close(dev);
        }
        vhk_worker_free(w);
        return ret;
}

static void *back_main(void *arg) {
        bool stops;

        fault_end = FAULT_BACK;
        do {
                struct vhk_error e = { .code = 0 };
                int ret = live(&e);
                pthread_mutex_lock(&back.lock);
                if (ret < 0) {
                        back.errors[back.n_errors].ret = ret;
                        back.errors[back.n_errors++].error = e;
                }
                back.n_over++;
                pthread_cond_broadcast(&back.changed);
                stops = back.stops || back.n_errors == MAX_LIVES;
                pthread_mutex_unlock(&back.lock);
        } while (!stops);
        set_serving(NULL, true);
        return NULL;
}

static void start_back(void) {
        back.stops = back.is_over = false;
        back.log[0] = 0;
        back.broke_ring = false;
        back.n_errors = 0;
        CHECK_EQ(pthread_create(&back.thread, NULL, back_main, NULL), 0);
}

static void join_back(void) {
        stop_back(VHK_STOP_DRAIN, true);
        pthread_join(back.thread, NULL);
        if (run.n_refused && fault.end == FAULT_BACK && !back.n_errors) {
                EXPECT(back.log[0], "the back-end logged nothing");
                if (getenv("VHK_FAULT_VERBOSE"))
                        printf("  %s (%s): the back-end: %s\n", run.point, fault_failed_call(), back.log);
        }
        for (unsigned i = 0; i < back.n_errors; i++)
                check_message(back.errors[i].ret, &back.errors[i].error, "opening the back-end");
}

/* ---- a disk ---- */

static int open_disk_device(void **ret_dev, struct vhk_device_ops *ret_ops, struct vhk_error *ret_e) {
        struct vhk_blkdev_options o = { .size = sizeof(o), .path = back.image, .engine = engine };
        struct vhk_blkdev *d;

        int ret = vhk_blkdev_open(&o, &d, ret_e);
        if (ret == 0) {
                ret = vhk_blkdev_get_ops(d, ret_ops);
                *ret_dev = d;
        }
        return ret;
}

static void close_disk_device(void *dev) {
        vhk_blkdev_close(dev);
}

static struct vhk_blk *disk;

/* True: @ret is a success; else it has a message. */
static bool is_done(long long ret, const char *call) {
        if (ret >= 0)
                return true;
        check_message((int)ret, vhk_frontend_get_error(vhk_blk_get_frontend(disk)), call);
        return false;
}

static void use_blocks(uint8_t *shared, uint64_t off) {
        static uint8_t own[BLOCK];

        memset(own, (int)(off / BLOCK), BLOCK);
        if (!is_done(vhk_blk_pwrite(disk, own, BLOCK, off), "pwrite"))
                return;
        memset(shared, 0, BLOCK);
        if (is_done(vhk_blk_pread(disk, shared, BLOCK, off), "pread"))
                EXPECT(!memcmp(own, shared, BLOCK), "other bytes were read than were written");
        is_done(vhk_blk_flush(disk), "flush");
}

static void submit(uint8_t *shared) {
        struct vhk_blk_queue *q;
        struct vhk_blk_io ios[N_ASYNC];
        struct iovec iov = { shared, BLOCK };

        CHECK_OK(vhk_blk_get_queue(disk, 0, &q));
        for (unsigned i = 0; i < N_ASYNC; i++)
                ios[i] = (struct vhk_blk_io){ .op = VHK_BLK_READ, .off = i * BLOCK, .iov = &iov, .n_iov = 1 };
        is_done(vhk_blk_submit(q, ios, N_ASYNC), "submit");
}

static void reap(void) {
        struct vhk_blk_queue *q;
        struct vhk_blk_done done[N_ASYNC];
        int n;

        CHECK_OK(vhk_blk_get_queue(disk, 0, &q));
        do {
                n = vhk_blk_reap(q, done, N_ASYNC, (int)(2 * LIMIT_NS / 1000000));
                for (int i = 0; i < n; i++)
                        is_done(done[i].result, "read");
        } while (n > 0);
        is_done(n, "reap");
}

static void use_disk(bool reconnect) {
        set_phase(LOAD);
        uint8_t *shared = vhk_blk_alloc(disk, SHARED_BYTES);
        if (!shared) {
                EXPECT(fault_failed_call(), "no memory");
                return;
        }
        use_blocks(shared, BLOCK);
        submit(shared);
        if (reconnect) {
                set_phase(RECONNECT);
                stop_back(VHK_STOP_ABORT, false);
        }
        reap();
        use_blocks(shared, 2 * BLOCK);
}

static void open_and_use_disk(bool reconnect) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .limit_ns = LIMIT_NS, .connect_ns = LIMIT_NS };
        struct vhk_blk_options o = { .size = sizeof(o), .frontend = &fo, .reconnect_ns = LIMIT_NS };
        struct vhk_error e = { .code = 0 };

        set_phase(CONNECT);
        int ret = vhk_blk_open(back.socket, &o, &disk, &e);
        if (ret < 0) {
                check_message(ret, &e, "vhk_blk_open()");
                return;
        }
        use_disk(reconnect);
        set_phase(STOP);
        disk = vhk_blk_close(disk);
}

static const struct subject disk_subject = { open_disk_device, close_disk_device, open_and_use_disk, 0, 0 };

#include "fault-any.h"

/* ---- runs ---- */

static void scenario(void) {
        set_phase(CONNECT);
        start_back();
        CHECK(await_back());
        fault_end = FAULT_FRONT;
        subject->use(true);
        fault_end = FAULT_NOBODY;
        if (run.n_refused) {            /* what failed was a call, not the back-end */
                unsigned n_refused = run.n_refused;
                subject->use(false);
                EXPECT(run.n_refused == n_refused, "the next front-end is not served");
        }
        set_phase(STOP);
        join_back();
}

static int count_fds(void) {
        return vhk_test_count_("/proc/self/fd");
}

/* False: nothing failed. */
static bool run_once(enum fault_end end, enum fault_kind kind, unsigned n) {
        int fds = count_fds();
        long live = fault_live();

        run = (struct run){ .phase = CONNECT };
        snprintf(run.point, sizeof(run.point), "%s, %s, call %u", fault_ends[end], fault_kinds[kind], n);
        fault_arm(end, kind, n);
        alarm(RUN_LIMIT_S);
        scenario();
        alarm(0);
        EXPECT(count_fds() == fds, "%d descriptors, %d before", count_fds(), fds);
        EXPECT(fault_live() == live, "%ld allocations more than before", fault_live() - live);
        if (!fault_failed_call())
                return false;
        n_points[kind][end][run.failed_in]++;
        *(run.n_refused ? &n_failed : &n_coped) += 1;
        n_uring_refusals += kind == FAULT_URING && run.n_refused;
        return true;
}

static void make_image(void) {
        strcpy(back.dir, "/tmp/vhk-fault-XXXXXX");
        CHECK(mkdtemp(back.dir));
        snprintf(back.socket, sizeof(back.socket), "%s/s", back.dir);
        snprintf(back.image, sizeof(back.image), "%s/image", back.dir);
        int fd = open(back.image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        CHECK(fd >= 0 && !ftruncate(fd, DISK_BYTES));
        close(fd);
}

static void remove_image(void) {
        unlink(back.image);
        CHECK_OK(rmdir(back.dir));
}

static void report(void) {
        for (unsigned k = 0; k < FAULT_KINDS; k++)
                for (unsigned e = FAULT_FRONT; e < FAULT_ENDS; e++)
                        for (unsigned p = 0; p < PHASES; p++)
                                if (n_points[k][e][p])
                                        printf("  %s: %s: %s: %u\n", fault_ends[e], fault_kinds[k], phase_names[p], n_points[k][e][p]);
        printf("  %u runs went on, in %u a call failed\n", n_coped, n_failed);
}

/* Of the kinds from @first on. */
static void fail_every_call(const struct subject *which, enum fault_kind first) {
        signal(SIGALRM, on_signal);
        signal(SIGABRT, on_signal);
        memset(n_points, 0, sizeof(n_points));
        n_coped = n_failed = n_uring_refusals = 0;
        make_image();
        subject = which;
        run = (struct run){ .point = "no failure" };
        fault_arm(FAULT_NOBODY, FAULT_MEMORY, 0);
        scenario();                     /* what is made once in a process is made now */
        CHECK_EQ(run.n_refused, 0);
        for (unsigned k = first; k < FAULT_KINDS; k++)
                for (unsigned e = FAULT_FRONT; e < FAULT_ENDS; e++)
                        for (unsigned n = 1, n_missed = 0; n_missed < 2; n++)   /* one run may have fewer calls than the next */
                                n_missed = run_once(e, k, n) ? 0 : n_missed + 1;
        remove_image();
        report();
}

TEST(a_disk_of_the_sync_engine_survives_every_failed_call) {
        engine = VHK_BLKDEV_SYNC;
        fail_every_call(&disk_subject, 0);
}

TEST(a_disk_of_the_automatic_engine_survives_every_failed_call) {
        engine = VHK_BLKDEV_AUTO;
        fail_every_call(&disk_subject, 0);
        CHECK_EQ(n_uring_refusals, 0);          /* it serves without io_uring */
}

TEST(a_disk_that_must_have_io_uring_says_what_it_lacks) {
        struct vhk_blkdev_options o = { .size = sizeof(o), .engine = VHK_BLKDEV_IO_URING };
        struct vhk_blkdev *d;
        struct vhk_error e;

        make_image();
        o.path = back.image;
        int ret = vhk_blkdev_open(&o, &d, &e);
        remove_image();
        if (ret < 0)
                SKIP("cannot: no io_uring here");
        vhk_blkdev_close(d);
        engine = VHK_BLKDEV_IO_URING;
        fail_every_call(&disk_subject, FAULT_URING);
        CHECK(n_uring_refusals);
}

TEST(every_call_of_a_front_end_survives_every_failed_call) {
        fail_every_call(&any_subject, 0);
}

TEST(every_call_of_a_front_end_with_an_iommu_survives_every_failed_call) {
        with_iommu = true;
        fail_every_call(&iommu_subject, 0);
        with_iommu = false;
}
