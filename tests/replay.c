/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Plays what QEMU and User-Mode Linux said (tests/traces) to our back-end, byte for byte, and holds each answer against the
 * recorded one, byte for byte as well. What can differ between two runs is made the same beforehand: the back-end offers
 * the features that were offered when the trace was recorded, its device has the recorded queues and configuration, files
 * have the recorded sizes, and this front-end makes as many requests as the recorded guest had, so that the bases of the
 * rings come out alike. Nothing may be refused, and nothing may be answered that was not.
 *
 * All traces, those of qemu-storage-daemon's answers to our front-end too, go through the pure checks of wire/ first. And
 * the peculiarities that the traces are kept for must be in them.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <vhostkit/backend.h>
#include <vhostkit/display.h>

#include "base/fd.h"
#include "ring/ring.h"
#include "sock/sock.h"
#include "trace.h"
#include "wire/gpu.h"

#define MAX_RINGS 8u
#define MAX_FILES 16u
#define MAX_KEPT 64u
#define SOME_REQUESTS 3u                /* where no answer says how many there were */

/* ---- the pure checks ---- */

/* What the checks of the next messages go by. */
static void follow(struct vhk_wire_state *s, const struct trace_line *l) {
        if (l->direction == '<' && l->h.request == VHK_FE_GET_FEATURES)
                s->features_offered = trace_u64(l);
        if (l->direction == '<' && l->h.request == VHK_FE_GET_PROTOCOL_FEATURES)
                s->protocol_offered = trace_u64(l);
        if (l->direction == '<' && l->h.request == VHK_FE_SET_MEM_TABLE && s->phase == VHK_PHASE_POSTCOPY)
                s->phase = VHK_PHASE_POSTCOPY_ACK;
        if (l->direction != '>')
                return;
        switch (l->h.request) {
        case VHK_FE_SET_FEATURES: s->features = trace_u64(l); break;
        case VHK_FE_SET_PROTOCOL_FEATURES: s->protocol = trace_u64(l); break;
        case VHK_FE_SET_VRING_KICK: s->running = true; break;
        case VHK_FE_GET_VRING_BASE: s->running = false; break;
        case VHK_FE_POSTCOPY_LISTEN: s->phase = VHK_PHASE_POSTCOPY; break;
        case VHK_FE_POSTCOPY_END: s->phase = VHK_PHASE_NORMAL; break;
        case VHK_FE_SET_MEM_TABLE:
                if (s->phase == VHK_PHASE_POSTCOPY_ACK)
                        s->phase = VHK_PHASE_POSTCOPY;
                break;
        default: break;
        }
}

/* Requests that wait for their answer, oldest first. The front-end waits for each; the back-end need not. */
struct due {
        const struct trace_line *lines[64];
        unsigned n;
};

static void check_message(const struct trace *t, unsigned i, struct vhk_wire_state *s, struct due *due) {
        const struct trace_line *l = &t->lines[i];
        enum vhk_dir dir = strchr("><", l->direction) ? VHK_FROM_FRONTEND : VHK_FROM_BACKEND;
        const struct vhk_row *row;
        enum vhk_rule rule;

        if (strchr("<{", l->direction)) {
                CHECK_MSG(due[dir].n, "%s, message %u: an answer to nothing", t->name, i);
                rule = vhk_wire_check_reply(s, dir, &due[dir].lines[0]->h, &l->h, l->payload, l->n_fds);
                CHECK_MSG(rule == VHK_RULE_OK, "%s, message %u, answer to %u: %s", t->name, i, l->h.request, vhk_rule_text(rule));
                memmove(due[dir].lines, due[dir].lines + 1, --due[dir].n * sizeof(due[dir].lines[0]));
                follow(s, l);
                return;
        }
        CHECK_MSG(dir == VHK_FROM_BACKEND || !due[dir].n, "%s, message %u: the one before was not answered", t->name, i);
        rule = vhk_wire_check(s, dir, &l->h, l->payload, l->n_fds, &row);
        CHECK_MSG(rule == VHK_RULE_OK, "%s, message %u (%u): %s", t->name, i, l->h.request, vhk_rule_text(rule));
        if (l->h.request == VHK_FE_SET_PROTOCOL_FEATURES)       /* REPLY_ACK counts for the message that brings it */
                follow(s, l);
        if (vhk_wire_answer(s, row, &l->h) != VHK_ANSWER_NONE) {
                CHECK(due[dir].n < VHK_N(due[dir].lines));
                due[dir].lines[due[dir].n++] = l;
        }
        follow(s, l);
}

static void check_trace(const struct trace *t) {
        struct vhk_wire_state s = { .n_queues = trace_n_rings(t) };
        struct due due[VHK_N_DIRS] = { { .n = 0 }, { .n = 0 } };

        for (unsigned i = 0; i < t->n; i++)
                check_message(t, i, &s, due);
        CHECK_MSG(!due[VHK_FROM_FRONTEND].n, "%s: the last message was not answered", t->name);
}

