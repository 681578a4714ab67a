/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The two ends of test-every-message.c: a device that is all that a device may be, a front-end whose program takes all that is
 * offered, a ring written by hand, and what both ends say of it in their traces.
 */
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <vhostkit/migration.h>

#include "relay.h"
#include "ring/ring.h"

#define BIT(n) VHK_BIT(n)
#define PAGE 4096ul
#define REGION (8 * PAGE)               /* of shared memory */
#define QUEUE_MAX 64u
#define RING_SIZE_SERVED 1024u           /* whatever the device asks for */
#define DEVICE_FEATURE BIT(5)

/* ---- the device: all that a device may be; what it sees is read when the front-end's call has returned ---- */

static struct device {
        struct vhk_host *host;
        bool refuses;                   /* whatever it is asked; atomic, as the next two */
        bool holds;                     /* requests are kept */
        bool draws;                     /* it has a display; atomic too */
        struct vhk_req *held;
        uint64_t features, mtu;
        uint8_t mac[6], config[8], session[1072], state[100];
        unsigned n_resets, n_closed;
        int object;
} devices[2];

static bool refuses(void *dev) {
        return __atomic_load_n(&((struct device *)dev)->refuses, __ATOMIC_ACQUIRE);
}

static void queue_run(void *dev, struct vhk_queue *q) {
        struct device *d = dev;
        struct vhk_req *r;

        while (vhk_queue_pop(q, &r, 1) == 1) {
                if (__atomic_load_n(&d->holds, __ATOMIC_ACQUIRE))
                        __atomic_store_n(&d->held, r, __ATOMIC_RELEASE);
                else
                        vhk_queue_push(q, r, (uint32_t)vhk_req_write(r, 0, "used", 4));
        }
        vhk_queue_flush(q);
}

static int attach(void *dev, struct vhk_host *h) {
        ((struct device *)dev)->host = h;
        return 0;
}

static int negotiated(void *dev, uint64_t features) {
        ((struct device *)dev)->features = features;
        return refuses(dev) ? -ENOTSUP : 0;
}

static int get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        memcpy(buf, ((struct device *)dev)->config + off, n);
        return refuses(dev) ? -EIO : 0;
}

static int set_config(void *dev, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        if (refuses(dev))
                return -EROFS;
        memcpy(((struct device *)dev)->config + off, buf, n);
        return 0;
}

static void reset(void *dev) {
        __atomic_add_fetch(&((struct device *)dev)->n_resets, 1, __ATOMIC_RELAXED);     /* also when the front-end has gone */
}

static int save_state(void *dev, void **ret_data, size_t *ret_n) {
        struct device *d = dev;

        if (refuses(dev))
                return -EIO;
        *ret_data = malloc(*ret_n = sizeof(d->state));
        memcpy(*ret_data, d->state, sizeof(d->state));
        return 0;
}

static int load_state(void *dev, const void *data, size_t n) {
        struct device *d = dev;

        if (refuses(dev) || n != sizeof(d->state))
                return -EINVAL;
        memcpy(d->state, data, n);
        return 0;
}

static int get_shmem_config(void *dev, uint64_t sizes[VHK_SHMEM_REGIONS]) {
        sizes[5] = REGION;
        return 0;
}

static int get_object(void *dev, const uint8_t uuid[16], int *ret_fd) {
        *ret_fd = refuses(dev) ? -1 : fcntl(((struct device *)dev)->object, F_DUPFD_CLOEXEC, 0);
        return *ret_fd < 0 ? -ENOENT : 0;
}

static int send_rarp(void *dev, const uint8_t mac[6]) {
        memcpy(((struct device *)dev)->mac, mac, 6);
        return refuses(dev) ? -EIO : 0;
}

static int set_mtu(void *dev, uint16_t mtu) {
        ((struct device *)dev)->mtu = mtu;
        return refuses(dev) ? -ERANGE : 0;
}

static int64_t create_session(void *dev, enum vhk_crypto_form form, const void *session) {
        memcpy(((struct device *)dev)->session, session, form == VHK_CRYPTO_FORM_632 ? 632 : 1072);
        return refuses(dev) ? -ENOSPC : form == VHK_CRYPTO_FORM_632 ? 6 : 1;
}

