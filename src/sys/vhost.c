/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* vhost's ioctls, those of its three devices, and its messages about translations; see <vhostkit/sys.h>. */
#include <fcntl.h>

#include "sys/sys.h"

enum {
        MOST_WORDS = 16,                /* of features; the kernel has 2 */
        MOST_REGIONS = 1 << 16,         /* its limit, a module's parameter, is below */
};

VHK_API int vhk_sys_vhost_open(const char *path, int *ret_fd) {
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

        if (fd < 0)
                return vhk_errno();
        *ret_fd = fd;
        return 0;
}

VHK_SYS_PLAIN(vhk_sys_vhost_set_owner, VHK_K_SET_OWNER)
VHK_SYS_PLAIN(vhk_sys_vhost_reset_owner, VHK_K_RESET_OWNER)
VHK_SYS_GET(vhk_sys_vhost_get_features, VHK_K_GET_FEATURES, uint64_t)
VHK_SYS_SET(vhk_sys_vhost_set_features, VHK_K_SET_FEATURES, uint64_t)
VHK_SYS_GET(vhk_sys_vhost_get_backend_features, VHK_K_GET_BACKEND_FEATURES, uint64_t)
VHK_SYS_SET(vhk_sys_vhost_set_backend_features, VHK_K_SET_BACKEND_FEATURES, uint64_t)
VHK_SYS_SET(vhk_sys_vhost_set_log_base, VHK_K_SET_LOG_BASE, uint64_t)
VHK_SYS_SET(vhk_sys_vhost_set_log_fd, VHK_K_SET_LOG_FD, int)
VHK_SYS_SET(vhk_sys_vhost_set_fork_from_owner, VHK_K_SET_FORK_FROM_OWNER, uint8_t)
VHK_SYS_GET(vhk_sys_vhost_get_fork_from_owner, VHK_K_GET_FORK_FROM_OWNER, uint8_t)
VHK_SYS_GET(vhk_sys_vhost_new_worker, VHK_K_NEW_WORKER, uint32_t)
VHK_SYS_SET(vhk_sys_vhost_free_worker, VHK_K_FREE_WORKER, uint32_t)
VHK_SYS_SET2(vhk_sys_vhost_attach_vring_worker, VHK_K_ATTACH_VRING_WORKER)
VHK_SYS_GET2(vhk_sys_vhost_get_vring_worker, VHK_K_GET_VRING_WORKER)
VHK_SYS_SET2(vhk_sys_vhost_set_vring_num, VHK_K_SET_VRING_NUM)
VHK_SYS_SET2(vhk_sys_vhost_set_vring_base, VHK_K_SET_VRING_BASE)
VHK_SYS_GET2(vhk_sys_vhost_get_vring_base, VHK_K_GET_VRING_BASE)
VHK_SYS_SET2(vhk_sys_vhost_set_vring_endian, VHK_K_SET_VRING_ENDIAN)
VHK_SYS_GET2(vhk_sys_vhost_get_vring_endian, VHK_K_GET_VRING_ENDIAN)
VHK_SYS_FILE(vhk_sys_vhost_set_vring_kick, VHK_K_SET_VRING_KICK)
VHK_SYS_FILE(vhk_sys_vhost_set_vring_call, VHK_K_SET_VRING_CALL)
VHK_SYS_FILE(vhk_sys_vhost_set_vring_err, VHK_K_SET_VRING_ERR)
VHK_SYS_SET2(vhk_sys_vhost_set_busyloop_timeout, VHK_K_SET_BUSYLOOP_TIMEOUT)
VHK_SYS_GET2(vhk_sys_vhost_get_busyloop_timeout, VHK_K_GET_BUSYLOOP_TIMEOUT)
VHK_SYS_FILE(vhk_sys_vhost_net_set_backend, VHK_K_NET_SET_BACKEND)
VHK_SYS_SET(vhk_sys_vhost_vsock_set_guest_cid, VHK_K_VSOCK_SET_GUEST_CID, uint64_t)
VHK_SYS_SET(vhk_sys_vhost_vsock_set_running, VHK_K_VSOCK_SET_RUNNING, int)
VHK_SYS_GET(vhk_sys_vhost_scsi_get_abi_version, VHK_K_SCSI_GET_ABI_VERSION, int)
VHK_SYS_SET(vhk_sys_vhost_scsi_set_events_missed, VHK_K_SCSI_SET_EVENTS_MISSED, uint32_t)
VHK_SYS_GET(vhk_sys_vhost_scsi_get_events_missed, VHK_K_SCSI_GET_EVENTS_MISSED, uint32_t)

