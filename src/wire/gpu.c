/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The rows of gpu.def, the rules about their fields, and the walk through the columns. Any thread.
 *
 * Whether a rectangle is inside of a scanout is not known here: who holds the scanouts looks at that (frontend/display.c).
 * Source: QEMU, docs/interop/vhost-user-gpu.rst; virtio 1.3, 5.7.
 */
#include "wire/gpu.h"

#include "wire/line.h"

#define PAYLOAD(ID, name, size, each) static VHK_UNUSED void offsets_of_##name(void) { typedef struct vhk_g_##name payload;
#define FIELD(type, field, offset, format) static_assert(offsetof(payload, field) == (offset), #field);
#define ARRAY(type, field, n, offset) FIELD(type, field, offset, )
#define END(name) (void)sizeof(payload); }
#include "wire/gpu.def"

/* A number that occurs twice does not compile. */
static VHK_UNUSED void numbers_are_unique(unsigned id) {
        switch (id) {
#define GPU(number, ...) case number:
#include "wire/gpu.def"
        default:
                break;
        }
}

static const struct { uint32_t size, each; } sizes[] = {
#define PAYLOAD(ID, name, n, m) [VHK_G_##ID] = { n, m },
#include "wire/gpu.def"
};

uint32_t vhk_gpu_size(enum vhk_gpu_payload payload) {
        return sizes[payload].size;
}

/* ---- fields; the size was checked ---- */

#define VIEW(type, name) \
        struct vhk_g_##type name = { 0 }; \
        memcpy(&name, payload, sizeof(name))
#define FIELDS(name) \
        static enum vhk_rule field_##name(VHK_UNUSED const struct vhk_gpu_state *s, VHK_UNUSED const void *payload, VHK_UNUSED uint32_t size)

FIELDS(any) {
        return VHK_RULE_OK;
}

FIELDS(features) {
        VIEW(u64, p);

        return p.value & ~s->offered ? VHK_RULE_GPU_FEATURES : VHK_RULE_OK;
}

/* All payloads about a scanout begin with its number. */
FIELDS(scanout) {
        VIEW(scanout_id, p);

        return p.scanout < VHK_GPU_SCANOUTS ? VHK_RULE_OK : VHK_RULE_GPU_SCANOUT;
}

FIELDS(side) {
        VIEW(scanout, p);
        enum vhk_rule r = field_scanout(s, payload, size);

        if (r)
                return r;
        return p.width > VHK_GPU_SIDE_MAX || p.height > VHK_GPU_SIDE_MAX || !p.width != !p.height ? VHK_RULE_GPU_SIDE : VHK_RULE_OK;
}

FIELDS(rect) {
        VIEW(rect, p);
        enum vhk_rule r = field_scanout(s, payload, size);
        uint32_t end;

        if (r)
                return r;
        return vhk_add_overflows(p.x, p.width, &end) || vhk_add_overflows(p.y, p.height, &end) ? VHK_RULE_GPU_RECT : VHK_RULE_OK;
}

FIELDS(update) {
        VIEW(rect, p);
        enum vhk_rule r = field_rect(s, payload, size);

        if (r)
                return r;
        return (uint64_t)p.width * p.height == (size - sizeof(p)) / 4 ? VHK_RULE_OK : VHK_RULE_GPU_DATA;
}

/* The longer form begins as this one. */
FIELDS(dmabuf) {
        VIEW(dmabuf, p);
        enum vhk_rule r = field_scanout(s, payload, size);

        if (r)
                return r;
        if (!p.width != !p.height)
                return VHK_RULE_GPU_SIDE;
        return vhk_range_within(p.x, p.width, p.fd_width) && vhk_range_within(p.y, p.height, p.fd_height) ? VHK_RULE_OK : VHK_RULE_GPU_RECT;
}

/* ---- rows ---- */

enum {
#define PAYLOAD(ID, name, size, each) id_##name = VHK_G_##ID,
#include "wire/gpu.def"
};

