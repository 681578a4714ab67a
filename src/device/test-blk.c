/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The block device on real rings in process: a small driver writes chains into lent memory, the device's callbacks are
 * called as a back-end would, and the file is compared.
 */
#include "base/test.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <linux/virtio_blk.h>
#include <sys/ioctl.h>
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

static char n_logged, last_log[300];

static void on_log(void *arg, enum vhk_log_level level, const char *text) {
        n_logged++;
        snprintf(last_log, sizeof(last_log), "%s", text);
}

static void on_broken(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule) {
        ((struct machine *)owner)->is_broken = true;
}

static void on_settled(void *owner, struct vhk_queue *q) {
        ((struct machine *)owner)->has_settled = true;
}

static void on_run(void *owner, struct vhk_queue *q) {
        struct machine *m = owner;
        m->ops.queue_run(m->d, q);
}

static const struct vhk_queue_owner_ops owner_ops = { on_broken, on_settled, on_run };

static void *alloc(struct machine *m, size_t n, size_t align) {
        m->n_mem = (m->n_mem + align - 1) / align * align;
        CHECK(m->n_mem + n <= MEM_BYTES);
        m->n_mem += n;
        return m->mem + m->n_mem - n;
}

static void *of_device(struct machine *m, const void *p) {
        return (uint8_t *)m->map->regs[0].host + ((const uint8_t *)p - m->mem);
}

