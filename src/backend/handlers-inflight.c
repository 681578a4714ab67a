/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The in-flight record as messages: made for the front-end, which keeps it, and taken back from it. What is in it is
 * written and read by the rings alone, at their homes (ring/inflight.h); control counts what they leave. Control worker.
 *
 * Each GET is a record of its own (QEMU asks anew when its guest was reset), and we keep nothing of it: SET brings it back.
 * Source: vhost-user, "Inflight I/O tracking"; QEMU sends the queue size of the device; its
 * driver's may be smaller or larger.
 */
#include <stdio.h>

#include "backend/session.h"
#include "mem/mapping.h"

static uint64_t inflight_bytes(unsigned n_rings, unsigned n_entries) {
        return n_rings * vhk_inflight_split_bytes(n_entries);   /* at most 256 times 512 KiB */
}

/*
 * A front-end asks for the queue size that it was configured with, and its driver may be shown a
 * larger one (QEMU 10.0: always 1024). So the record is for the largest ring that is served here.
 * Its size is not rounded up: see inflight_entries(). The reply has 24 bytes, also to a request of
 * 20: QEMU takes no other.
 */
int vhk_on_GET_INFLIGHT_FD(struct vhk_backend *b, const struct vhk_p_inflight *p, struct vhk_call *c, struct vhk_p_inflight *ret_reply) {
        unsigned n_entries = VHK_MAX(p->queue_size, b->ring_size_max);
        uint64_t len = inflight_bytes(p->num_queues, n_entries);

        int ret = vhk_area_make("vhostkit-inflight", len, &c->reply_fd, &b->story);
        if (ret < 0)
                return ret;
        *ret_reply = (struct vhk_p_inflight){ .mmap_size = len, .num_queues = p->num_queues, .queue_size = (uint16_t)n_entries };
        return 0;
}

/*
 * The entries of each ring's part of the record @p. QEMU returns mmap_size as it was given and
 * queue_size as it had asked, so the size decides where it is that of a record for a larger power
 * of two. Other back-ends' records are for queue_size, at times rounded up to pages.
 */
static unsigned inflight_entries(const struct vhk_p_inflight *p) {
        for (unsigned n = VHK_QUEUE_MAX_SIZE; n > p->queue_size; n /= 2)
                if (inflight_bytes(p->num_queues, n) == p->mmap_size)
                        return n;
        return p->queue_size;
}

int vhk_on_SET_INFLIGHT_FD(struct vhk_backend *b, const struct vhk_p_inflight *p, struct vhk_call *c, struct vhk_p_none *ret_reply) {
        struct vhk_inflight_area *a = &b->session.inflight;
        struct vhk_mapping *m;

        if (p->mmap_size < inflight_bytes(p->num_queues, p->queue_size))
                return vhk_refuse(b, -EINVAL, "inflight.size", "a record of %llu bytes does not hold %u rings of %u entries",
                                  (unsigned long long)p->mmap_size, p->num_queues, p->queue_size);
        int k = vhk_memory_check_file(b, c->fds[0]);
        if (k == 0)
                k = vhk_area_map(c->fds[0], p->mmap_offset, p->mmap_size, &m, &b->story);
        if (k < 0)
                return k;
        vhk_mapping_unref(a->mapping);
        *a = (struct vhk_inflight_area){ .warned = a->warned, .mapping = m, .n_rings = p->num_queues, .n_entries = (uint16_t)inflight_entries(p) };
        return 0;
}

bool vhk_inflight_has_ring(const struct vhk_backend *b, unsigned i) {
        const struct vhk_session *s = &b->session;

        return s->inflight.mapping && i < s->inflight.n_rings && s->rings[i].num <= s->inflight.n_entries;
}

void vhk_inflight_check_ring(struct vhk_backend *b, unsigned i) {
        struct vhk_session *s = &b->session;

        if (!s->inflight.mapping || s->inflight.warned || s->rings[i].num <= s->inflight.n_entries)
                return;
        s->inflight.warned = true;
        vhk_log(&b->log, VHK_LOG_WARNING, "ring %u: it has %u entries and the in-flight record is for %u: its requests are not "
                "recorded, and are lost if this process is killed", i, s->rings[i].num, s->inflight.n_entries);
}

/* Of a ring that the record has. */
static uint8_t *inflight_record(const struct vhk_inflight_area *a, unsigned i) {
        return a->mapping->host + a->offset + i * vhk_inflight_split_bytes(a->n_entries);
}

void vhk_inflight_fill(const struct vhk_backend *b, unsigned i, struct vhk_ring_config *c) {
        const struct vhk_inflight_area *a = &b->session.inflight;

        if (!vhk_inflight_has_ring(b, i))
                return;
        c->inflight = inflight_record(a, i);
        c->inflight_mapping = a->mapping;
        c->inflight_num = a->n_entries;
}

void vhk_inflight_tell(const struct vhk_backend *b, char *text, size_t room) {
        const struct vhk_session *s = &b->session;
        unsigned total = 0, n_told = 0;
        char each[96] = "";
        size_t at = 0;

        text[0] = '\0';
        for (unsigned i = 0; i < b->n_queues; i++) {
                unsigned n = 0;
                if (vhk_inflight_has_ring(b, i) && vhk_ring_runs(b, i))
                        n = vhk_inflight_count(inflight_record(&s->inflight, i), (uint16_t)s->rings[i].num);
                if (n && n_told++ < 4)          /* enough for a sentence */
                        at += (size_t)snprintf(each + at, sizeof(each) - at, "%sring %u: %u", at ? ", " : "", i, n);
                else if (n && n_told == 5)
                        at += (size_t)snprintf(each + at, sizeof(each) - at, " ...");
                total += n;
        }
        if (s->inflight.mapping)
                snprintf(text, room, ": %u left in the in-flight record%s%s%s", total, total ? " (" : "", each, total ? ")" : "");
}

bool vhk_inflight_is_bad(const struct vhk_backend *b) {
        return b->session.inflight.mapping && vhk_mapping_is_bad(b->session.inflight.mapping);
}

void vhk_inflight_forget(struct vhk_backend *b) {
        b->session.inflight.mapping = vhk_mapping_unref(b->session.inflight.mapping);
}
