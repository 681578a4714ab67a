/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The lender's side of <vhostkit/memory.h>: the regions that a front-end hands out. One thread at a time changes it;
 * vhk_memory_find() only reads. Regions are kept in order of guest address and in order of user address.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/struct.h"
#include "mem/mem.h"

#define HUGE_PAGE (UINT64_C(2) << 20)  /* SPDK's vhost target maps and touches whole ones, whatever a region's end is */
#define FIRST_GPA (UINT64_C(2) << 20)   /* of memory without a guest; 0 looks like "not set" to some peers */

struct lent {
        struct vhk_region r;            /* fd: our duplicate */
        bool is_ours;                   /* mapped here by vhk_memory_alloc() ... */
        bool is_released;               /* ... and to be used again */
        uint64_t size;                  /* ... which was asked for so many bytes */
        uint64_t born;                  /* generation of the table with it */
};

struct vhk_memory {
        struct lent **by_gpa, **by_va;
        unsigned n, room;
        uint64_t generation;
        uint64_t first, last;           /* guest addresses that vhk_memory_alloc() may choose, @last included */
};

VHK_API int vhk_memory_new(struct vhk_memory **ret_m) {
        struct vhk_memory *m = calloc(1, sizeof(*m));
        if (!m)
                return -ENOMEM;
        m->last = UINT64_MAX;
        *ret_m = m;
        return 0;
}

VHK_API int vhk_memory_set_range(struct vhk_memory *m, uint64_t first, uint64_t last) {
        if (first > last)
                return -EINVAL;
        m->first = first;
        m->last = last;
        return 0;
}

static void lent_free(struct lent *l) {
        if (!l)
                return;
        if (l->is_ours)
                munmap(l->r.va, l->r.len);
        vhk_close(&l->r.fd);
        free(l);
}

VHK_API struct vhk_memory *vhk_memory_free(struct vhk_memory *m) {
        if (!m)
                return NULL;
        for (unsigned i = 0; i < m->n; i++)
                lent_free(m->by_gpa[i]);
        free(m->by_gpa);
        free(m->by_va);
        free(m);
        return NULL;
}

static uint64_t gpa_of(const struct lent *l) { return l->r.gpa.v; }
static uint64_t va_of(const struct lent *l) { return (uintptr_t)l->r.va; }

/* Index of the first entry that begins above @at. */
static unsigned upper(struct lent *const *v, unsigned n, uint64_t (*key)(const struct lent *), uint64_t at) {
        unsigned low = 0;

        while (low < n) {
                unsigned mid = low + (n - low) / 2;
                if (key(v[mid]) <= at)
                        low = mid + 1;
                else
                        n = mid;
        }
        return low;
}

/* Would [at, at + len) overlap a neighbour, if it came before entry @i? */
static bool overlaps(struct lent *const *v, unsigned n, unsigned i, uint64_t (*key)(const struct lent *),
                     uint64_t at, uint64_t len) {
        return (i > 0 && at - key(v[i - 1]) < v[i - 1]->r.len) || (i < n && key(v[i]) - at < len);
}

static int grow(struct vhk_memory *m) {
        if (m->n < m->room)
                return 0;
        unsigned room = m->room ? 2 * m->room : 8;
        struct lent **a = realloc(m->by_gpa, room * sizeof(*a));
        if (a)
                m->by_gpa = a;
        struct lent **b = realloc(m->by_va, room * sizeof(*b));
        if (b)
                m->by_va = b;
        if (!a || !b)
                return -ENOMEM;
        m->room = room;
        return 0;
}

static void insert(struct lent **v, unsigned n, unsigned i, struct lent *l) {
        memmove(v + i + 1, v + i, (n - i) * sizeof(*v));
        v[i] = l;
}

static void take_out(struct lent **v, unsigned n, const struct lent *l) {
        unsigned i = 0;

        while (v[i] != l)
                i++;
        memmove(v + i, v + i + 1, (n - i - 1) * sizeof(*v));
}