static int close_session(void *dev, uint64_t id) {
        ((struct device *)dev)->n_closed++;
        return refuses(dev) ? -ENOENT : 0;
}

static void display_opened(void *dev, struct vhk_display *d, uint32_t features) {
        __atomic_store_n(&((struct device *)dev)->draws, true, __ATOMIC_RELEASE);
}

static const struct vhk_shmem_ops shmem_ops = { .size = sizeof(shmem_ops), .get_config = get_shmem_config };
static const struct vhk_object_ops object_ops = { .size = sizeof(object_ops), .get = get_object };
static const struct vhk_net_ops net_ops = { sizeof(net_ops), send_rarp, set_mtu };
static const struct vhk_display_ops display_ops = { .size = sizeof(display_ops), .opened = display_opened };
static const struct vhk_crypto_ops crypto_ops = { sizeof(crypto_ops), create_session, close_session };
static const struct vhk_device_ops bare_ops = {
        .size = sizeof(bare_ops), .virtio_id = 1, .n_queues = 2, .queue_size_max = QUEUE_MAX, .threads = VHK_THREADS_PER_QUEUE,
        .queue_run = queue_run,
};
static const struct vhk_device_ops device_ops = {
        .size = sizeof(device_ops), .virtio_id = 1, .n_queues = 2, .queue_size_max = QUEUE_MAX, .config_len = 8, .threads = VHK_THREADS_PER_QUEUE,
        .features = BIT(VHK_F_NET_MTU) | DEVICE_FEATURE, .attach = attach, .negotiated = negotiated, .get_config = get_config,
        .set_config = set_config,
        .queue_run = queue_run, .reset = reset, .save_state = save_state, .load_state = load_state, .shmem = &shmem_ops, .objects = &object_ops,
        .net = &net_ops, .crypto = &crypto_ops, .display = &display_ops,
};

/* ---- what both ends say of it ---- */

static struct tracer {
        pthread_mutex_t lock;
        unsigned n;
        char lines[400][400];
} traces[2] = { { .lock = PTHREAD_MUTEX_INITIALIZER }, { .lock = PTHREAD_MUTEX_INITIALIZER } };
enum { FRONT, BACK };

static void trace(void *arg, enum vhk_log_level level, const char *text) {
        struct tracer *t = arg;

        pthread_mutex_lock(&t->lock);
        if (t->n < VHK_N(t->lines))
                snprintf(t->lines[t->n++], sizeof(t->lines[0]), "%s", text);
        pthread_mutex_unlock(&t->lock);
}

/* The @i-th line that begins with @head, NULL behind the last. */
static const char *find(struct tracer *t, const char *head, unsigned i) {
        const char *line = NULL;

        pthread_mutex_lock(&t->lock);
        for (unsigned k = 0; k < t->n && !line; k++)
                if (!strncmp(t->lines[k], head, strlen(head)) && i-- == 0)
                        line = t->lines[k];
        pthread_mutex_unlock(&t->lock);
        return line;
}

/* ---- the front-end's side ---- */

static struct pair p, other;
static struct vhk_objects *table;
static unsigned n_config, n_gone, n_called, n_broken, n_missed, n_notifiers, n_taken_away, n_mapped;
static uint64_t notifier_offset;
static bool refuses_notifier, refuses_miss;
static uint8_t *window;

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_config += ev == VHK_FRONTEND_CONFIG_CHANGED;
        n_gone += ev == VHK_FRONTEND_GONE;
}

static void on_queue(void *arg, unsigned queue, enum vhk_frontend_queue_event ev) {
        CHECK_EQ(vhk_frontend_kick_queue(p.f, 0), -EDEADLK);
        n_called += ev == VHK_FRONTEND_QUEUE_CALLED;
        n_broken += ev == VHK_FRONTEND_QUEUE_BROKEN;
}

static int on_notifier(void *arg, unsigned queue, int fd, uint64_t offset) {
        n_notifiers += fd >= 0;
        n_taken_away += fd < 0;
        notifier_offset = offset;
        return refuses_notifier ? -EPERM : 0;
}

