/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a device asks of its front-end: shared memory and shared objects, on the wire, answered, refused, and cut off; and what
 * the front-end asks of the device in turn.
 */
#include <sys/stat.h>

#include "backend/channel.h"
#include "backend/test-backend.h"

#define PAGE 4096ull
#define SHARED (PROTOCOL | VHK_BIT(VHK_PF_SHMEM) | VHK_BIT(VHK_PF_BACKEND_SEND_FD) | VHK_BIT(VHK_PF_SHARED_OBJECT))

static const uint8_t uuid_a[16] = "the first object", uuid_b[16] = "the other object";

/* ---- the device ---- */

static int dev_shmem(void *arg, uint64_t sizes[VHK_SHMEM_REGIONS]) {
        sizes[1] = 8 * PAGE;
        sizes[200] = PAGE;
        return 0;
}

static int dev_odd_shmem(void *arg, uint64_t sizes[VHK_SHMEM_REGIONS]) {
        sizes[1] = PAGE + 1;
        return 0;
}

static int dev_no_shmem(void *arg, uint64_t sizes[VHK_SHMEM_REGIONS]) {
        return -EIO;
}

static int dev_get(void *arg, const uint8_t uuid[16], int *ret_fd) {
        if (memcmp(uuid, uuid_a, 16))
                return -ENOENT;
        *ret_fd = memfd_create("object", MFD_CLOEXEC);
        return 0;
}

static const struct vhk_shmem_ops shmem_ops = { .size = sizeof(shmem_ops), .get_config = dev_shmem };
static const struct vhk_object_ops object_ops = { .size = sizeof(object_ops), .get = dev_get };

static struct vhk_device_ops ops_with(const struct vhk_shmem_ops *s, const struct vhk_object_ops *o) {
        struct vhk_device_ops ops = dev_ops;

        ops.shmem = s;
        ops.objects = o;
        return ops;
}

/* How an errand ended; 1: not yet. */
struct result {
        int error, fd;
        unsigned n;
};

static void on_done(void *arg, int error) {
        struct result *x = arg;
        x->error = error;
        x->n++;
}

static void on_fd(void *arg, int error, int fd) {
        struct result *x = arg;
        x->error = error;
        x->fd = fd;
        x->n++;
}

/* ---- the front-end's end of the channel ---- */

static struct vhk_conn channel;

static void open_channel(struct rig *r) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, pair[1]), 0);
        close(pair[1]);
        CHECK_OK(vhk_conn_init(&channel, pair[0]));
}

static void begin(struct rig *r, uint64_t protocol) {
        const struct vhk_device_ops ops = ops_with(&shmem_ops, &object_ops);

        rig_open(r, NULL, &ops);        /* which keeps a copy */
        fe_connect(r);
        fe_negotiate(r, FEATURES, protocol);
        open_channel(r);
}

static void end(struct rig *r) {
        vhk_conn_done(&channel);
        rig_close(r);
}

/* The next request, with its descriptor; stays in channel.in. */
static void expect(struct rig *r, uint32_t id, uint32_t size, unsigned n_fds) {
        int k;

        PUMP_UNTIL(r, (k = vhk_conn_receive(&channel)) == VHK_CONN_MESSAGE);
        struct vhk_hdr h = vhk_decoder_header(&channel.in);
        CHECK_EQ(h.request, id);
        CHECK_EQ(h.size, size);
        CHECK_EQ(channel.in.n_fds, n_fds);
        CHECK_EQ(h.flags, VHK_HDR_VERSION | (r->protocol & VHK_BIT(VHK_PF_REPLY_ACK) ? VHK_HDR_NEED_REPLY : 0));
}

static void answer_with(uint32_t id, uint64_t value, int fd) {
        struct vhk_hdr h = { id, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 };

        vhk_decoder_next(&channel.in);
        CHECK_OK(vhk_conn_send(&channel, &h, &value, &fd, fd >= 0));
}

static struct vhk_shmem_map a_map(struct rig *r) {
        return (struct vhk_shmem_map){ .size = sizeof(struct vhk_shmem_map), .id = 1, .offset = 2 * PAGE, .len = PAGE, .fd = r->memfd, .fd_offset = 3 * PAGE,
                                       .writable = 1 };
}

/* ---- what is offered ---- */

