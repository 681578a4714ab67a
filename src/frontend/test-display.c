/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The display that a front-end shows, with a device that is written by hand: every request as it should be, and then in every way that it
 * should not be; each ends the display with its rule, and nothing else.
 */
#include "base/test.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "frontend/frontend.h"
#include "frontend/test-fake.h"
#include "frontend/vhost_user.h"
#include "wire/gpu-sample.h"

static struct fake fake;
static struct vhk_frontend *f;
static struct vhk_error err;
static struct vhk_conn dev;             /* the device's end */
static int memfd = -1;

/* ---- the caller's side: remembers the last ---- */

static struct {
        unsigned n_info, n_edid, n_scanout, n_update, n_dmabuf, n_shown, n_cursor, n_moved, n_closed, n_gone;
        int refuses, visible, fd_is_open;
        unsigned scanout;
        uint32_t w, h, x, y, first, last;
        struct vhk_display_rect rect;
        struct vhk_display_dmabuf dmabuf;
        char rule[32];
} seen;

static int get_info(void *arg, struct vhk_display_info *i) {
        uint8_t status;

        CHECK(arg == &seen);
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EDEADLK);
        i->modes[2] = (struct vhk_display_mode){ { 1, 2, 800, 600 }, 1, 3 };
        seen.n_info++;
        return seen.refuses;
}

static int get_edid(void *arg, unsigned scanout, uint8_t edid[VHK_DISPLAY_EDID_MAX]) {
        seen.scanout = scanout;
        seen.n_edid++;
        memset(edid, 0x77, 256);
        return seen.refuses ? seen.refuses : 256;
}

static void set_scanout(void *arg, unsigned scanout, uint32_t w, uint32_t h) {
        seen.scanout = scanout;
        seen.w = w;
        seen.h = h;
        seen.n_scanout++;
}

static bool closes_inside;

static void update(void *arg, unsigned scanout, const struct vhk_display_rect *r, const uint32_t *pixels) {
        size_t n = (size_t)r->width * r->height;

        seen.scanout = scanout;
        seen.rect = *r;
        seen.first = n ? pixels[0] : 0;
        seen.last = n ? pixels[n - 1] : 0;
        seen.n_update++;
        if (closes_inside)
                f = vhk_frontend_close(f);
}

static void set_dmabuf(void *arg, unsigned scanout, const struct vhk_display_dmabuf *b) {
        seen.scanout = scanout;
        seen.dmabuf = *b;
        seen.fd_is_open = b->fd >= 0 && fcntl(b->fd, F_GETFD) == FD_CLOEXEC;
        seen.n_dmabuf++;
}

static void update_dmabuf(void *arg, unsigned scanout, const struct vhk_display_rect *r) {
        seen.scanout = scanout;
        seen.rect = *r;
        seen.n_shown++;
}

static void set_cursor(void *arg, unsigned scanout, const struct vhk_display_cursor *c) {
        seen.first = c->pixels[0];
        seen.last = c->pixels[4095];
        seen.w = c->hot_x;
        seen.h = c->hot_y;
        seen.n_cursor++;
}

static void move_cursor(void *arg, unsigned scanout, uint32_t x, uint32_t y, int visible) {
        seen.scanout = scanout;
        seen.x = x;
        seen.y = y;
        seen.visible = visible;
        seen.n_moved++;
}

static void closed(void *arg, const struct vhk_error *e) {
        seen.n_closed++;
        if (closes_inside)
                f = vhk_frontend_close(f);
        snprintf(seen.rule, sizeof(seen.rule), "%s", e ? e->rule : "in order");
}

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        seen.n_gone += ev == VHK_FRONTEND_GONE;
}

static const struct vhk_frontend_display all = {
        .size = sizeof(all), .features = VHK_DISPLAY_EDID | VHK_DISPLAY_DMABUF2, .get_info = get_info, .get_edid = get_edid,
                .set_scanout = set_scanout,
        .update = update, .set_dmabuf = set_dmabuf, .update_dmabuf = update_dmabuf, .set_cursor = set_cursor, .move_cursor = move_cursor,
        .closed = closed, .arg = &seen,
};

