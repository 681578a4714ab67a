/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "base/test.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include "base/base.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

TEST(range_within_does_not_wrap) {
        CHECK(vhk_range_within(0, 10, 10));
        CHECK(vhk_range_within(10, 0, 10));
        CHECK(!vhk_range_within(1, 10, 10));
        CHECK(!vhk_range_within(UINT64_MAX, 2, 10));
        CHECK(!vhk_range_within(5, UINT64_MAX, 10));
}

TEST(error_text_is_cut_and_terminated) {
        struct vhk_error e;
        char long_text[400];

        memset(long_text, 'x', sizeof(long_text));
        long_text[sizeof(long_text) - 1] = 0;
        CHECK_EQ(vhk_error_set(&e, -EINVAL, "test.rule", "%s", long_text), -EINVAL);
        CHECK_EQ(strlen(e.text), sizeof(e.text) - 1);
        CHECK_STR(e.rule, "test.rule");
        CHECK_EQ(vhk_error_set(NULL, -EIO, "test.rule", "nobody listens"), -EIO);
}

TEST(notify_a_full_counter_does_not_block) {
        int fd = eventfd(0, EFD_CLOEXEC);       /* blocking on purpose: vhk_fdref_new() changes that */
        struct vhk_fdref *r;

        CHECK_EQ(write(fd, &(uint64_t){ UINT64_MAX - 1 }, 8), 8);
        CHECK_OK(vhk_fdref_new(fd, &r));
        CHECK_EQ(vhk_fdref_notify(r), 0);
        CHECK_EQ(vhk_drain_fd(fd), 1);
        CHECK_EQ(vhk_drain_fd(fd), 0);
        CHECK(!vhk_fdref_unref(r));
}

TEST(notify_a_pipe_without_reader_raises_no_signal) {
        int p[2];
        struct vhk_fdref *r;

        CHECK_OK(pipe2(p, O_CLOEXEC));
        CHECK_OK(vhk_fdref_new(p[1], &r));
        CHECK_EQ(vhk_fdref_notify(r), 0);
        CHECK_EQ(vhk_drain_fd(p[0]), 1);
        close(p[0]);
        CHECK_EQ(vhk_fdref_notify(r), -EPIPE);
        vhk_fdref_unref(r);
}

TEST(fdref_closes_with_the_last_owner) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        struct vhk_fdref *r;

        CHECK_OK(vhk_fdref_new(fd, &r));
        vhk_fdref_ref(r);
        vhk_fdref_unref(r);
        CHECK(fcntl(fd, F_GETFD) >= 0);
        vhk_fdref_unref(r);
        CHECK_EQ(fcntl(fd, F_GETFD), -1);
        CHECK_EQ(vhk_fdref_new(-1, &r), 0);
        CHECK(!r);
        CHECK_EQ(vhk_fdref_notify(NULL), 0);
}

static unsigned n_lines;
static char last_line[200];

static void on_line(void *arg, enum vhk_log_level level, const char *text) {
        n_lines++;
        snprintf(last_line, sizeof(last_line), "%s", text);
}

TEST(lines_of_one_id_are_limited_and_those_of_others_are_not) {
        struct vhk_log_limit limit = { 0 };
        struct vhk_log log = { on_line, NULL, &limit };

        n_lines = 0;
        for (unsigned i = 0; i < 3 * VHK_LOG_BURST; i++)
                vhk_log_id(&log, VHK_LOG_WARNING, "test.flood", "line %u", i);
        CHECK_EQ(n_lines, VHK_LOG_BURST);
        vhk_log(&log, VHK_LOG_WARNING, "another line");
        CHECK_EQ(n_lines, VHK_LOG_BURST + 1);
        CHECK_STR(last_line, "another line");
        limit.counts[0].begin -= VHK_LOG_WINDOW_NS;             /* the window is over */
        vhk_log_id(&log, VHK_LOG_WARNING, "test.flood", "once more");
        CHECK_EQ(n_lines, VHK_LOG_BURST + 3);                   /* how many were left out, and the line */
        CHECK_STR(last_line, "once more");
        log.limit = NULL;
        for (unsigned i = 0; i < 3 * VHK_LOG_BURST; i++)
                vhk_log(&log, VHK_LOG_WARNING, "without a limit");
        CHECK_EQ(n_lines, 4 * VHK_LOG_BURST + 3);
}
