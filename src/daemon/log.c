/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The daemon's log, see log.h.
 *
 * Standard error may be shared with other processes, so O_NONBLOCK is not set on it:
 * vhk_peer_write() does not need it. After a line was lost, none waits until one has found room
 * again.
 */
#include "daemon/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <vhostkit/daemon.h>

#include "base/peer.h"

#define LOG_WAIT_MS 100         /* for room, once */

static const char *log_name = "vhostkit";       /* set once, before there are threads; so is the level */
static enum vhk_log_level log_level = VHK_LOG_WARNING;
static unsigned log_n_lost;     /* shared (atomic), relaxed: a count */

struct log_text {
        char text[2048];
        size_t n;
};

void dmn_log_init(const char *name) {
        static const char *const words[] = { "error", "warning", "info", "debug" };
        const char *s = getenv("VHK_LOG");

        log_name = name;
        for (unsigned i = 0; s && i < VHK_N(words); i++)
                if (!strcmp(s, words[i])) {
                        log_level = (enum vhk_log_level)i;
                        return;
                }
        if (s && *s) {
                char text[160];

                snprintf(text, sizeof(text), "VHK_LOG=%.60s is ignored: it must be error, warning, info or debug", s);
                dmn_log_line(text);
        }
}

bool dmn_log_has(enum vhk_log_level level) {
        return level <= log_level;
}

/* Was all of it written? */
static bool log_write(const char *text, size_t n, bool may_wait) {
        while (n > 0) {
                ssize_t k = vhk_peer_write(STDERR_FILENO, text, n);
                if (k > 0) {
                        text += k;
                        n -= (size_t)k;
                        continue;
                }
                struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
                if (k != -EAGAIN || !may_wait || poll(&p, 1, LOG_WAIT_MS) <= 0)
                        return false;
                may_wait = false;
        }
        return true;
}

/* Appends to @line, which has room for one newline more. */
static VHK_PRINTF(2, 3) void log_append(struct log_text *line, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        int n = vsnprintf(line->text + line->n, sizeof(line->text) - line->n, format, ap);
        va_end(ap);
        if (n > 0)
                line->n = VHK_MIN(line->n + (size_t)n, sizeof(line->text) - 1);
}

static void log_put(const char *prefix, const char *separator, const char *text) {
        unsigned lost = vhk_load_relaxed(&log_n_lost);
        struct log_text line = { .n = 0 };

        if (lost)
                log_append(&line, "%s: %u lines of this log found no room and are missing\n", log_name, lost);
        log_append(&line, "%s%s%s", prefix, separator, text);
        line.text[line.n++] = '\n';
        if (!log_write(line.text, line.n, !lost))
                __atomic_fetch_add(&log_n_lost, 1, __ATOMIC_RELAXED);
        else if (lost)
                __atomic_fetch_sub(&log_n_lost, lost, __ATOMIC_RELAXED);
}

void dmn_log_line(const char *text) {
        log_put(log_name, ": ", text);
}

void dmn_log_raw(const char *text) {
        log_put("", "", text);
}

VHK_API void vhk_daemon_log(void *unused, enum vhk_log_level level, const char *text) {
        if (dmn_log_has(level))
                dmn_log_line(text);
}
