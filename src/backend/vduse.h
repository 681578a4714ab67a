/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The carrier VDUSE, from inside: the kernel is the front-end, and brings its words as messages of a device node. Control worker,
 * unless stated. Source: Linux Documentation/userspace-api/vduse.rst.
 */
#pragma once

#include <vhostkit/sys.h>

#include "backend/session.h"

/* ---- vduse-record.c ---- */

/* What is true of a device from its making on; a successor has to be the same. */
struct vhk_vduse_identity {
        char name[256];
        uint32_t device_id, n_rings, config_len;
        uint32_t n_entries;             /* of the largest ring that is served */
        uint64_t features;
        uint8_t config[VHK_MAX_CONFIG];
};

/* The record: a file that outlives us. What it says of a ring is written and read at the ring's home (ring/inflight.h). */
struct vhk_vduse_record {
        char *path;
        struct vhk_mapping *mapping;
        uint16_t n_entries;             /* of each ring's part: a predecessor may have made it for smaller rings */
};

/* A new file, in place of one that is there; @path NULL: at its usual place. Rules vduse.record ... */
int vhk_vduse_record_make(struct vhk_vduse_record *r, const char *path, const struct vhk_vduse_identity *id, struct vhk_error *ret_e);
/* That of a predecessor, who made the same device. -ENOENT; -EEXIST: of another device; -EPROTO: no record of ours */
int vhk_vduse_record_take(struct vhk_vduse_record *r, const char *path, const struct vhk_vduse_identity *id, struct vhk_error *ret_e);
void vhk_vduse_record_close(struct vhk_vduse_record *r, bool remove);
uint64_t vhk_vduse_record_rings(void);                          /* offset of the rings' part */
bool vhk_vduse_record_is_running(const struct vhk_vduse_record *r);     /* the driver had said DRIVER_OK, and no reset has come since */
void vhk_vduse_record_set_running(struct vhk_vduse_record *r, bool on);
void vhk_vduse_record_set_config(struct vhk_vduse_record *r, const uint8_t *config, uint32_t n);
void vhk_vduse_record_wipe(struct vhk_vduse_record *r);         /* no ring is running: nothing is in flight */

/* ---- vduse.c ---- */

/* A ring's interrupt, and the wait for a driver that gets it ready later. */
struct vhk_vduse_ring {
        struct vhk_backend *b;
        uint32_t index;
        bool irq_due;                   /* shared (atomic, relaxed: the post orders): the kernel would not take it */
        unsigned n_tries;
        int late_fd;                    /* -1: not waited for */
        bool late_due;                  /* it was kicked while an answer was due */
        struct vhk_watch *late_watch;
};

struct vhk_vduse {
        struct vhk_vduse_identity id;
        int control_fd, fd;
        bool lent_control, lent_fd;     /* inherited: ours once the back-end is open */
        bool owns_lent;
        bool made;                      /* by us, just now: there is no predecessor */
        bool reset_pending;             /* what the driver has reset is forgotten when all rings have stopped, however late */
        bool undo_pending;              /* likewise a DRIVER_OK that failed, but memory and record stay */
        struct vhk_vduse_record record;
        struct vhk_watch *watch;
        struct vhk_sys_vduse_request request;   /* the token's */
        struct vhk_timer *irq_timer;
        struct vhk_post irq_post;
        struct vhk_vduse_ring *rings;
};

/* ---- vduse-memory.c ---- */

/* No translations at all. -ENOMEM */
int vhk_vduse_forget_memory(struct vhk_backend *b);
/* Maps the range that @iova lies in. 0: it may be accessed as @perm says; or a refusal. */
int vhk_vduse_fetch(struct vhk_backend *b, uint64_t iova, unsigned perm);
void vhk_vduse_missed(struct vhk_backend *b, unsigned i, uint64_t iova, unsigned perm);
/* [first, last] is not what it was: every ring goes over to what is there now, and is to be waited for until it has settled. */
int vhk_vduse_update(struct vhk_backend *b, uint64_t first, uint64_t last);
