/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Translations of I/O virtual addresses, see iotlb.h. Made by control, read by rings; immutable but for the references while anybody
 * but control holds them. A change copies the table (at most 4096 entries of 40 bytes) if a ring may look at it, and else happens
 * where it is: then an update costs a move of what lies behind it. Source: vhost-user, "IOMMU support".
 */
#include "mem/iotlb.h"

#include "base/error.h"

#define U(x) ((unsigned long long)(x))
#define EVICTED (VHK_IOTLB_MAX / 16)

static struct vhk_memmap *iotlb_alloc(struct vhk_memmap *guest, uint32_t room) {
        struct vhk_memmap *m = malloc(sizeof(*m) + room * sizeof(struct vhk_memreg));

        if (m)
                *m = (struct vhk_memmap){ .refs = 1, .room = room, .guest = vhk_memmap_ref(guest) };
        return m;
}

int vhk_iotlb_new(struct vhk_memmap *guest, struct vhk_memmap **ret_m) {
        struct vhk_memmap *m = iotlb_alloc(guest, 0);
        if (!m)
                return -ENOMEM;
        *ret_m = m;
        return 0;
}

/* ---- what invalidations took away ---- */

/* Ranges of guest memory, as host addresses in order. */
struct vhk_iotlb_gone {
        unsigned refs;                  /* shared (atomic) */
        uint32_t n;
        struct gone_range { uintptr_t first, last; } ranges[];
};

static struct vhk_iotlb_gone *gone_unref(struct vhk_iotlb_gone *g) {
        if (g && vhk_refs_drop(&g->refs))
                free(g);
        return NULL;
}

void vhk_iotlb_drop_gone(struct vhk_memmap *m) {
        for (unsigned i = 0; i < VHK_IOTLB_GONE; i++)
                m->gone[i] = gone_unref(m->gone[i]);
}

static int compare_ranges(const void *a, const void *b) {
        const struct gone_range *x = a, *y = b;

        return (x->first > y->first) - (x->first < y->first);
}

/* A range may be there twice (two I/O addresses of a page): then it ends where the farthest of
 * those below it does. */
static void sort_ranges(struct vhk_iotlb_gone *g) {
        qsort(g->ranges, g->n, sizeof(g->ranges[0]), compare_ranges);
        for (uint32_t i = 1; i < g->n; i++)
                g->ranges[i].last = VHK_MAX(g->ranges[i].last, g->ranges[i - 1].last);
}

static bool gone_has(const struct vhk_iotlb_gone *g, uintptr_t first, uintptr_t last) {
        uint32_t low = 0, n = g->n;     /* how many begin at or below @last */

        while (low < n) {
                uint32_t mid = low + (n - low) / 2;
                if (g->ranges[mid].first <= last)
                        low = mid + 1;
                else
                        n = mid;
        }
        return low && g->ranges[low - 1].last >= first;
}

bool vhk_iotlb_took(const struct vhk_memmap *new, const struct vhk_memmap *old, const void *host, uint64_t len) {
        if (!len)
                return false;
        if (new->era - old->era > VHK_IOTLB_GONE)
                return true;
        for (uint64_t era = old->era; era != new->era; era++) {
                const struct vhk_iotlb_gone *g = new->gone[(era + 1) % VHK_IOTLB_GONE];
                if (!g || gone_has(g, (uintptr_t)host, (uintptr_t)host + (uintptr_t)(len - 1)))
                        return true;
        }
        return false;
}

/* What belongs to the table as a whole. */
static void copy_state(struct vhk_memmap *m, const struct vhk_memmap *old) {
        for (unsigned i = 0; i < VHK_IOTLB_GONE; i++) {
                m->gone[i] = old->gone[i];
                if (m->gone[i])
                        vhk_refs_take(&m->gone[i]->refs);
        }
        m->era = old->era;
        m->evicted = old->evicted;
        m->hand = old->hand;
}

