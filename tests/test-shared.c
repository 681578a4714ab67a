/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What devices share, through both ends of the library, whoever listens: a device maps a file into its shared memory region and
 * the front-end's program sees it; an object that one device adds is found by another.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <vhostkit/vhostkit.h>

#include "base/test.h"

#define PAGE 4096ul
#define REGION (8 * PAGE)
#define N 2

static const uint8_t uuid[16] = "an object to see";

static struct side {
        /* the device and its back-end: their thread's, until it has ended */
        struct vhk_backend *b;
        struct vhk_host *host;
        int object;                     /* given out as often as it is wanted */
        char path[80];
        /* the front-end: the test's thread's */
        struct vhk_frontend *f;
        uint8_t *window;
        unsigned n_mapped;
} sides[N];
static struct vhk_worker *control;
static enum vhk_socket_mode mode;
static unsigned n_ended;                /* control's */

/* ---- the devices ---- */

static int attach(void *dev, struct vhk_host *h) {
        ((struct side *)dev)->host = h;
        return 0;
}

static void queue_run(void *dev, struct vhk_queue *q) {
}

static int get_config(void *dev, uint64_t sizes[VHK_SHMEM_REGIONS]) {
        sizes[5] = REGION;
        return 0;
}

static int get_object(void *dev, const uint8_t id[16], int *ret_fd) {
        struct side *s = dev;

        *ret_fd = memcmp(id, uuid, 16) ? -1 : fcntl(s->object, F_DUPFD_CLOEXEC, 0);
        return *ret_fd < 0 ? -ENOENT : 0;
}

static const struct vhk_shmem_ops shmem = { .size = sizeof(shmem), .get_config = get_config };
static const struct vhk_object_ops objects = { .size = sizeof(objects), .get = get_object };
static const struct vhk_device_ops device = { .size = sizeof(device), .virtio_id = 26, .n_queues = 1, .queue_size_max = 16, .attach = attach,
                                              .queue_run = queue_run, .shmem = &shmem, .objects = &objects };

static void on_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        struct side *s = arg;

        if (ev == VHK_BACKEND_ENDED) {
                s->b = vhk_backend_free(s->b);
                n_ended++;
        }
}

static unsigned ready;

static void *run(void *arg) {
        for (unsigned i = 0; i < N; i++) {
                struct vhk_backend_options o = { .size = sizeof(o), .control = control, .on_event = on_event, .event_arg = &sides[i],
                                                 .mode = mode == VHK_SOCKET_LISTEN ? VHK_SOCKET_CONNECT : VHK_SOCKET_LISTEN };
                struct vhk_error e;
                CHECK_MSG(vhk_backend_open(sides[i].path, &o, &device, &sides[i], &sides[i].b, &e) == 0, "%s", e.text);
                __atomic_store_n(&ready, i + 1, __ATOMIC_RELEASE);
                if (mode == VHK_SOCKET_LISTEN)          /* the other one's front-end comes only after this one's */
                        vhk_worker_dispatch(control, 20);
                while (mode == VHK_SOCKET_LISTEN && i + 1 < N && !__atomic_load_n(&sides[i].f, __ATOMIC_ACQUIRE))
                        vhk_worker_dispatch(control, 5);
        }
        while (n_ended < N)
                vhk_worker_dispatch(control, 100);
        return NULL;
}

/* ---- the front-ends ---- */

