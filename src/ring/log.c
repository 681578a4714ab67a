/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the device side of a ring marks in a dirty log (vhost-user, "Migration"). On the queue's home, and only while the
 * ring's configuration has a log: then no request is ordinary (q->ordinary) and each flush has something to do (q->after).
 *
 * Of a request its whole writable part is marked, not the length that was pushed: devices write at the end of a buffer
 * (a block device its status byte) and claim less. The used ring is marked at the guest address that the front-end
 * gave for it, which need not be inside of any region; of one that lies in pieces (mem/view.h) the
 * pages of these are.
 *
 * The log's descriptor is signalled for pages that were not marked before: a front-end that gives a ring's kick for it
 * would otherwise have the ring wake itself for ever, as each run marks the wish for a notification.
 */
#include "base/fd.h"
#include "ring/queue.h"

void vhk_queue_log_request(struct vhk_queue *q, const struct vhk_req *r, uintptr_t meta) {
        uint32_t generation = vhk_meta_generation(meta);
        const struct vhk_memmap *m = generation == q->generation ? q->mem : q->generations[generation].mem;

        for (unsigned i = 0; i < r->n_in; i++)
                q->marked |= vhk_dirty_mark_host(q->config->log, m, r->in[i].iov_base, r->in[i].iov_len, &q->log_hint);
}

/* @n bytes at offset @off of the used ring. */
static void mark_used(struct vhk_queue *q, uint64_t off, uint64_t n) {
        const struct vhk_view *view = q->areas_config->views[2];
        uint64_t at;

        if (q->config->log_used && view)
                q->marked |= vhk_view_mark(view, q->config->log, q->mem, off, n);
        else if (q->config->log_used && !vhk_add_overflows(q->config->log_addr, off, &at))
                q->marked |= vhk_dirty_mark(q->config->log, at, n);
}

void vhk_queue_log_used(struct vhk_queue *q, uint16_t old) {
        const uint64_t elem = sizeof(struct vhk_used_elem), ring = offsetof(struct vhk_used, ring);
        uint32_t n = (uint16_t)(q->used_published - old), at = old & q->mask, first = VHK_MIN(n, q->mask + 1u - at);

        if (n) {
                mark_used(q, ring + at * elem, first * elem);
                mark_used(q, ring, (n - first) * elem);         /* behind the ring's end it goes on at its beginning */
                mark_used(q, offsetof(struct vhk_used, idx), sizeof(vhk_le16));
        }
        if (vhk_dirty_is_bad(q->config->log))
                vhk_queue_fault(q, VHK_RING_MEMORY);
        if (q->marked)
                (void)vhk_fdref_notify(q->config->log_fd);
        q->marked = false;
}

void vhk_queue_log_wish(struct vhk_queue *q) {
        uint64_t event = offsetof(struct vhk_used, ring) + (q->mask + 1ull) * sizeof(struct vhk_used_elem);

        mark_used(q, q->event_idx ? event : offsetof(struct vhk_used, flags), sizeof(vhk_le16));
}
