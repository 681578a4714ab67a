/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A running ring goes over to new configurations: memory, call descriptor, enable; and what keeps old memory alive. */
#include "ring/test-ring.h"

#define DATA UINT64_C(0x20000)

static const struct rig_options plain = { .num = 16, .event_idx = true, .used = -1 };

/* The same guest memory mapped again, or other memory. */
static struct vhk_memmap *another_map(struct rig *g, bool same_file) {
        static const struct area extra[] = { { 0, 2 << 20 }, { 8 << 20, 4096 } };
        static int fds[2];

        fds[0] = fds[1] = -1;
        if (!same_file)
                return make_memory(one_region, 1, NULL);
        struct vhk_memmap *m;
        struct vhk_region_desc d = { .gpa = { extra[1].gpa + g->mem->n * 4096 }, .uva = { UVA + extra[1].gpa + g->mem->n * 4096 }, .len = 4096 };
        d.fd = memfd_create("test-adopt", MFD_CLOEXEC);
        CHECK(!ftruncate(d.fd, 4096));
        CHECK_OK(vhk_memmap_add(g->mem, &d, &m, NULL));
        close(d.fd);
        return m;
}

/* Adopts memory @m (takes its reference); the ring's contents move along as the driver's do. */
static int adopt_memory(struct rig *g, struct vhk_memmap *m, const struct rig_options *o) {
        struct vhk_ring_config *c = make_config(m, o, g->config->call), *old = g->config;
        size_t n = free_gpa(g->num);

        if (c->desc != g->desc)
                memcpy(c->desc, g->desc, n);
        int r = vhk_queue_adopt(g->q, c);
        g->config = c;
        vhk_memmap_unref(g->mem);
        g->mem = m;
        vhk_ring_config_unref(old);
        rig_points(g);
        return r;
}

static void touch(const struct vhk_req *r) {
        for (unsigned i = 0; i < r->n_in; i++)
                *(volatile char *)r->in[i].iov_base = 1;        /* faults if it is unmapped */
}

TEST(call_is_exchanged) {
        struct vhk_queue_metrics m;
        struct rig g;
        int other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct vhk_fdref *call;

        rig_open(&g, &plain);
        *used_event(&g) = vhk_le16_of(100);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        struct vhk_req *r = pop_one(&g);
        CHECK_OK(vhk_fdref_new(dup(other), &call));
        struct vhk_ring_config *c = make_config(g.mem, &plain, call);
        CHECK_EQ(vhk_queue_adopt(g.q, c), 0);           /* the memory is the same: nothing to wait for */
        CHECK_EQ(vhk_drain_fd(other), 1);               /* once, in case that something was missed */
        CHECK_EQ(vhk_queue_adopt(g.q, c), 0);
        CHECK_EQ(vhk_drain_fd(other), 0);               /* the same descriptor is not */
        *used_event(&g) = vhk_le16_of(0);
        vhk_queue_push(g.q, r, 8);
        vhk_queue_flush(g.q);
        CHECK_EQ(vhk_drain_fd(other), 1);
        CHECK_EQ(vhk_drain_fd(g.call), 0);
        /* and none at all: a driver that polls */
        struct vhk_ring_config *none = make_config(g.mem, &plain, NULL);
        CHECK_EQ(vhk_queue_adopt(g.q, none), 0);
        vhk_queue_get_metrics(g.q, &m);
        CHECK_EQ(m.notifications, 3);
        vhk_ring_config_unref(none);
        vhk_ring_config_unref(c);
        vhk_fdref_unref(call);
        close(other);
        rig_close(&g);
}

/* A fresh one too: rig_open() checks that the signal is there. What is no descriptor is only used
 * for a ring that ran. */
static int count_call(void *arg) {
        ++*(unsigned *)arg;
        return 0;
}

TEST(a_ring_that_starts_signals_its_call_descriptor_once) {
        struct rig_options o = plain;
        struct vhk_fdref *call;
        unsigned n_calls = 0;
        struct rig g;

        rig_open(&g, &o);
        CHECK_EQ(vhk_drain_fd(g.call), 0);
        CHECK_OK(vhk_fdref_new_call(count_call, &n_calls, &call));
        struct vhk_ring_config *c = make_config(g.mem, &o, call);
        for (uint16_t ran = 0; ran < 2; ran++) {
                vhk_queue_stop(g.q);
                CHECK_OK(vhk_queue_start(g.q, c, ran, ran));
                CHECK_EQ(n_calls, ran);
        }
        vhk_ring_config_unref(c);
        vhk_fdref_unref(call);
        rig_close(&g);
}

