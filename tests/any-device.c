/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * any-device --device=NAME: something that front-ends take for a device of that type. It has the queues, feature bits and
 * configuration space, answers a request with zeroes that mean success (or "nobody here"), and keeps what only an event of
 * the outside world would complete. For recordings of front-ends (tests/lab/recordings.py), not for use.
 */
#include <stdio.h>
#include <string.h>
#include <vhostkit/daemon.h>
#include <vhostkit/display.h>

#define MAX_QUEUES 16

enum answer {
        HOLD = 'h',             /* left in the ring: it waits for an event that never comes */
        ZERO = 'z',             /* all zeroes */
        NOBODY = 'n',           /* SCSI: bad target */
};

struct kind {
        uint32_t virtio_id;
        uint16_t n_queues;
        const char *answers;    /* one enum answer per queue, over and over */
        uint64_t features;
        uint32_t config_len;
        uint8_t config[16];
};

static const char *const names[] = { "net", "net-plain", "rng", "scsi", "vsock", "crypto", "fs", "i2c", "gpio", "gpu", NULL };

/* virtio 1.3: 5.1, 5.4, 5.6, 5.7, 5.9, 5.10, 5.11, 5.15, 5.18 */
static const struct kind kinds[] = {
        { 1, 4, "hz", 1u << 3 | 1u << 15 | 1u << 17 | 1u << 22, 0, { 0 } },    /* MTU, MRG_RXBUF, CTRL_VQ, MQ */
        { 1, 2, "hz", 1u << 5 | 1u << 15, 12, { 0x52, 0x54, 0, 0x12, 0x34, 0x56 } },   /* MAC, MRG_RXBUF */
        { 4, 1, "z", 0, 0, { 0 } },
        { 8, 3, "zhn", 1u << 0 | 1u << 1 | 1u << 2, 0, { 0 } },        /* INOUT, HOTPLUG, CHANGE */
        { 19, 2, "hz", 1u << 1, 8, { 3 } },                             /* SEQPACKET; guest_cid 3 */
        { 20, 1, "z", 0, 0, { 0 } },
        { 26, 2, "z", 0, 0, { 0 } },
        { 34, 1, "z", 1u << 0, 0, { 0 } },                              /* ZERO_LENGTH_REQUEST */
        { 41, 2, "zh", 1u << 0, 8, { 4 } },                             /* IRQ; ngpio 4 */
        { 16, 2, "z", 1u << 1, 16, { [8] = 1 } },                       /* EDID; one scanout */
};

struct any {
        int device;
        const struct kind *kind;
};

static uint32_t answer_zero(struct vhk_req *r) {
        for (unsigned i = 0; i < r->n_in; i++)
                memset(r->in[i].iov_base, 0, r->in[i].iov_len);
        return r->in_len;
}

static uint32_t answer_nobody(struct vhk_req *r) {
        uint8_t response[108] = { [11] = 3 };   /* VIRTIO_SCSI_S_BAD_TARGET */

        return (uint32_t)vhk_req_write(r, 0, response, sizeof(response));
}

static void run(void *dev, struct vhk_queue *q) {
        const struct kind *k = ((struct any *)dev)->kind;
        enum answer how = (enum answer)k->answers[vhk_queue_get_index(q) % strlen(k->answers)];
        struct vhk_req *r;

        if (how == HOLD)
                return;
        while (vhk_queue_pop(q, &r, 1) > 0)
                vhk_queue_push(q, r, how == NOBODY ? answer_nobody(r) : answer_zero(r));
        vhk_queue_flush(q);
}

static int get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        memcpy(buf, ((struct any *)dev)->kind->config + off, n);
        return 0;
}

static int set_config(void *dev, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        (void)dev, (void)off, (void)buf, (void)n, (void)from;
        return 0;
}

static int send_rarp(void *dev, const uint8_t mac[6]) {
        (void)dev, (void)mac;
        return 0;
}

static int set_mtu(void *dev, uint16_t mtu) {
        (void)dev, (void)mtu;
        return 0;
}

static int64_t create_session(void *dev, enum vhk_crypto_form form, const void *session) {
        (void)dev, (void)form, (void)session;
        return 1;
}

