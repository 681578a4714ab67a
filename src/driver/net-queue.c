/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Frames. One thread per queue; no allocation, and no system call but a notification that is due, while something is there.
 *
 * The device is not trusted. What it says of a received frame (how many bytes in each buffer, how many buffers, the header) is read
 * once and held against what was lent before the caller sees any of it: a caller that keeps to the iovecs stays inside of its
 * buffers. A rule that is broken ends the queue. Buffers that are in no frame are the device's, or wait to become part of one; all of a
 * frame come with one step of the used index (virtio 1.3, 5.1.6.4), so a frame is there as a whole, or the rule is broken.
 *
 * Source: virtio 1.3, 5.1.6.
 */
#include "driver/net.h"

#define REAP_AT_ONCE 64u
#define COPY_ALIGN 64u

/* ---- life ---- */

static bool is_legacy(const struct vhk_net *n) {
        return !vhk_net_has(n, VHK_DRVDEV_F_VERSION_1);
}

/* A legacy header has a descriptor of its own (5.1.6.6): a table of two, or two of the ring's. */
static uint16_t rx_tables(const struct vhk_net *n) {
        return is_legacy(n) ? 2 : 0;
}

static uint16_t tx_tables(uint16_t num) {
        return (uint16_t)VHK_MIN((unsigned)num, VHK_NET_SEGMENTS + 1);
}

static size_t pages(size_t bytes) {
        return (bytes + VHK_PAGE - 1) & ~(size_t)(VHK_PAGE - 1);
}

static size_t copy_stride(const struct vhk_net *n) {
        return (n->copy_size + COPY_ALIGN - 1) & ~(size_t)(COPY_ALIGN - 1);
}

size_t vhk_net_queue_bytes(const struct vhk_net *n, uint16_t num) {
        return vhk_drvq_bytes(num, rx_tables(n)) + vhk_drvq_bytes(num, tx_tables(num)) + pages((size_t)num * n->buffer_size) +
               pages(num * sizeof(struct vhk_net_wire_header)) + pages(num * copy_stride(n));
}

static uint64_t gpa_of(void *queue, const void *va, uint64_t len) {
        struct vhk_net_queue *q = queue;

        return vhk_drvdev_gpa(&q->n->d, &q->last, va, len);
}

static int make_ring(struct vhk_net_queue *q, unsigned index, uint16_t tables, bool strict, struct vhk_drvq **ret_ring) {
        struct vhk_drvdev *d = &q->n->d;
        struct vhk_drvq_options o = { .size = sizeof(o), .num = q->num, .polling = q->n->polling };
        struct vhk_drvq_place p = { .mem = vhk_drvdev_take(d, vhk_drvq_bytes(q->num, tables)), .indirect_max = tables, .strict = strict,
                                    .gpa = gpa_of, .gpa_arg = q };

        return p.mem ? vhk_drvq_new_at(d->f, index, &o, &p, ret_ring) : -ENOMEM;
}

static int make_memory(struct vhk_net_queue *q) {
        struct vhk_net *n = q->n;
        struct { void *p; size_t bytes; uint64_t *ret_gpa; } lent[] = {
                { NULL, (size_t)q->n_buffers * n->buffer_size, &q->buffers_gpa },
                { NULL, q->num * sizeof(*q->headers), &q->headers_gpa },
                { NULL, q->num * copy_stride(n), &q->copies_gpa },
        };

        for (size_t i = 0; i < VHK_N(lent); i++) {
                lent[i].p = vhk_drvdev_take(&n->d, pages(lent[i].bytes));
                if (!lent[i].p)
                        return -ENOMEM;
                *lent[i].ret_gpa = gpa_of(q, lent[i].p, lent[i].bytes);         /* lent: of our own chunk */
        }
        q->buffers = lent[0].p;
        q->headers = lent[1].p;
        q->copies = lent[2].p;
        q->filled = calloc(q->num, sizeof(*q->filled));
        q->frame_buffers = calloc(q->num, sizeof(*q->frame_buffers));
        q->iov = calloc((size_t)q->num * n->frame_most, sizeof(*q->iov));
        q->cookies = calloc(q->num, sizeof(*q->cookies));
        q->free_slots = calloc(q->num, sizeof(*q->free_slots));
        q->sent = calloc(q->num, sizeof(*q->sent));
        return q->filled && q->frame_buffers && q->iov && q->cookies && q->free_slots && q->sent ? 0 : -ENOMEM;
}

