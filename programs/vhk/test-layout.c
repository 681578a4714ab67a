/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The tables against Linux's headers (6.1), member by member, and what values become. */
#include "base/test.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_console.h>
#include <linux/virtio_crypto.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_gpio.h>
#include <linux/virtio_gpu.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_iommu.h>
#include <linux/virtio_mem.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pmem.h>
#include <linux/virtio_scsi.h>
#include <linux/virtio_snd.h>
#include <linux/virtio_vsock.h>
#include <stddef.h>

#include "layout.h"

#define BIT(n) (UINT64_C(1) << (n))
#define N(a) (sizeof(a) / sizeof((a)[0]))
#define MEMBER(id, name, type, member, when) { id, name, offsetof(type, member), sizeof(((type *)0)->member), when }
#define MEMBERS(id, name, type, from, to, when) { id, name, offsetof(type, from), offsetof(type, to) + sizeof(((type *)0)->to) - offsetof(type, from), when }

#define NET(name, member, when) MEMBER(VIRTIO_ID_NET, name, struct virtio_net_config, member, when)
#define BLK(name, member, when) MEMBER(VIRTIO_ID_BLOCK, name, struct virtio_blk_config, member, when)
#define CONSOLE(name, member, when) MEMBER(VIRTIO_ID_CONSOLE, name, struct virtio_console_config, member, when)
#define BALLOON(name, member, when) MEMBER(VIRTIO_ID_BALLOON, name, struct virtio_balloon_config, member, when)
#define SCSI(name, member) MEMBER(VIRTIO_ID_SCSI, name, struct virtio_scsi_config, member, 0)
#define GPU(name, member) MEMBER(VIRTIO_ID_GPU, name, struct virtio_gpu_config, member, 0)
#define CRYPTO(name, member) MEMBER(VIRTIO_ID_CRYPTO, name, struct virtio_crypto_config, member, 0)
#define IOMMU(name, member, when) MEMBER(VIRTIO_ID_IOMMU, name, struct virtio_iommu_config, member, when)
#define MEM(name, member, when) MEMBER(VIRTIO_ID_MEM, name, struct virtio_mem_config, member, when)
#define SND(name, member) MEMBER(VIRTIO_ID_SOUND, name, struct virtio_snd_config, member, 0)

