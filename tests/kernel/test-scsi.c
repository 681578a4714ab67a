/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhost-scsi of the kernel that runs here: a LUN on a file is inquired, written, read back and held against its file. The target
 * is made by who starts this (tests/lab/guest/kernel-vhost-scsi.sh): VHK_SCSI_WWPN, portal group 1, LUN 0 on VHK_SCSI_FILE, and
 * VHK_SCSI_NO_NEXUS, a target without a nexus. Needs root; skipped without /dev/vhost-scsi or a target.
 */
#include "base/test.h"

#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <vhostkit/drvq.h>
#include <vhostkit/kernel.h>
#include <vhostkit/migration.h>
#include <vhostkit/scsi.h>
#include <vhostkit/sys.h>

#include "base/base.h"

#define MIB (1u << 20)
#define BLOCK 512u
#define TPGT 1
#define PIECE (256u << 10)              /* bytes of one command */
#define DEPTH 16u

enum { INQUIRY = 0x12, READ_CAPACITY = 0x25, READ_10 = 0x28, WRITE_10 = 0x2a, SYNCHRONIZE_CACHE = 0x35 };

static struct vhk_scsi *s;
static struct vhk_error err;
static struct vhk_frontend_options front;
static const char *wwpn, *path;

static void on_trace(void *arg, enum vhk_log_level level, const char *text) {
        printf("  %s\n", text);
}

static int open_target(const char *name, uint16_t queue_size) {
        struct vhk_scsi_options o = { .size = sizeof(o), .frontend = &front, .wwpn = name, .tpgt = TPGT, .queue_size = queue_size };

        front.size = sizeof(front);
        front.trace = getenv("VHK_TRACE") ? on_trace : NULL;
        return vhk_scsi_open("vhost-scsi:", &o, &s, &err);
}

static void begin(void) {
        wwpn = getenv("VHK_SCSI_WWPN");
        path = getenv("VHK_SCSI_FILE");
        if (!wwpn || !path)
                SKIP("VHK_SCSI_WWPN and VHK_SCSI_FILE are not set");
        front = (struct vhk_frontend_options){ .has_fd = 0 };
        int k = open_target(wwpn, 0);
        if (k == -ENOENT || k == -ENODEV || k == -EACCES)
                SKIP(err.text);
        CHECK_MSG(k == 0, "%s", err.text);
}

static void end(void) {
        s = vhk_scsi_close(s);
}

static struct vhk_scsi_command command(const uint8_t *cdb, uint8_t cdb_len) {
        return (struct vhk_scsi_command){ .size = sizeof(struct vhk_scsi_command), .target = TPGT, .cdb = cdb, .cdb_len = cdb_len };
}

static int execute_in(const uint8_t *cdb, uint8_t cdb_len, void *data, uint32_t n, struct vhk_scsi_result *ret_r) {
        struct vhk_scsi_command c = command(cdb, cdb_len);
        struct iovec in = { data, n };

        c.in = &in;
        c.n_in = n > 0;
        return vhk_scsi_execute(s, &c, ret_r);
}

static uint64_t capacity(uint8_t *data) {
        struct vhk_scsi_result r;
        uint32_t words[2];

        CHECK_OK(execute_in((uint8_t[10]){ READ_CAPACITY }, 10, data, 8, &r));
        memcpy(words, data, sizeof(words));
        CHECK_EQ(be32toh(words[1]), BLOCK);
        return ((uint64_t)be32toh(words[0]) + 1) * BLOCK;
}

TEST(a_lun_says_what_it_is) {
        struct vhk_scsi_result r;
        struct stat st;

        begin();
        uint8_t *data = vhk_scsi_alloc(s, 4096);
        CHECK(data);
        memset(data, 0, 4096);
        CHECK_OK(execute_in((uint8_t[6]){ INQUIRY, 0, 0, 0, 36 }, 6, data, 36, &r));
        CHECK_EQ(r.residual, 0);
        CHECK(!memcmp(data + 8, "LIO-ORG ", 8));
        printf("  %.8s %.16s %.4s\n", data + 8, data + 16, data + 32);
        CHECK_EQ(stat(path, &st), 0);
        CHECK_EQ(capacity(data), st.st_size);
        CHECK_OK(execute_in((uint8_t[6]){ 0 }, 6, NULL, 0, &r));                /* TEST UNIT READY */
        end();
}

