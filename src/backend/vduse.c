/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The carrier VDUSE: a device of this machine's own kernel, or of whoever has its /dev/vhost-vdpa-N. Control worker, but for
 * inject(), which is the rings' notification and runs at their homes.
 *
 * The kernel asks by message and waits for each answer, at most 30 seconds; then it gives up on the device. While an answer is
 * due no other message is read. What is read and not answered when the descriptor is closed is asked of a successor.
 *
 *   FEATURES_OK       the driver's choice: refused if it was not offered, or without VERSION_1
 *   DRIVER_OK         each ring that is ready is looked up, its areas are mapped, it starts; answered when all run. One that gets
 *                     ready later starts at its first kick, for no message tells of it
 *   status 0          rings drain; then memory and record are forgotten, the device is reset; also if the answer had to be
 *                     given before. Until then DRIVER_OK is refused, and no ring starts
 *   UPDATE_IOTLB      rings go over to other memory; answered when no request of the time before is in flight
 *   GET_VQ_STATE      asked of the ring's home
 *
 * DRIVER_OK counts in the kernel after our answer, and before it no interrupt is taken: one that is refused is tried again,
 * once per millisecond.
 *
 * A process that is killed leaves the device as it was. Its successor finds in the record (vduse-record.c) whether the device
 * was running, and starts the rings at once: no driver would say it again.
 *
 * Source: Linux Documentation/userspace-api/vduse.rst; drivers/vdpa/vdpa_user of 6.1 (version 0: block devices only) and 6.19.
 */
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "backend/vduse.h"
#include "mem/mapping.h"

#define BURST 64
#define LIMIT_NS 20000000000u   /* below the kernel's 30 s */
#define LOOK_NS 100000000u
#define IRQ_NS 1000000u
#define IRQ_TRIES 1000u
#define RING_ALIGN 4096u

#define ID_NET 1u
#define ID_BLOCK 2u
#define BLK_F_CONFIG_WCE 11
#define NET_F_CTRL_VQ 17

enum { DRIVER_OK = 4, FEATURES_OK = 8, FAILED = 128 };  /* virtio 1.3, 2.1 */

#define U(x) ((unsigned long long)(x))

/* ---- answers ---- */

static void answer_with(struct vhk_backend *b, const struct vhk_sys_vduse_request *r, int error, const struct vhk_sys_vduse_vq_info *state) {
        vhk_log(&b->trace, VHK_LOG_DEBUG, "<- vduse %u: %s%s%s", r->id, error < 0 ? "refused" : "ok", error < 0 ? ": " : "",
                error < 0 ? b->story.text : "");
        if (error < 0)
                vhk_log(&b->log, VHK_LOG_WARNING, "VDUSE request %u refused (%s): %s", r->type, b->story.rule, b->story.text);
        int k = vhk_sys_vduse_write_response(b->vduse->fd, r->id, error < 0 ? VHK_SYS_VDUSE_FAILED : VHK_SYS_VDUSE_OK, state, 0);
        if (k == -ENOENT)
                vhk_log(&b->log, VHK_LOG_WARNING, "the kernel does not wait for the answer to request %u any more", r->type);
        else if (k < 0)
                vhk_session_fail(b, k, "vduse.answer", "cannot answer the kernel: %s", strerror(-k));
}

static void start_late(struct vhk_vduse_ring *v);

/* The token's answer. */
static void answer(struct vhk_backend *b, int error, const struct vhk_sys_vduse_vq_info *state) {
        struct vhk_sys_vduse_request r = b->vduse->request;

        vhk_token_drop(b);
        answer_with(b, &r, error, state);
        b->carrier->watch(b);
        for (unsigned i = 0; i < b->n_queues; i++)
                if (b->vduse->rings[i].late_due)
                        start_late(&b->vduse->rings[i]);
}

static int later(struct vhk_backend *b, const struct vhk_sys_vduse_request *r, void (*finish)(struct vhk_backend *b, int error)) {
        b->vduse->request = *r;
        return vhk_token_take(b, NULL, finish);
}

/* ---- interrupts ---- */

static int inject(void *arg) {
        struct vhk_vduse_ring *v = arg;

        int k = vhk_sys_vduse_vq_inject_irq(v->b->vduse->fd, v->index);
        if (k < 0) {
                vhk_store_relaxed(&v->irq_due, true);
                vhk_worker_post(v->b->o.control, &v->b->vduse->irq_post);
        }
        return k;
}