static void make_memory(struct machine *m) {
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

static void make_file(struct machine *m, const char *dir, uint64_t size) {
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

static int start_device(struct machine *m, struct vhk_blkdev_options *o, uint64_t features, struct vhk_error *e) {
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

static void start_ring(struct machine *m) {
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

static void start(struct machine *m, struct vhk_blkdev_options o, uint64_t features) {
        struct vhk_error e = { .text = "" };

        make_memory(m);
        CHECK_MSG(start_device(m, &o, features, &e) >= 0, "%s", e.text);
        start_ring(m);
}

static void stop(struct machine *m) {
        if (m->q) {
                for (int i = 0; vhk_queue_drain(m->q) && !m->has_settled && i < 1000; i++)
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
static uint16_t add(struct machine *m, const struct iovec *v, unsigned n_out, unsigned n_in) {
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

static void publish(struct machine *m) {
        vhk_store_release(&m->avail->idx.v, vhk_le16_of(m->n_avail).v);
        m->ops.queue_run(m->d, m->q);
}

/* Waits until all that was added is used. */
static void wait_all(struct machine *m) {
        for (int i = 0; i < 1000 && vhk_le16_get((vhk_le16){ vhk_load_acquire(&m->used->idx.v) }) != m->n_avail; i++)
                vhk_worker_dispatch(m->worker, 10);
        CHECK_EQ(vhk_le16_get(m->used->idx), m->n_avail);
}

static uint32_t used_len(struct machine *m, uint16_t head) {
        for (unsigned i = 0; i < RING; i++)
                if (vhk_le32_get(m->used->ring[i].id) == head && i < m->n_avail)
                        return vhk_le32_get(m->used->ring[i].len);
        CHECK_MSG(0, "head %u is not used", head);
        return 0;
}

static void forget(struct machine *m) {
        m->n_desc = 0;
}

/* How a stream of bytes is cut into buffers: sizes of the first pieces, 0 ends; the last given repeats, if any. */
struct shape {
        const char *name;
        uint16_t out[4], in[4];
        bool repeat;
};

static unsigned cut(const uint16_t *sizes, bool repeat, uint8_t *p, size_t n, struct iovec *v) {
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

static struct request make(struct machine *m, uint32_t type, uint64_t sector, size_t n_out, size_t n_in) {
        struct blk_header h = { vhk_le32_of(type), { 0 }, vhk_le64_of(sector) };
        struct request r = { alloc(m, 16 + n_out, 512), alloc(m, n_in + 1, 512), 16 + n_out, n_in + 1, 0 };

        memcpy(r.out, &h, sizeof(h));
        memset(r.in, 0xee, r.n_in);
        return r;
}

static void send(struct machine *m, struct request *r, const struct shape *s) {
        struct iovec v[RING];
        unsigned n_out = cut(s->out, s->repeat, r->out, r->n_out, v);
        unsigned n_in = cut(s->in, s->repeat, r->in, r->n_in, v + n_out);

        r->head = add(m, v, n_out, n_in);
}

static uint8_t status(const struct request *r) { return r->in[r->n_in - 1]; }

static const struct shape plain = { "plain", { 16 }, { 0 }, false };

/* Sends one request, waits, checks status and used length. */
static void run_one(struct machine *m, struct request *r, const struct shape *s, const char *what, int want, uint32_t want_len) {
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

static void fill(uint8_t *p, size_t n, unsigned seed) {
        for (size_t i = 0; i < n; i++)
                p[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16);
}

static void check_file(struct machine *m, uint64_t off, const void *want, size_t n, const char *what) {
        VHK_AUTOFREE uint8_t *b = malloc(n);

        CHECK(pread(m->fd, b, n, (off_t)off) == (ssize_t)n);
        CHECK_MSG(!memcmp(b, want, n), "%s: the file differs", what);
}

static bool has_engine(enum vhk_blkdev_engine e) {
        return e != VHK_BLKDEV_IO_URING || blk_uring_probe() >= 0;
}

static const enum vhk_blkdev_engine engines[] = { VHK_BLKDEV_SYNC, VHK_BLKDEV_IO_URING };
#define FOR_ENGINES(e) for (unsigned i_ = 0; i_ < VHK_N(engines); i_++) if (has_engine(engines[i_])) for (int e = (int)engines[i_]; e >= 0; e = -1)

static const char *tmp(void) {
        return getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
}

/* ---- shapes times operations times engines ---- */

static const struct shape shapes[] = {
        { "plain", { 16 }, { 0 }, false },
        { "all in one", { 0 }, { 0 }, false },
        { "header in bytes", { 1, 1, 1, 1 }, { 0 }, true },
        { "header cut", { 7, 9 }, { 511 }, false },
        { "header and a piece of data", { 20 }, { 3 }, false },
        { "odd pieces", { 16, 333 }, { 100, 333 }, true },
        { "sectors", { 16, 512 }, { 512, 512 }, true },
        { "in one byte", { 16 }, { 1 }, false },
};

static void ops_in_shape(struct machine *m, const struct shape *s, unsigned seed) {
        size_t n = !strcmp(s->name, "header in bytes") ? 64 : 2048;
        bool tiny = n < 512;
        uint64_t sector = 64 + seed * 16;
        uint8_t zero[16384] = { 0 };

        if (tiny)
                n = 0;
        struct request w = make(m, BLK_T_OUT, sector, n, 0);
        fill(w.out + 16, n, seed);
        run_one(m, &w, s, "write", BLK_S_OK, 1);
        check_file(m, sector * 512, w.out + 16, n, s->name);

        struct request r = make(m, BLK_T_IN, sector, 0, tiny ? 0 : n);
        run_one(m, &r, s, "read", BLK_S_OK, (uint32_t)(tiny ? 0 : n) + 1);
        check_file(m, sector * 512, r.in, tiny ? 0 : n, s->name);

        struct request f = make(m, BLK_T_FLUSH, 0, 0, 0);
        run_one(m, &f, s, "flush", BLK_S_OK, 1);

        struct request id = make(m, BLK_T_GET_ID, 0, 0, 20);
        run_one(m, &id, s, "get id", BLK_S_OK, 21);
        CHECK(!memcmp(id.in, "serial-0123456789abc", 20));

        for (unsigned kind = 0; kind < 3; kind++) {
                struct request z = make(m, kind ? BLK_T_WRITE_ZEROES : BLK_T_DISCARD, 0, 16, 0);
                struct blk_segment g = { vhk_le64_of(sector), vhk_le32_of(4), vhk_le32_of(kind == 2) };
                memcpy(z.out + 16, &g, sizeof(g));
                run_one(m, &z, s, kind ? "write zeroes" : "discard", BLK_S_OK, 1);
                if (kind)
                        check_file(m, sector * 512, zero, 2048, s->name);
        }
}

TEST(shapes_and_operations) {
        FOR_ENGINES(e) {
                struct machine m = { .fd = -1 };
                make_file(&m, tmp(), DISK);
                start(&m, (struct vhk_blkdev_options){ .engine = (enum vhk_blkdev_engine)e, .serial = "serial-0123456789abc" }, FLUSH);
                for (unsigned i = 0; i < VHK_N(shapes); i++)
                        ops_in_shape(&m, &shapes[i], i);
                stop(&m);
        }
}

/* ---- what must be refused (H48) ---- */

static const struct limit {
        const char *name;
        uint32_t type;
        uint64_t sector;
        uint32_t n_out, n_in;   /* data bytes */
        int want;
        uint32_t len;
} limits[] = {
        { "last sector", BLK_T_IN, DISK / 512 - 1, 0, 512, BLK_S_OK, 513 },
        { "behind the end", BLK_T_IN, DISK / 512, 0, 512, BLK_S_IOERR, 1 },
        { "across the end", BLK_T_IN, DISK / 512 - 1, 0, 1024, BLK_S_IOERR, 1 },
        { "sector overflows when it is bytes", BLK_T_IN, UINT64_MAX / 512 + 1, 0, 512, BLK_S_IOERR, 1 },
        { "sector overflows to 0", BLK_T_OUT, UINT64_C(1) << 55, 512, 0, BLK_S_IOERR, 1 },
        { "largest sector", BLK_T_OUT, UINT64_MAX, 512, 0, BLK_S_IOERR, 1 },
        { "not whole sectors, read", BLK_T_IN, 0, 0, 511, BLK_S_IOERR, 1 },
        { "not whole sectors, write", BLK_T_OUT, 0, 513, 0, BLK_S_IOERR, 1 },
        { "no data, read", BLK_T_IN, 0, 0, 0, BLK_S_OK, 1 },
        { "no data, write", BLK_T_OUT, 0, 0, 0, BLK_S_OK, 1 },
        { "no data, behind the end", BLK_T_OUT, DISK / 512 + 1, 0, 0, BLK_S_IOERR, 1 },
        { "SCSI command", 2, 0, 0, 0, BLK_S_UNSUPP, 1 },
        { "SCSI command with data", 2, 0, 96, 4096, BLK_S_UNSUPP, 1 },
        { "lifetime", 10, 0, 0, 6, BLK_S_UNSUPP, 1 },
        { "secure erase", 14, 0, 16, 0, BLK_S_UNSUPP, 1 },
        { "zone report", 16, 0, 0, 4096, BLK_S_UNSUPP, 1 },
        { "unknown type", UINT32_MAX, 0, 0, 0, BLK_S_UNSUPP, 1 },
        { "legacy barrier bit", 0x80000000, 0, 0, 512, BLK_S_UNSUPP, 1 },
        { "id, no room", BLK_T_GET_ID, 0, 0, 0, BLK_S_OK, 1 },
        { "id, little room", BLK_T_GET_ID, 0, 0, 7, BLK_S_OK, 8 },
        { "id, much room", BLK_T_GET_ID, 0, 0, 4096, BLK_S_OK, 21 },
        { "flush with data", BLK_T_FLUSH, 0, 512, 512, BLK_S_OK, 1 },
        { "discard, no range", BLK_T_DISCARD, 0, 0, 0, BLK_S_IOERR, 1 },
        { "discard, half a range", BLK_T_DISCARD, 0, 8, 0, BLK_S_IOERR, 1 },
        { "discard, a range and a half", BLK_T_DISCARD, 0, 24, 0, BLK_S_IOERR, 1 },
        { "zeroes, no range", BLK_T_WRITE_ZEROES, 0, 0, 0, BLK_S_IOERR, 1 },
        { "zeroes, too many ranges", BLK_T_WRITE_ZEROES, 0, 16 * (BLK_MAX_SEGMENTS + 1), 0, BLK_S_IOERR, 1 },
};

TEST(limits) {
        struct machine m = { .fd = -1 };

        make_file(&m, tmp(), DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC }, FLUSH);
        for (unsigned i = 0; i < VHK_N(limits); i++) {
                const struct limit *l = &limits[i];
                struct request r = make(&m, l->type, l->sector, l->n_out, l->n_in);
                memset(r.out + 16, 0, l->n_out);
                run_one(&m, &r, &plain, l->name, l->want, l->len);
                if (l->want != BLK_S_OK)
                        for (unsigned k = 0; k < l->n_in; k++)
                                CHECK_MSG(r.in[k] == 0xee, "%s: data was touched", l->name);
        }
        stop(&m);
}

TEST(no_status_byte) {
        struct machine m = { .fd = -1 };
        uint8_t before[512];

        make_file(&m, tmp(), DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC }, FLUSH);
        CHECK(pread(m.fd, before, 512, 0) == 512);
        struct request r = make(&m, BLK_T_OUT, 0, 512, 0);
        struct iovec v = { r.out, r.n_out };
        uint16_t head = add(&m, &v, 1, 0);
        publish(&m);
        wait_all(&m);
        CHECK_EQ(used_len(&m, head), 0);
        check_file(&m, 0, before, 512, "a write without a status byte");

        /* header too short, and none at all: there is a status byte for these */
        struct iovec w[2] = { { r.out, 15 }, { r.in, 1 } };
        head = add(&m, w, 1, 1);
        publish(&m);
        wait_all(&m);
        CHECK_EQ(used_len(&m, head), 1);
        CHECK_EQ(r.in[0], BLK_S_IOERR);
        r.in[0] = 0xee;
        head = add(&m, w + 1, 0, 1);
        publish(&m);
        wait_all(&m);
        CHECK_EQ(used_len(&m, head), 1);
        CHECK_EQ(r.in[0], BLK_S_IOERR);
        CHECK(!m.is_broken);
        stop(&m);
}

static const struct range_row {
        const char *name;
        uint32_t type;
        struct { uint64_t sector; uint32_t n, flags; } g[3];
        int want;
} range_rows[] = {
        { "one", BLK_T_WRITE_ZEROES, { { 8, 8, 0 } }, BLK_S_OK },
        { "three", BLK_T_WRITE_ZEROES, { { 8, 8, 0 }, { 64, 1, 1 }, { 100, 3, 0 } }, BLK_S_OK },
        { "the end", BLK_T_WRITE_ZEROES, { { DISK / 512 - 8, 8, 0 } }, BLK_S_OK },
        { "empty range", BLK_T_WRITE_ZEROES, { { 8, 0, 0 } }, BLK_S_OK },
        { "across the end", BLK_T_WRITE_ZEROES, { { DISK / 512 - 8, 9, 0 } }, BLK_S_IOERR },
        { "second behind the end", BLK_T_WRITE_ZEROES, { { 8, 8, 0 }, { DISK / 512, 1, 0 } }, BLK_S_IOERR },
        { "too long", BLK_T_WRITE_ZEROES, { { 0, BLK_MAX_ZEROES_SECTORS + 1, 0 } }, BLK_S_IOERR },
        { "sector overflows", BLK_T_WRITE_ZEROES, { { UINT64_MAX, 8, 0 } }, BLK_S_IOERR },
        { "unknown flag", BLK_T_WRITE_ZEROES, { { 8, 8, 2 } }, BLK_S_UNSUPP },
        { "all flags", BLK_T_WRITE_ZEROES, { { 8, 8, UINT32_MAX } }, BLK_S_UNSUPP },
        { "unknown flag in the second", BLK_T_WRITE_ZEROES, { { 8, 8, 0 }, { 64, 8, 4 } }, BLK_S_UNSUPP },
        { "discard", BLK_T_DISCARD, { { 8, 8, 0 } }, BLK_S_OK },
        { "discard with unmap", BLK_T_DISCARD, { { 8, 8, 1 } }, BLK_S_UNSUPP },
        { "discard with an unknown flag", BLK_T_DISCARD, { { 8, 8, 2 } }, BLK_S_UNSUPP },
        { "discard too long", BLK_T_DISCARD, { { 0, UINT32_MAX, 0 } }, BLK_S_IOERR },
};

static void run_ranges(struct machine *m, const struct range_row *row) {
        unsigned n = 1;
        uint8_t before[DISK / 16], zero[8 * 512] = { 0 };

        while (n < 3 && (row->g[n].sector || row->g[n].n))
                n++;
        CHECK(pread(m->fd, before, sizeof(before), 0) > 0);
        struct request r = make(m, row->type, 0, n * 16, 0);
        for (unsigned i = 0; i < n; i++) {
                struct blk_segment s = { vhk_le64_of(row->g[i].sector), vhk_le32_of(row->g[i].n), vhk_le32_of(row->g[i].flags) };
                memcpy(r.out + 16 + i * 16, &s, 16);
        }
        run_one(m, &r, &plain, row->name, row->want, 1);
        if (row->want != BLK_S_OK) {
                check_file(m, 0, before, sizeof(before), row->name);
                return;
        }
        for (unsigned i = 0; i < n && row->type == BLK_T_WRITE_ZEROES; i++)
                check_file(m, row->g[i].sector * 512, zero, row->g[i].n * 512, row->name);
}

TEST(ranges) {
        const char *dirs[] = { tmp(), "/dev/shm" };     /* a tmpfs has no ZERO_RANGE: there zeroes are written */

        for (unsigned i = 0; i < VHK_N(dirs); i++)
                FOR_ENGINES(e) {
                        struct machine m = { .fd = -1 };
                        make_file(&m, dirs[i], DISK);
                        start(&m, (struct vhk_blkdev_options){ .engine = (enum vhk_blkdev_engine)e }, i ? 0 : FLUSH);
                        for (unsigned k = 0; k < VHK_N(range_rows); k++)
                                run_ranges(&m, &range_rows[k]);
                        stop(&m);
                }
}

/* More than a zero buffer's worth, and not a multiple of it. */
TEST(many_zeroes_without_zero_range) {
        struct machine m = { .fd = -1 };
        const uint32_t n = 3 * 1024 * 1024 + 512 * 5;
        VHK_AUTOFREE uint8_t *zero = calloc(1, n), *b = malloc(DISK);

        make_file(&m, "/dev/shm", DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC }, FLUSH);
        CHECK(pread(m.fd, b, DISK, 0) == DISK);
        struct request r = make(&m, BLK_T_WRITE_ZEROES, 0, 16, 0);
        struct blk_segment s = { vhk_le64_of(1), vhk_le32_of(n / 512), { 0 } };
        memcpy(r.out + 16, &s, sizeof(s));
        run_one(&m, &r, &plain, "zeroes", BLK_S_OK, 1);
        check_file(&m, 512, zero, n, "zeroes");
        check_file(&m, 0, b, 512, "before");
        check_file(&m, 512 + n, b + 512 + n, DISK - 512 - n, "behind");
        stop(&m);
}

TEST(unmap_makes_a_hole) {
        struct machine m = { .fd = -1 };
        struct stat a, b;

        make_file(&m, "/dev/shm", DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC }, FLUSH);
        for (unsigned kind = 0; kind < 2; kind++) {
                CHECK(!fstat(m.fd, &a));
                struct request r = make(&m, kind ? BLK_T_WRITE_ZEROES : BLK_T_DISCARD, 0, 16, 0);
                struct blk_segment s = { vhk_le64_of(256 + kind * 256), vhk_le32_of(256), vhk_le32_of(kind) };
                memcpy(r.out + 16, &s, sizeof(s));
                run_one(&m, &r, &plain, "hole", BLK_S_OK, 1);
                CHECK(!fstat(m.fd, &b));
                CHECK_EQ(a.st_blocks - b.st_blocks, 256);
                CHECK_EQ(b.st_size, DISK);
        }
        stop(&m);
}

TEST(logical_block_size) {
        struct machine m = { .fd = -1 };

        make_file(&m, tmp(), DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC, .block_size = 4096 }, FLUSH);
        struct request a = make(&m, BLK_T_IN, 8, 0, 4096);
        run_one(&m, &a, &plain, "whole block", BLK_S_OK, 4097);
        struct request b = make(&m, BLK_T_IN, 1, 0, 4096);
        run_one(&m, &b, &plain, "between blocks", BLK_S_IOERR, 1);
        struct request c = make(&m, BLK_T_OUT, 0, 512, 0);
        run_one(&m, &c, &plain, "a part of a block", BLK_S_IOERR, 1);
        stop(&m);
}

TEST(read_only) {
        FOR_ENGINES(e) {
                struct machine m = { .fd = -1 };
                uint8_t before[4096];

                make_file(&m, tmp(), DISK);
                CHECK(pread(m.fd, before, sizeof(before), 0) > 0);
                start(&m, (struct vhk_blkdev_options){ .engine = (enum vhk_blkdev_engine)e, .read_only = 1 }, FLUSH);
                CHECK(m.ops.features & VHK_BIT(VIRTIO_BLK_F_RO));
                CHECK(!(m.ops.features & (VHK_BIT(VIRTIO_BLK_F_DISCARD) | VHK_BIT(VIRTIO_BLK_F_WRITE_ZEROES))));
                struct request w = make(&m, BLK_T_OUT, 0, 512, 0);
                run_one(&m, &w, &plain, "write", BLK_S_IOERR, 1);
                for (unsigned k = 0; k < 2; k++) {
                        struct request z = make(&m, k ? BLK_T_DISCARD : BLK_T_WRITE_ZEROES, 0, 16, 0);
                        struct blk_segment s = { vhk_le64_of(0), vhk_le32_of(8), { 0 } };
                        memcpy(z.out + 16, &s, sizeof(s));
                        run_one(&m, &z, &plain, "range", BLK_S_IOERR, 1);
                }
                check_file(&m, 0, before, sizeof(before), "read-only");
                struct request r = make(&m, BLK_T_IN, 0, 0, 4096);
                run_one(&m, &r, &plain, "read", BLK_S_OK, 4097);
                CHECK(!memcmp(r.in, before, 4096));
                struct request f = make(&m, BLK_T_FLUSH, 0, 0, 0);
                run_one(&m, &f, &plain, "flush", BLK_S_OK, 1);
                stop(&m);
        }
}

/* ---- stable storage: what the engine was asked for, and when ---- */

static struct {
        enum blk_step steps[16];
        bool dsync[16];
        uint16_t used[16];      /* published when the step was executed */
        unsigned n, refuse_dsync, interrupt;
        int fail;               /* this errno instead of doing anything */
        bool slow;              /* answers come later: the requests are in later[] */
        struct vhk_req *later[16];
        struct blk_queue *bq;
        size_t at_most;         /* bytes per call; 0: all */
        struct machine *m;
} spy;

static int64_t spy_submit(struct blk_queue *bq, struct vhk_req *r) {
        struct blk_req *b = r->priv;
        bool dsync = b->step == BLK_WRITE && b->dsync && !bq->d->no_dsync;

        if (spy.n < 16) {
                spy.steps[spy.n] = b->step;
                spy.dsync[spy.n] = dsync;
                spy.used[spy.n++] = vhk_le16_get(spy.m->used->idx);
        }
        if (dsync && spy.refuse_dsync)
                return -EOPNOTSUPP;
        if (spy.fail)
                return -spy.fail;
        if (spy.slow) {
                spy.bq = bq;
                spy.later[spy.n - 1] = r;
                return -EINPROGRESS;
        }
        if (spy.interrupt && spy.interrupt++ % 2)
                return -EINTR;
        if (spy.at_most && (b->step == BLK_READ || b->step == BLK_WRITE)) {
                b->one = (struct iovec){ b->iov[0].iov_base, VHK_MIN(b->iov[0].iov_len, spy.at_most) };
                b->iov = &b->one;
                b->n_iov = 1;
        }
        return blk_engine_sync.submit(bq, r);
}

static const struct blk_engine spy_engine = { .name = "spy", .submit = spy_submit };

static void start_spy(struct machine *m, uint64_t features) {
        memset(&spy, 0, sizeof(spy));
        spy.m = m;
        make_file(m, tmp(), DISK);
        start(m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC }, features);
        m->d->engine = &spy_engine;
}

TEST(flush_syncs_before_it_completes) {
        struct machine m = { .fd = -1 };

        start_spy(&m, FLUSH);
        struct request w = make(&m, BLK_T_OUT, 0, 512, 0), f = make(&m, BLK_T_FLUSH, 0, 0, 0);
        send(&m, &w, &plain);
        publish(&m);
        send(&m, &f, &plain);
        publish(&m);
        CHECK_EQ(spy.n, 2);
        CHECK(spy.steps[0] == BLK_WRITE && !spy.dsync[0]);
        CHECK(spy.steps[1] == BLK_SYNC);
        CHECK_EQ(spy.used[1], 1);
        wait_all(&m);
        CHECK_EQ(status(&f), BLK_S_OK);
        stop(&m);
}

TEST(write_through) {
        struct machine m = { .fd = -1 };

        /* 5.2.5: neither FLUSH nor CONFIG_WCE; CONFIG_WCE alone */
        for (unsigned i = 0; i < 2; i++) {
                start_spy(&m, i ? WCE : 0);
                struct request w = make(&m, BLK_T_OUT, 0, 512, 0);
                run_one(&m, &w, &plain, "write", BLK_S_OK, 1);
                CHECK_EQ(spy.n, 1);
                CHECK(spy.steps[0] == BLK_WRITE && spy.dsync[0] && spy.used[0] == 0);
                struct request z = make(&m, BLK_T_WRITE_ZEROES, 0, 16, 0);
                struct blk_segment s = { vhk_le64_of(0), vhk_le32_of(8), { 0 } };
                memcpy(z.out + 16, &s, sizeof(s));
                run_one(&m, &z, &plain, "zeroes", BLK_S_OK, 1);
                CHECK(spy.steps[spy.n - 1] == BLK_SYNC && spy.used[spy.n - 1] == 1);
                struct request r = make(&m, BLK_T_IN, 0, 0, 512);
                run_one(&m, &r, &plain, "read", BLK_S_OK, 513);
                CHECK(spy.steps[spy.n - 1] == BLK_READ);
                stop(&m);
        }
}

TEST(write_through_where_dsync_is_refused) {
        struct machine m = { .fd = -1 };

        start_spy(&m, 0);
        spy.refuse_dsync = 1;
        for (unsigned i = 0; i < 2; i++) {
                struct request w = make(&m, BLK_T_OUT, 0, 512, 0);
                fill(w.out + 16, 512, i);
                run_one(&m, &w, &plain, "write", BLK_S_OK, 1);
                check_file(&m, 0, w.out + 16, 512, "write");
        }
        CHECK_EQ(spy.n, 5);     /* refused, write, sync; write, sync */
        CHECK(spy.steps[1] == BLK_WRITE && !spy.dsync[1] && spy.steps[2] == BLK_SYNC && spy.used[2] == 0);
        CHECK(spy.steps[3] == BLK_WRITE && spy.steps[4] == BLK_SYNC && spy.used[4] == 1);
        stop(&m);
}

TEST(driver_switches_the_cache) {
        struct machine m = { .fd = -1 };
        uint8_t on = 1, off = 0, bad = 2, got;
        const uint32_t at = offsetof(struct virtio_blk_config, wce);

        start_spy(&m, FLUSH | WCE);
        CHECK_OK(m.ops.get_config(m.d, at, &got, 1));
        CHECK_EQ(got, 1);
        CHECK_OK(m.ops.set_config(m.d, at, &off, 1, VHK_CONFIG_DRIVER));
        CHECK_OK(m.ops.get_config(m.d, at, &got, 1));
        CHECK_EQ(got, 0);
        struct request w = make(&m, BLK_T_OUT, 0, 512, 0);
        run_one(&m, &w, &plain, "write", BLK_S_OK, 1);
        CHECK(spy.dsync[0]);
        CHECK_OK(m.ops.set_config(m.d, at, &on, 1, VHK_CONFIG_DRIVER));
        struct request x = make(&m, BLK_T_OUT, 0, 512, 0);
        run_one(&m, &x, &plain, "write", BLK_S_OK, 1);
        CHECK(!spy.dsync[1]);

        /* nothing else may be written, but the same values may */
        uint8_t c[sizeof(struct blk_config)];
        CHECK_EQ(m.ops.set_config(m.d, at, &bad, 1, VHK_CONFIG_DRIVER), -EINVAL);
        CHECK_EQ(m.ops.set_config(m.d, 0, &bad, 1, VHK_CONFIG_DRIVER), -EINVAL);
        CHECK_EQ(m.ops.set_config(m.d, sizeof(c), &bad, 1, VHK_CONFIG_DRIVER), -EINVAL);
        CHECK_EQ(m.ops.set_config(m.d, UINT32_MAX, &bad, 2, VHK_CONFIG_DRIVER), -EINVAL);
        CHECK_OK(m.ops.get_config(m.d, 0, c, sizeof(c)));
        CHECK_OK(m.ops.set_config(m.d, 0, c, sizeof(c), VHK_CONFIG_MIGRATION));
        stop(&m);
}

TEST(short_and_interrupted_calls_go_on) {
        struct machine m = { .fd = -1 };
        static const struct shape odd = { "odd", { 16, 300 }, { 700, 900 }, true };

        start_spy(&m, FLUSH);
        spy.at_most = 100;
        spy.interrupt = 1;
        struct request w = make(&m, BLK_T_OUT, 9, 2048, 0);
        fill(w.out + 16, 2048, 5);
        run_one(&m, &w, &odd, "write", BLK_S_OK, 1);
        check_file(&m, 9 * 512, w.out + 16, 2048, "write");
        struct request r = make(&m, BLK_T_IN, 9, 0, 2048);
        run_one(&m, &r, &odd, "read", BLK_S_OK, 2049);
        CHECK(!memcmp(r.in, w.out + 16, 2048));
        stop(&m);
}

TEST(disk_errors) {
        static const int errors[] = { EIO, ENOSPC, EINVAL, EROFS, EOPNOTSUPP, EINTR };       /* EINTR for ever ends too */
        struct machine m = { .fd = -1 };

        start_spy(&m, FLUSH);
        for (unsigned i = 0; i < VHK_N(errors); i++) {
                spy.fail = errors[i];
                struct request w = make(&m, BLK_T_OUT, 0, 512, 0), r = make(&m, BLK_T_IN, 0, 0, 512), f = make(&m, BLK_T_FLUSH, 0, 0, 0);
                run_one(&m, &f, &plain, strerror(errors[i]), BLK_S_IOERR, 1);
                run_one(&m, &r, &plain, strerror(errors[i]), BLK_S_IOERR, 1);
                CHECK(r.in[0] == 0xee && r.in[511] == 0xee);
                run_one(&m, &w, &plain, strerror(errors[i]), BLK_S_IOERR, 1);
        }
        stop(&m);
}

/* H58: a drain lasts until the disk has answered, and then everything is told. */
TEST(drain_with_a_slow_disk) {
        struct machine m = { .fd = -1 };
        struct request r[3];

        start_spy(&m, FLUSH);
        spy.slow = true;
        for (unsigned i = 0; i < 3; i++) {
                r[i] = make(&m, BLK_T_FLUSH, 0, 0, 0);
                send(&m, &r[i], &plain);
        }
        publish(&m);
        CHECK_EQ(spy.n, 3);
        CHECK_EQ(vhk_queue_drain(m.q), 1);
        for (unsigned i = 0; i < 3; i++) {
                vhk_worker_dispatch(m.worker, 0);
                CHECK(!m.has_settled);
                blk_continue(spy.bq, spy.later[2 - i], i == 1 ? -EIO : 0);
                vhk_queue_flush(m.q);
        }
        vhk_worker_dispatch(m.worker, 0);
        CHECK(m.has_settled);
        CHECK_EQ(vhk_le16_get(m.used->idx), 3);
        CHECK(status(&r[0]) == BLK_S_OK && status(&r[1]) == BLK_S_IOERR && status(&r[2]) == BLK_S_OK);
        stop(&m);
}

/* ---- what happens to the file or the guest meanwhile ---- */

TEST(file_becomes_shorter) {
        FOR_ENGINES(e) {
                struct machine m = { .fd = -1 };

                make_file(&m, tmp(), DISK);
                start(&m, (struct vhk_blkdev_options){ .engine = (enum vhk_blkdev_engine)e }, FLUSH);
                CHECK(!ftruncate(m.fd, 8192));
                struct request r = make(&m, BLK_T_IN, 8, 0, 8192);
                n_logged = 0;
                run_one(&m, &r, &plain, "read", BLK_S_IOERR, 4097);     /* what was read is said to be read */
                CHECK(n_logged == 1 && strstr(last_log, "shorter"));
                stop(&m);
        }
}

TEST(guest_memory_is_not_there) {
        FOR_ENGINES(e) {
                struct machine m = { .fd = -1 };

                make_file(&m, tmp(), DISK);
                start(&m, (struct vhk_blkdev_options){ .engine = (enum vhk_blkdev_engine)e }, FLUSH);
                uint8_t *data = alloc(&m, 4096, 4096), *status_byte = alloc(&m, 1, 4096);
                struct request h = make(&m, BLK_T_IN, 0, 0, 0);
                struct iovec v[3] = { { h.out, 16 }, { data, 4096 }, { status_byte, 1 } };
                CHECK(!mprotect(of_device(&m, data), 4096, PROT_NONE));
                uint16_t head = add(&m, v, 1, 2);
                n_logged = 0;
                publish(&m);
                wait_all(&m);
                CHECK_EQ(*status_byte, BLK_S_IOERR);
                CHECK_EQ(used_len(&m, head), 1);
                CHECK(n_logged == 1 && strstr(last_log, "guest memory"));
                CHECK(!mprotect(of_device(&m, data), 4096, PROT_READ | PROT_WRITE));
                stop(&m);
        }
}

/* ---- many requests at once ---- */

TEST(many_in_flight) {
        FOR_ENGINES(e) {
                struct machine m = { .fd = -1 };
                struct request r[RING / 4];
                static const struct shape s = { "cut", { 16, 1000 }, { 1000 }, false };

                make_file(&m, tmp(), DISK);
                start(&m, (struct vhk_blkdev_options){ .engine = (enum vhk_blkdev_engine)e }, FLUSH);
                for (unsigned round = 0; round < 4; round++) {
                        m.n_mem = 65536;
                        for (unsigned i = 0; i < VHK_N(r); i++) {
                                bool w = (i + round) % 2;
                                r[i] = make(&m, w ? BLK_T_OUT : BLK_T_IN, i * 64, w ? 32768 : 0, w ? 0 : 32768);
                                if (w)
                                        fill(r[i].out + 16, 32768, round * 100 + i);
                                send(&m, &r[i], &s);
                        }
                        publish(&m);
                        wait_all(&m);
                        for (unsigned i = 0; i < VHK_N(r); i++) {
                                bool w = (i + round) % 2;
                                CHECK_EQ(status(&r[i]), BLK_S_OK);
                                CHECK_EQ(used_len(&m, r[i].head), w ? 1 : 32769);
                                check_file(&m, i * 32768, w ? r[i].out + 16 : r[i].in, 32768, "many");
                        }
                        memset(m.used->ring, 0xff, RING * sizeof(m.used->ring[0]));
                        m.n_desc = m.n_avail = 0;
                        forget(&m);
                        vhk_store_release(&m.avail->idx.v, 0);
                        vhk_queue_stop(m.q);
                        m.used->idx = vhk_le16_of(0);
                        CHECK_OK(vhk_queue_start(m.q, m.config, 0, 0));
                }
                stop(&m);
        }
}

/* A drain waits for what the kernel has; nothing more is popped. */
TEST(drain_with_requests_in_flight) {
        if (!has_engine(VHK_BLKDEV_IO_URING))
                SKIP("cannot: no io_uring here");
        struct machine m = { .fd = -1 };
        struct request r[32];

        make_file(&m, tmp(), DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_IO_URING }, 0);
        for (unsigned i = 0; i < VHK_N(r); i++) {
                r[i] = make(&m, BLK_T_OUT, i * 8, 4096, 0);     /* write-through: these go to a kernel thread */
                send(&m, &r[i], &plain);
        }
        publish(&m);
        if (vhk_queue_drain(m.q))
                for (int i = 0; i < 1000 && !m.has_settled; i++)
                        vhk_worker_dispatch(m.worker, 10);
        CHECK_EQ(vhk_queue_n_in_flight(m.q), 0);
        for (unsigned i = 0; i < VHK_N(r); i++)
                CHECK_EQ(status(&r[i]), BLK_S_OK);
        stop(&m);
}

/* ---- direct I/O ---- */

TEST(direct) {
        FOR_ENGINES(e) {
                struct machine m = { .fd = -1 };
                struct vhk_blkdev_options o = { .engine = (enum vhk_blkdev_engine)e, .direct = 1 };
                struct vhk_error err;
                static const struct shape one = { "all in one", { 0 }, { 0 }, false };
                struct request r[3 * BLK_N_BOUNCES];

                make_file(&m, tmp(), DISK);
                make_memory(&m);
                if (start_device(&m, &o, FLUSH, &err) == -EOPNOTSUPP) {
                        stop(&m);
                        SKIP("cannot: no direct I/O in the directory for temporary files");
                }
                start_ring(&m);
                const uint32_t block = m.d->block_size;

                /* header and data in one buffer: never aligned. More requests than bounce buffers, so that some wait. */
                for (unsigned i = 0; i < VHK_N(r); i++) {
                        r[i] = make(&m, BLK_T_OUT, i * 8, 4096, 0);
                        fill(r[i].out + 16, 4096, i);
                        send(&m, &r[i], &one);
                }
                publish(&m);
                wait_all(&m);
                for (unsigned i = 0; i < VHK_N(r); i++) {
                        CHECK_EQ(status(&r[i]), BLK_S_OK);
                        check_file(&m, i * 4096, r[i].out + 16, 4096, "misaligned write");
                }
                memset(m.used->ring, 0xff, RING * sizeof(m.used->ring[0]));
                forget(&m);
                m.n_mem = 65536;

                /* larger than a bounce buffer, at an odd address */
                uint32_t n = BLK_BOUNCE_BYTES * 2 + block;
                struct request big = make(&m, BLK_T_IN, 0, 0, n + 1);
                big.in++;
                big.n_in--;
                run_one(&m, &big, &plain, "misaligned read", BLK_S_OK, n + 1);
                check_file(&m, 0, big.in, n, "misaligned read");

                /* aligned: straight */
                uint8_t *data = alloc(&m, 65536, 4096);
                struct request h = make(&m, BLK_T_IN, 128, 0, 0);
                struct iovec v[3] = { { h.out, 16 }, { data, 65536 }, { h.in, 1 } };
                add(&m, v, 1, 2);
                publish(&m);
                wait_all(&m);
                CHECK_EQ(h.in[0], BLK_S_OK);
                check_file(&m, 65536, data, 65536, "aligned read");
                stop(&m);
        }
}

/* ---- a block device ---- */

/* A loop device on the machine's file, gone when its last descriptor is; -1: cannot be had. The device takes its path. */
static int attach_loop(struct machine *m, char *ret_path, size_t n) {
        VHK_AUTOCLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        int i = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
        struct loop_config c = { .fd = (uint32_t)m->fd, .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };

        if (i < 0)
                return -1;
        snprintf(ret_path, n, "/dev/loop%d", i);
        int fd = open(ret_path, O_RDWR | O_CLOEXEC);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &c) < 0)
                vhk_close(&fd);
        return fd;
}

