/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * An IOMMU from both ends of the library, over the public headers alone: translations given before they are asked for, and
 * page by page when they are; and taken away at random while requests that were verified before run on two rings.
 */
#include <poll.h>

#include "pair.h"

#define PAGE 4096u
#define N_PAGES 64u
#define N_RINGS 2u
#define BIT(n) (1ull << (n))
#define ACCESS_PLATFORM BIT(33)

/* ---- the device: answers a number with one more, in each word that it is given ---- */

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r[4];
        int n;

        while ((n = vhk_queue_pop(q, r, 4)) > 0)
                for (int i = 0; i < n; i++) {
                        uint64_t x = 0;
                        vhk_req_read(r[i], 0, &x, sizeof(x));
                        x++;
                        for (unsigned at = 0; at < r[i]->in_len; at += 8)
                                vhk_req_write(r[i], at, &x, sizeof(x));
                        vhk_queue_push(q, r[i], r[i]->in_len);
                }
        vhk_queue_flush(q);
}

static const struct vhk_device_ops ops = {
        .size = sizeof(ops), .virtio_id = 4, .n_queues = N_RINGS, .queue_size_max = 64, .threads = VHK_THREADS_PER_QUEUE, .queue_run = device_run,
};

/* ---- the IOMMU ---- */

static struct pair ends;
static struct vhk_frontend *f;
static struct vhk_memory *m;
static struct vhk_drvq *q[N_RINGS];
static uint8_t *data;
static vhk_gpa_t data_gpa;
static unsigned n_misses;
static uint64_t refused;
static unsigned n_added[N_RINGS], n_reaped[N_RINGS];

static int on_miss(void *arg, uint64_t iova, uint32_t access, struct vhk_translation *ret_t) {
        n_misses++;
        if (iova / PAGE == refused / PAGE)
                return -EFAULT;
        ret_t->iova = ret_t->gpa = iova - iova % PAGE;
        ret_t->len = PAGE;
        ret_t->access = access | (iova / PAGE % 2 ? VHK_ACCESS_BOTH : 0);
        return 0;
}

static void open_all(vhk_frontend_miss_fn miss) {
        struct pair_options o = { .ops = &ops, .n_homes = N_RINGS, .back.features_offer = ACCESS_PLATFORM, .front = { .iommu = 1, .on_miss = miss } };
        struct vhk_frontend_info info = { .size = sizeof(info) };

        n_misses = 0;
        refused = UINT64_MAX;
        memset(n_added, 0, sizeof(n_added));
        memset(n_reaped, 0, sizeof(n_reaped));
        CHECK_MSG(pair_open(&ends, &o) == 0, "%s", ends.error.text);
        f = ends.f;
        CHECK_OK(vhk_frontend_get_info(f, &info));
        CHECK((info.features & ACCESS_PLATFORM) && (info.capabilities & VHK_CAP_IOMMU));
        CHECK_EQ(vhk_frontend_iotlb_invalidate(f, 0, 0), -EOPNOTSUPP);          /* not in use yet */
        CHECK_OK(vhk_frontend_set_features(f, BIT(32) | BIT(28) | ACCESS_PLATFORM));
        CHECK_OK(vhk_memory_new(&m));
        CHECK_OK(vhk_memory_alloc(m, N_PAGES * PAGE, (void **)&data));
        CHECK_OK(vhk_memory_find(m, data, N_PAGES * PAGE, &data_gpa));
        for (unsigned i = 0; i < N_RINGS; i++)
                CHECK_OK(vhk_drvq_new(f, m, i, &(struct vhk_drvq_options){ .size = sizeof(struct vhk_drvq_options), .num = 64 }, &q[i]));
}

static void close_all(void) {
        for (unsigned i = 0; i < N_RINGS; i++)
                q[i] = vhk_drvq_free(q[i]);
        pair_close(&ends);
        m = vhk_memory_free(m);
}

/* ---- requests: the number in one page, the answer over the border of two others ---- */

static struct request { uint64_t *out, *in, n; } requests[N_RINGS][16];

static void add(unsigned ring) {
        unsigned slot = n_added[ring]++ % 16, base = ring * N_PAGES / N_RINGS;
        struct request *r = &requests[ring][slot];

        r->n = n_added[ring] * 1000u;
        r->out = (uint64_t *)(data + base * PAGE + slot * 64);
        r->in = (uint64_t *)(data + (base + 1 + slot) * PAGE + PAGE - 16);
        *r->out = r->n;
        memset(r->in, 0, 32);
        struct iovec sg[2] = { { r->out, 8 }, { r->in, 32 } };
        CHECK_OK(vhk_drvq_add(q[ring], sg, 1, 1, r));
        CHECK_OK(vhk_drvq_kick(q[ring]));
}

