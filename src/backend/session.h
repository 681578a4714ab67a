/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The back-end from inside: the object, its carrier (who brings the front-end's words: vhost-user, or the kernel through VDUSE), the session as a plain
 * value, the token of an answer that is still due, and what the files of this room call of each other. Everything on the
 * control worker, unless stated.
 *
 * Control never reads or writes guest memory: it only computes addresses in it.
 */
#pragma once

#include <vhostkit/backend.h>

#include "backend/channel.h"
#include "backend/display.h"
#include "backend/vring.h"
#include "base/base.h"
#include "base/error.h"
#include "base/log.h"
#include "base/clock.h"
#include "mem/mem.h"
#include "ring/inflight.h"
#include "ring/ring.h"
#include "ring/state.h"
#include "sock/sock.h"
#include "wire/wire.h"

#define VHK_MAX_RINGS 256u
/*
 * Rings of so many entries are served whatever the device asks for. vhost-user has no message that
 * reports to a front-end the largest ring, and QEMU shows its driver up to so many (10.0: always).
 */
#define VHK_RING_SIZE_SERVED 1024u

/* A translation that a ring waits for. */
struct vhk_ring_miss {
        bool is_due, is_asked;          /* the ring waits for it; the front-end knows */
        uint8_t perm, n_useless;        /* answers that did not help */
        uint64_t iova, deadline;
};

/* What the front-end said of a ring, and its state as control sees it. */
struct vhk_ring_value {
        uint8_t state;                  /* enum vhk_ring_state */
        uint8_t want_perm;              /* of an area, as found out by vhk_ring_resolve() */
        uint64_t want_iova;
        struct vhk_ring_miss miss;
        bool enabled, has_addr, polled;
        bool forget_due;                /* RESET_DEVICE: what was set of it is forgotten when it has stopped, however late */
        uint16_t base;
        int start_error;                /* of the newest start; 0: it runs, or its worker has not reported yet */
        uint32_t num;
        struct vhk_p_vring_addr addr;   /* as it came */
        struct vhk_fdref *kick, *call, *err;
        struct vhk_view *views[3];      /* of its areas that lie in pieces; owned references */
};

/* The in-flight record, of n_rings rings of up to n_entries; mapping NULL: none. A larger ring runs
 * without it. */
struct vhk_inflight_area {
        struct vhk_mapping *mapping;
        uint64_t offset;                /* in it, of the first ring's record */
        uint16_t n_rings, n_entries;
        bool warned;                    /* of a ring that is larger, once in a session */
};

/* All negotiated and ring state of a connection. A fresh one is all zeroes, but for the offers in @wire. */
struct vhk_session {
        struct vhk_wire_state wire;
        uint8_t status;
        bool has_owner;
        uint32_t n_refusals;            /* messages that were answered with a refusal since refusals_since */
        uint64_t refusals_since;
        bool negotiated;                /* the device knows wire.features */
        bool reset_due;                 /* STATUS 0 came while rings ran: the device is reset when they have stopped */
        bool reset_pending;             /* likewise RESET_DEVICE; until then no ring starts */
        struct vhk_memmap *mem;
        struct vhk_memmap *iotlb;       /* translations over mem; NULL: without ACCESS_PLATFORM */
        struct vhk_dirty *log;          /* the newest; NULL: none */
        struct vhk_fdref *log_fd;
        struct vhk_p_log_reply log_said;        /* the answer that is due */
        enum { VHK_POSTCOPY_NONE, VHK_POSTCOPY_ADVISED, VHK_POSTCOPY_LISTENING } postcopy;
        int fault_fd;                   /* while postcopy is not NONE */
        struct vhk_memmap *coming_mem;  /* its acknowledgement is due */
        struct vhk_inflight_area inflight;
        struct vhk_ring_value rings[VHK_MAX_RINGS];
};

/* An answer that is due once rings have done their part. While it is out, no message is read. */
enum vhk_ring_wait { VHK_WAIT_NONE, VHK_WAIT_ADOPTED, VHK_WAIT_SETTLED, VHK_WAIT_STOPPED };

struct vhk_token {
        bool out;
        struct vhk_hdr request;
        const struct vhk_row *row;
        uint64_t deadline;              /* CLOCK_MONOTONIC, ns */
        /* @error 0: the rings are through; -ETIMEDOUT: they were not in time. Answers with vhk_token_answer(). */
        void (*finish)(struct vhk_backend *b, int error);
        unsigned ring;
        uint32_t value;                 /* of a SET_VRING_NUM or SET_VRING_BASE that waits for the ring to stop */
        bool starts;                    /* of a SET_VRING_KICK: the ring was stopped before */
        struct vhk_memmap *old_mem;     /* of a memory change, kept until nobody can look at it; owned */
};

struct vhk_host {
        struct vhk_backend *b;
        bool waits_for_ack;             /* control; of a CONFIG_CHANGE_MSG */
        /* shared (atomic, relaxed: the post orders) */
        bool available, changed;
        uint64_t usable;                /* protocol features, while there is a channel; 0 without one */
        unsigned n_errands;             /* on their way to control */
        struct vhk_post post;
};

/* Device state on its way; all zeroes: none. */
struct vhk_state_transfer {
        bool open, loads;
        int fd;                         /* while open */
        int result;                     /* of the last one: 0, 1 (none yet), negative errno */
        struct vhk_watch *watch;
        uint8_t *data;
        size_t n, at;                   /* bytes in data; LOAD: room, and bytes read */
};

enum vhk_backend_state {
        VHK_BACKEND_WAITING,            /* for a front-end */
        VHK_BACKEND_SERVING,
        VHK_BACKEND_CLOSING,            /* the rings stop; the connection is closed, or will be when they have (stop) */
        VHK_BACKEND_RETIRING,           /* nothing will come any more: the homes say farewell */
        VHK_BACKEND_OVER,               /* ENDED was told */
};

/* Call or error of a ring, by message (inband.c). */
struct vhk_inband {
        struct vhk_backend *b;
        struct vhk_fdref *fd;           /* the ring's; NULL: it has not needed one */
        struct vhk_watch *watch;
        bool waits;                     /* for an answer */
};

/* A carrier. What it shares with the others: rings and their homes, the session's values, the token, the end. */
struct vhk_backend_ops {
        /* Finds the endpoint @spec, or the one that was inherited; sets b->listening */
        int (*open)(struct vhk_backend *b, const char *spec, const struct vhk_backend_options *o, struct vhk_error *ret_e);
        void (*give_back)(struct vhk_backend *b);       /* vhk_backend_open() fails: what was inherited stays the caller's */
        int (*begin)(struct vhk_backend *b, int fd);    /* the session; takes @fd. A negative errno: nothing is left of it */
        void (*close)(struct vhk_backend *b);           /* nothing more is read or answered; may come twice */
        void (*watch)(struct vhk_backend *b);           /* listen to what makes sense now */
        bool (*has_gone)(const struct vhk_backend *b);  /* the front-end, while nothing is read */
        void (*faulted)(struct vhk_backend *b, unsigned i);     /* ring @i broke: is that the end of more than the ring? */
        void (*missed)(struct vhk_backend *b, unsigned i, uint64_t iova, unsigned perm);        /* ring @i needs a translation that is not there */
        void (*stopped)(struct vhk_backend *b);         /* the last ring has stopped: what waited for that is done now */
        /* What an area of a ring needs is not translated: find it out now. 0: there is news, try
         * again; or a refusal. NULL: it is asked for (missed) */
        int (*fetch)(struct vhk_backend *b, uint64_t iova, unsigned perm);
        int (*fill)(struct vhk_backend *b, unsigned i, struct vhk_ring_config *c);      /* the carrier's part of a ring's configuration; or a refusal */
        void (*config_changed)(struct vhk_host *h);     /* of the device: host.changed says so until it was told */
        void (*free)(struct vhk_backend *b);
};
extern const struct vhk_backend_ops vhk_backend_vhost_user, vhk_backend_vduse;

/* The groups of operations of a device, each at the size that is known here. */
struct vhk_device_groups {
        struct vhk_shmem_ops shmem;
        struct vhk_object_ops objects;
        struct vhk_net_ops net;
        struct vhk_crypto_ops crypto;
        struct vhk_display_ops display;
};

struct vhk_backend {
        const struct vhk_backend_ops *carrier;
        struct vhk_backend_options o;
        const struct vhk_device_ops *ops;       /* = &device_ops: groups that the caller does not know are NULL */
        struct vhk_device_ops device_ops;
        struct vhk_device_groups groups;        /* what it points to */
        void *dev;
        uint64_t shmem_sizes[VHK_SHMEM_REGIONS];
        struct vhk_log log, trace;
        struct vhk_log_limit log_limit; /* of log */
        uint64_t limit_ns;
        unsigned n_queues;
        uint16_t queue_size_max;        /* what the device and the options ask for: a hint, where the transport has a way to pass it on */
        uint16_t ring_size_max;         /* most entries of a ring that is served: at least VHK_RING_SIZE_SERVED */

        enum vhk_backend_state state;
        bool listening, served, resting, stopping, stuck;
        struct vhk_listener listener;
        struct vhk_watch *listen_watch;
        struct vhk_conn conn;
        struct vhk_watch *conn_watch;
        struct vhk_timer *timer;        /* begin, rest after a failed accept, token, stop: one at a time */
        uint64_t stop_deadline;

        bool handling;                  /* a message is at its handler: its payload is in use, the connection stays */
        bool failed;                    /* the connection is to be closed, for this reason */
        struct vhk_error failure;
        struct vhk_error story;         /* of the message at hand */
        struct vhk_session session;
        struct vhk_token token;
        struct vhk_vring *rings;
        struct vhk_host host;
        int fault_fd;                   /* for a postcopy that may come; -1 */
        struct vhk_state_transfer state_transfer;
        struct vhk_channel channel;
        struct vhk_display display;
        struct vhk_vduse *vduse;        /* of that carrier */
        struct vhk_inband *inband;      /* two for each ring; NULL: not offered */
        bool inband_blocked;            /* some could not be sent */
        struct vhk_timer *iotlb_timer;  /* of the misses; made with the first one */
        struct vhk_post end_post;

        /* shared (atomic): written by vhk_backend_stop() before its post */
        uint32_t stop_asked;            /* 0, 1: the two below are being written, 2: they are there */
        enum vhk_stop stop_how;
        uint64_t stop_limit;
        struct vhk_post stop_post;
};

/* ---- dispatch.c ---- */

/* One message at its handler. */
struct vhk_call {
        struct vhk_hdr header;
        const struct vhk_row *row;
        int *fds;                       /* what is not taken (set to -1) is closed */
        uint32_t reply_size;            /* of a reply of its own; preset to its struct's size */
        int reply_fd;                   /* goes out with it and is closed; preset to -1 */
};

enum { VHK_CALL_LATER = 1 };            /* the handler took the token */

/* void vhk_on_<NAME>(): 0: acknowledged, or *ret_reply is sent; VHK_CALL_LATER; negative errno, with the reason in b->story. */
#define FRONTEND(id, name, phase, request, fds, fields, gate, reply, ...) \
        int vhk_on_##name(struct vhk_backend *b, const struct vhk_p_##request *p, struct vhk_call *c, struct vhk_p_##reply *ret_reply);
#include "wire/messages.def"

/* The message in b->conn.in is complete. */
void vhk_dispatch(struct vhk_backend *b);
/* Return value of a handler that refuses. */
int vhk_refuse(struct vhk_backend *b, int code, const char *rule, const char *format, ...) VHK_PRINTF(4, 5);
/* Takes the token for the message at hand (@c NULL: the carrier keeps it); @finish is called when all waits of the rings are over. */
int vhk_token_take(struct vhk_backend *b, const struct vhk_call *c, void (*finish)(struct vhk_backend *b, int error));
/* The token's answer: @reply (of @size) for a row with its own reply, else an acknowledgement. */
void vhk_token_answer(struct vhk_backend *b, int error, const void *reply, uint32_t size);
/* Looks whether the rings are through with what the token waits for. */
void vhk_token_check(struct vhk_backend *b);
/* The connection is going away: nobody will be answered. */
void vhk_token_drop(struct vhk_backend *b);

/* ---- session.c ---- */

int vhk_session_begin(struct vhk_backend *b, int fd);   /* takes @fd */
/* Marks the connection as failed; who was called by the loop closes it with vhk_session_check(),
 * which does nothing while a message is being handled. */
void vhk_session_fail(struct vhk_backend *b, int code, const char *rule, const char *format, ...) VHK_PRINTF(4, 5);
void vhk_session_check(struct vhk_backend *b);
/* Stops all rings; the connection is closed at once if @how is ABORT, else when they have stopped. */
void vhk_session_close(struct vhk_backend *b, enum vhk_stop how);
void vhk_session_abandon(struct vhk_backend *b);
void vhk_session_gone(struct vhk_backend *b);           /* the front-end has left in order */
void vhk_session_on_timer(struct vhk_backend *b);
void vhk_session_reported(struct vhk_vring *v);
/* Consumes what the worker of ring @i has reported: a start that failed, a fault, a miss, a stop
 * (with or without a pending reply). */
void vhk_session_collect(struct vhk_backend *b, unsigned i);
/* If that is due and no ring runs, nor still stops. */
void vhk_session_reset_device(struct vhk_backend *b);
/* Tells the device the features in use, if it does not know them. */
int vhk_session_negotiate(struct vhk_backend *b);

/* ---- vhost-user.c ---- */

/* One line of the trace. The arrows are those of front-ends: "->" and "<-" on the main socket, "~>" and "<~" on the channel. */
void vhk_session_trace(struct vhk_backend *b, const char *arrow, const struct vhk_hdr *h, const void *payload, unsigned n_fds);
void vhk_session_send(struct vhk_backend *b, uint32_t request, const void *payload, uint32_t size, int fd);   /* -1: no descriptor */

/* ---- rings.c ---- */

/* The action (enum vhk_ring_action) of @event, and the state that follows is entered; or a refusal. */
int vhk_ring_event(struct vhk_backend *b, unsigned i, enum vhk_ring_event event);
bool vhk_ring_runs(const struct vhk_backend *b, unsigned i);    /* its home has a configuration: RUNNING, BROKEN or DRAINING */
/* Where the ring's areas are in the memory in use, into @ret_c (zeroed; its mem, areas, stalled).
 * 0, also if a translation is missing (stalled; want_iova, want_perm); or a refusal */
int vhk_ring_resolve(struct vhk_backend *b, unsigned i, struct vhk_ring_config *ret_c);
/* Orders to the ring's worker, with the session's values and what vhk_ring_resolve() found. 0, or a
 * negative errno: none was sent */
int vhk_ring_send_start(struct vhk_backend *b, unsigned i, const struct vhk_ring_config *areas);
int vhk_ring_send_update(struct vhk_backend *b, unsigned i, const struct vhk_ring_config *areas);
int vhk_ring_publish(struct vhk_backend *b, unsigned i);        /* both: to a ring that runs */
int vhk_ring_publish_all(struct vhk_backend *b);
void vhk_ring_stop(struct vhk_backend *b, unsigned i, enum vhk_stop how);
void vhk_ring_not_started(struct vhk_backend *b, unsigned i, int error);        /* its worker reported it */
void vhk_ring_stopped(struct vhk_backend *b, unsigned i);       /* likewise */
void vhk_ring_wait(struct vhk_backend *b, unsigned i, enum vhk_ring_wait wait);
bool vhk_ring_waits(struct vhk_backend *b);                     /* does any ring still wait? */
void vhk_ring_forget(struct vhk_ring_value *r);
/* Control has found a reason: the ring is BROKEN. */
void vhk_ring_fail(struct vhk_backend *b, unsigned i, enum vhk_ring_rule rule);
/* May the front-end's @fd be mapped: a file whose file system answers? Without asking it. Or a
 * refusal */
int vhk_memory_check_file(struct vhk_backend *b, int fd);
/* Takes *@fd as a notification descriptor, if it can be one. -EINVAL */
int vhk_ring_take_notifier(struct vhk_backend *b, int *fd, struct vhk_fdref **ret_r);
/* Publishes to all rings that run; the answer to the message at hand, if one is due, waits until
 * all have adopted it. With
 * @defer the next message waits as well, whether an answer is due or not. */
int vhk_ring_publish_and_answer(struct vhk_backend *b, struct vhk_call *c, bool defer);

/* SET_VRING_KICK: starts the ring, or exchanges its kick descriptor; takes @kick, also on failure. NULL: the ring is polled. */
int vhk_ring_start(struct vhk_backend *b, struct vhk_call *c, unsigned i, struct vhk_fdref *kick);

/* ---- inband.c ---- */

int vhk_inband_init(struct vhk_backend *b);             /* -ENOMEM */
void vhk_inband_forget(struct vhk_backend *b);
/* Descriptors of ours for what ring @i has none for, if that was negotiated. 0, or a refusal. */
int vhk_inband_fill(struct vhk_backend *b, unsigned i, struct vhk_ring_config *c);
/* A kick descriptor of ours, if that was negotiated, else NULL. 0, or a refusal. */
int vhk_inband_new_kick(struct vhk_backend *b, unsigned i, struct vhk_fdref **ret_kick);
void vhk_inband_flush(struct vhk_backend *b, unsigned i);       /* the ring has stopped: what it has to say goes out now */
void vhk_inband_resume(struct vhk_backend *b);                  /* the channel has room again, perhaps */

/* ---- handlers-iotlb.c ---- */

/* What rings live on: memory, or translations over it. */
struct vhk_memmap *vhk_session_mem(const struct vhk_backend *b);
/* Before the new features are in use. 0, or a refusal. */
int vhk_iotlb_set_features(struct vhk_backend *b, uint64_t features);
/* session.mem is another one now. -ENOMEM */
int vhk_iotlb_follow_memory(struct vhk_backend *b);
/* Where the used ring is marked. */
void vhk_iotlb_fill_log(const struct vhk_backend *b, struct vhk_ring_config *c);
/* Ring @i needs a translation that is not there. */
void vhk_iotlb_missed(struct vhk_backend *b, unsigned i, uint64_t iova, unsigned perm);
void vhk_iotlb_channel_opened(struct vhk_backend *b);
void vhk_iotlb_on_timer(void *arg);

/* ---- handlers-memory.c ---- */

/* What the message makes of the table. */
int vhk_memory_table(struct vhk_backend *b, const struct vhk_p_mem_regions *p, struct vhk_call *c, struct vhk_memmap **ret_m);
/* Takes @new as the session's memory, also on failure; the message is answered when the rings are through with the old one. */
int vhk_memory_change(struct vhk_backend *b, struct vhk_call *c, struct vhk_memmap *new);

/* ---- handlers-postcopy.c ---- */

bool vhk_postcopy_is_ready(struct vhk_backend *b);
void vhk_postcopy_end(struct vhk_backend *b);           /* whoever waits for a page goes on */

/* ---- handlers-state.c ---- */

void vhk_state_abort(struct vhk_backend *b);            /* a transfer that goes on will not be finished */

/* ---- handlers-log.c ---- */

/* What ring @i marks, into a configuration. */
void vhk_log_fill(const struct vhk_backend *b, unsigned i, struct vhk_ring_config *c);
/* Does the log reach the used ring of @i? 0, or a refusal. */
int vhk_log_check_ring(struct vhk_backend *b, unsigned i);
/* Does it reach the end of a table that is to come? 0 (perhaps without a log from now on), or a refusal. */
int vhk_log_check_memory(struct vhk_backend *b, const struct vhk_memmap *new);

/* ---- handlers-inflight.c ---- */

bool vhk_inflight_has_ring(const struct vhk_backend *b, unsigned i);    /* is ring @i recorded? */
void vhk_inflight_check_ring(struct vhk_backend *b, unsigned i);        /* ring @i starts: warns if it is too large to be recorded */
void vhk_inflight_fill(const struct vhk_backend *b, unsigned i, struct vhk_ring_config *c);
bool vhk_inflight_is_bad(const struct vhk_backend *b);                  /* its file was truncated */
/* What of the requests in flight stands in the record, as the end of a sentence; "" without one. Rings run. */
void vhk_inflight_tell(const struct vhk_backend *b, char *text, size_t room);
void vhk_inflight_forget(struct vhk_backend *b);

/* ---- backend.c ---- */

/* The connection is closed and forgotten: wait for the next, or end. */
void vhk_backend_session_ended(struct vhk_backend *b);
/* What the front-end that comes may choose from. */
void vhk_backend_set_offers(struct vhk_backend *b);
void vhk_backend_retire(struct vhk_backend *b);          /* a ring said farewell */
void vhk_backend_tell(struct vhk_backend *b, enum vhk_backend_event ev, const struct vhk_error *e);

/* ---- host.c ---- */

void vhk_host_init(struct vhk_host *h, struct vhk_backend *b);
int vhk_host_set_channel(struct vhk_host *h, int fd);           /* takes @fd */
void vhk_host_close_channel(struct vhk_host *h);
void vhk_host_update(struct vhk_host *h);                       /* after a negotiation */
void vhk_host_send_change(struct vhk_host *h);                  /* that the configuration changed, if it did */

/* ---- host-requests.c ---- */

int vhk_host_ask_shmem(struct vhk_backend *b, struct vhk_error *ret_e);        /* the device, before attach */
