/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The checks of the display's protocol, derived from the columns of gpu.def: each row's valid form, and every way to break it. Sizes and
 * numbers are held against the kernel's virtio-gpu and against a second list.
 */
#include "base/test.h"

#include <linux/virtio_gpu.h>

#include "wire/gpu-sample.h"

static_assert(sizeof(struct vhk_g_display_info) == sizeof(struct virtio_gpu_resp_display_info), "display_info");
static_assert(offsetof(struct vhk_g_display_info, modes) == offsetof(struct virtio_gpu_resp_display_info, pmodes), "modes");
static_assert(sizeof(struct vhk_g_mode) == sizeof(struct virtio_gpu_display_one), "mode");
static_assert(offsetof(struct vhk_g_mode, enabled) == offsetof(struct virtio_gpu_display_one, enabled), "enabled");
static_assert(sizeof(struct vhk_g_edid) == sizeof(struct virtio_gpu_resp_edid), "edid");
static_assert(offsetof(struct vhk_g_edid, n) == offsetof(struct virtio_gpu_resp_edid, size), "size");
static_assert(offsetof(struct vhk_g_edid, edid) == offsetof(struct virtio_gpu_resp_edid, edid), "edid");

static bool seen[VHK_N_RULES];

static enum vhk_rule note(enum vhk_rule r) {
        seen[r] = true;
        return r;
}

static enum vhk_rule run(const struct vhk_gpu_sample *m) {
        return note(vhk_gpu_check(&m->state, &m->hdr, m->u.bytes, m->n_fds));
}

#define CHECK_RULE(got, expected, row, ...)                                                             \
        do {                                                                                            \
                enum vhk_rule g_ = (got), e_ = (expected);                                              \
                char t_[100];                                                                           \
                snprintf(t_, sizeof(t_), __VA_ARGS__);                                                  \
                CHECK_MSG(g_ == e_, "%s %s: %s, expected %s", (row)->name, t_, vhk_rule_id(g_), vhk_rule_id(e_)); \
        } while (0)
#define EACH_ROW(row) for (const struct vhk_gpu_row *row = vhk_gpu_rows; row < vhk_gpu_rows + vhk_n_gpu_rows; row++)

static struct vhk_gpu_sample m;

TEST(numbers_and_sizes_are_the_published_ones) {
        static const struct { const char *name; uint32_t size, reply; int answered; } published[] = {
                { NULL }, { "GET_PROTOCOL_FEATURES", 0, 8, 1 }, { "SET_PROTOCOL_FEATURES", 8, 0, 0 }, { "GET_DISPLAY_INFO", 0, 408, 1 },
                { "CURSOR_POS", 12, 0, 0 }, { "CURSOR_POS_HIDE", 12, 0, 0 }, { "CURSOR_UPDATE", 20 + 64 * 64 * 4, 0, 0 }, { "SCANOUT", 12, 0, 0 },
                { "UPDATE", 20, 0, 0 }, { "DMABUF_SCANOUT", 40, 0, 0 }, { "DMABUF_UPDATE", 20, 0, 1 }, { "GET_EDID", 4, 1056, 1 },
                { "DMABUF_SCANOUT2", 48, 0, 0 },
        };

        CHECK_EQ(vhk_n_gpu_rows, 12);
        CHECK_EQ(VHK_GPU_LAST, 12);
        for (uint32_t id = 1; id < VHK_N(published); id++) {
                const struct vhk_gpu_row *row = vhk_gpu_row(id);
                CHECK_STR(row->name, published[id].name);
                CHECK_EQ(vhk_gpu_size(row->request), published[id].size);
                CHECK_EQ(vhk_gpu_size(row->reply), published[id].reply);
                CHECK_EQ(row->answered, published[id].answered);
                CHECK(*row->witness);
        }
        CHECK(!vhk_gpu_row(0) && !vhk_gpu_row(13) && !vhk_gpu_row(UINT32_MAX));
        CHECK_EQ(VHK_GF_EDID, 0);
        CHECK_EQ(VHK_GF_DMABUF2, 1);
        CHECK_EQ(VHK_GPU_INFO_OK, VIRTIO_GPU_RESP_OK_DISPLAY_INFO);
        CHECK_EQ(VHK_GPU_EDID_OK, VIRTIO_GPU_RESP_OK_EDID);
        CHECK_EQ(VHK_GPU_SCANOUTS, VIRTIO_GPU_MAX_SCANOUTS);
}

