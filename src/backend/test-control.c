/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The orders that control sends to a queue's worker, and the worker's reports: what must hold
 * whatever else is sent in between, and however late a report comes. The queues live on a worker of
 * their own, which runs only when the test lets it.
 */
#include <sys/resource.h>

#include "backend/session.h"
#include "backend/test-iotlb.h"

#define ACK 0
#define NACK 1
#define LIMIT_SHORT UINT64_C(200000000)
#define LOG_PROTOCOL (PROTOCOL | VHK_BIT(VHK_PF_LOG_SHMFD))
#define LOG_ALL VHK_BIT(VHK_F_LOG_ALL)
#define RECORD_PROTOCOL (PROTOCOL | VHK_BIT(VHK_PF_INFLIGHT_SHMFD) | VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT))

/* ---- a worker that runs when the test lets it ---- */

static struct vhk_worker *queue_worker;
static bool worker_is_busy;

static int turn_both(struct rig *r, int timeout_ms) {
        int n = worker_is_busy ? 0 : vhk_worker_dispatch(queue_worker, 0);      /* first: before a time limit of control's */

        n += vhk_worker_dispatch(r->control, 0);
        if (!n && timeout_ms)
                n = vhk_worker_dispatch(r->control, timeout_ms);
        return n;
}

static void open_apart(struct rig *r, const struct vhk_backend_options *o, struct vhk_device_ops ops) {
        memset(r, 0, sizeof(*r));
        worker_is_busy = false;
        ops.threads = VHK_THREADS_PER_QUEUE;
        r->turn = turn_both;
        CHECK_OK(vhk_worker_new(NULL, NULL, &queue_worker));
        rig_open_with(r, o, &ops, NULL);
        for (unsigned i = 0; i < N_RINGS; i++)
                CHECK_OK(vhk_backend_set_worker(r->b, i, queue_worker));
}

static void close_apart(struct rig *r) {
        worker_is_busy = false;
        rig_close(r);
        vhk_worker_free(queue_worker);
}

static void pump_for_ms(struct rig *r, unsigned ms) {
        for (uint64_t end = now_ns() + ms * UINT64_C(1000000); now_ns() < end;)
                turn(r, 1);
}

/* A device that counts what it is given. */
static unsigned n_served;

static void counting_run(void *arg, struct vhk_queue *q) {
        struct dev *d = arg;
        struct vhk_req *r;

        while (vhk_queue_pop(q, &r, 1) > 0) {
                n_served++;
                if (d->hold)
                        d->held[d->n_held++] = r;
                else
                        vhk_queue_push(q, r, dev_answer(r));
        }
        vhk_queue_flush(q);
}

static struct vhk_device_ops counting_ops(void) {
        struct vhk_device_ops ops = dev_ops;

        ops.queue_run = counting_run;
        n_served = 0;
        return ops;
}

static void send_get_base(struct rig *r, unsigned i) {
        struct vhk_p_vring_state p = { i, 0 };
        fe_send(r, VHK_FE_GET_VRING_BASE, 0, &p, sizeof(p), NULL, 0);
}

static int receive_base(struct rig *r) {
        struct vhk_p_vring_state base = { ~0u, ~0u };
        int ret = fe_receive(r, VHK_FE_GET_VRING_BASE, &base, sizeof(base));

        return ret < 0 ? ret : (int)base.num;
}

/* ---- a stop is answered, whatever else is sent ---- */

TEST(get_vring_base_is_answered_when_a_translation_is_refused_meanwhile) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .limit_ns = 2000000000u }, 1);
        next_miss(&r);                          /* the ring's areas are missing: it is stalled */
        send_get_base(&r, 0);
        channel_answer(1);                      /* both are there when control looks */
        CHECK_EQ(receive_base(&r), 0);
        ring_go(&r, 0);
        iotlb_close(&r);
}

/* The translation's time limit passes (its timer is called here) while the request in flight is not
 * done. */
