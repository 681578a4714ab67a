/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Every wrapper against an ioctl(), a read() and a write() of the test's own: the number, every byte of the argument with its padding,
 * what comes back, and each errno that the kernel's sources name for it, at which no output changes. What a wrapper does not fill it
 * has to zero: the stack is dirtied before each call.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "base/test.h"
#include "sys/sys.h"

#define FD 4242

/* ---- the kernel ---- */

static struct {
        bool armed;
        unsigned long request;          /* as it came */
        uint8_t in[8192];               /* the argument as it came, in_size bytes of it */
        size_t in_size;
        bool was_null;
        uint8_t out[8192];              /* what is put into the argument */
        size_t out_size;
        int result, error;              /* error: errno, then the argument is spoilt nevertheless */
        unsigned n_calls;
} k;

int ioctl(int fd, unsigned long request, ...) {
        va_list ap;

        va_start(ap, request);
        void *arg = va_arg(ap, void *);
        va_end(ap);
        if (!k.armed || fd != FD)
                return (int)syscall(SYS_ioctl, fd, request, arg);
        k.n_calls++;
        k.request = request;
        k.was_null = !arg;
        if (arg)
                memcpy(k.in, arg, k.in_size);
        if (arg && k.out_size)
                memcpy(arg, k.out, k.out_size);
        errno = k.error;
        return k.error ? -1 : k.result;
}

ssize_t write(int fd, const void *buf, size_t n) {
        if (!k.armed || fd != FD)
                return syscall(SYS_write, fd, buf, n);
        k.n_calls++;
        k.in_size = n < sizeof(k.in) ? n : sizeof(k.in);
        memcpy(k.in, buf, k.in_size);
        errno = k.error;
        return k.error ? -1 : k.result ? k.result : (ssize_t)n;
}

ssize_t read(int fd, void *buf, size_t n) {
        if (!k.armed || fd != FD)
                return syscall(SYS_read, fd, buf, n);
        k.n_calls++;
        if (k.error == EINTR && k.n_calls == 1) {
                errno = EINTR;
                return -1;
        }
        memcpy(buf, k.out, k.out_size < n ? k.out_size : n);
        errno = k.error == EINTR ? 0 : k.error;
        return errno ? -1 : (ssize_t)k.out_size;
}

static __attribute__((noinline)) void dirty_the_stack(void) {
        volatile uint8_t b[20000];

        for (size_t i = 0; i < sizeof(b); i++)
                b[i] = 0xa5;
}

static void expect(size_t in_size, const void *out, size_t out_size) {
        memset(&k, 0, sizeof(k));
        k.armed = true;
        k.in_size = in_size;
        if (out)
                memcpy(k.out, out, out_size);
        k.out_size = out_size;
        dirty_the_stack();
}

static void saw(unsigned long request, const void *want, size_t n, const char *what) {
        CHECK_MSG(k.n_calls == 1, "%s: %u calls", what, k.n_calls);
        CHECK_MSG(k.request == request, "%s: number 0x%lx, expected 0x%lx", what, k.request, request);
        for (size_t i = 0; i < n; i++)
                CHECK_MSG(k.in[i] == ((const uint8_t *)want)[i], "%s: byte %zu of the argument is 0x%02x, expected 0x%02x", what, i, k.in[i], ((const uint8_t *)want)[i]);
}

/* What vhost, vhost-vdpa and VDUSE answer with, and what a signal or a strange kernel might add. */
static const int errnos[] = { EPERM, ENOENT, EINTR, EIO, ENXIO, E2BIG, EBADF, EAGAIN, ENOMEM, EACCES, EFAULT, EBUSY, EEXIST, ENODEV, EINVAL, ENOTTY, ENOSPC, ERANGE,
                              ENOTSOCK, EOPNOTSUPP, EADDRINUSE, ENOBUFS, EBADFD, ENOMSG, ETIMEDOUT };