static int open_with(const struct vhk_frontend_display *d) {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1, .limit_ns = 10000000000ull, .display = d, .on_event = on_event };
        int s[2];

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        fake_start(&fake, s[1]);
        o.fd = s[0];
        f = NULL;
        int k = vhk_frontend_open(NULL, &o, &f, &err);
        if (k == -EINVAL)               /* bad options: nothing was touched */
                close(o.fd);
        return k;
}

static void init(void) {
        fake_init(&fake);
        memset(&seen, 0, sizeof(seen));
        if (memfd < 0)
                memfd = memfd_create("test-display", MFD_CLOEXEC);
}

static void enter_with(const struct vhk_frontend_display *d) {
        init();
        CHECK_MSG(open_with(d) == 0, "%s", err.text);
        CHECK(fake.display >= 0);
        CHECK_OK(vhk_conn_init(&dev, VHK_STEAL_FD(fake.display)));
}

static void enter(void) {
        enter_with(&all);
}

static uint32_t capabilities(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_frontend_get_info(f, &i));
        return i.capabilities;
}

static void leave(void) {
        uint8_t status;

        CHECK_OK(vhk_frontend_get_status(f, &status));          /* the session lives in any case */
        CHECK_EQ(seen.n_gone, 0);
        f = vhk_frontend_close(f);
        CHECK_EQ(seen.n_closed, 1);
        vhk_conn_done(&dev);
        fake_stop(&fake);
        CHECK_MSG(fake.broken == VHK_RULE_OK, "the front-end broke %s", vhk_rule_id(fake.broken));
        vhk_close(&memfd);
}

/* Sends all of it, serving the front-end meanwhile, and lets it be handled. */
static void say_raw(const struct vhk_hdr *h, const void *payload, size_t n, unsigned n_fds) {
        struct vhk_hdr small = *h;
        int fds[8] = { memfd, memfd, memfd, memfd, memfd, memfd, memfd, memfd };
        struct vhk_out *o;
        void *room;

        small.size = (uint32_t)n;
        CHECK_OK(vhk_out_new(&small, fds, n_fds, &o, &room));
        memcpy(room, payload, n);
        memcpy((uint8_t *)room - sizeof(*h), h, sizeof(*h));
        vhk_conn_queue(&dev, o);
        for (int k = 0; k == 0;) {
                k = vhk_conn_flush(&dev);
                CHECK(k >= 0 || k == -EPIPE);
                CHECK(vhk_frontend_dispatch(f) >= 0);
        }
        CHECK(vhk_frontend_dispatch(f) >= 0);
}

static void say(uint32_t id, const void *payload, uint32_t size, unsigned n_fds) {
        say_raw(&(struct vhk_hdr){ id, 0, size }, payload, size, n_fds);
}

/* The answer to the last request. */
static void hear(uint32_t id, void *ret, uint32_t size) {
        int k;

        while ((k = vhk_conn_receive(&dev)) == VHK_CONN_HEADER)
                ;
        CHECK_EQ(k, VHK_CONN_MESSAGE);
        struct vhk_hdr h = vhk_decoder_header(&dev.in);
        CHECK_EQ(vhk_gpu_check_reply(id, &h, dev.in.payload, dev.in.n_fds), VHK_RULE_OK);
        CHECK_EQ(h.size, size);
        memcpy(ret, dev.in.payload, size);
        vhk_decoder_next(&dev.in);
}

static void negotiate(uint64_t features) {
        uint64_t offered;

        say(VHK_GPU_GET_PROTOCOL_FEATURES, "", 0, 0);
        hear(VHK_GPU_GET_PROTOCOL_FEATURES, &offered, 8);
        CHECK_EQ(offered, 3);
        say(VHK_GPU_SET_PROTOCOL_FEATURES, &features, 8, 0);
}

static void scanout(uint32_t i, uint32_t w, uint32_t h) {
        struct vhk_g_scanout p = { i, w, h };

        say(VHK_GPU_SCANOUT, &p, sizeof(p), 0);
}

