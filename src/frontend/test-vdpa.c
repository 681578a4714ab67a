/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The vhost-vdpa carrier against a device that is not there (test-vdpa.h): what it asks, in which order, and every refusal. */
#include <poll.h>

#include "base/test.h"
#include "frontend/test-vdpa.h"
#include "frontend/vdpa.h"
#include "mem/mem.h"

#define PAGE 4096ull
#define GPA 0x200000ull                 /* vhk_memory_alloc()'s first */

static struct vhk_frontend *f;
static struct vhk_memory *mem;
static unsigned n_changed;

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_changed += ev == VHK_FRONTEND_CONFIG_CHANGED;
}

static int try_open(uint64_t no_offer, struct vhk_error *ret_e) {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .fd = fake.fd, .on_event = on_event, .protocol_no_offer = no_offer };

        return vhk_frontend_open("vhost-vdpa:", &o, &f, ret_e);
}

static void begin(void) {
        struct vhk_error e = { 0 };

        int k = try_open(0, &e);
        CHECK_MSG(k == 0, "%s", e.text);
        CHECK_OK(vhk_memory_new(&mem));
        fake.log[0] = 0;
}

static void end(void) {
        f = vhk_frontend_close(f);
        fake.fd = -1;
        mem = vhk_memory_free(mem);
}

static void *lend(uint64_t pages) {
        void *va;

        CHECK_OK(vhk_memory_alloc(mem, pages * PAGE, &va));
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        return va;
}

/* What was done since the last look. */
static const char *done(void) {
        static char was[sizeof(fake.log)];

        memcpy(was, fake.log, sizeof(was));
        size_t n = strlen(was);
        if (n)
                was[n - 1] = 0;
        fake.log[0] = 0;
        return was;
}

static struct vhk_ring_setup ring(uint16_t num) {
        return (struct vhk_ring_setup){ .size = sizeof(struct vhk_ring_setup), .num = num, .desc = GPA, .driver = GPA + PAGE, .device = GPA + 2 * PAGE,
                                        .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
}

#define REFUSED(call, code, text_)                                                                              \
        do {                                                                                                    \
                CHECK_EQ(call, code);                                                                           \
                CHECK_MSG(strstr(vhk_frontend_get_error(f)->text, text_), "\"%s\" does not say \"%s\"",         \
                          vhk_frontend_get_error(f)->text, text_);                                              \
        } while (0)

TEST(what_a_device_tells) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        fake_begin();
        fake.first = 0x1000;
        fake.last = 0xffffffff;
        begin();
        CHECK_OK(vhk_frontend_get_info(f, &i));
        CHECK_EQ(i.virtio_id, 1);
        CHECK_EQ(i.features, 0x108820028);      /* ACCESS_PLATFORM is the carrier's */
        CHECK_EQ(i.carrier_features, 0x1e);
        CHECK_EQ(i.carrier_acked, 0x1e);
        CHECK_EQ(i.n_queues, 3);
        CHECK_EQ(i.queue_size_max, 256);
        CHECK_EQ(i.config_size, 24);
        CHECK_EQ(i.iova_first, 0x1000);
        CHECK_EQ(i.iova_last, 0xffffffff);
        CHECK_EQ(i.n_groups, 2);
        CHECK_EQ(i.n_address_spaces, 2);
        CHECK_EQ(i.capabilities, VHK_CAP_CONFIG | VHK_CAP_STATUS | VHK_CAP_RESET | VHK_CAP_ENABLE | VHK_CAP_MEM_SLOTS | VHK_CAP_ACK | VHK_CAP_DMA |
                                 VHK_CAP_GROUPS | VHK_CAP_DEVICE_SUSPEND | VHK_CAP_CONFIG_CHANGED);
        end();
}

