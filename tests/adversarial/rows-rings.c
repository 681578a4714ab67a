/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The rows about rings: their addresses, what a guest writes into them, block requests, notifications, changes under load. */
#include <pthread.h>
#include <sched.h>

#include "hostile.h"

/* ---- raw ring words; the driver of test-backend.h only makes honest ones ---- */

#define AREA(i) (fe->rings[i].area)
#define AT_GPA(i, off) (GPA + (uint64_t)(AREA(i) - fe->mem) + (off))

static struct vhk_desc *descs(unsigned i) {
        return (void *)AREA(i);
}

static void put(struct vhk_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next) {
        *d = (struct vhk_desc){ vhk_le64_of(addr), vhk_le32_of(len), vhk_le16_of(flags), vhk_le16_of(next) };
}

/* Entry @slot names @head; the index becomes @idx; kicked. */
static void offer(unsigned i, unsigned slot, uint16_t head, uint16_t idx) {
        struct vhk_avail *a = (void *)(AREA(i) + 0x1000);

        a->ring[slot % RING_SIZE] = vhk_le16_of(head);
        vhk_store_release(&a->idx.v, vhk_le16_of(idx).v);
        vhk_notify_fd(fe->rings[i].kick);
}

static uint16_t used_idx(unsigned i) {
        struct vhk_used *u = (void *)(AREA(i) + 0x2000);

        return vhk_le16_get((vhk_le16){ vhk_load_acquire(&u->idx.v) });
}

static uint32_t used_len(unsigned i, unsigned k) {
        return vhk_le32_get(((struct vhk_used *)(void *)(AREA(i) + 0x2000))->ring[k % RING_SIZE].len);
}

static void head_is(unsigned i, uint32_t type, uint64_t sector) {
        *(struct blk_head *)(void *)(AREA(i) + HEAD_AT) = (struct blk_head){ .type = type, .sector = sector };
        AREA(i)[STATUS_AT] = 0xff;
}

/* An honest read of one sector in descriptors 0, 1, 2 of ring @i. */
static void honest_chain(unsigned i) {
        head_is(i, 0, 7);
        put(&descs(i)[0], AT_GPA(i, HEAD_AT), 16, VHK_DESC_NEXT, 1);
        put(&descs(i)[1], AT_GPA(i, DATA_AT), 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 2);
        put(&descs(i)[2], AT_GPA(i, STATUS_AT), 1, VHK_DESC_WRITE, 0);
}

static void expect_broken(const char *what) {
        uint64_t until = now_ns() + 5000000000u;

        while (!is_broken(0)) {
                CHECK_MSG(now_ns() < until, "%s: the ring is not broken, used index %u", what, used_idx(0));
                turn(fe, 1);
        }
        expect_alive();                         /* the ring is, the session is not */
        CHECK(ring_stop(fe, 0) >= 0);
}

static void expect_served(const char *what, uint16_t n) {
        uint64_t until = now_ns() + 5000000000u;

        while (used_idx(0) != n) {
                CHECK_MSG(now_ns() < until && !is_broken(0), "%s: %s, used index %u of %u", what, is_broken(0) ? "broken" : "not served", used_idx(0), n);
                turn(fe, 1);
        }
}

/* The request is answered with VIRTIO_BLK_S_IOERR (1), and the ring goes on. */
static void expect_failed(const char *what) {
        expect_served(what, 1);
        CHECK_MSG(AREA(0)[STATUS_AT] == 1, "%s: status %u", what, AREA(0)[STATUS_AT]);
        honest_chain(0);
        offer(0, 1, 0, 2);
        expect_served(what, 2);
        CHECK_MSG(AREA(0)[STATUS_AT] == 0, "%s: status %u of the request after it", what, AREA(0)[STATUS_AT]);
}

/* ---- addresses ---- */