/* ---- tests ---- */

TEST(every_request) {
        struct { struct vhk_g_rect r; uint32_t pixels[6]; } u = { { 1, 637, 478, 3, 2 }, { 11, 12, 13, 14, 15, 16 } };
        static struct vhk_g_cursor c = { 5, 6, 7, 8, 99, { 21, [4095] = 22 } };
        struct vhk_g_dmabuf2 b = { 4, 1, 2, 30, 20, 64, 32, 256, 1, 0x34325258, 42 };
        struct vhk_g_display_info info;
        struct vhk_g_edid edid;

        enter();
        CHECK(capabilities() & VHK_CAP_DISPLAY);
        CHECK_EQ(fake.count[VHK_FE_GPU_SET_SOCKET], 1);
        negotiate(3);
        say(VHK_GPU_GET_DISPLAY_INFO, "", 0, 0);
        hear(VHK_GPU_GET_DISPLAY_INFO, &info, sizeof(info));
        CHECK_EQ(info.type, vhk_le32_of(VHK_GPU_INFO_OK).v);
        CHECK(info.modes[2].width == vhk_le32_of(800).v && info.modes[2].x == vhk_le32_of(1).v && info.modes[2].enabled == vhk_le32_of(1).v &&
                !info.modes[0].enabled);
        say(VHK_GPU_GET_EDID, &(uint32_t){ 2 }, 4, 0);
        hear(VHK_GPU_GET_EDID, &edid, sizeof(edid));
        CHECK(edid.type == vhk_le32_of(VHK_GPU_EDID_OK).v && edid.n == vhk_le32_of(256).v && edid.edid[255] == 0x77 && !edid.edid[256] &&
                seen.scanout == 2);
        scanout(1, 640, 480);
        CHECK(seen.n_scanout == 1 && seen.scanout == 1 && seen.w == 640 && seen.h == 480);
        say(VHK_GPU_UPDATE, &u, sizeof(u), 0);
        CHECK(seen.n_update == 1 && seen.first == 11 && seen.last == 16 && seen.rect.x == 637 && seen.rect.height == 2);
        say(VHK_GPU_DMABUF_SCANOUT, &b, 40, 1);
        CHECK(seen.n_dmabuf == 1 && seen.fd_is_open && seen.scanout == 4 && seen.dmabuf.stride == 256 && !seen.dmabuf.has_modifier);
        say(VHK_GPU_DMABUF_SCANOUT2, &b, 48, 1);
        CHECK(seen.n_dmabuf == 2 && seen.fd_is_open && seen.dmabuf.has_modifier && seen.dmabuf.modifier == 42 && seen.dmabuf.fourcc == 0x34325258);
        say(VHK_GPU_DMABUF_UPDATE, &(struct vhk_g_rect){ 4, 0, 0, 5, 5 }, 20, 0);
        hear(VHK_GPU_DMABUF_UPDATE, &edid, 0);
        CHECK(seen.n_shown == 1 && seen.rect.width == 5);
        b.width = b.height = 0;
        say(VHK_GPU_DMABUF_SCANOUT, &b, 40, 0);
        CHECK(seen.n_dmabuf == 3 && seen.dmabuf.fd == -1);
        say(VHK_GPU_CURSOR_UPDATE, &c, sizeof(c), 0);
        CHECK(seen.n_cursor == 1 && seen.n_moved == 1 && seen.first == 21 && seen.last == 22 && seen.h == 99 && seen.x == 6 && seen.visible);
        say(VHK_GPU_CURSOR_POS_HIDE, &(struct vhk_g_cursor_pos){ 5, 1, 2 }, 12, 0);
        CHECK(seen.n_moved == 2 && !seen.visible && seen.x == 1 && seen.y == 2);
        say(VHK_GPU_CURSOR_POS, &(struct vhk_g_cursor_pos){ 5, 3, UINT32_MAX }, 12, 0);
        CHECK(seen.n_moved == 3 && seen.visible && seen.y == UINT32_MAX);
        CHECK_EQ(seen.n_closed, 0);
        leave();
        CHECK_STR(seen.rule, "in order");
}

