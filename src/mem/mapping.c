/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How a part of a peer's descriptor gets into our address space. Any thread.
 *
 * The part may begin at any page of the file. hugetlbfs maps and unmaps whole huge pages only, so there the mapping
 * begins at the huge page below and ends with the huge page above; the wanted part lies inside. Files of other types
 * than regular (memfd, tmpfs and hugetlbfs files are regular) have no size to check against and are refused from a peer.
 *
 * Every mapping is in the SIGBUS registry (sigbus.c), also one whose file is sealed against
 * shrinking: the file may have shrunk before it was sealed, hugetlbfs raises SIGBUS when its pool
 * is empty, and a front-end that migrates by postcopy can poison pages (UFFDIO_POISON).
 */
#include "mem/mapping.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "base/error.h"
#include "mem/mem.h"

#define U(x) ((unsigned long long)(x))

static uint64_t n_mmaps, n_munmaps;     /* shared (atomic), relaxed: counts for tests */

struct vhk_mem_counters vhk_mem_counters(void) {
        return (struct vhk_mem_counters){ .mmaps = vhk_load_relaxed(&n_mmaps), .munmaps = vhk_load_relaxed(&n_munmaps) };
}

int vhk_mapping_check(int fd, uint64_t offset, uint64_t len, struct stat *ret_st, struct vhk_error *ret_e) {
        uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end;
        struct stat st;

        if (len == 0)
                return vhk_error_set(ret_e, -EINVAL, "mem.size-zero", "a memory region of length 0");
        if (offset % page)
                return vhk_error_set(ret_e, -EINVAL, "mem.offset-align", "file offset 0x%llx is not a multiple of %llu",
                                     U(offset), U(page));
        if (vhk_add_overflows(offset, len, &end))
                return vhk_error_set(ret_e, -EINVAL, "mem.wrap-offset", "file offset 0x%llx + length 0x%llx wraps around",
                                     U(offset), U(len));
        if (fstat(fd, &st) < 0) {
                int k = vhk_errno();
                return vhk_error_set(ret_e, k, "mem.fd", "descriptor of a memory region: %s", strerror(-k));
        }
        if (!S_ISREG(st.st_mode))
                return vhk_error_set(ret_e, -EINVAL, "mem.file-type",
                                     "descriptor of a memory region is no file (mode 0%o); expected memfd, tmpfs or hugetlbfs",
                                     (unsigned)st.st_mode);
        if ((fcntl(fd, F_GETFL) & (O_ACCMODE | O_PATH)) != O_RDWR)
                return vhk_error_set(ret_e, -EACCES, "mem.fd-access",
                                     "a memory region's descriptor is not open for reading and writing");
        if (end > (uint64_t)st.st_size)
                return vhk_error_set(ret_e, -EINVAL, "mem.beyond-file",
                                     "file offset 0x%llx + length 0x%llx is beyond the file's %llu bytes",
                                     U(offset), U(len), U(st.st_size));
        *ret_st = st;
        return 0;
}

/* What mmap(2) and munmap(2) of this file count in; 0 with errno if nobody knows. */
static size_t page_size_of(int fd) {
        struct statfs fs;

        if (fstatfs(fd, &fs) < 0)
                return 0;
        return fs.f_type == HUGETLBFS_MAGIC ? (size_t)fs.f_bsize : (size_t)sysconf(_SC_PAGESIZE);
}

static void mapping_free(struct vhk_mapping *m) {
        if (!m)
                return;
        vhk_sigbus_remove(m->slot);     /* before the addresses can be somebody else's */
        if (m->base) {
                munmap(m->base, m->size);
                __atomic_fetch_add(&n_munmaps, 1, __ATOMIC_RELAXED);
        }
        free(m);
}

static void mapping_freep(struct vhk_mapping **m) {
        mapping_free(*m);
}

/* Pages that hold [offset, offset + len): where they begin in the file, and their length. False: does not fit. */
static bool round_to_pages(uint64_t offset, uint64_t len, size_t page, uint64_t *ret_start, size_t *ret_size) {
        uint64_t start = offset - offset % page, end = offset + len;

        if (vhk_add_overflows(end, (uint64_t)page - 1, &end))
                return false;
        end -= end % page;
        *ret_start = start;
        return !vhk_add_overflows(end - start, (uint64_t)0, ret_size);
}

