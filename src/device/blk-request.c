/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A request's way (virtio 1.3, 5.2.6): parsed once, checked, taken through its steps, answered. On the ring's home.
 *
 * Guest memory changes under our feet: header and ranges are copied once into locals, and only the copies are looked at.
 * Framing is free (2.6.4): the header is the first 16 readable bytes, the status the last writable byte, the data what is
 * between, whatever buffers they lie in. The used length (2.7.8.2) is the bytes that were written
 * from the first writable one on: with a gap between data and status it ends at the gap, and the
 * status byte is not counted.
 *
 * No allocation: buffer lists that are fine as they stand are handed to the engine as they stand; those that must be
 * trimmed are built in the ring's arena, which is empty again after every kick.
 */
#include "device/blk.h"

/* The last writable byte; empty buffers may stand behind it. */
static inline uint8_t *blk_status_byte(const struct vhk_req *r) {
        for (unsigned i = r->n_in; i-- > 0;)
                if (vhk_likely(r->in[i].iov_len))
                        return (uint8_t *)r->in[i].iov_base + r->in[i].iov_len - 1;
        return NULL;
}

static inline bool blk_read_header(const struct vhk_req *r, struct blk_header *ret_h) {
        if (vhk_likely(r->n_out && r->out[0].iov_len >= sizeof(*ret_h)))
                memcpy(ret_h, r->out[0].iov_base, sizeof(*ret_h));
        else if (vhk_req_read(r, 0, ret_h, sizeof(*ret_h)) < sizeof(*ret_h))
                return false;
        __asm__ __volatile__("" ::: "memory");  /* from here on the copy counts: the compiler must not read it again */
        return true;
}

/* Are @n bytes from @sector on this disk, and whole blocks? Capacity is far below 2^55, so nothing overflows behind this. */
static inline bool blk_range_ok(const struct vhk_blkdev *d, uint64_t sector, uint64_t n) {
        return vhk_likely(!(n & (d->block_size - 1)) && vhk_range_within(sector, n / BLK_SECTOR, vhk_load_relaxed(&d->capacity)) &&
                          !(sector * BLK_SECTOR & (d->block_size - 1)));
}

static VHK_COLD int blk_parse_ranges(const struct vhk_blkdev *d, struct vhk_req *r, struct blk_req *b) {
        uint32_t max = b->type == BLK_T_DISCARD ? BLK_MAX_DISCARD_SECTORS : BLK_MAX_ZEROES_SECTORS;
        uint32_t bytes = r->out_len - (uint32_t)sizeof(struct blk_header), known = b->type == BLK_T_DISCARD ? 0 : BLK_SEGMENT_UNMAP;
        unsigned n = bytes / sizeof(struct blk_segment);

        if (d->read_only || bytes % sizeof(struct blk_segment) || !n || n > BLK_MAX_SEGMENTS)
                return BLK_S_IOERR;
        for (unsigned i = 0; i < n; i++) {
                struct blk_segment s;

                if (vhk_req_read(r, sizeof(struct blk_header) + i * sizeof(s), &s, sizeof(s)) < sizeof(s))
                        return BLK_S_IOERR;
                uint64_t sector = vhk_le64_get(s.sector), n_sectors = vhk_le32_get(s.n_sectors);
                if (vhk_le32_get(s.flags) & ~known)
                        return BLK_S_UNSUPP;
                if (n_sectors > max || !blk_range_ok(d, sector, n_sectors * BLK_SECTOR))
                        return BLK_S_IOERR;
                b->ranges[i] = (struct blk_range){ sector * BLK_SECTOR, n_sectors * BLK_SECTOR, vhk_le32_get(s.flags) };
        }
        b->n_ranges = (uint8_t)n;
        b->range = 0;
        return BLK_GO;
}

