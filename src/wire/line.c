/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Lines for people; both printers are made of this. Any thread; reads no byte beyond the size that it is told. */
#include <stdarg.h>
#include <stdio.h>

#include "wire/line.h"
#include "wire/wire.h"

void vhk_line_add(struct vhk_line *o, const char *format, ...) {
        va_list ap;
        int n;

        if (o->len + 1 >= o->size)
                return;
        va_start(ap, format);
        n = vsnprintf(o->buf + o->len, o->size - o->len, format, ap);
        va_end(ap);
        if (n > 0)
                o->len = VHK_MIN(o->len + (size_t)n, o->size - 1);
}

uint64_t vhk_line_load(const void *p, unsigned bytes) {
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64 = 0;

        switch (bytes) {
        case 1: memcpy(&u8, p, 1); return u8;
        case 2: memcpy(&u16, p, 2); return u16;
        case 4: memcpy(&u32, p, 4); return u32;
        default: memcpy(&u64, p, 8); return u64;
        }
}

void vhk_line_add_fields(struct vhk_line *o, const struct vhk_line_field *f, const uint8_t *payload, uint32_t size) {
        for (; f->format; f++) {
                if (f->format == VHK_LINE_PAD || (uint32_t)f->offset + f->bytes > size)
                        continue;
                uint64_t v = vhk_line_load(payload + f->offset, f->bytes);
                const char *name = !strcmp(f->name, "index") ? "ring" : f->name;
                vhk_line_add(o, f->format == VHK_LINE_HEX ? " %s 0x%llx" : " %s %llu", name, (unsigned long long)v);
        }
}

void vhk_line_add_sizes(struct vhk_line *o, uint32_t bytes, unsigned n_fds) {
        vhk_line_add(o, bytes == 1 ? " (%u byte" : " (%u bytes", bytes);
        if (n_fds == VHK_FDS_LOST)
                vhk_line_add(o, ", fds lost");
        else if (n_fds)
                vhk_line_add(o, n_fds == 1 ? ", %u fd" : ", %u fds", n_fds);
        else
                vhk_line_add(o, ", no fds");
}