/* @call gives -errno for each, and leaves @out alone. */
#define FAILS(call, out)                                                                                                \
        do {                                                                                                            \
                for (size_t e_ = 0; e_ < VHK_N(errnos); e_++) {                                                         \
                        uint8_t before_[sizeof(out)];                                                                   \
                        expect(0, NULL, 0);                                                                             \
                        k.error = errnos[e_];                                                                           \
                        memset(&(out), 0x5a, sizeof(out));                                                              \
                        memcpy(before_, &(out), sizeof(out));                                                           \
                        int r_ = (call);                                                                                \
                        CHECK_MSG(r_ == -errnos[e_], "%s: %d, expected %d", #call, r_, -errnos[e_]);                    \
                        CHECK_MSG(!memcmp(before_, &(out), sizeof(out)), "%s: an output has changed", #call);           \
                }                                                                                                       \
                k.armed = false;                                                                                        \
        } while (0)

/* ---- uniform ones, by shape ---- */

#define ROW(f, nr) { #f, f, nr }

static const struct { const char *name; int (*fn)(int fd); unsigned long request; } plain[] = {
        ROW(vhk_sys_vhost_set_owner, 0xaf01), ROW(vhk_sys_vhost_reset_owner, 0xaf02), ROW(vhk_sys_vdpa_suspend, 0xaf7d), ROW(vhk_sys_vdpa_resume, 0xaf7e),
        ROW(vhk_sys_vduse_inject_config_irq, 0x8113),
};

TEST(without_an_argument) {
        uint8_t none = 0;

        for (size_t i = 0; i < VHK_N(plain); i++) {
                expect(0, NULL, 0);
                CHECK_EQ(plain[i].fn(FD), 0);
                saw(plain[i].request, NULL, 0, plain[i].name);
                CHECK(k.was_null);
                FAILS(plain[i].fn(FD), none);
        }
}

/* A word there. */
#define SETTERS(name, type)                                                                                             \
        static void check_set_##name(const char *what, int (*fn)(int, type), unsigned long request) {                   \
                const type x = (type)UINT64_C(0x8182838485868788);                                                      \
                uint8_t none = 0;                                                                                       \
                expect(sizeof(x), NULL, 0);                                                                             \
                CHECK_EQ(fn(FD, x), 0);                                                                                 \
                saw(request, &x, sizeof(x), what);                                                                      \
                FAILS(fn(FD, x), none);                                                                                 \
        }
SETTERS(u64, uint64_t)
SETTERS(u32, uint32_t)
SETTERS(u8, uint8_t)
SETTERS(int, int)

/* A word back. */
#define GETTERS(name, type)                                                                                             \
        static void check_get_##name(const char *what, int (*fn)(int, type *), unsigned long request) {                 \
                const type x = (type)UINT64_C(0x8182838485868788), zero = 0;                                            \
                type got = 0;                                                                                           \
                expect(sizeof(x), &x, sizeof(x));                                                                       \
                CHECK_EQ(fn(FD, &got), 0);                                                                              \
                saw(request, &zero, sizeof(zero), what);                                                                \
                CHECK_MSG(got == x, "%s: another value came back", what);                                               \
                FAILS(fn(FD, &got), got);                                                                               \
        }
GETTERS(u64, uint64_t)
GETTERS(u32, uint32_t)
GETTERS(u16, uint16_t)
GETTERS(u8, uint8_t)
GETTERS(int, int)

#define DO(shape, f, nr) check_##shape(#f, f, nr)

TEST(a_word_there) {
        DO(set_u64, vhk_sys_vhost_set_features, 0x4008af00);
        DO(set_u64, vhk_sys_vhost_set_log_base, 0x4008af04);
        DO(set_int, vhk_sys_vhost_set_log_fd, 0x4004af07);
        DO(set_u32, vhk_sys_vhost_free_worker, 0x4004af09);
        DO(set_u64, vhk_sys_vhost_set_backend_features, 0x4008af25);
        DO(set_u32, vhk_sys_vhost_scsi_set_events_missed, 0x4004af43);
        DO(set_u64, vhk_sys_vhost_vsock_set_guest_cid, 0x4008af60);
        DO(set_int, vhk_sys_vhost_vsock_set_running, 0x4004af61);
        DO(set_u8, vhk_sys_vdpa_set_status, 0x4001af72);
        DO(set_int, vhk_sys_vdpa_set_config_call, 0x4004af77);
        DO(set_u8, vhk_sys_vhost_set_fork_from_owner, 0x4001af84);
        DO(set_u64, vhk_sys_vduse_set_api_version, 0x40088101);
        DO(set_u64, vhk_sys_vduse_set_control_features, 0x40088105);
        DO(set_u32, vhk_sys_vduse_vq_inject_irq, 0x40048117);
}

