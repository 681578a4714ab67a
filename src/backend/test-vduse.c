/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The carrier VDUSE on a kernel of our own (test-vduse.h): that every message is answered once, what hostile ones do (H62),
 * memory that comes and goes, interrupts, and a successor of one that was killed.
 */
#include <sys/stat.h>

#include "backend/session.h"
#include "backend/test-home.h"
#include "backend/test-vduse.h"

static unsigned irqs(unsigned i) {
        return vhk_load_relaxed(&K.n_irqs[i]);
}

TEST(a_device_is_made_serves_and_goes) {
        static struct rig r;
        struct stat st;
        char path[100];

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(K.made.features, VDUSE_FEATURES);
        CHECK_EQ(K.made.vq_num, N_RINGS);
        CHECK_EQ(K.made.config_size, sizeof(r.dev.config));
        CHECK(!memcmp(K.config, r.dev.config, sizeof(r.dev.config)));
        CHECK(K.n_setup == N_RINGS && K.num_max[N_RINGS - 1] == 256);
        snprintf(path, sizeof(path), "%s/record", r.dir);
        CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
        CHECK_EQ(bring_up(&r, 2), 0);
        CHECK_EQ(r.dev.features, VDUSE_FEATURES & ~PLATFORM);
        CHECK_EQ(r.dev.n_start, 2);
        for (unsigned n = 0; n < 100; n++) {
                vq_add(&r, n % 2);
                PUMP_UNTIL(&r, ring_is_idle(&r, n % 2));
        }
        CHECK(irqs(0) >= 50 && irqs(1) >= 50);
        CHECK_EQ(K.n_gets, 1);                                  /* memory is asked for once */
        CHECK_EQ(set_status(&r, 0), 0);
        CHECK(r.dev.n_reset == 2 && r.dev.n_stopped == 2);      /* bring_up() begins with one */
        CHECK_EQ(bring_up(&r, 1), 0);                           /* once more */
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(set_status(&r, 0), 0);
        vduse_close(&r);
}

TEST(h62_requests_that_make_no_sense) {
        static struct rig r;
        static const struct vhk_sys_vduse_request bad[] = {
                { .type = VHK_SYS_VDUSE_SET_VQ_GROUP_ASID }, { .type = 77 }, { .type = UINT32_MAX },
                { .type = VHK_SYS_VDUSE_GET_VQ_STATE, .vq_index = N_RINGS }, { .type = VHK_SYS_VDUSE_GET_VQ_STATE, .vq_index = UINT32_MAX },
                { .type = VHK_SYS_VDUSE_UPDATE_IOTLB, .first = 1, .last = 0 },
                { .type = VHK_SYS_VDUSE_UPDATE_IOTLB, .first = UINT64_MAX, .last = UINT64_MAX - 1 },
        };

        vduse_open(&r, NULL, NULL);
        for (unsigned round = 0; round < 2; round++) {
                for (unsigned i = 0; i < VHK_N(bad); i++)
                        CHECK_EQ(ask(&r, bad[i]), 1);
                if (!round)
                        CHECK_EQ(bring_up(&r, 1), 0);
        }
        CHECK_EQ(set_status(&r, S_ACK), 1);                     /* bits taken away */
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}

/* The answer to an unknown request id is ours alone: nothing was asked. */
TEST(h62_an_answer_nobody_waits_for) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        r.dev.hold = true;
        vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        struct message *m = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_SET_STATUS });
        pump(&r);
        CHECK_EQ(m->state, MESSAGE_READ);
        m->state = MESSAGE_ANSWERED;                            /* a signal killed who had asked */
        dev_release(&r.dev);
        PUMP_UNTIL(&r, K.n_stray == 1);
        CHECK(strstr(r.log, "does not wait"));
        K.n_stray = 0;
        r.dev.hold = false;
        status_answered(0, 0);
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_close(&r);
}

TEST(h62_features) {
        static struct rig r;
        uint8_t ok = S_ACK | S_DRIVER | S_FEATURES_OK;

        vduse_open(&r, NULL, NULL);
        K.features = VDUSE_FEATURES | VHK_BIT(VHK_F_RING_PACKED);
        CHECK_EQ(set_status(&r, ok), 1);
        K.features = VDUSE_FEATURES & ~VHK_BIT(VHK_F_VERSION_1);
        CHECK_EQ(set_status(&r, ok), 1);
        CHECK_EQ(set_status(&r, ok | S_DRIVER_OK), 1);          /* all at once */
        K.features = VDUSE_FEATURES;
        r.dev.refuse_features = -EINVAL;
        CHECK_EQ(set_status(&r, ok), 1);
        r.dev.refuse_features = 0;
        CHECK_EQ(set_status(&r, ok), 0);
        CHECK_EQ(set_status(&r, ok | S_FAILED), 0);
        CHECK_EQ(set_status(&r, ok | S_FAILED | S_DRIVER_OK), 0);       /* who gave up does not go on */
        CHECK_EQ(r.dev.n_start, 0);
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_close(&r);
}

static void refused_start(struct rig *r, const char *rule) {
        r->log[0] = 0;
        CHECK_EQ(bring_up(r, 2), 1);
        CHECK_MSG(strstr(r->log, rule), "not %s:\n%s", rule, r->log);
        CHECK_EQ(r->dev.n_start, r->dev.n_stopped);
}

