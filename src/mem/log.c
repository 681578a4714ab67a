/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The front-end's side of a dirty log, <vhostkit/memory.h>: its memory, and taking marks while others make them. */
#include <sys/mman.h>

#include <vhostkit/memory.h>

#include "base/base.h"
#include "mem/mapping.h"

struct vhk_dirty_log {
        int fd;
        uint8_t *bits;
        uint64_t size;          /* a multiple of a page */
};

VHK_API int vhk_dirty_log_new(uint64_t end, struct vhk_dirty_log **ret_l) {
        uint64_t pages = end / VHK_PAGE + !!(end % VHK_PAGE), size = (pages + 8 * VHK_PAGE - 1) / (8 * VHK_PAGE) * VHK_PAGE;

        if (!end)
                return -EINVAL;
        struct vhk_dirty_log *l = malloc(sizeof(*l));
        if (!l)
                return -ENOMEM;
        *l = (struct vhk_dirty_log){ .fd = -1, .size = size };
        int k = vhk_area_make("vhostkit dirty log", size, &l->fd, NULL);
        if (k >= 0) {
                void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, l->fd, 0);
                k = p == MAP_FAILED ? vhk_errno() : 0;
                l->bits = k < 0 ? NULL : p;
        }
        if (k < 0)
                vhk_dirty_log_free(l);
        else
                *ret_l = l;
        return k < 0 ? k : 0;
}

VHK_API struct vhk_dirty_log *vhk_dirty_log_free(struct vhk_dirty_log *l) {
        if (!l)
                return NULL;
        if (l->bits)
                munmap(l->bits, l->size);
        vhk_close(&l->fd);
        free(l);
        return NULL;
}

VHK_API int vhk_dirty_log_get_fd(const struct vhk_dirty_log *l) { return l->fd; }
VHK_API uint64_t vhk_dirty_log_get_size(const struct vhk_dirty_log *l) { return l->size; }

VHK_API int vhk_dirty_log_take(struct vhk_dirty_log *l, uint64_t from, uint64_t *ret_gpa, uint64_t *ret_len) {
        const uint64_t n_words = l->size / 8, first = from / VHK_PAGE;
        uint64_t ignore = first % 64 ? ~UINT64_C(0) >> (64 - first % 64) : 0;   /* pages of the first word below @from */

        for (uint64_t i = first / 64; i < n_words; i++, ignore = 0) {
                uint64_t *word = (uint64_t *)l->bits + i;
                uint64_t seen = vhk_le64_get((vhk_le64){ vhk_load_relaxed(word) }) & ~ignore;
                if (!seen)
                        continue;
                unsigned at = (unsigned)__builtin_ctzll(seen);
                uint64_t rest = ~(seen >> at);
                unsigned n = rest ? (unsigned)__builtin_ctzll(rest) : 64;
                uint64_t run = (n < 64 ? (UINT64_C(1) << n) - 1 : ~UINT64_C(0)) << at;
                /* acquire: pairs with the release of who made the marks; what was written before is copied now */
                __atomic_fetch_and(word, vhk_le64_of(~run).v, __ATOMIC_ACQUIRE);
                *ret_gpa = (i * 64 + at) * VHK_PAGE;
                *ret_len = (uint64_t)n * VHK_PAGE;
                return 1;
        }
        return 0;
}
