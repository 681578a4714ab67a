/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The back-end object: where front-ends come from, one after the other, and how it ends. Control worker, except
 * vhk_backend_stop().
 *
 * WAITING -> SERVING -> CLOSING (rings stop) -> WAITING ...    with a listening socket: a second client waits in the backlog
 *                                            -> RETIRING -> OVER     with a connected one, or after vhk_backend_stop()
 *
 * RETIRING is the farewell of the rings' homes: behind it no worker has a post of ours in its mailbox, and the object may be
 * freed. If rings have not stopped by the time limit of vhk_backend_stop(), the end is told with an error, and whatever
 * the device may still complete into is never freed.
 */
#include <sys/epoll.h>
#include <sys/stat.h>

#include "backend/session.h"
#include "base/struct.h"
#include "mem/fault.h"

#define LIMIT_NS 30000000000u
#define REST_NS 100000000u      /* after an accept that failed for lack of something */

#define DEFAULT_PROTOCOL                                                                                                \
        (VHK_BIT(VHK_PF_MQ) | VHK_BIT(VHK_PF_REPLY_ACK) | VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_RESET_DEVICE) |  \
         VHK_BIT(VHK_PF_LOG_SHMFD) | VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) | VHK_BIT(VHK_PF_STATUS))
#define INFLIGHT_PROTOCOL                                                                                               \
        (VHK_BIT(VHK_PF_INFLIGHT_SHMFD) | VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT) | VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN))
/*
 * All that can be offered; besides the above only when asked for. GPA_ADDRESSES (21) is among these
 * since front-ends on rust vhost 0.16 take that bit for SHMEM, acknowledge it, and send user
 * addresses.
 */
#define IMPLEMENTED_PROTOCOL                                                                                            \
        (DEFAULT_PROTOCOL | INFLIGHT_PROTOCOL | VHK_BIT(VHK_PF_CONFIG) | VHK_BIT(VHK_PF_PAGEFAULT) |                    \
         VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS) | VHK_BIT(VHK_PF_CROSS_ENDIAN) | VHK_BIT(VHK_PF_XEN_MMAP) |                 \
         VHK_BIT(VHK_PF_GPA_ADDRESSES) | NOTIFIER_PROTOCOL)
#define NOTIFIER_PROTOCOL (VHK_BIT(VHK_PF_HOST_NOTIFIER) | VHK_BIT(VHK_PF_BACKEND_SEND_FD))
#define INBAND_NEEDS (VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_REPLY_ACK))
#define RING_FEATURES                                                                                                   \
        (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_INDIRECT_DESC) | VHK_BIT(VHK_F_EVENT_IDX) | VHK_BIT(VHK_F_PROTOCOL_FEATURES))

#define VHK_VDUSE_PREFIX "vduse:"
#ifdef VHK_WITH_KERNEL
#define VHK_VDUSE_CARRIER (&vhk_backend_vduse)
#else
#define VHK_VDUSE_CARRIER NULL
#endif

#define ALL_RING_BITS (((VHK_BIT(VHK_F_RING_LAST + 1) - 1) & ~(VHK_BIT(VHK_F_RING_FIRST) - 1)) | VHK_BIT(VHK_F_SUSPEND))

void vhk_backend_tell(struct vhk_backend *b, enum vhk_backend_event ev, const struct vhk_error *e) {
        if (b->o.on_event)
                b->o.on_event(b->o.event_arg, ev, e);
}

static const struct vhk_error *failure(const struct vhk_backend *b) {
        return b->failed && b->failure.code ? &b->failure : NULL;
}

/* ---- front-ends come ---- */

static void begin(struct vhk_backend *b, int fd) {
        b->served = true;
        int k = vhk_session_begin(b, fd);
        if (k < 0) {
                vhk_log(&b->log, VHK_LOG_ERROR, "cannot serve a front-end: %s", strerror(-k));
                return;
        }
        if (b->listen_watch)
                vhk_watch_set(b->listen_watch, 0);
        vhk_log(&b->log, VHK_LOG_INFO, "a front-end has come");
        vhk_backend_tell(b, VHK_BACKEND_CONNECTED, NULL);
        vhk_session_check(b);
}

