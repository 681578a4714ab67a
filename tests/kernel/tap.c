/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* See tap.h. */
#include "kernel/tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- namespaces and taps ---- */

int ns_here(void) {
        return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

int ns_enter(int ns) {
        return setns(ns, CLONE_NEWNET) < 0 ? -errno : 0;
}

int ns_new(void) {
        int here = ns_here(), there = -1;

        if (here >= 0 && unshare(CLONE_NEWNET) == 0) {
                there = ns_here();
                setns(here, CLONE_NEWNET);
        }
        close(here);
        return there;
}

static int set_up(const char *name, uint32_t address) {
        struct ifreq r = { 0 };
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(address) };
        int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), k;

        snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
        memcpy(&r.ifr_addr, &a, sizeof(a));
        k = ioctl(s, SIOCSIFADDR, &r);
        a.sin_addr.s_addr = htonl(0xffffff00);
        memcpy(&r.ifr_netmask, &a, sizeof(a));
        k = k < 0 ? k : ioctl(s, SIOCSIFNETMASK, &r);
        r.ifr_flags = IFF_UP | IFF_RUNNING;
        k = k < 0 ? k : ioctl(s, SIOCSIFFLAGS, &r);
        k = k < 0 ? -errno : 0;
        close(s);
        return k;
}

int port_make_tap(struct port *p, const char *name, uint32_t address, int offload) {
        struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
        int header = NET_HEADER;

        snprintf(p->name, sizeof(p->name), "%s", name);
        memcpy(r.ifr_name, p->name, sizeof(p->name));
        p->tap_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (p->tap_fd < 0 || ioctl(p->tap_fd, TUNSETIFF, &r) < 0 || ioctl(p->tap_fd, TUNSETVNETHDRSZ, &header) < 0 ||
            ioctl(p->tap_fd, TUNSETOFFLOAD, offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : 0) < 0)
                return -errno;
        return set_up(name, address);
}

void port_close_tap(struct port *p) {
        if (p->tap_fd >= 0)
                close(p->tap_fd);
        p->tap_fd = -1;
}

/* ---- rings ---- */

int port_give_back(struct net_buf *frame) {
        struct vhk_drvq *rx = frame->home->rx;
        int k = 0;

        for (struct net_buf *b = frame, *next; b && k == 0; b = next) {
                next = b->next;
                b->next = NULL;
                k = vhk_drvq_add(rx, &(struct iovec){ b->data, b->size }, 0, 1, b);
        }
        return k < 0 ? k : vhk_drvq_kick(rx);
}

static int fill(struct port *p, struct vhk_memory *m, uint32_t buf_size) {
        void *mem;

        int k = vhk_memory_alloc(m, (size_t)NET_RING * buf_size, &mem);
        if (k == 0)
                k = vhk_frontend_set_memory(p->f, m);
        for (unsigned i = 0; i < NET_RING && k == 0; i++) {
                p->bufs[i] = (struct net_buf){ .data = (uint8_t *)mem + (size_t)i * buf_size, .size = buf_size, .home = p };
                k = vhk_drvq_add(p->rx, &(struct iovec){ p->bufs[i].data, buf_size }, 0, 1, &p->bufs[i]);
        }
        return k < 0 ? k : vhk_drvq_kick(p->rx);
}

int port_start(struct port *p, struct vhk_memory *m, uint64_t features, uint32_t buf_size, const struct vhk_frontend_options *o) {
        struct vhk_drvq_options q = { .size = sizeof(q), .num = NET_RING };

        p->tail = &p->head;
        p->mergeable = !!(features & 1u << 15);         /* VIRTIO_NET_F_MRG_RXBUF */
        int k = vhk_frontend_open("vhost-net:", o, &p->f, NULL);
        if (k == 0)
                k = vhk_frontend_set_features(p->f, features);
        if (k == 0)
                k = vhk_drvq_new(p->f, m, 0, &q, &p->rx);
        if (k == 0)
                k = vhk_drvq_new(p->f, m, 1, &q, &p->tx);
        if (k == 0)
                k = fill(p, m, buf_size);
        for (unsigned i = 0; i < 2 && k == 0; i++)
                k = vhk_frontend_set_backend(p->f, i, p->tap_fd);
        return k;
}

void port_stop(struct port *p) {
        p->rx = vhk_drvq_free(p->rx);
        p->tx = vhk_drvq_free(p->tx);
        p->f = vhk_frontend_close(p->f);
}

/* Virtio 1 says 1 without MRG_RXBUF; Linux leaves 0 there. */
static uint32_t n_buffers(const struct port *p, const struct net_buf *b) {
        return p->mergeable ? b->data[10] | (uint32_t)b->data[11] << 8 : 1;
}

struct net_buf *port_receive(struct port *p, int *ret_k) {
        struct vhk_done d;

        while ((*ret_k = vhk_drvq_reap(p->rx, &d, 1)) == 1) {
                struct net_buf *b = d.cookie;
                b->len = d.len;
                if (!p->missing) {
                        p->head = NULL;
                        p->tail = &p->head;
                        p->missing = n_buffers(p, b);
                        p->n_merged += p->missing > 1;
                }
                if (d.len > b->size || (!p->head && d.len < NET_HEADER) || !p->missing) {
                        *ret_k = -EPIPE;
                        return NULL;
                }
                p->n_bytes += d.len;
                *p->tail = b;
                p->tail = &b->next;
                if (--p->missing == 0) {
                        p->n_frames++;
                        return p->head;
                }
        }
        return NULL;
}

int port_forward(struct port *p, struct net_buf *frame) {
        struct iovec sg[NET_RING];
        unsigned n = 0;

        frame->data[10] = frame->data[11] = 0;          /* the number of buffers is the receiver's */
        for (struct net_buf *b = frame; b; b = b->next)
                sg[n++] = (struct iovec){ b->data, b->len };
        int k = vhk_drvq_add(p->tx, sg, n, 0, frame);
        return k < 0 ? k : vhk_drvq_kick(p->tx);
}

int port_reap_sent(struct port *p) {
        struct vhk_done d;
        int k, n = 0;

        while ((k = vhk_drvq_reap(p->tx, &d, 1)) == 1) {
                struct net_buf *frame = d.cookie;
                k = frame->home ? port_give_back(frame) : 0;
                if (k < 0)
                        return k;
                n++;
        }
        return k < 0 ? k : n;
}
