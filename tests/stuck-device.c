/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* An entropy device that takes requests and never answers: what a daemon does with such a one is tested by
 * test-cli.py. With STUCK_CONTROL=1 it also keeps control for ever when a front-end has left (test-hostile-peers.py). */
#include <stdlib.h>
#include <unistd.h>
#include <vhostkit/daemon.h>

static void run(void *dev, struct vhk_queue *q) {
        struct vhk_req *r[8];

        (void)dev;
        while (vhk_queue_pop(q, r, 8) > 0)
                ;
}

static void reset(void *dev) {
        (void)dev;
        while (getenv("STUCK_CONTROL"))
                pause();
}

static const struct vhk_device_ops stuck = {
        .size = sizeof(stuck),
        .virtio_id = 4,
        .n_queues = 3,
        .queue_size_max = 64,
        .threads = VHK_THREADS_SINGLE,
        .queue_run = run,
        .reset = reset,
};

static const struct vhk_program program = {
        .size = sizeof(program),
        .name = "stuck-device",
        .type = "rng",
        .summary = "Takes requests and never answers.",
        .ops = &stuck,
};

int main(int argc, char **argv) {
        return vhk_daemon_run(&program, argc, argv);
}
