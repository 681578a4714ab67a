/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The in-flight record between a front-end and back-ends that come and go: made, brought back, refused; requests of the time
 * before are done again; a ring is suspended. What a record may hold is tested beside it (ring/test-inflight.c).
 */
#include <signal.h>
#include <sys/stat.h>

#include "backend/test-backend.h"
#include "ring/inflight.h"

#define TRACKED (PROTOCOL | VHK_BIT(VHK_PF_INFLIGHT_SHMFD) | VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT) | VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN))

static struct vhk_p_inflight description(uint16_t n, uint16_t size) {
        return (struct vhk_p_inflight){ .num_queues = n, .queue_size = size };
}

/* GET_INFLIGHT_FD with a payload of @bytes; the descriptor is the caller's. -ENOENT: refused, by a
 * size of 0 and no descriptor. */
static int get_record(struct rig *r, struct vhk_p_inflight *p, uint32_t bytes, int *ret_fd) {
        uint64_t until = now_ns() + 10000000000u;

        fe_send(r, VHK_FE_GET_INFLIGHT_FD, 0, p, bytes, NULL, 0);
        for (;;) {
                int k = vhk_conn_receive(&r->fe);
                if (k == VHK_CONN_EOF || k == VHK_CONN_CUT)
                        return -EPIPE;
                if (k == VHK_CONN_MESSAGE)
                        break;
                CHECK(now_ns() < until);
                if (k == VHK_CONN_AGAIN)
                        turn(r, 1);
        }
        CHECK_EQ(vhk_decoder_header(&r->fe.in).size, sizeof(*p));
        memcpy(p, r->fe.in.payload, sizeof(*p));
        CHECK_EQ(r->fe.in.n_fds, !!p->mmap_size);
        if (!p->mmap_size) {
                vhk_decoder_next(&r->fe.in);
                return -ENOENT;
        }
        *ret_fd = VHK_STEAL_FD(r->fe.in.fds[0]);
        vhk_decoder_next(&r->fe.in);
        return 0;
}

static int64_t set_record(struct rig *r, struct vhk_p_inflight p, int fd) {
        return fe_ask(r, VHK_FE_SET_INFLIGHT_FD, &p, sizeof(p), fd);
}

