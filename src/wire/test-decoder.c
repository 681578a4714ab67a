/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The decoder under every way in which a stream can be cut. The harness finds a descriptor that was not closed. */
#include "base/test.h"

#include <fcntl.h>

#include "wire/sample.h"
#include "wire/wire.h"

static int some_fd(void) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        CHECK(fd >= 0);
        return fd;
}

static void some_fds(int *fds, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                fds[i] = some_fd();
}

static bool is_open(int fd) {
        return fcntl(fd, F_GETFD) >= 0;
}

/* A message on the wire. */
struct bytes {
        uint8_t b[VHK_HDR_SIZE + 4096];
        size_t n;
};

static void put(struct bytes *to, uint32_t request, uint32_t size, uint8_t first) {
        struct vhk_hdr h = { request, VHK_HDR_VERSION, size };

        memcpy(to->b, &h, sizeof(h));
        for (uint32_t i = 0; i < size; i++)
                to->b[sizeof(h) + i] = (uint8_t)(first + i);
        to->n = sizeof(h) + size;
}

/* Feeds @n bytes, at most @step at a time and never more than wanted; @fds with the first. Number of times the header was reported. */
static unsigned feed(struct vhk_decoder *d, const uint8_t *bytes, size_t n, size_t step, const int *fds, unsigned n_fds) {
        unsigned headers = 0;

        while (n) {
                size_t k = VHK_MIN(step, n);
                k = VHK_MIN(k, vhk_decoder_want(d));
                CHECK(k > 0);
                memcpy(vhk_decoder_space(d), bytes, k);
                headers += (unsigned)vhk_decoder_fed(d, k, fds, n_fds);
                n_fds = 0;
                bytes += k;
                n -= k;
        }
        return headers;
}

static void check_message(const struct vhk_decoder *d, uint32_t request, uint32_t size, uint8_t first) {
        struct vhk_hdr h = vhk_decoder_header(d);

        CHECK(vhk_decoder_complete(d));
        CHECK_EQ(vhk_decoder_want(d), 0);
        CHECK_EQ(h.request, request);
        CHECK_EQ(h.size, size);
        for (uint32_t i = 0; i < size; i++)
                CHECK_EQ(d->payload[i], (uint8_t)(first + i));
        for (uint32_t i = size; i < VHK_MAX_PAYLOAD; i++)
                CHECK_EQ(d->payload[i], 0);
}

TEST(one_byte_at_a_time) {
        static struct bytes m;
        struct vhk_decoder d;

        CHECK_OK(vhk_decoder_init(&d));
        put(&m, 9, 40, 1);
        for (size_t i = 0; i < m.n; i++) {
                CHECK(!vhk_decoder_complete(&d));
                CHECK_EQ(feed(&d, m.b + i, 1, 1, NULL, 0), i == VHK_HDR_SIZE - 1);
        }
        check_message(&d, 9, 40, 1);
        vhk_decoder_done(&d);
}

TEST(a_header_is_reported_once) {
        struct vhk_hdr h = { VHK_FE_SET_VRING_NUM, VHK_HDR_VERSION, 8 };
        struct vhk_decoder d;

        CHECK_OK(vhk_decoder_init(&d));
        CHECK_EQ(feed(&d, (const uint8_t *)&h, sizeof(h), SIZE_MAX, NULL, 0), 1);
        CHECK_EQ(vhk_decoder_fed(&d, 0, NULL, 0), 0);
        vhk_decoder_done(&d);
}

TEST(every_pair_of_cuts) {
        static struct bytes m;
        struct vhk_decoder d;

        CHECK_OK(vhk_decoder_init(&d));
        put(&m, 9, 40, 7);
        for (size_t a = 0; a <= m.n; a++)
                for (size_t b = a; b <= m.n; b++) {
                        unsigned headers = feed(&d, m.b, a, SIZE_MAX, NULL, 0);
                        headers += feed(&d, m.b + a, b - a, SIZE_MAX, NULL, 0);
                        headers += feed(&d, m.b + b, m.n - b, SIZE_MAX, NULL, 0);
                        CHECK_EQ(headers, 1);
                        check_message(&d, 9, 40, 7);
                        vhk_decoder_next(&d);
                }
        vhk_decoder_done(&d);
}

TEST(back_to_back_and_each_size) {
        static struct bytes m;
        struct vhk_decoder d;
        static const uint32_t sizes[] = { 8, 0, 2056, 0, 1, 40, 2056, 12, 2055, 0 };

        CHECK_OK(vhk_decoder_init(&d));
        for (size_t step = 1; step < 3000; step = step * 3 + 1)
                for (unsigned i = 0; i < VHK_N(sizes); i++) {
                        put(&m, 100 + i, sizes[i], (uint8_t)(i * 17 + 1));
                        CHECK_EQ(feed(&d, m.b, m.n, step, NULL, 0), 1);
                        check_message(&d, 100 + i, sizes[i], (uint8_t)(i * 17 + 1));
                        vhk_decoder_next(&d);
                        CHECK_EQ(vhk_decoder_want(&d), VHK_HDR_SIZE);
                }
        vhk_decoder_done(&d);
}

