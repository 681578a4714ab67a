/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Opening a device, and memory for it. See drvdev.h. */
#include "driver/drvdev.h"

#include <fcntl.h>

#include "base/fd.h"
#include "base/struct.h"
#include "driver/wait.h"
#include "frontend/driver.h"

#define CHUNK (UINT64_C(16) << 20)      /* bytes of lent memory at a time: touched pages alone cost */
#define SMALL_ALIGN 512u

/* ---- memory ---- */

static int add_chunk(struct vhk_drvdev *d, uint64_t len) {
        unsigned n = d->n_chunks;
        struct vhk_chunk c = { .len = (len + VHK_PAGE - 1) & ~(uint64_t)(VHK_PAGE - 1) };
        vhk_gpa_t gpa;
        void *va;

        if (n == VHK_DRVDEV_CHUNKS || c.len < len)
                return -ENOSPC;
        int k = vhk_memory_alloc(d->m, c.len, &va);
        if (k == 0)
                k = vhk_memory_find(d->m, va, c.len, &gpa);
        if (k < 0)
                return k;
        k = vhk_frontend_set_memory(d->f, d->m);
        if (k < 0) {
                vhk_memory_remove(d->m, gpa, c.len);
                return k;
        }
        c.va = (uintptr_t)va;
        c.gpa = gpa.v;
        d->chunks[n] = c;
        vhk_store_release(&d->n_chunks, n + 1);         /* pairs with vhk_drvdev_find(): the chunk before its number */
        return 0;
}

int vhk_drvdev_add_chunk(struct vhk_drvdev *d, uint64_t len, uint64_t room) {
        uint64_t much;

        if (vhk_add_overflows(len, room, &much))
                return -ENOSPC;
        int k = add_chunk(d, VHK_MAX(much, CHUNK));
        /* no room for so much: the kernel's limit of locked pages, the end of the I/O addresses, more pieces than a device's table holds */
        return k == -ENOMEM || k == -ENOSPC || k == -EFAULT ? add_chunk(d, len) : k;
}

const struct vhk_chunk *vhk_drvdev_find(const struct vhk_drvdev *d, uint64_t va, uint64_t len) {
        unsigned n = vhk_load_acquire(&d->n_chunks);    /* pairs with vhk_drvdev_add_chunk() */

        for (unsigned i = 0; i < n; i++)
                if (va >= d->chunks[i].va && vhk_range_within(va - d->chunks[i].va, len, d->chunks[i].len))
                        return &d->chunks[i];
        return NULL;
}

VHK_HOT uint64_t vhk_drvdev_gpa(const struct vhk_drvdev *d, struct vhk_chunk *last, const void *va, uint64_t len) {
        uint64_t off = (uintptr_t)va - last->va;

        if (vhk_unlikely(off >= last->len || len > last->len - off)) {
                const struct vhk_chunk *c = vhk_drvdev_find(d, (uintptr_t)va, len);
                if (!c)
                        return UINT64_MAX;
                last->va = c->va;       /* not c->used, which the allocator writes */
                last->len = c->len;
                last->gpa = c->gpa;
                off = (uintptr_t)va - c->va;
        }
        return last->gpa + off;
}

void *vhk_drvdev_take(struct vhk_drvdev *d, uint64_t len) {
        uint64_t align = len >= VHK_PAGE ? VHK_PAGE : SMALL_ALIGN, at;

        if (len == 0 || len > UINT64_C(1) << 40)
                return NULL;
        for (unsigned i = 0;; i++) {
                if (i == d->n_chunks && vhk_drvdev_add_chunk(d, len, 0) < 0)
                        return NULL;
                struct vhk_chunk *c = &d->chunks[i];
                at = (c->used + align - 1) & ~(align - 1);
                if (vhk_range_within(at, len, c->len)) {
                        c->used = at + len;
                        return (void *)(c->va + at);
                }
        }
}

void *vhk_drvdev_alloc(struct vhk_drvdev *d, uint64_t len) {
        if (vhk_drvdev_lock(d) < 0)             /* from inside a callback */
                return NULL;
        void *p = vhk_drvdev_take(d, len);
        bool is_closed = vhk_load_relaxed(&d->closer);
        vhk_drvdev_unlock(d);
        vhk_drvdev_leave(d);
        return is_closed ? NULL : p;
}

