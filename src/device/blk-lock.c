/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Who writes to the image: whoever holds its lock. It is taken when the first ring starts and dropped when the last has
 * stopped, so two daemons may have the image open (migration on one host) but only one of them works on it.
 *
 * An open-file-description lock, for it lives as long as any reference to the description: a daemon that was killed still
 * has writes in the block layer, its io_uring holds the file for them, and so the lock goes when the last of them has
 * ended. Only then does its successor do again what was in flight; otherwise an old write could come after a newer one.
 *
 * Nobody blocks: a ring that cannot have the lock leaves its requests where they are and asks again a little later. The
 * mutex is held for one system call.
 */
#include <fcntl.h>

#include "device/blk.h"

#define BLK_LOCK_NS 5000000u            /* between two tries */

static int blk_lock_set(int fd, short type) {
        struct flock l = { .l_type = type, .l_whence = SEEK_SET };      /* the whole file */

        return fcntl(fd, F_OFD_SETLK, &l) < 0 ? vhk_errno() : 0;
}

/* Under the mutex. */
static int blk_lock_try(struct vhk_blkdev *d) {
        struct blk_lock *l = &d->lock;

        if (l->held || d->read_only || d->file.fd < 0)
                return 0;
        int k = blk_lock_set(d->file.fd, F_WRLCK);
        if (k == -EAGAIN || k == -EACCES) {
                if (!l->told)
                        vhk_log(&d->log, VHK_LOG_WARNING, "somebody else works on the image: another disk, or one that was killed and whose requests have "
                                "not ended yet; its requests wait until the lock is free");
                l->told = true;
                return -EAGAIN;
        }
        if (k < 0 && !l->told)
                vhk_log(&d->log, VHK_LOG_WARNING, "the image cannot be locked (%s): nothing keeps others from writing to it", strerror(-k));
        else if (l->told)
                vhk_log(&d->log, VHK_LOG_INFO, "the image is free: its requests go on");
        l->told = k < 0;
        l->held = true;
        return 0;
}

static int blk_lock_try_safely(struct vhk_blkdev *d) {
        pthread_mutex_lock(&d->lock.mutex);
        int k = blk_lock_try(d);
        pthread_mutex_unlock(&d->lock.mutex);
        return k;
}

static void blk_lock_again(void *arg) {
        struct blk_queue *bq = arg;

        if (blk_lock_try_safely(bq->d) < 0) {
                vhk_timer_set(bq->lock_timer, BLK_LOCK_NS);
                return;
        }
        bq->waits = false;
        vhk_queue_resume(bq->q);
}

int blk_lock_enter(struct blk_queue *bq) {
        struct vhk_blkdev *d = bq->d;

        pthread_mutex_lock(&d->lock.mutex);
        d->lock.n_rings++;
        int k = blk_lock_try(d);
        pthread_mutex_unlock(&d->lock.mutex);
        bq->waits = k < 0;
        if (k == 0)
                return 0;
        k = vhk_worker_timer(bq->home, blk_lock_again, bq, &bq->lock_timer);
        if (k >= 0)
                k = vhk_timer_set(bq->lock_timer, BLK_LOCK_NS);
        if (k < 0)
                blk_lock_leave(bq);
        return k;
}

void blk_lock_leave(struct blk_queue *bq) {
        struct vhk_blkdev *d = bq->d;

        bq->lock_timer = vhk_timer_free(bq->lock_timer);
        pthread_mutex_lock(&d->lock.mutex);
        if (--d->lock.n_rings == 0) {
                if (d->lock.held && d->file.fd >= 0 && !d->read_only)
                        (void)blk_lock_set(d->file.fd, F_UNLCK);
                d->lock.held = d->lock.told = false;
        }
        pthread_mutex_unlock(&d->lock.mutex);
}
