/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the kernel's vhost devices have in common: node, owner, features, memory table, rings. One thread; an ioctl is over when it returns,
 * so every refusal is seen at the call that caused it, and no time limit is needed.
 *
 * Rings live in our memory under our addresses: the kernel reads and writes there whatever the memory table says meanwhile. So
 * memory that a ring runs in is not taken back, and closing stops what runs even if someone else holds the descriptor too. A kick
 * before the device has begun is lost, so beginning kicks. Source: Linux include/uapi/linux/vhost.h, drivers/vhost/vhost.c.
 */
#include "frontend/vhost.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "base/fd.h"
#include "mem/dirty.h"
#include "mem/mem.h"
#include "wire/features.h"

#define MEM_SLOTS_DEFAULT 64u           /* of the module's parameter */
#define MEM_SLOTS_PARAMETER "/sys/module/vhost/parameters/max_mem_regions"
#define QUEUES_MAX 65536u               /* more than any kernel lets a vhost-scsi have */
#define QUEUE_SIZE_MAX 32768u
#define LOG_ALL VHK_BIT(VHK_F_LOG_ALL)

/* ---- telling ---- */

int vhk_vhost_said(struct vhk_vhost *v, int k, const char *name, const char *format, ...) {
        char args[160];
        va_list ap;

        if (k >= 0 && !v->f.trace.fn)
                return k;
        va_start(ap, format);
        vsnprintf(args, sizeof(args), format, ap);
        va_end(ap);
        vhk_log(&v->f.trace, VHK_LOG_DEBUG, "%s(%s) = %d%s%s", name, args, k, k < 0 ? " " : "", k < 0 ? strerror(-k) : "");
        return k < 0 ? vhk_frontend_fail(&v->f, k, "frontend.ioctl", "%s: %s(%s): %s", v->name, name, args, strerror(-k)) : k;
}

int vhk_vhost_check_queue(struct vhk_vhost *v, unsigned i) {
        if (i < v->f.info.n_queues)
                return 0;
        return vhk_frontend_fail(&v->f, -EINVAL, "frontend.queue", "%s has %u rings, there is no ring %u", v->name, v->f.info.n_queues, i);
}

/* ---- features ---- */

bool vhk_vhost_has_iommu(const struct vhk_vhost *v) {
        return v->f.info.acked & VHK_BIT(VHK_F_ACCESS_PLATFORM);
}

int vhk_vhost_send_features(struct vhk_vhost *v, uint64_t features) {
        uint64_t all = features | v->own_features | (v->logs_data ? LOG_ALL : 0);

        return vhk_vhost_said(v, vhk_sys_vhost_set_features(v->fd, all), "VHOST_SET_FEATURES", "0x%llx", (unsigned long long)all);
}

static int set_features(struct vhk_frontend *f, uint64_t features) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        if (features & ~f->info.features)
                return vhk_frontend_fail(f, -EINVAL, "frontend.features", "features 0x%llx are not on offer",
                                         (unsigned long long)(features & ~f->info.features));
        int k = vhk_vhost_send_features(v, features);
        if (k < 0)
                return k;
        f->info.acked = features;
        return vhk_vhost_tell_memory(v, NULL, 0);
}

/* ---- memory ---- */

static int find_in(const struct vhk_sys_region *r, unsigned n, uint64_t gpa, uint64_t len, uint64_t *ret_uva) {
        for (unsigned i = 0; i < n; i++)
                if (gpa >= r[i].gpa && vhk_range_within(gpa - r[i].gpa, len, r[i].len)) {
                        *ret_uva = r[i].uva + (gpa - r[i].gpa);
                        return 0;
                }
        return -EFAULT;
}

int vhk_vhost_find(void *arg, uint64_t gpa, uint64_t len, uint64_t *ret_uva) {
        const struct vhk_vhost *v = arg;

        return find_in(v->lent, v->n_lent, gpa, len, ret_uva);
}

