/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Synchronous calls on queue 0: any size, from any memory. A call is cut into requests that the disk takes, of which a
 * few are in flight at a time; memory that is not lent is copied through bounce buffers meanwhile. One thread.
 *
 * The first error ends a call when what is in flight has come back. Past the time limit the caller
 * gets -ETIMEDOUT; what is in flight is abandoned then, and the next call waits for it, at most as
 * long again.
 */
#include "driver/blk.h"

#include <limits.h>

struct transfer {
        struct vhk_blk *b;
        struct vhk_blk_queue *q;
        enum vhk_blk_op op;
        uint8_t *buf;
        uint64_t n, off, next, step;    /* next: bytes submitted */
        bool bounce;
        int error;
        /* requests in flight, by lane */
        unsigned n_in_flight;
        bool busy[VHK_BLK_DEPTH];
        uint64_t at[VHK_BLK_DEPTH], len[VHK_BLK_DEPTH];
};

static int wait_ms(const struct vhk_blk *b) {
        return (int)VHK_MIN((b->d.limit_ns + 999999) / 1000000, (uint64_t)INT32_MAX);
}

static int fail_offset(struct vhk_blk *b, int code, const char *what, uint64_t off, uint64_t n) {
        return vhk_drvdev_fail(&b->d, code, "blk.request", "offset %llu, %llu bytes: %s (blocks of %u bytes, capacity %llu bytes)", (unsigned long long)off,
                               (unsigned long long)n, what, b->block_size, (unsigned long long)vhk_load_relaxed(&b->capacity));
}

/* 0, or why a request there makes no sense. */
static int check_place(struct vhk_blk *b, bool writes, uint64_t off, uint64_t n) {
        if (writes && b->read_only)
                return vhk_drvdev_fail(&b->d, -EROFS, "blk.request", "the disk is read-only");
        if (((n | off) & (b->block_size - 1)) || n > SSIZE_MAX)
                return fail_offset(b, -EINVAL, "not multiples of the block size", off, n);
        if (!vhk_range_within(off, n, vhk_load_relaxed(&b->capacity)))
                return fail_offset(b, -ENXIO, "past the end of the disk", off, n);
        return 0;
}

/* Waiting for results failed, or took too long (@k is 0): they are not waited for any more. */
static int give_up(struct vhk_blk_queue *q, int k) {
        unsigned n = q->num - q->n_free;

        vhk_blk_abandon(q);
        return k < 0 ? k : vhk_drvdev_fail(&q->b->d, -ETIMEDOUT, "blk.time-limit", "queue 0: %u requests are not answered within %d ms", n, wait_ms(q->b));
}

/* A lane's next piece as a request. */
static struct vhk_blk_io prepare(struct transfer *t, unsigned lane) {
        struct iovec *iov = t->b->iov + (size_t)lane * t->b->max_segments;
        uint64_t len = VHK_MIN(t->step, t->n - t->next);
        uint8_t *p = t->bounce ? t->b->bounce + (size_t)lane * VHK_BLK_BOUNCE : t->buf + t->next;
        unsigned n = 0;

        t->at[lane] = t->next;
        t->len[lane] = len;
        if (t->bounce && t->op == VHK_BLK_WRITE)
                memcpy(p, t->buf + t->next, len);
        for (uint64_t done = 0; done < len; done += iov[n++].iov_len)
                iov[n] = (struct iovec){ p + done, VHK_MIN(len - done, (uint64_t)t->b->max_segment) };
        return (struct vhk_blk_io){ .op = t->op, .off = t->off + t->next, .iov = iov, .n_iov = n, .cookie = &t->busy[lane] };
}

static void submit_some(struct transfer *t) {
        for (unsigned lane = 0; lane < VHK_BLK_DEPTH && t->next < t->n && !t->error; lane++) {
                if (t->busy[lane])
                        continue;
                struct vhk_blk_io io = prepare(t, lane);
                int k = vhk_blk_add(t->q, &io, 1);
                if (k == 0 && t->n_in_flight)
                        return;                 /* the ring is full */
                if (k <= 0) {
                        t->error = k < 0 ? k : -EIO;
                        return;
                }
                t->busy[lane] = true;
                t->n_in_flight++;
                t->next += t->len[lane];
        }
}

static int fail_result(struct vhk_blk *b, const struct vhk_blk_done *done, uint64_t off, uint64_t n) {
        if (done->result == -EPROTO)
                return vhk_drvdev_fail(&b->d, -EPROTO, "blk.used-length",
                                       "offset %llu: the device reports success and %u bytes written, expected %llu and a status", (unsigned long long)off,
                                       done->len, (unsigned long long)n);
        return fail_offset(b, done->result, done->result == -EOPNOTSUPP ? "the device does not support it" : "the device reports an error", off, n);
}

static int reap_some(struct transfer *t) {
        struct vhk_blk_done done[VHK_BLK_DEPTH];

        int k = vhk_blk_take(t->q, done, VHK_BLK_DEPTH, wait_ms(t->b));
        if (k <= 0)
                return give_up(t->q, k);
        for (int i = 0; i < k; i++) {
                unsigned lane = (unsigned)((bool *)done[i].cookie - t->busy);
                t->busy[lane] = false;
                t->n_in_flight--;
                if (done[i].result < 0 && !t->error)
                        t->error = fail_result(t->b, &done[i], t->off + t->at[lane], t->len[lane]);
                if (done[i].result == 0 && t->bounce && t->op == VHK_BLK_READ)
                        memcpy(t->buf + t->at[lane], t->b->bounce + (size_t)lane * VHK_BLK_BOUNCE, t->len[lane]);
        }
        return 0;
}

