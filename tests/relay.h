/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Stands between a front-end and a back-end of ours and changes one message, so that what a correct peer never says is said all the
 * same. Passes on whole messages with their descriptors, of the main socket and of the back-end's channel, for one connection.
 * A thread of its own; for struct pair_options.between.
 */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "pair.h"
#include "sock/sock.h"
#include "wire/wire.h"

struct relay_message {
        struct vhk_hdr h;
        uint8_t payload[VHK_MAX_PAYLOAD + 8];
        int fds[VHK_MAX_FDS + 1];
        unsigned n_fds;
};

enum { RELAY_FRONT, RELAY_BACK, RELAY_FRONT_CHANNEL, RELAY_BACK_CHANNEL, RELAY_SIDES };         /* opposite ones differ in bit 0 */

struct relay {
        enum vhk_dir dir;
        uint32_t id, size;              /* the first request like that; size 0: of any size */
        void (*change)(struct relay_message *m);
        bool frontend_listens;
        /* ---- the thread's ---- */
        unsigned n_changed;
        int stop, sides[RELAY_SIDES];
        struct vhk_listener listener;
        const char *to;
        pthread_t thread;
};

static inline bool relay_receive(int fd, struct relay_message *m) {
        union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(m->fds))]; } control;
        struct iovec v = { &m->h, sizeof(m->h) };
        struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

        m->n_fds = 0;
        if (recvmsg(fd, &h, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(m->h) || m->h.size > VHK_MAX_PAYLOAD)
                return false;
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        if (c && c->cmsg_type == SCM_RIGHTS) {
                m->n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(m->fds, CMSG_DATA(c), m->n_fds * sizeof(int));
        }
        return !m->h.size || recv(fd, m->payload, m->h.size, MSG_WAITALL) == (ssize_t)m->h.size;
}

static inline void relay_send(int fd, struct relay_message *m) {
        union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(m->fds))]; } control;
        struct iovec v[2] = { { &m->h, sizeof(m->h) }, { m->payload, m->h.size } };
        struct msghdr h = { .msg_iov = v, .msg_iovlen = 2 };

        memset(&control, 0, sizeof(control));
        if (m->n_fds) {
                h.msg_control = &control;
                h.msg_controllen = CMSG_SPACE(m->n_fds * sizeof(int));
                struct cmsghdr *c = CMSG_FIRSTHDR(&h);
                *c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(m->n_fds * sizeof(int)) };
                memcpy(CMSG_DATA(c), m->fds, m->n_fds * sizeof(int));
        }
        (void)sendmsg(fd, &h, MSG_NOSIGNAL);    /* whoever has gone is seen at the next receive */
        for (unsigned i = 0; i < m->n_fds; i++)
                close(m->fds[i]);
}

/* The channel that the front-end gives away becomes ours, and the back-end gets one of ours. */
static inline void relay_take_channel(struct relay *r, struct relay_message *m) {
        int s[2];

        if (m->n_fds != 1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) < 0)
                return;
        (void)vhk_fd_set_nonblock(m->fds[0], false);
        r->sides[RELAY_FRONT_CHANNEL] = m->fds[0];
        r->sides[RELAY_BACK_CHANNEL] = s[0];
        m->fds[0] = s[1];
}

static inline bool relay_pass(struct relay *r, unsigned from) {
        static const int requests[RELAY_SIDES] = { [RELAY_FRONT] = VHK_FROM_FRONTEND, [RELAY_BACK] = -1, [RELAY_FRONT_CHANNEL] = -1,
                                                   [RELAY_BACK_CHANNEL] = VHK_FROM_BACKEND };
        struct relay_message m = { .n_fds = 0 };

        if (!relay_receive(r->sides[from], &m))
                return false;
        if (requests[from] == (int)r->dir && m.h.request == r->id && (!r->size || m.h.size == r->size) && !r->n_changed) {
                r->n_changed++;
                r->change(&m);
        } else if (from == RELAY_FRONT && m.h.request == VHK_FE_SET_BACKEND_REQ_FD) {
                relay_take_channel(r, &m);
        }
        relay_send(r->sides[from ^ 1], &m);
        return true;
}

static inline void *relay_run(void *arg) {
        struct relay *r = arg;
        int first = -1, second = -1;
        struct pollfd who[2] = { { .fd = r->listener.fd, .events = POLLIN }, { .fd = r->stop, .events = POLLIN } };

        poll(who, 2, -1);
        if (who[0].revents)
                (void)vhk_listener_accept(&r->listener, &first);
        vhk_listener_close(&r->listener);       /* a second connection finds nobody */
        if (first >= 0)
                (void)vhk_sock_connect(r->to, 10000000000u, &second, NULL);
        r->sides[r->frontend_listens ? RELAY_BACK : RELAY_FRONT] = first;
        r->sides[r->frontend_listens ? RELAY_FRONT : RELAY_BACK] = second;
        for (unsigned i = 0; i < 2; i++)
                if (r->sides[i] >= 0)
                        (void)vhk_fd_set_nonblock(r->sides[i], false);
        while (first >= 0 && second >= 0) {
                struct pollfd p[RELAY_SIDES + 1] = { [RELAY_SIDES] = { .fd = r->stop, .events = POLLIN } };
                bool lives = true;
                for (unsigned i = 0; i < RELAY_SIDES; i++)
                        p[i] = (struct pollfd){ .fd = r->sides[i], .events = POLLIN };
                poll(p, RELAY_SIDES + 1, -1);
                for (unsigned i = 0; i < RELAY_SIDES && lives; i++)
                        if (p[i].revents && r->sides[i] == p[i].fd && !relay_pass(r, i)) {
                                lives = i >= RELAY_FRONT_CHANNEL;
                                vhk_close(&r->sides[RELAY_FRONT_CHANNEL]);
                                vhk_close(&r->sides[RELAY_BACK_CHANNEL]);
                        }
                if (!lives || p[RELAY_SIDES].revents)
                        break;
        }
        for (unsigned i = 0; i < RELAY_SIDES; i++)
                vhk_close(&r->sides[i]);
        return NULL;
}

static inline void relay_start(void *arg, const char *front, const char *back) {
        struct relay *r = arg;
        struct vhk_error e;

        r->n_changed = 0;
        r->to = r->frontend_listens ? front : back;
        for (unsigned i = 0; i < RELAY_SIDES; i++)
                r->sides[i] = -1;
        r->stop = eventfd(0, EFD_CLOEXEC);
        CHECK(r->stop >= 0);
        CHECK_MSG(vhk_listener_open(r->frontend_listens ? back : front, &r->listener, &e) == 0, "%s", e.text);
        CHECK_EQ(pthread_create(&r->thread, NULL, relay_run, r), 0);
}

/* How many messages were changed. */
static inline unsigned relay_stop(struct relay *r) {
        (void)vhk_notify_fd(r->stop);
        pthread_join(r->thread, NULL);
        vhk_close(&r->stop);
        return r->n_changed;
}