static void on_listener(void *arg, uint32_t events) {
        struct vhk_backend *b = arg;
        int fd;

        if (b->state != VHK_BACKEND_WAITING)
                return;
        int k = vhk_listener_accept(&b->listener, &fd);
        if (k >= 0) {
                begin(b, fd);
        } else if (k != -EAGAIN) {              /* no descriptors, no memory: the client stays in the backlog for a while */
                vhk_log(&b->log, VHK_LOG_WARNING, "cannot accept a front-end: %s", strerror(-k));
                b->resting = true;
                vhk_watch_set(b->listen_watch, 0);
                vhk_timer_set(b->timer, REST_NS);
        }
}

static void wait_for_next(struct vhk_backend *b) {
        b->state = VHK_BACKEND_WAITING;
        b->failed = false;
        int k = vhk_watch_set(b->listen_watch, EPOLLIN);
        if (k < 0)
                vhk_log(&b->log, VHK_LOG_ERROR, "cannot watch the listening socket: %s", strerror(-k));
}

/* ---- the end ---- */

/* May run again behind posts that are on their way: nothing of ours is left in a mailbox when the end is told. */
static void on_end(struct vhk_post *p) {
        struct vhk_backend *b = vhk_container_of(p, struct vhk_backend, end_post);

        if (vhk_load_acquire(&b->stop_post.queued) || vhk_load_acquire(&b->host.post.queued) ||
            vhk_load_acquire(&b->host.n_errands)) {
                vhk_worker_post(b->o.control, &b->end_post);
                return;
        }
        b->state = VHK_BACKEND_OVER;
        vhk_backend_tell(b, VHK_BACKEND_ENDED, failure(b));     /* b may be gone */
}

/* The next farewell, or the end. */
void vhk_backend_retire(struct vhk_backend *b) {
        if (b->state != VHK_BACKEND_RETIRING || b->stuck)
                return;
        for (unsigned i = 0; i < b->n_queues; i++)
                if (!b->rings[i].retired) {
                        vhk_vring_retire(&b->rings[i]);
                        return;
                }
        vhk_worker_post(b->o.control, &b->end_post);
}

static void close_listener(struct vhk_backend *b) {
        b->listen_watch = vhk_watch_free(b->listen_watch);
        vhk_listener_close(&b->listener);
}

static void end(struct vhk_backend *b) {
        close_listener(b);
        vhk_timer_set(b->timer, 0);
        b->state = VHK_BACKEND_RETIRING;
        vhk_backend_retire(b);
}

void vhk_backend_session_ended(struct vhk_backend *b) {
        vhk_log(&b->log, VHK_LOG_INFO, "the front-end has left");
        vhk_backend_tell(b, VHK_BACKEND_DISCONNECTED, failure(b));
        if (b->stopping || !b->listening)
                end(b);
        else
                wait_for_next(b);
}

/* The device has not given back its requests in time. */
static void give_up(struct vhk_backend *b) {
        char left[160];

        b->stuck = true;
        vhk_inflight_tell(b, left, sizeof(left));
        vhk_session_fail(b, -ETIMEDOUT, "backend.stuck", "requests were still in flight at the time limit of the stop%s", left);
        close_listener(b);
        vhk_session_abandon(b);
        b->state = VHK_BACKEND_RETIRING;
        vhk_worker_post(b->o.control, &b->end_post);
}

