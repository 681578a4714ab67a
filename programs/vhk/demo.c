/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk demo: vhk-blk on a new file in a directory of its own, driven from here: negotiation, write and verify through the
 * socket and against the file itself, a short measurement, and the QEMU command line for the same disk.
 *
 * The child dies with us (PR_SET_PDEATHSIG) and is the only process that is ever sent a signal. What was made is removed
 * again, however the demo ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "describe.h"
#include "load.h"
#include "report.h"
#include "tool.h"

#define DISK_BYTES (UINT64_C(64) << 20)
#define CHUNK (256u << 10)              /* one verified write */
#define N_CHUNKS 16
#define START_NS (10 * TOOL_S)
#define STOP_NS (10 * TOOL_S)

struct demo_options {
        int help;
        const char *dir, *bindir;
        uint64_t seconds;
};

static const struct vhk_option options[] = {
        { "dir", VHK_OPTION_STRING, offsetof(struct demo_options, dir), "DIR", "make the file and the socket in a new directory there ($TMPDIR or /tmp)" },
        { "bindir", VHK_OPTION_STRING, offsetof(struct demo_options, bindir), "DIR", "where vhk-blk is (next to vhk)" },
        { "seconds", VHK_OPTION_UINT, offsetof(struct demo_options, seconds), "S", "length of the measurement (2)", 1, 3600 },
        TOOL_OPTION_HELP,
        { 0 },
};

struct demo {
        const struct demo_options *o;
        char program[PATH_MAX], dir[PATH_MAX], file[PATH_MAX], socket[PATH_MAX];
        pid_t child;                    /* 0: none */
        struct vhk_blk *b;
        int step;
};

static void step(struct demo *d, const char *what) {
        printf("\n[%d] %s\n", ++d->step, what);
        fflush(stdout);
}

/* ---- the stage ---- */

static bool join(char *buf, const char *dir, const char *name) {
        int n = snprintf(buf, PATH_MAX, "%s/%s", dir, name);

        return n > 0 && n < PATH_MAX;
}

static enum tool_status find_program(struct demo *d) {
        char self[PATH_MAX];
        const char *bindir = d->o->bindir;

        if (!bindir) {
                ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
                if (n < 0)
                        return tool_fail("where am I? /proc/self/exe: %s", strerror(errno));
                self[n] = 0;
                *strrchr(self, '/') = 0;
                bindir = self;
        }
        if (!join(d->program, bindir, "vhk-blk"))
                return tool_fail("%s: the path is too long", bindir);
        if (access(d->program, X_OK) < 0)
                return tool_fail("%s: %s; --bindir=DIR says where vhk-blk is", d->program, strerror(errno));
        return TOOL_OK;
}

static enum tool_status make_disk(struct demo *d) {
        const char *tmp = getenv("TMPDIR"), *parent = d->o->dir ? d->o->dir : tmp && *tmp ? tmp : "/tmp";

        if (!join(d->dir, parent, "vhk-demo-XXXXXX") || !mkdtemp(d->dir)) {
                d->dir[0] = 0;
                return tool_fail("no directory can be made in %s: %s", parent, strerror(errno));
        }
        if (!join(d->file, d->dir, "disk.img") || !join(d->socket, d->dir, "disk.sock"))
                return tool_fail("%s: the path is too long", d->dir);
        int fd = open(d->file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), k = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)DISK_BYTES);
        if (fd >= 0)
                close(fd);
        return k ? tool_fail("%s: %s", d->file, strerror(k)) : TOOL_OK;
}

static enum tool_status start_server(struct demo *d) {
        char socket_arg[PATH_MAX + 16], file_arg[PATH_MAX + 16];
        pid_t self = getpid();

        snprintf(socket_arg, sizeof(socket_arg), "--socket-path=%s", d->socket);
        snprintf(file_arg, sizeof(file_arg), "--blk-file=%s", d->file);
        printf("    %s %s %s --serial=vhk-demo\n", d->program, socket_arg, file_arg);
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0)
                return tool_fail("fork: %s", strerror(errno));
        if (!pid) {
                prctl(PR_SET_PDEATHSIG, SIGTERM);
                if (getppid() != self)                  /* gone before prctl() */
                        _exit(1);
                execl(d->program, d->program, socket_arg, file_arg, "--serial=vhk-demo", (char *)NULL);
                dprintf(STDERR_FILENO, "%s: %s\n", d->program, strerror(errno));
                _exit(127);
        }
        d->child = pid;
        return TOOL_OK;
}

