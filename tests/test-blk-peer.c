/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * test-blk-peer ENDPOINT [--queues N] [--write] [--except TEST]: any block back-end, vhost-user or vhost-vdpa, held against
 * virtio 1.3, 5.2, through the public headers: the driver's calls sleeping and polling, then raw requests in shapes that a
 * driver may send and this one does not. With --write the disk's content is lost; --except names what the device is known
 * to do otherwise. Prints "ok", "FAIL" or "skip" and a summary as every test here.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <time.h>

#include <vhostkit/vhostkit.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define N(a) (sizeof(a) / sizeof((a)[0]))

static const char *endpoint, *except = "";
static unsigned n_queues = 1;
static int may_write;
static struct vhk_blk *disk;
static struct vhk_blk_info info;
static char story[600];
static int passed, failed, skipped;

enum outcome { OK, FAIL, SKIP };

#define EXPECT(cond, ...)                                                               \
        do {                                                                            \
                if (!(cond)) {                                                          \
                        snprintf(story, sizeof(story), __VA_ARGS__);                    \
                        return FAIL;                                                    \
                }                                                                       \
        } while (0)
#define EXPECT_EQ(a, b)                                                                 \
        do {                                                                            \
                long long a_ = (long long)(a), b_ = (long long)(b);                     \
                EXPECT(a_ == b_, "line %d: %s is %lld, expected %lld", __LINE__, #a, a_, b_); \
        } while (0)
#define NEEDS(cond, why)                                                                \
        do {                                                                            \
                if (!(cond)) {                                                          \
                        snprintf(story, sizeof(story), "%s", why);                      \
                        return SKIP;                                                    \
                }                                                                       \
        } while (0)
#define NEEDS_WRITING() NEEDS(may_write && !info.read_only, may_write ? "the disk is read-only" : "--write was not given")

/* Bytes that tell their place and their writing. */
static void pattern(uint8_t *p, size_t n, uint64_t off, uint64_t seed) {
        for (size_t i = 0; i < n; i += 8) {
                uint64_t x = (off + i + 1) * 0x9e3779b97f4a7c15ull ^ seed * 0xc2b2ae3d27d4eb4full;
                x ^= x >> 29;
                memcpy(p + i, &x, n - i < 8 ? n - i : 8);
        }
}

static int is_pattern(const uint8_t *p, size_t n, uint64_t off, uint64_t seed) {
        uint8_t want[512];

        for (size_t i = 0; i < n; i += sizeof(want)) {
                pattern(want, sizeof(want), off + i, seed);
                if (memcmp(p + i, want, n - i < sizeof(want) ? n - i : sizeof(want)))
                        return 0;
        }
        return 1;
}

static int is_zero(const uint8_t *p, size_t n) {
        while (n > 0)
                if (p[--n])
                        return 0;
        return 1;
}

/* ---- what the driver's calls show ---- */

static enum outcome config_is_sane(void) {
        EXPECT(info.capacity >= info.block_size, "the capacity is %llu bytes", (unsigned long long)info.capacity);
        EXPECT(info.block_size >= 512 && !(info.block_size & (info.block_size - 1)), "blocks of %u bytes", info.block_size);
        EXPECT_EQ(info.capacity % info.block_size, 0);
        EXPECT(info.physical_block_size >= info.block_size, "physical blocks of %u bytes", info.physical_block_size);
        EXPECT(info.n_queues >= n_queues, "the device has %u queues", info.n_queues);
        EXPECT(info.max_segments >= 1 && info.max_segment_size >= 1, "no segment is possible");
        return OK;
}

static enum outcome id_is_a_string(void) {
        char id[21];

        memset(id, 'x', sizeof(id));
        int k = vhk_blk_get_id(disk, id);
        NEEDS(k != -EOPNOTSUPP, "the device has no id");
        EXPECT_EQ(k, 0);
        EXPECT_EQ(id[20], 0);
        for (const char *p = id; *p; p++)
                EXPECT(*p >= ' ' && *p <= '~', "the id holds byte 0x%x", (unsigned char)*p);
        return OK;
}

static enum outcome first_and_last_block_are_read(void) {
        uint8_t *p = malloc(info.block_size);
        ssize_t a = vhk_blk_pread(disk, p, info.block_size, 0);
        ssize_t b = vhk_blk_pread(disk, p, info.block_size, info.capacity - info.block_size);

        free(p);
        EXPECT_EQ(a, info.block_size);
        EXPECT_EQ(b, info.block_size);
        return OK;
}

static enum outcome wrong_places_are_refused(void) {
        uint8_t p[1024];

        EXPECT_EQ(vhk_blk_pread(disk, p, 100, 0), -EINVAL);
        EXPECT_EQ(vhk_blk_pread(disk, p, 512, 1), -EINVAL);
        EXPECT_EQ(vhk_blk_pread(disk, p, 0, 0), 0);
        EXPECT_EQ(vhk_blk_pread(disk, p, info.block_size, info.capacity), -ENXIO);
        EXPECT_EQ(vhk_blk_pread(disk, p, info.block_size, 0 - (uint64_t)info.block_size), -ENXIO);
        if (info.read_only)
                EXPECT_EQ(vhk_blk_pwrite(disk, p, info.block_size, 0), -EROFS);
        return OK;
}

static enum outcome write_and_verify(uint8_t *buf, size_t n, uint64_t off, uint64_t seed) {
        pattern(buf, n, off, seed);
        EXPECT_EQ(vhk_blk_pwrite(disk, buf, n, off), n);
        memset(buf, 0xee, n);
        EXPECT_EQ(vhk_blk_pread(disk, buf, n, off), n);
        EXPECT(is_pattern(buf, n, off, seed), "%zu bytes at %llu are not what was written", n, (unsigned long long)off);
        return OK;
}

static enum outcome what_is_written_is_read(void) {
        size_t sizes[] = { info.block_size, 3 * info.block_size, 64 * KIB, 128 * KIB + info.block_size, MIB + info.block_size, 5 * MIB };
        size_t most = info.capacity < 8 * MIB ? info.capacity : 8 * MIB;

        NEEDS_WRITING();
        uint8_t *own = malloc(most), *lent = vhk_blk_alloc(disk, most);
        enum outcome o = lent && own ? OK : FAIL;
        for (size_t i = 0; i < N(sizes) && o == OK; i++) {
                if (sizes[i] > most)
                        continue;
                uint64_t last = info.capacity - sizes[i];
                o = write_and_verify(own, sizes[i], 0, i);
                if (o == OK)
                        o = write_and_verify(lent, sizes[i], last, i + 100);
                if (o == OK)
                        o = write_and_verify(lent, sizes[i], last / 2 & ~(uint64_t)(info.block_size - 1), i + 200);
        }
        free(own);
        return o;
}

static enum outcome neighbours_stay(void) {
        unsigned bs = info.block_size;

        NEEDS_WRITING();
        uint8_t *p = malloc(16 * bs);
        pattern(p, 16 * bs, 0, 7);
        EXPECT_EQ(vhk_blk_pwrite(disk, p, 16 * bs, 0), 16 * bs);
        pattern(p, bs, 5 * bs, 8);
        EXPECT_EQ(vhk_blk_pwrite(disk, p, bs, 5 * bs), bs);
        EXPECT_EQ(vhk_blk_pread(disk, p, 16 * bs, 0), 16 * bs);
        EXPECT(is_pattern(p, 5 * bs, 0, 7), "the blocks before have changed");
        EXPECT(is_pattern(p + 5 * bs, bs, 5 * bs, 8), "the block was not written");
        EXPECT(is_pattern(p + 6 * bs, 10 * bs, 6 * bs, 7), "the blocks behind have changed");
        free(p);
        return OK;
}

static enum outcome flush(void) {
        int k = vhk_blk_flush(disk);

        NEEDS(k != -EOPNOTSUPP, "the device has no FLUSH");
        EXPECT_EQ(k, 0);
        return OK;
}

static enum outcome zeroes(int unmap) {
        size_t n = 64 * KIB;
        uint8_t *p = malloc(n);

        pattern(p, n, 0, 9);
        EXPECT_EQ(vhk_blk_pwrite(disk, p, n, 0), n);
        EXPECT_EQ(vhk_blk_write_zeroes(disk, 16 * KIB, 32 * KIB, unmap), 0);
        EXPECT_EQ(vhk_blk_pread(disk, p, n, 0), n);
        EXPECT(is_zero(p + 16 * KIB, 32 * KIB), "not all is zero");
        EXPECT(is_pattern(p, 16 * KIB, 0, 9) && is_pattern(p + 48 * KIB, 16 * KIB, 48 * KIB, 9), "the neighbours have changed");
        free(p);
        return OK;
}

static enum outcome write_zeroes(void) {
        NEEDS_WRITING();
        NEEDS(vhk_blk_write_zeroes(disk, 0, 0, 0) != -EOPNOTSUPP, "the device has no WRITE_ZEROES");
        enum outcome o = zeroes(0);
        return o == OK ? zeroes(1) : o;
}

static enum outcome discard(void) {
        size_t n = 64 * KIB;

        NEEDS_WRITING();
        NEEDS(vhk_blk_discard(disk, 0, 0) != -EOPNOTSUPP, "the device has no DISCARD");
        uint8_t *p = malloc(n);
        pattern(p, n, 0, 11);
        EXPECT_EQ(vhk_blk_pwrite(disk, p, n, 0), n);
        EXPECT_EQ(vhk_blk_discard(disk, 16 * KIB, 32 * KIB), 0);
        EXPECT_EQ(vhk_blk_pread(disk, p, n, 0), n);
        EXPECT(is_pattern(p, 16 * KIB, 0, 11) && is_pattern(p + 48 * KIB, 16 * KIB, 48 * KIB, 11), "the neighbours have changed");
        free(p);
        return OK;
}

static enum outcome writeback_is_set(void) {
        struct vhk_blk_info i = { .size = sizeof(i) };

        NEEDS_WRITING();
        NEEDS(info.features & 1u << 11, "the device has no CONFIG_WCE");
        for (int on = 0; on < 2; on++) {
                EXPECT_EQ(vhk_blk_set_writeback(disk, on), 0);
                EXPECT_EQ(vhk_blk_get_info(disk, &i), 0);
                EXPECT_EQ(i.writeback, on);
                uint8_t *p = malloc(64 * KIB);
                enum outcome o = write_and_verify(p, 64 * KIB, 0, 20 + (unsigned)on);
                free(p);
                if (o != OK)
                        return o;
        }
        return OK;
}

/* ---- asynchronous ---- */

#define DEPTH 32
struct job {
        pthread_t thread;
        unsigned queue, rounds;
        uint64_t base, len;             /* its own part of the disk */
        uint8_t *mem;
        enum outcome o;
        char story[200];
};

static int wait_for(struct vhk_blk_queue *q, struct vhk_blk_done *done, unsigned n) {
        int fd = vhk_blk_queue_get_fd(q);

        if (fd < 0)
                return vhk_blk_reap(q, done, n, 10000);
        for (time_t end = time(NULL) + 10; time(NULL) <= end;) {        /* by the descriptor, as a program with its own loop does */
                int k = vhk_blk_reap(q, done, n, 0);
                if (k != 0)
                        return k;
                poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 1000);
        }
        return -ETIMEDOUT;
}

