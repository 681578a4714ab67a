/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The block device as control sees it: opening, feature bits, configuration space (virtio 1.3, 5.2.3-5.2.5), and the life
 * of its rings. What requests do is in blk-request.c.
 *
 * Invariant: but for the host and the atomics of struct vhk_blkdev nothing here changes once vhk_blkdev_open() has returned.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdio.h>

#include "base/error.h"
#include "base/struct.h"
#include "device/blk.h"

/* ---- open ---- */

static int blk_check_options(const struct vhk_blkdev_options *o, struct vhk_error *ret_e) {
        if (o->engine > VHK_BLKDEV_NULL)
                return vhk_error_set(ret_e, -EINVAL, "blk.engine", "engine %d does not exist", (int)o->engine);
        if (!o->path && o->engine != VHK_BLKDEV_NULL)
                return vhk_error_set(ret_e, -EINVAL, "blk.path", "a file is needed (only the null engine does without)");
        if (o->capacity && o->engine != VHK_BLKDEV_NULL)
                return vhk_error_set(ret_e, -EINVAL, "blk.capacity", "a size can be chosen for the null engine only: a file has its own");
        if (!o->path && !o->capacity)
                return vhk_error_set(ret_e, -EINVAL, "blk.capacity", "the null engine needs a size or a file");
        if (o->serial && strlen(o->serial) > BLK_SERIAL_LEN)
                return vhk_error_set(ret_e, -EINVAL, "blk.serial", "serial \"%.40s\" is longer than %u bytes", o->serial, BLK_SERIAL_LEN);
        if (o->block_size && (!vhk_is_pow2(o->block_size) || o->block_size < BLK_SECTOR || o->block_size > 1 << 16))
                return vhk_error_set(ret_e, -EINVAL, "blk.block-size", "logical block size %u: must be a power of two from 512 to 65536",
                                     o->block_size);
        if (o->n_queues > 256)
                return vhk_error_set(ret_e, -EINVAL, "blk.n-queues", "%u queues: at most 256", o->n_queues);
        if (o->queue_size && (!vhk_is_pow2(o->queue_size) || o->queue_size > 32768))
                return vhk_error_set(ret_e, -EINVAL, "blk.queue-size", "queue size %u: must be a power of two, at most 32768", o->queue_size);
        return 0;
}

#if !HAVE_LIBURING
const struct blk_engine blk_engine_uring = { .name = "io_uring" };
int blk_uring_probe(void) { return -EOPNOTSUPP; }
#endif

static int blk_choose_engine(struct vhk_blkdev *d, enum vhk_blkdev_engine want, struct vhk_error *ret_e) {
        int k;

        d->kind = want;
        d->may_fall_back = want == VHK_BLKDEV_AUTO;
        if (want == VHK_BLKDEV_NULL) {
                d->engine = &blk_engine_null;
                return 0;
        }
        d->engine = &blk_engine_sync;
        if (want == VHK_BLKDEV_SYNC)
                return 0;
        k = blk_uring_probe();
        if (k >= 0) {
                d->engine = &blk_engine_uring;
                d->kind = VHK_BLKDEV_IO_URING;
                return 0;
        }
        const char *why = HAVE_LIBURING ? strerror(-k) : "built without liburing";
        if (want == VHK_BLKDEV_IO_URING)
                return vhk_error_set(ret_e, k, "blk.engine", "the io_uring engine is not to be had: %s", why);
        vhk_log(&d->log, VHK_LOG_WARNING, "io_uring is not to be had (%s): the sync engine serves", why);
        d->kind = VHK_BLKDEV_SYNC;
        return 0;
}

