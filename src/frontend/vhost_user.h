/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The vhost-user carrier of a front-end, in three files: call.c talks, table.c lends memory, vhost_user.c does the rest. */
#pragma once

#include <vhostkit/display.h>

#include "frontend/frontend.h"
#include "sock/sock.h"
#include "wire/gpu.h"
#include "wire/wire.h"

/* A region as the back-end knows it. */
struct vhk_lent {
        uint64_t gpa, uva, len, fd_offset;
        uint64_t dev, ino;              /* the file, for a descriptor's number may come again */
        uint64_t theirs;                /* the back-end's address of it, under postcopy */
};

/* A front-end in a table of shared objects, and the lookup of its back-end, one at a time (objects.c). */
struct vhk_vu_objects {
        struct vhk_objects *table;      /* NULL: in none */
        int ask_bell, answer_bell;      /* rung by others; in the epoll set. -1: none */
        bool waits;                     /* a lookup is unanswered: the channel is not read */
        uint64_t deadline;              /* of that, CLOCK_MONOTONIC */
        /* ---- guarded by the table's lock ---- */
        struct vhk_vu_objects *next, *owner;
        unsigned n_added;
        enum { VHK_LOOKUP_NONE, VHK_LOOKUP_ASKED, VHK_LOOKUP_TAKEN, VHK_LOOKUP_DONE } state;
        uint64_t ticket;
        uint8_t uuid[16];
        int fd;                         /* the answer; -1: not found */
};

/* Shared memory regions and what is mapped in them (shmem.c). */
struct vhk_vu_shmem {
        struct vhk_frontend_shmem callbacks;    /* size 0: regions are not wanted */
        uint32_t n_regions;
        uint64_t sizes[VHK_SHMEM_REGIONS];
        struct vhk_shmem_map mappings[VHK_SHMEM_MAPPINGS];      /* in no order; fd -1 */
        unsigned n;
};

/* What the device draws on (display.c). */
struct vhk_vu_display {
        struct vhk_frontend_display callbacks;  /* size 0: nothing is shown */
        struct vhk_conn conn;                   /* fd -1: none */
        bool is_shown;                          /* the caller will be told the end */
        struct vhk_gpu_state state;
        struct vhk_vu_scanout {
                uint32_t width, height;
                bool is_dmabuf;
        } scanouts[VHK_GPU_SCANOUTS];
};

#define VHK_VU_TRANSLATIONS 256u        /* as many as rings: each waits for one at most */
#define VHK_VU_POSTED 64u

/* A request whose reply is taken when it comes, see vhk_vu_post(). */
struct vhk_vu_posted {
        struct vhk_hdr header;
        const struct vhk_row *row;
        uint64_t deadline;              /* CLOCK_MONOTONIC */
        uint64_t ticket;                /* GET_SHARED_OBJECT: whose lookup it is */
};

/*
 * All that was set through the front-end, and nothing else: what another back-end receives after a
 * reconnection, in the order of replay() in reconnect.c. A device reset takes back what the
 * comments say.
 */
struct vhk_vu_settings {
        uint64_t protocol;
        uint64_t features;              /* as sent; LOG_ALL follows @logs_data */
        bool logs_data;
        bool has_status;
        uint8_t status;                 /* until a reset */
        uint16_t mtu;                   /* 0: not set */
        uint8_t config[VHK_MAX_CONFIG];         /* bytes that were written ... */
        uint8_t config_from[VHK_MAX_CONFIG];    /* ... until a reset: 1 + enum vhk_config_origin; 0: not written */
        unsigned n_crypto_sessions;     /* until a reset; another back-end cannot have them */
        struct vhk_memory *memory;      /* the caller's */
        int log_fd;                     /* of the dirty log: our duplicate; -1: none */
        uint64_t log_offset, log_size;
        int log_event_fd;               /* SET_LOG_FD: our duplicate; -1: none */
        int record_fd;                  /* of the in-flight record, until a reset; -1: none */
        struct vhk_p_inflight record;
        struct vhk_vu_ring {
                struct vhk_ring_setup setup;
                struct vhk_p_vring_addr addr;
                uint16_t replayed;      /* used index that this connection began with */
                bool wanted, disabled;  /* until a reset */
                uint8_t endian;         /* 1 + the value of SET_VRING_ENDIAN; 0: not sent */
        } rings[256];
};

