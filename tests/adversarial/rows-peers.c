/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The rows about translations, device state, the back-end channel from both sides, connections and processes. */
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <spawn.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <vhostkit/blk.h>

#include "frontend/test-fake.h"
#include "hostile.h"

/* ---- translations ---- */

#define IOMMU_FEATURES (FEATURES | VHK_BIT(VHK_F_ACCESS_PLATFORM))

static enum result iotlb(uint64_t iova, uint64_t len, uint64_t uva, uint8_t perm, uint8_t type) {
        return say(VHK_FE_IOTLB_MSG, &(struct vhk_p_iotlb){ .iova = iova, .len = len, .user_addr = uva, .perm = perm, .type = type }, 32, -1);
}

static bool has_iommu(void) {
        if (offered & VHK_BIT(VHK_F_ACCESS_PLATFORM))
                return true;
        come();
        REFUSED(iotlb(0, 0x1000, (uint64_t)(uintptr_t)fe->mem, 3, VHK_IOTLB_UPDATE), 22);
        snprintf(verdict, sizeof(verdict), "refused: ACCESS_PLATFORM not offered");
        return false;
}

static void come_with_iommu(void) {
        leave();
        fe_connect(fe);
        fe_negotiate(fe, IOMMU_FEATURES, all_protocol());
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
}

#define UVA ((uint64_t)(uintptr_t)fe->mem)

/* Ring addresses are the front-end's own, buffers are guest addresses: both are translated. */
static void map_all(void) {
        CHECK_EQ(iotlb(UVA, MEM_BYTES, UVA, 3, VHK_IOTLB_UPDATE), OK);
        CHECK_EQ(iotlb(GPA, MEM_BYTES, UVA, 3, VHK_IOTLB_UPDATE), OK);
}

static void start_ring(void) {
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
}

static void many_updates(unsigned n) {
        struct { struct vhk_hdr h; struct vhk_p_iotlb p; } __attribute__((packed)) m[250];

        for (unsigned done = 0; done < n; done += VHK_N(m)) {
                for (unsigned i = 0; i < VHK_N(m); i++) {
                        m[i].h = (struct vhk_hdr){ VHK_FE_IOTLB_MSG, 1, 32 };
                        m[i].p = (struct vhk_p_iotlb){ .iova = (done + i) * 0x2000ull + (1ull << 40), .len = 0x1000, .user_addr = UVA, .perm = 3, .type = VHK_IOTLB_UPDATE };
                }
                for (size_t at = 0; at < sizeof(m);) {
                        ssize_t k = send(fe->fe.fd, (char *)m + at, sizeof(m) - at, MSG_NOSIGNAL);
                        CHECK(k > 0 || errno == EAGAIN);
                        at += k > 0 ? (size_t)k : 0;
                }
                for (unsigned i = 0; i < VHK_N(m); i++) {
                        uint64_t x;
                        CHECK_EQ(fe_receive(fe, VHK_FE_IOTLB_MSG, &x, 8), 8);
                }
        }
}

/* A million entries, each told once: what it costs. */
static void flood(void) {
        struct mallinfo2 was = mallinfo2();
        uint64_t begin = now_ns();

        many_updates(1000000);
        uint64_t each = (now_ns() - begin) / 1000000;
        struct mallinfo2 now = mallinfo2();
        size_t grown = now.uordblks + now.hblkhd - VHK_MIN(was.uordblks + was.hblkhd, now.uordblks + now.hblkhd);
        CHECK_MSG(grown <= 1u << 20, "%zu bytes more of heap for a million entries", grown);
        CHECK_MSG(each <= 50000, "%llu ns for each of a million entries", (unsigned long long)each);
        snprintf(verdict, sizeof(verdict), "a million entries: %llu ns each", (unsigned long long)each);
}

