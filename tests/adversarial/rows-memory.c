/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The rows about memory that the front-end lends: tables, truncated files, the dirty log, the in-flight record. */
#include "hostile.h"

#define LOG_BYTES ((GPA + MEM_BYTES) / VHK_PAGE / 8)

static int make_file(const char *name, uint64_t size) {
        int fd = memfd_create(name, MFD_CLOEXEC);

        CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
        return fd;
}

/* A table that says @n regions, has @there of them, and @n_fds descriptors. */
static enum result table(uint32_t n, unsigned there, unsigned n_fds) {
        struct vhk_p_mem_regions m = { .n_regions = n };
        int fds[16];

        for (unsigned i = 0; i < 8; i++)
                m.regions[i] = region(fe, i * 0x10000, 0x10000);
        for (unsigned i = 0; i < VHK_N(fds); i++)
                fds[i] = fe->memfd;
        return send_and_see(VHK_FE_SET_MEM_TABLE, 9, &m, 8 + 32 * there, 8 + 32 * there, fds, n_fds);
}

ROW(H18, "SET_MEM_TABLE with 0, 9, 0xffffffff regions, not as many descriptors, more than the payload", "E") {
        static const struct { uint32_t n; unsigned there, n_fds; } bad[] = {
                { 0, 0, 0 }, { 0, 1, 1 }, { 9, 8, 8 }, { 9, 8, 9 }, { 0xffffffff, 1, 1 }, { 0x80000001, 1, 1 }, { 0x10000001, 1, 1 }, { 2, 1, 2 }, { 2, 2, 1 },
                { 2, 2, 3 }, { 1, 1, 0 }, { 8, 7, 8 }, { 0x08000001, 1, 1 },
        };

        come();
        for (unsigned i = 0; i < VHK_N(bad); i++)
                REFUSED(table(bad[i].n, bad[i].there, bad[i].n_fds), i);
        CHECK_EQ(table(8, 8, 8), OK);
}

ROW(H19, "regions: size 0, beyond the file, overflows, offset not aligned, overlaps; an identical one", "E") {
        const uint64_t base = (uint64_t)(uintptr_t)fe->mem;
        const struct vhk_p_region bad[] = {
                { GPA, 0, base, 0 }, { GPA, MEM_BYTES + 1, base, 0 }, { GPA, MEM_BYTES, base, 0x1000 }, { GPA, 0x1000, base, MEM_BYTES },
                { ~0ull - 0xfff, 0x2000, base, 0 }, { GPA, 0x2000, ~0ull - 0xfff, 0 }, { GPA, 0x2000, base, ~0ull - 0xfff }, { GPA, ~0ull, base, 0 },
                { GPA, ~0ull - 0xfff, base, 0x1000 }, { GPA, 1ull << 63, base, 1ull << 63 }, { GPA, 0x1000, base, 1ull << 62 },
        };
        const struct vhk_p_region overlap[] = {
                { GPA + 0x8000, 0x10000, base + 0x100000, 0 }, { GPA + 0x100000, 0x10000, base + 0x8000, 0 }, { GPA, 0x10000, base + 0x100000, 0 },
                { GPA + 0x100000, 0x10000, base, 0 }, { GPA, 0x20000, base, 0 }, { GPA + 0xffff, 1, base + 0x200000, 0 }, { 0, GPA + 1, base + 0x200000, 0 },
        };

        for (unsigned i = 0; i < VHK_N(bad); i++) {
                struct vhk_p_mem_region_single one = { .region = { bad[i] } };
                struct vhk_p_mem_regions m = { .n_regions = 1, .regions = { bad[i] } };
                come();
                REFUSED(say(VHK_FE_ADD_MEM_REG, &one, sizeof(one), fe->memfd), i);
                REFUSED(say(VHK_FE_SET_MEM_TABLE, &m, 40, fe->memfd), i);
        }
        come();
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, 0x10000), 0);
        for (unsigned i = 0; i < VHK_N(overlap); i++) {
                struct vhk_p_mem_region_single one = { .region = { overlap[i] } };
                CHECK_EQ(say(VHK_FE_ADD_MEM_REG, &one, sizeof(one), fe->memfd), NO);
        }
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, 0x10000), 0);    /* QEMU's multi-queue net does that */
        struct vhk_p_mem_region_single odd = { .region = { { GPA + 0x400000, 0x1000, base + 0x400000, 0x1001 } } };
        enum result r = say(VHK_FE_ADD_MEM_REG, &odd, sizeof(odd), fe->memfd);
        CHECK(r == NO || r == OK);
}

