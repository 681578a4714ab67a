/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The kernel's interface as src/sys/uapi.h has it, against the headers of the kernel that are installed, whatever those have. */
#include <linux/vdpa.h>
#include <linux/vduse.h>
#include <linux/vhost.h>

#include "base/test.h"
#include "sys/sys.h"
#include "sys/vdpa-uapi.h"

#define SAME(ours, theirs)                                                                                              \
        do {                                                                                                            \
                unsigned long o_ = (unsigned long)(ours), t_ = (unsigned long)(theirs);                                 \
                CHECK_MSG(o_ == t_, "%s is 0x%lx, %s is 0x%lx", #ours, o_, #theirs, t_);                                \
                n_compared++;                                                                                           \
        } while (0)
#define AT(a, x, b, y) SAME(offsetof(struct a, x), offsetof(struct b, y))

static int n_compared;

TEST(vhost_numbers) {
        SAME(VHK_K_GET_FEATURES, VHOST_GET_FEATURES);
        SAME(VHK_K_SET_FEATURES, VHOST_SET_FEATURES);
        SAME(VHK_K_SET_OWNER, VHOST_SET_OWNER);
        SAME(VHK_K_RESET_OWNER, VHOST_RESET_OWNER);
        SAME(VHK_K_SET_MEM_TABLE, VHOST_SET_MEM_TABLE);
        SAME(VHK_K_SET_LOG_BASE, VHOST_SET_LOG_BASE);
        SAME(VHK_K_SET_LOG_FD, VHOST_SET_LOG_FD);
        SAME(VHK_K_SET_VRING_NUM, VHOST_SET_VRING_NUM);
        SAME(VHK_K_SET_VRING_ADDR, VHOST_SET_VRING_ADDR);
        SAME(VHK_K_SET_VRING_BASE, VHOST_SET_VRING_BASE);
        SAME(VHK_K_GET_VRING_BASE, VHOST_GET_VRING_BASE);
        SAME(VHK_K_SET_VRING_ENDIAN, VHOST_SET_VRING_ENDIAN);
        SAME(VHK_K_GET_VRING_ENDIAN, VHOST_GET_VRING_ENDIAN);
        SAME(VHK_K_SET_VRING_KICK, VHOST_SET_VRING_KICK);
        SAME(VHK_K_SET_VRING_CALL, VHOST_SET_VRING_CALL);
        SAME(VHK_K_SET_VRING_ERR, VHOST_SET_VRING_ERR);
        SAME(VHK_K_SET_BUSYLOOP_TIMEOUT, VHOST_SET_VRING_BUSYLOOP_TIMEOUT);
        SAME(VHK_K_GET_BUSYLOOP_TIMEOUT, VHOST_GET_VRING_BUSYLOOP_TIMEOUT);
        SAME(VHK_K_SET_BACKEND_FEATURES, VHOST_SET_BACKEND_FEATURES);
        SAME(VHK_K_GET_BACKEND_FEATURES, VHOST_GET_BACKEND_FEATURES);
        SAME(VHK_K_NET_SET_BACKEND, VHOST_NET_SET_BACKEND);
        SAME(VHK_K_SCSI_SET_ENDPOINT, VHOST_SCSI_SET_ENDPOINT);
        SAME(VHK_K_SCSI_CLEAR_ENDPOINT, VHOST_SCSI_CLEAR_ENDPOINT);
        SAME(VHK_K_SCSI_GET_ABI_VERSION, VHOST_SCSI_GET_ABI_VERSION);
        SAME(VHK_K_SCSI_SET_EVENTS_MISSED, VHOST_SCSI_SET_EVENTS_MISSED);
        SAME(VHK_K_SCSI_GET_EVENTS_MISSED, VHOST_SCSI_GET_EVENTS_MISSED);
        SAME(VHK_K_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_GUEST_CID);
        SAME(VHK_K_VSOCK_SET_RUNNING, VHOST_VSOCK_SET_RUNNING);
        SAME(VHK_SYS_RING_F_LOG, 1 << VHOST_VRING_F_LOG);
}

TEST(vdpa_netlink_numbers) {
        CHECK_STR(VHK_K_VDPA_GENL_NAME, VDPA_GENL_NAME);
        SAME(VHK_K_VDPA_CMD_MGMTDEV_NEW, VDPA_CMD_MGMTDEV_NEW);
        SAME(VHK_K_VDPA_CMD_MGMTDEV_GET, VDPA_CMD_MGMTDEV_GET);
        SAME(VHK_K_VDPA_CMD_DEV_NEW, VDPA_CMD_DEV_NEW);
        SAME(VHK_K_VDPA_CMD_DEV_DEL, VDPA_CMD_DEV_DEL);
        SAME(VHK_K_VDPA_CMD_DEV_GET, VDPA_CMD_DEV_GET);
        SAME(VHK_K_VDPA_CMD_DEV_CONFIG_GET, VDPA_CMD_DEV_CONFIG_GET);
        SAME(VHK_K_VDPA_CMD_DEV_VSTATS_GET, VDPA_CMD_DEV_VSTATS_GET);
        SAME(VHK_K_VDPA_ATTR_MGMTDEV_BUS_NAME, VDPA_ATTR_MGMTDEV_BUS_NAME);
        SAME(VHK_K_VDPA_ATTR_MGMTDEV_DEV_NAME, VDPA_ATTR_MGMTDEV_DEV_NAME);
        SAME(VHK_K_VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES, VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES);
        SAME(VHK_K_VDPA_ATTR_DEV_NAME, VDPA_ATTR_DEV_NAME);
        SAME(VHK_K_VDPA_ATTR_DEV_ID, VDPA_ATTR_DEV_ID);
        SAME(VHK_K_VDPA_ATTR_DEV_VENDOR_ID, VDPA_ATTR_DEV_VENDOR_ID);
        SAME(VHK_K_VDPA_ATTR_DEV_MAX_VQS, VDPA_ATTR_DEV_MAX_VQS);
        SAME(VHK_K_VDPA_ATTR_DEV_MAX_VQ_SIZE, VDPA_ATTR_DEV_MAX_VQ_SIZE);
        SAME(VHK_K_VDPA_ATTR_DEV_MIN_VQ_SIZE, VDPA_ATTR_DEV_MIN_VQ_SIZE);
        SAME(VHK_K_VDPA_ATTR_DEV_NET_CFG_MACADDR, VDPA_ATTR_DEV_NET_CFG_MACADDR);
        SAME(VHK_K_VDPA_ATTR_DEV_NET_STATUS, VDPA_ATTR_DEV_NET_STATUS);
        SAME(VHK_K_VDPA_ATTR_DEV_NET_CFG_MAX_VQP, VDPA_ATTR_DEV_NET_CFG_MAX_VQP);
        SAME(VHK_K_VDPA_ATTR_DEV_NET_CFG_MTU, VDPA_ATTR_DEV_NET_CFG_MTU);
        SAME(VHK_K_VDPA_ATTR_DEV_NEGOTIATED_FEATURES, VDPA_ATTR_DEV_NEGOTIATED_FEATURES);
        SAME(VHK_K_VDPA_ATTR_DEV_MGMTDEV_MAX_VQS, VDPA_ATTR_DEV_MGMTDEV_MAX_VQS);
        SAME(VHK_K_VDPA_ATTR_DEV_SUPPORTED_FEATURES, VDPA_ATTR_DEV_SUPPORTED_FEATURES);
        SAME(VHK_K_VDPA_ATTR_DEV_QUEUE_INDEX, VDPA_ATTR_DEV_QUEUE_INDEX);
        SAME(VHK_K_VDPA_ATTR_DEV_VENDOR_ATTR_NAME, VDPA_ATTR_DEV_VENDOR_ATTR_NAME);
        SAME(VHK_K_VDPA_ATTR_DEV_VENDOR_ATTR_VALUE, VDPA_ATTR_DEV_VENDOR_ATTR_VALUE);
        SAME(VHK_K_VDPA_ATTR_DEV_FEATURES, VDPA_ATTR_DEV_FEATURES);
        /* newer than Debian 12's headers; the numbers are those of Linux 6.13 */
        CHECK_EQ(VHK_K_VDPA_CMD_DEV_ATTR_SET, 8);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_CAPACITY, 21);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_SIZE_MAX, 22);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_BLK_SIZE, 23);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_SEG_MAX, 24);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_NUM_QUEUES, 25);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_PHY_BLK_EXP, 26);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_ALIGN_OFFSET, 27);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_MIN_IO_SIZE, 28);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_OPT_IO_SIZE, 29);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEC, 30);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEG, 31);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_DISCARD_SEC_ALIGN, 32);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEC, 33);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEG, 34);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_READ_ONLY, 35);
        CHECK_EQ(VHK_K_VDPA_ATTR_DEV_BLK_FLUSH, 36);
}

