/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A virtio device, in virtio's words only: the same one is served over vhost-user, later over VDUSE. What the device
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

/**
 * struct vhk_device_ops - a device
 * @size: sizeof(struct vhk_device_ops) of the caller
 * @virtio_id: virtio device id (virtio 1.3, 5)
 * @n_queues: most rings it has (1-256)
 * @queue_size_max: largest ring it serves, a power of two, at most 32768
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
 * @queue_start: home; the ring runs from now on. 0 or a negative errno (then the ring is broken). Keep what belongs to
 *              the ring in vhk_queue_set_priv(); @home takes watches, timers and pollers of the device
 * @queue_run: home; there may be requests: pop, work, push, flush
 * @queue_stop: home; pop gives nothing more; the ring has stopped when no request is in flight: complete them all
 *              (now or later) and call nothing else. Undo queue_start in queue_stopped.
 * @queue_stopped: home; none is in flight, the ring and its memory go away
 * @reset: control; all rings have stopped: back to the state after attach (RESET_DEVICE, STATUS 0, front-end gone)
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
};

/**
 * vhk_host_config_changed() - the configuration space changed: tell the driver
 *
 * Any thread; never blocks; sent later by control. -EOPNOTSUPP if the front-end did not negotiate it (it will see the
 * new value when it reads).
 */
int vhk_host_config_changed(struct vhk_host *h);

#ifdef __cplusplus
}
#endif

#endif
