/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Descriptors that a peer can use at the same time as we do, see peer.h. Any thread.
 *
 * Forms of a call that do not wait whatever O_NONBLOCK says, and where they exist:
 *   eventfd  read: preadv2(RWF_NOWAIT), Linux 5.8. write: none; but the kernel itself signals an eventfd without waiting
 *            (a full counter stays full) when an asynchronous request ends that names it:
 *            io_submit(2), IOCB_FLAG_RESFD. The request is a read of 0 bytes from the eventfd,
 *            which fails at once, also in Linux before 5.8 (there io_submit(2) returns -EINVAL). It
 *            costs what a write(2) costs.
 *   pipe     preadv2 and pwritev2(RWF_NOWAIT), Linux 6.5; before: vmsplice(2) to read, and splice(2) from a pipe of our own
 *            to write, with SPLICE_F_NONBLOCK.
 *   socket   MSG_DONTWAIT.
 * Where a form is missing (an old kernel, a filter of system calls), poll(2) comes before the call.
 * That leaves an instant in which a peer can still fill or empty the descriptor and clear its flag.
 *
 * The context of asynchronous requests is the process's, made with the first notification and never
 * destroyed: destroying one takes many milliseconds. A child of fork(2) has none and makes its own.
 */
#include "base/peer.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/fd.h"

#define EVENTS 128              /* ended requests that may wait to be collected */
#define CHUNK 65536u            /* for a pipe of our own */
#define DRAIN_READS 16

int vhk_peer_kind(int fd) {
        char path[32], name[64];
        struct statx sx;

        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &sx) < 0)
                return vhk_errno();
        switch (sx.stx_mode & S_IFMT) {
        case S_IFIFO:
                return VHK_PEER_PIPE;
        case S_IFSOCK:
                return VHK_PEER_SOCKET;
        case S_IFREG:
                return VHK_PEER_FILE;
        case 0:
                snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
                ssize_t n = readlink(path, name, sizeof(name) - 1);
                name[VHK_MAX(n, 0)] = 0;
                return n < 0 || !strcmp(name, "anon_inode:[eventfd]") ? VHK_PEER_EVENTFD : VHK_PEER_OTHER;
        default:
                return VHK_PEER_OTHER;
        }
}

/* ---- files ---- */

int vhk_peer_stat(int fd, struct stat *ret_st) {
        struct statx sx;

        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_MODE | STATX_SIZE, &sx) < 0)
                return vhk_errno();
        *ret_st = (struct stat){ .st_mode = sx.stx_mode, .st_size = (off_t)sx.stx_size };
        return 0;
}

static bool is_local_type(const char *type) {
        static const char *const local[] = {
                "tmpfs", "hugetlbfs", "ramfs", "devtmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs",
        };

        for (size_t i = 0; i < VHK_N(local); i++)
                if (!strcmp(type, local[i]))
                        return true;
        return false;
}

/* "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS"
 * (proc_pid_mountinfo(5)) */
static bool is_line_local(const char *line) {
        const char *rest = strstr(line, " - ");
        char type[32];

        return rest && sscanf(rest, " - %31s", type) == 1 && is_local_type(type);
}

/* A mount of another namespace is not listed: not known. */
static bool is_mount_local(uint64_t id) {
        VHK_AUTOFREE char *line = NULL;
        bool found = false, local = false;
        size_t room = 0;

        FILE *f = fopen("/proc/self/mountinfo", "re");
        if (!f)
                return false;
        while (!found && getline(&line, &room, f) > 0) {
                found = strtoull(line, NULL, 10) == id;
                local = found && is_line_local(line);
        }
        fclose(f);
        return local;
}

bool vhk_peer_file_is_local(int fd) {
        struct statx sx;

        if (fcntl(fd, F_GET_SEALS) >= 0)        /* memfd, tmpfs, hugetlbfs: no other file has seals */
                return true;
        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_MNT_ID, &sx) < 0)
                return false;
        return (sx.stx_mask & STATX_MNT_ID) && is_mount_local(sx.stx_mnt_id);
}

void vhk_peer_close(int *fd) {
        int e = errno;

        if (*fd >= 0 && vhk_peer_kind(*fd) == VHK_PEER_FILE && !vhk_peer_file_is_local(*fd))
                *fd = -1;
        errno = e;
        vhk_close(fd);
}

static bool is_ready(int fd, short events) {
        struct pollfd p = { .fd = fd, .events = events };

        return poll(&p, 1, 0) > 0;
}

/* ---- signalling an eventfd through an asynchronous request ---- */

static pthread_mutex_t aio_lock = PTHREAD_MUTEX_INITIALIZER;    /* the making of a context */
static aio_context_t aio_context;       /* shared (atomic): 0 before the first notification, or there is none to be had */
static pid_t aio_pid;                   /* shared (atomic): whose context that is; a parent's is of no use after fork(2) */

static aio_context_t aio_make(void) {
        aio_context_t new = 0;
        pid_t pid = getpid();

        pthread_mutex_lock(&aio_lock);
        if (vhk_load_relaxed(&aio_pid) != pid) {
                if (syscall(SYS_io_setup, EVENTS, &new) < 0)
                        new = 0;
                vhk_store_relaxed(&aio_context, new);
                vhk_store_release(&aio_pid, pid);       /* pairs with aio_get() */
        }
        new = vhk_load_relaxed(&aio_context);
        pthread_mutex_unlock(&aio_lock);
        return new;
}

