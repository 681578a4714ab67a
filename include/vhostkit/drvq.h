/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A virtqueue as a driver sees it, over any front-end. One thread at a time.
 */
#ifndef VHOSTKIT_DRVQ_H
#define VHOSTKIT_DRVQ_H

#include <vhostkit/frontend.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_drvq;

/**
 * struct vhk_drvq_options - zero it, set @size
 * @num: entries, a power of two, at most 32768; 0: 128, or as many of them as the back-end takes
 *       (vhk_drvq_get_size())
 * @polling: 1: the driver polls and wants no notification (the back-end gets a call descriptor that nobody reads: some cannot do without)
 */
struct vhk_drvq_options {
        size_t size;
        uint16_t num;
        uint8_t polling;
};

/**
 * vhk_drvq_new() - allocate ring @i in @m (the memory of @f), give it to the back-end and start it
 *
 * @m is shared with the back-end (vhk_frontend_set_memory()) first. Return: 0; -EINVAL (@o, or
 * vhk_frontend_set_features() was not called); -EOPNOTSUPP: RING_PACKED, IN_ORDER or
 * NOTIFICATION_DATA is negotiated, and this is a split ring without them; -ENOMEM, -ENOSPC (no
 * memory for the ring); and what vhk_frontend_set_memory() and vhk_frontend_start_queue() say.
 * vhk_frontend_get_error() has the text.
 */
int vhk_drvq_new(struct vhk_frontend *f, struct vhk_memory *m, unsigned i, const struct vhk_drvq_options *o, struct vhk_drvq **ret_q);
/**
 * vhk_drvq_free() - stop and free, before the front-end and the memory are freed; NULL is legal
 *
 * The ring's region stays in the table, for some back-ends do not survive that one is taken away,
 * and is used for the next ring of this table that fits. Of a ring that cannot be stopped it is not
 * used again.
 */
struct vhk_drvq *vhk_drvq_free(struct vhk_drvq *q);

/** vhk_drvq_stop() - the device lets go of the ring; what it has not done waits there, what it has done can be reaped. 0 too if it is stopped */
int vhk_drvq_stop(struct vhk_drvq *q);
/** vhk_drvq_start() - and goes on where it stopped */
int vhk_drvq_start(struct vhk_drvq *q);

/**
 * vhk_drvq_add() - one request of @n_out readable buffers followed by @n_in writable ones, all in lent memory
 *
 * Uses an indirect table where negotiated and more than one buffer. Not seen by the device before vhk_drvq_kick().
 * Return: 0; -EAGAIN (ring full); -EFAULT (not in one region that vhk_frontend_set_memory() has
 * shared); -EINVAL (no buffer, or more than the ring takes); -EPIPE (see vhk_drvq_reap()).
 */
int vhk_drvq_add(struct vhk_drvq *q, const struct iovec *sg, unsigned n_out, unsigned n_in, void *cookie);
/** vhk_drvq_kick() - publish what was added, and notify the device if it wants that; 0, or a
 * negative errno (-EPIPE: see vhk_drvq_reap()) */
int vhk_drvq_kick(struct vhk_drvq *q);

/** struct vhk_done - a finished request. It has no size, since arrays of it are filled; further
 * results will have a call of their own */
struct vhk_done {
        void *cookie;
        uint32_t len;
};
/** vhk_drvq_reap() - finished requests, at most @n. -EPIPE, when none is left: the device broke the
 * rules of the ring, or the connection has ended; from then on vhk_drvq_add(), _kick() and _reap()
 * return it, and vhk_frontend_get_error() has the reason */
int vhk_drvq_reap(struct vhk_drvq *q, struct vhk_done *ret_done, unsigned n);
/** vhk_drvq_arm() - ask for a notification; 1: something is there already. vhk_drvq_disarm() takes it back */
int vhk_drvq_arm(struct vhk_drvq *q);
void vhk_drvq_disarm(struct vhk_drvq *q);
/** vhk_drvq_get_fd() - the call eventfd (readable after a notification; the caller reads it), -1 while polling */
int vhk_drvq_get_fd(const struct vhk_drvq *q);
/** vhk_drvq_n_in_flight() - added and not yet reaped */
unsigned vhk_drvq_n_in_flight(const struct vhk_drvq *q);
unsigned vhk_drvq_get_size(const struct vhk_drvq *q);
/** vhk_drvq_get_setup() - where the ring is, as it was started; its base is where it stopped last */
const struct vhk_ring_setup *vhk_drvq_get_setup(const struct vhk_drvq *q);

#ifdef __cplusplus
}
#endif

#endif