#define GF(name) VHK_BIT(VHK_GF_##name)
#define GPU(number, n, req, f, fld, g, rep, rule, wit) \
        { .name = #n, .id = number, .request = id_##req, .reply = id_##rep, .fds = VHK_GPU_FDS_##f, .answered = ANSWERED_##rule, \
          .gate = g, .fields = field_##fld, .witness = wit },
enum { ANSWERED_NEVER = false, ANSWERED_ALWAYS = true };
const struct vhk_gpu_row vhk_gpu_rows[] = {
#include "wire/gpu.def"
};
const unsigned vhk_n_gpu_rows = VHK_N(vhk_gpu_rows);

const struct vhk_gpu_row *vhk_gpu_row(uint32_t id) {
        for (unsigned i = 0; i < VHK_N(vhk_gpu_rows); i++)
                if (vhk_gpu_rows[i].id == id)
                        return &vhk_gpu_rows[i];
        return NULL;
}

/* ---- checks ---- */

enum vhk_rule vhk_gpu_check_header(const struct vhk_gpu_state *s, const struct vhk_hdr *h) {
        const struct vhk_gpu_row *row = vhk_gpu_row(h->request);

        if (!row)
                return VHK_RULE_UNKNOWN;
        uint64_t more = VHK_MIN(s->max_pixels, (uint64_t)VHK_GPU_SIDE_MAX * VHK_GPU_SIDE_MAX) * sizes[row->request].each;
        return h->size > sizes[row->request].size + more ? VHK_RULE_SIZE_LONG : VHK_RULE_OK;
}

static unsigned count_fds(const struct vhk_gpu_row *row, const void *payload) {
        if (row->fds == VHK_GPU_FDS_NONE)
                return 0;
        VIEW(dmabuf, p);
        return p.width && p.height;
}

enum vhk_rule vhk_gpu_check(const struct vhk_gpu_state *s, const struct vhk_hdr *h, const void *payload, unsigned n_fds) {
        const struct vhk_gpu_row *row = vhk_gpu_row(h->request);
        enum vhk_rule r = vhk_gpu_check_header(s, h);

        if (r)
                return r;
        if ((s->features & row->gate) != row->gate)
                return VHK_RULE_GATE;
        if (h->size < sizes[row->request].size)
                return VHK_RULE_SIZE_SHORT;
        if (sizes[row->request].each && (h->size - sizes[row->request].size) % sizes[row->request].each)
                return VHK_RULE_GPU_DATA;
        r = row->fields(s, payload, h->size);
        if (r)
                return r;
        unsigned n = count_fds(row, payload);
        if (n_fds == VHK_FDS_LOST)
                return VHK_RULE_FDS_LOST;
        return n_fds < n ? VHK_RULE_FDS_MISSING : n_fds > n ? VHK_RULE_FDS_EXTRA : VHK_RULE_OK;
}

enum vhk_rule vhk_gpu_check_reply(uint32_t id, const struct vhk_hdr *reply, const void *payload, unsigned n_fds) {
        const struct vhk_gpu_row *row = vhk_gpu_row(id);

        if (reply->request != id)
                return VHK_RULE_REPLY_ID;
        if (!row || !row->answered)
                return VHK_RULE_REPLY_UNEXPECTED;
        if (reply->flags != VHK_HDR_REPLY)
                return VHK_RULE_GPU_REPLY_FLAGS;
        if (reply->size != sizes[row->reply].size)
                return VHK_RULE_REPLY_SIZE;
        if (n_fds)
                return n_fds == VHK_FDS_LOST ? VHK_RULE_REPLY_FDS_LOST : VHK_RULE_REPLY_FDS_EXTRA;
        if (row->reply != VHK_G_EDID)
                return VHK_RULE_OK;
        VIEW(edid, p);
        return vhk_le32_get((vhk_le32){ p.n }) <= VHK_GPU_EDID_MAX ? VHK_RULE_OK : VHK_RULE_GPU_EDID;
}

/* ---- the printer ---- */

#define PAYLOAD(ID, name, size, each) static const struct vhk_line_field fields_of_##name[] = {
#define FIELD(type, field, offset, fmt) { VHK_LINE_##fmt, sizeof(type), offset, #field },
#define END(name) { VHK_LINE_END } };
#include "wire/gpu.def"

static const struct vhk_line_field *const fields[] = {
#define PAYLOAD(ID, name, size, each) [VHK_G_##ID] = fields_of_##name,
#include "wire/gpu.def"
};

static const char *const features[] = {
#define FEATURE(bit, name) [bit] = #name,
#include "wire/gpu.def"
};

static void add_features(struct vhk_line *o, const void *payload) {
        VIEW(u64, p);

        for (unsigned i = 0; i < VHK_N(features); i++)
                if (p.value & VHK_BIT(i))
                        vhk_line_add(o, " %s", features[i]);
}

static void add_modes(struct vhk_line *o, const void *payload) {
        VIEW(display_info, p);

        for (unsigned i = 0; i < VHK_GPU_SCANOUTS; i++)
                if (p.modes[i].enabled)
                        vhk_line_add(o, " [%u: %ux%u]", i, vhk_le32_get((vhk_le32){ p.modes[i].width }),
                                vhk_le32_get((vhk_le32){ p.modes[i].height }));
}

size_t vhk_gpu_print(bool reply, const struct vhk_hdr *h, const void *payload, unsigned n_fds, char *buf, size_t size) {
        const struct vhk_gpu_row *row = vhk_gpu_row(h->request);
        struct vhk_line o = { buf, size, 0 };

        if (!size)
                return 0;
        buf[0] = 0;
        if (row)
                vhk_line_add(&o, "%s", row->name);
        else
                vhk_line_add(&o, "display message %u", h->request);
        if (reply)
                vhk_line_add(&o, " reply");
        if (row && payload) {
                enum vhk_gpu_payload kind = reply ? row->reply : row->request;
                vhk_line_add_fields(&o, fields[kind], payload, h->size);
                if (kind == VHK_G_U64 && h->size >= sizeof(struct vhk_g_u64))
                        add_features(&o, payload);
                if (kind == VHK_G_DISPLAY_INFO && h->size >= sizeof(struct vhk_g_display_info))
                        add_modes(&o, payload);
        }
        vhk_line_add_sizes(&o, h->size, n_fds);
        if (reply && h->flags != VHK_HDR_REPLY)
                vhk_line_add(&o, ", flags 0x%x", h->flags);
        vhk_line_add(&o, ")");
        return o.len;
}
