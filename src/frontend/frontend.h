/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The front-end's one interface and its carriers. frontend.c owns what all carriers share: one call at a time
 * (-EDEADLK from inside callbacks), capabilities, the story of the last failure, the end of the connection told once,
 * events put off until the call is over. A carrier implements struct vhk_frontend_ops and is a row of carriers[].
 */
#pragma once

#include <vhostkit/frontend.h>

#include "base/base.h"
#include "base/error.h"
#include "base/log.h"
#include "frontend/driver.h"

enum vhk_frontend_progress {
        VHK_PROGRESS_IDLE,              /* no request is in flight */
        VHK_PROGRESS_MOVED,             /* requests were done */
        VHK_PROGRESS_STALLED,           /* requests are in flight, and none was done */
};

/* A member may be NULL where the carrier never has the capability that its public call asks for. */
struct vhk_frontend_ops {
        int (*set_features)(struct vhk_frontend *f, uint64_t features);
        int (*set_memory)(struct vhk_frontend *f, struct vhk_memory *m);
        int (*get_config)(struct vhk_frontend *f, uint32_t off, void *ret_buf, uint32_t n);
        int (*set_config)(struct vhk_frontend *f, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from);
        int (*get_status)(struct vhk_frontend *f, uint8_t *ret_status);
        int (*set_status)(struct vhk_frontend *f, uint8_t status);
        int (*reset)(struct vhk_frontend *f);
        int (*start_queue)(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s);
        int (*stop_queue)(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base);
        int (*enable_queue)(struct vhk_frontend *f, unsigned i, int on);
        int (*set_call_fd)(struct vhk_frontend *f, unsigned i, int fd);
        int (*kick_queue)(struct vhk_frontend *f, unsigned i);
        int (*set_vring_endian)(struct vhk_frontend *f, unsigned i, int big);
        int (*send_rarp)(struct vhk_frontend *f, const uint8_t mac[6]);
        int (*set_mtu)(struct vhk_frontend *f, uint16_t mtu);
        int (*crypto_create)(struct vhk_frontend *f, enum vhk_crypto_form form, const void *session, uint64_t *ret_id);
        int (*crypto_close)(struct vhk_frontend *f, uint64_t id);
        int (*get_fd)(struct vhk_frontend *f);
        int (*dispatch)(struct vhk_frontend *f);
        void (*close)(struct vhk_frontend *f);          /* frees @f too */
        int (*set_log)(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size);
        int (*set_log_fd)(struct vhk_frontend *f, int fd);
        int (*postcopy_advise)(struct vhk_frontend *f, int *ret_fd);
        int (*postcopy_listen)(struct vhk_frontend *f);
        int (*postcopy_get_address)(struct vhk_frontend *f, uint64_t gpa, uint64_t *ret_address);
        int (*postcopy_end)(struct vhk_frontend *f);
        int (*save_state)(struct vhk_frontend *f, size_t max, void **ret_data, size_t *ret_n);
        int (*load_state)(struct vhk_frontend *f, const void *data, size_t n);
        int (*log_data)(struct vhk_frontend *f, int on);
        int (*log_queue)(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa);
        int (*get_shmem_config)(struct vhk_frontend *f, uint64_t *ret_sizes);
        void (*gone)(struct vhk_frontend *f);           /* the connection has ended for ever: what the back-end had here goes too; NULL: nothing */
        int (*iotlb_update)(struct vhk_frontend *f, const struct vhk_translation *t);
        int (*iotlb_invalidate)(struct vhk_frontend *f, uint64_t iova, uint64_t len);
        int (*suspend_queue)(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base);
        /* NULL where a back-end cannot be found again. One try, without waiting for somebody to come; -EOPNOTSUPP: there is one, and it
         * will never do. The reason is in f->error. Without @may_wait a peer that is there and does not answer is -EINPROGRESS: the next
         * call of it goes on with the same try */
        int (*reconnect)(struct vhk_frontend *f, bool may_wait);
        void (*disconnect)(struct vhk_frontend *f);     /* what is left of the connection; may come twice */
        /* What the connection that has just been lost achieved in the rings; NULL with reconnect. STALLED: @text, of @n bytes, says at which requests */
        enum vhk_frontend_progress (*get_progress)(struct vhk_frontend *f, char *text, size_t n);
        void (*set_alarm)(struct vhk_frontend *f, uint64_t ns);         /* get_fd becomes readable then; 0: it need not */
        /* ---- the kernel's, of <vhostkit/kernel.h> ---- */
        int (*set_backend)(struct vhk_frontend *f, unsigned i, int fd);
        int (*vsock_set_cid)(struct vhk_frontend *f, uint64_t cid);
        int (*vsock_set_running)(struct vhk_frontend *f, int on);
        int (*scsi_set_endpoint)(struct vhk_frontend *f, const char *wwpn, uint16_t tpgt);
        int (*scsi_clear_endpoint)(struct vhk_frontend *f);
        int (*scsi_get_abi_version)(struct vhk_frontend *f, int *ret_version);
        int (*scsi_set_events_missed)(struct vhk_frontend *f, int on);
        int (*scsi_get_events_missed)(struct vhk_frontend *f, int *ret_on);
        int (*get_queue_group)(struct vhk_frontend *f, unsigned i, uint32_t *ret_group);
        int (*set_group_asid)(struct vhk_frontend *f, uint32_t group, uint32_t asid);
        int (*dma_map)(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len, void *va, uint32_t access);
        int (*dma_unmap)(struct vhk_frontend *f, uint32_t asid, uint64_t iova, uint64_t len);
        int (*dma_begin)(struct vhk_frontend *f, uint32_t asid);
        int (*dma_end)(struct vhk_frontend *f, uint32_t asid);
        int (*suspend)(struct vhk_frontend *f);
        int (*resume)(struct vhk_frontend *f);
        int (*new_worker)(struct vhk_frontend *f, uint32_t *ret_id);
        int (*free_worker)(struct vhk_frontend *f, uint32_t id);
        int (*attach_worker)(struct vhk_frontend *f, unsigned i, uint32_t id);
        int (*get_worker)(struct vhk_frontend *f, unsigned i, uint32_t *ret_id);
        int (*set_busyloop)(struct vhk_frontend *f, unsigned i, uint32_t us);
        int (*get_busyloop)(struct vhk_frontend *f, unsigned i, uint32_t *ret_us);
};

