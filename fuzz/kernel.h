/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Eventfds and stream sockets of the fuzz targets, without the kernel: a session is thousands of system calls on them, and a
 * system call costs more than what it tests. The linker diverts the calls to the functions below (fuzz/meson.build); those on
 * any other descriptor go to the kernel. Behaviour follows eventfd(2), unix(7) and poll(2) of non-blocking descriptors.
 *
 * A socket's buffer is smaller than the kernel's, so that a full one is within reach of an input. One thread.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* No part of what is tested: no feature of an input either. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage", "address", "undefined"))), apply_to = function)

#define KERNEL_FD 0x100000              /* the first number; real ones are smaller */
#define KERNEL_FDS 1024u
#define KERNEL_FILES 512u
#define KERNEL_BYTES 0x8000u            /* of a socket's receive queue */
#define KERNEL_SEGMENTS 128u            /* ... from one sendmsg(2) with descriptors, or from several without */
#define KERNEL_SCM 16u

struct kernel_segment {
        size_t n;
        unsigned n_fds;
        int fds[KERNEL_SCM];            /* of the receiver already: numbers of the table below are indices of files */
};

/* An open file description. */
struct kernel_file {
        unsigned refs;                  /* descriptors, and messages that carry it */
        bool is_socket, is_read_shut, is_write_shut, is_reset;
        int flags;
        uint64_t counter;               /* of an eventfd */
        struct kernel_file *peer;
        size_t at, n;                   /* bytes that wait: buf[at .. at + n) */
        unsigned first, n_segments;
        struct kernel_segment segments[KERNEL_SEGMENTS];
        uint8_t buf[KERNEL_BYTES];
};

static struct kernel_file *kernel_files;        /* mapped: no roots for LeakSanitizer */
static struct kernel_file *kernel_fds[KERNEL_FDS];
static unsigned kernel_n_open, kernel_top;      /* descriptors; all indices in use are below kernel_top */
static unsigned kernel_n_files, kernel_files_top;

ssize_t __real_read(int fd, void *buf, size_t n);
ssize_t __real_write(int fd, const void *buf, size_t n);
ssize_t __real_recv(int fd, void *buf, size_t n, int flags);
ssize_t __real_send(int fd, const void *buf, size_t n, int flags);
ssize_t __real_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __real_preadv64v2(int fd, const struct iovec *v, int n, off_t off, int flags);
ssize_t __real_pwritev64v2(int fd, const struct iovec *v, int n, off_t off, int flags);
ssize_t __real_readlink(const char *path, char *buf, size_t n);
int __real_close(int fd);
int __real_poll(struct pollfd *p, nfds_t n, int ms);
int __real_fcntl64(int fd, int op, ...);
int __real_statx(int dir, const char *path, int flags, unsigned mask, struct statx *sx);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *n);
int __real_getpeername(int fd, struct sockaddr *a, socklen_t *n);
int __real_shutdown(int fd, int how);
int __real_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *e);
long __real_syscall(long number, ...);

ssize_t __wrap_read(int fd, void *buf, size_t n);
ssize_t __wrap_write(int fd, const void *buf, size_t n);
ssize_t __wrap_recv(int fd, void *buf, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *v, int n, off_t off, int flags);
ssize_t __wrap_pwritev64v2(int fd, const struct iovec *v, int n, off_t off, int flags);
ssize_t __wrap_readlink(const char *path, char *buf, size_t n);
int __wrap_eventfd(unsigned counter, int flags);
int __wrap_socketpair(int domain, int type, int protocol, int s[2]);
int __wrap_close(int fd);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_fcntl64(int fd, int op, ...);
int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *sx);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *n);
int __wrap_getpeername(int fd, struct sockaddr *a, socklen_t *n);
int __wrap_shutdown(int fd, int how);
int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *e);
long __wrap_syscall(long number, ...);

/* ---- descriptors ---- */

