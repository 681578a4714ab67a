/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Calls of the front-end end in time, dispatch does not wait, and a failure leaves things as they
 * were. Against a scripted back-end. A limit that must not be reached is an hour: whoever waits for
 * it is stopped by the harness.
 */
#include "base/test.h"

#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <vhostkit/migration.h>

#include "base/clock.h"
#include "frontend/frontend.h"
#include "frontend/test-fake.h"
#include "mem/mem.h"

#define SECOND UINT64_C(1000000000)
#define HOUR (3600 * SECOND)
#define FEATURES (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_ACCESS_PLATFORM))
#define NOTIFIER (VHK_BIT(VHK_PF_HOST_NOTIFIER) | VHK_BIT(VHK_PF_BACKEND_SEND_FD))

static struct fake fake;
static struct vhk_frontend *f;
static struct vhk_error err;
static struct vhk_frontend_options options;
static struct vhk_memory *memory;
static uint64_t gpa;
static unsigned n_missed, n_given, n_taken;

static int on_miss(void *arg, uint64_t iova, uint32_t access, struct vhk_translation *ret_t) {
        n_missed++;
        *ret_t = (struct vhk_translation){ .size = sizeof(*ret_t), .iova = iova & ~0xfffull, .gpa = gpa, .len = 4096, .access = VHK_ACCESS_BOTH };
        return 0;
}

static int on_notifier(void *arg, unsigned queue, int fd, uint64_t offset) {
        n_given += fd >= 0;
        n_taken += fd < 0;
        return 0;
}

static void init(void) {
        fake_init(&fake);
        fake.state.features_offered |= VHK_BIT(VHK_F_ACCESS_PLATFORM);
        fake.state.protocol_offered |= NOTIFIER | VHK_BIT(VHK_PF_PAGEFAULT) | VHK_BIT(VHK_PF_LOG_SHMFD);
        options = (struct vhk_frontend_options){ .size = sizeof(options), .has_fd = 1, .limit_ns = 10 * SECOND, .iommu = 1, .on_miss = on_miss,
                .on_notifier = on_notifier };
        n_missed = n_given = n_taken = 0;
        f = NULL;
}

static void enter(void) {
        vhk_gpa_t at;
        void *va;
        int s[2];

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        fake_start(&fake, s[1]);
        options.fd = s[0];
        int k = vhk_frontend_open(NULL, &options, &f, &err);
        CHECK_MSG(k == 0, "%s", err.text);
        CHECK_OK(vhk_memory_new(&memory));
        CHECK_OK(vhk_memory_alloc(memory, 0x10000, &va));
        CHECK_OK(vhk_memory_find(memory, va, 0x10000, &at));
        gpa = at.v;
        CHECK_OK(vhk_frontend_set_features(f, FEATURES & f->info.features));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
}

static void leave(void) {
        f = vhk_frontend_close(f);
        memory = vhk_memory_free(memory);
        fake_stop(&fake);
        CHECK_MSG(fake.broken == VHK_RULE_OK, "the front-end broke %s", vhk_rule_id(fake.broken));
}

static int start(unsigned i) {
        struct vhk_ring_setup s = { .size = sizeof(s), .num = 16, .desc = gpa, .driver = gpa + 0x1000, .device = gpa + 0x2000, .kick_fd = -1, .call_fd = -1,
                .err_fd = -1 };

        return vhk_frontend_start_queue(f, i, &s);
}

/* @n misses in one piece, each to be answered on the channel. */
struct miss { struct vhk_hdr h; struct vhk_p_iotlb p; } __attribute__((packed));

static void fill_misses(struct miss *m, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                m[i] = (struct miss){ { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, sizeof(m->p) },
                                      { .iova = i * 0x1000, .perm = VHK_ACCESS_BOTH, .type = VHK_IOTLB_MISS } };
}

static void dispatch_until(const unsigned *count, unsigned n) {
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };

        while (vhk_load_acquire(count) < n) {
                poll(&p, 1, 10);
                CHECK_OK(vhk_frontend_dispatch(f));
        }
}

/* ---- translations ---- */