static int blk_set_geometry(struct vhk_blkdev *d, const struct vhk_blkdev_options *o, struct vhk_error *ret_e) {
        const char *name = o->path ? o->path : "the null disk";
        uint64_t size = o->capacity ? o->capacity : d->file.size;

        d->block_size = o->block_size ? o->block_size : VHK_MAX(d->file.sector, d->file.align);
        if (d->direct && d->block_size < d->file.align)
                return vhk_error_set(ret_e, -EINVAL, "blk.block-size", "%s: direct I/O needs a logical block size of %u at least",
                                     name, d->file.align);
        if (!size)
                return vhk_error_set(ret_e, -EINVAL, "blk.size", "%s: is empty", name);
        if (size % d->block_size)
                return vhk_error_set(ret_e, -EINVAL, "blk.size", "%s: its size of %llu bytes is not a multiple of the logical block size (%u)",
                                     name, (unsigned long long)size, d->block_size);
        if (size > INT64_MAX)
                return vhk_error_set(ret_e, -EINVAL, "blk.size", "%s: %llu bytes are more than a file can have", name,
                                     (unsigned long long)size);
        d->capacity = size / BLK_SECTOR;
        return 0;
}

static int blk_alloc_zeroes(struct vhk_blkdev *d) {
        d->zeroes = aligned_alloc(BLK_ZERO_BYTES, BLK_ZERO_BYTES);
        if (!d->zeroes)
                return -ENOMEM;
        memset(d->zeroes, 0, BLK_ZERO_BYTES);
        for (unsigned i = 0; i < BLK_N_ZERO_IOV; i++)
                d->zero_iov[i] = (struct iovec){ d->zeroes, BLK_ZERO_BYTES };
        return 0;
}

VHK_API struct vhk_blkdev *vhk_blkdev_close(struct vhk_blkdev *d) {
        if (!d)
                return NULL;
        vhk_close(&d->file.fd);
        pthread_mutex_destroy(&d->lock.mutex);
        pthread_mutex_destroy(&d->urings_mutex);
        free(d->zeroes);
        free(d);
        return NULL;
}

VHK_API int vhk_blkdev_open(const struct vhk_blkdev_options *theirs, struct vhk_blkdev **ret_d, struct vhk_error *ret_e) {
        struct vhk_blkdev_options own = { .size = sizeof(own) };
        const struct vhk_blkdev_options *o = &own;
        struct vhk_blkdev *d;
        int k;

        if (!theirs || !ret_d)
                return -EINVAL;
        k = VHK_STRUCT_TAKE(&own, theirs, engine);
        if (k < 0)
                return vhk_error_set(ret_e, k, "blk.options", "struct vhk_blkdev_options: size is not set, or a member is used that is not known here");
        k = blk_check_options(o, ret_e);
        if (k < 0)
                return k;
        d = calloc(1, sizeof(*d));
        if (!d)
                return vhk_error_set(ret_e, -ENOMEM, "blk.memory", "out of memory");
        d->file = (struct blk_file){ .fd = -1, .align = 1, .sector = BLK_SECTOR, .physical = VHK_PAGE };
        pthread_mutex_init(&d->lock.mutex, NULL);
        pthread_mutex_init(&d->urings_mutex, NULL);
        d->log = (struct vhk_log){ o->log, o->log_arg, NULL };
        d->read_only = o->read_only;
        d->direct = o->direct && o->engine != VHK_BLKDEV_NULL;
        d->writeback = d->indirect = 1;
        d->n_queues = o->n_queues ? o->n_queues : 1;
        d->queue_size = o->queue_size ? o->queue_size : 128;
        if (o->serial)
                memcpy(d->serial, o->serial, strlen(o->serial));
        k = o->path ? blk_file_open(o, &d->file, ret_e) : 0;
        if (k >= 0)
                k = blk_set_geometry(d, o, ret_e);
        if (k >= 0)
                k = blk_choose_engine(d, o->engine, ret_e);
        if (k >= 0 && (k = blk_alloc_zeroes(d)) < 0)
                vhk_error_set(ret_e, k, "blk.memory", "out of memory");
        if (k < 0) {
                vhk_blkdev_close(d);
                return k;
        }
        *ret_d = d;
        return 0;
}

