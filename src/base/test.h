/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The test harness: one process per file, TEST(name) functions run in order, each must leave as many descriptors
 * and threads as it found. Prints "ok NAME" or "FAIL NAME: where: what"; ends with "N passed, N failed, N skipped".
 * A test is skipped with SKIP("why") (a failure where CI=true, unless the reason begins with "cannot:").
 */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct vhk_test {
        const char *name;
        void (*fn)(void);
        struct vhk_test *next;
};

static __attribute__((unused)) struct vhk_test *vhk_tests_, **vhk_tests_tail_ = &vhk_tests_;
static jmp_buf vhk_test_out_;
static int vhk_test_failed_, vhk_test_skipped_;

#define TEST(n)                                                                         \
        static void test_##n(void);                                                     \
        __attribute__((constructor)) static void reg_##n(void) {                        \
                static struct vhk_test t = { #n, test_##n, NULL };                      \
                *vhk_tests_tail_ = &t;                                                  \
                vhk_tests_tail_ = &t.next;                                              \
        }                                                                               \
        static void test_##n(void)

#define CHECK_AT_(file, line, cond, ...)                                                \
        do {                                                                            \
                if (!(cond)) {                                                          \
                        fprintf(stdout, "  %s:%d: ", file, line);                       \
                        fprintf(stdout, __VA_ARGS__);                                   \
                        fputc('\n', stdout);                                            \
                        vhk_test_failed_ = 1;                                           \
                        longjmp(vhk_test_out_, 1);                                      \
                }                                                                       \
        } while (0)

#define CHECK(cond) CHECK_AT_(__FILE__, __LINE__, (cond), "%s", #cond)
#define CHECK_MSG(cond, ...) CHECK_AT_(__FILE__, __LINE__, (cond), __VA_ARGS__)
#define CHECK_EQ(a, b)                                                                  \
        do {                                                                            \
                long long a_ = (long long)(a), b_ = (long long)(b);                     \
                CHECK_AT_(__FILE__, __LINE__, a_ == b_, "%s is %lld (0x%llx), expected %lld (0x%llx)", #a, a_, a_, b_, b_); \
        } while (0)
#define CHECK_STR(a, b)                                                                 \
        do {                                                                            \
                const char *a_ = (a), *b_ = (b);                                        \
                CHECK_AT_(__FILE__, __LINE__, a_ && b_ && !strcmp(a_, b_), "%s is \"%s\", expected \"%s\"", #a, a_ ? a_ : "(null)", b_ ? b_ : "(null)"); \
        } while (0)
#define CHECK_OK(call)                                                                  \
        do {                                                                            \
                int k_ = (call);                                                        \
                CHECK_AT_(__FILE__, __LINE__, k_ >= 0, "%s gave %d (%s)", #call, k_, strerror(-k_)); \
        } while (0)
#define SKIP(why)                                                                       \
        do {                                                                            \
                const char *w_ = (why), *ci_ = getenv("CI");                            \
                int must_ = ci_ && !strcmp(ci_, "true") && strncmp(w_, "cannot:", 7);   \
                fprintf(stdout, "  %s:%d: skip: %s\n", __FILE__, __LINE__, w_);         \
                *(must_ ? &vhk_test_failed_ : &vhk_test_skipped_) = 1;                  \
                longjmp(vhk_test_out_, 1);                                              \
        } while (0)

/* valgrind lets one thread run at a time: one that waits for a page would keep out the one that has it. */
#define NEEDS_THREADS_AT_ONCE()                                                         \
        do {                                                                            \
                if (getenv("VHK_TEST_ONE_THREAD"))                                      \
                        SKIP("cannot: one thread runs at a time here");                 \
        } while (0)

static inline int vhk_test_count_(const char *dir) {
        DIR *d = opendir(dir);
        int n = 0;

        if (!d)
                return -1;
        for (struct dirent *e; (e = readdir(d));)
                n += e->d_name[0] != '.';
        closedir(d);
        return n;
}

static __attribute__((noinline, unused)) void vhk_test_run_(const struct vhk_test *t) {
        if (!setjmp(vhk_test_out_))
                t->fn();
}

/* ThreadSanitizer adds a thread of its own beside the first one that a test makes. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VHK_TEST_TSAN_ 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define VHK_TEST_TSAN_ 1
#endif
#ifndef VHK_TEST_TSAN_
#define VHK_TEST_TSAN_ 0
#endif

/* valgrind reads the requests that io_getevents(2) names, on stacks of threads that have ended: there is no io_setup(2) under it. */
static __attribute__((unused)) void vhk_test_without_aio_(void) {
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_setup, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog filter = { sizeof(code) / sizeof(code[0]), code };

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
                (void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

#ifndef VHK_TEST_OWN_MAIN         /* a program that runs its tests in another way */
int main(int argc, char **argv) {
        int passed = 0, failed = 0, skipped = 0;
        int under_tool = getenv("VHK_TEST_NO_LEAK_CHECK") != NULL;

        setvbuf(stdout, NULL, _IOLBF, 0);
        if (under_tool)
                vhk_test_without_aio_();
        for (struct vhk_test *t = vhk_tests_; t; t = t->next) {
                if (argc > 1 && strcmp(argv[1], t->name))
                        continue;
                vhk_test_failed_ = vhk_test_skipped_ = 0;
                int fds = vhk_test_count_("/proc/self/fd"), tasks = vhk_test_count_("/proc/self/task");
                tasks += VHK_TEST_TSAN_ && tasks == 1;
                vhk_test_run_(t);
                int fds2 = vhk_test_count_("/proc/self/fd"), tasks2 = vhk_test_count_("/proc/self/task");
                for (int i = 0; i < 200 && tasks2 > tasks; i++) {       /* a joined thread leaves /proc a little later */
                        usleep(1000);
                        tasks2 = vhk_test_count_("/proc/self/task");
                }
                if (!vhk_test_failed_ && !vhk_test_skipped_ && !under_tool && (fds2 != fds || tasks2 > tasks)) {
                        printf("  leak: %d descriptors before, %d after; %d threads before, %d after\n", fds, fds2, tasks, tasks2);
                        vhk_test_failed_ = 1;
                }
                printf("%s %s\n", vhk_test_failed_ ? "FAIL" : vhk_test_skipped_ ? "skip" : "ok", t->name);
                passed += !vhk_test_failed_ && !vhk_test_skipped_;
                failed += vhk_test_failed_;
                skipped += !vhk_test_failed_ && vhk_test_skipped_;
        }
        printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
        return failed ? 1 : passed ? 0 : 77;
}
#endif