TEST(groups_are_offered_by_what_the_device_has) {
        static struct rig r;
        static const struct { const struct vhk_shmem_ops *s; const struct vhk_object_ops *o; uint64_t no, bits; } rows[] = {
                { NULL, NULL, 0, 0 },
                { &shmem_ops, NULL, 0, VHK_BIT(VHK_PF_SHMEM) | VHK_BIT(VHK_PF_BACKEND_SEND_FD) },
                { NULL, &object_ops, 0, VHK_BIT(VHK_PF_SHARED_OBJECT) },
                { &shmem_ops, NULL, VHK_BIT(VHK_PF_BACKEND_REQ), VHK_BIT(VHK_PF_BACKEND_SEND_FD) },
                { &shmem_ops, NULL, VHK_BIT(VHK_PF_SHMEM), VHK_BIT(VHK_PF_BACKEND_SEND_FD) },
        };

        for (unsigned i = 0; i < VHK_N(rows); i++) {
                struct vhk_device_ops ops = ops_with(rows[i].s, rows[i].o);
                struct vhk_backend_options o = { .protocol_no_offer = rows[i].no };
                rig_open(&r, &o, &ops);
                fe_connect(&r);
                CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
                CHECK_EQ(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & (SHARED & ~PROTOCOL), rows[i].bits);
                rig_close(&r);
        }
}

/* A caller of before the groups: what lies behind its structure is not looked at. */
TEST(an_older_device) {
        static struct rig r;
        struct vhk_device_ops ops = ops_with((void *)1, (void *)2);

        ops.size = offsetof(struct vhk_device_ops, shmem);
        rig_open(&r, NULL, &ops);
        fe_set_up(&r, 1);
        CHECK_EQ(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & (SHARED & ~PROTOCOL), 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(vhk_host_object_add(r.dev.host, uuid_a, NULL, NULL), -EOPNOTSUPP);
        rig_close(&r);
}

TEST(devices_that_are_refused) {
        static struct rig r;
        struct vhk_backend *b;
        struct vhk_error e;
        struct vhk_shmem_ops odd = { .size = sizeof(odd), .get_config = dev_odd_shmem }, none = { .size = sizeof(none), .get_config = dev_no_shmem },
                             small = { .size = 8, .get_config = dev_shmem }, empty = { .size = sizeof(empty) };
        struct vhk_object_ops other = { .size = 1 };
        const struct { struct vhk_device_ops ops; int error; const char *rule; } rows[] = {
                { ops_with(&odd, NULL), -EINVAL, "device.shmem" }, { ops_with(&none, NULL), -EIO, "device.shmem" },
                { ops_with(&small, NULL), -EINVAL, "backend.size" }, { ops_with(&empty, NULL), -EINVAL, "backend.size" },
                { ops_with(NULL, &other), -EINVAL, "backend.size" },
        };

        rig_open(&r, NULL, NULL);
        for (unsigned i = 0; i < VHK_N(rows); i++) {
                CHECK_EQ(vhk_backend_open("/nonexistent/socket", &r.o, &rows[i].ops, &r.dev, &b, &e), rows[i].error);
                CHECK_STR(e.rule, rows[i].rule);
        }
        struct vhk_device_ops newer = dev_ops;
        newer.size = offsetof(struct vhk_device_ops, reset);
        CHECK_EQ(vhk_backend_open("/nonexistent/socket", &r.o, &newer, &r.dev, &b, &e), -EINVAL);
        rig_close(&r);
}

/* ---- shared memory ---- */

TEST(regions_are_told) {
        static struct rig r;
        static struct vhk_p_shmem_config c;

        begin(&r, SHARED);
        fe_send(&r, VHK_FE_GET_SHMEM_CONFIG, 0, NULL, 0, NULL, 0);
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_SHMEM_CONFIG, &c, sizeof(c)), (int)sizeof(c));
        CHECK_EQ(c.n_regions, 2);
        for (unsigned i = 0; i < VHK_SHMEM_REGIONS; i++)
                CHECK_EQ(c.sizes[i], i == 1 ? 8 * PAGE : i == 200 ? PAGE : 0);
        end(&r);
}

