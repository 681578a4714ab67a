/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The carriers of the kernel's devices against a mock of the kernel: order, refusals, faults. tests/kernel has the real one. */
#include "base/test.h"

#include <poll.h>
#include <stdio.h>
#include <linux/if_packet.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <vhostkit/kernel.h>
#include <vhostkit/migration.h>

#include "base/fd.h"
#include "frontend/test-mock-kernel.h"
#include "frontend/vhost.h"
#include "mem/mem.h"
#include "wire/features.h"

#define NUM 8
#define RAM (2u << 20)          /* what vhk_memory_alloc() gives for less as well */

static struct vhk_frontend *f;
static struct vhk_frontend_options options;
static struct vhk_error err;
static struct vhk_memory *memory;
static uint8_t *ram;
static uint64_t ram_gpa;
static int kick, call;

static const char *const specs[] = { "vhost-net:", "vhost-vsock:", "vhost-scsi:" };

static int open_kind(enum mock_kind kind) {
        options.size = sizeof(options);
        options.has_fd = 1;
        options.fd = mock_make(kind);
        CHECK(options.fd >= 0);
        return vhk_frontend_open(specs[kind], &options, &f, &err);
}

static void lend(void) {
        void *va;
        vhk_gpa_t gpa;

        CHECK_OK(vhk_memory_new(&memory));
        CHECK_OK(vhk_memory_alloc(memory, RAM, &va));
        CHECK_OK(vhk_memory_find(memory, va, RAM, &gpa));
        ram = va;
        ram_gpa = gpa.v;
        kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void begin(enum mock_kind kind) {
        CHECK_MSG(open_kind(kind) == 0, "%s", err.text);
        lend();
}

static void end(void) {
        f = vhk_frontend_close(f);
        memory = vhk_memory_free(memory);
        close(kick);
        close(call);
        mock_done();
        options = (struct vhk_frontend_options){ 0 };
}

static struct vhk_frontend_info info(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_frontend_get_info(f, &i));
        return i;
}

static struct vhk_ring_setup setup_at(uint64_t gpa) {
        return (struct vhk_ring_setup){ .size = sizeof(struct vhk_ring_setup), .num = NUM, .desc = gpa, .driver = gpa + 16 * NUM, .device = gpa + 1024,
                .kick_fd = kick, .call_fd = call, .err_fd = -1 };
}

/* Ring @i of its own page. */
static int start(unsigned i, uint16_t avail) {
        struct vhk_ring_setup s = setup_at(ram_gpa + 4096 * i);

        s.base.avail = s.base.used = avail;
        return vhk_frontend_start_queue(f, i, &s);
}

static bool story_has(const char *word) {
        return strstr(vhk_frontend_get_error(f)->text, word);
}

#define NET_FEATURES (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_INDIRECT_DESC) | VHK_BIT(15))

/* ---- opening ---- */

TEST(what_is_there) {
        begin(MOCK_NET);
        struct vhk_frontend_info i = info();
        CHECK_EQ(i.features, NET_FEATURES | VHK_BIT(VHK_F_EVENT_IDX) | VHK_BIT(VHK_F_NOTIFY_ON_EMPTY));      /* neither 26, 27 nor 33 */
        CHECK_EQ(i.capabilities, VHK_CAP_RESET | VHK_CAP_ACK | VHK_CAP_BACKEND_FD | VHK_CAP_BUSYLOOP | VHK_CAP_LOG);
        CHECK_EQ(i.virtio_id, 1);
        CHECK_EQ(i.n_queues, 2);
        CHECK_EQ(i.carrier_acked, 2);
        CHECK_EQ(mock.backend_features, 2);
        CHECK_EQ(vhk_frontend_set_features(f, VHK_BIT(33)), -EINVAL);
        CHECK_EQ(vhk_frontend_set_features(f, VHK_BIT(27)), -EINVAL);
        CHECK_EQ(mock_count(VHOST_SET_FEATURES), 0);
        CHECK_OK(vhk_frontend_set_features(f, NET_FEATURES));
        CHECK_EQ(mock.features, NET_FEATURES);
        CHECK_EQ(info().acked, NET_FEATURES);
        end();
        begin(MOCK_VSOCK);
        CHECK_EQ(info().capabilities, VHK_CAP_RESET | VHK_CAP_ACK | VHK_CAP_VSOCK);
        CHECK_EQ(info().virtio_id, 19);
        end();
        begin(MOCK_SCSI);
        CHECK_EQ(info().capabilities, VHK_CAP_RESET | VHK_CAP_ACK | VHK_CAP_SCSI);
        CHECK_EQ(info().n_queues, 130);         /* nobody says so: it was found out */
        CHECK_EQ(info().carrier_acked, 0);
        end();
}