ROW(H29, "IOTLB: size 0, overflow, everything, outside regions, perm, type, overlaps, while in use, flood", "E") {
        const struct { uint64_t iova, len, uva; uint8_t perm, type; } bad[] = {
                { 0, 0, UVA, 3, VHK_IOTLB_UPDATE }, { ~0ull - 0xfff, 0x2000, UVA, 3, VHK_IOTLB_UPDATE }, { 0, ~0ull, UVA, 3, VHK_IOTLB_UPDATE },
                { 0, 0x1000, 0x1000, 3, VHK_IOTLB_UPDATE }, { 0, MEM_BYTES + 0x1000, UVA, 3, VHK_IOTLB_UPDATE }, { 0, 0x1000, UVA + MEM_BYTES, 3, VHK_IOTLB_UPDATE },
                { 0, 0x1000, ~0ull - 0x7ff, 3, VHK_IOTLB_UPDATE }, { 0, 0x1000, UVA, 0, VHK_IOTLB_UPDATE }, { 0, 0x1000, UVA, 4, VHK_IOTLB_UPDATE },
                { 0, 0x1000, UVA, 0xff, VHK_IOTLB_UPDATE }, { 0, 0x1000, UVA, 3, 0 }, { 0, 0x1000, UVA, 3, VHK_IOTLB_MISS },
                { 0, 0x1000, UVA, 3, VHK_IOTLB_ACCESS_FAIL }, { 0, 0x1000, UVA, 3, 99 },
        };

        if (!has_iommu())
                return;
        come_with_iommu();
        flood();
        CHECK_EQ(iotlb(0, 0, 0, 0, VHK_IOTLB_INVALIDATE), OK);
        for (unsigned i = 0; i < VHK_N(bad); i++)
                CHECK_EQ(iotlb(bad[i].iova, bad[i].len, bad[i].uva, bad[i].perm, bad[i].type), NO);
        map_all();
        start_ring();
        for (unsigned i = 0; i < 60; i++) {
                read_sector(0, i);
                (void)iotlb(GPA + i * 0x1000, 0x3000, UVA + i * 0x1000, 3, VHK_IOTLB_UPDATE);      /* overlaps, the same memory */
                (void)iotlb(i & 1 ? GPA : 0, i & 1 ? MEM_BYTES : 0, 0xdeadbeef, 0xff, VHK_IOTLB_INVALIDATE);      /* 0: everything */
                map_all();
        }
        read_sector(0, 9);
        many_updates(20000);                    /* while the ring looks */
        expect_alive();                         /* the table is bounded: older translations may have gone */
        come_with_iommu();
        map_all();
        start_ring();
        read_sector(0, 10);
}

/* The ring's next request misses; the front-end's end of the channel is @ret_fd. */
static void miss(int *ret_fd) {
        int pair[2];

        come_with_iommu();
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        CHECK_EQ(say(VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), OK);
        close(pair[1]);
        *ret_fd = pair[0];
        map_all();
        start_ring();
        read_sector(0, 1);
        CHECK_EQ(iotlb(GPA, MEM_BYTES, 0, 0, VHK_IOTLB_INVALIDATE), OK);
        struct ring *g = &fe->rings[0];
        struct iovec sg[2] = { { g->area + HEAD_AT, 16 }, { g->area + STATUS_AT, 1 } };
        *(struct blk_head *)(void *)(g->area + HEAD_AT) = (struct blk_head){ .type = 4 };
        CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 1, g));
        (void)vhk_drvring_publish(g->drv);
        vhk_notify_fd(g->kick);
}

static bool heard(int fd, struct vhk_hdr *ret_h) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        uint8_t payload[64];

        if (poll(&p, 1, 3000) != 1 || recv(fd, ret_h, sizeof(*ret_h), MSG_WAITALL) != sizeof(*ret_h) || ret_h->size > sizeof(payload))
                return false;
        return !ret_h->size || recv(fd, payload, ret_h->size, MSG_WAITALL) == (ssize_t)ret_h->size;
}

void warm_up(void) {
        struct vhk_hdr h;
        int fd;

        come_with_memory();
        for (unsigned i = 0; i < N_RINGS; i++) {
                ring_make(fe, i);
                ring_set_up(fe, i, 0);
                ring_go(fe, i);
                read_sector(i, i);
        }
        if (!(offered & VHK_BIT(VHK_F_ACCESS_PLATFORM)))
                return;
        miss(&fd);
        (void)heard(fd, &h);
        close(fd);
}