static int collect(struct vhk_vhost *v, const struct vhk_memory *m, struct vhk_sys_region **ret_r, unsigned *ret_n) {
        unsigned n = vhk_memory_n_regions(m);

        if (n > v->f.info.mem_slots)
                return vhk_frontend_fail(&v->f, -ENOSPC, "frontend.slots", "the memory has %u regions, %s takes %u (vhost's max_mem_regions)", n, v->name,
                                         v->f.info.mem_slots);
        VHK_AUTOFREE struct vhk_sys_region *r = calloc(n + 1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        for (unsigned i = 0; i < n; i++) {
                struct vhk_region one;
                int k = vhk_frontend_get_region(&v->f, m, i, &one, NULL);
                if (k < 0)
                        return k;
                r[i] = (struct vhk_sys_region){ .gpa = one.gpa.v, .len = one.len, .uva = (uintptr_t)one.va };
        }
        *ret_n = n;
        *ret_r = VHK_STEAL(r);
        return 0;
}

/* Memory that would not be there any more, or elsewhere, while ring @i runs in it. */
static int check_ring_stays(struct vhk_vhost *v, unsigned i, const struct vhk_sys_region *r, unsigned n) {
        const struct vhk_sys_ring_addr *a = &v->rings[i].addr;
        const struct vhk_ring_setup *s = &v->rings[i].setup;
        const struct { uint64_t uva, len; } areas[] = {
                { a->desc, 16ull * s->num }, { a->avail, 6 + 2ull * s->num }, { a->used, 6 + 8ull * s->num },
        };

        for (size_t j = 0; j < VHK_N(areas); j++) {
                bool stays = false;
                for (unsigned m = 0; m < n; m++)
                        stays |= areas[j].uva >= r[m].uva && vhk_range_within(areas[j].uva - r[m].uva, areas[j].len, r[m].len);
                if (!stays)
                        return vhk_frontend_fail(&v->f, -EBUSY, "frontend.ring-memory", "ring %u runs in memory that would be taken back: stop it first", i);
        }
        return 0;
}

static int set_memory(struct vhk_frontend *f, struct vhk_memory *m) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        VHK_AUTOFREE struct vhk_sys_region *r = NULL;
        unsigned n = 0;

        int k = collect(v, m, &r, &n);
        if (k < 0 || (n == v->n_lent && (n == 0 || !memcmp(r, v->lent, n * sizeof(*r)))))
                return k;
        for (unsigned i = 0; i < f->info.n_queues && k == 0 && !vhk_vhost_has_iommu(v); i++)
                if (v->rings[i].started)
                        k = check_ring_stays(v, i, r, n);
        if (k == 0)
                k = vhk_vhost_check_log(v, v->log, r, n);
        if (k == 0)
                k = vhk_vhost_said(v, vhk_sys_vhost_set_mem_table(v->fd, r, n), "VHOST_SET_MEM_TABLE", "%u regions", n);
        if (k < 0)
                return k;
        VHK_AUTOFREE struct vhk_sys_region *old = v->lent;
        unsigned n_old = v->n_lent;
        v->lent = VHK_STEAL(r);
        v->n_lent = n;
        return vhk_vhost_tell_memory(v, old, n_old);
}

/* ---- rings ---- */

void vhk_vhost_kick(struct vhk_vhost *v, unsigned i) {
        if (v->rings[i].started && v->rings[i].kick_fd >= 0)
                vhk_peer_notify(v->rings[i].kick_fd);
}

int vhk_vhost_begin(struct vhk_vhost *v, int (*begin)(struct vhk_vhost *v)) {
        int k = begin(v);

        if (k < 0)
                return k;
        v->wanted = v->bound = true;
        for (unsigned i = 0; i < v->f.info.n_queues; i++) {
                v->rings[i].needed = v->rings[i].started;
                vhk_vhost_kick(v, i);
        }
        return 0;
}

int vhk_vhost_begin_when_complete(struct vhk_vhost *v, int (*begin)(struct vhk_vhost *v)) {
        bool complete = v->wanted && !v->bound;

        for (unsigned i = 0; i < v->f.info.n_queues && complete; i++)
                complete = !v->rings[i].needed || v->rings[i].started;
        return complete ? vhk_vhost_begin(v, begin) : 0;
}

