/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Descriptors of our own, references to shared ones, and SIGPIPE: writing to a pipe or socket whose
 * reader is closed raises it. It is blocked for the length of that write and taken off the thread's
 * pending set again.
 */
#include "base/fd.h"

#include <fcntl.h>
#include <signal.h>
#include <pthread.h>
#include <time.h>
#include <vhostkit/error.h>

struct vhk_fdref {
        unsigned refs;          /* shared (atomic) */
        int fd;
        int (*fn)(void *arg);   /* instead of a descriptor, which is -1 */
        void *arg;
};

int vhk_fdref_new(int fd, struct vhk_fdref **ret_r) {
        if (fd < 0) {
                *ret_r = NULL;
                return 0;
        }
        VHK_CLEANUP(vhk_peer_close) int owned = fd;
        int k = vhk_peer_kind(fd);
        if (k == VHK_PEER_FILE || k == VHK_PEER_OTHER)
                return -EINVAL;
        if (k >= 0)
                k = vhk_fd_set_nonblock(fd, true);
        if (k < 0)
                return k;
        struct vhk_fdref *r = malloc(sizeof(*r));
        if (!r)
                return -ENOMEM;
        *r = (struct vhk_fdref){ .refs = 1, .fd = VHK_STEAL_FD(owned) };
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

int vhk_notify_fd(int fd) {
        const uint64_t one = 1;

        for (;;) {
                if (write(fd, &one, sizeof(one)) >= 0)
                        return 0;
                if (errno != EINTR)
                        return errno == EAGAIN ? 0 : vhk_errno();
        }
}

void vhk_sigpipe_block(struct vhk_sigpipe *guard) {
        sigset_t sigpipe, pending;

        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        sigpending(&pending);
        guard->was_pending = sigismember(&pending, SIGPIPE) == 1;
        pthread_sigmask(SIG_BLOCK, &sigpipe, &guard->old);
}

void vhk_sigpipe_restore(const struct vhk_sigpipe *guard, bool was_raised) {
        sigset_t sigpipe;

        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
        if (was_raised && !guard->was_pending)
                while (sigtimedwait(&sigpipe, NULL, &(struct timespec){ 0 }) < 0 && errno == EINTR)
                        ;
        pthread_sigmask(SIG_SETMASK, &guard->old, NULL);
}

ssize_t vhk_write_fd(int fd, const void *buf, size_t n) {
        struct vhk_sigpipe guard;
        ssize_t ret;

        vhk_sigpipe_block(&guard);
        do
                ret = write(fd, buf, n);
        while (ret < 0 && errno == EINTR);
        if (ret < 0)
                ret = vhk_errno();
        vhk_sigpipe_restore(&guard, ret == -EPIPE);
        return ret;
}

int vhk_fdref_notify(struct vhk_fdref *r) {
        if (!r)
                return 0;
        return r->fn ? r->fn(r->arg) : vhk_peer_notify(r->fd);
}

VHK_API int vhk_open_standard_fds(void) {
        for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
                if (fcntl(i, F_GETFD) >= 0)
                        continue;
                VHK_AUTOCLOSE int fd = open("/dev/null", O_RDWR);       /* is @i: all below are open */
                if (fd < 0)
                        return vhk_errno();
                (void)VHK_STEAL_FD(fd);
        }
        return 0;
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

/* ThreadSanitizer orders threads by what they send each other, over descriptors that it saw made: it knows dup3(2), not fcntl(2). */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IS_TSAN 1
#endif
#endif

int vhk_fd_dup(int fd) {
        int new = fcntl(fd, F_DUPFD_CLOEXEC, 3);

        if (new < 0)
                return vhk_errno();
#if defined(IS_TSAN) || defined(__SANITIZE_THREAD__)
        (void)dup3(fd, new, O_CLOEXEC);
#endif
        return new;
}
