/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#include "layout.h"

#include <stdio.h>
#include <string.h>

#define N(a) (sizeof(a) / sizeof((a)[0]))
#define BIT(n) (UINT64_C(1) << (n))

static const char *const duplexes[] = { "half", "full", NULL };
static const char *const zone_models[] = { "none", "host-managed", "host-aware", NULL };

/* ---- 5.1.4; RSS is bit 60, HASH_REPORT 57, HASH_TUNNEL 51 ---- */

static const struct field net_fields[] = {
        { "mac", "address", 0, 6, U_MAC, BIT(5) },
        { "status", "status", 6, 2, U_HEX, BIT(16) },
        { "max_queue_pairs", "most queue pairs", 8, 2, U_COUNT, BIT(22) | BIT(60) },
        { "mtu", "MTU", 10, 2, U_BYTES, BIT(3) },
        { "speed", "speed", 12, 4, U_MBIT, BIT(63) },
        { "duplex", "duplex", 16, 1, U_WORD, BIT(63), duplexes },
        { "rss_max_key_size", "RSS key", 17, 1, U_BYTES, BIT(60) | BIT(57) },
        { "rss_max_indirection_table_length", "RSS table", 18, 2, U_COUNT, BIT(60) },
        { "supported_hash_types", "hash types", 20, 4, U_HEX, BIT(60) | BIT(57) },
        { "supported_tunnel_types", "tunnel types", 24, 4, U_HEX, BIT(51) },
};

/* ---- 5.2.4 ---- */

static const struct field block_fields[] = {
        { "capacity", "capacity", 0, 8, U_SECTORS },
        { "block_size", "block size", 20, 4, U_BYTES, BIT(6) },
        { "physical_block_size", "physical block", 24, 1, U_BLOCK_EXPONENT, BIT(10) },
        { "alignment_offset", "alignment offset", 25, 1, U_BLOCKS, BIT(10) },
        { "min_io_size", "least i/o size", 26, 2, U_BLOCKS, BIT(10) },
        { "opt_io_size", "best i/o size", 28, 4, U_BLOCKS, BIT(10) },
        { "max_segment_size", "largest segment", 8, 4, U_BYTES, BIT(1) },
        { "max_segments", "most segments", 12, 4, U_COUNT, BIT(2) },
        { "geometry_cylinders", "cylinders", 16, 2, U_COUNT, BIT(4) },
        { "geometry_heads", "heads", 18, 1, U_COUNT, BIT(4) },
        { "geometry_sectors", "sectors per track", 19, 1, U_COUNT, BIT(4) },
        { "writeback", "write-back", 32, 1, U_FLAG, BIT(11) },
        { "n_queues", "queues", 34, 2, U_COUNT, BIT(12) },
        { "max_discard_bytes", "largest discard", 36, 4, U_SECTORS, BIT(13) },
        { "max_discard_segments", "discard segments", 40, 4, U_COUNT, BIT(13) },
        { "discard_alignment", "discard alignment", 44, 4, U_SECTORS, BIT(13) },
        { "max_write_zeroes_bytes", "largest zeroing", 48, 4, U_SECTORS, BIT(14) },
        { "max_write_zeroes_segments", "zeroing segments", 52, 4, U_COUNT, BIT(14) },
        { "write_zeroes_may_unmap", "zeroing may unmap", 56, 1, U_FLAG, BIT(14) },
        { "max_secure_erase_bytes", "largest erasure", 60, 4, U_SECTORS, BIT(16) },
        { "max_secure_erase_segments", "erasure segments", 64, 4, U_COUNT, BIT(16) },
        { "secure_erase_alignment", "erasure alignment", 68, 4, U_SECTORS, BIT(16) },
        { "zone_size", "zone", 72, 4, U_SECTORS, BIT(17) },
        { "max_open_zones", "most open zones", 76, 4, U_COUNT, BIT(17) },
        { "max_active_zones", "most active zones", 80, 4, U_COUNT, BIT(17) },
        { "max_append_bytes", "largest append", 84, 4, U_SECTORS, BIT(17) },
        { "zone_write_granularity", "zone granularity", 88, 4, U_BYTES, BIT(17) },
        { "zone_model", "zones", 92, 1, U_WORD, BIT(17), zone_models },
};

