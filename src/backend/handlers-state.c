/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Device state of a migration: SET_DEVICE_STATE_FD names a pipe (or socket), through which the state goes while all rings are
 * stopped; its end is the pipe's. CHECK_DEVICE_STATE asks whether it went well. Control worker, which never waits for the
 * pipe. Of what a front-end loads nothing is believed before all of it is there, and no more than VHK_STATE_MAX bytes are
 * read; the device judges what they mean.
 *
 * Both answers have a word for no: bits 0-7 of the first, the number of the second. The front-end's descriptor is the one in
 * use: bit 8 of the first answer says that we have none to offer instead.
 *
 * Source: vhost-user, "Migrating back-end state", VHOST_USER_SET_DEVICE_STATE_FD, VHOST_USER_CHECK_DEVICE_STATE.
 */
#include <sys/epoll.h>

#include "backend/session.h"
#include "base/fd.h"

#define ROOM 65536u             /* to begin with; it doubles */

static void done(struct vhk_backend *b, int result) {
        struct vhk_state_transfer *t = &b->state_transfer;

        t->watch = vhk_watch_free(t->watch);
        if (t->open)
                vhk_close(&t->fd);
        free(VHK_STEAL(t->data));
        t->open = false;
        t->result = result;
        if (result < 0)
                vhk_log(&b->log, VHK_LOG_WARNING, "device state was not %s: %s", t->loads ? "loaded" : "saved", strerror(-result));
}

void vhk_state_abort(struct vhk_backend *b) {
        if (b->state_transfer.open)
                done(b, -ECANCELED);
        b->state_transfer = (struct vhk_state_transfer){ .result = 1 };
}

static void save_some(struct vhk_backend *b) {
        struct vhk_state_transfer *t = &b->state_transfer;

        while (t->at < t->n) {
                ssize_t k = vhk_peer_write(t->fd, t->data + t->at, t->n - t->at);
                if (k == -EAGAIN)
                        return;
                if (k < 0) {
                        done(b, (int)k);
                        return;
                }
                t->at += (size_t)k;
        }
        done(b, 0);
}

static int make_room(struct vhk_state_transfer *t) {
        if (t->at < t->n)
                return 0;
        if (t->n == VHK_STATE_MAX + 1)          /* one byte more than it may be */
                return -EFBIG;
        size_t n = t->n ? VHK_MIN(2 * t->n, (size_t)VHK_STATE_MAX + 1) : ROOM;
        uint8_t *p = realloc(t->data, n);
        if (!p)
                return -ENOMEM;
        t->data = p;
        t->n = n;
        return 0;
}

/* All of it is there. */
static void load(struct vhk_backend *b) {
        struct vhk_state_transfer *t = &b->state_transfer;

        if (b->session.wire.running)
                done(b, -EBUSY);                /* a ring was started meanwhile */
        else
                done(b, b->ops->load_state(b->dev, t->data, t->at));
}

/* A bounded part, then the others of this worker have their turn. */
static void load_some(struct vhk_backend *b) {
        struct vhk_state_transfer *t = &b->state_transfer;

        for (unsigned i = 0; i < 16; i++) {
                int k = make_room(t);
                if (k < 0) {
                        done(b, k);
                        return;
                }
                ssize_t n = vhk_peer_read(t->fd, t->data + t->at, t->n - t->at);
                if (n == -EAGAIN)
                        return;
                if (n < 0) {
                        done(b, (int)n);
                        return;
                }
                if (n == 0) {
                        load(b);
                        return;
                }
                t->at += (size_t)n;
        }
}

static void on_state(void *arg, uint32_t events) {
        struct vhk_backend *b = arg;

        (b->state_transfer.loads ? load_some : save_some)(b);
}

static int begin(struct vhk_backend *b, int *fd) {
        struct vhk_state_transfer *t = &b->state_transfer;
        void *data = NULL;

        int k = vhk_peer_kind(*fd);
        if (k == VHK_PEER_EVENTFD || k == VHK_PEER_FILE || k == VHK_PEER_OTHER)
                k = -EINVAL;
        if (k >= 0 && !t->loads)
                k = b->ops->save_state(b->dev, &data, &t->n);
        if (k >= 0 && t->n > VHK_STATE_MAX) {
                free(data);
                k = -EFBIG;
        }
        if (k < 0)
                return k;
        t->data = data;
        t->fd = VHK_STEAL_FD(*fd);
        t->open = true;
        return vhk_worker_watch(b->o.control, t->fd, t->loads ? EPOLLIN : EPOLLOUT, on_state, b, &t->watch);
}

int vhk_on_SET_DEVICE_STATE_FD(struct vhk_backend *b, const struct vhk_p_device_state *p, struct vhk_call *c, struct vhk_p_u64 *ret_reply) {
        vhk_state_abort(b);                     /* the newest counts */
        b->state_transfer.loads = p->direction == VHK_STATE_LOAD;
        int k = b->ops->save_state && b->ops->load_state ? begin(b, &c->fds[0]) : -EOPNOTSUPP;
        if (k < 0)
                done(b, k);
        ret_reply->value = VHK_RING_NO_FD | (k < 0);
        return 0;
}

/* The front-end has seen the end of a save, or has closed its end of a load: whatever is to come is in the pipe by now. */
int vhk_on_CHECK_DEVICE_STATE(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_u64 *ret_reply) {
        struct vhk_state_transfer *t = &b->state_transfer;

        for (size_t before = SIZE_MAX; t->open && t->loads && t->at != before;) {
                before = t->at;
                load_some(b);
        }
        if (t->open)
                done(b, -EPROTO);               /* it asks too early */
        ret_reply->value = t->result != 0;
        return 0;
}
