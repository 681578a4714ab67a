/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk vdpa: the vDPA devices of this machine: list, make, remove, and choose who drives them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <vhostkit/vdpa.h>

#include "json.h"
#include "tool.h"

/* The library has a story for every failure of its own. */
static enum tool_status failed(const struct vhk_error *e) {
        return tool_fail("%s", e->text[0] ? e->text : "out of memory");
}

/* ---- list ---- */

struct list {
        int help, json;
};

struct printing {
        bool is_json;
        unsigned n;                     /* rows so far */
        struct json j;
};

static const struct vhk_option list_options[] = {
        { "json", VHK_OPTION_FLAG, offsetof(struct list, json), NULL, "print JSON" },
        TOOL_OPTION_HELP,
        { 0 },
};

/* The device types of a set, "net, block"; a type that has no name is a number. */
static void print_types(uint64_t ids) {
        const char *comma = "";

        for (unsigned id = 0; id < 64; id++) {
                if (!(ids >> id & 1))
                        continue;
                const char *name = vhk_device_name(id);
                if (name)
                        printf("%s%s", comma, name);
                else
                        printf("%s%u", comma, id);
                comma = ", ";
        }
}

static void json_type(struct json *j, const char *name, uint32_t id) {
        json_object(j, name);
        json_string(j, "name", vhk_device_name(id));
        json_uint(j, "id", id);
        json_end_object(j);
}

static const char *or_null(const char *text) {
        return *text ? text : NULL;
}

static void json_mgmt(struct json *j, const struct vhk_vdpa_mgmt *m) {
        char features[24];

        snprintf(features, sizeof(features), "0x%llx", (unsigned long long)m->features);
        json_object(j, NULL);
        json_string(j, "bus", or_null(m->bus));
        json_string(j, "name", m->name);
        json_array(j, "types");
        for (uint32_t id = 0; id < 64; id++)
                if (m->device_ids >> id & 1)
                        json_type(j, NULL, id);
        json_end_array(j);
        json_string(j, "features", features);
        json_uint(j, "max_queues", m->max_queues);
        json_end_object(j);
}

static int on_mgmt(void *arg, const struct vhk_vdpa_mgmt *m) {
        struct printing *p = arg;

        p->n++;
        if (p->is_json) {
                json_mgmt(&p->j, m);
                return 0;
        }
        if (p->n == 1)
                printf("management devices\n");
        printf("  %s%s%s  makes ", m->bus, *m->bus ? "/" : "", m->name);
        print_types(m->device_ids);
        if (m->max_queues)              /* not all tell */
                printf("  at most %u queues  features 0x%llx", m->max_queues, (unsigned long long)m->features);
        putchar('\n');
        return 0;
}

static int on_device(void *arg, const struct vhk_vdpa_device *d) {
        struct printing *p = arg;
        char node[64] = "";

        if (!strcmp(d->driver, "vhost_vdpa"))           /* it may have lost it again: then there is none */
                vhk_vdpa_find_node(d->name, node, sizeof(node), NULL);
        p->n++;
        if (!p->is_json) {
                if (p->n == 1)
                        printf("devices\n");
                printf("  %s  ", d->name);
                print_types(d->virtio_id < 64 ? UINT64_C(1) << d->virtio_id : 0);
                printf("  of %s%s%s  queues %u, size %u  %s%s%s\n", d->mgmt_bus, *d->mgmt_bus ? "/" : "", d->mgmt_name, d->max_queues, d->max_queue_size,
                       *d->driver ? d->driver : "not bound", *node ? " " : "", node);
                return 0;
        }
        json_object(&p->j, NULL);
        json_string(&p->j, "name", d->name);
        json_type(&p->j, "type", d->virtio_id);
        json_uint(&p->j, "vendor_id", d->vendor_id);
        json_object(&p->j, "mgmt");
        json_string(&p->j, "bus", or_null(d->mgmt_bus));
        json_string(&p->j, "name", d->mgmt_name);
        json_end_object(&p->j);
        json_uint(&p->j, "max_queues", d->max_queues);
        json_uint(&p->j, "max_queue_size", d->max_queue_size);
        json_string(&p->j, "driver", or_null(d->driver));
        json_string(&p->j, "node", or_null(node));
        json_end_object(&p->j);
        return 0;
}

