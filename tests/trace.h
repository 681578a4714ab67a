/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Reads the traces of tests/traces (tests/lab/traces.py says what they look like and who writes them).
 */
#pragma once

#include <inttypes.h>

#include "base/test.h"
#include "wire/wire.h"

extern const char vhk_traces_dir[];     /* made by meson */

#define MAX_TRACES 32u
#define MAX_LINES 400u

struct trace_fd {
        char kind[12];                          /* eventfd, socket, pipe, memfd, file */
        uint64_t size;
        unsigned n;                             /* which file, of memfd and file */
};

struct trace_line {
        char direction;                         /* > < } { */
        struct vhk_hdr h;
        uint8_t payload[VHK_MAX_PAYLOAD];
        struct trace_fd fds[VHK_MAX_FDS];
        unsigned n_fds;
};

struct trace {
        char name[64], front_end[64], back_end[64];
        unsigned virtio_id, n;
        struct trace_line lines[MAX_LINES];     /* without those on the display's socket */
};

/* A message on the display's socket. */
struct trace_display_line {
        char direction;                         /* ) ( */
        struct vhk_hdr h;
        uint8_t payload[65536];
        unsigned n_fds;
};

static inline uint64_t trace_u64(const struct trace_line *l) {
        uint64_t x;
        memcpy(&x, l->payload, sizeof(x));
        return x;
}

static inline struct vhk_p_vring_state trace_state(const struct trace_line *l) {
        struct vhk_p_vring_state s;
        memcpy(&s, l->payload, sizeof(s));
        return s;
}

static inline bool trace_asks(const struct trace_line *l, uint32_t id) {
        return l->direction == '>' && l->h.request == id;
}

static inline size_t trace_hex(const char *word, void *to, size_t room) {
        size_t n = 0;
        unsigned byte;

        for (; word[2 * n] && word[2 * n + 1]; n++) {
                CHECK(n < room && sscanf(word + 2 * n, "%2x", &byte) == 1);
                ((uint8_t *)to)[n] = (uint8_t)byte;
        }
        return n;
}

/* "-", bytes in hexadecimal, and behind a + a number of zeroes; how many there are. */
static inline size_t trace_bytes(char *word, uint8_t *to, size_t room) {
        char *more = strchr(word, '+');
        size_t n_zeroes = more ? (size_t)atol(more + 1) : 0;

        if (!strcmp(word, "-"))
                return 0;
        if (more)
                *more = '\0';
        size_t n = trace_hex(word, to, room);
        CHECK(n_zeroes <= room - n);
        memset(to + n, 0, n_zeroes);
        return n + n_zeroes;
}

static inline void trace_read_line(struct trace_line *l, char *text) {
        char *at = NULL, *word;

        text[strcspn(text, ";\n")] = '\0';
        word = strtok_r(text, " ", &at);
        CHECK(word && strchr("><}{", word[0]) && !word[1]);
        l->direction = word[0];
        word = strtok_r(NULL, " ", &at);
        CHECK(word && trace_hex(word, &l->h, sizeof(l->h)) == sizeof(l->h));
        word = strtok_r(NULL, " ", &at);
        CHECK(word);
        CHECK_EQ(trace_bytes(word, l->payload, sizeof(l->payload)), l->h.size);
        while ((word = strtok_r(NULL, " ", &at))) {
                CHECK(l->n_fds < VHK_MAX_FDS);
                struct trace_fd *fd = &l->fds[l->n_fds++];
                CHECK(sscanf(word, "%11[a-z]:%" SCNu64 ":%u", fd->kind, &fd->size, &fd->n) >= 1);
        }
}

static inline bool trace_is_display(const char *text) {
        return text[0] == ')' || text[0] == '(';
}