ROW(H13, "ADDR: areas unmapped, in a hole, misaligned, beyond the end, overflowing, overlapping", "E") {
        const uint64_t base = (uint64_t)(uintptr_t)fe->mem, end = base + MEM_BYTES;
        const struct { uint64_t desc, avail, used; } bad[] = {
                { 0, base + 0x1000, base + 0x2000 }, { base, 0, base + 0x2000 }, { base, base + 0x1000, 0 },
                { end, base + 0x1000, base + 0x2000 }, { base, end, base + 0x2000 }, { base, base + 0x1000, end },
                { base + 8, base + 0x1000, base + 0x2000 }, { base + 1, base + 0x1000, base + 0x2000 }, { base, base + 0x1001, base + 0x2000 },
                { base, base + 0x1000, base + 0x2002 }, { base, base + 0x1000, base + 0x2001 },
                { end - 240, base + 0x1000, base + 0x2000 }, { base, end - 36, base + 0x2000 }, { base, base + 0x1000, end - 132 },
                { ~0ull - 15, base + 0x1000, base + 0x2000 }, { base, ~0ull - 1, base + 0x2000 }, { base, base + 0x1000, ~0ull - 3 },
                { base, base, base + 0x2000 }, { base, base + 0x1000, base + 0x1000 }, { base, base + 128, base + 0x2000 }, { base + 0x2000, base + 0x1000, base + 0x2000 },
        };

        for (unsigned i = 0; i < VHK_N(bad); i++) {
                struct vhk_p_vring_addr a = { .index = 0, .desc = bad[i].desc, .avail = bad[i].avail, .used = bad[i].used };
                come_with_memory();
                CHECK_EQ(say_ring(VHK_FE_SET_VRING_NUM, 0, RING_SIZE), OK);
                if (say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1) != OK)
                        continue;
                VHK_AUTOCLOSE int fd = eventfd(0, EFD_CLOEXEC);
                enum result r = say_u64(VHK_FE_SET_VRING_KICK, 0, fd);
                CHECK_MSG(r == NO || r == CLOSED, "addresses %u: %s", i, result_names[r]);
        }
        /* across two regions that are neighbours for the front-end */
        come();
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, 0x1000), 0);
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0x1000, MEM_BYTES - 0x1000), 0);
        struct vhk_p_vring_addr a = { .desc = base + 0x1000 - 128, .avail = base + 0x3000, .used = base + 0x4000 };
        VHK_AUTOCLOSE int fd = eventfd(0, EFD_CLOEXEC);
        CHECK_EQ(say_ring(VHK_FE_SET_VRING_NUM, 0, RING_SIZE), OK);
        if (say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1) == OK)
                REFUSED(say_u64(VHK_FE_SET_VRING_KICK, 0, fd), 0);
}

ROW(H14, "ADDR flags unknown; log_guest_addr beyond the log", "E") {
        come_with_memory();
        struct vhk_p_vring_addr a = ring_addr(fe, 0);
        for (uint32_t flags = 2; flags; flags *= 2) {
                a.flags = flags;
                REFUSED(say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), flags);
        }
        come_with_memory();
        a.flags = VHK_VRING_F_LOG;
        a.log_guest_addr = 1ull << 60;
        CHECK_EQ(say_ring(VHK_FE_SET_VRING_NUM, 0, RING_SIZE), OK);
        if (!(offered_protocol & VHK_BIT(VHK_PF_LOG_SHMFD))) {
                REFUSED(say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 1);
                return;
        }
        VHK_AUTOCLOSE int fd = memfd_create("log", MFD_CLOEXEC);
        const uint64_t bytes = (GPA + MEM_BYTES) / VHK_PAGE / 8;
        CHECK_EQ(ftruncate(fd, (off_t)bytes), 0);
        CHECK_EQ(say(VHK_FE_SET_LOG_BASE, &(struct vhk_p_log){ bytes, 0 }, 16, fd), REPLY);
        REFUSED(say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 1);
}

ROW(H16, "NUM, ADDR, BASE, memory table changed while the ring runs", "E") {
        come_with_ring();
        struct vhk_p_vring_addr a = ring_addr(fe, 0);
        struct vhk_p_mem_regions m = { .n_regions = 1, .regions = { region(fe, 0, MEM_BYTES) } };
        for (unsigned i = 0; i < 200; i++) {
                enum result r;
                read_sector(0, i);
                switch (i % 6) {
                case 0: r = say_ring(VHK_FE_SET_VRING_NUM, 0, RING_SIZE * 2); break;
                case 1: a.used += 64; r = say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1); a.used -= 64; break;
                case 2: r = say_ring(VHK_FE_SET_VRING_BASE, 0, i); break;
                case 3: CHECK_EQ(say(VHK_FE_SET_MEM_TABLE, &m, 40, fe->memfd), OK); continue;
                case 4: CHECK_EQ(say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), OK); continue;
                default: CHECK_EQ(say_ring(VHK_FE_SET_VRING_NUM, 0, RING_SIZE), OK); continue;
                }
                CHECK_MSG(r == NO, "change %u of a running ring: %s", i % 6, result_names[r]);
        }
}