VHK_API enum vhk_blkdev_engine vhk_blkdev_get_engine(const struct vhk_blkdev *d) {
        return d->kind;
}

VHK_API uint64_t vhk_blkdev_get_capacity(const struct vhk_blkdev *d) {
        return vhk_load_relaxed(&d->capacity) * BLK_SECTOR;
}

/* ---- resize ---- */

/* A file that grows while it is copied ends anywhere: the disk ends with the last whole block. */
VHK_API int vhk_blkdev_refresh(struct vhk_blkdev *d, struct vhk_error *ret_e) {
        uint64_t old = d->capacity, size = 0;

        if (d->file.fd < 0)             /* the null engine's disk has the size that it was given */
                return 0;
        int k = blk_file_get_size(&d->file, &size);
        if (k < 0)
                return vhk_error_set(ret_e, k, "blk.size", "the size of the disk cannot be had: %s", strerror(-k));
        uint64_t new = size / d->block_size * (d->block_size / BLK_SECTOR);
        if (new == old)
                return 0;
        if (!new || size > INT64_MAX)
                return vhk_error_set(ret_e, -EINVAL, "blk.size", "the disk has %llu bytes now: it stays as it was",
                                     (unsigned long long)size);
        vhk_store_relaxed(&d->capacity, new);
        k = d->host ? vhk_host_config_changed(d->host) : 0;
        vhk_log(&d->log, new < old ? VHK_LOG_WARNING : VHK_LOG_INFO, "the disk has %s from %llu to %llu bytes%s", new < old ? "shrunk" : "grown",
                (unsigned long long)(old * BLK_SECTOR), (unsigned long long)(new * BLK_SECTOR),
                k < 0 ? " (the front-end cannot be notified of it)" : "");
        return 1;
}

/* ---- features and configuration space ---- */

static uint64_t blk_features(const struct vhk_blkdev *d) {
        uint64_t f = VHK_BIT(VIRTIO_BLK_F_SEG_MAX) | VHK_BIT(VIRTIO_BLK_F_BLK_SIZE) | VHK_BIT(VIRTIO_BLK_F_TOPOLOGY) |
                     VHK_BIT(VIRTIO_BLK_F_FLUSH) | VHK_BIT(VIRTIO_BLK_F_CONFIG_WCE) | VHK_BIT(VIRTIO_BLK_F_MQ);

        if (d->read_only)
                f |= VHK_BIT(VIRTIO_BLK_F_RO);
        else
                f |= VHK_BIT(VIRTIO_BLK_F_DISCARD) | VHK_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
        return f;
}

static int blk_attach(void *dev, struct vhk_host *host) {
        ((struct vhk_blkdev *)dev)->host = host;
        return 0;
}

/*
 * The cache mode (5.2.5). Neither FLUSH nor CONFIG_WCE: the driver takes the cache for
 * write-through; CONFIG_WCE without FLUSH: writeback is 0 at first. Before there is a choice the
 * cache is reported as write-back: QEMU reads the configuration once, when it connects for the
 * first time, and shows that to its guest.
 *
 * A driver that wrote 0 to writeback relies on it until a driver writes 1, and the device cannot
 * know when another driver takes over: QEMU sends status 0 (newer ones RESET_DEVICE too) for a
 * reboot of its guest and for "stop" and "cont", and in both cases goes on showing its guest the
 * value that it remembers. So the choice survives every reset; 5.2.5 allows either mode after one.
 * It also survives the connection, for QEMU connects again without reading the configuration. It
 * ends when a later front-end reads writeback before it starts a queue: that one has seen the mode,
 * and passes it on.
 */
