/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A device as a program, after the vhost-user back-end program conventions: it does not daemonize, takes --socket-path or
 * --fd, fails early with one line and a status that is not 0, and ends on SIGTERM quickly, cleanly and with status 0. On a
 * listening socket it serves one front-end after the other, on a connected one until the peer leaves.
 *
 * With --vduse the front-end is this machine's kernel: the device is put on the vDPA bus when it can answer, and taken off before
 * it ends. A process that is killed leaves it where it is, for its successor.
 *
 * The main thread is control. Signals are taken by a thread of their own (signals.h) and reach
 * control through its worker. At rest nothing wakes up.
 */
#include <vhostkit/backend.h>
#include <vhostkit/daemon.h>
#include <vhostkit/memory.h>

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/error.h"
#include "base/struct.h"
#include "daemon/log.h"
#include "daemon/options.h"
#include "daemon/signals.h"
#include "daemon/threads.h"
#include "daemon/vdpa.h"

#define DMN_DRAIN_NS UINT64_C(5000000000)       /* after SIGTERM; managers kill after some seconds more */
#define DMN_END_NS UINT64_C(3000000000)         /* for all else that the end takes; then the process ends whatever it waits for */
#define DMN_NO_FD UINT64_MAX
#define DMN_NO_POLL_US UINT64_MAX               /* not on the command line */
#define DMN_POLL_US_DEFAULT 50u
#define DMN_VDUSE_QUEUES 4u                     /* by default at most: a driver of the kernel takes what there is */
/* Descriptors: for each queue those for kick, call and error; for each thread its epoll set,
 * eventfd, io_uring and timer; the rest are the program's own, and those of messages on their
 * way. */
#define DMN_FDS_PER_QUEUE 3u
#define DMN_FDS_PER_THREAD 4u
#define DMN_FDS_OTHER 64u
#define DMN_ACCESS_PLATFORM (UINT64_C(1) << 33) /* virtio 1.3, 6 */
#define DMN_PAGEFAULT (UINT64_C(1) << 8)        /* vhost-user, VHOST_USER_PROTOCOL_F_PAGEFAULT */

struct dmn_options {
        const char *socket_path, *vduse, *vduse_record, *offer, *no_offer, *quirk;
        uint64_t fd, n_queues, queue_size, threads, poll_us;
        int postcopy, iommu, any_file_system, print_capabilities, help, version;
};

struct dmn {
        const struct vhk_program *program;
        struct dmn_options options;
        void *state;
        struct vhk_device_ops ops;
        struct dmn_threads threads;
        struct vhk_backend *backend;
        uint64_t spin_ns, offer, no_offer, quirks;
        unsigned n_ring_threads;        /* as far as is known before the device is open */
        struct dmn_signals signals;
        unsigned n_stops;
        struct dmn_vdpa vdpa;
        struct vhk_timer *vdpa_timer;   /* while it is taken off the bus */
        bool has_opened, has_ended, has_failed;
        bool is_stuck;          /* requests may still be in flight: nothing that they point to may be freed */
};

static void dmn_trace(void *unused, enum vhk_log_level level, const char *text) {
        dmn_log_raw(text);
}

static int dmn_fail(const char *text) {
        dmn_log_line(text);
        return EXIT_FAILURE;
}

/* ---- options ---- */

enum {
        DMN_SOCKET_PATH, DMN_FD, DMN_VDUSE, DMN_VDUSE_RECORD, DMN_NUM_QUEUES, DMN_QUEUE_SIZE, DMN_THREADS, DMN_POLL_US, DMN_POSTCOPY, DMN_IOMMU,
        DMN_ANY_FILE_SYSTEM, DMN_OFFER, DMN_NO_OFFER, DMN_QUIRK, DMN_CAPABILITIES, DMN_HELP, DMN_VERSION, DMN_N_OPTIONS,
};

