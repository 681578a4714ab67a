/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A kernel that has vhost-net, vhost-vsock and vhost-scsi, for tests: ioctl(2) is defined here, and knows the devices by the inode of their
 * descriptor (one end of a socket pair, whose other end reads and writes the messages about translations). It answers as Linux 6.1 does:
 * who may call, in which order, and what is wrong. One chosen call can be made to fail. Where a real one is to be had
 * (tests/kernel), it is what counts.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum mock_kind { MOCK_NET, MOCK_VSOCK, MOCK_SCSI };

struct mock_ring {
        uint32_t num, base;
        struct vhost_vring_addr addr;
        int kick, call, err;
        bool bound;             /* the kernel works on it */
        int backend;            /* net: the descriptor's number when it was bound */
};

static struct mock {
        enum mock_kind kind;
        int ours;               /* the other end */
        ino_t ino;
        bool owned, foreign;    /* has an owner; that is somebody else */
        unsigned n_rings;
        uint64_t offered, features, backend_offered, backend_features;
        unsigned n_regions;
        struct vhost_memory_region regions[64];
        struct mock_ring rings[160];
        uint64_t log_base, cid;
        int log_fd;
        bool running;
        const char *target;     /* that there is */
        bool has_endpoint;
        uint32_t events_missed, busyloop;
        /* faults */
        unsigned n_calls, fail_at;      /* the n-th call, from 1 on, fails */
        int fail_errno;
        unsigned long failed;           /* the request that did */
        /* what was seen */
        unsigned long order[4096];
} mock;

static const struct { unsigned long request; const char *name; } mock_names[] = {
#define N(x) { x, #x }
        N(VHOST_GET_FEATURES), N(VHOST_SET_FEATURES), N(VHOST_SET_OWNER), N(VHOST_SET_MEM_TABLE), N(VHOST_SET_LOG_BASE), N(VHOST_SET_LOG_FD),
        N(VHOST_SET_VRING_NUM), N(VHOST_SET_VRING_ADDR), N(VHOST_SET_VRING_BASE), N(VHOST_GET_VRING_BASE), N(VHOST_SET_VRING_ENDIAN),
        N(VHOST_GET_VRING_ENDIAN), N(VHOST_SET_VRING_KICK), N(VHOST_SET_VRING_CALL), N(VHOST_SET_VRING_ERR),
        N(VHOST_SET_VRING_BUSYLOOP_TIMEOUT), N(VHOST_GET_VRING_BUSYLOOP_TIMEOUT), N(VHOST_GET_BACKEND_FEATURES), N(VHOST_SET_BACKEND_FEATURES),
        N(VHOST_NET_SET_BACKEND), N(VHOST_VSOCK_SET_GUEST_CID), N(VHOST_VSOCK_SET_RUNNING), N(VHOST_SCSI_SET_ENDPOINT),
        N(VHOST_SCSI_CLEAR_ENDPOINT), N(VHOST_SCSI_GET_ABI_VERSION), N(VHOST_SCSI_SET_EVENTS_MISSED), N(VHOST_SCSI_GET_EVENTS_MISSED),
#undef N
};

static inline const char *mock_name(unsigned long request) {
        for (size_t i = 0; i < sizeof(mock_names) / sizeof(*mock_names); i++)
                if (mock_names[i].request == request)
                        return mock_names[i].name;
        return "unknown to Linux 6.1";
}

#define MOCK_FEATURES 0x13d000000ull    /* VERSION_1, EVENT_IDX, INDIRECT_DESC, ANY_LAYOUT, LOG_ALL, NOTIFY_ON_EMPTY */

/* Makes the device; its descriptor. */
static inline int mock_make(enum mock_kind kind) {
        int s[2];
        struct stat st;

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s) < 0 || fstat(s[0], &st) < 0)
                return -1;
        mock = (struct mock){ .kind = kind, .ours = s[1], .ino = st.st_ino, .n_rings = kind == MOCK_SCSI ? 130 : 2, .log_fd = -1, .target = "naa.5001",
                .offered = MOCK_FEATURES | (kind == MOCK_SCSI ? 1ull << 2 | 1ull << 1 : 1ull << 33) | (kind == MOCK_NET ? 1ull << 15 : 0) };
        mock.backend_offered = kind == MOCK_SCSI ? 0 : 1ull << 1;
        for (unsigned i = 0; i < mock.n_rings; i++)
                mock.rings[i].kick = mock.rings[i].call = mock.rings[i].err = mock.rings[i].backend = -1;
        return s[0];
}

