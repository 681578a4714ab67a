/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What `vhk vdpa` asks of the library, which is this test's here, and what it prints. The kernel's part is in tests/lab. */
#include "base/test.h"

#include <vhostkit/vdpa.h>

#include "tool.h"

static struct {
        struct vhk_vdpa_mgmt mgmt[4];
        struct vhk_vdpa_device devices[4];
        int n_mgmt, n_devices;          /* negative: that error */
        struct vhk_vdpa_add added;
        char name[64], mgmt_bus[64], mgmt_name[64], driver[64], asked[16];
        int k;
} lib;

static int fails(int k, struct vhk_error *e) {
        if (k < 0 && e)
                *e = (struct vhk_error){ .code = k, .rule = "vdpa.test", .text = "so it is" };
        return k;
}

int vhk_vdpa_list_mgmt(vhk_vdpa_mgmt_fn each, void *arg, struct vhk_error *ret_e) {
        for (int i = 0; i < lib.n_mgmt; i++)
                CHECK(!each(arg, &lib.mgmt[i]));
        return fails(lib.n_mgmt, ret_e);
}

int vhk_vdpa_list(vhk_vdpa_device_fn each, void *arg, struct vhk_error *ret_e) {
        for (int i = 0; i < lib.n_devices; i++)
                CHECK(!each(arg, &lib.devices[i]));
        return fails(lib.n_devices, ret_e);
}

int vhk_vdpa_add(const struct vhk_vdpa_add *a, struct vhk_error *ret_e) {
        lib.added = *a;
        snprintf(lib.name, sizeof(lib.name), "%s", a->name);
        snprintf(lib.mgmt_bus, sizeof(lib.mgmt_bus), "%s", a->mgmt_bus);
        snprintf(lib.mgmt_name, sizeof(lib.mgmt_name), "%s", a->mgmt_name);
        return fails(lib.k, ret_e);
}

int vhk_vdpa_del(const char *name, struct vhk_error *ret_e) {
        snprintf(lib.name, sizeof(lib.name), "%s", name);
        strcpy(lib.asked, "del");
        return fails(lib.k, ret_e);
}

int vhk_vdpa_bind(const char *name, const char *driver, struct vhk_error *ret_e) {
        snprintf(lib.name, sizeof(lib.name), "%s", name);
        snprintf(lib.driver, sizeof(lib.driver), "%s", driver);
        strcpy(lib.asked, "bind");
        return fails(lib.k, ret_e);
}

int vhk_vdpa_find_node(const char *name, char *ret_path, size_t n, struct vhk_error *ret_e) {
        snprintf(ret_path, n, "/dev/vhost-vdpa-%c", name[strlen(name) - 1]);
        return 0;
}

/* ---- one command ---- */

static char *printed;
static enum tool_status status;

/* vhk vdpa @word ARGUMENT...; up to five */
static void run(const char *word, const char *a0, const char *a1, const char *a2, const char *a3, const char *a4) {
        char *argv[] = { (char *)word, (char *)a0, (char *)a1, (char *)a2, (char *)a3, (char *)a4, NULL };
        const struct tool_command *const *c = vdpa_command.group;
        FILE *before = stdout;
        struct vhk_error e;
        int argc = 0, n_rest;
        size_t n = 0;
        char state[128];

        while (*c && strcmp((*c)->name + strlen("vdpa "), word))
                c++;
        CHECK(*c && (*c)->state_size <= sizeof(state));
        while (argv[argc])
                argc++;
        memcpy(state, (*c)->defaults, (*c)->state_size);
        CHECK_OK(vhk_options_parse((*c)->options, state, argc, argv, &n_rest, &e));
        free(printed);
        printed = NULL;
        stdout = open_memstream(&printed, &n);
        status = (*c)->run(state, argv + 1);
        fclose(stdout);
        stdout = before;
}
#define RUN(...) RUN_(__VA_ARGS__, NULL, NULL, NULL, NULL, NULL)
#define RUN_(word, a0, a1, a2, a3, a4, ...) run(word, a0, a1, a2, a3, a4)

static void fill(void) {
        memset(&lib, 0, sizeof(lib));
        lib.mgmt[0] = (struct vhk_vdpa_mgmt){ sizeof(lib.mgmt[0]), "", "vdpasim_net", 1 << 1, 0x308820028, 3 };
        lib.mgmt[1] = (struct vhk_vdpa_mgmt){ sizeof(lib.mgmt[0]), "pci", "0000:01:00.2", 1 << 1 | 1 << 2 | UINT64_C(1) << 62, 0, 0 };
        lib.devices[0] = (struct vhk_vdpa_device){ sizeof(lib.devices[0]), "net0", "", "vdpasim_net", "vhost_vdpa", 1, 0, 3, 256 };
        lib.devices[1] = (struct vhk_vdpa_device){ sizeof(lib.devices[0]), "card1", "pci", "0000:01:00.2", "", 2, 0x1af4, 5, 1024 };
        lib.devices[2] = (struct vhk_vdpa_device){ sizeof(lib.devices[0]), "disk2", "", "vduse", "virtio_vdpa", 2, 0, 1, 128 };
        lib.n_mgmt = 2;
        lib.n_devices = 3;
}

TEST(list) {
        fill();
        RUN("list");
        CHECK_EQ(status, TOOL_OK);
        CHECK_STR(printed, "management devices\n"
                           "  vdpasim_net  makes net  at most 3 queues  features 0x308820028\n"
                           "  pci/0000:01:00.2  makes net, block, 62\n"
                           "devices\n"
                           "  net0  net  of vdpasim_net  queues 3, size 256  vhost_vdpa /dev/vhost-vdpa-0\n"
                           "  card1  block  of pci/0000:01:00.2  queues 5, size 1024  not bound\n"
                           "  disk2  block  of vduse  queues 1, size 128  virtio_vdpa\n");
        lib.n_mgmt = lib.n_devices = 0;
        RUN("list");
        CHECK_STR(printed, "no management devices\nno devices\n");
}

