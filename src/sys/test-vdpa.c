/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The management of vDPA devices against a scripted kernel: this program's own socket calls stand in front of libc's, keep what is asked
 * and answer what a test has put in line; paths of the vdpa bus are led to a directory of the test's. What the real kernel does
 * is seen in tests/lab.
 */
#include "base/test.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/vdpa.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <vhostkit/vdpa.h>

#include "sys/netlink.h"

#define FAMILY 0x1c             /* that "vdpa" has in this kernel */

/* ---- the kernel ---- */

struct datagram {
        size_t n;
        uint32_t pid;
        int error, flags;       /* recvmsg() fails with it; its msg_flags */
        VHK_ALIGNED(4) uint8_t bytes[4096];
};

static struct {
        struct datagram answers[32];
        unsigned n_answers, next;
        uint8_t asked[16][1024];
        size_t asked_n[16];
        unsigned n_asked;
        int socket_error, send_error;
} k;

int socket(int domain, int type, int protocol) {
        assert(domain == AF_NETLINK && type == (SOCK_RAW | SOCK_CLOEXEC) && protocol == NETLINK_GENERIC);
        if (k.socket_error) {
                errno = k.socket_error;
                return -1;
        }
        return eventfd(0, EFD_CLOEXEC);
}

int setsockopt(int fd, int level, int name, const void *p, socklen_t n) {
        return 0;
}

ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to, socklen_t to_len) {
        assert(k.n_asked < VHK_N(k.asked) && n <= sizeof(k.asked[0]));
        if (k.send_error) {
                errno = k.send_error;
                return -1;
        }
        memcpy(k.asked[k.n_asked], p, n);
        k.asked_n[k.n_asked++] = n;
        return (ssize_t)n;
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags) {
        if (k.next == k.n_answers) {
                errno = EAGAIN;
                return -1;
        }
        const struct datagram *d = &k.answers[k.next++];
        if (d->error) {
                errno = d->error;
                return -1;
        }
        ((struct sockaddr_nl *)m->msg_name)->nl_pid = d->pid;
        memcpy(m->msg_iov->iov_base, d->bytes, d->n);
        m->msg_flags = d->flags;
        return (ssize_t)d->n;
}

/* ---- answers ---- */

static struct datagram *datagram(void) {
        assert(k.n_answers < VHK_N(k.answers));
        return &k.answers[k.n_answers++];
}

static void put(struct datagram *d, const void *p, size_t n) {
        if (n)
                memcpy(d->bytes + d->n, p, n);
        d->n = NLMSG_ALIGN(d->n + n);
}

/* A message's header; its length is set by end(). Returns where it begins. */
static size_t begin(struct datagram *d, uint16_t type, uint16_t flags, uint32_t seq) {
        const struct nlmsghdr h = { .nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = seq };
        size_t at = d->n;

        put(d, &h, sizeof(h));
        return at;
}

static void end(struct datagram *d, size_t at) {
        ((struct nlmsghdr *)(void *)(d->bytes + at))->nlmsg_len = (uint32_t)(d->n - at);
}

static size_t begin_row(struct datagram *d, uint16_t family, uint8_t command, uint16_t flags, uint32_t seq) {
        const struct genlmsghdr g = { .cmd = command, .version = 1 };
        size_t at = begin(d, family, flags, seq);

        put(d, &g, sizeof(g));
        return at;
}

static void attribute(struct datagram *d, uint16_t type, const void *p, size_t n) {
        const struct nlattr a = { .nla_len = (uint16_t)(NLA_HDRLEN + n), .nla_type = type };

        put(d, &a, sizeof(a));
        put(d, p, n);
}

#define NUMBER(d, type, bits, v) attribute(d, type, &(const uint##bits##_t){ v }, bits / 8)
#define TEXT(d, type, s) attribute(d, type, s, strlen(s) + 1)

/* NLMSG_ERROR with the echo of a question of @echo bytes of payload, or without, and NLMSG_DONE; @words NULL: none */
static void answer_error(uint32_t seq, int error, size_t echo, bool is_capped, const char *words) {
        struct datagram *d = datagram();
        const int32_t e = error;
        const struct nlmsghdr asked = { .nlmsg_len = (uint32_t)(NLMSG_HDRLEN + echo), .nlmsg_seq = seq };
        static const uint8_t payload[256];
        size_t at = begin(d, NLMSG_ERROR, (is_capped ? NLM_F_CAPPED : 0) | (words ? NLM_F_ACK_TLVS : 0), seq);

        put(d, &e, sizeof(e));
        put(d, &asked, sizeof(asked));
        if (!is_capped)
                put(d, payload, echo);
        if (words) {
                NUMBER(d, NLMSGERR_ATTR_OFFS, 32, 20);
                TEXT(d, NLMSGERR_ATTR_MSG, words);
        }
        end(d, at);
}

