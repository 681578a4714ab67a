/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What requests do, in every shape and at every limit; what the device says of itself; what it refuses to be. */
#include <linux/virtio_ring.h>
#include <sys/stat.h>
#include <time.h>

#include "device/test-blk.h"

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

/* ---- what must be refused (H48); used.len counts what was written from the first writable byte
 * on, and no byte past a gap ---- */

static const struct limit {
        const char *name;
        uint32_t type;
        uint64_t sector;
        uint32_t n_out, n_in;   /* data bytes */
        int want;
        uint32_t len;
} limits[] = {
        { "last sector", BLK_T_IN, DISK / 512 - 1, 0, 512, BLK_S_OK, 513 },
        { "behind the end", BLK_T_IN, DISK / 512, 0, 512, BLK_S_IOERR, 0 },
        { "across the end", BLK_T_IN, DISK / 512 - 1, 0, 1024, BLK_S_IOERR, 0 },
        { "sector overflows when it is bytes", BLK_T_IN, UINT64_MAX / 512 + 1, 0, 512, BLK_S_IOERR, 0 },
        { "sector overflows to 0", BLK_T_OUT, UINT64_C(1) << 55, 512, 0, BLK_S_IOERR, 1 },
        { "largest sector", BLK_T_OUT, UINT64_MAX, 512, 0, BLK_S_IOERR, 1 },
        { "not whole sectors, read", BLK_T_IN, 0, 0, 511, BLK_S_IOERR, 0 },
        { "not whole sectors, write", BLK_T_OUT, 0, 513, 0, BLK_S_IOERR, 1 },
        { "no data, read", BLK_T_IN, 0, 0, 0, BLK_S_OK, 1 },
        { "no data, write", BLK_T_OUT, 0, 0, 0, BLK_S_OK, 1 },
        { "no data, behind the end", BLK_T_OUT, DISK / 512 + 1, 0, 0, BLK_S_IOERR, 1 },
        { "SCSI command", 2, 0, 0, 0, BLK_S_UNSUPP, 1 },
        { "SCSI command with data", 2, 0, 96, 4096, BLK_S_UNSUPP, 0 },
        { "lifetime", 10, 0, 0, 6, BLK_S_UNSUPP, 0 },
        { "secure erase", 14, 0, 16, 0, BLK_S_UNSUPP, 1 },
        { "zone report", 16, 0, 0, 4096, BLK_S_UNSUPP, 0 },
        { "unknown type", UINT32_MAX, 0, 0, 0, BLK_S_UNSUPP, 1 },
        { "legacy barrier bit", 0x80000000, 0, 0, 512, BLK_S_UNSUPP, 0 },
        { "id, no room", BLK_T_GET_ID, 0, 0, 0, BLK_S_OK, 1 },
        { "id, little room", BLK_T_GET_ID, 0, 0, 7, BLK_S_OK, 8 },
        { "id, much room", BLK_T_GET_ID, 0, 0, 4096, BLK_S_OK, 20 },
        { "flush with data", BLK_T_FLUSH, 0, 512, 512, BLK_S_OK, 0 },
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
        run_one(&m, &b, &plain, "between blocks", BLK_S_IOERR, 0);
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

/* ---- the null engine ---- */

TEST(null_engine) {
        struct machine m = { .fd = -1 };

        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL, .capacity = DISK }, FLUSH);
        CHECK_EQ(vhk_blkdev_get_capacity(m.d), DISK);
        struct request r = make(&m, BLK_T_IN, DISK / 512 - 8, 0, 4096);
        run_one(&m, &r, &plain, "read", BLK_S_OK, 0);           /* nothing was written: nothing is claimed */
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

/* ---- the cache mode ---- */

static unsigned get_writeback(struct machine *m) {
        uint8_t writeback;

        CHECK_OK(m->ops.get_config(m->d, 32, &writeback, 1));
        CHECK_EQ(writeback, m->d->writeback);
        return writeback;
}

static void set_writeback(struct machine *m, uint8_t writeback) {
        CHECK_OK(m->ops.set_config(m->d, 32, &writeback, 1, VHK_CONFIG_DRIVER));
        CHECK_EQ(get_writeback(m), writeback);
}

