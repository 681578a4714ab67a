/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Completion from other threads: nothing is lost, nothing is done twice, and a queue may go as soon as it has settled. */
#include "ring/test-ring.h"

#include <pthread.h>

#define DATA UINT64_C(0x20000)
#define N_THREADS 3u
#define TOTAL 60000u

/* A box through which the home hands requests to one completing thread. */
struct box {
        struct vhk_req *req[64];
        unsigned head, tail;            /* shared (atomic): tail is the home's, head the thread's */
        bool end;                       /* shared (atomic) */
        pthread_t thread;
};

static void *completer(void *arg) {
        struct box *b = arg;

        for (unsigned n = 0;;) {
                bool end = vhk_load_acquire(&b->end);
                unsigned tail = vhk_load_acquire(&b->tail);     /* pairs with give() */
                if (b->head == tail) {
                        if (end)
                                return NULL;
                        vhk_cpu_relax();
                        if (++n % 64 == 0)
                                usleep(10);
                        continue;
                }
                struct vhk_req *r = b->req[b->head % 64];
                *(uint32_t *)r->priv += 1;
                *(volatile uint32_t *)r->in[0].iov_base = r->head;      /* the device's work */
                vhk_store_release(&b->head, b->head + 1);
                vhk_req_complete(r, 4);
        }
}

static void give(struct box *b, struct vhk_req *r) {
        b->req[b->tail % 64] = r;
        vhk_store_release(&b->tail, b->tail + 1);
}

static struct box boxes[N_THREADS];
static unsigned n_given;

/* What a device's queue_run does: hand all there is to the threads. */
static void hand_out(struct rig *g) {
        struct vhk_req *r[8];
        int n;

        while ((n = vhk_queue_pop(g->q, r, 8)) > 0)
                for (int i = 0; i < n; i++) {
                        *(uint32_t *)r[i]->priv = 0;
                        give(&boxes[n_given++ % N_THREADS], r[i]);
                }
        CHECK_EQ(n, 0);
}

static void start_threads(void) {
        n_given = 0;
        for (unsigned i = 0; i < N_THREADS; i++) {
                boxes[i] = (struct box){ 0 };
                CHECK(!pthread_create(&boxes[i].thread, NULL, completer, &boxes[i]));
        }
}

static void end_threads(void) {
        for (unsigned i = 0; i < N_THREADS; i++) {
                vhk_store_release(&boxes[i].end, true);
                pthread_join(boxes[i].thread, NULL);
        }
}

/* The driver, on the home's thread: takes what is used, offers it again. */
static unsigned drive(struct rig *g, uint16_t *seen, bool *busy, unsigned limit, unsigned offered) {
        uint16_t idx = used_idx(g);

        for (; *seen != idx; ++*seen) {
                struct vhk_used_elem *e = &g->used->ring[*seen & (g->num - 1)];
                uint32_t id = vhk_le32_get(e->id);
                CHECK(id < g->num && busy[id] && vhk_le32_get(e->len) == 4);
                CHECK_EQ(*(uint32_t *)at(g, DATA + id * 64), id);
                *(uint32_t *)at(g, DATA + id * 64) = UINT32_MAX;
                busy[id] = false;
        }
        for (uint16_t i = 0; i < g->num && offered < limit; i++)
                if (!busy[i]) {
                        busy[i] = true;
                        offer(g, i);
                        offered++;
                }
        publish(g);
        return offered;
}

TEST(three_threads_complete) {
        struct rig_options o = { .num = 64, .event_idx = true, .used = -1, .req_size = 4 };
        struct vhk_queue_metrics m;
        bool busy[64] = { false };
        uint16_t seen = 0;
        unsigned offered = 0;
        struct rig g;

        rig_open(&g, &o);
        g.on_run = hand_out;
        for (unsigned i = 0; i < 64; i++)
                set_desc(&g.desc[i], DATA + i * 64, 4, VHK_DESC_WRITE, 0);
        start_threads();
        for (uint64_t done = 0; done < TOTAL;) {
                offered = drive(&g, &seen, busy, TOTAL, offered);
                hand_out(&g);
                vhk_worker_dispatch(g.home, vhk_queue_n_in_flight(g.q) ? 1000 : 0);
                vhk_queue_get_metrics(g.q, &m);
                done = m.requests;
        }
        offered = drive(&g, &seen, busy, TOTAL, offered);
        end_threads();
        CHECK_EQ(offered, TOTAL);
        CHECK_EQ(m.requests, TOTAL);
        CHECK_EQ(m.device_bugs, 0);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
        for (unsigned i = 0; i < 64; i++)
                CHECK(!busy[i]);
        CHECK(g.n_run > 0);
        rig_close(&g);
}

/* The home stops and frees the queue the moment that it has settled; the completing threads must not touch it then. */
TEST(queue_goes_when_it_settles) {
        struct rig_options o = { .num = 64, .used = -1, .req_size = 4 };

        for (unsigned round = 0; round < 300; round++) {
                struct rig g;
                rig_open(&g, &o);
                start_threads();
                for (unsigned i = 0; i < 16; i++)
                        offer_one(&g, (uint16_t)i, DATA + i * 64, 4, VHK_DESC_WRITE);
                hand_out(&g);
                if (vhk_queue_drain(g.q, true) == 1)
                        while (!g.n_settled)
                                vhk_worker_dispatch(g.home, 1000);
                CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
                CHECK_EQ(vhk_queue_stop(g.q), 16);
                g.q = vhk_queue_free(g.q);
                CHECK_EQ(used_idx(&g), 16);
                end_threads();
                rig_close(&g);
        }
}

TEST(completion_order_and_length) {
        struct rig_options o = { .num = 8, .used = -1 };
        struct vhk_queue_metrics m;
        struct vhk_req *r[3];
        struct rig g;

        rig_open(&g, &o);
        for (unsigned i = 0; i < 3; i++)
                offer_one(&g, (uint16_t)i, DATA, 10, VHK_DESC_WRITE);
        CHECK_EQ(vhk_queue_pop(g.q, r, 3), 3);
        vhk_req_complete(r[2], 7);
        vhk_req_complete(r[0], 11);                     /* a device's bug */
        vhk_req_complete(r[1], 0);
        CHECK_EQ(used_idx(&g), 0);
        vhk_worker_dispatch(g.home, 0);
        static const uint32_t id[] = { 2, 0, 1 }, len[] = { 7, 10, 0 };
        CHECK_EQ(used_idx(&g), 3);
        for (unsigned i = 0; i < 3; i++)
                CHECK(vhk_le32_get(g.used->ring[i].id) == id[i] && vhk_le32_get(g.used->ring[i].len) == len[i]);
        vhk_queue_get_metrics(g.q, &m);
        CHECK_EQ(m.device_bugs, 1);
        CHECK_EQ(vhk_drain_fd(g.call), 1);
        CHECK_EQ(g.n_run, 1);
        rig_close(&g);
}

TEST(completion_on_a_broken_ring) {
        struct rig_options o = { .num = 8, .used = -1 };
        struct vhk_req *r;
        struct rig g;

        rig_open(&g, &o);
        offer_one(&g, 0, DATA, 10, VHK_DESC_WRITE);
        r = pop_one(&g);
        vhk_queue_break(g.q, VHK_RING_DEVICE);
        vhk_req_complete(r, 10);
        vhk_worker_dispatch(g.home, 0);
        CHECK_EQ(vhk_queue_n_in_flight(g.q), 0);
        CHECK_EQ(used_idx(&g), 0);
        CHECK_EQ(g.n_run, 0);
        rig_close(&g);
}
