/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The block device on a real ring in process, for its tests: a small driver writes chains into lent memory, the device's
 * callbacks are called as a back-end would.
 */
#pragma once

#include "base/test.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <vhostkit/worker.h>

#include "device/blk.h"
#include "ring/ring.h"

#define MEM_BYTES (16u << 20)
#define MEM_GPA 0x100000u
#define RING 256u
#define DISK (4u << 20)
#define FLUSH VHK_BIT(VIRTIO_BLK_F_FLUSH)
#define WCE VHK_BIT(VIRTIO_BLK_F_CONFIG_WCE)

/* ---- a machine: memory, one ring, the device ---- */

struct machine {
        struct vhk_memmap *map;
        uint8_t *mem;           /* the driver's own mapping */
        size_t n_mem;           /* given out */
        struct vhk_worker *worker;
        struct vhk_queue *q;
        struct vhk_ring_config *config;
        struct vhk_desc *desc;
        struct vhk_avail *avail;
        struct vhk_used *used;
        uint16_t n_desc, n_avail, n_used;
        bool has_settled, is_broken;
        struct vhk_blkdev *d;
        struct vhk_device_ops ops;
        char path[64];
        int fd;                 /* the file, for looking at it */
};

static VHK_UNUSED char n_logged, last_log[300];

static inline void on_log(void *arg, enum vhk_log_level level, const char *text) {
        n_logged++;
        snprintf(last_log, sizeof(last_log), "%s", text);
}

/* Who serves the device here. */
static int n_changed;

int vhk_host_config_changed(struct vhk_host *h) {
        n_changed++;
        return 0;
}

static inline void on_broken(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule) {
        ((struct machine *)owner)->is_broken = true;
}

static inline void on_settled(void *owner, struct vhk_queue *q) {
        ((struct machine *)owner)->has_settled = true;
}

/* A run ends when its time is over: as a back-end does, run until nothing is taken. */
static inline void on_run(void *owner, struct vhk_queue *q) {
        struct machine *m = owner;
        uint16_t before;

        do {
                before = vhk_queue_get_position(q);
                m->ops.queue_run(m->d, q);
        } while (before != vhk_queue_get_position(q));
}

static const struct vhk_queue_owner_ops owner_ops = { on_broken, on_settled, on_run };

static inline void *alloc(struct machine *m, size_t n, size_t align) {
        m->n_mem = (m->n_mem + align - 1) / align * align;
        CHECK(m->n_mem + n <= MEM_BYTES);
        m->n_mem += n;
        return m->mem + m->n_mem - n;
}

static inline void *of_device(struct machine *m, const void *p) {
        return (uint8_t *)m->map->regs[0].host + ((const uint8_t *)p - m->mem);
}

static inline void make_memory(struct machine *m) {
        VHK_AUTOCLOSE int fd = memfd_create("guest", MFD_CLOEXEC);
        struct vhk_memmap *none;

        CHECK(fd >= 0 && !ftruncate(fd, MEM_BYTES));
        m->mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(m->mem != MAP_FAILED);
        struct vhk_region_desc r = { { MEM_GPA }, { (uintptr_t)m->mem }, MEM_BYTES, 0, fd };
        CHECK_OK(vhk_memmap_new(&none));
        CHECK_OK(vhk_memmap_add(none, &r, &m->map, NULL));
        vhk_memmap_unref(none);
}

static inline void make_file(struct machine *m, const char *dir, uint64_t size) {
        snprintf(m->path, sizeof(m->path), "%s/vhk-test-blk-XXXXXX", dir);
        m->fd = mkstemp(m->path);
        CHECK(m->fd >= 0);
        CHECK(!ftruncate(m->fd, (off_t)size));
        for (uint64_t off = 0; off < size; off += 65536) {
                uint8_t b[65536];
                for (unsigned i = 0; i < sizeof(b); i++)
                        b[i] = (uint8_t)(((off + i) / 7) ^ (off >> 16));
                CHECK(pwrite(m->fd, b, VHK_MIN(size - off, sizeof(b)), (off_t)off) > 0);
        }
}

