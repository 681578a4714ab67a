/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a vDPA device may reach. The kernel keeps a table of its own per address space, and refuses to map what is mapped; so
 * what it has is remembered message by message, and a change goes as the difference: first what is gone, then what is new, one
 * address space after the other, each as a batch (a batch is of one address space).
 *
 * A device without IOTLB_PERSIST loses its mappings when it is reset while the kernel's table keeps them: after a reset all
 * are taken away and made again, with the next word about memory, status or rings (a reset may be the last one). Source: Linux drivers/vhost/vdpa.c, vhost_vdpa_process_iotlb_msg(), vhost_vdpa_reset_map().
 */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "frontend/vdpa.h"
#include "mem/mem.h"

/* ---- messages ---- */

static const char *const words[] = {
        [VHK_SYS_IOTLB_UPDATE] = "map in", [VHK_SYS_IOTLB_INVALIDATE] = "unmap in", [VHK_SYS_IOTLB_BATCH_BEGIN] = "begin a batch of",
        [VHK_SYS_IOTLB_BATCH_END] = "end the batch of",
};

static int tell(struct vhk_vd *v, uint32_t asid, uint8_t type, const struct vhk_vd_map *m) {
        struct vhk_sys_iotlb msg = { .type = type, .asid = asid };

        if (m)
                msg.iova = m->iova, msg.len = m->len;
        if (m && type == VHK_SYS_IOTLB_UPDATE)
                msg.uva = m->uva, msg.perm = (uint8_t)m->access;
        int k = vhk_sys_vhost_write_iotlb(v->fd, vhk_vd_has(v, VHK_SYS_BF_IOTLB_MSG_V2), &msg);
        vhk_log(&v->f.trace, VHK_LOG_DEBUG, "%s: %s address space %u, 0x%llx + 0x%llx: %s", v->name, words[type], asid, (unsigned long long)msg.iova,
                (unsigned long long)msg.len, k < 0 ? strerror(-k) : "ok");
        return k;
}

/* The kernel says EFAULT to everything; pages that are locked for the device have a limit, which is hit most. */
static int map_failed(struct vhk_vd *v, const struct vhk_vd_map *m, int k) {
        struct rlimit limit = { .rlim_cur = RLIM_INFINITY };
        uint64_t sum = m->len;

        for (unsigned i = 0; i < v->n_maps; i++)
                sum += v->maps[i].len;
        getrlimit(RLIMIT_MEMLOCK, &limit);
        if (limit.rlim_cur != RLIM_INFINITY && sum > limit.rlim_cur)
                return vhk_frontend_fail(&v->f, -ENOMEM, "vdpa.memlock", "%s did not map %llu bytes; with what is mapped they are %llu, RLIMIT_MEMLOCK allows %llu",
                                         v->name, (unsigned long long)m->len, (unsigned long long)sum, (unsigned long long)limit.rlim_cur);
        return vhk_frontend_fail(&v->f, k, "vdpa.map", "%s did not map %llu bytes at I/O address 0x%llx of address space %u: %s (so the kernel says to all; perhaps pages in more pieces than the device takes)", v->name,
                                 (unsigned long long)m->len, (unsigned long long)m->iova, m->asid, strerror(-k));
}

static int map(struct vhk_vd *v, const struct vhk_vd_map *m) {
        if (v->n_maps == v->maps_room) {
                unsigned room = 2 * v->maps_room + 8;
                struct vhk_vd_map *maps = realloc(v->maps, room * sizeof(*maps));
                if (!maps)
                        return -ENOMEM;
                v->maps = maps;
                v->maps_room = room;
        }
        int k = tell(v, m->asid, VHK_SYS_IOTLB_UPDATE, m);
        if (k < 0)
                return map_failed(v, m, k);
        v->maps[v->n_maps++] = *m;
        return 0;
}

static int unmap(struct vhk_vd *v, unsigned i) {
        const struct vhk_vd_map *m = &v->maps[i];

        int k = tell(v, m->asid, VHK_SYS_IOTLB_INVALIDATE, m);
        if (k < 0)
                return vhk_frontend_fail(&v->f, k, "vdpa.unmap", "%s did not unmap %llu bytes at I/O address 0x%llx: %s", v->name, (unsigned long long)m->len,
                                         (unsigned long long)m->iova, strerror(-k));
        v->maps[i] = v->maps[--v->n_maps];
        return 0;
}

