/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Kills vhk-blk at random moments, under a load of checksummed writes from our own front-end, and starts it again: no
 * acknowledged write may be lost, none may come back after a newer one, no request may stay without an answer.
 *
 *   test-kill9 VHK_BLK DIRECTORY [--kills N] [--queues N] [--depth N] [--seconds N] [-- OPTIONS OF VHK_BLK]
 *
 * Every block holds its number and a version, and is filled from both. Each queue has a thread and blocks of its own, and at most
 * one write per block is in flight; reads between the writes must see the version that was acknowledged last. What the
 * disk holds at the end is read through it, and from the file.
 */
#include <vhostkit/blk.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096u
#define N_BLOCKS 2048u
#define MAX_QUEUES 8u
#define MAX_DEPTH 128u
#define PATIENCE_MS 30000
#define CHECK_EVERY 4u          /* one read for so many requests */

static unsigned n_queues = 2, depth = 64, n_kills = 100, n_seconds = 600;
static const char *program, *directory;
static char **extra;
static char image[256], socket_path[256];
static _Atomic unsigned long n_acked, n_read, n_reconnected;
static _Atomic bool stop, failed;
static pid_t daemon_pid = -1;

static __attribute__((format(printf, 1, 2))) void fail(const char *format, ...) {
        va_list ap;

        if (atomic_exchange(&failed, true))
                return;
        va_start(ap, format);
        printf("  FAIL: ");
        vprintf(format, ap);
        printf("\n");
        va_end(ap);
        fflush(stdout);
}

static uint64_t random_next(uint64_t *s) {
        *s ^= *s << 13;
        *s ^= *s >> 7;
        *s ^= *s << 17;
        return *s >> 11;
}

/* ---- blocks ---- */

static void fill(uint64_t *p, uint64_t block, uint64_t version) {
        uint64_t s = block * 0x9e3779b97f4a7c15u + version * 0xbf58476d1ce4e5b9u + 1;

        p[0] = block;
        p[1] = version;
        for (unsigned i = 2; i < BLOCK / 8; i++)
                p[i] = random_next(&s);
}

static void check(const char *how, const uint64_t *p, uint64_t block, uint64_t version) {
        uint64_t want[BLOCK / 8];

        if (version == 0) {
                for (unsigned i = 0; i < BLOCK / 8; i++)
                        if (p[i])
                                return fail("%s: block %llu was never written, and is not empty", how, (unsigned long long)block);
                return;
        }
        fill(want, block, version);
        if (memcmp(p, want, BLOCK))
                fail("%s: block %llu holds block %llu of version %llu%s, acknowledged was version %llu", how, (unsigned long long)block,
                     (unsigned long long)p[0], (unsigned long long)p[1], memcmp(p, want, 16) ? "" : " (torn)", (unsigned long long)version);
}

/* ---- the load: one thread per queue ---- */

struct slot { uint64_t *buf; struct iovec iov; unsigned block; bool busy, is_read; uint64_t version; };

struct lane {
        struct vhk_blk *disk;
        unsigned index;
        uint64_t random;
        uint64_t versions[N_BLOCKS];    /* acknowledged */
        bool busy[N_BLOCKS];
        struct slot slots[MAX_DEPTH];
        unsigned n_in_flight;
};

static bool begin_one(struct lane *l, struct vhk_blk_queue *q, struct slot *s) {
        unsigned block = (unsigned)(random_next(&l->random) % (N_BLOCKS / n_queues)) * n_queues + l->index;

        if (l->busy[block])
                return true;
        s->block = block;
        s->is_read = random_next(&l->random) % CHECK_EVERY == 0;
        s->version = l->versions[block] + !s->is_read;
        s->iov = (struct iovec){ s->buf, BLOCK };
        if (s->is_read)
                memset(s->buf, 0xee, BLOCK);
        else
                fill(s->buf, block, s->version);
        struct vhk_blk_io io = { .op = s->is_read ? VHK_BLK_READ : VHK_BLK_WRITE, .off = (uint64_t)block * BLOCK, .iov = &s->iov, .n_iov = 1, .cookie = s };
        int k = vhk_blk_submit(q, &io, 1);
        if (k < 0)
                fail("submit: %s", strerror(-k));
        if (k != 1)
                return false;
        s->busy = l->busy[block] = true;
        l->n_in_flight++;
        return true;
}

static void finish_one(struct lane *l, const struct vhk_blk_done *d) {
        struct slot *s = d->cookie;

        if (d->result < 0)
                fail("%s of block %u: %s", s->is_read ? "read" : "write", s->block, strerror(-d->result));
        if (s->is_read) {
                check("read", s->buf, s->block, s->version);
                atomic_fetch_add(&n_read, 1);
        } else {
                l->versions[s->block] = s->version;
                atomic_fetch_add(&n_acked, 1);
        }
        s->busy = l->busy[s->block] = false;
        l->n_in_flight--;
}

