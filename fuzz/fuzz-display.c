/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A display between both ends of the library: the device draws, the front-end shows, and the script puts words of its own into either's
 * mouth, whole, cut, with descriptors, out of turn. What arrives at the callers must be inside of what was announced, every request of
 * the device must end once, and the session must live, whatever happens to its display.
 *
 * One thread: poll(2), where the front-end waits, is the back-end's turn (fuzz/meson.build).
 */
#include <vhostkit/display.h>
#include <vhostkit/frontend.h>

#include "backend/session.h"
#include "frontend/vhost_user.h"
#include "fuzz/fuzz-display.h"
#define FZ_OWN_POLL                     /* poll(2) is where the front-end waits */
#include "fuzz/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIDE 64u

static struct {
        struct vhk_worker *worker;
        struct vhk_backend *b;
        struct vhk_frontend *f;
        struct vhk_display *d;
        bool active, ended;
        unsigned n_opened, n_closed, n_asked, n_answered, n_window_closed;
        struct { uint32_t w, h; } scanouts[VHK_DISPLAY_SCANOUTS];
        uint32_t sum;                   /* of what was read */
} fz;

/* ---- the device ---- */

static int attach(void *dev, struct vhk_host *h) {
        return vhk_host_display(h, &fz.d);
}

static void opened(void *dev, struct vhk_display *d, uint32_t features) {
        MUST(d == fz.d && !(features & ~3u));
        fz.n_opened++;
}

static void closed(void *dev, struct vhk_display *d) {
        fz.n_closed++;
        MUST(fz.n_closed == fz.n_opened && vhk_display_set_scanout(d, 0, 1, 1) == -ENOTCONN);
}

static void run(void *dev, struct vhk_queue *q) { }

static const struct vhk_display_ops display_ops = { sizeof(display_ops), opened, closed };
static const struct vhk_device_ops ops = { .size = sizeof(ops), .virtio_id = 16, .n_queues = 1, .queue_size_max = 64, .queue_run = run,
        .attach = attach,
                                           .display = &display_ops };

static void on_done(void *arg, int error) {
        fz.n_answered++;
}

static void on_info(void *arg, int error, const struct vhk_display_info *info) {
        for (unsigned i = 0; info && i < VHK_DISPLAY_SCANOUTS; i++)
                fz.sum += info->modes[i].enabled;
        on_done(arg, error);
}

static void on_edid(void *arg, int error, const void *edid, size_t n) {
        MUST(n <= VHK_DISPLAY_EDID_MAX && (!n || edid) && (!error || !n));
        fz.sum += n ? ((const uint8_t *)edid)[n - 1] : 0;
        on_done(arg, error);
}

static void asked(int k) {
        fz.n_asked += k == 0;
}

/* ---- the window ---- */

static int get_info(void *arg, struct vhk_display_info *i) {
        i->modes[3].enabled = 1;
        return 0;
}

static int get_edid(void *arg, unsigned scanout, uint8_t edid[VHK_DISPLAY_EDID_MAX]) {
        MUST(scanout < VHK_DISPLAY_SCANOUTS);
        memset(edid, 1, VHK_DISPLAY_EDID_MAX);
        return scanout == 9 ? -EIO : (int)scanout * 100;
}

static void set_scanout(void *arg, unsigned scanout, uint32_t w, uint32_t h) {
        MUST(scanout < VHK_DISPLAY_SCANOUTS && w <= VHK_DISPLAY_SIDE_MAX && h <= VHK_DISPLAY_SIDE_MAX && !w == !h);
        fz.scanouts[scanout].w = w;
        fz.scanouts[scanout].h = h;
}

static void update(void *arg, unsigned scanout, const struct vhk_display_rect *r, const uint32_t *pixels) {
        MUST(scanout < VHK_DISPLAY_SCANOUTS);
        MUST((uint64_t)r->x + r->width <= fz.scanouts[scanout].w && (uint64_t)r->y + r->height <= fz.scanouts[scanout].h);
        for (uint64_t i = 0; i < (uint64_t)r->width * r->height; i++)
                fz.sum += pixels[i];
}

static void set_dmabuf(void *arg, unsigned scanout, const struct vhk_display_dmabuf *b) {
        MUST(scanout < VHK_DISPLAY_SCANOUTS && (b->fd >= 0) == (b->rect.width && b->rect.height));
        MUST(b->fd < 0 || fcntl(b->fd, F_GETFD) == FD_CLOEXEC);
        MUST((uint64_t)b->rect.x + b->rect.width <= b->fd_width && (uint64_t)b->rect.y + b->rect.height <= b->fd_height);
        fz.scanouts[scanout].w = fz.scanouts[scanout].h = 0;
}

static void update_dmabuf(void *arg, unsigned scanout, const struct vhk_display_rect *r) {
        MUST(scanout < VHK_DISPLAY_SCANOUTS);
}

static void set_cursor(void *arg, unsigned scanout, const struct vhk_display_cursor *c) {
        MUST(scanout < VHK_DISPLAY_SCANOUTS);
        fz.sum += c->pixels[SIDE * SIDE - 1];
}

