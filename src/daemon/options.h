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

unsigned opt_distance(const char *a, size_t n_a, const char *b);        /* Levenshtein's, of two short words */
int opt_parse(const struct opt_group *groups, unsigned n_groups, int argc, char **argv, int *ret_n_rest, struct vhk_error *ret_e);

/* offers.c: "NAME,NAME..." for --@option, as protocol feature bits. -EINVAL, naming the nearest known one */
int dmn_offer_parse(const char *option, const char *list, uint64_t *ret_bits, struct vhk_error *ret_e);
/* "NAME,NAME..." for --quirk, as VHK_QUIRK_* bits. -EINVAL, naming those that there are */
int dmn_quirk_parse(const char *list, uint64_t *ret_bits, struct vhk_error *ret_e);
