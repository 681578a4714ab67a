/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The inputs H18, H19, H21 and H43 of tests/adversarial/README.md are among these. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "base/test.h"
#include "mem/mapping.h"
#include "mem/mem.h"

#define PAGE ((uint64_t)4096)
#define FILE_SIZE (16 * PAGE)

static int new_memfd(uint64_t len) {
        int fd = memfd_create("test-mem", MFD_CLOEXEC);
        CHECK(fd >= 0);
        CHECK_EQ(ftruncate(fd, (off_t)len), 0);
        return fd;
}

static struct vhk_memmap *empty(void) {
        struct vhk_memmap *m = NULL;
        CHECK_OK(vhk_memmap_new(&m));
        return m;
}

static struct vhk_region_desc desc(uint64_t gpa, uint64_t uva, uint64_t len, uint64_t offset, int fd) {
        return (struct vhk_region_desc){ .gpa = { gpa }, .uva = { uva }, .len = len, .fd_offset = offset, .fd = fd };
}

/* *m gives way to @next. */
static void swap(struct vhk_memmap **m, struct vhk_memmap *next) {
        vhk_memmap_unref(*m);
        *m = next;
}

static void add(struct vhk_memmap **m, struct vhk_region_desc d) {
        struct vhk_memmap *next;
        struct vhk_error e = { 0 };
        int k = vhk_memmap_add(*m, &d, &next, &e);
        CHECK_MSG(k == 0, "%d %s", k, e.text);
        swap(m, next);
}

/* ---- refusals: a good table of two regions (0x10000+4 pages, 0x20000+4 pages), and a third that breaks one rule ---- */

enum { FD_FILE, FD_NONE, FD_CLOSED, FD_PIPE, FD_DIR, FD_PATH, FD_READ_ONLY, N_FDS };

static void open_fds(int fds[N_FDS]) {
        int p[2];

        fds[FD_FILE] = new_memfd(FILE_SIZE);
        fds[FD_NONE] = -1;
        CHECK_OK(pipe2(p, O_CLOEXEC));
        fds[FD_CLOSED] = p[1];
        fds[FD_PIPE] = p[0];
        fds[FD_DIR] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fds[FD_PATH] = open("/proc/self/exe", O_PATH | O_CLOEXEC);
        fds[FD_READ_ONLY] = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        close(p[1]);            /* last, so that its number stays free */
}

static void close_fds(int fds[N_FDS]) {
        for (int i = 0; i < N_FDS; i++)
                if (i != FD_NONE && i != FD_CLOSED)
                        close(fds[i]);
}

