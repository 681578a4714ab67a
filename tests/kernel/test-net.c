/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-net of the kernel that runs here, with its own stack as the peer: our rings answer ARP and ping; and two network
 * namespaces, each with a tap and a vhost-net of its own, talk TCP with each other through a bridge of ours that passes on every
 * frame from one card's receive ring to the other's transmit ring, in place. Needs root; skipped without /dev/vhost-net.
 */
#include "base/test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <vhostkit/migration.h>
#include <vhostkit/net.h>

#include "base/base.h"
#include "kernel/tap.h"

#define MIB (1u << 20)
#define F_MRG VHK_BIT(15)
#define F_INDIRECT VHK_BIT(28)
#define F_EVENT_IDX VHK_BIT(29)
#define F_VERSION_1 VHK_BIT(32)
#define F_PLATFORM VHK_BIT(33)
#define STREAM_BYTES (100ull * MIB)
#define ADDRESS_A 0x0a090001u           /* 10.9.0.1 */
#define ADDRESS_B 0x0a090002u

static struct vhk_frontend_options options;
static struct vhk_memory *memory;

static uint64_t now_ms(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void on_trace(void *arg, enum vhk_log_level level, const char *text) {
        printf("  %s\n", text);
}

static void init(void) {
        struct vhk_frontend *f;
        struct vhk_error e;

        int k = vhk_frontend_open("vhost-net:", NULL, &f, &e);
        if (k == -ENOENT || k == -ENODEV || k == -EACCES)
                SKIP(e.text);
        CHECK_MSG(k == 0, "%s", e.text);
        vhk_frontend_close(f);
        options = (struct vhk_frontend_options){ .size = sizeof(options), .trace = getenv("VHK_TRACE") ? on_trace : NULL };
        CHECK_OK(vhk_memory_new(&memory));
}

#define CHECK_CALL(p, call)                                                                                     \
        do {                                                                                                    \
                int k_ = (call);                                                                                \
                CHECK_MSG(k_ >= 0, "%s gave %d: %s", #call, k_, (p)->f ? vhk_frontend_get_error((p)->f)->text : strerror(-k_)); \
        } while (0)

/* ---- a guest of our own that knows ARP and ping ---- */

static const uint8_t our_mac[6] = { 0x52, 0x54, 0, 9, 0, 2 };
static unsigned n_arps, n_pings;

static uint16_t checksum(const uint8_t *p, size_t n) {
        uint32_t sum = 0;

        for (size_t i = 0; i + 1 < n; i += 2)
                sum += p[i] << 8 | p[i + 1];
        sum += n % 2 ? p[n - 1] << 8 : 0;
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return (uint16_t)~sum;
}

/* Makes the answer in place; its length, 0: none. */
static uint32_t answer(uint8_t *e, uint32_t n) {
        const uint8_t address[4] = { 10, 9, 0, 2 };
        uint8_t tmp[4];

        if (n >= 42 && e[12] == 8 && e[13] == 6 && e[21] == 1 && !memcmp(e + 38, address, 4)) {
                memcpy(tmp, e + 28, 4);
                memcpy(e + 32, e + 22, 6);              /* the asker is the target */
                memcpy(e + 38, tmp, 4);
                memcpy(e + 22, our_mac, 6);
                memcpy(e + 28, address, 4);
                e[21] = 2;
                n_arps++;
                n = 42;
        } else if (n >= 14 + 20 + 8 && e[12] == 8 && e[13] == 0 && e[23] == 1 && e[34] == 8 && !memcmp(e + 30, address, 4)) {
                memcpy(e + 30, e + 26, 4);
                memcpy(e + 26, address, 4);
                e[34] = 0;
                e[36] = e[37] = 0;
                uint32_t len = (uint32_t)(e[16] << 8 | e[17]) - 20;
                uint16_t sum = checksum(e + 34, len <= n - 34 ? len : n - 34);
                e[36] = (uint8_t)(sum >> 8);
                e[37] = (uint8_t)sum;
                n_pings++;
        } else {
                return 0;
        }
        memcpy(e, e + 6, 6);
        memcpy(e + 6, our_mac, 6);
        return n;
}

/* Frames that are there are answered; they are small, so each is one buffer. */
static void serve_once(struct port *p, int ms) {
        struct pollfd fds[] = { { vhk_drvq_get_fd(p->rx), POLLIN, 0 }, { vhk_drvq_get_fd(p->tx), POLLIN, 0 }, { vhk_frontend_get_fd(p->f), POLLIN, 0 } };
        struct net_buf *b;
        eventfd_t n_calls;
        int k;

        if (!vhk_drvq_arm(p->rx) && poll(fds, 3, ms) > 0)
                for (unsigned i = 0; i < 2; i++)
                        if (fds[i].revents)
                                eventfd_read(fds[i].fd, &n_calls);
        CHECK_CALL(p, vhk_frontend_dispatch(p->f));
        while ((b = port_receive(p, &k))) {
                CHECK(!b->next);
                uint32_t n = answer(b->data + NET_HEADER, b->len - NET_HEADER);
                if (!n) {
                        CHECK_CALL(p, port_give_back(b));
                        continue;
                }
                memset(b->data, 0, NET_HEADER);
                b->len = n + NET_HEADER;
                CHECK_CALL(p, port_forward(p, b));
        }
        CHECK_EQ(k, 0);
        CHECK_CALL(p, port_reap_sent(p));
}

/* The kernel pings whoever is served by @serve, @n times with that many bytes. */
static void ping_by(void (*serve)(void *), void *arg, unsigned n, size_t bytes) {
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(ADDRESS_B) };
        uint8_t out[2048], in[2048 + 60];
        VHK_AUTOCLOSE int s = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_ICMP);

        CHECK(s >= 0 && bytes <= sizeof(out));
        for (unsigned i = 0; i < n; i++) {
                for (size_t j = 0; j < bytes; j++)
                        out[j] = (uint8_t)(j * 7 + i);
                memcpy(out, (uint8_t[]){ ICMP_ECHO, 0, 0, 0, 0x12, 0x34, (uint8_t)(i >> 8), (uint8_t)i }, 8);
                uint16_t sum = checksum(out, bytes);
                out[2] = (uint8_t)(sum >> 8);
                out[3] = (uint8_t)sum;
                CHECK(sendto(s, out, bytes, 0, (struct sockaddr *)&to, sizeof(to)) == (ssize_t)bytes);
                bool got = false;
                for (uint64_t end = now_ms() + 5000; !got && now_ms() < end;) {
                        serve(arg);
                        ssize_t len;
                        while ((len = recv(s, in, sizeof(in), 0)) > 0)
                                got |= len == (ssize_t)bytes + 20 && in[20] == ICMP_ECHOREPLY && !memcmp(in + 24, out + 4, bytes - 4);
                }
                CHECK_MSG(got, "ping %u of %zu bytes is not answered", i, bytes);
        }
}

