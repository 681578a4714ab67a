/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Messages and their descriptors over a connected socket. One thread at a time; never blocks, never raises SIGPIPE.
 *
 * Receiving never asks for a byte beyond the message at hand, so descriptors cannot get attached to the wrong one. The
 * control buffer has room for all that the kernel passes at once (SCM_MAX_FD); if it still reports a loss (MSG_CTRUNC:
 * our descriptor table is full), what came is closed and the message is marked: its descriptors are lost.
 *
 * Sending: descriptors travel with the first byte of their message (vhost-user, "Communication"). What the socket does
 * not take is copied, with duplicates of the descriptors, and goes out in order.
 */
#include <fcntl.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "sock/sock.h"

#define SCM_MAX 253                     /* the kernel's limit for one message */
#define OUT_MAX 65536u

struct vhk_out {
        struct vhk_out *next;
        size_t have, sent;
        unsigned n_fds;
        int fds[VHK_MAX_FDS];
        uint8_t bytes[];
};

int vhk_conn_init(struct vhk_conn *c, int fd) {
        VHK_AUTOCLOSE int owned = fd;

        *c = (struct vhk_conn){ .fd = -1 };
        c->out_tail = &c->out_head;
        int k = vhk_fd_set_nonblock(fd, true);
        if (k < 0)
                return k;
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
                return vhk_errno();
        k = vhk_decoder_init(&c->in);
        if (k < 0)
                return k;
        c->fd = VHK_STEAL_FD(owned);
        return 0;
}

struct vhk_out *vhk_out_free(struct vhk_out *o) {
        if (!o)
                return NULL;
        for (unsigned i = 0; i < o->n_fds; i++)
                close(o->fds[i]);
        free(o);
        return NULL;
}

void vhk_conn_done(struct vhk_conn *c) {
        if (c->fd < 0)
                return;
        while (c->out_head) {
                struct vhk_out *o = c->out_head;
                c->out_head = o->next;
                vhk_out_free(o);
        }
        c->out_tail = &c->out_head;
        c->out_bytes = 0;
        vhk_decoder_done(&c->in);
        vhk_close(&c->fd);
}

/* ---- in ---- */

struct received {
        int fds[SCM_MAX];
        unsigned n;
        bool surplus;                   /* more than SCM_MAX */
        bool lost;                      /* the kernel did not install all of them */
};

static void take_descriptors(struct msghdr *m, struct received *r) {
        for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                unsigned n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (unsigned i = 0; i < n; i++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
                        if (r->n < SCM_MAX)
                                r->fds[r->n++] = fd;
                        else {
                                close(fd);
                                r->surplus = true;
                        }
                }
        }
        r->lost = m->msg_flags & MSG_CTRUNC;
        if (!r->lost && !r->surplus)
                return;
        while (r->n > 0)
                close(r->fds[--r->n]);
}

/* Bytes, 0 at the end, negative errno. */
static ssize_t receive_some(int fd, void *buf, size_t n, struct received *r) {
        union {
                struct cmsghdr align;
                /* the rest is for credentials, should an inherited socket have asked for them */
                char bytes[CMSG_SPACE(sizeof(int) * SCM_MAX) + 256];
        } control;
        struct iovec iov = { buf, n };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

        r->n = 0;
        r->surplus = r->lost = false;
        for (;;) {
                ssize_t k = recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
                if (k >= 0) {
                        take_descriptors(&m, r);
                        return k;
                }
                if (errno != EINTR)
                        return errno == EWOULDBLOCK ? -EAGAIN : vhk_errno();
        }
}

int vhk_conn_receive(struct vhk_conn *c) {
        struct received r;

        for (;;) {
                if (c->in.have >= VHK_HDR_SIZE && vhk_decoder_header(&c->in).size > c->in.room)
                        return -EMSGSIZE;               /* the caller saw the header and was to end this */
                size_t want = vhk_decoder_want(&c->in);
                if (want == 0)
                        return VHK_CONN_MESSAGE;
                ssize_t n = receive_some(c->fd, vhk_decoder_space(&c->in), want, &r);
                if (n == -EAGAIN)
                        return VHK_CONN_AGAIN;
                if (n == 0 || n == -ECONNRESET)         /* reset: it closed without reading all that we sent */
                        return c->in.have ? VHK_CONN_CUT : VHK_CONN_EOF;
                if (n < 0)
                        return (int)n;
                int header = vhk_decoder_fed(&c->in, (size_t)n, r.fds, r.n);
                c->in.surplus_fds |= r.surplus;
                c->in.lost_fds |= r.lost;
                if (header)
                        return VHK_CONN_HEADER;
        }
}

