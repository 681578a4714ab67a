/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The network driver against a card of ours that gives back what it is sent, over the public headers; and against one that says
 * what a device must not say.
 */
#include <poll.h>

#include "driver/net.h"
#include "frontend/vhost_user.h"
#include "pair.h"
#include "ring/ring.h"

#define PAIRS 4u
#define CONTROL (2 * PAIRS)
#define BIT(n) VHK_BIT(n)
#define OFFLOADS (VHK_NET_F_CSUM | VHK_NET_F_GUEST_CSUM | VHK_NET_F_HOST_TSO4 | VHK_NET_F_GUEST_TSO4)
#define FEATURES                                                                                                                \
        (OFFLOADS | BIT(VHK_NET_BIT_MTU) | BIT(VHK_NET_BIT_MAC) | BIT(VHK_NET_BIT_MRG_RXBUF) | BIT(VHK_NET_BIT_STATUS) |            \
         BIT(VHK_NET_BIT_CTRL_VQ) | BIT(VHK_NET_BIT_CTRL_RX) | BIT(VHK_NET_BIT_MQ) | BIT(VHK_NET_BIT_CTRL_MAC_ADDR))

/* ---- the card: a frame that is sent comes back to the same pair; a pair lives in one home ---- */

/* How it breaks the rules, at the next frame. */
enum fault { NONE, SHORT, NO_BUFFERS, TOO_MANY_BUFFERS, HOLE, RUNT, SUM_OUTSIDE, NO_SEGMENTS, N_FAULTS };

static struct card {
        struct vhk_host *host;
        uint64_t features;
        uint8_t config[12];
        struct vhk_queue *rings[2 * PAIRS + 1];
        struct { struct vhk_req *r[256]; unsigned n; bool tx_waits; } taken[PAIRS];     /* receive buffers, of a pair's home */
        /* atomic, for ThreadSanitizer does not see what passes through guest memory */
        enum fault fault;
        bool holds;                     /* commands are kept */
        struct vhk_req *held;
        uint8_t ack;
        pthread_mutex_t lock;           /* of what it was told last */
        uint8_t command[4000];
        size_t command_len;
} card;

static int attach(void *dev, struct vhk_host *h) {
        ((struct card *)dev)->host = h;
        return 0;
}

static int negotiated(void *dev, uint64_t features) {
        ((struct card *)dev)->features = features;
        return 0;
}

static int get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        for (uint32_t i = 0; i < n; i++)
                ((uint8_t *)buf)[i] = __atomic_load_n(&((struct card *)dev)->config[off + i], __ATOMIC_RELAXED);
        return 0;
}

static int queue_start(void *dev, struct vhk_queue *q, struct vhk_worker *home) {
        ((struct card *)dev)->rings[vhk_queue_get_index(q)] = q;
        return 0;
}

static size_t header_size(const struct card *c) {
        return c->features & (BIT(VHK_DRVDEV_F_VERSION_1) | BIT(VHK_NET_BIT_MRG_RXBUF)) ? 12 : 10;
}

static enum fault fault_of(const struct card *c) {
        return __atomic_load_n(&c->fault, __ATOMIC_ACQUIRE);
}

static void spoil(struct card *c, uint8_t *frame, size_t *n, unsigned *n_buffers, uint32_t *len) {
        switch (fault_of(c)) {
        case SHORT:
                *len = 5;
                break;
        case NO_BUFFERS:
                *n_buffers = 0;
                break;
        case TOO_MANY_BUFFERS:
                *n_buffers = 2;
                break;
        case RUNT:
                *len = (uint32_t)header_size(c) + 13;
                break;
        case SUM_OUTSIDE:
                memcpy(frame, &(struct vhk_net_wire_header){ .flags = 1, .csum_start = vhk_le16_of((uint16_t)(*n - 12)) }, 10);
                frame[6]--;             /* two bytes from there on: one is behind the end */
                break;
        case NO_SEGMENTS:
                memcpy(frame, &(struct vhk_net_wire_header){ .flags = 1, .gso_type = VHK_NET_GSO_TCPV4 }, 10);
                break;
        default:
                break;
        }
}

/* At least @n bytes of buffers. false: not yet, and the next one is told */
static bool take_buffers(struct card *c, struct vhk_queue *rx, size_t n) {
        unsigned pair = vhk_queue_get_index(rx) / 2;
        size_t room = 0;

        for (unsigned i = 0; i < c->taken[pair].n; i++)
                room += c->taken[pair].r[i]->in_len;
        while (room < n) {
                struct vhk_req *r;
                if (vhk_queue_pop(rx, &r, 1) == 1)
                        room += (c->taken[pair].r[c->taken[pair].n++] = r)->in_len;
                else if (!vhk_queue_arm(rx))
                        return false;
        }
        return true;
}

