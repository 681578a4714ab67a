/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * For the tests of this room: a scripted front-end over sock's connection, a device that adds one to a number, guest
 * memory in a memfd, and driver-side rings in it. The back-end's control worker runs in the test's own thread: whoever
 * waits pumps it.
 */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <vhostkit/backend.h>
#include <vhostkit/drvq.h>

#include "base/fd.h"
#include "base/test.h"
#include "mem/mem.h"
#include "ring/ring.h"
#include "sock/sock.h"
#include "wire/wire.h"

#define N_RINGS 4u
#define RING_SIZE 16u
#define RING_SIZE_LARGE 1024u                   /* what QEMU 10.0 shows every driver */
#define RING_BYTES 0x10000u                     /* of memory for each ring and its buffers */
#define GPA UINT64_C(0x40000000)
#define MEM_BYTES (2u << 20)                    /* rings in the first half, buffers may be anywhere */
#define FEATURES (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_PROTOCOL_FEATURES) | VHK_BIT(VHK_F_EVENT_IDX) | VHK_BIT(VHK_F_INDIRECT_DESC))
#define PROTOCOL (VHK_BIT(VHK_PF_MQ) | VHK_BIT(VHK_PF_REPLY_ACK) | VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_CONFIG) | \
                  VHK_BIT(VHK_PF_RESET_DEVICE) | VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) | VHK_BIT(VHK_PF_STATUS))

static inline uint64_t now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the device ---- */

struct dev {
        struct vhk_host *host;
        bool hold;                              /* keep requests until release() */
        struct vhk_req *held[256];
        unsigned n_held;
        uint8_t config[20];
        uint64_t features;
        unsigned n_negotiated, n_start, n_stop, n_stopped, n_reset, n_disconnected;
        enum vhk_stop how;
        int refuse_start, refuse_features;
};

/* A request is a number; the answer is one more. */
static inline uint32_t dev_answer(struct vhk_req *r) {
        uint64_t x;

        if (vhk_req_read(r, 0, &x, sizeof(x)) < sizeof(x))
                return 0;
        x++;
        return (uint32_t)vhk_req_write(r, 0, &x, sizeof(x));
}

static inline void dev_run(void *arg, struct vhk_queue *q) {
        struct dev *d = arg;
        struct vhk_req *r[8];
        int n;

        while ((n = vhk_queue_pop(q, r, 8)) > 0)
                for (int i = 0; i < n; i++) {
                        if (d->hold)
                                d->held[d->n_held++] = r[i];
                        else
                                vhk_queue_push(q, r[i], dev_answer(r[i]));
                }
        vhk_queue_flush(q);
}

static inline void dev_release(struct dev *d) {
        for (unsigned i = 0; i < d->n_held; i++)
                vhk_req_complete(d->held[i], dev_answer(d->held[i]));
        d->n_held = 0;
}

static inline int dev_attach(void *arg, struct vhk_host *host) {
        ((struct dev *)arg)->host = host;
        return 0;
}

static inline int dev_negotiated(void *arg, uint64_t features) {
        struct dev *d = arg;
        if (d->refuse_features)
                return d->refuse_features;
        d->features = features;
        d->n_negotiated++;
        return 0;
}

static inline int dev_get_config(void *arg, uint32_t off, void *buf, uint32_t n) {
        struct dev *d = arg;
        CHECK(vhk_range_within(off, n, sizeof(d->config)));
        memcpy(buf, d->config + off, n);
        return 0;
}

static inline int dev_set_config(void *arg, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        struct dev *d = arg;
        CHECK(vhk_range_within(off, n, sizeof(d->config)));
        if (off < 4 && from == VHK_CONFIG_DRIVER)       /* the first word is read-only */
                return -EPERM;
        memcpy(d->config + off, buf, n);
        return 0;
}

static inline int dev_queue_start(void *arg, struct vhk_queue *q, struct vhk_worker *home) {
        struct dev *d = arg;
        d->n_start++;
        return d->refuse_start;
}

static inline void dev_queue_stop(void *arg, struct vhk_queue *q, enum vhk_stop how) {
        struct dev *d = arg;
        d->n_stop++;
        d->how = how;
}