static int rx_ready(void *queue, void *ret, unsigned at, unsigned n);
static int tx_ready(void *queue, void *ret, unsigned at, unsigned n);
static bool rx_may_come(void *queue);
static bool tx_may_come(void *queue);

int vhk_net_queue_init(struct vhk_net_queue *q, struct vhk_net *n, unsigned pair, uint16_t num) {
        *q = (struct vhk_net_queue){ .n = n, .num = num, .n_free = num, .error = { .rule = "net.ok", .text = "nothing has failed" } };
        q->n_buffers = is_legacy(n) && !vhk_net_has(n, VHK_DRVDEV_F_INDIRECT) ? num / 2 : num;
        int k = make_memory(q);
        if (k == 0)
                k = make_ring(q, 2 * pair, rx_tables(n), true, &q->rx);
        if (k == 0)
                k = make_ring(q, 2 * pair + 1, tx_tables(num), false, &q->tx);
        if (k < 0)
                return k;
        for (unsigned i = 0; i < num; i++)
                q->free_slots[i] = (uint16_t)(num - 1 - i);
        struct vhk_drvwait rx = { .d = &n->d, .ring = q->rx, .ready = rx_ready, .may_come = rx_may_come, .q = q, .polling = n->polling };
        struct vhk_drvwait tx = { .d = &n->d, .ring = q->tx, .ready = tx_ready, .may_come = tx_may_come, .q = q, .polling = n->polling };
        k = vhk_drvwait_init(&q->rx_wait, &rx);
        return k < 0 ? k : vhk_drvwait_init(&q->tx_wait, &tx);
}

void vhk_net_queue_done(struct vhk_net_queue *q) {
        if (!q->n)
                return;
        vhk_drvwait_done(&q->rx_wait);
        vhk_drvwait_done(&q->tx_wait);
        q->rx = vhk_drvq_free(q->rx);
        q->tx = vhk_drvq_free(q->tx);
        free(q->filled);
        free(q->frame_buffers);
        free(q->iov);
        free(q->cookies);
        free(q->free_slots);
        free(q->sent);
        q->n = NULL;
}

static VHK_COLD VHK_PRINTF(3, 4) int broken(struct vhk_net_queue *q, const char *rule, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vhk_error_vset(&q->error, -EPIPE, rule, format, ap);
        va_end(ap);
        q->broken = true;
        return -EPIPE;
}

static int ring_broken(struct vhk_net_queue *q) {
        return broken(q, "net.ring", "the device gave back what it was not given, or more bytes than there was room for");
}

/* ---- receive ---- */

static int post(struct vhk_net_queue *q, unsigned slot) {
        uint64_t gpa = q->buffers_gpa + (uint64_t)slot * q->n->buffer_size;
        uint32_t head = is_legacy(q->n) ? q->n->header_size : 0;
        struct vhk_drvring_buf sg[2] = { { gpa, head }, { gpa + head, q->n->buffer_size - head } };

        return vhk_drvq_add_gpa(q->rx, head ? sg : sg + 1, 0, head ? 2 : 1, (void *)(uintptr_t)slot);
}

int vhk_net_queue_begin(struct vhk_net_queue *q) {
        for (unsigned i = 0; i < q->n_buffers; i++) {
                int k = post(q, i);
                if (k < 0)
                        return k;
        }
        return vhk_drvq_kick(q->rx);
}

/* All that the device has filled since. 0, or -EPIPE */
static int pull(struct vhk_net_queue *q) {
        struct vhk_done done[REAP_AT_ONCE];
        int k;

        do {
                k = vhk_drvq_reap(q->rx, done, REAP_AT_ONCE);   /* there are no more buffers than there is room */
                for (int i = 0; i < k; i++)
                        q->filled[(q->first_filled + q->n_filled++) & (q->num - 1u)] =
                                (struct vhk_net_filled){ (uint16_t)(uintptr_t)done[i].cookie, done[i].len };
        } while (k == (int)REAP_AT_ONCE);
        return k < 0 ? ring_broken(q) : 0;
}

