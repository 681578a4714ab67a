/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The vsock driver against a device of this process that says what it should not. A connection to port N of the host is answered with
 * the N-th row's packets. tests/kernel/test-vsock.c has an honest one, the kernel's.
 */
#include <endian.h>
#include <poll.h>
#include <time.h>

#include <vhostkit/vsock.h>

#include "base/base.h"
#include "pair.h"

#define CID 5u
#define ROOM 8192u
#define PAYLOAD 3000u
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };

struct header {
        uint64_t src_cid, dst_cid;
        uint32_t src_port, dst_port, len;
        uint16_t type, op;
        uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

/* A packet of the device's; what is 0 is as it should be. */
struct packet {
        uint16_t op, times;
        uint16_t type;
        uint32_t len, used;             /* len: of the payload, PAYLOAD at most is there; used: what the ring says */
        uint32_t flags, fwd_cnt;
        bool no_credit, other_cid, other_port, event;
        uint32_t cid;                   /* guest_cid from then on */
};

enum {
        SHORT_PACKET = 1, LENGTH_BEYOND_PACKET, REFUSES, UNKNOWN_OP, TWO_RESPONSES, DATA_BEFORE_RESPONSE, TOO_MUCH_DATA, DATA_AFTER_SHUTDOWN,
        SHUTDOWN_BEHIND_DATA, NO_CREDIT, NONSENSE_CREDIT, WRONG_ADDRESS, WRONG_TYPE, STRANGERS, ASKS_FOR_CREDIT, TRANSPORT_RESET, CALLS_IN_CROWDS,
        RESET_BEHIND_DATA, DATA, NEW_CID, N_ROWS,
};
static const struct packet rows[N_ROWS][5] = {
        [SHORT_PACKET] = { { RESPONSE, .used = 43 } },
        [LENGTH_BEYOND_PACKET] = { { RW, .len = 5, .used = 48 } },
        [REFUSES] = { { RST } },
        [UNKNOWN_OP] = { { RESPONSE }, { 77 } },
        [TWO_RESPONSES] = { { RESPONSE }, { RESPONSE } },
        [DATA_BEFORE_RESPONSE] = { { RW, .len = 5 } },
        [TOO_MUCH_DATA] = { { RESPONSE }, { RW, .len = PAYLOAD, .times = 3 } },
        [DATA_AFTER_SHUTDOWN] = { { RESPONSE }, { SHUTDOWN, .flags = 2 }, { RW, .len = 5 } },
        [SHUTDOWN_BEHIND_DATA] = { { RESPONSE }, { RW, .len = 100 }, { SHUTDOWN, .flags = 3 } },
        [NO_CREDIT] = { { RESPONSE, .no_credit = true } },
        [NONSENSE_CREDIT] = { { RESPONSE, .fwd_cnt = 1u << 31 } },
        [WRONG_ADDRESS] = { { RESPONSE, .other_cid = true } },
        [WRONG_TYPE] = { { RESPONSE }, { RW, .len = 5, .type = 2 } },
        [STRANGERS] = { { RW, .len = 5, .other_port = true, .times = 500 }, { RST, .other_port = true, .times = 100 }, { RESPONSE } },
        [ASKS_FOR_CREDIT] = { { RESPONSE }, { CREDIT_REQUEST, .times = 10 } },
        [TRANSPORT_RESET] = { { .event = true } },
        [CALLS_IN_CROWDS] = { { REQUEST, .other_port = true, .times = 300 }, { RESPONSE } },
        [RESET_BEHIND_DATA] = { { RESPONSE }, { RW, .len = 100 }, { RST } },
        [DATA] = { { RESPONSE }, { RW, .len = 100 } },
        [NEW_CID] = { { .event = true, .cid = 77 } },
};

/* ---- the device: all on the control thread ---- */

static struct {
        struct vhk_queue *q[3];
        const struct packet *row;
        unsigned at, done;              /* packet of the row, times it was said */
        struct header request;
        unsigned seen[8];               /* atomic: by operation */
        uint32_t room;                  /* of the last credit update, atomic */
        uint64_t n_bytes;               /* atomic */
        unsigned n_rows_done;           /* atomic */
        uint32_t cid;
        bool is_deaf;                   /* what the driver sends after its request stays in the ring; set before the device runs */
} device;

static int say(struct vhk_req *r, const struct packet *p) {
        static uint8_t payload[PAYLOAD];
        struct header h = {
                .src_cid = htole64(2), .dst_cid = htole64(p->other_cid ? 99 : CID), .src_port = device.request.dst_port, .dst_port = device.request.src_port,
                .len = htole32(p->len), .type = htole16(p->type ? p->type : 1), .op = htole16(p->op), .flags = htole32(p->flags),
                .buf_alloc = htole32(p->no_credit ? 0 : 1 << 20), .fwd_cnt = htole32(p->fwd_cnt),
        };

        if (p->other_port) {
                h.src_port = htole32(100000 + device.done);
                h.dst_port = htole32(80);
        }
        vhk_req_write(r, 0, &h, sizeof(h));
        vhk_req_write(r, sizeof(h), payload, p->len);
        return p->used ? (int)p->used : (int)(sizeof(h) + p->len);
}

/* As far as there are buffers. */
static void go_on(void) {
        for (const struct packet *p; device.row && ((p = &device.row[device.at])->op || p->event);) {
                struct vhk_queue *q = device.q[p->event ? 2 : 0];
                struct vhk_req *r;
                if (!q)
                        return;
                if (vhk_queue_pop(q, &r, 1) != 1) {
                        if (vhk_queue_arm(q) != 1)      /* it may be another ring that runs */
                                return;
                        continue;
                }
                device.cid = p->cid ? p->cid : device.cid;
                vhk_queue_push(q, r, p->event ? 4 : (uint32_t)say(r, p));
                vhk_queue_flush(q);
                if (++device.done >= VHK_MAX((unsigned)p->times, 1u)) {
                        device.done = 0;
                        device.at++;
                }
        }
        if (device.row)
                __atomic_fetch_add(&device.n_rows_done, 1, __ATOMIC_RELEASE);
        device.row = NULL;
}

static void heard(struct vhk_req *r) {
        struct header h;

        vhk_req_read(r, 0, &h, sizeof(h));
        unsigned op = le16toh(h.op);
        __atomic_fetch_add(&device.seen[op % 8], 1, __ATOMIC_RELEASE);
        __atomic_fetch_add(&device.n_bytes, le32toh(h.len), __ATOMIC_RELAXED);
        if (op == CREDIT_UPDATE)
                __atomic_store_n(&device.room, le32toh(h.buf_alloc), __ATOMIC_RELEASE);
        if (op != REQUEST || device.row || le32toh(h.dst_port) >= N_ROWS)
                return;
        device.request = h;
        device.row = rows[le32toh(h.dst_port)];
        device.at = device.done = 0;
}

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r;

