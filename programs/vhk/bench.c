/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk bench: the options, the checks that can be made before a thread starts, the progress line.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "load.h"
#include "report.h"
#include "tool.h"

struct bench {
        int help, rw, write, event, poll, json, progress;
        uint64_t block_size, depth, queues, queue_size, seconds, server_pid, timeout_ms;
};

#define MEMORY_MAX (UINT64_C(4) << 30)

enum { RW_READ, RW_RANDREAD, RW_WRITE, RW_RANDWRITE, RW_DEFAULT = -1 };
static const char *const rw_words[] = { "read", "randread", "write", "randwrite", NULL };

#define ROW(name, type, member, ...) { name, type, offsetof(struct bench, member), __VA_ARGS__ }
static const struct vhk_option options[] = {
        ROW("rw", VHK_OPTION_ENUM, rw, "PATTERN", "sequential or random, read or write (randread)", .values = rw_words),
        ROW("write", VHK_OPTION_FLAG, write, NULL, "overwrite the disk's contents; without it nothing is written"),
        ROW("block-size", VHK_OPTION_UINT, block_size, "BYTES", "size of a request (4K, or as the disk's blocks and capacity demand)", 512, 16 << 20),
        ROW("depth", VHK_OPTION_UINT, depth, "N", "requests in flight on each queue (32)", 1, 4096),
        ROW("queues", VHK_OPTION_UINT, queues, "N", "queues, a thread each (1)", 1, 256),
        ROW("queue-size", VHK_OPTION_UINT, queue_size, "N", "entries of a ring, a power of two (after the depth)", 4, 32768),
        ROW("seconds", VHK_OPTION_UINT, seconds, "S", "for how long (5)", 1, 86400),
        ROW("event", VHK_OPTION_FLAG, event, NULL, "sleep until the back-end notifies (the default)"),
        ROW("poll", VHK_OPTION_FLAG, poll, NULL, "watch the rings, never sleep: takes a CPU per queue"),
        ROW("server-pid", VHK_OPTION_UINT, server_pid, "PID", "print the CPU time of the back-end's process, too", 1, INT32_MAX),
        ROW("json", VHK_OPTION_FLAG, json, NULL, "print JSON"),
        ROW("progress", VHK_OPTION_FLAG, progress, NULL, "a progress line on stderr, though stdout is no terminal"),
        TOOL_OPTION_TIMEOUT(struct bench),
        TOOL_OPTION_HELP,
        { 0 },
};

struct progress {
        uint64_t last_ns, last_n, total_ns;
        bool rewrite;
};

static void on_tick(void *arg, uint64_t elapsed_ns, uint64_t n_done) {
        struct progress *p = arg;
        char rate[24];
        double iops = (double)(n_done - p->last_n) * 1e9 / (double)(elapsed_ns - p->last_ns);

        fprintf(stderr, "%s  %.0f of %.0f s  %s IOPS%s", p->rewrite ? "\r" : "", (double)elapsed_ns / 1e9, (double)p->total_ns / 1e9,
                report_format_rate(rate, sizeof(rate), iops), p->rewrite ? "\x1b[K" : "\n");
        p->last_ns = elapsed_ns;
        p->last_n = n_done;
}

/* A ring that takes the depth even where a request needs three descriptors; a small one stays in the cache. */
static uint16_t ring_size(const struct bench *o) {
        uint64_t n = 128;

        if (o->queue_size)
                return (uint16_t)o->queue_size;
        while (n < 3 * o->depth && n < 1024)
                n *= 2;
        return (uint16_t)n;
}

static enum tool_status check_memory(const struct bench *o) {
        if (o->queues * o->depth * o->block_size <= MEMORY_MAX)
                return TOOL_OK;
        return tool_usage("%llu queues times %llu requests of %llu bytes need more than 4 GiB of buffers", (unsigned long long)o->queues,
                          (unsigned long long)o->depth, (unsigned long long)o->block_size);
}

static enum tool_status check_options(const struct bench *o) {
        bool writes = o->rw == RW_WRITE || o->rw == RW_RANDWRITE;

        if (o->event && o->poll)
                return tool_usage("--event or --poll, not both");
        if (writes && !o->write)
                return tool_usage("--rw=%s overwrites the disk's contents: say --write as well if that is wanted", rw_words[o->rw]);
        if (!writes && o->rw != RW_DEFAULT && o->write)
                return tool_usage("--rw=%s and --write contradict each other", rw_words[o->rw]);
        if (o->queue_size & (o->queue_size - 1))
                return tool_usage("--queue-size=%llu is not a power of two", (unsigned long long)o->queue_size);
        if (o->server_pid && load_cpu_ns((pid_t)o->server_pid) == UINT64_MAX)
                return tool_fail("--server-pid=%llu: no CPU time of such a process in /proc", (unsigned long long)o->server_pid);
        return check_memory(o);
}