#define JOB_FAIL(...) do { snprintf(j->story, sizeof(j->story), __VA_ARGS__); j->o = FAIL; return NULL; } while (0)

/* Each lane writes a block, reads it back, checks it, and moves on. */
static void *work(void *arg) {
        struct job *j = arg;
        struct vhk_blk_queue *q;
        struct vhk_blk_done done[DEPTH];
        struct iovec iov[DEPTH];
        struct vhk_blk_io ios[DEPTH];
        unsigned step[DEPTH] = { 0 }, in_flight = 0, bs = info.block_size > 4096 ? info.block_size : 4096;
        uint64_t n_blocks = j->len / bs;

        j->o = OK;
        if (vhk_blk_get_queue(disk, j->queue, &q) < 0)
                JOB_FAIL("no queue %u", j->queue);
        for (unsigned finished = 0; finished < DEPTH;) {
                unsigned n = 0;
                for (unsigned l = 0; l < DEPTH; l++) {
                        if (step[l] & 1 || step[l] >= 4 * j->rounds)    /* odd: in flight */
                                continue;
                        unsigned round = step[l] / 4;
                        uint64_t off = j->base + (round * DEPTH + l) % n_blocks * bs;
                        int writes = step[l] % 4 == 0;
                        if (writes)
                                pattern(j->mem + (size_t)l * bs, bs, off, round + 1000 * j->queue);
                        else
                                memset(j->mem + (size_t)l * bs, 0, bs);
                        iov[l] = (struct iovec){ j->mem + (size_t)l * bs, bs };
                        ios[n++] = (struct vhk_blk_io){ .op = writes && may_write && !info.read_only ? VHK_BLK_WRITE : VHK_BLK_READ, .off = off, .iov = &iov[l], .n_iov = 1,
                                .cookie = &step[l] };
                }
                int k = n ? vhk_blk_submit(q, ios, n) : 0;
                if (k < 0)
                        JOB_FAIL("submit: %s", strerror(-k));
                for (int i = 0; i < k; i++)
                        (*(unsigned *)ios[i].cookie)++;
                in_flight += (unsigned)k;
                k = wait_for(q, done, DEPTH);
                if (k <= 0)
                        JOB_FAIL("reap: %s", k ? strerror(-k) : "time is over");
                in_flight -= (unsigned)k;
                for (int i = 0; i < k; i++) {
                        unsigned *s = done[i].cookie, l = (unsigned)(s - step), round = *s / 4;
                        uint64_t off = j->base + (round * DEPTH + l) % n_blocks * bs;
                        if (done[i].result)
                                JOB_FAIL("a request failed: %s", strerror(-done[i].result));
                        if (*s % 4 == 3 && may_write && !info.read_only && !is_pattern(j->mem + (size_t)l * bs, bs, off, round + 1000 * j->queue))
                                JOB_FAIL("queue %u: block at %llu is not what was written", j->queue, (unsigned long long)off);
                        finished += ++*s >= 4 * j->rounds;
                }
        }
        if (in_flight)
                JOB_FAIL("%u requests are left", in_flight);
        return NULL;
}

