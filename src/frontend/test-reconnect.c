/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A front-end whose back-end goes away and comes again: what it says to the next one, and when it gives up. The back-ends are
 * scripted (test-fake.h) and have no memory: what they get is what a successor gets.
 */
#include "base/test.h"

#include <sys/mman.h>
#include <time.h>
#include <vhostkit/migration.h>

#include "base/clock.h"
#include "frontend/frontend.h"
#include "frontend/test-fake.h"
#include "mem/mem.h"
#include "ring/inflight.h"
#include "ring/ring.h"

#define FEATURES (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_INDIRECT_DESC))
#define INFLIGHT (VHK_BIT(VHK_PF_INFLIGHT_SHMFD) | VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT) | VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN))
#define SECOND UINT64_C(1000000000)
#define RINGS_BYTES 0x10000u

/* Back-ends come one after the other, each from a thread that waits for a connection, or makes one. */
static struct fake fakes[4];
static struct vhk_listener listener;
static char dir[64], path[80];
static struct vhk_frontend *f;
static struct vhk_frontend_options options;
static struct vhk_error err;
static unsigned n_gone, n_back, n_changed;
static struct vhk_memory *memory;
static uint8_t *rings;
static uint64_t gpa;

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_gone += ev == VHK_FRONTEND_GONE;
        n_back += ev == VHK_FRONTEND_RECONNECTED;
        n_changed += ev == VHK_FRONTEND_CONFIG_CHANGED;
}

struct arrival { pthread_t thread; struct fake *b; struct arrival *behind; unsigned after_ms; bool connects; int k; };

static void *arrive(void *arg) {
        struct arrival *a = arg;
        struct pollfd p = { .fd = listener.fd, .events = POLLIN };
        int fd = -1;

        if (a->behind)
                pthread_join(a->behind->thread, NULL);
        usleep(a->after_ms * 1000);
        if (a->connects) {
                a->k = vhk_sock_connect(path, 5 * SECOND, &fd, NULL);
        } else {
                poll(&p, 1, 5000);
                a->k = vhk_listener_accept(&listener, &fd);
        }
        if (a->k >= 0)
                fake_start(a->b, fd);
        return NULL;
}

static void will_arrive(struct arrival *a, struct fake *b, unsigned after_ms, bool connects) {
        *a = (struct arrival){ .b = b, .after_ms = after_ms, .connects = connects };
        CHECK(pthread_create(&a->thread, NULL, arrive, a) == 0);
}

static void arrived(struct arrival *a) {
        pthread_join(a->thread, NULL);
        CHECK_OK(a->k);
}

static void make_fake(struct fake *b) {
        fake_init(b);
        b->state.protocol_offered |= INFLIGHT | VHK_BIT(VHK_PF_LOG_SHMFD) | VHK_BIT(VHK_PF_NET_MTU) | VHK_BIT(VHK_PF_CROSS_ENDIAN) |
                                     VHK_BIT(VHK_PF_CRYPTO_SESSION);
        b->state.features_offered |= VHK_BIT(3);        /* VIRTIO_NET_F_MTU */
}