/* ---- the lock ---- */

int vhk_drvdev_lock(struct vhk_drvdev *d) {
        return pthread_mutex_lock(&d->lock) ? -EDEADLK : 0;
}

/*
 * A thread that finds the lock taken sets its flag before it tries once more (both sequentially
 * consistent): either it gets the lock then, or the owner sees here that a thread is to be
 * notified. So no thread polls the lock, and a front-end that waits for its back-end costs the
 * other queues nothing.
 */
void vhk_drvdev_unlock(struct vhk_drvdev *d) {
        pthread_mutex_unlock(&d->lock);
        if (vhk_likely(!__atomic_exchange_n(&d->is_contended, false, __ATOMIC_SEQ_CST)))
                return;
        for (struct vhk_drvwait *w = d->waits; w; w = w->next)
                if (__atomic_exchange_n(&w->waits_for_lock, false, __ATOMIC_SEQ_CST))
                        vhk_peer_notify(vhk_drvq_get_fd(w->ring));
}

static bool try_lock(struct vhk_drvdev *d) {
        return pthread_mutex_trylock(&d->lock) == 0;
}

static bool try_lock_or_be_told(struct vhk_drvdev *d, struct vhk_drvwait *w) {
        if (try_lock(d))
                return true;
        __atomic_store_n(&w->waits_for_lock, true, __ATOMIC_SEQ_CST);
        __atomic_store_n(&d->is_contended, true, __ATOMIC_SEQ_CST);
        if (!try_lock(d))
                return false;
        __atomic_store_n(&w->waits_for_lock, false, __ATOMIC_SEQ_CST);
        return true;
}

/* ---- the connection ---- */

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        struct vhk_drvdev *d = arg;

        if (ev == VHK_FRONTEND_CONFIG_CHANGED || ev == VHK_FRONTEND_RECONNECTED)
                d->config_stale = true;         /* under the lock: events come from inside front-end calls */
        else
                vhk_store_relaxed(&d->gone, true);
        if (d->on_event)
                d->on_event(d->event_arg, ev, e);
}

/* Under the lock, which it gives back. */
static void serve(struct vhk_drvdev *d) {
        if (vhk_frontend_dispatch(d->f) >= 0 && !vhk_load_relaxed(&d->closer))
                d->kind->refresh(d);
        vhk_drvdev_unlock(d);
}

int vhk_drvdev_look_after(struct vhk_drvdev *d) {
        if (try_lock(d))
                serve(d);
        return vhk_drvdev_is_gone(d) ? -EPIPE : 0;
}

int vhk_drvdev_try_serve(struct vhk_drvdev *d, struct vhk_drvwait *w) {
        if (!try_lock_or_be_told(d, w))
                return -EBUSY;
        serve(d);
        return 0;
}

int vhk_drvdev_read_config(struct vhk_drvdev *d) {
        int ret = vhk_drvdev_lock(d);

        if (ret < 0)
                return ret;
        d->config_stale = true;
        ret = d->kind->refresh(d);
        vhk_drvdev_unlock(d);
        return ret;
}

int vhk_drvdev_fail(struct vhk_drvdev *d, int code, const char *rule, const char *format, ...) {
        struct vhk_error e;
        va_list ap;

        va_start(ap, format);
        vhk_error_vset(&e, code, rule, format, ap);
        va_end(ap);
        if (vhk_drvdev_lock(d) == 0) {          /* else from inside a callback, whose call has an error of its own */
                vhk_frontend_fail(d->f, code, rule, "%s", e.text);
                vhk_drvdev_unlock(d);
        }
        return code;
}

int vhk_drvdev_fail_end(struct vhk_drvdev *d, const struct vhk_drvq *q) {
        if (vhk_drvq_is_broken(q))
                return vhk_drvdev_fail(d, -EPIPE, "driver.ring",
                                       "queue %u: the device broke the rules of the ring: it returned a descriptor that was not available, or a used length larger than its buffers",
                                       vhk_drvq_get_index(q));
        if (vhk_drvdev_lock(d) == 0) {
                vhk_frontend_fail_final(d->f);
                vhk_drvdev_unlock(d);
        }
        return -EPIPE;
}

