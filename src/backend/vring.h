/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * One queue of a back-end, and the protocol between control and the queue's worker.
 *
 * Control sends orders, each with a sequence number; the worker takes all that are there at once,
 * between two bursts, in the order START, BREAK, UPDATE, STOP, and reports by number what became of
 * them. Each direction is one post.
 *
 *   START   a stopped queue runs, with a configuration and a base; sent only when control has consumed the report of the last STOP
 *   BREAK   control has found a fault
 *   UPDATE  another configuration (memory, areas, call, enable, log ...); a newer one takes the place of one that was not taken
 *           yet. It never starts a queue and never cancels a STOP: a draining queue applies it, a
 *           stopped one drops it
 *   STOP    drain, abort or suspend; nothing but the worker's taking it removes it
 *
 * Orders need no memory of their own: there are three boxes, and control, the slot between the two
 * and the worker always own one each (they are exchanged). So no order can fail; only the
 * configuration of a START or an UPDATE is allocated.
 */
#pragma once

#include <vhostkit/backend.h>

#include "base/base.h"
#include "base/fd.h"
#include "base/log.h"
#include "ring/ring.h"

enum {
        VHK_ORDER_START = 1,
        VHK_ORDER_BREAK = 2,
        VHK_ORDER_UPDATE = 4,
        VHK_ORDER_STOP = 8,
};

/* What of a START or an UPDATE is not the queue's own affair. */
struct vhk_vring_setup {
        struct vhk_ring_config *config; /* owned reference */
        struct vhk_fdref *kick;         /* owned reference, may be NULL */
        bool poll;                      /* there is no kick descriptor */
};

/* The orders that the worker has not taken yet. */
struct vhk_order_box {
        uint8_t kinds;                  /* VHK_ORDER_*; 0: empty */
        uint8_t rule;                   /* BREAK: enum vhk_ring_rule */
        uint8_t how;                    /* STOP: enum vhk_stop */
        uint16_t base;                  /* START: next available index */
        uint32_t seq;                   /* of the newest */
        uint32_t stop_seq;
        struct vhk_vring_setup setup;   /* START, UPDATE: the newest */
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

        /* shared (atomic): a box, exchanged with acq_rel on both sides */
        struct vhk_order_box *slot;
        /* shared (atomic): reports, as sequence numbers; each store-release by the worker pairs
         * with control's load-acquire */
        uint32_t adopted;       /* the newest order looked at */
        uint32_t settled;       /* ... when no request of memory older than the newest configuration was in flight */
        uint32_t stopped;       /* this STOP is complete; publishes base */
        uint32_t n_broken;      /* breaks so far; publishes rule */
        uint16_t rule;          /* enum vhk_ring_rule; plain: one break at most between a START and control's next one */
        uint16_t base;          /* plain */
        int start_error;        /* plain, published by @adopted: 0, or why the last START failed; the queue is stopped then */
        uint16_t next;          /* relaxed: next available index, as of @adopted or later */
        uint32_t n_misses;      /* translations that were missing; the newest one: (relaxed; two that mix do no harm) */
        uint64_t miss_iova;
        uint8_t miss_perm;
        struct vhk_queue *queue;        /* made at the first start, freed at the farewell */
        uint64_t kicks;         /* relaxed: a counter */
        bool said_farewell;     /* the home's very last access */
        struct vhk_post to_home, to_control;
        struct vhk_post retire, retired_post;   /* the farewell, there and back */

        /* worker */
        struct vhk_order_box *taken;    /* its box */
        struct vhk_vring_setup now;     /* what the queue runs with; no references while it is stopped */
        enum { VHK_HOME_STOPPED, VHK_HOME_RUNNING, VHK_HOME_DRAINING } phase;
        uint32_t seq_taken;     /* of the newest order looked at */
        uint32_t stop_seq;      /* DRAINING, STOPPED: of the newest STOP */
        enum vhk_stop stop_how; /* DRAINING: of the newest STOP */
        bool dead;              /* broken: the device is not called to run */
        bool stop_told;         /* DRAINING: queue_stop was called */
        bool spinning;          /* the worker polls: the driver need not notify */
        bool declined;          /* the device saw requests and left them in the ring */
        bool in_run, again;
        unsigned idle_kicks;
        struct vhk_watch *kick_watch;
        struct vhk_timer *poll_timer;
        struct vhk_poller poller;

        /* control */
        struct vhk_order_box boxes[3], *spare;  /* spare: control's */
        uint32_t seq;           /* of the newest order; 0: none yet */
        bool runs;              /* from a START until its failure, or the report of a STOP, is consumed */
        bool start_due, stop_due;       /* not reported yet: */
        uint32_t start_sent, stop_sent;
        uint32_t seen_broken, seen_misses;
        struct vhk_queue_metrics metrics;       /* of a ring that says farewell */
        bool retiring, retired; /* the home is asked to, will, never touch the ring again */
        uint8_t wait;           /* enum vhk_ring_wait: what the token in hand waits for */
        uint32_t wait_seq;
};

/* control; @v is zeroed and its constants are set. */
void vhk_vring_init(struct vhk_vring *v);
/* control; the ring has stopped: have the home forget it. @reported comes when v->retired is set. */
void vhk_vring_retire(struct vhk_vring *v);
/* control; only after the ring has retired */
void vhk_vring_done(struct vhk_vring *v);

/* control, orders; each takes the references in @setup */
void vhk_vring_start(struct vhk_vring *v, const struct vhk_vring_setup *setup, uint16_t base);  /* !v->runs */
void vhk_vring_update(struct vhk_vring *v, const struct vhk_vring_setup *setup);
void vhk_vring_break(struct vhk_vring *v, enum vhk_ring_rule rule);
void vhk_vring_stop(struct vhk_vring *v, enum vhk_stop how);

/* control */
void vhk_vring_get_metrics(const struct vhk_vring *v, struct vhk_queue_metrics *ret_m);
/* control; the report of the newest START, once: 0 or a negative errno, and then the queue is
 * stopped; 1: there is none */
int vhk_vring_take_start(struct vhk_vring *v);
/* control; has the newest STOP been reported? If so the other reports of before are there, too:
 * take them first. */
bool vhk_vring_has_stopped(const struct vhk_vring *v);
/* control; the report of the STOP is consumed: the queue may be started. Returns its base. */
uint16_t vhk_vring_take_stopped(struct vhk_vring *v);
/* control; what the worker reported of order @seq */
bool vhk_vring_has_adopted(const struct vhk_vring *v, uint32_t seq);
bool vhk_vring_has_settled(const struct vhk_vring *v, uint32_t seq);
/* control; the rule, once per break; VHK_RING_OK otherwise */
enum vhk_ring_rule vhk_vring_take_broken(struct vhk_vring *v);
/* control; the translation that the ring waits for, once */
bool vhk_vring_take_miss(struct vhk_vring *v, uint64_t *ret_iova, unsigned *ret_perm);