/* @frame with its header, to as many buffers as it needs. false: there are not enough */
static bool deliver(struct card *c, struct vhk_queue *rx, uint8_t *frame, size_t n) {
        unsigned pair = vhk_queue_get_index(rx) / 2, count = 0, said;
        struct vhk_req **r = c->taken[pair].r;

        if (!take_buffers(c, rx, n + (fault_of(c) == HOLE)))
                return false;
        for (size_t room = 0; room < n + (fault_of(c) == HOLE);)
                room += r[count++]->in_len;
        said = count;
        for (size_t i = 0, at = 0; i < count; i++) {
                uint32_t len = (uint32_t)VHK_MIN(n - at, (size_t)r[i]->in_len);
                if (i + 1 < count && fault_of(c) == HOLE)
                        len--;
                if (i == 0) {
                        spoil(c, frame, &n, &said, &len);
                        if (c->features & BIT(VHK_NET_BIT_MRG_RXBUF))
                                memcpy(frame + 10, &(vhk_le16){ vhk_le16_of((uint16_t)said).v }, 2);
                }
                vhk_req_write(r[i], 0, frame + at, len);
                vhk_queue_push(rx, r[i], len);
                at += len;
        }
        vhk_queue_flush(rx);
        c->taken[pair].n -= count;
        memmove(r, r + count, c->taken[pair].n * sizeof(*r));
        return true;
}

static void run_tx(struct card *c, unsigned i, struct vhk_queue *tx) {
        static __thread uint8_t frame[70000];
        struct vhk_queue *rx = c->rings[i - 1];
        struct vhk_req *r;

        while (rx && vhk_queue_pop(tx, &r, 1) == 1) {
                size_t n = vhk_req_read(r, 0, frame, sizeof(frame));
                if (!deliver(c, rx, frame, n)) {
                        vhk_queue_unpop(tx, 1);
                        c->taken[i / 2].tx_waits = true;
                        break;
                }
                vhk_queue_push(tx, r, 0);
        }
        vhk_queue_flush(tx);
}

static void answer(struct card *c, struct vhk_req *r) {
        uint8_t ack = __atomic_load_n(&c->ack, __ATOMIC_ACQUIRE);

        vhk_req_complete(r, (uint32_t)vhk_req_write(r, 0, &ack, 1));
}

static void run_control(struct card *c, struct vhk_queue *q) {
        struct vhk_req *r;

        while (vhk_queue_pop(q, &r, 1) == 1) {
                pthread_mutex_lock(&c->lock);
                c->command_len = vhk_req_read(r, 0, c->command, sizeof(c->command));
                pthread_mutex_unlock(&c->lock);
                if (__atomic_load_n(&c->holds, __ATOMIC_ACQUIRE))
                        __atomic_store_n(&c->held, r, __ATOMIC_RELEASE);
                else
                        answer(c, r);
        }
}

static void queue_run(void *dev, struct vhk_queue *q) {
        struct card *c = dev;
        unsigned i = vhk_queue_get_index(q);

        if (i == ((c->features & BIT(VHK_NET_BIT_MQ)) ? CONTROL : 2)) {
                run_control(c, q);
        } else if (i % 2) {
                run_tx(c, i, q);
        } else if (c->taken[i / 2].tx_waits) {
                c->taken[i / 2].tx_waits = false;
                vhk_queue_resume(c->rings[i + 1]);
        }
}

static void queue_stop(void *dev, struct vhk_queue *q, enum vhk_stop how) {
        struct card *c = dev;
        unsigned i = vhk_queue_get_index(q);

        for (; i % 2 == 0 && i < CONTROL && c->taken[i / 2].n; c->taken[i / 2].n--)
                vhk_queue_push(q, c->taken[i / 2].r[c->taken[i / 2].n - 1], 0);
        vhk_queue_flush(q);
}

static void queue_stopped(void *dev, struct vhk_queue *q) {
        ((struct card *)dev)->rings[vhk_queue_get_index(q)] = NULL;
}

static const struct vhk_device_ops ops = {
        .size = sizeof(ops), .virtio_id = 1, .n_queues = 2 * PAIRS + 1, .queue_size_max = 256, .config_len = 12, .threads = VHK_THREADS_PER_QUEUE,
        .features = FEATURES, .attach = attach, .negotiated = negotiated, .get_config = get_config, .queue_start = queue_start,
        .queue_run = queue_run, .queue_stop = queue_stop, .queue_stopped = queue_stopped,
};