static int close_session(void *dev, uint64_t id) {
        (void)dev, (void)id;
        return 0;
}

static const struct vhk_net_ops net = { .size = sizeof(net), .send_rarp = send_rarp, .set_mtu = set_mtu };
static const struct vhk_crypto_ops crypto = { .size = sizeof(crypto), .create_session = create_session, .close_session = close_session };

/* ---- a picture, for whoever shows it: each colour says where it is ---- */

#define WIDTH 32u
#define HEIGHT 16u

static void shown(void *arg, int error) {
        (void)arg;
        fprintf(stderr, "display: the update was shown: %s\n", strerror(-error));
}

static void draw(struct vhk_display *d) {
        static struct vhk_display_cursor cursor = { 1, 2, { [0] = 0xffffffff } };
        static uint32_t pixels[WIDTH * HEIGHT];
        struct vhk_display_rect all = { 0, 0, WIDTH, HEIGHT }, corner = { WIDTH - 8, HEIGHT - 4, 8, 4 };

        for (uint32_t i = 0; i < WIDTH * HEIGHT; i++)
                pixels[i] = (i % WIDTH * 8) << 16 | (i / WIDTH * 16) << 8 | 0x7f;
        int k = vhk_display_set_scanout(d, 0, WIDTH, HEIGHT);
        if (k == 0)
                k = vhk_display_update(d, 0, &all, pixels, WIDTH * 4);
        memset(pixels, 0xff, sizeof(pixels));
        if (k == 0)
                k = vhk_display_update(d, 0, &corner, pixels, WIDTH * 4);
        if (k == 0)
                k = vhk_display_set_cursor(d, 0, 3, 4, &cursor);
        if (k == 0)
                k = vhk_display_move_cursor(d, 0, 5, 6);
        if (k == 0)
                k = vhk_display_hide_cursor(d, 0, 5, 6);
        if (k == 0)                     /* without a dma-buf: shown it cannot be, but it is answered */
                k = vhk_display_update_dmabuf(d, 0, &all, shown, NULL);
        fprintf(stderr, "display: the picture is drawn: %s\n", strerror(-k));
}

static void got_info(void *arg, int error, const struct vhk_display_info *info) {
        fprintf(stderr, "display: scanout 0 is %u x %u: %s\n", info ? info->modes[0].rect.width : 0, info ? info->modes[0].rect.height : 0,
                strerror(-error));
        draw(arg);
}

static void display_opened(void *dev, struct vhk_display *d, uint32_t features) {
        (void)dev;
        fprintf(stderr, "display: features 0x%x\n", features);
        vhk_display_get_info(d, got_info, d);
}

static const struct vhk_display_ops display = { .size = sizeof(display), .opened = display_opened };

static int open_device(void *state, struct vhk_device_ops *ops, struct vhk_error *ret_e) {
        struct any *a = state;

        (void)ret_e;
        a->kind = &kinds[a->device];
        ops->virtio_id = a->kind->virtio_id;
        ops->n_queues = a->kind->n_queues;
        ops->features = a->kind->features;
        ops->config_len = a->kind->config_len;
        ops->net = ops->virtio_id == 1 ? &net : NULL;
        ops->crypto = ops->virtio_id == 20 ? &crypto : NULL;
        ops->display = ops->virtio_id == 16 ? &display : NULL;
        return 0;
}

static const struct vhk_option options[] = {
        { "device", VHK_OPTION_ENUM, offsetof(struct any, device), "NAME", "what to be", .values = names },
        { NULL },
};

static const struct vhk_device_ops any = {
        .size = sizeof(any),
        .virtio_id = 4,
        .n_queues = MAX_QUEUES,
        .queue_size_max = 1024,
        .threads = VHK_THREADS_PER_DEVICE,
        .disabled = VHK_DISABLED_HOLD,
        .queue_run = run,
        .get_config = get_config,
        .set_config = set_config,
};

static const struct vhk_program program = {
        .size = sizeof(program),
        .name = "any-device",
        .type = "rng",
        .summary = "Be taken for a device (for recordings, not for use).",
        .options = options,
        .state_size = sizeof(struct any),
        .open = open_device,
        .ops = &any,
};

int main(int argc, char **argv) {
        return vhk_daemon_run(&program, argc, argv);
}
