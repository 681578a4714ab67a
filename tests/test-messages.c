/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Messages that need a device for them, from one end of the library to the other: each with success and refusal, whoever of the
 * two listens. Over the public headers alone.
 */
#include "base/test.h"

#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>

#include <vhostkit/vhostkit.h>

#define BIT(n) (1ull << (n))
#define INBAND BIT(14)
#define CROSS_ENDIAN BIT(6)
#define HOST_NOTIFIER BIT(11)
#define MTU_FEATURE BIT(3)

/* ---- the device: a card and a cipher at the same time; what it sees is read when the front-end's call has returned ---- */

static uint8_t mac[6], session[1072];
static unsigned mtu, n_closed;

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r[4];
        int n;

        while ((n = vhk_queue_pop(q, r, 4)) > 0)
                for (int i = 0; i < n; i++)
                        vhk_queue_push(q, r[i], (uint32_t)vhk_req_write(r[i], 0, "used", 4));
        vhk_queue_flush(q);
}

static int send_rarp(void *arg, const uint8_t m[6]) {
        memcpy(mac, m, 6);
        return m[5] == 0xff ? -EIO : 0;
}

static int set_mtu(void *arg, uint16_t m) {
        mtu = m;
        return m > 9000 ? -ERANGE : 0;
}

static int64_t create_session(void *arg, enum vhk_crypto_form form, const void *s) {
        memcpy(session, s, form == VHK_CRYPTO_FORM_632 ? 632 : 1072);
        return form == VHK_CRYPTO_FORM_632 ? 6 : 1;
}

static int close_session(void *arg, uint64_t id) {
        n_closed++;
        return id == 6 || id == 1 ? 0 : -ENOENT;
}

static const struct vhk_net_ops net = { sizeof(net), send_rarp, set_mtu };
static const struct vhk_crypto_ops crypto = { sizeof(crypto), create_session, close_session };
static struct vhk_device_ops ops;

/* ---- both ends ---- */

static struct vhk_worker *worker;
static struct vhk_backend *backend;
static struct vhk_frontend *f;
static pthread_t thread;
static char dir[64], path[80];
static int ended, connected;
static unsigned n_called, n_broken, n_config;
static struct vhk_host *host;

static int attach(void *arg, struct vhk_host *h) {
        host = h;
        return 0;
}

static int get_config(void *arg, uint32_t off, void *buf, uint32_t n) {
        memset(buf, 0, n);
        return 0;
}

static void on_backend_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        if (ev == VHK_BACKEND_ENDED)
                ended = 1;
}

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_config += ev == VHK_FRONTEND_CONFIG_CHANGED;
}

static void on_queue(void *arg, unsigned queue, enum vhk_frontend_queue_event ev) {
        CHECK_EQ(queue, 0);
        CHECK_EQ(vhk_frontend_kick_queue(f, 0), -EDEADLK);
        n_called += ev == VHK_FRONTEND_QUEUE_CALLED;
        n_broken += ev == VHK_FRONTEND_QUEUE_BROKEN;
}

static int notifier_fd = -1, refuse_notifier;
static unsigned n_notifiers, n_taken_away;
static uint64_t notifier_offset;

static int on_notifier(void *arg, unsigned queue, int fd, uint64_t offset) {
        CHECK_EQ(queue, 0);
        n_notifiers += fd >= 0;
        n_taken_away += fd < 0;
        notifier_fd = fd;
        notifier_offset = offset;
        return refuse_notifier;
}

static void *work(void *arg) {
        while (!ended)
                vhk_worker_dispatch(worker, -1);
        return NULL;
}

/* Whoever listens has to be there first: a front-end that listens is served by a back-end that tries until it is. */
static void *connect_backend(void *arg) {
        struct vhk_error e = { .text = "" };
        int k;

        for (int i = 0; (k = vhk_backend_open(path, arg, &ops, NULL, &backend, &e)) < 0; i++) {
                CHECK_MSG((k == -ENOENT || k == -ECONNREFUSED) && i < 2000, "%s", e.text);
                usleep(1000);
        }
        return work(NULL);
}