static struct vhk_net_filled nth(const struct vhk_net_queue *q, unsigned i) {
        return q->filled[(q->first_filled + i) & (q->num - 1u)];
}

/* gso_type to what it needs, to send and to receive */
static const struct { uint8_t type; uint64_t host, guest; } kinds[] = {
        { VHK_NET_GSO_TCPV4, VHK_NET_F_HOST_TSO4, VHK_NET_F_GUEST_TSO4 },
        { VHK_NET_GSO_UDP, VHK_NET_F_HOST_UFO, VHK_NET_F_GUEST_UFO },
        { VHK_NET_GSO_TCPV6, VHK_NET_F_HOST_TSO6, VHK_NET_F_GUEST_TSO6 },
        { VHK_NET_GSO_UDP_L4, VHK_NET_F_HOST_USO, VHK_NET_F_GUEST_USO4 | VHK_NET_F_GUEST_USO6 },
};

/* Any of the bits; 0: there is no such type. */
static uint64_t needed_by(uint8_t type, bool received) {
        for (size_t i = 0; i < VHK_N(kinds); i++)
                if (kinds[i].type == (type & ~VHK_NET_GSO_ECN))
                        return received ? kinds[i].guest : kinds[i].host;
        return 0;
}

static bool is_sum_inside(const struct vhk_net_header *h, uint32_t len) {
        return (uint32_t)h->csum_start + h->csum_offset + 2 <= len;
}

/* The header of a frame of @len bytes, as the caller may see it: what was not negotiated is as if it were not there. */
static int read_header(struct vhk_net_queue *q, const struct vhk_net_wire_header *w, uint32_t len, struct vhk_net_header *ret_h) {
        uint64_t features = q->n->d.features;
        struct vhk_net_header h = { .hdr_len = (uint16_t)VHK_MIN((uint32_t)vhk_le16_get(w->hdr_len), len) };

        if (features & VHK_NET_F_GUEST_CSUM)
                h.flags = w->flags & (VHK_NET_NEEDS_CSUM | VHK_NET_DATA_VALID);
        if (h.flags & VHK_NET_NEEDS_CSUM) {
                h.csum_start = vhk_le16_get(w->csum_start);
                h.csum_offset = vhk_le16_get(w->csum_offset);
                if (!is_sum_inside(&h, len))
                        return broken(q, "net.csum", "a frame of %u bytes wants its checksum at %u + %u", len, h.csum_start, h.csum_offset);
        }
        if (features & needed_by(w->gso_type, true)) {
                h.gso_type = w->gso_type & (features & VHK_NET_F_GUEST_ECN ? 0xff : 0x7f);
                h.gso_size = vhk_le16_get(w->gso_size);
                if (!h.gso_size)
                        return broken(q, "net.gso", "a frame of %u bytes is to be cut in segments of none", len);
        }
        *ret_h = h;
        return 0;
}

/* The frame that begins with the oldest filled buffer, of which @n are as the device says. Its bytes, header included. */
static int64_t check_buffers(struct vhk_net_queue *q, unsigned n) {
        uint32_t room = q->n->buffer_size;
        int64_t sum = 0;

        if (n == 0 || n > q->n_filled)
                return broken(q, "net.num-buffers", "a frame is said to be in %u buffers, %u were filled", n, q->n_filled);
        if (n > q->n->frame_most)
                return broken(q, "net.frame-size", "a frame is said to be in %u buffers of %u bytes", n, room);
        for (unsigned i = 0; i < n; i++) {
                uint32_t len = nth(q, i).len;
                if (len == 0 || (i + 1 < n && len != room))
                        return broken(q, "net.hole", "buffer %u of the %u of a frame holds %u bytes of %u", i, n, len, room);
                sum += len;
        }
        if (sum < (int64_t)(q->n->header_size + VHK_NET_FRAME_LEAST) || sum > (int64_t)(q->n->header_size + VHK_NET_FRAME_MOST))
                return broken(q, "net.frame-size", "a frame of %lld bytes, its header of %u included", (long long)sum, q->n->header_size);
        return sum;
}

