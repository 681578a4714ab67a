/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Postcopy, the destination's side: the guest runs already while its memory is still coming. Control worker.
 *
 *   ADVISE          the front-end gets a userfaultfd of our process
 *   LISTEN          from now on (wire phase POSTCOPY) memory comes the long way:
 *   SET_MEM_TABLE   mapped and not touched; the answer tells where we have each region
 *   acknowledgement registered with the userfaultfd, then handed to the rings; nothing else may come before it (POSTCOPY_ACK)
 *   END             all pages have come; the descriptor is closed, which ends the registration
 *
 * A ring that touches a page that has not come waits in the kernel, and with it its worker: so the feature is only
 * offered where no ring is at home with control, which must see a front-end leave. Closing our descriptor then lets
 * the ring go on. The descriptor of the next session is opened before it is needed, for it may take privileges.
 *
 * Source: vhost-user, "Migration", VHOST_USER_POSTCOPY_*; "Memory region add", postcopy.
 */
#include <fcntl.h>

#include "backend/session.h"
#include "mem/fault.h"

/* Is the feature to be offered to the front-end that has come? */
bool vhk_postcopy_is_ready(struct vhk_backend *b) {
        struct vhk_error e;

        for (unsigned i = 0; b->rings && i < b->n_queues; i++)
                if (b->rings[i].home == b->o.control) {
                        vhk_log(&b->log, VHK_LOG_WARNING, "postcopy is not offered: ring %u has no worker of its own", i);
                        return false;
                }
        if (b->fault_fd < 0 && vhk_fault_open(&b->fault_fd, &e) < 0) {
                vhk_log(&b->log, VHK_LOG_WARNING, "postcopy is not offered: %s", e.text);
                return false;
        }
        return true;
}

void vhk_postcopy_end(struct vhk_backend *b) {
        struct vhk_session *s = &b->session;

        if (s->postcopy != VHK_POSTCOPY_NONE)
                vhk_close(&s->fault_fd);
        s->postcopy = VHK_POSTCOPY_NONE;
        s->wire.phase = VHK_PHASE_NORMAL;
        s->coming_mem = vhk_memmap_unref(s->coming_mem);
}

static int out_of_order(struct vhk_backend *b, const char *what) {
        return vhk_refuse(b, -EPROTO, "postcopy.order", "%s at a wrong time: ADVISE, LISTEN, END is the order", what);
}

int vhk_on_POSTCOPY_ADVISE(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_session *s = &b->session;

        if (s->postcopy != VHK_POSTCOPY_NONE)
                return out_of_order(b, "POSTCOPY_ADVISE");
        if (b->fault_fd < 0) {
                int k = vhk_fault_open(&b->fault_fd, &b->story);
                if (k < 0)
                        return k;
        }
        int fd = fcntl(b->fault_fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
                return vhk_refuse(b, vhk_errno(), "postcopy.fd", "no descriptor left: %s", strerror(errno));
        c->reply_fd = fd;
        s->fault_fd = VHK_STEAL_FD(b->fault_fd);
        s->postcopy = VHK_POSTCOPY_ADVISED;
        return 0;
}

int vhk_on_POSTCOPY_LISTEN(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_session *s = &b->session;

        if (s->postcopy != VHK_POSTCOPY_ADVISED)
                return out_of_order(b, "POSTCOPY_LISTEN");
        if (s->mem->n)
                return vhk_refuse(b, -EBUSY, "postcopy.mapped", "memory was lent before POSTCOPY_LISTEN: its pages may be here already");
        s->postcopy = VHK_POSTCOPY_LISTENING;
        s->wire.phase = VHK_PHASE_POSTCOPY;
        return 0;
}

int vhk_on_SET_MEM_TABLE_POSTCOPY(struct vhk_backend *b, const struct vhk_p_mem_regions *p, struct vhk_call *c, struct vhk_p_mem_regions *ret_reply) {
        struct vhk_session *s = &b->session;
        struct vhk_memmap *new;

        if (s->wire.protocol & VHK_BIT(VHK_PF_XEN_MMAP))
                return vhk_refuse(b, -EOPNOTSUPP, "postcopy.xen", "the memory of a Xen guest does not come by faults");
        int k = vhk_memory_table(b, p, c, &new);
        if (k >= 0 && (k = vhk_fault_prepare(new, &b->story)) < 0)
                vhk_memmap_unref(new);
        if (k < 0)
                return k;
        memcpy(ret_reply, p, c->header.size);
        for (unsigned i = 0; i < p->n_regions; i++)
                ret_reply->regions[i].user_addr = (uintptr_t)vhk_memmap_host_gpa(new, (vhk_gpa_t){ p->regions[i].guest_addr }, p->regions[i].len);
        c->reply_size = c->header.size;
        vhk_memmap_unref(s->coming_mem);
        s->coming_mem = new;
        s->wire.phase = VHK_PHASE_POSTCOPY_ACK;
        return 0;
}

int vhk_on_SET_MEM_TABLE_ACK(struct vhk_backend *b, const struct vhk_p_u64 *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_session *s = &b->session;

        s->wire.phase = VHK_PHASE_POSTCOPY;
        int k = vhk_fault_register(s->fault_fd, s->coming_mem, &b->story);
        return k < 0 ? k : vhk_memory_change(b, c, VHK_STEAL(s->coming_mem));
}

int vhk_on_POSTCOPY_END(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        if (b->session.postcopy == VHK_POSTCOPY_NONE)
                return out_of_order(b, "POSTCOPY_END");
        vhk_postcopy_end(b);
        return 0;
}
