/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How the drivers of whole devices end: closed from inside of a callback, with a back-end that has gone or does not answer; and how a queue waits
 * while another thread is in the front-end.
 */
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "base/base.h"
#include "pair.h"

#define S UINT64_C(1000000000)
#define N_QUEUES 4u
#define BLK_F_MQ 12u

/* ---- a device that takes no request, or answers none ---- */

static struct {
        bool takes;                     /* set before it runs */
        struct vhk_req *taken[64];      /* its thread alone */
        unsigned n;
        struct vhk_host *host;
        struct vhk_post release;
} device;
static uint8_t config[60] = { 0, 16, [34] = N_QUEUES };         /* 4096 sectors, as an address: 4096 */

static int attach(void *dev, struct vhk_host *host) {
        device.host = host;
        return 0;
}

static int get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        memcpy(buf, config + off, n);
        return 0;
}

static void queue_run(void *dev, struct vhk_queue *q) {
        struct vhk_req *r;

        while (device.takes && vhk_queue_pop(q, &r, 1) == 1)
                device.taken[device.n++] = r;
}

static void release(struct vhk_post *post) {
        while (device.n)
                vhk_req_complete(device.taken[--device.n], 0);
}

static struct vhk_device_ops ops = {
        .size = sizeof(ops), .n_queues = N_QUEUES, .queue_size_max = 256, .config_len = sizeof(config), .threads = VHK_THREADS_SINGLE,
        .attach = attach, .get_config = get_config, .queue_run = queue_run,
};

/* ---- the drivers ---- */

static struct pair ends;
static struct vhk_frontend_options front;
static struct vhk_blk *blk;
static struct vhk_net *net;
static struct vhk_scsi *scsi;
static struct vhk_vsock *vsock;
static int close_at, n_events;          /* enum vhk_frontend_event */

static void close_all(void) {
        blk = vhk_blk_close(blk);
        net = vhk_net_close(net);
        scsi = vhk_scsi_close(scsi);
        vsock = vhk_vsock_close(vsock);
}

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_events++;
        if ((int)ev == close_at)
                close_all();
}

static int open_blk(struct vhk_error *ret_e) {
        struct vhk_blk_options o = { .size = sizeof(o), .frontend = &front, .n_queues = N_QUEUES };

        return vhk_blk_open(ends.front, &o, &blk, ret_e);
}
static int open_net(struct vhk_error *ret_e) {
        struct vhk_net_options o = { .size = sizeof(o), .frontend = &front };

        return vhk_net_open(ends.front, &o, &net, ret_e);
}
static int open_scsi(struct vhk_error *ret_e) {
        struct vhk_scsi_options o = { .size = sizeof(o), .frontend = &front };

        return vhk_scsi_open(ends.front, &o, &scsi, ret_e);
}
static int open_vsock(struct vhk_error *ret_e) {
        struct vhk_vsock_options o = { .size = sizeof(o), .frontend = &front };

        return vhk_vsock_open(ends.front, &o, &vsock, ret_e);
}

static struct vhk_frontend *frontend(void) {
        return blk ? vhk_blk_get_frontend(blk) : net ? vhk_net_get_frontend(net) : scsi ? vhk_scsi_get_frontend(scsi) : vhk_vsock_get_frontend(vsock);
}

static void begin(uint32_t virtio_id, int (*open)(struct vhk_error *ret_e)) {
        struct vhk_error e;

        ops.virtio_id = virtio_id;
        ops.features = virtio_id == 2 ? VHK_BIT(BLK_F_MQ) : 0;
        device.n = 0;
        device.release.fn = release;
        n_events = 0;
        CHECK_OK(pair_open(&ends, &(struct pair_options){ .ops = &ops, .without_front = true }));
        front.size = sizeof(front);
        front.on_event = on_event;
        front.limit_ns = front.limit_ns ? front.limit_ns : 20 * S;
        CHECK_MSG(open(&e) == 0, "%s", e.text);
}

static void end(void) {
        close_all();
        vhk_worker_post(ends.control.w, &device.release);
        pair_close(&ends);
        device.takes = false;
        front = (struct vhk_frontend_options){ .size = 0 };
}

static void stop_back_end(void) {
        struct pollfd p = { .fd = vhk_frontend_get_fd(frontend()), .events = POLLIN };

        CHECK_OK(vhk_backend_stop(ends.b, VHK_STOP_DRAIN, 0));
        CHECK_EQ(poll(&p, 1, 20000), 1);
}

static uint64_t now(clockid_t clock) {
        struct timespec t;

        clock_gettime(clock, &t);
        return (uint64_t)t.tv_sec * S + (uint64_t)t.tv_nsec;
}

/* ---- closing from inside of a callback ---- */

