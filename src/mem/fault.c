/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* userfaultfd(2) over the regions of a snapshot, see fault.h. Control worker; no page is touched here. */
#include "mem/fault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "mem/mapping.h"
#include "mem/mem.h"

#ifndef USERFAULTFD_IOC_NEW                     /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static int open_any(void) {
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0)
                return fd;
        VHK_AUTOCLOSE int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        return dev >= 0 ? ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK) : -1;
}

int vhk_fault_open(int *ret_fd, struct vhk_error *ret_e) {
        struct uffdio_api api = { .api = UFFD_API };
        VHK_AUTOCLOSE int fd = open_any();

        if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
                int k = vhk_errno();
                return vhk_error_set(ret_e, k, "fault.open", "userfaultfd is not to be had: %s", strerror(-k));
        }
        if (!(api.features & UFFD_FEATURE_MISSING_SHMEM))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "fault.open", "this kernel's userfaultfd does not know shared memory");
        *ret_fd = VHK_STEAL_FD(fd);
        return 0;
}

int vhk_fault_prepare(const struct vhk_memmap *m, struct vhk_error *ret_e) {
        for (uint32_t i = 0; i < m->n; i++) {
                const struct vhk_mapping *map = m->regs[i].mapping;
                madvise(map->base, map->size, MADV_NOHUGEPAGE);         /* a hint: pages come one by one */
                if (madvise(map->base, map->size, MADV_DONTNEED) < 0) {
                        int k = vhk_errno();
                        return vhk_error_set(ret_e, k, "fault.prepare", "madvise(2) on guest memory: %s", strerror(-k));
                }
        }
        return 0;
}

int vhk_fault_register(int fd, const struct vhk_memmap *m, struct vhk_error *ret_e) {
        for (uint32_t i = 0; i < m->n; i++) {
                const struct vhk_mapping *map = m->regs[i].mapping;
                struct uffdio_register r = { .range = { (uintptr_t)map->base, map->size }, .mode = UFFDIO_REGISTER_MODE_MISSING };
                if (ioctl(fd, UFFDIO_REGISTER, &r) < 0) {
                        int k = vhk_errno();
                        return vhk_error_set(ret_e, k, "fault.register", "userfaultfd does not take guest memory: %s", strerror(-k));
                }
        }
        return 0;
}
