/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The questions about a row: which one, which answer, which ring; and the tables of rules and payload sizes. Any thread. */
#include "wire/wire.h"

#define PF(name) VHK_BIT(VHK_PF_##name)
#define VF(name) VHK_BIT(VHK_F_##name)

/* Bytes are asserted: each field's offset. Sizes are asserted in payloads.h. */
#define PAYLOAD(ID, name, size) static VHK_UNUSED void offsets_of_##name(void) { typedef struct vhk_p_##name payload;
#define FIELD(type, field, offset, format) static_assert(offsetof(payload, field) == (offset), #field);
#define ARRAY(type, field, n, offset) FIELD(type, field, offset, )
#define END(name) (void)sizeof(payload); }
#include "wire/payloads.def"

/* A key (direction, id, phase) that occurs twice does not compile. */
static VHK_UNUSED void keys_are_unique(unsigned key) {
#define KEY(dir, id, phase) (((unsigned)(id) * VHK_N_PHASES + (phase)) * VHK_N_DIRS + (dir))
        switch (key) {
#define FRONTEND(id, name, phase, ...) case KEY(VHK_FROM_FRONTEND, id, VHK_PHASE_##phase):
#define BACKEND(id, name, phase, ...) case KEY(VHK_FROM_BACKEND, id, VHK_PHASE_##phase):
#include "wire/messages.def"
        default:
                break;
        }
}

const struct vhk_variant vhk_variants[] = {
#define VARIANT(name, fixed, each, max, with, without) { vhk_p_id_##name, fixed, each, max, with, without },
#include "wire/payloads.def"
};
const unsigned vhk_n_variants = VHK_N(vhk_variants);

static bool variant_is_legal(const struct vhk_variant *v, enum vhk_payload payload, uint64_t protocol) {
        return v->payload == payload && (protocol & v->with) == v->with && !(protocol & v->without);
}

bool vhk_payload_has_size(enum vhk_payload payload, uint64_t protocol, uint32_t size) {
        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + VHK_N(vhk_variants); v++) {
                if (!variant_is_legal(v, payload, protocol) || size < v->fixed)
                        continue;
                uint32_t more = size - v->fixed;
                if (v->each ? more % v->each == 0 && more / v->each <= v->max : more == 0)
                        return true;
        }
        return false;
}

uint32_t vhk_payload_max_size(enum vhk_payload payload, uint64_t protocol) {
        uint32_t max = 0;

        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + VHK_N(vhk_variants); v++)
                if (variant_is_legal(v, payload, protocol))
                        max = VHK_MAX(max, (uint32_t)v->fixed + (uint32_t)v->each * v->max);
        return max;
}

static const struct {
        const char *id, *text;
        bool fatal;
} rules[] = {
#define RULE(NAME, rule_id, is_fatal, rule_text) [VHK_RULE_##NAME] = { rule_id, rule_text, is_fatal },
#include "wire/rules.def"
};

const char *vhk_rule_id(enum vhk_rule r) {
        return (unsigned)r < VHK_N(rules) ? rules[r].id : "wire.unknown-rule";
}

const char *vhk_rule_text(enum vhk_rule r) {
        return (unsigned)r < VHK_N(rules) ? rules[r].text : "the rule is one of the table";
}

bool vhk_rule_is_fatal(enum vhk_rule r) {
        return (unsigned)r < VHK_N(rules) ? rules[r].fatal : true;
}

const struct vhk_row *vhk_wire_row(enum vhk_dir dir, uint32_t id, uint8_t phase) {
        const struct vhk_row *normal = NULL;

        for (const struct vhk_row *r = vhk_rows; r < vhk_rows + vhk_n_rows; r++) {
                if (r->dir != dir || r->id != id)
                        continue;
                if (r->phase == phase)
                        return r;
                if (r->phase == VHK_PHASE_NORMAL)
                        normal = r;
        }
        return normal;
}

enum vhk_answer vhk_wire_answer(const struct vhk_wire_state *s, const struct vhk_row *row, const struct vhk_hdr *h) {
        bool asked = (h->flags & VHK_HDR_NEED_REPLY) && (s->protocol & PF(REPLY_ACK));

        switch (row ? row->reply_rule : VHK_REPLY_ASKED) {
        case VHK_REPLY_LOG_BASE:
                if (!s->log_reply_u64)
                        return VHK_ANSWER_REPLY;
                return asked ? VHK_ANSWER_ACK : VHK_ANSWER_NONE;
        case VHK_REPLY_ALWAYS:
                return VHK_ANSWER_REPLY;
        case VHK_REPLY_ACKED:
                return VHK_ANSWER_ACK;
        case VHK_REPLY_ASKED:
                return asked ? VHK_ANSWER_ACK : VHK_ANSWER_NONE;
        default:
                return VHK_ANSWER_NONE;
        }
}

