/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A ring at its home. Everything here runs on the home's thread, except the functions of vring.h.
 *
 * step() is the only place where a ring changes: it is the fn of the post that control, the queue and this file itself
 * send. Whatever a callback of the queue or the device finds out it only notes and posts, for the device may be on the
 * stack. Between two steps the ring is driven by kicks (one read of the descriptor, then the device's queue_run), by a
 * spinning worker (poller), by a timer when the front-end gave no kick descriptor (bit 8 of SET_VRING_KICK: once per
 * millisecond; a spinning worker is faster), and by completions.
 *
 * Source: vhost-user, "Ring states"; virtio 1.3, 2.7.10 (used buffer notification suppression).
 */
#include <sys/epoll.h>

#include "backend/vring.h"

#define ROUNDS 16               /* of one run, before others of this worker have their turn */
#define POLL_NS 1000000u
#define IDLE_KICKS_MAX 64       /* a kick descriptor that is ready but empty so often is no kick descriptor */

static struct vhk_ring_plan *plan_free(struct vhk_ring_plan *p) {
        if (p) {
                vhk_fdref_unref(p->kick);
                vhk_ring_config_unref(p->config);
                free(p);
        }
        return NULL;
}

static void post_home(struct vhk_vring *v) {
        vhk_worker_post(v->home, &v->to_home);
}

/* ---- running ---- */

/* May the device see requests? A disabled ring holds them, unless the device drops what a disabled ring gets. */
static bool is_active(const struct vhk_vring *v) {
        return v->phase == VHK_HOME_RUNNING && !v->dead && (v->now->config->enabled || v->now->config->discard);
}

/* Lets the device work until the ring is empty. A device may leave requests where they are (buffers for events): a round
 * that began with requests there and took none is the last. */
static void run(struct vhk_vring *v) {
        bool had = false;

        if (v->in_run) {
                v->again = true;
                return;
        }
        if (!is_active(v))
                return;
        v->in_run = true;
        v->declined = false;            /* it may take them now: a poller looks again */
        if (!v->spinning)
                vhk_queue_disarm(v->queue);
        for (unsigned i = 0;; i++) {
                uint16_t before = vhk_queue_get_position(v->queue);
                v->again = false;
                v->ops->queue_run(v->dev, v->queue);
                if (!is_active(v) || v->spinning)
                        break;
                if (!vhk_queue_arm(v->queue) && !v->again)
                        break;
                if (had && before == vhk_queue_get_position(v->queue))
                        break;
                if (i + 1 == ROUNDS) {
                        v->again = true;
                        break;
                }
                had = true;
        }
        v->in_run = false;
        if (v->again)
                post_home(v);
}

static void on_kick(void *arg, uint32_t events) {
        struct vhk_vring *v = arg;

        int k = vhk_peer_drain(vhk_fdref_get(v->now->kick));
        if (k > 0) {
                vhk_store_relaxed(&v->kicks, v->kicks + 1);     /* one writer: the home */
                v->idle_kicks = 0;
        } else if (k < 0 || ++v->idle_kicks == IDLE_KICKS_MAX) {
                v->kick_watch = vhk_watch_free(v->kick_watch);
                vhk_log(v->log, VHK_LOG_WARNING, "ring %u: its kick descriptor is of no use any more (%s)", v->index,
                        k < 0 ? strerror(-k) : "always ready, always empty");
        }
        run(v);
}

static void on_poll_timer(void *arg) {
        struct vhk_vring *v = arg;

        run(v);
        vhk_timer_set(v->poll_timer, POLL_NS);
}

static int poll_ring(struct vhk_poller *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, poller);

        if (!is_active(v) || !vhk_queue_has_work(v->queue))
                return 0;
        uint16_t before = vhk_queue_get_position(v->queue);
        run(v);
        v->declined = before == vhk_queue_get_position(v->queue);
        return !v->declined;
}

static int arm_ring(struct vhk_poller *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, poller);

        v->spinning = false;
        return is_active(v) && vhk_queue_arm(v->queue) && !v->declined;
}

