/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A virtqueue over any front-end: ring/ does the ring, this file finds it a place in lent memory, hands it to the
 * back-end with its descriptors and notifies. One thread at a time; no allocation after it was made.
 * Source: virtio 1.3, 2.7.
 */
#include "driver/drvq.h"

#include <sys/eventfd.h>

#include "base/fd.h"
#include "base/struct.h"
#include "frontend/driver.h"
#include "mem/mem.h"

#define NUM_DEFAULT 128u
#define NUM_LEAST 2u                    /* that is tried where the caller has no wish */
#define INDIRECT_MAX 128u
#define F_INDIRECT VHK_BIT(28)          /* virtio 1.3, 6: VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX */
#define F_EVENT_IDX VHK_BIT(29)
#define F_RING_PACKED VHK_BIT(34)       /* VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_NOTIFICATION_DATA: see check_features() */
#define F_IN_ORDER VHK_BIT(35)
#define F_NOTIFICATION_DATA VHK_BIT(38)

struct vhk_drvq {
        struct vhk_drvring *ring;
        int kick_fd, call_fd;
        bool polling;                   /* call_fd is there all the same, see make() */
        uint16_t num;
        unsigned index;
        struct vhk_frontend *f;
        bool started;
        struct vhk_ring_setup setup;    /* as it was started; base: where it stopped */
        /* of vhk_drvq_new(), NULL otherwise: the caller's table; where the ring is in it; the
         * region that was translated last */
        struct vhk_memory *m;
        void *mem;
        uint64_t generation;
        uint64_t last_va, last_len, last_gpa;
};

/* ---- the place ---- */

struct layout {
        size_t desc, avail, used, tables, end;
};

/* Each area on cache lines of its own: driver and device write to different ones. */
static struct layout layout_of(uint16_t num, uint16_t indirect_max) {
        struct layout l = { 0 };

        l.avail = l.desc + vhk_desc_bytes(num);
        l.used = (l.avail + vhk_avail_bytes(num) + 127) & ~(size_t)127;
        l.tables = (l.used + vhk_used_bytes(num) + 127) & ~(size_t)127;
        l.end = l.tables + (size_t)num * indirect_max * sizeof(struct vhk_desc);
        return l;
}

size_t vhk_drvq_bytes(uint16_t num, uint16_t indirect_max) {
        return (layout_of(num, indirect_max).end + VHK_PAGE - 1) & ~(size_t)(VHK_PAGE - 1);
}

/* ---- making ---- */

static int make_ring(struct vhk_drvq *q, uint64_t features, const struct vhk_drvq_place *p) {
        struct layout l = layout_of(q->num, p->indirect_max);
        uint8_t *mem = p->mem;
        bool indirect = (features & F_INDIRECT) && p->indirect_max;

        return vhk_drvring_new(&(struct vhk_drvring_setup){
                .num = q->num, .event_idx = features & F_EVENT_IDX, .indirect = indirect, .strict = p->strict,
                .desc = mem + l.desc, .avail = mem + l.avail, .used = mem + l.used, .gpa = p->gpa, .gpa_arg = p->gpa_arg,
                .indirect_tables = indirect ? (void *)(mem + l.tables) : NULL, .indirect_max = indirect ? p->indirect_max : 0,
        }, &q->ring);
}

static int start(struct vhk_drvq *q, const struct vhk_drvq_place *p) {
        struct layout l = layout_of(q->num, p->indirect_max);
        uint64_t gpa = p->gpa(p->gpa_arg, p->mem, l.end);

        if (gpa == UINT64_MAX)
                return vhk_frontend_fail(q->f, -EFAULT, "drvq.memory", "queue %u: the memory of the ring is not shared with the back-end", q->index);
        q->setup = (struct vhk_ring_setup){
                .size = sizeof(q->setup), .num = q->num, .desc = gpa + l.desc, .driver = gpa + l.avail, .device = gpa + l.used,
                .kick_fd = q->kick_fd, .call_fd = q->call_fd, .err_fd = -1,
        };
        return vhk_drvq_start(q);
}

VHK_API int vhk_drvq_start(struct vhk_drvq *q) {
        int k = q->started ? 0 : vhk_frontend_start_queue(q->f, q->index, &q->setup);

        q->started |= k == 0;
        return k;
}

