/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Callers that were compiled with another version of the headers: each public struct that begins with its size is handed in shorter and
 * longer than this library knows it. Shorter down to the members that are needed; longer as long as what is not known is 0; what
 * the library fills never goes beyond the caller's end.
 */
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <vhostkit/display.h>
#include <vhostkit/migration.h>

#include "base/struct.h"
#include "pair.h"

#define EXTRA 32u                       /* bytes of a newer version */

static struct vhk_memory *memory;
static struct vhk_worker *worker;
static struct pair p;
static struct vhk_error err;
static int memfd;
static uint64_t gpa;
static const char *nowhere = "/nonexistent/vhostkit";

static void run(void *dev, struct vhk_queue *q) {
}

static int get_sizes(void *dev, uint64_t ret_sizes[VHK_SHMEM_REGIONS]) {
        return 0;
}

static int64_t create_session(void *dev, enum vhk_crypto_form form, const void *session) {
        return 1;
}

static int close_session(void *dev, uint64_t id) {
        return 0;
}

static int map_it(void *arg, const struct vhk_shmem_map *m) {
        return 0;
}

static void unmap_it(void *arg, const struct vhk_shmem_map *m) {
}

static int get_display(void *arg, struct vhk_display_info *ret_i) {
        return 0;
}

static int set_watch(void *loop, int fd, uint32_t events, struct vhk_watch *w) {
        return 0;
}

static void del_watch(void *loop, int fd, struct vhk_watch *w) {
}

static const struct vhk_device_ops device = { .size = sizeof(device), .virtio_id = 4, .n_queues = 2, .queue_size_max = 64, .queue_run = run };

/* ---- what takes a struct ---- */

static int use_frontend_options(const void *s) {
        struct vhk_frontend *f;

        return vhk_frontend_open(nowhere, s, &f, &err);
}

static int use_shmem(const void *s) {
        return use_frontend_options(&(struct vhk_frontend_options){ .size = sizeof(struct vhk_frontend_options), .shmem = s });
}

static int use_display(const void *s) {
        return use_frontend_options(&(struct vhk_frontend_options){ .size = sizeof(struct vhk_frontend_options), .display = s });
}

static int use_ring_setup(const void *s) {
        int k = vhk_frontend_start_queue(p.f, 0, s);

        if (k == 0)
                CHECK_OK(vhk_frontend_stop_queue(p.f, 0, NULL));
        return k;
}

static int use_translation(const void *s) {
        return vhk_frontend_iotlb_update(p.f, s);
}

static int use_region(const void *s) {
        struct vhk_memory *m;

        CHECK_OK(vhk_memory_new(&m));
        int k = vhk_memory_add(m, s);
        vhk_memory_free(m);
        return k;
}

static int open_backend(const struct vhk_backend_options *o, const struct vhk_device_ops *ops) {
        struct vhk_backend *b;

        int k = vhk_backend_open(nowhere, o, ops, NULL, &b, &err);
        CHECK(k < 0);                   /* -ENOENT: everything else was right */
        return k;
}

static int use_backend_options(const void *s) {
        return open_backend(s, &device);
}

static int use_device_ops(const void *s) {
        return open_backend(&(struct vhk_backend_options){ .size = sizeof(struct vhk_backend_options), .control = worker }, s);
}

/* A group of operations: the member of struct vhk_device_ops that points to it. */
#define USE_GROUP(name, group)                                                          \
        static int use_##name(const void *s)                                            \
        {                                                                               \
                struct vhk_device_ops ops = device;                                     \
                ops.group = s;                                                          \
                return use_device_ops(&ops);                                            \
        }
USE_GROUP(shmem_ops, shmem)
USE_GROUP(objects, objects)
USE_GROUP(net, net)
USE_GROUP(crypto, crypto)
USE_GROUP(display_ops, display)

static int use_loop_ops(const void *s) {
        struct vhk_worker *w;

        int k = vhk_worker_new(s, NULL, &w);
        if (k == 0)
                vhk_worker_free(w);
        return k;
}

/* ---- what fills a struct ---- */

static int fill_info(void *s) {
        return vhk_frontend_get_info(p.f, s);
}

static int fill_region(void *s) {
        return vhk_memory_get_region(memory, 0, s);
}

static int fill_metrics(void *s) {
        return vhk_backend_get_metrics(p.b, 0, s);
}

/* ---- the rig ---- */

static void begin(void) {
        struct pair_options o = { .ops = &device, .back.features_offer = 1ull << 33, .front.iommu = 1 };
        vhk_gpa_t at;
        void *va;

        int k = pair_open(&p, &o);
        CHECK_MSG(k == 0, "%s", p.error.text);
        CHECK_OK(vhk_worker_new(NULL, NULL, &worker));
        CHECK_OK(vhk_memory_new(&memory));
        CHECK_OK(vhk_memory_alloc(memory, 0x10000, &va));
        CHECK_OK(vhk_memory_find(memory, va, 1, &at));
        gpa = at.v;
        memfd = memfd_create("region", MFD_CLOEXEC);
        CHECK_OK(ftruncate(memfd, 4096));
        CHECK_OK(vhk_frontend_set_features(p.f, 1ull << 32 | 1ull << 33));
        CHECK_OK(vhk_frontend_set_memory(p.f, memory));
}

static void end(void) {
        pair_close(&p);
        memory = vhk_memory_free(memory);
        worker = vhk_worker_free(worker);
        close(memfd);
}

#define S(type, last) sizeof(struct type), VHK_STRUCT_UP_TO(struct type, last)