/* Both are told: what was moved, and what was not. */
TEST(what_is_not_moved_is_told) {
        struct vhk_scsi_result r;

        begin();
        uint8_t *data = vhk_scsi_alloc(s, 4096);
        memset(data, 0xaa, 4096);
        CHECK_OK(execute_in((uint8_t[6]){ INQUIRY, 0, 0, 1, 0 }, 6, data, 256, &r));
        printf("  residual %u of 256\n", r.residual);
        CHECK(r.residual < 256 - 36 || r.residual == 0);
        CHECK(data[4] + 5u <= 256 - r.residual);
        end();
}

TEST(a_lun_that_is_not_there_and_a_block_that_is_not_there) {
        struct vhk_scsi_result r;
        uint8_t cdb[10] = { READ_10, 0, 0x7f, 0, 0, 0, 0, 0, 1 };

        begin();
        uint8_t *data = vhk_scsi_alloc(s, 4096);
        CHECK_EQ(execute_in(cdb, 10, data, BLOCK, &r), -EIO);
        CHECK_EQ(r.response, VHK_SCSI_OK);
        CHECK_EQ(r.status, 2);                          /* CHECK CONDITION */
        CHECK(r.sense_len >= 14);
        CHECK_EQ(r.sense[2] & 0xf, 5);                  /* ILLEGAL REQUEST */
        CHECK_EQ(r.sense[12], 0x21);                    /* LBA OUT OF RANGE */
        struct vhk_scsi_command c = command((uint8_t[6]){ 0 }, 6);
        c.lun = 9;
        int k = vhk_scsi_execute(s, &c, &r);
        printf("  LUN 9: %d, response %u, status %u, sense key %u, code 0x%x\n", k, r.response, r.status, r.sense[2] & 0xf, r.sense[12]);
        CHECK(k == -EIO && r.sense[12] == 0x25);        /* LOGICAL UNIT NOT SUPPORTED */
        c.lun = 0;
        c.target = 77;
        CHECK_EQ(vhk_scsi_execute(s, &c, &r), -ENODEV);
        CHECK_EQ(r.response, VHK_SCSI_BAD_TARGET);
        CHECK_EQ(execute_in((uint8_t[6]){ 0xff }, 6, NULL, 0, &r), -EIO);
        CHECK_EQ(r.sense[12], 0x20);                    /* INVALID COMMAND OPERATION CODE */
        end();
}

static uint64_t word_at(uint64_t i, uint64_t seed) {
        return (i + seed) * 0x9e3779b97f4a7c15ull ^ i >> 9;
}

static void cdb_of(uint8_t *cdb, uint8_t op, uint64_t at) {
        uint32_t lba = htobe32((uint32_t)(at / BLOCK));
        uint16_t n = htobe16(PIECE / BLOCK);

        memset(cdb, 0, 10);
        cdb[0] = op;
        memcpy(cdb + 2, &lba, 4);
        memcpy(cdb + 7, &n, 2);
}

/* All of [0, bytes), DEPTH commands at a time, each of several pieces of memory. */
static void move(uint8_t op, uint8_t *data, uint64_t bytes) {
        uint8_t cdbs[DEPTH][10];
        struct vhk_scsi_result r[4];
        uint64_t at = 0;
        unsigned n_running = 0;
        struct pollfd p = { .fd = vhk_scsi_get_fd(s), .events = POLLIN };

        while (at < bytes || n_running) {
                while (at < bytes && n_running < DEPTH) {
                        struct iovec pieces[] = { { data + at, 4096 }, { data + at + 4096, PIECE / 2 }, { data + at + 4096 + PIECE / 2, PIECE / 2 - 4096 } };
                        struct vhk_scsi_command c = command(cdbs[at / PIECE % DEPTH], 10);
                        cdb_of(cdbs[at / PIECE % DEPTH], op, at);
                        if (op == WRITE_10) {
                                c.out = pieces;
                                c.n_out = 3;
                        } else {
                                c.in = pieces;
                                c.n_in = 3;
                        }
                        CHECK_OK(vhk_scsi_submit(s, &c, data + at));
                        at += PIECE;
                        n_running++;
                }
                int n = vhk_scsi_reap(s, r, 4);
                CHECK_OK(n);
                for (int i = 0; i < n; i++)
                        CHECK_MSG(r[i].error == 0 && r[i].residual == 0, "at %ld: %d, response %u, status %u, sense %u/0x%x", (long)((uint8_t *)r[i].cookie - data),
                                  r[i].error, r[i].response, r[i].status, r[i].sense[2], r[i].sense[12]);
                n_running -= (unsigned)n;
                if (!n)
                        CHECK(poll(&p, 1, 20000) > 0);
        }
}

