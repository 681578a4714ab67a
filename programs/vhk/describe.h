/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Who is on the other side: what was negotiated and what the configuration says, as text or as JSON. Used by `vhk probe`,
 * and by `vhk demo` for the negotiation.
 */
#pragma once

#include <vhostkit/frontend.h>

#include "json.h"

#define PEER_CONFIG_MAX 256

enum peer_how { PEER_UNKNOWN, PEER_TOLD, PEER_INFERRED };       /* how the device type came to be known */

struct peer {
        const char *endpoint;
        struct vhk_frontend_info info;
        uint32_t virtio_id;             /* 0: unknown */
        enum peer_how how;
        uint8_t config[PEER_CONFIG_MAX];
        unsigned config_len;            /* 0: there is none, or it could not be read */
};

/** peer_read() - ask @f everything; @virtio_id 0: infer it where that is reasonable. 0, or a negative errno when the connection is gone */
int peer_read(struct vhk_frontend *f, const char *endpoint, uint32_t virtio_id, struct peer *ret_p);
void peer_print(const struct peer *p, FILE *f);
void peer_print_json(const struct peer *p, FILE *f);
