/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * gpu-window ENDPOINT: shows what any vhost-user graphics card draws, and is its guest's driver as well: asks for the sizes, fills a
 * resource, puts it on a scanout in two pieces, shows and moves a cursor, turns all of it off. Whatever does not arrive as it was
 * drawn is a failure. For the lab (tests/lab/display.py).
 *
 * Source: virtio 1.3, 5.7.
 */
#include <linux/virtio_gpu.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vhostkit/vhostkit.h>

#define SIDE 64u                /* of the resource, of the cursor */
#define WIDTH 40u               /* of the scanout, which shows a part of it */
#define HEIGHT 30u
#define CHECK(x)                                                                                        \
        do {                                                                                            \
                if (!(x)) {                                                                             \
                        fprintf(stderr, "gpu-window: line %d: %s\n", __LINE__, #x);                     \
                        exit(1);                                                                        \
                }                                                                                       \
        } while (0)

/* ---- the window ---- */

static struct {
        unsigned width, height, n_info, n_scanouts, n_updates, n_cursors, n_moves, n_closed;
        uint32_t pixels[SIDE * SIDE], cursor[SIDE * SIDE], x, y, hot_x, hot_y;
        int visible;
} seen;

static int get_info(void *arg, struct vhk_display_info *i) {
        (void)arg;
        i->modes[0] = (struct vhk_display_mode){ { 0, 0, 1024, 600 }, 1, 0 };
        seen.n_info++;
        return 0;
}

static void set_scanout(void *arg, unsigned scanout, uint32_t width, uint32_t height) {
        (void)arg;
        if (scanout != 0)
                return;                 /* some turn the others off */
        seen.width = width;
        seen.height = height;
        seen.n_scanouts++;
}

static void update(void *arg, unsigned scanout, const struct vhk_display_rect *r, const uint32_t *pixels) {
        (void)arg;
        CHECK(scanout == 0 && r->x + r->width <= seen.width && r->y + r->height <= seen.height);
        for (uint32_t y = 0; y < r->height; y++)
                memcpy(&seen.pixels[(r->y + y) * SIDE + r->x], pixels + y * r->width, r->width * sizeof(*pixels));
        seen.n_updates++;
}

static void set_cursor(void *arg, unsigned scanout, const struct vhk_display_cursor *c) {
        (void)arg;
        CHECK(scanout == 0);
        memcpy(seen.cursor, c->pixels, sizeof(seen.cursor));
        seen.hot_x = c->hot_x;
        seen.hot_y = c->hot_y;
        seen.n_cursors++;
}

static void move_cursor(void *arg, unsigned scanout, uint32_t x, uint32_t y, int visible) {
        (void)arg;
        CHECK(scanout == 0);
        seen.x = x;
        seen.y = y;
        seen.visible = visible;
        seen.n_moves++;
}

static void closed(void *arg, const struct vhk_error *e) {
        (void)arg;
        if (e)
                fprintf(stderr, "gpu-window: %s\n", e->text);
        seen.n_closed++;
}

static const struct vhk_frontend_display window = {
        .size = sizeof(window), .get_info = get_info, .set_scanout = set_scanout, .update = update, .set_cursor = set_cursor,
        .move_cursor = move_cursor, .closed = closed,
};

/* ---- the driver ---- */

static struct vhk_frontend *f;
static struct vhk_memory *m;
static struct vhk_drvq *queues[2];
static uint8_t *memory;                 /* the pixels, a request, its answer */
static uint32_t *drawn;
#define REQUEST (memory + SIDE * SIDE * 4)
#define ANSWER (REQUEST + 4096)

static void serve(int ms) {
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };

        poll(&p, 1, ms);
        CHECK(vhk_frontend_dispatch(f) >= 0);
        CHECK(!seen.n_closed);
}

