/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-vdpa of the kernel that runs here: its simulated disk "blk0" and network card "net0" (vdpa dev add ..., bound to vhost_vdpa), and
 * a VDUSE device of the test's own. The disk stores, in every form of the messages about memory; a control command reaches the card through
 * an address space of its own; devices are suspended, resumed or reset; what is beyond a limit is refused by us, and what the
 * kernel itself answers to it is written down here. Needs root; skipped where a device is not there.
 */
#include "base/test.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <vhostkit/blk.h>
#include <vhostkit/drvq.h>
#include <vhostkit/kernel.h>
#include <vhostkit/sys.h>
#include <vhostkit/vdpa.h>

#include "base/base.h"
#include "sys/uapi.h"

#define DISK "vhost-vdpa:blk0"
#define CARD "vhost-vdpa:net0"
#define MIB (1ull << 20)
#define F_VERSION_1 VHK_BIT(32)
#define F_MAC VHK_BIT(5)
#define F_CTRL_VQ VHK_BIT(17)
#define F_CTRL_MAC_ADDR VHK_BIT(23)

static struct vhk_frontend *f;
static struct vhk_memory *mem;
static unsigned n_changed;

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_changed += ev == VHK_FRONTEND_CONFIG_CHANGED;
}

static void allow_locked_pages(void) {
        const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

        setrlimit(RLIMIT_MEMLOCK, &all);
}

static void begin(const char *spec, uint64_t no_offer) {
        struct vhk_frontend_options o = { .size = sizeof(o), .on_event = on_event, .protocol_no_offer = no_offer };
        struct vhk_error e = { 0 };

        allow_locked_pages();
        int k = vhk_frontend_open(spec, &o, &f, &e);
        if (k == -ENODEV || k == -ENOENT || k == -EOPNOTSUPP || k == -ENXIO || k == -EACCES)
                SKIP(e.text);
        CHECK_MSG(k == 0, "%s", e.text);
        CHECK_OK(vhk_memory_new(&mem));
}

static void end(void) {
        f = vhk_frontend_close(f);
        mem = vhk_memory_free(mem);
}

static struct vhk_frontend_info info(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_frontend_get_info(f, &i));
        return i;
}

#define REFUSED(call, code)                                                                                     \
        do {                                                                                                    \
                CHECK_EQ(call, code);                                                                           \
                printf("  %s\n", vhk_frontend_get_error(f)->text);                                              \
        } while (0)

static void fill(uint8_t *p, size_t n, unsigned seed) {
        for (size_t i = 0; i < n; i++)
                p[i] = (uint8_t)((i * 7 + seed) ^ i >> 9);
}

TEST(what_the_devices_tell) {
        uint64_t capacity = 0;

        begin(DISK, 0);
        struct vhk_frontend_info i = info();
        CHECK_EQ(i.virtio_id, 2);
        CHECK_OK(vhk_frontend_get_config(f, 0, &capacity, sizeof(capacity)));
        printf("  disk: features 0x%llx, backend 0x%llx, %u rings of up to %u, %u groups, %u address spaces, %u bytes of configuration, %llu sectors\n",
               (unsigned long long)i.features, (unsigned long long)i.carrier_acked, i.n_queues, i.queue_size_max, i.n_groups, i.n_address_spaces,
               i.config_size, (unsigned long long)capacity);
        CHECK(capacity >= 2048 && i.features & F_VERSION_1 && !(i.features & VHK_BIT(33)));
        CHECK(i.n_queues >= 1 && i.queue_size_max >= 16 && i.config_size >= 60);
        end();
        begin(CARD, 0);
        i = info();
        CHECK_EQ(i.virtio_id, 1);
        CHECK_EQ(i.n_queues, 3);
        CHECK_EQ(i.n_groups, 2);
        CHECK_EQ(i.n_address_spaces, 2);
        CHECK(i.capabilities & VHK_CAP_GROUPS && i.capabilities & VHK_CAP_DEVICE_SUSPEND && i.capabilities & VHK_CAP_CONFIG_CHANGED);
        end();
}

TEST(a_second_user_is_told) {
        struct vhk_frontend *other;
        struct vhk_error e = { 0 };

        begin(DISK, 0);
        CHECK_EQ(vhk_frontend_open(DISK, NULL, &other, &e), -EBUSY);
        printf("  %s\n", e.text);
        CHECK(strstr(e.text, "somebody else"));
        end();
}

