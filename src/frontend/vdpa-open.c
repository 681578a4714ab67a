/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The vhost-vdpa carrier: finding a device, and asking it once for all that does not change. One thread.
 *
 * What a kernel can do is told by its backend feature bits alone: it takes a request that it does not know for one about a ring,
 * and answers EFAULT, ENOBUFS or what it likes. What is only a number may be asked for, and is 0 where that fails.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <vhostkit/vdpa.h>

#include "frontend/vdpa.h"
#include "wire/features.h"

#define PREFIX "vhost-vdpa:"
#define TAKEN                                                                                                           \
        (VHK_BIT(VHK_SYS_BF_IOTLB_MSG_V2) | VHK_BIT(VHK_SYS_BF_IOTLB_BATCH) | VHK_BIT(VHK_SYS_BF_IOTLB_ASID) |          \
         VHK_BIT(VHK_SYS_BF_SUSPEND) | VHK_BIT(VHK_SYS_BF_RESUME) | VHK_BIT(VHK_SYS_BF_ENABLE_AFTER_DRIVER_OK) |        \
         VHK_BIT(VHK_SYS_BF_IOTLB_PERSIST))
/* Virtio bits that are between carrier and kernel. */
#define OURS (VHK_BIT(VHK_F_ACCESS_PLATFORM) | VHK_BIT(VHK_F_LOG_ALL))
#define SET_BY_US VHK_BIT(VHK_F_ACCESS_PLATFORM)
#define MOST_CONFIG 4096u               /* where the kernel does not tell */
#define MOST_RINGS 65536u               /* virtio numbers them with 16 bits */
#define MOST_GROUPS 65536u

static const struct { int code; const char *why; } reasons[] = {
        { -ENOENT, "there is no such node: is the module vhost_vdpa loaded, and a device there that is bound to it (vhk vdpa list)?" },
        { -ENODEV, "the node has no device behind it: is the module vhost_vdpa loaded?" },
        { -ENXIO, "the node has no device behind it: is the module vhost_vdpa loaded?" },
        { -EACCES, "no permission to read and write it" },
        { -EPERM, "no permission to read and write it" },
        { -EBUSY, "somebody else has it open" },
};

static int find_node(struct vhk_vd *v, const char *spec, struct vhk_error *ret_e) {
        const char *path = spec + strlen(PREFIX);
        bool is_number = *path && strspn(path, "0123456789") == strlen(path);

        if (!*path)
                return vhk_error_set(ret_e, -EINVAL, "vdpa.path", "\"%s\": a node, its number or a device's name is needed", spec);
        int n = snprintf(v->name, sizeof(v->name), "%s%s", is_number ? "/dev/vhost-vdpa-" : "", path);
        if (n >= (int)sizeof(v->name))
                return vhk_error_set(ret_e, -ENAMETOOLONG, "vdpa.path", "a path of %d bytes: at most %zu", n, sizeof(v->name) - 1);
        int k = v->name[0] == '/' ? 0 : vhk_vdpa_find_node(path, v->name, sizeof(v->name), ret_e);
        if (k < 0)
                return k;
        k = vhk_sys_vhost_open(v->name, &v->fd);
        for (size_t i = 0; k < 0 && i < VHK_N(reasons); i++)
                if (k == reasons[i].code)
                        return vhk_error_set(ret_e, k, "vdpa.open", "cannot open %s: %s", v->name, reasons[i].why);
        return k < 0 ? vhk_error_set(ret_e, k, "vdpa.open", "cannot open %s: %s", v->name, strerror(-k)) : 0;
}

/* A descriptor that was inherited may have an owner, which is then to be this process. */
static int own(struct vhk_vd *v) {
        int k = vhk_sys_vdpa_get_device_id(v->fd, &v->f.info.virtio_id);

        if (k < 0)
                return vhk_frontend_fail(&v->f, -EPROTO, "vdpa.not-one", "%s is no vhost-vdpa device: %s", v->name, strerror(-k));
        k = vhk_sys_vhost_set_owner(v->fd);
        if (k == -EBUSY && v->f.options.has_fd)
                k = 0;
        return vhk_vd_said(v, k, "becoming its owner");
}