static void ranges_on(struct machine *m, uint32_t type, uint32_t flags) {
        uint8_t zero[8 * 512] = { 0 };
        struct request z = make(m, type, 0, 16, 0), r = make(m, BLK_T_IN, 64, 0, sizeof(zero));
        struct blk_segment g = { vhk_le64_of(64), vhk_le32_of(8), vhk_le32_of(flags) };

        memcpy(z.out + 16, &g, sizeof(g));
        run_one(m, &z, &plain, "range", BLK_S_OK, 1);
        run_one(m, &r, &plain, "read", BLK_S_OK, sizeof(zero) + 1);
        if (type == BLK_T_WRITE_ZEROES)
                CHECK(!memcmp(r.in, zero, sizeof(zero)));
}

TEST(block_device) {
        FOR_ENGINES(e) {
                for (uint8_t direct = 0; direct < 2; direct++) {
                        struct machine m = { .fd = -1 };
                        char path[32] = "";
                        struct request w;

                        make_file(&m, tmp(), DISK);
                        int loop = attach_loop(&m, path, sizeof(path));
                        if (loop < 0) {
                                stop(&m);
                                SKIP("cannot: no loop device to be had here");
                        }
                        start(&m, (struct vhk_blkdev_options){ .engine = (enum vhk_blkdev_engine)e, .path = path, .direct = direct }, FLUSH);
                        CHECK(m.d->file.is_block);
                        CHECK_EQ(vhk_blkdev_get_capacity(m.d), DISK);
                        for (unsigned i = 0; i < 3; i++) {
                                w = make(&m, BLK_T_OUT, 64, 8 * 512, 0);
                                fill(w.out + 16, 8 * 512, i);
                                run_one(&m, &w, &plain, "write", BLK_S_OK, 1);
                                struct request f = make(&m, BLK_T_FLUSH, 0, 0, 0);
                                run_one(&m, &f, &plain, "flush", BLK_S_OK, 1);
                                check_file(&m, 64 * 512, w.out + 16, 8 * 512, "block device");
                                ranges_on(&m, i ? BLK_T_WRITE_ZEROES : BLK_T_DISCARD, i == 2);
                        }
                        struct request x = make(&m, BLK_T_OUT, DISK / 512, 512, 0);
                        run_one(&m, &x, &plain, "behind the end", BLK_S_IOERR, 1);
                        close(loop);
                        stop(&m);
                }
        }
}

