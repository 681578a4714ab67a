/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The rows about messages: headers, sizes, descriptors, order, features, ring parameters, configuration, status. */
#include <sys/epoll.h>

#include "hostile.h"

static struct vhk_sample sample;

/* A valid message of @row in @sample, in the form that is legal now. */
static bool make(const struct vhk_row *row) {
        for (unsigned v = 0; v < vhk_n_variants; v++)
                if (vhk_sample_make(&sample, row, &vhk_variants[v], vhk_variants[v].each ? 1 : 0) &&
                    vhk_payload_has_size(row->request, all_protocol(), sample.hdr.size))
                        return true;
        return false;
}

#define FOR_EACH_ROW(row)                                                                                               \
        for (const struct vhk_row *row = vhk_rows; row < vhk_rows + vhk_n_rows; row++)                                  \
                if (row->dir == VHK_FROM_FRONTEND && row->phase == VHK_PHASE_NORMAL && make(row))

ROW(H01, "header version 0/2/3, unknown flags, REPLY on a request; every id", "E") {
        static const uint32_t flags[] = { 0, 2, 3, 5, 13, 1 | 16, 1 | 0x80000000u, 9 | 0x100, 0xffffffffu };

        FOR_EACH_ROW(row)
                for (unsigned i = 0; i < VHK_N(flags); i++) {
                        leave();
                        fe_connect(fe);
                        enum result r = send_and_see(row->id, flags[i], sample.u.bytes, sample.hdr.size, sample.hdr.size, &fe->memfd, sample.n_fds);
                        CHECK_MSG(r == CLOSED || (i > 4 && (r == NO || row->id == VHK_FE_SET_CONFIG)), "%s with flags 0x%x: %s", row->name, flags[i], result_names[r]);
                }
}

ROW(H02, "request id 0, 46, 0xffffffff, with and without NEED_REPLY", "E") {
        static const uint32_t ids[] = { 0, VHK_FE_LAST + 1, 100, 255, 256, 0x10001, 0x7fffffff, 0xffffffff };

        come();
        for (unsigned i = 0; i < VHK_N(ids); i++) {
                CHECK_EQ(send_and_see(ids[i], 9, NULL, 0, 0, NULL, 0), NO);
                CHECK_EQ(send_and_see(ids[i], 9, "payload", 7, 7, &fe->memfd, 1), NO);
                CHECK_EQ(send_and_see(ids[i], 1, NULL, 0, 0, NULL, 0), IGNORED);
        }
        expect_alive();
}

ROW(H03, "payload size 0, size-1, size+1, 4096, 0xffffffff for every id", "E") {
        come();
        FOR_EACH_ROW(row) {
                uint32_t n = sample.hdr.size, sizes[] = { 0, n - 1, n + 1, 4096, 0xffffffff, 0x80000000 };
                for (unsigned i = 0; i < VHK_N(sizes); i++) {
                        if (vhk_payload_has_size(row->request, all_protocol(), sizes[i]) && !(row->request == VHK_P_MEM_REGIONS && sizes[i] != n) &&
                            row->request != VHK_P_CONFIG)
                                continue;
                        if (n == 0 && sizes[i] == 0xffffffff && i == 1)
                                continue;
                        uint32_t there = VHK_MIN(sizes[i], 4096u);
                        make(row);
                        enum result r = send_and_see(row->id, 9, sample.u.bytes, sizes[i], there, &fe->memfd, sample.n_fds);
                        CHECK_MSG(r == NO || r == CLOSED, "%s with %u bytes: %s", row->name, sizes[i], result_names[r]);
                        if (r == CLOSED)
                                come();
                }
        }
}

ROW(H04, "header in 1-byte writes, pause in header and payload, EOF at each offset", "E") {
        struct { struct vhk_hdr h; struct vhk_p_vring_state p; } m = { { VHK_FE_SET_VRING_NUM, 9, 8 }, { 0, 16 } };

        come();
        for (unsigned i = 0; i < sizeof(m); i++) {
                CHECK_EQ(send(fe->fe.fd, (char *)&m + i, 1, MSG_NOSIGNAL), 1);
                usleep(100);
                if (i == 5 || i == 15)
                        expect_quiet("in the middle of a message", 12);
        }
        uint64_t x = 1;
        CHECK_EQ(fe_receive(fe, VHK_FE_SET_VRING_NUM, &x, 8), 8);
        CHECK_EQ(x, 0);
        for (unsigned cut = 1; cut < sizeof(m); cut++) {
                come();
                CHECK_EQ(send(fe->fe.fd, &m, cut, MSG_NOSIGNAL), cut);
                unsigned n = vhk_load_relaxed(&fe->n_disconnected);
                leave();
                PUMP_UNTIL(fe, vhk_load_relaxed(&fe->n_disconnected) > n);
        }
        come();
        CHECK_EQ(send(fe->fe.fd, &m, 6, MSG_NOSIGNAL), 6);      /* half closed: the rest will not come */
        CHECK_EQ(shutdown(fe->fe.fd, SHUT_WR), 0);
        CHECK_EQ(fe_receive(fe, VHK_FE_SET_VRING_NUM, &x, 8), -EPIPE);
}

