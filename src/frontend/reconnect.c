/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a vhost-user front-end keeps so that another back-end can go on: the in-flight record, and everything it had said.
 * All is replayed in the order of a first start. A ring's base is its used index, for that is all that is known of a
 * back-end that was killed: the requests behind it are in the record. One thread.
 * Source: vhost-user, "Inflight I/O tracking", "Backend crash recovery"; QEMU does the same.
 */
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "base/fd.h"
#include "frontend/vhost_user.h"
#include "ring/ring.h"

#define RECORD_ENTRIES 1024u            /* a later ring may be larger than the first */

static struct vhk_vhost_user *vu_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vhost_user, f);
}

/* ---- the in-flight record ---- */

static int send_record(struct vhk_vhost_user *u) {
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_INFLIGHT_FD, .payload = &u->record, .size = sizeof(u->record),
                .fds = &u->record_fd, .n_fds = 1 }, NULL, NULL);

        return k < 0 ? k : vhk_vu_settle(u);
}

/* A new one. A back-end may answer that it keeps none. */
static int make_record(struct vhk_vhost_user *u, unsigned num) {
        struct vhk_p_inflight p = { .num_queues = (uint16_t)u->f.info.n_queues, .queue_size = (uint16_t)VHK_MAX(num, RECORD_ENTRIES) };
        union vhk_p_any reply;

        vhk_close(&u->record_fd);
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_GET_INFLIGHT_FD, .payload = &p, .size = sizeof(p), .ret_fd = &u->record_fd }, &reply, NULL);
        if (k < 0 || u->record_fd < 0)
                return k;
        u->record = reply.inflight;
        u->record.num_queues = p.num_queues;    /* what we asked for is what we need */
        u->record.queue_size = p.queue_size;
        u->record.padding = 0;
        return send_record(u);
}

int vhk_vu_track(struct vhk_vhost_user *u, unsigned i, const struct vhk_ring_setup *s) {
        bool any = false;

        if (!vhk_vu_has(u, VHK_PF_INFLIGHT_SHMFD))
                return 0;
        for (unsigned j = 0; j < VHK_N(u->started); j++)
                any |= u->started[j];
        if (!any && (u->record_fd < 0 || (!s->base.avail && !s->base.used)))
                return make_record(u, s->num);
        if (u->record_fd >= 0 && s->num > u->record.queue_size)
                return vhk_frontend_fail(&u->f, -EINVAL, "frontend.record", "ring %u has %u entries, the in-flight record is for %u: start the largest ring first",
                                         i, s->num, u->record.queue_size);
        return 0;
}

/* ---- the replay ---- */

static int lacking(struct vhk_vhost_user *u, const char *what, uint64_t bits) {
        return vhk_frontend_fail(&u->f, -EOPNOTSUPP, "frontend.other-back-end", "the back-end that is now on %s lacks %s 0x%llx of the one before", u->name, what,
                                 (unsigned long long)bits);
}

static int replay_status(struct vhk_vhost_user *u, uint8_t bits) {
        return u->has_status && (u->f.info.capabilities & VHK_CAP_STATUS) ? vhk_vu_call_u64(u, VHK_FE_SET_STATUS, u->status & bits) : 0;
}

static int replay_features(struct vhk_vhost_user *u, uint64_t all) {
        int k = replay_status(u, 3);    /* ACKNOWLEDGE, DRIVER */

        if (k == 0 && all)
                k = vhk_vu_call_u64(u, VHK_FE_SET_FEATURES, all);
        if (k == 0 && all)
                k = vhk_vu_settle(u);
        if (k < 0)
                return k;
        u->state.features = all;
        return replay_status(u, 11);    /* FEATURES_OK */
}

/* Our own address of the used ring at @addr, as the driver sees it; NULL: it is not lent. */
static const struct vhk_used *find_used(struct vhk_vhost_user *u, uint64_t addr) {
        struct vhk_translation t = { .size = sizeof(t), .iova = addr, .gpa = addr };
        struct vhk_region r = { .size = sizeof(r) };

        if (vhk_vu_has_iommu(u) && u->f.options.on_miss && u->f.options.on_miss(u->f.options.miss_arg, addr, VHK_ACCESS_READ, &t) < 0)
                return NULL;
        uint64_t gpa = t.gpa + (addr - t.iova);
        for (unsigned i = 0; u->memory && vhk_memory_get_region(u->memory, i, &r) == 0; i++)
                if (gpa >= r.gpa.v && vhk_range_within(gpa - r.gpa.v, sizeof(struct vhk_used), r.len))
                        return (const void *)((const uint8_t *)r.va + (gpa - r.gpa.v));
        return NULL;
}