/* SET_VRING_KICK, _CALL and _ERR */
static int tell_fd(struct vhk_vhost *v, int (*set)(int fd, uint32_t i, int event_fd), const char *name, unsigned i, int fd) {
        return vhk_vhost_said(v, set(v->fd, i, fd), name, "ring %u, fd %d", i, fd);
}

static int tell_ring(struct vhk_vhost *v, unsigned i, const struct vhk_ring_setup *s, const struct vhk_sys_ring_addr *a) {
        uint32_t base = vhk_frontend_encode_base(v->f.info.acked, &s->base);

        int k = vhk_vhost_said(v, vhk_sys_vhost_set_vring_num(v->fd, i, s->num), "VHOST_SET_VRING_NUM", "ring %u, %u", i, s->num);
        if (k == 0)
                k = vhk_vhost_said(v, vhk_sys_vhost_set_vring_base(v->fd, i, base), "VHOST_SET_VRING_BASE", "ring %u, %u", i, base);
        if (k == 0)
                k = vhk_vhost_said(v, vhk_sys_vhost_set_vring_addr(v->fd, a), "VHOST_SET_VRING_ADDR", "ring %u, desc 0x%llx, avail 0x%llx, used 0x%llx", i,
                                   (unsigned long long)a->desc, (unsigned long long)a->avail, (unsigned long long)a->used);
        if (k == 0)
                k = tell_fd(v, vhk_sys_vhost_set_vring_err, "VHOST_SET_VRING_ERR", i, s->err_fd);
        if (k == 0)
                k = tell_fd(v, vhk_sys_vhost_set_vring_call, "VHOST_SET_VRING_CALL", i, s->call_fd);
        return k < 0 ? k : tell_fd(v, vhk_sys_vhost_set_vring_kick, "VHOST_SET_VRING_KICK", i, s->kick_fd);
}

/* The kernel holds no descriptor of the ring any more. */
static int forget_fds(struct vhk_vhost *v, unsigned i) {
        int k = tell_fd(v, vhk_sys_vhost_set_vring_kick, "VHOST_SET_VRING_KICK", i, -1);

        if (k == 0)
                k = tell_fd(v, vhk_sys_vhost_set_vring_call, "VHOST_SET_VRING_CALL", i, -1);
        if (k == 0)
                k = tell_fd(v, vhk_sys_vhost_set_vring_err, "VHOST_SET_VRING_ERR", i, -1);
        vhk_close(&v->rings[i].kick_fd);
        v->rings[i].started = false;
        return k;
}

static int run_ring(struct vhk_vhost *v, unsigned i, const struct vhk_ring_setup *s, const struct vhk_sys_ring_addr *a) {
        struct vhk_vhost_ring *r = &v->rings[i];

        r->kick_fd = s->kick_fd < 0 ? -1 : fcntl(s->kick_fd, F_DUPFD_CLOEXEC, 0);
        if (s->kick_fd >= 0 && r->kick_fd < 0)
                return vhk_frontend_fail(&v->f, vhk_errno(), "frontend.kick", "ring %u: its kick descriptor: %s", i, strerror(errno));
        r->setup = *s;
        r->addr = *a;
        int k = tell_ring(v, i, s, a);
        r->started = true;
        if (k == 0)
                k = v->kind->attach(v, i);
        if (k < 0) {
                struct vhk_error why = v->f.error;
                forget_fds(v, i);
                v->f.error = why;
        }
        return k;
}

static int start_queue(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        struct vhk_frontend_areas a;

        int k = vhk_vhost_check_queue(v, i);
        if (k < 0)
                return k;
        if (v->rings[i].started)
                return vhk_frontend_fail(f, -EBUSY, "frontend.queue", "ring %u runs already", i);
        k = vhk_frontend_find_areas(f, i, s, f->info.acked, vhk_vhost_find, v, &a);
        if (k == 0)
                k = vhk_vhost_tell_used(v, i, s);
        return k < 0 ? k : run_ring(v, i, s, &(struct vhk_sys_ring_addr){ .index = i, .desc = a.desc, .avail = a.driver, .used = a.device });
}

