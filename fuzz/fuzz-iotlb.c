/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Translations against a model that has one entry per UNIT bytes. An input is a script of updates, invalidations, changes of
 * guest memory and questions. What is known is what was said last; nothing is known that was taken back.
 */
#include "fuzz/session.h"
#include "mem/iotlb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define UNIT 0x100u
#define N_UNITS 64u                     /* of I/O virtual addresses */
#define N_GUEST (FZ_MEM / UNIT)
#define IOVA 0xfffffffffff00000ull      /* near the end: sums wrap there */
#define GPA 0x10000ull
#define UVA 0x100000ull

static struct { uint32_t guest; uint8_t perm; } model[N_UNITS];
static struct vhk_memmap *guest, *map, *held;

static struct vhk_memmap *make_guest(void) {
        struct vhk_region_desc r = { { GPA }, { UVA }, FZ_MEM, 0, fz_memfd };
        struct vhk_memmap *none, *m;

        MUST(vhk_memmap_new(&none) == 0 && vhk_memmap_add(none, &r, &m, NULL) >= 0);
        vhk_memmap_unref(none);
        return m;
}

static void adopt(struct vhk_memmap *new) {
        vhk_memmap_unref(map);
        map = new;
}

/* A reader at times: the next change happens in place or to another table. */
static void hold(bool on) {
        vhk_memmap_unref(held);
        held = on ? vhk_memmap_ref(map) : NULL;
}

static void update(struct script *s) {
        unsigned at = take8(s), n = take8(s), to = take8(s), perm = take8(s) % 4;
        bool is_gpa = at & 128, wild = at & 64;

        hold(n & 128);
        at %= N_UNITS;
        n %= 16;
        uint64_t iova = IOVA + at * UNIT, len = n * UNIT, user = (is_gpa ? GPA : UVA) + to * UNIT;
        if (wild) {                     /* any number at all: must be refused, or be of this memory */
                take(s, &user, 8);
                take(s, &len, 8);
                struct vhk_memmap *other = vhk_memmap_ref(map);
                int k = vhk_iotlb_update(&other, iova, len, user, is_gpa, 3, NULL);
                MUST(k < 0 || (len && len <= FZ_MEM));
                vhk_memmap_unref(other);
                return;
        }
        int k = vhk_iotlb_update(&map, iova, len, user, is_gpa, perm, NULL);
        bool legal = n > 0 && to + n <= N_GUEST;
        MUST(!legal || !perm || k >= 0);
        MUST(legal || k < 0);
        if (k < 0)
                return;
        for (unsigned i = 0; i < n && at + i < N_UNITS; i++) {
                model[at + i].guest = to + i;
                model[at + i].perm = (uint8_t)perm;
        }
}

static void invalidate(struct script *s) {
        unsigned at = take8(s) % N_UNITS, n = take8(s);

        hold(n & 128);
        n %= 16;
        MUST(vhk_iotlb_invalidate(&map, IOVA + at * UNIT, n * UNIT) >= 0);
        for (unsigned i = 0; i < N_UNITS; i++)
                if (!n || (i >= at && i < at + n))
                        model[i].perm = 0;
}

static void rebase(struct script *s) {
        struct vhk_memmap *other, *new;
        bool same = take8(s) & 1;

        other = same ? vhk_memmap_ref(guest) : make_guest();
        MUST(vhk_iotlb_rebase(map, other, &new) >= 0);
        adopt(new);
        vhk_memmap_unref(guest);
        guest = other;
        if (!same)                      /* another mapping: what is kept must be in it */
                for (unsigned i = 0; i < N_UNITS; i++)
                        if (!vhk_iotlb_host(map, IOVA + i * UNIT, 1, 0 + (model[i].perm ? model[i].perm : 3)))
                                model[i].perm = 0;
}

static void check(struct script *s) {
        unsigned at = take8(s) % N_UNITS, n = 1 + take8(s) % 16, perm = 1 + take8(s) % 3, known = 0;
        const uint8_t *base = guest->regs[0].host;
        struct iovec v[20];
        uint64_t iova = IOVA + at * UNIT, missing = 0, off = 0;

        n = VHK_MIN(n, N_UNITS - at);
        while (known < n && model[at + known].perm && (model[at + known].perm & perm) == perm)
                known++;
        MUST(vhk_iotlb_reach(map, iova, n * UNIT, perm) == known * UNIT);
        const uint8_t *host = vhk_iotlb_host(map, iova, n * UNIT, perm);
        MUST(!host || (known == n && host == base + model[at].guest * UNIT));
        int k = vhk_iotlb_iov(map, iova, n * UNIT, perm, v, VHK_N(v), &missing);
        if (known < n) {
                MUST(k == -EAGAIN && missing == iova + known * UNIT);
                return;
        }
        MUST(k > 0 && (k > 1 || host));
        for (int i = 0; i < k; i++)
                for (size_t j = 0; j < v[i].iov_len; j += UNIT, off += UNIT)
                        MUST((uint8_t *)v[i].iov_base + j == base + model[at + off / UNIT].guest * UNIT);
        MUST(off == n * UNIT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct script s = { size ? data : (const uint8_t *)"", NULL };

        s.end = s.p + size;
        fz_files();
        memset(model, 0, sizeof(model));
        struct fd_mark fds = fd_mark();
        guest = make_guest();
        MUST(vhk_iotlb_new(guest, &map) == 0);
        while (s.p < s.end)
                switch (take8(&s) % 8) {
                case 0: case 1: case 2: update(&s); break;
                case 3: invalidate(&s); break;
                case 4: rebase(&s); break;
                default: check(&s); break;
                }
        hold(false);
        map = vhk_memmap_unref(map);
        guest = vhk_memmap_unref(guest);
        fd_check(fds);
        return 0;
}
