/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Whatever state a peer brings a shared descriptor into, no call of peer.h waits. A call that does
 * is ended by alarm(2). */
#include "base/test.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "base/base.h"
#include "base/fd.h"
#include "base/test-silent-file.h"

#define LIMIT_S 20

static int new_full_eventfd(void) {
        int fd = eventfd(0, EFD_CLOEXEC);

        CHECK_EQ(write(fd, &(uint64_t){ UINT64_MAX - 1 }, 8), 8);
        return fd;
}

/* Until it takes no more; O_NONBLOCK is off afterwards. */
static void fill(int fd) {
        static const char zeroes[4096];

        CHECK_OK(vhk_fd_set_nonblock(fd, true));
        while (write(fd, zeroes, sizeof(zeroes)) > 0)
                ;
        while (write(fd, zeroes, 1) > 0)
                ;
        CHECK_OK(vhk_fd_set_nonblock(fd, false));
}

static void check_eventfd(void) {
        uint64_t count = 0;
        int fd = new_full_eventfd();

        CHECK_EQ(vhk_peer_notify(fd), 0);
        CHECK_EQ(vhk_peer_drain(fd), 1);
        CHECK_EQ(vhk_peer_drain(fd), 0);
        CHECK_EQ(vhk_peer_read(fd, &count, 8), -EAGAIN);
        for (int i = 0; i < 300; i++)
                CHECK_EQ(vhk_peer_notify(fd), 0);
        CHECK_EQ(vhk_peer_read(fd, &count, 8), 8);
        CHECK_EQ(count, 300);
        close(fd);
}

static void check_stream(int from, int to) {
        char text[8] = "";

        CHECK_EQ(vhk_peer_read(from, text, 8), -EAGAIN);
        CHECK_EQ(vhk_peer_drain(from), 0);
        CHECK_EQ(vhk_peer_write(to, "abc", 3), 3);
        CHECK_EQ(vhk_peer_read(from, text, 8), 3);
        CHECK_STR(text, "abc");
        CHECK_EQ(vhk_peer_notify(to), 0);
        CHECK_EQ(vhk_peer_drain(from), 1);
        fill(to);
        CHECK_EQ(vhk_peer_write(to, "abc", 3), -EAGAIN);
        CHECK_EQ(vhk_peer_notify(to), 0);
        CHECK_EQ(vhk_peer_drain(from), 1);
        close(from);
        CHECK_EQ(vhk_peer_write(to, "abc", 3), -EPIPE);
        CHECK_EQ(vhk_peer_notify(to), -EPIPE);
        close(to);
}

static void check_pipe(void) {
        int p[2];

        CHECK_OK(pipe2(p, O_CLOEXEC));
        check_stream(p[0], p[1]);
}

static void check_socket(void) {
        int p[2];

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p));
        check_stream(p[0], p[1]);
}

TEST(no_call_waits_for_a_blocking_eventfd) {
        alarm(LIMIT_S);
        check_eventfd();
        alarm(0);
}

TEST(no_call_waits_for_a_blocking_pipe) {
        alarm(LIMIT_S);
        check_pipe();
        alarm(0);
}

TEST(no_call_waits_for_a_blocking_socket) {
        alarm(LIMIT_S);
        check_socket();
        alarm(0);
}

/* ---- an older kernel: the newer calls fail as they do there ---- */

#define CALL(nr, error)                                                         \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1),                        \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))

static int run_in_child(void (*fn)(void), struct sock_fprog *filter) {
        fflush(stdout);
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                alarm(LIMIT_S);
                if (filter && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter) < 0))
                        _exit(77);
                if (setjmp(vhk_test_out_) == 0)
                        fn();
                fflush(stdout);
                _exit(vhk_test_failed_);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_MSG(WIFEXITED(status), "the child ended with signal %d", WTERMSIG(status));
        return WEXITSTATUS(status);
}

static void check_all(void) {
        check_eventfd();
        check_pipe();
        check_socket();
}

