/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "sys/netlink.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>

#define DATAGRAM_MAX 32768u             /* the kernel makes the parts of a list no larger */
#define ANSWER_SECONDS 10

/* ---- attributes ---- */

static int read_text(const struct vhk_nl_field *f, const uint8_t *p, size_t n, char *ret_text) {
        size_t len = strnlen((const char *)p, n);

        if (len >= f->size)
                return -EBADMSG;
        memcpy(ret_text, p, len);
        ret_text[len] = 0;
        return 0;
}

static int read_field(const struct vhk_nl_field *f, const uint8_t *p, size_t n, void *object) {
        if (f->is_text)
                return read_text(f, p, n, (char *)object + f->offset);
        if (n != f->size)
                return -EBADMSG;
        memcpy((char *)object + f->offset, p, n);
        return 0;
}

int vhk_nl_read(const struct vhk_nl_field *fields, unsigned n_fields, const uint8_t *p, size_t n, void *object) {
        uint64_t seen = 0;
        struct nlattr a;

        assert(n_fields <= 64);
        while (n) {
                if (n < NLA_HDRLEN)
                        return -EBADMSG;
                memcpy(&a, p, sizeof(a));
                if (a.nla_len < NLA_HDRLEN || a.nla_len > n)
                        return -EBADMSG;
                for (unsigned i = 0; i < n_fields; i++) {
                        if (fields[i].type != (a.nla_type & NLA_TYPE_MASK))
                                continue;
                        int k = read_field(&fields[i], p + NLA_HDRLEN, a.nla_len - NLA_HDRLEN, object);
                        if (k < 0)
                                return k;
                        seen |= VHK_BIT(i);
                }
                size_t step = VHK_MIN((size_t)NLA_ALIGN(a.nla_len), n);
                p += step;
                n -= step;
        }
        for (unsigned i = 0; i < n_fields; i++)
                if (fields[i].is_needed && !(seen & VHK_BIT(i)))
                        return -EBADMSG;
        return 0;
}

/* ---- questions ---- */

void vhk_nl_begin(struct vhk_nl_request *r, uint16_t family, uint16_t flags, uint8_t command) {
        const struct nlmsghdr h = { .nlmsg_type = family, .nlmsg_flags = NLM_F_REQUEST | flags };
        const struct genlmsghdr g = { .cmd = command, .version = 1 };

        memset(r, 0, sizeof(*r));
        memcpy(r->bytes, &h, sizeof(h));
        memcpy(r->bytes + NLMSG_HDRLEN, &g, sizeof(g));
        r->n = NLMSG_HDRLEN + GENL_HDRLEN;
}

void vhk_nl_put(struct vhk_nl_request *r, uint16_t type, const void *p, size_t n) {
        const struct nlattr a = { .nla_len = (uint16_t)(NLA_HDRLEN + n), .nla_type = type };

        assert(n < sizeof(r->bytes) && NLA_ALIGN(NLA_HDRLEN + n) <= sizeof(r->bytes) - r->n);
        memcpy(r->bytes + r->n, &a, sizeof(a));
        memcpy(r->bytes + r->n + NLA_HDRLEN, p, n);
        r->n += NLA_ALIGN(NLA_HDRLEN + n);
}

void vhk_nl_put_text(struct vhk_nl_request *r, uint16_t type, const char *text) {
        if (text && *text)
                vhk_nl_put(r, type, text, strlen(text) + 1);
}

/* ---- answers ---- */

static int garbled(struct vhk_nl_answer *a, const char *what) {
        a->is_garbled = true;
        snprintf(a->text, sizeof(a->text), "%s", what);
        return -EBADMSG;
}

/* The kernel's words behind an error; whatever is wrong with them, the error is what counts. */
static void take_words(struct vhk_nl_answer *a, const uint8_t *p, size_t n) {
        static const struct vhk_nl_field words = { NLMSGERR_ATTR_MSG, 0, sizeof(a->text), true, false };

        if (vhk_nl_read(&words, 1, p, n, a->text) < 0)
                a->text[0] = 0;
}

/* NLMSG_ERROR, also as an acknowledgement, and NLMSG_DONE begin with an error number. @echo: a copy of the question stands between
 * it and the words. */
