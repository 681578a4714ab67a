/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The dirty log of a live migration. Control worker; the log itself is touched by the rings alone.
 *
 * Three things say what is marked: the log (SET_LOG_BASE), LOG_ALL among the features (what requests got), and the LOG flag
 * beside a ring's addresses (its used ring). They come in any order: QEMU sends the log first when a migration begins
 * and last when a device starts during one. Each change goes to the running rings as a new configuration, and is answered
 * when all of them have it: from then on a front-end may rely on it, and let go of a log that was
 * replaced. Without an answer the next message waits: QEMU without REPLY_ACK sends GET_FEATURES to
 * know that a change is in effect.
 *
 * A log has to cover the memory table and the used rings that are marked. A table that grows beyond it is refused while
 * rings run with it (front-ends enlarge the log first); otherwise it is the log that is let go.
 *
 * Source: vhost-user, "Migration", VHOST_USER_SET_LOG_BASE, VHOST_USER_SET_LOG_FD.
 */
#include "backend/session.h"
#include "mem/dirty.h"

static bool marks_data(const struct vhk_backend *b) {
        return b->session.wire.features & VHK_BIT(VHK_F_LOG_ALL);
}

static bool marks_used(const struct vhk_backend *b, unsigned i) {
        return b->session.rings[i].addr.flags & VHK_VRING_F_LOG;
}

static bool is_marking(const struct vhk_backend *b) {
        bool any = marks_data(b);

        for (unsigned i = 0; i < b->n_queues; i++)
                any |= marks_used(b, i);
        return any && b->session.log;
}

void vhk_log_fill(const struct vhk_backend *b, unsigned i, struct vhk_ring_config *c) {
        const struct vhk_session *s = &b->session;

        if (!s->log)
                return;
        c->log_data = marks_data(b);
        c->log_used = marks_used(b, i);
        c->log_addr = s->rings[i].addr.log_guest_addr;
        c->log = c->log_data || c->log_used ? s->log : NULL;
        c->log_fd = c->log ? s->log_fd : NULL;
}

static bool covers_ring(const struct vhk_backend *b, const struct vhk_dirty *d, unsigned i) {
        const struct vhk_ring_value *r = &b->session.rings[i];

        /* log_guest_addr is an IOVA with translations: the log covers all of guest memory, and the used ring lies there */
        return !marks_used(b, i) || b->session.iotlb || vhk_dirty_covers(d, r->addr.log_guest_addr, vhk_used_bytes(r->num));
}

int vhk_log_check_ring(struct vhk_backend *b, unsigned i) {
        if (!b->session.log || covers_ring(b, b->session.log, i))
                return 0;
        return vhk_refuse(b, -EINVAL, "log.range", "ring %u: the dirty log (%llu bytes) does not reach its used ring's address 0x%llx", i,
                          (unsigned long long)b->session.log->size, (unsigned long long)b->session.rings[i].addr.log_guest_addr);
}

int vhk_log_check_memory(struct vhk_backend *b, const struct vhk_memmap *new) {
        struct vhk_session *s = &b->session;

        if (!s->log || vhk_dirty_covers_all(s->log, new))
                return 0;
        if (is_marking(b) && s->wire.running)
                return vhk_refuse(b, -EINVAL, "log.range", "the dirty log (%llu bytes) does not reach the end of the memory table",
                                  (unsigned long long)s->log->size);
        s->log = vhk_dirty_unref(s->log);
        return 0;
}

/* ---- the exchange with the rings ---- */

static void adopted(struct vhk_backend *b, int error) {
        vhk_token_answer(b, error, &b->session.log_said, sizeof(b->session.log_said));  /* only SET_LOG_BASE has that reply */
}

int vhk_ring_publish_and_answer(struct vhk_backend *b, struct vhk_call *c, bool defer) {
        int k = vhk_ring_publish_all(b);

        if (k < 0 || (!defer && vhk_wire_answer(&b->session.wire, c->row, &c->header) == VHK_ANSWER_NONE))
                return k;
        for (unsigned i = 0; i < b->n_queues; i++)
                if (vhk_ring_runs(b, i))
                        vhk_ring_wait(b, i, VHK_WAIT_ADOPTED);
        return vhk_ring_waits(b) ? vhk_token_take(b, c, adopted) : 0;
}

int vhk_on_SET_LOG_BASE(struct vhk_backend *b, const struct vhk_p_log *p, struct vhk_call *c, struct vhk_p_log_reply *ret_reply) {
        struct vhk_session *s = &b->session;
        struct vhk_dirty *new, *old = s->log;

        int k = vhk_memory_check_file(b, c->fds[0]);
        if (k == 0)
                k = vhk_dirty_new(c->fds[0], p->mmap_offset, p->mmap_size, &new, &b->story);
        if (k < 0)
                return k;
        bool covers = vhk_dirty_covers_all(new, s->mem);
        for (unsigned i = 0; i < b->n_queues; i++)
                covers &= covers_ring(b, new, i);
        if (!covers) {
                vhk_dirty_unref(new);
                return vhk_refuse(b, -EINVAL, "log.range", "a dirty log of %llu bytes does not reach the end of guest memory",
                                  (unsigned long long)p->mmap_size);
        }
        s->log = new;
        s->log_said = *ret_reply = (struct vhk_p_log_reply){ p->mmap_size, p->mmap_offset };
        k = is_marking(b) ? vhk_ring_publish_and_answer(b, c, true) : 0;
        vhk_dirty_unref(old);           /* rings that have not adopted yet hold references of their own */
        return k;
}

int vhk_on_SET_LOG_FD(struct vhk_backend *b, const struct vhk_p_none *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_fdref *told;

        int k = vhk_ring_take_notifier(b, &c->fds[0], &told);
        if (k < 0)
                return vhk_refuse(b, k, "log.notifier", "the descriptor is no eventfd, pipe or socket (%s)", strerror(-k));
        vhk_fdref_unref(b->session.log_fd);
        b->session.log_fd = told;
        return is_marking(b) ? vhk_ring_publish_and_answer(b, c, true) : 0;
}
