/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Steps as plain system calls on the ring's home: the whole of the sync engine, and what other engines fall back to for
 * what they cannot do. The null engine is here as well: it never gets a step.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "device/blk.h"

static int64_t blk_execute_discard(int fd, const struct blk_req *b) {
        uint64_t range[2] = { b->step_off, b->step_len };

        return ioctl(fd, BLKDISCARD, range);
}

static int64_t blk_execute_raw(const struct vhk_blkdev *d, const struct blk_req *b) {
        int fd = d->file.fd, n = (int)b->n_iov;

        switch (b->step) {
        case BLK_READ:
                return n == 1 ? pread(fd, b->iov->iov_base, b->iov->iov_len, (off_t)b->step_off) : preadv(fd, b->iov, n, (off_t)b->step_off);
        case BLK_WRITE:
                if (b->dsync && !vhk_load_relaxed(&d->no_dsync))
                        return pwritev2(fd, b->iov, n, (off_t)b->step_off, RWF_DSYNC);
                return n == 1 ? pwrite(fd, b->iov->iov_base, b->iov->iov_len, (off_t)b->step_off) : pwritev(fd, b->iov, n, (off_t)b->step_off);
        case BLK_WRITE_ZEROES:
                return pwritev(fd, b->iov, n, (off_t)b->step_off);
        case BLK_SYNC:
                return fdatasync(fd);
        case BLK_PUNCH:
                return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)b->step_off, (off_t)b->step_len);
        case BLK_ZERO:
                return fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)b->step_off, (off_t)b->step_len);
        case BLK_DISCARD:
                return blk_execute_discard(fd, b);
        }
        errno = EOPNOTSUPP;
        return -1;
}

int64_t blk_execute(const struct vhk_blkdev *d, const struct blk_req *b) {
        int64_t k = blk_execute_raw(d, b);

        return k < 0 ? vhk_errno() : k;
}

static int64_t blk_sync_submit(struct blk_queue *bq, struct vhk_req *r) {
        int64_t k = blk_execute(bq->d, r->priv);

        bq->n_arena = 0;        /* the kernel is through with them */
        return k;
}

const struct blk_engine blk_engine_sync = { .name = "sync", .submit = blk_sync_submit };
const struct blk_engine blk_engine_null = { .name = "null" };
