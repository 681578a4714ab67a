/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The front-end's display, as the device draws on it: a socket of its own in control's loop, behind the calls of <vhostkit/display.h>. */
#pragma once

#include <vhostkit/display.h>
#include <vhostkit/worker.h>

#include "base/base.h"
#include "sock/sock.h"
#include "wire/gpu.h"

#define VHK_DISPLAY_WAITING_MAX 64u     /* requests without an answer; the next one is refused */

struct vhk_backend;
struct vhk_display_errand;

struct vhk_display {
        struct vhk_backend *b;
        /* ---- control ---- */
        bool is_open;                   /* there is a socket */
        bool is_told;                   /* the device knows it */
        uint32_t life;                  /* the number of this socket; errands of a former one come to nothing */
        struct vhk_conn conn;
        struct vhk_watch *watch;
        struct vhk_timer *timer;
        struct vhk_gpu_state state;
        struct vhk_display_errand *waiting, **waiting_tail;     /* for an answer, oldest first */
        unsigned n_waiting;
        uint64_t n_handed;              /* bytes of errands that came here */
        /* ---- shared (atomic, relaxed: posts order, and control looks again) ---- */
        uint64_t usable;                /* 0, or: life in the upper half, OPEN, the protocol features */
        uint64_t n_posted, n_gone;      /* bytes that callers made, that are sent or dropped */
};

void vhk_display_init(struct vhk_display *d, struct vhk_backend *b);
/* Takes @fd; replaces a former one. -EINVAL: no connected unix stream socket. */
int vhk_display_open(struct vhk_display *d, int fd);
void vhk_display_close(struct vhk_display *d);          /* what waits is told -EPIPE, the device is told */
