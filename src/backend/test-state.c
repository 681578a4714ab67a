/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Device state over a session: saved and loaded, through pipes that are slow, short, endless or closed too early (H35). */
#include "backend/test-backend.h"

#define STATE_PROTOCOL (PROTOCOL | VHK_BIT(VHK_PF_DEVICE_STATE))
#define STATE_BYTES 300000u             /* more than a pipe holds */

static struct sdev {
        uint8_t state[STATE_BYTES];
        int refuse_save;
        unsigned n_loads;
} sdev;

static int save_state(void *dev, void **ret_data, size_t *ret_n) {
        if (sdev.refuse_save)
                return sdev.refuse_save;
        *ret_data = malloc(STATE_BYTES);
        memcpy(*ret_data, sdev.state, STATE_BYTES);
        *ret_n = STATE_BYTES;
        return 0;
}

static int load_state(void *dev, const void *data, size_t n) {
        if (n != STATE_BYTES || ((const uint8_t *)data)[0] != 's')
                return -EINVAL;
        memcpy(sdev.state, data, n);
        sdev.n_loads++;
        return 0;
}

static void fill(uint8_t *p, unsigned seed) {
        for (unsigned i = 0; i < STATE_BYTES; i++)
                p[i] = (uint8_t)(i * 31 + i / 256 + seed);
        p[0] = 's';
}

static void open_rig(struct rig *r) {
        static struct vhk_device_ops ops;

        ops = dev_ops;
        ops.save_state = save_state;
        ops.load_state = load_state;
        sdev.refuse_save = 0;
        sdev.n_loads = 0;
        fill(sdev.state, 1);
        rig_open(r, NULL, &ops);
        fe_connect(r);
        fe_negotiate(r, FEATURES, STATE_PROTOCOL);
}

/* SET_DEVICE_STATE_FD: the answer, or -EPIPE. @fd stays ours. */
static int64_t set_fd(struct rig *r, uint32_t direction, uint32_t phase, int fd) {
        struct vhk_p_device_state p = { direction, phase };
        uint64_t x;

        fe_send(r, VHK_FE_SET_DEVICE_STATE_FD, 0, &p, sizeof(p), &fd, fd >= 0);
        int k = fe_receive(r, VHK_FE_SET_DEVICE_STATE_FD, &x, sizeof(x));
        return k < 0 ? k : (int64_t)x;
}

