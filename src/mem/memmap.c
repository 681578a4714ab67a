/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Snapshots of the region table (vhost-user, memory regions description; SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG).
 * A snapshot is made by control and read by rings; after it was made nothing in it changes but the counters of
 * references. Each region of each snapshot holds one reference to its mapping.
 *
 * Invariants: regs in order of gpa, by_uva in order of uva, by_host in order of host; no two
 * regions overlap in any; no region wraps.
 */
#include "mem/mem.h"

#include "base/error.h"
#include "mem/mapping.h"

#define U(x) ((unsigned long long)(x))

static void memmap_free(struct vhk_memmap *m) {
        for (uint32_t i = 0; m && !m->guest && i < m->n; i++)
                vhk_mapping_unref(m->regs[i].mapping);
        if (m) {
                vhk_iotlb_drop_gone(m);
                vhk_memmap_unref(m->guest);
        }
        free(m);
}

static void memmap_freep(struct vhk_memmap **m) {
        memmap_free(*m);
}

#define AUTO_MEMMAP VHK_CLEANUP(memmap_freep)

/* Room for @max regions; none in it yet. */
static struct vhk_memmap *memmap_alloc(uint32_t max) {
        size_t index = sizeof(struct vhk_memmap) + max * sizeof(struct vhk_memreg);
        struct vhk_memmap *m = calloc(1, index + 2 * max * sizeof(uint16_t));

        if (m) {
                m->refs = 1;
                m->by_uva = (const uint16_t *)((uint8_t *)m + index);
                m->by_host = m->by_uva + max;
        }
        return m;
}

int vhk_memmap_new(struct vhk_memmap **ret_m) {
        struct vhk_memmap *m = memmap_alloc(0);
        if (!m)
                return -ENOMEM;
        *ret_m = m;
        return 0;
}

struct vhk_memmap *vhk_memmap_ref(struct vhk_memmap *m) {
        vhk_refs_take(&m->refs);
        return m;
}

struct vhk_memmap *vhk_memmap_unref(struct vhk_memmap *m) {
        if (m && vhk_refs_drop(&m->refs))
                memmap_free(m);
        return NULL;
}

/* ---- making one ---- */

/* Takes the mapping. Insertion from behind: tables come in order, and 509 regions in the worst order cost little. */
static void insert(struct vhk_memmap *m, const struct vhk_region_desc *d, struct vhk_mapping *mapping) {
        uint32_t i = m->n++;

        for (; i && m->regs[i - 1].gpa > d->gpa.v; i--)
                m->regs[i] = m->regs[i - 1];
        m->regs[i] = (struct vhk_memreg){
                .gpa = d->gpa.v, .len = d->len, .host = mapping->host, .uva = d->uva.v, .mapping = mapping,
        };
}

static void copy(struct vhk_memmap *m, const struct vhk_memreg *r) {
        m->regs[m->n] = *r;
        vhk_mapping_ref(m->regs[m->n++].mapping);
}

static int refuse_overlap(struct vhk_error *ret_e, const char *rule, const char *space, uint64_t a, uint64_t a_len,
                          uint64_t b, uint64_t b_len) {
        return vhk_error_set(ret_e, -EEXIST, rule, "%s 0x%llx+0x%llx overlaps 0x%llx+0x%llx", space,
                             U(b), U(b_len), U(a), U(a_len));
}

static void sort_by_uva_and_host(struct vhk_memmap *m) {
        uint16_t *by_uva = (uint16_t *)m->by_uva, *by_host = (uint16_t *)m->by_host;

        for (uint32_t i = 0; i < m->n; i++) {
                uint32_t k = i;
                for (; k && m->regs[by_uva[k - 1]].uva > m->regs[i].uva; k--)
                        by_uva[k] = by_uva[k - 1];
                by_uva[k] = (uint16_t)i;
                for (k = i; k && (uintptr_t)m->regs[by_host[k - 1]].host > (uintptr_t)m->regs[i].host; k--)
                        by_host[k] = by_host[k - 1];
                by_host[k] = (uint16_t)i;
        }
}