/* ---- both ends ---- */

static struct pair ends;
static struct vhk_net *net;
static unsigned n_links;
static int link_is_up = -1;

static void on_link(void *arg, int up) {
        struct vhk_net_info i = { .size = sizeof(i) };

        CHECK_EQ(vhk_net_get_info(net, &i), -EDEADLK);
        n_links++;
        link_is_up = up;
}

static int open_card(const struct vhk_net_options *o, uint64_t not_offered, struct vhk_error *ret_e) {
        struct pair_options po = { .ops = &ops, .dev = &card, .n_homes = PAIRS, .rings_per_home = 2, .without_front = true,
                                   .back.features_no_offer = not_offered };
        struct vhk_frontend_options fo = { .size = sizeof(fo), .limit_ns = 10000000000 };
        struct vhk_net_options own = *o;

        own.size = sizeof(own);
        if (!own.frontend)
                own.frontend = &fo;
        own.on_link = on_link;
        n_links = 0;
        card = (struct card){ .config = { 2, 1, 2, 3, 4, 5, 1, 0, PAIRS, 0, 9000 & 0xff, 9000 >> 8 }, .lock = PTHREAD_MUTEX_INITIALIZER };
        CHECK_EQ(pair_open(&ends, &po), 0);
        return vhk_net_open(ends.front, &own, &net, ret_e);
}

static struct vhk_net_queue *open_queue(const struct vhk_net_options *o) {
        struct vhk_error e = { .text = "" };
        struct vhk_net_queue *q;

        CHECK_MSG(open_card(o, 0, &e) == 0, "%s", e.text);
        CHECK_OK(vhk_net_get_queue(net, 0, &q));
        return q;
}

static void close_card(void) {
        net = vhk_net_close(net);
        pair_close(&ends);
}

static struct vhk_net_info info(void) {
        struct vhk_net_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_net_get_info(net, &i));
        return i;
}

static void check_command(const char *what, size_t n) {
        pthread_mutex_lock(&card.lock);
        bool is_it = card.command_len == n && !memcmp(card.command, what, n);
        pthread_mutex_unlock(&card.lock);
        CHECK(is_it);
}

static uint8_t byte_of(unsigned seed, unsigned i) { return (uint8_t)(seed * 7 + i * 13 + i / 251); }

static void check_frame(const struct vhk_net_frame *f, unsigned seed, unsigned len) {
        unsigned at = 0;

        CHECK_EQ(f->len, len);
        for (unsigned i = 0; i < f->n_iov; i++)
                for (unsigned k = 0; k < f->iov[i].iov_len; k++, at++)
                        CHECK_MSG(((const uint8_t *)f->iov[i].iov_base)[k] == byte_of(seed, at), "byte %u of %u", at, len);
        CHECK_EQ(at, len);
}

/* One frame there and back. */
static void loop(struct vhk_net_queue *q, uint8_t *buffer, unsigned seed, unsigned len) {
        struct iovec iov[2] = { { buffer, len / 3 }, { buffer + len / 3, len - len / 3 } };
        struct vhk_net_frame f = { .iov = iov, .n_iov = 2, .cookie = &ends }, got;
        void *cookie = NULL;

        for (unsigned i = 0; i < len; i++)
                buffer[i] = byte_of(seed, i);
        CHECK_EQ(vhk_net_send(q, &f, 1), 1);
        CHECK_EQ(vhk_net_receive(q, &got, 1, 10000), 1);
        check_frame(&got, seed, len);
        CHECK_OK(vhk_net_release(q, &got, 1));
        CHECK_EQ(vhk_net_reap(q, &cookie, 1, 10000), 1);
        CHECK(cookie == &ends);
}

static void loop_all_sizes(struct vhk_net_queue *q, unsigned most) {
        static const unsigned sizes[] = { 14, 15, 60, 255, 256, 257, 1514, 2036, 2037, 4096, 9018 };
        static uint8_t ours[9018];
        uint8_t *lent = vhk_net_alloc(net, sizeof(ours));

        CHECK(lent);
        for (unsigned i = 0; i < VHK_N(sizes) && sizes[i] <= most; i++) {
                loop(q, lent, i, sizes[i]);
                loop(q, ours, i + 100, sizes[i]);
        }
}

