/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a ring marks in a dirty log, page by page, for every shape of request; the used ring; logs that come, go and are
 * exchanged while requests are in flight.
 */
#include "ring/test-ring.h"

#define LOG_BYTES (1u << 15)            /* 1 GiB of guest memory */
#define PAGES (LOG_BYTES * 8)
#define DATA UINT64_C(0x20000)

static uint8_t *bits;                   /* of the newest log */

static struct vhk_dirty *make_log(void) {
        struct vhk_dirty *d;
        int fd = memfd_create("test-log", MFD_CLOEXEC);

        CHECK(fd >= 0 && ftruncate(fd, LOG_BYTES) == 0);
        CHECK_OK(vhk_dirty_new(fd, 0, LOG_BYTES, &d, NULL));
        close(fd);
        bits = d->bits;
        return d;
}

/* The ring goes over to a configuration like its present one, with these values of logging. */
static int adopt(struct rig *g, const struct vhk_ring_config *logging) {
        struct vhk_ring_config v = *g->config, *c;

        v.log = logging->log;
        v.log_data = logging->log_data;
        v.log_used = logging->log_used;
        v.log_addr = logging->log_addr;
        v.log_fd = logging->log_fd;
        CHECK_OK(vhk_ring_config_new(&v, &c));
        int k = vhk_queue_adopt(g->q, c);
        vhk_ring_config_unref(g->config);
        g->config = c;
        return k;
}

static void log_data(struct rig *g, bool on) {
        struct vhk_dirty *d = on ? make_log() : NULL;

        adopt(g, &(struct vhk_ring_config){ .log = d, .log_data = on });
        vhk_dirty_unref(d);
}

/* Exactly these pages are marked (a page may be named twice); forgets them. */
static void check_pages(const uint64_t *pages, unsigned n) {
        for (uint64_t i = 0; i < PAGES; i++) {
                bool wanted = false;
                for (unsigned k = 0; k < n; k++)
                        wanted |= pages[k] == i;
                CHECK_MSG((bits[i / 8] >> i % 8 & 1) == wanted, "page 0x%llx is%s marked", (unsigned long long)i, wanted ? " not" : "");
        }
        memset(bits, 0, LOG_BYTES);
}
#define CHECK_PAGES(...) check_pages((const uint64_t[]){ __VA_ARGS__ }, VHK_N(((const uint64_t[]){ __VA_ARGS__ })))
#define CHECK_NO_PAGES() check_pages(NULL, 0)

static void serve(struct rig *g, uint32_t len) {
        struct vhk_req *r = pop_one(g);
        vhk_queue_push(g->q, r, len);
        CHECK_EQ(vhk_queue_flush(g->q), 0);
}

static const struct rig_options options = {
        .num = 16, .indirect = true, .used = -1, .areas = three_regions, .n_areas = VHK_N(three_regions),
};

/* Not the bytes that the device claims, but all it may have written; and nothing that it only read. */
TEST(the_whole_writable_part) {
        struct rig g;

        rig_open(&g, &options);
        log_data(&g, true);
        set_desc(&g.desc[0], DATA, 0x3000, VHK_DESC_NEXT, 1);
        set_desc(&g.desc[1], DATA + 0x8800, 0x2000, VHK_DESC_NEXT | VHK_DESC_WRITE, 2);
        set_desc(&g.desc[2], DATA + 0xffff, 1, VHK_DESC_WRITE, 0);
        offer(&g, 0);
        publish(&g);
        serve(&g, 1);
        CHECK_PAGES(0x28, 0x29, 0x2a, 0x2f);
        offer_one(&g, 3, DATA, 0x10000, 0);     /* only read */
        serve(&g, 0);
        CHECK_NO_PAGES();
        offer_one(&g, 3, DATA + 0xfff, 2, VHK_DESC_WRITE);
        serve(&g, 0);
        CHECK_PAGES(0x20, 0x21);
        offer_one(&g, 3, DATA, 0, VHK_DESC_WRITE);
        serve(&g, 0);
        CHECK_NO_PAGES();
        rig_close(&g);
}