TEST(structs_of_older_and_newer_callers_are_taken) {
        begin();
        struct vhk_frontend_options frontend = { .size = sizeof(frontend) };
        struct vhk_frontend_shmem shmem = { .size = sizeof(shmem), .map = map_it, .unmap = unmap_it };
        struct vhk_frontend_display display = { .size = sizeof(display), .get_info = get_display };
        struct vhk_ring_setup setup = { .size = sizeof(setup), .num = 16, .desc = gpa, .driver = gpa + 0x1000, .device = gpa + 0x2000, .kick_fd = -1,
                .call_fd = -1, .err_fd = -1 };
        struct vhk_translation translation = { .size = sizeof(translation), .iova = gpa, .gpa = gpa, .len = 4096, .access = VHK_ACCESS_BOTH };
        struct vhk_region region = { .size = sizeof(region), .gpa = { 4096 }, .va = (void *)0x700000000000, .len = 4096, .fd = memfd };
        struct vhk_backend_options backend = { .size = sizeof(backend), .control = worker };
        struct vhk_shmem_ops shmem_ops = { .size = sizeof(shmem_ops), .get_config = get_sizes };
        struct vhk_object_ops objects = { .size = sizeof(objects) };
        struct vhk_net_ops net = { .size = sizeof(net) };
        struct vhk_crypto_ops crypto = { .size = sizeof(crypto), .create_session = create_session, .close_session = close_session };
        struct vhk_display_ops display_ops = { .size = sizeof(display_ops) };
        struct vhk_loop_ops loop = { .size = sizeof(loop), .set = set_watch, .del = del_watch };
        const struct { const char *name; const void *s; size_t size, least; int (*use)(const void *s); int right; } rows[] = {
                { "frontend_options", &frontend, S(vhk_frontend_options, trace_arg), use_frontend_options, -ENOENT },
                { "frontend_shmem", &shmem, S(vhk_frontend_shmem, arg), use_shmem, -ENOENT },
                { "frontend_display", &display, S(vhk_frontend_display, arg), use_display, -ENOENT },
                { "ring_setup", &setup, S(vhk_ring_setup, err_fd), use_ring_setup, 0 },
                { "translation", &translation, S(vhk_translation, access), use_translation, 0 },
                { "region", &region, S(vhk_region, fd_offset), use_region, 0 },
                { "backend_options", &backend, S(vhk_backend_options, limit_ns), use_backend_options, -ENOENT },
                { "device_ops", &device, S(vhk_device_ops, reset), use_device_ops, -ENOENT },
                { "shmem_ops", &shmem_ops, S(vhk_shmem_ops, get_config), use_shmem_ops, -ENOENT },
                { "object_ops", &objects, S(vhk_object_ops, get), use_objects, -ENOENT },
                { "net_ops", &net, S(vhk_net_ops, set_mtu), use_net, -ENOENT },
                { "crypto_ops", &crypto, S(vhk_crypto_ops, close_session), use_crypto, -ENOENT },
                { "display_ops", &display_ops, S(vhk_display_ops, closed), use_display_ops, -ENOENT },
                { "loop_ops", &loop, S(vhk_loop_ops, del), use_loop_ops, 0 },
        };

        for (size_t i = 0; i < VHK_N(rows); i++)
                for (size_t size = 0; size <= rows[i].size + EXTRA; size += 4)
                        for (int is_used = 0; is_used < (size > rows[i].size ? 2 : 1); is_used++) {
                                uint8_t *s = calloc(1, size + sizeof(size));
                                int right = size < rows[i].least ? -EINVAL : rows[i].right;
                                memcpy(s, rows[i].s, size < rows[i].size ? size : rows[i].size);
                                memcpy(s, &size, sizeof(size));
                                if (is_used) {
                                        s[size - 1] = 1;
                                        right = -E2BIG;
                                }
                                if (size >= rows[i].size)       /* exactly as long as it says, for a sanitizer */
                                        s = realloc(s, size);
                                int k = rows[i].use(s);
                                CHECK_MSG(k == right, "struct vhk_%s of %zu bytes%s: %d (%s), expected %d", rows[i].name, size,
                                          is_used ? ", the last of which is used" : "", k, err.text, right);
                                free(s);
                        }
        end();
}

TEST(structs_of_older_and_newer_callers_are_filled_and_nothing_beyond) {
        static const struct { const char *name; size_t size; int (*fill)(void *s); } rows[] = {
                { "frontend_info", sizeof(struct vhk_frontend_info), fill_info },
                { "region", sizeof(struct vhk_region), fill_region },
                { "ring_metrics", sizeof(struct vhk_ring_metrics), fill_metrics },
        };

        begin();
        for (size_t i = 0; i < VHK_N(rows); i++) {
                uint8_t whole[512] = { 0 };
                memcpy(whole, &rows[i].size, sizeof(size_t));
                CHECK_OK(rows[i].fill(whole));
                for (size_t size = 0; size <= rows[i].size + EXTRA; size += 4) {
                        uint8_t s[512];
                        memset(s, 0xee, sizeof(s));
                        memcpy(s, &size, sizeof(size));
                        int k = rows[i].fill(s);
                        CHECK_MSG(k == (size < sizeof(size) ? -EINVAL : 0), "struct vhk_%s of %zu bytes: %d", rows[i].name, size, k);
                        CHECK(!memcmp(s, &size, sizeof(size)));
                        for (size_t j = sizeof(size); j < sizeof(s); j++)
                                CHECK_MSG(s[j] == (k < 0 || j >= size ? 0xee : whole[j]), "struct vhk_%s of %zu bytes: byte %zu is 0x%x", rows[i].name, size, j,
                                          s[j]);
                }
        }
        end();
}
