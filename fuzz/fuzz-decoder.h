/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What stands before the stream in an input of fuzz-decoder. */
#pragma once

#include "wire/wire.h"

struct fuzz_head {
        uint64_t features_offered, features, protocol_offered, protocol;
        uint16_t n_queues;
        uint8_t dir, phase, running;
        uint8_t n_fds, fd_every;        /* descriptors come with every so-manyth reception */
        uint8_t step;                   /* at most step + 1 bytes at once */
};
