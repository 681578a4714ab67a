/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The front-end end: one interface for whoever owns guest memory and rings and lends them to a back-end. An object
 * belongs to one thread at a time. Every call has a time limit and serves the back-end's own requests while it waits;
 * callbacks may not call back in (-EDEADLK), but may close (vhk_frontend_close()).
 *
 * A back-end gets the descriptors of the memory, and can truncate a file that is not sealed against
 * shrinking (F_SEAL_SHRINK); the next access of the front-end raises SIGBUS then. Memory of
 * vhk_memory_alloc() is sealed. A program whose own memory (vhk_memory_add()) is not sealed handles
 * SIGBUS itself: vhk_sigbus_install() is for memory that the library maps.
 */
#ifndef VHOSTKIT_FRONTEND_H
#define VHOSTKIT_FRONTEND_H

#include <stddef.h>
#include <stdint.h>

#include <vhostkit/backend.h>   /* enum vhk_socket_mode */
#include <vhostkit/error.h>
#include <vhostkit/memory.h>
#include <vhostkit/objects.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vhk_frontend;
struct vhk_frontend_display;

enum vhk_frontend_event {
        VHK_FRONTEND_CONFIG_CHANGED,    /* read the configuration again */
        VHK_FRONTEND_GONE,              /* the back-end closed the connection, or broke the protocol */
        VHK_FRONTEND_RECONNECTED,       /* it had gone, and one is there again that goes on where it was */
};
/** What a ring says in-band, for want of a descriptor: it has used something; it is broken. Several may come as one. */
enum vhk_frontend_queue_event { VHK_FRONTEND_QUEUE_CALLED, VHK_FRONTEND_QUEUE_BROKEN };
typedef void (*vhk_frontend_queue_fn)(void *arg, unsigned queue, enum vhk_frontend_queue_event ev);
/**
 * vhk_frontend_notifier_fn - kicks of ring @queue may go to [@offset, @offset + page) of @fd, which stays the front-end's: map it for
 * the driver in place of what was there. @fd -1: take it away (the device asks for it, was reset, or has gone). 0, or a negative
 * errno: the device is told no, and nothing is mapped. Called from inside of front-end calls
 */
typedef int (*vhk_frontend_notifier_fn)(void *arg, unsigned queue, int fd, uint64_t offset);
typedef void (*vhk_frontend_event_fn)(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e);

/**
 * struct vhk_frontend_shmem - who shows what the device maps into its shared memory regions; set @size
 * @map: make [@m->offset, @m->offset + @m->len) of region @m->id show @m->fd (which stays the front-end's). 0, or a negative errno: the
 *       device is refused. Bounds, alignment, overlap and the descriptor's size were checked; the device may still truncate
 *       the file later (then an access is a SIGBUS)
 * @unmap: undo one @map: the device asks for it, was reset, or has gone
 *
 * Called from inside of front-end calls, on their thread.
 */
struct vhk_frontend_shmem {
        size_t size;
        int (*map)(void *arg, const struct vhk_shmem_map *m);
        void (*unmap)(void *arg, const struct vhk_shmem_map *m);
        void *arg;
};
#define VHK_SHMEM_MAPPINGS 1024u        /* most mappings of a device at a time */

/** How memory is accessed: struct vhk_translation.access */
#define VHK_ACCESS_READ         1u
#define VHK_ACCESS_WRITE        2u
#define VHK_ACCESS_BOTH         3u

/**
 * struct vhk_translation - what I/O addresses mean; set @size
 * @iova, @len: I/O addresses
 * @gpa: guest address that @iova is; all of it in one lent region
 * @access: VHK_ACCESS_*
 */
struct vhk_translation {
        size_t size;
        uint64_t iova, len, gpa;
        uint32_t access;
};
/**
 * vhk_frontend_miss_fn - what is @iova? Any range around it may be told. 0; or a negative errno: nothing that may be accessed
 * like that (@access); the ring that asked for it breaks (of a kernel's device: it waits until vhk_frontend_iotlb_update())
 */
