/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a device draws on, held against a scripted display: every call's bytes, every answer and every way not to give it, a display that
 * does not read, that comes twice, that goes.
 */
#include <sys/stat.h>
#include <vhostkit/display.h>

#include "backend/test-backend.h"
#include "wire/gpu.h"

#define MILLISECOND UINT64_C(1000000)

/* ---- the device ---- */

static unsigned n_opened, n_closed;
static uint32_t features;
static struct vhk_display *display;

static void opened(void *dev, struct vhk_display *d, uint32_t f) {
        n_opened++;
        features = f;
        CHECK(!display || display == d);
        display = d;
}

static void closed(void *dev, struct vhk_display *d) {
        n_closed++;
        CHECK(d == display && n_closed <= n_opened);
        CHECK_EQ(vhk_display_set_scanout(d, 0, 1, 1), -ENOTCONN);
}

static const struct vhk_display_ops display_ops = { sizeof(display_ops), opened, closed };

struct result {
        unsigned n;
        int error;
        struct vhk_display_info info;
        uint8_t edid[VHK_DISPLAY_EDID_MAX];
        size_t n_edid;
};

static void on_done(void *arg, int error) {
        struct result *x = arg;
        x->error = error;
        x->n++;
}

static void on_info(void *arg, int error, const struct vhk_display_info *info) {
        struct result *x = arg;
        CHECK_EQ(!error, info != NULL);
        if (info)
                x->info = *info;
        on_done(arg, error);
}

static void on_edid(void *arg, int error, const void *edid, size_t n) {
        struct result *x = arg;
        x->n_edid = n;
        if (n)
                memcpy(x->edid, edid, n);
        on_done(arg, error);
}

/* ---- the display ---- */

static struct rig rig;
static struct vhk_conn peer;

static void peer_send(uint32_t id, uint32_t flags, const void *payload, uint32_t size) {
        CHECK_OK(vhk_conn_send(&peer, &(struct vhk_hdr){ id, flags, size }, payload, NULL, 0));
}

/* The next request; stays in peer.in. */
static const void *expect(uint32_t id, uint32_t size, unsigned n_fds) {
        struct vhk_hdr h;
        int k;

        if (peer.in.have >= VHK_HDR_SIZE)
                vhk_decoder_next(&peer.in);
        PUMP_UNTIL(&rig, (k = vhk_conn_receive(&peer)) != VHK_CONN_AGAIN);
        CHECK_EQ(k, VHK_CONN_HEADER);
        h = vhk_decoder_header(&peer.in);
        CHECK_EQ(h.request, id);
        CHECK_EQ(h.flags, 0);
        CHECK_EQ(h.size, size);
        CHECK_OK(vhk_decoder_reserve(&peer.in, size));
        PUMP_UNTIL(&rig, (k = vhk_conn_receive(&peer)) != VHK_CONN_AGAIN);
        CHECK_EQ(k, VHK_CONN_MESSAGE);
        CHECK_EQ(peer.in.n_fds, n_fds);
        return peer.in.payload;
}

static bool peer_is_closed(void) {
        pump(&rig);
        if (peer.in.have >= VHK_HDR_SIZE)
                vhk_decoder_next(&peer.in);
        int k = vhk_conn_receive(&peer);
        return k == VHK_CONN_EOF || k == VHK_CONN_CUT;
}

static void give_socket(void) {
        int pair[2];

        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        CHECK_EQ(fe_ask(&rig, VHK_FE_GPU_SET_SOCKET, NULL, 0, pair[1]), 0);
        close(pair[1]);
        CHECK_OK(vhk_conn_init(&peer, pair[0]));
}

static void answer_features(uint64_t offered) {
        unsigned before = n_opened;
        struct vhk_g_u64 p = { offered };

        expect(VHK_GPU_GET_PROTOCOL_FEATURES, 0, 0);
        peer_send(VHK_GPU_GET_PROTOCOL_FEATURES, VHK_HDR_REPLY, &p, sizeof(p));
        CHECK_EQ(*(const uint64_t *)expect(VHK_GPU_SET_PROTOCOL_FEATURES, 8, 0), offered & 3);
        PUMP_UNTIL(&rig, n_opened == before + 1);
        CHECK_EQ(features, offered & 3);
}