TEST(no_call_waits_in_older_kernels_either) {
        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind takes what vmsplice(2) writes for what it reads");
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                CALL(SYS_preadv2, EOPNOTSUPP),
                CALL(SYS_pwritev2, EOPNOTSUPP),
                CALL(SYS_io_setup, ENOSYS),
                CALL(SYS_io_submit, ENOSYS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        int status = run_in_child(check_all, &(struct sock_fprog){ VHK_N(code), code });

        if (status == 77)
                SKIP("cannot: no filter of system calls here");
        CHECK_EQ(status, 0);
}

TEST(a_child_of_fork_notifies_too) {
        check_eventfd();
        CHECK_EQ(run_in_child(check_eventfd, NULL), 0);
}

/* ---- a peer that changes the descriptor between our look and our call ---- */

static void *toggle(void *arg) {
        int *fds = arg;         /* eventfd, and what ends the thread */
        uint64_t count;

        while (vhk_load_relaxed(&fds[1]) == 0) {
                vhk_fd_set_nonblock(fds[0], true);
                (void)!read(fds[0], &count, 8);
                vhk_fd_set_nonblock(fds[0], false);
                (void)!vhk_fd_set_nonblock(fds[0], true);
                (void)!write(fds[0], &(uint64_t){ UINT64_MAX - 1 }, 8);
                vhk_fd_set_nonblock(fds[0], false);
        }
        return NULL;
}

TEST(a_peer_that_wins_the_race_cannot_block_a_notification) {
        int fds[2] = { eventfd(0, EFD_CLOEXEC), 0 };
        pthread_t thread;

        alarm(LIMIT_S);
        CHECK_EQ(pthread_create(&thread, NULL, toggle, fds), 0);
        for (int i = 0; i < 20000; i++) {
                CHECK_EQ(vhk_peer_notify(fds[0]), 0);
                CHECK_OK(vhk_peer_drain(fds[0]));
        }
        vhk_store_relaxed(&fds[1], 1);
        pthread_join(thread, NULL);
        alarm(0);
        close(fds[0]);
}

TEST(draining_a_full_pipe_reads_a_bounded_part) {
        int p[2], left = 0;

        alarm(LIMIT_S);
        CHECK_OK(pipe2(p, O_CLOEXEC));
        if (fcntl(p[1], F_SETPIPE_SZ, 1 << 20) < 0)
                SKIP("cannot: no pipe of 1 MiB here");
        fill(p[1]);
        CHECK_EQ(vhk_peer_drain(p[0]), 1);
        CHECK_OK(ioctl(p[0], FIONREAD, &left));
        CHECK(left >= 1 << 19);
        alarm(0);
        close(p[0]);
        close(p[1]);
}

TEST(kinds_of_descriptors) {
        int event = eventfd(0, EFD_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), mem = memfd_create("x", MFD_CLOEXEC);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC), p[2], s[2];
        struct vhk_fdref *r;

        CHECK_OK(pipe2(p, O_CLOEXEC));
        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        CHECK_EQ(vhk_peer_kind(event), VHK_PEER_EVENTFD);
        CHECK_EQ(vhk_peer_kind(p[0]), VHK_PEER_PIPE);
        CHECK_EQ(vhk_peer_kind(s[0]), VHK_PEER_SOCKET);
        CHECK_EQ(vhk_peer_kind(mem), VHK_PEER_FILE);
        CHECK_EQ(vhk_peer_kind(null), VHK_PEER_OTHER);
        CHECK_EQ(vhk_peer_kind(-1), -EBADF);
        CHECK_EQ(vhk_peer_notify(-1), -EBADF);
        if (access("/proc/self/fd", F_OK) == 0)
                CHECK_EQ(vhk_peer_kind(timer), VHK_PEER_OTHER);
        CHECK_EQ(vhk_fdref_new(null, &r), -EINVAL);     /* and closes it */
        CHECK_EQ(vhk_fdref_new(mem, &r), -EINVAL);
        close(event);
        close(timer);
        for (int i = 0; i < 2; i++) {
                close(p[i]);
                close(s[i]);
        }
}

TEST(a_file_whose_server_does_not_answer_is_examined_and_left_without_asking) {
        struct silent_file silent;
        struct stat st;

        const char *why = silent_file_open(&silent);
        if (why)
                SKIP(why);
        alarm(LIMIT_S);
        int copy = fcntl(silent.fd, F_DUPFD_CLOEXEC, 0);
        CHECK_EQ(vhk_peer_kind(silent.fd), VHK_PEER_FILE);
        CHECK(!vhk_peer_file_is_local(silent.fd));
        CHECK_OK(vhk_peer_stat(silent.fd, &st));
        CHECK_EQ(st.st_size, SILENT_FILE_BYTES);
        vhk_peer_close(&copy);
        CHECK_EQ(copy, -1);
        silent_file_close(&silent);
        alarm(0);
}

TEST(files_in_memory_are_local) {
        int fd = memfd_create("x", MFD_CLOEXEC), copy = fcntl(fd, F_DUPFD_CLOEXEC, 0), number = copy;

        CHECK(vhk_peer_file_is_local(fd));
        vhk_peer_close(&copy);
        CHECK_EQ(fcntl(number, F_GETFD), -1);
        close(fd);
}