static int stop_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        uint32_t base = 0;

        int k = vhk_vhost_check_queue(v, i);
        if (k == 0 && v->rings[i].started)
                k = v->kind->detach(v, i);
        if (k == 0 && v->rings[i].started)
                k = forget_fds(v, i);
        if (k < 0)
                return k;
        k = vhk_sys_vhost_get_vring_base(v->fd, i, &base);
        k = vhk_vhost_said(v, k, "VHOST_GET_VRING_BASE", "ring %u, %u", i, base);
        if (k == 0 && ret_base)
                *ret_base = vhk_frontend_decode_base(f->info.acked, base);
        return k;
}

static int set_call_fd(struct vhk_frontend *f, unsigned i, int fd) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        int k = vhk_vhost_check_queue(v, i);
        if (k == 0)
                k = tell_fd(v, vhk_sys_vhost_set_vring_call, "VHOST_SET_VRING_CALL", i, fd);
        if (k == 0)
                v->rings[i].setup.call_fd = fd;
        return k;
}

static int set_vring_endian(struct vhk_frontend *f, unsigned i, int big) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        int k = vhk_vhost_check_queue(v, i);
        return k < 0 ? k : vhk_vhost_said(v, vhk_sys_vhost_set_vring_endian(v->fd, i, !!big), "VHOST_SET_VRING_ENDIAN", "ring %u, %u", i, !!big);
}

/* These devices know nothing but their rings, and what those are bound to. */
static int reset(struct vhk_frontend *f) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        int k = 0;

        for (unsigned i = 0; i < f->info.n_queues && k == 0; i++)
                if (v->rings[i].started)
                        k = stop_queue(f, i, NULL);
        for (unsigned i = 0; i < f->info.n_queues && k == 0; i++) {
                vhk_close(&v->rings[i].backend_fd);
                v->rings[i].needed = false;
        }
        if (k == 0)
                v->wanted = false;
        return k;
}

/* ---- workers, busy polling ---- */

static int new_worker(struct vhk_frontend *f, uint32_t *ret_id) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        uint32_t id = 0;

        int k = vhk_sys_vhost_new_worker(v->fd, &id);
        k = vhk_vhost_said(v, k, "VHOST_NEW_WORKER", "%u", id);
        if (k == 0)
                *ret_id = id;
        return k;
}

static int free_worker(struct vhk_frontend *f, uint32_t id) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        return vhk_vhost_said(v, vhk_sys_vhost_free_worker(v->fd, id), "VHOST_FREE_WORKER", "%u", id);
}

static int attach_worker(struct vhk_frontend *f, unsigned i, uint32_t id) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        return vhk_vhost_said(v, vhk_sys_vhost_attach_vring_worker(v->fd, i, id), "VHOST_ATTACH_VRING_WORKER", "ring %u, %u", i, id);
}

static int get_worker(struct vhk_frontend *f, unsigned i, uint32_t *ret_id) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        uint32_t id = 0;

        int k = vhk_sys_vhost_get_vring_worker(v->fd, i, &id);
        k = vhk_vhost_said(v, k, "VHOST_GET_VRING_WORKER", "ring %u, %u", i, id);
        if (k == 0)
                *ret_id = id;
        return k;
}

static int set_busyloop(struct vhk_frontend *f, unsigned i, uint32_t us) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        return vhk_vhost_said(v, vhk_sys_vhost_set_busyloop_timeout(v->fd, i, us), "VHOST_SET_VRING_BUSYLOOP_TIMEOUT", "ring %u, %u us", i, us);
}

static int get_busyloop(struct vhk_frontend *f, unsigned i, uint32_t *ret_us) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        uint32_t us = 0;

        int k = vhk_sys_vhost_get_busyloop_timeout(v->fd, i, &us);
        k = vhk_vhost_said(v, k, "VHOST_GET_VRING_BUSYLOOP_TIMEOUT", "ring %u, %u us", i, us);
        if (k == 0)
                *ret_us = us;
        return k;
}

