/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The display that a front-end shows for its device: a socket of its own, given with GPU_SET_SOCKET when the connection is made (again),
 * served wherever the back-end's channel is. One thread.
 *
 * The device is not trusted: nothing is handed to the caller that was not checked, an update's size is bounded by the scanouts that there
 * are before room is made for it, and no request is read while answers wait for room in the socket. Whatever breaks the protocol ends the
 * display; the connection to the back-end goes on.
 *
 * Source: vhost-user, VHOST_USER_GPU_SET_SOCKET; QEMU, docs/interop/vhost-user-gpu.rst.
 */
#include <sys/epoll.h>
#include <sys/socket.h>

#include "frontend/vhost_user.h"

#define SERVE_AT_ONCE 64        /* requests before we look at our own business again */

static void trace(struct vhk_vhost_user *u, const char *arrow, const struct vhk_hdr *h, const void *payload, unsigned n_fds) {
        char text[300];

        if (!u->f.trace.fn)
                return;
        vhk_gpu_print(arrow[0] == '=', h, payload, n_fds, text, sizeof(text));
        vhk_log(&u->f.trace, VHK_LOG_DEBUG, "%s %s", arrow, text);
}

/* ---- the end ---- */

static void end(struct vhk_vhost_user *u, const struct vhk_error *e) {
        struct vhk_vu_display *d = &u->display;
        bool was_shown = d->is_shown;

        if (d->conn.fd < 0)
                return;
        vhk_conn_done(&d->conn);        /* leaves the epoll set with its descriptor */
        d->conn.fd = -1;
        d->is_shown = false;
        d->state = (struct vhk_gpu_state){ 0 };
        memset(d->scanouts, 0, sizeof(d->scanouts));
        u->f.info.capabilities &= ~VHK_CAP_DISPLAY;
        if (was_shown && d->callbacks.closed)
                d->callbacks.closed(d->callbacks.arg, e);
}

void vhk_vu_display_close(struct vhk_vhost_user *u) {
        end(u, NULL);
}

/* The device's fault, or the socket's. */
static int broken(struct vhk_vhost_user *u, int code, const char *rule, const char *what, const char *why) {
        struct vhk_error e;

        vhk_error_set(&e, code, rule, "the display of the device on %s is closed, %s: %s", u->name, what, why);
        vhk_log(&u->f.log, VHK_LOG_WARNING, "%s", e.text);
        vhk_log(&u->f.trace, VHK_LOG_DEBUG, "-- (%s) %s", rule, e.text);
        end(u, &e);
        return code;
}

static int broken_rule(struct vhk_vhost_user *u, uint32_t id, enum vhk_rule rule) {
        const struct vhk_gpu_row *row = vhk_gpu_row(id);

        return broken(u, -EPROTO, vhk_rule_id(rule), row ? row->name : "an unknown message", vhk_rule_text(rule));
}

/* ---- answers ---- */

/* Requests that are not read meanwhile do not keep the caller's loop awake. */
static int watch(struct vhk_vhost_user *u, int op) {
        struct vhk_vu_display *d = &u->display;
        struct epoll_event e = { .events = vhk_conn_wants_out(&d->conn) ? EPOLLOUT : EPOLLIN };

        return epoll_ctl(u->epoll_fd, op, d->conn.fd, &e) < 0 ? vhk_errno() : 0;
}

static int answer(struct vhk_vhost_user *u, uint32_t id, const void *payload, uint32_t size) {
        struct vhk_hdr h = { id, VHK_HDR_REPLY, size };

        trace(u, "=>", &h, payload, 0);
        int k = vhk_conn_send(&u->display.conn, &h, payload, NULL, 0);
        if (k == 0 && vhk_conn_wants_out(&u->display.conn))
                k = watch(u, EPOLL_CTL_MOD);
        return k < 0 ? broken(u, k, "gpu.socket", "it cannot be answered", strerror(-k)) : 0;
}

/* ---- requests; each was held against its row. 0, or the display has ended ---- */

static int on_GET_PROTOCOL_FEATURES(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        return answer(u, VHK_GPU_GET_PROTOCOL_FEATURES, &(struct vhk_g_u64){ u->display.state.offered }, sizeof(struct vhk_g_u64));
}

static int on_SET_PROTOCOL_FEATURES(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        memcpy(&u->display.state.features, payload, sizeof(u->display.state.features));
        return 0;
}

static uint32_t le(uint32_t v) {
        return vhk_le32_of(v).v;
}

static int on_GET_DISPLAY_INFO(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        struct vhk_display_info info = { .modes[0].enabled = 0 };
        struct vhk_g_display_info p = { .type = le(VHK_GPU_INFO_OK) };

        if (u->display.callbacks.get_info(u->display.callbacks.arg, &info) < 0)
                memset(&info, 0, sizeof(info));
        for (unsigned i = 0; i < VHK_GPU_SCANOUTS; i++) {
                const struct vhk_display_mode *m = &info.modes[i];
                p.modes[i] = (struct vhk_g_mode){ le(m->rect.x), le(m->rect.y), le(m->rect.width), le(m->rect.height), le(m->enabled), le(m->flags) };
        }
        return answer(u, VHK_GPU_GET_DISPLAY_INFO, &p, sizeof(p));
}