static enum outcome requests_in_flight(void) {
        struct job j = { .queue = n_queues - 1, .rounds = 40, .base = 0, .len = info.capacity < 4 * MIB ? info.capacity : 4 * MIB };

        NEEDS(j.len >= 2 * MIB, "the disk is too small");
        j.mem = vhk_blk_alloc(disk, DEPTH * 64 * KIB);
        EXPECT(j.mem, "out of memory");
        work(&j);
        snprintf(story, sizeof(story), "%s", j.story);
        return j.o;
}

static enum outcome queues_at_once(void) {
        struct job j[64] = { { .queue = 0 } };
        uint64_t each = info.capacity / n_queues & ~(uint64_t)65535;

        NEEDS(n_queues > 1 && n_queues <= 64, "one queue is in use (--queues)");
        NEEDS(each >= 2 * MIB, "the disk is too small");
        for (unsigned i = 0; i < n_queues; i++) {
                j[i] = (struct job){ .queue = i, .rounds = 20, .base = i * each, .len = each, .mem = vhk_blk_alloc(disk, DEPTH * 64 * KIB) };
                EXPECT(j[i].mem && pthread_create(&j[i].thread, NULL, work, &j[i]) == 0, "no thread");
        }
        enum outcome o = OK;
        for (unsigned i = 0; i < n_queues; i++) {
                pthread_join(j[i].thread, NULL);
                if (j[i].o == OK)
                        continue;
                o = j[i].o;
                snprintf(story, sizeof(story), "%s", j[i].story);
        }
        return o;
}