/* ---- the null engine ---- */

TEST(null_engine) {
        struct machine m = { .fd = -1 };

        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL, .capacity = DISK }, FLUSH);
        CHECK_EQ(vhk_blkdev_get_capacity(m.d), DISK);
        struct request r = make(&m, BLK_T_IN, DISK / 512 - 8, 0, 4096);
        run_one(&m, &r, &plain, "read", BLK_S_OK, 1);           /* nothing was written: nothing is claimed */
        CHECK(r.in[0] == 0xee && r.in[4095] == 0xee);
        struct request w = make(&m, BLK_T_OUT, 0, 4096, 0);
        run_one(&m, &w, &plain, "write", BLK_S_OK, 1);
        struct request x = make(&m, BLK_T_OUT, DISK / 512, 512, 0);
        run_one(&m, &x, &plain, "behind the end", BLK_S_IOERR, 1);
        struct request u = make(&m, 99, 0, 0, 0);
        run_one(&m, &u, &plain, "unknown", BLK_S_UNSUPP, 1);
        struct request f = make(&m, BLK_T_FLUSH, 0, 0, 0);
        run_one(&m, &f, &plain, "flush", BLK_S_OK, 1);
        struct request many[64];
        for (unsigned i = 0; i < 64; i++) {
                many[i] = make(&m, BLK_T_IN, i, 0, 512);
                send(&m, &many[i], &plain);
        }
        publish(&m);
        wait_all(&m);
        for (unsigned i = 0; i < 64; i++)
                CHECK_EQ(status(&many[i]), BLK_S_OK);
        stop(&m);
}

