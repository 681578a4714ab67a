/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The block driver against a disk of this process that can be told what to say of itself and how to fail. Both ends are
 * the library's; the disk runs on a thread of its own.
 */
#include "base/test.h"

#include <endian.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <vhostkit/vhostkit.h>

#include "backend/session.h"
#include "driver/blk.h"
#include "ring/ring.h"

#define KIB 1024u
#define MIB (1024u * KIB)
#define BIT(n) (1ull << (n))
enum { F_SIZE_MAX = 1, F_SEG_MAX = 2, F_RO = 5, F_BLK_SIZE = 6, F_FLUSH = 9, F_TOPOLOGY = 10, F_WCE = 11, F_MQ = 12, F_DISCARD = 13, F_ZEROES = 14 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP };

/* ---- the disk ---- */

static uint8_t content[4 * MIB], config[60];
static struct disk {
        uint64_t fail_sector;           /* requests at it fail */
        int unsupported, hold, reverse, die;
        uint32_t unwritten;             /* bytes that are missing in the length of each used buffer */
        /* seen */
        uint32_t max_bytes, max_segments, max_segment, n_requests, n_ranges;
        uint64_t ranges_len;
        /* held requests */
        struct vhk_queue *q;
        struct vhk_req *held[256];
        unsigned n_held;
        struct vhk_post release;
        struct vhk_host *host;
} disk;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;        /* of all the above, for the disk's thread and the test's */
#define SET(field, value) do { pthread_mutex_lock(&lock); disk.field = (value); pthread_mutex_unlock(&lock); } while (0)
static struct disk seen(void) {
        pthread_mutex_lock(&lock);
        struct disk d = disk;
        pthread_mutex_unlock(&lock);
        return d;
}

static struct vhk_worker *worker;
static struct vhk_backend *backend;
static struct vhk_device_ops ops;
static struct vhk_backend_options backend_options;
static pthread_t thread;
static int ended;        /* the disk's thread alone */

static uint32_t serve_data(struct vhk_req *r, int in, uint64_t sector, uint8_t *status) {
        uint32_t n = in ? r->in_len - 1 : r->out_len - 16;
        const struct iovec *v = in ? r->in : r->out + 1;
        unsigned n_v = (in ? r->n_in : r->n_out) - 1u;

        disk.max_bytes = n > disk.max_bytes ? n : disk.max_bytes;
        disk.max_segments = n_v > disk.max_segments ? n_v : disk.max_segments;
        for (unsigned i = 0; i < n_v; i++)
                disk.max_segment = v[i].iov_len > disk.max_segment ? (uint32_t)v[i].iov_len : disk.max_segment;
        if (sector * 512 + n > sizeof(content) || (sector <= disk.fail_sector && disk.fail_sector < sector + n / 512)) {
                *status = S_IOERR;
                return 0;
        }
        if (in)
                return (uint32_t)vhk_req_write(r, 0, content + sector * 512, n);
        vhk_req_read(r, 16, content + sector * 512, n);
        return 0;
}

static void complete(struct vhk_req *r) {
        struct { uint32_t type, reserved; uint64_t sector; } h = { 0 };
        struct { uint64_t sector; uint32_t n, flags; } range;
        uint8_t status = S_OK;
        uint32_t len = 0;

        vhk_req_read(r, 0, &h, sizeof(h));
        h.type = le32toh(h.type);
        if (disk.unsupported)
                status = S_UNSUPP;
        else if (h.type == T_IN || h.type == T_OUT)
                len = serve_data(r, h.type == T_IN, le64toh(h.sector), &status);
        else if (h.type == T_GET_ID)
                len = (uint32_t)vhk_req_write(r, 0, "serial-7\0garbage!!!!", 20);
        else if (h.type == T_DISCARD || h.type == T_ZEROES) {
                vhk_req_read(r, 16, &range, sizeof(range));
                disk.n_ranges++;
                disk.ranges_len += le32toh(range.n) * 512ull;
                if (h.type == T_ZEROES)
                        memset(content + le64toh(range.sector) * 512, 0, le32toh(range.n) * 512ull);
        }
        vhk_req_write(r, r->in_len - 1, &status, 1);
        vhk_queue_push(disk.q, r, len + 1 - VHK_MIN(disk.unwritten, len + 1));
}

static void complete_all(void) {
        for (unsigned i = 0; i < disk.n_held; i++)
                complete(disk.held[disk.reverse ? disk.n_held - 1 - i : i]);
        disk.n_held = 0;
        vhk_queue_flush(disk.q);
}

static void release(struct vhk_post *p) {
        pthread_mutex_lock(&lock);
        complete_all();
        pthread_mutex_unlock(&lock);
}