static void inject_again(struct vhk_backend *b) {
        bool due = false;

        for (unsigned i = 0; i < b->n_queues && b->state == VHK_BACKEND_SERVING; i++) {
                struct vhk_vduse_ring *v = &b->vduse->rings[i];
                if (!__atomic_exchange_n(&v->irq_due, false, __ATOMIC_RELAXED) || !vhk_ring_runs(b, i))
                        continue;
                if (vhk_sys_vduse_vq_inject_irq(b->vduse->fd, i) >= 0) {
                        v->n_tries = 0;
                } else if (++v->n_tries < IRQ_TRIES) {
                        vhk_store_relaxed(&v->irq_due, true);
                        due = true;
                } else if (v->n_tries == IRQ_TRIES) {
                        vhk_log(&b->log, VHK_LOG_WARNING, "ring %u: the kernel takes no interrupt", i);
                }
        }
        int k = due ? vhk_timer_set(b->vduse->irq_timer, IRQ_NS) : 0;
        if (k < 0)
                vhk_session_fail(b, k, "backend.loop", "no timer: %s", strerror(-k));
}

static void on_irq_timer(void *arg) {
        inject_again(arg);
        vhk_session_check(arg);
}

static void on_irq_post(struct vhk_post *p) {
        struct vhk_vduse *u = vhk_container_of(p, struct vhk_vduse, irq_post);

        on_irq_timer(u->rings[0].b);
}

/* ---- starting ---- */

static int negotiate(struct vhk_backend *b) {
        struct vhk_session *s = &b->session;
        uint64_t features;

        int k = vhk_sys_vduse_get_features(b->vduse->fd, &features);
        if (k < 0)
                return vhk_refuse(b, k, "vduse.features", "the kernel does not tell the driver's features: %s", strerror(-k));
        if (features & ~s->wire.features_offered)
                return vhk_refuse(b, -EINVAL, "backend.features", "feature bits 0x%llx were not offered", U(features & ~s->wire.features_offered));
        if (!(features & VHK_BIT(VHK_F_VERSION_1)))
                return vhk_refuse(b, -EINVAL, "vduse.legacy", "the driver is of the time before virtio 1.0");
        if (s->negotiated && s->wire.features == features)
                return 0;
        s->negotiated = false;
        s->wire.features = features;
        return vhk_session_negotiate(b);
}

/* Where ring @i is, with all that it needs mapped; or a refusal. What was found for one ring is out
 * of date after the next. */
static int find_areas(struct vhk_backend *b, unsigned i, struct vhk_ring_config *ret_areas) {
        int ret = vhk_ring_resolve(b, i, ret_areas);

        if (ret >= 0 && ret_areas->stalled)     /* the error is that of vhk_vduse_fetch() */
                ret = b->story.code < 0 ? b->story.code : -EFAULT;
        return ret;
}

/* What the driver made of ring @i, as values of the session. 1: it is ready; 0: it is not used; or a refusal. */
static int look_up(struct vhk_backend *b, unsigned i) {
        struct vhk_ring_config areas = { .stalled = false };
        struct vhk_ring_value *r = &b->session.rings[i];
        struct vhk_sys_vduse_vq_info q = { .index = i };

        int k = vhk_sys_vduse_vq_get_info(b->vduse->fd, 0, &q);
        if (k < 0)
                return vhk_refuse(b, k, "vduse.ring", "the kernel does not tell of ring %u: %s", i, strerror(-k));
        if (!q.ready)
                return 0;
        if (!vhk_is_pow2(q.num) || q.num > b->ring_size_max)
                return vhk_refuse(b, -EINVAL, "ring.size", "ring %u: size %u is not a power of two up to %u", i, q.num, b->ring_size_max);
        r->num = q.num;
        r->base = q.split.avail;
        r->addr = (struct vhk_p_vring_addr){ .index = i, .desc = q.desc, .avail = q.driver, .used = q.device };
        r->has_addr = r->enabled = true;
        vhk_inflight_check_ring(b, i);
        k = find_areas(b, i, &areas);
        return k < 0 ? k : 1;
}

static int start_ring(struct vhk_backend *b, unsigned i) {
        struct vhk_ring_config areas = { .stalled = false };
        struct vhk_ring_value *r = &b->session.rings[i];
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        vhk_fdref_unref(r->kick);
        r->kick = NULL;
        int k = fd < 0 ? vhk_errno() : vhk_fdref_new(fd, &r->kick);
        if (k >= 0)
                k = vhk_sys_vduse_vq_setup_kickfd(b->vduse->fd, i, vhk_fdref_get(r->kick));
        if (k < 0)
                return vhk_refuse(b, k, "ring.kick", "ring %u: no descriptor for its kicks: %s", i, strerror(-k));
        k = find_areas(b, i, &areas);
        if (k >= 0)
                k = vhk_ring_event(b, i, VHK_RING_EVENT_KICK);
        if (k < 0)
                return k;
        k = vhk_ring_send_start(b, i, &areas);
        if (k < 0)
                vhk_ring_not_started(b, i, k);
        if (k < 0)
                return vhk_refuse(b, k, "vduse.plan", "ring %u does not start: %s", i, strerror(-k));
        vhk_ring_wait(b, i, VHK_WAIT_ADOPTED);
        return 0;
}

