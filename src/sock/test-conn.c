/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Messages over a socket whose other end is as awkward as it can be. */
#include "base/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "sock/sock.h"

static struct vhk_conn c;
static int peer;

static void enter(void) {
        int s[2];

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        CHECK_OK(vhk_conn_init(&c, s[0]));
        peer = s[1];
}

static void leave(void) {
        vhk_conn_done(&c);
        if (peer >= 0)
                close(peer);
}

static void say(const void *bytes, size_t n, const int *fds, unsigned n_fds) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * 253)];
        } control = { 0 };
        struct iovec iov = { (void *)bytes, n };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (n_fds) {
                m.msg_control = &control;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                struct cmsghdr *h = CMSG_FIRSTHDR(&m);
                h->cmsg_level = SOL_SOCKET;
                h->cmsg_type = SCM_RIGHTS;
                h->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(h), fds, sizeof(int) * n_fds);
        }
        CHECK_EQ(sendmsg(peer, &m, MSG_NOSIGNAL), (long long)n);
}

/* A message of 20 bytes. */
struct message {
        struct vhk_hdr h;
        uint32_t index, num;
};
static const struct message m20 = { { 8, 1, 8 }, 3, 256 };
static const uint8_t *const raw = (const uint8_t *)&m20;

static void check_m20(void) {
        struct vhk_hdr h = vhk_decoder_header(&c.in);

        CHECK_EQ(h.request, 8);
        CHECK_EQ(h.size, 8);
        CHECK(!memcmp(c.in.payload, raw + 12, 8));
}

TEST(one_byte_at_a_time) {
        enter();
        for (unsigned round = 0; round < 3; round++) {
                for (size_t i = 0; i < sizeof(m20); i++) {
                        CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_AGAIN);
                        say(raw + i, 1, NULL, 0);
                        int k = vhk_conn_receive(&c);
                        CHECK_EQ(k, i == 11 ? VHK_CONN_HEADER : i == 19 ? VHK_CONN_MESSAGE : VHK_CONN_AGAIN);
                }
                check_m20();
                CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_MESSAGE);       /* until it is taken */
                vhk_decoder_next(&c.in);
        }
        leave();
}

TEST(end_at_every_offset) {
        for (size_t n = 0; n <= sizeof(m20); n++) {
                enter();
                if (n)
                        say(raw, n, NULL, 0);
                close(peer);
                peer = -1;
                int k = vhk_conn_receive(&c);
                if (n >= 12) {
                        CHECK_EQ(k, VHK_CONN_HEADER);
                        k = vhk_conn_receive(&c);
                }
                CHECK_EQ(k, n == 0 ? VHK_CONN_EOF : n == sizeof(m20) ? VHK_CONN_MESSAGE : VHK_CONN_CUT);
                leave();
        }
}

TEST(end_with_unread_bytes_is_an_end) {
        enter();
        CHECK_OK(vhk_conn_send(&c, &m20.h, &m20.index, NULL, 0));
        close(peer);            /* gives ECONNRESET, not 0 */
        peer = -1;
        CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_EOF);
        leave();
}

TEST(two_messages_in_one_write) {
        struct message two[2] = { m20, m20 };

        enter();
        two[1].num = 512;
        say(two, sizeof(two), NULL, 0);
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_HEADER);
                CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_MESSAGE);
                CHECK(!memcmp(c.in.payload, &two[i].index, 8));
                vhk_decoder_next(&c.in);
        }
        CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_AGAIN);
        leave();
}

TEST(descriptors_stay_with_their_message) {
        int fd = eventfd(0, EFD_CLOEXEC);

        enter();
        say(raw, 20, NULL, 0);
        say(raw, 20, &fd, 1);
        say(raw, 20, NULL, 0);
        for (int i = 0; i < 3; i++) {
                CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_HEADER);
                CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_MESSAGE);
                CHECK_EQ(c.in.n_fds, i == 1);
                CHECK(!c.in.surplus_fds);
                if (i == 1)
                        CHECK_EQ(fcntl(c.in.fds[0], F_GETFD), FD_CLOEXEC);
                vhk_decoder_next(&c.in);        /* closes it: the leak check sees to that */
        }
        close(fd);
        leave();
}