static int take_frame(struct vhk_net_queue *q, struct vhk_net_frame *ret_f) {
        struct vhk_net *n = q->n;
        struct vhk_net_filled first = nth(q, 0);
        struct vhk_net_wire_header w = { .num_buffers = vhk_le16_of(1) };
        struct iovec *iov = q->iov + (size_t)first.slot * n->frame_most;
        struct vhk_net_header h;

        if (first.len < n->header_size)
                return broken(q, "net.short", "a frame of %u bytes is shorter than its header of %u", first.len, n->header_size);
        memcpy(&w, q->buffers + (size_t)first.slot * n->buffer_size, n->header_size);   /* once: the device may go on writing */
        unsigned count = vhk_net_has(n, VHK_NET_BIT_MRG_RXBUF) ? vhk_le16_get(w.num_buffers) : 1;
        int64_t sum = check_buffers(q, count);
        int k = sum < 0 ? (int)sum : read_header(q, &w, (uint32_t)sum - n->header_size, &h);
        if (k < 0)
                return k;
        for (unsigned i = 0; i < count; i++) {
                uint32_t head = i ? 0 : n->header_size;
                iov[i] = (struct iovec){ q->buffers + (size_t)nth(q, i).slot * n->buffer_size + head, nth(q, i).len - head };
        }
        q->first_filled += count;
        q->n_filled -= count;
        q->n_out += count;
        q->frame_buffers[first.slot] = (uint16_t)count;
        *ret_f = (struct vhk_net_frame){ .header = h, .iov = iov, .n_iov = count, .len = (uint32_t)sum - n->header_size, .internal = first.slot };
        return 0;
}

/* The frame that comes first; after one that breaks the rules it is not known where the next
 * begins. */
static int next_frame(struct vhk_net_queue *q, struct vhk_net_frame *ret_f) {
        int k = take_frame(q, ret_f);

        if (vhk_unlikely(k < 0))
                q->n_filled = 0;
        return k;
}

static VHK_HOT int receive_ready(struct vhk_net_queue *q, struct vhk_net_frame *ret_frames, unsigned n) {
        unsigned got = 0;
        int k = 0;

        while (got < n) {
                if (!q->n_filled)
                        k = vhk_unlikely(q->broken) ? -EPIPE : pull(q);
                if (!q->n_filled)
                        break;
                k = next_frame(q, &ret_frames[got]);    /* those before a fault are good */
                if (vhk_unlikely(k < 0))
                        break;
                got++;
        }
        return got ? (int)got : k;
}

static int rx_ready(void *queue, void *ret, unsigned at, unsigned n) {
        return receive_ready(queue, (struct vhk_net_frame *)ret + at, n);
}

static bool rx_may_come(void *queue) {
        const struct vhk_net_queue *q = queue;

        return q->n_out < q->n_buffers;
}

VHK_API VHK_HOT int vhk_net_receive(struct vhk_net_queue *q, struct vhk_net_frame *ret_frames, unsigned n, int timeout_ms) {
        struct vhk_drvdev *d = &q->n->d;
        int k = vhk_unlikely(q->rx_wait.wants_fd) ? vhk_drvwait_reap_and_arm(&q->rx_wait, ret_frames, n) : receive_ready(q, ret_frames, n);

        if (vhk_unlikely(k == 0))
                k = vhk_drvwait_some(&q->rx_wait, ret_frames, n, timeout_ms);
        vhk_drvdev_leave(d);
        return k;
}