static void move_cursor(void *arg, unsigned scanout, uint32_t x, uint32_t y, int visible) {
        MUST(scanout < VHK_DISPLAY_SCANOUTS);
}

static void window_closed(void *arg, const struct vhk_error *e) {
        memset(fz.scanouts, 0, sizeof(fz.scanouts));
        fz.n_window_closed++;
        fz.sum += e ? (uint32_t)strlen(e->text) : 0;
}

static const struct vhk_frontend_display window = {
        .size = sizeof(window), .features = VHK_DISPLAY_EDID | VHK_DISPLAY_DMABUF2, .get_info = get_info, .get_edid = get_edid,
                .set_scanout = set_scanout,
        .update = update, .set_dmabuf = set_dmabuf, .update_dmabuf = update_dmabuf, .set_cursor = set_cursor, .move_cursor = move_cursor,
        .closed = window_closed,
};

/* ---- both ends ---- */

static void quiet(void *arg, enum vhk_log_level level, const char *text) {
        if (getenv("FUZZ_LOG"))
                fprintf(stderr, "%s\n", text);
}

static void on_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        fz.ended |= ev == VHK_BACKEND_ENDED;
}

static void back_end_turn(void) {
        fz.active = false;              /* its own poll is not turned again */
        clock_ns += 2;
        loop_run();
        fz.active = true;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int ms) {
        int k = kernel_poll(p, n);

        if (!fz.active || k != 0 || ms == 0)
                return k;
        back_end_turn();
        k = kernel_poll(p, n);
        if (k == 0)
                clock_ns += (uint64_t)VHK_MAX(ms, 1) * 1000000u;
        return k;
}

static struct vhk_vhost_user *front(void) {
        return vhk_container_of(fz.f, struct vhk_vhost_user, f);
}

static void begin(void) {
        struct vhk_backend_options bo = { .size = sizeof(bo), .has_fd = 1, .control = fz.worker, .limit_ns = 1000000000, .on_event = on_event,
                                          .log = quiet, .trace = quiet };
        struct vhk_frontend_options fo = { .size = sizeof(fo), .has_fd = 1, .display = &window, .limit_ns = 5000000000, .log = quiet,
                .trace = quiet };
        int pair[2];

        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        bo.fd = pair[0];
        fo.fd = pair[1];
        MUST(vhk_backend_open(NULL, &bo, &ops, NULL, &fz.b, NULL) == 0);
        fz.active = true;
        MUST(vhk_frontend_open(NULL, &fo, &fz.f, NULL) == 0);
        MUST(front()->display.conn.fd >= 0);
}

static void serve(void) {
        for (int i = 0; i < 100 && vhk_frontend_dispatch(fz.f) > 0; i++)
                back_end_turn();
        back_end_turn();
}

static void end(void) {
        uint8_t status;

        serve();
        MUST(vhk_frontend_get_status(fz.f, &status) == 0);      /* the session lives in any case */
        fz.f = vhk_frontend_close(fz.f);
        for (int i = 0; i < 64 && !fz.ended; i++)
                back_end_turn();
        MUST(fz.ended);
        fz.active = false;
        fz.b = vhk_backend_free(fz.b);
        MUST(fz.n_opened == fz.n_closed && fz.n_asked == fz.n_answered && fz.n_window_closed >= 1);
        MUST(loop_n == 1);              /* the worker's own bell */
}

/* ---- the script ---- */

static uint32_t pixels[SIDE * SIDE];

static void draw(struct script *s, uint8_t op) {
        unsigned scanout = take8(s) % 18;
        struct vhk_display_rect r = { .x = 0 };

        if (op == DISPLAY_SCANOUT) {
                uint16_t w = take16(s), h = take16(s);
                (void)vhk_display_set_scanout(fz.d, scanout, w, h);
        } else if (op == DISPLAY_UPDATE) {
                r = (struct vhk_display_rect){ take8(s), take8(s), take8(s) % (SIDE + 1), take8(s) % (SIDE + 1) };
                (void)vhk_display_update(fz.d, scanout, &r, pixels, SIDE * 4);
        } else if (op == DISPLAY_DMABUF) {
                uint8_t w = take8(s), how = take8(s);
                struct vhk_display_dmabuf b = { .size = sizeof(b), .rect = { how & 3, 0, w, w }, .fd_width = 128, .fd_height = 128,
                                                .has_modifier = how & 4, .fd = how & 8 ? -1 : fz_memfd };
                (void)vhk_display_set_dmabuf(fz.d, scanout, &b);
        } else if (op == DISPLAY_SHOW) {
                r = (struct vhk_display_rect){ 0, 0, SIDE, SIDE };
                asked(vhk_display_update_dmabuf(fz.d, scanout, &r, on_done, NULL));
        }
}