static enum outcome scattered_buffers(void) {
        static const size_t cuts[] = { 1, 2, 13, 496, 512, 1024, 511, 1, 1536 };        /* 4096 bytes */
        struct vhk_blk_done done;
        struct vhk_blk_queue *q;
        struct iovec iov[N(cuts)];
        uint8_t *mem = vhk_blk_alloc(disk, 64 * KIB), whole[4096];

        NEEDS_WRITING();
        NEEDS(info.max_segments >= N(cuts), "the device takes too few segments");
        EXPECT(mem && vhk_blk_get_queue(disk, 0, &q) == 0, "no queue");
        pattern(whole, sizeof(whole), 0, 33);
        for (int reading = 0; reading < 2; reading++) {
                size_t at = 0;
                for (size_t i = 0; i < N(cuts); at += cuts[i++]) {
                        iov[i] = (struct iovec){ mem + i * 5000 + i, cuts[i] };
                        if (reading)
                                memset(iov[i].iov_base, 0, cuts[i]);
                        else
                                memcpy(iov[i].iov_base, whole + at, cuts[i]);
                }
                struct vhk_blk_io io = { .op = reading ? VHK_BLK_READ : VHK_BLK_WRITE, .off = 0, .iov = iov, .n_iov = N(cuts), .cookie = whole };
                EXPECT_EQ(vhk_blk_submit(q, &io, 1), 1);
                EXPECT_EQ(wait_for(q, &done, 1), 1);
                EXPECT_EQ(done.result, 0);
                EXPECT(done.cookie == whole, "not our request");
                EXPECT_EQ(done.len, reading ? sizeof(whole) + 1 : 1);
        }
        size_t at = 0;
        for (size_t i = 0; i < N(cuts); at += cuts[i++])
                EXPECT(!memcmp(iov[i].iov_base, whole + at, cuts[i]), "piece %zu differs", i);
        return OK;
}

