/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Sockets between a guest and its host (virtio 1.3, 5.10), from the guest's side: streams over the rings of a vsock device, of the
 * kernel's vhost-vsock or of any other front-end. An object and its streams belong to one thread at a time; nothing waits but opening.
 *
 * vhk_vsock_dispatch() moves everything: call it when vhk_vsock_get_fd() is readable, and again after calls below that have said -EAGAIN.
 * What the device says is checked: lengths, addresses, and that it keeps to the room it was given.
 */
#ifndef VHOSTKIT_VSOCK_H
#define VHOSTKIT_VSOCK_H

#include <stddef.h>
#include <stdint.h>

#include <vhostkit/error.h>
#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VHK_VSOCK_HOST 2u               /* address of the host */

struct vhk_vsock;
struct vhk_vsock_stream;

/**
 * struct vhk_vsock_options - zero it, set @size
 * @frontend: how to open; NULL: defaults
 * @cid: our address, where it is ours to choose (vhost-vsock); 0: the device has it in its configuration
 * @queue_size: entries per ring; 0: 128, or as many of them as the back-end takes
 * @packet: most bytes of a packet, header and all, 256 to 65536; 0: 16 KiB
 * @room: bytes that a peer may send before they are read, per stream, at least 4096; 0: 256 KiB
 * @max_streams: more are refused; 0: 1024
 */
struct vhk_vsock_options {
        size_t size;
        const struct vhk_frontend_options *frontend;
        uint64_t cid;
        uint16_t queue_size;
        uint32_t packet, room, max_streams;
};

/** vhk_vsock_open() - -EADDRINUSE: another guest has that address; otherwise as vhk_frontend_open(), with the story in @ret_e */
int vhk_vsock_open(const char *spec, const struct vhk_vsock_options *o, struct vhk_vsock **ret_v, struct vhk_error *ret_e);
/** vhk_vsock_close() - streams and all, nothing is sent to the peers; as vhk_blk_close(): within
 * limit_ns, from inside of a callback too; NULL is legal */
struct vhk_vsock *vhk_vsock_close(struct vhk_vsock *v);
struct vhk_frontend *vhk_vsock_get_frontend(struct vhk_vsock *v);       /* stays the device's */
/** vhk_vsock_get_cid() - our address; another one after a transport reset, perhaps */
uint64_t vhk_vsock_get_cid(const struct vhk_vsock *v);
/** vhk_vsock_get_fd() - readable when there is something for vhk_vsock_dispatch() */
int vhk_vsock_get_fd(const struct vhk_vsock *v);
/**
 * vhk_vsock_dispatch() - receive the packets that are in the ring, and send replies that are due
 *
 * Does a bounded amount of work. Never waits, but for guest_cid after a transport reset (virtio
 * 1.3, 5.10.6.7), at most the front-end's limit_ns.
 * Return: number of packets and events; -EPIPE: the device broke the rules of its rings, or has
 * gone, and everything that it had sent was received; vhk_frontend_get_error() has the text.
 * Streams give what they have received, and then -EPIPE.
 */
int vhk_vsock_dispatch(struct vhk_vsock *v);

/** vhk_vsock_listen() - peers may connect to @port; up to 128 of them wait. -EADDRINUSE */
int vhk_vsock_listen(struct vhk_vsock *v, uint32_t port);
/** vhk_vsock_accept() - the next that has connected to @port; -EAGAIN: nobody; -EINVAL: nobody listens there */
int vhk_vsock_accept(struct vhk_vsock *v, uint32_t port, struct vhk_vsock_stream **ret_s);
/**
 * vhk_vsock_connect() - to @port of @cid, from a port that is free
 *
 * At once; sending and receiving say -EAGAIN until the peer has answered, -ECONNREFUSED if it does not want to. -ENOBUFS: too many streams.
 */
int vhk_vsock_connect(struct vhk_vsock *v, uint64_t cid, uint32_t port, struct vhk_vsock_stream **ret_s);

void vhk_vsock_stream_get_peer(const struct vhk_vsock_stream *s, uint64_t *ret_cid, uint32_t *ret_port);
/** vhk_vsock_stream_send() - bytes that were taken, maybe fewer than @n; -EAGAIN: the peer has no room, or we have not; -EPIPE: it does not read any more */
int vhk_vsock_stream_send(struct vhk_vsock_stream *s, const void *buf, size_t n);
/** vhk_vsock_stream_recv() - bytes; 0: the peer sends no more; -EAGAIN; -ECONNRESET */
int vhk_vsock_stream_recv(struct vhk_vsock_stream *s, void *buf, size_t n);
/** vhk_vsock_stream_shutdown() - we send no more */
int vhk_vsock_stream_shutdown(struct vhk_vsock_stream *s);
/** vhk_vsock_stream_free() - say goodbye; what was taken to be sent is sent. NULL is legal */
struct vhk_vsock_stream *vhk_vsock_stream_free(struct vhk_vsock_stream *s);

#ifdef __cplusplus
}
#endif

#endif