/* A front-end with memory and a record, of ring 0's view. */
static void connect_with(struct rig *r, struct vhk_p_inflight *p, int *fd) {
        fe_connect(r);
        fe_negotiate(r, FEATURES, TRACKED);
        CHECK_EQ(fe_mem_reg(r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        if (*fd < 0) {
                *p = description(N_RINGS, 256);
                CHECK_OK(get_record(r, p, 24, fd));
        }
        CHECK_EQ(set_record(r, *p, *fd), 0);
}

static uint16_t used_index(struct rig *r, unsigned i) {
        return vhk_le16_get(((struct vhk_used *)(uintptr_t)ring_addr(r, i).used)->idx);
}

static unsigned n_in_record(const struct vhk_p_inflight *p, int fd, unsigned i) {
        uint8_t *m = mmap(NULL, p->mmap_size, PROT_READ, MAP_SHARED, fd, 0);
        unsigned n = 0;

        CHECK(m != MAP_FAILED);
        const struct vhk_inflight_split *r = (void *)(m + i * vhk_inflight_split_bytes(p->queue_size));
        for (unsigned k = 0; k < p->queue_size; k++)
                n += r->entries[k].inflight;
        munmap(m, p->mmap_size);
        return n;
}

static unsigned n_open(void) {
        return (unsigned)vhk_test_count_("/proc/self/fd");
}

TEST(a_record_is_made_for_each_question) {
        static struct rig r;
        struct vhk_p_inflight p = description(4, 128);
        struct stat a, b;
        int fd, other;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, TRACKED);
        CHECK_OK(get_record(&r, &p, 24, &fd));
        CHECK_EQ(p.num_queues, 4);
        CHECK_EQ(p.queue_size, 1024);                   /* of the largest ring that is served */
        CHECK_EQ(p.mmap_offset, 0);
        CHECK_EQ(p.mmap_size, 4 * vhk_inflight_split_bytes(1024));
        CHECK(fstat(fd, &a) == 0 && (uint64_t)a.st_size >= p.mmap_size);
        CHECK(ftruncate(fd, 0) < 0);                    /* nobody can take it away */
        p = description(1, 1);
        CHECK_OK(get_record(&r, &p, 20, &other));       /* as the text has it; the answer is QEMU's */
        CHECK(fstat(other, &b) == 0 && a.st_ino != b.st_ino);
        close(fd);
        close(other);
        unsigned before = n_open();
        for (unsigned i = 0; i < 1000; i++) {           /* H26 */
                p = description(N_RINGS, 32768);
                CHECK_OK(get_record(&r, &p, 24, &fd));
                close(fd);
        }
        CHECK_EQ(n_open(), before);
        p = description(N_RINGS + 1, 128);              /* no such rings: no record is kept */
        CHECK_EQ(get_record(&r, &p, 24, &fd), -ENOENT);
        CHECK_EQ(r.n_disconnected, 0);
        rig_close(&r);
}

/* H26 */
TEST(records_that_are_refused) {
        static struct rig r;
        struct vhk_p_inflight p = description(4, 128), q;
        int fd;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, TRACKED);
        fd = memfd_create("test-record", MFD_CLOEXEC);  /* another back-end made it */
        CHECK(fd >= 0 && ftruncate(fd, 4 * 4096) == 0);
        p.mmap_size = 4 * 2112;
#define REFUSED(field, value)                                   \
        q = p;                                                  \
        q.field = (value);                                      \
        CHECK_MSG(set_record(&r, q, fd) == 1, #field " = " #value)
        REFUSED(num_queues, 0);
        REFUSED(num_queues, N_RINGS + 1);
        REFUSED(num_queues, 65535);
        REFUSED(queue_size, 0);
        REFUSED(queue_size, 32769);
        REFUSED(queue_size, 32768);                     /* more than the bytes hold */
        REFUSED(mmap_size, 0);
        REFUSED(mmap_size, 4 * 2112 - 1);
        REFUSED(mmap_size, UINT64_C(1) << 40);          /* beyond the file */
        REFUSED(mmap_size, UINT64_MAX);
        REFUSED(mmap_offset, 64);
        REFUSED(mmap_offset, 4096 * 3);
        REFUSED(mmap_offset, UINT64_MAX - 4095);
#undef REFUSED
        int event = eventfd(0, EFD_CLOEXEC);
        CHECK_EQ(set_record(&r, p, event), 1);
        close(event);
        char path[64];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        int read_only = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(read_only >= 0);
        CHECK_EQ(set_record(&r, p, read_only), 1);
        close(read_only);
        CHECK_EQ(set_record(&r, p, fd), 0);
        CHECK_EQ(set_record(&r, p, fd), 0);             /* again, as often as it likes */
        close(fd);

        /* a ring that the record does not know is not recorded */
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        p = description(1, 8);
        CHECK_OK(get_record(&r, &p, 24, &fd));
        CHECK_EQ(set_record(&r, p, fd), 0);
        ring_make(&r, 1);
        ring_set_up(&r, 1, 0);
        ring_go(&r, 1);
        ring_add(&r, 1);
        PUMP_UNTIL(&r, ring_is_idle(&r, 1));
        CHECK_EQ(set_record(&r, p, fd), 1);             /* a ring runs */
        close(fd);
        rig_close(&r);
}

static unsigned n_warnings(const struct rig *r) {
        unsigned n = 0;

        for (const char *p = r->log; (p = strstr(p, "not recorded")); p++)
                n++;
        return n;
}

/* A record of another back-end, for the size that the front-end asked for, while its driver has
 * larger rings. */
TEST(a_ring_larger_than_a_record_from_elsewhere_runs_without_it) {
        static struct rig r;
        struct vhk_p_inflight p = { .mmap_size = 4096, .num_queues = 2, .queue_size = 8 };
        struct vhk_p_vring_state q = { 0, 0 }, base;
        uint8_t *m;

        int fd = memfd_create("test-record", MFD_CLOEXEC);
        CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
        m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(m != MAP_FAILED);
        rig_open(&r, NULL, NULL);
        connect_with(&r, &p, &fd);
        for (unsigned i = 0; i < 2; i++) {
                ring_make(&r, i);
                ring_set_up(&r, i, 0);
                ring_go(&r, i);
                ring_add(&r, i);
                PUMP_UNTIL(&r, ring_is_idle(&r, i));
        }
        CHECK_EQ(n_warnings(&r), 1);                    /* once is enough */
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        for (unsigned i = 0; i < 4096; i++)
                CHECK_EQ(m[i], 0);
        fe_send(&r, VHK_FE_GET_VRING_BASE_SKIP_DRAIN, 0, &q, sizeof(q), NULL, 0);
        PUMP_UNTIL(&r, r.dev.n_stop == 1);
        CHECK_EQ(r.dev.how, VHK_STOP_DRAIN);            /* there is nowhere to leave a request */
        dev_release(&r.dev);
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_VRING_BASE_SKIP_DRAIN, &base, sizeof(base)), 8);
        CHECK_EQ(base.num, 2);
        munmap(m, 4096);
        close(fd);
        rig_close(&r);
}

