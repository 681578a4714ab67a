/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The vhost-vdpa carrier: status, features, configuration, rings. See vdpa.h. One thread.
 *
 * Stopping a ring. The last one that runs is stopped by SUSPEND where the device has it: then its base is exact, and so are those
 * of rings that are asked for later. While others run, or without SUSPEND, the ring alone is disabled and its base read; that
 * is exact if nothing was in flight in it. A suspended device goes on by RESUME when a ring is started; one without it is
 * reset then, and taken back to where it was: features, mappings, status (what a driver had told the device in its rings is lost).
 * So is one without SUSPEND when the first ring after all were stopped is started (VDUSE devices see their rings at DRIVER_OK alone).
 * Source: virtio 1.3, 2.1 and 3.1.1; Linux drivers/vhost/vdpa.c.
 */
#include "frontend/vdpa.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include "base/fd.h"
#include "wire/features.h"

int vhk_vd_said(struct vhk_vd *v, int k, const char *what) {
        vhk_log(&v->f.trace, VHK_LOG_DEBUG, "%s: %s: %s", v->name, what, k < 0 ? strerror(-k) : "ok");
        return k < 0 ? vhk_frontend_fail(&v->f, k, "vdpa.refused", "%s: %s: %s", v->name, what, strerror(-k)) : k;
}

int vhk_vd_check_queue(struct vhk_vd *v, unsigned i) {
        if (i < v->f.info.n_queues)
                return 0;
        return vhk_frontend_fail(&v->f, -EINVAL, "frontend.queue", "%s has %u rings, there is no ring %u", v->name, v->f.info.n_queues, i);
}

/* ---- status ---- */

static bool runs(const struct vhk_vd *v) {
        return (v->status & VHK_VD_DRIVER_OK) && !v->suspended;
}

/* A kick before DRIVER_OK may be lost: what was made available until then is looked for. */
static void kick(const struct vhk_vd *v, unsigned i) {
        if (v->rings[i].kick_fd >= 0 && runs(v))
                vhk_peer_notify(v->rings[i].kick_fd);
}

/* The kernel holds no descriptor of the ring any more. */
static int put_no_fds(struct vhk_vd *v, unsigned i) {
        int ret = vhk_vd_said(v, vhk_sys_vhost_set_vring_kick(v->fd, i, -1), "kick descriptor of a ring");

        if (ret == 0)
                ret = vhk_vd_said(v, vhk_sys_vhost_set_vring_call(v->fd, i, -1), "call descriptor of a ring");
        return ret < 0 ? ret : vhk_vd_said(v, vhk_sys_vhost_set_vring_err(v->fd, i, -1), "error descriptor of a ring");
}

static void forget_ring(struct vhk_vd *v, unsigned i) {
        v->rings[i].started = false;
        vhk_close(&v->rings[i].kick_fd);
}

/* Rings, features and the address spaces of groups are those of the beginning; unless the mappings persist, the device has none. */
static void after_reset(struct vhk_vd *v) {
        for (unsigned i = 0; i < v->f.info.n_queues; i++)
                forget_ring(v, i);
        for (unsigned i = 0; i < v->f.info.n_groups; i++)
                v->group_asid[i] = 0;
        v->suspended = v->in_batch = v->spent = false;
        v->stale = !vhk_vd_has(v, VHK_SYS_BF_IOTLB_PERSIST);
}

int vhk_vd_put_status(struct vhk_vd *v, uint8_t status) {
        bool was_running = runs(v);

        int k = status ? vhk_vd_freshen(v) : 0;
        if (k == 0)
                k = vhk_vd_said(v, vhk_sys_vdpa_set_status(v->fd, status), status ? "device status" : "device reset");
        if (k < 0)
                return k;
        v->status = status;
        if (!status)
                after_reset(v);
        for (unsigned i = 0; !was_running && i < v->f.info.n_queues; i++)
                kick(v, i);             /* none is started after a reset */
        return 0;
}