/* ---- out ---- */

/* Bytes that the socket took (the descriptors went with the first one), negative errno. */
static ssize_t send_some(int fd, struct iovec *iov, unsigned n_iov, const int *fds, unsigned n_fds) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * VHK_MAX_FDS)];
        } control;
        struct msghdr m = { .msg_iov = iov, .msg_iovlen = n_iov };

        if (n_fds) {
                memset(&control, 0, sizeof(control));
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                struct cmsghdr *h = CMSG_FIRSTHDR(&m);
                h->cmsg_level = SOL_SOCKET;
                h->cmsg_type = SCM_RIGHTS;
                h->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(h), fds, sizeof(int) * n_fds);
        }
        for (;;) {
                ssize_t k = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (k >= 0)
                        return k;
                if (errno != EINTR)
                        return errno == EWOULDBLOCK ? -EAGAIN : errno == ECONNRESET ? -EPIPE : vhk_errno();
        }
}

int vhk_out_new(const struct vhk_hdr *h, const int *fds, unsigned n_fds, struct vhk_out **ret_o, void **ret_payload) {
        size_t have = sizeof(*h) + h->size;

        struct vhk_out *o = malloc(sizeof(*o) + have);
        if (!o)
                return -ENOMEM;
        *o = (struct vhk_out){ .have = have };
        memcpy(o->bytes, h, sizeof(*h));
        for (; o->n_fds < n_fds; o->n_fds++) {
                o->fds[o->n_fds] = fcntl(fds[o->n_fds], F_DUPFD_CLOEXEC, 3);
                if (o->fds[o->n_fds] < 0) {
                        int k = vhk_errno();
                        vhk_out_free(o);
                        return k;
                }
        }
        *ret_o = o;
        *ret_payload = o->bytes + sizeof(*h);
        return 0;
}

void vhk_conn_queue(struct vhk_conn *c, struct vhk_out *o) {
        c->out_bytes += o->have - o->sent;
        *c->out_tail = o;
        c->out_tail = &o->next;
}

int vhk_conn_send(struct vhk_conn *c, const struct vhk_hdr *h, const void *payload, const int *fds, unsigned n_fds) {
        struct iovec iov[2] = { { (void *)h, sizeof(*h) }, { (void *)payload, h->size } };
        struct vhk_out *o;
        void *copy;
        size_t all = sizeof(*h) + h->size;
        ssize_t sent = 0;

        assert(h->size <= VHK_MAX_PAYLOAD && n_fds <= VHK_MAX_FDS);
        if (!c->out_head) {
                sent = send_some(c->fd, iov, h->size ? 2 : 1, fds, n_fds);
                if (sent == (ssize_t)all)
                        return 0;
                if (sent < 0 && sent != -EAGAIN)
                        return (int)sent;
                sent = VHK_MAX(sent, (ssize_t)0);
        }
        if (sent == 0 && c->out_bytes + all > OUT_MAX)
                return -ENOBUFS;
        int k = vhk_out_new(h, fds, sent ? 0 : n_fds, &o, &copy);
        if (k < 0)
                return k;
        if (h->size)
                memcpy(copy, payload, h->size);
        o->sent = (size_t)sent;
        vhk_conn_queue(c, o);
        return 0;
}

int vhk_conn_flush(struct vhk_conn *c) {
        while (c->out_head) {
                struct vhk_out *o = c->out_head;
                struct iovec iov = { o->bytes + o->sent, o->have - o->sent };
                ssize_t n = send_some(c->fd, &iov, 1, o->fds, o->n_fds);
                if (n < 0)
                        return n == -EAGAIN ? 0 : (int)n;
                if (n > 0)
                        while (o->n_fds > 0)
                                close(o->fds[--o->n_fds]);
                o->sent += (size_t)n;
                c->out_bytes -= (size_t)n;
                if (o->sent < o->have)
                        continue;
                c->out_head = o->next;
                if (!c->out_head)
                        c->out_tail = &c->out_head;
                vhk_out_free(o);
        }
        return 1;
}
