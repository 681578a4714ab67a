/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The story of scenario.h over vhost-user, with our own back-end, and over the mock of the kernel. */
#include "tests/kernel/scenario.h"

#include "frontend/test-mock-kernel.h"
#include "tests/pair.h"

/* ---- vhost-user ---- */

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r;

        while (vhk_queue_pop(q, &r, 1) == 1)
                vhk_queue_push(q, r, 0);
        vhk_queue_flush(q);
}

static int get_config(void *arg, uint32_t off, void *buf, uint32_t n) {
        memset(buf, 7, n);
        return 0;
}

static const struct vhk_device_ops ops = {
        .size = sizeof(ops), .virtio_id = 4, .n_queues = 4, .queue_size_max = 64, .config_len = 16, .threads = VHK_THREADS_SINGLE,
        .queue_run = device_run, .get_config = get_config,
};

TEST(vhost_user) {
        struct pair ends;
        struct scenario s = { .n_rings = 3, .must = VHK_CAP_CONFIG | VHK_CAP_STATUS | VHK_CAP_RESET | VHK_CAP_ENABLE | VHK_CAP_LOG,
                .must_not = VHK_CAP_BACKEND_FD | VHK_CAP_VSOCK | VHK_CAP_SCSI | VHK_CAP_DMA };

        CHECK_MSG(pair_open(&ends, &(struct pair_options){ .ops = &ops }) == 0, "%s", ends.error.text);
        ends.f = vhk_frontend_close(ends.f);
        s.spec = ends.front;
        scenario_run(&s);
        pair_close(&ends);
}

/* ---- the kernel ---- */

static int begin_net(struct vhk_frontend *f) {
        int tap = eventfd(0, EFD_CLOEXEC), k = 0;       /* stands for one */

        for (unsigned i = 0; i < 2 && k == 0; i++)
                k = vhk_frontend_set_backend(f, i, tap);
        close(tap);
        return k;
}

static int begin_vsock(struct vhk_frontend *f) {
        int k = vhk_frontend_vsock_set_cid(f, 3);

        return k < 0 ? k : vhk_frontend_vsock_set_running(f, 1);
}

static int begin_scsi(struct vhk_frontend *f) {
        return vhk_frontend_scsi_set_endpoint(f, "naa.5001", 1);
}

static void over_mock(enum mock_kind kind, struct scenario s) {
        for (s.options.iommu = 0; s.options.iommu < 2; s.options.iommu++) {
                s.options.has_fd = 1;
                s.options.fd = mock_make(kind);
                scenario_run(&s);
                mock_done();
        }
}

TEST(vhost_net) {
        over_mock(MOCK_NET, (struct scenario){ .spec = "vhost-net:", .n_rings = 2, .virtio_id = 1, .must = VHK_CAP_BACKEND_FD | VHK_CAP_LOG, .begin = begin_net });
}

TEST(vhost_vsock) {
        over_mock(MOCK_VSOCK, (struct scenario){ .spec = "vhost-vsock:", .n_rings = 2, .virtio_id = 19, .must = VHK_CAP_VSOCK, .begin = begin_vsock });
}

TEST(vhost_scsi) {
        over_mock(MOCK_SCSI, (struct scenario){ .spec = "vhost-scsi:", .n_rings = 3, .virtio_id = 8, .must = VHK_CAP_SCSI, .begin = begin_scsi });
}