/* The types but IN and OUT. */
static VHK_COLD int blk_parse_other(const struct vhk_blkdev *d, struct vhk_req *r, struct blk_req *b, uint32_t type) {
        switch (type) {
        case BLK_T_FLUSH:
                b->step = BLK_SYNC;
                b->step_off = 0;
                return BLK_GO;
        case BLK_T_GET_ID:
                b->done = (uint32_t)vhk_req_write(r, 0, d->serial, VHK_MIN(r->in_len - 1, BLK_SERIAL_LEN));
                return BLK_S_OK;
        case BLK_T_DISCARD:
        case BLK_T_WRITE_ZEROES:
                return blk_parse_ranges(d, r, b);
        default:
                return BLK_S_UNSUPP;
        }
}

VHK_HOT int blk_parse(const struct vhk_blkdev *d, struct vhk_req *r, struct blk_req *b) {
        struct blk_header h;

        b->done = 0;
        b->status = blk_status_byte(r);
        if (vhk_unlikely(!b->status || !blk_read_header(r, &h)))
                return BLK_S_IOERR;
        uint32_t type = vhk_le32_get(h.type);
        b->type = type;
        if (vhk_unlikely(type > BLK_T_OUT))
                return blk_parse_other(d, r, b, type);
        b->len = type == BLK_T_IN ? r->in_len - 1 : r->out_len - (uint32_t)sizeof(h);
        b->step = type == BLK_T_IN ? BLK_READ : BLK_WRITE;
        b->off = vhk_le64_get(h.sector) * BLK_SECTOR;
        if (!blk_range_ok(d, vhk_le64_get(h.sector), b->len) || (vhk_unlikely(d->read_only) && type == BLK_T_OUT))
                return BLK_S_IOERR;
        return vhk_likely(b->len) ? BLK_GO : BLK_S_OK;
}

/* Writes the status; what the request's used length is. A request without a status byte gets nothing done to it. */
static inline uint32_t blk_answer(struct vhk_req *r, const struct blk_req *b, int status) {
        if (vhk_unlikely(!b->status))
                return 0;
        *(volatile uint8_t *)b->status = (uint8_t)status;
        return b->done + (b->done + 1 == r->in_len);
}

/* ---- the buffers of a step ---- */

/* The data of @b from b->done on as iovecs, at most @max bytes: those of the request itself if they need no trimming. */
static void blk_set_iov(struct blk_queue *bq, const struct vhk_req *r, struct blk_req *b) {
        const struct iovec *v = b->step == BLK_READ ? r->in : r->out;
        uint64_t skip = b->done + (b->step == BLK_READ ? 0 : sizeof(struct blk_header)), left = b->len - b->done;
        unsigned n = 0;

        while (skip >= v->iov_len) {
                skip -= v->iov_len;
                v++;
        }
        b->one = (struct iovec){ (uint8_t *)v->iov_base + skip, VHK_MIN(v->iov_len - skip, left) };
        b->iov = &b->one;
        b->n_iov = 1;
        b->step_off = b->off + b->done;
        if (left == b->one.iov_len)
                return;
        for (left += skip; n < BLK_IOV_MAX && left >= v[n].iov_len && left; n++)
                left -= v[n].iov_len;
        if (!skip && (!left || n == BLK_IOV_MAX)) {
                b->iov = v;
                b->n_iov = n;
                return;
        }
        n += n < BLK_IOV_MAX && left;
        if (n > BLK_ARENA - bq->n_arena)
                return;         /* the arena is full until the next kick: one buffer now, the others follow */
        struct iovec *a = bq->arena + bq->n_arena;
        memcpy(a, v, n * sizeof(*a));
        a[0] = b->one;
        if (left && left < a[n - 1].iov_len)
                a[n - 1].iov_len = left;
        bq->n_arena += n;
        b->iov = a;
        b->n_iov = n;
}

/* Direct I/O wants aligned addresses and lengths; guests mostly have them. */
static bool blk_is_aligned(const struct vhk_req *r, const struct blk_req *b, uint32_t align) {
        const struct iovec *v = b->step == BLK_READ ? r->in : r->out;
        uint64_t skip = b->step == BLK_READ ? 0 : sizeof(struct blk_header), left = b->len;

        for (; left; v++) {
                uint64_t s = VHK_MIN(skip, v->iov_len), n = VHK_MIN(v->iov_len - s, left);
                if (n && (((uintptr_t)v->iov_base + s) | n) & (align - 1))
                        return false;
                skip -= s;
                left -= n;
        }
        return true;
}

