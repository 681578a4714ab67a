/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* VDUSE's ioctls and messages; see <vhostkit/sys.h>. */
#include <fcntl.h>
#include <stdio.h>

#include "sys/sys.h"

enum { MOST_CONFIG = 1 << 16 };         /* the kernel takes a page */

VHK_SYS_GET(vhk_sys_vduse_get_api_version, VHK_K_VDUSE_GET_API_VERSION, uint64_t)
VHK_SYS_SET(vhk_sys_vduse_set_api_version, VHK_K_VDUSE_SET_API_VERSION, uint64_t)
VHK_SYS_GET(vhk_sys_vduse_get_control_features, VHK_K_VDUSE_GET_FEATURES, uint64_t)
VHK_SYS_SET(vhk_sys_vduse_set_control_features, VHK_K_VDUSE_SET_FEATURES, uint64_t)
VHK_SYS_GET(vhk_sys_vduse_get_features, VHK_K_VDUSE_DEV_GET_FEATURES, uint64_t)
VHK_SYS_PLAIN(vhk_sys_vduse_inject_config_irq, VHK_K_VDUSE_INJECT_CONFIG_IRQ)
VHK_SYS_FILE(vhk_sys_vduse_vq_setup_kickfd, VHK_K_VDUSE_VQ_SETUP_KICKFD)
VHK_SYS_SET(vhk_sys_vduse_vq_inject_irq, VHK_K_VDUSE_VQ_INJECT_IRQ, uint32_t)

static int copy_name(char dst[VHK_K_VDUSE_NAME], const char *name) {
        size_t n = strlen(name);

        if (!n)
                return -EINVAL;
        if (n >= VHK_K_VDUSE_NAME)
                return -ENAMETOOLONG;
        memcpy(dst, name, n);
        return 0;
}

VHK_API int vhk_sys_vduse_open(int *ret_fd) {
        return vhk_sys_vhost_open("/dev/vduse/control", ret_fd);
}

VHK_API int vhk_sys_vduse_open_dev(const char *name, int *ret_fd) {
        char path[sizeof("/dev/vduse/") + VHK_K_VDUSE_NAME] = "/dev/vduse/";
        int k = copy_name(path + strlen(path), name);

        if (k)
                return k;
        if (strchr(name, '/') || name[0] == '.')
                return -EINVAL;         /* another node */
        return vhk_sys_vhost_open(path, ret_fd);
}

VHK_API int vhk_sys_vduse_create_dev(int fd, const struct vhk_sys_vduse_config *c) {
        if (c->config_size > MOST_CONFIG)
                return -E2BIG;
        VHK_AUTOFREE struct vhk_k_vduse_config *d = calloc(1, sizeof(*d) + c->config_size);
        if (!d)
                return -ENOMEM;
        int k = copy_name(d->name, c->name);
        if (k)
                return k;
        d->vendor_id = c->vendor_id;
        d->device_id = c->device_id;
        d->features = c->features;
        d->vq_num = c->vq_num;
        d->vq_align = c->vq_align;
        d->n_groups = c->ngroups;
        d->n_as = c->nas;
        d->config_size = c->config_size;
        if (c->config_size)
                memcpy(d->config, c->config, c->config_size);
        return vhk_sys_call(fd, VHK_K_VDUSE_CREATE_DEV, d);
}

VHK_API int vhk_sys_vduse_destroy_dev(int fd, const char *name) {
        struct vhk_k_vduse_name n = { 0 };
        int k = copy_name(n.name, name);

        return k ? k : vhk_sys_call(fd, VHK_K_VDUSE_DESTROY_DEV, &n);
}

/* Both forms begin alike; the newer one has the address space behind. */
static int get_fd(int fd, unsigned long request, uint32_t asid, struct vhk_sys_vduse_iotlb *e, int *ret_fd) {
        struct vhk_k_vduse_iotlb2 t = { .v1 = { .first = e->first, .last = e->last }, .asid = asid };
        int k = vhk_sys_ioctl(fd, request, &t);

        if (k < 0)
                return k;
        *e = (struct vhk_sys_vduse_iotlb){ .offset = t.v1.offset, .first = t.v1.first, .last = t.v1.last, .perm = t.v1.perm };
        *ret_fd = k;
        return 0;
}

VHK_API int vhk_sys_vduse_iotlb_get_fd(int fd, struct vhk_sys_vduse_iotlb *e, int *ret_fd) {
        return get_fd(fd, VHK_K_VDUSE_IOTLB_GET_FD, 0, e, ret_fd);
}

VHK_API int vhk_sys_vduse_iotlb_get_fd2(int fd, uint32_t asid, struct vhk_sys_vduse_iotlb *e, int *ret_fd) {
        return get_fd(fd, VHK_K_VDUSE_IOTLB_GET_FD2, asid, e, ret_fd);
}