TEST(every_row_has_a_valid_form) {
        EACH_ROW(row) {
                vhk_gpu_sample_make(&m, row);
                CHECK_RULE(run(&m), VHK_RULE_OK, row, "of %u bytes", m.hdr.size);
                CHECK_RULE(vhk_gpu_check_header(&m.state, &m.hdr), VHK_RULE_OK, row, "header");
        }
}

TEST(flags_of_a_request_mean_nothing) {
        EACH_ROW(row)
                for (unsigned bit = 0; bit < 32; bit++) {
                        vhk_gpu_sample_make(&m, row);
                        m.hdr.flags = 1u << bit;
                        CHECK_RULE(run(&m), VHK_RULE_OK, row, "flag %u", bit);
                }
}

TEST(a_wrong_size_breaks_its_rule) {
        EACH_ROW(row) {
                vhk_gpu_sample_make(&m, row);
                uint32_t good = m.hdr.size, most = row->request == VHK_G_UPDATE ? 20 + 4 * 64 : good;
                uint32_t sizes[] = { 0, good - 1, good + 1, good + 4, most + 1, 0x80000000, UINT32_MAX };

                for (unsigned i = 0; i < VHK_N(sizes); i++) {
                        if (sizes[i] == good || (!good && i == 1))
                                continue;
                        m.hdr.size = sizes[i];
                        enum vhk_rule expected = sizes[i] > most ? VHK_RULE_SIZE_LONG
                                : sizes[i] < vhk_gpu_size(row->request) ? VHK_RULE_SIZE_SHORT : VHK_RULE_GPU_DATA;
                        CHECK_RULE(run(&m), expected, row, "%u bytes instead of %u", sizes[i], good);
                        if (sizes[i] > most)
                                CHECK_RULE(vhk_gpu_check_header(&m.state, &m.hdr), VHK_RULE_SIZE_LONG, row, "header of %u bytes", sizes[i]);
                }
        }
}

/* What a front-end holds bounds what it takes; and nothing at all is beyond the largest scanout. */
TEST(an_update_is_as_large_as_a_scanout_at_most) {
        const struct vhk_gpu_row *row = vhk_gpu_row(VHK_GPU_UPDATE);
        uint64_t most = 20 + 4ull * 8192 * 8192;

        vhk_gpu_sample_make(&m, row);
        m.state.max_pixels = 0;
        CHECK_RULE(run(&m), VHK_RULE_SIZE_LONG, row, "without a scanout");
        m.state.max_pixels = UINT64_MAX;
        m.hdr.size = (uint32_t)most;
        CHECK_RULE(vhk_gpu_check_header(&m.state, &m.hdr), VHK_RULE_OK, row, "the largest");
        m.hdr.size++;
        CHECK_RULE(vhk_gpu_check_header(&m.state, &m.hdr), VHK_RULE_SIZE_LONG, row, "a larger one");
}

TEST(a_wrong_number_of_descriptors_breaks_its_rule) {
        EACH_ROW(row) {
                vhk_gpu_sample_make(&m, row);
                unsigned good = m.n_fds;
                for (m.n_fds = 0; m.n_fds < 10; m.n_fds++)
                        CHECK_RULE(run(&m), m.n_fds == good ? VHK_RULE_OK : m.n_fds > good ? VHK_RULE_FDS_EXTRA : VHK_RULE_FDS_MISSING, row,
                                "%u descriptors", m.n_fds);
                if (row->fds != VHK_GPU_FDS_UNLESS_EMPTY)
                        continue;
                m.u.dmabuf.width = m.u.dmabuf.height = m.n_fds = 0;
                CHECK_RULE(run(&m), VHK_RULE_OK, row, "off");
                m.n_fds = 1;
                CHECK_RULE(run(&m), VHK_RULE_FDS_EXTRA, row, "off, with a descriptor");
        }
}

