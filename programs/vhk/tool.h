/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the subcommands of vhk share: a row each in main.c's table, one way to fail, one way to be interrupted, one way to
 * find a back-end.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <vhostkit/blk.h>
#include <vhostkit/daemon.h>
#include <vhostkit/frontend.h>

#define TOOL_N(a) (sizeof(a) / sizeof((a)[0]))
#define TOOL_MS UINT64_C(1000000)
#define TOOL_S UINT64_C(1000000000)

/** Exit statuses, as vhk(1) lists them. */
enum tool_status {
        TOOL_OK = 0,
        TOOL_FAILED = 1,
        TOOL_USAGE = 2,
        TOOL_BUSY = 3,
};

/**
 * struct tool_command - a subcommand; everything main() must know to parse its command line
 * @synopsis: its arguments, for --help
 * @about: what it does, lines for --help
 * @options: over a state of @state_size bytes that begins as a copy of @defaults; its first member is int help
 * @arguments: names of what stands beside the options, all of it needed
 * @run: returns an exit status; @arguments: as many as there are names
 * @group: instead of all but @name and @summary: subcommands of its own, whose names begin with this one's; NULL-terminated
 */
struct tool_command {
        const char *name, *synopsis, *summary, *about;
        const struct vhk_option *options;
        size_t state_size;
        const void *defaults;
        const char *arguments[2];
        enum tool_status (*run)(const void *state, char *const *arguments);
        const struct tool_command *const *group;
};
extern const struct tool_command probe_command, ping_command, bench_command, demo_command, vdpa_command;

/** The rows that every subcommand has. */
#define TOOL_OPTION_HELP { "help", VHK_OPTION_FLAG, 0, NULL, "print this and exit", .letter = 'h' }
#define TOOL_OPTION_TIMEOUT(type)                                                                       \
        { "timeout-ms", VHK_OPTION_UINT, offsetof(type, timeout_ms), "MS", "how long the back-end may take to answer", 1, 3600000 }

/** tool_fail() - one line on stderr, "vhk SUBCOMMAND: ..."; returns TOOL_FAILED (tool_usage(): TOOL_USAGE) */
enum tool_status tool_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
enum tool_status tool_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
void tool_set_name(const char *subcommand);

/** Set by the first SIGINT or SIGTERM after tool_catch_interrupt(); the second one ends the process. */
extern volatile int tool_interrupted;
void tool_catch_interrupt(void);

uint64_t tool_now(void);                /* CLOCK_MONOTONIC, ns */
bool tool_is_utf8(void);                /* may block characters be printed? */
void tool_sleep(uint64_t ns);           /* or until interrupted */

/* ---- endpoint.c ---- */

/**
 * tool_endpoint() - fill @o and *ret_spec (NULL: a descriptor) from "vhost-user:PATH", "PATH", "fd:N", or the kernel's "vhost-vdpa:NAME" ...
 * @limit_ns: time limit of every call
 */
/* Where messages are printed, for VHK_TRACE=1; NULL: nowhere. */
vhk_log_fn tool_trace(void);
enum tool_status tool_endpoint(const char *endpoint, uint64_t limit_ns, struct vhk_frontend_options *o, const char **ret_spec);
/** tool_open_failed() - the line and the exit status for an open that failed with @k and @e */
enum tool_status tool_open_failed(const char *endpoint, int k, const struct vhk_error *e);
/** tool_open_blk() - open a disk and ask what it is, or say why not; @frontend of @o is filled in here */
enum tool_status tool_open_blk(const char *endpoint, uint64_t limit_ns, struct vhk_blk_options *o, struct vhk_blk_info *ret_info,
                               struct vhk_blk **ret_b);
/** tool_blk_failed() - the line for a request that failed with @k: the connection's story where it is gone */
enum tool_status tool_blk_failed(struct vhk_blk *b, const char *what, uint64_t offset, int k);
/** tool_request_size() - bytes of a request where the user has no wish: 4 KiB, at least a block of
 * the disk, at most all of it */
uint64_t tool_request_size(const struct vhk_blk_info *i);
/** tool_device_id() - virtio id of a device's name ("block", "blk", "net" ...); -1: no such device */
int tool_device_id(const char *name);
