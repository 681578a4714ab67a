/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Shared objects between front-ends of one program: added, found, removed by their owner alone (H37), looked up without anybody
 * waiting for anybody, and forgotten when a device goes. The back-ends' requests are written to their channels by hand.
 */
#include "base/test.h"

#include <pthread.h>

#include "frontend/frontend.h"
#include "frontend/test-fake.h"

static const uint8_t uuid_a[16] = "the first object", uuid_b[16] = "the other object";

static struct vhk_objects *table;
static struct party {
        struct fake fake;
        struct vhk_frontend *f;
        char log[512];
} a, b;

static void on_log(void *arg, enum vhk_log_level level, const char *text) {
        snprintf(((struct party *)arg)->log, sizeof(a.log), "%s", text);
}

/* A back-end that has the object, if @has. */
static void join(struct party *p, struct vhk_objects *t, bool has) {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 10000000000ull, .objects = t, .log = on_log, .log_arg = p };
        struct vhk_error e;
        int s[2];

        fake_init(&p->fake);
        p->fake.state.protocol_offered |= VHK_BIT(VHK_PF_SHARED_OBJECT);
        if (has) {
                p->fake.mischief = WITH_FD;             /* which is none here */
                p->fake.at = VHK_FE_GET_SHARED_OBJECT;
        }
        p->log[0] = 0;
        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        fake_start(&p->fake, s[1]);
        o.fd = s[0];
        CHECK_MSG(vhk_frontend_open(NULL, &o, &p->f, &e) == 0, "%s", e.text);
}

static void leave(struct party *p) {
        p->f = vhk_frontend_close(p->f);
        fake_stop(&p->fake);
        CHECK_MSG(p->fake.broken == VHK_RULE_OK, "the front-end broke %s", vhk_rule_id(p->fake.broken));
}

static void begin(void) {
        CHECK_OK(vhk_objects_new(&table));
        join(&a, table, true);
        join(&b, table, false);
}

static void end(void) {
        CHECK(vhk_objects_free(table) == table);        /* somebody uses it */
        leave(&a);
        leave(&b);
        CHECK(!vhk_objects_free(table));
}

static void say(struct party *p, uint32_t id, const uint8_t uuid[16]) {
        struct { struct vhk_hdr h; uint8_t uuid[16]; } m = { .h = { id, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, 16 } };

        memcpy(m.uuid, uuid, 16);
        CHECK_EQ(send(p->fake.channel, &m, sizeof(m), 0), (ssize_t)sizeof(m));
}

/* The answer on the channel; @ret_fd may be NULL: there must be none. -1: not yet */
static int64_t hear(struct party *p, uint32_t id, int *ret_fd) {
        struct { struct vhk_hdr h; uint64_t value; } __attribute__((packed)) m;
        union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } c;
        struct iovec v = { &m, sizeof(m) };
        struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = c.buf, .msg_controllen = sizeof(c.buf) };

        ssize_t n = recvmsg(p->fake.channel, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0)
                return -1;
        CHECK_EQ(n, (ssize_t)sizeof(m));
        CHECK(m.h.request == id && m.h.flags == (VHK_HDR_VERSION | VHK_HDR_REPLY) && m.h.size == 8);
        struct cmsghdr *got = CMSG_FIRSTHDR(&h);
        CHECK_EQ(!!got, !!ret_fd);
        if (got)
                memcpy(ret_fd, CMSG_DATA(got), sizeof(*ret_fd));
        return (int64_t)m.value;
}

static int64_t ask(struct party *p, uint32_t id, const uint8_t uuid[16]) {
        say(p, id, uuid);
        CHECK_OK(vhk_frontend_dispatch(p->f));
        return hear(p, id, NULL);
}

/* The answer to @p's lookup, which comes with the replies of the owner's back-end: both are
 * dispatched while they have something to do. */