/* What no header of 6.1 has is given by virtio 1.3's numbers. */
static const struct witness {
        uint32_t id;
        const char *name;
        size_t offset, size;
        uint64_t when;
} witnesses[] = {
        NET("mac", mac, BIT(VIRTIO_NET_F_MAC)), NET("status", status, BIT(VIRTIO_NET_F_STATUS)),
        NET("max_queue_pairs", max_virtqueue_pairs, BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_RSS)), NET("mtu", mtu, BIT(VIRTIO_NET_F_MTU)),
        NET("speed", speed, BIT(VIRTIO_NET_F_SPEED_DUPLEX)), NET("duplex", duplex, BIT(VIRTIO_NET_F_SPEED_DUPLEX)),
        NET("rss_max_key_size", rss_max_key_size, BIT(VIRTIO_NET_F_RSS) | BIT(VIRTIO_NET_F_HASH_REPORT)),
        NET("rss_max_indirection_table_length", rss_max_indirection_table_length, BIT(VIRTIO_NET_F_RSS)),
        NET("supported_hash_types", supported_hash_types, BIT(VIRTIO_NET_F_RSS) | BIT(VIRTIO_NET_F_HASH_REPORT)),
        { VIRTIO_ID_NET, "supported_tunnel_types", 24, 4, BIT(51) },

        BLK("capacity", capacity, 0), BLK("block_size", blk_size, BIT(VIRTIO_BLK_F_BLK_SIZE)),
        BLK("physical_block_size", physical_block_exp, BIT(VIRTIO_BLK_F_TOPOLOGY)), BLK("alignment_offset", alignment_offset, BIT(VIRTIO_BLK_F_TOPOLOGY)),
        BLK("min_io_size", min_io_size, BIT(VIRTIO_BLK_F_TOPOLOGY)), BLK("opt_io_size", opt_io_size, BIT(VIRTIO_BLK_F_TOPOLOGY)),
        BLK("max_segment_size", size_max, BIT(VIRTIO_BLK_F_SIZE_MAX)), BLK("max_segments", seg_max, BIT(VIRTIO_BLK_F_SEG_MAX)),
        BLK("geometry_cylinders", geometry.cylinders, BIT(VIRTIO_BLK_F_GEOMETRY)), BLK("geometry_heads", geometry.heads, BIT(VIRTIO_BLK_F_GEOMETRY)),
        BLK("geometry_sectors", geometry.sectors, BIT(VIRTIO_BLK_F_GEOMETRY)), BLK("writeback", wce, BIT(11)), BLK("n_queues", num_queues, BIT(VIRTIO_BLK_F_MQ)),
        BLK("max_discard_bytes", max_discard_sectors, BIT(VIRTIO_BLK_F_DISCARD)), BLK("max_discard_segments", max_discard_seg, BIT(VIRTIO_BLK_F_DISCARD)),
        BLK("discard_alignment", discard_sector_alignment, BIT(VIRTIO_BLK_F_DISCARD)),
        BLK("max_write_zeroes_bytes", max_write_zeroes_sectors, BIT(VIRTIO_BLK_F_WRITE_ZEROES)),
        BLK("max_write_zeroes_segments", max_write_zeroes_seg, BIT(VIRTIO_BLK_F_WRITE_ZEROES)),
        BLK("write_zeroes_may_unmap", write_zeroes_may_unmap, BIT(VIRTIO_BLK_F_WRITE_ZEROES)),
        BLK("max_secure_erase_bytes", max_secure_erase_sectors, BIT(VIRTIO_BLK_F_SECURE_ERASE)),
        BLK("max_secure_erase_segments", max_secure_erase_seg, BIT(VIRTIO_BLK_F_SECURE_ERASE)),
        BLK("secure_erase_alignment", secure_erase_sector_alignment, BIT(VIRTIO_BLK_F_SECURE_ERASE)),
        { VIRTIO_ID_BLOCK, "zone_size", 72, 4, BIT(17) }, { VIRTIO_ID_BLOCK, "max_open_zones", 76, 4, BIT(17) },
        { VIRTIO_ID_BLOCK, "max_active_zones", 80, 4, BIT(17) }, { VIRTIO_ID_BLOCK, "max_append_bytes", 84, 4, BIT(17) },
        { VIRTIO_ID_BLOCK, "zone_write_granularity", 88, 4, BIT(17) }, { VIRTIO_ID_BLOCK, "zone_model", 92, 1, BIT(17) },

        CONSOLE("columns", cols, BIT(VIRTIO_CONSOLE_F_SIZE)), CONSOLE("rows", rows, BIT(VIRTIO_CONSOLE_F_SIZE)),
        CONSOLE("max_ports", max_nr_ports, BIT(VIRTIO_CONSOLE_F_MULTIPORT)),
        BALLOON("num_pages", num_pages, 0), BALLOON("actual", actual, 0),
        BALLOON("free_page_hint_cmd_id", free_page_hint_cmd_id, BIT(VIRTIO_BALLOON_F_FREE_PAGE_HINT)),
        BALLOON("poison_value", poison_val, BIT(VIRTIO_BALLOON_F_PAGE_POISON)),
        SCSI("n_queues", num_queues), SCSI("max_segments", seg_max), SCSI("max_bytes", max_sectors), SCSI("commands_per_lun", cmd_per_lun),
        SCSI("event_info_size", event_info_size), SCSI("sense_size", sense_size), SCSI("cdb_size", cdb_size), SCSI("max_channel", max_channel),
        SCSI("max_target", max_target), SCSI("max_lun", max_lun),
        GPU("events", events_read), GPU("n_scanouts", num_scanouts), GPU("n_capsets", num_capsets),
        MEMBER(VIRTIO_ID_VSOCK, "guest_cid", struct virtio_vsock_config, guest_cid, 0),
        CRYPTO("status", status), CRYPTO("max_data_queues", max_dataqueues), CRYPTO("services", crypto_services),
        MEMBERS(VIRTIO_ID_CRYPTO, "cipher_algorithms", struct virtio_crypto_config, cipher_algo_l, cipher_algo_h, 0), CRYPTO("hash_algorithms", hash_algo),
        MEMBERS(VIRTIO_ID_CRYPTO, "mac_algorithms", struct virtio_crypto_config, mac_algo_l, mac_algo_h, 0), CRYPTO("aead_algorithms", aead_algo),
        CRYPTO("max_cipher_key_size", max_cipher_key_len), CRYPTO("max_auth_key_size", max_auth_key_len), CRYPTO("akcipher_algorithms", akcipher_algo),
        CRYPTO("max_size", max_size),
        IOMMU("page_sizes", page_size_mask, 0), IOMMU("input_first", input_range.start, BIT(VIRTIO_IOMMU_F_INPUT_RANGE)),
        IOMMU("input_last", input_range.end, BIT(VIRTIO_IOMMU_F_INPUT_RANGE)), IOMMU("domain_first", domain_range.start, BIT(VIRTIO_IOMMU_F_DOMAIN_RANGE)),
        IOMMU("domain_last", domain_range.end, BIT(VIRTIO_IOMMU_F_DOMAIN_RANGE)), IOMMU("probe_size", probe_size, BIT(VIRTIO_IOMMU_F_PROBE)),
        IOMMU("bypass", bypass, BIT(VIRTIO_IOMMU_F_BYPASS_CONFIG)),
        MEM("block_size", block_size, 0), MEM("node_id", node_id, BIT(VIRTIO_MEM_F_ACPI_PXM)), MEM("address", addr, 0), MEM("region_size", region_size, 0),
        MEM("usable_region_size", usable_region_size, 0), MEM("plugged_size", plugged_size, 0), MEM("requested_size", requested_size, 0),
        SND("n_jacks", jacks), SND("n_streams", streams), SND("n_channel_maps", chmaps), { VIRTIO_ID_SOUND, "n_controls", 12, 4, BIT(0) },
        MEMBER(VIRTIO_ID_FS, "tag", struct virtio_fs_config, tag, 0), MEMBER(VIRTIO_ID_FS, "n_request_queues", struct virtio_fs_config, num_request_queues, 0),
        { VIRTIO_ID_FS, "notify_buffer_size", 40, 4, BIT(0) },
        MEMBER(VIRTIO_ID_PMEM, "address", struct virtio_pmem_config, start, 0), MEMBER(VIRTIO_ID_PMEM, "size", struct virtio_pmem_config, size, 0),
        { VIRTIO_ID_RPMB, "capacity", 0, 1, 0 }, { VIRTIO_ID_RPMB, "max_write_bytes", 1, 1, 0 }, { VIRTIO_ID_RPMB, "max_read_bytes", 2, 1, 0 },
        MEMBER(VIRTIO_ID_GPIO, "n_lines", struct virtio_gpio_config, ngpio, 0),
        MEMBER(VIRTIO_ID_GPIO, "names_size", struct virtio_gpio_config, gpio_names_size, 0),
};