/* ---- configuration space ---- */

TEST(config_is_the_kernels) {
        struct virtio_blk_config c;
        struct machine m = { .fd = -1 };
        struct vhk_blkdev_options o = { .engine = VHK_BLKDEV_SYNC, .n_queues = 3, .queue_size = 64, .block_size = 1024 };

        CHECK(sizeof(struct blk_config) <= sizeof(c));
        CHECK_EQ(offsetof(struct blk_config, physical_block_exp), offsetof(struct virtio_blk_config, physical_block_exp));
        CHECK_EQ(offsetof(struct blk_config, num_queues), offsetof(struct virtio_blk_config, num_queues));
        CHECK_EQ(offsetof(struct blk_config, write_zeroes_may_unmap), offsetof(struct virtio_blk_config, write_zeroes_may_unmap));
        make_file(&m, tmp(), DISK);
        CHECK_OK(start_device(&m, &o, FLUSH, NULL));
        CHECK_EQ(m.ops.config_len, 60);
        CHECK_EQ(m.ops.virtio_id, 2);
        CHECK_EQ(m.ops.n_queues, 3);
        CHECK_OK(m.ops.get_config(m.d, 0, &c, 60));
        CHECK_EQ(c.capacity, DISK / 512);
        CHECK_EQ(c.size_max, 0);
        CHECK_EQ(c.seg_max, 62);
        CHECK_EQ(c.blk_size, 1024);
        CHECK_EQ(1024u << c.physical_block_exp, m.d->file.physical);
        CHECK_EQ(c.alignment_offset, 0);
        CHECK_EQ(c.wce, 1);
        CHECK_EQ(c.unused, 0);
        CHECK_EQ(c.num_queues, 3);
        CHECK_EQ(c.max_discard_seg, BLK_MAX_SEGMENTS);
        CHECK_EQ(c.max_write_zeroes_sectors, BLK_MAX_ZEROES_SECTORS);
        CHECK_EQ(c.write_zeroes_may_unmap, 1);
        for (unsigned i = 0; i < sizeof(c.unused1); i++)
                CHECK_EQ(c.unused1[i], 0);
        CHECK_EQ(m.ops.get_config(m.d, 60, &c, 1), -EINVAL);
        CHECK_EQ(m.ops.get_config(m.d, UINT32_MAX, &c, 2), -EINVAL);
        CHECK_OK(m.ops.negotiated(m.d, WCE));
        CHECK_OK(m.ops.get_config(m.d, 32, &c.wce, 1));
        CHECK_EQ(c.wce, 0);
        m.ops.reset(m.d);               /* as QEMU reads it, before the driver chooses */
        CHECK_OK(m.ops.get_config(m.d, 32, &c.wce, 1));
        CHECK_EQ(c.wce, 1);
        stop(&m);
}