typedef int (*vhk_frontend_miss_fn)(void *arg, uint64_t iova, uint32_t access, struct vhk_translation *ret_t);

/**
 * struct vhk_frontend_options - zero it, set @size
 * @has_fd, @fd: an inherited descriptor instead of a path: a socket, listening or connected, or what a kernel's node was opened as;
 *               becomes the front-end's when vhk_frontend_open() returns 0, and stays the caller's
 *               when it fails
 * @mode: with a path: who calls whom
 * @virtio_id: device type, where the carrier does not tell (vhost-user does not); 0 unknown
 * @connect_ns: keep trying to connect (or wait for a connection) so long; 0: one try (listening: 30 s)
 * @limit_ns: time limit of one call, of all that it does: a reconnection that it waits for too; 0:
 *            30 s
 * @on_queue: in-band notifications are wanted (VHK_CAP_INBAND): rings may be started without descriptors. Called as other events are, with
 *            @event_arg. NULL: they are not
 * @on_notifier: the device may have rings kicked by a page of hardware; with @event_arg. NULL: it may not
 * @protocol_no_offer: protocol feature bits (vhost-vdpa: backend feature bits) not to take though both sides could
 * @reconnect_ns: a back-end that went away is looked for again for so long, and receives all that
 *                was set: features, status, MTU, what was written to the configuration, log,
 *                memory, rings, and which requests were in flight; 0: its end is the end. The
 *                memory that was shared and the descriptors of rings must stay until the front-end
 *                is closed. With an inherited connected descriptor it is of no use. The search ends
 *                for good when the connection was lost 8 times in a row with nothing achieved in
 *                between (error id "frontend.keeps-dying", and the message or request that it
 *                happened at)
 * @shmem: shared memory regions are wanted; copied. NULL: they are not
 * @iommu: ACCESS_PLATFORM may be taken, where it is offered (VHK_CAP_IOMMU): then all addresses in rings and requests, those of
 *         struct vhk_ring_setup too, are I/O addresses
 * @on_miss: says what the back-end asks for, from inside of any call; NULL: each guest address is its own I/O address,
 *           and that is told without being asked
 * @protocol_offer: protocol features to take that are not taken by default; of these there is XEN_MMAP (bit 17): regions are described in
 *                  its longer form, as plain memory; it excludes postcopy
 * @objects: a table of <vhostkit/objects.h>, where the device may share its objects and find others'. NULL: it may not
 * @display: shows what a graphics card draws, see <vhostkit/display.h>; copied. NULL: nothing is shown
 */
struct vhk_frontend_options {
        size_t size;
        int has_fd, fd;
        enum vhk_socket_mode mode;
        uint32_t virtio_id;
        uint64_t connect_ns, limit_ns;
        uint64_t protocol_no_offer;
        vhk_frontend_queue_fn on_queue;
        vhk_frontend_notifier_fn on_notifier;
        vhk_frontend_event_fn on_event;
        void *event_arg;
        vhk_log_fn log;
        void *log_arg;
        vhk_log_fn trace;
        void *trace_arg;
        uint64_t reconnect_ns;
        const struct vhk_frontend_shmem *shmem;
        int iommu;
        vhk_frontend_miss_fn on_miss;
        void *miss_arg;
        struct vhk_objects *objects;
        uint64_t protocol_offer;
        const struct vhk_frontend_display *display;
};

/**
 * vhk_frontend_open() - find the back-end and negotiate protocol features
 * @spec: "vhost-user:PATH" or a bare PATH; "vhost-net:[NODE]", "vhost-vsock:[NODE]", "vhost-scsi:[NODE]": a device of the kernel's,
 *        /dev/vhost-net and so on if NODE is left out; "vhost-vdpa:NODE", or the N of /dev/vhost-vdpa-N, or the vDPA device's name.
 *        With an inherited descriptor what that is, "vhost-net:", and nothing behind the colon; NULL: a vhost-user socket
 *
 * Return: 0; -ENOENT, -ECONNREFUSED, -EACCES, -ENAMETOOLONG ... ; -ETIMEDOUT (someone accepts but does not answer: most likely busy
 * with another front-end); -EPROTO (not a vhost-user back-end, not a vhost device); -ENODEV (a node without its module), with the story
 * in @ret_e.
 */
