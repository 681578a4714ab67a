/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Virtqueues: the only code that reads or writes rings (virtio 1.3, 2.6-2.8). Every shared field is read once into a
 * local. This header is what back-ends (device side) and drivers (driver side) need beyond the public ones.
 *
 * Device side: struct vhk_queue lives at its home worker. Control hands it an immutable struct vhk_ring_config; the home
 * adopts it between bursts. Requests in flight keep the memory snapshot they were popped under alive (a plain counter
 * per snapshot at the home), which is what vhk_queue_is_quiesced() returns.
 */
#pragma once

#include <vhostkit/queue.h>
#include <vhostkit/worker.h>

#include "base/base.h"
#include "base/fd.h"
#include "mem/dirty.h"
#include "mem/mem.h"
#include "mem/view.h"

/* Ring layouts, virtio 1.3, 2.7 */
struct vhk_desc { vhk_le64 addr; vhk_le32 len; vhk_le16 flags, next; };
struct vhk_avail { vhk_le16 flags, idx, ring[]; };              /* + vhk_le16 used_event behind ring[num] */
struct vhk_used_elem { vhk_le32 id, len; };
struct vhk_used { vhk_le16 flags, idx; struct vhk_used_elem ring[]; };  /* + vhk_le16 avail_event behind ring[num] */

#define VHK_DESC_NEXT 1u
#define VHK_DESC_WRITE 2u
#define VHK_DESC_INDIRECT 4u
#define VHK_AVAIL_NO_INTERRUPT 1u
#define VHK_USED_NO_NOTIFY 1u

#define VHK_QUEUE_MAX_SIZE 32768u
#define VHK_QUEUE_MAX_INDIRECT 1024u    /* entries of an indirect table that are served (as QEMU does); more breaks the ring */

static inline uint64_t vhk_desc_bytes(unsigned num) { return 16ull * num; }
static inline uint64_t vhk_avail_bytes(unsigned num) { return 6 + 2ull * num; }
static inline uint64_t vhk_used_bytes(unsigned num) { return 6 + 8ull * num; }

/* How a ring is set up now; immutable once handed over, reference-counted. */
struct vhk_ring_config {
        unsigned refs;                  /* shared (atomic) */
        struct vhk_memmap *mem;         /* owned reference */
        uint16_t num;
        bool enabled, discard;          /* disabled: hold, or let the device see and drop (VHK_DISABLED_DISCARD) */
        bool stalled;                   /* translations of its areas are missing (no desc, avail, used): it waits for them */
        bool event_idx, indirect;       /* negotiated; a guest that uses what it did not negotiate breaks its ring */
        /* host addresses, validated against @mem by control: each area in one region or a view,
         * aligned 16, 2, 4 */
        struct vhk_desc *desc;
        struct vhk_avail *avail;
        struct vhk_used *used;
        struct vhk_view *views[3];      /* owned references: of desc, avail, used that lie in pieces of @mem; NULL: in one */
        struct vhk_fdref *call, *err;   /* owned references, may be NULL */
        struct vhk_dirty *log;          /* owned reference, NULL: no write is marked */
        struct vhk_fdref *log_fd;       /* owned reference, may be NULL: signalled once per flush that marked a page anew */
        bool log_data, log_used;        /* marked are writes to requests; to the used ring, at guest address log_addr */
        uint64_t log_addr;
        /* this ring's in-flight record, in @inflight_mapping (owned reference), NULL: none. Never changes while the ring runs */
        void *inflight;
        struct vhk_mapping *inflight_mapping;
        uint16_t inflight_num;          /* entries that it is for, at least @num */
};
int vhk_ring_config_new(const struct vhk_ring_config *values, struct vhk_ring_config **ret_c);  /* copies values, takes its references (ref'd inside) */
struct vhk_ring_config *vhk_ring_config_ref(struct vhk_ring_config *c);
struct vhk_ring_config *vhk_ring_config_unref(struct vhk_ring_config *c);

/* Why a ring is broken: rules of rules.def of this room ("ring.avail-jump", "ring.head", "ring.loop" ...). */
enum vhk_ring_rule {
        VHK_RING_OK,
#define VHK_RING_RULE(NAME, id, text) VHK_RING_##NAME,
#include "ring/rules.def"
#undef VHK_RING_RULE
        VHK_N_RING_RULES,
};
const char *vhk_ring_rule_id(enum vhk_ring_rule r);
const char *vhk_ring_rule_text(enum vhk_ring_rule r);

/* What a queue asks of whoever owns it (the back-end). On the home. */
struct vhk_queue_owner_ops {
        /* once, when it becomes BROKEN; from inside of pop or flush: take note, do not call the queue */
        void (*broken)(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule);
        /* vhk_queue_is_quiesced() or vhk_queue_is_drained() has become true where adopt or drain
         * said 1; or vhk_queue_is_recovering() false. All is flushed. This and run are posted to
         * home, so they never come from inside of a call of the device's */
        void (*settled)(void *owner, struct vhk_queue *q);
        void (*run)(void *owner, struct vhk_queue *q);          /* completions from other threads were pushed, slots came free: pop again */
        /* @mem holds translations, and that for an access to @iova (VHK_IOTLB_R, W) is missing: pop waits until a snapshot other than
         * this one is adopted. From inside of pop: take note. NULL: there are never translations */
        void (*miss)(void *owner, struct vhk_queue *q, uint64_t iova, unsigned perm);
};

/* @size_max: largest ring; slots and iovec blocks are allocated at start. All on control, before home knows of it, or on home.
 * vhk_queue_free() belongs to home. */
int vhk_queue_new(unsigned index, uint16_t size_max, uint32_t req_size, struct vhk_worker *home,
                  const struct vhk_queue_owner_ops *ops, void *owner, struct vhk_queue **ret_q);
