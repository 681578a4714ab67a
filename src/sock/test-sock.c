/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Paths, listeners and connections: every way in which a path can be wrong gives its own sentence. */
#include "base/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "sock/sock.h"

static char dir[64], path[108];
static unsigned n_sleeps;

/* Instead of libc's: how often does the library wait? */
int nanosleep(const struct timespec *t, struct timespec *left) {
        n_sleeps++;
        return clock_nanosleep(CLOCK_MONOTONIC, 0, t, left) ? -1 : 0;
}

static void enter(void) {
        strcpy(dir, "/tmp/vhk-test-sock.XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/s", dir);
}

static void leave(void) {
        unlink(path);
        CHECK_EQ(rmdir(dir), 0);        /* and nothing else was left there */
}

/* A socket file whose process has gone. */
static void make_stale(void) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };

        strcpy(a.sun_path, path);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK_OK(bind(fd, (struct sockaddr *)&a, sizeof(a)));
        CHECK_OK(listen(fd, 1));
        close(fd);
}

static void check_refused(int code, const char *rule, const char *word) {
        struct vhk_listener l = { .fd = -77 };
        struct vhk_error e;

        CHECK_EQ(vhk_listener_open(path, &l, &e), code);
        CHECK_EQ(e.code, code);
        CHECK_STR(e.rule, rule);
        CHECK_MSG(strstr(e.text, word), "\"%s\" does not say \"%s\"", e.text, word);
        CHECK_EQ(l.fd, -77);
}

static void check_no_connection(int code, const char *rule, const char *word) {
        struct vhk_error e;
        int fd = -77;

        CHECK_EQ(vhk_sock_connect(path, 0, &fd, &e), code);
        CHECK_STR(e.rule, rule);
        CHECK_MSG(strstr(e.text, word), "\"%s\" does not say \"%s\"", e.text, word);
        CHECK_EQ(fd, -77);
}

TEST(specs) {
        static const struct { const char *spec; int k; const char *path; } rows[] = {
                { "vhost-user:/run/d.sock", 0, "/run/d.sock" },
                { "vhost-user:d.sock", 0, "d.sock" },
                { "/run/d.sock", 0, "/run/d.sock" },
                { "d.sock", 0, "d.sock" },
                { "./vhost-vdpa:x", 0, "./vhost-vdpa:x" },
                { "vhost-vdpa:/dev/vhost-vdpa-0", -EOPNOTSUPP, NULL },
                { "vhost-user:", -EINVAL, NULL },
                { "", -EINVAL, NULL },
                { NULL, -EINVAL, NULL },
        };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                const char *p = NULL;
                struct vhk_error e = { .code = 1 };
                CHECK_EQ(vhk_sock_parse(rows[i].spec, &p, &e), rows[i].k);
                CHECK_EQ(e.code, rows[i].k ? rows[i].k : 1);
                if (rows[i].k == 0)
                        CHECK_STR(p, rows[i].path);
        }
}

TEST(a_path_fits_or_is_refused) {
        char text[200];
        const char *p;
        struct vhk_error e;

        memset(text, 'x', sizeof(text));
        text[107] = 0;
        CHECK_OK(vhk_sock_parse(text, &p, &e));
        text[107] = 'x';
        text[108] = 0;
        CHECK_EQ(vhk_sock_parse(text, &p, &e), -ENAMETOOLONG);
        CHECK(strstr(e.text, "108 bytes"));
        CHECK_EQ(vhk_sock_connect(text, 0, &(int){ 0 }, &e), -ENAMETOOLONG);
        CHECK_EQ(vhk_listener_open(text, &(struct vhk_listener){ 0 }, &e), -ENAMETOOLONG);
}

TEST(a_listener_is_connected_to) {
        struct vhk_listener l;
        struct stat st;
        int a, b;

        enter();
        CHECK_OK(vhk_listener_open(path, &l, NULL));
        CHECK_EQ(vhk_listener_accept(&l, &b), -EAGAIN);
        CHECK_OK(vhk_sock_connect(path, 0, &a, NULL));
        CHECK_OK(vhk_listener_accept(&l, &b));
        CHECK_EQ(fcntl(a, F_GETFD) & fcntl(b, F_GETFD) & fcntl(l.fd, F_GETFD), FD_CLOEXEC);
        CHECK(fcntl(a, F_GETFL) & fcntl(b, F_GETFL) & O_NONBLOCK);
        CHECK_EQ(vhk_sock_classify(l.fd, NULL), 1);
        CHECK_EQ(vhk_sock_classify(a, NULL), 0);
        CHECK_EQ(vhk_sock_classify(b, NULL), 0);
        close(a);
        close(b);
        vhk_listener_close(&l);
        CHECK_EQ(lstat(path, &st), -1);
        leave();
}

