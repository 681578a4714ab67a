/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The daemon's log: lines on standard error. Any thread. A line never waits for long: standard
 * error may be a pipe that is not read. Lines that found no room are counted, and the next one that
 * does says how many are missing.
 */
#pragma once

#include <vhostkit/error.h>

#include "base/base.h"

/* Before there are threads: the program's name, and the level that VHK_LOG asks for. */
void dmn_log_init(const char *name);
bool dmn_log_has(enum vhk_log_level level);
/* NAME: TEXT, whatever the level. */
void dmn_log_line(const char *text);
/* Without the name: lines of the trace. */
void dmn_log_raw(const char *text);