static const struct field console_fields[] = {          /* 5.3.4 */
        { "columns", "columns", 0, 2, U_COUNT, BIT(0) },
        { "rows", "rows", 2, 2, U_COUNT, BIT(0) },
        { "max_ports", "most ports", 4, 4, U_COUNT, BIT(1) },
};

static const struct field balloon_fields[] = {          /* 5.5.4 */
        { "num_pages", "pages wanted", 0, 4, U_COUNT },
        { "actual", "pages given", 4, 4, U_COUNT },
        { "free_page_hint_cmd_id", "hint command", 8, 4, U_COUNT, BIT(3) },
        { "poison_value", "poison", 12, 4, U_HEX, BIT(4) },
};

static const struct field scsi_fields[] = {             /* 5.6.4 */
        { "n_queues", "request queues", 0, 4, U_COUNT },
        { "max_segments", "most segments", 4, 4, U_COUNT },
        { "max_bytes", "largest transfer", 8, 4, U_SECTORS },
        { "commands_per_lun", "commands per LUN", 12, 4, U_COUNT },
        { "event_info_size", "event", 16, 4, U_BYTES },
        { "sense_size", "sense data", 20, 4, U_BYTES },
        { "cdb_size", "command block", 24, 4, U_BYTES },
        { "max_channel", "last channel", 28, 2, U_COUNT },
        { "max_target", "last target", 30, 2, U_COUNT },
        { "max_lun", "last LUN", 32, 4, U_COUNT },
};

static const struct field gpu_fields[] = {              /* 5.7.4 */
        { "events", "events", 0, 4, U_HEX },
        { "n_scanouts", "scanouts", 8, 4, U_COUNT },
        { "n_capsets", "capability sets", 12, 4, U_COUNT },
};

static const struct field vsock_fields[] = {            /* 5.10.4 */
        { "guest_cid", "guest CID", 0, 8, U_COUNT },
};

static const struct field crypto_fields[] = {           /* 5.9.4 */
        { "status", "status", 0, 4, U_HEX },
        { "max_data_queues", "data queues", 4, 4, U_COUNT },
        { "services", "services", 8, 4, U_HEX },
        { "cipher_algorithms", "ciphers", 12, 8, U_HEX },
        { "hash_algorithms", "hashes", 20, 4, U_HEX },
        { "mac_algorithms", "MACs", 24, 8, U_HEX },
        { "aead_algorithms", "AEADs", 32, 4, U_HEX },
        { "max_cipher_key_size", "largest cipher key", 36, 4, U_BYTES },
        { "max_auth_key_size", "largest auth key", 40, 4, U_BYTES },
        { "akcipher_algorithms", "public key ciphers", 44, 4, U_HEX },
        { "max_size", "largest request", 48, 8, U_BYTES },
};

static const struct field iommu_fields[] = {            /* 5.13.4 */
        { "page_sizes", "page sizes", 0, 8, U_HEX },
        { "input_first", "first address", 8, 8, U_HEX, BIT(0) },
        { "input_last", "last address", 16, 8, U_HEX, BIT(0) },
        { "domain_first", "first domain", 24, 4, U_COUNT, BIT(1) },
        { "domain_last", "last domain", 28, 4, U_COUNT, BIT(1) },
        { "probe_size", "probe buffer", 32, 4, U_BYTES, BIT(4) },
        { "bypass", "bypass", 36, 1, U_FLAG, BIT(6) },
};

static const struct field mem_fields[] = {              /* 5.15.4 */
        { "block_size", "block size", 0, 8, U_BYTES },
        { "node_id", "node", 8, 2, U_COUNT, BIT(0) },
        { "address", "address", 16, 8, U_HEX },
        { "region_size", "region", 24, 8, U_BYTES },
        { "usable_region_size", "usable", 32, 8, U_BYTES },
        { "plugged_size", "plugged", 40, 8, U_BYTES },
        { "requested_size", "requested", 48, 8, U_BYTES },
};

static const struct field sound_fields[] = {            /* 5.14.4 */
        { "n_jacks", "jacks", 0, 4, U_COUNT },
        { "n_streams", "streams", 4, 4, U_COUNT },
        { "n_channel_maps", "channel maps", 8, 4, U_COUNT },
        { "n_controls", "controls", 12, 4, U_COUNT, BIT(0) },
};