TEST(every_call_of_opening_may_fail) {
        static const struct { unsigned long request; int e, code; } rows[] = {
                { VHK_K_VDPA_GET_DEVICE_ID, ENOTTY, -EPROTO }, { VHK_K_SET_OWNER, EPERM, -EPERM }, { VHK_K_VDPA_SET_STATUS, EIO, -EIO },
                { VHK_K_GET_FEATURES, EFAULT, -EFAULT }, { VHK_K_SET_BACKEND_FEATURES, EOPNOTSUPP, -EOPNOTSUPP }, { VHK_K_VDPA_GET_VRING_NUM, EFAULT, -EFAULT },
                { VHK_K_GET_BACKEND_FEATURES, EFAULT, 0 }, { VHK_K_VDPA_GET_VQS_COUNT, ENOTTY, 0 }, { VHK_K_VDPA_GET_GROUP_NUM, ENOTTY, 0 },
                { VHK_K_VDPA_GET_AS_NUM, ENOTTY, 0 }, { VHK_K_VDPA_GET_IOVA_RANGE, ENOTTY, 0 }, { VHK_K_VDPA_GET_CONFIG_SIZE, ENOTTY, 0 },
                { VHK_K_VDPA_GET_VRING_GROUP, EIO, 0 }, { VHK_K_VDPA_SET_CONFIG_CALL, EOPNOTSUPP, 0 }, { VHK_K_SET_OWNER, EBUSY, 0 },
        };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                struct vhk_error e = { 0 };
                fake_begin();
                fake.fail = rows[i].request;
                fake.fail_errno = rows[i].e;
                int k = try_open(0, &e);
                CHECK_MSG(k == rows[i].code, "request 0x%lx fails with %d: %d (%s)", rows[i].request, rows[i].e, k, e.text);
                CHECK(k == 0 || (e.code == k && *e.text && e.rule));
                if (k < 0)
                        CHECK_OK(close(fake.fd));               /* it is the library's on success only */
                f = k == 0 ? vhk_frontend_close(f) : NULL;
                fake.fd = -1;
        }
}

TEST(nodes) {
        struct vhk_error e = { 0 };

        CHECK_EQ(vhk_frontend_open("vhost-vdpa:/nowhere/vhost-vdpa-0", NULL, &f, &e), -ENOENT);
        CHECK(strstr(e.text, "vhost_vdpa") && strstr(e.text, "/nowhere/vhost-vdpa-0"));
        CHECK_EQ(vhk_frontend_open("vhost-vdpa:4711", NULL, &f, &e), -ENOENT);
        CHECK(strstr(e.text, "/dev/vhost-vdpa-4711"));
        CHECK_EQ(vhk_frontend_open("vhost-vdpa:", NULL, &f, &e), -EINVAL);
        CHECK(vhk_frontend_open("vhost-vdpa:no-such-device", NULL, &f, &e) < 0);
        CHECK(*e.text);
        CHECK_EQ(vhk_frontend_open("vhost-vdpa:/dev/null", NULL, &f, &e), -EPROTO);
        CHECK(strstr(e.text, "/dev/null"));
        struct vhk_frontend_options o = { .size = sizeof(o), .iommu = 1, .on_miss = (vhk_frontend_miss_fn)(void (*)(void))on_event };
        CHECK_EQ(vhk_frontend_open("vhost-vdpa:/dev/null", &o, &f, &e), -EOPNOTSUPP);
}

