/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A whole front-end session: the handshake, then calls of the public interface, against a back-end that answers from the
 * script: honestly, wrongly, with descriptors, in pieces, too late, not at all; and that talks on the back-end channel.
 *
 * One thread: poll(2) is where the front-end waits, so the linker hands it to us (fuzz/meson.build), and it is the
 * back-end's turn. If the back-end has nothing to say, time passes.
 */
#include <vhostkit/frontend.h>
#include <vhostkit/memory.h>

#define FZ_OWN_POLL                     /* poll(2) is where the front-end waits */
#include "fuzz/session.h"
#include "sock/sock.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
        bool active;
        struct script s;
        struct vhk_conn conn;           /* the back-end's ends */
        int channel;
        uint64_t features, protocol;
        uint32_t held;                  /* answers that are not given */
} be;

/* ---- the back-end ---- */

/* What an honest one says to @h; its size. */
static uint32_t honest(const struct vhk_hdr *h, const union vhk_p_any *p, union vhk_p_any *ret_r) {
        memset(ret_r, 0, sizeof(*ret_r));
        switch (h->request) {
        case VHK_FE_GET_FEATURES: ret_r->u64.value = be.features; return 8;
        case VHK_FE_GET_PROTOCOL_FEATURES: ret_r->u64.value = be.protocol; return 8;
        case VHK_FE_GET_QUEUE_NUM: ret_r->u64.value = 4; return 8;
        case VHK_FE_GET_MAX_MEM_SLOTS: ret_r->u64.value = 8; return 8;
        case VHK_FE_GET_CONFIG:
                ret_r->config = p->config;
                return h->size;
        case VHK_FE_GET_VRING_BASE: case VHK_FE_GET_VRING_BASE_SKIP_DRAIN:
                ret_r->vring_state.index = p->vring_state.index;
                return 8;
        case VHK_FE_GET_INFLIGHT_FD:
                ret_r->inflight = p->inflight;
                ret_r->inflight.mmap_size = 0x2000;
                return 24;
        case VHK_FE_SET_LOG_BASE:
                memcpy(ret_r, p, sizeof(p->log));
                return 16;
        default: return 8;
        }
}

static int any_fd(unsigned kind) {
        static const int *const there[] = { &fz_memfd, &fz_smallfd, &fz_nullfd, &fz_dirfd, &fz_logfd };

        return *there[kind % VHK_N(there)];
}

static void say(struct script *s, int sock, struct vhk_hdr *h, const void *payload, unsigned n_fds) {
        uint8_t raw[12 + VHK_MAX_PAYLOAD];
        size_t n = 12 + VHK_MIN((size_t)h->size, VHK_MAX_PAYLOAD), cut = n;
        int fds[10];

        memcpy(raw, h, 12);
        memcpy(raw + 12, payload, n - 12);
        for (unsigned i = 0; i < n_fds; i++)
                fds[i] = any_fd(take8(s));
        if (n_fds > 8)
                cut = 1 + take8(s) % n;
        fz_send(sock, raw, cut, fds, n_fds);
        if (cut < n)
                fz_send(sock, raw + cut, n - cut, NULL, 0);
}

static void answer(const struct vhk_hdr *request, const union vhk_p_any *p) {
        union vhk_p_any r;
        struct vhk_hdr h = { request->request, VHK_HDR_VERSION | VHK_HDR_REPLY, honest(request, p, &r) };
        uint8_t how = be.s.p < be.s.end ? take8(&be.s) : 0;
        unsigned n_fds = request->request == VHK_FE_GET_INFLIGHT_FD;

        switch (how >> 4) {
        case 1: take(&be.s, &r, how & 15); break;                      /* another value */
        case 2: h.size = how & 15; break;
        case 3: h.size = take16(&be.s); break;
        case 4: h.request = how & 15; break;
        case 5: h.flags = how & 15; break;
        case 6: n_fds = how & 15; break;
        case 7: return;                                                 /* not at all */
        case 8: vhk_conn_done(&be.conn); return;
        case 9: take(&be.s, (uint8_t *)&r + how % 4 * 8, 8); break;
        }
        say(&be.s, be.conn.fd, &h, &r, VHK_MIN(n_fds, 10u));
        if (how >> 4 == 10)                                             /* twice */
                say(&be.s, be.conn.fd, &h, &r, 0);
}

