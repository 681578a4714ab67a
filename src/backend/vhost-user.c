/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The carrier vhost-user: a connection and its messages. Control worker.
 *
 * At most BURST messages are handled per wake-up, so that a flood does not starve whoever shares this worker. While the
 * token is out, or an answer waits for room in the socket, no message is read; that the front-end has gone is seen all the
 * same: by EPOLLRDHUP where the loop knows it, and by a look at the socket ten times per second.
 */
#include <poll.h>
#include <sys/epoll.h>

#include "backend/session.h"

#define BURST 64
#define LOOK_NS 100000000u
#define CONNECT_NS 5000000000u

/* ---- sending ---- */

static void watch(struct vhk_backend *b);

void vhk_session_trace(struct vhk_backend *b, const char *arrow, const struct vhk_hdr *h, const void *payload, unsigned n_fds) {
        enum vhk_dir dir = strchr(arrow, '~') ? VHK_FROM_BACKEND : VHK_FROM_FRONTEND;
        char line[400];

        if (!b->trace.fn)
                return;
        vhk_wire_print(dir, h, payload, n_fds, line, sizeof(line));
        vhk_log(&b->trace, VHK_LOG_DEBUG, "%s %s", arrow, line);
}

void vhk_session_send(struct vhk_backend *b, uint32_t request, const void *payload, uint32_t size, int fd) {
        struct vhk_hdr h = { request, VHK_HDR_VERSION | VHK_HDR_REPLY, size };

        if (b->failed)
                return;
        vhk_session_trace(b, "<-", &h, payload, fd >= 0);
        int k = vhk_conn_send(&b->conn, &h, payload, &fd, fd >= 0);
        if (k < 0)
                vhk_session_fail(b, k, "backend.send", "cannot answer the front-end: %s", strerror(-k));
        else if (vhk_conn_wants_out(&b->conn))
                watch(b);
}

/* ---- the end ---- */

static void close_connection(struct vhk_backend *b) {
        b->conn_watch = vhk_watch_free(b->conn_watch);
        vhk_conn_done(&b->conn);
        vhk_host_close_channel(&b->host);
        vhk_display_close(&b->display);
        vhk_postcopy_end(b);
        vhk_state_abort(b);
}

/* Of the ring alone, or of memory that all rings share? */
static void faulted(struct vhk_backend *b, unsigned i) {
        uint32_t seen = 0;

        if (b->session.mem && vhk_memmap_is_bad(b->session.mem, &seen))
                vhk_session_fail(b, -EFAULT, "mem.bad", "memory that the front-end lent has vanished (its file was truncated)");
        if (b->session.log && vhk_dirty_is_bad(b->session.log))
                vhk_session_fail(b, -EFAULT, "log.bad", "the dirty log has vanished (its file was truncated)");
        if (vhk_inflight_is_bad(b))
                vhk_session_fail(b, -EFAULT, "inflight.bad", "the in-flight record has vanished (its file was truncated)");
}

/* ---- receiving ---- */

static bool has_gone(const struct vhk_backend *b) {
        struct pollfd p = { .fd = b->conn.fd, .events = POLLRDHUP };

        return poll(&p, 1, 0) > 0;
}

static void watch(struct vhk_backend *b) {
        bool deaf = b->token.out || b->state != VHK_BACKEND_SERVING || vhk_conn_wants_out(&b->conn);
        uint32_t events = (deaf ? (uint32_t)EPOLLRDHUP : (uint32_t)EPOLLIN) | (vhk_conn_wants_out(&b->conn) ? (uint32_t)EPOLLOUT : 0);

        if (!b->conn_watch)
                return;
        int k = vhk_watch_set(b->conn_watch, events);
        if (k >= 0)
                k = vhk_timer_set(b->timer, deaf ? VHK_MIN(LOOK_NS, b->limit_ns) : 0);
        if (k < 0)
                vhk_session_fail(b, k, "backend.loop", "cannot watch the connection: %s", strerror(-k));
}

