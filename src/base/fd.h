/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Descriptors of our own, and shared ownership of those of a peer (peer.h). Any thread. */
#pragma once

#include <signal.h>

#include "base/base.h"
#include "base/peer.h"

/* A descriptor with several owners (a call fd is held by control and by a ring's configuration). */
struct vhk_fdref;

/* Takes ownership of @fd, an eventfd, pipe or socket, also on failure. @fd -1 is legal and gives
 * *ret_r NULL. -EINVAL: of another kind. */
int vhk_fdref_new(int fd, struct vhk_fdref **ret_r);
/* Not a descriptor, but somebody to call instead (an ioctl): vhk_fdref_notify() is @fn, on any thread. @arg outlives all references */
int vhk_fdref_new_call(int (*fn)(void *arg), void *arg, struct vhk_fdref **ret_r);
struct vhk_fdref *vhk_fdref_ref(struct vhk_fdref *r);           /* NULL is passed through */
struct vhk_fdref *vhk_fdref_unref(struct vhk_fdref *r);         /* returns NULL */
int vhk_fdref_get(const struct vhk_fdref *r);                   /* -1 for NULL */

/* Adds 1 to an eventfd of our own (non-blocking). 0, or a negative errno. */
int vhk_notify_fd(int fd);

/* Notifies the peer that gave us the eventfd, pipe or socket; NULL is a peer that polls. As
 * vhk_peer_notify(). */
int vhk_fdref_notify(struct vhk_fdref *r);

/* SIGPIPE of a write by the calling thread: blocked before, taken back (was_raised: the write
 * failed with -EPIPE) after. */
struct vhk_sigpipe {
        sigset_t old;
        bool was_pending;
};
void vhk_sigpipe_block(struct vhk_sigpipe *guard);
void vhk_sigpipe_restore(const struct vhk_sigpipe *guard, bool was_raised);

/* write(2) to a descriptor of our own, repeated after a signal; a pipe or socket whose reader is
 * closed is -EPIPE, never a SIGPIPE. */
ssize_t vhk_write_fd(int fd, const void *buf, size_t n);

/* Empties an eventfd of our own, as vhk_peer_drain(). */
static inline int vhk_drain_fd(int fd) { return vhk_peer_drain(fd); }

int vhk_fd_set_nonblock(int fd, bool on);
/* A duplicate of @fd with close-on-exec, at least 3: the descriptor, or a negative errno. */
int vhk_fd_dup(int fd);