#define UNTIL(cond)                                                     \
        do {                                                            \
                for (unsigned i_ = 0; !(cond); i_++) {                  \
                        CHECK(i_ < 5000 && #cond);                      \
                        serve(1);                                       \
                }                                                       \
        } while (0)

/* One request on queue @q, awaited; its answer, of @n bytes, is in ANSWER. */
static void ask(unsigned q, const void *request, size_t size, size_t n) {
        struct iovec sg[2] = { { REQUEST, size }, { ANSWER, n } };
        struct vhk_done done;

        memcpy(REQUEST, request, size);
        CHECK(vhk_drvq_add(queues[q], sg, 1, n ? 1 : 0, REQUEST) == 0 && vhk_drvq_kick(queues[q]) == 0);
        UNTIL(vhk_drvq_reap(queues[q], &done, 1) == 1);
        if (n)
                CHECK(done.len == n);
}

static void command(const void *request, size_t size) {
        struct virtio_gpu_ctrl_hdr h;

        ask(0, request, size, sizeof(h));
        memcpy(&h, ANSWER, sizeof(h));
        CHECK(h.type == VIRTIO_GPU_RESP_OK_NODATA);
}

#define HDR(what) { .type = VIRTIO_GPU_CMD_##what }
#define ALL { 0, 0, SIDE, SIDE }

static void open_device(const char *endpoint) {
        struct vhk_frontend_options o = { .size = sizeof(o), .virtio_id = 16, .limit_ns = 10000000000, .connect_ns = 5000000000, .display = &window };
        struct vhk_frontend_info i = { .size = sizeof(i) };
        struct vhk_drvq_options qo = { .size = sizeof(qo), .num = 16, .polling = 1 };
        struct vhk_error e = { .text = "" };
        void *at;

        if (vhk_frontend_open(endpoint, &o, &f, &e) < 0) {
                fprintf(stderr, "gpu-window: %s\n", e.text);
                exit(1);
        }
        CHECK(vhk_frontend_get_info(f, &i) == 0 && (i.capabilities & VHK_CAP_DISPLAY));
        CHECK(vhk_frontend_set_features(f, UINT64_C(1) << 32) == 0);
        CHECK(vhk_memory_new(&m) == 0 && vhk_memory_alloc(m, 65536, &at) == 0);
        memory = at;
        drawn = at;
        for (unsigned q = 0; q < 2; q++)
                CHECK(vhk_drvq_new(f, m, q, &qo, &queues[q]) == 0);
}

static void make_resource(uint32_t id, uint32_t format) {
        struct virtio_gpu_resource_create_2d create = { HDR(RESOURCE_CREATE_2D), .resource_id = id, .format = format, .width = SIDE, .height = SIDE };
        struct virtio_gpu_transfer_to_host_2d transfer = { HDR(TRANSFER_TO_HOST_2D), .r = ALL, .resource_id = id };
        struct {
                struct virtio_gpu_resource_attach_backing head;
                struct virtio_gpu_mem_entry entry;
        } attach = { { HDR(RESOURCE_ATTACH_BACKING), .resource_id = id, .nr_entries = 1 }, { .length = SIDE * SIDE * 4 } };
        vhk_gpa_t at;

        CHECK(vhk_memory_find(m, memory, SIDE * SIDE * 4, &at) == 0);
        attach.entry.addr = at.v;
        command(&create, sizeof(create));
        command(&attach, sizeof(attach));
        command(&transfer, sizeof(transfer));
}

static void ask_for_sizes(void) {
        struct virtio_gpu_ctrl_hdr get = HDR(GET_DISPLAY_INFO);
        struct virtio_gpu_resp_display_info info;

        ask(0, &get, sizeof(get), sizeof(info));
        memcpy(&info, ANSWER, sizeof(info));
        CHECK(info.hdr.type == VIRTIO_GPU_RESP_OK_DISPLAY_INFO && seen.n_info >= 1);
        CHECK(info.pmodes[0].r.width == 1024 && info.pmodes[0].r.height == 600 && info.pmodes[0].enabled && !info.pmodes[1].enabled);
}

static void flush(uint32_t x, uint32_t y, uint32_t width, uint32_t height) {
        struct virtio_gpu_resource_flush flush = { HDR(RESOURCE_FLUSH), .r = { x, y, width, height }, .resource_id = 1 };
        unsigned n = seen.n_updates;

        command(&flush, sizeof(flush));
        UNTIL(seen.n_updates == n + 1);
}

static void show_picture(void) {
        struct virtio_gpu_set_scanout set = { HDR(SET_SCANOUT), .r = { 0, 0, WIDTH, HEIGHT }, .resource_id = 1 };

        for (uint32_t i = 0; i < SIDE * SIDE; i++)
                drawn[i] = 0x010203 * (i % 80) + (i / SIDE);
        make_resource(1, VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM);
        command(&set, sizeof(set));
        UNTIL(seen.n_scanouts >= 1 && seen.width == WIDTH && seen.height == HEIGHT);
        flush(0, 0, 16, SIDE);
        flush(16, 0, SIDE - 16, SIDE);
        for (uint32_t y = 0; y < HEIGHT; y++)
                for (uint32_t x = 0; x < WIDTH; x++)
                        CHECK((seen.pixels[y * SIDE + x] & 0xffffff) == (drawn[y * SIDE + x] & 0xffffff));
        set.resource_id = 0;
        command(&set, sizeof(set));
        UNTIL(seen.width == 0 && seen.height == 0);
}

static void show_cursor(void) {
        struct virtio_gpu_update_cursor c = { HDR(UPDATE_CURSOR), .pos = { .scanout_id = 0, .x = 11, .y = 12 }, .resource_id = 2, .hot_x = 3,
                .hot_y = 4 };

        for (uint32_t i = 0; i < SIDE * SIDE; i++)
                drawn[i] = i < SIDE ? 0xff000000 | i : 0;
        make_resource(2, VIRTIO_GPU_FORMAT_B8G8R8A8_UNORM);
        ask(1, &c, sizeof(c), 0);
        UNTIL(seen.n_cursors == 1 && seen.n_moves == 1);
        CHECK(!memcmp(seen.cursor, drawn, sizeof(seen.cursor)) && seen.hot_x == 3 && seen.hot_y == 4 && seen.x == 11 && seen.y == 12);
        c.hdr.type = VIRTIO_GPU_CMD_MOVE_CURSOR;
        c.pos.x = 21;
        ask(1, &c, sizeof(c), 0);
        UNTIL(seen.n_moves == 2);
        CHECK(seen.x == 21 && seen.visible);
        c.resource_id = 0;
        ask(1, &c, sizeof(c), 0);
        UNTIL(seen.n_moves == 3);
        CHECK(!seen.visible);
}

int main(int argc, char **argv) {
        if (argc != 2) {
                fprintf(stderr, "usage: gpu-window ENDPOINT\n");
                return 2;
        }
        open_device(argv[1]);
        ask_for_sizes();
        show_picture();
        show_cursor();
        printf("%u updates, %u scanouts, %u cursors, %u moves: all as drawn\n", seen.n_updates, seen.n_scanouts, seen.n_cursors, seen.n_moves);
        for (unsigned q = 0; q < 2; q++)
                queues[q] = vhk_drvq_free(queues[q]);
        f = vhk_frontend_close(f);
        m = vhk_memory_free(m);
        return 0;
}