ROW(H05, "descriptors where none are expected, 2 to 253 of them, on the 2nd segment", "E") {
        static const unsigned counts[] = { 1, 2, 8, 9, 32 };
        int fds[253];

        for (unsigned i = 0; i < VHK_N(fds); i++)
                fds[i] = fe->memfd;
        come();
        FOR_EACH_ROW(row)
                for (unsigned i = 0; i < VHK_N(counts); i++) {
                        make(row);
                        unsigned most = row->fds == VHK_FDS_OPTIONAL ? 1 : sample.n_fds;
                        if (counts[i] <= most)
                                continue;
                        enum result r = send_and_see(row->id, 9, sample.u.bytes, sample.hdr.size, sample.hdr.size, fds, counts[i]);
                        CHECK_MSG(r == NO || r == CLOSED, "%s with %u descriptors: %s", row->name, counts[i], result_names[r]);
                        if (r == CLOSED)
                                come();
                }
        REFUSED(send_and_see(VHK_FE_GET_FEATURES, 9, NULL, 0, 0, fds, 253), 253);
        REFUSED(send_and_see(VHK_FE_SET_OWNER, 9, NULL, 0, 0, fds, 253), 253);
        /* with a later byte of the header */
        struct { struct vhk_hdr h; uint64_t x; } m = { { VHK_FE_SET_VRING_CALL, 9, 8 }, 0 };
        union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } c = { .h = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
        struct iovec v = { (char *)&m + 4, 16 };
        memcpy(CMSG_DATA(&c.h), &fe->memfd, sizeof(int));
        CHECK_EQ(send(fe->fe.fd, &m, 4, MSG_NOSIGNAL), 4);
        usleep(2000);
        CHECK_EQ(sendmsg(fe->fe.fd, &(struct msghdr){ .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) }, MSG_NOSIGNAL), 16);
        uint64_t x = 0;
        int k = fe_receive(fe, VHK_FE_SET_VRING_CALL, &x, 8);
        CHECK(k < 0 || x != 0);
}

/* What a peer may send for a descriptor that was expected. */
static int make_fd(unsigned kind, int *ret_other) {
        int pair[2];

        *ret_other = -1;
        switch (kind) {
        case 0:
        case 1:
                CHECK_EQ(pipe2(pair, O_CLOEXEC), 0);
                *ret_other = pair[!kind];
                return pair[kind];
        case 2: return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        case 3: return open("/dev/null", O_RDWR | O_CLOEXEC);
        case 4: return open("/tmp", O_PATH | O_CLOEXEC);
        case 5:
                CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                *ret_other = pair[0];
                return pair[1];
        case 6: return open(disk_path, O_RDONLY | O_CLOEXEC);
        case 7: return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        case 8: return eventfd(0, EFD_CLOEXEC);
        case 9: return epoll_create1(EPOLL_CLOEXEC);
        case 10: return memfd_create("small", MFD_CLOEXEC);
        }
        return -1;
}
#define N_KINDS 11u

ROW(H06, "expected descriptor missing, or a pipe, directory, O_PATH, socket, blocking eventfd ...", "E") {
        come_with_memory();
        FOR_EACH_ROW(row)
                if (sample.n_fds) {
                        REFUSED(say(row->id, sample.u.bytes, sample.hdr.size, -1), row->id);
                        for (unsigned kind = 0; kind < N_KINDS; kind++) {
                                int other, fd = make_fd(kind, &other);
                                make(row);
                                enum result r = say(row->id, sample.u.bytes, sample.hdr.size, fd);
                                bool is_memory = row->request == VHK_P_MEM_REGIONS || row->request == VHK_P_MEM_REGION_SINGLE || row->request == VHK_P_INFLIGHT;
                                CHECK_MSG(r == OK || r == NO || r == REPLY || r == CLOSED, "%s with descriptor %u: %s", row->name, kind, result_names[r]);
                                /* memory in something that is none */
                                CHECK_MSG(!is_memory || r == NO || r == CLOSED, "%s with descriptor %u: %s", row->name, kind, result_names[r]);
                                if (r == CLOSED)
                                        come_with_memory();
                                close(fd);
                                vhk_close(&other);
                        }
                }
        /* a ring whose call descriptor is a full, blocking eventfd; and one whose reader has gone */
        for (unsigned kind = 0; kind < 2; kind++) {
                int other, fd = kind ? make_fd(1, &other) : eventfd(0, EFD_CLOEXEC);
                come_with_ring();
                if (kind)
                        vhk_close(&other);
                else
                        CHECK_EQ(write(fd, &(uint64_t){ 0xfffffffffffffffe }, 8), 8);
                CHECK_EQ(fe_ask_fd(fe, VHK_FE_SET_VRING_CALL, 0, fd), 0);
                for (unsigned i = 0; i < 50; i++)
                        read_sector(0, i);
                close(fd);
        }
}