ROW(H20, "a file truncated under a descriptor's buffer, under the ring, the log, the record", "close") {
        static const char *const what[] = { "the buffer", "the ring" };

        for (unsigned k = 0; k < VHK_N(what); k++) {
                come();
                VHK_AUTOCLOSE int fd = k ? -1 : make_file("vanishing", 0x10000);
                uint64_t gone = GPA + 0x10000000;
                struct vhk_p_mem_region_single m = { .region = { { gone, 0x10000, 0x1000, 0 } } };
                CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
                if (!k)
                        CHECK_EQ(say(VHK_FE_ADD_MEM_REG, &m, sizeof(m), fd), OK);
                ring_make(fe, 0);
                ring_set_up(fe, 0, 0);
                ring_go(fe, 0);
                read_sector(0, 1);
                struct ring *g = &fe->rings[0];
                *(struct blk_head *)(void *)(g->area + HEAD_AT) = (struct blk_head){ .type = 4 };
                struct vhk_drvring_buf sg[2] = { { k ? GPA + HEAD_AT : gone, 16 }, { GPA + STATUS_AT, 1 } };
                if (!k) {
                        CHECK_EQ(ftruncate(fd, 0), 0);
                        CHECK_OK(vhk_drvring_add_gpa(g->drv, sg, 1, 1, g));
                        (void)vhk_drvring_publish(g->drv);
                } else {
                        CHECK_EQ(ftruncate(fe->memfd, 0), 0);
                }
                vhk_notify_fd(g->kick);
                uint64_t until = now_ns() + 5000000000u;
                int end = 0;
                while (end != VHK_CONN_EOF && end != VHK_CONN_CUT) {
                        CHECK_MSG(now_ns() < until, "%s has vanished and the connection lives", what[k]);
                        end = vhk_conn_receive(&fe->fe);
                        turn(fe, 1);
                }
                leave();
                if (k) {
                        CHECK_EQ(ftruncate(fe->memfd, MEM_BYTES), 0);
                        memset(fe->mem, 0, MEM_BYTES);
                }
        }
        if (!(offered_protocol & VHK_BIT(VHK_PF_LOG_SHMFD)))
                return;
        VHK_AUTOCLOSE int fd = make_file("log", LOG_BYTES);
        come_with_ring();
        CHECK_EQ(say(VHK_FE_SET_LOG_BASE, &(struct vhk_p_log){ LOG_BYTES, 0 }, 16, fd), REPLY);
        CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(VHK_F_LOG_ALL), -1), OK);
        read_sector(0, 1);
        CHECK_EQ(ftruncate(fd, 0), 0);
        struct ring *g = &fe->rings[0];
        struct iovec sg[2] = { { g->area + HEAD_AT, 16 }, { g->area + STATUS_AT, 1 } };
        CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 1, g));
        (void)vhk_drvring_publish(g->drv);
        vhk_notify_fd(g->kick);
        uint64_t until = now_ns() + 5000000000u;
        for (int end = 0; end != VHK_CONN_EOF && end != VHK_CONN_CUT; end = vhk_conn_receive(&fe->fe)) {
                CHECK_MSG(now_ns() < until, "the log has vanished and the connection lives");
                turn(fe, 1);
        }
}

