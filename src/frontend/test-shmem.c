/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Shared memory regions as the front-end sees them: what a back-end may map and unmap, everything else refused with its
 * rule (H36, and of H37 what a refused message may not cost), and nothing stays mapped that should not. The requests are written
 * to the channel by hand.
 */
#include "base/test.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "frontend/frontend.h"
#include "frontend/test-fake.h"

#define PAGE 4096ull
#define REGION (16 * PAGE)
#define SHMEM (VHK_BIT(VHK_PF_SHMEM) | VHK_BIT(VHK_PF_BACKEND_SEND_FD))

static struct fake fake;
static struct vhk_frontend *f;
static struct vhk_error err;
static char last_log[512];
static int memfd = -1;

/* The caller's side: counts, and remembers the last. */
static unsigned n_map, n_unmap, n_gone;
static int map_result, called_back;
static struct vhk_shmem_map last;

static int on_map(void *arg, const struct vhk_shmem_map *m) {
        uint8_t status;

        CHECK(arg == &fake);
        CHECK(fcntl(m->fd, F_GETFD) == FD_CLOEXEC);
        called_back = vhk_frontend_get_status(f, &status);
        n_map += map_result == 0;
        last = *m;
        return map_result;
}

static void on_unmap(void *arg, const struct vhk_shmem_map *m) {
        CHECK_EQ(m->fd, -1);
        n_unmap++;
        last = *m;
}

static void on_log(void *arg, enum vhk_log_level level, const char *text) {
        snprintf(last_log, sizeof(last_log), "%s", text);
}

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_gone += ev == VHK_FRONTEND_GONE;
        CHECK(ev != VHK_FRONTEND_GONE || n_map == n_unmap);     /* they go before it is told */
}

static const struct vhk_frontend_shmem callbacks = { .size = sizeof(callbacks), .map = on_map, .unmap = on_unmap, .arg = &fake };

static int open_with(const struct vhk_frontend_shmem *c) {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 10000000000ull, .shmem = c, .log = on_log, .on_event = on_event };
        int s[2];

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        fake_start(&fake, s[1]);
        o.fd = s[0];
        f = NULL;
        int k = vhk_frontend_open(NULL, &o, &f, &err);
        if (k < 0)
                CHECK_OK(close(o.fd));          /* it is the library's on success only */
        return k;
}

static void init(void) {
        fake_init(&fake);
        fake.state.protocol_offered |= SHMEM;
        fake.shmem = (struct vhk_p_shmem_config){ .n_regions = 2, .sizes = { [3] = REGION, [255] = PAGE } };
        n_map = n_unmap = n_gone = 0;
        map_result = called_back = 0;
        last_log[0] = 0;
        if (memfd < 0)
                memfd = memfd_create("test-shmem", MFD_CLOEXEC);
        CHECK_OK(ftruncate(memfd, REGION));
}

static void enter(void) {
        init();
        CHECK_MSG(open_with(&callbacks) == 0, "%s", err.text);
}

static void leave(void) {
        f = vhk_frontend_close(f);
        fake_stop(&fake);
        CHECK_MSG(fake.broken == VHK_RULE_OK, "the front-end broke %s", vhk_rule_id(fake.broken));
        CHECK_EQ(n_map, n_unmap);
        vhk_close(&memfd);
}