/* ---- raw requests ---- */

static struct vhk_frontend *f;
static struct vhk_memory *m;
static struct vhk_drvq *raw;
static const struct vhk_drvq_options raw_options = { .size = sizeof(raw_options), .num = 32 };
static uint8_t *mem;
enum { T_IN = 0, T_OUT = 1, T_GET_ID = 8 };
enum { S_OK, S_IOERR, S_UNSUPP };

static enum outcome raw_open(void) {
        struct vhk_frontend_options o = { .size = sizeof(o), .connect_ns = 5000000000ull };
        struct vhk_frontend_info i = { .size = sizeof(i) };
        struct vhk_error e;
        void *va;

        EXPECT(vhk_frontend_open(endpoint, &o, &f, &e) == 0, "%s", e.text);
        EXPECT_EQ(vhk_frontend_get_info(f, &i), 0);
        EXPECT_EQ(vhk_frontend_set_features(f, i.features & (1ull << 32 | 1ull << 29 | 1ull << 9 | 1ull << 6)), 0);
        EXPECT_EQ(vhk_memory_new(&m), 0);
        EXPECT_EQ(vhk_memory_alloc(m, MIB, &va), 0);
        EXPECT_EQ(vhk_drvq_new(f, m, 0, &raw_options, &raw), 0);
        mem = va;
        return OK;
}

static enum outcome raw_close(void) {
        vhk_drvq_free(raw);
        vhk_frontend_close(f);
        vhk_memory_free(m);
        return OK;
}