static void init(void) {
        for (unsigned i = 0; i < VHK_N(fakes); i++)
                make_fake(&fakes[i]);
        snprintf(dir, sizeof(dir), "/tmp/vhk-test-again-XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
        options = (struct vhk_frontend_options){ .size = sizeof(options), .limit_ns = 10 * SECOND, .on_event = on_event, .reconnect_ns = 10 * SECOND };
        n_gone = n_back = n_changed = 0;
        CHECK_OK(vhk_memory_new(&memory));
        void *p;
        CHECK_OK(vhk_memory_alloc(memory, RINGS_BYTES, &p));
        vhk_gpa_t at;
        CHECK_OK(vhk_memory_find(memory, p, RINGS_BYTES, &at));
        rings = p;
        gpa = at.v;
}

static void open_it(bool we_listen) {
        struct arrival a;

        init();
        if (we_listen)
                options.mode = VHK_SOCKET_LISTEN;
        else
                CHECK_OK(vhk_listener_open(path, &listener, NULL));
        will_arrive(&a, &fakes[0], 0, we_listen);
        int k = vhk_frontend_open(path, &options, &f, &err);
        arrived(&a);
        CHECK_MSG(k == 0, "%s", err.text);
}

static void close_it(void) {
        f = vhk_frontend_close(f);
        vhk_listener_close(&listener);
        vhk_memory_free(memory);
        CHECK_OK(rmdir(dir));
}

static void ended(struct fake *b) {
        fake_stop(b);
        CHECK_MSG(b->broken == VHK_RULE_OK, "the front-end broke %s", vhk_rule_id(b->broken));
}

static void start(unsigned i, int kick) {
        struct vhk_ring_setup s = { .size = sizeof(s), .num = 16, .desc = gpa + i * 0x4000, .driver = gpa + i * 0x4000 + 0x1000,
                .device = gpa + i * 0x4000 + 0x2000, .kick_fd = kick, .call_fd = kick, .err_fd = -1 };

        CHECK_OK(vhk_frontend_start_queue(f, i, &s));
}

static void use_it(int kick) {
        CHECK_OK(vhk_frontend_set_status(f, 0));
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        start(1, kick);
        start(3, kick);
        CHECK_OK(vhk_frontend_enable_queue(f, 3, 0));
        CHECK_OK(vhk_frontend_set_status(f, 15));
        vhk_drain_fd(kick);
}

static void check_order(const struct fake *b, const uint32_t *want, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                CHECK_MSG(i < b->total && b->order[i] == want[i], "message %u is %u, expected %u", i, i < b->total ? b->order[i] : 0, want[i]);
        CHECK_EQ(b->total, n);
}

TEST(everything_is_said_again) {
        int kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct arrival a;
        uint8_t status;

        open_it(false);
        use_it(kick);
        CHECK_EQ(fakes[0].count[VHK_FE_GET_INFLIGHT_FD], 1);    /* one record, for all rings */
        CHECK_EQ(fakes[0].count[VHK_FE_SET_INFLIGHT_FD], 1);
        ended(&fakes[0]);
        /* what the one before had answered */
        ((struct vhk_used *)(rings + 0x4000 + 0x2000))->idx = vhk_le16_of(41);
        ((struct vhk_used *)(rings + 3 * 0x4000 + 0x2000))->idx = vhk_le16_of(65535);
        fakes[1].status = 15;
        will_arrive(&a, &fakes[1], 30, false);
        CHECK_OK(vhk_frontend_get_status(f, &status));          /* waits, and does not notice */
        CHECK_EQ(status, 15);
        arrived(&a);
        CHECK_EQ(n_back, 1);
        CHECK_EQ(n_gone, 0);
        CHECK_EQ(n_changed, 1);                                 /* it may be another disk by now */
        CHECK_EQ(fakes[1].base.num, 65535);
        CHECK_EQ(fakes[1].state.features & ~VHK_BIT(VHK_F_PROTOCOL_FEATURES), FEATURES);
        CHECK_EQ(vhk_drain_fd(kick), 1);
#define RING VHK_FE_SET_VRING_NUM, VHK_FE_SET_VRING_BASE, VHK_FE_SET_VRING_ADDR, VHK_FE_SET_VRING_CALL, VHK_FE_SET_VRING_KICK, VHK_FE_SET_VRING_ENABLE
        check_order(&fakes[1], (uint32_t[]){
                VHK_FE_GET_FEATURES, VHK_FE_GET_PROTOCOL_FEATURES, VHK_FE_SET_PROTOCOL_FEATURES, VHK_FE_GET_QUEUE_NUM, VHK_FE_GET_MAX_MEM_SLOTS,
                VHK_FE_SET_BACKEND_REQ_FD, VHK_FE_SET_OWNER, VHK_FE_SET_STATUS, VHK_FE_SET_FEATURES, VHK_FE_SET_STATUS, VHK_FE_ADD_MEM_REG,
                VHK_FE_SET_INFLIGHT_FD, RING, RING, VHK_FE_SET_STATUS, VHK_FE_GET_STATUS }, 26);

        /* and a third, found by whoever looks after the connection; what was stopped stays so */
        CHECK_OK(vhk_frontend_stop_queue(f, 1, NULL));
        ended(&fakes[1]);
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        char hidden[100];
        snprintf(hidden, sizeof(hidden), "%s.away", path);
        CHECK_OK(rename(path, hidden));
        CHECK_EQ(poll(&p, 1, 5000), 1);
        CHECK_EQ(vhk_frontend_dispatch(f), 0);                  /* gone; nobody is there yet, and it does not wait */
        CHECK_EQ(n_back, 1);
        CHECK_OK(rename(hidden, path));
        will_arrive(&a, &fakes[2], 0, false);
        while (n_back < 2) {
                CHECK_EQ(poll(&p, 1, 5000), 1);
                CHECK_OK(vhk_frontend_dispatch(f));
        }
        arrived(&a);
        CHECK_EQ(fakes[2].count[VHK_FE_SET_VRING_KICK], 1);
        CHECK_EQ(fakes[2].kick_word, 3);
        CHECK_EQ(fakes[2].count[VHK_FE_GET_INFLIGHT_FD], 0);
        /* a life that is over needs a new record */
        CHECK_OK(vhk_frontend_reset(f));
        start(0, kick);
        CHECK_EQ(fakes[2].count[VHK_FE_GET_INFLIGHT_FD], 1);
        close_it();
        ended(&fakes[2]);
        close(kick);
}

/* A migration goes on: where writes are logged, and that they are. */
TEST(a_log_is_told_again) {
        int kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), log = memfd_create("log", MFD_CLOEXEC);
        struct arrival a;
        uint8_t status;

        open_it(false);
        use_it(kick);
        CHECK_OK(vhk_frontend_set_log(f, log, 4096, 8192));
        CHECK_OK(vhk_frontend_log_data(f, 1));
        CHECK_OK(vhk_frontend_log_queue(f, 3, 1, 0x1234000));
        ended(&fakes[0]);
        close(log);
        will_arrive(&a, &fakes[1], 0, false);
        CHECK_OK(vhk_frontend_get_status(f, &status));
        arrived(&a);
        CHECK_EQ(fakes[1].count[VHK_FE_SET_LOG_BASE], 1);
        CHECK(fakes[1].state.features & VHK_BIT(VHK_F_LOG_ALL));
        CHECK_EQ(fakes[1].addr.index, 3);
        CHECK_EQ(fakes[1].addr.flags, VHK_VRING_F_LOG);
        CHECK_EQ(fakes[1].addr.log_guest_addr, 0x1234000);
        close_it();
        ended(&fakes[1]);
        close(kick);
}

