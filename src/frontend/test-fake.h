/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A scripted back-end for tests of the front-end: a thread at the other end of a socket. It answers as the table of
 * messages demands, holds every message that it gets against that table (broken: the first rule that the front-end broke),
 * counts, and misbehaves at one chosen message.
 */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "sock/sock.h"
#include "wire/wire.h"

enum mischief {
        HONEST, REFUSES, WRONG_ID, WRONG_FLAGS, NEEDS_REPLY_BIT, SHORTER, LONGER, HUGE_SIZE, WITH_FD, ONE_BYTE, SILENT, CLOSES, CLOSES_IN_HEADER,
        CLOSES_IN_PAYLOAD, WEB_SERVER, ANSWERS_AND_CLOSES,
};

struct fake {
        pthread_t thread;
        int fd, stop_fd;                /* ours of the socket; ends the thread */
        struct vhk_conn conn;
        int channel, display;           /* the front-end's gifts; -1 */
        struct vhk_wire_state state;
        uint64_t n_queues, slots, status, refusal;
        uint32_t config_len;
        struct vhk_p_shmem_config shmem;
        enum mischief mischief;
        uint32_t at;                    /* the message it happens at */
        unsigned skip;                  /* so many times it does not yet */
        /* on message @say_at: bytes for the channel before the answer; @await so many bytes of answers first */
        uint32_t say_at;
        const void *say;
        size_t say_n, await;
        uint8_t heard[4096];
        size_t heard_n;
        /* what was seen; read after fake_stop() or between calls */
        unsigned count[64], total;
        uint32_t order[4096];
        enum vhk_rule broken;
        struct vhk_p_vring_addr addr;
        struct vhk_p_vring_state base;
        struct vhk_p_iotlb iotlb[4];    /* the last ones, count[VHK_FE_IOTLB_MSG] of them in turn */
        uint32_t flags[64];             /* of the last message of each kind */
        uint8_t config[VHK_MAX_CONFIG]; /* as SET_CONFIG wrote it */
        int record;                     /* the in-flight record that it gives; -1: something that is none */
        uint64_t call_word, kick_word;
};

static inline void fake_send(struct fake *b, enum mischief m, const struct vhk_hdr *h, const void *payload) {
        uint8_t raw[12 + 2056];
        int fd = b->record < 0 ? eventfd(0, EFD_CLOEXEC) : fcntl(b->record, F_DUPFD_CLOEXEC, 0);
        size_t n = 12 + h->size;

        memcpy(raw, h, 12);
        memcpy(raw + 12, payload, h->size);
        switch (m) {
        case ONE_BYTE:
                for (size_t i = 0; i < n; i++) {
                        usleep(50);
                        send(b->fd, raw + i, 1, MSG_NOSIGNAL);
                }
                break;
        case CLOSES_IN_HEADER:
        case CLOSES_IN_PAYLOAD:
                send(b->fd, raw, m == CLOSES_IN_HEADER ? 5 : 14, MSG_NOSIGNAL);
                shutdown(b->fd, SHUT_RDWR);
                break;
        case WEB_SERVER:
                send(b->fd, "HTTP/1.1 400 Bad Request\r\nServer: none\r\n\r\n", 43, MSG_NOSIGNAL);
                break;
        default:
                vhk_conn_send(&b->conn, h, payload, &fd, m == WITH_FD);
                if (m == ANSWERS_AND_CLOSES)
                        shutdown(b->fd, SHUT_RDWR);
        }
        close(fd);
}

static inline void fake_reply(struct fake *b, enum mischief m, const struct vhk_hdr *request, const void *payload, uint32_t size) {
        struct vhk_hdr h = { request->request, VHK_HDR_VERSION | VHK_HDR_REPLY, size };
        uint8_t buf[2056] = { 0 };

        memcpy(buf, payload, size);
        h.request += m == WRONG_ID;
        h.flags = m == WRONG_FLAGS ? VHK_HDR_VERSION : m == NEEDS_REPLY_BIT ? 13 : h.flags;
        h.size = m == SHORTER ? size - 1 : m == LONGER ? size + 1 : m == HUGE_SIZE ? 0x7fffffff : size;
        if (m == CLOSES)
                shutdown(b->fd, SHUT_RDWR);
        else if (m == HUGE_SIZE)
                send(b->fd, &h, sizeof(h), MSG_NOSIGNAL);
        else if (m != SILENT)
                fake_send(b, m, &h, buf);
}

