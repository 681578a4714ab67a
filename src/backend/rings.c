/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Control's half of the rings: the state table is asked, the session's values become orders,
 * reports change the state.
 * Control worker.
 * Source: vhost-user, "Ring states", "Multiple queue support".
 */
#include "backend/session.h"
#include "mem/iotlb.h"

int vhk_ring_event(struct vhk_backend *b, unsigned i, enum vhk_ring_event event) {
        struct vhk_ring_value *r = &b->session.rings[i];
        enum vhk_ring_state next;

        int action = vhk_ring_next_state(r->state, event, &next);
        if (action < 0)
                return vhk_refuse(b, -EBUSY, "ring.state", "ring %u is %s: no %s", i, vhk_ring_state_name(r->state),
                                  vhk_ring_event_name(event));
        r->state = next;
        b->session.wire.running = false;
        for (unsigned k = 0; k < b->n_queues; k++)
                b->session.wire.running |= b->session.rings[k].state != VHK_RING_STATE_STOPPED;
        return action;
}

bool vhk_ring_runs(const struct vhk_backend *b, unsigned i) {
        return b->session.rings[i].state != VHK_RING_STATE_STOPPED;
}

struct area {
        uint64_t uva, len;              /* user address, or another one */
        void *host;
        uint8_t perm;
        struct vhk_view **view;         /* the session's */
};

static bool areas_overlap(const struct area *a, const struct area *b) {
        return a->uva < b->uva + b->len && b->uva < a->uva + a->len;
}

/* A guest's pages need not lie side by side; here they shall. A page that is to come by postcopy is
 * known to the front-end by the address of its region only. */
static int find_pieces(struct vhk_backend *b, const struct vhk_memmap *mem, struct area *a) {
        int ret = b->session.postcopy == VHK_POSTCOPY_NONE ? vhk_view_update(a->view, mem, a->uva, a->len, a->perm) : -EOPNOTSUPP;

        if (ret >= 0)
                a->host = (*a->view)->host;
        else
                vhk_log(&b->log, VHK_LOG_WARNING, "an area of a ring (0x%llx, %llu bytes) lies in pieces that cannot be mapped side by side: %s",
                        (unsigned long long)a->uva, (unsigned long long)a->len, strerror(-ret));
        return 0;
}

/* IOVA with translations, else guest address with GPA_ADDRESSES, else user address. -EAGAIN: a translation is missing */
static int find_area(struct vhk_backend *b, struct vhk_ring_value *r, const struct vhk_memmap *mem, struct area *a) {
        uint64_t end;

        if (!mem->guest && (b->session.wire.protocol & VHK_BIT(VHK_PF_GPA_ADDRESSES)))
                a->host = vhk_memmap_host_gpa(mem, (vhk_gpa_t){ a->uva }, a->len);
        else if (!mem->guest)
                a->host = vhk_memmap_host_uva(mem, (vhk_uva_t){ a->uva }, a->len);
        else
                a->host = vhk_iotlb_host(mem, a->uva, a->len, a->perm);
        if (a->host)
                *a->view = vhk_view_unref(*a->view);
        if (a->host || !mem->guest || vhk_add_overflows(a->uva, a->len, &end))
                return 0;
        uint64_t there = vhk_iotlb_reach(mem, a->uva, a->len, a->perm);
        if (there == a->len)            /* but in pieces */
                return find_pieces(b, mem, a);
        r->want_iova = a->uva + there;
        r->want_perm = a->perm;
        return -EAGAIN;
}

/* What to look for where an area begins outside of every region. */
static const char *area_hint(const struct vhk_backend *b, const struct vhk_memmap *mem, const struct area *a) {
        bool is_gpa = b->session.wire.protocol & VHK_BIT(VHK_PF_GPA_ADDRESSES);

        if (mem->guest || (is_gpa ? vhk_memmap_host_gpa(mem, (vhk_gpa_t){ a->uva }, 1) : vhk_memmap_host_uva(mem, (vhk_uva_t){ a->uva }, 1)))
                return "";
        return ", but in no shared memory (QEMU: -object memory-backend-memfd,share=on,... and -machine memory-backend=...)";
}

static int resolve_area(struct vhk_backend *b, unsigned i, const struct vhk_memmap *mem, const char *name, unsigned align, struct area *a) {
        int k = find_area(b, &b->session.rings[i], mem, a);
        if (k < 0)
                return k;
        if (!a->host)
                return vhk_refuse(b, -EFAULT, "ring.area", "ring %u: its %s (0x%llx, %llu bytes) is not inside of one region%s", i, name,
                                  (unsigned long long)a->uva, (unsigned long long)a->len, area_hint(b, mem, a));
        if ((uintptr_t)a->host % align)
                return vhk_refuse(b, -EINVAL, "ring.alignment", "ring %u: its %s (0x%llx) is not aligned to %u", i, name,
                                  (unsigned long long)a->uva, align);
        return 0;
}

