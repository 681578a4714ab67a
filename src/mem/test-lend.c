/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/test.h"
#include "mem/mem.h"

#define PAGE ((uint64_t)4096)

static struct vhk_memory *new_memory(void) {
        struct vhk_memory *m = NULL;
        CHECK_OK(vhk_memory_new(&m));
        return m;
}

static int new_memfd(uint64_t len) {
        int fd = memfd_create("test-lend", MFD_CLOEXEC);
        CHECK(fd >= 0);
        CHECK_EQ(ftruncate(fd, (off_t)len), 0);
        return fd;
}

static void *at(uint64_t va) {
        return (void *)(uintptr_t)va;
}

TEST(regions_are_checked) {
        struct vhk_memory *m = new_memory();
        int fd = new_memfd(8 * PAGE), pipes[2];
        struct vhk_region good = { sizeof(good), { 0x10000 }, at(0x70010000), 4 * PAGE, fd, PAGE };

        CHECK_OK(pipe2(pipes, O_CLOEXEC));
        CHECK_OK(vhk_memory_add(m, &good));
        static const struct { uint64_t gpa, va, len, offset; int size_less, fd_kind, code; } rows[] = {
                { 0x20000, 0x70020000, PAGE, 0, 1, 0, -EINVAL },
                { 0x20000, 0x70020000, 0, 0, 0, 0, -EINVAL },
                { 0x20000, 0, PAGE, 0, 0, 0, -EINVAL },
                { 0x20000, 0x70020000, PAGE + 1, 0, 0, 0, -EINVAL },
                { 0x20001, 0x70020000, PAGE, 0, 0, 0, -EINVAL },
                { 0x20000, 0x70020001, PAGE, 0, 0, 0, -EINVAL },
                { 0x20000, 0x70020000, PAGE, 1, 0, 0, -EINVAL },
                { 0x20000, 0x70020000, 9 * PAGE, 0, 0, 0, -EINVAL },
                { 0x20000, 0x70020000, PAGE, 8 * PAGE, 0, 0, -EINVAL },
                { 0x20000, 0x70020000, PAGE, -PAGE, 0, 0, -EINVAL },
                { -PAGE, 0x70020000, PAGE, 0, 0, 0, -EINVAL },
                { 0x20000, -PAGE, PAGE, 0, 0, 0, -EINVAL },
                { 0x20000, 0x70020000, PAGE, 0, 0, 1, -EINVAL },
                { 0x20000, 0x70020000, PAGE, 0, 0, 2, -EBADF },
                { 0x10000, 0x70020000, PAGE, 0, 0, 0, -EEXIST },
                { 0x13000, 0x70020000, PAGE, 0, 0, 0, -EEXIST },
                { 0xf000, 0x70020000, 2 * PAGE, 0, 0, 0, -EEXIST },
                { 0x20000, 0x7000f000, 2 * PAGE, 0, 0, 0, -EEXIST },
                { 0x20000, 0x70013000, PAGE, 0, 0, 0, -EEXIST },
                { 0x14000, 0x7000f000, PAGE, 0, 0, 0, 0 },
        };
        for (size_t i = 0; i < VHK_N(rows); i++) {
                struct vhk_region r = { sizeof(r) - (size_t)rows[i].size_less, { rows[i].gpa }, at(rows[i].va), rows[i].len,
                                        rows[i].fd_kind == 1 ? pipes[0] : rows[i].fd_kind == 2 ? -1 : fd, rows[i].offset };
                int k = vhk_memory_add(m, &r);
                CHECK_MSG(k == rows[i].code, "row %zu gave %d", i, k);
        }
        CHECK_EQ(vhk_memory_n_regions(m), 2);
        CHECK(!vhk_memory_free(m));
        CHECK(!vhk_memory_free(NULL));
        close(fd);
        close(pipes[0]);
        close(pipes[1]);
}