ROW(H22, "removing and replacing the memory that holds the rings", "Q") {
        struct vhk_p_mem_regions m = { .n_regions = 1, .regions = { region(fe, MEM_BYTES / 2, MEM_BYTES / 2) } };

        come_with_ring();
        read_sector(0, 1);
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_REM_MEM_REG, 0, MEM_BYTES), 0);
        vhk_notify_fd(fe->rings[0].kick);
        expect_broken("removed");
        come_with_ring();
        CHECK_EQ(say(VHK_FE_SET_MEM_TABLE, &m, 40, fe->memfd), OK);
        vhk_notify_fd(fe->rings[0].kick);
        expect_broken("replaced");
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES / 2), 0);     /* and back */
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
        read_sector(0, 2);
}

/* ---- what a guest may write ---- */

enum due { Q, SERVED, IOERR, EITHER };

struct guest {
        const char *name;
        enum due due;
        void (*write)(void);
};

static void run_guest(const struct guest *g) {
        come_with_ring();
        honest_chain(0);
        g->write();
        if (g->due == Q)
                expect_broken(g->name);
        else if (g->due == IOERR)
                expect_failed(g->name);
        else if (g->due == SERVED)
                expect_served(g->name, 1);
        else
                expect_alive();
}
#define RUN(list)                                                                                                       \
        for (unsigned k_ = 0; k_ < VHK_N(list); k_++)                                                                   \
                run_guest(&(list)[k_])
#define GUEST(name) static void name(void)

GUEST(jump_by_one) { offer(0, 0, 0, RING_SIZE + 1); }
GUEST(jump_far) { offer(0, 0, 0, 0x8000); }
GUEST(jump_back) { offer(0, 0, 0, 0xffff); }
GUEST(back_later) { offer(0, 0, 0, 1); PUMP_UNTIL(fe, used_idx(0) == 1); offer(0, 0, 0, 0); }
GUEST(used_is_written) {
        offer(0, 0, 0, 1);
        PUMP_UNTIL(fe, used_idx(0) == 1);
        ((struct vhk_used *)(void *)(AREA(0) + 0x2000))->idx = vhk_le16_of(0x4000);
        offer(0, 1, 0, 2);
}

ROW(H39, "available index jumps, goes back; used index written by the guest", "Q") {
        static const struct guest g[] = {
                { "one too many", Q, jump_by_one }, { "far ahead", Q, jump_far }, { "back", Q, jump_back }, { "back later", Q, back_later },
                { "used index", EITHER, used_is_written },
        };
        RUN(g);
}

GUEST(head_high) { offer(0, 0, RING_SIZE, 1); }
GUEST(head_max) { offer(0, 0, 0xffff, 1); }
GUEST(head_middle) { offer(0, 0, 1, 1); }
GUEST(head_twice) {
        struct vhk_avail *a = (void *)(AREA(0) + 0x1000);
        for (unsigned i = 0; i < RING_SIZE; i++)
                a->ring[i] = vhk_le16_of(0);
        offer(0, 0, 0, RING_SIZE);
}

ROW(H40, "available entry too large, the same head twice in flight, head in a chain's middle", "Q/I") {
        static const struct guest g[] = {
                { "entry = size", Q, head_high }, { "entry 0xffff", Q, head_max }, { "middle of a chain", EITHER, head_middle },
                { "all the same", EITHER, head_twice },
        };
        RUN(g);
}

GUEST(loop_self) { put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, VHK_DESC_NEXT, 0); offer(0, 0, 0, 1); }
GUEST(loop_two) { put(&descs(0)[1], AT_GPA(0, DATA_AT), 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 0); offer(0, 0, 0, 1); }
GUEST(next_high) { put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, VHK_DESC_NEXT, RING_SIZE); offer(0, 0, 0, 1); }
GUEST(next_max) { put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, VHK_DESC_NEXT, 0xffff); offer(0, 0, 0, 1); }
GUEST(loop_writable) {
        for (uint16_t i = 0; i < RING_SIZE; i++)
                put(&descs(0)[i], AT_GPA(0, DATA_AT), 1, VHK_DESC_NEXT | VHK_DESC_WRITE, (uint16_t)((i + 1) % RING_SIZE));
        offer(0, 0, 0, 1);
}

ROW(H41, "chains that loop, are longer than the ring, go on behind the table", "Q") {
        static const struct guest g[] = {
                { "self", Q, loop_self }, { "two", Q, loop_two }, { "next = size", Q, next_high }, { "next 0xffff", Q, next_max }, { "whole ring", Q, loop_writable },
        };
        RUN(g);
}

