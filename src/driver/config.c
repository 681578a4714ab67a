/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The configuration space of a block device (virtio 1.3, 5.2.4), read by a table. Only what the features promise is
 * asked for; a back-end whose space is shorter still is asked for less, and what is missing reads as zero.
 */
#include "driver/blk.h"

static const struct {
        uint8_t off, len;
        int8_t feature;                 /* -1: always there */
        uint8_t field;                  /* index of a uint64_t in struct vhk_blk_config */
} fields[] = {
#define FIELD(off, len, feature, name) { off, len, feature, offsetof(struct vhk_blk_config, name) / sizeof(uint64_t) }
        FIELD(0, 8, -1, capacity),
        FIELD(8, 4, VHK_BLK_F_SIZE_MAX, size_max),
        FIELD(12, 4, VHK_BLK_F_SEG_MAX, seg_max),
        FIELD(20, 4, VHK_BLK_F_BLK_SIZE, blk_size),
        FIELD(24, 1, VHK_BLK_F_TOPOLOGY, physical_exp),
        FIELD(26, 2, VHK_BLK_F_TOPOLOGY, min_io),
        FIELD(28, 4, VHK_BLK_F_TOPOLOGY, opt_io),
        FIELD(32, 1, VHK_BLK_F_CONFIG_WCE, writeback),
        FIELD(34, 2, VHK_BLK_F_MQ, n_queues),
        FIELD(36, 4, VHK_BLK_F_DISCARD, discard_sectors),
        FIELD(40, 4, VHK_BLK_F_DISCARD, discard_segments),
        FIELD(44, 4, VHK_BLK_F_DISCARD, discard_alignment),
        FIELD(48, 4, VHK_BLK_F_WRITE_ZEROES, zeroes_sectors),
        FIELD(52, 4, VHK_BLK_F_WRITE_ZEROES, zeroes_segments),
        FIELD(56, 1, VHK_BLK_F_WRITE_ZEROES, zeroes_unmap),
#undef FIELD
};

/* Where spaces of deployed devices end. */
static const uint8_t lengths[] = { 60, 57, 48, 36, 34, 32, 24, 20, 16, 8 };

static uint64_t little_endian(const uint8_t *p, unsigned n) {
        uint64_t v = 0;

        while (n > 0)
                v = v << 8 | p[--n];
        return v;
}

int vhk_blk_read_config(struct vhk_frontend *f, uint64_t features, struct vhk_blk_config *ret_c) {
        struct vhk_blk_config c = { 0 };
        uint8_t raw[60] = { 0 };
        unsigned need = 8, i = 0;
        int k;

        for (size_t j = 0; j < VHK_N(fields); j++)
                if (fields[j].feature >= 0 && (features & VHK_BIT(fields[j].feature)))
                        need = VHK_MAX(need, (unsigned)fields[j].off + fields[j].len);
        while (i + 1 < VHK_N(lengths) && lengths[i + 1] >= need)
                i++;
        do
                k = vhk_frontend_get_config(f, 0, raw, lengths[i]);
        while (k == -EREMOTEIO && ++i < VHK_N(lengths));
        if (k < 0)
                return k;
        for (size_t j = 0; j < VHK_N(fields); j++)
                if (fields[j].off + fields[j].len <= lengths[i] && (fields[j].feature < 0 || (features & VHK_BIT(fields[j].feature))))
                        ((uint64_t *)&c)[fields[j].field] = little_endian(raw + fields[j].off, fields[j].len);
        *ret_c = c;
        return 0;
}

int vhk_blk_refresh(struct vhk_drvdev *d) {
        struct vhk_blk *b = vhk_container_of(d, struct vhk_blk, d);
        struct vhk_blk_config c;

        if (!d->config_stale)
                return 0;
        d->config_stale = false;
        int k = vhk_blk_read_config(d->f, d->features, &c);
        if (k < 0)
                return k;
        b->config = c;
        if (c.capacity <= UINT64_MAX / VHK_BLK_SECTOR)
                vhk_store_relaxed(&b->capacity, c.capacity * VHK_BLK_SECTOR);
        return 0;
}
