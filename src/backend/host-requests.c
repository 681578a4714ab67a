/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a device asks of its front-end: shared memory and shared objects. The public calls: any thread; the rest, and all
 * callbacks: control worker.
 *
 * A request travels to control as an errand, which owns its descriptor, and ends exactly once: by the answer, by the end of the
 * channel, at the time limit, or because it could not be sent. The back-end ends when no errand is on its way to control.
 *
 * Source: vhost-user, "VHOST_USER_BACKEND_SHMEM_MAP", "VHOST_USER_BACKEND_SHARED_OBJECT_ADD" and their neighbours,
 * "VHOST_USER_GET_SHMEM_CONFIG", "VHOST_USER_GET_SHARED_OBJECT".
 */
#include <fcntl.h>

#include "backend/session.h"
#include "base/struct.h"

struct errand {
        struct vhk_post post;
        struct vhk_host *host;
        uint32_t id, size;
        union {
                struct vhk_p_mmap mmap;
                struct vhk_p_uuid uuid;
                struct vhk_p_vring_area area;
        } payload;
        int fd;                         /* -1: none */
        vhk_done_fn done;               /* this one, */
        vhk_fd_fn done_fd;              /* or this one, or none */
        void *arg;
};

/* ---- control ---- */

static void errand_end(struct errand *e, int error, int *fd) {
        if (e->done_fd)
                e->done_fd(e->arg, error, error ? -1 : VHK_STEAL_FD(*fd));
        else if (e->done)
                e->done(e->arg, error);
        vhk_close(&e->fd);
        free(e);
}

static void answered(struct vhk_backend *b, int error, const void *reply, uint32_t size, int *fd, uint64_t arg) {
        errand_end((struct errand *)(uintptr_t)arg, error, fd);
}

static void on_errand(struct vhk_post *p) {
        struct errand *e = vhk_container_of(p, struct errand, post);
        struct vhk_host *h = e->host;
        int none = -1;

        int k = vhk_channel_send(&h->b->channel, e->id, &e->payload, e->size, e->fd, answered, (uintptr_t)e);
        if (k == 0)
                vhk_close(&e->fd);
        else
                errand_end(e, k < 0 ? k : 0, &none);
        /* last: the back-end may end. Pairs with nothing but itself: the end is looked for on this thread */
        __atomic_fetch_sub(&h->n_errands, 1, __ATOMIC_RELEASE);
}

/* ---- any thread ---- */

/* Takes @e's descriptor. */
static int run(struct vhk_host *h, uint64_t feature, const struct errand *e) {
        struct errand *own;
        int fd = e->fd;

        if (!(vhk_load_relaxed(&h->usable) & feature))          /* a hint: control looks again */
                return -EOPNOTSUPP;
        own = malloc(sizeof(*own));
        if (!own)
                return -ENOMEM;
        *own = *e;
        own->host = h;
        own->post = (struct vhk_post){ .fn = on_errand };
        own->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (fd >= 0 && own->fd < 0) {
                int k = vhk_errno() == -EBADF ? -EINVAL : vhk_errno();
                free(own);
                return k;
        }
        __atomic_fetch_add(&h->n_errands, 1, __ATOMIC_RELAXED); /* ordered by the post */
        vhk_worker_post(h->b->o.control, &own->post);
        return 0;
}

static bool is_in_region(const struct vhk_host *h, uint8_t id, uint64_t offset, uint64_t len) {
        uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

        return len && !((offset | len) % page) && vhk_range_within(offset, len, h->b->shmem_sizes[id]);
}

VHK_API int vhk_host_shmem_map(struct vhk_host *h, const struct vhk_shmem_map *theirs, vhk_done_fn done, void *arg) {
        struct vhk_shmem_map own = { .size = sizeof(own) };
        const struct vhk_shmem_map *m = &own;
        uint64_t end;

        int ret = VHK_STRUCT_TAKE(&own, theirs, fd_offset);
        if (ret < 0)
                return ret;
        if (m->fd < 0 || m->fd_offset % (uint64_t)sysconf(_SC_PAGESIZE) ||
            vhk_add_overflows(m->fd_offset, m->len, &end) || !is_in_region(h, m->id, m->offset, m->len))
                return -EINVAL;
        return run(h, VHK_BIT(VHK_PF_SHMEM), &(struct errand){
                .id = VHK_BE_SHMEM_MAP, .size = sizeof(struct vhk_p_mmap), .fd = m->fd, .done = done, .arg = arg,
                .payload.mmap = { .shmid = m->id, .fd_offset = m->fd_offset, .shm_offset = m->offset, .len = m->len,
                                  .flags = m->writable ? VHK_MMAP_RW : 0 } });
}