TEST(a_taken_descriptor_is_ours) {
        int fd = eventfd(7, EFD_CLOEXEC);
        uint64_t v;

        enter();
        say(raw, 20, &fd, 1);
        CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_HEADER);
        CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_MESSAGE);
        int got = VHK_STEAL_FD(c.in.fds[0]);
        vhk_decoder_next(&c.in);
        CHECK_EQ(read(got, &v, 8), 8);
        CHECK_EQ(v, 7);
        close(got);
        close(fd);
        leave();
}

TEST(descriptors_behind_the_first_byte_are_surplus) {
        for (size_t at = 1; at < sizeof(m20); at++) {
                int fd = eventfd(0, EFD_CLOEXEC);

                enter();
                say(raw, at, NULL, 0);
                int k = vhk_conn_receive(&c);           /* or the kernel would give both in one, which nobody can tell apart */
                CHECK_EQ(k, at < 12 ? VHK_CONN_AGAIN : VHK_CONN_HEADER);
                say(raw + at, sizeof(m20) - at, &fd, 1);
                while ((k = vhk_conn_receive(&c)) == VHK_CONN_HEADER)
                        ;
                CHECK_EQ(k, VHK_CONN_MESSAGE);
                CHECK_EQ(c.in.n_fds, 0);
                CHECK(c.in.surplus_fds);
                vhk_decoder_next(&c.in);
                CHECK(!c.in.surplus_fds);
                close(fd);
                leave();
        }
}

TEST(two_hundred_and_fifty_three_descriptors_are_closed) {
        int fds[253], fd = eventfd(0, EFD_CLOEXEC);

        for (int i = 0; i < 253; i++)
                fds[i] = fd;
        enter();
        for (unsigned n = 33; n <= 253; n += 220) {
                say(raw, 20, fds, n);
                CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_HEADER);
                CHECK(c.in.surplus_fds);
                CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_MESSAGE);
                vhk_decoder_next(&c.in);
        }
        close(fd);
        leave();
}

TEST(a_full_descriptor_table_is_noticed) {
        struct rlimit old, tight;

        if (getenv("VHK_TEST_NO_LEAK_CHECK"))
                SKIP("cannot: valgrind keeps the limit to itself");
        int fds[8], fd = eventfd(0, EFD_CLOEXEC);

        for (int i = 0; i < 8; i++)
                fds[i] = fd;
        enter();
        say(raw, 20, fds, 8);
        CHECK_OK(getrlimit(RLIMIT_NOFILE, &old));
        tight = old;
        int top = VHK_MAX(peer, fd);
        tight.rlim_cur = (rlim_t)VHK_MAX(top, c.fd) + 3;        /* room for two: the kernel reports MSG_CTRUNC */
        CHECK_OK(setrlimit(RLIMIT_NOFILE, &tight));
        int k = vhk_conn_receive(&c);
        CHECK_OK(setrlimit(RLIMIT_NOFILE, &old));
        CHECK_EQ(k, VHK_CONN_HEADER);
        CHECK(c.in.lost_fds && !c.in.surplus_fds);
        CHECK_EQ(vhk_decoder_n_fds(&c.in), VHK_FDS_LOST);
        CHECK_EQ(c.in.n_fds, 0);
        close(fd);
        leave();
}

TEST(a_message_that_is_too_long_is_not_read) {
        struct vhk_hdr h = { 8, 1, 0xffffffff };

        enter();
        say(&h, sizeof(h), NULL, 0);
        say(raw, 20, NULL, 0);
        CHECK_EQ(vhk_conn_receive(&c), VHK_CONN_HEADER);
        CHECK_EQ(vhk_conn_receive(&c), -EMSGSIZE);
        leave();
}

static void *slow_peer(void *arg) {
        for (size_t i = 0; i < sizeof(m20); i++) {
                usleep(500);
                send(peer, raw + i, 1, MSG_NOSIGNAL);
        }
        return NULL;
}