TEST(a_map_and_an_unmap) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };
        struct vhk_p_mmap p;
        struct stat a, b;

        begin(&r, SHARED);
        struct vhk_shmem_map m = a_map(&r);
        CHECK_OK(vhk_host_shmem_map(r.dev.host, &m, on_done, &x));
        expect(&r, VHK_BE_SHMEM_MAP, sizeof(p), 1);
        memcpy(&p, channel.in.payload, sizeof(p));
        CHECK(p.shmid == 1 && p.shm_offset == 2 * PAGE && p.fd_offset == 3 * PAGE && p.len == PAGE && p.flags == VHK_MMAP_RW);
        CHECK(fstat(channel.in.fds[0], &a) == 0 && fstat(r.memfd, &b) == 0 && a.st_ino == b.st_ino);
        CHECK_EQ(x.n, 0);
        answer_with(VHK_BE_SHMEM_MAP, 0, -1);
        PUMP_UNTIL(&r, x.n);
        CHECK_EQ(x.error, 0);

        CHECK_OK(vhk_host_shmem_unmap(r.dev.host, 1, 2 * PAGE, PAGE, on_done, &x));
        expect(&r, VHK_BE_SHMEM_UNMAP, sizeof(p), 0);
        memcpy(&p, channel.in.payload, sizeof(p));
        CHECK(p.shmid == 1 && p.shm_offset == 2 * PAGE && p.len == PAGE);
        answer_with(VHK_BE_SHMEM_UNMAP, 1, -1);
        PUMP_UNTIL(&r, x.n == 2);
        CHECK_EQ(x.error, -EREMOTEIO);
        end(&r);
}

TEST(maps_that_do_not_get_that_far) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };

        begin(&r, SHARED);
        struct vhk_shmem_map good = a_map(&r), m;
#define REFUSED(field, value)                                   \
        m = good;                                               \
        m.field = (value);                                      \
        CHECK_EQ(vhk_host_shmem_map(r.dev.host, &m, on_done, &x), -EINVAL)
        REFUSED(size, 8);
        REFUSED(id, 0);
        REFUSED(id, 200);               /* two pages into one */
        REFUSED(fd, -1);
        REFUSED(fd, 0x7ffffff0);
        REFUSED(len, 0);
        REFUSED(len, 7 * PAGE);
        REFUSED(len, ~0ull - PAGE + 1);
        REFUSED(len, 100);
        REFUSED(offset, 100);
        REFUSED(fd_offset, 100);
        REFUSED(fd_offset, ~0ull - PAGE + 1);
        CHECK_EQ(vhk_host_shmem_unmap(r.dev.host, 1, 0, 9 * PAGE, on_done, &x), -EINVAL);
        CHECK_EQ(vhk_host_shmem_unmap(r.dev.host, 7, 0, PAGE, on_done, &x), -EINVAL);
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_AGAIN);
        CHECK_EQ(x.n, 0);
        end(&r);
}

/* ---- shared objects ---- */

TEST(an_object_is_added_and_removed) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };

        begin(&r, SHARED);
        CHECK_OK(vhk_host_object_add(r.dev.host, uuid_a, on_done, &x));
        CHECK_OK(vhk_host_object_remove(r.dev.host, uuid_b, on_done, &x));
        expect(&r, VHK_BE_SHARED_OBJECT_ADD, 16, 0);
        CHECK(!memcmp(channel.in.payload, uuid_a, 16));
        answer_with(VHK_BE_SHARED_OBJECT_ADD, 0, -1);
        PUMP_UNTIL(&r, x.n == 1);
        CHECK_EQ(x.error, 0);
        expect(&r, VHK_BE_SHARED_OBJECT_REMOVE, 16, 0);
        CHECK(!memcmp(channel.in.payload, uuid_b, 16));
        answer_with(VHK_BE_SHARED_OBJECT_REMOVE, 1, -1);
        PUMP_UNTIL(&r, x.n == 2);
        CHECK_EQ(x.error, -EREMOTEIO);
        CHECK_EQ(vhk_host_object_lookup(r.dev.host, uuid_a, NULL, NULL), -EINVAL);
        CHECK_OK(vhk_host_object_add(r.dev.host, uuid_b, NULL, NULL));  /* nobody wants to know */
        expect(&r, VHK_BE_SHARED_OBJECT_ADD, 16, 0);
        answer_with(VHK_BE_SHARED_OBJECT_ADD, 0, -1);
        pump(&r);
        end(&r);
}

