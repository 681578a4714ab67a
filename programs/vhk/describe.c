/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-user does not tell the type of a device. What can be inferred is inferred from feature bits that no other type
 * uses in that combination, and for a disk from a configuration that makes sense as one (virtio 1.3, 5.2.4); everything
 * else stays unknown.
 */
#include "describe.h"

#include <errno.h>
#include <string.h>

#include "tool.h"

#define BIT(n) (UINT64_C(1) << (n))
#define ID_NET 1
#define ID_BLOCK 2

static uint64_t le(const uint8_t *p, unsigned n) {
        uint64_t v = 0;

        while (n--)
                v = v << 8 | p[n];
        return v;
}

/* ---- the configuration of a disk, virtio 1.3, 5.2.4 ---- */

enum unit { U_COUNT, U_BYTES, U_SECTORS, U_BLOCKS, U_BLOCK_EXPONENT, U_FLAG };

static const struct field {
        const char *name, *label;
        uint8_t offset, size;
        int8_t bit;                     /* feature bit that makes it valid; -1 always */
        enum unit unit;
} blk_fields[] = {
        { "capacity", "capacity", 0, 8, -1, U_SECTORS },
        { "block_size", "block size", 20, 4, 6, U_BYTES },
        { "physical_block_size", "physical block", 24, 1, 10, U_BLOCK_EXPONENT },
        { "alignment_offset", "alignment offset", 25, 1, 10, U_BLOCKS },
        { "min_io_size", "least i/o size", 26, 2, 10, U_BLOCKS },
        { "opt_io_size", "best i/o size", 28, 4, 10, U_BLOCKS },
        { "max_segment_size", "largest segment", 8, 4, 1, U_BYTES },
        { "max_segments", "most segments", 12, 4, 2, U_COUNT },
        { "geometry_cylinders", "cylinders", 16, 2, 4, U_COUNT },
        { "geometry_heads", "heads", 18, 1, 4, U_COUNT },
        { "geometry_sectors", "sectors per track", 19, 1, 4, U_COUNT },
        { "writeback", "write-back", 32, 1, 11, U_FLAG },
        { "n_queues", "queues", 34, 2, 12, U_COUNT },
        { "max_discard_bytes", "largest discard", 36, 4, 13, U_SECTORS },
        { "max_discard_segments", "discard segments", 40, 4, 13, U_COUNT },
        { "discard_alignment", "discard alignment", 44, 4, 13, U_SECTORS },
        { "max_write_zeroes_bytes", "largest zeroing", 48, 4, 14, U_SECTORS },
        { "max_write_zeroes_segments", "zeroing segments", 52, 4, 14, U_COUNT },
        { "write_zeroes_may_unmap", "zeroing may unmap", 56, 1, 14, U_FLAG },
};

/* Did the device fill this field in, and what does it say, in bytes where it is a size? */
static bool field_value(const struct peer *p, const struct field *f, uint64_t *ret_v) {
        if (f->offset + f->size > (int)p->config_len || (f->bit >= 0 && !(p->info.features & BIT(f->bit))))
                return false;
        uint64_t v = le(p->config + f->offset, f->size), block = p->info.features & BIT(6) && p->config_len >= 24 ? le(p->config + 20, 4) : 512;
        switch (f->unit) {
        case U_SECTORS:
                v *= 512;
                break;
        case U_BLOCKS:
                v *= block;
                break;
        case U_BLOCK_EXPONENT:
                v = v < 32 ? block << v : 0;
                break;
        case U_COUNT:
        case U_BYTES:
        case U_FLAG:
                break;
        }
        *ret_v = v;
        return true;
}

static bool unit_is_size(enum unit u) {
        return u != U_COUNT && u != U_FLAG;
}

/* "67108864 bytes (64 MiB)"; a round number of units or none. */
static void print_size(FILE *f, uint64_t v) {
        static const char *const units[] = { "KiB", "MiB", "GiB", "TiB" };
        unsigned u = 0;
        uint64_t n = v >> 10;

        fprintf(f, "%llu bytes", (unsigned long long)v);
        if (!v || v % 1024)
                return;
        for (; u + 1 < TOOL_N(units) && n % 1024 == 0; u++)
                n >>= 10;
        fprintf(f, " (%llu %s)", (unsigned long long)n, units[u]);
}

