/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The clock that deadlines and budgets are computed with. Any thread. */
#pragma once

#include <time.h>

#include "base/base.h"

/* One queue's work before its worker looks at its mailbox and at its other queues: 100 us. A request that blocks is not cut short. */
#define VHK_WORK_NS UINT64_C(100000)

/* CLOCK_MONOTONIC in ns; costs some 20 ns: not per request */
static inline uint64_t vhk_now(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