struct vhk_queue *vhk_queue_free(struct vhk_queue *q);          /* none in flight */

/* home; STOPPED -> RUNNING. @avail: next available index; with an in-flight record that is not new, what it says counts (used index +
 * number in flight), and requests in flight are popped again, in their order, before others. The used index is read from guest memory (vhost-user) or given
 * (@used >= 0). 0, -EINVAL (num is no power of two,
 * or above size_max), -ENOMEM, -EPIPE (its memory is gone: BROKEN) */
int vhk_queue_start(struct vhk_queue *q, struct vhk_ring_config *c, uint16_t avail, int used);
/* home; a running ring goes over to @c (takes a reference), between two bursts. num does not change; without areas (desc, avail,
 * used NULL) the ring's own memory is gone: BROKEN. A new call descriptor is signalled once: what was published may not have
 * been seen. A ring that was enabled may have work: run it. A snapshot that extends the former
 * (vhk_memmap_extends()) is not another; with
 * @c->stalled requests in flight are still published where the areas were, then these are let go.
 * 0: vhk_queue_is_quiesced(); 1: not yet, ops->settled comes when it is */
int vhk_queue_adopt(struct vhk_queue *q, struct vhk_ring_config *c);
/* home; is no request in flight that was popped under memory which a later snapshot does not have?
 * Nor an area in use that is none any more. A fact about all snapshots ever adopted: no adoption
 * makes it true */
bool vhk_queue_is_quiesced(const struct vhk_queue *q);
/* home; pop gives nothing from now on, but, if @recovered, what is left of the in-flight record,
 * whether the ring is enabled or not: ops->run comes for these, and those that the device does not
 * take are given back if the available ring has them in this order (the base goes back, the record
 * forgets them). Else they stay in the record. 0: vhk_queue_is_drained(); 1: not yet, ops->settled
 * comes when it is. Once more with another @recovered is legal */
int vhk_queue_drain(struct vhk_queue *q, bool recovered);
/* home; is none in flight, and vhk_queue_is_recovering() false? */
bool vhk_queue_is_drained(const struct vhk_queue *q);
/* home; it drains, and recovered requests that were not popped are wanted */
bool vhk_queue_is_recovering(const struct vhk_queue *q);
/* home; BROKEN for a reason that the owner found (VHK_RING_DEVICE, VHK_RING_TRANSLATION ...);
 * ops->broken is called */
void vhk_queue_break(struct vhk_queue *q, enum vhk_ring_rule rule);
/* home; none in flight: -> STOPPED, gives up its config; returns the next available index (also of a BROKEN ring) */
uint16_t vhk_queue_stop(struct vhk_queue *q);
bool vhk_queue_is_broken(const struct vhk_queue *q);
/* home; has the driver made something available that pop would give? (for pollers: reads one shared word) */
bool vhk_queue_has_work(const struct vhk_queue *q);
/* home; requests of the in-flight record that were not popped again yet */
unsigned vhk_queue_n_recovered(const struct vhk_queue *q);
/* home; the next available index, as vhk_queue_stop() would give it */
uint16_t vhk_queue_get_next(const struct vhk_queue *q);
/* home; grows by one with each request that pop gives: did the device take anything? */
uint16_t vhk_queue_get_position(const struct vhk_queue *q);

struct vhk_queue_metrics { uint64_t requests, notifications, flushes, faults, device_bugs; };   /* published, sent, guest's, device's */
void vhk_queue_get_metrics(const struct vhk_queue *q, struct vhk_queue_metrics *ret_m);        /* relaxed loads, any thread */

/* ---- driver side: one split ring in memory of our own ---- */
struct vhk_drvring;
struct vhk_drvring_setup {
        uint16_t num;
        bool event_idx, indirect;
        bool strict;                            /* who claims to have written more than it could breaks the ring; else it counts as all */
        void *desc, *avail, *used;              /* zeroed memory in the lent regions */
        uint64_t (*gpa)(void *arg, const void *va, uint64_t len);       /* guest address of lent memory, UINT64_MAX: not lent */
        void *gpa_arg;
        struct vhk_desc *indirect_tables;       /* num tables of @indirect_max descriptors in lent memory, or NULL */
        uint16_t indirect_max;
};
int vhk_drvring_new(const struct vhk_drvring_setup *s, struct vhk_drvring **ret_r);
struct vhk_drvring *vhk_drvring_free(struct vhk_drvring *r);
int vhk_drvring_add(struct vhk_drvring *r, const struct iovec *sg, unsigned n_out, unsigned n_in, void *cookie);      /* 0, -EAGAIN, -EFAULT, -EINVAL, -EPIPE */
/* The same with guest addresses, for a driver that knows them */
struct vhk_drvring_buf { uint64_t gpa; uint32_t len; };
int vhk_drvring_add_gpa(struct vhk_drvring *r, const struct vhk_drvring_buf *sg, unsigned n_out, unsigned n_in, void *cookie);  /* 0, -EAGAIN, -EINVAL */
int vhk_drvring_publish(struct vhk_drvring *r);                         /* 1: the device wants a notification, 0 */
struct vhk_done;
int vhk_drvring_reap(struct vhk_drvring *r, struct vhk_done *ret_done, unsigned n);            /* count, -EPIPE: the device broke the rules */
int vhk_drvring_arm(struct vhk_drvring *r);                             /* 1: something is there */
void vhk_drvring_disarm(struct vhk_drvring *r);
unsigned vhk_drvring_n_in_flight(const struct vhk_drvring *r);
bool vhk_drvring_is_broken(const struct vhk_drvring *r);                /* the device broke the rules: reap and add are -EPIPE */
