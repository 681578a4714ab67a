/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The vhost-vdpa carrier, in three files: vdpa-open.c finding a device and what it tells of itself, vdpa-memory.c what it may
 * reach, vdpa.c status, features, configuration and rings. One thread.
 *
 * An I/O address is the guest address of the lent memory, in each address space that a group of rings uses; so ring addresses go
 * as they come, and ACCESS_PLATFORM is between the carrier and the kernel.
 *
 * The status is the caller's once it has set one. Until then the carrier moves it: up to DRIVER with the features, FEATURES_OK
 * behind them, DRIVER_OK with the first ring; who has several rings sets it himself when all are there.
 *
 * Limits are looked at here, before the kernel: its answer to most mistakes is EFAULT, and the reason is in its log alone.
 */
#pragma once

#include <vhostkit/sys.h>

#include "frontend/frontend.h"

enum {                                  /* virtio 1.3, 2.1 */
        VHK_VD_DRIVER = 3,              /* ACKNOWLEDGE, DRIVER */
        VHK_VD_FEATURES_OK = 8,
        VHK_VD_DRIVER_OK = 4,
};

/* What the device may reach: lent memory, or what the caller mapped. */
struct vhk_vd_map {
        uint32_t asid, access;
        uint64_t iova, len, uva;
        uint64_t fd_offset, dev, ino;   /* of lent memory: other memory at the same place is not the same */
        bool is_lent;
};

struct vhk_vd_ring {
        uint32_t group, max_num;
        int kick_fd;                    /* our duplicate while it is started: it is kicked once the device runs */
        bool started;
};

struct vhk_vd {
        struct vhk_frontend f;
        char name[128];
        int fd, epoll_fd, config_fd;    /* the device, get_fd's, an eventfd of the kernel's */
        uint64_t hidden;                /* transport bits on offer that the carrier sets by itself */
        uint8_t status;                 /* as last set */
        bool status_is_callers, suspended;
        bool spent;                     /* a ring was stopped while the device ran on: without SUSPEND it begins anew with a reset only */
        struct vhk_vd_ring *rings;      /* info.n_queues */
        uint32_t *group_asid;           /* info.n_groups, at least one */
        struct vhk_vd_map *maps, *lent; /* @maps: what the kernel has; @lent: what it should have in each address space in use */
        unsigned n_maps, maps_room, n_lent;
        bool stale;                     /* @maps: the device was reset, and does not have them */
        bool in_batch;                  /* the caller's, in @batch_asid */
        uint32_t batch_asid;
};

static inline struct vhk_vd *vhk_vd_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vd, f);
}

static inline bool vhk_vd_has(const struct vhk_vd *v, unsigned bit) {
        return v->f.info.carrier_acked & VHK_BIT(bit);
}

/* An ioctl's answer, with the story if it failed. */
int vhk_vd_said(struct vhk_vd *v, int k, const char *what);

/* ---- vdpa.c ---- */

int vhk_vd_put_status(struct vhk_vd *v, uint8_t status);        /* 0: everything that a reset means */
int vhk_vd_check_queue(struct vhk_vd *v, unsigned i);
extern const struct vhk_frontend_ops vhk_vd_ops;

/* ---- vdpa-open.c ---- */

void vhk_vd_close(struct vhk_frontend *f);

/* ---- vdpa-memory.c ---- */

int vhk_vd_set_memory(struct vhk_frontend *f, struct vhk_memory *m);
int vhk_vd_dma_map(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len, void *va, uint32_t access);
int vhk_vd_dma_unmap(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len);
int vhk_vd_dma_begin(struct vhk_frontend *f, uint32_t asid);
int vhk_vd_dma_end(struct vhk_frontend *f, uint32_t asid);
int vhk_vd_sync(struct vhk_vd *v);      /* makes it so that each address space in use has what is lent */
int vhk_vd_freshen(struct vhk_vd *v);   /* ... also after a reset, if the device has forgotten all */
void vhk_vd_unmap_all(struct vhk_vd *v);
bool vhk_vd_is_mapped(const struct vhk_vd *v, uint32_t asid, uint64_t iova, uint64_t len);
