/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* seeds DIR: one input of fuzz-decoder per row and size of messages.def, a request and a plausible reply behind it. */
#include <stdio.h>
#include <sys/stat.h>

#include "fuzz-decoder.h"
#include "wire/sample.h"

static int write_seed(const char *dir, const struct vhk_row *row, const struct vhk_sample *m) {
        struct fuzz_head head = {
                .features_offered = m->state.features_offered, .features = m->state.features,
                .protocol_offered = m->state.protocol_offered, .protocol = m->state.protocol | VHK_BIT(VHK_PF_REPLY_ACK),
                .n_queues = (uint16_t)m->state.n_queues, .dir = row->dir, .phase = row->phase, .n_fds = (uint8_t)m->n_fds, .step = 255,
        };
        struct vhk_hdr request = m->hdr, reply = { row->id, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 };
        bool own = row->reply_rule == VHK_REPLY_ALWAYS;
        static const uint8_t zero[VHK_MAX_PAYLOAD];
        char path[4096];

        request.flags |= VHK_HDR_NEED_REPLY;
        if (own)
                reply.size = row->reply == row->request ? request.size : vhk_payload_max_size(row->reply, head.protocol);
        snprintf(path, sizeof(path), "%s/%s-%s-%u", dir, row->dir == VHK_FROM_FRONTEND ? "front" : "back", row->name, request.size);
        FILE *f = fopen(path, "we");
        if (!f) {
                fprintf(stderr, "seeds: %s: cannot be written\n", path);
                return -EIO;
        }
        fwrite(&head, sizeof(head), 1, f);
        fwrite(&request, sizeof(request), 1, f);
        fwrite(m->u.bytes, 1, request.size, f);
        fwrite(&reply, sizeof(reply), 1, f);
        fwrite(zero, 1, reply.size, f);
        return fclose(f) ? -EIO : 0;
}

int main(int argc, char **argv) {
        static struct vhk_sample m;

        if (argc != 2) {
                fprintf(stderr, "usage: seeds DIR\n");
                return 2;
        }
        mkdir(argv[1], 0777);
        for (unsigned r = 0; r < vhk_n_rows; r++)
                for (unsigned v = 0; v < vhk_n_variants; v++)
                        if (vhk_sample_make(&m, &vhk_rows[r], &vhk_variants[v], vhk_variants[v].each ? 2 : 0) && write_seed(argv[1], &vhk_rows[r], &m) < 0)
                                return 1;
        return 0;
}
