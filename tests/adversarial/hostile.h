/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The table of adversarial inputs (README.md) as tests. One process serves two disks from the same two workers (each with a thread of its
 * own): the victim, whom the rows attack, and the bystander, whose front-end does verified reads all the while. After each
 * row the process lives, the bystander was served, descriptors, mappings and memory are what they were, and no thread
 * turns.
 *
 * A row's function runs on the main thread, with the scripted front-end of backend/test-backend.h.
 */
#pragma once

#define VHK_TEST_OWN_MAIN
#include "backend/test-backend.h"
#include "wire/sample.h"

#define VICTIM_SECTORS 2048u
#define RING_MAX 128u
#define LIMIT_NS 300000000ull

struct row {
        const char *id, *title, *outcome;
        void (*fn)(void);
        bool (*run)(void (*fn)(void));
        struct row *next;
};
void row_register(struct row *r);

extern struct rig *fe;                  /* the front-end that attacks */
extern struct rig *postcopy_fe;         /* another, whose back-end offers postcopy if this machine can; a row may point @fe at it */
extern struct rig *class_fe;            /* likewise: a device of every class, which adds one to a number; offers CROSS_ENDIAN */
/* What that device was told. */
struct class_seen { unsigned n_rarp, n_mtu, n_sessions, n_open; uint16_t mtu; };
extern struct class_seen class_seen;
#define CLASS_SESSIONS 64u              /* crypto sessions that it takes */
extern struct vhk_host *victim_host;
extern uint64_t offered, offered_protocol;
extern char verdict[128];               /* what a row adds to its verdict */
extern char disk_path[96];

/* What a back-end makes at its first use and keeps. */
void warm_up(void);
void warm_up_postcopy(void);
void warm_up_class(void);
/* How often the workers have woken up. */
unsigned turns(void);
/* No worker turns without a reason: at most @most times in 30 ms. */
void expect_quiet(const char *when, unsigned most);

static VHK_UNUSED bool row_run(void (*fn)(void)) {
        vhk_test_failed_ = vhk_test_skipped_ = 0;
        if (!setjmp(vhk_test_out_))
                fn();
        return !vhk_test_failed_;
}

#define ROW(number, row_title, row_outcome)                                                                             \
        static void row_##number(void);                                                                                 \
        __attribute__((constructor)) static void reg_##number(void) {                                                   \
                static struct row r = { #number, row_title, row_outcome, row_##number, row_run, NULL };                 \
                row_register(&r);                                                                                       \
        }                                                                                                               \
        static void row_##number(void)

/* ---- one message, and what became of it ---- */

enum result { OK, REPLY, NO, IGNORED, CLOSED };

static VHK_UNUSED const char *const result_names[] = { "acknowledged", "answered", "refused", "ignored", "closed" };

/* Receives until the answer to the probe behind the message; *ret_reply is the message's own, if it has one. */
static inline enum result outcome_of(uint32_t id, void *ret_reply, size_t room) {
        uint8_t buf[VHK_MAX_PAYLOAD];
        enum result r = IGNORED;

        for (;;) {
                int k = -EPIPE;
                uint64_t until = now_ns() + 10000000000u;
                while ((k = vhk_conn_receive(&fe->fe)) == VHK_CONN_HEADER || k == VHK_CONN_AGAIN) {
                        CHECK_MSG(now_ns() < until, "no answer to message %u and none to GET_FEATURES", id);
                        if (k == VHK_CONN_AGAIN)
                                turn(fe, 1);
                }
                if (k != VHK_CONN_MESSAGE)
                        return CLOSED;
                struct vhk_hdr h = vhk_decoder_header(&fe->fe.in);
                CHECK_EQ(h.flags, VHK_HDR_VERSION | VHK_HDR_REPLY);
                CHECK(h.size <= sizeof(buf));
                memcpy(buf, fe->fe.in.payload, h.size);
                vhk_decoder_next(&fe->fe.in);
                if (h.request == VHK_FE_GET_FEATURES && (id != VHK_FE_GET_FEATURES || r != IGNORED))
                        return r;
                CHECK_EQ(h.request, id);
                CHECK_MSG(r == IGNORED, "two answers to message %u", id);
                const struct vhk_row *row = vhk_wire_row(VHK_FROM_FRONTEND, id, VHK_PHASE_NORMAL);
                bool own = row && (row->reply_rule == VHK_REPLY_ALWAYS || row->reply_rule == VHK_REPLY_LOG_BASE);
                bool zero = h.size == 8 && !memcmp(buf, &(uint64_t){ 0 }, 8);
                union vhk_p_any no;
                int n = own ? vhk_wire_refusal(row, &h, &no) : -1;
                r = !own ? zero ? OK : NO : n >= 0 && (uint32_t)n == h.size && !memcmp(buf, &no, h.size) ? NO : REPLY;
                if (own && h.size == 8 && ((row->gate.protocol & ~fe->protocol) || (row->gate.virtio & ~fe->features)))
                        r = NO;                 /* not negotiated: a refusal, no reply */
                if (ret_reply)
                        memcpy(ret_reply, buf, VHK_MIN(room, (size_t)h.size));
        }
}