static void stop_waiting(struct vhk_vduse_ring *v) {
        v->late_watch = vhk_watch_free(v->late_watch);
        vhk_close(&v->late_fd);
        v->late_due = false;
}

static void start_late(struct vhk_vduse_ring *v) {
        struct vhk_backend *b = v->b;
        int k = 0;

        v->late_due = false;
        if (!vhk_ring_runs(b, v->index))
                k = look_up(b, v->index);
        if (k > 0) {
                stop_waiting(v);
                k = start_ring(b, v->index);
                vhk_ring_wait(b, v->index, VHK_WAIT_NONE);      /* there is no message to answer */
        }
        if (k < 0)
                vhk_log(&b->log, VHK_LOG_WARNING, "ring %u, which got ready later, does not start (%s): %s", v->index, b->story.rule, b->story.text);
}

/* The kernel lets no kick through before the ring is ready. */
static void on_late_kick(void *arg, uint32_t events) {
        struct vhk_vduse_ring *v = arg;

        if (vhk_drain_fd(v->late_fd) <= 0 || v->b->state != VHK_BACKEND_SERVING)
                return;
        v->late_due = true;
        if (!v->b->token.out)
                start_late(v);
        vhk_session_check(v->b);
}

static int wait_for_ring(struct vhk_backend *b, unsigned i) {
        struct vhk_vduse_ring *v = &b->vduse->rings[i];

        stop_waiting(v);
        v->late_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        int k = v->late_fd < 0 ? vhk_errno() : vhk_worker_watch(b->o.control, v->late_fd, EPOLLIN, on_late_kick, v, &v->late_watch);
        if (k >= 0)
                k = vhk_sys_vduse_vq_setup_kickfd(b->vduse->fd, i, v->late_fd);
        return k < 0 ? vhk_refuse(b, k, "ring.kick", "ring %u: no descriptor for its kicks: %s", i, strerror(-k)) : 0;
}

/* None starts late from now on. */
static void stop_rings(struct vhk_backend *b) {
        for (unsigned i = 0; i < b->n_queues; i++) {
                stop_waiting(&b->vduse->rings[i]);
                if (!vhk_ring_runs(b, i))
                        continue;
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_RESET);
                vhk_ring_stop(b, i, VHK_STOP_DRAIN);
                vhk_ring_wait(b, i, VHK_WAIT_STOPPED);
        }
}

/* All rings have stopped: as if they had never run. */
static void forget_rings(struct vhk_backend *b) {
        for (unsigned i = 0; i < b->n_queues; i++) {
                vhk_ring_forget(&b->session.rings[i]);
                vhk_store_relaxed(&b->vduse->rings[i].irq_due, false);
                b->vduse->rings[i].n_tries = 0;
        }
        vhk_vduse_record_set_running(&b->vduse->record, false);
}

/* All rings have stopped: what a reset, or a DRIVER_OK that failed, has left to do. Whether an
 * answer waits for it or not. */
static void stopped(struct vhk_backend *b) {
        struct vhk_vduse *u = b->vduse;

        if (!u->reset_pending && !u->undo_pending)
                return;
        forget_rings(b);
        if (u->reset_pending) {
                vhk_vduse_record_wipe(&u->record);
                int ret = vhk_vduse_forget_memory(b);
                if (ret < 0)
                        vhk_session_fail(b, ret, "vduse.reset", "no memory for a reset: %s", strerror(-ret));
                b->session.reset_due = true;
        }
        u->reset_pending = u->undo_pending = false;
        if (b->state == VHK_BACKEND_SERVING)    /* else its end does it */
                vhk_session_reset_device(b);
}

/* Starts all rings that are ready. 0; or a refusal, after which some may run. */
static int start_rings(struct vhk_backend *b) {
        bool ready[VHK_MAX_RINGS] = { false };

        for (unsigned i = 0; i < b->n_queues; i++) {
                int k = look_up(b, i);
                if (k < 0)
                        return k;
                ready[i] = k;
        }
        vhk_vduse_record_set_running(&b->vduse->record, true);
        for (unsigned i = 0; i < b->n_queues; i++) {
                int k = ready[i] ? start_ring(b, i) : wait_for_ring(b, i);
                if (k < 0)
                        return k;
        }
        return 0;
}

