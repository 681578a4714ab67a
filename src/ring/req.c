/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The bytes of a request, whatever the shape in which the driver scattered them. Any thread that has the request. */
#include "ring/queue.h"

VHK_API struct vhk_queue *vhk_req_get_queue(const struct vhk_req *r) {
        return (struct vhk_queue *)r->internal[VHK_REQ_QUEUE];
}

/* Calls for each piece of [off, off+n) of @iov; bytes covered. */
static size_t copy(const struct iovec *iov, unsigned n_iov, uint64_t off, void *buf, size_t n, bool write) {
        size_t done = 0;

        for (unsigned i = 0; i < n_iov && done < n; i++) {
                if (off >= iov[i].iov_len) {
                        off -= iov[i].iov_len;
                        continue;
                }
                char *piece = (char *)iov[i].iov_base + off, *ours = (char *)buf + done;
                size_t len = VHK_MIN(iov[i].iov_len - (size_t)off, n - done);
                if (write)
                        memcpy(piece, ours, len);
                else
                        memcpy(ours, piece, len);
                done += len;
                off = 0;
        }
        return done;
}

VHK_API size_t vhk_req_read(const struct vhk_req *r, uint64_t off, void *buf, size_t n) {
        return copy(r->out, r->n_out, off, buf, n, false);
}

VHK_API size_t vhk_req_write(struct vhk_req *r, uint64_t off, const void *buf, size_t n) {
        return copy(r->in, r->n_in, off, (void *)buf, n, true);
}