TEST(a_word_back) {
        DO(get_u64, vhk_sys_vhost_get_features, 0x8008af00);
        DO(get_u32, vhk_sys_vhost_new_worker, 0x8004af08);
        DO(get_u64, vhk_sys_vhost_get_backend_features, 0x8008af26);
        DO(get_int, vhk_sys_vhost_scsi_get_abi_version, 0x4004af42);
        DO(get_u32, vhk_sys_vhost_scsi_get_events_missed, 0x4004af44);
        DO(get_u32, vhk_sys_vdpa_get_device_id, 0x8004af70);
        DO(get_u8, vhk_sys_vdpa_get_status, 0x8001af71);
        DO(get_u16, vhk_sys_vdpa_get_vring_num, 0x8002af76);
        DO(get_u32, vhk_sys_vdpa_get_config_size, 0x8004af79);
        DO(get_u32, vhk_sys_vdpa_get_as_num, 0x8004af7a);
        DO(get_u32, vhk_sys_vdpa_get_vqs_count, 0x8004af80);
        DO(get_u32, vhk_sys_vdpa_get_group_num, 0x8004af81);
        DO(get_u8, vhk_sys_vhost_get_fork_from_owner, 0x8001af85);
        DO(get_u64, vhk_sys_vduse_get_api_version, 0x80088100);
        DO(get_u64, vhk_sys_vduse_get_control_features, 0x80088104);
        DO(get_u64, vhk_sys_vduse_get_features, 0x80088111);
}

static const struct { const char *name; int (*fn)(int, uint32_t, uint32_t); unsigned long request; } pairs[] = {
        ROW(vhk_sys_vhost_set_vring_num, 0x4008af10), ROW(vhk_sys_vhost_set_vring_base, 0x4008af12), ROW(vhk_sys_vhost_set_vring_endian, 0x4008af13),
        ROW(vhk_sys_vhost_attach_vring_worker, 0x4008af15), ROW(vhk_sys_vhost_set_busyloop_timeout, 0x4008af23),
        ROW(vhk_sys_vdpa_set_vring_enable, 0x4008af75), ROW(vhk_sys_vdpa_set_group_asid, 0x4008af7c),
};
static const struct { const char *name; int (*fn)(int, uint32_t, uint32_t *); unsigned long request; } pairs_back[] = {
        ROW(vhk_sys_vhost_get_vring_base, 0xc008af12), ROW(vhk_sys_vhost_get_vring_endian, 0x4008af14), ROW(vhk_sys_vhost_get_vring_worker, 0xc008af16),
        ROW(vhk_sys_vhost_get_busyloop_timeout, 0x4008af24), ROW(vhk_sys_vdpa_get_vring_group, 0xc008af7b),
        ROW(vhk_sys_vdpa_get_vring_desc_group, 0xc008af7f), ROW(vhk_sys_vdpa_get_vring_size, 0xc008af82),
};
static const struct { const char *name; int (*fn)(int, uint32_t, int); unsigned long request; } files[] = {
        ROW(vhk_sys_vhost_set_vring_kick, 0x4008af20), ROW(vhk_sys_vhost_set_vring_call, 0x4008af21), ROW(vhk_sys_vhost_set_vring_err, 0x4008af22),
        ROW(vhk_sys_vhost_net_set_backend, 0x4008af30), ROW(vhk_sys_vduse_vq_setup_kickfd, 0x40088116),
};

TEST(an_index_and_a_word) {
        uint8_t none = 0;

        for (size_t i = 0; i < VHK_N(pairs); i++) {
                expect(8, NULL, 0);
                CHECK_EQ(pairs[i].fn(FD, 7, 0xdeadbeef), 0);
                saw(pairs[i].request, (uint32_t[]){ 7, 0xdeadbeef }, 8, pairs[i].name);
                FAILS(pairs[i].fn(FD, 7, 1), none);
        }
        for (size_t i = 0; i < VHK_N(pairs_back); i++) {
                uint32_t got = 0;
                expect(8, (uint32_t[]){ 7, 0xfeedf00d }, 8);
                CHECK_EQ(pairs_back[i].fn(FD, 7, &got), 0);
                saw(pairs_back[i].request, (uint32_t[]){ 7, 0 }, 8, pairs_back[i].name);
                CHECK_EQ(got, 0xfeedf00d);
                FAILS(pairs_back[i].fn(FD, 7, &got), got);
        }
        for (size_t i = 0; i < VHK_N(files); i++) {
                expect(8, NULL, 0);
                CHECK_EQ(files[i].fn(FD, 3, -1), 0);
                saw(files[i].request, (uint32_t[]){ 3, UINT32_MAX }, 8, files[i].name);
                FAILS(files[i].fn(FD, 3, 9), none);
        }
}

/* ---- structs ---- */