TEST(what_is_not_there_has_a_name) {
        char path[] = "/tmp/test-vhost-XXXXXX", spec[64];

        CHECK_EQ(vhk_frontend_open("vhost-vsock:/nonexistent/node", NULL, &f, &err), -ENOENT);
        CHECK(strstr(err.text, "/nonexistent/node") && strstr(err.text, "modprobe vhost_vsock"));
        int fd = mkstemp(path);
        snprintf(spec, sizeof(spec), "vhost-scsi:%s", path);
        CHECK_EQ(vhk_frontend_open(spec, NULL, &f, &err), -EPROTO);
        CHECK(strstr(err.text, path) && strstr(err.text, "not a vhost device"));
        if (geteuid()) {
                CHECK_OK(chmod(path, 0));
                CHECK_EQ(vhk_frontend_open(spec, NULL, &f, &err), -EACCES);
                CHECK(strstr(err.text, "permission"));
        }
        CHECK_OK(unlink(path));
        close(fd);
        options = (struct vhk_frontend_options){ .size = sizeof(options), .has_fd = 1, .fd = eventfd(0, EFD_CLOEXEC) };
        CHECK_EQ(vhk_frontend_open("vhost-net:", &options, &f, &err), -EPROTO);
        CHECK_OK(close(options.fd));                    /* it is the library's on success only */
        CHECK_EQ(vhk_frontend_open("vhost-net:", &options, &f, &err), -EBADF);
        char long_spec[400] = "vhost-net:";
        memset(long_spec + strlen(long_spec), 'x', 300);
        CHECK_EQ(vhk_frontend_open(long_spec, NULL, &f, &err), -ENAMETOOLONG);
}

TEST(an_inherited_descriptor_may_have_its_owner) {
        options = (struct vhk_frontend_options){ .size = sizeof(options), .has_fd = 1 };
        for (int foreign = 0; foreign < 2; foreign++) {
                options.fd = mock_make(MOCK_NET);
                mock.owned = true;
                mock.foreign = foreign;
                CHECK_EQ(vhk_frontend_open("vhost-net:", &options, &f, &err), foreign ? -EPERM : 0);
                if (!foreign)
                        f = vhk_frontend_close(f);
                else
                        CHECK_OK(close(options.fd));
                mock_done();
        }
}

/* ---- memory ---- */

TEST(regions_go_with_their_addresses_here) {
        void *more;

        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_EQ(mock.n_regions, 1);
        CHECK_EQ(mock.regions[0].userspace_addr, (uintptr_t)ram);
        CHECK_EQ(mock.regions[0].guest_phys_addr, ram_gpa);
        CHECK_EQ(mock.regions[0].memory_size, RAM);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_EQ(mock_count(VHOST_SET_MEM_TABLE), 1);           /* nothing new */
        for (int i = 0; i < 63; i++)
                CHECK_OK(vhk_memory_alloc(memory, 4096, &more));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_EQ(mock.n_regions, 64);
        CHECK_OK(vhk_memory_alloc(memory, 4096, &more));
        uint32_t slots = info().mem_slots;
        if (slots == 64)                                        /* unless this machine's vhost takes more */
                CHECK(vhk_frontend_set_memory(f, memory) == -ENOSPC && story_has("max_mem_regions"));
        end();
}

TEST(memory_under_a_running_ring_stays) {
        struct vhk_memory *other;
        void *va;

        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(start(0, 0));
        CHECK_OK(vhk_memory_new(&other));
        CHECK_OK(vhk_memory_alloc(other, RAM, &va));
        CHECK_EQ(vhk_frontend_set_memory(f, other), -EBUSY);
        CHECK(story_has("ring 0"));
        CHECK_EQ(mock_count(VHOST_SET_MEM_TABLE), 1);
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        CHECK_OK(vhk_frontend_set_memory(f, other));
        CHECK_EQ(mock.regions[0].userspace_addr, (uintptr_t)va);
        vhk_memory_free(other);
        end();
}

