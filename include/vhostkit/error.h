/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Errors. Every fallible function returns 0 or a count, or a negative errno. Where it can fail with a story,
 * the caller may hand in a struct vhk_error (or NULL) and gets the rule that was broken and a sentence.
 */
#ifndef VHOSTKIT_ERROR_H
#define VHOSTKIT_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct vhk_error - why a call failed, owned by the caller. It has no size and will not grow: 256
 * bytes, what else is to be known of an error will have a function of its own
 * @code: the negative errno that the call returned
 * @rule: static, stable identifier of the broken rule, for programs (never NULL once set)
 * @text: one sentence for people: what was wrong, where, and what was expected; always terminated
 */
struct vhk_error {
        int code;
        const char *rule;
        char text[240];
};

enum vhk_log_level { VHK_LOG_ERROR, VHK_LOG_WARNING, VHK_LOG_INFO, VHK_LOG_DEBUG };

/** Receives log lines without a newline, on whatever thread the object was used. */
typedef void (*vhk_log_fn)(void *arg, enum vhk_log_level level, const char *text);

/**
 * vhk_open_standard_fds() - open /dev/null as those of descriptors 0, 1 and 2 that are closed
 *
 * A program that is started with them closed would get a socket, its image or guest memory as
 * standard error, and write its messages into that. Programs call this first in main();
 * vhk_daemon_run() does it. Before there are other threads.
 *
 * Return: 0, or what open(2) of /dev/null gives.
 */
int vhk_open_standard_fds(void);

/** vhk_version() - the library's version, "major.minor.patch", static */
const char *vhk_version(void);

#ifdef __cplusplus
}
#endif

#endif
