/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Streams over a vsock device (virtio 1.3, 5.10). One thread.
 *
 * Each stream has room of its own for what came and was not read; the peer may not send more than that (5.10.6.3), and one that does is
 * reset. What is sent is copied into a slot of lent memory and belongs to the transmit ring from then on, so it goes in order.
 * Answers that are due (flags of the stream, a short list of resets for peers that we do not know) wait for a slot; while that list is
 * full nothing is taken from the receive ring, or the device could make us forget (5.10.6.1). Headers are copied before they
 * are looked at.
 */
#include <vhostkit/vsock.h>

#include <sys/epoll.h>
#include <vhostkit/kernel.h>

#include "base/fd.h"
#include "driver/drvdev.h"
#include "driver/drvq.h"

#define QUEUE_SIZE 128u
#define QUEUE_SIZE_LEAST 2u
#define PACKET (16u << 10)
#define ROOM (256u << 10)
#define STREAMS 1024u
#define BACKLOG 128u
#define ORPHANS 64u
#define EVENTS 8u
#define BUCKETS 256u
#define FIRST_PORT 1024u
#define AT_ONCE 256u                    /* packets of one dispatch */
#define VIRTIO_ID 19u

enum { RX, TX, EV, N_RINGS };
enum { TYPE_STREAM = 1 };
enum { OP_REQUEST = 1, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };
enum { SHUT_RECEIVE = 1, SHUT_SEND = 2, SHUT_BOTH = 3 };

struct header {                         /* struct virtio_vsock_hdr */
        vhk_le64 src_cid, dst_cid;
        vhk_le32 src_port, dst_port, len;
        vhk_le16 type, op;
        vhk_le32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
static_assert(sizeof(struct header) == 44, "struct virtio_vsock_hdr");

/* Answers that are due. */
enum { OWE_REQUEST = 1, OWE_RESPONSE = 2, OWE_CREDIT = 4, OWE_SHUTDOWN = 8, OWE_RST = 16 };

struct vhk_vsock_stream {
        struct vhk_vsock *v;
        struct vhk_vsock_stream *next, *next_waiting;   /* of the bucket; of the listener's queue */
        uint64_t cid;
        uint32_t peer_port, port;
        enum { CONNECTING, OPEN, REFUSED, RESET } state;
        unsigned owes;
        bool is_free;                   /* the caller has forgotten it: it ends with the peer's reset */
        bool is_cut;                    /* it ended before the peer had said that it sends no more */
        uint32_t peer_shut, our_shut;   /* SHUT_* */
        /* room: bytes [read, read + n) of a ring of v->room; counts as in 5.10.6.3 */
        uint8_t *data;
        uint32_t at, n;
        uint32_t fwd_cnt, said_fwd_cnt;
        uint32_t tx_cnt, peer_fwd_cnt, peer_buf_alloc;
};

struct listener {
        struct listener *next;
        uint32_t port;
        unsigned n;
        struct vhk_vsock_stream *first, **last;
};

struct orphan {
        uint64_t cid;
        uint32_t peer_port, port;
};

struct vhk_vsock {
        struct vhk_drvdev d;
        struct vhk_drvq *q[N_RINGS];
        struct vhk_chunk last;
        int epoll_fd;
        uint64_t cid;
        uint32_t packet, room, max_streams, next_port;
        uint16_t num, n_events;
        bool has_events;                /* an event ring, which vhost-vsock has not */
        uint8_t *rx, *tx, *ev;          /* num packets, num packets, EVENTS events */
        uint16_t *free_tx;              /* slots that are free, a stack */
        unsigned n_free;
        struct vhk_vsock_stream *buckets[BUCKETS];
        unsigned n_streams;
        bool owes;                      /* some stream does */
        struct listener *listeners;
        struct orphan orphans[ORPHANS];
        unsigned n_orphans;
        bool broken;                    /* the device broke a rule or its connection ended: nothing moves any more */
        struct vhk_error error;         /* ... of a packet; code 0: of a ring, or of the connection */
};

/* ---- the end ---- */

/* Nothing moves any more: why, for vhk_frontend_get_error(). Returns -EPIPE */
static VHK_COLD int fail_end(struct vhk_vsock *v) {
        v->broken = true;
        if (v->error.code)
                return vhk_drvdev_fail(&v->d, -EPIPE, v->error.rule, "%s", v->error.text);
        for (unsigned i = 0; i < N_RINGS; i++)
                if (v->q[i] && vhk_drvq_is_broken(v->q[i]))
                        return vhk_drvdev_fail_end(&v->d, v->q[i]);
        return vhk_drvdev_fail_end(&v->d, v->q[RX]);
}

/* ---- streams ---- */

static unsigned bucket(uint64_t cid, uint32_t peer_port, uint32_t port) {
        return (unsigned)((cid * 31 + peer_port) * 31 + port) % BUCKETS;
}

static struct vhk_vsock_stream *find(struct vhk_vsock *v, uint64_t cid, uint32_t peer_port, uint32_t port) {
        struct vhk_vsock_stream *s = v->buckets[bucket(cid, peer_port, port)];