static void write_and_read_back(uint64_t seed) {
        struct vhk_scsi_result r;
        uint64_t *small = vhk_scsi_alloc(s, 4096), bytes = capacity((uint8_t *)small);
        uint8_t *data = vhk_scsi_alloc(s, bytes), *back = vhk_scsi_alloc(s, bytes), *file = malloc(bytes);
        VHK_AUTOCLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct timespec t[2];

        CHECK(data && back && file && fd >= 0);
        for (uint64_t i = 0; i < bytes / 8; i++)
                ((uint64_t *)data)[i] = word_at(i, seed);
        clock_gettime(CLOCK_MONOTONIC, &t[0]);
        move(WRITE_10, data, bytes);
        CHECK_OK(execute_in((uint8_t[10]){ SYNCHRONIZE_CACHE }, 10, NULL, 0, &r));
        move(READ_10, back, bytes);
        clock_gettime(CLOCK_MONOTONIC, &t[1]);
        CHECK(!memcmp(data, back, bytes));
        CHECK_EQ(pread(fd, file, bytes, 0), (ssize_t)bytes);
        CHECK(!memcmp(data, file, bytes));
        printf("  %llu MiB written and read in %ld ms\n", (unsigned long long)bytes / MIB, (t[1].tv_sec - t[0].tv_sec) * 1000 + (t[1].tv_nsec - t[0].tv_nsec) / 1000000);
        free(file);
}

TEST(all_blocks_are_written_and_read_back) {
        begin();
        write_and_read_back(1);
        end();
}

TEST(likewise_with_few_entries) {
        begin();
        end();
        CHECK_OK(open_target(wwpn, DEPTH));
        write_and_read_back(2);
        CHECK_EQ(vhk_scsi_submit(s, &(struct vhk_scsi_command){ .size = sizeof(struct vhk_scsi_command) }, NULL), -EINVAL);
        uint8_t byte;
        struct vhk_scsi_result r;
        CHECK_EQ(execute_in((uint8_t[6]){ INQUIRY }, 6, &byte, 1, &r), -EFAULT);        /* not lent */
        end();
}

/* ---- rings of our own ---- */

static void inquire(struct vhk_drvq *q, uint8_t *mem) {
        struct iovec sg[] = { { mem, 51 }, { mem + 64, 108 }, { mem + 512, 36 } };     /* virtio_scsi_req_cmd, virtio_scsi_resp_cmd, data */
        struct pollfd p = { .fd = vhk_drvq_get_fd(q), .events = POLLIN };
        struct vhk_done d;
        uint64_t n;

        memset(mem, 0, 4096);
        memcpy(mem, (uint8_t[4]){ 1, TPGT, 0x40, 0 }, 4);
        memcpy(mem + 19, (uint8_t[6]){ INQUIRY, 0, 0, 0, 36 }, 6);
        mem[64 + 11] = 0xff;                            /* the response */
        CHECK_OK(vhk_drvq_add(q, sg, 1, 2, mem));
        CHECK_OK(vhk_drvq_kick(q));
        while (vhk_drvq_reap(q, &d, 1) != 1)
                if (!vhk_drvq_arm(q))
                        CHECK(poll(&p, 1, 10000) > 0 && read(p.fd, &n, sizeof(n)) == sizeof(n));
        CHECK_EQ(d.len, 0);                             /* of every command */
        CHECK_EQ(mem[64 + 11], VHK_SCSI_OK);
        CHECK(!memcmp(mem + 512 + 8, "LIO-ORG ", 8));
}

/* The endpoint is cleared when a ring stops, and set again when all are there. */
TEST(rings_stop_and_go_on) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .trace = getenv("VHK_TRACE") ? on_trace : NULL };
        struct vhk_frontend *f;
        struct vhk_memory *m;
        struct vhk_drvq *q[3];
        void *mem;

        begin();
        end();
        CHECK_OK(vhk_frontend_open("vhost-scsi:", &fo, &f, &err));
        CHECK_OK(vhk_frontend_set_features(f, 1ull << 32));
        CHECK_OK(vhk_memory_new(&m));
        CHECK_OK(vhk_memory_alloc(m, 4096, &mem));
        CHECK_EQ(vhk_frontend_scsi_set_endpoint(f, wwpn, TPGT), -EFAULT);
        for (unsigned i = 0; i < 3; i++)
                CHECK_OK(vhk_drvq_new(f, m, i, NULL, &q[i]));
        CHECK_OK(vhk_frontend_scsi_set_endpoint(f, wwpn, TPGT));
        for (unsigned round = 0; round < 5; round++) {
                inquire(q[2], mem);
                for (unsigned i = round % 2; i < 3; i++)
                        CHECK_OK(vhk_drvq_stop(q[i]));
                CHECK_EQ(vhk_drvq_get_setup(q[2])->base.avail, round + 1);
                for (unsigned i = round % 2; i < 3; i++)
                        CHECK_OK(vhk_drvq_start(q[i]));
        }
        inquire(q[2], mem);
        for (unsigned i = 0; i < 3; i++)
                vhk_drvq_free(q[i]);
        vhk_frontend_close(f);
        vhk_memory_free(m);
}