TEST(memory_table) {
        const struct vhk_sys_region r[] = { { 0, 0x1000, 0x7f0000000000 }, { 0x100000000, 0x40000000, 0x7f1000000000 } };
        const struct { uint32_t n, pad; uint64_t r[2][4]; } want = { 2, 0, { { 0, 0x1000, 0x7f0000000000, 0 }, { 0x100000000, 0x40000000, 0x7f1000000000, 0 } } };
        uint8_t none = 0;

        expect(sizeof(want), NULL, 0);
        CHECK_EQ(vhk_sys_vhost_set_mem_table(FD, r, 2), 0);
        saw(0x4008af03, &want, sizeof(want), "set_mem_table");
        expect(8, NULL, 0);
        CHECK_EQ(vhk_sys_vhost_set_mem_table(FD, NULL, 0), 0);
        saw(0x4008af03, (uint32_t[]){ 0, 0 }, 8, "an empty table");
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vhost_set_mem_table(FD, r, UINT32_MAX), -E2BIG);
        CHECK_EQ(k.n_calls, 0);
        FAILS(vhk_sys_vhost_set_mem_table(FD, r, 2), none);
}

TEST(ring_addresses) {
        const struct vhk_sys_ring_addr a = { .index = 3, .flags = VHK_SYS_RING_F_LOG, .desc = 0x1111111111111111, .used = 0x2222222222222222,
                                             .avail = 0x3333333333333333, .log = 0x4444444444444444 };
        const struct { uint32_t index, flags; uint64_t desc, used, avail, log; } want = { 3, 1, a.desc, a.used, a.avail, a.log };
        uint8_t none = 0;

        expect(sizeof(want), NULL, 0);
        CHECK_EQ(vhk_sys_vhost_set_vring_addr(FD, &a), 0);
        saw(0x4028af11, &want, sizeof(want), "set_vring_addr");
        FAILS(vhk_sys_vhost_set_vring_addr(FD, &a), none);
}

/* A packed ring's base takes all 32 bits, in and out. */
TEST(packed_bases) {
        uint32_t got = 0;

        expect(8, NULL, 0);
        CHECK_EQ(vhk_sys_vhost_set_vring_base(FD, 1, 0x1234 | 1u << 15 | 0x4321u << 16 | 1u << 31), 0);
        saw(0x4008af12, (uint32_t[]){ 1, 0xc3219234 }, 8, "set_vring_base");
        expect(8, (uint32_t[]){ 1, 0xc3219234 }, 8);
        CHECK_EQ(vhk_sys_vhost_get_vring_base(FD, 1, &got), 0);
        CHECK_EQ(got, 0xc3219234);
}

TEST(features_array) {
        uint64_t words[16] = { 0xf00d, 2, 3 }, got[2] = { 0, 0 };
        uint8_t none = 0;

        expect(32, NULL, 0);
        CHECK_EQ(vhk_sys_vhost_set_features_array(FD, words, 3), 0);
        saw(0x4008af83, (uint64_t[]){ 3, 0xf00d, 2, 3 }, 32, "set_features_array");
        expect(24, (uint64_t[]){ 2, 11, 12 }, 24);
        CHECK_EQ(vhk_sys_vhost_get_features_array(FD, got, 2), 0);
        saw(0x8008af83, (uint64_t[]){ 2, 0, 0 }, 24, "get_features_array");
        CHECK(got[0] == 11 && got[1] == 12);
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vhost_get_features_array(FD, words, 17), -E2BIG);
        CHECK_EQ(vhk_sys_vhost_set_features_array(FD, words, UINT32_MAX), -E2BIG);
        CHECK_EQ(k.n_calls, 0);
        FAILS(vhk_sys_vhost_get_features_array(FD, got, 2), got);
        FAILS(vhk_sys_vhost_set_features_array(FD, words, 2), none);
}

TEST(scsi_endpoints) {
        static const struct { const char *name; int (*fn)(int, const char *, uint16_t); unsigned long request; } rows[] = {
                ROW(vhk_sys_vhost_scsi_set_endpoint, 0x40e8af40), ROW(vhk_sys_vhost_scsi_clear_endpoint, 0x40e8af41),
        };
        char name[300], want[232];
        uint8_t none = 0;

        for (size_t i = 0; i < VHK_N(rows); i++) {
                memset(want, 0, sizeof(want));
                want[0] = 1;                    /* the interface's version */
                memcpy(want + 4, "naa.600140554cf3a18e", 20);
                want[228] = 2;
                want[229] = 1;
                expect(232, NULL, 0);
                CHECK_EQ(rows[i].fn(FD, "naa.600140554cf3a18e", 0x102), 0);
                saw(rows[i].request, want, 232, rows[i].name);
                memset(name, 'x', sizeof(name));
                name[223] = 0;
                memset(want + 4, 'x', 223);
                expect(232, NULL, 0);
                CHECK_EQ(rows[i].fn(FD, name, 0x102), 0);
                saw(rows[i].request, want, 232, "the longest name");
                name[223] = 'x';
                name[224] = 0;
                expect(0, NULL, 0);
                CHECK_EQ(rows[i].fn(FD, name, 1), -ENAMETOOLONG);
                CHECK_EQ(k.n_calls, 0);
                FAILS(rows[i].fn(FD, "naa.1", 1), none);
        }
}

