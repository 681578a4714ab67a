/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The block device and what it stores into: when bytes are stable, what errors and vanishing things lead to, many requests, direct I/O,
 * block devices. */
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "device/test-blk.h"

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
        ((struct blk_queue *)vhk_queue_get_priv(m->q))->engine = &spy_engine;
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

/* qemu-user does not know the flag; there write_through_where_dsync_is_refused() is what happens. */
static bool has_dsync(void) {
        int fd = memfd_create("dsync", MFD_CLOEXEC);
        ssize_t n = pwritev2(fd, &(struct iovec){ (char[]){ "x" }, 1 }, 1, 0, RWF_DSYNC);

        close(fd);
        return n == 1;
}

TEST(write_through) {
        struct machine m = { .fd = -1 };

        if (!has_dsync())
                SKIP("cannot: no RWF_DSYNC here");

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
                run_one(&m, &r, &plain, strerror(errors[i]), BLK_S_IOERR, 0);
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
        CHECK_EQ(vhk_queue_drain(m.q, true), 1);
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
                run_one(&m, &r, &plain, "read", BLK_S_IOERR, 4096);     /* what was read, without the status that lies further on */
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
                CHECK_EQ(used_len(&m, head), 0);
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
        if (vhk_queue_drain(m.q, true))
                for (int i = 0; i < 1000 && !m.has_settled; i++)
                        vhk_worker_dispatch(m.worker, 10);
        CHECK_EQ(vhk_queue_n_in_flight(m.q), 0);
        for (unsigned i = 0; i < VHK_N(r); i++)
                CHECK_EQ(status(&r[i]), BLK_S_OK);
        stop(&m);
}

/* ---- engines ---- */

/* A second queue of @a's device on the same worker; its requests lie in the upper half of
 * memory. */
static void start_second_queue(struct machine *b, struct machine *a) {
        struct vhk_ring_config c = *a->config;

        CHECK(a->n_mem < MEM_BYTES / 2);
        *b = *a;
        b->n_desc = b->n_avail = b->n_used = 0;
        b->n_mem = MEM_BYTES / 2;
        b->desc = alloc(b, vhk_desc_bytes(RING), 16);
        b->avail = alloc(b, vhk_avail_bytes(RING), 2);
        b->used = alloc(b, vhk_used_bytes(RING), 4);
        c.desc = of_device(b, b->desc);
        c.avail = of_device(b, b->avail);
        c.used = of_device(b, b->used);
        CHECK_OK(vhk_ring_config_new(&c, &b->config));
        CHECK_OK(vhk_queue_new(1, RING, b->ops.req_size, b->worker, &owner_ops, b, &b->q));
        CHECK_OK(vhk_queue_start(b->q, b->config, 0, 0));
        CHECK_OK(b->ops.queue_start(b->d, b->q, b->worker));
}

static void stop_second_queue(struct machine *b) {
        b->ops.queue_stopped(b->d, b->q);
        vhk_queue_stop(b->q);
        vhk_queue_free(b->q);
        vhk_ring_config_unref(b->config);
}

static void write_blocks(struct machine *m, struct request *r, unsigned n, unsigned first) {
        for (unsigned i = 0; i < n; i++) {
                r[i] = make(m, BLK_T_OUT, (first + i) * 8, 4096, 0);
                fill(r[i].out + 16, 4096, first + i);
                send(m, &r[i], &plain);
        }
        publish(m);
}

static void check_blocks(struct machine *m, const struct request *r, unsigned n, unsigned first) {
        wait_all(m);
        for (unsigned i = 0; i < n; i++) {
                CHECK_EQ(status(&r[i]), BLK_S_OK);
                check_file(m, (first + i) * 4096, r[i].out + 16, 4096, "a write");
        }
        CHECK_EQ(vhk_queue_n_in_flight(m->q), 0);
}

static int count_fds(void) {
        return vhk_test_count_("/proc/self/fd");
}

TEST(queues_of_one_worker_share_one_io_uring) {
        struct machine a = { .fd = -1 }, b;
        struct request ra[40], rb[40];

        if (!has_engine(VHK_BLKDEV_IO_URING))
                SKIP("cannot: no io_uring here");
        make_file(&a, tmp(), DISK);
        start(&a, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_IO_URING, .n_queues = 2 }, 0);
        int before = count_fds();
        start_second_queue(&b, &a);
        CHECK_EQ(count_fds(), before);             /* neither a descriptor nor an io_uring for the second queue */
        write_blocks(&a, ra, VHK_N(ra), 0);             /* write-through: they go to the kernel's threads, one after the other */
        write_blocks(&b, rb, VHK_N(rb), VHK_N(ra));
        check_blocks(&b, rb, VHK_N(rb), VHK_N(ra));
        check_blocks(&a, ra, VHK_N(ra), 0);
        stop_second_queue(&b);
        forget(&a);
        write_blocks(&a, ra, VHK_N(ra), 0);             /* the first one still has it */
        check_blocks(&a, ra, VHK_N(ra), 0);
        stop(&a);
}

