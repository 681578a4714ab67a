/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The kernel's interface as numbers and bytes, written down here because a distribution's headers are older than the kernels it
 * meets (Debian 12's are 6.1's). Each size and offset is asserted; src/sys/test-uapi.c compares with the headers that are there.
 * A number carries its argument's size, so a wrong struct is a wrong number. Sources: include/uapi/linux/vhost.h,
 * vhost_types.h (up to 6.17's features array and fork owner), vduse.h (up to QUEUE_READY and SUSPEND).
 */
#pragma once

#include <sys/ioctl.h>

#include "base/base.h"

struct vhk_k_vring_state {              /* also: two words that are an index and a worker, a group and an address space */
        uint32_t index, num;
};
struct vhk_k_vring_file {
        uint32_t index;
        int32_t fd;
};
struct vhk_k_vring_addr {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
};
struct vhk_k_region {
        uint64_t gpa, len, uva, flags_padding;
};
struct vhk_k_memory {
        uint32_t n_regions, padding;
        struct vhk_k_region regions[];
};
struct vhk_k_features_array {
        uint64_t count;
        uint64_t words[];
};
struct vhk_k_scsi_target {
        int32_t abi_version;
        char wwpn[224];
        uint16_t tpgt, reserved;
};
struct vhk_k_iotlb {                    /* v1: type is an int followed by padding; v2: two words */
        uint32_t version, asid;
        uint64_t iova, len, uva;
        uint8_t perm, type, padding[38];
};
enum { VHK_K_IOTLB_V1 = 1, VHK_K_IOTLB_V2 = 2 };
struct vhk_k_vdpa_config {
        uint32_t off, len;
        uint8_t bytes[];
};
struct vhk_k_range {
        uint64_t first, last;
};

static_assert(sizeof(struct vhk_k_vring_state) == 8 && offsetof(struct vhk_k_vring_state, num) == 4, "struct vhost_vring_state");
static_assert(sizeof(struct vhk_k_vring_file) == 8 && offsetof(struct vhk_k_vring_file, fd) == 4, "struct vhost_vring_file");
static_assert(sizeof(struct vhk_k_vring_addr) == 40 && offsetof(struct vhk_k_vring_addr, desc) == 8 &&
              offsetof(struct vhk_k_vring_addr, used) == 16 && offsetof(struct vhk_k_vring_addr, avail) == 24 &&
              offsetof(struct vhk_k_vring_addr, log) == 32, "struct vhost_vring_addr");
static_assert(sizeof(struct vhk_k_region) == 32 && offsetof(struct vhk_k_region, uva) == 16, "struct vhost_memory_region");
static_assert(sizeof(struct vhk_k_memory) == 8 && offsetof(struct vhk_k_memory, regions) == 8, "struct vhost_memory");
static_assert(sizeof(struct vhk_k_features_array) == 8, "struct vhost_features_array");
static_assert(sizeof(struct vhk_k_scsi_target) == 232 && offsetof(struct vhk_k_scsi_target, wwpn) == 4 &&
              offsetof(struct vhk_k_scsi_target, tpgt) == 228, "struct vhost_scsi_target");
static_assert(sizeof(struct vhk_k_iotlb) == 72 && offsetof(struct vhk_k_iotlb, iova) == 8 && offsetof(struct vhk_k_iotlb, uva) == 24 &&
              offsetof(struct vhk_k_iotlb, perm) == 32 && offsetof(struct vhk_k_iotlb, type) == 33, "struct vhost_msg_v2");
static_assert(sizeof(struct vhk_k_vdpa_config) == 8, "struct vhost_vdpa_config");
static_assert(sizeof(struct vhk_k_range) == 16, "struct vhost_vdpa_iova_range");

#define VHK_K(n) _IO(0xAF, n)
#define VHK_KR(n, type) _IOR(0xAF, n, type)
#define VHK_KW(n, type) _IOW(0xAF, n, type)
#define VHK_KWR(n, type) _IOWR(0xAF, n, type)
#define VHK_K_GET_FEATURES              VHK_KR(0x00, uint64_t)
#define VHK_K_SET_FEATURES              VHK_KW(0x00, uint64_t)
#define VHK_K_SET_OWNER                 VHK_K(0x01)
#define VHK_K_RESET_OWNER               VHK_K(0x02)
#define VHK_K_SET_MEM_TABLE             VHK_KW(0x03, struct vhk_k_memory)
#define VHK_K_SET_LOG_BASE              VHK_KW(0x04, uint64_t)
#define VHK_K_SET_LOG_FD                VHK_KW(0x07, int)
#define VHK_K_NEW_WORKER                VHK_KR(0x08, uint32_t)
#define VHK_K_FREE_WORKER               VHK_KW(0x09, uint32_t)
#define VHK_K_SET_VRING_NUM             VHK_KW(0x10, struct vhk_k_vring_state)
#define VHK_K_SET_VRING_ADDR            VHK_KW(0x11, struct vhk_k_vring_addr)
#define VHK_K_SET_VRING_BASE            VHK_KW(0x12, struct vhk_k_vring_state)
#define VHK_K_GET_VRING_BASE            VHK_KWR(0x12, struct vhk_k_vring_state)
#define VHK_K_SET_VRING_ENDIAN          VHK_KW(0x13, struct vhk_k_vring_state)
#define VHK_K_GET_VRING_ENDIAN          VHK_KW(0x14, struct vhk_k_vring_state)     /* writes all the same */
#define VHK_K_ATTACH_VRING_WORKER       VHK_KW(0x15, struct vhk_k_vring_state)
#define VHK_K_GET_VRING_WORKER          VHK_KWR(0x16, struct vhk_k_vring_state)
#define VHK_K_SET_VRING_KICK            VHK_KW(0x20, struct vhk_k_vring_file)
#define VHK_K_SET_VRING_CALL            VHK_KW(0x21, struct vhk_k_vring_file)
#define VHK_K_SET_VRING_ERR             VHK_KW(0x22, struct vhk_k_vring_file)
#define VHK_K_SET_BUSYLOOP_TIMEOUT      VHK_KW(0x23, struct vhk_k_vring_state)
#define VHK_K_GET_BUSYLOOP_TIMEOUT      VHK_KW(0x24, struct vhk_k_vring_state)     /* writes all the same */
#define VHK_K_SET_BACKEND_FEATURES      VHK_KW(0x25, uint64_t)
#define VHK_K_GET_BACKEND_FEATURES      VHK_KR(0x26, uint64_t)
#define VHK_K_NET_SET_BACKEND           VHK_KW(0x30, struct vhk_k_vring_file)
#define VHK_K_SCSI_SET_ENDPOINT         VHK_KW(0x40, struct vhk_k_scsi_target)
#define VHK_K_SCSI_CLEAR_ENDPOINT       VHK_KW(0x41, struct vhk_k_scsi_target)
#define VHK_K_SCSI_GET_ABI_VERSION      VHK_KW(0x42, int)                          /* writes all the same */
#define VHK_K_SCSI_SET_EVENTS_MISSED    VHK_KW(0x43, uint32_t)
#define VHK_K_SCSI_GET_EVENTS_MISSED    VHK_KW(0x44, uint32_t)                     /* writes all the same */
#define VHK_K_VSOCK_SET_GUEST_CID       VHK_KW(0x60, uint64_t)
#define VHK_K_VSOCK_SET_RUNNING         VHK_KW(0x61, int)
#define VHK_K_VDPA_GET_DEVICE_ID        VHK_KR(0x70, uint32_t)
#define VHK_K_VDPA_GET_STATUS           VHK_KR(0x71, uint8_t)
#define VHK_K_VDPA_SET_STATUS           VHK_KW(0x72, uint8_t)
#define VHK_K_VDPA_GET_CONFIG           VHK_KR(0x73, struct vhk_k_vdpa_config)
#define VHK_K_VDPA_SET_CONFIG           VHK_KW(0x74, struct vhk_k_vdpa_config)
#define VHK_K_VDPA_SET_VRING_ENABLE     VHK_KW(0x75, struct vhk_k_vring_state)
#define VHK_K_VDPA_GET_VRING_NUM        VHK_KR(0x76, uint16_t)
#define VHK_K_VDPA_SET_CONFIG_CALL      VHK_KW(0x77, int)
#define VHK_K_VDPA_GET_IOVA_RANGE       VHK_KR(0x78, struct vhk_k_range)
#define VHK_K_VDPA_GET_CONFIG_SIZE      VHK_KR(0x79, uint32_t)
#define VHK_K_VDPA_GET_AS_NUM           VHK_KR(0x7A, uint32_t)
#define VHK_K_VDPA_GET_VRING_GROUP      VHK_KWR(0x7B, struct vhk_k_vring_state)
#define VHK_K_VDPA_SET_GROUP_ASID       VHK_KW(0x7C, struct vhk_k_vring_state)
#define VHK_K_VDPA_SUSPEND              VHK_K(0x7D)
#define VHK_K_VDPA_RESUME               VHK_K(0x7E)
#define VHK_K_VDPA_GET_VRING_DESC_GROUP VHK_KWR(0x7F, struct vhk_k_vring_state)
#define VHK_K_VDPA_GET_VQS_COUNT        VHK_KR(0x80, uint32_t)
#define VHK_K_VDPA_GET_GROUP_NUM        VHK_KR(0x81, uint32_t)
#define VHK_K_VDPA_GET_VRING_SIZE       VHK_KWR(0x82, struct vhk_k_vring_state)
#define VHK_K_GET_FEATURES_ARRAY        VHK_KR(0x83, struct vhk_k_features_array)
#define VHK_K_SET_FEATURES_ARRAY        VHK_KW(0x83, struct vhk_k_features_array)
#define VHK_K_SET_FORK_FROM_OWNER       VHK_KW(0x84, uint8_t)
#define VHK_K_GET_FORK_FROM_OWNER       VHK_KR(0x85, uint8_t)

#define VHK_K_VDUSE_NAME 256
struct vhk_k_vduse_name {
        char name[VHK_K_VDUSE_NAME];
};
struct vhk_k_vduse_config {
        char name[VHK_K_VDUSE_NAME];
        uint32_t vendor_id, device_id;
        uint64_t features;
        uint32_t vq_num, vq_align, n_groups, n_as, reserved[11], config_size;
        uint8_t config[];
};
struct vhk_k_vduse_iotlb {
        uint64_t offset, first, last;
        uint8_t perm, padding[7];
};
struct vhk_k_vduse_iotlb2 {
        struct vhk_k_vduse_iotlb v1;
        uint32_t asid, reserved[11];
};
struct vhk_k_vduse_vq {
        uint32_t index;
        uint16_t max_size, reserved1;
        uint32_t group;
        uint16_t reserved2[10];
};
union vhk_k_vduse_base {                        /* in each union the largest member is first: that is what an initialiser zeroes */
        struct {
                uint16_t avail_wrap, avail, used_wrap, used;
        } packed;
        uint16_t split_avail;
};
struct vhk_k_vduse_vq_info {
        uint32_t index, num;
        uint64_t desc, driver, device;
        union vhk_k_vduse_base base;
        uint8_t ready, padding[7];
};
struct vhk_k_vduse_umem {
        uint64_t uva, iova, len;
        uint32_t asid, reserved[5];
};
struct vhk_k_vduse_iova_info {
        uint64_t first, last, capability;
        uint32_t asid, reserved[5];
};
struct vhk_k_vduse_request {
        uint32_t type, id, reserved[4];
        union {
                uint8_t padding[128];
                uint32_t vq_index;
                uint8_t status;
                struct {
                        uint64_t first, last;
                        uint32_t asid, padding;
                } iova;
                struct {
                        uint32_t group, asid;
                } group;
                struct {
                        uint32_t index, ready;
                } ready;
        };
};
struct vhk_k_vduse_response {
        uint32_t id, result, reserved[4];
        union {
                uint8_t padding[128];
                struct {
                        uint32_t index;
                        union vhk_k_vduse_base base;
                } state;
        };
};

static_assert(sizeof(struct vhk_k_vduse_config) == 336 && offsetof(struct vhk_k_vduse_config, features) == 264 &&
              offsetof(struct vhk_k_vduse_config, n_groups) == 280 && offsetof(struct vhk_k_vduse_config, config_size) == 332 &&
              offsetof(struct vhk_k_vduse_config, config) == 336, "struct vduse_dev_config");
static_assert(sizeof(struct vhk_k_vduse_iotlb) == 32 && offsetof(struct vhk_k_vduse_iotlb, perm) == 24, "struct vduse_iotlb_entry");
static_assert(sizeof(struct vhk_k_vduse_iotlb2) == 80 && offsetof(struct vhk_k_vduse_iotlb2, asid) == 32, "struct vduse_iotlb_entry_v2");
static_assert(sizeof(struct vhk_k_vduse_vq) == 32 && offsetof(struct vhk_k_vduse_vq, group) == 8, "struct vduse_vq_config");
static_assert(sizeof(union vhk_k_vduse_base) == 8, "union of split and packed state");
static_assert(sizeof(struct vhk_k_vduse_vq_info) == 48 && offsetof(struct vhk_k_vduse_vq_info, base) == 32 &&
              offsetof(struct vhk_k_vduse_vq_info, ready) == 40, "struct vduse_vq_info");
static_assert(sizeof(struct vhk_k_vduse_umem) == 48 && offsetof(struct vhk_k_vduse_umem, asid) == 24, "struct vduse_iova_umem");
static_assert(sizeof(struct vhk_k_vduse_iova_info) == 48 && offsetof(struct vhk_k_vduse_iova_info, asid) == 24, "struct vduse_iova_info");
static_assert(sizeof(struct vhk_k_vduse_request) == 152 && offsetof(struct vhk_k_vduse_request, iova) == 24, "struct vduse_dev_request");
static_assert(sizeof(struct vhk_k_vduse_response) == 152 && offsetof(struct vhk_k_vduse_response, state) == 24 &&
              offsetof(struct vhk_k_vduse_response, state.base) == 28, "struct vduse_dev_response");

#define VHK_VR(n, type) _IOR(0x81, n, type)
#define VHK_VW(n, type) _IOW(0x81, n, type)
#define VHK_VWR(n, type) _IOWR(0x81, n, type)
#define VHK_K_VDUSE_GET_API_VERSION     VHK_VR(0x00, uint64_t)
#define VHK_K_VDUSE_SET_API_VERSION     VHK_VW(0x01, uint64_t)
#define VHK_K_VDUSE_CREATE_DEV          VHK_VW(0x02, struct vhk_k_vduse_config)
#define VHK_K_VDUSE_DESTROY_DEV         VHK_VW(0x03, struct vhk_k_vduse_name)
#define VHK_K_VDUSE_GET_FEATURES        VHK_VR(0x04, uint64_t)
#define VHK_K_VDUSE_SET_FEATURES        VHK_VW(0x05, uint64_t)
#define VHK_K_VDUSE_IOTLB_GET_FD        VHK_VWR(0x10, struct vhk_k_vduse_iotlb)
#define VHK_K_VDUSE_DEV_GET_FEATURES    VHK_VR(0x11, uint64_t)
#define VHK_K_VDUSE_DEV_SET_CONFIG      VHK_VW(0x12, struct vhk_k_vdpa_config)
#define VHK_K_VDUSE_INJECT_CONFIG_IRQ   _IO(0x81, 0x13)
#define VHK_K_VDUSE_VQ_SETUP            VHK_VW(0x14, struct vhk_k_vduse_vq)
#define VHK_K_VDUSE_VQ_GET_INFO         VHK_VWR(0x15, struct vhk_k_vduse_vq_info)
#define VHK_K_VDUSE_VQ_SETUP_KICKFD     VHK_VW(0x16, struct vhk_k_vring_file)
#define VHK_K_VDUSE_VQ_INJECT_IRQ       VHK_VW(0x17, uint32_t)
#define VHK_K_VDUSE_IOTLB_REG_UMEM      VHK_VW(0x18, struct vhk_k_vduse_umem)
#define VHK_K_VDUSE_IOTLB_DEREG_UMEM    VHK_VW(0x19, struct vhk_k_vduse_umem)
#define VHK_K_VDUSE_IOTLB_GET_INFO      VHK_VWR(0x1a, struct vhk_k_vduse_iova_info)
#define VHK_K_VDUSE_IOTLB_GET_FD2       VHK_VWR(0x1b, struct vhk_k_vduse_iotlb2)
