/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The dirty log of the kernel's vhost devices. The kernel writes marks to an address of ours, at the place that the guest address
 * says, and checks no end: so the log is mapped here, and has to cover what is lent before anything is marked. One thread.
 * A log that was replaced is not written to any more when VHOST_SET_LOG_BASE returns, for that takes the locks of the rings.
 * Source: Linux drivers/vhost/vhost.c, log_write().
 */
#include "frontend/vhost.h"

#include <vhostkit/migration.h>

#include "mem/dirty.h"

int vhk_vhost_check_log(struct vhk_vhost *v, const struct vhk_dirty *log, const struct vhk_sys_region *r, unsigned n) {
        if (!log || !n || vhk_dirty_covers(log, r[n - 1].gpa, r[n - 1].len))
                return 0;
        return vhk_frontend_fail(&v->f, -EINVAL, "frontend.log", "a log of %llu bytes does not cover guest memory up to 0x%llx",
                                 (unsigned long long)log->size, (unsigned long long)(r[n - 1].gpa + r[n - 1].len));
}

/* The kernel keeps the address, and does not write there while nothing is logged. */
static int unset_log(struct vhk_vhost *v) {
        if (v->logs_data)
                return vhk_frontend_fail(&v->f, -EBUSY, "frontend.log", "writes to buffers are logged: vhk_frontend_log_data(f, 0) comes first");
        for (unsigned i = 0; i < v->f.info.n_queues; i++)
                if (v->rings[i].started && (v->rings[i].addr.flags & VHK_SYS_RING_F_LOG))
                        return vhk_frontend_fail(&v->f, -EBUSY, "frontend.log", "writes to the used ring of ring %u are logged", i);
        vhk_dirty_unref(v->log);
        v->log = NULL;
        return 0;
}

int vhk_vhost_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        struct vhk_dirty *log;
        struct vhk_error e;

        if (fd < 0)
                return unset_log(v);
        int k = vhk_dirty_new(fd, offset, size, &log, &e);
        if (k < 0)
                return vhk_frontend_fail(f, k, e.rule, "the log: %s", e.text);
        k = vhk_vhost_check_log(v, log, v->lent, v->n_lent);
        if (k == 0)
                k = vhk_vhost_said(v, vhk_sys_vhost_set_log_base(v->fd, (uintptr_t)log->bits), "VHOST_SET_LOG_BASE", "%p, %llu bytes",
                                   (void *)log->bits, (unsigned long long)size);
        if (k < 0) {
                vhk_dirty_unref(log);
                return k;
        }
        vhk_dirty_unref(v->log);
        v->log = log;
        return 0;
}

int vhk_vhost_set_log_fd(struct vhk_frontend *f, int fd) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        return vhk_vhost_said(v, vhk_sys_vhost_set_log_fd(v->fd, fd), "VHOST_SET_LOG_FD", "fd %d", fd);
}

static int need_log(struct vhk_vhost *v) {
        return v->log ? 0 : vhk_frontend_fail(&v->f, -EINVAL, "frontend.log", "no log was set");
}

int vhk_vhost_log_data(struct vhk_frontend *f, int on) {
        struct vhk_vhost *v = vhk_vhost_of(f);
        bool was = v->logs_data;

        int k = on ? need_log(v) : 0;
        if (k < 0)
                return k;
        v->logs_data = on;
        k = vhk_vhost_send_features(v, f->info.acked);
        if (k < 0)
                v->logs_data = was;
        return k < 0 ? k : vhk_vhost_tell_memory(v, NULL, 0);   /* features begin a new table of translations */
}

int vhk_vhost_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa) {
        struct vhk_vhost *v = vhk_vhost_of(f);

        int k = vhk_vhost_check_queue(v, i);
        if (k == 0 && !v->rings[i].started)
                k = vhk_frontend_fail(f, -EINVAL, "frontend.queue", "ring %u does not run", i);
        if (k == 0 && on)
                k = need_log(v);
        if (k == 0 && on && !vhk_dirty_covers(v->log, gpa, 6 + 8ull * v->rings[i].setup.num))
                k = vhk_frontend_fail(f, -EINVAL, "frontend.log", "the log does not cover the used ring at guest address 0x%llx",
                                      (unsigned long long)gpa);
        if (k < 0)
                return k;
        struct vhk_sys_ring_addr a = v->rings[i].addr;
        a.flags = on ? VHK_SYS_RING_F_LOG : 0;
        a.log = on ? gpa : 0;
        k = vhk_vhost_said(v, vhk_sys_vhost_set_vring_addr(v->fd, &a), "VHOST_SET_VRING_ADDR", "ring %u, log %s 0x%llx", i, on ? "on" : "off",
                           (unsigned long long)a.log);
        if (k == 0)
                v->rings[i].addr = a;
        return k;
}