TEST(every_message_and_answer_is_legal) {
        CHECK(trace_for_each(check_trace) >= 14);
}

/* ---- the display's socket ---- */

static struct {
        struct vhk_gpu_state state;
        unsigned due[VHK_GPU_LAST + 1], n_requests, n_answers;
} display;

static void check_display_line(const struct trace_display_line *l) {
        const char *name = vhk_gpu_row(l->h.request) ? vhk_gpu_row(l->h.request)->name : "an unknown message";
        uint64_t word;
        enum vhk_rule rule;

        if (l->direction == '(') {
                rule = vhk_gpu_check_reply(l->h.request, &l->h, l->payload, l->n_fds);
                CHECK_MSG(rule == VHK_RULE_OK, "answer to %s: %s", name, vhk_rule_text(rule));
                CHECK_MSG(display.due[l->h.request]--, "%s was not asked", name);
                display.n_answers++;
        } else {
                rule = vhk_gpu_check(&display.state, &l->h, l->payload, l->n_fds);
                CHECK_MSG(rule == VHK_RULE_OK, "%s: %s", name, vhk_rule_text(rule));
                display.due[l->h.request] += vhk_gpu_row(l->h.request)->answered;
                display.n_requests++;
        }
        memcpy(&word, l->payload, sizeof(word));
        if (l->h.request == VHK_GPU_GET_PROTOCOL_FEATURES && l->direction == '(')
                display.state.offered = word;
        if (l->h.request == VHK_GPU_SET_PROTOCOL_FEATURES)
                display.state.features = word;
}

static void check_display(const struct trace *t) {
        static struct trace_display_line l;
        char path[512], *text = NULL;
        size_t room = 0;

        memset(display.due, 0, sizeof(display.due));
        display.state = (struct vhk_gpu_state){ .max_pixels = UINT64_MAX };
        snprintf(path, sizeof(path), "%s/%s.trace", vhk_traces_dir, t->name);
        FILE *f = fopen(path, "r");
        CHECK(f);
        while (getline(&text, &room, f) > 0)
                if (trace_is_display(text)) {
                        trace_read_display_line(&l, text);
                        check_display_line(&l);
                }
        free(text);
        fclose(f);
}

TEST(every_message_of_a_display_is_legal) {
        display.n_requests = display.n_answers = 0;
        trace_for_each(check_display);
        CHECK(display.n_requests >= 20 && display.n_answers >= 6);
}

/* ---- the back-end and its device ---- */

struct file {
        int fd;
        uint8_t *va;
        uint64_t size;
};

struct region {
        uint64_t gpa, uva, size, offset;
        struct file *file;
};

struct ring {
        struct vhk_p_vring_addr addr;
        uint32_t num;
        uint16_t base, made;            /* made: the available index */
        bool runs, enabled;
        int kick;
};

struct replay {
        const struct trace *t;
        struct vhk_worker *control;
        struct vhk_backend *b;
        struct vhk_conn conn;
        bool ended;
        char log[1024];                 /* refusals */
        uint8_t config[VHK_MAX_CONFIG];
        uint64_t n_requests;
        struct file files[MAX_FILES];
        struct region regions[16];
        unsigned n_regions;
        struct ring rings[MAX_RINGS];
        int kept[MAX_KEPT];             /* the other ends */
        unsigned n_kept;
};

static void on_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        struct replay *r = arg;

        if (ev == VHK_BACKEND_ENDED) {
                r->b = vhk_backend_free(r->b);
                r->ended = true;
        }
        if (e)
                snprintf(r->log, sizeof(r->log), "%s", e->text);
}

static void on_log(void *arg, enum vhk_log_level level, const char *text) {
        struct replay *r = arg;

        if (level <= VHK_LOG_WARNING && !r->log[0])
                snprintf(r->log, sizeof(r->log), "%s", text);
}

static void dev_run(void *dev, struct vhk_queue *q) {
        struct replay *r = dev;
        struct vhk_req *req;

        while (vhk_queue_pop(q, &req, 1) > 0) {
                r->n_requests++;
                vhk_queue_push(q, req, 0);
        }
        vhk_queue_flush(q);
}

static int dev_get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        memcpy(buf, ((struct replay *)dev)->config + off, n);
        return 0;
}

static int dev_set_config(void *dev, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        return 0;
}

static int dev_save_state(void *dev, void **ret_data, size_t *ret_n) {
        return -EOPNOTSUPP;             /* no recorded front-end asks for it */
}

static int dev_load_state(void *dev, const void *data, size_t n) {
        return -EOPNOTSUPP;
}

static int dev_send_rarp(void *dev, const uint8_t mac[6]) {
        return 0;
}

