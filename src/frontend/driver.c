/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* See driver.h. */
#include "frontend/frontend.h"

int vhk_frontend_fail_final(struct vhk_frontend *f) {
        f->error = f->end;
        f->error.code = -EPIPE;
        return -EPIPE;
}

bool vhk_frontend_has_features(const struct vhk_frontend *f) {
        return f->has_features;
}

uint64_t vhk_frontend_shared_generation(const struct vhk_frontend *f, const struct vhk_memory *m) {
        return f->shared_memory == m ? f->shared_generation : 0;
}