ROW(H07, "every message before SET_OWNER, before SET_FEATURES, without negotiation", "E") {
        for (unsigned owner = 0; owner < 2; owner++)
                FOR_EACH_ROW(row) {
                        leave();
                        fe_connect(fe);
                        if (owner)
                                fe_send(fe, VHK_FE_SET_OWNER, 0, NULL, 0, NULL, 0);
                        enum result r = say(row->id, sample.u.bytes, sample.hdr.size, sample.n_fds ? fe->memfd : -1);
                        bool gated = row->gate.protocol || row->gate.virtio;
                        CHECK_MSG(!gated || r == NO || r == CLOSED || r == IGNORED, "%s, not negotiated: %s", row->name, result_names[r]);
                        if (r != CLOSED)
                                expect_alive();
                }
}

ROW(H08, "SET_FEATURES with bits not offered, while rings run, without bit 30, toggling VERSION_1", "E") {
        come_with_ring();
        for (unsigned bit = 0; bit < 64; bit++) {
                if ((offered & VHK_BIT(bit)) || bit == VHK_F_INDIRECT_DESC || bit == VHK_F_EVENT_IDX || bit == VHK_F_RING_RESET)
                        continue;
                CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, FEATURES | VHK_BIT(bit), -1), NO);
        }
        for (unsigned i = 0; i < 20; i++) {
                CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, i & 1 ? FEATURES : FEATURES & ~VHK_BIT(VHK_F_VERSION_1), -1), OK);
                read_sector(0, i);
        }
        CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, FEATURES & ~VHK_BIT(VHK_F_PROTOCOL_FEATURES), -1), OK);
        read_sector(0, 1);
        CHECK_EQ(say_u64(VHK_FE_SET_FEATURES, FEATURES, -1), OK);
        read_sector(0, 2);
}

ROW(H09, "SET_PROTOCOL_FEATURES with bits not offered, INBAND without 3/5, another set while running", "E") {
        come();
        for (unsigned bit = 0; bit < 64; bit++)
                if (!(offered_protocol & VHK_BIT(bit)))
                        REFUSED(say_u64(VHK_FE_SET_PROTOCOL_FEATURES, PROTOCOL | VHK_BIT(bit), -1), bit);
        REFUSED(say_u64(VHK_FE_SET_PROTOCOL_FEATURES, VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS) | VHK_BIT(VHK_PF_REPLY_ACK), -1), 14);
        come_with_ring();
        CHECK_EQ(say_u64(VHK_FE_SET_PROTOCOL_FEATURES, all_protocol(), -1), OK);        /* the same once more */
        REFUSED(say_u64(VHK_FE_SET_PROTOCOL_FEATURES, all_protocol() & ~VHK_BIT(VHK_PF_STATUS), -1), 16);
}

ROW(H10, "ring index max, 255, 256, 0xffff, 0x10000, 0xffffffff in every message that has one", "E") {
        static const uint32_t bad[] = { N_RINGS, 255, 256, 0xffff, 0x10000, 0x10000 + 1, 0x80000000, 0xffffffff };

        come_with_memory();
        FOR_EACH_ROW(row) {
                if (row->scope != VHK_SCOPE_RING && row->scope != VHK_SCOPE_RING_BYTE)
                        continue;
                for (unsigned i = 0; i < VHK_N(bad); i++) {
                        make(row);
                        memcpy(sample.u.bytes, &bad[i], 4);
                        bool no_fd = row->scope == VHK_SCOPE_RING_BYTE && (bad[i] & VHK_RING_NO_FD);
                        if (row->scope == VHK_SCOPE_RING_BYTE && bad[i] == 256)
                                continue;       /* ring 0 without a descriptor */
                        REFUSED(say(row->id, sample.u.bytes, sample.hdr.size, sample.n_fds && !no_fd ? fe->rings[0].kick >= 0 ? fe->rings[0].kick : fe->memfd : -1), bad[i]);
                }
        }
}

