/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Steps through io_uring: one io_uring for all queues of a worker, made when the first of them
 * starts and freed when the last has stopped, so that 256 queues need no more descriptors and
 * memory than there are workers. Submissions of a burst go to the kernel with one system call; what
 * completed at once (the page cache) is reaped in the same burst. Later completions are found by
 * the poller while the worker spins, and by a watch on the io_uring's descriptor while it sleeps.
 *
 * Threads: a struct blk_uring belongs to its worker. The list of them (vhk_blkdev.urings) is shared
 * by all workers, under its mutex, which is taken only when a queue starts or stops.
 *
 * Not IORING_SETUP_SINGLE_ISSUER: a worker's thread is whoever dispatches it, and that may change.
 */
#include <fcntl.h>
#include <liburing.h>
#include <sys/epoll.h>

#include "device/blk.h"

struct blk_uring {
        struct io_uring ring;
        struct vhk_worker *worker;
        struct vhk_watch *watch;
        struct vhk_timer *retry;        /* the kernel was short of memory: submit again */
        struct vhk_poller poller;
        unsigned n_queues;
        struct blk_queue *active;       /* queues with steps queued or completed since the last flush; by bq->next_active */
        struct blk_uring *next;         /* under vhk_blkdev.urings_mutex */
};

#define BLK_URING_ENTRIES 1024u         /* more in flight than twice this is legal (IORING_FEAT_NODROP), and slower */
#define BLK_URING_ENTRIES_MIN 64u
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

/* Before Linux 5.12 an io_uring counts as locked memory, of which there may be little: a small one
 * will do. */