/* Ranges that are too small, of files that are too small, and that are none. */
TEST(h62_ranges) {
        static struct rig r;
        int small;

        vduse_open(&r, NULL, NULL);
        K.n_ranges = 0;
        refused_start(&r, "vduse.no-range");
        set_range(0, GPA, GPA + 0x7f, r.memfd, 0, 3);                                   /* half of the descriptors */
        refused_start(&r, "vduse.no-range");
        set_range(1, GPA + 0x80, GPA + 0xffff, r.memfd, 0x3080, 3);                     /* the rest is somewhere else */
        refused_start(&r, "not inside of one region");
        set_range(0, GPA, GPA + MEM_BYTES - 1, r.memfd, 0, 1);
        refused_start(&r, "vduse.access");
        small = memfd_create("small", MFD_CLOEXEC);
        CHECK(small >= 0 && ftruncate(small, 0x1000) == 0);
        set_range(0, GPA, GPA + MEM_BYTES - 1, small, 0, 3);
        refused_start(&r, "mem.beyond-file");
        close(small);
        set_range(0, GPA + 1, GPA, r.memfd, 0, 3);                                      /* the other way round */
        refused_start(&r, "vduse.range");
        set_range(0, 0, UINT64_MAX, r.memfd, 0, 3);
        refused_start(&r, "vduse.range");
        set_range(0, GPA, GPA + MEM_BYTES - 1, r.memfd, UINT64_MAX - 100, 3);
        refused_start(&r, "mem.wrap-offset");
        set_range(0, GPA, GPA + MEM_BYTES - 1, r.memfd, 0, 0);
        refused_start(&r, "vduse.range");
        set_range(0, GPA, GPA + MEM_BYTES - 1, -1, 0, 3);                               /* a descriptor that is none */
        refused_start(&r, "mem.fd");
        set_range(0, GPA, GPA + MEM_BYTES - 1, r.memfd, 0, 3);
        CHECK_EQ(bring_up(&r, 2), 0);
        vduse_close(&r);
}

/* The kernel names ranges of any kind of descriptor, at any offset. */
TEST(ranges_that_begin_in_a_page) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        set_range(0, GPA, GPA + 2 * RING_BYTES - 0x81, r.memfd, 0, 3);
        set_range(1, GPA + 2 * RING_BYTES - 0x80, GPA + MEM_BYTES - 1, r.memfd, 2 * RING_BYTES - 0x80, 3);
        CHECK_EQ(bring_up(&r, 3), 0);
        for (unsigned i = 0; i < 3; i++)
                vq_add(&r, i);
        for (unsigned i = 0; i < 3; i++)
                PUMP_UNTIL(&r, ring_is_idle(&r, i));
        vduse_close(&r);
}

TEST(h62_rings) {
        static struct rig r;
        static const struct { uint64_t off; uint32_t num; uint64_t desc; } bad[] = {
                { 0, 0, 0 }, { 0, 3, 0 }, { 0, 512, 0 }, { 0, UINT32_MAX, 0 }, { 0, 16, 0x1008 }, { 0, 16, UINT64_MAX - 7 },
        };

        vduse_open(&r, NULL, NULL);
        for (unsigned n = 0; n < VHK_N(bad); n++) {
                vduse_features(&r);
                CHECK_EQ(set_status(&r, 0), 0);
                CHECK_EQ(set_status(&r, S_ACK | S_DRIVER | S_FEATURES_OK), 0);
                vq_set_up(&r, 0, 0);
                vq_set_up(&r, 1, 0);
                K.vqs[1].num = bad[n].num;
                if (bad[n].desc)
                        K.vqs[1].desc = bad[n].desc;
                CHECK_EQ(set_status(&r, S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK), 1);
        }
        CHECK_EQ(r.dev.n_start, 0);
        r.dev.refuse_start = -ENOMEM;                           /* the device itself */
        CHECK_EQ(bring_up(&r, 2), 1);
        r.dev.refuse_start = 0;
        CHECK_EQ(bring_up(&r, 2), 0);
        vduse_close(&r);
}

TEST(h62_reset_with_requests_in_flight) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        r.dev.hold = true;
        for (unsigned i = 0; i < 3; i++)
                vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 3);
        struct message *m = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_SET_STATUS });
        struct message *next = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_GET_VQ_STATE });
        for (unsigned i = 0; i < 20; i++)
                turn(&r, 1);
        CHECK(m->state == MESSAGE_READ && next->state == MESSAGE_QUEUED);
        CHECK_EQ(r.dev.how, VHK_STOP_DRAIN);
        dev_release(&r.dev);
        CHECK_EQ(await(&r, m), 0);
        CHECK(ring_is_idle(&r, 0));                             /* what was accepted is done */
        CHECK_EQ(await(&r, next), 0);
        status_answered(0, 0);
        CHECK_EQ(r.dev.n_reset, 2);
        r.dev.hold = false;
        CHECK_EQ(bring_up(&r, 1), 0);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}