ROW(H21, "ADD beyond the slots, REM of an unknown one, of one in use, wrong descriptors", "E") {
        const uint64_t base = (uint64_t)(uintptr_t)fe->mem;
        unsigned n = 0;

        come();
        for (; n < 600; n++) {
                struct vhk_p_mem_region_single m = { .region = { { GPA + n * 0x2000ull, 0x1000, base + n * 0x2000ull, 0 } } };
                enum result r = say(VHK_FE_ADD_MEM_REG, &m, sizeof(m), fe->memfd);
                if (r != OK) {
                        CHECK_EQ(r, NO);
                        break;
                }
        }
        uint64_t slots = fe_get(fe, VHK_FE_GET_MAX_MEM_SLOTS);
        CHECK_EQ(n, slots);
        static const struct vhk_p_region unknown[] = { { 0, 0x1000, 0, 0 }, { GPA, 0x1000, 1, 0 }, { GPA, 0x2000, 0, 0 }, { GPA + 0x1000, 0x1000, 0, 0 }, { ~0ull, 1, ~0ull, 0 } };
        for (unsigned i = 0; i < VHK_N(unknown); i++) {
                struct vhk_p_mem_region_single m = { .region = { unknown[i] } };
                REFUSED(say(VHK_FE_REM_MEM_REG, &m, sizeof(m), -1), i);
        }
        come_with_ring();
        struct vhk_p_mem_region_single m = { .region = { { GPA + 0x10000000, 0x1000, 0x1000, 0 } } };
        int two[2] = { fe->memfd, fe->memfd };
        CHECK_EQ(say(VHK_FE_ADD_MEM_REG, &m, sizeof(m), fe->memfd), OK);
        CHECK_EQ(say(VHK_FE_REM_MEM_REG, &m, sizeof(m), fe->memfd), OK);        /* with a descriptor, which is closed */
        CHECK_EQ(say(VHK_FE_REM_MEM_REG, &m, sizeof(m), -1), NO);
        REFUSED(send_and_see(VHK_FE_ADD_MEM_REG, 9, &m, sizeof(m), sizeof(m), two, 2), 2);
        come_with_ring();
        REFUSED(say(VHK_FE_ADD_MEM_REG, &m, sizeof(m), -1), 0);
        come_with_ring();
        for (unsigned i = 0; i < 50; i++) {
                CHECK_EQ(say(VHK_FE_ADD_MEM_REG, &m, sizeof(m), fe->memfd), OK);
                read_sector(0, i);
                CHECK_EQ(say(VHK_FE_REM_MEM_REG, &m, sizeof(m), -1), OK);
        }
}

/* ---- the dirty log ---- */

static bool has_log(void) {
        static const uint32_t ids[] = { VHK_FE_SET_LOG_BASE };

        return is_offered(VHK_PF_LOG_SHMFD, "LOG_SHMFD", ids, 1);
}

ROW(H23, "LOG_BASE: file too small, size+offset overflow, not aligned, size 0, too short, replaced, no fd", "E") {
        static const struct { uint64_t size, offset; bool file; } bad[] = {
                { 0, 0, true }, { LOG_BYTES + VHK_PAGE, 0, true }, { LOG_BYTES, 1ull << 40, true }, { ~0ull, 1, true }, { ~0ull - 4095, 4096, true },
                { 1ull << 63, 1ull << 63, true }, { 1, 0, true }, { LOG_BYTES - 64, 0, true }, { LOG_BYTES, 0, false },
        };

        if (!has_log())
                return;
        VHK_AUTOCLOSE int fd = make_file("log", LOG_BYTES), other = make_file("log", LOG_BYTES);
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                come_with_ring();
                struct vhk_p_log p = { bad[i].size, bad[i].offset };
                enum result r = say(VHK_FE_SET_LOG_BASE, &p, sizeof(p), bad[i].file ? fd : -1);
                CHECK_MSG(r == NO || r == CLOSED, "log %u: %s", i, result_names[r]);
        }
        come_with_ring();
        CHECK_EQ(say(VHK_FE_SET_LOG_BASE, &(struct vhk_p_log){ LOG_BYTES, 0 }, 16, fd), REPLY);
        CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(VHK_F_LOG_ALL), -1), OK);
        for (unsigned i = 0; i < 20; i++) {
                read_sector(0, i);
                CHECK_EQ(say(VHK_FE_SET_LOG_BASE, &(struct vhk_p_log){ LOG_BYTES, 0 }, 16, i & 1 ? fd : other), REPLY);
        }
}

