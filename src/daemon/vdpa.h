/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * On and off the vDPA bus (--vduse). Both wait for the device's answers, which come from our own loop; and taking it off waits for
 * whoever has it open, perhaps for ever. So a child of ours does it, which was made before anything was opened and keeps the
 * privileges that we may drop. It ends with us; the device it leaves alone then, for a successor. All from control.
 */
#pragma once

#include <sys/types.h>
#include <vhostkit/error.h>
#include <vhostkit/worker.h>

#include "base/base.h"

enum dmn_vdpa_verb { DMN_VDPA_ADD, DMN_VDPA_DEL };

struct dmn_vdpa {
        pid_t child;                    /* 0: none */
        int fd;
        bool busy;
        struct vhk_watch *watch;
        void (*done)(void *arg, enum dmn_vdpa_verb verb, const struct vhk_error *e);    /* e->code 0, or a negative errno */
        void *arg;
};

/* Before there are threads. @fd is -1 in a struct that is not started */
int dmn_vdpa_start(struct dmn_vdpa *v, const char *name, struct vhk_error *ret_e);
/* The loop runs from now on: @done is called on it, once per dmn_vdpa_ask() */
int dmn_vdpa_watch(struct dmn_vdpa *v, struct vhk_worker *control, void (*done)(void *arg, enum dmn_vdpa_verb verb, const struct vhk_error *e),
                   void *arg);
void dmn_vdpa_ask(struct dmn_vdpa *v, enum dmn_vdpa_verb verb);
void dmn_vdpa_end(struct dmn_vdpa *v);
