/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The rows about what both ends share: descriptors whose O_NONBLOCK flag and contents the front-end changes at any time, files that
 * shrink or whose file system does not answer, and the cost of refusals.
 */
#include <fcntl.h>
#include <pthread.h>

#include "base/test-silent-file.h"
#include "hostile.h"

static void make_blocking(int fd) {
        CHECK_OK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK));
}

/* The next write(2) of any process that has it would wait. */
static void fill_and_block(int fd) {
        uint64_t count = 0;

        CHECK_OK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
        (void)!read(fd, &count, sizeof(count));
        CHECK_EQ(write(fd, &(uint64_t){ UINT64_MAX - 1 }, 8), 8);
        make_blocking(fd);
}

ROW(H70, "the counters of call, err and log eventfds are full, and the eventfds made blocking", "E") {
        int fd = -1;

        come_with_ring();
        read_sector(0, 1);
        if (offered_protocol & VHK_BIT(VHK_PF_LOG_SHMFD)) {
                fd = eventfd(0, EFD_CLOEXEC);
                ACCEPTED(say(VHK_FE_SET_LOG_FD, NULL, 0, fd));
                fill_and_block(fd);
                close(fd);
        }
        fill_and_block(fe->rings[0].call);
        fill_and_block(fe->rings[0].err);
        make_blocking(fe->rings[0].kick);
        for (unsigned i = 0; i < 20; i++)
                read_sector(0, i);
        expect_alive();
        /* an available index that jumps breaks the ring: the error eventfd is signalled */
        *(volatile uint16_t *)(void *)(fe->rings[0].area + 0x1000 + 2) += 5000;
        vhk_notify_fd(fe->rings[0].kick);
        expect_alive();
        ACCEPTED(say_ring(VHK_FE_GET_VRING_BASE, 0, 0));
        expect_alive();
        leave();
        come_with_ring();
        read_sector(0, 7);
}

ROW(H71, "the kick descriptor is a blocking pipe that its writer keeps full", "E") {
        static const char zeroes[4096];
        int p[2];

        come_with_memory();
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        CHECK_OK(pipe2(p, O_CLOEXEC | O_NONBLOCK));
        while (write(p[1], zeroes, sizeof(zeroes)) > 0)
                ;
        ACCEPTED(say_u64(VHK_FE_SET_VRING_KICK, 0, p[0]));
        make_blocking(p[0]);
        close(p[0]);
        for (unsigned i = 0; i < 20; i++) {
                while (write(p[1], zeroes, sizeof(zeroes)) > 0)
                        ;
                expect_alive();
        }
        ACCEPTED(say_ring(VHK_FE_GET_VRING_BASE, 0, 0));
        close(p[1]);
        leave();
}

ROW(H72, "the pipe of device state is made blocking: a load that is not written, a save that is not read", "E") {
        static const uint32_t ids[] = { VHK_FE_SET_DEVICE_STATE_FD, VHK_FE_CHECK_DEVICE_STATE };

        if (!is_offered(VHK_PF_DEVICE_STATE, "DEVICE_STATE", ids, 1))
                return;
        for (uint32_t direction = VHK_STATE_SAVE; direction <= VHK_STATE_LOAD; direction++) {
                struct vhk_p_device_state state = { .direction = direction };
                uint64_t x = 0;
                int p[2];

                come_with_memory();
                CHECK_OK(pipe2(p, O_CLOEXEC));
                int theirs = p[direction == VHK_STATE_SAVE], ours = p[direction == VHK_STATE_LOAD];
                fe_send(fe, VHK_FE_SET_DEVICE_STATE_FD, 0, &state, sizeof(state), &theirs, 1);
                PUMP_UNTIL(fe, vhk_conn_flush(&fe->fe) == 1);
                CHECK_EQ(fe_receive(fe, VHK_FE_SET_DEVICE_STATE_FD, &x, 8), 8);
                make_blocking(theirs);
                if (direction == VHK_STATE_LOAD)
                        CHECK_EQ(write(ours, "x", 1), 1);
                expect_alive();
                expect_alive();
                close(theirs);
                close(ours);
                leave();
        }
}

