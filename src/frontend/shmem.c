/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A device's shared memory regions: their sizes, and the book of what the back-end has mapped. The caller only maps and
 * unmaps; whether a request is right is judged here. One thread.
 *
 * Invariant: no two mappings of a region overlap, all are inside of it; what was mapped is unmapped exactly once: on
 * request, at a device reset, or when the connection has gone.
 *
 * Source: vhost-user, "VHOST_USER_GET_SHMEM_CONFIG", "VHOST_USER_BACKEND_SHMEM_MAP", "VHOST_USER_BACKEND_SHMEM_UNMAP".
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/peer.h"
#include "frontend/vhost_user.h"

#define U(x) ((unsigned long long)(x))

static uint64_t page_size(void) {
        return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- sizes ---- */

int vhk_vu_ask_shmem(struct vhk_vhost_user *u) {
        bool known = u->shmem.n_regions;
        union vhk_p_any reply;
        uint32_t n = 0;

        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_GET_SHMEM_CONFIG }, &reply, NULL);
        if (k < 0)
                return k;
        for (unsigned i = 0; i < VHK_SHMEM_REGIONS; i++) {
                if (reply.shmem_config.sizes[i] % page_size())
                        return vhk_frontend_fail(&u->f, -EPROTO, "shmem.config", "shared memory region %u of %s: %llu bytes are no multiple of the page", i,
                                                 u->name, U(reply.shmem_config.sizes[i]));
                n += !!reply.shmem_config.sizes[i];
        }
        if (n != reply.shmem_config.n_regions)
                return vhk_frontend_fail(&u->f, -EPROTO, "shmem.config", "%s announces %u shared memory regions and describes %u", u->name,
                                         reply.shmem_config.n_regions, n);
        if (known && memcmp(u->shmem.sizes, reply.shmem_config.sizes, sizeof(u->shmem.sizes)))
                return vhk_frontend_fail(&u->f, -EOPNOTSUPP, "frontend.other-back-end", "the back-end that is now on %s has other shared memory regions", u->name);
        u->shmem.n_regions = n;
        memcpy(u->shmem.sizes, reply.shmem_config.sizes, sizeof(u->shmem.sizes));
        return 0;
}

int vhk_vu_get_shmem_config(struct vhk_frontend *f, uint64_t *ret_sizes) {
        struct vhk_vhost_user *u = vhk_container_of(f, struct vhk_vhost_user, f);

        memcpy(ret_sizes, u->shmem.sizes, sizeof(u->shmem.sizes));
        return (int)u->shmem.n_regions;
}

/* ---- what the back-end asks ---- */

/* Is there room for it? */
static int check_place(const struct vhk_vu_shmem *s, const struct vhk_p_mmap *p, struct vhk_error *ret_e) {
        if (!s->sizes[p->shmid])
                return vhk_error_set(ret_e, -ENOENT, "shmem.unused", "there is no shared memory region %u", p->shmid);
        if (!vhk_range_within(p->shm_offset, p->len, s->sizes[p->shmid]))
                return vhk_error_set(ret_e, -EINVAL, "shmem.beyond-region", "0x%llx bytes at 0x%llx are not in shared memory region %u of 0x%llx bytes",
                                     U(p->len), U(p->shm_offset), p->shmid, U(s->sizes[p->shmid]));
        if ((p->shm_offset | p->len | p->fd_offset) % page_size())
                return vhk_error_set(ret_e, -EINVAL, "shmem.align", "a mapping begins and ends between pages");
        for (unsigned i = 0; i < s->n; i++) {
                const struct vhk_shmem_map *m = &s->mappings[i];
                if (m->id == p->shmid && m->offset < p->shm_offset + p->len && p->shm_offset < m->offset + m->len)
                        return vhk_error_set(ret_e, -EEXIST, "shmem.overlap", "0x%llx bytes at 0x%llx overlap the mapping at 0x%llx", U(p->len),
                                             U(p->shm_offset), U(m->offset));
        }
        if (s->n == VHK_SHMEM_MAPPINGS)
                return vhk_error_set(ret_e, -ENOSPC, "shmem.limit", "%u mappings are there already", VHK_SHMEM_MAPPINGS);
        return 0;
}

