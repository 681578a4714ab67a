/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Management of vDPA devices (linux/vdpa.h): the generic netlink family "vdpa" for lists, making and removing; sysfs for the bus
 * driver. A list is collected before the caller sees its first row, so that one that changed meanwhile can be asked for again. Any
 * thread, no state.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <vhostkit/vdpa.h>

#include "base/error.h"
#include "base/struct.h"
#include "sys/netlink.h"
#include "sys/vdpa-uapi.h"

#define VDPA_NAME_MAX 255u              /* of a directory in sysfs */
#define VDPA_ROWS_MAX 65536u
#define VDPA_LIST_TRIES 8u
#define BUS "/sys/bus/vdpa"

static const struct vhk_nl_field mgmt_fields[] = {
        VHK_NL_TEXT(VHK_K_VDPA_ATTR_MGMTDEV_BUS_NAME, struct vhk_vdpa_mgmt, bus, false),
        VHK_NL_TEXT(VHK_K_VDPA_ATTR_MGMTDEV_DEV_NAME, struct vhk_vdpa_mgmt, name, true),
        VHK_NL_NUMBER(VHK_K_VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES, struct vhk_vdpa_mgmt, device_ids),
        VHK_NL_NUMBER(VHK_K_VDPA_ATTR_DEV_SUPPORTED_FEATURES, struct vhk_vdpa_mgmt, features),
        VHK_NL_NUMBER(VHK_K_VDPA_ATTR_DEV_MGMTDEV_MAX_VQS, struct vhk_vdpa_mgmt, max_queues),
};

static const struct vhk_nl_field device_fields[] = {
        VHK_NL_TEXT(VHK_K_VDPA_ATTR_DEV_NAME, struct vhk_vdpa_device, name, true),
        VHK_NL_TEXT(VHK_K_VDPA_ATTR_MGMTDEV_BUS_NAME, struct vhk_vdpa_device, mgmt_bus, false),
        VHK_NL_TEXT(VHK_K_VDPA_ATTR_MGMTDEV_DEV_NAME, struct vhk_vdpa_device, mgmt_name, false),
        VHK_NL_NUMBER(VHK_K_VDPA_ATTR_DEV_ID, struct vhk_vdpa_device, virtio_id),
        VHK_NL_NUMBER(VHK_K_VDPA_ATTR_DEV_VENDOR_ID, struct vhk_vdpa_device, vendor_id),
        VHK_NL_NUMBER(VHK_K_VDPA_ATTR_DEV_MAX_VQS, struct vhk_vdpa_device, max_queues),
        VHK_NL_NUMBER(VHK_K_VDPA_ATTR_DEV_MAX_VQ_SIZE, struct vhk_vdpa_device, max_queue_size),
};

/* ---- names ---- */

static int check_name(const char *what, const char *name, size_t max, struct vhk_error *e) {
        if (!name || !*name)
                return vhk_error_set(e, -EINVAL, "vdpa.name", "%s: no name", what);
        if (strlen(name) > max)
                return vhk_error_set(e, -ENAMETOOLONG, "vdpa.name", "%s \"%.60s...\": longer than %zu bytes", what, name, max);
        if (strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))     /* they are directories in sysfs */
                return vhk_error_set(e, -EINVAL, "vdpa.name", "%s \"%.60s\": no such name is possible", what, name);
        return 0;
}

/* ---- netlink ---- */

struct family {
        uint16_t id;
};

static int on_family(void *arg, uint8_t command, const uint8_t *attributes, size_t n) {
        static const struct vhk_nl_field fields[] = { VHK_NL_NUMBER(CTRL_ATTR_FAMILY_ID, struct family, id) };

        return vhk_nl_read(fields, VHK_N(fields), attributes, n, arg);
}