GUEST(len_zero) { put(&descs(0)[1], AT_GPA(0, DATA_AT), 0, VHK_DESC_NEXT | VHK_DESC_WRITE, 2); offer(0, 0, 0, 1); }
GUEST(len_max) { put(&descs(0)[1], AT_GPA(0, DATA_AT), 0xffffffff, VHK_DESC_NEXT | VHK_DESC_WRITE, 2); offer(0, 0, 0, 1); }
GUEST(len_sum) {
        put(&descs(0)[1], GPA, 0x80000000, VHK_DESC_NEXT | VHK_DESC_WRITE, 2);
        put(&descs(0)[2], GPA, 0x80000001, VHK_DESC_WRITE, 0);
        offer(0, 0, 0, 1);
}
GUEST(all_empty) {
        for (uint16_t i = 0; i < 3; i++)
                put(&descs(0)[i], 0, 0, (uint16_t)(i < 2 ? VHK_DESC_NEXT : 0), (uint16_t)(i + 1));
        offer(0, 0, 0, 1);
}

ROW(H42, "lengths 0, 0xffffffff, sums beyond 2^32, chains of nothing", "Q/I") {
        static const struct guest g[] = {
                { "length 0", SERVED, len_zero }, { "0xffffffff", Q, len_max }, { "sum", Q, len_sum }, { "nothing at all", EITHER, all_empty },
        };
        RUN(g);
}

GUEST(buf_hole) { put(&descs(0)[1], GPA - 256, 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 2); offer(0, 0, 0, 1); }
GUEST(buf_end) { put(&descs(0)[1], GPA + MEM_BYTES - 511, 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 2); offer(0, 0, 0, 1); }
GUEST(buf_wrap) { put(&descs(0)[1], ~0ull - 100, 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 2); offer(0, 0, 0, 1); }
GUEST(buf_null) { put(&descs(0)[0], 0, 16, VHK_DESC_NEXT, 1); offer(0, 0, 0, 1); }

ROW(H43, "buffers across a region's end: into a neighbour served, into a hole answered with IOERR", "st") {
        static const struct guest g[] = {
                { "before", IOERR, buf_hole }, { "past the end", IOERR, buf_end }, { "2^64", IOERR, buf_wrap }, { "null", IOERR, buf_null },
        };

        RUN(g);
        come();
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, 0x100000), 0);
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0x100000, 0x100000), 0);
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
        honest_chain(0);
        put(&descs(0)[1], GPA + 0x100000 - 256, 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 2);
        offer(0, 0, 0, 1);
        expect_served("across two neighbours", 1);
        for (unsigned i = 0; i < 64; i++)
                CHECK_EQ(((uint64_t *)(void *)(fe->mem + 0x100000 - 256))[i], 7 * 64 + i);
}

#define TABLE_AT 0x8000u
static struct vhk_desc *table(void) {
        return (void *)(AREA(0) + TABLE_AT);
}
static void honest_table(void) {
        memcpy(table(), descs(0), 3 * sizeof(struct vhk_desc));
}
static void indirect(uint64_t gpa, uint32_t len, uint16_t flags) {
        honest_table();
        put(&descs(0)[4], gpa, len, flags, 0);
        offer(0, 0, 4, 1);
}
GUEST(ind_empty) { indirect(AT_GPA(0, TABLE_AT), 0, VHK_DESC_INDIRECT); }
GUEST(ind_odd) { indirect(AT_GPA(0, TABLE_AT), 47, VHK_DESC_INDIRECT); }
GUEST(ind_huge) { indirect(AT_GPA(0, TABLE_AT), 16 * 32769, VHK_DESC_INDIRECT); }
GUEST(ind_next) { indirect(AT_GPA(0, TABLE_AT), 48, VHK_DESC_INDIRECT | VHK_DESC_NEXT); }
GUEST(ind_hole) { indirect(GPA + MEM_BYTES - 16, 48, VHK_DESC_INDIRECT); }
GUEST(ind_null) { indirect(0, 48, VHK_DESC_INDIRECT); }
GUEST(ind_nested) { indirect(AT_GPA(0, TABLE_AT), 48, VHK_DESC_INDIRECT); }
GUEST(ind_write) { indirect(AT_GPA(0, TABLE_AT), 48, VHK_DESC_INDIRECT | VHK_DESC_WRITE); }
GUEST(ind_nested_bad) {
        put(&descs(0)[0], AT_GPA(0, TABLE_AT), 48, VHK_DESC_INDIRECT, 0);
        indirect(AT_GPA(0, TABLE_AT), 48, VHK_DESC_INDIRECT);
}
GUEST(ind_next_out) {
        put(&descs(0)[1], AT_GPA(0, DATA_AT), 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 3);
        indirect(AT_GPA(0, TABLE_AT), 48, VHK_DESC_INDIRECT);
}
GUEST(ind_last) {
        memcpy(table(), &descs(0)[1], 2 * sizeof(struct vhk_desc));
        table()[0].next = vhk_le16_of(1);
        put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, VHK_DESC_NEXT, 4);
        put(&descs(0)[4], AT_GPA(0, TABLE_AT), 32, VHK_DESC_INDIRECT, 0);
        offer(0, 0, 0, 1);
}

