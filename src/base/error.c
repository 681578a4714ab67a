/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* struct vhk_error, log lines and the version. Any thread, no state. */
#include "base/error.h"

#include <stdio.h>

#include "base/log.h"

VHK_API const char *vhk_version(void) {
        return VHK_VERSION;
}

int vhk_error_vset(struct vhk_error *e, int code, const char *rule, const char *format, va_list ap) {
        assert(code < 0);
        if (e) {
                e->code = code;
                e->rule = rule;
                vsnprintf(e->text, sizeof(e->text), format, ap);
        }
        return code;
}

int vhk_error_set(struct vhk_error *e, int code, const char *rule, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vhk_error_vset(e, code, rule, format, ap);
        va_end(ap);
        return code;
}

void vhk_log(const struct vhk_log *l, enum vhk_log_level level, const char *format, ...) {
        char text[512];
        va_list ap;

        if (!l || !l->fn)
                return;
        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        l->fn(l->arg, level, text);
}