static void *lane_main(void *arg) {
        struct lane *l = arg;
        struct vhk_blk_done done[MAX_DEPTH];
        struct vhk_blk_queue *q;

        if (vhk_blk_get_queue(l->disk, l->index, &q) < 0) {
                fail("no queue %u", l->index);
                return NULL;
        }
        while (!failed && (!stop || l->n_in_flight)) {
                for (unsigned i = 0; i < depth && !stop; i++)
                        if (!l->slots[i].busy && !begin_one(l, q, &l->slots[i]))
                                break;
                int k = vhk_blk_reap(q, done, MAX_DEPTH, PATIENCE_MS);
                if (k < 0)
                        fail("reap: %s: %s", strerror(-k), vhk_frontend_get_error(vhk_blk_get_frontend(l->disk))->text);
                if (k == 0 && l->n_in_flight)
                        fail("queue %u: %u requests without an answer for %u s", l->index, l->n_in_flight, PATIENCE_MS / 1000);
                for (int i = 0; i < k; i++)
                        finish_one(l, &done[i]);
        }
        return NULL;
}

/* ---- the daemon ---- */

static void spawn(void) {
        char file[300], sock[300], queues[40];
        const char *argv[32] = { program, file, sock, queues };
        unsigned n = 4;

        snprintf(file, sizeof(file), "--blk-file=%s", image);
        snprintf(sock, sizeof(sock), "--socket-path=%s", socket_path);
        snprintf(queues, sizeof(queues), "--num-queues=%u", n_queues);
        for (char **e = extra; e && *e && n < 31; e++)
                argv[n++] = *e;
        daemon_pid = fork();
        if (daemon_pid == 0) {
                execv(program, (char **)argv);
                _exit(127);
        }
        if (daemon_pid < 0)
                fail("fork: %s", strerror(errno));
}

/* Does it handle SIGTERM yet? A process that has just begun dies of it. */
static bool handles_sigterm(void) {
        uint64_t blocked = 0, caught = 0;
        char path[40], line[256];
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%d/status", (int)daemon_pid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f)) {
                sscanf(line, "SigBlk: %" SCNx64, &blocked);
                sscanf(line, "SigCgt: %" SCNx64, &caught);
        }
        if (f)
                fclose(f);
        return (blocked | caught) >> (SIGTERM - 1) & 1;
}

static void bury(int how) {
        int status;

        kill(daemon_pid, how);
        if (waitpid(daemon_pid, &status, 0) != daemon_pid)
                fail("waitpid: %s", strerror(errno));
        else if (how == SIGKILL && !WIFSIGNALED(status))
                fail("the daemon ended by itself, with status %d", WEXITSTATUS(status));
        else if (how == SIGTERM && (!WIFEXITED(status) || WEXITSTATUS(status)))
                fail("the daemon did not end well: 0x%x", status);
        daemon_pid = -1;
}

static void sleep_us(uint64_t us) {
        nanosleep(&(struct timespec){ (time_t)(us / 1000000), (long)(us % 1000000 * 1000) }, NULL);
}

/* Mostly some time after work was done: true; now and then while it comes up, or takes over. */
static bool wait_for_a_moment(uint64_t *random) {
        unsigned long before = n_acked;

        if (random_next(random) % 8 == 0) {
                sleep_us(random_next(random) % 12000);
                return false;
        }
        for (unsigned i = 0; i < PATIENCE_MS * 2 && n_acked < before + 20 && !failed; i++)
                sleep_us(500);
        sleep_us(random_next(random) % 25000);
        return true;
}

static uint64_t now_s(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec;
}

static unsigned kill_it(void) {
        uint64_t random = 0x2545f4914f6cdd1d, begin = now_s();
        unsigned done = 0;

        while (done < n_kills && !failed && now_s() < begin + n_seconds) {
                bool works = wait_for_a_moment(&random), asked = works && random_next(&random) % 10 == 0 && handles_sigterm();
                bury(asked ? SIGTERM : SIGKILL);        /* asked, it finishes what it has and ends well; its successor is no less welcome */
                done += !asked;
                sleep_us(random_next(&random) % 4000);
                spawn();
        }
        return done;
}

/* ---- the end ---- */

static void read_all(struct vhk_blk *disk, struct lane *lanes) {
        uint64_t *buf = vhk_blk_alloc(disk, BLOCK);

        for (unsigned b = 0; b < N_BLOCKS && !failed && buf; b++) {
                ssize_t k = vhk_blk_pread(disk, buf, BLOCK, (uint64_t)b * BLOCK);
                if (k < 0)
                        fail("reading block %u at the end: %s", b, strerror((int)-k));
                else
                        check("at the end", buf, b, lanes[b % n_queues].versions[b]);
        }
}

