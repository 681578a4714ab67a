/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Rings over a session: start, requests, stop, everything that changes while they run, and faults. */
#include <signal.h>
#include <vhostkit/memory.h>

#include "backend/test-backend.h"

static void work(struct rig *r, unsigned i, unsigned n) {
        while (n--) {
                ring_add(r, i);
                PUMP_UNTIL(r, ring_is_idle(r, i));
        }
}

TEST(requests) {
        static struct rig r;
        struct vhk_ring_metrics m = { .size = sizeof(m) };

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, N_RINGS);
        CHECK_EQ(r.dev.n_start, N_RINGS);
        for (unsigned k = 0; k < 100; k++)
                for (unsigned i = 0; i < N_RINGS; i++)
                        ring_add(&r, i), work(&r, i, k % 3);
        for (unsigned i = 0; i < N_RINGS; i++) {
                PUMP_UNTIL(&r, ring_is_idle(&r, i));
                CHECK(is_readable(r.rings[i].call));
                CHECK_OK(vhk_backend_get_metrics(r.b, i, &m));
                CHECK_EQ(m.requests, r.rings[i].n_added);
                CHECK(m.kicks > 0 && m.notifications > 0 && m.flushes > 0 && m.faults == 0);
        }
        CHECK_EQ(vhk_backend_get_metrics(r.b, N_RINGS, &m), -EINVAL);
        rig_close(&r);
        CHECK_EQ(r.dev.n_stop, N_RINGS);
        CHECK_EQ(r.dev.n_stopped, N_RINGS);
        CHECK_EQ(r.dev.how, VHK_STOP_ABORT);            /* the front-end had gone */
}

/* Without EVENT_IDX and without bit 30: no ENABLE. */
TEST(plain_features) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, VHK_BIT(VHK_F_VERSION_1), PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        work(&r, 0, 40);
        rig_close(&r);
}

/* What is available already is served at SET_VRING_KICK, without a kick. */
TEST(ring_is_looked_at_when_it_starts) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1), 0);            /* before anything else */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 3, 1), 0);            /* and one that is never set up */
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_add(&r, 0);
        vhk_drain_fd(r.rings[0].kick);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

TEST(stop_and_restart) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 1);
        for (unsigned k = 1; k <= 5; k++) {
                work(&r, 0, 7);
                CHECK_EQ(ring_stop(&r, 0), 7 * k);
                CHECK_EQ(ring_stop(&r, 0), 7 * k);              /* a stopped ring */
                CHECK_EQ(r.dev.n_stopped, k);
                CHECK_EQ(r.dev.how, VHK_STOP_DRAIN);
                ring_add(&r, 0);                                /* not touched while it is stopped */
                pump(&r);
                CHECK_EQ(ring_reap(&r, 0), 0);
                CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, r.rings[0].call), 0);
                CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
                PUMP_UNTIL(&r, ring_is_idle(&r, 0));
                /* to come out even for the next round */
                if (k < 5) {
                        CHECK_EQ(ring_stop(&r, 0), 7 * k + 1);
                        CHECK_EQ(r.dev.n_stopped, k + 1);
                        r.dev.n_stopped--;
                        ring_make(&r, 0);
                        r.rings[0].n_added = r.rings[0].n_reaped = 0;
                        ring_set_up(&r, 0, 0);
                        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
                        work(&r, 0, 7 * k);
                }
        }
        rig_close(&r);
}

/* User-Mode Linux: ENABLE 0, later a new life without GET_VRING_BASE in between. */
TEST(a_disabled_ring_is_set_up_anew) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 1);
        work(&r, 0, 7);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 0, 0), 1);      /* an enabled ring is in use */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, 2 * RING_SIZE), 1);
        for (unsigned k = 1; k <= 3; k++) {
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 0), 0);
                if (k == 2)
                        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, 2 * RING_SIZE), 0);
                else
                        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 0, 0), 0);
                CHECK_EQ(r.dev.n_stopped, k);
                CHECK_EQ(r.dev.how, VHK_STOP_DRAIN);
                ring_make(&r, 0);
                ring_set_up(&r, 0, 0);
                ring_go(&r, 0);
                work(&r, 0, 20);
        }
        CHECK_EQ(ring_stop(&r, 0), 20);
        rig_close(&r);
}

