/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "hist.h"

#include <string.h>

#define N_ROWS_FINE 16

void hist_init(struct hist *h) {
        memset(h, 0, sizeof(*h));
        h->min = UINT64_MAX;
}

void hist_add_slow(struct hist *h, uint64_t v) {
        hist_add(h, v);
        h->sum_squares += (double)v * (double)v;
}

void hist_merge(struct hist *h, const struct hist *from) {
        h->n += from->n;
        h->sum += from->sum;
        h->sum_squares += from->sum_squares;
        h->min = from->min < h->min ? from->min : h->min;
        h->max = from->max > h->max ? from->max : h->max;
        for (unsigned i = 0; i < HIST_N_BUCKETS; i++)
                h->buckets[i] += from->buckets[i];
}

uint64_t hist_bucket_low(unsigned i) {
        unsigned shift = i >> HIST_BITS ? (i >> HIST_BITS) - 1 : 0;

        return (uint64_t)(i - (shift << HIST_BITS)) << shift;
}

uint64_t hist_bucket_high(unsigned i) {
        unsigned shift = i >> HIST_BITS ? (i >> HIST_BITS) - 1 : 0;

        return hist_bucket_low(i) + ((UINT64_C(1) << shift) - 1);
}

uint64_t hist_percentile(const struct hist *h, double percent) {
        double want = (double)h->n * percent / 100.0;
        uint64_t seen = 0;

        for (unsigned i = 0; i < HIST_N_BUCKETS; i++) {
                seen += h->buckets[i];
                if (seen && (double)seen >= want)
                        return hist_bucket_high(i) < h->max ? hist_bucket_high(i) : h->max;
        }
        return h->max;
}

uint64_t hist_mean(const struct hist *h) {
        return h->n ? h->sum / h->n : 0;
}

/* No libm for one root: Newton's steps from above come down until they stand still. */
static double root(double x) {
        double r = x > 1 ? x : 1;

        for (int i = 0; i < 200; i++) {
                double next = (r + x / r) / 2;
                if (next >= r)
                        break;
                r = next;
        }
        return r;
}

uint64_t hist_mdev(const struct hist *h) {
        if (!h->n)
                return 0;
        double mean = (double)h->sum / (double)h->n, variance = h->sum_squares / (double)h->n - mean * mean;

        return variance > 0 ? (uint64_t)root(variance) : 0;
}

const char *hist_format_ns(char *buf, size_t n, uint64_t ns) {
        static const char *const units[] = { "ns", "us", "ms", "s" };
        double v = (double)ns;
        unsigned u = 0;

        for (; v >= 999.5 && u < 3; u++)
                v /= 1000;
        snprintf(buf, n, "%.*f %s", u == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2, v, units[u]);
        return buf;
}

/* ---- drawing ---- */

struct scale {
        const uint16_t *steps;          /* of one decade, in thousandths of it */
        unsigned n;
};
static const struct scale scales[] = {
        { (const uint16_t[]){ 100, 125, 160, 200, 250, 320, 400, 500, 640, 800 }, 10 },
        { (const uint16_t[]){ 100, 200, 500 }, 3 },
};

/* The @i-th boundary of a scale, from 10 ns up; below lies everything. */
static uint64_t boundary(const struct scale *s, unsigned i) {
        uint64_t decade = 1;

        if (!i)
                return 0;
        for (i--; i >= s->n; i -= s->n) {
                if (decade > UINT64_MAX / 10000)
                        return UINT64_MAX;
                decade *= 10;
        }
        return decade * s->steps[i] / 10;
}

static unsigned row_of(const struct scale *s, uint64_t v) {
        unsigned i = 0;

        while (boundary(s, i + 1) <= v && boundary(s, i + 1) != UINT64_MAX)
                i++;
        return i;
}

static uint64_t count_between(const struct hist *h, uint64_t low, uint64_t high) {
        uint64_t n = 0;

        for (unsigned i = 0; i < HIST_N_BUCKETS; i++)
                if (h->buckets[i] && hist_bucket_low(i) >= low && hist_bucket_low(i) < high)
                        n += h->buckets[i];
        return n;
}

/* @eighths of a column, in blocks or in '#'; anything there is at all shows. */
static void draw_bar(FILE *f, bool utf8, unsigned eighths, unsigned width) {
        static const char *const parts[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
        unsigned full = utf8 ? eighths / 8 : (eighths + 7) / 8, columns = full + (utf8 && eighths % 8);

        for (unsigned i = 0; i < full; i++)
                fputs(utf8 ? "█" : "#", f);
        if (utf8)
                fputs(parts[eighths % 8], f);
        for (; columns < width; columns++)
                fputc(' ', f);
}

static void draw_row(const struct hist *h, FILE *f, bool utf8, unsigned width, const char *range, uint64_t n, uint64_t most) {
        unsigned eighths = (unsigned)((double)n * width * 8 / (double)most);

        fprintf(f, "  %-19s  ", range);
        draw_bar(f, utf8, n && !eighths ? 1 : eighths, width);
        fprintf(f, " %6.2f%%  %llu\n", 100.0 * (double)n / (double)h->n, (unsigned long long)n);
}

void hist_draw(const struct hist *h, FILE *f, bool utf8, unsigned width) {
        if (!h->n)
                return;
        /* Rows are chosen by bucket starts, as counts are. The last thousandth shares a row, or it would take most of them. */
        uint64_t lowest = hist_bucket_low(hist_index(h->min)), most = 0;
        uint64_t highest = hist_bucket_low(hist_index(hist_percentile(h, 99.9)));
        const struct scale *s = &scales[row_of(&scales[0], highest) - row_of(&scales[0], lowest) >= N_ROWS_FINE];
        unsigned first = row_of(s, lowest), last = row_of(s, highest);
        char range[64], from[24], to[24];

        for (unsigned i = first; i <= last; i++) {
                uint64_t n = count_between(h, boundary(s, i), boundary(s, i + 1));
                most = n > most ? n : most;
        }
        for (unsigned i = first; i <= last; i++) {
                snprintf(range, sizeof(range), "%8s - %8s", hist_format_ns(from, sizeof(from), boundary(s, i)),
                         hist_format_ns(to, sizeof(to), boundary(s, i + 1)));
                draw_row(h, f, utf8, width, range, count_between(h, boundary(s, i), boundary(s, i + 1)), most);
        }
        uint64_t rest = boundary(s, last + 1) == UINT64_MAX ? 0 : count_between(h, boundary(s, last + 1), UINT64_MAX);
        snprintf(range, sizeof(range), "%8s and more", hist_format_ns(from, sizeof(from), boundary(s, last + 1)));
        if (rest)
                draw_row(h, f, utf8, width, range, rest, most);
}