static int batch(struct vhk_vd *v, uint32_t asid, uint8_t type) {
        if (!vhk_vd_has(v, VHK_SYS_BF_IOTLB_BATCH))
                return 0;
        return vhk_vd_said(v, tell(v, asid, type, NULL), type == VHK_SYS_IOTLB_BATCH_BEGIN ? "begin of a batch" : "end of a batch");
}

/* ---- lent memory ---- */

static bool is_same(const struct vhk_vd_map *a, const struct vhk_vd_map *b) {
        return a->iova == b->iova && a->len == b->len && a->uva == b->uva && a->fd_offset == b->fd_offset && a->dev == b->dev && a->ino == b->ino;
}

static bool is_in_use(const struct vhk_vd *v, uint32_t asid) {
        for (unsigned i = 0; i < VHK_MAX(v->f.info.n_groups, 1u); i++)
                if (v->group_asid[i] == asid)
                        return true;
        return false;
}

static bool is_wanted(const struct vhk_vd *v, const struct vhk_vd_map *m) {
        bool found = !m->is_lent;

        for (unsigned i = 0; !found && i < v->n_lent; i++)
                found = is_in_use(v, m->asid) && is_same(m, &v->lent[i]);
        return found;
}

static bool is_there(const struct vhk_vd *v, uint32_t asid, const struct vhk_vd_map *lent) {
        for (unsigned i = 0; i < v->n_maps; i++)
                if (v->maps[i].is_lent && v->maps[i].asid == asid && is_same(&v->maps[i], lent))
                        return true;
        return false;
}

static bool differs(const struct vhk_vd *v, uint32_t asid) {
        for (unsigned i = 0; i < v->n_maps; i++)
                if (v->maps[i].asid == asid && !is_wanted(v, &v->maps[i]))
                        return true;
        for (unsigned i = 0; i < v->n_lent && is_in_use(v, asid); i++)
                if (!is_there(v, asid, &v->lent[i]))
                        return true;
        return false;
}

static int send_difference(struct vhk_vd *v, uint32_t asid) {
        int k = 0;

        for (unsigned i = 0; k == 0 && i < v->n_maps;)
                if (v->maps[i].asid == asid && !is_wanted(v, &v->maps[i]))
                        k = unmap(v, i);        /* another is at @i now */
                else
                        i++;
        for (unsigned i = 0; k == 0 && i < v->n_lent && is_in_use(v, asid); i++) {
                struct vhk_vd_map m = v->lent[i];
                m.asid = asid;
                if (!is_there(v, asid, &m))
                        k = map(v, &m);
        }
        return k;
}

int vhk_vd_sync(struct vhk_vd *v) {
        for (uint32_t asid = 0; asid < VHK_MAX(v->f.info.n_address_spaces, 1u); asid++) {
                if (!differs(v, asid))
                        continue;
                int k = batch(v, asid, VHK_SYS_IOTLB_BATCH_BEGIN);
                if (k < 0)
                        return k;
                k = send_difference(v, asid);
                int e = batch(v, asid, VHK_SYS_IOTLB_BATCH_END);        /* also after a failure: batches balance */
                if (k < 0 || e < 0)
                        return k < 0 ? k : e;
        }
        return 0;
}

static int remap(struct vhk_vd *v) {
        struct vhk_vd_map *old = VHK_STEAL(v->maps);
        unsigned n = v->n_maps;
        int k = 0;

        v->n_maps = v->maps_room = 0;
        v->stale = false;
        for (uint32_t asid = 0; asid < VHK_MAX(v->f.info.n_address_spaces, 1u); asid++) {
                bool any = false;
                for (unsigned i = 0; i < n; i++)
                        any |= old[i].asid == asid;
                if (!any)
                        continue;
                int e = batch(v, asid, VHK_SYS_IOTLB_BATCH_BEGIN);
                for (unsigned i = 0; e == 0 && i < n; i++)
                        if (old[i].asid == asid)
                                e = vhk_vd_said(v, tell(v, asid, VHK_SYS_IOTLB_INVALIDATE, &old[i]), "unmapping");
                for (unsigned i = 0; e == 0 && i < n; i++)
                        if (old[i].asid == asid && is_wanted(v, &old[i]))
                                e = map(v, &old[i]);
                int end = batch(v, asid, VHK_SYS_IOTLB_BATCH_END);
                k = k ? k : e ? e : end;
        }
        free(old);
        return k;
}

