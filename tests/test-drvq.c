/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Virtqueues of <vhostkit/drvq.h> against a device of this process, and against a scripted back-end. */
#include "frontend/test-fake.h"
#include "mem/mem.h"
#include "pair.h"
#include "ring/ring.h"

#define BIT(n) VHK_BIT(n)
#define VERSION_1 BIT(32)
#define DEVICE_QUEUE_SIZE 64u           /* smaller than the default of the driver */

static void device_run(void *dev, struct vhk_queue *q) {
        struct vhk_req *r;

        while (vhk_queue_pop(q, &r, 1) == 1)
                vhk_queue_push(q, r, 0);
        vhk_queue_flush(q);
}

static const struct vhk_device_ops ops = {
        .size = sizeof(ops), .virtio_id = 4, .n_queues = 2, .queue_size_max = DEVICE_QUEUE_SIZE, .threads = VHK_THREADS_SINGLE, .queue_run = device_run,
};

static struct pair ends;
static struct vhk_memory *m;

static void begin(uint64_t protocol_no_offer) {
        CHECK_MSG(pair_open(&ends, &(struct pair_options){ .ops = &ops, .back.protocol_no_offer = protocol_no_offer }) == 0, "%s", ends.error.text);
        CHECK_OK(vhk_frontend_set_features(ends.f, VERSION_1));
        CHECK_OK(vhk_memory_new(&m));
}

static void end(void) {
        pair_close(&ends);
        m = vhk_memory_free(m);
}

static void check_error(int code, const char *word) {
        const struct vhk_error *e = vhk_frontend_get_error(ends.f);

        CHECK_EQ(e->code, code);
        CHECK_MSG(strstr(e->text, word), "\"%s\" does not say \"%s\"", e->text, word);
}

static void await(struct vhk_drvq *q) {
        struct vhk_done done;
        int k = 0;

        for (int i = 0; i < 20000 && (k = vhk_drvq_reap(q, &done, 1)) == 0; i++)
                usleep(1000);
        CHECK_EQ(k, 1);
}

TEST(the_default_size_is_one_that_the_device_takes) {
        struct vhk_drvq_options large = { .size = sizeof(large), .num = 2048 };
        struct vhk_drvq *q;

        begin(0);
        CHECK_OK(vhk_drvq_new(ends.f, m, 0, NULL, &q));
        CHECK(vhk_drvq_get_size(q) <= 128);
        struct iovec v = { NULL, 64 };
        CHECK_OK(vhk_memory_alloc(m, 4096, &v.iov_base));
        CHECK_OK(vhk_frontend_set_memory(ends.f, m));
        CHECK_OK(vhk_drvq_add(q, &v, 0, 1, &v));
        CHECK_OK(vhk_drvq_kick(q));
        await(q);
        q = vhk_drvq_free(q);
        CHECK_EQ(vhk_drvq_new(ends.f, m, 0, &large, &q), -EREMOTEIO);   /* a wish is a wish */
        end();
}

TEST(a_buffer_that_was_not_shared_is_refused) {
        struct iovec v = { NULL, 64 };
        struct vhk_drvq *q;

        begin(0);
        CHECK_OK(vhk_drvq_new(ends.f, m, 0, NULL, &q));
        CHECK_OK(vhk_memory_alloc(m, 4096, &v.iov_base));
        CHECK_EQ(vhk_drvq_add(q, &v, 0, 1, &v), -EFAULT);
        check_error(-EFAULT, "set_memory");
        CHECK_OK(vhk_frontend_set_memory(ends.f, m));
        CHECK_OK(vhk_drvq_add(q, &v, 0, 1, &v));
        CHECK_OK(vhk_drvq_kick(q));
        await(q);
        CHECK_EQ(vhk_drvq_add(q, &(struct iovec){ &v, sizeof(v) }, 0, 1, &v), -EFAULT);        /* not of the table at all */
        vhk_drvq_free(q);
        end();
}

TEST(a_ring_needs_negotiated_features) {
        struct vhk_drvq *q;

        CHECK_OK(pair_open(&ends, &(struct pair_options){ .ops = &ops }));
        CHECK_OK(vhk_memory_new(&m));
        CHECK_EQ(vhk_drvq_new(ends.f, m, 0, NULL, &q), -EINVAL);
        check_error(-EINVAL, "vhk_frontend_set_features()");
        CHECK_EQ(vhk_memory_n_regions(m), 0);
        CHECK_OK(vhk_frontend_set_features(ends.f, VERSION_1));
        CHECK_OK(vhk_drvq_new(ends.f, m, 0, NULL, &q));
        vhk_drvq_free(q);
        end();
}

TEST(rings_that_are_not_split_are_refused) {
        static const struct { uint64_t bit; const char *name; } rows[] = { { BIT(34), "RING_PACKED" }, { BIT(35), "IN_ORDER" }, { BIT(38), "NOTIFICATION_DATA" } };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 10000000000 };
                static struct fake fake;
                struct vhk_drvq *q;
                struct vhk_error e;
                int s[2];

                fake_init(&fake);
                fake.state.features_offered |= VERSION_1 | rows[i].bit;
                CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
                fake_start(&fake, s[1]);
                o.fd = s[0];
                CHECK_MSG(vhk_frontend_open(NULL, &o, &ends.f, &e) == 0, "%s", e.text);
                CHECK_OK(vhk_frontend_set_features(ends.f, VERSION_1 | rows[i].bit));
                CHECK_OK(vhk_memory_new(&m));
                CHECK_EQ(vhk_drvq_new(ends.f, m, 0, NULL, &q), -EOPNOTSUPP);
                check_error(-EOPNOTSUPP, rows[i].name);
                ends.f = vhk_frontend_close(ends.f);
                m = vhk_memory_free(m);
                fake_stop(&fake);
        }
}