static void open_rig(const struct vhk_display_ops *d, uint64_t limit_ns) {
        struct vhk_backend_options o = { .limit_ns = limit_ns };
        struct vhk_device_ops ops = dev_ops;

        ops.virtio_id = VHK_ID_GPU;
        ops.display = d;
        n_opened = n_closed = 0;
        display = NULL;
        rig_open(&rig, &o, &ops);
        fe_connect(&rig);
        fe_negotiate(&rig, FEATURES, PROTOCOL);
}

static void begin(uint64_t offered, uint64_t limit_ns) {
        open_rig(&display_ops, limit_ns);
        give_socket();
        answer_features(offered);
}

static void end(void) {
        vhk_conn_done(&peer);
        PUMP_UNTIL(&rig, n_closed == n_opened);
        rig_close(&rig);
}

/* ---- tests ---- */

TEST(without_a_display) {
        struct vhk_display *d = NULL;

        open_rig(NULL, 0);
        CHECK_EQ(vhk_host_display(rig.dev.host, &d), -EOPNOTSUPP);
        CHECK(!d);
        CHECK_EQ(fe_ask(&rig, VHK_FE_GPU_SET_SOCKET, NULL, 0, rig.fe.fd), 1);
        CHECK(strstr(rig.log, "device.display"));
        fe_get(&rig, VHK_FE_GET_FEATURES);
        rig_close(&rig);
        open_rig(&display_ops, 0);
        CHECK_OK(vhk_host_display(rig.dev.host, &d));
        CHECK_EQ(vhk_display_set_scanout(d, 0, 1, 1), -ENOTCONN);
        CHECK_EQ(vhk_display_get_info(d, on_info, NULL), -ENOTCONN);
        CHECK_EQ(fe_ask(&rig, VHK_FE_GPU_SET_SOCKET, NULL, 0, rig.memfd), 1);           /* no socket */
        CHECK(strstr(rig.log, "gpu.socket"));
        fe_get(&rig, VHK_FE_GET_FEATURES);
        CHECK_EQ(n_opened, 0);
        rig_close(&rig);
}

TEST(a_group_of_another_version) {
        static const struct vhk_display_ops bad = { sizeof(bad) - 1, opened, closed };
        struct vhk_device_ops ops = dev_ops;
        struct vhk_backend_options o = { .size = sizeof(o) };
        struct vhk_backend *b;
        struct vhk_error e;

        ops.display = &bad;
        CHECK_OK(vhk_worker_new(NULL, NULL, &o.control));
        CHECK_EQ(vhk_backend_open("/tmp/vhk-test-display-none", &o, &ops, NULL, &b, &e), -EINVAL);
        vhk_worker_free(o.control);
}

TEST(every_call_is_its_message) {
        static struct vhk_display_cursor cursor = { 3, 70, { 0xff112233 } };
        struct vhk_display_rect r = { 2, 1, 3, 2 };
        uint32_t pixels[2 * 5] = { 1, 2, 3, 0, 0, 4, 5, 6, 0, 0 };

        begin(3, 0);
        CHECK_OK(vhk_display_set_scanout(display, 15, 640, 480));
        const struct vhk_g_scanout *s = expect(VHK_GPU_SCANOUT, 12, 0);
        CHECK(s->scanout == 15 && s->width == 640 && s->height == 480);
        CHECK_OK(vhk_display_update(display, 15, &r, pixels, 5 * 4));
        const struct { struct vhk_g_rect r; uint32_t pixels[6]; } *u = expect(VHK_GPU_UPDATE, 20 + 24, 0);
        CHECK(u->r.scanout == 15 && u->r.x == 2 && u->r.y == 1 && u->r.width == 3 && u->r.height == 2);
        for (unsigned i = 0; i < 6; i++)
                CHECK_EQ(u->pixels[i], i + 1);
        CHECK_OK(vhk_display_set_cursor(display, 1, 10, 20, &cursor));
        const struct vhk_g_cursor *c = expect(VHK_GPU_CURSOR_UPDATE, sizeof(*c), 0);
        CHECK(c->scanout == 1 && c->x == 10 && c->y == 20 && c->hot_x == 3 && c->hot_y == 70 && c->pixels[0] == 0xff112233);
        CHECK_OK(vhk_display_move_cursor(display, 2, 11, 21));
        const struct vhk_g_cursor_pos *p = expect(VHK_GPU_CURSOR_POS, 12, 0);
        CHECK(p->scanout == 2 && p->x == 11 && p->y == 21);
        CHECK_OK(vhk_display_hide_cursor(display, 3, 12, 22));
        p = expect(VHK_GPU_CURSOR_POS_HIDE, 12, 0);
        CHECK(p->scanout == 3 && p->x == 12 && p->y == 22);
        end();
        CHECK_EQ(n_opened, 1);
}

