/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Two disks on one image, and a ring that is suspended with requests in flight. */
#include "device/test-blk.h"
#include "ring/inflight.h"

static const struct shape in_one = { "all in one", { 0 }, { 0 }, false };

static uint16_t n_used(const struct machine *m) {
        return vhk_le16_get((vhk_le16){ vhk_load_acquire(&m->used->idx.v) });
}

static void wait_a_little(struct machine *m) {
        for (int i = 0; i < 10; i++)
                vhk_worker_dispatch(m->worker, 5);
}

/* A second disk on the first one's file. */
static void open_second(struct machine *b, const struct machine *a, struct vhk_blkdev_options o, uint64_t features) {
        *b = (struct machine){ .fd = -1 };
        o.path = a->path;
        start(b, o, features);
}

TEST(the_second_disk_waits_for_the_first) {
        FOR_ENGINES(e) {
                struct vhk_blkdev_options o = { .engine = (enum vhk_blkdev_engine)e };
                struct machine a = { .fd = -1 }, b;
                struct request ra, rb[3];

                make_file(&a, tmp(), DISK);
                n_logged = 0;
                start(&a, o, FLUSH);
                open_second(&b, &a, o, FLUSH);
                CHECK_EQ(n_logged, 1);                  /* said once */
                CHECK_MSG(strstr(last_log, "somebody else works on the image"), "%s", last_log);
                ra = make(&a, BLK_T_OUT, 0, 4096, 0);
                send(&a, &ra, &plain);
                publish(&a);
                wait_all(&a);
                CHECK_EQ(status(&ra), BLK_S_OK);
                for (unsigned i = 0; i < 2; i++) {
                        rb[i] = make(&b, BLK_T_OUT, 8 * i, 4096, 0);
                        fill(rb[i].out + 16, 4096, i);
                        send(&b, &rb[i], &plain);
                }
                publish(&b);
                wait_a_little(&b);
                CHECK_EQ(n_used(&b), 0);                /* nor was one taken */
                CHECK_EQ(vhk_queue_n_in_flight(b.q), 0);
                a.ops.queue_stopped(a.d, a.q);          /* its ring stops; the disk stays open, as under a migration */
                wait_all(&b);
                CHECK_EQ(status(&rb[1]), BLK_S_OK);
                check_file(&a, 4096, rb[1].out + 16, 4096, "the second disk's write");
                /* and back again */
                n_logged = 0;
                CHECK_OK(a.ops.queue_start(a.d, a.q, a.worker));
                CHECK_EQ(n_logged, 1);
                ra = make(&a, BLK_T_IN, 0, 0, 512);
                send(&a, &ra, &plain);
                publish(&a);
                wait_a_little(&a);
                CHECK_EQ(n_used(&a), 1);
                stop(&b);
                wait_all(&a);
                CHECK_EQ(status(&ra), BLK_S_OK);
                stop(&a);
        }
}

TEST(who_only_reads_waits_for_nobody) {
        struct machine a = { .fd = -1 }, b, c;
        struct request r;

        make_file(&a, tmp(), DISK);
        start(&a, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC }, FLUSH);
        open_second(&b, &a, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_SYNC, .read_only = 1 }, FLUSH);
        open_second(&c, &a, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_NULL }, FLUSH);
        r = make(&b, BLK_T_IN, 0, 0, 512);
        run_one(&b, &r, &plain, "a read", BLK_S_OK, 513);
        r = make(&c, BLK_T_IN, 0, 0, 512);
        run_one(&c, &r, &plain, "a read of nothing", BLK_S_OK, 0);
        stop(&c);
        stop(&b);
        stop(&a);
}