/* Status 0 at "stop", at a reboot, and RESET_DEVICE are the same to the device. */
TEST(write_through_survives_resets_until_a_driver_writes_1) {
        struct machine m = { .fd = -1 };

        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL, .capacity = DISK }, FLUSH | WCE);
        set_writeback(&m, 0);
        for (unsigned i = 0; i < 3; i++) {
                m.ops.reset(m.d);
                CHECK_EQ(get_writeback(&m), 0);
                CHECK_OK(m.ops.negotiated(m.d, i == 1 ? 0 : FLUSH | WCE));      /* in between, firmware that knows neither */
                CHECK_EQ(get_writeback(&m), 0);
        }
        set_writeback(&m, 1);
        m.ops.reset(m.d);
        CHECK_OK(m.ops.negotiated(m.d, FLUSH | WCE));
        CHECK_EQ(get_writeback(&m), 1);
        CHECK_OK(m.ops.negotiated(m.d, 0));             /* what no driver chose is no choice */
        CHECK_EQ(get_writeback(&m), 0);
        CHECK_OK(m.ops.set_config(m.d, 0, &(uint64_t){ DISK / 512 }, 8, VHK_CONFIG_DRIVER));
        CHECK_OK(m.ops.negotiated(m.d, FLUSH | WCE));
        CHECK_EQ(get_writeback(&m), 1);
        stop(&m);
}

TEST(write_through_ends_with_the_connection_for_a_front_end_that_reads_the_mode) {
        struct machine m = { .fd = -1 };
        uint64_t capacity;

        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL, .capacity = DISK }, FLUSH | WCE);
        for (unsigned reads = 0; reads < 2; reads++) {
                set_writeback(&m, 0);
                m.ops.reset(m.d);
                m.ops.disconnected(m.d);
                CHECK_OK(m.ops.get_config(m.d, 0, &capacity, 8));
                if (reads)
                        CHECK_EQ(get_writeback(&m), 1);
                CHECK_OK(m.ops.negotiated(m.d, FLUSH | WCE));
                CHECK_EQ(m.d->writeback, reads);
                CHECK_EQ(get_writeback(&m), reads);     /* once queues run, reading changes nothing */
                CHECK_EQ(m.d->writeback, reads);
        }
        stop(&m);
}

/* ---- another size ---- */

static uint64_t said_capacity(struct machine *m) {
        uint64_t sectors;

        CHECK_OK(m->ops.get_config(m->d, 0, &sectors, 8));
        CHECK_EQ(vhk_blkdev_get_capacity(m->d), sectors * 512);
        return sectors * 512;
}

static void read_at(struct machine *m, uint64_t off, int wanted) {
        struct request r = make(m, BLK_T_IN, off / 512, 0, 1024);

        run_one(m, &r, &plain, "read", wanted, wanted == BLK_S_OK ? 1025 : 0);
}

/* The ring's size is the front-end's choice, and may be smaller than what the device offers. */
TEST(segments_fit_into_the_ring_where_there_are_no_indirect_descriptors) {
        struct vhk_blkdev_options o = { .engine = VHK_BLKDEV_NULL, .capacity = DISK, .queue_size = 1024 };
        struct machine m = { .fd = -1 };
        struct blk_config c;
        int before = n_changed;

        CHECK_OK(start_device(&m, &o, FLUSH, NULL));
        CHECK_OK(m.ops.get_config(m.d, 0, &c, sizeof(c)));
        CHECK_EQ(vhk_le32_get(c.seg_max), 126);
        blk_note_ring_size(m.d, 64);
        CHECK_OK(m.ops.get_config(m.d, 0, &c, sizeof(c)));
        CHECK_EQ(vhk_le32_get(c.seg_max), 62);
        blk_note_ring_size(m.d, 256);
        CHECK_OK(m.ops.negotiated(m.d, FLUSH | VHK_BIT(VIRTIO_RING_F_INDIRECT_DESC)));
        CHECK_OK(m.ops.get_config(m.d, 0, &c, sizeof(c)));
        CHECK_EQ(vhk_le32_get(c.seg_max), 126);
        CHECK_OK(m.ops.negotiated(m.d, FLUSH));
        CHECK_OK(m.ops.get_config(m.d, 0, &c, sizeof(c)));
        CHECK_EQ(vhk_le32_get(c.seg_max), 62);
        m.ops.reset(m.d);
        CHECK_OK(m.ops.get_config(m.d, 0, &c, sizeof(c)));
        CHECK_EQ(vhk_le32_get(c.seg_max), 126);
        CHECK_EQ(n_changed, before);                    /* nobody serves it: nobody to tell */
        vhk_blkdev_close(m.d);
}

