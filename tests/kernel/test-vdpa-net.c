/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The kernel's simulated network card behind vhost-vdpa: what is sent comes back, so 100,000 frames are compared byte by byte; and
 * its control ring lives in an address space of its own, where nothing else is. The test makes the card, and removes it. Needs
 * root, and the modules vdpa_sim_net and vhost_vdpa; skipped without.
 */
#include "base/test.h"

#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <vhostkit/drvq.h>
#include <vhostkit/kernel.h>
#include <vhostkit/net.h>
#include <vhostkit/vdpa.h>

#include "base/base.h"

#define NAME "vhk-loop"
#define HEADER 12u
#define ROOM 2048u                      /* of a buffer; the simulator takes a page at most */
#define RING 256u
#define N_SENT 64u                      /* most frames on their way: fewer than there are buffers to receive */
#define F_MAC VHK_BIT(5)
#define F_CTRL_VQ VHK_BIT(17)
#define F_CTRL_MAC VHK_BIT(23)
#define F_VERSION_1 VHK_BIT(32)

static const uint8_t own_mac[6] = { 0x52, 0x54, 0x11, 0x22, 0x33, 0x44 }, other_mac[6] = { 0x52, 0x54, 0x11, 0x66, 0x77, 0x88 };

static struct {
        struct vhk_frontend *f;
        struct vhk_memory *m;
        struct vhk_drvq *rx, *tx;
        uint8_t *in, *out;              /* RING and N_SENT buffers */
        uint64_t n_out, n_sent, n_in;   /* frames put into the ring, seen to be gone, received */
} c;

