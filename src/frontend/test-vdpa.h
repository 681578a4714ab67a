/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A vhost-vdpa device that is not there: ioctl() and write() of the test's own, which answer for one descriptor as Linux 6.1
 * and its simulators do (drivers/vhost/vdpa.c, drivers/vdpa/vdpa_sim), and keep a line for each thing that was done. So the
 * carrier is seen in states that no real device can be brought to: faults at each call, other limits, other kernels.
 */
#pragma once

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <vhostkit/kernel.h>
#include <vhostkit/sys.h>

#include "sys/uapi.h"

#define FAKE_RINGS 3u
#define FAKE_MAPS 32u

struct fake_vdpa {
        int fd;                                 /* -1: none */
        /* what it is */
        uint32_t id, n_rings, num_max, n_groups, n_as, config_size;
        uint64_t features, needs, backend, first, last;
        uint32_t group[FAKE_RINGS];
        bool refuses_features_ok, forgets_maps; /* forgets_maps: as a simulator does at a reset */
        bool is_strict;                         /* Linux 6.10: a ring is not set up while the device runs */
        /* which call fails, how */
        unsigned long fail;
        int fail_errno, fail_after;
        /* what it is like now */
        bool owned, suspended, in_batch;
        uint8_t status;
        uint64_t acked, backend_acked;
        uint32_t batch_asid, asid[FAKE_RINGS];
        uint8_t config[256];
        int config_call;
        struct { uint32_t num, base; uint64_t desc, avail, used; int kick, call, err; bool ready; } rings[FAKE_RINGS];
        struct { uint32_t asid; uint64_t iova, len, uva; uint8_t perm; bool known; } maps[FAKE_MAPS];
        unsigned n_maps, n_written;
        unsigned n_beyond;                      /* requests beyond a limit, unbalanced or with bytes that mean nothing */
        char log[4096];                         /* "owner" "status 3" "map 0 200000+1000" ... each with a space behind */
};
static struct fake_vdpa fake = { .fd = -1 };

static __attribute__((format(printf, 1, 2))) void fake_say(const char *format, ...) {
        size_t n = strlen(fake.log);
        va_list ap;

        va_start(ap, format);
        vsnprintf(fake.log + n, sizeof(fake.log) - n, format, ap);
        va_end(ap);
        n = strlen(fake.log);
        snprintf(fake.log + n, sizeof(fake.log) - n, " ");
}

/* As vdpasim_net is: two rings and a control ring, in two groups, two address spaces. */
static __attribute__((unused)) void fake_begin(void) {
        memset(&fake, 0, sizeof(fake));
        fake.fd = (int)syscall(SYS_memfd_create, "fake-vdpa", 1u);
        fake.id = 1;
        fake.n_rings = 3;
        fake.num_max = 256;
        fake.n_groups = fake.n_as = 2;
        fake.config_size = 24;
        fake.features = UINT64_C(0x308820028);
        fake.needs = UINT64_C(1) << 33;
        fake.backend = 0x1e;
        fake.last = UINT64_MAX;
        fake.group[2] = 1;
        fake.forgets_maps = true;
        fake.config_call = -1;
        for (unsigned i = 0; i < sizeof(fake.config); i++)
                fake.config[i] = (uint8_t)i;
        for (unsigned i = 0; i < FAKE_RINGS; i++)
                fake.rings[i].kick = fake.rings[i].call = -1;
}

static bool fake_has(unsigned bit) {
        return fake.backend_acked >> bit & 1;
}

static int fake_status(uint8_t status) {
        if (status && (fake.status & ~status))
                return -EINVAL;
        if (fake.refuses_features_ok)
                status = (uint8_t)(status & ~8u);
        fake.status = status;
        if (status)
                return 0;
        fake.suspended = fake.in_batch = false;
        fake.acked = 0;
        for (unsigned i = 0; i < FAKE_RINGS; i++)
                fake.rings[i].ready = false, fake.asid[i] = 0;
        for (unsigned i = 0; i < fake.n_maps && fake.forgets_maps && !fake_has(VHK_SYS_BF_IOTLB_PERSIST); i++)
                fake.maps[i].known = false;
        return 0;
}

