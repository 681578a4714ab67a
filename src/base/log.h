/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Logging is per object and silent by default: state changes and faults only, never per request.
 *
 * A peer can bring about a fault as often as it likes. So an object that serves a peer has a limit:
 * of lines with the same id VHK_LOG_BURST in each VHK_LOG_WINDOW_NS; how many were left out stands
 * in a line of its own later. Any thread.
 */
#pragma once

#include <vhostkit/error.h>

#include "base/base.h"

#define VHK_LOG_BURST 20u
#define VHK_LOG_WINDOW_NS UINT64_C(10000000000)

/* Zero it. All fields are shared (atomic), relaxed: what is lost to a race is a line more or
 * less. */
struct vhk_log_limit {
        struct vhk_log_count {
                const char *id;
                uint64_t begin;         /* of the window: CLOCK_MONOTONIC, ns */
                uint32_t n;             /* lines of it */
        } counts[24];                   /* the last one is for all further ids */
};

struct vhk_log {
        vhk_log_fn fn;                  /* NULL: silent */
        void *arg;
        struct vhk_log_limit *limit;    /* NULL: none */
};

/* The format is the id. */
void vhk_log(const struct vhk_log *l, enum vhk_log_level level, const char *format, ...) VHK_PRINTF(3, 4);
/* @id: a static string, an error id for instance; NULL: the format */
void vhk_log_id(const struct vhk_log *l, enum vhk_log_level level, const char *id, const char *format, ...) VHK_PRINTF(4, 5);