static void answer(int fd, const struct vhk_hdr *h, uint64_t value) {
        struct { struct vhk_hdr h; uint64_t x; } __attribute__((packed)) m = { { h->request, 5, 8 }, value };

        CHECK_EQ(send(fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
}

ROW(H30, "IOTLB miss never answered, answered wrongly, refused; the channel closed while waiting", "Q") {
        struct vhk_hdr h;

        if (!has_iommu())
                return;
        for (unsigned k = 0; k < 5; k++) {
                int fd;
                miss(&fd);
                CHECK(heard(fd, &h));
                CHECK_EQ(h.request, VHK_BE_IOTLB_MSG);
                switch (k) {
                case 1: close(fd); fd = -1; break;
                case 2: answer(fd, &h, 1); break;
                case 3:                         /* "done", and nothing came; again and again */
                        for (unsigned i = 0; i < 8 && !is_broken(0); i++) {
                                answer(fd, &h, 0);
                                if (!heard(fd, &h))
                                        break;
                        }
                        break;
                case 4:                         /* a translation that does not allow the write */
                        for (unsigned i = 0; i < 8 && !is_broken(0); i++) {
                                CHECK_EQ(iotlb(GPA, MEM_BYTES, UVA, 1, VHK_IOTLB_UPDATE), OK);
                                answer(fd, &h, 0);
                                if (!heard(fd, &h))
                                        break;
                        }
                        break;
                }
                expect_quiet("while a miss waits", 60);
                PUMP_UNTIL(fe, is_broken(0));
                expect_alive();
                vhk_close(&fd);
        }
        int fd;                                 /* and a right answer */
        miss(&fd);
        CHECK(heard(fd, &h));
        map_all();
        answer(fd, &h, 0);
        struct vhk_done done;
        PUMP_UNTIL(fe, vhk_drvring_reap(fe->rings[0].drv, &done, 1) == 1);
        close(fd);
}

/* ---- device state ---- */

/* One bad transfer; what CHECK_DEVICE_STATE says, or -EPIPE: the connection was closed. */
static int64_t transfer(unsigned how) {
        struct vhk_p_device_state p = { 0, 0 };
        uint8_t junk[65536];
        uint64_t x = 0;
        int pair[2];

        p.direction = how != 5;                 /* load, but for one */
        CHECK_EQ(pipe2(pair, O_CLOEXEC | O_NONBLOCK), 0);
        if (how == 5)                           /* nobody reads what is saved */
                vhk_close(&pair[0]);
        fe_send(fe, VHK_FE_SET_DEVICE_STATE_FD, 0, &p, 8, &pair[how == 5], 1);
        int k = fe_receive(fe, VHK_FE_SET_DEVICE_STATE_FD, &x, 8);
        vhk_close(&pair[how == 5]);
        if (k < 0 || (x & 0xff)) {
                vhk_close(&pair[how != 5]);
                return k < 0 ? k : (int64_t)(x & 0xff);
        }
        memset(junk, how * 37, sizeof(junk));
        switch (how) {
        case 1: CHECK_EQ(write(pair[1], junk, 1), 1); break;
        case 2: CHECK_EQ(write(pair[1], junk, 4096), 4096); break;
        case 3: for (unsigned i = 0; i < 4096; i++) junk[i] = (uint8_t)(i * 131 >> 3); CHECK_EQ(write(pair[1], junk, 4096), 4096); break;
        case 4:                                 /* does not end */
                for (uint64_t until = now_ns() + 3000000000u; now_ns() < until;)
                        if (write(pair[1], junk, sizeof(junk)) < 0 && errno != EAGAIN)
                                break;
                break;
        }
        if (how < 4)
                vhk_close(&pair[1]);            /* 6: asked before the end */
        k = (int)fe_ask(fe, VHK_FE_CHECK_DEVICE_STATE, NULL, 0, -1);
        vhk_close(&pair[0]);
        vhk_close(&pair[1]);
        return k;
}

ROW(H35, "DEVICE_STATE: direction 2, phase 1, while running, no descriptor, CHECK before the end", "E") {
        static const uint32_t ids[] = { VHK_FE_SET_DEVICE_STATE_FD, VHK_FE_CHECK_DEVICE_STATE };
        static const struct vhk_p_device_state bad[] = { { 2, 0 }, { 0, 1 }, { 0xffffffff, 0 }, { 1, 0xffffffff } };

        if (!is_offered(VHK_PF_DEVICE_STATE, "DEVICE_STATE", ids, VHK_N(ids)))
                return;
        int pair[2];
        CHECK_EQ(pipe2(pair, O_CLOEXEC), 0);
        come_with_memory();
        for (unsigned i = 0; i < VHK_N(bad); i++)
                REFUSED(say(VHK_FE_SET_DEVICE_STATE_FD, &bad[i], 8, pair[1]), i);
        struct vhk_p_device_state save = { 0, 0 };
        REFUSED(say(VHK_FE_SET_DEVICE_STATE_FD, &save, 8, -1), 0);
        come_with_ring();
        REFUSED(say(VHK_FE_SET_DEVICE_STATE_FD, &save, 8, pair[1]), 0);
        close(pair[0]);
        close(pair[1]);
        /* This thread writes into pipes that the back-end closes; the back-end's threads must look after themselves. */
        sigset_t sigpipe;
        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &sigpipe, NULL), 0);
        for (unsigned k = 0; k < 7; k++) {
                come_with_memory();
                CHECK_MSG(transfer(k) != 0, "transfer %u went well", k);
                come_with_ring();
                read_sector(0, k);
        }
}

/* ---- the channel, from the front-end's side ---- */

static struct fake fake;
static struct vhk_frontend *front;