static struct vhk_blk_queue *blk_queue(unsigned i) {
        struct vhk_blk_queue *q;

        CHECK_OK(vhk_blk_get_queue(blk, i, &q));
        return q;
}

static struct vhk_net_queue *net_queue(void) {
        struct vhk_net_queue *q;

        CHECK_OK(vhk_net_get_queue(net, 0, &q));
        return q;
}

static int submit(unsigned queue) {
        struct iovec v = { vhk_blk_alloc(blk, 512), 512 };

        return vhk_blk_submit(blk_queue(queue), &(struct vhk_blk_io){ .op = VHK_BLK_READ, .iov = &v, .n_iov = 1 }, 1);
}

static uint8_t buf[4096];
static int call_pread(void) { return (int)vhk_blk_pread(blk, buf, 512, 0); }
static int call_pwrite(void) { return (int)vhk_blk_pwrite(blk, buf, 512, 0); }
static int call_blk_info(void) { return vhk_blk_get_info(blk, &(struct vhk_blk_info){ .size = sizeof(struct vhk_blk_info) }) ?: -EPIPE; }
static int call_blk_alloc(void) { return vhk_blk_alloc(blk, 64 << 20) ? 0 : -EPIPE; }
static int call_blk_reap(void) {
        struct vhk_blk_done done;

        CHECK_EQ(submit(1), 1);
        return vhk_blk_reap(blk_queue(1), &done, 1, -1);
}
static int call_blk_loop(void) {
        struct vhk_blk_queue *q = blk_queue(1);
        struct pollfd p = { .fd = vhk_blk_queue_get_fd(q), .events = POLLIN };
        struct vhk_blk_done done;

        CHECK_EQ(poll(&p, 1, 20000), 1);
        return vhk_blk_reap(q, &done, 1, 0);
}
static int call_net_receive(void) { return vhk_net_receive(net_queue(), &(struct vhk_net_frame){ .len = 0 }, 1, -1); }
static int call_net_info(void) { return vhk_net_get_info(net, &(struct vhk_net_info){ .size = sizeof(struct vhk_net_info) }) ?: -EPIPE; }
static int call_net_reap(void) {
        static uint8_t frame[64];
        struct iovec v = { frame, sizeof(frame) };
        void *cookie;

        CHECK_EQ(vhk_net_send(net_queue(), &(struct vhk_net_frame){ .iov = &v, .n_iov = 1, .cookie = frame }, 1), 1);
        return vhk_net_reap(net_queue(), &cookie, 1, -1);
}
static int call_scsi_reap(void) { return vhk_scsi_reap(scsi, &(struct vhk_scsi_result){ .error = 0 }, 1); }
static int call_scsi_execute(void) {
        static const uint8_t cdb[6];
        struct vhk_scsi_command c = { .size = sizeof(c), .cdb = cdb, .cdb_len = 6 };

        return vhk_scsi_execute(scsi, &c, &(struct vhk_scsi_result){ .error = 0 });
}
static int call_vsock_dispatch(void) { return vhk_vsock_dispatch(vsock); }

static const struct call {
        const char *name;
        uint32_t virtio_id;
        int (*open)(struct vhk_error *ret_e);
        int (*fn)(void);
} calls[] = {
        { "pread", 2, open_blk, call_pread }, { "pwrite", 2, open_blk, call_pwrite }, { "info", 2, open_blk, call_blk_info },
        { "alloc", 2, open_blk, call_blk_alloc }, { "reap", 2, open_blk, call_blk_reap }, { "loop", 2, open_blk, call_blk_loop },
        { "receive", 1, open_net, call_net_receive }, { "info", 1, open_net, call_net_info }, { "reap", 1, open_net, call_net_reap },
        { "reap", 8, open_scsi, call_scsi_reap }, { "execute", 8, open_scsi, call_scsi_execute }, { "dispatch", 19, open_vsock, call_vsock_dispatch },
};

TEST(a_device_may_be_closed_where_its_end_is_reported) {
        close_at = VHK_FRONTEND_GONE;
        for (size_t i = 0; i < VHK_N(calls); i++) {
                begin(calls[i].virtio_id, calls[i].open);
                stop_back_end();
                int k = calls[i].fn();
                CHECK_MSG(k == -EPIPE, "%s of device %u: %d", calls[i].name, calls[i].virtio_id, k);
                CHECK(!blk && !net && !scsi && !vsock);
                CHECK_EQ(n_events, 1);
                end();
        }
        close_at = -1;
}

