/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The vhost-user carrier: finding the back-end, negotiation, features, configuration, status, rings. One thread.
 *
 * Protocol features are taken from the lists below alone; XEN_MMAP only when asked for. A ring starts with SET_VRING_KICK; as older back-ends wait for the
 * first kick, one is injected. Ring addresses come as guest addresses and go as user addresses.
 * Source: vhost-user.rst, "Starting and stopping rings", "Multiple queue support", "Front-end message types".
 */
#include "frontend/vhost_user.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

#define TAKEN                                                                                                           \
        (VHK_BIT(VHK_PF_MQ) | VHK_BIT(VHK_PF_REPLY_ACK) | VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_CONFIG) |       \
         VHK_BIT(VHK_PF_RESET_DEVICE) | VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) | VHK_BIT(VHK_PF_STATUS) |       \
         VHK_BIT(VHK_PF_LOG_SHMFD) | VHK_BIT(VHK_PF_PAGEFAULT) | VHK_BIT(VHK_PF_DEVICE_STATE) |                          \
         VHK_BIT(VHK_PF_GPA_ADDRESSES))
/* Taken if we would look for another back-end: what makes it go on. */
#define TAKEN_TO_RECONNECT                                                                                              \
        (VHK_BIT(VHK_PF_INFLIGHT_SHMFD) | VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT) | VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN))
/* Taken if the caller maps what the device shows. */
#define TAKEN_FOR_SHMEM (VHK_BIT(VHK_PF_SHMEM) | VHK_BIT(VHK_PF_BACKEND_SEND_FD) | VHK_BIT(VHK_PF_BACKEND_REQ))
#define TAKEN_FOR_OBJECTS (VHK_BIT(VHK_PF_SHARED_OBJECT) | VHK_BIT(VHK_PF_BACKEND_REQ))
#define NEEDED_BY_IOMMU (VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_REPLY_ACK))
/* Bits that are between front-end and back-end. */
#define OURS (VHK_BIT(VHK_F_LOG_ALL) | VHK_BIT(VHK_F_PROTOCOL_FEATURES))
/* Taken where a back-end has the device for it. */
#define TAKEN_FOR_CLASS                                                                                                 \
        (VHK_BIT(VHK_PF_RARP) | VHK_BIT(VHK_PF_NET_MTU) | VHK_BIT(VHK_PF_CRYPTO_SESSION) | VHK_BIT(VHK_PF_CROSS_ENDIAN))
/* Taken if the caller maps pages for kicks. */
#define TAKEN_FOR_NOTIFIER (VHK_BIT(VHK_PF_HOST_NOTIFIER) | VHK_BIT(VHK_PF_BACKEND_SEND_FD) | VHK_BIT(VHK_PF_BACKEND_REQ))
/* Taken if the caller listens. */
#define TAKEN_FOR_INBAND (VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS) | VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_REPLY_ACK))
#define MAX_QUEUES 256u                 /* one byte in SET_VRING_KICK */
#define LISTEN_NS 30000000000ull

static struct vhk_vhost_user *vu_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vhost_user, f);
}

/* ---- features, configuration, status ---- */

static int set_features(struct vhk_frontend *f, uint64_t features) {
        struct vhk_vhost_user *u = vu_of(f);
        uint64_t all = features | (u->state.features_offered & VHK_BIT(VHK_F_PROTOCOL_FEATURES)) | (u->set.logs_data ? VHK_BIT(VHK_F_LOG_ALL) : 0);

        if (features & ~f->info.features)
                return vhk_frontend_fail(f, -EINVAL, "frontend.features", "features 0x%llx are not on offer",
                                         (unsigned long long)(features & ~f->info.features));
        int k = vhk_vu_call_u64(u, VHK_FE_SET_FEATURES, all);
        if (k == 0)
                k = vhk_vu_settle(u);
        if (k < 0)
                return k;
        u->state.features = u->set.features = all;
        f->info.acked = features;
        return vhk_vu_tell_memory(u);
}