static inline int kernel_fail(int error) {
        errno = error;
        return -1;
}

static inline bool kernel_is_ours(int fd) {
        return fd >= KERNEL_FD;
}

/* NULL, errno EBADF: not open. */
static inline struct kernel_file *kernel_get(int fd) {
        unsigned i = (unsigned)fd - KERNEL_FD;

        if (i < KERNEL_FDS && kernel_fds[i])
                return kernel_fds[i];
        errno = EBADF;
        return NULL;
}

static inline struct kernel_file *kernel_socket(int fd) {
        struct kernel_file *f = kernel_get(fd);

        if (!f || f->is_socket)
                return f;
        errno = ENOTSOCK;
        return NULL;
}

/* Takes a reference. The lowest free number, as the kernel does. */
static inline int kernel_install(struct kernel_file *f) {
        for (unsigned i = 0; i < KERNEL_FDS; i++)
                if (!kernel_fds[i]) {
                        kernel_fds[i] = f;
                        kernel_top = i >= kernel_top ? i + 1 : kernel_top;
                        kernel_n_open++;
                        f->refs++;
                        return KERNEL_FD + (int)i;
                }
        abort();
}

static inline struct kernel_file *kernel_new(bool is_socket, int flags) {
        if (!kernel_files) {
                kernel_files = mmap(NULL, KERNEL_FILES * sizeof(*kernel_files), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (kernel_files == MAP_FAILED)
                        abort();
        }
        for (unsigned i = 0; i < KERNEL_FILES; i++) {
                struct kernel_file *f = &kernel_files[i];
                if (f->refs)
                        continue;
                memset(f, 0, offsetof(struct kernel_file, segments));
                kernel_n_files++;
                kernel_files_top = i >= kernel_files_top ? i + 1 : kernel_files_top;
                f->is_socket = is_socket;
                f->flags = O_RDWR | (flags & O_NONBLOCK);
                return f;
        }
        abort();
}

static inline void kernel_drop_message(struct kernel_segment *s);

static inline void kernel_unref(struct kernel_file *f) {
        if (--f->refs)
                return;
        kernel_n_files--;
        if (!f->is_socket)
                return;
        f->refs = 1;                    /* not free before its messages are */
        if (f->peer) {
                f->peer->is_read_shut = true;
                f->peer->is_write_shut = true;
                f->peer->is_reset = f->n > 0;
                f->peer->peer = NULL;
        }
        for (unsigned i = 0; i < f->n_segments; i++)
                kernel_drop_message(&f->segments[(f->first + i) % KERNEL_SEGMENTS]);
        f->refs = 0;
}

/* What a message carries: files are indices from KERNEL_FD on, other descriptors are duplicates. */
static inline void kernel_drop_message(struct kernel_segment *s) {
        while (s->n_fds > 0) {
                int fd = s->fds[--s->n_fds];
                if (kernel_is_ours(fd))
                        kernel_unref(&kernel_files[fd - KERNEL_FD]);
                else
                        __real_close(fd);
        }
}

int __wrap_close(int fd) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_close(fd);
        f = kernel_get(fd);
        if (!f)
                return -1;
        kernel_fds[fd - KERNEL_FD] = NULL;
        kernel_n_open--;
        kernel_unref(f);
        return 0;
}

/* Files that only messages inside of each other carry: the kernel collects them, too. */
static inline void kernel_collect(void) {
        bool is_open[KERNEL_FILES] = { false };

        if (kernel_n_files <= kernel_n_open)
                return;
        for (unsigned i = 0; i < kernel_top; i++)
                if (kernel_fds[i])
                        is_open[kernel_fds[i] - kernel_files] = true;
        for (unsigned i = 0; i < kernel_files_top; i++) {
                struct kernel_file *f = &kernel_files[i];
                if (!f->refs || is_open[i] || !f->is_socket)
                        continue;
                f->refs++;
                for (; f->n_segments; f->n_segments--)
                        kernel_drop_message(&f->segments[f->first++ % KERNEL_SEGMENTS]);
                f->n = 0;
                kernel_unref(f);
        }
}