/* The successor of a back-end that holds requests: a second rig on the same memory. */
static void take_over(struct rig *new, struct rig *old) {
        rig_open(new, NULL, NULL);
        munmap(new->mem, MEM_BYTES);
        close(new->memfd);
        new->memfd = fcntl(old->memfd, F_DUPFD_CLOEXEC, 0);
        new->mem = old->mem;
        memcpy(new->rings, old->rings, sizeof(new->rings));
        for (unsigned i = 0; i < N_RINGS; i++)
                old->rings[i] = (struct ring){ .kick = -1, .call = -1, .err = -1, .num = RING_SIZE };
}

TEST(a_successor_finishes_what_was_in_flight) {
        static struct rig r, next;
        struct vhk_p_inflight p;
        uint64_t first = 0;
        int fd = -1;

        rig_open(&r, NULL, NULL);
        connect_with(&r, &p, &fd);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        for (unsigned i = 0; i < 3; i++)                /* three are answered */
                ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        r.dev.hold = true;
        for (unsigned i = 0; i < 5; i++)
                ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 5);
        CHECK_EQ(n_in_record(&p, fd, 0), 5);
        vhk_req_complete(r.dev.held[1], dev_answer(r.dev.held[1]));     /* out of order */
        PUMP_UNTIL(&r, used_index(&r, 0) == 4);
        CHECK_EQ(n_in_record(&p, fd, 0), 4);

        take_over(&next, &r);                           /* from here on the first one is dead, as far as anybody knows */
        next.dev.hold = true;
        connect_with(&next, &p, &fd);
        ring_set_up(&next, 0, used_index(&next, 0));    /* as QEMU: it knows no better */
        ring_go(&next, 0);
        PUMP_UNTIL(&next, next.dev.n_held == 4);
        for (unsigned i = 0; i < 4; i++) {
                uint64_t x;
                CHECK_EQ(vhk_req_read(next.dev.held[i], 0, &x, 8), 8);
                CHECK_MSG(i == 0 || x > first, "request %u comes after %u", (unsigned)x, (unsigned)first);
                first = x;
        }
        next.dev.hold = false;
        dev_release(&next.dev);
        ring_add(&next, 0);                             /* and it goes on behind them */
        PUMP_UNTIL(&next, ring_is_idle(&next, 0));
        CHECK_EQ(next.rings[0].n_reaped, 9);
        CHECK_EQ(n_in_record(&p, fd, 0), 0);
        CHECK_EQ(ring_stop(&next, 0), 9);

        /* started again by an honest front-end, at its base */
        ring_set_up(&next, 0, 9);
        ring_go(&next, 0);
        ring_add(&next, 0);
        PUMP_UNTIL(&next, ring_is_idle(&next, 0));
        /* and after a reset, with a ring that begins anew over the old record */
        CHECK_EQ(fe_ask(&next, VHK_FE_RESET_DEVICE, NULL, 0, -1), 0);
        ring_make(&next, 0);
        ring_set_up(&next, 0, 0);
        ring_go(&next, 0);
        for (unsigned i = 0; i < 7; i++)
                ring_add(&next, 0);
        PUMP_UNTIL(&next, ring_is_idle(&next, 0));
        close(fd);
        fe_close(&r);
        dev_release(&r.dev);
        pump(&r);
        next.mem = MAP_FAILED;
        fe_close(&next);
        next.mem = mmap(NULL, MEM_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        rig_close(&next);
        rig_close(&r);
}

/* QEMU 10.0: it asks for a record of 128 entries, shows its driver rings of 1024, and returns
 * mmap_size and its 128. */