int vhk_vd_freshen(struct vhk_vd *v) {
        int k = v->stale ? remap(v) : 0;

        return k ? k : vhk_vd_sync(v);
}

/* On the way out: what cannot be told is not there any more. */
void vhk_vd_unmap_all(struct vhk_vd *v) {
        for (unsigned i = 0; i < v->n_maps; i++)
                tell(v, v->maps[i].asid, VHK_SYS_IOTLB_INVALIDATE, &v->maps[i]);
        v->n_maps = 0;
}

static int check_range(struct vhk_vd *v, uint64_t iova, uint64_t len, const char *what) {
        const struct vhk_frontend_info *i = &v->f.info;

        if (iova >= i->iova_first && len - 1 <= i->iova_last - iova && iova <= i->iova_last)
                return 0;
        return vhk_frontend_fail(&v->f, -ERANGE, "vdpa.iova-range", "%s, %llu bytes at 0x%llx, is outside of the I/O addresses of %s, 0x%llx to 0x%llx", what,
                                 (unsigned long long)len, (unsigned long long)iova, v->name, (unsigned long long)i->iova_first,
                                 (unsigned long long)i->iova_last);
}

static int check_no_batch(struct vhk_vd *v) {
        if (!v->in_batch)
                return 0;
        return vhk_frontend_fail(&v->f, -EBUSY, "vdpa.batch", "a batch of address space %u has begun and not ended", v->batch_asid);
}

static int collect(struct vhk_vd *v, const struct vhk_memory *m, struct vhk_vd_map **ret_w, unsigned *ret_n) {
        unsigned n = vhk_memory_n_regions(m);
        char what[32];
        struct stat st;

        VHK_AUTOFREE struct vhk_vd_map *w = calloc(n + 1, sizeof(*w));
        if (!w)
                return -ENOMEM;
        for (unsigned i = 0; i < n; i++) {
                struct vhk_region r;
                int k = vhk_frontend_get_region(&v->f, m, i, &r, &st);
                if (k < 0)
                        return k;
                snprintf(what, sizeof(what), "region %u of the memory", i);
                k = check_range(v, r.gpa.v, r.len, what);
                if (k < 0)
                        return k;
                w[i] = (struct vhk_vd_map){ .iova = r.gpa.v, .len = r.len, .uva = (uintptr_t)r.va, .access = VHK_ACCESS_BOTH, .is_lent = true,
                                            .fd_offset = r.fd_offset, .dev = st.st_dev, .ino = st.st_ino };
        }
        *ret_n = n;
        *ret_w = VHK_STEAL(w);
        return 0;
}

int vhk_vd_set_memory(struct vhk_frontend *f, struct vhk_memory *m) {
        struct vhk_vd *v = vhk_vd_of(f);
        struct vhk_vd_map *lent = NULL, *old = v->lent;
        unsigned n = 0, n_old = v->n_lent;

        int k = check_no_batch(v);
        if (k == 0)
                k = vhk_vd_freshen(v);
        if (k == 0)
                k = collect(v, m, &lent, &n);
        if (k < 0)
                return k;
        v->lent = lent;
        v->n_lent = n;
        k = vhk_vd_sync(v);
        if (k < 0) {                    /* not lent then: what was is again, as far as the kernel takes it */
                struct vhk_error e = f->error;
                v->lent = old;
                v->n_lent = n_old;
                vhk_vd_sync(v);
                f->error = e;
                free(lent);
                return k;
        }
        free(old);
        return 0;
}

/* ---- the caller's own ---- */

static int check_asid(struct vhk_vd *v, uint32_t asid) {
        uint32_t n = VHK_MAX(v->f.info.n_address_spaces, 1u);

        if (asid < n)
                return 0;
        return vhk_frontend_fail(&v->f, -EINVAL, "vdpa.asid", "%s has %u address spaces, there is no address space %u", v->name, n, asid);
}

/* Inside of a batch everything is of its address space. */
static int check_batch(struct vhk_vd *v, uint32_t asid) {
        if (!v->in_batch || v->batch_asid == asid)
                return 0;
        return vhk_frontend_fail(&v->f, -EINVAL, "vdpa.batch", "a batch of address space %u has begun, address space %u is not its", v->batch_asid, asid);
}