static inline void fake_channel(struct fake *b) {
        if (b->channel < 0)
                return;
        send(b->channel, b->say, b->say_n, MSG_NOSIGNAL);
        while (b->heard_n < b->await) {
                ssize_t n = recv(b->channel, b->heard + b->heard_n, b->await - b->heard_n, 0);
                if (n <= 0)
                        break;
                b->heard_n += (size_t)n;
        }
}

static inline void fake_take(struct fake *b, uint32_t id, const union vhk_p_any *p) {
        switch (id) {
        case VHK_FE_SET_FEATURES: b->state.features = p->u64.value; break;
        case VHK_FE_SET_PROTOCOL_FEATURES: b->state.protocol = p->u64.value; break;
        case VHK_FE_SET_STATUS: b->status = p->u64.value; break;
        case VHK_FE_SET_VRING_ADDR: b->addr = p->vring_addr; break;
        case VHK_FE_SET_VRING_BASE: b->base = p->vring_state; break;
        case VHK_FE_IOTLB_MSG: b->iotlb[(b->count[id] - 1) % VHK_N(b->iotlb)] = p->iotlb; break;
        case VHK_FE_SET_CONFIG: memcpy(b->config + p->config.offset, p->config.data, p->config.len); break;
        case VHK_FE_SET_VRING_CALL: b->call_word = p->u64.value; break;
        case VHK_FE_SET_VRING_KICK: b->kick_word = p->u64.value; break;
        case VHK_FE_SET_BACKEND_REQ_FD: b->channel = VHK_STEAL_FD(b->conn.in.fds[0]); vhk_fd_set_nonblock(b->channel, false); break;
        case VHK_FE_GPU_SET_SOCKET: b->display = VHK_STEAL_FD(b->conn.in.fds[0]); break;
        }
}

static inline void fake_answer(struct fake *b, const struct vhk_hdr *h, union vhk_p_any *p) {
        static const union vhk_p_any zero;
        bool at = h->request == b->at && !b->skip;
        union vhk_p_any r = zero;
        uint32_t size = 8;

        b->skip -= h->request == b->at && b->skip;      /* before the answer: then the test goes on */

        switch (h->request) {
        case VHK_FE_GET_FEATURES: r.u64.value = b->state.features_offered; break;
        case VHK_FE_GET_PROTOCOL_FEATURES: r.u64.value = b->state.protocol_offered; break;
        case VHK_FE_GET_QUEUE_NUM: r.u64.value = b->n_queues; break;
        case VHK_FE_GET_MAX_MEM_SLOTS: r.u64.value = b->slots; break;
        case VHK_FE_GET_STATUS: r.u64.value = b->status; break;
        case VHK_FE_GET_VRING_BASE: r.vring_state.index = p->vring_state.index; r.vring_state.num = 7; break;
        case VHK_FE_GET_VRING_BASE_SKIP_DRAIN: r.vring_state.index = p->vring_state.index; r.vring_state.num = 7; break;
        case VHK_FE_GET_INFLIGHT_FD:
                r.inflight = p->inflight;
                r.inflight.mmap_size = 1 << 20;
                fake_reply(b, WITH_FD, h, &r, sizeof(r.inflight));
                return;
        case VHK_FE_GET_CONFIG:
                r.config = p->config;
                for (uint32_t i = 0; i < p->config.len; i++)
                        r.config.data[i] = (uint8_t)(p->config.offset + i);
                size = p->config.offset + p->config.len <= b->config_len ? h->size : 0;
                break;
        case VHK_FE_CREATE_CRYPTO_SESSION: r = *p; size = h->size; break;
        case VHK_FE_GET_SHMEM_CONFIG: r.shmem_config = b->shmem; size = sizeof(b->shmem); break;
        default:
                r.u64.value = at && b->mischief == REFUSES ? b->refusal : 0;
        }
        fake_reply(b, at ? b->mischief : HONEST, h, &r, size);
}

