/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Command lines by table. Pure functions, but for the printing one. */
#pragma once

#include <vhostkit/daemon.h>

#include "base/base.h"

/* A table and the state it fills; a command line may have several. */
struct opt_group {
        const struct vhk_option *options;
        void *state;
};

int opt_parse(const struct opt_group *groups, unsigned n_groups, int argc, char **argv, int *ret_n_rest, struct vhk_error *ret_e);