/* Written, read by another, in each form that the messages about memory have. */
TEST(the_disk_stores) {
        static const struct { const char *name; uint64_t no_offer; } forms[] = {
                { "v2, batches", 0 }, { "v2", VHK_BIT(VHK_SYS_BF_IOTLB_BATCH) }, { "v1, batches", VHK_BIT(VHK_SYS_BF_IOTLB_MSG_V2) },
                { "v1", VHK_BIT(VHK_SYS_BF_IOTLB_MSG_V2) | VHK_BIT(VHK_SYS_BF_IOTLB_BATCH) },
        };
        size_t n = 300000 / 512 * 512;
        VHK_AUTOFREE uint8_t *a = malloc(n), *b = malloc(n);

        allow_locked_pages();
        for (size_t i = 0; i < VHK_N(forms); i++) {
                struct vhk_frontend_options fo = { .size = sizeof(fo), .protocol_no_offer = forms[i].no_offer };
                struct vhk_blk_options o = { .size = sizeof(o), .frontend = &fo };
                struct vhk_error e = { 0 };
                struct vhk_blk *d;
                int k = vhk_blk_open(DISK, &o, &d, &e);
                if (k == -ENODEV || k == -EOPNOTSUPP || k == -ENXIO)
                        SKIP(e.text);
                CHECK_MSG(k == 0, "%s", e.text);
                fill(a, n, 3 + (unsigned)i);
                CHECK_EQ(vhk_blk_pwrite(d, a, n, 40960 * (i + 1)), (ssize_t)n);         /* bounces */
                CHECK_OK(vhk_blk_flush(d));
                uint8_t *lent = vhk_blk_alloc(d, n);
                CHECK(lent);
                CHECK_EQ(vhk_blk_pread(d, lent, n, 40960 * (i + 1)), (ssize_t)n);
                CHECK(!memcmp(lent, a, n));
                uint8_t *more = vhk_blk_alloc(d, 20 * MIB);     /* another region, while the device runs; 2048 pieces are a simulator's limit */
                if (more) {
                        memset(more, 0xee, MIB);
                        CHECK_EQ(vhk_blk_pread(d, more, n, 40960 * (i + 1)), (ssize_t)n);
                        CHECK(!memcmp(more, a, n));
                }
                d = vhk_blk_close(d);
                CHECK_OK(vhk_blk_open(DISK, NULL, &d, &e));
                CHECK_EQ(vhk_blk_pread(d, b, n, 40960 * (i + 1)), (ssize_t)n);
                CHECK(!memcmp(a, b, n));
                memset(b, 0, 512);
                strcpy((char *)b, "vhostkit was here\n");
                CHECK_EQ(vhk_blk_pwrite(d, b, 512, 4096), 512);         /* for whoever drives it next */
                vhk_blk_close(d);
                printf("  %s: %zu bytes written, read back%s\n", forms[i].name, n, more ? ", also into a region of later" : "; no room for a region of later");
        }
}

/* A read of sector 0 by hand: header, data, status. 0 when it is done in time. */
static int read_sector(struct vhk_drvq *q, uint8_t *req, unsigned timeout_ms) {
        struct { uint32_t type, reserved; uint64_t sector; } head = { 0 };
        const struct iovec sg[] = { { req, 16 }, { req + 512, 512 }, { req + 1024, 1 } };
        struct vhk_done done;
        int k = 0;

        memcpy(req, &head, sizeof(head));
        req[1024] = 0xff;
        CHECK_OK(vhk_drvq_add(q, sg, 1, 2, req));
        CHECK_OK(vhk_drvq_kick(q));
        for (unsigned i = 0; i < timeout_ms && (k = vhk_drvq_reap(q, &done, 1)) == 0; i++)
                usleep(1000);
        CHECK(k >= 0);
        if (k == 1) {
                CHECK_EQ(done.len, 513);
                CHECK_EQ(req[1024], 0);
        }
        return k == 1 ? 0 : -ETIMEDOUT;
}