ROW(H44, "INDIRECT: empty, odd, huge, with NEXT, in a hole, nested; with WRITE and last in a chain: served", "Q") {
        static const struct guest g[] = {
                { "empty", Q, ind_empty }, { "no multiple of 16", Q, ind_odd }, { "too long", Q, ind_huge }, { "with NEXT", Q, ind_next }, { "hole", Q, ind_hole },
                { "null", Q, ind_null }, { "nested", Q, ind_nested_bad }, { "next out of the table", Q, ind_next_out },
                { "honest", SERVED, ind_nested }, { "with WRITE", SERVED, ind_write }, { "last in a chain", SERVED, ind_last },
        };
        RUN(g);
        /* not negotiated */
        leave();
        fe_connect(fe);
        fe_negotiate(fe, FEATURES & ~VHK_BIT(VHK_F_INDIRECT_DESC), all_protocol());
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
        honest_chain(0);
        ind_nested();
        expect_broken("not negotiated");
}

GUEST(order) {
        put(&descs(0)[0], AT_GPA(0, DATA_AT), 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 1);
        put(&descs(0)[1], AT_GPA(0, HEAD_AT), 16, 0, 0);
        offer(0, 0, 0, 1);
}
GUEST(flags_8) { put(&descs(0)[2], AT_GPA(0, STATUS_AT), 1, VHK_DESC_WRITE | 8, 0); offer(0, 0, 0, 1); }
GUEST(flags_all) { put(&descs(0)[2], AT_GPA(0, STATUS_AT), 1, 0xfff8 | VHK_DESC_WRITE, 0); offer(0, 0, 0, 1); }
GUEST(all_writable) {
        put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, VHK_DESC_NEXT | VHK_DESC_WRITE, 1);
        offer(0, 0, 0, 1);
}

ROW(H45, "readable behind writable, unknown flags, the header in writable memory", "Q") {
        static const struct guest g[] = {
                { "order", Q, order }, { "flag 8", Q, flags_8 }, { "all flags", Q, flags_all }, { "header writable", EITHER, all_writable },
        };
        RUN(g);
}

ROW(H46, "packed rings", "Q") {
        if (offered & VHK_BIT(VHK_F_RING_PACKED))
                CHECK_MSG(0, "packed rings are offered: this row wants its inputs");
        come();
        CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(VHK_F_RING_PACKED), -1), NO);
        REFUSED(say_ring(VHK_FE_SET_VRING_BASE, 0, 0x80008000), 0);
        snprintf(verdict, sizeof(verdict), "refused: RING_PACKED not offered");
}

/* ---- a guest that changes what is being read ---- */

static struct { uint8_t *mem; bool stop; } flipper;

static void *flip(void *arg) {
        struct vhk_desc *d = (void *)flipper.mem;
        uint32_t x = 1;

        while (!vhk_load_relaxed(&flipper.stop)) {
                x = x * 1664525 + 1013904223;
                struct vhk_desc *e = x & 64 ? (struct vhk_desc *)(void *)(flipper.mem + TABLE_AT) : d;
                e += x >> 8 & 3;
                switch (x >> 16 & 7) {
                case 0: e->addr.v ^= 1ull << (x >> 20 & 63); break;
                case 1: e->len.v ^= 1u << (x >> 20 & 31); break;
                case 2: e->flags.v ^= (uint16_t)(1u << (x >> 20 & 3)); break;
                case 3: e->next.v = (uint16_t)(x >> 20 & 31); break;
                default:        /* and back to what is honest, so that something gets through */
                        put(&d[0], GPA + HEAD_AT, 16, VHK_DESC_NEXT, 1);
                        put(&d[1], GPA + DATA_AT, 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 2);
                        put(&d[2], GPA + STATUS_AT, 1, VHK_DESC_WRITE, 0);
                        put(&d[4], GPA + TABLE_AT, 48, VHK_DESC_INDIRECT, 0);
                        memcpy(flipper.mem + TABLE_AT, d, 48);
                }
        }
        return NULL;
}

