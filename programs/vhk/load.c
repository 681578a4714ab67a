/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The hot loop is lane_run(): reap a burst, read the clock once, count and refill each slot, submit the burst. All that it touches
 * per request is the slot, one histogram bucket and the entry of the burst; nothing is allocated and nothing is shared, but
 * for the flag that ends it (read) and the counter that the progress line reads (written once per burst).
 *
 * Threads: each lane has its queue, which also looks after the connection; the main thread sleeps and prints.
 */
#include "load.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

#define REAP_MS 100             /* a lane looks up at least so often */

/* A request that may be in flight; its cookie. */
struct slot {
        struct iovec iov;
        uint64_t off, since;
};

struct lane {
        struct vhk_blk_queue *queue;
        const struct load_job *job;
        pthread_t thread;
        bool has_thread;
        struct slot *slots;
        struct vhk_blk_io *ios;         /* built, not yet submitted: @n_ready */
        struct vhk_blk_done *done;
        unsigned n_ready, n_in_flight;
        uint64_t n_blocks, first, at;   /* sequential: block of the disk where it begins, next one */
        uint64_t random, n_bursts;
        int error;
        uint64_t error_offset;
        int *stop;                      /* shared (atomic, relaxed): only a hint to end, nothing is published by it */
        uint64_t n_done;                /* shared (atomic, relaxed): for the progress line */
        struct hist latency;
};

/* xorshift64*: spread over blocks, not secrets. The multiplication takes the high bits: no division, no visible bias. */
static inline uint64_t next_offset(struct lane *l) {
        uint64_t block;

        if (l->job->random) {
                l->random ^= l->random >> 12;
                l->random ^= l->random << 25;
                l->random ^= l->random >> 27;
                block = (uint64_t)(((unsigned __int128)(l->random * UINT64_C(0x2545f4914f6cdd1d)) * l->n_blocks) >> 64);
        } else {
                block = l->at++;
                if (l->at == l->n_blocks)
                        l->at = 0;
        }
        return block * l->job->block_size;
}

static inline void refill(struct lane *l, struct slot *s, uint64_t now) {
        struct vhk_blk_io *io = &l->ios[l->n_ready++];

        s->off = next_offset(l);
        s->since = now;
        io->off = s->off;
        io->iov = &s->iov;
        io->cookie = s;
}

/* As much of the burst as the ring takes; the rest moves to the front. */
static inline int submit(struct lane *l) {
        if (!l->n_ready)
                return 0;
        int k = vhk_blk_submit(l->queue, l->ios, l->n_ready);
        if (k < 0)
                return k == -EAGAIN && l->n_in_flight ? 0 : k;
        l->n_in_flight += (unsigned)k;
        l->n_ready -= (unsigned)k;
        if (l->n_ready)
                memmove(l->ios, l->ios + k, l->n_ready * sizeof(*l->ios));
        return 0;
}

static inline void account(struct lane *l, const struct vhk_blk_done *d, uint64_t now) {
        const struct slot *s = d->cookie;

        if (d->result < 0 && !l->error) {
                l->error = d->result;
                l->error_offset = s->off;
        } else if (d->result >= 0) {
                hist_add(&l->latency, now - s->since);
        }
}

/* Take back what is still in flight, so that its memory is ours again. */
static void lane_drain(struct lane *l) {
        uint64_t last = tool_now();

        while (l->n_in_flight && l->error != -EPIPE && l->error != -ETIMEDOUT) {
                int k = vhk_blk_reap(l->queue, l->done, l->job->depth, REAP_MS);
                uint64_t now = tool_now();
                if (k < 0 || (!k && now - last > l->job->limit_ns)) {
                        l->error = l->error ? l->error : k < 0 ? k : -ETIMEDOUT;
                        return;
                }
                for (int i = 0; i < k; i++)
                        account(l, &l->done[i], now);
                l->n_in_flight -= (unsigned)k;
                last = k ? now : last;
        }
}