/* A number below 0, in the form that was asked for. */
static int refuse_crypto_session(uint32_t asked_size, union vhk_p_any *ret_reply) {
        if (asked_size == sizeof(ret_reply->crypto_session_old)) {
                ret_reply->crypto_session_old.session_id = -1;
                return sizeof(ret_reply->crypto_session_old);
        }
        ret_reply->crypto_session.session_id = -1;
        return sizeof(ret_reply->crypto_session);
}

int vhk_wire_refusal(const struct vhk_row *row, const struct vhk_hdr *asked, union vhk_p_any *ret_reply) {
        if (row->dir != VHK_FROM_FRONTEND)
                return -1;
        memset(ret_reply, 0, sizeof(*ret_reply));
        switch (row->id) {
        case VHK_FE_GET_CONFIG:
                return 0;
        case VHK_FE_CREATE_CRYPTO_SESSION:
                return refuse_crypto_session(asked->size, ret_reply);
        case VHK_FE_GET_INFLIGHT_FD:            /* mmap_size 0: no record is kept */
                return sizeof(ret_reply->inflight);
        case VHK_FE_GET_SHARED_OBJECT:          /* no descriptor: there is no such object */
                return sizeof(ret_reply->object_reply);
        case VHK_FE_SET_DEVICE_STATE_FD:
                ret_reply->u64.value = VHK_RING_NO_FD | 1;
                return sizeof(ret_reply->u64);
        case VHK_FE_CHECK_DEVICE_STATE:
                ret_reply->u64.value = 1;
                return sizeof(ret_reply->u64);
        default:
                return -1;
        }
}

int vhk_wire_ring(const struct vhk_row *row, const void *payload) {
        struct vhk_p_u64 word;
        struct vhk_p_vring_state state;

        switch (row->scope) {
        case VHK_SCOPE_RING:
                memcpy(&state, payload, sizeof(state));
                return (int)state.index;
        case VHK_SCOPE_RING_BYTE:
                memcpy(&word, payload, sizeof(word));
                return (int)(word.value & VHK_RING_INDEX_MASK);
        default:
                return -1;
        }
}

struct vhk_p_region_xen vhk_wire_region(uint64_t protocol, const void *payload, unsigned i) {
        size_t each = protocol & PF(XEN_MMAP) ? sizeof(struct vhk_p_region_xen) : sizeof(struct vhk_p_region);
        struct vhk_p_region_xen r = { 0 };

        /* Both payloads have 8 bytes before the first region, and the short form is the beginning of the long one. */
        memcpy(&r, (const uint8_t *)payload + offsetof(struct vhk_p_mem_regions, regions) + i * each, each);
        return r;
}

static const struct {
        uint64_t virtio, protocol;              /* whoever has these ... */
        uint64_t needs;                         /* ... needs these protocol features */
        enum vhk_rule rule;
} dependencies[] = {
        { 0, PF(INBAND_NOTIFICATIONS), PF(BACKEND_REQ) | PF(REPLY_ACK), VHK_RULE_NEEDS_INBAND },
        { 0, PF(HOST_NOTIFIER), PF(BACKEND_REQ) | PF(BACKEND_SEND_FD), VHK_RULE_NEEDS_SEND_FD },
        { 0, PF(SHMEM), PF(BACKEND_REQ) | PF(BACKEND_SEND_FD), VHK_RULE_NEEDS_SEND_FD },
        { 0, PF(GET_VRING_BASE_INFLIGHT), PF(INFLIGHT_SHMFD), VHK_RULE_NEEDS_INFLIGHT },
        { 0, PF(GET_VRING_BASE_SKIP_DRAIN), PF(GET_VRING_BASE_INFLIGHT) | PF(INFLIGHT_SHMFD), VHK_RULE_NEEDS_SKIP_DRAIN },
        { VF(ACCESS_PLATFORM), 0, PF(BACKEND_REQ) | PF(REPLY_ACK), VHK_RULE_NEEDS_IOMMU },
};

enum vhk_rule vhk_wire_check_protocol(uint64_t features, uint64_t protocol) {
        for (unsigned i = 0; i < VHK_N(dependencies); i++)
                if (((features & dependencies[i].virtio) || (protocol & dependencies[i].protocol)) &&
                    (protocol & dependencies[i].needs) != dependencies[i].needs)
                        return dependencies[i].rule;
        return VHK_RULE_OK;
}