/* The other orders, and the overlaps: neighbours are enough once the table is in order. */
static int finish(struct vhk_memmap *m, struct vhk_error *ret_e) {
        const uint16_t *by_uva = m->by_uva;

        sort_by_uva_and_host(m);
        for (uint32_t i = 1; i < m->n; i++) {
                const struct vhk_memreg *a = &m->regs[i - 1], *b = &m->regs[i];
                if (b->gpa - a->gpa < a->len)
                        return refuse_overlap(ret_e, "mem.overlap-gpa", "guest address", a->gpa, a->len, b->gpa, b->len);
        }
        for (uint32_t i = 1; i < m->n; i++) {
                const struct vhk_memreg *a = &m->regs[by_uva[i - 1]], *b = &m->regs[by_uva[i]];
                if (b->uva - a->uva < a->len)
                        return refuse_overlap(ret_e, "mem.overlap-uva", "user address", a->uva, a->len, b->uva, b->len);
        }
        return 0;
}

static int check_desc(const struct vhk_region_desc *d, struct stat *ret_st, struct vhk_error *ret_e) {
        uint64_t end;

        if (vhk_add_overflows(d->gpa.v, d->len, &end))
                return vhk_error_set(ret_e, -EINVAL, "mem.wrap-gpa", "guest address 0x%llx + length 0x%llx wraps around",
                                     U(d->gpa.v), U(d->len));
        if (vhk_add_overflows(d->uva.v, d->len, &end))
                return vhk_error_set(ret_e, -EINVAL, "mem.wrap-uva", "user address 0x%llx + length 0x%llx wraps around",
                                     U(d->uva.v), U(d->len));
        return vhk_mapping_check(d->fd, d->fd_offset, d->len, ret_st, ret_e);
}

/* The region of @m that @d describes once more, or NULL. */
static const struct vhk_memreg *find_same(const struct vhk_memmap *m, const struct vhk_region_desc *d, const struct stat *st) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(m, d->gpa.v);
        bool same = r && r->gpa == d->gpa.v && r->uva == d->uva.v && vhk_mapping_shows(r->mapping, st, d->fd_offset, d->len);
        return same ? r : NULL;
}

static int refuse_slots(struct vhk_error *ret_e) {
        return vhk_error_set(ret_e, -ENOSPC, "mem.slots", "more than %u memory regions", VHK_MEM_MAX_REGIONS);
}

static int refuse_memory(struct vhk_error *ret_e) {
        return vhk_error_set(ret_e, -ENOMEM, "mem.no-memory", "no memory for the region table");
}

int vhk_memmap_replace(const struct vhk_memmap *old, const struct vhk_region_desc *d, unsigned n, struct vhk_memmap **ret_m,
                       struct vhk_error *ret_e) {
        if (n > VHK_MEM_MAX_REGIONS)
                return refuse_slots(ret_e);
        AUTO_MEMMAP struct vhk_memmap *m = memmap_alloc(n);
        if (!m)
                return refuse_memory(ret_e);
        for (unsigned i = 0; i < n; i++) {
                struct vhk_mapping *mapping;
                struct stat st;
                int k = check_desc(&d[i], &st, ret_e);
                if (k < 0)
                        return k;
                const struct vhk_memreg *same = old ? find_same(old, &d[i], &st) : NULL;
                if (same)
                        mapping = vhk_mapping_ref(same->mapping);
                else if ((k = vhk_mapping_new(d[i].fd, &st, d[i].fd_offset, d[i].len, &mapping, ret_e)) < 0)
                        return k;
                insert(m, &d[i], mapping);
        }
        int k = finish(m, ret_e);
        if (k < 0)
                return k;
        *ret_m = VHK_STEAL(m);
        return 0;
}