static int blk_negotiated(void *dev, uint64_t features) {
        struct vhk_blkdev *d = dev;

        if (d->is_inherited)
                vhk_log(&d->log, VHK_LOG_INFO, "the driver of an earlier connection chose write-through, and this front-end did not "
                        "read the cache mode: it stays");
        d->is_inherited = false;
        vhk_store_relaxed(&d->writeback, !d->write_through && (features & VHK_BIT(VIRTIO_BLK_F_FLUSH)));
        vhk_store_relaxed(&d->indirect, !!(features & VHK_BIT(VIRTIO_RING_F_INDIRECT_DESC)));
        return 0;
}

static void blk_set_write_through(struct vhk_blkdev *d, bool on) {
        d->write_through = on;
        d->is_inherited = false;
        vhk_store_relaxed(&d->writeback, !on);
}

static void blk_disconnected(void *dev) {
        struct vhk_blkdev *d = dev;

        d->is_inherited = d->write_through;
}

/* Data segments of a request; header and status take a descriptor each. Without indirect
 * descriptors a request must fit into the ring, whose size is the front-end's choice: where it was
 * smaller than ours once, it will be again. */
static uint32_t blk_seg_max(const struct vhk_blkdev *d) {
        uint32_t size = d->queue_size, seen = vhk_load_relaxed(&d->ring_size);

        if (!vhk_load_relaxed(&d->indirect) && seen)
                size = VHK_MIN(size, seen);
        return size > 3 ? VHK_MIN(size - 2, BLK_SEG_MAX) : 1;
}

static void blk_fill_config(const struct vhk_blkdev *d, struct blk_config *ret_c) {
        unsigned n = d->file.physical > d->block_size ? d->file.physical / d->block_size : 1;

        *ret_c = (struct blk_config){
                .capacity = vhk_le64_of(vhk_load_relaxed(&d->capacity)),
                .seg_max = vhk_le32_of(blk_seg_max(d)),
                .blk_size = vhk_le32_of(d->block_size),
                .physical_block_exp = (uint8_t)__builtin_ctz(n),
                .min_io_size = vhk_le16_of((uint16_t)n),
                .writeback = (uint8_t)vhk_load_relaxed(&d->writeback),
                .num_queues = vhk_le16_of(d->n_queues),
        };
        if (d->read_only)
                return;
        ret_c->max_discard_sectors = vhk_le32_of(BLK_MAX_DISCARD_SECTORS);
        ret_c->max_discard_seg = ret_c->max_write_zeroes_seg = vhk_le32_of(BLK_MAX_SEGMENTS);
        ret_c->discard_sector_alignment = vhk_le32_of(n * d->block_size / BLK_SECTOR);
        ret_c->max_write_zeroes_sectors = vhk_le32_of(BLK_MAX_ZEROES_SECTORS);
        ret_c->write_zeroes_may_unmap = 1;
}

static bool blk_covers_writeback(uint32_t off, uint32_t n) {
        const uint32_t at = offsetof(struct blk_config, writeback);

        return off <= at && at - off < n;
}

static int blk_get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        struct vhk_blkdev *d = dev;
        struct blk_config c;

        if (!vhk_range_within(off, n, sizeof(c)))
                return -EINVAL;
        if (d->is_inherited && blk_covers_writeback(off, n))
                blk_set_write_through(d, false);
        blk_fill_config(d, &c);
        memcpy(buf, (uint8_t *)&c + off, n);
        return 0;
}

/* Only writeback may change; a longer write must leave the rest as it is. */
static int blk_set_config(void *dev, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        struct vhk_blkdev *d = dev;
        struct blk_config old, new;

        if (!vhk_range_within(off, n, sizeof(old)))
                return -EINVAL;
        blk_fill_config(d, &old);
        new = old;
        memcpy((uint8_t *)&new + off, buf, n);
        if (new.writeback > 1)
                return -EINVAL;
        old.writeback = new.writeback;
        if (memcmp(&old, &new, sizeof(old)))
                return -EINVAL;
        if (blk_covers_writeback(off, n))
                blk_set_write_through(d, !new.writeback);
        return 0;
}