static inline void dev_queue_stopped(void *arg, struct vhk_queue *q) {
        CHECK_EQ(vhk_queue_n_in_flight(q), 0);
        ((struct dev *)arg)->n_stopped++;
}

static inline void dev_reset(void *arg) {
        ((struct dev *)arg)->n_reset++;
}

static inline void dev_disconnected(void *arg) {
        ((struct dev *)arg)->n_disconnected++;
}

static const struct vhk_device_ops dev_ops = {
        .size = sizeof(dev_ops),
        .virtio_id = VHK_ID_RNG, .n_queues = N_RINGS, .queue_size_max = 256, .req_size = 16,
        .config_len = sizeof(((struct dev *)NULL)->config),
        .threads = VHK_THREADS_SINGLE, .disabled = VHK_DISABLED_HOLD, .features = VHK_BIT(5),
        .attach = dev_attach, .negotiated = dev_negotiated, .get_config = dev_get_config, .set_config = dev_set_config,
        .queue_start = dev_queue_start, .queue_run = dev_run, .queue_stop = dev_queue_stop, .queue_stopped = dev_queue_stopped,
        .reset = dev_reset,
        .disconnected = dev_disconnected,
};

/* ---- back-end, front-end and memory ---- */

struct ring {
        struct vhk_drvring *drv;
        int kick, call, err;
        uint64_t n_added, n_reaped;
        uint8_t *area;
        unsigned num;
};

struct rig {
        struct vhk_worker *control;
        int (*turn)(struct rig *r, int timeout_ms);     /* NULL: vhk_worker_dispatch() */
        struct vhk_backend *b;
        struct vhk_backend_options o;
        struct dev dev;
        char dir[64], path[80];
        unsigned n_connected, n_disconnected, n_ended;
        int last_error;                         /* of the last DISCONNECTED or ENDED */
        char last_rule[64];
        char log[4096];
        struct vhk_conn fe;
        uint64_t features, protocol;
        int memfd;
        uint8_t *mem;
        struct ring rings[N_RINGS];
        bool freed;
};

static inline void rig_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        struct rig *r = arg;

        r->n_connected += ev == VHK_BACKEND_CONNECTED;
        r->n_disconnected += ev == VHK_BACKEND_DISCONNECTED;
        r->n_ended += ev == VHK_BACKEND_ENDED;
        if (ev == VHK_BACKEND_CONNECTED)
                return;
        r->last_error = e ? e->code : 0;
        snprintf(r->last_rule, sizeof(r->last_rule), "%s", e && e->rule ? e->rule : "");
        if (ev == VHK_BACKEND_ENDED) {
                r->b = vhk_backend_free(r->b);
                r->freed = true;
        }
}

static inline void rig_log(void *arg, enum vhk_log_level level, const char *text) {
        struct rig *r = arg;
        size_t n = strlen(r->log);

        if (n + strlen(text) + 2 < sizeof(r->log))
                sprintf(r->log + n, "%s\n", text);
}

static inline int turn(struct rig *r, int timeout_ms) {
        return r->turn ? r->turn(r, timeout_ms) : vhk_worker_dispatch(r->control, timeout_ms);
}

static inline void pump(struct rig *r) {
        for (int i = 0; i < 50 && turn(r, 0) > 0; i++)
                ;
}

/* Pumps until @cond, 10 s at most. */
#define PUMP_UNTIL(r, cond)                                                                                             \
        do {                                                                                                            \
                uint64_t until_ = now_ns() + 10000000000u;                                                              \
                while (!(cond)) {                                                                                       \
                        CHECK_MSG(now_ns() < until_, "never: %s; log:\n%s", #cond, (r)->log);                           \
                        turn((r), 1);                                                                                  \
                }                                                                                                       \
        } while (0)

static inline void fe_connect(struct rig *r) {
        int fd;
        struct vhk_error e = { .text = "" };

        /* behind a storm the queue of waiting connections may still be full */
        CHECK_MSG(vhk_sock_connect(r->path, 5000000000u, &fd, &e) == 0, "%s", e.text);
        CHECK_OK(vhk_conn_init(&r->fe, fd));
        r->features = r->protocol = 0;
}

static inline void make_memory(struct rig *r) {
        r->memfd = memfd_create("test-backend", MFD_CLOEXEC);
        CHECK(r->memfd >= 0 && ftruncate(r->memfd, MEM_BYTES) == 0);
        r->mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r->memfd, 0);
        CHECK(r->mem != MAP_FAILED);
}

