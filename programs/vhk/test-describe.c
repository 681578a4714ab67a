/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What is printed of devices that tests/test-vhk.py has no back-end for; the peers are made here, nobody is asked. */
#include "base/test.h"

#include <stdint.h>

#include "describe.h"

#define BIT(n) (UINT64_C(1) << (n))

static char *text, *json;

static struct peer a_peer(uint32_t id, uint64_t features, const void *config, unsigned n) {
        struct peer p = { .endpoint = "/x", .virtio_id = id, .how = PEER_TOLD, .config_len = n,
                          .info = { .size = sizeof(p.info), .capabilities = VHK_CAP_CONFIG, .features = features, .n_queues = 2, .mem_slots = 8 } };

        memcpy(p.config, config, n);
        return p;
}

static void print(const struct peer *p) {
        size_t n;

        free(text);
        free(json);
        text = json = NULL;
        FILE *f = open_memstream(&text, &n);
        peer_print(p, f);
        fclose(f);
        f = open_memstream(&json, &n);
        peer_print_json(p, f);
        fclose(f);
}

#define SAYS(where, words) CHECK_MSG(strstr(where, words), "no \"%s\" in\n%s", words, where)
#define SAYS_NOT(where, words) CHECK_MSG(!strstr(where, words), "\"%s\" in\n%s", words, where)

static void forget(void) {
        free(text);
        free(json);
        text = json = NULL;
}

TEST(a_tag_is_not_believed) {
        struct peer p = a_peer(26, 0, "my\x1b[2Jfs\"\xff", 11);

        p.config_len = 44;
        p.config[36] = 3;
        print(&p);
        SAYS(text, "\n  tag                my?[2Jfs\"");
        SAYS_NOT(text, "\x1b");
        SAYS(text, "\n  request queues     3\n");
        SAYS_NOT(text, "notification");
        SAYS(json, "\"tag\": \"my\\u001b[2Jfs\\\"\\ufffd\",\n");
        SAYS(json, "\"n_request_queues\": 3\n");
        forget();
}

TEST(scsi) {
        uint8_t c[36] = { 4, 0, 0, 0, 126, 0, 0, 0, 0xff, 0xff, 0, 0, 128, 0, 0, 0, 16, 0, 0, 0, 96, 0, 0, 0, 32, 0, 0, 0, 0, 0, 255, 0, 0xff, 0x3f };
        struct peer p = a_peer(8, 0, c, sizeof(c));

        print(&p);
        SAYS(text, "device               scsi\n");
        SAYS(text, "\n  largest transfer   33553920 bytes");
        SAYS(text, "\n  last target        255\n");
        SAYS(json, "\"scsi\": {\n      \"n_queues\": 4,\n      \"max_segments\": 126,\n      \"max_bytes\": 33553920,");
        SAYS(json, "\"max_lun\": 16383\n");
        forget();
}

TEST(net_that_does_not_know_its_speed) {
        uint8_t c[28] = { 0x52, 0x54, 0, 1, 2, 3, 1, 0, 4, 0, 0xdc, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 40, 128, 0, 0xff, 1 };
        struct peer p = a_peer(1, BIT(5) | BIT(16) | BIT(22) | BIT(3) | BIT(63) | BIT(60), c, sizeof(c));

        print(&p);
        SAYS(text, "\n  speed              unknown\n  duplex             unknown\n  RSS key            40 bytes\n  RSS table          128\n  hash types         0x1ff\n");
        SAYS(json, "\"speed\": null,\n      \"duplex\": null,\n");
        SAYS(json, "\"status\": \"0x1\",\n      \"max_queue_pairs\": 4,\n      \"mtu\": 1500,\n");
        memcpy(p.config + 12, "\x10\x27\0\0\1", 5);
        print(&p);
        SAYS(text, "\n  speed              10000 Mbit/s\n  duplex             full\n");
        SAYS(json, "\"speed\": 10000,\n      \"duplex\": \"full\",\n");
        forget();
}

TEST(a_disk_with_zones) {
        uint8_t c[96] = { [2] = 2 };
        struct peer p = a_peer(2, BIT(17) | BIT(16) | BIT(11), c, sizeof(c));

        p.config[32] = 1;
        p.config[61] = 16;
        p.config[73] = 8;
        p.config[92] = 1;
        print(&p);
        SAYS(text, "\n  capacity           67108864 bytes (64 MiB)\n");
        SAYS(text, "\n  write-back         yes\n");
        SAYS(text, "\n  largest erasure    2097152 bytes (2 MiB)\n");
        SAYS(text, "\n  zone               1048576 bytes (1 MiB)\n");
        SAYS(text, "\n  zones              host-managed\n");
        SAYS(json, "\"zone_model\": \"host-managed\"\n");
        forget();
}

TEST(a_kernels_device) {
        struct peer p = a_peer(19, BIT(1), "", 0);

        p.info.capabilities = VHK_CAP_VSOCK;
        p.info.carrier_features = 0x1e | BIT(20);
        p.info.mem_slots = UINT32_MAX;
        print(&p);
        SAYS(text, "device               vsock\n");
        SAYS(text, "queues               2\n");
        SAYS(text, "   1  IOTLB_MSG_V2\n   2  IOTLB_BATCH\n   3  IOTLB_ASID\n   4  SUSPEND\n  20  (no name known)\n");
        SAYS(text, "configuration        none\n");
        SAYS_NOT(text, "4294967295");
        SAYS(json, "\"backend_features\": {");
        SAYS_NOT(json, "protocol_features");
        forget();
}

TEST(a_type_without_a_layout) {
        struct peer p = a_peer(18, 0, "\1\2\3", 3);

        print(&p);
        SAYS(text, "configuration        3 bytes\n  01 02 03\n");
        SAYS(json, "\"length\": 3,\n    \"hex\": \"010203\"\n  }");
        p = a_peer(4, 0, "", 0);
        print(&p);
        SAYS(text, "configuration        cannot be read\n");
        p.virtio_id = 0;
        p.how = PEER_UNKNOWN;
        p.info.capabilities = 0;
        print(&p);
        SAYS(text, "device               unknown (vhost-user does not say)\n");
        SAYS(text, "queues               2 (the back-end does not tell)\n");
        SAYS(text, "configuration        none (no protocol feature CONFIG)\n");
        forget();
}