/* Who leaves the status to the carrier. */
TEST(status_by_the_carrier) {
        struct vhk_ring_base base = { .avail = 77 };
        struct vhk_ring_setup s = ring(16);
        uint64_t count = 0;

        fake_begin();
        begin();
        CHECK_OK(vhk_frontend_set_features(f, 1ull << 32));
        CHECK_STR(done(), "status 3 features 300000000 status 11");
        lend(4);
        CHECK_STR(done(), "begin 0 map 0 200000+200000 end 0");
        s.kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        s.base.avail = 9;
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK_STR(done(), "num 1=16 base 1=9 addr 1=200000,201000,202000 enable 1=1 status 15");
        CHECK_EQ(read(s.kick_fd, &count, 8), 8);        /* what was there before it ran is looked for */
        CHECK_EQ(vhk_frontend_start_queue(f, 1, &s), -EBUSY);
        CHECK_EQ(vhk_frontend_set_features(f, 0), -EBUSY);
        CHECK_OK(vhk_frontend_stop_queue(f, 1, &base));
        CHECK_STR(done(), "suspend getbase 1 enable 1=0");
        CHECK_EQ(base.avail, 9);
        /* it cannot be resumed: it begins anew, and is where it was */
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK_STR(done(), "status 0 begin 0 unmap 0 200000+200000 map 0 200000+200000 end 0 status 3 features 300000000 status 11 "
                          "num 1=16 base 1=9 addr 1=200000,201000,202000 enable 1=1 status 15");
        CHECK_OK(vhk_frontend_set_call_fd(f, 1, s.kick_fd));
        CHECK_EQ(fake.rings[1].call, s.kick_fd);
        close(s.kick_fd);
        end();
}

/* Nobody said anything but memory and a ring. */
TEST(features_by_the_carrier) {
        struct vhk_ring_setup s = ring(8);

        fake_begin();
        begin();
        lend(4);
        done();
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_STR(done(), "status 3 features 200000000 status 11 num 0=8 base 0=0 addr 0=200000,201000,202000 enable 0=1 status 15");
        end();
}

TEST(status_by_the_caller) {
        struct vhk_ring_setup s = ring(16);
        uint8_t status = 0;

        fake_begin();
        fake.backend |= 1 << VHK_SYS_BF_RESUME;
        begin();
        CHECK_OK(vhk_frontend_set_status(f, 0));
        CHECK_OK(vhk_frontend_set_status(f, 3));
        CHECK_OK(vhk_frontend_set_features(f, 1ull << 32));
        CHECK_OK(vhk_frontend_set_status(f, 11));
        CHECK_STR(done(), "status 0 status 3 features 300000000 status 11");
        lend(4);
        done();
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK_STR(done(), "num 0=16 base 0=0 addr 0=200000,201000,202000 enable 0=1 num 1=16 base 1=0 addr 1=200000,201000,202000 enable 1=1");
        CHECK_OK(vhk_frontend_set_status(f, 15));
        CHECK_OK(vhk_frontend_get_status(f, &status));
        CHECK_EQ(status, 15);
        REFUSED(vhk_frontend_set_status(f, 3), -EINVAL, "0xf");
        CHECK_EQ(vhk_frontend_set_features(f, 0), -EBUSY);
        done();
        /* one of two: it alone; the last: the device */
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        CHECK_STR(done(), "enable 0=0 getbase 0");
        CHECK_OK(vhk_frontend_stop_queue(f, 1, NULL));
        CHECK_STR(done(), "suspend getbase 1 enable 1=0");
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_STR(done(), "num 0=16 base 0=0 addr 0=200000,201000,202000 enable 0=1 resume");
        CHECK_OK(vhk_frontend_suspend(f));
        CHECK_OK(vhk_frontend_suspend(f));
        CHECK_OK(vhk_frontend_resume(f));
        CHECK_OK(vhk_frontend_resume(f));
        CHECK_STR(done(), "suspend resume");
        CHECK_OK(vhk_frontend_enable_queue(f, 0, 0));
        CHECK_OK(vhk_frontend_enable_queue(f, 0, 1));
        CHECK_STR(done(), "enable 0=0 enable 0=1");
        CHECK_OK(vhk_frontend_reset(f));
        CHECK_STR(done(), "status 0");                  /* it may be the last word; if not: */
        CHECK_OK(vhk_frontend_set_status(f, 3));
        CHECK_STR(done(), "begin 0 unmap 0 200000+200000 map 0 200000+200000 end 0 status 3");
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));   /* of a device that was reset: the ring runs no more */
        end();
}

