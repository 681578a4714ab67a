/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A ring at its worker, and the orders and reports between that and control (see vring.h).
 * Everything here runs on the worker's thread, except the functions of vring.h.
 *
 * step() is the only place where a ring changes: it takes the orders, ends a stop that is complete,
 * and reports. The post that control and this file send calls it, and the queue when requests are
 * done. Whatever a callback of the queue or the device finds out it only notes and posts, for the
 * device may be on the stack. Between two steps the ring is driven by kicks (one read of the
 * descriptor, then the device's queue_run), by a spinning worker (poller), by a timer when the
 * front-end gave no kick descriptor (bit 8 of SET_VRING_KICK: once per millisecond; a spinning
 * worker is faster), and by completions.
 *
 * Source: vhost-user, "Ring states"; virtio 1.3, 2.7.10 (used buffer notification suppression).
 */
#include <sys/epoll.h>

#include "backend/vring.h"
#include "base/clock.h"

#define POLL_NS 1000000u
#define IDLE_KICKS_MAX 64       /* a kick descriptor that is ready but empty so often is no kick descriptor */

static void setup_release(struct vhk_vring_setup *setup) {
        vhk_fdref_unref(setup->kick);
        vhk_ring_config_unref(setup->config);
        *setup = (struct vhk_vring_setup){ .poll = false };
}

static struct vhk_vring_setup setup_steal(struct vhk_vring_setup *setup) {
        struct vhk_vring_setup s = *setup;

        *setup = (struct vhk_vring_setup){ .poll = false };
        return s;
}

static void post_home(struct vhk_vring *v) {
        vhk_worker_post(v->home, &v->to_home);
}

/* ---- running ---- */

/* May the device see requests? A disabled ring holds them, unless the device drops what a disabled ring gets. */
static bool is_active(const struct vhk_vring *v) {
        if (v->phase == VHK_HOME_DRAINING)
                return !v->dead && vhk_queue_is_recovering(v->queue);
        return v->phase == VHK_HOME_RUNNING && !v->dead && (v->now.config->enabled || v->now.config->discard);
}

/* Lets the device work until the ring is empty. A device may leave requests where they are (buffers for events): a round
 * that began with requests there and took none is the last. After VHK_WORK_NS others of this worker
 * have their turn, and control; the clock is read from the second round on only. */
static void run(struct vhk_vring *v) {
        uint64_t start = 0;

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
        for (;;) {
                uint16_t before = vhk_queue_get_position(v->queue);
                v->again = false;
                v->ops->queue_run(v->dev, v->queue);
                if (!is_active(v) || v->spinning)
                        break;
                if (!vhk_queue_arm(v->queue) && !v->again)
                        break;
                if (start && before == vhk_queue_get_position(v->queue))
                        break;
                uint64_t now = vhk_now_ns();
                if (start && now - start >= VHK_WORK_NS) {
                        v->again = true;
                        break;
                }
                if (!start)
                        start = now;
        }
        v->in_run = false;
        if (v->again)
                post_home(v);
}

static void on_kick(void *arg, uint32_t events) {
        struct vhk_vring *v = arg;

        int k = vhk_peer_drain(vhk_fdref_get(v->now.kick));
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

/* Once per start. */
static void note_broken(struct vhk_vring *v, enum vhk_ring_rule rule) {
        if (v->dead)
                return;
        v->dead = true;
        v->rule = rule;
        vhk_store_release(&v->n_broken, v->n_broken + 1);       /* pairs with vhk_vring_take_broken() */
        (void)vhk_fdref_notify(v->now.config->err);
        vhk_worker_post(v->control, &v->to_control);
}

static void on_queue_broken(void *owner, struct vhk_queue *q, enum vhk_ring_rule rule) {
        struct vhk_vring *v = owner;

        note_broken(v, rule);
        post_home(v);           /* to stop listening to its kicks */
}

static void step(struct vhk_vring *v);

/* From the home's mailbox, never from inside of a call of the device's: the report goes out at
 * once. */
static void on_queue_settled(void *owner, struct vhk_queue *q) {
        step(owner);
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

static const struct vhk_queue_owner_ops queue_ops = {
        .broken = on_queue_broken,
        .settled = on_queue_settled,
        .run = on_queue_run,
        .miss = on_queue_miss,
};

/* ---- orders ---- */

static void stop_listening(struct vhk_vring *v) {
        v->kick_watch = vhk_watch_free(v->kick_watch);
        v->poll_timer = vhk_timer_free(v->poll_timer);
}

/* Listens to the kicks that v->now names. */
static int listen_to_kicks(struct vhk_vring *v) {
        int ret = 0;

        stop_listening(v);
        v->idle_kicks = 0;
        if (v->now.kick) {
                ret = vhk_worker_watch(v->home, vhk_fdref_get(v->now.kick), EPOLLIN, on_kick, v, &v->kick_watch);
        } else if (v->now.poll) {
                ret = vhk_worker_timer(v->home, on_poll_timer, v, &v->poll_timer);
                if (ret >= 0)
                        ret = vhk_timer_set(v->poll_timer, POLL_NS);
        }
        return ret;
}

/* The device comes last, so that nothing of its own has to be undone on failure. */
static int bring_up(struct vhk_vring *v, uint16_t base) {
        struct vhk_queue *q = v->queue;
        int ret;

        if (!q) {
                ret = vhk_queue_new(v->index, v->size_max, v->ops->req_size, v->home, &queue_ops, v, &q);
                if (ret < 0)
                        return ret;
                vhk_store_release(&v->queue, q);        /* pairs with the load of whoever reads the metrics */
        }
        ret = vhk_queue_start(q, v->now.config, base, -1);
        if (ret >= 0)
                ret = listen_to_kicks(v);
        if (ret >= 0 && v->ops->queue_start)
                ret = v->ops->queue_start(v->dev, q, v->home);
        if (ret < 0)
                stop_listening(v);
        return ret;
}

/* The queue is stopped, as before; the error eventfd is signalled, for the reply may not be asked
 * for. */
static void fail_start(struct vhk_vring *v, int error) {
        vhk_log(v->log, VHK_LOG_ERROR, "ring %u did not start: %s", v->index, strerror(-error));
        note_broken(v, VHK_RING_DEVICE);
        if (v->queue)
                vhk_queue_stop(v->queue);
        setup_release(&v->now);
}

static void take_start(struct vhk_vring *v, struct vhk_order_box *box) {
        v->start_error = v->phase == VHK_HOME_STOPPED ? 0 : -EBUSY;
        if (v->start_error)             /* control's bug */
                return;
        v->dead = v->declined = v->spinning = v->again = false;
        v->now = setup_steal(&box->setup);
        v->base = box->base;
        v->start_error = bring_up(v, box->base);
        if (v->start_error < 0) {
                fail_start(v, v->start_error);
                return;
        }
        v->phase = VHK_HOME_RUNNING;
        vhk_worker_add_poller(v->home, &v->poller);
}

static void take_break(struct vhk_vring *v, const struct vhk_order_box *box) {
        if (v->phase != VHK_HOME_STOPPED)
                vhk_queue_break(v->queue, (enum vhk_ring_rule)box->rule);
}

static void take_update(struct vhk_vring *v, struct vhk_order_box *box) {
        struct vhk_vring_setup old = v->now;
        int ret = 0;

        if (v->phase == VHK_HOME_STOPPED)
                return;
        v->now = setup_steal(&box->setup);
        (void)vhk_queue_adopt(v->queue, v->now.config);         /* send_reports() asks whether it is quiesced */
        if (v->phase == VHK_HOME_RUNNING && !v->dead && (old.kick != v->now.kick || old.poll != v->now.poll))
                ret = listen_to_kicks(v);
        if (ret < 0) {
                vhk_log(v->log, VHK_LOG_ERROR, "ring %u: its kicks cannot be waited for: %s", v->index, strerror(-ret));
                vhk_queue_break(v->queue, VHK_RING_DEVICE);
        }
        setup_release(&old);
}

static void take_stop(struct vhk_vring *v, const struct vhk_order_box *box) {
        v->stop_seq = box->stop_seq;
        if (v->phase == VHK_HOME_STOPPED)
                return;
        v->stop_how = (enum vhk_stop)box->how;
        if (v->phase == VHK_HOME_RUNNING) {
                stop_listening(v);
                vhk_worker_remove_poller(v->home, &v->poller);
                v->phase = VHK_HOME_DRAINING;
                v->stop_told = false;
        }
        vhk_queue_drain(v->queue, v->stop_how == VHK_STOP_DRAIN);       /* an abort may follow a drain that does not end */
}

static void finish_stop(struct vhk_vring *v) {
        if (v->ops->queue_stopped)
                v->ops->queue_stopped(v->dev, v->queue);
        v->base = vhk_queue_stop(v->queue);
        v->phase = VHK_HOME_STOPPED;
        setup_release(&v->now);
}

static void take_orders(struct vhk_vring *v) {
        struct vhk_order_box *box = __atomic_exchange_n(&v->slot, v->taken, __ATOMIC_ACQ_REL);     /* pairs with send_box() */

        v->taken = box;
        if (!box->kinds)
                return;
        if (box->kinds & VHK_ORDER_START)
                take_start(v, box);
        if (box->kinds & VHK_ORDER_BREAK)
                take_break(v, box);
        if (box->kinds & VHK_ORDER_UPDATE)
                take_update(v, box);
        if (box->kinds & VHK_ORDER_STOP)
                take_stop(v, box);
        v->seq_taken = box->seq;
        setup_release(&box->setup);     /* what was refused or dropped */
        box->kinds = 0;
}

/* The device still runs while recovered requests are taken; then its queue_stop is called. */
static void drain(struct vhk_vring *v) {
        if (!v->stop_told && !vhk_queue_is_recovering(v->queue)) {
                v->stop_told = true;
                if (v->ops->queue_stop)
                        v->ops->queue_stop(v->dev, v->queue, v->stop_how);
        }
        if (vhk_queue_is_drained(v->queue))
                finish_stop(v);
}

/* ---- reports ---- */

static bool report(uint32_t *field, uint32_t seq) {
        if (*field == seq)
                return false;
        vhk_store_release(field, seq);
        return true;
}

/* What holds of the queue now, never what an order was meant to do. */
static void send_reports(struct vhk_vring *v) {
        bool is_stopped = v->phase == VHK_HOME_STOPPED, news = false;

        vhk_store_relaxed(&v->next, is_stopped ? v->base : vhk_queue_get_next(v->queue));
        if (is_stopped || vhk_queue_is_quiesced(v->queue))
                news |= report(&v->settled, v->seq_taken);
        if (is_stopped)
                news |= report(&v->stopped, v->stop_seq);
        news |= report(&v->adopted, v->seq_taken);
        if (news)
                vhk_worker_post(v->control, &v->to_control);
}

static void step(struct vhk_vring *v) {
        take_orders(v);
        if (v->dead)
                stop_listening(v);
        if (v->phase == VHK_HOME_DRAINING)
                drain(v);
        send_reports(v);
        run(v);
}

static void on_home(struct vhk_post *p) {
        step(vhk_container_of(p, struct vhk_vring, to_home));
}

/* The last that the home does for this ring. Control frees it, and its own worker perhaps, when the post has come AND the
 * home has returned from posting it. */
static void step_retire(struct vhk_post *p) {
        struct vhk_vring *v = vhk_container_of(p, struct vhk_vring, retire);

        if (vhk_load_acquire(&v->to_home.queued)) {     /* a last step is in the mailbox: behind it */
                vhk_worker_post(v->home, &v->retire);
                return;
        }
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

void vhk_vring_init(struct vhk_vring *v) {
        v->to_home.fn = on_home;
        v->to_control.fn = on_report;
        v->retire.fn = step_retire;
        v->retired_post.fn = on_retired;
        v->poller = (struct vhk_poller){ .poll = poll_ring, .arm = arm_ring, .disarm = disarm_ring };
        v->retired = true;      /* no order was sent: the home does not know of it */
        v->spare = &v->boxes[0];
        v->slot = &v->boxes[1];
        v->taken = &v->boxes[2];
}

void vhk_vring_done(struct vhk_vring *v) {
        assert(v->retired);
        for (unsigned i = 0; i < VHK_N(v->boxes); i++)
                setup_release(&v->boxes[i].setup);
}

/* The box with what the worker has not taken; meanwhile it finds an empty one. */
static struct vhk_order_box *fetch_box(struct vhk_vring *v) {
        struct vhk_order_box *box = __atomic_exchange_n(&v->slot, v->spare, __ATOMIC_ACQ_REL);  /* pairs with take_orders() */

        v->spare = NULL;
        return box;
}

/* Sends @box with another order in it. */
static void send_box(struct vhk_vring *v, struct vhk_order_box *box) {
        box->seq = ++v->seq;
        v->retired = false;
        v->spare = __atomic_exchange_n(&v->slot, box, __ATOMIC_ACQ_REL);        /* publishes *box; pairs with take_orders() */
        post_home(v);
}

void vhk_vring_start(struct vhk_vring *v, const struct vhk_vring_setup *setup, uint16_t base) {
        assert(!v->runs);
        struct vhk_order_box *box = fetch_box(v);

        setup_release(&box->setup);     /* an UPDATE or a BREAK of the ring that has stopped */
        *box = (struct vhk_order_box){ .kinds = VHK_ORDER_START, .setup = *setup, .base = base };
        v->runs = v->start_due = true;
        v->start_sent = v->seq + 1;
        send_box(v, box);
}

void vhk_vring_update(struct vhk_vring *v, const struct vhk_vring_setup *setup) {
        struct vhk_order_box *box = fetch_box(v);

        setup_release(&box->setup);
        box->setup = *setup;
        if (!(box->kinds & VHK_ORDER_START))    /* a START that was not taken yet starts with this one */
                box->kinds |= VHK_ORDER_UPDATE;
        send_box(v, box);
}

void vhk_vring_break(struct vhk_vring *v, enum vhk_ring_rule rule) {
        struct vhk_order_box *box = fetch_box(v);

        box->kinds |= VHK_ORDER_BREAK;
        box->rule = (uint8_t)rule;
        send_box(v, box);
}

void vhk_vring_stop(struct vhk_vring *v, enum vhk_stop how) {
        struct vhk_order_box *box = fetch_box(v);

        box->kinds |= VHK_ORDER_STOP;
        box->how = (uint8_t)how;
        box->stop_seq = v->stop_sent = v->seq + 1;
        v->stop_due = true;
        send_box(v, box);
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

/* Numbers wrap around after 2^32 orders. */
static bool reached(uint32_t now, uint32_t seq) {
        return (int32_t)(now - seq) >= 0;
}

bool vhk_vring_has_adopted(const struct vhk_vring *v, uint32_t seq) {
        return reached(vhk_load_acquire(&v->adopted), seq);
}

bool vhk_vring_has_settled(const struct vhk_vring *v, uint32_t seq) {
        return reached(vhk_load_acquire(&v->settled), seq);
}

int vhk_vring_take_start(struct vhk_vring *v) {
        if (!v->start_due || !vhk_vring_has_adopted(v, v->start_sent))
                return 1;
        v->start_due = false;
        v->runs = v->start_error >= 0;
        return v->start_error;
}

bool vhk_vring_has_stopped(const struct vhk_vring *v) {
        return v->stop_due && reached(vhk_load_acquire(&v->stopped), v->stop_sent);
}

uint16_t vhk_vring_take_stopped(struct vhk_vring *v) {
        v->runs = v->stop_due = false;
        return v->base;
}

enum vhk_ring_rule vhk_vring_take_broken(struct vhk_vring *v) {
        uint32_t n = vhk_load_acquire(&v->n_broken);

        if (n == v->seen_broken)
                return VHK_RING_OK;
        v->seen_broken = n;
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