/* A transfer begins; our end, non-blocking. */
static int begin(struct rig *r, uint32_t direction) {
        int p[2];

        CHECK(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
        int theirs = p[direction == VHK_STATE_SAVE], ours = p[direction == VHK_STATE_LOAD];
        CHECK_EQ(set_fd(r, direction, 0, theirs), VHK_RING_NO_FD);
        close(theirs);
        return ours;
}

static size_t read_to_end(struct rig *r, int fd, uint8_t *to, size_t room) {
        size_t at = 0;

        for (;;) {
                ssize_t n = read(fd, to + at, VHK_MIN(room - at, (size_t)1000));
                if (n == 0)
                        return at;
                CHECK(n > 0 || errno == EAGAIN);
                if (n > 0)
                        at += (size_t)n;
                else
                        turn(r, 1);
        }
}

/* As much as goes in; false: the back-end has closed its end. */
static bool write_all(struct rig *r, int fd, const uint8_t *from, size_t n) {
        for (size_t at = 0; at < n;) {
                ssize_t k = vhk_write_fd(fd, from + at, VHK_MIN(n - at, (size_t)5000));
                if (k == -EPIPE)
                        return false;
                CHECK(k > 0 || k == -EAGAIN);
                if (k > 0)
                        at += (size_t)k;
                else
                        turn(r, 1);
        }
        return true;
}

static uint64_t check(struct rig *r) {
        return fe_get(r, VHK_FE_CHECK_DEVICE_STATE);
}

TEST(saved_and_loaded) {
        static struct rig r;
        static uint8_t copy[STATE_BYTES + 1], other[STATE_BYTES];

        open_rig(&r);
        CHECK_EQ(check(&r), 1);                 /* of nothing */
        for (int round = 0; round < 2; round++) {
                int fd = begin(&r, VHK_STATE_SAVE);
                CHECK_EQ(read_to_end(&r, fd, copy, sizeof(copy)), STATE_BYTES);
                close(fd);
                CHECK_EQ(check(&r), 0);
                CHECK(!memcmp(copy, sdev.state, STATE_BYTES));

                fill(other, 99 + (unsigned)round);
                fd = begin(&r, VHK_STATE_LOAD);
                CHECK(write_all(&r, fd, other, STATE_BYTES));
                close(fd);
                CHECK_EQ(check(&r), 0);         /* reads what is still in the pipe */
                CHECK_EQ(check(&r), 0);
                CHECK(!memcmp(other, sdev.state, STATE_BYTES));
        }
        CHECK_EQ(sdev.n_loads, 2);
        rig_close(&r);
}

/* Without the device's two functions it is not offered. */
TEST(not_offered) {
        static struct rig r;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK(!(fe_get(&r, VHK_FE_GET_PROTOCOL_FEATURES) & VHK_BIT(VHK_PF_DEVICE_STATE)));
        rig_close(&r);
}

/* H35: direction, phase, no descriptor, while a ring runs: broken messages, refused by the
 * reply. */
TEST(h35_broken_messages) {
        static const char *const rules[] = { "wire.state-direction", "wire.state-phase", "wire.fds-missing", "wire.running" };
        static struct rig r;
        int p[2];

        open_rig(&r);
        CHECK(pipe2(p, O_CLOEXEC) == 0);
        for (unsigned i = 0; i < VHK_N(rules); i++) {
                if (i == 3) {
                        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
                        ring_make(&r, 0);
                        ring_set_up(&r, 0, 0);
                        ring_go(&r, 0);
                }
                CHECK_EQ(set_fd(&r, i == 0 ? 2 : 0, i == 1, i == 2 ? -1 : p[1]), VHK_RING_NO_FD | 1);
                CHECK(strstr(r.log, rules[i]));
        }
        CHECK_EQ(ring_stop(&r, 0), 0);
        fe_send(&r, VHK_FE_CHECK_DEVICE_STATE, 0, NULL, 0, p, 1);              /* a descriptor too many */
        uint64_t x = 9;
        CHECK_EQ(fe_receive(&r, VHK_FE_CHECK_DEVICE_STATE, &x, sizeof(x)), 8);
        CHECK_EQ(x, 1);
        CHECK_EQ(r.n_disconnected, 0);
        CHECK_EQ(set_fd(&r, VHK_STATE_SAVE, 0, r.memfd), VHK_RING_NO_FD | 1);  /* a file that never ends */
        CHECK_EQ(check(&r), 1);
        sdev.refuse_save = -EIO;
        CHECK_EQ(set_fd(&r, VHK_STATE_SAVE, 0, p[1]), VHK_RING_NO_FD | 1);
        CHECK_EQ(check(&r), 1);
        close(p[0]);
        close(p[1]);
        rig_close(&r);
}

/* H35: what comes through the pipe. Nothing is taken over of a state that is not whole. */
TEST(h35_broken_states) {
        static struct rig r;
        static uint8_t copy[STATE_BYTES], bytes[STATE_BYTES + 1];
        int fd;

        open_rig(&r);
        memcpy(copy, sdev.state, STATE_BYTES);
        fill(bytes, 5);
        fd = begin(&r, VHK_STATE_LOAD);         /* nothing at all */
        close(fd);
        CHECK_EQ(check(&r), 1);
        fd = begin(&r, VHK_STATE_LOAD);         /* an early end */
        CHECK(write_all(&r, fd, bytes, STATE_BYTES - 1));
        close(fd);
        CHECK_EQ(check(&r), 1);
        fd = begin(&r, VHK_STATE_LOAD);         /* a late one */
        CHECK(write_all(&r, fd, bytes, STATE_BYTES + 1));
        close(fd);
        PUMP_UNTIL(&r, strstr(r.log, "not loaded"));
        CHECK_EQ(check(&r), 1);
        fd = begin(&r, VHK_STATE_LOAD);         /* CHECK before the end */
        CHECK(write_all(&r, fd, bytes, STATE_BYTES));
        CHECK_EQ(check(&r), 1);
        CHECK(!write_all(&r, fd, bytes, 1));    /* it is over */
        close(fd);
        bytes[0] = 'x';                         /* garbage */
        fd = begin(&r, VHK_STATE_LOAD);
        CHECK(write_all(&r, fd, bytes, STATE_BYTES));
        close(fd);
        CHECK_EQ(check(&r), 1);
        fd = begin(&r, VHK_STATE_LOAD);         /* without end: so much is read and no more */
        uint64_t n = 0;
        while (write_all(&r, fd, bytes, STATE_BYTES) && n < 2ull * VHK_STATE_MAX)
                n += STATE_BYTES;
        CHECK(n <= VHK_STATE_MAX + 2 * STATE_BYTES);
        close(fd);
        CHECK_EQ(check(&r), 1);
        CHECK_EQ(sdev.n_loads, 0);
        CHECK(!memcmp(copy, sdev.state, STATE_BYTES));
        fd = begin(&r, VHK_STATE_SAVE);         /* CHECK before it has read */
        CHECK_EQ(check(&r), 1);
        close(fd);
        fd = begin(&r, VHK_STATE_SAVE);         /* it does not read on */
        close(fd);
        pump(&r);
        CHECK_EQ(check(&r), 1);
        rig_close(&r);
}

/* A ring that starts before the state is there; a second transfer; a front-end that leaves in the middle. */
TEST(interrupted) {
        static struct rig r;
        static uint8_t bytes[STATE_BYTES];
        int fd, fd2;

        open_rig(&r);
        fill(bytes, 7);
        CHECK_EQ(fe_mem_reg(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        fd = begin(&r, VHK_STATE_LOAD);
        CHECK(write_all(&r, fd, bytes, STATE_BYTES));
        ring_make(&r, 0);
        ring_set_up(&r, 0, 0);
        ring_go(&r, 0);
        close(fd);
        CHECK_EQ(check(&r), 1);
        CHECK_EQ(sdev.n_loads, 0);
        CHECK_EQ(ring_stop(&r, 0), 0);
        fd = begin(&r, VHK_STATE_LOAD);
        CHECK(write_all(&r, fd, bytes, 1000));
        fd2 = begin(&r, VHK_STATE_LOAD);        /* the newest counts */
        CHECK(!write_all(&r, fd, bytes, 1));
        CHECK(write_all(&r, fd2, bytes, STATE_BYTES));
        close(fd);
        close(fd2);
        CHECK_EQ(check(&r), 0);
        CHECK_EQ(sdev.n_loads, 1);
        fd = begin(&r, VHK_STATE_LOAD);
        CHECK(write_all(&r, fd, bytes, 1000));
        fe_close(&r);
        PUMP_UNTIL(&r, r.n_disconnected == 1);
        CHECK(!write_all(&r, fd, bytes, 1));
        close(fd);
        fe_connect(&r);
        fe_negotiate(&r, FEATURES, STATE_PROTOCOL);
        CHECK_EQ(check(&r), 1);
        CHECK_EQ(sdev.n_loads, 1);
        rig_close(&r);
}