TEST(what_the_card_says) {
        open_queue(&(struct vhk_net_options){ .n_pairs = 0 });
        struct vhk_net_info i = info();
        CHECK(i.has_mac && !memcmp(i.mac, "\2\1\2\3\4\5", 6));
        CHECK(i.link_up == 1 && i.mtu == 9000 && i.n_pairs == PAIRS && i.n_pairs_open == 1 && i.header_size == 12 && i.buffer_size == 2048);
        CHECK_EQ(i.features & (OFFLOADS | BIT(VHK_NET_BIT_MRG_RXBUF)), BIT(VHK_NET_BIT_MRG_RXBUF));     /* offloads only on request */
        close_card();
}

TEST(frames_come_back) {
        for (unsigned polling = 0; polling < 2; polling++)
                for (unsigned size = 128; size <= 16384; size *= 8) {
                        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .polling = (uint8_t)polling, .buffer_size = size });
                        loop_all_sizes(q, 9018);
                        close_card();
                }
}

TEST(a_frame_in_many_buffers) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .buffer_size = 256 });
        static uint8_t bytes[9018];
        struct iovec iov = { bytes, sizeof(bytes) };
        struct vhk_net_frame f = { .iov = &iov, .n_iov = 1 }, got;

        for (unsigned i = 0; i < sizeof(bytes); i++)
                bytes[i] = byte_of(3, i);
        CHECK_EQ(vhk_net_send(q, &f, 1), 1);
        CHECK_EQ(vhk_net_receive(q, &got, 1, 10000), 1);
        CHECK_EQ(got.n_iov, (9018 + 12 + 255) / 256);
        CHECK_EQ(got.iov[0].iov_len, 256 - 12);
        check_frame(&got, 3, 9018);
        CHECK_OK(vhk_net_release(q, &got, 1));
        CHECK_EQ(vhk_net_release(q, &got, 1), -EINVAL);         /* once */
        close_card();
}

TEST(a_buffer_for_each_frame) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .features_no_take = BIT(VHK_NET_BIT_MRG_RXBUF) });

        CHECK_EQ(info().buffer_size, 9018 + 12);
        CHECK_EQ(info().header_size, 12);
        loop_all_sizes(q, 9018);
        close_card();
}

TEST(a_legacy_header) {
        for (unsigned i = 0; i < 2; i++) {
                uint64_t no = BIT(VHK_DRVDEV_F_VERSION_1) | BIT(VHK_NET_BIT_MRG_RXBUF) | (i ? BIT(VHK_DRVDEV_F_INDIRECT) : 0);
                struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .features_no_take = no });
                CHECK_EQ(info().header_size, 10);
                loop_all_sizes(q, 9018);
                close_card();
        }
}

TEST(offloads) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .features_take = OFFLOADS | VHK_NET_F_GUEST_ECN | VHK_NET_F_HOST_USO });
        static uint8_t bytes[65550];
        struct iovec iov = { bytes, sizeof(bytes) };
        struct vhk_net_header h = { .flags = VHK_NET_NEEDS_CSUM, .gso_type = VHK_NET_GSO_TCPV4, .hdr_len = 54, .gso_size = 1448, .csum_start = 34,
                                    .csum_offset = 16 };
        struct vhk_net_frame f = { .header = h, .iov = &iov, .n_iov = 1 }, got;

        CHECK_EQ(info().features & (OFFLOADS | VHK_NET_F_GUEST_ECN | VHK_NET_F_HOST_USO), OFFLOADS);
        CHECK_EQ(vhk_net_send(q, &f, 1), 1);
        CHECK_EQ(vhk_net_receive(q, &got, 1, 10000), 1);
        CHECK_EQ(got.len, sizeof(bytes));
        CHECK(!memcmp(&got.header, &h, sizeof(h)));
        CHECK_OK(vhk_net_release(q, &got, 1));
        f.header.gso_type = VHK_NET_GSO_TCPV6;
        CHECK_EQ(vhk_net_send(q, &f, 1), -EOPNOTSUPP);
        f.header = (struct vhk_net_header){ .flags = VHK_NET_NEEDS_CSUM, .csum_start = 65535, .csum_offset = 14 };
        CHECK_EQ(vhk_net_send(q, &f, 1), -EINVAL);
        f.header = (struct vhk_net_header){ .gso_type = VHK_NET_GSO_TCPV4, .gso_size = 1448 };
        CHECK_EQ(vhk_net_send(q, &f, 1), -EINVAL);
        f.header = (struct vhk_net_header){ .flags = 8 };
        CHECK_EQ(vhk_net_send(q, &f, 1), -EINVAL);
        close_card();
}