/* The socket and the number that the family has in this kernel. */
static int open_family(int *ret_fd, uint16_t *ret_family, struct vhk_error *e) {
        VHK_AUTOCLOSE int fd = -1;
        struct vhk_nl_request r;
        struct family f = { 0 };
        struct vhk_nl_answer a = { .seq = 1, .on_message = on_family, .arg = &f };
        int k = vhk_nl_open(&fd);

        if (k < 0)
                return vhk_error_set(e, k, "vdpa.socket", "no netlink socket: %s", strerror(-k));
        vhk_nl_begin(&r, GENL_ID_CTRL, NLM_F_ACK, CTRL_CMD_GETFAMILY);
        vhk_nl_put_text(&r, CTRL_ATTR_FAMILY_NAME, VHK_K_VDPA_GENL_NAME);
        k = vhk_nl_ask(fd, &r, &a);
        if (k == -ENOENT)
                return vhk_error_set(e, -EOPNOTSUPP, "vdpa.absent", "this kernel has no vDPA: module vdpa is not loaded");
        if (k >= 0 && f.id < GENL_START_ALLOC)
                return vhk_error_set(e, -EBADMSG, "vdpa.answer", "the kernel gives the family vdpa the impossible number %u", f.id);
        if (k < 0)
                return vhk_error_set(e, k, a.is_garbled ? "vdpa.answer" : "vdpa.refused", "asking the kernel for the family vdpa: %s", a.text[0] ? a.text : strerror(-k));
        *ret_fd = VHK_STEAL_FD(fd);
        *ret_family = f.id;
        return 0;
}

static int refused(struct vhk_error *e, int k, const struct vhk_nl_answer *a, const char *ours) {
        if (a->is_garbled)
                return vhk_error_set(e, k, "vdpa.answer", "the kernel's answer makes no sense: %s", a->text);
        if (!a->text[0])
                return vhk_error_set(e, k, "vdpa.refused", "%s", ours);
        return vhk_error_set(e, k, "vdpa.refused", "%s (%s)", ours, a->text);
}

/* ---- lists ---- */

/* Rows of @size bytes whose first member is their size. */
struct rows {
        const struct vhk_nl_field *fields;
        unsigned n_fields, n, max;
        uint8_t command;                /* of their messages */
        size_t size;
        uint8_t *p;
};

static int on_row(void *arg, uint8_t command, const uint8_t *attributes, size_t n) {
        struct rows *r = arg;

        if (command != r->command)
                return -EBADMSG;
        if (r->n == r->max) {
                unsigned max = r->max ? 2 * r->max : 16;
                uint8_t *p = max <= VDPA_ROWS_MAX ? reallocarray(r->p, max, r->size) : NULL;
                if (!p)
                        return -ENOMEM;
                r->p = p;
                r->max = max;
        }
        uint8_t *row = r->p + r->n * r->size;
        memset(row, 0, r->size);
        memcpy(row, &r->size, sizeof(r->size));
        int k = vhk_nl_read(r->fields, r->n_fields, attributes, n, row);
        r->n += k >= 0;
        return k;
}

static int collect(uint8_t get, struct rows *rows, struct vhk_error *e) {
        VHK_AUTOCLOSE int fd = -1;
        uint16_t family;
        int k = open_family(&fd, &family, e);

        if (k < 0)
                return k;
        for (uint32_t i = 0; i < VDPA_LIST_TRIES; i++) {
                struct vhk_nl_request r;
                struct vhk_nl_answer a = { .seq = 2 + i, .on_message = on_row, .arg = rows };
                vhk_nl_begin(&r, family, NLM_F_DUMP, get);
                rows->n = 0;
                k = vhk_nl_ask(fd, &r, &a);
                if (k < 0)
                        return refused(e, k, &a, k == -EPERM ? "listing needs CAP_NET_ADMIN" : strerror(-k));
                if (!a.is_interrupted)
                        return 0;
        }
        return vhk_error_set(e, -EAGAIN, "vdpa.changing", "the list changed each of the %u times that it was asked for", VDPA_LIST_TRIES);
}