/* Makes *m one that may be changed, with room for @more entries. */
static int make_own(struct vhk_memmap **m, uint32_t more) {
        struct vhk_memmap *old = *m;
        uint32_t room = old->n + more;

        bool alone = vhk_refs_alone(&old->refs);        /* whoever gave up a reference has read his last */
        if (alone && room <= old->room)
                return 0;
        if (alone)
                room += room / 2;       /* a table that grows in place is not copied each time */
        struct vhk_memmap *new = iotlb_alloc(old->guest, room);
        if (!new)
                return -ENOMEM;
        copy_state(new, old);
        new->n = old->n;
        memcpy(new->regs, old->regs, old->n * sizeof(*old->regs));
        vhk_memmap_unref(old);
        *m = new;
        return 0;
}

/* Behind all others; or as a part of the last, if it continues that. */
static void append(struct vhk_memmap *m, struct vhk_memreg r) {
        struct vhk_memreg *last = m->n ? &m->regs[m->n - 1] : NULL;

        if (last && last->gpa + last->len == r.gpa && last->host + last->len == r.host && last->perm == r.perm &&
            last->mapping == r.mapping)
                last->len += r.len;
        else
                m->regs[m->n++] = r;
}

static uint64_t last_of(const struct vhk_memreg *r) { return r->gpa + (r->len - 1); }

/* The first entry that ends at or behind @first. */
static uint32_t find_end(const struct vhk_memmap *m, uint64_t first) {
        uint32_t low = 0, n = m->n;

        while (low < n) {
                uint32_t mid = low + (n - low) / 2;
                if (last_of(&m->regs[mid]) < first)
                        low = mid + 1;
                else
                        n = mid;
        }
        return low;
}

/* A table that is taken apart: what came before ends it now, what comes behind is set aside at its end. */
struct cut {
        struct vhk_memreg tail;         /* of an entry that reached beyond the cut; len 0: none */
        uint32_t at, n;                 /* the others behind the cut */
};

/* Takes [first, last] out of @m and makes room for @more entries, which is there. The cut is closed by mend(). */
static struct cut cut(struct vhk_memmap *m, uint64_t first, uint64_t last, uint32_t more) {
        uint32_t from = find_end(m, first), to = from;
        struct cut c = { .tail.len = 0 };

        while (to < m->n && m->regs[to].gpa <= last)
                to++;
        if (to > from && last_of(&m->regs[to - 1]) > last) {
                c.tail = m->regs[to - 1];
                uint64_t gone = last + 1 - c.tail.gpa;
                c.tail.gpa += gone;
                c.tail.host += gone;
                c.tail.len -= gone;
        }
        if (to > from && m->regs[from].gpa < first) {
                m->regs[from].len = first - m->regs[from].gpa;
                from++;
        }
        c.at = from + more + !!c.tail.len;
        c.n = m->n - to;
        memmove(m->regs + c.at, m->regs + to, c.n * sizeof(*m->regs));
        m->n = from;
        return c;
}

static void mend(struct vhk_memmap *m, const struct cut *c) {
        if (c->tail.len)
                append(m, c->tail);
        if (!c->n)
                return;
        append(m, m->regs[c->at]);
        memmove(m->regs + m->n, m->regs + c->at + 1, (c->n - 1) * sizeof(*m->regs));
        m->n += c->n - 1;
}

/* Some entries have to go: those whose turn it is, but not the one that has just come. Several at once: a flood moves the table
 * once for all of them. */
static void evict(struct vhk_memmap *m, uint64_t spare) {
        uint32_t kept = find_end(m, spare), from = m->hand % m->n;

        if (from == kept)
                from = (from + 1) % m->n;
        uint32_t to = VHK_MIN(from + EVICTED, m->n);
        if (from < kept && kept < to)
                to = kept;
        memmove(m->regs + from, m->regs + to, (m->n - to) * sizeof(*m->regs));
        m->n -= to - from;
        m->hand = from;                 /* those behind them are next */
        m->evicted = true;
}