TEST(h62_reset_that_takes_too_long) {
        static struct rig r;

        vduse_open(&r, &(struct vhk_backend_options){ .limit_ns = 50000000 }, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        r.dev.hold = true;
        vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        CHECK_EQ(set_status(&r, 0), 1);
        vduse_features(&r);
        K.vqs[0].ready = 1;
        CHECK_EQ(set_status(&r, S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK), 1);    /* the ring of the time before has not stopped */
        CHECK_EQ(update_iotlb(&r, 0, UINT64_MAX), 1);
        dev_release(&r.dev);
        CHECK_EQ(update_iotlb(&r, 0, UINT64_MAX), 0);
        r.dev.hold = false;
        CHECK_EQ(bring_up(&r, 1), 0);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}

/* The reset was answered at its limit; its requests are done later, when nobody waits for them. */
TEST(a_ring_of_a_device_that_was_reset_starts_with_its_next_driver_alone) {
        static struct rig r;

        vduse_open(&r, &(struct vhk_backend_options){ .limit_ns = 50000000 }, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        for (unsigned i = 0; i < 5; i++) {
                vq_add(&r, 0);
                PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        }
        r.dev.hold = true;
        vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        unsigned n_reset = r.dev.n_reset;
        int late_kick = K.kick[1];
        CHECK_EQ(set_status(&r, 0), 1);
        vq_set_up(&r, 1, 0);                                    /* a ring that gets ready is none of this device any more */
        if (late_kick >= 0)
                vhk_notify_fd(late_kick);
        CHECK_EQ(update_iotlb(&r, GPA + (1u << 30), GPA + (1u << 30) + 4095), 1);
        CHECK_EQ(r.dev.n_reset, n_reset);
        CHECK_EQ(r.dev.n_stopped, 0);
        r.dev.hold = false;
        dev_release(&r.dev);
        PUMP_UNTIL(&r, r.dev.n_reset == n_reset + 1);           /* now it is */
        CHECK_EQ(r.dev.n_stopped, 1);
        CHECK_EQ(update_iotlb(&r, GPA + (1u << 30), GPA + (1u << 30) + 4095), 0);
        pump(&r);
        CHECK_EQ(r.dev.n_start, 1);
        CHECK_EQ(bring_up(&r, 1), 0);
        CHECK_EQ(r.dev.n_start, 2);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}

/* One of two rings does not start: DRIVER_OK is refused when the other has stopped, or at the
 * limit; until then it cannot start. */
static unsigned n_starts;

static int second_start_fails(void *arg, struct vhk_queue *q, struct vhk_worker *home) {
        (void)dev_queue_start(arg, q, home);
        return ++n_starts == 2 ? -ENOMEM : 0;
}

TEST(a_driver_whose_rings_do_not_all_start_may_try_again) {
        struct vhk_device_ops ops = dev_ops;
        static struct rig r;

        n_starts = 0;
        ops.queue_start = second_start_fails;
        vduse_open(&r, NULL, &ops);
        CHECK_EQ(bring_up(&r, 2), 1);
        CHECK_EQ(r.dev.n_stopped, 1);
        CHECK_EQ(bring_up(&r, 2), 0);
        CHECK_EQ(r.dev.n_start, 4);
        for (unsigned i = 0; i < 2; i++) {
                vq_add(&r, i);
                PUMP_UNTIL(&r, ring_is_idle(&r, i));
        }
        vduse_close(&r);
}

/* The same contents in another file. */
static int other_memory(struct rig *r) {
        int fd = memfd_create("other", MFD_CLOEXEC);

        CHECK(fd >= 0 && ftruncate(fd, MEM_BYTES) == 0);
        CHECK(pwrite(fd, r->mem, MEM_BYTES, 0) == MEM_BYTES);
        return fd;
}

static void move_to(struct rig *r, int fd) {
        CHECK(mmap(r->mem, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == r->mem);
        close(r->memfd);
        r->memfd = fd;
        set_range(0, GPA, GPA + MEM_BYTES - 1, fd, 0, 3);
}

TEST(memory_changes_when_requests_are_done) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 2), 0);
        r.dev.hold = true;
        vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        struct message *m = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_UPDATE_IOTLB, .last = UINT64_MAX });
        for (unsigned i = 0; i < 20; i++)
                turn(&r, 1);
        CHECK_EQ(m->state, MESSAGE_READ);
        dev_release(&r.dev);
        CHECK_EQ(await(&r, m), 0);
        CHECK(ring_is_idle(&r, 0));
        r.dev.hold = false;
        for (unsigned n = 0; n < 20; n++) {
                int fd = other_memory(&r);
                move_to(&r, fd);
                CHECK_EQ(update_iotlb(&r, 0, UINT64_MAX), 0);
                vq_add(&r, n % 2);
                PUMP_UNTIL(&r, ring_is_idle(&r, n % 2));
        }
        CHECK_EQ(update_iotlb(&r, 0, GPA - 1), 0);              /* not ours */
        CHECK_EQ(update_iotlb(&r, GPA + 0x1800, GPA + 0x1800), 0);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}

/* All memory goes while the device runs: its rings wait for it. */
TEST(memory_goes_and_comes_back) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        K.n_ranges = 0;
        CHECK_EQ(update_iotlb(&r, 0, UINT64_MAX), 0);
        vq_add(&r, 0);
        for (unsigned i = 0; i < 20; i++)
                turn(&r, 1);
        CHECK(!ring_is_idle(&r, 0));
        CHECK_EQ(ask(&r, (struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_GET_VQ_STATE }), 0);
        set_range(0, GPA, GPA + MEM_BYTES - 1, r.memfd, 0, 3);
        CHECK_EQ(update_iotlb(&r, 0, UINT64_MAX), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        K.n_ranges = 0;
        CHECK_EQ(update_iotlb(&r, 0, UINT64_MAX), 0);
        CHECK_EQ(set_status(&r, 0), 0);                         /* and a ring that waits can be stopped */
        vduse_close(&r);
}

