/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* struct vhk_error, log lines and the version. Any thread, no state. */
#include "base/error.h"

#include <stdio.h>
#include <time.h>

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

/* ---- log lines ---- */

static struct vhk_log_count *log_count_of(struct vhk_log_limit *limit, const char *id) {
        struct vhk_log_count *c = limit->counts;

        for (unsigned i = 0; i + 1 < VHK_N(limit->counts); i++, c++) {
                const char *old = NULL;
                if (vhk_load_relaxed(&c->id) == id ||
                    __atomic_compare_exchange_n(&c->id, &old, id, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED) || old == id)
                        break;
        }
        return c;
}

/* May a line of @id be written? *ret_left_out: lines of it that were not, in the window before. */
static bool log_take(struct vhk_log_limit *limit, const char *id, uint32_t *ret_left_out) {
        struct vhk_log_count *c = log_count_of(limit, id);
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        uint64_t now = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec, begin = vhk_load_relaxed(&c->begin);
        if (begin && now - begin < VHK_LOG_WINDOW_NS)
                return __atomic_fetch_add(&c->n, 1, __ATOMIC_RELAXED) < VHK_LOG_BURST;
        if (!__atomic_compare_exchange_n(&c->begin, &begin, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
                return true;
        uint32_t n = __atomic_exchange_n(&c->n, 1, __ATOMIC_RELAXED);
        *ret_left_out = n > VHK_LOG_BURST ? n - VHK_LOG_BURST : 0;
        return true;
}

static VHK_PRINTF(4, 0) void log_line(const struct vhk_log *l, enum vhk_log_level level, const char *id, const char *format, va_list ap) {
        uint32_t left_out = 0;
        char text[512];

        if (!l || !l->fn || (l->limit && !log_take(l->limit, id, &left_out)))
                return;
        if (left_out) {
                snprintf(text, sizeof(text), "%u lines like the next one were left out", left_out);
                l->fn(l->arg, level, text);
        }
        vsnprintf(text, sizeof(text), format, ap);
        l->fn(l->arg, level, text);
}

void vhk_log(const struct vhk_log *l, enum vhk_log_level level, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        log_line(l, level, format, format, ap);
        va_end(ap);
}

void vhk_log_id(const struct vhk_log *l, enum vhk_log_level level, const char *id, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        log_line(l, level, id ? id : format, format, ap);
        va_end(ap);
}