static void front_open_with(const struct vhk_frontend_shmem *shmem, uint64_t window) {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 5000000000ull, .shmem = shmem };
        struct vhk_error e = { .text = "" };
        int pair[2];

        fake_init(&fake);
        fake.shmem = (struct vhk_p_shmem_config){ .n_regions = !!window, .sizes = { [3] = window } };
        fake.state.protocol_offered = ~VHK_BIT(VHK_PF_XEN_MMAP) & 0xffffff;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        fake_start(&fake, pair[1]);
        o.fd = pair[0];
        CHECK_MSG(vhk_frontend_open(NULL, &o, &front, &e) == 0, "%s", e.text);
        CHECK(fake.channel >= 0);
}

static void front_open(void) {
        front_open_with(NULL, 0);
}

static void front_close(void) {
        front = vhk_frontend_close(front);
        fake_stop(&fake);
}

static uint64_t front_protocol(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_frontend_get_info(front, &i));
        return i.carrier_acked;
}

/* A request on the channel with @n_fds times @fd, and its answer: its value, -ENODATA none came, -EPROTO the end. */
static int64_t ask_front_with(uint32_t id, uint32_t flags, const void *payload, uint32_t size, int fd, unsigned n_fds) {
        uint8_t raw[12 + 256];
        struct vhk_hdr h = { id, flags, size };
        union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int) * 64)]; } c = { { 0 } };
        struct iovec v = { raw, 12 + VHK_MIN(size, 256u) };
        struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
        struct { struct vhk_hdr h; uint64_t x; } __attribute__((packed)) reply;

        memcpy(raw, &h, 12);
        if (payload)
                memcpy(raw + 12, payload, VHK_MIN(size, 256u));
        else
                memset(raw + 12, 0xee, sizeof(raw) - 12);
        if (n_fds) {
                m.msg_control = &c;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
                for (unsigned i = 0; i < n_fds; i++)
                        memcpy(CMSG_DATA(&c.h) + i * sizeof(int), &fd, sizeof(int));
        }
        CHECK(sendmsg(fake.channel, &m, MSG_NOSIGNAL) == (ssize_t)v.iov_len);
        int k = vhk_frontend_dispatch(front);
        if (k < 0)
                return k;
        if (recv(fake.channel, &reply, sizeof(reply), MSG_DONTWAIT) != sizeof(reply))
                return -ENODATA;
        CHECK_EQ(reply.h.request, id);
        CHECK_EQ(reply.h.flags, 5);
        return (int64_t)reply.x;
}

static int64_t ask_front(uint32_t id, uint32_t flags, const void *payload, uint32_t size, unsigned n_fds) {
        return ask_front_with(id, flags, payload, size, fe->memfd, n_fds);
}

static void front_is_alive(void) {
        uint8_t status;

        CHECK_OK(vhk_frontend_get_status(front, &status));
}

/* A window of a front-end that really maps, between two pages that nobody may touch. */
#define WINDOW_PAGES (VHK_SHMEM_MAPPINGS + 16)
#define WINDOW (WINDOW_PAGES * VHK_PAGE)
static struct { uint8_t *at; int fd; unsigned n; bool wild; } window;

static bool in_window(const struct vhk_shmem_map *m) {
        bool good = m->id == 3 && vhk_range_within(m->offset, m->len, WINDOW) && m->len && !((m->offset | m->len | m->fd_offset) % VHK_PAGE);

        window.wild |= !good;
        return good;
}