static void *lane_run(void *arg) {
        struct lane *l = arg;
        uint64_t begin = tool_now(), end = begin + l->job->ns, last = begin, now = begin;

        for (unsigned i = 0; i < l->job->depth; i++)
                refill(l, &l->slots[i], begin);
        while (now < end && !l->error && !__atomic_load_n(l->stop, __ATOMIC_RELAXED)) {
                int k = submit(l);
                if (k >= 0)
                        k = vhk_blk_reap(l->queue, l->done, l->job->depth, REAP_MS);
                if (k < 0) {
                        l->error = k;
                        break;
                }
                now = tool_now();
                if (!k) {
                        if (now - last > l->job->limit_ns)
                                l->error = -ETIMEDOUT;
                        continue;
                }
                last = now;
                for (int i = 0; i < k; i++) {
                        account(l, &l->done[i], now);
                        refill(l, l->done[i].cookie, now);
                }
                l->n_in_flight -= (unsigned)k;
                l->n_bursts++;
                __atomic_store_n(&l->n_done, l->latency.n, __ATOMIC_RELAXED);
        }
        lane_drain(l);
        if (l->error)
                __atomic_store_n(l->stop, 1, __ATOMIC_RELAXED);
        return NULL;
}

/* ---- around it ---- */

static int lane_init(struct lane *l, struct vhk_blk *b, unsigned i, const struct load_job *job, uint64_t n_blocks, int *stop) {
        uint8_t *data = vhk_blk_alloc(b, (size_t)job->depth * job->block_size);
        int k = vhk_blk_get_queue(b, i, &l->queue);

        if (k < 0)
                return k;
        l->job = job;
        l->n_blocks = n_blocks;
        l->at = n_blocks / job->n_queues * i;
        l->random = UINT64_C(0x9e3779b97f4a7c15) * (i + 1);
        l->stop = stop;
        hist_init(&l->latency);
        l->slots = calloc(job->depth, sizeof(*l->slots));
        l->ios = calloc(job->depth, sizeof(*l->ios));
        l->done = calloc(job->depth, sizeof(*l->done));
        if (!data || !l->slots || !l->ios || !l->done)
                return -ENOMEM;
        for (unsigned s = 0; s < job->depth; s++) {
                l->slots[s].iov = (struct iovec){ data + (size_t)s * job->block_size, job->block_size };
                l->ios[s] = (struct vhk_blk_io){ .op = job->write ? VHK_BLK_WRITE : VHK_BLK_READ, .n_iov = 1, .len = job->block_size };
        }
        for (size_t n = 0; job->write && n < (size_t)job->depth * job->block_size; n++)
                data[n] = (uint8_t)(n * 167 + i);
        return 0;
}

static void lane_done(struct lane *l) {
        free(l->slots);
        free(l->ios);
        free(l->done);
}

/* The lanes do the work, and look after the connection while they wait; here time passes. */
static void watch(struct lane *lanes, const struct load_job *job, int *stop, uint64_t begin) {
        uint64_t end = begin + job->ns, now, next = job->tick_ns ? begin + job->tick_ns : UINT64_MAX;

        while ((now = tool_now()) < end && !tool_interrupted && !__atomic_load_n(stop, __ATOMIC_RELAXED)) {
                uint64_t until = next < end ? next : end;
                tool_sleep(until - now < REAP_MS * TOOL_MS ? until - now : REAP_MS * TOOL_MS);
                if (tool_now() < next)
                        continue;
                uint64_t n = 0;
                for (unsigned i = 0; i < job->n_queues; i++)
                        n += __atomic_load_n(&lanes[i].n_done, __ATOMIC_RELAXED);
                job->on_tick(job->arg, tool_now() - begin, n);
                next += job->tick_ns;
        }
        if (tool_interrupted)
                __atomic_store_n(stop, 1, __ATOMIC_RELAXED);
}

static uint64_t own_cpu_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * TOOL_S + (uint64_t)t.tv_nsec;
}

