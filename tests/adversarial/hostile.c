/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * hostile [ROW...]: runs the rows and prints the table. See hostile.h.
 */
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <vhostkit/blk.h>
#include <vhostkit/blkdev.h>
#include <vhostkit/memory.h>

#include "hostile.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif

static struct rig victim, bystander, migrant, odd;
struct rig *fe = &victim, *postcopy_fe = &migrant, *class_fe = &odd;
struct class_seen class_seen;
struct vhk_host *victim_host;
uint64_t offered, offered_protocol;
char verdict[128], disk_path[96];
static char other_paths[2][96];         /* files of their own: a disk that is served is locked */

static struct row *rows;

void row_register(struct row *r) {
        struct row **p = &rows;

        while (*p && strcmp((*p)->id, r->id) < 0)
                p = &(*p)->next;
        r->next = *p;
        *p = r;
}

/* ---- the serving threads ---- */

static struct server {
        struct vhk_worker *worker;
        pthread_t thread;
        unsigned n_turns;
        bool stop;
} servers[2];

static void *serve(void *arg) {
        struct server *s = arg;

        while (!vhk_load_relaxed(&s->stop)) {
                vhk_worker_dispatch(s->worker, 50);
                __atomic_fetch_add(&s->n_turns, 1, __ATOMIC_RELAXED);
        }
        return NULL;
}

unsigned turns(void) {
        return vhk_load_relaxed(&servers[0].n_turns) + vhk_load_relaxed(&servers[1].n_turns);
}

/* The rig does not own a worker's thread: whoever waits sleeps. */
static int rest(struct rig *r, int timeout_ms) {
        struct pollfd p = { .fd = r->fe.fd, .events = POLLIN };

        if (timeout_ms > 0)
                poll(&p, r->fe.fd >= 0, timeout_ms);
        return 0;
}

/* ---- the bystander's front-end ---- */

static struct vhk_blk *reader;
static pthread_t reading;
static struct { bool stop, pause, paused; unsigned n; int error; uint64_t slowest; } reads;

static void *read_on(void *arg) {
        uint64_t buf[512];

        for (uint64_t i = 0; !vhk_load_relaxed(&reads.stop); i++) {
                vhk_store_release(&reads.paused, vhk_load_relaxed(&reads.pause));
                usleep(1000);
                if (vhk_load_relaxed(&reads.pause))
                        continue;
                uint64_t off = i * 7919 % (VICTIM_SECTORS / 8) * 4096, begin = now_ns();
                ssize_t k = vhk_blk_pread(reader, buf, sizeof(buf), off);
                int error = k == sizeof(buf) ? 0 : -1;
                for (unsigned j = 0; j < VHK_N(buf) && !error; j++)
                        error = buf[j] == off / 8 + j ? 0 : -2;
                reads.slowest = VHK_MAX(reads.slowest, now_ns() - begin);
                if (error)
                        vhk_store_relaxed(&reads.error, error);
                __atomic_fetch_add(&reads.n, 1, __ATOMIC_RELEASE);
        }
        return NULL;
}

static void pause_reading(bool on) {
        vhk_store_relaxed(&reads.pause, on);
        for (int i = 0; on && i < 5000 && !vhk_load_acquire(&reads.paused); i++)
                usleep(1000);
}

void expect_quiet(const char *when, unsigned most) {
        pause_reading(true);
        usleep(5000);
        unsigned before = turns();
        usleep(30000);
        unsigned n = turns() - before;
        pause_reading(false);
        CHECK_MSG(n <= most, "%s: the workers woke up %u times in 30 ms", when, n);
}

/* ---- the disks ---- */

static struct vhk_blkdev *disks[3];
static struct vhk_device_ops ops[3];
static int (*blk_attach)(void *dev, struct vhk_host *host);

static int attach(void *dev, struct vhk_host *host) {
        if (dev == disks[0])
                victim_host = host;
        return blk_attach ? blk_attach(dev, host) : 0;
}

static void make_disk(char *path) {
        VHK_AUTOCLOSE int fd = mkstemp(path);

        CHECK(fd >= 0);
        for (uint64_t i = 0; i < VICTIM_SECTORS; i++) {
                uint64_t b[64];
                for (unsigned k = 0; k < 64; k++)
                        b[k] = i * 64 + k;
                CHECK_EQ(write(fd, b, sizeof(b)), sizeof(b));
        }
}