static int get_status(struct vhk_frontend *f, uint8_t *ret_status) {
        return vhk_vd_said(vhk_vd_of(f), vhk_sys_vdpa_get_status(vhk_vd_of(f)->fd, ret_status), "device status");
}

static int set_status(struct vhk_frontend *f, uint8_t status) {
        struct vhk_vd *v = vhk_vd_of(f);

        v->status_is_callers = true;
        if (v->status & ~status && status)
                return vhk_frontend_fail(f, -EINVAL, "vdpa.status", "status 0x%x takes away bits of 0x%x: only a reset does", status, v->status);
        return vhk_vd_put_status(v, status);
}

static int reset(struct vhk_frontend *f) {
        return vhk_vd_put_status(vhk_vd_of(f), 0);
}

/* ---- features ---- */

static int put_features(struct vhk_vd *v, uint64_t features) {
        return vhk_vd_said(v, vhk_sys_vhost_set_features(v->fd, features | v->hidden), "features");
}

/* The device may do without: then FEATURES_OK does not stay. */
static int put_features_ok(struct vhk_vd *v) {
        uint8_t status = 0;

        int k = vhk_vd_put_status(v, v->status | VHK_VD_FEATURES_OK);
        if (k == 0)
                k = get_status(&v->f, &status);
        if (k == 0 && !(status & VHK_VD_FEATURES_OK))
                k = vhk_frontend_fail(&v->f, -EREMOTEIO, "vdpa.features", "%s does not accept the features 0x%llx", v->name, (unsigned long long)v->f.info.acked);
        return k;
}

/* From reset to FEATURES_OK, for a caller who leaves the status to the carrier. */
static int negotiate(struct vhk_vd *v, uint64_t features) {
        int k = v->status & VHK_VD_FEATURES_OK ? vhk_vd_put_status(v, 0) : 0;

        if (k == 0)
                k = vhk_vd_put_status(v, VHK_VD_DRIVER);
        if (k == 0)
                k = put_features(v, features);
        return k < 0 ? k : put_features_ok(v);
}

static int set_features(struct vhk_frontend *f, uint64_t features) {
        struct vhk_vd *v = vhk_vd_of(f);

        if (features & ~f->info.features)
                return vhk_frontend_fail(f, -EINVAL, "frontend.features", "features 0x%llx are not on offer", (unsigned long long)(features & ~f->info.features));
        for (unsigned i = 0; i < f->info.n_queues; i++)
                if (v->rings[i].started)
                        return vhk_frontend_fail(f, -EBUSY, "frontend.features", "ring %u runs", i);
        int k = v->status_is_callers ? put_features(v, features) : negotiate(v, features);
        if (k == 0)
                f->info.acked = features;
        return k;
}

/* ---- configuration ---- */

static int check_config(struct vhk_vd *v, uint32_t off, uint32_t n) {
        if (n && vhk_range_within(off, n, v->f.info.config_size))
                return 0;
        return vhk_frontend_fail(&v->f, -EINVAL, "frontend.config-range", "configuration space ends at %u, bytes %u to %llu were asked for",
                                 v->f.info.config_size, off, (unsigned long long)off + n);
}

static int get_config(struct vhk_frontend *f, uint32_t off, void *ret_buf, uint32_t n) {
        int k = check_config(vhk_vd_of(f), off, n);

        return k < 0 ? k : vhk_vd_said(vhk_vd_of(f), vhk_sys_vdpa_get_config(vhk_vd_of(f)->fd, off, ret_buf, n), "configuration");
}

static int set_config(struct vhk_frontend *f, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        int k = check_config(vhk_vd_of(f), off, n);

        return k < 0 ? k : vhk_vd_said(vhk_vd_of(f), vhk_sys_vdpa_set_config(vhk_vd_of(f)->fd, off, buf, n), "configuration");
}

/* ---- rings ---- */

struct asid {
        const struct vhk_vd *v;
        uint32_t asid;
};

static int find(void *arg, uint64_t gpa, uint64_t len, uint64_t *ret_address) {
        const struct asid *a = arg;

        if (!vhk_vd_is_mapped(a->v, a->asid, gpa, len))
                return -EFAULT;
        *ret_address = gpa;
        return 0;
}