static const struct vhk_option dmn_options[DMN_N_OPTIONS + 1] = {
        [DMN_SOCKET_PATH] = { "socket-path", VHK_OPTION_STRING, offsetof(struct dmn_options, socket_path), "PATH",
                              "listen on this socket", .letter = 's' },
        [DMN_FD] = { "fd", VHK_OPTION_UINT, offsetof(struct dmn_options, fd), "N",
                     "inherited socket, listening or connected, instead", .max = INT32_MAX, .letter = 'f' },
        [DMN_VDUSE] = { "vduse", VHK_OPTION_STRING, offsetof(struct dmn_options, vduse), "NAME",
                        "be the vDPA device NAME of this machine instead (VDUSE)" },
        [DMN_VDUSE_RECORD] = { "vduse-record", VHK_OPTION_STRING, offsetof(struct dmn_options, vduse_record), "PATH",
                               "file for a successor, with --vduse (default: /run/vhostkit/vduse-NAME.inflight)" },
        [DMN_NUM_QUEUES] = { "num-queues", VHK_OPTION_UINT, offsetof(struct dmn_options, n_queues), "N",
                             "virtqueues offered", .min = 1 },
        [DMN_QUEUE_SIZE] = { "queue-size", VHK_OPTION_UINT, offsetof(struct dmn_options, queue_size), "N",
                             "virtqueue size asked for, a power of two", .min = 2 },
        [DMN_THREADS] = { "threads", VHK_OPTION_UINT, offsetof(struct dmn_options, threads), "N",
                          "threads for the virtqueues (default: one per CPU, at most one per queue)", .min = 1, .max = 256 },
        [DMN_POLL_US] = { "poll-us", VHK_OPTION_UINT, offsetof(struct dmn_options, poll_us), "N",
                          "after work, poll so many microseconds before sleeping (0: never; default 50, on one CPU 0)", .max = 1000000 },
        [DMN_POSTCOPY] = { "postcopy", VHK_OPTION_FLAG, offsetof(struct dmn_options, postcopy), NULL,
                           "offer postcopy migration instead of memory slots" },
        [DMN_IOMMU] = { "iommu", VHK_OPTION_FLAG, offsetof(struct dmn_options, iommu), NULL,
                        "offer to work with the front-end's IOMMU (VIRTIO_F_ACCESS_PLATFORM)" },
        [DMN_ANY_FILE_SYSTEM] = { "any-file-system", VHK_OPTION_FLAG, offsetof(struct dmn_options, any_file_system), NULL,
                                  "take guest memory in files of FUSE, NFS and other servers too, which may not answer" },
        [DMN_OFFER] = { "offer", VHK_OPTION_STRING, offsetof(struct dmn_options, offer), "NAME,...",
                        "offer these protocol features as well (INBAND_NOTIFICATIONS ...)" },
        [DMN_NO_OFFER] = { "no-offer", VHK_OPTION_STRING, offsetof(struct dmn_options, no_offer), "NAME,...",
                           "do not offer these protocol features" },
        [DMN_QUIRK] = { "quirk", VHK_OPTION_STRING, offsetof(struct dmn_options, quirk), "NAME,...",
                        "for front-ends that differ from the protocol (log-reply-u64)" },
        [DMN_CAPABILITIES] = { "print-capabilities", VHK_OPTION_FLAG, offsetof(struct dmn_options, print_capabilities), NULL,
                               "print what this program can do as JSON, and exit", .letter = 'c' },
        [DMN_HELP] = { "help", VHK_OPTION_FLAG, offsetof(struct dmn_options, help), NULL, "print this, and exit", .letter = 'h' },
        [DMN_VERSION] = { "version", VHK_OPTION_FLAG, offsetof(struct dmn_options, version), NULL, "print the version, and exit", .letter = 'V' },
};

static void dmn_print_capabilities(const struct vhk_program *p) {
        printf("{\n  \"type\": \"%s\",\n  \"features\": [", p->type);
        for (unsigned i = 0; p->capabilities && p->capabilities[i]; i++)
                printf("%s\n    \"%s\"", i ? "," : "", p->capabilities[i]);
        printf("%s]\n}\n", p->capabilities && p->capabilities[0] ? "\n  " : "");
}

