/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A display from one end of the library to the other, over the public headers alone: all twelve messages with success and refusal, whoever
 * of the two listens; a reset, a back-end that comes back, a session that outlives its display.
 */
#include "base/test.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <poll.h>

#include <vhostkit/vhostkit.h>

/* ---- the device: draws when it is told to; what it was answered is read when its turn is over ---- */

static struct vhk_host *host;
static struct vhk_display *display;
static unsigned n_opened, n_closed;
static uint32_t device_features;

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)         /* pairs with the release of MORE, on the other thread */
#define MORE(x) __atomic_add_fetch(&(x), 1, __ATOMIC_RELEASE)

static int attach(void *dev, struct vhk_host *h) {
        host = h;
        return vhk_host_display(h, &display);
}

static void opened(void *dev, struct vhk_display *d, uint32_t features) {
        device_features = features;
        MORE(n_opened);
}

static void closed(void *dev, struct vhk_display *d) {
        MORE(n_closed);
}

static void run(void *dev, struct vhk_queue *q) { }

static const struct vhk_display_ops display_ops = { sizeof(display_ops), opened, closed };
static const struct vhk_device_ops ops = { .size = sizeof(ops), .virtio_id = 16, .n_queues = 2, .queue_size_max = 64, .queue_run = run,
        .attach = attach,
                                           .display = &display_ops };

static struct {
        unsigned n;
        int error;
        struct vhk_display_info info;
        uint8_t edid[VHK_DISPLAY_EDID_MAX];
        size_t n_edid;
} answer;

static void on_done(void *arg, int error) {
        answer.error = error;
        MORE(answer.n);
}

static void on_info(void *arg, int error, const struct vhk_display_info *info) {
        if (info)
                answer.info = *info;
        on_done(arg, error);
}

static void on_edid(void *arg, int error, const void *edid, size_t n) {
        answer.n_edid = n;
        if (n)
                memcpy(answer.edid, edid, n);
        on_done(arg, error);
}

/* ---- the window ---- */

static struct {
        unsigned n_closed, n_events, width, height, n_shown;
        int visible, refuses;
        uint32_t pixels[64 * 64], cursor, cursor_x, cursor_y, hot_x, fourcc;
        uint64_t modifier;
        ino_t dmabuf;
        char rule[32];
} window;

static int get_info(void *arg, struct vhk_display_info *i) {
        i->modes[0] = (struct vhk_display_mode){ { 0, 0, 64, 64 }, 1, 0 };
        return window.refuses;
}

static int get_edid(void *arg, unsigned scanout, uint8_t edid[VHK_DISPLAY_EDID_MAX]) {
        memset(edid, (int)scanout + 1, 128);
        return window.refuses ? window.refuses : 128;
}

static void set_scanout(void *arg, unsigned scanout, uint32_t w, uint32_t h) {
        CHECK_EQ(scanout, 0);
        window.width = w;
        window.height = h;
        window.n_events++;
}

static int count_frames;
static void count_frame(const uint32_t *pixels);

static void update(void *arg, unsigned scanout, const struct vhk_display_rect *r, const uint32_t *pixels) {
        if (count_frames) {
                count_frame(pixels);
                return;
        }
        for (uint32_t y = 0; y < r->height; y++)
                memcpy(&window.pixels[(r->y + y) * 64 + r->x], pixels + y * r->width, r->width * 4);
        window.n_events++;
}

static void set_dmabuf(void *arg, unsigned scanout, const struct vhk_display_dmabuf *b) {
        struct stat st = { .st_ino = 0 };

        CHECK(b->fd < 0 || fstat(b->fd, &st) == 0);
        window.dmabuf = st.st_ino;
        window.modifier = b->modifier;
        window.fourcc = b->fourcc;
        window.n_events++;
}

static void update_dmabuf(void *arg, unsigned scanout, const struct vhk_display_rect *r) {
        window.n_shown++;
        window.n_events++;
}

static void set_cursor(void *arg, unsigned scanout, const struct vhk_display_cursor *c) {
        window.cursor = c->pixels[4095];
        window.hot_x = c->hot_x;
}

static void move_cursor(void *arg, unsigned scanout, uint32_t x, uint32_t y, int visible) {
        window.cursor_x = x;
        window.cursor_y = y;
        window.visible = visible;
        window.n_events++;
}

static void window_closed(void *arg, const struct vhk_error *e) {
        snprintf(window.rule, sizeof(window.rule), "%s", e ? e->rule : "in order");
        window.n_closed++;
}

static struct vhk_frontend_display shown;

