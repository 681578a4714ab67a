/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The virtio network driver, in three files: net.c its life and its configuration, net-queue.c frames, net-control.c the control queue.
 * Source: virtio 1.3, 5.1. Threads: see <vhostkit/net.h> and drvdev.h.
 */
#pragma once

#include <vhostkit/net.h>

#include "driver/wait.h"

/* virtio 1.3, 5.1.3: those beside the public ones */
enum {
        VHK_NET_BIT_MTU = 3, VHK_NET_BIT_MAC = 5, VHK_NET_BIT_MRG_RXBUF = 15, VHK_NET_BIT_STATUS = 16, VHK_NET_BIT_CTRL_VQ = 17,
        VHK_NET_BIT_CTRL_RX = 18, VHK_NET_BIT_MQ = 22, VHK_NET_BIT_CTRL_MAC_ADDR = 23,
};

#define VHK_NET_GUEST_GSO (VHK_NET_F_GUEST_TSO4 | VHK_NET_F_GUEST_TSO6 | VHK_NET_F_GUEST_UFO | VHK_NET_F_GUEST_USO4 | VHK_NET_F_GUEST_USO6)
#define VHK_NET_HOST_GSO (VHK_NET_F_HOST_TSO4 | VHK_NET_F_HOST_TSO6 | VHK_NET_F_HOST_UFO | VHK_NET_F_HOST_USO)

#define VHK_NET_FRAME_LEAST 14u
#define VHK_NET_FRAME_MOST 65550u       /* virtio 1.3, 5.1.6.3.1: 14 bytes and an IP packet, as the specification counts */
#define VHK_NET_SEGMENTS 17u            /* buffers of a frame that is sent as it is: 64 KiB in pages */

/* struct virtio_net_hdr_v1 */
struct vhk_net_wire_header {
        uint8_t flags, gso_type;
        vhk_le16 hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
static_assert(sizeof(struct vhk_net_wire_header) == 12, "virtio 1.3, 5.1.6");

/* A receive buffer that the device has filled. */
struct vhk_net_filled { uint16_t slot; uint32_t len; };

struct vhk_net_queue {
        struct vhk_net *n;
        uint16_t num, n_buffers;        /* entries of each ring; receive buffers */
        bool broken;
        struct vhk_error error;
        /* receive: a buffer is a slot */
        struct vhk_drvq *rx;
        struct vhk_drvwait rx_wait;
        uint8_t *buffers;
        uint64_t buffers_gpa;
        struct vhk_net_filled *filled;  /* those that no frame was made of yet, oldest at @first_filled, in a circle of @num */
        unsigned first_filled, n_filled, n_out;
        uint16_t *frame_buffers;        /* by first slot: buffers of the frame that is out; 0: none is */
        struct iovec *iov;              /* by first slot: frame_most each */
        /* send: a frame is a slot; headers and copies lie in lent memory */
        struct vhk_drvq *tx;
        struct vhk_drvwait tx_wait;
        struct vhk_net_wire_header *headers;
        uint8_t *copies;
        uint64_t headers_gpa, copies_gpa;
        void **cookies;                 /* by slot */
        uint16_t *free_slots;           /* a stack */
        unsigned n_free, n_cookies;     /* n_cookies: that were not reaped */
        uint16_t *sent;                 /* slots whose cookie waits to be reaped, in a circle of @num */
        unsigned first_sent, n_sent;
        struct vhk_chunk last;          /* translated last */
};

/* Configuration space, as far as it is there. */
struct vhk_net_config {
        uint8_t mac[6];
        uint16_t status, n_pairs, mtu;
};

struct vhk_net {
        struct vhk_drvdev d;
        /* constant after opening */
        struct vhk_net_queue *queues;
        unsigned n_pairs;
        bool polling;
        uint32_t header_size, buffer_size, copy_size;           /* copy_size: bytes of a frame that is copied */
        uint32_t frame_most;            /* receive buffers of a frame */
        void (*on_link)(void *arg, int up);
        void *link_arg;
        struct vhk_net_config config;   /* under d.lock */
        /* the control queue, under @control_lock: who waits for it holds no other lock */
        pthread_mutex_t control_lock;
        struct vhk_drvq *control;
        struct vhk_drvwait control_wait;
        uint8_t *control_mem;
        struct vhk_chunk control_last;
        bool control_waits;             /* a command was given up, and not answered yet */
};

static inline bool vhk_net_has(const struct vhk_net *n, unsigned bit) {
        return vhk_drvdev_has(&n->d, bit);
}

/* net-queue.c */
int vhk_net_queue_init(struct vhk_net_queue *q, struct vhk_net *n, unsigned pair, uint16_t num);
void vhk_net_queue_done(struct vhk_net_queue *q);
int vhk_net_queue_begin(struct vhk_net_queue *q);               /* the device may receive */
size_t vhk_net_queue_bytes(const struct vhk_net *n, uint16_t num);

/* net-control.c */
#define VHK_NET_CONTROL_SIZE 64u
int vhk_net_control_init(struct vhk_net *n, unsigned index);
void vhk_net_control_done(struct vhk_net *n);
size_t vhk_net_control_bytes(void);
int vhk_net_control_set_pairs(struct vhk_net *n, unsigned n_pairs);             /* vhk_net_set_pairs(), without the bracket */
