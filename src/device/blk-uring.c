/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Steps through io_uring: one io_uring per virtqueue, on the virtqueue's home. Submissions of a burst go to the kernel
 * with one system call; what completed at once (the page cache) is reaped in the same burst. Later completions are found
 * by the poller while the worker spins, and by a watch on the io_uring's descriptor while it sleeps.
 *
 * Not IORING_SETUP_SINGLE_ISSUER: a worker's thread is whoever dispatches it, and that may change.
 */
#include <fcntl.h>
#include <liburing.h>
#include <sys/epoll.h>

#include "device/blk.h"

struct blk_uring {
        struct io_uring ring;
        struct vhk_watch *watch;
        struct vhk_timer *retry;        /* the kernel was short of memory: submit again */
        struct vhk_poller poller;
        struct blk_queue *bq;
};

#define BLK_URING_REAP 64u
#define BLK_URING_RETRY_NS 1000000u

static int blk_uring_init(struct io_uring *u, unsigned n) {
        struct io_uring_params p = { .flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG };
        int k = io_uring_queue_init_params(n, u, &p);

        if (k == -EINVAL) {             /* before Linux 5.19 */
                p = (struct io_uring_params){ 0 };
                k = io_uring_queue_init_params(n, u, &p);
        }
        if (k < 0)
                return k;
        if (!(p.features & IORING_FEAT_SUBMIT_STABLE) || !(p.features & IORING_FEAT_NODROP)) {
                io_uring_queue_exit(u);
                return -EOPNOTSUPP;
        }
        return 0;
}

int blk_uring_probe(void) {
        static const int ops[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE };
        struct io_uring u;
        int k = blk_uring_init(&u, 2);

        if (k < 0)
                return k;
        struct io_uring_probe *p = io_uring_get_probe_ring(&u);
        for (unsigned i = 0; i < VHK_N(ops); i++)
                if (!p || !io_uring_opcode_supported(p, ops[i]))
                        k = -EOPNOTSUPP;
        io_uring_free_probe(p);
        io_uring_queue_exit(&u);
        return k;
}

static struct io_uring_sqe *blk_uring_get_sqe(struct blk_uring *e) {
        struct io_uring_sqe *s = io_uring_get_sqe(&e->ring);

        if (s)
                return s;
        io_uring_submit(&e->ring);      /* full; what fails here is submitted again by kick */
        return io_uring_get_sqe(&e->ring);
}

static int64_t blk_uring_submit(struct blk_queue *bq, struct vhk_req *r) {
        struct blk_uring *e = bq->engine;
        struct blk_req *b = r->priv;
        int fd = bq->d->file.fd;
        struct io_uring_sqe *s = b->step == BLK_DISCARD ? NULL : blk_uring_get_sqe(e);

        if (!s)
                return blk_execute(bq->d, b);
        switch (b->step) {
        case BLK_READ:
                if (b->n_iov == 1)
                        io_uring_prep_read(s, fd, b->iov->iov_base, (unsigned)b->iov->iov_len, b->step_off);
                else
                        io_uring_prep_readv(s, fd, b->iov, b->n_iov, b->step_off);
                break;
        case BLK_WRITE:
                if (b->n_iov == 1)
                        io_uring_prep_write(s, fd, b->iov->iov_base, (unsigned)b->iov->iov_len, b->step_off);
                else
                        io_uring_prep_writev(s, fd, b->iov, b->n_iov, b->step_off);
                if (b->dsync && !vhk_load_relaxed(&bq->d->no_dsync))
                        s->rw_flags = RWF_DSYNC;
                break;
        case BLK_WRITE_ZEROES:
                io_uring_prep_writev(s, fd, b->iov, b->n_iov, b->step_off);
                break;
        case BLK_SYNC:
                io_uring_prep_fsync(s, fd, IORING_FSYNC_DATASYNC);
                break;
        case BLK_PUNCH:
                io_uring_prep_fallocate(s, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)b->step_off, (off_t)b->step_len);
                break;
        default:
                io_uring_prep_fallocate(s, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)b->step_off, (off_t)b->step_len);
                break;
        }
        io_uring_sqe_set_data(s, r);
        return -EINPROGRESS;
}