static int check_region(const struct vhk_region *r) {
        uint64_t end, in_file;
        struct stat st;

        if (!r->len || !r->va)
                return -EINVAL;
        if ((r->len | r->gpa.v | r->fd_offset | (uintptr_t)r->va) % VHK_PAGE)
                return -EINVAL;
        if (vhk_add_overflows(r->gpa.v, r->len, &end) || vhk_add_overflows((uint64_t)(uintptr_t)r->va, r->len, &end) ||
            vhk_add_overflows(r->fd_offset, r->len, &in_file))
                return -EINVAL;
        if (fstat(r->fd, &st) < 0)
                return vhk_errno();
        return S_ISREG(st.st_mode) && in_file <= (uint64_t)st.st_size ? 0 : -EINVAL;
}

/* On success *l is the table's. */
static int add_lent(struct vhk_memory *m, struct lent *l) {
        unsigned g = upper(m->by_gpa, m->n, gpa_of, gpa_of(l)), v = upper(m->by_va, m->n, va_of, va_of(l));

        if (overlaps(m->by_gpa, m->n, g, gpa_of, gpa_of(l), l->r.len) || overlaps(m->by_va, m->n, v, va_of, va_of(l), l->r.len))
                return -EEXIST;
        int k = grow(m);
        if (k < 0)
                return k;
        insert(m->by_gpa, m->n, g, l);
        insert(m->by_va, m->n, v, l);
        m->n++;
        l->born = ++m->generation;
        return 0;
}

static void lent_freep(struct lent **l) {
        lent_free(*l);
}

