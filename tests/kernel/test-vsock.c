/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-vsock of the kernel that runs here: sockets of the host's side (AF_VSOCK, address 2) and streams of ours, a guest with address
 * 3, talk both ways. Needs root; skipped without /dev/vhost-vsock.
 */
#include "base/test.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <linux/vm_sockets.h>
#include <vhostkit/kernel.h>
#include <vhostkit/migration.h>
#include <vhostkit/sys.h>
#include <vhostkit/vsock.h>

#include "base/base.h"

#define MIB (1ull << 20)
#define STREAM_BYTES (100 * MIB)
#define CHUNK 65536u
#define CID 3u
#define PORT 1234u

static struct vhk_vsock *v;
static struct vhk_error err;
static struct vhk_frontend_options front;
static struct vhk_vsock_options options;

static uint64_t now_ms(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void on_trace(void *arg, enum vhk_log_level level, const char *text) {
        printf("  %s\n", text);
}

static void begin(void) {
        front = (struct vhk_frontend_options){ .size = sizeof(front), .iommu = front.iommu, .trace = getenv("VHK_TRACE") ? on_trace : NULL };
        options.size = sizeof(options);
        options.frontend = &front;
        options.cid = CID;
        int k = vhk_vsock_open("vhost-vsock:", &options, &v, &err);
        if (k == -ENOENT || k == -ENODEV || k == -EACCES)
                SKIP(err.text);
        CHECK_MSG(k == 0, "%s", err.text);
}

static void end(void) {
        v = vhk_vsock_close(v);
        options = (struct vhk_vsock_options){ 0 };
        front = (struct vhk_frontend_options){ 0 };
}

static void dispatch(int ms) {
        struct pollfd p = { .fd = vhk_vsock_get_fd(v), .events = POLLIN };

        if (ms)
                poll(&p, 1, ms);
        CHECK_OK(vhk_vsock_dispatch(v));
}

/* ---- the host's side ---- */

static int host_socket(void) {
        int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

        CHECK(s >= 0);
        return s;
}

static struct sockaddr_vm address(unsigned cid, unsigned port) {
        return (struct sockaddr_vm){ .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
}

static uint64_t word_at(uint64_t seed, uint64_t i) {
        return (i + seed) * 0x9e3779b97f4a7c15ull ^ i >> 7;
}

static void fill(uint64_t *buf, uint64_t seed, uint64_t at) {
        for (unsigned i = 0; i < CHUNK / 8; i++)
                buf[i] = word_at(seed, at / 8 + i);
}

static bool is_right(const uint64_t *buf, uint64_t seed, uint64_t at) {
        bool right = true;

        for (unsigned i = 0; i < CHUNK / 8; i++)
                right &= buf[i] == word_at(seed, at / 8 + i);
        return right;
}

struct host {
        int s;
        uint64_t n, received;
        int fault;
};

static void *host_sends(void *arg) {
        static uint64_t buf[CHUNK / 8];
        struct host *h = arg;

        for (uint64_t at = 0; at < h->n && !h->fault; at += CHUNK) {
                fill(buf, 1, at);
                for (size_t off = 0; off < CHUNK && !h->fault;) {
                        ssize_t k = send(h->s, (uint8_t *)buf + off, CHUNK - off, MSG_NOSIGNAL);
                        if (k <= 0)
                                h->fault = errno;
                        else
                                off += (size_t)k;
                }
        }
        shutdown(h->s, SHUT_WR);
        return NULL;
}

static void *host_receives(void *arg) {
        static uint64_t buf[CHUNK / 8];
        struct host *h = arg;

        for (; h->received < h->n && !h->fault; h->received += CHUNK) {
                for (size_t off = 0; off < CHUNK && !h->fault;) {
                        ssize_t k = recv(h->s, (uint8_t *)buf + off, CHUNK - off, 0);
                        if (k <= 0)
                                h->fault = k < 0 ? errno : EPIPE;
                        else
                                off += (size_t)k;
                }
                if (!h->fault && !is_right(buf, 2, h->received))
                        h->fault = EBADMSG;
        }
        if (!h->fault && recv(h->s, buf, 1, 0) != 0)
                h->fault = EXFULL;              /* and nothing more */
        return NULL;
}

static void *host_connects(void *arg) {
        struct sockaddr_vm to = address(CID, PORT);
        struct host *h = arg;

        if (connect(h->s, (struct sockaddr *)&to, sizeof(to)) < 0)
                h->fault = errno;
        return NULL;
}

/* The host calls, and we accept. */
static struct vhk_vsock_stream *accept_from(struct host *h) {
        struct vhk_vsock_stream *s = NULL;
        pthread_t t;
        uint64_t cid;
        uint32_t port;
        int k = -EAGAIN;

        h->s = host_socket();
        CHECK_EQ(pthread_create(&t, NULL, host_connects, h), 0);
        for (uint64_t limit = now_ms() + 10000; k == -EAGAIN && now_ms() < limit;) {
                dispatch(100);
                k = vhk_vsock_accept(v, PORT, &s);
        }
        dispatch(0);
        pthread_join(t, NULL);
        CHECK_OK(k);
        CHECK_EQ(h->fault, 0);
        vhk_vsock_stream_get_peer(s, &cid, &port);
        CHECK_EQ(cid, VHK_VSOCK_HOST);
        return s;
}

/* ---- the stream ---- */

struct ours {
        struct vhk_vsock_stream *s;
        uint64_t sent, received;
        uint64_t out[CHUNK / 8], in[CHUNK / 8];
        size_t out_at, in_at;
        bool ended;
};

/* What can be done now; was anything? */
static bool move(struct ours *o, uint64_t n) {
        bool any = false;
        int k;

        if (o->sent < n) {
                if (!o->out_at)
                        fill(o->out, 2, o->sent);
                k = vhk_vsock_stream_send(o->s, (uint8_t *)o->out + o->out_at, CHUNK - o->out_at);
                CHECK_MSG(k > 0 || k == -EAGAIN, "send: %d after %llu bytes", k, (unsigned long long)(o->sent + o->out_at));
                any |= k > 0;
                o->out_at += k > 0 ? (size_t)k : 0;
                if (o->out_at == CHUNK) {
                        o->out_at = 0;
                        o->sent += CHUNK;
                        if (o->sent == n)
                                CHECK_OK(vhk_vsock_stream_shutdown(o->s));
                }
        }
        if (!o->ended) {
                k = vhk_vsock_stream_recv(o->s, (uint8_t *)o->in + o->in_at, CHUNK - o->in_at);
                CHECK_MSG(k >= 0 || k == -EAGAIN, "recv: %d after %llu bytes", k, (unsigned long long)(o->received + o->in_at));
                o->ended = k == 0;
                any |= k > 0;
                o->in_at += k > 0 ? (size_t)k : 0;
                if (o->in_at == CHUNK) {
                        CHECK_MSG(is_right(o->in, 1, o->received), "wrong bytes after %llu", (unsigned long long)o->received);
                        o->in_at = 0;
                        o->received += CHUNK;
                }
        }
        return any;
}

static void both_ways(struct host *h, struct vhk_vsock_stream *s, uint64_t n) {
        static struct ours o;
        struct host receiver = { .s = h->s, .n = n };
        pthread_t t[2];
        uint64_t from = now_ms();
        bool stopped = false;

        o = (struct ours){ .s = s };
        h->n = n;
        CHECK_EQ(pthread_create(&t[0], NULL, host_sends, h), 0);
        CHECK_EQ(pthread_create(&t[1], NULL, host_receives, &receiver), 0);
        while ((o.sent < n || !o.ended) && now_ms() < from + 200000) {
                bool any = move(&o, n);
                dispatch(any ? 0 : 1000);
                if (!stopped && o.received > n / 2) {           /* rings stay as they are meanwhile */
                        CHECK_OK(vhk_frontend_vsock_set_running(vhk_vsock_get_frontend(v), 0));
                        CHECK_OK(vhk_frontend_vsock_set_running(vhk_vsock_get_frontend(v), 1));
                        stopped = true;
                }
        }
        uint64_t ms = now_ms() - from;
        bool done = o.sent == n && o.ended;
        if (!done)
                shutdown(h->s, SHUT_RDWR);
        pthread_join(t[0], NULL);
        pthread_join(t[1], NULL);
        printf("  %llu MiB there and %llu MiB back in %llu ms\n", (unsigned long long)(receiver.received / MIB), (unsigned long long)(o.received / MIB),
               (unsigned long long)ms);
        CHECK(done && stopped);
        CHECK_EQ(o.received, n);
        CHECK_EQ(o.in_at, 0);
        CHECK_EQ(receiver.received, n);
        CHECK_EQ(h->fault, 0);
        CHECK_EQ(receiver.fault, 0);
        close(h->s);
        vhk_vsock_stream_free(s);
        dispatch(10);
}

TEST(two_times_100_mib_called_by_the_host) {
        struct host h = { 0 };

        begin();
        CHECK_OK(vhk_vsock_listen(v, PORT));
        struct vhk_vsock_stream *s = accept_from(&h);
        both_ways(&h, s, STREAM_BYTES);
        end();
}

/* Our call: the host's backlog takes it before anybody accepts. */
static struct vhk_vsock_stream *call_host(struct host *h, int listener) {
        struct vhk_vsock_stream *s;
        struct pollfd p = { .fd = listener, .events = POLLIN };
        uint8_t byte;

        CHECK_OK(vhk_vsock_connect(v, VHK_VSOCK_HOST, PORT, &s));
        CHECK_EQ(vhk_vsock_stream_recv(s, &byte, 1), -EAGAIN);
        for (uint64_t limit = now_ms() + 10000; poll(&p, 1, 0) == 0 && now_ms() < limit;)
                dispatch(100);
        CHECK(p.revents & POLLIN);
        h->s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        CHECK(h->s >= 0);
        return s;
}

static int host_listens(void) {
        struct sockaddr_vm a = address(VMADDR_CID_ANY, PORT);
        int s = host_socket();

        CHECK_OK(bind(s, (struct sockaddr *)&a, sizeof(a)));
        CHECK_OK(listen(s, 8));
        return s;
}

TEST(two_times_20_mib_called_by_us_in_small_packets_and_room) {
        struct host h = { 0 };

        options.packet = 4096;
        options.room = 32768;
        options.queue_size = 32;
        begin();
        int listener = host_listens();
        struct vhk_vsock_stream *s = call_host(&h, listener);
        both_ways(&h, s, 20 * MIB);
        close(listener);
        end();
}

TEST(ten_mib_through_translations) {
        struct host h = { 0 };

        front.iommu = 1;
        begin();
        struct vhk_frontend_info i = { .size = sizeof(i) };
        CHECK_OK(vhk_frontend_get_info(vhk_vsock_get_frontend(v), &i));
        CHECK(i.acked & VHK_BIT(33));
        CHECK_OK(vhk_vsock_listen(v, PORT));
        struct vhk_vsock_stream *s = accept_from(&h);
        both_ways(&h, s, 10 * MIB);
        end();
}

/* ---- manners ---- */

TEST(nobody_listens) {
        struct vhk_vsock_stream *s;
        struct host h = { 0 };
        uint8_t byte = 0;
        int k = -EAGAIN;

        begin();
        CHECK_OK(vhk_vsock_connect(v, VHK_VSOCK_HOST, 4321, &s));
        for (uint64_t limit = now_ms() + 10000; k == -EAGAIN && now_ms() < limit;) {
                dispatch(100);
                k = vhk_vsock_stream_send(s, &byte, 1);
        }
        CHECK_EQ(k, -ECONNREFUSED);
        CHECK_EQ(vhk_vsock_stream_recv(s, &byte, 1), -ECONNREFUSED);
        vhk_vsock_stream_free(s);
        pthread_t t;
        h.s = host_socket();
        CHECK_EQ(pthread_create(&t, NULL, host_connects, &h), 0);
        for (uint64_t limit = now_ms() + 10000; !__atomic_load_n(&h.fault, __ATOMIC_RELAXED) && now_ms() < limit;)
                dispatch(100);
        pthread_join(t, NULL);
        CHECK_EQ(h.fault, ECONNRESET);
        close(h.s);
        end();
}

TEST(the_host_goes_away) {
        struct vhk_vsock_stream *s;
        struct host h = { 0 };
        uint8_t bytes[100];
        int k = -EAGAIN;

        begin();
        CHECK_OK(vhk_vsock_listen(v, PORT));
        s = accept_from(&h);
        CHECK_EQ(send(h.s, "hello", 5, 0), 5);
        close(h.s);
        for (uint64_t limit = now_ms() + 10000; k == -EAGAIN && now_ms() < limit;) {
                dispatch(100);
                k = vhk_vsock_stream_recv(s, bytes, sizeof(bytes));
        }
        CHECK_EQ(k, 5);
        k = -EAGAIN;
        for (uint64_t limit = now_ms() + 10000; k == -EAGAIN && now_ms() < limit;) {
                dispatch(100);
                k = vhk_vsock_stream_recv(s, bytes, sizeof(bytes));
        }
        CHECK_EQ(k, 0);
        CHECK_EQ(vhk_vsock_stream_send(s, bytes, 1), -EPIPE);
        vhk_vsock_stream_free(s);
        h = (struct host){ 0 };
        s = accept_from(&h);                    /* and the next one comes */
        vhk_vsock_stream_free(s);
        dispatch(10);
        for (uint64_t limit = now_ms() + 10000; now_ms() < limit && recv(h.s, bytes, 1, MSG_DONTWAIT) < 0;)
                dispatch(10);
        CHECK_EQ(recv(h.s, bytes, 1, MSG_DONTWAIT), 0);
        close(h.s);
        end();
}

TEST(addresses) {
        struct vhk_vsock *other;
        struct vhk_vsock_options o = { .size = sizeof(o), .cid = CID };

        begin();
        CHECK_EQ(vhk_vsock_get_cid(v), CID);
        CHECK_EQ(vhk_vsock_open("vhost-vsock:", &o, &other, &err), -EADDRINUSE);
        o.cid = 2;
        CHECK_EQ(vhk_vsock_open("vhost-vsock:", &o, &other, &err), -EINVAL);
        CHECK(strstr(err.text, "VHOST_VSOCK_SET_GUEST_CID"));
        o.cid = 1ull << 32;
        CHECK_EQ(vhk_vsock_open("vhost-vsock:", &o, &other, &err), -EINVAL);
        o.cid = 0;
        CHECK_EQ(vhk_vsock_open("vhost-vsock:", &o, &other, &err), -EINVAL);
        o.cid = CID + 1;
        CHECK_OK(vhk_vsock_open("vhost-vsock:", &o, &other, &err));
        other = vhk_vsock_close(other);
        end();
}

/*
 * Why there is no VHK_CAP_LOG: the kernel takes LOG_ALL, but does not mark what it writes to buffers. When this fails, it has learned it.
 * Past the library: the descriptor is ours too.
 */
TEST(the_kernel_does_not_mark_data) {
        static uint8_t bytes[CHUNK];
        struct vhk_dirty_log *log;
        struct vhk_frontend_info i = { .size = sizeof(i) };
        struct host h = { 0 };
        uint64_t gpa, len, n = 0;

        begin();
        end();
        front = (struct vhk_frontend_options){ .size = sizeof(front), .has_fd = 1, .fd = open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC) };
        VHK_AUTOCLOSE int fd = fcntl(front.fd, F_DUPFD_CLOEXEC, 0);
        options = (struct vhk_vsock_options){ .size = sizeof(options), .frontend = &front, .cid = CID };
        CHECK_MSG(vhk_vsock_open("vhost-vsock:", &options, &v, &err) == 0, "%s", err.text);
        CHECK_OK(vhk_frontend_get_info(vhk_vsock_get_frontend(v), &i));
        CHECK(!(i.capabilities & VHK_CAP_LOG));
        CHECK_OK(vhk_dirty_log_new(64 * MIB, &log));
        uint8_t *bits = mmap(NULL, vhk_dirty_log_get_size(log), PROT_READ | PROT_WRITE, MAP_SHARED, vhk_dirty_log_get_fd(log), 0);
        CHECK(bits != MAP_FAILED);
        CHECK_OK(vhk_sys_vhost_set_log_base(fd, (uintptr_t)bits));
        int k = vhk_sys_vhost_set_features(fd, i.acked | 1u << 26);
        CHECK_OK(vhk_vsock_listen(v, PORT));
        struct vhk_vsock_stream *s = accept_from(&h);
        CHECK_EQ(send(h.s, bytes, CHUNK, 0), CHUNK);
        for (unsigned got = 0; got < CHUNK;) {
                int r = vhk_vsock_stream_recv(s, bytes, CHUNK);
                CHECK(r > 0 || r == -EAGAIN);
                got += r > 0 ? (unsigned)r : 0;
                dispatch(r > 0 ? 0 : 1000);
        }
        while (vhk_dirty_log_take(log, 0, &gpa, &len) == 1)
                n += len / 4096;
        printf("  LOG_ALL: %d, %llu of %u pages of data marked\n", k, (unsigned long long)n, CHUNK / 4096);
        CHECK(n < CHUNK / 4096);
        vhk_vsock_stream_free(s);
        dispatch(10);
        close(h.s);
        end();
        munmap(bits, vhk_dirty_log_get_size(log));
        vhk_dirty_log_free(log);
}

TEST(running_before_rings_is_a_fault) {
        struct vhk_frontend *f;
        struct vhk_frontend_options fo = { .size = sizeof(fo) };

        begin();
        CHECK_OK(vhk_frontend_open("vhost-vsock:", &fo, &f, &err));
        CHECK_EQ(vhk_frontend_vsock_set_running(f, 1), -EFAULT);
        CHECK_EQ(vhk_frontend_set_backend(f, 0, -1), -EOPNOTSUPP);
        vhk_frontend_close(f);
        end();
}