TEST(a_ring_that_stops_or_does_not_start_leaves_the_kernel_no_descriptor) {
        struct vhk_ring_setup s = ring(16);

        fake_begin();
        begin();
        lend(4);
        s.kick_fd = s.call_fd = s.err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_EQ(fake.rings[0].err, s.err_fd);
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        CHECK(fake.rings[0].kick == -1 && fake.rings[0].call == -1 && fake.rings[0].err == -1);
        fake.fail = VHK_K_VDPA_SET_VRING_ENABLE;
        fake.fail_errno = EIO;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EIO);
        CHECK(fake.rings[0].kick == -1 && fake.rings[0].call == -1 && fake.rings[0].err == -1);
        fake.fail = 0;
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        end();
        close(s.kick_fd);
}

TEST(rings_come_and_go_while_the_device_runs) {
        struct vhk_ring_setup s = ring(16);

        fake_begin();
        fake.backend |= 1 << VHK_SYS_BF_RESUME;
        fake.is_strict = true;
        begin();
        lend(4);
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        done();
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK_STR(done(), "suspend num 1=16 base 1=0 addr 1=200000,201000,202000 enable 1=1 resume");
        CHECK_OK(vhk_frontend_stop_queue(f, 1, NULL));
        CHECK_OK(vhk_frontend_stop_queue(f, 0, NULL));
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK(!fake.suspended);
        CHECK_OK(vhk_frontend_stop_queue(f, 1, NULL));
        done();
        fake.fail = VHK_K_SET_VRING_ADDR;
        fake.fail_errno = EIO;
        REFUSED(vhk_frontend_start_queue(f, 1, &s), -EIO, "addresses of a ring");
        CHECK_STR(done(), "suspend num 1=16 base 1=0 enable 1=0 resume");          /* the other ring goes on */
        fake.fail = 0;
        CHECK_OK(vhk_frontend_suspend(f));
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK(!fake.suspended);
        end();
}

TEST(a_device_that_does_without) {
        struct vhk_ring_base base;
        struct vhk_ring_setup s = ring(16);

        fake_begin();
        fake.backend = 0;
        begin();
        lend(4);
        CHECK_STR(done(), "map 0 200000+200000");         /* v1, no batch: the fake looks */
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        done();
        CHECK_OK(vhk_frontend_stop_queue(f, 0, &base));
        CHECK_STR(done(), "enable 0=0 getbase 0");
        CHECK_EQ(vhk_frontend_suspend(f), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_resume(f), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_set_group_asid(f, 0, 0), -EOPNOTSUPP);
        CHECK_OK(vhk_frontend_dma_begin(f, 0));
        CHECK_OK(vhk_frontend_dma_end(f, 0));
        CHECK_STR(done(), "");
        /* VDUSE: rings begin at DRIVER_OK; the first one takes the device there again; while others run none can */
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_STR(done(), "status 0 unmap 0 200000+200000 map 0 200000+200000 status 3 features 200000000 status 11 "
                          "num 0=16 base 0=0 addr 0=200000,201000,202000 enable 0=1 status 15");
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK_OK(vhk_frontend_stop_queue(f, 0, &base));
        done();
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_STR(done(), "num 0=16 base 0=0 addr 0=200000,201000,202000 enable 0=1");
        end();
        fake_begin();                   /* the older message by choice */
        struct vhk_error e;
        CHECK_OK(try_open(1 << VHK_SYS_BF_IOTLB_MSG_V2, &e));
        CHECK_OK(vhk_memory_new(&mem));
        CHECK_EQ(fake.backend_acked, 0x14);             /* without it no address spaces */
        lend(1);
        end();
}

TEST(features_refused) {
        fake_begin();
        fake.refuses_features_ok = true;
        begin();
        REFUSED(vhk_frontend_set_features(f, 1ull << 32), -EREMOTEIO, "does not accept");
        REFUSED(vhk_frontend_set_features(f, 1ull << 40), -EINVAL, "not on offer");
        end();
}