/* One request on the channel, with up to 10 times @fd, handled; the answer is 0, 1, or -1: the connection has ended. */
static int64_t ask(uint32_t id, const void *payload, uint32_t size, int fd, unsigned n_fds) {
        struct vhk_hdr h = { id, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, size };
        struct iovec v[2] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, size } };
        union { char buf[CMSG_SPACE(10 * sizeof(int))]; struct cmsghdr align; } c = { .buf = { 0 } };
        struct msghdr m = { .msg_iov = v, .msg_iovlen = size ? 2 : 1 };
        struct { struct vhk_hdr h; uint64_t value; } __attribute__((packed)) reply;

        if (n_fds) {
                m.msg_control = c.buf;
                m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                *CMSG_FIRSTHDR(&m) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(n_fds * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
                for (unsigned i = 0; i < n_fds; i++)
                        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)) + i * sizeof(int), &fd, sizeof(fd));
        }
        CHECK_EQ(sendmsg(fake.channel, &m, MSG_NOSIGNAL), (ssize_t)(sizeof(h) + size));
        if (vhk_frontend_dispatch(f) < 0)
                return -1;
        CHECK_EQ(recv(fake.channel, &reply, sizeof(reply), 0), (ssize_t)sizeof(reply));
        CHECK(reply.h.request == id && reply.h.flags == (VHK_HDR_VERSION | VHK_HDR_REPLY) && reply.h.size == 8);
        return (int64_t)reply.value;
}

static int64_t map(struct vhk_p_mmap p, int fd) {
        return ask(VHK_BE_SHMEM_MAP, &p, sizeof(p), fd, 1);
}

static int64_t unmap(struct vhk_p_mmap p) {
        return ask(VHK_BE_SHMEM_UNMAP, &p, sizeof(p), -1, 0);
}

static struct vhk_p_mmap piece(uint64_t first, uint64_t n) {
        return (struct vhk_p_mmap){ .shmid = 3, .shm_offset = first * PAGE, .fd_offset = first * PAGE, .len = n * PAGE, .flags = VHK_MMAP_RW };
}

/* ---- negotiation ---- */

TEST(regions_are_told) {
        uint64_t sizes[VHK_SHMEM_REGIONS] = { 7 };
        struct vhk_frontend_info i = { .size = sizeof(i) };

        enter();
        CHECK_OK(vhk_frontend_get_info(f, &i));
        CHECK(i.capabilities & VHK_CAP_SHMEM);
        CHECK_EQ(i.carrier_acked, FAKE_PROTOCOL | SHMEM);
        CHECK_EQ(vhk_frontend_get_shmem_config(f, sizes), 2);
        for (unsigned id = 0; id < VHK_SHMEM_REGIONS; id++)
                CHECK_EQ(sizes[id], id == 3 ? REGION : id == 255 ? PAGE : 0);
        CHECK_EQ(fake.count[VHK_FE_GET_SHMEM_CONFIG], 1);
        leave();
}

TEST(who_does_not_map_does_not_take_it) {
        uint64_t sizes[VHK_SHMEM_REGIONS];
        struct vhk_frontend_info i = { .size = sizeof(i) };
        struct vhk_p_mmap p = piece(0, 1);

        init();
        CHECK_OK(open_with(NULL));
        CHECK_OK(vhk_frontend_get_info(f, &i));
        CHECK_EQ(i.carrier_acked, FAKE_PROTOCOL);
        CHECK_EQ(vhk_frontend_get_shmem_config(f, sizes), -EOPNOTSUPP);
        CHECK_EQ(map(p, memfd), 1);
        CHECK(strstr(last_log, "wire.gate"));
        leave();
}

TEST(a_back_end_without_what_it_needs) {
        static const unsigned bits[] = { VHK_PF_SHMEM, VHK_PF_BACKEND_SEND_FD, VHK_PF_BACKEND_REQ };

        for (size_t b = 0; b < VHK_N(bits); b++) {
                struct vhk_frontend_info i = { .size = sizeof(i) };
                init();
                fake.state.protocol_offered &= ~VHK_BIT(bits[b]);
                CHECK_OK(open_with(&callbacks));
                CHECK_OK(vhk_frontend_get_info(f, &i));
                CHECK(!(i.capabilities & VHK_CAP_SHMEM) && !(i.carrier_acked & SHMEM));
                leave();
        }
}

TEST(regions_that_are_refused) {
        init();
        fake.shmem.sizes[3] += 1;
        CHECK_EQ(open_with(&callbacks), -EPROTO);
        CHECK_STR(err.rule, "shmem.config");
        leave();
        init();
        fake.shmem.n_regions = 3;
        CHECK_EQ(open_with(&callbacks), -EPROTO);
        CHECK_STR(err.rule, "shmem.config");
        leave();
}