static void serve_port(void *p) {
        serve_once(p, 100);
}

static void ping(struct port *p, unsigned n, size_t bytes) {
        ping_by(serve_port, p, n, bytes);
}

static void ping_with(uint64_t features) {
        struct port p = { .tap_fd = -1 };

        n_arps = n_pings = 0;
        CHECK_OK(port_make_tap(&p, "tap0", ADDRESS_A, 0));
        CHECK_CALL(&p, port_start(&p, memory, features, 4096, &options));
        ping(&p, 5, 64);
        ping(&p, 2, 1400);
        CHECK(n_arps >= 1);
        CHECK_EQ(n_pings, 7);
        port_stop(&p);
        port_close_tap(&p);
        memory = vhk_memory_free(memory);
}

TEST(arp_and_ping) {
        init();
        ping_with(F_VERSION_1 | F_MRG | F_INDIRECT | F_EVENT_IDX);
}

TEST(arp_and_ping_with_no_features) {
        init();
        ping_with(F_VERSION_1);
}

TEST(arp_and_ping_on_an_inherited_descriptor) {
        struct port p = { .tap_fd = -1 };

        init();
        options.has_fd = 1;
        options.fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
        CHECK(options.fd >= 0);
        CHECK_OK(port_make_tap(&p, "tap0", ADDRESS_A, 0));
        CHECK_CALL(&p, port_start(&p, memory, F_VERSION_1, 4096, &options));
        ping(&p, 3, 64);
        port_stop(&p);
        CHECK_EQ(fcntl(options.fd, F_GETFD), -1);
        port_close_tap(&p);
        memory = vhk_memory_free(memory);
}