TEST(a_stale_socket_is_replaced) {
        struct vhk_listener l;
        int fd;

        enter();
        make_stale();
        check_no_connection(-ECONNREFUSED, "sock.nobody-listens", "nobody listens");
        CHECK_OK(vhk_listener_open(path, &l, NULL));
        CHECK_OK(vhk_sock_connect(path, 0, &fd, NULL));
        close(fd);
        vhk_listener_close(&l);
        leave();
}

TEST(a_live_socket_is_not_replaced) {
        struct vhk_listener l;

        enter();
        CHECK_OK(vhk_listener_open(path, &l, NULL));
        check_refused(-EADDRINUSE, "sock.in-use", "another process listens");
        vhk_listener_close(&l);
        leave();
}

TEST(a_live_socket_with_a_full_backlog_is_not_replaced) {
        struct vhk_listener l;
        int fds[64], n = 0;

        enter();
        CHECK_OK(vhk_listener_open(path, &l, NULL));
        while (n < 64 && vhk_sock_connect(path, 0, &fds[n], NULL) == 0)
                n++;
        CHECK(n > 0 && n < 64);
        check_no_connection(-EAGAIN, "sock.backlog", "busy");
        check_refused(-EADDRINUSE, "sock.in-use", "another process listens");
        while (n > 0)
                close(fds[--n]);
        vhk_listener_close(&l);
        leave();
}

TEST(a_datagram_socket_is_not_replaced) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };

        enter();
        strcpy(a.sun_path, path);
        int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
        CHECK_OK(bind(fd, (struct sockaddr *)&a, sizeof(a)));
        check_refused(-EADDRINUSE, "sock.in-use", "another process");
        check_no_connection(-EPROTOTYPE, "sock.type", "not a stream socket");
        close(fd);
        leave();
}

TEST(a_file_a_directory_a_link_are_not_replaced) {
        struct stat st;

        enter();
        close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        check_refused(-EADDRINUSE, "sock.not-a-socket", "a regular file");
        check_no_connection(-ENOTSOCK, "sock.not-a-socket", "a regular file, not a socket");
        unlink(path);
        CHECK_OK(mkdir(path, 0700));
        check_refused(-EADDRINUSE, "sock.not-a-socket", "a directory");
        check_no_connection(-ENOTSOCK, "sock.not-a-socket", "a directory, not a socket");
        CHECK_OK(rmdir(path));
        CHECK_OK(symlink("nowhere", path));
        check_refused(-EADDRINUSE, "sock.not-a-socket", "a symbolic link");
        CHECK_EQ(lstat(path, &st), 0);
        CHECK(S_ISLNK(st.st_mode));
        leave();
}

TEST(a_missing_directory_is_named) {
        enter();
        strcat(path, "/deeper/s");
        check_refused(-ENOENT, "sock.no-directory", "does not exist");
        check_no_connection(-ENOENT, "sock.no-directory", "does not exist");
        snprintf(path, sizeof(path), "%s/s", dir);
        check_no_connection(-ENOENT, "sock.no-socket", "is the back-end running?");
        leave();
}

TEST(no_permission_is_said) {
        struct vhk_listener l;

        enter();
        CHECK_OK(vhk_listener_open(path, &l, NULL));
        CHECK_OK(chmod(path, 0));
        CHECK_OK(chmod(dir, 0555));
        int root = geteuid() == 0;
        if (root)
                CHECK_OK(seteuid(65534));
        check_no_connection(-EACCES, "sock.permission", "no permission to connect");
        check_refused(-EACCES, "sock.permission", "we may not connect");
        strcat(path, "2");
        check_refused(-EACCES, "sock.permission", "no permission to make a socket");
        if (root)
                CHECK_OK(seteuid(0));
        CHECK_OK(chmod(dir, 0700));
        vhk_listener_close(&l);
        snprintf(path, sizeof(path), "%s/s", dir);
        leave();
}