static int64_t hear_lookup(struct party *p, int *ret_fd) {
        for (;;) {
                struct pollfd x[] = { { .fd = vhk_frontend_get_fd(a.f), .events = POLLIN }, { .fd = vhk_frontend_get_fd(b.f), .events = POLLIN } };
                int64_t value = hear(p, VHK_BE_SHARED_OBJECT_LOOKUP, ret_fd);
                if (value >= 0)
                        return value;
                CHECK(poll(x, 2, 10000) > 0);
                if (x[0].revents)
                        CHECK_OK(vhk_frontend_dispatch(a.f));
                if (x[1].revents)
                        CHECK_OK(vhk_frontend_dispatch(b.f));
        }
}

static bool is_rung(struct party *p) {
        struct pollfd x = { .fd = vhk_frontend_get_fd(p->f), .events = POLLIN };
        return poll(&x, 1, 0) == 1;
}

TEST(negotiated_by_who_has_a_table) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        join(&a, NULL, false);
        CHECK_OK(vhk_frontend_get_info(a.f, &i));
        CHECK(!(i.carrier_acked & VHK_BIT(VHK_PF_SHARED_OBJECT)));
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 1);
        CHECK(strstr(a.log, "wire.gate"));
        leave(&a);
        begin();
        CHECK_OK(vhk_frontend_get_info(a.f, &i));
        CHECK(i.carrier_acked & VHK_BIT(VHK_PF_SHARED_OBJECT));
        end();
        CHECK(!vhk_objects_free(NULL));
}

/* H37 */
TEST(only_the_owner_removes) {
        begin();
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_REMOVE, uuid_a), 1);
        CHECK(strstr(a.log, "objects.unknown"));
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 1);
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 1);
        CHECK(strstr(b.log, "objects.taken"));
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_REMOVE, uuid_a), 1);
        CHECK(strstr(b.log, "objects.foreign"));
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_ADD, uuid_b), 0);
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_REMOVE, uuid_a), 0);
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);         /* free again */
        end();
}

TEST(the_number_of_objects_is_bounded) {
        uint8_t uuid[16] = { 0 };

        begin();
        for (unsigned i = 0; i < VHK_OBJECTS_PER_DEVICE; i++) {
                memcpy(uuid, &i, sizeof(i));
                CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid), 0);
        }
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 1);
        CHECK(strstr(a.log, "objects.limit"));
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);         /* another's room is its own */
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_REMOVE, uuid), 0);
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_b), 0);
        end();
}

TEST(a_lookup) {
        int fd = -1;

        begin();
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_a), 1);      /* nobody has it */
        CHECK(strstr(b.log, "objects.unknown"));
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);
        CHECK(!is_rung(&a));
        say(&b, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_a);
        say(&b, VHK_BE_SHARED_OBJECT_ADD, uuid_b);                      /* in its turn, behind the answer */
        CHECK_OK(vhk_frontend_dispatch(b.f));
        CHECK_EQ(hear(&b, VHK_BE_SHARED_OBJECT_LOOKUP, NULL), -1);
        uint8_t status;
        CHECK_OK(vhk_frontend_get_status(b.f, &status));                /* calls go on meanwhile */
        CHECK_EQ(hear(&b, VHK_BE_SHARED_OBJECT_LOOKUP, NULL), -1);
        CHECK(is_rung(&a));
        CHECK_EQ(a.fake.count[VHK_FE_GET_SHARED_OBJECT], 0);
        CHECK_EQ(vhk_frontend_dispatch(a.f), 1);
        CHECK_EQ(hear_lookup(&b, &fd), 0);
        CHECK_EQ(a.fake.count[VHK_FE_GET_SHARED_OBJECT], 1);
        CHECK(!is_rung(&a));
        CHECK(fd >= 0);
        close(fd);
        CHECK_EQ(hear(&b, VHK_BE_SHARED_OBJECT_ADD, NULL), 0);
        CHECK(!is_rung(&b));
        end();
}

TEST(a_lookup_of_ones_own) {
        int fd = -1;

        begin();
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);
        say(&a, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_a);
        CHECK_EQ(hear_lookup(&a, &fd), 0);
        close(fd);
        end();
}

