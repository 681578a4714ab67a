/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The in-flight record of a packed ring, against a model of the ring and its driver. The hook behind each store leaves the
 * life that is going on by a jump, for all stores; memory stays as it is, and the next life begins from it.
 */
#include "base/test.h"
#include "ring/inflight-packed.h"
#include "ring/inflight.h"

#define NUM 8u
#define N_REQUESTS 30u

static unsigned n_stores, die_at;
static jmp_buf grave;

void vhk_inflight_stored(void) {
        if (++n_stores == die_at)
                longjmp(grave, 1);
}

/* What outlives the device. */
static struct {
        uint64_t record[(32 * NUM + 64) / 8];
        struct vhk_packed_desc ring[NUM];
        /* driver */
        uint16_t next, seen, n_free, length[N_REQUESTS + 1];
        bool wrap, seen_wrap, done[N_REQUESTS + 1], wrong;
        unsigned n_offered, n_done;
        uint64_t random;
} w;

static unsigned pick(unsigned n) {
        w.random ^= w.random << 13;
        w.random ^= w.random >> 7;
        w.random ^= w.random << 17;
        return (unsigned)(w.random >> 33) % n;
}

static uint16_t flags_of(bool avail, bool used) {
        return (uint16_t)((avail ? VHK_PACKED_AVAIL : 0) | (used ? VHK_PACKED_USED : 0));
}

static void step(uint16_t *at, bool *wrap, unsigned n) {
        *wrap ^= *at + n >= NUM;
        *at = (uint16_t)((*at + n) % NUM);
}

/* A chain of 1 to 3; its id is its number, its addresses say which and where. */
static void offer(void) {
        uint16_t n = (uint16_t)(1 + pick(3));

        if (w.n_offered == N_REQUESTS || n > w.n_free)
                return;
        w.n_offered++;
        w.length[w.n_offered] = n;
        for (uint16_t k = 0; k < n; k++) {
                w.ring[w.next] = (struct vhk_packed_desc){ vhk_le64_of(w.n_offered * 16 + k), vhk_le32_of(n), vhk_le16_of((uint16_t)w.n_offered),
                                                           vhk_le16_of(flags_of(w.wrap, !w.wrap)) };
                step(&w.next, &w.wrap, 1);
        }
        w.n_free -= n;
}

static void reap(void) {
        for (;;) {
                struct vhk_packed_desc d = w.ring[w.seen];
                uint16_t id = vhk_le16_get(d.id);
                if ((vhk_le16_get(d.flags) & (VHK_PACKED_AVAIL | VHK_PACKED_USED)) != flags_of(w.seen_wrap, w.seen_wrap) || w.n_done == w.n_offered)
                        return;
                if (id == 0 || id > w.n_offered || w.done[id]) {
                        w.wrong = true;
                        return;
                }
                w.done[id] = true;
                w.n_done++;
                w.n_free += w.length[id];
                step(&w.seen, &w.seen_wrap, w.length[id]);
        }
}

/* ---- a device ---- */

struct held { uint16_t head, id, n; };

static void flush(struct vhk_packed_record *p, const struct held *h, unsigned n, uint16_t *used, bool *wrap) {
        uint16_t first = *used;
        bool first_wrap = *wrap;

        if (!n)
                return;
        vhk_packed_record_publish(p);
        for (unsigned k = 0; k < n; k++) {      /* the first becomes visible last */
                w.ring[*used].id = vhk_le16_of(h[k].id);
                if (k)
                        w.ring[*used].flags = vhk_le16_of(flags_of(*wrap, *wrap));
                vhk_inflight_stored();
                step(used, wrap, h[k].n);
        }
        vhk_store_release(&w.ring[first].flags.v, vhk_le16_of(flags_of(first_wrap, first_wrap)).v);
        vhk_inflight_stored();
        if (pick(2))
                reap();                         /* and the driver is quick: it uses them again before the record knows */
        if (pick(2))
                offer();
        vhk_packed_record_published(p);
        CHECK_EQ(p->used_idx, *used);
        CHECK_EQ(p->used_wrap, *wrap);
}

/* Takes the chain at the avail index, if there is one. */
static bool take(struct vhk_packed_record *p, struct held *ret_h) {
        struct vhk_packed_desc d[3];
        uint16_t at = p->avail_idx;
        bool wrap = p->avail_wrap;
        unsigned n;

        if ((vhk_le16_get(w.ring[at].flags) & (VHK_PACKED_AVAIL | VHK_PACKED_USED)) != flags_of(wrap, !wrap))
                return false;
        n = vhk_le32_get(w.ring[at].len);
        for (unsigned k = 0; k < n; k++) {
                d[k] = w.ring[at];
                step(&at, &wrap, 1);
        }
        int head = vhk_packed_record_take(p, d, n);
        CHECK_OK(head);
        *ret_h = (struct held){ (uint16_t)head, vhk_le16_get(d[0].id), (uint16_t)n };
        return true;
}

/* Recovered chains come first, in their order, as they were taken. */
static unsigned resubmit(struct vhk_packed_record *p, struct held *held) {
        struct vhk_packed_desc d[NUM];
        unsigned last = 0;

        for (unsigned i = 0; i < p->n_recovered; i++) {
                unsigned n = vhk_packed_record_get(p, p->recovered[i], d), id = vhk_le16_get(d[0].id);
                CHECK_EQ(n, w.length[id]);
                for (unsigned k = 0; k < n; k++)
                        CHECK_EQ(vhk_le64_get(d[k].addr), id * 16 + k);
                CHECK_MSG(id > last, "%u is recovered behind %u", id, last);
                CHECK_MSG(!w.done[id], "%u is recovered, and was answered", id);
                last = id;
                held[i] = (struct held){ p->recovered[i], (uint16_t)id, (uint16_t)n };
        }
        return p->n_recovered;
}

