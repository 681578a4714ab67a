/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What was measured, for people and for programs.
 */
#pragma once

#include "load.h"

/** report_print() - IOPS, MB/s, percentiles, CPU time, histogram */
void report_print(const struct load_job *job, const struct load_result *r, FILE *f);
/** report_print_json() - the same; the keys are listed in vhk(1) and do not change */
void report_print_json(const char *endpoint, bool polling, const struct load_job *job, const struct load_result *r, FILE *f);
/** report_pattern() - "randread" ... */
const char *report_pattern(const struct load_job *job);
/** report_format_rate() - "812", "45.2 K", "7.03 M"; returns @buf */
const char *report_format_rate(char *buf, size_t n, double rate);
