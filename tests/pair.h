/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Both ends of the library in one process, over a socket in a directory of its own, whoever of the two listens: the front-end on
 * the test's thread, the back-end's control and (where wanted) the homes of its first rings on threads of their own.
 *
 * Whoever listens has to be there first. A back-end that listens is opened by the test's thread; one that connects is opened by
 * its own, and tries until the front-end is there.
 */
#pragma once

#include <vhostkit/vhostkit.h>

#include "backend/test-home.h"
#include "base/test.h"

#define PAIR_HOMES 4u

struct pair_options {
        const struct vhk_device_ops *ops;
        void *dev;
        bool frontend_listens;
        unsigned n_homes;               /* so many have homes of their own, the other rings live with control */
        unsigned rings_per_home;        /* 0: 1 */
        bool without_front;             /* the test opens something else at p->front: 0, and p->f is NULL */
        struct vhk_backend_options back;        /* size, control, mode and events are filled in */
        struct vhk_frontend_options front;      /* size and mode are filled in; 10 s are the limits that are not given */
        void (*between)(void *arg, const char *front, const char *back);        /* somebody stands there: the ends have a path each */
        void *between_arg;
};

struct pair {
        struct vhk_frontend *f;
        struct vhk_error error;         /* why it was not opened */
        /* ---- the back-end's thread's, while that runs; vhk_backend_stop() aside ---- */
        struct vhk_backend *b;
        struct home control, homes[PAIR_HOMES];
        struct vhk_error back_error;
        /* ---- as they were opened ---- */
        struct pair_options o;
        char dir[64], front[80], back[80];
};

static inline void pair_on_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        struct pair *p = arg;

        p->control.quit |= ev == VHK_BACKEND_ENDED;
}

static inline int pair_open_back(struct pair *p) {
        int k = vhk_backend_open(p->back, &p->o.back, p->o.ops, p->o.dev, &p->b, &p->back_error);

        for (unsigned i = 0, each = p->o.rings_per_home ?: 1; i < p->o.n_homes * each && k == 0; i++)
                k = vhk_backend_set_worker(p->b, i, p->homes[i / each].w);
        return k;
}

static inline void *pair_control(void *arg) {
        struct pair *p = arg;

        if (!p->o.frontend_listens || pair_open_back(p) == 0)
                home_thread(&p->control);
        return NULL;
}

static inline void pair_make_home(struct home *h) {
        *h = (struct home){ .quit_post.fn = on_quit };
        CHECK_OK(vhk_worker_new(NULL, NULL, &h->w));
}

/* What vhk_frontend_open() says; p->error has the story. To be closed in any case. */
static inline int pair_open(struct pair *p, const struct pair_options *o) {
        *p = (struct pair){ .o = *o, .dir = "/tmp/vhk-pair-XXXXXX" };
        struct vhk_backend_options *bo = &p->o.back;
        struct vhk_frontend_options *fo = &p->o.front;

        CHECK(mkdtemp(p->dir));
        snprintf(p->front, sizeof(p->front), "%s/s", p->dir);
        snprintf(p->back, sizeof(p->back), "%s/%s", p->dir, o->between ? "back" : "s");
        pair_make_home(&p->control);
        for (unsigned i = 0; i < o->n_homes; i++)
                pair_make_home(&p->homes[i]);
        bo->size = sizeof(*bo);
        bo->control = p->control.w;
        bo->mode = o->frontend_listens ? VHK_SOCKET_CONNECT : VHK_SOCKET_LISTEN;
        bo->on_event = pair_on_event;
        bo->event_arg = p;
        fo->size = sizeof(*fo);
        fo->mode = o->frontend_listens ? VHK_SOCKET_LISTEN : VHK_SOCKET_CONNECT;
        fo->limit_ns = fo->limit_ns ? fo->limit_ns : 10000000000;
        fo->connect_ns = fo->connect_ns ? fo->connect_ns : 10000000000;
        if (!o->frontend_listens)
                CHECK_MSG(pair_open_back(p) == 0, "%s", p->back_error.text);
        if (o->between)
                o->between(o->between_arg, p->front, p->back);
        for (unsigned i = 0; i < o->n_homes; i++)
                CHECK_EQ(pthread_create(&p->homes[i].thread, NULL, home_thread, &p->homes[i]), 0);
        CHECK_EQ(pthread_create(&p->control.thread, NULL, pair_control, p), 0);
        return o->without_front ? 0 : vhk_frontend_open(p->front, fo, &p->f, &p->error);
}

static inline void pair_close(struct pair *p) {
        p->f = vhk_frontend_close(p->f);
        if (!p->o.frontend_listens)             /* else it ends with its front-end, perhaps before we could say so */
                CHECK_OK(vhk_backend_stop(p->b, VHK_STOP_DRAIN, 0));
        pthread_join(p->control.thread, NULL);
        for (unsigned i = 0; i < p->o.n_homes; i++) {
                vhk_worker_post(p->homes[i].w, &p->homes[i].quit_post);
                pthread_join(p->homes[i].thread, NULL);
        }
        p->b = vhk_backend_free(p->b);
        for (unsigned i = 0; i < p->o.n_homes; i++)
                vhk_worker_free(p->homes[i].w);
        vhk_worker_free(p->control.w);
        CHECK_MSG(!p->back_error.code, "the back-end: %s", p->back_error.text);
        CHECK_OK(rmdir(p->dir));
}
