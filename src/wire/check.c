/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Verifies messages before anybody acts on them: the rows of messages.def, the rule about each one's fields, and the walk
 * through the columns. What needs memory, files or a ring's state is not here: overlaps, sizes of files, the device's own
 * limits. Any thread; nothing is written.
 *
 * Source: vhost-user.rst, "Message Specification" and the section of each message.
 */
#include "wire/wire.h"

#define PF(name) VHK_BIT(VHK_PF_##name)
#define VF(name) VHK_BIT(VHK_F_##name)

static void view(void *to, size_t room, const void *payload, uint32_t size) {
        if (payload)
                memcpy(to, payload, VHK_MIN((size_t)size, room));
}

/* A copy of the payload as @type: any alignment, and zero where a shorter variant ends. */
#define VIEW(type, name) \
        struct vhk_p_##type name = { 0 }; \
        view(&name, sizeof(name), payload, size)
#define FIELDS(name) \
        static unsigned field_##name(VHK_UNUSED const struct vhk_wire_state *s, VHK_UNUSED const void *payload, \
                                     VHK_UNUSED uint32_t size)

static bool overflows(uint64_t a, uint64_t b) {
        uint64_t sum;

        return vhk_add_overflows(a, b, &sum);
}

FIELDS(any) {
        return VHK_RULE_OK;
}

FIELDS(features) {
        VIEW(u64, p);
        uint64_t ring_bits = (VHK_BIT(VHK_F_RING_LAST + 1) - 1) & ~(VHK_BIT(VHK_F_RING_FIRST) - 1);

        /* QEMU up to 7.2 passes on ring bits of the guest that were never offered (rng, i2c, scsi, vsock): the back-end has to
         * say what it makes of those. */
        if (p.value & ~s->features_offered & ~ring_bits)
                return VHK_RULE_FEATURES_OFFERED;
        return vhk_wire_check_protocol(p.value, s->protocol);
}

FIELDS(protocol_features) {
        VIEW(u64, p);

        if (p.value & ~s->protocol_offered)
                return VHK_RULE_PROTOCOL_OFFERED;
        /* Repeating the same set is what multi-queue net does, once for each pair. */
        if (s->running && p.value != s->protocol)
                return VHK_RULE_PROTOCOL_RUNNING;
        return vhk_wire_check_protocol(s->features, p.value);
}

FIELDS(vring_num) {
        VIEW(vring_state, p);

        return p.num >= 1 && p.num <= VHK_MAX_RING_SIZE ? VHK_RULE_OK : VHK_RULE_VRING_NUM;
}

FIELDS(vring_addr) {
        VIEW(vring_addr, p);

        return p.flags & ~VHK_VRING_F_LOG ? VHK_RULE_VRING_ADDR_FLAGS : VHK_RULE_OK;
}

FIELDS(vring_base) {
        VIEW(vring_state, p);

        return !(s->features & VF(RING_PACKED)) && p.num > UINT16_MAX ? VHK_RULE_VRING_BASE : VHK_RULE_OK;
}

FIELDS(vring_reserved) {
        VIEW(vring_state, p);

        return p.num ? VHK_RULE_VRING_RESERVED : VHK_RULE_OK;
}

FIELDS(vring_enable) {
        VIEW(vring_state, p);

        return p.num <= 1 ? VHK_RULE_OK : VHK_RULE_VRING_ENABLE;
}

FIELDS(vring_endian) {
        VIEW(vring_state, p);

        return p.num <= 1 ? VHK_RULE_OK : VHK_RULE_VRING_ENDIAN;
}

FIELDS(vring_word) {
        VIEW(u64, p);

        return p.value & ~(uint64_t)(VHK_RING_INDEX_MASK | VHK_RING_NO_FD) ? VHK_RULE_VRING_WORD : VHK_RULE_OK;
}

static enum vhk_rule check_region(uint64_t protocol, const void *payload, unsigned i, bool with_offset) {
        struct vhk_p_region_xen r = vhk_wire_region(protocol, payload, i);
        uint32_t kind = r.xen_flags & ~VHK_XEN_LAZY;

        if (!r.len)
                return VHK_RULE_REGION_EMPTY;
        if (overflows(r.guest_addr, r.len))
                return VHK_RULE_REGION_GPA;
        if (overflows(r.user_addr, r.len))
                return VHK_RULE_REGION_UVA;
        if (with_offset && overflows(r.mmap_offset, r.len))
                return VHK_RULE_REGION_OFFSET;
        if ((protocol & PF(GPA_ADDRESSES)) && r.guest_addr != r.user_addr)
                return VHK_RULE_REGION_GPA_ADDRESSES;
        if (kind > VHK_XEN_GRANT || ((r.xen_flags & VHK_XEN_LAZY) && kind != VHK_XEN_GRANT))
                return VHK_RULE_REGION_XEN;
        return VHK_RULE_OK;
}