static void serve(struct vhk_packed_record *p) {
        struct held held[NUM], batch[NUM];
        unsigned n = resubmit(p, held);
        uint16_t used = p->used_idx;
        bool wrap = p->used_wrap;

        while (w.n_done < N_REQUESTS && !w.wrong) {
                unsigned n_batch = 0;
                offer();
                while (pick(3) && n < NUM && take(p, &held[n]))
                        n++;
                for (unsigned k = pick(4); k && n; k--) {
                        unsigned at = pick(n);
                        batch[n_batch++] = held[at];
                        vhk_packed_record_answer(p, held[at].head);
                        held[at] = held[--n];
                }
                flush(p, batch, n_batch, &used, &wrap);
                reap();
        }
}

static void begin(uint64_t seed) {
        memset(&w, 0, sizeof(w));
        w.wrap = w.seen_wrap = true;
        w.n_free = NUM;
        w.random = 88172645463325252ull + seed * 2654435761u;
}

/* Dies at store @first of the first life, then at @second; the third lives. False: there is no such store. */
static bool lives(uint64_t seed, unsigned first, unsigned second) {
        static struct vhk_packed_record *p;
        unsigned deaths[3] = { first, second, 0 };
        static unsigned life;
        static bool died;

        begin(seed);
        died = false;
        for (life = 0; life < 3; life++) {
                CHECK_OK(vhk_packed_record_new(NUM, &p));
                n_stores = 0;
                die_at = deaths[life];
                bool dies = setjmp(grave);
                if (!dies) {
                        int k = vhk_packed_record_open(p, w.record, w.ring, 0, true);
                        CHECK_MSG(k >= 0, "death at %u: the record is refused", first);
                        reap();
                        serve(p);
                }
                die_at = 0;
                vhk_packed_record_free(p);
                died |= dies && life == 0;
                if (!dies)
                        break;
                reap();
        }
        CHECK_MSG(!w.wrong, "seed %u, death at %u: an answer that nobody asked for, or twice", (unsigned)seed, first);
        CHECK_EQ(w.n_done, N_REQUESTS);
        const struct vhk_inflight_packed *r = (void *)w.record;
        for (unsigned i = 0; i < NUM; i++)
                CHECK_EQ(r->entries[i].inflight, 0);
        return died;
}

TEST(bytes_of_a_record) {
        CHECK_EQ(vhk_inflight_packed_bytes(128), 4160);
        for (unsigned n = 1; n < 70; n++)
                CHECK(vhk_inflight_packed_bytes(n) >= sizeof(struct vhk_inflight_packed) + n * sizeof(struct vhk_inflight_packed_entry));
}

TEST(death_after_every_store) {
        for (uint64_t seed = 0; seed < 5; seed++) {
                unsigned n = 1;
                while (lives(seed, n, 0))
                        n++;
                CHECK_MSG(n > 10 * N_REQUESTS, "only %u stores", n);
        }
}

TEST(death_upon_death) {
        for (unsigned n = 1; lives(7, n, 1 + n * 7 % 67); n++)
                ;
}

/* H27 */
TEST(records_that_are_none) {
        static const struct { const char *what; size_t at; uint8_t size; uint16_t value; } rows[] = {
#define ROW(field, value) { #field " = " #value, offsetof(struct vhk_inflight_packed, field), sizeof(((struct vhk_inflight_packed *)0)->field), value }
                ROW(version, 2), ROW(n_entries, 16), ROW(n_entries, 0), ROW(used.idx, NUM), ROW(used.idx, 65535), ROW(used.old_idx, NUM), ROW(used.wrap, 2), ROW(used.old_wrap, 255),
                ROW(old_free_head, 3),                          /* entries of a chain on the free list */
                ROW(entries[0].num, 0), ROW(entries[0].num, NUM + 1), ROW(entries[0].num, 65535), ROW(entries[0].num, 6),
                ROW(entries[0].next, NUM), ROW(entries[0].next, 65535), ROW(entries[0].next, 0), ROW(entries[0].next, 6),
                ROW(entries[7].next, 6), ROW(entries[7].next, 7), ROW(entries[3].inflight, 1),
#undef ROW
        };
        struct vhk_packed_record *p;
        struct vhk_packed_desc d[5] = { { .id = vhk_le16_of(1) } };

        for (unsigned i = 0; i <= VHK_N(rows); i++) {
                begin(0);
                die_at = 0;
                CHECK_OK(vhk_packed_record_new(NUM, &p));
                CHECK_EQ(vhk_packed_record_open(p, w.record, w.ring, 0, true), 0);
                CHECK_EQ(vhk_packed_record_take(p, d, 5), 0);
                CHECK_EQ(vhk_packed_record_take(p, d, 4), -ENOSPC);
                vhk_packed_record_free(p);
                if (i < VHK_N(rows))
                        memcpy((uint8_t *)w.record + rows[i].at, &rows[i].value, rows[i].size);
                CHECK_OK(vhk_packed_record_new(NUM, &p));
                int k = vhk_packed_record_open(p, w.record, w.ring, 0, true);
                CHECK_MSG(k == (i < VHK_N(rows) ? -EPROTO : 1), "%s gave %d", i < VHK_N(rows) ? rows[i].what : "the sound one", k);
                CHECK(k < 0 || (p->n_recovered == 1 && p->avail_idx == 5 && p->avail_wrap));
                vhk_packed_record_free(p);
        }
}