static const struct vhk_memreg *find_target(const struct vhk_memmap *guest, uint64_t at, bool is_gpa, uint64_t *ret_off) {
        const struct vhk_memreg *r = is_gpa ? vhk_memmap_find_gpa(guest, at) : vhk_memmap_find_uva(guest, at);

        if (r)
                *ret_off = at - (is_gpa ? r->gpa : r->uva);
        return r;
}

/* Is [at, at + len) guest memory? In how many regions? 0: it is not. */
static uint32_t count_targets(const struct vhk_memmap *guest, uint64_t at, uint64_t len, bool is_gpa) {
        uint32_t n = 0;

        while (len) {
                uint64_t off;
                const struct vhk_memreg *r = find_target(guest, at, is_gpa, &off);
                if (!r)
                        return 0;
                uint64_t k = VHK_MIN(len, r->len - off);
                at += k;
                len -= k;
                n++;
        }
        return n;
}

static void append_targets(struct vhk_memmap *m, uint64_t iova, uint64_t len, uint64_t at, bool is_gpa, unsigned perm) {
        while (len) {
                uint64_t off;
                const struct vhk_memreg *r = find_target(m->guest, at, is_gpa, &off);
                uint64_t k = VHK_MIN(len, r->len - off);
                append(m, (struct vhk_memreg){ .gpa = iova, .len = k, .host = r->host + off, .perm = perm, .mapping = r->mapping });
                iova += k;
                at += k;
                len -= k;
        }
}

/* Does it lead elsewhere than what is known of that range? Requests may use the former place, which
 * will not be remembered. */
static bool replaces(const struct vhk_memmap *m, uint64_t iova, uint64_t len, uint64_t at, bool is_gpa) {
        for (uint32_t i = find_end(m, iova); i < m->n && m->regs[i].gpa <= iova + (len - 1); i++) {
                uint64_t first = VHK_MAX(m->regs[i].gpa, iova), off;
                const struct vhk_memreg *r = find_target(m->guest, at + (first - iova), is_gpa, &off);
                if (!r || r->host + off != m->regs[i].host + (first - m->regs[i].gpa))
                        return true;
        }
        return false;
}

int vhk_iotlb_update(struct vhk_memmap **m, uint64_t iova, uint64_t len, uint64_t user_addr, bool is_gpa, unsigned perm,
                     struct vhk_error *ret_e) {
        uint64_t end;

        if (!len || vhk_add_overflows(iova, len, &end) || vhk_add_overflows(user_addr, len, &end))
                return vhk_error_set(ret_e, -EINVAL, "iotlb.range", "a translation of 0x%llx+0x%llx to 0x%llx", U(iova), U(len), U(user_addr));
        uint32_t n = count_targets((*m)->guest, user_addr, len, is_gpa);
        if (!n)
                return vhk_error_set(ret_e, -EFAULT, "iotlb.user-addr", "a translation to 0x%llx+0x%llx, which is not guest memory",
                                     U(user_addr), U(len));
        if (make_own(m, n + 1) < 0)                             /* one that is cut in two makes one more */
                return vhk_error_set(ret_e, -ENOMEM, "iotlb.no-memory", "no memory for a translation");
        (*m)->evicted |= replaces(*m, iova, len, user_addr, is_gpa);
        struct cut c = cut(*m, iova, iova + len - 1, n);
        append_targets(*m, iova, len, user_addr, is_gpa, perm);
        mend(*m, &c);
        while ((*m)->n > VHK_IOTLB_MAX)
                evict(*m, iova);
        return 0;
}

/* The guest memory that [first, last] leads to. NULL: no memory for that, so it may be any. */
static struct vhk_iotlb_gone *collect(const struct vhk_memmap *m, uint64_t first, uint64_t last) {
        uint32_t from = find_end(m, first), to = from;

