/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The memory table. Control worker; guest memory itself is never touched here.
 *
 * A change makes a new snapshot and publishes it to every ring that runs. A region that is only added needs all of them to
 * have adopted it; one that goes away also needs the requests of the time before to be done. Until then the answer is
 * held back and this side keeps a reference to the old snapshot, so that it is control who unmaps. Past the time limit the
 * change is refused and the old snapshot comes back. A ring whose own areas are gone is BROKEN, and the message succeeds.
 *
 * Source: vhost-user, "Memory region add", "Inflight"; QEMU sends the table anew while rings run, and its multi-queue net
 * every region once per queue pair.
 */
#include "backend/session.h"

static struct vhk_region_desc describe(struct vhk_backend *b, const void *payload, unsigned i, int fd) {
        struct vhk_p_region_xen r = vhk_wire_region(b->session.wire.protocol, payload, i);

        return (struct vhk_region_desc){
                .gpa = { r.guest_addr }, .uva = { r.user_addr }, .len = r.len, .fd_offset = r.mmap_offset, .fd = fd,
        };
}

/* With XEN_MMAP a region may be foreign or granted memory, which is mapped through Xen's own devices: we do not. */
static int check_xen(struct vhk_backend *b, const void *payload, unsigned i) {
        struct vhk_p_region_xen r = vhk_wire_region(b->session.wire.protocol, payload, i);

        if (!r.xen_flags)
                return 0;
        return vhk_refuse(b, -EINVAL, "memory.xen", "region %u is %s memory of Xen domain %u: only plain files can be mapped", i,
                          r.xen_flags & VHK_XEN_GRANT ? "granted" : "foreign", r.xen_domid);
}

int vhk_memory_check_file(struct vhk_backend *b, int fd) {
        if (b->o.any_file_system)
                return 0;
        int kind = vhk_peer_kind(fd);
        if (kind < 0)
                return vhk_refuse(b, kind, "mem.fd", "the descriptor of a memory region cannot be examined: %s", strerror(-kind));
        if (kind != VHK_PEER_FILE)
                return vhk_refuse(b, -EINVAL, "mem.file-type", "the descriptor of a memory region is no regular file; expected memfd, tmpfs or "
                                  "hugetlbfs");
        if (!vhk_peer_file_is_local(fd))
                return vhk_refuse(b, -EINVAL, "mem.file-system", "the descriptor of a memory region is a file of a file system that may not answer; "
                                  "expected memfd, tmpfs, hugetlbfs or a local disk");
        return 0;
}

/* Publishes the session's memory to ring @i. If its own areas are gone it is broken first. */
static int give_memory(struct vhk_backend *b, unsigned i, enum vhk_ring_wait wait) {
        struct vhk_ring_config areas = { .stalled = false };
        bool is_gone = vhk_ring_resolve(b, i, &areas) < 0;

        int ret = vhk_ring_event(b, i, is_gone ? VHK_RING_EVENT_MEM_GONE : VHK_RING_EVENT_MEM_CHANGE);
        if (ret < 0)
                return ret;
        if (is_gone)
                vhk_vring_break(&b->rings[i], VHK_RING_MEMORY);
        ret = vhk_ring_send_update(b, i, &areas);
        if (ret < 0)
                return ret;
        vhk_ring_wait(b, i, wait);
        return 0;
}

static int give_memory_to_all(struct vhk_backend *b, enum vhk_ring_wait wait) {
        for (unsigned i = 0; i < b->n_queues; i++)
                if (vhk_ring_runs(b, i)) {
                        int k = give_memory(b, i, wait);
                        if (k < 0)
                                return k;
                }
        return 0;
}

/* The rings are through with the old snapshot, or were not in time. */
static void memory_changed(struct vhk_backend *b, int error) {
        struct vhk_memmap *new = b->session.mem;

        if (error < 0) {
                struct vhk_error story = b->story;
                b->session.mem = VHK_STEAL(b->token.old_mem);
                int k = vhk_iotlb_follow_memory(b);
                if (k >= 0)
                        k = give_memory_to_all(b, VHK_WAIT_NONE);
                if (k < 0)
                        vhk_session_fail(b, k, "backend.memory", "the memory table could not be restored: %s", strerror(-k));
                vhk_memmap_unref(new);
                b->story = story;
        }
        vhk_token_answer(b, error, NULL, 0);
}

/* Takes @new. */
int vhk_memory_change(struct vhk_backend *b, struct vhk_call *c, struct vhk_memmap *new) {
        struct vhk_memmap *old = b->session.mem;

        int k = vhk_log_check_memory(b, new);
        if (k < 0) {
                vhk_memmap_unref(new);
                return k;
        }
        b->session.mem = new;
        k = vhk_iotlb_follow_memory(b);
        if (k >= 0)
                k = give_memory_to_all(b, vhk_memmap_extends(new, old) ? VHK_WAIT_ADOPTED : VHK_WAIT_SETTLED);
        if (k < 0) {
                vhk_memmap_unref(old);
                vhk_session_fail(b, k, "backend.memory", "no ring plan: %s", strerror(-k));
                return k;
        }
        if (!vhk_ring_waits(b)) {
                vhk_memmap_unref(old);
                return 0;
        }
        b->token.old_mem = old;
        return vhk_token_take(b, c, memory_changed);
}

int vhk_memory_table(struct vhk_backend *b, const struct vhk_p_mem_regions *p, struct vhk_call *c, struct vhk_memmap **ret_m) {
        struct vhk_region_desc d[VHK_MAX_REGIONS];

        for (unsigned i = 0; i < p->n_regions; i++) {
                int k = check_xen(b, p, i);
                if (k == 0)
                        k = vhk_memory_check_file(b, c->fds[i]);
                if (k < 0)
                        return k;
                d[i] = describe(b, p, i, c->fds[i]);
        }
        return vhk_memmap_replace(b->session.mem, d, p->n_regions, ret_m, &b->story);
}

int vhk_on_SET_MEM_TABLE(struct vhk_backend *b, const struct vhk_p_mem_regions *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_memmap *new;

        int k = vhk_memory_table(b, p, c, &new);
        return k < 0 ? k : vhk_memory_change(b, c, new);
}

int vhk_on_ADD_MEM_REG(struct vhk_backend *b, const struct vhk_p_mem_region_single *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_region_desc d = describe(b, p, 0, c->fds[0]);
        struct vhk_memmap *new;

        int k = check_xen(b, p, 0);
        if (k == 0)
                k = vhk_memory_check_file(b, c->fds[0]);
        if (k == 0)
                k = vhk_memmap_add(b->session.mem, &d, &new, &b->story);
        if (k == 1)                     /* it is there already */
                vhk_memmap_unref(new);
        return k < 0 ? k : k == 1 ? 0 : vhk_memory_change(b, c, new);
}

int vhk_on_REM_MEM_REG(struct vhk_backend *b, const struct vhk_p_mem_region_single *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_region_desc d = describe(b, p, 0, -1);
        struct vhk_memmap *new;

        int k = vhk_memmap_remove(b->session.mem, d.gpa, d.uva, d.len, &new, &b->story);
        return k < 0 ? k : vhk_memory_change(b, c, new);
}

int vhk_on_GET_MAX_MEM_SLOTS(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_u64 *ret_reply) {
        ret_reply->value = VHK_MEM_MAX_REGIONS;
        return 0;
}