VHK_API int vhk_vdpa_list_mgmt(vhk_vdpa_mgmt_fn each, void *arg, struct vhk_error *ret_e) {
        struct rows rows = { mgmt_fields, VHK_N(mgmt_fields), .command = VHK_K_VDPA_CMD_MGMTDEV_NEW, .size = sizeof(struct vhk_vdpa_mgmt) };

        if (!each)
                return vhk_error_set(ret_e, -EINVAL, "vdpa.options", "no function for the rows");
        int k = collect(VHK_K_VDPA_CMD_MGMTDEV_GET, &rows, ret_e);
        for (unsigned i = 0; !k && i < rows.n; i++)
                k = each(arg, (const struct vhk_vdpa_mgmt *)(rows.p + i * rows.size));
        free(rows.p);
        return k ? k : (int)rows.n;
}

/* ---- sysfs ---- */

struct path {
        char text[3 * VDPA_NAME_MAX];
};

VHK_PRINTF(1, 2) static struct path path_of(const char *format, ...) {
        struct path p;
        va_list ap;

        va_start(ap, format);
        int n = vsnprintf(p.text, sizeof(p.text), format, ap);
        va_end(ap);
        assert(n > 0 && (size_t)n < sizeof(p.text));
        return p;
}

/* The driver that has @name; empty: none. */
static void find_driver(const char *name, char *ret_driver, size_t n) {
        char target[PATH_MAX];
        ssize_t k = readlink(path_of(BUS "/devices/%s/driver", name).text, target, sizeof(target) - 1);

        target[VHK_MAX(k, 0)] = 0;
        const char *slash = strrchr(target, '/');
        snprintf(ret_driver, n, "%.*s", (int)n - 1, slash ? slash + 1 : target);
}

static int write_file(struct path p, const char *text) {
        VHK_AUTOCLOSE int fd = open(p.text, O_WRONLY | O_CLOEXEC);

        if (fd < 0)
                return vhk_errno();
        return write(fd, text, strlen(text)) < 0 ? vhk_errno() : 0;
}

static int check_device(const char *name, struct vhk_error *e) {
        int k = check_name("vDPA device", name, VDPA_NAME_MAX, e);

        if (k < 0)
                return k;
        if (access(BUS, F_OK) < 0)
                return vhk_error_set(e, -EOPNOTSUPP, "vdpa.absent", "this kernel has no vDPA: module vdpa is not loaded");
        if (access(path_of(BUS "/devices/%s", name).text, F_OK) < 0)
                return vhk_error_set(e, -ENODEV, "vdpa.device", "there is no vDPA device \"%.60s\"", name);
        return 0;
}

/* What is wrong is said once, at the end: the file that the kernel did not let us write to decides. */
static int rebind(const char *name, const char *former, const char *driver) {
        int k = write_file(path_of(BUS "/devices/%s/driver_override", name), driver);

        if (k >= 0 && *former)
                k = write_file(path_of(BUS "/drivers/%s/unbind", former), name);
        if (k >= 0)
                k = write_file(path_of(BUS "/drivers/%s/bind", driver), name);
        return k;
}

VHK_API int vhk_vdpa_bind(const char *name, const char *driver, struct vhk_error *ret_e) {
        char former[32], now[32];
        int k = check_name("bus driver", driver, sizeof(now) - 1, ret_e);

        if (k >= 0)
                k = check_device(name, ret_e);
        if (k < 0)
                return k;
        if (access(path_of(BUS "/drivers/%s", driver).text, F_OK) < 0)
                return vhk_error_set(ret_e, -EOPNOTSUPP, "vdpa.driver", "there is no bus driver \"%s\": its module is not loaded", driver);
        find_driver(name, former, sizeof(former));
        if (!strcmp(former, driver))
                return 0;
        k = rebind(name, former, driver);
        if (k >= 0)
                return 0;
        find_driver(name, now, sizeof(now));
        if (!strcmp(now, driver))       /* somebody else did the same meanwhile */
                return 0;
        write_file(path_of(BUS "/devices/%s/driver_override", name), "\n");
        if (*former && !*now)
                write_file(path_of(BUS "/drivers/%s/bind", former), name);
        return vhk_error_set(ret_e, k, "vdpa.bind", "%s does not take %.60s: %s%s", driver, name, strerror(-k), k == -EACCES || k == -EPERM ? " (it needs root)" : "");
}