static void add_done(struct datagram *d, uint32_t seq, int error, const char *words) {
        const int32_t e = error;
        size_t at = begin(d, NLMSG_DONE, NLM_F_MULTI | (words ? NLM_F_ACK_TLVS : 0), seq);

        put(d, &e, sizeof(e));
        if (words)
                TEXT(d, NLMSGERR_ATTR_MSG, words);
        end(d, at);
}

/* What GETFAMILY gets: the family, with more in it than is asked for, and the acknowledgement in a datagram of its own. */
static void answer_family(void) {
        struct datagram *d = datagram();
        size_t at = begin_row(d, GENL_ID_CTRL, CTRL_CMD_NEWFAMILY, 0, 1);

        TEXT(d, CTRL_ATTR_FAMILY_NAME, "vdpa");
        NUMBER(d, CTRL_ATTR_FAMILY_ID, 16, FAMILY);
        NUMBER(d, CTRL_ATTR_VERSION, 32, 1);
        attribute(d, CTRL_ATTR_OPS | NLA_F_NESTED, (uint8_t[40]){ 0xff }, 40);
        end(d, at);
        answer_error(1, 0, 0, true, NULL);
}

static void add_mgmt(struct datagram *d, uint32_t seq, uint16_t flags, const char *bus, const char *name) {
        size_t at = begin_row(d, FAMILY, VDPA_CMD_MGMTDEV_NEW, NLM_F_MULTI | flags, seq);

        if (bus)
                TEXT(d, VDPA_ATTR_MGMTDEV_BUS_NAME, bus);
        TEXT(d, VDPA_ATTR_MGMTDEV_DEV_NAME, name);
        attribute(d, VDPA_ATTR_PAD, NULL, 0);
        NUMBER(d, VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES, 64, 6);
        NUMBER(d, VDPA_ATTR_DEV_MGMTDEV_MAX_VQS, 32, 65);
        NUMBER(d, VDPA_ATTR_DEV_SUPPORTED_FEATURES, 64, 0x320010000000042);
        end(d, at);
}

static void add_device(struct datagram *d, const char *name) {
        size_t at = begin_row(d, FAMILY, VDPA_CMD_DEV_NEW, NLM_F_MULTI, 2);

        TEXT(d, VDPA_ATTR_MGMTDEV_DEV_NAME, "vdpasim_net");
        TEXT(d, VDPA_ATTR_DEV_NAME, name);
        NUMBER(d, VDPA_ATTR_DEV_ID, 32, 1);
        NUMBER(d, VDPA_ATTR_DEV_VENDOR_ID, 32, 0x1af4);
        NUMBER(d, VDPA_ATTR_DEV_MAX_VQS, 32, 3);
        NUMBER(d, VDPA_ATTR_DEV_MAX_VQ_SIZE, 16, 256);
        NUMBER(d, VDPA_ATTR_DEV_MIN_VQ_SIZE, 16, 1);
        end(d, at);
}

/* ---- the caller ---- */

static struct vhk_error e;
static struct vhk_vdpa_mgmt mgmt[8];
static struct vhk_vdpa_device devices[8];
static int n_rows, stop_at, stop_with;

static void reset(void) {
        memset(&k, 0, sizeof(k));
        memset(&e, 0, sizeof(e));
        n_rows = stop_with = 0;
        stop_at = 100;
}

static int keep_mgmt(void *arg, const struct vhk_vdpa_mgmt *m) {
        CHECK(arg == &k && n_rows < (int)VHK_N(mgmt));
        mgmt[n_rows++] = *m;
        return n_rows == stop_at ? stop_with : 0;
}

static int keep_device(void *arg, const struct vhk_vdpa_device *d) {
        CHECK(arg == &k && n_rows < (int)VHK_N(devices));
        devices[n_rows++] = *d;
        return 0;
}

static int list_mgmt(void) {
        return vhk_vdpa_list_mgmt(keep_mgmt, &k, &e);
}

#define ASKED(i, ...)                                                                   \
        do {                                                                            \
                static const uint8_t want_[] = { __VA_ARGS__ };                         \
                CHECK(k.n_asked > (i));                                                 \
                CHECK_EQ(k.asked_n[i], sizeof(want_));                                  \
                for (size_t j_ = 0; j_ < sizeof(want_); j_++)                           \
                        CHECK_MSG(k.asked[i][j_] == want_[j_], "byte %zu of question %d is 0x%02x, not 0x%02x", j_, i, k.asked[i][j_], want_[j_]); \
        } while (0)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* "vdpa", with an acknowledgement, to the controller */
#define ASKED_FAMILY() ASKED(0, 32, 0, 0, 0, 0x10, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 9, 0, 2, 0, 'v', 'd', 'p', 'a', 0, 0, 0, 0)