/* A listening back-end; @o and @ops may be NULL. @dev NULL: r->dev. The rig is zeroed, but for its loop. */
static inline void rig_open_with(struct rig *r, const struct vhk_backend_options *o, const struct vhk_device_ops *ops, void *dev) {
        struct vhk_error e = { .text = "" };

        r->fe.fd = -1;
        for (unsigned i = 0; i < sizeof(r->dev.config); i++)
                r->dev.config[i] = (uint8_t)(i + 1);
        snprintf(r->dir, sizeof(r->dir), "/tmp/vhk-test-backend-XXXXXX");
        CHECK(mkdtemp(r->dir));
        snprintf(r->path, sizeof(r->path), "%s/s", r->dir);
        if (!r->control)
                CHECK_OK(vhk_worker_new(NULL, NULL, &r->control));
        if (o)
                r->o = *o;
        r->o.size = sizeof(r->o);
        r->o.control = r->control;
        r->o.on_event = rig_event;
        r->o.event_arg = r;
        r->o.log = rig_log;
        r->o.log_arg = r;
        if (getenv("VHK_TEST_TRACE")) {
                r->o.trace = rig_log;
                r->o.trace_arg = r;
        }
        CHECK_MSG(vhk_backend_open(r->path, &r->o, ops ? ops : &dev_ops, dev ? dev : &r->dev, &r->b, &e) == 0, "%s", e.text);
        make_memory(r);
        for (unsigned i = 0; i < N_RINGS; i++)
                r->rings[i] = (struct ring){ .kick = -1, .call = -1, .err = -1, .num = RING_SIZE };
}

static inline void rig_open(struct rig *r, const struct vhk_backend_options *o, const struct vhk_device_ops *ops) {
        memset(r, 0, sizeof(*r));
        rig_open_with(r, o, ops, NULL);
}

static inline void ring_forget(struct ring *g) {
        g->drv = vhk_drvring_free(g->drv);
        vhk_close(&g->kick);
        vhk_close(&g->call);
        vhk_close(&g->err);
}

static inline void fe_close(struct rig *r) {
        vhk_conn_done(&r->fe);
        for (unsigned i = 0; i < N_RINGS; i++)
                ring_forget(&r->rings[i]);
}

/* The back-end ends and is freed. */
static inline void rig_end(struct rig *r) {
        fe_close(r);
        if (r->b) {
                CHECK_OK(vhk_backend_stop(r->b, VHK_STOP_DRAIN, 0));
                PUMP_UNTIL(r, r->freed);
        }
}

static inline void rig_close(struct rig *r) {
        rig_end(r);
        vhk_worker_free(r->control);
        munmap(r->mem, MEM_BYTES);
        close(r->memfd);
        CHECK(rmdir(r->dir) == 0);              /* the socket file has gone with the back-end */
}

/* ---- messages ---- */

static inline void fe_send(struct rig *r, uint32_t id, uint32_t flags, const void *payload, uint32_t size, const int *fds, unsigned n_fds) {
        struct vhk_hdr h = { id, VHK_HDR_VERSION | flags, size };
        int k = vhk_conn_send(&r->fe, &h, payload, fds, n_fds);
        CHECK_MSG(k == 0 || k == -EPIPE, "sending message %u: %s", id, strerror(-k));
}

/* A whole reply: its size, or -EPIPE if the back-end closed. */
static inline int fe_receive(struct rig *r, uint32_t id, void *buf, size_t room) {
        uint64_t until = now_ns() + 10000000000u;

        for (;;) {
                int k = vhk_conn_receive(&r->fe);
                if (k == VHK_CONN_MESSAGE) {
                        struct vhk_hdr h = vhk_decoder_header(&r->fe.in);
                        CHECK_EQ(h.request, id);
                        CHECK_EQ(h.flags, VHK_HDR_VERSION | VHK_HDR_REPLY);
                        CHECK(h.size <= room);
                        memcpy(buf, r->fe.in.payload, h.size);
                        vhk_decoder_next(&r->fe.in);
                        return (int)h.size;
                }
                if (k == VHK_CONN_EOF || k == VHK_CONN_CUT)
                        return -EPIPE;
                CHECK_OK(k);
                CHECK_MSG(now_ns() < until, "no reply to message %u; log:\n%s", id, r->log);
                if (k == VHK_CONN_AGAIN)
                        turn(r, 1);
        }
}

