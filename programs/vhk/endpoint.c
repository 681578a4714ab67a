/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * From what stands on the command line to an open front-end, and from a failure to a line and an exit status.
 */
#include "tool.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>

#define USUAL_SIZE UINT64_C(4096)      /* bytes of a request */

static void print_trace(void *unused, enum vhk_log_level level, const char *text) {
        fprintf(stderr, "%s\n", text);
}

vhk_log_fn tool_trace(void) {
        const char *s = getenv("VHK_TRACE");

        return s && *s && strcmp(s, "0") ? print_trace : NULL;
}

/* vhost-vdpa pins what is lent, and counts it against this limit. Who may not raise it hears of it from the library. */
static void raise_memlock(void) {
        struct rlimit r;

        if (getrlimit(RLIMIT_MEMLOCK, &r) < 0)
                return;
        const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY }, mine = { r.rlim_max, r.rlim_max };
        if (setrlimit(RLIMIT_MEMLOCK, &all) < 0)
                setrlimit(RLIMIT_MEMLOCK, &mine);
}

/* What a descriptor may be; the first if only "fd:" is said. */
static const char *const carriers[] = { "vhost-user:", "vhost-vdpa:", "vhost-net:", "vhost-vsock:", "vhost-scsi:" };

enum tool_status tool_endpoint(const char *endpoint, uint64_t limit_ns, struct vhk_frontend_options *o, const char **ret_spec) {
        const char *carrier = carriers[0], *rest = endpoint;
        char *end;

        *o = (struct vhk_frontend_options){ .size = sizeof(*o), .limit_ns = limit_ns, .trace = tool_trace() };
        *ret_spec = endpoint;
        for (size_t i = 0; i < TOOL_N(carriers) && rest == endpoint; i++)
                if (!strncmp(endpoint, carriers[i], strlen(carriers[i]))) {
                        carrier = carriers[i];
                        rest = endpoint + strlen(carrier);
                }
        if (!strcmp(carrier, "vhost-vdpa:"))
                raise_memlock();
        if (strncmp(rest, "fd:", 3))
                return TOOL_OK;
        errno = 0;
        unsigned long n = strtoul(rest + 3, &end, 10);
        if (rest[3] < '0' || rest[3] > '9' || *end || errno || n > INT_MAX)
                return tool_usage("\"%s\" is no descriptor; it looks like fd:3", endpoint);
        o->has_fd = 1;
        o->fd = (int)n;
        *ret_spec = carrier;
        return TOOL_OK;
}

/* The library tells a back-end that never answered from one that stopped answering, by the rule. */
enum tool_status tool_open_failed(const char *endpoint, int k, const struct vhk_error *e) {
        const char *rule = e->rule ? e->rule : "";

        if (!strcmp(rule, "frontend.busy") || !strcmp(rule, "sock.backlog") || k == -EBUSY) {
                tool_fail("busy: %s", e->text);
                return TOOL_BUSY;
        }
        return e->text[0] ? tool_fail("%s", e->text) : tool_fail("%s: %s", endpoint, strerror(-k));
}

enum tool_status tool_open_blk(const char *endpoint, uint64_t limit_ns, struct vhk_blk_options *o, struct vhk_blk_info *ret_info,
                               struct vhk_blk **ret_b) {
        struct vhk_frontend_options fo;
        struct vhk_error e = { 0 };
        struct vhk_blk *b;
        const char *spec;
        enum tool_status status = tool_endpoint(endpoint, limit_ns, &fo, &spec);

        if (status != TOOL_OK)
                return status;
        o->size = sizeof(*o);
        o->frontend = &fo;
        int k = vhk_blk_open(spec, o, &b, &e);
        o->frontend = NULL;
        if (k < 0)
                return tool_open_failed(endpoint, k, &e);
        *ret_info = (struct vhk_blk_info){ .size = sizeof(*ret_info) };
        k = vhk_blk_get_info(b, ret_info);
        if (k < 0) {
                status = tool_blk_failed(b, "configuration", 0, k);
                vhk_blk_close(b);
                return status;
        }
        *ret_b = b;
        return TOOL_OK;
}

enum tool_status tool_blk_failed(struct vhk_blk *b, const char *what, uint64_t offset, int k) {
        const struct vhk_error *e = vhk_frontend_get_error(vhk_blk_get_frontend(b));

        if (k == -EPIPE)
                return tool_fail("%s at offset %llu: the connection is lost: %s", what, (unsigned long long)offset, e->text);
        if (k == -ETIMEDOUT)
                return tool_fail("%s at offset %llu: no answer in time", what, (unsigned long long)offset);
        return tool_fail("%s at offset %llu: %s", what, (unsigned long long)offset, e->code == k ? e->text : strerror(-k));
}

uint64_t tool_request_size(const struct vhk_blk_info *i) {
        uint64_t block = i->block_size ? i->block_size : 512, size = block > USUAL_SIZE ? block : USUAL_SIZE, whole = i->capacity - i->capacity % block;

        return whole && size > whole ? whole : size;
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