int __wrap_eventfd(unsigned counter, int flags) {
        struct kernel_file *f = kernel_new(false, flags);

        f->counter = counter;
        return kernel_install(f);
}

int __wrap_socketpair(int domain, int type, int protocol, int s[2]) {
        struct kernel_file *f[2];

        for (unsigned i = 0; i < 2; i++) {
                f[i] = kernel_new(true, type);
                s[i] = kernel_install(f[i]);
        }
        f[0]->peer = f[1];
        f[1]->peer = f[0];
        return 0;
}

int __wrap_fcntl64(int fd, int op, ...) {
        struct kernel_file *f;
        va_list ap;

        va_start(ap, op);
        long arg = va_arg(ap, long);
        va_end(ap);
        if (!kernel_is_ours(fd))
                return __real_fcntl64(fd, op, arg);
        f = kernel_get(fd);
        if (!f)
                return -1;
        switch (op) {
        case F_DUPFD:
        case F_DUPFD_CLOEXEC: return kernel_install(f);
        case F_GETFD: return FD_CLOEXEC;
        case F_SETFD: return 0;
        case F_GETFL: return f->flags;
        case F_SETFL: f->flags = O_RDWR | ((int)arg & O_NONBLOCK); return 0;
        default: return kernel_fail(EINVAL);
        }
}

int __wrap_statx(int dir, const char *path, int flags, unsigned mask, struct statx *sx) {
        struct kernel_file *f;

        if (!kernel_is_ours(dir))
                return __real_statx(dir, path, flags, mask, sx);
        f = kernel_get(dir);
        if (!f)
                return -1;
        memset(sx, 0, sizeof(*sx));
        sx->stx_mask = mask;
        sx->stx_mode = (uint16_t)(f->is_socket ? S_IFSOCK | 0777 : 0600);
        return 0;
}

/* Of an eventfd's entry in /proc/self/fd; a socket's is not asked for. */
ssize_t __wrap_readlink(const char *path, char *buf, size_t n) {
        static const char prefix[] = "/proc/self/fd/", name[] = "anon_inode:[eventfd]";
        int fd = strncmp(path, prefix, sizeof(prefix) - 1) ? -1 : atoi(path + sizeof(prefix) - 1);

        if (!kernel_is_ours(fd))
                return __real_readlink(path, buf, n);
        if (!kernel_get(fd))
                return kernel_fail(ENOENT);
        n = n < sizeof(name) - 1 ? n : sizeof(name) - 1;
        memcpy(buf, name, n);
        return (ssize_t)n;
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *n) {
        if (!kernel_is_ours(fd))
                return __real_getsockopt(fd, level, name, value, n);
        if (!kernel_socket(fd))
                return -1;
        *(int *)value = name == SO_DOMAIN ? AF_UNIX : (name == SO_TYPE) * SOCK_STREAM;
        *n = sizeof(int);
        return 0;
}

int __wrap_getpeername(int fd, struct sockaddr *a, socklen_t *n) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_getpeername(fd, a, n);
        f = kernel_socket(fd);
        if (!f)
                return -1;
        if (!f->peer)
                return kernel_fail(ENOTCONN);
        a->sa_family = AF_UNIX;
        *n = sizeof(a->sa_family);
        return 0;
}

int __wrap_shutdown(int fd, int how) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_shutdown(fd, how);
        f = kernel_socket(fd);
        if (!f)
                return -1;
        if (how != SHUT_RD)
                f->is_write_shut = true;
        if (how != SHUT_WR)
                f->is_read_shut = true;
        if (f->peer && how != SHUT_RD)
                f->peer->is_read_shut = true;
        if (f->peer && how != SHUT_WR)
                f->peer->is_write_shut = true;
        return 0;
}