static inline void trace_read_display_line(struct trace_display_line *l, char *text) {
        char *at = NULL;

        text[strcspn(text, ";\n")] = '\0';
        l->direction = strtok_r(text, " ", &at)[0];
        char *word = strtok_r(NULL, " ", &at);
        CHECK(word && trace_hex(word, &l->h, sizeof(l->h)) == sizeof(l->h));
        word = strtok_r(NULL, " ", &at);
        CHECK(word);
        CHECK_EQ(trace_bytes(word, l->payload, sizeof(l->payload)), l->h.size);
        for (l->n_fds = 0; strtok_r(NULL, " ", &at); l->n_fds++)
                ;
}

static inline struct trace *trace_read(const char *name) {
        char path[512], *text = NULL;
        size_t room = 0;
        struct trace *t = calloc(1, sizeof(*t));

        CHECK(t);
        snprintf(t->name, sizeof(t->name), "%s", name);
        snprintf(path, sizeof(path), "%s/%s.trace", vhk_traces_dir, name);
        FILE *f = fopen(path, "r");
        CHECK_MSG(f, "%s: %s", path, strerror(errno));
        while (getline(&text, &room, f) > 0) {
                if (text[0] == '#') {
                        sscanf(text, "# front-end: %63[^\n]", t->front_end);
                        sscanf(text, "# back-end: %63[^\n]", t->back_end);
                        sscanf(text, "# device: %*s %u", &t->virtio_id);
                        continue;
                }
                if (trace_is_display(text))
                        continue;
                CHECK(t->n < MAX_LINES);
                trace_read_line(&t->lines[t->n++], text);
        }
        free(text);
        fclose(f);
        CHECK_MSG(t->n && t->front_end[0] && t->back_end[0] && t->virtio_id, "%s is no trace", path);
        return t;
}

/* Every trace there is; @fn(trace) for each. */
static inline unsigned trace_for_each(void (*fn)(const struct trace *t)) {
        char names[MAX_TRACES][64];
        unsigned n = 0;
        DIR *d = opendir(vhk_traces_dir);

        CHECK_MSG(d, "%s: %s", vhk_traces_dir, strerror(errno));
        for (struct dirent *e; (e = readdir(d));) {
                char *end = strstr(e->d_name, ".trace");
                if (end && !end[6]) {
                        CHECK(n < MAX_TRACES);
                        snprintf(names[n++], sizeof(names[0]), "%.*s", (int)VHK_MIN(end - e->d_name, 63), e->d_name);
                }
        }
        closedir(d);
        for (unsigned i = 0; i < n; i++) {
                struct trace *t = trace_read(names[i]);
                fn(t);
                free(t);
        }
        return n;
}

/* The answer to line @i: the next one back on the same socket. */
static inline const struct trace_line *trace_answer(const struct trace *t, unsigned i) {
        char back = t->lines[i].direction == '>' ? '<' : '{';

        for (unsigned k = i + 1; k < t->n; k++)
                if (t->lines[k].direction == back && t->lines[k].h.request == t->lines[i].h.request)
                        return &t->lines[k];
        return NULL;
}

/* What the back-end offered in the answer to @id (GET_FEATURES, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM ...); 0: never asked. */
static inline uint64_t trace_answered(const struct trace *t, uint32_t id) {
        for (unsigned i = 0; i < t->n; i++)
                if (t->lines[i].direction == '<' && t->lines[i].h.request == id)
                        return trace_u64(&t->lines[i]);
        return 0;
}

/* Rings of the back-end: what it said, or one more than the last that was spoken of. */
static inline uint32_t trace_n_rings(const struct trace *t) {
        uint32_t n = (uint32_t)trace_answered(t, VHK_FE_GET_QUEUE_NUM);

        for (unsigned i = 0; i < t->n && !trace_answered(t, VHK_FE_GET_QUEUE_NUM); i++)
                if (trace_asks(&t->lines[i], VHK_FE_SET_VRING_NUM))
                        n = VHK_MAX(n, trace_state(&t->lines[i]).index + 1);
        return n ? n : 1;
}