TEST(dma_bufs) {
        struct vhk_display_dmabuf b = { sizeof(b), { 1, 2, 30, 20 }, 64, 32, 256, 1, 0x34325258, 0, 99, rig.memfd };
        struct vhk_display_rect r = { 0, 0, 5, 5 };
        struct result x = { .n = 0 };
        struct stat mine, theirs;

        begin(2, 0);
        b.fd = rig.memfd;
        CHECK_OK(vhk_display_set_dmabuf(display, 4, &b));
        const struct vhk_g_dmabuf *p = expect(VHK_GPU_DMABUF_SCANOUT, 40, 1);
        CHECK(p->scanout == 4 && p->x == 1 && p->y == 2 && p->width == 30 && p->height == 20 && p->fd_width == 64 && p->fd_height == 32);
        CHECK(p->stride == 256 && p->flags == 1 && p->fourcc == 0x34325258);
        CHECK(!fstat(rig.memfd, &mine) && !fstat(peer.in.fds[0], &theirs));
        CHECK(mine.st_ino == theirs.st_ino);
        b.has_modifier = 1;
        CHECK_OK(vhk_display_set_dmabuf(display, 4, &b));
        const struct vhk_g_dmabuf2 *p2 = expect(VHK_GPU_DMABUF_SCANOUT2, 48, 1);
        CHECK(p2->modifier == 99 && p2->fourcc == 0x34325258);
        CHECK_OK(vhk_display_update_dmabuf(display, 4, &r, on_done, &x));
        expect(VHK_GPU_DMABUF_UPDATE, 20, 0);
        pump(&rig);
        CHECK_EQ(x.n, 0);
        peer_send(VHK_GPU_DMABUF_UPDATE, VHK_HDR_REPLY, NULL, 0);
        PUMP_UNTIL(&rig, x.n == 1);
        CHECK_EQ(x.error, 0);
        CHECK_OK(vhk_display_update_dmabuf(display, 4, &r, NULL, NULL));
        expect(VHK_GPU_DMABUF_UPDATE, 20, 0);
        peer_send(VHK_GPU_DMABUF_UPDATE, VHK_HDR_REPLY, NULL, 0);
        b = (struct vhk_display_dmabuf){ .size = sizeof(b), .fd = -1 };
        CHECK_OK(vhk_display_set_dmabuf(display, 4, &b));
        expect(VHK_GPU_DMABUF_SCANOUT, 40, 0);
        end();
        begin(0, 0);
        b = (struct vhk_display_dmabuf){ sizeof(b), { 0, 0, 1, 1 }, 1, 1, 4, 0, 0, 1, 0, rig.memfd };
        CHECK_EQ(vhk_display_set_dmabuf(display, 4, &b), -EOPNOTSUPP);
        CHECK_EQ(vhk_display_get_edid(display, 0, on_edid, &x), -EOPNOTSUPP);
        end();
}

