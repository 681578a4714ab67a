/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk probe: connect, negotiate protocol features, ask, disconnect. No memory is lent and no ring is started.
 */
#include "describe.h"
#include "tool.h"

struct probe {
        int help, json;
        const char *device;
        uint64_t timeout_ms;
};

static const struct vhk_option options[] = {
        { "json", VHK_OPTION_FLAG, offsetof(struct probe, json), NULL, "print JSON" },
        { "device", VHK_OPTION_STRING, offsetof(struct probe, device), "TYPE", "the type of the device (blk, net, ...), which vhost-user does not tell" },
        TOOL_OPTION_TIMEOUT(struct probe),
        TOOL_OPTION_HELP,
        { 0 },
};

static enum tool_status run(const void *state, char *const *arguments) {
        const char *endpoint = arguments[0];
        const struct probe *o = state;
        struct vhk_frontend_options fo;
        struct vhk_frontend *f = NULL;
        struct vhk_error e = { 0 };
        struct peer peer;
        const char *spec;
        int id = o->device ? tool_device_id(o->device) : 0;

        if (id < 0)
                return tool_usage("\"%s\" is no device type known here", o->device);
        enum tool_status status = tool_endpoint(endpoint, o->timeout_ms * TOOL_MS, &fo, &spec);
        if (status != TOOL_OK)
                return status;
        fo.virtio_id = (uint32_t)id;
        int k = vhk_frontend_open(spec, &fo, &f, &e);
        if (k < 0)
                return tool_open_failed(endpoint, k, &e);
        k = peer_read(f, endpoint, (uint32_t)id, &peer);
        if (k < 0)
                status = tool_fail("%s", vhk_frontend_get_error(f)->text);
        else if (o->json)
                peer_print_json(&peer, stdout);
        else
                peer_print(&peer, stdout);
        vhk_frontend_close(f);
        return status;
}

const struct tool_command probe_command = {
        .name = "probe",
        .synopsis = "ENDPOINT [--json] [--device=TYPE] [--timeout-ms=MS]",
        .summary = "who is there: device, features, protocol features, queues, slots, configuration",
        .about = "Connects, negotiates and asks; lends no memory and starts no ring. A back-end that serves one front-end at\n"
                 "a time counts this as one.",
        .options = options,
        .state_size = sizeof(struct probe),
        .defaults = &(const struct probe){ .timeout_ms = 2000 },
        .arguments = { "ENDPOINT" },
        .run = run,
};