VHK_API int vhk_vdpa_find_node(const char *name, char *ret_path, size_t n, struct vhk_error *ret_e) {
        static const char node[] = "vhost-vdpa-";
        char found[NAME_MAX + 1] = "", driver[32];
        int k = check_device(name, ret_e);

        if (k < 0)
                return k;
        DIR *d = opendir(path_of(BUS "/devices/%s", name).text);
        if (!d)
                return vhk_error_set(ret_e, vhk_errno(), "vdpa.device", BUS "/devices/%.60s: %s", name, strerror(errno));
        for (struct dirent *e; (e = readdir(d));)
                if (!strncmp(e->d_name, node, sizeof(node) - 1))
                        memcpy(found, e->d_name, strlen(e->d_name) + 1);
        closedir(d);
        if (!*found) {
                find_driver(name, driver, sizeof(driver));
                return vhk_error_set(ret_e, -ENXIO, "vdpa.node", "%s has the vDPA device \"%.60s\", so it has no node; vhost_vdpa would give it one",
                                     *driver ? driver : "no bus driver", name);
        }
        if (!ret_path || strlen(found) + sizeof("/dev/") > n)
                return vhk_error_set(ret_e, -ERANGE, "vdpa.options", "%zu bytes are too few for /dev/%s", n, found);
        snprintf(ret_path, n, "/dev/%s", found);
        return 0;
}

VHK_API int vhk_vdpa_list(vhk_vdpa_device_fn each, void *arg, struct vhk_error *ret_e) {
        struct rows rows = { device_fields, VHK_N(device_fields), .command = VHK_K_VDPA_CMD_DEV_NEW, .size = sizeof(struct vhk_vdpa_device) };

        if (!each)
                return vhk_error_set(ret_e, -EINVAL, "vdpa.options", "no function for the rows");
        int k = collect(VHK_K_VDPA_CMD_DEV_GET, &rows, ret_e);
        for (unsigned i = 0; !k && i < rows.n; i++) {
                struct vhk_vdpa_device *d = (struct vhk_vdpa_device *)(rows.p + i * rows.size);
                find_driver(d->name, d->driver, sizeof(d->driver));
                k = each(arg, d);
        }
        free(rows.p);
        return k ? k : (int)rows.n;
}

/* ---- making and removing ---- */

static int on_nothing(void *arg, uint8_t command, const uint8_t *attributes, size_t n) {
        return 0;
}

/* Our words for what the kernel says of a device. */
static const struct {
        uint8_t command;
        int error;
        const char *words;
} stories[] = {
        { VHK_K_VDPA_CMD_DEV_NEW, -EEXIST, "a vDPA device of this name exists already" },
        { VHK_K_VDPA_CMD_DEV_NEW, -ENODEV, "there is no such management device" },
        { VHK_K_VDPA_CMD_DEV_NEW, -EINVAL, "the management device refuses; vduse makes only what a program serves under this name" },
        { VHK_K_VDPA_CMD_DEV_NEW, -EPERM, "making vDPA devices needs CAP_NET_ADMIN" },
        { VHK_K_VDPA_CMD_DEV_NEW, -EOPNOTSUPP, "the management device does not take these attributes" },
        { VHK_K_VDPA_CMD_DEV_NEW, -ENOSPC, "the management device makes no more devices" },
        { VHK_K_VDPA_CMD_DEV_DEL, -ENODEV, "there is no such vDPA device" },
        { VHK_K_VDPA_CMD_DEV_DEL, -EPERM, "removing vDPA devices needs CAP_NET_ADMIN" },
        { VHK_K_VDPA_CMD_DEV_DEL, -EINVAL, "it was not made on request, so it cannot be removed" },
};

static const char *story_of(uint8_t command, int error) {
        for (unsigned i = 0; i < VHK_N(stories); i++)
                if (stories[i].command == command && stories[i].error == error)
                        return stories[i].words;
        return strerror(-error);
}