TEST(a_queue_that_is_suspended_takes_nothing_from_its_neighbour) {
        struct machine a = { .fd = -1 }, b;
        struct request r[64];

        if (!has_engine(VHK_BLKDEV_IO_URING))
                SKIP("cannot: no io_uring here");
        make_file(&a, tmp(), DISK);
        start(&a, (struct vhk_blkdev_options){ .engine = VHK_BLKDEV_IO_URING, .n_queues = 2 }, 0);
        start_second_queue(&b, &a);
        write_blocks(&a, r, VHK_N(r), 0);
        b.ops.queue_stop(b.d, b.q, VHK_STOP_SUSPEND);   /* asks the kernel to give back what it has not begun, of both queues */
        stop_second_queue(&b);
        check_blocks(&a, r, VHK_N(r), 0);
        stop(&a);
}

/* The kernel has no io_uring left when a queue starts (here: no descriptor). */
TEST(a_queue_without_io_uring_is_served_by_the_sync_engine) {
        if (!has_engine(VHK_BLKDEV_IO_URING))
                SKIP("cannot: no io_uring here");
        if (getenv("VHK_TEST_NO_LEAK_CHECK"))
                SKIP("cannot: valgrind keeps the limit to itself");
        for (enum vhk_blkdev_engine e = VHK_BLKDEV_AUTO; e <= VHK_BLKDEV_IO_URING; e++) {
                struct machine m = { .fd = -1 };
                struct rlimit old, none;
                struct request r;

                make_file(&m, tmp(), DISK);
                start(&m, (struct vhk_blkdev_options){ .engine = e }, FLUSH);
                m.ops.queue_stopped(m.d, m.q);
                CHECK_OK(getrlimit(RLIMIT_NOFILE, &old));
                none = (struct rlimit){ 0, old.rlim_max };
                CHECK_OK(setrlimit(RLIMIT_NOFILE, &none));
                int ret = m.ops.queue_start(m.d, m.q, m.worker);
                CHECK_OK(setrlimit(RLIMIT_NOFILE, &old));
                if (e == VHK_BLKDEV_IO_URING) {
                        CHECK_EQ(ret, -EMFILE);
                        CHECK_MSG(strstr(last_log, "queue 0") && strstr(last_log, "Too many open files"), "%s", last_log);
                        CHECK_OK(m.ops.queue_start(m.d, m.q, m.worker));
                } else {
                        CHECK_OK(ret);
                        CHECK_MSG(strstr(last_log, "queue 0: the io_uring engine cannot start (Too many open files)"), "%s", last_log);
                        CHECK(((struct blk_queue *)vhk_queue_get_priv(m.q))->engine == &blk_engine_sync);
                }
                r = make(&m, BLK_T_IN, 0, 0, 4096);
                run_one(&m, &r, &plain, "read", BLK_S_OK, 4097);
                stop(&m);
        }
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
static int attach_loop(struct machine *m, uint32_t sector, char *ret_path, size_t n) {
        VHK_AUTOCLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        int i = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
        struct loop_config c = { .fd = (uint32_t)m->fd, .block_size = sector, .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };

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
                        int loop = attach_loop(&m, 512, path, sizeof(path));
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

/* Whole sectors go to the device as they are; where somebody chose smaller blocks, zeroes are
 * written, and a discard of parts of sectors does nothing. The page cache writes what is smaller
 * than a sector. */
TEST(a_block_device_of_large_sectors) {
        FOR_ENGINES(e) {
                for (uint32_t block = 0; block <= 512; block += 512) {
                        struct vhk_blkdev_options o = { .engine = (enum vhk_blkdev_engine)e, .block_size = block };
                        const uint64_t sector = block ? 9 : 64;
                        const uint32_t n = block ? 512 : 4096;
                        struct machine m = { .fd = -1 };
                        uint8_t zero[4096] = { 0 };
                        char path[32] = "";

                        make_file(&m, tmp(), DISK);
                        int loop = attach_loop(&m, 4096, path, sizeof(path));
                        if (loop < 0) {
                                stop(&m);
                                SKIP("cannot: no loop device to be had here");
                        }
                        o.path = path;
                        start(&m, o, FLUSH);
                        CHECK_EQ(m.d->block_size, n);
                        for (unsigned i = 0; i < 3; i++) {
                                struct request w = make(&m, BLK_T_OUT, sector, n, 0);
                                fill(w.out + 16, n, i);
                                run_one(&m, &w, &plain, "write", BLK_S_OK, 1);
                                struct request z = make(&m, i ? BLK_T_WRITE_ZEROES : BLK_T_DISCARD, 0, 16, 0);
                                struct blk_segment g = { vhk_le64_of(sector), vhk_le32_of(n / 512), vhk_le32_of(i == 2) };
                                memcpy(z.out + 16, &g, sizeof(g));
                                run_one(&m, &z, &plain, "range", BLK_S_OK, 1);
                                struct request r = make(&m, BLK_T_IN, sector, 0, n);
                                run_one(&m, &r, &plain, "read", BLK_S_OK, n + 1);
                                CHECK(!i || !memcmp(r.in, zero, n));
                        }
                        close(loop);
                        stop(&m);
                }
        }
}
