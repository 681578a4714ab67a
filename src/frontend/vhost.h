/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The carriers of the kernel's own devices: vhost-net, vhost-vsock, vhost-scsi. What they share is in vhost.c (life, features, memory,
 * rings), vhost-log.c and vhost-iotlb.c; each has a file for what is its own. The kernel wants addresses of this process, so lent
 * memory is remembered with them; every ioctl goes through vhk_vhost_said(), for the trace and for the story of its failure.
 */
#pragma once

#include <vhostkit/sys.h>

#include "frontend/frontend.h"

struct vhk_dirty;
struct vhk_vhost;

/* What a device does in its own way. */
struct vhk_vhost_kind {
        const char *prefix, *node, *module;
        uint32_t virtio_id, capabilities;
        uint32_t n_queues;              /* 0: the kernel's configuration says */
        uint64_t keeps;                 /* features that are not the driver's business */
        /* Ring @i has been set up: go on where it was told to before, if it was. */
        int (*attach)(struct vhk_vhost *v, unsigned i);
        /* Ring @i is to stop: when this returns the kernel does not touch it. */
        int (*detach)(struct vhk_vhost *v, unsigned i);
};

struct vhk_vhost_ring {
        struct vhk_ring_setup setup;
        struct vhk_sys_ring_addr addr;  /* as the kernel knows it */
        bool started;
        bool needed;                    /* vsock, scsi: it was there when the device was told to begin */
        int kick_fd;                    /* ours, of a ring that was started: kicks before the device has begun are lost */
        int backend_fd;                 /* net: ours of the interface, -1: none */
};

struct vhk_vhost {
        struct vhk_frontend f;
        const struct vhk_vhost_kind *kind;
        char name[112];                 /* the node, for stories */
        int fd, epoll_fd;               /* the latter for vhk_frontend_get_fd() */
        bool is_v2;                     /* the form of IOTLB messages */
        struct vhk_sys_region *lent;    /* in order of guest address */
        unsigned n_lent;
        struct vhk_dirty *log;          /* NULL: none */
        bool logs_data;                 /* LOG_ALL is among the features */
        uint64_t own_features;          /* among them too, not the driver's */
        struct vhk_vhost_ring *rings;   /* info.n_queues of them */
        bool wanted, bound;             /* vsock, scsi: the device was told to begin; it has */
        char wwpn[224];                 /* scsi: the endpoint */
        uint16_t tpgt;
};

static inline struct vhk_vhost *vhk_vhost_of(struct vhk_frontend *f) {
        return vhk_container_of(f, struct vhk_vhost, f);
}

/* ---- vhost.c ---- */

int vhk_vhost_open(const struct vhk_vhost_kind *kind, const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f,
                   struct vhk_error *ret_e);
/* ioctl @name with what @format says gave @k: printed for a trace; a failure becomes the call's story. Returns @k. */
int vhk_vhost_said(struct vhk_vhost *v, int k, const char *name, const char *format, ...) VHK_PRINTF(4, 5);
int vhk_vhost_check_queue(struct vhk_vhost *v, unsigned i);             /* -EINVAL: there is no ring @i */
int vhk_vhost_send_features(struct vhk_vhost *v, uint64_t features);    /* the driver's; ours beside them */
bool vhk_vhost_has_iommu(const struct vhk_vhost *v);                    /* ACCESS_PLATFORM is in use */
/* Address of guest memory [gpa, gpa + len) in one lent region; -EFAULT. @arg: the struct vhk_vhost */
int vhk_vhost_find(void *arg, uint64_t gpa, uint64_t len, uint64_t *ret_uva);
/* Kicks of a ring that came before its device had begun were lost: one more. */
void vhk_vhost_kick(struct vhk_vhost *v, unsigned i);
/* For devices that begin as a whole: @begin once each ring is there that was there the first time, @end when the first of them stops. */
int vhk_vhost_begin_when_complete(struct vhk_vhost *v, int (*begin)(struct vhk_vhost *v));
int vhk_vhost_begin(struct vhk_vhost *v, int (*begin)(struct vhk_vhost *v));    /* now, and whenever it is complete again */

/* ---- vhost-log.c ---- */

/* Does the log, if there is one, cover @n regions? -EINVAL with the story. */
int vhk_vhost_check_log(struct vhk_vhost *v, const struct vhk_dirty *log, const struct vhk_sys_region *r, unsigned n);
int vhk_vhost_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size);
int vhk_vhost_set_log_fd(struct vhk_frontend *f, int fd);
int vhk_vhost_log_data(struct vhk_frontend *f, int on);
int vhk_vhost_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa);

/* ---- vhost-iotlb.c ---- */

/* All of lent memory, if guest addresses are I/O addresses; @old of before is forgotten. */
int vhk_vhost_tell_memory(struct vhk_vhost *v, const struct vhk_sys_region *old, unsigned n_old);
/* The used area of ring @i, which the kernel wants to write to as soon as it begins, and cannot ask for then. */
int vhk_vhost_tell_used(struct vhk_vhost *v, unsigned i, const struct vhk_ring_setup *s);
int vhk_vhost_serve_misses(struct vhk_vhost *v);                        /* number, or a negative errno */
int vhk_vhost_iotlb_update(struct vhk_frontend *f, const struct vhk_translation *t);
int vhk_vhost_iotlb_invalidate(struct vhk_frontend *f, uint64_t iova, uint64_t len);

/* ---- vhost-net.c, vhost-vsock.c, vhost-scsi.c ---- */

int vhk_vhost_net_set_backend(struct vhk_frontend *f, unsigned i, int fd);
int vhk_vhost_vsock_set_cid(struct vhk_frontend *f, uint64_t cid);
int vhk_vhost_vsock_set_running(struct vhk_frontend *f, int on);
int vhk_vhost_scsi_set_endpoint(struct vhk_frontend *f, const char *wwpn, uint16_t tpgt);
int vhk_vhost_scsi_clear_endpoint(struct vhk_frontend *f);
int vhk_vhost_scsi_get_abi_version(struct vhk_frontend *f, int *ret_version);
int vhk_vhost_scsi_set_events_missed(struct vhk_frontend *f, int on);
int vhk_vhost_scsi_get_events_missed(struct vhk_frontend *f, int *ret_on);
