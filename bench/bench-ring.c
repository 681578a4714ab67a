/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a request costs on the device side of a split ring, at the public API, through the shared library.
 *
 * A request is: fetch the chain, check and translate it, make iovecs, push it used. c1: one readable buffer of 64 bytes.
 * c3: 16 bytes readable, 4096 and 1 writable (a read of virtio-blk). Regions: "1"; "8" spreads consecutive buffers round robin
 * over eight (the worst for a queue that remembers the last region); "8 runs" changes the region every eight requests.
 *
 * The driver writes precomputed chains into the ring; its time is measured alone and subtracted. What is counted by
 * callgrind is the function serve(), with its loop and the calls through the PLT (ir.py).
 *
 * bench-ring [--json]                  nanoseconds per request
 * bench-ring --callgrind N WORKLOAD    N batches of one workload, nothing else
 * bench-ring --list                    the workloads
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <vhostkit/queue.h>

#include "ring/ring.h"

#define NUM 256u
#define MAX_BATCH 32u
#define REGION (UINT64_C(4) << 20)
#define GAP (UINT64_C(1) << 30)         /* from region to region in guest addresses */
#define ROUNDS 21

enum spread { ONE, EIGHT, RUNS };

static const struct workload {
        const char *name;
        unsigned n_descs, batch;
        bool indirect;
        enum spread spread;
        const char *reference;          /* ns and instructions measured for others on another machine (batch 32) */
} workloads[] = {
        { "c1-direct-1",      1, 32, false, ONE,   "floor 5.5 ns, 84 Ir; libvhost-user 30, 512; virtio-queue 38, 553" },
        { "c1-direct-8",      1, 32, false, EIGHT, NULL },
        { "c1-direct-8runs",  1, 32, false, RUNS,  NULL },
        { "c3-direct-1",      3, 32, false, ONE,   "floor 9.2 ns, 158 Ir; SPDK 33, 583; libvhost-user 53, 807; virtio-queue 71, 961" },
        { "c3-direct-8",      3, 32, false, EIGHT, "floor 18.5-28 ns, 326 Ir; SPDK 43, 698; libvhost-user 65, 923; virtio-queue 131, 1262" },
        { "c3-direct-8runs",  3, 32, false, RUNS,  NULL },
        { "c3-indirect-1",    3, 32, true,  ONE,   "floor 10.5 ns, 186 Ir; SPDK 35, 610; libvhost-user 57, 895; virtio-queue 85, 1103" },
        { "c3-indirect-8",    3, 32, true,  EIGHT, "floor 21 ns, 365 Ir; SPDK 44, 726; libvhost-user 69, 1011; virtio-queue 159, 1437" },
        { "c3-indirect-8runs", 3, 32, true, RUNS,  NULL },
        { "c1-direct-1-b1",   1, 1,  false, ONE,   NULL },
        { "c3-direct-1-b1",   3, 1,  false, ONE,   NULL },
        { "c3-indirect-1-b1", 3, 1,  true,  ONE,   NULL },
};

struct bench {
        const struct workload *w;
        struct vhk_memmap *mem;
        struct vhk_worker *home;
        struct vhk_queue *q;
        struct vhk_desc *desc;
        struct vhk_avail *avail;
        struct vhk_used *used;
        uint16_t avail_idx;
        unsigned n_chains, next;
        uint16_t heads[NUM];
};

static void die(const char *what) {
        fprintf(stderr, "bench-ring: %s\n", what);
        exit(1);
}

static void on_broken(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule) { die(vhk_ring_rule_text(rule)); }
static void on_nothing(void *owner, struct vhk_queue *q) { }
static const struct vhk_queue_owner_ops ops = { .broken = on_broken, .settled = on_nothing, .run = on_nothing };

/* What is measured: one burst. */
unsigned serve(struct vhk_queue *q, unsigned batch);
__attribute__((noinline)) unsigned serve(struct vhk_queue *q, unsigned batch) {
        struct vhk_req *r[MAX_BATCH];
        int n = vhk_queue_pop(q, r, batch);

        for (int i = 0; i < n; i++)
                vhk_queue_push(q, r[i], r[i]->in_len);
        vhk_queue_flush(q);
        return (unsigned)n;
}