ROW(H47, "descriptors, tables and entries change between any two reads", "Q") {
        pthread_t t;
        unsigned n_served = 0, n_broken = 0;

        flipper.mem = fe->mem;
        flipper.stop = false;
        CHECK_EQ(pthread_create(&t, NULL, flip, NULL), 0);
        for (uint64_t until = now_ns() + 500000000u; now_ns() < until;) {
                come_with_ring();
                head_is(0, 0, 3);
                for (uint16_t i = 1; i < 5000 && !is_broken(0); i++) {
                        offer(0, i - 1u, i & 1 ? 0 : 4, i);
                        for (unsigned spin = 0; spin < 20000 && used_idx(0) != i && !is_broken(0); spin++)
                                sched_yield();
                        n_served += used_idx(0) == i;
                }
                n_broken += is_broken(0);
        }
        vhk_store_relaxed(&flipper.stop, true);
        pthread_join(t, NULL);
        leave();
        memset(fe->mem, 0, MEM_BYTES);
        snprintf(verdict, sizeof(verdict), "%u requests served, %u rings broken", n_served, n_broken);
}

/* ---- block requests ---- */

#define S_OK 0
#define S_IOERR 1
#define S_UNSUPP 2
#define T_IN 0
#define T_OUT 1
#define T_SCSI 2
#define T_FLUSH 4
#define T_GET_ID 8
#define T_DISCARD 11
#define T_WRITE_ZEROES 13

/* Header, @len bytes of data, status; the status that comes, and what is written in all. */
static int blk(uint32_t type, uint64_t sector, uint32_t len, bool in, uint32_t *ret_used) {
        static uint16_t n;
        unsigned last = len ? 2 : 1;

        come_with_ring();
        n = 1;
        head_is(0, type, sector);
        put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, VHK_DESC_NEXT, 1);
        put(&descs(0)[1], AT_GPA(0, DATA_AT), len, (uint16_t)(VHK_DESC_NEXT | (in ? VHK_DESC_WRITE : 0)), 2);
        put(&descs(0)[last], AT_GPA(0, STATUS_AT), 1, VHK_DESC_WRITE, 0);
        offer(0, 0, 0, 1);
        expect_served("a block request", n);
        if (ret_used)
                *ret_used = used_len(0, 0);
        return AREA(0)[STATUS_AT];
}

GUEST(split_header) {
        for (uint16_t i = 0; i < 8; i++)
                put(&descs(0)[i], AT_GPA(0, HEAD_AT) + 2 * i, 2, VHK_DESC_NEXT, (uint16_t)(i + 1));
        put(&descs(0)[8], AT_GPA(0, DATA_AT), 512, VHK_DESC_NEXT | VHK_DESC_WRITE, 9);
        put(&descs(0)[9], AT_GPA(0, STATUS_AT), 1, VHK_DESC_WRITE, 0);
        offer(0, 0, 0, 1);
}
GUEST(status_with_data) { put(&descs(0)[1], AT_GPA(0, DATA_AT), 513, VHK_DESC_WRITE, 0); offer(0, 0, 0, 1); }
GUEST(no_status) { put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, 0, 0); offer(0, 0, 0, 1); }
GUEST(short_header) { put(&descs(0)[0], AT_GPA(0, HEAD_AT), 15, VHK_DESC_NEXT, 1); offer(0, 0, 0, 1); }
GUEST(only_status) { put(&descs(0)[0], AT_GPA(0, STATUS_AT), 1, VHK_DESC_WRITE, 0); offer(0, 0, 0, 1); }