ROW(H11, "KICK/CALL/ERR with bit 8 and a descriptor, without both, with high bits", "E") {
        static const uint32_t ids[] = { VHK_FE_SET_VRING_KICK, VHK_FE_SET_VRING_CALL, VHK_FE_SET_VRING_ERR };
        VHK_AUTOCLOSE int fd = eventfd(0, EFD_CLOEXEC);

        come();
        for (unsigned i = 0; i < VHK_N(ids); i++) {
                REFUSED(say_u64(ids[i], VHK_RING_NO_FD, fd), ids[i]);
                REFUSED(say_u64(ids[i], 0, -1), ids[i]);
                for (unsigned bit = 9; bit < 64; bit++)
                        REFUSED(say_u64(ids[i], VHK_BIT(bit), fd), bit);
        }
}

ROW(H12, "ring size 0, no power of two, 32769, 65536, above the largest served, repeated 10^5 times", "E") {
        static const uint32_t bad[] = { 0, 3, 5, 6, 7, 100, 2 * RING_SIZE_LARGE, 32767, 32768, 32769, 65535, 65536, 0x80000000, 0xffffffff };
        uint8_t raw[20 * 500];

        come();
        for (unsigned i = 0; i < VHK_N(bad); i++)
                REFUSED(say_ring(VHK_FE_SET_VRING_NUM, 0, bad[i]), bad[i]);
        for (uint32_t n = 1; n <= RING_SIZE_LARGE; n *= 2)
                CHECK_EQ(say_ring(VHK_FE_SET_VRING_NUM, 0, n), OK);
        for (unsigned k = 0; k < 500; k++) {
                struct vhk_hdr h = { VHK_FE_SET_VRING_NUM, 1, 8 };
                struct vhk_p_vring_state p = { k % N_RINGS, 1u << k % 8 };
                memcpy(raw + 20 * k, &h, 12);
                memcpy(raw + 20 * k + 12, &p, 8);
        }
        for (unsigned k = 0; k < 200; k++) {
                size_t at = 0;
                uint64_t until = now_ns() + 10000000000u;
                while (at < sizeof(raw)) {
                        ssize_t n = send(fe->fe.fd, raw + at, sizeof(raw) - at, MSG_NOSIGNAL | MSG_DONTWAIT);
                        CHECK(n > 0 || (errno == EAGAIN && now_ns() < until));
                        at += n > 0 ? (size_t)n : 0;
                        if (n <= 0)
                                usleep(100);
                }
        }
        expect_alive();
}

ROW(H15, "BASE with reserved bits, at any distance from the driver's index", "E/Q") {
        static const uint32_t bases[] = { 1, 5, 15, 16, 17, 255, 0x7fff, 0x8000, 0xffef, 0xfff0, 0xfff1, 0xffff };

        for (unsigned i = 0; i < VHK_N(bases); i++) {
                come_with_memory();
                REFUSED(say_ring(VHK_FE_SET_VRING_BASE, 0, bases[i] | 0x10000u << i % 16), bases[i]);
                come_with_memory();
                ring_make(fe, 0);
                ring_set_up(fe, 0, (uint16_t)bases[i]);
                ring_go(fe, 0);
                if ((uint16_t)(0 - bases[i]) > RING_SIZE)
                        PUMP_UNTIL(fe, is_broken(0));   /* the available index went back */
                expect_alive();
                int base = ring_stop(fe, 0);
                CHECK(base >= 0 && base <= 0xffff);
        }
}

ROW(H17, "KICK twice, GET_VRING_BASE on a stopped ring, KICK before ADDR or NUM, ENABLE 2", "E/I") {
        VHK_AUTOCLOSE int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        come_with_memory();
        REFUSED(say_u64(VHK_FE_SET_VRING_KICK, 0, fd), 0);
        come_with_memory();
        CHECK_EQ(say_ring(VHK_FE_SET_VRING_NUM, 0, 16), OK);
        REFUSED(say_u64(VHK_FE_SET_VRING_KICK, 0, fd), 0);
        come_with_ring();
        for (unsigned i = 0; i < 10; i++) {
                CHECK_EQ(say_u64(VHK_FE_SET_VRING_KICK, 0, fe->rings[0].kick), OK);
                read_sector(0, i);
        }
        for (uint32_t x = 2; x; x *= 2)
                REFUSED(say_ring(VHK_FE_SET_VRING_ENABLE, 0, x), x);
        come_with_ring();
        for (unsigned i = 0; i < 3; i++)
                CHECK_EQ(ring_stop(fe, 0), 0);
}