static int check_setup(struct vhk_vd *v, unsigned i, const struct vhk_ring_setup *s) {
        bool packed = v->f.info.acked & VHK_BIT(VHK_F_RING_PACKED);
        struct asid asid = { v, v->group_asid[v->rings[i].group] };
        uint32_t most = v->rings[i].max_num;
        struct vhk_frontend_areas a;

        if (!s->num || s->num > most || (!packed && !vhk_is_pow2(s->num)))
                return vhk_frontend_fail(&v->f, -EINVAL, "frontend.queue", "ring %u of %u entries: %s takes up to %u%s", i, s->num, v->name, most,
                                         packed ? "" : ", a power of two");
        return vhk_frontend_find_areas(&v->f, i, s, v->f.info.acked, find, &asid, &a);
}

static int send_ring(struct vhk_vd *v, unsigned i, const struct vhk_ring_setup *s) {
        struct vhk_sys_ring_addr a = { .index = i, .desc = s->desc, .avail = s->driver, .used = s->device };

        int k = vhk_vd_said(v, vhk_sys_vhost_set_vring_num(v->fd, i, s->num), "size of a ring");
        if (k == 0)
                k = vhk_vd_said(v, vhk_sys_vhost_set_vring_base(v->fd, i, vhk_frontend_encode_base(v->f.info.acked, &s->base)), "base of a ring");
        if (k == 0)
                k = vhk_vd_said(v, vhk_sys_vhost_set_vring_addr(v->fd, &a), "addresses of a ring");
        if (k == 0)
                k = vhk_vd_said(v, vhk_sys_vhost_set_vring_err(v->fd, i, s->err_fd), "error descriptor of a ring");
        if (k == 0)
                k = vhk_vd_said(v, vhk_sys_vhost_set_vring_call(v->fd, i, s->call_fd), "call descriptor of a ring");
        if (k == 0)
                k = vhk_vd_said(v, vhk_sys_vhost_set_vring_kick(v->fd, i, s->kick_fd), "kick descriptor of a ring");
        return k < 0 ? k : vhk_vd_said(v, vhk_sys_vdpa_set_vring_enable(v->fd, i, 1), "enabling a ring");
}

static int put_group_asid(struct vhk_vd *v, uint32_t group, uint32_t asid) {
        int k = vhk_vd_said(v, vhk_sys_vdpa_set_group_asid(v->fd, group, asid), "address space of a group");

        if (k == 0)
                v->group_asid[group] = asid;
        return k;
}

/* A device that cannot go on begins anew, its groups in the address spaces where they were; all its rings are stopped. */
static int revive(struct vhk_vd *v) {
        uint8_t status = v->status;
        size_t n = v->f.info.n_groups;
        VHK_AUTOFREE uint32_t *asid = calloc(n + 1, sizeof(*asid));

        if (!asid)
                return -ENOMEM;
        memcpy(asid, v->group_asid, n * sizeof(*asid));
        int k = vhk_vd_put_status(v, 0);
        for (uint32_t i = 0; i < n && k == 0; i++)
                k = asid[i] ? put_group_asid(v, i, asid[i]) : 0;
        if (k == 0)
                k = vhk_vd_put_status(v, VHK_VD_DRIVER);
        if (k == 0)
                k = put_features(v, v->f.info.acked);
        if (k == 0)
                k = put_features_ok(v);
        v->status = status & ~VHK_VD_DRIVER_OK;
        return k;
}

/* What is behind the ring's own setup: the device runs, or goes on. */
static int set_off(struct vhk_vd *v, uint8_t status) {
        int k = 0;

        if (v->suspended) {
                k = vhk_vd_said(v, vhk_sys_vdpa_resume(v->fd), "resuming");
                v->suspended = k < 0;
        } else if (status != v->status) {
                return vhk_vd_put_status(v, status);            /* kicks */
        }
        for (unsigned i = 0; k == 0 && i < v->f.info.n_queues; i++)
                kick(v, i);
        return k;
}

