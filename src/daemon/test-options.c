/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "base/test.h"

#include "base/base.h"
#include "daemon/options.h"

struct state {
        const char *path;
        uint64_t n;
        int flag, word;
};

static const char *const words[] = { "io_uring", "sync", "null", NULL };
static const struct vhk_option table[] = {
        { "blk-file", VHK_OPTION_STRING, offsetof(struct state, path), "PATH", "the file", .letter = 'b' },
        { "queue-size", VHK_OPTION_UINT, offsetof(struct state, n), "N", "size", .min = 2, .max = 1 << 20, .letter = 'q' },
        { "read-only", VHK_OPTION_FLAG, offsetof(struct state, flag), NULL, "no writes", .letter = 'r' },
        { "engine", VHK_OPTION_ENUM, offsetof(struct state, word), "NAME", "who", .values = words },
        { NULL },
};

struct row {
        const char *name;
        const char *argv[8];
        int result, n_rest;
        const char *rule, *text;        /* with result < 0; the text is a part of the sentence */
        struct state want;
};

static const struct row rows[] = {
        { "nothing", { "p" } },
        { "equals", { "p", "--blk-file=a", "--queue-size=64", "--read-only", "--engine=null" }, .want = { "a", 64, 1, 2 } },
        { "space", { "p", "--blk-file", "a", "--queue-size", "64" }, .want = { "a", 64, 0, 0 } },
        { "letters", { "p", "-b", "a", "-r", "-q64" }, .want = { "a", 64, 1, 0 } },
        { "letter with equals", { "p", "-b=a" }, .want = { "a" } },
        { "value with equals", { "p", "--blk-file=a=b" }, .want = { "a=b" } },
        { "value that looks like an option", { "p", "--blk-file", "--x" }, .want = { "--x" } },
        { "rest", { "p", "x", "-r", "y", "--", "-q" }, .n_rest = 3, .want = { NULL, 0, 1, 0 } },
        { "a dash is no option", { "p", "-" }, .n_rest = 1 },
        { "suffix", { "p", "--queue-size=4k" }, .want = { NULL, 4096 } },
        { "upper suffix", { "p", "--queue-size=1M" }, .want = { NULL, 1 << 20 } },
        { "smallest", { "p", "--queue-size=2" }, .want = { NULL, 2 } },
        { "too small", { "p", "--queue-size=1" }, -EINVAL, 0, "option.range", "--queue-size=1: out of range, must be from 2 to 1048576" },
        { "too large", { "p", "--queue-size=1048577" }, -EINVAL, 0, "option.range", "from 2 to" },
        { "more than 64 bits", { "p", "--queue-size=18446744073709551616" }, -EINVAL, 0, "option.range", "from 2 to" },
        { "more than 64 bits by suffix", { "p", "--queue-size=18446744073709551615T" }, -EINVAL, 0, "option.range", "from 2 to" },
        { "negative", { "p", "--queue-size=-1" }, -EINVAL, 0, "option.number", "--queue-size=-1: must be a whole number" },
        { "letters for a number", { "p", "--queue-size=many" }, -EINVAL, 0, "option.number", "must be a whole number" },
        { "suffix alone", { "p", "--queue-size=K" }, -EINVAL, 0, "option.number", "must be a whole number" },
        { "behind the suffix", { "p", "--queue-size=1KB" }, -EINVAL, 0, "option.number", "must be a whole number" },
        { "empty number", { "p", "--queue-size=" }, -EINVAL, 0, "option.number", "must be a whole number" },
        { "empty text", { "p", "--blk-file=" }, -EINVAL, 0, "option.value", "--blk-file: needs a value" },
        { "no value", { "p", "--blk-file" }, -EINVAL, 0, "option.value", "--blk-file: needs a value" },
        { "no value behind a letter", { "p", "-b" }, -EINVAL, 0, "option.value", "--blk-file: needs a value" },
        { "flag with a value", { "p", "--read-only=1" }, -EINVAL, 0, "option.value", "--read-only: takes no value" },
        { "unknown word", { "p", "--engine=fast" }, -EINVAL, 0, "option.word", "--engine=fast: must be one of io_uring, sync, null" },
        { "typo", { "p", "--blk-fiel=x" }, -EINVAL, 0, "option.unknown", "unknown option --blk-fiel (nearest: --blk-file)" },
        { "typo of a flag", { "p", "--readonly" }, -EINVAL, 0, "option.unknown", "(nearest: --read-only)" },
        { "beginning", { "p", "--eng=sync" }, -EINVAL, 0, "option.unknown", "(nearest: --engine)" },
        { "far from all", { "p", "--zzzzzzzzzzzz" }, -EINVAL, 0, "option.unknown", "unknown option --zzzzzzzzzzzz (--help" },
        { "unknown letter", { "p", "-z" }, -EINVAL, 0, "option.unknown", "unknown option -z (--help" },
};

TEST(rows) {
        for (unsigned i = 0; i < VHK_N(rows); i++) {
                const struct row *r = &rows[i];
                struct state s = { 0 };
                struct vhk_error e = { 0 };
                char *argv[8] = { 0 };
                int argc = 0, n_rest = -1;

                for (; r->argv[argc]; argc++)
                        argv[argc] = (char *)r->argv[argc];
                int k = vhk_options_parse(table, &s, argc, argv, &n_rest, &e);
                CHECK_MSG(k == r->result, "%s: gave %d", r->name, k);
                if (k < 0) {
                        CHECK_MSG(!strcmp(e.rule, r->rule), "%s: rule %s", r->name, e.rule);
                        CHECK_MSG(strstr(e.text, r->text), "%s: \"%s\" lacks \"%s\"", r->name, e.text, r->text);
                        CHECK_MSG(n_rest == -1, "%s: output touched", r->name);
                        continue;
                }
                CHECK_MSG(n_rest == r->n_rest, "%s: %d left over", r->name, n_rest);
                CHECK_MSG(s.n == r->want.n && s.flag == r->want.flag && s.word == r->want.word, "%s: values", r->name);
                CHECK_MSG(!!s.path == !!r->want.path && (!s.path || !strcmp(s.path, r->want.path)), "%s: path", r->name);
        }
}

TEST(rest_is_moved_to_the_front) {
        const char *given[] = { "p", "one", "-r", "--", "--two" };
        char *argv[6] = { 0 };
        struct state s = { 0 };
        int n;

        memcpy(argv, given, sizeof(given));
        CHECK_OK(vhk_options_parse(table, &s, 5, argv, &n, NULL));
        CHECK_EQ(n, 2);
        CHECK_STR(argv[1], "one");
        CHECK_STR(argv[2], "--two");
}

TEST(long_names_are_cut) {
        char name[400] = "--";
        char *argv[] = { (char *)"p", name, NULL };
        struct vhk_error e;
        struct state s = { 0 };
        int n;

        memset(name + 2, 'q', sizeof(name) - 3);
        CHECK_EQ(vhk_options_parse(table, &s, 2, argv, &n, &e), -EINVAL);
        CHECK(strlen(e.text) < 120);
}