/* ---- the library's network driver ---- */

static void serve_card(void *card) {
        struct vhk_net_queue *q = card;
        struct vhk_net_frame in[8];
        uint8_t copy[2048];

        int k = vhk_net_receive(q, in, VHK_N(in), 100);
        CHECK_MSG(k >= 0, "%s", vhk_net_queue_get_error(q)->text);
        for (int i = 0; i < k; i++) {
                CHECK(in[i].n_iov == 1 && in[i].len <= sizeof(copy));
                memcpy(copy, in[i].iov[0].iov_base, in[i].len);
                struct iovec iov = { copy, answer(copy, in[i].len) };
                if (iov.iov_len)
                        CHECK_EQ(vhk_net_send(q, &(struct vhk_net_frame){ .iov = &iov, .n_iov = 1 }, 1), 1);
        }
        CHECK_OK(vhk_net_release(q, in, (unsigned)k));
}

TEST(arp_and_ping_on_a_network_card) {
        struct vhk_net_info info = { .size = sizeof(info) };
        struct port p = { .tap_fd = -1 };
        struct vhk_net_queue *q;
        struct vhk_net *card;
        struct vhk_error e;

        init();
        n_arps = n_pings = 0;
        CHECK_OK(port_make_tap(&p, "tap0", ADDRESS_A, 0));
        for (unsigned i = 0; i < 2; i++) {
                struct vhk_net_options o = { .size = sizeof(o), .frontend = &options, .has_backend_fd = 1, .backend_fd = p.tap_fd,
                                             .features_no_take = i ? F_MRG : 0 };
                CHECK_MSG(vhk_net_open("vhost-net:", &o, &card, &e) == 0, "%s", e.text);
                CHECK_OK(vhk_net_get_info(card, &info));
                CHECK(info.header_size == NET_HEADER && info.n_pairs == 1 && !info.has_mac && info.link_up);
                CHECK_OK(vhk_net_get_queue(card, 0, &q));
                ping_by(serve_card, q, 5, 64);
                ping_by(serve_card, q, 2, 1400);
                vhk_net_close(card);
        }
        CHECK(n_arps >= 1);
        CHECK_EQ(n_pings, 14);
        port_close_tap(&p);
        memory = vhk_memory_free(memory);
}

/* ---- translations ---- */

static unsigned n_missed;

/* Page by page, each its own address. */
static int on_miss(void *arg, uint64_t iova, uint32_t access, struct vhk_translation *ret_t) {
        n_missed++;
        *ret_t = (struct vhk_translation){ .size = sizeof(*ret_t), .iova = iova & ~4095ull, .gpa = iova & ~4095ull, .len = 4096, .access = VHK_ACCESS_BOTH };
        return 0;
}

TEST(ping_through_translations_told_in_advance) {
        init();
        options.iommu = 1;
        ping_with(F_VERSION_1 | F_MRG | F_PLATFORM);
}

TEST(ping_through_misses) {
        init();
        options.iommu = 1;
        options.on_miss = on_miss;
        n_missed = 0;
        ping_with(F_VERSION_1 | F_MRG | F_PLATFORM);
        printf("  %u misses\n", n_missed);
        CHECK(n_missed > 4);
}

/* ---- stop and start ---- */