/* A front-end's set is for its caller's poll(2): nothing here waits for it. */
int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *e) {
        if (!kernel_is_ours(fd))
                return __real_epoll_ctl(epoll_fd, op, fd, e);
        return kernel_get(fd) ? 0 : -1;
}

/* ---- bytes ---- */

static inline ssize_t kernel_event_read(struct kernel_file *f, void *buf, size_t n) {
        if (n < sizeof(f->counter))
                return kernel_fail(EINVAL);
        if (!f->counter)
                return kernel_fail(EAGAIN);
        memcpy(buf, &f->counter, sizeof(f->counter));
        f->counter = 0;
        return sizeof(f->counter);
}

static inline ssize_t kernel_event_write(struct kernel_file *f, const void *buf, size_t n) {
        uint64_t x;

        if (n < sizeof(x))
                return kernel_fail(EINVAL);
        memcpy(&x, buf, sizeof(x));
        if (x == UINT64_MAX)
                return kernel_fail(EINVAL);
        if (x > UINT64_MAX - 1 - f->counter)
                return kernel_fail(EAGAIN);
        f->counter += x;
        return sizeof(x);
}

/* The descriptors of a message, to as much room as there is. */
static inline void kernel_deliver(struct kernel_segment *s, struct msghdr *m) {
        size_t room = m && m->msg_control && m->msg_controllen > CMSG_LEN(0) ? (m->msg_controllen - CMSG_LEN(0)) / sizeof(int) : 0;
        unsigned n = (unsigned)(s->n_fds < room ? s->n_fds : room);
        struct cmsghdr *h = m ? m->msg_control : NULL;

        for (unsigned i = 0; i < n; i++) {
                int fd = s->fds[i];
                if (kernel_is_ours(fd)) {
                        struct kernel_file *f = &kernel_files[fd - KERNEL_FD];
                        fd = kernel_install(f);
                        kernel_unref(f);
                }
                memcpy((uint8_t *)CMSG_DATA(h) + i * sizeof(fd), &fd, sizeof(fd));
        }
        if (n)
                *h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(n * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
        if (m) {
                m->msg_controllen = n ? CMSG_SPACE(n * sizeof(int)) : 0;
                m->msg_flags |= n < s->n_fds ? MSG_CTRUNC : 0;
        }
        memmove(s->fds, s->fds + n, (s->n_fds - n) * sizeof(int));
        s->n_fds -= n;
        kernel_drop_message(s);
}

static inline ssize_t kernel_nothing(struct kernel_file *f) {
        if (f->is_reset) {
                f->is_reset = false;
                return kernel_fail(ECONNRESET);
        }
        return f->is_read_shut ? 0 : kernel_fail(EAGAIN);
}

/* A read ends after the first message with descriptors that it took bytes of. */
static inline ssize_t kernel_receive(struct kernel_file *f, const struct iovec *v, size_t n_iov, struct msghdr *m) {
        struct kernel_segment none = { 0 }, *with_fds = NULL;
        size_t total = 0, off = 0;

        if (!f->n)
                return kernel_nothing(f);
        while (f->n && n_iov) {
                struct kernel_segment *s = &f->segments[f->first];
                size_t n = v->iov_len - off < s->n ? v->iov_len - off : s->n;
                memcpy((uint8_t *)v->iov_base + off, f->buf + f->at, n);
                total += n;
                off += n;
                f->at += n;
                f->n -= n;
                s->n -= n;
                if (n && s->n_fds)
                        with_fds = s;
                if (off == v->iov_len) {
                        v++;
                        n_iov--;
                        off = 0;
                }
                if (s->n)
                        continue;
                f->first = (f->first + 1) % KERNEL_SEGMENTS;
                f->n_segments--;
                if (with_fds)
                        break;
        }
        if (!f->n)
                f->at = 0;
        kernel_deliver(with_fds ? with_fds : &none, m);
        return (ssize_t)total;
}

static inline struct kernel_segment *kernel_append(struct kernel_file *to, bool has_fds) {
        struct kernel_segment *s = &to->segments[(to->first + to->n_segments + KERNEL_SEGMENTS - 1) % KERNEL_SEGMENTS];

        if (to->n_segments && !has_fds && !s->n_fds)
                return s;
        if (to->n_segments == KERNEL_SEGMENTS)
                return NULL;
        s = &to->segments[(to->first + to->n_segments++) % KERNEL_SEGMENTS];
        s->n = 0;
        s->n_fds = 0;
        return s;
}

static inline bool kernel_attach(struct kernel_segment *s, const struct cmsghdr *h) {
        size_t n = h ? (h->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;

        for (size_t i = 0; i < n; i++) {
                int fd;
                memcpy(&fd, (const uint8_t *)CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
                struct kernel_file *f = kernel_is_ours(fd) ? kernel_get(fd) : NULL;
                if (f)
                        f->refs++;
                fd = f ? KERNEL_FD + (int)(f - kernel_files) : __real_fcntl64(fd, F_DUPFD_CLOEXEC, 3);
                if (fd < 0 || i == KERNEL_SCM)
                        return false;
                s->fds[s->n_fds++] = fd;
        }
        return true;
}

static inline ssize_t kernel_transmit(struct kernel_file *f, const struct iovec *v, size_t n_iov, const struct cmsghdr *h) {
        struct kernel_file *to = f->peer;
        size_t total = 0, wanted = 0;

        if (f->is_write_shut || !to)
                return kernel_fail(EPIPE);
        for (size_t i = 0; i < n_iov; i++)
                wanted += v[i].iov_len;
        if (!wanted)
                return 0;
        if (to->n == KERNEL_BYTES)
                return kernel_fail(EAGAIN);
        struct kernel_segment *s = kernel_append(to, h);
        if (!s)
                return kernel_fail(EAGAIN);
        if (!kernel_attach(s, h)) {
                kernel_drop_message(s);
                to->n_segments--;
                return kernel_fail(EBADF);
        }
        memmove(to->buf, to->buf + to->at, to->at ? to->n : 0);
        to->at = 0;
        for (size_t i = 0; i < n_iov; i++) {
                size_t n = v[i].iov_len < KERNEL_BYTES - to->n ? v[i].iov_len : KERNEL_BYTES - to->n;
                memcpy(to->buf + to->n, v[i].iov_base, n);
                to->n += n;
                s->n += n;
                total += n;
        }
        return (ssize_t)total;
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_recvmsg(fd, m, flags);
        f = kernel_socket(fd);
        if (!f)
                return -1;
        m->msg_flags = 0;
        m->msg_namelen = 0;
        ssize_t n = kernel_receive(f, m->msg_iov, m->msg_iovlen, m);
        if (n == 0)
                m->msg_controllen = 0;
        return n;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_sendmsg(fd, m, flags);
        f = kernel_socket(fd);
        return f ? kernel_transmit(f, m->msg_iov, m->msg_iovlen, m->msg_controllen ? m->msg_control : NULL) : -1;
}

ssize_t __wrap_recv(int fd, void *buf, size_t n, int flags) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_recv(fd, buf, n, flags);
        f = kernel_socket(fd);
        return f ? kernel_receive(f, &(struct iovec){ buf, n }, 1, NULL) : -1;
}

ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_send(fd, buf, n, flags);
        f = kernel_socket(fd);
        return f ? kernel_transmit(f, &(struct iovec){ (void *)buf, n }, 1, NULL) : -1;
}

ssize_t __wrap_read(int fd, void *buf, size_t n) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_read(fd, buf, n);
        f = kernel_get(fd);
        if (!f)
                return -1;
        return f->is_socket ? kernel_receive(f, &(struct iovec){ buf, n }, 1, NULL) : kernel_event_read(f, buf, n);
}

