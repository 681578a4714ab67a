/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk-blk: serves a file or a block device as a virtio disk over vhost-user. The disk itself is <vhostkit/blkdev.h>, the
 * daemon around it <vhostkit/daemon.h>; here the two meet the command line.
 */
#include <vhostkit/blkdev.h>
#include <vhostkit/daemon.h>

#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct blk_program {
        const char *file, *serial;
        int read_only, direct, engine;
        uint64_t block_size, size;
        struct vhk_blkdev *disk;
};

static const char *const engines[] = { "auto", "io_uring", "sync", "null", NULL };      /* in the order of enum vhk_blkdev_engine */

static const struct vhk_option options[] = {
        { "blk-file", VHK_OPTION_STRING, offsetof(struct blk_program, file), "PATH", "file or block device to serve", .letter = 'b' },
        { "read-only", VHK_OPTION_FLAG, offsetof(struct blk_program, read_only), NULL, "refuse writes", .letter = 'r' },
        { "serial", VHK_OPTION_STRING, offsetof(struct blk_program, serial), "TEXT", "serial number the guest sees, at most 20 bytes" },
        { "logical-block-size", VHK_OPTION_UINT, offsetof(struct blk_program, block_size), "BYTES",
          "512 to 65536, a power of two (default: the device's own, 512 for a file)", .min = 512, .max = 65536 },
        { "direct", VHK_OPTION_FLAG, offsetof(struct blk_program, direct), NULL, "bypass the host's page cache (O_DIRECT)" },
        { "engine", VHK_OPTION_ENUM, offsetof(struct blk_program, engine), "NAME",
          "io_uring, sync, null (touches no file), or auto (default)", .values = engines },
        { "size", VHK_OPTION_UINT, offsetof(struct blk_program, size), "BYTES", "size of the disk, with --engine=null", .min = 512 },
        { NULL },
};

/* What the text asks for is said once, in the words of the option that was meant. */
static int check(const struct blk_program *p, struct vhk_error *ret_e) {
        const char *text = NULL;

        if (!p->file && p->engine != VHK_BLKDEV_NULL)
                text = "--blk-file is needed (--help lists the options)";
        else if (!p->file && !p->size)
                text = "--engine=null needs --size or --blk-file";
        else if (p->size && p->engine != VHK_BLKDEV_NULL)
                text = "--size goes with --engine=null only: a file has its own size";
        else if (p->block_size & (p->block_size - 1))
                text = "--logical-block-size must be a power of two from 512 to 65536";
        if (!text)
                return 0;
        *ret_e = (struct vhk_error){ .code = -22, .rule = "option.missing" };
        snprintf(ret_e->text, sizeof(ret_e->text), "%s", text);
        return ret_e->code;
}

static int open_disk(void *state, struct vhk_device_ops *ops, struct vhk_error *ret_e) {
        struct blk_program *p = state;
        struct vhk_blkdev_options o = {
                .size = sizeof(o),
                .path = p->file,
                .serial = p->serial,
                .engine = (enum vhk_blkdev_engine)p->engine,
                .read_only = (uint8_t)p->read_only,
                .direct = (uint8_t)p->direct,
                .n_queues = ops->n_queues,
                .queue_size = ops->queue_size_max,
                .block_size = (uint32_t)p->block_size,
                .capacity = p->size,
                .log = vhk_daemon_log,
        };
        int k = check(p, ret_e);

        if (k < 0)
                return k;
        k = vhk_blkdev_open(&o, &p->disk, ret_e);
        return k < 0 ? k : vhk_blkdev_get_ops(p->disk, ops);
}

static void close_disk(void *state) {
        struct blk_program *p = state;

        p->disk = vhk_blkdev_close(p->disk);
}

static int look_again(void *state, struct vhk_error *ret_e) {
        return vhk_blkdev_refresh(((struct blk_program *)state)->disk, ret_e);
}

static void *get_disk(void *state) {
        return ((struct blk_program *)state)->disk;
}

static const char *const capabilities[] = { "read-only", "blk-file", NULL };
/* The most that the options allow; the rest comes from the disk. */
static const struct vhk_device_ops limits = { .size = sizeof(limits), .virtio_id = 2, .n_queues = 256, .queue_size_max = 32768,
                                              .threads = VHK_THREADS_PER_QUEUE };

static const struct vhk_program program = {
        .size = sizeof(program),
        .name = "vhk-blk",
        .type = "block",
        .summary = "Serve a file or a block device as a virtio disk (vhost-user).",
        .capabilities = capabilities,
        .options = options,
        .state_size = sizeof(struct blk_program),
        .open = open_disk,
        .close = close_disk,
        .ops = &limits,
        .default_n_queues = 256,        /* QEMU takes one for each CPU of its guest, and does not start with fewer; unused ones cost nothing */
        .default_queue_size = 1024,
        .get_device = get_disk,
        .reload = look_again,
};

int main(int argc, char **argv) {
        return vhk_daemon_run(&program, argc, argv);
}