VHK_API int vhk_drvq_stop(struct vhk_drvq *q) {
        int k = q->started ? vhk_frontend_stop_queue(q->f, q->index, &q->setup.base) : 0;

        q->started &= k < 0;
        return k;
}

static void unmake(struct vhk_drvq *q) {
        q->ring = vhk_drvring_free(q->ring);
        vhk_close(&q->kick_fd);
        vhk_close(&q->call_fd);
}

static int fail_eventfd(struct vhk_drvq *q) {
        return vhk_frontend_fail(q->f, vhk_errno(), "drvq.eventfd", "queue %u: cannot make an eventfd: %s", q->index, strerror(errno));
}

static int make(struct vhk_drvq *q, const struct vhk_drvq_options *o, const struct vhk_drvq_place *p) {
        struct vhk_frontend_info info = { .size = sizeof(info) };

        int k = vhk_frontend_get_info(q->f, &info);
        if (k == 0)
                k = make_ring(q, info.acked, p);
        if (k < 0)
                return vhk_frontend_fail(q->f, k, "drvq.memory", "queue %u: cannot make a ring of %u entries: %s", q->index, q->num, strerror(-k));
        q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (q->kick_fd < 0)
                return fail_eventfd(q);
        /* Polling drivers give one too, though nobody reads it: libvhost-user notifies its first used buffer whatever the
         * ring says, and ends the connection if it cannot. */
        q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (q->call_fd < 0)
                return fail_eventfd(q);
        q->polling = o->polling;
        if (q->polling)
                vhk_drvring_disarm(q->ring);
        return start(q, p);
}

static int check_options(const struct vhk_drvq_options *o, struct vhk_drvq_options *ret_o) {
        struct vhk_drvq_options own = { .size = sizeof(own) };

        int ret = o ? VHK_STRUCT_TAKE(&own, o, polling) : 0;
        if (ret < 0)
                return ret;
        own.num = own.num ? own.num : NUM_DEFAULT;
        if (!vhk_is_pow2(own.num) || own.num > VHK_QUEUE_MAX_SIZE)
                return -EINVAL;
        *ret_o = own;
        return 0;
}

static int allocate(struct vhk_frontend *f, unsigned i, const struct vhk_drvq_options *o, struct vhk_drvq_options *ret_o, struct vhk_drvq **ret_q) {
        int k = check_options(o, ret_o);
        if (k < 0)
                return vhk_frontend_fail(f, k, "drvq.options", "queue %u: struct vhk_drvq_options: num is to be a power of two up to %u, and size "
                                         "is to be set", i, VHK_QUEUE_MAX_SIZE);
        struct vhk_drvq *q = calloc(1, sizeof(*q));
        if (!q)
                return vhk_frontend_fail(f, -ENOMEM, "drvq.memory", "queue %u: no memory for the queue", i);
        *q = (struct vhk_drvq){ .kick_fd = -1, .call_fd = -1, .num = ret_o->num, .index = i, .f = f };
        *ret_q = q;
        return 0;
}

int vhk_drvq_new_at(struct vhk_frontend *f, unsigned i, const struct vhk_drvq_options *o, const struct vhk_drvq_place *p, struct vhk_drvq **ret_q) {
        struct vhk_drvq_options own;
        struct vhk_drvq *q;

        int k = allocate(f, i, o, &own, &q);
        if (k < 0)
                return k;
        k = make(q, &own, p);
        if (k < 0) {
                vhk_drvq_free(q);
                return k;
        }
        *ret_q = q;
        return 0;
}

/* ---- in memory of the caller's ---- */

static VHK_COLD uint64_t find_region(struct vhk_drvq *q, const void *va, uint64_t len) {
        struct vhk_region r;

        if (vhk_memory_find_region(q->m, va, len, vhk_frontend_shared_generation(q->f, q->m), &r) < 0)
                return UINT64_MAX;
        q->generation = vhk_memory_generation(q->m);
        q->last_va = (uintptr_t)r.va;
        q->last_len = r.len;
        q->last_gpa = r.gpa.v;
        return r.gpa.v + ((uintptr_t)va - (uintptr_t)r.va);
}

