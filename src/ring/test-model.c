/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * An exhaustive model of how the two ends of a split ring publish and notify: every interleaving, and every value that a
 * load may give. It shows that no wake-up is lost and no entry is read before it was written; and that each barrier
 * is needed: without it the model finds what goes wrong.
 *
 * Memory is that of C11 as a machine of views: a location is the list of its stores; a thread's view says, per location, the
 * oldest store that it may still see. A load gives any store that is not older. A release store carries its thread's view,
 * an acquire load takes it over; a full fence exchanges views with all other fences, and makes the relaxed accesses around
 * it carry and take over as well. So stores overtake each other, loads give old values, and stores are seen after later
 * loads (as on x86, but also as on aarch64). Each location has one writer, as in a ring.
 *
 * The two programs are the steps of vhk_drvring_add, _publish, _reap, _arm, and of vhk_queue_pop, _push, _flush, _arm; each
 * step is one access to shared memory. eventfds go through the kernel, whose locks order what is before and after them.
 */
#include "base/test.h"
#include "base/base.h"

enum { A_RING0, A_RING1, A_IDX, A_WISH, U_RING0, U_RING1, U_IDX, U_WISH, N_LOCS };       /* _WISH: what that ring's reader wishes */
enum { DRIVER, DEVICE, N_THREADS };
enum order { RELAXED, ACQUIRE, RELEASE };

#define MAX_STORES 12

typedef struct { uint8_t at[N_LOCS]; } view_t;

struct state {
        struct { uint8_t n; uint16_t value[MAX_STORES]; view_t view[MAX_STORES]; } loc[N_LOCS];
        view_t fences;                  /* of all full fences so far */
        struct thread {
                view_t now, carried, taken;     /* sees; what relaxed stores carry (last fence); what relaxed loads would take over */
                uint8_t pc;
                uint16_t sent, published, seen, done, idx;
        } t[N_THREADS];
        view_t eventfd_view[N_THREADS];
        uint8_t eventfd[N_THREADS];     /* that wakes DRIVER, DEVICE */
};

/* Barriers, each to be taken away. */
enum {
        DRV_RELEASE = 1, DEV_ACQUIRE = 2, DRV_PUBLISH_FENCE = 4, DEV_ARM_FENCE = 8,
        DEV_RELEASE = 16, DRV_ACQUIRE = 32, DEV_FLUSH_FENCE = 64, DRV_ARM_FENCE = 128,
};

static struct {
        bool event_idx;
        unsigned missing;               /* barriers that are taken away */
        unsigned total;                 /* requests */
        uint16_t base;                  /* first index */
        unsigned long n_states;
        const char *failure;
} model;

static bool has(unsigned barrier) { return !(model.missing & barrier); }

static void join(view_t *a, const view_t *b) {
        for (unsigned i = 0; i < N_LOCS; i++)
                a->at[i] = a->at[i] > b->at[i] ? a->at[i] : b->at[i];
}

static void store(struct state *s, struct thread *t, unsigned loc, uint16_t value, enum order o) {
        unsigned n = s->loc[loc].n++;

        if (n >= MAX_STORES)
                abort();                /* the model is too small: our bug */
        t->now.at[loc] = (uint8_t)n;
        s->loc[loc].value[n] = value;
        s->loc[loc].view[n] = o == RELEASE ? t->now : t->carried;
        s->loc[loc].view[n].at[loc] = (uint8_t)n;
}

/* The @choice-th of the stores that may be seen; false: there are not so many. */
static bool load(struct state *s, struct thread *t, unsigned loc, enum order o, unsigned choice, uint16_t *ret_value) {
        unsigned n = t->now.at[loc] + choice;

        if (n >= s->loc[loc].n)
                return false;
        t->now.at[loc] = (uint8_t)n;
        join(o == ACQUIRE ? &t->now : &t->taken, &s->loc[loc].view[n]);
        *ret_value = s->loc[loc].value[n];
        return true;
}

static void fence(struct state *s, struct thread *t, bool there) {
        if (!there)
                return;
        join(&t->now, &t->taken);
        join(&t->now, &s->fences);
        s->fences = t->carried = t->now;
}

static void notify(struct state *s, struct thread *t, unsigned whom) {
        s->eventfd[whom] = 1;
        join(&s->eventfd_view[whom], &t->now);
}

static bool is_wanted(uint16_t wish, uint16_t old, uint16_t new) {
        return model.event_idx ? (uint16_t)(new - wish - 1) < (uint16_t)(new - old) : !wish;
}