/* A call in whose middle the back-end dies is made again. */
TEST(a_call_that_was_cut_short) {
        struct arrival a;

        open_it(false);
        fakes[0].mischief = CLOSES_IN_PAYLOAD;
        fakes[0].at = VHK_FE_SET_FEATURES;
        will_arrive(&a, &fakes[1], 10, false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        arrived(&a);
        CHECK_EQ(fakes[1].state.features & FEATURES, FEATURES);
        CHECK_EQ(n_back, 1);
        ended(&fakes[0]);
        close_it();
        ended(&fakes[1]);
}

/* It dies again while everything is being said. */
TEST(a_successor_that_dies_at_once) {
        int kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct arrival a, b;
        uint8_t status;

        open_it(false);
        use_it(kick);
        ended(&fakes[0]);
        fakes[1].mischief = CLOSES;
        fakes[1].at = VHK_FE_SET_VRING_KICK;
        fakes[1].skip = 1;
        will_arrive(&a, &fakes[1], 0, false);
        b = (struct arrival){ .b = &fakes[2], .behind = &a };
        CHECK(pthread_create(&b.thread, NULL, arrive, &b) == 0);
        CHECK_OK(vhk_frontend_get_status(f, &status));
        arrived(&b);
        CHECK_OK(a.k);
        CHECK_EQ(n_back, 1);
        CHECK_EQ(fakes[2].count[VHK_FE_SET_VRING_KICK], 2);
        ended(&fakes[1]);
        close_it();
        ended(&fakes[2]);
        close(kick);
}

TEST(a_successor_that_will_not_do) {
        struct arrival a;
        uint8_t status;

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        ended(&fakes[0]);
        fakes[1].state.features_offered &= ~VHK_BIT(VHK_F_INDIRECT_DESC);
        will_arrive(&a, &fakes[1], 0, false);
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EPIPE);
        arrived(&a);
        CHECK_EQ(n_gone, 1);
        CHECK_EQ(n_back, 0);
        CHECK_STR(vhk_frontend_get_error(f)->rule, "frontend.other-back-end");
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EPIPE);
        CHECK_EQ(n_gone, 1);
        close_it();
        ended(&fakes[1]);
}

