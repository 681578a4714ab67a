/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "base/test.h"

#include <math.h>

#include "json.h"

static char text[4096];

static FILE *begin(struct json *j) {
        FILE *f = fmemopen(text, sizeof(text), "w");

        CHECK(f);
        json_init(j, f);
        return f;
}

/* The only string of an array, as written. */
static const char *escaped(const char *s) {
        struct json j;
        FILE *f = begin(&j);

        json_array(&j, NULL);
        json_string(&j, NULL, s);
        json_end_array(&j);
        fclose(f);
        CHECK(!strncmp(text, "[\n  ", 4) && !strcmp(text + strlen(text) - 3, "\n]\n"));
        text[strlen(text) - 3] = 0;
        return text + 4;
}

TEST(structure) {
        struct json j;
        FILE *f = begin(&j);

        json_object(&j, NULL);
        json_uint(&j, "a", UINT64_MAX);
        json_array(&j, "b");
        json_bool(&j, NULL, true);
        json_null(&j, NULL);
        json_object(&j, NULL);
        json_end_object(&j);
        json_end_array(&j);
        json_array(&j, "c");
        json_end_array(&j);
        json_double(&j, "d", 1.5);
        json_double(&j, "e", (double)NAN);
        json_double(&j, "f", (double)-INFINITY);
        json_string(&j, "g", NULL);
        json_end_object(&j);
        fclose(f);
        CHECK_STR(text, "{\n  \"a\": 18446744073709551615,\n  \"b\": [\n    true,\n    null,\n    {}\n  ],\n  \"c\": [],\n"
                        "  \"d\": 1.5,\n  \"e\": null,\n  \"f\": null,\n  \"g\": null\n}\n");
}

TEST(escapes) {
        CHECK_STR(escaped("plain /path"), "\"plain /path\"");
        CHECK_STR(escaped("a\"b\\c"), "\"a\\\"b\\\\c\"");
        CHECK_STR(escaped("\n\t\x01\x7f"), "\"\\u000a\\u0009\\u0001\\u007f\"");
        CHECK_STR(escaped(""), "\"\"");
}

TEST(what_is_utf8_stays) {
        CHECK_STR(escaped("é€😀"), "\"é€😀\"");
        CHECK_STR(escaped("\xf4\x8f\xbf\xbf"), "\"\xf4\x8f\xbf\xbf\"");
}

TEST(what_is_not_utf8_is_replaced) {
        CHECK_STR(escaped("\xff"), "\"\\ufffd\"");
        CHECK_STR(escaped("x\xc3"), "\"x\\ufffd\"");                            /* cut off */
        CHECK_STR(escaped("\xc0\xaf"), "\"\\ufffd\\ufffd\"");                   /* overlong */
        CHECK_STR(escaped("\xe0\x80\xaf"), "\"\\ufffd\\ufffd\\ufffd\"");
        CHECK_STR(escaped("\xed\xa0\x80"), "\"\\ufffd\\ufffd\\ufffd\"");        /* surrogate */
        CHECK_STR(escaped("\xf4\x90\x80\x80"), "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
        CHECK_STR(escaped("\xe2\x82\"x"), "\"\\ufffd\\ufffd\\\"x\"");
}
