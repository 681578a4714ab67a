/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Guest memory as its user sees it: an immutable, reference-counted snapshot of the region table (struct vhk_memmap).
 * Control makes a new snapshot for every change; a ring adopts it at its next burst. Identical regions keep their
 * mapping. Only here are guest-physical and user addresses turned into host ones. One writer, any readers.
 *
 * Memory is the peer's: it may be truncated at any time (SIGBUS). Each mapping is registered with the process-wide
 * registry of sigbus.c and has a mark that says "bad"; rings look at it once per burst.
 */
#pragma once

#include <sys/uio.h>
#include <vhostkit/error.h>
#include <vhostkit/memory.h>

#include "base/base.h"

#define VHK_MEM_MAX_REGIONS 509u        /* as libvhost-user and rust-vmm offer (the kernel's limit too) */

/* A region as a peer describes it; the descriptor stays the caller's. */
struct vhk_region_desc {
        vhk_gpa_t gpa;
        vhk_uva_t uva;
        uint64_t len, fd_offset;
        int fd;
};

#define VHK_IOTLB_GONE 8u               /* invalidations of which a snapshot knows what they took away */

struct vhk_iotlb_gone;
struct vhk_mapping;                     /* one mmap of (a part of) a descriptor; reference-counted, shared by snapshots */

/* One region of a snapshot. */
struct vhk_memreg {
        uint64_t gpa, len;
        uint8_t *host;                  /* first byte */
        union {
                uint64_t uva;
                uint64_t perm;          /* of a translation (mem/iotlb.h, where gpa is an IOVA) */
        };
        struct vhk_mapping *mapping;    /* a reference; a translation borrows that of its guest memory */
};

struct vhk_memmap {
        unsigned refs;                  /* shared (atomic) */
        uint32_t n;
        const uint16_t *by_uva, *by_host;       /* indices into regs in order of uva, and of host */
        /* translations only: what they lead to (owned reference; NULL: this is guest memory itself); the time between two
         * invalidations, and what the last ones took away (owned references, see vhk_iotlb_took());
         * was something driven out or replaced in it; who is driven out next; entries that there is
         * room for */
        struct vhk_memmap *guest;
        uint64_t era;
        struct vhk_iotlb_gone *gone[VHK_IOTLB_GONE];
        bool evicted;
        uint32_t hand, room;
        struct vhk_memreg regs[];       /* in order of gpa */
};

/* Why a table is refused, in struct vhk_error.rule: mem.size-zero, mem.wrap-gpa, mem.wrap-uva, mem.wrap-offset,
 * mem.offset-align, mem.beyond-file, mem.fd, mem.fd-access, mem.file-type, mem.map, mem.no-memory; mem.overlap-gpa,
 * mem.overlap-uva (-EEXIST); mem.slots (-ENOSPC); mem.no-such-region (-ENOENT). */
int vhk_memmap_new(struct vhk_memmap **ret_m);                  /* no regions */
struct vhk_memmap *vhk_memmap_ref(struct vhk_memmap *m);
struct vhk_memmap *vhk_memmap_unref(struct vhk_memmap *m);      /* unmaps what nobody else holds; NULL is legal; returns NULL */

/* SET_MEM_TABLE: @n descriptions replace everything; a description equal to a region of @old (addresses, length, offset, and
 * the same file by st_dev/st_ino) keeps that region's mapping. */
int vhk_memmap_replace(const struct vhk_memmap *old, const struct vhk_region_desc *d, unsigned n,
                       struct vhk_memmap **ret_m, struct vhk_error *ret_e);
/* ADD_MEM_REG: 0, or 1 if an identical region was there already (*ret_m is then a new reference to @old). */
int vhk_memmap_add(struct vhk_memmap *old, const struct vhk_region_desc *d, struct vhk_memmap **ret_m, struct vhk_error *ret_e);
/* REM_MEM_REG: matched by gpa, uva and length. */
int vhk_memmap_remove(const struct vhk_memmap *old, vhk_gpa_t gpa, vhk_uva_t uva, uint64_t len,
                      struct vhk_memmap **ret_m, struct vhk_error *ret_e);

/* A region that is mapped already, at the same guest and user address. Takes the reference @mapping, also on failure. mem.slots (-ENOSPC),
 * mem.overlap-gpa (-EEXIST) ... */
int vhk_memmap_add_mapping(const struct vhk_memmap *old, uint64_t gpa, uint64_t len, struct vhk_mapping *mapping,
                           struct vhk_memmap **ret_m, struct vhk_error *ret_e);
