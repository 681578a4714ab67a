/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A back-end session under a script: what fuzz-backend and fuzz-channel share, and what the seeds are written in. The
 * front-end's addresses are small numbers, so that a fuzzer hits them: guest memory of FZ_MEM bytes at FZ_GPA, of which the
 * front-end says FZ_UVA; ring i has the page i.
 */
#pragma once

#include <vhostkit/backend.h>

#include "backend/session.h"
#include "fuzz/session.h"
#include "ring/ring.h"
#include "wire/sample.h"

enum op {
        OP_MESSAGE,     /* id, how, [size], count, kinds of descriptors, payload */
        OP_RAW,         /* count, bytes */
        OP_RAW_FDS,     /* kind, header, bytes */
        OP_WRITE,       /* where (16 bits), count, bytes of guest memory */
        OP_DESC,        /* ring, slot, address, length (16 bits), flags, next */
        OP_AVAIL,       /* ring, count, heads; kicks */
        OP_KICK,        /* ring */
        OP_TIME,        /* 2^n ns */
        OP_HOLD,        /* the device keeps requests from now on, or gives them back */
        OP_SETUP,       /* which protocol features, which rings */
        OP_CHANGED,     /* the device asks its host: what */
        OP_CHANNEL,     /* count, bytes from the front-end on the back-end channel */
        OP_ACK,         /* an answer to what was asked last on the channel: id, value */
        OP_CLOSE,       /* which */
        OP_TRUNCATE,
        N_OPS,
};

#define FZ_RINGS 4u
#define FZ_RING 8u
#define FZ_GPA 0x10000ull
#define FZ_UVA 0x100000ull

struct fz_device {
        struct vhk_host *host;
        bool hold;
        struct vhk_req *held[256];
        unsigned n_held;
        uint8_t config[24];
};

static struct fz_backend {
        struct vhk_worker *worker;
        struct vhk_backend *b;
        struct vhk_backend_options o;
        struct fz_device dev;
        int sock, channel;              /* the front-end's ends */
        int kicks[FZ_RINGS];
        uint16_t avail[FZ_RINGS];
        uint64_t protocol;
        unsigned n_ended, n_asked;
} fz;

/* ---- the device ---- */

static inline uint32_t fz_answer(struct vhk_req *r) {
        uint64_t x[4] = { 0 };
        size_t n = vhk_req_read(r, 0, x, sizeof(x));

        x[0]++;
        return (uint32_t)vhk_req_write(r, 0, x, n);
}

static inline void fz_run(void *arg, struct vhk_queue *q) {
        struct fz_device *d = arg;
        struct vhk_req *r[8];
        int n;

        while (d->n_held + 8 <= VHK_N(d->held) && (n = vhk_queue_pop(q, r, 8)) > 0)
                for (int i = 0; i < n; i++)
                        if (d->hold)
                                d->held[d->n_held++] = r[i];
                        else
                                vhk_queue_push(q, r[i], fz_answer(r[i]));
        vhk_queue_flush(q);
}

static inline void fz_release(struct fz_device *d) {
        for (unsigned i = 0; i < d->n_held; i++)
                vhk_req_complete(d->held[i], fz_answer(d->held[i]));
        d->n_held = 0;
}

static inline int fz_attach(void *arg, struct vhk_host *host) {
        ((struct fz_device *)arg)->host = host;
        return 0;
}

static inline int fz_get_config(void *arg, uint32_t off, void *buf, uint32_t n) {
        struct fz_device *d = arg;

        MUST(vhk_range_within(off, n, sizeof(d->config)));
        memcpy(buf, d->config + off, n);
        return 0;
}

static inline int fz_set_config(void *arg, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        struct fz_device *d = arg;

        MUST(vhk_range_within(off, n, sizeof(d->config)));
        memcpy(d->config + off, buf, n);
        return 0;
}

static inline void fz_stopped(void *arg, struct vhk_queue *q) {
        MUST(vhk_queue_n_in_flight(q) == 0);
}

