/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The device's side of a dirty log, see dirty.h; and the reverse look-up that it needs: requests hold host addresses only. */
#include "mem/dirty.h"

#include "base/error.h"
#include "mem/mapping.h"
#include "mem/mem.h"

int vhk_dirty_new(int fd, uint64_t offset, uint64_t size, struct vhk_dirty **ret_d, struct vhk_error *ret_e) {
        struct vhk_mapping *m;
        struct stat st;

        int k = vhk_mapping_check(fd, offset, size, &st, ret_e);
        if (k >= 0)
                k = vhk_mapping_new(fd, &st, offset, size, &m, ret_e);
        if (k < 0)
                return k;
        struct vhk_dirty *d = malloc(sizeof(*d));
        if (!d) {
                vhk_mapping_unref(m);
                return vhk_error_set(ret_e, -ENOMEM, "mem.no-memory", "no memory for a dirty log");
        }
        *d = (struct vhk_dirty){ .refs = 1, .bits = m->host, .size = size, .mapping = m };
        *ret_d = d;
        return 0;
}

struct vhk_dirty *vhk_dirty_ref(struct vhk_dirty *d) {
        if (d)
                vhk_refs_take(&d->refs);
        return d;
}

struct vhk_dirty *vhk_dirty_unref(struct vhk_dirty *d) {
        if (d && vhk_refs_drop(&d->refs)) {
                vhk_mapping_unref(d->mapping);
                free(d);
        }
        return NULL;
}

bool vhk_dirty_covers(const struct vhk_dirty *d, uint64_t gpa, uint64_t len) {
        uint64_t last;

        if (!len)
                return true;
        return !vhk_add_overflows(gpa, len - 1, &last) && last / VHK_PAGE / 8 < d->size;
}

bool vhk_dirty_covers_all(const struct vhk_dirty *d, const struct vhk_memmap *m) {
        return !m->n || vhk_dirty_covers(d, m->regs[m->n - 1].gpa, m->regs[m->n - 1].len);
}

bool vhk_dirty_is_bad(const struct vhk_dirty *d) {
        return vhk_mapping_is_bad(d->mapping);
}

/* Bits [first, last] of the byte that holds them all; true if one of them was not set. */
static inline bool mark_byte(const struct vhk_dirty *d, uint64_t first, uint64_t last) {
        uint8_t mask = (uint8_t)(0xff << first % 8 & 0xff >> (7 - last % 8));

        /* release: what was written comes before its mark; pairs with the acquire of who takes the mark and copies */
        return mask & ~__atomic_fetch_or(&d->bits[first / 8], mask, __ATOMIC_RELEASE);
}

bool vhk_dirty_mark(const struct vhk_dirty *d, uint64_t gpa, uint64_t len) {
        uint64_t first = gpa / VHK_PAGE, last;
        bool news = false;

        if (!len || first / 8 >= d->size)
                return false;
        if (vhk_add_overflows(gpa, len - 1, &last))
                last = UINT64_MAX;
        last /= VHK_PAGE;
        if (last / 8 >= d->size)
                last = d->size * 8 - 1;         /* fits: last was larger */
        while (first / 8 < last / 8) {
                news |= mark_byte(d, first, first | 7);
                first = (first | 7) + 1;
        }
        return mark_byte(d, first, last) || news;
}

static const struct vhk_memreg *find_host(const struct vhk_memmap *m, const uint8_t *host, uint32_t *hint) {
        const struct vhk_memreg *r = *hint < m->n ? &m->regs[*hint] : NULL;

        if (r && (uintptr_t)host - (uintptr_t)r->host < r->len)
                return r;
        r = vhk_memmap_find_host(m, host);
        if (r)
                *hint = (uint32_t)(r - m->regs);
        return r;
}

bool vhk_dirty_mark_host(const struct vhk_dirty *d, const struct vhk_memmap *m, const void *host, uint64_t len, uint32_t *hint) {
        const uint8_t *at = host;
        bool news = false;

        m = vhk_memmap_guest(m);
        while (len) {
                const struct vhk_memreg *r = find_host(m, at, hint);
                if (!r)
                        break;                  /* not this snapshot's: our own bug, and no harm */
                uint64_t off = (uint64_t)(at - r->host), n = VHK_MIN(len, r->len - off);
                news |= vhk_dirty_mark(d, r->gpa + off, n);
                at += n;
                len -= n;
        }
        return news;
}