static void on_stop(struct vhk_post *p) {
        struct vhk_backend *b = vhk_container_of(p, struct vhk_backend, stop_post);

        if (b->stopping || b->state >= VHK_BACKEND_RETIRING)
                return;
        b->stopping = true;
        close_listener(b);
        if (b->state == VHK_BACKEND_WAITING) {
                end(b);
                return;
        }
        b->stop_deadline = vhk_now_ns() + b->stop_limit;
        if (b->state == VHK_BACKEND_SERVING)
                vhk_session_close(b, b->stop_how);
        if (b->state == VHK_BACKEND_CLOSING)
                vhk_timer_set(b->timer, VHK_MAX(b->stop_limit, UINT64_C(1)));
}

static void on_timer(void *arg) {
        struct vhk_backend *b = arg;

        switch (b->state) {
        case VHK_BACKEND_WAITING:
                if (b->resting)
                        wait_for_next(b);
                else                            /* somebody is connected already: it begins from the loop, not from inside of open */
                        begin(b, VHK_STEAL_FD(b->o.fd));
                b->resting = false;
                if (!b->listening && b->state == VHK_BACKEND_WAITING)
                        end(b);
                break;
        case VHK_BACKEND_SERVING:
                vhk_session_on_timer(b);
                break;
        case VHK_BACKEND_CLOSING:
                if (b->stopping && vhk_now_ns() >= b->stop_deadline)
                        give_up(b);
                else if (b->stopping)
                        vhk_timer_set(b->timer, b->stop_deadline - vhk_now_ns());
                break;
        default:
                break;
        }
}

