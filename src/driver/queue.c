/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Asynchronous requests. One thread per queue; no allocation, and no system call but a notification that is due, on the
 * way in; on the way out none while something is there. A request is a slot: its header, range and status byte
 * lie in lent memory, the slot's number is the ring's cookie. Source: virtio 1.3, 5.2.6.
 */
#include "driver/blk.h"

#define REAP_AT_ONCE 64u
#define NO_STATUS 0xffu

/* Request types and status of virtio 1.3, 5.2.6 */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP };
#define ID_BYTES 20u

enum kind { DATA_IN, DATA_OUT, RANGE, NOTHING, ID };
static const struct {
        uint8_t type, kind, feature;    /* feature 0: always there */
        bool writes;
} ops[] = {
        [VHK_BLK_READ] = { T_IN, DATA_IN, 0, false },
        [VHK_BLK_WRITE] = { T_OUT, DATA_OUT, 0, true },
        [VHK_BLK_FLUSH] = { T_FLUSH, NOTHING, VHK_BLK_F_FLUSH, false },
        [VHK_BLK_DISCARD] = { T_DISCARD, RANGE, VHK_BLK_F_DISCARD, true },
        [VHK_BLK_WRITE_ZEROES] = { T_WRITE_ZEROES, RANGE, VHK_BLK_F_WRITE_ZEROES, true },
        [VHK_BLK_GET_ID] = { T_GET_ID, ID, 0, false },
};

static char abandoned;                  /* the cookie of a request that nobody waits for */

/* ---- life ---- */

static unsigned indirect_max(uint16_t num) {
        return VHK_MIN((unsigned)num, VHK_BLK_MAX_SEGMENTS + 2);
}

static size_t slots_bytes(uint16_t num) {
        return ((size_t)num * (sizeof(struct vhk_blk_header) + sizeof(struct vhk_blk_range) + 1) + VHK_PAGE - 1) & ~(size_t)(VHK_PAGE - 1);
}

size_t vhk_blk_queue_bytes(uint16_t num) {
        return vhk_drvq_bytes(num, (uint16_t)indirect_max(num)) + slots_bytes(num);
}

static int ready(void *queue, void *ret, unsigned at, unsigned n);
static bool may_come(void *queue);

int vhk_blk_queue_init(struct vhk_blk_queue *q, struct vhk_blk *b, unsigned i, uint16_t num, uint8_t *mem) {
        size_t ring_bytes = vhk_drvq_bytes(num, (uint16_t)indirect_max(num));

        *q = (struct vhk_blk_queue){ .b = b, .num = num, .n_free = num };
        if (!mem)
                return -ENOMEM;
        q->headers = (void *)(mem + ring_bytes);
        q->ranges = (void *)(q->headers + num);
        q->status = (void *)(q->ranges + num);
        q->headers_gpa = vhk_blk_gpa(q, q->headers, num * sizeof(*q->headers));         /* lent: they are of our own chunk */
        q->ranges_gpa = vhk_blk_gpa(q, q->ranges, num * sizeof(*q->ranges));
        q->status_gpa = vhk_blk_gpa(q, q->status, num);
        q->cookies = calloc(num, sizeof(*q->cookies));
        q->least = calloc(num, sizeof(*q->least));
        q->free_slots = calloc(num, sizeof(*q->free_slots));
        if (!q->cookies || !q->least || !q->free_slots)
                return -ENOMEM;
        for (unsigned j = 0; j < num; j++)
                q->free_slots[j] = (uint16_t)(num - 1 - j);
        int k = vhk_drvq_new_at(b->d.f, i, &(struct vhk_drvq_options){ .size = sizeof(struct vhk_drvq_options), .num = num, .polling = b->polling },
                                &(struct vhk_drvq_place){ .mem = mem, .indirect_max = (uint16_t)indirect_max(num), .gpa = vhk_blk_gpa, .gpa_arg = q }, &q->ring);
        struct vhk_drvwait w = { .d = &b->d, .ring = q->ring, .ready = ready, .may_come = may_come, .q = q, .polling = b->polling };
        return k < 0 ? k : vhk_drvwait_init(&q->wait, &w);
}

void vhk_blk_queue_done(struct vhk_blk_queue *q) {
        if (!q->b)
                return;
        vhk_drvwait_done(&q->wait);
        vhk_drvq_free(q->ring);
        free(q->cookies);
        free(q->least);
        free(q->free_slots);
        q->b = NULL;
}

/* ---- in ---- */

static int check_place(const struct vhk_blk *b, uint64_t off, uint64_t len) {
        if (vhk_unlikely(((off | len) & (b->block_size - 1)) || len == 0))
                return -EINVAL;
        return vhk_likely(vhk_range_within(off, len, vhk_load_relaxed(&b->capacity))) ? 0 : -ENXIO;
}

