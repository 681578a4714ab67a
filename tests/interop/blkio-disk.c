/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Drives a vhost-user disk through libblkio, and checks every byte:
 *
 *      blkio-disk SOCKET QUEUES interrupt|poll
 *
 * Each queue works on a part of its own of the disk's first 64 MiB: writes of several sizes, plain, with FUA and from vectors;
 * reads back; discard and write zeroes, whose neighbours must stay; flush. Part N ends with its first MiB as pattern(N) says, so
 * that the caller can look at the image. Compiled and run in the Debian 13 tree (tests/lab/debian13.py).
 */
#include <blkio.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1u << 20)
#define PART (8 * MIB)
#define BUFFER (4 * MIB)
#define DEPTH 16u

static struct blkio *disk;
static uint8_t *memory;                         /* registered: BUFFER bytes to write from, BUFFER to read into */
static unsigned n_done;

#define REQUIRE(cond, ...)                                                      \
        do {                                                                    \
                if (!(cond)) {                                                  \
                        fprintf(stderr, __VA_ARGS__);                           \
                        fprintf(stderr, ": %s\n", blkio_get_error_msg());       \
                        exit(1);                                                \
                }                                                               \
        } while (0)

/* What the word at byte @at of part @part is in round @round. */
static uint64_t pattern(unsigned part, unsigned round, uint64_t at) {
        return (at / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)part << 56 ^ (uint64_t)round << 48;
}

static void fill(unsigned part, unsigned round, uint64_t from, uint64_t len) {
        for (uint64_t at = from; at < from + len; at += 8) {
                uint64_t word = pattern(part, round, at);
                memcpy(memory + at, &word, 8);
        }
}

/* What was read of [from, from + len) of the part: the pattern, or zeroes. */
static void check(const char *what, unsigned part, unsigned round, uint64_t from, uint64_t len, int is_zero) {
        for (uint64_t at = from; at < from + len; at += 8) {
                uint64_t word, wanted = is_zero ? 0 : pattern(part, round, at);
                memcpy(&word, memory + BUFFER + at, 8);
                if (word != wanted) {
                        fprintf(stderr, "%s: part %u: byte %llu: 0x%016llx, expected 0x%016llx\n", what, part,
                                (unsigned long long)at, (unsigned long long)word, (unsigned long long)wanted);
                        exit(1);
                }
        }
}

/* Complete @n requests; each must have @wanted. */
static void complete(struct blkioq *q, const char *what, unsigned n, int wanted) {
        struct blkio_completion c[DEPTH];

        while (n) {
                int k = blkioq_do_io(q, c, 1, n < DEPTH ? (int)n : (int)DEPTH, NULL);
                REQUIRE(k > 0, "%s: do_io %d", what, k);
                for (int i = 0; i < k; i++)
                        if (c[i].ret != wanted) {
                                fprintf(stderr, "%s: request %zu: result %d, expected %d\n", what, (size_t)c[i].user_data, c[i].ret, wanted);
                                exit(1);
                        }
                n -= (unsigned)k;
                n_done += (unsigned)k;
        }
}

enum how { PLAIN, FUA, VECTORS };

static void write_piece(struct blkioq *q, uint64_t disk_at, uint64_t at, size_t len, enum how how) {
        static struct iovec iov[DEPTH][3];
        static unsigned n;
        struct iovec *v = iov[n++ % DEPTH];

        if (how != VECTORS || len < 3 * 512)
                return blkioq_write(q, disk_at, memory + at, len, (void *)(uintptr_t)at, how == FUA ? BLKIO_REQ_FUA : 0);
        v[0] = (struct iovec){ memory + at, 512 };
        v[1] = (struct iovec){ memory + at + 512, 512 };
        v[2] = (struct iovec){ memory + at + 1024, len - 1024 };
        blkioq_writev(q, disk_at, v, 3, (void *)(uintptr_t)at, 0);
}

/* Write BUFFER bytes of the pattern in pieces of @size, DEPTH in flight. */
static void write_all(struct blkioq *q, unsigned part, unsigned round, size_t size, enum how how) {
        unsigned n = 0;

        fill(part, round, 0, BUFFER);
        for (uint64_t at = 0; at < BUFFER; at += size) {
                write_piece(q, (uint64_t)part * PART + at, at, size, how);
                if (++n == DEPTH) {
                        complete(q, "write", n, 0);
                        n = 0;
                }
        }
        complete(q, "write", n, 0);
}