/* A request of the back-end's own. */
static void talk(struct script *s) {
        uint8_t payload[VHK_MAX_PAYLOAD];
        uint8_t how = take8(s);
        struct vhk_hdr h = { how & 15, VHK_HDR_VERSION | (how & 16 ? VHK_HDR_NEED_REPLY : 0), 0 };
        const struct vhk_row *row = vhk_wire_row(VHK_FROM_BACKEND, h.request, VHK_PHASE_NORMAL);

        if (how & 32)
                h.flags = take8(s);
        h.size = how & 64 || !row ? take16(s) % VHK_MAX_PAYLOAD : vhk_payload_max_size(row->request, be.protocol);
        take(s, payload, h.size);
        say(s, be.channel, &h, payload, how & 128 ? 1u + take8(s) % 9 : row && row->fds != VHK_FDS_NONE);
}

static void on_message(void) {
        struct vhk_decoder *d = &be.conn.in;
        struct vhk_hdr h = vhk_decoder_header(d);
        union vhk_p_any p;
        const struct vhk_row *row = NULL;
        struct vhk_wire_state st = { .features_offered = be.features, .features = be.features, .protocol_offered = be.protocol, .protocol = be.protocol, .n_queues = 256 };

        memset(&p, 0, sizeof(p));
        memcpy(&p, d->payload, h.size);
        enum vhk_rule rule = vhk_wire_check(&st, VHK_FROM_FRONTEND, &h, &p, d->surplus_fds ? 99 : d->n_fds, &row);
        MUST(row && rule != VHK_RULE_UNKNOWN && rule != VHK_RULE_SIZE_SHORT && rule != VHK_RULE_SIZE_LONG && rule != VHK_RULE_FLAGS);
        if (h.request == VHK_FE_SET_BACKEND_REQ_FD && d->n_fds == 1) {
                vhk_close(&be.channel);
                be.channel = VHK_STEAL_FD(d->fds[0]);
        }
        bool due = vhk_wire_answer(&st, row, &h) != VHK_ANSWER_NONE;
        vhk_decoder_next(d);
        if (due)
                answer(&h, &p);
}

static bool back_end_turn(void) {
        bool did = false;
        int k;

        if (be.channel >= 0) {
                char sink[512];
                while (recv(be.channel, sink, sizeof(sink), MSG_DONTWAIT) > 0)
                        did = true;
        }
        while (be.conn.fd >= 0 && ((k = vhk_conn_receive(&be.conn)) == VHK_CONN_HEADER || k == VHK_CONN_MESSAGE)) {
                did = true;
                if (k == VHK_CONN_HEADER)
                        continue;
                if (be.channel >= 0 && be.s.p < be.s.end && (*be.s.p & 15) == 15) {     /* a word in between */
                        be.s.p++;
                        talk(&be.s);
                }
                on_message();
        }
        return did;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int ms) {
        if (!be.active)
                return kernel_poll(p, n);
        int k = kernel_poll(p, n);
        if (k != 0 || ms == 0)
                return k;
        be.active = false;              /* our own calls are not turned again */
        bool did = back_end_turn();
        be.active = true;
        if (!did)
                clock_ns += (uint64_t)VHK_MAX(ms, 1) * 1000000u;
        return kernel_poll(p, n);
}

/* ---- the owner of the front-end ---- */

static struct vhk_memory *memory;
static void *areas[3];
static int event_fd = -1;