static aio_context_t aio_get(void) {
        return vhk_load_acquire(&aio_pid) ? vhk_load_relaxed(&aio_context) : aio_make();
}

static void aio_collect(aio_context_t context) {
        struct io_event events[EVENTS];

        (void)syscall(SYS_io_getevents, context, 0L, (long)EVENTS, events, &(struct timespec){ 0 });
}

/* 0, -EBADF, or -EOPNOTSUPP: no eventfd, or no such request here. */
static int aio_signal(int fd) {
        aio_context_t context = aio_get();
        struct iocb request = {
                .aio_fildes = (uint32_t)fd,
                .aio_lio_opcode = IOCB_CMD_PREAD,
                .aio_flags = IOCB_FLAG_RESFD,
                .aio_resfd = (uint32_t)fd,
        }, *list[1] = { &request };

        for (unsigned i = 0; context && i < 3; i++) {
                if (syscall(SYS_io_submit, context, 1L, list) == 1)
                        return 0;
                if (errno == EAGAIN)
                        aio_collect(context);
                else if (errno == EINVAL && vhk_load_relaxed(&aio_pid) != getpid())
                        context = aio_make();
                else if (errno != EINTR)
                        return errno == EBADF ? -EBADF : -EOPNOTSUPP;
        }
        return -EOPNOTSUPP;
}

int vhk_peer_notify(int fd) {
        const uint64_t one = 1;

        int ret = aio_signal(fd);
        if (ret != -EOPNOTSUPP)
                return ret;
        ssize_t n = vhk_peer_write(fd, &one, sizeof(one));
        return n < 0 && n != -EAGAIN ? (int)n : 0;
}

/* ---- reading ---- */

static ssize_t result_of(ssize_t n) {
        if (n >= 0)
                return n;
        return errno == EINTR ? -EAGAIN : vhk_errno();
}

/* -EOPNOTSUPP: no pipe, or no such call here. Reads from a pipe, in spite of its name. */
static ssize_t read_pipe(int fd, struct iovec *iov) {
        ssize_t n = vmsplice(fd, iov, 1, SPLICE_F_NONBLOCK);

        if (n < 0 && (errno == EBADF || errno == ENOSYS || errno == EPERM))
                return -EOPNOTSUPP;
        return result_of(n);
}

ssize_t vhk_peer_read(int fd, void *buf, size_t n) {
        struct iovec iov = { buf, n };

        ssize_t ret = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
        if (ret >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EPERM))
                return result_of(ret);
        ret = recv(fd, buf, n, MSG_DONTWAIT);
        if (ret >= 0 || errno != ENOTSOCK)
                return result_of(ret);
        ret = read_pipe(fd, &iov);
        if (ret != -EOPNOTSUPP)
                return ret;
        return is_ready(fd, POLLIN) ? result_of(read(fd, buf, n)) : -EAGAIN;
}

int vhk_peer_drain(int fd) {
        uint8_t buf[4096];
        int seen = 0;

        for (unsigned i = 0; i < DRAIN_READS; i++) {
                ssize_t n = vhk_peer_read(fd, buf, sizeof(buf));
                if (n == -EAGAIN)
                        return seen;
                if (n < 0)
                        return (int)n;
                if (n == 0)
                        return seen ? seen : -EPIPE;
                seen = 1;
                if (n < (ssize_t)sizeof(buf))
                        break;
        }
        return seen;
}

/* ---- writing ---- */

/* From a pipe of our own, which takes @n bytes without waiting; what the other has no room for is
 * dropped with it. */
static ssize_t splice_to(int fd, const void *buf, size_t n) {
        int pair[2];

        if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
                return vhk_errno();
        VHK_AUTOCLOSE int from = pair[0], to = pair[1];
        ssize_t k = write(to, buf, VHK_MIN(n, (size_t)CHUNK));
        if (k < 0)
                return vhk_errno();
        return result_of(splice(from, NULL, fd, NULL, (size_t)k, SPLICE_F_NONBLOCK));
}

static ssize_t write_pipe(int fd, const void *buf, size_t n) {
        struct iovec iov = { (void *)(uintptr_t)buf, n };

        ssize_t ret = pwritev2(fd, &iov, 1, -1, RWF_NOWAIT);
        if (ret >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EPERM))
                return result_of(ret);
        return splice_to(fd, buf, n);
}

ssize_t vhk_peer_write(int fd, const void *buf, size_t n) {
        struct vhk_sigpipe guard;

        int kind = vhk_peer_kind(fd);
        if (kind < 0)
                return kind;
        if (kind == VHK_PEER_SOCKET)
                return result_of(send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL));
        if (kind != VHK_PEER_PIPE)
                return is_ready(fd, POLLOUT) ? result_of(write(fd, buf, n)) : -EAGAIN;
        vhk_sigpipe_block(&guard);
        ssize_t ret = write_pipe(fd, buf, n);
        vhk_sigpipe_restore(&guard, ret == -EPIPE);
        return ret;
}