static void dmn_print_help(const struct vhk_program *p) {
        printf("Usage: %s --socket-path=PATH | --fd=N | --vduse=NAME [OPTION]...\n%s\n\n", p->name, p->summary);
        if (p->options) {
                vhk_options_print(p->options);
                putchar('\n');
        }
        vhk_options_print(dmn_options);
        printf("\nEnvironment: VHK_LOG=error, warning (default), info or debug: what is logged; VHK_TRACE=1: print every message.\n"
               "Exit status: 0; 1 failed, or wrong use.\n");
}

static bool dmn_has_arg(int argc, char **argv, unsigned i) {
        const struct vhk_option *o = &dmn_options[i];

        for (int a = 1; a < argc && strcmp(argv[a], "--"); a++)
                if ((!strncmp(argv[a], "--", 2) && !strcmp(argv[a] + 2, o->name)) ||
                    (argv[a][0] == '-' && argv[a][1] == o->letter && !argv[a][2]))
                        return true;
        return false;
}

/* --print-capabilities, --help and --version: whatever else stands there. */
static bool dmn_answers(const struct vhk_program *p, int argc, char **argv) {
        if (dmn_has_arg(argc, argv, DMN_CAPABILITIES))
                dmn_print_capabilities(p);
        else if (dmn_has_arg(argc, argv, DMN_HELP))
                dmn_print_help(p);
        else if (dmn_has_arg(argc, argv, DMN_VERSION))
                printf("%s %s\n", p->name, vhk_version());
        else
                return false;
        return true;
}

/* The exit status after an answer on standard output. */
static int dmn_flush_answer(void) {
        char text[120];
        int ret = fflush(stdout);

        if (!ret && !ferror(stdout))
                return EXIT_SUCCESS;
        /* of a write before this one, the reason is lost */
        snprintf(text, sizeof(text), "cannot write the output: %s", strerror(ret ? errno : EIO));
        return dmn_fail(text);
}

static int dmn_check_options(struct dmn *d, int n_rest, char **argv, struct vhk_error *ret_e) {
        struct dmn_options *o = &d->options;

        if (n_rest)
                return vhk_error_set(ret_e, -EINVAL, "option.argument", "\"%.60s\" is not an option (--help lists them)", argv[1]);
        if (o->socket_path && o->fd != DMN_NO_FD)
                return vhk_error_set(ret_e, -EINVAL, "option.endpoint", "--socket-path and --fd exclude each other");
        if (o->vduse && (o->socket_path || o->fd != DMN_NO_FD))
                return vhk_error_set(ret_e, -EINVAL, "option.endpoint", "--vduse goes with neither --socket-path nor --fd");
        if (o->vduse_record && !o->vduse)
                return vhk_error_set(ret_e, -EINVAL, "option.endpoint", "--vduse-record goes with --vduse only");
        if (!o->socket_path && o->fd == DMN_NO_FD && !o->vduse)
                return vhk_error_set(ret_e, -EINVAL, "option.endpoint", "--socket-path or --fd is needed, or --vduse (--help lists the options)");
        if (o->queue_size && !vhk_is_pow2(o->queue_size))
                return vhk_error_set(ret_e, -EINVAL, "option.range", "--queue-size=%llu: must be a power of two",
                                     (unsigned long long)o->queue_size);
        int k = dmn_offer_parse("offer", o->offer, &d->offer, ret_e);
        if (k >= 0)
                k = dmn_offer_parse("no-offer", o->no_offer, &d->no_offer, ret_e);
        return k < 0 ? k : dmn_quirk_parse(o->quirk, &d->quirks, ret_e);
}