/* QEMU's crypto front-end never sends SET_VRING_ENABLE, though it negotiates bit 30. */
TEST(a_crypto_ring_is_enabled_when_it_starts) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;

        ops.virtio_id = VHK_ID_CRYPTO;
        rig_open(&r, NULL, &ops);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        work(&r, 0, 5);
        CHECK_EQ(ring_stop(&r, 0), 5);
        rig_close(&r);
}

TEST(base_of_a_ring_in_the_middle) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 1);
        work(&r, 0, 21);
        int fds = vhk_test_count_("/proc/self/fd");
        CHECK_EQ(ring_stop(&r, 0), 21);
        CHECK_EQ(vhk_test_count_("/proc/self/fd"), fds - 1);    /* the kick descriptor goes with the stop */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 3, 5), 0);
        CHECK_EQ(ring_stop(&r, 3), 5);                          /* a ring that never ran */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 0, 21), 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 0, 0x10000), 1);
        ring_go(&r, 0);
        work(&r, 0, 50);
        CHECK_EQ(ring_stop(&r, 0), 71);
        rig_close(&r);
}

/* GET_VRING_BASE answers when the last request is done, whoever completes it. */
TEST(drain_waits) {
        static struct rig r;
        struct vhk_p_vring_state p = { 0, 0 }, base;

        rig_open(&r, NULL, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 1);
        for (unsigned i = 0; i < 3; i++)
                ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 3);
        fe_send(&r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
        fe_send(&r, VHK_FE_GET_FEATURES, 0, NULL, 0, NULL, 0);  /* is not read before that is answered */
        PUMP_UNTIL(&r, r.dev.n_stop == 1);
        ring_add(&r, 0);                                        /* nor is this one popped */
        for (unsigned i = 0; i < 20; i++)
                vhk_worker_dispatch(r.control, 1);
        CHECK(!is_readable(r.fe.fd));
        CHECK_EQ(r.dev.n_stop, 1);
        CHECK_EQ(r.dev.n_held, 3);
        dev_release(&r.dev);
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_VRING_BASE, &base, sizeof(base)), 8);
        CHECK_EQ(base.num, 3);
        CHECK_EQ(ring_reap(&r, 0), 3);
        uint64_t x;
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_FEATURES, &x, 8), 8);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

TEST(drain_at_the_time_limit) {
        static struct rig r;

        rig_open(&r, &(struct vhk_backend_options){ .limit_ns = 20000000 }, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 1);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        CHECK_EQ(ring_stop(&r, 0), -EPIPE);                     /* this reply cannot say no */
        CHECK_EQ(r.n_disconnected, 0);                          /* the device has a request still */
        dev_release(&r.dev);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_STR(r.last_rule, "backend.time-limit");
        fe_close(&r);
        r.dev.hold = false;
        fe_set_up(&r, 1);                                       /* and it serves the next */
        work(&r, 0, 3);
        rig_close(&r);
}

/* The front-end goes while the token is out, with bytes that nobody read. */
TEST(disconnect_gets_through_a_drain) {
        static struct rig r;
        struct vhk_p_vring_state p = { 0, 0 };

        for (unsigned pipelined = 0; pipelined < 2; pipelined++) {
                rig_open(&r, NULL, NULL);
                r.dev.hold = true;
                fe_set_up(&r, 1);
                ring_add(&r, 0);
                PUMP_UNTIL(&r, r.dev.n_held == 1);
                fe_send(&r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
                if (pipelined)
                        fe_send(&r, VHK_FE_GET_FEATURES, 0, NULL, 0, NULL, 0);
                pump(&r);
                CHECK_EQ(r.dev.n_stop, 1);
                fe_close(&r);
                pump(&r);
                CHECK_EQ(r.n_disconnected, 0);
                CHECK_EQ(r.dev.n_reset, 0);
                dev_release(&r.dev);
                PUMP_UNTIL(&r, r.n_disconnected == 1);
                CHECK_EQ(r.last_error, 0);
                CHECK_EQ(r.dev.n_stopped, 1);
                CHECK_EQ(r.dev.n_reset, 1);
                rig_close(&r);
        }
}

TEST(disconnect_waits_for_the_device) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 2);
        ring_add(&r, 0);
        ring_add(&r, 1);
        PUMP_UNTIL(&r, r.dev.n_held == 2);
        fe_close(&r);
        fe_connect(&r);                 /* the next one has to wait */
        pump(&r);
        CHECK_EQ(r.dev.how, VHK_STOP_ABORT);
        CHECK_EQ(r.n_disconnected, 0);
        CHECK_EQ(r.n_connected, 1);
        dev_release(&r.dev);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_EQ(r.n_disconnected, 1);
        CHECK_EQ(r.n_connected, 2);
        rig_close(&r);
}