static void queue_run(void *dev, struct vhk_queue *q) {
        int n;

        pthread_mutex_lock(&lock);
        disk.q = q;
        while ((n = vhk_queue_pop(q, disk.held + disk.n_held, 256 - disk.n_held)) > 0) {
                disk.n_held += (unsigned)n;
                disk.n_requests += (unsigned)n;
        }
        if (disk.die && disk.n_held)
                shutdown(backend_options.fd, SHUT_RDWR);
        else if (!disk.hold)
                complete_all();
        pthread_mutex_unlock(&lock);
}

static void queue_stop(void *dev, struct vhk_queue *q, enum vhk_stop how) {
        pthread_mutex_lock(&lock);
        disk.q = q;
        if (!disk.die)          /* then the test says when */
                complete_all();
        pthread_mutex_unlock(&lock);
}

static int attach(void *dev, struct vhk_host *host) {
        SET(host, host);
        return 0;
}

static int get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        pthread_mutex_lock(&lock);
        memcpy(buf, config + off, n);
        pthread_mutex_unlock(&lock);
        return 0;
}

static int set_config(void *dev, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        pthread_mutex_lock(&lock);
        memcpy(config + off, buf, n);
        pthread_mutex_unlock(&lock);
        return 0;
}

static void put(unsigned off, uint64_t v, unsigned n) {
        pthread_mutex_lock(&lock);
        for (unsigned i = 0; i < n; i++)
                config[off + i] = (uint8_t)(v >> 8 * i);
        pthread_mutex_unlock(&lock);
}

/* ---- bringing both up ---- */

static struct vhk_blk *b;
static struct vhk_blk_queue *q;
static struct vhk_blk_options options;
static struct vhk_frontend_options frontend_options;
static struct vhk_error err;
static unsigned n_gone, n_changed;
static int called_back;

static void on_backend_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        if (ev == VHK_BACKEND_ENDED)
                ended = 1;
}

static void on_frontend_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        struct vhk_blk_info i = { .size = sizeof(i) };

        n_gone += ev == VHK_FRONTEND_GONE;
        n_changed += ev == VHK_FRONTEND_CONFIG_CHANGED;
        called_back = b ? vhk_blk_get_info(b, &i) : 0;
        called_back += b && vhk_blk_alloc(b, 512);
}

static void *serve(void *arg) {
        while (!ended)
                vhk_worker_dispatch(worker, -1);
        return NULL;
}

static uint16_t largest_ring;           /* of a back-end that is not this library's, which serves 1024 entries; 0: that */

static void init(void) {
        disk = (struct disk){ .fail_sector = UINT64_MAX, .release = { .fn = release } };
        ops = (struct vhk_device_ops){ .size = sizeof(ops), .virtio_id = 2, .n_queues = 1, .queue_size_max = 256, .config_len = 60,
                .features = BIT(F_SEG_MAX) | BIT(F_FLUSH) | BIT(F_DISCARD) | BIT(F_ZEROES) | BIT(F_WCE),
                .attach = attach, .get_config = get_config, .set_config = set_config, .queue_run = queue_run, .queue_stop = queue_stop };
        backend_options = (struct vhk_backend_options){ .size = sizeof(backend_options), .has_fd = 1, .on_event = on_backend_event };
        frontend_options = (struct vhk_frontend_options){ .size = sizeof(frontend_options), .has_fd = 1, .on_event = on_frontend_event };
        options = (struct vhk_blk_options){ .size = sizeof(options), .frontend = &frontend_options };
        memset(config, 0, sizeof(config));
        put(0, sizeof(content) / 512, 8);
        put(12, 126, 4);
        put(36, 2048, 4);
        put(40, 1, 4);
        put(48, 4096, 4);
        put(52, 1, 4);
        for (size_t i = 0; i < sizeof(content); i++)
                content[i] = (uint8_t)(i * 31 + (i >> 12));
        n_gone = n_changed = 0;
        ended = 0;
        largest_ring = 0;
}

static int open_it(void) {
        int s[2];

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        CHECK_OK(vhk_worker_new(NULL, NULL, &worker));
        backend_options.fd = s[1];
        backend_options.control = worker;
        CHECK_MSG(vhk_backend_open(NULL, &backend_options, &ops, &disk, &backend, &err) == 0, "%s", err.text);
        if (largest_ring)
                backend->ring_size_max = largest_ring;
        CHECK_EQ(pthread_create(&thread, NULL, serve, NULL), 0);
        frontend_options.fd = s[0];
        int k = vhk_blk_open(NULL, &options, &b, &err);
        if (k < 0)
                close(s[0]);                    /* stays ours then */
        if (k == 0)
                CHECK_OK(vhk_blk_get_queue(b, 0, &q));
        return k;
}