/* The lock goes with the last ring, not with the first that stops. */
TEST(the_lock_is_the_rings_together) {
        struct vhk_blkdev_options o = { .engine = VHK_BLKDEV_SYNC, .n_queues = 2 };
        struct machine a = { .fd = -1 }, b;
        struct vhk_queue *second;

        make_file(&a, tmp(), DISK);
        start(&a, o, FLUSH);
        CHECK_OK(vhk_queue_new(1, RING, a.ops.req_size, a.worker, &owner_ops, &a, &second));
        CHECK_OK(vhk_queue_start(second, a.config, 0, 0));
        CHECK_OK(a.ops.queue_start(a.d, second, a.worker));
        open_second(&b, &a, o, FLUSH);
        a.ops.queue_stopped(a.d, second);
        vhk_queue_stop(second);
        vhk_queue_free(second);
        struct request r = make(&b, BLK_T_IN, 0, 0, 512);
        send(&b, &r, &plain);
        publish(&b);
        wait_a_little(&b);
        CHECK_EQ(n_used(&b), 0);
        stop(&b);                                       /* a ring that waits can stop, too */
        stop(&a);
}

/* ---- suspend ---- */

static void start_recorded_ring(struct machine *m, void *record) {
        struct vhk_ring_config c = *m->config;

        c.inflight = record;
        c.inflight_num = RING;
        vhk_queue_stop(m->q);
        vhk_ring_config_unref(m->config);
        CHECK_OK(vhk_ring_config_new(&c, &m->config));
        CHECK_OK(vhk_queue_start(m->q, m->config, 0, -1));
}

/* What waits for a bounce buffer is left, what the kernel has is finished or given back; a new life does the rest. */
TEST(a_suspended_ring_leaves_what_it_can) {
        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind takes longer for a request than a queue has for its work");
        struct machine m = { .fd = -1 };
        struct vhk_blkdev_options o = { .engine = VHK_BLKDEV_IO_URING, .direct = 1 };
        struct vhk_error err;
        struct request r[40];
        unsigned n = 0;

        if (!has_engine(VHK_BLKDEV_IO_URING))
                SKIP("cannot: no io_uring here");
        make_file(&m, tmp(), DISK);
        make_memory(&m);
        if (start_device(&m, &o, FLUSH, &err) == -EOPNOTSUPP) {
                stop(&m);
                SKIP("cannot: no direct I/O in the directory for temporary files");
        }
        struct vhk_inflight_split *record = calloc(1, vhk_inflight_split_bytes(RING));
        CHECK(record);
        start_ring(&m);
        start_recorded_ring(&m, record);
        const uint32_t block = m.d->block_size;
        for (unsigned i = 0; i < VHK_N(r); i++) {
                r[i] = make(&m, BLK_T_OUT, i * (block / 512), block, 0);        /* header and data in one buffer: not aligned */
                fill(r[i].out + 16, block, i);
                send(&m, &r[i], &in_one);
        }
        publish(&m);
        vhk_queue_drain(m.q, true);
        m.ops.queue_stop(m.d, m.q, VHK_STOP_SUSPEND);
        for (int i = 0; vhk_queue_n_in_flight(m.q) && i < 1000; i++)
                vhk_worker_dispatch(m.worker, 10);
        CHECK_EQ(vhk_queue_n_in_flight(m.q), 0);
        vhk_queue_flush(m.q);
        m.ops.queue_stopped(m.d, m.q);
        vhk_queue_stop(m.q);
        for (unsigned i = 0; i < RING; i++)
                n += record->entries[i].inflight;
        CHECK_EQ(n + n_used(&m), VHK_N(r));
        CHECK(n >= 1);                                  /* 8 bounce buffers for 40 requests: most waited */

        CHECK_OK(vhk_queue_start(m.q, m.config, 0, -1));
        CHECK_OK(m.ops.queue_start(m.d, m.q, m.worker));
        on_run(&m, m.q);
        wait_all(&m);
        for (unsigned i = 0; i < VHK_N(r); i++) {
                CHECK_EQ(status(&r[i]), BLK_S_OK);
                check_file(&m, (uint64_t)i * block, r[i].out + 16, block, "a write over a suspension");
        }
        stop(&m);
        free(record);
}
