/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Guest memory that lies in several pieces, mapped side by side: behind a virtual IOMMU a part of a
 * ring that is larger than a page may be on host pages in any order. Made by control; immutable but
 * for its references. Marks and errors are those of the pieces: a page that was truncated makes the
 * region's mapping bad.
 */
#pragma once

#include "mem/mem.h"

#define VHK_VIEW_PIECES 132u            /* of the largest area: 32768 descriptors on single pages */

struct vhk_dirty;

struct vhk_view_piece {
        uint8_t *host;                  /* where it lies in its region */
        size_t len;
        struct vhk_mapping *mapping;    /* owned reference */
        struct vhk_sigbus_slot *slot;   /* NULL: exempt */
};

struct vhk_view {
        unsigned refs;                  /* shared (atomic) */
        uint8_t *base, *host;           /* what was mapped: whole pages; the first byte that was wanted */
        size_t size;
        uint32_t n;
        struct vhk_view_piece pieces[];
};

/* A view of [iova, iova + len) of the translations @m, all of which may be accessed as @perm says.
 * *view: of the same range before, or NULL; kept if it shows the same, else replaced. 0; -EINVAL
 * (pieces that do not begin and end with pages, as in huge pages), -ENOSPC, -ENOMEM ... */
int vhk_view_update(struct vhk_view **view, const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm);
struct vhk_view *vhk_view_ref(struct vhk_view *v);              /* NULL is passed through */
struct vhk_view *vhk_view_unref(struct vhk_view *v);            /* NULL is legal; returns NULL */

/* [off, off + n) of the view was written: marks the pages of guest memory @m that it shows. True if
 * some page was not marked before. */
bool vhk_view_mark(const struct vhk_view *v, const struct vhk_dirty *d, const struct vhk_memmap *m, uint64_t off, uint64_t n);