TEST(vdpa_numbers) {
        SAME(VHK_K_VDPA_GET_DEVICE_ID, VHOST_VDPA_GET_DEVICE_ID);
        SAME(VHK_K_VDPA_GET_STATUS, VHOST_VDPA_GET_STATUS);
        SAME(VHK_K_VDPA_SET_STATUS, VHOST_VDPA_SET_STATUS);
        SAME(VHK_K_VDPA_GET_CONFIG, VHOST_VDPA_GET_CONFIG);
        SAME(VHK_K_VDPA_SET_CONFIG, VHOST_VDPA_SET_CONFIG);
        SAME(VHK_K_VDPA_SET_VRING_ENABLE, VHOST_VDPA_SET_VRING_ENABLE);
        SAME(VHK_K_VDPA_GET_VRING_NUM, VHOST_VDPA_GET_VRING_NUM);
        SAME(VHK_K_VDPA_SET_CONFIG_CALL, VHOST_VDPA_SET_CONFIG_CALL);
        SAME(VHK_K_VDPA_GET_IOVA_RANGE, VHOST_VDPA_GET_IOVA_RANGE);
        SAME(VHK_K_VDPA_GET_CONFIG_SIZE, VHOST_VDPA_GET_CONFIG_SIZE);
        SAME(VHK_K_VDPA_GET_VQS_COUNT, VHOST_VDPA_GET_VQS_COUNT);
        SAME(VHK_K_VDPA_GET_GROUP_NUM, VHOST_VDPA_GET_GROUP_NUM);
        SAME(VHK_K_VDPA_GET_AS_NUM, VHOST_VDPA_GET_AS_NUM);
        SAME(VHK_K_VDPA_GET_VRING_GROUP, VHOST_VDPA_GET_VRING_GROUP);
        SAME(VHK_K_VDPA_SET_GROUP_ASID, VHOST_VDPA_SET_GROUP_ASID);
        SAME(VHK_K_VDPA_SUSPEND, VHOST_VDPA_SUSPEND);
        SAME(VHK_SYS_BF_IOTLB_MSG_V2, VHOST_BACKEND_F_IOTLB_MSG_V2);
        SAME(VHK_SYS_BF_IOTLB_BATCH, VHOST_BACKEND_F_IOTLB_BATCH);
        SAME(VHK_SYS_BF_IOTLB_ASID, VHOST_BACKEND_F_IOTLB_ASID);
        SAME(VHK_SYS_BF_SUSPEND, VHOST_BACKEND_F_SUSPEND);
}

