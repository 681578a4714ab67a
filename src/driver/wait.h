/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Waiting for a ring: by polling it, by sleeping on its descriptor, or in the caller's own loop by a descriptor that stays readable
 * while there is something. Of one queue's thread.
 *
 * Whoever waits here also looks after the connection, now and then while polling and by its descriptor while sleeping, so
 * that a back-end that dies does not leave anybody waiting.
 */
#pragma once

#include "driver/drvdev.h"
#include "driver/drvq.h"

struct vhk_drvwait {
        struct vhk_drvdev *d;
        struct vhk_drvq *ring;
        /* Takes what is there: at most @n results, to be put at @ret[@at] on. Number, or a negative errno: the ring is broken */
        int (*ready)(void *q, void *ret, unsigned at, unsigned n);
        bool (*may_come)(void *q);      /* is anything in flight that would be a result? Else there is no wait */
        void *q;
        bool polling;
        bool wants_fd;                  /* somebody waits for our descriptor: vhk_drvwait_reap_and_arm() is to be used */
        bool is_front_busy;             /* another thread is in the front-end: its descriptor is not waited for, we are notified through the ring's */
        bool waits_for_lock;            /* shared (atomic), see vhk_drvdev_unlock(): ... and were not notified yet */
        unsigned idle;                  /* reaps without result since somebody looked after the connection */
        int epoll_fd;                   /* call fd and front-end; -1 while polling */
        struct vhk_drvwait *next;       /* of the device */
};

/* The ring is disarmed. @w is to be done in any case. */
int vhk_drvwait_init(struct vhk_drvwait *w, const struct vhk_drvwait *values);
void vhk_drvwait_done(struct vhk_drvwait *w);
int vhk_drvwait_get_fd(struct vhk_drvwait *w);
int vhk_drvwait_reap_and_arm(struct vhk_drvwait *w, void *ret, unsigned n);
/* Nothing is there. Waits at most @timeout_ms (-1 without limit) as long as something may come.
 * Number; 0; -EPIPE, when no result is left: the end */
int vhk_drvwait_some(struct vhk_drvwait *w, void *ret, unsigned n, int timeout_ms);