static int on_miss(void *arg, uint64_t iova, uint32_t access, struct vhk_translation *ret_t) {
        n_missed++;
        ret_t->iova = ret_t->gpa = iova - iova % PAGE;
        ret_t->len = PAGE;
        ret_t->access = VHK_ACCESS_BOTH;
        return refuses_miss ? -EFAULT : 0;
}

static int map(void *arg, const struct vhk_shmem_map *m) {
        void *at = mmap(window + m->offset, m->len, PROT_READ | (m->writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED, m->fd, (off_t)m->fd_offset);

        n_mapped += at != MAP_FAILED;
        return at == MAP_FAILED ? -errno : 0;
}

static void unmap(void *arg, const struct vhk_shmem_map *m) {
        if (mmap(window + m->offset, m->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
                n_mapped--;
}

static int get_display_info(void *arg, struct vhk_display_info *ret_info) {
        return 0;
}

/* What a row needs that would be in the way of others. */
enum { RECONNECT = 1, POSTCOPY = 2, NO_SLOTS = 4, MISSES = 8, SHORT_LIMIT = 16, DISPLAY = 32 };

static struct pair_options options_for(unsigned needs, bool frontend_listens) {
        static const struct vhk_frontend_shmem shmem = { .size = sizeof(shmem), .map = map, .unmap = unmap };
        static const struct vhk_frontend_display display = { .size = sizeof(display), .get_info = get_display_info };

        return (struct pair_options){
                .ops = &device_ops, .n_homes = 2, .frontend_listens = frontend_listens,
                .back = { .features_offer = BIT(VHK_F_ACCESS_PLATFORM), .limit_ns = needs & SHORT_LIMIT ? 50000000 : 0,
                          .protocol_offer = BIT(VHK_PF_INBAND_NOTIFICATIONS) | BIT(VHK_PF_CROSS_ENDIAN) | BIT(VHK_PF_HOST_NOTIFIER) |
                                            (needs & POSTCOPY ? BIT(VHK_PF_PAGEFAULT) : 0) },
                .front = { .on_event = on_event, .on_queue = on_queue, .on_notifier = on_notifier, .shmem = &shmem, .objects = table, .iommu = 1,
                           .display = needs & DISPLAY ? &display : NULL,
                           .on_miss = needs & MISSES ? on_miss : NULL, .reconnect_ns = needs & RECONNECT ? 20000000 : 0,
                           .protocol_no_offer = needs & NO_SLOTS ? BIT(VHK_PF_CONFIGURE_MEM_SLOTS) : 0 },
        };
}

static void set_features(uint64_t more) {
        CHECK_OK(vhk_frontend_set_features(p.f, BIT(VHK_F_VERSION_1) | more));
}

static struct vhk_frontend_info info(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_frontend_get_info(p.f, &i));
        return i;
}

static void serve_channel(int ms) {
        struct vhk_frontend *all[2] = { p.f, other.f };

        for (unsigned i = 0; i < 2; i++)
                if (all[i] && poll(&(struct pollfd){ .fd = vhk_frontend_get_fd(all[i]), .events = POLLIN }, 1, i ? 0 : ms) > 0)
                        (void)vhk_frontend_dispatch(all[i]);
}

/* Serves the device until @cond; @what did not come otherwise. */
#define WAIT_FOR(cond)                                                  \
        do {                                                            \
                for (unsigned i_ = 0; !(cond); i_++) {                  \
                        CHECK_MSG(i_ < 5000, "not seen: %s", #cond);    \
                        serve_channel(1);                               \
                }                                                       \
        } while (0)

/* ---- errands of the device ---- */

static int outcome, found = -1;
static unsigned n_done;

static void on_done(void *arg, int error) {
        outcome = error;
        __atomic_add_fetch(&n_done, 1, __ATOMIC_RELEASE);       /* pairs with errand() */
}

static void on_found(void *arg, int error, int fd) {
        found = fd;
        on_done(arg, error);
}

static unsigned done(void) {
        return __atomic_load_n(&n_done, __ATOMIC_ACQUIRE);
}

/* What came of one that gave @k when it was begun, and @before were done. */
static int end_of_errand(unsigned before, int k) {
        if (k < 0)
                return k;
        WAIT_FOR(done() != before);
        return outcome;
}
#define ERRAND(call) end_of_errand(done(), call)

static struct vhk_host *host(void) {
        return devices[0].host;
}

/* ---- a ring that is written by hand ---- */

static struct {
        struct vhk_memory *m;
        uint8_t *base;
        uint64_t gpa;
        struct vhk_ring_setup s;
} ring;

/* The areas a page each, the data behind them. Nothing is said yet. */
static void make_ring(void) {
        void *base;
        vhk_gpa_t gpa;

        CHECK_OK(vhk_memory_new(&ring.m));
        CHECK_OK(vhk_memory_alloc(ring.m, 4 * PAGE, &base));
        CHECK_OK(vhk_memory_find(ring.m, base, 4 * PAGE, &gpa));
        ring.base = base;
        ring.gpa = gpa.v;
        ring.s = (struct vhk_ring_setup){ .size = sizeof(ring.s), .num = 16, .desc = ring.gpa, .driver = ring.gpa + PAGE,
                                          .device = ring.gpa + 2 * PAGE };
        ring.s.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ring.s.call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ring.s.err_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        CHECK(ring.s.kick_fd >= 0 && ring.s.call_fd >= 0 && ring.s.err_fd >= 0);
}

static void forget_ring(void) {
        ring.m = vhk_memory_free(ring.m);
        vhk_close(&ring.s.kick_fd);
        vhk_close(&ring.s.call_fd);
        vhk_close(&ring.s.err_fd);
}

static void lose_fd(int *fd) {
        vhk_close(fd);
        *fd = -1;
}

static int start_ring(void) {
        int k = vhk_frontend_set_memory(p.f, ring.m);

        return k < 0 ? k : vhk_frontend_start_queue(p.f, 0, &ring.s);
}

static uint16_t index_at(uint64_t page) {
        return __atomic_load_n((uint16_t *)(ring.base + page * PAGE + 2), __ATOMIC_ACQUIRE);
}

/* Offers the chain that begins at @head: 0 is one buffer of 4 bytes for the device. */
static void offer(uint16_t head) {
        struct vhk_desc d = { .addr = vhk_le64_of(ring.gpa + 3 * PAGE), .len = vhk_le32_of(4), .flags = vhk_le16_of(2) };
        uint16_t idx = index_at(1);

        memcpy(ring.base, &d, sizeof(d));
        memset(ring.base + 3 * PAGE, 0, 4);
        memcpy(ring.base + PAGE + 4 + 2 * (idx % ring.s.num), &head, 2);
        __atomic_store_n((uint16_t *)(ring.base + PAGE + 2), (uint16_t)(idx + 1), __ATOMIC_RELEASE);
        if (ring.s.kick_fd >= 0)
                CHECK_OK(vhk_notify_fd(ring.s.kick_fd));
}

static bool is_served(void) {
        return index_at(2) == index_at(1) && !memcmp(ring.base + 3 * PAGE, "used", 4);
}

/* The ring works. */
static void run_ring(void) {
        CHECK_OK(start_ring());
        offer(0);
        WAIT_FOR(is_served());
}

static bool is_signalled(int fd) {
        return poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) == 1;
}

static struct vhk_req *held(void) {
        return __atomic_load_n(&devices[0].held, __ATOMIC_ACQUIRE);
}

/* The device has a request and keeps it. */
static void hold_request(void) {
        set_features(0);
        make_ring();
        __atomic_store_n(&devices[0].holds, true, __ATOMIC_RELEASE);
        CHECK_OK(start_ring());
        offer(0);
        WAIT_FOR(held());
}

static void refuse_from_now_on(void) {
        __atomic_store_n(&devices[0].refuses, true, __ATOMIC_RELEASE);
}

/* Memory whose file ends before it does. */
static void make_hollow_memory(void) {
        int fd = memfd_create("hollow", MFD_CLOEXEC);

        CHECK_OK(vhk_memory_new(&ring.m));
        CHECK(fd >= 0 && !ftruncate(fd, 2 * PAGE));
        void *va = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_SHARED, fd, 0);
        CHECK_OK(vhk_memory_add(ring.m, &(struct vhk_region){ .size = sizeof(struct vhk_region), .va = va, .len = 2 * PAGE, .fd = fd }));
        CHECK(!ftruncate(fd, PAGE) && !munmap(va, 2 * PAGE));
        close(fd);
}