/* Where the driver's ring stands, by the index that the back-end wrote last. */
static int find_base(struct vhk_vhost_user *u, unsigned i, struct vhk_ring_base *ret_base) {
        const struct vhk_used *used = find_used(u, u->rings[i].setup.device);

        if (!used)
                return vhk_frontend_fail(&u->f, -EOPNOTSUPP, "frontend.ring-memory", "ring %u: its used ring is not in lent memory any more", i);
        uint16_t idx = vhk_le16_get((vhk_le16){ vhk_load_acquire(&used->idx.v) });     /* pairs with the release in its flush */
        *ret_base = (struct vhk_ring_base){ .avail = idx, .used = idx };
        return 0;
}

static int replay_rings(struct vhk_vhost_user *u) {
        memset(u->started, 0, sizeof(u->started));
        for (unsigned i = 0; i < VHK_N(u->rings); i++) {
                struct vhk_vu_ring *r = &u->rings[i];
                if (!r->wanted)
                        continue;
                struct vhk_ring_setup s = r->setup;
                int k = find_base(u, i, &s.base);
                if (k == 0)
                        k = vhk_vu_send_ring(u, i, &s, &r->addr, !r->disabled);
                if (k < 0)
                        return k;
                if (s.kick_fd >= 0)
                        vhk_peer_notify(s.kick_fd);
        }
        return 0;
}

static int replay(struct vhk_vhost_user *u, uint64_t features) {
        int k = u->log_fd >= 0 ? vhk_vu_set_log(&u->f, u->log_fd, u->log_offset, u->log_size) : 0;

        if (k == 0)
                k = replay_features(u, features);

        u->n_lent = 0;
        if (k == 0 && u->memory)
                k = vhk_vu_set_memory(&u->f, u->memory);
        if (k == 0 && u->record_fd >= 0)
                k = send_record(u);
        if (k == 0)
                k = replay_rings(u);
        return k < 0 ? k : replay_status(u, 0xff);
}

int vhk_vu_reconnect(struct vhk_frontend *f) {
        struct vhk_vhost_user *u = vu_of(f);
        uint64_t protocol = u->said_protocol, features = u->said_features;
        int fd;

        if (u->state.phase != VHK_PHASE_NORMAL)
                return vhk_frontend_fail(f, -EOPNOTSUPP, "frontend.postcopy", "the back-end on %s has gone under postcopy", u->name);
        int k = vhk_vu_find_endpoint(u, u->spec, true, &fd, &f->error);
        if (k < 0)
                return k;
        u->state = (struct vhk_wire_state){ 0 };
        k = vhk_vu_attach(u, fd);
        if (k < 0)
                return k;
        if (protocol & ~u->state.protocol)
                return lacking(u, "protocol features", protocol & ~u->state.protocol);
        if (features & ~u->state.features_offered)
                return lacking(u, "features", features & ~u->state.features_offered);
        if ((features & VHK_BIT(VHK_F_RING_PACKED)) && u->record_fd < 0)
                return lacking(u, "a record for packed rings", 0);
        return replay(u, features);
}

void vhk_vu_disconnect(struct vhk_frontend *f) {
        struct vhk_vhost_user *u = vu_of(f);

        vhk_vu_gone(f);
        vhk_conn_done(&u->conn);
        vhk_conn_done(&u->channel);
        u->conn.fd = u->channel.fd = -1;
        u->n_translations = 0;
        u->in_translations = false;
        u->n_translations = 0;
}

void vhk_vu_set_alarm(struct vhk_frontend *f, uint64_t ns) {
        struct itimerspec t = { .it_value = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) } };

        timerfd_settime(vu_of(f)->timer_fd, 0, &t, NULL);       /* clears that it rang, too */
}
