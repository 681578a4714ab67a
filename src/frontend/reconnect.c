/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a vhost-user front-end keeps so that another back-end can go on: the in-flight record, and all that was set (struct
 * vhk_vu_settings). All is replayed in the order of a first start. A ring's base is its used index, for that is all that is known of a
 * back-end that was killed: the requests behind it are in the record. One thread.
 *
 * The record is made with the first ring and lasts until a device reset: a ring that was suspended, or never used, may be started
 * again at any base while requests of another one are in it.
 * Source: vhost-user, "Inflight I/O tracking", "Backend crash recovery"; QEMU does the same.
 */
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "frontend/vhost_user.h"
#include "ring/inflight.h"
#include "ring/ring.h"

#define RECORD_ENTRIES 1024u            /* a later ring may be larger than the first */

static struct vhk_vhost_user *vu_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vhost_user, f);
}

/* ---- the in-flight record ---- */

static int send_record(struct vhk_vhost_user *u) {
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_INFLIGHT_FD, .payload = &u->set.record, .size = sizeof(u->set.record),
                .fds = &u->set.record_fd, .n_fds = 1 }, NULL, NULL);

        return k < 0 ? k : vhk_vu_settle(u);
}

/* A new one. A back-end may answer that it keeps none. */
static int make_record(struct vhk_vhost_user *u, unsigned num) {
        struct vhk_p_inflight p = { .num_queues = (uint16_t)u->f.info.n_queues, .queue_size = (uint16_t)VHK_MAX(num, RECORD_ENTRIES) };
        union vhk_p_any reply;

        vhk_close(&u->set.record_fd);
        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_GET_INFLIGHT_FD, .payload = &p, .size = sizeof(p), .ret_fd = &u->set.record_fd }, &reply, NULL);
        if (k < 0 || u->set.record_fd < 0)
                return k;
        u->set.record = reply.inflight;
        u->set.record.num_queues = p.num_queues;    /* what we asked for is what we need */
        u->set.record.queue_size = p.queue_size;
        u->set.record.padding = 0;
        return send_record(u);
}

/* The request that was taken first of those that ring @i left in the record: its descriptor, or -1. Read, not mapped: the file is the peer's. */
static int find_first_in_flight(const struct vhk_vhost_user *u, unsigned i) {
        const struct vhk_p_inflight *p = &u->set.record;
        size_t bytes = (vhk_inflight_split_bytes(p->queue_size) + 63) & ~(size_t)63;
        VHK_AUTOFREE struct vhk_inflight_split *r = malloc(bytes);
        uint64_t first = UINT64_MAX;
        int head = -1;

        if (!r || pread(u->set.record_fd, r, bytes, (off_t)(p->mmap_offset + i * bytes)) != (ssize_t)bytes)
                return -1;
        for (unsigned j = 0; j < p->queue_size; j++)
                if (r->entries[j].inflight == 1 && r->entries[j].counter < first) {
                        first = r->entries[j].counter;
                        head = (int)j;
                }
        return head;
}

/* May the record be replaced by a larger one? */
static bool is_unused(const struct vhk_vhost_user *u) {
        for (unsigned i = 0; i < VHK_N(u->started); i++)
                if (u->started[i] || (u->set.record_fd >= 0 && i < u->set.record.num_queues && find_first_in_flight(u, i) >= 0))
                        return false;
        return u->set.record_fd < 0 || !(u->state.features & VHK_BIT(VHK_F_RING_PACKED));
}

int vhk_vu_track(struct vhk_vhost_user *u, unsigned i, const struct vhk_ring_setup *s) {
        if (!vhk_vu_has(u, VHK_PF_INFLIGHT_SHMFD) || (u->set.record_fd >= 0 && s->num <= u->set.record.queue_size))
                return 0;
        if (!is_unused(u) && u->set.record_fd < 0)
                return 0;               /* the back-end keeps none */
        if (!is_unused(u))
                return vhk_frontend_fail(&u->f, -EINVAL, "frontend.record", "ring %u has %u entries, the in-flight record is for %u: start the largest ring first",
                                         i, s->num, u->set.record.queue_size);
        return make_record(u, s->num);
}

void vhk_vu_after_reset(struct vhk_vhost_user *u) {
        for (unsigned i = 0; i < VHK_N(u->started); i++)
                u->started[i] = u->set.rings[i].wanted = u->set.rings[i].disabled = false;
        memset(u->set.config_from, 0, sizeof(u->set.config_from));
        u->set.status = 0;
        u->set.has_status = false;
        u->set.n_crypto_sessions = 0;
        vhk_close(&u->set.record_fd);
        vhk_vu_shmem_forget(u);
        vhk_vu_notifiers_forget(u);
}

/* ---- the replay ---- */

