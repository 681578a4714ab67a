/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a device draws on. The public calls: any thread; the rest, and all callbacks: control worker.
 *
 * A call makes its message where it is called and posts it; control hands it to the connection's queue, which sends what the socket
 * takes. How much is under way is counted, from the call to the last byte, so that a front-end that does not read costs
 * VHK_DISPLAY_QUEUE_MAX and no more. Nobody waits: a request that has an answer stays in a list.
 *
 * Answers to requests of one kind come in their order; QEMU answers DMABUF_UPDATE when its window was redrawn, others at once. A request
 * that takes too long is given up, but keeps its place: its answer may still come. Whatever is no answer that is due closes the
 * display, without harm to the session.
 *
 * Source: QEMU, docs/interop/vhost-user-gpu.rst; vhost-user, VHOST_USER_GPU_SET_SOCKET.
 */
#include <sys/epoll.h>

#include "backend/session.h"
#include "base/struct.h"

#define BURST 64                /* steps of the stream per wake-up */
#define OURS (VHK_BIT(VHK_GF_EDID) | VHK_BIT(VHK_GF_DMABUF2))
#define OPEN (UINT64_C(1) << 31)        /* in usable, above all features */

static_assert(VHK_DISPLAY_EDID == 1u << VHK_GF_EDID && VHK_DISPLAY_DMABUF2 == 1u << VHK_GF_DMABUF2, "the public bits are those on the wire");
static_assert(VHK_DISPLAY_SCANOUTS == VHK_GPU_SCANOUTS && VHK_DISPLAY_SIDE_MAX == VHK_GPU_SIDE_MAX, "as are the limits");

struct vhk_display_errand {
        struct vhk_post post;
        struct vhk_display_errand *next;
        struct vhk_display *d;
        uint32_t life;
        struct vhk_hdr header;
        struct vhk_out *out;
        const void *payload;            /* in out; gone when that was handed over */
        unsigned n_fds;
        uint64_t deadline;
        /* how it ends; all NULL: nobody is told */
        vhk_done_fn done;
        vhk_display_info_fn info;
        vhk_display_edid_fn edid;
        void (*internal)(struct vhk_display *d, int error, const void *payload);
        void *arg;
};

static void trace(struct vhk_display *d, const char *arrow, const struct vhk_hdr *h, const void *payload, unsigned n_fds) {
        char line[300];

        if (!d->b->trace.fn)
                return;
        vhk_gpu_print(arrow[0] == '=', h, payload, n_fds, line, sizeof(line));
        vhk_log(&d->b->trace, VHK_LOG_DEBUG, "%s %s", arrow, line);
}

/* ---- how errands end ---- */

static uint32_t le(uint32_t v) {
        return vhk_le32_get((vhk_le32){ v });
}

static void tell_info(const struct vhk_display_errand *e, int error, const struct vhk_g_display_info *p) {
        struct vhk_display_info info;

        for (unsigned i = 0; !error && i < VHK_GPU_SCANOUTS; i++)
                info.modes[i] = (struct vhk_display_mode){ .rect = { le(p->modes[i].x), le(p->modes[i].y), le(p->modes[i].width),
                        le(p->modes[i].height) },
                                                           .enabled = le(p->modes[i].enabled), .flags = le(p->modes[i].flags) };
        e->info(e->arg, error, error ? NULL : &info);
}

static void tell(struct vhk_display_errand *e, int error, const void *payload) {
        const struct vhk_g_edid *edid = payload;

        if (e->info)
                tell_info(e, error, payload);
        else if (e->edid)
                e->edid(e->arg, error, error ? NULL : edid->edid, error ? 0 : le(edid->n));
        else if (e->done)
                e->done(e->arg, error);
        else if (e->internal)
                e->internal(e->d, error, payload);
        e->info = NULL;
        e->edid = NULL;
        e->done = NULL;
        e->internal = NULL;
}

static void errand_end(struct vhk_display_errand *e, int error, const void *payload) {
        tell(e, error, payload);
        vhk_out_free(e->out);
        free(e);
}

/* ---- the time limit ---- */

static bool is_awaited(const struct vhk_display_errand *e) {
        return e->done || e->info || e->edid || e->internal;
}

static void set_timer(struct vhk_display *d) {
        uint64_t now = vhk_now_ns(), ns = 0;

        for (struct vhk_display_errand *e = d->waiting; e && !ns; e = e->next)
                if (is_awaited(e))
                        ns = e->deadline > now ? e->deadline - now : 1;
        (void)vhk_timer_set(d->timer, ns);
}

