/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A virtio device, in virtio's words only: the same one is served over vhost-user and over VDUSE. What the device
 * wants from whoever serves it goes through struct vhk_host.
 */
#ifndef VHOSTKIT_DEVICE_H
#define VHOSTKIT_DEVICE_H

#include <vhostkit/queue.h>
#include <vhostkit/worker.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_host;
struct vhk_display_ops;

/* ---- shared memory regions (virtio 1.3, 2.10) ---- */

#define VHK_SHMEM_REGIONS 256u          /* ids 0 to 255 */

/**
 * struct vhk_shmem_ops - a device that has shared memory regions
 * @size: sizeof(struct vhk_shmem_ops)
 * @get_config: control, once, before attach: the length of each region, a multiple of the page; those that stay 0 do not exist
 */
struct vhk_shmem_ops {
        size_t size;
        int (*get_config)(void *dev, uint64_t ret_sizes[VHK_SHMEM_REGIONS]);
};

/**
 * struct vhk_shmem_map - a piece of a descriptor that is shown in a shared memory region; set @size
 * @id: the region
 * @offset, @len: where in it
 * @fd, @fd_offset: what is shown
 * @writable: for the driver
 *
 * Offsets and length are multiples of the page.
 */
struct vhk_shmem_map {
        size_t size;
        uint8_t id;
        int writable, fd;
        uint64_t offset, len, fd_offset;
};

/* ---- objects that devices share (a dma-buf under a UUID) ---- */

/**
 * struct vhk_object_ops - a device that shares objects, or looks for those of others
 * @size: sizeof(struct vhk_object_ops)
 * @get: control; another device wants the object that was added as @uuid: a descriptor that becomes the library's. Negative errno:
 *       there is none. May be NULL for a device that only looks for objects
 */
struct vhk_object_ops {
        size_t size;
        int (*get)(void *dev, const uint8_t uuid[16], int *ret_fd);
};

/** How many threads may call a device at the same time. */
enum vhk_threads {
        VHK_THREADS_SINGLE,             /* control and all rings on one worker */
        VHK_THREADS_PER_DEVICE,         /* all rings on one worker, control may be another */
        VHK_THREADS_PER_QUEUE,          /* every ring may have its own worker */
};

/** What a disabled ring does (vhost-user, "Ring states"). */
enum vhk_disabled {
        VHK_DISABLED_HOLD,              /* requests wait until the ring is enabled */
        VHK_DISABLED_DISCARD,           /* network transmit: requests are consumed and dropped */
};

/** How a ring is to stop. */
enum vhk_stop {
        VHK_STOP_DRAIN,                 /* finish all that was popped */
        VHK_STOP_ABORT,                 /* the peer has gone: finish or drop, nobody will look */
        VHK_STOP_SUSPEND,               /* be quick: what can be left undone is given to vhk_queue_leave(), the rest is finished */
};

/** Where a configuration write comes from. */
enum vhk_config_origin { VHK_CONFIG_DRIVER, VHK_CONFIG_MIGRATION };

/* ---- network cards ---- */

/**
 * struct vhk_net_ops - what a network card is told beside its rings; all on control, 0 or a negative errno (the front-end is told)
 * @size: sizeof(struct vhk_net_ops)
 * @send_rarp: the guest with this address has moved here: tell the switches. A card that leaves it to the guest has none
 * @set_mtu: of the guest's side, 68 to 65535, with VIRTIO_NET_F_MTU. May be NULL
 */
struct vhk_net_ops {
        size_t size;
        int (*send_rarp)(void *dev, const uint8_t mac[6]);
        int (*set_mtu)(void *dev, uint16_t mtu);
};

/* ---- crypto ---- */

/**
 * enum vhk_crypto_form - the two deployed layouts of a session, of which vhost-user's text has none
 *
 * 632 bytes (front-ends until 2022): symmetric only. 64-bit session number, seven 32-bit words (operation, cipher, cipher key length,
 * hash, digest length, authentication key length, length of additional data), four bytes (type, direction, hash mode, order of a
 * chain), 16 bytes without meaning; at 56 the cipher key (64 bytes), at 120 the authentication key (512).
 * 1072 bytes (since): 64-bit operation; symmetric: the other six words, the four bytes, 4 + 16 without meaning, at 56 and 120 the keys as
 * above; asymmetric (service 4 of the operation): words algorithm, key type, key length, at 40 the key (1024 bytes); the session number
 * comes last. Native byte order.
 */
