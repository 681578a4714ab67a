/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * SCSI commands over a virtio SCSI host (virtio 1.3, 5.6). One thread. A command is a slot: its header and its answer lie in lent memory,
 * the answer preset with a response that there is not, so that one which was never written is found out whatever the used ring
 * says (vhost-scsi says 0 bytes of every command). The answer is copied before it is looked at.
 *
 * Rings: 0 control and 1 events are started, for a device may want them, and not used; 2 has the commands.
 */
#include <vhostkit/scsi.h>

#include <poll.h>
#include <sys/epoll.h>
#include <vhostkit/kernel.h>

#include "base/clock.h"
#include "base/fd.h"
#include "driver/drvdev.h"
#include "driver/drvq.h"

#define QUEUE_SIZE 128u
#define QUEUE_SIZE_LEAST 2u
#define SMALL_RING 8u
#define VIRTIO_ID 8u
#define ROOM (4u << 20)                 /* for the caller's data, to begin with */
#define NO_RESPONSE 0xffu

enum { CONTROL, EVENTS, COMMANDS, N_RINGS };

struct request {                        /* struct virtio_scsi_req_cmd */
        uint8_t lun[8];
        vhk_le64 id;
        uint8_t task_attr, prio, crn, cdb[VHK_SCSI_CDB];
} __attribute__((packed));
struct answer {                         /* struct virtio_scsi_resp_cmd */
        vhk_le32 sense_len, residual;
        vhk_le16 status_qualifier;
        uint8_t status, response, sense[VHK_SCSI_SENSE];
};
static_assert(sizeof(struct request) == 51 && sizeof(struct answer) == 108, "virtio 1.3, 5.6.6.1");

struct slot {                           /* in lent memory */
        struct request request;
        struct answer answer VHK_ALIGNED(64);
} VHK_ALIGNED(64);

struct pending {
        void *cookie;
        uint64_t n_bytes;               /* of data */
        bool is_abandoned;              /* vhk_scsi_execute() gave up waiting for it: its result is dropped */
};

struct vhk_scsi {
        struct vhk_drvdev d;
        struct vhk_drvq *q[N_RINGS];
        struct vhk_chunk last;
        int epoll_fd;
        uint16_t num;
        struct slot *slots;
        struct pending *pending;        /* by slot */
        uint16_t *free;                 /* a stack of slots */
        unsigned n_free, n_abandoned;
        uint64_t next_id;
};

/* ---- commands ---- */

static int check(const struct vhk_scsi_command *c) {
        return c->size < sizeof(*c) || !c->cdb_len || c->cdb_len > VHK_SCSI_CDB || c->lun > 16383 || c->n_out > VHK_SCSI_SEGMENTS ||
               c->n_in > VHK_SCSI_SEGMENTS - c->n_out ? -EINVAL : 0;
}

static void describe(struct vhk_scsi *s, struct slot *slot, const struct vhk_scsi_command *c) {
        struct request r = { .id = vhk_le64_of(s->next_id++) };

        r.lun[0] = 1;
        r.lun[1] = c->target;
        r.lun[2] = (uint8_t)(0x40 | c->lun >> 8);
        r.lun[3] = (uint8_t)c->lun;
        memcpy(r.cdb, c->cdb, c->cdb_len);
        slot->request = r;
        memset(&slot->answer, 0, sizeof(slot->answer));
        slot->answer.response = NO_RESPONSE;
}

VHK_API int vhk_scsi_submit(struct vhk_scsi *s, const struct vhk_scsi_command *c, void *cookie) {
        struct iovec sg[VHK_SCSI_SEGMENTS + 2];
        unsigned n = 0, n_out;
        uint64_t n_bytes = 0;

        int k = check(c);
        if (k < 0)
                return k;
        if (vhk_drvdev_is_gone(&s->d) || vhk_drvq_is_broken(s->q[COMMANDS]))
                return vhk_drvdev_fail_end(&s->d, s->q[COMMANDS]);
        if (!s->n_free)
                return -EAGAIN;
        uint16_t i = s->free[s->n_free - 1];
        struct slot *slot = &s->slots[i];
        describe(s, slot, c);
        sg[n++] = (struct iovec){ &slot->request, sizeof(slot->request) };
        for (unsigned j = 0; j < c->n_out; j++)
                n_bytes += (sg[n++] = c->out[j]).iov_len;
        n_out = n;
        sg[n++] = (struct iovec){ &slot->answer, sizeof(slot->answer) };
        for (unsigned j = 0; j < c->n_in; j++)
                n_bytes += (sg[n++] = c->in[j]).iov_len;
        k = vhk_drvq_add(s->q[COMMANDS], sg, n_out, n - n_out, slot);
        if (k < 0)
                return k;
        s->n_free--;
        s->pending[i] = (struct pending){ .cookie = cookie, .n_bytes = n_bytes };
        return vhk_drvq_kick(s->q[COMMANDS]);
}

