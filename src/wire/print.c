/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A message as one line for people, from the tables. Any thread; reads no byte beyond h->size, whatever the message claims. */
#include <vhostkit/frontend.h>

#include "wire/line.h"
#include "wire/wire.h"

#define PAYLOAD(ID, name, size) static const struct vhk_line_field fields_of_##name[] = {
#define FIELD(type, field, offset, fmt) { VHK_LINE_##fmt, sizeof(type), offset, #field },
#define END(name) { VHK_LINE_END } };
#include "wire/payloads.def"

static const struct vhk_line_field *const fields[] = {
#define PAYLOAD(ID, name, size) [VHK_P_##ID] = fields_of_##name,
#include "wire/payloads.def"
};

static void add_fields(struct vhk_line *o, enum vhk_payload kind, const uint8_t *payload, uint32_t size) {
        vhk_line_add_fields(o, fields[kind], payload, size);
}

static void add_regions(struct vhk_line *o, const uint8_t *payload, uint32_t size, uint32_t each, unsigned n) {
        for (unsigned i = 0; i < n && 8 + (i + 1) * each <= size; i++) {
                vhk_line_add(o, " [");
                add_fields(o, each == sizeof(struct vhk_p_region) ? VHK_P_REGION : VHK_P_REGION_XEN, payload + 8 + i * each, each);
                vhk_line_add(o, " ]");
        }
}

/* The printer sees no session, so it tells the two forms of a region by the size. */
static void add_region_payload(struct vhk_line *o, enum vhk_payload kind, const uint8_t *payload, uint32_t size) {
        struct vhk_p_mem_regions t = { .n_regions = 1 };

        if (kind == VHK_P_MEM_REGIONS)
                memcpy(&t, payload, VHK_MIN((size_t)size, offsetof(struct vhk_p_mem_regions, regions)));
        unsigned n = VHK_MIN(t.n_regions, VHK_MAX_REGIONS);
        bool xen = size == 8 + n * sizeof(struct vhk_p_region_xen);
        add_regions(o, payload, size, xen ? sizeof(struct vhk_p_region_xen) : sizeof(struct vhk_p_region), n);
}

static void add_ring_word(struct vhk_line *o, uint64_t word) {
        vhk_line_add(o, " ring %u", (unsigned)(word & VHK_RING_INDEX_MASK));
        if (word & VHK_RING_NO_FD)
                vhk_line_add(o, " without descriptor");
        if (word & ~(uint64_t)(VHK_RING_INDEX_MASK | VHK_RING_NO_FD))
                vhk_line_add(o, " and 0x%llx", (unsigned long long)word);
}

/* Bits by name; the device type is unknown here, so its own bits are numbers. */
static void add_bits(struct vhk_line *o, uint64_t bits, bool protocol) {
        vhk_line_add(o, " 0x%llx", (unsigned long long)bits);
        for (unsigned i = 0; i < 64; i++) {
                if (!(bits & VHK_BIT(i)))
                        continue;
                const char *name = protocol ? vhk_protocol_feature_name(i) : vhk_feature_name(0, i);
                name ? vhk_line_add(o, " %s", name) : vhk_line_add(o, " bit-%u", i);
        }
}

static void add_status(struct vhk_line *o, uint64_t status) {
        static const struct { uint8_t bit; const char *name; } bits[] = {
#define STATUS_BIT(value, name) { value, #name },
#include "wire/features.def"
        };

        vhk_line_add(o, " 0x%llx", (unsigned long long)status);
        for (unsigned i = 0; i < VHK_N(bits); i++)
                if (status & bits[i].bit)
                        vhk_line_add(o, " %s", bits[i].name);
}

static void add_uuid(struct vhk_line *o, const uint8_t *u, uint32_t size) {
        vhk_line_add(o, " ");
        for (unsigned i = 0; i < 16 && i < size; i++)
                vhk_line_add(o, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
}

static void add_payload(struct vhk_line *o, const struct vhk_row *row, enum vhk_payload kind, const uint8_t *payload, uint32_t size) {
        bool front = row->dir == VHK_FROM_FRONTEND;

        if (front && (row->id == VHK_FE_GET_FEATURES || row->id == VHK_FE_SET_FEATURES) && kind == VHK_P_U64 && size >= 8)
                add_bits(o, vhk_line_load(payload, 8), false);
        else if (front && (row->id == VHK_FE_GET_PROTOCOL_FEATURES || row->id == VHK_FE_SET_PROTOCOL_FEATURES) &&
                 kind == VHK_P_U64 && size >= 8)
                add_bits(o, vhk_line_load(payload, 8), true);
        else if (front && (row->id == VHK_FE_GET_STATUS || row->id == VHK_FE_SET_STATUS) && kind == VHK_P_U64 && size >= 8)
                add_status(o, vhk_line_load(payload, 8));
        else if (row->scope == VHK_SCOPE_RING_BYTE && kind == VHK_P_U64 && size >= 8)
                add_ring_word(o, vhk_line_load(payload, 8));
        else if (kind == VHK_P_UUID || kind == VHK_P_OBJECT_REPLY)
                add_uuid(o, payload, size);
        else if (kind == VHK_P_CRYPTO_SESSION && size == sizeof(struct vhk_p_crypto_session_old))
                add_fields(o, VHK_P_CRYPTO_SESSION_OLD, payload, size);
        else
                add_fields(o, kind, payload, size);
        if (kind == VHK_P_MEM_REGIONS || kind == VHK_P_MEM_REGION_SINGLE)
                add_region_payload(o, kind, payload, size);
}

size_t vhk_wire_print(enum vhk_dir dir, const struct vhk_hdr *h, const void *payload, unsigned n_fds, char *buf, size_t size) {
        /* Without a session: a memory table of 8 bytes is postcopy's acknowledgement of one. */
        bool reply = h->flags & VHK_HDR_REPLY;
        bool ack = dir == VHK_FROM_FRONTEND && h->request == VHK_FE_SET_MEM_TABLE && h->size == 8 && !reply;
        const struct vhk_row *row = vhk_wire_row(dir, h->request, ack ? VHK_PHASE_POSTCOPY_ACK : VHK_PHASE_NORMAL);
        struct vhk_line o = { buf, size };

        if (!size)
                return 0;
        buf[0] = 0;
        if (row)
                vhk_line_add(&o, "%s", row->name);
        else
                vhk_line_add(&o, "message %u", h->request);
        if (reply)
                vhk_line_add(&o, " reply");
        if (row && payload && h->size <= VHK_MAX_PAYLOAD) {
                bool own = row->reply_rule == VHK_REPLY_ALWAYS || row->reply_rule == VHK_REPLY_LOG_BASE;
                if (reply && !own)
                        add_fields(&o, VHK_P_U64, payload, h->size);    /* an acknowledgement: a status, whatever the request has */
                else
                        add_payload(&o, row, reply ? row->reply : row->request, payload, h->size);
        }
        vhk_line_add_sizes(&o, h->size, n_fds);
        if (h->flags & VHK_HDR_NEED_REPLY)
                vhk_line_add(&o, ", wants a reply");
        if ((h->flags & ~(VHK_HDR_REPLY | VHK_HDR_NEED_REPLY)) != VHK_HDR_VERSION)
                vhk_line_add(&o, ", flags 0x%x", h->flags);
        vhk_line_add(&o, ")");
        return o.len;
}