TEST(dispatch_does_not_wait_for_the_reply_to_a_translation) {
        struct miss m;

        init();
        options.limit_ns = HOUR;
        enter();
        fake.at = VHK_FE_IOTLB_MSG;
        fake.mischief = SILENT;
        fill_misses(&m, 1);
        CHECK_EQ(send(fake.channel, &m, sizeof(m), 0), (ssize_t)sizeof(m));
        dispatch_until(&fake.count[VHK_FE_IOTLB_MSG], 1);
        CHECK_EQ(n_missed, 1);
        CHECK_OK(vhk_frontend_dispatch(f));
        shutdown(fake.fd, SHUT_RDWR);           /* or closing would wait for that reply */
        leave();
}

TEST(a_translation_that_is_not_acknowledged_in_time_ends_the_connection) {
        struct pollfd p;
        struct miss m;
        int k = 0;

        init();
        enter();
        f->options.limit_ns = SECOND / 20;
        fake.at = VHK_FE_IOTLB_MSG;
        fake.mischief = SILENT;
        fill_misses(&m, 1);
        CHECK_EQ(send(fake.channel, &m, sizeof(m), 0), (ssize_t)sizeof(m));
        dispatch_until(&fake.count[VHK_FE_IOTLB_MSG], 1);
        p = (struct pollfd){ .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        while (k == 0) {
                CHECK_EQ(poll(&p, 1, 10000), 1);        /* the descriptor says when its time is over */
                k = vhk_frontend_dispatch(f);
        }
        CHECK_EQ(k, -ETIMEDOUT);
        CHECK(strstr(vhk_frontend_get_error(f)->text, "IOTLB_MSG"));
        leave();
}

/* Some more before each answer: the call ends when its own answer is there. */
TEST(a_storm_of_misses_does_not_keep_a_call) {
        struct miss m[3];
        uint8_t status;

        init();
        options.limit_ns = HOUR;
        enter();
        fill_misses(m, VHK_N(m));
        fake.say_at = VHK_FE_IOTLB_MSG;
        fake.say = m;
        fake.say_n = sizeof(m);
        CHECK_OK(vhk_frontend_iotlb_invalidate(f, 0, 4096));
        for (unsigned i = 0; i < 20; i++)
                CHECK_OK(vhk_frontend_get_status(f, &status));
        CHECK(n_missed >= 3);
        leave();
}

TEST(a_refused_translation_is_no_failure_of_a_call) {
        struct miss m;
        uint8_t status;

        init();
        enter();
        fill_misses(&m, 1);
        fake.at = VHK_FE_IOTLB_MSG;
        fake.mischief = REFUSES;
        fake.say_at = VHK_FE_GET_STATUS;
        fake.say = &m;
        fake.say_n = sizeof(m);
        fake.await = 20;
        CHECK_OK(vhk_frontend_get_status(f, &status));
        CHECK_OK(vhk_frontend_get_status(f, &status));
        CHECK(fake.count[VHK_FE_IOTLB_MSG] >= 1);
        leave();
}

TEST(an_invalidation_of_everything_is_two_halves) {
        init();
        enter();
        CHECK_OK(vhk_frontend_iotlb_invalidate(f, 0, 0));
        CHECK_EQ(fake.count[VHK_FE_IOTLB_MSG], 2);
        CHECK_EQ(fake.iotlb[0].iova, 0);
        CHECK(fake.iotlb[0].len == VHK_BIT(63) && fake.iotlb[1].len == VHK_BIT(63));
        CHECK(fake.iotlb[1].iova == VHK_BIT(63));
        CHECK_EQ(fake.iotlb[1].type, VHK_IOTLB_INVALIDATE);
        leave();
}

TEST(whatever_is_acknowledged_asks_for_it) {
        init();
        options.protocol_no_offer = VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS);
        enter();
        CHECK_OK(vhk_frontend_iotlb_invalidate(f, 0, 4096));
        CHECK(fake.flags[VHK_FE_IOTLB_MSG] & VHK_HDR_NEED_REPLY);
        CHECK_OK(vhk_frontend_postcopy_listen(f));
        CHECK(fake.flags[VHK_FE_POSTCOPY_LISTEN] & VHK_HDR_NEED_REPLY);
        CHECK_OK(vhk_frontend_postcopy_end(f));
        CHECK(fake.flags[VHK_FE_POSTCOPY_END] & VHK_HDR_NEED_REPLY);
        leave();
}