VHK_API int vhk_backend_stop(struct vhk_backend *b, enum vhk_stop how, uint64_t limit_ns) {
        uint32_t none = 0;

        /* Only the first caller counts; its values are published by the post. */
        if (!__atomic_compare_exchange_n(&b->stop_asked, &none, 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
                return 0;
        b->stop_how = how;
        b->stop_limit = limit_ns ? limit_ns : b->limit_ns;
        vhk_worker_post(b->o.control, &b->stop_post);
        return 0;
}

/* ---- the object ---- */

static int check_options(const struct vhk_backend_options *o, const struct vhk_device_ops *ops, struct vhk_error *ret_e) {
        uint16_t most = o->queue_size_max ? o->queue_size_max : ops->queue_size_max;

        if (!o->control || !ops->queue_run)
                return vhk_error_set(ret_e, -EINVAL, "backend.options", "a control worker and the device's queue_run are required");
        if (ops->n_queues < 1 || ops->n_queues > VHK_MAX_RINGS || o->n_queues > ops->n_queues)
                return vhk_error_set(ret_e, -EINVAL, "backend.queues", "%u of %u queues: expected 1 to %u, and no more than the device has",
                                     o->n_queues ? o->n_queues : ops->n_queues, ops->n_queues, VHK_MAX_RINGS);
        if (!vhk_is_pow2(most) || most > VHK_QUEUE_MAX_SIZE || most > ops->queue_size_max)
                return vhk_error_set(ret_e, -EINVAL, "backend.queue-size", "a largest queue of %u entries: expected a power of two up to %u",
                                     most, ops->queue_size_max);
        if (ops->config_len > VHK_MAX_CONFIG)
                return vhk_error_set(ret_e, -EINVAL, "backend.config", "%u bytes of configuration space; at most %u go over the wire",
                                     ops->config_len, VHK_MAX_CONFIG);
        if (ops->config_len && !ops->get_config)
                return vhk_error_set(ret_e, -EINVAL, "backend.config", "the device has %u bytes of configuration space, but no get_config",
                                     ops->config_len);
        if (o->features_offer & ~VHK_BIT(VHK_F_ACCESS_PLATFORM))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "backend.features", "features 0x%llx are not implemented",
                                     (unsigned long long)(o->features_offer & ~VHK_BIT(VHK_F_ACCESS_PLATFORM)));
        if (o->quirks & ~(uint64_t)VHK_QUIRK_LOG_REPLY_U64)
                return vhk_error_set(ret_e, -EOPNOTSUPP, "backend.quirks", "quirks 0x%llx are not known",
                                     (unsigned long long)(o->quirks & ~(uint64_t)VHK_QUIRK_LOG_REPLY_U64));
        uint64_t unknown = o->protocol_offer & ~IMPLEMENTED_PROTOCOL;
        if (unknown)
                return vhk_error_set(ret_e, -EOPNOTSUPP, "backend.protocol", "protocol features 0x%llx are not implemented", (unsigned long long)unknown);
        return 0;
}

/* What the device's groups are spoken with. */
static uint64_t protocol_of_groups(const struct vhk_device_ops *ops) {
        return (ops->shmem ? VHK_BIT(VHK_PF_SHMEM) | VHK_BIT(VHK_PF_BACKEND_SEND_FD) : 0) |
               (ops->objects ? VHK_BIT(VHK_PF_SHARED_OBJECT) : 0) |
               (ops->net && ops->net->send_rarp ? VHK_BIT(VHK_PF_RARP) : 0) |
               (ops->net && ops->net->set_mtu ? VHK_BIT(VHK_PF_NET_MTU) : 0) |
               (ops->crypto ? VHK_BIT(VHK_PF_CRYPTO_SESSION) : 0);
}

void vhk_backend_set_offers(struct vhk_backend *b) {
        struct vhk_wire_state *w = &b->session.wire;
        uint64_t protocol = DEFAULT_PROTOCOL | b->o.protocol_offer | protocol_of_groups(b->ops) | (b->ops->config_len ? VHK_BIT(VHK_PF_CONFIG) : 0) |
                            (b->ops->save_state && b->ops->load_state ? VHK_BIT(VHK_PF_DEVICE_STATE) : 0);

        w->n_queues = b->n_queues;
        w->log_reply_u64 = b->o.quirks & VHK_QUIRK_LOG_REPLY_U64;
        w->features_offered = ((b->ops->features & ~ALL_RING_BITS) | RING_FEATURES | b->o.features_offer) & ~b->o.features_no_offer;
        /* Doing a request again is right where it waits for a disabled ring; what may be dropped needs no record. */
        if (b->ops->disabled == VHK_DISABLED_HOLD)
                protocol |= INFLIGHT_PROTOCOL;
        /* Postcopy and memory slots exclude each other (vhost-user, VHOST_USER_POSTCOPY_ADVISE): who asks for one loses the other. */
        if ((protocol & VHK_BIT(VHK_PF_PAGEFAULT)) && !vhk_postcopy_is_ready(b))
                protocol &= ~VHK_BIT(VHK_PF_PAGEFAULT);
        if (protocol & VHK_BIT(VHK_PF_PAGEFAULT) & ~b->o.protocol_no_offer)
                protocol &= ~VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) | b->o.protocol_offer;
        w->protocol_offered = protocol & ~b->o.protocol_no_offer;
        if (!(w->protocol_offered & VHK_BIT(VHK_PF_INFLIGHT_SHMFD)))
                w->protocol_offered &= ~INFLIGHT_PROTOCOL;
        if (!(w->protocol_offered & VHK_BIT(VHK_PF_BACKEND_REQ)) || !(w->protocol_offered & VHK_BIT(VHK_PF_BACKEND_SEND_FD)))
                w->protocol_offered &= ~VHK_BIT(VHK_PF_SHMEM);
        if (!(w->protocol_offered & VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT)))
                w->protocol_offered &= ~VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN);
        if ((w->protocol_offered & VHK_BIT(VHK_PF_HOST_NOTIFIER)) && (w->protocol_offered & VHK_BIT(VHK_PF_BACKEND_REQ)))
                w->protocol_offered |= VHK_BIT(VHK_PF_BACKEND_SEND_FD) & ~b->o.protocol_no_offer;
        if (!(w->protocol_offered & VHK_BIT(VHK_PF_BACKEND_SEND_FD)))
                w->protocol_offered &= ~VHK_BIT(VHK_PF_HOST_NOTIFIER);
        if ((w->protocol_offered & INBAND_NEEDS) != INBAND_NEEDS)
                w->protocol_offered &= ~VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS);
        if (w->protocol_offered & VHK_BIT(VHK_PF_LOG_SHMFD))
                w->features_offered |= VHK_BIT(VHK_F_LOG_ALL) & ~b->o.features_no_offer;
}

