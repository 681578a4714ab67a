/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-vsock: ring 0 receives, ring 1 sends (the event ring of virtio 1.3, 5.10, is the front-end's own business). The device runs or does
 * not, as a whole: stopping a ring stops it, and it goes on when both are started again. One thread.
 * It has no dirty log: the kernel marks used rings, but not what it writes to buffers. Source: Linux drivers/vhost/vsock.c.
 */
#include "frontend/vhost.h"
#include "wire/features.h"

static int run(struct vhk_vhost *v, int on) {
        return vhk_vhost_said(v, vhk_sys_vhost_vsock_set_running(v->fd, on), "VHOST_VSOCK_SET_RUNNING", "%d", on);
}

static int begin(struct vhk_vhost *v) {
        return run(v, 1);
}

static int attach(struct vhk_vhost *v, unsigned i) {
        return vhk_vhost_begin_when_complete(v, begin);
}

static int detach(struct vhk_vhost *v, unsigned i) {
        int k = v->bound ? run(v, 0) : 0;

        if (k == 0)
                v->bound = false;
        return k;
}

int vhk_vhost_vsock_set_cid(struct vhk_frontend *f, uint64_t cid) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        return vhk_vhost_said(v, vhk_sys_vhost_vsock_set_guest_cid(v->fd, cid), "VHOST_VSOCK_SET_GUEST_CID", "%llu", (unsigned long long)cid);
}

int vhk_vhost_vsock_set_running(struct vhk_frontend *f, int on) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        if (on)
                return vhk_vhost_begin(v, begin);
        v->wanted = false;
        return detach(v, 0);
}

int vhk_vhost_vsock_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e) {
        static const struct vhk_vhost_kind kind = {
                .prefix = "vhost-vsock:", .node = "/dev/vhost-vsock", .module = "vhost_vsock", .virtio_id = VHK_ID_VSOCK, .n_queues = 2,
                .capabilities = VHK_CAP_VSOCK, .attach = attach, .detach = detach,
        };

        return vhk_vhost_open(&kind, spec, o, ret_f, ret_e);
}