/* ---- rings and resets ---- */

TEST(a_ring_whose_start_fails_is_stopped) {
        static const uint32_t ids[] = { VHK_FE_SET_VRING_NUM, VHK_FE_SET_VRING_KICK, VHK_FE_SET_VRING_ENABLE };

        for (size_t i = 0; i < VHK_N(ids); i++) {
                init();
                enter();
                fake.at = ids[i];
                fake.mischief = REFUSES;
                CHECK_EQ(start(1), -EREMOTEIO);
                CHECK_STR(vhk_frontend_get_error(f)->rule, "frontend.refused");
                CHECK_EQ(fake.count[VHK_FE_GET_VRING_BASE], ids[i] == VHK_FE_SET_VRING_ENABLE);
                CHECK_EQ(start(1), -EREMOTEIO);         /* asked again */
                CHECK_EQ(fake.count[ids[i]], 2);
                fake.mischief = HONEST;
                CHECK_OK(start(1));
                CHECK_EQ(start(1), -EBUSY);
                leave();
        }
}

TEST(status_0_stops_rings_and_takes_pages_for_kicks_back) {
        struct { struct vhk_hdr h; struct vhk_p_vring_area p; } __attribute__((packed)) m = {
                { VHK_BE_VRING_HOST_NOTIFIER_MSG, VHK_HDR_VERSION, sizeof(m.p) }, { .ring = 1, .len = 4096 } };
        union { char buf[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } c = { .buf = { 0 } };
        struct iovec v = { &m, sizeof(m) };
        struct msghdr h = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = c.buf, .msg_controllen = sizeof(c.buf) };
        int fd = memfd_create("page", MFD_CLOEXEC);

        init();
        enter();
        CHECK_OK(ftruncate(fd, 4096));
        CHECK_OK(start(1));
        *CMSG_FIRSTHDR(&h) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&h)), &fd, sizeof(fd));
        CHECK_EQ(sendmsg(fake.channel, &h, 0), (ssize_t)sizeof(m));
        dispatch_until(&n_given, 1);
        CHECK_OK(vhk_frontend_set_status(f, 0));
        CHECK_EQ(n_taken, 1);
        CHECK_OK(start(1));
        leave();
        close(fd);
}

TEST(the_log_is_taken_away_when_nothing_is_logged) {
        int log = memfd_create("log", MFD_CLOEXEC);

        init();
        enter();
        CHECK_OK(ftruncate(log, 4096));
        CHECK_OK(vhk_frontend_set_log(f, log, 0, 4096));
        CHECK_OK(vhk_frontend_log_data(f, 1));
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK(fake.state.features & VHK_BIT(VHK_F_LOG_ALL));    /* the driver has no say in it */
        CHECK_EQ(vhk_frontend_set_log(f, -1, 0, 0), -EBUSY);
        CHECK_OK(vhk_frontend_log_data(f, 0));
        CHECK_OK(start(0));
        CHECK_OK(vhk_frontend_log_queue(f, 0, 1, gpa));
        CHECK_EQ(vhk_frontend_set_log(f, -1, 0, 0), -EBUSY);
        CHECK_OK(vhk_frontend_log_queue(f, 0, 0, 0));
        CHECK_OK(vhk_frontend_set_log(f, -1, 0, 0));
        CHECK_EQ(fake.count[VHK_FE_SET_LOG_BASE], 1);
        leave();
        close(log);
}

/* ---- closing ---- */

TEST(closing_takes_one_limit_whatever_the_number_of_rings) {
        init();
        enter();
        for (unsigned i = 0; i < 4; i++)
                CHECK_OK(start(i));
        f->options.limit_ns = SECOND / 20;
        fake.at = VHK_FE_GET_VRING_BASE;
        fake.mischief = SILENT;
        leave();
        CHECK_EQ(fake.count[VHK_FE_GET_VRING_BASE], 1);
}

