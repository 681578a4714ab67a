/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Memory that two processes share beside guest memory: the in-flight record. Ours is a memfd that nobody can shrink; a
 * peer's is checked and guarded as regions of guest memory are. Any thread.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "base/error.h"
#include "mem/mapping.h"

int vhk_area_make(const char *name, uint64_t len, int *ret_fd, struct vhk_error *ret_e) {
        VHK_AUTOCLOSE int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0 || len > INT64_MAX || ftruncate(fd, (off_t)len) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
                int k = fd >= 0 && len > INT64_MAX ? -EFBIG : vhk_errno();
                return vhk_error_set(ret_e, k, "mem.area", "%llu bytes of shared memory are not to be had: %s", (unsigned long long)len, strerror(-k));
        }
        *ret_fd = VHK_STEAL_FD(fd);
        return 0;
}

int vhk_area_map(int fd, uint64_t offset, uint64_t len, struct vhk_mapping **ret_m, struct vhk_error *ret_e) {
        struct stat st;

        int k = vhk_mapping_check(fd, offset, len, &st, ret_e);
        return k < 0 ? k : vhk_mapping_new(fd, &st, offset, len, ret_m, ret_e);
}
