/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Filling the caller's struct vhk_error; see <vhostkit/error.h>. Any thread. */
#pragma once

#include <stdarg.h>
#include <vhostkit/error.h>

#include "base/base.h"

/* Fills *e (which may be NULL) and returns @code, so that `return vhk_error_set(...)` reads as one thought.
 * @rule is a static string, @code a negative errno. */
int vhk_error_set(struct vhk_error *e, int code, const char *rule, const char *format, ...) VHK_PRINTF(4, 5);
int vhk_error_vset(struct vhk_error *e, int code, const char *rule, const char *format, va_list ap) VHK_PRINTF(4, 0);