static int on_GET_EDID(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        const struct vhk_g_scanout_id *r = payload;
        struct vhk_g_edid p = { .type = le(VHK_GPU_EDID_OK) };

        int n = u->display.callbacks.get_edid(u->display.callbacks.arg, r->scanout, p.edid);
        p.n = n < 0 ? 0 : le(VHK_MIN((uint32_t)n, VHK_GPU_EDID_MAX));   /* what it has not is empty */
        return answer(u, VHK_GPU_GET_EDID, &p, sizeof(p));
}

/* A scanout has changed: how large an update may be now. */
static void count_pixels(struct vhk_vu_display *d) {
        d->state.max_pixels = 0;
        for (unsigned i = 0; i < VHK_GPU_SCANOUTS; i++)
                if (!d->scanouts[i].is_dmabuf)
                        d->state.max_pixels = VHK_MAX(d->state.max_pixels, (uint64_t)d->scanouts[i].width * d->scanouts[i].height);
}

static int on_SCANOUT(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        const struct vhk_frontend_display *c = &u->display.callbacks;
        const struct vhk_g_scanout *p = payload;

        u->display.scanouts[p->scanout] = (struct vhk_vu_scanout){ p->width, p->height, false };
        count_pixels(&u->display);
        if (c->set_scanout)
                c->set_scanout(c->arg, p->scanout, p->width, p->height);
        return 0;
}

static struct vhk_display_rect rect_of(const struct vhk_g_rect *p) {
        return (struct vhk_display_rect){ p->x, p->y, p->width, p->height };
}

/* Of @r what is inside of a scanout; empty, perhaps. Rows move together. */
static void clip(const struct vhk_vu_scanout *s, struct vhk_display_rect *r, uint32_t *pixels) {
        uint32_t width = r->x < s->width ? VHK_MIN(r->width, s->width - r->x) : 0;

        for (uint32_t y = 1; width < r->width && y < r->height; y++)
                memmove(pixels + (size_t)y * width, pixels + (size_t)y * r->width, width * sizeof(*pixels));
        r->width = width;
        r->height = r->y < s->height ? VHK_MIN(r->height, s->height - r->y) : 0;
}

/* QEMU's device counts from the corner of its resource, of which a scanout may show a part: what is not shown is left out. */
static int on_UPDATE(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        const struct vhk_frontend_display *c = &u->display.callbacks;
        struct vhk_g_rect *p = payload;
        const struct vhk_vu_scanout *s = &u->display.scanouts[p->scanout];
        struct vhk_display_rect r = rect_of(p);

        if (s->is_dmabuf || !s->width)
                return broken(u, -EPROTO, "gpu.outside", "UPDATE", "the scanout was not set");
        clip(s, &r, (void *)(p + 1));
        if (c->update && r.width && r.height)
                c->update(c->arg, p->scanout, &r, (const void *)(p + 1));
        return 0;
}

/* The longer form begins as the shorter one. */
static int set_dmabuf(struct vhk_vhost_user *u, const struct vhk_g_dmabuf *p, const struct vhk_g_dmabuf2 *p2, int fd) {
        const struct vhk_frontend_display *c = &u->display.callbacks;
        struct vhk_display_dmabuf b = { .size = sizeof(b), .rect = { p->x, p->y, p->width, p->height }, .fd_width = p->fd_width,
                .fd_height = p->fd_height, .stride = p->stride, .flags = p->flags, .fourcc = p->fourcc, .has_modifier = !!p2,
                .modifier = p2 ? p2->modifier : 0, .fd = fd };

        u->display.scanouts[p->scanout] = (struct vhk_vu_scanout){ p->width, p->height, fd >= 0 };
        count_pixels(&u->display);
        if (c->set_dmabuf)
                c->set_dmabuf(c->arg, p->scanout, &b);
        return 0;
}

static int on_DMABUF_SCANOUT(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        return set_dmabuf(u, payload, NULL, fd);
}

static int on_DMABUF_SCANOUT2(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        return set_dmabuf(u, payload, payload, fd);
}

static int on_DMABUF_UPDATE(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        const struct vhk_frontend_display *c = &u->display.callbacks;
        const struct vhk_g_rect *p = payload;
        struct vhk_display_rect r = rect_of(p);

        if (!u->display.scanouts[p->scanout].is_dmabuf)
                return broken(u, -EPROTO, "gpu.outside", "DMABUF_UPDATE", "the scanout shows no dma-buf");
        if (c->update_dmabuf)
                c->update_dmabuf(c->arg, p->scanout, &r);
        return answer(u, VHK_GPU_DMABUF_UPDATE, NULL, 0);
}