static void enter(void) {
        CHECK_MSG(open_it() == 0, "%s", err.text);
}

static void close_backend(void) {
        pthread_join(thread, NULL);             /* it ends when the front-end has gone */
        vhk_backend_free(backend);
        vhk_worker_free(worker);
}

static void leave(void) {
        b = vhk_blk_close(b);
        close_backend();
}

static struct vhk_blk_info info(void) {
        struct vhk_blk_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_blk_get_info(b, &i));
        return i;
}

static void check_refused(int code, const char *word) {
        b = NULL;
        CHECK_EQ(open_it(), code);
        CHECK_EQ(err.code, code);
        CHECK_MSG(strstr(err.text, word), "\"%s\" does not say \"%s\"", err.text, word);
        CHECK(!b);
        close_backend();
}

static void check_read(size_t n, uint64_t off, int lent) {
        uint8_t *p = lent ? vhk_blk_alloc(b, n) : malloc(n);

        memset(p, 0xee, n);
        CHECK_EQ(vhk_blk_pread(b, p, n, off), (long long)n);
        seen();                                 /* what the disk's thread did comes before */
        CHECK(!memcmp(p, content + off, n));
        if (!lent)
                free(p);
}

/* ---- what the disk says ---- */

TEST(a_disk_is_described) {
        init();
        ops.features |= BIT(F_BLK_SIZE) | BIT(F_TOPOLOGY) | BIT(F_SIZE_MAX);
        put(8, 65536, 4);
        put(20, 4096, 4);
        put(24, 1, 1);
        put(26, 2, 2);
        put(28, 8, 4);
        put(32, 1, 1);
        put(44, 16, 4);
        put(56, 1, 1);
        enter();
        struct vhk_blk_info i = info();
        CHECK_EQ(i.capacity, sizeof(content));
        CHECK_EQ(i.block_size, 4096);
        CHECK_EQ(i.physical_block_size, 8192);
        CHECK_EQ(i.min_io_size, 8192);
        CHECK_EQ(i.opt_io_size, 32768);
        CHECK_EQ(i.max_segment_size, 65536);
        CHECK_EQ(i.max_segments, 126);
        CHECK_EQ(i.max_discard_bytes, MIB);
        CHECK_EQ(i.discard_alignment, 8192);
        CHECK_EQ(i.max_write_zeroes_bytes, 2 * MIB);
        CHECK_EQ(i.write_zeroes_may_unmap, 1);
        CHECK_EQ(i.writeback, 1);
        CHECK_EQ(i.read_only, 0);
        CHECK_EQ(i.n_queues, 1);
        CHECK_EQ(vhk_blk_pread(b, content, 512, 0), -EINVAL);   /* not a block */
        leave();
}

TEST(behind_an_iommu) {
        init();
        backend_options.features_offer = BIT(33);
        enter();
        CHECK(!(info().features & BIT(33)));            /* only when asked for */
        leave();
        init();
        backend_options.features_offer = BIT(33);
        frontend_options.iommu = 1;
        enter();
        CHECK(info().features & BIT(33));
        for (int lent = 0; lent < 2; lent++)
                check_read(256 * KIB, 4096, lent);
        leave();
}

TEST(a_short_configuration_space_is_enough) {
        static const uint8_t lengths[] = { 8, 16, 24, 36, 57 };

        for (size_t i = 0; i < sizeof(lengths); i++) {
                init();
                ops.config_len = lengths[i];
                enter();
                CHECK_EQ(info().capacity, sizeof(content));
                CHECK_EQ(info().max_segments, lengths[i] >= 16 ? 126 : 1);
                check_read(64 * KIB, 0, 0);
                leave();
        }
}

TEST(requests_are_cut_as_the_disk_demands) {
        static const struct { uint32_t size_max, seg_max; } rows[] = { { 1024, 2 }, { 512, 1 }, { 1000, 3 }, { 0, 1 }, { 4096, 126 } };

        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
                for (int lent = 0; lent < 2; lent++) {
                        init();
                        ops.features |= BIT(F_SIZE_MAX);
                        put(8, rows[i].size_max, 4);
                        put(12, rows[i].seg_max, 4);
                        enter();
                        check_read(256 * KIB, 4096, lent);
                        if (rows[i].size_max) {
                                CHECK(seen().max_segment <= rows[i].size_max);
                                CHECK(seen().max_bytes <= rows[i].size_max * rows[i].seg_max);
                        }
                        CHECK(seen().max_segments <= rows[i].seg_max);
                        leave();
                }
}