TEST(get_vring_base_is_answered_when_a_translation_comes_too_late_meanwhile) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 0);
        CHECK_EQ(iotlb_update(&r, GPA, 5 * PAGE, 3), ACK);
        iotlb_ring(&r, 0);
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        uint64_t *pair = (uint64_t *)(r.rings[0].area + 0x5000);        /* is not known */
        struct iovec sg[2] = { { &pair[0], 8 }, { &pair[1], 8 } };
        CHECK_OK(vhk_drvring_add(r.rings[0].drv, sg, 1, 1, pair));
        vhk_drvring_publish(r.rings[0].drv);
        vhk_notify_fd(r.rings[0].kick);
        next_miss(&r);
        send_get_base(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_stop == 1);
        r.b->session.rings[0].miss.deadline = 1;
        vhk_iotlb_on_timer(r.b);
        pump_for_ms(&r, 20);
        dev_release(&r.dev);
        CHECK_EQ(receive_base(&r), 1);
        ring_reap(&r, 0);
        CHECK_EQ(r.rings[0].n_reaped, 1);       /* what was in flight is published: nothing broke the ring */
        iotlb_close(&r);
}

/* ---- a stop that outlasts its limit ---- */

/* Six requests, of which one is in flight; RESET_DEVICE is refused at its limit. */
static void refuse_reset(struct rig *r) {
        for (int i = 0; i < 5; i++)
                ring_add(r, 0);
        PUMP_UNTIL(r, ring_is_idle(r, 0));
        r->dev.hold = true;
        ring_add(r, 0);
        PUMP_UNTIL(r, r->dev.n_held == 1);
        CHECK_EQ(fe_ask(r, VHK_FE_RESET_DEVICE, NULL, 0, -1), NACK);
}

/* All that may be sent to a ring that runs; none of it starts one, and none of it cancels the
 * stop. */
static void send_changes(struct rig *r) {
        struct vhk_p_vring_addr a = ring_addr(r, 0);

        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_CALL, 0, r->rings[0].call), ACK);
        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_ERR, 0, r->rings[0].err), ACK);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_ENABLE, 0, 0), ACK);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_ENABLE, 0, 1), ACK);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), ACK);
        CHECK_EQ(fe_ask_u64(r, VHK_FE_SET_FEATURES, FEATURES & ~VHK_BIT(VHK_F_EVENT_IDX)), ACK);
        CHECK_EQ(fe_ask_u64(r, VHK_FE_SET_FEATURES, FEATURES), ACK);
        CHECK_EQ(fe_mem_reg(r, VHK_FE_REM_MEM_REG, 1 << 20, 1 << 20), r->dev.n_held ? NACK : ACK);
}

TEST(a_ring_whose_stop_is_refused_stays_draining_until_it_stops) {
        static struct rig r;

        open_apart(&r, &(struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, counting_ops());
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, 1 << 20), ACK);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), ACK);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        refuse_reset(&r);
        send_changes(&r);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), NACK);
        CHECK(strstr(r.log, "no SET_VRING_KICK"));
        ring_make(&r, 1);
        ring_set_up(&r, 1, 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 1, r.rings[1].kick), NACK);       /* no ring of a device that is being reset */
        CHECK_EQ(r.dev.n_stopped, 0);
        CHECK_EQ(r.dev.n_reset, 0);

        r.dev.hold = false;
        dev_release(&r.dev);                    /* nobody waits for it any more */
        PUMP_UNTIL(&r, r.dev.n_reset == 1);
        CHECK_EQ(r.dev.n_stopped, 1);
        send_changes(&r);
        pump_for_ms(&r, 20);
        CHECK_EQ(r.dev.n_start, 1);             /* it has not run again */
        CHECK_EQ(n_served, 6);

        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 1 << 20, 1 << 20), ACK);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(n_served, 7);
        CHECK_EQ(ring_stop(&r, 0), 1);
        close_apart(&r);
}