static void disarm_ring(struct vhk_poller *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, poller);

        v->spinning = true;
        if (is_active(v))
                vhk_queue_disarm(v->queue);
}

/* ---- what the queue tells; the device may be on the stack ---- */

static void note_broken(struct vhk_vring *v, enum vhk_ring_rule rule) {
        if (v->told_broken)
                return;
        v->told_broken = v->dead = true;
        v->rule = rule;
        vhk_store_release(&v->broken, v->now->seq);
        (void)vhk_fdref_notify(v->now->config ? v->now->config->err : NULL);
        vhk_worker_post(v->control, &v->to_control);
}

static void on_queue_broken(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule) {
        struct vhk_vring *v = owner;

        note_broken(v, rule);
        post_home(v);           /* to stop listening to its kicks */
}

static void on_queue_settled(void *owner, struct vhk_queue *q) {
        struct vhk_vring *v = owner;

        v->queue_settled = true;
        post_home(v);
}

static void on_queue_miss(void *owner, struct vhk_queue *q, uint64_t iova, unsigned perm) {
        struct vhk_vring *v = owner;

        vhk_store_relaxed(&v->miss_iova, iova);
        vhk_store_relaxed(&v->miss_perm, (uint8_t)perm);
        vhk_store_release(&v->n_misses, v->n_misses + 1);       /* pairs with vhk_vring_take_miss() */
        vhk_worker_post(v->control, &v->to_control);
}

static void on_queue_run(void *owner, struct vhk_queue *q) {
        run(owner);
}

/* It cannot be served: not the guest's fault, but the same state. */
static void give_up(struct vhk_vring *v) {
        if (v->up)
                vhk_queue_break(v->queue, VHK_RING_DEVICE);
        note_broken(v, VHK_RING_DEVICE);
}

static const struct vhk_queue_owner_ops queue_ops = {
        .broken = on_queue_broken,
        .settled = on_queue_settled,
        .run = on_queue_run,
        .miss = on_queue_miss,
};

/* ---- becoming what the plan says ---- */

static void stop_listening(struct vhk_vring *v) {
        v->kick_watch = vhk_watch_free(v->kick_watch);
        v->poll_timer = vhk_timer_free(v->poll_timer);
}

/* Listens to what the newest plan names; @old is the plan that it replaces, NULL at the start. */
static int listen_to_kicks(struct vhk_vring *v, const struct vhk_ring_plan *old) {
        int k = 0;

        if (old && old->kick == v->now->kick && old->poll == v->now->poll)
                return 0;
        stop_listening(v);
        v->idle_kicks = 0;
        if (v->now->kick)
                k = vhk_worker_watch(v->home, vhk_fdref_get(v->now->kick), EPOLLIN, on_kick, v, &v->kick_watch);
        else if (v->now->poll) {
                k = vhk_worker_timer(v->home, on_poll_timer, v, &v->poll_timer);
                if (k >= 0)
                        k = vhk_timer_set(v->poll_timer, POLL_NS);
        }
        return k;
}

static int bring_up(struct vhk_vring *v) {
        struct vhk_queue *q = v->queue;
        int k;

        if (!q) {
                k = vhk_queue_new(v->index, v->size_max, v->ops->req_size, v->home, &queue_ops, v, &q);
                if (k < 0)
                        return k;
                vhk_store_release(&v->queue, q);        /* pairs with the load of whoever reads the metrics */
        }
        k = vhk_queue_start(q, v->now->config, v->now->base, -1);
        v->up = k == 0 || vhk_queue_is_broken(q);
        if (k < 0)
                return k;
        k = v->ops->queue_start ? v->ops->queue_start(v->dev, q, v->home) : 0;
        if (k < 0)
                return k;
        v->started = true;
        return listen_to_kicks(v, NULL);
}

