/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Descriptors. A peer's eventfd is shared with the peer, its O_NONBLOCK flag too: it is set once, on receipt.
 * A peer may also hand us a pipe or a socket; writing to one whose reader has gone raises SIGPIPE, which is blocked for the
 * length of that write and taken off the thread's pending set again.
 */
#include "base/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

struct vhk_fdref {
        unsigned refs;          /* shared (atomic) */
        int fd;
        bool is_pipe;
        int (*fn)(void *arg);   /* instead of a descriptor, which is -1 */
        void *arg;
};

int vhk_fdref_new(int fd, struct vhk_fdref **ret_r) {
        if (fd < 0) {
                *ret_r = NULL;
                return 0;
        }
        VHK_AUTOCLOSE int owned = fd;
        struct stat st;
        if (fstat(fd, &st) < 0)
                return vhk_errno();
        int k = vhk_fd_set_nonblock(fd, true);
        if (k < 0)
                return k;
        struct vhk_fdref *r = malloc(sizeof(*r));
        if (!r)
                return -ENOMEM;
        *r = (struct vhk_fdref){ .refs = 1, .fd = VHK_STEAL_FD(owned), .is_pipe = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) };
        *ret_r = r;
        return 0;
}

int vhk_fdref_new_call(int (*fn)(void *arg), void *arg, struct vhk_fdref **ret_r) {
        struct vhk_fdref *r = malloc(sizeof(*r));
        if (!r)
                return -ENOMEM;
        *r = (struct vhk_fdref){ .refs = 1, .fd = -1, .fn = fn, .arg = arg };
        *ret_r = r;
        return 0;
}

struct vhk_fdref *vhk_fdref_ref(struct vhk_fdref *r) {
        if (r)
                vhk_refs_take(&r->refs);
        return r;
}

struct vhk_fdref *vhk_fdref_unref(struct vhk_fdref *r) {
        if (r && vhk_refs_drop(&r->refs)) {
                vhk_close(&r->fd);
                free(r);
        }
        return NULL;
}

int vhk_fdref_get(const struct vhk_fdref *r) {
        return r ? r->fd : -1;
}

static bool is_ready(int fd, short events) {
        struct pollfd p = { .fd = fd, .events = events };
        return poll(&p, 1, 0) > 0;
}

int vhk_notify_fd(int fd) {
        const uint64_t one = 1;

        for (;;) {
                if (write(fd, &one, sizeof(one)) >= 0)
                        return 0;
                if (errno != EINTR)
                        return errno == EAGAIN ? 0 : vhk_errno();
        }
}

ssize_t vhk_write_fd(int fd, const void *buf, size_t n) {
        sigset_t sigpipe, pending, old;
        ssize_t k;

        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        sigpending(&pending);
        bool was_pending = sigismember(&pending, SIGPIPE) == 1;
        pthread_sigmask(SIG_BLOCK, &sigpipe, &old);
        do
                k = write(fd, buf, n);
        while (k < 0 && errno == EINTR);
        if (k < 0)
                k = vhk_errno();
        if (k == -EPIPE && !was_pending)
                while (sigtimedwait(&sigpipe, NULL, &(struct timespec){ 0 }) < 0 && errno == EINTR)
                        ;
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        return k;
}

int vhk_fdref_notify(struct vhk_fdref *r) {
        if (!r)
                return 0;
        if (r->fn)
                return r->fn(r->arg);
        if (!r->is_pipe)
                return vhk_notify_fd(r->fd);
        ssize_t k = vhk_write_fd(r->fd, &(uint64_t){ 1 }, sizeof(uint64_t));
        return k < 0 && k != -EAGAIN ? (int)k : 0;
}

int vhk_drain_fd(int fd) {
        uint8_t buf[64];
        int seen = 0;

        while (is_ready(fd, POLLIN)) {
                ssize_t n = read(fd, buf, sizeof(buf));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? seen : vhk_errno();
                if (n == 0)
                        return seen ? seen : -EPIPE;    /* a pipe whose writer has gone */
                seen = 1;
                if (n < (ssize_t)sizeof(buf))
                        break;
        }
        return seen;
}

int vhk_fd_set_nonblock(int fd, bool on) {
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0)
                return vhk_errno();
        int want = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
        if (want != flags && fcntl(fd, F_SETFL, want) < 0)
                return vhk_errno();
        return 0;
}