TEST(nobody_comes_any_more) {
        uint8_t status;

        open_it(false);
        ended(&fakes[0]);
        vhk_listener_close(&listener);
        listener.fd = -1;
        f->options.reconnect_ns = SECOND / 20;
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EPIPE);
        CHECK_EQ(n_gone, 1);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPIPE);
        close_it();
}

/* A call has a time limit of its own; afterwards the search goes on. */
TEST(a_call_does_not_wait_for_ever) {
        struct arrival a;
        uint8_t status;

        open_it(false);
        ended(&fakes[0]);
        struct vhk_listener away = listener;
        char hidden[100];
        snprintf(hidden, sizeof(hidden), "%s.away", path);
        CHECK_OK(rename(path, hidden));
        f->options.limit_ns = SECOND / 20;
        CHECK_EQ(vhk_frontend_get_status(f, &status), -ETIMEDOUT);
        CHECK_EQ(n_gone, 0);
        CHECK_OK(rename(hidden, path));
        listener = away;
        f->options.limit_ns = 10 * SECOND;
        will_arrive(&a, &fakes[1], 0, false);
        CHECK_OK(vhk_frontend_get_status(f, &status));
        arrived(&a);
        close_it();
        ended(&fakes[1]);
}

TEST(we_listen_and_the_next_comes) {
        struct arrival a;
        uint8_t status;

        listener.fd = -1;
        open_it(true);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        ended(&fakes[0]);
        will_arrive(&a, &fakes[1], 20, true);
        CHECK_OK(vhk_frontend_get_status(f, &status));
        arrived(&a);
        CHECK_EQ(n_back, 1);
        CHECK_EQ(fakes[1].state.features & FEATURES, FEATURES);
        close_it();                                             /* and the socket file has gone */
        ended(&fakes[1]);
}

TEST(a_ring_is_suspended) {
        int kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct vhk_ring_base base;

        open_it(false);
        use_it(kick);
        CHECK_OK(vhk_frontend_suspend_queue(f, 1, &base));
        CHECK_EQ(base.avail, 7);
        CHECK_EQ(fakes[0].count[VHK_FE_GET_VRING_BASE_SKIP_DRAIN], 1);
        CHECK_EQ(fakes[0].count[VHK_FE_GET_VRING_BASE], 0);
        close_it();
        ended(&fakes[0]);
        close(kick);
}

/* Who does not want to reconnect has nothing of it: neither the bits nor the record. */
TEST(without_it_the_end_is_the_end) {
        struct arrival a;
        uint8_t status;
        struct vhk_frontend_info i = { .size = sizeof(i) };

        init();
        options.reconnect_ns = 0;
        CHECK_OK(vhk_listener_open(path, &listener, NULL));
        will_arrive(&a, &fakes[0], 0, false);
        CHECK_OK(vhk_frontend_open(path, &options, &f, &err));
        arrived(&a);
        CHECK_OK(vhk_frontend_get_info(f, &i));
        CHECK_EQ(i.carrier_acked & INFLIGHT, 0);
        CHECK_EQ(i.capabilities & VHK_CAP_SUSPEND, 0);
        CHECK_EQ(vhk_frontend_suspend_queue(f, 0, NULL), -EOPNOTSUPP);
        ended(&fakes[0]);
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EPIPE);
        CHECK_EQ(n_gone, 1);
        close_it();
}

/* ---- what was set ---- */

static uint8_t get_status(void) {
        uint8_t status = 0xee;

        CHECK_OK(vhk_frontend_get_status(f, &status));
        return status;
}