static int make_rings(struct vhk_backend *b) {
        b->rings = calloc(b->n_queues, sizeof(*b->rings));
        if (!b->rings)
                return -ENOMEM;
        for (unsigned i = 0; i < b->n_queues; i++) {
                struct vhk_vring *v = &b->rings[i];
                v->home = v->control = b->o.control;
                v->ops = b->ops;
                v->dev = b->dev;
                v->log = &b->log;
                v->owner = b;
                v->reported = vhk_session_reported;
                v->index = (uint16_t)i;
                v->size_max = b->ring_size_max;
                vhk_vring_init(v);
        }
        return 0;
}

static struct vhk_backend *backend_free(struct vhk_backend *b) {
        close_listener(b);
        b->carrier->free(b);
        b->timer = vhk_timer_free(b->timer);
        b->iotlb_timer = vhk_timer_free(b->iotlb_timer);
        vhk_close(&b->fault_fd);
        if (b->stuck)           /* requests in flight point into the rings: see above */
                return NULL;
        for (unsigned i = 0; b->rings && i < b->n_queues; i++)
                vhk_vring_done(&b->rings[i]);
        free(b->rings);
        free(b->inband);
        free(b);
        return NULL;
}

static const struct vhk_backend_ops *choose_carrier(const char *spec) {
        return spec && !strncmp(spec, VHK_VDUSE_PREFIX, strlen(VHK_VDUSE_PREFIX)) ? VHK_VDUSE_CARRIER : &vhk_backend_vhost_user;
}

/* The groups of @b's operations are @b's own. */
static void own_groups(struct vhk_backend *b, const struct vhk_device_groups *g) {
        struct vhk_device_ops *ops = &b->device_ops;

        b->groups = *g;
        ops->shmem = ops->shmem ? &b->groups.shmem : NULL;
        ops->objects = ops->objects ? &b->groups.objects : NULL;
        ops->net = ops->net ? &b->groups.net : NULL;
        ops->crypto = ops->crypto ? &b->groups.crypto : NULL;
        ops->display = ops->display ? &b->groups.display : NULL;
}

static int make(const char *spec, const struct vhk_backend_options *o, const struct vhk_device_ops *ops, const struct vhk_device_groups *g, void *dev,
                struct vhk_backend **ret_b) {
        struct vhk_backend *b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->carrier = choose_carrier(spec);
        b->o = *o;
        b->o.vduse = NULL;              /* the caller's, until the carrier has taken over what it says */
        b->o.has_fd = false;            /* the descriptor is not ours before everything else is there */
        b->o.fd = -1;
        b->device_ops = *ops;
        own_groups(b, g);
        b->ops = &b->device_ops;
        b->dev = dev;
        b->log = (struct vhk_log){ o->log, o->log_arg, &b->log_limit };
        b->trace = (struct vhk_log){ o->trace, o->trace_arg, NULL };
        b->limit_ns = o->limit_ns ? o->limit_ns : LIMIT_NS;
        b->n_queues = o->n_queues ? o->n_queues : ops->n_queues;
        b->queue_size_max = o->queue_size_max ? o->queue_size_max : ops->queue_size_max;
        b->ring_size_max = VHK_MAX(b->queue_size_max, VHK_RING_SIZE_SERVED);
        b->listener.fd = b->conn.fd = b->fault_fd = -1;
        b->end_post.fn = on_end;
        b->stop_post.fn = on_stop;
        vhk_host_init(&b->host, b);
        vhk_backend_set_offers(b);
        int k = vhk_inband_init(b);
        if (k >= 0)
                k = make_rings(b);
        if (k >= 0)
                k = vhk_worker_timer(o->control, on_timer, b, &b->timer);
        if (k < 0)
                backend_free(b);
        else
                *ret_b = b;
        return k;
}