enum vhk_crypto_form { VHK_CRYPTO_FORM_632, VHK_CRYPTO_FORM_1072 };

/** vhk_crypto_session_check() - do the keys of a session fit where they are? 0 or -EINVAL. The library asks before a device is asked */
int vhk_crypto_session_check(enum vhk_crypto_form form, const void *session);

/**
 * struct vhk_crypto_ops - a crypto device; both on control, both required
 * @size: sizeof(struct vhk_crypto_ops)
 * @create_session: @session is as it came, its key lengths checked: a number that is not negative, or a negative errno
 * @close_session: 0 or a negative errno
 */
struct vhk_crypto_ops {
        size_t size;
        int64_t (*create_session)(void *dev, enum vhk_crypto_form form, const void *session);
        int (*close_session)(void *dev, uint64_t id);
};

/**
 * struct vhk_device_ops - a device
 * @size: sizeof(struct vhk_device_ops) of the caller
 * @virtio_id: virtio device id (virtio 1.3, 5)
 * @n_queues: most rings it has (1-256)
 * @queue_size_max: entries of a ring that it is made for, a power of two, at most 32768. It is
 *                  passed on where there is a way (VDUSE's kernel, not a vhost-user front-end), and
 *                  rings of up to 1024 entries, or of so many if that is more, are served: size
 *                  whatever depends on a ring in queue_start, by vhk_queue_get_size()
 * @req_size: bytes of vhk_req.priv
 * @config_len: bytes of configuration space (at most 256)
 * @threads: see enum vhk_threads
 * @disabled: see enum vhk_disabled
 * @features: device feature bits (0-23, and 24-40 not used by transports); ring and transport bits are the library's
 *
 * Callbacks, all optional but queue_run. "control": on the back-end's control worker; "home": on the ring's worker.
 * @attach: control; the device is being served; @host is valid until reset after detach
 * @negotiated: control; the driver's choice among @features (other bits too: VERSION_1 ...); before any queue_start,
 *              and again when it changes. 0 or a negative errno (then the front-end is told)
 * @get_config: control; copy [off, off+n) of the configuration space, always inside config_len
 * @set_config: control; likewise; 0 or a negative errno. Without it every write is refused
 * @queue_start: home; the ring runs from now on. 0 or a negative errno: the start is refused, with
 *              that errno in the log, and the ring stays stopped (queue_stop and queue_stopped are
 *              not called). Keep what belongs to the ring in vhk_queue_set_priv(); @home takes
 *              watches, timers and pollers of the device
 * @queue_run: home; there may be requests: pop, work, push, flush
 * @queue_stop: home; pop gives nothing more; the ring has stopped when no request is in flight: complete them all
 *              (now or later) and call nothing else. Undo queue_start in queue_stopped.
 * @queue_stopped: home; none is in flight, the ring and its memory go away
 * @save_state: control; all rings have stopped: what a device of the same kind needs to go on elsewhere, beside features,
 *              configuration, rings and memory: *@ret_data is malloc(3)ed and becomes the library's, at most VHK_STATE_MAX bytes.
 *              0 or a negative errno. Once it is there, device state can be moved (vhost-user, "Migrating back-end state")
 * @load_state: control; all rings have stopped: the other's @n bytes, checked before anything is taken over; both or none
 * @reset: control; all rings have stopped: back to the state after attach (RESET_DEVICE, STATUS 0, front-end gone)
 *
 * Groups, NULL for a device that has none of it; a caller of before a group existed has a smaller @size:
 * @shmem: shared memory regions. What was mapped in them is unmapped by the front-end at a reset
 * @objects: shared objects. The front-end forgets them when it goes
 * @net: network cards
 * @crypto: crypto devices
 * @display: graphics cards: what they draw on, see <vhostkit/display.h>
 *
 * @disconnected: control, may be NULL; the front-end has closed its connection, after @reset;
 *              another one may connect. A reset alone does not distinguish a new driver from one
 *              that continues: QEMU sends status 0 whenever its guest is stopped
 */
