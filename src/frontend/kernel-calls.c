/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The public calls of <vhostkit/kernel.h>: bracketed as those of frontend.c are, and handed over to the carrier. One thread at a time. */
#include <vhostkit/kernel.h>

#include "frontend/frontend.h"

#define CALL VHK_FRONTEND_CALL

VHK_API int vhk_frontend_set_backend(struct vhk_frontend *f, unsigned i, int fd) {
        CALL(f, VHK_CAP_BACKEND_FD, "network interface to bind to its rings", f->ops->set_backend(f, i, fd));
}

VHK_API int vhk_frontend_vsock_set_cid(struct vhk_frontend *f, uint64_t cid) {
        CALL(f, VHK_CAP_VSOCK, "vsock address", f->ops->vsock_set_cid(f, cid));
}

VHK_API int vhk_frontend_vsock_set_running(struct vhk_frontend *f, int on) {
        CALL(f, VHK_CAP_VSOCK, "vsock switch", f->ops->vsock_set_running(f, on));
}

VHK_API int vhk_frontend_scsi_set_endpoint(struct vhk_frontend *f, const char *wwpn, uint16_t tpgt) {
        CALL(f, VHK_CAP_SCSI, "SCSI endpoint", f->ops->scsi_set_endpoint(f, wwpn, tpgt));
}

VHK_API int vhk_frontend_scsi_clear_endpoint(struct vhk_frontend *f) {
        CALL(f, VHK_CAP_SCSI, "SCSI endpoint", f->ops->scsi_clear_endpoint(f));
}

VHK_API int vhk_frontend_scsi_get_abi_version(struct vhk_frontend *f, int *ret_version) {
        CALL(f, VHK_CAP_SCSI, "SCSI interface version", f->ops->scsi_get_abi_version(f, ret_version));
}

VHK_API int vhk_frontend_scsi_set_events_missed(struct vhk_frontend *f, int on) {
        CALL(f, VHK_CAP_SCSI, "SCSI events", f->ops->scsi_set_events_missed(f, on));
}

VHK_API int vhk_frontend_scsi_get_events_missed(struct vhk_frontend *f, int *ret_on) {
        CALL(f, VHK_CAP_SCSI, "SCSI events", f->ops->scsi_get_events_missed(f, ret_on));
}

VHK_API int vhk_frontend_get_queue_group(struct vhk_frontend *f, unsigned i, uint32_t *ret_group) {
        CALL(f, VHK_CAP_GROUPS, "groups of rings", f->ops->get_queue_group(f, i, ret_group));
}

VHK_API int vhk_frontend_set_group_asid(struct vhk_frontend *f, uint32_t group, uint32_t asid) {
        CALL(f, VHK_CAP_GROUPS, "groups of rings", f->ops->set_group_asid(f, group, asid));
}

VHK_API int vhk_frontend_dma_map(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len, void *va, uint32_t access) {
        CALL(f, VHK_CAP_DMA, "mappings of its own", f->ops->dma_map(f, asid, iova, len, va, access));
}

VHK_API int vhk_frontend_dma_unmap(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len) {
        CALL(f, VHK_CAP_DMA, "mappings of its own", f->ops->dma_unmap(f, asid, iova, len));
}

VHK_API int vhk_frontend_dma_begin(struct vhk_frontend *f, uint32_t asid) {
        CALL(f, VHK_CAP_DMA, "mappings of its own", f->ops->dma_begin(f, asid));
}

VHK_API int vhk_frontend_dma_end(struct vhk_frontend *f, uint32_t asid) {
        CALL(f, VHK_CAP_DMA, "mappings of its own", f->ops->dma_end(f, asid));
}

VHK_API int vhk_frontend_suspend(struct vhk_frontend *f) {
        CALL(f, VHK_CAP_DEVICE_SUSPEND, "way to be suspended", f->ops->suspend(f));
}

VHK_API int vhk_frontend_resume(struct vhk_frontend *f) {
        CALL(f, VHK_CAP_DEVICE_RESUME, "way to be resumed", f->ops->resume(f));
}

VHK_API int vhk_frontend_new_worker(struct vhk_frontend *f, uint32_t *ret_id) {
        CALL(f, VHK_CAP_WORKERS, "workers to choose", f->ops->new_worker(f, ret_id));
}

VHK_API int vhk_frontend_free_worker(struct vhk_frontend *f, uint32_t id) {
        CALL(f, VHK_CAP_WORKERS, "workers to choose", f->ops->free_worker(f, id));
}

VHK_API int vhk_frontend_attach_worker(struct vhk_frontend *f, unsigned i, uint32_t id) {
        CALL(f, VHK_CAP_WORKERS, "workers to choose", f->ops->attach_worker(f, i, id));
}

VHK_API int vhk_frontend_get_worker(struct vhk_frontend *f, unsigned i, uint32_t *ret_id) {
        CALL(f, VHK_CAP_WORKERS, "workers to choose", f->ops->get_worker(f, i, ret_id));
}

VHK_API int vhk_frontend_set_busyloop(struct vhk_frontend *f, unsigned i, uint32_t us) {
        CALL(f, VHK_CAP_BUSYLOOP, "busy polling", f->ops->set_busyloop(f, i, us));
}

VHK_API int vhk_frontend_get_busyloop(struct vhk_frontend *f, unsigned i, uint32_t *ret_us) {
        CALL(f, VHK_CAP_BUSYLOOP, "busy polling", f->ops->get_busyloop(f, i, ret_us));
}