/* ---- asking ---- */

/* What to read first for a type, and what if the device has less; devices refuse a read beyond their configuration. */
static int read_config(struct vhk_frontend *f, struct peer *p) {
        static const uint16_t lengths[] = { 60, 44, 36, 24, 20, 16, 12, 8, 4 };

        if (!(p->info.capabilities & VHK_CAP_CONFIG))
                return 0;
        for (size_t i = 0; i < TOOL_N(lengths); i++) {
                int k = vhk_frontend_get_config(f, 0, p->config, lengths[i]);
                if (k == -EPIPE || k == -ETIMEDOUT)
                        return k;
                if (k >= 0) {
                        p->config_len = lengths[i];
                        return 0;
                }
        }
        return 0;
}

/* BLK_SIZE and nothing that only net uses, and a block size and a capacity that a disk can have. */
static bool looks_like_block(const struct peer *p) {
        uint64_t net_only = BIT(15) | BIT(17) | BIT(18) | BIT(19) | BIT(20) | BIT(21) | BIT(22) | BIT(23);
        uint64_t block = p->config_len >= 24 ? le(p->config + 20, 4) : 0, capacity = p->config_len >= 24 ? le(p->config, 8) : 0;

        return p->info.features & BIT(6) && !(p->info.features & net_only) && block >= 512 && block <= 65536
               && !(block & (block - 1)) && capacity < UINT64_MAX / 512;
}

/* MRG_RXBUF, and some of what goes with it: no other type uses bit 15 together with these. */
static bool looks_like_net(const struct peer *p) {
        return p->info.features & BIT(15) && p->info.features & (BIT(0) | BIT(1) | BIT(5) | BIT(16) | BIT(17) | BIT(22));
}

int peer_read(struct vhk_frontend *f, const char *endpoint, uint32_t virtio_id, struct peer *ret_p) {
        struct peer p = { .endpoint = endpoint, .info.size = sizeof(p.info), .virtio_id = virtio_id };
        int k = vhk_frontend_get_info(f, &p.info);

        if (k >= 0)
                k = read_config(f, &p);
        if (k < 0)
                return k;
        if (virtio_id)
                p.how = PEER_TOLD;
        else if ((p.virtio_id = looks_like_block(&p) ? ID_BLOCK : looks_like_net(&p) ? ID_NET : 0))
                p.how = PEER_INFERRED;
        *ret_p = p;
        return 0;
}

/* ---- text ---- */

/* Names of the bits in @bits; those not in @used are marked, unless nothing is used yet. */
static void print_bits(FILE *f, uint64_t bits, uint64_t used, const char *(*name_of)(uint32_t id, unsigned bit), uint32_t id) {
        for (unsigned i = 0; i < 64; i++) {
                if (!(bits & BIT(i)))
                        continue;
                const char *name = name_of(id, i);
                fprintf(f, "  %2u  %s%s\n", i, name ? name : "(no name known)", used && !(used & BIT(i)) ? "  (not used)" : "");
        }
}

static const char *protocol_name(uint32_t id, unsigned bit) {
        return vhk_protocol_feature_name(bit);
}

static void print_config(const struct peer *p, FILE *f) {
        uint64_t v;

        fprintf(f, "configuration        %u bytes\n", p->config_len);
        for (size_t i = 0; p->virtio_id == ID_BLOCK && i < TOOL_N(blk_fields); i++) {
                if (!field_value(p, &blk_fields[i], &v) || (!v && i && unit_is_size(blk_fields[i].unit)))
                        continue;               /* a size of 0: the device does not say */
                fprintf(f, "  %-18s ", blk_fields[i].label);
                if (unit_is_size(blk_fields[i].unit))
                        print_size(f, v);
                else if (blk_fields[i].unit == U_FLAG)
                        fputs(v ? "yes" : "no", f);
                else
                        fprintf(f, "%llu", (unsigned long long)v);
                fputc('\n', f);
        }
        for (unsigned i = 0; p->virtio_id != ID_BLOCK && i < p->config_len; i++)
                fprintf(f, "%s%02x%s", i % 16 ? " " : "  ", p->config[i], i % 16 == 15 || i + 1 == p->config_len ? "\n" : "");
}

