/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Messages about one ring. Control worker. Whether a message is legal in the ring's state, and what follows, is asked of
 * the table (ring/ring_states.def).
 *
 * Areas are looked up when the ring starts: front-ends differ in whether memory or addresses come
 * first. SET_VRING_KICK is acknowledged when the ring's worker has started it, or refused with the
 * reason why it could not. A change of a running ring (descriptors, enable) is acknowledged when
 * its worker has applied it. Without NEED_REPLY no reply is pending, but for a change of what is
 * marked in the dirty log: then the next message waits.
 *
 * Source: vhost-user, "Starting and stopping rings", "Ring states"; QEMU sends call descriptors before the size, while the
 * ring runs and after it has stopped, and enables rings that it never sets up.
 */

#include "backend/session.h"

/* The ring runs: publish what changed; the answer, if one is due, waits until the home has it. */
static void adopted(struct vhk_backend *b, int error) {
        vhk_token_answer(b, error, NULL, 0);
}

/* @defer: the next message waits, too, even if no answer is due. */
static int wait_for_worker(struct vhk_backend *b, struct vhk_call *c, unsigned i, bool defer, void (*finish)(struct vhk_backend *b, int error)) {
        if (!defer && vhk_wire_answer(&b->session.wire, c->row, &c->header) == VHK_ANSWER_NONE)
                return 0;
        vhk_ring_wait(b, i, VHK_WAIT_ADOPTED);
        b->token.ring = i;
        return vhk_token_take(b, c, finish);
}

static int publish(struct vhk_backend *b, struct vhk_call *c, unsigned i, bool defer) {
        int k = vhk_ring_publish(b, i);
        return k < 0 ? k : wait_for_worker(b, c, i, defer, adopted);
}

/* User-Mode Linux takes a ring from its driver with ENABLE 0 alone and sets it up anew one day, without GET_VRING_BASE: a
 * new size or base ends the old life of a ring that is disabled. */
static bool begins_anew(const struct vhk_backend *b, unsigned i) {
        return vhk_ring_runs(b, i) && !b->session.rings[i].enabled;
}

static int stop_first(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c,
                      void (*finish)(struct vhk_backend *b, int error)) {
        int k = vhk_ring_event(b, p->index, VHK_RING_EVENT_GET_BASE);
        if (k < 0)
                return k;
        vhk_ring_stop(b, p->index, VHK_STOP_DRAIN);
        vhk_ring_wait(b, p->index, VHK_WAIT_STOPPED);
        b->token.ring = p->index;
        b->token.value = p->num;
        return vhk_token_take(b, c, finish);
}

static void stopped_for_num(struct vhk_backend *b, int error) {
        if (error == 0)
                b->session.rings[b->token.ring].num = b->token.value;
        vhk_token_answer(b, error, NULL, 0);
}

static void stopped_for_base(struct vhk_backend *b, int error) {
        if (error == 0)
                b->session.rings[b->token.ring].base = (uint16_t)b->token.value;
        vhk_token_answer(b, error, NULL, 0);
}

int vhk_on_SET_VRING_NUM(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_ring_value *r = &b->session.rings[p->index];

        if (vhk_ring_runs(b, p->index) && p->num == r->num)
                return 0;
        if (!vhk_is_pow2(p->num) || p->num > b->ring_size_max)
                return vhk_refuse(b, -EINVAL, "ring.size", "ring %u: size %u is not a power of two up to %u", p->index, p->num,
                                  b->ring_size_max);
        if (begins_anew(b, p->index))
                return stop_first(b, p, c, stopped_for_num);
        int k = vhk_ring_event(b, p->index, VHK_RING_EVENT_SET_NUM);
        if (k >= 0)
                r->num = p->num;
        return k < 0 ? k : 0;
}

int vhk_on_SET_VRING_ADDR(struct vhk_backend *b, const struct vhk_p_vring_addr *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_ring_value *r = &b->session.rings[p->index];
        struct vhk_p_vring_addr old = r->addr;
        bool log_changes = (r->addr.flags ^ p->flags) & VHK_VRING_F_LOG || r->addr.log_guest_addr != p->log_guest_addr;
        bool same = r->has_addr && r->addr.desc == p->desc && r->addr.avail == p->avail && r->addr.used == p->used;

        if ((p->flags & VHK_VRING_F_LOG) && !(b->session.wire.protocol & VHK_BIT(VHK_PF_LOG_SHMFD)))
                return vhk_refuse(b, -EINVAL, "ring.log", "ring %u: writes to the used ring are to be logged, and LOG_SHMFD was not "
                                  "negotiated", p->index);
        int action = vhk_ring_event(b, p->index, same ? VHK_RING_EVENT_SAME_ADDR : VHK_RING_EVENT_SET_ADDR);
        if (action < 0)
                return action;
        r->addr = *p;
        int k = vhk_log_check_ring(b, p->index);
        if (k < 0) {
                r->addr = old;
                return k;
        }
        r->has_addr = true;
        return action == VHK_RING_DO_ADOPT ? publish(b, c, p->index, log_changes) : 0;
}