/* SIGTERM: what was accepted is completed, then the end. */
TEST(stop_completes_what_was_accepted) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 1);
        for (unsigned i = 0; i < 5; i++)
                ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 5);
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_DRAIN, 0));
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_ABORT, 1));     /* the first one counts */
        pump(&r);
        CHECK_EQ(r.n_ended, 0);
        dev_release(&r.dev);
        PUMP_UNTIL(&r, r.freed);
        CHECK_EQ(ring_reap(&r, 0), 5);
        CHECK_EQ(r.n_ended, 1);
        CHECK_EQ(r.last_error, 0);
        rig_close(&r);
}

/* A device that does not give back: the end is told at the limit all the same, and what it may still touch stays. */
TEST(stop_at_the_time_limit) {
        static struct rig r;
        static struct vhk_backend *kept;        /* it is never freed: reachable for leak checkers */

        rig_open(&r, NULL, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 2);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        kept = r.b;
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_DRAIN, 5000000));
        PUMP_UNTIL(&r, r.freed);
        CHECK_EQ(r.n_ended, 1);
        CHECK_EQ(r.last_error, -ETIMEDOUT);
        dev_release(&r.dev);                    /* too late, but not into freed memory */
        PUMP_UNTIL(&r, r.dev.n_stopped == 2);
        pump(&r);
        CHECK_EQ(r.n_ended, 1);
        CHECK(kept);
        rig_close(&r);
}

/* Reset: rings stop, the device is reset, notification descriptors and memory stay. */
TEST(reset_with_requests_in_flight) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 2);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        fe_send(&r, VHK_FE_RESET_DEVICE, VHK_HDR_NEED_REPLY, NULL, 0, NULL, 0);
        pump(&r);
        CHECK(!is_readable(r.fe.fd));
        dev_release(&r.dev);
        uint64_t x = 5;
        CHECK_EQ(fe_receive(&r, VHK_FE_RESET_DEVICE, &x, 8), 8);
        CHECK_EQ(x, 0);
        CHECK_EQ(r.dev.n_reset, 1);
        CHECK_EQ(r.dev.n_stopped, 2);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 1);  /* nothing is set any more */
        r.dev.hold = false;
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 0);
        ring_go(&r, 0);
        work(&r, 0, 5);
        rig_close(&r);
}

/* QEMU's vhost-user-blk: SET_STATUS 0 comes before GET_VRING_BASE. */
TEST(status_0_leaves_the_rings_alone) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        r.dev.hold = true;
        fe_set_up(&r, 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 0xf), 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 0), 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 0), 0);
        CHECK_EQ(r.dev.n_reset, 0);
        dev_release(&r.dev);
        CHECK_EQ(ring_stop(&r, 0), 1);
        CHECK_EQ(ring_reap(&r, 0), 1);
        CHECK_EQ(r.dev.n_reset, 1);
        rig_close(&r);
}

TEST(disabled_ring_holds) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 1);
        work(&r, 0, 3);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 0), 0);
        ring_add(&r, 0);
        vhk_notify_fd(r.rings[0].kick);
        pump(&r);
        CHECK_EQ(ring_reap(&r, 0), 0);
        CHECK(!is_readable(r.rings[0].kick));                   /* the kick was taken, and is not forgotten */
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 2), 1);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        work(&r, 0, 3);
        rig_close(&r);
}

TEST(disabled_ring_discards) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;

        ops.disabled = VHK_DISABLED_DISCARD;
        rig_open(&r, NULL, &ops);
        fe_set_up(&r, 1);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 0), 0);
        work(&r, 0, 3);                         /* this device makes no difference; net would drop them */
        rig_close(&r);
}