static int error_of(uint8_t response, uint8_t status) {
        switch (response) {
        case VHK_SCSI_OK:
                return status ? -EIO : 0;
        case VHK_SCSI_OVERRUN:
                return -EOVERFLOW;
        case VHK_SCSI_ABORTED:
        case VHK_SCSI_RESET:
                return -ECANCELED;
        case VHK_SCSI_BAD_TARGET:
                return -ENODEV;
        case VHK_SCSI_BUSY:
                return -EBUSY;
        }
        return response <= VHK_SCSI_FAILURE ? -EREMOTEIO : -EPROTO;
}

/* @a is a copy. */
static void tell(const struct answer *a, const struct pending *p, struct vhk_scsi_result *ret_r) {
        uint32_t sense_len = vhk_le32_get(a->sense_len);

        *ret_r = (struct vhk_scsi_result){
                .cookie = p->cookie, .response = a->response, .status = a->status, .status_qualifier = vhk_le16_get(a->status_qualifier),
                .residual = vhk_le32_get(a->residual), .sense_len = VHK_MIN(sense_len, VHK_SCSI_SENSE),
        };
        memcpy(ret_r->sense, a->sense, sizeof(a->sense));
        ret_r->error = sense_len > VHK_SCSI_SENSE || ret_r->residual > p->n_bytes ? -EPROTO : error_of(a->response, a->status);
}

/* At most @n results that are in the ring; those before a fault of the device come first. Number,
 * or -EPIPE */
static int take_results(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, unsigned n) {
        struct vhk_done d;
        struct answer a;
        unsigned done = 0;
        int k = 0;

        while (done < n && (k = vhk_drvq_reap(s->q[COMMANDS], &d, 1)) == 1) {
                struct slot *slot = d.cookie;
                uint16_t i = (uint16_t)(slot - s->slots);
                s->free[s->n_free++] = i;
                if (s->pending[i].is_abandoned) {
                        s->n_abandoned--;
                        continue;
                }
                memcpy(&a, &slot->answer, sizeof(a));
                tell(&a, &s->pending[i], &ret_r[done++]);
        }
        return k < 0 && !done ? k : (int)done;
}

static int reap(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, unsigned n) {
        int gone = vhk_drvdev_look_after(&s->d), fd = vhk_drvq_get_fd(s->q[COMMANDS]), done = 0, k;
        bool more = false;

        vhk_peer_drain(fd);
        do {
                k = take_results(s, ret_r + done, n - (unsigned)done);
                if (k < 0)
                        break;
                done += k;
                more = vhk_drvq_arm(s->q[COMMANDS]);
        } while (more && (unsigned)done < n);
        if (k < 0 || more || (done && gone < 0))
                vhk_peer_notify(fd);                      /* there is more: results, or the end */
        if (!done && (k < 0 || gone < 0))
                return vhk_drvdev_fail_end(&s->d, s->q[COMMANDS]);
        return done;
}

VHK_API int vhk_scsi_reap(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, unsigned n) {
        int k = reap(s, ret_r, n);

        vhk_drvdev_leave(&s->d);
        return k;
}

/* Until there is a result, or nothing is in flight any more; at most until @end. 1, 0, or -EPIPE */
static int wait_for_result(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, uint64_t end) {
        struct pollfd p = { .fd = s->epoll_fd, .events = POLLIN };
        int k;

        while ((k = reap(s, ret_r, 1)) == 0 && s->n_free != s->num && vhk_now_ns() < end)
                poll(&p, 1, vhk_poll_timeout_ms(end));
        return k;
}

/* What is in flight are the commands of former calls that timed out: their data may still be
 * written to. */