static void blk_reset(void *dev) {
        struct vhk_blkdev *d = dev;

        vhk_store_relaxed(&d->writeback, !d->write_through);
        vhk_store_relaxed(&d->indirect, 1u);
}

/* ---- migration: little is ours alone, for the disk is shared and the configuration is not sent ---- */

struct blk_state {
        char magic[8];
        vhk_le32 version, block_size;
        vhk_le64 capacity;
        uint8_t writeback, unused[7];
};
static_assert(sizeof(struct blk_state) == 32, "the saved state of a disk");

static struct blk_state blk_state_of(const struct vhk_blkdev *d) {
        return (struct blk_state){
                .magic = "vhk-blk", .version = vhk_le32_of(1), .block_size = vhk_le32_of(d->block_size),
                .capacity = vhk_le64_of(vhk_load_relaxed(&d->capacity)), .writeback = (uint8_t)vhk_load_relaxed(&d->writeback),
        };
}

static int blk_save_state(void *dev, void **ret_data, size_t *ret_n) {
        struct blk_state *s = malloc(sizeof(*s));

        if (!s)
                return -ENOMEM;
        *s = blk_state_of(dev);
        *ret_data = s;
        *ret_n = sizeof(*s);
        return 0;
}

/* Of a disk of the same size, or it would be another. */
static int blk_load_state(void *dev, const void *data, size_t n) {
        struct vhk_blkdev *d = dev;
        struct blk_state s, own = blk_state_of(d);

        if (n != sizeof(s))
                return -EINVAL;
        memcpy(&s, data, n);
        own.writeback = s.writeback;
        if (s.writeback > 1 || memcmp(&s, &own, sizeof(s)))
                return -EINVAL;
        blk_set_write_through(d, !s.writeback);
        return 0;
}

/* ---- the rings: on their homes ---- */

static void blk_queue_free(struct blk_queue *bq) {
        free(bq->bounce_memory);
        free(bq);
}

static int blk_queue_alloc_bounces(struct blk_queue *bq) {
        bq->bounce_memory = aligned_alloc(BLK_BOUNCE_BYTES, (size_t)BLK_N_BOUNCES * BLK_BOUNCE_BYTES);
        if (!bq->bounce_memory)
                return -ENOMEM;
        for (unsigned i = 0; i < BLK_N_BOUNCES; i++)
                bq->bounces[i] = (uint8_t *)bq->bounce_memory + (size_t)i * BLK_BOUNCE_BYTES;
        bq->n_bounces = BLK_N_BOUNCES;
        return 0;
}

/* The disk's engine, or the sync engine if this one was not asked for. */
static int blk_queue_start_engine(struct blk_queue *bq) {
        struct vhk_blkdev *d = bq->d;
        unsigned i = vhk_queue_get_index(bq->q);
        int ret;

        bq->engine = d->engine;
        ret = bq->engine->start ? bq->engine->start(bq) : 0;
        if (ret >= 0)
                return ret;
        if (!d->may_fall_back) {
                vhk_log(&d->log, VHK_LOG_ERROR, "queue %u: the %s engine cannot start: %s (with engine \"auto\" the sync engine would serve)", i,
                        d->engine->name, strerror(-ret));
                return ret;
        }
        if (__atomic_fetch_add(&d->n_fallbacks, 1, __ATOMIC_RELAXED) < 4)
                vhk_log(&d->log, VHK_LOG_WARNING, "queue %u: the %s engine cannot start (%s): the sync engine serves this queue", i,
                        d->engine->name, strerror(-ret));
        bq->engine = &blk_engine_sync;
        return 0;
}

/* A ring starts that is smaller than any before: a driver without indirect descriptors may have
 * read a seg_max of more segments than fit. */