TEST(a_closed_gate_breaks_its_rule) {
        unsigned n = 0;

        EACH_ROW(row) {
                vhk_gpu_sample_make(&m, row);
                m.state.features = ~row->gate;
                CHECK_RULE(run(&m), row->gate ? VHK_RULE_GATE : VHK_RULE_OK, row, "gate");
                n += row->gate != 0;
        }
        CHECK_EQ(n, 2);
}

TEST(unknown_messages) {
        vhk_gpu_sample_make(&m, vhk_gpu_row(VHK_GPU_SCANOUT));
        for (m.hdr.request = 0; m.hdr.request < 300; m.hdr.request++)
                if (!vhk_gpu_row(m.hdr.request))
                        CHECK_EQ(run(&m), VHK_RULE_UNKNOWN);
        m.hdr.request = UINT32_MAX;
        CHECK_EQ(run(&m), VHK_RULE_UNKNOWN);
}

TEST(scanouts_are_numbered_to_15) {
        static const uint32_t bad[] = { 16, 17, 255, 256, 0x10000, UINT32_MAX };

        EACH_ROW(row) {
                if (row->request == VHK_G_NONE || row->request == VHK_G_U64)
                        continue;
                vhk_gpu_sample_make(&m, row);
                for (unsigned i = 0; i < 16; i++) {
                        m.u.scanout_id.scanout = i;
                        CHECK_RULE(run(&m), VHK_RULE_OK, row, "scanout %u", i);
                }
                for (unsigned i = 0; i < VHK_N(bad); i++) {
                        m.u.scanout_id.scanout = bad[i];
                        CHECK_RULE(run(&m), VHK_RULE_GPU_SCANOUT, row, "scanout %u", bad[i]);
                }
        }
}

TEST(sides_of_a_scanout) {
        static const struct { uint32_t w, h; enum vhk_rule rule; } cases[] = {
                { 0, 0, VHK_RULE_OK }, { 1, 1, VHK_RULE_OK }, { 8192, 8192, VHK_RULE_OK }, { 8193, 1, VHK_RULE_GPU_SIDE }, { 1, 8193,
                        VHK_RULE_GPU_SIDE },
                { 0, 1, VHK_RULE_GPU_SIDE }, { 1, 0, VHK_RULE_GPU_SIDE }, { 0x10000, 0x10000, VHK_RULE_GPU_SIDE }, { UINT32_MAX, UINT32_MAX,
                        VHK_RULE_GPU_SIDE },
        };

        for (unsigned i = 0; i < VHK_N(cases); i++) {
                vhk_gpu_sample_make(&m, vhk_gpu_row(VHK_GPU_SCANOUT));
                m.u.scanout.width = cases[i].w;
                m.u.scanout.height = cases[i].h;
                CHECK_RULE(run(&m), cases[i].rule, vhk_gpu_row(VHK_GPU_SCANOUT), "%u x %u", cases[i].w, cases[i].h);
        }
        for (uint32_t id = VHK_GPU_DMABUF_SCANOUT; id <= VHK_GPU_DMABUF_SCANOUT2; id += VHK_GPU_DMABUF_SCANOUT2 - VHK_GPU_DMABUF_SCANOUT) {
                vhk_gpu_sample_make(&m, vhk_gpu_row(id));
                m.u.dmabuf.height = 0;
                CHECK_RULE(run(&m), VHK_RULE_GPU_SIDE, vhk_gpu_row(id), "no height");
        }
}

