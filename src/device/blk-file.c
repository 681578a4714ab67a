/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Opening what the disk is made of, and finding out what must be known of it: size, physical block size, and what direct
 * I/O demands. On control, before anything is served; everything that can be refused is refused here.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/error.h"
#include "device/blk.h"

/* The alignment that direct I/O demands, found by trying: a read of n bytes to an address that is a multiple of n, but not of 2n. */
static int blk_file_probe_align(int fd, uint32_t *ret_align) {
        VHK_AUTOFREE uint8_t *p = aligned_alloc(1 << 16, 1 << 17);

        if (!p)
                return -ENOMEM;
        for (uint32_t a = BLK_SECTOR; a <= 1 << 15; a *= 2) {
                ssize_t k;
                do
                        k = pread(fd, p + a, a, 0);
                while (k < 0 && errno == EINTR);
                if (k >= 0) {
                        *ret_align = a;
                        return 0;
                }
                if (errno != EINVAL)
                        return vhk_errno();
        }
        return -EINVAL;
}

int blk_file_get_size(const struct blk_file *f, uint64_t *ret_size) {
        struct stat st;

        if ((f->is_block ? ioctl(f->fd, BLKGETSIZE64, ret_size) : fstat(f->fd, &st)) < 0)
                return vhk_errno();
        if (!f->is_block)
                *ret_size = (uint64_t)st.st_size;
        return 0;
}

static int blk_file_measure(struct blk_file *f, const struct stat *st) {
        unsigned physical = 0;

        int sector = 0;

        f->is_block = S_ISBLK(st->st_mode);
        int k = blk_file_get_size(f, &f->size);
        if (k < 0)
                return k;
        if (!f->is_block)
                f->physical = (uint32_t)st->st_blksize;
        else
                f->physical = ioctl(f->fd, BLKPBSZGET, &physical) < 0 ? BLK_SECTOR : physical;
        if (f->is_block && ioctl(f->fd, BLKSSZGET, &sector) >= 0 && sector > (int)BLK_SECTOR && sector <= 1 << 16 &&
            vhk_is_pow2((uint64_t)sector))
                f->sector = (uint32_t)sector;
        if (!vhk_is_pow2(f->physical) || f->physical < BLK_SECTOR || f->physical > 1 << 16)
                f->physical = VHK_PAGE;
        return 0;
}

int blk_file_open(const struct vhk_blkdev_options *o, struct blk_file *ret_f, struct vhk_error *ret_e) {
        struct blk_file f = { .fd = -1, .align = 1, .sector = BLK_SECTOR, .physical = VHK_PAGE };
        int flags = (o->read_only ? O_RDONLY : O_RDWR) | (o->direct ? O_DIRECT : 0) | O_CLOEXEC;
        struct stat st;
        int k;

        /* asked before open(2): opening a FIFO would wait, and a directory opens for reading */
        if (stat(o->path, &st) < 0)
                return vhk_error_set(ret_e, vhk_errno(), "blk.open", "%s: %s", o->path, strerror(errno));
        if (S_ISDIR(st.st_mode))
                return vhk_error_set(ret_e, -EISDIR, "blk.directory", "%s: is a directory, not a disk image", o->path);
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return vhk_error_set(ret_e, -EINVAL, "blk.kind", "%s: neither a regular file nor a block device", o->path);
        VHK_AUTOCLOSE int fd = open(o->path, flags);
        if (fd < 0 && errno == EINVAL && o->direct)
                return vhk_error_set(ret_e, -EOPNOTSUPP, "blk.direct", "%s: this file system does not do direct I/O", o->path);
        if (fd < 0)
                return vhk_error_set(ret_e, vhk_errno(), "blk.open", "%s: %s%s", o->path, strerror(errno),
                                     o->read_only || errno == ENOENT ? "" : " (for writing)");
        f.fd = fd;
        if (fstat(fd, &st) < 0)
                return vhk_error_set(ret_e, vhk_errno(), "blk.open", "%s: %s", o->path, strerror(errno));
        k = blk_file_measure(&f, &st);
        if (k < 0)
                return vhk_error_set(ret_e, k, "blk.size", "%s: its size cannot be had: %s", o->path, strerror(-k));
        if (o->direct) {
                k = blk_file_probe_align(fd, &f.align);
                if (k < 0)
                        return vhk_error_set(ret_e, k == -EINVAL ? -EOPNOTSUPP : k, "blk.direct",
                                             "%s: direct I/O does not work: %s", o->path, strerror(-k));
        }
        f.fd = VHK_STEAL_FD(fd);
        *ret_f = f;
        return 0;
}