/* A peer's defect: a ring that ends where its region does was refused, and one that goes on in another was taken. */
TEST(ring_areas_may_end_with_their_region_but_not_cross_it) {
        int fd = memfd_create("test", MFD_CLOEXEC);
        struct vhk_memory *two;

        CHECK_OK(ftruncate(fd, 8192));
        uint8_t *va = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(va != MAP_FAILED);
        CHECK_OK(vhk_memory_new(&two));
        for (unsigned i = 0; i < 2; i++)
                CHECK_OK(vhk_memory_add(two, &(struct vhk_region){ .size = sizeof(struct vhk_region), .gpa = { 0x100000 + 4096 * i }, .va = va + 4096 * (1 - i),
                        .len = 4096, .fd = fd, .fd_offset = 4096 * (1 - i) }));
        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_memory(f, two));
        struct vhk_ring_setup s = setup_at(0x100000);
        s.device = 0x101000 - (6 + 8 * NUM) / 4 * 4;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EFAULT);
        CHECK(story_has("device area"));
        s.num = 2;
        s.desc = 0x101000 - 32;
        s.driver = 0x100000;
        s.device = 0x100010;
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_EQ(mock.rings[0].addr.desc_user_addr, (uintptr_t)va + 8192 - 32);
        CHECK_EQ(mock.rings[0].addr.avail_user_addr, (uintptr_t)va + 4096);
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        s.desc = 0x101000 - 16;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EFAULT);
        CHECK_EQ(mock_count(VHOST_SET_VRING_ADDR), 1);
        vhk_memory_free(two);
        end();
        munmap(va, 8192);
        close(fd);
}

/* ---- rings ---- */

static int order_of(unsigned long request) {
        for (unsigned i = 0; i < mock.n_calls; i++)
                if (mock.order[i] == request)
                        return (int)i;
        return -1;
}

