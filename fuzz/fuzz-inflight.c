/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A back-end that is given an in-flight record with anything in it, and a ring whose memory holds anything. An input is the
 * record (of one ring), the ring's page, and a script in the words of back-end.h; the ring is stopped and started again on
 * what is in the record then. Whatever the record says, the ring runs or breaks, in bounded time, and all is given back.
 */
#include "fuzz/back-end.h"

#include "ring/inflight.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void set_record(void) {
        struct vhk_p_inflight p = { .mmap_size = 0x1000, .num_queues = FZ_RINGS, .queue_size = FZ_RING };

        fz_say(VHK_FE_SET_INFLIGHT_FD, &p, sizeof(p), FD_LOG);
}

/* Honest chains in every descriptor; the script may spoil them. */
static void make_ring(struct script *s) {
        struct vhk_desc *d = (struct vhk_desc *)fz_mem;
        struct vhk_avail *a = (struct vhk_avail *)(fz_mem + 0x400);
        struct vhk_used *u = (struct vhk_used *)(fz_mem + 0x800);

        for (uint16_t i = 0; i < FZ_RING; i++) {
                d[i] = (struct vhk_desc){ vhk_le64_of(FZ_GPA + 0x4000u + 64u * i), vhk_le32_of(32), vhk_le16_of(i & 1 ? VHK_DESC_WRITE : VHK_DESC_NEXT), vhk_le16_of((uint16_t)(i + 1)) };
                a->ring[i] = vhk_le16_of(take8(s) % (FZ_RING + 1));
        }
        u->idx = vhk_le16_of((uint16_t)(int8_t)take8(s));
        fz.avail[0] = (uint16_t)(vhk_le16_get(u->idx) + take8(s) % (FZ_RING + 2));
        a->idx = vhk_le16_of(fz.avail[0]);
}

static void session(struct script *s) {
        uint8_t record[0x1000] = { 0 };
        size_t n = vhk_inflight_split_bytes(FZ_RING);

        take(s, record, n);
        if (take8(s) & 1)               /* most of the rules are behind these two */
                record[8] = 1, record[9] = 0, record[10] = FZ_RING, record[11] = 0;
        MUST(pwrite(fz_logfd, record, sizeof(record), 0) == sizeof(record));
        fz_begin();
        fz_setup(take8(s) & 1, 0);
        make_ring(s);
        fz.dev.hold = take8(s) & 1;
        for (unsigned life = 0; life < 3 && fz.b; life++) {
                set_record();
                fz_ring(0, false);
                for (unsigned i = 0; i < 6 && s->p < s->end && fz.b; i++)
                        fz_step(s);
                if (!(take8(s) & 1) || !fz.b)
                        continue;
                fz_say_ring(take8(s) & 1 ? VHK_FE_GET_VRING_BASE : VHK_FE_GET_VRING_BASE_SKIP_DRAIN, 0, 0);
                fz_release(&fz.dev);
                fz_turn();
        }
        fz_end();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct script s = { size ? data : (const uint8_t *)"", NULL };
        static bool ready;

        if (!ready)
                fz_session(NULL, 0, false);
        ready = true;
        s.end = s.p + size;
        struct fd_mark fds = fd_mark();
        session(&s);
        fd_check(fds);
        return 0;
}
