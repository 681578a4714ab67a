/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The in-flight record of a packed ring (vhost-user, "Inflight I/O tracking"). A packed ring's used entries overwrite descriptors, so
 * the record holds copies of those that are in flight, in entries taken from a free list. Who was killed is recognised by the
 * old_* half: it is what was true before the flush that was going on.
 *
 *   taken               for each descriptor: (first) num = 0, counter, inflight = 1 of the head entry; (last) its last; num + 1; the copy;
 *                       free_head = next of the entry; (last) old_free_head = free_head
 *   answered            next of the chain's last entry = free_head, free_head = head entry
 *   flush               used_idx and used_wrap; the flags of the first used descriptor, by the ring; inflight = 0 of the batch; old_free_head;
 *                       old_used_idx and old_used_wrap
 *
 * Contents are not believed: the free list and what belongs to each chain are kept here as well, and read once at the
 * beginning, with ranges checked and walks bounded. All on the ring's home. Nobody calls this before there are packed rings.
 */
#pragma once

#include "base/base.h"

/* virtio 1.3, 2.8.13 */
struct vhk_packed_desc { vhk_le64 addr; vhk_le32 len; vhk_le16 id, flags; };
#define VHK_PACKED_AVAIL (1u << 7)
#define VHK_PACKED_USED (1u << 15)

struct vhk_inflight_packed_entry {
        uint8_t inflight, padding;
        uint16_t next, last, num;
        uint64_t counter;
        uint16_t id, flags;
        uint32_t len;
        uint64_t addr;
};
/* Written as one word: an index without its wrap counter would be another place, and a slot there may look like anything. */
struct vhk_inflight_packed_used {
        uint16_t idx, old_idx;
        uint8_t wrap, old_wrap, padding[2];
};
struct vhk_inflight_packed {
        uint64_t features;
        uint16_t version, n_entries, free_head, old_free_head;
        struct vhk_inflight_packed_used used;
        uint64_t padding;
        struct vhk_inflight_packed_entry entries[];
};
static_assert(sizeof(struct vhk_inflight_packed_entry) == 32 && offsetof(struct vhk_inflight_packed_entry, addr) == 24, "DescStatePacked");
static_assert(sizeof(struct vhk_inflight_packed_used) == 8 && offsetof(struct vhk_inflight_packed_used, wrap) == 4, "one word");
static_assert(offsetof(struct vhk_inflight_packed, used) == 16 && offsetof(struct vhk_inflight_packed, entries) == 32, "QueueRegionPacked");

static inline uint64_t vhk_inflight_packed_bytes(unsigned num) {
        return (32ull * num + 29 + 63) & ~63ull;
}

struct vhk_packed_record {
        struct vhk_inflight_packed *record;     /* the peer's memory */
        uint64_t counter;
        uint16_t num, free_head, n_free;
        uint16_t used_idx;
        bool used_wrap;
        uint16_t avail_idx;             /* behind what is in flight: where the ring is read next */
        bool avail_wrap;
        uint16_t n_batch, n_recovered;
        struct vhk_packed_link {                /* ours: of free entries and chains */
                uint16_t next, last, num;
                bool taken;                     /* during recovery: is known to be free, or part of a chain */
        } *links;
        struct vhk_packed_found { uint64_t counter; uint16_t head; } *found;    /* during recovery */
        uint16_t *batch, *recovered;    /* head entries; recovered in order of counter */
};

int vhk_packed_record_new(uint16_t num, struct vhk_packed_record **ret_p);
struct vhk_packed_record *vhk_packed_record_free(struct vhk_packed_record *p);

/* @ring: the descriptor ring; @used, @wrap: where a new record begins. 0 new, 1 recovered, -EPROTO: none of such a ring */
int vhk_packed_record_open(struct vhk_packed_record *p, void *record, struct vhk_packed_desc *ring, uint16_t used, bool wrap);

/* A chain of @n descriptors as they were read; its head entry; -ENOSPC (more than the ring has), -EAGAIN (what was
 * answered is to be published first: the free list has one old half) */
int vhk_packed_record_take(struct vhk_packed_record *p, const struct vhk_packed_desc *d, unsigned n);
/* The copies of a recovered chain; how many */
unsigned vhk_packed_record_get(const struct vhk_packed_record *p, uint16_t head, struct vhk_packed_desc *ret_d);
void vhk_packed_record_answer(struct vhk_packed_record *p, uint16_t head);
/* Before the ring writes anything of the batch; and after it has written all, the flags of the first descriptor last */
void vhk_packed_record_publish(struct vhk_packed_record *p);
void vhk_packed_record_published(struct vhk_packed_record *p);