struct vhk_device_ops {
        size_t size;
        uint32_t virtio_id;
        uint16_t n_queues, queue_size_max;
        uint32_t req_size, config_len;
        enum vhk_threads threads;
        enum vhk_disabled disabled;
        uint64_t features;
        int (*attach)(void *dev, struct vhk_host *host);
        int (*negotiated)(void *dev, uint64_t features);
        int (*get_config)(void *dev, uint32_t off, void *buf, uint32_t n);
        int (*set_config)(void *dev, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from);
        int (*queue_start)(void *dev, struct vhk_queue *q, struct vhk_worker *home);
        void (*queue_run)(void *dev, struct vhk_queue *q);
        void (*queue_stop)(void *dev, struct vhk_queue *q, enum vhk_stop how);
        void (*queue_stopped)(void *dev, struct vhk_queue *q);
        void (*reset)(void *dev);
        int (*save_state)(void *dev, void **ret_data, size_t *ret_n);
        int (*load_state)(void *dev, const void *data, size_t n);
        const struct vhk_shmem_ops *shmem;
        const struct vhk_object_ops *objects;
        const struct vhk_net_ops *net;
        const struct vhk_crypto_ops *crypto;
        const struct vhk_display_ops *display;
        void (*disconnected)(void *dev);
};

/** Most bytes of device state. */
#define VHK_STATE_MAX (16u << 20)

/**
 * vhk_host_config_changed() - the configuration space changed: tell the driver
 *
 * Any thread; never blocks; sent later by control. -EOPNOTSUPP if the front-end did not negotiate it (it will see the
 * new value when it reads).
 */
int vhk_host_config_changed(struct vhk_host *h);

/*
 * What follows may be called on any thread and never blocks; sent by control, in the order of one thread's calls. @done is called once,
 * on the control worker, if the call gave 0: with 0, or -EREMOTEIO (the front-end refused), -ETIMEDOUT (it says nothing), -EPIPE (it
 * has gone), -ENOBUFS (it does not read), -EOPNOTSUPP. Without REPLY_ACK 0 says no more than that the request was sent. The call's own
 * result: 0; -EOPNOTSUPP: no front-end is there that negotiated this; -EINVAL; -ENOMEM; -EMFILE.
 */

typedef void (*vhk_done_fn)(void *arg, int error);
/** @fd: becomes the callee's; -1 with an error */
typedef void (*vhk_fd_fn)(void *arg, int error, int fd);

/** vhk_host_shmem_map() - show @m; the descriptor is duplicated. Another mapping in the way: refused. @done may be NULL */
int vhk_host_shmem_map(struct vhk_host *h, const struct vhk_shmem_map *m, vhk_done_fn done, void *arg);
/** vhk_host_shmem_unmap() - take away what one vhk_host_shmem_map() showed, exactly. @done may be NULL */
int vhk_host_shmem_unmap(struct vhk_host *h, uint8_t id, uint64_t offset, uint64_t len, vhk_done_fn done, void *arg);

/**
 * vhk_host_set_notifier_area() - the driver may kick ring @queue by writing to a page of hardware: [@offset, @offset + page) of @fd
 *
 * The descriptor is duplicated; it replaces a former one. @fd -1 takes it away. Offered by a back-end only when asked for
 * (protocol_offer: HOST_NOTIFIER). @done may be NULL.
 */
int vhk_host_set_notifier_area(struct vhk_host *h, unsigned queue, int fd, uint64_t offset, vhk_done_fn done, void *arg);

/** vhk_host_object_add() - others may ask for @uuid from now on, see vhk_object_ops.get. Taken already: refused. @done may be NULL */
int vhk_host_object_add(struct vhk_host *h, const uint8_t uuid[16], vhk_done_fn done, void *arg);
/** vhk_host_object_remove() - nobody may any more; only of what this device added. @done may be NULL */
int vhk_host_object_remove(struct vhk_host *h, const uint8_t uuid[16], vhk_done_fn done, void *arg);
/** vhk_host_object_lookup() - the descriptor that some device added as @uuid; @done is required */
int vhk_host_object_lookup(struct vhk_host *h, const uint8_t uuid[16], vhk_fd_fn done, void *arg);

#ifdef __cplusplus
}
#endif

#endif
