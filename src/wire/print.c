/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A message as one line for people, from the tables. Any thread; reads no byte beyond h->size, whatever the message claims. */
#include <stdarg.h>
#include <stdio.h>

#include <vhostkit/frontend.h>

#include "wire/wire.h"

struct out {
        char *buf;
        size_t size, len;
};

static VHK_PRINTF(2, 3) void add(struct out *o, const char *format, ...) {
        va_list ap;
        int n;

        if (o->len + 1 >= o->size)
                return;
        va_start(ap, format);
        n = vsnprintf(o->buf + o->len, o->size - o->len, format, ap);
        va_end(ap);
        if (n > 0)
                o->len = VHK_MIN(o->len + (size_t)n, o->size - 1);
}

enum format { FORMAT_END, FORMAT_DEC, FORMAT_HEX, FORMAT_PAD };

struct field {
        uint8_t format, bytes;
        uint16_t offset;
        const char *name;
};

#define PAYLOAD(ID, name, size) static const struct field fields_of_##name[] = {
#define FIELD(type, field, offset, fmt) { FORMAT_##fmt, sizeof(type), offset, #field },
#define END(name) { FORMAT_END } };
#include "wire/payloads.def"

static const struct field *const fields[] = {
#define PAYLOAD(ID, name, size) [VHK_P_##ID] = fields_of_##name,
#include "wire/payloads.def"
};

static uint64_t load(const void *p, unsigned bytes) {
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64 = 0;

        switch (bytes) {
        case 1: memcpy(&u8, p, 1); return u8;
        case 2: memcpy(&u16, p, 2); return u16;
        case 4: memcpy(&u32, p, 4); return u32;
        default: memcpy(&u64, p, 8); return u64;
        }
}

static void add_fields(struct out *o, enum vhk_payload kind, const uint8_t *payload, uint32_t size) {
        for (const struct field *f = fields[kind]; f->format; f++) {
                if (f->format == FORMAT_PAD || (uint32_t)f->offset + f->bytes > size)
                        continue;
                uint64_t v = load(payload + f->offset, f->bytes);
                const char *name = !strcmp(f->name, "index") ? "ring" : f->name;
                add(o, f->format == FORMAT_HEX ? " %s 0x%llx" : " %s %llu", name, (unsigned long long)v);
        }
}

static void add_regions(struct out *o, const uint8_t *payload, uint32_t size, uint32_t each, unsigned n) {
        for (unsigned i = 0; i < n && 8 + (i + 1) * each <= size; i++) {
                add(o, " [");
                add_fields(o, each == sizeof(struct vhk_p_region) ? VHK_P_REGION : VHK_P_REGION_XEN, payload + 8 + i * each, each);
                add(o, " ]");
        }
}

/* The printer sees no session, so it tells the two forms of a region by the size. */
static void add_region_payload(struct out *o, enum vhk_payload kind, const uint8_t *payload, uint32_t size) {
        struct vhk_p_mem_regions t = { .n_regions = 1 };

        if (kind == VHK_P_MEM_REGIONS)
                memcpy(&t, payload, VHK_MIN((size_t)size, offsetof(struct vhk_p_mem_regions, regions)));
        unsigned n = VHK_MIN(t.n_regions, VHK_MAX_REGIONS);
        bool xen = size == 8 + n * sizeof(struct vhk_p_region_xen);
        add_regions(o, payload, size, xen ? sizeof(struct vhk_p_region_xen) : sizeof(struct vhk_p_region), n);
}

static void add_ring_word(struct out *o, uint64_t word) {
        add(o, " ring %u", (unsigned)(word & VHK_RING_INDEX_MASK));
        if (word & VHK_RING_NO_FD)
                add(o, " without descriptor");
        if (word & ~(uint64_t)(VHK_RING_INDEX_MASK | VHK_RING_NO_FD))
                add(o, " and 0x%llx", (unsigned long long)word);
}

/* Bits by name; the device type is unknown here, so its own bits are numbers. */
static void add_bits(struct out *o, uint64_t bits, bool protocol) {
        add(o, " 0x%llx", (unsigned long long)bits);
        for (unsigned i = 0; i < 64; i++) {
                if (!(bits & VHK_BIT(i)))
                        continue;
                const char *name = protocol ? vhk_protocol_feature_name(i) : vhk_feature_name(0, i);
                name ? add(o, " %s", name) : add(o, " bit-%u", i);
        }
}

static void add_uuid(struct out *o, const uint8_t *u, uint32_t size) {
        add(o, " ");
        for (unsigned i = 0; i < 16 && i < size; i++)
                add(o, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
}

static void add_payload(struct out *o, const struct vhk_row *row, enum vhk_payload kind, const uint8_t *payload, uint32_t size) {
        bool front = row->dir == VHK_FROM_FRONTEND;

        if (front && (row->id == VHK_FE_GET_FEATURES || row->id == VHK_FE_SET_FEATURES) && kind == VHK_P_U64 && size >= 8)
                add_bits(o, load(payload, 8), false);
        else if (front && (row->id == VHK_FE_GET_PROTOCOL_FEATURES || row->id == VHK_FE_SET_PROTOCOL_FEATURES) &&
                 kind == VHK_P_U64 && size >= 8)
                add_bits(o, load(payload, 8), true);
        else if (row->scope == VHK_SCOPE_RING_BYTE && kind == VHK_P_U64 && size >= 8)
                add_ring_word(o, load(payload, 8));
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
        struct out o = { buf, size };

        if (!size)
                return 0;
        buf[0] = 0;
        if (row)
                add(&o, "%s", row->name);
        else
                add(&o, "message %u", h->request);
        if (reply)
                add(&o, " reply");
        if (row && payload && h->size <= VHK_MAX_PAYLOAD) {
                bool own = row->reply_rule == VHK_REPLY_ALWAYS || row->reply_rule == VHK_REPLY_LOG_BASE;
                add_payload(&o, row, !reply ? row->request : own ? row->reply : VHK_P_U64, payload, h->size);
        }
        add(&o, h->size == 1 ? " (%u byte" : " (%u bytes", h->size);
        if (n_fds)
                add(&o, n_fds == 1 ? ", %u fd" : ", %u fds", n_fds);
        else
                add(&o, ", no fds");
        if (h->flags & VHK_HDR_NEED_REPLY)
                add(&o, ", wants a reply");
        if ((h->flags & ~(VHK_HDR_REPLY | VHK_HDR_NEED_REPLY)) != VHK_HDR_VERSION)
                add(&o, ", flags 0x%x", h->flags);
        add(&o, ")");
        return o.len;
}