static const struct field fs_fields[] = {               /* 5.11.4 */
        { "tag", "tag", 0, 36, U_TEXT },
        { "n_request_queues", "request queues", 36, 4, U_COUNT },
        { "notify_buffer_size", "notification", 40, 4, U_BYTES, BIT(0) },
};

static const struct field pmem_fields[] = {             /* 5.19.4 */
        { "address", "address", 0, 8, U_HEX },
        { "size", "size", 8, 8, U_BYTES },
};

static const struct field rpmb_fields[] = {             /* 5.12.4 */
        { "capacity", "capacity", 0, 1, U_128_KIB },
        { "max_write_bytes", "largest write", 1, 1, U_256_BYTES },
        { "max_read_bytes", "largest read", 2, 1, U_256_BYTES },
};

static const struct field gpio_fields[] = {             /* 5.18.4 */
        { "n_lines", "lines", 0, 2, U_COUNT },
        { "names_size", "names", 4, 4, U_BYTES },
};

#define LAYOUT(id, fields) { id, fields, N(fields) }
static const struct layout layouts[] = {
        LAYOUT(1, net_fields), LAYOUT(2, block_fields), LAYOUT(3, console_fields), LAYOUT(5, balloon_fields), LAYOUT(8, scsi_fields),
        LAYOUT(16, gpu_fields), LAYOUT(19, vsock_fields), LAYOUT(20, crypto_fields), LAYOUT(23, iommu_fields), LAYOUT(24, mem_fields),
        LAYOUT(25, sound_fields), LAYOUT(26, fs_fields), LAYOUT(27, pmem_fields), LAYOUT(28, rpmb_fields), LAYOUT(41, gpio_fields),
};

const struct layout *layout_of(uint32_t virtio_id) {
        for (unsigned i = 0; i < N(layouts); i++)
                if (layouts[i].virtio_id == virtio_id)
                        return &layouts[i];
        return NULL;
}

unsigned layout_size(const struct layout *l) {
        unsigned size = 0;

        for (unsigned i = 0; i < l->n_fields; i++)
                if (l->fields[i].offset + l->fields[i].size > (int)size)
                        size = l->fields[i].offset + l->fields[i].size;
        return size;
}

bool layout_has(const struct field *f, unsigned n, uint64_t features) {
        return f->offset + f->size <= (int)n && (!f->when || features & f->when);
}

uint64_t layout_le(const uint8_t *p, unsigned n) {
        uint64_t v = 0;

        while (n--)
                v = v << 8 | p[n];
        return v;
}

uint64_t layout_number(const struct field *f, const uint8_t *config, unsigned n, uint64_t features) {
        uint64_t v = layout_le(config + f->offset, f->size), block = features & BIT(6) && n >= 24 ? layout_le(config + 20, 4) : 512;

        switch (f->unit) {
        case U_SECTORS:
                return v * 512;
        case U_256_BYTES:
                return v * 256;
        case U_128_KIB:
                return v << 17;
        case U_BLOCKS:
                return v * block;
        case U_BLOCK_EXPONENT:
                return v < 32 ? block << v : 0;
        default:
                return v;
        }
}

bool layout_is_size(const struct field *f) {
        return f->unit >= U_BYTES && f->unit <= U_BLOCK_EXPONENT;
}

const char *layout_word(const struct field *f, uint64_t v) {
        for (uint64_t i = 0; f->words[i]; i++)
                if (i == v)
                        return f->words[i];
        return NULL;
}

bool layout_is_unknown(const struct field *f, uint64_t v) {
        return (f->unit == U_MBIT && v == UINT32_MAX) || (f->unit == U_WORD && !layout_word(f, v));
}

void layout_text(const struct field *f, const uint8_t *config, char ret_text[64]) {
        const uint8_t *p = config + f->offset;

        if (f->unit == U_MAC)
                snprintf(ret_text, 64, "%02x:%02x:%02x:%02x:%02x:%02x", p[0], p[1], p[2], p[3], p[4], p[5]);
        else
                snprintf(ret_text, 64, "%.*s", (int)f->size, (const char *)p);
}