static bool child_has_ended(struct demo *d, int *ret_status) {
        if (d->child && waitpid(d->child, ret_status, WNOHANG) == d->child)
                d->child = 0;
        return !d->child;
}

/* Connects as soon as the socket is there. A child that ends instead has said why on stderr. */
static enum tool_status connect_disk(struct demo *d) {
        struct vhk_frontend_options fo = { .size = sizeof(fo), .limit_ns = START_NS, .trace = tool_trace() };
        struct vhk_blk_options bo = { .size = sizeof(bo), .frontend = &fo };
        uint64_t end = tool_now() + START_NS;
        struct vhk_error e = { 0 };

        for (;;) {
                int status, k = vhk_blk_open(d->socket, &bo, &d->b, &e);
                if (k >= 0)
                        return TOOL_OK;
                if (tool_interrupted)
                        return tool_fail("interrupted");
                if (child_has_ended(d, &status))
                        return tool_fail("vhk-blk has ended, status %d", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
                if ((k != -ENOENT && k != -ECONNREFUSED) || tool_now() > end)
                        return tool_open_failed(d->socket, k, &e);
                tool_sleep(10 * TOOL_MS);
        }
}

/* ---- the play ---- */

static enum tool_status show_negotiation(struct demo *d) {
        struct peer p;
        int k = peer_read(vhk_blk_get_frontend(d->b), d->socket, 2, &p);

        if (k < 0)
                return tool_blk_failed(d->b, "configuration", 0, k);
        peer_print(&p, stdout);
        return TOOL_OK;
}

static uint64_t chunk_offset(unsigned i) {
        return i * (DISK_BYTES / N_CHUNKS) + i * 4096;
}

static void fill(uint8_t *buf, unsigned i) {
        uint64_t x = UINT64_C(0x9e3779b97f4a7c15) * (i + 1);

        for (size_t n = 0; n < CHUNK; n += 8) {
                x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                memcpy(buf + n, &x, 8);
        }
}

/* Is chunk @i in the file what was sent through the socket? */
static enum tool_status compare_file(struct demo *d, int fd, unsigned i, const uint8_t *want, uint8_t *got) {
        for (size_t n = 0; n < CHUNK;) {
                ssize_t k = pread(fd, got + n, CHUNK - n, (off_t)(chunk_offset(i) + n));
                if (k <= 0)
                        return tool_fail("%s: %s", d->file, k < 0 ? strerror(errno) : "shorter than it was");
                n += (size_t)k;
        }
        if (memcmp(got, want, CHUNK))
                return tool_fail("%s: offset %llu does not hold what was written", d->file, (unsigned long long)chunk_offset(i));
        return TOOL_OK;
}

static enum tool_status verify_chunk(struct demo *d, int fd, unsigned i, uint8_t *want, uint8_t *got) {
        uint64_t off = chunk_offset(i);

        fill(want, i);
        memset(got, 0, CHUNK);
        ssize_t k = vhk_blk_pread(d->b, got, CHUNK, off);
        if (k < 0)
                return tool_blk_failed(d->b, "read", off, (int)k);
        if (memcmp(got, want, CHUNK))
                return tool_fail("offset %llu: what was read is not what was written", (unsigned long long)off);
        return compare_file(d, fd, i, want, got);
}

static enum tool_status write_and_verify(struct demo *d) {
        uint8_t *want = vhk_blk_alloc(d->b, CHUNK), *got = vhk_blk_alloc(d->b, CHUNK);
        enum tool_status status = TOOL_OK;

        if (!want || !got)
                return tool_fail("out of memory");
        for (unsigned i = 0; i < N_CHUNKS; i++) {
                fill(want, i);
                ssize_t k = vhk_blk_pwrite(d->b, want, CHUNK, chunk_offset(i));
                if (k < 0)
                        return tool_blk_failed(d->b, "write", chunk_offset(i), (int)k);
        }
        int k = vhk_blk_flush(d->b), fd = open(d->file, O_RDONLY | O_CLOEXEC);
        if (k < 0)
                status = tool_blk_failed(d->b, "flush", 0, k);
        else if (fd < 0)
                status = tool_fail("%s: %s", d->file, strerror(errno));
        for (unsigned i = 0; i < N_CHUNKS && status == TOOL_OK; i++)
                status = verify_chunk(d, fd, i, want, got);
        if (fd >= 0)
                close(fd);
        if (status == TOOL_OK)
                printf("    %u writes of %u KiB, flushed, read back through the socket and from the file: all equal\n", N_CHUNKS, CHUNK >> 10);
        return status;
}

static enum tool_status measure(struct demo *d) {
        static struct load_result result;               /* large */
        struct load_job job = { .random = true, .block_size = 4096, .depth = 32, .n_queues = 1, .ns = d->o->seconds * TOOL_S,
                                .limit_ns = START_NS, .server_pid = d->child };
        int k = load_run(d->b, &job, &result);