static void blk_set_bounce_iov(const struct vhk_req *r, struct blk_req *b) {
        uint32_t n = VHK_MIN(b->len - b->done, BLK_BOUNCE_BYTES);

        if (b->step == BLK_WRITE)
                n = (uint32_t)vhk_req_read(r, sizeof(struct blk_header) + b->done, b->bounce, n);
        b->one = (struct iovec){ b->bounce, n };
        b->iov = &b->one;
        b->n_iov = 1;
        b->step_off = b->off + b->done;
}

/* Zeroes that must be written as bytes: the same page of them, many times. */
static void blk_set_zero_iov(const struct vhk_blkdev *d, struct blk_req *b) {
        if (b->step_len >= (uint64_t)BLK_N_ZERO_IOV * BLK_ZERO_BYTES) {
                b->iov = d->zero_iov;
                b->n_iov = BLK_N_ZERO_IOV;
                return;
        }
        b->one = (struct iovec){ d->zeroes, VHK_MIN(b->step_len, BLK_ZERO_BYTES) };
        b->iov = &b->one;
        b->n_iov = 1;
}

/* ---- steps ---- */

/* The first step of the range that is due, or false: none is left. */
static bool blk_next_range(const struct vhk_blkdev *d, struct blk_req *b) {
        for (; b->range < b->n_ranges; b->range++) {
                const struct blk_range *g = &b->ranges[b->range];

                if (!g->len)
                        continue;
                b->step_off = g->off;
                b->step_len = g->len;
                if (b->type == BLK_T_DISCARD)
                        b->step = d->file.is_block ? BLK_DISCARD : BLK_PUNCH;
                else
                        b->step = g->unmap ? BLK_PUNCH : BLK_ZERO;
                return true;
        }
        return false;
}

static VHK_COLD void blk_log_error(const struct blk_queue *bq, const struct blk_req *b, int64_t result) {
        static const char *const step_names[] = { "read", "write", "sync", "punch hole", "zero range", "discard", "write zeroes" };
        struct vhk_blkdev *d = bq->d;

        if (__atomic_fetch_add(&d->n_errors, 1, __ATOMIC_RELAXED) >= BLK_ERRORS_LOGGED)
                return;
        if (result == -EFAULT)
                vhk_log(&d->log, VHK_LOG_WARNING, "queue %u: %s at %llu: guest memory is not there", vhk_queue_get_index(bq->q),
                        step_names[b->step], (unsigned long long)b->step_off);
        else
                vhk_log(&d->log, VHK_LOG_ERROR, "queue %u: %s at %llu: %s", vhk_queue_get_index(bq->q), step_names[b->step],
                        (unsigned long long)b->step_off, result ? strerror((int)-result) : "the file has become shorter");
}

/* Not supported at all, or (EINVAL) not for a range that is no multiple of the block device's own
 * sectors. */
static bool blk_is_unsupported(int64_t result) {
        return result == -EOPNOTSUPP || result == -ENOTTY || result == -EINVAL;
}

/* What a file system or block device cannot do is done in another way, or is no harm. Return: true
 * if there is another way. */
static bool blk_other_way(struct vhk_blkdev *d, struct blk_req *b, int64_t result) {
        if ((result == -EINTR || result == -EAGAIN) && b->retries++ < 100)
                return true;
        if (result == -ECANCELED)       /* another queue of this worker was suspended, and all were asked for: nothing was done */
                return true;
        if (!blk_is_unsupported(result))
                return false;
        if (b->step == BLK_WRITE && b->dsync && result != -EINVAL && b->retries++ < 100) {
                vhk_store_relaxed(&d->no_dsync, 1u);    /* a sync step follows each write from now on */
                return true;
        }
        if (b->type == BLK_T_WRITE_ZEROES && (b->step == BLK_PUNCH || b->step == BLK_ZERO)) {
                b->step = BLK_WRITE_ZEROES;
                return true;
        }
        return false;
}