TEST(callbacks_that_are_not_there) {
        static const struct vhk_frontend_display little = { .size = sizeof(little), .get_info = get_info, .closed = closed, .arg = &seen };

        enter_with(&little);
        scanout(VHK_GPU_SAMPLE_SCANOUT, 100, 100);
        for (unsigned i = 0; i < vhk_n_gpu_rows; i++) {
                static struct vhk_gpu_sample m;
                vhk_gpu_sample_make(&m, &vhk_gpu_rows[i]);
                if (m.state.features || m.hdr.request == VHK_GPU_SET_PROTOCOL_FEATURES || m.hdr.request == VHK_GPU_DMABUF_UPDATE)
                        continue;
                say(m.hdr.request, m.u.bytes, m.hdr.size, m.n_fds);
                CHECK_MSG(!seen.n_closed, "%s: %s", vhk_gpu_rows[i].name, seen.rule);
        }
        say(VHK_GPU_DMABUF_UPDATE, &(struct vhk_g_rect){ VHK_GPU_SAMPLE_SCANOUT, 0, 0, 5, 5 }, 20, 0);
        CHECK_EQ(seen.n_closed, 0);
        leave();
}

TEST(a_caller_that_knows_nothing) {
        struct vhk_g_display_info info;
        struct vhk_g_edid edid;

        enter();
        negotiate(1);
        seen.refuses = -EIO;
        say(VHK_GPU_GET_DISPLAY_INFO, "", 0, 0);
        hear(VHK_GPU_GET_DISPLAY_INFO, &info, sizeof(info));
        for (unsigned i = 0; i < 16; i++)
                CHECK(!info.modes[i].enabled && !info.modes[i].width);
        say(VHK_GPU_GET_EDID, &(uint32_t){ 2 }, 4, 0);
        hear(VHK_GPU_GET_EDID, &edid, sizeof(edid));
        CHECK_EQ(edid.n, 0);
        seen.refuses = 5000;
        say(VHK_GPU_GET_EDID, &(uint32_t){ 2 }, 4, 0);
        hear(VHK_GPU_GET_EDID, &edid, sizeof(edid));
        CHECK_EQ(edid.n, vhk_le32_of(1024).v);
        leave();
}

/* Each row with one byte less, one more, another number of descriptors, a scanout that there cannot be; flags mean nothing. */
TEST(hostile_requests_of_every_row) {
        static struct vhk_gpu_sample m;

        for (unsigned i = 0; i < vhk_n_gpu_rows; i++)
                for (unsigned way = 0; way < 5; way++) {
                        const struct vhk_gpu_row *row = &vhk_gpu_rows[i];
                        vhk_gpu_sample_make(&m, row);
                        m.hdr.flags = 0x55555555u << (i & 1);
                        const char *rule = "?";
                        switch (way) {
                        case 0: rule = row->request == VHK_G_UPDATE ? "gpu.data" : "wire.size-short"; m.hdr.size -= !!m.hdr.size; break;
                        case 1: rule = row->request == VHK_G_UPDATE ? "gpu.data" : "wire.size-long"; m.hdr.size++; break;
                        case 2: rule = m.n_fds ? "wire.fds-missing" : "wire.fds-extra"; m.n_fds = !m.n_fds; break;
                        case 3: rule = "wire.fds-extra"; m.n_fds += 2; break;
                        case 4: rule = "gpu.scanout"; m.u.scanout_id.scanout = 16; break;
                        }
                        bool has_scanout = row->request != VHK_G_NONE && row->request != VHK_G_U64;
                        if ((way == 4 && !has_scanout) || (way == 0 && row->request == VHK_G_NONE))
                                continue;
                        enter();
                        negotiate(3);
                        scanout(VHK_GPU_SAMPLE_SCANOUT, 100, 100);
                        say_raw(&m.hdr, m.u.bytes, m.hdr.size, m.n_fds);
                        CHECK_MSG(seen.n_closed == 1 && !strcmp(seen.rule, rule), "%s, way %u: %s, expected %s", row->name, way, seen.rule, rule);
                        CHECK(!(capabilities() & VHK_CAP_DISPLAY));
                        leave();
                }
}