        while (s && (s->cid != cid || s->peer_port != peer_port || s->port != port))
                s = s->next;
        return s;
}

static void forget(struct vhk_vsock_stream *s) {
        struct vhk_vsock_stream **at = &s->v->buckets[bucket(s->cid, s->peer_port, s->port)];

        while (*at != s)
                at = &(*at)->next;
        *at = s->next;
        s->v->n_streams--;
        free(s->data);
        free(s);
}

/* One that nobody has any more, so that there is place for another. */
static struct vhk_vsock_stream *find_free(struct vhk_vsock *v) {
        for (unsigned i = 0; i < BUCKETS; i++)
                for (struct vhk_vsock_stream *s = v->buckets[i]; s; s = s->next)
                        if (s->is_free && !(s->owes & ~OWE_CREDIT))
                                return s;
        return NULL;
}

static int make(struct vhk_vsock *v, uint64_t cid, uint32_t peer_port, uint32_t port, struct vhk_vsock_stream **ret_s) {
        unsigned i = bucket(cid, peer_port, port);
        struct vhk_vsock_stream *idle = v->n_streams >= v->max_streams ? find_free(v) : NULL;

        if (idle)
                forget(idle);
        if (v->n_streams >= v->max_streams)
                return -ENOBUFS;
        struct vhk_vsock_stream *s = calloc(1, sizeof(*s));
        uint8_t *data = malloc(v->room);
        if (!s || !data) {
                free(s);
                free(data);
                return -ENOMEM;
        }
        *s = (struct vhk_vsock_stream){ .v = v, .next = v->buckets[i], .cid = cid, .peer_port = peer_port, .port = port, .data = data };
        v->buckets[i] = s;
        v->n_streams++;
        *ret_s = s;
        return 0;
}

static void owe(struct vhk_vsock_stream *s, unsigned what) {
        s->owes |= what;
        s->v->owes = true;
}

/* ---- sending ---- */

static struct header header_of(const struct vhk_vsock *v, uint64_t cid, uint32_t peer_port, uint32_t port, unsigned op) {
        return (struct header){
                .src_cid = vhk_le64_of(v->cid), .dst_cid = vhk_le64_of(cid), .src_port = vhk_le32_of(port), .dst_port = vhk_le32_of(peer_port),
                .type = vhk_le16_of(TYPE_STREAM), .op = vhk_le16_of((uint16_t)op),
        };
}

/* The slots are as many as the ring's entries and a packet is one buffer, so there is room for each. */
static int send_packet(struct vhk_vsock *v, const struct header *h, const void *payload, uint32_t n) {
        if (!v->n_free)
                return -EAGAIN;
        uint16_t slot = v->free_tx[v->n_free - 1];
        uint8_t *p = v->tx + (size_t)slot * v->packet;
        memcpy(p, h, sizeof(*h));
        if (n)
                memcpy(p + sizeof(*h), payload, n);
        int k = vhk_drvq_add(v->q[TX], &(struct iovec){ p, sizeof(*h) + n }, 1, 0, &v->free_tx[slot]);
        if (k < 0)
                return k;
        v->n_free--;
        return 0;
}

static int send_stream(struct vhk_vsock_stream *s, unsigned op, uint32_t flags, const void *payload, uint32_t n) {
        struct header h = header_of(s->v, s->cid, s->peer_port, s->port, op);

        h.len = vhk_le32_of(n);
        h.flags = vhk_le32_of(flags);
        h.buf_alloc = vhk_le32_of(s->v->room);
        h.fwd_cnt = vhk_le32_of(s->fwd_cnt);
        int k = send_packet(s->v, &h, payload, n);
        if (k == 0) {
                s->said_fwd_cnt = s->fwd_cnt;
                s->owes &= ~(unsigned)OWE_CREDIT;
        }
        return k;
}

/* In this order, each once. */
static int pay(struct vhk_vsock_stream *s) {
        static const struct { unsigned what, op; } rows[] = {
                { OWE_REQUEST, OP_REQUEST }, { OWE_RESPONSE, OP_RESPONSE }, { OWE_CREDIT, OP_CREDIT_UPDATE }, { OWE_SHUTDOWN, OP_SHUTDOWN },
                { OWE_RST, OP_RST },
        };

        for (size_t i = 0; i < VHK_N(rows); i++)
                if (s->owes & rows[i].what) {
                        int k = send_stream(s, rows[i].op, rows[i].what == OWE_SHUTDOWN ? s->our_shut : 0, NULL, 0);
                        if (k < 0)
                                return k;
                        s->owes &= ~rows[i].what;
                }
        return 0;
}

/* 0, or -EAGAIN: there is more to say than there are slots. */
static int pay_all(struct vhk_vsock *v) {
        while (v->n_orphans) {
                const struct orphan *o = &v->orphans[v->n_orphans - 1];
                struct header h = header_of(v, o->cid, o->peer_port, o->port, OP_RST);
                int k = send_packet(v, &h, NULL, 0);
                if (k < 0)
                        return k;
                v->n_orphans--;
        }
        for (unsigned i = 0; i < BUCKETS && v->owes; i++)
                for (struct vhk_vsock_stream *s = v->buckets[i], *next; s; s = next) {
                        next = s->next;
                        int k = s->owes ? pay(s) : 0;
                        if (k < 0)
                                return k;
                        if (s->is_free && s->state >= REFUSED)
                                forget(s);
                }
        v->owes = false;
        return 0;
}

static int reap_sent(struct vhk_vsock *v) {
        struct vhk_done d;
        int k;

        while ((k = vhk_drvq_reap(v->q[TX], &d, 1)) == 1)
                v->free_tx[v->n_free++] = (uint16_t)((uint16_t *)d.cookie - v->free_tx);
        return k;
}

/* ---- receiving ---- */

static void reset(struct vhk_vsock_stream *s) {
        s->is_cut |= s->state == OPEN && !(s->peer_shut & SHUT_SEND);
        s->state = s->state == CONNECTING ? REFUSED : s->state == OPEN ? RESET : s->state;
        s->owes &= OWE_RST;
        s->v->owes = true;              /* one that nobody has is to be forgotten */
}

static void break_off(struct vhk_vsock_stream *s) {
        reset(s);
        owe(s, OWE_RST);
}

static bool is_gone(const struct vhk_vsock *v) {
        return vhk_drvdev_is_gone(&v->d);
}

static void refuse(struct vhk_vsock *v, const struct header *h) {
        if (vhk_le16_get(h->op) != OP_RST && !is_gone(v))       /* a reset is never answered, or two drivers would do it without end */
                v->orphans[v->n_orphans++] = (struct orphan){ vhk_le64_get(h->src_cid), vhk_le32_get(h->src_port), vhk_le32_get(h->dst_port) };
}

static struct listener *find_listener(struct vhk_vsock *v, uint32_t port) {
        struct listener *l = v->listeners;