static int config_range(struct vhk_frontend *f, uint32_t off, uint32_t n) {
        if (n == 0 || !vhk_range_within(off, n, VHK_MAX_CONFIG))
                return vhk_frontend_fail(f, -EINVAL, "frontend.config-range", "configuration space ends at %u, bytes %u to %llu were asked for",
                                         VHK_MAX_CONFIG, off, (unsigned long long)off + n);
        return 0;
}

#define CONFIG_HEAD offsetof(struct vhk_p_config, data)

static int get_config(struct vhk_frontend *f, uint32_t off, void *ret_buf, uint32_t n) {
        struct vhk_vhost_user *u = vu_of(f);
        struct vhk_p_config p = { .offset = off, .len = n };
        union vhk_p_any reply;
        uint32_t size;

        int k = config_range(f, off, n);
        if (k == 0)
                k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_GET_CONFIG, .payload = &p, .size = (uint32_t)CONFIG_HEAD + n }, &reply, &size);
        if (k < 0)
                return k;
        if (size < CONFIG_HEAD + n)
                return vhk_frontend_fail(f, -EREMOTEIO, "frontend.refused", "the back-end on %s refused to show bytes %u to %u of the configuration", u->name,
                                         off, off + n);
        memcpy(ret_buf, reply.config.data, n);
        return 0;
}

int vhk_vu_send_config(struct vhk_vhost_user *u, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        struct vhk_p_config p = { .offset = off, .len = n,
                .flags = from == VHK_CONFIG_MIGRATION ? VHK_CONFIG_FLAG_MIGRATION : VHK_CONFIG_FLAG_GUEST };

        memcpy(p.data, buf, n);
        int ret = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_CONFIG, .payload = &p, .size = (uint32_t)CONFIG_HEAD + n }, NULL, NULL);
        return ret < 0 ? ret : vhk_vu_settle(u);
}

static int set_config(struct vhk_frontend *f, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        struct vhk_vhost_user *u = vu_of(f);

        int k = config_range(f, off, n);
        if (k == 0)
                k = vhk_vu_send_config(u, off, buf, n, from);
        if (k < 0)
                return k;
        memcpy(u->set.config + off, buf, n);
        memset(u->set.config_from + off, 1 + (int)from, n);
        return 0;
}

static int get_status(struct vhk_frontend *f, uint8_t *ret_status) {
        uint64_t value;

        int k = vhk_vu_get_u64(vu_of(f), VHK_FE_GET_STATUS, &value);
        if (k == 0)
                *ret_status = (uint8_t)value;
        return k;
}

/* 0 is a device reset, as RESET_DEVICE is one. */
static int set_status(struct vhk_frontend *f, uint8_t status) {
        struct vhk_vhost_user *u = vu_of(f);

        int k = vhk_vu_call_u64(u, VHK_FE_SET_STATUS, status);
        if (k == 0)
                k = vhk_vu_settle(u);
        if (k < 0)
                return k;
        if (!status)
                vhk_vu_after_reset(u);
        u->set.status = status;
        u->set.has_status = true;
        return 0;
}

static int reset(struct vhk_frontend *f) {
        struct vhk_vhost_user *u = vu_of(f);

        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_RESET_DEVICE }, NULL, NULL);
        if (k == 0)
                k = vhk_vu_settle(u);
        if (k == 0)
                vhk_vu_after_reset(u);
        return k;
}

/* ---- rings ---- */

static int check_queue(struct vhk_vhost_user *u, unsigned i) {
        if (i < u->state.n_queues)
                return 0;
        return vhk_frontend_fail(&u->f, -EINVAL, "frontend.queue", "the back-end on %s has %u rings, there is no ring %u", u->name, u->state.n_queues, i);
}

/* SET_VRING_KICK, _CALL, _ERR */
static int call_fd(struct vhk_vhost_user *u, enum vhk_msg_id id, unsigned i, int fd) {
        struct vhk_p_u64 p = { .value = i | (fd < 0 ? VHK_RING_NO_FD : 0) };

        return vhk_vu_call(u, &(struct vhk_vu_call){ .id = id, .payload = &p, .size = sizeof(p), .fds = &fd, .n_fds = fd >= 0 }, NULL, NULL);
}

static int find_user(void *arg, uint64_t gpa, uint64_t len, uint64_t *ret_uva) {
        return vhk_vu_find(arg, gpa, len, ret_uva);
}

