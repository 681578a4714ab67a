/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The words of fuzz-display's scripts. */
#pragma once

enum display_op {
        DISPLAY_SCANOUT,        /* scanout, width (16 bits), height (16 bits) */
        DISPLAY_UPDATE,         /* scanout, x, y, width, height */
        DISPLAY_DMABUF,         /* scanout, width, how */
        DISPLAY_SHOW,           /* scanout */
        DISPLAY_CURSOR,         /* scanout, x, how */
        DISPLAY_ASK,            /* scanout, what */
        DISPLAY_REQUEST,        /* id, how, [flags], [size], payload: as if from the device */
        DISPLAY_ANSWER,         /* id, how, [flags], [size], payload: as if from the front-end */
        DISPLAY_BYTES,          /* which end, count, bytes */
        DISPLAY_TIME,           /* 2^n ns */
        DISPLAY_SERVE,          /* who */
        DISPLAY_END,            /* which end closes */
        DISPLAY_ANEW,           /* another socket, a reset */
        DISPLAY_N_OPS,
};

/* how, of a request and an answer */
#define DISPLAY_FLAGS 1u
#define DISPLAY_SIZE 2u
#define DISPLAY_FD 4u
#define DISPLAY_CUT 8u