TEST(bytes_of_lists) {
        reset();
        answer_family();
        add_done(datagram(), 2, 0, NULL);
        CHECK_EQ(list_mgmt(), 0);
        CHECK_EQ(k.n_asked, 2);
        ASKED_FAMILY();
        ASKED(1, 20, 0, 0, 0, FAMILY, 0, 1, 3, 2, 0, 0, 0, 0, 0, 0, 0, VDPA_CMD_MGMTDEV_GET, 1, 0, 0);
        reset();
        answer_family();
        add_done(datagram(), 2, 0, NULL);
        CHECK_EQ(vhk_vdpa_list(keep_device, &k, &e), 0);
        ASKED_FAMILY();
        ASKED(1, 20, 0, 0, 0, FAMILY, 0, 1, 3, 2, 0, 0, 0, 0, 0, 0, 0, VDPA_CMD_DEV_GET, 1, 0, 0);
        CHECK_EQ(n_rows, 0);
}

TEST(bytes_of_add) {
        struct vhk_vdpa_add a = { .size = sizeof(a), .name = "net0", .mgmt_name = "sim" };

        reset();
        answer_family();
        answer_error(2, 0, 0, true, NULL);
        CHECK_OK(vhk_vdpa_add(&a, &e));
        CHECK_EQ(k.n_asked, 2);
        ASKED_FAMILY();
        ASKED(1, 40, 0, 0, 0, FAMILY, 0, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0, VDPA_CMD_DEV_NEW, 1, 0, 0,
              8, 0, VDPA_ATTR_MGMTDEV_DEV_NAME, 0, 's', 'i', 'm', 0, 9, 0, VDPA_ATTR_DEV_NAME, 0, 'n', 'e', 't', '0', 0, 0, 0, 0);
        a = (struct vhk_vdpa_add){ sizeof(a), "n", "pci", "0000:01:00.2", 1, { 0x52, 0x54, 0, 0x12, 0x34, 0x56 }, 9000, 2, 0x300000020 };
        reset();
        answer_family();
        answer_error(2, 0, 0, true, NULL);
        CHECK_OK(vhk_vdpa_add(&a, &e));
        ASKED(1, 96, 0, 0, 0, FAMILY, 0, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0, VDPA_CMD_DEV_NEW, 1, 0, 0,
              8, 0, VDPA_ATTR_MGMTDEV_BUS_NAME, 0, 'p', 'c', 'i', 0,
              17, 0, VDPA_ATTR_MGMTDEV_DEV_NAME, 0, '0', '0', '0', '0', ':', '0', '1', ':', '0', '0', '.', '2', 0, 0, 0, 0,
              6, 0, VDPA_ATTR_DEV_NAME, 0, 'n', 0, 0, 0,
              10, 0, VDPA_ATTR_DEV_NET_CFG_MACADDR, 0, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0,
              6, 0, VDPA_ATTR_DEV_NET_CFG_MTU, 0, 0x28, 0x23, 0, 0,
              6, 0, VDPA_ATTR_DEV_NET_CFG_MAX_VQP, 0, 2, 0, 0, 0,
              12, 0, VDPA_ATTR_DEV_FEATURES, 0, 0x20, 0, 0, 0, 3, 0, 0, 0);
}

TEST(bytes_of_del) {
        reset();
        answer_family();
        answer_error(2, 0, 0, true, NULL);
        CHECK_OK(vhk_vdpa_del("blk0", &e));
        ASKED_FAMILY();
        ASKED(1, 32, 0, 0, 0, FAMILY, 0, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0, VDPA_CMD_DEV_DEL, 1, 0, 0, 9, 0, VDPA_ATTR_DEV_NAME, 0, 'b', 'l', 'k', '0', 0, 0, 0, 0);
}
#endif

TEST(mgmt_in_several_parts) {
        struct datagram *d;

        reset();
        answer_family();
        d = datagram();
        add_mgmt(d, 2, 0, NULL, "vdpasim_net");
        add_mgmt(d, 2, 0, "pci", "0000:03:00.2");
        d = datagram();
        add_mgmt(d, 2, 0, "auxiliary", "mlx5_core.sf.4");
        add_done(d, 2, 0, NULL);
        CHECK_EQ(list_mgmt(), 3);
        CHECK_EQ(n_rows, 3);
        CHECK_STR(mgmt[0].name, "vdpasim_net");
        CHECK_STR(mgmt[0].bus, "");
        CHECK_STR(mgmt[1].bus, "pci");
        CHECK_STR(mgmt[2].name, "mlx5_core.sf.4");
        CHECK_EQ(mgmt[1].size, sizeof(mgmt[1]));
        CHECK_EQ(mgmt[1].device_ids, 6);
        CHECK_EQ(mgmt[1].features, 0x320010000000042);
        CHECK_EQ(mgmt[1].max_queues, 65);
}