TEST(get_vring_base_waits_for_a_stop_that_was_refused) {
        static struct rig r;

        open_apart(&r, &(struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, counting_ops());
        fe_set_up(&r, 1);
        refuse_reset(&r);
        send_get_base(&r, 0);
        pump_for_ms(&r, 20);
        CHECK_EQ(vhk_conn_receive(&r.fe), VHK_CONN_AGAIN);
        r.dev.hold = false;
        dev_release(&r.dev);
        CHECK_EQ(receive_base(&r), 6);
        CHECK_EQ(r.dev.n_reset, 1);
        CHECK_EQ(fe_ask(&r, VHK_FE_RESET_DEVICE, NULL, 0, -1), ACK);
        CHECK_EQ(r.dev.n_reset, 2);
        close_apart(&r);
}

/* A status that is set meanwhile does not make the device forget that it is to be reset. */
TEST(a_reset_that_was_refused_is_done_when_the_rings_have_stopped) {
        static struct rig r;

        open_apart(&r, &(struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, counting_ops());
        fe_set_up(&r, 1);
        refuse_reset(&r);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_STATUS, 1), ACK);
        pump_for_ms(&r, 20);
        CHECK_EQ(r.dev.n_reset, 0);
        r.dev.hold = false;
        dev_release(&r.dev);
        PUMP_UNTIL(&r, r.dev.n_reset == 1);
        close_apart(&r);
}

/* User-Mode Linux sets a disabled ring up again without GET_VRING_BASE: SET_VRING_NUM and
 * SET_VRING_BASE stop it first. */
TEST(a_new_base_that_was_refused_leaves_the_ring_stopped) {
        static struct rig r;

        open_apart(&r, &(struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, counting_ops());
        fe_set_up(&r, 1);
        r.dev.hold = true;
        ring_add(&r, 0);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 0), ACK);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 0, 0), NACK);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), NACK);
        r.dev.hold = false;
        dev_release(&r.dev);
        PUMP_UNTIL(&r, r.dev.n_stopped == 1);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_CALL, 0, r.rings[0].call), ACK);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1), ACK);
        pump_for_ms(&r, 20);
        CHECK_EQ(r.dev.n_start, 1);
        CHECK_EQ(ring_stop(&r, 0), 1);          /* where it stopped, not the base that was refused */
        CHECK_EQ(n_served, 1);
        close_apart(&r);
}

/* ---- quiesced is a fact ---- */

static void add_pair(struct rig *r, uint64_t at) {
        uint64_t *pair = (uint64_t *)(r->rings[0].area + at);
        struct iovec sg[2] = { { &pair[0], 8 }, { &pair[1], 8 } };

        pair[0] = 5;
        pair[1] = 0;
        CHECK_OK(vhk_drvring_add(r->rings[0].drv, sg, 1, 1, pair));
        vhk_drvring_publish(r->rings[0].drv);
        vhk_notify_fd(r->rings[0].kick);
}

TEST(an_invalidation_waits_for_its_request_when_a_translation_is_refused_meanwhile) {
        struct vhk_p_iotlb p = { .iova = GPA + 4 * PAGE, .len = PAGE, .type = VHK_IOTLB_INVALIDATE };
        static struct rig r;
        uint64_t ack = ~0ull;

        iotlb_open(&r, (struct vhk_backend_options){ .limit_ns = 5000000000u }, 0);
        CHECK_EQ(iotlb_update(&r, GPA, 5 * PAGE, 3), ACK);      /* the ring's areas, and page 4: buffers of the first request */
        iotlb_ring(&r, 0);
        r.dev.hold = true;
        add_pair(&r, 0x4000);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        add_pair(&r, 0x5000);                   /* page 5 is not known */
        next_miss(&r);
        fe_send(&r, VHK_FE_IOTLB_MSG, 0, &p, sizeof(p), NULL, 0);
        pump_for_ms(&r, 20);
        CHECK_EQ(vhk_conn_receive(&r.fe), VHK_CONN_AGAIN);
        channel_answer(1);                      /* page 5: refused */
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));
        pump_for_ms(&r, 20);
        CHECK_EQ(vhk_conn_receive(&r.fe), VHK_CONN_AGAIN);
        dev_release(&r.dev);
        CHECK_EQ(fe_receive(&r, VHK_FE_IOTLB_MSG, &ack, sizeof(ack)), 8);
        CHECK_EQ(ack, ACK);
        iotlb_close(&r);
}