/* ---- opening ---- */

int vhk_drvdev_story(struct vhk_drvdev *d, int k, struct vhk_error *ret_e) {
        const struct vhk_error *e = vhk_frontend_get_error(d->f);

        return e->code == k ? vhk_error_set(ret_e, k, e->rule, "%s", e->text)
                            : vhk_error_set(ret_e, k, d->kind->rule, "cannot open %s: %s", d->kind->what, strerror(-k));
}

int vhk_drvdev_set_status(struct vhk_drvdev *d, uint8_t status) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        int k = vhk_frontend_get_info(d->f, &i);
        return k < 0 || !(i.capabilities & VHK_CAP_STATUS) ? k : vhk_frontend_set_status(d->f, status);
}

int vhk_drvdev_start_rings(struct vhk_drvdev *d, uint16_t wish, uint16_t usual, uint16_t least, int (*start)(struct vhk_drvdev *d, uint16_t num),
                           void (*stop)(struct vhk_drvdev *d)) {
        struct vhk_frontend_info i = { .size = sizeof(i) };
        uint16_t num = wish ? wish : usual;

        vhk_frontend_get_info(d->f, &i);
        while (!wish && i.queue_size_max && num > i.queue_size_max && num > least)
                num /= 2;
        for (;; num /= 2) {
                int ret = start(d, num);
                if (ret == 0)
                        return 0;
                stop(d);
                if (ret != -EREMOTEIO || wish || num <= least)
                        return ret;
        }
}

/* Does the device keep FEATURES_OK? Without a status nobody says. */
static int check_features(struct vhk_drvdev *d, struct vhk_error *ret_e) {
        struct vhk_frontend_info i = { .size = sizeof(i) };
        uint8_t status = VHK_DRVDEV_S_FEATURES_OK;

        int k = vhk_frontend_get_info(d->f, &i);
        if (k == 0 && (i.capabilities & VHK_CAP_STATUS))
                k = vhk_frontend_get_status(d->f, &status);
        if (k == 0 && (status & VHK_DRVDEV_S_FEATURES_OK) != VHK_DRVDEV_S_FEATURES_OK)
                return vhk_error_set(ret_e, -EOPNOTSUPP, "driver.features", "the device does not accept the features 0x%llx",
                                     (unsigned long long)d->features);
        return k < 0 ? vhk_drvdev_story(d, k, ret_e) : 0;
}

int vhk_drvdev_negotiate(struct vhk_drvdev *d, uint64_t features, struct vhk_error *ret_e) {
        d->features = features;
        int k = vhk_drvdev_set_status(d, 0);
        if (k == 0)
                k = vhk_drvdev_set_status(d, VHK_DRVDEV_S_DRIVER);
        if (k == 0)
                k = vhk_frontend_set_features(d->f, features);
        if (k == 0)
                k = vhk_drvdev_set_status(d, VHK_DRVDEV_S_FEATURES_OK);
        return k < 0 ? vhk_drvdev_story(d, k, ret_e) : check_features(d, ret_e);
}

static void init_lock(struct vhk_drvdev *d) {
        pthread_mutexattr_t a;

        pthread_mutexattr_init(&a);
        pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
        pthread_mutex_init(&d->lock, &a);
        pthread_mutexattr_destroy(&a);
}

/* An inherited descriptor stays the caller's when anything fails after this, too: the front-end has
 * a duplicate. */
static int open_front_end(struct vhk_drvdev *d, const char *spec, struct vhk_frontend_options *fo, struct vhk_error *ret_e) {
        if (!fo->has_fd)
                return vhk_frontend_open(spec, fo, &d->f, ret_e);
        VHK_AUTOCLOSE int fd = vhk_fd_dup(fo->fd);
        if (fd < 0)
                return vhk_error_set(ret_e, fd, d->kind->rule, "descriptor %d cannot be duplicated: %s", fo->fd, strerror(-fd));
        fo->fd = fd;
        int ret = vhk_frontend_open(spec, fo, &d->f, ret_e);
        if (ret == 0)
                fd = -1;
        return ret;
}

