/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The network driver against a device that writes what it likes: used rings, headers, answers to commands, configuration space. The
 * front-end's calls are ours and do nothing but remember where the rings are; so the driver is the one of the library, from
 * vhk_net_open() on. What it shows of a frame must lie inside of the buffers that the frame is in, and be as long as it says.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <vhostkit/kernel.h>

#include "base/fd.h"
#include "driver/net.h"
#include "frontend/driver.h"
#include "ring/ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RINGS 16u
#define FRAMES 8u

static struct fake {
        struct vhk_ring_setup rings[RINGS];
        uint64_t features;
        uint8_t config[12];
        int fd;                         /* an eventfd that is always readable */
} fake = { .fd = -1 };
static const struct vhk_error story = { .rule = "fuzz", .text = "no story" };
static struct vhk_net *net;

/* ---- the script ---- */

static const uint8_t *at, *end;

static uint8_t next(void) { return at < end ? *at++ : 0; }
static uint16_t next16(void) { return (uint16_t)(next() | next() << 8); }

static void take(void *p, size_t n) {
        for (size_t i = 0; i < n; i++)
                ((uint8_t *)p)[i] = next();
}

/* ---- the front-end ---- */

int vhk_frontend_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e) {
        *ret_f = (struct vhk_frontend *)&fake;
        return 0;
}

struct vhk_frontend *vhk_frontend_close(struct vhk_frontend *f) { return NULL; }

int vhk_frontend_get_info(struct vhk_frontend *f, struct vhk_frontend_info *ret_i) {
        size_t size = ret_i->size;
        struct vhk_frontend_info i = { .size = size, .capabilities = VHK_CAP_CONFIG, .features = fake.features, .acked = fake.features,
                                       .n_queues = RINGS, .mem_slots = 8, .iova_last = UINT64_MAX };

        memcpy(ret_i, &i, VHK_MIN(size, sizeof(i)));
        return 0;
}

const struct vhk_error *vhk_frontend_get_error(struct vhk_frontend *f) { return &story; }
int vhk_frontend_set_features(struct vhk_frontend *f, uint64_t features) { fake.features = features; return 0; }
int vhk_frontend_set_memory(struct vhk_frontend *f, struct vhk_memory *m) { return 0; }
int vhk_frontend_get_status(struct vhk_frontend *f, uint8_t *ret_status) { return -EOPNOTSUPP; }
int vhk_frontend_set_status(struct vhk_frontend *f, uint8_t status) { return -EOPNOTSUPP; }
int vhk_frontend_set_backend(struct vhk_frontend *f, unsigned i, int fd) { return -EOPNOTSUPP; }
int vhk_frontend_get_fd(struct vhk_frontend *f) { return fake.fd; }
int vhk_frontend_dispatch(struct vhk_frontend *f) { return 0; }

int vhk_frontend_get_config(struct vhk_frontend *f, uint32_t off, void *ret_buf, uint32_t n) {
        memcpy(ret_buf, fake.config + off, n);
        return 0;
}

int vhk_frontend_start_queue(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s) {
        if (i >= RINGS)
                return -EINVAL;
        fake.rings[i] = *s;
        return 0;
}

int vhk_frontend_stop_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base) { return 0; }
int vhk_frontend_prepare_close(struct vhk_frontend *f) { return 0; }

int vhk_frontend_fail(struct vhk_frontend *f, int code, const char *rule, const char *format, ...) { return code; }
int vhk_frontend_fail_final(struct vhk_frontend *f) { return -EPIPE; }
bool vhk_frontend_is_final(const struct vhk_frontend *f) { return false; }
bool vhk_frontend_has_features(const struct vhk_frontend *f) { return true; }

uint64_t vhk_frontend_shared_generation(const struct vhk_frontend *f, const struct vhk_memory *m) {
        return vhk_memory_generation(m);
}

/* ---- the device ---- */

static void *host_of(uint64_t gpa) {
        for (unsigned i = 0; i < net->d.n_chunks; i++)
                if (gpa - net->d.chunks[i].gpa < net->d.chunks[i].len)
                        return (void *)(net->d.chunks[i].va + (gpa - net->d.chunks[i].gpa));
        return NULL;
}

static struct vhk_used *used_of(unsigned ring) { return host_of(fake.rings[ring].device); }

/* The first buffer of the request that was offered as @idx-th, and which it is; NULL: it is not out. */
static uint8_t *buffer_of(unsigned ring, uint16_t idx, uint32_t *ret_id) {
        const struct vhk_ring_setup *r = &fake.rings[ring];
        const struct vhk_avail *avail = host_of(r->driver);
        const struct vhk_desc *d = host_of(r->desc);

        if ((uint16_t)(vhk_le16_get(avail->idx) - idx - 1) >= r->num)
                return NULL;
        *ret_id = vhk_le16_get(avail->ring[idx % r->num]);
        d += *ret_id;
        if (vhk_le16_get(d->flags) & VHK_DESC_INDIRECT)
                d = host_of(vhk_le64_get(d->addr));
        if (!d)
                return NULL;            /* an entry of before the first */
        return host_of(vhk_le64_get(d->addr));
}