TEST(without_seg_max_there_is_one_segment) {
        init();
        ops.features &= ~BIT(F_SEG_MAX);
        enter();
        CHECK_EQ(info().max_segments, 1);
        check_read(MIB, 0, 0);
        CHECK_EQ(seen().max_segments, 1);
        leave();
}

TEST(disks_that_cannot_be_driven) {
        init();
        backend_options.features_no_offer = BIT(32);
        check_refused(-EOPNOTSUPP, "VERSION_1");
        init();
        backend_options.protocol_no_offer = BIT(9);
        check_refused(-EOPNOTSUPP, "configuration");
        init();
        ops.features |= BIT(F_BLK_SIZE);
        put(20, 1000, 4);
        check_refused(-EPROTO, "1000");
        init();
        put(0, UINT64_MAX / 100, 8);
        check_refused(-EPROTO, "sectors");
        init();
        ops.features |= BIT(F_SIZE_MAX);
        put(8, 100, 4);
        put(12, 5, 4);
        check_refused(-EPROTO, "do not hold one block");
        init();
        options.n_queues = 2;
        check_refused(-EINVAL, "2 queues");
        init();
        options.queue_size = 100;
        check_refused(-EINVAL, "power of two");
}

TEST(a_small_ring_is_found_by_trying) {
        struct vhk_blk_io ios[64];
        struct vhk_blk_done done[64];
        struct iovec iov;

        init();
        largest_ring = 32;
        enter();
        CHECK_EQ(info().max_segments, 30);
        iov = (struct iovec){ vhk_blk_alloc(b, 512), 512 };
        for (unsigned i = 0; i < 64; i++)
                ios[i] = (struct vhk_blk_io){ .op = VHK_BLK_READ, .iov = &iov, .n_iov = 1 };
        SET(hold, 1);
        CHECK_EQ(vhk_blk_submit(q, ios, 64), 32);
        SET(hold, 0);
        vhk_worker_post(worker, &disk.release);
        for (int n = 0; n < 32;) {
                int k = vhk_blk_reap(q, done, 64, 5000);
                CHECK(k > 0);
                n += k;
        }
        check_read(256 * KIB, 0, 0);
        leave();
        init();
        largest_ring = 32;
        options.queue_size = 64;
        check_refused(-EREMOTEIO, "SET_VRING_NUM");
}

TEST(the_capacity_grows) {
        uint8_t *p;
        int k = -ENXIO;

        init();
        put(0, MIB / 512, 8);
        enter();
        p = vhk_blk_alloc(b, 4096);
        CHECK_EQ(vhk_blk_pread(b, p, 4096, MIB), -ENXIO);
        put(0, 2 * MIB / 512, 8);
        CHECK_OK(vhk_host_config_changed(seen().host));
        for (int i = 0; i < 2000 && k == -ENXIO; i++) {
                usleep(1000);
                k = (int)vhk_blk_pread(b, p, 4096, MIB);
        }
        CHECK_EQ(k, 4096);
        CHECK_EQ(info().capacity, 2 * MIB);
        CHECK_EQ(n_changed, 1);
        leave();
}

/* ---- synchronous ---- */

TEST(errors_of_the_device) {
        static uint8_t p[MIB];

        init();
        enter();
        SET(fail_sector, 1000);
        CHECK_EQ(vhk_blk_pread(b, p, 4096, 1000 * 512), -EIO);
        CHECK_EQ(vhk_blk_pread(b, p, sizeof(p), 0), -EIO);
        CHECK_EQ(vhk_blk_pwrite(b, p, sizeof(p), 0), -EIO);
        check_read(256 * KIB, 0, 0);
        SET(unsupported, 1);
        CHECK_EQ(vhk_blk_flush(b), -EOPNOTSUPP);
        SET(unsupported, 0);
        CHECK_EQ(vhk_blk_flush(b), 0);
        leave();
}

TEST(a_read_only_disk) {
        static uint8_t p[4096];

        init();
        ops.features |= BIT(F_RO);
        enter();
        CHECK_EQ(info().read_only, 1);
        CHECK_EQ(vhk_blk_pwrite(b, p, 4096, 0), -EROFS);
        CHECK_EQ(vhk_blk_discard(b, 0, 4096), -EROFS);
        CHECK_EQ(vhk_blk_write_zeroes(b, 0, 4096, 0), -EROFS);
        check_read(4096, 0, 0);
        leave();
}