/* The change of memory and the refusal of a translation reach the worker as one. */
TEST(a_memory_change_waits_for_its_request_when_another_order_takes_its_place) {
        struct vhk_p_iotlb p = { .iova = GPA + 4 * PAGE, .len = PAGE, .type = VHK_IOTLB_INVALIDATE };
        static struct rig r;
        uint64_t ack = ~0ull;

        open_apart(&r, &(struct vhk_backend_options){ .features_offer = PLATFORM, .limit_ns = 5000000000u }, dev_ops);
        iotlb_connect(&r, 0);
        CHECK_EQ(iotlb_update(&r, GPA, 5 * PAGE, 3), ACK);
        iotlb_ring(&r, 0);
        r.dev.hold = true;
        add_pair(&r, 0x4000);
        PUMP_UNTIL(&r, r.dev.n_held == 1);
        add_pair(&r, 0x5000);
        next_miss(&r);
        worker_is_busy = true;
        fe_send(&r, VHK_FE_IOTLB_MSG, 0, &p, sizeof(p), NULL, 0);
        pump_for_ms(&r, 20);
        channel_answer(1);
        pump_for_ms(&r, 20);
        worker_is_busy = false;
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));
        pump_for_ms(&r, 20);
        CHECK_EQ(vhk_conn_receive(&r.fe), VHK_CONN_AGAIN);
        dev_release(&r.dev);
        CHECK_EQ(fe_receive(&r, VHK_FE_IOTLB_MSG, &ack, sizeof(ack)), 8);
        CHECK_EQ(ack, ACK);
        vhk_conn_done(&channel);
        channel.fd = -1;
        close_apart(&r);
}

/* ---- a start is acknowledged when it is one ---- */

TEST(kick_is_refused_when_the_device_does_not_start) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), ACK);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 3);
        r.dev.refuse_start = -ENOMEM;
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), NACK);
        CHECK(strstr(r.log, "ring.start") && strstr(r.log, strerror(ENOMEM)));
        CHECK(is_readable(r.rings[0].err));     /* for those to whom no answer is due */
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), NACK);       /* and tried again */
        CHECK_EQ(r.dev.n_start, 2);
        CHECK_EQ(ring_stop(&r, 0), 3);
        CHECK_EQ(r.dev.n_stop, 0);
        r.dev.refuse_start = 0;
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_BASE, 0, 0), ACK);
        ring_go(&r, 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

static int open_files(rlim_t n) {
        struct rlimit l;

        CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0);
        int before = (int)l.rlim_cur;
        l.rlim_cur = n;
        CHECK(setrlimit(RLIMIT_NOFILE, &l) == 0);
        return before;
}

/* A ring that is polled needs a timer, which needs a descriptor. */
TEST(kick_is_refused_when_no_descriptors_are_left) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), ACK);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        rlim_t before = (rlim_t)open_files(3);
        int64_t first = fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, -1);
        open_files(before);
        CHECK_EQ(first, NACK);
        CHECK_EQ(r.dev.n_start, 0);             /* the device is asked last */
        ring_go(&r, 0);
        open_files(3);
        int64_t second = fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, -1);   /* a ring that runs is given no descriptor instead of one */
        open_files(before);
        CHECK_EQ(second, NACK);
        CHECK_EQ(ring_stop(&r, 0), 0);
        ring_go(&r, 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

TEST(kick_is_answered_when_the_worker_has_started_the_ring) {
        uint64_t ring = 0, ack = ~0ull;
        static struct rig r;

        open_apart(&r, NULL, counting_ops());
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), ACK);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        worker_is_busy = true;
        fe_send(&r, VHK_FE_SET_VRING_KICK, VHK_HDR_NEED_REPLY, &ring, sizeof(ring), &r.rings[0].kick, 1);
        pump_for_ms(&r, 20);
        CHECK_EQ(vhk_conn_receive(&r.fe), VHK_CONN_AGAIN);
        worker_is_busy = false;
        CHECK_EQ(fe_receive(&r, VHK_FE_SET_VRING_KICK, &ack, sizeof(ack)), 8);
        CHECK_EQ(ack, ACK);
        CHECK_EQ(r.dev.n_start, 1);
        close_apart(&r);
}