/* A ring that has ended takes no buffer: its frames are given back nevertheless. */
VHK_API VHK_HOT int vhk_net_release(struct vhk_net_queue *q, const struct vhk_net_frame *frames, unsigned n) {
        int k = 0;

        for (unsigned i = 0; i < n && k == 0; i++) {
                uintptr_t first = frames[i].internal;
                unsigned count = first < q->num ? q->frame_buffers[first] : 0;
                if (!count) {
                        k = -EINVAL;
                        break;
                }
                for (unsigned j = 0; j < count && k == 0; j++) {
                        const struct iovec *v = &q->iov[first * q->n->frame_most + j];
                        k = post(q, (unsigned)((size_t)((uint8_t *)v->iov_base - q->buffers - (j ? 0 : q->n->header_size)) / q->n->buffer_size));
                        if (k == -EPIPE)
                                k = 0;
                }
                q->frame_buffers[first] = 0;
                q->n_out -= count;
        }
        vhk_drvq_kick(q->rx);           /* a failing eventfd write: the ring is published all the same */
        return k;
}

VHK_API int vhk_net_queue_get_fd(struct vhk_net_queue *q) {
        return vhk_drvwait_get_fd(&q->rx_wait);
}

/* ---- send ---- */

static int check_offload(const struct vhk_net *n, const struct vhk_net_header *h, uint32_t len) {
        uint64_t features = n->d.features;

        if (h->flags & ~VHK_NET_NEEDS_CSUM)
                return -EINVAL;
        if (h->flags && !(features & VHK_NET_F_CSUM))
                return -EOPNOTSUPP;
        if (h->flags && !is_sum_inside(h, len))
                return -EINVAL;
        if (h->gso_type == VHK_NET_GSO_NONE)
                return 0;
        if (!(features & needed_by(h->gso_type, false)) || ((h->gso_type & VHK_NET_GSO_ECN) && !(features & VHK_NET_F_HOST_ECN)))
                return -EOPNOTSUPP;
        return h->flags && h->gso_size ? 0 : -EINVAL;           /* segments have checksums of their own */
}

static int64_t measure(const struct vhk_net_frame *f) {
        uint64_t sum = 0;

        for (unsigned i = 0; i < f->n_iov; i++) {
                if (f->iov[i].iov_len > VHK_NET_FRAME_MOST)
                        return -EMSGSIZE;
                sum += f->iov[i].iov_len;
                if (sum > VHK_NET_FRAME_MOST)
                        return -EMSGSIZE;
        }
        return sum < VHK_NET_FRAME_LEAST ? -EINVAL : (int64_t)sum;
}

/* The frame's own buffers, if all of them are lent. Their number, or 0. */
static unsigned as_it_is(struct vhk_net_queue *q, const struct vhk_net_frame *f, struct vhk_drvring_buf *sg) {
        unsigned n = 0;

        for (unsigned i = 0; i < f->n_iov; i++) {
                if (!f->iov[i].iov_len)
                        continue;
                if (n == VHK_NET_SEGMENTS)
                        return 0;
                uint64_t gpa = gpa_of(q, f->iov[i].iov_base, f->iov[i].iov_len);
                if (gpa == UINT64_MAX)
                        return 0;
                sg[n++] = (struct vhk_drvring_buf){ gpa, (uint32_t)f->iov[i].iov_len };
        }
        return n + 1 <= q->num ? n : 0;
}

static int copy(struct vhk_net_queue *q, const struct vhk_net_frame *f, unsigned slot, uint32_t len, struct vhk_drvring_buf *sg) {
        size_t at = slot * copy_stride(q->n);

        if (len > q->n->copy_size)
                return -EMSGSIZE;
        *sg = (struct vhk_drvring_buf){ q->copies_gpa + at, len };
        for (unsigned i = 0; i < f->n_iov; at += f->iov[i++].iov_len)
                if (f->iov[i].iov_len)
                        memcpy(q->copies + at, f->iov[i].iov_base, f->iov[i].iov_len);
        return 1;
}

