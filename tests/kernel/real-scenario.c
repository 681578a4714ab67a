/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The story of scenario.h over the kernel's own devices. Who starts this (tests/lab/guest/kernel-scenario.sh) has made what they need:
 * a target VHK_SCSI_WWPN, and vDPA devices bound to vhost_vdpa, VHK_VDPA_BLK and VHK_VDPA_NET. Needs root; skips what is not there.
 */
#include "tests/kernel/scenario.h"

#include "tests/kernel/tap.h"

static struct port port;

static int begin_net(struct vhk_frontend *f) {
        int k = 0;

        for (unsigned i = 0; i < 2 && k == 0; i++)
                k = vhk_frontend_set_backend(f, i, port.tap_fd);
        return k;
}

static int begin_vsock(struct vhk_frontend *f) {
        int k = vhk_frontend_vsock_set_cid(f, 42);

        return k < 0 ? k : vhk_frontend_vsock_set_running(f, 1);
}

static int begin_scsi(struct vhk_frontend *f) {
        return vhk_frontend_scsi_set_endpoint(f, getenv("VHK_SCSI_WWPN"), 1);
}

static void on_trace(void *arg, enum vhk_log_level level, const char *text) {
        printf("  %s\n", text);
}

/* With and without translations, if the device may have them. */
static void run(struct scenario s) {
        struct vhk_frontend *f;
        struct vhk_error e;

        int k = vhk_frontend_open(s.spec, NULL, &f, &e);
        if (k == -ENOENT || k == -ENODEV || k == -EACCES)
                SKIP(e.text);
        CHECK_MSG(k == 0, "%s", e.text);
        vhk_frontend_close(f);
        s.options.trace = getenv("VHK_TRACE") ? on_trace : NULL;
        scenario_run(&s);
        if (strncmp(s.spec, "vhost-vdpa:", 11)) {               /* its addresses are always translated */
                s.options.iommu = 1;
                scenario_run(&s);
        }
}

TEST(vhost_net) {
        CHECK_OK(port_make_tap(&port, "tap9", 0x0a090901, 0));
        run((struct scenario){ .spec = "vhost-net:", .n_rings = 2, .virtio_id = 1, .must = VHK_CAP_BACKEND_FD | VHK_CAP_LOG | VHK_CAP_BUSYLOOP,
                .must_not = VHK_CAP_CONFIG | VHK_CAP_STATUS, .begin = begin_net });
        port_close_tap(&port);
}

TEST(vhost_vsock) {
        run((struct scenario){ .spec = "vhost-vsock:", .n_rings = 2, .virtio_id = 19, .must = VHK_CAP_VSOCK, .must_not = VHK_CAP_LOG, .begin = begin_vsock });
}

TEST(vhost_scsi) {
        if (!getenv("VHK_SCSI_WWPN"))
                SKIP("VHK_SCSI_WWPN is not set");
        run((struct scenario){ .spec = "vhost-scsi:", .n_rings = 3, .virtio_id = 8, .must = VHK_CAP_SCSI, .must_not = VHK_CAP_LOG, .begin = begin_scsi });
}

#define VDPA (VHK_CAP_CONFIG | VHK_CAP_STATUS | VHK_CAP_RESET | VHK_CAP_ENABLE | VHK_CAP_DMA)

TEST(vhost_vdpa_with_a_disk) {
        if (!getenv("VHK_VDPA_BLK"))
                SKIP("VHK_VDPA_BLK is not set");
        run((struct scenario){ .spec = getenv("VHK_VDPA_BLK"), .n_rings = 1, .virtio_id = 2, .must = VDPA, .must_not = VHK_CAP_LOG });
}

TEST(vhost_vdpa_with_a_card) {
        if (!getenv("VHK_VDPA_NET"))
                SKIP("VHK_VDPA_NET is not set");
        run((struct scenario){ .spec = getenv("VHK_VDPA_NET"), .n_rings = 2, .virtio_id = 1, .must = VDPA | VHK_CAP_GROUPS, .must_not = VHK_CAP_LOG });
}