/* Sleeps in pc SLEEP until notified; both programs share these. */
enum { START, ADD, PUBLISH, PUBLISH_FENCE, WISH, REAP, TAKE, ARM, ARM_FENCE, LOOK, SLEEP, END };

static bool sleeps(struct state *s, unsigned who) {
        struct thread *t = &s->t[who];

        if (!s->eventfd[who])
                return false;
        s->eventfd[who] = 0;
        join(&t->now, &s->eventfd_view[who]);
        t->pc = START;
        return true;
}

/*
 * One step of thread @who, which writes ring @mine and reads ring @theirs. The driver adds new requests as long as the ring
 * (of two) has room; the device adds to the used ring what it took. false: the step is not possible (asleep, at the end, or no
 * such choice).
 */
static bool step(struct state *s, unsigned who, unsigned choice) {
        struct thread *t = &s->t[who];
        bool drv = who == DRIVER;
        unsigned mine = drv ? A_RING0 : U_RING0, idx = drv ? A_IDX : U_IDX, their_wish = drv ? A_WISH : U_WISH;
        unsigned theirs = drv ? U_RING0 : A_RING0, their_idx = drv ? U_IDX : A_IDX, my_wish = drv ? U_WISH : A_WISH;
        uint16_t limit = (uint16_t)(model.base + model.total), value;
        bool may_add = drv ? t->sent != limit && (uint16_t)(t->sent - t->done) < 2 : t->sent != t->done;

        if (choice && t->pc != WISH && t->pc != REAP && t->pc != TAKE && t->pc != LOOK)
                return false;
        switch (t->pc) {
        case START:                             /* awake: notifications are not needed */
                store(s, t, my_wish, model.event_idx ? (uint16_t)(t->done - 1) : 1, RELAXED);
                t->pc = drv ? ADD : REAP;
                return true;
        case ADD:
                if (may_add) {
                        store(s, t, mine + (t->sent & 1), (uint16_t)(t->sent + 1), RELAXED);
                        t->sent++;
                } else {
                        t->pc = t->sent != t->published ? PUBLISH : drv ? REAP : ARM;
                }
                return true;
        case PUBLISH:
                store(s, t, idx, t->sent, has(drv ? DRV_RELEASE : DEV_RELEASE) ? RELEASE : RELAXED);
                t->pc = PUBLISH_FENCE;
                return true;
        case PUBLISH_FENCE:
                fence(s, t, has(drv ? DRV_PUBLISH_FENCE : DEV_FLUSH_FENCE));
                t->pc = WISH;
                return true;
        case WISH:
                if (!load(s, t, their_wish, RELAXED, choice, &value))
                        return false;
                if (is_wanted(value, t->published, t->sent))
                        notify(s, t, drv ? DEVICE : DRIVER);
                t->published = t->sent;
                t->pc = drv ? REAP : t->done == limit ? END : REAP;
                return true;
        case REAP:
                if (!load(s, t, their_idx, has(drv ? DRV_ACQUIRE : DEV_ACQUIRE) ? ACQUIRE : RELAXED, choice, &t->idx))
                        return false;
                t->pc = t->idx == t->done ? ARM : TAKE;
                return true;
        case TAKE:
                if (!load(s, t, theirs + (t->done & 1), RELAXED, choice, &value))
                        return false;
                if (value != (uint16_t)(t->done + 1))
                        model.failure = "an entry was read before it was written";
                t->done++;
                if (t->done == t->idx)
                        t->pc = drv && t->done == limit ? END : ADD;
                return true;
        case ARM:
                store(s, t, my_wish, model.event_idx ? t->done : 0, RELAXED);
                t->pc = ARM_FENCE;
                return true;
        case ARM_FENCE:
                fence(s, t, has(drv ? DRV_ARM_FENCE : DEV_ARM_FENCE));
                t->pc = LOOK;
                return true;
        case LOOK:
                if (!load(s, t, their_idx, RELAXED, choice, &value))
                        return false;
                t->pc = value == t->done ? SLEEP : REAP;
                return true;
        case SLEEP:
                return sleeps(s, who);
        default:
                return false;
        }
}

/* ---- all of it ---- */

static uint64_t *visited;
static size_t visited_size, n_visited;