TEST(all_that_was_set_is_replayed) {
        struct arrival a;
        int event = eventfd(0, EFD_CLOEXEC);

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        CHECK_OK(vhk_frontend_set_config(f, 32, &(uint8_t){ 9 }, 1, VHK_CONFIG_DRIVER));
        CHECK_OK(vhk_frontend_set_config(f, 32, &(uint8_t){ 0 }, 1, VHK_CONFIG_DRIVER));        /* the last one counts */
        CHECK_OK(vhk_frontend_set_config(f, 33, "ab", 2, VHK_CONFIG_DRIVER));
        CHECK_OK(vhk_frontend_set_config(f, 35, "c", 1, VHK_CONFIG_MIGRATION));
        CHECK_OK(vhk_frontend_set_config(f, 255, "d", 1, VHK_CONFIG_DRIVER));
        CHECK_OK(vhk_frontend_set_mtu(f, 1400));
        CHECK_OK(vhk_frontend_set_vring_endian(f, 2, 1));
        CHECK_OK(vhk_frontend_set_log_fd(f, event));
        start(1, -1);
        ended(&fakes[0]);
        close(event);
        memset(fakes[1].config, 0xee, sizeof(fakes[1].config));
        will_arrive(&a, &fakes[1], 0, false);
        get_status();
        arrived(&a);
        CHECK(!memcmp(fakes[1].config + 31, "\xee\0abc\xee", 6));
        CHECK_EQ(fakes[1].config[255], 'd');
        CHECK_EQ(fakes[1].count[VHK_FE_SET_CONFIG], 3);
        CHECK_EQ(fakes[1].count[VHK_FE_NET_SET_MTU], 1);
        CHECK_EQ(fakes[1].count[VHK_FE_SET_VRING_ENDIAN], 1);
        CHECK_EQ(fakes[1].count[VHK_FE_SET_LOG_FD], 1);
        unsigned config_at = 0, kick_at = 0;
        for (unsigned i = 0; i < fakes[1].total; i++) {
                config_at = fakes[1].order[i] == VHK_FE_SET_CONFIG ? i : config_at;
                kick_at = fakes[1].order[i] == VHK_FE_SET_VRING_KICK ? i : kick_at;
        }
        CHECK(config_at && config_at < kick_at);                /* before the first write of a guest */
        close_it();
        ended(&fakes[1]);
}

TEST(a_successor_that_does_not_take_the_configuration_will_not_do) {
        struct arrival a;
        uint8_t status;

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_config(f, 32, "", 1, VHK_CONFIG_DRIVER));
        ended(&fakes[0]);
        fakes[1].at = VHK_FE_SET_CONFIG;
        fakes[1].mischief = REFUSES;
        will_arrive(&a, &fakes[1], 0, false);
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EPIPE);
        arrived(&a);
        CHECK_STR(vhk_frontend_get_error(f)->rule, "frontend.other-back-end");
        close_it();
        ended(&fakes[1]);
}

TEST(a_device_reset_voids_what_was_written) {
        for (int by_status = 0; by_status < 2; by_status++) {
                struct arrival a;

                open_it(false);
                CHECK_OK(vhk_frontend_set_features(f, FEATURES));
                CHECK_OK(vhk_frontend_set_memory(f, memory));
                CHECK_OK(vhk_frontend_set_config(f, 32, "", 1, VHK_CONFIG_DRIVER));
                start(1, -1);
                CHECK_OK(by_status ? vhk_frontend_set_status(f, 0) : vhk_frontend_reset(f));
                ended(&fakes[0]);
                will_arrive(&a, &fakes[1], 0, false);
                get_status();
                arrived(&a);
                CHECK_EQ(fakes[1].count[VHK_FE_SET_CONFIG], 0);
                CHECK_EQ(fakes[1].count[VHK_FE_SET_VRING_KICK], 0);
                CHECK_EQ(fakes[1].count[VHK_FE_SET_INFLIGHT_FD], 0);
                start(1, -1);
                CHECK_EQ(fakes[1].count[VHK_FE_GET_INFLIGHT_FD], 1);
                close_it();
                ended(&fakes[1]);
        }
}

TEST(a_log_that_was_taken_away_is_not_replayed) {
        int log = memfd_create("log", MFD_CLOEXEC);
        struct arrival a;

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_log(f, log, 0, 4096));
        CHECK_OK(vhk_frontend_set_log(f, -1, 0, 0));
        ended(&fakes[0]);
        will_arrive(&a, &fakes[1], 0, false);
        get_status();
        arrived(&a);
        CHECK_EQ(fakes[1].count[VHK_FE_SET_LOG_BASE], 0);
        close_it();
        ended(&fakes[1]);
        close(log);
}

/* ---- the in-flight record ---- */

