/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Opening a device, and memory for it. See drvdev.h. */
#include "driver/drvdev.h"

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
        if (pthread_mutex_lock(&d->lock))       /* from inside a callback */
                return NULL;
        void *p = vhk_drvdev_take(d, len);
        pthread_mutex_unlock(&d->lock);
        return p;
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

int vhk_drvdev_look_after(struct vhk_drvdev *d) {
        if (pthread_mutex_trylock(&d->lock) == 0) {     /* otherwise somebody is at it */
                if (vhk_frontend_dispatch(d->f) >= 0)
                        d->refresh(d);
                pthread_mutex_unlock(&d->lock);
        }
        return vhk_load_relaxed(&d->gone) ? -EPIPE : 0;
}

int vhk_drvdev_read_config(struct vhk_drvdev *d) {
        if (pthread_mutex_lock(&d->lock))       /* from inside a callback */
                return -EDEADLK;
        d->config_stale = true;
        int ret = d->refresh(d);
        pthread_mutex_unlock(&d->lock);
        return ret;
}

/* ---- opening ---- */

int vhk_drvdev_story(struct vhk_drvdev *d, int k, struct vhk_error *ret_e) {
        const struct vhk_error *e = vhk_frontend_get_error(d->f);

        return e->code == k ? vhk_error_set(ret_e, k, e->rule, "%s", e->text)
                            : vhk_error_set(ret_e, k, d->rule, "cannot open %s: %s", d->what, strerror(-k));
}

int vhk_drvdev_set_status(struct vhk_drvdev *d, uint8_t status) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        int k = vhk_frontend_get_info(d->f, &i);
        return k < 0 || !(i.capabilities & VHK_CAP_STATUS) ? k : vhk_frontend_set_status(d->f, status);
}

uint16_t vhk_drvdev_queue_size(struct vhk_drvdev *d, uint16_t usual, uint16_t least) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        vhk_frontend_get_info(d->f, &i);
        while (i.queue_size_max && usual > i.queue_size_max && usual > least)
                usual /= 2;
        return usual;
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

int vhk_drvdev_open(struct vhk_drvdev *d, const char *spec, struct vhk_frontend_options *o, struct vhk_error *ret_e) {
        struct vhk_frontend_info i = { .size = sizeof(i) };
        pthread_mutexattr_t a;

        pthread_mutexattr_init(&a);
        pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
        pthread_mutex_init(&d->lock, &a);
        pthread_mutexattr_destroy(&a);
        d->limit_ns = o->limit_ns ? o->limit_ns : UINT64_C(30000000000);
        d->on_event = o->on_event;
        d->event_arg = o->event_arg;
        o->on_event = on_event;
        o->event_arg = d;
        o->on_queue = NULL;             /* they have the same argument; and our rings have descriptors, which no page replaces */
        o->on_notifier = NULL;
        int k = vhk_memory_new(&d->m);
        if (k < 0)
                return vhk_error_set(ret_e, k, d->rule, "out of memory");
        k = vhk_frontend_open(spec, o, &d->f, ret_e);
        if (k == 0)
                k = vhk_frontend_get_info(d->f, &i);
        return k < 0 ? k : vhk_memory_set_range(d->m, i.iova_first, i.iova_last);
}

void vhk_drvdev_close(struct vhk_drvdev *d) {
        d->on_event = NULL;
        if (d->f && !d->gone)
                (void)vhk_drvdev_set_status(d, 0);
        vhk_frontend_close(d->f);
        vhk_memory_free(d->m);
        pthread_mutex_destroy(&d->lock);
}
