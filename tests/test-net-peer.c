/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Checks any vhost-user network back-end that gives back what it is sent with both addresses exchanged (testpmd's macswap, say):
 *
 *      test-net-peer ENDPOINT [--frames N] [--pairs N] [--no-merge] [--polling]
 *
 * Frames of all sizes go out in bursts; each comes back once, in its order, with every byte as it was. Public headers alone.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vhostkit/net.h>

#define BURST 32u
#define FRAME_LEAST 60u
#define FRAME_MOST 1514u
#define IN_FLIGHT 128u
#define WAIT_MS 5000

static unsigned long n_frames = 100000;
static unsigned n_pairs = 1;

static unsigned len_of(unsigned long n) {
        return FRAME_LEAST + (unsigned)(n * 37 % (FRAME_MOST - FRAME_LEAST + 1));
}

static void write_frame(uint8_t *p, unsigned long n) {
        static const uint8_t addresses[12] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };
        uint64_t number = n;

        memcpy(p, addresses, sizeof(addresses));
        p[12] = 0x88;
        p[13] = 0xb5;                   /* for experiments (IEEE 802) */
        memcpy(p + 14, &number, sizeof(number));
        for (unsigned i = 22, len = len_of(n); i < len; i++)
                p[i] = (uint8_t)(n + i * 7);
}

/* Is @f frame @n, with both addresses exchanged? */
static int is_right(const struct vhk_net_frame *f, unsigned long n) {
        uint8_t wanted[FRAME_MOST], swapped[12];
        uint32_t at = 0;

        if (f->len != len_of(n))
                return 0;
        write_frame(wanted, n);
        memcpy(swapped, wanted + 6, 6);
        memcpy(swapped + 6, wanted, 6);
        memcpy(wanted, swapped, 12);
        for (uint32_t i = 0; i < f->n_iov; at += (uint32_t)f->iov[i++].iov_len)
                if (memcmp(f->iov[i].iov_base, wanted + at, f->iov[i].iov_len))
                        return 0;
        return 1;
}

/* The first @n_sent of @n frames are out, @n_got are back. Sends one burst. */
static int send_some(struct vhk_net_queue *q, uint8_t *memory, unsigned long n_sent, unsigned long n_got) {
        struct vhk_net_frame frames[BURST];
        struct iovec iov[BURST];
        unsigned n = 0;

        for (; n < BURST && n_sent + n < n_frames && n_sent + n - n_got < IN_FLIGHT; n++) {
                uint8_t *p = memory + (n_sent + n) % (2 * IN_FLIGHT) * 2048;
                write_frame(p, n_sent + n);
                iov[n] = (struct iovec){ p, len_of(n_sent + n) };
                frames[n] = (struct vhk_net_frame){ .iov = &iov[n], .n_iov = 1 };
        }
        return vhk_net_send(q, frames, n);
}

static int bounce(struct vhk_net *net, unsigned pair) {
        uint8_t *memory = vhk_net_alloc(net, 2 * IN_FLIGHT * 2048);
        struct vhk_net_frame frames[BURST];
        unsigned long n_sent = 0, n_got = 0;
        struct vhk_net_queue *q;
        int k;

        if (!memory || vhk_net_get_queue(net, pair, &q) < 0)
                return fprintf(stderr, "no memory, or no such pair\n"), 1;
        while (n_got < n_frames) {
                k = send_some(q, memory, n_sent, n_got);
                if (k < 0)
                        return fprintf(stderr, "pair %u: frame %lu is not sent: %s\n", pair, n_sent, strerror(-k)), 1;
                n_sent += (unsigned)k;
                k = vhk_net_receive(q, frames, BURST, n_sent > n_got ? WAIT_MS : 0);
                if (k < 0 || (k == 0 && n_sent > n_got))
                        return fprintf(stderr, "pair %u: frame %lu does not come: %s\n", pair, n_got,
                                       k ? vhk_net_queue_get_error(q)->text : "time is up"), 1;
                for (int i = 0; i < k; i++, n_got++)
                        if (!is_right(&frames[i], n_got))
                                return fprintf(stderr, "pair %u: frame %lu came back with %u bytes, and is another\n", pair, n_got, frames[i].len), 1;
                vhk_net_release(q, frames, (unsigned)k);
        }
        return 0;
}

/* Until it forwards at all: a card may come up later than its socket. */
static int wait_until_up(struct vhk_net *net) {
        uint8_t frame[FRAME_LEAST];
        struct iovec iov = { frame, sizeof(frame) };
        struct vhk_net_frame f = { .iov = &iov, .n_iov = 1 }, got;
        struct vhk_net_queue *q;

        for (unsigned pair = 0; pair < n_pairs; pair++) {
                int k = vhk_net_get_queue(net, pair, &q);
                write_frame(frame, 0);
                for (unsigned i = 0; k == 0 && i < 50; i++) {
                        vhk_net_send(q, &f, 1);
                        k = vhk_net_receive(q, &got, 1, 200);
                }
                while (k > 0) {                 /* and what is on its way */
                        vhk_net_release(q, &got, 1);
                        k = vhk_net_receive(q, &got, 1, 200);
                }
                if (k < 0)
                        return k;
        }
        return 0;
}

int main(int argc, char **argv) {
        static const struct option options[] = { { "frames", 1, NULL, 'f' }, { "pairs", 1, NULL, 'p' }, { "no-merge", 0, NULL, 'm' },
                                                 { "polling", 0, NULL, 'o' }, { 0 } };
        struct vhk_frontend_options fo = { .size = sizeof(fo), .connect_ns = 10000000000 };
        struct vhk_net_options o = { .size = sizeof(o), .frontend = &fo };
        struct vhk_net_info i = { .size = sizeof(i) };
        struct timespec a, b;
        struct vhk_net *net;
        struct vhk_error e;
        int c, failed = 0;

        while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
                switch (c) {
                case 'f': n_frames = strtoul(optarg, NULL, 0); break;
                case 'p': n_pairs = (unsigned)strtoul(optarg, NULL, 0); break;
                case 'm': o.features_no_take = UINT64_C(1) << 15; break;
                case 'o': o.polling = 1; break;
                default: return 2;
                }
        if (optind + 1 != argc)
                return fprintf(stderr, "usage: test-net-peer ENDPOINT [--frames N] [--pairs N] [--no-merge] [--polling]\n"), 2;
        o.n_pairs = (uint16_t)n_pairs;
        if (vhk_net_open(argv[optind], &o, &net, &e) < 0)
                return fprintf(stderr, "%s\n", e.text), 1;
        vhk_net_get_info(net, &i);
        printf("features 0x%llx, header %u, buffers of %u, %u of %u pairs\n", (unsigned long long)i.features, i.header_size, i.buffer_size,
               i.n_pairs_open, i.n_pairs);
        if (wait_until_up(net) < 0)
                failed = 1;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (unsigned pair = 0; pair < n_pairs && !failed; pair++)
                failed = bounce(net, pair);
        clock_gettime(CLOCK_MONOTONIC, &b);
        vhk_net_close(net);
        if (!failed)
                printf("%lu frames went there and back, %.0f per second\n", n_frames * n_pairs,
                       (double)(n_frames * n_pairs) / ((double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9));
        return failed;
}