/* A ring stops and goes on, with a device that has to be reset for that or not. The status is the carrier's. */
TEST(a_ring_stops_and_goes_on) {
        struct vhk_drvq_options o = { .size = sizeof(o), .num = 16 };
        struct vhk_drvq *q;
        void *req;

        begin(DISK, 0);
        CHECK_OK(vhk_frontend_set_features(f, F_VERSION_1));
        CHECK_OK(vhk_memory_alloc(mem, 4096, &req));
        CHECK_OK(vhk_drvq_new(f, mem, 0, &o, &q));
        for (unsigned round = 0; round < 5; round++) {
                for (unsigned i = 0; i < 20; i++)
                        CHECK_OK(read_sector(q, req, 5000));
                CHECK_OK(vhk_drvq_stop(q));
                CHECK_EQ(vhk_drvq_get_setup(q)->base.avail, (round + 1) * 20);
                CHECK_OK(vhk_drvq_start(q));
        }
        CHECK_OK(read_sector(q, req, 5000));
        printf("  5 times; the device %s\n", info().capabilities & VHK_CAP_DEVICE_RESUME ? "resumes" : "is reset for it");
        vhk_drvq_free(q);
        end();
}

TEST(a_suspended_device_does_nothing) {
        struct vhk_drvq_options o = { .size = sizeof(o), .num = 16 };
        struct vhk_drvq *q;
        struct vhk_done done;
        uint8_t status = 0;
        void *req;

        begin(DISK, 0);
        CHECK_OK(vhk_frontend_set_features(f, F_VERSION_1));
        CHECK_OK(vhk_memory_alloc(mem, 4096, &req));
        CHECK_OK(vhk_drvq_new(f, mem, 0, &o, &q));
        CHECK_OK(read_sector(q, req, 5000));
        CHECK_OK(vhk_frontend_get_status(f, &status));
        CHECK_EQ(status, 15);
        CHECK_OK(vhk_frontend_suspend(f));
        CHECK_EQ(read_sector(q, req, 300), -ETIMEDOUT);
        if (info().capabilities & VHK_CAP_DEVICE_RESUME) {
                int k = 0;
                CHECK_OK(vhk_frontend_resume(f));
                for (unsigned i = 0; i < 5000 && (k = vhk_drvq_reap(q, &done, 1)) == 0; i++)
                        usleep(1000);
                CHECK_EQ(k, 1);
                printf("  and goes on where it was\n");
        } else {
                REFUSED(vhk_frontend_resume(f), -EOPNOTSUPP);
        }
        vhk_drvq_free(q);
        end();
}

/* ---- a control ring in an address space of its own ---- */

struct desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct control {                        /* one page, at CONTROL_IOVA of address space 1 alone */
        struct desc desc[4];
        struct { uint16_t flags, idx, ring[4], event; } avail;
        uint8_t pad0[512 - 64 - 14];
        struct { uint16_t flags, idx; struct { uint32_t id, len; } ring[4]; } used;
        uint8_t pad1[512 - 36];
        uint8_t head[2], mac[6], ack;
};
#define CONTROL_IOVA 0x40000000ull
#define AT(member) (CONTROL_IOVA + offsetof(struct control, member))