TEST(what_was_not_negotiated) {
        static struct vhk_gpu_sample m;

        for (unsigned i = 0; i < vhk_n_gpu_rows; i++) {
                vhk_gpu_sample_make(&m, &vhk_gpu_rows[i]);
                if (!m.state.features)
                        continue;
                enter();
                negotiate(3 & ~m.state.features);
                say(m.hdr.request, m.u.bytes, m.hdr.size, m.n_fds);
                CHECK_STR(seen.rule, "wire.gate");
                leave();
        }
        enter();
        negotiate(4);
        CHECK_STR(seen.rule, "gpu.features");
        leave();
        enter();
        say(77, "", 0, 0);
        CHECK_STR(seen.rule, "wire.unknown-message");
        leave();
}

/* A device may count from the corner of something larger, as QEMU's does. */
TEST(what_is_beside_the_scanout_is_left_out) {
        static const struct { struct vhk_g_rect r; struct vhk_display_rect seen; uint32_t first, last; } cases[] = {
                { { 0, 8, 8, 2, 2 }, { 8, 8, 2, 2 }, 0, 3 }, { { 0, 9, 0, 2, 2 }, { 9, 0, 1, 2 }, 0, 2 }, { { 0, 0, 9, 2, 2 }, { 0, 9, 2, 1 }, 0, 1 },
                { { 0, 9, 9, 2, 2 }, { 9, 9, 1, 1 }, 0, 0 }, { { 0, 8, 0, 3, 3 }, { 8, 0, 2, 3 }, 0, 7 }, { { 0, 10, 0, 2, 2 }, { 0 }, 0, 0 },
                { { 0, 0, 10, 2, 2 }, { 0 }, 0, 0 }, { { 0, UINT32_MAX - 2, 0, 2, 2 }, { 0 }, 0, 0 }, { { 0, 3, 3, 0, 0 }, { 0 }, 0, 0 },
        };

        for (unsigned i = 0; i < VHK_N(cases); i++) {
                struct { struct vhk_g_rect r; uint32_t pixels[9]; } u = { cases[i].r, { 0, 1, 2, 3, 4, 5, 6, 7, 8 } };
                bool shows = cases[i].seen.width;
                enter();
                scanout(0, 10, 10);
                say(VHK_GPU_UPDATE, &u, 20 + 4 * cases[i].r.width * cases[i].r.height, 0);
                CHECK_MSG(seen.n_update == shows && !seen.n_closed, "case %u: %u %s", i, seen.n_update, seen.rule);
                if (shows)
                        CHECK_MSG(!memcmp(&seen.rect, &cases[i].seen, sizeof(seen.rect)) && seen.first == cases[i].first &&
                                seen.last == cases[i].last,
                                  "case %u: %u x %u, %u to %u", i, seen.rect.width, seen.rect.height, seen.first, seen.last);
                leave();
        }
}

TEST(updates_that_cannot_be) {
        static const struct { struct vhk_g_rect r; const char *rule; } cases[] = {
                { { 1, 0, 0, 1, 1 }, "gpu.outside" },           /* never set */
                { { 2, 0, 0, 1, 1 }, "gpu.outside" },           /* a dma-buf */
                { { 3, 0, 0, 1, 1 }, "gpu.outside" },           /* off */
                { { 0, UINT32_MAX, 0, 2, 1 }, "gpu.rect" }, { { 0, 0, 0, 0x10000, 0x10000 }, "gpu.data" },
        };
        struct vhk_g_dmabuf b = { 2, 0, 0, 10, 10, 10, 10, 40, 0, 0 };

        for (unsigned i = 0; i < VHK_N(cases); i++) {
                struct { struct vhk_g_rect r; uint32_t pixels[4]; } u = { cases[i].r, { 0 } };
                enter();
                scanout(0, 10, 10);
                scanout(3, 10, 10);
                scanout(3, 0, 0);
                say(VHK_GPU_DMABUF_SCANOUT, &b, sizeof(b), 1);
                CHECK_EQ(seen.n_closed, 0);
                uint32_t n = cases[i].r.width > 4 ? 0 : cases[i].r.width * cases[i].r.height;
                say(VHK_GPU_UPDATE, &u, 20 + 4 * n, 0);
                CHECK_MSG(!strcmp(seen.rule, cases[i].rule), "case %u: %s", i, seen.rule);
                CHECK_EQ(seen.n_update, 0);
                leave();
        }
        enter();
        say(VHK_GPU_DMABUF_UPDATE, &(struct vhk_g_rect){ 0, 0, 0, 1, 1 }, 20, 0);       /* no dma-buf */
        CHECK_STR(seen.rule, "gpu.outside");
        leave();
        enter();
        scanout(0, 8193, 1);
        CHECK_STR(seen.rule, "gpu.side");
        leave();
}