ROW(H48, "block requests: header in pieces, no status, odd data, sectors, types, segments, GET_ID", "Q/st") {
        static const struct guest g[] = {
                { "header in pieces", SERVED, split_header }, { "status behind the data", SERVED, status_with_data }, { "no status", EITHER, no_status },
                { "short header", SERVED, short_header }, { "only a status", SERVED, only_status },
        };
        static const struct { uint32_t type; uint64_t sector; uint32_t len; bool in; int status; } r[] = {
                { T_IN, 0, 512, true, S_OK }, { T_IN, 0, 511, true, S_IOERR }, { T_IN, 0, 513, true, S_IOERR }, { T_OUT, 0, 100, false, S_IOERR },
                { T_IN, VICTIM_SECTORS - 1, 512, true, S_OK }, { T_IN, VICTIM_SECTORS, 512, true, S_IOERR }, { T_IN, VICTIM_SECTORS - 1, 1024, true, S_IOERR },
                { T_OUT, VICTIM_SECTORS, 512, false, S_IOERR }, { T_IN, 1ull << 55, 512, true, S_IOERR }, { T_IN, ~0ull, 512, true, S_IOERR },
                { T_IN, ~0ull >> 9, 512, true, S_IOERR }, { T_OUT, ~0ull - 1, 1024, false, S_IOERR }, { T_IN, 0x80000000000000ull, 512, true, S_IOERR },
                { T_SCSI, 0, 512, true, S_UNSUPP }, { 3, 0, 512, true, S_UNSUPP }, { 5, 0, 512, true, S_UNSUPP }, { 0x80000000, 0, 512, true, S_UNSUPP },
                { 0xffffffff, 0, 512, true, S_UNSUPP }, { T_IN, 0, 512, false, S_OK }, { T_OUT, 0, 512, true, S_OK }, { T_FLUSH, 0, 0, false, S_OK },
                { T_DISCARD, 0, 15, false, S_IOERR }, { T_DISCARD, 0, 0, false, S_IOERR }, { T_WRITE_ZEROES, 0, 17, false, S_IOERR }, { T_WRITE_ZEROES, 0, 0, false, S_IOERR },
        };

        RUN(g);
        for (unsigned i = 0; i < VHK_N(r); i++) {
                int status = blk(r[i].type, r[i].sector, r[i].len, r[i].in, NULL);
                bool refused = r[i].status != S_OK && (status == S_IOERR || status == S_UNSUPP);
                CHECK_MSG(status == r[i].status || refused, "request %u, type %u: status %d", i, r[i].type, status);
        }
        for (uint32_t len = 1; len <= 4096; len = len * 2 + (len == 16 ? 4 : 0))
                CHECK(blk(T_GET_ID, 0, len, true, NULL) <= S_UNSUPP);
        for (unsigned i = 0; i < 8; i++) {              /* a segment: sector, count, flags */
                static const struct { uint64_t sector; uint32_t n, flags; } seg[] = {
                        { VICTIM_SECTORS, 1, 0 }, { ~0ull, 8, 0 }, { 0, 0xffffffff, 0 }, { 1ull << 55, 1, 0 }, { 0, 8, 2 }, { 0, 8, 0xfffffffe }, { VICTIM_SECTORS - 1, 2, 0 },
                        { 0xfffffffffffffff8, 0xff, 0 },
                };
                for (uint32_t type = T_DISCARD; type <= T_WRITE_ZEROES; type += 2) {
                        memcpy(fe->mem + DATA_AT, &seg[i], 16);
                        come_with_ring();
                        head_is(0, type, 0);
                        memcpy(AREA(0) + DATA_AT, &seg[i], 16);
                        put(&descs(0)[0], AT_GPA(0, HEAD_AT), 16, VHK_DESC_NEXT, 1);
                        put(&descs(0)[1], AT_GPA(0, DATA_AT), 16, VHK_DESC_NEXT, 2);
                        put(&descs(0)[2], AT_GPA(0, STATUS_AT), 1, VHK_DESC_WRITE, 0);
                        offer(0, 0, 0, 1);
                        expect_served("a segment", 1);
                        CHECK_MSG(AREA(0)[STATUS_AT] == S_IOERR || AREA(0)[STATUS_AT] == S_UNSUPP, "segment %u of type %u: status %u", i, type, AREA(0)[STATUS_AT]);
                }
        }
}

ROW(H63, "the used length is what was written, never the buffer's", "len") {
        uint32_t n = 0;

        CHECK_EQ(blk(T_IN, 1, 4096, true, &n), S_OK);
        CHECK_EQ(n, 4097);
        CHECK_EQ(blk(T_FLUSH, 0, 0, false, &n), S_OK);
        CHECK_EQ(n, 1);
        CHECK(blk(T_IN, VICTIM_SECTORS, 4096, true, &n) != S_OK);
        CHECK_EQ(n, 0);                 /* nothing but the status, which lies past 4096 bytes that were not written */
        CHECK(blk(T_SCSI, 0, 4096, true, &n) != S_OK);
        CHECK_EQ(n, 0);
        CHECK_EQ(blk(T_GET_ID, 0, 4096, true, &n), S_OK);
        CHECK(n <= 20);
}

/* ---- notifications ---- */