ROW(H24, "writes to memory that lies beyond the log", "E/drop") {
        if (!has_log())
                return;
        VHK_AUTOCLOSE int fd = make_file("log", LOG_BYTES);
        struct vhk_p_mem_region_single far = { .region = { { 1ull << 50, 0x10000, 0x1000, 0 } } };
        come_with_ring();
        CHECK_EQ(say(VHK_FE_SET_LOG_BASE, &(struct vhk_p_log){ LOG_BYTES, 0 }, 16, fd), REPLY);
        CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(VHK_F_LOG_ALL), -1), OK);
        CHECK_EQ(say(VHK_FE_ADD_MEM_REG, &far, sizeof(far), fe->memfd), NO);
        read_sector(0, 1);
}

ROW(H25, "SET_VRING_ADDR and SET_FEATURES toggle the log while requests complete", "ok") {
        if (!has_log())
                return;
        VHK_AUTOCLOSE int fd = make_file("log", LOG_BYTES);
        come_with_ring();
        struct vhk_p_vring_addr a = ring_addr(fe, 0);
        CHECK_EQ(say(VHK_FE_SET_LOG_BASE, &(struct vhk_p_log){ LOG_BYTES, 0 }, 16, fd), REPLY);
        a.log_guest_addr = GPA + 0x2000;
        for (unsigned i = 0; i < 200; i++) {
                a.flags = i & 1;
                CHECK_EQ(say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), OK);
                CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, i % 3 ? FEATURES : FEATURES | VHK_BIT(VHK_F_LOG_ALL), -1), OK);
                read_sector(0, i);
        }
}

/* ---- the in-flight record ---- */

static bool has_record(void) {
        static const uint32_t ids[] = { VHK_FE_GET_INFLIGHT_FD, VHK_FE_SET_INFLIGHT_FD };

        return is_offered(VHK_PF_INFLIGHT_SHMFD, "INFLIGHT_SHMFD", ids, VHK_N(ids));
}

#define RECORD_BYTES 0x4000u    /* four rings of 128 entries */

ROW(H26, "INFLIGHT: queues and sizes out of range, area too small, overflowing, 10^4 GETs, a short file", "E") {
        static const struct { uint64_t size, offset; uint16_t queues, entries; } bad[] = {
                { RECORD_BYTES, 0, 0, 128 }, { RECORD_BYTES, 0, N_RINGS + 1, 128 }, { RECORD_BYTES, 0, 65535, 128 }, { RECORD_BYTES, 0, 4, 0 },
                { RECORD_BYTES, 0, 4, 32769 }, { RECORD_BYTES, 0, 4, 65535 }, { 64, 0, 4, 128 }, { 1, 0, 1, 1 }, { RECORD_BYTES, 0, 4, 32768 },
                { ~0ull, 0, 4, 128 }, { RECORD_BYTES, ~0ull - 100, 4, 128 }, { RECORD_BYTES, RECORD_BYTES, 4, 128 }, { 1ull << 40, 0, 4, 128 }, { 0, 0, 4, 128 },
        };

        if (!has_record())
                return;
        VHK_AUTOCLOSE int fd = make_file("record", RECORD_BYTES);
        for (unsigned i = 0; i < VHK_N(bad); i++) {
                struct vhk_p_inflight p = { bad[i].size, bad[i].offset, bad[i].queues, bad[i].entries, 0 };
                come_with_memory();
                REFUSED(say(VHK_FE_SET_INFLIGHT_FD, &p, 24, fd), i);
        }
        come_with_memory();
        REFUSED(say(VHK_FE_SET_INFLIGHT_FD, &(struct vhk_p_inflight){ RECORD_BYTES, 0, 4, 128, 0 }, 24, -1), 0);
        /* a ring that is larger than its record runs, and the record is left alone */
        come_with_memory();
        CHECK_EQ(say(VHK_FE_SET_INFLIGHT_FD, &(struct vhk_p_inflight){ RECORD_BYTES, 0, 4, RING_SIZE / 2, 0 }, 24, fd), OK);
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
        read_sector(0, 1);
        char record[RECORD_BYTES], zeroes[RECORD_BYTES] = { 0 };
        CHECK_EQ(pread(fd, record, sizeof(record), 0), RECORD_BYTES);
        CHECK(!memcmp(record, zeroes, RECORD_BYTES));
        come_with_memory();
        for (unsigned i = 0; i < 10000; i++) {
                struct vhk_p_inflight p = { .num_queues = 4, .queue_size = 128 };
                uint8_t buf[64];
                fe_send(fe, VHK_FE_GET_INFLIGHT_FD, 0, &p, i & 1 ? 20 : 24, NULL, 0);
                CHECK_EQ(fe_receive(fe, VHK_FE_GET_INFLIGHT_FD, buf, sizeof(buf)), 24);
        }
        /* the file becomes short while the ring runs */
        CHECK_EQ(say(VHK_FE_SET_INFLIGHT_FD, &(struct vhk_p_inflight){ RECORD_BYTES, 0, 4, 128, 0 }, 24, fd), OK);
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
        read_sector(0, 1);
        CHECK_EQ(ftruncate(fd, 0), 0);
        struct ring *g = &fe->rings[0];
        struct iovec sg[2] = { { g->area + HEAD_AT, 16 }, { g->area + STATUS_AT, 1 } };
        CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 1, g));
        (void)vhk_drvring_publish(g->drv);
        vhk_notify_fd(g->kick);
        uint64_t until = now_ns() + 5000000000u;
        for (int end = 0; end != VHK_CONN_EOF && end != VHK_CONN_CUT; end = vhk_conn_receive(&fe->fe)) {
                CHECK_MSG(now_ns() < until, "the record has vanished and the connection lives");
                turn(fe, 1);
        }
}