TEST(memory_goes_as_the_difference) {
        void *a, *b;

        fake_begin();
        begin();
        lend(4);
        a = lend(2);
        CHECK_STR(done(), "begin 0 map 0 200000+200000 end 0 begin 0 map 0 400000+200000 end 0");
        CHECK_EQ(fake.maps[1].uva, (uintptr_t)a);
        CHECK_EQ(fake.maps[1].perm, 3);
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        CHECK_STR(done(), "");
        /* other memory at the same guest address and the same user address is not the same */
        struct vhk_region r = { .size = sizeof(r), .gpa = { 0x400000 }, .va = a, .len = 2 << 20 };
        CHECK_OK(vhk_memory_remove(mem, r.gpa, r.len));
        r.fd = memfd_create("other", MFD_CLOEXEC);
        CHECK_OK(ftruncate(r.fd, (off_t)r.len));
        b = mmap(a, r.len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r.fd, 0);
        CHECK(b == a);
        CHECK_OK(vhk_memory_add(mem, &r));
        close(r.fd);
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        CHECK_STR(done(), "begin 0 unmap 0 400000+200000 map 0 400000+200000 end 0");
        CHECK_OK(vhk_memory_remove(mem, r.gpa, r.len));
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        CHECK_STR(done(), "begin 0 unmap 0 400000+200000 end 0");
        munmap(b, r.len);
        end();
        CHECK_EQ(fake.n_maps, 0);       /* closing takes all away */
}

TEST(each_address_space_in_use) {
        struct vhk_ring_setup s = ring(16);
        uint32_t group = 99;
        uint8_t own[2 * 4096] VHK_ALIGNED(4096);

        fake_begin();
        begin();
        CHECK_OK(vhk_frontend_get_queue_group(f, 2, &group));
        CHECK_EQ(group, 1);
        lend(4);
        done();
        CHECK_OK(vhk_frontend_set_group_asid(f, 1, 1));
        CHECK_STR(done(), "group 1 in 1 begin 1 map 1 200000+200000 end 1");
        lend(1);
        CHECK_STR(done(), "begin 0 map 0 400000+200000 end 0 begin 1 map 1 400000+200000 end 1");
        CHECK_OK(vhk_frontend_dma_map(f, 1, 0x800000, PAGE, own, VHK_ACCESS_READ));
        CHECK_STR(done(), "map 1 800000+1000");
        CHECK_EQ(fake.maps[fake.n_maps - 1].perm, 1);
        CHECK_OK(vhk_frontend_dma_begin(f, 1));
        CHECK_OK(vhk_frontend_dma_map(f, 1, 0x900000, PAGE, own + PAGE, VHK_ACCESS_WRITE));
        CHECK_OK(vhk_frontend_dma_unmap(f, 1, 0x800000, PAGE));
        CHECK_OK(vhk_frontend_dma_end(f, 1));
        CHECK_STR(done(), "begin 1 map 1 900000+1000 unmap 1 800000+1000 end 1");
        s.desc = 0x900000;
        REFUSED(vhk_frontend_start_queue(f, 0, &s), -EFAULT, "descriptors");
        CHECK_OK(vhk_frontend_start_queue(f, 2, &s));
        REFUSED(vhk_frontend_set_group_asid(f, 0, 1), -EBUSY, "runs");
        done();
        /* a reset puts all groups into the first; what the caller mapped is the caller's */
        CHECK_OK(vhk_frontend_reset(f));
        CHECK_STR(done(), "status 0");
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        CHECK_STR(done(), "begin 0 unmap 0 200000+200000 unmap 0 400000+200000 map 0 200000+200000 map 0 400000+200000 end 0 "
                          "begin 1 unmap 1 200000+200000 unmap 1 400000+200000 unmap 1 900000+1000 map 1 900000+1000 end 1");
        for (unsigned i = 0; i < fake.n_maps; i++)
                CHECK(fake.maps[i].known);
        end();
}

