/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* H20 of tests/adversarial/README.md: memory is truncated under us. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/test.h"
#include "mem/fault.h"
#include "mem/mapping.h"
#include "mem/mem.h"

#ifndef UFFDIO_POISON                   /* Linux 6.6 */
struct uffdio_poison {
        struct uffdio_range range;
        uint64_t mode;
        int64_t updated;
};
#define UFFDIO_POISON _IOWR(0xAA, 0x08, struct uffdio_poison)
#endif

#define PAGE ((uint64_t)4096)
#define N_PAGES 4u

static sigjmp_buf not_ours;
static int n_calls;     /* shared (atomic) */

static void on_sigbus(int sig, siginfo_t *si, void *context) {
        errno = ENOTTY;
        int k = vhk_sigbus_try(si);
        if (errno != ENOTTY || !k)
                siglongjmp(not_ours, 1);
        __atomic_fetch_add(&n_calls, 1, __ATOMIC_RELAXED);
}

static void guard(void) {
        struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
        CHECK_EQ(sigaction(SIGBUS, &sa, NULL), 0);
        n_calls = 0;
}

static int new_memfd(void) {
        int fd = memfd_create("test-sigbus", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK(fd >= 0);
        CHECK_EQ(ftruncate(fd, N_PAGES * PAGE), 0);
        return fd;
}

static struct vhk_memmap *map_of(int fd) {
        struct vhk_region_desc d = { .gpa = { 0x10000 }, .uva = { 0x910000 }, .len = N_PAGES * PAGE, .fd = fd };
        struct vhk_memmap *m = NULL;
        CHECK_OK(vhk_memmap_replace(NULL, &d, 1, &m, NULL));
        return m;
}

TEST(a_truncated_memfd_reads_as_zeroes_and_only_its_map_is_bad) {
        int fd = new_memfd(), other_fd = new_memfd();
        struct vhk_memmap *m = map_of(fd), *other = map_of(other_fd);
        volatile uint8_t *p = m->regs[0].host, *q = other->regs[0].host;
        uint32_t seen = 0, other_seen = 0, before = vhk_sigbus_count();

        guard();
        memset((void *)p, 0xaa, N_PAGES * PAGE);
        memset((void *)q, 0xbb, N_PAGES * PAGE);
        CHECK(!vhk_memmap_is_bad(m, &seen));
        CHECK_EQ(ftruncate(fd, PAGE), 0);
        CHECK(!vhk_memmap_is_bad(m, &seen));            /* nobody has looked yet */
        CHECK_EQ(p[2 * PAGE + 17], 0);
        CHECK_EQ(n_calls, 1);
        CHECK(vhk_memmap_is_bad(m, &seen));
        CHECK(vhk_memmap_is_bad(m, &seen));             /* and it stays so */
        CHECK(!vhk_memmap_is_bad(other, &other_seen));
        CHECK_EQ(other_seen, before + 1);
        p[3 * PAGE] = 1;
        CHECK_EQ(p[3 * PAGE], 1);
        p[2 * PAGE + 18] = 2;
        CHECK_EQ(n_calls, 2);                           /* one per page */
        CHECK_EQ(p[PAGE - 1], 0xaa);                    /* what is there stays there */
        CHECK_EQ(q[2 * PAGE + 17], 0xbb);
        CHECK(!vhk_memmap_is_bad(other, &other_seen));

        CHECK_EQ(ftruncate(fd, N_PAGES * PAGE), 0);     /* no way back: a damaged mapping is not taken over */
        struct vhk_memmap *next = NULL;
        struct vhk_region_desc d = { .gpa = { 0x10000 }, .uva = { 0x910000 }, .len = N_PAGES * PAGE, .fd = fd };
        CHECK_OK(vhk_memmap_replace(m, &d, 1, &next, NULL));
        CHECK(next->regs[0].mapping != m->regs[0].mapping);
        seen = 0;
        CHECK(!vhk_memmap_is_bad(next, &seen));
        vhk_memmap_unref(next);
        vhk_memmap_unref(m);
        vhk_memmap_unref(other);
        close(fd);
        close(other_fd);
}

TEST(a_snapshot_that_takes_over_a_bad_mapping_is_bad) {
        int fd = new_memfd(), second = new_memfd();
        struct vhk_memmap *m = map_of(fd), *next = NULL;
        struct vhk_region_desc d = { .gpa = { 0x20000 }, .uva = { 0x920000 }, .len = PAGE, .fd = second };
        uint32_t seen = 0;

        guard();
        CHECK_EQ(ftruncate(fd, 0), 0);
        *(volatile uint8_t *)m->regs[0].host = 1;
        CHECK_OK(vhk_memmap_add(m, &d, &next, NULL));
        CHECK(vhk_memmap_is_bad(next, &seen));
        vhk_memmap_unref(m);
        CHECK(vhk_memmap_is_bad(next, &seen));
        vhk_memmap_unref(next);
        close(fd);
        close(second);
}

/* The peer truncates and seals between the check of the size and the mapping. */
TEST(a_file_that_is_truncated_and_sealed_before_it_is_mapped_is_guarded) {
        int fd = new_memfd();
        struct vhk_mapping *mapping;
        struct stat st;

        guard();
        CHECK_OK(vhk_mapping_check(fd, 0, N_PAGES * PAGE, &st, NULL));
        CHECK_EQ(ftruncate(fd, 0), 0);
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
        CHECK_OK(vhk_mapping_new(fd, &st, 0, N_PAGES * PAGE, &mapping, NULL));
        CHECK_EQ(*(volatile uint8_t *)mapping->host, 0);
        CHECK_EQ(n_calls, 1);
        CHECK(vhk_mapping_is_bad(mapping));
        vhk_mapping_unref(mapping);
        close(fd);
}

TEST(a_page_that_the_front_end_poisons_under_postcopy_reads_as_zeroes) {
        int fd = new_memfd(), faults;
        struct vhk_error e = { .text = "" };
        uint32_t seen = 0;

        guard();
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
        struct vhk_memmap *m = map_of(fd);
        if (vhk_fault_open(&faults, &e) < 0)
                SKIP("cannot: no userfaultfd for shared memory here");
        CHECK_OK(vhk_fault_prepare(m, &e));
        CHECK_OK(vhk_fault_register(faults, m, &e));
        struct uffdio_poison poison = { .range = { (uintptr_t)m->regs[0].host + PAGE, PAGE } };
        if (ioctl(faults, UFFDIO_POISON, &poison) < 0)
                SKIP("cannot: a kernel without UFFDIO_POISON");
        CHECK_EQ(((volatile uint8_t *)m->regs[0].host)[PAGE + 5], 0);
        CHECK_EQ(n_calls, 1);
        CHECK(vhk_memmap_is_bad(m, &seen));
        close(faults);
        vhk_memmap_unref(m);
        close(fd);
}

/* ---- vhk_sigbus_install(), in a child: a handler cannot be taken back ---- */

static int status_of(void (*fn)(void)) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
                alarm(20);
                setrlimit(RLIMIT_CORE, &(struct rlimit){ 0 });
                fn();
                _exit(0);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        return status;
}