/* Bit 8: no kick descriptor. */
TEST(polled_ring) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 1);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, -1), 0);
        for (unsigned i = 0; i < 5; i++) {
                ring_add(&r, 0);
                vhk_drain_fd(r.rings[0].kick);
                PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        }
        CHECK_EQ(ring_stop(&r, 0), 5);
        rig_close(&r);
}

/* A worker that spins needs no kicks. */
TEST(spinning_worker) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        vhk_worker_set_spin(r.control, 200000);
        fe_set_up(&r, 2);
        work(&r, 0, 50);
        work(&r, 1, 50);
        CHECK_EQ(ring_stop(&r, 0), 50);
        CHECK_EQ(ring_stop(&r, 1), 50);
        rig_close(&r);
}

TEST(call_descriptors_at_any_time) {
        static struct rig r;
        int other = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), pipes[2];

        CHECK(pipe2(pipes, O_CLOEXEC) == 0);
        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_FEATURES) & VHK_BIT(5), VHK_BIT(5));
        uint64_t ring = 0;
        fe_send(&r, VHK_FE_SET_VRING_CALL, 0, &ring, 8, &other, 1);     /* before anything */
        fe_close(&r);
        fe_set_up(&r, 1);
        work(&r, 0, 1);
        vhk_drain_fd(r.rings[0].call);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, other), 0);
        CHECK(is_readable(other));              /* whoever listens now may have missed something */
        vhk_drain_fd(other);
        work(&r, 0, 1);
        CHECK(is_readable(other) && !is_readable(r.rings[0].call));
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, -1), 0);
        vhk_drain_fd(other);
        work(&r, 0, 1);
        CHECK(!is_readable(other));
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, pipes[1]), 0);
        work(&r, 0, 1);
        CHECK(is_readable(pipes[0]));
        CHECK_EQ(ring_stop(&r, 0), 4);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, other), 0);    /* after the stop */
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_ERR, 0, -1), 0);
        close(other);
        close(pipes[0]);
        close(pipes[1]);
        rig_close(&r);
}

/* H06: what is no notification descriptor is refused; a pipe is one. One that dies later is left alone. */
TEST(kick_descriptors_of_all_kinds) {
        static struct rig r;
        int bad[] = { open("/dev/zero", O_RDWR | O_CLOEXEC), open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), open("/", O_PATH | O_CLOEXEC),
                      memfd_create("x", MFD_CLOEXEC) }, pipes[2];

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 1);
        CHECK_EQ(ring_stop(&r, 0), 0);
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                CHECK(bad[i] >= 0);
                CHECK_MSG(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, bad[i]) == 1, "kick %u", i);
                CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, bad[i]), 1);
                close(bad[i]);
        }
        CHECK(pipe2(pipes, O_CLOEXEC) == 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, pipes[0]), 0);
        ring_add(&r, 0);
        CHECK_EQ(write(pipes[1], "12345678", 8), 8);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        close(pipes[1]);                        /* readable for ever: must not spin */
        PUMP_UNTIL(&r, strstr(r.log, "kick descriptor"));
        CHECK_EQ(vhk_worker_dispatch(r.control, 5), 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);  /* a new one on the running ring */
        work(&r, 0, 2);
        close(pipes[0]);
        rig_close(&r);
}

/* A guest without a shared memory backend: the front-end shares nothing, and the ring lies in
 * memory that is not there. */
TEST(a_ring_in_no_shared_memory_is_refused_with_a_hint) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        ring_make(&r, 0);
        for (unsigned shared = 0; shared < 2; shared++) {
                ring_set_up(&r, 0, 0);
                CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 1);
                CHECK(strstr(r.log, "ring.area"));
                CHECK_EQ(!strstr(r.log, "share=on"), shared);
                r.log[0] = 0;
                if (!shared)            /* but for the end of the descriptor table: no hint */
                        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 4096), 0);
                ring_make_of(&r, 0, RING_SIZE_LARGE);
        }
        rig_close(&r);
}

/* No message tells a front-end the largest ring; QEMU 10.0 shows its driver 1024 entries whatever
 * the device is. */
