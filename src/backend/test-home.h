/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A worker with a thread of its own, for tests whose rings do not live with control. */
#pragma once

#include <pthread.h>
#include <vhostkit/worker.h>

#include "base/base.h"

struct home {
        struct vhk_worker *w;
        pthread_t thread;
        struct vhk_post quit_post;      /* .fn = on_quit */
        bool quit;
};

static inline void on_quit(struct vhk_post *p) {
        vhk_container_of(p, struct home, quit_post)->quit = true;
}

static inline void *home_thread(void *arg) {
        struct home *h = arg;

        while (!h->quit)
                vhk_worker_dispatch(h->w, -1);
        return NULL;
}