TEST(an_object_is_found) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };
        struct stat a, b;

        begin(&r, SHARED);
        CHECK_OK(vhk_host_object_lookup(r.dev.host, uuid_b, on_fd, &x));
        expect(&r, VHK_BE_SHARED_OBJECT_LOOKUP, 16, 0);
        answer_with(VHK_BE_SHARED_OBJECT_LOOKUP, 0, r.memfd);
        PUMP_UNTIL(&r, x.n);
        CHECK_EQ(x.error, 0);
        CHECK(fstat(x.fd, &a) == 0 && fstat(r.memfd, &b) == 0 && a.st_ino == b.st_ino);
        close(x.fd);
        CHECK_OK(vhk_host_object_lookup(r.dev.host, uuid_b, on_fd, &x));
        expect(&r, VHK_BE_SHARED_OBJECT_LOOKUP, 16, 0);
        answer_with(VHK_BE_SHARED_OBJECT_LOOKUP, 1, -1);
        PUMP_UNTIL(&r, x.n == 2);
        CHECK(x.error == -EREMOTEIO && x.fd == -1);
        /* success without a descriptor is nonsense: the channel ends, and so does the errand */
        CHECK_OK(vhk_host_object_lookup(r.dev.host, uuid_b, on_fd, &x));
        expect(&r, VHK_BE_SHARED_OBJECT_LOOKUP, 16, 0);
        answer_with(VHK_BE_SHARED_OBJECT_LOOKUP, 0, -1);
        PUMP_UNTIL(&r, x.n == 3);
        CHECK(x.error == -EPIPE && x.fd == -1);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        end(&r);
}

/* GET_SHARED_OBJECT; the descriptor, or -1: there is no such object. */
static int get_object(struct rig *r, const uint8_t uuid[16]) {
        int k;

        fe_send(r, VHK_FE_GET_SHARED_OBJECT, 0, uuid, 16, NULL, 0);
        PUMP_UNTIL(r, (k = vhk_conn_receive(&r->fe)) == VHK_CONN_MESSAGE);
        CHECK_EQ(vhk_decoder_header(&r->fe.in).request, VHK_FE_GET_SHARED_OBJECT);
        CHECK_EQ(vhk_decoder_header(&r->fe.in).size, 16);
        CHECK(!memcmp(r->fe.in.payload, uuid, 16));
        int fd = r->fe.in.n_fds ? VHK_STEAL_FD(r->fe.in.fds[0]) : -1;
        vhk_decoder_next(&r->fe.in);
        return fd;
}

TEST(the_front_end_asks_for_an_object) {
        static struct rig r;

        begin(&r, SHARED);
        int fd = get_object(&r, uuid_a);
        CHECK(fd >= 0);
        close(fd);
        CHECK_EQ(get_object(&r, uuid_b), -1);
        uint8_t reply[16];                      /* QEMU 8.2 to 10.2 leaves the UUID out: no such object */
        fe_send(&r, VHK_FE_GET_SHARED_OBJECT, 0, NULL, 0, NULL, 0);
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_SHARED_OBJECT, reply, sizeof(reply)), 16);
        CHECK_EQ(r.n_disconnected, 0);
        fd = get_object(&r, uuid_a);
        CHECK(fd >= 0);
        close(fd);
        end(&r);
        struct vhk_object_ops only_looks = { .size = sizeof(only_looks) };
        struct vhk_device_ops ops = ops_with(NULL, &only_looks);
        rig_open(&r, NULL, &ops);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL | VHK_BIT(VHK_PF_SHARED_OBJECT));
        CHECK_EQ(get_object(&r, uuid_a), -1);
        rig_close(&r);
}

/* ---- ends ---- */

TEST(not_negotiated) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };

        begin(&r, PROTOCOL);
        struct vhk_shmem_map m = a_map(&r);
        CHECK_EQ(vhk_host_shmem_map(r.dev.host, &m, on_done, &x), -EOPNOTSUPP);
        CHECK_EQ(vhk_host_object_add(r.dev.host, uuid_a, on_done, &x), -EOPNOTSUPP);
        CHECK_EQ(vhk_host_object_lookup(r.dev.host, uuid_a, on_fd, &x), -EOPNOTSUPP);
        fe_send(&r, VHK_FE_GET_SHMEM_CONFIG, VHK_HDR_NEED_REPLY, NULL, 0, NULL, 0);
        uint64_t no;
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_SHMEM_CONFIG, &no, 8), 8);
        CHECK_EQ(no, 1);
        end(&r);
        CHECK_EQ(x.n, 0);
}