static int move_cursor(struct vhk_vhost_user *u, const struct vhk_g_cursor_pos *p, int visible) {
        const struct vhk_frontend_display *c = &u->display.callbacks;

        if (c->move_cursor)
                c->move_cursor(c->arg, p->scanout, p->x, p->y, visible);
        return 0;
}

static int on_CURSOR_POS(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        return move_cursor(u, payload, 1);
}

static int on_CURSOR_POS_HIDE(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        return move_cursor(u, payload, 0);
}

static int on_CURSOR_UPDATE(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd) {
        const struct vhk_frontend_display *c = &u->display.callbacks;
        const struct vhk_g_cursor *p = payload;
        struct vhk_display_cursor cursor = { .hot_x = p->hot_x, .hot_y = p->hot_y };

        memcpy(cursor.pixels, p->pixels, sizeof(cursor.pixels));
        if (c->set_cursor)
                c->set_cursor(c->arg, p->scanout, &cursor);
        return move_cursor(u, payload, 1);      /* begins with the position */
}

static const struct {
        uint32_t id;
        int (*fn)(struct vhk_vhost_user *u, void *payload, uint32_t size, int fd);
} requests[] = {
#define GPU(id, name, ...) { id, on_##name },
#include "wire/gpu.def"
};

static int handle(struct vhk_vhost_user *u) {
        struct vhk_decoder *in = &u->display.conn.in;
        struct vhk_hdr h = vhk_decoder_header(in);
        unsigned n_fds = vhk_decoder_n_fds(in);
        int k = 0;

        trace(u, "<=", &h, in->payload, n_fds);
        enum vhk_rule rule = vhk_gpu_check(&u->display.state, &h, in->payload, n_fds);
        if (rule != VHK_RULE_OK)
                return broken_rule(u, h.request, rule);
        for (size_t i = 0; i < VHK_N(requests); i++)
                if (requests[i].id == h.request)
                        k = requests[i].fn(u, in->payload, h.size, n_fds ? in->fds[0] : -1);
        if (k == 0)
                vhk_decoder_next(in);
        return k;
}

/* One step; 1: go on, 0: nothing more now, negative: the display has ended. */
static int step(struct vhk_vhost_user *u, unsigned *n) {
        struct vhk_conn *c = &u->display.conn;
        struct vhk_hdr h;

        if (vhk_conn_wants_out(c)) {
                int k = vhk_conn_flush(c);
                if (k == 1)
                        k = watch(u, EPOLL_CTL_MOD) < 0 ? -EIO : 1;
                if (k <= 0)
                        return k < 0 ? broken(u, k, "gpu.socket", "it cannot be answered", strerror(-k)) : 0;
        }
        int k = vhk_conn_receive(c);
        switch (k) {
        case VHK_CONN_AGAIN:
                return 0;
        case VHK_CONN_HEADER:
                h = vhk_decoder_header(&c->in);
                enum vhk_rule rule = vhk_gpu_check_header(&u->display.state, &h);
                if (rule != VHK_RULE_OK)
                        return broken_rule(u, h.request, rule);
                k = vhk_decoder_reserve(&c->in, h.size);
                return k < 0 ? broken(u, k, "gpu.memory", "an update is too large", strerror(-k)) : 1;
        case VHK_CONN_MESSAGE:
                ++*n;
                k = handle(u);
                return k < 0 ? k : 1;
        case VHK_CONN_EOF:
                vhk_log(&u->f.log, VHK_LOG_INFO, "the device on %s closed its display", u->name);
                end(u, NULL);
                return -EPIPE;
        case VHK_CONN_CUT:
                return broken(u, -EPROTO, "wire.cut", "a message", "the connection ended in the middle of it");
        default:
                return broken(u, k, "gpu.socket", "it cannot be read", strerror(-k));
        }
}

int vhk_vu_display_serve(struct vhk_vhost_user *u) {
        unsigned n = 0;

        while (u->display.conn.fd >= 0 && n < SERVE_AT_ONCE && step(u, &n) > 0)
                ;
        return (int)n;
}

/* ---- the beginning ---- */

int vhk_vu_display_open(struct vhk_vhost_user *u) {
        struct vhk_vu_display *d = &u->display;
        int s[2];

        if (!d->callbacks.size)
                return 0;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s) < 0)
                return vhk_frontend_fail(&u->f, vhk_errno(), "frontend.display", "cannot make a socket for the display: %s", strerror(errno));
        VHK_AUTOCLOSE int theirs = s[1];
        int k = vhk_conn_init(&d->conn, s[0]);
        if (k == 0)
                k = watch(u, EPOLL_CTL_ADD);
        if (k < 0)
                return vhk_frontend_fail(&u->f, k, "frontend.display", "cannot use the socket for the display: %s", strerror(-k));
        d->state.offered = d->callbacks.features;
        d->is_shown = true;
        k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_GPU_SET_SOCKET, .fds = &theirs, .n_fds = 1 }, NULL, NULL);
        if (k != -EREMOTEIO)
                return k;
        d->is_shown = false;            /* it draws nothing */
        end(u, NULL);
        return 0;
}
