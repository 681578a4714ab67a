/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Signals of a daemon, and the limit of its end. A thread of its own takes the signals: it waits
 * for nothing else, so that the process ends within its limit whatever control and the threads of
 * the rings wait for.
 */
#pragma once

#include <pthread.h>
#include <vhostkit/error.h>
#include <vhostkit/worker.h>

#include "base/base.h"

/* On control, for each SIGTERM, SIGINT and SIGHUP that has come. */
typedef void (*dmn_signal_fn)(void *arg, int signo);

struct dmn_signals {
        dmn_signal_fn fn;
        void *arg;
        uint64_t limit_ns;              /* from the first SIGTERM or SIGINT to the end of the process */
        int signal_fd, event_fd, wake_fd;
        bool is_running;
        pthread_t thread;
        struct vhk_watch *watch;
        uint32_t n_reload, n_stop;      /* shared (atomic): received, and not yet passed to control */
        uint64_t deadline;              /* shared (atomic): CLOCK_MONOTONIC, ns; 0: none */
        bool is_over;                   /* shared (atomic): the thread ends */
};

/* Before there are other threads: they inherit the mask. @has_reload: SIGHUP too. */
int dmn_signals_start(struct dmn_signals *s, bool has_reload, uint64_t limit_ns, struct vhk_error *ret_e);
/* From now on @fn is called on @control, also for what has come already. */
int dmn_signals_watch(struct dmn_signals *s, struct vhk_worker *control, dmn_signal_fn fn, void *arg);
/* The end has begun without a signal: the limit counts from now on. */
void dmn_signals_begin_end(struct dmn_signals *s);
void dmn_signals_unwatch(struct dmn_signals *s);        /* while there is a control worker */
void dmn_signals_stop(struct dmn_signals *s);
