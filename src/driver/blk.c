/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A disk: what it is negotiated to be; and its calls that are not about requests. Source: virtio 1.3, 5.2. */
#include "driver/blk.h"

#include "base/struct.h"

#define F VHK_BIT
#define WANTED                                                                                                                  \
        (F(VHK_BLK_F_SIZE_MAX) | F(VHK_BLK_F_SEG_MAX) | F(VHK_BLK_F_RO) | F(VHK_BLK_F_BLK_SIZE) | F(VHK_BLK_F_FLUSH) |          \
         F(VHK_BLK_F_TOPOLOGY) | F(VHK_BLK_F_CONFIG_WCE) | F(VHK_BLK_F_MQ) | F(VHK_BLK_F_DISCARD) | F(VHK_BLK_F_WRITE_ZEROES) |  \
         F(VHK_DRVDEV_F_INDIRECT) | F(VHK_DRVDEV_F_EVENT_IDX) | F(VHK_DRVDEV_F_VERSION_1) | F(VHK_DRVDEV_F_ACCESS_PLATFORM))
#define VIRTIO_ID 2u
#define ROOM (UINT64_C(16) << 20)       /* bytes of lent memory for the caller, to begin with: touched pages alone cost */
#define WRITEBACK_OFF 32u
#define QUEUE_SIZE 128u
#define QUEUE_SIZE_LEAST 4u             /* header, two segments, status */

/* ---- memory ---- */

VHK_HOT uint64_t vhk_blk_gpa(void *queue, const void *va, uint64_t len) {
        struct vhk_blk_queue *q = queue;

        return vhk_drvdev_gpa(&q->b->d, &q->last, va, len);
}

VHK_API void *vhk_blk_alloc(struct vhk_blk *b, size_t len) {
        return vhk_drvdev_alloc(&b->d, len);
}

/* ---- opening ---- */

static int negotiate(struct vhk_blk *b, const struct vhk_blk_options *o, struct vhk_error *ret_e) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        int k = vhk_frontend_get_info(b->d.f, &i);
        if (k < 0)
                return vhk_drvdev_story(&b->d, k, ret_e);
        uint64_t features = i.features & WANTED & ~o->features_no_take;
        if (!(features & F(VHK_DRVDEV_F_VERSION_1)))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "blk.legacy", "the device does not offer VERSION_1: legacy devices are not driven");
        if (!(i.capabilities & VHK_CAP_CONFIG))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "blk.no-config", "the back-end does not show a configuration space, so it is no block device");
        k = vhk_drvdev_negotiate(&b->d, features, ret_e);
        if (k < 0)
                return k;
        k = vhk_blk_read_config(b->d.f, features, &b->config);
        return k < 0 ? vhk_drvdev_story(&b->d, k, ret_e) : 0;
}

/* What a ring of @num entries takes as one request; false: not one block. */
static bool limit_requests(struct vhk_blk *b, unsigned num) {
        uint64_t seg_max = b->config.seg_max ? b->config.seg_max : 1;
        unsigned most = VHK_MIN(VHK_BLK_MAX_SEGMENTS, num - 2u);

        b->max_segments = (uint32_t)VHK_MIN(seg_max, (uint64_t)most);
        b->max_request = VHK_MIN((uint64_t)b->max_segment * b->max_segments, UINT64_C(1) << 20) & ~(uint64_t)(b->block_size - 1);
        return b->max_request;
}

/* What the configuration means for requests; a disk that makes none possible is refused. */
static int derive(struct vhk_blk *b, struct vhk_error *ret_e) {
        const struct vhk_blk_config *c = &b->config;

        if (c->capacity > UINT64_MAX / VHK_BLK_SECTOR)
                return vhk_error_set(ret_e, -EPROTO, "blk.capacity", "the device says that it has %llu sectors", (unsigned long long)c->capacity);
        b->capacity = c->capacity * VHK_BLK_SECTOR;
        b->block_size = c->blk_size ? (uint32_t)c->blk_size : VHK_BLK_SECTOR;
        if (!vhk_is_pow2(b->block_size) || b->block_size < VHK_BLK_SECTOR)
                return vhk_error_set(ret_e, -EPROTO, "blk.block-size", "the device says that its blocks have %u bytes", b->block_size);
        b->max_segment = c->size_max ? (uint32_t)c->size_max : UINT32_MAX;      /* 0: an old export of QEMU, means nothing */
        if (!limit_requests(b, QUEUE_SIZE))
                return vhk_error_set(ret_e, -EPROTO, "blk.size-max", "%u segments of %u bytes do not hold one block of %u", b->max_segments, b->max_segment,
                                     b->block_size);
        uint64_t limit = (UINT64_C(1) << 40) & ~(uint64_t)(b->block_size - 1), sectors = b->block_size / VHK_BLK_SECTOR;
        b->max_discard = c->discard_sectors ? c->discard_sectors / sectors * b->block_size : limit;
        b->max_zeroes = c->zeroes_sectors ? c->zeroes_sectors / sectors * b->block_size : limit;
        b->read_only = vhk_blk_has(b, VHK_BLK_F_RO);
        return 0;
}

