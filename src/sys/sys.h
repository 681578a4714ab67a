/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What the wrappers of this room have in common: most are one of a few shapes, written as a row. Any thread. */
#pragma once

#include <vhostkit/sys.h>

#include "base/fd.h"
#include "sys/uapi.h"

static inline int vhk_sys_ioctl(int fd, unsigned long request, void *arg) {
        int k = ioctl(fd, request, arg);

        return k < 0 ? vhk_errno() : k;
}

/* 0 or a negative errno: no ioctl below but VDUSE's GET_FD says anything by a positive result. */
static inline int vhk_sys_call(int fd, unsigned long request, void *arg) {
        int k = vhk_sys_ioctl(fd, request, arg);

        return k < 0 ? k : 0;
}

#define VHK_SYS_PLAIN(name, request)                                                                            \
        VHK_API int name(int fd) {                                                                              \
                return vhk_sys_call(fd, request, NULL);                                                         \
        }
#define VHK_SYS_GET(name, request, type)                                                                        \
        VHK_API int name(int fd, type *ret) {                                                                   \
                type x = 0;                                                                                     \
                int k = vhk_sys_call(fd, request, &x);                                                          \
                                                                                                                \
                if (!k)                                                                                         \
                        *ret = x;                                                                               \
                return k;                                                                                       \
        }
#define VHK_SYS_SET(name, request, type)                                                                        \
        VHK_API int name(int fd, type x) {                                                                      \
                return vhk_sys_call(fd, request, &x);                                                           \
        }
#define VHK_SYS_SET2(name, request)             /* an index and a word */                                       \
        VHK_API int name(int fd, uint32_t i, uint32_t x) {                                                      \
                struct vhk_k_vring_state s = { .index = i, .num = x };                                          \
                                                                                                                \
                return vhk_sys_call(fd, request, &s);                                                           \
        }
#define VHK_SYS_GET2(name, request)                                                                             \
        VHK_API int name(int fd, uint32_t i, uint32_t *ret) {                                                   \
                struct vhk_k_vring_state s = { .index = i };                                                    \
                int k = vhk_sys_call(fd, request, &s);                                                          \
                                                                                                                \
                if (!k)                                                                                         \
                        *ret = s.num;                                                                           \
                return k;                                                                                       \
        }
#define VHK_SYS_FILE(name, request)                                                                             \
        VHK_API int name(int fd, uint32_t i, int file) {                                                        \
                struct vhk_k_vring_file s = { .index = i, .fd = file };                                         \
                                                                                                                \
                return vhk_sys_call(fd, request, &s);                                                           \
        }