TEST(frames_that_are_none) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .n_pairs = 1 });
        static uint8_t bytes[70000];
        struct iovec iov[3] = { { bytes, 13 }, { NULL, 0 }, { bytes, SIZE_MAX } };
        struct vhk_net_frame f = { .iov = iov, .n_iov = 2 };

        CHECK_EQ(vhk_net_send(q, &f, 1), -EINVAL);
        f.n_iov = 3;
        CHECK_EQ(vhk_net_send(q, &f, 1), -EMSGSIZE);
        iov[0].iov_len = 9019;                  /* larger than the MTU, and not lent */
        f.n_iov = 1;
        CHECK_EQ(vhk_net_send(q, &f, 1), -EMSGSIZE);
        iov[0].iov_len = 65551;
        CHECK_EQ(vhk_net_send(q, &f, 1), -EMSGSIZE);
        iov[0].iov_len = 60;
        f.header.flags = VHK_NET_NEEDS_CSUM;
        CHECK_EQ(vhk_net_send(q, &f, 1), -EOPNOTSUPP);
        CHECK_EQ(vhk_net_receive(q, &f, 1, 0), 0);
        CHECK_EQ(vhk_net_reap(q, &(void *){ NULL }, 1, -1), 0);         /* there is nothing to wait for */
        close_card();
}

/* More than the rings hold, and buffers given back in another order. */
TEST(bursts) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .queue_size = 64 });
        uint8_t *lent = vhk_net_alloc(net, 64 * 64);
        struct iovec iov[64];
        struct vhk_net_frame out[64], in[64];
        unsigned n_sent = 0, n_got = 0;

        CHECK(lent);
        for (unsigned i = 0; i < 64; i++) {
                iov[i] = (struct iovec){ lent + i * 64, 60 };
                memset(iov[i].iov_base, (int)i, 60);
                out[i] = (struct vhk_net_frame){ .iov = &iov[i], .n_iov = 1 };
        }
        while (n_got < 20000) {
                int k = n_sent < 20000 ? vhk_net_send(q, out + n_sent % 64, VHK_MIN(64 - n_sent % 64, 20000 - n_sent)) : 0;
                CHECK_OK(k);
                n_sent += (unsigned)k;
                if (n_sent == n_got)
                        continue;       /* all have come, and none of them counts as sent yet */
                k = vhk_net_receive(q, in, 64, 10000);
                CHECK(k > 0);
                for (int i = 0; i < k; i++, n_got++)
                        CHECK_EQ(*(uint8_t *)in[i].iov[0].iov_base, n_got % 64);
                for (int i = k; i-- > 0;)
                        CHECK_OK(vhk_net_release(q, &in[i], 1));
        }
        CHECK_EQ(n_sent, 20000);
        close_card();
}

TEST(a_descriptor_for_a_loop) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .n_pairs = 1 });
        struct pollfd p = { .fd = vhk_net_queue_get_fd(q), .events = POLLIN };
        uint8_t bytes[100] = { 1 };
        struct iovec iov = { bytes, sizeof(bytes) };
        struct vhk_net_frame f[3] = { { .iov = &iov, .n_iov = 1 }, { .iov = &iov, .n_iov = 1 }, { .iov = &iov, .n_iov = 1 } }, got;

        for (unsigned i = 0; i < 50; i++) {
                CHECK_EQ(vhk_net_receive(q, &got, 1, 0), 0);
                CHECK_EQ(vhk_net_send(q, f, 3), 3);
                for (unsigned n = 0; n < 3;) {
                        CHECK_EQ(poll(&p, 1, 10000), 1);
                        int k = vhk_net_receive(q, &got, 1, 0);
                        CHECK_OK(k);
                        if (k)
                                CHECK_OK(vhk_net_release(q, &got, 1));
                        n += (unsigned)k;
                }
        }
        close_card();
}

/* ---- pairs ---- */

static void *loop_thread(void *arg) {
        struct vhk_net_queue *q = arg;
        uint8_t bytes[200] = { 0 };
        struct iovec iov = { bytes, sizeof(bytes) };
        struct vhk_net_frame f = { .iov = &iov, .n_iov = 1 }, got;
        uintptr_t n = 0;

        for (; n < 2000; n++)
                if (vhk_net_send(q, &f, 1) != 1 || vhk_net_receive(q, &got, 1, 10000) != 1 || got.len != 200 || vhk_net_release(q, &got, 1) < 0)
                        break;
        return (void *)n;
}