/* ---- messages ---- */

static int get_vq_state_stopped(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) {
        struct vhk_sys_vduse_vq_info q = { .index = r->vq_index };

        int k = vhk_sys_vduse_vq_get_info(b->vduse->fd, 0, &q);
        if (k < 0)
                return vhk_refuse(b, k, "vduse.ring", "the kernel does not tell of ring %u: %s", r->vq_index, strerror(-k));
        answer_with(b, r, 0, &q);
        return VHK_CALL_LATER;
}

static void state_known(struct vhk_backend *b, int error) {
        struct vhk_sys_vduse_vq_info q = { .index = b->vduse->request.vq_index };

        q.split.avail = vhk_load_relaxed(&b->rings[q.index].next);      /* has_adopted() has acquired it */
        answer(b, error, &q);
}

static int on_get_vq_state(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) {
        if (r->vq_index >= b->n_queues)
                return vhk_refuse(b, -EINVAL, "vduse.ring", "ring %u of %u", r->vq_index, b->n_queues);
        if (!vhk_ring_runs(b, r->vq_index))
                return get_vq_state_stopped(b, r);
        int k = vhk_ring_publish(b, r->vq_index);
        if (k < 0)
                return vhk_refuse(b, k, "vduse.plan", "ring %u cannot be asked: %s", r->vq_index, strerror(-k));
        vhk_ring_wait(b, r->vq_index, VHK_WAIT_ADOPTED);
        return later(b, r, state_known);
}

static void reset_done(struct vhk_backend *b, int error) {
        answer(b, error, NULL);
}

/* In the kernel the status is 0, whatever we answer. */
static int reset(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) {
        b->session.status = 0;
        b->vduse->reset_pending = true;
        stop_rings(b);
        if (!b->session.wire.running)
                stopped(b);
        return later(b, r, reset_done);
}

/* Back to where DRIVER_OK found them. */
static void start_undone(struct vhk_backend *b, int error) {
        vhk_refuse(b, -EIO, "vduse.start", "rings did not start");
        answer(b, -EIO, NULL);
}

/* The answer is due when the rings that did start have stopped. */
static void undo_start(struct vhk_backend *b) {
        b->session.status &= (uint8_t)~DRIVER_OK;
        vhk_vduse_record_set_running(&b->vduse->record, false);
        b->vduse->undo_pending = true;
        stop_rings(b);
        if (!b->session.wire.running)
                stopped(b);
}

static void started(struct vhk_backend *b, int error) {
        for (unsigned i = 0; i < b->n_queues; i++)
                if (b->session.rings[i].start_error < 0 || b->session.rings[i].state == VHK_RING_STATE_BROKEN)
                        error = -EIO;
        if (error == 0) {
                answer(b, 0, NULL);
                return;
        }
        b->token.finish = start_undone;
        b->token.deadline = vhk_now_ns() + b->limit_ns;
        undo_start(b);
        vhk_token_check(b);
}

static int start(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) {
        if (b->session.wire.running)
                return vhk_refuse(b, -EBUSY, "ring.state", "rings of the time before the reset have not stopped yet");
        vhk_vduse_record_wipe(&b->vduse->record);
        int k = start_rings(b);
        if (k < 0)
                vhk_log(&b->log, VHK_LOG_WARNING, "the driver cannot go on (%s): %s", b->story.rule, b->story.text);
        if (k < 0)
                undo_start(b);
        else
                b->session.status = r->status;
        return later(b, r, k < 0 ? start_undone : started);
}

static int on_set_status(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) {
        struct vhk_session *s = &b->session;
        uint8_t news = r->status & (uint8_t)~s->status;

        if (r->status == 0)
                return reset(b, r);
        if (s->status & ~r->status)
                return vhk_refuse(b, -EINVAL, "vduse.status", "status 0x%02x after 0x%02x: bits are only taken away by a reset", r->status,
                                  s->status);
        int k = news & (FEATURES_OK | DRIVER_OK) ? negotiate(b) : 0;
        if (k < 0)
                return k;
        if ((news & DRIVER_OK) && !(r->status & FAILED))
                return start(b, r);
        s->status = r->status;
        return 0;
}

static void updated(struct vhk_backend *b, int error) {
        if (error < 0)
                b->session.iotlb->evicted = true;       /* what is gone may be in use: the next one waits for that too */
        answer(b, error, NULL);
}

