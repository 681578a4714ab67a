/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A dirty log: one bit per page of 4096 bytes of guest memory, from guest address 0 on, in memory of the front-end's. We
 * set bits, it clears them at the same time (vhost-user, "Migration"). Any thread; immutable but for its references.
 *
 * Order: a page's bytes are written before its bit is set (the or is a release; it pairs with whoever takes the bit with
 * acquire and copies the page then). So either the copy has the bytes, or the bit is found set again afterwards. The
 * bit is therefore set after every write, even if it seems to be set already.
 */
#pragma once

#include <vhostkit/error.h>

#include "base/base.h"

struct vhk_memmap;
struct vhk_mapping;

struct vhk_dirty {
        unsigned refs;                  /* shared (atomic) */
        uint8_t *bits;
        uint64_t size;                  /* bytes: 8 pages each */
        struct vhk_mapping *mapping;    /* owned reference */
};

/* Maps [offset, offset + size) of @fd, which stays the caller's. Rules as those of a region: mem.size-zero, mem.offset-align,
 * mem.wrap-offset, mem.fd, mem.file-type, mem.fd-access, mem.beyond-file, mem.map. */
int vhk_dirty_new(int fd, uint64_t offset, uint64_t size, struct vhk_dirty **ret_d, struct vhk_error *ret_e);
struct vhk_dirty *vhk_dirty_ref(struct vhk_dirty *d);           /* NULL is passed through */
struct vhk_dirty *vhk_dirty_unref(struct vhk_dirty *d);         /* NULL is legal; returns NULL */

/* Is there a bit for [gpa, gpa + len)? */
bool vhk_dirty_covers(const struct vhk_dirty *d, uint64_t gpa, uint64_t len);
/* ... and for every byte of @m? */
bool vhk_dirty_covers_all(const struct vhk_dirty *d, const struct vhk_memmap *m);
/* Its file was truncated (SIGBUS): the peer has broken its word. */
bool vhk_dirty_is_bad(const struct vhk_dirty *d);

/* [gpa, gpa + len) was written. What lies beyond the log is left out. True if some page was not marked before. */
bool vhk_dirty_mark(const struct vhk_dirty *d, uint64_t gpa, uint64_t len);
/* The same for host addresses of @m; one region or several that are neighbours here and there. @hint: index of the region that
 * was found last; start with 0. */
bool vhk_dirty_mark_host(const struct vhk_dirty *d, const struct vhk_memmap *m, const void *host, uint64_t len, uint32_t *hint);
