/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Guest memory whose pages come when they are touched: userfaultfd(2), for postcopy. Whoever holds the descriptor gives the
 * pages; whoever touches one that has not come waits in the kernel until it has, or until the last descriptor is closed.
 */
#pragma once

#include <vhostkit/error.h>

#include "base/base.h"

struct vhk_memmap;

/* A descriptor for this process's memory, non-blocking, that catches faults of the kernel on our behalf too and knows shared
 * memory: from the system call, or from /dev/userfaultfd. Rule fault.open. */
int vhk_fault_open(int *ret_fd, struct vhk_error *ret_e);
/* Forgets the pages of @m that this process has seen, so that the next touch faults. */
int vhk_fault_prepare(const struct vhk_memmap *m, struct vhk_error *ret_e);
/* From now on missing pages of @m are asked for at @fd. Once more for what is registered already is legal. Rule fault.register. */
int vhk_fault_register(int fd, const struct vhk_memmap *m, struct vhk_error *ret_e);