static const struct {
        uint64_t gpa, uva, len, offset;
        int fd, code;
        const char *rule;
} refusals[] = {
        { 0x40000, 0x940000, 0, 0, FD_FILE, -EINVAL, "mem.size-zero" },
        { 0x40000, 0x940000, FILE_SIZE + 1, 0, FD_FILE, -EINVAL, "mem.beyond-file" },
        { 0x40000, 0x940000, FILE_SIZE, PAGE, FD_FILE, -EINVAL, "mem.beyond-file" },
        { 0x40000, 0x940000, 1, FILE_SIZE, FD_FILE, -EINVAL, "mem.beyond-file" },
        { 0x40000, 0x940000, UINT64_MAX - 0x940000, 0, FD_FILE, -EINVAL, "mem.beyond-file" },
        { 0x40000, 0x940000, PAGE, -PAGE, FD_FILE, -EINVAL, "mem.wrap-offset" },
        { 0x40000, 0x940000, 2 * PAGE, -PAGE, FD_FILE, -EINVAL, "mem.wrap-offset" },
        { 0x40000, 0x940000, PAGE, 1, FD_FILE, -EINVAL, "mem.offset-align" },
        { 0x40000, 0x940000, PAGE, 512, FD_FILE, -EINVAL, "mem.offset-align" },
        { -PAGE, 0x940000, PAGE, 0, FD_FILE, -EINVAL, "mem.wrap-gpa" },
        { UINT64_MAX, 0x940000, 2, 0, FD_FILE, -EINVAL, "mem.wrap-gpa" },
        { 0x40000, 0x940000, UINT64_MAX, 0, FD_FILE, -EINVAL, "mem.wrap-gpa" },
        { 0x40000, -PAGE, PAGE, 0, FD_FILE, -EINVAL, "mem.wrap-uva" },
        { 0x10000, 0x940000, PAGE, 0, FD_FILE, -EEXIST, "mem.overlap-gpa" },
        { 0x13fff, 0x940000, 1, 0, FD_FILE, -EEXIST, "mem.overlap-gpa" },
        { 0x1f000, 0x940000, PAGE + 1, 0, FD_FILE, -EEXIST, "mem.overlap-gpa" },
        { 0xf000, 0x940000, 6 * PAGE, 0, FD_FILE, -EEXIST, "mem.overlap-gpa" },
        { 0x40000, 0x910000, PAGE, 0, FD_FILE, -EEXIST, "mem.overlap-uva" },
        { 0x40000, 0x90ffff, 2, 0, FD_FILE, -EEXIST, "mem.overlap-uva" },
        { 0x40000, 0x823fff, 1, 0, FD_FILE, -EEXIST, "mem.overlap-uva" },
        { 0x10000, 0x910000, 4 * PAGE, PAGE, FD_FILE, -EEXIST, "mem.overlap-gpa" },     /* equal but for the offset */
        { 0x40000, 0x940000, PAGE, 0, FD_NONE, -EBADF, "mem.fd" },
        { 0x40000, 0x940000, PAGE, 0, FD_CLOSED, -EBADF, "mem.fd" },
        { 0x40000, 0x940000, PAGE, 0, FD_PIPE, -EINVAL, "mem.file-type" },
        { 0x40000, 0x940000, PAGE, 0, FD_DIR, -EINVAL, "mem.file-type" },
        { 0x40000, 0x940000, PAGE, 0, FD_PATH, -EACCES, "mem.fd-access" },
        { 0x40000, 0x940000, PAGE, 0, FD_READ_ONLY, -EACCES, "mem.fd-access" },
};

TEST(each_refusal_has_its_rule_and_changes_nothing) {
        struct vhk_mem_counters before = vhk_mem_counters();
        struct vhk_memmap *m = empty();
        int fds[N_FDS];

        open_fds(fds);
        /* user addresses are in the opposite order */
        struct vhk_region_desc d[3] = {
                desc(0x10000, 0x910000, 4 * PAGE, 0, fds[FD_FILE]), desc(0x20000, 0x820000, 4 * PAGE, 4 * PAGE, fds[FD_FILE]),
        };
        add(&m, d[0]);
        add(&m, d[1]);
        for (size_t i = 0; i < VHK_N(refusals); i++) {
                struct vhk_memmap *none = NULL;
                struct vhk_error e[2] = { 0 };
                d[2] = desc(refusals[i].gpa, refusals[i].uva, refusals[i].len, refusals[i].offset, fds[refusals[i].fd]);
                CHECK_MSG(vhk_memmap_add(m, &d[2], &none, &e[0]) == refusals[i].code, "row %zu: %d %s", i, e[0].code, e[0].text);
                CHECK_MSG(vhk_memmap_replace(m, d, 3, &none, &e[1]) == refusals[i].code, "row %zu: %d %s", i, e[1].code, e[1].text);
                CHECK_STR(e[0].rule, refusals[i].rule);
                CHECK_STR(e[1].rule, refusals[i].rule);
                CHECK(!none);
                CHECK_EQ(vhk_memmap_add(m, &d[2], &none, NULL), refusals[i].code);
        }
        CHECK_EQ(m->n, 2);
        struct vhk_mem_counters c = vhk_mem_counters();
        CHECK_EQ((c.mmaps - before.mmaps) - (c.munmaps - before.munmaps), 2);
        swap(&m, NULL);
        close_fds(fds);
}

