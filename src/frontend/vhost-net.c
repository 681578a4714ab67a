/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-net: ring 0 receives, ring 1 sends, and each is bound to the socket behind a tap, macvtap or packet socket. More queues are more
 * front-ends. The kernel lets a ring be read out and set up anew only while it is unbound, so stopping unbinds, and starting binds
 * it again to what it was bound to: a duplicate of the descriptor is kept. One thread.
 *
 * VHOST_NET_F_VIRTIO_NET_HDR (bit 27) shares its number with ANY_LAYOUT, which no driver of virtio 1 needs, so it is not on offer. It is set
 * for packet sockets that have no virtio header: then the kernel makes one. Source: Linux drivers/vhost/net.c.
 */
#include <fcntl.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include "frontend/vhost.h"
#include "wire/features.h"

#define SIZE_OF_HEADER 24               /* PACKET_VNET_HDR_SZ, of Linux 6.6 */

/* A tap has to have the header of 12 bytes itself. */
static int is_without_header(struct vhk_vhost *v, int fd, bool *ret_without) {
        int size = 0, on = 0;
        socklen_t len = sizeof(size);

        *ret_without = false;
        if (getsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, &len) < 0)
                return 0;               /* no packet socket */
        *ret_without = !on;
        len = sizeof(size);
        if (on && (getsockopt(fd, SOL_PACKET, SIZE_OF_HEADER, &size, &len) < 0 || size != 12))
                return vhk_frontend_fail(&v->f, -EINVAL, "frontend.backend",
                                         "the packet socket's own virtio header has 10 bytes, 12 are needed: turn PACKET_VNET_HDR off");
        return 0;
}

static int choose_header(struct vhk_vhost *v, unsigned i, int fd) {
        bool without, other_is_bound = v->rings[!i].backend_fd >= 0;

        int k = is_without_header(v, fd, &without);
        if (k < 0 || without == !!v->own_features)
                return k;
        if (other_is_bound)
                return vhk_frontend_fail(&v->f, -EINVAL, "frontend.backend", "one ring's interface has a virtio header, the other's has not");
        uint64_t was = v->own_features;
        v->own_features = without ? VHK_BIT(VHK_F_ANY_LAYOUT) : 0;
        k = vhk_vhost_send_features(v, v->f.info.acked);
        if (k < 0)
                v->own_features = was;
        return k < 0 ? k : vhk_vhost_tell_memory(v, NULL, 0);
}

static int bind_ring(struct vhk_vhost *v, unsigned i, int fd) {
        return vhk_vhost_said(v, vhk_sys_vhost_net_set_backend(v->fd, i, fd), "VHOST_NET_SET_BACKEND", "ring %u, fd %d", i, fd);
}

static int attach(struct vhk_vhost *v, unsigned i) {
        if (v->rings[i].backend_fd < 0)
                return 0;
        int k = bind_ring(v, i, v->rings[i].backend_fd);
        if (k == 0)
                vhk_vhost_kick(v, i);
        return k;
}

static int detach(struct vhk_vhost *v, unsigned i) {
        return v->rings[i].backend_fd < 0 ? 0 : bind_ring(v, i, -1);
}

int vhk_vhost_net_set_backend(struct vhk_frontend *f, unsigned i, int fd) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        VHK_AUTOCLOSE int own = -1;

        int k = vhk_vhost_check_queue(v, i);
        if (k == 0 && fd >= 0 && (own = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
                k = vhk_frontend_fail(f, vhk_errno(), "frontend.backend", "the interface's descriptor %d: %s", fd, strerror(errno));
        if (k == 0 && fd >= 0)
                k = choose_header(v, i, fd);
        if (k == 0)
                k = bind_ring(v, i, own);
        if (k < 0)
                return k;
        vhk_close(&v->rings[i].backend_fd);
        v->rings[i].backend_fd = VHK_STEAL_FD(own);
        if (fd >= 0)
                vhk_vhost_kick(v, i);
        return 0;
}

int vhk_vhost_net_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e) {
        static const struct vhk_vhost_kind kind = {
                .prefix = "vhost-net:", .node = "/dev/vhost-net", .module = "vhost_net", .virtio_id = VHK_ID_NET, .n_queues = 2,
                .capabilities = VHK_CAP_BACKEND_FD | VHK_CAP_BUSYLOOP | VHK_CAP_LOG, .keeps = VHK_BIT(VHK_F_ANY_LAYOUT),
                .attach = attach, .detach = detach,
        };

        return vhk_vhost_open(&kind, spec, o, ret_f, ret_e);
}