TEST(ranges_are_cut) {
        init();
        enter();
        CHECK_OK(vhk_blk_discard(b, 0, 3 * MIB + 512));
        CHECK_EQ(seen().n_ranges, 4);
        CHECK_EQ(seen().ranges_len, 3 * MIB + 512);
        CHECK_OK(vhk_blk_write_zeroes(b, 4096, 2 * MIB + 4096, 1));
        CHECK_EQ(seen().n_ranges, 6);
        CHECK_EQ(vhk_blk_discard(b, 100, 512), -EINVAL);
        CHECK_EQ(vhk_blk_discard(b, sizeof(content), 512), -ENXIO);
        CHECK_OK(vhk_blk_discard(b, 0, 0));
        leave();
        init();
        ops.features = 0;
        enter();
        CHECK_EQ(vhk_blk_discard(b, 0, 512), -EOPNOTSUPP);
        CHECK_EQ(vhk_blk_write_zeroes(b, 0, 512, 0), -EOPNOTSUPP);
        CHECK_EQ(vhk_blk_flush(b), -EOPNOTSUPP);
        CHECK_EQ(vhk_blk_set_writeback(b, 1), -EOPNOTSUPP);
        leave();
}

TEST(the_serial_ends_where_it_ends) {
        char id[21];

        init();
        enter();
        memset(id, 'x', sizeof(id));
        CHECK_OK(vhk_blk_get_id(b, id));
        CHECK_STR(id, "serial-7");
        for (int i = 8; i < 21; i++)
                CHECK_EQ(id[i], 0);
        leave();
}

TEST(write_back) {
        init();
        enter();
        CHECK_EQ(info().writeback, 0);
        CHECK_OK(vhk_blk_set_writeback(b, 1));
        seen();
        CHECK_EQ(config[32], 1);
        CHECK_EQ(info().writeback, 1);
        leave();
}

static void check_error(int code, const char *word) {
        const struct vhk_error *e = vhk_frontend_get_error(vhk_blk_get_frontend(b));

        CHECK_EQ(e->code, code);
        CHECK_MSG(strstr(e->text, word), "\"%s\" does not say \"%s\"", e->text, word);
}

static void a_disk_that_is_late(int polling) {
        static uint8_t p[64 * KIB];
        char id[21];

        init();
        options.polling = (uint8_t)polling;
        enter();
        check_read(4096, 0, 0);
        leave();
        init();
        options.polling = (uint8_t)polling;
        frontend_options.limit_ns = 30000000;
        enter();
        SET(hold, 1);
        CHECK_EQ(vhk_blk_pread(b, p, sizeof(p), 0), -ETIMEDOUT);
        check_error(-ETIMEDOUT, "not answered");
        CHECK_EQ(vhk_blk_pread(b, p, sizeof(p), 0), -ETIMEDOUT);        /* waits for what was abandoned */
        check_error(-ETIMEDOUT, "not answered");
        CHECK_EQ(vhk_blk_flush(b), -ETIMEDOUT);
        CHECK_EQ(vhk_blk_get_id(b, id), -ETIMEDOUT);
        SET(hold, 0);
        vhk_worker_post(worker, &disk.release);
        ssize_t k;
        for (int i = 0; i < 2000 && (k = vhk_blk_pread(b, p, sizeof(p), 0)) == -ETIMEDOUT; i++)
                ;
        CHECK_EQ(k, (long long)sizeof(p));
        CHECK(!memcmp(p, content, sizeof(p)));
        leave();
}

TEST(a_disk_that_is_late_sleeping) { a_disk_that_is_late(0); }
TEST(a_disk_that_is_late_polling) { a_disk_that_is_late(1); }

static void a_back_end_that_dies(int polling) {
        static uint8_t p[MIB];
        struct vhk_blk_done done;
        struct vhk_blk_io io = { .op = VHK_BLK_FLUSH };

        init();
        options.polling = (uint8_t)polling;
        enter();
        SET(die, 1);
        CHECK_EQ(vhk_blk_pread(b, p, sizeof(p), 0), -EPIPE);
        CHECK_EQ(n_gone, 1);
        CHECK_EQ(called_back, -EDEADLK);
        CHECK(strstr(vhk_frontend_get_error(vhk_blk_get_frontend(b))->text, "closed the connection"));
        CHECK_EQ(vhk_blk_submit(q, &io, 1), -EPIPE);
        CHECK_EQ(vhk_blk_reap(q, &done, 1, -1), -EPIPE);
        vhk_worker_post(worker, &disk.release);
        leave();
}

TEST(a_back_end_that_dies_sleeping) { a_back_end_that_dies(0); }
TEST(a_back_end_that_dies_polling) { a_back_end_that_dies(1); }