static inline uint64_t fe_get(struct rig *r, uint32_t id) {
        uint64_t x = 0;
        fe_send(r, id, 0, NULL, 0, NULL, 0);
        CHECK_EQ(fe_receive(r, id, &x, sizeof(x)), 8);
        return x;
}

/* The acknowledgement, or -EPIPE if the back-end closed. */
static inline int64_t fe_ask(struct rig *r, uint32_t id, const void *payload, uint32_t size, int fd) {
        uint64_t x = ~0ull;
        fe_send(r, id, VHK_HDR_NEED_REPLY, payload, size, &fd, fd >= 0);
        int k = fe_receive(r, id, &x, sizeof(x));
        if (k < 0)
                return k;
        CHECK_EQ(k, 8);
        return (int64_t)x;
}

static inline int64_t fe_ask_u64(struct rig *r, uint32_t id, uint64_t x) {
        return fe_ask(r, id, &x, sizeof(x), -1);
}

static inline int64_t fe_ask_ring(struct rig *r, uint32_t id, uint32_t index, uint32_t num) {
        struct vhk_p_vring_state p = { index, num };
        return fe_ask(r, id, &p, sizeof(p), -1);
}

static inline int64_t fe_ask_fd(struct rig *r, uint32_t id, uint32_t index, int fd) {
        uint64_t x = index | (fd < 0 ? VHK_RING_NO_FD : 0);
        return fe_ask(r, id, &x, sizeof(x), fd);
}

/* ---- a whole set-up ---- */

static inline void fe_negotiate(struct rig *r, uint64_t features, uint64_t protocol) {
        uint64_t offered = fe_get(r, VHK_FE_GET_FEATURES);
        CHECK_EQ(features & ~offered, 0);
        CHECK_EQ(protocol & ~fe_get(r, VHK_FE_GET_PROTOCOL_FEATURES), 0);
        fe_send(r, VHK_FE_SET_PROTOCOL_FEATURES, 0, &protocol, 8, NULL, 0);
        fe_send(r, VHK_FE_SET_OWNER, 0, NULL, 0, NULL, 0);
        fe_send(r, VHK_FE_SET_FEATURES, 0, &features, 8, NULL, 0);
        r->features = features;
        r->protocol = protocol;
}

static inline struct vhk_p_region region(struct rig *r, uint64_t off, uint64_t len) {
        return (struct vhk_p_region){ GPA + off, len, (uint64_t)(uintptr_t)r->mem + off, off };
}

static inline int64_t fe_mem_reg(struct rig *r, uint32_t id, uint64_t off, uint64_t len) {
        struct vhk_p_mem_region_single p = { .region = { region(r, off, len) } };
        return fe_ask(r, id, &p, sizeof(p), id == VHK_FE_ADD_MEM_REG ? r->memfd : -1);
}

static inline uint8_t *ring_area(struct rig *r, unsigned i) {
        return r->mem + i * RING_BYTES;
}

static inline uint64_t to_gpa(void *arg, const void *va, uint64_t len) {
        struct rig *r = arg;
        uint64_t off = (uint64_t)((const uint8_t *)va - r->mem);
        return vhk_range_within(off, len, MEM_BYTES) ? GPA + off : UINT64_MAX;
}

static inline unsigned ring_avail_offset(const struct rig *r, unsigned i) {
        return r->rings[i].num > RING_SIZE ? 0x8000 : 0x1000;
}

static inline struct vhk_p_vring_addr ring_addr(struct rig *r, unsigned i) {
        uint64_t at = (uint64_t)(uintptr_t)ring_area(r, i), avail = at + ring_avail_offset(r, i);
        return (struct vhk_p_vring_addr){ .index = i, .desc = at, .avail = avail, .used = avail + 0x1000 };
}

