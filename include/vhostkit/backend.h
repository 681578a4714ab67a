/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The back-end end: serves one device to one front-end at a time, over vhost-user or to this machine's kernel through VDUSE. Many
 * per process. All calls belong to the control worker's thread, unless stated.
 *
 * A front-end can truncate the memory that it shares at any time, and the next access raises
 * SIGBUS. A program that serves a back-end calls vhk_sigbus_install() (<vhostkit/memory.h>) at its
 * start, or vhk_sigbus_try() from a SIGBUS handler of its own; otherwise such a front-end ends the
 * process. vhk_daemon_run() does it.
 */
#ifndef VHOSTKIT_BACKEND_H
#define VHOSTKIT_BACKEND_H

#include <vhostkit/device.h>
#include <vhostkit/error.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_backend;

/**
 * Quirks of front-ends. LOG_REPLY_U64: SET_LOG_BASE is acknowledged like other messages, by a u64
 * of 0, and only if NEED_REPLY asks for it, as front-ends on the Rust crate vhost up to 0.15
 * expect. Without it the reply has 16 bytes, which QEMU and vhost 0.16 expect.
 */
enum {
        VHK_QUIRK_LOG_REPLY_U64 = 1,
};

/** Who calls whom on a path. */
enum vhk_socket_mode {
        VHK_SOCKET_DEFAULT,     /* back-end: listen; front-end: connect */
        VHK_SOCKET_LISTEN,
        VHK_SOCKET_CONNECT,
};

enum vhk_backend_event {
        VHK_BACKEND_CONNECTED,          /* a front-end has come */
        VHK_BACKEND_DISCONNECTED,       /* it has gone, all rings have stopped; a listening back-end serves the next */
        VHK_BACKEND_ENDED,              /* nothing will come any more: the connected peer left, or vhk_backend_stop() is through */
};
/** On the control worker. @e: why, or NULL for an orderly end. The back-end may be freed from inside for ENDED only. */
typedef void (*vhk_backend_event_fn)(void *arg, enum vhk_backend_event ev, const struct vhk_error *e);

/**
 * struct vhk_vduse_options - of "vduse:NAME"; zero it, set @size
 * @control_fd: /dev/vduse/control, opened before privileges were dropped; only with @has_control_fd
 * @device_fd: /dev/vduse/NAME likewise, of a device that exists; only with @has_device_fd
 * @record: file with what a successor needs if this process is killed: the requests in flight, and what the device was made with.
 *          NULL: /run/vhostkit/vduse-NAME.inflight. Made anew with the device, removed with it
 *
 * Both descriptors become the back-end's when vhk_backend_open() is a success. Source: Linux Documentation/userspace-api/vduse.rst.
 */
struct vhk_vduse_options {
        size_t size;
        int has_control_fd, control_fd, has_device_fd, device_fd;
        const char *record;
};

/**
 * struct vhk_backend_options - zero it, set @size
 * @fd: an inherited socket, listening or connected (it is asked), instead of a path; -1 none. Zero means none as well,
 *      unless @has_fd. Becomes the back-end's when vhk_backend_open() is a success
 * @mode: with a path: who calls whom
 * @control: home of control; required
 * @n_queues: fewer rings than ops->n_queues; 0: all
 * @queue_size_max: entries, a power of two, smaller than the device's number (see struct
 *      vhk_device_ops); 0: the device's
 * @protocol_offer: protocol feature bits to offer besides the default ones. GPA_ADDRESSES (21): not
 *      by default, since front-ends on the Rust crate vhost 0.16 acknowledge that bit and mean
 *      another feature. XEN_MMAP (17): the longer form of regions is understood, but only plain
 *      memory is mapped, foreign and granted pages are refused. PAGEFAULT (8, postcopy) takes the
 *      place of CONFIGURE_MEM_SLOTS (15), needs userfaultfd(2), and is only offered where no ring
 *      has control's worker
 * @protocol_no_offer: protocol feature bits not to offer
 * @features_no_offer: virtio feature bits not to offer
 * @features_offer: virtio feature bits to offer besides the device's: ACCESS_PLATFORM (33: all addresses go through the
 *      front-end's IOMMU) and no other. Only when asked for, since some front-ends acknowledge it and know nothing of it
 * @limit_ns: time limit for a drain or a memory change to end; 0: 30 s (VDUSE: 20 s, for the kernel gives up on the device after 30)
 * @any_file_system: 1: take memory in files of any file system. By default only those of memfd,
 *      tmpfs, hugetlbfs, ramfs, ext2 to ext4, xfs, btrfs, f2fs, bcachefs and zfs: a file of FUSE,
 *      NFS or another server is refused (mem.file-system), because a server that does not answer
 *      blocks control and rings permanently
 * @vduse: with "vduse:NAME"; NULL: as if all of it were zero
 * @on_event: may be NULL
 * @log: may be NULL
 * @trace: prints every message in one line; may be NULL
 * @quirks: VHK_QUIRK_* bits, for front-ends that differ from the protocol in ways that exclude each
 *      other. Another bit is -EOPNOTSUPP
 */
