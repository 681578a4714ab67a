/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Writes the first block of a vhost-user disk to stdout: read-sector ENDPOINT | hexdump -C */
#include <stdio.h>
#include <vhostkit/blk.h>

int main(int argc, char **argv) {
        struct vhk_blk_info info = { .size = sizeof(info) };
        struct vhk_error e;
        struct vhk_blk *disk;

        if (vhk_open_standard_fds() < 0)
                return 1;
        if (argc != 2)
                return fprintf(stderr, "usage: read-sector ENDPOINT\n"), 2;
        if (vhk_blk_open(argv[1], NULL, &disk, &e) < 0)
                return fprintf(stderr, "read-sector: %s\n", e.text), 1;
        vhk_blk_get_info(disk, &info);
        void *block = vhk_blk_alloc(disk, info.block_size);
        ssize_t n = block ? vhk_blk_pread(disk, block, info.block_size, 0) : -1;
        if (n > 0)
                fwrite(block, 1, (size_t)n, stdout);
        else
                fprintf(stderr, "read-sector: %s\n", block ? vhk_frontend_get_error(vhk_blk_get_frontend(disk))->text : "out of memory");
        vhk_blk_close(disk);
        return n > 0 ? 0 : 1;
}