TEST(a_ring_starts_and_stops) {
        struct vhk_ring_base base = { 0 };
        int other = eventfd(0, EFD_CLOEXEC);

        begin(MOCK_NET);
        CHECK_EQ(start(0, 0), -EFAULT);                         /* nothing is lent */
        CHECK_OK(vhk_frontend_set_features(f, NET_FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(start(0, 5));
        CHECK_EQ(mock.rings[0].num, NUM);
        CHECK_EQ(mock.rings[0].base, 5);
        CHECK_EQ(mock.rings[0].addr.desc_user_addr, (uintptr_t)ram);
        CHECK_EQ(mock.rings[0].addr.used_user_addr, (uintptr_t)ram + 1024);
        CHECK_EQ(mock.rings[0].kick, kick);
        CHECK_EQ(mock.rings[0].call, call);
        CHECK_EQ(mock.rings[0].err, -1);
        CHECK(order_of(VHOST_SET_VRING_NUM) < order_of(VHOST_SET_VRING_ADDR));
        CHECK_EQ(start(0, 0), -EBUSY);
        CHECK_EQ(start(2, 0), -EINVAL);
        CHECK_OK(vhk_frontend_set_call_fd(f, 0, other));
        CHECK_EQ(mock.rings[0].call, other);
        CHECK_OK(vhk_frontend_set_call_fd(f, 0, -1));
        CHECK_EQ(mock.rings[0].call, -1);
        CHECK_EQ(vhk_frontend_set_call_fd(f, 0, mock.ours), -EINVAL);
        CHECK(story_has("VHOST_SET_VRING_CALL"));
        mock.rings[0].base = 77;
        CHECK_OK(vhk_frontend_stop_queue(f, 0, &base));
        CHECK_EQ(base.avail, 77);
        CHECK_EQ(mock.rings[0].kick, -1);
        CHECK_OK(vhk_frontend_stop_queue(f, 0, &base));         /* it says so again */
        CHECK_EQ(vhk_frontend_stop_queue(f, 9, &base), -EINVAL);
        CHECK_OK(start(0, base.avail));
        CHECK_EQ(mock.rings[0].base, 77);
        end();
        close(other);
}

static unsigned kicks(void) {
        uint64_t n = 0;

        return read(kick, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}

TEST(a_network_ring_is_bound_again) {
        int tap = eventfd(0, EFD_CLOEXEC);              /* stands for one */

        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_EQ(vhk_frontend_set_backend(f, 0, tap), -EFAULT);
        CHECK(story_has("VHOST_NET_SET_BACKEND"));
        CHECK_EQ(vhk_frontend_set_backend(f, 2, tap), -EINVAL);
        CHECK_EQ(vhk_frontend_set_backend(f, 0, 9999), -EBADF);
        CHECK_OK(start(0, 0));
        CHECK_EQ(kicks(), 0);                           /* nobody is there to hear it */
        CHECK_OK(vhk_frontend_set_backend(f, 0, tap));
        CHECK_EQ(kicks(), 1);
        close(tap);                                     /* it was ours to close */
        CHECK(mock.rings[0].bound);
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        CHECK(!mock.rings[0].bound);
        CHECK_OK(start(0, 3));
        CHECK(mock.rings[0].bound);
        CHECK_EQ(kicks(), 1);
        CHECK_OK(vhk_frontend_set_backend(f, 0, -1));
        CHECK(!mock.rings[0].bound);
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        CHECK_OK(start(0, 3));
        CHECK(!mock.rings[0].bound);
        CHECK_EQ(vhk_frontend_vsock_set_cid(f, 3), -EOPNOTSUPP);
        CHECK_OK(vhk_frontend_set_busyloop(f, 1, 50));
        uint32_t us = 0;
        CHECK_OK(vhk_frontend_get_busyloop(f, 1, &us));
        CHECK_EQ(us, 50);
        CHECK_EQ(vhk_frontend_new_worker(f, &us), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_set_vring_endian(f, 0, 1), -EOPNOTSUPP);
        end();
}

TEST(a_packet_socket_gets_its_header_from_the_kernel) {
        int s = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1;

        if (s < 0)
                SKIP("cannot: packet sockets need CAP_NET_RAW");
        if (setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0 || setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &(int){ 0 }, sizeof(int)) < 0) {
                close(s);
                SKIP("cannot: nobody here knows PACKET_VNET_HDR");     /* qemu-user */
        }
        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_features(f, NET_FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(start(0, 0));
        CHECK_OK(start(1, 0));
        CHECK_OK(vhk_frontend_set_backend(f, 0, s));
        CHECK_EQ(mock.features, NET_FEATURES | VHK_BIT(27));
        CHECK_EQ(info().acked, NET_FEATURES);
        CHECK_EQ(vhk_frontend_set_backend(f, 1, kick), -EINVAL);        /* a tap beside it */
        CHECK_OK(vhk_frontend_set_backend(f, 0, -1));
        CHECK_OK(vhk_frontend_set_backend(f, 1, kick));
        CHECK_EQ(mock.features, NET_FEATURES);
        CHECK_OK(setsockopt(s, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)));
        CHECK_EQ(vhk_frontend_set_backend(f, 1, s), -EINVAL);
        CHECK(story_has("12"));
        CHECK_EQ(mock.rings[1].backend >= 0, 1);                        /* as it was */
        close(s);
        end();
}

TEST(a_reset_unbinds_for_good) {
        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(start(0, 0));
        CHECK_OK(vhk_frontend_set_backend(f, 0, kick));
        CHECK_OK(vhk_frontend_reset(f));
        CHECK(!mock.rings[0].bound);
        CHECK_OK(start(0, 0));
        CHECK(!mock.rings[0].bound);
        end();
}

TEST(a_vsock_runs_with_both_rings) {
        begin(MOCK_VSOCK);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_EQ(vhk_frontend_vsock_set_cid(f, 2), -EINVAL);
        CHECK_EQ(vhk_frontend_vsock_set_cid(f, 1ull << 32), -EINVAL);
        CHECK_OK(vhk_frontend_vsock_set_cid(f, 3));
        CHECK_EQ(vhk_frontend_vsock_set_running(f, 1), -EFAULT);
        CHECK_OK(start(0, 0));
        CHECK_OK(start(1, 0));
        CHECK(!mock.running);                           /* nobody said so yet */
        CHECK_OK(vhk_frontend_vsock_set_running(f, 1));
        CHECK_EQ(kicks(), 2);
        CHECK_OK(vhk_frontend_stop_queue(f, 1, NULL));
        CHECK(!mock.running);
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        CHECK_EQ(mock_count(VHOST_VSOCK_SET_RUNNING), 3);
        CHECK_OK(start(0, 1));
        CHECK(!mock.running);
        CHECK_OK(start(1, 1));
        CHECK(mock.running);
        CHECK_OK(vhk_frontend_vsock_set_running(f, 0));
        CHECK_OK(vhk_frontend_stop_queue(f, 1, NULL));
        CHECK_OK(start(1, 1));
        CHECK(!mock.running);
        end();
}

TEST(a_scsi_endpoint_comes_behind_the_rings) {
        char long_name[300];
        int n;

        begin(MOCK_SCSI);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(vhk_frontend_scsi_get_abi_version(f, &n));
        CHECK_EQ(n, 1);
        CHECK_EQ(vhk_frontend_scsi_set_endpoint(f, "naa.5001", 1), -EFAULT);
        CHECK_EQ(mock_count(VHOST_SCSI_SET_ENDPOINT), 0);       /* the kernel would have taken it */
        for (unsigned i = 0; i < 3; i++)
                CHECK_OK(start(i, 0));
        memset(long_name, 'x', sizeof(long_name));
        long_name[224] = 0;
        CHECK_EQ(vhk_frontend_scsi_set_endpoint(f, long_name, 1), -ENAMETOOLONG);
        CHECK_EQ(vhk_frontend_scsi_clear_endpoint(f), -ENODEV);
        CHECK_EQ(vhk_frontend_scsi_set_endpoint(f, "naa.7", 1), -ENODEV);
        CHECK(story_has("naa.7"));
        CHECK_OK(vhk_frontend_scsi_set_endpoint(f, "naa.5001", 1));
        CHECK(mock.rings[2].bound);
        CHECK_EQ(vhk_frontend_scsi_set_endpoint(f, "naa.5001", 1), -EEXIST);
        CHECK_OK(vhk_frontend_stop_queue(f, 2, NULL));
        CHECK(!mock.has_endpoint);
        CHECK_OK(start(2, 0));
        CHECK(mock.has_endpoint);
        CHECK_OK(vhk_frontend_scsi_set_events_missed(f, 1));
        CHECK_OK(vhk_frontend_scsi_get_events_missed(f, &n));
        CHECK_EQ(n, 1);
        CHECK_OK(vhk_frontend_scsi_clear_endpoint(f));
        CHECK_OK(vhk_frontend_stop_queue(f, 2, NULL));
        CHECK_OK(start(2, 0));
        CHECK(!mock.has_endpoint);
        CHECK_OK(vhk_frontend_scsi_set_endpoint(f, "naa.5001", 1));
        end();
}

TEST(closing_stops_what_others_could_go_on_with) {
        begin(MOCK_NET);
        int theirs = fcntl(options.fd, F_DUPFD_CLOEXEC, 0);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(start(1, 0));
        CHECK_OK(vhk_frontend_set_backend(f, 1, call));
        f = vhk_frontend_close(f);
        CHECK(!mock.rings[1].bound);
        CHECK_EQ(mock.rings[1].kick, -1);
        close(theirs);
        end();
}

/* ---- the log ---- */

TEST(the_log_covers_what_is_lent) {
        struct vhk_dirty_log *log;
        void *more;

        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_features(f, NET_FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(start(0, 0));
        CHECK_EQ(vhk_frontend_log_data(f, 1), -EINVAL);         /* no log yet */
        CHECK_EQ(vhk_frontend_log_queue(f, 0, 1, ram_gpa), -EINVAL);
        CHECK_OK(vhk_dirty_log_new(ram_gpa + RAM, &log));
        CHECK_EQ(vhk_frontend_set_log(f, vhk_dirty_log_get_fd(log), 0, ram_gpa / 4096 / 8), -EINVAL);
        CHECK(story_has("does not cover"));
        CHECK_EQ(vhk_frontend_set_log(f, vhk_dirty_log_get_fd(log), 0, 1 << 20), -EINVAL);      /* beyond its end */
        CHECK_EQ(mock_count(VHOST_SET_LOG_BASE), 0);
        CHECK_OK(vhk_frontend_set_log(f, vhk_dirty_log_get_fd(log), 0, vhk_dirty_log_get_size(log)));
        *(uint8_t *)(uintptr_t)(mock.log_base + ram_gpa / 4096 / 8) = 1;        /* as the kernel would */
        uint64_t gpa, len;
        CHECK_EQ(vhk_dirty_log_take(log, 0, &gpa, &len), 1);
        CHECK_EQ(gpa, ram_gpa);
        CHECK_OK(vhk_frontend_log_data(f, 1));
        CHECK_EQ(mock.features, NET_FEATURES | VHK_BIT(26));
        CHECK_OK(vhk_frontend_set_features(f, NET_FEATURES));
        CHECK_EQ(mock.features, NET_FEATURES | VHK_BIT(26));    /* the driver has no say in it */
        CHECK_OK(vhk_frontend_log_queue(f, 0, 1, ram_gpa + 1024));
        CHECK_EQ(mock.rings[0].addr.flags, 1);
        CHECK_EQ(mock.rings[0].addr.log_guest_addr, ram_gpa + 1024);
        CHECK_EQ(vhk_frontend_log_queue(f, 0, 1, 1ull << 40), -EINVAL);
        CHECK_EQ(vhk_frontend_log_queue(f, 1, 1, ram_gpa), -EINVAL);    /* does not run */
        CHECK_OK(vhk_frontend_log_queue(f, 0, 0, 0));
        CHECK_EQ(mock.rings[0].addr.flags, 0);
        CHECK_OK(vhk_frontend_log_data(f, 0));
        CHECK_EQ(mock.features, NET_FEATURES);
        CHECK_OK(vhk_frontend_set_log_fd(f, call));
        CHECK_EQ(mock.log_fd, call);
        CHECK_OK(vhk_memory_alloc(memory, 256 << 20, &more));
        CHECK_EQ(vhk_frontend_set_memory(f, memory), -EINVAL);  /* the kernel would write marks behind the log */
        end();
        vhk_dirty_log_free(log);
}

TEST(no_log_where_the_kernel_does_not_mark_all) {
        for (enum mock_kind kind = MOCK_VSOCK; kind <= MOCK_SCSI; kind++) {
                begin(kind);
                CHECK_EQ(vhk_frontend_log_data(f, 1), -EOPNOTSUPP);
                end();
        }
}

/* ---- translations ---- */

static unsigned n_missed;

static int on_miss(void *arg, uint64_t iova, uint32_t access, struct vhk_translation *ret_t) {
        n_missed++;
        CHECK_EQ(vhk_frontend_reset(f), -EDEADLK);
        if (iova == 0x666000)
                return -EFAULT;
        *ret_t = (struct vhk_translation){ .size = sizeof(*ret_t), .iova = iova == 0x8000 ? 0 : iova & ~4095ull, .len = 4096, .gpa = ram_gpa + 8192,
                .access = access };
        return 0;
}

static bool take_message(struct vhost_msg_v2 *m) {
        memset(m, 0, sizeof(*m));
        return recv(mock.ours, m, sizeof(*m), 0) == sizeof(*m);
}

static void miss(uint64_t iova) {
        struct vhost_msg_v2 m = { .type = VHOST_IOTLB_MSG_V2, .iotlb = { .iova = iova, .perm = VHOST_ACCESS_RO, .type = VHOST_IOTLB_MISS } };

        CHECK_EQ(send(mock.ours, &m, sizeof(m), 0), sizeof(m));
}

#define IOMMU_FEATURES (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_ACCESS_PLATFORM))

TEST(misses_are_answered) {
        struct vhost_msg_v2 m;

        options.iommu = 1;
        options.on_miss = on_miss;
        n_missed = 0;
        begin(MOCK_NET);
        CHECK(info().capabilities & VHK_CAP_IOMMU);
        CHECK_EQ(vhk_frontend_iotlb_invalidate(f, 0, 0), -EOPNOTSUPP);  /* the driver has not taken it */
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(vhk_frontend_set_features(f, IOMMU_FEATURES));
        CHECK(!take_message(&m));
        struct vhk_ring_setup s = setup_at(0x7000);             /* I/O addresses */
        s.device = 0x666000;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EFAULT);
        CHECK(story_has("device area"));
        s.device = 0x8000;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EINVAL); /* the answer is about something else */
        s.device = 0x7ff0;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EINVAL); /* and it goes on there */
        CHECK(take_message(&m) && m.iotlb.iova == 0x7000);
        s.device = 0x7400;
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_EQ(mock.rings[0].addr.desc_user_addr, 0x7000);
        CHECK_EQ(mock.rings[0].addr.used_user_addr, 0x7400);
        CHECK(take_message(&m) && m.iotlb.type == VHOST_IOTLB_UPDATE && m.iotlb.iova == 0x7000 && m.iotlb.perm == VHOST_ACCESS_WO);
        n_missed = 0;
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        CHECK_EQ(poll(&p, 1, 0), 0);
        miss(0x5010);
        miss(0x666000);
        CHECK_EQ(poll(&p, 1, 0), 1);
        CHECK_EQ(vhk_frontend_dispatch(f), 2);
        CHECK_EQ(vhk_frontend_dispatch(f), 0);
        CHECK_EQ(n_missed, 2);
        CHECK(take_message(&m));
        CHECK_EQ(m.type, VHOST_IOTLB_MSG_V2);
        CHECK_EQ(m.iotlb.type, VHOST_IOTLB_UPDATE);
        CHECK_EQ(m.iotlb.iova, 0x5000);
        CHECK_EQ(m.iotlb.size, 4096);
        CHECK_EQ(m.iotlb.uaddr, (uintptr_t)ram + 8192);
        CHECK_EQ(m.iotlb.perm, VHOST_ACCESS_RO);
        CHECK(!take_message(&m));                               /* there is no way to say no */
        CHECK_OK(vhk_frontend_iotlb_invalidate(f, 0x5000, 4096));
        CHECK(take_message(&m) && m.iotlb.type == VHOST_IOTLB_INVALIDATE && m.iotlb.size == 4096);
        CHECK_OK(vhk_frontend_iotlb_invalidate(f, 0, 0));
        CHECK(take_message(&m) && m.iotlb.iova == 0 && m.iotlb.size == 1ull << 63);
        CHECK(take_message(&m) && m.iotlb.iova == 1ull << 63 && m.iotlb.size == 1ull << 63);
        CHECK_EQ(vhk_frontend_iotlb_update(f, &(struct vhk_translation){ .size = sizeof(struct vhk_translation), .iova = 0, .len = 8192,
                .gpa = ram_gpa + RAM - 4096, .access = VHK_ACCESS_BOTH }), -EFAULT);
        CHECK_EQ(vhk_frontend_iotlb_update(f, &(struct vhk_translation){ .size = sizeof(struct vhk_translation), .iova = 0, .len = 4096, .gpa = ram_gpa }), -EINVAL);
        CHECK_OK(vhk_frontend_iotlb_update(f, &(struct vhk_translation){ .size = sizeof(struct vhk_translation), .iova = 0, .len = 4096, .gpa = ram_gpa,
                .access = VHK_ACCESS_WRITE }));
        CHECK(take_message(&m) && m.iotlb.perm == VHOST_ACCESS_WO);
        CHECK_EQ(send(mock.ours, &m, 8, 0), 8);
        CHECK_EQ(vhk_frontend_dispatch(f), -EBADMSG);
        end();
}