/* A device that begins anew has its groups where they were. */
TEST(address_spaces_when_it_begins_anew) {
        struct vhk_ring_setup s = ring(16);

        fake_begin();
        begin();
        CHECK_OK(vhk_frontend_set_features(f, 1ull << 32));
        lend(4);
        CHECK_OK(vhk_frontend_set_group_asid(f, 1, 1));
        CHECK_OK(vhk_frontend_start_queue(f, 2, &s));
        CHECK_OK(vhk_frontend_stop_queue(f, 2, NULL));
        done();
        CHECK_OK(vhk_frontend_start_queue(f, 2, &s));
        CHECK_STR(done(), "status 0 group 1 in 1 begin 0 unmap 0 200000+200000 map 0 200000+200000 end 0 "
                          "begin 1 unmap 1 200000+200000 map 1 200000+200000 end 1 status 3 features 300000000 status 11 "
                          "num 2=16 base 2=0 addr 2=200000,201000,202000 enable 2=1 status 15");
        CHECK_EQ(fake.asid[1], 1);
        end();
}

/* Mappings that stay are not made again. */
TEST(mappings_that_persist) {
        fake_begin();
        fake.backend |= 1 << VHK_SYS_BF_IOTLB_PERSIST;
        begin();
        lend(4);
        CHECK_OK(vhk_frontend_set_group_asid(f, 1, 1));
        done();
        CHECK_OK(vhk_frontend_reset(f));
        CHECK_OK(vhk_frontend_set_status(f, 3));
        CHECK_STR(done(), "status 0 begin 1 unmap 1 200000+200000 end 1 status 3");
        end();
}

TEST(a_mapping_that_fails) {
        fake_begin();
        begin();
        lend(4);
        done();
        fake.fail = FAKE_WRITE;
        fake.fail_errno = EFAULT;
        void *va;
        CHECK_OK(vhk_memory_alloc(mem, PAGE, &va));
        REFUSED(vhk_frontend_set_memory(f, mem), -EFAULT, "0x400000");
        CHECK_STR(done(), "begin 0 end 0");             /* batches balance */
        fake.fail = 0;
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        CHECK_STR(done(), "begin 0 map 0 400000+200000 end 0");
        end();
}

TEST(configuration) {
        uint8_t b[64];

        fake_begin();
        begin();
        CHECK_OK(vhk_frontend_get_config(f, 20, b, 4));
        CHECK_EQ(b[3], 23);
        CHECK_OK(vhk_frontend_set_config(f, 0, (uint8_t[]){ 9, 8 }, 2, VHK_CONFIG_DRIVER));
        CHECK_EQ(fake.config[1], 8);
        struct pollfd p = { vhk_frontend_get_fd(f), POLLIN, 0 };
        CHECK_EQ(poll(&p, 1, 0), 0);
        CHECK_EQ(vhk_frontend_dispatch(f), 0);
        CHECK(fake.config_call >= 0);
        CHECK_EQ(write(fake.config_call, &(uint64_t){ 1 }, 8), 8);
        CHECK_EQ(poll(&p, 1, 0), 1);
        n_changed = 0;
        CHECK_EQ(vhk_frontend_dispatch(f), 1);
        CHECK_EQ(n_changed, 1);
        CHECK_EQ(vhk_frontend_dispatch(f), 0);
        fake.fail = VHK_K_VDPA_GET_CONFIG;
        fake.fail_errno = EIO;
        memset(b, 0x55, sizeof(b));
        CHECK_EQ(vhk_frontend_get_config(f, 0, b, 4), -EIO);
        CHECK_EQ(b[0], 0x55);
        end();
        CHECK_EQ(fake.config_call, -1);
}

