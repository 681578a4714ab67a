/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A virtqueue as a device sees it (virtio 1.3, 2.6-2.8). All calls belong to the queue's home worker's thread, except
 * vhk_req_complete() and the vhk_req_* accessors. No allocation, no lock, no system call but a notification that is due.
 */
#ifndef VHOSTKIT_QUEUE_H
#define VHOSTKIT_QUEUE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_queue;

/**
 * struct vhk_req - a request: a slot of its queue; its address is stable until it is pushed
 * @out: the buffers that the driver filled (device-readable), in order
 * @in: the buffers that the device may fill (device-writable), in order
 * @n_out: number of @out
 * @n_in: number of @in
 * @head: the descriptor that names the request in the ring
 * @flags: 0, or VHK_REQ_HOLE where vhk_queue_set_holes() asked for it
 * @out_len: bytes in @out
 * @in_len: bytes in @in (a request of 4 GiB or more is a guest fault, and never seen here)
 * @priv: ops->req_size bytes of the device's own, 16-byte aligned, not initialised
 *
 * The buffers are guest memory and change under your feet: read each byte once.
 */
struct vhk_req {
        const struct iovec *out, *in;
        uint16_t n_out, n_in, head, flags;
        uint32_t out_len, in_len;
        void *priv;
        uintptr_t internal[3];
};

/**
 * vhk_queue_pop() - take up to @n requests from the available ring
 *
 * Return: how many; 0 none (or the ring is disabled, or stopping); -EAGAIN: a translation of the
 * next one is missing (the front-end is asked, queue_run is called when it is there); -EPIPE: the
 * ring is broken (the guest broke its rules), nothing more will come.
 */
int vhk_queue_pop(struct vhk_queue *q, struct vhk_req **ret_reqs, unsigned n);

/** vhk_queue_unpop() - give the newest @n popped requests back, untouched: they will be popped again, in order */
void vhk_queue_unpop(struct vhk_queue *q, unsigned n);

/** vhk_queue_push() - the request is done; @len bytes were really written to its @in. Seen by the driver at the next flush. */
void vhk_queue_push(struct vhk_queue *q, struct vhk_req *r, uint32_t len);
void vhk_queue_push_batch(struct vhk_queue *q, struct vhk_req *const *r, const uint32_t *len, unsigned n);

/**
 * vhk_queue_leave() - do not finish the request: it stays in the in-flight record, for whoever serves the ring next
 *
 * Only between queue_stop(VHK_STOP_SUSPEND) and queue_stopped, and only if nothing will write to its buffers any more.
 * Return: 0; -EOPNOTSUPP: there is no record (push it); -EINVAL: not now.
 */
int vhk_queue_leave(struct vhk_queue *q, struct vhk_req *r);

/** VHK_REQ_HOLE - a buffer of the request lies outside of the memory that the front-end shares: its
 * iov_base is NULL */
#define VHK_REQ_HOLE 1u
/**
 * vhk_queue_set_holes() - in queue_start: give the device requests with VHK_REQ_HOLE, so that it
 * can answer them with an error
 *
 * Without it (@wanted 0, the default) such a request breaks the ring.
 */
void vhk_queue_set_holes(struct vhk_queue *q, int wanted);
/** vhk_queue_refuse_hole() - there is no buffer for the answer to a request with VHK_REQ_HOLE:
 * break the ring; then push the request */
void vhk_queue_refuse_hole(struct vhk_queue *q);

/** vhk_queue_resume() - requests that queue_run left in the ring can be taken now: queue_run is called soon */
void vhk_queue_resume(struct vhk_queue *q);

/** vhk_queue_flush() - publish what was pushed, and notify the driver once if it wants that; 0, or -EPIPE: the ring is broken */
int vhk_queue_flush(struct vhk_queue *q);

/**
 * vhk_queue_arm() - ask the driver for a notification at its next request
 *
 * Return: 1: a request arrived meanwhile (pop again before sleeping); 0; The library arms for devices that are driven
 * by queue_run alone.
 */
int vhk_queue_arm(struct vhk_queue *q);
/** vhk_queue_disarm() - polling: the driver need not notify */
void vhk_queue_disarm(struct vhk_queue *q);

/** vhk_queue_n_in_flight() - requests popped and not yet pushed */
unsigned vhk_queue_n_in_flight(const struct vhk_queue *q);
unsigned vhk_queue_get_index(const struct vhk_queue *q);
unsigned vhk_queue_get_size(const struct vhk_queue *q);
void *vhk_queue_get_priv(const struct vhk_queue *q);                    /* what the device stored for this ring */
void vhk_queue_set_priv(struct vhk_queue *q, void *priv);
struct vhk_queue *vhk_req_get_queue(const struct vhk_req *r);

/** vhk_req_complete() - push from ANY thread; the queue's home pushes and flushes soon after */
void vhk_req_complete(struct vhk_req *r, uint32_t len);

/** vhk_req_read() - copy @n bytes from offset @off of @out, whatever its scatter shape; bytes copied (less at the end) */
size_t vhk_req_read(const struct vhk_req *r, uint64_t off, void *buf, size_t n);
/** vhk_req_write() - copy @n bytes to offset @off of @in; bytes copied (less at the end) */
size_t vhk_req_write(struct vhk_req *r, uint64_t off, const void *buf, size_t n);

#ifdef __cplusplus
}
#endif

#endif