/* One entry of the used ring, most often as an honest device would: of a request that is out, full, with a header. */
static void use(unsigned ring) {
        uint16_t num = fake.rings[ring].num;
        struct vhk_used *used = used_of(ring);
        uint16_t idx = vhk_le16_get(used->idx);
        uint8_t kind = next();
        uint32_t id = 0, len = kind & 2 ? next16() : net->buffer_size;

        uint8_t *buffer = buffer_of(ring, idx, &id);
        if (kind & 1)
                id = next16();
        else if (!buffer)
                return;
        if (ring == 0 && buffer && (kind & 4)) {
                take(buffer, 10);
                buffer[10] = next();
                buffer[11] = 0;
        }
        used->ring[idx % num] = (struct vhk_used_elem){ vhk_le32_of(id), vhk_le32_of(kind & 8 ? len << 16 | len : len) };
        vhk_store_release(&used->idx.v, vhk_le16_of((uint16_t)(idx + (kind & 16 ? next16() : 1))).v);
}

/* As many as a frame needs, each of them full but the last. */
static void use_many(void) {
        struct vhk_used *used = used_of(0);
        uint16_t idx = vhk_le16_get(used->idx), n = next() % 8 + 1, num = fake.rings[0].num;
        uint32_t id;

        for (uint16_t i = 0; i < n; i++) {
                uint8_t *buffer = buffer_of(0, (uint16_t)(idx + i), &id);
                if (!buffer)
                        return;
                if (i == 0) {
                        take(buffer, 10);
                        buffer[10] = (uint8_t)n;
                        buffer[11] = 0;
                }
                used->ring[(uint16_t)(idx + i) % num] =
                        (struct vhk_used_elem){ vhk_le32_of(id), vhk_le32_of(i + 1 < n ? net->buffer_size : next() + 1u) };
        }
        vhk_store_release(&used->idx.v, vhk_le16_of((uint16_t)(idx + n)).v);
}

/* ---- what the caller sees ---- */

static void check_frame(const struct vhk_net_queue *q, const struct vhk_net_frame *f) {
        uint64_t sum = 0;
        volatile uint8_t touched;

        if (f->n_iov < 1 || f->n_iov > net->frame_most)
                abort();
        for (unsigned i = 0; i < f->n_iov; i++) {
                size_t off = (size_t)((uint8_t *)f->iov[i].iov_base - q->buffers), slot = off / net->buffer_size;
                if (slot >= q->n_buffers || off + f->iov[i].iov_len > (slot + 1) * net->buffer_size)
                        abort();
                for (size_t k = 0; k < f->iov[i].iov_len; k++)
                        touched = ((uint8_t *)f->iov[i].iov_base)[k];
                sum += f->iov[i].iov_len;
        }
        (void)touched;
        if (sum != f->len || sum < 14 || sum > VHK_NET_FRAME_MOST)
                abort();
        if ((f->header.flags & VHK_NET_NEEDS_CSUM) && (uint32_t)f->header.csum_start + f->header.csum_offset + 2 > f->len)
                abort();
        if (f->header.gso_type && !f->header.gso_size)
                abort();
}

static void play(struct vhk_net_queue *q) {
        static uint8_t bytes[300];
        struct vhk_net_frame held[FRAMES], f;
        unsigned n_held = 0;
        void *cookies[4];

        while (at < end) {
                struct iovec iov = { bytes, next() };
                struct vhk_net_frame out = { .iov = &iov, .n_iov = 1, .cookie = at[-1] & 1 ? bytes : NULL };
                switch (next() % 7) {
                case 0: use(0); break;
                case 1: use(1); break;
                case 2: use_many(); break;
                case 3:
                        if (n_held < FRAMES && vhk_net_receive(q, &held[n_held], 1, 0) == 1)
                                check_frame(q, &held[n_held++]);
                        break;
                case 4:
                        if (n_held) {
                                unsigned i = next() % n_held;
                                if (vhk_net_release(q, &held[i], 1) < 0)
                                        abort();
                                f = held[i];
                                held[i] = held[--n_held];
                                if (vhk_net_release(q, &f, 1) != -EINVAL)       /* once */
                                        abort();
                        }
                        break;
                case 5:
                        take(&out.header, sizeof(out.header));
                        (void)vhk_net_send(q, &out, 1);
                        break;
                case 6: (void)vhk_net_reap(q, cookies, 4, 0); break;
                }
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const uint32_t sizes[] = { 0, 128, 256, 2048 };
        struct vhk_net_options o = { .size = sizeof(o) };
        struct vhk_net_queue *q;
        struct vhk_error e;

        at = data;
        end = data + size;
        if (fake.fd < 0)
                fake.fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        uint8_t mode = next();
        take(fake.config, sizeof(fake.config));
        o.buffer_size = sizes[mode & 3];
        o.queue_size = mode & 4 ? 8 : 64;
        o.polling = !!(mode & 8);
        /* without a control queue: its answers are waited for */
        fake.features = (mode & 16 ? 0 : VHK_BIT(VHK_NET_BIT_MRG_RXBUF)) | (mode & 32 ? 0 : VHK_BIT(VHK_DRVDEV_F_VERSION_1)) |
                        (mode & 64 ? VHK_BIT(VHK_DRVDEV_F_INDIRECT) | VHK_BIT(VHK_DRVDEV_F_EVENT_IDX) : 0) | VHK_BIT(VHK_NET_BIT_MTU);
        if (mode & 128) {
                o.features_take = VHK_NET_F_CSUM | VHK_NET_F_GUEST_CSUM | VHK_NET_F_HOST_TSO4 | VHK_NET_F_GUEST_TSO4 | VHK_NET_F_GUEST_UFO;
                fake.features |= o.features_take;
        }
        if (vhk_net_open("fuzz", &o, &net, &e) < 0)
                return 0;
        if (vhk_net_get_queue(net, 0, &q) < 0)
                abort();
        play(q);
        vhk_net_close(net);
        return 0;
}
