/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The in-flight record as messages: made for the front-end, which keeps it, and taken back from it. What is in it is
 * written and read by the rings alone, at their homes (ring/inflight.h); control counts what they leave. Control worker.
 *
 * Each GET is a record of its own (QEMU asks anew when its guest was reset), and we keep nothing of it: SET brings it back.
 * Source: vhost-user, "Inflight I/O tracking"; QEMU sends the queue size of the device, which a driver may undercut.
 */
#include <stdio.h>

#include "backend/session.h"
#include "mem/mapping.h"

static uint64_t bytes_of(const struct vhk_p_inflight *p) {
        return p->num_queues * vhk_inflight_split_bytes(p->queue_size);         /* at most 256 times 512 KiB */
}

/* The answer has 24 bytes, also where 20 came: QEMU takes no other. */
int vhk_on_GET_INFLIGHT_FD(struct vhk_backend *b, const struct vhk_p_inflight *p, struct vhk_call *c, struct vhk_p_inflight *ret_reply) {
        uint64_t len = (bytes_of(p) + VHK_PAGE - 1) & ~(uint64_t)(VHK_PAGE - 1);

        int k = vhk_area_make("vhostkit-inflight", len, &c->reply_fd, &b->story);
        if (k < 0)
                return k;
        *ret_reply = (struct vhk_p_inflight){ .mmap_size = len, .num_queues = p->num_queues, .queue_size = p->queue_size };
        return 0;
}

int vhk_on_SET_INFLIGHT_FD(struct vhk_backend *b, const struct vhk_p_inflight *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_inflight_area *a = &b->session.inflight;
        struct vhk_mapping *m;

        if (p->mmap_size < bytes_of(p))
                return vhk_refuse(b, -EINVAL, "inflight.size", "a record of %llu bytes does not hold %u rings of %u entries",
                                  (unsigned long long)p->mmap_size, p->num_queues, p->queue_size);
        int k = vhk_area_map(c->fds[0], p->mmap_offset, p->mmap_size, &m, &b->story);
        if (k < 0)
                return k;
        vhk_mapping_unref(a->mapping);
        *a = (struct vhk_inflight_area){ .mapping = m, .n_rings = p->num_queues, .n_entries = p->queue_size };
        return 0;
}

bool vhk_inflight_has_ring(const struct vhk_backend *b, unsigned i) {
        return b->session.inflight.mapping && i < b->session.inflight.n_rings;
}

int vhk_inflight_check_ring(struct vhk_backend *b, unsigned i) {
        const struct vhk_session *s = &b->session;

        if (!vhk_inflight_has_ring(b, i) || s->rings[i].num <= s->inflight.n_entries)
                return 0;
        return vhk_refuse(b, -EINVAL, "inflight.ring-size", "ring %u has %u entries, its in-flight record %u", i, s->rings[i].num, s->inflight.n_entries);
}

void vhk_inflight_fill(const struct vhk_backend *b, unsigned i, struct vhk_ring_config *c) {
        const struct vhk_inflight_area *a = &b->session.inflight;

        if (!vhk_inflight_has_ring(b, i))
                return;
        c->inflight = a->mapping->host + a->offset + i * vhk_inflight_split_bytes(a->n_entries);
        c->inflight_mapping = a->mapping;
        c->inflight_num = a->n_entries;
}

void vhk_inflight_tell(const struct vhk_backend *b, char *text, size_t room) {
        const struct vhk_session *s = &b->session;
        unsigned total = 0, n_told = 0;
        char each[96] = "";
        size_t at = 0;

        text[0] = '\0';
        for (unsigned i = 0; i < b->n_queues && vhk_inflight_has_ring(b, i); i++) {
                const uint8_t *record = s->inflight.mapping->host + i * vhk_inflight_split_bytes(s->inflight.n_entries);
                unsigned n = vhk_ring_runs(b, i) ? vhk_inflight_count(record, (uint16_t)s->rings[i].num) : 0;
                if (n && n_told++ < 4)          /* enough for a sentence */
                        at += (size_t)snprintf(each + at, sizeof(each) - at, "%sring %u: %u", at ? ", " : "", i, n);
                else if (n && n_told == 5)
                        at += (size_t)snprintf(each + at, sizeof(each) - at, " ...");
                total += n;
        }
        if (s->inflight.mapping)
                snprintf(text, room, ": %u left in the front-end's in-flight record%s%s%s", total, total ? " (" : "", each, total ? ")" : "");
}

bool vhk_inflight_is_bad(const struct vhk_backend *b) {
        return b->session.inflight.mapping && vhk_mapping_is_bad(b->session.inflight.mapping);
}

void vhk_inflight_forget(struct vhk_backend *b) {
        b->session.inflight.mapping = vhk_mapping_unref(b->session.inflight.mapping);
}