static void more(struct script *s, uint8_t op) {
        static struct vhk_display_cursor cursor;
        unsigned scanout = take8(s) % 18;
        uint8_t x = op == DISPLAY_CURSOR ? take8(s) : 0, how = take8(s);

        if (op == DISPLAY_ASK && how & 1)
                asked(vhk_display_get_info(fz.d, on_info, NULL));
        else if (op == DISPLAY_ASK)
                asked(vhk_display_get_edid(fz.d, scanout, on_edid, NULL));
        else if (how % 3 == 0)
                (void)vhk_display_set_cursor(fz.d, scanout, x, how, &cursor);
        else if (how % 3 == 1)
                (void)vhk_display_move_cursor(fz.d, scanout, x, how);
        else
                (void)vhk_display_hide_cursor(fz.d, scanout, x, how);
}

/* A message that nobody of ours would say, or not now. */
static void put(struct script *s, bool request) {
        static uint8_t raw[12 + 20000];
        uint8_t id = take8(s) % 16, how = take8(s);
        const struct vhk_gpu_row *row = vhk_gpu_row(id);
        struct vhk_hdr h = { id, request ? 0 : VHK_HDR_REPLY, row ? vhk_gpu_size(request ? row->request : row->reply) : 0 };
        int fds[3] = { fz_memfd, fz_nullfd, fz_dirfd }, sock = request ? fz.b->display.conn.fd : front()->display.conn.fd;

        h.flags = how & DISPLAY_FLAGS ? take8(s) : h.flags;
        h.size = how & DISPLAY_SIZE ? (uint32_t)take16(s) << (how >> 6 << 3) : h.size;
        size_t n = 12 + VHK_MIN((size_t)h.size, sizeof(raw) - 12), there = VHK_MIN((size_t)(s->end - s->p), (size_t)64), cut = n;
        memset(raw, 0, n);
        memcpy(raw, &h, 12);
        take(s, raw + 12, VHK_MIN(n - 12, there));
        if (how & DISPLAY_CUT)
                cut = 1 + take8(s) % n;
        if (sock < 0)
                return;
        fz_send(sock, raw, cut, fds, how & DISPLAY_FD ? 1 + (how >> 4 & 1) : 0);
        if (cut < n && how & 32)
                serve();
        if (cut < n)                    /* if it is closed meanwhile, that number may be somebody else's by now */
                sock = request ? fz.b->display.conn.fd : front()->display.conn.fd;
        if (cut < n && sock >= 0)
                fz_send(sock, raw + cut, n - cut, NULL, 0);
}

static void put_bytes(struct script *s) {
        uint8_t raw[256], which = take8(s), n = take8(s);
        int sock = which & 1 ? fz.b->display.conn.fd : front()->display.conn.fd;

        take(s, raw, n);
        if (sock >= 0)
                fz_send(sock, raw, n, NULL, 0);
}

static void step(struct script *s) {
        uint8_t op = take8(s), x;

        switch (op % DISPLAY_N_OPS) {
        case DISPLAY_SCANOUT: case DISPLAY_UPDATE: case DISPLAY_DMABUF: case DISPLAY_SHOW: draw(s, op % DISPLAY_N_OPS); break;
        case DISPLAY_CURSOR: case DISPLAY_ASK: more(s, op % DISPLAY_N_OPS); break;
        case DISPLAY_REQUEST: put(s, true); break;
        case DISPLAY_ANSWER: put(s, false); break;
        case DISPLAY_BYTES: put_bytes(s); break;
        case DISPLAY_TIME: clock_ns += UINT64_C(1) << take8(s) % 36; break;
        case DISPLAY_SERVE:
                x = take8(s);
                if (x & 1)
                        MUST(vhk_frontend_dispatch(fz.f) >= 0);
                if (x & 2)
                        back_end_turn();
                break;
        case DISPLAY_END:
                x = take8(s);
                if (x & 1 && fz.b->display.conn.fd >= 0)
                        shutdown(fz.b->display.conn.fd, SHUT_RDWR);
                if (x & 2 && front()->display.conn.fd >= 0)
                        shutdown(front()->display.conn.fd, SHUT_WR);
                break;
        case DISPLAY_ANEW:
                x = take8(s);
                if (x & 1)
                        MUST(vhk_frontend_reset(fz.f) == 0);
                if (x & 2) {
                        uint8_t status;
                        MUST(vhk_frontend_get_status(fz.f, &status) == 0);      /* sets the deadline of a call */
                        vhk_vu_display_close(front());
                        MUST(vhk_vu_display_open(front()) == 0);
                }
                break;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct script s = { size ? data : (const uint8_t *)"", NULL };

        s.end = s.p + size;
        fz_files();
        if (!fz.worker)
                MUST(vhk_worker_new(&loop_ops, NULL, &fz.worker) == 0);
        struct fd_mark fds = fd_mark();
        struct vhk_worker *worker = fz.worker;
        memset(&fz, 0, sizeof(fz));
        fz.worker = worker;
        begin();
        while (s.p < s.end)
                step(&s);
        end();
        fd_check(fds);
        return 0;
}