static inline int start_device(struct machine *m, struct vhk_blkdev_options *o, uint64_t features, struct vhk_error *e) {
        o->size = sizeof(*o);
        if (!o->path && m->path[0])
                o->path = m->path;
        o->log = on_log;
        if (!o->queue_size)
                o->queue_size = RING;
        int k = vhk_blkdev_open(o, &m->d, e);
        if (k < 0)
                return k;
        m->ops.size = sizeof(m->ops);
        CHECK_OK(vhk_blkdev_get_ops(m->d, &m->ops));
        CHECK_OK(m->ops.negotiated(m->d, features));
        return 0;
}

static inline void start_ring(struct machine *m) {
        m->desc = alloc(m, vhk_desc_bytes(RING), 16);
        m->avail = alloc(m, vhk_avail_bytes(RING), 2);
        m->used = alloc(m, vhk_used_bytes(RING), 4);
        struct vhk_ring_config c = { .mem = m->map, .num = RING, .enabled = true, .desc = of_device(m, m->desc),
                                     .avail = of_device(m, m->avail), .used = of_device(m, m->used) };
        CHECK_OK(vhk_ring_config_new(&c, &m->config));
        CHECK_OK(vhk_worker_new(NULL, NULL, &m->worker));
        CHECK_OK(vhk_queue_new(0, RING, m->ops.req_size, m->worker, &owner_ops, m, &m->q));
        CHECK_OK(vhk_queue_start(m->q, m->config, 0, 0));
        CHECK_OK(m->ops.queue_start(m->d, m->q, m->worker));
}

static inline void start(struct machine *m, struct vhk_blkdev_options o, uint64_t features) {
        struct vhk_error e = { .text = "" };

        make_memory(m);
        CHECK_MSG(start_device(m, &o, features, &e) >= 0, "%s", e.text);
        start_ring(m);
}

static inline void stop(struct machine *m) {
        if (m->q) {
                for (int i = 0; vhk_queue_drain(m->q, true) && !m->has_settled && i < 1000; i++)
                        vhk_worker_dispatch(m->worker, 10);
                CHECK_EQ(vhk_queue_n_in_flight(m->q), 0);
                m->ops.queue_stopped(m->d, m->q);
                vhk_queue_stop(m->q);
                vhk_queue_free(m->q);
                vhk_ring_config_unref(m->config);
                vhk_worker_free(m->worker);
        }
        vhk_blkdev_close(m->d);
        vhk_memmap_unref(m->map);
        if (m->mem)
                munmap(m->mem, MEM_BYTES);
        if (m->path[0]) {
                close(m->fd);
                unlink(m->path);
        }
        *m = (struct machine){ .fd = -1 };
}

/* ---- the driver ---- */

/* One chain; returns its head. Descriptors are never reused within a test. */
static inline uint16_t add(struct machine *m, const struct iovec *v, unsigned n_out, unsigned n_in) {
        uint16_t head = m->n_desc, n = (uint16_t)(n_out + n_in);

        CHECK(n && m->n_desc + n <= RING);
        for (uint16_t i = 0; i < n; i++) {
                uint16_t flags = (uint16_t)((i + 1 < n ? VHK_DESC_NEXT : 0) | (i >= n_out ? VHK_DESC_WRITE : 0));
                m->desc[m->n_desc++] = (struct vhk_desc){
                        vhk_le64_of(MEM_GPA + (uint64_t)((uint8_t *)v[i].iov_base - m->mem)), vhk_le32_of((uint32_t)v[i].iov_len),
                        vhk_le16_of(flags), vhk_le16_of((uint16_t)(head + i + 1)),
                };
        }
        m->avail->ring[m->n_avail++ % RING] = vhk_le16_of(head);
        return head;
}

static inline void publish(struct machine *m) {
        vhk_store_release(&m->avail->idx.v, vhk_le16_of(m->n_avail).v);
        on_run(m, m->q);
}

/* Waits until all that was added is used. */
static inline void wait_all(struct machine *m) {
        for (int i = 0; i < 1000 && vhk_le16_get((vhk_le16){ vhk_load_acquire(&m->used->idx.v) }) != m->n_avail; i++)
                vhk_worker_dispatch(m->worker, 10);
        CHECK_EQ(vhk_le16_get(m->used->idx), m->n_avail);
}