static int on_update_iotlb(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) {
        if (r->first > r->last)
                return vhk_refuse(b, -EINVAL, "vduse.range", "I/O addresses 0x%llx to 0x%llx", U(r->first), U(r->last));
        int k = vhk_vduse_update(b, r->first, r->last);
        if (k < 0)
                vhk_session_fail(b, k, "vduse.plan", "%s", b->story.text);
        return k < 0 ? k : later(b, r, updated);
}

static void handle(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) {
        static int (*const handlers[])(struct vhk_backend *b, const struct vhk_sys_vduse_request *r) = {
                [VHK_SYS_VDUSE_GET_VQ_STATE] = on_get_vq_state,
                [VHK_SYS_VDUSE_SET_STATUS] = on_set_status,
                [VHK_SYS_VDUSE_UPDATE_IOTLB] = on_update_iotlb,
        };

        vhk_log(&b->trace, VHK_LOG_DEBUG, "-> vduse %u: type %u, ring %u, status 0x%02x, 0x%llx to 0x%llx", r->id, r->type, r->vq_index, r->status,
                U(r->first), U(r->last));
        b->story = (struct vhk_error){ .code = -EINVAL, .rule = "backend.refused", .text = "refused" };
        b->handling = true;
        int k = r->type < VHK_N(handlers) ? handlers[r->type](b, r)
                                          : vhk_refuse(b, -EOPNOTSUPP, "vduse.type", "a request of an unknown type (%u)", r->type);
        b->handling = false;
        if (k != VHK_CALL_LATER)
                answer_with(b, r, k, NULL);
        else
                vhk_token_check(b);
}

/* The kernel does not go; that it has given up is told by EPOLLERR, whatever is listened to. */
static bool has_gone(const struct vhk_backend *b) {
        return false;
}

static void close_device(struct vhk_backend *b) {
        struct vhk_vduse *u = b->vduse;

        u->watch = vhk_watch_free(u->watch);
        if (u->irq_timer)
                vhk_timer_set(u->irq_timer, 0);
        for (unsigned i = 0; i < b->n_queues; i++)
                stop_waiting(&u->rings[i]);
        vhk_store_relaxed(&b->host.available, false);
}

static void on_device(void *arg, uint32_t events) {
        struct vhk_backend *b = arg;
        struct vhk_sys_vduse_request r;
        int k = 1;

        if (events & (EPOLLERR | EPOLLHUP))
                vhk_session_fail(b, -EIO, "vduse.given-up", "the kernel has given up on the device: it was not answered in time");
        if (b->state != VHK_BACKEND_SERVING) {
                if (b->failed)          /* while it stops: there is nobody to answer to */
                        close_device(b);
                return;
        }
        for (unsigned i = 0; i < BURST && k > 0 && !b->failed && !b->token.out; i++) {
                k = vhk_sys_vduse_read_request(b->vduse->fd, &r);
                if (k > 0)
                        handle(b, &r);
        }
        if (k < 0)
                vhk_session_fail(b, k, "vduse.read", "cannot read what the kernel asks: %s", strerror(-k));
        vhk_session_check(b);
}

static void watch(struct vhk_backend *b) {
        bool deaf = b->token.out || b->state != VHK_BACKEND_SERVING;

        if (!b->vduse->watch)
                return;
        int k = vhk_watch_set(b->vduse->watch, deaf ? 0 : EPOLLIN);
        if (k >= 0)
                k = vhk_timer_set(b->timer, deaf ? VHK_MIN(LOOK_NS, b->limit_ns) : 0);
        if (k < 0)
                vhk_session_fail(b, k, "backend.loop", "cannot watch the device: %s", strerror(-k));
}

/* ---- what the rings and the device need ---- */

static int fill(struct vhk_backend *b, unsigned i, struct vhk_ring_config *c) {
        vhk_inflight_fill(b, i, c);
        return 0;
}

static void faulted(struct vhk_backend *b, unsigned i) {
        if (vhk_inflight_is_bad(b))
                vhk_session_fail(b, -EFAULT, "vduse.record", "the record has vanished (its file was truncated)");
}