TEST(many_devices) {
        char name[256];

        reset();
        answer_family();
        memset(name, 'x', 255);
        name[255] = 0;
        for (int i = 0; i < 8; i++) {
                name[0] = (char)('a' + i);
                add_device(datagram(), name);
        }
        add_done(datagram(), 2, 0, NULL);
        CHECK_EQ(vhk_vdpa_list(keep_device, &k, &e), 8);
        CHECK_STR(devices[7].name, name);
        CHECK_STR(devices[7].mgmt_name, "vdpasim_net");
        CHECK_STR(devices[7].mgmt_bus, "");
        CHECK_STR(devices[7].driver, "");
        CHECK_EQ(devices[7].virtio_id, 1);
        CHECK_EQ(devices[7].vendor_id, 0x1af4);
        CHECK_EQ(devices[7].max_queues, 3);
        CHECK_EQ(devices[7].max_queue_size, 256);
        CHECK_EQ(devices[7].size, sizeof(devices[7]));
}

TEST(absent) {
        reset();
        answer_error(1, -ENOENT, 16, false, NULL);
        CHECK_EQ(list_mgmt(), -EOPNOTSUPP);
        CHECK_EQ(e.code, -EOPNOTSUPP);
        CHECK_STR(e.rule, "vdpa.absent");
        CHECK_STR(e.text, "this kernel has no vDPA: module vdpa is not loaded");
        reset();
        k.socket_error = EPROTONOSUPPORT;
        CHECK_EQ(vhk_vdpa_del("x", &e), -EPROTONOSUPPORT);
        CHECK_STR(e.rule, "vdpa.socket");
        reset();
        k.send_error = ENOBUFS;
        CHECK_EQ(list_mgmt(), -ENOBUFS);
}

TEST(what_the_kernel_says) {
        static const struct {
                int error;
                size_t echo;
                bool is_capped;
                const char *words, *text;
        } rows[] = {
                { -EEXIST, 20, false, NULL, "blk0: a vDPA device of this name exists already" },
                { -ENODEV, 20, false, "vdpa: Fail to find the specified management device",
                  "blk0: there is no such management device (vdpa: Fail to find the specified management device)" },
                { -ENODEV, 21, false, "words", "blk0: there is no such management device (words)" },
                { -EOPNOTSUPP, 20, true, "vdpa: All provided attributes are not supported",
                  "blk0: the management device does not take these attributes (vdpa: All provided attributes are not supported)" },
                { -EPERM, 0, true, NULL, "blk0: making vDPA devices needs CAP_NET_ADMIN" },
                { -ENOMEM, 0, true, NULL, "blk0: Cannot allocate memory" },
        };
        const struct vhk_vdpa_add a = { .size = sizeof(a), .name = "blk0", .mgmt_name = "vdpasim_blk" };

        for (unsigned i = 0; i < VHK_N(rows); i++) {
                reset();
                answer_family();
                answer_error(2, rows[i].error, rows[i].echo, rows[i].is_capped, rows[i].words);
                CHECK_EQ(vhk_vdpa_add(&a, &e), rows[i].error);
                CHECK_EQ(e.code, rows[i].error);
                CHECK_STR(e.rule, "vdpa.refused");
                CHECK_STR(e.text, rows[i].text);
        }
        reset();
        answer_family();
        answer_error(2, -ENODEV, 16, false, "vdpa: device not found");
        CHECK_EQ(vhk_vdpa_del("blk1", &e), -ENODEV);
        CHECK_STR(e.text, "blk1: there is no such vDPA device (vdpa: device not found)");
        reset();
        answer_family();
        answer_error(2, -EPERM, 16, false, NULL);
        CHECK_EQ(list_mgmt(), -EPERM);
        CHECK_STR(e.text, "listing needs CAP_NET_ADMIN");
        reset();
        answer_family();
        add_done(datagram(), 2, -ENOMEM, "out of everything");
        CHECK_EQ(list_mgmt(), -ENOMEM);
        CHECK_STR(e.text, "Cannot allocate memory (out of everything)");
}

