/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The payloads as C structs, made from payloads.def: struct vhk_p_<name>, union vhk_p_any, VHK_P_<NAME>. Native byte order,
 * no implicit padding. A shorter variant of a payload is the beginning of its struct, except crypto_session_old.
 */
#pragma once

#include "base/base.h"

#define PAYLOAD(ID, name, size) struct vhk_p_##name {
#define FIELD(type, field, offset, format) type field;
#define ARRAY(type, field, n, offset) type field[n];
#define END(name) };
#include "wire/payloads.def"

/* Sizes here; offsets in wire.c. */
#define PAYLOAD(ID, name, size) static_assert(sizeof(struct vhk_p_##name) == (size), #name);
#include "wire/payloads.def"

union vhk_p_any {
#define PAYLOAD(ID, name, size) struct vhk_p_##name name;
#include "wire/payloads.def"
};

enum vhk_payload {
#define PAYLOAD(ID, name, size) VHK_P_##ID,
#include "wire/payloads.def"
        VHK_N_PAYLOADS,
};

/* From the name in lower case, as messages.def spells it, to the id. */
enum {
#define PAYLOAD(ID, name, size) vhk_p_id_##name = VHK_P_##ID,
#include "wire/payloads.def"
};

/* A size of a payload, see payloads.def: @fixed + 0..@max * @each bytes where the protocol features allow it. */
struct vhk_variant {
        uint8_t payload;                        /* enum vhk_payload */
        uint16_t fixed, each, max;
        uint64_t with, without;
};
extern const struct vhk_variant vhk_variants[];
extern const unsigned vhk_n_variants;

/* Is @size a size of @payload, and what is the largest one, given the protocol features in use? */
bool vhk_payload_has_size(enum vhk_payload payload, uint64_t protocol, uint32_t size);
uint32_t vhk_payload_max_size(enum vhk_payload payload, uint64_t protocol);

#define VHK_RING_INDEX_MASK 0xffu               /* SET_VRING_KICK, _CALL, _ERR: bits 0-7 */
#define VHK_RING_NO_FD 0x100u                   /* ... and bit 8 */
#define VHK_VRING_F_LOG 1u                      /* vring_addr.flags */
#define VHK_XEN_FOREIGN 1u                      /* region_xen.xen_flags */
#define VHK_XEN_GRANT 2u
#define VHK_XEN_LAZY 0x100u
#define VHK_MMAP_RW 1u                          /* mmap.flags */
#define VHK_MAX_REGIONS 32u                     /* of one SET_MEM_TABLE that is taken, */
#define VHK_SENT_REGIONS 8u                     /* and sent: all back-ends take so many */
#define VHK_MAX_RING_SIZE 32768u

enum vhk_iotlb_type { VHK_IOTLB_MISS = 1, VHK_IOTLB_UPDATE, VHK_IOTLB_INVALIDATE, VHK_IOTLB_ACCESS_FAIL };
enum vhk_config_flags { VHK_CONFIG_FLAG_GUEST, VHK_CONFIG_FLAG_MIGRATION };
enum vhk_state_direction { VHK_STATE_SAVE, VHK_STATE_LOAD };