static const struct field *find(uint32_t id, const char *name) {
        const struct layout *l = layout_of(id);

        CHECK_MSG(l, "device %u has no layout", id);
        for (unsigned i = 0; i < l->n_fields; i++)
                if (!strcmp(l->fields[i].name, name))
                        return &l->fields[i];
        CHECK_MSG(0, "device %u has no field %s", id, name);
        return NULL;
}

TEST(where_headers_have_it) {
        unsigned n = 0;

        for (unsigned i = 0; i < N(witnesses); i++) {
                const struct witness *w = &witnesses[i];
                const struct field *f = find(w->id, w->name);
                CHECK_MSG(f->offset == w->offset && f->size == w->size && f->when == w->when, "%s of device %u", w->name, w->id);
        }
        for (uint32_t id = 0; id < 64; id++)
                n += layout_of(id) ? layout_of(id)->n_fields : 0;
        CHECK_EQ(n, N(witnesses));
}

TEST(sizes_of_spaces) {
        CHECK_EQ(layout_size(layout_of(VIRTIO_ID_NET)), 28);
        CHECK_EQ(layout_size(layout_of(VIRTIO_ID_BLOCK)), 93);
        CHECK_EQ(layout_size(layout_of(VIRTIO_ID_SCSI)), sizeof(struct virtio_scsi_config));
        CHECK_EQ(layout_size(layout_of(VIRTIO_ID_CRYPTO)), sizeof(struct virtio_crypto_config));
        CHECK(!layout_of(VIRTIO_ID_RNG));
        CHECK(!layout_of(VIRTIO_ID_INPUT));
        CHECK(!layout_of(0));
}

