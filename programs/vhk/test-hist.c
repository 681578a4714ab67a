/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "base/test.h"

#include <stdint.h>

#include "hist.h"

static struct hist h;

TEST(every_value_lies_in_its_bucket) {
        for (unsigned bit = 0; bit < 64; bit++) {
                for (int d = -1; d <= 1; d++) {
                        uint64_t v = (UINT64_C(1) << bit) + (uint64_t)d;
                        unsigned i = hist_index(v);
                        CHECK_MSG(i < HIST_N_BUCKETS, "bucket %u of %llx", i, (unsigned long long)v);
                        CHECK_MSG(hist_bucket_low(i) <= v && v <= hist_bucket_high(i), "%llx not in bucket %u", (unsigned long long)v, i);
                }
        }
        CHECK_EQ(hist_index(UINT64_MAX), HIST_N_BUCKETS - 1);
        CHECK(hist_bucket_high(HIST_N_BUCKETS - 1) == UINT64_MAX);
}

TEST(buckets_are_adjacent_and_narrow) {
        for (unsigned i = 0; i + 1 < HIST_N_BUCKETS; i++) {
                CHECK_MSG(hist_bucket_high(i) + 1 == hist_bucket_low(i + 1), "gap behind bucket %u", i);
                CHECK_MSG(hist_bucket_high(i) - hist_bucket_low(i) <= hist_bucket_low(i) / 128, "bucket %u is too wide", i);
        }
}

TEST(percentiles_of_a_ramp) {
        hist_init(&h);
        for (unsigned v = 1; v <= 200; v++)             /* buckets of one value: exact */
                hist_add(&h, v);
        CHECK_EQ(hist_percentile(&h, 50), 100);
        CHECK_EQ(hist_percentile(&h, 99), 198);
        CHECK_EQ(hist_percentile(&h, 100), 200);
        CHECK_EQ(hist_percentile(&h, 0), 1);
        CHECK_EQ(h.min, 1);
        CHECK_EQ(h.max, 200);
        CHECK_EQ(hist_mean(&h), 100);
}

TEST(percentiles_of_large_values_are_within_one_percent) {
        hist_init(&h);
        for (uint64_t v = 1; v <= 10000; v++)
                hist_add(&h, v * 1000);
        uint64_t p = hist_percentile(&h, 99.9);
        CHECK_MSG(p >= 9990000 && p <= 9990000 + 99900, "%llu", (unsigned long long)p);
        CHECK_EQ(hist_percentile(&h, 100), 10000000);   /* the largest value itself, not the end of its bucket */
}

TEST(empty) {
        hist_init(&h);
        CHECK_EQ(hist_percentile(&h, 99), 0);
        CHECK_EQ(hist_mean(&h), 0);
        CHECK_EQ(hist_mdev(&h), 0);
}

TEST(mdev) {
        hist_init(&h);
        for (int i = 0; i < 50; i++) {
                hist_add_slow(&h, 1000);
                hist_add_slow(&h, 3000);
        }
        CHECK_EQ(hist_mdev(&h), 1000);
        hist_init(&h);
        hist_add_slow(&h, 7);
        CHECK_EQ(hist_mdev(&h), 0);
}

TEST(merge) {
        static struct hist a, b;

        hist_init(&a);
        hist_init(&b);
        hist_init(&h);
        hist_add_slow(&a, 5);
        hist_add_slow(&b, 70000);
        hist_add_slow(&b, 3);
        hist_merge(&h, &a);
        hist_merge(&h, &b);
        CHECK_EQ(h.n, 3);
        CHECK_EQ(h.min, 3);
        CHECK_EQ(h.max, 70000);
        CHECK_EQ(h.sum, 70008);
        CHECK_EQ(hist_percentile(&h, 60), 5);
}

TEST(format) {
        char b[24];

        CHECK_STR(hist_format_ns(b, sizeof(b), 0), "0 ns");
        CHECK_STR(hist_format_ns(b, sizeof(b), 999), "999 ns");
        CHECK_STR(hist_format_ns(b, sizeof(b), 1000), "1.00 us");
        CHECK_STR(hist_format_ns(b, sizeof(b), 12345), "12.3 us");
        CHECK_STR(hist_format_ns(b, sizeof(b), 999400), "999 us");
        CHECK_STR(hist_format_ns(b, sizeof(b), 999999), "1.00 ms");
        CHECK_STR(hist_format_ns(b, sizeof(b), 61000000000), "61.0 s");
}

/* Draws @h into @buf; returns the number of lines. */
static unsigned draw(char *buf, size_t n, bool utf8) {
        FILE *f = fmemopen(buf, n, "w");
        unsigned lines = 0;

        CHECK(f);
        hist_draw(&h, f, utf8, 40);
        fclose(f);
        for (const char *p = buf; *p; p++)
                lines += *p == '\n';
        return lines;
}

TEST(drawing_counts_every_request_once) {
        static char text[16384];

        hist_init(&h);
        for (uint64_t v = 1; v < UINT64_C(1) << 40; v = v * 5 / 4 + 1)
                hist_add(&h, v);
        unsigned lines = draw(text, sizeof(text), false), total = 0;
        CHECK_MSG(lines > 3 && lines < 40, "%u lines", lines);
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
                total += (unsigned)strtoul(strrchr(line, ' '), NULL, 10);
        CHECK_EQ(total, h.n);
}

TEST(drawing_shows_the_rare) {
        static char text[16384];

        hist_init(&h);
        for (int i = 0; i < 1000000; i++)
                hist_add(&h, 1500);
        hist_add(&h, 2600);
        CHECK_EQ(draw(text, sizeof(text), false), 2);           /* 1.25 to 1.60 us, and more */
        CHECK(strstr(text, "1.60 us and more"));
        CHECK(strstr(text, "########################################"));
        CHECK(strstr(text, " # "));
        draw(text, sizeof(text), true);
        CHECK(strstr(text, "█") && strstr(text, "▏") && !strchr(text, '#'));
}

TEST(drawing_of_extremes_ends) {
        static char text[65536];

        hist_init(&h);
        CHECK_EQ(draw(text, sizeof(text), true), 0);
        hist_add(&h, 0);
        hist_add(&h, UINT64_MAX);
        CHECK(draw(text, sizeof(text), true) > 2);
        hist_init(&h);
        hist_add(&h, UINT64_MAX);
        CHECK_EQ(draw(text, sizeof(text), true), 1);
}