static int start_listening(struct vhk_backend *b) {
        if (!b->listening)
                return vhk_timer_set(b->timer, 1);
        int k = vhk_fd_set_nonblock(b->listener.fd, true);
        if (k >= 0)
                k = vhk_worker_watch(b->o.control, b->listener.fd, EPOLLIN, on_listener, b, &b->listen_watch);
        return k;
}

/* ---- the caller's structs, at the size that is known here ---- */

#define TAKE_GROUP(ops, groups, group, last)                                                                    \
        ({                                                                                                      \
                int ret_ = (ops)->group ? VHK_STRUCT_TAKE(&(groups)->group, (ops)->group, last) : 0;            \
                (ops)->group = (ops)->group ? &(groups)->group : NULL;                                          \
                ret_;                                                                                           \
        })

/* The groups of operations that @ops points to: those in @g from now on. */
static int take_groups(struct vhk_device_ops *ops, struct vhk_device_groups *g, struct vhk_error *ret_e) {
        int ret = TAKE_GROUP(ops, g, shmem, get_config);

        if (ret < 0 || (ops->shmem && !ops->shmem->get_config))
                return vhk_error_set(ret_e, ret < 0 ? ret : -EINVAL, "backend.size", "the device's shared memory: size is not set, or get_config is missing");
        ret = TAKE_GROUP(ops, g, net, set_mtu);
        if (ret < 0)
                return vhk_error_set(ret_e, ret, "backend.net", "the device's network operations: size is not set, or one is not known here");
        ret = TAKE_GROUP(ops, g, crypto, close_session);
        if (ret < 0 || (ops->crypto && (!ops->crypto->create_session || !ops->crypto->close_session)))
                return vhk_error_set(ret_e, ret < 0 ? ret : -EINVAL, "backend.crypto", "the device's crypto operations are incomplete, or size is not set");
        ret = TAKE_GROUP(ops, g, display, closed);
        if (ret < 0)
                return vhk_error_set(ret_e, ret, "backend.size", "the device's display: size is not set, or an operation is not known here");
        ret = TAKE_GROUP(ops, g, objects, get);
        if (ret < 0)
                return vhk_error_set(ret_e, ret, "backend.size", "the device's shared objects: size is not set, or an operation is not known here");
        return 0;
}

static int take_options(struct vhk_backend_options *o, const struct vhk_backend_options *theirs, struct vhk_vduse_options *vduse,
                        struct vhk_error *ret_e) {
        int ret = VHK_STRUCT_TAKE(o, theirs, limit_ns);

        if (ret < 0)
                return vhk_error_set(ret_e, ret, "backend.size", "struct vhk_backend_options: size is not set, or a member is used that is not known here");
        ret = o->vduse ? VHK_STRUCT_TAKE(vduse, o->vduse, device_fd) : 0;
        if (ret < 0)
                return vhk_error_set(ret_e, ret, "backend.size", "struct vhk_vduse_options: size is not set, or a member is used that is not known here");
        o->vduse = o->vduse ? vduse : NULL;
        return 0;
}

/* A device of the first version ends with @reset. */
static int take_ops(struct vhk_device_ops *ops, const struct vhk_device_ops *theirs, struct vhk_device_groups *g, struct vhk_error *ret_e) {
        int ret = VHK_STRUCT_TAKE(ops, theirs, reset);

        if (ret < 0)
                return vhk_error_set(ret_e, ret, "backend.size", "struct vhk_device_ops: size is not set, or a member is used that is not known here");
        return take_groups(ops, g, ret_e);
}