static int wait_idle(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, uint64_t end) {
        unsigned n = s->num - s->n_free;

        if (n > s->n_abandoned)
                return -EBUSY;
        int k = n ? wait_for_result(s, ret_r, end) : 0;
        if (k < 0 || s->n_free == s->num)
                return k;
        return vhk_drvdev_fail(&s->d, -ETIMEDOUT, "scsi.time-limit", "%u commands that timed out before are not answered yet", s->n_abandoned);
}

static int give_up(struct vhk_scsi *s) {
        for (uint16_t i = 0; i < s->num; i++)
                s->pending[i].is_abandoned = true;      /* of free slots too: they are initialised when they are used */
        s->n_abandoned = s->num - s->n_free;
        return vhk_drvdev_fail(&s->d, -ETIMEDOUT, "scsi.time-limit", "the command is not answered within %llu ms",
                               (unsigned long long)(s->d.limit_ns / 1000000));
}

static int execute(struct vhk_scsi *s, const struct vhk_scsi_command *c, struct vhk_scsi_result *ret_r) {
        uint64_t end = vhk_time_after(vhk_now_ns(), s->d.limit_ns);

        int k = wait_idle(s, ret_r, end);
        if (k == 0)
                k = vhk_scsi_submit(s, c, NULL);
        if (k == 0)
                k = wait_for_result(s, ret_r, end) ?: give_up(s);
        return k < 0 ? k : ret_r->error;
}

VHK_API int vhk_scsi_execute(struct vhk_scsi *s, const struct vhk_scsi_command *c, struct vhk_scsi_result *ret_r) {
        int k = execute(s, c, ret_r);

        vhk_drvdev_leave(&s->d);
        return k;
}

VHK_API void *vhk_scsi_alloc(struct vhk_scsi *s, size_t size) {
        return vhk_drvdev_alloc(&s->d, size);
}

VHK_API int vhk_scsi_get_fd(const struct vhk_scsi *s) {
        return s->epoll_fd;
}

VHK_API struct vhk_frontend *vhk_scsi_get_frontend(struct vhk_scsi *s) {
        return s->d.f;
}

/* ---- opening ---- */

static uint64_t gpa_of(void *arg, const void *va, uint64_t len) {
        struct vhk_scsi *s = arg;

        return vhk_drvdev_gpa(&s->d, &s->last, va, len);
}

static int watch(struct vhk_scsi *s, int fd) {
        struct epoll_event e = { .events = EPOLLIN };

        return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? vhk_errno() : 0;
}

static struct vhk_scsi *scsi_of(struct vhk_drvdev *d) {
        return vhk_container_of(d, struct vhk_scsi, d);
}

static int make_ring(struct vhk_scsi *s, unsigned i) {
        struct vhk_drvq_options o = { .size = sizeof(o), .num = i == COMMANDS ? s->num : VHK_MIN(SMALL_RING, s->num) };
        uint16_t indirect = i == COMMANDS ? VHK_SCSI_SEGMENTS + 2 : 0;
        struct vhk_drvq_place p = { .mem = vhk_drvdev_take(&s->d, vhk_drvq_bytes(o.num, indirect)), .indirect_max = indirect, .gpa = gpa_of, .gpa_arg = s };

        return p.mem ? vhk_drvq_new_at(s->d.f, i, &o, &p, &s->q[i]) : -ENOMEM;
}

static int start_rings(struct vhk_drvdev *d, uint16_t num) {
        uint64_t rings = vhk_drvq_bytes(num, VHK_SCSI_SEGMENTS + 2) + 2 * vhk_drvq_bytes(SMALL_RING, 0), slots = num * sizeof(struct slot);
        struct vhk_scsi *s = scsi_of(d);

        s->num = num;
        int k = d->n_chunks ? 0 : vhk_drvdev_add_chunk(d, rings + slots + 2 * VHK_PAGE, ROOM);
        if (k < 0)
                return k;
        s->slots = vhk_drvdev_take(d, slots);
        s->pending = calloc(num, sizeof(*s->pending));
        s->free = calloc(num, sizeof(*s->free));
        if (!s->slots || !s->pending || !s->free)
                return -ENOMEM;
        for (uint16_t i = 0; i < num; i++)
                s->free[s->n_free++] = i;
        for (unsigned i = 0; i < N_RINGS && k == 0; i++)
                k = make_ring(s, i);
        return k < 0 ? k : watch(s, vhk_drvq_get_fd(s->q[COMMANDS]));
}