static int connect_it(struct vhk_drvdev *d, const char *spec, struct vhk_frontend_options *fo, struct vhk_error *ret_e) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        d->limit_ns = fo->limit_ns ? fo->limit_ns : UINT64_C(30000000000);
        d->on_event = fo->on_event;
        d->event_arg = fo->event_arg;
        fo->on_event = on_event;
        fo->event_arg = d;
        fo->on_queue = NULL;            /* they have the same argument; and our rings have descriptors, which no page replaces */
        fo->on_notifier = NULL;
        int k = vhk_memory_new(&d->m);
        if (k < 0)
                return vhk_error_set(ret_e, k, d->kind->rule, "out of memory");
        k = open_front_end(d, spec, fo, ret_e);
        if (k == 0)
                k = vhk_frontend_get_info(d->f, &i);
        return k < 0 ? k : vhk_memory_set_range(d->m, i.iova_first, i.iova_last);
}

/* Copies the caller's options, of this version of the library or another. */
static int copy_options(const struct vhk_drvdev_kind *kind, const struct vhk_drvdev_options *o, struct vhk_drvdev_options *own,
                        struct vhk_frontend_options *fo, struct vhk_error *ret_e) {
        memset(own, 0, kind->options_size);
        *fo = (struct vhk_frontend_options){ .size = sizeof(*fo) };
        int ret = o ? vhk_struct_take(own, kind->options_size, o, sizeof(*o)) : 0;
        if (ret < 0)
                return vhk_error_set(ret_e, ret, kind->rule, "%s: size is not set, or a member is not known to this library", kind->options);
        ret = own->frontend ? VHK_STRUCT_TAKE(fo, own->frontend, trace_arg) : 0;
        if (ret < 0)
                return vhk_error_set(ret_e, ret, kind->rule, "struct vhk_frontend_options: size is not set, or a member is not known to this library");
        fo->virtio_id = kind->virtio_id;
        return 0;
}

int vhk_drvdev_open(const struct vhk_drvdev_kind *kind, const char *spec, const void *options, void *own, struct vhk_drvdev **ret_d, struct vhk_error *ret_e) {
        struct vhk_frontend_options fo;

        int ret = copy_options(kind, options, own, &fo, ret_e);
        if (ret < 0)
                return ret;
        int inherited = fo.has_fd ? fo.fd : -1;
        struct vhk_drvdev *d = calloc(1, kind->size);
        if (!d)
                return vhk_error_set(ret_e, -ENOMEM, kind->rule, "out of memory");
        d->kind = kind;
        init_lock(d);
        ret = kind->prepare ? kind->prepare(d, own, &fo, ret_e) : 0;
        if (ret == 0)
                ret = connect_it(d, spec, &fo, ret_e);
        if (ret == 0)
                ret = kind->bring_up(d, own, ret_e);
        if (ret < 0) {
                vhk_drvdev_close(d);
                return ret;
        }
        vhk_close(&inherited);
        *ret_d = d;
        return 0;
}

/* ---- closing ---- */

static void destroy(struct vhk_drvdev *d) {
        d->on_event = NULL;
        if (d->f)
                vhk_frontend_prepare_close(d->f);       /* from here on limit_ns for all, and no search for a back-end that is lost */
        d->kind->stop(d);
        if (d->f && !d->gone)
                (void)vhk_drvdev_set_status(d, 0);
        vhk_frontend_close(d->f);
        vhk_memory_free(d->m);
        pthread_mutex_destroy(&d->lock);
        free(d);
}

void *vhk_drvdev_close(struct vhk_drvdev *d) {
        if (!d)
                return NULL;
        if (vhk_drvdev_lock(d) < 0) {           /* from inside a callback */
                d->on_event = NULL;
                vhk_store_relaxed(&d->closer, (uintptr_t)pthread_self());
                return NULL;
        }
        vhk_drvdev_unlock(d);
        destroy(d);
        return NULL;
}

void vhk_drvdev_leave(struct vhk_drvdev *d) {
        uintptr_t closer = vhk_load_relaxed(&d->closer);

        if (vhk_unlikely(closer && closer == (uintptr_t)pthread_self()))
                destroy(d);
}