TEST(callbacks_that_are_refused) {
        struct vhk_frontend_shmem c = callbacks;
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .fd = -1, .shmem = &c };

        c.size--;
        CHECK_EQ(vhk_frontend_open(NULL, &o, &f, &err), -EINVAL);
        c = callbacks;
        c.unmap = NULL;
        CHECK_EQ(vhk_frontend_open(NULL, &o, &f, &err), -EINVAL);
        CHECK_STR(err.rule, "frontend.options");
}

/* ---- maps and unmaps ---- */

TEST(a_mapping_comes_and_goes) {
        enter();
        CHECK_EQ(map(piece(2, 3), memfd), 0);
        CHECK_EQ(n_map, 1);
        CHECK_EQ(called_back, -EDEADLK);
        CHECK(last.id == 3 && last.offset == 2 * PAGE && last.len == 3 * PAGE && last.fd_offset == 2 * PAGE && last.writable);
        CHECK_EQ(unmap(piece(2, 3)), 0);
        CHECK_EQ(n_unmap, 1);
        CHECK(last.id == 3 && last.offset == 2 * PAGE && last.len == 3 * PAGE);
        CHECK_EQ(unmap(piece(2, 3)), 1);
        CHECK_EQ(map(piece(2, 3), memfd), 0);           /* the place is free again */
        leave();
}

TEST(mappings_that_touch_are_two) {
        enter();
        CHECK_EQ(map(piece(4, 4), memfd), 0);
        CHECK_EQ(map(piece(0, 4), memfd), 0);
        CHECK_EQ(map(piece(8, 8), memfd), 0);
        CHECK_EQ(map((struct vhk_p_mmap){ .shmid = 255, .len = PAGE }, memfd), 0);      /* the same offset in another region */
        CHECK(!last.writable);
        CHECK_EQ(unmap(piece(0, 8)), 1);                /* not both at once */
        CHECK_EQ(unmap(piece(4, 4)), 0);
        CHECK_EQ(n_unmap, 1);
        leave();
        CHECK_EQ(n_unmap, 4);                           /* the rest at the end */
}

