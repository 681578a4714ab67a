/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The process-wide registry of memory that a peer may truncate, or poison, under us; and the
 * handler of SIGBUS for programs that have none. The state is global because a signal has one
 * handler per process.
 *
 * The handler looks without a lock. Slots live for ever (chunks are only appended) and are reused; each has a sequence
 * number, odd while it is written. The handler skips a slot that is being written or changed while it was read: that
 * cannot be the one it looks for, because the faulting thread holds a reference to the mapping that it touched.
 *
 * Order in the handler: the mark is set before the zeroes are put in place, so whoever reads those zeroes, on whatever
 * thread, finds the mark afterwards.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <vhostkit/memory.h>

#include "mem/mapping.h"

struct vhk_sigbus_slot {
        uint32_t seq;                   /* shared (atomic), like all below */
        uint32_t *bad;
        uintptr_t base;                 /* 0: not in use */
        size_t size, page;
        struct vhk_sigbus_slot *next_free;      /* under the lock */
};

enum { SLOTS = 128 };
struct chunk {
        struct vhk_sigbus_slot slots[SLOTS];
        struct chunk *next;             /* shared (atomic): release when appended, acquire in the handler */
};

static struct chunk first_chunk;
static struct chunk *last_chunk = &first_chunk;
static unsigned n_used = 0;             /* of the last chunk */
static struct vhk_sigbus_slot *free_slots;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;        /* writers only */

static uint32_t n_faults;               /* shared (atomic) */

static struct vhk_sigbus_slot *take_slot(void) {
        struct vhk_sigbus_slot *s = free_slots;

        if (s) {
                free_slots = s->next_free;
                return s;
        }
        if (n_used == SLOTS) {
                struct chunk *c = calloc(1, sizeof(*c));
                if (!c)
                        return NULL;
                vhk_store_release(&last_chunk->next, c);        /* pairs with the walk in find() */
                last_chunk = c;
                n_used = 0;
        }
        return &last_chunk->slots[n_used++];
}

/* The sequence number is odd from the first store to the last: stores of the values are release after the odd number,
 * and pair with the acquire loads in read_slot(). */
static void write_slot(struct vhk_sigbus_slot *s, uintptr_t base, size_t size, size_t page, uint32_t *bad) {
        uint32_t seq = vhk_load_relaxed(&s->seq);

        vhk_store_relaxed(&s->seq, seq + 1);
        vhk_store_release(&s->base, base);
        vhk_store_release(&s->size, size);
        vhk_store_release(&s->page, page);
        vhk_store_release(&s->bad, bad);
        vhk_store_release(&s->seq, seq + 2);
}

int vhk_sigbus_add(void *base, size_t size, size_t page, uint32_t *bad, struct vhk_sigbus_slot **ret_slot) {
        pthread_mutex_lock(&lock);
        struct vhk_sigbus_slot *s = take_slot();
        if (s)
                write_slot(s, (uintptr_t)base, size, page, bad);
        pthread_mutex_unlock(&lock);
        if (!s)
                return -ENOMEM;
        *ret_slot = s;
        return 0;
}

void vhk_sigbus_remove(struct vhk_sigbus_slot *s) {
        if (!s)
                return;
        pthread_mutex_lock(&lock);
        write_slot(s, 0, 0, 0, NULL);
        s->next_free = free_slots;
        free_slots = s;
        pthread_mutex_unlock(&lock);
}

uint32_t vhk_sigbus_count(void) {
        return vhk_load_acquire(&n_faults);     /* pairs with the release in vhk_sigbus_try(): the mark is seen, too */
}

/* ---- in the handler: loads, stores and mmap(2), nothing else ---- */

struct found { uintptr_t base; size_t size, page; uint32_t *bad; };

/* A copy of the slot, if it holds @addr and stood still meanwhile. */
static bool read_slot(const struct vhk_sigbus_slot *s, uintptr_t addr, struct found *ret_f) {
        uint32_t seq = vhk_load_acquire(&s->seq);
        struct found f = {
                .base = vhk_load_acquire(&s->base), .size = vhk_load_acquire(&s->size),
                .page = vhk_load_acquire(&s->page), .bad = vhk_load_acquire(&s->bad),
        };
        if (seq % 2 || vhk_load_relaxed(&s->seq) != seq || !f.base || addr - f.base >= f.size)
                return false;
        *ret_f = f;
        return true;
}

static bool find(uintptr_t addr, struct found *ret_f) {
        for (const struct chunk *c = &first_chunk; c; c = vhk_load_acquire(&c->next))
                for (int i = 0; i < SLOTS; i++)
                        if (read_slot(&c->slots[i], addr, ret_f))
                                return true;
        return false;
}

static bool put_zeroes(uintptr_t start, size_t size) {
        return mmap((void *)start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) !=
               MAP_FAILED;
}

/* BUS_ADRERR: past the end of the file. BUS_MCEERR_AR: the touched page is poisoned, by
 * UFFDIO_POISON of a front-end or because the hardware lost it. Not BUS_MCEERR_AO, which reports a
 * page that was not touched. */
static bool is_peers_fault(const siginfo_t *si) {
        return si->si_signo == SIGBUS && (si->si_code == BUS_ADRERR || si->si_code == BUS_MCEERR_AR);
}

VHK_API int vhk_sigbus_try(const void *siginfo) {
        const siginfo_t *si = siginfo;
        struct found f;
        int saved_errno = errno;

        if (!is_peers_fault(si) || !find((uintptr_t)si->si_addr, &f))
                return 0;
        vhk_store_release(f.bad, 1);
        __atomic_fetch_add(&n_faults, 1, __ATOMIC_RELEASE);
        uintptr_t addr = (uintptr_t)si->si_addr & ~(uintptr_t)(f.page - 1);
        /* one page splits the mapping; where the process has no mapping to spare, zero it whole */
        bool ok = put_zeroes(addr, f.page) || put_zeroes(f.base, f.size);
        errno = saved_errno;
        return ok;
}

/* ---- for programs without a handler of their own ---- */

static bool is_installed;               /* under the lock */
static struct sigaction previous;       /* set before the handler is installed */

static void on_sigbus(int signo, siginfo_t *si, void *context) {
        if (vhk_sigbus_try(si))
                return;
        if (previous.sa_flags & SA_SIGINFO) {
                previous.sa_sigaction(signo, si, context);
        } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
                previous.sa_handler(signo);
        } else {
                signal(SIGBUS, SIG_DFL);
                raise(SIGBUS);          /* delivered as the handler returns */
        }
}

VHK_API int vhk_sigbus_install(void) {
        struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK };
        int ret = 0;

        pthread_mutex_lock(&lock);
        if (!is_installed) {
                if (sigaction(SIGBUS, NULL, &previous) < 0 || sigaction(SIGBUS, &sa, NULL) < 0)
                        ret = vhk_errno();
                is_installed = ret == 0;
        }
        pthread_mutex_unlock(&lock);
        return ret;
}