TEST(rings_of_1024_entries_are_served_whatever_the_device_asks_for) {
        static const struct { uint16_t device, option, taken; } sizes[] = { { 64, 0, 1024 }, { 256, 8, 1024 }, { 4096, 0, 4096 }, { 4096, 2048, 2048 } };
        struct vhk_device_ops ops = dev_ops;
        static struct rig r;

        for (unsigned i = 0; i < VHK_N(sizes); i++) {
                ops.queue_size_max = sizes[i].device;
                rig_open(&r, &(struct vhk_backend_options){ .queue_size_max = sizes[i].option }, &ops);
                fe_connect(&r);
                fe_negotiate(&r, FEATURES, PROTOCOL);
                CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, 2u * sizes[i].taken), 1);
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, sizes[i].taken), 0);
                ring_make_of(&r, 0, RING_SIZE_LARGE);
                ring_set_up(&r, 0, 0);
                ring_go(&r, 0);
                for (unsigned n = 0; n < 1100; n++) {
                        ring_add(&r, 0);
                        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
                }
                rig_close(&r);
        }
}

TEST(ring_messages_refused) {
        static const uint32_t indices[] = { N_RINGS, 255, 256, 0xffff, 0x10000, 0xffffffff };
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        for (unsigned i = 0; i < VHK_N(indices); i++) {
                struct vhk_p_vring_addr a = { .index = indices[i] };
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, indices[i], 16), 1);
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, indices[i], 0), 1);
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, indices[i], 1), 1);
                CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 1);
                CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_VRING_KICK, indices[i] | 0x100), 1);
        }
        static const uint32_t sizes[] = { 0, 3, 100, 2048, 32768, 65536 };
        for (unsigned i = 0; i < VHK_N(sizes); i++)
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, sizes[i]), 1);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, 1), 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, 1024), 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_VRING_KICK, 0), 1);                          /* neither descriptor nor bit 8 */
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, -1), 1);                       /* no address, no memory */
        CHECK_EQ(r.n_disconnected, 0);
        struct vhk_p_vring_state p = { N_RINGS, 0 };
        fe_send(&r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);                  /* this reply cannot say no */
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        rig_close(&r);
}

TEST(ring_addresses_refused) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        uint64_t at = (uint64_t)(uintptr_t)r.mem;
        const struct { uint64_t desc, avail, used; } bad[] = {
                { at - 4096, at + 0x1000, at + 0x2000 },                                /* outside */
                { at + MEM_BYTES - 16, at + 0x1000, at + 0x2000 },                      /* its end is */
                { at, at + (1 << 20) - 8, at + 0x2000 },                                /* crosses into another region */
                { at, at + 0x1000, UINT64_MAX - 3 },                                    /* wraps around */
                { at + 8, at + 0x1000, at + 0x2000 },
                { at, at + 0x1001, at + 0x2000 },
                { at, at + 0x1000, at + 0x2002 },
                { at, at + 0x80, at + 0x2000 },                                         /* overlap */
                { 0, 0, 0 },
        };
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                struct vhk_p_vring_addr a = { .desc = bad[i].desc, .avail = bad[i].avail, .used = bad[i].used };
                CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
                CHECK_MSG(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick) == 1, "row %u", i);
        }
        struct vhk_p_vring_addr a = ring_addr(&r, 0);
        a.flags = VHK_VRING_F_LOG;
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 1);
        a.flags = 0;
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        ring_go(&r, 0);
        work(&r, 0, 2);
        /* a running ring keeps its size, addresses and base; the same ones are legal */
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, RING_SIZE), 0);
        a.desc += 0x4000;
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 1);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_NUM, 0, 32), 1);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 0, 0), 1);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);          /* twice */
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 0);
        work(&r, 0, 2);
        rig_close(&r);
}

/* ---- memory ---- */

static int64_t set_table(struct rig *r, uint64_t second_off, uint64_t second_len) {
        struct vhk_p_mem_regions t = { .n_regions = second_len ? 2 : 1, .regions = { region(r, 0, 1 << 20), region(r, second_off, second_len) } };
        int fds[2] = { r->memfd, r->memfd };
        uint64_t x = 9;

        fe_send(r, VHK_FE_SET_MEM_TABLE, VHK_HDR_NEED_REPLY, &t, 8 + 32 * t.n_regions, fds, t.n_regions);
        CHECK_EQ(fe_receive(r, VHK_FE_SET_MEM_TABLE, &x, 8), 8);
        return (int64_t)x;
}