static void touch_truncated(void) {
        int fd = new_memfd();
        struct vhk_memmap *m = map_of(fd);

        CHECK_EQ(ftruncate(fd, 0), 0);
        if (*(volatile uint8_t *)m->regs[0].host != 0)
                _exit(1);
}

static void touch_own(void) {
        int fd = new_memfd();
        volatile uint8_t *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

        CHECK_EQ(ftruncate(fd, 0), 0);
        (void)p[0];
}

static void installed_without_a_handler(void) {
        signal(SIGBUS, SIG_DFL);
        CHECK_OK(vhk_sigbus_install());
        CHECK_OK(vhk_sigbus_install());
        touch_truncated();
        touch_own();
}

static void exit_42(int signo) {
        _exit(42);
}

static void installed_over_a_handler(void) {
        signal(SIGBUS, exit_42);
        CHECK_OK(vhk_sigbus_install());
        touch_truncated();
        touch_own();
}

static void not_installed(void) {
        signal(SIGBUS, SIG_DFL);
        touch_truncated();
}

TEST(an_installed_handler_takes_what_a_peer_did_and_leaves_the_rest) {
        int status = status_of(not_installed);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        status = status_of(installed_without_a_handler);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        status = status_of(installed_over_a_handler);
        CHECK(WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), 42);
}

