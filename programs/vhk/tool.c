/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "tool.h"

#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

volatile int tool_interrupted;

static const char *name;                /* of the subcommand, once known */

void tool_set_name(const char *subcommand) {
        name = subcommand;
}

/* A line that names the peer's words never carries the peer's control characters. */
__attribute__((format(printf, 1, 0))) static void print_line(const char *format, va_list args) {
        char text[1024];

        vsnprintf(text, sizeof(text), format, args);
        for (char *p = text; *p; p++)
                if ((unsigned char)*p < 0x20 || *p == 0x7f)
                        *p = '?';
        fflush(stdout);
        fprintf(stderr, "vhk%s%s: %s\n", name ? " " : "", name ? name : "", text);
}

enum tool_status tool_fail(const char *format, ...) {
        va_list args;

        va_start(args, format);
        print_line(format, args);
        va_end(args);
        return TOOL_FAILED;
}

enum tool_status tool_usage(const char *format, ...) {
        va_list args;

        va_start(args, format);
        print_line(format, args);
        va_end(args);
        return TOOL_USAGE;
}

static void on_interrupt(int signal) {
        tool_interrupted = 1;
}

void tool_catch_interrupt(void) {
        /* No SA_RESTART: a sleep ends. SA_RESETHAND: who is in a hurry interrupts twice. */
        struct sigaction sa = { .sa_handler = on_interrupt, .sa_flags = SA_RESETHAND };

        sigaction(SIGINT, &sa, NULL);
        sigaction(SIGTERM, &sa, NULL);
}

uint64_t tool_now(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * TOOL_S + (uint64_t)t.tv_nsec;
}

bool tool_is_utf8(void) {
        setlocale(LC_CTYPE, "");        /* LC_NUMERIC stays "C": numbers are for programs too */
        return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

void tool_sleep(uint64_t ns) {
        struct timespec t = { .tv_sec = (time_t)(ns / TOOL_S), .tv_nsec = (long)(ns % TOOL_S) };

        if (!tool_interrupted)
                nanosleep(&t, NULL);
}