/* H36 */
TEST(maps_that_are_refused) {
        int pipe_fd[2], read_only, path_only, write_only, dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), null = open("/dev/null", O_RDWR | O_CLOEXEC);
        char name[64];

        enter();
        snprintf(name, sizeof(name), "/proc/self/fd/%d", memfd);
        read_only = open(name, O_RDONLY | O_CLOEXEC);
        write_only = open(name, O_WRONLY | O_CLOEXEC);
        path_only = open(name, O_PATH | O_CLOEXEC);
        CHECK(read_only >= 0 && write_only >= 0 && path_only >= 0 && dir >= 0 && null >= 0 && pipe(pipe_fd) == 0);
        const struct { const char *rule; int fd; uint8_t shmid; uint64_t offset, len, fd_offset, flags; } rows[] = {
                { "shmem.unused", memfd, 0, 0, PAGE, 0, 1 },
                { "shmem.unused", memfd, 4, 0, PAGE, 0, 1 },
                { "shmem.beyond-region", memfd, 3, REGION, PAGE, 0, 1 },
                { "shmem.beyond-region", memfd, 3, 0, REGION + PAGE, 0, 1 },
                { "shmem.beyond-region", memfd, 255, PAGE, PAGE, 0, 1 },
                { "shmem.beyond-region", memfd, 3, 1ull << 63, PAGE, 0, 1 },
                { "shmem.align", memfd, 3, 8, PAGE, 0, 1 },
                { "shmem.align", memfd, 3, 0, PAGE - 1, 0, 1 },
                { "shmem.align", memfd, 3, 0, PAGE, 512, 1 },
                { "wire.mmap-empty", memfd, 3, 0, 0, 0, 1 },
                { "wire.mmap-range", memfd, 3, ~0ull - PAGE + 1, PAGE, 0, 1 },
                { "wire.mmap-range", memfd, 3, 0, PAGE, ~0ull - PAGE + 1, 1 },
                { "wire.mmap-flags", memfd, 3, 0, PAGE, 0, 2 },
                { "wire.mmap-flags", memfd, 3, 0, PAGE, 0, 1ull << 63 | 1 },
                { "shmem.overlap", memfd, 3, 4 * PAGE, PAGE, 0, 1 },
                { "shmem.overlap", memfd, 3, 3 * PAGE, 2 * PAGE, 0, 1 },
                { "shmem.overlap", memfd, 3, 7 * PAGE, PAGE, 0, 1 },
                { "shmem.overlap", memfd, 3, 0, REGION, 0, 1 },
                { "shmem.beyond-file", memfd, 3, 0, PAGE, REGION, 1 },
                { "shmem.beyond-file", memfd, 3, 0, 2 * PAGE, REGION - PAGE, 1 },
                { "shmem.beyond-file", memfd, 3, 0, PAGE, 1ull << 40, 1 },
                { "shmem.fd-access", read_only, 3, 0, PAGE, 0, 1 },
                { "shmem.fd-access", write_only, 3, 0, PAGE, 0, 0 },
                { "shmem.fd-type", path_only, 3, 0, PAGE, 0, 0 },
                { "shmem.fd-type", pipe_fd[0], 3, 0, PAGE, 0, 0 },
                { "shmem.fd-type", fake.channel, 3, 0, PAGE, 0, 1 },
                { "shmem.fd-type", dir, 3, 0, PAGE, 0, 0 },
        };
        CHECK_EQ(map(piece(4, 4), memfd), 0);
        unsigned open_before = (unsigned)vhk_test_count_("/proc/self/fd");
        for (size_t i = 0; i < VHK_N(rows); i++) {
                struct vhk_p_mmap p = { .shmid = rows[i].shmid, .shm_offset = rows[i].offset, .len = rows[i].len, .fd_offset = rows[i].fd_offset,
                                        .flags = rows[i].flags };
                last_log[0] = 0;
                CHECK_MSG(map(p, rows[i].fd) == 1, "row %zu", i);
                CHECK_MSG(strstr(last_log, rows[i].rule), "row %zu: %s, not %s", i, last_log, rows[i].rule);
        }
        CHECK_EQ(n_map, 1);
        CHECK_EQ(map((struct vhk_p_mmap){ .shmid = 3, .len = PAGE }, read_only), 0);    /* to be read only */
        CHECK_EQ(map((struct vhk_p_mmap){ .shmid = 3, .shm_offset = PAGE, .len = PAGE, .flags = 1 }, null), 0);         /* has no size */
        map_result = -ENOMEM;
        CHECK_EQ(map((struct vhk_p_mmap){ .shmid = 255, .len = PAGE }, memfd), 1);
        CHECK(strstr(last_log, "shmem.caller"));
        map_result = 0;
        CHECK_EQ(map((struct vhk_p_mmap){ .shmid = 255, .len = PAGE }, memfd), 0);
        CHECK_EQ((unsigned)vhk_test_count_("/proc/self/fd"), open_before);
        CHECK_EQ(n_gone, 0);
        leave();
        close(pipe_fd[0]);
        close(pipe_fd[1]);
        close(read_only);
        close(write_only);
        close(path_only);
        close(dir);
        close(null);
}

