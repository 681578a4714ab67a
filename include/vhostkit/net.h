/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A virtio network card as a program uses it (virtio 1.3, 5.1), over any front-end: frames in bursts, on pairs of queues. An object
 * belongs to one thread at a time; different queues of one card may be used by different threads. The front-end's callbacks run
 * inside these calls and may not call back in (-EDEADLK), but may close the card.
 */
#ifndef VHOSTKIT_NET_H
#define VHOSTKIT_NET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <vhostkit/error.h>
#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_net;
struct vhk_net_queue;                   /* a pair: one to receive from, one to send to */

/** Feature bits that change what frames look like: taken only on request (struct vhk_net_options.features_take) */
#define VHK_NET_F_CSUM          (UINT64_C(1) << 0)      /* checksums are left to the device */
#define VHK_NET_F_GUEST_CSUM    (UINT64_C(1) << 1)      /* ... and to us */
#define VHK_NET_F_GUEST_TSO4    (UINT64_C(1) << 7)      /* received segments of TCP are larger than a frame */
#define VHK_NET_F_GUEST_TSO6    (UINT64_C(1) << 8)
#define VHK_NET_F_GUEST_ECN     (UINT64_C(1) << 9)
#define VHK_NET_F_GUEST_UFO     (UINT64_C(1) << 10)
#define VHK_NET_F_HOST_TSO4     (UINT64_C(1) << 11)     /* sent ones may be */
#define VHK_NET_F_HOST_TSO6     (UINT64_C(1) << 12)
#define VHK_NET_F_HOST_ECN      (UINT64_C(1) << 13)
#define VHK_NET_F_HOST_UFO      (UINT64_C(1) << 14)
#define VHK_NET_F_GUEST_USO4    (UINT64_C(1) << 54)
#define VHK_NET_F_GUEST_USO6    (UINT64_C(1) << 55)
#define VHK_NET_F_HOST_USO      (UINT64_C(1) << 56)

/**
 * struct vhk_net_options - zero it, set @size
 * @frontend: how to open; NULL: defaults. Its reconnect_ns does not count: a card whose back-end died is opened anew
 * @n_pairs: pairs of queues to use; 0: 1. More than the device has is -EINVAL
 * @queue_size: entries per ring; 0: 256, or as many of them as the back-end takes
 * @polling: 1: wait by polling the rings (lowest latency, burns a CPU while waiting); 0: sleep on a descriptor
 * @buffer_size: bytes of each buffer to receive to, header included. 0: 2048 if buffers are merged, else as much as the largest frame
 *               needs, which is also the least
 * @features_take: of the VHK_NET_F_* above, what the caller can handle; each is taken if it is offered together with what it needs
 * @features_no_take: virtio feature bits not to take though offered: 15 (MRG_RXBUF, a frame in several buffers), say
 * @has_backend_fd, @backend_fd: vhost-net: the tap or packet socket, bound when the rings have started; stays the caller's. A tap has
 *               to have IFF_VNET_HDR, a header (TUNSETVNETHDRSZ) of vhk_net_info.header_size bytes (12, unless VERSION_1 is not taken) and
 *               the offloads (TUNSETOFFLOAD) that were asked for in @features_take
 * @on_link: the link went up (1) or down (0); from inside of these calls. NULL: nobody cares
 */
struct vhk_net_options {
        size_t size;
        const struct vhk_frontend_options *frontend;
        uint16_t n_pairs, queue_size;
        uint8_t polling;
        uint32_t buffer_size;
        uint64_t features_take, features_no_take;
        int has_backend_fd, backend_fd;
        void (*on_link)(void *arg, int up);
        void *link_arg;
};

/**
 * struct vhk_net_info - the card; set @size
 * @features: virtio features in use
 * @mac, @has_mac: its address, if it says so
 * @link_up: 0 only if it says so
 * @mtu: of the network, 0 if it does not say
 * @n_pairs: that the device has, as far as it says (at least 1)
 * @n_pairs_open: that were opened
 * @header_size: bytes of its header before each frame: 12, or 10 without VERSION_1 and MRG_RXBUF
 * @buffer_size: bytes of a receive buffer, header included
 */
struct vhk_net_info {
        size_t size;
        uint64_t features;
        uint8_t mac[6], has_mac, link_up;
        uint16_t mtu, n_pairs, n_pairs_open, header_size;
        uint32_t buffer_size;
};

/**
 * vhk_net_open() - find the card, negotiate, give it buffers to receive to
 * @spec: as in vhk_frontend_open()
 *
 * Where the back-end shows a configuration space it is the whole device, and its control queue is used if it has one. Where it does not
 * (DPDK, vhost-net), address, MTU and link are its front-end's business: nothing is known of them, and nothing is set. Return: 0; -EINVAL;
 * -EOPNOTSUPP; -EPROTO: it says what cannot be; and what vhk_frontend_open() says, with the story in @ret_e.
 */
int vhk_net_open(const char *spec, const struct vhk_net_options *o, struct vhk_net **ret_n, struct vhk_error *ret_e);
/** vhk_net_close() - as vhk_blk_close(): within limit_ns, from inside of a callback too (on_link as
 * well); NULL is legal */
struct vhk_net *vhk_net_close(struct vhk_net *n);
int vhk_net_get_info(struct vhk_net *n, struct vhk_net_info *ret_i);
struct vhk_frontend *vhk_net_get_frontend(struct vhk_net *n);   /* stays the card's */

