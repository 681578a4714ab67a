/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The in-flight record: what is recovered from every state that a killed process may leave behind, and from those that
 * only a liar makes. The library is compiled with a hook behind each store of the sequence (inflight.h); a child process
 * serves the ring and dies at the n-th, for all n, and another one takes over.
 */
#include <sys/wait.h>

#include "mem/mapping.h"
#include "ring/inflight.h"
#include "ring/test-ring.h"

#define NUM 8u
#define DEAD 97              /* exit status */
#define N_REQUESTS 40u
#define MEM_BYTES (1u << 20)

/* ---- the hook ---- */

static unsigned n_stores, die_at;               /* 0: live */

void vhk_inflight_stored(void) {
        if (++n_stores == die_at)
                _exit(DEAD);
}

/* ---- the record alone ---- */

#define RECORD(name, n) \
        uint64_t name##_bytes[256] = { 0 };     \
        struct vhk_inflight_split *name = (void *)name##_bytes; \
        static_assert(sizeof(struct vhk_inflight_split) + (n) * 16 <= sizeof(name##_bytes), "")

static int open_it(struct vhk_inflight_split *r, uint16_t num, uint16_t n_entries, uint16_t used, uint16_t *ret_heads, unsigned *ret_n) {
        struct vhk_inflight *i;

        die_at = 0;
        CHECK_OK(vhk_inflight_new(num, &i));
        int k = vhk_inflight_open(i, r, n_entries, used);
        *ret_n = i->n_recovered;
        memcpy(ret_heads, i->recovered, i->n_recovered * sizeof(*ret_heads));
        vhk_inflight_free(i);
        return k;
}

TEST(bytes_of_a_record) {
        CHECK_EQ(vhk_inflight_split_bytes(1), 64);
        CHECK_EQ(vhk_inflight_split_bytes(4), 128);
        CHECK_EQ(vhk_inflight_split_bytes(128), 2112);
        CHECK_EQ(vhk_inflight_split_bytes(32768), 16 * 32768 + 64);
}

TEST(a_fresh_record_is_initialised) {
        uint16_t heads[16];
        unsigned n;
        RECORD(r, 16);

        r->entries[3].inflight = 1;             /* half made: the version is what counts */
        r->last_batch_head = 77;
        CHECK_EQ(open_it(r, 16, 16, 500, heads, &n), 0);
        CHECK_EQ(n, 0);
        CHECK_EQ(r->version, 1);
        CHECK_EQ(r->n_entries, 16);
        CHECK_EQ(r->last_batch_head, 0);
        CHECK_EQ(r->used_idx, 500);
        CHECK_EQ(r->entries[3].inflight, 0);
}

TEST(in_flight_is_sorted_by_counter_and_then_by_head) {
        uint16_t heads[16];
        unsigned n;
        RECORD(r, 16);

        *r = (struct vhk_inflight_split){ .version = 1, .n_entries = 16, .used_idx = 65535 };
        /* apart by more than 2048, equal, and far enough for a difference to overflow */
        const struct { uint16_t head; uint64_t counter; } in[] = {
                { 2, 5000 }, { 9, 1 }, { 4, UINT64_MAX }, { 1, 1 }, { 15, 3000 }, { 0, UINT64_MAX / 2 + 2 },
        };
        for (unsigned k = 0; k < VHK_N(in); k++)
                r->entries[in[k].head] = (struct vhk_inflight_split_entry){ .inflight = 1, .counter = in[k].counter };
        CHECK_EQ(open_it(r, 16, 16, 65535, heads, &n), 1);
        CHECK_EQ(n, VHK_N(in));
        const uint16_t want[] = { 1, 9, 15, 2, 0, 4 };
        for (unsigned k = 0; k < n; k++)
                CHECK_EQ(heads[k], want[k]);
}

/* Death between the ring's index and used_idx: the batch is struck out, over the index's wrap. */
TEST(a_batch_that_was_published_is_struck_out) {
        uint16_t heads[16];
        unsigned n;
        RECORD(r, 16);

        *r = (struct vhk_inflight_split){ .version = 1, .n_entries = 16, .used_idx = 65534, .last_batch_head = 5 };
        for (unsigned k = 0; k < 8; k++)
                r->entries[k] = (struct vhk_inflight_split_entry){ .inflight = 1, .counter = k };
        r->entries[5].next = 1;
        r->entries[1].next = 7;
        r->entries[7].next = 3;
        r->entries[1].inflight = 0;             /* it had got so far */
        CHECK_EQ(open_it(r, 16, 16, 1, heads, &n), 1);
        CHECK_EQ(n, 5);
        CHECK_EQ(r->used_idx, 1);
        const uint16_t want[] = { 0, 2, 3, 4, 6 };
        for (unsigned k = 0; k < n; k++)
                CHECK_EQ(heads[k], want[k]);
}

/* H27 */
TEST(records_that_are_none) {
        uint16_t heads[16];
        unsigned n;
        static const struct { struct vhk_inflight_split r; uint16_t next, n_entries, used; int want; unsigned n; } rows[] = {
                { { .version = 2, .n_entries = 16 }, 0, 16, 0, -EPROTO, 0 },
                { { .version = 0xffff, .n_entries = 16 }, 0, 16, 0, -EPROTO, 0 },
                { { .version = 1, .n_entries = 8 }, 0, 16, 0, -EPROTO, 0 },
                { { .version = 1, .n_entries = 0 }, 0, 16, 0, -EPROTO, 0 },
                { { .version = 1, .n_entries = 32 }, 0, 16, 0, -EPROTO, 0 },
                { { .version = 1, .n_entries = 8 }, 0, 8, 0, -EPROTO, 0 },              /* the ring has 16 */
                { { .version = 1, .n_entries = 16, .last_batch_head = 16 }, 0, 16, 1, -EPROTO, 0 },
                { { .version = 1, .n_entries = 16, .last_batch_head = 65535 }, 0, 16, 1, -EPROTO, 0 },
                { { .version = 1, .n_entries = 16, .last_batch_head = 3 }, 16, 16, 2, -EPROTO, 0 },     /* next */
                { { .version = 1, .n_entries = 16, .last_batch_head = 3 }, 3, 16, 16, 1, 15 },          /* a cycle: as many steps as published */
                { { .version = 1, .n_entries = 16, .used_idx = 20 }, 3, 16, 0, 1, 0 },  /* no batch is that long: of another life */
                { { .version = 1, .n_entries = 16, .last_batch_head = 99 }, 3, 16, 0, 1, 16 },          /* not looked at */
        };

        for (unsigned k = 0; k < VHK_N(rows); k++) {
                RECORD(r, 16);
                *r = rows[k].r;
                for (unsigned j = 0; j < 16; j++)
                        r->entries[j] = (struct vhk_inflight_split_entry){ .inflight = 1, .next = rows[k].next };
                int got = open_it(r, 16, rows[k].n_entries, rows[k].used, heads, &n);
                CHECK_MSG(got == rows[k].want, "row %u gave %d", k, got);
                CHECK_MSG(got < 0 || n == rows[k].n, "row %u: %u in flight", k, n);
        }
}

/* ---- a queue over a record ---- */

struct shared {
        uint8_t guest[MEM_BYTES];
        uint64_t record[64];
        /* the driver's */
        uint32_t n_offered, n_done;
        uint16_t avail_idx, last_used, n_free, free[NUM];
        uint32_t seq_of[NUM];                   /* by head; 0: free */
        bool done[N_REQUESTS + 1];
        /* the device's diary */
        uint32_t n_seen, seen[1024];
        bool wrong;
};

struct side {
        struct shared *sh;
        struct vhk_mapping *map;
        struct rig g;
        uint64_t random;
};

#define SHARED_BYTES ((sizeof(struct shared) + 4095) & ~4095ul)

static struct shared *new_shared(int *ret_fd) {
        int fd = memfd_create("test-inflight", MFD_CLOEXEC);

        CHECK(fd >= 0 && !ftruncate(fd, (off_t)SHARED_BYTES));
        struct shared *sh = mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(sh != MAP_FAILED);
        sh->n_free = NUM;
        for (uint16_t i = 0; i < NUM; i++)
                sh->free[i] = i;
        *ret_fd = fd;
        return sh;
}

static void free_shared(struct shared *sh, int fd) {
        munmap(sh, SHARED_BYTES);
        close(fd);
}

/* A back-end's life begins; base is what a front-end tells after a reconnect: the used index. */
static int begin(struct side *s, struct shared *sh, int fd) {
        struct vhk_region_desc d = { .len = MEM_BYTES, .uva = { UVA }, .fd = fd };
        struct vhk_memmap *none;

        *s = (struct side){ .sh = sh, .random = 88172645463325252ull + n_stores + die_at };
        s->g.num = NUM;
        CHECK_OK(vhk_memmap_new(&none));
        CHECK_OK(vhk_memmap_add(none, &d, &s->g.mem, NULL));
        vhk_memmap_unref(none);
        CHECK_OK(vhk_area_map(fd, 0, SHARED_BYTES, &s->map, NULL));
        struct rig_options o = { .num = NUM };
        struct vhk_ring_config *c = make_config(s->g.mem, &o, NULL);
        c->inflight_mapping = vhk_mapping_ref(s->map);
        c->inflight = s->map->host + offsetof(struct shared, record);
        c->inflight_num = 16;
        s->g.config = c;
        s->g.call = -1;
        rig_points(&s->g);
        CHECK_OK(vhk_worker_new(NULL, NULL, &s->g.home));
        CHECK_OK(vhk_queue_new(0, NUM, 0, s->g.home, &rig_ops, &s->g, &s->g.q));
        return vhk_queue_start(s->g.q, c, used_idx(&s->g), -1);
}

static void end(struct side *s) {
        rig_close(&s->g);
        vhk_mapping_unref(s->map);
}

/* ---- the driver, whose state outlives its device ---- */

static void driver_reap(struct side *s) {
        struct shared *sh = s->sh;

        while (sh->last_used != used_idx(&s->g)) {
                uint32_t head = vhk_le32_get(s->g.used->ring[sh->last_used++ % NUM].id);
                if (head >= NUM || !sh->seq_of[head] || sh->done[sh->seq_of[head]]) {
                        sh->wrong = true;
                        return;
                }
                sh->done[sh->seq_of[head]] = true;
                sh->seq_of[head] = 0;
                sh->n_done++;
                sh->free[sh->n_free++] = (uint16_t)head;
        }
}

static void driver_offer(struct side *s, unsigned n) {
        struct shared *sh = s->sh;

        for (; n && sh->n_free && sh->n_offered < N_REQUESTS; n--) {
                uint16_t at = (uint16_t)(random_next(&s->random) % sh->n_free), head = sh->free[at];
                sh->free[at] = sh->free[--sh->n_free];
                uint64_t buffer = free_gpa(NUM) + 64u * head;
                uint32_t seq = ++sh->n_offered;
                memcpy(sh->guest + buffer, &seq, sizeof(seq));
                sh->seq_of[head] = seq;
                set_desc(&s->g.desc[head], buffer, 4, 0, 0);
                s->g.avail->ring[sh->avail_idx++ % NUM] = vhk_le16_of(head);
                vhk_store_release(&s->g.avail->idx.v, vhk_le16_of(sh->avail_idx).v);
        }
}

/* ---- the device: some at a time, answered in any order, in batches ---- */

static void serve(struct side *s, unsigned batch) {
        struct vhk_req *held[NUM];
        unsigned n_held = 0, pushed = 0;

        while (s->sh->n_done < N_REQUESTS && !s->sh->wrong) {
                driver_offer(s, 1 + random_next(&s->random) % 3);
                int k = vhk_queue_pop(s->g.q, held + n_held, VHK_MIN(NUM - n_held, 1 + random_next(&s->random) % 4));
                for (int i = 0; i < k; i++) {
                        uint32_t seq;
                        vhk_req_read(held[n_held + (unsigned)i], 0, &seq, sizeof(seq));
                        if (s->sh->n_seen < VHK_N(s->sh->seen))
                                s->sh->seen[s->sh->n_seen++] = seq;
                }
                n_held += k > 0 ? (unsigned)k : 0;
                for (unsigned n = random_next(&s->random) % (batch + 1); n && n_held; n--) {
                        unsigned at = random_next(&s->random) % n_held;
                        vhk_queue_push(s->g.q, held[at], 0);
                        held[at] = held[--n_held];
                        pushed++;
                }
                if (pushed >= batch || random_next(&s->random) % 4 == 0 || n_held == 0) {
                        vhk_queue_flush(s->g.q);
                        pushed = 0;
                        driver_reap(s);
                }
        }
        for (unsigned i = 0; i < n_held; i++)
                vhk_queue_push(s->g.q, held[i], 0);
}

/* One life in a process of its own; true: it died at its store. */
static bool life(struct shared *sh, int fd, unsigned batch, unsigned at) {
        fflush(stdout);
        pid_t p = fork();

        CHECK(p >= 0);
        if (!p) {
                struct side s;
                n_stores = 0;
                die_at = at;
                if (begin(&s, sh, fd) < 0)
                        _exit(98);
                serve(&s, batch);
                _exit(0);
        }
        int status;
        CHECK(waitpid(p, &status, 0) == p && WIFEXITED(status));
        CHECK_MSG(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == DEAD, "a life that began at store %u ended with %d", at, WEXITSTATUS(status));
        return WEXITSTATUS(status) == DEAD;
}

/* What this life saw, from diary entry @from on: in the order of the requests, and nothing that was answered before. */
static void check_diary(const struct shared *sh, unsigned from, const bool *done_before, unsigned at) {
        for (unsigned i = from; i < sh->n_seen; i++) {
                CHECK_MSG(i == from || sh->seen[i] > sh->seen[i - 1], "death at %u: %u is taken behind %u", at, sh->seen[i], sh->seen[i - 1]);
                CHECK_MSG(!done_before[sh->seen[i]], "death at %u: %u is done again, though it was answered", at, sh->seen[i]);
        }
}

/* Dies at store @first, again at @second of the next life (0: not), and is finished by a third. False: no such store. */
static bool lives(unsigned batch, unsigned first, unsigned second) {
        bool published[N_REQUESTS + 1], died;
        int fd;
        struct shared *sh = new_shared(&fd);

        died = life(sh, fd, batch, first);
        for (unsigned at = second; died; at = 0) {
                unsigned from = sh->n_seen;
                /* what the ring says was answered, whether the driver has looked or not */
                memcpy(published, sh->done, sizeof(published));
                const struct vhk_used *used = (void *)(sh->guest + used_gpa(NUM));
                for (uint16_t i = sh->last_used; i != vhk_le16_get(used->idx); i++)
                        published[sh->seq_of[vhk_le32_get(used->ring[i % NUM].id)]] = true;
                bool again = life(sh, fd, batch, at);
                check_diary(sh, from, published, first);
                if (!again)
                        break;
        }
        CHECK_MSG(!sh->wrong, "death at %u: an answer that nobody asked for, or twice", first);
        CHECK_EQ(sh->n_done, N_REQUESTS);
        const struct vhk_inflight_split *r = (void *)sh->record;
        CHECK_EQ(r->used_idx, N_REQUESTS);
        for (unsigned i = 0; i < NUM; i++)
                CHECK_EQ(r->entries[i].inflight, 0);
        free_shared(sh, fd);
        return died;
}

static void all_deaths(unsigned batch) {
        unsigned n = 1, step = getenv("VHK_TEST_SLOW") ? 37 : 1;

        while (lives(batch, n, 0))
                n += step;
        CHECK_MSG(n > 5 * N_REQUESTS, "only %u stores", n);
}

TEST(death_after_every_store_one_by_one) { all_deaths(1); }
TEST(death_after_every_store_in_batches) { all_deaths(5); }

/* ... and the successor dies as well: while it recovers, or later. */
TEST(death_upon_death) {
        for (unsigned n = 1; lives(4, n, 1 + n * 7 % 23); n += (getenv("VHK_TEST_SLOW") ? 37 : 1) + n % 3)
                ;
}

/* ---- a life without deaths, in this process ---- */

static unsigned n_in_record(const struct shared *sh) {
        const struct vhk_inflight_split *r = (void *)sh->record;
        unsigned n = 0;

        for (unsigned i = 0; i < NUM; i++)
                n += r->entries[i].inflight;
        return n;
}

/* What is left undone is done by the next; late completions of the time before change nothing. */
TEST(suspended_requests_are_left_in_the_record) {
        struct vhk_req *req[NUM], *again[NUM];
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        die_at = 0;
        CHECK_OK(begin(&s, sh, fd));
        driver_offer(&s, 6);
        CHECK_EQ(vhk_queue_pop(s.g.q, req, NUM), 6);
        CHECK_EQ(n_in_record(sh), 6);
        CHECK_EQ(vhk_queue_leave(s.g.q, req[0]), -EINVAL);      /* it is not being stopped */
        uint16_t heads[6];
        for (unsigned i = 0; i < 6; i++)
                heads[i] = req[i]->head;
        vhk_queue_push(s.g.q, req[2], 0);
        CHECK_EQ(vhk_queue_drain(s.g.q, true), 1);
        CHECK_EQ(n_in_record(sh), 5);
        CHECK_EQ(used_idx(&s.g), 1);
        for (unsigned i = 0; i < 6; i++)
                if (i != 2)
                        CHECK_OK(vhk_queue_leave(s.g.q, req[i]));
        CHECK_EQ(vhk_queue_leave(s.g.q, req[1]), -EINVAL);
        CHECK_EQ(vhk_queue_n_in_flight(s.g.q), 0);
        while (vhk_worker_dispatch(s.g.home, 0) > 0)
                ;
        CHECK_EQ(s.g.n_settled, 1);
        vhk_queue_push(s.g.q, req[4], 0);                       /* too late */
        CHECK_EQ(vhk_queue_stop(s.g.q), 6);
        CHECK_EQ(n_in_record(sh), 5);
        CHECK_EQ(used_idx(&s.g), 1);

        CHECK_OK(vhk_queue_start(s.g.q, s.g.config, 1, -1));
        CHECK_EQ(vhk_queue_n_recovered(s.g.q), 5);
        CHECK(vhk_queue_has_work(s.g.q));
        CHECK_EQ(vhk_queue_get_position(s.g.q), 1);
        CHECK_EQ(vhk_queue_pop(s.g.q, again, 2), 2);
        CHECK_EQ(vhk_queue_get_position(s.g.q), 3);
        vhk_queue_unpop(s.g.q, 1);                              /* a recovered one */
        CHECK_EQ(vhk_queue_n_recovered(s.g.q), 4);
        CHECK_EQ(n_in_record(sh), 5);
        CHECK_EQ(vhk_queue_pop(s.g.q, again + 1, NUM), 4);
        for (unsigned i = 0, k = 0; i < 6; i++)
                if (i != 2)
                        CHECK_EQ(again[k++]->head, heads[i]);
        CHECK(!vhk_queue_has_work(s.g.q));
        driver_reap(&s);
        driver_offer(&s, 3);
        CHECK_EQ(vhk_queue_pop(s.g.q, again + 5, 3), 3);
        vhk_queue_unpop(s.g.q, 2);                              /* new ones */
        CHECK_EQ(n_in_record(sh), 6);
        CHECK_EQ(vhk_queue_get_position(s.g.q), 7);
        CHECK_EQ(vhk_queue_pop(s.g.q, again + 6, 3), 2);
        vhk_queue_unpop(s.g.q, 3 + 1);                          /* across the border */
        CHECK_EQ(vhk_queue_n_recovered(s.g.q), 1);
        CHECK_EQ(vhk_queue_pop(s.g.q, again + 4, 3), 1);
        CHECK_EQ(vhk_queue_pop(s.g.q, again + 5, 3), 3);
        for (unsigned i = 0; i < 8; i++)
                vhk_queue_push(s.g.q, again[i], 0);
        CHECK_OK(vhk_queue_flush(s.g.q));
        driver_reap(&s);
        CHECK_EQ(sh->n_done, 9);
        CHECK(!sh->wrong);
        CHECK_EQ(n_in_record(sh), 0);
        end(&s);
        free_shared(sh, fd);
}

/* ---- a stop before the recovered requests were popped ---- */

/* A predecessor took @n requests, and answered none; what it leaves is served by @s. With @disabled
 * the ring is. */
static void begin_after_death(struct side *s, struct shared *sh, int fd, unsigned n, bool disabled) {
        struct vhk_req *req[NUM];
        struct vhk_ring_config *c;

        die_at = 0;
        CHECK_OK(begin(s, sh, fd));
        driver_offer(s, n);
        CHECK_EQ(vhk_queue_pop(s->g.q, req, NUM), (int)n);
        vhk_queue_drain(s->g.q, false);
        for (unsigned i = 0; i < n; i++)
                CHECK_OK(vhk_queue_leave(s->g.q, req[i]));
        end(s);
        CHECK_OK(begin(s, sh, fd));
        CHECK_EQ(vhk_queue_n_recovered(s->g.q), n);
        if (!disabled)
                return;
        struct vhk_ring_config values = *s->g.config;
        values.enabled = false;
        CHECK_OK(vhk_ring_config_new(&values, &c));
        CHECK_EQ(vhk_queue_adopt(s->g.q, c), 0);
        vhk_ring_config_unref(c);
        CHECK_EQ(vhk_queue_pop(s->g.q, req, NUM), 0);
}

/* A device that answers what it takes: two at a time. */
static void take_two(struct rig *g) {
        struct vhk_req *req[2];
        int k = vhk_queue_pop(g->q, req, 2);

        for (int i = 0; i < k; i++)
                vhk_queue_push(g->q, req[i], 0);
        vhk_queue_flush(g->q);
}

static void drain_and_check(struct side *s, struct shared *sh, unsigned n) {
        CHECK_EQ(vhk_queue_drain(s->g.q, true), 1);
        CHECK(vhk_queue_is_recovering(s->g.q));
        while (vhk_worker_dispatch(s->g.home, 0) > 0)
                ;
        CHECK(vhk_queue_is_drained(s->g.q) && s->g.n_settled);
        CHECK_EQ(n_in_record(sh), 0);
        driver_reap(s);
        CHECK_EQ(sh->n_done, n);
        CHECK_EQ(vhk_queue_stop(s->g.q), used_idx(&s->g));
}

TEST(a_drain_completes_recovered_requests) {
        for (unsigned disabled = 0; disabled < 2; disabled++) {
                int fd;
                struct shared *sh = new_shared(&fd);
                struct vhk_req *r;
                struct side s;

                begin_after_death(&s, sh, fd, 7, disabled);
                driver_offer(&s, 1);                            /* a new one is not taken */
                s.g.on_run = take_two;
                drain_and_check(&s, sh, 7);
                CHECK_EQ(vhk_queue_pop(s.g.q, &r, 1), 0);
                end(&s);
                free_shared(sh, fd);
        }
}

/* One is in flight, and what is recovered comes when the device has done it. */
TEST(a_drain_waits_for_a_device_that_takes_recovered_requests_later) {
        struct vhk_req *r, *newer;
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        begin_after_death(&s, sh, fd, 5, false);
        r = pop_one(&s.g);
        CHECK_EQ(vhk_queue_drain(s.g.q, true), 1);
        while (vhk_worker_dispatch(s.g.home, 0) > 0)            /* it is run, and takes nothing */
                ;
        CHECK_EQ(s.g.n_run, 1);
        CHECK_EQ(vhk_queue_n_recovered(s.g.q), 4);
        newer = pop_one(&s.g);
        vhk_queue_push(s.g.q, r, 0);
        vhk_queue_push(s.g.q, newer, 0);
        s.g.on_run = take_two;
        vhk_queue_flush(s.g.q);
        while (vhk_worker_dispatch(s.g.home, 0) > 0)
                ;
        CHECK(vhk_queue_is_drained(s.g.q));
        driver_reap(&s);
        CHECK_EQ(sh->n_done, 5);
        end(&s);
        free_shared(sh, fd);
}

/* A device that takes nothing (it has nothing to put into its buffers, or waits for a lock) holds
 * up no drain. */
TEST(recovered_requests_that_are_not_taken_are_given_back) {
        struct vhk_req *r;
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        begin_after_death(&s, sh, fd, 6, true);
        r = NULL;
        CHECK_EQ(vhk_queue_drain(s.g.q, true), 1);
        while (vhk_worker_dispatch(s.g.home, 0) > 0)
                ;
        CHECK(vhk_queue_is_drained(s.g.q) && s.g.n_settled == 1);
        CHECK_EQ(n_in_record(sh), 0);
        CHECK_EQ(vhk_queue_stop(s.g.q), 0);                     /* the base is that of the first of them */
        CHECK_OK(vhk_queue_start(s.g.q, s.g.config, 0, -1));
        for (unsigned i = 0; i < 6; i++) {
                r = pop_one(&s.g);
                CHECK_EQ(r->head, vhk_le16_get(s.g.avail->ring[i]));
        }
        end(&s);
        free_shared(sh, fd);
}

TEST(recovered_requests_in_another_order_are_waited_for) {
        struct vhk_inflight_split *rec;
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        begin_after_death(&s, sh, fd, 2, false);
        rec = (void *)sh->record;
        rec->entries[vhk_le16_get(s.g.avail->ring[0])].counter = 9;     /* the second one comes first */
        end(&s);
        CHECK_OK(begin(&s, sh, fd));
        CHECK_EQ(vhk_queue_drain(s.g.q, true), 1);
        while (vhk_worker_dispatch(s.g.home, 0) > 0)
                ;
        CHECK_EQ(s.g.n_settled, 0);
        CHECK_EQ(vhk_queue_n_recovered(s.g.q), 2);
        s.g.on_run = take_two;
        vhk_queue_resume(s.g.q);
        while (vhk_worker_dispatch(s.g.home, 0) > 0)
                ;
        CHECK(s.g.n_settled && vhk_queue_is_drained(s.g.q));
        end(&s);
        free_shared(sh, fd);
}

TEST(a_suspension_leaves_recovered_requests_in_the_record) {
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        begin_after_death(&s, sh, fd, 6, false);
        s.g.on_run = take_two;
        CHECK_EQ(vhk_queue_drain(s.g.q, false), 0);
        vhk_worker_dispatch(s.g.home, 0);
        CHECK_EQ(n_in_record(sh), 6);
        CHECK_EQ(vhk_queue_stop(s.g.q), 6);
        end(&s);
        free_shared(sh, fd);
}

TEST(an_abort_may_follow_a_drain_that_waits) {
        struct vhk_req *r;
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        begin_after_death(&s, sh, fd, 6, false);
        r = pop_one(&s.g);
        CHECK_EQ(vhk_queue_drain(s.g.q, true), 1);
        CHECK_EQ(vhk_queue_drain(s.g.q, false), 1);
        CHECK(!vhk_queue_is_recovering(s.g.q));
        vhk_queue_push(s.g.q, r, 0);
        vhk_queue_flush(s.g.q);
        while (vhk_worker_dispatch(s.g.home, 0) > 0)
                ;
        CHECK(vhk_queue_is_drained(s.g.q) && s.g.n_settled);
        end(&s);
        free_shared(sh, fd);
}

TEST(unpop_knows_new_requests_from_recovered_ones_at_any_distance) {
        struct vhk_req *r;
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        begin_after_death(&s, sh, fd, 1, false);
        r = pop_one(&s.g);
        uint16_t head = r->head;
        vhk_queue_push(s.g.q, r, 0);
        vhk_queue_flush(s.g.q);
        for (unsigned i = 1; i <= 65536; i++) {                 /* the available index comes around */
                s.g.avail->ring[i % NUM] = vhk_le16_of(head);
                vhk_store_release(&s.g.avail->idx.v, vhk_le16_of((uint16_t)(i + 1)).v);
                r = pop_one(&s.g);
                if (i < 65536)
                        vhk_queue_push(s.g.q, r, 0);
                vhk_queue_flush(s.g.q);
        }
        vhk_queue_unpop(s.g.q, 1);
        CHECK_EQ(vhk_queue_n_in_flight(s.g.q), 0);
        CHECK_EQ(vhk_queue_pop(s.g.q, &r, 1), 1);
        end(&s);
        free_shared(sh, fd);
}

/* H27: a head in the record whose descriptor is garbage, and a record that says that all are in flight. */
TEST(recovered_garbage_breaks_the_ring) {
        struct vhk_req *req[NUM];
        int fd;
        struct shared *sh = new_shared(&fd);
        struct vhk_inflight_split *r = (void *)sh->record;
        struct side s;

        die_at = 0;
        *r = (struct vhk_inflight_split){ .version = 1, .n_entries = 16 };
        for (unsigned i = 0; i < 16; i++)
                r->entries[i].inflight = 1;
        CHECK_OK(begin(&s, sh, fd));
        CHECK_EQ(vhk_queue_n_recovered(s.g.q), NUM);            /* the ring has no more */
        for (unsigned i = 0; i < NUM; i++)
                set_desc(&s.g.desc[i], i == 3 ? UINT64_MAX - 8 : free_gpa(NUM), 4, 0, 0);
        CHECK_EQ(vhk_queue_pop(s.g.q, req, NUM), 3);
        CHECK_EQ(vhk_queue_pop(s.g.q, req, NUM), -EPIPE);
        CHECK_EQ(s.g.rule, VHK_RING_HOLE);
        for (unsigned i = 0; i < 3; i++)
                vhk_queue_push(s.g.q, req[i], 0);
        CHECK_EQ(vhk_queue_flush(s.g.q), -EPIPE);
        CHECK_EQ(used_idx(&s.g), 0);
        end(&s);

        r->version = 9;
        CHECK_EQ(begin(&s, sh, fd), -EPIPE);
        CHECK_EQ(s.g.rule, VHK_RING_INFLIGHT);
        CHECK(!vhk_queue_has_work(s.g.q));
        end(&s);
        free_shared(sh, fd);
}

/* A driver that makes a head available again before its answer was published. */
TEST(a_head_that_comes_again_too_early_is_bounded) {
        struct vhk_req *req[2];
        int fd;
        struct shared *sh = new_shared(&fd);
        struct side s;

        die_at = 0;
        CHECK_OK(begin(&s, sh, fd));
        set_desc(&s.g.desc[0], free_gpa(NUM), 4, 0, 0);
        for (unsigned i = 0; i < 4 * NUM; i++) {
                vhk_store_release(&s.g.avail->idx.v, vhk_le16_of((uint16_t)(i + 1)).v);
                CHECK_EQ(vhk_queue_pop(s.g.q, req, 2), 1);
                vhk_queue_push(s.g.q, req[0], 0);
        }
        vhk_queue_flush(s.g.q);
        end(&s);
        free_shared(sh, fd);
}
