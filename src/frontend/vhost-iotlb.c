/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Translations for the kernel's vhost devices: with ACCESS_PLATFORM all addresses in rings and requests are I/O addresses. What the kernel
 * does not know it asks by messages that are read from the node, and is told by messages that are written to it. One thread.
 *
 * There is no way to say no: a ring whose address nobody translates waits, until it is told or stopped. And a device does not begin on a
 * ring whose used area it would have to ask for.
 * Without a callback each guest address is its own I/O address, and all is told when memory is lent.
 * Source: Linux include/uapi/linux/vhost_types.h, struct vhost_msg_v2; drivers/vhost/vhost.c, vhost_process_iotlb_msg().
 */
#include "base/struct.h"
#include "frontend/vhost.h"
#include "wire/features.h"

#define MISSES_AT_ONCE 64       /* answered by one dispatch */

static int tell(struct vhk_vhost *v, const struct vhk_sys_iotlb *m) {
        return vhk_vhost_said(v, vhk_sys_vhost_write_iotlb(v->fd, v->is_v2, m), v->is_v2 ? "write(struct vhost_msg_v2)" : "write(struct vhost_msg)",
                              "%s iova 0x%llx, %llu bytes, at 0x%llx, access %u", m->type == VHK_SYS_IOTLB_UPDATE ? "update" : "invalidate",
                              (unsigned long long)m->iova, (unsigned long long)m->len, (unsigned long long)m->uva, m->perm);
}

static int describe(struct vhk_vhost *v, const struct vhk_translation *theirs, struct vhk_sys_iotlb *ret_m) {
        struct vhk_translation own = { .size = sizeof(own) };
        const struct vhk_translation *t = &own;
        uint64_t end, uva = 0;

        int ret = VHK_STRUCT_TAKE(&own, theirs, access);
        if (ret < 0)
                return ret;
        if (!t->len || vhk_add_overflows(t->iova, t->len, &end) || t->access < VHK_ACCESS_READ || t->access > VHK_ACCESS_BOTH)
                return -EINVAL;
        int k = vhk_vhost_find(v, t->gpa, t->len, &uva);
        if (k == 0)
                *ret_m = (struct vhk_sys_iotlb){ .iova = t->iova, .len = t->len, .uva = uva, .perm = (uint8_t)t->access,
                        .type = VHK_SYS_IOTLB_UPDATE };
        return k;
}

/* ---- misses ---- */

static int find_same(const struct vhk_vhost *v, uint64_t iova, struct vhk_translation *ret_t) {
        for (unsigned i = 0; i < v->n_lent; i++)
                if (iova - v->lent[i].gpa < v->lent[i].len) {
                        ret_t->iova = ret_t->gpa = v->lent[i].gpa;
                        ret_t->len = v->lent[i].len;
                        ret_t->access = VHK_ACCESS_BOTH;
                        return 0;
                }
        return -EFAULT;
}

static int translate(struct vhk_vhost *v, uint64_t iova, uint32_t access, struct vhk_sys_iotlb *ret_m) {
        const struct vhk_frontend_options *o = &v->f.options;
        struct vhk_translation t = { .size = sizeof(t) };

        int k = o->on_miss ? o->on_miss(o->miss_arg, iova, access, &t) : find_same(v, iova, &t);
        return k < 0 ? k : describe(v, &t, ret_m);
}

static int missed(struct vhk_vhost *v, const struct vhk_sys_iotlb *m) {
        struct vhk_sys_iotlb answer;

        if (m->type != VHK_SYS_IOTLB_MISS) {
                vhk_log(&v->f.log, VHK_LOG_WARNING, "%s was not allowed an access to I/O address 0x%llx", v->name, (unsigned long long)m->iova);
                return 0;
        }
        int k = translate(v, m->iova, m->perm, &answer);
        if (k < 0) {
                vhk_log(&v->f.log, VHK_LOG_WARNING, "no translation of 0x%llx for %s, a ring of which waits now: %s",
                        (unsigned long long)m->iova, v->name, strerror(-k));
                return 0;
        }
        return tell(v, &answer);
}