TEST(words_that_are_wrong_do_not_hide_the_error) {
        char longest[300];
        struct datagram *d;

        memset(longest, 'x', sizeof(longest));
        longest[299] = 0;
        reset();
        answer_family();
        answer_error(2, -EBUSY, 0, true, longest);      /* does not fit: none */
        CHECK_EQ(vhk_vdpa_del("a", &e), -EBUSY);
        CHECK_STR(e.text, "a: Device or resource busy");
        for (uint16_t len = 0; len < 12; len++) {       /* an attribute that lies about its length */
                reset();
                answer_family();
                answer_error(2, -EBUSY, 0, true, "abc");
                d = &k.answers[k.n_answers - 1];
                memcpy(d->bytes + d->n - 8, &len, 2);
                CHECK_EQ(vhk_vdpa_del("a", &e), -EBUSY);
                CHECK(!strncmp(e.text, "a: Device or resource busy", 26));
        }
        reset();
        answer_family();
        answer_error(2, -EBUSY, 0, false, "abc");       /* the echo is longer than all there is */
        d = &k.answers[k.n_answers - 1];
        memcpy(d->bytes + NLMSG_HDRLEN + 4, &(uint32_t){ 0xfffffff0 }, 4);
        CHECK_EQ(vhk_vdpa_del("a", &e), -EBUSY);
        CHECK_STR(e.text, "a: Device or resource busy");
}

TEST(an_interrupted_list_is_asked_for_again) {
        struct datagram *d;

        reset();
        answer_family();
        d = datagram();
        add_mgmt(d, 2, NLM_F_DUMP_INTR, NULL, "gone");
        add_done(d, 2, 0, NULL);
        d = datagram();
        add_mgmt(d, 3, 0, NULL, "here");
        add_done(d, 3, 0, NULL);
        CHECK_EQ(list_mgmt(), 1);
        CHECK_EQ(n_rows, 1);
        CHECK_STR(mgmt[0].name, "here");
        CHECK_EQ(k.n_asked, 3);
        reset();
        answer_family();
        for (uint32_t i = 0; i < 8; i++) {
                d = datagram();
                add_mgmt(d, 2 + i, NLM_F_DUMP_INTR, NULL, "flickers");
                add_done(d, 2 + i, 0, NULL);
        }
        CHECK_EQ(list_mgmt(), -EAGAIN);
        CHECK_STR(e.rule, "vdpa.changing");
        CHECK_EQ(n_rows, 0);
}

TEST(what_is_not_of_this_answer_is_skipped) {
        struct datagram *d;

        reset();
        d = datagram();                                 /* another process */
        d->pid = 77;
        add_done(d, 1, -EIO, NULL);
        answer_family();
        add_done(datagram(), 1, -EIO, NULL);            /* of an earlier question */
        d = datagram();
        end(d, begin(d, NLMSG_NOOP, 0, 2));
        d = datagram();
        d->error = EINTR;
        add_done(datagram(), 2, 0, NULL);
        CHECK_EQ(list_mgmt(), 0);
        CHECK_EQ(k.next, k.n_answers);
}

TEST(answers_that_never_end) {
        struct datagram *d;

        reset();
        CHECK_EQ(list_mgmt(), -ETIMEDOUT);
        reset();
        answer_family();
        add_mgmt(datagram(), 2, 0, NULL, "half");
        CHECK_EQ(list_mgmt(), -ETIMEDOUT);
        CHECK_EQ(n_rows, 0);
        reset();
        answer_family();
        d = datagram();
        d->flags = MSG_TRUNC;
        add_done(d, 2, 0, NULL);
        CHECK_EQ(list_mgmt(), -EMSGSIZE);
        reset();
        answer_family();
        datagram();                                     /* empty */
        CHECK_EQ(list_mgmt(), -EBADMSG);
        reset();
        answer_family();
        d = datagram();
        end(d, begin(d, NLMSG_OVERRUN, 0, 2));
        CHECK_EQ(list_mgmt(), -ENOBUFS);
}

/* An answer cut off at each of its bytes, headers untouched. */
TEST(cut_off_anywhere) {
        for (size_t n = 1;; n++) {
                reset();
                answer_family();
                struct datagram *d = datagram();
                add_mgmt(d, 2, 0, "pci", "0000:03:00.2");
                size_t row = d->n;
                add_done(d, 2, 0, NULL);
                if (n >= d->n)
                        break;
                d->n = n;
                CHECK_EQ(list_mgmt(), n == row ? -ETIMEDOUT : -EBADMSG);
                CHECK_STR(e.rule, n == row ? "vdpa.refused" : "vdpa.answer");
                CHECK_EQ(n_rows, 0);
        }
}