static void make_memory(void) {
        if (memory)
                return;
        MUST(vhk_memory_new(&memory) == 0);
        MUST(vhk_memory_alloc(memory, 0x10000, &areas[0]) == 0);
        event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static uint64_t gpa_of(size_t off) {
        vhk_gpa_t g;

        MUST(vhk_memory_find(memory, (uint8_t *)areas[0] + off, 1, &g) == 0);
        return g.v;
}

static void start(struct vhk_frontend *f, unsigned i) {
        struct vhk_ring_setup r = { .size = sizeof(r), .num = 8, .desc = gpa_of(0x1000 * i), .driver = gpa_of(0x1000 * i + 0x400),
                                    .device = gpa_of(0x1000 * i + 0x800), .kick_fd = event_fd, .call_fd = event_fd, .err_fd = -1 };
        (void)vhk_frontend_start_queue(f, i, &r);
}

static void step(struct vhk_frontend *f, struct script *s) {
        struct vhk_ring_base base;
        uint8_t buf[256] = { 0 }, what = take8(s), status;

        switch (what % 14) {
        case 0: (void)vhk_frontend_set_features(f, be.features & ~VHK_BIT(VHK_F_PROTOCOL_FEATURES) & ~VHK_BIT(VHK_F_LOG_ALL)); break;
        case 1: (void)vhk_frontend_set_memory(f, memory); break;
        case 2: (void)vhk_frontend_get_config(f, what & 16, buf, 1u + take8(s) % 200); break;
        case 3: (void)vhk_frontend_set_config(f, what & 16, buf, 1u + take8(s) % 200, what & 32 ? VHK_CONFIG_MIGRATION : VHK_CONFIG_DRIVER); break;
        case 4: (void)vhk_frontend_get_status(f, &status); break;
        case 5: (void)vhk_frontend_set_status(f, take8(s)); break;
        case 6: (void)vhk_frontend_reset(f); break;
        case 7: start(f, what >> 4 & 3); break;
        case 8: (void)vhk_frontend_stop_queue(f, what >> 4 & 3, &base); break;
        case 9: (void)vhk_frontend_enable_queue(f, what >> 4 & 3, what & 64); break;
        case 10: (void)vhk_frontend_set_call_fd(f, what >> 4 & 3, what & 64 ? -1 : event_fd); break;
        case 11:                                                        /* everything a driver does first */
                (void)vhk_frontend_set_features(f, VHK_BIT(VHK_F_VERSION_1));
                (void)vhk_frontend_set_memory(f, memory);
                start(f, 0);
                (void)vhk_frontend_enable_queue(f, 0, 1);
                break;
        default:
                if (be.channel >= 0)
                        talk(s);
                for (int i = 0; i < 300 && vhk_frontend_dispatch(f) > 0; i++)
                        ;
                break;
        }
}

/* Half of the input is for the back-end, half for whoever calls: each reads its own. */
static void session(const uint8_t *data, size_t size) {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 5000000 };
        struct script head = { data, data + VHK_MIN(size, (size_t)4) };
        struct vhk_frontend *f;
        int pair[2];

        data += head.end - head.p;
        size -= (size_t)(head.end - head.p);
        struct script s = { data, data + size / 2 };
        be.s = (struct script){ data + size / 2, data + size };
        uint8_t what = take8(&head);
        be.channel = -1;
        be.features = VHK_BIT(VHK_F_VERSION_1) | (what & 1 ? 0 : VHK_BIT(VHK_F_PROTOCOL_FEATURES)) | VHK_BIT(VHK_F_LOG_ALL) | VHK_BIT(VHK_F_INDIRECT_DESC);
        be.protocol = what & 2 ? 0xffffff : ~((uint64_t)take16(&head) << 8 | take8(&head)) & 0xffffff;
        be.protocol &= ~VHK_BIT(VHK_PF_XEN_MMAP);
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        o.fd = pair[0];
        MUST(vhk_conn_init(&be.conn, pair[1]) == 0);
        be.active = true;
        int k = vhk_frontend_open(NULL, &o, &f, NULL);
        while (k == 0 && s.p < s.end)
                step(f, &s);
        if (k == 0)
                vhk_frontend_close(f);
        else
                close(o.fd);            /* stays the caller's */
        be.active = false;
        vhk_conn_done(&be.conn);
        vhk_close(&be.channel);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        fz_files();
        make_memory();
        struct fd_mark fds = fd_mark();
        session(size ? data : (const uint8_t *)"", size);
        fd_check(fds);
        return 0;
}