        while (to < m->n && m->regs[to].gpa <= last)
                to++;
        struct vhk_iotlb_gone *g = malloc(sizeof(*g) + (to - from) * sizeof(g->ranges[0]));
        if (!g)
                return NULL;
        g->refs = 1;
        g->n = to - from;
        for (uint32_t i = 0; i < g->n; i++) {
                const struct vhk_memreg *r = &m->regs[from + i];
                uint64_t a = VHK_MAX(first, r->gpa), b = VHK_MIN(last, last_of(r));
                g->ranges[i].first = (uintptr_t)r->host + (uintptr_t)(a - r->gpa);
                g->ranges[i].last = (uintptr_t)r->host + (uintptr_t)(b - r->gpa);
        }
        sort_ranges(g);
        return g;
}

int vhk_iotlb_invalidate(struct vhk_memmap **m, uint64_t iova, uint64_t len) {
        uint64_t last;

        if (!len || len == UINT64_MAX)
                iova = 0, last = UINT64_MAX;
        else if (vhk_add_overflows(iova, len - 1, &last))
                last = UINT64_MAX;
        if (!(*m)->evicted && !vhk_iotlb_touches(*m, iova, last))
                return 1;
        if (make_own(m, 1) < 0)
                return -ENOMEM;
        struct vhk_iotlb_gone *gone = (*m)->evicted ? NULL : collect(*m, iova, last);
        struct cut c = cut(*m, iova, last, 0);
        mend(*m, &c);
        (*m)->era++;
        gone_unref((*m)->gone[(*m)->era % VHK_IOTLB_GONE]);
        (*m)->gone[(*m)->era % VHK_IOTLB_GONE] = gone;
        (*m)->evicted = false;          /* requests of the time before are waited for */
        return 0;
}

int vhk_iotlb_rebase(const struct vhk_memmap *old, struct vhk_memmap *guest, struct vhk_memmap **ret_m) {
        struct vhk_memmap *m = iotlb_alloc(guest, old->n);
        uint32_t k = 0;

        if (!m)
                return -ENOMEM;
        copy_state(m, old);
        for (uint32_t i = 0; i < old->n; i++) {
                uint32_t tried = 0;
                for (; tried < guest->n && guest->regs[k % guest->n].mapping != old->regs[i].mapping; tried++)
                        k++;
                if (tried < guest->n)
                        append(m, old->regs[i]);
        }
        *ret_m = m;
        return 0;
}

/* ---- reading one ---- */

bool vhk_iotlb_touches(const struct vhk_memmap *m, uint64_t first, uint64_t last) {
        uint32_t i = find_end(m, first);

        return i < m->n && m->regs[i].gpa <= last;
}

static const struct vhk_memreg *find(const struct vhk_memmap *m, uint64_t iova, unsigned perm) {
        const struct vhk_memreg *r = vhk_memmap_find_gpa(m, iova);

        return r && (r->perm & perm) == perm ? r : NULL;
}

uint64_t vhk_iotlb_reach(const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm) {
        uint64_t done = 0;

        while (done < len) {
                const struct vhk_memreg *r = find(m, iova + done, perm);
                if (!r)
                        break;
                done += VHK_MIN(len - done, r->len - (iova + done - r->gpa));
        }
        return done;
}

void *vhk_iotlb_host(const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm) {
        struct iovec whole;
        uint64_t miss;

        /* entries that differ in permission may continue each other */
        return vhk_iotlb_iov(m, iova, len, perm, &whole, 1, &miss) == 1 ? whole.iov_base : NULL;
}

int vhk_iotlb_iov(const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm, struct iovec *iov, unsigned max,
                  uint64_t *ret_miss) {
        unsigned n = 0;
        uint64_t end;

        if (vhk_add_overflows(iova, len, &end))
                return -EFAULT;
        while (len) {
                const struct vhk_memreg *r = find(m, iova, perm);
                if (!r) {
                        *ret_miss = iova;
                        return -EAGAIN;
                }
                uint8_t *host = r->host + (iova - r->gpa);
                uint64_t k = VHK_MIN(len, r->len - (iova - r->gpa));
                if (n && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == host) {
                        iov[n - 1].iov_len += k;
                } else {
                        if (n == max)
                                return -ENOSPC;
                        iov[n++] = (struct iovec){ host, k };
                }
                iova += k;
                len -= k;
        }
        return (int)n;
}