static int ask_features(struct vhk_vd *v) {
        struct vhk_frontend_info *i = &v->f.info;
        uint64_t offered = 0;

        int k = vhk_vd_said(v, vhk_sys_vhost_get_features(v->fd, &offered), "features");
        if (k < 0)
                return k;
        i->features = offered & ~OURS;
        v->hidden = offered & SET_BY_US;
        if (vhk_sys_vhost_get_backend_features(v->fd, &offered) < 0)
                return 0;               /* Linux 5.7 has none */
        i->carrier_features = offered;
        uint64_t taken = offered & TAKEN & ~v->f.options.protocol_no_offer;
        if (!(taken & VHK_BIT(VHK_SYS_BF_IOTLB_MSG_V2)))
                taken &= ~VHK_BIT(VHK_SYS_BF_IOTLB_ASID);
        k = vhk_vd_said(v, vhk_sys_vhost_set_backend_features(v->fd, taken), "backend features");
        i->carrier_acked = k < 0 ? 0 : taken;
        return k;
}

static int ask_rings(struct vhk_vd *v) {
        struct vhk_frontend_info *i = &v->f.info;
        uint16_t most = 0;
        uint32_t n = 0;

        int k = vhk_vd_said(v, vhk_sys_vdpa_get_vring_num(v->fd, &most), "size of rings");
        if (k < 0)
                return k;
        i->queue_size_max = most ? most : 32768;
        i->n_queues = vhk_sys_vdpa_get_vqs_count(v->fd, &n) == 0 && n && n <= MOST_RINGS ? n : 1;
        v->rings = calloc(i->n_queues, sizeof(*v->rings));
        if (!v->rings)
                return -ENOMEM;
        for (unsigned j = 0; j < i->n_queues; j++) {
                v->rings[j] = (struct vhk_vd_ring){ .kick_fd = -1, .max_num = i->queue_size_max };
                if (vhk_sys_vdpa_get_vring_size(v->fd, j, &n) == 0 && n)        /* just reset: the most that this one takes */
                        v->rings[j].max_num = VHK_MIN(n, i->queue_size_max);
        }
        return 0;
}

static int ask_groups(struct vhk_vd *v) {
        struct vhk_frontend_info *i = &v->f.info;
        uint32_t group, n_groups = 0, n_as = 0;

        if (vhk_vd_has(v, VHK_SYS_BF_IOTLB_ASID) && vhk_sys_vdpa_get_group_num(v->fd, &n_groups) == 0 &&
            vhk_sys_vdpa_get_as_num(v->fd, &n_as) == 0 && n_groups && n_groups <= MOST_GROUPS && n_as && n_as <= MOST_GROUPS) {
                i->n_groups = n_groups;
                i->n_address_spaces = n_as;
                i->capabilities |= VHK_CAP_GROUPS;
        }
        v->group_asid = calloc(VHK_MAX(i->n_groups, 1u), sizeof(*v->group_asid));
        if (!v->group_asid)
                return -ENOMEM;
        for (unsigned j = 0; i->n_groups && j < i->n_queues; j++)
                if (vhk_sys_vdpa_get_vring_group(v->fd, j, &group) == 0 && group < i->n_groups)
                        v->rings[j].group = group;
        return 0;
}

static void ask_sizes(struct vhk_vd *v) {
        struct vhk_frontend_info *i = &v->f.info;

        i->mem_slots = UINT32_MAX;
        i->iova_last = UINT64_MAX;
        vhk_sys_vdpa_get_iova_range(v->fd, &i->iova_first, &i->iova_last);
        i->config_size = MOST_CONFIG;
        vhk_sys_vdpa_get_config_size(v->fd, &i->config_size);
        i->capabilities = VHK_CAP_CONFIG | VHK_CAP_STATUS | VHK_CAP_RESET | VHK_CAP_ENABLE | VHK_CAP_MEM_SLOTS | VHK_CAP_ACK | VHK_CAP_DMA;
        i->capabilities |= vhk_vd_has(v, VHK_SYS_BF_SUSPEND) ? VHK_CAP_DEVICE_SUSPEND : 0;
        i->capabilities |= vhk_vd_has(v, VHK_SYS_BF_RESUME) ? VHK_CAP_DEVICE_RESUME : 0;
}