TEST(what_is_not_ours_is_left_to_the_program) {
        int fd = new_memfd();
        volatile uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        struct vhk_memmap *m = map_of(fd);
        uint32_t seen = 0;

        guard();
        CHECK_EQ(ftruncate(fd, 0), 0);
        if (!sigsetjmp(not_ours, 1)) {
                *p = 1;
                CHECK_MSG(0, "no SIGBUS");
        }
        CHECK(!vhk_memmap_is_bad(m, &seen));
        siginfo_t sent = { .si_signo = SIGBUS, .si_code = SI_USER };
        sent.si_addr = m->regs[0].host;
        CHECK_EQ(vhk_sigbus_try(&sent), 0);
        sent.si_signo = SIGSEGV;
        sent.si_code = BUS_ADRERR;
        CHECK_EQ(vhk_sigbus_try(&sent), 0);
        munmap((void *)p, PAGE);
        vhk_memmap_unref(m);
        close(fd);
}

TEST(a_slot_that_was_given_back_is_used_again_and_no_longer_found) {
        struct vhk_sigbus_slot *slots[300], *again;     /* more than a chunk */
        static uint8_t bytes[300 * 64];
        uint32_t bad[300] = { 0 };
        siginfo_t si = { .si_signo = SIGBUS, .si_code = BUS_ADRERR };

        for (int i = 0; i < 300; i++)
                CHECK_OK(vhk_sigbus_add(bytes + 64 * i, 64, 64, &bad[i], &slots[i]));
        vhk_sigbus_remove(slots[299]);
        vhk_sigbus_remove(NULL);
        si.si_addr = bytes + 64 * 299;
        CHECK_EQ(vhk_sigbus_try(&si), 0);
        CHECK_OK(vhk_sigbus_add(bytes, 64, 64, &bad[0], &again));
        CHECK(again == slots[299]);
        vhk_sigbus_remove(again);
        for (int i = 0; i < 299; i++)
                vhk_sigbus_remove(slots[i]);
        si.si_addr = bytes;
        CHECK_EQ(vhk_sigbus_try(&si), 0);
        for (int i = 0; i < 300; i++)
                CHECK_EQ(bad[i], 0);
}

/* Mappings come and go on one thread while others fault in theirs. */
static int stop;

static void *fault_on(void *arg) {
        uintptr_t wrong = 0;

        for (int i = 0; i < 100; i++) {
                int fd = memfd_create("test-sigbus", MFD_CLOEXEC);
                struct vhk_region_desc d = { .len = PAGE, .fd = fd };
                struct vhk_memmap *m = NULL;
                uint32_t seen = 0;
                if (ftruncate(fd, PAGE) < 0 || vhk_memmap_replace(NULL, &d, 1, &m, NULL) < 0)
                        return (void *)-1;
                wrong += vhk_memmap_is_bad(m, &seen) || ftruncate(fd, 0) < 0;
                wrong += *(volatile uint8_t *)m->regs[0].host != 0;
                wrong += !vhk_memmap_is_bad(m, &seen);
                vhk_memmap_unref(m);
                close(fd);
        }
        return (void *)wrong;
}

static void *churn(void *arg) {
        uintptr_t n_bad = 0;

        while (!vhk_load_relaxed(&stop)) {
                int fd = memfd_create("test-churn", MFD_CLOEXEC);
                struct vhk_region_desc d = { .len = PAGE, .fd = fd };
                struct vhk_memmap *m = NULL;
                uint32_t seen = 0;
                if (ftruncate(fd, PAGE) < 0 || vhk_memmap_replace(NULL, &d, 1, &m, NULL) < 0)
                        return (void *)-1;
                *(volatile uint8_t *)m->regs[0].host = 1;
                n_bad += vhk_memmap_is_bad(m, &seen);
                vhk_memmap_unref(m);
                close(fd);
        }
        return (void *)n_bad;
}

TEST(faults_on_two_threads_while_a_third_maps_and_unmaps) {
        pthread_t t[3];
        void *wrong;

        guard();
        if (sigsetjmp(not_ours, 1))
                CHECK_MSG(0, "a mapping of ours was not found");
        stop = 0;
        for (int i = 0; i < 3; i++)
                CHECK_EQ(pthread_create(&t[i], NULL, i < 2 ? fault_on : churn, NULL), 0);
        for (int i = 0; i < 3; i++) {
                if (i == 2)
                        vhk_store_relaxed(&stop, 1);
                CHECK_EQ(pthread_join(t[i], &wrong), 0);
                CHECK_EQ((uintptr_t)wrong, 0);
        }
        CHECK_EQ(n_calls, 200);
}
