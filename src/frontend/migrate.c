/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A migration's calls over vhost-user: the dirty log (SET_LOG_BASE, SET_LOG_FD, LOG_ALL among the features, the LOG flag
 * beside a ring's addresses), and postcopy, under which the memory table goes the long way: the back-end answers with its
 * own addresses and touches nothing before our acknowledgement; and device state, which goes through a pipe of ours, or the
 * descriptor that the back-end offers instead. One thread. Source: vhost-user, "Migration".
 */
#include <fcntl.h>
#include <poll.h>
#include <vhostkit/migration.h>

#include "base/clock.h"
#include "base/fd.h"
#include "frontend/vhost_user.h"

static struct vhk_vhost_user *vu_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vhost_user, f);
}

/* Keep a duplicate of @fd for another back-end, if one would be looked for, in place of *kept. */
static int keep_fd(struct vhk_vhost_user *u, int fd, int *kept) {
        int copy = -1;

        if (!u->f.options.reconnect_ns || fd == *kept)
                return 0;
        if (fd >= 0 && (copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
                return vhk_frontend_fail(&u->f, vhk_errno(), "frontend.log", "a descriptor of the log cannot be kept: %s", strerror(errno));
        vhk_close(kept);
        *kept = copy;
        return 0;
}

/* No message takes a log away; but nothing is marked any more, and another back-end does not
 * receive it. */
static int unset_log(struct vhk_vhost_user *u) {
        if (u->set.logs_data)
                return vhk_frontend_fail(&u->f, -EBUSY, "frontend.log", "writes to buffers are logged: vhk_frontend_log_data(f, 0) comes first");
        for (unsigned i = 0; i < VHK_N(u->set.rings); i++)
                if (u->set.rings[i].wanted && (u->set.rings[i].addr.flags & VHK_VRING_F_LOG))
                        return vhk_frontend_fail(&u->f, -EBUSY, "frontend.log", "writes to the used ring of ring %u are logged", i);
        return keep_fd(u, -1, &u->set.log_fd);
}

int vhk_vu_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size) {
        struct vhk_vhost_user *u = vu_of(f);
        struct vhk_p_log p = { .mmap_size = size, .mmap_offset = offset };
        union vhk_p_any reply;

        if (fd < 0)
                return unset_log(u);
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_LOG_BASE, .payload = &p, .size = sizeof(p), .fds = &fd, .n_fds = 1 }, &reply, NULL);
        if (k == 0)
                k = keep_fd(u, fd, &u->set.log_fd);
        if (k < 0)
                return k;
        u->set.log_offset = offset;
        u->set.log_size = size;
        return 0;
}

int vhk_vu_set_log_fd(struct vhk_frontend *f, int fd) {
        struct vhk_vhost_user *u = vu_of(f);

        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_LOG_FD, .fds = &fd, .n_fds = fd >= 0 }, NULL, NULL);
        if (k == 0)
                k = vhk_vu_settle(u);
        return k < 0 ? k : keep_fd(u, fd, &u->set.log_event_fd);
}

int vhk_vu_log_data(struct vhk_frontend *f, int on) {
        struct vhk_vhost_user *u = vu_of(f);
        uint64_t all = (u->state.features & ~VHK_BIT(VHK_F_LOG_ALL)) | (on ? VHK_BIT(VHK_F_LOG_ALL) : 0);

        int k = vhk_vu_call_u64(u, VHK_FE_SET_FEATURES, all);
        if (k == 0)
                k = vhk_vu_settle(u);
        if (k < 0)
                return k;
        u->state.features = u->set.features = all;
        u->set.logs_data = on;
        return 0;
}

int vhk_vu_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa) {
        struct vhk_vhost_user *u = vu_of(f);

        if (i >= u->state.n_queues || !u->started[i])
                return vhk_frontend_fail(f, -EINVAL, "frontend.queue", "ring %u does not run", i);
        struct vhk_p_vring_addr a = u->set.rings[i].addr;
        a.flags = on ? VHK_VRING_F_LOG : 0;
        a.log_guest_addr = on ? gpa : 0;
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_VRING_ADDR, .payload = &a, .size = sizeof(a) }, NULL, NULL);
        if (k == 0)
                u->set.rings[i].addr = a;
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

static int send_table_xen(struct vhk_vhost_user *u, const struct vhk_p_mem_regions *p, const int *fds) {
        struct vhk_p_mem_regions_xen x = { .n_regions = p->n_regions };

        for (uint32_t i = 0; i < p->n_regions; i++)
                memcpy(&x.regions[i], &p->regions[i], sizeof(p->regions[i]));   /* plain: no flags */
        return vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_MEM_TABLE, .payload = &x, .fds = fds, .n_fds = p->n_regions,
                .size = (uint32_t)(offsetof(struct vhk_p_mem_regions_xen, regions) + p->n_regions * sizeof(x.regions[0])) }, NULL, NULL);
}