/* What passes every check and still cannot be mapped: more than there are addresses. */
TEST(what_the_system_will_not_map_is_refused) {
        struct vhk_memmap *m = empty(), *none = NULL;
        int fd = memfd_create("test-mem", MFD_CLOEXEC);
        struct vhk_region_desc d = desc(0, 0, UINT64_C(1) << 60, 0, fd);
        struct vhk_error e;

        CHECK_EQ(ftruncate(fd, 1ll << 60), 0);
        CHECK(vhk_memmap_add(m, &d, &none, &e) < 0);            /* ENOMEM; valgrind says EINVAL */
        CHECK_STR(e.rule, "mem.map");
        CHECK(!none);
        swap(&m, NULL);
        close(fd);
}

TEST(a_table_with_the_same_region_twice_is_refused) {
        int fd = new_memfd(FILE_SIZE);
        struct vhk_region_desc d[2] = { desc(0, 0x1000, PAGE, 0, fd), desc(0, 0x1000, PAGE, 0, fd) };
        struct vhk_memmap *none = NULL;
        struct vhk_error e;

        CHECK_EQ(vhk_memmap_replace(NULL, d, 2, &none, &e), -EEXIST);
        CHECK_STR(e.rule, "mem.overlap-gpa");
        CHECK(!none);
        close(fd);
}

TEST(removing_names_a_region_exactly) {
        struct vhk_memmap *m = empty(), *none = NULL;
        int fd = new_memfd(FILE_SIZE);
        struct vhk_error e;
        static const struct { uint64_t gpa, uva, len; } wrong[] = {
                { 0x10000, 0x910000, 3 * PAGE }, { 0x10000, 0x910001, 4 * PAGE }, { 0x10001, 0x910000, 4 * PAGE },
                { 0x11000, 0x911000, 3 * PAGE }, { 0, 0, 0 }, { UINT64_MAX, UINT64_MAX, UINT64_MAX },
        };

        CHECK_EQ(vhk_memmap_remove(m, (vhk_gpa_t){ 0 }, (vhk_uva_t){ 0 }, 0, &none, &e), -ENOENT);
        add(&m, desc(0x10000, 0x910000, 4 * PAGE, 0, fd));
        for (size_t i = 0; i < VHK_N(wrong); i++) {
                vhk_gpa_t gpa = { wrong[i].gpa };
                vhk_uva_t uva = { wrong[i].uva };
                CHECK_EQ(vhk_memmap_remove(m, gpa, uva, wrong[i].len, &none, &e), -ENOENT);
                CHECK_STR(e.rule, "mem.no-such-region");
        }
        CHECK(!none);
        CHECK_EQ(vhk_memmap_remove(m, (vhk_gpa_t){ 0x10000 }, (vhk_uva_t){ 0x910000 }, 4 * PAGE, &none, &e), 0);
        swap(&m, none);
        CHECK_EQ(m->n, 0);
        swap(&m, NULL);
        close(fd);
}

/* ---- translation ---- */

/* 0x10000+0x4000 and 0x14000+0x1800 touch each other, in different parts of the file; then a hole; 0x20000+0x1000 and
 * 0x21000+0x1000 touch each other and are one piece of the host's addresses, if the system maps them side by side. */
static struct vhk_memmap *three_regions(int fd) {
        struct vhk_memmap *m = empty();
        add(&m, desc(0x20000, 0x7000, 0x1000, 8 * PAGE, fd));
        add(&m, desc(0x10000, 0x920000, 0x4000, 4 * PAGE, fd));
        add(&m, desc(0x14000, 0x9000, 0x1800, 0, fd));
        return m;
}