/* ---- both ends ---- */

static struct vhk_worker *worker;
static struct vhk_backend *backend;
static struct vhk_frontend *f;
static pthread_t thread;
static char dir[64], path[80];
static int ended, connecting;
static unsigned n_reconnected;

static void on_backend_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        if (ev == VHK_BACKEND_ENDED)
                ended = 1;
}

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        n_reconnected += ev == VHK_FRONTEND_RECONNECTED;
}

static void *work(void *arg) {
        while (!ended)
                vhk_worker_dispatch(worker, -1);
        return NULL;
}

static struct vhk_backend_options back_options(void) {
        return (struct vhk_backend_options){ .size = sizeof(struct vhk_backend_options), .control = worker, .on_event = on_backend_event,
                                             .mode = connecting ? VHK_SOCKET_CONNECT : VHK_SOCKET_LISTEN };
}

/* Whoever listens has to be there first: a back-end that connects tries until its front-end is. */
static void *connect_backend(void *arg) {
        struct vhk_backend_options o = back_options();
        struct vhk_error e = { .text = "" };
        int k;

        for (int i = 0; (k = vhk_backend_open(path, &o, &ops, NULL, &backend, &e)) < 0; i++) {
                CHECK_MSG((k == -ENOENT || k == -ECONNREFUSED) && i < 5000, "%s", e.text);
                usleep(1000);
        }
        return work(NULL);
}

static void start_backend(void) {
        struct vhk_backend_options o = back_options();
        struct vhk_error e = { .text = "" };

        ended = 0;
        if (!connecting)
                CHECK_MSG(vhk_backend_open(path, &o, &ops, NULL, &backend, &e) == 0, "%s", e.text);
        CHECK_EQ(pthread_create(&thread, NULL, connecting ? connect_backend : work, NULL), 0);
}

static void stop_backend(void) {
        if (!connecting || !ended)
                (void)vhk_backend_stop(backend, VHK_STOP_DRAIN, 0);
        pthread_join(thread, NULL);
        backend = vhk_backend_free(backend);
}

static void serve(int ms) {
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };

        poll(&p, 1, ms);
        CHECK(vhk_frontend_dispatch(f) >= 0);
}