        while (l && l->port != port)
                l = l->next;
        return l;
}

static void on_request(struct vhk_vsock *v, const struct header *h) {
        struct listener *l = find_listener(v, vhk_le32_get(h->dst_port));
        struct vhk_vsock_stream *s;

        if (!l || l->n == BACKLOG || make(v, vhk_le64_get(h->src_cid), vhk_le32_get(h->src_port), l->port, &s) < 0) {
                refuse(v, h);
                return;
        }
        s->state = OPEN;
        s->peer_buf_alloc = vhk_le32_get(h->buf_alloc);
        s->peer_fwd_cnt = vhk_le32_get(h->fwd_cnt);
        owe(s, OWE_RESPONSE);
        *l->last = s;
        l->last = &s->next_waiting;
        l->n++;
}

static void on_data(struct vhk_vsock_stream *s, const uint8_t *payload, uint32_t n) {
        uint32_t room = s->v->room;

        if (s->state != OPEN || (s->peer_shut & SHUT_SEND) || n > room - s->n) {
                break_off(s);           /* it was told how much fits */
                return;
        }
        if (s->is_free || (s->our_shut & SHUT_RECEIVE)) {
                s->fwd_cnt += n;        /* nobody reads it */
                return;
        }
        uint32_t end = (s->at + s->n) % room, first = VHK_MIN(n, room - end);
        memcpy(s->data + end, payload, first);
        memcpy(s->data, payload + first, n - first);
        s->n += n;
}

static void on_shutdown(struct vhk_vsock_stream *s, uint32_t flags) {
        s->peer_shut |= flags & SHUT_BOTH;
        if (s->peer_shut != SHUT_BOTH || s->state != OPEN)
                return;
        s->state = RESET;               /* after which recv() still gives what came before */
        owe(s, OWE_RST);
}

/* @h is a copy, and its length was checked. */
static void on_packet(struct vhk_vsock *v, const struct header *h, const uint8_t *payload, uint32_t n) {
        uint16_t op = vhk_le16_get(h->op);
        struct vhk_vsock_stream *s;

        if (vhk_le64_get(h->dst_cid) != v->cid)
                return;
        s = find(v, vhk_le64_get(h->src_cid), vhk_le32_get(h->src_port), vhk_le32_get(h->dst_port));
        if (vhk_le16_get(h->type) != TYPE_STREAM || (!s && op != OP_REQUEST)) {
                refuse(v, h);
                return;
        }
        if (!s) {
                on_request(v, h);
                return;
        }
        s->peer_buf_alloc = vhk_le32_get(h->buf_alloc);
        s->peer_fwd_cnt = vhk_le32_get(h->fwd_cnt);
        switch (op) {
        case OP_RESPONSE:
                if (s->state == CONNECTING)
                        s->state = OPEN;
                else
                        break_off(s);
                break;
        case OP_RST:
                reset(s);
                s->owes = 0;
                break;
        case OP_SHUTDOWN:
                on_shutdown(s, vhk_le32_get(h->flags));
                break;
        case OP_RW:
                on_data(s, payload, n);
                break;
        case OP_CREDIT_UPDATE:
                break;
        case OP_CREDIT_REQUEST:
                owe(s, OWE_CREDIT);
                break;
        default:
                break_off(s);
        }
}

static VHK_COLD int break_rules(struct vhk_vsock *v, uint32_t used_len, uint32_t header_len) {
        v->broken = true;
        vhk_error_set(&v->error, -EPIPE, "vsock.packet", "the device sent a packet of %u bytes in a buffer of %u, with %u bytes of data according to its header",
                      used_len, v->packet, header_len);
        return -EPIPE;
}

/* Is there room for one more answer? Without it nothing is received: the transmit ring's
 * completions make room. */
static bool can_receive(const struct vhk_vsock *v) {
        return v->n_orphans < ORPHANS || is_gone(v);
}

/* Number of packets, at most @budget. */
static int receive(struct vhk_vsock *v, int budget) {
        struct vhk_done d;
        int n = 0, k = 0;

        while (n < budget && can_receive(v) && (k = vhk_drvq_reap(v->q[RX], &d, 1)) == 1) {
                uint8_t *p = d.cookie;
                struct header h;

                if (d.len < sizeof(h) || d.len > v->packet)
                        return break_rules(v, d.len, 0);
                memcpy(&h, p, sizeof(h));
                if (vhk_le32_get(h.len) > d.len - sizeof(h))
                        return break_rules(v, d.len, vhk_le32_get(h.len));
                on_packet(v, &h, p + sizeof(h), vhk_le16_get(h.op) == OP_RW ? vhk_le32_get(h.len) : 0);
                k = vhk_drvq_add(v->q[RX], &(struct iovec){ p, v->packet }, 0, 1, p);
                if (k < 0)
                        return k;
                n++;
        }
        return k < 0 ? k : n;
}

/* VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: all streams have ended, and guest_cid may be another (virtio
 * 1.3, 5.10.6.7). */
static void on_transport_reset(struct vhk_vsock *v) {
        for (unsigned i = 0; i < BUCKETS; i++)
                for (struct vhk_vsock_stream *s = v->buckets[i]; s; s = s->next) {
                        reset(s);
                        s->owes = 0;
                }
        (void)vhk_drvdev_read_config(&v->d);    /* a connection that ends with it is reported by the next dispatch */
}

/* Number of events, at most @budget; TRANSPORT_RESET is the only kind that there is. */
static int receive_events(struct vhk_vsock *v, int budget) {
        struct vhk_done d;
        int n = 0, k = 0;

        while (v->q[EV] && n < budget && (k = vhk_drvq_reap(v->q[EV], &d, 1)) == 1) {
                n++;
                k = vhk_drvq_add(v->q[EV], &(struct iovec){ d.cookie, 4 }, 0, 1, d.cookie);
                if (k < 0)
                        return k;
        }
        if (n)
                on_transport_reset(v);
        return k < 0 ? k : n;
}

static void drain_bells(struct vhk_vsock *v) {
        for (unsigned i = 0; i < N_RINGS; i++)
                if (v->q[i])
                        vhk_peer_drain(vhk_drvq_get_fd(v->q[i]));
}

/* Ask for notifications. Is there something already that can be taken? */
static bool arm(struct vhk_vsock *v) {
        bool there = false;

        for (unsigned i = 0; i < N_RINGS; i++)
                if (v->q[i] && vhk_drvq_arm(v->q[i]))
                        there |= i != RX || can_receive(v);
        return there;
}

static int kick(struct vhk_vsock *v) {
        int k = 0;

        for (unsigned i = 0; i < N_RINGS && k == 0; i++)
                if (v->q[i])
                        k = vhk_drvq_kick(v->q[i]);
        return k;
}

/* One look at each ring. Number of events and packets, at most @budget. */
static int look(struct vhk_vsock *v, int budget) {
        int k = reap_sent(v), n_events, n;

        n_events = k < 0 ? k : receive_events(v, budget);
        n = n_events < 0 ? n_events : receive(v, budget - n_events);
        k = n < 0 ? n : pay_all(v);
        if (k == -EAGAIN)
                k = 0;
        if (k == 0)
                k = kick(v);
        return k < 0 ? k : n_events + n;
}

/* Each turn takes something from a ring, or it is the last one. */
static int move(struct vhk_vsock *v) {
        int n = 0;

        drain_bells(v);
        do {
                int k = look(v, (int)AT_ONCE - n);
                if (k < 0)
                        return k;
                n += k;
        } while (arm(v) && n < (int)AT_ONCE);
        if (n >= (int)AT_ONCE || (n && is_gone(v)))
                vhk_peer_notify(vhk_drvq_get_fd(v->q[RX]));       /* the caller is to come back */
        return n;
}

static int dispatch(struct vhk_vsock *v) {
        if (v->broken)
                return fail_end(v);
        int gone = vhk_drvdev_look_after(&v->d), n = move(v);

        return n == -EPIPE || (n == 0 && gone < 0) ? fail_end(v) : n;
}

VHK_API int vhk_vsock_dispatch(struct vhk_vsock *v) {
        int n = dispatch(v);

        vhk_drvdev_leave(&v->d);
        return n;
}

/* ---- the caller's side of a stream ---- */

VHK_API void vhk_vsock_stream_get_peer(const struct vhk_vsock_stream *s, uint64_t *ret_cid, uint32_t *ret_port) {
        *ret_cid = s->cid;
        *ret_port = s->peer_port;
}

/* What the peer has room for (5.10.6.3); one that says nonsense has none. */
static uint32_t credit(const struct vhk_vsock_stream *s) {
        uint32_t on_its_way = s->tx_cnt - s->peer_fwd_cnt;

        return on_its_way < s->peer_buf_alloc ? s->peer_buf_alloc - on_its_way : 0;
}

VHK_API int vhk_vsock_stream_send(struct vhk_vsock_stream *s, const void *buf, size_t n) {
        struct vhk_vsock *v = s->v;
        uint32_t most = v->packet - (uint32_t)sizeof(struct header);
        size_t at = 0;
        int k = 0;

        if (s->state == CONNECTING)
                return -EAGAIN;
        if (s->state == REFUSED)
                return -ECONNREFUSED;
        if (v->broken || is_gone(v))
                return fail_end(v);
        if (s->state == RESET || (s->our_shut & SHUT_SEND) || (s->peer_shut & SHUT_RECEIVE))
                return -EPIPE;
        n = VHK_MIN(n, (size_t)INT32_MAX);
        k = reap_sent(v);
        if (k == 0)
                k = pay(s);                     /* a response goes first */
        while (at < n && k == 0) {
                uint32_t room = VHK_MIN(most, credit(s)), piece = (uint32_t)VHK_MIN(n - at, (size_t)room);
                k = piece ? send_stream(s, OP_RW, 0, (const uint8_t *)buf + at, piece) : -EAGAIN;
                if (k == 0) {
                        s->tx_cnt += piece;
                        at += piece;
                }
        }
        if (k < 0 && k != -EAGAIN)
                return k == -EPIPE ? fail_end(v) : k;
        int e = kick(v);
        return e < 0 ? e : at || !n ? (int)at : -EAGAIN;
}

VHK_API int vhk_vsock_stream_recv(struct vhk_vsock_stream *s, void *buf, size_t n) {
        uint32_t room = s->v->room, take = (uint32_t)VHK_MIN(n, (size_t)s->n), first = VHK_MIN(take, room - s->at);

        if (!s->n && s->state == REFUSED)
                return -ECONNREFUSED;
        if (!s->n && s->is_cut)
                return -ECONNRESET;
        if (!s->n && s->v->broken)
                return fail_end(s->v);
        if (!take)
                return n && s->state != RESET && !(s->peer_shut & SHUT_SEND) ? -EAGAIN : 0;
        memcpy(buf, s->data + s->at, first);
        memcpy((uint8_t *)buf + first, s->data, take - first);
        s->at = (s->at + take) % room;
        s->n -= take;
        s->fwd_cnt += take;
        if (s->fwd_cnt - s->said_fwd_cnt >= room / 4 && s->state == OPEN) {     /* it may wait for that */
                owe(s, OWE_CREDIT);
                if (pay(s) == 0)
                        (void)kick(s->v);       /* otherwise dispatch does it */
        }
        return (int)take;
}

/* What is due, now if there is a slot, else with the next dispatch. */
static int pay_now(struct vhk_vsock_stream *s) {
        int k = pay(s);

        return k < 0 && k != -EAGAIN ? k : kick(s->v);
}

VHK_API int vhk_vsock_stream_shutdown(struct vhk_vsock_stream *s) {
        if (s->state == REFUSED)
                return -ECONNREFUSED;
        if (s->state != OPEN)
                return s->state == CONNECTING ? -EAGAIN : -EPIPE;
        if (s->our_shut & SHUT_SEND)
                return 0;
        s->our_shut |= SHUT_SEND;
        owe(s, OWE_SHUTDOWN);
        return pay_now(s);
}

VHK_API struct vhk_vsock_stream *vhk_vsock_stream_free(struct vhk_vsock_stream *s) {
        if (!s)
                return NULL;
        s->is_free = true;
        s->n = 0;
        if (s->state == OPEN && s->our_shut != SHUT_BOTH) {
                s->our_shut = SHUT_BOTH;
                owe(s, OWE_SHUTDOWN);
        }
        if (s->state == CONNECTING) {
                s->state = RESET;
                owe(s, OWE_RST);
        }
        struct vhk_vsock *v = s->v;
        (void)pay_now(s);
        if (s->state >= REFUSED && !s->owes)
                forget(s);
        v->owes = true;                 /* or the next dispatch looks after it */
        return NULL;
}

/* ---- the caller's side of a device ---- */

VHK_API int vhk_vsock_listen(struct vhk_vsock *v, uint32_t port) {
        if (find_listener(v, port))
                return -EADDRINUSE;
        struct listener *l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        *l = (struct listener){ .next = v->listeners, .port = port };
        l->last = &l->first;
        v->listeners = l;
        return 0;
}

VHK_API int vhk_vsock_accept(struct vhk_vsock *v, uint32_t port, struct vhk_vsock_stream **ret_s) {
        struct listener *l = find_listener(v, port);

        if (!l)
                return -EINVAL;
        struct vhk_vsock_stream *s = l->first;
        if (!s)
                return -EAGAIN;
        l->first = s->next_waiting;
        l->last = l->first ? l->last : &l->first;
        l->n--;
        s->next_waiting = NULL;
        *ret_s = s;
        return 0;
}

VHK_API int vhk_vsock_connect(struct vhk_vsock *v, uint64_t cid, uint32_t port, struct vhk_vsock_stream **ret_s) {
        struct vhk_vsock_stream *s;

        if (v->broken || is_gone(v))
                return fail_end(v);
        for (uint32_t tries = 0; tries <= v->max_streams && (find(v, cid, port, v->next_port) || find_listener(v, v->next_port)); tries++)
                v->next_port = v->next_port == UINT32_MAX - 1 ? FIRST_PORT : v->next_port + 1;
        if (find(v, cid, port, v->next_port))
                return -EADDRINUSE;
        int k = make(v, cid, port, v->next_port, &s);
        if (k < 0)
                return k;
        v->next_port = v->next_port == UINT32_MAX - 1 ? FIRST_PORT : v->next_port + 1;
        owe(s, OWE_REQUEST);
        k = pay_now(s);
        if (k < 0) {
                forget(s);
                return k;
        }
        *ret_s = s;
        return 0;
}

VHK_API struct vhk_frontend *vhk_vsock_get_frontend(struct vhk_vsock *v) {
        return v->d.f;
}

VHK_API uint64_t vhk_vsock_get_cid(const struct vhk_vsock *v) {
        return v->cid;
}

VHK_API int vhk_vsock_get_fd(const struct vhk_vsock *v) {
        return v->epoll_fd;
}

/* ---- opening ---- */

static uint64_t gpa_of(void *arg, const void *va, uint64_t len) {
        struct vhk_vsock *v = arg;

        return vhk_drvdev_gpa(&v->d, &v->last, va, len);
}

static int watch(struct vhk_vsock *v, int fd) {
        struct epoll_event e = { .events = EPOLLIN };

        return epoll_ctl(v->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? vhk_errno() : 0;
}

static struct vhk_vsock *vsock_of(struct vhk_drvdev *d) {
        return vhk_container_of(d, struct vhk_vsock, d);
}

static int make_ring(struct vhk_vsock *v, unsigned i, uint16_t num) {
        struct vhk_drvq_options o = { .size = sizeof(o), .num = num };
        struct vhk_drvq_place p = { .mem = vhk_drvdev_take(&v->d, vhk_drvq_bytes(num, 0)), .gpa = gpa_of, .gpa_arg = v };

        int k = p.mem ? vhk_drvq_new_at(v->d.f, i, &o, &p, &v->q[i]) : -ENOMEM;
        return k < 0 ? k : watch(v, vhk_drvq_get_fd(v->q[i]));
}

static int start_rings(struct vhk_drvdev *d, uint16_t num) {
        struct vhk_vsock *v = vsock_of(d);
        uint64_t packets = (uint64_t)num * v->packet;

        v->num = num;
        int k = d->n_chunks ? 0 : vhk_drvdev_add_chunk(d, 2 * packets + 3 * (vhk_drvq_bytes(num, 0) + VHK_PAGE) + VHK_PAGE, 0);
        if (k < 0)
                return k;
        v->rx = vhk_drvdev_take(d, packets);
        v->tx = vhk_drvdev_take(d, packets);
        v->ev = vhk_drvdev_take(d, EVENTS * 4);
        v->free_tx = calloc(num, sizeof(*v->free_tx));
        if (!v->rx || !v->tx || !v->ev || !v->free_tx)
                return -ENOMEM;
        for (uint16_t i = 0; i < num; i++)
                v->free_tx[v->n_free++] = i;
        v->n_events = VHK_MIN(EVENTS, num);
        for (unsigned i = 0; i < (v->has_events ? N_RINGS : EV) && k == 0; i++)
                k = make_ring(v, i, i == EV ? v->n_events : num);
        return k;
}

static void stop_rings(struct vhk_drvdev *d) {
        struct vhk_vsock *v = vsock_of(d);

        for (unsigned i = 0; i < N_RINGS; i++)
                v->q[i] = vhk_drvq_free(v->q[i]);
        free(v->free_tx);
        v->free_tx = NULL;
        v->n_free = 0;
}

static int lend_buffers(struct vhk_vsock *v) {
        int k = 0;

        for (unsigned i = 0; i < v->num && k == 0; i++)
                k = vhk_drvq_add(v->q[RX], &(struct iovec){ v->rx + (size_t)i * v->packet, v->packet }, 0, 1, v->rx + (size_t)i * v->packet);
        for (unsigned i = 0; i < v->n_events && v->q[EV] && k == 0; i++)
                k = vhk_drvq_add(v->q[EV], &(struct iovec){ v->ev + 4 * i, 4 }, 0, 1, v->ev + 4 * i);
        if (k == 0)
                k = kick(v);
        if (k == 0)
                arm(v);
        return k;
}

static int know_cid(struct vhk_vsock *v, uint64_t cid, bool ours) {
        vhk_le64 word;

        if (ours) {
                v->cid = cid;
                return vhk_frontend_vsock_set_cid(v->d.f, cid);
        }
        int k = vhk_frontend_get_config(v->d.f, 0, &word, sizeof(word));
        if (k == 0)
                v->cid = vhk_le64_get(word);
        return k;
}

static int refresh(struct vhk_drvdev *d) {
        if (!d->config_stale)
                return 0;
        d->config_stale = false;
        return know_cid(vsock_of(d), 0, false);
}

static int negotiate(struct vhk_vsock *v, bool has_cid, bool *ret_ours, struct vhk_error *ret_e) {
        uint64_t wanted = VHK_BIT(VHK_DRVDEV_F_VERSION_1) | VHK_BIT(VHK_DRVDEV_F_EVENT_IDX) | VHK_BIT(VHK_DRVDEV_F_ACCESS_PLATFORM);
        struct vhk_frontend_info i = { .size = sizeof(i) };

        int k = vhk_frontend_get_info(v->d.f, &i);
        if (k < 0)
                return vhk_drvdev_story(&v->d, k, ret_e);
        *ret_ours = i.capabilities & VHK_CAP_VSOCK;
        if (*ret_ours && !has_cid)
                return vhk_error_set(ret_e, -EINVAL, "vsock.options", "an address is needed: 3 or more");
        if (!(i.features & VHK_BIT(VHK_DRVDEV_F_VERSION_1)))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "vsock.version", "the device has no VERSION_1");
        return vhk_drvdev_negotiate(&v->d, i.features & wanted, ret_e);
}

static int bring_up(struct vhk_drvdev *d, const void *options, struct vhk_error *ret_e) {
        const struct vhk_vsock_options *o = options;
        struct vhk_vsock *v = vsock_of(d);
        bool ours = false;

        int k = negotiate(v, o->cid, &ours, ret_e);
        if (k < 0)
                return k;
        v->has_events = !ours;
        v->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        k = v->epoll_fd < 0 ? vhk_errno() : know_cid(v, o->cid, ours);
        if (k == 0)
                k = vhk_drvdev_start_rings(d, o->queue_size, QUEUE_SIZE, QUEUE_SIZE_LEAST, start_rings, stop_rings);
        if (k == 0)
                k = vhk_drvdev_set_status(d, VHK_DRVDEV_S_DRIVER_OK);
        if (k == 0)
                k = lend_buffers(v);
        if (k == 0 && ours)
                k = vhk_frontend_vsock_set_running(d->f, 1);
        if (k == 0)
                k = watch(v, vhk_frontend_get_fd(d->f));
        return k < 0 ? vhk_drvdev_story(d, k, ret_e) : 0;
}

static int prepare(struct vhk_drvdev *d, const void *options, struct vhk_frontend_options *fo, struct vhk_error *ret_e) {
        const struct vhk_vsock_options *o = options;
        struct vhk_vsock *v = vsock_of(d);
        uint16_t num = o->queue_size ? o->queue_size : QUEUE_SIZE;

        v->epoll_fd = -1;
        v->next_port = FIRST_PORT;
        v->packet = o->packet ? o->packet : PACKET;
        v->room = o->room ? o->room : ROOM;
        v->max_streams = o->max_streams ? o->max_streams : STREAMS;
        fo->reconnect_ns = 0;           /* another back-end knows no stream of ours */
        if (!vhk_is_pow2(num) || num < QUEUE_SIZE_LEAST || num > 32768 || v->packet < 256 || v->packet > 65536 || v->room < 4096 || v->room > INT32_MAX)
                return vhk_error_set(ret_e, -EINVAL, "vsock.options", "%u entries of %u bytes, %u bytes of room: not valid", num, v->packet, v->room);
        return 0;
}

static void stop(struct vhk_drvdev *d) {
        struct vhk_vsock *v = vsock_of(d);

        stop_rings(d);
        for (unsigned i = 0; i < BUCKETS; i++)
                while (v->buckets[i])
                        forget(v->buckets[i]);
        for (struct listener *l = v->listeners, *next; l; l = next) {
                next = l->next;
                free(l);
        }
        vhk_close(&v->epoll_fd);
}

static const struct vhk_drvdev_kind kind = {
        .rule = "vsock.open", .what = "the vsock device", .options = "struct vhk_vsock_options", .virtio_id = VIRTIO_ID,
        .size = sizeof(struct vhk_vsock), .options_size = sizeof(struct vhk_vsock_options),
        .prepare = prepare, .bring_up = bring_up, .refresh = refresh, .stop = stop,
};

VHK_API int vhk_vsock_open(const char *spec, const struct vhk_vsock_options *o, struct vhk_vsock **ret_v, struct vhk_error *ret_e) {
        struct vhk_vsock_options own;
        struct vhk_drvdev *d;

        int k = vhk_drvdev_open(&kind, spec, o, &own, &d, ret_e);
        if (k == 0)
                *ret_v = vsock_of(d);
        return k;
}

VHK_API struct vhk_vsock *vhk_vsock_close(struct vhk_vsock *v) {
        return vhk_drvdev_close(v ? &v->d : NULL);
}