TEST(a_call_that_fails_says_why) {
        static uint8_t p[4096];

        init();
        ops.features |= BIT(F_BLK_SIZE);
        put(20, 4096, 4);
        enter();
        CHECK_EQ(vhk_blk_pread(b, p, 512, 0), -EINVAL);
        check_error(-EINVAL, "blocks of 4096 bytes");
        CHECK_EQ(vhk_blk_pread(b, p, 4096, sizeof(content)), -ENXIO);
        check_error(-ENXIO, "past the end");
        SET(fail_sector, 8);
        CHECK_EQ(vhk_blk_pread(b, p, 4096, 4096), -EIO);
        check_error(-EIO, "offset 4096");
        leave();
}

TEST(a_read_that_is_reported_as_shorter_is_an_error) {
        struct vhk_blk_done done;
        struct iovec iov;

        init();
        enter();
        iov = (struct iovec){ vhk_blk_alloc(b, 4096), 4096 };
        static const uint32_t unwritten[] = { 1, 512, 4096, 4097 };
        for (size_t i = 0; i < VHK_N(unwritten); i++) {
                SET(unwritten, unwritten[i]);
                CHECK_EQ(vhk_blk_pread(b, iov.iov_base, 4096, 0), -EPROTO);
                check_error(-EPROTO, "expected 4096");
                static uint8_t p[4096];
                CHECK_EQ(vhk_blk_pread(b, p, 4096, 0), -EPROTO);        /* through a bounce buffer */
                CHECK_EQ(vhk_blk_submit(q, &(struct vhk_blk_io){ .op = VHK_BLK_READ, .iov = &iov, .n_iov = 1 }, 1), 1);
                CHECK_EQ(vhk_blk_reap(q, &done, 1, 5000), 1);
                CHECK_EQ(done.result, -EPROTO);
                CHECK_EQ(done.len, 4097 - unwritten[i]);
        }
        CHECK_EQ(vhk_blk_pwrite(b, iov.iov_base, 4096, 0), 4096);       /* some devices count nothing here */
        CHECK_EQ(vhk_blk_flush(b), 0);
        leave();
}

/* The index of the used ring runs ahead of what was added. */
static void break_ring(void) {
        uint64_t device = vhk_drvq_get_setup(q->ring)->device;
        unsigned i = 0;

        while (device - b->d.chunks[i].gpa >= b->d.chunks[i].len)
                i++;
        struct vhk_used *used = (void *)(b->d.chunks[i].va + (device - b->d.chunks[i].gpa));
        vhk_store_relaxed(&used->idx.v, vhk_le16_of(1000).v);
}

TEST(every_call_on_a_broken_ring_says_why) {
        static uint8_t p[4096];
        struct vhk_blk_done done;
        struct vhk_blk_io io = { .op = VHK_BLK_FLUSH };
        char id[21];

        init();
        enter();
        SET(hold, 1);
        CHECK_EQ(vhk_blk_submit(q, &io, 1), 1);
        break_ring();
        CHECK_EQ(vhk_blk_reap(q, &done, 1, 5000), -EPIPE);
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(vhk_blk_pread(b, p, 512, 0), -EPIPE);
                check_error(-EPIPE, "queue 0: the device broke the rules");
                CHECK_EQ(vhk_blk_pread(b, p, 100, 0), -EINVAL);
                CHECK_EQ(vhk_blk_flush(b), -EPIPE);
                check_error(-EPIPE, "queue 0: the device broke the rules");
                CHECK_EQ(vhk_blk_get_id(b, id), -EPIPE);
                CHECK_EQ(vhk_blk_discard(b, 0, 512), -EPIPE);
                CHECK_EQ(vhk_blk_pread(b, p, 100, 0), -EINVAL);
                CHECK_EQ(vhk_blk_submit(q, &io, 1), -EPIPE);
                check_error(-EPIPE, "queue 0: the device broke the rules");
                CHECK_EQ(vhk_blk_reap(q, &done, 1, -1), -EPIPE);
        }
        SET(hold, 0);
        leave();
}

static void *break_when_held(void *arg) {
        while (!seen().n_held)
                usleep(1000);
        break_ring();
        return NULL;
}

TEST(a_ring_that_breaks_during_a_call) {
        static uint8_t p[4096];
        pthread_t t;

        init();
        options.polling = 1;
        enter();
        SET(hold, 1);
        CHECK_EQ(pthread_create(&t, NULL, break_when_held, NULL), 0);
        for (int i = 0; i < 3; i++) {
                CHECK_EQ(vhk_blk_pread(b, p, 512, 0), -EPIPE);
                check_error(-EPIPE, "queue 0: the device broke the rules");
        }
        pthread_join(t, NULL);
        SET(hold, 0);
        leave();
}

/* ---- asynchronous ---- */