VHK_API int vhk_host_shmem_unmap(struct vhk_host *h, uint8_t id, uint64_t offset, uint64_t len, vhk_done_fn done, void *arg) {
        if (!is_in_region(h, id, offset, len))
                return -EINVAL;
        return run(h, VHK_BIT(VHK_PF_SHMEM), &(struct errand){
                .id = VHK_BE_SHMEM_UNMAP, .size = sizeof(struct vhk_p_mmap), .fd = -1, .done = done, .arg = arg,
                .payload.mmap = { .shmid = id, .shm_offset = offset, .len = len } });
}

VHK_API int vhk_host_set_notifier_area(struct vhk_host *h, unsigned queue, int fd, uint64_t offset, vhk_done_fn done, void *arg) {
        uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end;

        if (queue >= h->b->n_queues || (fd >= 0 && (offset % page || vhk_add_overflows(offset, page, &end))))
                return -EINVAL;
        return run(h, VHK_BIT(VHK_PF_HOST_NOTIFIER), &(struct errand){
                .id = VHK_BE_VRING_HOST_NOTIFIER_MSG, .size = sizeof(struct vhk_p_vring_area), .fd = fd < 0 ? -1 : fd, .done = done, .arg = arg,
                .payload.area = { .ring = queue | (fd < 0 ? VHK_RING_NO_FD : 0), .len = fd < 0 ? 0 : page, .offset = fd < 0 ? 0 : offset } });
}

static int run_object(struct vhk_host *h, uint32_t id, const uint8_t uuid[16], vhk_done_fn done, vhk_fd_fn done_fd, void *arg) {
        struct errand e = { .id = id, .size = sizeof(struct vhk_p_uuid), .fd = -1, .done = done, .done_fd = done_fd, .arg = arg };

        memcpy(e.payload.uuid.uuid, uuid, sizeof(e.payload.uuid.uuid));
        return run(h, VHK_BIT(VHK_PF_SHARED_OBJECT), &e);
}

VHK_API int vhk_host_object_add(struct vhk_host *h, const uint8_t uuid[16], vhk_done_fn done, void *arg) {
        return run_object(h, VHK_BE_SHARED_OBJECT_ADD, uuid, done, NULL, arg);
}

VHK_API int vhk_host_object_remove(struct vhk_host *h, const uint8_t uuid[16], vhk_done_fn done, void *arg) {
        return run_object(h, VHK_BE_SHARED_OBJECT_REMOVE, uuid, done, NULL, arg);
}

VHK_API int vhk_host_object_lookup(struct vhk_host *h, const uint8_t uuid[16], vhk_fd_fn done, void *arg) {
        return done ? run_object(h, VHK_BE_SHARED_OBJECT_LOOKUP, uuid, NULL, done, arg) : -EINVAL;
}

/* ---- what the front-end asks in turn ---- */

int vhk_host_ask_shmem(struct vhk_backend *b, struct vhk_error *ret_e) {
        const struct vhk_shmem_ops *ops = b->ops->shmem;
        uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

        int k = ops ? ops->get_config(b->dev, b->shmem_sizes) : 0;
        if (k < 0)
                return vhk_error_set(ret_e, k, "device.shmem", "the device does not tell its shared memory regions: %s", strerror(-k));
        for (unsigned i = 0; ops && i < VHK_SHMEM_REGIONS; i++)
                if (b->shmem_sizes[i] % page)
                        return vhk_error_set(ret_e, -EINVAL, "device.shmem", "shared memory region %u: %llu bytes are no multiple of the page", i,
                                             (unsigned long long)b->shmem_sizes[i]);
        return 0;
}

int vhk_on_GET_SHMEM_CONFIG(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_shmem_config *ret_reply) {
        for (unsigned i = 0; i < VHK_SHMEM_REGIONS; i++) {
                ret_reply->sizes[i] = b->shmem_sizes[i];
                ret_reply->n_regions += !!b->shmem_sizes[i];
        }
        return 0;
}

/* No object has words of its own: a reply without a descriptor. */
int vhk_on_GET_SHARED_OBJECT(struct vhk_backend *b, const struct vhk_p_uuid *p, struct vhk_call *c, struct vhk_p_object_reply *ret_reply) {
        const struct vhk_object_ops *ops = b->ops->objects;
        int fd = -1;

        int k = ops && ops->get ? ops->get(b->dev, p->uuid, &fd) : -ENOENT;
        if (k >= 0)
                c->reply_fd = fd;
        memcpy(ret_reply->uuid, p->uuid, sizeof(ret_reply->uuid));
        return 0;
}