ssize_t __wrap_write(int fd, const void *buf, size_t n) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_write(fd, buf, n);
        f = kernel_get(fd);
        if (!f)
                return -1;
        return f->is_socket ? kernel_transmit(f, &(struct iovec){ (void *)buf, n }, 1, NULL) : kernel_event_write(f, buf, n);
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *v, int n, off_t off, int flags) {
        struct kernel_file *f;

        if (!kernel_is_ours(fd))
                return __real_preadv64v2(fd, v, n, off, flags);
        f = kernel_get(fd);
        if (!f)
                return -1;
        return f->is_socket ? kernel_fail(EOPNOTSUPP) : kernel_event_read(f, v->iov_base, v->iov_len);
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *v, int n, off_t off, int flags) {
        if (!kernel_is_ours(fd))
                return __real_pwritev64v2(fd, v, n, off, flags);
        return kernel_get(fd) ? kernel_fail(EOPNOTSUPP) : -1;
}

/* io_submit(2) of a request that ends at once and adds 1 to an eventfd (base/peer.c). */
static inline long kernel_io_submit(int fd) {
        struct kernel_file *f = kernel_get(fd);

        if (!f)
                return -1;
        if (f->is_socket)
                return kernel_fail(EINVAL);
        f->counter += f->counter < UINT64_MAX - 1;
        return 1;
}

