/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A migration from both ends of the library, over the public headers alone: a front-end reads the dirty log until its copy is
 * the source's memory; and one whose pages come when the back-end touches them.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <vhostkit/migration.h>

#include "pair.h"

#define PAGE 4096u
#define BYTES (1u << 20)
#define BIT(n) (1ull << (n))

/* ---- the device: fills what it is given with the number that it is told ---- */

static void device_run(void *arg, struct vhk_queue *q) {
        struct vhk_req *r[4];
        int n;

        while ((n = vhk_queue_pop(q, r, 4)) > 0)
                for (int i = 0; i < n; i++) {
                        uint64_t x = 0;
                        vhk_req_read(r[i], 0, &x, sizeof(x));
                        for (unsigned at = 0; at < r[i]->in_len; at += 8)
                                vhk_req_write(r[i], at, &x, sizeof(x));
                        vhk_queue_push(q, r[i], 0);             /* claims nothing */
                }
        vhk_queue_flush(q);
}

/* 400,000 bytes of state: more than a pipe holds. */
static uint8_t state[400000];

static int save_state(void *arg, void **ret_data, size_t *ret_n) {
        *ret_data = malloc(sizeof(state));
        memcpy(*ret_data, state, sizeof(state));
        *ret_n = sizeof(state);
        return 0;
}

static int load_state(void *arg, const void *data, size_t n) {
        if (n != sizeof(state))
                return -EINVAL;
        memcpy(state, data, n);
        return 0;
}

static const struct vhk_device_ops ops = {
        .save_state = save_state, .load_state = load_state,
        .size = sizeof(ops), .virtio_id = 4, .n_queues = 1, .queue_size_max = 64, .threads = VHK_THREADS_PER_QUEUE, .queue_run = device_run,
};

static struct pair ends;
static struct vhk_frontend *f;
static struct vhk_memory *m;
static struct vhk_drvq *q;

static void open_all(uint64_t protocol_offer) {
        struct pair_options o = { .ops = &ops, .n_homes = 1, .back.protocol_offer = protocol_offer };

        CHECK_MSG(pair_open(&ends, &o) == 0, "%s", ends.error.text);
        f = ends.f;
        CHECK_OK(vhk_frontend_set_features(f, BIT(32)));
        CHECK_OK(vhk_memory_new(&m));
}

static void close_all(void) {
        q = vhk_drvq_free(q);
        pair_close(&ends);
        m = vhk_memory_free(m);
}

static uint32_t capabilities(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };
        CHECK_OK(vhk_frontend_get_info(f, &i));
        return i.capabilities;
}

/* Writes @x to @len bytes of @to, by the device. */
static void request(uint64_t *number, uint64_t x, void *to, size_t len) {
        struct iovec sg[2] = { { number, 8 }, { to, len } };
        struct vhk_done done;

        *number = x;
        CHECK_OK(vhk_drvq_add(q, sg, 1, 1, number));
        CHECK_OK(vhk_drvq_kick(q));
        for (int i = 0, k; (k = vhk_drvq_reap(q, &done, 1)) != 1; i++) {
                struct pollfd p = { .fd = vhk_drvq_get_fd(q), .events = POLLIN };
                uint64_t n;
                CHECK(k == 0 && i < 100);
                if (!vhk_drvq_arm(q) && poll(&p, 1, 1000) == 1)
                        CHECK(read(p.fd, &n, sizeof(n)) > 0);
        }
}

/* ---- the dirty log ---- */

static unsigned copy(struct vhk_dirty_log *l, const uint8_t *from, uint64_t gpa0, uint8_t *to) {
        uint64_t gpa, len;
        unsigned n = 0;

        for (uint64_t at = 0; vhk_dirty_log_take(l, at, &gpa, &len) == 1; at = gpa + len) {
                if (gpa >= gpa0 && gpa < gpa0 + BYTES)
                        memcpy(to + (gpa - gpa0), from + (gpa - gpa0), len);
                n += (unsigned)(len / PAGE);
        }
        return n;
}

