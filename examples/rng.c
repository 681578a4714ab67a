/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A whole device: an entropy source (virtio 1.3, 5.4) over vhost-user.
 *
 *     vhk-rng --socket-path=/tmp/rng.sock
 *
 * A device is a table of callbacks. This one has no state, no configuration and no feature bits: it needs one callback,
 * which runs whenever there may be requests. Threads, signals, options and the protocol are the library's.
 */
#include <vhostkit/daemon.h>

#include <sys/random.h>
#include <sys/uio.h>

#define BURST 16
#define MAX_BYTES 65536u        /* of one request: the device may give less than was asked for, but at least one byte */

/* Fills the buffers of one request; how many bytes that were. */
static uint32_t fill(const struct vhk_req *r) {
        uint32_t done = 0;

        for (unsigned i = 0; i < r->n_in && done < MAX_BYTES; i++) {
                size_t n = r->in[i].iov_len, k = 0;

                if (n > MAX_BYTES - done)
                        n = MAX_BYTES - done;
                while (k < n) {
                        ssize_t got = getrandom((char *)r->in[i].iov_base + k, n - k, 0);
                        if (got <= 0)
                                return done;    /* only guest memory that has gone away leads here */
                        k += (size_t)got;
                        done += (uint32_t)got;
                }
        }
        return done;
}

static void run(void *dev, struct vhk_queue *q) {
        struct vhk_req *r[BURST];
        int n;

        (void)dev;
        while ((n = vhk_queue_pop(q, r, BURST)) > 0) {
                for (int i = 0; i < n; i++)
                        vhk_queue_push(q, r[i], fill(r[i]));
                vhk_queue_flush(q);
        }
}

static const struct vhk_device_ops rng = {
        .size = sizeof(rng),
        .virtio_id = 4,
        .n_queues = 1,
        .queue_size_max = 1024,
        .threads = VHK_THREADS_PER_DEVICE,
        .queue_run = run,
};

static const struct vhk_program program = {
        .size = sizeof(program),
        .name = "vhk-rng",
        .type = "rng",
        .summary = "Serve random bytes as a virtio entropy device (vhost-user).",
        .ops = &rng,
};

int main(int argc, char **argv) {
        return vhk_daemon_run(&program, argc, argv);
}