static void open_both(int frontend_listens, int has_groups, uint64_t protocol_offer, vhk_frontend_queue_fn listener) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .limit_ns = 10000000000, .on_queue = listener, .on_event = on_event,
                                            .on_notifier = protocol_offer & HOST_NOTIFIER ? on_notifier : NULL };
        static struct vhk_backend_options bo;
        struct vhk_error e = { .text = "" };

        ops = (struct vhk_device_ops){ .size = sizeof(ops), .virtio_id = 1, .n_queues = 1, .queue_size_max = 64, .queue_run = device_run,
                                       .config_len = 8, .get_config = get_config, .attach = attach, .features = MTU_FEATURE,
                                       .net = has_groups ? &net : NULL, .crypto = has_groups ? &crypto : NULL };
        snprintf(dir, sizeof(dir), "/tmp/vhk-test-messages-XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
        ended = 0;
        connected = frontend_listens;
        n_called = n_broken = n_config = 0;
        CHECK_OK(vhk_worker_new(NULL, NULL, &worker));
        bo = (struct vhk_backend_options){ .size = sizeof(bo), .control = worker, .on_event = on_backend_event, .protocol_offer = protocol_offer,
                                           .mode = frontend_listens ? VHK_SOCKET_CONNECT : VHK_SOCKET_LISTEN };
        fo.mode = frontend_listens ? VHK_SOCKET_LISTEN : VHK_SOCKET_CONNECT;
        if (!frontend_listens)
                CHECK_MSG(vhk_backend_open(path, &bo, &ops, NULL, &backend, &e) == 0, "%s", e.text);
        CHECK_EQ(pthread_create(&thread, NULL, frontend_listens ? connect_backend : work, &bo), 0);
        CHECK_MSG(vhk_frontend_open(path, &fo, &f, &e) == 0, "%s", e.text);
        CHECK_OK(vhk_frontend_set_features(f, BIT(32) | MTU_FEATURE));
}

static void close_both(void) {
        f = vhk_frontend_close(f);
        if (!connected)                 /* else it ends with its front-end, perhaps before we could say so */
                CHECK_OK(vhk_backend_stop(backend, VHK_STOP_DRAIN, 0));
        pthread_join(thread, NULL);
        vhk_backend_free(backend);
        vhk_worker_free(worker);
        unlink(path);
        CHECK(rmdir(dir) == 0);
}

static uint32_t capabilities(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };
        CHECK_OK(vhk_frontend_get_info(f, &i));
        return i.capabilities & (VHK_CAP_INBAND | VHK_CAP_ENDIAN | VHK_CAP_RARP | VHK_CAP_MTU | VHK_CAP_CRYPTO);
}

#define BOTH_WAYS(listens) for (int listens = 0; listens < 2; listens++)

TEST(without_them) {
        uint8_t s[1072] = { 0 };
        uint64_t id = 99;

        BOTH_WAYS(listens) {
                open_both(listens, 0, INBAND, NULL);
                CHECK_EQ(capabilities(), 0);            /* nobody listens: in-band notifications are not taken either */
                CHECK_EQ(vhk_frontend_send_rarp(f, (const uint8_t *)"\2\0\0\0\0\1"), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_set_mtu(f, 1500), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_crypto_create(f, VHK_CRYPTO_FORM_1072, s, &id), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_crypto_close(f, 1), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_set_vring_endian(f, 0, 0), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_kick_queue(f, 0), -EOPNOTSUPP);
                CHECK_EQ(id, 99);
                close_both();
        }
}