TEST(a_request_that_points_nowhere_breaks_its_ring_alone) {
        static struct rig r;
        struct vhk_drvring_buf sg[2] = { { 0x1000, 8 }, { GPA + 0x8000, 8 } };
        static int cookie;

        vduse_open(&r, NULL, NULL);
        for (unsigned round = 0; round < 2; round++) {
                set_range(1, 0x1000, 0x1fff, r.memfd, 0x10000, 1);
                K.n_ranges = round ? 2 : 1;
                CHECK_EQ(bring_up(&r, 2), 0);
                if (round)
                        sg[1].gpa = 0x1000;                     /* there, but not to be written to */
                r.log[0] = 0;
                CHECK_OK(vhk_drvring_add_gpa(r.rings[0].drv, sg, 1, 1, &cookie));
                vhk_drvring_publish(r.rings[0].drv);
                vhk_notify_fd(K.kick[0]);
                PUMP_UNTIL(&r, strstr(r.log, "ring.translation"));
                CHECK(strstr(r.log, round ? "must not be accessed" : "nothing is at"));
                vq_add(&r, 1);
                PUMP_UNTIL(&r, ring_is_idle(&r, 1));
                CHECK_EQ(set_status(&r, 0), 0);
        }
        CHECK_EQ(bring_up(&r, 1), 0);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}

/* More ranges than there is room for. */
TEST(ranges_drive_each_other_out) {
        static struct rig r;
        static int cookies[MAX_RANGES];

        vduse_open(&r, NULL, NULL);
        set_range(0, GPA, GPA + RING_BYTES - 1, r.memfd, 0, 3);
        for (unsigned i = 1; i < 700; i++)
                set_range(i, UINT64_C(0x100000000) * i, UINT64_C(0x100000000) * i + 0xfff, r.memfd, 0x20000 + 0x1000 * (i % 64), 3);
        CHECK_EQ(bring_up(&r, 1), 0);
        for (unsigned i = 1; i < 700; i++) {
                struct vhk_drvring_buf sg[2] = { { K.ranges[i].first, 8 }, { K.ranges[i].first + 8, 8 } };
                struct vhk_done done;
                CHECK_OK(vhk_drvring_add_gpa(r.rings[0].drv, sg, 1, 1, &cookies[i]));
                vhk_drvring_publish(r.rings[0].drv);
                vhk_notify_fd(K.kick[0]);
                PUMP_UNTIL(&r, vhk_drvring_reap(r.rings[0].drv, &done, 1) == 1);
                CHECK(done.cookie == &cookies[i] && done.len == 8);
        }
        CHECK(K.n_gets < 720);
        vduse_close(&r);
}

/* vhost-vdpa lets its user enable a ring when the device runs already, and nobody tells us. */
TEST(a_ring_that_gets_ready_later) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        for (unsigned round = 0; round < 2; round++) {
                CHECK_EQ(bring_up(&r, 1), 0);
                CHECK(K.kick[1] >= 0);
                vhk_notify_fd(K.kick[1]);                       /* not ready yet */
                pump(&r);
                vq_set_up(&r, 1, 0);
                K.vqs[1].num = 3;
                vhk_notify_fd(K.kick[1]);
                PUMP_UNTIL(&r, strstr(r.log, "got ready later, does not start"));
                K.vqs[1].num = RING_SIZE;
                for (unsigned n = 0; n < 3; n++) {
                        vq_add(&r, 1);
                        PUMP_UNTIL(&r, ring_is_idle(&r, 1));
                        vq_add(&r, 0);
                        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
                }
                CHECK(irqs(1));
                r.dev.hold = true;                              /* while an answer is due */
                vq_add(&r, 0);
                PUMP_UNTIL(&r, r.dev.n_held == 1);
                struct message *m = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_UPDATE_IOTLB, .last = UINT64_MAX });
                pump(&r);
                CHECK_EQ(m->state, MESSAGE_READ);
                vq_set_up(&r, 2, 0);
                vq_add(&r, 2);
                pump(&r);
                r.dev.hold = false;
                dev_release(&r.dev);
                CHECK_EQ(await(&r, m), 0);
                PUMP_UNTIL(&r, ring_is_idle(&r, 2) && ring_is_idle(&r, 0));
                CHECK_EQ(set_status(&r, 0), 0);
                r.log[0] = 0;
        }
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_close(&r);
}

TEST(vq_state) {
        static struct rig r;
        struct vhk_sys_vduse_request q = { .type = VHK_SYS_VDUSE_GET_VQ_STATE };

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        for (unsigned i = 0; i < 5; i++)
                vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        struct message *m = post(q);
        CHECK_EQ(await(&r, m), 0);
        CHECK_EQ(m->avail, 5);
        r.dev.hold = true;                                      /* the ring need not stop for it */
        vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        m = post(q);
        CHECK_EQ(await(&r, m), 0);
        CHECK_EQ(m->avail, 6);
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(set_status(&r, 0), 0);
        K.vqs[0].split.avail = 1234;
        m = post(q);
        CHECK_EQ(await(&r, m), 0);
        CHECK_EQ(m->avail, 1234);
        vduse_close(&r);
}