TEST(a_card_stops_and_goes_on) {
        struct port p = { .tap_fd = -1 };

        init();
        CHECK_OK(port_make_tap(&p, "tap0", ADDRESS_A, 0));
        CHECK_CALL(&p, port_start(&p, memory, F_VERSION_1 | F_MRG, 4096, &options));
        for (unsigned i = 0; i < 10; i++) {
                ping(&p, 3, 200);
                struct vhk_ring_base before = vhk_drvq_get_setup(p.tx)->base;
                CHECK_CALL(&p, vhk_drvq_stop(p.rx));
                CHECK_CALL(&p, vhk_drvq_stop(p.tx));
                CHECK((uint16_t)(vhk_drvq_get_setup(p.tx)->base.avail - before.avail) >= 3);
                CHECK_CALL(&p, vhk_drvq_start(p.rx));
                CHECK_CALL(&p, vhk_drvq_start(p.tx));
        }
        CHECK_CALL(&p, vhk_frontend_set_backend(p.f, 0, -1));
        CHECK_CALL(&p, vhk_frontend_set_backend(p.f, 0, p.tap_fd));
        ping(&p, 3, 200);
        port_stop(&p);
        port_close_tap(&p);
        memory = vhk_memory_free(memory);
}

/* Not only taps: what is sent to the loopback interface arrives in our ring, and what we send there comes out. */
TEST(a_packet_socket_is_an_interface_too) {
        struct port p = { .tap_fd = -1 };
        struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(0x88b5) };
        uint8_t frame[60] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 'h', 'i' };
        struct net_buf *got = NULL;
        uint8_t back[200];
        int k = 0;

        init();
        p.tap_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5));
        VHK_AUTOCLOSE int other = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(0x88b6));
        to.sll_ifindex = (int)if_nametoindex("lo");
        CHECK(p.tap_fd >= 0 && other >= 0 && to.sll_ifindex);
        CHECK_OK(bind(p.tap_fd, (struct sockaddr *)&to, sizeof(to)));
        CHECK_CALL(&p, port_start(&p, memory, F_VERSION_1 | F_MRG, 4096, &options));
        CHECK_EQ(sendto(other, frame, sizeof(frame), 0, (struct sockaddr *)&to, sizeof(to)), sizeof(frame));
        for (uint64_t limit = now_ms() + 5000; !got && now_ms() < limit;)
                if (!(got = port_receive(&p, &k)) && !vhk_drvq_arm(p.rx))
                        usleep(10000);
        CHECK_EQ(k, 1);
        CHECK(got && got->len >= NET_HEADER + sizeof(frame) && !memcmp(got->data + NET_HEADER, frame, sizeof(frame)));
        memset(got->data, 0, NET_HEADER);
        got->data[NET_HEADER + 13] = 0xb6;
        CHECK_CALL(&p, port_forward(&p, got));
        ssize_t n = -1;
        for (uint64_t limit = now_ms() + 5000; n < 0 && now_ms() < limit; usleep(10000))
                n = recv(other, back, sizeof(back), 0);
        CHECK(n >= (ssize_t)sizeof(frame) && back[13] == 0xb6 && back[14] == 'h');
        port_stop(&p);
        port_close_tap(&p);
        memory = vhk_memory_free(memory);
}

TEST(as_many_regions_as_the_kernel_takes) {
        struct port p = { .tap_fd = -1 };
        struct vhk_frontend_info i = { .size = sizeof(i) };
        void *va;

        init();
        CHECK_OK(port_make_tap(&p, "tap0", ADDRESS_A, 0));
        CHECK_CALL(&p, port_start(&p, memory, F_VERSION_1 | F_MRG, 4096, &options));
        CHECK_OK(vhk_frontend_get_info(p.f, &i));
        for (unsigned n = 3; n < i.mem_slots; n++)              /* two rings and the buffers are there */
                CHECK_OK(vhk_memory_alloc(memory, 4096, &va));
        CHECK_CALL(&p, vhk_frontend_set_memory(p.f, memory));
        printf("  %u regions\n", i.mem_slots);
        ping(&p, 3, 64);
        CHECK_OK(vhk_memory_alloc(memory, 4096, &va));
        CHECK_EQ(vhk_frontend_set_memory(p.f, memory), -ENOSPC);
        ping(&p, 3, 64);
        port_stop(&p);
        port_close_tap(&p);
        memory = vhk_memory_free(memory);
}