int vhk_frontend_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e);

/**
 * vhk_frontend_prepare_close() - the calls to come are on the way to vhk_frontend_close()
 *
 * From now on all calls together, vhk_frontend_close() with them, take limit_ns at most, and none
 * looks for a back-end that has gone (-EPIPE at once). For callers who stop rings or set the status
 * before they close. Same thread as the other calls.
 *
 * Return: 0; -EDEADLK from inside of a callback.
 */
int vhk_frontend_prepare_close(struct vhk_frontend *f);
/**
 * vhk_frontend_close() - stop what runs, and close
 *
 * Takes limit_ns at most, for all rings together, and does not wait for a back-end that has gone.
 * NULL is legal, and comes back. From inside of a callback, too (those of a display as well): then
 * no event is reported any more, and the front-end is closed when the call that runs is over.
 */
struct vhk_frontend *vhk_frontend_close(struct vhk_frontend *f);

/** What a carrier can do: struct vhk_frontend_info.capabilities; without one, its calls answer -EOPNOTSUPP. */
#define VHK_CAP_CONFIG          (1u << 0)       /* get_config, set_config */
#define VHK_CAP_CONFIG_CHANGED  (1u << 1)       /* VHK_FRONTEND_CONFIG_CHANGED comes */
#define VHK_CAP_STATUS          (1u << 2)       /* get_status, set_status */
#define VHK_CAP_RESET           (1u << 3)       /* reset */
#define VHK_CAP_ENABLE          (1u << 4)       /* enable_queue */
#define VHK_CAP_INBAND          (1u << 14)      /* kick_queue, and on_queue is called */
#define VHK_CAP_ENDIAN          (1u << 15)      /* set_vring_endian */
#define VHK_CAP_RARP            (1u << 16)      /* send_rarp */
#define VHK_CAP_MTU             (1u << 17)      /* set_mtu, if VIRTIO_NET_F_MTU is offered */
#define VHK_CAP_CRYPTO          (1u << 18)      /* crypto_create, crypto_close */
#define VHK_CAP_MEM_SLOTS       (1u << 5)       /* a memory change costs what changed */
#define VHK_CAP_SUSPEND         (1u << 7)       /* suspend_queue */
#define VHK_CAP_LOG             (1u << 8)       /* the dirty log of <vhostkit/migration.h> */
#define VHK_CAP_POSTCOPY        (1u << 9)       /* postcopy, of <vhostkit/migration.h>; never together with VHK_CAP_MEM_SLOTS */
#define VHK_CAP_STATE           (1u << 10)      /* device state, of <vhostkit/migration.h> */
#define VHK_CAP_DISPLAY         (1u << 11)      /* what the device draws is shown */
#define VHK_CAP_SHMEM           (1u << 12)      /* get_shmem_config, and the device may map */
#define VHK_CAP_IOMMU           (1u << 13)      /* iotlb_update, iotlb_invalidate, once ACCESS_PLATFORM was set */
#define VHK_CAP_ACK             (1u << 6)       /* refusals of the back-end are seen at the call that caused them */
/* ... of the kernel's devices, with the calls of <vhostkit/kernel.h> */
#define VHK_CAP_BACKEND_FD      (1u << 19)      /* set_backend */
#define VHK_CAP_VSOCK           (1u << 20)      /* vsock_set_cid, vsock_set_running */
#define VHK_CAP_SCSI            (1u << 21)      /* scsi_set_endpoint, scsi_clear_endpoint ... */
#define VHK_CAP_GROUPS          (1u << 22)      /* get_queue_group, set_group_asid */
#define VHK_CAP_DMA             (1u << 23)      /* dma_map, dma_unmap, dma_begin, dma_end */
#define VHK_CAP_DEVICE_SUSPEND  (1u << 24)      /* suspend */
#define VHK_CAP_DEVICE_RESUME   (1u << 25)      /* resume */
#define VHK_CAP_WORKERS         (1u << 26)      /* new_worker, free_worker, attach_worker, get_worker */
#define VHK_CAP_BUSYLOOP        (1u << 27)      /* set_busyloop, get_busyloop */

