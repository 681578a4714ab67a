/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The words everything else is written in: checked arithmetic, little-endian types, atomics by their order,
 * owned locals. Header only, libc only, no knowledge of virtio.
 */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VHK_ALIGNED(n) __attribute__((aligned(n)))
#define VHK_CLEANUP(f) __attribute__((cleanup(f)))
#define VHK_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define VHK_UNUSED __attribute__((unused))
#define VHK_HOT __attribute__((hot))
#define VHK_COLD __attribute__((cold, noinline))
#define vhk_likely(x) __builtin_expect(!!(x), 1)
#define vhk_unlikely(x) __builtin_expect(!!(x), 0)
#define VHK_API __attribute__((visibility("default")))

#define VHK_CACHE_LINE 64
#define VHK_PAGE 4096u

#define VHK_N(a) (sizeof(a) / sizeof((a)[0]))
#define VHK_MIN(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ < b_ ? a_ : b_; })
#define VHK_MAX(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); a_ > b_ ? a_ : b_; })
#define VHK_BIT(n) (UINT64_C(1) << (n))
#define vhk_container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))

/* Ownership moves: the source forgets. */
#define VHK_STEAL(p) ({ __typeof__(p) p_ = (p); (p) = NULL; p_; })
#define VHK_STEAL_FD(fd) ({ int fd_ = (fd); (fd) = -1; fd_; })

/* true if a + b (a * b) does not fit: then *ret is not to be used. */
#define vhk_add_overflows(a, b, ret) __builtin_add_overflow((a), (b), (ret))
#define vhk_mul_overflows(a, b, ret) __builtin_mul_overflow((a), (b), (ret))

/* Is [start, start+len) inside [0, limit)? No wrap-around. */
static inline bool vhk_range_within(uint64_t start, uint64_t len, uint64_t limit) {
        return start <= limit && len <= limit - start;
}

static inline bool vhk_is_pow2(uint64_t n) {
        return n && !(n & (n - 1));
}

/* Little-endian words of guest memory and virtio configuration space: a type of their own, so that none is
 * used without its conversion. */
typedef struct { uint16_t v; } vhk_le16;
typedef struct { uint32_t v; } vhk_le32;
typedef struct { uint64_t v; } vhk_le64;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define VHK_LE_(bits, x) (x)
#else
#define VHK_LE_(bits, x) __builtin_bswap##bits(x)
#endif

static inline uint16_t vhk_le16_get(vhk_le16 x) { return VHK_LE_(16, x.v); }
static inline uint32_t vhk_le32_get(vhk_le32 x) { return VHK_LE_(32, x.v); }
static inline uint64_t vhk_le64_get(vhk_le64 x) { return VHK_LE_(64, x.v); }
static inline vhk_le16 vhk_le16_of(uint16_t x) { return (vhk_le16){ VHK_LE_(16, x) }; }
static inline vhk_le32 vhk_le32_of(uint32_t x) { return (vhk_le32){ VHK_LE_(32, x) }; }
static inline vhk_le64 vhk_le64_of(uint64_t x) { return (vhk_le64){ VHK_LE_(64, x) }; }

/* Atomics are spelled with their order, on plain objects (shared memory has no _Atomic types). Each use says
 * in a comment what it pairs with. */
#define vhk_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define vhk_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define vhk_store_relaxed(p, x) __atomic_store_n((p), (x), __ATOMIC_RELAXED)
#define vhk_store_release(p, x) __atomic_store_n((p), (x), __ATOMIC_RELEASE)
#define vhk_fence_seq_cst() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* Counters of references. Taking one needs no order: the caller's own keeps the object alive. Who gives one up is through with
 * the object (release), and the last takes it apart after all others (acquire); true: that is the caller. */
static inline void vhk_refs_take(unsigned *refs) { __atomic_fetch_add(refs, 1, __ATOMIC_RELAXED); }
static inline bool vhk_refs_drop(unsigned *refs) { return __atomic_sub_fetch(refs, 1, __ATOMIC_ACQ_REL) == 0; }
/* Has everybody but the caller given up theirs? */
static inline bool vhk_refs_alone(const unsigned *refs) { return vhk_load_acquire(refs) == 1; }

static inline void vhk_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield" ::: "memory");
#else
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Closes and forgets; keeps errno. */
static inline void vhk_close(int *fd) {
        if (*fd >= 0) {
                int e = errno;
                close(*fd);
                errno = e;
        }
        *fd = -1;
}

static inline void vhk_freep(void *p) {
        free(*(void **)p);
        *(void **)p = NULL;
}

#define VHK_AUTOCLOSE VHK_CLEANUP(vhk_close)
#define VHK_AUTOFREE VHK_CLEANUP(vhk_freep)

/* errno as a negative result, never 0. */
static inline int vhk_errno(void) {
        return errno > 0 ? -errno : -EIO;
}