TEST(a_control_command_through_its_own_address_space) {
        static const uint8_t mac[6] = { 2, 0, 0, 0x5e, 0x10, 7 };
        struct vhk_ring_setup s = { .size = sizeof(s), .num = 4, .desc = AT(desc), .driver = AT(avail), .device = AT(used), .call_fd = -1, .err_fd = -1 };
        uint8_t got[6] = { 0 };
        uint32_t group = 99;

        begin(CARD, 0);
        uint64_t features = F_VERSION_1 | F_MAC | F_CTRL_VQ | F_CTRL_MAC_ADDR;
        if ((info().features & features) != features)
                SKIP("the card takes no MAC address");
        struct control *c = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(c != MAP_FAILED);
        CHECK_OK(vhk_frontend_set_features(f, features));
        CHECK_OK(vhk_frontend_get_queue_group(f, 2, &group));
        CHECK_EQ(group, 1);
        CHECK_OK(vhk_frontend_set_group_asid(f, group, 1));
        CHECK_OK(vhk_frontend_dma_begin(f, 1));
        CHECK_OK(vhk_frontend_dma_map(f, 1, CONTROL_IOVA, 4096, c, VHK_ACCESS_BOTH));
        CHECK_OK(vhk_frontend_dma_end(f, 1));
        c->head[0] = c->head[1] = 1;    /* VIRTIO_NET_CTRL_MAC, ADDR_SET */
        memcpy(c->mac, mac, 6);
        c->ack = 0xff;
        c->desc[0] = (struct desc){ AT(head), 2, 1, 1 };
        c->desc[1] = (struct desc){ AT(mac), 6, 1, 2 };
        c->desc[2] = (struct desc){ AT(ack), 1, 2, 0 };
        c->avail.idx = 1;
        s.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        CHECK_OK(vhk_frontend_start_queue(f, 2, &s));   /* what is there already is looked for */
        for (unsigned i = 0; i < 5000 && vhk_load_acquire(&c->used.idx) == 0; i++)
                usleep(1000);
        CHECK_EQ(c->used.idx, 1);
        CHECK_EQ(c->ack, 0);
        CHECK_OK(vhk_frontend_get_config(f, 0, got, 6));
        CHECK(!memcmp(got, mac, 6));
        CHECK_EQ(vhk_frontend_set_group_asid(f, 0, 1), -EBUSY);
        close(s.kick_fd);
        end();
        munmap(c, 4096);
}

/* ---- H61 ---- */