TEST(frames_that_came_before_the_descriptor_was_asked_for_make_it_readable) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .n_pairs = 1 });
        struct vhk_net_frame out[3], got;
        uint8_t frame[64] = { 0 };
        struct iovec v = { frame, sizeof(frame) };
        void *cookies[3];

        for (int i = 0; i < 3; i++)
                out[i] = (struct vhk_net_frame){ .iov = &v, .n_iov = 1, .cookie = frame };
        CHECK_EQ(vhk_net_send(q, out, 3), 3);
        for (int n = 0; n < 3;) {
                int k = vhk_net_reap(q, cookies, 3, 20000);
                CHECK(k > 0);
                n += k;
        }
        CHECK_EQ(vhk_net_receive(q, &got, 1, 20000), 1);        /* all three have left the ring */
        CHECK_OK(vhk_net_release(q, &got, 1));
        vhk_peer_drain(vhk_drvq_get_fd(q->rx));                 /* as a wait does */
        struct pollfd p = { .fd = vhk_net_queue_get_fd(q), .events = POLLIN };
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(poll(&p, 1, 20000), 1);
                CHECK_EQ(vhk_net_receive(q, &got, 1, 20000), 1);
                CHECK_OK(vhk_net_release(q, &got, 1));
        }
        close_card();
}

TEST(pairs_on_threads_of_their_own) {
        for (unsigned n = 1; n <= PAIRS; n++) {
                pthread_t threads[PAIRS];
                void *done;

                open_queue(&(struct vhk_net_options){ .n_pairs = (uint16_t)n });
                CHECK_EQ(info().n_pairs_open, n);
                if (n > 1)
                        check_command((char[4]){ 4, 0, (char)n, 0 }, 4);
                for (unsigned i = 0; i < n; i++) {
                        struct vhk_net_queue *q;
                        CHECK_OK(vhk_net_get_queue(net, i, &q));
                        CHECK_EQ(pthread_create(&threads[i], NULL, loop_thread, q), 0);
                }
                for (unsigned i = 0; i < n; i++) {
                        pthread_join(threads[i], &done);
                        CHECK_EQ((uintptr_t)done, 2000);
                }
                close_card();
        }
}

TEST(options_that_do_not_fit) {
        static const struct { struct vhk_net_options o; int code; } rows[] = {
                { { .n_pairs = PAIRS + 1 }, -EINVAL }, { { .queue_size = 100 }, -EINVAL }, { { .queue_size = 2 }, -EINVAL },
                { { .buffer_size = 100 }, -EINVAL }, { { .buffer_size = 70000 }, -EINVAL }, { { .features_take = BIT(3) }, -EINVAL },
                { { .buffer_size = 2048, .features_no_take = BIT(VHK_NET_BIT_MRG_RXBUF) }, -EINVAL },
                { { .n_pairs = 2, .features_no_take = BIT(VHK_NET_BIT_MQ) }, -EINVAL },
                { { .n_pairs = 2, .has_backend_fd = 1 }, -EINVAL }, { { .has_backend_fd = 1 }, -EOPNOTSUPP }, { { .queue_size = 2048 }, -EREMOTEIO },
        };

        for (unsigned i = 0; i < VHK_N(rows); i++) {
                struct vhk_error e = { .text = "" };
                int k = open_card(&rows[i].o, 0, &e);
                CHECK_MSG(k == rows[i].code && e.text[0], "row %u: %d, %s", i, k, e.text);
                pair_close(&ends);
        }
}

/* ---- the control queue ---- */

TEST(commands) {
        static const uint8_t macs[3][6] = { { 2, 0, 0, 0, 0, 1 }, { 2, 0, 0, 0, 0, 2 }, { 3, 0, 0, 0, 0, 3 } };

        open_queue(&(struct vhk_net_options){ .n_pairs = 2 });
        CHECK_OK(vhk_net_set_mac(net, macs[0]));
        check_command("\1\1\2\0\0\0\0\1", 8);
        CHECK_OK(vhk_net_set_mac_table(net, macs, 2, macs + 2, 1));
        check_command("\1\0" "\2\0\0\0" "\2\0\0\0\0\1" "\2\0\0\0\0\2" "\1\0\0\0" "\3\0\0\0\0\3", 28);
        CHECK_OK(vhk_net_set_mac_table(net, NULL, 0, NULL, 0));
        check_command("\1\0" "\0\0\0\0" "\0\0\0\0", 10);
        CHECK_EQ(vhk_net_set_mac_table(net, macs, 512, macs, 1), -EINVAL);
        CHECK_OK(vhk_net_set_rx_mode(net, VHK_NET_RX_PROMISC, 1));
        check_command("\0\0\1", 3);
        CHECK_OK(vhk_net_set_rx_mode(net, VHK_NET_RX_ALLMULTI, 0));
        check_command("\0\1\0", 3);
        CHECK_OK(vhk_net_set_pairs(net, 1));
        check_command("\4\0\1\0", 4);
        CHECK_EQ(vhk_net_set_pairs(net, 3), -EINVAL);
        CHECK_EQ(vhk_net_set_pairs(net, 0), -EINVAL);
        __atomic_store_n(&card.ack, 1, __ATOMIC_RELEASE);
        CHECK_EQ(vhk_net_set_mac(net, macs[1]), -EREMOTEIO);
        __atomic_store_n(&card.ack, 0xff, __ATOMIC_RELEASE);    /* done, and nothing written */
        CHECK_EQ(vhk_net_set_mac(net, macs[1]), -EPROTO);
        close_card();
}