TEST(only_what_is_there) {
        const struct field *mac = find(1, "mac"), *pairs = find(1, "max_queue_pairs");

        CHECK(layout_has(mac, 6, BIT(5)));
        CHECK(!layout_has(mac, 5, BIT(5)));
        CHECK(!layout_has(mac, 6, ~BIT(5)));
        CHECK(layout_has(pairs, 10, BIT(22)));
        CHECK(layout_has(pairs, 10, BIT(60)));
        CHECK(!layout_has(pairs, 10, BIT(57)));
        CHECK(layout_has(find(19, "guest_cid"), 8, 0));
}

TEST(numbers) {
        uint8_t c[96];

        for (unsigned i = 0; i < sizeof(c); i++)
                c[i] = (uint8_t)i;
        CHECK_EQ(layout_number(find(19, "guest_cid"), c, 8, 0), 0x0706050403020100);
        CHECK_EQ(layout_number(find(8, "max_bytes"), c, 36, 0), 0x0b0a0908ull * 512);
        CHECK_EQ(layout_number(find(28, "capacity"), (uint8_t[3]){ 0x80, 2, 255 }, 3, 0), 16 << 20);
        CHECK_EQ(layout_number(find(28, "max_read_bytes"), (uint8_t[3]){ 0x80, 2, 255 }, 3, 0), 255 * 256);
        CHECK_EQ(layout_number(find(20, "max_size"), c, 56, 0), 0x3736353433323130);
        memcpy(c + 20, (uint8_t[]){ 0, 0x10, 0, 0, 3, 2 }, 6);          /* a block of 4096 bytes, exponent 3, offset 2 */
        CHECK_EQ(layout_number(find(2, "physical_block_size"), c, 60, BIT(6) | BIT(10)), 32768);
        CHECK_EQ(layout_number(find(2, "alignment_offset"), c, 60, BIT(6) | BIT(10)), 8192);
        CHECK_EQ(layout_number(find(2, "physical_block_size"), c, 60, BIT(10)), 4096);
        CHECK_EQ(layout_number(find(2, "capacity"), c, 8, 0), 0x0706050403020100ull * 512);
        c[24] = 32;
        CHECK_EQ(layout_number(find(2, "physical_block_size"), c, 60, BIT(10)), 0);
}

TEST(words_and_unknowns) {
        const struct field *duplex = find(1, "duplex"), *speed = find(1, "speed");

        CHECK_STR(layout_word(duplex, 0), "half");
        CHECK_STR(layout_word(duplex, 1), "full");
        CHECK(!layout_word(duplex, 2) && layout_is_unknown(duplex, 0xff));
        CHECK(layout_is_unknown(speed, UINT32_MAX) && !layout_is_unknown(speed, 10000));
        CHECK_STR(layout_word(find(2, "zone_model"), 1), "host-managed");
        CHECK(!layout_is_unknown(find(19, "guest_cid"), UINT32_MAX));
}

TEST(texts) {
        struct virtio_fs_config fs = { .tag = "myfs" };
        char text[64];

        layout_text(find(1, "mac"), (const uint8_t[]){ 0x52, 0x54, 0, 0x12, 0xab, 0xff }, text);
        CHECK_STR(text, "52:54:00:12:ab:ff");
        layout_text(find(26, "tag"), (const uint8_t *)&fs, text);
        CHECK_STR(text, "myfs");
        memset(fs.tag, 'x', sizeof(fs.tag));
        fs.num_request_queues = 0x79797979;
        layout_text(find(26, "tag"), (const uint8_t *)&fs, text);
        CHECK_EQ(strlen(text), 36);
        CHECK(!strchr(text, 'y'));
}
