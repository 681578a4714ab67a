/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* vhost-vdpa's own ioctls; see <vhostkit/sys.h>. */
#include "sys/sys.h"

enum { MOST_CONFIG = 4096 };

VHK_SYS_GET(vhk_sys_vdpa_get_device_id, VHK_K_VDPA_GET_DEVICE_ID, uint32_t)
VHK_SYS_GET(vhk_sys_vdpa_get_status, VHK_K_VDPA_GET_STATUS, uint8_t)
VHK_SYS_SET(vhk_sys_vdpa_set_status, VHK_K_VDPA_SET_STATUS, uint8_t)
VHK_SYS_SET2(vhk_sys_vdpa_set_vring_enable, VHK_K_VDPA_SET_VRING_ENABLE)
VHK_SYS_GET(vhk_sys_vdpa_get_vring_num, VHK_K_VDPA_GET_VRING_NUM, uint16_t)
VHK_SYS_GET2(vhk_sys_vdpa_get_vring_size, VHK_K_VDPA_GET_VRING_SIZE)
VHK_SYS_SET(vhk_sys_vdpa_set_config_call, VHK_K_VDPA_SET_CONFIG_CALL, int)
VHK_SYS_GET(vhk_sys_vdpa_get_config_size, VHK_K_VDPA_GET_CONFIG_SIZE, uint32_t)
VHK_SYS_GET(vhk_sys_vdpa_get_vqs_count, VHK_K_VDPA_GET_VQS_COUNT, uint32_t)
VHK_SYS_GET(vhk_sys_vdpa_get_group_num, VHK_K_VDPA_GET_GROUP_NUM, uint32_t)
VHK_SYS_GET(vhk_sys_vdpa_get_as_num, VHK_K_VDPA_GET_AS_NUM, uint32_t)
VHK_SYS_GET2(vhk_sys_vdpa_get_vring_group, VHK_K_VDPA_GET_VRING_GROUP)
VHK_SYS_GET2(vhk_sys_vdpa_get_vring_desc_group, VHK_K_VDPA_GET_VRING_DESC_GROUP)
VHK_SYS_SET2(vhk_sys_vdpa_set_group_asid, VHK_K_VDPA_SET_GROUP_ASID)
VHK_SYS_PLAIN(vhk_sys_vdpa_suspend, VHK_K_VDPA_SUSPEND)
VHK_SYS_PLAIN(vhk_sys_vdpa_resume, VHK_K_VDPA_RESUME)

VHK_API int vhk_sys_vdpa_get_iova_range(int fd, uint64_t *ret_first, uint64_t *ret_last) {
        struct vhk_k_range r = { 0 };
        int k = vhk_sys_call(fd, VHK_K_VDPA_GET_IOVA_RANGE, &r);

        if (!k) {
                *ret_first = r.first;
                *ret_last = r.last;
        }
        return k;
}

VHK_API int vhk_sys_vdpa_get_config(int fd, uint32_t off, void *ret_buf, uint32_t n) {
        uint32_t c[2 + MOST_CONFIG / 4] = { off, n };   /* struct vhk_k_vdpa_config */

        if (n > MOST_CONFIG)
                return -E2BIG;
        int k = vhk_sys_call(fd, VHK_K_VDPA_GET_CONFIG, c);
        if (!k)
                memcpy(ret_buf, c + 2, n);
        return k;
}

VHK_API int vhk_sys_vdpa_set_config(int fd, uint32_t off, const void *buf, uint32_t n) {
        uint32_t c[2 + MOST_CONFIG / 4] = { off, n };

        if (n > MOST_CONFIG)
                return -E2BIG;
        memcpy(c + 2, buf, n);
        return vhk_sys_call(fd, VHK_K_VDPA_SET_CONFIG, c);
}