static unsigned n_slow;

static int64_t slow_submit(struct blk_queue *bq, struct vhk_req *r) {
        struct timespec t = { .tv_nsec = 2 * (long)VHK_WORK_NS };

        n_slow++;
        nanosleep(&t, NULL);
        return ((struct blk_req *)r->priv)->len;
}

/* Whoever has something to say to the worker waits for a few requests at most, not for a full
 * ring. */
TEST(a_run_ends_when_its_time_is_over) {
        static const struct blk_engine slow = { .name = "slow", .submit = slow_submit };
        struct machine m = { .fd = -1 };
        struct request r[64];

        make_file(&m, tmp(), DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC }, FLUSH);
        struct blk_queue *bq = vhk_queue_get_priv(m.q);
        bq->engine = &slow;
        bq->burst = BLK_BURST;                          /* it was fast so far */
        for (unsigned i = 0; i < 64; i++) {
                r[i] = make(&m, BLK_T_IN, i, 0, 512);
                send(&m, &r[i], &plain);
        }
        vhk_store_release(&m.avail->idx.v, vhk_le16_of(m.n_avail).v);
        for (unsigned run = 0, before = 0; run < 16; run++, before = n_slow) {
                m.ops.queue_run(m.d, m.q);
                CHECK(n_slow - before >= 1 && n_slow - before <= (run ? 1 : 4));
                CHECK_EQ(vhk_queue_n_in_flight(m.q), 0);
        }
        while (vhk_queue_has_work(m.q))
                m.ops.queue_run(m.d, m.q);
        CHECK_EQ(n_slow, 64);
        for (unsigned i = 0; i < 64; i++)
                CHECK_EQ(status(&r[i]), BLK_S_OK);
        bq->engine = &blk_engine_sync;
        stop(&m);
}

/* The driver's memory may be more than the front-end shares: its request fails, and the ring goes
 * on. */
TEST(a_buffer_outside_of_shared_memory_fails_its_request_only) {
        static const enum vhk_blkdev_engine kinds[] = { VHK_BLKDEV_SYNC, VHK_BLKDEV_IO_URING, VHK_BLKDEV_NULL };

        for (unsigned k = 0; k < VHK_N(kinds); k++) {
                struct machine m = { .fd = -1 };
                struct request r[3];

                if (!has_engine(kinds[k]))
                        continue;
                make_file(&m, tmp(), DISK);
                start(&m, (struct vhk_blkdev_options){ .engine = kinds[k] }, FLUSH);
                n_logged = 0;
                for (unsigned i = 0; i < 3; i++) {
                        r[i] = make(&m, BLK_T_IN, 0, 0, 512);
                        send(&m, &r[i], &(struct shape){ "data apart", { 16 }, { 512 }, false });
                }
                m.desc[r[0].head + 1].addr = vhk_le64_of(MEM_GPA + MEM_BYTES - 100);    /* its data reach out of memory */
                m.desc[r[1].head].addr = vhk_le64_of(UINT64_MAX - 7);                   /* its header does */
                publish(&m);
                wait_all(&m);
                CHECK(!m.is_broken);
                CHECK(status(&r[0]) == BLK_S_IOERR && status(&r[1]) == BLK_S_IOERR && status(&r[2]) == BLK_S_OK);
                CHECK_EQ(used_len(&m, r[0].head), 0);
                CHECK(n_logged == 2 && strstr(last_log, "outside of the memory"));
                /* without a status nobody would hear of it */
                struct request last = make(&m, BLK_T_IN, 0, 0, 512);
                send(&m, &last, &(struct shape){ "data apart", { 16 }, { 512 }, false });
                m.desc[last.head + 2].addr = vhk_le64_of(0);
                publish(&m);
                CHECK(m.is_broken);
                CHECK_EQ(vhk_le16_get(m.used->idx), 3);
                stop(&m);
        }
}

