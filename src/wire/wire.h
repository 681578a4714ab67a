/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The vhost-user protocol as data. Pure functions on bytes: no I/O, no memory map, no state of its own; so a fuzzer
 * needs no guest. messages.def has one row per message and is the only place where a message's number, payload,
 * descriptors, gate, reply and scope are written; payloads.def one per payload; features.def one per feature bit;
 * rules.def one per way to break the protocol.
 *
 * Source: vhost-user.rst of QEMU ("Vhost-user Protocol"); where the text and deployed peers differ, the rows follow the
 * peers, and docs/protocol-errata.md says why. Any thread.
 */
#pragma once

#include "base/base.h"

enum vhk_dir {
        VHK_FROM_FRONTEND,      /* requests on the main socket */
        VHK_FROM_BACKEND,       /* requests on the back-end channel */
        VHK_N_DIRS,
};

#define VHK_HDR_SIZE 12u
#define VHK_HDR_VERSION 1u
#define VHK_HDR_VERSION_MASK 3u
#define VHK_HDR_REPLY 4u
#define VHK_HDR_NEED_REPLY 8u

/* Native byte order, as on the wire. */
struct vhk_hdr {
        uint32_t request, flags, size;
};

#define VHK_MAX_FDS 32u                 /* most descriptors that any message carries */
#define VHK_FDS_LOST UINT32_MAX         /* as a message's number of descriptors: this process had no room for them */
#define VHK_MAX_CONFIG 256u             /* most bytes of configuration space in one message */

#include "wire/messages.h"              /* enum vhk_msg_id: VHK_FE_GET_FEATURES ..., VHK_BE_CONFIG_CHANGE_MSG ...: made from messages.def */
#include "wire/payloads.h"              /* struct vhk_p_u64 ..., with sizes and offsets asserted: made from payloads.def */
#include "wire/features.h"              /* VHK_F_..., VHK_PF_... bit numbers: made from features.def */
#include "wire/rules.h"                 /* enum vhk_rule: made from rules.def; VHK_RULE_OK is 0 */

#define VHK_MAX_PAYLOAD sizeof(union vhk_p_any)         /* the largest legal payload of all rows (2056) */

/* What the checks need to know of a session. */
struct vhk_wire_state {
        uint64_t features_offered, features;            /* virtio feature bits */
        uint64_t protocol_offered, protocol;            /* protocol feature bits */
        uint32_t n_queues;
        bool running;                                   /* some ring runs ("device with rings quiesced" rows) */
        bool log_reply_u64;                             /* SET_LOG_BASE is acknowledged like other messages (a quirk) */
        uint8_t phase;                                  /* enum vhk_phase: VHK_PHASE_NORMAL, VHK_PHASE_POSTCOPY_ACK ... */
};

struct vhk_row;                         /* one row of messages.def; fields in wire/messages.h */

const struct vhk_row *vhk_wire_row(enum vhk_dir dir, uint32_t id, uint8_t phase);      /* NULL: unknown */

/* The sentence-free identity of a rule ("wire.payload-size") and what it asks for. */
const char *vhk_rule_id(enum vhk_rule r);
const char *vhk_rule_text(enum vhk_rule r);

/* A request's header alone, as soon as its 12 bytes are there. A rule that is fatal (vhk_rule_is_fatal()): read nothing more
 * and close. Another one: the payload may still be read, and vhk_wire_check() will say the same of the whole message. */
enum vhk_rule vhk_wire_check_header(const struct vhk_wire_state *s, enum vhk_dir dir, const struct vhk_hdr *h);

/* A whole request: direction, version and flag bits, size (each variant), descriptors, gate, ring index, field rules.
 * *ret_row is set when the id is known, even if a rule is broken (then a refusal can still be sent). */
enum vhk_rule vhk_wire_check(const struct vhk_wire_state *s, enum vhk_dir dir, const struct vhk_hdr *h,
                             const void *payload, unsigned n_fds, const struct vhk_row **ret_row);

/* A reply to @req (which went in direction @dir): id, flags (exactly version | REPLY), size (each one deployed peers send), descriptors. */
enum vhk_rule vhk_wire_check_reply(const struct vhk_wire_state *s, enum vhk_dir dir, const struct vhk_hdr *req,
                                   const struct vhk_hdr *reply, const void *payload, unsigned n_fds);