static void stop_rings(struct vhk_drvdev *d) {
        struct vhk_scsi *s = scsi_of(d);

        for (unsigned i = 0; i < N_RINGS; i++)
                s->q[i] = vhk_drvq_free(s->q[i]);
        free(s->pending);
        free(s->free);
        s->pending = NULL;
        s->free = NULL;
        s->n_free = 0;
}

static void stop(struct vhk_drvdev *d) {
        stop_rings(d);
        vhk_close(&scsi_of(d)->epoll_fd);
}

/* Nothing of the configuration space is used: sizes of commands and sense data are those that it begins with. */
static int refresh(struct vhk_drvdev *d) {
        d->config_stale = false;
        return 0;
}

static int negotiate(struct vhk_scsi *s, bool has_target, bool *ret_ours, struct vhk_error *ret_e) {
        uint64_t wanted = VHK_BIT(VHK_DRVDEV_F_VERSION_1) | VHK_BIT(VHK_DRVDEV_F_EVENT_IDX) | VHK_BIT(VHK_DRVDEV_F_INDIRECT) |
                          VHK_BIT(VHK_DRVDEV_F_ACCESS_PLATFORM);
        struct vhk_frontend_info i = { .size = sizeof(i) };

        int k = vhk_frontend_get_info(s->d.f, &i);
        if (k < 0)
                return vhk_drvdev_story(&s->d, k, ret_e);
        *ret_ours = i.capabilities & VHK_CAP_SCSI;
        if (*ret_ours != has_target)
                return vhk_error_set(ret_e, -EINVAL, "scsi.options",
                                     *ret_ours ? "the name of a target is needed" : "the device has its target: no name is to be given");
        if (!(i.features & VHK_BIT(VHK_DRVDEV_F_VERSION_1)))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "scsi.version", "the device has no VERSION_1");
        return vhk_drvdev_negotiate(&s->d, i.features & wanted, ret_e);
}

static int bring_up(struct vhk_drvdev *d, const void *options, struct vhk_error *ret_e) {
        const struct vhk_scsi_options *o = options;
        struct vhk_scsi *s = scsi_of(d);
        bool ours = false;

        int k = negotiate(s, o->wwpn, &ours, ret_e);
        if (k < 0)
                return k;
        s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        k = s->epoll_fd < 0 ? vhk_errno() : 0;
        if (k == 0)
                k = vhk_drvdev_start_rings(d, o->queue_size, QUEUE_SIZE, QUEUE_SIZE_LEAST, start_rings, stop_rings);
        if (k == 0)
                k = vhk_drvdev_set_status(d, VHK_DRVDEV_S_DRIVER_OK);
        if (k == 0 && ours)
                k = vhk_frontend_scsi_set_endpoint(d->f, o->wwpn, o->tpgt);
        if (k == 0)
                vhk_drvq_arm(s->q[COMMANDS]);
        if (k == 0)
                k = watch(s, vhk_frontend_get_fd(d->f));
        return k < 0 ? vhk_drvdev_story(d, k, ret_e) : 0;
}

static int prepare(struct vhk_drvdev *d, const void *options, struct vhk_frontend_options *fo, struct vhk_error *ret_e) {
        uint16_t num = ((const struct vhk_scsi_options *)options)->queue_size;

        scsi_of(d)->epoll_fd = -1;
        if (num && (!vhk_is_pow2(num) || num > 32768))
                return vhk_error_set(ret_e, -EINVAL, "scsi.options", "a ring of %u entries: a power of two up to 32768 is needed", num);
        return 0;
}

static const struct vhk_drvdev_kind kind = {
        .rule = "scsi.open", .what = "the SCSI host", .options = "struct vhk_scsi_options", .virtio_id = VIRTIO_ID,
        .size = sizeof(struct vhk_scsi), .options_size = sizeof(struct vhk_scsi_options),
        .prepare = prepare, .bring_up = bring_up, .refresh = refresh, .stop = stop,
};

VHK_API int vhk_scsi_open(const char *spec, const struct vhk_scsi_options *o, struct vhk_scsi **ret_s, struct vhk_error *ret_e) {
        struct vhk_scsi_options own;
        struct vhk_drvdev *d;

        int k = vhk_drvdev_open(&kind, spec, o, &own, &d, ret_e);
        if (k == 0)
                *ret_s = scsi_of(d);
        return k;
}

VHK_API struct vhk_scsi *vhk_scsi_close(struct vhk_scsi *s) {
        return vhk_drvdev_close(s ? &s->d : NULL);
}
