/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Postcopy over a session: the order of its messages and what breaks it (H33); and real faults, which the test, as the
 * front-end, serves from a copy of the source's memory while rings at homes of their own work.
 */
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "backend/test-backend.h"
#include "backend/test-home.h"
#include "mem/fault.h"

#define POSTCOPY ((PROTOCOL & ~VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS)) | VHK_BIT(VHK_PF_PAGEFAULT))
static const struct vhk_backend_options with_postcopy = { .protocol_offer = VHK_BIT(VHK_PF_PAGEFAULT) };

static struct home the_home;

static void open_with_home(struct rig *r, const struct vhk_backend_options *o) {
        static struct vhk_device_ops ops;
        int fd;

        int k = vhk_fault_open(&fd, NULL);
        if (k < 0)
                SKIP("cannot: userfaultfd is not for us here");
        close(fd);
        ops = dev_ops;
        ops.threads = VHK_THREADS_PER_QUEUE;
        rig_open(r, o, &ops);
        the_home = (struct home){ .quit_post.fn = on_quit };
        CHECK_OK(vhk_worker_new(NULL, NULL, &the_home.w));
        for (unsigned i = 0; i < N_RINGS; i++)
                CHECK_OK(vhk_backend_set_worker(r->b, i, the_home.w));
        CHECK_EQ(pthread_create(&the_home.thread, NULL, home_thread, &the_home), 0);
}

static void close_with_home(struct rig *r) {
        rig_close(r);
        vhk_worker_post(the_home.w, &the_home.quit_post);
        pthread_join(the_home.thread, NULL);
        vhk_worker_free(the_home.w);
}

static void begin(struct rig *r, uint64_t protocol) {
        fe_connect(r);
        fe_negotiate(r, FEATURES, protocol);
}

/* The userfaultfd, or -1: the back-end closed. */
static int advise(struct rig *r) {
        uint64_t until = now_ns() + 10000000000u;
        int fd = -1;

        fe_send(r, VHK_FE_POSTCOPY_ADVISE, 0, NULL, 0, NULL, 0);
        for (;;) {
                int k = vhk_conn_receive(&r->fe);
                if (k == VHK_CONN_EOF || k == VHK_CONN_CUT)
                        return -1;
                if (k == VHK_CONN_MESSAGE) {
                        CHECK_EQ(vhk_decoder_header(&r->fe.in).size, 0);
                        CHECK_EQ(vhk_decoder_n_fds(&r->fe.in), 1);
                        fd = VHK_STEAL_FD(r->fe.in.fds[0]);
                        vhk_decoder_next(&r->fe.in);
                        return fd;
                }
                CHECK(now_ns() < until);
                if (k == VHK_CONN_AGAIN)
                        turn(r, 1);
        }
}

/* An acknowledged row without a payload: 0, 1, -EPIPE */
static int64_t say(struct rig *r, uint32_t id) {
        uint64_t x = 7;

        fe_send(r, id, VHK_HDR_NEED_REPLY, NULL, 0, NULL, 0);
        int k = fe_receive(r, id, &x, sizeof(x));
        return k < 0 ? k : (int64_t)x;
}

/* The memory table in two regions; where the back-end has them. */
static int table(struct rig *r, uint64_t ret_addr[2]) {
        struct vhk_p_mem_regions t = { .n_regions = 2, .regions = { region(r, 1 << 20, 1 << 20), region(r, 0, 1 << 20) } }, reply;
        int fds[2] = { r->memfd, r->memfd };

        fe_send(r, VHK_FE_SET_MEM_TABLE, 0, &t, 8 + 2 * 32, fds, 2);
        int k = fe_receive(r, VHK_FE_SET_MEM_TABLE, &reply, sizeof(reply));
        if (k < 0)
                return k;
        CHECK_EQ(k, 8 + 2 * 32);
        CHECK_EQ(reply.n_regions, 2);
        for (unsigned i = 0; i < 2; i++) {
                CHECK_EQ(reply.regions[i].guest_addr, t.regions[i].guest_addr);
                CHECK(reply.regions[i].user_addr != t.regions[i].user_addr);
                ret_addr[i] = reply.regions[i].user_addr;
        }
        return 0;
}

static void acknowledge(struct rig *r) {
        fe_send(r, VHK_FE_SET_MEM_TABLE, 0, &(uint64_t){ 0 }, 8, NULL, 0);
}