TEST(configuration_and_range) {
        uint8_t b[4096], want[8 + 4096], got[4096];
        uint64_t range[2] = { 0, 0 }, big = 0;
        uint8_t none = 0;

        for (size_t i = 0; i < sizeof(b); i++)
                b[i] = (uint8_t)(i * 3 + 1);
        memset(want, 0, sizeof(want));
        memcpy(want, (uint32_t[]){ 4, 6 }, 8);
        memcpy(want + 8, b, 6);
        expect(14, NULL, 0);
        CHECK_EQ(vhk_sys_vdpa_set_config(FD, 4, b, 6), 0);
        saw(0x4008af74, want, 14, "set_config");
        memset(want + 8, 0, 4096);
        memcpy(want, (uint32_t[]){ 0, 4096 }, 8);
        memcpy(want + 8, b, 4096);
        expect(8 + 4096, want, sizeof(want));
        CHECK_EQ(vhk_sys_vdpa_get_config(FD, 0, got, 4096), 0);
        memset(want + 8, 0, 4096);
        saw(0x8008af73, want, sizeof(want), "get_config");
        CHECK(!memcmp(got, b, 4096));
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vdpa_get_config(FD, 0, got, 4097), -E2BIG);
        CHECK_EQ(vhk_sys_vdpa_set_config(FD, 0, b, UINT32_MAX), -E2BIG);
        CHECK_EQ(k.n_calls, 0);
        FAILS(vhk_sys_vdpa_get_config(FD, 0, got, 64), got);
        FAILS(vhk_sys_vdpa_set_config(FD, 0, b, 64), none);
        expect(16, (uint64_t[]){ 0x1000, UINT64_MAX }, 16);
        CHECK_EQ(vhk_sys_vdpa_get_iova_range(FD, &range[0], &range[1]), 0);
        saw(0x8010af78, (uint64_t[]){ 0, 0 }, 16, "get_iova_range");
        CHECK(range[0] == 0x1000 && range[1] == UINT64_MAX);
        FAILS(vhk_sys_vdpa_get_iova_range(FD, &range[0], &range[1]), range);
        FAILS(vhk_sys_vdpa_get_iova_range(FD, &range[0], &big), big);
}

/* ---- messages about translations ---- */

TEST(iotlb_there) {
        const struct vhk_sys_iotlb m = { .iova = 0x1122334455667788, .len = 0x1000, .uva = 0x7fff00000000, .perm = 3, .type = VHK_SYS_IOTLB_UPDATE, .asid = 5 };
        struct { uint32_t type, asid; uint64_t iova, len, uva; uint8_t perm, what, zero[38]; } want = { 2, 5, m.iova, m.len, m.uva, 3, 2, { 0 } };

        static_assert(sizeof(want) == 72, "struct vhost_msg_v2");
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vhost_write_iotlb(FD, 1, &m), 0);
        CHECK_EQ(k.in_size, 72);
        saw(0, &want, 72, "version 2");
        want.type = 1;
        want.asid = 0;                  /* padding in version 1 */
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vhost_write_iotlb(FD, 0, &m), 0);
        CHECK_EQ(k.in_size, 72);
        saw(0, &want, 72, "version 1");
        expect(0, NULL, 0);
        k.result = 71;
        CHECK_EQ(vhk_sys_vhost_write_iotlb(FD, 0, &m), -EIO);
        for (size_t i = 0; i < VHK_N(errnos); i++)
                if (errnos[i] != EINTR) {
                        expect(0, NULL, 0);
                        k.error = errnos[i];
                        CHECK_EQ(vhk_sys_vhost_write_iotlb(FD, 1, &m), -errnos[i]);
                }
}