static int suspend(struct vhk_frontend *f) {
        struct vhk_vd *v = vhk_vd_of(f);

        if (v->suspended)
                return 0;
        int k = vhk_vd_said(v, vhk_sys_vdpa_suspend(v->fd), "suspending");
        v->suspended = k == 0;
        return k;
}

/* Linux since 6.10 takes a ring's setup only before the device runs, or while it is suspended. */
static int hold(struct vhk_frontend *f) {
        struct vhk_vd *v = vhk_vd_of(f);

        return runs(v) && vhk_vd_has(v, VHK_SYS_BF_SUSPEND) && vhk_vd_has(v, VHK_SYS_BF_RESUME) ? suspend(f) : 0;
}

static bool any_other_runs(const struct vhk_vd *v, unsigned i) {
        for (unsigned j = 0; j < v->f.info.n_queues; j++)
                if (j != i && v->rings[j].started)
                        return true;
        return false;
}

static int run_ring(struct vhk_vd *v, unsigned i, const struct vhk_ring_setup *s, uint8_t status) {
        int kick_fd = s->kick_fd < 0 ? -1 : fcntl(s->kick_fd, F_DUPFD_CLOEXEC, 0);

        if (s->kick_fd >= 0 && kick_fd < 0)
                return vhk_frontend_fail(&v->f, vhk_errno(), "frontend.kick", "ring %u: its kick descriptor: %s", i, strerror(errno));
        v->rings[i].kick_fd = kick_fd;
        v->rings[i].started = true;
        int ret = send_ring(v, i, s);
        return ret < 0 ? ret : set_off(v, status);
}

/* A ring that did not start is as it was, and the device as well if it @ran. The failure's error
 * message stays. */
static void undo_start(struct vhk_vd *v, unsigned i, bool ran) {
        struct vhk_error why = v->f.error;

        if (v->rings[i].started) {
                vhk_sys_vdpa_set_vring_enable(v->fd, i, 0);
                (void)put_no_fds(v, i);
        }
        forget_ring(v, i);
        if (ran && v->suspended)
                (void)set_off(v, v->status);
        v->f.error = why;
}

static int start_queue(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s) {
        struct vhk_vd *v = vhk_vd_of(f);
        int k = vhk_vd_check_queue(v, i);

        if (k < 0)
                return k;
        if (v->rings[i].started)
                return vhk_frontend_fail(f, -EBUSY, "frontend.queue", "ring %u runs already", i);
        k = vhk_vd_freshen(v);
        if (k == 0)
                k = check_setup(v, i, s);
        if (k == 0 && !v->status_is_callers && !(v->status & VHK_VD_FEATURES_OK))
                k = negotiate(v, f->info.acked);
        if (k < 0)
                return k;
        uint8_t status = v->status | (v->status_is_callers ? 0 : VHK_VD_DRIVER_OK);
        bool ran = runs(v);
        if ((v->suspended && !vhk_vd_has(v, VHK_SYS_BF_RESUME)) || (v->spent && !any_other_runs(v, i)))
                k = revive(v);
        else
                k = hold(f);
        if (k == 0)
                k = run_ring(v, i, s, status);
        if (k < 0)
                undo_start(v, i, ran);
        return k;
}

static int resume(struct vhk_frontend *f) {
        struct vhk_vd *v = vhk_vd_of(f);

        return v->suspended ? set_off(v, v->status) : 0;
}