static int dev_set_mtu(void *dev, uint16_t mtu) {
        return 0;
}

static int64_t dev_create_session(void *dev, enum vhk_crypto_form form, const void *session) {
        return 1;                       /* as any-device says */
}

static int dev_close_session(void *dev, uint64_t id) {
        return 0;
}

static const struct vhk_net_ops dev_net = { .size = sizeof(dev_net), .send_rarp = dev_send_rarp, .set_mtu = dev_set_mtu };
static const struct vhk_crypto_ops dev_crypto = {
        .size = sizeof(dev_crypto), .create_session = dev_create_session, .close_session = dev_close_session,
};

static const struct vhk_display_ops dev_display = { .size = sizeof(dev_display) };

/* Protocol features that come with the device. */
#define OF_THE_DEVICE (VHK_BIT(VHK_PF_DEVICE_STATE) | VHK_BIT(VHK_PF_RARP) | VHK_BIT(VHK_PF_NET_MTU) | VHK_BIT(VHK_PF_CRYPTO_SESSION))

#define RING_BITS (((UINT64_C(1) << (VHK_F_RING_LAST + 1)) - 1) & ~((UINT64_C(1) << VHK_F_RING_FIRST) - 1))

static void open_backend(struct replay *r) {
        uint64_t features = trace_answered(r->t, VHK_FE_GET_FEATURES), protocol = trace_answered(r->t, VHK_FE_GET_PROTOCOL_FEATURES);
        static struct vhk_device_ops ops;
        struct vhk_error e = { .text = "" };
        int ends[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
        ops = (struct vhk_device_ops){
                .size = sizeof(ops), .virtio_id = r->t->virtio_id, .n_queues = (uint16_t)trace_n_rings(r->t), .queue_size_max = 1024,
                .config_len = protocol & VHK_BIT(VHK_PF_CONFIG) ? VHK_MAX_CONFIG : 0, .features = features & ~RING_BITS,
                .queue_run = dev_run, .get_config = dev_get_config, .set_config = dev_set_config,
                .save_state = dev_save_state, .load_state = dev_load_state, .net = &dev_net, .crypto = &dev_crypto, .display = &dev_display,
        };
        struct vhk_backend_options o = {
                .size = sizeof(o), .has_fd = 1, .fd = ends[0], .control = r->control,
                .protocol_offer = protocol & ~OF_THE_DEVICE,
                .protocol_no_offer = ~protocol, .features_no_offer = ~features,
                .on_event = on_event, .event_arg = r, .log = on_log, .log_arg = r,
        };
        CHECK_MSG(vhk_backend_open(NULL, &o, &ops, r, &r->b, &e) == 0, "%s: %s", r->t->name, e.text);
        CHECK_OK(vhk_conn_init(&r->conn, ends[1]));
}

static void pump(struct replay *r) {
        for (int i = 0; i < 1000 && vhk_worker_dispatch(r->control, 0) > 0; i++)
                ;
        CHECK_MSG(!r->log[0], "%s: %s", r->t->name, r->log);
}

/* ---- the recorded front-end's descriptors and memory ---- */

static struct file *file_of(struct replay *r, const struct trace_fd *fd) {
        CHECK(fd->n < MAX_FILES);
        struct file *f = &r->files[fd->n];

        if (f->fd >= 0)
                return f;
        f->size = fd->size;
        f->fd = memfd_create("replay", MFD_CLOEXEC);
        CHECK(f->fd >= 0 && ftruncate(f->fd, (off_t)f->size) == 0);
        f->va = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f->fd, 0);
        CHECK(f->va != MAP_FAILED);
        return f;
}

