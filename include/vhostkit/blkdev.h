/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A disk to serve (libvhostkit-daemon): the virtio block device (virtio 1.3, 5.2) on a file, a block device, or nothing.
 * Hand its operations and itself to vhk_backend_open() or vhk_daemon_run().
 */
#ifndef VHOSTKIT_BLKDEV_H
#define VHOSTKIT_BLKDEV_H

#include <vhostkit/device.h>
#include <vhostkit/error.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_blkdev;

/** Who does the I/O. */
enum vhk_blkdev_engine {
        VHK_BLKDEV_AUTO,        /* io_uring where the kernel and the build have it, else sync */
        VHK_BLKDEV_IO_URING,
        VHK_BLKDEV_SYNC,        /* preadv(2), pwritev(2) on the ring's thread */
        VHK_BLKDEV_NULL,        /* none: every valid request succeeds at once, nothing is read or written */
};

/**
 * struct vhk_blkdev_options - zero it, set @size
 * @path: regular file or block device; may be NULL with VHK_BLKDEV_NULL
 * @serial: what GET_ID answers, at most 20 bytes; NULL: empty
 * @engine: who does the I/O
 * @read_only: 1: the file is opened read-only, writes fail
 * @direct: 1: O_DIRECT; guest buffers that are not aligned bounce
 * @n_queues: 0: 1
 * @queue_size: entries of a ring that the disk is made for: seg_max follows from it. Larger rings
 *              are served, see struct vhk_device_ops; 0: 128
 * @block_size: logical block size, a power of two from 512 to 65536 bytes; 0: that of the block
 *              device, 512 for a file, or what @direct demands
 * @capacity: bytes, with VHK_BLKDEV_NULL; 0: the size of @path
 * @log: state changes and the first I/O errors; called on the rings' threads too; may be NULL
 */
struct vhk_blkdev_options {
        size_t size;
        const char *path, *serial;
        enum vhk_blkdev_engine engine;
        uint8_t read_only, direct;
        uint16_t n_queues, queue_size;
        uint32_t block_size;
        uint64_t capacity;
        vhk_log_fn log;
        void *log_arg;
};

/**
 * vhk_blkdev_open() - open the file and make the disk
 *
 * Return: 0; -EINVAL (options; the size is no multiple of the block size), -EISDIR, -EOPNOTSUPP (engine or direct I/O is
 * not to be had), or what open(2) gives; with the story in @ret_e.
 */
int vhk_blkdev_open(const struct vhk_blkdev_options *o, struct vhk_blkdev **ret_d, struct vhk_error *ret_e);

/** vhk_blkdev_close() - nobody serves it any more; NULL is legal. Returns NULL */
struct vhk_blkdev *vhk_blkdev_close(struct vhk_blkdev *d);

/** vhk_blkdev_get_ops() - its operations, whose "dev" is @d; @ret_ops->size is the caller's. 0, -EINVAL */
int vhk_blkdev_get_ops(const struct vhk_blkdev *d, struct vhk_device_ops *ret_ops);

/** vhk_blkdev_get_engine() - the engine that VHK_BLKDEV_AUTO became */
enum vhk_blkdev_engine vhk_blkdev_get_engine(const struct vhk_blkdev *d);
/** vhk_blkdev_get_capacity() - bytes; on control */
uint64_t vhk_blkdev_get_capacity(const struct vhk_blkdev *d);

/**
 * vhk_blkdev_refresh() - the file may have another size: look, and tell the driver
 *
 * On control. From now on requests beyond the new end fail; what is in flight is not touched. A size that is no multiple of the
 * block size counts down to the last whole block. Return: 1: the capacity changed, 0: it did not; -EINVAL: nothing is left of the
 * file (the disk stays as it was); what fstat(2) gives; with the story in @ret_e.
 */
int vhk_blkdev_refresh(struct vhk_blkdev *d, struct vhk_error *ret_e);

#ifdef __cplusplus
}
#endif

#endif