/* Where the driver wants it to begin. */
TEST(a_ring_begins_where_it_is_told) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        vduse_features(&r);
        vq_set_up(&r, 0, 7);
        ((uint16_t *)(r.rings[0].area + 0x1000))[1] = 8;        /* one request, at index 7 */
        ((uint16_t *)(r.rings[0].area + 0x2000))[1] = 7;
        ((uint16_t *)(r.rings[0].area + 0x1000))[2 + 7] = 0;
        struct vhk_desc *d = (struct vhk_desc *)r.rings[0].area;
        d[0] = (struct vhk_desc){ vhk_le64_of(GPA + BUFFERS), vhk_le32_of(8), vhk_le16_of(VHK_DESC_WRITE), vhk_le16_of(0) };
        CHECK_EQ(set_status(&r, S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK), 0);
        PUMP_UNTIL(&r, vhk_load_acquire(&((uint16_t *)(r.rings[0].area + 0x2000))[1]) == 8);
        vduse_close(&r);
}

/* The kernel takes no interrupt before it has our answer to DRIVER_OK: requests that were there earlier are not forgotten. */
TEST(an_interrupt_that_comes_too_early_comes_again) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        vduse_features(&r);
        CHECK_EQ(set_status(&r, S_ACK | S_DRIVER | S_FEATURES_OK), 0);
        vq_set_up(&r, 0, 0);
        ring_add(&r, 0);
        struct message *m = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_SET_STATUS, .status = 15 });
        PUMP_UNTIL(&r, ring_is_idle(&r, 0) && vhk_load_relaxed(&K.n_refused_irqs) > 2);
        CHECK_EQ(await(&r, m), 0);
        CHECK_EQ(irqs(0), 0);
        status_answered(15, 0);
        PUMP_UNTIL(&r, irqs(0) == 1);
        CHECK_EQ(set_status(&r, 0), 0);
        vduse_close(&r);
}

TEST(the_configuration_changes) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        r.dev.config[0] = 99;
        CHECK_OK(vhk_host_config_changed(r.dev.host));
        PUMP_UNTIL(&r, K.config[0] == 99);
        CHECK_EQ(K.n_config_irqs, 0);
        CHECK_EQ(bring_up(&r, 1), 0);
        r.dev.config[1] = 98;
        CHECK_OK(vhk_host_config_changed(r.dev.host));
        PUMP_UNTIL(&r, K.n_config_irqs == 1);
        CHECK_EQ(K.config[1], 98);
        CHECK_EQ(vhk_host_set_notifier_area(r.dev.host, 0, -1, 0, NULL, NULL), -EOPNOTSUPP);
        vduse_close(&r);
}

TEST(the_kernel_gives_up) {
        static struct rig r;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        shutdown(K.here, SHUT_RDWR);
        PUMP_UNTIL(&r, r.freed);
        CHECK_EQ(r.last_error, -EIO);
        CHECK_STR(r.last_rule, "vduse.given-up");
        CHECK(K.exists);                                        /* on the bus */
        struct vhk_error e;
        K.broken = true;
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EPERM);
        CHECK_STR(e.rule, "vduse.given-up");
        K.on_bus = false;
        CHECK_OK(vduse_try(&r, NULL, NULL, &e));                /* made anew, for nobody has it any more */
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_close(&r);
}

TEST(what_a_stranger_left_is_made_anew) {
        static struct rig r;
        struct vhk_error e;
        struct vhk_device_ops ops = dev_ops;

        kernel_new();
        vduse_rig(&r);
        struct vhk_sys_vduse_config c = { .name = "test", .features = PLATFORM, .vq_num = 1, .config = "x", .config_size = 1 };
        CHECK_OK(vhk_sys_vduse_create_dev(-1, &c));
        CHECK_OK(vduse_try(&r, NULL, NULL, &e));
        CHECK(K.made.vq_num == N_RINGS && K.n_setup == N_RINGS);
        K.on_bus = true;
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_end(&r);
        K.on_bus = false;                                       /* taken off by hand */
        ops.features |= VHK_BIT(6);
        CHECK_OK(vduse_try(&r, NULL, &ops, &e));                /* nobody minds another device now */
        r.features = K.features = VDUSE_FEATURES;
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_close(&r);
}

/* ---- successors ---- */

/* As after a kill: the old one does nothing any more, and its descriptor is closed. */
struct dead { struct vhk_backend *b; struct vhk_worker *control; struct dev dev; int fd; };

static void kill_it(struct rig *r, struct dead *d) {
        *d = (struct dead){ r->b, r->control, r->dev, K.device };
        K.device = -1;
        vhk_close(&K.here);
        r->b = NULL;
        memset(&r->dev, 0, sizeof(r->dev));
        memcpy(r->dev.config, d->dev.config, sizeof(r->dev.config));
        r->dev.hold = true;
        CHECK_OK(vhk_worker_new(NULL, NULL, &r->control));
}

/* Nobody looks at its rings any more. */
static void bury(struct rig *r, struct dead *d) {
        struct vhk_worker *control = r->control;

        r->control = d->control;
        r->b = d->b;
        r->freed = false;
        dev_release(&d->dev);
        vduse_end(r);
        vhk_worker_free(d->control);
        r->control = control;
        r->b = NULL;
}

