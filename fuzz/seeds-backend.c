/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * seeds-backend DIR: scripts for fuzz-backend in the words of back-end.h. One per row and variant of messages.def: the
 * message alone, and behind a whole set-up; and some sessions that do work. seeds-backend DIR inflight: records for
 * fuzz-inflight.
 */
#include <sys/stat.h>

#include "fuzz/back-end.h"
#include "ring/inflight.h"

static uint8_t out[8192];
static size_t n_out;

static void byte(unsigned x) {
        out[n_out++] = (uint8_t)x;
}

static void word(unsigned x) {
        byte(x & 255);
        byte(x >> 8);
}

static int save(const char *dir, const char *name, unsigned k) {
        char path[4096];

        snprintf(path, sizeof(path), "%s/%s-%u", dir, name, k);
        FILE *f = fopen(path, "we");
        if (!f)
                return -EIO;
        fwrite(out, 1, n_out, f);
        n_out = 0;
        return fclose(f) ? -EIO : 0;
}

static int kind_of(const struct vhk_row *row) {
        switch (row->id) {
        case VHK_FE_SET_MEM_TABLE: case VHK_FE_ADD_MEM_REG: return FD_MEMORY;
        case VHK_FE_SET_LOG_BASE: return FD_LOG;
        case VHK_FE_SET_BACKEND_REQ_FD: case VHK_FE_GPU_SET_SOCKET: return FD_SOCKET;
        case VHK_FE_SET_VRING_KICK: return FD_KICK + 1;
        case VHK_FE_SET_INFLIGHT_FD: return FD_SMALL;
        default: return FD_EVENT;
        }
}

/* Addresses that mean something to this target. */
static void places(struct vhk_sample *m, const struct vhk_row *row) {
        struct vhk_p_vring_addr *a = &m->u.p.vring_addr;

        if (row->request == VHK_P_MEM_REGIONS)
                for (unsigned i = 0; i < 2; i++)
                        m->u.p.mem_regions.regions[i] = (struct vhk_p_region){ FZ_GPA + 0x8000 * i, 0x8000, FZ_UVA + 0x8000 * i, 0x8000 * i };
        else if (row->request == VHK_P_MEM_REGION_SINGLE)
                m->u.p.mem_region_single.region[0] = (struct vhk_p_region){ FZ_GPA + FZ_MEM, 0x2000, FZ_UVA + FZ_MEM, 0x2000 };
        else if (row->request == VHK_P_VRING_ADDR)
                *a = (struct vhk_p_vring_addr){ .index = 1, .desc = FZ_UVA + 0x1000, .avail = FZ_UVA + 0x1400, .used = FZ_UVA + 0x1800 };
        else if (row->request == VHK_P_LOG)
                m->u.p.log = (struct vhk_p_log){ 0x1000, 0 };
        else if (row->request == VHK_P_IOTLB)
                m->u.p.iotlb.user_addr = FZ_UVA;
        else if (row->request == VHK_P_INFLIGHT)
                m->u.p.inflight = (struct vhk_p_inflight){ .mmap_size = 0x1000, .num_queues = FZ_RINGS, .queue_size = FZ_RING };
        else if (row->id == VHK_FE_SET_VRING_NUM)
                m->u.p.vring_state.num = FZ_RING;
}

static void message(const struct vhk_row *row, const struct vhk_sample *m) {
        byte(OP_MESSAGE);
        byte(row->id);
        byte(1 | (m->n_fds & 7) << 1 | 16);
        word(m->hdr.size);
        for (unsigned i = 0; i < (m->n_fds & 7); i++)
                byte((unsigned)kind_of(row));
        for (unsigned i = 0; i < m->hdr.size; i++)
                byte(m->u.bytes[i]);
}

static int rows(const char *dir) {
        static struct vhk_sample m;
        int k = 0;

        for (unsigned r = 0; r < vhk_n_rows && k >= 0; r++)
                for (unsigned v = 0; v < vhk_n_variants && k >= 0; v++) {
                        const struct vhk_row *row = &vhk_rows[r];
                        if (row->dir != VHK_FROM_FRONTEND || !vhk_sample_make(&m, row, &vhk_variants[v], vhk_variants[v].each ? 2 : 0))
                                continue;
                        places(&m, row);
                        message(row, &m);
                        k = save(dir, row->name, v);
                        byte(OP_SETUP), byte(row->request == VHK_P_IOTLB ? 5 : 1), byte(1);
                        message(row, &m);
                        byte(OP_AVAIL), byte(0), byte(1), byte(0);
                        if (k >= 0)
                                k = save(dir, row->name, 100 + v);
                }
        return k;
}