TEST(offered_when_asked_for) {
        static struct rig r;

        open_with_home(&r, NULL);
        fe_connect(&r);
        uint64_t offered = fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES);
        CHECK(!(offered & VHK_BIT(VHK_PF_PAGEFAULT)) && (offered & VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS)));
        close_with_home(&r);
        open_with_home(&r, &with_postcopy);
        fe_connect(&r);
        offered = fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES);
        CHECK((offered & VHK_BIT(VHK_PF_PAGEFAULT)) && !(offered & VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS)));
        close_with_home(&r);
        rig_open(&r, &with_postcopy, NULL);     /* rings at home with control, which a missing page would stop */
        fe_connect(&r);
        offered = fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES);
        CHECK(!(offered & VHK_BIT(VHK_PF_PAGEFAULT)) && (offered & VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS)));
        CHECK(strstr(r.log, "no worker of its own"));
        rig_close(&r);
}

/* With both negotiated, which only both sides' wish brings about, the messages are refused. */
TEST(refused_with_memory_slots) {
        static struct rig r;

        open_with_home(&r, &(struct vhk_backend_options){ .protocol_offer = VHK_BIT(VHK_PF_PAGEFAULT) | VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) });
        begin(&r, POSTCOPY | VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS));
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_LISTEN), 1);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_END), 1);
        CHECK_EQ(advise(&r), -1);               /* its reply cannot say no */
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK_STR(r.last_rule, "wire.gate-forbidden");
        close_with_home(&r);
}

/* H33 */
TEST(h33_out_of_order) {
        static struct rig r;
        uint64_t addr[2];
        int fd;

        open_with_home(&r, &with_postcopy);
        begin(&r, POSTCOPY);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_LISTEN), 1);           /* without ADVISE */
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_END), 1);
        fd = advise(&r);
        CHECK(fd >= 0);
        close(fd);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_LISTEN), 0);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_LISTEN), 1);           /* twice */
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_END), 0);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_END), 1);
        fd = advise(&r);                        /* and it may begin again */
        CHECK(fd >= 0);
        close(fd);
        CHECK_EQ(advise(&r), -1);               /* but not twice */
        fe_close(&r);

        begin(&r, POSTCOPY);                    /* memory comes first */
        struct vhk_p_mem_regions t = { .n_regions = 1, .regions = { region(&r, 0, 1 << 20) } };
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_MEM_TABLE, &t, 8 + 32, r.memfd), 0);
        fd = advise(&r);
        CHECK(fd >= 0);
        close(fd);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_LISTEN), 1);
        CHECK(strstr(r.log, "postcopy.mapped"));
        fe_close(&r);

        static const uint32_t others[] = { VHK_FE_GET_FEATURES, VHK_FE_SET_VRING_CALL, VHK_FE_POSTCOPY_END, VHK_FE_SET_MEM_TABLE };
        for (unsigned i = 0; i < VHK_N(others); i++) {          /* instead of the acknowledgement */
                begin(&r, POSTCOPY);
                fd = advise(&r);
                CHECK(fd >= 0);
                CHECK_EQ(say(&r, VHK_FE_POSTCOPY_LISTEN), 0);
                CHECK_EQ(table(&r, addr), 0);
                unsigned before = r.n_disconnected;
                if (others[i] == VHK_FE_SET_MEM_TABLE)
                        fe_send(&r, others[i], 0, &(uint64_t){ 1 }, 8, NULL, 0);
                else
                        fe_send(&r, others[i], 0, &(uint64_t){ VHK_RING_NO_FD }, others[i] == VHK_FE_SET_VRING_CALL ? 8 : 0, NULL, 0);
                pump(&r);
                if (others[i] != VHK_FE_POSTCOPY_END)           /* always acknowledged: it can be refused in words */
                        PUMP_UNTIL(&r, r.n_disconnected == before + 1);
                close(fd);
                fe_close(&r);
        }
        begin(&r, POSTCOPY);                    /* a front-end that leaves instead */
        fd = advise(&r);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_LISTEN), 0);
        CHECK_EQ(table(&r, addr), 0);
        close(fd);
        fe_close(&r);
        begin(&r, POSTCOPY);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        close_with_home(&r);
}

/* ---- pages that come when they are touched ---- */

struct server {
        int fd, stop;
        uint8_t *source;                /* memory as the source left it */
        uint64_t addr[2];
        unsigned n_served;      /* shared (atomic): the test serves the rest while the thread may still serve */
        pthread_t thread;
};

static void serve_page(struct server *s, uint64_t at) {
        for (unsigned i = 0; i < 2; i++) {
                uint64_t off = at - s->addr[i];
                if (off >= 1 << 20)
                        continue;
                struct uffdio_copy c = { .dst = at & ~4095ull, .len = 4096, .src = (uintptr_t)s->source + (i == 0 ? 1 << 20 : 0) + (off & ~4095ull) };
                int k = ioctl(s->fd, UFFDIO_COPY, &c);
                if (k < 0 && errno == EEXIST) {
                        struct uffdio_range r = { c.dst, 4096 };
                        ioctl(s->fd, UFFDIO_WAKE, &r);
                }
                __atomic_fetch_add(&s->n_served, 1, __ATOMIC_RELAXED);
                return;
        }
}