ROW(H28, "CONFIG: offset+size overflow, >256, size not the payload's, size 0, flags 2, read-only fields", "E") {
        static const struct { uint32_t offset, len, payload; } bad[] = {
                { 0xffffffff, 1, 1 }, { 0xfffffff0, 0x20, 32 }, { 0, 257, 257 }, { 256, 1, 1 }, { 255, 2, 2 }, { 0, 0, 0 }, { 0, 8, 4 }, { 0, 4, 8 },
                { 0, 0xffffffff, 8 }, { 0x80000000, 8, 8 },
        };
        struct vhk_p_config p, *longer = &sample.u.p.config;

        come();
        memset(&sample, 0, sizeof(sample));
        for (unsigned i = 0; i < VHK_N(bad); i++)
                for (uint32_t id = VHK_FE_GET_CONFIG; id <= VHK_FE_SET_CONFIG; id++) {
                        longer->offset = bad[i].offset;
                        longer->len = bad[i].len;
                        REFUSED(send_and_see(id, 9, longer, 12 + bad[i].payload, 12 + bad[i].payload, NULL, 0), i);
                }
        for (uint32_t flags = 2; flags; flags *= 2) {
                p = (struct vhk_p_config){ .len = 8, .flags = flags };
                REFUSED(say(VHK_FE_SET_CONFIG, &p, 20, -1), flags);
        }
        p = (struct vhk_p_config){ .len = 8, .flags = 1 };      /* Cloud Hypervisor's GET_CONFIG */
        CHECK_EQ(say(VHK_FE_GET_CONFIG, &p, 20, -1), REPLY);
        p.flags = 0;
        REFUSED(say(VHK_FE_SET_CONFIG, &p, 20, -1), 0);         /* the capacity is read-only */
}

/* ---- to the device of every class ---- */

#define CLASS_PROTOCOL                                                                                                  \
        (PROTOCOL | VHK_BIT(VHK_PF_RARP) | VHK_BIT(VHK_PF_NET_MTU) | VHK_BIT(VHK_PF_CRYPTO_SESSION) | VHK_BIT(VHK_PF_CROSS_ENDIAN))

static void come_to_class(uint64_t features, uint64_t protocol) {
        leave();
        fe = class_fe;
        fe_connect(fe);
        fe_negotiate(fe, features, protocol);
}

/* ... with ring 0, which does its work. */
static void class_works(void) {
        if (!fe->rings[0].drv) {
                CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
                ring_make(fe, 0);
                ring_set_up(fe, 0, 0);
                ring_go(fe, 0);
        }
        for (unsigned i = 0; i < 10; i++) {
                ring_add(fe, 0);
                PUMP_UNTIL(fe, ring_is_idle(fe, 0));
        }
}

void warm_up_class(void) {
        struct rig *was = fe;

        come_to_class(FEATURES, CLASS_PROTOCOL);
        class_works();
        leave();
        fe = was;
}

/* The session's number; -EPIPE: the connection was closed. */
static int64_t create_session(const void *session, uint32_t size) {
        uint8_t reply[1072];
        int64_t id;

        fe_send(fe, VHK_FE_CREATE_CRYPTO_SESSION, 0, session, size, NULL, 0);
        int k = fe_receive(fe, VHK_FE_CREATE_CRYPTO_SESSION, reply, sizeof(reply));
        if (k < 0)
                return k;
        CHECK_EQ(k, size);
        memcpy(&id, reply + (size == 632 ? 0 : 1064), sizeof(id));
        for (uint32_t i = 0; i < size; i++)             /* no key comes back */
                CHECK_MSG(!reply[i] || (size == 632 ? i < 8 : i >= 1064), "byte %u of the answer to a session", i);
        return id;
}

/* One length in a session of zeroes; @op tells which fields count. */
static int64_t create_with(uint32_t size, uint32_t op, uint32_t at, uint32_t len) {
        uint8_t s[1072] = { 0 };

        memcpy(s + (size == 632 ? 8 : 0), &op, 4);
        memcpy(s + at, &len, 4);
        return create_session(s, size);
}

static void crypto_lengths(void) {
        static const struct { uint32_t size, op, at, max; } fields[] = {
                { 632, 2, 16, 64 }, { 632, 2, 28, 512 }, { 1072, 2, 12, 64 }, { 1072, 2, 24, 512 }, { 1072, 0x404, 16, 1024 },
        };

        for (unsigned i = 0; i < VHK_N(fields); i++) {
                uint32_t max = fields[i].max, lengths[] = { 0, 1, max - 1, max, max + 1, 2 * max, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff - max, 0xffffffff };
                for (unsigned k = 0; k < VHK_N(lengths); k++) {
                        unsigned n = class_seen.n_sessions;
                        int64_t id = create_with(fields[i].size, fields[i].op, fields[i].at, lengths[k]);
                        CHECK_MSG(lengths[k] <= max ? id >= 0 : id == -EINVAL && class_seen.n_sessions == n, "field %u, length 0x%x: session %lld", i,
                                  lengths[k], (long long)id);
                        if (id >= 0)
                                CHECK_EQ(say_u64(VHK_FE_CLOSE_CRYPTO_SESSION, (uint64_t)id, -1), OK);
                }
        }
        CHECK_EQ(class_seen.n_open, 0);
}