static int on_map(void *arg, const struct vhk_shmem_map *m) {
        if (!in_window(m))
                return -EINVAL;
        void *p = mmap(window.at + m->offset, m->len, PROT_READ | (m->writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED, m->fd, (off_t)m->fd_offset);
        window.n += p != MAP_FAILED;
        return p == MAP_FAILED ? -errno : 0;
}

static void on_unmap(void *arg, const struct vhk_shmem_map *m) {
        if (in_window(m) && mmap(window.at + m->offset, m->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
                window.n--;
}

static int64_t shmem(uint32_t id, uint8_t region, uint64_t page, uint64_t n, uint64_t fd_page) {
        struct vhk_p_mmap p = { .shmid = region, .shm_offset = page * VHK_PAGE, .len = n * VHK_PAGE, .fd_offset = fd_page * VHK_PAGE, .flags = VHK_MMAP_RW };

        return ask_front_with(id, 9, &p, sizeof(p), window.fd, id == VHK_BE_SHMEM_MAP);
}

/* What is wrong in itself, whatever is mapped. */
static void bad_mappings(void) {
        static const struct vhk_p_mmap bad[] = {
                { .shmid = 255, .len = 0x1000 }, { .shmid = 0, .len = 0x1000 }, { .shmid = 3, .len = 0 }, { .shmid = 3, .shm_offset = ~0ull - 0xfff, .len = 0x2000 },
                { .shmid = 3, .fd_offset = ~0ull - 0xfff, .len = 0x2000 }, { .shmid = 3, .shm_offset = 1, .len = 0x1000 }, { .shmid = 3, .len = 0xfff },
                { .shmid = 3, .len = 1ull << 62 }, { .shmid = 3, .len = 0x1000, .flags = 2 }, { .shmid = 3, .len = 0x1000, .flags = ~0ull },
                { .shmid = 3, .len = 0x1000, .fd_offset = 1ull << 40 }, { .shmid = 3, .shm_offset = WINDOW, .len = 0x1000 },
                { .shmid = 3, .shm_offset = WINDOW - 0x1000, .len = 0x2000 }, { .shmid = 3, .len = 0x1000, .fd_offset = WINDOW },
                { .shmid = 3, .len = 0x1000, .fd_offset = 512 },
        };

        for (unsigned i = 0; i < VHK_N(bad); i++)
                for (uint32_t id = VHK_BE_SHMEM_MAP; id <= VHK_BE_SHMEM_UNMAP; id++)
                        CHECK_MSG(ask_front_with(id, 9, &bad[i], sizeof(bad[i]), window.fd, id == VHK_BE_SHMEM_MAP) > 0, "message %u, form %u", id, i);
        front_is_alive();
}

/* Overlaps, parts, another file than one that can be shown. */
static void clashing_mappings(void) {
        unsigned n = window.n;
        int other[2];

        CHECK_EQ(shmem(VHK_BE_SHMEM_MAP, 3, 4, 4, 4), 0);
        for (unsigned from = 0; from < 8; from++)
                for (unsigned to = VHK_MAX(from, 4u) + 1; to < 10; to++) {
                        CHECK_EQ(shmem(VHK_BE_SHMEM_MAP, 3, from, to - from, from), 1);
                        if (from != 4 || to != 8)
                                CHECK_EQ(shmem(VHK_BE_SHMEM_UNMAP, 3, from, to - from, 0), 1);
                }
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(*(uint64_t *)(window.at + (4 + i) * VHK_PAGE), 4 + i);
        CHECK_EQ(shmem(VHK_BE_SHMEM_UNMAP, 3, 4, 4, 0), 0);
        CHECK_EQ(shmem(VHK_BE_SHMEM_UNMAP, 3, 4, 4, 0), 1);
        CHECK_EQ(pipe2(other, O_CLOEXEC), 0);
        int dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), reader = open(disk_path, O_RDONLY | O_CLOEXEC), small = memfd_create("small", MFD_CLOEXEC);
        const int fds[] = { other[0], other[1], dir, reader, small, fake.channel };
        struct vhk_p_mmap p = { .shmid = 3, .len = VHK_PAGE, .flags = VHK_MMAP_RW };
        for (unsigned i = 0; i < VHK_N(fds); i++)
                CHECK_MSG(ask_front_with(VHK_BE_SHMEM_MAP, 9, &p, sizeof(p), fds[i], 1) == 1, "descriptor %u", i);
        CHECK_EQ(ask_front_with(VHK_BE_SHMEM_MAP, 9, &p, sizeof(p), window.fd, 0), 1);
        CHECK_EQ(ask_front_with(VHK_BE_SHMEM_MAP, 9, &p, sizeof(p), window.fd, 2), 1);
        CHECK_EQ(ask_front_with(VHK_BE_SHMEM_UNMAP, 9, &p, sizeof(p), window.fd, 1), 1);
        for (unsigned i = 0; i < VHK_N(fds) - 1; i++)
                close(fds[i]);
        CHECK_EQ(window.n, n);
}

static void mapping_storm(void) {
        for (unsigned i = 0; i < 10000; i++)            /* in and out */
                CHECK_EQ(shmem(i & 1 ? VHK_BE_SHMEM_UNMAP : VHK_BE_SHMEM_MAP, 3, i / 2 % WINDOW_PAGES, 1, i / 2 % WINDOW_PAGES), 0);
        for (unsigned i = 0; i < WINDOW_PAGES; i++)     /* in, until no more are taken */
                CHECK_EQ(shmem(VHK_BE_SHMEM_MAP, 3, i, 1, i), i >= VHK_SHMEM_MAPPINGS);
        CHECK_EQ(window.n, VHK_SHMEM_MAPPINGS);
        for (unsigned i = 0; i < VHK_SHMEM_MAPPINGS; i++)
                CHECK_EQ(*(uint64_t *)(window.at + i * VHK_PAGE), i);
        front_is_alive();
}

static void make_window(void) {
        VHK_AUTOFREE uint8_t *content = calloc(1, WINDOW);

        window.fd = memfd_create("window", MFD_CLOEXEC);
        for (uint64_t i = 0; i < WINDOW_PAGES; i++)
                memcpy(content + i * VHK_PAGE, &i, sizeof(i));
        CHECK(window.fd >= 0 && write(window.fd, content, WINDOW) == (ssize_t)WINDOW);
        window.at = mmap(NULL, WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(window.at != MAP_FAILED);
        window.n = 0;
        window.wild = false;
}

ROW(H36, "front-end: SHMEM_MAP and UNMAP: shmid, ranges, overlap, parts, small file, flags, storm, the end", "E") {
        static const struct vhk_frontend_shmem callbacks = { .size = sizeof(callbacks), .map = on_map, .unmap = on_unmap };

        make_window();
        front_open();                           /* one that has no windows */
        bad_mappings();
        for (unsigned i = 0; i < 2000; i++)
                CHECK(shmem(VHK_BE_SHMEM_MAP, 3, i, 1, 0) > 0);
        front_is_alive();
        CHECK(!(front_protocol() & VHK_BIT(VHK_PF_SHMEM)));
        front_close();
        front_open_with(&callbacks, WINDOW);
        CHECK(front_protocol() & VHK_BIT(VHK_PF_SHMEM));
        bad_mappings();
        CHECK_EQ(window.n, 0);
        clashing_mappings();
        mapping_storm();
        CHECK_OK(vhk_frontend_reset(front));
        CHECK_EQ(window.n, 0);                  /* and all over again, until the back-end leaves */
        mapping_storm();
        shutdown(fake.fd, SHUT_RDWR);
        for (unsigned i = 0; i < 1000 && vhk_frontend_dispatch(front) >= 0; i++)
                usleep(1000);
        CHECK_EQ(window.n, 0);
        front_close();
        CHECK(!window.wild);
        munmap(window.at, WINDOW);
        close(window.fd);
        snprintf(verdict, sizeof(verdict), "refused without a window; with one, nothing but what fits was mapped");
}

ROW(H37, "front-end: short and long messages, unknown ids, descriptors, notifier, floods, foreign UUID", "E") {
        static struct vhk_sample m;

        for (const struct vhk_row *row = vhk_rows; row < vhk_rows + vhk_n_rows; row++)
                for (unsigned v = 0; row->dir == VHK_FROM_BACKEND && v < vhk_n_variants; v++) {
                        if (!vhk_sample_make(&m, row, &vhk_variants[v], 0))
                                continue;
                        uint32_t sizes[] = { 0, m.hdr.size - 1, m.hdr.size + 1, 200 };
                        front_open();
                        for (unsigned i = 0; i < VHK_N(sizes); i++)
                                if (!vhk_payload_has_size(row->request, front_protocol(), sizes[i]) && sizes[i] < 256)
                                        CHECK_MSG(ask_front(row->id, 9, m.u.bytes, sizes[i], m.n_fds) != 0, "%s with %u bytes was taken", row->name, sizes[i]);
                        for (unsigned n = m.n_fds + 1; n <= 40; n = n * 2 + 1)
                                CHECK_MSG(ask_front(row->id, 9, m.u.bytes, m.hdr.size, n) != 0, "%s with %u descriptors was taken", row->name, n);
                        front_is_alive();
                        front_close();
                }
        front_open();
        static const uint32_t ids[] = { 0, VHK_BE_LAST + 1, 11, 12, 255, 0x80000000, 0xffffffff };
        for (unsigned i = 0; i < VHK_N(ids); i++)
                CHECK(ask_front(ids[i], 9, NULL, 8, 0) != 0);
        CHECK(ask_front(VHK_BE_SHARED_OBJECT_REMOVE, 9, "sixteen bytes ..", 16, 0) > 0);
        CHECK(ask_front(VHK_BE_VRING_HOST_NOTIFIER_MSG, 9, &(struct vhk_p_vring_area){ .ring = 200, .len = 5 }, 24, 1) > 0);
        for (unsigned i = 0; i < 2000; i++)
                CHECK(ask_front(VHK_BE_IOTLB_MSG, 9, &(struct vhk_p_iotlb){ .iova = i, .perm = 3, .type = VHK_IOTLB_MISS }, 32, 0) > 0);
        struct vhk_hdr h = { VHK_BE_CONFIG_CHANGE_MSG, 1, 0 };
        vhk_fd_set_nonblock(fake.channel, true);
        while (send(fake.channel, &h, sizeof(h), MSG_NOSIGNAL) == sizeof(h))
                ;
        front_is_alive();
        for (int k = 1; k > 0;)
                k = vhk_frontend_dispatch(front);
        front_close();
        static const struct vhk_hdr fatal[] = { { VHK_BE_CONFIG_CHANGE_MSG, 2, 0 }, { VHK_BE_CONFIG_CHANGE_MSG, 5, 0 }, { VHK_BE_CONFIG_CHANGE_MSG, 9, 0xffffffff } };
        for (unsigned i = 0; i < VHK_N(fatal); i++) {
                front_open();
                CHECK_EQ(ask_front(fatal[i].request, fatal[i].flags, NULL, fatal[i].size, 0), -EPROTO);
                front_close();
        }
}

/* ---- the channel, from the back-end's side ---- */

ROW(H38, "back-end channel: wrong reply id, flags, size, value, descriptors; no reply; closed", "E") {
        struct { struct vhk_hdr h; uint64_t x[2]; } bad[] = {
                { { VHK_BE_CONFIG_CHANGE_MSG + 1, 5, 8 }, { 0 } }, { { VHK_BE_CONFIG_CHANGE_MSG, 1, 8 }, { 0 } }, { { VHK_BE_CONFIG_CHANGE_MSG, 7, 8 }, { 0 } },
                { { VHK_BE_CONFIG_CHANGE_MSG, 5, 4 }, { 0 } }, { { VHK_BE_CONFIG_CHANGE_MSG, 5, 16 }, { 0 } }, { { VHK_BE_CONFIG_CHANGE_MSG, 5, 0 }, { 0 } },
                { { VHK_BE_CONFIG_CHANGE_MSG, 5, 0xffffffff }, { 0 } }, { { VHK_BE_CONFIG_CHANGE_MSG, 5, 8 }, { ~0ull } }, { { 0, 0, 0 }, { 0 } },
        };

        for (unsigned i = 0; i < VHK_N(bad) + 3; i++) {
                struct vhk_hdr h;
                int pair[2];
                come_with_ring();
                CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                CHECK_EQ(say(VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), OK);
                close(pair[1]);
                CHECK_OK(vhk_host_config_changed(victim_host));
                CHECK(heard(pair[0], &h));
                CHECK_EQ(h.request, VHK_BE_CONFIG_CHANGE_MSG);
                if (i < VHK_N(bad))
                        CHECK(send(pair[0], &bad[i], 12 + VHK_MIN(bad[i].h.size, 16u), MSG_NOSIGNAL) > 0);
                else if (i == VHK_N(bad))
                        CHECK(send(pair[0], &bad[0], 7, MSG_NOSIGNAL) == 7);    /* and no more */
                else if (i == VHK_N(bad) + 1)
                        for (unsigned k = 0; k < 1000; k++)
                                (void)vhk_host_config_changed(victim_host);     /* nobody answers */
                else
                        shutdown(pair[0], SHUT_RDWR);
                read_sector(0, i);
                expect_quiet("with a broken channel", 60);
                expect_alive();
                close(pair[0]);
                read_sector(0, i);
                expect_alive();
        }
}

/* ---- connections and processes ---- */

static pid_t start_program(const char *socket_arg, const char *disk) {
        char disk_arg[160];
        char *const argv[] = { (char *)VHK_BLK_PROGRAM, (char *)socket_arg, disk_arg, NULL };
        char *const env[] = { NULL };
        pid_t pid;

        snprintf(disk_arg, sizeof(disk_arg), "--blk-file=%s", disk);
        CHECK_EQ(posix_spawn(&pid, VHK_BLK_PROGRAM, NULL, NULL, argv, env), 0);
        return pid;
}

/* Exit status, 128 + signal, or -1: it still runs after @ms. */
static int wait_program(pid_t pid, int ms) {
        int status;

        for (; ms > 0; ms -= 5) {
                if (waitpid(pid, &status, WNOHANG) == pid)
                        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                usleep(5000);
        }
        return -1;
}

static struct vhk_blk *open_disk(const char *path) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .connect_ns = 10000000000ull };
        struct vhk_blk_options o = { .size = sizeof(o), .frontend = &fo };
        struct vhk_error e = { .text = "" };
        struct vhk_blk *b;

        CHECK_MSG(vhk_blk_open(path, &o, &b, &e) == 0, "%s", e.text);
        return b;
}

static void read_disk(struct vhk_blk *b) {
        uint64_t buf[64];

        CHECK_EQ(vhk_blk_pread(b, buf, sizeof(buf), 512), sizeof(buf));
        CHECK_EQ(buf[0], 64);
}

ROW(H57, "connection storms, a second client, half-open; the path is a file, a link, stale, alive", "refuse") {
        char dir[] = "/tmp/vhk-hostile-dir-XXXXXX", path[64], arg[96], other[64];
        int fd;

        for (unsigned i = 0; i < 1000; i++) {
                CHECK_EQ(vhk_sock_connect(fe->path, 1000000000, &fd, NULL), 0);
                if (i % 3 == 1)
                        CHECK(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL) > 0 || errno == EPIPE);
                if (i % 3 == 2)
                        shutdown(fd, SHUT_WR);
                close(fd);
        }
        come_with_ring();
        CHECK_EQ(vhk_sock_connect(fe->path, 1000000000, &fd, NULL), 0);
        read_sector(0, 1);
        CHECK_EQ(send(fd, &(struct vhk_hdr){ VHK_FE_GET_FEATURES, 1, 0 }, 12, MSG_NOSIGNAL), 12);
        struct pollfd p = { .fd = fd, .events = POLLIN };
        CHECK_EQ(poll(&p, 1, 50), 0);           /* it waits its turn */
        read_sector(0, 2);
        leave();
        CHECK_EQ(poll(&p, 1, 5000), 1);         /* and has it */
        close(fd);
        if (access(VHK_BLK_PROGRAM, X_OK) < 0) {
                snprintf(verdict, sizeof(verdict), "vhk-blk is not built: paths not tried");
                return;
        }
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
        snprintf(other, sizeof(other), "%s/t", dir);
        snprintf(arg, sizeof(arg), "--socket-path=%s", path);
        fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        CHECK_OK(fd);
        close(fd);
        CHECK(wait_program(start_program(arg, disk_path), 10000) > 0);
        CHECK_EQ(access(path, F_OK), 0);
        CHECK_EQ(rename(path, other), 0);
        CHECK_EQ(symlink(other, path), 0);
        CHECK(wait_program(start_program(arg, disk_path), 10000) > 0);
        CHECK_EQ(access(other, F_OK), 0);
        CHECK(unlink(path) == 0 && unlink(other) == 0);
        int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);         /* stale */
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
        CHECK_EQ(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
        close(s);
        pid_t pid = start_program(arg, disk_path);
        struct vhk_blk *b = open_disk(path);
        read_disk(b);
        CHECK(wait_program(start_program(arg, disk_path), 10000) > 0);  /* alive: the second one gives up */
        read_disk(b);
        vhk_blk_close(b);
        CHECK_EQ(kill(pid, SIGTERM), 0);
        CHECK_EQ(wait_program(pid, 10000), 0);
        CHECK_EQ(access(path, F_OK), -1);
        CHECK_EQ(rmdir(dir), 0);
}

