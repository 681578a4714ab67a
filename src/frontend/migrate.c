/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A migration's calls over vhost-user: the dirty log (SET_LOG_BASE, SET_LOG_FD, LOG_ALL among the features, the LOG flag
 * beside a ring's addresses), and postcopy, under which the memory table goes the long way: the back-end answers with its
 * own addresses and touches nothing before our acknowledgement. One thread. Source: vhost-user, "Migration".
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

/* ---- postcopy ---- */

int vhk_vu_postcopy_advise(struct vhk_frontend *f, int *ret_fd) {
        int fd = -1;

        int k = vhk_vu_call(vu_of(f), &(struct vhk_vu_call){ .id = VHK_FE_POSTCOPY_ADVISE, .ret_fd = &fd }, NULL, NULL);
        if (k == 0)
                *ret_fd = fd;
        return k;
}

int vhk_vu_postcopy_listen(struct vhk_frontend *f) {
        int k = vhk_vu_call(vu_of(f), &(struct vhk_vu_call){ .id = VHK_FE_POSTCOPY_LISTEN }, NULL, NULL);

        if (k == 0)
                vu_of(f)->state.phase = VHK_PHASE_POSTCOPY;
        return k;
}

int vhk_vu_postcopy_end(struct vhk_frontend *f) {
        int k = vhk_vu_call(vu_of(f), &(struct vhk_vu_call){ .id = VHK_FE_POSTCOPY_END }, NULL, NULL);

        if (k == 0)
                vu_of(f)->state.phase = VHK_PHASE_NORMAL;
        return k;
}

int vhk_vu_postcopy_get_address(struct vhk_frontend *f, uint64_t gpa, uint64_t *ret_address) {
        struct vhk_vhost_user *u = vu_of(f);

        for (unsigned i = 0; i < u->n_lent; i++)
                if (gpa - u->lent[i].gpa < u->lent[i].len && u->state.phase == VHK_PHASE_POSTCOPY) {
                        *ret_address = u->lent[i].theirs + (gpa - u->lent[i].gpa);
                        return 0;
                }
        return vhk_frontend_fail(f, -EFAULT, "frontend.memory", "guest address 0x%llx is not lent under postcopy", (unsigned long long)gpa);
}

int vhk_vu_send_table(struct vhk_vhost_user *u, struct vhk_p_mem_regions *p, const int *fds) {
        uint32_t size = (uint32_t)(offsetof(struct vhk_p_mem_regions, regions) + p->n_regions * sizeof(p->regions[0]));
        struct vhk_vu_call table = { .id = VHK_FE_SET_MEM_TABLE, .payload = p, .size = size, .fds = fds, .n_fds = p->n_regions };
        struct vhk_vu_call ack = { .id = VHK_FE_SET_MEM_TABLE, .payload = &(struct vhk_p_u64){ 0 }, .size = sizeof(struct vhk_p_u64) };
        union vhk_p_any reply;

        if (u->state.phase != VHK_PHASE_POSTCOPY)
                return vhk_vu_call(u, &table, NULL, NULL);
        int k = vhk_vu_call(u, &table, &reply, NULL);
        if (k < 0)
                return k;
        for (uint32_t i = 0; i < p->n_regions; i++) {
                const struct vhk_p_region *r = &reply.mem_regions.regions[i];
                if (reply.mem_regions.n_regions != p->n_regions || r->guest_addr != p->regions[i].guest_addr || r->len != p->regions[i].len)
                        return vhk_frontend_end(&u->f, -EPROTO, "frontend.postcopy-table", "the back-end on %s answered with another memory table", u->name);
                p->regions[i].user_addr = r->user_addr;
        }
        u->state.phase = VHK_PHASE_POSTCOPY_ACK;
        k = vhk_vu_call(u, &ack, NULL, NULL);
        u->state.phase = VHK_PHASE_POSTCOPY;
        return k;
}
