/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "json.h"

#include <assert.h>
#include <string.h>

/* Length of the UTF-8 sequence at @s; 0 if it is none (overlong, surrogate, beyond U+10FFFF, cut off). */
static unsigned sequence(const unsigned char *s) {
        unsigned n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3
                     : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 0;

        for (unsigned i = 1; i < n; i++)
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
        if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)
            || (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
                return 0;
        return n;
}

static void quoted(FILE *f, const char *text) {
        const unsigned char *s = (const unsigned char *)text;

        fputc('"', f);
        while (*s) {
                unsigned n = sequence(s);
                if (!n) {
                        fputs("\\ufffd", f);
                        s++;
                        continue;
                }
                if (*s == '"' || *s == '\\')
                        fprintf(f, "\\%c", *s);
                else if (*s < 0x20 || *s == 0x7f)
                        fprintf(f, "\\u%04x", *s);
                else
                        fwrite(s, 1, n, f);
                s += n;
        }
        fputc('"', f);
}

static void begin(struct json *j, const char *name) {
        if (j->comma[j->depth])
                fputc(',', j->f);
        if (j->depth)
                fprintf(j->f, "\n%*s", (int)j->depth * 2, "");
        j->comma[j->depth] = true;
        if (name) {
                quoted(j->f, name);
                fputs(": ", j->f);
        }
}

static void open_level(struct json *j, const char *name, char c) {
        assert(j->depth + 1 < JSON_DEPTH);
        begin(j, name);
        fputc(c, j->f);
        j->comma[++j->depth] = false;
}

static void close_level(struct json *j, char c) {
        assert(j->depth);
        bool filled = j->comma[j->depth--];
        if (filled)
                fprintf(j->f, "\n%*s", (int)j->depth * 2, "");
        fputc(c, j->f);
        if (!j->depth)
                fputc('\n', j->f);
}

void json_init(struct json *j, FILE *f) {
        *j = (struct json){ .f = f };
}

void json_object(struct json *j, const char *name) {
        open_level(j, name, '{');
}

void json_end_object(struct json *j) {
        close_level(j, '}');
}

void json_array(struct json *j, const char *name) {
        open_level(j, name, '[');
}

void json_end_array(struct json *j) {
        close_level(j, ']');
}

void json_string(struct json *j, const char *name, const char *text) {
        begin(j, name);
        if (text)
                quoted(j->f, text);
        else
                fputs("null", j->f);
}

void json_uint(struct json *j, const char *name, uint64_t v) {
        begin(j, name);
        fprintf(j->f, "%llu", (unsigned long long)v);
}

void json_bool(struct json *j, const char *name, bool v) {
        begin(j, name);
        fputs(v ? "true" : "false", j->f);
}

void json_double(struct json *j, const char *name, double v) {
        begin(j, name);
        if (v - v == 0)                 /* neither infinite nor not a number */
                fprintf(j->f, "%.9g", v);
        else
                fputs("null", j->f);
}

void json_null(struct json *j, const char *name) {
        begin(j, name);
        fputs("null", j->f);
}