TEST(enable_and_disable) {
        struct rig_options off = plain;
        struct vhk_ring_config *c;
        struct vhk_req *r;
        struct rig g;

        off.disabled = true;
        rig_open(&g, &off);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), 0);
        c = make_config(g.mem, &plain, NULL);
        CHECK_EQ(vhk_queue_adopt(g.q, c), 0);
        vhk_ring_config_unref(c);
        CHECK(vhk_queue_has_work(g.q));
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), 1);
        c = make_config(g.mem, &off, NULL);
        CHECK_EQ(vhk_queue_adopt(g.q, c), 0);
        vhk_ring_config_unref(c);
        offer_one(&g, 1, DATA, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), 0);
        rig_close(&g);
}

TEST(old_memory_lives_as_long_as_its_requests) {
        struct vhk_req *old[2], *new;
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        offer_one(&g, 1, DATA, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, old, 2), 2);
        CHECK_EQ(adopt_memory(&g, another_map(&g, false), &plain), 1);
        offer_one(&g, 2, DATA, 8, VHK_DESC_WRITE);
        new = pop_one(&g);
        CHECK(new->in[0].iov_base == at(&g, DATA));
        CHECK(new->in[0].iov_base != old[0]->in[0].iov_base);
        touch(old[0]);
        struct vhk_mem_counters before = vhk_mem_counters();
        vhk_queue_push(g.q, old[0], 8);
        vhk_queue_flush(g.q);
        touch(old[1]);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 0);
        CHECK_EQ(vhk_mem_counters().munmaps, before.munmaps);
        vhk_queue_push(g.q, old[1], 8);
        vhk_queue_flush(g.q);
        CHECK_EQ(vhk_mem_counters().munmaps, before.munmaps + 1);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);                       /* although a newer one is in flight */
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 1);
        CHECK_EQ(used_idx(&g), 2);                      /* in the new memory */
        vhk_queue_push(g.q, new, 8);
        vhk_queue_flush(g.q);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        rig_close(&g);
}

TEST(nothing_in_flight_settles_at_once) {
        struct rig g;

        rig_open(&g, &plain);
        struct vhk_mem_counters before = vhk_mem_counters();
        CHECK_EQ(adopt_memory(&g, another_map(&g, false), &plain), 0);
        CHECK_EQ(vhk_mem_counters().munmaps, before.munmaps + 1);
        rig_close(&g);
}

TEST(unpop_of_an_old_request_settles_too) {
        struct vhk_req *r[2];
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, r, 1), 1);
        CHECK_EQ(adopt_memory(&g, another_map(&g, false), &plain), 1);
        vhk_queue_unpop(g.q, 1);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        CHECK_EQ(vhk_queue_pop(g.q, r, 2), 1);
        CHECK(r[0]->in[0].iov_base == at(&g, DATA));    /* translated anew */
        rig_close(&g);
}

TEST(each_request_of_a_full_ring_may_be_of_another_memory) {
        struct vhk_req *r[16];
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned round = 0; round < 3; round++) {
                g.n_settled = 0;
                for (unsigned i = 0; i < 16; i++) {
                        offer_one(&g, (uint16_t)i, DATA, 8, VHK_DESC_WRITE);
                        CHECK_EQ(vhk_queue_pop(g.q, &r[i], 1), 1);
                        CHECK(r[i]->in[0].iov_base == at(&g, DATA));
                        CHECK_EQ(adopt_memory(&g, another_map(&g, false), &plain), 1);
                }
                for (unsigned i = 0; i < 16; i++) {
                        unsigned k = (i * 7 + round) % 16;
                        CHECK(g.n_settled == 0 && !vhk_queue_is_quiesced(g.q));
                        touch(r[k]);
                        vhk_queue_push(g.q, r[k], 8);
                        vhk_queue_flush(g.q);
                        vhk_worker_dispatch(g.home, 0);
                }
                CHECK(g.n_settled == 1 && vhk_queue_is_quiesced(g.q));
        }
        rig_close(&g);
}