TEST(without_a_wish_smaller_rings_are_tried) {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 10000000000 };
        static struct fake fake;
        struct vhk_drvq *q;
        struct vhk_error e;
        int s[2];

        fake_init(&fake);
        fake.state.features_offered |= VERSION_1;
        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        fake_start(&fake, s[1]);
        o.fd = s[0];
        CHECK_MSG(vhk_frontend_open(NULL, &o, &ends.f, &e) == 0, "%s", e.text);
        CHECK_OK(vhk_frontend_set_features(ends.f, VERSION_1));
        CHECK_OK(vhk_memory_new(&m));
        fake.mischief = REFUSES;
        fake.at = VHK_FE_SET_VRING_NUM;
        CHECK_EQ(vhk_drvq_new(ends.f, m, 0, NULL, &q), -EREMOTEIO);
        ends.f = vhk_frontend_close(ends.f);
        m = vhk_memory_free(m);
        fake_stop(&fake);
        CHECK_EQ(fake.count[VHK_FE_SET_VRING_NUM], 7);          /* 128 to 2 */
}

TEST(a_freed_ring_gives_its_memory_to_the_next) {
        begin(BIT(15));                 /* no memory slots: eight regions */
        for (unsigned i = 0; i < 100; i++) {
                struct vhk_drvq *q[2];
                struct iovec v = { NULL, 64 };
                for (unsigned j = 0; j < 2; j++)
                        CHECK_OK(vhk_drvq_new(ends.f, m, j, NULL, &q[j]));
                if (i == 0) {
                        CHECK_OK(vhk_memory_alloc(m, 4096, &v.iov_base));
                        CHECK_OK(vhk_frontend_set_memory(ends.f, m));
                        CHECK_OK(vhk_drvq_add(q[1], &v, 1, 0, &v));
                        CHECK_OK(vhk_drvq_kick(q[1]));
                        await(q[1]);
                }
                CHECK_EQ(vhk_drvq_n_in_flight(q[1]), 0);
                for (unsigned j = 0; j < 2; j++)
                        vhk_drvq_free(q[j]);
                CHECK_EQ(vhk_memory_n_regions(m), 3);
        }
        end();
}

static struct vhk_used *used_of(const struct vhk_drvq *q) {
        const struct vhk_ring_setup *s = vhk_drvq_get_setup(q);
        struct vhk_region r = { .size = sizeof(r) };

        for (unsigned i = 0; vhk_memory_get_region(m, i, &r) == 0; i++)
                if (s->device - r.gpa.v < r.len)
                        return (void *)((uint8_t *)r.va + (s->device - r.gpa.v));
        return NULL;
}

static void check_over(struct vhk_drvq *q, const struct iovec *v, const char *word) {
        struct vhk_done done;

        CHECK_EQ(vhk_drvq_reap(q, &done, 1), -EPIPE);
        check_error(-EPIPE, word);
        CHECK_EQ(vhk_drvq_add(q, v, 0, 1, NULL), -EPIPE);
        check_error(-EPIPE, word);
        CHECK_EQ(vhk_drvq_kick(q), -EPIPE);
        check_error(-EPIPE, word);
}

TEST(every_call_on_a_broken_ring_says_why) {
        struct iovec v = { NULL, 64 };
        struct vhk_drvq *q;

        begin(0);
        CHECK_OK(vhk_memory_alloc(m, 4096, &v.iov_base));
        CHECK_OK(vhk_drvq_new(ends.f, m, 1, NULL, &q));
        vhk_store_relaxed(&used_of(q)->idx.v, vhk_le16_of(7).v);        /* nothing was in flight */
        check_over(q, &v, "queue 1: the device broke the rules");
        CHECK_EQ(vhk_frontend_dispatch(ends.f), 0);                     /* the connection lives */
        vhk_drvq_free(q);
        end();
}

TEST(every_call_after_the_end_of_the_connection_says_why) {
        struct iovec v = { NULL, 64 };
        struct vhk_drvq *q;
        struct vhk_done done;
        int k = 0;

        begin(0);
        CHECK_OK(vhk_memory_alloc(m, 4096, &v.iov_base));
        CHECK_OK(vhk_drvq_new(ends.f, m, 0, NULL, &q));
        CHECK_OK(vhk_drvq_add(q, &v, 0, 1, &v));
        CHECK_OK(vhk_drvq_kick(q));
        CHECK_OK(vhk_backend_stop(ends.b, VHK_STOP_DRAIN, 0));
        for (int i = 0; i < 20000 && (k = vhk_frontend_dispatch(ends.f)) >= 0; i++)
                usleep(1000);
        CHECK_EQ(k, -EPIPE);
        if ((k = vhk_drvq_reap(q, &done, 1)) == 1)      /* what it had done comes first */
                CHECK(done.cookie == &v);
        check_over(q, &v, "closed the connection");
        vhk_drvq_free(q);
        end();
}