static inline void mock_done(void) {
        close(mock.ours);
        mock.ours = -1;
        mock.ino = 0;
}

static inline unsigned mock_count(unsigned long request) {
        unsigned n = 0;

        for (unsigned i = 0; i < mock.n_calls && i < 4096; i++)
                n += mock.order[i] == request;
        return n;
}

static inline bool mock_within(uint64_t uva, uint64_t len) {
        for (unsigned i = 0; i < mock.n_regions; i++)
                if (uva >= mock.regions[i].userspace_addr && uva - mock.regions[i].userspace_addr <= mock.regions[i].memory_size &&
                    len <= mock.regions[i].memory_size - (uva - mock.regions[i].userspace_addr))
                        return true;
        return false;
}

static inline bool mock_ring_ok(const struct mock_ring *r) {
        if (mock.features & 1ull << 33)
                return r->num;
        return r->num && mock_within(r->addr.desc_user_addr, 16ull * r->num) && mock_within(r->addr.avail_user_addr, 6 + 2ull * r->num) &&
               mock_within(r->addr.used_user_addr, 6 + 8ull * r->num);
}

static inline bool mock_is_eventfd(int fd) {
        char path[40], to[40] = "";

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        return readlink(path, to, sizeof(to) - 1) > 0 && strstr(to, "eventfd");
}

static inline int mock_set_fd(int *slot, int fd) {
        if (fd != -1 && fcntl(fd, F_GETFD) < 0)
                return -EBADF;
        if (fd != -1 && !mock_is_eventfd(fd))
                return -EINVAL;
        *slot = fd;
        return 0;
}

static inline int mock_vring(unsigned long request, void *arg) {
        struct vhost_vring_state *s = arg;
        struct vhost_vring_file *file = arg;
        struct vhost_vring_addr *a = arg;

        if (s->index >= mock.n_rings)
                return -ENOBUFS;
        struct mock_ring *r = &mock.rings[s->index];
        switch (request) {
        case VHOST_SET_VRING_NUM:
                if (r->bound)
                        return -EBUSY;
                if (!s->num || s->num > 0xffff || (s->num & (s->num - 1)))
                        return -EINVAL;
                r->num = s->num;
                return 0;
        case VHOST_SET_VRING_BASE:
                if (r->bound)
                        return -EBUSY;
                r->base = s->num;
                return s->num > 0xffff ? -EINVAL : 0;
        case VHOST_GET_VRING_BASE:
                s->num = r->base;
                return 0;
        case VHOST_SET_VRING_ADDR:
                if (a->flags & ~1u)
                        return -EOPNOTSUPP;
                if (a->desc_user_addr % 16 || a->avail_user_addr % 2 || a->used_user_addr % 4 || a->log_guest_addr % 4)
                        return -EINVAL;
                r->addr = *a;
                return 0;
        case VHOST_SET_VRING_KICK:
                return mock_set_fd(&r->kick, file->fd);
        case VHOST_SET_VRING_CALL:
                return mock_set_fd(&r->call, file->fd);
        case VHOST_SET_VRING_ERR:
                return mock_set_fd(&r->err, file->fd);
        case VHOST_SET_VRING_BUSYLOOP_TIMEOUT:
                mock.busyloop = s->num;
                return 0;
        case VHOST_GET_VRING_BUSYLOOP_TIMEOUT:
                s->num = mock.busyloop;
                return 0;
        }
        return -ENOTTY;
}

static inline int mock_set_memory(const struct vhost_memory *m) {
        if (m->nregions > 64)
                return -E2BIG;
        if (m->padding)
                return -EOPNOTSUPP;
        mock.n_regions = m->nregions;
        memcpy(mock.regions, m->regions, m->nregions * sizeof(m->regions[0]));
        return 0;
}

static inline int mock_net_set_backend(const struct vhost_vring_file *file) {
        if (file->index >= 2)
                return -ENOBUFS;
        struct mock_ring *r = &mock.rings[file->index];
        if (file->fd != -1 && !mock_ring_ok(r))
                return -EFAULT;
        if (file->fd != -1 && fcntl(file->fd, F_GETFD) < 0)
                return -EBADF;
        r->bound = file->fd != -1;
        r->backend = file->fd;
        return 0;
}

