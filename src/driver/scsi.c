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
#include <time.h>
#include <vhostkit/kernel.h>

#include "base/fd.h"
#include "driver/drvdev.h"
#include "driver/drvq.h"

#define QUEUE_SIZE 128u
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
        unsigned n_free;
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
        if (vhk_load_relaxed(&s->d.gone))
                return -EPIPE;
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
        s->pending[i] = (struct pending){ cookie, n_bytes };
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

/* At most @n results that are in the ring; those before a fault of the device come first. Number, or -EPIPE */
static int take_results(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, unsigned n) {
        struct vhk_done d;
        struct answer a;
        unsigned done = 0;
        int k = 0;

        while (done < n && (k = vhk_drvq_reap(s->q[COMMANDS], &d, 1)) == 1) {
                struct slot *slot = d.cookie;
                uint16_t i = (uint16_t)(slot - s->slots);
                memcpy(&a, &slot->answer, sizeof(a));
                tell(&a, &s->pending[i], &ret_r[done++]);
                s->free[s->n_free++] = i;
        }
        return k < 0 && !done ? k : (int)done;
}

VHK_API int vhk_scsi_reap(struct vhk_scsi *s, struct vhk_scsi_result *ret_r, unsigned n) {
        int gone = vhk_drvdev_look_after(&s->d), fd = vhk_drvq_get_fd(s->q[COMMANDS]), done = 0, k;
        bool more;

        vhk_peer_drain(fd);
        do {
                k = take_results(s, ret_r + done, n - (unsigned)done);
                if (k < 0)
                        break;
                done += k;
                more = vhk_drvq_arm(s->q[COMMANDS]);
        } while (more && (unsigned)done < n);
        if (k < 0 && !done)
                return k;
        if (k < 0 || more || (done && gone < 0))
                vhk_peer_notify(fd);                      /* there is more: results, or the end */
        return done ? done : gone;
}