static int fake_word(unsigned long request, void *arg) {
        uint64_t x64 = 0;

        switch (request) {
        case VHK_K_SET_OWNER:
                fake_say("owner");
                if (fake.owned)
                        return -EBUSY;
                fake.owned = true;
                return 0;
        case VHK_K_VDPA_SUSPEND:
                fake_say("suspend");
                if (!(fake.backend >> VHK_SYS_BF_SUSPEND & 1))
                        return -EOPNOTSUPP;
                fake.suspended = true;
                return 0;
        case VHK_K_VDPA_RESUME:
                fake_say("resume");
                if (!(fake.backend >> VHK_SYS_BF_RESUME & 1))
                        return -EFAULT; /* taken for a ring's, with a null argument */
                fake.suspended = false;
                return 0;
        case VHK_K_GET_FEATURES: memcpy(arg, &fake.features, 8); return 0;
        case VHK_K_GET_BACKEND_FEATURES: memcpy(arg, &fake.backend, 8); return 0;
        case VHK_K_SET_FEATURES:
                memcpy(&x64, arg, 8);
                fake_say("features %llx", (unsigned long long)x64);
                if (fake.status & 8)
                        return -EBUSY;
                if ((x64 & ~fake.features) || (fake.needs & ~x64))
                        return -EINVAL;
                fake.acked = x64;
                return 0;
        case VHK_K_SET_BACKEND_FEATURES:
                memcpy(&x64, arg, 8);
                if (x64 & ~fake.backend)
                        return -EOPNOTSUPP;
                fake.backend_acked = x64;
                return 0;
        case VHK_K_VDPA_GET_DEVICE_ID: memcpy(arg, &fake.id, 4); return 0;
        case VHK_K_VDPA_GET_STATUS: memcpy(arg, &fake.status, 1); return 0;
        case VHK_K_VDPA_SET_STATUS:
                fake_say("status %u", *(uint8_t *)arg);
                return fake_status(*(uint8_t *)arg);
        case VHK_K_VDPA_GET_VRING_NUM: memcpy(arg, &(uint16_t){ (uint16_t)fake.num_max }, 2); return 0;
        case VHK_K_VDPA_GET_VQS_COUNT: memcpy(arg, &fake.n_rings, 4); return 0;
        case VHK_K_VDPA_GET_GROUP_NUM: memcpy(arg, &fake.n_groups, 4); return 0;
        case VHK_K_VDPA_GET_AS_NUM: memcpy(arg, &fake.n_as, 4); return 0;
        case VHK_K_VDPA_GET_CONFIG_SIZE: memcpy(arg, &fake.config_size, 4); return 0;
        case VHK_K_VDPA_GET_IOVA_RANGE: memcpy(arg, &(struct vhk_k_range){ fake.first, fake.last }, 16); return 0;
        case VHK_K_VDPA_SET_CONFIG_CALL: memcpy(&fake.config_call, arg, 4); return 0;
        case VHK_K_VDPA_SET_GROUP_ASID: {
                struct vhk_k_vring_state s;
                memcpy(&s, arg, sizeof(s));
                fake_say("group %u in %u", s.index, s.num);
                if (s.index >= fake.n_groups || s.num >= fake.n_as) {
                        fake.n_beyond++;
                        return -EINVAL;
                }
                fake.asid[s.index] = s.num;
                return 0;
        }
        case VHK_K_VDPA_GET_CONFIG:
        case VHK_K_VDPA_SET_CONFIG: {
                struct vhk_k_vdpa_config *c = arg;
                if (!c->len || c->off > fake.config_size || c->len > fake.config_size - c->off) {
                        fake.n_beyond++;
                        return -EINVAL;
                }
                if (request == VHK_K_VDPA_GET_CONFIG)
                        memcpy(c->bytes, fake.config + c->off, c->len);
                else
                        memcpy(fake.config + c->off, c->bytes, c->len);
                return 0;
        }
        }
        return -ENOTTY;
}

static int fake_ring(unsigned long request, void *arg) {
        struct vhk_k_vring_state s;
        struct vhk_k_vring_addr a;

        if (!arg)
                return -EFAULT;
        memcpy(&s, arg, sizeof(s));
        if (s.index >= fake.n_rings) {
                fake.n_beyond++;
                return -ENOBUFS;
        }
        switch (request) {
        case VHK_K_SET_VRING_NUM:
                fake_say("num %u=%u", s.index, s.num);
                if (!s.num || (s.num & (s.num - 1)) || s.num > fake.num_max) {
                        fake.n_beyond++;
                        return -EINVAL;
                }
                fake.rings[s.index].num = s.num;
                return 0;
        case VHK_K_SET_VRING_BASE:
                fake_say("base %u=%x", s.index, s.num);
                if ((!(fake.acked >> 34 & 1) && s.num > 0xffff) || (fake.is_strict && fake.status & 4 && !fake.suspended))
                        return -EINVAL;
                fake.rings[s.index].base = s.num;
                return 0;
        case VHK_K_GET_VRING_BASE:
                fake_say("getbase %u", s.index);
                s.num = fake.rings[s.index].base;
                memcpy(arg, &s, sizeof(s));
                return 0;
        case VHK_K_SET_VRING_ADDR:
                memcpy(&a, arg, sizeof(a));
                fake_say("addr %u=%llx,%llx,%llx", a.index, (unsigned long long)a.desc, (unsigned long long)a.avail, (unsigned long long)a.used);
                if (a.flags)
                        return -EOPNOTSUPP;
                fake.rings[s.index].desc = a.desc;
                fake.rings[s.index].avail = a.avail;
                fake.rings[s.index].used = a.used;
                return 0;
        case VHK_K_SET_VRING_KICK: fake.rings[s.index].kick = (int)s.num; return 0;
        case VHK_K_SET_VRING_CALL: fake.rings[s.index].call = (int)s.num; return 0;
        case VHK_K_SET_VRING_ERR: fake.rings[s.index].err = (int)s.num; return 0;
        case VHK_K_VDPA_SET_VRING_ENABLE:
                fake_say("enable %u=%u", s.index, s.num);
                fake.rings[s.index].ready = s.num;
                return 0;
        case VHK_K_VDPA_GET_VRING_GROUP:
                s.num = fake.group[s.index];
                memcpy(arg, &s, sizeof(s));
                return 0;
        }
        return -ENOTTY;
}