TEST(iotlb_back) {
        struct vhk_k_iotlb m = { .version = 2, .asid = 4, .iova = 0x5000, .perm = 2, .type = VHK_SYS_IOTLB_MISS };
        struct vhk_sys_iotlb got = { 0 };
        static const struct { uint32_t version; uint8_t perm, type; size_t n; } bad[] = {
                { 0, 1, 1, 72 }, { 3, 1, 1, 72 }, { 2, 4, 1, 72 }, { 2, 1, 0, 72 }, { 2, 1, 7, 72 }, { 2, 1, 255, 72 }, { 2, 1, 1, 71 }, { 2, 1, 1, 0 },
        };

        expect(0, &m, sizeof(m));
        CHECK_EQ(vhk_sys_vhost_read_iotlb(FD, &got), 1);
        CHECK(got.iova == 0x5000 && got.perm == 2 && got.type == VHK_SYS_IOTLB_MISS && got.asid == 4 && !got.len && !got.uva);
        m.version = 1;
        expect(0, &m, sizeof(m));
        k.error = EINTR;                /* once */
        CHECK_EQ(vhk_sys_vhost_read_iotlb(FD, &got), 1);
        CHECK_EQ(got.asid, 0);
        expect(0, NULL, 0);
        k.error = EAGAIN;
        CHECK_EQ(vhk_sys_vhost_read_iotlb(FD, &got), 0);
        k.error = EINVAL;
        CHECK_EQ(vhk_sys_vhost_read_iotlb(FD, &got), -EINVAL);
        for (size_t i = 0; i < VHK_N(bad); i++) {
                m = (struct vhk_k_iotlb){ .version = bad[i].version, .perm = bad[i].perm, .type = bad[i].type };
                expect(0, &m, bad[i].n);
                got.iova = 0x77;
                CHECK_EQ(vhk_sys_vhost_read_iotlb(FD, &got), -EBADMSG);
                CHECK_EQ(got.iova, 0x77);
        }
}

/* ---- VDUSE ---- */

TEST(vduse_devices) {
        const struct vhk_sys_vduse_config c = { .name = "disk", .vendor_id = 1, .device_id = 2, .features = 0x300000000, .vq_num = 4, .vq_align = 4096,
                                                .ngroups = 2, .nas = 3, .config = "abc", .config_size = 3 };
        struct vhk_sys_vduse_config other = c;
        uint8_t want[339] = "disk";
        char name[300];
        uint8_t none = 0;

        memcpy(want + 256, (uint32_t[]){ 1, 2 }, 8);
        memcpy(want + 264, (uint64_t[]){ 0x300000000 }, 8);
        memcpy(want + 272, (uint32_t[]){ 4, 4096, 2, 3 }, 16);
        want[332] = 3;
        memcpy(want + 336, "abc", 3);
        expect(339, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_create_dev(FD, &c), 0);
        saw(0x41508102, want, 339, "create_dev");
        FAILS(vhk_sys_vduse_create_dev(FD, &c), none);
        memset(want, 0, sizeof(want));
        memcpy(want, "disk", 4);
        expect(256, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_destroy_dev(FD, "disk"), 0);
        saw(0x41008103, want, 256, "destroy_dev");
        FAILS(vhk_sys_vduse_destroy_dev(FD, "disk"), none);
        memset(name, 'n', sizeof(name));
        name[256] = 0;
        other.name = name;
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_create_dev(FD, &other), -ENAMETOOLONG);
        CHECK_EQ(vhk_sys_vduse_destroy_dev(FD, name), -ENAMETOOLONG);
        CHECK_EQ(vhk_sys_vduse_destroy_dev(FD, ""), -EINVAL);
        other.name = "";
        CHECK_EQ(vhk_sys_vduse_create_dev(FD, &other), -EINVAL);
        other = c;
        other.config_size = 65537;
        CHECK_EQ(vhk_sys_vduse_create_dev(FD, &other), -E2BIG);
        CHECK_EQ(k.n_calls, 0);
        k.armed = false;
}

TEST(vduse_nodes) {
        char name[300];
        int fd = 4711;

        memset(name, 'n', sizeof(name));
        name[256] = 0;
        CHECK_EQ(vhk_sys_vduse_open_dev(name, &fd), -ENAMETOOLONG);
        name[255] = 0;
        CHECK_EQ(vhk_sys_vduse_open_dev(name, &fd), -ENOENT);
        CHECK_EQ(vhk_sys_vduse_open_dev("", &fd), -EINVAL);
        CHECK_EQ(vhk_sys_vduse_open_dev("../null", &fd), -EINVAL);
        CHECK_EQ(vhk_sys_vduse_open_dev(".", &fd), -EINVAL);
        CHECK_EQ(vhk_sys_vduse_open_dev("a/b", &fd), -EINVAL);
        CHECK_EQ(vhk_sys_vhost_open("/nowhere/vhost-net", &fd), -ENOENT);
        CHECK_EQ(fd, 4711);
        CHECK_OK(vhk_sys_vhost_open("/dev/null", &fd));
        CHECK_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        CHECK_EQ(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_NONBLOCK | O_RDWR);
        close(fd);
}

