/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The kernel's devices tell their type, vhost-user does not. What can be inferred is inferred from feature bits that no other type
 * uses in that combination, and for a disk from a configuration that makes sense as one (virtio 1.3, 5.2.4); everything
 * else stays unknown.
 */
#include "describe.h"

#include <errno.h>
#include <string.h>

#include "layout.h"
#include "tool.h"

#define BIT(n) (UINT64_C(1) << (n))
#define ID_NET 1
#define ID_BLOCK 2
#define UNKNOWN_CONFIG 60u          /* bytes that are read of a type that is not known: a disk's */

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

/* A vhost-user back-end does not tell how long its configuration is, and refuses a read beyond it: from what the type can have
 * downwards. */
static int read_config(struct vhk_frontend *f, struct peer *p) {
        const struct layout *l = layout_of(p->virtio_id);
        unsigned n = p->info.config_size ? p->info.config_size : l ? layout_size(l) : UNKNOWN_CONFIG;

        if (!(p->info.capabilities & VHK_CAP_CONFIG))
                return 0;
        for (n = n < PEER_CONFIG_MAX ? n : PEER_CONFIG_MAX; n; n = n > 4 ? (n - 1) & ~3u : n - 1) {
                int k = vhk_frontend_get_config(f, 0, p->config, n);
                if (k == -EPIPE || k == -ETIMEDOUT)
                        return k;
                if (k >= 0) {
                        p->config_len = n;
                        return 0;
                }
        }
        return 0;
}

/* BLK_SIZE and nothing that only net uses, and a block size and a capacity that a disk can have. */
static bool looks_like_block(const struct peer *p) {
        uint64_t net_only = BIT(15) | BIT(17) | BIT(18) | BIT(19) | BIT(20) | BIT(21) | BIT(22) | BIT(23);
        uint64_t block = p->config_len >= 24 ? layout_le(p->config + 20, 4) : 0, capacity = p->config_len >= 24 ? layout_le(p->config, 8) : 0;

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

        if (k < 0)
                return k;
        if (!p.virtio_id)
                p.virtio_id = p.info.virtio_id;
        k = read_config(f, &p);
        if (k < 0)
                return k;
        if (p.virtio_id)
                p.how = PEER_TOLD;
        else if ((p.virtio_id = looks_like_block(&p) ? ID_BLOCK : looks_like_net(&p) ? ID_NET : 0))
                p.how = PEER_INFERRED;
        *ret_p = p;
        return 0;
}

/* ---- text ---- */

typedef const char *(*name_fn)(const struct peer *p, unsigned bit);

/* Names of the bits in @bits; those not in @used are marked, unless nothing is used yet. */
static void print_bits(const struct peer *p, FILE *f, uint64_t bits, uint64_t used, name_fn name_of) {
        for (unsigned i = 0; i < 64; i++) {
                if (!(bits & BIT(i)))
                        continue;
                const char *name = name_of(p, i);
                fprintf(f, "  %2u  %s%s\n", i, name ? name : "(no name known)", used && !(used & BIT(i)) ? "  (not used)" : "");
        }
}

/* The kernel's devices have no protocol features, but features of their back-end. */
static bool is_kernel(const struct peer *p) {
        return p->info.capabilities & (VHK_CAP_DMA | VHK_CAP_BACKEND_FD | VHK_CAP_VSOCK | VHK_CAP_SCSI);
}

/* The kernel's: VHK_SYS_BF_*. */
static const char *carrier_feature_name(const struct peer *p, unsigned bit) {
        static const char *const names[] = {
                [1] = "IOTLB_MSG_V2", [2] = "IOTLB_BATCH", [3] = "IOTLB_ASID", [4] = "SUSPEND", [5] = "RESUME",
                [6] = "ENABLE_AFTER_DRIVER_OK", [7] = "DESC_ASID", [8] = "IOTLB_PERSIST",
        };

        if (!is_kernel(p))
                return vhk_protocol_feature_name(bit);
        return bit < TOOL_N(names) ? names[bit] : NULL;
}

static const char *device_feature_name(const struct peer *p, unsigned bit) {
        return vhk_feature_name(p->virtio_id, bit);
}

static void print_plain(FILE *f, const char *text) {
        for (; *text; text++)           /* a device's words, on a terminal */
                fputc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, f);
}

static void print_field(const struct peer *p, const struct field *d, FILE *f) {
        char text[64];

        fprintf(f, "  %-18s ", d->label);
        if (d->unit == U_MAC || d->unit == U_TEXT) {
                layout_text(d, p->config, text);
                print_plain(f, text);
                return;
        }
        uint64_t v = layout_number(d, p->config, p->config_len, p->info.features);
        if (layout_is_size(d))
                print_size(f, v);
        else if (d->unit == U_FLAG)
                fputs(v ? "yes" : "no", f);
        else if (d->unit == U_HEX)
                fprintf(f, "0x%llx", (unsigned long long)v);
        else if (d->unit == U_WORD || layout_is_unknown(d, v))
                fputs(layout_is_unknown(d, v) ? "unknown" : layout_word(d, v), f);
        else
                fprintf(f, "%llu%s", (unsigned long long)v, d->unit == U_MBIT ? " Mbit/s" : "");
}

static void print_config(const struct peer *p, FILE *f) {
        const struct layout *l = layout_of(p->virtio_id);

        fprintf(f, "configuration        %u bytes\n", p->config_len);
        for (unsigned i = 0; l && i < l->n_fields; i++) {
                const struct field *d = &l->fields[i];
                if (!layout_has(d, p->config_len, p->info.features)
                    || (i && layout_is_size(d) && !layout_number(d, p->config, p->config_len, p->info.features)))
                        continue;               /* a size of 0: the device does not say */
                print_field(p, d, f);
                fputc('\n', f);
        }
        for (unsigned i = 0; !l && i < p->config_len; i++)
                fprintf(f, "%s%02x%s", i % 16 ? " " : "  ", p->config[i], i % 16 == 15 || i + 1 == p->config_len ? "\n" : "");
}

