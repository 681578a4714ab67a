/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Pieces of guest memory side by side, see view.h. A piece is a second mapping of pages of its
 * region's mapping: mremap(2) with an old size of 0 makes one without the file's descriptor.
 * Control worker, but for the marks.
 */
#include "mem/view.h"

#include <sys/mman.h>

#include "mem/dirty.h"
#include "mem/iotlb.h"
#include "mem/mapping.h"

#define PAGE_MASK ((uintptr_t)VHK_PAGE - 1)

static bool view_shows(const struct vhk_view *v, const struct iovec *iov, unsigned n) {
        if (!v || v->n != n)
                return false;
        for (unsigned i = 0; i < n; i++)
                if (v->pieces[i].host != iov[i].iov_base || v->pieces[i].len != iov[i].iov_len || vhk_mapping_is_bad(v->pieces[i].mapping))
                        return false;
        return true;
}

static void view_free(struct vhk_view *v) {
        for (uint32_t i = 0; i < v->n; i++) {
                vhk_sigbus_remove(v->pieces[i].slot);           /* before the addresses can be another mapping's */
                vhk_mapping_unref(v->pieces[i].mapping);
        }
        if (v->base)
                munmap(v->base, v->size);
        free(v);
}

/* Maps piece @i at @to. Pieces meet at the ends of pages. */
static int view_map_piece(struct vhk_view *v, const struct vhk_memmap *guest, const struct iovec *iov, uint32_t i, uint32_t n, uint8_t *to) {
        uintptr_t host = (uintptr_t)iov->iov_base, first = host & ~PAGE_MASK, end = (host + iov->iov_len + PAGE_MASK) & ~PAGE_MASK;
        const struct vhk_memreg *r = vhk_memmap_find_host(guest, iov->iov_base);
        struct vhk_view_piece *p = &v->pieces[i];

        if (!r || (i && host & PAGE_MASK) || (i + 1 < n && (host + iov->iov_len) & PAGE_MASK) || (first | end) & (r->mapping->page - 1))
                return -EINVAL;
        if (mremap((void *)first, 0, end - first, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
                return vhk_errno();
        (void)madvise(to, end - first, MADV_DONTFORK);          /* hints, as for the region itself */
        (void)madvise(to, end - first, MADV_DONTDUMP);
        *p = (struct vhk_view_piece){ .host = iov->iov_base, .len = iov->iov_len, .mapping = vhk_mapping_ref(r->mapping) };
        v->n = i + 1;
        return r->mapping->slot ? vhk_sigbus_add(to, end - first, r->mapping->page, &r->mapping->bad, &p->slot) : 0;
}

static int view_map(struct vhk_view *v, const struct vhk_memmap *guest, const struct iovec *iov, unsigned n, uint64_t len) {
        uint64_t skip = (uintptr_t)iov[0].iov_base & PAGE_MASK, at = 0;

        v->size = (skip + len + PAGE_MASK) & ~PAGE_MASK;
        void *p = mmap(NULL, v->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
                return vhk_errno();
        v->base = p;
        v->host = v->base + skip;
        for (unsigned i = 0; i < n; i++) {
                int ret = view_map_piece(v, guest, &iov[i], i, n, v->base + at);
                if (ret < 0)
                        return ret;
                at += (i ? 0 : skip) + iov[i].iov_len;
        }
        return 0;
}

int vhk_view_update(struct vhk_view **view, const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm) {
        struct iovec iov[VHK_VIEW_PIECES];
        uint64_t miss;

        int n = vhk_iotlb_iov(m, iova, len, perm, iov, VHK_VIEW_PIECES, &miss);
        if (n < 0)
                return n;
        if (view_shows(*view, iov, (unsigned)n))
                return 0;
        struct vhk_view *v = calloc(1, sizeof(*v) + (unsigned)n * sizeof(v->pieces[0]));
        if (!v)
                return -ENOMEM;
        v->refs = 1;
        int ret = view_map(v, m->guest, iov, (unsigned)n, len);
        if (ret < 0) {
                view_free(v);
                return ret;
        }
        vhk_view_unref(*view);
        *view = v;
        return 0;
}

struct vhk_view *vhk_view_ref(struct vhk_view *v) {
        if (v)
                vhk_refs_take(&v->refs);
        return v;
}

struct vhk_view *vhk_view_unref(struct vhk_view *v) {
        if (v && vhk_refs_drop(&v->refs))
                view_free(v);
        return NULL;
}

bool vhk_view_mark(const struct vhk_view *v, const struct vhk_dirty *d, const struct vhk_memmap *m, uint64_t off, uint64_t n) {
        bool news = false;
        uint32_t hint = 0;

        for (uint32_t i = 0; i < v->n && n; i++) {
                const struct vhk_view_piece *p = &v->pieces[i];
                if (off >= p->len) {
                        off -= p->len;
                        continue;
                }
                uint64_t part = VHK_MIN(n, p->len - off);
                news |= vhk_dirty_mark_host(d, m, p->host + off, part, &hint);
                n -= part;
                off = 0;
        }
        return news;
}