int vhk_vhost_serve_misses(struct vhk_vhost *v) {
        struct vhk_sys_iotlb m;
        int n = 0, k;

        if (!vhk_vhost_has_iommu(v))
                return 0;
        while (n < MISSES_AT_ONCE && (k = vhk_sys_vhost_read_iotlb(v->fd, &m)) != 0) {
                if (k < 0)
                        return vhk_frontend_fail(&v->f, k, "frontend.iommu", "%s: what it misses cannot be read: %s", v->name, strerror(-k));
                vhk_log(&v->f.trace, VHK_LOG_DEBUG, "read(%s) type %u, iova 0x%llx, access %u",
                        v->is_v2 ? "struct vhost_msg_v2" : "struct vhost_msg", m.type, (unsigned long long)m.iova, m.perm);
                k = missed(v, &m);
                if (k < 0)
                        return k;
                n++;
        }
        return n;
}

/* ---- without being asked ---- */

int vhk_vhost_tell_used(struct vhk_vhost *v, unsigned i, const struct vhk_ring_setup *s) {
        uint64_t end = s->device + 6 + 8ull * s->num;
        struct vhk_sys_iotlb m;

        for (uint64_t at = s->device; at < end && vhk_vhost_has_iommu(v) && v->f.options.on_miss; at = m.iova + m.len) {
                int k = translate(v, at, VHK_ACCESS_WRITE, &m);
                if (k == 0 && at - m.iova >= m.len)
                        k = -EINVAL;
                if (k < 0)
                        return vhk_frontend_fail(&v->f, k, "frontend.translation", "ring %u: no translation of its device area at 0x%llx: %s", i,
                                                 (unsigned long long)at, strerror(-k));
                k = tell(v, &m);
                if (k < 0)
                        return k;
        }
        return 0;
}

int vhk_vhost_tell_memory(struct vhk_vhost *v, const struct vhk_sys_region *old, unsigned n_old) {
        int k = 0;

        if (!vhk_vhost_has_iommu(v) || v->f.options.on_miss)
                return 0;
        for (unsigned i = 0; i < n_old && k == 0; i++)
                k = tell(v, &(struct vhk_sys_iotlb){ .iova = old[i].gpa, .len = old[i].len, .type = VHK_SYS_IOTLB_INVALIDATE });
        for (unsigned i = 0; i < v->n_lent && k == 0; i++) {
                const struct vhk_sys_region *r = &v->lent[i];
                k = tell(v, &(struct vhk_sys_iotlb){ .iova = r->gpa, .len = r->len, .uva = r->uva, .perm = VHK_ACCESS_BOTH,
                        .type = VHK_SYS_IOTLB_UPDATE });
        }
        return k;
}

static int need_iommu(struct vhk_vhost *v) {
        return vhk_vhost_has_iommu(v) ? 0 : vhk_frontend_fail(&v->f, -EOPNOTSUPP, "frontend.iommu", "ACCESS_PLATFORM is not in use");
}

int vhk_vhost_iotlb_update(struct vhk_frontend *f, const struct vhk_translation *t) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        struct vhk_sys_iotlb m;

        int k = need_iommu(v);
        if (k < 0)
                return k;
        k = describe(v, t, &m);
        if (k < 0)
                return vhk_frontend_fail_translation(f, k, t);
        return tell(v, &m);
}

/* The kernel's range ends with its last byte, so all there is takes two. */
int vhk_vhost_iotlb_invalidate(struct vhk_frontend *f, uint64_t iova, uint64_t len) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        const uint64_t half = VHK_BIT(63);

        int k = need_iommu(v);
        if (k == 0 && len)
                return tell(v, &(struct vhk_sys_iotlb){ .iova = iova, .len = len, .type = VHK_SYS_IOTLB_INVALIDATE });
        for (unsigned i = 0; i < 2 && k == 0; i++)
                k = tell(v, &(struct vhk_sys_iotlb){ .iova = i * half, .len = half, .type = VHK_SYS_IOTLB_INVALIDATE });
        return k;
}