int vhk_memmap_add(struct vhk_memmap *old, const struct vhk_region_desc *d, struct vhk_memmap **ret_m, struct vhk_error *ret_e) {
        struct vhk_mapping *mapping;
        struct stat st;
        int k = check_desc(d, &st, ret_e);

        if (k < 0)
                return k;
        if (find_same(old, d, &st)) {
                *ret_m = vhk_memmap_ref(old);
                return 1;
        }
        if (old->n == VHK_MEM_MAX_REGIONS)
                return refuse_slots(ret_e);
        AUTO_MEMMAP struct vhk_memmap *m = memmap_alloc(old->n + 1);
        if (!m)
                return refuse_memory(ret_e);
        k = vhk_mapping_new(d->fd, &st, d->fd_offset, d->len, &mapping, ret_e);
        if (k < 0)
                return k;
        for (uint32_t i = 0; i < old->n; i++)
                copy(m, &old->regs[i]);
        insert(m, d, mapping);
        k = finish(m, ret_e);
        if (k < 0)
                return k;
        *ret_m = VHK_STEAL(m);
        return 0;
}

int vhk_memmap_remove(const struct vhk_memmap *old, vhk_gpa_t gpa, vhk_uva_t uva, uint64_t len, struct vhk_memmap **ret_m,
                      struct vhk_error *ret_e) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(old, gpa.v);

        if (!r || r->gpa != gpa.v || r->uva != uva.v || r->len != len)
                return vhk_error_set(ret_e, -ENOENT, "mem.no-such-region",
                                     "no region at guest address 0x%llx, user address 0x%llx, length 0x%llx",
                                     U(gpa.v), U(uva.v), U(len));
        AUTO_MEMMAP struct vhk_memmap *m = memmap_alloc(old->n - 1);
        if (!m)
                return refuse_memory(ret_e);
        for (uint32_t i = 0; i < old->n; i++)
                if (&old->regs[i] != r)
                        copy(m, &old->regs[i]);
        int k = finish(m, ret_e);       /* the second order; it cannot fail */
        if (k < 0)
                return k;
        *ret_m = VHK_STEAL(m);
        return 0;
}

int vhk_memmap_add_mapping(const struct vhk_memmap *old, uint64_t gpa, uint64_t len, struct vhk_mapping *mapping,
                           struct vhk_memmap **ret_m, struct vhk_error *ret_e) {
        struct vhk_region_desc d = { .gpa = { gpa }, .uva = { gpa }, .len = len };
        uint64_t end;
        int k = 0;

        AUTO_MEMMAP struct vhk_memmap *m = memmap_alloc(old->n + 1);
        if (!len || vhk_add_overflows(gpa, len, &end))
                k = vhk_error_set(ret_e, -EINVAL, "mem.wrap-gpa", "address 0x%llx + length 0x%llx wraps around", U(gpa), U(len));
        else if (old->n == VHK_MEM_MAX_REGIONS)
                k = refuse_slots(ret_e);
        else if (!m)
                k = refuse_memory(ret_e);
        if (k < 0) {
                vhk_mapping_unref(mapping);
                return k;
        }
        for (uint32_t i = 0; i < old->n; i++)
                copy(m, &old->regs[i]);
        insert(m, &d, mapping);
        k = finish(m, ret_e);
        if (k < 0)
                return k;
        *ret_m = VHK_STEAL(m);
        return 0;
}

int vhk_memmap_drop(const struct vhk_memmap *old, uint64_t first, uint64_t last, struct vhk_memmap **ret_m) {
        AUTO_MEMMAP struct vhk_memmap *m = memmap_alloc(old->n);
        if (!m)
                return -ENOMEM;
        for (uint32_t i = 0; i < old->n; i++)
                if (old->regs[i].gpa > last || old->regs[i].gpa + (old->regs[i].len - 1) < first)
                        copy(m, &old->regs[i]);
        int k = finish(m, NULL);        /* the second order; it cannot fail */
        if (k < 0)
                return k;
        *ret_m = VHK_STEAL(m);
        return 0;
}

/* ---- reading one ---- */

bool vhk_memmap_is_bad(const struct vhk_memmap *m, uint32_t *seen) {
        uint32_t now = vhk_sigbus_count();

        if (vhk_likely(now == *seen))
                return false;
        m = vhk_memmap_guest(m);
        for (uint32_t i = 0; i < m->n; i++)
                if (vhk_mapping_is_bad(m->regs[i].mapping))
                        return true;    /* *seen stays: bad it remains */
        *seen = now;
        return false;
}

