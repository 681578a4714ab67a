/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk ping: one request at a time. With --write each round saves what is there, writes a pattern, reads it back, compares, and
 * puts back what was there; an interrupt is looked at between rounds only.
 */
#include <errno.h>
#include <string.h>

#include "hist.h"
#include "tool.h"

struct ping_options {
        int help, write, polling;
        uint64_t count, interval_ms, size, offset, timeout_ms;
};

#define ANYWHERE UINT64_MAX

#define ROW(name, type, member, ...) { name, type, offsetof(struct ping_options, member), __VA_ARGS__ }
static const struct vhk_option options[] = {
        ROW("count", VHK_OPTION_UINT, count, "N", "stop after N rounds (until interrupted)", 1),
        ROW("interval-ms", VHK_OPTION_UINT, interval_ms, "MS", "pause between rounds (1000)", 0, 3600000),
        ROW("size", VHK_OPTION_UINT, size, "BYTES", "size of a request (4K, or as the disk's blocks and capacity demand)", 512, 16 << 20),
        ROW("offset", VHK_OPTION_UINT, offset, "BYTES", "always there (anywhere, at random)"),
        ROW("write", VHK_OPTION_FLAG, write, NULL, "write a pattern, read it back, compare, restore what was there"),
        ROW("polling", VHK_OPTION_FLAG, polling, NULL, "wait by watching the ring instead of sleeping"),
        TOOL_OPTION_TIMEOUT(struct ping_options),
        TOOL_OPTION_HELP,
        { 0 },
};

struct ping {
        struct ping_options o;
        const char *endpoint;
        struct vhk_blk *b;
        uint64_t n_places, random;
        uint64_t n_sent, n_ok;
        uint8_t *data, *saved, *pattern;        /* each o.size */
        struct hist reads, writes;
};

static uint64_t next_offset(struct ping *p) {
        if (p->o.offset != ANYWHERE)
                return p->o.offset;
        p->random = p->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        return (p->random >> 20) % p->n_places * p->o.size;
}

static int timed_read(struct ping *p, void *buf, uint64_t off, uint64_t *ret_ns) {
        uint64_t begin = tool_now();
        ssize_t k = vhk_blk_pread(p->b, buf, p->o.size, off);

        *ret_ns = tool_now() - begin;
        return k < 0 ? (int)k : 0;
}

static int timed_write(struct ping *p, const void *buf, uint64_t off, uint64_t *ret_ns) {
        uint64_t begin = tool_now();
        ssize_t k = vhk_blk_pwrite(p->b, buf, p->o.size, off);

        *ret_ns = tool_now() - begin;
        return k < 0 ? (int)k : 0;
}

static enum tool_status read_round(struct ping *p, uint64_t off) {
        uint64_t ns;
        char t[24];
        int k = timed_read(p, p->data, off, &ns);

        if (k < 0)
                return tool_blk_failed(p->b, "read", off, k);
        hist_add_slow(&p->reads, ns);
        printf("%llu bytes from %s: seq=%llu offset=%llu time=%s\n", (unsigned long long)p->o.size, p->endpoint,
               (unsigned long long)p->n_sent, (unsigned long long)off, hist_format_ns(t, sizeof(t), ns));
        return TOOL_OK;
}

/* Once the pattern may be on the disk, the old contents go back whatever happens in between. */
static enum tool_status write_round(struct ping *p, uint64_t off) {
        uint64_t read_ns = 0, write_ns = 0, ns;
        char t[24], u[24];
        int k = timed_read(p, p->saved, off, &ns);

        if (k < 0)
                return tool_blk_failed(p->b, "read", off, k);
        for (uint64_t i = 0; i < p->o.size; i++)
                p->pattern[i] = (uint8_t)(i * 31 + (i >> 8) * 7 + p->n_sent * 13 + 1);
        enum tool_status status = TOOL_OK;
        if ((k = timed_write(p, p->pattern, off, &write_ns)) < 0)
                status = tool_blk_failed(p->b, "write", off, k);
        else if ((k = timed_read(p, p->data, off, &read_ns)) < 0)
                status = tool_blk_failed(p->b, "read back", off, k);
        else if (memcmp(p->data, p->pattern, p->o.size))
                status = tool_fail("offset %llu: what was read is not what was written", (unsigned long long)off);
        if ((k = timed_write(p, p->saved, off, &ns)) < 0) {
                status = tool_blk_failed(p->b, "restore", off, k);
                tool_fail("the %llu bytes at offset %llu may hold the test pattern now", (unsigned long long)p->o.size, (unsigned long long)off);
        }
        if (status != TOOL_OK)
                return status;
        hist_add_slow(&p->writes, write_ns);
        hist_add_slow(&p->reads, read_ns);
        printf("%llu bytes to %s: seq=%llu offset=%llu write=%s read=%s verified, restored\n", (unsigned long long)p->o.size, p->endpoint,
               (unsigned long long)p->n_sent, (unsigned long long)off, hist_format_ns(t, sizeof(t), write_ns), hist_format_ns(u, sizeof(u), read_ns));
        return TOOL_OK;
}