static unsigned n_device_queues(const struct vhk_blk *b) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        if (!vhk_blk_has(b, VHK_BLK_F_MQ) || vhk_frontend_get_info(b->d.f, &i) < 0)
                return 1;
        uint64_t n = VHK_MIN(b->config.n_queues, (uint64_t)i.n_queues);
        return n ? (unsigned)n : 1;
}

static struct vhk_blk *blk_of(struct vhk_drvdev *d) {
        return vhk_container_of(d, struct vhk_blk, d);
}

static void stop_queues(struct vhk_drvdev *d) {
        struct vhk_blk *b = blk_of(d);

        for (unsigned i = 0; b->queues && i < b->n_queues; i++)
                vhk_blk_queue_done(&b->queues[i]);
        free(b->queues);
        free(b->iov);
        b->queues = NULL;
        b->iov = NULL;
}

static int start_queues(struct vhk_drvdev *d, uint16_t num) {
        struct vhk_blk *b = blk_of(d);
        size_t each = vhk_blk_queue_bytes(num);

        if (!limit_requests(b, num))
                return -EINVAL;
        int k = d->n_chunks ? 0 : vhk_drvdev_add_chunk(d, b->n_queues * each + VHK_BLK_DEPTH * VHK_BLK_BOUNCE, ROOM);
        if (k < 0)
                return k;
        b->bounce = vhk_drvdev_take(d, VHK_BLK_DEPTH * VHK_BLK_BOUNCE);
        b->iov = calloc((size_t)VHK_BLK_DEPTH * b->max_segments, sizeof(*b->iov));
        b->queues = calloc(b->n_queues, sizeof(*b->queues));
        if (!b->bounce || !b->iov || !b->queues)
                return -ENOMEM;
        for (unsigned i = 0; i < b->n_queues; i++) {
                k = vhk_blk_queue_init(&b->queues[i], b, i, num, vhk_drvdev_take(d, each));
                if (k < 0)
                        return k;
        }
        return 0;
}

static int prepare(struct vhk_drvdev *d, const void *options, struct vhk_frontend_options *fo, struct vhk_error *ret_e) {
        const struct vhk_blk_options *o = options;
        struct vhk_blk *b = blk_of(d);

        b->n_queues = o->n_queues ? o->n_queues : 1;
        b->polling = o->polling;
        fo->reconnect_ns = o->reconnect_ns ? o->reconnect_ns : fo->reconnect_ns;
        return 0;
}

static int bring_up(struct vhk_drvdev *d, const void *options, struct vhk_error *ret_e) {
        const struct vhk_blk_options *o = options;
        struct vhk_blk *b = blk_of(d);
        uint16_t wish = o->queue_size;

        if (wish && (!vhk_is_pow2(wish) || wish < QUEUE_SIZE_LEAST || wish > 32768))
                return vhk_error_set(ret_e, -EINVAL, "blk.options", "a queue of %u entries: a power of two from %u to 32768 is needed", wish, QUEUE_SIZE_LEAST);
        int k = negotiate(b, o, ret_e);
        if (k < 0)
                return k;
        if (b->n_queues > n_device_queues(b))
                return vhk_error_set(ret_e, -EINVAL, "blk.queues", "%u queues were asked for, the device has %u", b->n_queues, n_device_queues(b));
        k = derive(b, ret_e);
        if (k < 0)
                return k;
        k = vhk_drvdev_start_rings(d, wish, QUEUE_SIZE, QUEUE_SIZE_LEAST, start_queues, stop_queues);
        if (k == 0)
                k = vhk_drvdev_set_status(d, VHK_DRVDEV_S_DRIVER_OK);
        return k < 0 ? vhk_drvdev_story(d, k, ret_e) : 0;
}