static int translate(struct vhk_vhost_user *u, unsigned i, const struct vhk_ring_setup *s, struct vhk_p_vring_addr *ret_addr) {
        struct vhk_frontend_areas a;

        int k = vhk_frontend_find_areas(&u->f, i, s, u->state.features, find_user, u, &a);
        if (k == 0)
                *ret_addr = (struct vhk_p_vring_addr){ .index = i, .desc = a.desc, .avail = a.driver, .used = a.device };
        return k;
}

/* A ring that did not start is as it was: stopped. The failure's error message stays. */
static void undo_start(struct vhk_vhost_user *u, unsigned i) {
        struct vhk_error why = u->f.error;
        struct vhk_p_vring_state p = { .index = i };

        u->started[i] = false;
        if (!u->f.end.code)
                (void)vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_GET_VRING_BASE, .payload = &p, .size = sizeof(p) }, NULL, NULL);
        u->f.error = why;
}

/* From SET_VRING_KICK on the ring runs. */
static int run_ring(struct vhk_vhost_user *u, unsigned i, int kick_fd, bool enable) {
        int ret = call_fd(u, VHK_FE_SET_VRING_KICK, i, kick_fd);

        if (ret < 0)
                return ret;
        u->started[i] = true;
        if (u->f.info.capabilities & VHK_CAP_ENABLE)
                ret = vhk_vu_call_state(u, VHK_FE_SET_VRING_ENABLE, i, enable);
        return ret < 0 ? ret : vhk_vu_settle(u);
}

int vhk_vu_send_ring(struct vhk_vhost_user *u, unsigned i, const struct vhk_ring_setup *s, const struct vhk_p_vring_addr *addr, bool enable) {
        int k = vhk_vu_call_state(u, VHK_FE_SET_VRING_NUM, i, s->num);

        if (k == 0)
                k = vhk_vu_call_state(u, VHK_FE_SET_VRING_BASE, i, vhk_frontend_encode_base(u->state.features, &s->base));
        if (k == 0)
                k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_VRING_ADDR, .payload = addr, .size = sizeof(*addr) }, NULL, NULL);
        if (k == 0 && s->err_fd >= 0)
                k = call_fd(u, VHK_FE_SET_VRING_ERR, i, s->err_fd);
        if (k == 0)
                k = call_fd(u, VHK_FE_SET_VRING_CALL, i, s->call_fd);
        if (k == 0)
                k = run_ring(u, i, s->kick_fd, enable);
        if (k < 0 && u->started[i])
                undo_start(u, i);
        return k;
}

static int start_queue(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s) {
        struct vhk_vhost_user *u = vu_of(f);
        struct vhk_p_vring_addr addr;

        int k = check_queue(u, i);
        if (k < 0)
                return k;
        if (u->started[i])
                return vhk_frontend_fail(f, -EBUSY, "frontend.queue", "ring %u runs already", i);
        k = translate(u, i, s, &addr);
        if (k == 0)
                k = vhk_vu_track(u, i, s);
        if (k == 0)
                k = vhk_vu_send_ring(u, i, s, &addr, true);
        if (k == 0)
                u->set.rings[i] = (struct vhk_vu_ring){ .setup = *s, .addr = addr, .replayed = s->base.used, .wanted = true,
                                                        .endian = u->set.rings[i].endian };
        if (k == 0 && s->kick_fd >= 0)
                vhk_peer_notify(s->kick_fd);
        return k;
}

static int stop_by(struct vhk_frontend *f, enum vhk_msg_id id, unsigned i, struct vhk_ring_base *ret_base) {
        struct vhk_vhost_user *u = vu_of(f);
        struct vhk_p_vring_state p = { .index = i };
        union vhk_p_any reply;

        int k = check_queue(u, i);
        if (k == 0)
                k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = id, .payload = &p, .size = sizeof(p) }, &reply, NULL);
        if (k < 0)
                return k;
        u->started[i] = u->set.rings[i].wanted = false;
        if (ret_base)
                *ret_base = vhk_frontend_decode_base(u->state.features, reply.vring_state.num);
        return 0;
}