TEST(a_record_that_was_asked_for_smaller_rings_than_the_drivers_holds_all_of_it) {
        static struct rig r, next;
        struct vhk_p_inflight p = description(2, 128);
        int fd;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, TRACKED);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        CHECK_OK(get_record(&r, &p, 24, &fd));
        p.queue_size = 128;
        CHECK_EQ(set_record(&r, p, fd), 0);
        for (unsigned i = 0; i < 2; i++) {
                ring_make_of(&r, i, RING_SIZE_LARGE);
                ring_set_up(&r, i, 0);
                ring_go(&r, i);
        }
        CHECK_EQ(n_warnings(&r), 0);
        r.dev.hold = true;
        for (unsigned n = 0; n < 200; n++)              /* heads up to 198, in both rings */
                ring_add(&r, n % 2);
        PUMP_UNTIL(&r, r.dev.n_held == 200);

        take_over(&next, &r);
        next.dev.hold = true;
        connect_with(&next, &p, &fd);
        for (unsigned i = 0; i < 2; i++) {
                ring_set_up(&next, i, used_index(&next, i));
                ring_go(&next, i);
        }
        PUMP_UNTIL(&next, next.dev.n_held == 200);
        p.queue_size = RING_SIZE_LARGE;
        CHECK_EQ(n_in_record(&p, fd, 0), 100);
        CHECK_EQ(n_in_record(&p, fd, 1), 100);
        next.dev.hold = false;
        dev_release(&next.dev);
        PUMP_UNTIL(&next, ring_is_idle(&next, 0) && ring_is_idle(&next, 1));
        CHECK_EQ(n_in_record(&p, fd, 0) + n_in_record(&p, fd, 1), 0);
        close(fd);
        fe_close(&r);
        dev_release(&r.dev);
        pump(&r);
        next.mem = MAP_FAILED;
        fe_close(&next);
        next.mem = mmap(NULL, MEM_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        rig_close(&next);
        rig_close(&r);
}

/* A recovered request that the device has not looked at yet belongs to the drain. */
TEST(drain_finishes_what_was_recovered) {
        static struct rig r;
        struct vhk_p_inflight p;
        int fd = -1;

        rig_open(&r, NULL, NULL);
        connect_with(&r, &p, &fd);
        ring_make(&r, 0);
        /* two requests that a predecessor took */
        uint8_t *m = mmap(NULL, p.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(m != MAP_FAILED);
        struct vhk_inflight_split *rec = (void *)m;
        rec->version = 1;
        rec->n_entries = p.queue_size;
        struct ring *g = &r.rings[0];
        for (unsigned i = 0; i < 2; i++) {
                uint64_t *pair = (uint64_t *)(g->area + BUFFERS) + 2 * i;
                struct iovec sg[2] = { { &pair[0], 8 }, { &pair[1], 8 } };
                pair[0] = i;
                CHECK_OK(vhk_drvring_add(g->drv, sg, 1, 1, pair));
                rec->entries[2 * i] = (struct vhk_inflight_split_entry){ .inflight = 1, .counter = i };
        }
        g->n_added = 2;
        vhk_drvring_publish(g->drv);
        ring_set_up(&r, 0, 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        pump(&r);
        CHECK_EQ(used_index(&r, 0), 0);                 /* it is disabled */
        fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1);
        CHECK_EQ(ring_stop(&r, 0), 2);
        CHECK(ring_is_idle(&r, 0));
        CHECK_EQ(n_in_record(&p, fd, 0), 0);
        munmap(m, p.mmap_size);
        close(fd);
        rig_close(&r);
}

/* ---- message 45 ---- */

static void leave_all(void *arg, struct vhk_queue *q, enum vhk_stop how) {
        struct dev *d = arg;

        d->how = how;
        d->n_stop++;
        for (unsigned i = 0; how == VHK_STOP_SUSPEND && i < d->n_held; i++)
                CHECK_OK(vhk_queue_leave(q, d->held[i]));
        d->n_held = how == VHK_STOP_SUSPEND ? 0 : d->n_held;
}

static int suspend(struct rig *r, unsigned i) {
        struct vhk_p_vring_state p = { i, 0 }, base = { ~0u, ~0u };

        fe_send(r, VHK_FE_GET_VRING_BASE_SKIP_DRAIN, 0, &p, sizeof(p), NULL, 0);
        int k = fe_receive(r, VHK_FE_GET_VRING_BASE_SKIP_DRAIN, &base, sizeof(base));
        CHECK_EQ(k, 8);
        return (int)base.num;
}

TEST(a_suspended_ring_goes_on_later) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;
        struct vhk_p_inflight p;
        int fd = -1;

        ops.queue_stop = leave_all;
        rig_open(&r, NULL, &ops);
        connect_with(&r, &p, &fd);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        r.dev.hold = true;
        for (unsigned i = 0; i < 3; i++)
                ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 3);
        CHECK_EQ(suspend(&r, 0), 3);
        CHECK_EQ(r.dev.how, VHK_STOP_SUSPEND);
        CHECK_EQ(used_index(&r, 0), 0);
        CHECK_EQ(n_in_record(&p, fd, 0), 3);
        ring_add(&r, 0);
        ring_set_up(&r, 0, 3);
        ring_go(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 4);
        r.dev.hold = false;
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(n_in_record(&p, fd, 0), 0);

        /* GET_VRING_BASE waits, whatever was negotiated */
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        struct vhk_p_vring_state q = { 0, 0 }, base;
        fe_send(&r, VHK_FE_GET_VRING_BASE, 0, &q, sizeof(q), NULL, 0);
        PUMP_UNTIL(&r, r.dev.n_stop == 2);
        CHECK_EQ(r.dev.how, VHK_STOP_DRAIN);
        CHECK(!is_readable(r.fe.fd));
        dev_release(&r.dev);
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_VRING_BASE, &base, sizeof(base)), 8);
        CHECK_EQ(base.num, 5);
        CHECK_EQ(suspend(&r, 0), 5);                    /* it has stopped already */
        close(fd);
        rig_close(&r);
}