static void on_timer(void *arg) {
        struct vhk_display *d = arg;
        uint64_t now = vhk_now_ns();

        for (struct vhk_display_errand *e = d->waiting; d->is_open && e && e->deadline <= now; e = e->next) {
                if (!is_awaited(e))
                        continue;
                vhk_log(&d->b->log, VHK_LOG_WARNING, "the display did not answer %s in time", vhk_gpu_row(e->header.request)->name);
                if (e->internal) {
                        vhk_display_close(d);   /* nothing can be negotiated with it */
                        return;
                }
                tell(e, -ETIMEDOUT, NULL);
        }
        if (d->is_open)
                set_timer(d);
}

/* ---- out ---- */

static void count(struct vhk_display *d) {
        vhk_store_relaxed(&d->n_gone, d->n_handed - (d->is_open ? d->conn.out_bytes : 0));
}

static void fail(struct vhk_display *d, int code) {
        vhk_log(&d->b->log, VHK_LOG_INFO, "the display is closed: %s", strerror(-code));
        vhk_display_close(d);
}

static void flush(struct vhk_display *d) {
        int k = vhk_conn_flush(&d->conn);

        count(d);
        if (k >= 0)
                k = vhk_watch_set(d->watch, (uint32_t)EPOLLIN | (k == 0 ? (uint32_t)EPOLLOUT : 0));
        if (k < 0)
                fail(d, k);
}

/* Hands @e over; it is gone when this returns, or waits. */
static void send_errand(struct vhk_display *d, struct vhk_display_errand *e) {
        bool waits = vhk_gpu_row(e->header.request)->answered;

        d->n_handed += sizeof(e->header) + e->header.size;
        if (!d->is_open || e->life != d->life || (waits && d->n_waiting == VHK_DISPLAY_WAITING_MAX)) {
                count(d);
                errand_end(e, d->is_open && e->life == d->life ? -ENOBUFS : -EPIPE, NULL);
                return;
        }
        trace(d, "<=", &e->header, e->payload, e->n_fds);
        vhk_conn_queue(&d->conn, VHK_STEAL(e->out));
        e->payload = NULL;
        if (waits) {
                e->deadline = vhk_now_ns() + d->b->limit_ns;
                *d->waiting_tail = e;
                d->waiting_tail = &e->next;
                d->n_waiting++;
                set_timer(d);
        } else {
                errand_end(e, 0, NULL);
        }
        flush(d);
}

static void on_errand(struct vhk_post *p) {
        struct vhk_display_errand *e = vhk_container_of(p, struct vhk_display_errand, post);
        struct vhk_host *h = &e->d->b->host;

        send_errand(e->d, e);
        /* last: the back-end may end. Pairs with nothing but itself: the end is looked for on this thread */
        __atomic_fetch_sub(&h->n_errands, 1, __ATOMIC_RELEASE);
}

/* ---- in ---- */

/* Takes the oldest one that waits for @id. */
static struct vhk_display_errand *take_waiting(struct vhk_display *d, uint32_t id) {
        struct vhk_display_errand **at = &d->waiting;

        while (*at && (*at)->header.request != id)
                at = &(*at)->next;
        struct vhk_display_errand *e = *at;
        if (!e)
                return NULL;
        *at = e->next;
        if (!*at)
                d->waiting_tail = at;
        d->n_waiting--;
        return e;
}

static int take_answer(struct vhk_display *d) {
        struct vhk_decoder *in = &d->conn.in;
        struct vhk_hdr got = vhk_decoder_header(in);

        trace(d, "=>", &got, in->payload, vhk_decoder_n_fds(in));
        enum vhk_rule rule = vhk_gpu_check_reply(got.request, &got, in->payload, vhk_decoder_n_fds(in));
        struct vhk_display_errand *e = rule == VHK_RULE_OK ? take_waiting(d, got.request) : NULL;
        if (!e) {
                rule = rule ? rule : VHK_RULE_REPLY_UNEXPECTED;
                vhk_log(&d->b->log, VHK_LOG_WARNING, "on the display's socket (%s): %s", vhk_rule_id(rule), vhk_rule_text(rule));
                return -EPROTO;
        }
        errand_end(e, 0, in->payload);
        if (d->is_open)                 /* else that was told to the device, and the payload is gone */
                vhk_decoder_next(in);
        return 0;
}