/* What is beyond a limit stops here: the kernel hears nothing of it (1018-1118, 2024-0340, 2026-43248 are what that did). */
TEST(h61_beyond_limits) {
        static uint8_t page[4096] VHK_ALIGNED(4096);
        struct vhk_ring_setup s = ring(16);
        struct vhk_ring_base base;
        uint8_t b[64];
        uint32_t group;

        fake_begin();
        fake.first = 0x100000;
        fake.last = 0x7fffff;
        begin();
        lend(4);
        done();
        unsigned written = fake.n_written;
        REFUSED(vhk_frontend_start_queue(f, 3, &s), -EINVAL, "3 rings");
        REFUSED(vhk_frontend_start_queue(f, UINT32_MAX, &s), -EINVAL, "3 rings");
        REFUSED(vhk_frontend_stop_queue(f, 3, &base), -EINVAL, "3 rings");
        REFUSED(vhk_frontend_enable_queue(f, 3, 1), -EINVAL, "3 rings");
        REFUSED(vhk_frontend_set_call_fd(f, 3, -1), -EINVAL, "3 rings");
        REFUSED(vhk_frontend_get_queue_group(f, 3, &group), -EINVAL, "3 rings");
        REFUSED(vhk_frontend_set_group_asid(f, 2, 0), -EINVAL, "2 groups");
        REFUSED(vhk_frontend_set_group_asid(f, 0, 2), -EINVAL, "2 address spaces");
        REFUSED(vhk_frontend_get_config(f, 20, b, 5), -EINVAL, "ends at 24");
        REFUSED(vhk_frontend_get_config(f, UINT32_MAX, b, 2), -EINVAL, "4294967297");
        REFUSED(vhk_frontend_get_config(f, 25, b, 1), -EINVAL, "ends at 24");
        REFUSED(vhk_frontend_get_config(f, 0, b, 0), -EINVAL, "ends at 24");
        REFUSED(vhk_frontend_set_config(f, 24, b, 1, VHK_CONFIG_DRIVER), -EINVAL, "ends at 24");
        REFUSED(vhk_frontend_dma_map(f, 2, 0x600000, PAGE, page, 3), -EINVAL, "2 address spaces");
        REFUSED(vhk_frontend_dma_map(f, 0, 0xff000, PAGE, page, 3), -ERANGE, "0x100000 to 0x7fffff");
        REFUSED(vhk_frontend_dma_map(f, 0, 0x7ff000, 2 * PAGE, page, 3), -ERANGE, "0x100000 to 0x7fffff");
        REFUSED(vhk_frontend_dma_map(f, 0, UINT64_MAX - 4095, PAGE, page, 3), -ERANGE, "0x7fffff");
        REFUSED(vhk_frontend_dma_map(f, 0, 0x600000, UINT64_MAX - 4095, page, 3), -ERANGE, "0x7fffff");
        REFUSED(vhk_frontend_dma_map(f, 0, 0x600000, 0, page, 3), -EINVAL, "whole pages");
        REFUSED(vhk_frontend_dma_map(f, 0, 0x600001, PAGE, page, 3), -EINVAL, "whole pages");
        REFUSED(vhk_frontend_dma_map(f, 0, 0x600000, PAGE, page, 0), -EINVAL, "access 0");
        REFUSED(vhk_frontend_dma_map(f, 0, 0x600000, PAGE, page, 4), -EINVAL, "access 4");
        REFUSED(vhk_frontend_dma_map(f, 0, GPA + PAGE, PAGE, page, 3), -EEXIST, "mapped already");
        REFUSED(vhk_frontend_dma_unmap(f, 0, GPA, 4 * PAGE), -ENOENT, "no mapping of the caller's");
        REFUSED(vhk_frontend_dma_unmap(f, 2, 0x600000, PAGE), -EINVAL, "2 address spaces");
        REFUSED(vhk_frontend_dma_begin(f, 2), -EINVAL, "2 address spaces");
        REFUSED(vhk_frontend_dma_end(f, 0), -EINVAL, "no batch");
        s.num = 512;
        REFUSED(vhk_frontend_start_queue(f, 0, &s), -EINVAL, "up to 256");
        s.num = 24;
        REFUSED(vhk_frontend_start_queue(f, 0, &s), -EINVAL, "a power of two");
        s = ring(16);
        s.device = GPA + (2 << 20) - 8;
        REFUSED(vhk_frontend_start_queue(f, 0, &s), -EFAULT, "device area");
        s.device = UINT64_MAX - 8;
        REFUSED(vhk_frontend_start_queue(f, 0, &s), -EFAULT, "device area");
        CHECK_STR(done(), "");
        CHECK_EQ(fake.n_written, written);
        /* a region outside is refused as a whole, and what was lent stays */
        struct vhk_region r = { .size = sizeof(r), .gpa = { 0x800000 }, .va = page, .len = PAGE, .fd = memfd_create("x", MFD_CLOEXEC) };
        CHECK_OK(ftruncate(r.fd, PAGE));
        CHECK_OK(vhk_memory_add(mem, &r));
        close(r.fd);
        REFUSED(vhk_frontend_set_memory(f, mem), -ERANGE, "0x100000 to 0x7fffff");
        CHECK_STR(done(), "");
        end();
}