/* Translates @io's buffers to @sg; bytes, or a negative errno. */
static inline int64_t take_buffers(struct vhk_blk_queue *q, const struct vhk_blk_io *io, struct vhk_drvring_buf *sg) {
        const struct vhk_blk *b = q->b;
        uint64_t sum = 0;

        if (vhk_unlikely(io->n_iov == 0 || io->n_iov > b->max_segments))
                return -EINVAL;
        for (unsigned i = 0; i < io->n_iov; i++) {
                uint64_t va = (uintptr_t)io->iov[i].iov_base, len = io->iov[i].iov_len, off = va - q->last.va;
                if (vhk_unlikely(len > b->max_segment || len == 0))
                        return -EINVAL;
                sg[i].len = (uint32_t)len;
                if (vhk_likely(off < q->last.len && len <= q->last.len - off))
                        sg[i].gpa = q->last.gpa + off;
                else if ((sg[i].gpa = vhk_blk_gpa(q, io->iov[i].iov_base, len)) == UINT64_MAX)
                        return -EFAULT;
                sum += len;             /* at most 126 times 4 GiB */
        }
        return vhk_likely(sum < UINT32_MAX - 64) ? (int64_t)sum : -EINVAL;      /* a device need not serve 4 GiB in one request */
}

static int check_range(const struct vhk_blk *b, const struct vhk_blk_io *io) {
        if (io->len > (io->op == VHK_BLK_DISCARD ? b->max_discard : b->max_zeroes))
                return -EINVAL;
        return check_place(b, io->off, io->len);
}

/* Fills @sg behind the header: device-readable, then device-writable buffers without the status. 0, or why @io is refused. */
static inline int fill(struct vhk_blk_queue *q, unsigned slot, const struct vhk_blk_io *io, struct vhk_drvring_buf *sg, unsigned *ret_out,
                       unsigned *ret_in) {
        const struct vhk_blk *b = q->b;
        int64_t n;
        int k = 0;

        switch (ops[io->op].kind) {
        case DATA_IN:
        case DATA_OUT:
                n = take_buffers(q, io, sg);
                k = n < 0 ? (int)n : check_place(b, io->off, (uint64_t)n);
                if (ops[io->op].kind == DATA_IN)
                        q->least[slot] = (uint32_t)n + 1;       /* all of it, and the status */
                *(ops[io->op].kind == DATA_IN ? ret_in : ret_out) += io->n_iov;
                break;
        case RANGE:
                k = check_range(b, io);
                q->ranges[slot] = (struct vhk_blk_range){ vhk_le64_of(io->off / VHK_BLK_SECTOR), vhk_le32_of((uint32_t)(io->len / VHK_BLK_SECTOR)),
                        vhk_le32_of(io->op == VHK_BLK_WRITE_ZEROES && (io->flags & VHK_BLK_IO_UNMAP)) };
                sg[0] = (struct vhk_drvring_buf){ q->ranges_gpa + slot * sizeof(q->ranges[0]), sizeof(q->ranges[0]) };
                (*ret_out)++;
                break;
        case ID:
                n = take_buffers(q, io, sg);
                k = n == ID_BYTES ? 0 : -EINVAL;
                *ret_in += io->n_iov;
                break;
        case NOTHING:
                break;
        }
        return k;
}

static VHK_HOT int add(struct vhk_blk_queue *q, const struct vhk_blk_io *io) {
        struct vhk_drvring_buf sg[VHK_BLK_MAX_SEGMENTS + 2];
        unsigned n_out = 1, n_in = 0;

        if (vhk_unlikely((unsigned)io->op >= VHK_N(ops)))
                return -EINVAL;
        if (vhk_unlikely(ops[io->op].feature && !vhk_blk_has(q->b, ops[io->op].feature)))
                return -EOPNOTSUPP;
        if (vhk_unlikely(ops[io->op].writes && q->b->read_only))
                return -EROFS;
        if (vhk_unlikely(q->n_free == 0))
                return -EAGAIN;
        unsigned slot = q->free_slots[q->n_free - 1];
        q->least[slot] = 0;
        int k = fill(q, slot, io, sg + 1, &n_out, &n_in);
        if (vhk_unlikely(k < 0))
                return k;
        bool has_place = ops[io->op].kind == DATA_IN || ops[io->op].kind == DATA_OUT;
        q->headers[slot] = (struct vhk_blk_header){ .type = vhk_le32_of(ops[io->op].type), .sector = vhk_le64_of(has_place ? io->off / VHK_BLK_SECTOR : 0) };
        q->status[slot] = NO_STATUS;
        sg[0] = (struct vhk_drvring_buf){ q->headers_gpa + slot * sizeof(q->headers[0]), sizeof(q->headers[0]) };
        sg[n_out + n_in] = (struct vhk_drvring_buf){ q->status_gpa + slot, 1 };
        k = vhk_drvq_add_gpa(q->ring, sg, n_out, n_in + 1, (void *)(uintptr_t)slot);
        if (vhk_unlikely(k < 0))
                return k;
        q->cookies[slot] = io->cookie;
        q->n_free--;
        return 0;
}