static bool fake_fails(unsigned long request) {
        return fake.fail && fake.fail == request && fake.fail_after-- <= 0;
}

int ioctl(int fd, unsigned long request, ...) {
        va_list ap;

        va_start(ap, request);
        void *arg = va_arg(ap, void *);
        va_end(ap);
        if (fake.fd < 0 || fd != fake.fd)
                return (int)syscall(SYS_ioctl, fd, request, arg);
        int k = fake_fails(request) ? -fake.fail_errno : fake_word(request, arg);
        if (k == -ENOTTY && !fake_fails(request))
                k = fake_ring(request, arg);
        if (k >= 0)
                return k;
        errno = -k;
        return -1;
}

static int fake_update(const struct vhk_k_iotlb *m) {
        if (!m->len || m->iova < fake.first || m->iova + (m->len - 1) > fake.last || m->iova + (m->len - 1) < m->iova) {
                fake.n_beyond++;
                return -EFAULT;
        }
        if (fake.n_maps == FAKE_MAPS)
                return -EFAULT;
        for (unsigned i = 0; i < fake.n_maps; i++)
                if (fake.maps[i].asid == m->asid && m->iova < fake.maps[i].iova + fake.maps[i].len && fake.maps[i].iova < m->iova + m->len)
                        return -EFAULT;
        fake.maps[fake.n_maps].asid = m->asid;
        fake.maps[fake.n_maps].iova = m->iova;
        fake.maps[fake.n_maps].len = m->len;
        fake.maps[fake.n_maps].uva = m->uva;
        fake.maps[fake.n_maps].perm = m->perm;
        fake.maps[fake.n_maps++].known = true;
        return 0;
}

static int fake_iotlb(const struct vhk_k_iotlb *m) {
        static const uint8_t zero[sizeof(m->padding)];
        bool v2 = fake_has(VHK_SYS_BF_IOTLB_MSG_V2);

        fake.n_written++;
        if (!fake.owned)
                return -EPERM;
        if (m->version != (v2 ? 2u : 1u) || (!v2 && m->asid) || memcmp(m->padding, zero, sizeof(zero)) || m->asid >= fake.n_as ||
            (fake.in_batch && (m->asid != fake.batch_asid || m->type == VHK_SYS_IOTLB_BATCH_BEGIN)) ||
            (!fake.in_batch && m->type == VHK_SYS_IOTLB_BATCH_END)) {
                fake.n_beyond++;
                return -EFAULT;
        }
        switch (m->type) {
        case VHK_SYS_IOTLB_UPDATE:
                fake_say("map %u %llx+%llx", m->asid, (unsigned long long)m->iova, (unsigned long long)m->len);
                return fake_update(m);
        case VHK_SYS_IOTLB_INVALIDATE:
                fake_say("unmap %u %llx+%llx", m->asid, (unsigned long long)m->iova, (unsigned long long)m->len);
                for (unsigned i = 0; i < fake.n_maps;)
                        if (fake.maps[i].asid == m->asid && m->iova < fake.maps[i].iova + fake.maps[i].len && fake.maps[i].iova < m->iova + m->len)
                                fake.maps[i] = fake.maps[--fake.n_maps];
                        else
                                i++;
                return 0;
        case VHK_SYS_IOTLB_BATCH_BEGIN:
        case VHK_SYS_IOTLB_BATCH_END:
                fake_say(m->type == VHK_SYS_IOTLB_BATCH_BEGIN ? "begin %u" : "end %u", m->asid);
                fake.in_batch = m->type == VHK_SYS_IOTLB_BATCH_BEGIN;
                fake.batch_asid = m->asid;
                return 0;
        }
        return -EFAULT;
}

#define FAKE_WRITE 0xfffful             /* fake.fail: the UPDATE messages */

ssize_t write(int fd, const void *buf, size_t n) {
        struct vhk_k_iotlb m;

        if (fake.fd < 0 || fd != fake.fd)
                return syscall(SYS_write, fd, buf, n);
        memcpy(&m, buf, n < sizeof(m) ? n : sizeof(m));
        int k = n != sizeof(m) ? -EINVAL : m.type == VHK_SYS_IOTLB_UPDATE && fake_fails(FAKE_WRITE) ? -fake.fail_errno : fake_iotlb(&m);
        if (k == 0)
                return (ssize_t)n;
        errno = -k;
        return -1;
}