/* Without a record, or with a device that leaves nothing, to suspend is to drain. */
TEST(suspend_without_a_record_drains) {
        static struct rig r;
        struct vhk_p_vring_state p = { 0, 0 }, base;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, TRACKED);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        fe_send(&r, VHK_FE_GET_VRING_BASE_SKIP_DRAIN, 0, &p, sizeof(p), NULL, 0);
        PUMP_UNTIL(&r, r.dev.n_stop == 1);
        CHECK_EQ(r.dev.how, VHK_STOP_DRAIN);
        dev_release(&r.dev);
        CHECK_EQ(fe_receive(&r, VHK_FE_GET_VRING_BASE_SKIP_DRAIN, &base, sizeof(base)), 8);
        CHECK_EQ(base.num, 1);
        rig_close(&r);
}

/* ---- bits and memory that goes away ---- */

static uint64_t offered(struct rig *r) {
        fe_connect(r);
        uint64_t bits = fe_get(r, VHK_FE_GET_PROTOCOL_FEATURES);
        rig_close(r);
        return bits & (TRACKED & ~PROTOCOL);
}

TEST(bits_depend_on_each_other) {
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;

        rig_open(&r, &(struct vhk_backend_options){ .protocol_no_offer = VHK_BIT(VHK_PF_INFLIGHT_SHMFD) }, NULL);
        CHECK_EQ(offered(&r), 0);
        rig_open(&r, &(struct vhk_backend_options){ .protocol_no_offer = VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT) }, NULL);
        CHECK_EQ(offered(&r), VHK_BIT(VHK_PF_INFLIGHT_SHMFD));
        ops.disabled = VHK_DISABLED_DISCARD;            /* what may be dropped needs no record */
        rig_open(&r, NULL, &ops);
        CHECK_EQ(offered(&r), 0);
        rig_open(&r, NULL, NULL);
        CHECK_EQ(offered(&r), TRACKED & ~PROTOCOL);
}

static void on_sigbus(int sig, siginfo_t *si, void *context) {
        if (!vhk_sigbus_try(si))
                _exit(1);
}

/* H26: a record in a file that shrinks costs the connection. */
TEST(a_record_that_is_truncated) {
        struct sigaction a = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, old;
        static struct rig r;
        struct vhk_p_inflight p = { .mmap_size = 4096 * 4, .num_queues = 1, .queue_size = 16 };

        CHECK(sigaction(SIGBUS, &a, &old) == 0);
        int fd = memfd_create("test-record", MFD_CLOEXEC);
        CHECK(fd >= 0 && ftruncate(fd, 4096 * 4) == 0);
        rig_open(&r, NULL, NULL);
        connect_with(&r, &p, &fd);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK(ftruncate(fd, 0) == 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_STR(r.last_rule, "inflight.bad");
        close(fd);
        rig_close(&r);
        sigaction(SIGBUS, &old, NULL);
}