VHK_HOT int vhk_blk_add(struct vhk_blk_queue *q, const struct vhk_blk_io *ios, unsigned n) {
        unsigned i = 0;
        int k = 0;

        if (vhk_unlikely(vhk_drvdev_is_gone(&q->b->d) || vhk_drvq_is_broken(q->ring)))
                return vhk_drvdev_fail_end(&q->b->d, q->ring);
        while (i < n && (k = add(q, &ios[i])) == 0)
                i++;
        if (vhk_likely(i > 0)) {
                vhk_drvq_kick(q->ring); /* a failing eventfd write: the ring is published all the same */
                return (int)i;
        }
        return k == -EAGAIN ? 0 : k;
}

VHK_API VHK_HOT int vhk_blk_submit(struct vhk_blk_queue *q, const struct vhk_blk_io *ios, unsigned n) {
        return vhk_blk_add(q, ios, n);
}

/* ---- out ---- */

/* @len: used.len. What the device did not write is whatever was there before. */
static int result_of(uint8_t status, uint32_t len, uint32_t least) {
        switch (status) {
        case S_OK:
                return vhk_likely(len >= least) ? 0 : -EPROTO;
        case S_UNSUPP:
                return -EOPNOTSUPP;
        default:
                return -EIO;
        }
}

/* What is there; -EPIPE: the device broke the ring. */
static VHK_HOT int reap_ready(struct vhk_blk_queue *q, struct vhk_blk_done *ret_done, unsigned n) {
        struct vhk_done done[REAP_AT_ONCE];
        unsigned got = 0;

        while (got < n) {
                int k = vhk_drvq_reap(q->ring, done, VHK_MIN(n - got, REAP_AT_ONCE));
                if (vhk_unlikely(k < 0))
                        return got ? (int)got : vhk_drvdev_fail_end(&q->b->d, q->ring);
                for (int i = 0; i < k; i++) {
                        unsigned slot = (unsigned)(uintptr_t)done[i].cookie;
                        q->free_slots[q->n_free++] = (uint16_t)slot;
                        if (vhk_unlikely(q->cookies[slot] == &abandoned)) {
                                q->n_abandoned--;
                                continue;
                        }
                        ret_done[got++] = (struct vhk_blk_done){ q->cookies[slot], result_of(q->status[slot], done[i].len, q->least[slot]), done[i].len };
                }
                if (k < (int)REAP_AT_ONCE)
                        break;
        }
        return (int)got;
}

static int ready(void *queue, void *ret, unsigned at, unsigned n) {
        return reap_ready(queue, (struct vhk_blk_done *)ret + at, n);
}

static bool may_come(void *queue) {
        const struct vhk_blk_queue *q = queue;

        return q->n_free != q->num;
}

VHK_HOT int vhk_blk_take(struct vhk_blk_queue *q, struct vhk_blk_done *ret_done, unsigned n, int timeout_ms) {
        int k = vhk_unlikely(q->wait.wants_fd) ? vhk_drvwait_reap_and_arm(&q->wait, ret_done, n) : reap_ready(q, ret_done, n);

        return vhk_likely(k != 0) ? k : vhk_drvwait_some(&q->wait, ret_done, n, timeout_ms);
}

VHK_API VHK_HOT int vhk_blk_reap(struct vhk_blk_queue *q, struct vhk_blk_done *ret_done, unsigned n, int timeout_ms) {
        struct vhk_drvdev *d = &q->b->d;
        int k = vhk_blk_take(q, ret_done, n, timeout_ms);

        vhk_drvdev_leave(d);
        return k;
}

/* ---- the rest ---- */

VHK_API int vhk_blk_get_queue(struct vhk_blk *b, unsigned i, struct vhk_blk_queue **ret_q) {
        if (i >= b->n_queues)
                return -EINVAL;
        *ret_q = &b->queues[i];
        return 0;
}

VHK_API int vhk_blk_queue_get_fd(struct vhk_blk_queue *q) {
        return vhk_drvwait_get_fd(&q->wait);
}

void vhk_blk_abandon(struct vhk_blk_queue *q) {
        for (unsigned slot = 0; slot < q->num; slot++)
                q->cookies[slot] = &abandoned;          /* of free slots too: they get another when they are used */
        q->n_abandoned = q->num - q->n_free;
}

int vhk_blk_wait_idle(struct vhk_blk_queue *q, int timeout_ms) {
        struct vhk_blk_done unused;
        int k = 0;

        if (vhk_drvdev_is_gone(&q->b->d) || vhk_drvq_is_broken(q->ring))
                return vhk_drvdev_fail_end(&q->b->d, q->ring);
        if (q->n_abandoned < q->num - q->n_free)
                k = -EBUSY;
        else if (q->n_abandoned)
                k = vhk_blk_take(q, &unused, 1, timeout_ms);    /* nothing but abandoned ones: there is no result to be seen */
        if (k < 0 || q->n_free == q->num)
                return k;
        return vhk_drvdev_fail(&q->b->d, -ETIMEDOUT, "blk.time-limit", "queue 0: %u requests that timed out before are not answered yet", q->n_abandoned);
}
