/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The threads of a daemon: control is the calling thread, each ring worker has one of its own. All from control. */
#pragma once

#include <vhostkit/device.h>
#include <vhostkit/error.h>

#include "base/base.h"

struct dmn_ring_thread;

struct dmn_threads {
        struct vhk_worker *control;
        struct dmn_ring_thread *rings;
        unsigned n_rings;               /* 0: control is home of the rings as well */
};

/* CPUs in this process's affinity mask, at least 1 */
unsigned dmn_n_cpus(void);

/* How many ring threads @wanted (0: choose) becomes for such a device */
unsigned dmn_n_ring_threads(enum vhk_threads kind, unsigned n_queues, unsigned wanted);

int dmn_threads_start(struct dmn_threads *t, unsigned n_rings, uint64_t spin_ns, struct vhk_error *ret_e);
void dmn_threads_stop(struct dmn_threads *t);                           /* half-built ones too */
struct vhk_worker *dmn_threads_get_home(struct dmn_threads *t, unsigned queue);