static int lacking(struct vhk_vhost_user *u, const char *what, uint64_t bits) {
        return vhk_frontend_fail(&u->f, -EOPNOTSUPP, "frontend.other-back-end", "the back-end that is now on %s lacks %s 0x%llx of the one before", u->name, what,
                                 (unsigned long long)bits);
}

static int replay_status(struct vhk_vhost_user *u, uint8_t bits) {
        if (!u->set.has_status || !(u->f.info.capabilities & VHK_CAP_STATUS))
                return 0;
        return vhk_vu_call_u64(u, VHK_FE_SET_STATUS, u->set.status & bits);
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
        for (unsigned i = 0; u->set.memory && vhk_memory_get_region(u->set.memory, i, &r) == 0; i++)
                if (gpa >= r.gpa.v && vhk_range_within(gpa - r.gpa.v, sizeof(struct vhk_used), r.len))
                        return (const void *)((const uint8_t *)r.va + (gpa - r.gpa.v));
        return NULL;
}

/* Where the driver's ring stands, by the index that the back-end wrote last. */
static int find_base(struct vhk_vhost_user *u, unsigned i, struct vhk_ring_base *ret_base) {
        const struct vhk_used *used = find_used(u, u->set.rings[i].setup.device);

        if (!used)
                return vhk_frontend_fail(&u->f, -EOPNOTSUPP, "frontend.ring-memory", "ring %u: its used ring is not in lent memory any more", i);
        uint16_t idx = vhk_le16_get((vhk_le16){ vhk_load_acquire(&used->idx.v) });     /* pairs with the release in its flush */
        *ret_base = (struct vhk_ring_base){ .avail = idx, .used = idx };
        return 0;
}

static int replay_ring(struct vhk_vhost_user *u, unsigned i) {
        struct vhk_vu_ring *ring = &u->set.rings[i];
        struct vhk_ring_setup s = ring->setup;

        int ret = find_base(u, i, &s.base);
        if (ret == 0)
                ret = vhk_vu_send_ring(u, i, &s, &ring->addr, !ring->disabled);
        if (ret < 0)
                return ret;
        ring->replayed = s.base.used;
        if (s.kick_fd >= 0)
                vhk_peer_notify(s.kick_fd);
        return 0;
}

/* The byte order of rings that are not started yet is kept as well. */
static int replay_rings(struct vhk_vhost_user *u) {
        int ret = 0;

        memset(u->started, 0, sizeof(u->started));
        for (unsigned i = 0; i < VHK_N(u->set.rings) && ret == 0; i++) {
                if (u->set.rings[i].endian)
                        ret = vhk_vu_call_state(u, VHK_FE_SET_VRING_ENDIAN, i, u->set.rings[i].endian - 1u);
                if (ret == 0 && u->set.rings[i].wanted)
                        ret = replay_ring(u, i);
        }
        return ret;
}

static int replay_log(struct vhk_vhost_user *u) {
        int ret = 0;

        if (u->set.log_fd >= 0)
                ret = vhk_vu_set_log(&u->f, u->set.log_fd, u->set.log_offset, u->set.log_size);
        if (ret == 0 && u->set.log_event_fd >= 0)
                ret = vhk_vu_set_log_fd(&u->f, u->set.log_event_fd);
        return ret;
}

/* What was written to the configuration, each run of bytes as it was written: before rings start, for write-through, say, has to be there
 * before the first write. */
static int replay_config(struct vhk_vhost_user *u) {
        const uint8_t *from = u->set.config_from;
        int ret = 0;

        for (uint32_t at = 0, n; at < VHK_MAX_CONFIG && ret == 0; at += n) {
                for (n = 1; at + n < VHK_MAX_CONFIG && from[at + n] == from[at];)
                        n++;
                if (from[at])
                        ret = vhk_vu_send_config(u, at, u->set.config + at, n, (enum vhk_config_origin)(from[at] - 1));
        }
        if (ret == -EREMOTEIO)
                return vhk_frontend_fail(&u->f, -EOPNOTSUPP, "frontend.other-back-end",
                                         "the back-end that is now on %s does not take what was written to the configuration of the one before", u->name);
        return ret;
}

static int replay(struct vhk_vhost_user *u, uint64_t features) {
        int k = replay_log(u);

        if (k == 0)
                k = replay_features(u, features);
        if (k == 0 && u->set.mtu)
                k = vhk_vu_call_u64(u, VHK_FE_NET_SET_MTU, u->set.mtu);
        if (k == 0)
                k = replay_config(u);

        u->n_lent = 0;
        if (k == 0 && u->set.memory)
                k = vhk_vu_set_memory(&u->f, u->set.memory);
        if (k == 0 && u->set.record_fd >= 0)
                k = send_record(u);
        if (k == 0)
                k = replay_rings(u);
        return k < 0 ? k : replay_status(u, 0xff);
}

/* ---- the connection ---- */