TEST(every_boundary_of_a_region) {
        int fd = new_memfd(FILE_SIZE);
        struct vhk_memmap *m = three_regions(fd);
        struct vhk_mem_cache c = { 0 };
        static const struct { uint64_t gpa, len; bool ok; } rows[] = {
                { 0xffff, 1, false }, { 0xffff, 2, false }, { 0xffff, 0, false }, { 0x10000, 0, true }, { 0x10000, 1, true },
                { 0x10000, 0x4000, true }, { 0x10000, 0x4001, false }, { 0x13fff, 1, true }, { 0x13fff, 2, false },
                { 0x14000, 0x1800, true }, { 0x14000, 0x1801, false }, { 0x157ff, 1, true }, { 0x15800, 0, false },
                { 0x15800, 1, false }, { 0x1ffff, 1, false },
                { 0x20000, 0x1000, true }, { 0x20fff, 1, true }, { 0x21000, 1, false }, { 0, 1, false }, { UINT64_MAX, 1, false },
                { 0x10000, UINT64_MAX, false }, { 0x13fff, UINT64_MAX, false }, { UINT64_MAX, UINT64_MAX, false },
        };

        for (int warm = 0; warm < 2; warm++)
                for (size_t i = 0; i < VHK_N(rows); i++) {
                        if (!warm)
                                c = (struct vhk_mem_cache){ 0 };
                        uint8_t *p = vhk_mem_host(m, &c, rows[i].gpa, rows[i].len);
                        CHECK_MSG(!!p == rows[i].ok, "row %zu, warm %d", i, warm);
                        CHECK(vhk_memmap_host_gpa(m, (vhk_gpa_t){ rows[i].gpa }, rows[i].len) == p);
                        const struct vhk_memreg *r = vhk_memmap_find_gpa(m, rows[i].gpa);
                        CHECK(!p || p == r->host + (rows[i].gpa - r->gpa));
                }
        swap(&m, NULL);
        close(fd);
}

TEST(addresses_lead_to_their_place_in_the_file) {
        int fd = new_memfd(FILE_SIZE);
        struct vhk_memmap *m = three_regions(fd);
        struct vhk_mem_cache c = { 0 };
        static const struct { uint64_t gpa, uva, offset; } rows[] = {
                { 0x10000, 0x920000, 4 * PAGE }, { 0x13fff, 0x923fff, 4 * PAGE + 0x3fff }, { 0x14000, 0x9000, 0 },
                { 0x157ff, 0xa7ff, 0x17ff }, { 0x20000, 0x7000, 8 * PAGE },
        };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                uint8_t x = 0, *p = vhk_mem_host(m, &c, rows[i].gpa, 1);
                *p = (uint8_t)(i + 1);
                CHECK(vhk_memmap_host_uva(m, (vhk_uva_t){ rows[i].uva }, 1) == p);
                CHECK_EQ(pread(fd, &x, 1, (off_t)rows[i].offset), 1);
                CHECK_EQ(x, i + 1);
        }
        CHECK(vhk_memmap_host_uva(m, (vhk_uva_t){ 0x7000 }, 0x1000));
        CHECK(!vhk_memmap_host_uva(m, (vhk_uva_t){ 0x7000 }, 0x1001));
        CHECK(!vhk_memmap_host_uva(m, (vhk_uva_t){ 0x8000 }, 1));
        CHECK(!vhk_memmap_host_uva(m, (vhk_uva_t){ 0x6fff }, 1));
        CHECK(!vhk_memmap_host_uva(m, (vhk_uva_t){ 0x924000 }, 0));
        CHECK(!vhk_memmap_host_uva(m, (vhk_uva_t){ 0x9000 }, UINT64_MAX));
        swap(&m, NULL);
        close(fd);
}

TEST(nothing_is_found_in_an_empty_table) {
        struct vhk_memmap *m = empty();
        struct vhk_mem_cache c = { 0 };
        struct iovec iov;

        CHECK(!vhk_mem_host(m, &c, 0, 0));
        CHECK(!vhk_memmap_host_uva(m, (vhk_uva_t){ 0 }, 0));
        CHECK_EQ(vhk_memmap_iov(m, &c, 0, 1, &iov, 1), -EFAULT);
        CHECK(!vhk_memmap_unref(m));
        CHECK(!vhk_memmap_unref(NULL));
}