/* A range step ended well, or a discard that is not to be had (5.2.6.2: the device MAY deallocate). */
static int blk_range_done(const struct vhk_blkdev *d, struct blk_req *b, int64_t result) {
        if (b->step == BLK_WRITE_ZEROES) {
                b->step_off += (uint64_t)result;
                b->step_len -= VHK_MIN(b->step_len, (uint64_t)result);
                if (b->step_len)
                        return BLK_GO;
        }
        b->range++;
        if (blk_next_range(d, b))
                return BLK_GO;
        if (!b->dsync)
                return BLK_S_OK;
        b->step = BLK_SYNC;
        return BLK_GO;
}

/* The step of @b ended with @result: a status, or BLK_GO: the next step is set. */
static int blk_step_done(struct blk_queue *bq, struct vhk_req *r, struct blk_req *b, int64_t result) {
        struct vhk_blkdev *d = bq->d;
        bool moves = b->step == BLK_READ || b->step == BLK_WRITE || b->step == BLK_WRITE_ZEROES;

        if (vhk_unlikely(result < 0 || (moves && !result))) {
                if (blk_other_way(d, b, result))
                        return BLK_GO;
                if (b->type == BLK_T_DISCARD && blk_is_unsupported(result))
                        return blk_range_done(d, b, 0);
                blk_log_error(bq, b, result);
                return BLK_S_IOERR;
        }
        b->retries = 0;
        switch (b->step) {
        case BLK_READ:
                if (b->bounce)
                        result = (int64_t)vhk_req_write(r, b->done, b->bounce, VHK_MIN((uint64_t)result, b->one.iov_len));
                b->done += (uint32_t)result;
                return b->done < b->len ? BLK_GO : BLK_S_OK;
        case BLK_WRITE:
                b->done += (uint32_t)result;
                if (b->done < b->len)
                        return BLK_GO;
                if (!b->dsync || !vhk_load_relaxed(&d->no_dsync))
                        return BLK_S_OK;
                b->step = BLK_SYNC;
                return BLK_GO;
        case BLK_SYNC:
                return BLK_S_OK;
        default:
                return blk_range_done(d, b, result);
        }
}

static void blk_finish(struct blk_queue *bq, struct vhk_req *r, struct blk_req *b, int status) {
        if (b->type != BLK_T_IN)
                b->done = 0;            /* nothing was written into the guest but the status */
        if (b->bounce)
                bq->bounces[bq->n_bounces++] = VHK_STEAL(b->bounce);
        vhk_queue_push(bq->q, r, blk_answer(r, b, status));
}

/* Runs @r until a step has to be waited for, or it is answered. */
static void blk_advance(struct blk_queue *bq, struct vhk_req *r, struct blk_req *b) {
        struct vhk_blkdev *d = bq->d;
        int status = BLK_GO;

        while (status == BLK_GO) {
                if (b->step == BLK_READ || b->step == BLK_WRITE) {
                        if (b->bounce)
                                blk_set_bounce_iov(r, b);
                        else
                                blk_set_iov(bq, r, b);
                } else if (b->step == BLK_WRITE_ZEROES)
                        blk_set_zero_iov(d, b);
                int64_t result = bq->engine->submit(bq, r);
                if (result == -EINPROGRESS)
                        return;
                status = blk_step_done(bq, r, b, result);
        }
        blk_finish(bq, r, b, status);
}