ROW(H56, "kick flood, kick while disabled, call descriptor without a reader or full", "I") {
        come_with_ring();
        for (unsigned i = 0; i < 100000; i++)
                vhk_notify_fd(fe->rings[0].kick);
        read_sector(0, 4);
        expect_quiet("after a flood of kicks", 60);
        CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENABLE, 0, 0), OK);
        for (unsigned i = 0; i < 1000; i++)
                vhk_notify_fd(fe->rings[0].kick);
        expect_quiet("disabled", 60);
        CHECK_EQ(used_idx(0), 1);
        CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENABLE, 0, 1), OK);
        read_sector(0, 5);
        /* a kick descriptor that is always ready */
        int pair[2];
        CHECK_EQ(pipe2(pair, O_CLOEXEC), 0);
        CHECK_EQ(write(pair[1], "xxxxxxxx", 8), 8);
        close(pair[1]);
        CHECK_EQ(say_u64(VHK_FE_SET_VRING_KICK, 0, pair[0]), OK);
        close(pair[0]);
        expect_quiet("a kick pipe whose writer has gone", 60);
}

/* ---- changes under load ---- */

static struct { bool stop; unsigned n; int error; } load;

static void *run_load(void *arg) {
        struct ring *g = &fe->rings[3];
        struct blk_head *h = (void *)(g->area + HEAD_AT);
        struct iovec sg[3] = { { h, 16 }, { g->area + DATA_AT, 4096 }, { g->area + STATUS_AT, 1 } };
        struct vhk_done done;

        *h = (struct blk_head){ .type = 0 };
        for (unsigned i = 0; !vhk_load_relaxed(&load.stop); i++) {
                h->sector = i % 256 * 8;
                if (vhk_drvring_add(g->drv, sg, 1, 2, g) < 0)
                        break;
                (void)vhk_drvring_arm(g->drv);
                if (vhk_drvring_publish(g->drv))
                        vhk_notify_fd(g->kick);
                int n;
                uint64_t until = now_ns() + 8000000000u;
                while ((n = vhk_drvring_reap(g->drv, &done, 1)) == 0 && now_ns() < until)
                        sched_yield();
                if (n != 1 || done.len != 4097 || *(uint64_t *)(void *)(g->area + DATA_AT) != h->sector * 64) {
                        vhk_store_relaxed(&load.error, n ? n : -ETIMEDOUT);
                        break;
                }
                __atomic_fetch_add(&load.n, 1, __ATOMIC_RELAXED);
        }
        return NULL;
}

ROW(H59, "call, memory, log, enable changed while another thread processes the ring", "ok") {
        struct vhk_p_mem_regions m = { .n_regions = 2, .regions = { region(fe, 0, MEM_BYTES / 2), region(fe, MEM_BYTES / 2, MEM_BYTES / 2) } };
        int fds[2] = { fe->memfd, fe->memfd };
        pthread_t t;

        come();
        CHECK_EQ(send_and_see(VHK_FE_SET_MEM_TABLE, 9, &m, 72, 72, fds, 2), OK);
        ring_make(fe, 3);
        ring_set_up(fe, 3, 0);
        ring_go(fe, 3);
        memset(&load, 0, sizeof(load));
        CHECK_EQ(pthread_create(&t, NULL, run_load, NULL), 0);
        bool ok = true;
        for (unsigned i = 0; i < 400 && ok; i++) {
                VHK_AUTOCLOSE int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                switch (i * 7 % 5) {
                case 0: ok = say_u64(VHK_FE_SET_VRING_CALL, 3, fd) == OK; break;
                case 1: ok = send_and_see(VHK_FE_SET_MEM_TABLE, 9, &m, 72, 72, fds, 2) == OK; break;
                case 2: ok = say_ring(VHK_FE_SET_VRING_ENABLE, 3, 0) == OK && say_ring(VHK_FE_SET_VRING_ENABLE, 3, 1) == OK; break;
                case 3: ok = fe_mem_reg(fe, VHK_FE_REM_MEM_REG, MEM_BYTES / 2, MEM_BYTES / 2) == 0 && fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, MEM_BYTES / 2, MEM_BYTES / 2) == 0; break;
                case 4: ok = say_u64(VHK_FE_SET_VRING_ERR, 3, fd) == OK; break;
                }
        }
        vhk_store_relaxed(&load.stop, true);
        pthread_join(t, NULL);
        CHECK_MSG(ok, "a change was refused");
        CHECK_EQ(load.error, 0);
        CHECK(load.n > 0);
        snprintf(verdict, sizeof(verdict), "%u verified requests meanwhile; ThreadSanitizer: all-at-once", load.n);
}