        while (vhk_queue_get_index(q) == 1 && !(device.is_deaf && device.row) && vhk_queue_pop(q, &r, 1) == 1) {
                heard(r);
                vhk_queue_push(q, r, 0);
                vhk_queue_flush(q);
        }
        go_on();
}

static int queue_start(void *arg, struct vhk_queue *q, struct vhk_worker *home) {
        device.q[vhk_queue_get_index(q)] = q;
        return 0;
}

static void queue_stopped(void *arg, struct vhk_queue *q) {
        device.q[vhk_queue_get_index(q)] = NULL;
        device.row = NULL;
}

static int get_config(void *arg, uint32_t off, void *buf, uint32_t n) {
        uint64_t cid = htole64(device.cid);

        memcpy(buf, (uint8_t *)&cid + off, n);
        return 0;
}

static const struct vhk_device_ops ops = {
        .size = sizeof(ops), .virtio_id = 19, .n_queues = 3, .queue_size_max = 256, .config_len = 8, .threads = VHK_THREADS_SINGLE,
        .queue_run = device_run, .queue_start = queue_start, .queue_stopped = queue_stopped, .get_config = get_config,
};

static unsigned seen(unsigned op) {
        return __atomic_load_n(&device.seen[op], __ATOMIC_ACQUIRE);
}

/* ---- the driver ---- */

static struct pair ends;
static struct vhk_vsock *v;
static struct vhk_vsock_options options;

static bool is_deaf;

static void begin(void) {
        struct vhk_error e;

        memset(&device, 0, sizeof(device));
        device.cid = CID;
        device.is_deaf = is_deaf;
        CHECK_MSG(pair_open(&ends, &(struct pair_options){ .ops = &ops }) == 0, "%s", ends.error.text);
        ends.f = vhk_frontend_close(ends.f);    /* the driver has one of its own */
        options.size = sizeof(options);
        options.queue_size = options.queue_size ? options.queue_size : 16;
        options.packet = 4096;
        options.room = ROOM;
        CHECK_MSG(vhk_vsock_open(ends.front, &options, &v, &e) == 0, "%s", e.text);
        CHECK_EQ(vhk_vsock_get_cid(v), CID);
}

