/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-scsi: ring 0 control, 1 events, 2 and up requests, served by a target of the kernel's. The endpoint is set behind the rings (before
 * them it is taken, and no request is ever answered), cleared when one stops, and set again when they are all there again. One thread.
 * It has no dirty log: the kernel marks used rings, but not what is read into buffers. Source: Linux drivers/vhost/scsi.c.
 */
#include <stdio.h>

#include "frontend/vhost.h"
#include "wire/features.h"

static int begin(struct vhk_vhost *v) {
        return vhk_vhost_said(v, vhk_sys_vhost_scsi_set_endpoint(v->fd, v->wwpn, v->tpgt), "VHOST_SCSI_SET_ENDPOINT", "%s, tpgt %u", v->wwpn,
                              v->tpgt);
}

static int attach(struct vhk_vhost *v, unsigned i) {
        return vhk_vhost_begin_when_complete(v, begin);
}

static int detach(struct vhk_vhost *v, unsigned i) {
        if (!v->bound)
                return 0;
        int k = vhk_vhost_said(v, vhk_sys_vhost_scsi_clear_endpoint(v->fd, v->wwpn, v->tpgt), "VHOST_SCSI_CLEAR_ENDPOINT", "%s, tpgt %u",
                               v->wwpn, v->tpgt);
        if (k == 0)
                v->bound = false;
        return k;
}

int vhk_vhost_scsi_set_endpoint(struct vhk_frontend *f, const char *wwpn, uint16_t tpgt) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        bool any = false;

        if (v->wanted)
                return vhk_frontend_fail(f, -EEXIST, "frontend.endpoint", "%s has its endpoint already: %s, tpgt %u", v->name, v->wwpn, v->tpgt);
        if (strlen(wwpn) >= sizeof(v->wwpn))
                return vhk_frontend_fail(f, -ENAMETOOLONG, "frontend.endpoint", "a target's name has at most %zu bytes", sizeof(v->wwpn) - 1);
        for (unsigned i = 0; i < f->info.n_queues; i++)
                any |= v->rings[i].started;
        if (!any)
                return vhk_frontend_fail(f, -EFAULT, "frontend.endpoint", "no ring of %s was started: an endpoint that is set before never answers", v->name);
        snprintf(v->wwpn, sizeof(v->wwpn), "%s", wwpn);
        v->tpgt = tpgt;
        return vhk_vhost_begin(v, begin);
}

int vhk_vhost_scsi_clear_endpoint(struct vhk_frontend *f) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        if (!v->wanted)
                return vhk_frontend_fail(f, -ENODEV, "frontend.endpoint", "%s has no endpoint", v->name);
        int k = detach(v, 0);
        if (k == 0)
                v->wanted = false;
        return k;
}

int vhk_vhost_scsi_get_abi_version(struct vhk_frontend *f, int *ret_version) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        int version = 0;

        int k = vhk_sys_vhost_scsi_get_abi_version(v->fd, &version);
        k = vhk_vhost_said(v, k, "VHOST_SCSI_GET_ABI_VERSION", "%d", version);
        if (k == 0)
                *ret_version = version;
        return k;
}

int vhk_vhost_scsi_set_events_missed(struct vhk_frontend *f, int on) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        return vhk_vhost_said(v, vhk_sys_vhost_scsi_set_events_missed(v->fd, !!on), "VHOST_SCSI_SET_EVENTS_MISSED", "%d", !!on);
}

int vhk_vhost_scsi_get_events_missed(struct vhk_frontend *f, int *ret_on) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        uint32_t on = 0;

        int k = vhk_sys_vhost_scsi_get_events_missed(v->fd, &on);
        k = vhk_vhost_said(v, k, "VHOST_SCSI_GET_EVENTS_MISSED", "%u", on);
        if (k == 0)
                *ret_on = (int)on;
        return k;
}

int vhk_vhost_scsi_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e) {
        static const struct vhk_vhost_kind kind = {
                .prefix = "vhost-scsi:", .node = "/dev/vhost-scsi", .module = "vhost_scsi", .virtio_id = VHK_ID_SCSI,
                .capabilities = VHK_CAP_SCSI, .attach = attach, .detach = detach,
        };

        return vhk_vhost_open(&kind, spec, o, ret_f, ret_e);
}