/* The driver: the next batch of heads. */
static __attribute__((noinline)) void offer(struct bench *b, unsigned batch) {
        for (unsigned i = 0; i < batch; i++) {
                b->avail->ring[b->avail_idx++ & (NUM - 1)] = vhk_le16_of(b->heads[b->next]);
                b->next = b->next + 1 == b->n_chains ? 0 : b->next + 1;
        }
        vhk_store_release(&b->avail->idx.v, vhk_le16_of(b->avail_idx).v);
}

static void add_regions(struct bench *b, unsigned n) {
        struct vhk_memmap *m;

        if (vhk_memmap_new(&b->mem) < 0)
                die("no memory");
        for (unsigned i = 0; i < n; i++) {
                int fd = memfd_create("bench-ring", MFD_CLOEXEC);
                struct vhk_region_desc d = { { i * GAP }, { (UINT64_C(1) << 46) + i * GAP }, REGION, 0, fd };
                if (fd < 0 || ftruncate(fd, REGION) < 0 || vhk_memmap_add(b->mem, &d, &m, NULL) < 0)
                        die("no memory");
                close(fd);
                vhk_memmap_unref(b->mem);
                b->mem = m;
        }
}

static void *host(struct bench *b, uint64_t gpa) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(b->mem, gpa);
        return r->host + (gpa - r->gpa);
}

/* Buffer @i of chain @chain: regions from 1 on hold data, or the upper half of region 0. */
static uint64_t buffer(const struct bench *b, unsigned chain, unsigned i) {
        unsigned at = chain * 3 + i;
        uint64_t off = REGION / 2 + (uint64_t)at * 8192 % (REGION / 2);

        switch (b->w->spread) {
        case EIGHT: return at % 8 * GAP + off;
        case RUNS: return chain / 8 % 8 * GAP + off;
        default: return off;
        }
}

static void write_chains(struct bench *b) {
        static const uint32_t c1[] = { 64 }, c3[] = { 16, 4096, 1 };
        const uint32_t *len = b->w->n_descs == 1 ? c1 : c3;
        unsigned n = b->w->n_descs, per_chain = b->w->indirect ? 1 : n;

        b->n_chains = 64;
        for (unsigned c = 0; c < b->n_chains; c++) {
                uint64_t table = 65536 + c * 64;
                struct vhk_desc *d = b->w->indirect ? host(b, table) : b->desc + c * n;
                unsigned first = b->w->indirect ? 0 : c * n;

                b->heads[c] = (uint16_t)(c * per_chain);
                for (unsigned i = 0; i < n; i++)
                        d[i] = (struct vhk_desc){
                                vhk_le64_of(buffer(b, c, i)), vhk_le32_of(len[i]),
                                vhk_le16_of((i ? VHK_DESC_WRITE : 0) | (i + 1 < n ? VHK_DESC_NEXT : 0)),
                                vhk_le16_of(first + i + 1),
                        };
                if (b->w->indirect)
                        b->desc[c] = (struct vhk_desc){ vhk_le64_of(table), vhk_le32_of(16 * n), vhk_le16_of(VHK_DESC_INDIRECT), { 0 } };
        }
}

static void setup(struct bench *b, const struct workload *w) {
        struct vhk_ring_config values = { .num = NUM, .enabled = true, .event_idx = true, .indirect = true }, *c = NULL;

        *b = (struct bench){ .w = w };
        add_regions(b, w->spread == ONE ? 1 : 8);
        b->desc = host(b, 0);
        b->avail = host(b, 8192);
        b->used = host(b, 16384);
        b->avail->ring[NUM] = vhk_le16_of(40000);               /* used_event: seldom */
        values.mem = b->mem;
        values.desc = b->desc;
        values.avail = b->avail;
        values.used = b->used;
        write_chains(b);
        if (vhk_worker_new(NULL, NULL, &b->home) < 0 || vhk_ring_config_new(&values, &c) < 0 ||
            vhk_queue_new(0, NUM, 64, b->home, &ops, NULL, &b->q) < 0 || vhk_queue_start(b->q, c, 0, -1) < 0)
                die("cannot start the ring");
        vhk_ring_config_unref(c);
}