FIELDS(mem_table) {
        VIEW(mem_regions, p);
        uint32_t each = s->protocol & PF(XEN_MMAP) ? sizeof(struct vhk_p_region_xen) : sizeof(struct vhk_p_region);

        if (p.n_regions < 1 || p.n_regions > VHK_MAX_REGIONS)
                return VHK_RULE_REGIONS_COUNT;
        /* User-Mode Linux always sends the room for two regions: unused ones may stand behind those that count */
        uint32_t exact = (uint32_t)offsetof(struct vhk_p_mem_regions, regions) + p.n_regions * each;
        if (size < exact || (size - exact) % each)
                return VHK_RULE_REGIONS_SIZE;
        for (unsigned i = 0; i < p.n_regions; i++) {
                enum vhk_rule r = check_region(s->protocol, payload, i, true);
                if (r)
                        return r;
        }
        return VHK_RULE_OK;
}

FIELDS(mem_add) {
        return check_region(s->protocol, payload, 0, true);
}

FIELDS(mem_remove) {
        return check_region(s->protocol, payload, 0, false);    /* the offset says nothing here */
}

FIELDS(postcopy_ack) {
        VIEW(u64, p);

        return p.value ? VHK_RULE_POSTCOPY_ACK : VHK_RULE_OK;
}

FIELDS(log) {
        VIEW(log, p);

        if (!p.mmap_size)
                return VHK_RULE_LOG_EMPTY;
        return overflows(p.mmap_offset, p.mmap_size) ? VHK_RULE_LOG_RANGE : VHK_RULE_OK;
}

FIELDS(mtu) {
        VIEW(u64, p);

        return p.value >= 68 && p.value <= UINT16_MAX ? VHK_RULE_OK : VHK_RULE_MTU;
}

FIELDS(status) {
        VIEW(u64, p);

        return p.value <= UINT8_MAX ? VHK_RULE_OK : VHK_RULE_STATUS;
}

static enum vhk_rule check_translation(const struct vhk_p_iotlb *p) {
        if (!p->len)
                return VHK_RULE_IOTLB_EMPTY;
        if (overflows(p->iova, p->len) || overflows(p->user_addr, p->len))
                return VHK_RULE_IOTLB_RANGE;
        return p->perm >= 1 && p->perm <= 3 ? VHK_RULE_OK : VHK_RULE_IOTLB_PERM;
}

FIELDS(iotlb_to_backend) {
        VIEW(iotlb, p);

        if (p.type == VHK_IOTLB_UPDATE)
                return check_translation(&p);
        /* Of an invalidation only iova and length count (QEMU leaves the rest as it was), and any are legal. */
        return p.type == VHK_IOTLB_INVALIDATE ? VHK_RULE_OK : VHK_RULE_IOTLB_TYPE;
}

FIELDS(iotlb_to_frontend) {
        VIEW(iotlb, p);

        if (p.type == VHK_IOTLB_MISS)
                return p.perm >= 1 && p.perm <= 3 ? VHK_RULE_OK : VHK_RULE_IOTLB_PERM;
        return p.type == VHK_IOTLB_ACCESS_FAIL ? VHK_RULE_OK : VHK_RULE_IOTLB_TYPE;
}

static enum vhk_rule check_config(const struct vhk_p_config *p, uint32_t size) {
        if (p->len != size - offsetof(struct vhk_p_config, data))
                return VHK_RULE_CONFIG_SIZE;
        if (!p->len)
                return VHK_RULE_CONFIG_EMPTY;
        return vhk_range_within(p->offset, p->len, VHK_MAX_CONFIG) ? VHK_RULE_OK : VHK_RULE_CONFIG_RANGE;
}

FIELDS(config_get) {
        VIEW(config, p);

        return check_config(&p, size);          /* flags mean nothing here, and Cloud Hypervisor sets one */
}

FIELDS(config_set) {
        VIEW(config, p);
        enum vhk_rule r = check_config(&p, size);

        return r ? r : p.flags > VHK_CONFIG_FLAG_MIGRATION ? VHK_RULE_CONFIG_FLAGS : VHK_RULE_OK;
}

FIELDS(inflight_get) {
        VIEW(inflight, p);

        if (p.num_queues < 1 || p.num_queues > s->n_queues)
                return VHK_RULE_INFLIGHT_QUEUES;
        return p.queue_size >= 1 && p.queue_size <= VHK_MAX_RING_SIZE ? VHK_RULE_OK : VHK_RULE_INFLIGHT_QUEUE_SIZE;
}

FIELDS(inflight_set) {
        VIEW(inflight, p);
        enum vhk_rule r = field_inflight_get(s, payload, size);

        return r ? r : !p.mmap_size || overflows(p.mmap_offset, p.mmap_size) ? VHK_RULE_INFLIGHT_RANGE : VHK_RULE_OK;
}