TEST(vduse_translations) {
        struct vhk_sys_vduse_iotlb e = { .offset = 9, .first = 0x1000, .last = 0x1fff, .perm = 9 };
        const uint64_t reply[] = { 0x3000, 0x1000, 0x4fff, 3 };
        uint64_t want[10] = { 0, 0x1000, 0x1fff, 0, 6 };
        int fd = -1;

        expect(32, reply, 32);
        k.result = 17;
        CHECK_EQ(vhk_sys_vduse_iotlb_get_fd(FD, &e, &fd), 0);
        saw(0xc0208110, want, 32, "iotlb_get_fd");
        CHECK(fd == 17 && e.offset == 0x3000 && e.first == 0x1000 && e.last == 0x4fff && e.perm == 3);
        e = (struct vhk_sys_vduse_iotlb){ .first = 0x1000, .last = 0x1fff };
        expect(80, reply, 32);
        k.result = 0;                   /* a descriptor as any other */
        CHECK_EQ(vhk_sys_vduse_iotlb_get_fd2(FD, 6, &e, &fd), 0);
        saw(0xc050811b, want, 80, "iotlb_get_fd2");
        CHECK(fd == 0 && e.last == 0x4fff);
        FAILS(vhk_sys_vduse_iotlb_get_fd(FD, &e, &fd), e);
        FAILS(vhk_sys_vduse_iotlb_get_fd2(FD, 1, &e, &fd), fd);
}

TEST(vduse_memory) {
        const struct vhk_sys_vduse_umem m = { .uva = 0x7f0000000000, .iova = 0x1000, .len = 0x2000, .asid = 3 };
        const uint64_t want[6] = { m.uva, m.iova, m.len, 3 };
        struct vhk_sys_vduse_iova_info i = { .first = 1, .last = 2, .capability = 99, .asid = 3 };
        uint8_t none = 0;

        expect(48, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_iotlb_reg_umem(FD, &m), 0);
        saw(0x40308118, want, 48, "iotlb_reg_umem");
        expect(48, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_iotlb_dereg_umem(FD, &m), 0);
        saw(0x40308119, want, 48, "iotlb_dereg_umem");
        FAILS(vhk_sys_vduse_iotlb_reg_umem(FD, &m), none);
        FAILS(vhk_sys_vduse_iotlb_dereg_umem(FD, &m), none);
        expect(48, (uint64_t[]){ 0x1000, 0x1fff, 1, 2, 0, 0 }, 48);
        CHECK_EQ(vhk_sys_vduse_iotlb_get_info(FD, &i), 0);
        saw(0xc030811a, (uint64_t[]){ 1, 2, 0, 3, 0, 0 }, 48, "iotlb_get_info");
        CHECK(i.first == 0x1000 && i.last == 0x1fff && i.capability == VHK_SYS_VDUSE_IOVA_CAP_UMEM && i.asid == 2);
        FAILS(vhk_sys_vduse_iotlb_get_info(FD, &i), i);
}

TEST(vduse_rings) {
        const struct vhk_sys_vduse_vq q = { .index = 2, .max_size = 256, .group = 1 };
        const struct { uint32_t index; uint16_t max, zero; uint32_t group, zeroes[5]; } want = { 2, 256, 0, 1, { 0 } };
        const struct { uint32_t index, num; uint64_t desc, driver, device; uint16_t base[4]; uint8_t ready, pad[7]; } reply = {
                2, 128, 0x1000, 0x2000, 0x3000, { 1, 2, 3, 4 }, 1, { 0 } }, ask = { .index = 2 };
        struct vhk_sys_vduse_vq_info i = { .index = 2, .num = 99 };
        uint8_t config[] = { 1, 2, 3, 4, 5 }, none = 0;

        expect(32, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_vq_setup(FD, &q), 0);
        saw(0x40208114, &want, 32, "vq_setup");
        FAILS(vhk_sys_vduse_vq_setup(FD, &q), none);
        expect(48, &reply, 48);
        CHECK_EQ(vhk_sys_vduse_vq_get_info(FD, 0, &i), 0);
        saw(0xc0308115, &ask, 48, "vq_get_info");
        CHECK(i.index == 2 && i.num == 128 && i.desc == 0x1000 && i.driver == 0x2000 && i.device == 0x3000 && i.ready == 1);
        CHECK(i.split.avail == 1 && !i.packed.avail);
        expect(48, &reply, 48);
        CHECK_EQ(vhk_sys_vduse_vq_get_info(FD, 1, &i), 0);
        CHECK(i.packed.avail_wrap == 1 && i.packed.avail == 2 && i.packed.used_wrap == 3 && i.packed.used == 4 && !i.split.avail);
        FAILS(vhk_sys_vduse_vq_get_info(FD, 0, &i), i);
        expect(13, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_set_config(FD, 8, config, 5), 0);
        saw(0x40088112, (uint8_t[]){ 8, 0, 0, 0, 5, 0, 0, 0, 1, 2, 3, 4, 5 }, 13, "set_config");
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_set_config(FD, 0, config, 65537), -E2BIG);
        CHECK_EQ(k.n_calls, 0);
        FAILS(vhk_sys_vduse_set_config(FD, 8, config, 5), none);
}