/* Anything of the right size. */
static void crypto_garbage(void) {
        uint8_t s[1072];
        uint32_t x = 31;

        for (unsigned i = 0; i < 2000; i++) {
                for (unsigned k = 0; k < sizeof(s); k++)
                        s[k] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
                if (i % 3)              /* the lengths within reach now and then */
                        for (unsigned k = 12; k < 32; k += 4)
                                memset(s + k + 1, 0, 3);
                int64_t id = create_session(s, i & 1 ? 632 : 1072);
                CHECK_MSG(id == -EINVAL || id == -ENOSPC || (id >= 0 && id < CLASS_SESSIONS), "session %lld", (long long)id);
        }
}

ROW(H31, "crypto session: lengths and sizes, garbage, too many, numbers that are none", "E") {
        static const uint32_t ids[] = { VHK_FE_CREATE_CRYPTO_SESSION, VHK_FE_CLOSE_CRYPTO_SESSION };
        static const uint64_t unknown[] = { 0, 1, CLASS_SESSIONS, 0x7fffffffffffffff, 0x8000000000000000, ~0ull };
        static uint8_t zeroes[1200];

        CHECK(!is_offered(VHK_PF_CRYPTO_SESSION, "CRYPTO_SESSION", ids, VHK_N(ids)));
        come_to_class(FEATURES, CLASS_PROTOCOL & ~VHK_BIT(VHK_PF_CRYPTO_SESSION));      /* offered, and not taken */
        for (unsigned i = 0; i < 2; i++)
                CHECK_EQ(say(ids[i], zeroes, i ? 8 : 1072, -1), NO);
        for (unsigned n = 0; n <= 1200; n += n > 620 && n < 645 ? 1 : n > 1060 && n < 1085 ? 1 : 7) {
                come_to_class(FEATURES, CLASS_PROTOCOL);
                enum result r = say(VHK_FE_CREATE_CRYPTO_SESSION, zeroes, n, -1);
                CHECK_MSG(n == 632 || n == 1072 ? r == REPLY : r == NO || r == CLOSED, "a session of %u bytes: %s", n, result_names[r]);
        }
        come_to_class(FEATURES, CLASS_PROTOCOL);
        crypto_lengths();
        for (unsigned i = 0; i < VHK_N(unknown); i++)
                CHECK_EQ(say_u64(VHK_FE_CLOSE_CRYPTO_SESSION, unknown[i], -1), NO);
        for (unsigned i = 0; i < 10000; i++)
                CHECK_EQ(create_session(zeroes, i & 1 ? 632 : 1072), i < CLASS_SESSIONS ? (int)i : -ENOSPC);
        for (unsigned i = 0; i < CLASS_SESSIONS; i++) {
                CHECK_EQ(say_u64(VHK_FE_CLOSE_CRYPTO_SESSION, i, -1), OK);
                CHECK_EQ(say_u64(VHK_FE_CLOSE_CRYPTO_SESSION, i, -1), NO);
        }
        crypto_garbage();
        class_works();
        snprintf(verdict, sizeof(verdict), "refused by a disk; by a device that has sessions what does not fit");
}