static inline void fake_message(struct fake *b) {
        struct vhk_decoder *d = &b->conn.in;
        struct vhk_hdr h = vhk_decoder_header(d);
        union vhk_p_any p;
        const struct vhk_row *row = NULL;

        memset(&p, 0, sizeof(p));
        memcpy(&p, d->payload, h.size);
        enum vhk_rule rule = vhk_wire_check(&b->state, VHK_FROM_FRONTEND, &h, &p, d->surplus_fds ? 99 : d->n_fds, &row);
        if (rule != VHK_RULE_OK && b->broken == VHK_RULE_OK)
                b->broken = rule;
        b->order[b->total++ % VHK_N(b->order)] = h.request;
        vhk_store_release(&b->count[h.request % 64], b->count[h.request % 64] + 1);     /* pairs with a test that waits for it */
        b->flags[h.request % 64] = h.flags;
        enum vhk_answer due = row ? vhk_wire_answer(&b->state, row, &h) : VHK_ANSWER_NONE;
        fake_take(b, h.request, &p);
        if (h.request == b->say_at)
                fake_channel(b);
        if (due != VHK_ANSWER_NONE)
                fake_answer(b, &h, &p);
        vhk_decoder_next(d);
}

static inline void *fake_run(void *arg) {
        struct fake *b = arg;
        struct pollfd p[2] = { { .fd = b->conn.fd, .events = POLLIN }, { .fd = b->stop_fd, .events = POLLIN } };

        for (;;) {
                poll(p, 2, -1);
                if (p[1].revents)
                        return NULL;
                int k;
                while ((k = vhk_conn_receive(&b->conn)) == VHK_CONN_HEADER || k == VHK_CONN_MESSAGE)
                        if (k == VHK_CONN_MESSAGE)
                                fake_message(b);
                if (k != VHK_CONN_AGAIN)
                        p[0].fd = -1;           /* the front-end has gone; wait to be stopped */
        }
}

#define FAKE_PROTOCOL                                                                                                   \
        (VHK_BIT(VHK_PF_MQ) | VHK_BIT(VHK_PF_REPLY_ACK) | VHK_BIT(VHK_PF_BACKEND_REQ) | VHK_BIT(VHK_PF_CONFIG) |       \
         VHK_BIT(VHK_PF_RESET_DEVICE) | VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) | VHK_BIT(VHK_PF_STATUS))

static inline void fake_init(struct fake *b) {
        *b = (struct fake){ .channel = -1, .display = -1, .record = -1, .n_queues = 4, .slots = 32, .config_len = 60, .refusal = 1,
                .state = { .features_offered = VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_PROTOCOL_FEATURES) | VHK_BIT(VHK_F_INDIRECT_DESC) |
                                   VHK_BIT(VHK_F_RING_PACKED) | VHK_BIT(VHK_F_LOG_ALL), .protocol_offered = FAKE_PROTOCOL, .n_queues = 256 } };
}

/* Serves @fd, which becomes the fake's. */
static inline void fake_start(struct fake *b, int fd) {
        b->fd = fd;
        b->stop_fd = eventfd(0, EFD_CLOEXEC);
        vhk_conn_init(&b->conn, fd);
        pthread_create(&b->thread, NULL, fake_run, b);
}

static inline void fake_stop(struct fake *b) {
        vhk_notify_fd(b->stop_fd);
        pthread_join(b->thread, NULL);
        vhk_conn_done(&b->conn);
        vhk_close(&b->channel);
        vhk_close(&b->display);
        vhk_close(&b->stop_fd);
}
