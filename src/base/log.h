/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Logging is per object and silent by default: state changes and faults only, never per request. */
#pragma once

#include <vhostkit/error.h>

#include "base/base.h"

struct vhk_log {
        vhk_log_fn fn;          /* NULL: silent */
        void *arg;
};

void vhk_log(const struct vhk_log *l, enum vhk_log_level level, const char *format, ...) VHK_PRINTF(3, 4);