/* Is that an address that a card may have? */
static bool is_mac(uint64_t word) {
        uint8_t mac[8];

        memcpy(mac, &word, sizeof(mac));
        return !(mac[0] & 1) && (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

static void rarp(uint64_t word) {
        unsigned n = class_seen.n_rarp;

        CHECK_EQ(say_u64(VHK_FE_SEND_RARP, word, -1), is_mac(word) ? OK : NO);
        CHECK_EQ(class_seen.n_rarp, n + is_mac(word));
}

static void mtu(uint64_t word) {
        unsigned n = class_seen.n_mtu;
        bool good = word >= 68 && word <= 65535;

        CHECK_EQ(say_u64(VHK_FE_NET_SET_MTU, word, -1), good ? OK : NO);
        CHECK(class_seen.n_mtu == n + good && (!good || class_seen.mtu == word));
}

ROW(H32, "SEND_RARP and NET_SET_MTU with garbage", "E/I") {
        static const uint32_t ids[] = { VHK_FE_SEND_RARP, VHK_FE_NET_SET_MTU };
        static const uint8_t zeroes[64];
        uint64_t x = 32;

        CHECK(!is_offered(VHK_PF_RARP, "RARP", &ids[0], 1));
        CHECK(!is_offered(VHK_PF_NET_MTU, "MTU", &ids[1], 1));
        come_to_class(FEATURES, PROTOCOL);                      /* offered, and not taken */
        for (unsigned i = 0; i < 2; i++)
                CHECK_EQ(say_u64(ids[i], 1500, -1), NO);
        come_to_class(FEATURES | VHK_BIT(VHK_F_NET_MTU), CLASS_PROTOCOL);
        for (unsigned bit = 0; bit < 64; bit++) {
                rarp(VHK_BIT(bit));
                rarp(~VHK_BIT(bit));
                mtu(VHK_BIT(bit));
                mtu(VHK_BIT(bit) | 1500);
        }
        for (unsigned i = 0; i < 5000; i++) {
                if (i % 100 == 0)                               /* H74: after some hundred refusals a connection is closed */
                        come_to_class(FEATURES | VHK_BIT(VHK_F_NET_MTU), CLASS_PROTOCOL);
                x = x * 6364136223846793005u + 1442695040888963407u;
                rarp(x);
                mtu(x);
                mtu(x >> 48);
        }
        come_to_class(FEATURES | VHK_BIT(VHK_F_NET_MTU), CLASS_PROTOCOL);
        for (unsigned i = 0; i < 100; i++)
                mtu(i);
        for (unsigned i = 0; i < 2; i++) {
                for (uint32_t n = 0; n <= sizeof(zeroes); n++)
                        if (n != 8) {
                                enum result r = say(ids[i], zeroes, n, -1);
                                CHECK_MSG(r == NO || r == CLOSED, "message %u with %u bytes: %s", ids[i], n, result_names[r]);
                                if (r == CLOSED)
                                        come_to_class(FEATURES | VHK_BIT(VHK_F_NET_MTU), CLASS_PROTOCOL);
                        }
                CHECK_EQ(say_u64(ids[i], 1500, fe->memfd), NO);         /* with a descriptor */
        }
        class_works();
        snprintf(verdict, sizeof(verdict), "refused by a disk; by a card what means nothing");
}

static void come_for_postcopy(void) {
        leave();
        fe_connect(fe);
        uint64_t there = fe_get(fe, VHK_FE_GET_PROTOCOL_FEATURES);
        fe_negotiate(fe, FEATURES, ((PROTOCOL & ~VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS)) | VHK_BIT(VHK_PF_PAGEFAULT)) & there);
}

/* On the back-end that offers postcopy, without it. */
static void honest_session(void) {
        struct vhk_p_mem_regions m = { .n_regions = 1, .regions = { region(fe, 0, MEM_BYTES) } };

        come_for_postcopy();
        CHECK_EQ(say(VHK_FE_SET_MEM_TABLE, &m, 40, fe->memfd), OK);
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
        read_sector(0, 3);
}

void warm_up_postcopy(void) {
        struct rig *was = fe;

        leave();
        fe = postcopy_fe;
        honest_session();
        leave();
        fe = was;
}

/* Without the probe behind it, which is no acknowledgement of a table: waits a moment for whatever comes. */
static enum result say_postcopy(uint32_t id, const void *payload, uint32_t size, int fd) {
        fe_send(fe, id, VHK_HDR_NEED_REPLY, payload, size, &fd, fd >= 0);
        for (uint64_t until = now_ns() + 20000000u; now_ns() < until; turn(fe, 1)) {
                int k = vhk_conn_receive(&fe->fe);
                if (k == VHK_CONN_MESSAGE) {
                        vhk_decoder_next(&fe->fe.in);
                        return REPLY;
                }
                if (k == VHK_CONN_EOF || k == VHK_CONN_CUT)
                        return CLOSED;
                CHECK_OK(k);
        }
        return IGNORED;
}

ROW(H33, "postcopy out of order: LISTEN without ADVISE, END twice, with slots, no acknowledgement", "E") {
        static const uint32_t ids[] = { VHK_FE_POSTCOPY_ADVISE, VHK_FE_POSTCOPY_LISTEN, VHK_FE_POSTCOPY_END };

        (void)is_offered(VHK_PF_PAGEFAULT, "PAGEFAULT", ids, VHK_N(ids));
        come_with_ring();
        for (unsigned n = 0; n < 3; n++)
                for (unsigned i = 0; i < VHK_N(ids); i++) {
                        enum result r = say(ids[(i + n) % VHK_N(ids)], NULL, 0, -1);
                        CHECK_MSG(r == NO || r == CLOSED, "message %u with slots: %s", ids[(i + n) % VHK_N(ids)], result_names[r]);
                        if (r == CLOSED)
                                come_with_ring();
                }
        read_sector(0, 3);
        leave();
        fe = postcopy_fe;
        come_for_postcopy();
        if (!(fe->protocol & VHK_BIT(VHK_PF_PAGEFAULT)))
                return;
        snprintf(verdict, sizeof(verdict), "with slots refused; where offered, in all orders");
        CHECK_EQ(say(VHK_FE_POSTCOPY_LISTEN, NULL, 0, -1), NO);
        /* Every sequence of four of these; only that it lives is asked. */
        static const struct vhk_p_u64 ack[] = { { 0 }, { 1 } };
        struct vhk_p_mem_regions m = { .n_regions = 1, .regions = { region(fe, 0, MEM_BYTES) } };
        for (unsigned x = 0; x < 6 * 6 * 6 * 6; x++) {
                come_for_postcopy();
                enum result r = OK;
                for (unsigned k = 0, y = x; k < 4 && r != CLOSED; k++, y /= 6)
                        switch (y % 6) {
                        case 0: r = say_postcopy(VHK_FE_POSTCOPY_ADVISE, NULL, 0, -1); break;
                        case 1: r = say_postcopy(VHK_FE_POSTCOPY_LISTEN, NULL, 0, -1); break;
                        case 2: r = say_postcopy(VHK_FE_POSTCOPY_END, NULL, 0, -1); break;
                        case 3: r = say_postcopy(VHK_FE_SET_MEM_TABLE, &m, 40, fe->memfd); break;
                        case 4: r = say_postcopy(VHK_FE_SET_MEM_TABLE, &ack[x & 1], 8, -1); break;
                        case 5: r = say_postcopy(VHK_FE_SET_VRING_NUM, &(struct vhk_p_vring_state){ 0, 16 }, 8, -1); break;
                        }
        }
        honest_session();                       /* and an honest one after all that */
        CHECK_EQ(say(VHK_FE_POSTCOPY_LISTEN, NULL, 0, -1), NO);         /* memory is mapped */
}

ROW(H34, "STATUS values, regressions, after FAILED; RESET_DEVICE and RESET_OWNER with a running ring", "I") {
        come_with_ring();
        for (unsigned x = 0; x < 512; x++) {
                enum result r = say_u64(VHK_FE_SET_STATUS, x * 37 % 512, -1);
                CHECK(r == OK || r == NO);
                CHECK_EQ(say(VHK_FE_GET_STATUS, NULL, 0, -1), REPLY);
                if (x % 16 == 0)
                        read_sector(0, x);
        }
        for (unsigned i = 0; i < 10; i++) {
                CHECK_EQ(say(VHK_FE_RESET_OWNER, NULL, 0, -1), OK);
                read_sector(0, i);
        }
        for (unsigned i = 0; i < 20; i++) {
                ring_add(fe, 0);        /* no disk request: it gets an error, or dies with the reset */
                CHECK_EQ(say(VHK_FE_RESET_DEVICE, NULL, 0, -1), OK);
                ring_make(fe, 0);
                ring_set_up(fe, 0, 0);
                ring_go(fe, 0);
                read_sector(0, i);
        }
}

ROW(H60, "SET_VRING_ENDIAN 2; big-endian, of a legacy driver and of a modern one", "E") {
        static const uint32_t ids[] = { VHK_FE_SET_VRING_ENDIAN };

        CHECK(!is_offered(VHK_PF_CROSS_ENDIAN, "CROSS_ENDIAN", ids, 1));
        for (unsigned modern = 0; modern < 2; modern++) {
                uint64_t features = modern ? FEATURES : FEATURES & ~VHK_BIT(VHK_F_VERSION_1);
                come_to_class(features, PROTOCOL);              /* offered, and not taken */
                CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENDIAN, 0, 0), NO);
                come_to_class(features, CLASS_PROTOCOL);
                CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENDIAN, 0, 0), OK);
                CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENDIAN, 0, 1), NO);  /* it is told that its ring will not be served like that */
                for (uint32_t x = 2; x; x *= 2)
                        for (unsigned low = 0; low < 2; low++)
                                CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENDIAN, 0, x | low), NO);
                for (uint32_t i = N_RINGS; i; i *= 2)
                        CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENDIAN, i, 0), NO);
                class_works();                                  /* little-endian, as ever */
                for (uint32_t x = 0; x < 4; x++)                /* too late */
                        CHECK_EQ(say_ring(VHK_FE_SET_VRING_ENDIAN, 0, x), NO);
                class_works();
                /* who does not ask for an answer must not go on in the belief that it was heard */
                come_to_class(features, CLASS_PROTOCOL & ~VHK_BIT(VHK_PF_REPLY_ACK));
                CHECK_EQ(send_and_see(VHK_FE_SET_VRING_ENDIAN, 1, &(struct vhk_p_vring_state){ 0, 1 }, 8, 8, NULL, 0), CLOSED);
        }
        snprintf(verdict, sizeof(verdict), "refused by a disk; where CROSS_ENDIAN is offered, all but little-endian");
}
