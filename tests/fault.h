/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Fault injection: the n-th call of one kind that a chosen end makes fails once, as it would if memory or descriptors ran out.
 *
 * A program that includes this is linked with -Wl,--wrap=NAME for every NAME below (tests/meson.build), so the calls of the library and
 * of the program come here; libc's own do not. A thread says which end it is (fault_end), and only one thread at a time is an end.
 * What is allocated is counted as well: fault_live() is the same before and after, or memory leaks.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum fault_kind { FAULT_MEMORY, FAULT_MAPPING, FAULT_DESCRIPTOR, FAULT_WATCH, FAULT_URING, FAULT_KINDS };
enum fault_end { FAULT_NOBODY, FAULT_FRONT, FAULT_BACK, FAULT_ENDS };

static const char *const fault_kinds[] = { "memory", "mapping", "descriptor", "watch", "io_uring" };
static const char *const fault_ends[] = { "nobody", "front-end", "back-end" };

/* @n and the two in front of it are written while no end runs. */
static struct {
        enum fault_kind kind;
        enum fault_end end;
        unsigned n;                     /* which call fails, from 1; 0: none */
        unsigned seen;                  /* of the end's thread */
        const char *call;               /* the call that failed; atomic, NULL: none yet */
        long live;                      /* allocations; atomic */
} fault;
static _Thread_local enum fault_end fault_end;

static inline void fault_arm(enum fault_end end, enum fault_kind kind, unsigned n) {
        fault.kind = kind;
        fault.end = end;
        fault.n = n;
        fault.seen = 0;
        __atomic_store_n(&fault.call, NULL, __ATOMIC_RELEASE);
}

static inline const char *fault_failed_call(void) {
        return __atomic_load_n(&fault.call, __ATOMIC_ACQUIRE);
}

static inline long fault_live(void) {
        return __atomic_load_n(&fault.live, __ATOMIC_ACQUIRE);
}

/* Called by the program at each injection, on the thread of that end. */
static void fault_on_injection(void);

static bool fault_hits(enum fault_kind kind, int error, const char *call) {
        if (!fault.n || fault_end != fault.end || kind != fault.kind || ++fault.seen != fault.n)
                return false;
        __atomic_store_n(&fault.call, call, __ATOMIC_RELEASE);
        fault_on_injection();
        errno = error;
        return true;
}

static void *fault_count(void *p) {
        __atomic_add_fetch(&fault.live, p != NULL, __ATOMIC_RELAXED);
        return p;
}

/* Declares the original and the one that is called instead of it. */
#define FAULT_WRAP(type, name, parameters)      \
        type __real_##name parameters;          \
        type __wrap_##name parameters;          \
        type __wrap_##name parameters

/* ---- memory ---- */

FAULT_WRAP(void *, malloc, (size_t n)) {
        return fault_hits(FAULT_MEMORY, ENOMEM, "malloc") ? NULL : fault_count(__real_malloc(n));
}

FAULT_WRAP(void *, calloc, (size_t n, size_t size)) {
        return fault_hits(FAULT_MEMORY, ENOMEM, "calloc") ? NULL : fault_count(__real_calloc(n, size));
}

FAULT_WRAP(void *, aligned_alloc, (size_t align, size_t n)) {
        return fault_hits(FAULT_MEMORY, ENOMEM, "aligned_alloc") ? NULL : fault_count(__real_aligned_alloc(align, n));
}

FAULT_WRAP(void *, realloc, (void *p, size_t n)) {
        if (fault_hits(FAULT_MEMORY, ENOMEM, "realloc"))
                return NULL;
        return p ? __real_realloc(p, n) : fault_count(__real_realloc(p, n));
}

FAULT_WRAP(char *, strdup, (const char *s)) {
        return fault_hits(FAULT_MEMORY, ENOMEM, "strdup") ? NULL : fault_count(__real_strdup(s));
}

FAULT_WRAP(ssize_t, getline, (char **line, size_t *n, FILE *f)) {
        const char *before = *line;
        ssize_t ret = __real_getline(line, n, f);

        if (!before)
                fault_count(*line);
        return ret;
}

FAULT_WRAP(void, free, (void *p)) {
        __atomic_sub_fetch(&fault.live, p != NULL, __ATOMIC_RELAXED);
        __real_free(p);
}

/* ---- mappings ---- */

FAULT_WRAP(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t off)) {
        return fault_hits(FAULT_MAPPING, ENOMEM, "mmap") ? MAP_FAILED : __real_mmap(at, n, prot, flags, fd, off);
}

FAULT_WRAP(void *, mmap64, (void *at, size_t n, int prot, int flags, int fd, off64_t off)) {
        return fault_hits(FAULT_MAPPING, ENOMEM, "mmap") ? MAP_FAILED : __real_mmap64(at, n, prot, flags, fd, off);
}

