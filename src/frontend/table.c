/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Lending memory: what the back-end has is remembered, and only the difference is sent where memory slots were
 * negotiated (REM_MEM_REG before ADD_MEM_REG, for regions never overlap). Elsewhere the whole table goes, of at most
 * 8 regions. What is remembered follows each acknowledgement, so that a refusal half way leaves the truth behind.
 * Source: vhost-user.rst, "Memory region description", VHOST_USER_{SET_MEM_TABLE,ADD_MEM_REG,REM_MEM_REG}.
 */
#include <sys/stat.h>

#include "frontend/vhost_user.h"
#include "mem/mem.h"

/* A region of the caller's, and its descriptor. */
struct wanted {
        struct vhk_lent r;
        int fd;
};

static int collect(struct vhk_vhost_user *u, const struct vhk_memory *m, struct wanted **ret_w, unsigned *ret_n) {
        unsigned n = vhk_memory_n_regions(m);
        struct stat st;

        VHK_AUTOFREE struct wanted *w = calloc(n + 1, sizeof(*w));
        if (!w)
                return vhk_frontend_fail(&u->f, -ENOMEM, "frontend.memory", "no memory for a table of %u regions", n);
        for (unsigned i = 0; i < n; i++) {
                struct vhk_region r;
                int k = vhk_frontend_get_region(&u->f, m, i, &r, &st);
                if (k < 0)
                        return k;
                w[i] = (struct wanted){
                        .r = { .gpa = r.gpa.v, .uva = vhk_vu_has(u, VHK_PF_GPA_ADDRESSES) ? r.gpa.v : (uintptr_t)r.va, .len = r.len, .fd_offset = r.fd_offset, .dev = st.st_dev, .ino = st.st_ino },
                        .fd = r.fd,
                };
        }
        *ret_n = n;
        *ret_w = VHK_STEAL(w);
        return 0;
}

static bool is_same(const struct vhk_lent *a, const struct vhk_lent *b) {
        return a->gpa == b->gpa && a->uva == b->uva && a->len == b->len && a->fd_offset == b->fd_offset && a->dev == b->dev && a->ino == b->ino;
}

static struct vhk_p_region describe(const struct vhk_lent *r) {
        return (struct vhk_p_region){ .guest_addr = r->gpa, .len = r->len, .user_addr = r->uva, .mmap_offset = r->fd_offset };
}

/* ---- with slots: the difference ---- */

/* A single region, plain memory also in the longer form of XEN_MMAP, which begins with the shorter. */
static struct vhk_p_mem_region_single_xen single(const struct vhk_lent *r) {
        struct vhk_p_region plain = describe(r);
        struct vhk_p_mem_region_single_xen p = { 0 };

        memcpy(&p.region[0], &plain, sizeof(plain));
        return p;
}

static uint32_t single_size(const struct vhk_vhost_user *u) {
        return vhk_vu_has(u, VHK_PF_XEN_MMAP) ? sizeof(struct vhk_p_mem_region_single_xen) : sizeof(struct vhk_p_mem_region_single);
}

static int remove_region(struct vhk_vhost_user *u, unsigned i) {
        struct vhk_p_mem_region_single_xen p = single(&u->lent[i]);

        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_REM_MEM_REG, .payload = &p, .size = single_size(u) }, NULL, NULL);
        if (k < 0)
                return k;
        memmove(&u->lent[i], &u->lent[i + 1], (u->n_lent - i - 1) * sizeof(*u->lent));
        u->n_lent--;
        return 0;
}

/* At index @i, for which there is room. */
static int add_region(struct vhk_vhost_user *u, unsigned i, const struct wanted *w) {
        struct vhk_p_mem_region_single_xen p = single(&w->r);

        int k = vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_ADD_MEM_REG, .payload = &p, .size = single_size(u), .fds = &w->fd, .n_fds = 1 }, NULL, NULL);
        if (k < 0)
                return k;
        memmove(&u->lent[i + 1], &u->lent[i], (u->n_lent - i) * sizeof(*u->lent));
        u->lent[i] = w->r;
        u->n_lent++;
        return 0;
}

