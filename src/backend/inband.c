/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * In-band notifications: a ring without a call or error descriptor speaks on the back-end channel, one without a kick
 * descriptor listens to VRING_KICK. Control worker.
 *
 * Rings and homes know nothing of it: they get an eventfd of ours. Control watches those for call and error; what was
 * signalled while a message is unanswered, or while the channel has no room, stays in the counter and goes out as one. Before
 * the answer to GET_VRING_BASE nothing is left in it: a front-end hears nothing of a ring that has stopped.
 *
 * Source: vhost-user, "In-band messages", VHOST_USER_VRING_KICK, VHOST_USER_BACKEND_VRING_CALL, VHOST_USER_BACKEND_VRING_ERR.
 */
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "backend/session.h"

enum { CALL, ERR, N_KINDS };

static bool is_negotiated(const struct vhk_backend *b) {
        return b->session.wire.protocol & VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS);
}

static int new_eventfd(struct vhk_fdref **ret_r) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        return fd < 0 ? vhk_errno() : vhk_fdref_new(fd, ret_r);
}

/* ---- call and error ---- */

static void listen_to(struct vhk_inband *n, bool on) {
        (void)vhk_watch_set(n->watch, on ? EPOLLIN : 0);
}

static void answered(struct vhk_backend *b, int error, const void *reply, uint32_t size, int *fd, uint64_t arg) {
        struct vhk_inband *n = &b->inband[arg];

        n->waits = false;
        if (n->watch)
                listen_to(n, true);
}

/* The counter is empty now; it is filled again if the message cannot go out. */
static void tell(struct vhk_inband *n) {
        struct vhk_backend *b = n->b;
        unsigned at = (unsigned)(n - b->inband);
        uint32_t id = at % N_KINDS == CALL ? VHK_BE_VRING_CALL : VHK_BE_VRING_ERR;
        struct vhk_p_vring_state p = { .index = at / N_KINDS };

        int k = vhk_channel_send(&b->channel, id, &p, sizeof(p), -1, answered, at);
        if (k < 0) {
                (void)vhk_fdref_notify(n->fd);
                b->inband_blocked = true;
        }
        n->waits |= k == 0;
        listen_to(n, !n->waits && k >= 0);
}

static void on_signal(void *arg, uint32_t events) {
        struct vhk_inband *n = arg;

        if (vhk_drain_fd(vhk_fdref_get(n->fd)) > 0)
                tell(n);
}

static int get(struct vhk_backend *b, unsigned i, unsigned kind, struct vhk_fdref **ret_r) {
        struct vhk_inband *n = &b->inband[i * N_KINDS + kind];
        int k = 0;

        if (!n->fd) {
                n->b = b;
                k = new_eventfd(&n->fd);
                if (k >= 0)
                        k = vhk_worker_watch(b->o.control, vhk_fdref_get(n->fd), EPOLLIN, on_signal, n, &n->watch);
                if (k < 0)
                        n->fd = vhk_fdref_unref(n->fd);
        }
        *ret_r = n->fd;
        return k;
}

int vhk_inband_fill(struct vhk_backend *b, unsigned i, struct vhk_ring_config *c) {
        int k = 0;

        if (!is_negotiated(b))
                return 0;
        if (!c->call)
                k = get(b, i, CALL, &c->call);
        if (k >= 0 && !c->err)
                k = get(b, i, ERR, &c->err);
        return k < 0 ? vhk_refuse(b, k, "ring.inband", "ring %u: no descriptor for its notifications: %s", i, strerror(-k)) : 0;
}

void vhk_inband_flush(struct vhk_backend *b, unsigned i) {
        for (unsigned kind = 0; b->inband && kind < N_KINDS; kind++) {
                struct vhk_inband *n = &b->inband[i * N_KINDS + kind];
                if (n->fd && vhk_drain_fd(vhk_fdref_get(n->fd)) > 0)
                        tell(n);
        }
}

void vhk_inband_resume(struct vhk_backend *b) {
        if (!b->inband_blocked)
                return;
        b->inband_blocked = false;
        for (unsigned at = 0; at < b->n_queues * N_KINDS; at++)
                if (b->inband[at].watch && !b->inband[at].waits)
                        listen_to(&b->inband[at], true);
}

int vhk_inband_init(struct vhk_backend *b) {
        if (!(b->o.protocol_offer & VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS)))
                return 0;
        b->inband = calloc((size_t)b->n_queues * N_KINDS, sizeof(*b->inband));
        return b->inband ? 0 : -ENOMEM;
}

void vhk_inband_forget(struct vhk_backend *b) {
        for (unsigned at = 0; b->inband && at < b->n_queues * N_KINDS; at++) {
                struct vhk_inband *n = &b->inband[at];
                vhk_watch_free(n->watch);
                vhk_fdref_unref(n->fd);
                *n = (struct vhk_inband){ .b = b };
        }
        b->inband_blocked = false;
}

/* ---- kick ---- */

int vhk_inband_new_kick(struct vhk_backend *b, unsigned i, struct vhk_fdref **ret_kick) {
        *ret_kick = NULL;
        int k = is_negotiated(b) ? new_eventfd(ret_kick) : 0;
        return k < 0 ? vhk_refuse(b, k, "ring.inband", "ring %u: no descriptor for its kicks: %s", i, strerror(-k)) : 0;
}

/* Starts a ring that is stopped; where the front-end gave a descriptor too, either will do. */
int vhk_on_VRING_KICK(struct vhk_backend *b, const struct vhk_p_vring_state *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_fdref *kick;

        if (vhk_ring_runs(b, p->index)) {
                (void)vhk_fdref_notify(b->session.rings[p->index].kick);
                return 0;
        }
        int k = vhk_inband_new_kick(b, p->index, &kick);
        return k < 0 ? k : vhk_ring_start(b, c, p->index, kick);
}
