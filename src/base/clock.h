/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The clock of all time limits: CLOCK_MONOTONIC in nanoseconds. UINT64_MAX is "never". Any
 * thread. */
#pragma once

#include <time.h>

#include "base/base.h"

/* One queue's work before its worker looks at its mailbox and at its other queues: 100 us. A
 * request that blocks is not cut short. */
#define VHK_WORK_NS UINT64_C(100000)

/* Costs some 20 ns: not per request. */
static inline uint64_t vhk_now_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* @start + @ns, at most UINT64_MAX. */
static inline uint64_t vhk_time_after(uint64_t start, uint64_t ns) {
        uint64_t end;

        return vhk_add_overflows(start, ns, &end) ? UINT64_MAX : end;
}

/* What is left until @deadline as a time-out of poll(2): rounded up, 0 when it is over, at most an
 * hour. */
static inline int vhk_poll_timeout_ms(uint64_t deadline) {
        uint64_t now = vhk_now_ns();

        if (now >= deadline)
                return 0;
        return deadline - now >= 3600000000000u ? 3600000 : (int)((deadline - now + 999999) / 1000000);
}