TEST(regions_are_given_in_order_and_found_by_their_addresses) {
        struct vhk_memory *m = new_memory();
        int fd = new_memfd(PAGE);
        struct vhk_region r = { sizeof(r), .len = PAGE, .fd = fd };
        vhk_gpa_t gpa = { 7 };

        CHECK_EQ(vhk_memory_find(m, at(0x1000), 1, &gpa), -EFAULT);
        for (uint64_t i = 0; i < 509; i++) {
                r.gpa.v = (i * 7 % 509) << 20;
                r.va = at(0x7f0000000000 - 4 * r.gpa.v);
                CHECK_OK(vhk_memory_add(m, &r));
        }
        close(fd);                              /* the table has duplicates */
        CHECK_EQ(vhk_memory_generation(m), 509);
        for (unsigned i = 0; i < 509; i++) {
                CHECK_OK(vhk_memory_get_region(m, i, &r));
                CHECK_EQ(r.gpa.v, (uint64_t)i << 20);
                CHECK(fcntl(r.fd, F_GETFD) & FD_CLOEXEC);
                CHECK_OK(vhk_memory_find(m, (uint8_t *)r.va + 5, PAGE - 5, &gpa));
                CHECK_EQ(gpa.v, r.gpa.v + 5);
                CHECK_EQ(vhk_memory_find(m, (uint8_t *)r.va + 5, PAGE - 4, &gpa), -EFAULT);
                CHECK_EQ(vhk_memory_find(m, (uint8_t *)r.va - 1, 1, &gpa), -EFAULT);
                CHECK_EQ(vhk_memory_find(m, (uint8_t *)r.va + PAGE, 0, &gpa), -EFAULT);
                CHECK_EQ(vhk_memory_find(m, r.va, UINT64_MAX, &gpa), -EFAULT);
        }
        CHECK_EQ(vhk_memory_get_region(m, 509, &r), -ENOENT);
        CHECK_EQ(vhk_memory_remove(m, (vhk_gpa_t){ 5 << 20 }, 2 * PAGE), -ENOENT);
        CHECK_EQ(vhk_memory_remove(m, (vhk_gpa_t){ (5 << 20) + PAGE }, PAGE), -ENOENT);
        CHECK_OK(vhk_memory_remove(m, (vhk_gpa_t){ 5 << 20 }, PAGE));
        CHECK_EQ(vhk_memory_remove(m, (vhk_gpa_t){ 5 << 20 }, PAGE), -ENOENT);
        CHECK_EQ(vhk_memory_n_regions(m), 508);
        CHECK_EQ(vhk_memory_generation(m), 510);
        CHECK_EQ(vhk_memory_find(m, at(0x7f0000000000 - (20 << 20)), 1, &gpa), -EFAULT);
        vhk_memory_free(m);
}

TEST(memory_of_our_own_is_shared_sealed_and_above_the_rest) {
        struct vhk_memory *m = new_memory();
        uint64_t lens[] = { 1, PAGE, 3 * PAGE + 5, (UINT64_C(2) << 20) + 1, UINT64_C(8) << 20 }, end = 0;
        vhk_gpa_t gpa;
        void *va;

        for (size_t i = 0; i < VHK_N(lens); i++) {
                struct vhk_region r = { .size = sizeof(r) };
                char text[6] = { 0 };
                CHECK_OK(vhk_memory_alloc(m, lens[i], &va));
                CHECK_OK(vhk_memory_find(m, va, lens[i], &gpa));
                CHECK(gpa.v >= end);
                CHECK_EQ((uintptr_t)va % (lens[i] < 2 << 20 ? PAGE : UINT64_C(2) << 20), 0);
                CHECK_OK(vhk_memory_get_region(m, (unsigned)i, &r));
                CHECK(r.va == va && r.gpa.v == gpa.v && r.len >= lens[i] && r.len % PAGE == 0);
                memcpy((uint8_t *)va + r.len - 5, "shared", 5);
                CHECK_EQ(pread(r.fd, text, 5, (off_t)r.len - 5), 5);
                CHECK_STR(text, "share");
                CHECK_EQ(ftruncate(r.fd, 0), -1);
                CHECK(fcntl(r.fd, F_GET_SEALS) & F_SEAL_SHRINK);
                end = gpa.v + r.len;
        }
        CHECK_EQ(vhk_memory_alloc(m, 0, &va), -EINVAL);
        CHECK_EQ(vhk_memory_alloc(m, SIZE_MAX, &va), -ENOMEM);
        CHECK_EQ(vhk_memory_alloc(m, SIZE_MAX - PAGE, &va), -ENOMEM);
        CHECK_OK(vhk_memory_remove(m, gpa, UINT64_C(8) << 20));
        CHECK_EQ(vhk_memory_n_regions(m), VHK_N(lens) - 1);
        vhk_memory_free(m);
}