/* The object is printed once it is whole: a list that fails is no JSON. */
static int list_json(struct printing *p, struct vhk_error *e) {
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);

        if (!f)
                return -ENOMEM;
        json_init(&p->j, f);
        json_object(&p->j, NULL);
        json_array(&p->j, "management_devices");
        int k = vhk_vdpa_list_mgmt(on_mgmt, p, e);
        json_end_array(&p->j);
        json_array(&p->j, "devices");
        if (k >= 0)
                k = vhk_vdpa_list(on_device, p, e);
        json_end_array(&p->j);
        json_end_object(&p->j);
        fclose(f);
        if (k >= 0)
                fputs(text, stdout);
        free(text);
        return k;
}

static int list_text(struct printing *p, struct vhk_error *e) {
        int n_mgmt = vhk_vdpa_list_mgmt(on_mgmt, p, e);

        if (!n_mgmt)
                printf("no management devices\n");
        p->n = 0;
        int k = n_mgmt < 0 ? n_mgmt : vhk_vdpa_list(on_device, p, e);
        if (!k)
                printf("no devices\n");
        return k;
}

static enum tool_status run_list(const void *state, char *const *arguments) {
        struct printing p = { .is_json = ((const struct list *)state)->json };
        struct vhk_error e = { 0 };

        return (p.is_json ? list_json(&p, &e) : list_text(&p, &e)) < 0 ? failed(&e) : TOOL_OK;
}

static const struct tool_command list_command = {
        .name = "vdpa list",
        .synopsis = "[--json]",
        .summary = "management devices, and devices with their driver and node",
        .about = "Needs no privilege where the kernel lets everybody list.",
        .options = list_options,
        .state_size = sizeof(struct list),
        .defaults = &(const struct list){ 0 },
        .run = run_list,
};

/* ---- add ---- */

struct add {
        int help;
        const char *mgmt, *mac, *features;
        uint64_t mtu, queues;
};

static const struct vhk_option add_options[] = {
        { "mgmt", VHK_OPTION_STRING, offsetof(struct add, mgmt), "[BUS/]NAME", "the management device that shall make it" },
        { "mac", VHK_OPTION_STRING, offsetof(struct add, mac), "MAC", "of a network device: its address, 52:54:00:12:34:56" },
        { "mtu", VHK_OPTION_UINT, offsetof(struct add, mtu), "BYTES", "of a network device: its MTU", 68, 65535 },
        { "queues", VHK_OPTION_UINT, offsetof(struct add, queues), "N", "of a network device: pairs of queues", 1, 32768 },
        { "features", VHK_OPTION_STRING, offsetof(struct add, features), "0xBITS", "virtio features that it shall have, of its parent's (vhk vdpa list)" },
        TOOL_OPTION_HELP,
        { 0 },
};

static bool parse_mac(const char *text, uint8_t mac[6]) {
        static const char digits[] = "0123456789abcdefABCDEF";

        for (unsigned i = 0; i < 6; i++, text += 3) {
                if (strspn(text, digits) != 2 || text[2] != (i < 5 ? ':' : 0))
                        return false;
                mac[i] = (uint8_t)strtoul(text, NULL, 16);
        }
        return true;
}

static bool parse_bits(const char *text, uint64_t *ret_bits) {
        char *end;

        errno = 0;
        *ret_bits = strtoull(text, &end, 16);
        return !strncmp(text, "0x", 2) && strspn(text + 2, "0123456789abcdefABCDEF") == strlen(text + 2) && end > text + 2 && !errno && *ret_bits;
}

static enum tool_status run_add(const void *state, char *const *arguments) {
        const struct add *o = state;
        struct vhk_vdpa_add a = { .size = sizeof(a), .name = arguments[0], .mtu = (uint16_t)o->mtu, .max_queue_pairs = (uint16_t)o->queues };
        struct vhk_error e = { 0 };
        char bus[64] = "";