static VHK_HOT int add(struct vhk_net_queue *q, const struct vhk_net_frame *f) {
        struct vhk_drvring_buf sg[VHK_NET_SEGMENTS + 1];
        const struct vhk_net_header *h = &f->header;

        int64_t len = measure(f);
        int k = len < 0 ? (int)len : check_offload(q->n, h, (uint32_t)len);
        if (vhk_unlikely(k < 0))
                return k;
        if (vhk_unlikely(q->n_free == 0))
                return -EAGAIN;
        unsigned slot = q->free_slots[q->n_free - 1];
        k = (int)as_it_is(q, f, sg + 1);
        if (k == 0)
                k = copy(q, f, slot, (uint32_t)len, sg + 1);
        if (vhk_unlikely(k < 0))
                return k;
        q->headers[slot] = (struct vhk_net_wire_header){ .flags = h->flags, .gso_type = h->gso_type, .hdr_len = vhk_le16_of(h->hdr_len),
                .gso_size = vhk_le16_of(h->gso_size), .csum_start = vhk_le16_of(h->csum_start), .csum_offset = vhk_le16_of(h->csum_offset) };
        sg[0] = (struct vhk_drvring_buf){ q->headers_gpa + slot * sizeof(q->headers[0]), q->n->header_size };
        k = vhk_drvq_add_gpa(q->tx, sg, (unsigned)k + 1, 0, (void *)(uintptr_t)slot);
        if (vhk_unlikely(k < 0))
                return k;
        q->cookies[slot] = f->cookie;
        q->n_cookies += !!f->cookie;
        q->n_free--;
        return 0;
}

/* What the device has sent. A slot with a cookie is free when the caller has that. 0, or -EPIPE */
static int look_at_sent(struct vhk_net_queue *q) {
        struct vhk_done done[REAP_AT_ONCE];
        int k;

        do {
                k = vhk_drvq_reap(q->tx, done, REAP_AT_ONCE);
                for (int i = 0; i < k; i++) {
                        uint16_t slot = (uint16_t)(uintptr_t)done[i].cookie;
                        if (q->cookies[slot])
                                q->sent[(q->first_sent + q->n_sent++) & (q->num - 1u)] = slot;
                        else
                                q->free_slots[q->n_free++] = slot;
                }
        } while (k == (int)REAP_AT_ONCE);
        return k < 0 ? ring_broken(q) : 0;
}

VHK_API VHK_HOT int vhk_net_send(struct vhk_net_queue *q, const struct vhk_net_frame *frames, unsigned n) {
        unsigned i = 0;

        if (vhk_unlikely(q->broken))
                return -EPIPE;
        if (vhk_unlikely(vhk_drvdev_is_gone(&q->n->d)))
                return vhk_drvdev_fail_end(&q->n->d, q->tx);
        int k = look_at_sent(q);
        while (k == 0 && i < n && (k = add(q, &frames[i])) == 0)
                i++;
        if (vhk_likely(i > 0)) {
                vhk_drvq_kick(q->tx);   /* a failing eventfd write: the ring is published all the same */
                return (int)i;
        }
        return k == -EAGAIN ? 0 : k;
}

static int tx_ready(void *queue, void *ret, unsigned at, unsigned n) {
        struct vhk_net_queue *q = queue;
        void **cookies = (void **)ret + at;
        unsigned got = 0;

        int k = q->broken ? -EPIPE : look_at_sent(q);
        for (; got < n && q->n_sent; q->n_sent--, q->n_cookies--) {
                uint16_t slot = q->sent[q->first_sent++ & (q->num - 1u)];
                cookies[got++] = q->cookies[slot];
                q->free_slots[q->n_free++] = slot;
        }
        return got ? (int)got : k;
}

static bool tx_may_come(void *queue) {
        const struct vhk_net_queue *q = queue;

        return q->n_cookies;
}

VHK_API int vhk_net_reap(struct vhk_net_queue *q, void **ret_cookies, unsigned n, int timeout_ms) {
        struct vhk_drvdev *d = &q->n->d;
        int k = tx_ready(q, ret_cookies, 0, n);

        if (k == 0) {
                k = vhk_drvwait_some(&q->tx_wait, ret_cookies, n, timeout_ms);
                vhk_drvq_disarm(q->tx);         /* no thread waits: the next burst looks by itself */
        }
        vhk_drvdev_leave(d);
        return k;
}

VHK_API const struct vhk_error *vhk_net_queue_get_error(struct vhk_net_queue *q) {
        return q->broken ? &q->error : vhk_frontend_get_error(q->n->d.f);
}