static void read_file(struct lane *lanes) {
        uint64_t buf[BLOCK / 8];
        int fd = open(image, O_RDONLY | O_CLOEXEC);

        for (unsigned b = 0; b < N_BLOCKS && !failed; b++)
                if (pread(fd, buf, BLOCK, (off_t)b * BLOCK) != BLOCK)
                        fail("reading the image: %s", strerror(errno));
                else
                        check("in the image", buf, b, lanes[b % n_queues].versions[b]);
        close(fd);
}

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        if (ev == VHK_FRONTEND_RECONNECTED)
                atomic_fetch_add(&n_reconnected, 1);
        if (ev == VHK_FRONTEND_GONE)
                fail("the back-end was given up: %s", e ? e->text : "?");
}

static void on_log(void *arg, enum vhk_log_level level, const char *text) {
        if (getenv("VHK_KILL_LOG"))
                fprintf(stderr, "front-end: %s\n", text);
}

static struct vhk_blk *open_disk(void) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .connect_ns = UINT64_C(10000000000), .on_event = on_event, .log = on_log };
        struct vhk_blk_options o = { .size = sizeof(o), .frontend = &fo, .n_queues = (uint16_t)n_queues, .reconnect_ns = UINT64_C(60000000000) };
        struct vhk_error e = { .text = "" };
        struct vhk_blk *disk = NULL;

        if (vhk_blk_open(socket_path, &o, &disk, &e) < 0)
                fail("%s", e.text);
        return disk;
}

static unsigned run(struct vhk_blk *disk, struct lane *lanes) {
        pthread_t threads[MAX_QUEUES];
        unsigned done;

        for (unsigned i = 0; i < n_queues; i++) {
                lanes[i].disk = disk;
                lanes[i].index = i;
                lanes[i].random = 88172645463325252u + i;
                for (unsigned j = 0; j < depth; j++)
                        lanes[i].slots[j].buf = vhk_blk_alloc(disk, BLOCK);
        }
        for (unsigned i = 0; i < n_queues; i++)
                pthread_create(&threads[i], NULL, lane_main, &lanes[i]);
        done = kill_it();
        stop = true;
        for (unsigned i = 0; i < n_queues; i++)
                pthread_join(threads[i], NULL);
        return done;
}

static bool make_image(void) {
        snprintf(image, sizeof(image), "%s/kill9.img", directory);
        snprintf(socket_path, sizeof(socket_path), "%s/kill9.sock", directory);
        int fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        /* no holes: a hole's first write is another thing for a file system */
        bool ok = fd >= 0 && posix_fallocate(fd, 0, (off_t)N_BLOCKS * BLOCK) == 0;
        close(fd);
        return ok;
}

static bool parse(int argc, char **argv) {
        static const struct { const char *name; unsigned *value, max; } options[] = {
                { "--kills", &n_kills, 1000000 }, { "--queues", &n_queues, MAX_QUEUES }, { "--depth", &depth, MAX_DEPTH }, { "--seconds", &n_seconds, 100000 },
        };
        int i = 3;

        if (argc < 3)
                return false;
        program = argv[1];
        directory = argv[2];
        for (; i < argc && strcmp(argv[i], "--"); i += 2) {
                bool known = false;
                for (unsigned j = 0; j < sizeof(options) / sizeof(options[0]) && i + 1 < argc; j++)
                        if (!strcmp(argv[i], options[j].name)) {
                                *options[j].value = (unsigned)strtoul(argv[i + 1], NULL, 10);
                                known = *options[j].value && *options[j].value <= options[j].max;
                        }
                if (!known)
                        return false;
        }
        extra = i < argc ? argv + i + 1 : NULL;
        return true;
}

int main(int argc, char **argv) {
        struct lane *lanes = calloc(MAX_QUEUES, sizeof(*lanes));
        unsigned kills = 0;

        if (!parse(argc, argv) || !lanes) {
                fprintf(stderr, "usage: test-kill9 VHK_BLK DIRECTORY [--kills N] [--queues N] [--depth N] [--seconds N] [-- OPTIONS OF VHK_BLK]\n");
                return 2;
        }
        if (!make_image()) {
                fprintf(stderr, "test-kill9: %s: %s\n", image, strerror(errno));
                return 1;
        }
        spawn();
        struct vhk_blk *disk = open_disk();
        if (disk)
                kills = run(disk, lanes);
        if (!failed)
                read_all(disk, lanes);
        if (!failed)
                vhk_blk_close(disk);
        if (daemon_pid > 0)
                bury(failed ? SIGKILL : SIGTERM);
        if (!failed)
                read_file(lanes);
        printf("%u kills, %lu times taken over, %lu writes acknowledged, %lu reads checked\n", kills, n_reconnected, n_acked, n_read);
        printf("%d passed, %d failed, 0 skipped\n", !failed, !!failed);
        unlink(image);
        unlink(socket_path);
        free(lanes);
        return failed;
}