static int resolve(struct vhk_backend *b, unsigned i, const struct vhk_memmap *mem, struct vhk_ring_config *ret_c) {
        struct vhk_ring_value *r = &b->session.rings[i];
        struct area a[3] = {
                { r->addr.desc, vhk_desc_bytes(r->num), NULL, VHK_IOTLB_R, &r->views[0] },
                { r->addr.avail, vhk_avail_bytes(r->num), NULL, VHK_IOTLB_R, &r->views[1] },
                { r->addr.used, vhk_used_bytes(r->num), NULL, VHK_IOTLB_RW, &r->views[2] },
        };
        static const struct { const char *name; unsigned align; } areas[3] = {
                { "descriptor table", 16 }, { "available ring", 2 }, { "used ring", 4 },
        };

        if (r->num == 0 || !r->has_addr)
                return vhk_refuse(b, -EINVAL, "ring.unset", "ring %u: its %s is not set", i, r->num ? "address" : "size");
        for (unsigned k = 0; k < VHK_N(a); k++) {
                int e = resolve_area(b, i, mem, areas[k].name, areas[k].align, &a[k]);
                if (e < 0)
                        return e;
        }
        if (areas_overlap(&a[0], &a[1]) || areas_overlap(&a[0], &a[2]) || areas_overlap(&a[1], &a[2]))
                return vhk_refuse(b, -EINVAL, "ring.overlap", "ring %u: its areas overlap", i);
        ret_c->desc = a[0].host;
        ret_c->avail = a[1].host;
        ret_c->used = a[2].host;
        memcpy(ret_c->views, r->views, sizeof(ret_c->views));
        return 0;
}

int vhk_ring_resolve(struct vhk_backend *b, unsigned i, struct vhk_ring_config *ret_c) {
        const struct vhk_ring_value *r = &b->session.rings[i];
        int ret;

        /* three areas, each of which may need its range; beyond that ranges drive each other out */
        for (unsigned n = 0; n < VHK_MEM_MAX_REGIONS; n++) {
                ret = resolve(b, i, vhk_session_mem(b), ret_c);
                if (ret != -EAGAIN || !b->carrier->fetch || r->state == VHK_RING_STATE_BROKEN)
                        break;
                if (b->carrier->fetch(b, r->want_iova, r->want_perm) < 0)
                        break;
        }
        ret_c->mem = vhk_session_mem(b);
        ret_c->stalled = ret == -EAGAIN;
        return ret_c->stalled ? 0 : ret;
}

/* ---- orders ---- */

static int make_setup(struct vhk_backend *b, unsigned i, const struct vhk_ring_config *areas, struct vhk_vring_setup *ret_setup) {
        const struct vhk_session *s = &b->session;
        const struct vhk_ring_value *r = &s->rings[i];
        struct vhk_ring_config values = {
                .mem = areas->mem,
                .desc = areas->desc,
                .avail = areas->avail,
                .used = areas->used,
                .views = { areas->views[0], areas->views[1], areas->views[2] },
                .stalled = areas->stalled,
                .num = (uint16_t)r->num,
                .enabled = r->enabled,
                .discard = b->ops->disabled == VHK_DISABLED_DISCARD,
                .event_idx = !!(s->wire.features & VHK_BIT(VHK_F_EVENT_IDX)),
                .indirect = !!(s->wire.features & VHK_BIT(VHK_F_INDIRECT_DESC)),
                .call = r->call,
                .err = r->err,
        };
        struct vhk_vring_setup setup = { .poll = r->polled };

        int ret = b->carrier->fill(b, i, &values);
        if (ret < 0)
                return ret;
        if (s->iotlb)
                vhk_iotlb_fill_log(b, &values);
        ret = vhk_ring_config_new(&values, &setup.config);
        if (ret < 0)
                return ret;
        setup.kick = vhk_fdref_ref(r->kick);
        *ret_setup = setup;
        return 0;
}

/* A ring that got its order without areas waits for a translation. */
static void look_at_areas(struct vhk_backend *b, unsigned i, const struct vhk_ring_config *areas) {
        const struct vhk_ring_value *r = &b->session.rings[i];

        if (!areas->stalled)
                return;
        if (b->carrier->fetch)          /* in vain: it waits for other translations */
                (void)vhk_ring_event(b, i, VHK_RING_EVENT_MISS);
        else
                b->carrier->missed(b, i, r->want_iova, r->want_perm);
}