static uint64_t now_ns(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

VHK_API int vhk_scsi_execute(struct vhk_scsi *s, const struct vhk_scsi_command *c, struct vhk_scsi_result *ret_r) {
        struct pollfd p = { .fd = s->epoll_fd, .events = POLLIN };
        uint64_t end, now;

        if (s->n_free != s->num)
                return -EBUSY;
        int k = vhk_scsi_submit(s, c, NULL);
        if (k < 0)
                return k;
        if (vhk_add_overflows(now_ns(), s->d.limit_ns, &end))
                end = UINT64_MAX;
        while ((k = vhk_scsi_reap(s, ret_r, 1)) == 0 && (now = now_ns()) < end)
                poll(&p, 1, (int)VHK_MIN((end - now) / 1000000 + 1, (uint64_t)60000));
        return k < 0 ? k : k == 0 ? -ETIMEDOUT : ret_r->error;
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

static int make_ring(struct vhk_scsi *s, unsigned i) {
        struct vhk_drvq_options o = { .size = sizeof(o), .num = i == COMMANDS ? s->num : SMALL_RING };
        uint16_t indirect = i == COMMANDS ? VHK_SCSI_SEGMENTS + 2 : 0;
        struct vhk_drvq_place p = { .mem = vhk_drvdev_take(&s->d, vhk_drvq_bytes(o.num, indirect)), .indirect_max = indirect, .gpa = gpa_of, .gpa_arg = s };

        return p.mem ? vhk_drvq_new_at(s->d.f, i, &o, &p, &s->q[i]) : -ENOMEM;
}

static int make_rings(struct vhk_scsi *s) {
        uint64_t rings = vhk_drvq_bytes(s->num, VHK_SCSI_SEGMENTS + 2) + 2 * vhk_drvq_bytes(SMALL_RING, 0), slots = s->num * sizeof(struct slot);

        int k = vhk_drvdev_add_chunk(&s->d, rings + slots + 2 * VHK_PAGE, ROOM);
        if (k < 0)
                return k;
        s->slots = vhk_drvdev_take(&s->d, slots);
        s->pending = calloc(s->num, sizeof(*s->pending));
        s->free = calloc(s->num, sizeof(*s->free));
        if (!s->slots || !s->pending || !s->free)
                return -ENOMEM;
        for (uint16_t i = 0; i < s->num; i++)
                s->free[s->n_free++] = i;
        for (unsigned i = 0; i < N_RINGS && k == 0; i++)
                k = make_ring(s, i);
        return k < 0 ? k : watch(s, vhk_drvq_get_fd(s->q[COMMANDS]));
}

/* Nothing of the configuration space is used: sizes of commands and sense data are those that it begins with. */
static int refresh(struct vhk_drvdev *d) {
        d->config_stale = false;
        return 0;
}

static int bring_up(struct vhk_scsi *s, const struct vhk_scsi_options *o, struct vhk_error *ret_e) {
        struct vhk_frontend_info i = { .size = sizeof(i) };
        uint64_t wanted = VHK_BIT(VHK_DRVDEV_F_VERSION_1) | VHK_BIT(VHK_DRVDEV_F_EVENT_IDX) | VHK_BIT(VHK_DRVDEV_F_INDIRECT) |
                          VHK_BIT(VHK_DRVDEV_F_ACCESS_PLATFORM);

        s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        int k = s->epoll_fd < 0 ? vhk_errno() : vhk_frontend_get_info(s->d.f, &i);
        if (k < 0)
                return vhk_drvdev_story(&s->d, k, ret_e);
        bool ours = i.capabilities & VHK_CAP_SCSI;
        if (ours != !!o->wwpn)
                return vhk_error_set(ret_e, -EINVAL, "scsi.options",
                                     ours ? "the name of a target is needed" : "the device has its target: no name is to be given");
        if (!(i.features & VHK_BIT(VHK_DRVDEV_F_VERSION_1)))
                return vhk_error_set(ret_e, -EOPNOTSUPP, "scsi.version", "the device has no VERSION_1");
        k = vhk_drvdev_negotiate(&s->d, i.features & wanted, ret_e);
        if (k < 0)
                return k;
        k = make_rings(s);
        if (k == 0)
                k = vhk_drvdev_set_status(&s->d, VHK_DRVDEV_S_DRIVER_OK);
        if (k == 0 && ours)
                k = vhk_frontend_scsi_set_endpoint(s->d.f, o->wwpn, o->tpgt);
        if (k == 0)
                vhk_drvq_arm(s->q[COMMANDS]);
        if (k == 0)
                k = watch(s, vhk_frontend_get_fd(s->d.f));
        return k < 0 ? vhk_drvdev_story(&s->d, k, ret_e) : 0;
}

VHK_API int vhk_scsi_open(const char *spec, const struct vhk_scsi_options *o, struct vhk_scsi **ret_s, struct vhk_error *ret_e) {
        struct vhk_scsi_options own = { .size = sizeof(own) };
        struct vhk_frontend_options fo = { .size = sizeof(fo) };

        if (o && (o->size < sizeof(own) || (o->frontend && o->frontend->size < sizeof(fo))))
                return vhk_error_set(ret_e, -EINVAL, "scsi.options", "struct vhk_scsi_options: size is not set");
        if (o)
                own = *o;
        if (own.frontend)
                fo = *own.frontend;
        uint16_t num = own.queue_size ? own.queue_size : QUEUE_SIZE;
        if (!vhk_is_pow2(num) || num > 32768)
                return vhk_error_set(ret_e, -EINVAL, "scsi.options", "a ring of %u entries: a power of two up to 32768 is needed", num);
        struct vhk_scsi *s = calloc(1, sizeof(*s));
        if (!s)
                return vhk_error_set(ret_e, -ENOMEM, "scsi.memory", "out of memory");
        s->d = (struct vhk_drvdev){ .rule = "scsi.open", .what = "the SCSI host", .refresh = refresh };
        s->epoll_fd = -1;
        s->num = num;
        fo.virtio_id = VIRTIO_ID;
        int k = vhk_drvdev_open(&s->d, spec, &fo, ret_e);
        if (k == 0)
                k = bring_up(s, &own, ret_e);
        if (k < 0) {
                vhk_scsi_close(s);
                return k;
        }
        *ret_s = s;
        return 0;
}

VHK_API struct vhk_scsi *vhk_scsi_close(struct vhk_scsi *s) {
        if (!s)
                return NULL;
        for (unsigned i = 0; i < N_RINGS; i++)
                vhk_drvq_free(s->q[i]);
        vhk_drvdev_close(&s->d);
        vhk_close(&s->epoll_fd);
        free(s->pending);
        free(s->free);
        free(s);
        return NULL;
}