VHK_API int vhk_backend_open(const char *spec, const struct vhk_backend_options *theirs, const struct vhk_device_ops *theirs_ops, void *dev,
                             struct vhk_backend **ret_b, struct vhk_error *ret_e) {
        struct vhk_backend_options options = { .size = sizeof(options) }, *o = &options;
        struct vhk_device_ops device_ops = { .size = sizeof(device_ops) }, *ops = &device_ops;
        struct vhk_vduse_options vduse = { .size = sizeof(vduse) };
        struct vhk_device_groups groups = { 0 };
        struct vhk_backend *b;

        int k = take_options(o, theirs, &vduse, ret_e);
        if (k == 0)
                k = take_ops(ops, theirs_ops, &groups, ret_e);
        if (k == 0)
                k = check_options(o, ops, ret_e);
        if (k < 0)
                return k;
        if (!spec && !o->has_fd)
                return vhk_error_set(ret_e, -EINVAL, "backend.spec", "neither a socket path nor a descriptor was given");
        if (!choose_carrier(spec))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "backend.spec", "\"%.60s\": this build has no VDUSE", spec);
        k = make(spec, o, ops, &groups, dev, &b);
        if (k < 0)
                return vhk_error_set(ret_e, k, "backend.open", "cannot make a back-end: %s", strerror(-k));
        k = vhk_host_ask_shmem(b, ret_e);
        if (k >= 0 && (o->protocol_offer & VHK_BIT(VHK_PF_PAGEFAULT)) && b->fault_fd < 0)
                k = vhk_fault_open(&b->fault_fd, ret_e);        /* now, for it may take privileges */
        if (k >= 0)
                k = b->carrier->open(b, spec, o, ret_e);
        if (k < 0) {
                backend_free(b);
                return k;
        }
        k = start_listening(b);
        if (k < 0)
                vhk_error_set(ret_e, k, "backend.loop", "cannot watch the socket: %s", strerror(-k));
        if (k >= 0 && ops->attach) {
                k = ops->attach(dev, &b->host);
                if (k < 0)
                        vhk_error_set(ret_e, k, "device.attach", "the device cannot be served: %s", strerror(-k));
        }
        if (k < 0) {
                if (o->has_fd || o->vduse)
                        b->carrier->give_back(b);
                backend_free(b);
                return k;
        }
        *ret_b = b;
        return 0;
}

VHK_API int vhk_backend_set_worker(struct vhk_backend *b, unsigned queue, struct vhk_worker *w) {
        if (queue >= b->n_queues || !w || (b->ops->threads == VHK_THREADS_SINGLE && w != b->o.control))
                return -EINVAL;
        if (b->served || b->state != VHK_BACKEND_WAITING)
                return -EBUSY;
        if (b->ops->threads == VHK_THREADS_PER_QUEUE)
                b->rings[queue].home = w;
        else                            /* all rings of such a device have one home */
                for (unsigned i = 0; i < b->n_queues; i++)
                        b->rings[i].home = w;
        return 0;
}

VHK_API struct vhk_backend *vhk_backend_free(struct vhk_backend *b) {
        if (!b)
                return NULL;
        assert(b->state == VHK_BACKEND_OVER || (b->state == VHK_BACKEND_WAITING && !b->served));
        return backend_free(b);
}

VHK_API int vhk_backend_get_metrics(struct vhk_backend *b, unsigned queue, struct vhk_ring_metrics *ret_m) {
        struct vhk_queue_metrics m;

        if (queue >= b->n_queues)
                return -EINVAL;
        vhk_vring_get_metrics(&b->rings[queue], &m);
        return VHK_STRUCT_GIVE(ret_m, &((struct vhk_ring_metrics){
                .size = sizeof(*ret_m), .requests = m.requests, .kicks = vhk_load_relaxed(&b->rings[queue].kicks), .notifications = m.notifications,
                .flushes = m.flushes, .faults = m.faults,
        }));
}