/* H36 */
TEST(unmaps_that_are_refused) {
        enter();
        CHECK_EQ(map(piece(4, 4), memfd), 0);
        const struct { const char *rule; struct vhk_p_mmap p; } rows[] = {
                { "shmem.no-such-mapping", piece(4, 3) }, { "shmem.no-such-mapping", piece(5, 3) }, { "shmem.no-such-mapping", piece(4, 5) },
                { "shmem.no-such-mapping", piece(0, 16) }, { "shmem.no-such-mapping", { .shmid = 2, .shm_offset = 4 * PAGE, .len = 4 * PAGE } },
                { "wire.mmap-empty", piece(4, 0) }, { "wire.mmap-range", { .shmid = 3, .shm_offset = ~0ull, .len = 2 } },
        };
        for (size_t i = 0; i < VHK_N(rows); i++) {
                CHECK_EQ(unmap(rows[i].p), 1);
                CHECK_MSG(strstr(last_log, rows[i].rule), "row %zu: %s", i, last_log);
        }
        CHECK_EQ(n_unmap, 0);
        struct vhk_p_mmap p = piece(4, 4);
        CHECK_EQ(ask(VHK_BE_SHMEM_UNMAP, &p, sizeof(p), memfd, 1), 1);          /* a descriptor that nobody wants */
        CHECK_EQ(ask(VHK_BE_SHMEM_MAP, &p, sizeof(p), -1, 0), 1);               /* none where one is wanted */
        CHECK_EQ(ask(VHK_BE_SHMEM_MAP, &p, sizeof(p), memfd, 2), 1);
        CHECK_EQ(ask(VHK_BE_SHMEM_MAP, &p, sizeof(p), memfd, 10), 1);
        CHECK_EQ(ask(VHK_BE_SHMEM_MAP, &p, sizeof(p) - 8, memfd, 1), 1);
        CHECK(strstr(last_log, "wire.size-short"));
        CHECK_EQ(ask(VHK_BE_SHMEM_MAP, &(struct { struct vhk_p_mmap p; uint64_t more; }){ .p = piece(0, 1) }, sizeof(p) + 8, memfd, 1), 1);
        CHECK(strstr(last_log, "wire.size-long"));
        CHECK_EQ(ask(99, &p, sizeof(p), memfd, 1), 1);
        CHECK_EQ(n_map, 1);
        CHECK_EQ(unmap(piece(4, 4)), 0);
        leave();
}

/* H36: a storm has an end, and room comes back. */
TEST(the_number_of_mappings_is_bounded) {
        uint64_t n = VHK_SHMEM_MAPPINGS + 2;

        init();
        fake.shmem.sizes[3] = n * PAGE;
        CHECK_OK(open_with(&callbacks));
        CHECK_OK(ftruncate(memfd, (off_t)(n * PAGE)));
        for (uint64_t i = 0; i < VHK_SHMEM_MAPPINGS; i++)
                CHECK_EQ(map(piece(i, 1), memfd), 0);
        CHECK_EQ(map(piece(n - 1, 1), memfd), 1);
        CHECK(strstr(last_log, "shmem.limit"));
        CHECK_EQ(n_map, VHK_SHMEM_MAPPINGS);
        CHECK_EQ(unmap(piece(17, 1)), 0);
        CHECK_EQ(map(piece(n - 1, 1), memfd), 0);
        leave();
        CHECK_EQ(n_unmap, VHK_SHMEM_MAPPINGS + 1);
}

/* ---- nothing stays ---- */

TEST(a_reset_unmaps) {
        enter();
        CHECK_EQ(map(piece(0, 1), memfd), 0);
        CHECK_EQ(map(piece(2, 1), memfd), 0);
        CHECK_OK(vhk_frontend_set_status(f, 1));
        CHECK_EQ(n_unmap, 0);
        CHECK_OK(vhk_frontend_reset(f));
        CHECK_EQ(n_unmap, 2);
        CHECK_EQ(map(piece(0, 1), memfd), 0);
        CHECK_OK(vhk_frontend_set_status(f, 0));
        CHECK_EQ(n_unmap, 3);
        leave();
}

TEST(the_end_of_the_connection_unmaps) {
        enter();
        CHECK_EQ(map(piece(0, 1), memfd), 0);
        shutdown(fake.fd, SHUT_RDWR);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPIPE);
        CHECK_EQ(n_unmap, 1);
        CHECK_EQ(n_gone, 1);
        leave();
        CHECK_EQ(n_unmap, 1);
}