static int run_lanes(struct lane *lanes, const struct load_job *job, struct load_result *r) {
        int k = 0, *stop = lanes[0].stop;
        uint64_t server = job->server_pid ? load_cpu_ns(job->server_pid) : UINT64_MAX, own = own_cpu_ns(), begin = tool_now();

        for (unsigned i = 0; i < job->n_queues && !k; i++) {
                k = -pthread_create(&lanes[i].thread, NULL, lane_run, &lanes[i]);
                lanes[i].has_thread = !k;
        }
        if (k)
                __atomic_store_n(stop, 1, __ATOMIC_RELAXED);
        else
                watch(lanes, job, stop, begin);
        for (unsigned i = 0; i < job->n_queues; i++) {
                if (!lanes[i].has_thread)
                        continue;
                pthread_join(lanes[i].thread, NULL);
                hist_merge(&r->latency, &lanes[i].latency);
                r->n_bursts += lanes[i].n_bursts;
                if (lanes[i].error && !r->error) {
                        r->error = lanes[i].error;
                        r->error_offset = lanes[i].error_offset;
                }
        }
        r->ns = tool_now() - begin;
        r->client_cpu_ns = own_cpu_ns() - own;
        uint64_t server_end = job->server_pid ? load_cpu_ns(job->server_pid) : UINT64_MAX;
        r->server_cpu_ns = server_end == UINT64_MAX || server == UINT64_MAX ? UINT64_MAX : server_end - server;
        r->n = r->latency.n;
        r->bytes = r->n * job->block_size;
        return k;
}

int load_run(struct vhk_blk *b, const struct load_job *job, struct load_result *ret_r) {
        struct vhk_blk_info info = { .size = sizeof(info) };
        int stop = 0, k = vhk_blk_get_info(b, &info);

        if (k < 0)
                return k;
        uint64_t n_blocks = info.capacity / job->block_size;
        if (!n_blocks)
                return -ENODEV;
        struct lane *lanes = calloc(job->n_queues, sizeof(*lanes));
        if (!lanes)
                return -ENOMEM;
        for (unsigned i = 0; i < job->n_queues && k >= 0; i++)
                k = lane_init(&lanes[i], b, i, job, n_blocks, &stop);
        if (k >= 0) {
                memset(ret_r, 0, sizeof(*ret_r));
                hist_init(&ret_r->latency);
                k = run_lanes(lanes, job, ret_r);
        }
        for (unsigned i = 0; i < job->n_queues; i++)
                lane_done(&lanes[i]);
        free(lanes);
        return k < 0 ? k : 0;
}

/* ---- CPU time of the server ---- */

/* Nanoseconds from /proc/PID/task/TID/schedstat; ended threads are missing there, a back-end has few of those. */
static uint64_t schedstat_ns(pid_t pid) {
        char path[64];
        uint64_t sum = 0;
        bool any = false;

        snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
        DIR *d = opendir(path);
        if (!d)
                return UINT64_MAX;
        for (struct dirent *e; (e = readdir(d));) {
                char file[64 + 256 + 16];
                unsigned long long ns;
                if (e->d_name[0] == '.')
                        continue;
                snprintf(file, sizeof(file), "%s/%s/schedstat", path, e->d_name);
                FILE *f = fopen(file, "re");
                if (f && fscanf(f, "%llu", &ns) == 1) {
                        sum += ns;
                        any = true;
                }
                if (f)
                        fclose(f);
        }
        closedir(d);
        return any && sum ? sum : UINT64_MAX;
}

/* utime + stime of /proc/PID/stat, in clock ticks; the name before them may hold anything. */
static uint64_t stat_ns(pid_t pid) {
        char path[64], text[1024];
        unsigned long long utime, stime;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "re");
        if (!f)
                return UINT64_MAX;
        size_t n = fread(text, 1, sizeof(text) - 1, f);
        fclose(f);
        text[n] = 0;
        const char *p = strrchr(text, ')');
        if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &utime, &stime) != 2)
                return UINT64_MAX;
        return (utime + stime) * (TOOL_S / (uint64_t)sysconf(_SC_CLK_TCK));
}

uint64_t load_cpu_ns(pid_t pid) {
        uint64_t ns = schedstat_ns(pid);

        return ns != UINT64_MAX ? ns : stat_ns(pid);
}