static int stop_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base) {
        return stop_by(f, VHK_FE_GET_VRING_BASE, i, ret_base);
}

static int suspend_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base) {
        return stop_by(f, VHK_FE_GET_VRING_BASE_SKIP_DRAIN, i, ret_base);
}

static int enable_queue(struct vhk_frontend *f, unsigned i, int on) {
        struct vhk_vhost_user *u = vu_of(f);

        int k = check_queue(u, i);
        if (k == 0)
                k = vhk_vu_call_state(u, VHK_FE_SET_VRING_ENABLE, i, !!on);
        if (k == 0)
                u->set.rings[i].disabled = !on;
        return k < 0 ? k : vhk_vu_settle(u);
}

static int set_call_fd(struct vhk_frontend *f, unsigned i, int fd) {
        struct vhk_vhost_user *u = vu_of(f);

        int k = check_queue(u, i);
        if (k == 0)
                k = call_fd(u, VHK_FE_SET_VRING_CALL, i, fd);
        if (k == 0)
                u->set.rings[i].setup.call_fd = fd;
        return k < 0 ? k : vhk_vu_settle(u);
}

/* ---- life ---- */

static int get_fd(struct vhk_frontend *f) {
        return vu_of(f)->epoll_fd;
}

static int dispatch(struct vhk_frontend *f) {
        struct vhk_vhost_user *u = vu_of(f);

        int n = vhk_vu_serve(u);
        int k = n < 0 ? n : vhk_vu_take_replies(u);
        int m = k < 0 ? k : vhk_vu_serve_lookups(u);
        if (m >= 0)
                k = vhk_vu_send_translations(u);
        vhk_vu_arm_timer(u);
        if (m < 0)
                return m;
        return k < 0 ? k : n + m;
}

static void free_all(struct vhk_vhost_user *u) {
        vhk_vu_objects_leave(u);
        vhk_vu_display_close(u);
        vhk_conn_done(&u->channel);
        vhk_conn_done(&u->conn);
        vhk_close(&u->epoll_fd);
        vhk_close(&u->timer_fd);
        vhk_close(&u->set.record_fd);
        vhk_close(&u->set.log_fd);
        vhk_close(&u->set.log_event_fd);
        vhk_listener_close(&u->listener);
        free(u->spec);
        free(u->lent);
        free(u);
}

/* What the back-end had here. May come twice. */
void vhk_vu_gone(struct vhk_frontend *f) {
        vhk_vu_shmem_forget(vu_of(f));
        vhk_vu_notifiers_forget(vu_of(f));
        vhk_vu_objects_forget(vu_of(f));
        vhk_vu_display_close(vu_of(f));
}

static void close_(struct vhk_frontend *f) {
        struct vhk_vhost_user *u = vu_of(f);

        for (unsigned i = 0; i < MAX_QUEUES && !f->end.code; i++)
                if (u->started[i])
                        stop_queue(f, i, NULL);
        vhk_vu_gone(f);
        free_all(u);
}

static const struct vhk_frontend_ops ops = {
        .set_log = vhk_vu_set_log, .set_log_fd = vhk_vu_set_log_fd, .log_data = vhk_vu_log_data, .log_queue = vhk_vu_log_queue,
        .postcopy_advise = vhk_vu_postcopy_advise, .postcopy_listen = vhk_vu_postcopy_listen,
        .postcopy_get_address = vhk_vu_postcopy_get_address, .postcopy_end = vhk_vu_postcopy_end,
        .save_state = vhk_vu_save_state, .load_state = vhk_vu_load_state,
        .set_features = set_features, .set_memory = vhk_vu_set_memory, .get_config = get_config, .set_config = set_config,
        .kick_queue = vhk_vu_kick_queue, .set_vring_endian = vhk_vu_set_vring_endian, .send_rarp = vhk_vu_send_rarp,
        .set_mtu = vhk_vu_set_mtu, .crypto_create = vhk_vu_crypto_create, .crypto_close = vhk_vu_crypto_close,
        .get_status = get_status, .set_status = set_status, .reset = reset,
        .start_queue = start_queue, .stop_queue = stop_queue, .enable_queue = enable_queue, .set_call_fd = set_call_fd,
        .iotlb_update = vhk_vu_iotlb_update, .iotlb_invalidate = vhk_vu_iotlb_invalidate,
        .get_fd = get_fd, .dispatch = dispatch, .close = close_, .suspend_queue = suspend_queue,
        .get_shmem_config = vhk_vu_get_shmem_config, .gone = vhk_vu_gone, .reconnect = vhk_vu_reconnect, .disconnect = vhk_vu_disconnect, .set_alarm = vhk_vu_set_alarm,
        .get_progress = vhk_vu_get_progress,
};