/* Which answer does @h ask for? @row is NULL for an unknown message, which is acknowledged (with an error) when asked. */
enum vhk_answer {
        VHK_ANSWER_NONE,
        VHK_ANSWER_ACK,         /* a u64, 0 for success: NEED_REPLY and REPLY_ACK negotiated, or a row that is always acknowledged */
        VHK_ANSWER_REPLY,       /* the row's own reply */
};
enum vhk_answer vhk_wire_answer(const struct vhk_wire_state *s, const struct vhk_row *row, const struct vhk_hdr *h);

/* The reply of a row of its own that says no to @asked, into *ret_reply: its size (no descriptor
 * goes with it), or -1: the row has no such reply. For requests that broke a rule, too. */
int vhk_wire_refusal(const struct vhk_row *row, const struct vhk_hdr *asked, union vhk_p_any *ret_reply);

/* The ring that a message is about: -1 for the rows whose scope is not a ring. Only after vhk_wire_check(). */
int vhk_wire_ring(const struct vhk_row *row, const void *payload);

/* Region @i of a memory table or of a single region, in the longer form (Xen fields 0 where they are not on the wire). Only
 * after vhk_wire_check(). */
struct vhk_p_region_xen vhk_wire_region(uint64_t protocol, const void *payload, unsigned i);

/* Which protocol (virtio) features may be negotiated together: 0, or the rule broken by @protocol given @features. */
enum vhk_rule vhk_wire_check_protocol(uint64_t features, uint64_t protocol);

/* One line, "SET_VRING_NUM ring 0 num 128 (8 bytes, no fds)"; always terminated; returns the length. */
size_t vhk_wire_print(enum vhk_dir dir, const struct vhk_hdr *h, const void *payload, unsigned n_fds, char *buf, size_t size);

/* The stream: bytes and descriptors in, whole messages out. Descriptors that arrive with the first byte of a header
 * belong to that message; any others are surplus. Owns the descriptors it holds until the message is taken. */
struct vhk_decoder {
        uint8_t hdr[VHK_HDR_SIZE];
        uint8_t *payload;                               /* @room bytes: VHK_MAX_PAYLOAD, allocated at init */
        uint32_t room;
        uint32_t have;                                  /* bytes of header + payload that are there */
        int fds[VHK_MAX_FDS];
        uint8_t n_fds;
        bool surplus_fds;                               /* more descriptors than any message may have: they were closed */
        bool lost_fds;                                  /* set by the receiver: the kernel could not install them all (RLIMIT_NOFILE) */
        bool leaves_files;                              /* set by the owner: descriptors are closed with vhk_peer_close() */
};
int vhk_decoder_init(struct vhk_decoder *d);
void vhk_decoder_done(struct vhk_decoder *d);           /* closes what it holds */
/* How many bytes to receive at most now (never beyond the end of this message, so that descriptors stay with theirs):
 * header first, then the payload that the header announces. 0: a message is complete, or never will be because its header
 * announces more than there is room for (VHK_RULE_OVERSIZE: close). */
size_t vhk_decoder_want(const struct vhk_decoder *d);
/* Where they go. */
void *vhk_decoder_space(struct vhk_decoder *d);
/* @n bytes were put there; @fds (ownership moves) came with them. Returns 1 when the header has just become complete
 * (then check it before asking for more), 0 otherwise. */
int vhk_decoder_fed(struct vhk_decoder *d, size_t n, const int *fds, unsigned n_fds);
/* The header is there, its payload is not, and other protocols' is larger: room for it, which stays. -ENOMEM */
int vhk_decoder_reserve(struct vhk_decoder *d, uint32_t size);
bool vhk_decoder_complete(const struct vhk_decoder *d);
/* How many descriptors the peer sent with this message, as vhk_wire_check() wants to know it: more than VHK_MAX_FDS if some
 * were surplus, which no row allows; VHK_FDS_LOST. */
static inline unsigned vhk_decoder_n_fds(const struct vhk_decoder *d) {
        if (d->lost_fds)
                return VHK_FDS_LOST;
        return d->n_fds + (d->surplus_fds ? VHK_MAX_FDS + 1u : 0u);
}
struct vhk_hdr vhk_decoder_header(const struct vhk_decoder *d);
/* The message was handled: closes the descriptors that were not taken (set to -1), starts over. */
void vhk_decoder_next(struct vhk_decoder *d);