struct vhk_vhost_user {
        struct vhk_frontend f;
        char name[112];                 /* the endpoint, for stories */
        struct vhk_conn conn;           /* our requests */
        struct vhk_conn channel;        /* the back-end's requests; fd -1: none */
        struct vhk_wire_state state;
        int epoll_fd;                   /* both sockets, for vhk_frontend_get_fd() */
        bool answered;                  /* it has answered once: then it is a vhost-user back-end */
        bool started[256];              /* rings of this connection */
        bool has_notifier[256];         /* the caller maps a page for its kicks */
        /* ---- for another back-end (reconnect.c) ---- */
        char *spec;                     /* NULL: an inherited connection */
        struct vhk_listener listener;   /* stays open if we listen and would reconnect; fd -1: none */
        int timer_fd;                   /* the next try; in the epoll set; -1: none */
        uint64_t retry_at;              /* CLOCK_MONOTONIC; UINT64_MAX: no try is due */
        bool probing;                   /* connected again: the reply to the first request is awaited, by dispatch without waiting */
        struct vhk_vu_settings set;
        struct vhk_lent *lent;          /* in order of gpa */
        struct vhk_p_iotlb translations[VHK_VU_TRANSLATIONS];   /* that were missed, to be sent when the call at hand is over */
        unsigned n_translations;
        struct vhk_vu_posted posted[VHK_VU_POSTED];             /* in order of their replies */
        unsigned n_posted;
        unsigned n_lent;
        struct vhk_vu_shmem shmem;
        struct vhk_vu_objects objects;
        struct vhk_vu_display display;
};

static inline bool vhk_vu_has(const struct vhk_vhost_user *u, unsigned protocol_bit) {
        return u->state.protocol & VHK_BIT(protocol_bit);
}

/* ---- call.c ---- */

struct vhk_vu_call {
        enum vhk_msg_id id;
        const void *payload;
        uint32_t size;
        const int *fds;
        unsigned n_fds;
        int *ret_fd;                    /* the answer's descriptor, if it has one; NULL: it is closed */
};
/* One request and its answer, serving the back-end's channel meanwhile. Every message is held against its row before it is
 * sent; it is acknowledged where that was negotiated. 0 with *ret_size bytes in *ret_reply (both may be NULL);
 * -EREMOTEIO refused; -EINVAL, -EOPNOTSUPP not sent; anything else is the end of the connection. */
int vhk_vu_call(struct vhk_vhost_user *u, const struct vhk_vu_call *c, union vhk_p_any *ret_reply, uint32_t *ret_size);
int vhk_vu_call_u64(struct vhk_vhost_user *u, enum vhk_msg_id id, uint64_t value);
int vhk_vu_call_state(struct vhk_vhost_user *u, enum vhk_msg_id id, uint32_t index, uint32_t num);
int vhk_vu_get_u64(struct vhk_vhost_user *u, enum vhk_msg_id id, uint64_t *ret_value);
/* The back-end has done all that was sent so far: without REPLY_ACK only an answer to something else tells. */
int vhk_vu_settle(struct vhk_vhost_user *u);
/* Requests on the channel that are there. Number, or a negative errno: the connection has ended. */
int vhk_vu_serve(struct vhk_vhost_user *u);
/* Send a request without waiting: its reply is taken when it comes, in order, by the next call or
 * dispatch. -EAGAIN: VHK_VU_POSTED are unanswered; otherwise as vhk_vu_call(). One that is not
 * answered within limit_ns ends the connection. */