TEST(list_as_json) {
        fill();
        lib.n_mgmt = lib.n_devices = 1;
        RUN("list", "--json");
        CHECK_EQ(status, TOOL_OK);
        CHECK_STR(printed, "{\n  \"management_devices\": [\n    {\n      \"bus\": null,\n      \"name\": \"vdpasim_net\",\n      \"types\": [\n        {\n"
                           "          \"name\": \"net\",\n          \"id\": 1\n        }\n      ],\n      \"features\": \"0x308820028\",\n"
                           "      \"max_queues\": 3\n    }\n  ],\n  \"devices\": [\n    {\n      \"name\": \"net0\",\n      \"type\": {\n"
                           "        \"name\": \"net\",\n        \"id\": 1\n      },\n      \"vendor_id\": 0,\n      \"mgmt\": {\n        \"bus\": null,\n"
                           "        \"name\": \"vdpasim_net\"\n      },\n      \"max_queues\": 3,\n      \"max_queue_size\": 256,\n"
                           "      \"driver\": \"vhost_vdpa\",\n      \"node\": \"/dev/vhost-vdpa-0\"\n    }\n  ]\n}\n");
        fill();
        RUN("list", "--json");
        CHECK(strstr(printed, "\"bus\": \"pci\"") && strstr(printed, "\"driver\": null") && strstr(printed, "\"name\": null,\n          \"id\": 62"));
}

TEST(a_list_that_fails_prints_nothing) {
        fill();
        lib.n_devices = -EOPNOTSUPP;
        RUN("list", "--json");
        CHECK_EQ(status, TOOL_FAILED);
        CHECK_STR(printed, "");
        lib.n_mgmt = -EOPNOTSUPP;
        for (int i = 0; i < 2; i++) {
                RUN("list", i ? "--json" : NULL);
                CHECK_EQ(status, TOOL_FAILED);
                CHECK_STR(printed, "");
        }
}

TEST(add) {
        fill();
        RUN("add", "blk0", "--mgmt=vdpasim_blk");
        CHECK_EQ(status, TOOL_OK);
        CHECK_STR(lib.name, "blk0");
        CHECK_STR(lib.mgmt_name, "vdpasim_blk");
        CHECK_STR(lib.mgmt_bus, "");
        CHECK(!lib.added.has_mac && !lib.added.mtu && !lib.added.max_queue_pairs && !lib.added.features);
        CHECK_EQ(lib.added.size, sizeof(lib.added));
        run("add", "--mgmt=pci/0000:01:00.2", "--mac=52:54:00:aB:34:56", "--mtu=9000", "--queues=4", "net0");
        CHECK_EQ(status, TOOL_OK);
        CHECK(!lib.added.features);
        CHECK_EQ(status, TOOL_OK);
        CHECK_STR(lib.mgmt_name, "0000:01:00.2");
        CHECK_STR(lib.mgmt_bus, "pci");
        CHECK(lib.added.has_mac && !memcmp(lib.added.mac, "\x52\x54\x00\xab\x34\x56", 6));
        CHECK_EQ(lib.added.mtu, 9000);
        CHECK_EQ(lib.added.max_queue_pairs, 4);
        CHECK_STR(printed, "");
        RUN("add", "net1", "--mgmt=vdpasim_net", "--features=0xfFffffffffffffff");
        CHECK_EQ(lib.added.features, UINT64_MAX);
        lib.k = -EEXIST;
        RUN("add", "blk0", "--mgmt=vdpasim_blk");
        CHECK_EQ(status, TOOL_FAILED);
}

TEST(add_wrongly) {
        static const char *const rows[] = {
                "--mac=52:54:00:12:34:5", "--mac=52:54:00:12:34:56 ", "--mac=52-54-00-12-34-56", "--features=0x0", "--features=0X1", "--features=300",
        };

        fill();
        RUN("add", "n");
        CHECK(status == TOOL_USAGE && !lib.name[0]);
        for (size_t i = 0; i < TOOL_N(rows); i++) {
                RUN("add", "n", "--mgmt=x", rows[i]);
                CHECK_MSG(status == TOOL_USAGE && !lib.name[0], "%s", rows[i]);
        }
}

TEST(del_and_bind) {
        fill();
        RUN("del", "blk0");
        CHECK_EQ(status, TOOL_OK);
        CHECK_STR(lib.asked, "del");
        CHECK_STR(lib.name, "blk0");
        RUN("bind", "blk3", "vhost_vdpa");
        CHECK_EQ(status, TOOL_OK);
        CHECK_STR(lib.driver, "vhost_vdpa");
        CHECK_STR(printed, "/dev/vhost-vdpa-3\n");
        RUN("bind", "blk4", "virtio_vdpa");
        CHECK_EQ(status, TOOL_OK);
        CHECK_STR(lib.driver, "virtio_vdpa");
        CHECK_STR(printed, "");
        RUN("bind", "blk4", "vfio");
        CHECK_EQ(status, TOOL_USAGE);
        CHECK_STR(lib.driver, "virtio_vdpa");
        lib.k = -ENODEV;
        RUN("bind", "blk4", "vhost_vdpa");
        CHECK_EQ(status, TOOL_FAILED);
        RUN("del", "blk4");
        CHECK_EQ(status, TOOL_FAILED);
        free(printed);
        printed = NULL;
}
