/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * From a stream to messages. The only state in this room, and it belongs to one connection. One payload buffer of the
 * protocol's largest size is all that is ever allocated; nothing is taken from a size that a peer announces, unless the
 * connection's owner has checked it and asks for room. The bytes of the first buffer behind a payload are zero, so that a short
 * variant read as its whole struct has nothing of an earlier message.
 */
#include "wire/wire.h"

#include "base/peer.h"

int vhk_decoder_init(struct vhk_decoder *d) {
        uint8_t *payload = calloc(1, VHK_MAX_PAYLOAD);

        if (!payload)
                return -ENOMEM;
        *d = (struct vhk_decoder){ .payload = payload, .room = VHK_MAX_PAYLOAD };
        return 0;
}

void vhk_decoder_done(struct vhk_decoder *d) {
        if (d->payload)
                vhk_decoder_next(d);
        free(d->payload);
        *d = (struct vhk_decoder){ 0 };
}

struct vhk_hdr vhk_decoder_header(const struct vhk_decoder *d) {
        struct vhk_hdr h;

        memcpy(&h, d->hdr, sizeof(h));
        return h;
}

size_t vhk_decoder_want(const struct vhk_decoder *d) {
        if (d->have < VHK_HDR_SIZE)
                return VHK_HDR_SIZE - d->have;
        uint32_t size = vhk_decoder_header(d).size;
        return size <= d->room ? size - (d->have - VHK_HDR_SIZE) : 0;
}

void *vhk_decoder_space(struct vhk_decoder *d) {
        return d->have < VHK_HDR_SIZE ? d->hdr + d->have : d->payload + (d->have - VHK_HDR_SIZE);
}

static void close_fd(const struct vhk_decoder *d, int *fd) {
        if (d->leaves_files)
                vhk_peer_close(fd);
        else
                vhk_close(fd);
}

/* Descriptors come with the first byte of a message; elsewhere, or too many, they are closed and remembered as surplus. */
static void take_fds(struct vhk_decoder *d, bool first, const int *fds, unsigned n_fds) {
        for (unsigned i = 0; i < n_fds; i++) {
                if (first && d->n_fds < VHK_MAX_FDS) {
                        d->fds[d->n_fds++] = fds[i];
                        continue;
                }
                d->surplus_fds = true;
                close_fd(d, &(int){ fds[i] });
        }
}

int vhk_decoder_fed(struct vhk_decoder *d, size_t n, const int *fds, unsigned n_fds) {
        bool in_header = d->have < VHK_HDR_SIZE;

        assert(n <= vhk_decoder_want(d));
        take_fds(d, d->have == 0 && n > 0, fds, n_fds);
        d->have += (uint32_t)n;
        return in_header && d->have == VHK_HDR_SIZE;
}

int vhk_decoder_reserve(struct vhk_decoder *d, uint32_t size) {
        assert(d->have == VHK_HDR_SIZE);
        if (size <= d->room)
                return 0;
        uint8_t *payload = malloc(size);
        if (!payload)
                return -ENOMEM;
        free(d->payload);
        d->payload = payload;
        d->room = size;
        return 0;
}

bool vhk_decoder_complete(const struct vhk_decoder *d) {
        return d->have >= VHK_HDR_SIZE && vhk_decoder_header(d).size <= d->room && !vhk_decoder_want(d);
}

void vhk_decoder_next(struct vhk_decoder *d) {
        for (unsigned i = 0; i < d->n_fds; i++)
                close_fd(d, &d->fds[i]);
        if (d->have > VHK_HDR_SIZE && d->room == VHK_MAX_PAYLOAD)
                memset(d->payload, 0, d->have - VHK_HDR_SIZE);
        d->n_fds = 0;
        d->have = 0;
        d->surplus_fds = d->lost_fds = false;
}
