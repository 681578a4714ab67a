/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * For tests: a file of a file system (FUSE, a thread of the test serves it) that lets it be opened
 * and then answers nothing any more. Its size is FILE_BYTES. The mount is detached at once, so
 * nothing stays behind when the test dies.
 */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define SILENT_FILE_BYTES (1u << 20)

struct silent_file {
        int fd;                 /* the file */
        int server_fd;
        pthread_t thread;
};

static inline void silent_reply(int fd, uint64_t unique, const void *out, size_t n) {
        struct { struct fuse_out_header h; char body[256]; } m = { .h = { .len = (uint32_t)(sizeof(m.h) + n), .unique = unique } };

        memcpy(m.body, out, n);
        (void)!write(fd, &m, m.h.len);
}

/* Until the file has been opened, or the connection is aborted. */
static inline void *silent_main(void *arg) {
        const struct silent_file *s = arg;
        static char buf[1 << 17];
        struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096 };
        struct fuse_entry_out entry = { .nodeid = 2, .attr = { .ino = 2, .size = SILENT_FILE_BYTES, .mode = S_IFREG | 0666, .nlink = 1 } };
        struct fuse_attr_out root = { .attr = { .ino = 1, .mode = S_IFDIR | 0777, .nlink = 1 } };
        struct fuse_open_out opened = { .fh = 1 };

        while (read(s->server_fd, buf, sizeof(buf)) > 0) {
                const struct fuse_in_header *h = (const void *)buf;
                if (h->opcode == FUSE_INIT)
                        silent_reply(s->server_fd, h->unique, &init, sizeof(init));
                else if (h->opcode == FUSE_LOOKUP)
                        silent_reply(s->server_fd, h->unique, &entry, sizeof(entry));
                else if (h->opcode == FUSE_GETATTR)
                        silent_reply(s->server_fd, h->unique, &root, sizeof(root));
                if (h->opcode != FUSE_OPEN)
                        continue;
                silent_reply(s->server_fd, h->unique, &opened, sizeof(opened));
                break;
        }
        return NULL;
}

/* NULL, or why there is none here. */
static inline const char *silent_file_open(struct silent_file *s) {
        char dir[] = "/tmp/vhk-test-silent.XXXXXX", path[64], options[100];

        *s = (struct silent_file){ .fd = -1, .server_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC) };
        if (s->server_fd < 0)
                return "cannot: /dev/fuse is not there, or not for this user";
        if (!mkdtemp(dir))
                return "no temporary directory";
        snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u", s->server_fd, getuid(), getgid());
        if (mount("vhk-test", dir, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
                close(s->server_fd);
                rmdir(dir);
                return "cannot: no right to mount a file system here";
        }
        if (pthread_create(&s->thread, NULL, silent_main, s) == 0) {
                snprintf(path, sizeof(path), "%s/file", dir);
                s->fd = open(path, O_RDWR | O_CLOEXEC);
        }
        umount2(dir, MNT_DETACH);
        rmdir(dir);
        pthread_join(s->thread, NULL);
        return s->fd < 0 ? "the file cannot be opened" : NULL;
}

/* Ends the server, and closes all descriptors of its file in this process. */
static inline void silent_file_close(struct silent_file *s) {
        DIR *d = opendir("/proc/self/fd");
        struct statfs fs;

        close(s->server_fd);            /* all requests end with an error */
        for (struct dirent *e; d && (e = readdir(d));) {
                int fd = atoi(e->d_name);
                if (fd > 2 && fd != dirfd(d) && fstatfs(fd, &fs) < 0)
                        close(fd);
        }
        if (d)
                closedir(d);
        s->fd = -1;
}