static int dmn_parse(struct dmn *d, int argc, char **argv, struct vhk_error *ret_e) {
        const struct vhk_program *p = d->program;
        struct vhk_option common[DMN_N_OPTIONS + 1];
        struct opt_group groups[2] = { { common, &d->options }, { p->options, d->state } };
        int n_rest, k;

        memcpy(common, dmn_options, sizeof(common));
        common[DMN_NUM_QUEUES].max = p->ops->n_queues;
        common[DMN_QUEUE_SIZE].max = p->ops->queue_size_max;
        d->options.fd = DMN_NO_FD;
        d->options.poll_us = DMN_NO_POLL_US;
        k = opt_parse(groups, p->options ? 2 : 1, argc, argv, &n_rest, ret_e);
        if (k < 0)
                return k;
        k = dmn_check_options(d, n_rest, argv, ret_e);
        if (k < 0)
                return k;
        d->ops = *p->ops;
        if (d->options.n_queues)
                d->ops.n_queues = (uint16_t)d->options.n_queues;
        else if (p->default_n_queues)
                d->ops.n_queues = VHK_MIN(p->default_n_queues, p->ops->n_queues);
        if (d->options.vduse && !d->options.n_queues)
                d->ops.n_queues = VHK_MIN(d->ops.n_queues, DMN_VDUSE_QUEUES);
        if (d->options.queue_size || p->default_queue_size)
                d->ops.queue_size_max = d->options.queue_size ? (uint16_t)d->options.queue_size : p->default_queue_size;
        return 0;
}

/* ---- the vDPA bus ---- */

static void dmn_stop_backend(struct dmn *d) {
        vhk_backend_stop(d->backend, VHK_STOP_DRAIN, DMN_DRAIN_NS);
}

static void dmn_on_vdpa(void *arg, enum dmn_vdpa_verb verb, const struct vhk_error *e) {
        struct dmn *d = arg;
        char text[400];
        bool has_died = e->code == -EPIPE;

        if (verb == DMN_VDPA_ADD && (!e->code || e->code == -EEXIST)) {
                snprintf(text, sizeof(text), "%s is on the vDPA bus%s", d->options.vduse, e->code ? " already" : "");
                vhk_daemon_log(NULL, VHK_LOG_INFO, text);
                return;
        }
        if (e->code && !(verb == DMN_VDPA_DEL && e->code == -ENODEV)) {         /* a device that never was on the bus may go */
                snprintf(text, sizeof(text), "%s and the vDPA bus: %s", d->options.vduse, e->text);
                dmn_fail(text);
                d->has_failed = true;
        }
        if (d->vdpa_timer)
                vhk_timer_set(d->vdpa_timer, 0);
        if (!has_died || d->n_stops)
                dmn_stop_backend(d);
}

static void dmn_on_vdpa_timer(void *arg) {
        struct dmn *d = arg;
        char text[300];

        snprintf(text, sizeof(text), "the vDPA device %s is still in use: it stays, and the next one who serves it goes on", d->options.vduse);
        dmn_fail(text);
        d->has_failed = true;
        dmn_stop_backend(d);
}

static int dmn_start_vdpa(struct dmn *d, struct vhk_error *ret_e) {
        int k = dmn_vdpa_watch(&d->vdpa, d->threads.control, dmn_on_vdpa, d);

        if (k >= 0)
                k = vhk_worker_timer(d->threads.control, dmn_on_vdpa_timer, d, &d->vdpa_timer);
        if (k < 0)
                return vhk_error_set(ret_e, k, "daemon.vdpa", "the vDPA bus cannot be watched: %s", strerror(-k));
        dmn_vdpa_ask(&d->vdpa, DMN_VDPA_ADD);
        return 0;
}

/* Off the bus first: the driver says farewell, and we answer. */
static void dmn_stop(struct dmn *d) {
        if (d->options.vduse && vhk_timer_set(d->vdpa_timer, DMN_DRAIN_NS) >= 0)
                dmn_vdpa_ask(&d->vdpa, DMN_VDPA_DEL);
        else
                dmn_stop_backend(d);
}