static int check_dma(struct vhk_vd *v, uint32_t asid, uint64_t iova, uint64_t len) {
        int k = check_asid(v, asid);

        if (k == 0)
                k = check_batch(v, asid);
        if (k == 0 && (!len || (iova | len) % VHK_PAGE))
                k = vhk_frontend_fail(&v->f, -EINVAL, "vdpa.dma", "%llu bytes at I/O address 0x%llx: not whole pages", (unsigned long long)len, (unsigned long long)iova);
        return k ? k : check_range(v, iova, len, "a mapping");
}

int vhk_vd_dma_map(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len, void *va, uint32_t access) {
        struct vhk_vd *v = vhk_vd_of(f);
        struct vhk_vd_map m = { .asid = asid, .iova = iova, .len = len, .uva = (uintptr_t)va, .access = access };

        int k = check_dma(v, asid, iova, len);
        if (k < 0)
                return k;
        if (access < VHK_ACCESS_READ || access > VHK_ACCESS_BOTH || m.uva % VHK_PAGE)
                return vhk_frontend_fail(f, -EINVAL, "vdpa.dma", "access %u to memory at 0x%llx: 1 to 3, and whole pages", access, (unsigned long long)m.uva);
        for (unsigned i = 0; i < v->n_maps; i++) {
                const struct vhk_vd_map *o = &v->maps[i];
                if (o->asid == asid && iova <= o->iova + (o->len - 1) && o->iova <= iova + (len - 1))
                        return vhk_frontend_fail(f, -EEXIST, "vdpa.dma", "%llu bytes at I/O address 0x%llx of address space %u are mapped already",
                                                 (unsigned long long)o->len, (unsigned long long)o->iova, asid);
        }
        k = vhk_vd_freshen(v);
        return k < 0 ? k : map(v, &m);
}

int vhk_vd_dma_unmap(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len) {
        struct vhk_vd *v = vhk_vd_of(f);

        int k = check_dma(v, asid, iova, len);
        if (k == 0)
                k = vhk_vd_freshen(v);
        if (k < 0)
                return k;
        for (unsigned i = 0; i < v->n_maps; i++) {
                const struct vhk_vd_map *o = &v->maps[i];
                if (!o->is_lent && o->asid == asid && o->iova == iova && o->len == len)
                        return unmap(v, i);
        }
        return vhk_frontend_fail(f, -ENOENT, "vdpa.dma", "%llu bytes at I/O address 0x%llx of address space %u are no mapping of the caller's",
                                 (unsigned long long)len, (unsigned long long)iova, asid);
}

int vhk_vd_dma_begin(struct vhk_frontend *f, uint32_t asid) {
        struct vhk_vd *v = vhk_vd_of(f);

        int k = check_asid(v, asid);
        if (k < 0)
                return k;
        if (v->in_batch)
                return vhk_frontend_fail(f, -EINVAL, "vdpa.batch", "a batch of address space %u has begun and not ended", v->batch_asid);
        k = vhk_vd_freshen(v);
        if (k < 0)
                return k;
        k = batch(v, asid, VHK_SYS_IOTLB_BATCH_BEGIN);
        v->in_batch = k == 0;
        v->batch_asid = asid;
        return k;
}

int vhk_vd_dma_end(struct vhk_frontend *f, uint32_t asid) {
        struct vhk_vd *v = vhk_vd_of(f);

        if (!v->in_batch)
                return vhk_frontend_fail(f, -EINVAL, "vdpa.batch", "no batch has begun");
        int k = check_batch(v, asid);
        if (k < 0)
                return k;
        v->in_batch = false;
        return batch(v, asid, VHK_SYS_IOTLB_BATCH_END);
}

/* In one mapping, as the rings of all carriers are. */
bool vhk_vd_is_mapped(const struct vhk_vd *v, uint32_t asid, uint64_t iova, uint64_t len) {
        for (unsigned i = 0; i < v->n_maps; i++) {
                const struct vhk_vd_map *m = &v->maps[i];
                if (m->asid == asid && iova >= m->iova && vhk_range_within(iova - m->iova, len, m->len))
                        return true;
        }
        return false;
}