TEST(what_the_kernel_refuses) {
        struct port p = { .tap_fd = -1 };

        init();
        CHECK_OK(vhk_frontend_open("vhost-net:", &options, &p.f, NULL));
        CHECK_OK(port_make_tap(&p, "tap0", ADDRESS_A, 0));
        CHECK_EQ(vhk_frontend_set_backend(p.f, 0, p.tap_fd), -EFAULT);         /* no ring yet */
        CHECK(strstr(vhk_frontend_get_error(p.f)->text, "VHOST_NET_SET_BACKEND"));
        CHECK_EQ(vhk_frontend_set_features(p.f, VHK_BIT(50)), -EINVAL);
        CHECK_EQ(vhk_frontend_vsock_set_cid(p.f, 3), -EOPNOTSUPP);
        CHECK_OK(vhk_frontend_set_features(p.f, F_VERSION_1));
        CHECK_CALL(&p, vhk_drvq_new(p.f, memory, 0, NULL, &p.rx));
        CHECK(vhk_frontend_set_backend(p.f, 0, vhk_drvq_get_fd(p.rx)) < 0);     /* an eventfd is no interface */
        CHECK_EQ(vhk_frontend_set_call_fd(p.f, 0, p.tap_fd), -EINVAL);          /* and the other way round */
        uint32_t us;
        CHECK_CALL(&p, vhk_frontend_set_busyloop(p.f, 0, 77));
        CHECK_CALL(&p, vhk_frontend_get_busyloop(p.f, 0, &us));
        CHECK_EQ(us, 77);
        port_stop(&p);
        port_close_tap(&p);
        memory = vhk_memory_free(memory);
}

/* ---- a stream between two namespaces ---- */

struct stream {
        int sender, receiver;           /* sockets */
        uint64_t n;
        int done_fd;
        int fault;                      /* errno, or -1: wrong bytes */
        uint64_t received;              /* atomic */
};

static uint64_t word_at(uint64_t i) {
        return (i + 1) * 0x9e3779b97f4a7c15ull ^ i >> 7;
}

#define CHUNK 65536u

static void *send_all(void *arg) {
        static uint64_t buf[CHUNK / 8];
        struct stream *s = arg;

        for (uint64_t at = 0; at < s->n; at += CHUNK) {
                for (unsigned i = 0; i < CHUNK / 8; i++)
                        buf[i] = word_at(at / 8 + i);
                for (size_t off = 0; off < CHUNK;) {
                        ssize_t k = send(s->sender, (uint8_t *)buf + off, CHUNK - off, MSG_NOSIGNAL);
                        if (k <= 0) {
                                s->fault = errno;
                                return NULL;
                        }
                        off += (size_t)k;
                }
        }
        shutdown(s->sender, SHUT_WR);
        return NULL;
}

static void *receive_all(void *arg) {
        static uint64_t buf[CHUNK / 8];
        struct stream *s = arg;
        int k = 0;

        for (uint64_t at = 0; at < s->n && k == 0; at += CHUNK) {
                if (recv(s->receiver, buf, CHUNK, MSG_WAITALL) != CHUNK)
                        k = errno ? errno : EPIPE;
                for (unsigned i = 0; i < CHUNK / 8 && k == 0; i++)
                        k = buf[i] == word_at(at / 8 + i) ? 0 : -1;
                __atomic_store_n(&s->received, at + CHUNK, __ATOMIC_RELAXED);
        }
        s->fault = k ? k : s->fault;
        eventfd_write(s->done_fd, 1);
        return NULL;
}

static struct port a, b;
static int ns_a, ns_b;

/* Pages that frames were written to, as we see it. */
static uint8_t *written;

