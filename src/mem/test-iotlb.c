/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Translations against a model of one entry per page; what is refused; bounds; what holds memory. */
#include "base/test.h"

#include <signal.h>
#include <sys/mman.h>
#include <vhostkit/memory.h>

#include "mem/dirty.h"
#include "mem/iotlb.h"
#include "mem/view.h"

#define GPA UINT64_C(0x100000)
#define UVA UINT64_C(0x7f0000000000)
#define N_PAGES 64u                             /* of guest memory, in two regions that are no neighbours as guest addresses */
#define HALF (N_PAGES / 2)
#define N_IOVA 96u                              /* pages of I/O addresses in the model */
#define BASE UINT64_C(0xfff00000)

static int memfd = -1;

static struct vhk_region_desc desc(unsigned i) {
        return (struct vhk_region_desc){
                .gpa = { GPA + i * 0x1000000 }, .uva = { UVA + i * HALF * VHK_PAGE }, .len = HALF * VHK_PAGE, .fd_offset = i * HALF * VHK_PAGE,
                .fd = memfd,
        };
}

static struct vhk_memmap *make_guest(unsigned n) {
        struct vhk_memmap *m;

        memfd = memfd_create("test-iotlb", MFD_CLOEXEC);
        CHECK(memfd >= 0 && ftruncate(memfd, N_PAGES * VHK_PAGE) == 0);
        struct vhk_region_desc d[2] = { desc(0), desc(1) };
        CHECK_OK(vhk_memmap_replace(NULL, d, n, &m, NULL));
        vhk_close(&memfd);
        return m;
}

static struct vhk_memmap *make(struct vhk_memmap *guest) {
        struct vhk_memmap *m;
        CHECK_OK(vhk_iotlb_new(guest, &m));
        return m;
}

static int update(struct vhk_memmap **m, uint64_t iova, uint64_t len, uint64_t at, unsigned perm) {
        return vhk_iotlb_update(m, iova, len, at, false, perm, NULL);
}

static int invalidate(struct vhk_memmap **m, uint64_t iova, uint64_t len) {
        int k = vhk_iotlb_invalidate(m, iova, len);
        CHECK_OK(k);
        return k;
}

static uint8_t *page_host(const struct vhk_memmap *guest, unsigned page) {
        return vhk_memmap_host_uva(guest, (vhk_uva_t){ UVA + page * VHK_PAGE }, 1);
}

static void compare(const struct vhk_memmap *m, const struct vhk_memmap *guest, const uint8_t *page, const uint8_t *perm) {
        for (unsigned i = 0; i < N_IOVA; i++)
                for (unsigned p = 1; p <= 3; p++) {
                        uint8_t *wanted = (perm[i] & p) == p ? page_host(guest, page[i]) : NULL;
                        CHECK(vhk_iotlb_host(m, BASE + i * VHK_PAGE, VHK_PAGE, p) == wanted);
                }
        for (uint32_t i = 1; i < m->n; i++)     /* in order, apart, and not to be one */
                CHECK(m->regs[i].gpa - m->regs[i - 1].gpa >= m->regs[i - 1].len);
}

