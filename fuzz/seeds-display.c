/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* seeds-display DIR: inputs of fuzz-display: each row of gpu.def as a request and as an answer, in its place; and what a device does. */
#include <stdio.h>
#include <sys/stat.h>

#include "fuzz-display.h"
#include "wire/gpu-sample.h"

static const char *dir;

static int write_seed(const char *kind, const char *name, const uint8_t *bytes, size_t n) {
        char path[4096];

        snprintf(path, sizeof(path), "%s/%s-%s", dir, kind, name);
        FILE *f = fopen(path, "we");
        if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) {
                fprintf(stderr, "seeds-display: %s: cannot be written\n", path);
                return -EIO;
        }
        return 0;
}

/* The scanout that an update is inside of, then the message, then everybody's turn. */
static int write_row(const struct vhk_gpu_row *row, bool request) {
        static struct vhk_gpu_sample m;
        uint8_t out[256] = { DISPLAY_SERVE, 3, DISPLAY_SERVE, 3, DISPLAY_SCANOUT, VHK_GPU_SAMPLE_SCANOUT, 64, 0, 64, 0, DISPLAY_SERVE, 3 };
        size_t at = 12;

        vhk_gpu_sample_make(&m, row);
        uint32_t size = request ? m.hdr.size : vhk_gpu_size(row->reply), n = VHK_MIN(size, 64u);
        if (!request) {
                out[at++] = DISPLAY_ASK;
                out[at++] = 1;
                out[at++] = row->id == VHK_GPU_GET_DISPLAY_INFO;
        }
        out[at++] = request ? DISPLAY_REQUEST : DISPLAY_ANSWER;
        out[at++] = (uint8_t)row->id;
        out[at++] = DISPLAY_SIZE | (request && m.n_fds ? DISPLAY_FD : 0);
        out[at++] = (uint8_t)size;
        out[at++] = (uint8_t)(size >> 8);
        memcpy(out + at, m.u.bytes, n);
        at += n;
        out[at++] = DISPLAY_SERVE;
        out[at++] = 3;
        return write_seed(request ? "request" : "answer", row->name, out, at);
}

int main(int argc, char **argv) {
        static const uint8_t device[] = {
                DISPLAY_SERVE, 3, DISPLAY_SERVE, 3, DISPLAY_ASK, 0, 1, DISPLAY_ASK, 2, 0, DISPLAY_SERVE, 3, DISPLAY_SCANOUT, 0, 64, 0, 64, 0,
                DISPLAY_UPDATE, 0, 0, 0, 64, 64, DISPLAY_CURSOR, 0, 5, 0, DISPLAY_CURSOR, 0, 6, 1, DISPLAY_CURSOR, 0, 7, 2, DISPLAY_DMABUF, 1, 9, 0,
                DISPLAY_DMABUF, 1, 9, 4, DISPLAY_SHOW, 1, DISPLAY_SERVE, 3, DISPLAY_ANEW, 3, DISPLAY_SERVE, 3, DISPLAY_SERVE, 3,
                DISPLAY_SCANOUT, 0, 8, 0, 8, 0, DISPLAY_UPDATE, 0, 0, 0, 9, 1, DISPLAY_SERVE, 3, DISPLAY_END, 1, DISPLAY_SERVE, 3,
        };

        if (argc != 2) {
                fprintf(stderr, "usage: seeds-display DIR\n");
                return 2;
        }
        dir = argv[1];
        mkdir(dir, 0777);
        for (unsigned i = 0; i < vhk_n_gpu_rows; i++)
                if (write_row(&vhk_gpu_rows[i], true) < 0 || write_row(&vhk_gpu_rows[i], false) < 0)
                        return 1;
        return write_seed("device", "draws", device, sizeof(device)) < 0;
}