TEST(vduse_requests) {
        uint32_t m[38] = { 0 };
        struct vhk_sys_vduse_request r;
        static const struct { uint32_t type, body[6]; struct vhk_sys_vduse_request want; } rows[] = {
                { 0, { 5 }, { .type = 0, .id = 77, .vq_index = 5 } },
                { 1, { 0x10f }, { .type = 1, .id = 77, .status = 15 } },
                { 2, { 0x1000, 1, 0x1fff, 1, 3 }, { .type = 2, .id = 77, .first = 0x100001000, .last = 0x100001fff, .asid = 3 } },
                { 3, { 2, 1 }, { .type = 3, .id = 77, .group = 2, .asid = 1 } },
                { 4, { 6, 1 }, { .type = 4, .id = 77, .vq_index = 6, .ready = 1 } },
                { 5, { 9, 9 }, { .type = 5, .id = 77 } },
                { 99, { 9, 9 }, { .type = 99, .id = 77 } },
        };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                m[0] = rows[i].type;
                m[1] = 77;
                memcpy(m + 6, rows[i].body, sizeof(rows[i].body));
                expect(0, m, sizeof(m));
                k.error = i == 1 ? EINTR : 0;
                memset(&r, 0xee, sizeof(r));
                CHECK_EQ(vhk_sys_vduse_read_request(FD, &r), 1);
                CHECK_MSG(r.type == rows[i].want.type && r.id == 77 && r.vq_index == rows[i].want.vq_index && r.status == rows[i].want.status &&
                          r.first == rows[i].want.first && r.last == rows[i].want.last && r.asid == rows[i].want.asid &&
                          r.group == rows[i].want.group && r.ready == rows[i].want.ready, "request of type %u", rows[i].type);
        }
        expect(0, NULL, 0);
        k.error = EAGAIN;
        CHECK_EQ(vhk_sys_vduse_read_request(FD, &r), 0);
        k.error = EIO;
        CHECK_EQ(vhk_sys_vduse_read_request(FD, &r), -EIO);
        expect(0, m, 151);
        CHECK_EQ(vhk_sys_vduse_read_request(FD, &r), -EBADMSG);
}

TEST(vduse_responses) {
        const struct vhk_sys_vduse_vq_info state = { .index = 3, .split.avail = 0x1234, .packed = { .avail = 1, .avail_wrap = 1, .used = 2, .used_wrap = 0 } };
        uint8_t want[152] = { 77 };

        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_write_response(FD, 77, VHK_SYS_VDUSE_OK, NULL, 0), 0);
        CHECK_EQ(k.in_size, 152);
        saw(0, want, 152, "ok");
        want[4] = 1;
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_write_response(FD, 77, VHK_SYS_VDUSE_FAILED, NULL, 1), 0);
        saw(0, want, 152, "failed");
        want[4] = 0;
        want[24] = 3;
        want[28] = 0x34;
        want[29] = 0x12;
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_write_response(FD, 77, 0, &state, 0), 0);
        saw(0, want, 152, "a split ring's state");
        memcpy(want + 28, (uint16_t[]){ 1, 1, 0, 2 }, 8);
        expect(0, NULL, 0);
        CHECK_EQ(vhk_sys_vduse_write_response(FD, 77, 0, &state, 1), 0);
        saw(0, want, 152, "a packed ring's state");
        expect(0, NULL, 0);
        k.error = ENOENT;
        CHECK_EQ(vhk_sys_vduse_write_response(FD, 77, 0, NULL, 0), -ENOENT);
        expect(0, NULL, 0);
        k.result = 3;
        CHECK_EQ(vhk_sys_vduse_write_response(FD, 77, 0, NULL, 0), -EIO);
}