#define SERVE_UNTIL(cond)                                               \
        do {                                                            \
                for (unsigned i_ = 0; !(cond); i_++) {                  \
                        CHECK_MSG(i_ < 60000, "not seen: %s", #cond);    \
                        serve(1);                                       \
                }                                                       \
        } while (0)

static void open_both(int frontend_listens, uint32_t features, uint64_t reconnect_ns) {
        struct vhk_frontend_options o = { .size = sizeof(o), .limit_ns = 10000000000, .virtio_id = 16, .display = &shown, .on_event = on_event,
                                           .mode = frontend_listens ? VHK_SOCKET_LISTEN : VHK_SOCKET_CONNECT, .reconnect_ns = reconnect_ns };
        struct vhk_error e = { .text = "" };

        shown = (struct vhk_frontend_display){ .size = sizeof(shown), .features = features, .get_info = get_info, .get_edid = get_edid,
                .set_scanout = set_scanout, .update = update, .set_dmabuf = set_dmabuf, .update_dmabuf = update_dmabuf, .set_cursor = set_cursor,
                .move_cursor = move_cursor, .closed = window_closed };
        memset(&window, 0, sizeof(window));
        memset(&answer, 0, sizeof(answer));
        n_opened = n_closed = n_reconnected = 0;        /* the other thread is not there yet */
        connecting = frontend_listens;
        snprintf(dir, sizeof(dir), "/tmp/vhk-test-display-XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
        CHECK_OK(vhk_worker_new(NULL, NULL, &worker));
        start_backend();
        CHECK_MSG(vhk_frontend_open(path, &o, &f, &e) == 0, "%s", e.text);
        SERVE_UNTIL(LOAD(n_opened) == 1);
        CHECK_EQ(device_features, features);
}

static void close_both(void) {
        f = vhk_frontend_close(f);
        CHECK_EQ(window.n_closed, 1);
        if (connecting) {               /* it ends with its front-end */
                pthread_join(thread, NULL);
                backend = vhk_backend_free(backend);
        } else {
                stop_backend();
        }
        CHECK_EQ(LOAD(n_opened), LOAD(n_closed));
        vhk_worker_free(worker);
        unlink(path);
        CHECK(rmdir(dir) == 0);
}

/* What came of a request with an answer that gave @k. */
static int outcome(unsigned before, int k) {
        if (k < 0)
                return k;
        SERVE_UNTIL(LOAD(answer.n) == before + 1);
        return answer.error;
}
#define ASK(call) outcome(LOAD(answer.n), call)

static void draw(uint32_t color) {
        struct vhk_display_rect r = { 16, 8, 32, 16 };
        uint32_t pixels[32 * 16];
        unsigned n = window.n_events;

        for (unsigned i = 0; i < 32 * 16; i++)
                pixels[i] = color + i;
        CHECK_OK(vhk_display_set_scanout(display, 0, 64, 64));
        CHECK_OK(vhk_display_update(display, 0, &r, pixels, 32 * 4));
        SERVE_UNTIL(window.n_events == n + 2);
        CHECK(window.width == 64 && window.height == 64);
        CHECK_EQ(window.pixels[8 * 64 + 16], color);
        CHECK_EQ(window.pixels[23 * 64 + 47], color + 32 * 16 - 1);
}

#define BOTH_WAYS(listens) for (int listens = 0; listens < 2; listens++)

/* ---- tests ---- */

TEST(all_twelve_messages) {
        static struct vhk_display_cursor c = { 9, 1, { [4095] = 0xffabcdef } };
        struct vhk_display_rect r = { 0, 0, 64, 64 };

        BOTH_WAYS(listens) {
                struct vhk_frontend_info i = { .size = sizeof(i) };
                struct stat st;
                int fd = memfd_create("buffer", MFD_CLOEXEC);

                CHECK(fd >= 0 && fstat(fd, &st) == 0);
                open_both(listens, VHK_DISPLAY_EDID | VHK_DISPLAY_DMABUF2, 0);          /* GET_, SET_PROTOCOL_FEATURES */
                CHECK_OK(vhk_frontend_get_info(f, &i));
                CHECK(i.capabilities & VHK_CAP_DISPLAY);
                CHECK_EQ(ASK(vhk_display_get_info(display, on_info, NULL)), 0);
                CHECK(answer.info.modes[0].enabled && answer.info.modes[0].rect.width == 64 && !answer.info.modes[1].enabled);
                CHECK_EQ(ASK(vhk_display_get_edid(display, 4, on_edid, NULL)), 0);
                CHECK(answer.n_edid == 128 && answer.edid[0] == 5);
                draw(1000);                                                             /* SCANOUT, UPDATE */
                CHECK_OK(vhk_display_set_cursor(display, 0, 3, 4, &c));
                SERVE_UNTIL(window.cursor == 0xffabcdef && window.cursor_y == 4);
                CHECK(window.visible && window.hot_x == 9);
                CHECK_OK(vhk_display_hide_cursor(display, 0, 5, 6));
                SERVE_UNTIL(window.cursor_y == 6);
                CHECK(!window.visible);
                CHECK_OK(vhk_display_move_cursor(display, 0, 7, 8));
                SERVE_UNTIL(window.cursor_y == 8);
                CHECK(window.visible);
                struct vhk_display_dmabuf b = { sizeof(b), { 0, 0, 64, 64 }, 64, 64, 256, 0, 0x34325258, 0, 0, fd };
                CHECK_OK(vhk_display_set_dmabuf(display, 0, &b));                       /* DMABUF_SCANOUT */
                SERVE_UNTIL(window.dmabuf == st.st_ino);
                CHECK(window.fourcc == 0x34325258 && window.modifier == 0);
                b.has_modifier = 1;
                b.modifier = 0x0100000000000001;
                CHECK_OK(vhk_display_set_dmabuf(display, 0, &b));                       /* DMABUF_SCANOUT2 */
                SERVE_UNTIL(window.modifier == b.modifier);
                CHECK_EQ(ASK(vhk_display_update_dmabuf(display, 0, &r, on_done, NULL)), 0);
                CHECK_EQ(window.n_shown, 1);
                CHECK_EQ(window.n_closed, 0);
                close(fd);
                close_both();
                CHECK_STR(window.rule, "in order");
        }
}

/* What the front-end has not is not even sent; what it does not know is said without harm. */
TEST(refusals) {
        BOTH_WAYS(listens) {
                struct vhk_display_dmabuf b = { .size = sizeof(b), .rect = { 0, 0, 1, 1 }, .fd_width = 1, .fd_height = 1, .has_modifier = 1,
                        .fd = 0 };

                open_both(listens, 0, 0);
                CHECK_EQ(vhk_display_get_edid(display, 0, on_edid, NULL), -EOPNOTSUPP);
                CHECK_EQ(vhk_display_set_dmabuf(display, 0, &b), -EOPNOTSUPP);
                CHECK_EQ(vhk_display_set_scanout(display, 16, 1, 1), -EINVAL);
                window.refuses = -EIO;
                CHECK_EQ(ASK(vhk_display_get_info(display, on_info, NULL)), 0);
                CHECK(!answer.info.modes[0].enabled);
                close_both();
                open_both(listens, VHK_DISPLAY_EDID, 0);
                window.refuses = -EIO;
                CHECK_EQ(ASK(vhk_display_get_edid(display, 0, on_edid, NULL)), 0);
                CHECK_EQ(answer.n_edid, 0);
                close_both();
        }
}

/* A device that draws where no scanout is loses the display, and nothing else. */
TEST(the_session_outlives_the_display) {
        struct vhk_display_rect r = { 0, 0, 1, 1 };

        BOTH_WAYS(listens) {
                struct vhk_frontend_info i = { .size = sizeof(i) };

                open_both(listens, 0, 0);
                draw(5);
                CHECK_OK(vhk_display_update(display, 1, &r, &(uint32_t){ 0 }, 4));
                SERVE_UNTIL(window.n_closed == 1);
                CHECK_STR(window.rule, "gpu.outside");
                SERVE_UNTIL(LOAD(n_closed) == 1);
                CHECK_EQ(vhk_display_update(display, 0, &r, &(uint32_t){ 0 }, 4), -ENOTCONN);
                CHECK_OK(vhk_frontend_get_info(f, &i));
                CHECK(!(i.capabilities & VHK_CAP_DISPLAY));
                CHECK_OK(vhk_frontend_set_features(f, UINT64_C(1) << 32));
                CHECK_OK(vhk_frontend_reset(f));
                close_both();
        }
}

TEST(it_stays_over_a_reset) {
        BOTH_WAYS(listens) {
                open_both(listens, 0, 0);
                draw(7);
                CHECK_OK(vhk_frontend_reset(f));
                draw(8);
                CHECK_EQ(LOAD(n_closed), 0);
                close_both();
        }
}

TEST(a_back_end_that_comes_back_has_it_again) {
        BOTH_WAYS(listens) {
                open_both(listens, VHK_DISPLAY_EDID, 20000000000);
                draw(9);
                stop_backend();
                CHECK_EQ(LOAD(n_closed), 1);
                start_backend();
                SERVE_UNTIL(LOAD(n_opened) == 2);
                CHECK_EQ(n_reconnected, 1);
                CHECK_EQ(window.n_closed, 1);
                CHECK_STR(window.rule, "in order");
                draw(10);
                CHECK_EQ(ASK(vhk_display_get_edid(display, 1, on_edid, NULL)), 0);
                window.n_closed = 0;
                close_both();
        }
}

/* 300 full frames of 1 MiB from another thread than control's, in order, none lost, at most VHK_DISPLAY_QUEUE_MAX under way. */
static uint32_t last_frame;
static unsigned n_frames, n_full;

static void count_frame(const uint32_t *pixels) {
        CHECK(pixels[0] == last_frame + 1 && pixels[512 * 512 - 1] == pixels[0]);
        last_frame = pixels[0];
        n_frames++;
}

static void *draw_frames(void *arg) {
        struct vhk_display_rect r = { 0, 0, 512, 512 };
        uint32_t *pixels = calloc(512 * 512, 4);
        int k = pixels ? vhk_display_set_scanout(display, 0, 512, 512) : -ENOMEM;

        for (uint32_t i = 1; k == 0 && i <= 300; i++) {
                pixels[0] = pixels[512 * 512 - 1] = i;
                while ((k = vhk_display_update(display, 0, &r, pixels, 512 * 4)) == -ENOBUFS) {
                        MORE(n_full);
                        usleep(500);
                }
        }
        free(pixels);
        return (void *)(intptr_t)k;
}

TEST(frames_from_another_thread) {
        pthread_t painter;
        void *result;

        last_frame = n_frames = n_full = 0;
        count_frames = 1;
        open_both(0, 0, 0);
        CHECK_EQ(pthread_create(&painter, NULL, draw_frames, NULL), 0);
        for (unsigned i = 0; !LOAD(n_full); i++) {      /* nobody looks until all the room is taken */
                CHECK(i < 10000);
                usleep(1000);
        }
        SERVE_UNTIL(n_frames == 300);
        pthread_join(painter, &result);
        CHECK_EQ((intptr_t)result, 0);
        count_frames = 0;
        close_both();
}
