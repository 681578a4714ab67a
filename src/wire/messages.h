/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Message numbers and what a row of messages.def becomes. Handler tables, call stubs and printers include messages.def themselves. */
#pragma once

#include "base/base.h"

/* Numbers on the wire; those of the two directions overlap. */
enum vhk_msg_id {
#define FRONTEND(id, name, ...) VHK_FE_##name = id,
#define BACKEND(id, name, ...) VHK_BE_##name = id,
#include "wire/messages.def"
        VHK_FE_LAST = VHK_FE_GET_VRING_BASE_SKIP_DRAIN,
        VHK_BE_LAST = VHK_BE_SHMEM_UNMAP,
};

enum vhk_phase { VHK_PHASE_NORMAL, VHK_PHASE_POSTCOPY, VHK_PHASE_POSTCOPY_ACK, VHK_N_PHASES };
enum vhk_fds {
        VHK_FDS_NONE, VHK_FDS_ONE, VHK_FDS_OPTIONAL, VHK_FDS_UNLESS_BIT_8, VHK_FDS_REGIONS,
        VHK_FDS_IF_ZERO, VHK_FDS_IF_SIZE,       /* replies */
};
enum vhk_reply_rule { VHK_REPLY_NEVER, VHK_REPLY_ASKED, VHK_REPLY_ACKED, VHK_REPLY_ALWAYS, VHK_REPLY_LOG_BASE };
enum vhk_scope { VHK_SCOPE_DEVICE, VHK_SCOPE_QUIESCED, VHK_SCOPE_RING, VHK_SCOPE_RING_BYTE };

struct vhk_wire_state;

/* Bits that a session must have (or not have) for a message to be legal. */
struct vhk_gate {
        uint64_t offered, virtio, protocol, without;
};

/* See messages.def for the columns. */
struct vhk_row {
        const char *name;
        uint8_t dir;                    /* enum vhk_dir */
        uint8_t phase;                  /* enum vhk_phase */
        uint8_t request, reply;         /* enum vhk_payload */
        uint8_t fds, reply_fds;         /* enum vhk_fds */
        uint8_t reply_rule;             /* enum vhk_reply_rule */
        uint8_t scope;                  /* enum vhk_scope */
        uint32_t id;
        struct vhk_gate gate;
        unsigned (*fields)(const struct vhk_wire_state *s, const void *payload, uint32_t size);  /* enum vhk_rule */
        const char *ioctl_twin, *witness;
};

/* All rows, in the order of messages.def. */
extern const struct vhk_row vhk_rows[];
extern const unsigned vhk_n_rows;