VHK_API int vhk_sys_vhost_get_features_array(int fd, uint64_t *ret_words, unsigned n) {
        uint64_t a[1 + MOST_WORDS] = { n };     /* struct vhk_k_features_array */

        if (n > MOST_WORDS)
                return -E2BIG;
        int k = vhk_sys_call(fd, VHK_K_GET_FEATURES_ARRAY, a);
        if (!k)
                memcpy(ret_words, a + 1, n * sizeof(*a));
        return k;
}

VHK_API int vhk_sys_vhost_set_features_array(int fd, const uint64_t *words, unsigned n) {
        uint64_t a[1 + MOST_WORDS] = { n };

        if (n > MOST_WORDS)
                return -E2BIG;
        memcpy(a + 1, words, n * sizeof(*a));
        return vhk_sys_call(fd, VHK_K_SET_FEATURES_ARRAY, a);
}

VHK_API int vhk_sys_vhost_set_mem_table(int fd, const struct vhk_sys_region *regions, unsigned n) {
        if (n > MOST_REGIONS)
                return -E2BIG;
        VHK_AUTOFREE struct vhk_k_memory *m = calloc(1, sizeof(*m) + n * sizeof(*m->regions));
        if (!m)
                return -ENOMEM;
        m->n_regions = n;
        for (unsigned i = 0; i < n; i++)
                m->regions[i] = (struct vhk_k_region){ .gpa = regions[i].gpa, .len = regions[i].len, .uva = regions[i].uva };
        return vhk_sys_call(fd, VHK_K_SET_MEM_TABLE, m);
}

VHK_API int vhk_sys_vhost_set_vring_addr(int fd, const struct vhk_sys_ring_addr *a) {
        struct vhk_k_vring_addr k = {
                .index = a->index, .flags = a->flags, .desc = a->desc, .used = a->used, .avail = a->avail, .log = a->log,
        };

        return vhk_sys_call(fd, VHK_K_SET_VRING_ADDR, &k);
}

static int scsi_endpoint(int fd, unsigned long request, const char *wwpn, uint16_t tpgt) {
        struct vhk_k_scsi_target t = { .abi_version = 1, .tpgt = tpgt };
        size_t n = strlen(wwpn);

        if (n >= sizeof(t.wwpn))
                return -ENAMETOOLONG;
        memcpy(t.wwpn, wwpn, n);
        return vhk_sys_call(fd, request, &t);
}

VHK_API int vhk_sys_vhost_scsi_set_endpoint(int fd, const char *wwpn, uint16_t tpgt) {
        return scsi_endpoint(fd, VHK_K_SCSI_SET_ENDPOINT, wwpn, tpgt);
}

VHK_API int vhk_sys_vhost_scsi_clear_endpoint(int fd, const char *wwpn, uint16_t tpgt) {
        return scsi_endpoint(fd, VHK_K_SCSI_CLEAR_ENDPOINT, wwpn, tpgt);
}

VHK_API int vhk_sys_vhost_write_iotlb(int fd, int v2, const struct vhk_sys_iotlb *m) {
        struct vhk_k_iotlb k = {
                .version = v2 ? VHK_K_IOTLB_V2 : VHK_K_IOTLB_V1, .asid = v2 ? m->asid : 0,
                .iova = m->iova, .len = m->len, .uva = m->uva, .perm = m->perm, .type = m->type,
        };
        ssize_t n = vhk_write_fd(fd, &k, sizeof(k));

        return n < 0 ? (int)n : n == sizeof(k) ? 0 : -EIO;
}

VHK_API int vhk_sys_vhost_read_iotlb(int fd, struct vhk_sys_iotlb *ret_m) {
        struct vhk_k_iotlb k = { 0 };
        ssize_t n;

        do
                n = read(fd, &k, sizeof(k));
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : vhk_errno();
        if (n != sizeof(k) || (k.version != VHK_K_IOTLB_V1 && k.version != VHK_K_IOTLB_V2) ||
            k.type < VHK_SYS_IOTLB_MISS || k.type > VHK_SYS_IOTLB_BATCH_END || k.perm > 3)
                return -EBADMSG;
        *ret_m = (struct vhk_sys_iotlb){
                .iova = k.iova, .len = k.len, .uva = k.uva, .perm = k.perm, .type = k.type,
                .asid = k.version == VHK_K_IOTLB_V2 ? k.asid : 0,
        };
        return 1;
}