static int receive(struct vhk_display *d) {
        int k = vhk_conn_receive(&d->conn);

        if (k == VHK_CONN_EOF || k == VHK_CONN_CUT)
                return -EPIPE;
        if (k == VHK_CONN_HEADER && vhk_decoder_header(&d->conn.in).size > VHK_MAX_PAYLOAD)
                return -EPROTO;
        if (k != VHK_CONN_MESSAGE)
                return k;
        k = take_answer(d);
        return k < 0 ? k : VHK_CONN_MESSAGE;
}

static void on_display(void *arg, uint32_t events) {
        struct vhk_display *d = arg;
        int k = 0;

        if (vhk_conn_wants_out(&d->conn))
                flush(d);
        for (unsigned i = 0; i < BURST && k >= 0 && d->is_open; i++) {
                k = receive(d);
                if (k == VHK_CONN_AGAIN)
                        break;
        }
        if (k < 0 && d->is_open)
                fail(d, k);
        else if (d->is_open)
                set_timer(d);
}

/* ---- any thread: errands are made ---- */

static struct vhk_display_errand *errand_new(struct vhk_display *d, uint32_t life, uint32_t id, uint32_t size, int fd, void **ret_payload,
        int *ret_error) {
        struct vhk_display_errand *e = calloc(1, sizeof(*e));

        *ret_error = -ENOMEM;
        if (!e)
                return NULL;
        *e = (struct vhk_display_errand){ .post.fn = on_errand, .d = d, .life = life, .header = { id, 0, size }, .n_fds = fd >= 0 };
        *ret_error = vhk_out_new(&e->header, &fd, e->n_fds, &e->out, ret_payload);
        if (*ret_error == -EBADF)
                *ret_error = -EINVAL;
        if (*ret_error < 0) {
                free(e);
                return NULL;
        }
        e->payload = *ret_payload;
        return e;
}

/* Room for @n more bytes? Then they are counted. */
static bool take_room(struct vhk_display *d, uint64_t n) {
        uint64_t before = __atomic_fetch_add(&d->n_posted, n, __ATOMIC_RELAXED);
        int64_t under_way = (int64_t)(before - vhk_load_relaxed(&d->n_gone));   /* below 0: others came and went meanwhile */

        if (under_way <= 0 || (uint64_t)under_way + n <= VHK_DISPLAY_QUEUE_MAX)
                return true;
        __atomic_fetch_sub(&d->n_posted, n, __ATOMIC_RELAXED);
        return false;
}

static int refusal(enum vhk_rule rule) {
        return rule == VHK_RULE_OK ? 0 : rule == VHK_RULE_GATE ? -EOPNOTSUPP : -EINVAL;
}

/* A call's message; its first bytes are enough to check it. */
struct call {
        uint32_t id;
        const void *head;               /* of the payload */
        uint32_t n_head;
        const void *pixels;             /* what follows: @rows of @n_row bytes, @stride apart */
        size_t n_row, rows, stride;
        int fd;
};

static void fill(uint8_t *payload, const struct call *c) {
        if (c->n_head)
                memcpy(payload, c->head, c->n_head);
        for (size_t i = 0; i < c->rows; i++)
                memcpy(payload + c->n_head + i * c->n_row, (const uint8_t *)c->pixels + i * c->stride, c->n_row);
}

static int run(struct vhk_display *d, const struct call *c, const struct vhk_display_errand *how) {
        uint64_t usable = vhk_load_relaxed(&d->usable), size = c->n_head + (uint64_t)c->n_row * c->rows;
        struct vhk_gpu_state s = { .features = usable & OURS, .max_pixels = UINT64_MAX };
        void *payload;
        int k;

        if (!usable)
                return -ENOTCONN;
        if (size > UINT32_MAX)
                return -EINVAL;
        k = refusal(vhk_gpu_check(&s, &(struct vhk_hdr){ c->id, 0, (uint32_t)size }, c->head, c->fd >= 0));
        if (k < 0)
                return k;
        if (!take_room(d, sizeof(struct vhk_hdr) + size))
                return -ENOBUFS;
        struct vhk_display_errand *e = errand_new(d, (uint32_t)(usable >> 32), c->id, (uint32_t)size, c->fd, &payload, &k);
        if (!e) {
                __atomic_fetch_sub(&d->n_posted, sizeof(struct vhk_hdr) + size, __ATOMIC_RELAXED);
                return k;
        }
        fill(payload, c);
        e->done = how->done;
        e->info = how->info;
        e->edid = how->edid;
        e->arg = how->arg;
        __atomic_fetch_add(&d->b->host.n_errands, 1, __ATOMIC_RELAXED);         /* ordered by the post */
        vhk_worker_post(d->b->o.control, &e->post);
        return 0;
}