/* Across regions that are neighbours in the guest, in a region of its own, in an indirect table, in more pieces than a slot has. */
TEST(shapes) {
        struct vhk_desc *table;
        struct rig g;

        rig_open(&g, &options);
        log_data(&g, true);
        offer_one(&g, 0, 0xff000, 0x2000, VHK_DESC_WRITE);
        serve(&g, 0);
        CHECK_PAGES(0xff, 0x100);
        offer_one(&g, 1, (4 << 20) + 0x1234, 100, VHK_DESC_WRITE);
        serve(&g, 0);
        CHECK_PAGES(0x401);
        table = at(&g, DATA);
        set_desc(&table[0], 0x30000, 16, VHK_DESC_NEXT, 1);
        set_desc(&table[1], 0x1fe000, 0x2000, VHK_DESC_NEXT | VHK_DESC_WRITE, 2);
        set_desc(&table[2], 0x31008, 8, VHK_DESC_WRITE, 0);
        offer_one(&g, 2, DATA, 48, VHK_DESC_INDIRECT);
        serve(&g, 0);
        CHECK_PAGES(0x1fe, 0x1ff, 0x31);
        for (unsigned i = 0; i < 20; i++)
                set_desc(&table[i], 0x40000 + i * 0x2000, 1, VHK_DESC_WRITE | (i < 19 ? VHK_DESC_NEXT : 0), (uint16_t)(i + 1));
        offer_one(&g, 3, DATA, 20 * 16, VHK_DESC_INDIRECT);
        serve(&g, 0);
        uint64_t pages[20];
        for (unsigned i = 0; i < 20; i++)
                pages[i] = 0x40 + 2 * i;
        check_pages(pages, 20);
        rig_close(&g);
}

/* A request is marked by what it was popped as: logging that begins or ends meanwhile counts at the push. */
TEST(switched_while_in_flight) {
        struct rig g;
        struct vhk_req *r[3];

        rig_open(&g, &options);
        for (uint16_t i = 0; i < 3; i++)
                offer_one(&g, i, DATA + i * 0x1000u, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, r, 3), 3);
        vhk_queue_push(g.q, r[0], 8);
        log_data(&g, true);
        vhk_queue_push(g.q, r[1], 8);
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x21);
        struct vhk_dirty *first = vhk_dirty_ref(g.config->log);
        uint8_t *first_bits = bits;
        log_data(&g, true);                     /* another log */
        vhk_queue_push(g.q, r[2], 8);
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x22);
        bits = first_bits;
        CHECK_NO_PAGES();
        log_data(&g, false);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        serve(&g, 8);
        bits = first_bits;
        CHECK_NO_PAGES();
        vhk_dirty_unref(first);
        CHECK_EQ(used_idx(&g), 4);
        rig_close(&g);
}

/* Memory comes and goes while a request is in flight: it is looked up where it was popped. */
TEST(memory_that_changed) {
        struct rig g;
        struct vhk_memmap *m, *old;
        struct vhk_region_desc d = { { 8 << 20 }, { UVA + (8 << 20) }, 1 << 20, 0, memfd_create("test-log", MFD_CLOEXEC) };

        rig_open(&g, &options);
        log_data(&g, true);
        CHECK(ftruncate(d.fd, 1 << 20) == 0);
        offer_one(&g, 0, (4 << 20) + 0x5000, 8, VHK_DESC_WRITE);
        struct vhk_req *r = pop_one(&g);

        CHECK_OK(vhk_memmap_remove(g.mem, (vhk_gpa_t){ 4 << 20 }, (vhk_uva_t){ UVA + (4 << 20) }, 1 << 20, &m, NULL));
        old = g.mem;
        CHECK_OK(vhk_memmap_add(m, &d, &g.mem, NULL));
        vhk_memmap_unref(m);
        vhk_memmap_unref(old);
        struct vhk_ring_config v = *g.config, *c;
        v.mem = g.mem;
        CHECK_OK(vhk_ring_config_new(&v, &c));
        CHECK_EQ(vhk_queue_adopt(g.q, c), 1);
        vhk_ring_config_unref(g.config);
        g.config = c;

        offer_one(&g, 1, (8 << 20) + 0x7000, 8, VHK_DESC_WRITE);        /* a region added later */
        serve(&g, 8);
        CHECK_PAGES(0x807);
        vhk_queue_push(g.q, r, 8);
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x405);
        close(d.fd);
        rig_close(&g);
}