TEST(suspended_rings_that_start_one_after_another_keep_the_record) {
        struct vhk_ring_base base;

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        start(0, -1);
        start(1, -1);
        CHECK_OK(vhk_frontend_suspend_queue(f, 0, &base));
        CHECK_OK(vhk_frontend_suspend_queue(f, 1, &base));
        start(0, -1);                           /* at 0: never used, or 65,536 requests later */
        start(1, -1);
        CHECK_EQ(fakes[0].count[VHK_FE_GET_INFLIGHT_FD], 1);
        close_it();
        ended(&fakes[0]);
}

/* ---- back-ends that die of what they are told ---- */

/* Serves one connection after another, each in the way of @prepare, until @stop. */
struct crash_loop { pthread_t thread; void (*prepare)(struct fake *b); unsigned n; bool stop; };

static void *serve_and_crash(void *arg) {
        struct crash_loop *l = arg;
        struct fake *b = &fakes[1];
        struct pollfd p = { .events = POLLIN };
        int k;

        while (!vhk_load_acquire(&l->stop)) {
                int fd;
                p.fd = listener.fd;
                if (poll(&p, 1, 5) <= 0 || vhk_listener_accept(&listener, &fd) < 0)
                        continue;
                make_fake(b);
                l->prepare(b);
                b->fd = fd;
                vhk_conn_init(&b->conn, fd);
                p.fd = fd;
                do {
                        poll(&p, 1, 10000);
                        while ((k = vhk_conn_receive(&b->conn)) == VHK_CONN_HEADER || k == VHK_CONN_MESSAGE)
                                if (k == VHK_CONN_MESSAGE)
                                        fake_message(b);
                } while (k == VHK_CONN_AGAIN);
                vhk_conn_done(&b->conn);
                vhk_close(&b->channel);
                l->n++;
        }
        return NULL;
}

static void begin_crashing(struct crash_loop *l, void (*prepare)(struct fake *b)) {
        *l = (struct crash_loop){ .prepare = prepare };
        CHECK_OK(pthread_create(&l->thread, NULL, serve_and_crash, l));
}

static void end_crashing(struct crash_loop *l) {
        vhk_store_release(&l->stop, true);
        pthread_join(l->thread, NULL);
}

static void die_of_get_config(struct fake *b) {
        b->at = VHK_FE_GET_CONFIG;
        b->mischief = CLOSES;
}

TEST(a_message_that_kills_each_back_end_is_given_up_and_named) {
        struct crash_loop l;
        uint8_t config[8];

        open_it(false);
        f->options.limit_ns = f->options.reconnect_ns = 3600 * SECOND;
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        ended(&fakes[0]);
        begin_crashing(&l, die_of_get_config);
        CHECK_EQ(vhk_frontend_get_config(f, 0, config, 8), -EPIPE);
        end_crashing(&l);
        CHECK(l.n >= 4 && l.n < 20);
        CHECK_EQ(n_gone, 1);
        CHECK_STR(vhk_frontend_get_error(f)->rule, "frontend.keeps-dying");
        CHECK(strstr(vhk_frontend_get_error(f)->text, "GET_CONFIG"));
        close_it();
}

TEST(a_call_ends_at_its_limit_however_many_back_ends_die_of_it) {
        struct crash_loop l;
        uint8_t config[8];

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        ended(&fakes[0]);
        f->options.limit_ns = SECOND / 50;
        begin_crashing(&l, die_of_get_config);
        CHECK_EQ(vhk_frontend_get_config(f, 0, config, 8), -ETIMEDOUT);
        end_crashing(&l);
        CHECK_EQ(n_gone, 0);
        close_it();
}

/* In the replay, before all is set up ... */
static void die_of_start(struct fake *b) {
        b->at = VHK_FE_SET_VRING_ENABLE;
        b->mischief = CLOSES;
}

/* ... and after it: SET_STATUS, whose acknowledgement still comes, is the last message. */
static void die_when_all_is_said(struct fake *b) {
        b->at = VHK_FE_SET_STATUS;
        b->skip = 2;
        b->mischief = ANSWERS_AND_CLOSES;
}