void peer_print(const struct peer *p, FILE *f) {
        const char *name = p->virtio_id ? vhk_device_name(p->virtio_id) : NULL;

        fprintf(f, "endpoint             %s\n", p->endpoint);
        fprintf(f, "device               %s%s\n", name ? name : "unknown",
                p->how == PEER_UNKNOWN ? " (vhost-user does not say)"
                : p->how == PEER_INFERRED ? " (inferred from features and configuration: vhost-user does not say)" : "");
        fprintf(f, "queues               %u%s\n", p->info.n_queues, p->info.carrier_features & BIT(0) ? "" : " (the back-end does not tell)");
        fprintf(f, "memory slots         %u\n", p->info.mem_slots);
        fprintf(f, "features             0x%llx\n", (unsigned long long)p->info.features);
        print_bits(f, p->info.features, p->info.acked, vhk_feature_name, p->virtio_id);
        fprintf(f, "protocol features    0x%llx\n", (unsigned long long)p->info.carrier_features);
        print_bits(f, p->info.carrier_features, p->info.carrier_acked, protocol_name, 0);
        if (p->config_len)
                print_config(p, f);
        else
                fprintf(f, "configuration        %s\n", p->info.capabilities & VHK_CAP_CONFIG ? "cannot be read" : "none (no protocol feature CONFIG)");
}

/* ---- JSON; the keys are listed in vhk(1) and do not change ---- */

static void json_hex(struct json *j, const char *name, uint64_t v) {
        char text[24];

        snprintf(text, sizeof(text), "0x%llx", (unsigned long long)v);    /* a number would lose bits in many readers */
        json_string(j, name, text);
}

static void json_bits(struct json *j, const char *name, uint64_t bits, uint64_t used, const char *(*name_of)(uint32_t id, unsigned bit), uint32_t id) {
        json_object(j, name);
        json_hex(j, "value", bits);
        json_array(j, "bits");
        for (unsigned i = 0; i < 64; i++) {
                if (!(bits & BIT(i)))
                        continue;
                json_object(j, NULL);
                json_uint(j, "bit", i);
                json_string(j, "name", name_of(id, i));
                json_bool(j, "used", used & BIT(i));
                json_end_object(j);
        }
        json_end_array(j);
        json_end_object(j);
}

static void json_config(struct json *j, const struct peer *p) {
        char hex[2 * PEER_CONFIG_MAX + 1] = "";
        uint64_t v;

        for (unsigned i = 0; i < p->config_len; i++)
                snprintf(hex + 2 * i, 3, "%02x", p->config[i]);
        json_object(j, "config");
        json_uint(j, "length", p->config_len);
        json_string(j, "hex", hex);
        if (p->virtio_id == ID_BLOCK && p->config_len) {
                json_object(j, "block");
                for (size_t i = 0; i < TOOL_N(blk_fields); i++) {
                        if (!field_value(p, &blk_fields[i], &v))
                                continue;
                        if (blk_fields[i].unit == U_FLAG)
                                json_bool(j, blk_fields[i].name, v);
                        else
                                json_uint(j, blk_fields[i].name, v);
                }
                json_end_object(j);
        }
        json_end_object(j);
}

void peer_print_json(const struct peer *p, FILE *f) {
        static const char *const hows[] = { [PEER_UNKNOWN] = "unknown", [PEER_TOLD] = "told", [PEER_INFERRED] = "inferred" };
        struct json j;

        json_init(&j, f);
        json_object(&j, NULL);
        json_string(&j, "endpoint", p->endpoint);
        json_object(&j, "device");
        json_string(&j, "name", p->virtio_id ? vhk_device_name(p->virtio_id) : NULL);
        json_uint(&j, "id", p->virtio_id);
        json_string(&j, "how", hows[p->how]);
        json_end_object(&j);
        json_uint(&j, "queues", p->info.n_queues);
        json_uint(&j, "memory_slots", p->info.mem_slots);
        json_bits(&j, "features", p->info.features, p->info.acked, vhk_feature_name, p->virtio_id);
        json_bits(&j, "protocol_features", p->info.carrier_features, p->info.carrier_acked, protocol_name, 0);
        json_config(&j, p);
        json_end_object(&j);
}
