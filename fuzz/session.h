/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the targets that drive whole sessions share: the input as a script, a clock that stands still until the script
 * moves it, a foreign loop that the target turns itself, and a count of descriptors. So a session runs in one thread, an
 * input does the same thing each time, and nothing ever waits.
 *
 * The linker puts clock_gettime(2), timerfd_create(2) and timerfd_settime(2) aside for those below (fuzz/meson.build).
 */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <vhostkit/worker.h>

#include "base/base.h"
#include "base/fd.h"
#include "wire/wire.h"
#ifdef FZ_REAL_DESCRIPTORS              /* no sockets in the session */
static const unsigned kernel_n_open;
static inline void kernel_collect(void) { }
static inline int kernel_poll(struct pollfd *p, nfds_t n) { return poll(p, n, 0); }
#define FZ_OWN_POLL
#else
#include "fuzz/kernel.h"
#endif

#define MUST(x)                                                                                                         \
        do {                                                                                                            \
                if (!(x)) {                                                                                             \
                        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                         \
                        abort();                                                                                        \
                }                                                                                                       \
        } while (0)

/* Freed memory is kept from use for several inputs, but not for so long that each input touches fresh pages. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
        return "quarantine_size_mb=4:thread_local_quarantine_size_kb=256:malloc_context_size=8";
}

/* ---- the script ---- */

struct script { const uint8_t *p, *end; };

static inline void take(struct script *s, void *to, size_t n) {
        size_t there = VHK_MIN(n, (size_t)(s->end - s->p));

        memset(to, 0, n);
        memcpy(to, s->p, there);
        s->p += there;
}

static inline uint8_t take8(struct script *s) {
        return s->p < s->end ? *s->p++ : 0;
}

static inline uint16_t take16(struct script *s) {
        uint16_t x;
        take(s, &x, sizeof(x));
        return x;
}

/* The clock and the loop are no part of what is tested. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage"))), apply_to = function)

/* ---- the clock ---- */

static uint64_t clock_ns = 1000000000u;
static struct { int fd; uint64_t due; } clock_timers[64];

int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_timerfd_create(int id, int flags);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old);

#ifndef FZ_OWN_POLL
int __wrap_poll(struct pollfd *p, nfds_t n, int ms) {
        return kernel_poll(p, n);
}
#endif

int __wrap_clock_gettime(clockid_t id, struct timespec *t) {
        *t = (struct timespec){ .tv_sec = (time_t)(clock_ns / 1000000000u), .tv_nsec = (long)(clock_ns % 1000000000u) };
        return 0;
}

int __wrap_timerfd_create(int id, int flags) {
        return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old) {
        uint64_t ns = (uint64_t)new->it_value.tv_sec * 1000000000u + (uint64_t)new->it_value.tv_nsec;
        unsigned slot = VHK_N(clock_timers);

        vhk_drain_fd(fd);
        for (unsigned i = 0; i < VHK_N(clock_timers); i++)
                if (clock_timers[i].fd == fd || (slot == VHK_N(clock_timers) && !clock_timers[i].due))
                        slot = i;
        MUST(slot < VHK_N(clock_timers));
        clock_timers[slot].fd = fd;
        clock_timers[slot].due = ns ? clock_ns + ns : 0;
        return 0;
}

/* ---- the loop ---- */

static struct { int fd; uint32_t events; struct vhk_watch *watch; } loop_items[64];
static unsigned loop_n;

static inline int loop_set(void *loop, int fd, uint32_t events, struct vhk_watch *w) {
        unsigned i = 0;

        while (i < loop_n && loop_items[i].watch != w)
                i++;
        if (i == VHK_N(loop_items))
                return -ENOSPC;
        loop_n += i == loop_n;
        loop_items[i].fd = fd;
        loop_items[i].events = events;
        loop_items[i].watch = w;
        return 0;
}

static inline void loop_del(void *loop, int fd, struct vhk_watch *w) {
        for (unsigned i = 0; i < loop_n; i++)
                if (loop_items[i].watch == w)
                        loop_items[i--] = loop_items[--loop_n];
        for (unsigned i = 0; i < VHK_N(clock_timers); i++)
                if (clock_timers[i].fd == fd)
                        clock_timers[i].due = 0;
}