int vhk_vu_post(struct vhk_vhost_user *u, const struct vhk_vu_call *c, uint64_t ticket);
/* Take the replies of posted requests that are there; where none is due, a message or an end of the
 * connection is one.
 * 0, or a negative errno: the connection has ended. Never waits. */
int vhk_vu_take_replies(struct vhk_vhost_user *u);
/* Wait until no posted request is unanswered, at most until the call's deadline. */
int vhk_vu_await_replies(struct vhk_vhost_user *u);
/* The front-end's descriptor becomes readable when the next time limit or try is due. */
void vhk_vu_arm_timer(struct vhk_vhost_user *u);

/* ---- vhost_user.c, for reconnect.c ---- */

/* A connected socket; @again: without waiting for anybody. */
int vhk_vu_find_endpoint(struct vhk_vhost_user *u, const char *spec, bool again, int *ret_fd, struct vhk_error *ret_e);
int vhk_vu_attach(struct vhk_vhost_user *u, int fd);            /* takes @fd */
int vhk_vu_handshake(struct vhk_vhost_user *u);                 /* after GET_FEATURES */
int vhk_vu_send_ring(struct vhk_vhost_user *u, unsigned i, const struct vhk_ring_setup *s, const struct vhk_p_vring_addr *addr, bool enable);
int vhk_vu_send_config(struct vhk_vhost_user *u, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from);

void vhk_vu_gone(struct vhk_frontend *f);

/* ---- class.c ---- */

int vhk_vu_kick_queue(struct vhk_frontend *f, unsigned i);
int vhk_vu_set_vring_endian(struct vhk_frontend *f, unsigned i, int big);
int vhk_vu_send_rarp(struct vhk_frontend *f, const uint8_t mac[6]);
int vhk_vu_set_mtu(struct vhk_frontend *f, uint16_t mtu);
int vhk_vu_crypto_create(struct vhk_frontend *f, enum vhk_crypto_form form, const void *session, uint64_t *ret_id);
int vhk_vu_crypto_close(struct vhk_frontend *f, uint64_t id);
/* The back-end asks for it. */
int vhk_vu_set_notifier(struct vhk_vhost_user *u, const struct vhk_p_vring_area *p, int fd, struct vhk_error *ret_e);
void vhk_vu_notifiers_forget(struct vhk_vhost_user *u);

/* ---- reconnect.c ---- */

/* Before ring @i starts: its requests in flight will be recorded, where that was negotiated. */
int vhk_vu_track(struct vhk_vhost_user *u, unsigned i, const struct vhk_ring_setup *s);
int vhk_vu_reconnect(struct vhk_frontend *f, bool may_wait);
void vhk_vu_disconnect(struct vhk_frontend *f);
enum vhk_frontend_progress vhk_vu_get_progress(struct vhk_frontend *f, char *text, size_t n);
/* A device reset: what was set until then is forgotten, and what the back-end had mapped here is
 * taken back. */
void vhk_vu_after_reset(struct vhk_vhost_user *u);
void vhk_vu_set_alarm(struct vhk_frontend *f, uint64_t ns);

/* ---- migrate.c ---- */

int vhk_vu_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size);
int vhk_vu_set_log_fd(struct vhk_frontend *f, int fd);
int vhk_vu_log_data(struct vhk_frontend *f, int on);
int vhk_vu_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa);
int vhk_vu_postcopy_advise(struct vhk_frontend *f, int *ret_fd);
int vhk_vu_postcopy_listen(struct vhk_frontend *f);
int vhk_vu_postcopy_get_address(struct vhk_frontend *f, uint64_t gpa, uint64_t *ret_address);
int vhk_vu_postcopy_end(struct vhk_frontend *f);
int vhk_vu_save_state(struct vhk_frontend *f, size_t max, void **ret_data, size_t *ret_n);
int vhk_vu_load_state(struct vhk_frontend *f, const void *data, size_t n);
/* SET_MEM_TABLE, and its acknowledgement under postcopy; *p has the back-end's addresses then. */
int vhk_vu_send_table(struct vhk_vhost_user *u, struct vhk_p_mem_regions *p, const int *fds);