static void config_changed(struct vhk_host *h) {
        struct vhk_backend *b = h->b;
        struct vhk_vduse *u = b->vduse;
        uint8_t config[VHK_MAX_CONFIG];

        if (!__atomic_exchange_n(&h->changed, false, __ATOMIC_RELAXED) || b->state != VHK_BACKEND_SERVING)
                return;
        int k = b->ops->get_config(b->dev, 0, config, u->id.config_len);
        if (k >= 0) {
                vhk_vduse_record_set_config(&u->record, config, u->id.config_len);      /* first: a successor says it to the kernel again */
                k = vhk_sys_vduse_set_config(u->fd, 0, config, u->id.config_len);
        }
        if (k >= 0 && (b->session.status & DRIVER_OK))
                k = vhk_sys_vduse_inject_config_irq(u->fd);
        if (k < 0)
                vhk_log(&b->log, VHK_LOG_WARNING, "the driver does not learn of the new configuration: %s", strerror(-k));
}

/* ---- the beginning ---- */

/* The predecessor was killed while the device ran. */
static int take_over(struct vhk_backend *b) {
        vhk_log(&b->log, VHK_LOG_INFO, "VDUSE device %s was running: going on where its predecessor was stopped", b->vduse->id.name);
        int k = negotiate(b);
        if (k >= 0)
                k = start_rings(b);
        if (k < 0)
                return k;
        b->session.status = 1 | 2 | DRIVER_OK | FEATURES_OK;
        for (unsigned i = 0; i < b->n_queues; i++)
                vhk_ring_wait(b, i, VHK_WAIT_NONE);             /* there is no message to answer */
        return 0;
}

static int begin(struct vhk_backend *b, int fd) {
        struct vhk_vduse *u = b->vduse;
        int k = vhk_vduse_forget_memory(b);

        for (unsigned i = 0; k >= 0 && i < b->n_queues; i++)
                k = vhk_fdref_new_call(inject, &u->rings[i], &b->session.rings[i].call);
        if (k >= 0)
                k = vhk_worker_timer(b->o.control, on_irq_timer, b, &u->irq_timer);
        if (k >= 0)
                k = vhk_worker_watch(b->o.control, u->fd, EPOLLIN, on_device, b, &u->watch);
        if (k < 0) {
                close_device(b);
                return k;
        }
        b->session.inflight = (struct vhk_inflight_area){
                .mapping = vhk_mapping_ref(u->record.mapping), .offset = vhk_vduse_record_rings(), .n_rings = (uint16_t)u->id.n_rings,
                .n_entries = u->record.n_entries,
        };
        if (!u->made && vhk_vduse_record_is_running(&u->record) && take_over(b) < 0)
                vhk_session_fail(b, b->story.code, b->story.rule, "cannot go on where the predecessor was stopped: %s", b->story.text);
        return 0;
}

/* ---- the endpoint ---- */

static uint64_t features_of(const struct vhk_backend *b) {
        uint64_t f = b->session.wire.features_offered & ~(VHK_BIT(VHK_F_PROTOCOL_FEATURES) | VHK_BIT(VHK_F_LOG_ALL));

        /* what writes to the configuration space, which is read-only here, or (a card's control queue) is refused by the kernel */
        if (b->ops->virtio_id == ID_BLOCK)
                f &= ~VHK_BIT(BLK_F_CONFIG_WCE);
        if (b->ops->virtio_id == ID_NET)
                f &= ~VHK_BIT(NET_F_CTRL_VQ);
        return f | VHK_BIT(VHK_F_ACCESS_PLATFORM);
}

static int identify(struct vhk_backend *b, const char *name, struct vhk_error *ret_e) {
        struct vhk_vduse_identity *id = &b->vduse->id;

        if (!*name || strlen(name) >= sizeof(id->name) || strchr(name, '/') || name[0] == '.' || !strcmp(name, "control"))
                return vhk_error_set(ret_e, -EINVAL, "vduse.name", "\"%.60s\" cannot be the name of a VDUSE device", name);
        if (!b->ops->config_len || !b->ops->get_config)
                return vhk_error_set(ret_e, -EOPNOTSUPP, "vduse.config", "the device has no configuration space, which VDUSE demands");
        strcpy(id->name, name);
        id->device_id = b->ops->virtio_id;
        id->n_rings = b->n_queues;
        id->n_entries = b->ring_size_max;
        id->config_len = b->ops->config_len;
        id->features = b->session.wire.features_offered = features_of(b);
        int k = b->ops->get_config(b->dev, 0, id->config, id->config_len);
        return k < 0 ? vhk_error_set(ret_e, k, "device.config", "the device does not tell its configuration: %s", strerror(-k)) : 0;
}

