/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Rows that this back-end does not serve. Their features are not offered, so most never get past their gate; those without
 * a gate get here. Either way the answer is the documented refusal (dispatch.c). A row leaves this list when its handler
 * is written. Control worker.
 */
#include "backend/session.h"

#define FRONTEND(id, name, phase, request, fds, fields, gate, reply, ...) \
        typedef struct vhk_p_##request request_##name; typedef struct vhk_p_##reply reply_##name;
#include "wire/messages.def"

#define ABSENT(name)                                                                                                    \
        int vhk_on_##name(struct vhk_backend *b, const request_##name *p, struct vhk_call *c, reply_##name *ret_reply) {        \
                return vhk_refuse(b, -EOPNOTSUPP, "backend.absent", "this back-end does not serve %s", #name);          \
        }

ABSENT(GPU_SET_SOCKET)