        if (k < 0)
                return tool_fail("cannot start: %s", strerror(-k));
        report_print(&job, &result, stdout);
        return result.error ? tool_blk_failed(d->b, "read", result.error_offset, result.error) : TOOL_OK;
}

static void print_qemu(const struct demo *d) {
        printf("    mkdir -p %s && truncate -s 64M %s\n", d->dir, d->file);
        printf("    %s --socket-path=%s --blk-file=%s &\n", d->program, d->socket, d->file);
        printf("    qemu-system-x86_64 -m 1G \\\n"
               "        -object memory-backend-memfd,id=mem0,size=1G,share=on \\\n"
               "        -machine q35,memory-backend=mem0 \\\n"
               "        -chardev socket,id=vhk0,path=%s \\\n"
               "        -device vhost-user-blk-pci,chardev=vhk0,num-queues=1\n", d->socket);
        printf("    (behind them your own options: a kernel or a system disk, -nographic ...; the demo's file and socket are gone again)\n");
}

static enum tool_status play(struct demo *d) {
        static const struct {
                const char *what;
                enum tool_status (*run)(struct demo *d);
        } acts[] = {
                { "a new file of 64 MiB", make_disk },
                { "vhk-blk serves it", start_server },
                { "a front-end connects and takes the disk", connect_disk },
                { "what was negotiated", show_negotiation },
                { "write and verify", write_and_verify },
                { "random reads of 4 KiB, 32 in flight, one queue, event-driven", measure },
        };
        enum tool_status status = find_program(d);

        for (size_t i = 0; i < TOOL_N(acts) && status == TOOL_OK; i++) {
                step(d, acts[i].what);
                status = acts[i].run(d);
                if (i == 0 && status == TOOL_OK)
                        printf("    %s\n", d->file);
                if (status == TOOL_OK && tool_interrupted)
                        status = tool_fail("interrupted");
        }
        return status;
}

/* ---- afterwards ---- */

/* SIGTERM is a quick clean exit of vhk-blk; one that does not end is killed, and that is a failure. */
static enum tool_status stop_server(struct demo *d) {
        uint64_t end = tool_now() + STOP_NS;
        int status = 0;

        if (!d->child || child_has_ended(d, &status))
                return TOOL_OK;
        kill(d->child, SIGTERM);
        while (!child_has_ended(d, &status)) {
                if (tool_now() > end) {
                        kill(d->child, SIGKILL);
                        waitpid(d->child, &status, 0);
                        d->child = 0;
                        return tool_fail("vhk-blk did not end on SIGTERM and was killed");
                }
                struct timespec t = { .tv_nsec = 5000000 };
                nanosleep(&t, NULL);
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status))
                return tool_fail("vhk-blk ended with status %d", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        return TOOL_OK;
}

static enum tool_status clean_up(struct demo *d) {
        d->b = vhk_blk_close(d->b);
        enum tool_status status = stop_server(d);

        if (d->file[0])
                unlink(d->file);
        if (d->socket[0])
                unlink(d->socket);
        if (d->dir[0] && rmdir(d->dir) < 0)
                return tool_fail("%s: %s", d->dir, strerror(errno));
        return status;
}

static enum tool_status run(const void *state, char *const *arguments) {
        static struct demo d;                   /* large */

        d.o = state;
        tool_catch_interrupt();
        enum tool_status status = play(&d), cleaned = clean_up(&d);
        if (status == TOOL_OK)
                status = cleaned;
        if (status == TOOL_OK) {
                step(&d, "the same disk in a QEMU guest");
                print_qemu(&d);
        }
        return status;
}

const struct tool_command demo_command = {
        .name = "demo",
        .synopsis = "[--dir=DIR] [--bindir=DIR] [--seconds=S]",
        .summary = "vhk-blk on a new file, driven and measured; ends with the QEMU options",
        .about = "Makes a file of 64 MiB, starts vhk-blk on it, shows what is negotiated, writes, verifies and measures, and removes\n"
                 "all of it again. Needs no privilege.",
        .options = options,
        .state_size = sizeof(struct demo_options),
        .defaults = &(const struct demo_options){ .seconds = 2 },
        .run = run,
};