VHK_API int vhk_memory_add(struct vhk_memory *m, const struct vhk_region *r) {
        struct vhk_region own = { .size = sizeof(own) };

        int k = VHK_STRUCT_TAKE(&own, r, fd_offset);
        if (k == 0)
                k = check_region(&own);
        if (k < 0)
                return k;
        int fd = fcntl(own.fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
                return vhk_errno();
        VHK_CLEANUP(lent_freep) struct lent *l = malloc(sizeof(*l));
        if (!l) {
                close(fd);
                return -ENOMEM;
        }
        *l = (struct lent){ .r = own };
        l->r.fd = fd;
        k = add_lent(m, l);
        if (k < 0)
                return k;
        VHK_STEAL(l);
        return 0;
}

VHK_API int vhk_memory_remove(struct vhk_memory *m, vhk_gpa_t gpa, uint64_t len) {
        unsigned i = upper(m->by_gpa, m->n, gpa_of, gpa.v);

        struct lent *l = i ? m->by_gpa[i - 1] : NULL;
        if (!l || gpa_of(l) != gpa.v || (l->r.len != len && !(l->is_ours && l->size == len)))
                return -ENOENT;
        take_out(m->by_gpa, m->n, l);
        take_out(m->by_va, m->n, l);
        m->n--;
        m->generation++;
        lent_free(l);
        return 0;
}

/* ---- memory of our own ---- */

/* A peer that maps it needs no guard against its end moving, and nobody can change that. */
static int sealed_memfd(uint64_t len) {
        VHK_AUTOCLOSE int fd = memfd_create("vhostkit", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0 || ftruncate(fd, (off_t)len) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return vhk_errno();
        return VHK_STEAL_FD(fd);
}

/* Maps @fd shared; from 2 MiB on at a multiple of that. @is_large: where the system likes to, in
 * huge pages. */
static int map_aligned(int fd, uint64_t len, bool is_large, void **ret_va) {
        uint64_t slack = len >= HUGE_PAGE ? HUGE_PAGE : 0;
        uint8_t *p = mmap(NULL, len + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
                return vhk_errno();
        uint64_t before = slack ? (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE : 0;
        if (mmap(p + before, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
                int k = vhk_errno();
                munmap(p, len + slack);
                return k;
        }
        if (before)
                munmap(p, before);
        if (slack - before)
                munmap(p + before + len, slack - before);
        if (is_large)
                madvise(p + before, len, MADV_HUGEPAGE);        /* a hint */
        *ret_va = p + before;
        return 0;
}

/* @n at the next multiple of @unit; false: there is none. */
static bool round_up(uint64_t n, uint64_t unit, uint64_t *ret_n) {
        if (vhk_add_overflows(n, unit - 1, ret_n))
                return false;
        *ret_n -= *ret_n % unit;
        return true;
}

/* Is there room for @len bytes at @at, or at the next multiple of @unit after it? */
static bool fits(const struct vhk_memory *m, uint64_t at, uint64_t len, uint64_t unit, uint64_t *ret_gpa) {
        const uint64_t last = VHK_MIN(m->last, UINT64_MAX - 1);         /* a region's end is a number */
        uint64_t up;

        if (!round_up(VHK_MAX(at, m->first), unit, &up) || up > last || len - 1 > last - up)
                return false;
        *ret_gpa = up;
        return true;
}

/*
 * A place for @size bytes: a multiple of 2 MiB at a multiple of 2 MiB, or of pages where the range
 * has no room for that. Not at 0, unless there is no other place.
 */
static int find_place(const struct vhk_memory *m, uint64_t size, uint64_t *ret_gpa, uint64_t *ret_len) {
        const uint64_t units[] = { HUGE_PAGE, VHK_PAGE };
        const struct vhk_region *top = m->n ? &m->by_gpa[m->n - 1]->r : NULL;
        uint64_t end = top ? top->gpa.v + top->len : 0, len;

        for (size_t i = 0; i < VHK_N(units); i++) {
                if (!round_up(size, units[i], &len) || len > INT64_MAX - HUGE_PAGE)
                        return -ENOMEM;
                if (fits(m, VHK_MAX(end, FIRST_GPA), len, units[i], ret_gpa) || fits(m, end, len, units[i], ret_gpa)) {
                        *ret_len = len;
                        return 0;
                }
        }
        return -ENOSPC;
}

VHK_API int vhk_memory_alloc(struct vhk_memory *m, size_t size, void **ret_va) {
        uint64_t len, gpa;
        void *va;

        if (!size)
                return -EINVAL;
        int k = find_place(m, size, &gpa, &len);
        if (k < 0)
                return k;
        VHK_CLEANUP(lent_freep) struct lent *l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        int fd = l->r.fd = sealed_memfd(len);
        if (fd < 0)
                return fd;
        k = map_aligned(fd, len, size >= HUGE_PAGE, &va);
        if (k < 0)
                return k;
        l->is_ours = true;
        l->size = size;
        l->r = (struct vhk_region){ .size = sizeof(l->r), .gpa = { gpa }, .va = va, .len = len, .fd = fd };
        k = add_lent(m, l);
        if (k < 0)
                return k;
        VHK_STEAL(l);
        *ret_va = va;
        return 0;
}

/* ---- looking ---- */

VHK_API int vhk_memory_get_region(const struct vhk_memory *m, unsigned i, struct vhk_region *ret_r) {
        if (i >= m->n)
                return -ENOENT;
        return VHK_STRUCT_GIVE(ret_r, &m->by_gpa[i]->r);
}

/* NULL: [va, va + len) is not in one region. */
static struct lent *find(const struct vhk_memory *m, const void *va, uint64_t len) {
        unsigned i = upper(m->by_va, m->n, va_of, (uintptr_t)va);
        struct lent *l = i ? m->by_va[i - 1] : NULL;
        uint64_t off = l ? (uintptr_t)va - va_of(l) : 0;

        return l && off < l->r.len && len <= l->r.len - off ? l : NULL;
}

VHK_API int vhk_memory_find(const struct vhk_memory *m, const void *va, uint64_t len, vhk_gpa_t *ret_gpa) {
        const struct lent *l = find(m, va, len);

        if (!l)
                return -EFAULT;
        ret_gpa->v = gpa_of(l) + ((uintptr_t)va - va_of(l));
        return 0;
}

int vhk_memory_find_region(const struct vhk_memory *m, const void *va, uint64_t len, uint64_t generation, struct vhk_region *ret_r) {
        const struct lent *l = find(m, va, len);

        if (!l || l->born > generation)
                return -EFAULT;
        *ret_r = l->r;
        return 0;
}

void vhk_memory_release(struct vhk_memory *m, const void *va) {
        struct lent *l = find(m, va, 1);

        if (l && l->is_ours)
                l->is_released = true;
}

void *vhk_memory_reuse(struct vhk_memory *m, uint64_t len) {
        struct lent *best = NULL;

        for (unsigned i = 0; i < m->n; i++) {
                struct lent *l = m->by_gpa[i];
                if (l->is_released && l->r.len >= len && (!best || l->r.len < best->r.len))
                        best = l;
        }
        if (!best)
                return NULL;
        best->is_released = false;
        memset(best->r.va, 0, len);
        return best->r.va;
}

unsigned vhk_memory_n_regions(const struct vhk_memory *m) {
        return m->n;
}

uint64_t vhk_memory_generation(const struct vhk_memory *m) {
        return m->generation;
}
