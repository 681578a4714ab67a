/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A writer of JSON (RFC 8259): whatever bytes a string holds, the output is valid UTF-8 JSON. A name is NULL inside an
 * array and at the top.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_DEPTH 16

struct json {
        FILE *f;
        unsigned depth;
        bool comma[JSON_DEPTH];         /* something stands before, at this depth */
};

void json_init(struct json *j, FILE *f);
void json_object(struct json *j, const char *name);     /* until json_end_object() */
void json_end_object(struct json *j);
void json_array(struct json *j, const char *name);      /* until json_end_array() */
void json_end_array(struct json *j);
void json_string(struct json *j, const char *name, const char *text);   /* NULL: null */
void json_uint(struct json *j, const char *name, uint64_t v);
void json_bool(struct json *j, const char *name, bool v);
void json_double(struct json *j, const char *name, double v);           /* not finite: null */
void json_null(struct json *j, const char *name);
