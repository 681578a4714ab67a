/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Where the sockets come from: paths, listeners, connections, inherited descriptors. Control's thread.
 *
 * A socket file outlives its process, so a listener replaces one that nobody listens on, and nothing else. Asking
 * ("does connect(2) get through?"), unlinking and binding are three steps; between processes of
 * this library and this user they are made one by flock(2) on a file PATH.lock, which only its
 * owner can open, and which is removed before it is unlocked. Under that lock a socket is also
 * never seen bound and not yet listening. A program that does not take the lock can still lose to
 * us in the instant between the last look at the file and its unlink(2), as with every such scheme;
 * what is unlinked must be the very file that was asked. Closing is the same: the file goes, under
 * the lock and while the inode cannot be reused, if it is still ours.
 */
#include "sock/sock.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#define BACKLOG 16
#define RETRY_FIRST_NS 1000000ull
#define RETRY_MOST_NS 50000000ull
#define LOCK_TRIES 100

static const struct {
        const char *prefix;
        bool ours;
} carriers[] = {
        { "vhost-user:", true },
        { "vhost-vdpa:", false }, { "vhost-net:", false }, { "vhost-vsock:", false }, { "vhost-scsi:", false },
        { "vduse:", false },
};

static int check_path(const char *path, struct vhk_error *ret_e) {
        const size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

        if (!*path)
                return vhk_error_set(ret_e, -EINVAL, "sock.spec", "the socket path is empty");
        if (strlen(path) > most)
                return vhk_error_set(ret_e, -ENAMETOOLONG, "sock.path-length",
                                     "the socket path has %zu bytes, a unix socket takes at most %zu: %.100s...", strlen(path), most, path);
        return 0;
}

int vhk_sock_parse(const char *spec, const char **ret_path, struct vhk_error *ret_e) {
        const char *path = spec;

        if (!spec)
                return vhk_error_set(ret_e, -EINVAL, "sock.spec", "no endpoint given; expected a socket path");
        for (size_t i = 0; i < VHK_N(carriers); i++) {
                size_t n = strlen(carriers[i].prefix);
                if (strncmp(spec, carriers[i].prefix, n))
                        continue;
                if (!carriers[i].ours)
                        return vhk_error_set(ret_e, -EOPNOTSUPP, "sock.carrier", "%s: this version speaks vhost-user:PATH only", spec);
                path = spec + n;
                break;
        }
        int k = check_path(path, ret_e);
        if (k == 0)
                *ret_path = path;
        return k;
}

static struct sockaddr_un address_of(const char *path) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };

        memcpy(a.sun_path, path, strlen(path));         /* check_path() checked the length */
        return a;
}

static void directory_of(const char *path, char dir[static 108]) {
        const char *slash = strrchr(path, '/');
        size_t n = slash ? (size_t)(slash - path) : 0;

        memcpy(dir, slash ? path : ".", slash ? n : 1);
        dir[slash ? n : 1] = 0;
        if (slash == path)
                strcpy(dir, "/");
}

static void sleep_ns(uint64_t ns) {
        struct timespec t = { .tv_sec = ns / 1000000000u, .tv_nsec = ns % 1000000000u };

        nanosleep(&t, NULL);
}

/* ---- the lock of a path ---- */

struct path_lock {
        char name[120];                 /* of the lock file */
        int fd;                         /* -1: not locked */
};

/* A descriptor; -EAGAIN: another process of this user has it, or has just removed it; another
 * error: there is none to be had. */