static void print_summary(const char *what, const struct hist *h) {
        static const struct { double percent; const char *label; } rows[] = { { 50, "p50" }, { 90, "p90" }, { 99, "p99" }, { 99.9, "p99.9" } };
        char t[24];

        if (!h->n)
                return;
        printf("%s min/avg/max/mdev = %.3f/%.3f/%.3f/%.3f us", what, (double)h->min / 1e3, (double)hist_mean(h) / 1e3,
               (double)h->max / 1e3, (double)hist_mdev(h) / 1e3);
        for (size_t i = 0; i < TOOL_N(rows); i++)
                printf("%s%s %s", i ? ", " : "; ", rows[i].label, hist_format_ns(t, sizeof(t), hist_percentile(h, rows[i].percent)));
        printf("\n");
}

static enum tool_status rounds(struct ping *p) {
        enum tool_status status = TOOL_OK;
        uint64_t begin = tool_now();

        while (status == TOOL_OK && !tool_interrupted && (!p->o.count || p->n_sent < p->o.count)) {
                if (p->n_sent++)
                        tool_sleep(p->o.interval_ms * TOOL_MS);
                if (tool_interrupted) {
                        p->n_sent--;
                        break;
                }
                uint64_t off = next_offset(p);
                status = p->o.write ? write_round(p, off) : read_round(p, off);
                p->n_ok += status == TOOL_OK;
                fflush(stdout);
        }
        struct vhk_blk_info info = { .size = sizeof(info) };
        if (p->o.write && status == TOOL_OK && vhk_blk_get_info(p->b, &info) >= 0 && info.writeback) {
                int k = vhk_blk_flush(p->b);
                if (k < 0 && k != -EOPNOTSUPP)
                        status = tool_blk_failed(p->b, "flush", 0, k);
        }
        printf("--- %s ---\n%llu rounds, %llu ok, %llu failed, %.0f ms\n", p->endpoint, (unsigned long long)p->n_sent, (unsigned long long)p->n_ok,
               (unsigned long long)(p->n_sent - p->n_ok), (double)(tool_now() - begin) / 1e6);
        print_summary("read ", &p->reads);
        print_summary("write", &p->writes);
        return status;
}

static enum tool_status check(const struct ping_options *o, const struct vhk_blk_info *i) {
        uint32_t block = i->block_size ? i->block_size : 512;
        uint64_t off = o->offset == ANYWHERE ? 0 : o->offset;

        if (o->size % block || off % block)
                return tool_usage("--size and --offset must be multiples of the disk's block, %u bytes", block);
        if (o->size > i->capacity || off > i->capacity - o->size)
                return tool_fail("offset %llu and size %llu reach beyond the end of the disk, %llu bytes", (unsigned long long)off,
                                 (unsigned long long)o->size, (unsigned long long)i->capacity);
        if (o->write && i->read_only)
                return tool_fail("the disk is read-only");
        return TOOL_OK;
}

static enum tool_status ping(struct ping *p, const struct vhk_blk_info *info) {
        if (!p->o.size)
                p->o.size = tool_request_size(info);
        enum tool_status status = check(&p->o, info);

        if (status != TOOL_OK)
                return status;
        p->n_places = info->capacity / p->o.size;
        p->random = tool_now();
        p->data = vhk_blk_alloc(p->b, p->o.size);
        p->saved = vhk_blk_alloc(p->b, p->o.size);
        p->pattern = vhk_blk_alloc(p->b, p->o.size);
        if (!p->data || !p->saved || !p->pattern)
                return tool_fail("out of memory");
        printf("PING %s: %llu bytes, %llu-byte requests\n", p->endpoint, (unsigned long long)info->capacity, (unsigned long long)p->o.size);
        tool_catch_interrupt();
        return rounds(p);
}

static enum tool_status run(const void *state, char *const *arguments) {
        const char *endpoint = arguments[0];
        static struct ping p;                   /* large */
        struct vhk_blk_options bo = { .polling = 0 };
        struct vhk_blk_info info;

        p.o = *(const struct ping_options *)state;
        p.endpoint = endpoint;
        hist_init(&p.reads);
        hist_init(&p.writes);
        bo.polling = (uint8_t)p.o.polling;
        enum tool_status status = tool_open_blk(endpoint, p.o.timeout_ms * TOOL_MS, &bo, &info, &p.b);
        if (status == TOOL_OK)
                status = ping(&p, &info);
        p.b = vhk_blk_close(p.b);
        return status;
}

const struct tool_command ping_command = {
        .name = "ping",
        .synopsis = "ENDPOINT [--count=N] [--interval-ms=MS] [--size=BYTES] [--offset=BYTES] [--write] [--polling]",
        .summary = "how long a single read takes; with --write also write, read back, verify",
        .about = "Reads one request at a time from a virtio disk. Nothing is written without --write. With it each round reads what is\n"
                 "there, writes a pattern, reads it back, compares, and writes back what was there; other users of the disk must\n"
                 "not write there meanwhile.",
        .options = options,
        .state_size = sizeof(struct ping_options),
        .defaults = &(const struct ping_options){ .interval_ms = 1000, .offset = ANYWHERE, .timeout_ms = 5000 },
        .arguments = { "ENDPOINT" },
        .run = run,
};