struct vhk_backend_options {
        size_t size;
        int has_fd, fd;
        enum vhk_socket_mode mode;
        struct vhk_worker *control;
        uint16_t n_queues, queue_size_max;
        uint64_t protocol_offer, protocol_no_offer, features_no_offer, features_offer;
        uint64_t limit_ns;
        const struct vhk_vduse_options *vduse;
        vhk_backend_event_fn on_event;
        void *event_arg;
        vhk_log_fn log;
        void *log_arg;
        vhk_log_fn trace;
        void *trace_arg;
        int any_file_system;
        uint64_t quirks;
};

/**
 * vhk_backend_open() - start to serve @dev
 * @spec: "vhost-user:PATH", or a bare PATH; NULL with an inherited descriptor; "vduse:NAME"
 *
 * A stale socket file (nobody listens) is replaced; anything else at the path is -EADDRINUSE.
 *
 * VDUSE: the device NAME is made, or taken over from a predecessor that was killed, if it was made with the same features, rings and
 * configuration. -EEXIST if not, unless it is on no bus: then it is made anew; -EBUSY: somebody serves it. It can be put on the vDPA bus
 * as soon as the control worker's loop runs: vhk_vdpa_add() with management device "vduse", on another thread, for that waits for
 * the device's answers. Its configuration is read-only, so features that need a writable one are not offered. After the end,
 * vhk_backend_free() destroys the device, unless it still is on the bus.
 *
 * The program handles SIGBUS, see vhk_sigbus_install().
 *
 * Return: 0 or a negative errno with the story in @ret_e.
 */
int vhk_backend_open(const char *spec, const struct vhk_backend_options *o, const struct vhk_device_ops *ops, void *dev,
                     struct vhk_backend **ret_b, struct vhk_error *ret_e);

/** vhk_backend_set_worker() - ring @queue's home, before the first front-end comes. Default: the control worker. -EINVAL, -EBUSY */
int vhk_backend_set_worker(struct vhk_backend *b, unsigned queue, struct vhk_worker *w);

/** vhk_backend_stop() - ANY thread: stop all rings (@how), close the connection, then VHK_BACKEND_ENDED; at most @limit_ns. Not after ENDED. */
int vhk_backend_stop(struct vhk_backend *b, enum vhk_stop how, uint64_t limit_ns);

/** vhk_backend_free() - only before a front-end came, or after VHK_BACKEND_ENDED; NULL is legal. Unlinks its own socket file. */
struct vhk_backend *vhk_backend_free(struct vhk_backend *b);

/** struct vhk_ring_metrics - plain counters of one ring; set @size. Read from control, exact when
 * the ring is stopped */
struct vhk_ring_metrics {
        size_t size;
        uint64_t requests, kicks, notifications, flushes, faults;
};
int vhk_backend_get_metrics(struct vhk_backend *b, unsigned queue, struct vhk_ring_metrics *ret_m);

#ifdef __cplusplus
}
#endif

#endif