/* The same with lengths that go along: attributes that end early. */
TEST(attributes_of_wrong_lengths) {
        static const struct {
                uint16_t type;
                size_t n;
                int k;
        } rows[] = {
                { VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES, 8, 1 }, { VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES, 7, -EBADMSG },
                { VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES, 9, -EBADMSG }, { VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES, 0, -EBADMSG },
                { VDPA_ATTR_DEV_MGMTDEV_MAX_VQS, 2, -EBADMSG }, { VDPA_ATTR_DEV_MGMTDEV_MAX_VQS, 8, -EBADMSG },
                { VDPA_ATTR_MGMTDEV_BUS_NAME, 31, 1 }, { VDPA_ATTR_MGMTDEV_BUS_NAME, 32, -EBADMSG },     /* no terminator in it */
                { VDPA_ATTR_MGMTDEV_BUS_NAME, 0, 1 }, { VDPA_ATTR_MGMTDEV_DEV_NAME, 64, -EBADMSG },
                { 0x3fff, 3, 1 }, { VDPA_ATTR_DEV_NAME, 0, 1 },                                          /* nobody asks for these */
        };
        static uint8_t bytes[64];

        memset(bytes, 'x', sizeof(bytes));
        for (unsigned i = 0; i < VHK_N(rows); i++) {
                reset();
                answer_family();
                struct datagram *d = datagram();
                size_t at = begin_row(d, FAMILY, VDPA_CMD_MGMTDEV_NEW, NLM_F_MULTI, 2);
                TEXT(d, VDPA_ATTR_MGMTDEV_DEV_NAME, "sim");
                attribute(d, rows[i].type, bytes, rows[i].n);
                end(d, at);
                add_done(d, 2, 0, NULL);
                CHECK_MSG(list_mgmt() == rows[i].k, "row %u: %s", i, e.text);
                CHECK(rows[i].k > 0 || !strcmp(e.rule, "vdpa.answer"));
        }
        CHECK_EQ(strlen(mgmt[0].bus), 0);
}

TEST(messages_that_make_no_sense) {
        for (int i = 0; i < 9; i++) {
                reset();
                if (i)
                        answer_family();
                struct datagram *d = datagram();
                size_t at = 0;
                switch (i) {
                case 0:                 /* a family's number out of range */
                        at = begin_row(d, GENL_ID_CTRL, CTRL_CMD_NEWFAMILY, 0, 1);
                        NUMBER(d, CTRL_ATTR_FAMILY_ID, 16, 3);
                        end(d, at);
                        answer_error(1, 0, 0, true, NULL);
                        break;
                case 1:                 /* another family */
                        end(d, begin_row(d, FAMILY + 1, VDPA_CMD_MGMTDEV_NEW, NLM_F_MULTI, 2));
                        break;
                case 2:                 /* another command */
                        at = begin_row(d, FAMILY, VDPA_CMD_DEV_NEW, NLM_F_MULTI, 2);
                        TEXT(d, VDPA_ATTR_MGMTDEV_DEV_NAME, "sim");
                        end(d, at);
                        break;
                case 3:                 /* a row without its name */
                        end(d, begin_row(d, FAMILY, VDPA_CMD_MGMTDEV_NEW, NLM_F_MULTI, 2));
                        break;
                case 4:                 /* no generic header */
                        end(d, begin(d, FAMILY, NLM_F_MULTI, 2));
                        break;
                case 5:                 /* a positive error */
                        add_done(d, 2, 5, NULL);
                        break;
                case 6:
                        add_done(d, 2, -5000, NULL);
                        break;
                case 7:                 /* an end without a number */
                        end(d, begin(d, NLMSG_DONE, NLM_F_MULTI, 2));
                        break;
                case 8:                 /* an error without its echo */
                        at = begin(d, NLMSG_ERROR, 0, 2);
                        put(d, &(int32_t){ -EIO }, 4);
                        end(d, at);
                        break;
                }
                CHECK_MSG(list_mgmt() == -EBADMSG, "case %d: %s", i, e.text);
                CHECK_STR(e.rule, "vdpa.answer");
        }
}

static int call_in(void *arg, const struct vhk_vdpa_mgmt *m) {
        answer_family();
        answer_error(2, -ENODEV, 0, true, NULL);
        return vhk_vdpa_del("x", NULL);
}

TEST(the_caller_ends_a_list) {
        for (int with = -7; with <= 7; with += 14) {
                reset();
                answer_family();
                add_mgmt(datagram(), 2, 0, NULL, "a");
                add_mgmt(datagram(), 2, 0, NULL, "b");
                add_mgmt(datagram(), 2, 0, NULL, "c");
                add_done(datagram(), 2, 0, NULL);
                stop_at = 2;
                stop_with = with;
                CHECK_EQ(list_mgmt(), with);
                CHECK_EQ(n_rows, 2);
        }
        reset();
        answer_family();
        add_mgmt(datagram(), 2, 0, NULL, "a");
        add_done(datagram(), 2, 0, NULL);
        CHECK_EQ(vhk_vdpa_list_mgmt(call_in, NULL, NULL), -ENODEV);
}