static int map(void *arg, const struct vhk_shmem_map *m) {
        struct side *s = arg;
        void *at = mmap(s->window + m->offset, m->len, PROT_READ | (m->writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED, m->fd, (off_t)m->fd_offset);

        s->n_mapped += at != MAP_FAILED;
        return at == MAP_FAILED ? -errno : 0;
}

static void unmap(void *arg, const struct vhk_shmem_map *m) {
        struct side *s = arg;

        CHECK(mmap(s->window + m->offset, m->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
        s->n_mapped--;
}

static void open_front_end(struct side *s, struct vhk_objects *table) {
        struct vhk_frontend_shmem c = { .size = sizeof(c), .map = map, .unmap = unmap, .arg = s };
        struct vhk_frontend_options o = { .size = sizeof(o), .mode = mode, .connect_ns = 10000000000u, .shmem = &c, .objects = table };
        struct vhk_frontend *f;
        struct vhk_error e;

        s->window = mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(s->window != MAP_FAILED);
        CHECK_MSG(vhk_frontend_open(s->path, &o, &f, &e) == 0, "%s", e.text);
        __atomic_store_n(&s->f, f, __ATOMIC_RELEASE);
        CHECK_EQ(vhk_frontend_set_features(f, 1ull << 32), 0);  /* and the channel is there */
}

/* ---- errands: done on the devices' thread, awaited here ---- */

static int outcome, found;
static unsigned is_done;

static void on_done(void *arg, int error) {
        outcome = error;
        __atomic_store_n(&is_done, 1, __ATOMIC_RELEASE);
}

static void on_found(void *arg, int error, int fd) {
        found = fd;
        on_done(arg, error);
}

static int wait_for(int k) {
        if (k < 0)
                return k;
        for (unsigned i = 0; i < 10000 && !__atomic_load_n(&is_done, __ATOMIC_ACQUIRE); i++)
                for (unsigned j = 0; j < N; j++) {
                        struct pollfd p = { .fd = vhk_frontend_get_fd(sides[j].f), .events = POLLIN };
                        if (poll(&p, 1, 1) > 0)
                                CHECK_OK(vhk_frontend_dispatch(sides[j].f));
                }
        CHECK_MSG(is_done, "an errand never ended");
        is_done = 0;
        return outcome;
}

static void check_shmem(struct side *s) {
        struct vhk_shmem_map m = { .size = sizeof(m), .id = 5, .offset = 2 * PAGE, .len = 2 * PAGE, .fd = memfd_create("shared", MFD_CLOEXEC), .writable = 1,
                                   .fd_offset = PAGE };
        uint64_t sizes[VHK_SHMEM_REGIONS];
        char text[8] = "";

        CHECK_EQ(vhk_frontend_get_shmem_config(s->f, sizes), 1);
        CHECK_EQ(sizes[5], REGION);
        CHECK(ftruncate(m.fd, 3 * PAGE) == 0 && pwrite(m.fd, "hello", 5, PAGE) == 5);
        CHECK_EQ(wait_for(vhk_host_shmem_map(s->host, &m, on_done, NULL)), 0);
        CHECK_EQ(s->n_mapped, 1);
        CHECK(!memcmp(s->window + 2 * PAGE, "hello", 5));
        memcpy(s->window + 3 * PAGE, "back", 4);
        CHECK(pread(m.fd, text, 4, 2 * PAGE) == 4 && !memcmp(text, "back", 4));
        CHECK_EQ(wait_for(vhk_host_shmem_map(s->host, &m, on_done, NULL)), -EREMOTEIO);         /* in its own way */
        CHECK_EQ(wait_for(vhk_host_shmem_unmap(s->host, 5, 2 * PAGE, PAGE, on_done, NULL)), -EREMOTEIO);
        CHECK_EQ(wait_for(vhk_host_shmem_unmap(s->host, 5, 2 * PAGE, 2 * PAGE, on_done, NULL)), 0);
        CHECK_EQ(s->n_mapped, 0);
        CHECK_EQ(wait_for(vhk_host_shmem_map(s->host, &m, on_done, NULL)), 0);
        CHECK_OK(vhk_frontend_reset(s->f));
        CHECK_EQ(s->n_mapped, 0);
        CHECK_EQ(wait_for(vhk_host_shmem_map(s->host, &m, on_done, NULL)), 0);                  /* stays until the end */
        close(m.fd);
}

static void check_objects(void) {
        struct stat x, y;

        CHECK_EQ(wait_for(vhk_host_object_lookup(sides[1].host, uuid, on_found, NULL)), -EREMOTEIO);
        CHECK_EQ(found, -1);
        CHECK_EQ(wait_for(vhk_host_object_add(sides[0].host, uuid, on_done, NULL)), 0);
        CHECK_EQ(wait_for(vhk_host_object_add(sides[1].host, uuid, on_done, NULL)), -EREMOTEIO);
        CHECK_EQ(wait_for(vhk_host_object_lookup(sides[1].host, uuid, on_found, NULL)), 0);
        CHECK(fstat(found, &x) == 0 && fstat(sides[0].object, &y) == 0 && x.st_ino == y.st_ino);
        close(found);
        CHECK_EQ(wait_for(vhk_host_object_remove(sides[1].host, uuid, on_done, NULL)), -EREMOTEIO);
        CHECK_EQ(wait_for(vhk_host_object_remove(sides[0].host, uuid, on_done, NULL)), 0);
        CHECK_EQ(wait_for(vhk_host_object_lookup(sides[1].host, uuid, on_found, NULL)), -EREMOTEIO);
}

static void both_ends(enum vhk_socket_mode who_listens) {
        char dir[] = "/tmp/vhk-test-shared-XXXXXX";
        struct vhk_objects *table;
        pthread_t thread;

        mode = who_listens;
        n_ended = ready = 0;
        CHECK(mkdtemp(dir));
        CHECK_OK(vhk_objects_new(&table));
        CHECK_OK(vhk_worker_new(NULL, NULL, &control));
        for (unsigned i = 0; i < N; i++) {
                sides[i] = (struct side){ .object = memfd_create("object", MFD_CLOEXEC) };
                snprintf(sides[i].path, sizeof(sides[i].path), "%s/%u", dir, i);
        }
        pthread_create(&thread, NULL, run, NULL);
        for (unsigned i = 0; i < N; i++)
                open_front_end(&sides[i], table);
        check_shmem(&sides[0]);
        check_objects();
        for (unsigned i = 0; i < N; i++) {
                sides[i].f = vhk_frontend_close(sides[i].f);
                CHECK_EQ(sides[i].n_mapped, 0);
                if (mode != VHK_SOCKET_LISTEN)          /* else it ends with its only front-end */
                        CHECK_OK(vhk_backend_stop(sides[i].b, VHK_STOP_DRAIN, 0));
        }
        pthread_join(thread, NULL);
        for (unsigned i = 0; i < N; i++) {
                munmap(sides[i].window, REGION);
                close(sides[i].object);
        }
        vhk_worker_free(control);
        CHECK(!vhk_objects_free(table));
        CHECK_OK(rmdir(dir));
}

TEST(the_back_end_listens) {
        both_ends(VHK_SOCKET_CONNECT);
}

TEST(the_front_end_listens) {
        both_ends(VHK_SOCKET_LISTEN);
}
