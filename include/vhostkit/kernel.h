/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What only the kernel's devices can do: vhost-net, vhost-vsock, vhost-scsi and vhost-vdpa, as further calls on a front-end.
 *
 * The rules are those of <vhostkit/frontend.h>: one thread at a time, -EDEADLK from inside of callbacks, -EOPNOTSUPP without the
 * capability. Sources: Linux, include/uapi/linux/vhost.h and vhost_types.h.
 */
#ifndef VHOSTKIT_KERNEL_H
#define VHOSTKIT_KERNEL_H

#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * vhk_frontend_set_backend() - the tap, macvtap or packet socket whose frames go through ring @i of a vhost-net
 * @fd: stays the caller's, who may close it behind the call; -1: none any more
 *
 * The ring must have been started (-EFAULT from the kernel otherwise). A ring that is stopped lets go of it, and takes it again when it is
 * started. A tap must have a virtio header of 12 bytes (TUNSETVNETHDRSZ); a packet socket needs none. Needs VHK_CAP_BACKEND_FD. -EBADFD,
 * -ENOTSOCK: not a descriptor of that kind; -EINVAL: a header of another size, or one ring's interface has one and the other's not.
 */
int vhk_frontend_set_backend(struct vhk_frontend *f, unsigned i, int fd);

/** vhk_frontend_vsock_set_cid() - the guest's address, 3 to 2^32 - 2: -EINVAL; -EADDRINUSE: another guest has it. Needs VHK_CAP_VSOCK */
int vhk_frontend_vsock_set_cid(struct vhk_frontend *f, uint64_t cid);
/**
 * vhk_frontend_vsock_set_running() - let the device begin, once both rings were started (-EFAULT otherwise), or end
 *
 * When a ring is stopped the device ends, and begins again when both are started again. Needs VHK_CAP_VSOCK.
 */
int vhk_frontend_vsock_set_running(struct vhk_frontend *f, int on);

/**
 * vhk_frontend_scsi_set_endpoint() - the target that serves the rings, all of which were started
 * @wwpn: its name below /sys/kernel/config/target/vhost, "naa.5001405bd4e0d476" say; at most 223 bytes
 * @tpgt: its portal group
 *
 * When a ring is stopped the endpoint is cleared, and set again when all of them are started again. Needs VHK_CAP_SCSI. -ENODEV: no such
 * target, or it has no nexus; -EEXIST: one is set already; -EFAULT: no ring was started.
 */
int vhk_frontend_scsi_set_endpoint(struct vhk_frontend *f, const char *wwpn, uint16_t tpgt);
int vhk_frontend_scsi_clear_endpoint(struct vhk_frontend *f);
int vhk_frontend_scsi_get_abi_version(struct vhk_frontend *f, int *ret_version);
/** vhk_frontend_scsi_set_events_missed() - has an event found no buffer? The next one says so, and the mark is taken away */
int vhk_frontend_scsi_set_events_missed(struct vhk_frontend *f, int on);
int vhk_frontend_scsi_get_events_missed(struct vhk_frontend *f, int *ret_on);

/** vhk_frontend_get_queue_group() - rings of a group share an address space. Needs VHK_CAP_GROUPS */
int vhk_frontend_get_queue_group(struct vhk_frontend *f, unsigned i, uint32_t *ret_group);
/** vhk_frontend_set_group_asid() - the address space of @group, below vhk_frontend_info.n_address_spaces; before DRIVER_OK */
int vhk_frontend_set_group_asid(struct vhk_frontend *f, uint32_t group, uint32_t asid);
/**
 * vhk_frontend_dma_map() - let the device reach @len bytes at @va under @iova
 * @asid: address space, 0 where the device has one
 * @access: VHK_ACCESS_*
 *
 * Beside what vhk_frontend_set_memory() maps. Needs VHK_CAP_DMA. -EINVAL: not whole pages, no such address space, another one's batch; -ERANGE:
 * outside of vhk_frontend_info.iova_first and iova_last; -EEXIST: some of it is mapped; -ENOMEM: more than RLIMIT_MEMLOCK; -EFAULT: the
 * kernel took it not (the reason is in its log).
 */
int vhk_frontend_dma_map(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len, void *va, uint32_t access);
/** vhk_frontend_dma_unmap() - undo one vhk_frontend_dma_map(). -ENOENT: not exactly one of these */
int vhk_frontend_dma_unmap(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len);
/** vhk_frontend_dma_begin() - what is mapped and unmapped until vhk_frontend_dma_end() may take effect at once. They do not nest: -EINVAL */
int vhk_frontend_dma_begin(struct vhk_frontend *f, uint32_t asid);
int vhk_frontend_dma_end(struct vhk_frontend *f, uint32_t asid);

/** vhk_frontend_suspend() - the device does nothing any more, and keeps what it knows. Needs VHK_CAP_DEVICE_SUSPEND */
int vhk_frontend_suspend(struct vhk_frontend *f);
/** vhk_frontend_resume() - it goes on. Needs VHK_CAP_DEVICE_RESUME */
int vhk_frontend_resume(struct vhk_frontend *f);

/** vhk_frontend_new_worker() - another thread of the kernel for rings. Needs VHK_CAP_WORKERS, of Linux 6.5 and later */
int vhk_frontend_new_worker(struct vhk_frontend *f, uint32_t *ret_id);
/** vhk_frontend_free_worker() - end one that no ring is attached to (-EBUSY) */
int vhk_frontend_free_worker(struct vhk_frontend *f, uint32_t id);
/** vhk_frontend_attach_worker() - ring @i is served by that thread from now on */
int vhk_frontend_attach_worker(struct vhk_frontend *f, unsigned i, uint32_t id);
int vhk_frontend_get_worker(struct vhk_frontend *f, unsigned i, uint32_t *ret_id);

/** vhk_frontend_set_busyloop() - poll ring @i for so many microseconds before the thread sleeps. Needs VHK_CAP_BUSYLOOP */
int vhk_frontend_set_busyloop(struct vhk_frontend *f, unsigned i, uint32_t us);
int vhk_frontend_get_busyloop(struct vhk_frontend *f, unsigned i, uint32_t *ret_us);

#ifdef __cplusplus
}
#endif

#endif
