/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A unix stream socket that carries vhost-user messages and descriptors: the only room that makes socket system calls.
 * Survives one byte at a time, EINTR, EAGAIN (never spins), MSG_CTRUNC; received descriptors are CLOEXEC.
 */
#pragma once

#include <vhostkit/backend.h>
#include <vhostkit/error.h>

#include "base/base.h"
#include "wire/wire.h"

/* "vhost-user:PATH" or a bare "PATH" (anything with a '/' or without a known prefix) to the path, which must fit sun_path
 * (107 bytes: -ENAMETOOLONG). Points into @spec. */
int vhk_sock_parse(const char *spec, const char **ret_path, struct vhk_error *ret_e);

/* Listening socket at @path, non-blocking. A socket file that nobody listens on is replaced; a live one, or a file that is
 * not a socket, is -EADDRINUSE. The file's identity (st_dev, st_ino) is remembered so that only our own is unlinked. */
struct vhk_listener {
        int fd;
        char path[108];                 /* "" for an inherited descriptor */
        uint64_t dev, ino;
};
int vhk_listener_open(const char *path, struct vhk_listener *ret_l, struct vhk_error *ret_e);
void vhk_listener_close(struct vhk_listener *l);
/* A connected, non-blocking socket; -EAGAIN nobody is there. Transient failures (EINTR, ECONNABORTED) are not reported. */
int vhk_listener_accept(struct vhk_listener *l, int *ret_fd);

/* Is this inherited descriptor a unix stream socket, and listening or connected? 1 listening, 0 connected, -ENOTSOCK ... */
int vhk_sock_classify(int fd, struct vhk_error *ret_e);

/* Connects, trying again for up to @limit_ns while nobody listens there (ENOENT, ECONNREFUSED, EAGAIN), then reports the last
 * reason; blocks (poll/nanosleep) for that long at most. Result is non-blocking. */
int vhk_sock_connect(const char *path, uint64_t limit_ns, int *ret_fd, struct vhk_error *ret_e);

/* One direction-pair of messages over a connected socket. Owns the fd. */
struct vhk_conn {
        int fd;
        struct vhk_decoder in;
        /* messages that the socket did not take yet */
        struct vhk_out *out_head, **out_tail;
        size_t out_bytes;
};
int vhk_conn_init(struct vhk_conn *c, int fd);                  /* takes @fd, also on failure; sets O_NONBLOCK and CLOEXEC */
void vhk_conn_done(struct vhk_conn *c);

/* Receives until a header or a whole message is there, or nothing more comes.
 * VHK_CONN_HEADER: the header is complete and the payload may be missing: check it (vhk_wire_check_header()), call again.
 * VHK_CONN_MESSAGE: complete in c->in; handle, then vhk_decoder_next().
 * VHK_CONN_AGAIN: wait for EPOLLIN. VHK_CONN_EOF: closed between messages. VHK_CONN_CUT: closed inside one (*ret bytes missing).
 * Negative errno: the socket failed. */
enum { VHK_CONN_AGAIN, VHK_CONN_HEADER, VHK_CONN_MESSAGE, VHK_CONN_EOF, VHK_CONN_CUT };
int vhk_conn_receive(struct vhk_conn *c);

/* Sends, or queues what the socket does not take (then watch EPOLLOUT and call vhk_conn_flush()). Descriptors are duplicated
 * if queued, never taken. 0; -ENOBUFS (peer does not read: more than 64 KiB waiting); -EPIPE ...; no SIGPIPE. */
int vhk_conn_send(struct vhk_conn *c, const struct vhk_hdr *h, const void *payload, const int *fds, unsigned n_fds);
/* A message of any size, made on any thread: its payload, @h->size bytes, is to be filled; descriptors are duplicated. */
struct vhk_out;
int vhk_out_new(const struct vhk_hdr *h, const int *fds, unsigned n_fds, struct vhk_out **ret_o, void **ret_payload);
struct vhk_out *vhk_out_free(struct vhk_out *o);
/* Takes @o; it goes out with vhk_conn_flush(). How many may wait is the caller's to know (c->out_bytes). */
void vhk_conn_queue(struct vhk_conn *c, struct vhk_out *o);
/* 1: all sent, 0: more waits, negative errno */
int vhk_conn_flush(struct vhk_conn *c);
static inline bool vhk_conn_wants_out(const struct vhk_conn *c) { return c->out_head != NULL; }