        if (!o->mgmt)
                return tool_usage("which management device shall make it? --mgmt=[BUS/]NAME; vhk vdpa list shows them");
        const char *slash = strchr(o->mgmt, '/');
        if (slash && (size_t)(slash - o->mgmt) >= sizeof(bus))
                return tool_usage("--mgmt=%.80s: no bus has such a name", o->mgmt);
        if (slash)
                memcpy(bus, o->mgmt, (size_t)(slash - o->mgmt));
        a.mgmt_bus = bus;
        a.mgmt_name = slash ? slash + 1 : o->mgmt;
        a.has_mac = o->mac != NULL;
        if (o->mac && !parse_mac(o->mac, a.mac))
                return tool_usage("--mac=%.60s: not an address; one looks like 52:54:00:12:34:56", o->mac);
        if (o->features && !parse_bits(o->features, &a.features))
                return tool_usage("--features=%.60s: not bits; they look like 0x300000020", o->features);
        return vhk_vdpa_add(&a, &e) < 0 ? failed(&e) : TOOL_OK;
}

static const struct tool_command add_command = {
        .name = "vdpa add",
        .synopsis = "NAME --mgmt=[BUS/]NAME [--mac=MAC] [--mtu=BYTES] [--queues=N] [--features=0xBITS]",
        .summary = "make a device",
        .about = "Needs CAP_NET_ADMIN. Which driver gets the new device is the kernel's choice, until vhk vdpa bind.",
        .options = add_options,
        .state_size = sizeof(struct add),
        .defaults = &(const struct add){ 0 },
        .arguments = { "NAME" },
        .run = run_add,
};

/* ---- del, bind ---- */

struct plain {
        int help;
};

static const struct vhk_option plain_options[] = { TOOL_OPTION_HELP, { 0 } };

static enum tool_status run_del(const void *state, char *const *arguments) {
        struct vhk_error e = { 0 };

        return vhk_vdpa_del(arguments[0], &e) < 0 ? failed(&e) : TOOL_OK;
}

static const struct tool_command del_command = {
        .name = "vdpa del",
        .synopsis = "NAME",
        .summary = "remove a device",
        .about = "Needs CAP_NET_ADMIN. Waits until whoever has the device open has closed it.",
        .options = plain_options,
        .state_size = sizeof(struct plain),
        .defaults = &(const struct plain){ 0 },
        .arguments = { "NAME" },
        .run = run_del,
};

static enum tool_status run_bind(const void *state, char *const *arguments) {
        const char *name = arguments[0], *driver = arguments[1];
        bool is_vhost = !strcmp(driver, "vhost_vdpa");
        struct vhk_error e = { 0 };
        char node[64];

        if (!is_vhost && strcmp(driver, "virtio_vdpa"))
                return tool_usage("\"%.60s\" is no bus driver known here: vhost_vdpa or virtio_vdpa", driver);
        if (vhk_vdpa_bind(name, driver, &e) < 0 || (is_vhost && vhk_vdpa_find_node(name, node, sizeof(node), &e) < 0))
                return failed(&e);
        if (is_vhost)
                printf("%s\n", node);
        return TOOL_OK;
}

static const struct tool_command bind_command = {
        .name = "vdpa bind",
        .synopsis = "NAME vhost_vdpa|virtio_vdpa",
        .summary = "choose who drives a device: a program, or this kernel",
        .about = "Needs root. vhost_vdpa: a program drives it through the node that is printed, /dev/vhost-vdpa-N. virtio_vdpa: it\n"
                 "becomes a disk or an interface of this kernel. Waits until whoever has the device open has closed it.",
        .options = plain_options,
        .state_size = sizeof(struct plain),
        .defaults = &(const struct plain){ 0 },
        .arguments = { "NAME", "DRIVER" },
        .run = run_bind,
};

const struct tool_command vdpa_command = {
        .name = "vdpa",
        .summary = "vDPA devices of this machine: list, add, del, bind",
        .group = (const struct tool_command *const[]){ &list_command, &add_command, &del_command, &bind_command, NULL },
};