TEST(memory_changes_under_running_rings) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(set_table(&r, 0, 0), 0);
        for (unsigned i = 0; i < 2; i++) {
                ring_make(&r, i);
                ring_set_up(&r, i, 0);
                ring_go(&r, i);
        }
        for (unsigned k = 0; k < 10; k++) {
                work(&r, 0, 3);
                ring_add(&r, 1);
                CHECK_EQ(k % 2 ? set_table(&r, 0, 0) : set_table(&r, 1 << 20, 1 << 20), 0);
                PUMP_UNTIL(&r, ring_is_idle(&r, 1));
        }
        rig_close(&r);
}

/* A removal is acknowledged when no request of the time before is in flight; an addition at once. */
TEST(removal_waits_for_requests) {
        static struct rig r;
        struct vhk_p_mem_region_single p;
        uint64_t x = 9;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        p = (struct vhk_p_mem_region_single){ .region = { region(&r, 1 << 20, 1 << 20) } };
        struct vhk_mem_counters before = vhk_mem_counters();
        fe_send(&r, VHK_FE_REM_MEM_REG, VHK_HDR_NEED_REPLY, &p, sizeof(p), NULL, 0);
        for (unsigned i = 0; i < 10; i++)
                vhk_worker_dispatch(r.control, 1);
        CHECK(!is_readable(r.fe.fd));
        CHECK_EQ(vhk_mem_counters().munmaps - before.munmaps, 0);
        ring_add(&r, 0);                        /* the ring goes on meanwhile */
        PUMP_UNTIL(&r, r.dev.n_held == 2);
        vhk_req_complete(r.dev.held[0], dev_answer(r.dev.held[0]));
        CHECK_EQ(fe_receive(&r, VHK_FE_REM_MEM_REG, &x, 8), 8);
        CHECK_EQ(x, 0);
        CHECK_EQ(vhk_mem_counters().munmaps - before.munmaps, 1);
        r.dev.held[0] = r.dev.held[1];
        r.dev.n_held = 1;
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

TEST(removal_at_the_time_limit) {
        static struct rig r;

        rig_open(&r, &(struct vhk_backend_options){ .limit_ns = 20000000 }, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 1 << 20, 1 << 20), 1);
        struct vhk_mem_counters before = vhk_mem_counters();
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), 0);
        CHECK_EQ(vhk_mem_counters().mmaps - before.mmaps, 0);                   /* it is still there */
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 1 << 20, 1 << 20), 0);
        r.dev.hold = false;
        work(&r, 0, 3);
        rig_close(&r);
}

TEST(memory_of_the_ring_itself_goes) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 1);
        work(&r, 0, 3);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_REM_MEM_REG, 0, MEM_BYTES), 0);          /* a success */
        pump(&r);
        CHECK(is_readable(r.rings[0].err));
        CHECK(strstr(r.log, "ring.memory"));
        ring_add(&r, 0);
        vhk_notify_fd(r.rings[0].kick);
        pump(&r);
        CHECK_EQ(ring_reap(&r, 0), 0);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        pump(&r);
        CHECK_EQ(ring_reap(&r, 0), 0);                                          /* broken until it is stopped */
        CHECK_EQ(ring_stop(&r, 0), 3);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

/* ---- faults ---- */

TEST(guest_breaks_its_ring) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 2);
        work(&r, 0, 3);
        vhk_le16 *avail_idx = (vhk_le16 *)(ring_area(&r, 0) + 0x1002);
        *avail_idx = vhk_le16_of(3 + RING_SIZE + 1);
        vhk_notify_fd(r.rings[0].kick);
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));
        pump(&r);
        CHECK(strstr(r.log, "ring.avail-jump"));
        work(&r, 1, 3);                                 /* the other one does not care */
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, r.rings[0].call), 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1), 0);
        *avail_idx = vhk_le16_of(3);
        vhk_notify_fd(r.rings[0].kick);
        CHECK_EQ(vhk_worker_dispatch(r.control, 5), 0); /* nobody listens to it any more */
        CHECK_EQ(ring_stop(&r, 0), 3);
        vhk_drain_fd(r.rings[0].kick);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        work(&r, 0, 3);
        rig_close(&r);
}