static inline uint32_t used_len(struct machine *m, uint16_t head) {
        for (unsigned i = 0; i < RING; i++)
                if (vhk_le32_get(m->used->ring[i].id) == head && i < m->n_avail)
                        return vhk_le32_get(m->used->ring[i].len);
        CHECK_MSG(0, "head %u is not used", head);
        return 0;
}

static inline void forget(struct machine *m) {
        m->n_desc = 0;
}

/* How a stream of bytes is cut into buffers: sizes of the first pieces, 0 ends; the last given repeats, if any. */
struct shape {
        const char *name;
        uint16_t out[4], in[4];
        bool repeat;
};

static inline unsigned cut(const uint16_t *sizes, bool repeat, uint8_t *p, size_t n, struct iovec *v) {
        unsigned k = 0, i = 0;

        while (n) {
                size_t s = i < 4 && sizes[i] ? sizes[i] : repeat && i ? sizes[i - 1] : n;
                s = VHK_MIN(s, n);
                if (i < 4 && sizes[i])
                        i++;
                CHECK(k < 200);
                v[k++] = (struct iovec){ p, s };
                p += s;
                n -= s;
        }
        return k;
}

/* One request in one shape; the streams lie in memory one after the other. */
struct request {
        uint8_t *out, *in;      /* header and data; data and status */
        size_t n_out, n_in;
        uint16_t head;
};

static inline struct request make(struct machine *m, uint32_t type, uint64_t sector, size_t n_out, size_t n_in) {
        struct blk_header h = { vhk_le32_of(type), { 0 }, vhk_le64_of(sector) };
        struct request r = { alloc(m, 16 + n_out, 512), alloc(m, n_in + 1, 512), 16 + n_out, n_in + 1, 0 };

        memcpy(r.out, &h, sizeof(h));
        memset(r.in, 0xee, r.n_in);
        return r;
}

static inline void send(struct machine *m, struct request *r, const struct shape *s) {
        struct iovec v[RING];
        unsigned n_out = cut(s->out, s->repeat, r->out, r->n_out, v);
        unsigned n_in = cut(s->in, s->repeat, r->in, r->n_in, v + n_out);

        r->head = add(m, v, n_out, n_in);
}

static inline uint8_t status(const struct request *r) { return r->in[r->n_in - 1]; }

static VHK_UNUSED const struct shape plain = { "plain", { 16 }, { 0 }, false };

/* Sends one request, waits, checks status and used length. */
static inline void run_one(struct machine *m, struct request *r, const struct shape *s, const char *what, int want, uint32_t want_len) {
        size_t at = m->n_mem;

        send(m, r, s);
        publish(m);
        wait_all(m);
        CHECK_MSG(status(r) == want, "%s, shape %s: status %u, expected %d", what, s->name, status(r), want);
        CHECK_MSG(used_len(m, r->head) == want_len, "%s, shape %s: used.len %u, expected %u", what, s->name, used_len(m, r->head), want_len);
        memset(m->used->ring, 0xff, RING * sizeof(m->used->ring[0]));   /* heads are used again */
        forget(m);
        m->n_mem = at;
}

static inline void fill(uint8_t *p, size_t n, unsigned seed) {
        for (size_t i = 0; i < n; i++)
                p[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
}

static inline void check_file(struct machine *m, uint64_t off, const void *want, size_t n, const char *what) {
        VHK_AUTOFREE uint8_t *b = malloc(n);

        CHECK(pread(m->fd, b, n, (off_t)off) == (ssize_t)n);
        CHECK_MSG(!memcmp(b, want, n), "%s: the file differs", what);
}

static inline bool has_engine(enum vhk_blkdev_engine e) {
        return e != VHK_BLKDEV_IO_URING || blk_uring_probe() >= 0;
}

static const enum vhk_blkdev_engine engines[] = { VHK_BLKDEV_SYNC, VHK_BLKDEV_IO_URING };
#define FOR_ENGINES(e) for (unsigned i_ = 0; i_ < VHK_N(engines); i_++) if (has_engine(engines[i_])) for (int e = (int)engines[i_]; e >= 0; e = -1)

static inline const char *tmp(void) {
        return getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
}