static void teardown(struct bench *b) {
        vhk_queue_stop(b->q);
        vhk_queue_free(b->q);
        vhk_worker_free(b->home);
        vhk_memmap_unref(b->mem);
}

static void run(struct bench *b, uint64_t batches) {
        for (uint64_t i = 0; i < batches; i++) {
                offer(b, b->w->batch);
                if (serve(b->q, b->w->batch) != b->w->batch)
                        die("a batch was cut short");
        }
}

static double now_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
        double x = *(const double *)a, y = *(const double *)b;
        return (x > y) - (x < y);
}

/* Nanoseconds per request: the median of rounds, the driver's own time taken off. */
static double measure(const struct workload *w) {
        uint64_t batches = w->batch == 1 ? 100000 : 8000;
        double rounds[ROUNDS];
        struct bench b;

        setup(&b, w);
        run(&b, batches / 4);
        for (unsigned i = 0; i < ROUNDS; i++) {
                double t0 = now_ns();
                run(&b, batches);
                double t1 = now_ns();
                for (uint64_t k = 0; k < batches; k++)          /* offered, taken back: the ring never sees more than it holds */
                        offer(&b, w->batch);
                double t2 = now_ns();
                b.avail_idx -= (uint16_t)(batches * w->batch);
                vhk_store_release(&b.avail->idx.v, vhk_le16_of(b.avail_idx).v);
                rounds[i] = ((t1 - t0) - (t2 - t1)) / (double)(batches * w->batch);
        }
        teardown(&b);
        qsort(rounds, ROUNDS, sizeof(*rounds), by_value);
        return rounds[ROUNDS / 2];
}

static int one(const char *count, const char *name) {
        for (unsigned i = 0; i < VHK_N(workloads); i++)
                if (!strcmp(workloads[i].name, name)) {
                        struct bench b;
                        setup(&b, &workloads[i]);
                        run(&b, strtoull(count, NULL, 10));
                        teardown(&b);
                        return 0;
                }
        die("no such workload (see --list)");
        return 1;
}

int main(int argc, char **argv) {
        bool json = argc == 2 && !strcmp(argv[1], "--json");
        Dl_info where = { 0 };

        if (argc == 4 && !strcmp(argv[1], "--callgrind"))
                return one(argv[2], argv[3]);
        if (argc == 2 && !strcmp(argv[1], "--list")) {
                for (unsigned i = 0; i < VHK_N(workloads); i++)
                        printf("%s %u %s\n", workloads[i].name, workloads[i].batch, workloads[i].reference ? workloads[i].reference : "-");
                return 0;
        }
        if (argc > 1 && !json)
                die("usage: bench-ring [--json | --list | --callgrind N WORKLOAD]");
        if (!json) {
                dladdr((void *)(uintptr_t)vhk_queue_pop, &where);
                printf("vhk_queue_pop, _push, _flush of %s\n%-20s %6s %12s\n", where.dli_fname ? where.dli_fname : "?", "workload", "batch", "ns/request");
        }
        for (unsigned i = 0; i < VHK_N(workloads); i++) {
                double ns = measure(&workloads[i]);
                if (json)
                        printf("%s{\"workload\":\"%s\",\"batch\":%u,\"ns\":%.2f}%s", i ? "," : "[", workloads[i].name, workloads[i].batch, ns,
                               i + 1 == VHK_N(workloads) ? "]\n" : "");
                else
                        printf("%-20s %6u %12.1f\n", workloads[i].name, workloads[i].batch, ns);
                if (!json && workloads[i].reference)
                        printf("    reference, other machine: %s\n", workloads[i].reference);
        }
        return 0;
}