/* Refused by us, with a story; the kernel hears nothing of it. */
TEST(h61_beyond_limits) {
        static uint8_t page[4096] VHK_ALIGNED(4096);
        struct vhk_ring_setup s = { .size = sizeof(s), .num = 16, .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
        uint8_t b[256];
        uint32_t group;
        void *va;

        begin(CARD, 0);
        struct vhk_frontend_info i = info();
        CHECK_OK(vhk_memory_alloc(mem, 65536, &va));
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        REFUSED(vhk_frontend_start_queue(f, i.n_queues, &s), -EINVAL);
        REFUSED(vhk_frontend_stop_queue(f, UINT32_MAX, NULL), -EINVAL);
        REFUSED(vhk_frontend_get_queue_group(f, i.n_queues, &group), -EINVAL);
        REFUSED(vhk_frontend_set_group_asid(f, i.n_groups, 0), -EINVAL);
        REFUSED(vhk_frontend_set_group_asid(f, 0, i.n_address_spaces), -EINVAL);
        REFUSED(vhk_frontend_get_config(f, i.config_size - 1, b, 2), -EINVAL);
        REFUSED(vhk_frontend_get_config(f, UINT32_MAX, b, 2), -EINVAL);
        REFUSED(vhk_frontend_dma_map(f, i.n_address_spaces, 0x50000000, 4096, page, 3), -EINVAL);
        REFUSED(vhk_frontend_dma_map(f, 0, UINT64_MAX - 4095, 8192, page, 3), -ERANGE);
        REFUSED(vhk_frontend_dma_map(f, 0, 0x200000, 4096, page, 3), -EEXIST);
        REFUSED(vhk_frontend_dma_end(f, 0), -EINVAL);
        CHECK_OK(vhk_frontend_dma_begin(f, 0));
        REFUSED(vhk_frontend_dma_begin(f, 1), -EINVAL);
        CHECK_OK(vhk_frontend_dma_end(f, 0));
        s.num = (uint16_t)(2 * i.queue_size_max);
        REFUSED(vhk_frontend_start_queue(f, 0, &s), -EINVAL);
        s.num = 16;
        s.desc = s.driver = s.device = 0x50000000;
        REFUSED(vhk_frontend_start_queue(f, 0, &s), -EFAULT);
        /* not mapped here: only the kernel sees that, unless it looks at the memory when it is used */
        int k = vhk_frontend_dma_map(f, 0, 0x50000000, 4096, (void *)0x1000, 3);
        CHECK(k == 0 || k == -EFAULT);
        printf("  %s\n", k ? vhk_frontend_get_error(f)->text : "memory that is not mapped here is taken");
        end();
}

/* ... and what it would have answered. */
TEST(h61_what_the_kernel_says) {
        char path[64];
        struct vhk_error e;
        struct vhk_sys_iotlb m = { .type = VHK_SYS_IOTLB_UPDATE, .iova = 0x10000, .len = 4096, .perm = 3, .asid = 7 };
        uint8_t b[64];
        uint32_t x;
        int fd;

        if (vhk_vdpa_find_node("net0", path, sizeof(path), &e) < 0)
                SKIP(e.text);
        CHECK_OK(vhk_sys_vhost_open(path, &fd));
        CHECK_EQ(vhk_sys_vhost_set_vring_num(fd, 0, 16), -EPERM);
        CHECK_OK(vhk_sys_vhost_set_owner(fd));
        CHECK_EQ(vhk_sys_vhost_set_owner(fd), -EBUSY);
        CHECK_EQ(vhk_sys_vhost_set_vring_num(fd, 3, 16), -ENOBUFS);
        CHECK_EQ(vhk_sys_vhost_set_vring_num(fd, 0, 24), -EINVAL);
        CHECK_EQ(vhk_sys_vhost_set_vring_kick(fd, 0, 4711), -EBADF);
        CHECK_EQ(vhk_sys_vhost_set_vring_base(fd, 0, 0x10000), -EINVAL);
        CHECK_EQ(vhk_sys_vdpa_get_vring_group(fd, 3, &x), -ENOBUFS);
        CHECK_EQ(vhk_sys_vdpa_set_group_asid(fd, 9, 0), -ENOBUFS);      /* the group is taken for a ring first */
        CHECK_EQ(vhk_sys_vdpa_set_group_asid(fd, 2, 0), -EINVAL);
        CHECK_EQ(vhk_sys_vdpa_set_group_asid(fd, 0, 9), -EINVAL);
        CHECK_EQ(vhk_sys_vdpa_get_config(fd, 4096, b, 4), -EINVAL);
        CHECK_EQ(vhk_sys_vdpa_get_config(fd, UINT32_MAX, b, 4), -EINVAL);
        CHECK_EQ(vhk_sys_vdpa_get_config(fd, 0, b, 0), -EINVAL);
        CHECK_OK(vhk_sys_vdpa_set_status(fd, 3));
        CHECK_EQ(vhk_sys_vdpa_set_status(fd, 1), -EINVAL);
        CHECK_EQ(vhk_sys_vhost_set_features(fd, F_VERSION_1), -EINVAL);         /* without ACCESS_PLATFORM */
        CHECK_EQ(vhk_sys_vhost_set_log_fd(fd, -1), -ENOTTY);
        CHECK_OK(vhk_sys_vhost_set_backend_features(fd, 0xe));
        int k = vhk_sys_vhost_write_iotlb(fd, 1, &m);
        CHECK(k == -EFAULT || k == -EINVAL);
        CHECK_EQ(vhk_sys_vhost_read_iotlb(fd, &m), -EINVAL);
        uint64_t offered = 0;
        CHECK_OK(vhk_sys_vhost_get_backend_features(fd, &offered));
        k = vhk_sys_vdpa_resume(fd);
        printf("  resume: %d%s\n", k, offered & VHK_BIT(VHK_SYS_BF_RESUME) ? "" : ", by a kernel that knows it not");
        CHECK(offered & VHK_BIT(VHK_SYS_BF_RESUME) ? k == 0 : k < 0);
        printf("  new worker: %d\n", vhk_sys_vhost_new_worker(fd, &x));
        close(fd);
}

/* The commonest reason why the kernel does not map: then the story says so. */
TEST(locked_pages_have_a_limit) {
        struct rlimit was, little = { 65536, 65536 };
        void *va;

        begin(DISK, 0);
        CHECK_OK(getrlimit(RLIMIT_MEMLOCK, &was));
        little.rlim_max = was.rlim_max;
        CHECK_OK(setrlimit(RLIMIT_MEMLOCK, &little));
        CHECK_OK(vhk_memory_alloc(mem, MIB, &va));
        int k = vhk_frontend_set_memory(f, mem);
        setrlimit(RLIMIT_MEMLOCK, &was);
        CHECK(k == 0 || k == -ENOMEM);  /* a simulator that is asked for user addresses locks nothing */
        printf("  %s\n", k ? vhk_frontend_get_error(f)->text : "nothing is locked");
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        end();
}

/* ---- a device of our own, for what simulators never do ---- */

struct own { int control, dev; pthread_t thread; bool stop; unsigned n_requests; };

static void *answer(void *arg) {
        struct own *o = arg;
        struct vhk_sys_vduse_request r;
        struct vhk_sys_vduse_vq_info state = { 0 };

        while (!vhk_load_relaxed(&o->stop)) {
                struct pollfd p = { o->dev, POLLIN, 0 };
                if (poll(&p, 1, 50) <= 0 || vhk_sys_vduse_read_request(o->dev, &r) != 1)
                        continue;
                o->n_requests++;
                state.index = r.vq_index;
                vhk_sys_vduse_write_response(o->dev, r.id, VHK_SYS_VDUSE_OK, r.type == VHK_SYS_VDUSE_GET_VQ_STATE ? &state : NULL, 0);
        }
        return NULL;
}

TEST(the_configuration_changes) {
        static uint8_t config[60] = { 0, 8 };   /* of a disk of 2048 sectors */
        const struct vhk_sys_vduse_config c = { .name = "vhk-own", .device_id = 2, .features = F_VERSION_1 | VHK_BIT(33), .vq_num = 1, .vq_align = 4096,
                                                .config = config, .config_size = sizeof(config) };
        struct vhk_vdpa_add a = { .size = sizeof(a), .name = "vhk-own", .mgmt_name = "vduse" };
        struct vhk_ring_setup s = { .size = sizeof(s), .num = 16, .desc = 0x200000, .driver = 0x201000, .device = 0x202000, .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
        struct vhk_error e = { 0 };
        uint64_t capacity = 0;
        struct own o = { 0 };
        void *va;

        int k = vhk_sys_vduse_open(&o.control);
        if (k < 0)
                SKIP("no /dev/vduse/control");
        CHECK_OK(vhk_sys_vduse_set_api_version(o.control, 0));
        CHECK_OK(vhk_sys_vduse_create_dev(o.control, &c));
        CHECK_OK(vhk_sys_vduse_open_dev("vhk-own", &o.dev));
        CHECK_OK(vhk_sys_vduse_vq_setup(o.dev, &(struct vhk_sys_vduse_vq){ .max_size = 64 }));
        CHECK_OK(pthread_create(&o.thread, NULL, answer, &o));
        CHECK_MSG(vhk_vdpa_add(&a, &e) == 0, "%s", e.text);
        CHECK_MSG(vhk_vdpa_bind("vhk-own", "vhost_vdpa", &e) == 0, "%s", e.text);
        begin("vhost-vdpa:vhk-own", 0);
        CHECK_EQ(info().virtio_id, 2);
        CHECK_EQ(info().queue_size_max, 64);
        CHECK_OK(vhk_frontend_set_features(f, F_VERSION_1));
        CHECK_OK(vhk_memory_alloc(mem, 65536, &va));
        CHECK_OK(vhk_frontend_set_memory(f, mem));
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_OK(vhk_frontend_get_config(f, 0, &capacity, 8));
        CHECK_EQ(capacity, 2048);
        config[1] = 16;
        CHECK_OK(vhk_sys_vduse_set_config(o.dev, 0, config, sizeof(config)));
        CHECK_OK(vhk_sys_vduse_inject_config_irq(o.dev));
        struct pollfd p = { vhk_frontend_get_fd(f), POLLIN, 0 };
        CHECK_EQ(poll(&p, 1, 5000), 1);
        n_changed = 0;
        CHECK_EQ(vhk_frontend_dispatch(f), 1);
        CHECK_EQ(n_changed, 1);
        CHECK_OK(vhk_frontend_get_config(f, 0, &capacity, 8));
        CHECK_EQ(capacity, 4096);
        struct vhk_ring_base base = { .avail = 77 };
        CHECK_OK(vhk_frontend_stop_queue(f, 0, &base));
        CHECK_EQ(base.avail, 0);        /* as our device says */
        end();
        CHECK_OK(vhk_vdpa_del("vhk-own", &e));
        vhk_store_relaxed(&o.stop, true);
        pthread_join(o.thread, NULL);
        printf("  %u requests of the kernel's were answered\n", o.n_requests);
        close(o.dev);
        CHECK_OK(vhk_sys_vduse_destroy_dev(o.control, "vhk-own"));
        close(o.control);
}
