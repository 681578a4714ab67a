/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the drivers of whole devices share: how a device is found and negotiated with (virtio 1.3, 3.1), the memory that it is lent,
 * and who looks after the connection.
 *
 * All memory comes in few large pieces (rings, slots and the caller's allocations share the first), for a back-end without memory
 * slots takes eight regions, and one that has them finds its way faster in one. Pieces are only added, so that a queue on
 * another thread may look addresses up without a lock.
 *
 * Threads: each queue of a driver belongs to one thread at a time; the front-end is used under @lock alone, so that any queue may look
 * after the connection. The lock knows its owner: events are told while it is held, and who calls back in from there gets -EDEADLK.
 */
#pragma once

#include <pthread.h>
#include <vhostkit/frontend.h>

#include "base/base.h"
#include "base/error.h"

#define VHK_DRVDEV_CHUNKS 64u           /* pieces of lent memory */

/* virtio 1.3, 6: the bits that all of them know */
enum { VHK_DRVDEV_F_INDIRECT = 28, VHK_DRVDEV_F_EVENT_IDX = 29, VHK_DRVDEV_F_VERSION_1 = 32, VHK_DRVDEV_F_ACCESS_PLATFORM = 33 };
/* virtio 1.3, 2.1 */
enum { VHK_DRVDEV_S_DRIVER = 3 /* ACKNOWLEDGE too */, VHK_DRVDEV_S_FEATURES_OK = 11, VHK_DRVDEV_S_DRIVER_OK = 15 };

struct vhk_chunk {
        uintptr_t va;
        uint64_t len, gpa, used;
};

struct vhk_drvdev {
        /* constant after opening */
        struct vhk_frontend *f;
        struct vhk_memory *m;
        uint64_t features, limit_ns;
        const char *rule, *what;        /* for stories: "blk.open", "the disk" */
        vhk_frontend_event_fn on_event; /* the caller's */
        void *event_arg;
        int (*refresh)(struct vhk_drvdev *d);   /* the configuration changed; under the lock */
        /* shared (atomic, relaxed: a hint by itself, nothing is published with it) */
        bool gone;
        /* shared (atomic): release by the allocator pairs with acquire by a queue that meets a new address */
        unsigned n_chunks;
        struct vhk_chunk chunks[VHK_DRVDEV_CHUNKS];
        /* under @lock */
        pthread_mutex_t lock;
        bool config_stale;
};

/* ---- life ---- */

/* @o is changed: its events come here first. To be closed in any case. */
int vhk_drvdev_open(struct vhk_drvdev *d, const char *spec, struct vhk_frontend_options *o, struct vhk_error *ret_e);
/* Up to FEATURES_OK. @features becomes d->features. 0, or a negative errno with its story. */
int vhk_drvdev_negotiate(struct vhk_drvdev *d, uint64_t features, struct vhk_error *ret_e);
int vhk_drvdev_set_status(struct vhk_drvdev *d, uint8_t status);        /* where the back-end has one */
void vhk_drvdev_close(struct vhk_drvdev *d);                            /* all queues are done */
/* The story of a call that failed with @k: the front-end's, if it is that. Returns @k. */
int vhk_drvdev_story(struct vhk_drvdev *d, int k, struct vhk_error *ret_e);
/* @usual, or as much of it as the device takes, where it says so; both are powers of two. */
uint16_t vhk_drvdev_queue_size(struct vhk_drvdev *d, uint16_t usual, uint16_t least);
/* Serves the front-end: 0, or -EPIPE: the connection is lost. */
int vhk_drvdev_look_after(struct vhk_drvdev *d);
/* Reads the configuration space again, though no change of it was reported. */
int vhk_drvdev_read_config(struct vhk_drvdev *d);

static inline bool vhk_drvdev_has(const struct vhk_drvdev *d, unsigned bit) {
        return d->features & VHK_BIT(bit);
}

/* ---- memory ---- */

/* Under the lock, or before anybody else knows of @d. At least @len bytes, and @room more if they are to be had. */
int vhk_drvdev_add_chunk(struct vhk_drvdev *d, uint64_t len, uint64_t room);
/* Pages, so that a back-end may do direct I/O; small pieces at 512 bytes. NULL: there is none. */
void *vhk_drvdev_take(struct vhk_drvdev *d, uint64_t len);
void *vhk_drvdev_alloc(struct vhk_drvdev *d, uint64_t len);             /* takes the lock */
/* Any thread. */
const struct vhk_chunk *vhk_drvdev_find(const struct vhk_drvdev *d, uint64_t va, uint64_t len);
/* Guest address of lent memory, UINT64_MAX: it is not. @last is the caller's: the piece that was met last. */
uint64_t vhk_drvdev_gpa(const struct vhk_drvdev *d, struct vhk_chunk *last, const void *va, uint64_t len);