/* @payload has @there bytes, whatever the header says. */
static inline enum result send_and_see(uint32_t id, uint32_t flags, const void *payload, uint32_t size, uint32_t there, const int *fds,
                                       unsigned n_fds) {
        uint8_t raw[12 + 4096 + 12];
        struct vhk_hdr h = { id, flags, size }, probe = { VHK_FE_GET_FEATURES, VHK_HDR_VERSION, 0 };
        union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int) * 253)]; } c = { { 0 } };
        struct iovec v = { raw, 24 + there };
        struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

        memcpy(raw, &h, 12);
        if (there)
                memcpy(raw + 12, payload, there);
        memcpy(raw + 12 + there, &probe, 12);
        if (n_fds) {
                m.msg_control = &c;
                m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c.h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int) * n_fds), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
                memcpy(CMSG_DATA(&c.h), fds, sizeof(int) * n_fds);
        }
        if (sendmsg(fe->fe.fd, &m, MSG_NOSIGNAL) < 0)
                return CLOSED;
        return outcome_of(id, NULL, 0);
}

static inline enum result say(uint32_t id, const void *payload, uint32_t size, int fd) {
        return send_and_see(id, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, payload, size, size, &fd, fd >= 0);
}

static inline enum result say_u64(uint32_t id, uint64_t x, int fd) {
        return say(id, &x, sizeof(x), fd);
}

static inline enum result say_ring(uint32_t id, uint32_t i, uint32_t num) {
        return say(id, &(struct vhk_p_vring_state){ i, num }, 8, -1);
}

/* ---- connections ---- */

/* Everything this back-end has, but postcopy with slots and what changes the shape of messages. */
static inline uint64_t all_protocol(void) {
        return offered_protocol & ~VHK_BIT(VHK_PF_XEN_MMAP) & ~VHK_BIT(VHK_PF_PAGEFAULT) & ~VHK_BIT(VHK_PF_GPA_ADDRESSES) & ~VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS);
}

static inline void leave(void) {
        fe_close(fe);
}

/* A new connection, negotiated, without memory. */
static inline void come(void) {
        leave();
        fe_connect(fe);
        fe_negotiate(fe, FEATURES, all_protocol());
}

static inline void come_with_memory(void) {
        come();
        CHECK_EQ(fe_mem_reg(fe, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
}

/* ... and ring 0 runs. */
static inline void come_with_ring(void) {
        come_with_memory();
        ring_make(fe, 0);
        ring_set_up(fe, 0, 0);
        ring_go(fe, 0);
}

static inline void expect_refused(enum result r, const char *what, uint64_t which) {
        CHECK_MSG(r == NO || r == CLOSED, "%s (0x%llx): %s", what, (unsigned long long)which, result_names[r]);
        if (r == CLOSED)
                come();
}
#define REFUSED(call, which) expect_refused((call), #call, (uint64_t)(which))
#define ACCEPTED(call)                                                                                                  \
        do {                                                                                                            \
                enum result r_ = (call);                                                                                \
                CHECK_MSG(r_ == OK || r_ == REPLY, "%s: %s", #call, result_names[r_]);                                  \
        } while (0)

static inline void expect_alive(void) {
        uint64_t x = 0;

        fe_send(fe, VHK_FE_GET_FEATURES, 0, NULL, 0, NULL, 0);
        PUMP_UNTIL(fe, vhk_conn_flush(&fe->fe) == 1);
        CHECK_EQ(fe_receive(fe, VHK_FE_GET_FEATURES, &x, 8), 8);
        CHECK_EQ(x, offered);
}

/* A message of a feature that is not offered must be refused; says so in the verdict. */
static inline bool is_offered(unsigned protocol_bit, const char *name, const uint32_t *ids, unsigned n) {
        static struct vhk_sample m;

        if (offered_protocol & VHK_BIT(protocol_bit))
                return true;
        come();
        for (unsigned i = 0; i < n; i++) {
                const struct vhk_row *row = vhk_wire_row(VHK_FROM_FRONTEND, ids[i], VHK_PHASE_NORMAL);
                unsigned v = 0;
                while (!vhk_sample_make(&m, row, &vhk_variants[v], vhk_variants[v].each ? 1 : 0))
                        v++;
                REFUSED(say(ids[i], m.u.bytes, m.hdr.size, m.n_fds ? fe->memfd : -1), ids[i]);
        }
        REFUSED(say_u64(VHK_FE_SET_PROTOCOL_FEATURES, all_protocol() | VHK_BIT(protocol_bit), -1), protocol_bit);
        snprintf(verdict, sizeof(verdict), "refused: %s not offered", name);
        return false;
}

/* ---- block requests over ring @i of the running session ---- */

struct blk_head { uint32_t type, ioprio; uint64_t sector; };
#define HEAD_AT 0x4000u
#define DATA_AT 0x5000u
#define STATUS_AT 0x4800u

/* A verified read of one sector. */
static inline void read_sector(unsigned i, uint64_t sector) {
        struct ring *g = &fe->rings[i];
        struct blk_head *h = (void *)(g->area + HEAD_AT);
        uint64_t *data = (void *)(g->area + DATA_AT);
        struct iovec sg[3] = { { h, 16 }, { data, 512 }, { g->area + STATUS_AT, 1 } };
        struct vhk_done done;
        int n = 0;

        *h = (struct blk_head){ .type = 0, .sector = sector };
        memset(data, 0xee, 512);
        g->area[STATUS_AT] = 0xff;
        CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 2, data));
        (void)vhk_drvring_arm(g->drv);
        if (vhk_drvring_publish(g->drv))
                vhk_notify_fd(g->kick);
        PUMP_UNTIL(fe, (n = vhk_drvring_reap(g->drv, &done, 1)) != 0);
        CHECK_EQ(n, 1);
        CHECK_EQ(done.len, 513);
        CHECK_EQ(g->area[STATUS_AT], 0);
        for (unsigned k = 0; k < 64; k++)
                CHECK_EQ(data[k], sector * 64 + k);
}

static inline bool is_broken(unsigned i) {
        return is_readable(fe->rings[i].err);
}