static void reap(unsigned ring) {
        struct vhk_done done[16];

        int n = vhk_drvq_reap(q[ring], done, 16);
        CHECK_OK(n);
        for (int i = 0; i < n; i++) {
                struct request *r = done[i].cookie;
                CHECK_EQ(done[i].len, 32);
                for (unsigned k = 0; k < 4; k++)
                        CHECK_EQ(r->in[k], r->n + 1);
                n_reaped[ring]++;
        }
}

/* All that was added comes back; misses are served meanwhile. */
static void drain(bool serve) {
        for (unsigned i = 0, turns = 0; i < N_RINGS; i++)
                while (reap(i), n_reaped[i] != n_added[i]) {
                        CHECK(turns++ < 100000);
                        if (serve)
                                CHECK_OK(vhk_frontend_dispatch(f));
                        poll(&(struct pollfd){ .fd = vhk_frontend_get_fd(f), .events = POLLIN }, 1, 1);
                }
}

TEST(told_without_being_asked) {
        open_all(NULL);
        for (unsigned i = 0; i < 100; i++) {
                add(i % N_RINGS);
                drain(false);                           /* nobody serves the back-end's requests */
        }
        CHECK_OK(vhk_frontend_iotlb_invalidate(f, 0, 0));
        add(0);
        drain(true);                                    /* now it has to ask */
        void *more;
        CHECK_OK(vhk_memory_alloc(m, PAGE, &more));
        CHECK_OK(vhk_frontend_set_memory(f, m));        /* the rings go on */
        add(1);
        drain(false);
        close_all();
}

TEST(asked_page_by_page) {
        open_all(on_miss);
        for (unsigned i = 0; i < 16 * N_RINGS; i++)
                add(i % N_RINGS);
        drain(true);
        CHECK(n_misses >= N_RINGS * 18);                /* each page once, at least */
        unsigned before = n_misses;
        CHECK_OK(vhk_frontend_iotlb_update(f, &(struct vhk_translation){ .size = sizeof(struct vhk_translation), .iova = data_gpa.v,
                                                                         .len = N_PAGES * PAGE, .gpa = data_gpa.v, .access = VHK_ACCESS_BOTH }));
        for (unsigned i = 0; i < 100; i++) {
                add(i % N_RINGS);
                drain(true);
        }
        CHECK_EQ(n_misses, before);
        close_all();
}

TEST(translations_that_are_none) {
        struct vhk_translation bad[] = {
                { .size = 0, .iova = 0, .len = PAGE, .access = 3 }, { .size = sizeof(bad[0]), .len = 0, .access = 3 },
                { .size = sizeof(bad[0]), .iova = UINT64_MAX, .len = 2, .access = 3 }, { .size = sizeof(bad[0]), .len = PAGE, .access = 0 },
                { .size = sizeof(bad[0]), .len = PAGE, .access = 4 }, { .size = sizeof(bad[0]), .len = PAGE, .gpa = UINT64_C(1) << 50, .access = 3 },
        };

        open_all(on_miss);
        for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                CHECK_EQ(vhk_frontend_iotlb_update(f, &bad[i]), i < 5 ? -EINVAL : -EFAULT);
        add(0);
        drain(true);                                    /* no harm done */
        close_all();
}

TEST(refused) {
        open_all(on_miss);
        add(0);
        add(1);
        drain(true);
        CHECK_OK(vhk_frontend_iotlb_invalidate(f, data_gpa.v, PAGE));
        refused = data_gpa.v;
        add(0);
        for (unsigned i = 0; i < 100; i++) {
                CHECK_OK(vhk_frontend_dispatch(f));
                poll(NULL, 0, 1);
        }
        CHECK_EQ(vhk_drvq_n_in_flight(q[0]), 1);        /* that ring is over, the other one is not */
        add(1);
        n_added[0]--;
        drain(true);
        close_all();
}

/* The driver's side and control change translations, two homes run requests: for ThreadSanitizer. */
TEST(invalidated_at_random_under_load) {
        uint32_t s = 1;

        open_all(on_miss);
        for (unsigned i = 0; i < 1500; i++) {
                s = s * 1664525 + 1013904223;
                unsigned ring = s >> 30 & 1, page = (s >> 16) % N_PAGES, n = 1 + (s >> 8) % 4;
                if (n_added[ring] - n_reaped[ring] < 16)
                        add(ring);
                if (i % 5 == 0)
                        CHECK_OK(vhk_frontend_iotlb_invalidate(f, i % 50 == 0 ? 0 : data_gpa.v + page * PAGE, i % 50 == 0 ? 0 : n * PAGE));
                if (i % 7 == 0 && page + n <= N_PAGES)
                        CHECK_OK(vhk_frontend_iotlb_update(f, &(struct vhk_translation){ .size = sizeof(struct vhk_translation),
                                        .iova = data_gpa.v + page * PAGE, .gpa = data_gpa.v + page * PAGE, .len = n * PAGE, .access = VHK_ACCESS_BOTH }));
                CHECK_OK(vhk_frontend_dispatch(f));
                reap(0);
                reap(1);
        }
        drain(true);
        close_all();
}