TEST(iovecs_over_adjacent_regions_and_holes) {
        int fd = new_memfd(FILE_SIZE);
        struct vhk_memmap *m = three_regions(fd);
        struct vhk_mem_cache c = { 0 };
        struct iovec v[4];
        uint8_t *low = vhk_memmap_host_gpa(m, (vhk_gpa_t){ 0x10000 }, 1), *high = vhk_memmap_host_gpa(m, (vhk_gpa_t){ 0x14000 }, 1);
        bool one_piece = low + 0x4000 == high;

        CHECK_EQ(vhk_memmap_iov(m, &c, 0x10000, 0x4000, v, 4), 1);
        CHECK(v[0].iov_base == low && v[0].iov_len == 0x4000);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x13ffe, 6, v, 4), one_piece ? 1 : 2);
        CHECK(v[0].iov_base == low + 0x3ffe);
        if (!one_piece) {
                CHECK_EQ(v[0].iov_len, 2);
                CHECK(v[1].iov_base == high && v[1].iov_len == 4);
                CHECK_EQ(vhk_memmap_iov(m, &c, 0x13ffe, 6, v, 1), -ENOSPC);
        }
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x10000, 0x5800, v, 4), one_piece ? 1 : 2);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x10000, 0x5801, v, 4), -EFAULT);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x157ff, 0xa802, v, 4), -EFAULT);        /* both ends lie in regions, the middle in a hole */
        CHECK_EQ(vhk_memmap_iov(m, &c, 0xffff, 2, v, 4), -EFAULT);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x10000, UINT64_MAX, v, 4), -EFAULT);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x20fff, -(uint64_t)0x20fff, v, 4), -EFAULT);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x10000, 0, v, 4), 0);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x18000, 0, v, 4), -EFAULT);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x10000, 1, v, 0), -ENOSPC);
        swap(&m, NULL);
        close(fd);
}

/* Adjacent for the guest and for the host: a snapshot put together by hand, for mmap promises no place. */
TEST(iovecs_merge_where_the_host_is_contiguous) {
        static uint8_t bytes[0x3000];
        struct vhk_memmap *m = calloc(1, sizeof(*m) + 3 * sizeof(m->regs[0]));
        struct vhk_mem_cache c = { 0 };
        struct iovec v[2];

        m->n = 3;
        m->regs[0] = (struct vhk_memreg){ .gpa = 0x1000, .len = 0x1000, .host = bytes };
        m->regs[1] = (struct vhk_memreg){ .gpa = 0x2000, .len = 0x1000, .host = bytes + 0x1000 };
        m->regs[2] = (struct vhk_memreg){ .gpa = 0x3000, .len = 0x800, .host = bytes + 0x2800 };
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x1800, 0x1000, v, 1), 1);
        CHECK(v[0].iov_base == bytes + 0x800 && v[0].iov_len == 0x1000);
        CHECK_EQ(vhk_memmap_iov(m, &c, 0x1000, 0x2800, v, 2), 2);
        CHECK_EQ(v[0].iov_len, 0x2000);
        CHECK(v[1].iov_base == bytes + 0x2800 && v[1].iov_len == 0x800);
        free(m);
}

/* ---- what a change costs ---- */

static struct vhk_region_desc nth(unsigned i, int fd) {         /* far from each other, user addresses backwards */
        return desc(0x100000ull * i, 0x7f0000000000ull - 0x100000ull * i, PAGE, PAGE * (i % 16), fd);
}