/* The searches halve without a branch that a guest could make unpredictable: the last region that
 * begins at or below. */
VHK_HOT const struct vhk_memreg *vhk_memmap_find_gpa(const struct vhk_memmap *m, uint64_t gpa) {
        const struct vhk_memreg *r = m->regs;
        uint32_t n = m->n;

        if (!n)
                return NULL;
        for (; n > 1; n -= n / 2)
                r = r[n / 2].gpa <= gpa ? r + n / 2 : r;
        return gpa - r->gpa < r->len ? r : NULL;        /* below the first one wraps to more than any length */
}

const struct vhk_memreg *vhk_memmap_find_uva(const struct vhk_memmap *m, uint64_t uva) {
        const uint16_t *i = m->by_uva;
        uint32_t n = m->n;

        if (!n)
                return NULL;
        for (; n > 1; n -= n / 2)
                i = m->regs[i[n / 2]].uva <= uva ? i + n / 2 : i;
        const struct vhk_memreg *r = &m->regs[*i];
        return uva - r->uva < r->len ? r : NULL;
}

const struct vhk_memreg *vhk_memmap_find_host(const struct vhk_memmap *m, const void *host) {
        const uint16_t *i = m->by_host;
        uint32_t n = m->n;

        if (!n)
                return NULL;
        for (; n > 1; n -= n / 2)
                i = (uintptr_t)m->regs[i[n / 2]].host <= (uintptr_t)host ? i + n / 2 : i;
        const struct vhk_memreg *r = &m->regs[*i];
        return (uintptr_t)host - (uintptr_t)r->host < r->len ? r : NULL;
}

/* Guest memory only. */
static bool has_region(const struct vhk_memmap *m, const struct vhk_memreg *r) {
        const struct vhk_memreg *same = vhk_memmap_find_gpa(m, r->gpa);

        return same && same->gpa == r->gpa && same->len == r->len && same->host == r->host && same->mapping == r->mapping;
}

bool vhk_memmap_extends(const struct vhk_memmap *new, const struct vhk_memmap *old) {
        if (new == old)
                return true;
        if (!new->guest != !old->guest)
                return false;
        if (new->guest)
                return new->era == old->era && vhk_memmap_extends(new->guest, old->guest);
        for (uint32_t i = 0; i < old->n; i++)
                if (!has_region(new, &old->regs[i]))
                        return false;
        return true;
}

int vhk_memmap_iov(const struct vhk_memmap *m, struct vhk_mem_cache *c, uint64_t gpa, uint64_t len,
                   struct iovec *iov, unsigned max) {
        unsigned n = 0;
        uint64_t end;

        if (vhk_add_overflows(gpa, len, &end))
                return -EFAULT;
        do {
                uint8_t *host = vhk_mem_host(m, c, gpa, 0);     /* the cache now holds the region of gpa */
                if (!host)
                        return -EFAULT;
                uint64_t part = VHK_MIN(len, c->len - (gpa - c->gpa));
                if (n && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == host) {
                        iov[n - 1].iov_len += part;
                } else if (part) {
                        if (n == max)
                                return -ENOSPC;
                        iov[n++] = (struct iovec){ .iov_base = host, .iov_len = part };
                }
                gpa += part;
                len -= part;
        } while (len);
        return (int)n;
}

void *vhk_memmap_host_uva(const struct vhk_memmap *m, vhk_uva_t uva, uint64_t len) {
        const struct vhk_memreg *r = vhk_memmap_find_uva(m, uva.v);
        return r && len <= r->len - (uva.v - r->uva) ? r->host + (uva.v - r->uva) : NULL;
}

void *vhk_memmap_host_gpa(const struct vhk_memmap *m, vhk_gpa_t gpa, uint64_t len) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(m, gpa.v);
        return r && len <= r->len - (gpa.v - r->gpa) ? r->host + (gpa.v - r->gpa) : NULL;
}