/* Devices that never change need not take the descriptor. */
static int listen_for_config(struct vhk_vd *v) {
        struct epoll_event e = { .events = EPOLLIN };

        v->config_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        v->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (v->config_fd < 0 || v->epoll_fd < 0 || epoll_ctl(v->epoll_fd, EPOLL_CTL_ADD, v->config_fd, &e) < 0)
                return vhk_frontend_fail(&v->f, vhk_errno(), "frontend.epoll", "cannot make a descriptor: %s", strerror(errno));
        if (vhk_sys_vdpa_set_config_call(v->fd, v->config_fd) == 0)
                v->f.info.capabilities |= VHK_CAP_CONFIG_CHANGED;
        return 0;
}

static int get_to_know(struct vhk_vd *v) {
        int k = own(v);

        if (k == 0)                     /* an inherited one may be anywhere */
                k = vhk_vd_said(v, vhk_sys_vdpa_set_status(v->fd, 0), "device reset");
        if (k == 0)
                k = ask_features(v);
        if (k == 0)
                k = ask_rings(v);
        if (k < 0)
                return k;
        ask_sizes(v);
        k = ask_groups(v);
        return k < 0 ? k : listen_for_config(v);
}

static struct vhk_vd *free_all(struct vhk_vd *v) {
        for (unsigned i = 0; v->rings && i < v->f.info.n_queues; i++)
                vhk_close(&v->rings[i].kick_fd);
        vhk_close(&v->fd);
        vhk_close(&v->config_fd);
        vhk_close(&v->epoll_fd);
        free(v->rings);
        free(v->group_asid);
        free(v->maps);
        free(v->lent);
        free(v);
        return NULL;
}

/* The kernel does this too with the last descriptor, but others may have one. */
void vhk_vd_close(struct vhk_frontend *f) {
        struct vhk_vd *v = vhk_vd_of(f);

        vhk_sys_vdpa_set_status(v->fd, 0);
        vhk_vd_unmap_all(v);
        vhk_sys_vdpa_set_config_call(v->fd, -1);
        free_all(v);
}

int vhk_vhost_vdpa_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e) {
        struct vhk_vd *v = calloc(1, sizeof(*v));

        if (!v)
                return vhk_error_set(ret_e, -ENOMEM, "frontend.memory", "out of memory");
        v->f = (struct vhk_frontend){ .ops = &vhk_vd_ops, .options = *o, .info.size = sizeof(v->f.info),
                                      .log = { o->log, o->log_arg, NULL }, .trace = { o->trace, o->trace_arg, NULL },
                                      .error = { .rule = "frontend.ok", .text = "nothing has failed" } };
        v->f.log.limit = &v->f.log_limit;
        v->fd = o->has_fd ? o->fd : -1;
        v->epoll_fd = v->config_fd = -1;
        if (o->has_fd)
                snprintf(v->name, sizeof(v->name), "descriptor %d", o->fd);
        int k = o->has_fd ? 0 : find_node(v, spec, ret_e);
        if (k == 0 && o->iommu && o->on_miss)
                k = vhk_error_set(ret_e, -EOPNOTSUPP, "vdpa.iommu", "%s never asks what an I/O address means: vhk_frontend_dma_map() tells it", v->name);
        else if (k == 0 && (k = vhk_frontend_explain(&v->f, get_to_know(v))) < 0)
                vhk_error_set(ret_e, k, v->f.error.rule, "%s", v->f.error.text);
        if (k < 0) {
                if (o->has_fd)
                        v->fd = -1;     /* stays the caller's */
                free_all(v);
                return k;
        }
        *ret_f = &v->f;
        return 0;
}