/* ---- what cannot be served ---- */

TEST(open_refuses) {
        static const struct {
                const char *name, *path;
                struct vhk_blkdev_options o;
                uint64_t size;          /* of the file */
                int want;
                const char *text;
        } rows[] = {
                { "no file", "/nonexistent/disk", { 0 }, 0, -ENOENT, "/nonexistent/disk: No such file" },
                { "directory", "/tmp", { 0 }, 0, -EISDIR, "/tmp: is a directory" },
                { "device", "/dev/null", { 0 }, 0, -EINVAL, "neither a regular file nor a block device" },
                { "no path", NULL, { 0 }, 0, -EINVAL, "a file is needed" },
                { "odd size", "", { 0 }, 1000, -EINVAL, "size of 1000 bytes is not a multiple of the logical block size (512)" },
                { "odd size for large blocks", "", { .block_size = 4096 }, 4096 + 512, -EINVAL, "logical block size (4096)" },
                { "empty", "", { 0 }, 0, -EINVAL, "is empty" },
                { "block size", "", { .block_size = 1000 }, 4096, -EINVAL, "power of two" },
                { "small block size", "", { .block_size = 256 }, 4096, -EINVAL, "power of two" },
                { "serial", "", { .serial = "123456789012345678901" }, 4096, -EINVAL, "longer than 20" },
                { "size of a file", "", { .capacity = 4096 }, 4096, -EINVAL, "null engine only" },
                { "null without a size", NULL, { .engine = VHK_BLKDEV_NULL }, 0, -EINVAL, "needs a size" },
                { "queue size", "", { .queue_size = 100 }, 4096, -EINVAL, "power of two" },
                { "engine", "", { .engine = (enum vhk_blkdev_engine)7 }, 4096, -EINVAL, "does not exist" },
        };

        for (unsigned i = 0; i < VHK_N(rows); i++) {
                struct machine m = { .fd = -1 };
                struct vhk_blkdev_options o = rows[i].o;
                struct vhk_error e = { .text = "" };

                if (rows[i].path && !*rows[i].path)
                        make_file(&m, tmp(), rows[i].size);
                else
                        o.path = rows[i].path;
                int k = start_device(&m, &o, 0, &e);
                CHECK_MSG(k == rows[i].want, "%s: %d, \"%s\"", rows[i].name, k, e.text);
                CHECK_MSG(strstr(e.text, rows[i].text), "%s: \"%s\"", rows[i].name, e.text);
                CHECK_EQ(e.code, k);
                stop(&m);
        }
}