TEST(without_a_callback_all_memory_is_told) {
        struct vhost_msg_v2 m;
        void *more;

        options.iommu = 1;
        begin(MOCK_VSOCK);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(vhk_frontend_set_features(f, IOMMU_FEATURES));
        CHECK(take_message(&m) && m.iotlb.type == VHOST_IOTLB_UPDATE && m.iotlb.iova == ram_gpa && m.iotlb.uaddr == (uintptr_t)ram && m.iotlb.size == RAM);
        CHECK(!take_message(&m));
        CHECK_OK(vhk_memory_alloc(memory, 4096, &more));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK(take_message(&m) && m.iotlb.type == VHOST_IOTLB_INVALIDATE && m.iotlb.iova == ram_gpa);
        CHECK(take_message(&m) && m.iotlb.type == VHOST_IOTLB_UPDATE && m.iotlb.iova == ram_gpa);
        CHECK(take_message(&m) && m.iotlb.type == VHOST_IOTLB_UPDATE && m.iotlb.uaddr == (uintptr_t)more);
        miss(ram_gpa + 5);
        CHECK_EQ(vhk_frontend_dispatch(f), 1);
        CHECK(take_message(&m) && m.iotlb.iova == ram_gpa);
        end();
}

/* Linux forgets all translations when features are set, LOG_ALL too. */
TEST(the_log_does_not_cost_translations) {
        struct vhost_msg_v2 m;
        struct vhk_dirty_log *log;

        options.iommu = 1;
        begin(MOCK_NET);
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(vhk_frontend_set_features(f, IOMMU_FEATURES));
        CHECK(take_message(&m));
        CHECK_OK(vhk_dirty_log_new(ram_gpa + RAM, &log));
        CHECK_OK(vhk_frontend_set_log(f, vhk_dirty_log_get_fd(log), 0, vhk_dirty_log_get_size(log)));
        CHECK(!take_message(&m));
        CHECK_OK(vhk_frontend_log_data(f, 1));
        CHECK(take_message(&m) && m.iotlb.type == VHOST_IOTLB_UPDATE && m.iotlb.iova == ram_gpa && m.iotlb.size == RAM);
        end();
        vhk_dirty_log_free(log);
}

