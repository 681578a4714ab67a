/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A kernel with VDUSE, in the place of src/sys/: one device, its vDPA side driven by the test. Messages are queued until they are
 * read, and asked again of whoever opens the device after somebody who did not answer; each must be answered exactly once.
 * The driver, its rings and its memory are those of test-backend.h; I/O addresses are its guest addresses.
 */
#pragma once

#include <vhostkit/sys.h>

#include "backend/test-backend.h"

#define PLATFORM VHK_BIT(VHK_F_ACCESS_PLATFORM)
#define VDUSE_FEATURES ((FEATURES & ~VHK_BIT(VHK_F_PROTOCOL_FEATURES)) | PLATFORM | VHK_BIT(5))
#define MAX_MESSAGES 4096u
#define MAX_RANGES 1024u

enum { S_ACK = 1, S_DRIVER = 2, S_DRIVER_OK = 4, S_FEATURES_OK = 8, S_FAILED = 128 };

struct message {
        struct vhk_sys_vduse_request request;
        enum { MESSAGE_QUEUED, MESSAGE_READ, MESSAGE_ANSWERED } state;
        uint32_t result;
        uint16_t avail;
};

struct range { uint64_t first, last, offset; int fd; uint8_t perm; };

static struct kernel {
        bool exists, on_bus;
        struct vhk_sys_vduse_config made;
        uint8_t config[256];
        int control, device, here;      /* here: our end; readable there is what is on its way */
        bool broken;
        struct message messages[MAX_MESSAGES];
        unsigned n_messages, n_stray, n_setup, n_config_irqs, n_gets;
        uint8_t status;
        uint64_t features;
        struct vhk_sys_vduse_vq_info vqs[N_RINGS];
        uint16_t num_max[N_RINGS];
        int kick[N_RINGS];
        unsigned n_irqs[N_RINGS], n_refused_irqs;       /* shared (atomic): homes inject */
        struct range ranges[MAX_RANGES];
        unsigned n_ranges;
} K;

/* ---- src/sys/ as far as the carrier calls it ---- */

int vhk_sys_vduse_open(int *ret_fd) {
        K.control = eventfd(0, EFD_CLOEXEC);
        *ret_fd = K.control;
        return 0;
}

int vhk_sys_vduse_set_api_version(int fd, uint64_t v) { return v ? -EINVAL : 0; }

int vhk_sys_vduse_create_dev(int fd, const struct vhk_sys_vduse_config *c) {
        if (K.exists)
                return -EEXIST;
        if (!(c->features & PLATFORM) || c->vq_num > N_RINGS || c->device_id == 99)
                return -EINVAL;
        K.exists = true;
        K.broken = false;
        K.made = *c;
        memcpy(K.config, c->config, c->config_size);
        memset(K.num_max, 0, sizeof(K.num_max));
        return 0;
}

static bool is_connected(void) {
        struct pollfd p = { .fd = K.here, .events = POLLRDHUP };

        return K.here >= 0 && poll(&p, 1, 0) == 0;
}

int vhk_sys_vduse_destroy_dev(int fd, const char *name) {
        if (fd != K.control || !K.exists)
                return -EINVAL;
        if (K.on_bus || is_connected())
                return -EBUSY;
        K.exists = false;
        vhk_close(&K.here);
        for (unsigned i = 0; i < N_RINGS; i++)
                vhk_close(&K.kick[i]);
        return 0;
}

