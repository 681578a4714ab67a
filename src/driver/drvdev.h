/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the drivers of whole devices share: how a device is found and negotiated with (virtio 1.3, 3.1), the memory that it is lent,
 * and who looks after the connection.
 *
 * All memory comes in few large pieces (rings, slots and the caller's allocations share the first), for a back-end without memory
 * slots takes eight regions, and one that has them finds its way faster in one. Pieces are only added, so that a queue on
 * another thread may look addresses up without a lock.
 *
 * Threads: each queue of a driver belongs to one thread at a time; the front-end is used under
 * @lock alone, so that any queue may serve the connection. The lock knows its owner: callbacks run
 * while it is held. Who calls back in from there gets -EDEADLK, but may close the device: that is
 * done when the call that runs is over (vhk_drvdev_leave()).
 */
#pragma once

#include <pthread.h>
#include <vhostkit/frontend.h>

#include "base/base.h"
#include "base/error.h"
#include "driver/drvq.h"

#define VHK_DRVDEV_CHUNKS 64u           /* pieces of lent memory */

/* virtio 1.3, 6: the bits that all of them know */
enum { VHK_DRVDEV_F_INDIRECT = 28, VHK_DRVDEV_F_EVENT_IDX = 29, VHK_DRVDEV_F_VERSION_1 = 32, VHK_DRVDEV_F_ACCESS_PLATFORM = 33 };
/* virtio 1.3, 2.1 */
enum { VHK_DRVDEV_S_DRIVER = 3 /* ACKNOWLEDGE too */, VHK_DRVDEV_S_FEATURES_OK = 11, VHK_DRVDEV_S_DRIVER_OK = 15 };

struct vhk_chunk {
        uintptr_t va;
        uint64_t len, gpa, used;
};

struct vhk_drvdev;
struct vhk_drvwait;

/* A driver: what its open function differs in. Its object begins with a struct vhk_drvdev; its
 * options with these two members, whatever their length. */
struct vhk_drvdev_options {
        size_t size;
        const struct vhk_frontend_options *frontend;
};
struct vhk_drvdev_kind {
        const char *rule, *what;        /* for error messages: id of a failure to open, "blk.open"; "the disk" */
        const char *options;            /* likewise: "struct vhk_blk_options" */
        uint32_t virtio_id;
        size_t size, options_size;      /* bytes of the object and of the options */
        /* Nothing is connected yet: checks @options (as long as options_size), changes what @fo is
         * to differ in. NULL: nothing is to be done */
        int (*prepare)(struct vhk_drvdev *d, const void *options, struct vhk_frontend_options *fo, struct vhk_error *ret_e);
        int (*bring_up)(struct vhk_drvdev *d, const void *options, struct vhk_error *ret_e);
        int (*refresh)(struct vhk_drvdev *d);   /* reads the configuration if it has changed; under the lock */
        void (*stop)(struct vhk_drvdev *d);     /* stops and frees what bring_up made, as far as it came */
};

struct vhk_drvdev {
        const struct vhk_drvdev_kind *kind;
        /* constant after opening */
        struct vhk_frontend *f;
        struct vhk_memory *m;
        uint64_t features, limit_ns;
        vhk_frontend_event_fn on_event; /* the caller's */
        void *event_arg;
        struct vhk_drvwait *waits;      /* a list: all that wait for the lock may be notified through it */
        /* shared (atomic, relaxed: a hint by itself, nothing is published with it) */
        bool gone;
        /* shared (atomic): the thread that closed the device from inside a callback, 0: none;
         * relaxed: only that thread acts on it */
        uintptr_t closer;
        /* shared (atomic, sequentially consistent): a thread found the lock taken, see
         * vhk_drvdev_unlock() */
        bool is_contended;
        /* shared (atomic): release by the allocator pairs with acquire by a queue that meets a new address */
        unsigned n_chunks;
        struct vhk_chunk chunks[VHK_DRVDEV_CHUNKS];
        /* under @lock */
        pthread_mutex_t lock;
        bool config_stale;
};

/* ---- life ---- */

/* All of a vhk_*_open(). @options: the caller's, NULL: defaults; @own: options_size bytes for a
 * copy of them. */
int vhk_drvdev_open(const struct vhk_drvdev_kind *kind, const char *spec, const void *options, void *own, struct vhk_drvdev **ret_d, struct vhk_error *ret_e);
/* All of a vhk_*_close(). Looks for no back-end that is lost, and takes no longer than limit_ns.
 * NULL is legal; returns NULL */
void *vhk_drvdev_close(struct vhk_drvdev *d);
/* The last step of every public call that may call back: @d may be freed in it. */
void vhk_drvdev_leave(struct vhk_drvdev *d);

/* Up to FEATURES_OK. @features becomes d->features. 0, or a negative errno with its error
 * message. */
int vhk_drvdev_negotiate(struct vhk_drvdev *d, uint64_t features, struct vhk_error *ret_e);
int vhk_drvdev_set_status(struct vhk_drvdev *d, uint8_t status);        /* where the back-end has one */
/* The error message of an opening that failed with @k: the front-end's, if it is that. Returns
 * @k. */
int vhk_drvdev_story(struct vhk_drvdev *d, int k, struct vhk_error *ret_e);
/*
 * Starts rings of @wish entries; 0: of @usual, or as many of them as the device takes: a back-end
 * need not report how large its rings may be, so half the size is tried when it refuses
 * (-EREMOTEIO), down to @least. All three are powers of two. @stop undoes what a failed @start
 * left.
 */
int vhk_drvdev_start_rings(struct vhk_drvdev *d, uint16_t wish, uint16_t usual, uint16_t least, int (*start)(struct vhk_drvdev *d, uint16_t num),
                           void (*stop)(struct vhk_drvdev *d));

/* ---- the connection ---- */

int vhk_drvdev_lock(struct vhk_drvdev *d);                              /* 0, or -EDEADLK: from inside a callback */
void vhk_drvdev_unlock(struct vhk_drvdev *d);
/* Serves the front-end, unless another thread is in it already. 0, or -EPIPE: the connection is
 * lost. */
int vhk_drvdev_look_after(struct vhk_drvdev *d);
/* ... 0, or -EBUSY: another thread is in it, and vhk_drvdev_unlock() will notify @w. */
int vhk_drvdev_try_serve(struct vhk_drvdev *d, struct vhk_drvwait *w);
/* Reads the configuration space again, though no change of it was reported. */
int vhk_drvdev_read_config(struct vhk_drvdev *d);
/* A call fails: keeps the error for vhk_frontend_get_error(). Returns @code. */
int vhk_drvdev_fail(struct vhk_drvdev *d, int code, const char *rule, const char *format, ...) VHK_PRINTF(4, 5);
/* The device broke the rules of ring @q, or the connection has ended: keeps that as the error,
 * returns -EPIPE. */
int vhk_drvdev_fail_end(struct vhk_drvdev *d, const struct vhk_drvq *q);

static inline bool vhk_drvdev_has(const struct vhk_drvdev *d, unsigned bit) {
        return d->features & VHK_BIT(bit);
}

static inline bool vhk_drvdev_is_gone(const struct vhk_drvdev *d) {
        return vhk_load_relaxed(&d->gone);
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