TEST(what_the_kernel_refuses) {
        const char *none = getenv("VHK_SCSI_NO_NEXUS");
        struct vhk_scsi *first;
        int version;

        begin();
        CHECK_OK(vhk_frontend_scsi_get_abi_version(vhk_scsi_get_frontend(s), &version));
        CHECK_EQ(version, 1);
        CHECK_EQ(vhk_frontend_scsi_set_endpoint(vhk_scsi_get_frontend(s), wwpn, TPGT), -EEXIST);
        CHECK_EQ(vhk_frontend_log_data(vhk_scsi_get_frontend(s), 1), -EOPNOTSUPP);
        first = s;
        int k = open_target(wwpn, 0);
        printf("  the same target twice: %d %s\n", k, err.text);
        CHECK(k < 0);
        CHECK_EQ(open_target("naa.0000000000000000", 0), -ENODEV);
        CHECK(strstr(err.text, "naa.0000000000000000"));
        if (none)
                CHECK_EQ(open_target(none, 0), -ENODEV);
        s = first;
        CHECK_EQ(vhk_frontend_scsi_clear_endpoint(vhk_scsi_get_frontend(s)), 0);
        CHECK_EQ(vhk_frontend_scsi_set_endpoint(vhk_scsi_get_frontend(s), wwpn, TPGT), 0);
        uint8_t *data = vhk_scsi_alloc(s, 4096);
        CHECK(capacity(data) > 0);
        end();
}

/*
 * Why there is no VHK_CAP_LOG: the kernel takes LOG_ALL, but does not mark what it reads into buffers. When this fails, it has learned it.
 * Past the library: the descriptor is ours too.
 */
TEST(the_kernel_does_not_mark_data) {
        struct vhk_dirty_log *log;
        struct vhk_frontend_info i = { .size = sizeof(i) };
        uint64_t gpa, len, n = 0;

        begin();
        end();
        front = (struct vhk_frontend_options){ .size = sizeof(front), .has_fd = 1, .fd = open("/dev/vhost-scsi", O_RDWR | O_CLOEXEC) };
        struct vhk_scsi_options o = { .size = sizeof(o), .frontend = &front, .wwpn = wwpn, .tpgt = TPGT };
        VHK_AUTOCLOSE int fd = fcntl(front.fd, F_DUPFD_CLOEXEC, 0);
        CHECK_OK(vhk_scsi_open("vhost-scsi:", &o, &s, &err));
        uint8_t *data = vhk_scsi_alloc(s, MIB), *small = vhk_scsi_alloc(s, 4096);
        capacity(small);
        CHECK_OK(vhk_frontend_get_info(vhk_scsi_get_frontend(s), &i));
        CHECK_OK(vhk_dirty_log_new(64 * MIB, &log));
        uint8_t *bits = mmap(NULL, vhk_dirty_log_get_size(log), PROT_READ | PROT_WRITE, MAP_SHARED, vhk_dirty_log_get_fd(log), 0);
        CHECK(bits != MAP_FAILED);
        CHECK_OK(vhk_sys_vhost_set_log_base(fd, (uintptr_t)bits));
        int k = vhk_sys_vhost_set_features(fd, i.acked | 1u << 26);
        printf("  LOG_ALL: %d\n", k);
        move(READ_10, data, MIB);
        while (vhk_dirty_log_take(log, 0, &gpa, &len) == 1)
                n += len / 4096;
        printf("  %llu of %u pages of data marked\n", (unsigned long long)n, MIB / 4096);
        CHECK(n < MIB / 4096);
        end();
        munmap(bits, vhk_dirty_log_get_size(log));
        vhk_dirty_log_free(log);
}