static int blk_uring_init_any(struct io_uring *u) {
        int ret = -ENOMEM;

        for (unsigned n = BLK_URING_ENTRIES; n >= BLK_URING_ENTRIES_MIN && ret == -ENOMEM; n /= 2)
                ret = blk_uring_init(u, n);
        return ret;
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

/* Something of @bq was queued or has completed: its iovecs are free after the next submission, and
 * it is to be flushed. */
static inline void blk_uring_activate(struct blk_uring *e, struct blk_queue *bq) {
        if (bq->is_active)
                return;
        bq->is_active = true;
        bq->next_active = e->active;
        e->active = bq;
}

static struct io_uring_sqe *blk_uring_get_sqe(struct blk_uring *e) {
        struct io_uring_sqe *s = io_uring_get_sqe(&e->ring);

        if (s)
                return s;
        io_uring_submit(&e->ring);      /* full; what fails here is submitted again by kick */
        return io_uring_get_sqe(&e->ring);
}

static int64_t blk_uring_submit(struct blk_queue *bq, struct vhk_req *r) {
        struct blk_uring *e = bq->engine_data;
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
        b->bq = bq;
        blk_uring_activate(e, bq);
        return -EINPROGRESS;
}

/* Answers what has completed; how many steps that were. Steps that follow are queued, not yet submitted. */
static unsigned blk_uring_reap(struct blk_uring *e) {
        struct io_uring_cqe *c[BLK_URING_REAP];
        struct { struct vhk_req *r; int result; } done[BLK_URING_REAP];
        unsigned n = io_uring_peek_batch_cqe(&e->ring, c, BLK_URING_REAP);

        for (unsigned i = 0; i < n; i++) {
                done[i].r = io_uring_cqe_get_data(c[i]);
                done[i].result = c[i]->res;
        }
        io_uring_cq_advance(&e->ring, n);
        for (unsigned i = 0; i < n; i++) {
                if (vhk_unlikely(!done[i].r))           /* that of blk_uring_cancel() */
                        continue;
                struct blk_queue *bq = ((struct blk_req *)done[i].r->priv)->bq;

                blk_uring_activate(e, bq);
                blk_continue(bq, done[i].r, done[i].result);
        }
        for (struct blk_queue *bq = n ? e->active : NULL; bq; bq = bq->next_active)
                blk_wake(bq);
        return n;
}

/* Gives all to the kernel that it takes. */
static void blk_uring_enter(struct blk_uring *e) {
        int k = 0;

        while (io_uring_sq_ready(&e->ring) && ((k = io_uring_submit(&e->ring)) > 0 || k == -EINTR))
                ;
        if (io_uring_sq_ready(&e->ring)) {
                vhk_timer_set(e->retry, BLK_URING_RETRY_NS);
                return;
        }
        for (struct blk_queue *bq = e->active; bq; bq = bq->next_active)
                bq->n_arena = 0;        /* the kernel has its own copies (IORING_FEAT_SUBMIT_STABLE) */
}

/* Flushes the queues that had something to do; those with iovecs that the kernel has not copied yet
 * stay in the list. */
static void blk_uring_flush(struct blk_uring *e) {
        struct blk_queue *bq = VHK_STEAL(e->active), *next;
        bool unsubmitted = io_uring_sq_ready(&e->ring);

        for (; bq; bq = next) {
                next = bq->next_active;
                bq->is_active = false;
                if (unsubmitted)
                        blk_uring_activate(e, bq);
                vhk_queue_flush(bq->q);
        }
}

/* Submits and reaps until nothing moves any more, or for VHK_WORK_NS: what has completed then makes
 * the descriptor readable, and the poller busy. Steps completed. */
static unsigned blk_uring_work(struct blk_uring *e) {
        unsigned n, total = 0, rounds = 0;
        uint64_t start = 0;

        do {
                blk_uring_enter(e);
                if (++rounds == 2)
                        start = vhk_now_ns();
                else if (rounds > 2 && vhk_now_ns() - start >= VHK_WORK_NS)
                        break;
                n = blk_uring_reap(e);
                total += n;
        } while (n);
        blk_uring_flush(e);
        return total;
}

static void blk_uring_kick(struct blk_queue *bq) {
        blk_uring_work(bq->engine_data);
}

/* Asks the kernel to give back what it has not begun; answers come as always, and the asking itself
 * is answered too. Requests of other queues come back as well: they set out again. */
static void blk_uring_cancel(struct blk_queue *bq) {
        struct blk_uring *e = bq->engine_data;
        struct io_uring_sqe *s = blk_uring_get_sqe(e);

        if (s) {
                io_uring_prep_cancel(s, NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
                io_uring_sqe_set_data(s, NULL);
        }
        blk_uring_work(e);
        vhk_queue_flush(bq->q);
}

static int blk_uring_poll(struct vhk_poller *p) {
        struct blk_uring *e = vhk_container_of(p, struct blk_uring, poller);

        /* one look at shared memory where there is nothing: spinning is to be cheap */
        if (io_uring_cq_ready(&e->ring) || (vhk_load_relaxed(e->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)))
                return (int)blk_uring_work(e);
        return 0;
}

static int blk_uring_arm(struct vhk_poller *p) {
        struct blk_uring *e = vhk_container_of(p, struct blk_uring, poller);

        return io_uring_cq_ready(&e->ring) > 0;         /* the watch is level triggered: nothing can be missed behind this */
}

static void blk_uring_ready(void *arg, uint32_t events) {
        blk_uring_work(arg);
}

static void blk_uring_retry(void *arg) {
        blk_uring_work(arg);
}

/* ---- one for each worker ---- */

static struct blk_uring *blk_uring_find(struct vhk_blkdev *d, struct vhk_worker *w) {
        struct blk_uring *e;

        pthread_mutex_lock(&d->urings_mutex);
        for (e = d->urings; e && e->worker != w; e = e->next)
                ;
        pthread_mutex_unlock(&d->urings_mutex);
        return e;
}

static void blk_uring_link(struct vhk_blkdev *d, struct blk_uring *e) {
        pthread_mutex_lock(&d->urings_mutex);
        e->next = d->urings;
        d->urings = e;
        pthread_mutex_unlock(&d->urings_mutex);
}

static void blk_uring_unlink(struct vhk_blkdev *d, struct blk_uring *e) {
        struct blk_uring **p;

        pthread_mutex_lock(&d->urings_mutex);
        for (p = &d->urings; *p && *p != e; p = &(*p)->next)
                ;
        if (*p)
                *p = e->next;
        pthread_mutex_unlock(&d->urings_mutex);
}

static void blk_uring_free(struct blk_uring *e) {
        if (e->poller.poll)
                vhk_worker_remove_poller(e->worker, &e->poller);
        vhk_watch_free(e->watch);
        vhk_timer_free(e->retry);
        io_uring_queue_exit(&e->ring);
        free(e);
}

static int blk_uring_new(struct vhk_worker *w, struct blk_uring **ret_e) {
        struct blk_uring *e = calloc(1, sizeof(*e));
        int ret;

        if (!e)
                return -ENOMEM;
        e->worker = w;
        ret = blk_uring_init_any(&e->ring);
        if (ret < 0) {
                free(e);
                return ret;
        }
        ret = vhk_worker_watch(w, e->ring.ring_fd, EPOLLIN, blk_uring_ready, e, &e->watch);
        if (ret >= 0)
                ret = vhk_worker_timer(w, blk_uring_retry, e, &e->retry);
        if (ret < 0) {
                blk_uring_free(e);
                return ret;
        }
        e->poller = (struct vhk_poller){ .poll = blk_uring_poll, .arm = blk_uring_arm };
        vhk_worker_add_poller(w, &e->poller);
        *ret_e = e;
        return 0;
}

static void blk_uring_stop(struct blk_queue *bq) {
        struct blk_uring *e = bq->engine_data;

        if (!e)
                return;
        for (struct blk_queue **p = &e->active; bq->is_active && *p; p = &(*p)->next_active)
                if (*p == bq) {
                        *p = bq->next_active;
                        bq->is_active = false;
                        break;
                }
        bq->engine_data = NULL;
        if (--e->n_queues)
                return;
        blk_uring_unlink(bq->d, e);
        blk_uring_free(e);
}

static int blk_uring_start(struct blk_queue *bq) {
        struct blk_uring *e = blk_uring_find(bq->d, bq->home);
        int ret;

        if (!e) {
                ret = blk_uring_new(bq->home, &e);
                if (ret < 0)
                        return ret;
                blk_uring_link(bq->d, e);
        }
        e->n_queues++;
        bq->engine_data = e;
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