TEST(network) {
        static const uint8_t good[6] = { 2, 0, 0, 1, 2, 3 }, group[6] = { 3, 0, 0, 1, 2, 3 }, bad[6] = { 2, 0, 0, 1, 2, 0xff };

        BOTH_WAYS(listens) {
                open_both(listens, 1, 0, NULL);
                CHECK_EQ(capabilities(), VHK_CAP_RARP | VHK_CAP_MTU | VHK_CAP_CRYPTO);
                CHECK_OK(vhk_frontend_send_rarp(f, good));
                CHECK(!memcmp(mac, good, 6));
                CHECK_EQ(vhk_frontend_send_rarp(f, group), -EREMOTEIO);
                CHECK(!memcmp(mac, good, 6));
                CHECK_EQ(vhk_frontend_send_rarp(f, bad), -EREMOTEIO);
                CHECK_OK(vhk_frontend_set_mtu(f, 9000));
                CHECK_EQ(mtu, 9000);
                CHECK_EQ(vhk_frontend_set_mtu(f, 9001), -EREMOTEIO);
                CHECK_EQ(vhk_frontend_set_mtu(f, 67), -EINVAL);         /* not even sent */
                close_both();
        }
}

TEST(crypto_sessions) {
        BOTH_WAYS(listens) {
                uint8_t s[1072];
                uint64_t id = 99;

                open_both(listens, 1, 0, NULL);
                memset(s, 0, sizeof(s));
                memset(s + 56, 0x55, 576);
                CHECK_OK(vhk_frontend_crypto_create(f, VHK_CRYPTO_FORM_632, s, &id));
                CHECK_EQ(id, 6);
                CHECK(!memcmp(session, s, 632));
                CHECK_OK(vhk_frontend_crypto_create(f, VHK_CRYPTO_FORM_1072, s, &id));
                CHECK_EQ(id, 1);
                CHECK(!memcmp(session, s, 1072));
                s[12] = 65;                                             /* a key longer than its room */
                CHECK_EQ(vhk_frontend_crypto_create(f, VHK_CRYPTO_FORM_1072, s, &id), -EREMOTEIO);
                CHECK_EQ(id, 1);
                CHECK_OK(vhk_frontend_crypto_close(f, 1));
                CHECK_EQ(vhk_frontend_crypto_close(f, 2), -EREMOTEIO);
                close_both();
        }
}

TEST(byte_order) {
        BOTH_WAYS(listens) {
                open_both(listens, 0, CROSS_ENDIAN, NULL);
                CHECK_EQ(capabilities(), VHK_CAP_ENDIAN);
                CHECK_OK(vhk_frontend_set_vring_endian(f, 0, 0));
                CHECK_EQ(vhk_frontend_set_vring_endian(f, 0, 1), -EREMOTEIO);
                CHECK_EQ(vhk_frontend_set_vring_endian(f, 1, 0), -EINVAL);
                close_both();
        }
}

TEST(config_changed) {
        BOTH_WAYS(listens) {
                struct pollfd p = { .events = POLLIN };

                open_both(listens, 0, 0, NULL);
                CHECK_OK(vhk_host_config_changed(host));
                p.fd = vhk_frontend_get_fd(f);
                CHECK_EQ(poll(&p, 1, 10000), 1);
                CHECK_EQ(vhk_frontend_dispatch(f), 1);
                CHECK_EQ(n_config, 1);
                close_both();
        }
}

static int answer, n_answers;

static void on_answer(void *arg, int error) {
        __atomic_store_n(&answer, error, __ATOMIC_RELAXED);
        __atomic_add_fetch(&n_answers, 1, __ATOMIC_RELEASE);    /* pairs with notifier() */
}

/* The device sets (@fd -1: takes away) the page of ring 0; what came of it. */
static int notifier(int fd, uint64_t offset) {
        int before = __atomic_load_n(&n_answers, __ATOMIC_ACQUIRE);
        int k = vhk_host_set_notifier_area(host, 0, fd, offset, on_answer, NULL);

        if (k < 0)
                return k;
        for (int i = 0; __atomic_load_n(&n_answers, __ATOMIC_ACQUIRE) == before; i++) {
                struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };
                CHECK(i < 10000);
                poll(&p, 1, 1);
                CHECK(vhk_frontend_dispatch(f) >= 0);
        }
        return __atomic_load_n(&answer, __ATOMIC_RELAXED);
}