static int stop_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base) {
        struct vhk_vd *v = vhk_vd_of(f);
        uint32_t base = 0;

        int k = vhk_vd_check_queue(v, i);
        if (k < 0)
                return k;
        if (runs(v) && vhk_vd_has(v, VHK_SYS_BF_SUSPEND) && !any_other_runs(v, i))
                k = suspend(f);
        else if (!v->suspended)
                k = vhk_vd_said(v, vhk_sys_vdpa_set_vring_enable(v->fd, i, 0), "disabling a ring");
        if (k == 0)
                k = vhk_vd_said(v, vhk_sys_vhost_get_vring_base(v->fd, i, &base), "base of a ring");
        if (k == 0 && v->suspended)     /* a ring that is set up again begins where it is enabled, and not if it is still */
                k = vhk_vd_said(v, vhk_sys_vdpa_set_vring_enable(v->fd, i, 0), "disabling a ring");
        if (k == 0)
                k = put_no_fds(v, i);
        if (k < 0)
                return k;
        forget_ring(v, i);
        v->spent = v->spent || (runs(v) && !vhk_vd_has(v, VHK_SYS_BF_SUSPEND));
        if (ret_base)
                *ret_base = vhk_frontend_decode_base(f->info.acked, base);
        return 0;
}

static int enable_queue(struct vhk_frontend *f, unsigned i, int on) {
        struct vhk_vd *v = vhk_vd_of(f);
        int k = vhk_vd_check_queue(v, i);

        return k < 0 ? k : vhk_vd_said(v, vhk_sys_vdpa_set_vring_enable(v->fd, i, !!on), on ? "enabling a ring" : "disabling a ring");
}

static int set_call_fd(struct vhk_frontend *f, unsigned i, int fd) {
        struct vhk_vd *v = vhk_vd_of(f);
        int k = vhk_vd_check_queue(v, i);

        return k < 0 ? k : vhk_vd_said(v, vhk_sys_vhost_set_vring_call(v->fd, i, fd), "call descriptor of a ring");
}

/* ---- groups ---- */

static int get_queue_group(struct vhk_frontend *f, unsigned i, uint32_t *ret_group) {
        int k = vhk_vd_check_queue(vhk_vd_of(f), i);

        if (k == 0)
                *ret_group = vhk_vd_of(f)->rings[i].group;
        return k;
}

static int set_group_asid(struct vhk_frontend *f, uint32_t group, uint32_t asid) {
        struct vhk_vd *v = vhk_vd_of(f);

        if (group >= f->info.n_groups)
                return vhk_frontend_fail(f, -EINVAL, "vdpa.group", "%s has %u groups of rings, there is no group %u", v->name, f->info.n_groups, group);
        if (asid >= f->info.n_address_spaces)
                return vhk_frontend_fail(f, -EINVAL, "vdpa.asid", "%s has %u address spaces, there is no address space %u", v->name, f->info.n_address_spaces, asid);
        if (v->status & VHK_VD_DRIVER_OK)
                return vhk_frontend_fail(f, -EBUSY, "vdpa.group", "%s runs: its groups have their address spaces", v->name);
        if (v->in_batch)
                return vhk_frontend_fail(f, -EBUSY, "vdpa.batch", "a batch of address space %u has begun and not ended", v->batch_asid);
        int k = put_group_asid(v, group, asid);
        return k < 0 ? k : vhk_vd_freshen(v);
}

/* ---- life ---- */

static int get_fd(struct vhk_frontend *f) {
        return vhk_vd_of(f)->epoll_fd;
}

/* The kernel asks nothing of a vhost-vdpa's user: it says that the configuration has changed, no more. */
static int dispatch(struct vhk_frontend *f) {
        int k = vhk_drain_fd(vhk_vd_of(f)->config_fd);

        if (k > 0)
                f->config_changed = true;
        return k;
}

const struct vhk_frontend_ops vhk_vd_ops = {
        .set_features = set_features, .set_memory = vhk_vd_set_memory, .get_config = get_config, .set_config = set_config,
        .get_status = get_status, .set_status = set_status, .reset = reset, .start_queue = start_queue, .stop_queue = stop_queue,
        .enable_queue = enable_queue, .set_call_fd = set_call_fd, .get_fd = get_fd, .dispatch = dispatch, .close = vhk_vd_close,
        .get_queue_group = get_queue_group, .set_group_asid = set_group_asid, .dma_map = vhk_vd_dma_map, .dma_unmap = vhk_vd_dma_unmap,
        .dma_begin = vhk_vd_dma_begin, .dma_end = vhk_vd_dma_end, .suspend = suspend, .resume = resume,
};