static enum tool_status check_disk(const struct bench *o, const struct vhk_blk_info *i) {
        uint32_t block = i->block_size ? i->block_size : 512;

        if (o->block_size % block)
                return tool_usage("--block-size=%llu is not a multiple of the disk's block, %u bytes", (unsigned long long)o->block_size, block);
        if (i->capacity < o->block_size)
                return tool_fail("the disk has only %llu bytes", (unsigned long long)i->capacity);
        if (o->write && i->read_only)
                return tool_fail("the disk is read-only");
        return check_memory(o);
}

static enum tool_status finish(const struct bench *o, const char *endpoint, struct vhk_blk *b, const struct load_job *job, const struct load_result *r) {
        if (o->json)
                report_print_json(endpoint, o->poll, job, r, stdout);
        else
                report_print(job, r, stdout);
        if (r->error)
                return tool_blk_failed(b, job->write ? "write" : "read", r->error_offset, r->error);
        return TOOL_OK;
}

static enum tool_status measure(const struct bench *o, const char *endpoint, struct vhk_blk *b) {
        static struct load_result result;               /* large */
        struct progress progress = { .total_ns = o->seconds * TOOL_S, .rewrite = isatty(STDERR_FILENO) };
        bool shows_progress = o->progress || (isatty(STDOUT_FILENO) && isatty(STDERR_FILENO));
        struct load_job job = {
                .write = o->write, .random = o->rw == RW_DEFAULT || o->rw == RW_RANDREAD || o->rw == RW_RANDWRITE,
                .block_size = (uint32_t)o->block_size, .depth = (unsigned)o->depth, .n_queues = (unsigned)o->queues,
                .ns = o->seconds * TOOL_S, .limit_ns = o->timeout_ms * TOOL_MS, .server_pid = (pid_t)o->server_pid,
                .tick_ns = shows_progress ? progress.rewrite ? TOOL_S / 5 : TOOL_S : 0, .on_tick = on_tick, .arg = &progress,
        };

        if (!o->json)
                printf("%s: %s, %llu-byte requests, %u in flight on %s%u queue%s, %s, %llu s\n", endpoint, report_pattern(&job),
                       (unsigned long long)o->block_size, job.depth, job.n_queues == 1 ? "" : "each of ", job.n_queues, job.n_queues == 1 ? "" : "s",
                       o->poll ? "polling" : "event-driven", (unsigned long long)o->seconds);
        fflush(stdout);
        tool_catch_interrupt();
        int k = load_run(b, &job, &result);
        if (job.tick_ns && progress.rewrite)
                fprintf(stderr, "\r\x1b[K");
        if (k < 0)
                return tool_fail("cannot start: %s", strerror(-k));
        return finish(o, endpoint, b, &job, &result);
}

static enum tool_status run(const void *state, char *const *arguments) {
        const char *endpoint = arguments[0];
        struct bench o = *(const struct bench *)state;
        struct vhk_blk_options bo = { .n_queues = (uint16_t)o.queues, .queue_size = ring_size(&o), .polling = (uint8_t)o.poll };
        struct vhk_blk_info info;
        struct vhk_blk *b;
        enum tool_status status = check_options(&o);

        if (status == TOOL_OK)
                status = tool_open_blk(endpoint, o.timeout_ms * TOOL_MS, &bo, &info, &b);
        if (status != TOOL_OK)
                return status;
        if (!o.block_size)
                o.block_size = tool_request_size(&info);
        status = check_disk(&o, &info);
        if (status == TOOL_OK)
                status = measure(&o, endpoint, b);
        vhk_blk_close(b);
        return status;
}

const struct tool_command bench_command = {
        .name = "bench",
        .synopsis = "ENDPOINT [OPTION...]",
        .summary = "how fast: IOPS, MB/s, percentiles, a histogram of latencies",
        .about = "Keeps requests in flight on one or more queues of a virtio disk and counts. Nothing is written to the disk\n"
                 "without --write; with it the contents are destroyed. Ctrl-C ends it early and prints what was measured.",
        .options = options,
        .state_size = sizeof(struct bench),
        .defaults = &(const struct bench){ .rw = RW_DEFAULT, .depth = 32, .queues = 1, .seconds = 5, .timeout_ms = 5000 },
        .arguments = { "ENDPOINT" },
        .run = run,
};
