/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * From what stands on the command line to an open front-end, and from an errno to a line that says what to do.
 */
#include "tool.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define SCHEME "vhost-user:"

static enum tool_status parse_fd(const char *text, struct vhk_frontend_options *o) {
        char *end;

        errno = 0;
        unsigned long n = strtoul(text, &end, 10);
        if (*text < '0' || *text > '9' || *end || errno || n > INT_MAX)
                return tool_usage("\"fd:%s\" is no descriptor; it looks like fd:3", text);
        struct stat st;
        if (fstat((int)n, &st) < 0)
                return tool_fail("fd:%lu: %s", n, strerror(errno));
        if (!S_ISSOCK(st.st_mode))
                return tool_fail("fd:%lu is not a socket", n);
        o->has_fd = 1;
        o->fd = (int)n;
        return TOOL_OK;
}

/* Everything that can be said without connecting. */
static enum tool_status check_path(const char *path) {
        struct stat st;

        if (!*path)
                return tool_usage("the endpoint has no path; it looks like %s/run/disk.sock", SCHEME);
        if (stat(path, &st) < 0)
                return errno == ENOENT ? tool_fail("%s: no such socket", path) : tool_fail("%s: %s", path, strerror(errno));
        if (!S_ISSOCK(st.st_mode))
                return tool_fail("%s is %s, not a socket", path, S_ISDIR(st.st_mode) ? "a directory" : S_ISREG(st.st_mode) ? "a file" : "a special file");
        return TOOL_OK;
}

enum tool_status tool_endpoint(const char *endpoint, uint64_t limit_ns, struct vhk_frontend_options *o, const char **ret_spec) {
        const char *path = endpoint, *colon = strchr(endpoint, ':'), *slash = strchr(endpoint, '/');

        *o = (struct vhk_frontend_options){ .size = sizeof(*o), .limit_ns = limit_ns };
        *ret_spec = NULL;
        if (!strncmp(endpoint, "fd:", 3))
                return parse_fd(endpoint + 3, o);
        if (!strncmp(endpoint, SCHEME, strlen(SCHEME)))
                path = endpoint + strlen(SCHEME);
        else if (colon && (!slash || colon < slash))
                return tool_usage("\"%.*s\" is no kind of endpoint known here; there are %sPATH, PATH and fd:N", (int)(colon - endpoint), endpoint, SCHEME);
        enum tool_status status = check_path(path);
        if (status == TOOL_OK)
                *ret_spec = path;
        return status;
}

enum tool_status tool_open_failed(const char *endpoint, int k, const struct vhk_error *e) {
        const char *story = e->text[0] ? e->text : strerror(-k);

        switch (k) {
        case -ETIMEDOUT:
                tool_fail("busy: %s accepts, but does not answer; most likely it serves another front-end", endpoint);
                return TOOL_BUSY;
        case -EPROTO:
                return tool_fail("%s is not a vhost-user back-end: %s", endpoint, story);
        case -ECONNREFUSED:
                return tool_fail("%s: nobody listens on this socket (its program has ended?)", endpoint);
        default:
                return tool_fail("%s: %s", endpoint, story);
        }
}

enum tool_status tool_open_blk(const char *endpoint, uint64_t limit_ns, struct vhk_blk_options *o, struct vhk_blk **ret_b) {
        struct vhk_frontend_options fo;
        struct vhk_error e = { 0 };
        const char *spec;
        enum tool_status status = tool_endpoint(endpoint, limit_ns, &fo, &spec);

        if (status != TOOL_OK)
                return status;
        o->size = sizeof(*o);
        o->frontend = &fo;
        int k = vhk_blk_open(spec, o, ret_b, &e);
        o->frontend = NULL;
        return k < 0 ? tool_open_failed(endpoint, k, &e) : TOOL_OK;
}

enum tool_status tool_blk_failed(struct vhk_blk *b, const char *what, uint64_t offset, int k) {
        const struct vhk_error *e = vhk_frontend_get_error(vhk_blk_get_frontend(b));

        if (k == -EPIPE)
                return tool_fail("%s at offset %llu: the connection is lost: %s", what, (unsigned long long)offset, e->text[0] ? e->text : "no reason given");
        if (k == -ETIMEDOUT)
                return tool_fail("%s at offset %llu: no answer in time", what, (unsigned long long)offset);
        return tool_fail("%s at offset %llu: %s", what, (unsigned long long)offset, strerror(-k));
}

int tool_device_id(const char *text) {
        static const struct {
                const char *alias, *name;
        } aliases[] = { { "blk", "block" }, { "network", "net" }, { "filesystem", "fs" } };

        for (size_t i = 0; i < TOOL_N(aliases); i++)
                if (!strcasecmp(text, aliases[i].alias))
                        text = aliases[i].name;
        for (int id = 1; id < 64; id++) {
                const char *known = vhk_device_name((uint32_t)id);
                if (known && !strcasecmp(known, text))
                        return id;
        }
        return -1;
}