/* The other end has something to read as long as a message waits. */
static void tell(void) {
        CHECK(send(K.here, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1);
}

int vhk_sys_vduse_open_dev(const char *name, int *ret_fd) {
        int fds[2];

        if (!K.exists)
                return -ENOENT;
        if (is_connected())
                return -EBUSY;
        vhk_close(&K.here);
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
        K.here = fds[1];
        K.device = *ret_fd = fds[0];
        for (unsigned i = 0; i < K.n_messages; i++)
                if (K.messages[i].state != MESSAGE_ANSWERED) {
                        K.messages[i].state = MESSAGE_QUEUED;
                        tell();
                }
        return 0;
}

int vhk_sys_vduse_read_request(int fd, struct vhk_sys_vduse_request *ret_r) {
        char c;

        if (fd != K.device)
                return 0;
        for (unsigned i = 0; i < K.n_messages; i++)
                if (K.messages[i].state == MESSAGE_QUEUED) {
                        CHECK(recv(fd, &c, 1, MSG_DONTWAIT) == 1);
                        K.messages[i].state = MESSAGE_READ;
                        *ret_r = K.messages[i].request;
                        return 1;
                }
        return 0;
}

int vhk_sys_vduse_write_response(int fd, uint32_t id, uint32_t result, const struct vhk_sys_vduse_vq_info *state, int is_packed) {
        struct message *m = id < K.n_messages ? &K.messages[id] : NULL;

        if (fd != K.device || !m || m->state != MESSAGE_READ) {
                K.n_stray++;
                return -ENOENT;
        }
        m->state = MESSAGE_ANSWERED;
        m->result = result;
        m->avail = state ? state->split.avail : 0xffff;
        return 0;
}

int vhk_sys_vduse_iotlb_get_fd(int fd, struct vhk_sys_vduse_iotlb *e, int *ret_fd) {
        K.n_gets++;
        for (unsigned i = 0; i < K.n_ranges; i++) {
                const struct range *r = &K.ranges[i];
                if (r->first <= r->last && (r->first > e->last || r->last < e->first))
                        continue;
                *e = (struct vhk_sys_vduse_iotlb){ .offset = r->offset, .first = r->first, .last = r->last, .perm = r->perm };
                *ret_fd = fcntl(r->fd, F_DUPFD_CLOEXEC, 0);
                return 0;
        }
        return -EINVAL;
}

int vhk_sys_vduse_get_features(int fd, uint64_t *ret_features) {
        *ret_features = K.features;
        return K.broken ? -EPERM : 0;
}

int vhk_sys_vduse_set_config(int fd, uint32_t off, const void *buf, uint32_t n) {
        if (!vhk_range_within(off, n, K.made.config_size))
                return -EINVAL;
        memcpy(K.config + off, buf, n);
        return 0;
}

int vhk_sys_vduse_inject_config_irq(int fd) {
        if (!(K.status & S_DRIVER_OK))
                return -EINVAL;
        K.n_config_irqs++;
        return 0;
}

int vhk_sys_vduse_vq_setup(int fd, const struct vhk_sys_vduse_vq *q) {
        if (q->index >= K.made.vq_num || q->group)
                return -EINVAL;
        K.num_max[q->index] = q->max_size;
        K.n_setup++;
        return 0;
}

int vhk_sys_vduse_vq_get_info(int fd, int is_packed, struct vhk_sys_vduse_vq_info *i) {
        if (K.broken)
                return -EPERM;
        if (i->index >= K.made.vq_num)
                return -EINVAL;
        *i = K.vqs[i->index];
        return 0;
}

int vhk_sys_vduse_vq_setup_kickfd(int fd, uint32_t index, int kick_fd) {
        vhk_close(&K.kick[index]);
        K.kick[index] = fcntl(kick_fd, F_DUPFD_CLOEXEC, 0);
        return 0;
}

int vhk_sys_vduse_vq_inject_irq(int fd, uint32_t index) {
        if (fd != K.device || !(vhk_load_relaxed(&K.status) & S_DRIVER_OK)) {
                __atomic_fetch_add(&K.n_refused_irqs, 1, __ATOMIC_RELAXED);
                return -EINVAL;
        }
        __atomic_fetch_add(&K.n_irqs[index], 1, __ATOMIC_RELAXED);
        return 0;
}

/* ---- the vDPA side ---- */

static inline struct message *post(struct vhk_sys_vduse_request q) {
        struct message *m = &K.messages[K.n_messages];

        CHECK(K.n_messages < MAX_MESSAGES);
        q.id = K.n_messages++;
        *m = (struct message){ .request = q };
        if (is_connected())
                tell();
        return m;
}

/* Waits for the answer: 0, or 1: refused */
static inline int await(struct rig *r, struct message *m) {
        PUMP_UNTIL(r, m->state == MESSAGE_ANSWERED);
        pump(r);
        CHECK_EQ(K.n_stray, 0);
        return (int)m->result;
}

static inline int ask(struct rig *r, struct vhk_sys_vduse_request q) {
        return await(r, post(q));
}

/* What the kernel does around the message. */
static inline void status_answered(uint8_t status, int result) {
        if (status && !result)
                vhk_store_relaxed(&K.status, status);
        if (status)
                return;
        vhk_store_relaxed(&K.status, 0);
        for (unsigned i = 0; i < N_RINGS; i++) {
                K.vqs[i] = (struct vhk_sys_vduse_vq_info){ .index = i };
                vhk_close(&K.kick[i]);
        }
}

static inline int set_status(struct rig *r, uint8_t status) {
        int result = ask(r, (struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_SET_STATUS, .status = status });

        status_answered(status, result);
        return result;
}

static inline int update_iotlb(struct rig *r, uint64_t first, uint64_t last) {
        return ask(r, (struct vhk_sys_vduse_request){ .type = VHK_SYS_VDUSE_UPDATE_IOTLB, .first = first, .last = last });
}

static inline void set_range(unsigned n, uint64_t first, uint64_t last, int fd, uint64_t offset, uint8_t perm) {
        K.ranges[n] = (struct range){ first, last, offset, fd, perm };
        K.n_ranges = n + 1;
}

/* Ring @i is set up by its driver, without telling the device yet. */
static inline void vq_set_up_of(struct rig *r, unsigned i, unsigned num, uint16_t base) {
        ring_make_of(r, i, num);
        vhk_close(&r->rings[i].kick);
        uint64_t desc = GPA + i * RING_BYTES, avail = desc + ring_avail_offset(r, i);
        K.vqs[i] = (struct vhk_sys_vduse_vq_info){
                .index = i, .num = num, .desc = desc, .driver = avail, .device = avail + 0x1000, .split.avail = base, .ready = 1,
        };
}

static inline void vq_set_up(struct rig *r, unsigned i, uint16_t base) {
        vq_set_up_of(r, i, RING_SIZE, base);
}

/* The kernel's part of a kick. */
static inline void vq_add(struct rig *r, unsigned i) {
        ring_add(r, i);
        if (K.kick[i] >= 0)
                vhk_notify_fd(K.kick[i]);
}

static inline void vduse_features(struct rig *r) {
        r->features = K.features = VDUSE_FEATURES;
}

/* Up to DRIVER_OK with @n rings; the last answer. */
static inline int bring_up(struct rig *r, unsigned n) {
        vduse_features(r);
        CHECK_EQ(set_status(r, 0), 0);
        CHECK_EQ(set_status(r, S_ACK), 0);
        CHECK_EQ(set_status(r, S_ACK | S_DRIVER), 0);
        CHECK_EQ(set_status(r, S_ACK | S_DRIVER | S_FEATURES_OK), 0);
        for (unsigned i = 0; i < n; i++)
                vq_set_up(r, i, 0);
        return set_status(r, S_ACK | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK);
}

/* ---- the rig ---- */

static inline void kernel_new(void) {
        memset(&K, 0, sizeof(K));
        K.control = K.device = K.here = -1;
        for (unsigned i = 0; i < N_RINGS; i++) {
                K.kick[i] = -1;
                K.vqs[i].index = i;
        }
}

static inline int vduse_try(struct rig *r, const struct vhk_backend_options *o, const struct vhk_device_ops *ops, struct vhk_error *ret_e) {
        static char record[100];
        static struct vhk_vduse_options v;

        snprintf(record, sizeof(record), "%s/record", r->dir);
        v = o && o->vduse ? *o->vduse : (struct vhk_vduse_options){ .size = sizeof(v) };
        v.record = record;
        r->o = o ? *o : (struct vhk_backend_options){ .n_queues = 0 };
        r->o.size = sizeof(r->o);
        r->o.control = r->control;
        r->o.vduse = &v;
        r->o.on_event = rig_event;
        r->o.log = rig_log;
        r->o.event_arg = r->o.log_arg = r;
        r->freed = false;
        return vhk_backend_open("vduse:test", &r->o, ops ? ops : &dev_ops, &r->dev, &r->b, ret_e);
}

/* Memory and a place for the record; no back-end yet. */
static inline void vduse_rig(struct rig *r) {
        memset(r, 0, sizeof(*r));
        r->fe.fd = -1;
        for (unsigned i = 0; i < sizeof(r->dev.config); i++)
                r->dev.config[i] = (uint8_t)(i + 1);
        snprintf(r->dir, sizeof(r->dir), "/tmp/vhk-test-vduse-XXXXXX");
        CHECK(mkdtemp(r->dir));
        CHECK_OK(vhk_worker_new(NULL, NULL, &r->control));
        make_memory(r);
        for (unsigned i = 0; i < N_RINGS; i++)
                r->rings[i] = (struct ring){ .kick = -1, .call = -1, .err = -1, .num = RING_SIZE };
        set_range(0, GPA, GPA + MEM_BYTES - 1, r->memfd, 0, 3);
}

static inline void vduse_open(struct rig *r, const struct vhk_backend_options *o, const struct vhk_device_ops *ops) {
        struct vhk_error e = { .text = "" };

        kernel_new();
        vduse_rig(r);
        CHECK_MSG(vduse_try(r, o, ops, &e) == 0, "%s", e.text);
        K.on_bus = true;
}

static inline void vduse_end(struct rig *r) {
        if (!r->b)
                return;
        CHECK_OK(vhk_backend_stop(r->b, VHK_STOP_DRAIN, 0));
        PUMP_UNTIL(r, r->freed);
}

static inline void vduse_close(struct rig *r) {
        K.on_bus = false;
        vduse_end(r);
        CHECK(!K.exists);
        for (unsigned i = 0; i < N_RINGS; i++)
                ring_forget(&r->rings[i]);
        vhk_worker_free(r->control);
        munmap(r->mem, MEM_BYTES);
        close(r->memfd);
        CHECK(rmdir(r->dir) == 0);              /* the record has gone with the device */
}