TEST(what_is_not_even_sent) {
        struct vhk_display_rect wraps = { UINT32_MAX, 0, 2, 1 }, huge = { 0, 0, 8193, 1 }, high = { 0, 0, 1, UINT32_MAX }, two = { 0, 0, 2, 2 };
        struct vhk_display_dmabuf b = { sizeof(b), { 0, 0, 2, 2 }, 2, 2, 8, 0, 0, 0, 0, -1 };
        static uint32_t pixels[9000];

        begin(3, 0);
        CHECK_EQ(vhk_display_set_scanout(display, 16, 1, 1), -EINVAL);
        CHECK_EQ(vhk_display_set_scanout(display, 0, 8193, 1), -EINVAL);
        CHECK_EQ(vhk_display_set_scanout(display, 0, 0, 1), -EINVAL);
        CHECK_EQ(vhk_display_update(display, 0, &wraps, pixels, 8), -EINVAL);
        CHECK_EQ(vhk_display_update(display, 0, &huge, pixels, 4 * 8193), -EINVAL);
        CHECK_EQ(vhk_display_update(display, 0, &high, pixels, 4), -EINVAL);
        CHECK_EQ(vhk_display_update(display, 0, &two, pixels, 7), -EINVAL);
        CHECK_EQ(vhk_display_update(display, 16, &two, pixels, 8), -EINVAL);
        CHECK_EQ(vhk_display_move_cursor(display, 16, 0, 0), -EINVAL);
        CHECK_EQ(vhk_display_get_edid(display, 16, on_edid, NULL), -EINVAL);
        CHECK_EQ(vhk_display_get_edid(display, 0, NULL, NULL), -EINVAL);
        CHECK_EQ(vhk_display_get_info(display, NULL, NULL), -EINVAL);
        CHECK_EQ(vhk_display_set_dmabuf(display, 0, &b), -EINVAL);      /* no descriptor */
        b.fd = 12345;
        CHECK_EQ(vhk_display_set_dmabuf(display, 0, &b), -EINVAL);
        b.fd = rig.memfd;
        b.rect.width = 0;
        CHECK_EQ(vhk_display_set_dmabuf(display, 0, &b), -EINVAL);
        b.rect.width = 3;
        CHECK_EQ(vhk_display_set_dmabuf(display, 0, &b), -EINVAL);
        b.size--;
        CHECK_EQ(vhk_display_set_dmabuf(display, 0, &b), -EINVAL);
        CHECK_OK(vhk_display_set_scanout(display, 0, 0, 0));
        expect(VHK_GPU_SCANOUT, 12, 0);                                 /* the first that came */
        end();
}

TEST(answers) {
        static struct result info, edid, shown;
        static struct vhk_g_display_info i = { .type = VHK_GPU_INFO_OK };
        static struct vhk_g_edid e = { .type = VHK_GPU_EDID_OK };
        struct vhk_display_rect r = { 0, 0, 1, 1 };

        memset(&info, 0, sizeof(info));
        memset(&edid, 0, sizeof(edid));
        memset(&shown, 0, sizeof(shown));
        begin(1, 0);
        i.modes[1] = (struct vhk_g_mode){ vhk_le32_of(1).v, vhk_le32_of(2).v, vhk_le32_of(800).v, vhk_le32_of(600).v, vhk_le32_of(1).v,
                vhk_le32_of(7).v };
        e.n = vhk_le32_of(128).v;
        memset(e.edid, 0x5a, 128);
        CHECK_OK(vhk_display_update_dmabuf(display, 0, &r, on_done, &shown));
        CHECK_OK(vhk_display_get_info(display, on_info, &info));
        CHECK_OK(vhk_display_get_edid(display, 1, on_edid, &edid));
        expect(VHK_GPU_DMABUF_UPDATE, 20, 0);
        expect(VHK_GPU_GET_DISPLAY_INFO, 0, 0);
        CHECK_EQ(*(const uint32_t *)expect(VHK_GPU_GET_EDID, 4, 0), 1);
        /* a frame may be shown later than what was asked behind it is known */
        peer_send(VHK_GPU_GET_EDID, VHK_HDR_REPLY, &e, sizeof(e));
        peer_send(VHK_GPU_GET_DISPLAY_INFO, VHK_HDR_REPLY, &i, sizeof(i));
        PUMP_UNTIL(&rig, info.n == 1 && edid.n == 1);
        CHECK(!info.error && !edid.error && !shown.n);
        CHECK(info.info.modes[1].rect.x == 1 && info.info.modes[1].rect.y == 2 && info.info.modes[1].rect.width == 800 &&
                info.info.modes[1].rect.height == 600);
        CHECK(info.info.modes[1].enabled == 1 && info.info.modes[1].flags == 7 && !info.info.modes[0].enabled);
        CHECK(edid.n_edid == 128 && edid.edid[127] == 0x5a);
        peer_send(VHK_GPU_DMABUF_UPDATE, VHK_HDR_REPLY, NULL, 0);
        PUMP_UNTIL(&rig, shown.n == 1);
        end();
}

