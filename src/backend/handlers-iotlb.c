/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Translations of I/O virtual addresses: updates and invalidations from the front-end, misses to it. Control worker.
 *
 * With VIRTIO_F_ACCESS_PLATFORM the rings live on session.iotlb instead of session.mem: a snapshot of translations over that
 * memory (mem/iotlb.h). An update is answered when all rings have adopted it, an invalidation when the requests of the time
 * before are done too; if they are not in time it is refused, and the next one waits for them as well.
 *
 * A ring misses one translation at a time: of an area (found out here, when it is published) or of a request (its home
 * reports it). The front-end is asked on the back-end channel, if it gave us one, and asked again if what it sent was of no
 * use; a refusal, three useless answers or the time limit end in a BROKEN ring. Nothing waits: the session reads on.
 *
 * Source: vhost-user, "IOMMU support", VHOST_USER_IOTLB_MSG, VHOST_USER_BACKEND_IOTLB_MSG; QEMU 7.2 sends an update for each
 * miss, and leaves permission and user address of an invalidation as they were.
 */
#include "backend/session.h"
#include "mem/iotlb.h"

#define USELESS_MAX 3u

/* ---- what the rings live on ---- */

struct vhk_memmap *vhk_session_mem(const struct vhk_backend *b) {
        return b->session.iotlb ? b->session.iotlb : b->session.mem;
}

int vhk_iotlb_set_features(struct vhk_backend *b, uint64_t features) {
        struct vhk_session *s = &b->session;
        bool wanted = features & VHK_BIT(VHK_F_ACCESS_PLATFORM);

        if (wanted == !!s->iotlb)
                return 0;
        if (s->wire.running)
                return vhk_refuse(b, -EBUSY, "iotlb.running", "ACCESS_PLATFORM comes or goes while rings run");
        if (wanted)                     /* BACKEND_REQ and REPLY_ACK are there: wire.needs-iommu */
                return vhk_iotlb_new(s->mem, &s->iotlb);
        s->iotlb = vhk_memmap_unref(s->iotlb);
        return 0;
}

int vhk_iotlb_follow_memory(struct vhk_backend *b) {
        struct vhk_session *s = &b->session;
        struct vhk_memmap *new;

        int k = s->iotlb ? vhk_iotlb_rebase(s->iotlb, s->mem, &new) : 0;
        if (k < 0 || !s->iotlb)
                return k;
        vhk_memmap_unref(s->iotlb);
        s->iotlb = new;
        return 0;
}

/* The used ring is marked in the dirty log at its guest address, but the front-end names it by its IOVA. */
void vhk_iotlb_fill_log(const struct vhk_backend *b, struct vhk_ring_config *c) {
        const struct vhk_memmap *guest = b->session.mem;

        c->log_used = c->log_used && c->used;
        for (uint32_t i = 0; c->used && i < guest->n; i++) {
                uint64_t off = (uint64_t)((uint8_t *)c->used - guest->regs[i].host);
                if ((uint8_t *)c->used >= guest->regs[i].host && off < guest->regs[i].len)
                        c->log_addr = guest->regs[i].gpa + off;
        }
}

/* ---- misses ---- */

static uint64_t page_of(uint64_t iova) { return iova & ~((uint64_t)VHK_PAGE - 1); }

static void give_up(struct vhk_backend *b, unsigned i, const char *why) {
        struct vhk_ring_value *r = &b->session.rings[i];

        vhk_log(&b->log, VHK_LOG_WARNING, "ring %u: the translation of 0x%llx %s", i, (unsigned long long)r->miss.iova, why);
        vhk_ring_fail(b, i, VHK_RING_TRANSLATION);
}

static void set_timer(struct vhk_backend *b) {
        uint64_t now = vhk_now_ns(), first = UINT64_MAX;

        for (unsigned i = 0; i < b->n_queues; i++)
                if (b->session.rings[i].miss.is_due)
                        first = VHK_MIN(first, b->session.rings[i].miss.deadline);
        int k = b->iotlb_timer ? 0 : vhk_worker_timer(b->o.control, vhk_iotlb_on_timer, b, &b->iotlb_timer);
        if (k >= 0)
                k = vhk_timer_set(b->iotlb_timer, first == UINT64_MAX ? 0 : first > now ? first - now : 1);
        if (k < 0)
                vhk_session_fail(b, k, "backend.loop", "no timer: %s", strerror(-k));
}

void vhk_iotlb_on_timer(void *arg) {
        struct vhk_backend *b = arg;
        uint64_t now = vhk_now_ns();

        for (unsigned i = 0; i < b->n_queues && b->state == VHK_BACKEND_SERVING; i++)
                if (b->session.rings[i].miss.is_due && b->session.rings[i].miss.deadline <= now)
                        give_up(b, i, "did not come in time");
        set_timer(b);
        vhk_session_check(b);
}

/* The front-end's word about the miss of page @arg. That it was taken is no news: the update comes by itself. */
static void miss_answered(struct vhk_backend *b, int error, const void *reply, uint32_t size, int *fd, uint64_t arg) {
        if (b->state != VHK_BACKEND_SERVING)
                return;
        for (unsigned i = 0; i < b->n_queues && error < 0; i++) {
                struct vhk_ring_miss *m = &b->session.rings[i].miss;
                if (!m->is_due || (page_of(m->iova) | m->perm) != arg)
                        continue;
                if (error == -EREMOTEIO)
                        give_up(b, i, "was refused");
                else
                        m->is_asked = false;    /* on another channel, perhaps */
        }
        vhk_session_check(b);
}