static const struct vhk_device_ops fz_ops = {
        .size = sizeof(fz_ops),
        .virtio_id = 4, .n_queues = FZ_RINGS, .queue_size_max = 64, .req_size = 16, .config_len = sizeof(fz.dev.config),
        .threads = VHK_THREADS_SINGLE, .disabled = VHK_DISABLED_HOLD, .features = VHK_BIT(5),
        .attach = fz_attach, .get_config = fz_get_config, .set_config = fz_set_config, .queue_run = fz_run, .queue_stopped = fz_stopped,
};

/* ---- the front-end ---- */

/* Reads what came, and lets go of the descriptors in it. */
static inline void fz_swallow(int sock) {
        union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int) * 16)]; } c;
        char bytes[8192];
        struct iovec v = { bytes, sizeof(bytes) };
        struct msghdr m;

        do {
                m = (struct msghdr){ .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
                if (sock < 0 || recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
                        return;
                for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
                        int fds[16];
                        size_t n = VHK_MIN((h->cmsg_len - CMSG_LEN(0)) / sizeof(int), VHK_N(fds));
                        memcpy(fds, CMSG_DATA(h), n * sizeof(int));
                        for (size_t i = 0; i < n; i++)
                                close(fds[i]);
                }
        } while (1);
}

static inline void fz_turn(void) {
        for (int i = 0; loop_turn() > 0; i++) {
                MUST(i < LOOP_QUIET);
                fz_swallow(fz.sock);
                fz_swallow(fz.channel);
        }
}

/* A descriptor to send; *ret_close: it is ours to close afterwards. */
static inline int fz_fd(unsigned kind, bool *ret_close) {
        int pair[2];

        *ret_close = true;
        switch (kind % FD_N_KINDS) {
        case FD_EVENT:
                return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        case FD_SOCKET:
                MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
                vhk_close(&fz.channel);
                fz.channel = pair[0];
                return pair[1];
        case FD_PIPE:
                MUST(pipe2(pair, O_CLOEXEC | O_NONBLOCK) == 0);
                close(pair[kind & 16 ? 0 : 1]);
                return pair[kind & 16 ? 1 : 0];
        }
        *ret_close = false;
        static const int *const there[] = { [FD_MEMORY] = &fz_memfd, [FD_SMALL] = &fz_smallfd, [FD_NULL] = &fz_nullfd, [FD_DIR] = &fz_dirfd, [FD_LOG] = &fz_logfd };
        return kind % FD_N_KINDS >= FD_KICK ? fz.kicks[kind % FD_N_KINDS - FD_KICK] : *there[kind % FD_N_KINDS];
}

static inline void fz_say_kinds(const struct vhk_hdr *h, const void *payload, const uint8_t *kinds, unsigned n) {
        uint8_t raw[12 + 4096];
        int fds[16];
        bool mine[16];
        size_t bytes = VHK_MIN(h->size, 4096u);

        for (unsigned i = 0; i < n; i++)
                fds[i] = fz_fd(kinds[i], &mine[i]);
        memcpy(raw, h, sizeof(*h));
        if (bytes)
                memcpy(raw + sizeof(*h), payload, bytes);
        fz_send(fz.sock, raw, sizeof(*h) + bytes, fds, n);
        for (unsigned i = 0; i < n; i++)
                if (mine[i])
                        close(fds[i]);
}

static inline void fz_say(uint32_t id, const void *payload, uint32_t size, int kind) {
        struct vhk_hdr h = { id, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, size };
        uint8_t k = (uint8_t)kind;

        fz_say_kinds(&h, payload, &k, kind >= 0);
        fz_turn();
}

static inline void fz_say_u64(uint32_t id, uint64_t x, int kind) {
        fz_say(id, &x, sizeof(x), kind);
}

static inline void fz_say_ring(uint32_t id, uint32_t i, uint32_t num) {
        fz_say(id, &(struct vhk_p_vring_state){ i, num }, 8, -1);
}

static inline uint64_t fz_ask(uint32_t id) {
        struct { struct vhk_hdr h; uint64_t x; } __attribute__((packed)) reply = { .x = 0 };
        struct vhk_hdr h = { id, VHK_HDR_VERSION, 0 };

        fz_swallow(fz.sock);
        fz_say_kinds(&h, NULL, NULL, 0);
        loop_run();
        return recv(fz.sock, &reply, sizeof(reply), MSG_DONTWAIT) == sizeof(reply) ? reply.x : 0;
}