/* All regions but those that [first, last] touches. -ENOMEM */
int vhk_memmap_drop(const struct vhk_memmap *old, uint64_t first, uint64_t last, struct vhk_memmap **ret_m);

/* Is some byte of this snapshot known to be gone (SIGBUS happened)? Cheap when nothing ever happened in the process:
 * one load of a global count, compared with the caller's *seen (start with 0, and anew with each snapshot: it may bring a
 * mapping that went bad earlier). */
bool vhk_memmap_is_bad(const struct vhk_memmap *m, uint32_t *seen);

/* Guest memory itself: @m, or what its translations lead to. */
static inline const struct vhk_memmap *vhk_memmap_guest(const struct vhk_memmap *m) {
        return m->guest ? m->guest : m;
}

/* Is all that was found in @old still good in @new? (The same snapshot; one that has all regions of
 * it, in the same mappings; or the same translations and more over such guest memory.) Then the two
 * need not be distinguished. */
bool vhk_memmap_extends(const struct vhk_memmap *new, const struct vhk_memmap *old);
/* Did an invalidation between the translations @old and @new take [host, host + len) of guest
 * memory away? True if that is not known. Only of two whose guest memory is the same or more. */
bool vhk_iotlb_took(const struct vhk_memmap *new, const struct vhk_memmap *old, const void *host, uint64_t len);
void vhk_iotlb_drop_gone(struct vhk_memmap *m);

/* The last region that hit: one per queue, on its own cache line with the hot fields. Zero it when the snapshot changes. */
struct vhk_mem_cache {
        uint64_t gpa, len;
        uint8_t *host;
};

const struct vhk_memreg *vhk_memmap_find_gpa(const struct vhk_memmap *m, uint64_t gpa);        /* NULL: a hole */
const struct vhk_memreg *vhk_memmap_find_uva(const struct vhk_memmap *m, uint64_t uva);
const struct vhk_memreg *vhk_memmap_find_host(const struct vhk_memmap *m, const void *host);   /* guest memory only */

/* The host address of [gpa, gpa+len) if it lies in one region, else NULL (a hole, or the buffer crosses into another region:
 * use vhk_memmap_iov()). len 0 is legal anywhere inside a region. */
static inline void *vhk_mem_host(const struct vhk_memmap *m, struct vhk_mem_cache *c, uint64_t gpa, uint64_t len) {
        uint64_t off = gpa - c->gpa;

        if (vhk_unlikely(off >= c->len)) {
                const struct vhk_memreg *r = vhk_memmap_find_gpa(m, gpa);
                if (!r)
                        return NULL;
                *c = (struct vhk_mem_cache){ .gpa = r->gpa, .len = r->len, .host = r->host };
                off = gpa - r->gpa;
        }
        return vhk_likely(len <= c->len - off) ? c->host + off : NULL;
}

/* [gpa, gpa+len) as iovecs, several when it crosses adjacent regions. Number used, -EFAULT (hole), -ENOSPC (more than @max). */
int vhk_memmap_iov(const struct vhk_memmap *m, struct vhk_mem_cache *c, uint64_t gpa, uint64_t len,
                   struct iovec *iov, unsigned max);

/* A ring area: the host address of [uva, uva+len) in user addresses, which must lie in one region; NULL. */
void *vhk_memmap_host_uva(const struct vhk_memmap *m, vhk_uva_t uva, uint64_t len);
void *vhk_memmap_host_gpa(const struct vhk_memmap *m, vhk_gpa_t gpa, uint64_t len);

/* Counts for tests: system calls made by this room since the process began. */
struct vhk_mem_counters { uint64_t mmaps, munmaps; };
struct vhk_mem_counters vhk_mem_counters(void);

/* ---- the lender's side: struct vhk_memory of <vhostkit/memory.h> ---- */
struct vhk_memory;
unsigned vhk_memory_n_regions(const struct vhk_memory *m);
/* Grows by one with each change; a front-end remembers the value that it sent. */
uint64_t vhk_memory_generation(const struct vhk_memory *m);
/* The region that has all of [@va, @va + @len) and was in the table already when that had
 * @generation. 0, or -EFAULT */
int vhk_memory_find_region(const struct vhk_memory *m, const void *va, uint64_t len, uint64_t generation, struct vhk_region *ret_r);
/* The region of vhk_memory_alloc() at @va is not used any more, but stays in the table (a back-end
 * may know it) for vhk_memory_reuse(). */
void vhk_memory_release(struct vhk_memory *m, const void *va);
/* The smallest region that was released and has at least @len bytes, which are zeroed; NULL: there
 * is none. */
void *vhk_memory_reuse(struct vhk_memory *m, uint64_t len);