TEST(a_successor_finds_what_was_in_flight) {
        static struct rig r;
        static struct dead d;
        struct vhk_error e;
        static const unsigned order[] = { 2, 0, 4 };

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 2), 0);
        vq_add(&r, 0);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        r.dev.hold = true;
        for (unsigned i = 0; i < 6; i++)
                vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 6);
        for (unsigned i = 0; i < VHK_N(order); i++) {           /* three of them are answered, in another order */
                struct vhk_req *q = r.dev.held[order[i]];
                r.dev.held[order[i]] = NULL;
                vhk_req_complete(q, dev_answer(q));
        }
        pump(&r);
        CHECK_EQ(ring_reap(&r, 0), 3);
        unsigned n = 0;
        for (unsigned i = 0; i < 6; i++)
                if (r.dev.held[i])
                        r.dev.held[n++] = r.dev.held[i];
        r.dev.n_held = n;
        /* the reset that the kernel asks for meanwhile is asked again of the successor */
        kill_it(&r, &d);
        ring_add(&r, 0);                                        /* while nobody serves */
        struct message *m = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_GET_VQ_STATE });
        CHECK_OK(vduse_try(&r, NULL, NULL, &e));
        PUMP_UNTIL(&r, r.dev.n_held == 4);
        uint64_t x[4];
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(vhk_req_read(r.dev.held[i], 0, &x[i], 8), 8);
        CHECK(x[0] == 3 && x[1] == 5 && x[2] == 7 && x[3] == 8);        /* in their order, then the new one */
        CHECK_EQ(await(&r, m), 0);
        CHECK_EQ(m->avail, 9);
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK(irqs(0));
        r.dev.hold = false;
        vq_add(&r, 1);
        PUMP_UNTIL(&r, ring_is_idle(&r, 1));
        CHECK_EQ(set_status(&r, 0), 0);
        CHECK_EQ(bring_up(&r, 1), 0);                           /* nothing is left of the time before */
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(set_status(&r, 0), 0);
        K.on_bus = false;
        vduse_end(&r);
        bury(&r, &d);
        vduse_close(&r);
}

/* What the end of a stop that is past its limit tells. */
TEST(requests_left_in_the_record_are_counted) {
        static struct rig r;
        char text[160];

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 2), 0);
        r.dev.hold = true;
        for (unsigned i = 0; i < 3; i++)
                vq_add(&r, i % 2);
        PUMP_UNTIL(&r, r.dev.n_held == 3);
        vhk_inflight_tell(r.b, text, sizeof(text));
        CHECK_STR(text, ": 3 left in the in-flight record (ring 0: 2, ring 1: 1)");
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0) && ring_is_idle(&r, 1));
        CHECK_EQ(set_status(&r, 0), 0);
        vduse_close(&r);
}

/* Through vhost-vdpa a driver's ring may be larger than what the kernel was told. */
TEST(rings_of_1024_entries_are_served_and_recorded_whatever_the_device_asks_for) {
        struct vhk_device_ops ops = dev_ops;
        static struct rig r;
        static struct dead d;
        struct vhk_error e;

        ops.queue_size_max = 64;
        vduse_open(&r, NULL, &ops);
        CHECK_EQ(K.num_max[0], 64);
        vduse_features(&r);
        CHECK_EQ(set_status(&r, S_ACK | S_DRIVER | S_FEATURES_OK), 0);
        vq_set_up_of(&r, 0, RING_SIZE_LARGE, 0);
        CHECK_EQ(set_status(&r, S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK), 0);
        r.dev.hold = true;
        for (unsigned i = 0; i < 200; i++)
                vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 200);
        CHECK(!strstr(r.log, "not recorded"));
        kill_it(&r, &d);
        CHECK_OK(vduse_try(&r, NULL, &ops, &e));
        PUMP_UNTIL(&r, r.dev.n_held == 200);
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(set_status(&r, 0), 0);
        K.on_bus = false;
        vduse_end(&r);
        bury(&r, &d);
        vduse_close(&r);
}

static void spoil(const char *path, uint64_t at, const void *bytes, size_t n) {
        VHK_AUTOCLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
        CHECK(fd >= 0 && pwrite(fd, bytes, n, (off_t)at) == (ssize_t)n);
}

/* That of a predecessor that served smaller ones only. */
TEST(a_ring_larger_than_the_record_of_a_predecessor_runs_without_it) {
        static struct rig r;
        struct vhk_error e;
        uint32_t n_entries = 8;
        char path[100];

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_end(&r);
        snprintf(path, sizeof(path), "%s/record", r.dir);
        spoil(path, 32, &n_entries, 4);
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EEXIST);       /* its size is that of another */
        CHECK_OK(truncate(path, 4096));
        CHECK_OK(truncate(path, 4096 + N_RINGS * (off_t)vhk_inflight_split_bytes(n_entries)));
        CHECK_OK(vduse_try(&r, NULL, NULL, &e));
        PUMP_UNTIL(&r, strstr(r.log, "not recorded"));
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(set_status(&r, 0), 0);
        vduse_close(&r);
}