FIELDS(device_state) {
        VIEW(device_state, p);

        if (p.direction > VHK_STATE_LOAD)
                return VHK_RULE_STATE_DIRECTION;
        return p.phase ? VHK_RULE_STATE_PHASE : VHK_RULE_OK;
}

FIELDS(vring_area) {
        VIEW(vring_area, p);

        if (p.ring & ~(uint64_t)(VHK_RING_INDEX_MASK | VHK_RING_NO_FD))
                return VHK_RULE_VRING_WORD;
        if (p.ring & VHK_RING_NO_FD)
                return VHK_RULE_OK;             /* takes the area away */
        return !p.len || overflows(p.offset, p.len) ? VHK_RULE_AREA_RANGE : VHK_RULE_OK;
}

FIELDS(shmem_unmap) {
        VIEW(mmap, p);

        if (!p.len)
                return VHK_RULE_MMAP_EMPTY;
        return overflows(p.shm_offset, p.len) ? VHK_RULE_MMAP_RANGE : VHK_RULE_OK;
}

FIELDS(shmem_map) {
        VIEW(mmap, p);
        enum vhk_rule r = field_shmem_unmap(s, payload, size);

        if (r)
                return r;
        if (overflows(p.fd_offset, p.len))
                return VHK_RULE_MMAP_RANGE;
        return p.flags & ~(uint64_t)VHK_MMAP_RW ? VHK_RULE_MMAP_FLAGS : VHK_RULE_OK;
}

#define UNGATED { 0 }
#define GATE(...) { __VA_ARGS__ }
#define COLUMNS(number, n, ph, req, f, fld, rep, rule, rfds, sc, twin, wit) \
        .name = #n, .phase = VHK_PHASE_##ph, .id = number, .request = vhk_p_id_##req, .reply = vhk_p_id_##rep, \
        .fds = VHK_FDS_##f, .reply_fds = VHK_FDS_##rfds, .reply_rule = VHK_REPLY_##rule, .scope = VHK_SCOPE_##sc, \
        .fields = field_##fld, .ioctl_twin = twin, .witness = wit
#define FRONTEND(number, n, ph, req, f, fld, g, ...) \
        { COLUMNS(number, n, ph, req, f, fld, __VA_ARGS__), .dir = VHK_FROM_FRONTEND, .gate = g },
#define BACKEND(number, n, ph, req, f, fld, g, ...) \
        { COLUMNS(number, n, ph, req, f, fld, __VA_ARGS__), .dir = VHK_FROM_BACKEND, .gate = g },
const struct vhk_row vhk_rows[] = {
#include "wire/messages.def"
};
const unsigned vhk_n_rows = VHK_N(vhk_rows);

enum vhk_rule vhk_wire_check_header(const struct vhk_wire_state *s, enum vhk_dir dir, const struct vhk_hdr *h) {
        const struct vhk_row *row = vhk_wire_row(dir, h->request, s->phase);

        if ((h->flags & VHK_HDR_VERSION_MASK) != VHK_HDR_VERSION)
                return VHK_RULE_VERSION;
        if (h->flags & VHK_HDR_REPLY)
                return VHK_RULE_REPLY_BIT;
        if (h->size > VHK_MAX_PAYLOAD)
                return VHK_RULE_OVERSIZE;
        if (h->flags & ~(VHK_HDR_VERSION_MASK | VHK_HDR_REPLY | VHK_HDR_NEED_REPLY))
                return VHK_RULE_FLAGS;
        if (!row)
                return VHK_RULE_UNKNOWN;
        return h->size > vhk_payload_max_size(row->request, s->protocol) ? VHK_RULE_SIZE_LONG : VHK_RULE_OK;
}

static enum vhk_rule check_gate(const struct vhk_wire_state *s, const struct vhk_gate *g) {
        if ((s->features_offered & g->offered) != g->offered || (s->features & g->virtio) != g->virtio ||
            (s->protocol & g->protocol) != g->protocol)
                return VHK_RULE_GATE;
        return s->protocol & g->without ? VHK_RULE_GATE_FORBIDDEN : VHK_RULE_OK;
}

static enum vhk_rule check_scope(const struct vhk_wire_state *s, const struct vhk_row *row, const void *payload) {
        uint32_t ring;

        switch (row->scope) {
        case VHK_SCOPE_QUIESCED:
                return s->running ? VHK_RULE_RUNNING : VHK_RULE_OK;
        case VHK_SCOPE_RING:
        case VHK_SCOPE_RING_BYTE:
                ring = (uint32_t)vhk_wire_ring(row, payload);
                return ring < s->n_queues ? VHK_RULE_OK : VHK_RULE_RING_INDEX;
        default:
                return VHK_RULE_OK;
        }
}