TEST(unpop_with_each_request_of_another_memory) {
        struct vhk_req *r[16];
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned i = 0; i < 16; i++) {
                offer_one(&g, (uint16_t)i, DATA, 8, VHK_DESC_WRITE);
                CHECK_EQ(vhk_queue_pop(g.q, &r[i], 1), 1);
                CHECK_EQ(adopt_memory(&g, another_map(&g, false), &plain), 1);
        }
        vhk_queue_unpop(g.q, 3);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 13);
        for (unsigned i = 0; i < 13; i++)
                vhk_queue_push(g.q, r[i], 8);
        vhk_queue_flush(g.q);
        CHECK(vhk_queue_is_quiesced(g.q));
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        CHECK_EQ(vhk_queue_pop(g.q, r, 16), 3);
        rig_close(&g);
}

TEST(added_memory_takes_nothing_away_from_requests_in_flight) {
        struct vhk_req *old[8], *r;
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned i = 0; i < 8; i++) {
                offer_one(&g, (uint16_t)i, DATA, 8, VHK_DESC_WRITE);
                CHECK_EQ(vhk_queue_pop(g.q, &old[i], 1), 1);
                CHECK_EQ(adopt_memory(&g, another_map(&g, true), &plain), 0);
        }
        const struct vhk_memreg *last = &g.mem->regs[g.mem->n - 1];
        offer_one(&g, 8, last->gpa, 8, VHK_DESC_WRITE);
        r = pop_one(&g);
        CHECK(r->in[0].iov_base == last->host);
        touch(r);
        for (unsigned i = 0; i < 8; i++) {
                touch(old[i]);
                vhk_queue_push(g.q, old[i], 8);
        }
        vhk_queue_push(g.q, r, 8);
        CHECK_EQ(vhk_queue_flush(g.q), 0);
        rig_close(&g);
}

TEST(what_does_not_change_memory_does_not_quiesce_an_earlier_change) {
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        r = pop_one(&g);
        CHECK_EQ(adopt_memory(&g, another_map(&g, false), &plain), 1);
        struct vhk_ring_config *c = make_config(g.mem, &plain, NULL);   /* only the call descriptor */
        CHECK_EQ(vhk_queue_adopt(g.q, c), 1);
        CHECK(!vhk_queue_is_quiesced(g.q));
        vhk_ring_config_unref(c);
        CHECK_EQ(vhk_queue_drain(g.q, true), 1);
        c = make_config(g.mem, &plain, NULL);
        CHECK_EQ(vhk_queue_adopt(g.q, c), 1);           /* a draining queue adopts as well */
        vhk_ring_config_unref(c);
        touch(r);
        vhk_queue_push(g.q, r, 8);
        vhk_queue_flush(g.q);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        CHECK(vhk_queue_is_quiesced(g.q) && vhk_queue_is_drained(g.q));
        rig_close(&g);
}

TEST(own_memory_goes) {
        struct vhk_ring_config *c, values;
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        r = pop_one(&g);
        values = *g.config;
        values.mem = another_map(&g, false);
        values.desc = NULL;
        values.avail = NULL;
        values.used = NULL;
        CHECK_OK(vhk_ring_config_new(&values, &c));
        vhk_memmap_unref(values.mem);
        CHECK_EQ(vhk_queue_adopt(g.q, c), 1);
        vhk_ring_config_unref(c);
        CHECK(g.n_broken == 1 && g.rule == VHK_RING_MEMORY);
        g.mem = vhk_memmap_unref(g.mem);
        g.config = vhk_ring_config_unref(g.config);
        touch(r);                                       /* still there for the request */
        vhk_queue_push(g.q, r, 8);
        CHECK_EQ(vhk_queue_flush(g.q), -EPIPE);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        CHECK_EQ(vhk_queue_drain(g.q, true), 0);
        CHECK_EQ(vhk_queue_stop(g.q), 1);
        CHECK_OK(vhk_memmap_new(&g.mem));
        rig_close(&g);
}