static void read_all(struct blkioq *q, unsigned part, size_t size) {
        unsigned n = 0;

        memset(memory + BUFFER, 0xaa, BUFFER);
        for (uint64_t at = 0; at < BUFFER; at += size) {
                blkioq_read(q, (uint64_t)part * PART + at, memory + BUFFER + at, size, (void *)(uintptr_t)at, 0);
                if (++n == DEPTH) {
                        complete(q, "read", n, 0);
                        n = 0;
                }
        }
        complete(q, "read", n, 0);
}

static void check_part(struct blkioq *q, unsigned part) {
        static const size_t sizes[] = { 4096, 65536, 2048, 131072 };
        uint64_t start = (uint64_t)part * PART;
        unsigned round = 0;

        for (; round < sizeof(sizes) / sizeof(sizes[0]); round++) {
                write_all(q, part, round, sizes[round], round % 3);
                read_all(q, part, sizes[(round + 1) % 4]);
                check("read", part, round, 0, BUFFER, 0);
        }
        round--;
        blkioq_write_zeroes(q, start + MIB, MIB, NULL, BLKIO_REQ_NO_UNMAP);
        blkioq_write_zeroes(q, start + 2 * MIB, MIB / 2, NULL, 0);
        blkioq_flush(q, NULL, 0);
        complete(q, "write zeroes, flush", 3, 0);
        blkioq_discard(q, start + 3 * MIB, MIB / 2, NULL, 0);
        complete(q, "discard", 1, 0);
        read_all(q, part, 65536);
        check("before the zeroes", part, round, 0, MIB, 0);
        check("the zeroes", part, round, MIB, MIB + MIB / 2, 1);
        check("after the zeroes", part, round, 2 * MIB + MIB / 2, MIB / 2, 0);
        check("after what was discarded", part, round, 3 * MIB + MIB / 2, MIB / 2, 0);
}

static void set_int(const char *name, int value) {
        REQUIRE(blkio_set_int(disk, name, value) == 0, "%s=%d", name, value);
}

static void open_disk(const char *socket, int n_queues, int poll) {
        REQUIRE(blkio_create("virtio-blk-vhost-user", &disk) == 0, "create");
        REQUIRE(blkio_set_str(disk, "path", socket) == 0, "path");
        REQUIRE(blkio_connect(disk) == 0, "connect");
        set_int("num-queues", poll ? 0 : n_queues);
        set_int("num-poll-queues", poll ? n_queues : 0);
        REQUIRE(blkio_start(disk) == 0, "start");
}

int main(int argc, char **argv) {
        struct blkio_mem_region region;
        uint64_t capacity = 0;
        struct blkioq *q;
        int n_queues, poll;

        if (argc != 4) {
                fprintf(stderr, "usage: blkio-disk SOCKET QUEUES interrupt|poll\n");
                return 2;
        }
        n_queues = atoi(argv[2]);
        poll = !strcmp(argv[3], "poll");
        open_disk(argv[1], n_queues, poll);
        REQUIRE(blkio_get_uint64(disk, "capacity", &capacity) == 0, "capacity");
        REQUIRE(blkio_alloc_mem_region(disk, &region, 2 * BUFFER) == 0, "memory");
        REQUIRE(blkio_map_mem_region(disk, &region) == 0, "map");
        memory = region.addr;
        for (int i = 0; i < n_queues; i++) {
                q = poll ? blkio_get_poll_queue(disk, i) : blkio_get_queue(disk, i);
                REQUIRE(q, "queue %d", i);
                check_part(q, (unsigned)i);
        }
        q = poll ? blkio_get_poll_queue(disk, 0) : blkio_get_queue(disk, 0);
        blkioq_read(q, capacity, memory, 512, NULL, 0);
        complete(q, "a read beyond the end", 1, -EIO);
        blkio_destroy(&disk);
        printf("%u requests on %d %s queues of a disk of %llu bytes\n", n_done, n_queues, argv[3], (unsigned long long)capacity);
        return 0;
}