/* ---- shmem.c ---- */

int vhk_vu_ask_shmem(struct vhk_vhost_user *u);         /* part of the handshake */
int vhk_vu_get_shmem_config(struct vhk_frontend *f, uint64_t *ret_sizes);
/* The back-end's requests: 0, or a negative errno with the reason. */
int vhk_vu_shmem_map(struct vhk_vhost_user *u, const struct vhk_p_mmap *p, int fd, struct vhk_error *ret_e);
int vhk_vu_shmem_unmap(struct vhk_vhost_user *u, const struct vhk_p_mmap *p, struct vhk_error *ret_e);
/* Unmaps everything. */
void vhk_vu_shmem_forget(struct vhk_vhost_user *u);

/* ---- iotlb.c ---- */

bool vhk_vu_has_iommu(const struct vhk_vhost_user *u);          /* ACCESS_PLATFORM is in use */
/* A miss or a failed access on the channel: is it to be acknowledged? */
bool vhk_vu_missed(struct vhk_vhost_user *u, const struct vhk_p_iotlb *p);
/* Post what was missed, as much as fits. 0, or the end of the connection */
int vhk_vu_send_translations(struct vhk_vhost_user *u);
/* Before rings start, and when memory was lent: all of it, if guest addresses are I/O addresses. */
int vhk_vu_tell_memory(struct vhk_vhost_user *u);
int vhk_vu_iotlb_update(struct vhk_frontend *f, const struct vhk_translation *t);
int vhk_vu_iotlb_invalidate(struct vhk_frontend *f, uint64_t iova, uint64_t len);

/* ---- objects.c ---- */

int vhk_vu_objects_join(struct vhk_vhost_user *u, struct vhk_objects *table);   /* needs the epoll set */
void vhk_vu_objects_leave(struct vhk_vhost_user *u);
/* The back-end has gone: so do its objects, and its lookup. */
void vhk_vu_objects_forget(struct vhk_vhost_user *u);
int vhk_vu_object_add(struct vhk_vhost_user *u, const uint8_t uuid[16], struct vhk_error *ret_e);
int vhk_vu_object_remove(struct vhk_vhost_user *u, const uint8_t uuid[16], struct vhk_error *ret_e);
/* 1: it is on its way, and u->objects.waits until vhk_vu_lookup_is_over(). */
int vhk_vu_object_lookup(struct vhk_vhost_user *u, const uint8_t uuid[16], struct vhk_error *ret_e);
/* The answer is there (a descriptor that is the caller's, or -1), or it took too long. */
bool vhk_vu_lookup_is_over(struct vhk_vhost_user *u, int *ret_fd);
uint64_t vhk_vu_lookup_deadline(const struct vhk_vhost_user *u);        /* UINT64_MAX: there is none */
/* Ask our back-end for what others look up, without waiting. Number, or a negative errno: the
 * connection has ended. */
int vhk_vu_serve_lookups(struct vhk_vhost_user *u);
/* The back-end's reply, or -1; takes @fd. */
void vhk_vu_answer_lookup(struct vhk_vhost_user *u, uint64_t ticket, int fd);

/* ---- display.c ---- */

int vhk_vu_display_open(struct vhk_vhost_user *u);      /* part of the handshake; 0 as well if the device wants none */
void vhk_vu_display_close(struct vhk_vhost_user *u);    /* the caller is told; may come twice */
int vhk_vu_display_serve(struct vhk_vhost_user *u);     /* requests that are there: number; the connection lives in any case */

/* ---- table.c ---- */

int vhk_vu_set_memory(struct vhk_frontend *f, struct vhk_memory *m);
/* User address of guest memory [gpa, gpa + len) in one lent region; -EFAULT */
int vhk_vu_find(const struct vhk_vhost_user *u, uint64_t gpa, uint64_t len, uint64_t *ret_uva);