/* A descriptor of the recorded kind; the other end, or the ring's kick, is kept. */
static int make_fd(struct replay *r, const struct trace_line *l, const struct trace_fd *fd) {
        int ends[2];

        if (!strcmp(fd->kind, "memfd") || !strcmp(fd->kind, "file"))
                return dup(file_of(r, fd)->fd);
        if (!strcmp(fd->kind, "eventfd")) {
                ends[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
                ends[1] = dup(ends[0]);
        } else if (!strcmp(fd->kind, "socket")) {
                CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
        } else {
                CHECK_STR(fd->kind, "pipe");
                CHECK(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
        }
        CHECK(r->n_kept < MAX_KEPT && ends[0] >= 0 && ends[1] >= 0);
        if (l->h.request == VHK_FE_SET_VRING_KICK) {
                int *kick = &r->rings[l->payload[0]].kick;
                vhk_close(kick);
                *kick = ends[1];
        } else if (!strcmp(fd->kind, "eventfd")) {
                close(ends[1]);
        } else {
                r->kept[r->n_kept++] = ends[1];
        }
        return ends[0];
}

static void add_region(struct replay *r, const void *p, const struct trace_fd *fd) {
        struct vhk_p_region g;

        memcpy(&g, p, sizeof(g));
        CHECK(r->n_regions < VHK_N(r->regions));
        r->regions[r->n_regions++] = (struct region){ g.guest_addr, g.user_addr, g.len, g.mmap_offset, file_of(r, fd) };
}

static const struct region *region_at(const struct replay *r, uint64_t uva) {
        for (unsigned i = r->n_regions; i-- > 0;)
                if (uva - r->regions[i].uva < r->regions[i].size)
                        return &r->regions[i];
        CHECK_MSG(false, "%s: nothing at 0x%" PRIx64, r->t->name, uva);
        return NULL;
}

static void *at_uva(const struct replay *r, uint64_t uva) {
        const struct region *g = region_at(r, uva);
        return g->file->va + g->offset + (uva - g->uva);
}

/* ---- the recorded guest: its rings ---- */

static uint16_t *used_index(const struct replay *r, const struct ring *g) {
        return (uint16_t *)at_uva(r, g->addr.used) + 1;
}

static void start_ring(struct replay *r, struct ring *g) {
        if (g->runs)
                return;
        g->runs = true;
        g->made = g->base;
        ((uint16_t *)at_uva(r, g->addr.avail))[1] = g->base;
        *used_index(r, g) = g->base;
}

/* Where ring @i's next stop was answered from line @from on; without an answer: a little further. */
static uint16_t goal_of(const struct replay *r, unsigned i, unsigned from) {
        for (unsigned k = from; k < r->t->n; k++) {
                const struct trace_line *l = &r->t->lines[k];
                if (trace_asks(l, VHK_FE_SET_VRING_KICK) && l->payload[0] == i)
                        break;          /* its next life */
                if (trace_asks(l, VHK_FE_GET_VRING_BASE) && trace_state(l).index == i)
                        return (uint16_t)trace_state(trace_answer(r->t, k)).num;
        }
        return (uint16_t)(r->rings[i].base + SOME_REQUESTS);
}

/* Makes requests until the ring is where the recorded guest left it. Each is one readable descriptor of a few bytes. */
static void work(struct replay *r, unsigned i, unsigned line) {
        struct ring *g = &r->rings[i];
        uint16_t goal = goal_of(r, i, line);

        while (g->runs && g->enabled && g->made != goal) {
                uint16_t *avail = at_uva(r, g->addr.avail);
                uint64_t *desc = at_uva(r, g->addr.desc);
                uint16_t before = g->made;
                do {
                        unsigned slot = g->made % g->num;
                        desc[2 * slot] = region_at(r, g->addr.desc)->gpa;
                        desc[2 * slot + 1] = 16;                /* bytes; no flags */
                        avail[2 + slot] = (uint16_t)slot;
                        g->made++;
                } while (g->made != goal && (uint16_t)(g->made - before) < g->num);
                vhk_store_release(&avail[1], g->made);
                CHECK(write(g->kick, &(uint64_t){ 1 }, 8) == 8);
                pump(r);
                CHECK_MSG(*used_index(r, g) == g->made, "%s, message %u: ring %u served %u requests of %u", r->t->name, line, i,
                          (uint16_t)(*used_index(r, g) - before), (uint16_t)(g->made - before));
        }
}

/* What a message means for this side. */
static void note(struct replay *r, const struct trace_line *l) {
        struct vhk_p_vring_state s = trace_state(l);
        struct ring *g = s.index < MAX_RINGS ? &r->rings[s.index] : NULL;

        switch (l->h.request) {
        case VHK_FE_SET_MEM_TABLE:
                r->n_regions = 0;
                for (unsigned i = 0; i < l->n_fds; i++)
                        add_region(r, l->payload + 8 + 32 * i, &l->fds[i]);
                break;
        case VHK_FE_ADD_MEM_REG: add_region(r, l->payload + 8, &l->fds[0]); break;
        case VHK_FE_SET_VRING_ADDR: memcpy(&g->addr, l->payload, sizeof(g->addr)); break;
        case VHK_FE_SET_VRING_NUM: g->num = s.num; break;
        case VHK_FE_SET_VRING_BASE:
                g->base = (uint16_t)s.num;
                g->runs = false;                /* if it ran, that was its former life */
                break;
        case VHK_FE_SET_VRING_KICK:
                start_ring(r, &r->rings[l->payload[0]]);
                if (r->t->virtio_id == VHK_ID_CRYPTO)
                        r->rings[l->payload[0]].enabled = true;
                break;
        case VHK_FE_SET_VRING_ENABLE: g->enabled = s.num; break;
        case VHK_FE_GET_VRING_BASE: g->runs = false; break;
        case VHK_FE_RESET_DEVICE:               /* "disables all rings" */
                for (unsigned i = 0; i < MAX_RINGS; i++)
                        r->rings[i].enabled = false;
                break;
        default: break;
        }
}

/* ---- the play ---- */

/* The device's configuration is what it was at line @i. */
static void set_config(struct replay *r, unsigned i) {
        const struct trace_line *said = trace_answer(r->t, i);
        struct vhk_p_config c = { 0 };

        memcpy(&c, said->payload, VHK_MIN((size_t)said->h.size, sizeof(c)));
        memcpy(r->config + c.offset, c.data, c.len);
}

/* The record is for the largest ring that is served, which a back-end that was recorded earlier did not do. */
static void expect_record(const char *what, const struct vhk_p_inflight *is, const struct vhk_p_inflight *was) {
        CHECK_MSG(is->num_queues == was->num_queues && is->mmap_offset == was->mmap_offset, "%s: of other rings", what);
        CHECK_MSG(is->queue_size >= was->queue_size && is->mmap_size >= was->mmap_size, "%s: too small", what);
}

static void expect_answer(struct replay *r, unsigned i) {
        const struct trace_line *said = &r->t->lines[i];
        struct vhk_decoder *in = &r->conn.in;
        char what[200];
        int k = VHK_CONN_AGAIN;

        for (unsigned turns = 0; turns < 10000 && (k == VHK_CONN_AGAIN || k == VHK_CONN_HEADER); turns++) {
                k = vhk_conn_receive(&r->conn);
                if (k == VHK_CONN_AGAIN)
                        vhk_worker_dispatch(r->control, 1);
        }
        snprintf(what, sizeof(what), "%s, message %u, answer to %u", r->t->name, i, said->h.request);
        CHECK_MSG(k == VHK_CONN_MESSAGE, "%s: none (%d) %s", what, k, r->log);
        struct vhk_hdr h = vhk_decoder_header(in);
        CHECK_MSG(!memcmp(&h, &said->h, sizeof(h)), "%s: header %u, 0x%x, %u", what, h.request, h.flags, h.size);
        if (h.request == VHK_FE_GET_INFLIGHT_FD)
                expect_record(what, (const void *)in->payload, (const void *)said->payload);
        for (unsigned b = h.request == VHK_FE_GET_INFLIGHT_FD ? h.size : 0; b < h.size; b++)
                CHECK_MSG(in->payload[b] == said->payload[b], "%s: byte %u is 0x%02x, was 0x%02x", what, b, in->payload[b],
                          said->payload[b]);
        CHECK_MSG(in->n_fds == said->n_fds, "%s: %u descriptors", what, in->n_fds);
        for (unsigned k2 = 0; k2 < in->n_fds; k2++) {           /* an in-flight record: this file from now on */
                struct file *f = &r->files[said->fds[k2].n];
                vhk_close(&f->fd);
                f->fd = VHK_STEAL_FD(in->fds[k2]);
        }
        vhk_decoder_next(in);
}

static void say(struct replay *r, unsigned i) {
        const struct trace_line *l = &r->t->lines[i];
        int fds[VHK_MAX_FDS];

        if (l->h.request == VHK_FE_GET_CONFIG)
                set_config(r, i);
        note(r, l);
        for (unsigned k = 0; k < l->n_fds; k++)
                fds[k] = make_fd(r, l, &l->fds[k]);
        CHECK_OK(vhk_conn_send(&r->conn, &l->h, l->payload, fds, l->n_fds));
        for (unsigned k = 0; k < l->n_fds; k++)
                close(fds[k]);
        pump(r);
}

static void expect_silence(struct replay *r, unsigned i) {
        struct pollfd p = { .fd = r->conn.fd, .events = POLLIN };

        CHECK_MSG(poll(&p, 1, 0) == 0, "%s: something is said after message %u, where nothing was", r->t->name, i);
}

static void close_replay(struct replay *r) {
        vhk_conn_done(&r->conn);
        while (!r->ended)
                vhk_worker_dispatch(r->control, 10);
        CHECK_MSG(!r->log[0], "%s: %s", r->t->name, r->log);
        vhk_worker_free(r->control);
        for (unsigned i = 0; i < MAX_FILES; i++) {
                if (r->files[i].va)
                        munmap(r->files[i].va, r->files[i].size);
                vhk_close(&r->files[i].fd);
        }
        for (unsigned i = 0; i < MAX_RINGS; i++)
                vhk_close(&r->rings[i].kick);
        while (r->n_kept)
                close(r->kept[--r->n_kept]);
}

/* Not where our own front-end spoke. Under postcopy the answers hold our addresses; with an IOMMU, and with notifications that
 * are messages, the order is that of the guest's requests: those are for the pure checks. */
static bool can_be_played(const struct trace *t) {
        for (unsigned i = 0; i < t->n; i++)
                if (trace_asks(&t->lines[i], VHK_FE_POSTCOPY_LISTEN) || trace_asks(&t->lines[i], VHK_FE_IOTLB_MSG) ||
                    trace_asks(&t->lines[i], VHK_FE_VRING_KICK))
                        return false;
        return strncmp(t->front_end, "vhk", 3) != 0 && strcmp(t->front_end, "gpu-window") != 0;
}

/* Is the next line on the main socket an answer? */
static bool is_answered(const struct trace *t, unsigned i) {
        for (i++; i < t->n && strchr("}{", t->lines[i].direction); i++)
                ;
        return i < t->n && t->lines[i].direction == '<';
}

static uint64_t n_requests;     /* of all traces */

static void play(const struct trace *t) {
        static struct replay r;

        if (!can_be_played(t))
                return;
        r = (struct replay){ .t = t };
        for (unsigned i = 0; i < MAX_FILES; i++)
                r.files[i].fd = -1;
        for (unsigned i = 0; i < MAX_RINGS; i++)
                r.rings[i].kick = -1;
        CHECK_OK(vhk_worker_new(NULL, NULL, &r.control));
        open_backend(&r);
        for (unsigned i = 0; i < t->n; i++) {
                bool expected = is_answered(t, i);
                if (t->lines[i].direction == '<')
                        expect_answer(&r, i);
                else if (t->lines[i].direction == '>')
                        say(&r, i);
                if (!expected)
                        expect_silence(&r, i);
                for (unsigned k = 0; k < MAX_RINGS && !expected; k++)
                        work(&r, k, i + 1);
        }
        n_requests += r.n_requests;
        close_replay(&r);
}

TEST(the_back_end_answers_as_recorded) {
        n_requests = 0;
        trace_for_each(play);
        CHECK(n_requests > 1000);
}

/* ---- the peculiarities ---- */

static const struct trace_line *find(const struct trace *t, unsigned from, unsigned to, uint32_t id) {
        for (unsigned i = from; i < to && i < t->n; i++)
                if (trace_asks(&t->lines[i], id))
                        return &t->lines[i];
        return NULL;
}

static unsigned count(const struct trace *t, uint32_t id) {
        unsigned n = 0;

        for (unsigned i = 0; i < t->n; i++)
                n += trace_asks(&t->lines[i], id);
        return n;
}

static unsigned first(const struct trace *t, uint32_t id) {
        const struct trace_line *l = find(t, 0, t->n, id);
        return l ? (unsigned)(l - t->lines) : t->n;
}

static bool extra_get_features(const struct trace *t) {
        return count(t, VHK_FE_GET_FEATURES) >= 2;
}

static bool identical_add_mem_reg(const struct trace *t) {
        for (unsigned i = 0; i < t->n; i++)
                for (unsigned k = i + 1; k < t->n && trace_asks(&t->lines[i], VHK_FE_ADD_MEM_REG); k++)
                        if (trace_asks(&t->lines[k], VHK_FE_ADD_MEM_REG) && !memcmp(t->lines[i].payload, t->lines[k].payload, 40) &&
                            !find(t, i, k, VHK_FE_REM_MEM_REG))
                                return true;
        return false;
}

static bool enable_before_anything(const struct trace *t) {
        unsigned e = first(t, VHK_FE_SET_VRING_ENABLE);
        return e < first(t, VHK_FE_SET_FEATURES) && e < first(t, VHK_FE_ADD_MEM_REG) && e < first(t, VHK_FE_SET_VRING_NUM);
}

static bool status_0_before_get_base(const struct trace *t) {
        for (unsigned i = first(t, VHK_FE_SET_VRING_KICK); i < t->n; i++)
                if (trace_asks(&t->lines[i], VHK_FE_SET_STATUS) && trace_u64(&t->lines[i]) == 0)
                        return find(t, i, t->n, VHK_FE_GET_VRING_BASE) && !find(t, 0, i, VHK_FE_GET_VRING_BASE);
        return false;
}

static bool call_on_a_running_ring(const struct trace *t) {
        unsigned kick = first(t, VHK_FE_SET_VRING_KICK);
        return find(t, kick, first(t, VHK_FE_GET_VRING_BASE), VHK_FE_SET_VRING_CALL);
}

static bool call_after_the_stop(const struct trace *t) {
        return trace_asks(&t->lines[t->n - 1], VHK_FE_SET_VRING_CALL);
}

static bool no_version_1(const struct trace *t) {
        const struct trace_line *l = find(t, 0, t->n, VHK_FE_SET_FEATURES);
        return l && !(trace_u64(l) & VHK_BIT(VHK_F_VERSION_1)) && (trace_answered(t, VHK_FE_GET_FEATURES) & VHK_BIT(VHK_F_VERSION_1));
}

static bool never_enabled(const struct trace *t) {
        return count(t, VHK_FE_SET_VRING_KICK) && !count(t, VHK_FE_SET_VRING_ENABLE);
}

static bool ring_bits_taken_unoffered(const struct trace *t) {
        uint64_t bits = VHK_BIT(VHK_F_INDIRECT_DESC) | VHK_BIT(VHK_F_EVENT_IDX);
        const struct trace_line *l = find(t, 0, t->n, VHK_FE_SET_FEATURES);
        return l && (trace_u64(l) & bits) == bits && !(trace_answered(t, VHK_FE_GET_FEATURES) & bits);
}

static bool enables_a_ring_it_never_sets_up(const struct trace *t) {
        for (unsigned i = 0; i < t->n; i++) {
                bool set_up = false;
                for (unsigned k = 0; k < t->n; k++)
                        set_up |= trace_asks(&t->lines[k], VHK_FE_SET_VRING_NUM) &&
                                  trace_state(&t->lines[k]).index == trace_state(&t->lines[i]).index;
                if (trace_asks(&t->lines[i], VHK_FE_SET_VRING_ENABLE) && !set_up)
                        return true;
        }
        return false;
}

static bool features_twice(const struct trace *t) {
        unsigned a = first(t, VHK_FE_SET_FEATURES);
        const struct trace_line *b = find(t, a + 1, first(t, VHK_FE_SET_VRING_KICK), VHK_FE_SET_FEATURES);
        return b && trace_u64(&t->lines[a]) == trace_u64(b);
}

static bool never_asks_for_the_base(const struct trace *t) {
        return count(t, VHK_FE_SET_VRING_KICK) > trace_n_rings(t) && !count(t, VHK_FE_GET_VRING_BASE);
}

static bool call_is_a_socket(const struct trace *t) {
        const struct trace_line *l = find(t, 0, t->n, VHK_FE_SET_VRING_CALL);
        return l && !strcmp(l->fds[0].kind, "socket");
}

static bool protocol_features_want_an_answer(const struct trace *t) {
        const struct trace_line *l = find(t, 0, t->n, VHK_FE_SET_PROTOCOL_FEATURES);
        return l && (l->h.flags & VHK_HDR_NEED_REPLY);
}

static bool inflight_record_of_its_own_for_each_start(const struct trace *t) {
        return count(t, VHK_FE_GET_INFLIGHT_FD) >= 2 && count(t, VHK_FE_SET_INFLIGHT_FD) >= 2;
}

/* The log goes on, and with @off off again, while the ring runs: SET_FEATURES and SET_VRING_ADDR. */
static bool log_switched(const struct trace *t, bool off) {
        unsigned on = first(t, VHK_FE_SET_LOG_BASE), n[2] = { 0, 0 }, rings[2] = { 0, 0 };

        for (unsigned i = on; i < t->n && !trace_asks(&t->lines[i], VHK_FE_GET_VRING_BASE); i++) {
                if (trace_asks(&t->lines[i], VHK_FE_SET_FEATURES))
                        n[!!(trace_u64(&t->lines[i]) & VHK_BIT(VHK_F_LOG_ALL))]++;
                if (trace_asks(&t->lines[i], VHK_FE_SET_VRING_ADDR))
                        rings[trace_state(&t->lines[i]).num & VHK_VRING_F_LOG]++;
        }
        return n[1] && rings[1] && !!n[0] == off && !!rings[0] == off;
}

static bool log_goes_on(const struct trace *t) {
        return log_switched(t, false);
}

static bool log_goes_on_and_off(const struct trace *t) {
        return log_switched(t, true);
}

static bool postcopy_in_all_its_legs(const struct trace *t) {
        unsigned listen = first(t, VHK_FE_POSTCOPY_LISTEN), n = 0;

        for (unsigned i = listen; i < first(t, VHK_FE_POSTCOPY_END); i++)
                n += t->lines[i].h.request == VHK_FE_SET_MEM_TABLE;
        return first(t, VHK_FE_POSTCOPY_ADVISE) < listen && listen < t->n && (t->lines[listen].h.flags & VHK_HDR_NEED_REPLY) && n == 3;
}

/* QEMU up to 7.x: 632 bytes, and no NEED_REPLY on the close. */
static bool sessions_of_632_bytes(const struct trace *t) {
        const struct trace_line *l = find(t, 0, t->n, VHK_FE_CREATE_CRYPTO_SESSION);
        return l && l->h.size == 632 && find(t, 0, t->n, VHK_FE_CLOSE_CRYPTO_SESSION);
}

static bool mtu_before_features(const struct trace *t) {
        return first(t, VHK_FE_NET_SET_MTU) < first(t, VHK_FE_SET_FEATURES);
}

/* Misses of ours, answered; updates and invalidations of QEMU's, with NEED_REPLY; addresses of rings that are IOVA. */
static bool translations(const struct trace *t) {
        unsigned n[4] = { 0, 0, 0, 0 };

        for (unsigned i = 0; i < t->n; i++)
                if (t->lines[i].h.size == sizeof(struct vhk_p_iotlb) && t->lines[i].payload[25] < VHK_N(n) &&
                    (trace_asks(&t->lines[i], VHK_FE_IOTLB_MSG) ||
                     (t->lines[i].direction == '}' && t->lines[i].h.request == VHK_BE_IOTLB_MSG)))
                        n[t->lines[i].payload[25]] += !!(t->lines[i].h.flags & VHK_HDR_NEED_REPLY);
        return n[1] && n[2] && n[3];
}

static bool notifications_are_messages(const struct trace *t) {
        bool calls = false;

        for (unsigned i = 0; i < t->n; i++)
                calls |= t->lines[i].direction == '{' && t->lines[i].h.request == VHK_BE_VRING_CALL;
        return calls && count(t, VHK_FE_VRING_KICK);
}

static bool regions_come_and_go(const struct trace *t) {
        return count(t, VHK_FE_ADD_MEM_REG) > 2 && count(t, VHK_FE_REM_MEM_REG) >= 1;
}

/* A display's socket for each life of the device, before its features are set. */
static bool display_before_features(const struct trace *t) {
        return count(t, VHK_FE_GPU_SET_SOCKET) == 2 && first(t, VHK_FE_GPU_SET_SOCKET) < first(t, VHK_FE_SET_FEATURES);
}

/* What was never offered is passed on from the guest (RING_RESET). */
static bool ring_reset_taken_unoffered(const struct trace *t) {
        const struct trace_line *l = find(t, 0, t->n, VHK_FE_SET_FEATURES);
        return l && (trace_u64(l) & ~trace_answered(t, VHK_FE_GET_FEATURES) & VHK_BIT(VHK_F_RING_RESET));
}

static bool capacity_changes(const struct trace *t) {
        for (unsigned i = 0; i < t->n; i++)
                if (t->lines[i].direction == '{' && t->lines[i].h.request == VHK_BE_CONFIG_CHANGE_MSG)
                        return true;
        return false;
}

#define IN(quirk, ...) { quirk, #quirk, { __VA_ARGS__ } }

TEST(the_traces_hold_what_they_are_kept_for) {
        static const struct {
                bool (*has)(const struct trace *t);
                const char *name, *traces[12];
        } quirks[] = {
                IN(extra_get_features, "qemu-blk", "qemu-net", "qemu-fs", "qemu-vsock", "qemu-rng", "qemu-i2c", "qemu-gpio", "qemu-scsi",
                   "qemu-crypto", "uml-blk", "uml-net"),
                IN(identical_add_mem_reg, "qemu-net"),
                IN(enable_before_anything, "qemu-net"),
                IN(status_0_before_get_base, "qemu-blk"),
                IN(call_on_a_running_ring, "qemu-net", "qemu-fs", "qemu-vsock", "qemu-rng", "qemu-i2c", "qemu-gpio", "qemu-scsi",
                   "qemu-crypto"),
                IN(call_after_the_stop, "qemu-rng", "qemu-i2c", "qemu-gpio"),
                IN(no_version_1, "qemu-crypto"),
                IN(never_enabled, "qemu-crypto"),
                IN(ring_bits_taken_unoffered, "qemu-rng", "qemu-i2c"),
                IN(enables_a_ring_it_never_sets_up, "qemu-blk"),
                IN(features_twice, "qemu-blk"),
                IN(inflight_record_of_its_own_for_each_start, "qemu-blk"),
                IN(log_goes_on, "qemu-migrate-precopy-vhk-blk-1-0"),
                IN(log_goes_on_and_off, "qemu-migrate-cancel-vhk-blk-1-0"),
                IN(postcopy_in_all_its_legs, "qemu-migrate-postcopy-vhk-blk-2-0"),
                IN(sessions_of_632_bytes, "qemu-crypto"),
                IN(mtu_before_features, "qemu-net"),
                IN(notifications_are_messages, "uml-inband-vhk-blk-0"),
                IN(display_before_features, "qemu-gpu"),
                IN(ring_reset_taken_unoffered, "qemu-gpu"),
                IN(translations, "qemu-viommu-vhk-blk-0"),
                IN(regions_come_and_go, "qemu-hotplug-vhk-blk-0"),
                IN(capacity_changes, "qemu-blk-resize-vhk-blk-0"),
                IN(never_asks_for_the_base, "uml-blk", "uml-net"),
                IN(call_is_a_socket, "uml-blk", "uml-net"),
                IN(protocol_features_want_an_answer, "uml-blk", "uml-net"),
        };

        for (unsigned i = 0; i < VHK_N(quirks); i++)
                for (unsigned k = 0; k < VHK_N(quirks[i].traces) && quirks[i].traces[k]; k++) {
                        struct trace *t = trace_read(quirks[i].traces[k]);
                        CHECK_MSG(quirks[i].has(t), "%s: %s", t->name, quirks[i].name);
                        free(t);
                }
}