/* How many descriptors a message with this payload carries, [*ret_min, *ret_max]. */
static void count_fds(enum vhk_fds fds, const void *payload, uint32_t size, unsigned *ret_min, unsigned *ret_max) {
        VIEW(u64, word);
        uint32_t n_regions = 0;
        unsigned n;

        if (size >= sizeof(n_regions))
                memcpy(&n_regions, payload, sizeof(n_regions));

        switch (fds) {
        case VHK_FDS_ONE:
        case VHK_FDS_OPTIONAL:
                n = 1;
                break;
        case VHK_FDS_UNLESS_BIT_8:
                n = !(word.value & VHK_RING_NO_FD);
                break;
        case VHK_FDS_REGIONS:
                n = n_regions;
                break;
        case VHK_FDS_IF_ZERO:
                n = !word.value;
                break;
        case VHK_FDS_IF_SIZE:
                n = !!word.value;               /* mmap_size comes first */
                break;
        default:
                n = 0;
        }
        *ret_min = fds == VHK_FDS_OPTIONAL ? 0 : n;
        *ret_max = n;
}

static enum vhk_rule check_payload(const struct vhk_wire_state *s, const struct vhk_row *row, const void *payload,
                                   uint32_t size, unsigned n_fds) {
        unsigned min, max;
        enum vhk_rule r;

        if (!vhk_payload_has_size(row->request, s->protocol, size))
                return VHK_RULE_SIZE_SHORT;     /* too long was found in the header */
        r = check_scope(s, row, payload);
        if (r)
                return r;
        r = row->fields(s, payload, size);
        if (r)
                return r;
        count_fds(row->fds, payload, size, &min, &max);
        if (n_fds == VHK_FDS_LOST)
                return VHK_RULE_FDS_LOST;
        return n_fds < min ? VHK_RULE_FDS_MISSING : n_fds > max ? VHK_RULE_FDS_EXTRA : VHK_RULE_OK;
}

enum vhk_rule vhk_wire_check(const struct vhk_wire_state *s, enum vhk_dir dir, const struct vhk_hdr *h,
                             const void *payload, unsigned n_fds, const struct vhk_row **ret_row) {
        const struct vhk_row *row = vhk_wire_row(dir, h->request, s->phase);
        enum vhk_rule r = vhk_wire_check_header(s, dir, h);

        *ret_row = row;
        if (r)
                return r;
        if (dir == VHK_FROM_FRONTEND && s->phase == VHK_PHASE_POSTCOPY_ACK && row->phase != VHK_PHASE_POSTCOPY_ACK)
                return VHK_RULE_PHASE;
        r = check_gate(s, &row->gate);
        return r ? r : check_payload(s, row, payload, h->size, n_fds);
}

static bool reply_size_is_legal(const struct vhk_wire_state *s, const struct vhk_row *row, uint32_t asked, uint32_t size) {
        /* The back-end's way of saying no: nothing (the text), or no more than the head (rust-vmm). */
        if (row->reply == VHK_P_CONFIG && (!size || size == offsetof(struct vhk_p_config, data)))
                return true;
        /* The same kind comes back in the same size; the in-flight record in whichever of its two the peer's C gave it. */
        if (row->reply == row->request && row->reply != VHK_P_INFLIGHT && size != asked)
                return false;
        return vhk_payload_has_size(row->reply, s->protocol, size);
}

enum vhk_rule vhk_wire_check_reply(const struct vhk_wire_state *s, enum vhk_dir dir, const struct vhk_hdr *req,
                                   const struct vhk_hdr *reply, const void *payload, unsigned n_fds) {
        const struct vhk_row *row = vhk_wire_row(dir, req->request, s->phase);
        enum vhk_answer answer = vhk_wire_answer(s, row, req);
        unsigned min = 0, max = 0;

        if (reply->request != req->request)
                return VHK_RULE_REPLY_ID;
        if (reply->flags != (VHK_HDR_VERSION | VHK_HDR_REPLY))
                return VHK_RULE_REPLY_FLAGS;
        if (answer == VHK_ANSWER_NONE)
                return VHK_RULE_REPLY_UNEXPECTED;
        if (answer == VHK_ANSWER_ACK ? reply->size != sizeof(struct vhk_p_u64)
                                     : !reply_size_is_legal(s, row, req->size, reply->size))
                return VHK_RULE_REPLY_SIZE;
        if (answer == VHK_ANSWER_REPLY)
                count_fds(row->reply_fds, payload, reply->size, &min, &max);
        if (n_fds == VHK_FDS_LOST)
                return VHK_RULE_REPLY_FDS_LOST;
        return n_fds < min ? VHK_RULE_REPLY_FDS_MISSING : n_fds > max ? VHK_RULE_REPLY_FDS_EXTRA : VHK_RULE_OK;
}