TEST(the_owner_has_forgotten_it) {
        begin();
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_ADD, uuid_b), 0);         /* b's back-end answers without a descriptor */
        say(&a, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_b);
        CHECK_OK(vhk_frontend_dispatch(a.f));
        CHECK_EQ(vhk_frontend_dispatch(b.f), 1);
        CHECK_EQ(hear_lookup(&a, NULL), 1);
        end();
}

TEST(the_owner_goes) {
        begin();
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);
        say(&b, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_a);
        CHECK_OK(vhk_frontend_dispatch(b.f));
        shutdown(a.fake.fd, SHUT_RDWR);
        CHECK_EQ(vhk_frontend_dispatch(a.f), -EPIPE);
        CHECK(is_rung(&b));
        CHECK_OK(vhk_frontend_dispatch(b.f));
        CHECK_EQ(hear(&b, VHK_BE_SHARED_OBJECT_LOOKUP, NULL), 1);
        CHECK_EQ(ask(&b, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);         /* its objects went with it */
        end();
}

TEST(the_asker_goes) {
        begin();
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);
        say(&b, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_a);
        CHECK_OK(vhk_frontend_dispatch(b.f));
        leave(&b);
        CHECK_OK(vhk_frontend_dispatch(a.f));
        CHECK_EQ(a.fake.count[VHK_FE_GET_SHARED_OBJECT], 0);            /* nobody wants to know any more */
        join(&b, table, false);
        end();
}

/* The owner's thread does not come: the asker hears so, and an answer that comes later is for nobody. */
TEST(the_owner_takes_too_long) {
        struct pollfd p;
        int fd = -1;

        begin();
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);
        say(&b, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_a);
        CHECK_OK(vhk_frontend_dispatch(b.f));
        p = (struct pollfd){ .fd = vhk_frontend_get_fd(b.f), .events = POLLIN };
        CHECK_EQ(poll(&p, 1, 10000), 1);
        CHECK_OK(vhk_frontend_dispatch(b.f));
        CHECK_EQ(hear(&b, VHK_BE_SHARED_OBJECT_LOOKUP, NULL), 1);
        CHECK(!is_rung(&b));
        CHECK_OK(vhk_frontend_dispatch(a.f));
        CHECK(!is_rung(&b));
        say(&b, VHK_BE_SHARED_OBJECT_LOOKUP, uuid_a);                   /* the next one works */
        CHECK_EQ(hear_lookup(&b, &fd), 0);
        close(fd);
        end();
}

/* b's back-end does not answer a call before it has its object, as a blocking one would: a's thread helps. */
static int stop;

static void *dispatch_a(void *arg) {
        while (!vhk_load_acquire(&stop)) {
                struct pollfd p = { .fd = vhk_frontend_get_fd(a.f), .events = POLLIN };
                if (poll(&p, 1, 20) == 1)
                        CHECK_OK(vhk_frontend_dispatch(a.f));
        }
        return NULL;
}

TEST(a_lookup_in_the_middle_of_a_call) {
        struct { struct vhk_hdr h; uint8_t uuid[16]; } m = { .h = { VHK_BE_SHARED_OBJECT_LOOKUP, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, 16 } };
        pthread_t thread;
        uint8_t status;

        begin();
        CHECK_EQ(ask(&a, VHK_BE_SHARED_OBJECT_ADD, uuid_a), 0);
        memcpy(m.uuid, uuid_a, 16);
        b.fake.say_at = VHK_FE_GET_STATUS;
        b.fake.say = &m;
        b.fake.say_n = sizeof(m);
        b.fake.await = 20;
        stop = 0;
        pthread_create(&thread, NULL, dispatch_a, NULL);
        CHECK_OK(vhk_frontend_get_status(b.f, &status));
        CHECK_EQ(b.fake.heard_n, 20);
        CHECK_EQ(b.fake.heard[12], 0);                                  /* found, not given up */
        vhk_store_release(&stop, 1);
        pthread_join(thread, NULL);
        end();
}