TEST(device_refuses_to_start) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        r.dev.refuse_start = -EIO;
        fe_send(&r, VHK_FE_SET_VRING_KICK, 0, &(uint64_t){ 0 }, 8, &r.rings[0].kick, 1);        /* no answer is due */
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));
        pump(&r);
        CHECK(strstr(r.log, "ring.device"));
        CHECK_EQ(r.dev.n_stop, 0);
        r.dev.refuse_start = 0;
        CHECK_EQ(ring_stop(&r, 0), 0);
        CHECK_EQ(r.dev.n_stopped, 0);
        ring_go(&r, 0);
        work(&r, 0, 3);
        rig_close(&r);
}

/* A device that leaves buffers in the ring (for events to come) costs nothing while it waits. */
static void declining_run(void *arg, struct vhk_queue *q) {
        ((struct dev *)arg)->n_negotiated++;
}

TEST(device_that_leaves_requests) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;

        ops.queue_run = declining_run;
        rig_open(&r, NULL, &ops);
        fe_set_up(&r, 1);
        ring_add(&r, 0);
        ring_add(&r, 0);
        pump(&r);
        unsigned before = r.dev.n_negotiated;
        CHECK_EQ(vhk_worker_dispatch(r.control, 5), 0);
        CHECK_EQ(r.dev.n_negotiated, before);
        CHECK_EQ(ring_stop(&r, 0), 0);
        rig_close(&r);
}

static uint32_t n_endless;

/* A device that takes 1 ms for a request, and a driver that keeps its ring full. */
static void endless_run(void *arg, struct vhk_queue *q) {
        struct timespec t = { .tv_nsec = 1000000 };
        struct dev *d = arg;
        struct vhk_req *req;

        if (vhk_queue_pop(q, &req, 1) != 1)
                return;
        n_endless++;
        nanosleep(&t, NULL);
        vhk_queue_push(q, req, 0);
        vhk_queue_flush(q);
        struct rig *r = vhk_container_of(d, struct rig, dev);
        struct vhk_done done;
        if (!d->hold && vhk_drvring_reap(r->rings[0].drv, &done, 1) == 1)
                ring_add(r, 0);
}

TEST(a_ring_that_is_kept_full_holds_up_no_message) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;
        struct vhk_p_vring_state off = { 0, 0 };
        uint64_t x = 9;

        ops.queue_run = endless_run;
        rig_open(&r, NULL, &ops);
        fe_set_up(&r, 1);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, n_endless > 40);
        fe_send(&r, VHK_FE_SET_VRING_ENABLE, VHK_HDR_NEED_REPLY, &off, 8, NULL, 0);
        uint32_t before = n_endless;
        for (int i = 0; i < 100 && !is_readable(r.fe.fd); i++)
                vhk_worker_dispatch(r.control, 0);
        CHECK_MSG(n_endless - before <= 8, "%u requests came before the message", n_endless - before);
        CHECK_EQ(fe_receive(&r, VHK_FE_SET_VRING_ENABLE, &x, 8), 8);
        CHECK_EQ(x, 0);
        r.dev.hold = true;
        rig_close(&r);
}

