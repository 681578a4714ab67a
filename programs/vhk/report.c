/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "report.h"

#include <string.h>

#include "json.h"
#include "tool.h"

static const struct percentile {
        double percent;
        const char *label, *key;
} percentiles[] = {
        { 50, "p50", "p50" }, { 90, "p90", "p90" }, { 99, "p99", "p99" }, { 99.9, "p99.9", "p99_9" }, { 99.99, "p99.99", "p99_99" },
};

const char *report_pattern(const struct load_job *job) {
        return job->random ? job->write ? "randwrite" : "randread" : job->write ? "write" : "read";
}

const char *report_format_rate(char *buf, size_t n, double rate) {
        static const char *const units[] = { "", " K", " M", " G" };
        unsigned u = 0;

        for (; rate >= 999.5 && u < 3; u++)
                rate /= 1000;
        snprintf(buf, n, "%.*f%s", u == 0 || rate >= 99.95 ? 0 : rate >= 9.995 ? 1 : 2, rate, units[u]);
        return buf;
}

static double per_second(const struct load_result *r, double n) {
        return r->ns ? n * 1e9 / (double)r->ns : 0;
}

static double per_request(const struct load_result *r, uint64_t ns) {
        return r->n ? (double)ns / (double)r->n : 0;
}

static void print_cpu(const char *whose, const struct load_result *r, uint64_t ns, FILE *f) {
        fprintf(f, "%-9s %.3f s, %.0f ns per request\n", whose, (double)ns / 1e9, per_request(r, ns));
}

void report_print(const struct load_job *job, const struct load_result *r, FILE *f) {
        const struct hist *h = &r->latency;
        char rate[24], t[24];

        fprintf(f, "IOPS      %s  (%llu requests in %.3f s)\n", report_format_rate(rate, sizeof(rate), per_second(r, (double)r->n)),
                (unsigned long long)r->n, (double)r->ns / 1e9);
        fprintf(f, "MB/s      %.1f\n", per_second(r, (double)r->bytes) / 1e6);
        fprintf(f, "bursts    %.1f answers at once on average\n", r->n_bursts ? (double)r->n / (double)r->n_bursts : 0);
        print_cpu("client", r, r->client_cpu_ns, f);
        if (r->server_cpu_ns != UINT64_MAX)
                print_cpu("server", r, r->server_cpu_ns, f);
        if (!h->n)
                return;
        fprintf(f, "latency   min %s", hist_format_ns(t, sizeof(t), h->min));
        fprintf(f, "  avg %s", hist_format_ns(t, sizeof(t), hist_mean(h)));
        for (size_t i = 0; i < TOOL_N(percentiles); i++)
                fprintf(f, "  %s %s", percentiles[i].label, hist_format_ns(t, sizeof(t), hist_percentile(h, percentiles[i].percent)));
        fprintf(f, "  max %s\n", hist_format_ns(t, sizeof(t), h->max));
        hist_draw(h, f, tool_is_utf8(), 40);
}

static void json_latency(struct json *j, const struct hist *h) {
        json_object(j, "latency_ns");
        json_uint(j, "min", h->n ? h->min : 0);
        json_uint(j, "mean", hist_mean(h));
        for (size_t i = 0; i < TOOL_N(percentiles); i++)
                json_uint(j, percentiles[i].key, hist_percentile(h, percentiles[i].percent));
        json_uint(j, "max", h->max);
        json_end_object(j);
        json_array(j, "histogram");
        for (unsigned i = 0; i < HIST_N_BUCKETS; i++) {
                if (!h->buckets[i])
                        continue;
                json_object(j, NULL);
                json_uint(j, "from_ns", hist_bucket_low(i));
                json_uint(j, "to_ns", hist_bucket_high(i));
                json_uint(j, "count", h->buckets[i]);
                json_end_object(j);
        }
        json_end_array(j);
}

static void json_cpu(struct json *j, const char *whose, const struct load_result *r, uint64_t ns) {
        json_object(j, whose);
        json_double(j, "cpu_seconds", (double)ns / 1e9);
        json_double(j, "cpu_ns_per_request", per_request(r, ns));
        json_end_object(j);
}

void report_print_json(const char *endpoint, bool polling, const struct load_job *job, const struct load_result *r, FILE *f) {
        struct json j;

        json_init(&j, f);
        json_object(&j, NULL);
        json_string(&j, "endpoint", endpoint);
        json_string(&j, "rw", report_pattern(job));
        json_uint(&j, "block_size", job->block_size);
        json_uint(&j, "depth", job->depth);
        json_uint(&j, "queues", job->n_queues);
        json_string(&j, "mode", polling ? "poll" : "event");
        json_double(&j, "seconds", (double)r->ns / 1e9);
        json_uint(&j, "requests", r->n);
        json_uint(&j, "bursts", r->n_bursts);
        json_double(&j, "iops", per_second(r, (double)r->n));
        json_double(&j, "mb_per_s", per_second(r, (double)r->bytes) / 1e6);
        json_cpu(&j, "client", r, r->client_cpu_ns);
        if (r->server_cpu_ns != UINT64_MAX)
                json_cpu(&j, "server", r, r->server_cpu_ns);
        else
                json_null(&j, "server");
        json_latency(&j, &r->latency);
        json_string(&j, "error", r->error ? strerror(-r->error) : NULL);
        json_end_object(&j);
}
