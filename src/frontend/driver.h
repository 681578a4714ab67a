/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What the drivers of this library need of a front-end beyond <vhostkit/frontend.h>. Same thread as
 * all calls of the front-end. */
#pragma once

#include <vhostkit/frontend.h>

#include "base/base.h"

/* A call fails, the connection lives: keeps the error for vhk_frontend_get_error(), returns
 * @code. */
int vhk_frontend_fail(struct vhk_frontend *f, int code, const char *rule, const char *format, ...) VHK_PRINTF(4, 5);
/* Has the connection ended permanently? */
bool vhk_frontend_is_final(const struct vhk_frontend *f);
/* ... then the error says again why. Returns -EPIPE. */
int vhk_frontend_fail_final(struct vhk_frontend *f);
/* Was vhk_frontend_set_features() successful? */
bool vhk_frontend_has_features(const struct vhk_frontend *f);
/* Generation of @m that the back-end knows; 0: it does not know @m. */
uint64_t vhk_frontend_shared_generation(const struct vhk_frontend *f, const struct vhk_memory *m);
