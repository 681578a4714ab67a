/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What a driver of this room asks of a virtqueue beyond <vhostkit/drvq.h>: a ring in memory that the driver placed itself. */
#pragma once

#include <vhostkit/drvq.h>

#include "base/base.h"
#include "ring/ring.h"

struct vhk_drvq_place {
        void *mem;                      /* vhk_drvq_bytes() zeroed bytes of lent memory, 4096-aligned */
        uint16_t indirect_max;          /* entries of an indirect table; 0: none are used */
        bool strict;                    /* as in struct vhk_drvring_setup */
        uint64_t (*gpa)(void *arg, const void *va, uint64_t len);       /* guest address of lent memory, UINT64_MAX: not lent */
        void *gpa_arg;
};
size_t vhk_drvq_bytes(uint16_t num, uint16_t indirect_max);
int vhk_drvq_new_at(struct vhk_frontend *f, unsigned i, const struct vhk_drvq_options *o, const struct vhk_drvq_place *p, struct vhk_drvq **ret_q);
/* Did the device break the rules of the ring? Then vhk_drvq_add() and vhk_drvq_reap() are
 * -EPIPE. */
unsigned vhk_drvq_get_index(const struct vhk_drvq *q);
bool vhk_drvq_is_broken(const struct vhk_drvq *q);
/* vhk_drvq_add() with guest addresses that the driver knows */
int vhk_drvq_add_gpa(struct vhk_drvq *q, const struct vhk_drvring_buf *sg, unsigned n_out, unsigned n_in, void *cookie);