static void end(void) {
        v = vhk_vsock_close(v);
        pair_close(&ends);
        options = (struct vhk_vsock_options){ 0 };
        is_deaf = false;
}

static uint64_t now_ms(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int dispatch(int ms) {
        struct pollfd p = { .fd = vhk_vsock_get_fd(v), .events = POLLIN };

        poll(&p, 1, ms);
        return vhk_vsock_dispatch(v);
}

/* Until @condition, while the driver works. */
#define UNTIL(condition)                                                                \
        do {                                                                            \
                for (uint64_t limit_ = now_ms() + 20000; !(condition) && now_ms() < limit_;)    \
                        CHECK_OK(dispatch(20));                                         \
                CHECK(condition);                                                       \
        } while (0)

static struct vhk_vsock_stream *call_row(uint32_t row) {
        struct vhk_vsock_stream *s;

        CHECK_OK(vhk_vsock_connect(v, VHK_VSOCK_HOST, row, &s));
        return s;
}

/* What recv() says at last, everything before it being read: *ret_n bytes. */
static int drain(struct vhk_vsock_stream *s, unsigned *ret_n) {
        uint8_t buf[ROOM];
        int k = -EAGAIN;

        *ret_n = 0;
        for (uint64_t limit = now_ms() + 20000; (k == -EAGAIN || k > 0) && now_ms() < limit;) {
                k = vhk_vsock_stream_recv(s, buf, sizeof(buf));
                *ret_n += k > 0 ? (unsigned)k : 0;
                if (k == -EAGAIN)
                        CHECK_OK(dispatch(20));
        }
        return k;
}

TEST(lengths_that_do_not_fit_end_the_device) {
        for (unsigned row = SHORT_PACKET; row <= LENGTH_BEYOND_PACKET; row++) {
                begin();
                struct vhk_vsock_stream *s = call_row(row);
                int k = 0;
                uint8_t byte;
                for (uint64_t limit = now_ms() + 20000; k >= 0 && now_ms() < limit;)
                        k = dispatch(20);
                CHECK_EQ(k, -EPIPE);
                CHECK_EQ(vhk_vsock_dispatch(v), -EPIPE);
                CHECK_EQ(vhk_vsock_stream_recv(s, &byte, 1), -EPIPE);
                CHECK(vhk_vsock_stream_send(s, &byte, 1) < 0);
                vhk_vsock_stream_free(s);
                v = vhk_vsock_close(v);
                end();
        }
}

TEST(wrong_packets_reset_their_stream_alone) {
        static const struct { unsigned row; int code; unsigned n; bool answered; } cases[] = {
                { REFUSES, -ECONNREFUSED, 0, false }, { UNKNOWN_OP, -ECONNRESET, 0, true }, { TWO_RESPONSES, -ECONNRESET, 0, true },
                { DATA_BEFORE_RESPONSE, -ECONNREFUSED, 0, true }, { TOO_MUCH_DATA, -ECONNRESET, 2 * PAYLOAD, true }, { DATA_AFTER_SHUTDOWN, 0, 0, true },
                { SHUTDOWN_BEHIND_DATA, 0, 100, true }, { RESET_BEHIND_DATA, -ECONNRESET, 100, false },
        };
        unsigned n, resets = 0;

        begin();
        struct vhk_vsock_stream *good = call_row(ASKS_FOR_CREDIT);
        UNTIL(seen(CREDIT_UPDATE) > 0);
        CHECK_EQ(__atomic_load_n(&device.room, __ATOMIC_ACQUIRE), ROOM);
        for (size_t i = 0; i < VHK_N(cases); i++) {
                struct vhk_vsock_stream *s = call_row(cases[i].row);
                if (cases[i].row == TOO_MUCH_DATA) {            /* nobody reads meanwhile */
                        resets++;
                        UNTIL(seen(RST) == resets);
                }
                int k = drain(s, &n);
                CHECK_MSG(k == cases[i].code && n == cases[i].n, "row %u: %d, %u bytes", cases[i].row, k, n);
                resets += cases[i].answered && cases[i].row != TOO_MUCH_DATA;
                UNTIL(seen(RST) == resets);
                CHECK(vhk_vsock_stream_send(s, "x", 1) == (k == -ECONNREFUSED ? k : -EPIPE));
                CHECK_EQ(vhk_vsock_stream_send(good, "x", 1), 1);
                vhk_vsock_stream_free(s);
        }
        struct vhk_vsock_stream *last = call_row(TRANSPORT_RESET);      /* the guest has moved */
        CHECK_EQ(drain(good, &n), -ECONNRESET);
        CHECK_EQ(drain(last, &n), -ECONNREFUSED);
        CHECK_EQ(vhk_vsock_stream_send(good, "x", 1), -EPIPE);
        CHECK_EQ(seen(RST), resets);
        vhk_vsock_stream_free(good);
        vhk_vsock_stream_free(last);
        end();
}

TEST(what_is_not_for_us_is_left_alone) {
        uint8_t byte;

        begin();
        struct vhk_vsock_stream *s = call_row(WRONG_ADDRESS);
        for (int i = 0; i < 5; i++)
                CHECK_OK(dispatch(20));
        CHECK_EQ(vhk_vsock_stream_recv(s, &byte, 1), -EAGAIN);
        CHECK_EQ(vhk_vsock_stream_send(s, &byte, 1), -EAGAIN);
        vhk_vsock_stream_free(s);
        UNTIL(seen(RST) == 1);                          /* we do not wait any more */
        s = call_row(WRONG_TYPE);
        UNTIL(seen(RST) == 2);
        CHECK_EQ(vhk_vsock_stream_send(s, "x", 1), 1);
        vhk_vsock_stream_free(s);
        end();
}

TEST(credit_is_kept_to) {
        uint8_t big[5000] = { 0 };

        begin();
        struct vhk_vsock_stream *s = call_row(NO_CREDIT), *t;
        for (int i = 0; i < 5; i++)
                CHECK_OK(dispatch(20));
        CHECK_EQ(vhk_vsock_stream_send(s, big, 1), -EAGAIN);
        t = call_row(NONSENSE_CREDIT);
        for (int i = 0; i < 5; i++)
                CHECK_OK(dispatch(20));
        CHECK_EQ(vhk_vsock_stream_send(t, big, 1), -EAGAIN);
        CHECK_EQ(seen(RW), 0);
        vhk_vsock_stream_free(s);
        vhk_vsock_stream_free(t);
        s = call_row(ASKS_FOR_CREDIT);
        UNTIL(seen(CREDIT_UPDATE) > 0);
        CHECK_EQ(vhk_vsock_stream_send(s, big, sizeof(big)), sizeof(big));      /* two packets */
        UNTIL(__atomic_load_n(&device.n_bytes, __ATOMIC_RELAXED) == sizeof(big));
        CHECK_EQ(seen(RW), 2);
        CHECK_OK(vhk_vsock_stream_shutdown(s));
        CHECK_EQ(vhk_vsock_stream_send(s, big, 1), -EPIPE);
        UNTIL(seen(SHUTDOWN) == 3);
        vhk_vsock_stream_free(s);
        end();
}

/* Each is told that nobody is there, though there are fewer slots than strangers; resets are not answered. */
TEST(strangers_in_crowds) {
        begin();
        struct vhk_vsock_stream *s = call_row(STRANGERS);
        UNTIL(seen(RST) == 500);
        UNTIL(vhk_vsock_stream_send(s, "x", 1) == 1);
        CHECK_EQ(seen(RST), 500);
        vhk_vsock_stream_free(s);
        end();
}

TEST(callers_in_crowds) {
        struct vhk_vsock_stream *s, *in;
        unsigned n = 0;

        begin();
        CHECK_OK(vhk_vsock_listen(v, 80));
        CHECK_EQ(vhk_vsock_listen(v, 80), -EADDRINUSE);
        CHECK_EQ(vhk_vsock_accept(v, 80, &in), -EAGAIN);
        CHECK_EQ(vhk_vsock_accept(v, 81, &in), -EINVAL);
        s = call_row(CALLS_IN_CROWDS);
        UNTIL(seen(RST) == 300 - 128);
        UNTIL(seen(RESPONSE) == 128);
        while (vhk_vsock_accept(v, 80, &in) == 0) {
                vhk_vsock_stream_free(in);
                n++;
        }
        CHECK_EQ(n, 128);
        UNTIL(seen(SHUTDOWN) == 128);
        vhk_vsock_stream_free(s);
        end();
}

TEST(dispatch_returns_while_nothing_can_be_received) {
        struct pollfd p;
        unsigned n = 0;

        is_deaf = true;                 /* resets for strangers find no slot, and then no place to wait */
        begin();
        struct vhk_vsock_stream *s = call_row(STRANGERS);
        for (uint64_t limit = now_ms() + 20000; n < 64 && now_ms() < limit;) {
                int k = dispatch(20);
                CHECK_OK(k);
                n += (unsigned)k;
        }
        CHECK(n >= 64);
        p = (struct pollfd){ .fd = vhk_vsock_get_fd(v), .events = POLLIN };
        for (int i = 0; i < 100 && poll(&p, 1, 100) > 0; i++)
                CHECK_OK(vhk_vsock_dispatch(v));
        CHECK_EQ(poll(&p, 1, 0), 0);    /* and the caller's loop sleeps */
        vhk_vsock_stream_free(s);
        end();
}

TEST(transport_reset_reads_the_cid_again) {
        uint8_t byte;

        begin();
        struct vhk_vsock_stream *s = call_row(NEW_CID);
        UNTIL(vhk_vsock_get_cid(v) == 77);
        CHECK_EQ(vhk_vsock_stream_recv(s, &byte, 1), -ECONNREFUSED);
        vhk_vsock_stream_free(s);
        end();
}

TEST(what_the_device_sent_last_is_received_before_its_end_is_reported) {
        uint8_t buf[200];
        int k = 0;

        begin();
        struct vhk_vsock_stream *s = call_row(DATA), *other;
        struct pollfd p = { .fd = vhk_frontend_get_fd(vhk_vsock_get_frontend(v)), .events = POLLIN };
        for (uint64_t limit = now_ms() + 20000; !__atomic_load_n(&device.n_rows_done, __ATOMIC_ACQUIRE) && now_ms() < limit;)
                usleep(1000);
        CHECK_OK(vhk_backend_stop(ends.b, VHK_STOP_DRAIN, 0));
        CHECK_EQ(poll(&p, 1, 20000), 1);
        for (uint64_t limit = now_ms() + 20000; k >= 0 && now_ms() < limit;)
                k = dispatch(20000);
        CHECK_EQ(k, -EPIPE);
        CHECK_EQ(vhk_vsock_stream_send(s, buf, 1), -EPIPE);
        CHECK_EQ(vhk_vsock_connect(v, VHK_VSOCK_HOST, DATA, &other), -EPIPE);
        CHECK_EQ(vhk_vsock_stream_recv(s, buf, sizeof(buf)), 100);
        CHECK_EQ(vhk_vsock_stream_recv(s, buf, sizeof(buf)), -EPIPE);
        vhk_vsock_stream_free(s);
        end();
}

TEST(streams_have_an_end) {
        struct vhk_vsock_stream *s[4], *one_more;

        options.max_streams = 4;
        begin();
        for (unsigned i = 0; i < 4; i++)
                s[i] = call_row(WRONG_ADDRESS);
        CHECK_EQ(vhk_vsock_connect(v, VHK_VSOCK_HOST, WRONG_ADDRESS, &one_more), -ENOBUFS);
        vhk_vsock_stream_free(s[0]);
        UNTIL(seen(RST) == 1);
        CHECK_OK(vhk_vsock_connect(v, VHK_VSOCK_HOST, WRONG_ADDRESS, &one_more));
        for (unsigned i = 1; i < 4; i++)
                vhk_vsock_stream_free(s[i]);
        vhk_vsock_stream_free(one_more);
        end();
}

TEST(wrong_options) {
        static const struct vhk_vsock_options wrong[] = {
                { .size = 8 }, { .size = sizeof(wrong[0]), .queue_size = 3 }, { .size = sizeof(wrong[0]), .packet = 100 },
                { .size = sizeof(wrong[0]), .room = 100 }, { .size = sizeof(wrong[0]), .packet = 70000 },
        };
        struct vhk_error e;

        for (size_t i = 0; i < VHK_N(wrong); i++)
                CHECK_EQ(vhk_vsock_open("/nonexistent", &wrong[i], &v, &e), -EINVAL);
        CHECK_EQ(vhk_vsock_open("/nonexistent", NULL, &v, &e), -ENOENT);
        v = vhk_vsock_close(NULL);
}