/* The part that all carriers share; the first member of a carrier's own struct. */
struct vhk_frontend {
        const struct vhk_frontend_ops *ops;
        struct vhk_frontend_options options;            /* limits resolved */
        struct vhk_frontend_info info;
        struct vhk_error error;                         /* of the last call that failed */
        bool explained;                                 /* @error is of the call that runs, or of the attempt to open */
        struct vhk_error end;                           /* why the connection ended; code 0: it lives */
        struct vhk_log log, trace;
        struct vhk_log_limit log_limit; /* of log */
        bool busy;                                      /* a call runs: callbacks get -EDEADLK */
        bool close_wanted;                              /* vhk_frontend_close() from inside a callback: done when the call is over */
        bool has_features;                              /* set_features was successful */
        const struct vhk_memory *shared_memory;         /* of the last set_memory that was successful, and its generation */
        uint64_t shared_generation;
        bool config_changed;                            /* an event to be told when the call is over */
        bool has_queue_events;                          /* likewise, of rings: bits 1 << enum vhk_frontend_queue_event */
        uint8_t queue_events[256];
        uint64_t deadline;                              /* of the call at hand, all of it; CLOCK_MONOTONIC */
        bool closing;                                   /* @deadline is that of all calls to come, and no back-end is looked for */
        struct {
                bool searching, hopeless;               /* the connection is lost; for ever */
                bool reconnected;                       /* event: to be told */
                bool answered;                          /* the peer of this try has answered something */
                bool succeeded;                         /* a call did, since it was found */
                uint64_t deadline, next, pause;         /* CLOCK_MONOTONIC; to the next try but one */
                uint64_t since;                         /* when it was found; 0: it is the first */
                unsigned n_losses;                      /* in a row, without anything achieved in between */
        } again;
};