ROW(H58, "SIGTERM with requests in flight; kill -9 and a successor", "drain") {
        char dir[] = "/tmp/vhk-hostile-dir-XXXXXX", path[64], arg[96];

        if (access(VHK_BLK_PROGRAM, X_OK) < 0) {
                snprintf(verdict, sizeof(verdict), "vhk-blk is not built: not tried");
                return;
        }
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
        snprintf(arg, sizeof(arg), "--socket-path=%s", path);
        for (unsigned k = 0; k < 6; k++) {
                pid_t pid = start_program(arg, disk_path);
                struct vhk_blk *b = open_disk(path);
                struct vhk_blk_io io[16];
                struct iovec iov[16];
                struct vhk_blk_queue *q;
                uint8_t *buf = vhk_blk_alloc(b, sizeof(io) / sizeof(io[0]) * 4096);
                CHECK(buf);
                for (unsigned i = 0; i < VHK_N(io); i++) {
                        iov[i] = (struct iovec){ buf + i * 4096, 4096 };
                        io[i] = (struct vhk_blk_io){ .op = VHK_BLK_READ, .off = i * 4096, .iov = &iov[i], .n_iov = 1 };
                }
                read_disk(b);
                CHECK_OK(vhk_blk_get_queue(b, 0, &q));
                CHECK_EQ(vhk_blk_submit(q, io, VHK_N(io)), VHK_N(io));
                CHECK_EQ(kill(pid, k & 1 ? SIGKILL : SIGTERM), 0);
                int status = wait_program(pid, 10000);
                CHECK_MSG(status == (k & 1 ? 128 + SIGKILL : 0), "vhk-blk ended with %d", status);
                vhk_blk_close(b);
        }
        pid_t pid = start_program(arg, disk_path);
        struct vhk_blk *b = open_disk(path);
        read_disk(b);
        vhk_blk_close(b);
        kill(pid, SIGTERM);
        CHECK_EQ(wait_program(pid, 10000), 0);
        CHECK_EQ(rmdir(dir), 0);
        snprintf(verdict, sizeof(verdict), "EIO, ENOSPC, slow disks: test-blk-disk; lost and doubled writes: the kill tests");
}