static int say(struct vhk_display *d, uint32_t id, const void *payload, uint32_t size) {
        return run(d, &(struct call){ .id = id, .head = payload, .n_head = size, .fd = -1 }, &(struct vhk_display_errand){ .arg = NULL });
}

VHK_API int vhk_display_get_info(struct vhk_display *d, vhk_display_info_fn done, void *arg) {
        if (!done)
                return -EINVAL;
        return run(d, &(struct call){ .id = VHK_GPU_GET_DISPLAY_INFO, .fd = -1 }, &(struct vhk_display_errand){ .info = done, .arg = arg });
}

VHK_API int vhk_display_get_edid(struct vhk_display *d, unsigned scanout, vhk_display_edid_fn done, void *arg) {
        struct vhk_g_scanout_id p = { scanout };

        if (!done)
                return -EINVAL;
        return run(d, &(struct call){ .id = VHK_GPU_GET_EDID, .head = &p, .n_head = sizeof(p), .fd = -1 },
                &(struct vhk_display_errand){ .edid = done, .arg = arg });
}

VHK_API int vhk_display_set_scanout(struct vhk_display *d, unsigned scanout, uint32_t width, uint32_t height) {
        return say(d, VHK_GPU_SCANOUT, &(struct vhk_g_scanout){ scanout, width, height }, sizeof(struct vhk_g_scanout));
}

static struct vhk_g_rect rect_of(unsigned scanout, const struct vhk_display_rect *r) {
        return (struct vhk_g_rect){ scanout, r->x, r->y, r->width, r->height };
}

VHK_API int vhk_display_update(struct vhk_display *d, unsigned scanout, const struct vhk_display_rect *rect, const void *pixels, size_t stride) {
        struct vhk_g_rect p = rect_of(scanout, rect);
        size_t n_row = (size_t)rect->width * sizeof(uint32_t);

        if (rect->height > VHK_GPU_SIDE_MAX || rect->width > VHK_GPU_SIDE_MAX || (stride < n_row && rect->height > 1))
                return -EINVAL;
        return run(d, &(struct call){ .id = VHK_GPU_UPDATE, .head = &p, .n_head = sizeof(p), .pixels = pixels, .n_row = n_row, .rows = rect->height,
                                      .stride = stride, .fd = -1 }, &(struct vhk_display_errand){ .arg = NULL });
}

VHK_API int vhk_display_set_dmabuf(struct vhk_display *d, unsigned scanout, const struct vhk_display_dmabuf *theirs) {
        struct vhk_display_dmabuf own = { .size = sizeof(own) };
        const struct vhk_display_dmabuf *b = &own;

        int ret = VHK_STRUCT_TAKE(&own, theirs, fd);
        if (ret < 0)
                return ret;
        struct vhk_g_dmabuf2 p = { scanout, b->rect.x, b->rect.y, b->rect.width, b->rect.height, b->fd_width, b->fd_height, b->stride, b->flags,
                b->fourcc,
                                   b->modifier };
        return run(d, &(struct call){ .id = b->has_modifier ? VHK_GPU_DMABUF_SCANOUT2 : VHK_GPU_DMABUF_SCANOUT, .head = &p,
                                      .n_head = b->has_modifier ? sizeof(p) : sizeof(struct vhk_g_dmabuf), .fd = b->fd },
                                              &(struct vhk_display_errand){ .arg = NULL });
}

VHK_API int vhk_display_update_dmabuf(struct vhk_display *d, unsigned scanout, const struct vhk_display_rect *rect, vhk_done_fn done, void *arg) {
        struct vhk_g_rect p = rect_of(scanout, rect);

        return run(d, &(struct call){ .id = VHK_GPU_DMABUF_UPDATE, .head = &p, .n_head = sizeof(p), .fd = -1 },
                   &(struct vhk_display_errand){ .done = done, .arg = arg });
}

VHK_API int vhk_display_move_cursor(struct vhk_display *d, unsigned scanout, uint32_t x, uint32_t y) {
        return say(d, VHK_GPU_CURSOR_POS, &(struct vhk_g_cursor_pos){ scanout, x, y }, sizeof(struct vhk_g_cursor_pos));
}

VHK_API int vhk_display_hide_cursor(struct vhk_display *d, unsigned scanout, uint32_t x, uint32_t y) {
        return say(d, VHK_GPU_CURSOR_POS_HIDE, &(struct vhk_g_cursor_pos){ scanout, x, y }, sizeof(struct vhk_g_cursor_pos));
}