TEST(rectangles_do_not_wrap) {
        static const uint32_t ids[] = { VHK_GPU_UPDATE, VHK_GPU_DMABUF_UPDATE };

        for (unsigned i = 0; i < VHK_N(ids); i++) {
                const struct vhk_gpu_row *row = vhk_gpu_row(ids[i]);
                vhk_gpu_sample_make(&m, row);
                m.u.rect.x = UINT32_MAX - 4;
                CHECK_RULE(run(&m), VHK_RULE_OK, row, "to the end");
                m.u.rect.x = UINT32_MAX - 3;
                CHECK_RULE(run(&m), VHK_RULE_GPU_RECT, row, "x");
                m.u.rect.x = 0;
                m.u.rect.y = UINT32_MAX - 1;
                CHECK_RULE(run(&m), VHK_RULE_GPU_RECT, row, "y");
        }
        for (uint32_t id = VHK_GPU_DMABUF_SCANOUT; id <= VHK_GPU_DMABUF_SCANOUT2; id += VHK_GPU_DMABUF_SCANOUT2 - VHK_GPU_DMABUF_SCANOUT) {
                const struct vhk_gpu_row *row = vhk_gpu_row(id);
                static const struct { uint32_t x, y, w, h, fd_w, fd_h; enum vhk_rule rule; } cases[] = {
                        { 1, 1, 63, 31, 64, 32, VHK_RULE_OK }, { 1, 0, 64, 32, 64, 32, VHK_RULE_GPU_RECT }, { 0, 1, 64, 32, 64, 32,
                                VHK_RULE_GPU_RECT },
                        { UINT32_MAX, 0, 1, 1, UINT32_MAX, 1, VHK_RULE_GPU_RECT }, { 0, UINT32_MAX, 2, 2, 64, 1, VHK_RULE_GPU_RECT },
                };
                for (unsigned i = 0; i < VHK_N(cases); i++) {
                        vhk_gpu_sample_make(&m, row);
                        m.u.dmabuf = (struct vhk_g_dmabuf){ 0, cases[i].x, cases[i].y, cases[i].w, cases[i].h, cases[i].fd_w, cases[i].fd_h, 256,
                                0, 1 };
                        CHECK_RULE(run(&m), cases[i].rule, row, "case %u", i);
                }
        }
}

/* 0x10000 x 0x10000 pixels of four bytes are 0 bytes to whoever counts in 32 bits; 0x8000 x 0x8000 x 4 as well. */
TEST(pixels_are_counted_in_64_bits) {
        static const struct { uint32_t w, h; } wide[] = { { 0x10000, 0x10000 }, { 0x8000, 0x8000 }, { 0x80000001, 2 }, { 4, 3 }, { 3, 2 }, { 0,
                5 }, { UINT32_MAX, UINT32_MAX } };

        for (unsigned i = 0; i < VHK_N(wide); i++) {
                vhk_gpu_sample_make(&m, vhk_gpu_row(VHK_GPU_UPDATE));
                m.u.rect = (struct vhk_g_rect){ 0, 0, 0, wide[i].w, wide[i].h };
                CHECK_RULE(run(&m), VHK_RULE_GPU_DATA, vhk_gpu_row(VHK_GPU_UPDATE), "%u x %u", wide[i].w, wide[i].h);
        }
}

TEST(features_come_from_the_offer) {
        vhk_gpu_sample_make(&m, vhk_gpu_row(VHK_GPU_SET_PROTOCOL_FEATURES));
        for (unsigned bit = 0; bit < 64; bit++) {
                m.u.u64.value = VHK_BIT(bit);
                CHECK_EQ(run(&m), bit < 2 ? VHK_RULE_OK : VHK_RULE_GPU_FEATURES);
        }
        m.state.offered = 0;
        m.u.u64.value = 1;
        CHECK_EQ(run(&m), VHK_RULE_GPU_FEATURES);
}

static enum vhk_rule reply(const struct vhk_gpu_row *row, uint32_t id, uint32_t flags, uint32_t size, unsigned n_fds) {
        return note(vhk_gpu_check_reply(row->id, &(struct vhk_hdr){ id, flags, size }, m.u.bytes, n_fds));
}