TEST(h61_batches_balance) {
        static uint8_t page[4096] VHK_ALIGNED(4096);

        fake_begin();
        begin();
        CHECK_OK(vhk_frontend_dma_begin(f, 1));
        REFUSED(vhk_frontend_dma_begin(f, 1), -EINVAL, "has begun and not ended");
        REFUSED(vhk_frontend_dma_begin(f, 0), -EINVAL, "has begun and not ended");
        REFUSED(vhk_frontend_dma_end(f, 0), -EINVAL, "not its");
        REFUSED(vhk_frontend_dma_map(f, 0, 0x600000, PAGE, page, 3), -EINVAL, "not its");
        REFUSED(vhk_frontend_set_memory(f, mem), -EBUSY, "has begun and not ended");
        REFUSED(vhk_frontend_set_group_asid(f, 1, 1), -EBUSY, "has begun and not ended");
        CHECK_OK(vhk_frontend_dma_end(f, 1));
        REFUSED(vhk_frontend_dma_end(f, 1), -EINVAL, "no batch");
        CHECK_STR(done(), "begin 1 end 1");
        CHECK_OK(vhk_frontend_dma_begin(f, 1));
        CHECK_OK(vhk_frontend_reset(f));                /* ends it, as in the kernel */
        REFUSED(vhk_frontend_dma_end(f, 1), -EINVAL, "no batch");
        end();
}

/* Every ioctl of a ring's life fails once: the story says which, and the object stays usable. */
TEST(every_call_of_a_ring_may_fail) {
        static const struct { unsigned long request; bool stop; } rows[] = {
                { VHK_K_SET_VRING_NUM, false }, { VHK_K_SET_VRING_BASE, false }, { VHK_K_SET_VRING_ADDR, false }, { VHK_K_SET_VRING_ERR, false },
                { VHK_K_SET_VRING_CALL, false }, { VHK_K_SET_VRING_KICK, false }, { VHK_K_VDPA_SET_VRING_ENABLE, false }, { VHK_K_SET_FEATURES, false },
                { VHK_K_VDPA_SET_STATUS, false }, { VHK_K_VDPA_GET_STATUS, false }, { VHK_K_VDPA_SUSPEND, true }, { VHK_K_GET_VRING_BASE, true },
                { VHK_K_SET_VRING_KICK, true }, { VHK_K_SET_VRING_CALL, true },
        };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                struct vhk_ring_setup s = ring(16);
                struct vhk_ring_base base = { .avail = 4711 };
                fake_begin();
                begin();
                lend(4);
                if (rows[i].stop)
                        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
                fake.fail = rows[i].request;
                fake.fail_errno = EIO;
                int k = rows[i].stop ? vhk_frontend_stop_queue(f, 0, &base) : vhk_frontend_start_queue(f, 0, &s);
                CHECK_MSG(k == -EIO, "request 0x%lx: %d", rows[i].request, k);
                CHECK_EQ(base.avail, 4711);
                CHECK_EQ(vhk_frontend_get_error(f)->code, -EIO);
                fake.fail = 0;
                CHECK_OK(rows[i].stop ? vhk_frontend_stop_queue(f, 0, &base) : vhk_frontend_start_queue(f, 0, &s));
                end();
        }
}