static void *truncate_and_seal(void *arg) {
        int fd = *(int *)arg;

        for (uint64_t until = now_ns() + (uint64_t)(fd % 8) * 10000; now_ns() < until;)
                ;
        if (ftruncate(fd, 0) == 0)
                (void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        return NULL;
}

/* Until the back-end closes the connection. */
static void expect_closed(const char *why) {
        uint64_t until = now_ns() + 5000000000u;

        for (int end = 0; end != VHK_CONN_EOF && end != VHK_CONN_CUT; turn(fe, 1)) {
                CHECK_MSG(now_ns() < until, "%s and the connection lives", why);
                end = vhk_conn_receive(&fe->fe);
        }
}

ROW(H73, "memory is truncated, and then sealed against shrinking, while it is added", "close") {
        const uint64_t gone = GPA + 0x10000000;
        struct vhk_p_mem_region_single one = { .region = { { gone, 0x10000, 0x1000, 0 } } };
        unsigned n_accepted = 0;

        for (unsigned i = 0; i < 24; i++) {
                VHK_AUTOCLOSE int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
                pthread_t thread;

                CHECK(fd >= 0 && ftruncate(fd, 0x10000) == 0);
                come_with_ring();
                CHECK_EQ(pthread_create(&thread, NULL, truncate_and_seal, &fd), 0);
                enum result r = say(VHK_FE_ADD_MEM_REG, &one, sizeof(one), fd);
                pthread_join(thread, NULL);
                CHECK(r == OK || r == NO);
                if (r == NO)
                        continue;
                n_accepted++;
                struct ring *g = &fe->rings[0];
                struct vhk_drvring_buf sg[2] = { { gone, 16 }, { GPA + STATUS_AT, 1 } };
                CHECK_OK(vhk_drvring_add_gpa(g->drv, sg, 1, 1, g));
                (void)vhk_drvring_publish(g->drv);
                vhk_notify_fd(g->kick);
                expect_closed("sealed memory has vanished");
        }
        leave();
        snprintf(verdict, sizeof(verdict), "%u of 24 regions were accepted, and cost their connection", n_accepted);
}

ROW(H74, "a flood of messages that are refused", "E") {
        unsigned n = 0;

        come();
        while (n < 5000 && say_ring(VHK_FE_SET_VRING_NUM, 0, 0) == NO)
                n++;
        CHECK_MSG(n < 5000, "%u messages were refused, and the connection is still there", n);
        snprintf(verdict, sizeof(verdict), "closed after %u refusals", n);
        come_with_ring();
        read_sector(0, 3);
}

ROW(H75, "memory, log, in-flight record, notifiers in a file whose file system does not answer (FUSE)", "E") {
        struct vhk_p_mem_region_single one = { .region = { { GPA, 0x10000, (uint64_t)(uintptr_t)fe->mem, 0 } } };
        struct vhk_p_mem_regions table = { .n_regions = 1, .regions = { { GPA, 0x10000, (uint64_t)(uintptr_t)fe->mem, 0 } } };
        struct vhk_p_inflight record = { .mmap_size = 0x10000, .num_queues = 1, .queue_size = 16 };
        struct vhk_p_log log = { .mmap_size = 0x10000 };
        struct silent_file silent;

        const char *why = silent_file_open(&silent);
        if (why) {
                snprintf(verdict, sizeof(verdict), "%s", why);
                return;
        }
        come();
        REFUSED(say(VHK_FE_ADD_MEM_REG, &one, sizeof(one), silent.fd), 0);
        REFUSED(say(VHK_FE_SET_MEM_TABLE, &table, 40, silent.fd), 0);
        if (offered_protocol & VHK_BIT(VHK_PF_INFLIGHT_SHMFD))
                REFUSED(say(VHK_FE_SET_INFLIGHT_FD, &record, sizeof(record), silent.fd), 0);
        if (offered_protocol & VHK_BIT(VHK_PF_LOG_SHMFD)) {
                REFUSED(say(VHK_FE_SET_LOG_BASE, &log, sizeof(log), silent.fd), 0);
                REFUSED(say(VHK_FE_SET_LOG_FD, NULL, 0, silent.fd), 0);
        }
        REFUSED(say_u64(VHK_FE_SET_VRING_CALL, 0, silent.fd), 0);
        REFUSED(say_u64(VHK_FE_SET_VRING_KICK, 0, silent.fd), 0);
        (void)send_and_see(VHK_FE_GET_FEATURES, VHK_HDR_VERSION, NULL, 0, 0, &silent.fd, 1);   /* one that is not wanted */
        leave();
        come_with_ring();
        read_sector(0, 5);
        leave();
        silent_file_close(&silent);
}
