/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What I/O addresses of VDUSE lead to. Control worker.
 *
 * The kernel has a table of ranges, each a part of some descriptor: its own bounce buffer (virtio_vdpa), or memory of a process
 * (vhost-vdpa). A range is asked for and mapped when a ring misses it, as a region of session.mem at that address, and a
 * translation over it. That is a system call that does not wait, so a ring stalls no longer than control takes to do it. An
 * address that the kernel has no range for is the driver's fault, unless it is one of the ring's own areas: those may come back
 * with the next table, so the ring waits.
 *
 * There is room for VHK_MEM_MAX_REGIONS; when they are used up, or a range overlaps what was mapped, all is forgotten and asked
 * for again. Requests in flight keep alive what they use.
 *
 * Source: Linux Documentation/userspace-api/vduse.rst, "How VDUSE works", VDUSE_IOTLB_GET_FD, VDUSE_UPDATE_IOTLB.
 */
#include "backend/vduse.h"

#include "mem/iotlb.h"
#include "mem/mapping.h"

#define U(x) ((unsigned long long)(x))

/* Takes both, whatever they are now. */
static void set_memory(struct vhk_backend *b, struct vhk_memmap *mem, struct vhk_memmap *iotlb) {
        vhk_memmap_unref(b->session.iotlb);
        vhk_memmap_unref(b->session.mem);
        b->session.mem = mem;
        b->session.iotlb = iotlb;
}

/* Everything that touches [first, last] is forgotten: a new time begins. */
static int drop(struct vhk_backend *b, uint64_t first, uint64_t last) {
        struct vhk_memmap *mem, *iotlb = NULL;

        int k = vhk_memmap_drop(b->session.mem, first, last, &mem);
        if (k < 0)
                return k;
        k = vhk_iotlb_rebase(b->session.iotlb, mem, &iotlb);
        if (k >= 0) {
                iotlb->evicted = true;          /* a new time also if nothing was known there */
                k = vhk_iotlb_invalidate(&iotlb, first, last - first + 1);
        }
        if (k >= 0) {
                set_memory(b, mem, iotlb);
                return 0;
        }
        vhk_memmap_unref(iotlb);
        vhk_memmap_unref(mem);
        return k;
}

int vhk_vduse_forget_memory(struct vhk_backend *b) {
        struct vhk_memmap *mem, *iotlb;

        int k = vhk_memmap_new(&mem);
        if (k < 0)
                return k;
        k = vhk_iotlb_new(mem, &iotlb);
        if (k < 0)
                vhk_memmap_unref(mem);
        else
                set_memory(b, mem, iotlb);
        return k;
}

/* Takes @mapping. */
static int add(struct vhk_backend *b, const struct vhk_sys_vduse_iotlb *e, struct vhk_mapping *mapping) {
        uint64_t len = e->last - e->first + 1;
        struct vhk_memmap *mem = NULL, *iotlb = NULL;

        int k = vhk_memmap_add_mapping(b->session.mem, e->first, len, vhk_mapping_ref(mapping), &mem, &b->story);
        if (k == -ENOSPC || k == -EEXIST) {
                k = drop(b, 0, UINT64_MAX);
                if (k >= 0)
                        k = vhk_memmap_add_mapping(b->session.mem, e->first, len, vhk_mapping_ref(mapping), &mem, &b->story);
        }
        vhk_mapping_unref(mapping);
        if (k >= 0)
                k = vhk_iotlb_rebase(b->session.iotlb, mem, &iotlb);
        if (k >= 0)
                k = vhk_iotlb_update(&iotlb, e->first, len, e->first, true, e->perm, &b->story);
        if (k >= 0) {
                set_memory(b, mem, iotlb);
                return 0;
        }
        vhk_memmap_unref(iotlb);
        vhk_memmap_unref(mem);
        return k;
}

static bool is_sound(const struct vhk_sys_vduse_iotlb *e, uint64_t iova) {
        return e->first <= iova && iova <= e->last && e->last - e->first != UINT64_MAX && e->perm >= VHK_IOTLB_R && e->perm <= VHK_IOTLB_RW;
}

int vhk_vduse_fetch(struct vhk_backend *b, uint64_t iova, unsigned perm) {
        struct vhk_sys_vduse_iotlb e = { .first = iova, .last = iova };
        struct vhk_mapping *m;
        int fd;

        int k = vhk_sys_vduse_iotlb_get_fd(b->vduse->fd, &e, &fd);
        if (k < 0)
                return vhk_refuse(b, k == -EINVAL ? -EFAULT : k, "vduse.no-range", "nothing is at I/O address 0x%llx (%s)", U(iova), strerror(-k));
        if (is_sound(&e, iova))
                k = vhk_mapping_new_lent(fd, e.offset, e.last - e.first + 1, e.perm & VHK_IOTLB_W, &m, &b->story);
        else
                k = vhk_refuse(b, -EPROTO, "vduse.range", "the kernel says of I/O address 0x%llx: 0x%llx to 0x%llx, access %u", U(iova), U(e.first),
                               U(e.last), e.perm);
        vhk_close(&fd);
        if (k >= 0)
                k = add(b, &e, m);
        if (k < 0)
                return k;
        if (!vhk_iotlb_reach(b->session.iotlb, iova, 1, perm))
                return vhk_refuse(b, -EACCES, "vduse.access", "I/O address 0x%llx must not be accessed like that (%u of %u)", U(iova), perm, e.perm);
        return 0;
}

void vhk_vduse_missed(struct vhk_backend *b, unsigned i, uint64_t iova, unsigned perm) {
        const struct vhk_ring_value *r = &b->session.rings[i];
        int k = 0;

        if (b->state != VHK_BACKEND_SERVING || (r->state != VHK_RING_STATE_RUNNING && r->state != VHK_RING_STATE_STALLED))
                return;                 /* a ring that stops needs it no more */
        (void)vhk_ring_event(b, i, VHK_RING_EVENT_MISS);
        if (!vhk_iotlb_reach(b->session.iotlb, iova, 1, perm))
                k = vhk_vduse_fetch(b, iova, perm);
        if (k < 0) {
                vhk_log(&b->log, VHK_LOG_WARNING, "ring %u: %s", i, b->story.text);
                vhk_ring_fail(b, i, VHK_RING_TRANSLATION);
                return;
        }
        (void)vhk_ring_event(b, i, VHK_RING_EVENT_IOTLB);
        k = vhk_ring_publish(b, i);
        if (k < 0)
                vhk_session_fail(b, k, "vduse.plan", "no order to a ring: %s", strerror(-k));
}

int vhk_vduse_update(struct vhk_backend *b, uint64_t first, uint64_t last) {
        int k = drop(b, first, last);

        for (unsigned i = 0; k >= 0 && i < b->n_queues; i++) {
                if (!vhk_ring_runs(b, i))
                        continue;
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_IOTLB);
                k = vhk_ring_publish(b, i);
                vhk_ring_wait(b, i, VHK_WAIT_SETTLED);
        }
        return k < 0 ? vhk_refuse(b, k, "vduse.plan", "no memory for a change of translations: %s", strerror(-k)) : 0;
}