/** vhk_net_alloc() - memory that is lent to the back-end: sent as it is; any other buffer is copied. Freed with the card. NULL: out of memory */
void *vhk_net_alloc(struct vhk_net *n, size_t len);

/** vhk_net_get_queue() - pair @i of those opened */
int vhk_net_get_queue(struct vhk_net *n, unsigned i, struct vhk_net_queue **ret_q);

/* struct vhk_net_header.flags, gso_type */
#define VHK_NET_NEEDS_CSUM 1u           /* the sum of [csum_start, end) is to be put at csum_start + csum_offset */
#define VHK_NET_DATA_VALID 2u           /* received: its checksums were verified */
enum { VHK_NET_GSO_NONE = 0, VHK_NET_GSO_TCPV4 = 1, VHK_NET_GSO_UDP = 3, VHK_NET_GSO_TCPV6 = 4, VHK_NET_GSO_UDP_L4 = 5, VHK_NET_GSO_ECN = 0x80 };

/** struct vhk_net_header - what offloads say of a frame (struct virtio_net_hdr), in the byte order of this machine; zeroes: nothing */
struct vhk_net_header {
        uint8_t flags, gso_type;
        uint16_t hdr_len, gso_size, csum_start, csum_offset;
};

/**
 * struct vhk_net_frame - a frame from its destination address on, without checksum. It has no size,
 * for arrays of it are taken and filled: what else there is to say of a frame will be in a call of
 * its own
 * @header: see above. Of a received one nothing is in it but what was negotiated, and csum_start + csum_offset + 2 is within @len
 * @iov, @n_iov: its bytes. Received: at least 1, in lent memory; both are the queue's
 * @len: received: the sum of @iov, at least 14
 * @cookie: sent: what vhk_net_reap() gives back, NULL: nothing
 */
struct vhk_net_frame {
        struct vhk_net_header header;
        const struct iovec *iov;
        uint32_t n_iov, len;
        void *cookie;
        uintptr_t internal;
};

/**
 * vhk_net_send() - send a burst
 *
 * A frame all of whose buffers are lent (vhk_net_alloc(), or received and not released yet) goes as it is, and must stay until its cookie
 * comes back or, without one, for ever; at most 17 buffers. Any other is copied, and its memory is free when the call returns.
 *
 * Return: how many were taken (fewer when the ring is full; 0), or, if none was, -EINVAL (fewer than 14 bytes, a header that does not fit
 * the frame), -EMSGSIZE (more than 65550 bytes, or than can be copied: a frame of the MTU, or 65550 with offloads), -EOPNOTSUPP (the header
 * asks for what was not negotiated), -EPIPE.
 */
int vhk_net_send(struct vhk_net_queue *q, const struct vhk_net_frame *frames, unsigned n);
/** vhk_net_reap() - cookies of up to @n frames that were sent; waits at most @timeout_ms for the first (-1 for ever, 0 not at all) */
int vhk_net_reap(struct vhk_net_queue *q, void **ret_cookies, unsigned n, int timeout_ms);

/**
 * vhk_net_receive() - up to @n frames that came; waits at most @timeout_ms for the first (-1 for ever, 0 not at all)
 *
 * Their buffers are the caller's until vhk_net_release(); while all of them are out nothing can come. They are memory that the device
 * may still write to: read each byte once. Return: number; 0; -EPIPE, when no frame is left: the
 * connection is lost, or the device broke the rules (vhk_net_queue_get_error() has the story), and
 * nothing more will come.
 */
int vhk_net_receive(struct vhk_net_queue *q, struct vhk_net_frame *ret_frames, unsigned n, int timeout_ms);
/** vhk_net_release() - give received frames back, in any order, also after -EPIPE; -EINVAL: one that is not out (those before it were given back) */
int vhk_net_release(struct vhk_net_queue *q, const struct vhk_net_frame *frames, unsigned n);
/** vhk_net_queue_get_fd() - readable when vhk_net_receive() has something; -1 while polling */
int vhk_net_queue_get_fd(struct vhk_net_queue *q);
/** vhk_net_queue_get_error() - why the queue is over, or the story of the front-end; never NULL */
const struct vhk_error *vhk_net_queue_get_error(struct vhk_net_queue *q);

/*
 * What the control queue is asked for (virtio 1.3, 5.1.6.5); one thread at a time. Return: 0; -EOPNOTSUPP: the device has no way; -EREMOTEIO: it
 * says no; -ETIMEDOUT (from then on -EBUSY, until it answers); -EPIPE; -EINVAL.
 */

/** vhk_net_set_mac() - the card's address; needs CTRL_MAC_ADDR */
int vhk_net_set_mac(struct vhk_net *n, const uint8_t mac[6]);
/** vhk_net_set_mac_table() - further addresses to receive for, in place of all former ones; 512 in all at most. Needs CTRL_RX */
int vhk_net_set_mac_table(struct vhk_net *n, const uint8_t (*unicast)[6], unsigned n_unicast, const uint8_t (*multicast)[6], unsigned n_multicast);
enum vhk_net_rx_mode { VHK_NET_RX_PROMISC, VHK_NET_RX_ALLMULTI };
/** vhk_net_set_rx_mode() - receive all frames, or all those to groups; needs CTRL_RX */
int vhk_net_set_rx_mode(struct vhk_net *n, enum vhk_net_rx_mode mode, int on);
/** vhk_net_set_pairs() - use the first @n_pairs of those that were opened (all of them are in use to begin with); needs MQ */
int vhk_net_set_pairs(struct vhk_net *n, unsigned n_pairs);

#ifdef __cplusplus
}
#endif

#endif