TEST(of_509_regions_one_goes_with_one_munmap_and_a_repeated_table_costs_none) {
        static struct vhk_region_desc d[VHK_MEM_MAX_REGIONS + 1];
        struct vhk_memmap *m = empty(), *next;
        struct vhk_mem_counters a, b;
        int fd = new_memfd(FILE_SIZE), other = new_memfd(FILE_SIZE);
        struct vhk_error e;

        a = vhk_mem_counters();
        for (unsigned i = 0; i < VHK_N(d); i++)
                d[i] = nth((i * 7) % VHK_N(d), fd);             /* 7 and 510 have no common divisor: each once, out of order */
        for (unsigned i = 0; i < VHK_MEM_MAX_REGIONS; i++)
                add(&m, d[i]);
        b = vhk_mem_counters();
        CHECK_EQ(b.mmaps - a.mmaps, 509);
        CHECK_EQ(b.munmaps - a.munmaps, 0);
        CHECK_EQ(vhk_memmap_add(m, &d[509], &next, &e), -ENOSPC);
        CHECK_STR(e.rule, "mem.slots");
        CHECK_EQ(vhk_memmap_replace(m, d, 510, &next, &e), -ENOSPC);
        CHECK_STR(e.rule, "mem.slots");

        CHECK_EQ(vhk_memmap_replace(m, d, 509, &next, &e), 0);
        for (unsigned i = 0; i < 509; i++)
                CHECK(vhk_memmap_host_gpa(m, d[i].gpa, PAGE) == vhk_memmap_host_gpa(next, d[i].gpa, PAGE));
        swap(&m, next);
        CHECK_EQ(vhk_memmap_add(m, &d[5], &next, &e), 1);
        CHECK(next == m);
        swap(&m, next);
        a = vhk_mem_counters();
        CHECK_EQ(a.mmaps, b.mmaps);
        CHECK_EQ(a.munmaps, b.munmaps);

        CHECK_EQ(vhk_memmap_remove(m, d[250].gpa, d[250].uva, PAGE, &next, &e), 0);
        CHECK_EQ(vhk_mem_counters().munmaps, a.munmaps);        /* a ring may still use it */
        swap(&m, next);
        b = vhk_mem_counters();
        CHECK_EQ(b.munmaps - a.munmaps, 1);
        CHECK_EQ(b.mmaps, a.mmaps);
        CHECK_EQ(m->n, 508);
        for (unsigned i = 0; i < 509; i++) {
                CHECK_EQ(!!vhk_memmap_host_gpa(m, d[i].gpa, PAGE), i != 250);
                CHECK_EQ(!!vhk_memmap_host_uva(m, d[i].uva, PAGE), i != 250);
        }

        d[0].fd = other;                                        /* the same numbers, another file */
        CHECK_EQ(vhk_memmap_replace(m, d, 3, &next, &e), 0);
        swap(&m, next);
        a = vhk_mem_counters();
        CHECK_EQ(a.mmaps - b.mmaps, 1);
        CHECK_EQ(a.munmaps - b.munmaps, 506);
        swap(&m, NULL);
        close(fd);
        close(other);
}

TEST(a_repeated_region_is_checked_against_its_file_again) {
        struct vhk_memmap *m = empty(), *next = NULL;
        int fd = new_memfd(FILE_SIZE);
        struct vhk_region_desc d = desc(0, 0x1000, FILE_SIZE, 0, fd);
        struct vhk_error e;

        add(&m, d);
        CHECK_EQ(ftruncate(fd, PAGE), 0);
        CHECK_EQ(vhk_memmap_replace(m, &d, 1, &next, &e), -EINVAL);
        CHECK_STR(e.rule, "mem.beyond-file");
        CHECK_EQ(vhk_memmap_replace(m, NULL, 0, &next, &e), 0);
        CHECK_EQ(next->n, 0);
        swap(&m, next);
        swap(&m, NULL);
        close(fd);
}

/* ---- readers while control swaps ---- */

static struct vhk_memmap *published;    /* under the lock: what a mailbox does for real rings */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int stop;

static void *read_on(void *arg) {
        struct vhk_mem_cache c;
        uint64_t wrong = 0;

        while (!vhk_load_relaxed(&stop)) {
                pthread_mutex_lock(&lock);
                struct vhk_memmap *m = vhk_memmap_ref(published);
                pthread_mutex_unlock(&lock);
                c = (struct vhk_mem_cache){ 0 };
                for (uint32_t i = 0; i < m->n; i++) {
                        uint8_t *p = vhk_mem_host(m, &c, m->regs[i].gpa, PAGE);
                        wrong += !p || vhk_load_relaxed(p + PAGE - 1) != 'x';
                }
                vhk_memmap_unref(m);
        }
        return (void *)(uintptr_t)wrong;
}

