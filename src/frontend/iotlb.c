/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The front-end's IOMMU: with ACCESS_PLATFORM all addresses in rings and requests are I/O addresses, and the back-end asks for
 * what it does not know. A miss comes on its channel, perhaps while we wait for something else: it is answered there at once (known,
 * or refused), and the translation is posted on the main socket when the call at hand is over: no
 * call waits for its acknowledgement, and a refusal of it is no failure of a call.
 *
 * Without a callback every guest address is its own I/O address; then all regions are told before a ring starts and when
 * memory is lent, so that nobody has to serve misses. Source: vhost-user.rst, "IOMMU support".
 */
#include "base/struct.h"
#include "frontend/vhost_user.h"

bool vhk_vu_has_iommu(const struct vhk_vhost_user *u) {
        return u->state.features & VHK_BIT(VHK_F_ACCESS_PLATFORM);
}

static int tell(struct vhk_vhost_user *u, const struct vhk_p_iotlb *p) {
        return vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_IOTLB_MSG, .payload = p, .size = sizeof(*p) }, NULL, NULL);
}

/* Guest memory at @t->gpa, in the address space that the back-end knows. */
static int describe(const struct vhk_vhost_user *u, const struct vhk_translation *theirs, struct vhk_p_iotlb *ret_p) {
        struct vhk_translation own = { .size = sizeof(own) };
        const struct vhk_translation *t = &own;
        uint64_t end;

        int ret = VHK_STRUCT_TAKE(&own, theirs, access);
        if (ret < 0)
                return ret;
        if (!t->len || vhk_add_overflows(t->iova, t->len, &end) || t->access < VHK_ACCESS_READ || t->access > VHK_ACCESS_BOTH)
                return -EINVAL;
        *ret_p = (struct vhk_p_iotlb){ .iova = t->iova, .len = t->len, .perm = (uint8_t)t->access, .type = VHK_IOTLB_UPDATE };
        return vhk_vu_find(u, t->gpa, t->len, &ret_p->user_addr);
}

/* ---- misses ---- */

static int find_same(const struct vhk_vhost_user *u, uint64_t iova, struct vhk_translation *ret_t) {
        for (unsigned i = 0; i < u->n_lent; i++)
                if (iova - u->lent[i].gpa < u->lent[i].len) {
                        ret_t->iova = ret_t->gpa = u->lent[i].gpa;
                        ret_t->len = u->lent[i].len;
                        ret_t->access = VHK_ACCESS_BOTH;
                        return 0;
                }
        return -EFAULT;
}

bool vhk_vu_missed(struct vhk_vhost_user *u, const struct vhk_p_iotlb *p) {
        const struct vhk_frontend_options *o = &u->f.options;
        struct vhk_translation t = { .size = sizeof(t) };
        struct vhk_p_iotlb answer;

        if (p->type != VHK_IOTLB_MISS) {
                vhk_log(&u->f.log, VHK_LOG_WARNING, "the back-end on %s was not allowed an access to I/O address 0x%llx", u->name, (unsigned long long)p->iova);
                return true;
        }
        int k = o->on_miss ? o->on_miss(o->miss_arg, p->iova, p->perm, &t) : find_same(u, p->iova, &t);
        if (k == 0)
                k = describe(u, &t, &answer);
        if (k < 0 || u->n_translations == VHK_VU_TRANSLATIONS) {
                vhk_log(&u->f.log, VHK_LOG_INFO, "no translation of 0x%llx for the back-end on %s: %s", (unsigned long long)p->iova, u->name,
                        k < 0 ? strerror(-k) : "too many at once");
                return false;
        }
        u->translations[u->n_translations++] = answer;
        return true;
}

int vhk_vu_send_translations(struct vhk_vhost_user *u) {
        unsigned n = 0;
        int k = 0;

        while (n < u->n_translations && (k = vhk_vu_post(u, &(struct vhk_vu_call){ .id = VHK_FE_IOTLB_MSG, .payload = &u->translations[n],
                                                                                   .size = sizeof(u->translations[n]) }, 0)) == 0)
                n++;
        u->n_translations -= n;
        memmove(u->translations, u->translations + n, u->n_translations * sizeof(*u->translations));
        return k < 0 && u->f.end.code ? k : 0;  /* -EAGAIN: the rest when replies have come */
}

/* ---- without being asked ---- */

int vhk_vu_tell_memory(struct vhk_vhost_user *u) {
        int k = 0;

        if (!vhk_vu_has_iommu(u) || u->f.options.on_miss)
                return 0;
        for (unsigned i = 0; i < u->n_lent && k == 0; i++) {
                struct vhk_translation t = { .size = sizeof(t) };
                struct vhk_p_iotlb p;
                k = find_same(u, u->lent[i].gpa, &t);
                if (k == 0)
                        k = describe(u, &t, &p);
                if (k == 0)
                        k = tell(u, &p);
        }
        return k;
}

static int need_iommu(struct vhk_frontend *f, struct vhk_vhost_user *u) {
        return vhk_vu_has_iommu(u) ? 0 : vhk_frontend_fail(f, -EOPNOTSUPP, "frontend.iommu", "ACCESS_PLATFORM is not in use");
}

int vhk_vu_iotlb_update(struct vhk_frontend *f, const struct vhk_translation *t) {
        struct vhk_vhost_user *u = vhk_container_of(f, struct vhk_vhost_user, f);
        struct vhk_p_iotlb p;

        int k = need_iommu(f, u);
        if (k < 0)
                return k;
        k = describe(u, t, &p);
        if (k < 0)
                return vhk_frontend_fail_translation(f, k, t);
        return tell(u, &p);
}

/* Everything takes two messages: the length of all of it is not a number, and DPDK takes 0 for
 * nothing. */
int vhk_vu_iotlb_invalidate(struct vhk_frontend *f, uint64_t iova, uint64_t len) {
        struct vhk_vhost_user *u = vhk_container_of(f, struct vhk_vhost_user, f);
        const uint64_t half = VHK_BIT(63);

        int k = need_iommu(f, u);
        for (unsigned i = 0; i < u->n_translations; i++)        /* what was not sent yet is out of date */
                if (!len || u->translations[i].iova - iova < len || iova - u->translations[i].iova < u->translations[i].len)
                        u->translations[i--] = u->translations[--u->n_translations];
        if (k == 0 && len)
                return tell(u, &(struct vhk_p_iotlb){ .iova = iova, .len = len, .type = VHK_IOTLB_INVALIDATE });
        for (unsigned i = 0; i < 2 && k == 0; i++)
                k = tell(u, &(struct vhk_p_iotlb){ .iova = i * half, .len = half, .type = VHK_IOTLB_INVALIDATE });
        return k;
}