static inline bool loop_has(struct vhk_watch *w) {
        for (unsigned i = 0; i < loop_n; i++)
                if (loop_items[i].watch == w)
                        return true;
        return false;
}

static inline int loop_turn(void) {
        struct pollfd p[VHK_N(loop_items)];
        struct vhk_watch *w[VHK_N(loop_items)];
        unsigned n = 0;
        int fired = 0;

        for (unsigned i = 0; i < VHK_N(clock_timers); i++)
                if (clock_timers[i].due && clock_timers[i].due <= clock_ns) {
                        clock_timers[i].due = 0;
                        vhk_notify_fd(clock_timers[i].fd);
                }
        for (unsigned i = 0; i < loop_n; i++)
                if (loop_items[i].events) {
                        p[n] = (struct pollfd){ .fd = loop_items[i].fd, .events = (short)loop_items[i].events };
                        w[n++] = loop_items[i].watch;
                }
        if (kernel_poll(p, n) < 0) {
                MUST(errno == EINTR);           /* libFuzzer's alarm */
                return 1;
        }
        for (unsigned i = 0; i < n; i++)
                if (p[i].revents && loop_has(w[i])) {
                        vhk_watch_fire(w[i], (uint32_t)p[i].revents);
                        fired++;
                }
        return fired;
}

/* Until nothing is ready. Whoever keeps it turning spins. */
#define LOOP_QUIET 3000
static inline void loop_run(void) {
        int i = 0;

        while (loop_turn() > 0)
                MUST(++i < LOOP_QUIET);
}

#pragma clang attribute pop

static const struct vhk_loop_ops loop_ops = { .size = sizeof(loop_ops), .set = loop_set, .del = loop_del };

/* ---- descriptors ---- */

/* The lowest free number and those open in kernel.h: the same before and after, unless one was left behind. */
struct fd_mark { int lowest; unsigned n_open; };

static inline struct fd_mark fd_mark(void) {
        int fd = fcntl(0, F_DUPFD_CLOEXEC, 0);

        MUST(fd >= 0);
        close(fd);
        kernel_collect();
        return (struct fd_mark){ fd, kernel_n_open };
}

static inline void fd_check(struct fd_mark before) {
        struct fd_mark now = fd_mark();

        MUST(now.lowest == before.lowest && now.n_open == before.n_open);
}

enum { FD_MEMORY, FD_SMALL, FD_EVENT, FD_NULL, FD_SOCKET, FD_PIPE, FD_DIR, FD_LOG, FD_KICK, FD_N_KINDS = FD_KICK + 4 };

#define FZ_MEM 0x10000u
static int fz_memfd = -1, fz_smallfd = -1, fz_logfd = -1, fz_nullfd, fz_dirfd;
static uint8_t *fz_mem;

static inline int fz_make_memfd(size_t n) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC);

        MUST(fd >= 0 && ftruncate(fd, (off_t)n) == 0);
        return fd;
}

static inline void fz_files(void) {
        if (fz_memfd >= 0)
                return;
        fz_memfd = fz_make_memfd(FZ_MEM);
        fz_smallfd = fz_make_memfd(0x2000);
        fz_logfd = fz_make_memfd(0x1000);
        fz_nullfd = open("/dev/null", O_RDWR | O_CLOEXEC);
        fz_dirfd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fz_mem = mmap(NULL, FZ_MEM, PROT_READ | PROT_WRITE, MAP_SHARED, fz_memfd, 0);
        MUST(fz_mem != MAP_FAILED && fz_nullfd >= 0 && fz_dirfd >= 0);
}

/* Bytes with descriptors; what the socket does not take is lost. */
static inline void fz_send(int sock, const void *p, size_t n, const int *fds, unsigned n_fds) {
        union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int) * 16)]; } c;
        struct iovec v = { (void *)p, n };
        struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

        if (n_fds) {
                memset(&c, 0, sizeof(c));
                m.msg_control = &c;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&c.h), fds, sizeof(int) * n_fds);
        }
        (void)!sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}