TEST(an_older_kernel_has_the_first_form) {
        struct vhost_msg m = { 0 };

        options = (struct vhk_frontend_options){ .size = sizeof(options), .has_fd = 1, .iommu = 1, .fd = mock_make(MOCK_NET) };
        mock.backend_offered = 0;
        CHECK_OK(vhk_frontend_open("vhost-net:", &options, &f, &err));
        lend();
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(vhk_frontend_set_features(f, IOMMU_FEATURES));
        CHECK_EQ(recv(mock.ours, &m, sizeof(m), 0), sizeof(m));
        CHECK_EQ(m.type, VHOST_IOTLB_MSG);
        CHECK_EQ(m.iotlb.iova, ram_gpa);
        end();
}

/* ---- faults, and the trace ---- */

static int session(enum mock_kind kind) {
        struct vhk_dirty_log *log = NULL;

        int k = vhk_frontend_set_features(f, VHK_BIT(VHK_F_VERSION_1));
        if (k == 0)
                k = vhk_frontend_set_memory(f, memory);
        for (unsigned i = 0; i < 3 - (kind != MOCK_SCSI) && k == 0; i++)
                k = start(i, 0);
        if (k == 0 && kind == MOCK_NET)
                k = vhk_frontend_set_backend(f, 0, call);
        if (k == 0 && kind == MOCK_VSOCK)
                k = vhk_frontend_vsock_set_cid(f, 3);
        if (k == 0 && kind == MOCK_VSOCK)
                k = vhk_frontend_vsock_set_running(f, 1);
        if (k == 0 && kind == MOCK_SCSI)
                k = vhk_frontend_scsi_set_endpoint(f, "naa.5001", 1);
        if (k == 0 && kind == MOCK_NET) {
                CHECK_OK(vhk_dirty_log_new(ram_gpa + RAM, &log));
                k = vhk_frontend_set_log(f, vhk_dirty_log_get_fd(log), 0, vhk_dirty_log_get_size(log));
                if (k == 0)
                        k = vhk_frontend_log_data(f, 1);
                if (k == 0)
                        k = vhk_frontend_log_queue(f, 0, 1, ram_gpa + 1024);
                vhk_dirty_log_free(log);
        }
        if (k == 0)
                k = vhk_frontend_set_call_fd(f, 0, -1);
        if (k == 0)
                k = vhk_frontend_stop_queue(f, 0, NULL);
        return k < 0 ? k : start(0, 0);
}