TEST(a_start_that_was_refused_at_its_limit_does_not_run_later) {
        static struct rig r;

        open_apart(&r, &(struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, counting_ops());
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, PROTOCOL);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), ACK);
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1), ACK);
        ring_add(&r, 0);
        worker_is_busy = true;
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), NACK);
        worker_is_busy = false;
        PUMP_UNTIL(&r, r.dev.n_stopped == 1);
        pump_for_ms(&r, 20);
        CHECK_EQ(n_served, 0);
        CHECK_EQ(ring_stop(&r, 0), 0);
        ring_go(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(n_served, 1);
        close_apart(&r);
}

/* ---- a change of logging is in effect when the next message is handled ---- */

static void ask_while_busy(struct rig *r) {
        uint64_t features = 0;

        fe_send(r, VHK_FE_GET_FEATURES, 0, NULL, 0, NULL, 0);
        pump_for_ms(r, 20);
        CHECK_EQ(vhk_conn_receive(&r->fe), VHK_CONN_AGAIN);
        worker_is_busy = false;
        CHECK_EQ(fe_receive(r, VHK_FE_GET_FEATURES, &features, sizeof(features)), 8);
        worker_is_busy = true;
}

static void send_ring_fd(struct rig *r, uint32_t id, int fd) {
        fe_send(r, id, 0, &(uint64_t){ 0 }, 8, &fd, 1);
}

static void send_ring_value(struct rig *r, uint32_t id, uint32_t value) {
        struct vhk_p_vring_state p = { 0, value };
        fe_send(r, id, 0, &p, sizeof(p), NULL, 0);
}

/* Ring 0 runs with a dirty log that is not in use yet; no acknowledgement was asked for. */
static void set_up_without_acknowledgements(struct rig *r, uint64_t protocol) {
        struct vhk_p_mem_regions t = { .n_regions = 1, .regions = { region(r, 0, 1 << 20) } };
        struct vhk_p_vring_addr a = ring_addr(r, 0);
        struct vhk_p_log log = { 0x10000, 0 }, said;
        int fd = memfd_create("log", MFD_CLOEXEC);

        CHECK(fd >= 0 && ftruncate(fd, 0x10000) == 0);
        fe_connect(r);
        fe_negotiate(r, FEATURES, protocol);
        fe_send(r, VHK_FE_SET_MEM_TABLE, 0, &t, 8 + 32, &r->memfd, 1);
        ring_make(r, 0);
        send_ring_value(r, VHK_FE_SET_VRING_NUM, RING_SIZE);
        fe_send(r, VHK_FE_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
        send_ring_fd(r, VHK_FE_SET_VRING_CALL, r->rings[0].call);
        send_ring_fd(r, VHK_FE_SET_VRING_KICK, r->rings[0].kick);
        send_ring_value(r, VHK_FE_SET_VRING_ENABLE, 1);
        fe_send(r, VHK_FE_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1);
        CHECK_EQ(fe_receive(r, VHK_FE_SET_LOG_BASE, &said, sizeof(said)), sizeof(said));
        close(fd);
        PUMP_UNTIL(r, r->dev.n_start == 1);
}

static void without_acknowledgements(struct rig *r, uint64_t protocol) {
        uint64_t features = FEATURES | LOG_ALL;

        open_apart(r, NULL, dev_ops);
        set_up_without_acknowledgements(r, protocol);
        struct vhk_p_vring_addr a = ring_addr(r, 0);
        worker_is_busy = true;

        fe_send(r, VHK_FE_SET_FEATURES, 0, &features, 8, NULL, 0);
        ask_while_busy(r);
        a.flags = VHK_VRING_F_LOG;
        a.log_guest_addr = GPA + (a.used - (uint64_t)(uintptr_t)r->mem);
        fe_send(r, VHK_FE_SET_VRING_ADDR, 0, &a, sizeof(a), NULL, 0);
        ask_while_busy(r);
        fe_send(r, VHK_FE_SET_LOG_FD, 0, NULL, 0, &r->rings[0].err, 1);
        ask_while_busy(r);
        features &= ~LOG_ALL;
        fe_send(r, VHK_FE_SET_FEATURES, 0, &features, 8, NULL, 0);
        ask_while_busy(r);
        close_apart(r);
}

TEST(get_features_is_a_barrier_for_changes_of_logging_without_reply_ack) {
        static struct rig r;
        without_acknowledgements(&r, LOG_PROTOCOL & ~VHK_BIT(VHK_PF_REPLY_ACK));
}

TEST(get_features_is_a_barrier_for_changes_of_logging_without_need_reply) {
        static struct rig r;
        without_acknowledgements(&r, LOG_PROTOCOL);
}

/* ---- GET_VRING_BASE_INFLIGHT alone asks for a suspension ---- */

static enum vhk_stop stop_with(uint64_t protocol, bool record) {
        struct vhk_p_inflight p = { .num_queues = N_RINGS, .queue_size = 256 };
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, protocol);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), ACK);
        if (record) {
                p.mmap_size = N_RINGS * vhk_inflight_split_bytes(p.queue_size);
                int fd = memfd_create("record", MFD_CLOEXEC | MFD_ALLOW_SEALING);
                CHECK(fd >= 0 && ftruncate(fd, (off_t)((p.mmap_size + 4095) & ~4095ull)) == 0);
                CHECK_EQ(fe_ask(&r, VHK_FE_SET_INFLIGHT_FD, &p, sizeof(p), fd), ACK);
                close(fd);
        }
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        CHECK_EQ(ring_stop(&r, 0), 0);
        rig_close(&r);
        return r.dev.how;
}