VHK_API int vhk_sys_vduse_set_config(int fd, uint32_t off, const void *buf, uint32_t n) {
        if (n > MOST_CONFIG)
                return -E2BIG;
        VHK_AUTOFREE struct vhk_k_vdpa_config *c = calloc(1, sizeof(*c) + n);
        if (!c)
                return -ENOMEM;
        c->off = off;
        c->len = n;
        if (n)
                memcpy(c->bytes, buf, n);
        return vhk_sys_call(fd, VHK_K_VDUSE_DEV_SET_CONFIG, c);
}

VHK_API int vhk_sys_vduse_vq_setup(int fd, const struct vhk_sys_vduse_vq *q) {
        struct vhk_k_vduse_vq k = { .index = q->index, .max_size = q->max_size, .group = q->group };

        return vhk_sys_call(fd, VHK_K_VDUSE_VQ_SETUP, &k);
}

VHK_API int vhk_sys_vduse_vq_get_info(int fd, int is_packed, struct vhk_sys_vduse_vq_info *i) {
        struct vhk_k_vduse_vq_info q = { .index = i->index };
        int k = vhk_sys_call(fd, VHK_K_VDUSE_VQ_GET_INFO, &q);

        if (k)
                return k;
        *i = (struct vhk_sys_vduse_vq_info){
                .index = q.index, .num = q.num, .desc = q.desc, .driver = q.driver, .device = q.device, .ready = q.ready,
        };
        if (is_packed) {
                i->packed.avail = q.base.packed.avail;
                i->packed.avail_wrap = q.base.packed.avail_wrap;
                i->packed.used = q.base.packed.used;
                i->packed.used_wrap = q.base.packed.used_wrap;
        } else {
                i->split.avail = q.base.split_avail;
        }
        return 0;
}

static int umem(int fd, unsigned long request, const struct vhk_sys_vduse_umem *m) {
        struct vhk_k_vduse_umem k = { .uva = m->uva, .iova = m->iova, .len = m->len, .asid = m->asid };

        return vhk_sys_call(fd, request, &k);
}

VHK_API int vhk_sys_vduse_iotlb_reg_umem(int fd, const struct vhk_sys_vduse_umem *m) {
        return umem(fd, VHK_K_VDUSE_IOTLB_REG_UMEM, m);
}

VHK_API int vhk_sys_vduse_iotlb_dereg_umem(int fd, const struct vhk_sys_vduse_umem *m) {
        return umem(fd, VHK_K_VDUSE_IOTLB_DEREG_UMEM, m);
}

VHK_API int vhk_sys_vduse_iotlb_get_info(int fd, struct vhk_sys_vduse_iova_info *i) {
        struct vhk_k_vduse_iova_info k = { .first = i->first, .last = i->last, .asid = i->asid };
        int e = vhk_sys_call(fd, VHK_K_VDUSE_IOTLB_GET_INFO, &k);

        if (!e)
                *i = (struct vhk_sys_vduse_iova_info){ .first = k.first, .last = k.last, .capability = k.capability, .asid = k.asid };
        return e;
}

static void take_body(const struct vhk_k_vduse_request *k, struct vhk_sys_vduse_request *r) {
        switch (k->type) {
        case VHK_SYS_VDUSE_GET_VQ_STATE:
                r->vq_index = k->vq_index;
                break;
        case VHK_SYS_VDUSE_SET_STATUS:
                r->status = k->status;
                break;
        case VHK_SYS_VDUSE_UPDATE_IOTLB:
                r->first = k->iova.first;
                r->last = k->iova.last;
                r->asid = k->iova.asid;         /* 0 from a kernel that has none: it zeroes the message */
                break;
        case VHK_SYS_VDUSE_SET_VQ_GROUP_ASID:
                r->group = k->group.group;
                r->asid = k->group.asid;
                break;
        case VHK_SYS_VDUSE_SET_VQ_READY:
                r->vq_index = k->ready.index;
                r->ready = k->ready.ready;
                break;
        }
}

VHK_API int vhk_sys_vduse_read_request(int fd, struct vhk_sys_vduse_request *ret_r) {
        struct vhk_k_vduse_request k = { 0 };
        ssize_t n;

        do
                n = read(fd, &k, sizeof(k));
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : vhk_errno();
        if (n != sizeof(k))
                return -EBADMSG;
        *ret_r = (struct vhk_sys_vduse_request){ .type = k.type, .id = k.id };
        take_body(&k, ret_r);
        return 1;
}

VHK_API int vhk_sys_vduse_write_response(int fd, uint32_t id, uint32_t result, const struct vhk_sys_vduse_vq_info *state, int is_packed) {
        struct vhk_k_vduse_response k = { .id = id, .result = result };

        if (state) {
                k.state.index = state->index;
                if (is_packed) {
                        k.state.base.packed.avail = state->packed.avail;
                        k.state.base.packed.avail_wrap = state->packed.avail_wrap;
                        k.state.base.packed.used = state->packed.used;
                        k.state.base.packed.used_wrap = state->packed.used_wrap;
                } else {
                        k.state.base.split_avail = state->split.avail;
                }
        }
        ssize_t n = vhk_write_fd(fd, &k, sizeof(k));
        return n < 0 ? (int)n : n == sizeof(k) ? 0 : -EIO;
}
