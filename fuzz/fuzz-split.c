/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The device side of a split ring under a guest that does anything. An input is a ring size, flags, and a script: each
 * operation is a byte and its operands. Some operations are the guest's (any word of its memory, and descriptors that look
 * like some), some the device's (pop, unpop, push, flush ...), some control's (other memory, drain, stop and start). What
 * must hold: every iovec lies in guest memory, lengths add up, no head is in flight twice, counts agree.
 */
#include <stdio.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "ring/ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REGION 16384u
#define N_REGIONS 3u
#define MAX_NUM 64u
#define MUST(x) do { if (!(x)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); __builtin_trap(); } } while (0)

/* two neighbours, a hole, one more */
static const uint64_t gpas[N_REGIONS] = { 0, REGION, 4 * REGION };

static struct vhk_memmap *maps[2];      /* the same memory twice: a change that a ring adopts */
static struct vhk_worker *home;
static struct vhk_queue *queues[7];     /* by log2 of the size */
static int fds[N_REGIONS];

struct script { const uint8_t *p, *end; };

static unsigned n_broken;
static void broken(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule) {
        MUST(rule > VHK_RING_OK && rule < VHK_N_RING_RULES);
        n_broken++;
}
static void settled(void *owner, struct vhk_queue *q) { }
static void run(void *owner, struct vhk_queue *q) { MUST(!vhk_queue_is_broken(q)); }
static const struct vhk_queue_owner_ops ops = { broken, settled, run };

static unsigned take8(struct script *s) { return s->p < s->end ? *s->p++ : 0; }
static unsigned take16(struct script *s) { unsigned lo = take8(s); return lo | take8(s) << 8; }

static void setup(void) {
        MUST(vhk_worker_new(NULL, NULL, &home) == 0);
        for (unsigned m = 0; m < 2; m++) {
                MUST(vhk_memmap_new(&maps[m]) == 0);
                for (unsigned i = 0; i < N_REGIONS; i++) {
                        struct vhk_memmap *next;
                        if (!m) {
                                fds[i] = memfd_create("fuzz-split", MFD_CLOEXEC);
                                MUST(fds[i] >= 0 && ftruncate(fds[i], REGION) == 0);
                        }
                        struct vhk_region_desc d = { .gpa = { gpas[i] }, .uva = { gpas[i] }, .len = REGION, .fd = fds[i] };
                        MUST(vhk_memmap_add(maps[m], &d, &next, NULL) == 0);
                        vhk_memmap_unref(maps[m]);
                        maps[m] = next;
                        /* keeps the regions apart here, so that an iovec lies in one */
                        MUST(mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
                }
        }
        for (unsigned i = 0; i < VHK_N(queues); i++)
                MUST(vhk_queue_new(i, MAX_NUM, 24, home, &ops, NULL, &queues[i]) == 0);
}

static uint8_t *host(unsigned map, uint64_t gpa) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(maps[map], gpa);
        MUST(r);
        return r->host + (gpa - r->gpa);
}

static struct vhk_ring_config *config(unsigned map, uint16_t num, unsigned flags) {
        struct vhk_ring_config v = {
                .mem = maps[map], .num = num, .enabled = !(flags & 1), .discard = flags & 2, .event_idx = flags & 4, .indirect = !(flags & 8),
                .desc = (void *)host(map, 0), .avail = (void *)host(map, 4096), .used = (void *)host(map, 8192),
        }, *c;

        MUST(vhk_ring_config_new(&v, &c) == 0);
        return c;
}

/* ---- the guest ---- */

static const uint64_t addrs[] = { 2048, 3000, REGION - 16, REGION - 1, 2 * REGION - 8, 2 * REGION, 4 * REGION, 5 * REGION - 4, UINT64_MAX, UINT64_MAX - 4096,
                                  12288, 12289, 12320, 4096, 8192, 0 };
static const uint32_t lens[] = { 0, 1, 16, 17, 32, 48, 160, 512, 4096, 16384, 16400, 32768, 0x7fffffff, 0x80000000, UINT32_MAX, 64 };

static void write_desc(struct script *s, struct vhk_desc *d, unsigned num) {
        unsigned a = take8(s), l = take8(s);
        uint16_t flags = (uint16_t)(l >> 4 & 7), next = (uint16_t)take8(s);

        if (l & 0x80)
                flags = (uint16_t)take16(s);
        *d = (struct vhk_desc){ vhk_le64_of(addrs[a % 16] + (a >> 4)), vhk_le32_of(lens[l % 16]), vhk_le16_of(flags),
                                vhk_le16_of((uint16_t)(next & 0x80 ? next : next % num)) };
}

/* ---- the device ---- */

struct device {
        struct vhk_queue *q;
        unsigned num, map, n;
        struct vhk_req *req[MAX_NUM];
        bool busy[MAX_NUM];
};

static uint32_t check_iovecs(const struct iovec *iov, unsigned n) {
        uint64_t sum = 0;

        for (unsigned i = 0; i < n; i++) {
                bool inside = false;
                for (unsigned m = 0; m < 2; m++)
                        for (unsigned k = 0; k < maps[m]->n; k++)
                                inside |= vhk_range_within((uint64_t)((uint8_t *)iov[i].iov_base - maps[m]->regs[k].host), iov[i].iov_len, REGION);
                MUST(iov[i].iov_len && inside);
                volatile uint8_t first = *(uint8_t *)iov[i].iov_base, last = ((uint8_t *)iov[i].iov_base)[iov[i].iov_len - 1];
                (void)first;
                (void)last;
                sum += iov[i].iov_len;
        }
        MUST(sum <= UINT32_MAX);
        return (uint32_t)sum;
}

