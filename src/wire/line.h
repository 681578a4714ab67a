/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A line for people that grows until its room is used up, and the fields of a payload in it. Any thread. */
#pragma once

#include "base/base.h"

struct vhk_line {
        char *buf;                      /* always terminated */
        size_t size, len;
};
void vhk_line_add(struct vhk_line *o, const char *format, ...) VHK_PRINTF(2, 3);

enum vhk_line_format { VHK_LINE_END, VHK_LINE_DEC, VHK_LINE_HEX, VHK_LINE_PAD };
struct vhk_line_field {
        uint8_t format, bytes;          /* enum vhk_line_format */
        uint16_t offset;
        const char *name;
};
/* Those that lie in the payload's @size bytes; " name value" each. @f ends with VHK_LINE_END. */
void vhk_line_add_fields(struct vhk_line *o, const struct vhk_line_field *f, const uint8_t *payload, uint32_t size);
/* " (8 bytes, 1 fd"; the caller closes the bracket, behind what else there is to say. */
void vhk_line_add_sizes(struct vhk_line *o, uint32_t bytes, unsigned n_fds);
/* A field of 1, 2, 4 or 8 bytes, of any alignment. */
uint64_t vhk_line_load(const void *p, unsigned bytes);