/* ---- signals ---- */

static void dmn_reload(struct dmn *d) {
        struct vhk_error e = { .text = "failed" };

        if (d->program->reload(d->state, &e) < 0)
                vhk_daemon_log(NULL, VHK_LOG_ERROR, e.text);
}

static void dmn_on_signal(void *arg, int signo) {
        struct dmn *d = arg;

        if (signo == SIGHUP) {
                dmn_reload(d);
                return;
        }
        if (d->n_stops++ == 0) {
                vhk_daemon_log(NULL, VHK_LOG_INFO, "asked to end: what was accepted is completed");
                dmn_stop(d);
        } else {
                vhk_daemon_log(NULL, VHK_LOG_WARNING, "asked to end again: requests in flight are left behind");
                d->has_ended = d->is_stuck = true;
        }
}

/* Before there are threads: they inherit the mask. */
static int dmn_init_signals(struct dmn *d, struct vhk_error *ret_e) {
        uint64_t limit = DMN_DRAIN_NS + (d->options.vduse ? DMN_DRAIN_NS : 0) + DMN_END_NS;

        int ret = vhk_sigbus_install();
        if (ret < 0)
                return vhk_error_set(ret_e, ret, "daemon.signals", "no handler of SIGBUS: %s", strerror(-ret));
        return dmn_signals_start(&d->signals, d->program->reload, limit, ret_e);
}

/* Regions and rings have descriptors, hundreds of them; a manager's default limit is small. Return:
 * the limit. */
static uint64_t dmn_raise_nofile(void) {
        struct rlimit l;

        if (getrlimit(RLIMIT_NOFILE, &l) < 0)
                return UINT64_MAX;
        rlim_t soft = l.rlim_cur;
        l.rlim_cur = l.rlim_max;
        return soft < l.rlim_max && setrlimit(RLIMIT_NOFILE, &l) < 0 ? soft : l.rlim_max;
}

/* Can all queues have their descriptors? If not, those beyond the limit are not offered, unless the
 * command line asks for them (then it is an error). */
static int dmn_fit_queues(struct dmn *d, uint64_t n_fds, struct vhk_error *ret_e) {
        uint64_t others = DMN_FDS_OTHER + DMN_FDS_PER_THREAD * d->n_ring_threads, most = 1;
        char text[200];

        if (n_fds > others + DMN_FDS_PER_QUEUE)
                most = (n_fds - others) / DMN_FDS_PER_QUEUE;
        if (d->ops.n_queues <= most)
                return 0;
        if (d->options.n_queues)
                return vhk_error_set(ret_e, -EMFILE, "option.range", "--num-queues=%u needs %llu descriptors, and this process may open %llu "
                                     "(hard limit of RLIMIT_NOFILE): at most %llu queues", d->ops.n_queues,
                                     (unsigned long long)(others + DMN_FDS_PER_QUEUE * d->ops.n_queues), (unsigned long long)n_fds,
                                     (unsigned long long)most);
        d->ops.n_queues = (uint16_t)most;
        snprintf(text, sizeof(text), "%u queues are offered: this process may open %llu descriptors (hard limit of RLIMIT_NOFILE)",
                 d->ops.n_queues, (unsigned long long)n_fds);
        vhk_daemon_log(NULL, VHK_LOG_WARNING, text);
        return 0;
}

/* Alone on a CPU, spinning only delays the peer; who asks for it has a CPU for it. */
static uint64_t dmn_choose_spin_ns(const struct dmn_options *o) {
        if (o->poll_us != DMN_NO_POLL_US)
                return o->poll_us * 1000;
        return dmn_n_cpus() > 1 ? DMN_POLL_US_DEFAULT * 1000u : 0;
}

/* ---- serving ---- */