TEST(a_peer_that_pauses) {
        pthread_t t;
        int k;

        enter();
        CHECK_EQ(pthread_create(&t, NULL, slow_peer, NULL), 0);
        while ((k = vhk_conn_receive(&c)) == VHK_CONN_AGAIN || k == VHK_CONN_HEADER)
                usleep(100);
        CHECK_EQ(pthread_join(t, NULL), 0);
        CHECK_EQ(k, VHK_CONN_MESSAGE);
        check_m20();
        leave();
}

/* ---- sending ---- */

TEST(a_peer_that_does_not_read) {
        struct vhk_conn in;
        int s[2], size = 1, fd, sent = 0, k, got = 0;

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        CHECK_OK(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
        CHECK_OK(vhk_conn_init(&c, s[0]));
        CHECK_OK(vhk_conn_init(&in, s[1]));
        while (sent < 10000) {
                struct message m = m20;
                m.num = (uint32_t)sent;
                fd = eventfd((unsigned)sent, EFD_CLOEXEC);
                k = vhk_conn_send(&c, &m.h, &m.index, &fd, sent % 50 == 0);
                close(fd);
                if (k < 0)
                        break;
                sent++;
        }
        CHECK_EQ(k, -ENOBUFS);
        CHECK(vhk_conn_wants_out(&c));
        CHECK_EQ(vhk_conn_flush(&c), 0);
        CHECK(sent > 65536 / 20 - 1 && sent < 10000);
        while (got < sent) {
                k = vhk_conn_receive(&in);
                if (k == VHK_CONN_AGAIN)
                        CHECK_OK(vhk_conn_flush(&c));
                if (k != VHK_CONN_MESSAGE)
                        continue;
                uint64_t v = 0;
                uint32_t num;
                memcpy(&num, in.in.payload + 4, 4);
                CHECK_EQ(num, got);
                CHECK_EQ(in.in.n_fds, got % 50 == 0);
                if (in.in.n_fds && got)
                        CHECK_EQ(read(in.in.fds[0], &v, 8), 8);
                if (in.in.n_fds)
                        CHECK_EQ(v, got);
                vhk_decoder_next(&in.in);
                got++;
        }
        CHECK_EQ(vhk_conn_flush(&c), 1);
        CHECK_EQ(c.out_bytes, 0);
        CHECK(!vhk_conn_wants_out(&c));
        vhk_conn_done(&in);
        peer = -1;
        leave();
}

TEST(a_large_message_goes_out_in_pieces) {
        static uint8_t big[2056], back[12 + 2056];
        struct vhk_hdr h = { 44, 5, sizeof(big) };
        int s[2], size = 1, n = 0;
        size_t have = 0;

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        CHECK_OK(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
        CHECK_OK(vhk_conn_init(&c, s[0]));
        peer = s[1];
        for (size_t i = 0; i < sizeof(big); i++)
                big[i] = (uint8_t)(i * 7);
        while (!vhk_conn_wants_out(&c)) {
                CHECK_OK(vhk_conn_send(&c, &h, big, NULL, 0));
                n++;
        }
        for (int i = 0; i < n; i++) {
                for (have = 0; have < sizeof(back);) {
                        ssize_t k = recv(peer, back + have, VHK_MIN(sizeof(back) - have, (size_t)100), MSG_DONTWAIT);
                        if (k < 0)
                                CHECK_OK(vhk_conn_flush(&c));
                        else
                                have += (size_t)k;
                }
                CHECK(!memcmp(back, &h, 12) && !memcmp(back + 12, big, sizeof(big)));
        }
        leave();
}

TEST(a_peer_that_has_gone_raises_no_signal) {
        enter();
        close(peer);
        peer = -1;
        CHECK_EQ(vhk_conn_send(&c, &m20.h, &m20.index, NULL, 0), -EPIPE);
        leave();
}

TEST(what_waits_is_freed_with_the_connection) {
        int fd = eventfd(0, EFD_CLOEXEC), k;

        enter();
        while ((k = vhk_conn_send(&c, &m20.h, &m20.index, &fd, 1)) == 0 && !vhk_conn_wants_out(&c))
                ;
        CHECK_OK(vhk_conn_send(&c, &m20.h, &m20.index, &fd, 1));
        close(fd);
        leave();
}