static void *server_thread(void *arg) {
        struct server *s = arg;

        for (;;) {
                struct pollfd p[2] = { { .fd = s->fd, .events = POLLIN }, { .fd = s->stop, .events = POLLIN } };
                struct uffd_msg m;
                poll(p, 2, -1);
                if (p[1].revents)
                        return NULL;
                if (read(s->fd, &m, sizeof(m)) == sizeof(m) && m.event == UFFD_EVENT_PAGEFAULT)
                        serve_page(s, m.arg.pagefault.address);
        }
}

/* A guest with a running ring and requests in it has moved: its memory is gone here, @source has it. */
static void move_guest(struct rig *r, struct server *s) {
        static uint8_t source[MEM_BYTES];

        for (unsigned i = 0; i < 2; i++) {
                ring_make(r, i);
                for (unsigned n = 0; n < 8; n++)
                        ring_add(r, i);         /* published, kicked: the device finds them when the ring starts here */
        }
        memcpy(source, r->mem, MEM_BYTES);
        CHECK(fallocate(r->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MEM_BYTES) == 0);
        s->source = source;
}

static void start_here(struct rig *r, unsigned i) {
        struct vhk_p_vring_addr a = ring_addr(r, i);

        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_CALL, i, r->rings[i].call), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_NUM, i, RING_SIZE), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_BASE, i, 0), 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_ENABLE, i, 1), 0);
}

static void kick(struct rig *r, unsigned i) {
        uint64_t x = i;
        fe_send(r, VHK_FE_SET_VRING_KICK, 0, &x, 8, &r->rings[i].kick, 1);      /* nobody waits: its home waits for pages */
}

static void listen_and_lend(struct rig *r, struct server *s) {
        begin(r, POSTCOPY);
        *s = (struct server){ .fd = advise(r), .stop = eventfd(0, EFD_CLOEXEC) };
        CHECK(s->fd >= 0);
        CHECK_EQ(say(r, VHK_FE_POSTCOPY_LISTEN), 0);
        CHECK_EQ(table(r, s->addr), 0);
        move_guest(r, s);
        acknowledge(r);
        for (unsigned i = 0; i < 2; i++)
                start_here(r, i);
}

static void stop_server(struct server *s) {
        vhk_notify_fd(s->stop);
        pthread_join(s->thread, NULL);
        close(s->stop);
        close(s->fd);
}

TEST(pages_come_when_they_are_touched) {
        static struct rig r;
        struct server s;

        NEEDS_THREADS_AT_ONCE();
        open_with_home(&r, &with_postcopy);
        listen_and_lend(&r, &s);
        /* control has touched nothing: no page is there, and nobody has asked for one */
        struct pollfd p = { .fd = s.fd, .events = POLLIN };
        CHECK_EQ(poll(&p, 1, 20), 0);
        kick(&r, 0);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));                 /* control answers while the ring waits */
        CHECK_EQ(poll(&p, 1, 10000), 1);
        CHECK_EQ(pthread_create(&s.thread, NULL, server_thread, &s), 0);
        kick(&r, 1);
        /* the test's own eyes are on the file, where pages appear as they are served */
        for (unsigned i = 0; i < 2; i++)
                PUMP_UNTIL(&r, ring_is_idle(&r, i));
        /* descriptors, available, buffers; the used rings perhaps not: our own look at them may have made their pages first */
        CHECK(vhk_load_relaxed(&s.n_served) >= 2 * 3);
        /* the rest comes by itself, then it is over */
        for (unsigned page = 0; page < 512; page++)
                serve_page(&s, s.addr[page / 256] + page % 256 * 4096);
        CHECK_EQ(say(&r, VHK_FE_POSTCOPY_END), 0);
        stop_server(&s);
        for (unsigned n = 0; n < 20; n++) {
                ring_add(&r, 1);
                PUMP_UNTIL(&r, ring_is_idle(&r, 1));
        }
        CHECK_EQ(ring_stop(&r, 0), 8);
        close_with_home(&r);
}

/* A front-end that leaves while a ring waits for a page: the ring goes on (with zeroes), and the next is served. */
TEST(front_end_leaves_while_a_ring_waits) {
        static struct rig r;
        struct server s;

        NEEDS_THREADS_AT_ONCE();
        open_with_home(&r, &with_postcopy);
        listen_and_lend(&r, &s);
        kick(&r, 0);
        struct pollfd p = { .fd = s.fd, .events = POLLIN };
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_EQ(poll(&p, 1, 10000), 1);
        close(s.fd);
        close(s.stop);
        fe_close(&r);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        begin(&r, POSTCOPY);
        int fd = advise(&r);
        CHECK(fd >= 0);
        close(fd);
        close_with_home(&r);
}