/* What the kernel tells of a vDPA device. */
static void print_limits(const struct peer *p, FILE *f) {
        if (!(p->info.capabilities & VHK_CAP_DMA))
                return;
        fprintf(f, "queue size           up to %u\n", p->info.queue_size_max);
        if (p->info.n_groups)
                fprintf(f, "queue groups         %u, in %u address space%s\n", p->info.n_groups, p->info.n_address_spaces, p->info.n_address_spaces == 1 ? "" : "s");
        fprintf(f, "I/O addresses        0x%llx to 0x%llx\n", (unsigned long long)p->info.iova_first, (unsigned long long)p->info.iova_last);
}

void peer_print(const struct peer *p, FILE *f) {
        const char *name = p->virtio_id ? vhk_device_name(p->virtio_id) : NULL;
        bool tells_queues = is_kernel(p) || p->info.carrier_features & BIT(0);  /* vhost-user: MQ */

        fprintf(f, "endpoint             %s\n", p->endpoint);
        fprintf(f, "device               %s%s\n", name ? name : "unknown",
                p->how == PEER_UNKNOWN ? " (vhost-user does not say)"
                : p->how == PEER_INFERRED ? " (inferred from features and configuration: vhost-user does not say)" : "");
        fprintf(f, "queues               %u%s\n", p->info.n_queues, tells_queues ? "" : " (the back-end does not tell)");
        print_limits(p, f);
        if (p->info.mem_slots == UINT32_MAX)
                fprintf(f, "memory slots         no limit\n");
        else
                fprintf(f, "memory slots         %u\n", p->info.mem_slots);
        fprintf(f, "features             0x%llx\n", (unsigned long long)p->info.features);
        print_bits(p, f, p->info.features, p->info.acked, device_feature_name);
        fprintf(f, "%-21s0x%llx\n", is_kernel(p) ? "backend features" : "protocol features", (unsigned long long)p->info.carrier_features);
        print_bits(p, f, p->info.carrier_features, p->info.carrier_acked, carrier_feature_name);
        if (p->config_len)
                print_config(p, f);
        else
                fprintf(f, "configuration        %s\n", p->info.capabilities & VHK_CAP_CONFIG ? "cannot be read" : is_kernel(p) ? "none"
                        : "none (no protocol feature CONFIG)");
}

/* ---- JSON; the keys are listed in vhk(1) and do not change ---- */

static void json_hex(struct json *j, const char *name, uint64_t v) {
        char text[24];

        snprintf(text, sizeof(text), "0x%llx", (unsigned long long)v);    /* a number would lose bits in many readers */
        json_string(j, name, text);
}

static void json_bits(const struct peer *p, struct json *j, const char *name, uint64_t bits, uint64_t used, name_fn name_of) {
        json_object(j, name);
        json_hex(j, "value", bits);
        json_array(j, "bits");
        for (unsigned i = 0; i < 64; i++) {
                if (!(bits & BIT(i)))
                        continue;
                json_object(j, NULL);
                json_uint(j, "bit", i);
                json_string(j, "name", name_of(p, i));
                json_bool(j, "used", used & BIT(i));
                json_end_object(j);
        }
        json_end_array(j);
        json_end_object(j);
}

static void json_field(struct json *j, const struct peer *p, const struct field *d) {
        char text[64];

        if (d->unit == U_MAC || d->unit == U_TEXT) {
                layout_text(d, p->config, text);
                json_string(j, d->name, text);
                return;
        }
        uint64_t v = layout_number(d, p->config, p->config_len, p->info.features);
        if (layout_is_unknown(d, v))
                json_null(j, d->name);
        else if (d->unit == U_WORD)
                json_string(j, d->name, layout_word(d, v));
        else if (d->unit == U_FLAG)
                json_bool(j, d->name, v);
        else if (d->unit == U_HEX)
                json_hex(j, d->name, v);
        else
                json_uint(j, d->name, v);
}

static void json_config(struct json *j, const struct peer *p) {
        const struct layout *l = layout_of(p->virtio_id);
        char hex[2 * PEER_CONFIG_MAX + 1] = "";

        for (unsigned i = 0; i < p->config_len; i++)
                snprintf(hex + 2 * i, 3, "%02x", p->config[i]);
        json_object(j, "config");
        json_uint(j, "length", p->config_len);
        json_string(j, "hex", hex);
        if (l && p->config_len) {
                json_object(j, vhk_device_name(p->virtio_id));
                for (unsigned i = 0; i < l->n_fields; i++)
                        if (layout_has(&l->fields[i], p->config_len, p->info.features))
                                json_field(j, p, &l->fields[i]);
                json_end_object(j);
        }
        json_end_object(j);
}

static void json_limits(const struct peer *p, struct json *j) {
        if (!(p->info.capabilities & VHK_CAP_DMA))
                return;
        json_object(j, "limits");
        json_uint(j, "queue_size", p->info.queue_size_max);
        json_uint(j, "groups", p->info.n_groups);
        json_uint(j, "address_spaces", p->info.n_address_spaces);
        json_hex(j, "iova_first", p->info.iova_first);
        json_hex(j, "iova_last", p->info.iova_last);
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
        json_bits(p, &j, "features", p->info.features, p->info.acked, device_feature_name);
        json_bits(p, &j, is_kernel(p) ? "backend_features" : "protocol_features", p->info.carrier_features, p->info.carrier_acked, carrier_feature_name);
        json_limits(p, &j);
        json_config(&j, p);
        json_end_object(&j);
}