static inline void fz_ring(unsigned i, bool log) {
        uint64_t at = FZ_UVA + 0x1000 * i;
        struct vhk_p_vring_addr a = { .index = i, .flags = log, .desc = at, .avail = at + 0x400, .used = at + 0x800,
                                      .log_guest_addr = FZ_GPA + 0x1000 * i + 0x800 };

        fz_say_ring(VHK_FE_SET_VRING_NUM, i, FZ_RING);
        fz_say_ring(VHK_FE_SET_VRING_BASE, i, 0);
        fz_say(VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1);
        fz_say_u64(VHK_FE_SET_VRING_CALL, i, FD_EVENT);
        fz_say_u64(VHK_FE_SET_VRING_KICK, i, FD_KICK + (int)i);
        fz_say_ring(VHK_FE_SET_VRING_ENABLE, i, 1);
}

/* What a well-behaved front-end does first. */
static inline void fz_setup(uint8_t which, uint8_t rings) {
        uint64_t features = fz_ops.features | VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_PROTOCOL_FEATURES) | VHK_BIT(VHK_F_INDIRECT_DESC) |
                            (which & 1 ? VHK_BIT(VHK_F_EVENT_IDX) : 0) | (which & 2 ? VHK_BIT(VHK_F_LOG_ALL) : 0) |
                            (which & 4 ? VHK_BIT(VHK_F_ACCESS_PLATFORM) : 0);
        features &= fz_ask(VHK_FE_GET_FEATURES);
        struct vhk_p_mem_regions m = { .n_regions = 1, .regions = { { FZ_GPA, FZ_MEM, FZ_UVA, 0 } } };

        fz.protocol = 0xffffff & ~VHK_BIT(VHK_PF_XEN_MMAP) & ~VHK_BIT(VHK_PF_GPA_ADDRESSES) & ~(which & 8 ? VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) : VHK_BIT(VHK_PF_PAGEFAULT));
        fz.protocol &= fz_ask(VHK_FE_GET_PROTOCOL_FEATURES);
        fz_say_u64(VHK_FE_SET_PROTOCOL_FEATURES, fz.protocol, -1);
        fz_say(VHK_FE_SET_OWNER, NULL, 0, -1);
        fz_say_u64(VHK_FE_SET_FEATURES, features, -1);
        if (which & 2)
                fz_say(VHK_FE_SET_LOG_BASE, &(struct vhk_p_log){ 0x1000, 0 }, 16, FD_LOG);
        fz_say(VHK_FE_SET_BACKEND_REQ_FD, NULL, 0, FD_SOCKET);
        fz_say(VHK_FE_SET_MEM_TABLE, &m, 40, FD_MEMORY);
        if (which & 16)
                fz_say(VHK_FE_GET_INFLIGHT_FD, &(struct vhk_p_inflight){ .num_queues = FZ_RINGS, .queue_size = FZ_RING }, 24, -1);
        for (unsigned i = 0; i < FZ_RINGS; i++)
                if (rings & 1u << i)
                        fz_ring(i, which & 2);
}

/* ---- one session ---- */

static inline void fz_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        if (ev == VHK_BACKEND_ENDED) {
                fz.n_ended++;
                fz.b = vhk_backend_free(fz.b);
                fz.dev.host = NULL;
        }
}

static inline void fz_quiet(void *arg, enum vhk_log_level level, const char *text) {
        if (getenv("FUZZ_LOG"))
                fprintf(stderr, "%s\n", text);
}

/* All that this back-end can be made to offer. */
static inline uint64_t fz_all_protocol(void) {
        struct vhk_backend_options o = fz.o;
        struct vhk_backend *b;
        uint64_t all = 0;

        for (unsigned i = 0; i < 64; i++) {
                int pair[2];
                MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
                o.protocol_offer = VHK_BIT(i);
                o.fd = pair[1];
                if (vhk_backend_open(NULL, &o, &fz_ops, &fz.dev, &b, NULL) < 0) {
                        close(pair[1]);
                } else {
                        all |= VHK_BIT(i);
                        vhk_backend_free(b);
                }
                close(pair[0]);
        }
        return all & ~VHK_BIT(VHK_PF_XEN_MMAP);
}