/* A parsed request sets out: with what it needs for its first step, or in the queue for a bounce buffer. */
static void blk_begin(struct blk_queue *bq, struct vhk_req *r, struct blk_req *b) {
        struct vhk_blkdev *d = bq->d;

        b->bounce = NULL;
        b->retries = 0;
        b->dsync = b->type != BLK_T_IN && !vhk_load_relaxed(&d->writeback);
        if ((b->type == BLK_T_DISCARD || b->type == BLK_T_WRITE_ZEROES) && !blk_next_range(d, b)) {
                blk_finish(bq, r, b, BLK_S_OK);
                return;
        }
        if (d->direct && (b->step == BLK_READ || b->step == BLK_WRITE) && !blk_is_aligned(r, b, d->file.align)) {
                if (bq->wait || !bq->n_bounces) {
                        b->next = NULL;
                        *bq->wait_tail = r;
                        bq->wait_tail = &b->next;
                        return;
                }
                b->bounce = bq->bounces[--bq->n_bounces];
        }
        blk_advance(bq, r, b);
}

void blk_wake(struct blk_queue *bq) {
        while (bq->wait && bq->n_bounces) {
                struct vhk_req *r = bq->wait;
                struct blk_req *b = r->priv;

                bq->wait = b->next;
                if (!bq->wait)
                        bq->wait_tail = &bq->wait;
                b->bounce = bq->bounces[--bq->n_bounces];
                blk_advance(bq, r, b);
        }
}

/* Nothing of it will happen any more; what has been done is done again by whoever serves the ring next. */
static bool blk_leave(struct blk_queue *bq, struct vhk_req *r, struct blk_req *b) {
        if (vhk_queue_leave(bq->q, r) < 0)
                return false;
        if (b->bounce)
                bq->bounces[bq->n_bounces++] = VHK_STEAL(b->bounce);
        return true;
}

void blk_suspend(struct blk_queue *bq) {
        struct vhk_req *r = bq->wait, *next;

        bq->suspends = true;
        bq->wait = NULL;
        bq->wait_tail = &bq->wait;
        for (; r; r = next) {
                next = ((struct blk_req *)r->priv)->next;
                blk_leave(bq, r, r->priv);
        }
        if (bq->engine->cancel)
                bq->engine->cancel(bq);
}

void blk_continue(struct blk_queue *bq, struct vhk_req *r, int64_t result) {
        struct blk_req *b = r->priv;

        if (vhk_unlikely(bq->suspends) && result == -ECANCELED && blk_leave(bq, r, b))
                return;
        int status = blk_step_done(bq, r, b, result);

        if (status == BLK_GO)
                blk_advance(bq, r, b);
        else
                blk_finish(bq, r, b, status);
}

/* A buffer lies outside of shared memory: nothing is done but to write IOERR, where the status can
 * be reached. Returns the used length. */
static VHK_COLD uint32_t blk_refuse_hole(struct vhk_blkdev *d, struct vhk_queue *q, struct vhk_req *r) {
        unsigned i = r->n_in;

        if (__atomic_fetch_add(&d->n_errors, 1, __ATOMIC_RELAXED) < BLK_ERRORS_LOGGED)
                vhk_log(&d->log, VHK_LOG_WARNING, "queue %u: a request has a buffer outside of the memory that the front-end shares: "
                        "it fails", vhk_queue_get_index(q));
        while (i && !r->in[i - 1].iov_len)
                i--;
        if (!i)
                return 0;
        const struct iovec *last = &r->in[i - 1];
        if (!last->iov_base) {
                vhk_queue_refuse_hole(q);       /* the driver would take whatever its status byte holds for the answer */
                return 0;
        }
        *(volatile uint8_t *)((uint8_t *)last->iov_base + last->iov_len - 1) = BLK_S_IOERR;
        return r->in_len == 1;
}

/* ---- bursts ---- */

/* Headers and status bytes were last touched by another CPU: have them all come at once. */
static inline void blk_prefetch(struct vhk_req *const *r, unsigned n) {
        for (unsigned i = 0; i < n; i++) {
                if (vhk_likely(r[i]->n_out))
                        __builtin_prefetch(r[i]->out[0].iov_base);
                if (vhk_likely(r[i]->n_in))
                        __builtin_prefetch(r[i]->in[r[i]->n_in - 1].iov_base, 1);
        }
}

/* Sets out with the requests that were just popped. Those whose turn does not come within
 * VHK_WORK_NS from @begin on are given back to the ring (@n is 1 if @begin is not known). How many
 * set out. */