/* Postcopy needs a worker for control alone, and takes the place of slots: a back-end of its own offers it. */
static void open_victim(struct rig *r, unsigned n, bool postcopy) {
        struct vhk_blkdev_options o = { .size = sizeof(o), .path = n ? other_paths[n - 1] : disk_path, .serial = "hostile", .engine = VHK_BLKDEV_SYNC, .n_queues = N_RINGS, .queue_size = RING_MAX };
        struct vhk_backend_options bo = { .limit_ns = LIMIT_NS, .features_offer = VHK_BIT(VHK_F_ACCESS_PLATFORM),
                                          .protocol_offer = postcopy ? VHK_BIT(VHK_PF_PAGEFAULT) : 0 };
        struct vhk_error e = { .text = "" };

        CHECK_MSG(vhk_blkdev_open(&o, &disks[n], &e) == 0, "%s", e.text);
        ops[n].size = sizeof(ops[n]);
        CHECK_OK(vhk_blkdev_get_ops(disks[n], &ops[n]));
        blk_attach = ops[n].attach == attach ? blk_attach : ops[n].attach;
        ops[n].attach = attach;
        r->control = servers[0].worker;
        r->turn = rest;
        rig_open_with(r, &bo, &ops[n], disks[n]);
        for (unsigned i = postcopy ? 0 : N_RINGS / 2; i < N_RINGS; i++)
                CHECK_OK(vhk_backend_set_worker(r->b, i, servers[1].worker));
}

/* ---- the device of every class ---- */

static bool sessions[CLASS_SESSIONS];

static int class_rarp(void *dev, const uint8_t mac[6]) {
        class_seen.n_rarp++;
        return 0;
}

static int class_mtu(void *dev, uint16_t mtu) {
        class_seen.mtu = mtu;
        class_seen.n_mtu++;
        return 0;
}

static int64_t class_create(void *dev, enum vhk_crypto_form form, const void *session) {
        class_seen.n_sessions++;
        for (unsigned i = 0; i < CLASS_SESSIONS; i++)
                if (!sessions[i]) {
                        sessions[i] = true;
                        class_seen.n_open++;
                        return i;
                }
        return -ENOSPC;
}

static int class_close(void *dev, uint64_t id) {
        if (id >= CLASS_SESSIONS || !sessions[id])
                return -ENOENT;
        sessions[id] = false;
        class_seen.n_open--;
        return 0;
}

static void class_reset(void *dev) {
        memset(sessions, 0, sizeof(sessions));
        class_seen = (struct class_seen){ .n_open = 0 };
}

static void open_class(void) {
        static const struct vhk_net_ops net = { .size = sizeof(net), .send_rarp = class_rarp, .set_mtu = class_mtu };
        static const struct vhk_crypto_ops crypto = { .size = sizeof(crypto), .create_session = class_create, .close_session = class_close };
        static struct vhk_device_ops class_ops;

        class_ops = dev_ops;
        class_ops.features |= VHK_BIT(VHK_F_NET_MTU);
        class_ops.net = &net;
        class_ops.crypto = &crypto;
        class_ops.reset = class_reset;
        odd.control = servers[0].worker;
        odd.turn = rest;
        rig_open_with(&odd, &(struct vhk_backend_options){ .limit_ns = LIMIT_NS, .protocol_offer = VHK_BIT(VHK_PF_CROSS_ENDIAN) }, &class_ops, NULL);
}

static void on_sigbus(int sig, siginfo_t *si, void *context) {
        if (vhk_sigbus_try(si) != 1)
                abort();
}

static void set_up(void) {
        struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
        struct vhk_blk_options bo = { .size = sizeof(bo) };
        struct vhk_error e = { .text = "" };

        CHECK_OK(sigaction(SIGBUS, &sa, NULL));
        snprintf(disk_path, sizeof(disk_path), "/tmp/vhk-hostile-XXXXXX");
        make_disk(disk_path);
        for (unsigned i = 0; i < VHK_N(other_paths); i++) {
                snprintf(other_paths[i], sizeof(other_paths[i]), "/tmp/vhk-hostile-XXXXXX");
                make_disk(other_paths[i]);
        }
        for (unsigned i = 0; i < 2; i++)
                CHECK_OK(vhk_worker_new(NULL, NULL, &servers[i].worker));
        open_victim(&victim, 0, false);
        open_victim(&bystander, 1, false);
        open_victim(&migrant, 2, true);
        open_class();
        for (unsigned i = 0; i < 2; i++)
                CHECK(pthread_create(&servers[i].thread, NULL, serve, &servers[i]) == 0);
        CHECK_MSG(vhk_blk_open(bystander.path, &bo, &reader, &e) == 0, "%s", e.text);
        CHECK(pthread_create(&reading, NULL, read_on, NULL) == 0);
        fe_connect(fe);
        offered = fe_get(fe, VHK_FE_GET_FEATURES);
        offered_protocol = fe_get(fe, VHK_FE_GET_PROTOCOL_FEATURES);
        fe_close(fe);
}

static void close_rig(struct rig *r, struct vhk_blkdev *disk) {
        rig_end(r);
        munmap(r->mem, MEM_BYTES);
        close(r->memfd);
        rmdir(r->dir);
        vhk_blkdev_close(disk);
}