TEST(answers) {
        EACH_ROW(row) {
                uint32_t size = vhk_gpu_size(row->reply);

                memset(&m, 0, sizeof(m));
                CHECK_RULE(reply(row, row->id, 4, size, 0), row->answered ? VHK_RULE_OK : VHK_RULE_REPLY_UNEXPECTED, row, "answer");
                if (!row->answered)
                        continue;
                CHECK_RULE(reply(row, row->id + 1, 4, size, 0), VHK_RULE_REPLY_ID, row, "another");
                for (unsigned flags = 0; flags < 16; flags++)
                        CHECK_RULE(reply(row, row->id, flags, size, 0), flags == 4 ? VHK_RULE_OK : VHK_RULE_GPU_REPLY_FLAGS, row, "flags %u", flags);
                CHECK_RULE(reply(row, row->id, 4, size + 1, 0), VHK_RULE_REPLY_SIZE, row, "longer");
                CHECK_RULE(reply(row, row->id, 4, size - 1, 0), VHK_RULE_REPLY_SIZE, row, "shorter");
                CHECK_RULE(reply(row, row->id, 4, size, 1), VHK_RULE_REPLY_FDS_EXTRA, row, "with a descriptor");
        }
        CHECK_EQ(vhk_gpu_check_reply(99, &(struct vhk_hdr){ 99, 4, 0 }, NULL, 0), VHK_RULE_REPLY_UNEXPECTED);
        m.u.edid.n = vhk_le32_of(1024).v;
        CHECK_EQ(reply(vhk_gpu_row(VHK_GPU_GET_EDID), VHK_GPU_GET_EDID, 4, 1056, 0), VHK_RULE_OK);
        m.u.edid.n = vhk_le32_of(1025).v;
        CHECK_EQ(reply(vhk_gpu_row(VHK_GPU_GET_EDID), VHK_GPU_GET_EDID, 4, 1056, 0), VHK_RULE_GPU_EDID);
}

TEST(lines_are_for_people) {
        struct vhk_g_display_info info = { .type = VHK_GPU_INFO_OK, .modes[1] = { .width = vhk_le32_of(1024).v, .height = vhk_le32_of(768).v,
                .enabled = 1 } };
        char line[200];

        vhk_gpu_sample_make(&m, vhk_gpu_row(VHK_GPU_UPDATE));
        vhk_gpu_print(false, &m.hdr, m.u.bytes, 0, line, sizeof(line));
        CHECK_STR(line, "UPDATE scanout 3 x 8 y 6 width 4 height 2 (52 bytes, no fds)");
        vhk_gpu_sample_make(&m, vhk_gpu_row(VHK_GPU_DMABUF_SCANOUT2));
        vhk_gpu_print(false, &m.hdr, m.u.bytes, 1, line, sizeof(line));
        CHECK_STR(line,
                "DMABUF_SCANOUT2 scanout 3 x 0 y 0 width 64 height 32 fd_width 64 fd_height 32 stride 256 "
                  "flags 0x0 fourcc 0x34325258 modifier 0x0 (48 bytes, 1 fd)");
        vhk_gpu_print(true, &(struct vhk_hdr){ VHK_GPU_GET_PROTOCOL_FEATURES, 4, 8 }, &(uint64_t){ 7 }, 2, line, sizeof(line));
        CHECK_STR(line, "GET_PROTOCOL_FEATURES reply value 0x7 EDID DMABUF2 (8 bytes, 2 fds)");
        vhk_gpu_print(true, &(struct vhk_hdr){ VHK_GPU_GET_DISPLAY_INFO, 4, 408 }, &info, 0, line, sizeof(line));
        CHECK_STR(line, "GET_DISPLAY_INFO reply type 0x1101 [1: 1024x768] (408 bytes, no fds)");
        vhk_gpu_print(true, &(struct vhk_hdr){ 77, 1, 1 }, "", 0, line, sizeof(line));
        CHECK_STR(line, "display message 77 reply (1 byte, no fds, flags 0x1)");
        vhk_gpu_print(false, &(struct vhk_hdr){ VHK_GPU_UPDATE, 0, UINT32_MAX }, NULL, 0, line, sizeof(line));
        CHECK_STR(line, "UPDATE (4294967295 bytes, no fds)");
}

TEST(every_message_prints_in_any_space) {
        EACH_ROW(row)
                for (size_t room = 0; room < 200; room++) {
                        char line[200];
                        memset(line, 'x', sizeof(line));
                        vhk_gpu_sample_make(&m, row);
                        size_t n = vhk_gpu_print(room & 1, &m.hdr, m.u.bytes, 0, line, room);
                        CHECK(room == 0 ? n == 0 && line[0] == 'x' : n < room && line[n] == 0);
                }
}

TEST(every_rule_of_the_display_was_broken) {
        if (!seen[VHK_RULE_OK])
                SKIP("cannot: the other tests did not run");
        for (unsigned i = VHK_RULE_GPU_REPLY_FLAGS; i < VHK_N_RULES; i++) {
                CHECK_MSG(seen[i], "no test breaks %s", vhk_rule_id(i));
                CHECK(vhk_rule_is_fatal(i));
        }
}