VHK_API int vhk_display_set_cursor(struct vhk_display *d, unsigned scanout, uint32_t x, uint32_t y, const struct vhk_display_cursor *c) {
        struct vhk_g_cursor p = { .scanout = scanout, .x = x, .y = y, .hot_x = c->hot_x, .hot_y = c->hot_y };

        memcpy(p.pixels, c->pixels, sizeof(p.pixels));
        return say(d, VHK_GPU_CURSOR_UPDATE, &p, sizeof(p));
}

VHK_API int vhk_host_display(struct vhk_host *h, struct vhk_display **ret_d) {
        if (!h->b->ops->display)
                return -EOPNOTSUPP;
        *ret_d = &h->b->display;
        return 0;
}

/* ---- open and closed ---- */

/* From control itself; counted as all errands are. */
static int send_own(struct vhk_display *d, uint32_t id, const void *payload, uint32_t size, void (*internal)(struct vhk_display *, int,
        const void *)) {
        void *room;
        int k;

        struct vhk_display_errand *e = errand_new(d, d->life, id, size, -1, &room, &k);
        if (!e)
                return k;
        if (size)
                memcpy(room, payload, size);
        e->internal = internal;
        __atomic_fetch_add(&d->n_posted, sizeof(e->header) + size, __ATOMIC_RELAXED);
        send_errand(d, e);
        return 0;
}

static void on_features(struct vhk_display *d, int error, const void *payload) {
        const struct vhk_g_u64 *p = payload;

        if (error)
                return;
        d->state.offered = p->value;
        d->state.features = p->value & OURS;
        error = send_own(d, VHK_GPU_SET_PROTOCOL_FEATURES, &(struct vhk_g_u64){ d->state.features }, sizeof(struct vhk_g_u64), NULL);
        if (error < 0)
                fail(d, error);
        if (!d->is_open)
                return;
        vhk_store_relaxed(&d->usable, (uint64_t)d->life << 32 | OPEN | d->state.features);
        d->is_told = true;
        if (d->b->ops->display->opened)
                d->b->ops->display->opened(d->b->dev, d, (uint32_t)d->state.features);
}

void vhk_display_init(struct vhk_display *d, struct vhk_backend *b) {
        *d = (struct vhk_display){ .b = b, .conn.fd = -1 };
        d->waiting_tail = &d->waiting;
}

int vhk_display_open(struct vhk_display *d, int fd) {
        VHK_AUTOCLOSE int owned = fd;

        if (vhk_sock_classify(fd, NULL) != 0)
                return -EINVAL;
        vhk_display_close(d);
        int k = vhk_conn_init(&d->conn, VHK_STEAL_FD(owned));
        if (k < 0)
                return k;
        d->is_open = true;
        d->life++;
        k = vhk_worker_timer(d->b->o.control, on_timer, d, &d->timer);
        if (k >= 0)
                k = vhk_worker_watch(d->b->o.control, d->conn.fd, EPOLLIN, on_display, d, &d->watch);
        if (k >= 0)
                k = send_own(d, VHK_GPU_GET_PROTOCOL_FEATURES, NULL, 0, on_features);
        if (k < 0)
                vhk_display_close(d);
        return k;
}

void vhk_display_close(struct vhk_display *d) {
        if (!d->is_open)
                return;
        d->is_open = false;
        vhk_store_relaxed(&d->usable, 0);       /* whoever is told now cannot send */
        d->watch = vhk_watch_free(d->watch);
        d->timer = vhk_timer_free(d->timer);
        vhk_conn_done(&d->conn);
        d->state = (struct vhk_gpu_state){ 0 };
        count(d);
        struct vhk_display_errand *e = VHK_STEAL(d->waiting);
        d->waiting_tail = &d->waiting;
        d->n_waiting = 0;
        while (e) {
                struct vhk_display_errand *next = e->next;
                errand_end(e, -EPIPE, NULL);
                e = next;
        }
        if (d->is_told && d->b->ops->display->closed)
                d->b->ops->display->closed(d->b->dev, d);
        d->is_told = false;
}

int vhk_on_GPU_SET_SOCKET(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        if (!b->ops->display)
                return vhk_refuse(b, -EOPNOTSUPP, "device.display", "the device draws nothing");
        int k = vhk_display_open(&b->display, VHK_STEAL_FD(c->fds[0]));
        return k < 0 ? vhk_refuse(b, k, "gpu.socket", "the display's socket cannot be used: %s", strerror(-k)) : 0;
}