/* ---- frontend.c: the bracket of every public call ---- */

int vhk_frontend_enter(struct vhk_frontend *f);
int vhk_frontend_leave(struct vhk_frontend *f, int k);          /* returns @k, events told */
/* Returns @ret; a failure that has no error message of its own (memory ran out deep inside, say) gets one. */
int vhk_frontend_explain(struct vhk_frontend *f, int ret);
/* 0, or the answer to a call that this carrier or back-end has no means for. */
int vhk_frontend_lacks(struct vhk_frontend *f, uint32_t capability, const char *what);
/* Is there a connection, perhaps again? */
int vhk_frontend_need(struct vhk_frontend *f);
/* A call that failed because the connection was lost is made again on the next one: it asks for a state, not for a change. */
bool vhk_frontend_was_cut_short(const struct vhk_frontend *f, int k);

#define VHK_FRONTEND_CALL(f, capability, what, call)                    \
        do {                                                            \
                int k_ = vhk_frontend_enter(f);                         \
                if (k_ < 0)                                             \
                        return k_;                                      \
                k_ = vhk_frontend_lacks(f, capability, what);           \
                if (k_ < 0)                                             \
                        return vhk_frontend_leave(f, k_);               \
                do {                                                    \
                        k_ = vhk_frontend_need(f);                      \
                        k_ = k_ < 0 ? k_ : (call);                      \
                } while (vhk_frontend_was_cut_short(f, k_));            \
                (f)->again.succeeded |= k_ >= 0;                        \
                return vhk_frontend_leave(f, k_);                       \
        } while (0)

/* A ring's base as one word: what the wire and the kernel agree on. @features in use say if rings are packed. */
uint32_t vhk_frontend_encode_base(uint64_t features, const struct vhk_ring_base *b);
struct vhk_ring_base vhk_frontend_decode_base(uint64_t features, uint32_t num);

/* Where the three areas of a ring are (virtio 1.3, 2.7 and 2.8) for whom @find translates guest addresses; each must lie in one lent
 * region: -EFAULT. With ACCESS_PLATFORM among @features they are I/O addresses, and stay what they are. */
struct vhk_frontend_areas {
        uint64_t desc, driver, device;
};
typedef int (*vhk_frontend_find_fn)(void *arg, uint64_t gpa, uint64_t len, uint64_t *ret_address);
int vhk_frontend_find_areas(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s, uint64_t features, vhk_frontend_find_fn find, void *arg,
                            struct vhk_frontend_areas *ret_a);

struct stat;
/* Region @i of what is to be lent, and the file behind it (@ret_st may be NULL). 0, or the call's story. */
int vhk_frontend_get_region(struct vhk_frontend *f, const struct vhk_memory *m, unsigned i, struct vhk_region *ret_r, struct stat *ret_st);

/* ---- again.c ---- */

/* The connection has ended, not for ever. One try, if it is time: 0: it is back; -EAGAIN; -EPIPE: it has ended for ever */
int vhk_frontend_try_again(struct vhk_frontend *f, bool may_wait);
/* ... as many as fit into the time limit of the call; then -ETIMEDOUT */
int vhk_frontend_wait_again(struct vhk_frontend *f);

/* @spec is NULL with an inherited descriptor. */
struct vhk_frontend_carrier {
        const char *prefix;
        int (*open)(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e);
};
int vhk_vhost_user_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e);
int vhk_vhost_net_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e);
int vhk_vhost_vsock_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e);
int vhk_vhost_scsi_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e);
int vhk_vhost_vdpa_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e);

/* vhk_frontend_fail(), for a translation that cannot be set. */
int vhk_frontend_fail_translation(struct vhk_frontend *f, int code, const struct vhk_translation *t);
/* The connection has ended: keeps the story for this call and all later ones, returns @code. The first end counts. */
int vhk_frontend_end(struct vhk_frontend *f, int code, const char *rule, const char *format, ...) VHK_PRINTF(4, 5);