static int create(struct vhk_backend *b, struct vhk_error *ret_e) {
        const struct vhk_vduse_identity *id = &b->vduse->id;
        struct vhk_sys_vduse_config c = {
                .name = id->name, .device_id = id->device_id, .features = id->features, .vq_num = id->n_rings, .vq_align = RING_ALIGN,
                .config = id->config, .config_size = id->config_len,
        };

        int k = vhk_sys_vduse_set_api_version(b->vduse->control_fd, 0);
        if (k >= 0)
                k = vhk_sys_vduse_create_dev(b->vduse->control_fd, &c);
        b->vduse->made = k >= 0;
        if (k == -EEXIST)
                return 0;
        if (k == -EINVAL || k == -EPERM)
                return vhk_error_set(ret_e, k, "vduse.create", "the kernel does not take a device of virtio id %u with features 0x%llx: %s",
                                     id->device_id, U(id->features), strerror(-k));
        return k < 0 ? vhk_error_set(ret_e, k, "vduse.create", "the VDUSE device %.60s cannot be made: %s", id->name, strerror(-k)) : 0;
}

static int open_control(struct vhk_backend *b, struct vhk_error *ret_e) {
        struct vhk_vduse *u = b->vduse;

        int k = vhk_sys_vduse_open(&u->control_fd);
        return k < 0 ? vhk_error_set(ret_e, k, "vduse.control", "/dev/vduse/control: %s%s", strerror(-k),
                                     k == -ENOENT ? " (is the module vduse loaded?)" : "") : 0;
}

static int open_device(struct vhk_backend *b, struct vhk_error *ret_e) {
        struct vhk_vduse *u = b->vduse;

        if (u->lent_fd)
                return 0;
        int k = u->control_fd < 0 ? open_control(b, ret_e) : 0;
        if (k >= 0)
                k = create(b, ret_e);
        if (k < 0)
                return k;
        k = vhk_sys_vduse_open_dev(u->id.name, &u->fd);
        if (k == -EBUSY)
                return vhk_error_set(ret_e, k, "vduse.busy", "the VDUSE device %.60s is served by somebody else", u->id.name);
        return k < 0 ? vhk_error_set(ret_e, k, "vduse.open", "/dev/vduse/%.60s: %s", u->id.name, strerror(-k)) : 0;
}

/* Of a device that is there: has it as many rings as ours? */
static int check_rings(struct vhk_backend *b, struct vhk_error *ret_e) {
        struct vhk_sys_vduse_vq_info last = { .index = b->n_queues - 1 }, none = { .index = b->n_queues };

        int k = vhk_sys_vduse_vq_get_info(b->vduse->fd, 0, &last);
        if (k == -EPERM)
                return vhk_error_set(ret_e, k, "vduse.given-up", "the kernel has given up on the device %.60s: take it off the vDPA bus first",
                                     b->vduse->id.name);
        if (k < 0 || vhk_sys_vduse_vq_get_info(b->vduse->fd, 0, &none) >= 0)
                return vhk_error_set(ret_e, -EEXIST, "vduse.rings", "the VDUSE device %.60s is there, and does not have %u queues", b->vduse->id.name,
                                     b->n_queues);
        return 0;
}

/* Has a driver begun to use it? */
static bool is_used(const struct vhk_backend *b) {
        bool any = false;

        for (unsigned i = 0; i < b->n_queues; i++) {
                struct vhk_sys_vduse_vq_info q = { .index = i };
                any |= vhk_sys_vduse_vq_get_info(b->vduse->fd, 0, &q) < 0 || q.ready;
        }
        return any;
}

static int take_device(struct vhk_backend *b, const char *path, struct vhk_error *ret_e) {
        struct vhk_vduse *u = b->vduse;

        int k = check_rings(b, ret_e);
        if (k >= 0)
                k = vhk_vduse_record_take(&u->record, path, &u->id, ret_e);
        if (k == -ENOENT && !is_used(b)) {      /* it was only just made */
                vhk_vduse_record_close(&u->record, false);
                k = vhk_vduse_record_make(&u->record, path, &u->id, ret_e);
        }
        if (k < 0)
                return k;
        k = vhk_sys_vduse_set_config(u->fd, 0, u->id.config, u->id.config_len);         /* the predecessor may have died before it said so */
        return k < 0 ? vhk_error_set(ret_e, -EEXIST, "vduse.config", "the VDUSE device %.60s has a configuration of another size: %s", u->id.name,
                                     strerror(-k)) : 0;
}