void blk_note_ring_size(struct vhk_blkdev *d, uint32_t size) {
        uint32_t seen = vhk_load_relaxed(&d->ring_size), before = blk_seg_max(d);

        do
                if (seen && seen <= size)
                        return;
        while (!__atomic_compare_exchange_n(&d->ring_size, &seen, size, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
        if (blk_seg_max(d) == before)
                return;
        int ret = d->host ? vhk_host_config_changed(d->host) : 0;
        vhk_log(&d->log, VHK_LOG_WARNING, "a ring of %u entries without indirect descriptors: seg_max is %u from now on, not %u%s", size,
                blk_seg_max(d), before, ret < 0 ? " (the front-end cannot be notified of it)" : "");
}

static int blk_queue_start(void *dev, struct vhk_queue *q, struct vhk_worker *home) {
        struct vhk_blkdev *d = dev;
        struct blk_queue *bq = calloc(1, sizeof(*bq));
        int k = bq ? 0 : -ENOMEM;

        if (!bq)
                return k;
        bq->d = d;
        bq->q = q;
        bq->home = home;
        bq->wait_tail = &bq->wait;
        bq->burst = 4;                  /* it grows when the disk turns out to be fast */
        if (d->direct)
                k = blk_queue_alloc_bounces(bq);
        if (k >= 0)
                k = blk_queue_start_engine(bq);
        if (k >= 0) {
                k = blk_lock_enter(bq);
                if (k < 0 && bq->engine->stop)
                        bq->engine->stop(bq);
        }
        if (k < 0) {
                blk_queue_free(bq);             /* who serves it logs that the queue did not start */
                return k;
        }
        vhk_queue_set_priv(q, bq);
        vhk_queue_set_holes(q, true);
        blk_note_ring_size(d, vhk_queue_get_size(q));
        return 0;
}

static void blk_queue_run_op(void *dev, struct vhk_queue *q) {
        struct blk_queue *bq = vhk_queue_get_priv(q);

        if (vhk_likely(!bq->waits))
                blk_queue_run(dev, q);
}

static void blk_queue_stop(void *dev, struct vhk_queue *q, enum vhk_stop how) {
        struct blk_queue *bq = vhk_queue_get_priv(q);

        if (bq && how == VHK_STOP_SUSPEND)
                blk_suspend(bq);
}

static void blk_queue_run_null_op(void *dev, struct vhk_queue *q) {
        blk_queue_run_null(dev, q);
}

static void blk_queue_stopped(void *dev, struct vhk_queue *q) {
        struct blk_queue *bq = vhk_queue_get_priv(q);

        if (!bq)
                return;
        if (bq->engine->stop)
                bq->engine->stop(bq);
        blk_lock_leave(bq);
        vhk_queue_set_priv(q, NULL);
        blk_queue_free(bq);
}

VHK_API int vhk_blkdev_get_ops(const struct vhk_blkdev *d, struct vhk_device_ops *ret_ops) {
        if (!d || !ret_ops)
                return -EINVAL;
        return VHK_STRUCT_GIVE(ret_ops, (&(struct vhk_device_ops){
                .size = sizeof(*ret_ops),
                .virtio_id = 2,
                .n_queues = d->n_queues,
                .queue_size_max = d->queue_size,
                .req_size = sizeof(struct blk_req),
                .config_len = sizeof(struct blk_config),
                .threads = VHK_THREADS_PER_QUEUE,
                .disabled = VHK_DISABLED_HOLD,
                .features = blk_features(d),
                .attach = blk_attach,
                .negotiated = blk_negotiated,
                .get_config = blk_get_config,
                .set_config = blk_set_config,
                .queue_start = blk_queue_start,
                .queue_run = d->engine == &blk_engine_null ? blk_queue_run_null_op : blk_queue_run_op,
                .queue_stop = blk_queue_stop,
                .queue_stopped = blk_queue_stopped,
                .reset = blk_reset,
                .save_state = blk_save_state,
                .load_state = blk_load_state,
                .disconnected = blk_disconnected,
        }));
}
