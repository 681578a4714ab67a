/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The protocol of the display's socket as data, made from gpu.def: numbers, payloads, rows, checks, printer. As all of this room: pure
 * functions on bytes, any thread. Any broken rule is the end of that socket: its peer has no words for a refusal.
 */
#pragma once

#include "wire/wire.h"

enum vhk_gpu_id {
#define GPU(id, name, ...) VHK_GPU_##name = id,
#include "wire/gpu.def"
        VHK_GPU_LAST = VHK_GPU_DMABUF_SCANOUT2,
};

enum vhk_gpu_feature {
#define FEATURE(bit, name) VHK_GF_##name = bit,
#include "wire/gpu.def"
};

#define PAYLOAD(ID, name, size, each) struct vhk_g_##name {
#define FIELD(type, field, offset, format) type field;
#define ARRAY(type, field, n, offset) type field[n];
#define END(name) };
#include "wire/gpu.def"

#define PAYLOAD(ID, name, size, each) static_assert(sizeof(struct vhk_g_##name) == (size), #name);
#include "wire/gpu.def"

enum vhk_gpu_payload {
#define PAYLOAD(ID, name, size, each) VHK_G_##ID,
#include "wire/gpu.def"
        VHK_N_GPU_PAYLOADS,
};

#define VHK_GPU_SCANOUTS 16u
#define VHK_GPU_SIDE_MAX 8192u          /* of a scanout; the protocol knows no limit, but a front-end has to hold it */
#define VHK_GPU_EDID_MAX 1024u
#define VHK_GPU_INFO_OK 0x1101u         /* virtio's RESP_OK_DISPLAY_INFO, RESP_OK_EDID */
#define VHK_GPU_EDID_OK 0x1104u

enum vhk_gpu_fds { VHK_GPU_FDS_NONE, VHK_GPU_FDS_UNLESS_EMPTY };

/* What the checks need to know of a socket. */
struct vhk_gpu_state {
        uint64_t offered, features;     /* protocol features: of the front-end, in use */
        uint64_t max_pixels;            /* of an update: those of the largest scanout */
};

/* See gpu.def for the columns. */
struct vhk_gpu_row {
        const char *name;
        uint32_t id;
        uint8_t request, reply;         /* enum vhk_gpu_payload */
        uint8_t fds;                    /* enum vhk_gpu_fds */
        bool answered;
        uint64_t gate;
        enum vhk_rule (*fields)(const struct vhk_gpu_state *s, const void *payload, uint32_t size);
        const char *witness;
};
extern const struct vhk_gpu_row vhk_gpu_rows[];
extern const unsigned vhk_n_gpu_rows;

const struct vhk_gpu_row *vhk_gpu_row(uint32_t id);             /* NULL: unknown */
uint32_t vhk_gpu_size(enum vhk_gpu_payload payload);            /* without what may follow */

/* A request's header alone, before room is made for its payload. */
enum vhk_rule vhk_gpu_check_header(const struct vhk_gpu_state *s, const struct vhk_hdr *h);
/* A whole request. */
enum vhk_rule vhk_gpu_check(const struct vhk_gpu_state *s, const struct vhk_hdr *h, const void *payload, unsigned n_fds);
/* An answer to a request of @id. */
enum vhk_rule vhk_gpu_check_reply(uint32_t id, const struct vhk_hdr *reply, const void *payload, unsigned n_fds);

/* One line, "UPDATE scanout 0 x 8 y 8 width 2 height 2 (36 bytes, no fds)"; always terminated; returns the length. */
size_t vhk_gpu_print(bool reply, const struct vhk_hdr *h, const void *payload, unsigned n_fds, char *buf, size_t size);