/* One step of the stream; false: nothing more to do now. */
static bool receive(struct vhk_backend *b) {
        struct vhk_hdr h;

        int k = vhk_conn_receive(&b->conn);
        switch (k) {
        case VHK_CONN_AGAIN:
                return false;
        case VHK_CONN_HEADER:
                h = vhk_decoder_header(&b->conn.in);
                enum vhk_rule rule = vhk_wire_check_header(&b->session.wire, VHK_FROM_FRONTEND, &h);
                if (vhk_rule_is_fatal(rule))
                        vhk_session_fail(b, -EPROTO, vhk_rule_id(rule), "message %u: %s", h.request, vhk_rule_text(rule));
                return true;
        case VHK_CONN_MESSAGE:
                vhk_dispatch(b);
                vhk_decoder_next(&b->conn.in);
                return true;
        case VHK_CONN_EOF:
                vhk_session_gone(b);
                return true;
        case VHK_CONN_CUT:
                vhk_session_fail(b, -EPROTO, "wire.cut", "the connection ended in the middle of a message");
                return true;
        default:
                vhk_session_fail(b, k, "backend.receive", "cannot receive from the front-end: %s", strerror(-k));
                return true;
        }
}

static void on_connection(void *arg, uint32_t events) {
        struct vhk_backend *b = arg;

        if (vhk_conn_wants_out(&b->conn)) {
                int k = vhk_conn_flush(&b->conn);
                if (k < 0)
                        vhk_session_fail(b, k, "backend.send", "cannot answer the front-end: %s", strerror(-k));
                watch(b);
        }
        if (b->state != VHK_BACKEND_SERVING) {
                if (has_gone(b))                /* while it stops: nobody needs to be told the end any more */
                        close_connection(b);
                return;
        }
        /* A header counts as a step of its own. */
        for (unsigned i = 0; i < 2 * BURST && !b->failed && !b->token.out && !vhk_conn_wants_out(&b->conn); i++)
                if (!receive(b))
                        break;
        if ((b->token.out || vhk_conn_wants_out(&b->conn)) && has_gone(b))
                vhk_session_gone(b);
        vhk_session_check(b);
}

/* ---- rings ---- */

static int fill(struct vhk_backend *b, unsigned i, struct vhk_ring_config *c) {
        vhk_log_fill(b, i, c);
        vhk_inflight_fill(b, i, c);
        return vhk_inband_fill(b, i, c);
}

static void stopped(struct vhk_backend *b) {
        if (b->state == VHK_BACKEND_SERVING)    /* else the session's end does it */
                vhk_session_reset_device(b);
}

/* ---- the beginning ---- */

static int begin(struct vhk_backend *b, int fd) {
        int k = vhk_conn_init(&b->conn, fd);
        b->conn.in.leaves_files = !b->o.any_file_system;
        if (k >= 0)
                k = vhk_worker_watch(b->o.control, b->conn.fd, EPOLLIN, on_connection, b, &b->conn_watch);
        if (k < 0) {
                close_connection(b);
                return k;
        }
        vhk_backend_set_offers(b);
        vhk_state_abort(b);             /* of the front-end before, if any */
        return 0;
}

/* A listener, or a connected socket in b->o.fd. */
static int open_endpoint(struct vhk_backend *b, const char *spec, const struct vhk_backend_options *o, struct vhk_error *ret_e) {
        const char *path;
        int k, fd = o->fd;

        if (o->has_fd) {
                k = vhk_sock_classify(fd, ret_e);
                if (k < 0)
                        return k;
                b->listening = k == 1;
        } else {
                k = vhk_sock_parse(spec, &path, ret_e);
                if (k < 0)
                        return k;
                b->listening = o->mode != VHK_SOCKET_CONNECT;
                k = b->listening ? vhk_listener_open(path, &b->listener, ret_e) : vhk_sock_connect(path, CONNECT_NS, &fd, ret_e);
                if (k < 0)
                        return k;
        }
        if (o->has_fd && b->listening)
                b->listener.fd = fd;
        if (!b->listening) {
                b->o.has_fd = true;
                b->o.fd = fd;
        }
        return 0;
}

/* Its number may be that of stderr, by mistake. */
static void give_back(struct vhk_backend *b) {
        b->listener.fd = b->o.fd = -1;
}

static void free_carrier(struct vhk_backend *b) {
        b->conn_watch = vhk_watch_free(b->conn_watch);
        vhk_conn_done(&b->conn);
        vhk_host_close_channel(&b->host);
        vhk_display_close(&b->display);
        if (b->o.has_fd)
                vhk_close(&b->o.fd);
}

const struct vhk_backend_ops vhk_backend_vhost_user = {
        .open = open_endpoint,
        .give_back = give_back,
        .begin = begin,
        .close = close_connection,
        .watch = watch,
        .has_gone = has_gone,
        .faulted = faulted,
        .missed = vhk_iotlb_missed,
        .stopped = stopped,
        .fill = fill,
        .config_changed = vhk_host_send_change,
        .free = free_carrier,
};
