/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A latency histogram of fixed size: every uint64_t has a bucket, values below 256 one of their own, above that 128
 * buckets per power of two, so a bucket is never wider than 1/128 of its values. One writer; hist_add() is a count of
 * leading zeroes, a shift and three additions.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define HIST_BITS 7
#define HIST_N_BUCKETS ((64 - HIST_BITS + 1) << HIST_BITS)

struct hist {
        uint64_t n, sum, min, max;
        double sum_squares;             /* kept by hist_add_slow() alone */
        uint64_t buckets[HIST_N_BUCKETS];
};

static inline unsigned hist_index(uint64_t v) {
        unsigned shift = 63 - HIST_BITS - (unsigned)__builtin_clzll(v | (UINT64_C(1) << HIST_BITS));

        return (shift << HIST_BITS) + (unsigned)(v >> shift);
}

static inline void hist_add(struct hist *h, uint64_t v) {
        h->buckets[hist_index(v)]++;
        h->n++;
        h->sum += v;
        h->min = v < h->min ? v : h->min;
        h->max = v > h->max ? v : h->max;
}

/** hist_init() - empty; a histogram that is only zeroed has a wrong minimum */
void hist_init(struct hist *h);
/** hist_add_slow() - hist_add(), and what hist_mdev() needs */
void hist_add_slow(struct hist *h, uint64_t v);
void hist_merge(struct hist *h, const struct hist *from);

/** hist_bucket_low() - smallest value of a bucket; hist_bucket_high(): the largest */
uint64_t hist_bucket_low(unsigned i);
uint64_t hist_bucket_high(unsigned i);

/** hist_percentile() - smallest bucket end that @percent of the values do not exceed (never above the largest value); 0 when empty */
uint64_t hist_percentile(const struct hist *h, double percent);
uint64_t hist_mean(const struct hist *h);
/** hist_mdev() - standard deviation, as ping(8) calls it */
uint64_t hist_mdev(const struct hist *h);

/** hist_format_ns() - "870 ns", "12.3 us", "4.56 ms"; three digits, returns @buf */
const char *hist_format_ns(char *buf, size_t n, uint64_t ns);

/** hist_draw() - one bar per range of a 1-2-5 scale (or a finer one where it fits in 16 lines), at most @width
 * columns of bar; what lies far behind the 99.9th percentile shares the last line */
void hist_draw(const struct hist *h, FILE *f, bool utf8, unsigned width);