/* No room is made for what cannot be; and a size that was announced is not awaited. */
TEST(sizes_beyond_any_scanout) {
        static const uint32_t sizes[] = { 20 + 4 * 100 + 4, 0x10000000, UINT32_MAX };

        for (unsigned i = 0; i < VHK_N(sizes); i++) {
                enter();
                scanout(0, 10, 10);
                say_raw(&(struct vhk_hdr){ VHK_GPU_UPDATE, 0, sizes[i] }, "", 0, 0);
                CHECK_STR(seen.rule, "wire.size-long");
                leave();
        }
        enter();
        scanout(0, 8192, 8192);
        scanout(0, 0, 0);
        say_raw(&(struct vhk_hdr){ VHK_GPU_UPDATE, 0, 24 }, "", 0, 0);
        CHECK_STR(seen.rule, "wire.size-long");
        leave();
}

TEST(a_large_update_in_pieces) {
        struct vhk_g_rect *u = calloc(1, sizeof(*u) + 1920 * 1080 * 4);
        uint32_t *pixels = (uint32_t *)(u + 1);

        CHECK(u);
        enter();
        scanout(0, 1920, 1080);
        *u = (struct vhk_g_rect){ 0, 0, 0, 1920, 1080 };
        pixels[0] = 1;
        for (unsigned i = 0; i < 3; i++) {
                pixels[1920 * 1080 - 1] = i;
                say(VHK_GPU_UPDATE, u, sizeof(*u) + 1920 * 1080 * 4, 0);
                CHECK(seen.n_update == i + 1 && seen.first == 1 && seen.last == i);
        }
        scanout(1, 1, 1);
        CHECK(seen.n_scanout == 2 && !seen.n_closed);
        leave();
        free(u);
}

TEST(cut_off) {
        static const size_t after[] = { 1, 11, 12, 15 };

        for (unsigned i = 0; i < VHK_N(after); i++) {
                uint32_t raw[6] = { VHK_GPU_SCANOUT, 0, 12, 0, 1, 1 };
                enter();
                CHECK_EQ(send(dev.fd, raw, after[i], MSG_NOSIGNAL), (ssize_t)after[i]);
                CHECK_EQ(vhk_frontend_dispatch(f), 0);
                CHECK_EQ(seen.n_closed, 0);
                vhk_conn_done(&dev);
                dev.fd = -1;
                CHECK_EQ(vhk_frontend_dispatch(f), 0);
                CHECK_STR(seen.rule, "wire.cut");
                leave();
        }
        enter();
        vhk_conn_done(&dev);
        dev.fd = -1;
        CHECK_EQ(vhk_frontend_dispatch(f), 0);
        CHECK_STR(seen.rule, "in order");
        leave();
}

