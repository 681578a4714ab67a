/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A migration's calls over vhost-user: the dirty log (SET_LOG_BASE, SET_LOG_FD, LOG_ALL among the features, the LOG flag
 * beside a ring's addresses). One thread. Source: vhost-user, "Migration".
 */
#include <vhostkit/migration.h>

#include "frontend/vhost_user.h"

static struct vhk_vhost_user *vu_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vhost_user, f);
}

int vhk_vu_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size) {
        struct vhk_p_log p = { .mmap_size = size, .mmap_offset = offset };
        union vhk_p_any reply;

        return vhk_vu_call(vu_of(f), &(struct vhk_vu_call){ .id = VHK_FE_SET_LOG_BASE, .payload = &p, .size = sizeof(p), .fds = &fd, .n_fds = fd >= 0 },
                           &reply, NULL);
}

int vhk_vu_set_log_fd(struct vhk_frontend *f, int fd) {
        int k = vhk_vu_call(vu_of(f), &(struct vhk_vu_call){ .id = VHK_FE_SET_LOG_FD, .fds = &fd, .n_fds = fd >= 0 }, NULL, NULL);

        return k < 0 ? k : vhk_vu_settle(vu_of(f));
}

int vhk_vu_log_data(struct vhk_frontend *f, int on) {
        struct vhk_vhost_user *u = vu_of(f);
        uint64_t all = (u->state.features & ~VHK_BIT(VHK_F_LOG_ALL)) | (on ? VHK_BIT(VHK_F_LOG_ALL) : 0);

        int k = vhk_vu_call_u64(u, VHK_FE_SET_FEATURES, all);
        if (k == 0)
                k = vhk_vu_settle(u);
        if (k == 0)
                u->state.features = all;
        return k;
}

int vhk_vu_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa) {
        struct vhk_vhost_user *u = vu_of(f);

        if (i >= u->state.n_queues || !u->started[i])
                return vhk_frontend_fail(f, -EINVAL, "frontend.queue", "ring %u does not run", i);
        struct vhk_p_vring_addr a = u->rings[i].addr;
        a.flags = on ? VHK_VRING_F_LOG : 0;
        a.log_guest_addr = on ? gpa : 0;
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_VRING_ADDR, .payload = &a, .size = sizeof(a) }, NULL, NULL);
        return k < 0 ? k : vhk_vu_settle(u);
}