static inline int mock_vsock_run(int on) {
        for (unsigned i = 0; on && i < 2; i++)
                if (!mock_ring_ok(&mock.rings[i]))
                        return -EFAULT;
        mock.running = mock.rings[0].bound = mock.rings[1].bound = on;
        return 0;
}

static inline int mock_scsi_endpoint(const struct vhost_scsi_target *t, bool set) {
        if (strcmp(t->vhost_wwpn, mock.target) || t->vhost_tpgt != 1)
                return set || !mock.has_endpoint ? -ENODEV : -EINVAL;
        if (set == mock.has_endpoint)
                return set ? -EEXIST : -ENODEV;
        mock.has_endpoint = set;
        for (unsigned i = 0; i < mock.n_rings; i++)
                mock.rings[i].bound = set && mock_ring_ok(&mock.rings[i]);
        return 0;
}

static inline int mock_device(unsigned long request, void *arg) {
        uint64_t *word = arg;

        switch (request) {
        case VHOST_GET_BACKEND_FEATURES:
                *word = mock.backend_offered;
                return mock.kind == MOCK_SCSI ? -ENOTTY : 0;
        case VHOST_SET_BACKEND_FEATURES:
                if (*word & ~mock.backend_offered)
                        return -EOPNOTSUPP;
                mock.backend_features = *word;
                return 0;
        case VHOST_NET_SET_BACKEND:
                return mock.kind == MOCK_NET ? mock_net_set_backend(arg) : -ENOTTY;
        case VHOST_VSOCK_SET_GUEST_CID:
                if (mock.kind != MOCK_VSOCK)
                        return -ENOTTY;
                if (*word <= 2 || *word >= UINT32_MAX)
                        return -EINVAL;
                mock.cid = *word;
                return 0;
        case VHOST_VSOCK_SET_RUNNING:
                return mock.kind == MOCK_VSOCK ? mock_vsock_run(*(int *)arg) : -ENOTTY;
        case VHOST_SCSI_SET_ENDPOINT:
        case VHOST_SCSI_CLEAR_ENDPOINT:
                return mock.kind == MOCK_SCSI ? mock_scsi_endpoint(arg, request == VHOST_SCSI_SET_ENDPOINT) : -ENOTTY;
        case VHOST_SCSI_GET_ABI_VERSION:
                *(int *)arg = 1;
                return 0;
        case VHOST_SCSI_SET_EVENTS_MISSED:
                mock.events_missed = *(uint32_t *)arg;
                return 0;
        case VHOST_SCSI_GET_EVENTS_MISSED:
                *(uint32_t *)arg = mock.events_missed;
                return 0;
        case VHOST_SET_MEM_TABLE:
                return mock_set_memory(arg);
        case VHOST_SET_LOG_BASE:
                mock.log_base = *word;
                return 0;
        case VHOST_SET_LOG_FD:
                return mock_set_fd(&mock.log_fd, *(int *)arg);
        }
        return mock_vring(request, arg);
}

static inline int mock_call(unsigned long request, void *arg) {
        if (mock.n_calls < 4096)
                mock.order[mock.n_calls] = request;
        if (++mock.n_calls == mock.fail_at) {
                mock.failed = request;
                return -mock.fail_errno;
        }
        switch (request) {
        case VHOST_GET_FEATURES:
                *(uint64_t *)arg = mock.offered;
                return 0;
        case VHOST_SET_FEATURES:
                if (*(uint64_t *)arg & ~mock.offered)
                        return -EOPNOTSUPP;
                mock.features = *(uint64_t *)arg;
                return 0;
        case VHOST_SET_OWNER:
                if (mock.owned)
                        return -EBUSY;
                mock.owned = true;
                return 0;
        }
        return mock.owned && !mock.foreign ? mock_device(request, arg) : -EPERM;
}

int ioctl(int fd, unsigned long request, ...) {
        struct stat st;
        va_list ap;

        va_start(ap, request);
        void *arg = va_arg(ap, void *);
        va_end(ap);
        if (!mock.ino || fstat(fd, &st) < 0 || st.st_ino != mock.ino || !S_ISSOCK(st.st_mode))
                return (int)syscall(SYS_ioctl, fd, request, arg);
        int k = mock_call(request, arg);
        if (k >= 0)
                return k;
        errno = -k;
        return -1;
}