/* Killed in the middle of a message. */
TEST(a_successor_is_asked_again) {
        static struct rig r;
        static struct dead d;
        struct vhk_error e;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        r.dev.hold = true;
        vq_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        struct message *m = post((struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_SET_STATUS });
        pump(&r);
        CHECK_EQ(m->state, MESSAGE_READ);
        kill_it(&r, &d);
        r.dev.hold = false;
        CHECK_OK(vduse_try(&r, NULL, NULL, &e));
        CHECK_EQ(await(&r, m), 0);
        CHECK(ring_is_idle(&r, 0));                             /* done by the successor, before the reset */
        status_answered(0, 0);
        K.on_bus = false;
        vduse_end(&r);
        bury(&r, &d);
        vduse_close(&r);
}

/* A successor that is another device is told so, and the device waits for the right one. */
TEST(h62_a_successor_that_differs) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;
        struct vhk_error e;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        struct vhk_backend *b = r.b;
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EBUSY);        /* somebody serves it */
        CHECK_STR(e.rule, "vduse.busy");
        r.b = b;
        vduse_end(&r);
        CHECK(K.exists);
        ops.features |= VHK_BIT(6);
        CHECK_EQ(vduse_try(&r, NULL, &ops, &e), -EEXIST);
        CHECK(strstr(e.text, "features"));
        ops = dev_ops;
        ops.virtio_id = 2;
        CHECK_EQ(vduse_try(&r, NULL, &ops, &e), -EEXIST);
        ops = dev_ops;
        ops.config_len--;
        CHECK_EQ(vduse_try(&r, NULL, &ops, &e), -EEXIST);
        CHECK(strstr(e.text, "another size"));
        CHECK_EQ(vduse_try(&r, &(struct vhk_backend_options){ .n_queues = 2 }, NULL, &e), -EEXIST);
        CHECK_STR(e.rule, "vduse.rings");
        r.dev.config[3] ^= 1;
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EEXIST);
        CHECK_STR(e.rule, "vduse.record");
        CHECK(strstr(e.text, "byte 3"));
        r.dev.config[3] ^= 1;
        CHECK_OK(vduse_try(&r, NULL, NULL, &e));
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}

/* Whatever is in the file: an error, or a ring that is broken; the process lives. */
TEST(a_record_that_others_wrote) {
        static struct rig r;
        struct vhk_error e;
        char path[100], aside[100];
        uint8_t junk[64];
        struct stat st;

        vduse_open(&r, NULL, NULL);
        CHECK_EQ(bring_up(&r, 1), 0);
        vduse_end(&r);
        snprintf(path, sizeof(path), "%s/record", r.dir);
        snprintf(aside, sizeof(aside), "%s/aside", r.dir);
        CHECK_OK(stat(path, &st));
        CHECK_OK(chmod(path, 0622));
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EPROTO);
        CHECK_OK(chmod(path, 0600));
        CHECK_OK(link(path, aside));
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EPROTO);
        CHECK_OK(unlink(path));
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -ENOENT);       /* and the device is in use */
        CHECK_OK(symlink(aside, path));
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -ELOOP);
        CHECK_OK(unlink(path));
        CHECK_OK(mkfifo(path, 0600));
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EPROTO);
        CHECK_OK(unlink(path));
        CHECK_OK(rename(aside, path));
        CHECK_OK(truncate(path, st.st_size - 1));
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EEXIST);
        CHECK_OK(truncate(path, st.st_size));
        memset(junk, 0xa5, sizeof(junk));
        spoil(path, 0, "x", 1);
        CHECK_EQ(vduse_try(&r, NULL, NULL, &e), -EPROTO);
        spoil(path, 0, "v", 1);
        spoil(path, 4096, junk, sizeof(junk));                  /* ring 0 */
        r.log[0] = 0;
        CHECK_OK(vduse_try(&r, NULL, NULL, &e));
        PUMP_UNTIL(&r, strstr(r.log, "ring.inflight"));
        CHECK_EQ(bring_up(&r, 1), 0);                           /* a reset is all it takes */
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_OK(truncate(path, 0));                            /* under our feet */
        CHECK_OK(truncate(path, st.st_size));
        vduse_close(&r);
}

TEST(descriptors_may_be_inherited) {
        static struct rig r;
        struct vhk_error e;
        struct vhk_vduse_options v = { .size = sizeof(v), .has_control_fd = 1 };
        struct vhk_backend_options o = { .vduse = &v };

        kernel_new();
        vduse_rig(&r);
        CHECK_OK(vhk_sys_vduse_open(&v.control_fd));
        struct vhk_device_ops ops = dev_ops;
        ops.virtio_id = 99;                                     /* not with this kernel */
        CHECK_EQ(vduse_try(&r, &o, &ops, &e), -EINVAL);
        CHECK_STR(e.rule, "vduse.create");
        CHECK(fcntl(v.control_fd, F_GETFD) >= 0);               /* still ours */
        struct vhk_sys_vduse_config c = { .name = "test", .features = VDUSE_FEATURES, .vq_num = N_RINGS, .config = r.dev.config,
                                          .config_size = sizeof(r.dev.config) };
        CHECK_OK(vhk_sys_vduse_create_dev(v.control_fd, &c));
        CHECK_OK(vhk_sys_vduse_open_dev("test", &v.device_fd));
        v.has_device_fd = 1;
        CHECK_OK(vduse_try(&r, &o, NULL, &e));
        CHECK_EQ(K.n_setup, N_RINGS);
        CHECK_EQ(bring_up(&r, 1), 0);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
        CHECK(fcntl(v.control_fd, F_GETFD) < 0);
}