TEST(dirty_log) {
        struct vhk_dirty_log *l, *larger;
        struct vhk_drvq_options qo = { .size = sizeof(qo), .num = 64 };
        struct vhk_region last = { .size = sizeof(last) }, r = last;
        uint64_t *number;
        void *numbers, *data;
        vhk_gpa_t gpa;

        open_all(0);
        CHECK(capabilities() & VHK_CAP_LOG);
        CHECK(!(capabilities() & VHK_CAP_POSTCOPY));
        CHECK_OK(vhk_memory_alloc(m, PAGE, &numbers));
        CHECK_OK(vhk_memory_alloc(m, BYTES, &data));
        number = numbers;
        CHECK_OK(vhk_drvq_new(f, m, 0, &qo, &q));
        CHECK_OK(vhk_memory_find(m, data, BYTES, &gpa));
        for (unsigned i = 0; vhk_memory_get_region(m, i, &last) == 0; i++)
                r = last;
        uint8_t *target = calloc(1, BYTES);

        request(number, 7, data, BYTES);
        memcpy(target, data, BYTES);            /* the first round, nothing is marked yet */
        CHECK_OK(vhk_dirty_log_new(r.gpa.v + r.len, &l));
        CHECK_OK(vhk_frontend_set_log(f, vhk_dirty_log_get_fd(l), 0, vhk_dirty_log_get_size(l)));
        request(number, 8, data, 8);
        CHECK_EQ(copy(l, data, gpa.v, target), 0);
        CHECK_OK(vhk_frontend_log_data(f, 1));
        CHECK_OK(vhk_frontend_log_queue(f, 0, 1, r.gpa.v));
        CHECK_EQ(vhk_frontend_log_queue(f, 1, 1, r.gpa.v), -EINVAL);
        memcpy(target, data, BYTES);
        for (uint64_t i = 0; i < 100; i++) {
                request(number, i * 1000003, (char *)data + i * 10008, 5000);
                if (i % 10 == 0)
                        CHECK(copy(l, data, gpa.v, target) >= 2);
                if (i == 50) {                  /* memory, and so the log, grows */
                        void *more;
                        CHECK_OK(vhk_memory_alloc(m, 200u << 20, &more));
                        CHECK(vhk_frontend_set_memory(f, m) == -EREMOTEIO);
                        CHECK_OK(vhk_dirty_log_new(r.gpa.v + (512u << 20), &larger));
                        CHECK_OK(vhk_frontend_set_log(f, vhk_dirty_log_get_fd(larger), 0, vhk_dirty_log_get_size(larger)));
                        CHECK_OK(vhk_frontend_set_memory(f, m));
                        copy(l, data, gpa.v, target);
                        vhk_dirty_log_free(l);
                        l = larger;
                }
        }
        q = vhk_drvq_free(q);
        copy(l, data, gpa.v, target);
        CHECK(!memcmp(target, data, BYTES));
        CHECK_OK(vhk_frontend_log_data(f, 0));
        vhk_dirty_log_free(l);
        free(target);
        close_all();
}

/* ---- postcopy ---- */

static struct {
        int fd, stop;
        uint64_t theirs;                /* where the back-end has the region */
        unsigned n;
        pthread_t thread;
} faults;

static void *serve_faults(void *arg) {
        static uint8_t page[PAGE];

        for (;;) {
                struct pollfd p[2] = { { .fd = faults.fd, .events = POLLIN }, { .fd = faults.stop, .events = POLLIN } };
                struct uffd_msg msg;
                poll(p, 2, -1);
                if (p[1].revents)
                        return NULL;
                if (read(faults.fd, &msg, sizeof(msg)) != sizeof(msg) || msg.event != UFFD_EVENT_PAGEFAULT)
                        continue;
                uint64_t at = msg.arg.pagefault.address & ~(PAGE - 1ull);
                memset(page, at - faults.theirs < BYTES ? 0xa5 : 0, PAGE);      /* rings are new: zeroes */
                struct uffdio_copy c = { .dst = at, .src = (uintptr_t)page, .len = PAGE };
                struct uffdio_range w = { at, PAGE };
                if (at - faults.theirs < BYTES)
                        faults.n++;
                if (ioctl(faults.fd, UFFDIO_COPY, &c) < 0)
                        ioctl(faults.fd, UFFDIO_WAKE, &w);
        }
}