/* ---- opening ---- */

/* Waits for one connection, until @deadline. */
static int accept_until(struct vhk_vhost_user *u, uint64_t deadline, int *ret_fd) {
        struct pollfd p = { .fd = u->listener.fd, .events = POLLIN };

        for (;;) {
                int k = vhk_listener_accept(&u->listener, ret_fd);
                if (k != -EAGAIN)
                        return k;
                int ms = vhk_poll_timeout_ms(deadline);
                if (!ms)
                        return -ETIMEDOUT;
                if (poll(&p, 1, ms) < 0 && errno != EINTR)
                        return vhk_errno();
        }
}

static int accept_one(struct vhk_vhost_user *u, bool again, int *ret_fd, struct vhk_error *ret_e) {
        uint64_t limit_ns = u->f.options.connect_ns ? u->f.options.connect_ns : LISTEN_NS;

        int k = vhk_fd_set_nonblock(u->listener.fd, true);
        if (k == 0)
                k = accept_until(u, again ? 0 : vhk_time_after(vhk_now_ns(), limit_ns), ret_fd);
        if (k == -ETIMEDOUT)
                return vhk_error_set(ret_e, -ETIMEDOUT, "frontend.nobody-came", "no back-end connected to %s within %.3g s", u->name,
                                     again ? 0 : (double)limit_ns / 1e9);
        return k < 0 ? vhk_error_set(ret_e, k, "frontend.accept", "cannot accept a connection on %s: %s", u->name, strerror(-k)) : 0;
}

static int inherit(struct vhk_vhost_user *u, int *ret_fd, struct vhk_error *ret_e) {
        int fd = u->f.options.fd;

        int k = vhk_sock_classify(fd, ret_e);
        if (k == 0) {
                u->f.options.reconnect_ns = 0;  /* there is no way to find it again */
                *ret_fd = vhk_fd_dup(fd);       /* the caller's own is closed after success */
                return *ret_fd < 0 ? vhk_error_set(ret_e, *ret_fd, "frontend.open", "descriptor %d: %s", fd, strerror(-*ret_fd)) : 0;
        }
        if (k < 0)
                return k;
        u->listener = (struct vhk_listener){ .fd = fd };
        return accept_one(u, false, ret_fd, ret_e);
}

int vhk_vu_find_endpoint(struct vhk_vhost_user *u, const char *spec, bool again, int *ret_fd, struct vhk_error *ret_e) {
        const struct vhk_frontend_options *o = &u->f.options;
        const char *path;

        if (u->listener.fd >= 0)
                return accept_one(u, again, ret_fd, ret_e);
        if (o->has_fd) {
                snprintf(u->name, sizeof(u->name), "descriptor %d", o->fd);
                return inherit(u, ret_fd, ret_e);
        }
        int k = vhk_sock_parse(spec, &path, ret_e);
        if (k < 0)
                return k;
        snprintf(u->name, sizeof(u->name), "%s", path);
        if (o->mode != VHK_SOCKET_LISTEN)
                return vhk_sock_connect(path, again ? 0 : o->connect_ns, ret_fd, ret_e);
        k = vhk_listener_open(path, &u->listener, ret_e);
        if (k < 0) {
                u->listener.fd = -1;
                return k;
        }
        return accept_one(u, false, ret_fd, ret_e);
}