/* What came after Linux 6.1: compared where the headers know it, and always with the numbers as published. */
TEST(newer_numbers) {
        SAME(VHK_K_NEW_WORKER, 0x8004af08);
        SAME(VHK_K_FREE_WORKER, 0x4004af09);
        SAME(VHK_K_ATTACH_VRING_WORKER, 0x4008af15);
        SAME(VHK_K_GET_VRING_WORKER, 0xc008af16);
        SAME(VHK_K_VDPA_RESUME, 0xaf7e);
        SAME(VHK_K_VDPA_GET_VRING_DESC_GROUP, 0xc008af7f);
        SAME(VHK_K_VDPA_GET_VRING_SIZE, 0xc008af82);
        SAME(VHK_K_GET_FEATURES_ARRAY, 0x8008af83);
        SAME(VHK_K_SET_FEATURES_ARRAY, 0x4008af83);
        SAME(VHK_K_SET_FORK_FROM_OWNER, 0x4001af84);
        SAME(VHK_K_GET_FORK_FROM_OWNER, 0x8001af85);
        SAME(VHK_K_VDUSE_GET_FEATURES, 0x80088104);
        SAME(VHK_K_VDUSE_SET_FEATURES, 0x40088105);
        SAME(VHK_K_VDUSE_IOTLB_REG_UMEM, 0x40308118);
        SAME(VHK_K_VDUSE_IOTLB_DEREG_UMEM, 0x40308119);
        SAME(VHK_K_VDUSE_IOTLB_GET_INFO, 0xc030811a);
        SAME(VHK_K_VDUSE_IOTLB_GET_FD2, 0xc050811b);
#ifdef VHOST_NEW_WORKER
        SAME(VHK_K_NEW_WORKER, VHOST_NEW_WORKER);
        SAME(VHK_K_FREE_WORKER, VHOST_FREE_WORKER);
        SAME(VHK_K_ATTACH_VRING_WORKER, VHOST_ATTACH_VRING_WORKER);
        SAME(VHK_K_GET_VRING_WORKER, VHOST_GET_VRING_WORKER);
#endif
#ifdef VHOST_VDPA_RESUME
        SAME(VHK_K_VDPA_RESUME, VHOST_VDPA_RESUME);
#endif
#ifdef VHOST_VDPA_GET_VRING_DESC_GROUP
        SAME(VHK_K_VDPA_GET_VRING_DESC_GROUP, VHOST_VDPA_GET_VRING_DESC_GROUP);
#endif
#ifdef VHOST_VDPA_GET_VRING_SIZE
        SAME(VHK_K_VDPA_GET_VRING_SIZE, VHOST_VDPA_GET_VRING_SIZE);
#endif
#ifdef VHOST_GET_FEATURES_ARRAY
        SAME(VHK_K_GET_FEATURES_ARRAY, VHOST_GET_FEATURES_ARRAY);
        SAME(VHK_K_SET_FEATURES_ARRAY, VHOST_SET_FEATURES_ARRAY);
#endif
#ifdef VHOST_BACKEND_F_RESUME
        SAME(VHK_SYS_BF_RESUME, VHOST_BACKEND_F_RESUME);
        SAME(VHK_SYS_BF_ENABLE_AFTER_DRIVER_OK, VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
#endif
#ifdef VHOST_BACKEND_F_DESC_ASID
        SAME(VHK_SYS_BF_DESC_ASID, VHOST_BACKEND_F_DESC_ASID);
        SAME(VHK_SYS_BF_IOTLB_PERSIST, VHOST_BACKEND_F_IOTLB_PERSIST);
#endif
#ifdef VDUSE_IOTLB_REG_UMEM
        SAME(VHK_K_VDUSE_IOTLB_REG_UMEM, VDUSE_IOTLB_REG_UMEM);
        SAME(VHK_K_VDUSE_IOTLB_DEREG_UMEM, VDUSE_IOTLB_DEREG_UMEM);
        SAME(VHK_K_VDUSE_IOTLB_GET_INFO, VDUSE_IOTLB_GET_INFO);
#endif
#ifdef VDUSE_IOTLB_GET_FD2
        SAME(VHK_K_VDUSE_IOTLB_GET_FD2, VDUSE_IOTLB_GET_FD2);
#endif
#ifdef VDUSE_F_SUSPEND
        SAME(VHK_K_VDUSE_GET_FEATURES, VDUSE_GET_FEATURES);
        SAME(VHK_K_VDUSE_SET_FEATURES, VDUSE_SET_FEATURES);
        SAME(VHK_SYS_VDUSE_F_QUEUE_READY, VDUSE_F_QUEUE_READY);
        SAME(VHK_SYS_VDUSE_F_SUSPEND, VDUSE_F_SUSPEND);
        SAME(VHK_SYS_VDUSE_SET_VQ_READY, VDUSE_SET_VQ_READY);
        SAME(VHK_SYS_VDUSE_SUSPEND, VDUSE_SUSPEND);
#endif
}

TEST(vduse_numbers) {
        SAME(VHK_K_VDUSE_GET_API_VERSION, VDUSE_GET_API_VERSION);
        SAME(VHK_K_VDUSE_SET_API_VERSION, VDUSE_SET_API_VERSION);
        SAME(VHK_K_VDUSE_CREATE_DEV, VDUSE_CREATE_DEV);
        SAME(VHK_K_VDUSE_DESTROY_DEV, VDUSE_DESTROY_DEV);
        SAME(VHK_K_VDUSE_IOTLB_GET_FD, VDUSE_IOTLB_GET_FD);
        SAME(VHK_K_VDUSE_DEV_GET_FEATURES, VDUSE_DEV_GET_FEATURES);
        SAME(VHK_K_VDUSE_DEV_SET_CONFIG, VDUSE_DEV_SET_CONFIG);
        SAME(VHK_K_VDUSE_INJECT_CONFIG_IRQ, VDUSE_DEV_INJECT_CONFIG_IRQ);
        SAME(VHK_K_VDUSE_VQ_SETUP, VDUSE_VQ_SETUP);
        SAME(VHK_K_VDUSE_VQ_GET_INFO, VDUSE_VQ_GET_INFO);
        SAME(VHK_K_VDUSE_VQ_SETUP_KICKFD, VDUSE_VQ_SETUP_KICKFD);
        SAME(VHK_K_VDUSE_VQ_INJECT_IRQ, VDUSE_VQ_INJECT_IRQ);
        SAME(VHK_SYS_VDUSE_GET_VQ_STATE, VDUSE_GET_VQ_STATE);
        SAME(VHK_SYS_VDUSE_SET_STATUS, VDUSE_SET_STATUS);
        SAME(VHK_SYS_VDUSE_UPDATE_IOTLB, VDUSE_UPDATE_IOTLB);
        SAME(VHK_SYS_VDUSE_OK, VDUSE_REQ_RESULT_OK);
        SAME(VHK_SYS_VDUSE_FAILED, VDUSE_REQ_RESULT_FAILED);
        SAME(VHK_K_VDUSE_NAME, VDUSE_NAME_MAX);
}

TEST(vhost_layouts) {
        AT(vhk_k_vring_addr, desc, vhost_vring_addr, desc_user_addr);
        AT(vhk_k_vring_addr, used, vhost_vring_addr, used_user_addr);
        AT(vhk_k_vring_addr, avail, vhost_vring_addr, avail_user_addr);
        AT(vhk_k_vring_addr, log, vhost_vring_addr, log_guest_addr);
        SAME(sizeof(struct vhk_k_region), sizeof(struct vhost_memory_region));
        AT(vhk_k_region, gpa, vhost_memory_region, guest_phys_addr);
        AT(vhk_k_region, len, vhost_memory_region, memory_size);
        AT(vhk_k_region, uva, vhost_memory_region, userspace_addr);
        AT(vhk_k_memory, regions, vhost_memory, regions);
        AT(vhk_k_scsi_target, wwpn, vhost_scsi_target, vhost_wwpn);
        AT(vhk_k_scsi_target, tpgt, vhost_scsi_target, vhost_tpgt);
        SAME(sizeof(struct vhk_k_iotlb), sizeof(struct vhost_msg));
        SAME(sizeof(struct vhk_k_iotlb), sizeof(struct vhost_msg_v2));
        AT(vhk_k_iotlb, iova, vhost_msg, iotlb.iova);
        AT(vhk_k_iotlb, asid, vhost_msg_v2, asid);
        AT(vhk_k_iotlb, iova, vhost_msg_v2, iotlb.iova);
        AT(vhk_k_iotlb, len, vhost_msg_v2, iotlb.size);
        AT(vhk_k_iotlb, uva, vhost_msg_v2, iotlb.uaddr);
        AT(vhk_k_iotlb, perm, vhost_msg_v2, iotlb.perm);
        AT(vhk_k_iotlb, type, vhost_msg_v2, iotlb.type);
        SAME(VHK_K_IOTLB_V1, VHOST_IOTLB_MSG);
        SAME(VHK_K_IOTLB_V2, VHOST_IOTLB_MSG_V2);
        SAME(VHK_SYS_IOTLB_MISS, VHOST_IOTLB_MISS);
        SAME(VHK_SYS_IOTLB_UPDATE, VHOST_IOTLB_UPDATE);
        SAME(VHK_SYS_IOTLB_INVALIDATE, VHOST_IOTLB_INVALIDATE);
        SAME(VHK_SYS_IOTLB_ACCESS_FAIL, VHOST_IOTLB_ACCESS_FAIL);
        SAME(VHK_SYS_IOTLB_BATCH_BEGIN, VHOST_IOTLB_BATCH_BEGIN);
        SAME(VHK_SYS_IOTLB_BATCH_END, VHOST_IOTLB_BATCH_END);
}

TEST(vduse_layouts) {
        AT(vhk_k_vduse_config, vendor_id, vduse_dev_config, vendor_id);
        AT(vhk_k_vduse_config, features, vduse_dev_config, features);
        AT(vhk_k_vduse_config, vq_num, vduse_dev_config, vq_num);
        AT(vhk_k_vduse_config, config_size, vduse_dev_config, config_size);
        AT(vhk_k_vduse_config, config, vduse_dev_config, config);
        AT(vhk_k_vduse_iotlb, first, vduse_iotlb_entry, start);
        AT(vhk_k_vduse_iotlb, last, vduse_iotlb_entry, last);
        AT(vhk_k_vduse_iotlb, perm, vduse_iotlb_entry, perm);
        AT(vhk_k_vdpa_config, bytes, vduse_config_data, buffer);
        AT(vhk_k_vduse_vq, max_size, vduse_vq_config, max_size);
        AT(vhk_k_vduse_vq_info, desc, vduse_vq_info, desc_addr);
        AT(vhk_k_vduse_vq_info, driver, vduse_vq_info, driver_addr);
        AT(vhk_k_vduse_vq_info, device, vduse_vq_info, device_addr);
        AT(vhk_k_vduse_vq_info, base, vduse_vq_info, packed);
        AT(vhk_k_vduse_vq_info, ready, vduse_vq_info, ready);
        AT(vhk_k_vduse_vq_info, base.packed.avail, vduse_vq_info, packed.last_avail_idx);
        AT(vhk_k_vduse_vq_info, base.packed.avail_wrap, vduse_vq_info, packed.last_avail_counter);
        AT(vhk_k_vduse_vq_info, base.packed.used, vduse_vq_info, packed.last_used_idx);
        AT(vhk_k_vduse_vq_info, base.packed.used_wrap, vduse_vq_info, packed.last_used_counter);
        SAME(sizeof(struct vhk_k_vduse_request), sizeof(struct vduse_dev_request));
        AT(vhk_k_vduse_request, vq_index, vduse_dev_request, vq_state.index);
        AT(vhk_k_vduse_request, status, vduse_dev_request, s.status);
        AT(vhk_k_vduse_request, iova.first, vduse_dev_request, iova.start);
        SAME(sizeof(struct vhk_k_vduse_response), sizeof(struct vduse_dev_response));
        AT(vhk_k_vduse_response, state.index, vduse_dev_response, vq_state.index);
        AT(vhk_k_vduse_response, state.base, vduse_dev_response, vq_state.packed);
        printf("  %d numbers and offsets are the kernel's\n", n_compared);
}