static void ask(struct vhk_backend *b, unsigned i) {
        struct vhk_ring_miss *m = &b->session.rings[i].miss;
        struct vhk_p_iotlb p = { .iova = page_of(m->iova), .len = VHK_PAGE, .perm = m->perm, .type = VHK_IOTLB_MISS };

        for (unsigned k = 0; k < b->n_queues; k++) {
                const struct vhk_ring_miss *other = &b->session.rings[k].miss;
                if (k != i && other->is_due && other->is_asked && other->perm == m->perm && page_of(other->iova) == p.iova) {
                        m->is_asked = true;
                        return;
                }
        }
        m->is_asked = vhk_channel_send(&b->channel, VHK_BE_IOTLB_MSG, &p, sizeof(p), -1, miss_answered, p.iova | m->perm) >= 0;
}

void vhk_iotlb_channel_opened(struct vhk_backend *b) {
        for (unsigned i = 0; i < b->n_queues; i++)
                if (b->session.rings[i].miss.is_due && !b->session.rings[i].miss.is_asked)
                        ask(b, i);
}

void vhk_iotlb_missed(struct vhk_backend *b, unsigned i, uint64_t iova, unsigned perm) {
        struct vhk_ring_value *r = &b->session.rings[i];

        if (!b->session.iotlb || b->state != VHK_BACKEND_SERVING ||
            (r->state != VHK_RING_STATE_RUNNING && r->state != VHK_RING_STATE_STALLED))
                return;                 /* a ring that stops needs it no more */
        if (vhk_iotlb_reach(b->session.iotlb, iova, 1, perm))
                return;                 /* an update was quicker: the ring will see it */
        (void)vhk_ring_event(b, i, VHK_RING_EVENT_MISS);
        if (r->miss.is_due && r->miss.iova == iova && r->miss.perm == perm)
                return;
        r->miss = (struct vhk_ring_miss){ .is_due = true, .iova = iova, .perm = (uint8_t)perm, .deadline = vhk_now_ns() + b->limit_ns };
        ask(b, i);
        set_timer(b);
}

/* [iova, iova + len) was updated: is that what ring @i waits for? */
static void look_at_answer(struct vhk_backend *b, unsigned i, const struct vhk_p_iotlb *p) {
        struct vhk_ring_miss *m = &b->session.rings[i].miss;
        struct vhk_p_iotlb fail = { .iova = m->iova, .len = VHK_PAGE, .perm = m->perm, .type = VHK_IOTLB_ACCESS_FAIL };

        if (!m->is_due || m->iova - p->iova >= p->len)
                return;
        if (vhk_iotlb_reach(b->session.iotlb, m->iova, 1, m->perm)) {
                *m = (struct vhk_ring_miss){ .is_due = false };
        } else if (++m->n_useless == USELESS_MAX) {
                (void)vhk_channel_send(&b->channel, VHK_BE_IOTLB_MSG, &fail, sizeof(fail), -1, NULL, 0);
                give_up(b, i, "does not allow the access");
        } else {
                ask(b, i);
        }
}

/* ---- IOTLB_MSG ---- */

static void changed(struct vhk_backend *b, int error) {
        if (error < 0)
                b->session.iotlb->evicted = true;       /* what is gone may be in use: the next invalidation waits for that too */
        vhk_token_answer(b, error, NULL, 0);
}

/* The rings have adopted session.iotlb, or also settled, when the answer goes out. */
static int publish(struct vhk_backend *b, struct vhk_call *c, const struct vhk_p_iotlb *p, enum vhk_ring_wait wait) {
        for (unsigned i = 0; i < b->n_queues; i++) {
                if (!vhk_ring_runs(b, i))
                        continue;
                if (p->type == VHK_IOTLB_UPDATE)
                        look_at_answer(b, i, p);
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_IOTLB);
                int k = vhk_ring_publish(b, i);
                if (k < 0) {
                        vhk_session_fail(b, k, "iotlb.plan", "no ring plan: %s", strerror(-k));
                        return k;
                }
                vhk_ring_wait(b, i, wait);
        }
        return vhk_ring_waits(b) ? vhk_token_take(b, c, changed) : 0;
}

static int update(struct vhk_backend *b, const struct vhk_p_iotlb *p, struct vhk_call *c) {
        bool is_gpa = b->session.wire.protocol & VHK_BIT(VHK_PF_GPA_ADDRESSES);

        int k = vhk_iotlb_update(&b->session.iotlb, p->iova, p->len, p->user_addr, is_gpa, p->perm, &b->story);
        return k < 0 ? k : publish(b, c, p, VHK_WAIT_ADOPTED);
}

static int invalidate(struct vhk_backend *b, const struct vhk_p_iotlb *p, struct vhk_call *c) {
        int k = vhk_iotlb_invalidate(&b->session.iotlb, p->iova, p->len);
        if (k < 0) {
                vhk_session_fail(b, k, "iotlb.no-memory", "a translation cannot be invalidated: %s", strerror(-k));
                return k;
        }
        return k == 1 ? 0 : publish(b, c, p, VHK_WAIT_SETTLED);
}

int vhk_on_IOTLB_MSG(struct vhk_backend *b, const struct vhk_p_iotlb *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        return p->type == VHK_IOTLB_UPDATE ? update(b, p, c) : invalidate(b, p, c);
}