/**
 * struct vhk_frontend_info - what is known of the back-end; set @size first
 * @features: virtio feature bits on offer (transport bits that the carrier keeps to itself are cleared)
 * @acked: virtio features as set
 * @carrier_features: vhost-user: protocol features on offer; the kernel: its backend features
 * @carrier_acked: those in use
 * @n_queues: most rings (1 where the back-end does not tell)
 * @mem_slots: most memory regions
 * @iova_first, @iova_last: what may be an I/O address
 * @config_size: bytes of the configuration space, 0 unknown
 * @queue_size_max: most entries of a ring, 0 unknown
 * @n_groups, @n_address_spaces: of rings (VHK_CAP_GROUPS), 0 where there are none
 */
struct vhk_frontend_info {
        size_t size;
        uint32_t capabilities, virtio_id;
        uint64_t features, acked, carrier_features, carrier_acked;
        uint32_t n_queues, mem_slots;
        uint64_t iova_first, iova_last;
        uint32_t config_size, queue_size_max, n_groups, n_address_spaces;
};
int vhk_frontend_get_info(struct vhk_frontend *f, struct vhk_frontend_info *ret_i);
/** vhk_frontend_get_error() - the story of the last call that failed, or of the end of the connection; never NULL */
const struct vhk_error *vhk_frontend_get_error(struct vhk_frontend *f);

/** vhk_frontend_set_features() - the driver's choice; -EINVAL for a bit that was not offered */
int vhk_frontend_set_features(struct vhk_frontend *f, uint64_t features);
/** vhk_frontend_set_memory() - lend @m, or what changed in it since the last call; only the difference is sent where slots were negotiated */
int vhk_frontend_set_memory(struct vhk_frontend *f, struct vhk_memory *m);
int vhk_frontend_get_config(struct vhk_frontend *f, uint32_t off, void *ret_buf, uint32_t n);
int vhk_frontend_set_config(struct vhk_frontend *f, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from);
int vhk_frontend_get_status(struct vhk_frontend *f, uint8_t *ret_status);
/**
 * vhk_frontend_set_status() - set the device status; 0 resets the device
 *
 * A reset means the same with every transport, and the same as vhk_frontend_reset(): no ring runs,
 * nothing is in flight any more (what vhk_frontend_suspend_queue() left undone neither), what was
 * written to the configuration is void, pages for kicks and mappings of the device are taken back
 * (on_notifier with -1, unmap).
 */
int vhk_frontend_set_status(struct vhk_frontend *f, uint8_t status);
/** vhk_frontend_reset() - reset the device, see vhk_frontend_set_status() */
int vhk_frontend_reset(struct vhk_frontend *f);
/** vhk_frontend_get_shmem_config() - length of each shared memory region of the device, 0 for those that it has not. Their number */
int vhk_frontend_get_shmem_config(struct vhk_frontend *f, uint64_t ret_sizes[VHK_SHMEM_REGIONS]);

/**
 * struct vhk_ring_base - where a ring stands; the wrap counters are for packed rings (fresh: 1). It
 * has no size: this is all that virtio has of it
 * @reserved: 0
 */
struct vhk_ring_base {
        uint16_t avail, used;
        uint8_t avail_wrap, used_wrap;
        uint8_t reserved[2];
};

/**
 * struct vhk_ring_setup - a ring as the driver sees it; set @size
 * @num: entries
 * @desc, @driver, @device: guest addresses of descriptor table, available ring, used ring
 * @kick_fd, @call_fd, @err_fd: eventfds, -1 none; stay the caller's
 */