static void tear_down(void) {
        reads.stop = true;
        pthread_join(reading, NULL);
        vhk_blk_close(reader);
        close_rig(&victim, disks[0]);
        close_rig(&bystander, disks[1]);
        close_rig(&migrant, disks[2]);
        close_rig(&odd, NULL);
        for (unsigned i = 0; i < 2; i++) {
                vhk_store_relaxed(&servers[i].stop, true);
                pthread_join(servers[i].thread, NULL);
                vhk_worker_free(servers[i].worker);
        }
        unlink(disk_path);
        for (unsigned i = 0; i < VHK_N(other_paths); i++)
                unlink(other_paths[i]);
}

/* ---- what must be as before ---- */

struct level { int fds, memfds; size_t heap; };

static int count_memfds(void) {
        FILE *f = fopen("/proc/self/maps", "re");
        char line[512];
        int n = 0;

        while (f && fgets(line, sizeof(line), f))
                n += strstr(line, "memfd:test-backend") != NULL;
        if (f)
                fclose(f);
        return n;
}

static struct level measure(void) {
        struct mallinfo2 m = mallinfo2();

        return (struct level){ vhk_test_count_("/proc/self/fd"), count_memfds(), UNDER_ASAN ? 0 : m.uordblks + m.hblkhd };
}

static bool level_is(const struct level *was) {
        struct level now = measure();

        return now.fds == was->fds && now.memfds == was->memfds && now.heap <= was->heap + 131072;
}

static struct level before;
static unsigned reads_before;

static void settle(void) {
        leave();
        for (int i = 0; i < 3000 && !level_is(&before); i++)
                usleep(1000);
        struct level now = measure();
        CHECK_MSG(now.fds == before.fds, "%d descriptors before, %d after", before.fds, now.fds);
        CHECK_MSG(now.memfds == before.memfds, "%d mappings of guest memory before, %d after", before.memfds, now.memfds);
        CHECK_MSG(level_is(&before), "%zu bytes of heap before, %zu after", before.heap, now.heap);
}

static void after_row(void) {
        settle();
        expect_quiet("after the row", 40);
        unsigned n = vhk_load_acquire(&reads.n);
        for (int i = 0; i < 5000 && vhk_load_acquire(&reads.n) < n + 2; i++)
                usleep(1000);
        CHECK_MSG(vhk_load_acquire(&reads.n) >= n + 2, "the bystander is not served");
        CHECK_MSG(!vhk_load_relaxed(&reads.error), "the bystander read %s", reads.error == -1 ? "with an error" : "wrong data");
        CHECK_MSG(reads.slowest < 5000000000u, "the bystander waited %llu ms", (unsigned long long)(reads.slowest / 1000000));
        come_with_ring();               /* and so is the next front-end of the victim */
        read_sector(0, 5);
        leave();
        settle();
}

/* ---- the table ---- */

static int asked_for(int argc, char **argv, const char *id) {
        int any = argc < 2;

        for (int i = 1; i < argc; i++)
                any |= !strcmp(argv[i], id);
        return any;
}

/* The newest is what tells: the log of the rig keeps the oldest. */
static const char *last_lines(const char *log) {
        size_t n = strlen(log);

        return n > 500 ? log + n - 500 : log;
}


int main(int argc, char **argv) {
        int passed = 0, failed = 0;

        setvbuf(stdout, NULL, _IOLBF, 0);
        mallopt(M_ARENA_MAX, 1);        /* so that mallinfo2() knows of what all threads have */
        if (!row_run(set_up)) {
                printf("0 passed, 1 failed, 0 skipped\n");
                return 1;
        }
        /* once for whatever is made at the first use */
        row_run(warm_up_postcopy);
        row_run(warm_up_class);
        row_run(warm_up);
        leave();
        usleep(100000);
        before = measure();
        row_run(after_row);
        for (struct row *r = rows; r; r = r->next) {
                if (!asked_for(argc, argv, r->id))
                        continue;
                verdict[0] = '\0';
                before = measure();
                reads_before = vhk_load_relaxed(&reads.n);
                reads.slowest = 0;
                uint64_t begin = now_ns();
                bool ok = r->run(r->fn);
                leave();
                fe = &victim;
                ok &= row_run(after_row);
                printf("%s  %-78s %-4s %s  %u reads beside, %llu ms%s%s\n", r->id, r->title, r->outcome, ok ? "held" : "FAILED",
                       vhk_load_relaxed(&reads.n) - reads_before, (unsigned long long)((now_ns() - begin) / 1000000), verdict[0] ? "; " : "", verdict);
                if (!ok)
                        printf("  the victim's log ends: %s", last_lines(victim.log));
                victim.log[0] = '\0';
                passed += ok;
                failed += !ok;
                if (!ok)
                        before = measure();
        }
        if (!row_run(tear_down))
                failed++;
        printf("%d passed, %d failed, 0 skipped\n", passed, failed);
        return failed || !passed;
}