/* ---- life ---- */

static int get_fd(struct vhk_frontend *f) {
        return vhk_vhost_of(f)->epoll_fd;
}

static int dispatch(struct vhk_frontend *f) {
        return vhk_vhost_serve_misses(vhk_vhost_of(f));
}

static void free_all(struct vhk_vhost *v) {
        for (unsigned i = 0; v->rings && i < v->f.info.n_queues; i++) {
                vhk_close(&v->rings[i].kick_fd);
                vhk_close(&v->rings[i].backend_fd);
        }
        vhk_close(&v->fd);                      /* first, for a log that is unmapped may be somebody else's memory */
        vhk_close(&v->epoll_fd);
        vhk_dirty_unref(v->log);
        free(v->rings);
        free(v->lent);
        free(v);
}

static void close_(struct vhk_frontend *f) {
        reset(f);
        free_all(vhk_vhost_of(f));
}

static const struct vhk_frontend_ops ops = {
        .set_features = set_features, .set_memory = set_memory, .reset = reset,
        .start_queue = start_queue, .stop_queue = stop_queue, .set_call_fd = set_call_fd, .set_vring_endian = set_vring_endian,
        .get_fd = get_fd, .dispatch = dispatch, .close = close_,
        .set_log = vhk_vhost_set_log, .set_log_fd = vhk_vhost_set_log_fd, .log_data = vhk_vhost_log_data, .log_queue = vhk_vhost_log_queue,
        .iotlb_update = vhk_vhost_iotlb_update, .iotlb_invalidate = vhk_vhost_iotlb_invalidate,
        .new_worker = new_worker, .free_worker = free_worker, .attach_worker = attach_worker, .get_worker = get_worker,
        .set_busyloop = set_busyloop, .get_busyloop = get_busyloop,
        .set_backend = vhk_vhost_net_set_backend,
        .vsock_set_cid = vhk_vhost_vsock_set_cid, .vsock_set_running = vhk_vhost_vsock_set_running,
        .scsi_set_endpoint = vhk_vhost_scsi_set_endpoint, .scsi_clear_endpoint = vhk_vhost_scsi_clear_endpoint,
        .scsi_get_abi_version = vhk_vhost_scsi_get_abi_version,
        .scsi_set_events_missed = vhk_vhost_scsi_set_events_missed, .scsi_get_events_missed = vhk_vhost_scsi_get_events_missed,
};

/* ---- opening ---- */

static int open_node(struct vhk_vhost *v, struct vhk_error *ret_e) {
        const char *module = v->kind->module;

        int k = vhk_sys_vhost_open(v->name, &v->fd);
        vhk_log(&v->f.trace, VHK_LOG_DEBUG, "open(%s) = %d", v->name, k < 0 ? k : v->fd);
        switch (k) {
        case -ENOENT:
                return vhk_error_set(ret_e, k, "frontend.node", "there is no %s: the kernel's module %s makes %s (modprobe %s)", v->name, module,
                                     v->kind->node, module);
        case -ENODEV:
        case -ENXIO:
                return vhk_error_set(ret_e, -ENODEV, "frontend.node", "%s has no driver behind it: the kernel's module %s is not loaded (modprobe %s)",
                                     v->name, module, module);
        case -EACCES:
        case -EPERM:
                return vhk_error_set(ret_e, -EACCES, "frontend.node", "%s may not be opened: read and write permission is needed (root's, or its group's)",
                                     v->name);
        }
        return k < 0 ? vhk_error_set(ret_e, k, "frontend.node", "%s cannot be opened (module %s): %s", v->name, module, strerror(-k)) : 0;
}

static uint32_t mem_slots(void) {
        unsigned n = MEM_SLOTS_DEFAULT;
        FILE *p = fopen(MEM_SLOTS_PARAMETER, "re");

        if (p && (fscanf(p, "%u", &n) != 1 || n == 0))
                n = MEM_SLOTS_DEFAULT;
        if (p)
                fclose(p);
        return n;
}