static void pop(struct device *d, unsigned n) {
        int r = vhk_queue_pop(d->q, d->req + d->n, VHK_MIN(n, MAX_NUM - d->n));

        MUST(r >= 0 || (r == -EPIPE && vhk_queue_is_broken(d->q)));
        for (; r > 0; r--, d->n++) {
                struct vhk_req *q = d->req[d->n];
                MUST(q->head < d->num && !d->busy[q->head]);
                d->busy[q->head] = true;
                MUST(q->in == q->out + q->n_out && vhk_req_get_queue(q) == d->q);
                MUST(check_iovecs(q->out, q->n_out) == q->out_len && check_iovecs(q->in, q->n_in) == q->in_len);
                memset(q->priv, 0xab, 24);
        }
        MUST(vhk_queue_n_in_flight(d->q) == d->n);
}

static void push(struct device *d, unsigned i, uint32_t len) {
        if (!d->n)
                return;
        struct vhk_req *q = d->req[i %= d->n];
        d->busy[q->head] = false;
        memmove(d->req + i, d->req + i + 1, (--d->n - i) * sizeof(*d->req));
        if (len & 1)
                vhk_queue_push(d->q, q, len);
        else
                vhk_req_complete(q, len);
        while (vhk_worker_dispatch(home, 0) > 0)
                ;
}

/* Only those popped after the last push are surely the newest. */
static void unpop(struct device *d, unsigned n, unsigned fresh) {
        n = VHK_MIN(n, fresh);
        n = VHK_MIN(n, d->n);
        for (unsigned i = 0; i < n; i++)
                d->busy[d->req[--d->n]->head] = false;
        vhk_queue_unpop(d->q, n);
        MUST(vhk_queue_n_in_flight(d->q) == d->n);
}

static void start(struct device *d, struct script *s, unsigned flags) {
        struct vhk_ring_config *c = config(d->map, (uint16_t)d->num, flags);
        uint16_t avail = (uint16_t)take8(s);

        avail = (uint16_t)(avail & 0x80 ? avail - 256 : avail);
        MUST(vhk_queue_start(d->q, c, avail, -1) == 0);
        vhk_ring_config_unref(c);
}

static void stop(struct device *d) {
        vhk_queue_drain(d->q, true);
        while (d->n)
                push(d, 0, 1);
        vhk_queue_flush(d->q);
        while (vhk_worker_dispatch(home, 0) > 0)
                ;
        MUST(vhk_queue_n_in_flight(d->q) == 0);
        vhk_queue_stop(d->q);
}

static void step(struct device *d, struct script *s, unsigned *fresh, unsigned flags) {
        struct vhk_avail *avail = (void *)host(0, 4096);
        unsigned op = take8(s), arg = op >> 4, at;

        switch (op & 15) {
        case 0: case 1:
                write_desc(s, (struct vhk_desc *)host(0, 0) + take8(s) % d->num, d->num);
                break;
        case 2:
                write_desc(s, (struct vhk_desc *)host(0, 12288) + arg, 16);
                break;
        case 3:
                at = take16(s);
                *host(0, at % (2 * REGION)) = (uint8_t)take8(s);
                break;
        case 4: case 5:
                avail->ring[avail->idx.v++ % d->num] = vhk_le16_of((uint16_t)(arg == 15 ? take16(s) : take8(s) % d->num));
                break;
        case 6:
                avail->idx = vhk_le16_of((uint16_t)take16(s));
                break;
        case 7: case 8:
                at = d->n;
                pop(d, arg + 1);
                *fresh += d->n - at;
                break;
        case 9:
                unpop(d, arg + 1, *fresh);
                *fresh -= VHK_MIN(arg + 1, *fresh);
                break;
        case 10:
                push(d, take8(s), take16(s));
                *fresh = 0;
                break;
        case 11:
                MUST(vhk_queue_flush(d->q) == (vhk_queue_is_broken(d->q) ? -EPIPE : 0));
                break;
        case 12:
                (void)(arg & 1 ? vhk_queue_arm(d->q) : (vhk_queue_disarm(d->q), 0));
                break;
        case 13: {
                d->map = arg & 1;
                struct vhk_ring_config *c = config(d->map, (uint16_t)d->num, (flags & 12u) | (arg >> 1 & 3));
                vhk_queue_adopt(d->q, c);
                vhk_ring_config_unref(c);
                break;
        }
        case 14:
                stop(d);
                start(d, s, flags);
                *fresh = 0;
                break;
        default:
                while (vhk_worker_dispatch(home, 0) > 0)
                        ;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct script s = { data, data + size };
        struct vhk_queue_metrics before, after;
        unsigned fresh = 0, log2;

        if (!home)
                setup();
        for (unsigned i = 0; i < N_REGIONS; i++)
                memset(host(0, gpas[i]), 0, REGION);
        log2 = take8(&s) % VHK_N(queues);
        struct device d = { .q = queues[log2], .num = 1u << log2 };
        unsigned flags = take8(&s);

        vhk_queue_get_metrics(d.q, &before);
        n_broken = 0;
        start(&d, &s, flags);
        while (s.p < s.end)
                step(&d, &s, &fresh, flags);
        stop(&d);
        vhk_queue_get_metrics(d.q, &after);
        MUST(after.faults - before.faults == n_broken);
        MUST(after.device_bugs - before.device_bugs <= size);
        return 0;
}