/* The home is another worker, here driven by hand: what changes is acknowledged when the home has it, not before. */
TEST(changes_are_acknowledged_by_the_home) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;
        struct vhk_worker *home;
        struct vhk_p_vring_state off = { 0, 0 };
        uint64_t x = 9;

        ops.threads = VHK_THREADS_PER_QUEUE;
        rig_open(&r, NULL, &ops);
        CHECK_OK(vhk_worker_new(NULL, NULL, &home));
        CHECK_EQ(vhk_backend_set_worker(r.b, N_RINGS, home), -EINVAL);
        CHECK_OK(vhk_backend_set_worker(r.b, 0, home));
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        uint64_t ring = 0;
        fe_send(&r, VHK_FE_SET_VRING_KICK, 0, &ring, 8, &r.rings[0].kick, 1);
        fe_send(&r, VHK_FE_SET_VRING_ENABLE, VHK_HDR_NEED_REPLY, &off, 8, NULL, 0);
        pump(&r);
        CHECK(!is_readable(r.fe.fd));
        CHECK_EQ(r.dev.n_start, 0);
        vhk_worker_dispatch(home, 0);
        CHECK_EQ(r.dev.n_start, 1);
        CHECK_EQ(fe_receive(&r, VHK_FE_SET_VRING_ENABLE, &x, 8), 8);
        CHECK_EQ(x, 0);
        /* memory as well, and a front-end that leaves waits for the home too */
        struct vhk_p_mem_region_single p = { .region = { region(&r, 1 << 20, 1 << 20) } };
        fe_send(&r, VHK_FE_ADD_MEM_REG, VHK_HDR_NEED_REPLY, &p, sizeof(p), &r.memfd, 1);
        pump(&r);
        CHECK(!is_readable(r.fe.fd));
        vhk_worker_dispatch(home, 0);
        CHECK_EQ(fe_receive(&r, VHK_FE_ADD_MEM_REG, &x, 8), 8);
        fe_close(&r);
        pump(&r);
        CHECK_EQ(r.n_disconnected, 0);
        vhk_worker_dispatch(home, 0);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_DRAIN, 0));
        pump(&r);
        CHECK_EQ(r.n_ended, 0);                 /* the farewell */
        vhk_worker_dispatch(home, 0);
        rig_close(&r);
        vhk_worker_free(home);
}

/* One home for all rings of a device that wants that. */
TEST(threads_that_a_device_allows) {
        static const enum vhk_threads kinds[] = { VHK_THREADS_SINGLE, VHK_THREADS_PER_DEVICE };
        static struct rig r;
        struct vhk_worker *other;

        CHECK_OK(vhk_worker_new(NULL, NULL, &other));
        for (unsigned i = 0; i < VHK_N(kinds); i++) {
                struct vhk_device_ops ops = dev_ops;
                ops.threads = kinds[i];
                rig_open(&r, NULL, &ops);
                CHECK_EQ(vhk_backend_set_worker(r.b, 1, other), kinds[i] == VHK_THREADS_SINGLE ? -EINVAL : 0);
                CHECK_OK(vhk_backend_set_worker(r.b, 2, r.control));
                fe_set_up(&r, 2);               /* both at home with control again */
                work(&r, 1, 2);
                rig_close(&r);
        }
        vhk_worker_free(other);
}

static void on_sigbus(int sig, siginfo_t *info, void *context) {
        if (!vhk_sigbus_try(info))
                _exit(70);
}

/* H20: a memfd that shrinks breaks the connection, not the process; the next front-end is served. */
TEST(memory_is_truncated) {
        static struct rig r;
        struct sigaction old, sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

        CHECK(sigaction(SIGBUS, &sa, &old) == 0);
        rig_open(&r, NULL, NULL);
        fe_set_up(&r, 2);
        work(&r, 0, 3);
        CHECK(ftruncate(r.memfd, 0) == 0);
        vhk_notify_fd(r.rings[0].kick);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_STR(r.last_rule, "mem.bad");
        CHECK_EQ(r.dev.n_stopped, 2);
        fe_close(&r);
        CHECK(ftruncate(r.memfd, MEM_BYTES) == 0);
        fe_set_up(&r, 1);
        work(&r, 0, 3);
        rig_close(&r);
        CHECK(sigaction(SIGBUS, &old, NULL) == 0);
}

/* Two front-ends after another leave no request behind, whatever was in flight. */
TEST(many_requests_and_a_disconnect) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        for (unsigned k = 0; k < 20; k++) {
                fe_set_up(&r, N_RINGS);
                for (unsigned i = 0; i < N_RINGS; i++)
                        for (unsigned n = 0; n < RING_SIZE / 2; n++)
                                ring_add(&r, i);
                for (unsigned n = 0; n < k; n++)
                        vhk_worker_dispatch(r.control, 0);
                fe_close(&r);
                PUMP_UNTIL(&r, r.n_disconnected == k + 1);
        }
        rig_close(&r);
}