/* ---- descriptors ---- */

#define FAULT_NO_DESCRIPTOR(call, ...) (fault_hits(FAULT_DESCRIPTOR, EMFILE, #call) ? -1 : __real_##call(__VA_ARGS__))

FAULT_WRAP(int, eventfd, (unsigned value, int flags)) { return FAULT_NO_DESCRIPTOR(eventfd, value, flags); }
FAULT_WRAP(int, epoll_create1, (int flags)) { return FAULT_NO_DESCRIPTOR(epoll_create1, flags); }
FAULT_WRAP(int, timerfd_create, (int clock, int flags)) { return FAULT_NO_DESCRIPTOR(timerfd_create, clock, flags); }
FAULT_WRAP(int, dup, (int fd)) { return FAULT_NO_DESCRIPTOR(dup, fd); }
FAULT_WRAP(int, memfd_create, (const char *name, unsigned flags)) { return FAULT_NO_DESCRIPTOR(memfd_create, name, flags); }
FAULT_WRAP(int, socket, (int family, int type, int protocol)) { return FAULT_NO_DESCRIPTOR(socket, family, type, protocol); }
FAULT_WRAP(int, socketpair, (int family, int type, int protocol, int fds[2])) {
        return FAULT_NO_DESCRIPTOR(socketpair, family, type, protocol, fds);
}
FAULT_WRAP(int, pipe2, (int fds[2], int flags)) { return FAULT_NO_DESCRIPTOR(pipe2, fds, flags); }
FAULT_WRAP(int, accept4, (int fd, struct sockaddr *a, socklen_t *n, int flags)) { return FAULT_NO_DESCRIPTOR(accept4, fd, a, n, flags); }

static mode_t fault_mode(int flags, va_list ap) {
        return flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

FAULT_WRAP(int, open, (const char *path, int flags, ...)) {
        va_list ap;

        va_start(ap, flags);
        mode_t mode = fault_mode(flags, ap);
        va_end(ap);
        return FAULT_NO_DESCRIPTOR(open, path, flags, mode);
}

FAULT_WRAP(int, open64, (const char *path, int flags, ...)) {
        va_list ap;

        va_start(ap, flags);
        mode_t mode = fault_mode(flags, ap);
        va_end(ap);
        return FAULT_NO_DESCRIPTOR(open64, path, flags, mode);
}

FAULT_WRAP(FILE *, fopen64, (const char *path, const char *mode)) {
        return fault_hits(FAULT_DESCRIPTOR, EMFILE, "fopen") ? NULL : __real_fopen64(path, mode);
}

static bool fault_duplicates(int command) {
        return command == F_DUPFD || command == F_DUPFD_CLOEXEC;
}

FAULT_WRAP(int, fcntl, (int fd, int command, ...)) {
        va_list ap;

        va_start(ap, command);
        unsigned long arg = va_arg(ap, unsigned long);
        va_end(ap);
        if (fault_duplicates(command) && fault_hits(FAULT_DESCRIPTOR, EMFILE, "fcntl(F_DUPFD)"))
                return -1;
        return __real_fcntl(fd, command, arg);
}

FAULT_WRAP(int, fcntl64, (int fd, int command, ...)) {
        va_list ap;

        va_start(ap, command);
        unsigned long arg = va_arg(ap, unsigned long);
        va_end(ap);
        if (fault_duplicates(command) && fault_hits(FAULT_DESCRIPTOR, EMFILE, "fcntl(F_DUPFD)"))
                return -1;
        return __real_fcntl64(fd, command, arg);
}

/* ---- watches ---- */

FAULT_WRAP(int, epoll_ctl, (int fd, int op, int watched, struct epoll_event *ev)) {
        if (op == EPOLL_CTL_ADD && fault_hits(FAULT_WATCH, ENOSPC, "epoll_ctl(EPOLL_CTL_ADD)"))
                return -1;
        return __real_epoll_ctl(fd, op, watched, ev);
}

/* ---- io_uring: of the library, which sets one up with several system calls ---- */

#if HAVE_LIBURING
#include <liburing.h>

FAULT_WRAP(int, io_uring_queue_init_params, (unsigned n, struct io_uring *u, struct io_uring_params *p)) {
        return fault_hits(FAULT_URING, EMFILE, "io_uring_setup") ? -EMFILE : __real_io_uring_queue_init_params(n, u, p);
}

FAULT_WRAP(struct io_uring_probe *, io_uring_get_probe_ring, (struct io_uring *u)) {
        return fault_hits(FAULT_URING, ENOMEM, "io_uring_get_probe_ring") ? NULL : __real_io_uring_get_probe_ring(u);
}
#endif