static void *release_soon(void *arg) {
        usleep(20000);                  /* most often the other thread sleeps by then; the test holds in any case */
        vhk_worker_post(worker, &disk.release);
        return NULL;
}

TEST(a_reap_with_time_limit_leaves_the_descriptor_readable) {
        struct vhk_blk_io ios[8];
        struct vhk_blk_done done;
        struct iovec iov;
        pthread_t t;

        init();
        enter();
        iov = (struct iovec){ vhk_blk_alloc(b, 512), 512 };
        struct pollfd p = { .fd = vhk_blk_queue_get_fd(q), .events = POLLIN };
        for (unsigned i = 0; i < 8; i++)
                ios[i] = (struct vhk_blk_io){ .op = VHK_BLK_READ, .iov = &iov, .n_iov = 1 };
        for (int round = 0; round < 5; round++) {
                SET(hold, 1);
                CHECK_EQ(vhk_blk_submit(q, ios, 8), 8);
                CHECK_EQ(vhk_blk_reap(q, &done, 1, 0), 0);
                while (seen().n_held < 8)
                        usleep(1000);
                CHECK_EQ(pthread_create(&t, NULL, release_soon, NULL), 0);
                CHECK_EQ(vhk_blk_reap(q, &done, 1, 20000), 1);
                pthread_join(t, NULL);
                for (int n = 1; n < 8; n++) {
                        CHECK_EQ(poll(&p, 1, 20000), 1);
                        CHECK_EQ(vhk_blk_reap(q, &done, 1, 20000), 1);
                }
                SET(hold, 0);
                CHECK_EQ(vhk_blk_submit(q, ios, 1), 1);         /* and the next is told, too */
                CHECK_EQ(poll(&p, 1, 20000), 1);
                CHECK_EQ(vhk_blk_reap(q, &done, 1, 20000), 1);
                CHECK_EQ(vhk_blk_reap(q, &done, 1, 0), 0);
        }
        for (int i = 0; i < 1000 && poll(&p, 1, 0) == 1; i++)
                CHECK_EQ(vhk_blk_reap(q, &done, 1, 0), 0);
        CHECK_EQ(poll(&p, 1, 0), 0);
        leave();
}

TEST(what_is_submitted_is_checked) {
        init();
        enter();
        uint8_t *p = vhk_blk_alloc(b, 64 * KIB), own[512];
        struct iovec ok = { p, 4096 }, half = { p, 100 }, mine = { own, 512 }, none = { p, 0 }, many[127];
        const struct { struct vhk_blk_io io; int k; } rows[] = {
                { { .op = VHK_BLK_READ, .iov = &ok, .n_iov = 1 }, 1 },
                { { .op = (enum vhk_blk_op)77, .iov = &ok, .n_iov = 1 }, -EINVAL },
                { { .op = (enum vhk_blk_op)-1, .iov = &ok, .n_iov = 1 }, -EINVAL },
                { { .op = VHK_BLK_READ, .iov = &half, .n_iov = 1 }, -EINVAL },
                { { .op = VHK_BLK_READ, .iov = &none, .n_iov = 1 }, -EINVAL },
                { { .op = VHK_BLK_READ, .iov = &ok, .n_iov = 0 }, -EINVAL },
                { { .op = VHK_BLK_READ, .iov = many, .n_iov = 127 }, -EINVAL },
                { { .op = VHK_BLK_READ, .iov = &mine, .n_iov = 1 }, -EFAULT },
                { { .op = VHK_BLK_READ, .off = 100, .iov = &ok, .n_iov = 1 }, -EINVAL },
                { { .op = VHK_BLK_READ, .off = sizeof(content), .iov = &ok, .n_iov = 1 }, -ENXIO },
                { { .op = VHK_BLK_WRITE, .off = sizeof(content) - 512, .iov = &ok, .n_iov = 1 }, -ENXIO },
                { { .op = VHK_BLK_DISCARD, .len = 2 * MIB }, -EINVAL },
                { { .op = VHK_BLK_DISCARD, .len = 0 }, -EINVAL },
                { { .op = VHK_BLK_GET_ID, .iov = &ok, .n_iov = 1 }, -EINVAL },
        };
        struct vhk_blk_done done;

        for (int i = 0; i < 127; i++)
                many[i] = (struct iovec){ p, 512 };
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
                int k = vhk_blk_submit(q, &rows[i].io, 1);
                CHECK_MSG(k == rows[i].k, "row %zu gave %d, expected %d", i, k, rows[i].k);
        }
        CHECK_EQ(vhk_blk_reap(q, &done, 1, 5000), 1);
        struct vhk_blk_io two[2] = { rows[0].io, rows[3].io };
        CHECK_EQ(vhk_blk_submit(q, two, 2), 1);                 /* up to the wrong one */
        CHECK_EQ(vhk_blk_reap(q, &done, 1, 5000), 1);
        CHECK_EQ(vhk_blk_reap(q, &done, 1, -1), 0);             /* nothing is in flight: nobody waits for ever */
        leave();
}

