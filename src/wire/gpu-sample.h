/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A valid request for any row of gpu.def, with a state in which it is legal. For tests and seeds; not part of the library. */
#pragma once

#include "wire/gpu.h"

struct vhk_gpu_sample {
        struct vhk_gpu_state state;
        struct vhk_hdr hdr;
        union {
                uint8_t bytes[17000];           /* room for sizes that are too long */
                struct vhk_g_scanout_id scanout_id;
                struct vhk_g_u64 u64;
                struct vhk_g_scanout scanout;
                struct vhk_g_rect rect;
                struct vhk_g_dmabuf dmabuf;
                struct vhk_g_edid edid;
        } u;
        unsigned n_fds;
};

#define VHK_GPU_SAMPLE_SCANOUT 3u

static inline void vhk_gpu_sample_make(struct vhk_gpu_sample *m, const struct vhk_gpu_row *row) {
        memset(m, 0, sizeof(*m));
        m->state = (struct vhk_gpu_state){ .offered = 3, .features = row->gate, .max_pixels = 64 };
        m->hdr = (struct vhk_hdr){ .request = row->id, .size = vhk_gpu_size(row->request) };
        if (row->request != VHK_G_NONE && row->request != VHK_G_U64)
                m->u.scanout_id.scanout = VHK_GPU_SAMPLE_SCANOUT;
        switch ((enum vhk_gpu_payload)row->request) {
        case VHK_G_U64:
                m->u.u64.value = 1;
                break;
        case VHK_G_SCANOUT:
                m->u.scanout = (struct vhk_g_scanout){ VHK_GPU_SAMPLE_SCANOUT, 640, 480 };
                break;
        case VHK_G_UPDATE:
                m->hdr.size += 4 * 4 * 2;
                m->u.rect = (struct vhk_g_rect){ VHK_GPU_SAMPLE_SCANOUT, 8, 6, 4, 2 };
                break;
        case VHK_G_RECT:
                m->u.rect = (struct vhk_g_rect){ VHK_GPU_SAMPLE_SCANOUT, 8, 6, 4, 2 };
                break;
        case VHK_G_DMABUF:
        case VHK_G_DMABUF2:
                m->u.dmabuf = (struct vhk_g_dmabuf){ VHK_GPU_SAMPLE_SCANOUT, 0, 0, 64, 32, 64, 32, 256, 0, 0x34325258 };
                break;
        default:
                break;
        }
        m->n_fds = row->fds == VHK_GPU_FDS_UNLESS_EMPTY;
}
