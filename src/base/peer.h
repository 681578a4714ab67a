/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Descriptors that a peer can use at the same time as we do. Any thread.
 *
 * The open file description is shared, its O_NONBLOCK flag too: a peer clears it whenever it likes,
 * between our look and our call. So no function here depends on the flag: each call is non-blocking
 * by itself. A peer that does not read, fills a counter, keeps a pipe full or serves the file
 * itself (FUSE) cannot make the caller wait.
 *
 * What a process cannot prevent: read(2) of a pipe or of a socket holds a lock of the kernel while
 * it copies; a peer that copies to memory which a file system of its own serves keeps that lock. It
 * needs the right to mount one. An eventfd has no such lock.
 */
#pragma once

#include <sys/stat.h>

#include "base/base.h"

/* What a descriptor is, as far as the kernel knows without asking a server. */
enum vhk_peer_kind {
        VHK_PEER_EVENTFD,       /* without /proc also any other nameless inode */
        VHK_PEER_PIPE,
        VHK_PEER_SOCKET,
        VHK_PEER_FILE,          /* a regular file */
        VHK_PEER_OTHER,
};

/* enum vhk_peer_kind, or a negative errno */
int vhk_peer_kind(int fd);

/* st_mode and st_size, without asking a server: as it was known before. A negative errno */
int vhk_peer_stat(int fd, struct stat *ret_st);

/* Is the file served from the memory or a local disk of this machine? 0: by a server that may not
 * answer (FUSE, NFS, 9p, CIFS ...), or it is not known. The server is not asked. memfd, tmpfs and
 * hugetlbfs say so themselves, ext2 to ext4, xfs, btrfs, f2fs, bcachefs, zfs and ramfs by the
 * mount's type in /proc/self/mountinfo. */
bool vhk_peer_file_is_local(int fd);

/* Closes, but for a file that is not local: close(2) of one makes the server flush, and waits for
 * it. Such a descriptor is left open until the process ends, which is the lesser evil. Always -1
 * afterwards. */
void vhk_peer_close(int *fd);

/* Adds 1 to an eventfd, or writes 8 bytes to a pipe or socket. A full one has been notified
 * already: 0. -EPIPE: the reader of a pipe or socket is closed (never a SIGPIPE); -EBADF, -EINVAL.
 * One system call for an eventfd. */
int vhk_peer_notify(int fd);

/* Bytes read from an eventfd, pipe or socket; 0 at the end; -EAGAIN nothing there; another negative
 * errno. */
ssize_t vhk_peer_read(int fd, void *buf, size_t n);

/* Bytes written to a pipe or socket, at least 1 of @n >= 1; -EAGAIN no room; -EPIPE the reader is
 * closed (never a SIGPIPE). Any other kind of file is written to if poll(2) calls it writable: a
 * file, a terminal. */
ssize_t vhk_peer_write(int fd, const void *buf, size_t n);

/* Empties a notification descriptor: 1 if something was there, 0 if not, negative errno; -EPIPE:
 * the last writer of a pipe has gone. What a peer writes meanwhile may be left, after a bounded
 * number of reads. One system call for an eventfd. */
int vhk_peer_drain(int fd);