#define CALL(call)                                                                                              \
        do {                                                                                                    \
                int k_ = (call);                                                                                \
                CHECK_MSG(k_ >= 0, "%s gave %d: %s", #call, k_, vhk_frontend_get_error(c.f)->text);             \
        } while (0)

/* ---- the card ---- */

static void add_card(void) {
        struct vhk_vdpa_add a = { .size = sizeof(a), .name = NAME, .mgmt_name = "vdpasim_net", .has_mac = 1 };
        struct vhk_error e = { 0 };

        memcpy(a.mac, own_mac, 6);
        vhk_frontend_close(c.f);                /* of a test that failed: who removes a device waits for whoever has it open */
        vhk_vdpa_del(NAME, NULL);
        memset(&c, 0, sizeof(c));
        int k = vhk_vdpa_add(&a, &e);
        if (k == -EOPNOTSUPP || k == -ENODEV || k == -EPERM)
                SKIP(e.text);
        CHECK_MSG(k == 0, "%s", e.text);
        k = vhk_vdpa_bind(NAME, "vhost_vdpa", &e);
        if (k == -EOPNOTSUPP)
                SKIP(e.text);
        CHECK_MSG(k == 0, "%s", e.text);
}

static void make_card(void) {
        struct vhk_error e;

        add_card();
        CHECK_MSG(vhk_frontend_open("vhost-vdpa:" NAME, NULL, &c.f, &e) == 0, "%s", e.text);
        CHECK_OK(vhk_memory_new(&c.m));
        CALL(vhk_frontend_set_status(c.f, 3));
        CALL(vhk_frontend_set_features(c.f, F_VERSION_1 | F_MAC | F_CTRL_VQ | F_CTRL_MAC));
        CALL(vhk_frontend_set_status(c.f, 11));
}

/* The rings of frames; the device runs once the status says so. */
static void start_rings(void) {
        const struct vhk_drvq_options o = { .size = sizeof(o), .num = RING };
        void *in, *out;

        CHECK_OK(vhk_memory_alloc(c.m, (size_t)RING * ROOM, &in));
        CHECK_OK(vhk_memory_alloc(c.m, (size_t)N_SENT * ROOM, &out));
        c.in = in;
        c.out = out;
        CALL(vhk_drvq_new(c.f, c.m, 0, &o, &c.rx));
        CALL(vhk_drvq_new(c.f, c.m, 1, &o, &c.tx));
        for (unsigned i = 0; i < RING; i++)
                CALL(vhk_drvq_add(c.rx, &(struct iovec){ c.in + i * ROOM, ROOM }, 0, 1, c.in + i * ROOM));
}

static void run(void) {
        CALL(vhk_frontend_set_status(c.f, 15));
        CALL(vhk_drvq_kick(c.rx));
}

static void remove_card(void) {
        struct vhk_error e;

        c.rx = vhk_drvq_free(c.rx);
        c.tx = vhk_drvq_free(c.tx);
        c.f = vhk_frontend_close(c.f);
        c.m = vhk_memory_free(c.m);
        CHECK_MSG(vhk_vdpa_del(NAME, &e) == 0, "%s", e.text);
}

/* ---- frames ---- */

/* Frame @i: to everybody, to many, or to @mac; of any length; its bytes are like no other's. */
static uint32_t make_frame(uint8_t *p, uint64_t i, const uint8_t mac[6]) {
        static const uint8_t many[6] = { 0x33, 0x33, 0, 0, 0, 1 };
        uint32_t n = HEADER + 60 + (uint32_t)(i * 37 % 1455);
        uint64_t x = i * 0x9e3779b97f4a7c15 + 1;

        memset(p, 0, HEADER);
        for (uint32_t j = HEADER; j < n; j++) {
                x = x * 6364136223846793005 + 1442695040888963407;
                p[j] = (uint8_t)(x >> 56);
        }
        if (i % 3 == 0)
                memset(p + HEADER, 0xff, 6);
        else
                memcpy(p + HEADER, i % 3 == 1 ? many : mac, 6);
        return n;
}

static void receive(const uint8_t mac[6]) {
        static uint8_t expected[ROOM];
        struct vhk_done d[32];
        int n = vhk_drvq_reap(c.rx, d, VHK_N(d));

        CHECK_MSG(n >= 0, "the receive ring is broken");
        for (int i = 0; i < n; i++) {
                uint32_t len = make_frame(expected, c.n_in, mac);
                CHECK_MSG(d[i].len == len && !memcmp(d[i].cookie, expected, len), "frame %llu of %u bytes came as one of %u", (unsigned long long)c.n_in, len, d[i].len);
                memset(d[i].cookie, 0, ROOM);
                CALL(vhk_drvq_add(c.rx, &(struct iovec){ d[i].cookie, ROOM }, 0, 1, d[i].cookie));
                c.n_in++;
        }
        if (n)
                CALL(vhk_drvq_kick(c.rx));
        n = vhk_drvq_reap(c.tx, d, VHK_N(d));
        CHECK_MSG(n >= 0, "the transmit ring is broken");
        c.n_sent += (uint64_t)n;
}

static void wait_for_ring(struct vhk_drvq *q) {
        struct pollfd p = { vhk_drvq_get_fd(q), POLLIN, 0 };
        eventfd_t n;

        if (vhk_drvq_arm(q))
                return;
        CHECK_MSG(poll(&p, 1, 10000) == 1, "nothing for ten seconds: %llu of %llu frames are back, %llu are gone", (unsigned long long)c.n_in,
                  (unsigned long long)c.n_out, (unsigned long long)c.n_sent);
        eventfd_read(p.fd, &n);
}

/* @n frames more, in order, each compared. */
static void loop(uint64_t n, const uint8_t mac[6]) {
        uint64_t end = c.n_out + n;

        while (c.n_in < end || c.n_sent < end) {
                uint64_t before = c.n_in + c.n_sent;
                unsigned added = 0;
                /* A buffer is used again once its frame is gone; what was sent earlier comes back earlier. */
                for (; c.n_out < end && c.n_out - VHK_MIN(c.n_in, c.n_sent) < N_SENT; added++) {
                        uint8_t *p = c.out + c.n_out % N_SENT * ROOM;
                        CALL(vhk_drvq_add(c.tx, &(struct iovec){ p, make_frame(p, c.n_out, mac) }, 1, 0, p));
                        c.n_out++;
                }
                if (added)
                        CALL(vhk_drvq_kick(c.tx));
                receive(mac);
                if (c.n_in + c.n_sent == before && (c.n_in < end || c.n_sent < end))
                        wait_for_ring(c.n_in < c.n_out ? c.rx : c.tx);
        }
}

static double seconds(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

TEST(hundred_thousand_frames_come_back) {
        make_card();
        start_rings();
        run();
        double begin = seconds();
        loop(100000, own_mac);
        printf("  100000 frames in %.1f s\n", seconds() - begin);
        CHECK_EQ(c.n_in, 100000);
        remove_card();
}

TEST(rings_stop_and_go_on) {
        make_card();
        start_rings();
        run();
        for (unsigned i = 0; i < 4; i++) {
                loop(1000, own_mac);
                CALL(vhk_drvq_stop(c.tx));
                CALL(vhk_drvq_stop(c.rx));
                CALL(vhk_drvq_start(c.rx));
                CALL(vhk_drvq_start(c.tx));
        }
        CHECK_EQ(c.n_in, 4000);
        remove_card();
}

/* ---- the control ring, in an address space of its own ---- */

#define CTL_IOVA 0x7f0000000000ull      /* nothing of the driver's memory is near */
#define DATA_IOVA 0x7f0000100000ull
#define CTL_NUM 8u

/* A page for the ring, one for commands */
static struct ctl {
        struct vring_desc desc[CTL_NUM];
        VHK_ALIGNED(1024) struct { uint16_t flags, idx, ring[CTL_NUM]; } avail;
        VHK_ALIGNED(1024) struct { uint16_t flags, idx; struct vring_used_elem ring[CTL_NUM]; } used;
        VHK_ALIGNED(4096) struct virtio_net_ctrl_hdr header;
        uint8_t mac[6], ack;
} *ctl;
static int kick_fd, call_fd;

static uint64_t ctl_iova(const void *p) {
        return CTL_IOVA + (uint64_t)((const char *)p - (const char *)ctl);
}

static int start_control(uint64_t iova) {
        const struct vhk_ring_setup s = {
                .size = sizeof(s), .num = CTL_NUM, .kick_fd = kick_fd, .call_fd = call_fd, .err_fd = -1,
                .desc = iova + offsetof(struct ctl, desc), .driver = iova + offsetof(struct ctl, avail), .device = iova + offsetof(struct ctl, used),
        };

        return vhk_frontend_start_queue(c.f, 2, &s);
}

/* "Your address is what stands at @mac_iova": what the device says to it */
static uint8_t set_mac(const uint8_t mac[6], uint64_t mac_iova) {
        struct pollfd p = { call_fd, POLLIN, 0 };
        uint16_t i = ctl->avail.idx;
        eventfd_t n;

        ctl->header = (struct virtio_net_ctrl_hdr){ .class = VIRTIO_NET_CTRL_MAC, .cmd = VIRTIO_NET_CTRL_MAC_ADDR_SET };
        memcpy(ctl->mac, mac, 6);
        ctl->ack = 0xee;
        ctl->desc[0] = (struct vring_desc){ ctl_iova(&ctl->header), sizeof(ctl->header), VRING_DESC_F_NEXT, 1 };
        ctl->desc[1] = (struct vring_desc){ mac_iova, 6, VRING_DESC_F_NEXT, 2 };
        ctl->desc[2] = (struct vring_desc){ ctl_iova(&ctl->ack), 1, VRING_DESC_F_WRITE, 0 };
        ctl->avail.ring[i % CTL_NUM] = 0;
        vhk_store_release(&ctl->avail.idx, (uint16_t)(i + 1));          /* pairs with the kernel's read of it */
        eventfd_write(kick_fd, 1);
        CHECK_MSG(poll(&p, 1, 10000) == 1, "no answer to a command");
        eventfd_read(call_fd, &n);
        CHECK_EQ(vhk_load_acquire(&ctl->used.idx), (uint16_t)(i + 1));
        return ctl->ack;
}

static void check_mac(const uint8_t mac[6]) {
        uint8_t is[6];

        CALL(vhk_frontend_get_config(c.f, 0, is, 6));
        CHECK(!memcmp(is, mac, 6));
}

TEST(control_ring_in_its_own_address_space) {
        struct vhk_frontend_info info = { .size = sizeof(info) };
        uint32_t group[3];

        make_card();
        CALL(vhk_frontend_get_info(c.f, &info));
        CHECK_EQ(info.n_groups, 2);
        CHECK_EQ(info.n_address_spaces, 2);
        for (unsigned i = 0; i < 3; i++)
                CALL(vhk_frontend_get_queue_group(c.f, i, &group[i]));
        CHECK(group[0] == group[1] && group[2] != group[0]);
        kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ctl = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint8_t *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(ctl != MAP_FAILED && data != MAP_FAILED);
        _Static_assert(sizeof(*ctl) <= 8192, "two pages");
        CALL(vhk_frontend_set_group_asid(c.f, group[2], 1));
        CALL(vhk_frontend_dma_map(c.f, 1, CTL_IOVA, 8192, ctl, VHK_ACCESS_BOTH));
        CALL(vhk_frontend_dma_map(c.f, 0, DATA_IOVA, 4096, data, VHK_ACCESS_BOTH));
        memcpy(data, (uint8_t[]){ 0x52, 0x54, 0x11, 0xde, 0xad, 0x02 }, 6);

        CHECK_EQ(start_control(DATA_IOVA), -EFAULT);    /* it is in the other one */
        start_rings();
        CALL(start_control(CTL_IOVA));
        run();
        check_mac(own_mac);
        loop(3000, own_mac);
        CHECK_EQ(set_mac(other_mac, ctl_iova(ctl->mac)), VIRTIO_NET_OK);
        check_mac(other_mac);
        loop(3000, other_mac);                          /* which it drops unless they are its own */

        CHECK_EQ(set_mac(own_mac, DATA_IOVA), VIRTIO_NET_ERR);          /* not to be found from the control ring */
        check_mac(other_mac);
        CALL(vhk_frontend_dma_map(c.f, 1, DATA_IOVA, 4096, data, VHK_ACCESS_READ));
        CHECK_EQ(set_mac(own_mac, DATA_IOVA), VIRTIO_NET_OK);
        check_mac(data);
        CALL(vhk_frontend_dma_unmap(c.f, 1, DATA_IOVA, 4096));
        CHECK_EQ(set_mac(own_mac, DATA_IOVA), VIRTIO_NET_ERR);
        check_mac(data);
        CHECK_EQ(set_mac(own_mac, ctl_iova(ctl->mac)), VIRTIO_NET_OK);
        loop(3000, own_mac);

        CALL(vhk_frontend_stop_queue(c.f, 2, NULL));
        remove_card();
        munmap(ctl, 8192);
        munmap(data, 4096);
        close(kick_fd);
        close(call_fd);
}

/* ---- the card's driver ---- */

static struct vhk_net *card;
static struct vhk_net_queue *pair;

#define CARD(call)                                                                                              \
        ({                                                                                                      \
                int k_ = (call);                                                                                \
                CHECK_MSG(k_ >= 0, "%s gave %d: %s", #call, k_, vhk_net_queue_get_error(pair)->text);           \
                k_;                                                                                             \
        })

/* @n frames, the @first of which is of that number; each that is not dropped comes back. Returns how many did. */
static unsigned drive(uint64_t first, unsigned n, const uint8_t mac[6], bool all_come) {
        static uint8_t sent[N_SENT][ROOM], expected[ROOM], got[ROOM];
        struct vhk_net_frame in[32], out;
        unsigned n_sent = 0, n_got = 0;

        while (n_got < n) {
                for (; n_sent < n && n_sent - n_got < N_SENT; n_sent++) {
                        uint8_t *p = sent[n_sent % N_SENT];
                        uint32_t len = make_frame(p, first + n_sent, mac) - HEADER;
                        out = (struct vhk_net_frame){ .iov = &(struct iovec){ p + HEADER, len }, .n_iov = 1, .len = len };
                        if (CARD(vhk_net_send(pair, &out, 1)) == 0)
                                break;
                }
                int k = CARD(vhk_net_receive(pair, in, VHK_N(in), all_come ? 10000 : 500));
                CHECK_MSG(k || !all_come, "nothing for ten seconds: %u of %u frames are back", n_got, n_sent);
                if (!k)
                        break;
                for (int i = 0; i < k; i++, n_got++) {
                        uint32_t len = make_frame(expected, first + n_got, mac) - HEADER, at = 0;
                        for (unsigned j = 0; j < in[i].n_iov && at + in[i].iov[j].iov_len <= ROOM; at += (uint32_t)in[i].iov[j++].iov_len)
                                memcpy(got + at, in[i].iov[j].iov_base, in[i].iov[j].iov_len);
                        CHECK_MSG(in[i].len == len && at == len && !memcmp(got, expected + HEADER, len), "frame %u of %u bytes came as one of %u", n_got, len, in[i].len);
                }
                CARD(vhk_net_release(pair, in, (unsigned)k));
        }
        return n_got;
}

TEST(driver_of_the_card) {
        struct vhk_net_info info = { .size = sizeof(info) };
        struct vhk_error e;

        card = vhk_net_close(card);
        add_card();
        CHECK_MSG(vhk_net_open("vhost-vdpa:" NAME, NULL, &card, &e) == 0, "%s", e.text);
        CHECK_OK(vhk_net_get_info(card, &info));
        CHECK(info.has_mac && !memcmp(info.mac, own_mac, 6));
        CHECK_EQ(info.mtu, 1500);
        CHECK_EQ(info.header_size, HEADER);
        CHECK_OK(vhk_net_get_queue(card, 0, &pair));
        CHECK_EQ(drive(0, 10000, own_mac, true), 10000);
        CARD(vhk_net_set_mac(card, other_mac));         /* through the control queue */
        CHECK_EQ(drive(10000, 3000, other_mac, true), 3000);
        CHECK_EQ(drive(2, 1, own_mac, false), 0);       /* one to the former address */
        CHECK_EQ(drive(2, 1, other_mac, false), 1);
        card = vhk_net_close(card);
        CHECK_MSG(vhk_vdpa_del(NAME, &e) == 0, "%s", e.text);
}