/* H24: a region behind the log's end */
TEST(beyond_the_log) {
        static const struct area far[] = { { 0, 2 << 20 }, { UINT64_C(1) << 40, 1 << 20 } };
        struct rig_options o = options;
        struct rig g;

        o.areas = far;
        o.n_areas = 2;
        rig_open(&g, &o);
        log_data(&g, true);
        offer_one(&g, 0, UINT64_C(1) << 40, 0x5000, VHK_DESC_WRITE);
        serve(&g, 8);
        CHECK_NO_PAGES();
        CHECK_EQ(used_idx(&g), 1);
        rig_close(&g);
}

/* The used ring is marked element by element, at the address that was given for it, round the end, with index and wish. */
static void used_ring(bool event_idx) {
        struct rig_options o = options;
        struct vhk_req *r[512];
        struct rig g;

        o.num = 1024;                           /* 8 KiB of used ring */
        o.event_idx = event_idx;
        o.avail = 1000;
        o.used = 1000;
        rig_open(&g, &o);
        struct vhk_dirty *d = make_log();
        adopt(&g, &(struct vhk_ring_config){ .log = d, .log_used = true, .log_addr = 0x3000ff0 });
        vhk_dirty_unref(d);

        for (uint16_t i = 0; i < 512; i++)
                set_desc(&g.desc[i], DATA, 8, VHK_DESC_WRITE, 0), offer(&g, i);
        publish(&g);
        CHECK_EQ(vhk_queue_pop(g.q, r, 512), 512);
        vhk_queue_push(g.q, r[0], 8);           /* element 1000, at 0x3000ff0 + 4 + 8000 */
        CHECK_NO_PAGES();                       /* not published */
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x3000, 0x3002);            /* index, element; no data */
        for (unsigned i = 1; i < 23; i++)
                vhk_queue_push(g.q, r[i], 8);
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x3000, 0x3002);
        for (unsigned i = 23; i < 30; i++)
                vhk_queue_push(g.q, r[i], 8);   /* the last, and 0 to 5: 0x3000ff4 to 0x3001024 */
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x3000, 0x3001, 0x3002);
        for (unsigned i = 30; i < 512; i++)
                vhk_queue_push(g.q, r[i], 8);   /* up to element 487, 0x3001f34 */
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x3000, 0x3001);
        vhk_queue_flush(g.q);
        CHECK_NO_PAGES();
        vhk_queue_arm(g.q);                     /* avail_event, behind 1024 elements, or the flags */
        CHECK_PAGES(event_idx ? 0x3002 : 0x3000);
        vhk_queue_disarm(g.q);
        CHECK_PAGES(event_idx ? 0x3002 : 0x3000);
        rig_close(&g);
}

TEST(used_ring_with_event_index) { used_ring(true); }
TEST(used_ring_with_flags) { used_ring(false); }

TEST(used_ring_round_its_end) {
        struct rig g;
        struct vhk_req *r[16];

        rig_open(&g, &options);
        struct vhk_dirty *d = make_log();
        for (uint16_t i = 0; i < 12; i++) {
                offer_one(&g, i, DATA, 8, VHK_DESC_WRITE);
                serve(&g, 8);
        }
        adopt(&g, &(struct vhk_ring_config){ .log = d, .log_used = true, .log_data = true, .log_addr = 0x5000 - 4 - 14 * 8 });
        vhk_dirty_unref(d);
        for (uint16_t i = 0; i < 8; i++)
                offer_one(&g, i, 0x40000, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, r, 16), 8);
        for (unsigned i = 0; i < 2; i++)
                vhk_queue_push(g.q, r[i], 8);
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x4, 0x40);                 /* 12 and 13 */
        for (unsigned i = 2; i < 8; i++)
                vhk_queue_push(g.q, r[i], 8);
        vhk_queue_flush(g.q);
        CHECK_PAGES(0x4, 0x5, 0x40);            /* 14, 15, and 0 to 3 */
        rig_close(&g);
}