static void start(struct vhk_vring *v) {
        v->dead = v->started = v->up = v->told_broken = v->declined = v->spinning = v->again = false;
        v->base = v->now->base;         /* what a stop tells if the queue does not come up */
        v->phase = VHK_HOME_RUNNING;
        int k = bring_up(v);
        if (k < 0 && !v->told_broken) {
                vhk_log(v->log, VHK_LOG_ERROR, "ring %u did not start: %s", v->index, strerror(-k));
                give_up(v);
        }
        vhk_worker_add_poller(v->home, &v->poller);
}

static void adopt(struct vhk_vring *v, const struct vhk_ring_plan *old) {
        v->queue_settled = false;
        v->unsettled = v->up && vhk_queue_adopt(v->queue, v->now->config) > 0;
        if (!v->dead && listen_to_kicks(v, old) < 0)
                give_up(v);
}

static void begin_stop(struct vhk_vring *v) {
        if (v->now->how == VHK_STOP_DRAIN && v->up && vhk_queue_n_recovered(v->queue) && !v->in_run)
                v->ops->queue_run(v->dev, v->queue);    /* the time before is to be finished as well */
        stop_listening(v);
        vhk_worker_remove_poller(v->home, &v->poller);
        v->phase = VHK_HOME_DRAINING;
        if (v->up)
                vhk_queue_drain(v->queue);
        if (v->started && v->ops->queue_stop)
                v->ops->queue_stop(v->dev, v->queue, v->now->how);
}

static void finish_stop(struct vhk_vring *v) {
        if (v->started && v->ops->queue_stopped)
                v->ops->queue_stopped(v->dev, v->queue);
        if (v->up)
                v->base = vhk_queue_stop(v->queue);
        v->started = v->up = v->unsettled = false;
        v->phase = VHK_HOME_STOPPED;
}

static void take_plan(struct vhk_vring *v, struct vhk_ring_plan *plan) {
        struct vhk_ring_plan *old = v->now;

        v->now = plan;
        if (plan->goal == VHK_PLAN_RUN && v->phase == VHK_HOME_STOPPED)
                start(v);
        else if (plan->goal == VHK_PLAN_RUN && v->phase == VHK_HOME_RUNNING)
                adopt(v, old);
        else if (v->phase == VHK_HOME_RUNNING)
                begin_stop(v);
        plan_free(old);
}

static void step(struct vhk_post *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, to_home);

        struct vhk_ring_plan *plan = __atomic_exchange_n(&v->plan, NULL, __ATOMIC_ACQ_REL);     /* pairs with publish */
        if (plan)
                take_plan(v, plan);
        if (v->dead)
                stop_listening(v);
        if (v->queue_settled)
                v->unsettled = false;
        if (v->phase == VHK_HOME_DRAINING && (!v->up || vhk_queue_n_in_flight(v->queue) == 0))
                finish_stop(v);

        uint32_t seq = v->now->seq;
        bool stopped = v->phase == VHK_HOME_STOPPED, news = v->adopted != seq;
        if (!v->unsettled && v->phase != VHK_HOME_DRAINING && v->settled != seq) {
                vhk_store_release(&v->settled, seq);
                news = true;
        }
        if (stopped && v->stopped != seq) {
                vhk_store_release(&v->stopped, seq);    /* publishes base */
                news = true;
        }
        vhk_store_relaxed(&v->next, v->up ? vhk_queue_get_next(v->queue) : v->base);
        vhk_store_release(&v->adopted, seq);
        if (news)
                vhk_worker_post(v->control, &v->to_control);
        run(v);
}

/* The last that the home does for this ring. Control frees it, and its own worker perhaps, when the post has come AND the
 * home has returned from posting it. */
static void step_retire(struct vhk_post *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, retire);

        if (vhk_load_acquire(&v->to_home.queued)) {     /* a last step is in the mailbox: behind it */
                vhk_worker_post(v->home, &v->retire);
                return;
        }
        v->now = plan_free(v->now);
        vhk_queue_free(v->queue);
        vhk_store_relaxed(&v->queue, NULL);     /* the post orders */
        vhk_worker_post(v->control, &v->retired_post);
        vhk_store_release(&v->said_farewell, true);     /* pairs with on_retired() */
}