static uint64_t hash(const struct state *s) {
        const uint8_t *p = (const uint8_t *)s;
        uint64_t h = 0x9e3779b97f4a7c15;

        for (size_t i = 0; i < sizeof(*s); i += 8) {
                uint64_t w = 0;
                memcpy(&w, p + i, VHK_MIN(sizeof(w), sizeof(*s) - i));
                h = (h ^ w) * 0xff51afd7ed558ccd;
                h ^= h >> 32;
        }
        return h | 1;
}

static bool insert(uint64_t h);
static void grow(void) {
        uint64_t *old = visited;
        size_t n = visited_size;

        visited_size = n ? n * 4 : 1 << 16;
        visited = calloc(visited_size, sizeof(*visited));
        n_visited = 0;
        for (size_t i = 0; i < n; i++)
                if (old[i])
                        insert(old[i]);
        free(old);
}

static bool insert(uint64_t h) {
        if (n_visited * 2 >= visited_size)
                grow();
        size_t i = h >> 20 & (visited_size - 1);
        for (; visited[i]; i = (i + 1) & (visited_size - 1))
                if (visited[i] == h)
                        return false;
        visited[i] = h;
        n_visited++;
        return true;
}

static void explore(const struct state *s) {
        bool moved = false;

        if (model.failure || !insert(hash(s)))
                return;
        model.n_states++;
        for (unsigned who = 0; who < N_THREADS; who++)
                for (unsigned choice = 0; !model.failure; choice++) {
                        struct state next = *s;
                        if (!step(&next, who, choice))
                                break;
                        moved = true;
                        explore(&next);
                }
        if (!moved && !model.failure && (s->t[DRIVER].pc != END || s->t[DEVICE].pc != END))
                model.failure = "a wake-up was lost";
}

static const char *run(bool event_idx, unsigned missing, unsigned total, uint16_t base) {
        struct state s;

        memset(&s, 0, sizeof(s));
        model.event_idx = event_idx;
        model.missing = missing;
        model.total = total;
        model.base = base;
        model.n_states = 0;
        model.failure = NULL;
        for (unsigned i = 0; i < N_LOCS; i++)
                s.loc[i].n = 1;
        s.loc[A_IDX].value[0] = s.loc[U_IDX].value[0] = base;
        s.loc[A_WISH].value[0] = s.loc[U_WISH].value[0] = event_idx ? base : 0;
        for (unsigned i = 0; i < N_THREADS; i++)
                s.t[i].sent = s.t[i].published = s.t[i].done = s.t[i].idx = base;
        explore(&s);
        free(visited);
        visited = NULL;
        visited_size = n_visited = 0;
        return model.failure;
}

TEST(no_wake_up_is_lost_and_nothing_is_read_too_early) {
        for (unsigned event_idx = 0; event_idx < 2; event_idx++)
                for (unsigned total = 1; total <= 3; total++)
                        for (unsigned b = 0; b < 2; b++) {
                                const char *why = run(event_idx, 0, total, b ? 65535 : 0);
                                CHECK_MSG(!why, "event_idx %u, %u requests: %s", event_idx, total, why);
                                CHECK(model.n_states > (total > 2 ? 50000 : 500));      /* it did look around */
                        }
}

TEST(each_barrier_is_needed) {
        static const struct { unsigned barrier; const char *what, *failure; } barriers[] = {
                { DRV_RELEASE, "release of the available index", "an entry was read before it was written" },
                { DEV_ACQUIRE, "acquire of the available index", "an entry was read before it was written" },
                { DRV_PUBLISH_FENCE, "fence in vhk_drvring_publish", "a wake-up was lost" },
                { DEV_ARM_FENCE, "fence in vhk_queue_arm", "a wake-up was lost" },
                { DEV_RELEASE, "release of the used index", "an entry was read before it was written" },
                { DRV_ACQUIRE, "acquire of the used index", "an entry was read before it was written" },
                { DEV_FLUSH_FENCE, "fence in vhk_queue_flush", "a wake-up was lost" },
                { DRV_ARM_FENCE, "fence in vhk_drvring_arm", "a wake-up was lost" },
        };

        for (unsigned i = 0; i < VHK_N(barriers); i++)
                for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
                        const char *why = run(event_idx, barriers[i].barrier, 2, 0);
                        CHECK_MSG(why, "nobody misses the %s (event_idx %u)", barriers[i].what, event_idx);
                        CHECK_MSG(!strcmp(why, barriers[i].failure), "without the %s: %s", barriers[i].what, why);
                }
}