/* Some answers are questions: a failure is an answer too. */
static bool may_fail(unsigned long request) {
        return request == VHOST_GET_BACKEND_FEATURES || request == VHOST_GET_VRING_ENDIAN || request == VHOST_GET_VRING_BUSYLOOP_TIMEOUT ||
               request == VHOST_GET_FEATURES || !strcmp(mock_name(request), "unknown to Linux 6.1");
}

TEST(each_call_fails_once) {
        for (enum mock_kind kind = MOCK_NET; kind <= MOCK_SCSI; kind++)
                for (unsigned at = 1, done = 0; !done; at++) {
                        options = (struct vhk_frontend_options){ .size = sizeof(options), .has_fd = 1, .fd = mock_make(kind) };
                        mock.fail_at = at;
                        mock.fail_errno = EIO;
                        int k = vhk_frontend_open(specs[kind], &options, &f, &err);
                        bool opened = k == 0;
                        if (!opened)
                                CHECK_OK(close(options.fd));
                        lend();
                        if (opened)
                                k = session(kind);
                        done = !mock.failed;
                        CHECK_MSG(k == (mock.failed && !may_fail(mock.failed) ? -EIO : k == -EIO ? -EIO : 0), "call %u (%s): %d", at, mock_name(mock.failed), k);
                        if (k == -EIO)
                                CHECK_MSG(strstr(opened ? vhk_frontend_get_error(f)->text : err.text, mock_name(mock.failed)), "call %u, %s: %s", at,
                                          mock_name(mock.failed), opened ? vhk_frontend_get_error(f)->text : err.text);
                        if (opened && k == -EIO && mock.failed != VHOST_GET_VRING_BASE) {       /* and it goes on */
                                mock.fail_at = 0;
                                CHECK_OK(vhk_frontend_reset(f));
                        }
                        f = opened ? vhk_frontend_close(f) : NULL;
                        for (unsigned i = 0; i < mock.n_rings && !mock.failed; i++)
                                CHECK(!mock.rings[i].bound);
                        end();
                }
}

static unsigned n_traced;

static void on_trace(void *arg, enum vhk_log_level level, const char *text) {
        size_t n = strcspn(text, "(");

        if (strncmp(text, "VHOST_", 6) || !mock.n_calls)
                return;
        const char *last = mock_name(mock.order[mock.n_calls - 1]);
        CHECK_MSG(strlen(last) == n && !strncmp(text, last, n), "\"%s\" was %s", text, last);
        CHECK(strstr(text, " = "));
        n_traced++;
}

/* What is printed is what was called. */
TEST(the_trace_has_the_calls) {
        for (enum mock_kind kind = MOCK_NET; kind <= MOCK_SCSI; kind++) {
                options = (struct vhk_frontend_options){ .size = sizeof(options), .trace = on_trace };
                n_traced = 0;
                begin(kind);
                unsigned before = n_traced, calls = mock.n_calls;
                CHECK(before >= 3);
                CHECK_OK(session(kind));
                CHECK_EQ(n_traced - before, mock.n_calls - calls);
                end();
        }
}