/* A connected socket, and the first request on its way. */
static int begin_try(struct vhk_vhost_user *u) {
        int fd;

        int ret = vhk_vu_find_endpoint(u, u->spec, true, &fd, &u->f.error);
        if (ret < 0) {
                u->f.explained = true;
                return ret;
        }
        u->state = (struct vhk_wire_state){ 0 };
        u->f.again.answered = false;
        ret = vhk_vu_attach(u, fd);
        if (ret == 0)
                ret = vhk_vu_post(u, &(struct vhk_vu_call){ .id = VHK_FE_GET_FEATURES }, 0);
        u->probing = ret == 0;
        return ret;
}

static int finish_try(struct vhk_vhost_user *u) {
        uint64_t protocol = u->set.protocol, features = u->set.features;

        u->probing = false;
        int ret = vhk_vu_handshake(u);
        if (ret < 0)
                return ret;
        if (protocol & ~u->state.protocol)
                return lacking(u, "protocol features", protocol & ~u->state.protocol);
        if (features & ~u->state.features_offered)
                return lacking(u, "features", features & ~u->state.features_offered);
        if ((features & VHK_BIT(VHK_F_RING_PACKED)) && u->set.record_fd < 0)
                return lacking(u, "a record for packed rings", 0);
        return replay(u, features);
}

int vhk_vu_reconnect(struct vhk_frontend *f, bool may_wait) {
        struct vhk_vhost_user *u = vu_of(f);

        if (u->state.phase != VHK_PHASE_NORMAL)
                return vhk_frontend_fail(f, -EOPNOTSUPP, "frontend.postcopy", "the connection to the back-end on %s was lost under postcopy", u->name);
        if (u->set.n_crypto_sessions)
                return vhk_frontend_fail(f, -EOPNOTSUPP, "frontend.crypto", "the connection to the back-end on %s was lost, and %u crypto sessions with it", u->name,
                                         u->set.n_crypto_sessions);
        int ret = u->probing ? 0 : begin_try(u);
        if (ret == 0)
                ret = may_wait ? vhk_vu_await_replies(u) : vhk_vu_take_replies(u);
        if (ret < 0)
                return ret;
        return u->n_posted ? -EINPROGRESS : finish_try(u);
}

void vhk_vu_disconnect(struct vhk_frontend *f) {
        struct vhk_vhost_user *u = vu_of(f);

        vhk_vu_gone(f);
        vhk_conn_done(&u->conn);
        vhk_conn_done(&u->channel);
        u->conn.fd = u->channel.fd = -1;
        u->n_translations = u->n_posted = 0;
        u->probing = false;
}

/* ---- what is left undone ---- */

/* Whether the rings of the connection that is over went on, and what they left. Of a packed ring nothing is known, which counts as idle. */
enum vhk_frontend_progress vhk_vu_get_progress(struct vhk_frontend *f, char *text, size_t n) {
        struct vhk_vhost_user *u = vu_of(f);
        bool packed = u->state.features & VHK_BIT(VHK_F_RING_PACKED), stalled = false;
        struct vhk_ring_base base;

        for (unsigned i = 0; i < VHK_N(u->set.rings) && !packed; i++) {
                if (!u->set.rings[i].wanted || find_base(u, i, &base) < 0)
                        continue;
                if (base.used != u->set.rings[i].replayed)
                        return VHK_PROGRESS_MOVED;
                int head = u->set.record_fd >= 0 && !stalled ? find_first_in_flight(u, i) : -1;
                if (head >= 0)
                        snprintf(text, n, " with the request at descriptor %d of ring %u in flight", head, i);
                stalled |= head >= 0;
        }
        return stalled ? VHK_PROGRESS_STALLED : VHK_PROGRESS_IDLE;
}

/* ---- the timer ---- */

void vhk_vu_set_alarm(struct vhk_frontend *f, uint64_t ns) {
        vu_of(f)->retry_at = ns ? vhk_time_after(vhk_now_ns(), ns) : UINT64_MAX;
        vhk_vu_arm_timer(vu_of(f));
}

#define FLUSH_NS 10000000u              /* what a socket did not take is tried again */

void vhk_vu_arm_timer(struct vhk_vhost_user *u) {
        uint64_t at = VHK_MIN(u->retry_at, vhk_vu_lookup_deadline(u));

        if (u->n_posted)
                at = VHK_MIN(at, u->posted[0].deadline);
        if ((u->conn.fd >= 0 && vhk_conn_wants_out(&u->conn)) || (u->channel.fd >= 0 && vhk_conn_wants_out(&u->channel)))
                at = VHK_MIN(at, vhk_time_after(vhk_now_ns(), FLUSH_NS));
        if (at == UINT64_MAX)
                at = 0;                 /* disarmed */
        struct itimerspec t = { .it_value = { (time_t)(at / 1000000000u), (long)(at % 1000000000u) } };
        timerfd_settime(u->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);      /* clears that it rang, too */
}