static int watch(struct vhk_vhost_user *u, int fd) {
        struct epoll_event e = { .events = EPOLLIN };

        if (epoll_ctl(u->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
                return vhk_frontend_fail(&u->f, vhk_errno(), "frontend.epoll", "cannot watch a socket: %s", strerror(errno));
        return 0;
}

static int open_channel(struct vhk_vhost_user *u) {
        int s[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s) < 0)
                return vhk_frontend_fail(&u->f, vhk_errno(), "frontend.channel", "cannot make a channel for the back-end: %s", strerror(errno));
        VHK_AUTOCLOSE int theirs = s[1];
        int k = vhk_conn_init(&u->channel, s[0]);
        if (k < 0)
                return vhk_frontend_fail(&u->f, k, "frontend.channel", "cannot make a channel for the back-end: %s", strerror(-k));
        k = watch(u, u->channel.fd);
        if (k < 0)
                return k;
        return vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_BACKEND_REQ_FD, .fds = &theirs, .n_fds = 1 }, NULL, NULL);
}

static int negotiate_protocol(struct vhk_vhost_user *u) {
        uint64_t offered;

        if (!(u->state.features_offered & VHK_BIT(VHK_F_PROTOCOL_FEATURES)))
                return 0;
        int k = vhk_vu_get_u64(u, VHK_FE_GET_PROTOCOL_FEATURES, &offered);
        if (k < 0)
                return k;
        u->state.protocol_offered = offered;
        uint64_t wanted = TAKEN | (u->f.options.reconnect_ns ? TAKEN_TO_RECONNECT : 0) | (u->shmem.callbacks.size ? TAKEN_FOR_SHMEM : 0) |
                          (u->f.options.objects ? TAKEN_FOR_OBJECTS : 0);
        wanted |= u->f.options.on_notifier ? TAKEN_FOR_NOTIFIER : 0;
        wanted |= TAKEN_FOR_CLASS | (u->f.options.on_queue ? TAKEN_FOR_INBAND : 0) | (u->f.options.protocol_offer & VHK_BIT(VHK_PF_XEN_MMAP));
        uint64_t taken = offered & wanted & ~u->f.options.protocol_no_offer;
        if ((taken & TAKEN_FOR_NOTIFIER) != TAKEN_FOR_NOTIFIER)
                taken &= ~VHK_BIT(VHK_PF_HOST_NOTIFIER);
        if ((taken & TAKEN_FOR_INBAND) != TAKEN_FOR_INBAND)
                taken &= ~VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS);
        if ((taken & TAKEN_TO_RECONNECT) != TAKEN_TO_RECONNECT)
                taken &= ~TAKEN_TO_RECONNECT | VHK_BIT(VHK_PF_INFLIGHT_SHMFD);
        if (taken & VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS))        /* never both (VHOST_USER_POSTCOPY_ADVISE) */
                taken &= ~VHK_BIT(VHK_PF_PAGEFAULT);
        if (taken & VHK_BIT(VHK_PF_XEN_MMAP))
                taken &= ~VHK_BIT(VHK_PF_PAGEFAULT);
        if ((taken & TAKEN_FOR_SHMEM) != TAKEN_FOR_SHMEM)
                taken &= ~VHK_BIT(VHK_PF_SHMEM);
        if (!(taken & (VHK_BIT(VHK_PF_SHMEM) | VHK_BIT(VHK_PF_HOST_NOTIFIER))))
                taken &= ~VHK_BIT(VHK_PF_BACKEND_SEND_FD);
        if ((taken & TAKEN_FOR_OBJECTS) != TAKEN_FOR_OBJECTS)
                taken &= ~VHK_BIT(VHK_PF_SHARED_OBJECT);
        k = vhk_vu_call_u64(u, VHK_FE_SET_PROTOCOL_FEATURES, taken);
        if (k < 0)
                return k;
        u->state.protocol = taken;
        u->f.info.carrier_features = offered;
        u->f.info.carrier_acked = taken;
        return 0;
}