static void dmn_log_metrics(const struct dmn *d) {
        struct vhk_ring_metrics m = { .size = sizeof(m) };
        char text[200];

        for (unsigned i = 0; dmn_log_has(VHK_LOG_DEBUG) && i < d->ops.n_queues; i++) {
                if (vhk_backend_get_metrics(d->backend, i, &m) < 0 || !m.requests)
                        continue;
                snprintf(text, sizeof(text), "queue %u so far: %llu requests in %llu flushes, %llu kicks, %llu notifications, %llu faults", i,
                         (unsigned long long)m.requests, (unsigned long long)m.flushes, (unsigned long long)m.kicks,
                         (unsigned long long)m.notifications, (unsigned long long)m.faults);
                vhk_daemon_log(NULL, VHK_LOG_DEBUG, text);
        }
}

/* Comings and goings are in the back-end's own log. */
static void dmn_on_event(void *arg, enum vhk_backend_event ev, const struct vhk_error *e) {
        struct dmn *d = arg;

        if (ev == VHK_BACKEND_DISCONNECTED)
                dmn_log_metrics(d);
        if (ev != VHK_BACKEND_ENDED)
                return;
        d->is_stuck = e && !strcmp(e->rule, "backend.stuck");
        if (e && (d->is_stuck || !d->n_stops)) {
                dmn_fail(e->text);
                d->has_failed = true;
        }
        d->has_ended = true;
}

static void dmn_log_start(const struct dmn *d) {
        static const char *const kinds[] = { "single thread", "one thread for all queues", "a thread per queue" };
        char text[300];

        snprintf(text, sizeof(text), "serving %s: %u queue%s of up to %u entries, %u thread%s beside control (the device allows: %s), "
                 "polling %llu us after work",
                 d->options.socket_path ? d->options.socket_path : d->options.vduse ? "the kernel" : "an inherited socket", d->ops.n_queues,
                 d->ops.n_queues == 1 ? "" : "s", d->ops.queue_size_max, d->threads.n_rings, d->threads.n_rings == 1 ? "" : "s",
                 kinds[d->ops.threads], (unsigned long long)(d->spin_ns / 1000));
        vhk_daemon_log(NULL, VHK_LOG_INFO, text);
}

static int dmn_open_backend(struct dmn *d, struct vhk_error *ret_e) {
        const char *trace = getenv("VHK_TRACE");
        struct vhk_vduse_options vduse = { .size = sizeof(vduse), .record = d->options.vduse_record };
        struct vhk_backend_options o = {
                .size = sizeof(o),
                .has_fd = d->options.fd != DMN_NO_FD,
                .fd = d->options.fd != DMN_NO_FD ? (int)d->options.fd : -1,
                .vduse = d->options.vduse ? &vduse : NULL,
                .mode = d->options.socket_path ? VHK_SOCKET_LISTEN : VHK_SOCKET_DEFAULT,
                .control = d->threads.control,
                .on_event = dmn_on_event, .event_arg = d,
                .protocol_offer = d->offer | (d->options.postcopy ? DMN_PAGEFAULT : 0),
                .protocol_no_offer = d->no_offer,
                .quirks = d->quirks,
                .features_offer = d->options.iommu ? DMN_ACCESS_PLATFORM : 0,
                .log = vhk_daemon_log,
                .any_file_system = d->options.any_file_system,
                .trace = trace && *trace && strcmp(trace, "0") ? dmn_trace : NULL,
        };
        void *dev = d->program->get_device ? d->program->get_device(d->state) : d->state;
        VHK_AUTOFREE char *spec = NULL;
        int k;

        const char *carrier = d->options.vduse ? "vduse" : "vhost-user", *name = d->options.vduse ? d->options.vduse : d->options.socket_path;
        if (name && asprintf(&spec, "%s:%s", carrier, name) < 0) {
                spec = NULL;
                return vhk_error_set(ret_e, -ENOMEM, "daemon.memory", "out of memory");
        }
        k = vhk_backend_open(spec, &o, &d->ops, dev, &d->backend, ret_e);
        for (unsigned i = 0; k >= 0 && i < d->ops.n_queues; i++) {
                k = vhk_backend_set_worker(d->backend, i, dmn_threads_get_home(&d->threads, i));
                if (k < 0)
                        vhk_error_set(ret_e, k, "daemon.home", "queue %u cannot have its thread: %s", i, strerror(-k));
        }
        return k;
}