struct vhk_ring_setup {
        size_t size;
        uint16_t num;
        uint64_t desc, driver, device;
        struct vhk_ring_base base;
        int kick_fd, call_fd, err_fd;
};
/** vhk_frontend_start_queue() - start ring @i. When it fails the ring is stopped; -EBUSY: it runs
 * already */
int vhk_frontend_start_queue(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s);
int vhk_frontend_stop_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base);
/**
 * vhk_frontend_suspend_queue() - stop a ring without waiting for its requests: they stay in the in-flight record and are
 * done when it is started again, at the base that is told
 */
int vhk_frontend_suspend_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base);
int vhk_frontend_enable_queue(struct vhk_frontend *f, unsigned i, int on);
/** vhk_frontend_set_call_fd() - exchange the call descriptor of a ring, running or not; -1: none */
int vhk_frontend_set_call_fd(struct vhk_frontend *f, unsigned i, int fd);

/** vhk_frontend_iotlb_update() - a translation that nobody asked for, or a better one; -EINVAL, -EFAULT (not in one lent region) */
int vhk_frontend_iotlb_update(struct vhk_frontend *f, const struct vhk_translation *t);
/** vhk_frontend_iotlb_invalidate() - what is known of [@iova, @iova + @len) is over, everything if @len is 0. When it returns 0 no request uses it any more */
int vhk_frontend_iotlb_invalidate(struct vhk_frontend *f, uint64_t iova, uint64_t len);

/** vhk_frontend_kick_queue() - an in-band kick; it also starts a ring that was set up and stopped since */
int vhk_frontend_kick_queue(struct vhk_frontend *f, unsigned i);
/** vhk_frontend_set_vring_endian() - once, before the ring starts, for a legacy driver; 1: big endian. Back-ends of virtio 1 refuse that */
int vhk_frontend_set_vring_endian(struct vhk_frontend *f, unsigned i, int big);

/** vhk_frontend_send_rarp() - a guest with this address has moved to where the back-end is */
int vhk_frontend_send_rarp(struct vhk_frontend *f, const uint8_t mac[6]);
/** vhk_frontend_set_mtu() - 68 to 65535 */
int vhk_frontend_set_mtu(struct vhk_frontend *f, uint16_t mtu);
/** vhk_frontend_crypto_create() - @session is of @form, 632 or 1072 bytes; -EREMOTEIO: refused */
int vhk_frontend_crypto_create(struct vhk_frontend *f, enum vhk_crypto_form form, const void *session, uint64_t *ret_id);
int vhk_frontend_crypto_close(struct vhk_frontend *f, uint64_t id);

/** vhk_frontend_get_fd() - readable when vhk_frontend_dispatch() has something to do (an epoll set of its own) */
int vhk_frontend_get_fd(struct vhk_frontend *f);
/**
 * vhk_frontend_dispatch() - serve the back-end's requests that are there; never waits for a reply
 *
 * Translations that it answers and objects that it asks for are acknowledged later, to a later
 * call. With reconnect_ns it makes the next step of a reconnection: a peer that does not answer is
 * not waited for; one that does is sent everything at once, which takes as long as it needs for
 * that, at most limit_ns.
 *
 * Return: number handled, or a negative errno.
 */
int vhk_frontend_dispatch(struct vhk_frontend *f);

/** vhk_feature_name() - name of virtio feature bit @bit of device type @virtio_id (0: ring and transport bits only), or NULL */
const char *vhk_feature_name(uint32_t virtio_id, unsigned bit);
/** vhk_protocol_feature_name() - name of a vhost-user protocol feature bit, or NULL */
const char *vhk_protocol_feature_name(unsigned bit);
/** vhk_device_name() - "block", "net" ... of a virtio device id, or NULL */
const char *vhk_device_name(uint32_t virtio_id);

#ifdef __cplusplus
}
#endif

#endif