/* Requests in every shape, slow and quick devices, with and without log, record and translation. */
static int sessions(const char *dir) {
        int k = 0;

        for (unsigned which = 0; which < 32 && k >= 0; which++) {
                byte(OP_SETUP), byte(which), byte(3);
                if (which & 1)
                        byte(OP_HOLD);
                byte(OP_DESC), byte(0), byte(0), word(0x2000), word(8), byte(VHK_DESC_NEXT), byte(1);
                byte(OP_DESC), byte(0), byte(1), word(0x2008), word(64), byte(VHK_DESC_WRITE), byte(0);
                byte(OP_DESC), byte(0), byte(2), word(0x3000), word(32), byte(VHK_DESC_INDIRECT), byte(0);
                byte(OP_WRITE), word(0x3000 + 0), byte(32);
                for (unsigned i = 0; i < 32; i++)
                        byte(i == 1 ? 0x20 : i == 2 ? 1 : i == 8 ? 16 : i == 12 ? VHK_DESC_NEXT : i == 14 ? 1 : i == 17 ? 0x21 : i == 18 ? 1 : i == 24 ? 16 : i == 28 ? VHK_DESC_WRITE : 0);
                byte(OP_AVAIL), byte(0), byte(2), byte(0), byte(2);
                byte(OP_CHANGED), byte(which);
                byte(OP_ACK), byte(VHK_BE_CONFIG_CHANGE_MSG), byte(0);
                byte(OP_MESSAGE), byte(VHK_FE_GET_VRING_BASE), byte(0);
                for (unsigned i = 0; i < 8; i++)
                        byte(0);
                byte(OP_TIME), byte(10 + which);
                byte(OP_HOLD);
                byte(which & 2 ? OP_CLOSE : OP_TRUNCATE), byte(which & 1);
                k = save(dir, "session", which);
        }
        return k;
}

/* Records as a back-end leaves them that was killed at different moments, and rings to go with them. */
static int records(const char *dir) {
        int k = 0;

        for (unsigned which = 0; which < 24 && k >= 0; which++) {
                for (unsigned i = 0; i < vhk_inflight_split_bytes(FZ_RING); i++)
                        byte(i == 8 ? 1 : i == 10 ? FZ_RING : i == 12 ? which % 9 : i == 14 ? which / 8 : i >= 16 && i % 16 == 0 ? which >> (i / 16 % 3) & 1 :
                             i >= 16 && i % 16 == 8 ? i / 16 ^ (which & 7) : 0);
                byte(1), byte(which & 1);
                for (unsigned i = 0; i < FZ_RING; i++)
                        byte(i & 6);
                byte(which / 4), byte(which % 9), byte(which & 1);
                for (unsigned life = 0; life < 3; life++) {
                        byte(OP_AVAIL), byte(0), byte(1), byte(2 * life);
                        byte(OP_KICK), byte(0);
                        byte(which & 2 ? OP_HOLD : OP_TIME);
                        if (!(which & 2))
                                byte(10);
                        byte(OP_KICK), byte(0);
                        byte(OP_KICK), byte(0);
                        byte(OP_KICK), byte(0);
                        byte(1), byte(which >> life & 1);
                }
                k = save(dir, "record", which);
        }
        return k;
}

int main(int argc, char **argv) {
        if (argc < 2 || argc > 3) {
                fprintf(stderr, "usage: seeds-backend DIR [inflight]\n");
                return 2;
        }
        mkdir(argv[1], 0777);
        int k = argc == 3 ? records(argv[1]) : rows(argv[1]);
        if (k >= 0 && argc == 2)
                k = sessions(argv[1]);
        if (k < 0)
                fprintf(stderr, "seeds-backend: %s: %s\n", argv[1], strerror(-k));
        return k < 0;
}