static int ask_sizes(struct vhk_vhost_user *u) {
        struct vhk_frontend_info *i = &u->f.info;
        uint64_t n;
        int k;

        i->n_queues = 1;
        i->mem_slots = VHK_SENT_REGIONS;
        u->state.n_queues = MAX_QUEUES;         /* a device of fixed rings need not tell */
        if (vhk_vu_has(u, VHK_PF_MQ)) {
                k = vhk_vu_get_u64(u, VHK_FE_GET_QUEUE_NUM, &n);
                if (k < 0)
                        return k;
                i->n_queues = u->state.n_queues = (uint32_t)VHK_MIN(n, (uint64_t)MAX_QUEUES);
        }
        if (vhk_vu_has(u, VHK_PF_CONFIGURE_MEM_SLOTS)) {
                k = vhk_vu_get_u64(u, VHK_FE_GET_MAX_MEM_SLOTS, &n);
                if (k < 0)
                        return k;
                i->mem_slots = (uint32_t)VHK_MIN(n, (uint64_t)UINT32_MAX);
        }
        return vhk_vu_has(u, VHK_PF_SHMEM) ? vhk_vu_ask_shmem(u) : 0;
}

static uint32_t capabilities(const struct vhk_vhost_user *u) {
        static const struct { uint64_t bits; uint32_t capability; } rows[] = {
                { VHK_BIT(VHK_PF_CONFIG), VHK_CAP_CONFIG },
                { VHK_BIT(VHK_PF_CONFIG) | VHK_BIT(VHK_PF_BACKEND_REQ), VHK_CAP_CONFIG_CHANGED },
                { VHK_BIT(VHK_PF_RARP), VHK_CAP_RARP },
                { VHK_BIT(VHK_PF_NET_MTU), VHK_CAP_MTU },
                { VHK_BIT(VHK_PF_CRYPTO_SESSION), VHK_CAP_CRYPTO },
                { VHK_BIT(VHK_PF_CROSS_ENDIAN), VHK_CAP_ENDIAN },
                { TAKEN_FOR_INBAND, VHK_CAP_INBAND },
                { VHK_BIT(VHK_PF_STATUS), VHK_CAP_STATUS },
                { VHK_BIT(VHK_PF_RESET_DEVICE), VHK_CAP_RESET },
                { VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS), VHK_CAP_MEM_SLOTS },
                { VHK_BIT(VHK_PF_REPLY_ACK), VHK_CAP_ACK },
                { VHK_BIT(VHK_PF_LOG_SHMFD), VHK_CAP_LOG },
                { VHK_BIT(VHK_PF_PAGEFAULT), VHK_CAP_POSTCOPY },
                { VHK_BIT(VHK_PF_DEVICE_STATE), VHK_CAP_STATE },
                { TAKEN_TO_RECONNECT, VHK_CAP_SUSPEND },
                { TAKEN_FOR_SHMEM, VHK_CAP_SHMEM },
        };
        uint32_t c = u->state.features_offered & VHK_BIT(VHK_F_PROTOCOL_FEATURES) ? VHK_CAP_ENABLE : 0;

        for (size_t i = 0; i < VHK_N(rows); i++)
                if ((u->state.protocol & rows[i].bits) == rows[i].bits)
                        c |= rows[i].capability;
        if (!(u->state.features_offered & VHK_BIT(VHK_F_LOG_ALL)))
                c &= ~VHK_CAP_LOG;
        if (u->f.info.features & VHK_BIT(VHK_F_ACCESS_PLATFORM))
                c |= VHK_CAP_IOMMU;
        if (u->display.conn.fd >= 0)
                c |= VHK_CAP_DISPLAY;
        return c;
}

/* The order of QEMU's front-end, which every back-end has seen. */
int vhk_vu_handshake(struct vhk_vhost_user *u) {
        int k = negotiate_protocol(u);

        if (k == 0)
                k = ask_sizes(u);
        if (k == 0 && vhk_vu_has(u, VHK_PF_BACKEND_REQ))
                k = open_channel(u);
        if (k == 0)
                k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_SET_OWNER }, NULL, NULL);
        if (k == 0)
                k = vhk_vu_display_open(u);
        if (k < 0)
                return k;
        bool iommu = u->f.options.iommu && (u->state.protocol & NEEDED_BY_IOMMU) == NEEDED_BY_IOMMU;
        u->f.info.features = u->state.features_offered & ~OURS & ~(iommu ? 0 : VHK_BIT(VHK_F_ACCESS_PLATFORM));
        u->f.info.capabilities = capabilities(u);
        return 0;
}