/* Words of a record of split rings. */
struct record { uint64_t features; uint16_t version, desc_num, last_batch_head, used_idx; struct { uint8_t inflight, pad[5]; uint16_t next; uint64_t counter; } d[128]; };

ROW(H27, "the record's contents: versions, sizes, indices, cycles, all in flight, ties, garbage heads", "E/Q") {
        if (!has_record())
                return;
        for (unsigned k = 0; k < 24; k++) {
                VHK_AUTOCLOSE int fd = make_file("record", RECORD_BYTES);
                struct record r = { .version = 1, .desc_num = 128 };
                uint32_t x = k * 2654435761u + 1;
                switch (k) {
                case 0: r.version = 2; break;
                case 1: r.version = 0xffff; break;
                case 2: r.desc_num = 64; break;
                case 3: r.desc_num = 0; break;
                case 4: r.desc_num = 0xffff; break;
                case 5: r.last_batch_head = 128; r.used_idx = 0xfff0; break;
                case 6: r.last_batch_head = 0xffff; r.used_idx = 0xffff; break;
                case 7: r.used_idx = 0x8000; break;
                case 8: r.used_idx = 200; break;
                case 9: for (unsigned i = 0; i < 128; i++) r.d[i].inflight = 1; break;
                case 10: r.d[0].inflight = 1; r.d[0].counter = ~0ull; break;
                case 11: r.d[127].inflight = 1; break;
                case 12: r.d[0].next = 0; r.used_idx = 0xfffe; break;
                case 13: r.features = ~0ull; break;
                case 14: for (unsigned i = 0; i < 16; i++) r.d[i].inflight = 0xff; break;
                default:
                        for (unsigned i = 0; i < sizeof(r); i++)
                                if ((x = x * 1664525 + 1013904223) >> 28 > k - 12)
                                        ((uint8_t *)&r)[i] = (uint8_t)(x >> 16);
                        if (k & 1) {
                                r.version = 1;
                                r.desc_num = 128;
                        }
                }
                for (unsigned q = 0; q < 4; q++)
                        CHECK_EQ(pwrite(fd, &r, sizeof(r), (off_t)q * 2112), sizeof(r));
                come_with_memory();
                CHECK_EQ(say(VHK_FE_SET_INFLIGHT_FD, &(struct vhk_p_inflight){ RECORD_BYTES, 0, 4, 128, 0 }, 24, fd), OK);
                ring_make(fe, 0);
                ring_set_up(fe, 0, 0);
                if (say_u64(VHK_FE_SET_VRING_KICK, 0, fe->rings[0].kick) != OK)
                        continue;
                CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENABLE, 0, 1), OK);
                vhk_notify_fd(fe->rings[0].kick);
                usleep(5000);
                expect_alive();
                int base = ring_stop(fe, 0);
                CHECK_MSG(base >= 0, "record %u", k);
        }
}