static const struct vhk_drvdev_kind kind = {
        .rule = "blk.open", .what = "the disk", .options = "struct vhk_blk_options", .virtio_id = VIRTIO_ID,
        .size = sizeof(struct vhk_blk), .options_size = sizeof(struct vhk_blk_options),
        .prepare = prepare, .bring_up = bring_up, .refresh = vhk_blk_refresh, .stop = stop_queues,
};

VHK_API int vhk_blk_open(const char *spec, const struct vhk_blk_options *o, struct vhk_blk **ret_b, struct vhk_error *ret_e) {
        struct vhk_blk_options own;
        struct vhk_drvdev *d;

        int k = vhk_drvdev_open(&kind, spec, o, &own, &d, ret_e);
        if (k == 0)
                *ret_b = blk_of(d);
        return k;
}

VHK_API struct vhk_blk *vhk_blk_close(struct vhk_blk *b) {
        return vhk_drvdev_close(b ? &b->d : NULL);
}

/* ---- what the disk says ---- */

static uint32_t bytes_of(uint64_t sectors) {
        return (uint32_t)VHK_MIN(sectors * VHK_BLK_SECTOR, (uint64_t)(UINT32_MAX & ~(VHK_BLK_SECTOR - 1)));
}

static void describe(struct vhk_blk *b, struct vhk_blk_info *i) {
        const struct vhk_blk_config *c = &b->config;
        uint64_t physical = c->physical_exp < 16 ? (uint64_t)b->block_size << c->physical_exp : b->block_size;

        i->capacity = b->capacity;
        i->features = b->d.features;
        i->block_size = b->block_size;
        i->physical_block_size = physical <= UINT32_MAX ? (uint32_t)physical : b->block_size;
        i->min_io_size = (uint32_t)VHK_MIN(c->min_io * b->block_size, (uint64_t)UINT32_MAX);
        i->opt_io_size = (uint32_t)VHK_MIN(c->opt_io * b->block_size, (uint64_t)UINT32_MAX);
        i->max_segment_size = b->max_segment;
        i->max_segments = b->max_segments;
        i->max_discard_bytes = bytes_of(c->discard_sectors);
        i->max_discard_segments = (uint32_t)c->discard_segments;
        i->discard_alignment = bytes_of(c->discard_alignment);
        i->max_write_zeroes_bytes = bytes_of(c->zeroes_sectors);
        i->max_write_zeroes_segments = (uint32_t)c->zeroes_segments;
        i->read_only = b->read_only;
        i->writeback = vhk_blk_has(b, VHK_BLK_F_CONFIG_WCE) ? !!c->writeback : vhk_blk_has(b, VHK_BLK_F_FLUSH);
        i->write_zeroes_may_unmap = !!c->zeroes_unmap;
        i->n_queues = (uint16_t)n_device_queues(b);
}

VHK_API int vhk_blk_get_info(struct vhk_blk *b, struct vhk_blk_info *ret_i) {
        struct vhk_blk_info i = { .size = sizeof(i) };

        vhk_drvdev_look_after(&b->d);
        int k = vhk_drvdev_lock(&b->d);
        if (k < 0)
                return k;
        describe(b, &i);
        vhk_drvdev_unlock(&b->d);
        vhk_drvdev_leave(&b->d);
        return VHK_STRUCT_GIVE(ret_i, &i);
}

VHK_API struct vhk_frontend *vhk_blk_get_frontend(struct vhk_blk *b) {
        return b->d.f;
}

VHK_API int vhk_blk_set_writeback(struct vhk_blk *b, int on) {
        uint8_t value = !!on;

        if (!vhk_blk_has(b, VHK_BLK_F_CONFIG_WCE))
                return -EOPNOTSUPP;
        int k = vhk_drvdev_lock(&b->d);
        if (k < 0)
                return k;
        k = vhk_frontend_set_config(b->d.f, WRITEBACK_OFF, &value, 1, VHK_CONFIG_DRIVER);
        if (k == 0) {
                b->d.config_stale = true;
                k = vhk_blk_refresh(&b->d);
        }
        vhk_drvdev_unlock(&b->d);
        vhk_drvdev_leave(&b->d);
        return k;
}