TEST(a_full_ring_takes_fewer_and_order_is_free) {
        struct vhk_blk_io ios[200];
        struct iovec iov[200];
        struct vhk_blk_done done[200];
        unsigned seen[200] = { 0 }, n = 0;

        init();
        enter();
        SET(hold, 1);
        SET(reverse, 1);
        uint8_t *p = vhk_blk_alloc(b, 200 * 512);
        for (unsigned i = 0; i < 200; i++) {
                iov[i] = (struct iovec){ p + 512 * i, 512 };
                ios[i] = (struct vhk_blk_io){ .op = VHK_BLK_READ, .off = 512 * (199 - i), .iov = &iov[i], .n_iov = 1, .cookie = &seen[i] };
        }
        CHECK_EQ(vhk_blk_submit(q, ios, 200), 128);             /* the ring's size: one indirect table each */
        CHECK_EQ(vhk_blk_submit(q, ios + 128, 72), 0);
        CHECK_EQ(vhk_blk_reap(q, done, 200, 20), 0);
        CHECK_EQ(vhk_blk_flush(b), -EBUSY);                     /* synchronous calls need queue 0 idle */
        CHECK_EQ(vhk_blk_pread(b, content, 512, 0), -EBUSY);
        SET(hold, 0);
        vhk_worker_post(worker, &disk.release);
        while (n < 128) {
                int k = vhk_blk_reap(q, done, 200, 5000);
                CHECK(k > 0);
                for (int i = 0; i < k; i++) {
                        CHECK_EQ(done[i].result, 0);
                        CHECK_EQ(done[i].len, 513);
                        (*(unsigned *)done[i].cookie)++;
                }
                n += (unsigned)k;
        }
        for (unsigned i = 0; i < 128; i++) {
                CHECK_EQ(seen[i], 1);
                CHECK(!memcmp(p + 512 * i, content + 512 * (199 - i), 512));
        }
        leave();
}

TEST(without_indirect_tables_the_ring_holds_fewer) {
        struct vhk_blk_io ios[50];
        struct vhk_blk_done done[50];
        struct iovec iov;

        init();
        options.queue_size = 16;
        options.features_no_take = BIT(28) | BIT(29);
        enter();
        CHECK_EQ(info().max_segments, 14);
        iov = (struct iovec){ vhk_blk_alloc(b, 512), 512 };
        for (unsigned i = 0; i < 50; i++)
                ios[i] = (struct vhk_blk_io){ .op = VHK_BLK_READ, .iov = &iov, .n_iov = 1 };
        SET(hold, 1);
        CHECK_EQ(vhk_blk_submit(q, ios, 50), 5);                /* 3 descriptors each */
        SET(hold, 0);
        vhk_worker_post(worker, &disk.release);
        for (int n = 0; n < 5;) {
                int k = vhk_blk_reap(q, done, 50, 5000);
                CHECK(k > 0);
                n += k;
        }
        check_read(256 * KIB, 0, 0);
        leave();
}

TEST(a_back_end_without_memory_slots) {
        unsigned n = 0;

        init();
        backend_options.protocol_no_offer = BIT(15);
        enter();
        while (n < 100 && vhk_blk_alloc(b, 17 * MIB))
                n++;
        CHECK_EQ(n, 7);                         /* eight regions, one is the disk's own */
        CHECK(vhk_blk_alloc(b, 64 * KIB));      /* there is room in those */
        check_read(256 * KIB, 0, 1);
        check_read(256 * KIB, 0, 0);
        leave();
}

TEST(allocations_are_aligned_and_apart) {
        init();
        enter();
        uint8_t *a = vhk_blk_alloc(b, 1), *c = vhk_blk_alloc(b, 512), *d = vhk_blk_alloc(b, 5000), *e = vhk_blk_alloc(b, 40 * MIB);
        CHECK(a && c && d && e);
        CHECK(c >= a + 1 && d >= c + 512);
        CHECK_EQ((uintptr_t)c % 512 + (uintptr_t)d % 4096 + (uintptr_t)e % 4096, 0);
        CHECK(!vhk_blk_alloc(b, 0));
        CHECK(!vhk_blk_alloc(b, SIZE_MAX));
        memset(e, 1, 40 * MIB);
        leave();
}