static int lock_once(const char *name) {
        struct stat st, named;

        VHK_AUTOCLOSE int fd = open(name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
        if (fd < 0 || fstat(fd, &st) < 0)
                return vhk_errno();
        if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
                return -EPERM;          /* others could open it, and keep it locked */
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK || errno == EINTR ? -EAGAIN : vhk_errno();
        if (lstat(name, &named) < 0 || named.st_dev != st.st_dev || named.st_ino != st.st_ino)
                return -EAGAIN;
        return VHK_STEAL_FD(fd);
}

/* Without the lock after a second, or where no file can be made: then we go on without. */
static struct path_lock lock_path(const char *path) {
        struct path_lock lock = { .fd = -1 };

        snprintf(lock.name, sizeof(lock.name), "%s.lock", path);
        for (int i = 0; i < LOCK_TRIES; i++) {
                lock.fd = lock_once(lock.name);
                if (lock.fd != -EAGAIN)
                        break;
                sleep_ns(10000000);
        }
        return lock;
}

static void unlock_path(struct path_lock *lock) {
        if (lock->fd >= 0)
                unlink(lock->name);     /* while it is locked: it is the one that we made or found */
        vhk_close(&lock->fd);
}

static int connect_once(const char *path) {
        struct sockaddr_un a = address_of(path);

        VHK_AUTOCLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return vhk_errno();
        while (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
                if (errno != EINTR)
                        return vhk_errno();
        return VHK_STEAL_FD(fd);
}

static const char *kind_of(mode_t mode) {
        return S_ISREG(mode) ? "a regular file" : S_ISDIR(mode) ? "a directory" : S_ISLNK(mode) ? "a symbolic link" :
               S_ISFIFO(mode) ? "a pipe" : S_ISCHR(mode) || S_ISBLK(mode) ? "a device file" : "not a socket";
}

/* ---- listening ---- */

/* Makes way for a socket at @path: 0 there is nothing (any more). */
static int make_way(const char *path, struct vhk_error *ret_e) {
        struct stat st, again;

        if (lstat(path, &st) < 0)
                return 0;               /* bind() will tell what else is wrong */
        if (!S_ISSOCK(st.st_mode))
                return vhk_error_set(ret_e, -EADDRINUSE, "sock.not-a-socket", "%s exists and is %s; it is not replaced", path, kind_of(st.st_mode));
        int fd = connect_once(path);
        if (fd >= 0)
                close(fd);
        if (fd == -EACCES || fd == -EPERM)
                return vhk_error_set(ret_e, -EACCES, "sock.permission", "%s exists, and we may not connect to see if it is in use", path);
        if (fd != -ECONNREFUSED && fd != -ENOENT)
                return vhk_error_set(ret_e, -EADDRINUSE, "sock.in-use", "another process listens on %s", path);
        if (lstat(path, &again) < 0)
                return 0;
        if (again.st_dev != st.st_dev || again.st_ino != st.st_ino)
                return vhk_error_set(ret_e, -EADDRINUSE, "sock.in-use", "another process has just taken %s", path);
        if (unlink(path) < 0 && errno != ENOENT)
                return vhk_error_set(ret_e, vhk_errno(), "sock.stale", "the stale socket %s cannot be removed: %s", path, strerror(errno));
        return 0;
}

static int bind_error(const char *path, struct vhk_error *ret_e) {
        char dir[108];
        int k = vhk_errno();

        directory_of(path, dir);
        switch (k) {
        case -ENOENT:
                return vhk_error_set(ret_e, k, "sock.no-directory", "the directory %s does not exist, so no socket can be made there", dir);
        case -ENOTDIR:
                return vhk_error_set(ret_e, k, "sock.no-directory", "%s is not a directory, so no socket can be made there", dir);
        case -EACCES:
        case -EPERM:
                return vhk_error_set(ret_e, k, "sock.permission", "no permission to make a socket in %s", dir);
        case -EROFS:
                return vhk_error_set(ret_e, k, "sock.permission", "%s is on a read-only file system", dir);
        case -EADDRINUSE:
                return vhk_error_set(ret_e, k, "sock.in-use", "another process has just taken %s", path);
        default:
                return vhk_error_set(ret_e, k, "sock.bind", "cannot make the socket %s: %s", path, strerror(-k));
        }
}

int vhk_listener_open(const char *path, struct vhk_listener *ret_l, struct vhk_error *ret_e) {
        struct vhk_listener l = { .fd = -1 };
        struct stat st;

        int k = check_path(path, ret_e);
        if (k < 0)
                return k;
        struct sockaddr_un a = address_of(path);
        VHK_CLEANUP(unlock_path) VHK_UNUSED struct path_lock lock = lock_path(path);
        k = make_way(path, ret_e);
        if (k < 0)
                return k;
        VHK_AUTOCLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return vhk_error_set(ret_e, vhk_errno(), "sock.socket", "cannot make a socket: %s", strerror(errno));
        if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
                return bind_error(path, ret_e);
        memcpy(l.path, path, strlen(path));
        if (listen(fd, BACKLOG) < 0 || lstat(l.path, &st) < 0) {
                k = vhk_error_set(ret_e, vhk_errno(), "sock.listen", "cannot listen on %s: %s", l.path, strerror(errno));
                unlink(l.path);
                return k;
        }
        l.dev = st.st_dev;
        l.ino = st.st_ino;
        l.fd = VHK_STEAL_FD(fd);
        *ret_l = l;
        return 0;
}

void vhk_listener_close(struct vhk_listener *l) {
        struct stat st;

        if (l->path[0] && l->fd >= 0) {
                VHK_CLEANUP(unlock_path) VHK_UNUSED struct path_lock lock = lock_path(l->path);
                if (lstat(l->path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_dev == l->dev && st.st_ino == l->ino)
                        unlink(l->path);
        }
        vhk_close(&l->fd);
        l->path[0] = 0;
}

int vhk_listener_accept(struct vhk_listener *l, int *ret_fd) {
        for (;;) {
                int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (fd >= 0) {
                        *ret_fd = fd;
                        return 0;
                }
                if (errno != EINTR && errno != ECONNABORTED)
                        return errno == EWOULDBLOCK ? -EAGAIN : vhk_errno();
        }
}

/* ---- inherited ---- */

static int socket_option(int fd, int name, int *ret) {
        socklen_t n = sizeof(*ret);

        return getsockopt(fd, SOL_SOCKET, name, ret, &n) < 0 ? vhk_errno() : 0;
}

int vhk_sock_classify(int fd, struct vhk_error *ret_e) {
        struct sockaddr_storage peer;
        socklen_t n = sizeof(peer);
        int domain, type, listening;

        int k = socket_option(fd, SO_DOMAIN, &domain);
        if (k < 0)
                return vhk_error_set(ret_e, k, "sock.fd", "descriptor %d is %s", fd, k == -EBADF ? "not open" : "not a socket");
        k = socket_option(fd, SO_TYPE, &type);
        if (k == 0)
                k = socket_option(fd, SO_ACCEPTCONN, &listening);
        if (k < 0)
                return vhk_error_set(ret_e, k, "sock.fd", "descriptor %d cannot be asked what it is: %s", fd, strerror(-k));
        if (domain != AF_UNIX || type != SOCK_STREAM)
                return vhk_error_set(ret_e, -EPROTOTYPE, "sock.fd", "descriptor %d is a socket, but not a unix stream socket", fd);
        if (listening)
                return 1;
        if (getpeername(fd, (struct sockaddr *)&peer, &n) < 0)
                return vhk_error_set(ret_e, vhk_errno(), "sock.fd", "the socket in descriptor %d is neither listening nor connected", fd);
        return 0;
}

/* ---- connecting ---- */

static int connect_error(const char *path, int k, struct vhk_error *ret_e) {
        char dir[108];
        struct stat st;

        directory_of(path, dir);
        switch (k) {
        case -ENOENT:
                if (stat(dir, &st) < 0)
                        return vhk_error_set(ret_e, k, "sock.no-directory", "%s: the directory %s does not exist", path, dir);
                return vhk_error_set(ret_e, k, "sock.no-socket", "there is no socket %s: is the back-end running?", path);
        case -ENOTSOCK:
                return vhk_error_set(ret_e, k, "sock.not-a-socket", "%s is %s, not a socket", path,
                                     stat(path, &st) == 0 ? kind_of(st.st_mode) : "a file");
        case -ECONNREFUSED:
                return vhk_error_set(ret_e, k, "sock.nobody-listens", "nobody listens on %s: its back-end has gone and left the file behind", path);
        case -EAGAIN:
                return vhk_error_set(ret_e, k, "sock.backlog", "the back-end on %s is busy: its queue of waiting connections is full", path);
        case -EACCES:
        case -EPERM:
                return vhk_error_set(ret_e, k, "sock.permission", "no permission to connect to %s", path);
        case -EPROTOTYPE:
                return vhk_error_set(ret_e, k, "sock.type", "%s is a socket, but not a stream socket", path);
        default:
                return vhk_error_set(ret_e, k, "sock.connect", "cannot connect to %s: %s", path, strerror(-k));
        }
}

int vhk_sock_connect(const char *path, uint64_t limit_ns, int *ret_fd, struct vhk_error *ret_e) {
        uint64_t start = vhk_now_ns(), pause = RETRY_FIRST_NS;
        struct stat st;

        int k = check_path(path, ret_e);
        if (k < 0)
                return k;
        for (;;) {
                k = connect_once(path);
                if (k >= 0) {
                        *ret_fd = k;
                        return 0;
                }
                if (k == -ECONNREFUSED && stat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
                        k = -ENOTSOCK;
                uint64_t spent = vhk_now_ns() - start;
                if ((k != -ENOENT && k != -ECONNREFUSED && k != -EAGAIN) || spent >= limit_ns)
                        return connect_error(path, k, ret_e);
                sleep_ns(VHK_MIN(pause, limit_ns - spent));
                pause = VHK_MIN(2 * pause, RETRY_MOST_NS);
        }
}