/* A device that cannot be taken over is removed if nobody has it: it is on no bus. Else *ret_e stays as it is. */
static int make_anew(struct vhk_backend *b, int why, const char *path, struct vhk_error *ret_e) {
        struct vhk_vduse *u = b->vduse;

        if (u->lent_fd)
                return why;
        vhk_vduse_record_close(&u->record, false);
        vhk_close(&u->fd);
        if (vhk_sys_vduse_destroy_dev(u->control_fd, u->id.name) < 0)
                return why;
        vhk_log(&b->log, VHK_LOG_INFO, "the VDUSE device %s of somebody else is made anew", u->id.name);
        int k = open_device(b, ret_e);
        if (k >= 0 && !u->made)
                return vhk_error_set(ret_e, -EBUSY, "vduse.busy", "the VDUSE device %.60s is made by somebody else, too", u->id.name);
        return k < 0 ? k : vhk_vduse_record_make(&u->record, path, &u->id, ret_e);
}

static int set_up_rings(struct vhk_backend *b, struct vhk_error *ret_e) {
        int k = 0;

        for (unsigned i = 0; k >= 0 && i < b->n_queues; i++)
                k = vhk_sys_vduse_vq_setup(b->vduse->fd, &(struct vhk_sys_vduse_vq){ .index = i, .max_size = b->queue_size_max });
        return k < 0 ? vhk_error_set(ret_e, k, "vduse.setup", "the kernel does not take queues of %u entries: %s", b->queue_size_max,
                                     strerror(-k)) : 0;
}

static int open_endpoint(struct vhk_backend *b, const char *spec, const struct vhk_backend_options *o, struct vhk_error *ret_e) {
        const struct vhk_vduse_options *v = o->vduse;
        struct vhk_vduse *u;

        if (o->has_fd)
                return vhk_error_set(ret_e, -EINVAL, "backend.spec", "a socket was given as well as \"%.60s\"", spec);
        u = b->vduse = calloc(1, sizeof(*u));
        if (u) {
                u->lent_control = v && v->has_control_fd;
                u->lent_fd = v && v->has_device_fd;
                u->control_fd = u->lent_control ? v->control_fd : -1;
                u->fd = u->lent_fd ? v->device_fd : -1;
                u->irq_post.fn = on_irq_post;
                u->rings = calloc(b->n_queues, sizeof(*u->rings));
        }
        if (!u || !u->rings)
                return vhk_error_set(ret_e, -ENOMEM, "backend.open", "no memory for a back-end");
        for (unsigned i = 0; i < b->n_queues; i++)
                u->rings[i] = (struct vhk_vduse_ring){ .b = b, .index = i, .late_fd = -1 };
        if (!o->limit_ns)
                b->limit_ns = LIMIT_NS;
        int k = identify(b, strchr(spec, ':') + 1, ret_e);
        if (k >= 0)
                k = open_device(b, ret_e);
        if (k >= 0) {
                const char *path = v ? v->record : NULL;
                k = u->made ? vhk_vduse_record_make(&u->record, path, &u->id, ret_e) : take_device(b, path, ret_e);
                if (k < 0 && !u->made)
                        k = make_anew(b, k, path, ret_e);
        }
        if (k >= 0 && !vhk_vduse_record_is_running(&u->record))
                k = set_up_rings(b, ret_e);
        u->owns_lent = k >= 0;
        vhk_store_relaxed(&b->host.available, k >= 0);
        return k;
}

static void give_back(struct vhk_backend *b) {
        b->vduse->owns_lent = false;
}

static void free_carrier(struct vhk_backend *b) {
        struct vhk_vduse *u = b->vduse;

        if (!u)
                return;
        u->watch = vhk_watch_free(u->watch);
        u->irq_timer = vhk_timer_free(u->irq_timer);
        for (unsigned i = 0; u->rings && i < b->n_queues; i++)
                stop_waiting(&u->rings[i]);
        if (b->stuck)           /* homes may still say that something is done */
                return;
        if (!u->lent_fd || u->owns_lent)
                vhk_close(&u->fd);
        int k = u->control_fd >= 0 && (u->made || b->served) ? vhk_sys_vduse_destroy_dev(u->control_fd, u->id.name) : -EBUSY;
        vhk_vduse_record_close(&u->record, k >= 0);
        if (!u->lent_control || u->owns_lent)
                vhk_close(&u->control_fd);
        free(u->rings);
        free(VHK_STEAL(b->vduse));
}

const struct vhk_backend_ops vhk_backend_vduse = {
        .open = open_endpoint,
        .give_back = give_back,
        .begin = begin,
        .close = close_device,
        .watch = watch,
        .has_gone = has_gone,
        .faulted = faulted,
        .missed = vhk_vduse_missed,
        .stopped = stopped,
        .fetch = vhk_vduse_fetch,
        .fill = fill,
        .config_changed = config_changed,
        .free = free_carrier,
};