TEST(get_vring_base_suspends_when_only_get_vring_base_inflight_is_acknowledged) {
        CHECK_EQ(stop_with(RECORD_PROTOCOL, true), VHK_STOP_SUSPEND);
        CHECK_EQ(stop_with(RECORD_PROTOCOL, false), VHK_STOP_DRAIN);
        CHECK_EQ(stop_with(RECORD_PROTOCOL | VHK_BIT(VHK_PF_GET_VRING_BASE_SKIP_DRAIN), true), VHK_STOP_DRAIN);
        CHECK_EQ(stop_with(RECORD_PROTOCOL & ~VHK_BIT(VHK_PF_GET_VRING_BASE_INFLIGHT), true), VHK_STOP_DRAIN);
}

/* ---- a message's payload lives as long as its handler ---- */

static struct rig *failing_rig;
static uint8_t last_byte;

/* A failure deep inside of a handler, and a callback that looks at the session, as those of the
 * back-end channel do. */
static int failing_set_config(void *arg, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        struct vhk_backend *b = failing_rig->b;

        vhk_session_fail(b, -ENOMEM, "test.fault", "a fault of the test's");
        vhk_session_check(b);
        CHECK_EQ(b->state, VHK_BACKEND_SERVING);
        CHECK(b->conn.fd >= 0);
        last_byte = ((const uint8_t *)buf)[n - 1];      /* not freed */
        return 0;
}

TEST(a_session_that_fails_inside_of_a_handler_is_closed_after_it) {
        struct vhk_p_config p = { .offset = 4, .len = 4, .data = { 1, 2, 3, 4 } };
        struct vhk_device_ops ops = dev_ops;
        static struct rig r;
        uint64_t ack;

        failing_rig = &r;
        ops.set_config = failing_set_config;
        rig_open(&r, NULL, &ops);
        fe_set_up(&r, 1);
        fe_send(&r, VHK_FE_SET_CONFIG, VHK_HDR_NEED_REPLY, &p, 12 + 4, NULL, 0);
        CHECK_EQ(fe_receive(&r, VHK_FE_SET_CONFIG, &ack, sizeof(ack)), -EPIPE);
        CHECK_EQ(last_byte, 4);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_STR(r.last_rule, "test.fault");
        rig_close(&r);
}