/* Of a split ring only the available index comes; the used index is in guest memory. */
int vhk_on_SET_VRING_BASE(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        if (begins_anew(b, p->index))
                return stop_first(b, p, c, stopped_for_base);
        int k = vhk_ring_event(b, p->index, VHK_RING_EVENT_SET_BASE);
        if (k < 0)
                return k;
        b->session.rings[p->index].base = (uint16_t)p->num;
        return 0;
}

/* Ring vhk_token.ring has stopped; its worker's base counts, for a reset that was pending has set
 * the session's to 0. */
static void base_known(struct vhk_backend *b, int error) {
        struct vhk_p_vring_state reply = { b->token.ring, error == 0 ? b->rings[b->token.ring].base : 0 };

        vhk_token_answer(b, error, &reply, sizeof(reply));
}

static int stop_and_tell(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, enum vhk_stop how,
                         struct vhk_p_vring_state *ret_reply) {
        int action = vhk_ring_event(b, p->index, VHK_RING_EVENT_GET_BASE);
        if (action < 0)
                return action;
        if (action == VHK_RING_DO_ANSWER) {
                *ret_reply = (struct vhk_p_vring_state){ p->index, b->session.rings[p->index].base };
                return 0;
        }
        vhk_ring_stop(b, p->index, how);
        vhk_ring_wait(b, p->index, VHK_WAIT_STOPPED);
        b->token.ring = p->index;
        return vhk_token_take(b, c, base_known);
}

/* What the device can leave undone stays in the in-flight record; without one there is nowhere to
 * leave it. */
static enum vhk_stop suspend_or_drain(const struct vhk_backend *b, unsigned i) {
        return vhk_inflight_has_ring(b, i) ? VHK_STOP_SUSPEND : VHK_STOP_DRAIN;
}

/* Requests in flight are completed first, whatever num says: a front-end that wants them left
 * acknowledges GET_VRING_BASE_INFLIGHT, and, if it can choose each time,
 * GET_VRING_BASE_SKIP_DRAIN. */
int vhk_on_GET_VRING_BASE(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, struct vhk_p_vring_state *ret_reply) {
        uint64_t protocol = b->session.wire.protocol;
        bool may_suspend = (protocol & VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT)) && !(protocol & VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN));

        return stop_and_tell(b, p, c, may_suspend ? suspend_or_drain(b, p->index) : VHK_STOP_DRAIN, ret_reply);
}

int vhk_on_GET_VRING_BASE_SKIP_DRAIN(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, struct vhk_p_vring_state *ret_reply) {
        return stop_and_tell(b, p, c, suspend_or_drain(b, p->index), ret_reply);
}

/* The descriptor of KICK, CALL or ERR, NULL without one. Only what can be a notification is taken:
 * an eventfd, a pipe, or a socket (User-Mode Linux makes its "pipes" with socketpair(2)). */
int vhk_ring_take_notifier(struct vhk_backend *b, int *fd, struct vhk_fdref **ret_r) {
        return vhk_fdref_new(VHK_STEAL_FD(*fd), ret_r);
}

static int take_notifier(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_fdref **ret_r) {
        if (p->value & VHK_RING_NO_FD) {
                *ret_r = NULL;
                return 0;
        }
        int k = vhk_ring_take_notifier(b, &c->fds[0], ret_r);
        if (k < 0)
                return vhk_refuse(b, k, "ring.notifier", "ring %u: the descriptor is no eventfd, pipe or socket (%s)",
                                  (unsigned)(p->value & VHK_RING_INDEX_MASK), strerror(-k));
        return 0;
}

/* The worker has started the ring or taken the other descriptor, or could not; or it has not
 * reported in time. */
static void kick_done(struct vhk_backend *b, int error) {
        unsigned i = b->token.ring;
        const struct vhk_ring_value *r = &b->session.rings[i];
        bool starts = b->token.starts;

        if (error == 0 && starts && r->start_error < 0)
                error = vhk_refuse(b, r->start_error, "ring.start", "ring %u does not start: %s", i, strerror(-r->start_error));
        else if (error == 0 && !starts && r->state == VHK_RING_STATE_BROKEN)
                error = vhk_refuse(b, -EIO, "ring.kick", "ring %u broke when it was given another kick descriptor", i);
        if (error < 0 && starts && vhk_ring_runs(b, i)) {      /* it is refused: it must not run later on */
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_RESET);
                vhk_ring_stop(b, i, VHK_STOP_ABORT);
        }
        vhk_token_answer(b, error, NULL, 0);
}

