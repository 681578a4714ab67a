/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-net: ring 0 receives, ring 1 sends, and each is bound to the socket behind a tap, macvtap or packet socket. More queues are more
 * front-ends. The kernel lets a ring be read out and set up anew only while it is unbound, so stopping unbinds, and starting binds
 * it again to what it was bound to: a duplicate of the descriptor is kept. One thread.
 *
 * VHOST_NET_F_VIRTIO_NET_HDR (bit 27, for interfaces that have no virtio header of their own) is never set: it shares its number with
 * ANY_LAYOUT, which no driver of virtio 1 needs. Source: Linux drivers/vhost/net.c, vhost_net_set_backend().
 */
#include <fcntl.h>

#include "frontend/vhost.h"
#include "wire/features.h"

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