/* Takes six arguments, however many the caller has. */
__attribute__((no_sanitize("address"))) long __wrap_syscall(long number, ...) {
        long a[6];
        va_list ap;

        va_start(ap, number);
        for (unsigned i = 0; i < 6; i++)
                a[i] = va_arg(ap, long);
        va_end(ap);
        if (number == SYS_io_submit && a[1] == 1) {
                const struct iocb *request = *(struct iocb **)a[2];
                if (kernel_is_ours((int)request->aio_resfd))
                        return kernel_io_submit((int)request->aio_resfd);
        }
        return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---- readiness ---- */

static inline short kernel_ready(const struct kernel_file *f) {
        if (!f->is_socket)
                return (short)((f->counter ? POLLIN : 0) | (f->counter < UINT64_MAX - 1 ? POLLOUT : 0));
        bool is_full = f->peer && (f->peer->n == KERNEL_BYTES || f->peer->n_segments == KERNEL_SEGMENTS);
        return (short)((f->n || f->is_read_shut ? POLLIN : 0) | (is_full ? 0 : POLLOUT) | (f->is_read_shut ? POLLRDHUP : 0) |
                       (f->is_read_shut && f->is_write_shut ? POLLHUP : 0) | (f->is_reset ? POLLERR : 0));
}

/* poll(2) that does not wait. */
static inline int kernel_poll(struct pollfd *p, nfds_t n) {
        struct pollfd real[80];
        nfds_t n_real = 0, k = 0;
        int n_ready = 0;

        for (nfds_t i = 0; i < n; i++) {
                p[i].revents = 0;
                if (!kernel_is_ours(p[i].fd)) {
                        if (p[i].fd >= 0 && n_real < sizeof(real) / sizeof(*real))
                                real[n_real++] = p[i];
                        continue;
                }
                const struct kernel_file *f = kernel_get(p[i].fd);
                if (f)
                        p[i].revents = (short)(kernel_ready(f) & (p[i].events | POLLHUP | POLLERR));
                else
                        p[i].revents = POLLNVAL;
                n_ready += p[i].revents != 0;
        }
        if (!n_real)
                return n_ready;
        if (__real_poll(real, n_real, 0) < 0)
                return -1;
        for (nfds_t i = 0; i < n && k < n_real; i++)
                if (!kernel_is_ours(p[i].fd) && p[i].fd >= 0) {
                        p[i].revents = real[k++].revents;
                        n_ready += p[i].revents != 0;
                }
        return n_ready;
}

#pragma clang attribute pop