TEST(what_cannot_be_opened) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;
        struct vhk_error e;
        struct vhk_backend *b;

        kernel_new();
        vduse_rig(&r);
        static const char *const names[] = { "vduse:", "vduse:a/b", "vduse:.", "vduse:..", "vduse:control" };
        for (unsigned i = 0; i < VHK_N(names); i++) {
                struct vhk_backend_options o = { .size = sizeof(o), .control = r.control };
                CHECK_EQ(vhk_backend_open(names[i], &o, &dev_ops, &r.dev, &b, &e), -EINVAL);
                CHECK_STR(e.rule, "vduse.name");
        }
        ops.config_len = 0;
        CHECK_EQ(vduse_try(&r, NULL, &ops, &e), -EOPNOTSUPP);
        CHECK_EQ(vduse_try(&r, &(struct vhk_backend_options){ .vduse = &(struct vhk_vduse_options){ .size = 1 } }, NULL, &e), -EINVAL);
        CHECK(!K.exists);
        ops = dev_ops;
        CHECK_OK(vduse_try(&r, NULL, &ops, &e));                /* freed before it began */
        r.b = vhk_backend_free(r.b);
        vduse_close(&r);
}

/* ---- at the same time ---- */

static struct { struct rig *r; struct home home; } T;

static void open_threaded(struct rig *r) {
        struct vhk_device_ops ops = dev_ops;
        struct vhk_error e = { .text = "" };

        ops.threads = VHK_THREADS_PER_QUEUE;
        kernel_new();
        vduse_rig(r);
        memset(&T, 0, sizeof(T));
        T.home.quit_post.fn = on_quit;
        CHECK_OK(vhk_worker_new(NULL, NULL, &T.home.w));
        CHECK_MSG(vduse_try(r, NULL, &ops, &e) == 0, "%s", e.text);
        K.on_bus = true;
        CHECK_OK(vhk_backend_set_worker(r->b, 0, T.home.w));
        CHECK(pthread_create(&T.home.thread, NULL, home_thread, &T.home) == 0);
}

static void close_threaded(struct rig *r) {
        K.on_bus = false;
        vduse_end(r);
        vhk_worker_post(T.home.w, &T.home.quit_post);
        pthread_join(T.home.thread, NULL);
        vhk_worker_free(T.home.w);
        vduse_close(r);
}

/* Translations are forgotten all the time while a thread works on the ring. */
TEST(update_iotlb_under_load) {
        static struct rig r;
        struct message *m = NULL;
        unsigned n_updates = 0;

        open_threaded(&r);
        CHECK_EQ(bring_up(&r, 1), 0);
        for (unsigned n = 0; n < 3000 || n_updates < 100; n++) {
                if (!m && n_updates < 1000)
                        m = post((struct vhk_sys_vduse_request){ .type = n_updates % 3 ? VHK_SYS_VDUSE_UPDATE_IOTLB : VHK_SYS_VDUSE_GET_VQ_STATE,
                                                                 .last = n_updates % 3 ? UINT64_MAX : 0 });
                if (r.rings[0].n_added - r.rings[0].n_reaped < RING_SIZE / 2)
                        vq_add(&r, 0);
                turn(&r, 0);
                ring_reap(&r, 0);
                if (m && m->state == MESSAGE_ANSWERED) {
                        CHECK_EQ(m->result, 0);
                        n_updates++;
                        m = NULL;
                }
        }
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        if (m)
                CHECK_EQ(await(&r, m), 0);
        CHECK(irqs(0));
        CHECK_EQ(set_status(&r, 0), 0);
        close_threaded(&r);
}

/* Resets while a thread works. */
TEST(resets_under_load) {
        static struct rig r;

        open_threaded(&r);
        for (unsigned n = 0; n < 30; n++) {
                CHECK_EQ(bring_up(&r, 1), 0);
                for (unsigned i = 0; i < RING_SIZE / 2; i++)
                        vq_add(&r, 0);
                if (n % 2)
                        turn(&r, 1);
        }
        CHECK_EQ(set_status(&r, 0), 0);
        close_threaded(&r);
}

/* Anything, in any order: everything is answered, once. */
TEST(never_unanswered) {
        static struct rig r;
        uint32_t seed = 12345;

        vduse_open(&r, NULL, NULL);
        for (unsigned n = 0; n < 1500; n++) {
                seed = seed * 1664525 + 1013904223;
                unsigned x = seed >> 8;
                struct vhk_sys_vduse_request q = {
                        .type = x % 5 == 4 ? x : x % 5 % 3, .vq_index = x % 7, .status = (uint8_t)(x % 3 ? (x >> 4) & 15 : 0),
                        .first = x % 2 ? 0 : GPA, .last = x % 11 ? UINT64_MAX : 5,
                };
                vduse_features(&r);
                if (x % 13 == 0)
                        vq_set_up(&r, 0, 0);
                K.n_ranges = x % 17 != 0;
                CHECK(n < MAX_MESSAGES);
                int result = ask(&r, q);
                if (q.type == VHK_SYS_VDUSE_SET_STATUS)
                        status_answered(q.status, result);
        }
        for (unsigned i = 0; i < K.n_messages; i++)
                CHECK_EQ(K.messages[i].state, MESSAGE_ANSWERED);
        K.n_ranges = 1;
        CHECK_EQ(bring_up(&r, 1), 0);
        vq_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        vduse_close(&r);
}