/* Answers what has completed; how many steps that were. Steps that follow are queued, not yet submitted. */
static unsigned blk_uring_reap(struct blk_queue *bq) {
        struct blk_uring *e = bq->engine;
        struct io_uring_cqe *c[BLK_URING_REAP];
        struct { struct vhk_req *r; int result; } done[BLK_URING_REAP];
        unsigned n = io_uring_peek_batch_cqe(&e->ring, c, BLK_URING_REAP);

        for (unsigned i = 0; i < n; i++) {
                done[i].r = io_uring_cqe_get_data(c[i]);
                done[i].result = c[i]->res;
        }
        io_uring_cq_advance(&e->ring, n);
        for (unsigned i = 0; i < n; i++)
                if (vhk_likely(done[i].r))      /* none: that of blk_uring_cancel() */
                        blk_continue(bq, done[i].r, done[i].result);
        if (n)
                blk_wake(bq);
        return n;
}

/* Submits and reaps until nothing moves any more; steps completed. */
static unsigned blk_uring_work(struct blk_queue *bq) {
        struct blk_uring *e = bq->engine;
        unsigned n, total = 0;

        do {
                int k = 0;
                while (io_uring_sq_ready(&e->ring) && ((k = io_uring_submit(&e->ring)) > 0 || k == -EINTR))
                        ;
                if (!io_uring_sq_ready(&e->ring))
                        bq->n_arena = 0;        /* the kernel has its own copies (IORING_FEAT_SUBMIT_STABLE) */
                else
                        vhk_timer_set(e->retry, BLK_URING_RETRY_NS);
                n = blk_uring_reap(bq);
                total += n;
        } while (n);
        return total;
}

static void blk_uring_kick(struct blk_queue *bq) {
        blk_uring_work(bq);
}

/* Asks the kernel to give back what it has not begun; answers come as always, and the asking itself is answered too. */
static void blk_uring_cancel(struct blk_queue *bq) {
        struct blk_uring *e = bq->engine;
        struct io_uring_sqe *s = blk_uring_get_sqe(e);

        if (s) {
                io_uring_prep_cancel(s, NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
                io_uring_sqe_set_data(s, NULL);
        }
        blk_uring_work(bq);
        vhk_queue_flush(bq->q);
}

static int blk_uring_poll(struct vhk_poller *p) {
        struct blk_queue *bq = vhk_container_of(p, struct blk_uring, poller)->bq;
        struct blk_uring *e = bq->engine;
        unsigned n = 0;

        /* one look at shared memory where there is nothing: spinning is to be cheap */
        if (io_uring_cq_ready(&e->ring) || (vhk_load_relaxed(e->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)))
                n = blk_uring_work(bq);
        if (n)
                vhk_queue_flush(bq->q);
        return (int)n;
}

static int blk_uring_arm(struct vhk_poller *p) {
        struct blk_uring *e = vhk_container_of(p, struct blk_uring, poller);

        return io_uring_cq_ready(&e->ring) > 0;         /* the watch is level triggered: nothing can be missed behind this */
}

static void blk_uring_ready(void *arg, uint32_t events) {
        struct blk_queue *bq = arg;

        if (blk_uring_work(bq))
                vhk_queue_flush(bq->q);
}

static void blk_uring_retry(void *arg) {
        blk_uring_ready(arg, 0);
}

static void blk_uring_stop(struct blk_queue *bq) {
        struct blk_uring *e = bq->engine;

        if (!e)
                return;
        if (e->poller.poll)
                vhk_worker_remove_poller(bq->home, &e->poller);
        vhk_watch_free(e->watch);
        vhk_timer_free(e->retry);
        io_uring_queue_exit(&e->ring);
        free(e);
        bq->engine = NULL;
}

static int blk_uring_start(struct blk_queue *bq) {
        unsigned n = vhk_queue_get_size(bq->q);
        struct blk_uring *e = calloc(1, sizeof(*e));
        int k;

        if (!e)
                return -ENOMEM;
        k = blk_uring_init(&e->ring, VHK_MIN(n, 4096u));
        if (k < 0) {
                free(e);
                return k;
        }
        e->bq = bq;
        bq->engine = e;
        k = vhk_worker_watch(bq->home, e->ring.ring_fd, EPOLLIN, blk_uring_ready, bq, &e->watch);
        if (k >= 0)
                k = vhk_worker_timer(bq->home, blk_uring_retry, bq, &e->retry);
        if (k < 0) {
                blk_uring_stop(bq);
                return k;
        }
        e->poller = (struct vhk_poller){ .poll = blk_uring_poll, .arm = blk_uring_arm };
        vhk_worker_add_poller(bq->home, &e->poller);
        return 0;
}

const struct blk_engine blk_engine_uring = {
        .name = "io_uring",
        .start = blk_uring_start,
        .submit = blk_uring_submit,
        .kick = blk_uring_kick,
        .cancel = blk_uring_cancel,
        .stop = blk_uring_stop,
};
