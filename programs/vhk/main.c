/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk: a tool around virtio devices, vhost-user's and the kernel's. This file reads the command line after the table below; each
 * subcommand (or group of them) has a file of its own and uses public headers only. One thread, but for the queues of `vhk bench`.
 */
#include "tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <vhostkit/error.h>

static const struct tool_command *const commands[] = {
        &probe_command, &ping_command, &bench_command, &demo_command,
#if VHK_WITH_KERNEL
        &vdpa_command,
#endif
        NULL,
};

/* The last word of its name: a member of a group has the group's before it. */
static const char *word_of(const struct tool_command *c) {
        const char *blank = strrchr(c->name, ' ');

        return blank ? blank + 1 : c->name;
}

static void print_list(const struct tool_command *const *list) {
        printf("subcommands:\n");
        for (; *list; list++)
                printf("  %-7s %s\n", word_of(*list), (*list)->summary);
}

static void print_usage(void) {
        printf("vhk: who is behind this endpoint, is it right, and how fast is it?\n\n"
               "usage: vhk SUBCOMMAND ENDPOINT [OPTION...]\n\n");
        print_list(commands);
        printf("\nENDPOINT is vhost-user:PATH or PATH of a listening unix socket, or fd:N, an inherited socket; of the kernel's devices\n"
               "vhost-vdpa:NAME, vhost-net:, vhost-vsock: or vhost-scsi:.\n"
               "vhk SUBCOMMAND --help lists the options; vhk --version prints the version.\n"
               "Exit status: 0, 1 failed, 2 wrong use, 3 the back-end is busy with another front-end.\n");
}

static void print_command(const struct tool_command *c) {
        printf("vhk %s: %s\n\nusage: vhk %s %s\n\n%s\n\noptions:\n", c->name, c->summary, c->name, c->synopsis, c->about);
        vhk_options_print(c->options);
}

/* Letters to insert, delete or exchange until @a is @b; words are short. */
static unsigned distance(const char *a, const char *b) {
        unsigned row[24], n = (unsigned)strlen(b);

        if (n >= TOOL_N(row) || strlen(a) >= TOOL_N(row))
                return TOOL_N(row);
        for (unsigned j = 0; j <= n; j++)
                row[j] = j;
        for (unsigned i = 1; a[i - 1]; i++) {
                unsigned left_up = row[0];
                row[0] = i;
                for (unsigned j = 1; j <= n; j++) {
                        unsigned up = row[j], best = left_up + (a[i - 1] != b[j - 1]);
                        best = up + 1 < best ? up + 1 : best;
                        best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
                        left_up = up;
                        row[j] = best;
                }
        }
        return row[n];
}

static enum tool_status unknown_command(const struct tool_command *const *list, const char *word) {
        const char *nearest = NULL;
        unsigned least = 3;

        for (; *list; list++) {
                unsigned d = distance(word, word_of(*list));
                if (d < least) {
                        least = d;
                        nearest = word_of(*list);
                }
        }
        if (nearest)
                return tool_usage("unknown subcommand \"%s\"; did you mean \"%s\"?", word, nearest);
        return tool_usage("unknown subcommand \"%s\"; --help lists them", word);
}

static const struct tool_command *find_command(const struct tool_command *const *list, const char *word) {
        while (*list && strcmp(word, word_of(*list)))
                list++;
        return *list;
}

/* @argv[0] is the subcommand's name. */
static enum tool_status run_command(const struct tool_command *c, int argc, char **argv) {
        struct vhk_error e = { 0 };
        int n_rest = 0, n_arguments = 0;
        void *state = malloc(c->state_size);

        if (!state)
                return tool_fail("out of memory");
        memcpy(state, c->defaults, c->state_size);
        tool_set_name(c->name);
        while (n_arguments < (int)TOOL_N(c->arguments) && c->arguments[n_arguments])
                n_arguments++;
        int k = vhk_options_parse(c->options, state, argc, argv, &n_rest, &e);
        enum tool_status status = TOOL_OK;
        if (k < 0)
                status = tool_usage("%s", e.text[0] ? e.text : strerror(-k));
        else if (*(const int *)state)
                print_command(c);
        else if (n_rest < n_arguments)
                status = tool_usage("%s is missing; usage: vhk %s %s", c->arguments[n_rest], c->name, c->synopsis);
        else if (n_rest > n_arguments)
                status = tool_usage("\"%s\" is one argument too many; usage: vhk %s %s", argv[1 + n_arguments], c->name, c->synopsis);
        else
                status = c->run(state, argv + 1);
        free(state);
        return status;
}

static bool is_help(const char *word) {
        return !strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help");
}

/* @argv[0] is the group's name. */
static enum tool_status run_group(const struct tool_command *c, int argc, char **argv) {
        const char *word = argc > 1 ? argv[1] : "--help";

        if (is_help(word)) {
                printf("vhk %s: %s\n\nusage: vhk %s SUBCOMMAND ...\n\n", c->name, c->summary, c->name);
                print_list(c->group);
                return argc > 1 ? TOOL_OK : TOOL_USAGE;
        }
        tool_set_name(c->name);
        const struct tool_command *member = find_command(c->group, word);
        return member ? run_command(member, argc - 1, argv + 1) : unknown_command(c->group, word);
}

static enum tool_status dispatch(int argc, char **argv) {
        if (argc < 2) {
                print_usage();
                return TOOL_USAGE;
        }
        const char *word = argv[1];
        if (is_help(word)) {
                print_usage();
                return TOOL_OK;
        }
        if (!strcmp(word, "--version")) {
                printf("vhk %s\n", vhk_version());
                return TOOL_OK;
        }
        const struct tool_command *c = find_command(commands, word);
        if (c)
                return c->group ? run_group(c, argc - 1, argv + 1) : run_command(c, argc - 1, argv + 1);
        if (word[0] == '-')
                return tool_usage("unknown option \"%s\"; options stand behind the subcommand (vhk --help)", word);
        return unknown_command(commands, word);
}

int main(int argc, char **argv) {
        if (vhk_open_standard_fds() < 0)
                return TOOL_FAILED;
        enum tool_status status = dispatch(argc, argv);

        int ret = fflush(stdout);
        int error = ret ? errno : EIO;          /* of a write before this one, the reason is lost */
        if ((ret || ferror(stdout)) && status == TOOL_OK)
                return tool_fail("cannot write the output: %s", strerror(error));
        return status;
}