TEST(a_command_that_is_not_answered) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .limit_ns = 100000000 };

        open_queue(&(struct vhk_net_options){ .frontend = &fo });
        __atomic_store_n(&card.holds, true, __ATOMIC_RELEASE);
        CHECK_EQ(vhk_net_set_rx_mode(net, VHK_NET_RX_PROMISC, 1), -ETIMEDOUT);
        CHECK_EQ(vhk_net_set_rx_mode(net, VHK_NET_RX_PROMISC, 1), -EBUSY);
        __atomic_store_n(&card.holds, false, __ATOMIC_RELEASE);
        answer(&card, __atomic_load_n(&card.held, __ATOMIC_ACQUIRE));
        int k = -EBUSY;
        for (unsigned i = 0; i < 1000 && k == -EBUSY; i++, usleep(1000))
                k = vhk_net_set_rx_mode(net, VHK_NET_RX_PROMISC, 1);
        CHECK_EQ(k, 0);
        close_card();
}

TEST(without_a_control_queue) {
        struct vhk_error e = { .text = "" };
        struct vhk_net_queue *q;

        CHECK_MSG(open_card(&(struct vhk_net_options){ .n_pairs = 1 }, BIT(VHK_NET_BIT_CTRL_VQ), &e) == 0, "%s", e.text);
        CHECK_EQ(vhk_net_set_mac(net, (const uint8_t *)"\2\0\0\0\0\1"), -EOPNOTSUPP);
        CHECK_EQ(vhk_net_set_rx_mode(net, VHK_NET_RX_PROMISC, 1), -EOPNOTSUPP);
        CHECK_EQ(vhk_net_set_pairs(net, 1), -EOPNOTSUPP);
        CHECK_OK(vhk_net_get_queue(net, 0, &q));
        CHECK_EQ(vhk_net_get_queue(net, 1, &q), -EINVAL);
        loop_all_sizes(q, 9018);
        close_card();
}

/* ---- events ---- */

TEST(the_link) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .n_pairs = 1 });
        struct vhk_net_frame f;

        for (unsigned up = 0; up < 2; up++) {
                __atomic_store_n(&card.config[6], up, __ATOMIC_RELAXED);
                CHECK_OK(vhk_host_config_changed(card.host));
                for (unsigned i = 0; i < 1000 && n_links == up; i++)
                        CHECK_EQ(vhk_net_receive(q, &f, 1, 10), 0);
                CHECK_EQ(n_links, up + 1);
                CHECK_EQ(link_is_up, up);
                CHECK_EQ(info().link_up, up);
        }
        close_card();
}

TEST(a_back_end_that_goes) {
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .n_pairs = 1 });
        char bytes[16] = "";
        struct iovec iov = { bytes, sizeof(bytes) };
        struct vhk_net_frame f = { .iov = &iov, .n_iov = 1 };

        CHECK_OK(vhk_backend_stop(ends.b, VHK_STOP_ABORT, 0));
        CHECK_EQ(vhk_net_receive(q, &f, 1, 10000), -EPIPE);
        CHECK_EQ(vhk_net_send(q, &f, 1), -EPIPE);
        CHECK_EQ(vhk_net_set_mac(net, (const uint8_t *)"\2\0\0\0\0\1"), -EPIPE);
        CHECK(vhk_net_queue_get_error(q)->text[0]);
        net = vhk_net_close(net);
        pthread_join(ends.control.thread, NULL);
        pthread_create(&ends.control.thread, NULL, home_thread, &ends.control);         /* for pair_close() */
        pair_close(&ends);
}

/* ---- devices that break the rules: the queue is over, with a story, and nothing outside of a buffer is shown ---- */