TEST(like_the_model) {
        struct vhk_memmap *guest = make_guest(2), *m = make(guest), *reader = NULL;
        uint8_t page[N_IOVA] = { 0 }, perm[N_IOVA] = { 0 }, reader_page[N_IOVA], reader_perm[N_IOVA];
        uint32_t seed = 1;

        for (unsigned round = 0; round < 3000; round++) {
                unsigned r = seed = seed * 1103515245u + 12345u, n = 1 + (r >> 8) % 8, at = (r >> 12) % (N_IOVA - n), to = (r >> 20) % (N_PAGES - n);
                if ((r >> 5) % 3) {
                        unsigned p = 1 + (r >> 28) % 3;
                        CHECK_EQ(update(&m, BASE + at * VHK_PAGE, n * VHK_PAGE, UVA + to * VHK_PAGE, p), 0);
                        for (unsigned i = 0; i < n; i++)
                                page[at + i] = (uint8_t)(to + i), perm[at + i] = (uint8_t)p;
                } else {
                        bool known = m->evicted;        /* something was replaced */
                        for (unsigned i = 0; i < n; i++)
                                known |= perm[at + i];
                        uint64_t era = m->era;
                        CHECK_EQ(invalidate(&m, BASE + at * VHK_PAGE, n * VHK_PAGE), !known);
                        CHECK_EQ(m->era, era + known);
                        memset(perm + at, 0, n);
                }
                if (round % 16 == 0)
                        compare(m, guest, page, perm);
                if (round % 5)
                        continue;
                if (reader)             /* for whom nothing has changed */
                        compare(reader, guest, reader_page, reader_perm);
                vhk_memmap_unref(reader);
                reader = round % 3 ? vhk_memmap_ref(m) : NULL;
                memcpy(reader_page, page, sizeof(page));
                memcpy(reader_perm, perm, sizeof(perm));
        }
        compare(m, guest, page, perm);
        vhk_memmap_unref(reader);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

TEST(neighbours_become_one_and_are_cut_again) {
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);

        for (unsigned i = 0; i < HALF; i += 2)
                CHECK_EQ(update(&m, BASE + i * VHK_PAGE, VHK_PAGE, UVA + i * VHK_PAGE, VHK_IOTLB_RW), 0);
        CHECK_EQ(m->n, HALF / 2);
        for (unsigned i = 1; i < HALF; i += 2)
                CHECK_EQ(update(&m, BASE + i * VHK_PAGE, VHK_PAGE, UVA + i * VHK_PAGE, VHK_IOTLB_RW), 0);
        CHECK_EQ(m->n, 1);
        CHECK_EQ(update(&m, BASE + HALF * VHK_PAGE, VHK_PAGE, UVA + HALF * VHK_PAGE, VHK_IOTLB_RW), 0);
        CHECK_EQ(m->n, 2);                              /* in another region */
        CHECK_EQ(update(&m, BASE + 4 * VHK_PAGE, VHK_PAGE, UVA + 4 * VHK_PAGE, VHK_IOTLB_R), 0);
        CHECK_EQ(m->n, 4);
        CHECK_EQ(vhk_iotlb_reach(m, BASE, HALF * VHK_PAGE, VHK_IOTLB_W), 4 * VHK_PAGE);
        CHECK_EQ(vhk_iotlb_reach(m, BASE + 1, HALF * VHK_PAGE, VHK_IOTLB_R), HALF * VHK_PAGE);
        CHECK_EQ(vhk_iotlb_reach(m, BASE - 1, 2, VHK_IOTLB_R), 0);
        CHECK_EQ(invalidate(&m, BASE + 5 * VHK_PAGE + 100, 8), 0);     /* any bytes */
        CHECK(!vhk_iotlb_host(m, BASE + 5 * VHK_PAGE + 100, 1, VHK_IOTLB_R));
        CHECK(vhk_iotlb_host(m, BASE + 5 * VHK_PAGE + 99, 1, VHK_IOTLB_R));
        CHECK(vhk_iotlb_host(m, BASE + 5 * VHK_PAGE + 108, 1, VHK_IOTLB_R));
        CHECK_EQ(m->n, 5);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

TEST(one_update_over_two_regions) {
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);
        struct iovec iov[3];
        uint64_t miss = 0;

        CHECK_EQ(update(&m, BASE, N_PAGES * VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
        CHECK_EQ(m->n, 2);
        int n = vhk_iotlb_iov(m, BASE + (HALF - 1) * VHK_PAGE, 2 * VHK_PAGE, VHK_IOTLB_W, iov, 3, &miss);
        CHECK(n == 1 || n == 2);                        /* where the kernel mapped them */
        CHECK(iov[0].iov_base == page_host(guest, HALF - 1));
        CHECK_EQ(vhk_iotlb_iov(m, BASE + 1, N_PAGES * VHK_PAGE, VHK_IOTLB_W, iov, 3, &miss), -EAGAIN);
        CHECK_EQ(miss, BASE + N_PAGES * VHK_PAGE);
        CHECK_EQ(vhk_iotlb_iov(m, UINT64_MAX, 2, VHK_IOTLB_W, iov, 3, &miss), -EFAULT);
        CHECK_EQ(update(&m, BASE + VHK_PAGE, VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
        CHECK_EQ(vhk_iotlb_iov(m, BASE, 3 * VHK_PAGE, VHK_IOTLB_R, iov, 2, &miss), -ENOSPC);
        CHECK_EQ(vhk_iotlb_iov(m, BASE, 3 * VHK_PAGE, VHK_IOTLB_R, iov, 3, &miss), 3);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

TEST(refused) {
        static const struct { uint64_t iova, len, at; const char *rule; } bad[] = {
                { 0, 0, UVA, "iotlb.range" },
                { UINT64_MAX, 2, UVA, "iotlb.range" },
                { 0, UINT64_MAX, UVA, "iotlb.range" },
                { 0, 1, UVA - 1, "iotlb.user-addr" },
                { 0, N_PAGES * VHK_PAGE + 1, UVA, "iotlb.user-addr" },
                { 0, 1, GPA, "iotlb.user-addr" },
        };
        struct vhk_memmap *guest = make_guest(2), *m = make(guest), *was = m;

        for (unsigned i = 0; i < VHK_N(bad); i++) {
                struct vhk_error e;
                CHECK(vhk_iotlb_update(&m, bad[i].iova, bad[i].len, bad[i].at, false, VHK_IOTLB_RW, &e) < 0);
                CHECK_STR(e.rule, bad[i].rule);
                CHECK(m == was && !m->n);
        }
        CHECK_OK(vhk_iotlb_update(&m, 0, VHK_PAGE, GPA + VHK_PAGE, true, VHK_IOTLB_RW, NULL));
        CHECK(vhk_iotlb_host(m, 0, 1, VHK_IOTLB_RW) == page_host(guest, 1));
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

TEST(everything_goes) {
        static const struct { uint64_t iova, len; } all[] = { { 0, 0 }, { 0x5000, 0 }, { 0, UINT64_MAX }, { 0x5000, UINT64_MAX } };
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);

        for (unsigned i = 0; i < VHK_N(all); i++) {
                CHECK_EQ(update(&m, 0, VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
                CHECK_EQ(update(&m, UINT64_MAX - VHK_PAGE, VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
                CHECK_EQ(invalidate(&m, all[i].iova, all[i].len), 0);
                CHECK_EQ(m->n, 0);
                CHECK_EQ(invalidate(&m, all[i].iova, all[i].len), 1);
        }
        CHECK_EQ(update(&m, 0, VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
        CHECK_EQ(invalidate(&m, 0x800, UINT64_MAX - 1), 0);             /* wraps: to the end */
        CHECK_EQ(vhk_iotlb_reach(m, 0, VHK_PAGE, VHK_IOTLB_RW), 0x800);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

/* Another one drives an old one out; and then any invalidation begins another time, for who knows what was in use. */
TEST(h29_a_million_entries) {
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);

        for (uint64_t i = 0; i < 1000000; i++) {
                /* each once; in no order at first */
                uint64_t iova = (i < 100000 ? i * 0x9e3779b97f4a7c15u % (1u << 24) : (1u << 24) + i) * 2 * VHK_PAGE;
                CHECK_EQ(update(&m, iova, VHK_PAGE, UVA + i % N_PAGES * VHK_PAGE, VHK_IOTLB_RW), 0);
                CHECK(m->n <= VHK_IOTLB_MAX && m->room <= 2 * VHK_IOTLB_MAX);
                CHECK(vhk_iotlb_host(m, iova, VHK_PAGE, VHK_IOTLB_RW) == page_host(guest, i % N_PAGES));
        }
        CHECK(m->n > VHK_IOTLB_MAX / 8 * 7);
        CHECK(m->evicted);
        uint64_t era = m->era;
        CHECK_EQ(invalidate(&m, UINT64_C(1) << 40, VHK_PAGE), 0);
        CHECK_EQ(m->era, era + 1);
        CHECK_EQ(invalidate(&m, UINT64_C(1) << 40, VHK_PAGE), 1);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

TEST(another_guest_memory) {
        struct vhk_memmap *guest = make_guest(2), *m = make(guest), *less, *new;
        struct vhk_region_desc d = desc(1);
        uint32_t seen = 0;

        CHECK_EQ(update(&m, BASE, N_PAGES * VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
        CHECK_OK(vhk_memmap_remove(guest, d.gpa, d.uva, d.len, &less, NULL));
        CHECK_OK(vhk_iotlb_rebase(m, less, &new));
        CHECK(new->guest == less && !vhk_memmap_extends(new, m));
        CHECK_EQ(vhk_iotlb_reach(new, BASE, N_PAGES * VHK_PAGE, VHK_IOTLB_RW), HALF * VHK_PAGE);
        CHECK(vhk_iotlb_host(new, BASE, VHK_PAGE, VHK_IOTLB_W) == page_host(less, 0));
        CHECK(!vhk_memmap_is_bad(new, &seen));
        vhk_memmap_unref(less);
        vhk_memmap_unref(guest);                        /* m still has it */
        *(volatile uint8_t *)vhk_iotlb_host(m, BASE + HALF * VHK_PAGE, 1, VHK_IOTLB_W) = 1;
        vhk_memmap_unref(m);
        *(volatile uint8_t *)vhk_iotlb_host(new, BASE, 1, VHK_IOTLB_W) = 1;
        vhk_memmap_unref(new);
}

TEST(of_one_time_or_not) {
        struct vhk_memmap *guest = make_guest(2), *a = make(guest), *b = vhk_memmap_ref(a), *c;

        CHECK_EQ(update(&b, BASE, VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
        CHECK(a != b && !a->n);
        c = vhk_memmap_ref(b);
        CHECK_EQ(invalidate(&c, BASE, VHK_PAGE), 0);
        CHECK(vhk_memmap_extends(a, a) && vhk_memmap_extends(b, a) && !vhk_memmap_extends(c, b));
        CHECK(!vhk_memmap_extends(a, guest) && !vhk_memmap_extends(guest, a) && vhk_memmap_extends(guest, guest));
        vhk_memmap_unref(a);
        vhk_memmap_unref(b);
        vhk_memmap_unref(c);
        vhk_memmap_unref(guest);
}

/* The dirty log wants guest addresses, whatever the request was given. */
TEST(marked_as_guest_memory) {
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);
        int fd = memfd_create("log", MFD_CLOEXEC);
        struct vhk_dirty *log;
        uint32_t hint = 0;

        CHECK(fd >= 0 && ftruncate(fd, VHK_PAGE) == 0);
        CHECK_OK(vhk_dirty_new(fd, 0, VHK_PAGE, &log, NULL));
        CHECK_EQ(update(&m, BASE, VHK_PAGE, UVA + (HALF + 3) * VHK_PAGE, VHK_IOTLB_RW), 0);
        vhk_dirty_mark_host(log, m, vhk_iotlb_host(m, BASE + 8, 8, VHK_IOTLB_W), 8, &hint);
        uint64_t page = (GPA + 0x1000000) / VHK_PAGE + 3;
        for (unsigned i = 0; i < VHK_PAGE; i++)
                CHECK_EQ(log->bits[i], i == page / 8 ? 1u << page % 8 : 0);
        vhk_dirty_unref(log);
        close(fd);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

/* Pages in falling order, and one in the middle of another region. */
static void map_pieces(struct vhk_memmap **m) {
        CHECK_EQ(update(m, BASE, VHK_PAGE, UVA + 7 * VHK_PAGE, VHK_IOTLB_RW), 0);
        CHECK_EQ(update(m, BASE + VHK_PAGE, VHK_PAGE, UVA + 6 * VHK_PAGE, VHK_IOTLB_RW), 0);
        CHECK_EQ(update(m, BASE + 2 * VHK_PAGE, VHK_PAGE, UVA + (HALF + 1) * VHK_PAGE, VHK_IOTLB_RW), 0);
}

TEST(pieces_are_mapped_side_by_side) {
        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind has no mremap(2) with an old size of 0");
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);
        struct vhk_view *v = NULL, *was;
        uint64_t len = 2 * VHK_PAGE + 100;

        map_pieces(&m);
        CHECK_EQ(vhk_view_update(&v, m, BASE + 64, len, VHK_IOTLB_RW), 0);
        for (uint64_t i = 0; i < len; i++)
                v->host[i] = (uint8_t)(i * 7 >> 3);
        for (uint64_t i = 0; i < len; i++)
                CHECK_EQ(*(uint8_t *)vhk_iotlb_host(m, BASE + 64 + i, 1, VHK_IOTLB_R), (uint8_t)(i * 7 >> 3));
        was = v;
        CHECK_EQ(vhk_view_update(&v, m, BASE + 64, len, VHK_IOTLB_RW), 0);
        CHECK(v == was);                                /* nothing has changed */
        CHECK_EQ(invalidate(&m, BASE + VHK_PAGE, VHK_PAGE), 0);
        CHECK_EQ(vhk_view_update(&v, m, BASE + 64, len, VHK_IOTLB_RW), -EAGAIN);
        CHECK_EQ(update(&m, BASE + VHK_PAGE, VHK_PAGE, UVA + 3 * VHK_PAGE, VHK_IOTLB_RW), 0);
        vhk_view_ref(was);
        CHECK_EQ(vhk_view_update(&v, m, BASE + 64, len, VHK_IOTLB_RW), 0);
        CHECK(v != was);
        v->host[VHK_PAGE] = 99;
        was->host[VHK_PAGE] = 98;                       /* who uses it may go on */
        CHECK_EQ(page_host(guest, 3)[64], 99);
        CHECK_EQ(page_host(guest, 6)[64], 98);
        vhk_view_unref(was);
        vhk_memmap_unref(guest);
        vhk_memmap_unref(m);
        v->host[0] = 1;                                 /* it holds what it shows */
        CHECK(!vhk_view_unref(v));
}

TEST(pieces_that_do_not_meet_at_pages_are_refused) {
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);
        struct vhk_view *v = NULL;

        CHECK_EQ(update(&m, BASE, 100, UVA + 7 * VHK_PAGE, VHK_IOTLB_RW), 0);
        CHECK_EQ(update(&m, BASE + 100, VHK_PAGE, UVA, VHK_IOTLB_RW), 0);
        CHECK_EQ(vhk_view_update(&v, m, BASE, 200, VHK_IOTLB_R), -EINVAL);
        CHECK(!v);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

TEST(marks_of_a_view_are_those_of_its_pieces) {
        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind has no mremap(2) with an old size of 0");
        struct vhk_memmap *guest = make_guest(2), *m = make(guest);
        int fd = memfd_create("log", MFD_CLOEXEC);
        struct vhk_view *v = NULL;
        struct vhk_dirty *log;

        CHECK(fd >= 0 && ftruncate(fd, VHK_PAGE) == 0);
        CHECK_OK(vhk_dirty_new(fd, 0, VHK_PAGE, &log, NULL));
        map_pieces(&m);
        CHECK_EQ(vhk_view_update(&v, m, BASE + 64, 2 * VHK_PAGE + 100, VHK_IOTLB_RW), 0);
        CHECK(vhk_view_mark(v, log, m, VHK_PAGE - 70, 4000));           /* the end of the first page, and the second */
        CHECK(!vhk_view_mark(v, log, m, VHK_PAGE, 1));
        CHECK(vhk_view_mark(v, log, m, 2 * VHK_PAGE, 1));
        const uint64_t pages[] = { GPA / VHK_PAGE + 7, GPA / VHK_PAGE + 6, (GPA + 0x1000000) / VHK_PAGE + 1 };
        for (uint64_t i = 0; i < 8 * VHK_PAGE; i++)
                CHECK_EQ(log->bits[i / 8] >> i % 8 & 1, i == pages[0] || i == pages[1] || i == pages[2]);
        vhk_view_unref(v);
        vhk_dirty_unref(log);
        close(fd);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
}

static void on_sigbus(int sig, siginfo_t *info, void *context) {
        if (!vhk_sigbus_try(info))
                _exit(70);
}

TEST(a_page_that_is_gone_behind_a_view_is_bad_guest_memory) {
        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind has no mremap(2) with an old size of 0");
        struct sigaction old, sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
        int fd = memfd_create("test-iotlb", MFD_CLOEXEC);
        struct vhk_region_desc d[2] = { desc(0), desc(1) };
        struct vhk_memmap *guest, *m;
        struct vhk_view *v = NULL, *was;
        uint32_t seen = 0;

        CHECK(fd >= 0 && ftruncate(fd, N_PAGES * VHK_PAGE) == 0);
        d[0].fd = d[1].fd = fd;
        CHECK_OK(vhk_memmap_replace(NULL, d, 2, &guest, NULL));
        m = make(guest);
        map_pieces(&m);
        CHECK_EQ(vhk_view_update(&v, m, BASE, 3 * VHK_PAGE, VHK_IOTLB_RW), 0);
        CHECK(!vhk_memmap_is_bad(m, &seen));
        CHECK(sigaction(SIGBUS, &sa, &old) == 0);
        CHECK(ftruncate(fd, 0) == 0);
        *(volatile uint8_t *)&v->host[VHK_PAGE] = 1;
        CHECK(sigaction(SIGBUS, &old, NULL) == 0);
        CHECK(vhk_memmap_is_bad(m, &seen));
        was = v;
        (void)vhk_view_update(&v, m, BASE, 3 * VHK_PAGE, VHK_IOTLB_RW);
        CHECK(v != was);                                /* what is bad is not kept */
        vhk_view_unref(v);
        vhk_memmap_unref(m);
        vhk_memmap_unref(guest);
        close(fd);
}
