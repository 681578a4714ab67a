/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The back-end channel: requests of ours to the front-end, and their answers. Control worker; nothing here blocks.
 */
#pragma once

#include <vhostkit/worker.h>

#include "base/base.h"
#include "sock/sock.h"

#define VHK_CHANNEL_MAX 256u            /* requests without an answer; the next one is refused */

struct vhk_backend;

/* The answer to a request: @error 0: it was done; @reply (of @size) and *@fd (or -1; take it by setting -1) are those of a row with
 * its own reply. -EREMOTEIO: the front-end says no; -ETIMEDOUT: it said nothing in time; -EPIPE: the channel has gone. May send. */
typedef void (*vhk_channel_fn)(struct vhk_backend *b, int error, const void *reply, uint32_t size, int *fd, uint64_t arg);

struct vhk_channel_request {
        struct vhk_hdr header;
        vhk_channel_fn done;            /* NULL: was told that it takes too long */
        uint64_t arg, deadline;
};

struct vhk_channel {
        struct vhk_backend *b;
        bool is_open;
        struct vhk_conn conn;
        struct vhk_watch *watch;
        struct vhk_timer *timer;
        struct vhk_channel_request waiting[VHK_CHANNEL_MAX];    /* a ring, oldest first: answers come in order */
        uint32_t first, n;
};

void vhk_channel_init(struct vhk_channel *c, struct vhk_backend *b);
/* Takes @fd; replaces a former channel, which stays if this fails. -EINVAL: no connected unix
 * stream socket; -EMFILE ... */
int vhk_channel_open(struct vhk_channel *c, int fd);
/* What waits is told -EPIPE. */
void vhk_channel_close(struct vhk_channel *c);

/* Sends; @fd (-1: none) stays the caller's. @done may be NULL. 0: @done will be called, not from inside; 1: sent, no answer will
 * come (REPLY_ACK was not negotiated); -EOPNOTSUPP: no channel, or not negotiated; -EINVAL: no such message; -ENOBUFS: the
 * front-end does not answer or does not read; -EPIPE ...: the channel is closed now. */
int vhk_channel_send(struct vhk_channel *c, uint32_t id, const void *payload, uint32_t size, int fd, vhk_channel_fn done, uint64_t arg);