TEST(readers_hold_a_snapshot_while_control_swaps) {
        int fd = new_memfd(FILE_SIZE);
        pthread_t t[2];
        struct vhk_error e;
        uint8_t x[FILE_SIZE];

        memset(x, 'x', sizeof(x));
        CHECK_EQ(pwrite(fd, x, sizeof(x), 0), sizeof(x));
        published = empty();
        add(&published, nth(0, fd));
        stop = 0;
        for (int i = 0; i < 2; i++)
                CHECK_EQ(pthread_create(&t[i], NULL, read_on, NULL), 0);
        for (unsigned i = 0; i < 400; i++) {
                struct vhk_memmap *old = published, *next;
                struct vhk_region_desc d = nth(1 + i / 2 % 3, fd);
                if (i % 2)
                        CHECK_OK(vhk_memmap_remove(old, d.gpa, d.uva, d.len, &next, &e));
                else
                        CHECK_OK(vhk_memmap_add(old, &d, &next, &e));
                pthread_mutex_lock(&lock);
                published = next;
                pthread_mutex_unlock(&lock);
                vhk_memmap_unref(old);
        }
        vhk_store_relaxed(&stop, 1);
        for (int i = 0; i < 2; i++) {
                void *wrong;
                pthread_join(t[i], &wrong);
                CHECK_EQ((uintptr_t)wrong, 0);
        }
        vhk_memmap_unref(published);
        close(fd);
}

/* ---- huge pages ---- */

/* Gets @n huge pages for the time of the test. */
static int raise_huge_pages(int n) {
        int fd = open("/proc/sys/vm/nr_hugepages", O_RDWR | O_CLOEXEC), had = -1;
        char text[32] = { 0 };

        if (fd < 0)
                return -1;
        if (read(fd, text, sizeof(text) - 1) > 0)
                had = atoi(text);
        snprintf(text, sizeof(text), "%d", had + n);
        if (had >= 0 && pwrite(fd, text, strlen(text), 0) < 0)
                had = -1;
        close(fd);
        return had;
}

static void restore_huge_pages(int had) {
        int fd = open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC);
        char text[32];
        int len = snprintf(text, sizeof(text), "%d", had);
        CHECK_EQ(write(fd, text, (size_t)len), len);
        close(fd);
}

/* Two huge pages in a file, or -1. */
static int new_huge_file(uint64_t *ret_huge) {
        int fd = memfd_create("test-huge", MFD_CLOEXEC | MFD_HUGETLB);
        struct statfs fs;
        void *p;

        if (fd < 0)
                return -1;
        if (fstatfs(fd, &fs) < 0 || ftruncate(fd, 2 * fs.f_bsize) < 0 ||
            (p = mmap(NULL, (size_t)fs.f_bsize * 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0)) == MAP_FAILED) {
                close(fd);
                return -1;
        }
        munmap(p, (size_t)fs.f_bsize * 2);
        *ret_huge = (uint64_t)fs.f_bsize;
        return fd;
}

static void on_sigbus(int sig, siginfo_t *si, void *context) {
        if (!vhk_sigbus_try(si))
                _exit(1);
}

TEST(hugetlbfs_at_an_offset_within_a_huge_page) {
        struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
        int had = raise_huge_pages(2);
        uint64_t huge = 0;
        int fd = had < 0 ? -1 : new_huge_file(&huge);
        struct vhk_mem_counters a = vhk_mem_counters();
        uint32_t seen = 0;
        char text[5] = { 0 };

        if (fd < 0) {
                if (had >= 0)
                        restore_huge_pages(had);
                SKIP("cannot: no huge pages to be had here");
        }
        struct vhk_memmap *m = empty();
        add(&m, desc(0xc0000, 0x7000000c0000, 0x2000, huge - PAGE, fd));        /* crosses from one huge page into the next */
        CHECK_EQ(m->regs[0].mapping->size, 2 * huge);
        memcpy(vhk_memmap_host_gpa(m, (vhk_gpa_t){ 0xc0ffc }, 8), "hugepage", 8);
        CHECK_EQ(pread(fd, text, 4, (off_t)huge), 4);
        CHECK_STR(text, "page");

        CHECK_EQ(sigaction(SIGBUS, &sa, NULL), 0);
        CHECK_EQ(ftruncate(fd, (off_t)huge), 0);
        CHECK(!memcmp(vhk_memmap_host_gpa(m, (vhk_gpa_t){ 0xc0ffc }, 8), "huge\0\0\0", 8));
        CHECK(vhk_memmap_is_bad(m, &seen));
        swap(&m, NULL);
        CHECK_EQ(vhk_mem_counters().munmaps - a.munmaps, 1);
        close(fd);
        restore_huge_pages(had);
}