TEST(a_message_never_reads_into_the_next) {
        static struct bytes m;
        struct vhk_decoder d;

        CHECK_OK(vhk_decoder_init(&d));
        put(&m, 5, 100, 0);
        size_t fed = 0;
        while (!vhk_decoder_complete(&d)) {
                size_t want = vhk_decoder_want(&d);
                CHECK(want > 0 && want <= m.n - fed);
                feed(&d, m.b + fed, want, SIZE_MAX, NULL, 0);
                fed += want;
        }
        CHECK_EQ(fed, m.n);
        vhk_decoder_done(&d);
}

TEST(an_oversize_header_is_reported_and_never_completes) {
        static const uint32_t sizes[] = { VHK_MAX_PAYLOAD + 1, 4096, 0x7fffffff, 0x80000000, 0xfffffff4, 0xffffffff };
        struct vhk_wire_state s = { .n_queues = 1 };
        struct vhk_decoder d;

        for (unsigned i = 0; i < VHK_N(sizes); i++) {
                struct vhk_hdr h = { VHK_FE_SET_OWNER, VHK_HDR_VERSION, sizes[i] };

                CHECK_OK(vhk_decoder_init(&d));
                CHECK_EQ(feed(&d, (const uint8_t *)&h, sizeof(h), SIZE_MAX, NULL, 0), 1);
                h = vhk_decoder_header(&d);
                CHECK_EQ(vhk_wire_check_header(&s, VHK_FROM_FRONTEND, &h), VHK_RULE_OVERSIZE);
                CHECK_EQ(vhk_decoder_want(&d), 0);
                CHECK(!vhk_decoder_complete(&d));
                vhk_decoder_done(&d);
        }
}

TEST(descriptors_come_with_the_first_byte) {
        static struct bytes m;
        struct vhk_decoder d;
        int fds[VHK_MAX_FDS];

        CHECK_OK(vhk_decoder_init(&d));
        put(&m, 5, 264, 0);
        for (size_t first = 1; first <= VHK_HDR_SIZE; first++) {
                some_fds(fds, VHK_MAX_FDS);
                feed(&d, m.b, first, SIZE_MAX, fds, VHK_MAX_FDS);
                feed(&d, m.b + first, m.n - first, SIZE_MAX, NULL, 0);
                CHECK(vhk_decoder_complete(&d) && !d.surplus_fds);
                CHECK_EQ(vhk_decoder_n_fds(&d), VHK_MAX_FDS);
                int taken = VHK_STEAL_FD(d.fds[3]);
                CHECK_EQ(taken, fds[3]);
                vhk_decoder_next(&d);
                for (unsigned i = 0; i < VHK_MAX_FDS; i++)
                        CHECK_EQ(is_open(fds[i]), i == 3);
                vhk_close(&taken);
                CHECK_EQ(vhk_decoder_n_fds(&d), 0);
        }
        vhk_decoder_done(&d);
}

TEST(descriptors_elsewhere_are_surplus) {
        static struct bytes m;
        struct vhk_decoder d;
        int fd;

        CHECK_OK(vhk_decoder_init(&d));
        put(&m, 12, 8, 0);
        for (size_t at = 1; at < m.n; at++) {
                fd = some_fd();
                feed(&d, m.b, at, SIZE_MAX, NULL, 0);
                feed(&d, m.b + at, m.n - at, SIZE_MAX, &fd, 1);
                CHECK(d.surplus_fds && !is_open(fd));
                CHECK(vhk_decoder_n_fds(&d) > VHK_MAX_FDS);
                vhk_decoder_next(&d);
                CHECK(!d.surplus_fds);
        }
        fd = some_fd();                 /* with no byte at all */
        CHECK_EQ(vhk_decoder_fed(&d, 0, &fd, 1), 0);
        CHECK(d.surplus_fds && !is_open(fd));
        vhk_decoder_done(&d);
}

TEST(more_descriptors_than_any_message_has) {
        static struct bytes m;
        static struct vhk_sample s;
        struct vhk_decoder d;
        int fds[253];

        CHECK_OK(vhk_decoder_init(&d));
        put(&m, 5, 264, 0);
        some_fds(fds, 253);
        feed(&d, m.b, m.n, SIZE_MAX, fds, 253);
        CHECK(d.surplus_fds);
        for (unsigned i = 0; i < 253; i++)
                CHECK_EQ(is_open(fds[i]), i < VHK_MAX_FDS);
        /* No row is content with that. */
        for (unsigned i = 0; i < vhk_n_rows; i++)
                for (unsigned v = 0; v < vhk_n_variants; v++)
                        if (vhk_sample_make(&s, &vhk_rows[i], &vhk_variants[v], vhk_variants[v].max)) {
                                const struct vhk_row *row;
                                CHECK_EQ(vhk_wire_check(&s.state, vhk_rows[i].dir, &s.hdr, s.u.bytes, vhk_decoder_n_fds(&d), &row), VHK_RULE_FDS_EXTRA);
                        }
        vhk_decoder_done(&d);
        for (unsigned i = 0; i < 253; i++)
                CHECK(!is_open(fds[i]));
}

TEST(leaving_at_any_point_closes_everything) {
        static struct bytes m;
        struct vhk_decoder d;
        int fds[3];

        put(&m, 5, 104, 0);
        for (size_t at = 1; at <= m.n; at++) {
                CHECK_OK(vhk_decoder_init(&d));
                some_fds(fds, 3);
                feed(&d, m.b, at, SIZE_MAX, fds, 3);
                vhk_decoder_done(&d);
                for (unsigned i = 0; i < 3; i++)
                        CHECK(!is_open(fds[i]));
                vhk_decoder_done(&d);           /* twice is harmless */
        }
}