TEST(wrong_callers) {
        struct vhk_vdpa_add a = { .size = sizeof(a), .name = "n", .mgmt_name = "m" }, b;
        char longest[300];

        memset(longest, 'x', sizeof(longest));
        longest[256] = 0;
        reset();
        CHECK_EQ(vhk_vdpa_list_mgmt(NULL, NULL, &e), -EINVAL);
        CHECK_EQ(vhk_vdpa_list(NULL, NULL, &e), -EINVAL);
        CHECK_EQ(vhk_vdpa_add(NULL, &e), -EINVAL);
        b = a, b.size = sizeof(b.size);
        CHECK_EQ(vhk_vdpa_add(&b, &e), -EINVAL);
        b = a, b.name = NULL;
        CHECK_EQ(vhk_vdpa_add(&b, &e), -EINVAL);
        b = a, b.name = "a/b";
        CHECK_EQ(vhk_vdpa_add(&b, &e), -EINVAL);
        b = a, b.name = longest;
        CHECK_EQ(vhk_vdpa_add(&b, &e), -ENAMETOOLONG);
        CHECK_STR(e.rule, "vdpa.name");
        b = a, b.mgmt_name = "";
        CHECK_EQ(vhk_vdpa_add(&b, &e), -EINVAL);
        b = a, b.mgmt_name = longest;
        CHECK_EQ(vhk_vdpa_add(&b, &e), -ENAMETOOLONG);
        b = a, b.mgmt_bus = longest;
        CHECK_EQ(vhk_vdpa_add(&b, &e), -ENAMETOOLONG);
        CHECK_EQ(vhk_vdpa_del("..", &e), -EINVAL);
        CHECK_EQ(vhk_vdpa_del(NULL, NULL), -EINVAL);
        CHECK_EQ(vhk_vdpa_bind("../../../x", "vhost_vdpa", &e), -EINVAL);
        CHECK_EQ(vhk_vdpa_bind("x", "../x", &e), -EINVAL);
        CHECK_EQ(vhk_vdpa_find_node("", NULL, 0, &e), -EINVAL);
        CHECK_EQ(k.n_asked, 0);
}

/* ---- sysfs ---- */

static char root[64];                   /* what /sys/bus/vdpa is here */
static const char *refuses;             /* a driver that takes nothing */

static const char *led(const char *path, char *buf) {
        static const char bus[] = "/sys/bus/vdpa";

        if (strncmp(path, bus, sizeof(bus) - 1))
                return path;
        snprintf(buf, PATH_MAX, "%s%s", root[0] ? root : "/nowhere", path + sizeof(bus) - 1);
        return buf;
}

int open(const char *path, int flags, ...) {
        char buf[PATH_MAX];
        va_list ap;

        va_start(ap, flags);
        int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
        va_end(ap);
        return (int)syscall(SYS_openat, AT_FDCWD, led(path, buf), flags, mode);
}

int access(const char *path, int mode) {
        char buf[PATH_MAX];

        return (int)syscall(SYS_faccessat, AT_FDCWD, led(path, buf), mode);
}

ssize_t readlink(const char *path, char *p, size_t n) {
        char buf[PATH_MAX];

        return syscall(SYS_readlinkat, AT_FDCWD, led(path, buf), p, n);
}

DIR *opendir(const char *path) {
        DIR *(*next)(const char *) = (DIR *(*)(const char *))dlsym(RTLD_NEXT, "opendir");
        char buf[PATH_MAX];

        return next(led(path, buf));
}

static VHK_PRINTF(1, 2) char *at(const char *format, ...) {
        static char buf[4][PATH_MAX];
        static unsigned next;
        char *p = buf[next++ % 4];
        int n = snprintf(p, PATH_MAX, "%s/", root);
        va_list ap;

        va_start(ap, format);
        vsnprintf(p + n, (size_t)(PATH_MAX - n), format, ap);
        va_end(ap);
        return p;
}

/* What the kernel does about a write to bind or unbind. */
ssize_t write(int fd, const void *p, size_t n) {
        char path[PATH_MAX] = "", self[64], name[64], driver[32];

        snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
        ssize_t len = readlink(self, path, sizeof(path) - 1);
        path[VHK_MAX(len, 0)] = 0;
        snprintf(name, sizeof(name), "%.*s", (int)n, (const char *)p);
        const char *last = strrchr(path, '/'), *drivers = strstr(path, "/drivers/");
        if (root[0] && drivers && last) {
                snprintf(driver, sizeof(driver), "%.*s", (int)(last - drivers - 9), drivers + 9);
                if (refuses && !strcmp(driver, refuses)) {
                        errno = EBUSY;
                        return -1;
                }
                if (!strcmp(last, "/bind")) {
                        CHECK(!symlink(at("drivers/%s", driver), at("devices/%s/driver", name)));
                        CHECK(strcmp(driver, "vhost_vdpa") || !mkdir(at("devices/%s/vhost-vdpa-7", name), 0700));
                } else {
                        CHECK(!unlink(at("devices/%s/driver", name)));
                        CHECK(!rmdir(at("devices/%s/vhost-vdpa-7", name)) || strcmp(driver, "vhost_vdpa"));
                }
        }
        return syscall(SYS_write, fd, p, n);
}