TEST(memory_of_our_own_is_whole_huge_pages) {
        const uint64_t lens[] = { 1, PAGE, (UINT64_C(2) << 20) - 1, UINT64_C(2) << 20, (UINT64_C(2) << 20) + 1, UINT64_C(5) << 20 };
        struct vhk_memory *m = new_memory();
        struct vhk_region r = { sizeof(r) };
        struct stat st;
        void *va;

        for (size_t i = 0; i < VHK_N(lens); i++) {
                CHECK_OK(vhk_memory_alloc(m, lens[i], &va));
                CHECK_OK(vhk_memory_get_region(m, (unsigned)i, &r));
                CHECK_EQ((r.gpa.v | r.len | r.fd_offset | (uintptr_t)r.va) % (UINT64_C(2) << 20), 0);
                CHECK(r.len >= lens[i] && r.len - lens[i] < UINT64_C(2) << 20);
                CHECK_OK(fstat(r.fd, &st));
                CHECK_EQ(st.st_size, r.len);
        }
        for (size_t i = VHK_N(lens); i-- > 0;) {
                CHECK_OK(vhk_memory_get_region(m, (unsigned)i, &r));
                CHECK_OK(vhk_memory_remove(m, r.gpa, lens[i]));         /* as it was asked for */
        }
        vhk_memory_free(m);
}

TEST(no_guest_address_is_left_above_the_highest) {
        struct vhk_memory *m = new_memory();
        int fd = new_memfd(PAGE);
        struct vhk_region r = { sizeof(r), { -2 * PAGE }, at(0x70000000), PAGE, fd, 0 };
        void *va;

        CHECK_OK(vhk_memory_add(m, &r));
        CHECK_EQ(vhk_memory_alloc(m, PAGE, &va), -ENOSPC);
        vhk_memory_free(m);
        close(fd);
}

TEST(guest_addresses_stay_in_the_range) {
        static const struct { uint64_t first, last, len, gpa; int k; } rows[] = {
                { 0, UINT64_MAX, PAGE, UINT64_C(2) << 20, 0 }, { 0, 0xfffff, PAGE, 0, 0 }, { 0, 0xfffff, 0x100000, 0, 0 }, { 0, 0xfffff, 0x101000, 0, -ENOSPC },
                { 0x1234, 0xfffff, PAGE, 0x2000, 0 }, { 0x5000000, 0x5ffffff, PAGE, 0x5000000, 0 }, { 0x5001000, 0x5ffffff, PAGE, 0x5200000, 0 },
                { 0x5001000, 0x50fffff, PAGE, 0x5001000, 0 }, { 0x5001000, 0x5001ffe, PAGE, 0, -ENOSPC }, { 0x5001000, 0x5001fff, PAGE, 0x5001000, 0 },
        };
        vhk_gpa_t gpa = { 0 };
        void *va;

        for (size_t i = 0; i < VHK_N(rows); i++) {
                struct vhk_memory *m = new_memory();
                CHECK_OK(vhk_memory_set_range(m, rows[i].first, rows[i].last));
                int k = vhk_memory_alloc(m, rows[i].len, &va);
                CHECK_MSG(k == rows[i].k, "row %zu: %d", i, k);
                if (k == 0)
                        CHECK_OK(vhk_memory_find(m, va, 1, &gpa));
                CHECK_MSG(k < 0 || gpa.v == rows[i].gpa, "row %zu: 0x%llx", i, (unsigned long long)gpa.v);
                if (k == 0)             /* above it, as long as there is room */
                        while ((k = vhk_memory_alloc(m, rows[i].len, &va)) == 0 && vhk_memory_n_regions(m) < 5)
                                CHECK(vhk_memory_find(m, va, rows[i].len, &gpa) == 0 && gpa.v + (rows[i].len - 1) <= rows[i].last);
                CHECK(k == 0 || k == -ENOSPC);
                vhk_memory_free(m);
        }
        struct vhk_memory *m = new_memory();
        CHECK_EQ(vhk_memory_set_range(m, 2, 1), -EINVAL);
        vhk_memory_free(m);
}

/* What one end lends the other can map, wherever its parts lie in the file. */
TEST(a_borrower_maps_what_the_lender_describes) {
        struct vhk_memory *m = new_memory();
        struct vhk_memmap *map = NULL;
        struct vhk_region_desc d[2];
        struct vhk_region r = { .size = sizeof(r) };
        uint8_t *va[2];

        for (unsigned i = 0; i < 2; i++) {
                CHECK_OK(vhk_memory_alloc(m, PAGE * (i + 1), (void **)&va[i]));
                CHECK_OK(vhk_memory_get_region(m, i, &r));
                d[i] = (struct vhk_region_desc){ .gpa = r.gpa, .uva = { (uintptr_t)r.va }, .len = r.len,
                                                 .fd_offset = r.fd_offset, .fd = r.fd };
        }
        CHECK_OK(vhk_memmap_replace(NULL, d, 2, &map, NULL));
        strcpy((char *)va[1] + PAGE, "hello");
        CHECK_STR((char *)vhk_memmap_host_uva(map, (vhk_uva_t){ (uintptr_t)va[1] + PAGE }, 6), "hello");
        vhk_memmap_unref(map);
        vhk_memory_free(m);
}