TEST(postcopy) {
        struct vhk_drvq_options qo = { .size = sizeof(qo), .num = 64 };
        uint64_t *number, nowhere;
        void *numbers, *data;
        vhk_gpa_t gpa;

        NEEDS_THREADS_AT_ONCE();
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
        if (fd < 0)
                SKIP("cannot: userfaultfd is not for us here");
        close(fd);
        open_all(BIT(8));
        CHECK((capabilities() & VHK_CAP_POSTCOPY) && !(capabilities() & VHK_CAP_MEM_SLOTS));
        CHECK_EQ(vhk_frontend_postcopy_listen(f), -EREMOTEIO);  /* the order */
        CHECK_EQ(vhk_frontend_postcopy_end(f), -EREMOTEIO);
        CHECK_OK(vhk_frontend_postcopy_advise(f, &faults.fd));
        CHECK_OK(vhk_frontend_postcopy_listen(f));
        CHECK_OK(vhk_memory_alloc(m, PAGE, &numbers));
        CHECK_OK(vhk_memory_alloc(m, BYTES, &data));
        number = numbers;
        *number = 0;
        CHECK_OK(vhk_memory_find(m, data, BYTES, &gpa));
        CHECK_EQ(vhk_frontend_postcopy_get_address(f, gpa.v, &nowhere), -EFAULT);
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_OK(vhk_frontend_postcopy_get_address(f, gpa.v, &faults.theirs));
        CHECK(faults.theirs && faults.theirs != (uintptr_t)data);
        CHECK_EQ(vhk_frontend_postcopy_get_address(f, gpa.v + BYTES + (64 << 20), &nowhere), -EFAULT);
        faults.stop = eventfd(0, EFD_CLOEXEC);
        faults.n = 0;
        CHECK_EQ(pthread_create(&faults.thread, NULL, serve_faults, NULL), 0);
        CHECK_OK(vhk_drvq_new(f, m, 0, &qo, &q));               /* its memory comes the same way */
        for (unsigned i = 0; i < 16; i++) {
                request(number, i, (char *)data + i * 3 * PAGE, 8);     /* one word of a page that is not here */
                CHECK_EQ(*(uint64_t *)((char *)data + i * 3 * PAGE), i);
                CHECK_EQ(((uint8_t *)data)[i * 3 * PAGE + 8], 0xa5);    /* the rest of it has come */
        }
        CHECK_OK(vhk_frontend_postcopy_end(f));
        CHECK(write(faults.stop, &(uint64_t){ 1 }, 8) == 8);
        pthread_join(faults.thread, NULL);
        CHECK_EQ(faults.n, 16);
        close(faults.stop);
        close(faults.fd);
        request(number, 99, (char *)data + 40 * 3 * PAGE, 8);   /* over: a hole is a hole */
        CHECK_EQ(*((uint8_t *)data + 40 * 3 * PAGE + 8), 0);
        close_all();
}

/* ---- device state ---- */

TEST(device_state) {
        static uint8_t other[sizeof(state) + 1];
        void *data;
        size_t n;

        open_all(0);
        CHECK(capabilities() & VHK_CAP_STATE);
        for (unsigned i = 0; i < sizeof(state); i++)
                state[i] = (uint8_t)(i * 7 + i / 251);
        CHECK_OK(vhk_frontend_save_state(f, sizeof(state), &data, &n));
        CHECK_EQ(n, sizeof(state));
        CHECK(!memcmp(data, state, n));
        CHECK_EQ(vhk_frontend_save_state(f, sizeof(state) - 1, &data, &n), -EFBIG);
        memset(other, 5, sizeof(other));
        CHECK_EQ(vhk_frontend_load_state(f, other, sizeof(other)), -EREMOTEIO);
        CHECK_EQ(vhk_frontend_load_state(f, other, 0), -EREMOTEIO);
        CHECK(!memcmp(data, state, n));         /* nothing was taken over */
        CHECK_OK(vhk_frontend_load_state(f, other, sizeof(state)));
        CHECK(!memcmp(other, state, sizeof(state)));
        CHECK_OK(vhk_frontend_load_state(f, data, n));
        CHECK(!memcmp(data, state, n));
        free(data);
        close_all();
}