/* ---- control ---- */

static void on_report(struct vhk_post *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, to_control);
        v->reported(v);
}

static void on_retired(struct vhk_post *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, retired_post);
        if (!vhk_load_acquire(&v->said_farewell)) {     /* two instructions away: pairs with step_retire() */
                vhk_worker_post(v->control, &v->retired_post);
                return;
        }
        v->retired = true;
        v->reported(v);
}

int vhk_vring_init(struct vhk_vring *v) {
        v->to_home.fn = step;
        v->to_control.fn = on_report;
        v->retire.fn = step_retire;
        v->retired_post.fn = on_retired;
        v->poller = (struct vhk_poller){ .poll = poll_ring, .arm = arm_ring, .disarm = disarm_ring };
        v->retired = true;      /* nothing was planned: the home does not know of it */
        v->spare = malloc(sizeof(*v->spare));
        return v->spare ? 0 : -ENOMEM;
}

void vhk_vring_done(struct vhk_vring *v) {
        assert(v->retired);
        free(VHK_STEAL(v->spare));
}

int vhk_vring_plan(struct vhk_vring *v, const struct vhk_ring_plan *values) {
        struct vhk_ring_plan *p = malloc(sizeof(*p));

        if (!p && values->goal == VHK_PLAN_STOP)
                p = VHK_STEAL(v->spare);
        else if (!v->spare)
                v->spare = malloc(sizeof(*v->spare));
        if (!p) {
                vhk_fdref_unref(values->kick);
                vhk_ring_config_unref(values->config);
                return -ENOMEM;
        }
        *p = *values;
        p->seq = ++v->seq;
        v->retired = false;
        /* Publishes *p; what comes back was never seen by the home, and is ours again. Pairs with step(). */
        plan_free(__atomic_exchange_n(&v->plan, p, __ATOMIC_ACQ_REL));
        post_home(v);
        return 0;
}

void vhk_vring_retire(struct vhk_vring *v) {
        if (v->retired || v->retiring)          /* once: a second post could come behind the farewell */
                return;
        vhk_vring_get_metrics(v, &v->metrics);
        v->retiring = true;
        vhk_worker_post(v->home, &v->retire);
}

void vhk_vring_get_metrics(const struct vhk_vring *v, struct vhk_queue_metrics *ret_m) {
        struct vhk_queue *q = v->retiring ? NULL : vhk_load_acquire(&v->queue);         /* pairs with the home that made it */

        if (q)
                vhk_queue_get_metrics(q, ret_m);
        else
                *ret_m = v->metrics;
}

/* Numbers wrap around after 2^32 plans. */
static bool reached(uint32_t now, uint32_t seq) {
        return (int32_t)(now - seq) >= 0;
}

bool vhk_vring_has_adopted(const struct vhk_vring *v, uint32_t seq) {
        return reached(vhk_load_acquire(&v->adopted), seq);
}

bool vhk_vring_has_settled(const struct vhk_vring *v, uint32_t seq) {
        return reached(vhk_load_acquire(&v->settled), seq);
}

bool vhk_vring_has_stopped(const struct vhk_vring *v, uint32_t seq) {
        return reached(vhk_load_acquire(&v->stopped), seq);
}

enum vhk_ring_rule vhk_vring_take_broken(struct vhk_vring *v) {
        uint32_t broken = vhk_load_acquire(&v->broken);

        if (broken == v->seen_broken)
                return VHK_RING_OK;
        v->seen_broken = broken;
        return v->rule;
}

bool vhk_vring_take_miss(struct vhk_vring *v, uint64_t *ret_iova, unsigned *ret_perm) {
        uint32_t n = vhk_load_acquire(&v->n_misses);

        if (n == v->seen_misses)
                return false;
        v->seen_misses = n;
        *ret_iova = vhk_load_relaxed(&v->miss_iova);
        *ret_perm = vhk_load_relaxed(&v->miss_perm);
        return true;
}