int vhk_ring_send_start(struct vhk_backend *b, unsigned i, const struct vhk_ring_config *areas) {
        struct vhk_vring_setup setup;

        int ret = make_setup(b, i, areas, &setup);
        if (ret < 0)
                return ret;
        b->session.rings[i].start_error = 0;
        vhk_vring_start(&b->rings[i], &setup, b->session.rings[i].base);
        look_at_areas(b, i, areas);
        return 0;
}

int vhk_ring_send_update(struct vhk_backend *b, unsigned i, const struct vhk_ring_config *areas) {
        struct vhk_vring_setup setup;

        int ret = make_setup(b, i, areas, &setup);
        if (ret < 0)
                return ret;
        vhk_vring_update(&b->rings[i], &setup);
        look_at_areas(b, i, areas);
        return 0;
}

/* A ring that broke because its memory had gone is published without areas. */
int vhk_ring_publish(struct vhk_backend *b, unsigned i) {
        struct vhk_ring_config areas = { .stalled = false };

        int ret = vhk_ring_resolve(b, i, &areas);
        if (ret < 0 && b->session.rings[i].state != VHK_RING_STATE_BROKEN)
                return ret;
        return vhk_ring_send_update(b, i, &areas);
}

int vhk_ring_publish_all(struct vhk_backend *b) {
        for (unsigned i = 0; i < b->n_queues; i++)
                if (vhk_ring_runs(b, i)) {
                        int k = vhk_ring_publish(b, i);
                        if (k < 0)
                                return k;
                }
        return 0;
}

static void forget_miss(struct vhk_ring_value *r) {
        r->miss = (struct vhk_ring_miss){ .is_due = false };
}

void vhk_ring_fail(struct vhk_backend *b, unsigned i, enum vhk_ring_rule rule) {
        forget_miss(&b->session.rings[i]);
        (void)vhk_ring_event(b, i, VHK_RING_EVENT_FAULT);
        vhk_vring_break(&b->rings[i], rule);
}

/* Nothing that is not in flight and misses a translation is done any more: none is read while the
 * reply to the stop is pending. */
void vhk_ring_stop(struct vhk_backend *b, unsigned i, enum vhk_stop how) {
        forget_miss(&b->session.rings[i]);
        vhk_vring_stop(&b->rings[i], how);
}

/* ---- reports ---- */

static void forget_kick(struct vhk_ring_value *r) {
        r->kick = vhk_fdref_unref(r->kick);
        r->polled = false;
        forget_miss(r);
}

void vhk_ring_not_started(struct vhk_backend *b, unsigned i, int error) {
        struct vhk_ring_value *r = &b->session.rings[i];

        r->start_error = error;
        (void)vhk_ring_event(b, i, VHK_RING_EVENT_NOT_STARTED);
        if (!vhk_ring_runs(b, i))
                forget_kick(r);
}

static void forget_views(struct vhk_ring_value *r) {
        for (unsigned i = 0; i < VHK_N(r->views); i++)
                r->views[i] = vhk_view_unref(r->views[i]);
}

void vhk_ring_stopped(struct vhk_backend *b, unsigned i) {
        struct vhk_ring_value *r = &b->session.rings[i];

        vhk_inband_flush(b, i);
        r->base = vhk_vring_take_stopped(&b->rings[i]);
        forget_kick(r);
        forget_views(r);
        (void)vhk_ring_event(b, i, VHK_RING_EVENT_DRAINED);
        if (r->forget_due)
                vhk_ring_forget(r);
        if (!b->session.wire.running)
                b->carrier->stopped(b);
}

void vhk_ring_wait(struct vhk_backend *b, unsigned i, enum vhk_ring_wait wait) {
        b->rings[i].wait = wait;
        b->rings[i].wait_seq = b->rings[i].seq;
}

bool vhk_ring_waits(struct vhk_backend *b) {
        bool any = false;

        for (unsigned i = 0; i < b->n_queues; i++) {
                struct vhk_vring *v = &b->rings[i];
                if ((v->wait == VHK_WAIT_ADOPTED && vhk_vring_has_adopted(v, v->wait_seq)) ||
                    (v->wait == VHK_WAIT_SETTLED && vhk_vring_has_settled(v, v->wait_seq)) ||
                    (v->wait == VHK_WAIT_STOPPED && !v->stop_due))
                        v->wait = VHK_WAIT_NONE;
                any |= v->wait != VHK_WAIT_NONE;
        }
        return any;
}

/* Everything that was said of a ring but its notification descriptors, which outlive a reset of the device. */
void vhk_ring_forget(struct vhk_ring_value *r) {
        vhk_fdref_unref(r->kick);
        forget_views(r);
        *r = (struct vhk_ring_value){ .state = VHK_RING_STATE_STOPPED, .call = r->call, .err = r->err };
}
