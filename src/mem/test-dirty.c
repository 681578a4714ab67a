/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The dirty log: exactly the pages that were written, whatever the range; nothing outside of it; logs that are refused. */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <vhostkit/memory.h>

#include "base/test.h"
#include "mem/dirty.h"
#include "mem/mem.h"

#define SIZE 4096u                      /* of a log: 128 MiB */

struct rig {
        int fd;
        uint8_t *bits;                  /* as the front-end sees them, with a page on either side */
        struct vhk_dirty *d;
};

static void rig_open(struct rig *r) {
        r->fd = memfd_create("test-dirty", MFD_CLOEXEC);
        CHECK(r->fd >= 0 && ftruncate(r->fd, 3 * SIZE) == 0);
        r->bits = mmap(NULL, 3 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
        CHECK(r->bits != MAP_FAILED);
        CHECK_OK(vhk_dirty_new(r->fd, SIZE, SIZE, &r->d, NULL));
}

static void rig_close(struct rig *r) {
        CHECK(!vhk_dirty_unref(r->d));
        munmap(r->bits, 3 * SIZE);
        close(r->fd);
}

/* Exactly pages [first, first + n) are marked; forgets them. */
static void check_pages(struct rig *r, uint64_t first, uint64_t n) {
        for (uint64_t i = 0; i < SIZE * 8; i++)
                CHECK_MSG((r->bits[SIZE + i / 8] >> i % 8 & 1) == (i >= first && i < first + n), "page %llu; %llu from %llu on were written",
                          (unsigned long long)i, (unsigned long long)n, (unsigned long long)first);
        for (uint64_t i = 0; i < SIZE; i++)
                CHECK(!r->bits[i] && !r->bits[2 * SIZE + i]);
        memset(r->bits + SIZE, 0, SIZE);
}

TEST(exactly_the_pages) {
        struct rig r;

        rig_open(&r);
        for (uint64_t first = 0; first < 20; first++)
                for (uint64_t n = 1; n < 20; n++) {
                        vhk_dirty_mark(r.d, first * 4096, n * 4096);
                        check_pages(&r, first, n);
                        vhk_dirty_mark(r.d, first * 4096 + 4095, n > 1 ? (n - 1) * 4096 - 4094 : 1);        /* a byte of the first, one of the last */
                        check_pages(&r, first, n);
                }
        vhk_dirty_mark(r.d, 4096, 0);
        check_pages(&r, 0, 0);
        vhk_dirty_mark(r.d, 4095, 2);
        check_pages(&r, 0, 2);
        vhk_dirty_mark(r.d, 0, 128u << 20);
        check_pages(&r, 0, 32768);
        rig_close(&r);
}

/* H24: what is behind the log is left out, and nothing behind it is written. */
TEST(beyond_the_log) {
        static const struct { uint64_t gpa, len, first, n; } cases[] = {
                { 128 << 20, 1, 0, 0 }, { (128 << 20) - 1, 1, 32767, 1 }, { (128 << 20) - 4097, 1 << 20, 32766, 2 },
                { UINT64_MAX, 1, 0, 0 }, { UINT64_MAX, UINT64_MAX, 0, 0 }, { 4096, UINT64_MAX, 1, 32767 }, { 0, UINT64_MAX, 0, 32768 },
                { UINT64_C(1) << 63, UINT64_C(1) << 63, 0, 0 },
        };
        struct rig r;

        rig_open(&r);
        for (unsigned i = 0; i < VHK_N(cases); i++) {
                vhk_dirty_mark(r.d, cases[i].gpa, cases[i].len);
                check_pages(&r, cases[i].first, cases[i].n);
        }
        CHECK(vhk_dirty_covers(r.d, 0, 128 << 20) && vhk_dirty_covers(r.d, 0, 0) && vhk_dirty_covers(r.d, (128 << 20) - 1, 1));
        CHECK(!vhk_dirty_covers(r.d, 0, (128 << 20) + 1) && !vhk_dirty_covers(r.d, 128 << 20, 1) && !vhk_dirty_covers(r.d, 2, UINT64_MAX));
        rig_close(&r);
}

/* Host addresses back to guest ones: two regions that are one in the file and in the guest, and one that lies elsewhere. */
TEST(host_addresses) {
        static const uint64_t gpas[] = { 0, 1 << 20, 64 << 20 };
        struct vhk_memmap *m, *next;
        uint32_t hint = 0;
        struct rig r;
        int fd = memfd_create("test-dirty", MFD_CLOEXEC);

        rig_open(&r);
        CHECK(fd >= 0 && ftruncate(fd, 3 << 20) == 0);
        CHECK_OK(vhk_memmap_new(&m));
        for (unsigned i = 0; i < VHK_N(gpas); i++) {
                struct vhk_region_desc d = { { gpas[i] }, { gpas[i] + 0x10000000 }, 1 << 20, (uint64_t)i << 20, fd };
                CHECK_OK(vhk_memmap_add(m, &d, &next, NULL));
                vhk_memmap_unref(m);
                m = next;
        }
        for (unsigned i = 0; i < VHK_N(gpas); i++)
                for (uint64_t at = 0; at < 1 << 20; at += 300 * 1000) {
                        vhk_dirty_mark_host(r.d, m, m->regs[i].host + at, 5000, &hint);
                        check_pages(&r, (gpas[i] + at) / 4096, (gpas[i] + at + 4999) / 4096 - (gpas[i] + at) / 4096 + 1);
                        CHECK_EQ(hint, i);
                }
        hint = 77;                              /* of a table that was longer */
        vhk_dirty_mark_host(r.d, m, m->regs[0].host + 4096, 1, &hint);
        check_pages(&r, 1, 1);
        if (m->regs[0].host + (1 << 20) == m->regs[1].host) {
                vhk_dirty_mark_host(r.d, m, m->regs[0].host, 2 << 20, &hint);
                check_pages(&r, 0, 512);
        }
        vhk_dirty_mark_host(r.d, m, &r, sizeof(r), &hint);      /* nobody's */
        check_pages(&r, 0, 0);
        CHECK(vhk_dirty_covers_all(r.d, m));
        struct vhk_region_desc d = { { (128 << 20) - 4096 }, { 0 }, 8192, 0, fd };
        CHECK_OK(vhk_memmap_add(m, &d, &next, NULL));
        CHECK(!vhk_dirty_covers_all(r.d, next));
        vhk_memmap_unref(next);
        vhk_memmap_unref(m);
        close(fd);
        rig_close(&r);
}

/* However many there are: they are searched by host address, whose order is another one than that
 * of guest addresses. */
TEST(each_of_many_regions_is_found) {
        static struct vhk_region_desc d[VHK_MEM_MAX_REGIONS];
        struct vhk_memmap *m;
        uint32_t hint = 0;
        struct rig r;
        int fd = memfd_create("dirty-regions", MFD_CLOEXEC);

        rig_open(&r);
        CHECK(fd >= 0 && !ftruncate(fd, VHK_MEM_MAX_REGIONS * 8192));
        for (unsigned i = 0; i < VHK_N(d); i++) {
                uint64_t k = i * 100 % VHK_N(d);        /* 509 is a prime */
                d[i] = (struct vhk_region_desc){ { k * 3 * 4096 }, { k * 3 * 4096 }, 8192, i * 8192ull, fd };
        }
        CHECK_OK(vhk_memmap_replace(NULL, d, VHK_N(d), &m, NULL));
        for (unsigned i = 0; i < m->n; i++) {
                unsigned k = i * 211 % m->n;
                const struct vhk_memreg *g = &m->regs[k];
                CHECK(vhk_memmap_find_host(m, g->host) == g && vhk_memmap_find_host(m, g->host + 8191) == g);
                vhk_dirty_mark_host(r.d, m, g->host + 4000, 200, &hint);
                CHECK_EQ(hint, k);
                check_pages(&r, k * 3ull, 2);
        }
        CHECK(!vhk_memmap_find_host(m, NULL) && !vhk_memmap_find_host(m, &r));
        vhk_memmap_unref(m);
        close(fd);
        rig_close(&r);
}

/* H23 */
TEST(refused) {
        static const struct { uint64_t offset, size; const char *rule; } cases[] = {
                { 0, 0, "mem.size-zero" }, { 1, 4096, "mem.offset-align" }, { 512, 4096, "mem.offset-align" },
                { 0, 3 * SIZE + 1, "mem.beyond-file" }, { 3 * SIZE, 1, "mem.beyond-file" }, { 4096, UINT64_MAX, "mem.wrap-offset" },
                { UINT64_MAX - 4095, 4096, "mem.wrap-offset" }, { 0, UINT64_MAX, "mem.beyond-file" },
        };
        struct vhk_dirty *d = NULL;
        struct vhk_error e;
        struct rig r;

        rig_open(&r);
        for (unsigned i = 0; i < VHK_N(cases); i++) {
                CHECK(vhk_dirty_new(r.fd, cases[i].offset, cases[i].size, &d, &e) < 0);
                CHECK_STR(e.rule, cases[i].rule);
        }
        CHECK(vhk_dirty_new(-1, 0, 4096, &d, &e) < 0);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        CHECK(vhk_dirty_new(null, 0, 4096, &d, &e) < 0);
        close(null);
        CHECK(!d);
        rig_close(&r);
}

static void on_sigbus(int sig, siginfo_t *info, void *context) {
        if (!vhk_sigbus_try(info))
                _exit(70);
}

TEST(truncated) {
        struct sigaction old, sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
        struct rig r;

        CHECK(sigaction(SIGBUS, &sa, &old) == 0);
        rig_open(&r);
        CHECK(!vhk_dirty_is_bad(r.d));
        CHECK(ftruncate(r.fd, 0) == 0);
        CHECK_EQ(*(volatile uint8_t *)r.d->bits, 0);    /* plain: ThreadSanitizer faults for ever in an atomic of its own */
        vhk_dirty_mark(r.d, 0, 1);
        CHECK(vhk_dirty_is_bad(r.d));
        rig_close(&r);
        CHECK(sigaction(SIGBUS, &old, NULL) == 0);
}

/* The front-end's side: every run of marks is taken once, wherever the search begins. */
TEST(taken) {
        static const struct { uint64_t first, n; } runs[] = { { 0, 1 }, { 2, 3 }, { 60, 10 }, { 128, 64 }, { 200, 1 }, { 255, 1 }, { 32767, 1 } };
        struct vhk_dirty_log *l;
        struct vhk_dirty *d;
        uint64_t gpa, len, seen = 0, marked = 0;

        CHECK_EQ(vhk_dirty_log_new(0, &l), -EINVAL);
        CHECK_OK(vhk_dirty_log_new((127u << 20) + 1, &l));
        CHECK_EQ(vhk_dirty_log_get_size(l), SIZE);
        CHECK_OK(vhk_dirty_new(vhk_dirty_log_get_fd(l), 0, vhk_dirty_log_get_size(l), &d, NULL));
        CHECK_EQ(vhk_dirty_log_take(l, 0, &gpa, &len), 0);
        for (unsigned i = 0; i < VHK_N(runs); i++) {
                vhk_dirty_mark(d, runs[i].first * 4096, runs[i].n * 4096);
                marked += runs[i].n;
        }
        CHECK_EQ(vhk_dirty_log_take(l, 3 * 4096 + 5, &gpa, &len), 1);           /* from within a run */
        CHECK_EQ(gpa, 3 * 4096);
        CHECK_EQ(len, 2 * 4096);
        seen += 2;
        for (uint64_t at = 0; vhk_dirty_log_take(l, at, &gpa, &len); at = gpa + len) {
                bool known = false;
                for (unsigned i = 0; i < VHK_N(runs); i++)
                        known |= gpa >= runs[i].first * 4096 && gpa + len <= (runs[i].first + runs[i].n) * 4096;
                CHECK(known && gpa >= at);
                seen += len / 4096;
        }
        CHECK_EQ(seen, marked);
        CHECK_EQ(vhk_dirty_log_take(l, 0, &gpa, &len), 0);
        CHECK_EQ(vhk_dirty_log_take(l, UINT64_MAX, &gpa, &len), 0);
        vhk_dirty_unref(d);
        vhk_dirty_log_free(l);
        CHECK(!vhk_dirty_log_free(NULL));
}