/* Both lists are in order of guest address. */
static int send_difference(struct vhk_vhost_user *u, const struct wanted *w, unsigned n) {
        unsigned j = 0;
        int k;

        for (unsigned i = 0; i < u->n_lent;) {
                while (j < n && w[j].r.gpa < u->lent[i].gpa)
                        j++;
                if (j < n && is_same(&w[j].r, &u->lent[i]))
                        i++;
                else if ((k = remove_region(u, i)) < 0)
                        return k;
        }
        for (unsigned i = 0; i < n; i++) {      /* the first i of both are the same */
                if (i < u->n_lent && is_same(&w[i].r, &u->lent[i]))
                        continue;
                k = add_region(u, i, &w[i]);
                if (k < 0)
                        return k;
        }
        return 0;
}

/* ---- without: the table ---- */

static bool is_lent(const struct vhk_vhost_user *u, const struct wanted *w, unsigned n) {
        bool same = n == u->n_lent;

        for (unsigned i = 0; same && i < n; i++)
                same = is_same(&w[i].r, &u->lent[i]);
        return same;
}

static int send_table(struct vhk_vhost_user *u, const struct wanted *w, unsigned n) {
        struct vhk_p_mem_regions p = { .n_regions = n };
        int fds[VHK_SENT_REGIONS];

        if (is_lent(u, w, n))
                return 0;
        if (n == 0)
                return vhk_frontend_fail(&u->f, -EINVAL, "frontend.memory", "the back-end on %s has no memory slots: its last region cannot be taken back", u->name);
        for (unsigned i = 0; i < n; i++) {
                p.regions[i] = describe(&w[i].r);
                fds[i] = w[i].fd;
        }
        int k = vhk_vu_send_table(u, &p, fds);
        if (k < 0)
                return k;
        for (unsigned i = 0; i < n; i++) {
                u->lent[i] = w[i].r;
                u->lent[i].theirs = p.regions[i].user_addr;
        }
        u->n_lent = n;
        return 0;
}

int vhk_vu_set_memory(struct vhk_frontend *f, struct vhk_memory *m) {
        struct vhk_vhost_user *u = vhk_container_of(f, struct vhk_vhost_user, f);
        VHK_AUTOFREE struct wanted *w = NULL;
        unsigned n = 0;

        int k = collect(u, m, &w, &n);
        if (k < 0)
                return k;
        if (n > f->info.mem_slots)
                return vhk_frontend_fail(f, -ENOSPC, "frontend.slots", "the memory has %u regions, the back-end on %s takes %u%s", n, u->name, f->info.mem_slots,
                                         vhk_vu_has(u, VHK_PF_CONFIGURE_MEM_SLOTS) ? "" : " (it has no CONFIGURE_MEM_SLOTS)");
        struct vhk_lent *room = realloc(u->lent, (u->n_lent + n + 1) * sizeof(*room));
        if (!room)
                return vhk_frontend_fail(f, -ENOMEM, "frontend.memory", "no memory for a table of %u regions", u->n_lent + n);
        u->lent = room;
        u->set.memory = m;
        k = vhk_vu_has(u, VHK_PF_CONFIGURE_MEM_SLOTS) ? send_difference(u, w, n) : send_table(u, w, n);
        if (k == 0)
                k = vhk_vu_tell_memory(u);
        return k < 0 ? k : vhk_vu_settle(u);
}

int vhk_vu_find(const struct vhk_vhost_user *u, uint64_t gpa, uint64_t len, uint64_t *ret_uva) {
        for (unsigned i = 0; i < u->n_lent; i++) {
                const struct vhk_lent *r = &u->lent[i];
                if (gpa >= r->gpa && vhk_range_within(gpa - r->gpa, len, r->len)) {
                        *ret_uva = r->uva + (gpa - r->gpa);
                        return 0;
                }
        }
        return -EFAULT;
}