int vhk_vu_attach(struct vhk_vhost_user *u, int fd) {
        int k = vhk_conn_init(&u->conn, fd);

        if (k < 0)
                return vhk_frontend_fail(&u->f, k, "frontend.open", "cannot use the socket: %s", strerror(-k));
        return watch(u, u->conn.fd);
}

static int make_epoll(struct vhk_vhost_user *u) {
        u->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (u->epoll_fd >= 0)
                u->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (u->epoll_fd < 0 || u->timer_fd < 0)
                return vhk_frontend_fail(&u->f, vhk_errno(), "frontend.open", "cannot make an epoll set and a timer: %s", strerror(errno));
        int k = u->f.options.objects ? vhk_vu_objects_join(u, u->f.options.objects) : 0;
        if (k < 0)
                return vhk_frontend_fail(&u->f, k, "frontend.open", "cannot make the bells of shared objects: %s", strerror(-k));
        return watch(u, u->timer_fd);
}

static struct vhk_vhost_user *make(const char *spec, const struct vhk_frontend_options *o) {
        struct vhk_vhost_user *u = calloc(1, sizeof(*u));

        if (!u)
                return NULL;
        u->f = (struct vhk_frontend){ .ops = &ops, .options = *o, .info = { .size = sizeof(u->f.info), .virtio_id = o->virtio_id, .iova_last = UINT64_MAX },
                .log = { o->log, o->log_arg, NULL }, .trace = { o->trace, o->trace_arg, NULL }, .busy = true };
        u->f.log.limit = &u->f.log_limit;
        u->conn.fd = u->channel.fd = u->epoll_fd = u->timer_fd = u->listener.fd = -1;
        u->set.record_fd = u->set.log_fd = u->set.log_event_fd = -1;
        u->retry_at = UINT64_MAX;
        u->display.conn.fd = -1;
        u->f.error = (struct vhk_error){ .rule = "frontend.ok", .text = "nothing has failed" };
        u->objects.ask_bell = u->objects.answer_bell = u->objects.fd = -1;
        if (o->shmem)
                u->shmem.callbacks = *o->shmem;
        if (o->display)
                u->display.callbacks = *o->display;
        u->spec = spec ? strdup(spec) : NULL;
        if (!spec || u->spec)
                return u;
        free(u);
        return NULL;
}

/* The caller's descriptor is ours now. One that was connected has a duplicate; a listener is used as it is. */
static void take_descriptor(struct vhk_vhost_user *u) {
        if (u->f.options.has_fd && u->listener.fd != u->f.options.fd)
                close(u->f.options.fd);
        if (u->f.options.reconnect_ns)
                return;
        vhk_listener_close(&u->listener);       /* no other one is accepted */
        u->listener.fd = -1;
}

static int connect_and_greet(struct vhk_vhost_user *u, struct vhk_error *ret_e) {
        int fd;

        int k = vhk_vu_find_endpoint(u, u->spec, false, &fd, ret_e);
        if (k < 0)
                return k;
        u->f.deadline = vhk_time_after(vhk_now_ns(), u->f.options.limit_ns);
        k = make_epoll(u);
        if (k < 0)
                close(fd);
        if (k == 0)
                k = vhk_vu_attach(u, fd);
        if (k == 0)
                k = vhk_vu_get_u64(u, VHK_FE_GET_FEATURES, &u->state.features_offered);
        if (k == 0)
                k = vhk_vu_handshake(u);
        return vhk_frontend_explain(&u->f, k) < 0 ? vhk_error_set(ret_e, k, u->f.error.rule, "%s", u->f.error.text) : 0;
}

int vhk_vhost_user_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e) {
        struct vhk_vhost_user *u = make(spec, o);

        if (!u)
                return vhk_error_set(ret_e, -ENOMEM, "frontend.memory", "out of memory");
        int k = connect_and_greet(u, ret_e);
        if (k < 0) {
                if (o->has_fd && u->listener.fd == o->fd)
                        u->listener.fd = -1;    /* stays the caller's */
                free_all(u);
                return k;
        }
        take_descriptor(u);
        u->set.protocol = u->state.protocol;
        u->f.busy = false;
        *ret_f = &u->f;
        return 0;
}