static void make_file(char *path) {
        int fd = open(path, O_WRONLY | O_CREAT, 0600);

        CHECK(fd >= 0);
        close(fd);
}

static void make_bus(void) {
        static const char *const drivers[] = { "vhost_vdpa", "virtio_vdpa" };

        refuses = NULL;
        strcpy(root, "/tmp/test-vdpa-XXXXXX");
        CHECK(mkdtemp(root));
        CHECK(!mkdir(at("drivers"), 0700) && !mkdir(at("devices"), 0700) && !mkdir(at("devices/blk0"), 0700));
        make_file(at("devices/blk0/driver_override"));
        for (unsigned i = 0; i < VHK_N(drivers); i++) {
                CHECK(!mkdir(at("drivers/%s", drivers[i]), 0700));
                make_file(at("drivers/%s/bind", drivers[i]));
                make_file(at("drivers/%s/unbind", drivers[i]));
        }
}

static void remove_bus(void) {
        char command[128];

        snprintf(command, sizeof(command), "rm -rf %s", root);
        CHECK(!system(command));
        root[0] = 0;
}

static const char *override(void) {
        static char text[64];
        int fd = open(at("devices/blk0/driver_override"), O_RDONLY);
        ssize_t n = read(fd, text, sizeof(text) - 1);

        close(fd);
        text[VHK_MAX(n, 0)] = 0;
        return text;
}

TEST(bind_and_find) {
        char path[64];

        reset();
        make_bus();
        CHECK_EQ(vhk_vdpa_find_node("blk0", path, sizeof(path), &e), -ENXIO);
        CHECK_STR(e.text, "no bus driver has the vDPA device \"blk0\", so it has no node; vhost_vdpa would give it one");
        CHECK_OK(vhk_vdpa_bind("blk0", "vhost_vdpa", &e));
        CHECK_STR(override(), "vhost_vdpa");
        CHECK_OK(vhk_vdpa_find_node("blk0", path, sizeof(path), &e));
        CHECK_STR(path, "/dev/vhost-vdpa-7");
        CHECK_OK(vhk_vdpa_find_node("blk0", path, 18, &e));
        CHECK_EQ(vhk_vdpa_find_node("blk0", path, 17, &e), -ERANGE);
        CHECK_EQ(vhk_vdpa_find_node("blk0", NULL, 0, &e), -ERANGE);
        CHECK_OK(vhk_vdpa_bind("blk0", "vhost_vdpa", &e));
        CHECK_OK(vhk_vdpa_bind("blk0", "virtio_vdpa", &e));
        CHECK_EQ(vhk_vdpa_find_node("blk0", path, sizeof(path), &e), -ENXIO);
        CHECK(strstr(e.text, "virtio_vdpa has the vDPA device"));
        answer_family();
        add_device(datagram(), "blk0");
        add_done(datagram(), 2, 0, NULL);
        CHECK_EQ(vhk_vdpa_list(keep_device, &k, &e), 1);
        CHECK_STR(devices[0].driver, "virtio_vdpa");
        remove_bus();
}

TEST(bind_fails) {
        char path[64];

        reset();
        CHECK_EQ(vhk_vdpa_bind("blk0", "vhost_vdpa", &e), -EOPNOTSUPP);
        CHECK_STR(e.text, "this kernel has no vDPA: module vdpa is not loaded");
        CHECK_EQ(vhk_vdpa_find_node("blk0", path, sizeof(path), &e), -EOPNOTSUPP);
        make_bus();
        CHECK_EQ(vhk_vdpa_bind("blk1", "vhost_vdpa", &e), -ENODEV);
        CHECK_EQ(vhk_vdpa_find_node("blk1", path, sizeof(path), &e), -ENODEV);
        CHECK_EQ(vhk_vdpa_bind("blk0", "other_vdpa", &e), -EOPNOTSUPP);
        CHECK_STR(e.text, "there is no bus driver \"other_vdpa\": its module is not loaded");
        CHECK_OK(vhk_vdpa_bind("blk0", "vhost_vdpa", &e));
        refuses = "virtio_vdpa";
        CHECK_EQ(vhk_vdpa_bind("blk0", "virtio_vdpa", &e), -EBUSY);
        CHECK_STR(e.rule, "vdpa.bind");
        CHECK_STR(e.text, "virtio_vdpa does not take blk0: Device or resource busy");
        CHECK_OK(vhk_vdpa_find_node("blk0", path, sizeof(path), &e));   /* it is where it was */
        refuses = NULL;
        CHECK(!unlink(at("devices/blk0/driver_override")));
        CHECK_EQ(vhk_vdpa_bind("blk0", "virtio_vdpa", &e), -ENOENT);
        CHECK_OK(vhk_vdpa_find_node("blk0", path, sizeof(path), &e));
        remove_bus();
}