/* @r names the family once it is known. */
static int command(struct vhk_nl_request *r, int fd, uint8_t cmd, const char *name, struct vhk_error *e) {
        struct vhk_nl_answer a = { .seq = 2, .on_message = on_nothing };
        int k = vhk_nl_ask(fd, r, &a);
        char ours[200];

        if (k >= 0)
                return 0;
        snprintf(ours, sizeof(ours), "%.60s: %s", name, story_of(cmd, k));
        return refused(e, k, &a, ours);
}

VHK_API int vhk_vdpa_add(const struct vhk_vdpa_add *theirs, struct vhk_error *ret_e) {
        struct vhk_vdpa_add own = { .size = sizeof(own) };
        const struct vhk_vdpa_add *a = &own;
        VHK_AUTOCLOSE int fd = -1;
        struct vhk_nl_request r;
        uint16_t family;

        int k = theirs ? VHK_STRUCT_TAKE(&own, theirs, mgmt_name) : -EINVAL;
        if (k < 0)
                return vhk_error_set(ret_e, k, "vdpa.options", "struct vhk_vdpa_add: size is not set, or a member is used that is not known here");
        k = check_name("vDPA device", a->name, VDPA_NAME_MAX, ret_e);
        if (k >= 0)
                k = check_name("management device", a->mgmt_name, sizeof(((struct vhk_vdpa_mgmt *)0)->name) - 1, ret_e);
        if (k >= 0 && a->mgmt_bus && *a->mgmt_bus)
                k = check_name("bus", a->mgmt_bus, sizeof(((struct vhk_vdpa_mgmt *)0)->bus) - 1, ret_e);
        if (k >= 0)
                k = open_family(&fd, &family, ret_e);
        if (k < 0)
                return k;
        vhk_nl_begin(&r, family, NLM_F_ACK, VHK_K_VDPA_CMD_DEV_NEW);
        vhk_nl_put_text(&r, VHK_K_VDPA_ATTR_MGMTDEV_BUS_NAME, a->mgmt_bus);
        vhk_nl_put_text(&r, VHK_K_VDPA_ATTR_MGMTDEV_DEV_NAME, a->mgmt_name);
        vhk_nl_put_text(&r, VHK_K_VDPA_ATTR_DEV_NAME, a->name);
        if (a->has_mac)
                vhk_nl_put(&r, VHK_K_VDPA_ATTR_DEV_NET_CFG_MACADDR, a->mac, sizeof(a->mac));
        if (a->mtu)
                vhk_nl_put(&r, VHK_K_VDPA_ATTR_DEV_NET_CFG_MTU, &a->mtu, sizeof(a->mtu));
        if (a->max_queue_pairs)
                vhk_nl_put(&r, VHK_K_VDPA_ATTR_DEV_NET_CFG_MAX_VQP, &a->max_queue_pairs, sizeof(a->max_queue_pairs));
        if (a->features)
                vhk_nl_put(&r, VHK_K_VDPA_ATTR_DEV_FEATURES, &a->features, sizeof(a->features));
        return command(&r, fd, VHK_K_VDPA_CMD_DEV_NEW, a->name, ret_e);
}

VHK_API int vhk_vdpa_del(const char *name, struct vhk_error *ret_e) {
        VHK_AUTOCLOSE int fd = -1;
        struct vhk_nl_request r;
        uint16_t family;
        int k = check_name("vDPA device", name, VDPA_NAME_MAX, ret_e);

        if (k >= 0)
                k = open_family(&fd, &family, ret_e);
        if (k < 0)
                return k;
        vhk_nl_begin(&r, family, NLM_F_ACK, VHK_K_VDPA_CMD_DEV_DEL);
        vhk_nl_put_text(&r, VHK_K_VDPA_ATTR_DEV_NAME, name);
        return command(&r, fd, VHK_K_VDPA_CMD_DEV_DEL, name, ret_e);
}