int vhk_vu_send_table(struct vhk_vhost_user *u, struct vhk_p_mem_regions *p, const int *fds) {
        uint32_t size = (uint32_t)(offsetof(struct vhk_p_mem_regions, regions) + p->n_regions * sizeof(p->regions[0]));
        struct vhk_vu_call table = { .id = VHK_FE_SET_MEM_TABLE, .payload = p, .size = size, .fds = fds, .n_fds = p->n_regions };
        struct vhk_vu_call ack = { .id = VHK_FE_SET_MEM_TABLE, .payload = &(struct vhk_p_u64){ 0 }, .size = sizeof(struct vhk_p_u64) };
        union vhk_p_any reply;

        if (vhk_vu_has(u, VHK_PF_XEN_MMAP))
                return send_table_xen(u, p, fds);               /* never together with postcopy */
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

/* ---- device state ---- */

#define CHUNK 65536u

/* Our end of the way that the state takes. */
static int open_way(struct vhk_vhost_user *u, enum vhk_state_direction direction, int *ret_fd) {
        struct vhk_p_device_state p = { .direction = direction };
        union vhk_p_any reply;
        int pair[2];

        if (pipe2(pair, O_CLOEXEC) < 0)
                return vhk_frontend_fail(&u->f, vhk_errno(), "frontend.state", "no pipe for device state: %s", strerror(errno));
        VHK_AUTOCLOSE int theirs = pair[direction == VHK_STATE_SAVE], ours = pair[direction == VHK_STATE_LOAD], offered = -1;
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_DEVICE_STATE_FD, .payload = &p, .size = sizeof(p), .fds = &theirs, .n_fds = 1,
                            .ret_fd = &offered }, &reply, NULL);
        if (k < 0)
                return k;
        if (reply.u64.value & 0xff)
                return vhk_frontend_fail(&u->f, -EREMOTEIO, "frontend.refused", "the back-end on %s does not move its device state (its answer: %llu)", u->name,
                                         (unsigned long long)reply.u64.value);
        if (offered >= 0) {
                vhk_close(&ours);
                ours = VHK_STEAL_FD(offered);
        }
        k = vhk_peer_kind(ours);
        if (k < 0)
                return k;
        if (k != VHK_PEER_PIPE && k != VHK_PEER_SOCKET)
                return vhk_frontend_fail(&u->f, -EPROTO, "frontend.state", "the back-end on %s: the descriptor for device state "
                                         "must be a pipe or a socket", u->name);
        *ret_fd = VHK_STEAL_FD(ours);
        return 0;
}

static int wait_for_way(struct vhk_vhost_user *u, int fd, short events, uint64_t deadline) {
        struct pollfd p[2] = { { .fd = fd, .events = events }, { .fd = u->channel.fd, .events = POLLIN } };
        if (vhk_now_ns() >= deadline)
                return vhk_frontend_fail(&u->f, -ETIMEDOUT, "frontend.time-limit", "device state of the back-end on %s did not come through in time", u->name);
        poll(p, 2, VHK_MIN(vhk_poll_timeout_ms(deadline), 1000));
        return vhk_vu_serve(u);
}

static int check_state(struct vhk_vhost_user *u) {
        uint64_t value;

        int k = vhk_vu_get_u64(u, VHK_FE_CHECK_DEVICE_STATE, &value);
        if (k == 0 && value)
                k = vhk_frontend_fail(&u->f, -EREMOTEIO, "frontend.refused", "the back-end on %s failed to move its device state", u->name);
        return k;
}

/* Reads to the end, in memory that grows. */
static int read_all(struct vhk_vhost_user *u, int fd, size_t max, uint8_t **data, size_t *ret_n) {
        uint64_t deadline = u->f.deadline;
        size_t room = 0, n = 0;

        for (;;) {
                if (n == room) {
                        uint8_t *p = realloc(*data, room += VHK_MAX(room, (size_t)CHUNK));
                        if (!p)
                                return -ENOMEM;
                        *data = p;
                }
                ssize_t k = vhk_peer_read(fd, *data + n, room - n);
                if (k == 0)
                        break;
                if (k > 0 && (n += (size_t)k) > max)
                        return vhk_frontend_fail(&u->f, -EFBIG, "frontend.state", "device state of more than %zu bytes", max);
                if (k < 0 && k != -EAGAIN)
                        return vhk_frontend_fail(&u->f, (int)k, "frontend.state", "device state cannot be read: %s", strerror((int)-k));
                if (k < 0 && (k = wait_for_way(u, fd, POLLIN, deadline)) < 0)
                        return (int)k;
        }
        *ret_n = n;
        return 0;
}

int vhk_vu_save_state(struct vhk_frontend *f, size_t max, void **ret_data, size_t *ret_n) {
        struct vhk_vhost_user *u = vu_of(f);
        VHK_AUTOFREE uint8_t *data = NULL;
        VHK_AUTOCLOSE int fd = -1;
        size_t n = 0;

        int k = open_way(u, VHK_STATE_SAVE, &fd);
        if (k == 0)
                k = read_all(u, fd, max, &data, &n);
        if (k < 0)
                return k;
        vhk_close(&fd);
        k = check_state(u);
        if (k < 0)
                return k;
        *ret_data = VHK_STEAL(data);
        *ret_n = n;
        return 0;
}

int vhk_vu_load_state(struct vhk_frontend *f, const void *data, size_t n) {
        struct vhk_vhost_user *u = vu_of(f);
        VHK_AUTOCLOSE int fd = -1;
        uint64_t deadline = u->f.deadline;
        size_t at = 0;

        int k = open_way(u, VHK_STATE_LOAD, &fd);
        if (k < 0)
                return k;
        while (at < n) {
                ssize_t w = vhk_peer_write(fd, (const uint8_t *)data + at, n - at);
                if (w == -EPIPE)                /* it has read enough: what it thinks of it comes below */
                        break;
                if (w < 0 && w != -EAGAIN)
                        return vhk_frontend_fail(f, (int)w, "frontend.state", "device state cannot be written: %s", strerror((int)-w));
                if (w < 0 && (k = wait_for_way(u, fd, POLLOUT, deadline)) < 0)
                        return k;
                at += w > 0 ? (size_t)w : 0;
        }
        vhk_close(&fd);
        return check_state(u);
}