TEST(resize) {
        struct machine m = { .fd = -1 };
        struct vhk_error e = { .text = "" };

        make_file(&m, tmp(), DISK);
        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC, .block_size = 1024 }, FLUSH);
        CHECK_OK(m.ops.attach(m.d, (struct vhk_host *)&m));
        CHECK_EQ(vhk_blkdev_refresh(m.d, &e), 0);
        CHECK_EQ(n_changed, 0);
        read_at(&m, DISK, BLK_S_IOERR);
        CHECK(!ftruncate(m.fd, DISK + 4096 + 1023));            /* not whole yet: the last block that is */
        read_at(&m, DISK, BLK_S_IOERR);                         /* nobody looked yet */
        CHECK_EQ(vhk_blkdev_refresh(m.d, &e), 1);
        CHECK_EQ(said_capacity(&m), DISK + 4096);
        CHECK(strstr(last_log, "grown from 4194304 to 4198400"));
        read_at(&m, DISK + 3072, BLK_S_OK);
        read_at(&m, DISK + 4096, BLK_S_IOERR);
        CHECK(!ftruncate(m.fd, 65536));
        CHECK_EQ(vhk_blkdev_refresh(m.d, &e), 1);
        CHECK_EQ(said_capacity(&m), 65536);
        CHECK(strstr(last_log, "shrunk"));
        read_at(&m, 65536 - 1024, BLK_S_OK);
        read_at(&m, 65536, BLK_S_IOERR);
        CHECK(!ftruncate(m.fd, 512));                           /* nothing left */
        CHECK_EQ(n_changed, 2);
        CHECK_EQ(vhk_blkdev_refresh(m.d, &e), -EINVAL);
        CHECK_EQ(n_changed, 2);
        CHECK(strstr(e.text, "512 bytes now"));
        CHECK_EQ(said_capacity(&m), 65536);
        stop(&m);

        struct machine null = { .fd = -1 };
        start(&null, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL, .capacity = DISK }, FLUSH);
        CHECK_EQ(vhk_blkdev_refresh(null.d, &e), 0);
        CHECK_EQ(said_capacity(&null), DISK);
        stop(&null);
}

/* Device state moves to a disk of the same shape, and to no other. */
TEST(state_moves) {
        struct machine m = { .fd = -1 }, other = { .fd = -1 };
        uint8_t *data, bad[64];
        size_t n;

        start(&m, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL, .capacity = DISK }, WCE | FLUSH);
        start(&other, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL, .capacity = DISK }, WCE | FLUSH);
        CHECK_OK(m.ops.set_config(m.d, 32, &(uint8_t){ 0 }, 1, VHK_CONFIG_DRIVER));
        CHECK_OK(m.ops.save_state(m.d, (void **)&data, &n));
        CHECK(n && n < sizeof(bad));
        for (size_t i = 0; i < 8 * n; i++) {                    /* every bit counts, but that of the cache */
                memcpy(bad, data, n);
                bad[i / 8] ^= (uint8_t)(1u << i % 8);
                int k = other.ops.load_state(other.d, bad, n);
                CHECK(k == -EINVAL || (k == 0 && other.d->writeback == 1));
        }
        CHECK_EQ(other.ops.load_state(other.d, data, n - 1), -EINVAL);
        CHECK_EQ(other.ops.load_state(other.d, data, 0), -EINVAL);
        CHECK_EQ(other.d->writeback, 1);
        CHECK_OK(other.ops.load_state(other.d, data, n));
        CHECK_EQ(other.d->writeback, 0);
        free(data);
        stop(&m);
        stop(&other);
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