static int dmn_start(struct dmn *d, struct vhk_error *ret_e) {
        int k;

        d->spin_ns = dmn_choose_spin_ns(&d->options);
        d->n_ring_threads = dmn_n_ring_threads(d->ops.threads, d->ops.n_queues, (unsigned)d->options.threads);
        k = dmn_fit_queues(d, dmn_raise_nofile(), ret_e);
        if (k >= 0)
                k = dmn_init_signals(d, ret_e);
        if (k >= 0 && d->options.vduse)         /* before anything is open that would stay open there */
                k = dmn_vdpa_start(&d->vdpa, d->options.vduse, ret_e);
        if (k < 0)
                return k;
        if (d->program->open) {
                k = d->program->open(d->state, &d->ops, ret_e);
                if (k < 0)
                        return k;
        }
        d->has_opened = true;
        k = dmn_threads_start(&d->threads, dmn_n_ring_threads(d->ops.threads, d->ops.n_queues, (unsigned)d->options.threads),
                              d->spin_ns, ret_e);
        if (k < 0)
                return k;
        k = dmn_open_backend(d, ret_e);
        if (k < 0)
                return k;
        k = dmn_signals_watch(&d->signals, d->threads.control, dmn_on_signal, d);
        if (k < 0)
                return vhk_error_set(ret_e, k, "daemon.signals", "signals cannot be watched: %s", strerror(-k));
        dmn_log_start(d);
        if (d->options.vduse)
                return dmn_start_vdpa(d, ret_e);
        return 0;
}

static void dmn_end(struct dmn *d) {
        dmn_signals_begin_end(&d->signals);
        dmn_signals_unwatch(&d->signals);
        d->vdpa_timer = vhk_timer_free(d->vdpa_timer);
        dmn_vdpa_end(&d->vdpa);
        d->backend = vhk_backend_free(d->backend);
        dmn_threads_stop(&d->threads);
        if (d->has_opened && d->program->close)
                d->program->close(d->state);
        dmn_signals_stop(&d->signals);
        free(d->state);
}

VHK_API int vhk_daemon_run(const struct vhk_program *program, int argc, char **argv) {
        struct vhk_program own = { .size = sizeof(own) }, *p = &own;
        struct vhk_device_ops ops = { .size = sizeof(ops) };
        struct dmn d = { .program = p, .signals = { .signal_fd = -1, .event_fd = -1, .wake_fd = -1 }, .vdpa.fd = -1 };
        struct vhk_error e = { .text = "failed" };
        int k;

        k = vhk_open_standard_fds();
        if (k < 0)
                return EXIT_FAILURE;            /* there is no descriptor for an error message */
        if (!program || VHK_STRUCT_TAKE(&own, program, get_device) < 0 || !own.ops || VHK_STRUCT_TAKE(&ops, own.ops, reset) < 0)
                return dmn_fail("struct vhk_program or its struct vhk_device_ops: size is not set, or a member is used that is not known here");
        own.ops = &ops;
        dmn_log_init(p->name);
        if (dmn_answers(p, argc, argv))
                return dmn_flush_answer();
        d.state = calloc(1, p->state_size ? p->state_size : 1);
        if (!d.state)
                return dmn_fail("out of memory");
        k = dmn_parse(&d, argc, argv, &e);
        if (k >= 0)
                k = dmn_start(&d, &e);
        if (k < 0) {
                dmn_fail(e.text);
                d.has_failed = true;
        }
        while (k >= 0 && !d.has_ended)
                k = vhk_worker_dispatch(d.threads.control, -1);
        if (d.is_stuck)
                _exit(EXIT_FAILURE);
        dmn_end(&d);
        return d.has_failed || k < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