static int take_end(struct vhk_nl_answer *a, const struct nlmsghdr *h, const uint8_t *p, size_t n, bool has_echo) {
        struct nlmsghdr asked;
        int32_t error;
        size_t skip = sizeof(error);

        if (n < sizeof(error) + (has_echo ? sizeof(asked) : 0))
                return garbled(a, "an end that is cut off");
        memcpy(&error, p, sizeof(error));
        if (error > 0 || error < -4095)
                return garbled(a, "an end with an impossible error number");
        if (has_echo) {
                memcpy(&asked, p + sizeof(error), sizeof(asked));
                skip += sizeof(asked);
                if (!(h->nlmsg_flags & NLM_F_CAPPED) && error && asked.nlmsg_len >= NLMSG_HDRLEN)
                        skip += NLMSG_ALIGN((size_t)asked.nlmsg_len) - NLMSG_HDRLEN;
        }
        if (h->nlmsg_flags & NLM_F_ACK_TLVS && skip <= n)
                take_words(a, p + skip, n - skip);
        return error;
}

/* One message of a datagram; 1: the answer has no end yet. */
static int take_message(struct vhk_nl_answer *a, const struct nlmsghdr *h, const uint8_t *p, size_t n) {
        struct genlmsghdr g;

        if (h->nlmsg_seq != a->seq)
                return 1;               /* of an earlier question */
        if (h->nlmsg_flags & NLM_F_DUMP_INTR)
                a->is_interrupted = true;
        switch (h->nlmsg_type) {
        case NLMSG_NOOP:
                return 1;
        case NLMSG_ERROR:
                return take_end(a, h, p, n, true);
        case NLMSG_DONE:
                return take_end(a, h, p, n, false);
        case NLMSG_OVERRUN:
                return -ENOBUFS;
        }
        if (h->nlmsg_type != a->family)
                return garbled(a, "a message of another family");
        if (n < GENL_HDRLEN)
                return garbled(a, "a message that is cut off");
        memcpy(&g, p, sizeof(g));
        int k = a->on_message(a->arg, g.cmd, p + GENL_HDRLEN, n - GENL_HDRLEN);
        return k == -EBADMSG ? garbled(a, "attributes that are cut off, of a wrong length, or missing") : k < 0 ? k : 1;
}

int vhk_nl_take(struct vhk_nl_answer *a, const void *datagram, size_t n) {
        const uint8_t *p = datagram;
        struct nlmsghdr h;

        while (n) {
                if (n < NLMSG_HDRLEN)
                        return garbled(a, "a header that is cut off");
                memcpy(&h, p, sizeof(h));
                if (h.nlmsg_len < NLMSG_HDRLEN || h.nlmsg_len > n)
                        return garbled(a, "a message of a wrong length");
                int k = take_message(a, &h, p + NLMSG_HDRLEN, h.nlmsg_len - NLMSG_HDRLEN);
                if (k <= 0)
                        return k;
                size_t step = VHK_MIN(NLMSG_ALIGN((size_t)h.nlmsg_len), n);
                p += step;
                n -= step;
        }
        return 1;
}

/* ---- the socket ---- */

int vhk_nl_open(int *ret_fd) {
        VHK_AUTOCLOSE int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
        const struct timeval limit = { .tv_sec = ANSWER_SECONDS };
        const int on = 1;

        if (fd < 0)
                return vhk_errno();
        /* Kernels before 4.12 have no words for errors. */
        setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
        setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
        if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
                return vhk_errno();
        *ret_fd = VHK_STEAL_FD(fd);
        return 0;
}

/* The next datagram that the kernel sent: its length, or a negative errno. */
static ssize_t receive(int fd, uint8_t *buf) {
        for (;;) {
                struct sockaddr_nl from = { 0 };
                struct iovec v = { buf, DATAGRAM_MAX };
                struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &v, .msg_iovlen = 1 };
                ssize_t n = recvmsg(fd, &m, 0);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? -ETIMEDOUT : vhk_errno();
                if (from.nl_pid)        /* another process; not the kernel */
                        continue;
                return m.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
        }
}

int vhk_nl_ask(int fd, struct vhk_nl_request *r, struct vhk_nl_answer *a) {
        const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
        VHK_AUTOFREE uint8_t *buf = malloc(DATAGRAM_MAX);
        struct nlmsghdr h;
        ssize_t n = 1;

        if (!buf)
                return -ENOMEM;
        memcpy(&h, r->bytes, sizeof(h));
        h.nlmsg_len = (uint32_t)r->n;
        h.nlmsg_seq = a->seq;
        memcpy(r->bytes, &h, sizeof(h));
        a->family = h.nlmsg_type;
        if (sendto(fd, r->bytes, r->n, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
                return vhk_errno();
        while (n > 0) {
                n = receive(fd, buf);
                if (n > 0)
                        n = vhk_nl_take(a, buf, (size_t)n);
                else if (!n)
                        n = garbled(a, "an empty datagram");
        }
        return (int)n;
}