static uint64_t gpa_of(void *arg, const void *va, uint64_t len) {
        struct vhk_drvq *q = arg;
        uint64_t off = (uintptr_t)va - q->last_va;

        if (vhk_likely(vhk_memory_generation(q->m) == q->generation && off < q->last_len && len <= q->last_len - off))
                return q->last_gpa + off;
        return find_region(q, va, len);
}

/* A packed ring has another layout; with the other two the device marks requests as used, and the
 * driver notifies, in a way that this one does not know. */
static int check_features(struct vhk_frontend *f, unsigned i) {
        static const struct { uint64_t bit; const char *name; } unknown[] = {
                { F_RING_PACKED, "RING_PACKED" }, { F_IN_ORDER, "IN_ORDER" }, { F_NOTIFICATION_DATA, "NOTIFICATION_DATA" },
        };
        struct vhk_frontend_info info = { .size = sizeof(info) };

        int ret = vhk_frontend_get_info(f, &info);
        if (ret < 0)
                return ret;
        if (!vhk_frontend_has_features(f))
                return vhk_frontend_fail(f, -EINVAL, "drvq.features", "queue %u: no features are negotiated: vhk_frontend_set_features() comes first", i);
        for (size_t j = 0; j < VHK_N(unknown); j++)
                if (info.acked & unknown[j].bit)
                        return vhk_frontend_fail(f, -EOPNOTSUPP, "drvq.features", "queue %u: %s is negotiated, expected a split ring without it", i,
                                                 unknown[j].name);
        return 0;
}

/* In memory that a freed ring left, if there is some: to a back-end without memory slots a region
 * more is the whole table again. */
static int place(struct vhk_drvq *q, uint64_t bytes) {
        vhk_gpa_t gpa;

        q->mem = vhk_memory_reuse(q->m, bytes);
        bool is_new = !q->mem;
        int ret = is_new ? vhk_memory_alloc(q->m, bytes, &q->mem) : 0;
        if (ret < 0)
                return vhk_frontend_fail(q->f, ret, "drvq.memory", "queue %u: no memory of %llu bytes for the ring: %s", q->index,
                                         (unsigned long long)bytes, strerror(-ret));
        ret = vhk_frontend_set_memory(q->f, q->m);
        if (ret < 0 && is_new && vhk_memory_find(q->m, q->mem, bytes, &gpa) == 0) {
                vhk_memory_remove(q->m, gpa, bytes);
                q->mem = NULL;
        }
        return ret;
}

/* A back-end need not report how large its rings may be: where the caller has no wish, half the
 * size is tried when it refuses. */
static int make_any_size(struct vhk_drvq *q, const struct vhk_drvq_options *o, bool wish, uint16_t indirect_max) {
        for (;; q->num /= 2) {
                int ret = make(q, o, &(struct vhk_drvq_place){ .mem = q->mem, .indirect_max = indirect_max, .gpa = gpa_of, .gpa_arg = q });
                if (ret != -EREMOTEIO || wish || q->num <= NUM_LEAST)
                        return ret;
                unmake(q);
        }
}

VHK_API int vhk_drvq_new(struct vhk_frontend *f, struct vhk_memory *m, unsigned i, const struct vhk_drvq_options *o, struct vhk_drvq **ret_q) {
        struct vhk_frontend_info info = { .size = sizeof(info) };
        struct vhk_drvq_options own;
        bool wish = o && o->num;
        struct vhk_drvq *q;

        int ret = check_features(f, i);
        if (ret < 0)
                return ret;
        ret = allocate(f, i, o, &own, &q);
        if (ret < 0)
                return ret;
        q->m = m;
        vhk_frontend_get_info(f, &info);
        while (!wish && info.queue_size_max && q->num > info.queue_size_max && q->num > NUM_LEAST)
                q->num /= 2;
        uint16_t indirect_max = (uint16_t)VHK_MIN((unsigned)q->num, INDIRECT_MAX);
        ret = place(q, vhk_drvq_bytes(q->num, indirect_max));
        if (ret == 0)
                ret = make_any_size(q, &own, wish, indirect_max);
        if (ret < 0) {
                vhk_drvq_free(q);
                return ret;
        }
        *ret_q = q;
        return 0;
}