/* One request of header @type/@sector (at mem), the writable part ending with the status byte. -1: it never came back. */
static int request(const struct iovec *sg, unsigned n_out, unsigned n_in, uint8_t *status, uint32_t *ret_len) {
        struct vhk_done done;

        *status = 0xff;
        if (vhk_drvq_add(raw, sg, n_out, n_in, (void *)sg) < 0 || vhk_drvq_kick(raw) < 0)
                return -1;
        for (int tries = 0; tries < 10000; tries++) {
                int k = vhk_drvq_reap(raw, &done, 1);
                if (k == 1 && ret_len)
                        *ret_len = done.len;
                if (k != 0)
                        return k == 1 && done.cookie == sg ? *(volatile uint8_t *)status : -1;
                /* 10000 times a millisecond: the descriptor is emptied, else it would be ready for ever */
                struct pollfd p = { .fd = vhk_drvq_get_fd(raw), .events = POLLIN };
                if (poll(&p, 1, 1) > 0 && read(p.fd, &(uint64_t){ 0 }, 8) < 0)
                        return -1;
        }
        return -1;
}

static void header(uint8_t *at, uint32_t type, uint64_t sector) {
        uint32_t t[2] = { htole32(type), 0 };
        uint64_t s = htole64(sector);

        memcpy(at, t, 8);
        memcpy(at + 8, &s, 8);
}

static int simple(uint32_t type, uint64_t sector, size_t n, uint32_t *ret_len) {
        struct iovec sg[3] = { { mem, 16 }, { mem + 4096, n }, { mem + 64, 1 } };

        header(mem, type, sector);
        return request(sg, type == T_OUT ? 2 : 1, type == T_OUT ? 1 : 2, mem + 64, ret_len);
}

static enum outcome raw_out_of_range(void) {
        uint64_t sectors = info.capacity / 512, per_block = info.block_size / 512;

        EXPECT_EQ(simple(T_IN, sectors - per_block, info.block_size, NULL), S_OK);
        EXPECT_EQ(simple(T_IN, sectors, info.block_size, NULL), S_IOERR);
        EXPECT_EQ(simple(T_IN, sectors - per_block, 2 * info.block_size, NULL), S_IOERR);
        EXPECT_EQ(simple(T_IN, UINT64_MAX / 512, info.block_size, NULL), S_IOERR);
        EXPECT_EQ(simple(T_IN, UINT64_MAX, info.block_size, NULL), S_IOERR);
        if (may_write)
                EXPECT_EQ(simple(T_OUT, sectors, info.block_size, NULL), S_IOERR);
        return OK;
}

static enum outcome raw_unknown_type(void) {
        EXPECT_EQ(simple(2, 0, 512, NULL), S_UNSUPP);           /* SCSI_CMD, long gone */
        EXPECT_EQ(simple(0x1234568, 0, 512, NULL), S_UNSUPP);
        return OK;
}

static enum outcome raw_used_len(void) {
        uint32_t len = 0;

        EXPECT_EQ(simple(T_IN, 0, 4096, &len), S_OK);
        EXPECT_EQ(len, 4097);
        if (may_write && !info.read_only) {
                EXPECT_EQ(simple(T_OUT, 0, 4096, &len), S_OK);
                EXPECT_EQ(len, 1);
        }
        return OK;
}

static enum outcome raw_header_in_pieces(void) {
        struct iovec sg[18];

        header(mem, T_IN, 0);
        EXPECT_EQ(simple(T_IN, 0, 4096, NULL), S_OK);
        memcpy(mem + 32 * KIB, mem + 4096, 4096);
        for (int i = 0; i < 16; i++)
                sg[i] = (struct iovec){ mem + i, 1 };
        sg[16] = (struct iovec){ mem + 4096, 4096 };
        sg[17] = (struct iovec){ mem + 64, 1 };
        memset(mem + 4096, 0xee, 4096);
        EXPECT_EQ(request(sg, 16, 2, mem + 64, NULL), S_OK);
        EXPECT(!memcmp(mem + 4096, mem + 32 * KIB, 4096), "other bytes than in one piece");
        return OK;
}

static enum outcome raw_status_behind_data(void) {
        struct iovec sg[2] = { { mem, 16 }, { mem + 4096, 4097 } };

        header(mem, T_IN, 0);
        EXPECT_EQ(request(sg, 1, 1, mem + 8192, NULL), S_OK);
        return OK;
}