static void note_written(const struct net_buf *frame) {
        vhk_gpa_t gpa;

        for (; frame && written; frame = frame->next) {
                CHECK_OK(vhk_memory_find(memory, frame->data, frame->len, &gpa));
                for (uint64_t page = gpa.v / 4096; page <= (gpa.v + frame->len - 1) / 4096; page++)
                        written[page] = 1;
        }
}

/* One round; 0: there is nothing to do. */
static unsigned pass_on(struct port *from, struct port *to) {
        struct net_buf *frame;
        unsigned n = 0;
        int k;

        while ((frame = port_receive(from, &k))) {
                note_written(frame);
                CHECK_CALL(to, port_forward(to, frame));
                n++;
        }
        CHECK_CALL(from, k);
        CHECK_CALL(from, k = port_reap_sent(from));
        return n + (unsigned)k;
}

static unsigned bridge_once(void) {
        int k = 0, n = 0;

        CHECK_CALL(&a, k = vhk_frontend_dispatch(a.f));         /* misses, if there are */
        CHECK_CALL(&b, n = vhk_frontend_dispatch(b.f));
        return pass_on(&a, &b) + pass_on(&b, &a) + (unsigned)(k + n);
}

static void bridge_wait(int done_fd) {
        struct vhk_drvq *q[] = { a.rx, a.tx, b.rx, b.tx };
        struct pollfd fds[7] = {
                { .fd = done_fd, .events = POLLIN }, [5] = { vhk_frontend_get_fd(a.f), POLLIN, 0 }, [6] = { vhk_frontend_get_fd(b.f), POLLIN, 0 },
        };
        int there = 0;
        eventfd_t n_calls;

        for (unsigned i = 0; i < 4; i++) {
                fds[i + 1] = (struct pollfd){ vhk_drvq_get_fd(q[i]), POLLIN, 0 };
                there |= vhk_drvq_arm(q[i]);
        }
        if (!there)
                poll(fds, 7, 1000);
        for (unsigned i = 0; i < 4; i++) {
                vhk_drvq_disarm(q[i]);
                if (fds[i + 1].revents)
                        eventfd_read(fds[i + 1].fd, &n_calls);
        }
}

/* A connection takes its first frames before it stands. */
static void connect_both(struct stream *s) {
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(ADDRESS_A), .sin_port = htons(7777) };
        int listener, one = 1;

        CHECK_OK(ns_enter(ns_a));
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&to, sizeof(to)) == 0 && listen(listener, 1) == 0);
        CHECK_OK(ns_enter(ns_b));
        s->sender = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK(connect(s->sender, (struct sockaddr *)&to, sizeof(to)) == 0 || errno == EINPROGRESS);
        CHECK_OK(ns_enter(ns_a));
        s->receiver = -1;
        for (uint64_t end = now_ms() + 20000; s->receiver < 0 && now_ms() < end;) {
                bridge_once();
                bridge_wait(listener);
                s->receiver = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        }
        close(listener);
        CHECK_MSG(s->receiver >= 0, "no connection: %llu frames from a, %llu from b", (unsigned long long)a.n_frames, (unsigned long long)b.n_frames);
        CHECK_OK(fcntl(s->sender, F_SETFL, 0));
}

static void stop_and_start(struct port *p) {
        CHECK_CALL(p, vhk_drvq_stop(p->tx));
        CHECK_CALL(p, vhk_drvq_stop(p->rx));
        CHECK_CALL(p, vhk_drvq_start(p->rx));
        CHECK_CALL(p, vhk_drvq_start(p->tx));
}

