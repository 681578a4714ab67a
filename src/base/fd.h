/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Descriptors: notification (eventfd or pipe, never blocking) and shared ownership. Any thread. */
#pragma once

#include "base/base.h"

/* A descriptor with several owners (a call fd is held by control and by a ring's configuration). */
struct vhk_fdref;

/* Takes ownership of @fd also on failure; makes it non-blocking. @fd -1 is legal and gives *ret_r NULL. */
int vhk_fdref_new(int fd, struct vhk_fdref **ret_r);
/* Not a descriptor, but somebody to call instead (an ioctl): vhk_fdref_notify() is @fn, on any thread. @arg outlives all references */
int vhk_fdref_new_call(int (*fn)(void *arg), void *arg, struct vhk_fdref **ret_r);
struct vhk_fdref *vhk_fdref_ref(struct vhk_fdref *r);           /* NULL is passed through */
struct vhk_fdref *vhk_fdref_unref(struct vhk_fdref *r);         /* returns NULL */
int vhk_fdref_get(const struct vhk_fdref *r);                   /* -1 for NULL */

/* Adds 1 to an eventfd of our own (non-blocking). 0, or a negative errno. */
int vhk_notify_fd(int fd);

/* Notifies a peer through the eventfd or pipe that it gave us; NULL is a peer that polls. vhk_fdref_new() made
 * the descriptor non-blocking: a full counter means that the peer has been notified already. A pipe whose reader
 * has gone is -EPIPE, never a SIGPIPE. */
int vhk_fdref_notify(struct vhk_fdref *r);

/* write(2), again after a signal; a pipe or socket whose reader has gone is -EPIPE, never a SIGPIPE. */
ssize_t vhk_write_fd(int fd, const void *buf, size_t n);

/* Empties a notification descriptor: 1 if something was there, 0 if not, negative errno. Never blocks. */
int vhk_drain_fd(int fd);

int vhk_fd_set_nonblock(int fd, bool on);