static int check_start(struct vhk_backend *b, unsigned i) {
        if (b->session.reset_pending)
                return vhk_refuse(b, -EBUSY, "device.reset", "ring %u: RESET_DEVICE is not done yet: rings still have requests in flight", i);
        vhk_inflight_check_ring(b, i);
        return vhk_session_negotiate(b);
}

/* Remembers @kick, and sends the ring's worker what follows from it. The action, or a negative
 * errno. */
static int send_kick(struct vhk_backend *b, unsigned i, struct vhk_fdref *kick, const struct vhk_ring_config *areas) {
        struct vhk_ring_value *r = &b->session.rings[i];

        int action = vhk_ring_event(b, i, VHK_RING_EVENT_KICK);
        if (action < 0) {
                vhk_fdref_unref(kick);
                return action;
        }
        vhk_fdref_unref(r->kick);
        r->kick = kick;
        r->polled = !kick;
        if (b->ops->virtio_id == VHK_ID_CRYPTO)         /* QEMU's never sends SET_VRING_ENABLE */
                r->enabled = true;
        int ret = action;
        if (action == VHK_RING_DO_START)
                ret = vhk_ring_send_start(b, i, areas);
        else if (action == VHK_RING_DO_ADOPT)
                ret = vhk_ring_send_update(b, i, areas);
        if (ret < 0 && action == VHK_RING_DO_START)     /* no order was sent */
                vhk_ring_not_started(b, i, ret);
        return ret < 0 ? ret : action;
}

int vhk_ring_start(struct vhk_backend *b, struct vhk_call *c, unsigned i, struct vhk_fdref *kick) {
        bool runs = vhk_ring_runs(b, i), is_broken = b->session.rings[i].state == VHK_RING_STATE_BROKEN;
        struct vhk_ring_config areas = { .stalled = false };

        int ret = is_broken ? 0 : vhk_ring_resolve(b, i, &areas);
        if (ret >= 0 && !runs)
                ret = check_start(b, i);
        if (ret < 0) {
                vhk_fdref_unref(kick);
                return ret;
        }
        ret = send_kick(b, i, kick, &areas);
        if (ret < 0 || ret == VHK_RING_DO_KEEP)
                return ret < 0 ? ret : 0;
        b->token.starts = !runs;
        return wait_for_worker(b, c, i, false, kick_done);
}

int vhk_on_SET_VRING_KICK(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        unsigned i = p->value & VHK_RING_INDEX_MASK;
        struct vhk_fdref *kick;

        int k = take_notifier(b, p, c, &kick);
        if (k >= 0 && !kick)
                k = vhk_inband_new_kick(b, i, &kick);
        return k < 0 ? k : vhk_ring_start(b, c, i, kick);
}

static int set_notifier(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, enum vhk_ring_event event,
                        struct vhk_fdref **slot) {
        struct vhk_fdref *r;

        int k = take_notifier(b, p, c, &r);
        if (k < 0)
                return k;
        int action = vhk_ring_event(b, p->value & VHK_RING_INDEX_MASK, event);
        if (action < 0) {
                vhk_fdref_unref(r);
                return action;
        }
        vhk_fdref_unref(*slot);
        *slot = r;
        return action == VHK_RING_DO_ADOPT ? publish(b, c, p->value & VHK_RING_INDEX_MASK, false) : 0;
}

int vhk_on_SET_VRING_CALL(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        return set_notifier(b, p, c, VHK_RING_EVENT_CALL, &b->session.rings[p->value & VHK_RING_INDEX_MASK].call);
}

int vhk_on_SET_VRING_ERR(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        return set_notifier(b, p, c, VHK_RING_EVENT_ERR, &b->session.rings[p->value & VHK_RING_INDEX_MASK].err);
}

int vhk_on_SET_VRING_ENABLE(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        int action = vhk_ring_event(b, p->index, VHK_RING_EVENT_ENABLE);
        if (action < 0)
                return action;
        b->session.rings[p->index].enabled = p->num;
        return action == VHK_RING_DO_ADOPT ? publish(b, c, p->index, false) : 0;
}

/* Rings of virtio 1 are little endian, and no others are served: that much may be said, before the ring starts. */
int vhk_on_SET_VRING_ENDIAN(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        if (p->num)
                return vhk_refuse(b, -EINVAL, "ring.endian", "ring %u: big-endian rings are those of legacy drivers, which are not served", p->index);
        if (vhk_ring_runs(b, p->index))
                return vhk_refuse(b, -EBUSY, "ring.state", "ring %u runs: its byte order is settled", p->index);
        return 0;
}