VHK_API struct vhk_drvq *vhk_drvq_free(struct vhk_drvq *q) {
        if (!q)
                return NULL;
        /* The memory is used again, by another ring of this table, only if the device has let go of
         * it. It is not taken out of the table: libvhost-user ends the connection at the first new
         * region after one was removed that held a ring, stopped or not. */
        if (vhk_drvq_stop(q) == 0 && q->m && q->mem)
                vhk_memory_release(q->m, q->mem);
        unmake(q);
        free(q);
        return NULL;
}

/* ---- use ---- */

/* Of a ring of vhk_drvq_new(), whose front-end is this thread's: why it is over. The drivers of
 * this library report that themselves. */
static VHK_COLD int fail_end(struct vhk_drvq *q) {
        if (!q->m)
                return -EPIPE;
        if (vhk_drvring_is_broken(q->ring))
                return vhk_frontend_fail(q->f, -EPIPE, "drvq.ring", "queue %u: the device broke the rules of the ring: it returned a descriptor that was not available, or too large a used length",
                                         q->index);
        return vhk_frontend_fail_final(q->f);
}

static VHK_COLD int fail_add(struct vhk_drvq *q, int code) {
        if (code == -EPIPE)
                return fail_end(q);
        if (code == -EFAULT && q->m)
                vhk_frontend_fail(q->f, code, "drvq.memory", "queue %u: a buffer is not in memory that vhk_frontend_set_memory() has shared", q->index);
        return code;
}

static bool is_over(const struct vhk_drvq *q) {
        return q->m && vhk_frontend_is_final(q->f);
}

VHK_API VHK_HOT int vhk_drvq_add(struct vhk_drvq *q, const struct iovec *sg, unsigned n_out, unsigned n_in, void *cookie) {
        if (vhk_unlikely(is_over(q)))
                return fail_end(q);
        int ret = vhk_drvring_add(q->ring, sg, n_out, n_in, cookie);

        return vhk_likely(ret == 0) ? 0 : fail_add(q, ret);
}

VHK_HOT int vhk_drvq_add_gpa(struct vhk_drvq *q, const struct vhk_drvring_buf *sg, unsigned n_out, unsigned n_in, void *cookie) {
        return vhk_drvring_add_gpa(q->ring, sg, n_out, n_in, cookie);
}

VHK_API VHK_HOT int vhk_drvq_kick(struct vhk_drvq *q) {
        if (vhk_drvring_publish(q->ring))
                return vhk_peer_notify(q->kick_fd);
        return vhk_unlikely(vhk_drvring_is_broken(q->ring) || is_over(q)) ? fail_end(q) : 0;
}

VHK_API VHK_HOT int vhk_drvq_reap(struct vhk_drvq *q, struct vhk_done *ret_done, unsigned n) {
        int ret = vhk_drvring_reap(q->ring, ret_done, n);

        if (vhk_unlikely(ret < 0) || (ret == 0 && is_over(q)))
                return fail_end(q);
        return ret;
}

unsigned vhk_drvq_get_index(const struct vhk_drvq *q) {
        return q->index;
}

bool vhk_drvq_is_broken(const struct vhk_drvq *q) {
        return vhk_drvring_is_broken(q->ring);
}

VHK_API int vhk_drvq_arm(struct vhk_drvq *q) {
        return vhk_drvring_arm(q->ring);
}

VHK_API void vhk_drvq_disarm(struct vhk_drvq *q) {
        vhk_drvring_disarm(q->ring);
}

VHK_API int vhk_drvq_get_fd(const struct vhk_drvq *q) {
        return q->polling ? -1 : q->call_fd;
}

VHK_API const struct vhk_ring_setup *vhk_drvq_get_setup(const struct vhk_drvq *q) {
        return &q->setup;
}

VHK_API unsigned vhk_drvq_n_in_flight(const struct vhk_drvq *q) {
        return vhk_drvring_n_in_flight(q->ring);
}

VHK_API unsigned vhk_drvq_get_size(const struct vhk_drvq *q) {
        return q->num;
}