TEST(without_acknowledgements) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };
        const struct vhk_device_ops ops = ops_with(&shmem_ops, &object_ops);
        int pair[2];

        rig_open(&r, NULL, &ops);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, SHARED & ~VHK_BIT(VHK_PF_REPLY_ACK));
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        fe_send(&r, VHK_FE_SET_BACKEND_REQ_FD, 0, NULL, 0, &pair[1], 1);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        close(pair[1]);
        CHECK_OK(vhk_conn_init(&channel, pair[0]));
        struct vhk_shmem_map m = a_map(&r);
        CHECK_OK(vhk_host_shmem_map(r.dev.host, &m, on_done, &x));
        expect(&r, VHK_BE_SHMEM_MAP, sizeof(struct vhk_p_mmap), 1);
        vhk_decoder_next(&channel.in);
        CHECK_EQ(x.n, 1);
        CHECK_EQ(x.error, 0);
        CHECK_OK(vhk_host_object_lookup(r.dev.host, uuid_a, on_fd, &x));        /* has an answer of its own */
        expect(&r, VHK_BE_SHARED_OBJECT_LOOKUP, 16, 0);
        CHECK_EQ(x.n, 1);
        answer_with(VHK_BE_SHARED_OBJECT_LOOKUP, 1, -1);
        PUMP_UNTIL(&r, x.n == 2);
        end(&r);
}

TEST(the_front_end_goes_in_between) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 }, y = { .error = 1, .fd = -1 };

        begin(&r, SHARED);
        struct vhk_shmem_map m = a_map(&r);
        CHECK_OK(vhk_host_shmem_map(r.dev.host, &m, on_done, &x));
        expect(&r, VHK_BE_SHMEM_MAP, sizeof(struct vhk_p_mmap), 1);
        CHECK_OK(vhk_host_object_lookup(r.dev.host, uuid_a, on_fd, &y));        /* still on its way */
        fe_close(&r);
        vhk_conn_done(&channel);
        PUMP_UNTIL(&r, x.n && y.n);
        CHECK_EQ(x.error, -EPIPE);
        CHECK(y.error == -EPIPE || y.error == -EOPNOTSUPP);
        CHECK_EQ(y.fd, -1);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_EQ(vhk_host_shmem_map(r.dev.host, &m, on_done, &x), -EOPNOTSUPP);
        fe_connect(&r);                         /* the next one is served as ever */
        fe_negotiate(&r, FEATURES, SHARED);
        open_channel(&r);
        CHECK_OK(vhk_host_shmem_map(r.dev.host, &m, on_done, &x));
        expect(&r, VHK_BE_SHMEM_MAP, sizeof(struct vhk_p_mmap), 1);
        answer_with(VHK_BE_SHMEM_MAP, 0, -1);
        PUMP_UNTIL(&r, x.n == 2);
        end(&r);
}

/* The back-end ends while errands are on their way: each is told, and none runs into what was freed. */
TEST(the_back_end_goes_in_between) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };

        begin(&r, SHARED);
        CHECK_OK(vhk_backend_stop(r.b, VHK_STOP_ABORT, 0));
        for (unsigned i = 0; i < 100; i++)
                CHECK_OK(vhk_host_object_add(r.dev.host, uuid_a, on_done, &x));
        PUMP_UNTIL(&r, r.freed);
        CHECK_EQ(x.n, 100);
        CHECK(x.error == -EPIPE || x.error == -EOPNOTSUPP);
        end(&r);
}

/* A front-end that says nothing: errands end at the time limit, and no more are taken than there is room for. */
TEST(a_silent_front_end) {
        static struct rig r;
        struct result x = { .error = 1, .fd = -1 };
        const struct vhk_device_ops ops = ops_with(&shmem_ops, &object_ops);
        struct vhk_backend_options o = { .limit_ns = 50000000 };

        rig_open(&r, &o, &ops);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, SHARED);
        open_channel(&r);
        for (unsigned i = 0; i < VHK_CHANNEL_MAX + 1; i++)
                CHECK_OK(vhk_host_object_add(r.dev.host, uuid_a, on_done, &x));
        PUMP_UNTIL(&r, x.n == 1);
        CHECK_EQ(x.error, -ENOBUFS);            /* the last one, at once */
        PUMP_UNTIL(&r, x.n == VHK_CHANNEL_MAX + 1);
        CHECK_EQ(x.error, -ETIMEDOUT);
        end(&r);
}
