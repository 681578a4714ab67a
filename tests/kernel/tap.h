/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A tap in a network namespace, and a driver's side of a network card: rings over a front-end, whose device is the kernel's
 * vhost-net. What the stack of that namespace sends arrives in the receive ring, what is put into the transmit ring arrives there.
 */
#pragma once

#include <stdint.h>
#include <vhostkit/drvq.h>
#include <vhostkit/kernel.h>

#define NET_HEADER 12u                  /* virtio_net_hdr_mrg_rxbuf: with VERSION_1 always */
#define NET_RING 256u

struct net_buf {
        uint8_t *data;
        uint32_t size, len;             /* room; bytes received */
        struct net_buf *next;           /* of the same frame */
        struct port *home;              /* whose receive ring it belongs to */
};

struct port {
        int tap_fd;
        char name[16];
        struct vhk_frontend *f;
        struct vhk_drvq *rx, *tx;
        struct net_buf bufs[NET_RING];
        struct net_buf *head, **tail;   /* a frame of several buffers that is not complete */
        unsigned missing;
        int mergeable;
        uint64_t n_frames, n_bytes, n_merged;   /* received: frames, bytes, frames of several buffers */
};

/* A namespace: /proc/self/ns/net of a thread that has unshared. */
int ns_here(void);
int ns_new(void);                       /* and back to the one we are in */
int ns_enter(int ns);

/* A tap there with this address/24, up; @offload: frames of up to 64 KiB without checksum come. */
int port_make_tap(struct port *p, const char *name, uint32_t address, int offload);
void port_close_tap(struct port *p);

/* Rings of NET_RING entries with buffers of @buf_size in @m; the device begins. */
int port_start(struct port *p, struct vhk_memory *m, uint64_t features, uint32_t buf_size, const struct vhk_frontend_options *o);
void port_stop(struct port *p);

/* A frame that was received, its buffers in order, or NULL. Give it back with port_give_back(). -EPIPE in *ret_k: the device broke the rules */
struct net_buf *port_receive(struct port *p, int *ret_k);
int port_give_back(struct net_buf *frame);
/* The frame, header and all, goes out of @p; its buffers go home when it is gone. */
int port_forward(struct port *p, struct net_buf *frame);
int port_reap_sent(struct port *p);