/* Can it be shown? Files, memfds, dma-bufs know their size; a character device does not. */
static int check_fd(const struct vhk_p_mmap *p, int fd, struct vhk_error *ret_e) {
        struct stat st;
        int mode = fcntl(fd, F_GETFL);

        int k = mode < 0 ? vhk_errno() : vhk_peer_stat(fd, &st);
        if (k < 0)
                return vhk_error_set(ret_e, k, "shmem.fd", "a mapping's descriptor: %s", strerror(-k));
        if (S_ISDIR(st.st_mode) || S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || S_ISBLK(st.st_mode) || (mode & O_PATH))
                return vhk_error_set(ret_e, -EINVAL, "shmem.fd-type", "a mapping's descriptor is nothing that can be mapped");
        if ((mode & O_ACCMODE) == O_WRONLY || ((p->flags & VHK_MMAP_RW) && (mode & O_ACCMODE) != O_RDWR))
                return vhk_error_set(ret_e, -EACCES, "shmem.fd-access", "a mapping's descriptor is not open for what the mapping allows");
        if (S_ISCHR(st.st_mode))
                return 0;
        off_t size = S_ISREG(st.st_mode) ? st.st_size : lseek(fd, 0, SEEK_END);        /* of a file, its server would be asked */
        if (size < 0 || !vhk_range_within(p->fd_offset, p->len, (uint64_t)size))
                return vhk_error_set(ret_e, -EINVAL, "shmem.beyond-file", "0x%llx bytes at 0x%llx of a descriptor of %lld bytes", U(p->len), U(p->fd_offset),
                                     (long long)size);
        return 0;
}

int vhk_vu_shmem_map(struct vhk_vhost_user *u, const struct vhk_p_mmap *p, int fd, struct vhk_error *ret_e) {
        struct vhk_vu_shmem *s = &u->shmem;
        struct vhk_shmem_map m = {
                .size = sizeof(m), .id = p->shmid, .writable = !!(p->flags & VHK_MMAP_RW), .fd = fd,
                .offset = p->shm_offset, .len = p->len, .fd_offset = p->fd_offset,
        };

        int k = check_place(s, p, ret_e);
        if (k == 0)
                k = check_fd(p, fd, ret_e);
        if (k < 0)
                return k;
        k = s->callbacks.map(s->callbacks.arg, &m);
        if (k < 0)
                return vhk_error_set(ret_e, k, "shmem.caller", "a mapping at 0x%llx of shared memory region %u failed: %s", U(m.offset), m.id, strerror(-k));
        m.fd = -1;
        s->mappings[s->n++] = m;
        return 0;
}

static void unmap(struct vhk_vu_shmem *s, unsigned i) {
        struct vhk_shmem_map m = s->mappings[i];

        s->mappings[i] = s->mappings[--s->n];
        s->callbacks.unmap(s->callbacks.arg, &m);
}

int vhk_vu_shmem_unmap(struct vhk_vhost_user *u, const struct vhk_p_mmap *p, struct vhk_error *ret_e) {
        struct vhk_vu_shmem *s = &u->shmem;

        for (unsigned i = 0; i < s->n; i++) {
                const struct vhk_shmem_map *m = &s->mappings[i];
                if (m->id == p->shmid && m->offset == p->shm_offset && m->len == p->len) {
                        unmap(s, i);
                        return 0;
                }
        }
        return vhk_error_set(ret_e, -ENOENT, "shmem.no-such-mapping", "no mapping of 0x%llx bytes is at 0x%llx of shared memory region %u", U(p->len),
                             U(p->shm_offset), p->shmid);
}

void vhk_vu_shmem_forget(struct vhk_vhost_user *u) {
        while (u->shmem.n)
                unmap(&u->shmem, u->shmem.n - 1);
}