/* The kernel does not say how many rings there are, but knows which are not: -ENOBUFS. */
static int count_queues(struct vhk_vhost *v, uint32_t *ret_n) {
        uint32_t low = 0, high = QUEUES_MAX, base;      /* there are more than low, and at most high */

        while (low + 1 < high) {
                uint32_t mid = low + (high - low) / 2;
                int k = vhk_sys_vhost_get_vring_base(v->fd, mid, &base);
                if (k < 0 && k != -ENOBUFS)
                        return vhk_vhost_said(v, k, "VHOST_GET_VRING_BASE", "ring %u", mid);
                *(k < 0 ? &high : &low) = mid;
        }
        *ret_n = high;
        return 0;
}

/* An inherited descriptor may have its owner already; if that is not us, the next call says so. */
static int own(struct vhk_vhost *v) {
        uint32_t base;

        int k = vhk_sys_vhost_set_owner(v->fd);
        vhk_log(&v->f.trace, VHK_LOG_DEBUG, "VHOST_SET_OWNER() = %d", k);
        if (k == -EBUSY && v->f.options.has_fd)
                return vhk_vhost_said(v, vhk_sys_vhost_get_vring_base(v->fd, 0, &base), "VHOST_GET_VRING_BASE", "ring 0");
        return k < 0 ? vhk_frontend_fail(&v->f, k, "frontend.ioctl", "%s: VHOST_SET_OWNER(): %s", v->name, strerror(-k)) : 0;
}

/* IOTLB messages have a second form; nothing else of these is of use here. */
static int negotiate_backend_features(struct vhk_vhost *v) {
        uint64_t offered = 0, wanted = VHK_BIT(VHK_SYS_BF_IOTLB_MSG_V2);

        int k = vhk_sys_vhost_get_backend_features(v->fd, &offered);
        vhk_log(&v->f.trace, VHK_LOG_DEBUG, "VHOST_GET_BACKEND_FEATURES(0x%llx) = %d", (unsigned long long)offered, k);
        if (k < 0 || !(offered & wanted))       /* an older kernel, or vhost-scsi */
                return 0;
        v->f.info.carrier_features = offered;
        v->f.info.carrier_acked = wanted;
        v->is_v2 = true;
        return vhk_vhost_said(v, vhk_sys_vhost_set_backend_features(v->fd, wanted), "VHOST_SET_BACKEND_FEATURES", "0x%llx", (unsigned long long)wanted);
}

static uint32_t capabilities(const struct vhk_vhost *v, uint64_t features) {
        uint32_t word, c = v->kind->capabilities | VHK_CAP_RESET | VHK_CAP_ACK;

        if (!(features & LOG_ALL))
                c &= ~VHK_CAP_LOG;
        if (v->f.info.features & VHK_BIT(VHK_F_ACCESS_PLATFORM))
                c |= VHK_CAP_IOMMU;
        if (vhk_sys_vhost_get_vring_endian(v->fd, 0, &word) == 0)
                c |= VHK_CAP_ENDIAN;
        if (vhk_sys_vhost_get_vring_worker(v->fd, 0, &word) == 0)
                c |= VHK_CAP_WORKERS;
        if ((c & VHK_CAP_BUSYLOOP) && vhk_sys_vhost_get_busyloop_timeout(v->fd, 0, &word) < 0)
                c &= ~VHK_CAP_BUSYLOOP;
        return c;
}

