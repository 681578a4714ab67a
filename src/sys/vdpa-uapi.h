/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The generic netlink family "vdpa" as numbers: commands and attributes. They are written down
 * here, like those of uapi.h, because a distribution's headers are older than the kernels that it
 * meets (Debian 12's have neither DEV_ATTR_SET nor the attributes of block devices; its attribute
 * 21 is another one, which is gone). src/sys/test-uapi.c compares with the headers that are there.
 * Source: include/uapi/linux/vdpa.h (up to 6.13).
 */
#pragma once

#define VHK_K_VDPA_GENL_NAME "vdpa"

enum vhk_k_vdpa_command {
        VHK_K_VDPA_CMD_MGMTDEV_NEW = 1,
        VHK_K_VDPA_CMD_MGMTDEV_GET = 2,
        VHK_K_VDPA_CMD_DEV_NEW = 3,
        VHK_K_VDPA_CMD_DEV_DEL = 4,
        VHK_K_VDPA_CMD_DEV_GET = 5,
        VHK_K_VDPA_CMD_DEV_CONFIG_GET = 6,
        VHK_K_VDPA_CMD_DEV_VSTATS_GET = 7,
        VHK_K_VDPA_CMD_DEV_ATTR_SET = 8,
};

enum vhk_k_vdpa_attr {
        VHK_K_VDPA_ATTR_MGMTDEV_BUS_NAME = 1,           /* string */
        VHK_K_VDPA_ATTR_MGMTDEV_DEV_NAME = 2,           /* string */
        VHK_K_VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES = 3,  /* u64 */
        VHK_K_VDPA_ATTR_DEV_NAME = 4,                   /* string */
        VHK_K_VDPA_ATTR_DEV_ID = 5,                     /* u32 */
        VHK_K_VDPA_ATTR_DEV_VENDOR_ID = 6,              /* u32 */
        VHK_K_VDPA_ATTR_DEV_MAX_VQS = 7,                /* u32 */
        VHK_K_VDPA_ATTR_DEV_MAX_VQ_SIZE = 8,            /* u16 */
        VHK_K_VDPA_ATTR_DEV_MIN_VQ_SIZE = 9,            /* u16 */
        VHK_K_VDPA_ATTR_DEV_NET_CFG_MACADDR = 10,       /* binary */
        VHK_K_VDPA_ATTR_DEV_NET_STATUS = 11,            /* u8 */
        VHK_K_VDPA_ATTR_DEV_NET_CFG_MAX_VQP = 12,       /* u16 */
        VHK_K_VDPA_ATTR_DEV_NET_CFG_MTU = 13,           /* u16 */
        VHK_K_VDPA_ATTR_DEV_NEGOTIATED_FEATURES = 14,   /* u64 */
        VHK_K_VDPA_ATTR_DEV_MGMTDEV_MAX_VQS = 15,       /* u32 */
        VHK_K_VDPA_ATTR_DEV_SUPPORTED_FEATURES = 16,    /* u64 */
        VHK_K_VDPA_ATTR_DEV_QUEUE_INDEX = 17,           /* u32 */
        VHK_K_VDPA_ATTR_DEV_VENDOR_ATTR_NAME = 18,      /* string */
        VHK_K_VDPA_ATTR_DEV_VENDOR_ATTR_VALUE = 19,     /* u64 */
        VHK_K_VDPA_ATTR_DEV_FEATURES = 20,              /* u64 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_CAPACITY = 21,      /* u64 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_SIZE_MAX = 22,      /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_BLK_SIZE = 23,      /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_SEG_MAX = 24,       /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_NUM_QUEUES = 25,    /* u16 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_PHY_BLK_EXP = 26,   /* u8 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_ALIGN_OFFSET = 27,  /* u8 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_MIN_IO_SIZE = 28,   /* u16 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_OPT_IO_SIZE = 29,   /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEC = 30,       /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEG = 31,       /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_DISCARD_SEC_ALIGN = 32,     /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEC = 33,  /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEG = 34,  /* u32 */
        VHK_K_VDPA_ATTR_DEV_BLK_READ_ONLY = 35,         /* u8 */
        VHK_K_VDPA_ATTR_DEV_BLK_FLUSH = 36,             /* u8 */
};
