/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * One ring of a back-end and its home. Control says what it wants the ring to be by publishing an immutable plan and
 * posting to the home; the home takes the newest plan between two bursts, makes it true and posts a report back. Start,
 * stop, memory change, call and err descriptor, enable and the farewell all go through this one exchange.
 *
 * Only the newest plan counts: control waits for a stop to be reported before it plans a start again.
 */
#pragma once

#include <vhostkit/backend.h>

#include "base/base.h"
#include "base/fd.h"
#include "base/log.h"
#include "ring/ring.h"

enum vhk_plan_goal {
        VHK_PLAN_STOP,
        VHK_PLAN_RUN,
};

struct vhk_ring_plan {
        uint32_t seq;           /* grows by one with each plan of the ring */
        enum vhk_plan_goal goal;
        enum vhk_stop how;      /* STOP */
        uint16_t base;          /* RUN: next available index, if the ring is not running yet */
        bool poll;              /* RUN: there is no kick descriptor */
        struct vhk_fdref *kick; /* RUN: owned reference */
        struct vhk_ring_config *config;         /* RUN: owned reference */
};

struct vhk_vring {
        /* constant while a front-end is there */
        struct vhk_worker *home, *control;
        const struct vhk_device_ops *ops;
        void *dev;
        const struct vhk_log *log;
        void (*reported)(struct vhk_vring *v);  /* on control: one of the reports below changed */
        void *owner;
        uint16_t index, size_max;

        /* shared (atomic): taken and put with acq_rel exchanges */
        struct vhk_ring_plan *plan;
        /* shared (atomic): the reports, as numbers of plans; each store-release at home pairs with control's load-acquire */
        uint32_t adopted;       /* this plan is true (a STOP: the ring has begun to stop) */
        uint32_t settled;       /* ... and no request of the time before is in flight */
        uint32_t stopped;       /* ... and the ring has stopped; base is valid */
        uint32_t broken;        /* the ring broke under this plan, by the rule below */
        uint16_t rule;          /* enum vhk_ring_rule; plain, published by @broken */
        uint16_t base;          /* plain, published by @stopped */
        uint16_t next;          /* relaxed: next available index, as of @adopted or later */
        uint32_t n_misses;      /* translations that were missing; the newest one: (relaxed; two that mix do no harm) */
        uint64_t miss_iova;
        uint8_t miss_perm;
        struct vhk_queue *queue;        /* made at the first start, freed at the farewell */
        uint64_t kicks;         /* relaxed: a counter */
        bool said_farewell;     /* the home's very last access */
        struct vhk_post to_home, to_control;
        struct vhk_post retire, retired_post;   /* the farewell, there and back */

        /* ring (home) */
        struct vhk_ring_plan *now;
        enum { VHK_HOME_STOPPED, VHK_HOME_RUNNING, VHK_HOME_DRAINING } phase;
        bool dead;              /* broken, or never came up: the device is not called to run */
        bool up;                /* the queue has a configuration */
        bool started;           /* the device's queue_start was a success */
        bool unsettled, queue_settled;
        bool spinning;          /* the worker polls: the driver need not notify */
        bool declined;          /* the device saw requests and left them in the ring */
        bool in_run, again, told_broken;
        unsigned idle_kicks;
        struct vhk_watch *kick_watch;
        struct vhk_timer *poll_timer;
        struct vhk_poller poller;

        /* control */
        uint32_t seq;           /* of the newest plan, 0: never planned */
        uint32_t seen_broken, seen_misses;
        struct vhk_ring_plan *spare;    /* so that a stop cannot fail */
        struct vhk_queue_metrics metrics;       /* of a ring that says farewell */
        bool retiring, retired; /* the home is asked to, will, never touch the ring again */
        uint8_t wait;           /* enum vhk_ring_wait: what the token in hand waits for */
        uint32_t wait_seq;
};

/* control; @v is zeroed and its constants are set. -ENOMEM. */
int vhk_vring_init(struct vhk_vring *v);
/* control; the ring has stopped: have the home forget it. @reported comes when v->retired is set. */
void vhk_vring_retire(struct vhk_vring *v);
/* control; only after the ring has retired */
void vhk_vring_done(struct vhk_vring *v);
/* control; takes the references inside of @values, also on failure. -ENOMEM, but not for a STOP that follows a RUN. */
int vhk_vring_plan(struct vhk_vring *v, const struct vhk_ring_plan *values);
/* control */
void vhk_vring_get_metrics(const struct vhk_vring *v, struct vhk_queue_metrics *ret_m);
/* control; what the home reported of plan @seq */
bool vhk_vring_has_adopted(const struct vhk_vring *v, uint32_t seq);
bool vhk_vring_has_settled(const struct vhk_vring *v, uint32_t seq);
bool vhk_vring_has_stopped(const struct vhk_vring *v, uint32_t seq);
/* control; the rule, once per break; VHK_RING_OK otherwise */
enum vhk_ring_rule vhk_vring_take_broken(struct vhk_vring *v);
/* control; the translation that the ring waits for, once */
bool vhk_vring_take_miss(struct vhk_vring *v, uint64_t *ret_iova, unsigned *ret_perm);
