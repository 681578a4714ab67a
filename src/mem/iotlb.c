/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Translations of I/O virtual addresses, see iotlb.h. Made by control, read by rings; immutable but for the references.
 * A change copies the table, which is at most 4096 entries of 40 bytes. Source: vhost-user, "IOMMU support".
 */
#include "mem/iotlb.h"

#include "base/error.h"

#define U(x) ((unsigned long long)(x))

static struct vhk_memmap *iotlb_alloc(struct vhk_memmap *guest, uint32_t room) {
        struct vhk_memmap *m = calloc(1, sizeof(*m) + room * sizeof(struct vhk_memreg));

        if (m) {
                m->refs = 1;
                m->guest = vhk_memmap_ref(guest);
        }
        return m;
}

int vhk_iotlb_new(struct vhk_memmap *guest, struct vhk_memmap **ret_m) {
        struct vhk_memmap *m = iotlb_alloc(guest, 0);
        if (!m)
                return -ENOMEM;
        *ret_m = m;
        return 0;
}

/* A successor of @old in the same era, with room for @more entries and no entry yet. */
static struct vhk_memmap *successor(const struct vhk_memmap *old, uint32_t more) {
        struct vhk_memmap *m = iotlb_alloc(old->guest, old->n + more);

        if (m) {
                m->era = old->era;
                m->evicted = old->evicted;
                m->hand = old->hand;
        }
        return m;
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

/* [from, from + len) of @r */
static struct vhk_memreg part(const struct vhk_memreg *r, uint64_t from, uint64_t len) {
        struct vhk_memreg p = *r;

        p.host += from - r->gpa;
        p.gpa = from;
        p.len = len;
        return p;
}

/* What @old has below @first, beginning with entry *at. */
static void copy_below(struct vhk_memmap *m, const struct vhk_memmap *old, uint64_t first, uint32_t *at) {
        for (; *at < old->n && old->regs[*at].gpa < first; ++*at) {
                const struct vhk_memreg *r = &old->regs[*at];
                append(m, part(r, r->gpa, VHK_MIN(r->len, first - r->gpa)));
                if (first - r->gpa < r->len)    /* it goes on behind @first */
                        return;
        }
}

/* ... and above @last */
static void copy_above(struct vhk_memmap *m, const struct vhk_memmap *old, uint64_t last, uint32_t at) {
        for (; at < old->n; at++) {
                const struct vhk_memreg *r = &old->regs[at];
                uint64_t end = r->gpa + (r->len - 1);
                if (r->gpa > last)
                        append(m, *r);
                else if (end > last)
                        append(m, part(r, last + 1, end - last));
        }
}

/* One entry has to go: whose turn it is, but not the one that has just come. */
static void evict(struct vhk_memmap *m, uint64_t spare) {
        uint32_t i = m->hand % m->n;

        if (spare - m->regs[i].gpa < m->regs[i].len)
                i = (i + 1) % m->n;
        memmove(m->regs + i, m->regs + i + 1, (--m->n - i) * sizeof(*m->regs));
        m->hand = i;                    /* the one behind it is next */
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

int vhk_iotlb_update(const struct vhk_memmap *old, uint64_t iova, uint64_t len, uint64_t user_addr, bool is_gpa, unsigned perm,
                     struct vhk_memmap **ret_m, struct vhk_error *ret_e) {
        uint64_t end;
        uint32_t at = 0;

        if (!len || vhk_add_overflows(iova, len, &end) || vhk_add_overflows(user_addr, len, &end))
                return vhk_error_set(ret_e, -EINVAL, "iotlb.range", "a translation of 0x%llx+0x%llx to 0x%llx", U(iova), U(len), U(user_addr));
        uint32_t n = count_targets(old->guest, user_addr, len, is_gpa);
        if (!n)
                return vhk_error_set(ret_e, -EFAULT, "iotlb.user-addr", "a translation to 0x%llx+0x%llx, which is not guest memory",
                                     U(user_addr), U(len));
        struct vhk_memmap *m = successor(old, n + 1);           /* one that is cut in two makes one more */
        if (!m)
                return vhk_error_set(ret_e, -ENOMEM, "iotlb.no-memory", "no memory for a translation");
        copy_below(m, old, iova, &at);
        append_targets(m, iova, len, user_addr, is_gpa, perm);
        copy_above(m, old, iova + len - 1, at);
        while (m->n > VHK_IOTLB_MAX)
                evict(m, iova);
        *ret_m = m;
        return 0;
}

int vhk_iotlb_invalidate(struct vhk_memmap *old, uint64_t iova, uint64_t len, struct vhk_memmap **ret_m) {
        uint64_t last;
        uint32_t at = 0;

        if (!len || len == UINT64_MAX)
                iova = 0, last = UINT64_MAX;
        else if (vhk_add_overflows(iova, len - 1, &last))
                last = UINT64_MAX;
        if (!old->evicted && !vhk_iotlb_touches(old, iova, last)) {
                *ret_m = vhk_memmap_ref(old);
                return 1;
        }
        struct vhk_memmap *m = successor(old, 1);
        if (!m)
                return -ENOMEM;
        copy_below(m, old, iova, &at);
        if (last != UINT64_MAX)
                copy_above(m, old, last, at);
        m->era++;
        m->evicted = false;             /* requests of the time before are waited for */
        *ret_m = m;
        return 0;
}

int vhk_iotlb_rebase(const struct vhk_memmap *old, struct vhk_memmap *guest, struct vhk_memmap **ret_m) {
        struct vhk_memmap *m = iotlb_alloc(guest, old->n);
        uint32_t k = 0;

        if (!m)
                return -ENOMEM;
        m->era = old->era;
        m->evicted = old->evicted;
        m->hand = old->hand;
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
        uint32_t low = 0, n = m->n;

        while (low < n) {               /* the first entry that ends at or behind @first */
                uint32_t mid = low + (n - low) / 2;
                if (m->regs[mid].gpa + (m->regs[mid].len - 1) < first)
                        low = mid + 1;
                else
                        n = mid;
        }
        return low < m->n && m->regs[low].gpa <= last;
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