static inline void fz_begin(void) {
        int pair[2];

        if (!fz.worker) {
                fz_files();
                MUST(vhk_worker_new(&loop_ops, NULL, &fz.worker) == 0);
                fz.o = (struct vhk_backend_options){ .size = sizeof(fz.o), .has_fd = true, .control = fz.worker, .limit_ns = 1000000,
                                                     .on_event = fz_event, .log = fz_quiet, .trace = getenv("FUZZ_LOG") ? fz_quiet : NULL };
                fz.o.protocol_offer = fz_all_protocol();
        }
        memset(fz_mem, 0, FZ_MEM);
        MUST(ftruncate(fz_smallfd, 0x2000) == 0);
        memset(&fz.dev, 0, sizeof(fz.dev));
        memset(fz.avail, 0, sizeof(fz.avail));
        fz.n_ended = 0;
        fz.protocol = 0;
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        fz.sock = pair[0];
        fz.channel = -1;
        fz.o.fd = pair[1];
        for (unsigned i = 0; i < FZ_RINGS; i++)
                fz.kicks[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        MUST(vhk_backend_open(NULL, &fz.o, &fz_ops, &fz.dev, &fz.b, NULL) == 0);
        clock_ns += 2;
        fz_turn();
}

/* The front-end goes; the device gives back what it has; the end must be told. */
static inline void fz_end(void) {
        vhk_close(&fz.sock);
        vhk_close(&fz.channel);
        fz_turn();
        for (int i = 0; i < 64 && !fz.n_ended; i++) {
                clock_ns += 1000000000u;
                fz_release(&fz.dev);
                fz_turn();
        }
        MUST(fz.n_ended == 1 && fz.dev.n_held == 0 && fz.n_asked == 0);
        for (unsigned i = 0; i < FZ_RINGS; i++)
                vhk_close(&fz.kicks[i]);
        fz_turn();
        MUST(loop_n == 1);              /* the worker's own bell */
}

/* ---- the script's words ---- */

static inline void fz_message(struct script *s) {
        uint8_t payload[4096], kinds[8];
        uint8_t id = take8(s), how = take8(s);
        struct vhk_hdr h = { id & 63, VHK_HDR_VERSION | (how & 1 ? VHK_HDR_NEED_REPLY : 0), 0 };
        const struct vhk_row *row = vhk_wire_row(VHK_FROM_FRONTEND, h.request, VHK_PHASE_NORMAL);
        unsigned n = how >> 1 & 7;

        if (how & 16)
                h.size = take16(s) % sizeof(payload);
        else
                for (unsigned v = 0; row && v < vhk_n_variants && !h.size; v++)
                        if (vhk_variants[v].payload == row->request)
                                h.size = vhk_variants[v].fixed + (vhk_variants[v].each ? vhk_variants[v].each * (take8(s) % (vhk_variants[v].max + 1u)) : 0);
        take(s, kinds, n);
        take(s, payload, h.size);
        fz_say_kinds(&h, payload, kinds, n);
}

static inline void fz_raw(struct script *s, bool with_fd) {
        uint8_t bytes[256];
        bool mine;
        int fd = with_fd ? fz_fd(take8(s), &mine) : -1;
        size_t n = take8(s);

        take(s, bytes, n);
        fz_send(fz.sock, bytes, n, &fd, with_fd);
        if (with_fd && mine)
                close(fd);
}

static inline void fz_desc(struct script *s) {
        uint8_t *ring = fz_mem + 0x1000 * (take8(s) % FZ_RINGS);
        struct vhk_desc d;
        unsigned slot = take8(s) % FZ_RING;
        uint16_t at = take16(s), len = take16(s);

        d.addr = vhk_le64_of(FZ_GPA + at);
        d.len = vhk_le32_of(len);
        d.flags = vhk_le16_of(take8(s));
        d.next = vhk_le16_of(take8(s));
        memcpy(ring + 16 * slot, &d, sizeof(d));
}

static inline void fz_avail(struct script *s) {
        unsigned i = take8(s) % FZ_RINGS, n = take8(s) % 16;
        struct vhk_avail *a = (struct vhk_avail *)(fz_mem + 0x1000 * i + 0x400);

        while (n--)
                a->ring[fz.avail[i]++ % FZ_RING] = vhk_le16_of(take8(s));
        a->idx = vhk_le16_of(fz.avail[i]);
        if (fz.kicks[i] >= 0)
                vhk_notify_fd(fz.kicks[i]);
}

static inline void fz_answered(struct vhk_backend *b, int error, const void *reply, uint32_t size, int *fd, uint64_t arg) {
        MUST(fz.n_asked > 0 && error <= 0);
        fz.n_asked--;
}

/* The device tells its host that the configuration changed; or whatever the back-end channel has, from inside. */
static inline void fz_ask_host(uint8_t what) {
        static struct vhk_sample m;
        const struct vhk_row *row = vhk_wire_row(VHK_FROM_BACKEND, what % (VHK_BE_LAST + 1), VHK_PHASE_NORMAL);

        if (!row) {
                if (fz.dev.host)
                        (void)vhk_host_config_changed(fz.dev.host);
                return;
        }
        for (unsigned v = 0; v < vhk_n_variants; v++)
                if (fz.b && vhk_sample_make(&m, row, &vhk_variants[v], 0)) {
                        int k = vhk_channel_send(&fz.b->channel, row->id, m.u.bytes, m.hdr.size, m.n_fds ? fz_memfd : -1, fz_answered, 0);
                        fz.n_asked += k == 0;
                        return;
                }
}

static inline void fz_on_channel(struct script *s) {
        uint8_t bytes[256];
        uint8_t n = take8(s);

        take(s, bytes, n);
        if (fz.channel >= 0)
                fz_send(fz.channel, bytes, n, NULL, 0);
}

static inline void fz_ack(struct script *s) {
        struct { struct vhk_hdr h; uint64_t x; } __attribute__((packed)) m = { .h = { take8(s), VHK_HDR_VERSION | VHK_HDR_REPLY, 8 } };

        m.x = take8(s);
        if (fz.channel >= 0)
                fz_send(fz.channel, &m, sizeof(m), NULL, 0);
}

static inline void fz_step(struct script *s) {
        uint8_t bytes[256], n;
        uint16_t at;

        switch (take8(s) % N_OPS) {
        case OP_MESSAGE: fz_message(s); break;
        case OP_RAW: fz_raw(s, false); break;
        case OP_RAW_FDS: fz_raw(s, true); break;
        case OP_WRITE:
                at = take16(s);
                n = take8(s);
                take(s, bytes, n);
                memcpy(fz_mem + at % (FZ_MEM - 256), bytes, n);
                break;
        case OP_DESC: fz_desc(s); break;
        case OP_AVAIL: fz_avail(s); break;
        case OP_KICK: vhk_notify_fd(fz.kicks[take8(s) % FZ_RINGS]); break;
        case OP_TIME: clock_ns += UINT64_C(1) << take8(s) % 36; break;
        case OP_HOLD:
                fz.dev.hold = !fz.dev.hold;
                if (!fz.dev.hold)
                        fz_release(&fz.dev);
                break;
        case OP_SETUP:
                n = take8(s);
                fz_setup(n, take8(s));
                break;
        case OP_CHANGED: fz_ask_host(take8(s)); break;
        case OP_CHANNEL: fz_on_channel(s); break;
        case OP_ACK: fz_ack(s); break;
        case OP_CLOSE:
                n = take8(s);
                vhk_close(n & 1 ? &fz.channel : &fz.sock);
                break;
        case OP_TRUNCATE: MUST(ftruncate(fz_smallfd, (take8(s) & 1) * 0x1000) == 0); break;
        }
        fz_turn();
}

static inline void fz_session(const uint8_t *data, size_t size, bool set_up) {
        struct script s = { size ? data : (const uint8_t *)"", NULL };

        s.end = s.p + size;

        fz_begin();
        if (set_up) {
                uint8_t which = take8(&s);
                fz_setup(which, 1);
        }
        while (s.p < s.end && fz.b)
                fz_step(&s);
        fz_end();
}
