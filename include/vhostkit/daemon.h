/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A device as a program (libvhostkit-daemon): options after the vhost-user back-end program conventions, threads, signals.
 */
#ifndef VHOSTKIT_DAEMON_H
#define VHOSTKIT_DAEMON_H

#include <vhostkit/backend.h>

#ifdef __cplusplus
extern "C" {
#endif

enum vhk_option_type {
        VHK_OPTION_FLAG,        /* --name: int = 1 */
        VHK_OPTION_STRING,      /* --name=TEXT: const char * */
        VHK_OPTION_UINT,        /* --name=N: uint64_t, suffixes K M G T (binary) */
        VHK_OPTION_ENUM,        /* --name=WORD: int = index in @values */
};

/**
 * struct vhk_option - one row of a program's option table; the last has name NULL. It has no size,
 * for a table is an array: other kinds of options will be other values of @type
 * @reserved: 0
 */
struct vhk_option {
        const char *name;               /* without "--" */
        enum vhk_option_type type;
        size_t offset;                  /* of the value in the program's state */
        const char *value_name;         /* for --help: "PATH" */
        const char *help;
        uint64_t min, max;              /* VHK_OPTION_UINT; max 0: no limit */
        const char *const *values;      /* VHK_OPTION_ENUM: NULL-terminated */
        char letter;                    /* short form, 0: none */
        uintptr_t reserved[2];
};

/**
 * struct vhk_program - a daemon
 * @size: sizeof(struct vhk_program) of the caller
 * @name: of the program
 * @type: device type of the conventions: "block", "rng" ...
 * @summary: one line for --help
 * @capabilities: strings for --print-capabilities, NULL-terminated
 * @options: its own options, behind the common ones (--socket-path, --fd, --vduse, --num-queues, --queue-size, --threads, --poll-us,
 *           --postcopy, --iommu, --any-file-system, --print-capabilities, --help, --version)
 * @state_size: bytes of state: zeroed; filled by @options; the device's state as well
 * @open: options are parsed: open files, check, adjust the device: returns 0 or a negative errno with the story.
 *        *ops is a copy: n_queues and queue_size_max are what the command line says, else the default, never more than in
 *        @ops; it may be changed for features, config_len and so on that depend on options
 * @close: undo open
 * @ops: the device; n_queues and queue_size_max are the most that the options allow
 * @default_n_queues: without --num-queues; 0: all of ops->n_queues
 * @default_queue_size: without --queue-size; 0: ops->queue_size_max
 * @get_device: the "dev" of the operations, called after open; NULL: it is the state
 * @reload: SIGHUP, on control: look again at what may have changed. A negative errno is logged with its story, and the daemon goes on.
 *          NULL (and where @size ends before it): SIGHUP does what it does by default
 */
struct vhk_program {
        size_t size;
        const char *name, *type, *summary;
        const char *const *capabilities;
        const struct vhk_option *options;
        size_t state_size;
        int (*open)(void *state, struct vhk_device_ops *ops, struct vhk_error *ret_e);
        void (*close)(void *state);
        const struct vhk_device_ops *ops;
        uint16_t default_n_queues, default_queue_size;
        void *(*get_device)(void *state);
        int (*reload)(void *state, struct vhk_error *ret_e);
};

/** vhk_daemon_log() - a vhk_log_fn for devices: to stderr, as much as VHK_LOG (error, warning, info, debug) asks for; any thread */
void vhk_daemon_log(void *unused, enum vhk_log_level level, const char *text);

/**
 * vhk_daemon_run() - main() of a daemon: returns the exit status
 *
 * Environment: VHK_LOG as above (default: warning); VHK_TRACE=1 prints every message on stderr.
 */
int vhk_daemon_run(const struct vhk_program *p, int argc, char **argv);

/**
 * vhk_options_parse() - fill @state from the command line after @options (also used by tools)
 * @argv: argv[0] is skipped
 * @ret_n_rest: number of arguments that are no options; they are moved to the front of @argv (from argv[1])
 *
 * Return: 0; -EINVAL with the story (unknown option: names the nearest known one).
 */
int vhk_options_parse(const struct vhk_option *options, void *state, int argc, char **argv, int *ret_n_rest, struct vhk_error *ret_e);
/** vhk_options_print() - the options' part of --help, on stdout */
void vhk_options_print(const struct vhk_option *options);

#ifdef __cplusplus
}
#endif

#endif