static int handshake(struct vhk_vhost *v) {
        struct vhk_frontend_info *i = &v->f.info;
        uint64_t features = 0;

        int k = vhk_sys_vhost_get_features(v->fd, &features);
        k = vhk_vhost_said(v, k, "VHOST_GET_FEATURES", "0x%llx", (unsigned long long)features);
        if (k == -ENOTTY || k == -EINVAL || k == -ENOSYS)       /* ENOSYS: qemu-user, for what it does not know */
                return vhk_frontend_fail(&v->f, -EPROTO, "frontend.not-vhost", "%s is not a vhost device of the kernel: %s", v->name, strerror(-k));
        if (k == 0)
                k = own(v);
        if (k == 0)
                k = negotiate_backend_features(v);
        i->n_queues = v->kind->n_queues;
        if (k == 0 && !i->n_queues)
                k = count_queues(v, &i->n_queues);
        if (k < 0)
                return k;
        v->rings = calloc(i->n_queues, sizeof(*v->rings));
        if (!v->rings)
                return -ENOMEM;
        for (unsigned q = 0; q < i->n_queues; q++)
                v->rings[q].kick_fd = v->rings[q].backend_fd = -1;
        i->features = features & ~LOG_ALL & ~v->kind->keeps & ~(v->f.options.iommu ? 0 : VHK_BIT(VHK_F_ACCESS_PLATFORM));
        i->capabilities = capabilities(v, features);
        i->mem_slots = mem_slots();
        i->queue_size_max = QUEUE_SIZE_MAX;
        return 0;
}

/* Only misses make it readable; a node without them cannot be watched, and need not be. */
static int make_epoll(struct vhk_vhost *v) {
        struct epoll_event e = { .events = EPOLLIN };

        v->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (v->epoll_fd < 0 || (epoll_ctl(v->epoll_fd, EPOLL_CTL_ADD, v->fd, &e) < 0 && errno != EPERM))
                return vhk_frontend_fail(&v->f, vhk_errno(), "frontend.epoll", "%s cannot be watched: %s", v->name, strerror(errno));
        return 0;
}

static struct vhk_vhost *make(const struct vhk_vhost_kind *kind, const char *spec, const struct vhk_frontend_options *o) {
        struct vhk_vhost *v = calloc(1, sizeof(*v));
        const char *path = spec ? spec + strlen(kind->prefix) : "";

        if (!v)
                return NULL;
        v->f = (struct vhk_frontend){ .ops = &ops, .options = *o, .info = { .size = sizeof(v->f.info), .virtio_id = kind->virtio_id, .iova_last = UINT64_MAX },
                .log = { o->log, o->log_arg, NULL }, .trace = { o->trace, o->trace_arg, NULL }, .busy = true };
        v->f.error = (struct vhk_error){ .rule = "frontend.ok", .text = "nothing has failed" };
        v->f.log.limit = &v->f.log_limit;
        v->kind = kind;
        v->fd = o->has_fd ? o->fd : -1;
        v->epoll_fd = -1;
        if (o->has_fd)
                snprintf(v->name, sizeof(v->name), "descriptor %d", o->fd);
        else
                snprintf(v->name, sizeof(v->name), "%s", *path ? path : kind->node);
        return v;
}

/* An inherited descriptor stays the caller's. */
static void free_failed(struct vhk_vhost *v) {
        if (v->f.options.has_fd)
                v->fd = -1;
        free_all(v);
}

int vhk_vhost_open(const struct vhk_vhost_kind *kind, const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f,
                   struct vhk_error *ret_e) {
        if (spec && strlen(spec + strlen(kind->prefix)) >= sizeof(((struct vhk_vhost *)0)->name))
                return vhk_error_set(ret_e, -ENAMETOOLONG, "frontend.node", "the name of the node is too long");
        struct vhk_vhost *v = make(kind, spec, o);
        if (!v)
                return vhk_error_set(ret_e, -ENOMEM, "frontend.memory", "out of memory");
        int k = o->has_fd ? vhk_fd_set_nonblock(v->fd, true) : open_node(v, ret_e);
        if (k < 0) {
                free_failed(v);
                return o->has_fd ? vhk_error_set(ret_e, k, "frontend.node", "descriptor %d: %s", o->fd, strerror(-k)) : k;
        }
        k = handshake(v);
        if (k == 0)
                k = make_epoll(v);
        if (vhk_frontend_explain(&v->f, k) < 0) {
                vhk_error_set(ret_e, k, v->f.error.rule, "%s", v->f.error.text);
                free_failed(v);
                return k;
        }
        v->f.busy = false;
        *ret_f = &v->f;
        return 0;
}