static unsigned blk_begin_burst(struct blk_queue *bq, struct vhk_req *const *r, unsigned n, uint64_t begin) {
        struct vhk_blkdev *d = bq->d;

        for (unsigned i = 0; i < n; i++) {
                struct blk_req *b = r[i]->priv;
                if (vhk_unlikely(r[i]->flags)) {
                        vhk_queue_push(bq->q, r[i], blk_refuse_hole(d, bq->q, r[i]));
                        continue;
                }
                int status = blk_parse(d, r[i], b);

                if (status == BLK_GO)
                        blk_begin(bq, r[i], b);
                else
                        vhk_queue_push(bq->q, r[i], blk_answer(r[i], b, status));
                if (!bq->engine->kick && i % 4 == 3 && i + 1 < n && vhk_now_ns() - begin > VHK_WORK_NS) {
                        vhk_queue_unpop(bq->q, n - i - 1);
                        return i + 1;
                }
        }
        return n;
}

/* A burst of @n took @ns: how long may the next one be? */
static void blk_set_burst(struct blk_queue *bq, unsigned n, uint64_t ns) {
        if (vhk_unlikely(ns > VHK_WORK_NS))
                bq->burst = (unsigned)VHK_MAX(n * VHK_WORK_NS / ns, UINT64_C(1));
        else if (vhk_unlikely(bq->burst < BLK_BURST && ns < VHK_WORK_NS / 2))
                bq->burst = VHK_MIN(2 * bq->burst, BLK_BURST);
}

/*
 * Others live on this worker too, and control sends it orders: a run ends after VHK_WORK_NS or one
 * burst, whichever is longer, and what is left is seen when the ring is armed. The clock is read
 * once per burst; not for a single request, which is what a slow driver sends.
 */
VHK_HOT void blk_queue_run(struct vhk_blkdev *d, struct vhk_queue *q) {
        struct blk_queue *bq = vhk_queue_get_priv(q);
        struct vhk_req *r[BLK_BURST];
        bool measured = bq->burst < BLK_BURST;
        uint64_t start = 0, begin = 0;
        int n;

        while ((n = vhk_queue_pop(q, r, bq->burst)) > 0) {
                blk_prefetch(r, (unsigned)n);
                measured |= n > 1;
                if (measured && !start)
                        start = begin = vhk_now_ns();
                unsigned done = blk_begin_burst(bq, r, (unsigned)n, begin);
                blk_wake(bq);
                if (bq->engine->kick)
                        bq->engine->kick(bq);
                else
                        bq->n_arena = 0;
                vhk_queue_flush(q);
                if (!measured) {
                        measured = true;        /* from the second one on */
                        continue;
                }
                uint64_t now = vhk_now_ns();
                blk_set_burst(bq, done, now - begin);
                if (now - start >= VHK_WORK_NS)
                        return;
                begin = now;
        }
}

/* Nothing is in flight after a burst here, so the request's state needs no slot: one on the stack stays in the cache. */
VHK_HOT void blk_queue_run_null(struct vhk_blkdev *d, struct vhk_queue *q) {
        unsigned budget = VHK_MIN(vhk_queue_get_size(q), BLK_NULL_BUDGET);
        struct vhk_req *r[BLK_BURST];
        uint32_t len[BLK_BURST];
        struct blk_req b;
        int n;

        while (budget && (n = vhk_queue_pop(q, r, VHK_MIN(budget, BLK_BURST))) > 0) {
                budget -= (unsigned)n;
                blk_prefetch(r, (unsigned)n);
                for (int i = 0; i < n; i++) {
                        if (vhk_unlikely(r[i]->flags)) {
                                len[i] = blk_refuse_hole(d, q, r[i]);
                                continue;
                        }
                        int status = blk_parse(d, r[i], &b);
                        len[i] = blk_answer(r[i], &b, status == BLK_GO ? BLK_S_OK : status);
                }
                vhk_queue_push_batch(q, r, len, (unsigned)n);
                vhk_queue_flush(q);
        }
}