TEST(on_the_way_to_closing_all_calls_share_one_limit) {
        init();
        enter();
        f->options.limit_ns = SECOND / 20;
        CHECK_OK(vhk_frontend_prepare_close(f));
        while (vhk_now_ns() < f->deadline)
                usleep(1000);
        f->options.limit_ns = HOUR;
        fake.at = VHK_FE_SET_STATUS;
        fake.mischief = SILENT;
        CHECK_EQ(vhk_frontend_set_status(f, 0), -ETIMEDOUT);
        leave();
}

/* ---- opening ---- */

static char dir[64], path[100];

struct caller { pthread_t thread, main; int k; };

static void on_signal(int number) {
}

/* Disturbs the thread that waits, and connects after it. */
static void *disturb_and_connect(void *arg) {
        struct caller *c = arg;
        int fd;

        for (unsigned i = 0; i < 20; i++) {
                pthread_kill(c->main, SIGUSR1);
                usleep(2000);
        }
        c->k = vhk_sock_connect(path, 10 * SECOND, &fd, NULL);
        if (c->k == 0)
                fake_start(&fake, fd);
        return NULL;
}

TEST(a_signal_does_not_end_the_wait_for_a_back_end) {
        struct sigaction a = { .sa_handler = on_signal }, old;
        struct caller c = { .main = pthread_self() };

        snprintf(dir, sizeof(dir), "/tmp/vhk-test-limits-XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
        init();
        options.has_fd = 0;
        options.mode = VHK_SOCKET_LISTEN;
        CHECK_OK(sigaction(SIGUSR1, &a, &old));
        CHECK_OK(pthread_create(&c.thread, NULL, disturb_and_connect, &c));
        int k = vhk_frontend_open(path, &options, &f, &err);
        pthread_join(c.thread, NULL);
        CHECK_OK(sigaction(SIGUSR1, &old, NULL));
        CHECK_MSG(k == 0, "%s", err.text);
        CHECK_OK(c.k);
        f = vhk_frontend_close(f);
        fake_stop(&fake);
        CHECK_OK(rmdir(dir));
}

static void check_is_mine(int fd, int k) {
        CHECK(k < 0);
        CHECK_MSG(fcntl(fd, F_GETFD) >= 0, "the descriptor is closed, after %d: %s", k, err.text);
        CHECK_OK(close(fd));
}

TEST(an_inherited_descriptor_stays_the_callers_when_opening_fails) {
        struct vhk_listener l;
        int s[2];

        init();
        options.connect_ns = SECOND / 50;
        options.fd = memfd_create("no socket", MFD_CLOEXEC);
        check_is_mine(options.fd, vhk_frontend_open(NULL, &options, &f, &err));

        snprintf(dir, sizeof(dir), "/tmp/vhk-test-limits-XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
        CHECK_OK(vhk_listener_open(path, &l, NULL));
        options.fd = VHK_STEAL_FD(l.fd);
        check_is_mine(options.fd, vhk_frontend_open(NULL, &options, &f, &err));         /* nobody comes */
        CHECK_OK(unlink(path));

        CHECK_OK(vhk_listener_open(path, &l, NULL));
        CHECK_OK(vhk_sock_connect(path, 0, &s[0], NULL));
        close(s[0]);
        options.fd = VHK_STEAL_FD(l.fd);
        check_is_mine(options.fd, vhk_frontend_open(NULL, &options, &f, &err));         /* who comes goes */
        CHECK_OK(unlink(path));
        CHECK_OK(rmdir(dir));

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        close(s[1]);
        options.fd = s[0];
        check_is_mine(options.fd, vhk_frontend_open(NULL, &options, &f, &err));         /* it has gone */

        options.size = 8;
        options.fd = memfd_create("wrong options", MFD_CLOEXEC);
        check_is_mine(options.fd, vhk_frontend_open(NULL, &options, &f, &err));
}