/* Zeroed areas and a driver for ring @i of @num entries, up to RING_SIZE_LARGE. */
static inline void ring_make_of(struct rig *r, unsigned i, unsigned num) {
        struct ring *g = &r->rings[i];
        uint8_t *at = ring_area(r, i);

        g->num = num;
        uint8_t *avail = at + ring_avail_offset(r, i);
        struct vhk_drvring_setup s = {
                .num = (uint16_t)num, .event_idx = !!(r->features & VHK_BIT(VHK_F_EVENT_IDX)),
                .desc = at, .avail = avail, .used = avail + 0x1000, .gpa = to_gpa, .gpa_arg = r,
        };

        ring_forget(g);
        memset(at, 0, RING_BYTES);
        g->area = at;
        g->n_added = g->n_reaped = 0;
        CHECK_OK(vhk_drvring_new(&s, &g->drv));
        g->kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        g->call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        g->err = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        CHECK(g->kick >= 0 && g->call >= 0 && g->err >= 0);
}

static inline void ring_make(struct rig *r, unsigned i) {
        ring_make_of(r, i, RING_SIZE);
}

/* Everything but KICK and ENABLE. */
static inline void ring_set_up(struct rig *r, unsigned i, uint16_t base) {
        struct vhk_p_vring_addr a = ring_addr(r, i);

        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_CALL, i, r->rings[i].call), 0);
        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_ERR, i, r->rings[i].err), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_NUM, i, r->rings[i].num), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_BASE, i, base), 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
}

static inline void ring_go(struct rig *r, unsigned i) {
        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_KICK, i, r->rings[i].kick), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_ENABLE, i, 1), 0);
}

/* A front-end with memory; all of @n rings run. */
static inline void fe_set_up(struct rig *r, unsigned n) {
        fe_connect(r);
        fe_negotiate(r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        for (unsigned i = 0; i < n; i++) {
                ring_make(r, i);
                ring_set_up(r, i, 0);
                ring_go(r, i);
        }
}

/* Stops ring @i; its base. */
static inline int ring_stop(struct rig *r, unsigned i) {
        struct vhk_p_vring_state p = { i, 0 }, base = { ~0u, ~0u };

        fe_send(r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
        int k = fe_receive(r, VHK_FE_GET_VRING_BASE, &base, sizeof(base));
        if (k < 0)
                return k;
        CHECK_EQ(k, 8);
        CHECK_EQ(base.index, i);
        return (int)base.num;
}

/* ---- requests ---- */

#define BUFFERS 0x4000u                         /* where in the ring's memory: two numbers for each entry */

/* Number @g->n_added + 1000 * i goes out; it is kicked if the device wants that. */
static inline void ring_add(struct rig *r, unsigned i) {
        struct ring *g = &r->rings[i];
        uint64_t *pair = (uint64_t *)(g->area + BUFFERS) + 2 * (g->n_added % g->num);
        struct iovec sg[2] = { { &pair[0], 8 }, { &pair[1], 8 } };

        pair[0] = g->n_added + 1000 * i;
        pair[1] = 0;
        CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 1, pair));
        g->n_added++;
        (void)vhk_drvring_arm(g->drv);
        if (vhk_drvring_publish(g->drv))
                vhk_notify_fd(g->kick);
}

/* Takes what is finished; checks every answer. */
static inline unsigned ring_reap(struct rig *r, unsigned i) {
        struct ring *g = &r->rings[i];
        struct vhk_done done[RING_SIZE];

        int n = vhk_drvring_reap(g->drv, done, RING_SIZE);
        CHECK_OK(n);
        for (int k = 0; k < n; k++) {
                uint64_t *pair = done[k].cookie;
                CHECK_EQ(done[k].len, 8);
                CHECK_EQ(pair[1], pair[0] + 1);
        }
        g->n_reaped += (unsigned)n;
        return (unsigned)n;
}

static inline bool ring_is_idle(struct rig *r, unsigned i) {
        ring_reap(r, i);
        return r->rings[i].n_reaped == r->rings[i].n_added;
}

static inline bool is_readable(int fd) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        return poll(&p, 1, 0) == 1;
}