TEST(a_device_may_be_closed_where_a_change_is_reported) {
        close_at = VHK_FRONTEND_CONFIG_CHANGED;
        for (size_t i = 0; i < VHK_N(calls); i++) {
                if (calls[i].fn != call_blk_info && calls[i].fn != call_blk_loop && calls[i].fn != call_net_info && calls[i].fn != call_scsi_reap &&
                    calls[i].fn != call_vsock_dispatch)
                        continue;       /* it would wait for an answer that does not come */
                begin(calls[i].virtio_id, calls[i].open);
                struct pollfd p = { .fd = vhk_frontend_get_fd(frontend()), .events = POLLIN };
                CHECK_OK(vhk_host_config_changed(device.host));
                CHECK_EQ(poll(&p, 1, 20000), 1);
                for (int j = 0; j < 20000 && (blk || net || scsi || vsock); j++) {
                        calls[i].fn();
                        usleep(1000);
                }
                CHECK(!blk && !net && !scsi && !vsock);
                end();
        }
        close_at = -1;
}

/* ---- a back-end that has gone, or does not answer ---- */

TEST(closing_looks_for_no_back_end) {
        struct vhk_blk_done done;

        close_at = -1;
        front.limit_ns = 5 * S;
        front.reconnect_ns = 3600 * S;
        begin(2, open_blk);
        CHECK_EQ(submit(0), 1);
        stop_back_end();
        CHECK_EQ(vhk_blk_reap(blk_queue(0), &done, 1, 50), 0);          /* it is looked for */
        uint64_t at = now(CLOCK_MONOTONIC);
        blk = vhk_blk_close(blk);
        CHECK(now(CLOCK_MONOTONIC) - at < 5 * S);                       /* not even the limit of one call */
        end();
}

TEST(closing_waits_for_a_silent_device_once) {
        front.limit_ns = 4 * S;         /* opening has to do with it, too */
        front.reconnect_ns = 3600 * S;
        device.takes = true;
        begin(2, open_blk);
        for (unsigned i = 0; i < N_QUEUES; i++)
                CHECK_EQ(submit(i), 1);
        uint64_t at = now(CLOCK_MONOTONIC);
        blk = vhk_blk_close(blk);                                       /* each ring would wait for its request */
        CHECK(now(CLOCK_MONOTONIC) - at < 10 * S);
        end();
}

/* ---- another thread is in the front-end ---- */

/* Accepts, and does not answer: the search for a back-end gets as far as the handshake. */
static int listen_silently(void) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        CHECK(s >= 0);
        unlink(ends.front);
        snprintf(a.sun_path, sizeof(a.sun_path), "%s", ends.front);
        CHECK_OK(bind(s, (const struct sockaddr *)&a, sizeof(a)));
        CHECK_OK(listen(s, 100));
        return s;
}

static bool stays;                      /* atomic */

static void *stay_in_front_end(void *arg) {
        while (__atomic_load_n(&stays, __ATOMIC_ACQUIRE))
                vhk_blk_alloc(blk, 64 << 20);   /* waits for a back-end as long as a call may take */
        return NULL;
}

TEST(a_queue_sleeps_while_another_thread_is_in_the_front_end) {
        struct vhk_blk_done done;
        unsigned n_wake_ups = 0;
        pthread_t thread;

        front.limit_ns = 5 * S;
        front.reconnect_ns = 3600 * S;
        begin(2, open_blk);
        CHECK_EQ(submit(1), 1);
        stop_back_end();
        struct pollfd silent = { .fd = listen_silently(), .events = POLLIN };
        __atomic_store_n(&stays, true, __ATOMIC_RELEASE);
        CHECK_EQ(pthread_create(&thread, NULL, stay_in_front_end, NULL), 0);
        CHECK_EQ(poll(&silent, 1, 20000), 1);                           /* it is in there */
        uint64_t cpu = now(CLOCK_THREAD_CPUTIME_ID);
        CHECK_EQ(vhk_blk_reap(blk_queue(1), &done, 1, 1500), 0);
        cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
        /* ... and in the caller's own loop */
        struct pollfd p = { .fd = vhk_blk_queue_get_fd(blk_queue(1)), .events = POLLIN };
        for (uint64_t at = now(CLOCK_MONOTONIC); now(CLOCK_MONOTONIC) - at < 3 * S / 2;)
                if (poll(&p, 1, 100) > 0) {
                        n_wake_ups++;
                        CHECK_EQ(vhk_blk_reap(blk_queue(1), &done, 1, 0), 0);
                }
        __atomic_store_n(&stays, false, __ATOMIC_RELEASE);
        pthread_join(thread, NULL);
        close(silent.fd);
        unlink(ends.front);
        CHECK_MSG(cpu < S / 10, "%llu ms of CPU", (unsigned long long)cpu / 1000000);
        CHECK_MSG(n_wake_ups < 100, "%u wake-ups", n_wake_ups);
        end();
}