/* An address that wraps around, or lies behind the log, marks nothing and harms nobody. */
TEST(used_ring_at_strange_addresses) {
        static const uint64_t addrs[] = { UINT64_MAX, UINT64_MAX - 3, (uint64_t)PAGES * 4096, UINT64_C(1) << 62 };
        struct rig g;

        rig_open(&g, &options);
        for (uint16_t i = 0; i < VHK_N(addrs); i++) {
                struct vhk_dirty *d = make_log();
                adopt(&g, &(struct vhk_ring_config){ .log = d, .log_used = true, .log_addr = addrs[i] });
                vhk_dirty_unref(d);
                offer_one(&g, i, DATA, 8, VHK_DESC_WRITE);
                serve(&g, 8);
                vhk_queue_arm(g.q);
                CHECK_NO_PAGES();
        }
        rig_close(&g);
}

/* Told once per flush, after the marks, and only if a page was not marked before. */
TEST(front_end_is_told) {
        struct vhk_fdref *told;
        struct rig g;
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        uint64_t n = 0;

        rig_open(&g, &options);
        CHECK_OK(vhk_fdref_new(dup(fd), &told));
        struct vhk_dirty *d = make_log();
        adopt(&g, &(struct vhk_ring_config){ .log = d, .log_data = true, .log_fd = told });
        vhk_dirty_unref(d);
        vhk_fdref_unref(told);
        for (uint16_t i = 0; i < 4; i++)
                offer_one(&g, i, DATA, 8, i < 3 ? VHK_DESC_WRITE : 0);
        struct vhk_req *r[4];
        CHECK_EQ(vhk_queue_pop(g.q, r, 4), 4);
        vhk_queue_push(g.q, r[0], 8);
        vhk_queue_push(g.q, r[1], 8);
        CHECK_EQ(vhk_drain_fd(fd), 0);
        vhk_queue_flush(g.q);
        CHECK(read(fd, &n, sizeof(n)) == sizeof(n) && n == 1);
        vhk_queue_push(g.q, r[3], 0);
        vhk_queue_flush(g.q);
        CHECK_EQ(vhk_drain_fd(fd), 0);
        CHECK_PAGES(0x20);                      /* takes the marks: only then the next one is news */
        vhk_queue_push(g.q, r[2], 0);
        vhk_queue_flush(g.q);
        CHECK_EQ(vhk_drain_fd(fd), 1);
        CHECK_PAGES(0x20);
        close(fd);
        rig_close(&g);
}

/* A ring that breaks, and one that stops, have marked what was written until then. */
TEST(broken_and_stopped) {
        struct vhk_req *r[2];
        struct rig g;

        rig_open(&g, &options);
        log_data(&g, true);
        for (uint16_t i = 0; i < 2; i++)
                offer_one(&g, i, DATA + i * 0x1000u, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, r, 2), 2);
        vhk_queue_break(g.q, VHK_RING_DEVICE);
        vhk_queue_push(g.q, r[0], 8);
        CHECK_PAGES(0x20);
        CHECK_EQ(vhk_queue_drain(g.q, true), 1);
        vhk_queue_push(g.q, r[1], 8);
        CHECK_PAGES(0x21);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
        rig_close(&g);

        rig_open(&g, &options);
        struct vhk_dirty *d = make_log();
        adopt(&g, &(struct vhk_ring_config){ .log = d, .log_data = true, .log_used = true, .log_addr = 0x7000 });
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        r[0] = pop_one(&g);
        CHECK_EQ(vhk_queue_drain(g.q, true), 1);
        vhk_queue_push(g.q, r[0], 8);
        vhk_queue_stop(g.q);                    /* publishes */
        CHECK_PAGES(0x20, 0x7);
        vhk_dirty_unref(d);
        rig_close(&g);
}