TEST(start_without_areas) {
        struct vhk_ring_config *c, values;
        struct rig g;

        rig_open(&g, &plain);
        vhk_queue_stop(g.q);
        values = *g.config;
        values.used = NULL;
        CHECK_OK(vhk_ring_config_new(&values, &c));
        CHECK_EQ(vhk_queue_start(g.q, c, 7, -1), -EPIPE);
        CHECK(vhk_queue_is_broken(g.q) && g.rule == VHK_RING_MEMORY);
        CHECK_EQ(vhk_queue_stop(g.q), 7);
        vhk_ring_config_unref(c);
        rig_close(&g);
}

TEST(drain_with_old_requests) {
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &plain);
        offer_one(&g, 0, DATA, 8, VHK_DESC_WRITE);
        r = pop_one(&g);
        CHECK_EQ(adopt_memory(&g, another_map(&g, false), &plain), 1);
        CHECK_EQ(vhk_queue_drain(g.q, true), 1);
        vhk_queue_push(g.q, r, 8);
        vhk_queue_flush(g.q);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(g.n_settled, 1);
        vhk_queue_stop(g.q);
        rig_close(&g);
}

/* Random changes while requests come and go in any order: each is translated by the snapshot it was popped under, none is
 * lost, and in the end only one mapping of the ring's region is left. */
TEST(random_changes) {
        struct vhk_mem_counters start = vhk_mem_counters();
        struct vhk_req *in_flight[16];
        unsigned n = 0;
        uint64_t seed = 99, done = 0;
        struct rig g;

        rig_open(&g, &plain);
        for (unsigned i = 0; i < 16; i++)
                set_desc(&g.desc[i], DATA + i * 64, 8, VHK_DESC_WRITE, 0);
        bool busy[16] = { false };
        for (unsigned step = 0; step < 20000; step++) {
                uint32_t x = random_next(&seed);
                unsigned k = x >> 8;
                switch (x % 8) {
                case 0: case 1: case 2:
                        if (!busy[k % 16]) {
                                busy[k % 16] = true;
                                offer(&g, (uint16_t)(k % 16));
                                publish(&g);
                        }
                        break;
                case 3: case 4:
                        n += (unsigned)vhk_queue_pop(g.q, in_flight + n, 16 - n);
                        break;
                case 5: case 6:
                        if (n) {
                                unsigned i = k % n;
                                touch(in_flight[i]);
                                busy[in_flight[i]->head] = false;
                                vhk_queue_push(g.q, in_flight[i], 8);
                                in_flight[i] = in_flight[--n];
                                CHECK_EQ(vhk_queue_flush(g.q), 0);
                                done++;
                        }
                        break;
                default:
                        if (step % 4 == 0)
                                adopt_memory(&g, another_map(&g, g.mem->n < 8 && k % 2), &plain);
                        vhk_worker_dispatch(g.home, 0);
                }
                CHECK_EQ(used_idx(&g), done & 0xffff);
        }
        while (n)
                vhk_queue_push(g.q, in_flight[--n], 8);
        vhk_queue_flush(g.q);
        vhk_worker_dispatch(g.home, 0);
        CHECK(done > 1000);
        rig_close(&g);
        CHECK_EQ(vhk_mem_counters().munmaps - start.munmaps, vhk_mem_counters().mmaps - start.mmaps);
}

/* SIGBUS is mem's; here: what flush does when the mark is set. */
static void on_sigbus(int sig, siginfo_t *si, void *ctx) {
        if (!vhk_sigbus_try(si))
                _exit(99);
}

TEST(truncated_memory_breaks_the_ring_at_flush) {
        int fds[] = { -1, -1 };
        static const struct area two[] = { { 0, 1 << 20 }, { 1 << 20, 1 << 20 } };
        struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, before;
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &plain);
        CHECK_EQ(adopt_memory(&g, make_memory(two, 2, fds), &plain), 0);
        offer_one(&g, 0, (1 << 20) + 4096, 8, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, &r, 1), 1);
        CHECK(!sigaction(SIGBUS, &sa, &before));
        CHECK(!ftruncate(fds[1], 0));
        touch(r);                                       /* a zero page takes its place */
        vhk_queue_push(g.q, r, 8);
        CHECK_EQ(vhk_queue_flush(g.q), -EPIPE);
        CHECK(g.n_broken == 1 && g.rule == VHK_RING_MEMORY);
        CHECK_EQ(used_idx(&g), 0);
        sigaction(SIGBUS, &before, NULL);
        close(fds[0]);
        close(fds[1]);
        rig_close(&g);
}