TEST(only_our_own_file_is_unlinked) {
        struct vhk_listener l, other;
        struct stat st;

        enter();
        CHECK_OK(vhk_listener_open(path, &l, NULL));
        unlink(path);
        CHECK_OK(vhk_listener_open(path, &other, NULL));
        vhk_listener_close(&l);
        CHECK_EQ(lstat(path, &st), 0);
        vhk_listener_close(&other);
        CHECK_EQ(lstat(path, &st), -1);
        leave();
}

#define N_RACERS 8
static struct vhk_listener racers[N_RACERS];
static int results[N_RACERS];

static void *race(void *arg) {
        size_t i = (size_t)arg;

        results[i] = vhk_listener_open(path, &racers[i], NULL);
        return NULL;
}

TEST(of_several_that_replace_a_stale_socket_one_wins) {
        pthread_t t[N_RACERS];
        int won = 0, fd;

        enter();
        make_stale();
        for (size_t i = 0; i < N_RACERS; i++)
                CHECK_EQ(pthread_create(&t[i], NULL, race, (void *)i), 0);
        for (size_t i = 0; i < N_RACERS; i++)
                CHECK_EQ(pthread_join(t[i], NULL), 0);
        CHECK_OK(vhk_sock_connect(path, 0, &fd, NULL));
        close(fd);
        for (size_t i = 0; i < N_RACERS; i++) {
                won += results[i] == 0;
                CHECK(results[i] == 0 || results[i] == -EADDRINUSE);
                if (results[i] == 0)
                        vhk_listener_close(&racers[i]);
        }
        CHECK_EQ(won, 1);
        leave();
}

static void *listen_later(void *arg) {
        usleep(20000);
        results[0] = vhk_listener_open(path, &racers[0], NULL);
        return NULL;
}

TEST(connecting_waits_for_a_late_listener) {
        pthread_t t;
        int fd;

        enter();
        CHECK_EQ(pthread_create(&t, NULL, listen_later, NULL), 0);
        int k = vhk_sock_connect(path, 10000000000ull, &fd, NULL);
        CHECK_EQ(pthread_join(t, NULL), 0);
        CHECK_OK(results[0]);
        CHECK_OK(k);
        close(fd);
        vhk_listener_close(&racers[0]);
        leave();
}

TEST(inherited_descriptors_are_told_apart) {
        struct vhk_error e;
        int p[2], s[2];

        CHECK_OK(pipe2(p, O_CLOEXEC));
        CHECK_EQ(vhk_sock_classify(p[0], &e), -ENOTSOCK);
        CHECK(strstr(e.text, "not a socket"));
        close(p[0]);
        close(p[1]);
        CHECK_EQ(vhk_sock_classify(p[0], &e), -EBADF);
        CHECK(strstr(e.text, "not open"));
        CHECK_OK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, s));
        CHECK_EQ(vhk_sock_classify(s[0], &e), -EPROTOTYPE);
        close(s[0]);
        close(s[1]);
        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        CHECK_EQ(vhk_sock_classify(s[0], &e), 0);
        close(s[0]);
        close(s[1]);
        s[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(vhk_sock_classify(s[0], &e), -ENOTCONN);
        CHECK(strstr(e.text, "neither"));
        close(s[0]);
}

/* Any user who can open the folder can lock it, and any lock on a file of somebody else's is
 * ignored. */
TEST(a_lock_of_another_process_on_the_folder_delays_nothing) {
        struct vhk_listener l = { .fd = -1 };
        struct vhk_error e;

        enter();
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK_OK(flock(fd, LOCK_EX));
        n_sleeps = 0;
        CHECK_OK(vhk_listener_open(path, &l, &e));
        vhk_listener_close(&l);
        CHECK_EQ(n_sleeps, 0);
        close(fd);
        leave();
}

TEST(a_lock_file_that_others_can_open_is_ignored) {
        struct vhk_listener l = { .fd = -1 };
        struct vhk_error e;
        char name[128];

        enter();
        snprintf(name, sizeof(name), "%s.lock", path);
        int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        CHECK_OK(fchmod(fd, 0644));
        CHECK_OK(flock(fd, LOCK_EX));
        n_sleeps = 0;
        CHECK_OK(vhk_listener_open(path, &l, &e));
        vhk_listener_close(&l);
        CHECK_EQ(n_sleeps, 0);
        close(fd);
        unlink(name);
        leave();
}
