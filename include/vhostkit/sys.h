/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The kernel's side as it is: one call per ioctl of vhost (net, vsock, scsi), vhost-vdpa and VDUSE. No state and no policy,
 * any thread; <vhostkit/frontend.h> and <vhostkit/backend.h> are what programs use. Each returns 0 (a count or a descriptor
 * where it says so) or the kernel's negative errno; outputs are untouched on failure. Whole structs are zeroed before they are
 * filled, so no byte of the caller's stack reaches the kernel.
 *
 * Answers that any of them may give are not repeated below: -EBADF; -ENOTTY or -EINVAL or, on vhost and vhost-vdpa, -EFAULT and
 * -ENOBUFS for what this kernel does not know (an unknown number is taken for a ring's, so go by feature bits, not by trying);
 * -EPERM without vhk_sys_vhost_set_owner(); -ENOBUFS for a ring that is not there. Source: Linux include/uapi/linux/vhost.h,
 * vhost_types.h, vduse.h and drivers/vhost, drivers/vdpa/vdpa_user.
 */
#ifndef VHOSTKIT_SYS_H
#define VHOSTKIT_SYS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** struct vhk_sys_region - guest memory [@gpa, @gpa + @len) is at @uva of this process; all multiples of 4096 */
struct vhk_sys_region {
        uint64_t gpa, len, uva;
};

/**
 * struct vhk_sys_ring_addr - where ring @index is: addresses of this process (vhost), or I/O addresses (vhost-vdpa)
 * @flags: VHK_SYS_RING_F_LOG
 * @log: guest address of the used ring, for the dirty log; 0 without
 */
struct vhk_sys_ring_addr {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
};
#define VHK_SYS_RING_F_LOG      1u      /* writes to the used ring are logged */

/**
 * struct vhk_sys_iotlb - a message about translations
 * @iova, @len: I/O addresses
 * @uva: address of this process
 * @perm: 1 read, 2 write, 3 both
 * @type: VHK_SYS_IOTLB_*
 * @asid: address space; only version 2 of the message carries it
 */
struct vhk_sys_iotlb {
        uint64_t iova, len, uva;
        uint8_t perm, type;
        uint32_t asid;
};
enum {
        VHK_SYS_IOTLB_MISS = 1,                 /* from the kernel: answer with an update */
        VHK_SYS_IOTLB_UPDATE = 2,
        VHK_SYS_IOTLB_INVALIDATE = 3,
        VHK_SYS_IOTLB_ACCESS_FAIL = 4,
        VHK_SYS_IOTLB_BATCH_BEGIN = 5,          /* with VHK_SYS_BF_IOTLB_BATCH */
        VHK_SYS_IOTLB_BATCH_END = 6,
};

/** Bits of vhk_sys_vhost_get_backend_features() */
enum {
        VHK_SYS_BF_IOTLB_MSG_V2 = 1,            /* version 2 of struct vhk_sys_iotlb's message */
        VHK_SYS_BF_IOTLB_BATCH = 2,             /* BATCH_BEGIN and BATCH_END */
        VHK_SYS_BF_IOTLB_ASID = 3,              /* address spaces */
        VHK_SYS_BF_SUSPEND = 4,                 /* vhk_sys_vdpa_suspend() */
        VHK_SYS_BF_RESUME = 5,                  /* vhk_sys_vdpa_resume() */
        VHK_SYS_BF_ENABLE_AFTER_DRIVER_OK = 6,  /* rings may be enabled while the device runs */
        VHK_SYS_BF_DESC_ASID = 7,               /* vhk_sys_vdpa_get_vring_desc_group() */
        VHK_SYS_BF_IOTLB_PERSIST = 8,           /* mappings outlive a device reset */
};

/* vhost: any device */

/** vhk_sys_vhost_open() - a device node, read-write, close-on-exec, non-blocking. -ENOENT, -EACCES, -ENODEV, -EBUSY (vhost-vdpa: in use) */
int vhk_sys_vhost_open(const char *path, int *ret_fd);
/** vhk_sys_vhost_set_owner() - this process, once per descriptor; everything else comes after. -EBUSY (has an owner), -ENOMEM */
int vhk_sys_vhost_set_owner(int fd);
/** vhk_sys_vhost_reset_owner() - back to the state after open (net, vsock is not able to) */
int vhk_sys_vhost_reset_owner(int fd);
/** vhk_sys_vhost_get_features() - virtio feature bits on offer */
int vhk_sys_vhost_get_features(int fd, uint64_t *ret_features);
/** vhk_sys_vhost_set_features() - -EOPNOTSUPP or -EINVAL (bits not on offer), -EBUSY (vhost-vdpa: after FEATURES_OK), -EFAULT (log without memory) */
int vhk_sys_vhost_set_features(int fd, uint64_t features);
/** vhk_sys_vhost_get_features_array() - bits 0 to 64 * @n of vhost-net since Linux 6.17; words past the kernel's own are 0. -E2BIG if @n > 16 */
int vhk_sys_vhost_get_features_array(int fd, uint64_t *ret_words, unsigned n);
/** vhk_sys_vhost_set_features_array() - the same, set. -EOPNOTSUPP (bits not on offer), -E2BIG if @n > 16 */
int vhk_sys_vhost_set_features_array(int fd, const uint64_t *words, unsigned n);
/** vhk_sys_vhost_get_backend_features() - VHK_SYS_BF_* */
int vhk_sys_vhost_get_backend_features(int fd, uint64_t *ret_features);
/** vhk_sys_vhost_set_backend_features() - -EOPNOTSUPP, -EINVAL (bits not on offer, or ASID without MSG_V2) */
int vhk_sys_vhost_set_backend_features(int fd, uint64_t features);
/** vhk_sys_vhost_set_mem_table() - all of guest memory. -EINVAL (overlap), -EFAULT, -E2BIG (more than the kernel's limit, 64 by default) */
int vhk_sys_vhost_set_mem_table(int fd, const struct vhk_sys_region *regions, unsigned n);
/** vhk_sys_vhost_set_log_base() - the dirty log, a bit per 4096 bytes of guest memory, at @uva. -EFAULT */
int vhk_sys_vhost_set_log_base(int fd, uint64_t uva);
/** vhk_sys_vhost_set_log_fd() - an eventfd that is signalled at each write to the log; -1 unbinds */
int vhk_sys_vhost_set_log_fd(int fd, int event_fd);
/** vhk_sys_vhost_set_fork_from_owner() - before set_owner: 1, workers are the owner's tasks; 0, kernel threads. Linux 6.17. -EBUSY, -EINVAL */
int vhk_sys_vhost_set_fork_from_owner(int fd, uint8_t on);
int vhk_sys_vhost_get_fork_from_owner(int fd, uint8_t *ret_on);
/** vhk_sys_vhost_new_worker() - another thread of the kernel for rings (Linux 6.5). -ENOMEM, -EBUSY (too many) */
int vhk_sys_vhost_new_worker(int fd, uint32_t *ret_id);
/** vhk_sys_vhost_free_worker() - -ENODEV (no such worker), -EBUSY (rings are attached) */
int vhk_sys_vhost_free_worker(int fd, uint32_t id);
int vhk_sys_vhost_attach_vring_worker(int fd, uint32_t i, uint32_t id);
int vhk_sys_vhost_get_vring_worker(int fd, uint32_t i, uint32_t *ret_id);
/** vhk_sys_vhost_set_vring_num() - entries, a power of two up to 32768. -EINVAL, -EBUSY (the ring runs) */
int vhk_sys_vhost_set_vring_num(int fd, uint32_t i, uint32_t num);
/** vhk_sys_vhost_set_vring_addr() - -EFAULT, -EINVAL (alignment, not in the memory table), -EOPNOTSUPP (flags) */
int vhk_sys_vhost_set_vring_addr(int fd, const struct vhk_sys_ring_addr *a);
/** vhk_sys_vhost_set_vring_base() - split: the next available index; packed: avail | wrap << 15 | used << 16 | wrap << 31. -EBUSY, -EINVAL */
int vhk_sys_vhost_set_vring_base(int fd, uint32_t i, uint32_t base);
/** vhk_sys_vhost_get_vring_base() - in the form of set_vring_base; stop the ring first, this does not. -EOPNOTSUPP (vhost-vdpa: not suspended) */
int vhk_sys_vhost_get_vring_base(int fd, uint32_t i, uint32_t *ret_base);
/** vhk_sys_vhost_set_vring_endian() - 1: a legacy driver's ring is big endian; -ENOTTY where the kernel was built without. -EBUSY, -EINVAL */
int vhk_sys_vhost_set_vring_endian(int fd, uint32_t i, uint32_t big);
int vhk_sys_vhost_get_vring_endian(int fd, uint32_t i, uint32_t *ret_big);
/** vhk_sys_vhost_set_vring_kick() - an eventfd; -1 unbinds. -EBADF, -EINVAL (not an eventfd). So for call and err */
int vhk_sys_vhost_set_vring_kick(int fd, uint32_t i, int event_fd);
int vhk_sys_vhost_set_vring_call(int fd, uint32_t i, int event_fd);
int vhk_sys_vhost_set_vring_err(int fd, uint32_t i, int event_fd);
/** vhk_sys_vhost_set_busyloop_timeout() - microseconds that the kernel polls (vhost-net) */
int vhk_sys_vhost_set_busyloop_timeout(int fd, uint32_t i, uint32_t us);
int vhk_sys_vhost_get_busyloop_timeout(int fd, uint32_t i, uint32_t *ret_us);
/** vhk_sys_vhost_write_iotlb() - tells the kernel @m, as version 2 of the message if @v2 is set. -EFAULT for anything that is wrong with it */
int vhk_sys_vhost_write_iotlb(int fd, int v2, const struct vhk_sys_iotlb *m);
/** vhk_sys_vhost_read_iotlb() - what vhost-net asks (vhost-vdpa never: -EINVAL). 1; 0: nothing there; -EBADMSG. Waits on a blocking descriptor */
int vhk_sys_vhost_read_iotlb(int fd, struct vhk_sys_iotlb *ret_m);

/* vhost: net, vsock, scsi */

/** vhk_sys_vhost_net_set_backend() - ring @i works on a tap or packet socket; -1 unbinds. -ENOTSOCK, -EBADFD, -EFAULT (ring not set up) */
int vhk_sys_vhost_net_set_backend(int fd, uint32_t i, int backend_fd);
/** vhk_sys_vhost_vsock_set_guest_cid() - 3 to 2^32 - 2. -EINVAL, -EADDRINUSE (another guest has it) */
int vhk_sys_vhost_vsock_set_guest_cid(int fd, uint64_t cid);
/** vhk_sys_vhost_vsock_set_running() - 1: both rings are set up, go; 0: stop. -EFAULT (a ring is not set up) */
int vhk_sys_vhost_vsock_set_running(int fd, int on);
/** vhk_sys_vhost_scsi_set_endpoint() - the target @wwpn, at most 223 bytes: -ENAMETOOLONG. -EEXIST, -ENODEV (no such), -EFAULT (rings not set up) */
int vhk_sys_vhost_scsi_set_endpoint(int fd, const char *wwpn, uint16_t tpgt);
/** vhk_sys_vhost_scsi_clear_endpoint() - -ENODEV, -EINVAL (not the one that was set), -EFAULT */
int vhk_sys_vhost_scsi_clear_endpoint(int fd, const char *wwpn, uint16_t tpgt);
int vhk_sys_vhost_scsi_get_abi_version(int fd, int *ret_version);
int vhk_sys_vhost_scsi_set_events_missed(int fd, uint32_t on);
int vhk_sys_vhost_scsi_get_events_missed(int fd, uint32_t *ret_on);

/* vhost-vdpa */

int vhk_sys_vdpa_get_device_id(int fd, uint32_t *ret_virtio_id);
int vhk_sys_vdpa_get_status(int fd, uint8_t *ret_status);
/** vhk_sys_vdpa_set_status() - virtio's device status; 0 resets. -EINVAL (a bit taken away); what the device refuses stays unset */
int vhk_sys_vdpa_set_status(int fd, uint8_t status);
/** vhk_sys_vdpa_get_config() - @n bytes, all or nothing. -EINVAL (outside, or @n 0), -E2BIG (more than 4096) */
int vhk_sys_vdpa_get_config(int fd, uint32_t off, void *ret_buf, uint32_t n);
/** vhk_sys_vdpa_set_config() - -EINVAL, -E2BIG as above, -EOPNOTSUPP */
int vhk_sys_vdpa_set_config(int fd, uint32_t off, const void *buf, uint32_t n);
int vhk_sys_vdpa_set_vring_enable(int fd, uint32_t i, uint32_t on);
/** vhk_sys_vdpa_get_vring_num() - most entries of a ring */
int vhk_sys_vdpa_get_vring_num(int fd, uint16_t *ret_num);
/** vhk_sys_vdpa_get_vring_size() - entries of ring @i where the device has made up its mind; since Linux 6.8 */
int vhk_sys_vdpa_get_vring_size(int fd, uint32_t i, uint32_t *ret_num);
/** vhk_sys_vdpa_set_config_call() - an eventfd for changes of the configuration; -1 unbinds */
int vhk_sys_vdpa_set_config_call(int fd, int event_fd);
/** vhk_sys_vdpa_get_iova_range() - I/O addresses from @ret_first to @ret_last (both included) may be mapped */
int vhk_sys_vdpa_get_iova_range(int fd, uint64_t *ret_first, uint64_t *ret_last);
int vhk_sys_vdpa_get_config_size(int fd, uint32_t *ret_size);
int vhk_sys_vdpa_get_vqs_count(int fd, uint32_t *ret_n);
int vhk_sys_vdpa_get_group_num(int fd, uint32_t *ret_n);
int vhk_sys_vdpa_get_as_num(int fd, uint32_t *ret_n);
/** vhk_sys_vdpa_get_vring_group() - the group of ring @i. -EOPNOTSUPP, -ENOBUFS, -EIO */
int vhk_sys_vdpa_get_vring_group(int fd, uint32_t i, uint32_t *ret_group);
/** vhk_sys_vdpa_get_vring_desc_group() - the group of the ring's own memory. -EOPNOTSUPP, -EIO. With VHK_SYS_BF_DESC_ASID */
int vhk_sys_vdpa_get_vring_desc_group(int fd, uint32_t i, uint32_t *ret_group);
/** vhk_sys_vdpa_set_group_asid() - -EINVAL, -ENOBUFS (no such group or address space; newer kernels: after DRIVER_OK), -EOPNOTSUPP */
int vhk_sys_vdpa_set_group_asid(int fd, uint32_t group, uint32_t asid);
/** vhk_sys_vdpa_suspend() - the device stops; its rings' bases may be read. -EOPNOTSUPP */
int vhk_sys_vdpa_suspend(int fd);
int vhk_sys_vdpa_resume(int fd);

/* VDUSE: /dev/vduse/control */

int vhk_sys_vduse_open(int *ret_fd);
/** vhk_sys_vduse_get_api_version() - newest that the kernel speaks: 0, or 1 (groups and address spaces) */
int vhk_sys_vduse_get_api_version(int fd, uint64_t *ret_version);
/** vhk_sys_vduse_set_api_version() - -EINVAL (newer than the kernel's) */
int vhk_sys_vduse_set_api_version(int fd, uint64_t version);
/** Bits of vhk_sys_vduse_get_control_features() */
enum {
        VHK_SYS_VDUSE_F_QUEUE_READY = 0,        /* VHK_SYS_VDUSE_SET_VQ_READY is asked */
        VHK_SYS_VDUSE_F_SUSPEND = 1,            /* VHK_SYS_VDUSE_SUSPEND is asked */
};
/** vhk_sys_vduse_get_control_features() - what the kernel may ask of devices made over @fd; not virtio's bits. -ENOTTY before they existed */
int vhk_sys_vduse_get_control_features(int fd, uint64_t *ret_features);
int vhk_sys_vduse_set_control_features(int fd, uint64_t features);

/**
 * struct vhk_sys_vduse_config - a device
 * @name: at most 255 bytes
 * @features: virtio's, of these ACCESS_PLATFORM must be one
 * @vq_align: of a ring's areas, in bytes, a power of two up to the page size
 * @ngroups, @nas: 0 below version 1
 * @config, @config_size: its configuration space, 1 byte up to a page
 */
struct vhk_sys_vduse_config {
        const char *name;
        uint32_t vendor_id, device_id;
        uint64_t features;
        uint32_t vq_num, vq_align, ngroups, nas;
        const void *config;
        uint32_t config_size;
};
/** vhk_sys_vduse_create_dev() - -EEXIST, -EINVAL, -EPERM (this type of device), -ENAMETOOLONG, -E2BIG */
int vhk_sys_vduse_create_dev(int fd, const struct vhk_sys_vduse_config *c);
/** vhk_sys_vduse_destroy_dev() - -EINVAL (no such), -EBUSY (open, or on the vDPA bus) */
int vhk_sys_vduse_destroy_dev(int fd, const char *name);

/* VDUSE: /dev/vduse/NAME */

/** vhk_sys_vduse_open_dev() - read-write, close-on-exec, non-blocking. -ENOENT, -EBUSY, -EINVAL (not a name), -ENAMETOOLONG */
int vhk_sys_vduse_open_dev(const char *name, int *ret_fd);

/** struct vhk_sys_vduse_iotlb - I/O addresses @first to @last (included) are at @offset of a descriptor; @perm: 1 read, 2 write, 3 both */
struct vhk_sys_vduse_iotlb {
        uint64_t offset, first, last;
        uint8_t perm;
};
/** vhk_sys_vduse_iotlb_get_fd() - the first mapping that overlaps [@e->first, @e->last], written back; *@ret_fd is the caller's. -EINVAL: none */
int vhk_sys_vduse_iotlb_get_fd(int fd, struct vhk_sys_vduse_iotlb *e, int *ret_fd);
/** vhk_sys_vduse_iotlb_get_fd2() - in one address space; version 1 */
int vhk_sys_vduse_iotlb_get_fd2(int fd, uint32_t asid, struct vhk_sys_vduse_iotlb *e, int *ret_fd);
/** vhk_sys_vduse_get_features() - what the driver chose, once FEATURES_OK is set. -EINVAL: not yet */
int vhk_sys_vduse_get_features(int fd, uint64_t *ret_features);
/** vhk_sys_vduse_set_config() - -EINVAL (outside), -E2BIG (more than 64 KiB) */
int vhk_sys_vduse_set_config(int fd, uint32_t off, const void *buf, uint32_t n);
/** vhk_sys_vduse_inject_config_irq() - the configuration has changed. -EINVAL before DRIVER_OK */
int vhk_sys_vduse_inject_config_irq(int fd);

/** struct vhk_sys_vduse_vq - ring @index has up to @max_size entries; @group is 0 below version 1 */
struct vhk_sys_vduse_vq {
        uint32_t index;
        uint16_t max_size;
        uint32_t group;
};
/** vhk_sys_vduse_vq_setup() - every ring, before the device gets on the bus. -EINVAL */
int vhk_sys_vduse_vq_setup(int fd, const struct vhk_sys_vduse_vq *q);

/** struct vhk_sys_vduse_vq_info - a ring as the driver set it up; addresses are I/O addresses; one of @split and @packed is filled */
struct vhk_sys_vduse_vq_info {
        uint32_t index, num;
        uint64_t desc, driver, device;
        struct {
                uint16_t avail;
        } split;
        struct {
                uint16_t avail, avail_wrap, used, used_wrap;
        } packed;
        uint8_t ready;
};
/** vhk_sys_vduse_vq_get_info() - of ring @i->index. -EINVAL */
int vhk_sys_vduse_vq_get_info(int fd, int is_packed, struct vhk_sys_vduse_vq_info *i);
/** vhk_sys_vduse_vq_setup_kickfd() - an eventfd that the kernel signals; -1 unbinds. -EINVAL */
int vhk_sys_vduse_vq_setup_kickfd(int fd, uint32_t index, int kick_fd);
/** vhk_sys_vduse_vq_inject_irq() - the driver's interrupt. -EINVAL (no such ring, or not ready) */
int vhk_sys_vduse_vq_inject_irq(int fd, uint32_t index);

/** struct vhk_sys_vduse_umem - memory of this process in place of the kernel's bounce buffer, [@iova, @iova + @len); @asid is 0 below version 1 */
struct vhk_sys_vduse_umem {
        uint64_t uva, iova, len;
        uint32_t asid;
};
/** vhk_sys_vduse_iotlb_reg_umem() - -EINVAL, -EEXIST, -ENOMEM (RLIMIT_MEMLOCK), -ENOENT */
int vhk_sys_vduse_iotlb_reg_umem(int fd, const struct vhk_sys_vduse_umem *m);
int vhk_sys_vduse_iotlb_dereg_umem(int fd, const struct vhk_sys_vduse_umem *m);

/** struct vhk_sys_vduse_iova_info - of a range of I/O addresses, @last included; @asid is 0 below version 1 */
struct vhk_sys_vduse_iova_info {
        uint64_t first, last, capability;
        uint32_t asid;
};
#define VHK_SYS_VDUSE_IOVA_CAP_UMEM     1u      /* vhk_sys_vduse_iotlb_reg_umem() may replace it */
/** vhk_sys_vduse_iotlb_get_info() - the first range that overlaps [@i->first, @i->last] of @i->asid, written back. -EINVAL: none */
int vhk_sys_vduse_iotlb_get_info(int fd, struct vhk_sys_vduse_iova_info *i);

/**
 * struct vhk_sys_vduse_request - what the kernel asks of a device; each is answered with its @id
 * @type: VHK_SYS_VDUSE_*; one that is not known here has no other member set
 * @vq_index: of GET_VQ_STATE and SET_VQ_READY
 * @status: of SET_STATUS
 * @first, @last, @asid: of UPDATE_IOTLB: what is known of these I/O addresses (@last included) is over
 * @group, @asid: of SET_VQ_GROUP_ASID
 * @ready: of SET_VQ_READY
 */
struct vhk_sys_vduse_request {
        uint32_t type, id, vq_index;
        uint8_t status;
        uint64_t first, last;
        uint32_t asid, group, ready;
};
enum {
        VHK_SYS_VDUSE_GET_VQ_STATE = 0,
        VHK_SYS_VDUSE_SET_STATUS = 1,
        VHK_SYS_VDUSE_UPDATE_IOTLB = 2,
        VHK_SYS_VDUSE_SET_VQ_GROUP_ASID = 3,
        VHK_SYS_VDUSE_SET_VQ_READY = 4,
        VHK_SYS_VDUSE_SUSPEND = 5,
};
enum { VHK_SYS_VDUSE_OK = 0, VHK_SYS_VDUSE_FAILED = 1 };
/** vhk_sys_vduse_read_request() - read(2): 1; 0: nothing there; -EBADMSG. Waits on a blocking descriptor */
int vhk_sys_vduse_read_request(int fd, struct vhk_sys_vduse_request *ret_r);
/** vhk_sys_vduse_write_response() - write(2); @state is GET_VQ_STATE's answer (index and split or packed), else NULL. -ENOENT (no such request) */
int vhk_sys_vduse_write_response(int fd, uint32_t id, uint32_t result, const struct vhk_sys_vduse_vq_info *state, int is_packed);

#ifdef __cplusplus
}
#endif

#endif