static int map_pages(struct vhk_mapping *m, int fd, int prot) {
        uint64_t start;

        if (!round_to_pages(m->fd_offset, m->len, m->page, &start, &m->size))
                return -ENOMEM;
        void *p = mmap(NULL, m->size, prot, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
        if (p == MAP_FAILED)
                return vhk_errno();
        __atomic_fetch_add(&n_mmaps, 1, __ATOMIC_RELAXED);
        m->base = p;
        m->host = m->base + (m->fd_offset - start);
        /* hints, and no harm without them: a child has no business in guest memory, nor has a core file */
        madvise(p, m->size, MADV_DONTFORK);
        madvise(p, m->size, MADV_DONTDUMP);
        return vhk_sigbus_add(p, m->size, m->page, &m->bad, &m->slot);
}

static int mapping_new(int fd, const struct stat *st, uint64_t offset, uint64_t len, int prot, struct vhk_mapping **ret_m,
                       struct vhk_error *ret_e) {
        VHK_CLEANUP(mapping_freep) struct vhk_mapping *m = calloc(1, sizeof(*m));
        int k = -ENOMEM;

        if (m) {
                *m = (struct vhk_mapping){ .refs = 1, .fd_offset = offset, .len = len, .dev = st->st_dev, .ino = st->st_ino };
                m->page = page_size_of(fd);
                k = m->page ? map_pages(m, fd, prot) : vhk_errno();
        }
        if (k < 0)
                return vhk_error_set(ret_e, k, "mem.map", "mapping 0x%llx bytes at file offset 0x%llx: %s", U(len),
                                     U(offset), strerror(-k));
        *ret_m = VHK_STEAL(m);
        return 0;
}

int vhk_mapping_new(int fd, const struct stat *st, uint64_t offset, uint64_t len, struct vhk_mapping **ret_m,
                    struct vhk_error *ret_e) {
        return mapping_new(fd, st, offset, len, PROT_READ | PROT_WRITE, ret_m, ret_e);
}

int vhk_mapping_new_lent(int fd, uint64_t offset, uint64_t len, bool writable, struct vhk_mapping **ret_m, struct vhk_error *ret_e) {
        struct stat st;
        uint64_t end;

        if (!len || vhk_add_overflows(offset, len, &end))
                return vhk_error_set(ret_e, -EINVAL, "mem.wrap-offset", "file offset 0x%llx + length 0x%llx is no range", U(offset), U(len));
        if (fstat(fd, &st) < 0) {
                int k = vhk_errno();
                return vhk_error_set(ret_e, k, "mem.fd", "descriptor of a memory region: %s", strerror(-k));
        }
        if (S_ISREG(st.st_mode) && end > (uint64_t)st.st_size)
                return vhk_error_set(ret_e, -EINVAL, "mem.beyond-file", "file offset 0x%llx + length 0x%llx is beyond the file's %llu bytes",
                                     U(offset), U(len), U(st.st_size));
        return mapping_new(fd, &st, offset, len, writable ? PROT_READ | PROT_WRITE : PROT_READ, ret_m, ret_e);
}

struct vhk_mapping *vhk_mapping_ref(struct vhk_mapping *m) {
        vhk_refs_take(&m->refs);
        return m;
}

struct vhk_mapping *vhk_mapping_unref(struct vhk_mapping *m) {
        if (m && vhk_refs_drop(&m->refs))
                mapping_free(m);
        return NULL;
}

bool vhk_mapping_is_bad(const struct vhk_mapping *m) {
        return vhk_load_acquire(&m->bad);       /* pairs with the release in vhk_sigbus_try() */
}

bool vhk_mapping_shows(const struct vhk_mapping *m, const struct stat *st, uint64_t offset, uint64_t len) {
        return m->dev == st->st_dev && m->ino == st->st_ino && m->fd_offset == offset && m->len == len && !vhk_mapping_is_bad(m);
}