static int run(struct transfer *t) {
        do {
                submit_some(t);
                int k = t->n_in_flight ? reap_some(t) : 0;
                if (k < 0)
                        return k;
        } while (t->n_in_flight || (t->next < t->n && !t->error));
        return t->error;
}

static ssize_t transfer(struct vhk_blk *b, enum vhk_blk_op op, void *buf, size_t n, uint64_t off) {
        struct transfer t = { .b = b, .q = &b->queues[0], .op = op, .buf = buf, .n = n, .off = off };

        vhk_drvdev_look_after(&b->d);
        int k = check_place(b, op == VHK_BLK_WRITE, off, n);
        if (k == 0)
                k = vhk_blk_wait_idle(t.q, wait_ms(b));
        if (k < 0 || n == 0)
                return k;
        t.bounce = !vhk_drvdev_find(&b->d, (uintptr_t)buf, n);
        t.step = t.bounce ? VHK_MIN(b->max_request, (uint64_t)VHK_BLK_BOUNCE) & ~(uint64_t)(b->block_size - 1) : b->max_request;
        k = t.step ? run(&t) : -EINVAL;
        return k < 0 ? k : (ssize_t)n;
}

static ssize_t leave(struct vhk_blk *b, ssize_t result) {
        vhk_drvdev_leave(&b->d);
        return result;
}

VHK_API ssize_t vhk_blk_pread(struct vhk_blk *b, void *buf, size_t n, uint64_t off) {
        return leave(b, transfer(b, VHK_BLK_READ, buf, n, off));
}

VHK_API ssize_t vhk_blk_pwrite(struct vhk_blk *b, const void *buf, size_t n, uint64_t off) {
        return leave(b, transfer(b, VHK_BLK_WRITE, (void *)buf, n, off));
}

/* One request, to its end. */
static int one(struct vhk_blk *b, const struct vhk_blk_io *io) {
        struct vhk_blk_queue *q = &b->queues[0];
        struct vhk_blk_done done;

        int k = vhk_blk_wait_idle(q, wait_ms(b));
        if (k == 0)
                k = vhk_blk_add(q, io, 1);
        if (k < 0)
                return k;
        k = vhk_blk_take(q, &done, 1, wait_ms(b));
        if (k <= 0)
                return give_up(q, k);
        return done.result < 0 ? fail_result(b, &done, io->off, io->len) : 0;
}

VHK_API int vhk_blk_flush(struct vhk_blk *b) {
        return (int)leave(b, one(b, &(struct vhk_blk_io){ .op = VHK_BLK_FLUSH }));
}

/* DISCARD and WRITE_ZEROES, in pieces as large as the disk takes. */
static int ranges(struct vhk_blk *b, enum vhk_blk_op op, uint64_t off, uint64_t len, uint32_t flags) {
        uint64_t most = op == VHK_BLK_DISCARD ? b->max_discard : b->max_zeroes;

        vhk_drvdev_look_after(&b->d);
        if (!vhk_blk_has(b, op == VHK_BLK_DISCARD ? VHK_BLK_F_DISCARD : VHK_BLK_F_WRITE_ZEROES) || !most)
                return -EOPNOTSUPP;
        int k = check_place(b, true, off, len);
        for (uint64_t n; k == 0 && len; off += n, len -= n) {
                n = VHK_MIN(len, most);
                k = one(b, &(struct vhk_blk_io){ .op = op, .off = off, .len = n, .flags = flags });
        }
        return k;
}

VHK_API int vhk_blk_discard(struct vhk_blk *b, uint64_t off, uint64_t len) {
        return (int)leave(b, ranges(b, VHK_BLK_DISCARD, off, len, 0));
}

VHK_API int vhk_blk_write_zeroes(struct vhk_blk *b, uint64_t off, uint64_t len, int may_unmap) {
        return (int)leave(b, ranges(b, VHK_BLK_WRITE_ZEROES, off, len, may_unmap ? VHK_BLK_IO_UNMAP : 0));
}

static int get_id(struct vhk_blk *b, char ret_id[21]) {
        struct iovec iov = { b->bounce, 20 };

        int k = vhk_blk_wait_idle(&b->queues[0], wait_ms(b));   /* abandoned requests may still write to it */
        if (k < 0)
                return k;
        memset(b->bounce, 0, 20);
        k = one(b, &(struct vhk_blk_io){ .op = VHK_BLK_GET_ID, .iov = &iov, .n_iov = 1 });
        if (k < 0)
                return k;
        size_t n = strnlen((char *)b->bounce, 20);      /* what some devices leave past the end is not ours to show */
        memset(ret_id, 0, 21);
        memcpy(ret_id, b->bounce, n);
        return 0;
}

VHK_API int vhk_blk_get_id(struct vhk_blk *b, char ret_id[21]) {
        return (int)leave(b, get_id(b, ret_id));
}