/* What is no answer that is due closes the display, and nothing else. */
TEST(wrong_answers) {
        static const uint8_t zeroes[2048];
        static const struct { uint32_t id, flags, size; } cases[] = {
                { VHK_GPU_GET_DISPLAY_INFO, 4, 407 }, { VHK_GPU_GET_DISPLAY_INFO, 4, 409 }, { VHK_GPU_GET_DISPLAY_INFO, 0, 408 },
                { VHK_GPU_GET_DISPLAY_INFO, 5, 408 }, { VHK_GPU_GET_EDID, 4, 1056 }, { VHK_GPU_SCANOUT, 4, 0 }, { 77, 4, 0 }, { 0, 0, 0 },
                { VHK_GPU_GET_DISPLAY_INFO, 4, 0x7fffffff },
        };

        for (unsigned i = 0; i < VHK_N(cases); i++) {
                struct result x = { .n = 0 };
                struct vhk_hdr h = { cases[i].id, cases[i].flags, cases[i].size };

                begin(3, 0);
                CHECK_OK(vhk_display_get_info(display, on_info, &x));
                expect(VHK_GPU_GET_DISPLAY_INFO, 0, 0);
                CHECK_EQ(send(peer.fd, &h, sizeof(h), MSG_NOSIGNAL), sizeof(h));
                if (h.size <= sizeof(zeroes))
                        send(peer.fd, zeroes, h.size, MSG_NOSIGNAL);
                PUMP_UNTIL(&rig, x.n == 1);
                CHECK_EQ(x.error, -EPIPE);
                CHECK_EQ(n_closed, 1);
                CHECK(peer_is_closed());
                fe_get(&rig, VHK_FE_GET_FEATURES);
                vhk_conn_done(&peer);
                give_socket();                  /* and another one is welcome */
                answer_features(3);
                end();
                CHECK_EQ(n_opened, 2);
        }
}

TEST(no_answer_in_time) {
        struct result x = { .n = 0 }, y = { .n = 0 };
        static const struct vhk_g_display_info i;

        begin(3, 50 * MILLISECOND);
        CHECK_OK(vhk_display_get_info(display, on_info, &x));
        PUMP_UNTIL(&rig, x.n == 1);
        CHECK_EQ(x.error, -ETIMEDOUT);
        CHECK_EQ(n_closed, 0);
        /* it comes after all; the next one has its own */
        expect(VHK_GPU_GET_DISPLAY_INFO, 0, 0);
        CHECK_OK(vhk_display_get_info(display, on_info, &y));
        expect(VHK_GPU_GET_DISPLAY_INFO, 0, 0);
        peer_send(VHK_GPU_GET_DISPLAY_INFO, VHK_HDR_REPLY, &i, sizeof(i));
        peer_send(VHK_GPU_GET_DISPLAY_INFO, VHK_HDR_REPLY, &i, sizeof(i));
        PUMP_UNTIL(&rig, y.n == 1);
        CHECK_EQ(y.error, 0);
        CHECK_EQ(x.n, 1);
        end();
        /* without features there is no display */
        open_rig(&display_ops, 50 * MILLISECOND);
        give_socket();
        PUMP_UNTIL(&rig, strstr(rig.log, "GET_PROTOCOL_FEATURES in time"));
        expect(VHK_GPU_GET_PROTOCOL_FEATURES, 0, 0);
        CHECK(peer_is_closed());
        CHECK_EQ(n_opened, 0);
        end();
}

TEST(too_many_unanswered) {
        static struct result x[65];

        memset(x, 0, sizeof(x));
        begin(3, 0);
        for (unsigned i = 0; i < 65; i++)
                CHECK_OK(vhk_display_get_info(display, on_info, &x[i]));
        PUMP_UNTIL(&rig, x[64].n == 1);
        CHECK_EQ(x[64].error, -ENOBUFS);
        CHECK_EQ(x[63].n, 0);
        end();
        for (unsigned i = 0; i < 64; i++)
                CHECK(x[i].n == 1 && x[i].error == -EPIPE);
}