/* It asks and never reads: what it asked last is not read before it has read the first answers. */
TEST(a_device_that_does_not_read_its_answers) {
        struct vhk_hdr ask = { VHK_GPU_GET_DISPLAY_INFO, 0, 0 };
        struct pollfd p;
        unsigned n = 0, answered = 0;
        int k;

        enter();
        for (unsigned idle = 0; idle < 100; idle++) {
                if (send(dev.fd, &ask, sizeof(ask), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(ask)) {
                        n++;
                        idle = 0;
                }
                CHECK(vhk_frontend_dispatch(f) >= 0);
        }
        CHECK(seen.n_info > 0 && seen.n_info < n && !seen.n_closed);
        p = (struct pollfd){ .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        CHECK_EQ(poll(&p, 1, 0), 0);    /* nothing to do: no loop spins */
        while (answered < n) {
                while ((k = vhk_conn_receive(&dev)) == VHK_CONN_HEADER || k == VHK_CONN_MESSAGE)
                        if (k == VHK_CONN_MESSAGE) {
                                vhk_decoder_next(&dev.in);
                                answered++;
                        }
                CHECK_EQ(k, VHK_CONN_AGAIN);
                CHECK(answered == n || poll(&p, 1, 10000) == 1);
                CHECK(vhk_frontend_dispatch(f) >= 0);
        }
        CHECK_EQ(seen.n_info, n);
        leave();
}

TEST(served_while_a_call_waits) {
        uint8_t status;
        struct vhk_g_scanout p = { 1, 2, 3 };

        enter();
        fake.mischief = ONE_BYTE;       /* at a time, so that it takes a while */
        fake.at = VHK_FE_GET_STATUS;
        CHECK_OK(vhk_conn_send(&dev, &(struct vhk_hdr){ VHK_GPU_SCANOUT, 0, sizeof(p) }, &p, NULL, 0));
        CHECK_OK(vhk_frontend_get_status(f, &status));
        CHECK_EQ(seen.n_scanout, 1);
        leave();
}

TEST(options) {
        struct vhk_frontend_display d = all;

        init();
        d.size--;
        CHECK_EQ(open_with(&d), -EINVAL);
        fake_stop(&fake);
        init();
        d = all;
        d.get_info = NULL;
        CHECK_EQ(open_with(&d), -EINVAL);
        fake_stop(&fake);
        init();
        d = all;
        d.get_edid = NULL;
        CHECK_EQ(open_with(&d), -EINVAL);
        fake_stop(&fake);
        init();
        d = all;
        d.features = 4;
        CHECK_EQ(open_with(&d), -EINVAL);
        fake_stop(&fake);
        vhk_close(&memfd);
}

TEST(a_device_without_a_display) {
        init();
        fake.mischief = REFUSES;
        fake.at = VHK_FE_GPU_SET_SOCKET;
        CHECK_OK(open_with(&all));
        CHECK(!(capabilities() & VHK_CAP_DISPLAY));
        CHECK_EQ(vhk_frontend_dispatch(f), 0);
        f = vhk_frontend_close(f);
        CHECK_EQ(seen.n_closed, 0);
        fake_stop(&fake);
        vhk_close(&memfd);
        init();
        CHECK_OK(open_with(NULL));
        CHECK_EQ(fake.count[VHK_FE_GPU_SET_SOCKET], 0);
        CHECK(!(capabilities() & VHK_CAP_DISPLAY));
        f = vhk_frontend_close(f);
        fake_stop(&fake);
        vhk_close(&memfd);
}

TEST(the_back_end_goes) {
        enter();
        shutdown(fake.fd, SHUT_RDWR);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPIPE);
        CHECK(seen.n_closed == 1 && seen.n_gone == 1);
        CHECK_STR(seen.rule, "in order");
        f = vhk_frontend_close(f);
        CHECK_EQ(seen.n_closed, 1);
        vhk_conn_done(&dev);
        fake_stop(&fake);
        vhk_close(&memfd);
}

TEST(closing_inside_a_callback_is_done_when_the_call_is_over) {
        enter();
        closes_inside = true;
        shutdown(fake.fd, SHUT_RDWR);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPIPE);
        closes_inside = false;
        CHECK(!f && seen.n_closed == 1);
        CHECK_EQ(seen.n_gone, 0);       /* who has closed is told nothing more */
        vhk_conn_done(&dev);
        fake_stop(&fake);
        vhk_close(&memfd);
}