/* @restarts: so many times in the middle */
static void stream(uint64_t bytes, unsigned restarts) {
        struct stream s = { .n = bytes, .done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
        pthread_t sender, receiver;
        eventfd_t done;
        unsigned restarted = 0;

        connect_both(&s);
        uint64_t from = now_ms(), a_bytes = a.n_bytes, b_bytes = b.n_bytes, b_frames = b.n_frames;
        CHECK_EQ(pthread_create(&sender, NULL, send_all, &s), 0);
        CHECK_EQ(pthread_create(&receiver, NULL, receive_all, &s), 0);
        while (eventfd_read(s.done_fd, &done) < 0 && now_ms() < from + 300000) {
                if (!bridge_once())
                        bridge_wait(s.done_fd);
                if (restarted < restarts && __atomic_load_n(&s.received, __ATOMIC_RELAXED) > bytes / (restarts + 1) * (restarted + 1))
                        stop_and_start(restarted++ % 2 ? &a : &b);
        }
        shutdown(s.sender, SHUT_RDWR);
        shutdown(s.receiver, SHUT_RDWR);
        pthread_join(sender, NULL);
        pthread_join(receiver, NULL);
        for (int i = 0; i < 50 && bridge_once(); i++)
                ;                               /* goodbyes */
        close(s.sender);
        close(s.receiver);
        close(s.done_fd);
        uint64_t ms = now_ms() - from;
        printf("  %llu MiB in %llu ms; %llu frames of %llu bytes on average, %llu merged, %llu bytes back, %u restarts\n", (unsigned long long)(s.received / MIB),
               (unsigned long long)ms, (unsigned long long)(b.n_frames - b_frames), (unsigned long long)((b.n_bytes - b_bytes) / (b.n_frames - b_frames + 1)),
               (unsigned long long)b.n_merged, (unsigned long long)(a.n_bytes - a_bytes), restarted);
        CHECK_EQ(restarted, restarts);
        CHECK_EQ(s.received, bytes);
        CHECK_MSG(s.fault == 0, "%s", s.fault < 0 ? "wrong bytes" : strerror(s.fault));
        CHECK(b.n_bytes - b_bytes >= bytes);
}

static vhk_frontend_miss_fn miss;

static void begin(uint64_t features, uint32_t buf_size, int offload) {
        init();
        options.iommu = !!(features & F_PLATFORM);
        options.on_miss = miss;
        a = (struct port){ .tap_fd = -1 };
        b = (struct port){ .tap_fd = -1 };
        ns_a = ns_here();
        ns_b = ns_new();
        CHECK(ns_a >= 0 && ns_b >= 0);
        CHECK_OK(port_make_tap(&a, "tapa", ADDRESS_A, offload));
        CHECK_OK(ns_enter(ns_b));
        CHECK_OK(port_make_tap(&b, "tapb", ADDRESS_B, offload));
        CHECK_OK(ns_enter(ns_a));
        CHECK_CALL(&a, port_start(&a, memory, features, buf_size, &options));
        CHECK_CALL(&b, port_start(&b, memory, features, buf_size, &options));
        CHECK_CALL(&a, vhk_frontend_set_memory(a.f, memory));   /* each sends what the other has received */
}

static void end(void) {
        port_stop(&a);
        port_stop(&b);
        port_close_tap(&a);
        port_close_tap(&b);
        close(ns_a);
        close(ns_b);
        memory = vhk_memory_free(memory);
}

#define ALL (F_VERSION_1 | F_INDIRECT | F_EVENT_IDX)
#define BIG 69632u                      /* a frame of 64 KiB, its header, up to a page */

TEST(a_stream_of_100_mib_with_mergeable_buffers) {
        begin(ALL | F_MRG, 4096, 1);
        stream(STREAM_BYTES, 0);
        CHECK(b.n_merged > 0);
        end();
}

TEST(a_stream_of_100_mib_with_large_buffers) {
        begin(ALL, BIG, 1);
        stream(STREAM_BYTES, 0);
        CHECK_EQ(b.n_merged, 0);
        end();
}

TEST(a_stream_of_100_mib_while_cards_stop_and_go_on) {
        begin(ALL | F_MRG, 4096, 1);
        stream(STREAM_BYTES, 8);
        end();
}

/* Each page of ring and buffer is asked for, and after a third of the way everything is forgotten. */
TEST(a_stream_through_misses) {
        init();
        memory = vhk_memory_free(memory);
        miss = on_miss;
        n_missed = 0;
        begin(ALL | F_MRG | F_PLATFORM, 4096, 1);
        stream(10 * MIB, 2);
        unsigned before = n_missed;
        CHECK(before >= NET_RING);
        CHECK_CALL(&a, vhk_frontend_iotlb_invalidate(a.f, 0, 0));
        CHECK_CALL(&b, vhk_frontend_iotlb_invalidate(b.f, 0, 0));
        stream(10 * MIB, 2);
        printf("  %u misses, then %u\n", before, n_missed - before);
        CHECK(n_missed > before);
        end();
        miss = NULL;
}

TEST(a_stream_without_offloads_and_features) {
        begin(F_VERSION_1, 2048, 0);
        stream(10 * MIB, 2);
        end();
}

/* Every page that a frame was written to is marked, and what is marked is our rings and buffers. */
TEST(a_stream_of_100_mib_with_the_log_on) {
        struct vhk_dirty_log *log;
        struct port *ports[] = { &a, &b };
        struct vhk_region r = { .size = sizeof(r) };
        uint64_t gpa, len, n_marked = 0, n_written = 0, n_more = 0;
        unsigned i = 0;

        begin(ALL | F_MRG, 4096, 1);
        while (vhk_memory_get_region(memory, i, &r) == 0)
                i++;
        uint64_t end_of_memory = r.gpa.v + r.len;
        written = calloc(end_of_memory / 4096, 2);
        uint8_t *marked = written + end_of_memory / 4096;
        CHECK_OK(vhk_dirty_log_new(end_of_memory, &log));
        for (i = 0; i < 4; i++) {
                struct port *p = ports[i / 2];
                struct vhk_drvq *q = i % 2 ? p->tx : p->rx;
                if (i % 2 == 0)
                        CHECK_CALL(p, vhk_frontend_set_log(p->f, vhk_dirty_log_get_fd(log), 0, vhk_dirty_log_get_size(log)));
                if (i % 2 == 0)
                        CHECK_CALL(p, vhk_frontend_log_data(p->f, 1));
                uint64_t used = vhk_drvq_get_setup(q)->device;
                CHECK_CALL(p, vhk_frontend_log_queue(p->f, i % 2, 1, used));
                written[used / 4096] = 1;       /* its index moves with every frame */
        }
        stream(STREAM_BYTES, 2);
        for (gpa = 0; vhk_dirty_log_take(log, gpa, &gpa, &len) == 1; gpa += len)
                for (uint64_t page = gpa / 4096; page < (gpa + len) / 4096; page++) {
                        CHECK(page < end_of_memory / 4096);
                        marked[page] = 1;
                }
        for (uint64_t page = 0; page < end_of_memory / 4096; page++) {
                CHECK_MSG(!written[page] || marked[page], "guest address 0x%llx was written and is not marked", (unsigned long long)page * 4096);
                n_written += written[page];
                n_marked += marked[page];
                n_more += marked[page] && !written[page];
        }
        printf("  %llu pages written, %llu marked, %llu of these not known to be written\n", (unsigned long long)n_written, (unsigned long long)n_marked,
               (unsigned long long)n_more);
        CHECK(n_written > 100);
        for (i = 0; i < 2; i++) {
                CHECK_CALL(ports[i], vhk_frontend_log_data(ports[i]->f, 0));
                CHECK_CALL(ports[i], vhk_frontend_log_queue(ports[i]->f, 0, 0, 0));
                CHECK_CALL(ports[i], vhk_frontend_log_queue(ports[i]->f, 1, 0, 0));
        }
        while (vhk_dirty_log_take(log, 0, &gpa, &len) == 1)
                ;
        stream(1 * MIB, 0);
        CHECK_EQ(vhk_dirty_log_take(log, 0, &gpa, &len), 0);    /* off is off */
        end();
        vhk_dirty_log_free(log);
        free(written);
        written = NULL;
}
