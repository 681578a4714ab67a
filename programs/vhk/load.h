/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Load on a disk: a thread per queue keeps a fixed number of requests in flight for some time and counts how long each took.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <vhostkit/blk.h>

#include "hist.h"

/**
 * struct load_job - what to do
 * @ns: for how long
 * @limit_ns: how long the device may do nothing at all while requests are in flight
 * @server_pid: whose CPU time to read before and after; 0: nobody's
 * @tick_ns: call @on_tick so often, on the calling thread; 0: never
 */
struct load_job {
        bool write, random;
        uint32_t block_size;
        unsigned depth, n_queues;
        uint64_t ns, limit_ns;
        pid_t server_pid;
        uint64_t tick_ns;
        void (*on_tick)(void *arg, uint64_t elapsed_ns, uint64_t n_done);
        void *arg;
};

/**
 * struct load_result - what came of it
 * @n, @bytes: requests that were answered with success, and their data
 * @n_bursts: times that answers were found, one or more at once
 * @ns: from the first submission to the last answer
 * @client_cpu_ns: CPU time of this process; @server_cpu_ns: of job.server_pid, UINT64_MAX where it is not known
 * @latency: of each request, from submission of its burst to the burst of answers that brought it
 * @error, @error_offset: first failure: the negative errno and where; 0: none
 */
struct load_result {
        uint64_t n, n_bursts, bytes, ns, client_cpu_ns, server_cpu_ns;
        int error;
        uint64_t error_offset;
        struct hist latency;
};

/**
 * load_run() - do it; ends early when tool_interrupted is set or a request fails
 *
 * Everything submitted is reaped before it returns, unless the device fell silent.
 * Return: 0 (also when requests failed: see @ret_r->error), or a negative errno: nothing was measured. -ENODEV: the
 * disk is smaller than a block.
 */
int load_run(struct vhk_blk *b, const struct load_job *job, struct load_result *ret_r);

/** load_cpu_ns() - CPU time of a process, all threads, from /proc; UINT64_MAX where it cannot be read */
uint64_t load_cpu_ns(pid_t pid);