static void check_killing_request(void (*prepare)(struct fake *b)) {
        struct vhk_inflight_split record = { .version = 1, .n_entries = 1024 };
        size_t region = (vhk_inflight_split_bytes(1024) + 63) & ~(size_t)63;
        struct vhk_inflight_split_entry entry = { .inflight = 1, .counter = 3 };
        int fd = memfd_create("record", MFD_CLOEXEC);
        struct crash_loop l;

        open_it(false);
        CHECK_OK(ftruncate(fd, 1 << 20));
        fakes[0].record = fd;
        CHECK_OK(vhk_frontend_set_status(f, 0));
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        start(1, -1);
        CHECK_OK(vhk_frontend_set_status(f, 15));
        /* the device took descriptor 5 of ring 1, and died */
        CHECK_EQ(pwrite(fd, &record, sizeof(record), (off_t)region), (ssize_t)sizeof(record));
        CHECK_EQ(pwrite(fd, &entry, sizeof(entry), (off_t)(region + sizeof(record) + 5 * sizeof(entry))), (ssize_t)sizeof(entry));
        ended(&fakes[0]);
        f->options.reconnect_ns = 3600 * SECOND;
        begin_crashing(&l, prepare);
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        int k = 0;
        while (k >= 0) {
                CHECK_EQ(poll(&p, 1, 10000), 1);
                k = vhk_frontend_dispatch(f);
        }
        end_crashing(&l);
        CHECK_EQ(k, -EPIPE);
        CHECK_STR(vhk_frontend_get_error(f)->rule, "frontend.keeps-dying");
        CHECK_MSG(strstr(vhk_frontend_get_error(f)->text, "descriptor 5 of ring 1"), "%s", vhk_frontend_get_error(f)->text);
        close_it();
        close(fd);
}

TEST(a_request_in_the_record_that_kills_each_back_end_is_given_up_and_named) {
        check_killing_request(die_of_start);
        check_killing_request(die_when_all_is_said);
}

/* ---- nobody is waited for ---- */

TEST(dispatch_does_not_wait_for_a_back_end_that_accepts_and_is_silent) {
        struct pollfd p;
        struct arrival a;

        open_it(false);
        f->options.limit_ns = f->options.reconnect_ns = 3600 * SECOND;
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        ended(&fakes[0]);                       /* the socket still listens: who connects waits to be accepted */
        p = (struct pollfd){ .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        for (unsigned i = 0; i < 5; i++) {
                poll(&p, 1, 5);
                CHECK_EQ(vhk_frontend_dispatch(f), 0);
        }
        CHECK_EQ(n_back, 0);
        will_arrive(&a, &fakes[1], 0, false);   /* it goes on with the connection that waited */
        while (!n_back) {
                CHECK_EQ(poll(&p, 1, 10000), 1);
                CHECK_OK(vhk_frontend_dispatch(f));
        }
        arrived(&a);
        CHECK_EQ(fakes[1].state.features & FEATURES, FEATURES);
        close_it();
        ended(&fakes[1]);
}

TEST(a_call_goes_on_with_what_dispatch_has_begun) {
        struct arrival a;

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        ended(&fakes[0]);
        CHECK_EQ(vhk_frontend_dispatch(f), 0);
        will_arrive(&a, &fakes[1], 10, false);
        get_status();
        arrived(&a);
        CHECK_EQ(n_back, 1);
        close_it();
        ended(&fakes[1]);
}

TEST(closing_looks_for_nobody) {
        open_it(false);
        f->options.limit_ns = f->options.reconnect_ns = 3600 * SECOND;
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, memory));
        start(0, -1);
        start(1, -1);
        ended(&fakes[0]);
        CHECK_OK(vhk_frontend_prepare_close(f));
        CHECK_EQ(vhk_frontend_stop_queue(f, 0, NULL), -EPIPE);
        CHECK_EQ(vhk_frontend_stop_queue(f, 1, NULL), -EPIPE);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPIPE);
        close_it();
}

TEST(crypto_sessions_do_not_survive) {
        uint8_t session[1072] = { 0 }, status;
        struct arrival a;
        uint64_t id;

        open_it(false);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_crypto_create(f, VHK_CRYPTO_FORM_1072, session, &id));
        ended(&fakes[0]);
        will_arrive(&a, &fakes[1], 0, true);
        arrived(&a);
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EPIPE);
        CHECK_STR(vhk_frontend_get_error(f)->rule, "frontend.crypto");
        close_it();
        fake_stop(&fakes[1]);
}