TEST(what_a_device_must_not_say) {
        static const char *const rules[N_FAULTS] = { [SHORT] = "net.short", [NO_BUFFERS] = "net.num-buffers", [TOO_MANY_BUFFERS] = "net.num-buffers",
                [HOLE] = "net.hole", [RUNT] = "net.frame-size", [SUM_OUTSIDE] = "net.csum", [NO_SEGMENTS] = "net.gso" };
        static uint8_t bytes[3000];

        for (unsigned i = NONE + 1; i < N_FAULTS; i++) {
                struct iovec iov = { bytes, i == HOLE ? 3000 : 100 };
                struct vhk_net_frame f = { .iov = &iov, .n_iov = 1 }, got[2];
                struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .features_take = OFFLOADS });
                uint8_t *lent = vhk_net_alloc(net, 100);
                memset(lent, 0, 100);
                iov.iov_base = i == HOLE ? bytes : lent;
                CHECK_EQ(vhk_net_send(q, &f, 1), 1);    /* a good one comes first */
                CHECK_EQ(vhk_net_receive(q, got, 1, 10000), 1);
                __atomic_store_n(&card.fault, i, __ATOMIC_RELEASE);
                CHECK_EQ(vhk_net_send(q, &f, 1), 1);
                CHECK_EQ(vhk_net_receive(q, got + 1, 1, 10000), -EPIPE);
                CHECK_STR(vhk_net_queue_get_error(q)->rule, rules[i]);
                CHECK_EQ(vhk_net_receive(q, got + 1, 1, 10000), -EPIPE);
                CHECK_EQ(vhk_net_send(q, &f, 1), -EPIPE);
                close_card();
                card.fault = NONE;
        }
}

/* The used ring of ring 0, which the card leaves alone: nothing was sent. */
static struct vhk_used *used_ring(void) {
        struct vhk_vhost_user *u = vhk_container_of(vhk_net_get_frontend(net), struct vhk_vhost_user, f);
        const struct vhk_chunk *c = &net->d.chunks[0];

        return (struct vhk_used *)(c->va + (u->set.rings[0].setup.device - c->gpa));
}

TEST(what_a_device_must_not_write) {
        static const struct { uint16_t idx; struct vhk_used_elem e[2]; const char *rule; } rows[] = {
                { 1, { { { 0 }, { 2049 } } }, "net.ring" }, { 1, { { { 0 }, { UINT32_MAX } } }, "net.ring" },   /* longer than the buffer */
                { 1, { { { 256 }, { 60 } } }, "net.ring" }, { 1, { { { UINT32_MAX }, { 60 } } }, "net.ring" },  /* no such descriptor */
                { 2, { { { 3 }, { 2049 } }, { { 3 }, { 100 } } }, "net.ring" },
                { 2, { { { 3 }, { 2048 } }, { { 3 }, { 100 } } }, "net.num-buffers" },  /* twice the same: the first is looked at */
                { 257, { { { 0 }, { 60 } } }, "net.ring" }, { 65535, { { { 0 }, { 60 } } }, "net.ring" },       /* more than there were */
                { 1, { { { 0 }, { 0 } } }, "net.short" }, { 1, { { { 0 }, { 11 } } }, "net.short" },
                { 1, { { { 0 }, { 12 } } }, "net.num-buffers" },                                                /* a header of zeroes */
        };

        for (unsigned i = 0; i < VHK_N(rows); i++) {
                struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .n_pairs = 1 });
                struct vhk_net_frame f;
                struct vhk_used *used = used_ring();
                for (unsigned k = 0; k < 2; k++)
                        used->ring[k] = (struct vhk_used_elem){ vhk_le32_of(rows[i].e[k].id.v), vhk_le32_of(rows[i].e[k].len.v) };
                vhk_store_release(&used->idx.v, vhk_le16_of(rows[i].idx).v);
                CHECK_EQ(vhk_net_receive(q, &f, 1, 0), -EPIPE);
                CHECK_STR(vhk_net_queue_get_error(q)->rule, rows[i].rule);
                close_card();
        }
}

TEST(frames_can_be_released_after_the_device_broke_the_ring) {
        static uint8_t bytes[100];
        struct vhk_net_queue *q = open_queue(&(struct vhk_net_options){ .n_pairs = 1 });
        struct iovec iov = { bytes, sizeof(bytes) };
        struct vhk_net_frame sent = { .iov = &iov, .n_iov = 1 }, f, none;

        CHECK_EQ(vhk_net_send(q, &sent, 1), 1);
        CHECK_EQ(vhk_net_receive(q, &f, 1, 10000), 1);
        vhk_store_release(&used_ring()->idx.v, vhk_le16_of(1000).v);
        CHECK_EQ(vhk_net_receive(q, &none, 1, 0), -EPIPE);
        CHECK_OK(vhk_net_release(q, &f, 1));
        CHECK_EQ(vhk_net_release(q, &f, 1), -EINVAL);
        close_card();
}