static enum outcome raw_header_with_data(void) {
        struct iovec sg[2] = { { mem + 8192, 16 + 4096 }, { mem + 64, 1 } };

        NEEDS_WRITING();
        header(mem + 8192, T_OUT, 8);
        pattern(mem + 8192 + 16, 4096, 8 * 512, 55);
        EXPECT_EQ(request(sg, 1, 1, mem + 64, NULL), S_OK);
        EXPECT_EQ(simple(T_IN, 8, 4096, NULL), S_OK);
        EXPECT(is_pattern(mem + 4096, 4096, 8 * 512, 55), "the data behind the header did not arrive");
        return OK;
}

static enum outcome raw_restart(void) {
        vhk_drvq_free(raw);
        raw = NULL;
        EXPECT_EQ(vhk_drvq_new(f, m, 0, &raw_options, &raw), 0);
        EXPECT_EQ(simple(T_IN, 0, 4096, NULL), S_OK);
        return OK;
}

/* ---- the list ---- */

struct test {
        const char *name;
        enum outcome (*fn)(void);
};
#define ROW(fn) { #fn, fn }
static const struct test driver_tests[] = {
        ROW(config_is_sane), ROW(id_is_a_string), ROW(first_and_last_block_are_read), ROW(wrong_places_are_refused), ROW(what_is_written_is_read),
        ROW(neighbours_stay), ROW(flush), ROW(write_zeroes), ROW(discard), ROW(writeback_is_set), ROW(requests_in_flight), ROW(queues_at_once),
        ROW(scattered_buffers),
};
static const struct test raw_tests[] = {
        ROW(raw_open), ROW(raw_out_of_range), ROW(raw_unknown_type), ROW(raw_used_len), ROW(raw_header_in_pieces), ROW(raw_status_behind_data),
        ROW(raw_header_with_data), ROW(raw_restart), ROW(raw_close),
};

static enum outcome run(const struct test *t, const char *how) {
        story[0] = 0;
        enum outcome o = SKIP;

        if (strcmp(t->name, except))
                o = t->fn();
        else
                snprintf(story, sizeof(story), "--except");
        printf("%s %s%s%s%s\n", o == OK ? "ok" : o == FAIL ? "FAIL" : "skip", t->name, how, story[0] ? ": " : "", story);
        fflush(stdout);
        passed += o == OK;
        failed += o == FAIL;
        skipped += o == SKIP;
        return o;
}

static int open_disk(int polling) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .connect_ns = 5000000000ull };
        struct vhk_blk_options o = { .size = sizeof(o), .frontend = &fo, .n_queues = (uint16_t)n_queues, .polling = (uint8_t)polling };
        struct vhk_error e;

        if (vhk_blk_open(endpoint, &o, &disk, &e) < 0) {
                printf("FAIL open: %s\n", e.text);
                failed++;
                return -1;
        }
        info.size = sizeof(info);
        return vhk_blk_get_info(disk, &info);
}

static int usage(void) {
        fprintf(stderr, "usage: test-blk-peer ENDPOINT [--queues N] [--write]\n");
        return 2;
}

int main(int argc, char **argv) {
        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--write"))
                        may_write = 1;
                else if (!strcmp(argv[i], "--queues") && i + 1 < argc)
                        n_queues = (unsigned)atoi(argv[++i]);
                else if (!strcmp(argv[i], "--except") && i + 1 < argc)
                        except = argv[++i];
                else if (argv[i][0] != '-' && !endpoint)
                        endpoint = argv[i];
                else
                        return usage();
        }
        if (!endpoint || n_queues < 1)
                return usage();
        for (int polling = 0; polling < 2 && open_disk(polling) == 0; polling++) {
                for (size_t i = 0; i < N(driver_tests); i++)
                        run(&driver_tests[i], polling ? " (polling)" : "");
                disk = vhk_blk_close(disk);
        }
        for (size_t i = 0; i < N(raw_tests) && info.size; i++)
                if (run(&raw_tests[i], "") == FAIL && i == 0)
                        break;
        printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
        return failed ? 1 : 0;
}