/* Updates of 4 MiB to somebody who does not read; when it does, all of them are whole. */
TEST(a_display_that_does_not_read) {
        struct vhk_display_rect r = { 0, 0, 1024, 1024 };
        uint32_t *pixels = calloc(1024 * 1024, 4);
        unsigned n = 0;
        int k;

        CHECK(pixels);
        begin(0, 0);
        for (; (k = vhk_display_update(display, 0, &r, pixels, 4096)) == 0; pixels[1024 * 1024 - 1]++, n++) {
                CHECK(n < 100);
                if (n & 1)
                        pump(&rig);
        }
        CHECK_EQ(k, -ENOBUFS);
        CHECK(n >= 15 && n <= 17);
        for (unsigned i = 0; i < n; i++) {
                const uint32_t *got = expect(VHK_GPU_UPDATE, 20 + (4 << 20), 0);
                CHECK_EQ(got[5 + 1024 * 1024 - 1], i);
        }
        CHECK_OK(vhk_display_update(display, 0, &r, pixels, 4096));     /* there is room again */
        expect(VHK_GPU_UPDATE, 20 + (4 << 20), 0);
        /* and it may go while much is under way */
        for (unsigned i = 0; i < 10; i++)
                CHECK_OK(vhk_display_update(display, 0, &r, pixels, 4096));
        end();
        free(pixels);
}

/* 8192 x 2050 pixels are more than VHK_DISPLAY_QUEUE_MAX. */
TEST(one_update_may_be_larger_than_the_queue) {
        struct vhk_display_rect r = { 0, 0, 8192, 2050 };

        if (getenv("VHK_TEST_ONE_THREAD"))
                SKIP("cannot: 64 MiB take too long under valgrind");
        uint32_t *pixels = malloc((size_t)r.width * r.height * 4);
        CHECK(pixels);
        for (size_t i = 0; i < (size_t)r.width * r.height; i++)
                pixels[i] = (uint32_t)i;
        begin(0, 0);
        CHECK_OK(vhk_display_update(display, 0, &r, pixels, r.width * 4));
        CHECK_EQ(vhk_display_update(display, 0, &r, pixels, r.width * 4), -ENOBUFS);
        const uint32_t *got = expect(VHK_GPU_UPDATE, 20 + r.width * r.height * 4, 0);
        CHECK(!memcmp(got + 5, pixels, (size_t)r.width * r.height * 4));
        free(pixels);
        end();
}

TEST(a_second_socket_replaces_the_first) {
        struct vhk_conn first;
        struct result x = { .n = 0 };

        begin(3, 0);
        CHECK_OK(vhk_display_get_info(display, on_info, &x));
        first = peer;
        first.out_tail = &first.out_head;
        give_socket();
        PUMP_UNTIL(&rig, x.n == 1);
        CHECK_EQ(x.error, -EPIPE);
        CHECK_EQ(n_closed, 1);
        answer_features(1);
        CHECK_EQ(n_opened, 2);
        CHECK_OK(vhk_display_set_scanout(display, 0, 1, 1));
        expect(VHK_GPU_SCANOUT, 12, 0);
        vhk_conn_done(&first);
        pump(&rig);
        CHECK_EQ(n_closed, 1);
        end();
}

TEST(it_goes_with_the_session_and_stays_over_a_reset) {
        begin(3, 0);
        CHECK_EQ(fe_ask(&rig, VHK_FE_RESET_DEVICE, NULL, 0, -1), 0);
        CHECK_OK(vhk_display_set_scanout(display, 0, 1, 1));
        expect(VHK_GPU_SCANOUT, 12, 0);
        CHECK_EQ(n_closed, 0);
        fe_close(&rig);
        PUMP_UNTIL(&rig, n_closed == 1);
        CHECK(peer_is_closed());
        CHECK_EQ(vhk_display_set_scanout(display, 0, 1, 1), -ENOTCONN);
        vhk_conn_done(&peer);
        fe_connect(&rig);
        fe_negotiate(&rig, FEATURES, PROTOCOL);
        give_socket();
        answer_features(0);
        CHECK_EQ(n_opened, 2);
        end();
}

TEST(the_back_end_ends_with_errands_under_way) {
        struct result x = { .n = 0 };

        begin(3, 0);
        CHECK_OK(vhk_backend_stop(rig.b, VHK_STOP_DRAIN, 0));
        CHECK_OK(vhk_display_get_info(display, on_info, &x));
        CHECK_OK(vhk_display_set_scanout(display, 0, 1, 1));
        PUMP_UNTIL(&rig, rig.freed);
        CHECK(x.n == 1 && x.error == -EPIPE);
        vhk_conn_done(&peer);
        rig_close(&rig);
}