TEST(pages_for_kicks) {
        uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

        open_both(0, 0, 0, NULL);
        CHECK_EQ(notifier(-1, 0), -EOPNOTSUPP);
        close_both();
        BOTH_WAYS(listens) {
                int fd = memfd_create("doorbell", MFD_CLOEXEC);

                CHECK(fd >= 0 && !ftruncate(fd, (off_t)(2 * page)));
                n_notifiers = n_taken_away = 0;
                refuse_notifier = 0;
                open_both(listens, 0, HOST_NOTIFIER, NULL);
                CHECK_EQ(vhk_host_set_notifier_area(host, 1, fd, 0, NULL, NULL), -EINVAL);
                CHECK_EQ(notifier(fd, page / 2), -EINVAL);
                CHECK_EQ(notifier(fd, UINT64_MAX - page + 1), -EINVAL);
                CHECK_EQ(notifier(fd, 2 * page), -EREMOTEIO);           /* behind its end */
                CHECK_EQ(notifier(-1, 0), 0);                           /* there is none: nothing to do */
                CHECK_EQ(n_notifiers + n_taken_away, 0);
                CHECK_EQ(notifier(fd, page), 0);
                CHECK(notifier_fd >= 0 && notifier_offset == page && n_notifiers == 1);
                CHECK_EQ(notifier(fd, 0), 0);                           /* replaced */
                CHECK(notifier_offset == 0 && n_notifiers == 2 && n_taken_away == 0);
                CHECK_EQ(notifier(-1, 0), 0);
                CHECK_EQ(n_taken_away, 1);
                refuse_notifier = -EPERM;
                CHECK_EQ(notifier(fd, 0), -EREMOTEIO);
                refuse_notifier = 0;
                CHECK_EQ(notifier(fd, 0), 0);
                CHECK_OK(vhk_frontend_reset(f));
                CHECK_EQ(n_taken_away, 2);
                CHECK_EQ(notifier(fd, 0), 0);
                close_both();
                CHECK_EQ(n_taken_away, 3);                              /* and the end takes it away, once */
                close(fd);
        }
}

/* The ring keeps its kick descriptor, which nobody writes to here; its call descriptor is taken away. */
TEST(in_band) {
        BOTH_WAYS(listens) {
                struct vhk_drvq_options o = { .size = sizeof(o), .num = 8 };
                struct vhk_done done;
                struct vhk_memory *m;
                struct vhk_drvq *q;
                void *buffer;

                open_both(listens, 0, INBAND, on_queue);
                CHECK_EQ(capabilities(), VHK_CAP_INBAND);
                CHECK_EQ(vhk_frontend_kick_queue(f, 1), -EINVAL);
                CHECK_EQ(vhk_frontend_kick_queue(f, 0), -EREMOTEIO);    /* not set up */
                CHECK_OK(vhk_memory_new(&m));
                CHECK_OK(vhk_memory_alloc(m, 4096, &buffer));
                CHECK_OK(vhk_drvq_new(f, m, 0, &o, &q));
                CHECK_OK(vhk_frontend_set_call_fd(f, 0, -1));
                for (unsigned i = 1; i <= 3; i++) {
                        struct iovec sg = { buffer, 4 };
                        CHECK_OK(vhk_drvq_add(q, &sg, 0, 1, buffer));
                        CHECK_EQ(vhk_drvq_arm(q), 0);
                        CHECK_OK(vhk_drvq_kick(q));
                        CHECK_OK(vhk_frontend_kick_queue(f, 0));
                        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };
                        int k;
                        while ((k = vhk_drvq_reap(q, &done, 1)) == 0) { /* a call may come too often, never too seldom */
                                CHECK_EQ(poll(&p, 1, 10000), 1);
                                CHECK_OK(vhk_frontend_dispatch(f));
                        }
                        CHECK_EQ(k, 1);
                        CHECK(done.len == 4 && !memcmp(buffer, "used", 4));
                }
                CHECK_EQ(n_broken, 0);
                for (struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN }; !n_called;) {
                        CHECK_EQ(poll(&p, 1, 10000), 1);
                        CHECK_OK(vhk_frontend_dispatch(f));
                }
                q = vhk_drvq_free(q);
                close_both();
                m = vhk_memory_free(m);
        }
}
