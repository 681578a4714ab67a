/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A valid message for any row and variant, with a session in which it is legal: what negative tests break and fuzzers start
 * from. For tests, seeds and benches; not part of the library.
 */
#pragma once

#include "wire/wire.h"

struct vhk_sample {
        struct vhk_wire_state state;
        struct vhk_hdr hdr;
        union {
                uint8_t bytes[4096];            /* room for sizes that are too long */
                union vhk_p_any p;
        } u;
        unsigned n_fds;
};

#define VHK_SAMPLE_RINGS 4u
#define VHK_SAMPLE_RING 1u

static inline void vhk_sample_regions(struct vhk_sample *m, unsigned n, bool xen) {
        size_t each = xen ? sizeof(struct vhk_p_region_xen) : sizeof(struct vhk_p_region);

        for (unsigned i = 0; i < n; i++) {
                struct vhk_p_region_xen r = {
                        .guest_addr = i * 0x200000ull, .len = 0x100000, .user_addr = 0x7f0000000000ull + i * 0x200000ull,
                        .mmap_offset = i * 0x100000ull, .xen_flags = VHK_XEN_FOREIGN, .xen_domid = 3,
                };
                memcpy(m->u.bytes + 8 + i * each, &r, each);
        }
}

static inline void vhk_sample_fields(struct vhk_sample *m, const struct vhk_row *row, bool xen, unsigned n) {
        union vhk_p_any *p = &m->u.p;

        if (row->scope == VHK_SCOPE_RING)
                p->vring_state.index = VHK_SAMPLE_RING;
        if (row->scope == VHK_SCOPE_RING_BYTE)
                p->u64.value = VHK_SAMPLE_RING;
        switch ((enum vhk_payload)row->request) {
        case VHK_P_U64:
                if (row->dir == VHK_FROM_FRONTEND && row->id == VHK_FE_NET_SET_MTU)
                        p->u64.value = 1500;
                break;
        case VHK_P_VRING_STATE:
                if (row->dir == VHK_FROM_FRONTEND && row->id == VHK_FE_SET_VRING_NUM)
                        p->vring_state.num = 128;
                break;
        case VHK_P_MEM_REGIONS:
                p->mem_regions.n_regions = n;
                vhk_sample_regions(m, n, xen);
                break;
        case VHK_P_MEM_REGION_SINGLE:
                vhk_sample_regions(m, 1, xen);
                break;
        case VHK_P_LOG:
                p->log = (struct vhk_p_log){ 0x2000, 0x1000 };
                break;
        case VHK_P_IOTLB:
                p->iotlb = (struct vhk_p_iotlb){ .iova = 0x1000, .len = 0x1000, .user_addr = 0x7f0000001000, .perm = 3,
                        .type = row->dir == VHK_FROM_FRONTEND ? VHK_IOTLB_UPDATE : VHK_IOTLB_MISS };
                break;
        case VHK_P_CONFIG:
                p->config.len = n;
                break;
        case VHK_P_VRING_AREA:
                p->vring_area.len = 0x1000;
                break;
        case VHK_P_INFLIGHT:
                p->inflight = (struct vhk_p_inflight){ .mmap_size = 0x2000, .num_queues = VHK_SAMPLE_RINGS, .queue_size = 128 };
                break;
        case VHK_P_MMAP:
                p->mmap = (struct vhk_p_mmap){ .len = 0x1000, .flags = VHK_MMAP_RW };
                break;
        default:
                break;
        }
}

static inline unsigned vhk_sample_n_fds(const struct vhk_row *row, unsigned n) {
        switch (row->fds) {
        case VHK_FDS_ONE:
        case VHK_FDS_UNLESS_BIT_8:
                return 1;
        case VHK_FDS_REGIONS:
                return n;
        default:
                return 0;
        }
}

/* @variant is one of the row's request payload, @n elements of it; false if the row's gate rules that variant out. */
static inline bool vhk_sample_make(struct vhk_sample *m, const struct vhk_row *row, const struct vhk_variant *variant, unsigned n) {
        if (variant->payload != row->request || n > variant->max || ((variant->with | row->gate.protocol) & (variant->without | row->gate.without)))
                return false;
        memset(m, 0, sizeof(*m));
        m->state = (struct vhk_wire_state){
                .features_offered = row->gate.offered | row->gate.virtio, .features = row->gate.virtio,
                .protocol_offered = ~(uint64_t)0, .protocol = row->gate.protocol | variant->with,
                .n_queues = VHK_SAMPLE_RINGS, .phase = row->phase,
        };
        m->hdr = (struct vhk_hdr){ row->id, VHK_HDR_VERSION, variant->fixed + (uint32_t)n * variant->each };
        m->n_fds = vhk_sample_n_fds(row, n);
        vhk_sample_fields(m, row, variant->with & VHK_BIT(VHK_PF_XEN_MMAP), n);
        return true;
}
