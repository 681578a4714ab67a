/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The public calls of a front-end: check, hand over to the carrier, tell the events. One thread at a time.
 *
 * Every call is bracketed by enter() and leave(). Callbacks (events, log, trace) run in between, so whatever they call
 * here finds the object busy. Events are told when the carrier is done, in the order: configuration changed, gone.
 */
#include <sys/stat.h>
#include <vhostkit/display.h>
#include <vhostkit/migration.h>

#include "base/clock.h"
#include "base/struct.h"
#include "frontend/frontend.h"
#include "mem/mem.h"
#include "wire/features.h"

static const struct vhk_frontend_carrier carriers[] = {
        { "vhost-user:", vhk_vhost_user_open },         /* first: also for a bare path or a descriptor */
#ifdef VHK_WITH_KERNEL
        { "vhost-net:", vhk_vhost_net_open },
        { "vhost-vsock:", vhk_vhost_vsock_open },
        { "vhost-scsi:", vhk_vhost_scsi_open },
        { "vhost-vdpa:", vhk_vhost_vdpa_open },
#endif
};

/* ---- the story ---- */

int vhk_frontend_fail(struct vhk_frontend *f, int code, const char *rule, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        vhk_error_vset(&f->error, code, rule, format, ap);
        va_end(ap);
        f->explained = true;
        vhk_log(&f->trace, VHK_LOG_DEBUG, "-- (%s) %s", rule, f->error.text);
        return code;
}

int vhk_frontend_explain(struct vhk_frontend *f, int ret) {
        if (ret >= 0 || f->explained)
                return ret;
        return vhk_frontend_fail(f, ret, "frontend.failed", "the call failed inside this process: %s", strerror(-ret));
}

int vhk_frontend_fail_translation(struct vhk_frontend *f, int code, const struct vhk_translation *t) {
        struct vhk_translation own = { .size = sizeof(own) };

        int ret = VHK_STRUCT_TAKE(&own, t, access);
        if (ret < 0)
                return vhk_frontend_fail(f, ret, "frontend.translation", "struct vhk_translation: its size is not set, or a member is used "
                                         "that is not known here");
        return vhk_frontend_fail(f, code, "frontend.translation", "a translation of 0x%llx to guest address 0x%llx, %llu bytes: %s",
                                 (unsigned long long)own.iova, (unsigned long long)own.gpa, (unsigned long long)own.len,
                                 code == -EFAULT ? "not in one shared region" : "not valid");
}

int vhk_frontend_end(struct vhk_frontend *f, int code, const char *rule, const char *format, ...) {
        va_list ap;

        if (!f->end.code) {
                va_start(ap, format);
                vhk_error_vset(&f->end, code, rule, format, ap);
                va_end(ap);
                vhk_log(&f->log, VHK_LOG_WARNING, "the connection has ended: %s", f->end.text);
                vhk_log(&f->trace, VHK_LOG_DEBUG, "-- the connection ends (%s): %s", rule, f->end.text);
        }
        f->error = f->end;
        f->error.code = code;
        f->explained = true;
        return code;
}

int vhk_frontend_enter(struct vhk_frontend *f) {
        if (f->busy)
                return -EDEADLK;
        if (vhk_frontend_is_final(f)) {
                f->error = f->end;
                f->error.code = -EPIPE;
                return -EPIPE;
        }
        f->busy = true;
        f->explained = false;
        if (!f->closing)
                f->deadline = vhk_time_after(vhk_now_ns(), f->options.limit_ns);
        return 0;
}

int vhk_frontend_need(struct vhk_frontend *f) {
        if (f->end.code && f->closing) {
                f->error = f->end;
                f->explained = true;
                return f->error.code = -EPIPE;
        }
        return f->end.code ? vhk_frontend_wait_again(f) : 0;
}

bool vhk_frontend_was_cut_short(const struct vhk_frontend *f, int k) {
        return k < 0 && f->end.code && !f->again.searching && !f->closing && !vhk_frontend_is_final(f);
}

static void tell_queue_events(struct vhk_frontend *f) {
        for (unsigned i = 0; f->has_queue_events && i < VHK_N(f->queue_events); i++)
                for (unsigned ev = VHK_FRONTEND_QUEUE_CALLED; ev <= VHK_FRONTEND_QUEUE_BROKEN; ev++)
                        if ((f->queue_events[i] & 1u << ev) && f->options.on_queue)
                                f->options.on_queue(f->options.event_arg, i, (enum vhk_frontend_queue_event)ev);
        memset(f->queue_events, 0, f->has_queue_events ? sizeof(f->queue_events) : 0);
        f->has_queue_events = false;
}

int vhk_frontend_leave(struct vhk_frontend *f, int k) {
        vhk_frontend_explain(f, k);
        tell_queue_events(f);
        if (f->config_changed && !f->end.code && f->options.on_event)
                f->options.on_event(f->options.event_arg, VHK_FRONTEND_CONFIG_CHANGED, NULL);
        f->config_changed = false;
        if (f->again.reconnected && f->options.on_event)
                f->options.on_event(f->options.event_arg, VHK_FRONTEND_RECONNECTED, NULL);
        f->again.reconnected = false;
        if (vhk_frontend_is_final(f) && f->ops->gone)
                f->ops->gone(f);
        if (vhk_frontend_is_final(f) && f->options.on_event)    /* once: enter() lets nobody in again */
                f->options.on_event(f->options.event_arg, VHK_FRONTEND_GONE, &f->end);
        f->busy = false;
        if (f->close_wanted)
                vhk_frontend_close(f);
        return k;
}

int vhk_frontend_lacks(struct vhk_frontend *f, uint32_t capability, const char *what) {
        if (!capability || (f->info.capabilities & capability))
                return 0;
        return vhk_frontend_fail(f, -EOPNOTSUPP, "frontend.capability", "the back-end has no %s", what);
}

#define CALL VHK_FRONTEND_CALL
#define ALWAYS 0u

/* ---- words that all carriers have ---- */

uint32_t vhk_frontend_encode_base(uint64_t features, const struct vhk_ring_base *b) {
        if (!(features & VHK_BIT(VHK_F_RING_PACKED)))
                return b->avail;
        return (b->avail & 0x7fffu) | (uint32_t)!!b->avail_wrap << 15 | (b->used & 0x7fffu) << 16 | (uint32_t)!!b->used_wrap << 31;
}

struct vhk_ring_base vhk_frontend_decode_base(uint64_t features, uint32_t num) {
        if (!(features & VHK_BIT(VHK_F_RING_PACKED)))
                return (struct vhk_ring_base){ .avail = (uint16_t)num, .used = (uint16_t)num };
        return (struct vhk_ring_base){ .avail = num & 0x7fff, .avail_wrap = num >> 15 & 1, .used = num >> 16 & 0x7fff, .used_wrap = num >> 31 };
}

int vhk_frontend_get_region(struct vhk_frontend *f, const struct vhk_memory *m, unsigned i, struct vhk_region *ret_r, struct stat *ret_st) {
        struct vhk_region r = { .size = sizeof(r) };
        int k = vhk_memory_get_region(m, i, &r);

        if (k == 0 && ret_st && fstat(r.fd, ret_st) < 0)
                k = vhk_errno();
        if (k < 0)
                return vhk_frontend_fail(f, k, "frontend.memory", "region %u of the memory cannot be read", i);
        *ret_r = r;
        return 0;
}

int vhk_frontend_find_areas(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s, uint64_t features, vhk_frontend_find_fn find, void *arg,
                            struct vhk_frontend_areas *ret_a) {
        bool packed = features & VHK_BIT(VHK_F_RING_PACKED);
        struct vhk_frontend_areas a = { s->desc, s->driver, s->device };
        const struct { const char *what; uint64_t gpa, len, *ret; } areas[] = {
                { "descriptors", s->desc, 16ull * s->num, &a.desc },
                { "driver area", s->driver, packed ? 4 : 6 + 2ull * s->num, &a.driver },
                { "device area", s->device, packed ? 4 : 6 + 8ull * s->num, &a.device },
        };

        for (size_t j = 0; j < VHK_N(areas) && !(features & VHK_BIT(VHK_F_ACCESS_PLATFORM)); j++) {
                int k = find(arg, areas[j].gpa, areas[j].len, areas[j].ret);
                if (k < 0)
                        return vhk_frontend_fail(f, k, "frontend.ring-memory", "ring %u: its %s, %llu bytes at guest address 0x%llx, are not in one lent region", i,
                                                 areas[j].what, (unsigned long long)areas[j].len, (unsigned long long)areas[j].gpa);
        }
        *ret_a = a;
        return 0;
}

/* ---- the calls ---- */

static const struct vhk_frontend_carrier *carrier_of(const char *spec) {
        for (size_t i = 0; spec && i < VHK_N(carriers); i++)
                if (!strncmp(spec, carriers[i].prefix, strlen(carriers[i].prefix)))
                        return &carriers[i];
        return &carriers[0];
}

static int check_display(const struct vhk_frontend_display *d) {
        if (!d->get_info || (d->features & ~(VHK_DISPLAY_EDID | VHK_DISPLAY_DMABUF2)))
                return -EINVAL;
        return (d->features & VHK_DISPLAY_EDID) && !d->get_edid ? -EINVAL : 0;
}

/* The caller's options, and what they point to, at the size that is known here. */
static int take_options(const struct vhk_frontend_options *o, struct vhk_frontend_options *own, struct vhk_frontend_shmem *shmem,
                        struct vhk_frontend_display *display, struct vhk_error *ret_e) {
        int ret = o ? VHK_STRUCT_TAKE(own, o, trace_arg) : 0;

        if (ret < 0)
                return vhk_error_set(ret_e, ret, "frontend.options", "struct vhk_frontend_options: size is not set, or a member is used that is not known here");
        if (own->shmem) {
                ret = VHK_STRUCT_TAKE(shmem, own->shmem, arg);
                if (ret < 0 || !shmem->map || !shmem->unmap)
                        return vhk_error_set(ret_e, ret < 0 ? ret : -EINVAL, "frontend.options", "struct vhk_frontend_shmem: size, map and unmap are not all set");
                own->shmem = shmem;
        }
        if (own->display) {
                ret = VHK_STRUCT_TAKE(display, own->display, arg);
                if (ret < 0 || check_display(display) < 0)
                        return vhk_error_set(ret_e, ret < 0 ? ret : -EINVAL, "frontend.options",
                                             "struct vhk_frontend_display: size, features and what they need are not all set");
                own->display = display;
        }
        return 0;
}

VHK_API int vhk_frontend_open(const char *spec, const struct vhk_frontend_options *o, struct vhk_frontend **ret_f, struct vhk_error *ret_e) {
        struct vhk_frontend_options own = { .size = sizeof(own) };
        struct vhk_frontend_shmem shmem;
        struct vhk_frontend_display display;

        int k = take_options(o, &own, &shmem, &display, ret_e);
        if (k < 0)
                return k;
        if (!own.limit_ns)
                own.limit_ns = 30000000000ull;
        const struct vhk_frontend_carrier *c = carrier_of(spec);
        if (own.has_fd ? spec && strcmp(spec, c->prefix) : !spec)
                return vhk_error_set(ret_e, -EINVAL, "frontend.options", "either an endpoint or an inherited descriptor (of a carrier, \"%s\" say) is needed",
                                     c->prefix);
        return c->open(own.has_fd ? NULL : spec, &own, ret_f, ret_e);
}

VHK_API int vhk_frontend_prepare_close(struct vhk_frontend *f) {
        if (f->busy)
                return -EDEADLK;
        if (!f->closing)
                f->deadline = vhk_time_after(vhk_now_ns(), f->options.limit_ns);
        f->closing = true;
        return 0;
}

VHK_API struct vhk_frontend *vhk_frontend_close(struct vhk_frontend *f) {
        if (!f)
                return NULL;
        f->options.on_event = NULL;
        f->options.on_queue = NULL;
        if (f->busy) {                  /* from inside a callback: the call that runs ends soon, and closes */
                f->close_wanted = true;
                f->options.reconnect_ns = 0;
                return NULL;
        }
        vhk_frontend_prepare_close(f);
        f->busy = true;
        f->ops->close(f);
        return NULL;
}

VHK_API int vhk_frontend_get_info(struct vhk_frontend *f, struct vhk_frontend_info *ret_i) {
        return VHK_STRUCT_GIVE(ret_i, &f->info);
}

VHK_API const struct vhk_error *vhk_frontend_get_error(struct vhk_frontend *f) {
        return &f->error;
}

static int set_features(struct vhk_frontend *f, uint64_t features) {
        int ret = f->ops->set_features(f, features);

        f->has_features |= ret == 0;
        return ret;
}

static int set_memory(struct vhk_frontend *f, struct vhk_memory *m) {
        int ret = f->ops->set_memory(f, m);

        if (ret == 0) {
                f->shared_memory = m;
                f->shared_generation = vhk_memory_generation(m);
        }
        return ret;
}

VHK_API int vhk_frontend_set_features(struct vhk_frontend *f, uint64_t features) {
        CALL(f, ALWAYS, "", set_features(f, features));
}

VHK_API int vhk_frontend_set_memory(struct vhk_frontend *f, struct vhk_memory *m) {
        CALL(f, ALWAYS, "", set_memory(f, m));
}

VHK_API int vhk_frontend_get_config(struct vhk_frontend *f, uint32_t off, void *ret_buf, uint32_t n) {
        CALL(f, VHK_CAP_CONFIG, "configuration space", f->ops->get_config(f, off, ret_buf, n));
}

VHK_API int vhk_frontend_set_config(struct vhk_frontend *f, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        CALL(f, VHK_CAP_CONFIG, "configuration space", f->ops->set_config(f, off, buf, n, from));
}

VHK_API int vhk_frontend_get_status(struct vhk_frontend *f, uint8_t *ret_status) {
        CALL(f, VHK_CAP_STATUS, "device status", f->ops->get_status(f, ret_status));
}

VHK_API int vhk_frontend_set_status(struct vhk_frontend *f, uint8_t status) {
        CALL(f, VHK_CAP_STATUS, "device status", f->ops->set_status(f, status));
}

VHK_API int vhk_frontend_reset(struct vhk_frontend *f) {
        CALL(f, VHK_CAP_RESET, "device reset", f->ops->reset(f));
}

VHK_API int vhk_frontend_get_shmem_config(struct vhk_frontend *f, uint64_t ret_sizes[VHK_SHMEM_REGIONS]) {
        CALL(f, VHK_CAP_SHMEM, "shared memory regions that were wanted", f->ops->get_shmem_config(f, ret_sizes));
}

static int start_queue(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s) {
        struct vhk_ring_setup own = { .size = sizeof(own) };

        int ret = VHK_STRUCT_TAKE(&own, s, err_fd);
        if (ret < 0)
                return vhk_frontend_fail(f, ret, "frontend.options", "struct vhk_ring_setup: size is not set, or a member is used that is not known here");
        return f->ops->start_queue(f, i, &own);
}

VHK_API int vhk_frontend_start_queue(struct vhk_frontend *f, unsigned i, const struct vhk_ring_setup *s) {
        CALL(f, ALWAYS, "", start_queue(f, i, s));
}

VHK_API int vhk_frontend_stop_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base) {
        CALL(f, ALWAYS, "", f->ops->stop_queue(f, i, ret_base));
}

VHK_API int vhk_frontend_suspend_queue(struct vhk_frontend *f, unsigned i, struct vhk_ring_base *ret_base) {
        CALL(f, VHK_CAP_SUSPEND, "way to stop a ring with requests in flight", f->ops->suspend_queue(f, i, ret_base));
}

VHK_API int vhk_frontend_enable_queue(struct vhk_frontend *f, unsigned i, int on) {
        CALL(f, VHK_CAP_ENABLE, "way to enable and disable rings", f->ops->enable_queue(f, i, on));
}

VHK_API int vhk_frontend_set_call_fd(struct vhk_frontend *f, unsigned i, int fd) {
        CALL(f, ALWAYS, "", f->ops->set_call_fd(f, i, fd));
}

VHK_API int vhk_frontend_kick_queue(struct vhk_frontend *f, unsigned i) {
        CALL(f, VHK_CAP_INBAND, "in-band notifications", f->ops->kick_queue(f, i));
}

VHK_API int vhk_frontend_set_vring_endian(struct vhk_frontend *f, unsigned i, int big) {
        CALL(f, VHK_CAP_ENDIAN, "choice of a ring's byte order", f->ops->set_vring_endian(f, i, big));
}

VHK_API int vhk_frontend_send_rarp(struct vhk_frontend *f, const uint8_t mac[6]) {
        CALL(f, VHK_CAP_RARP, "RARP of its own", f->ops->send_rarp(f, mac));
}

VHK_API int vhk_frontend_set_mtu(struct vhk_frontend *f, uint16_t mtu) {
        CALL(f, VHK_CAP_MTU, "MTU to set", f->ops->set_mtu(f, mtu));
}

VHK_API int vhk_frontend_crypto_create(struct vhk_frontend *f, enum vhk_crypto_form form, const void *session, uint64_t *ret_id) {
        CALL(f, VHK_CAP_CRYPTO, "crypto sessions", f->ops->crypto_create(f, form, session, ret_id));
}

VHK_API int vhk_frontend_crypto_close(struct vhk_frontend *f, uint64_t id) {
        CALL(f, VHK_CAP_CRYPTO, "crypto sessions", f->ops->crypto_close(f, id));
}

VHK_API int vhk_frontend_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size) {
        CALL(f, VHK_CAP_LOG, "dirty log", f->ops->set_log(f, fd, offset, size));
}

VHK_API int vhk_frontend_set_log_fd(struct vhk_frontend *f, int fd) {
        CALL(f, VHK_CAP_LOG, "dirty log", f->ops->set_log_fd(f, fd));
}

VHK_API int vhk_frontend_log_data(struct vhk_frontend *f, int on) {
        CALL(f, VHK_CAP_LOG, "dirty log", f->ops->log_data(f, on));
}

VHK_API int vhk_frontend_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa) {
        CALL(f, VHK_CAP_LOG, "dirty log", f->ops->log_queue(f, i, on, gpa));
}

VHK_API int vhk_frontend_postcopy_advise(struct vhk_frontend *f, int *ret_fd) {
        CALL(f, VHK_CAP_POSTCOPY, "postcopy", f->ops->postcopy_advise(f, ret_fd));
}

VHK_API int vhk_frontend_postcopy_listen(struct vhk_frontend *f) {
        CALL(f, VHK_CAP_POSTCOPY, "postcopy", f->ops->postcopy_listen(f));
}

VHK_API int vhk_frontend_postcopy_get_address(struct vhk_frontend *f, uint64_t gpa, uint64_t *ret_address) {
        CALL(f, VHK_CAP_POSTCOPY, "postcopy", f->ops->postcopy_get_address(f, gpa, ret_address));
}

VHK_API int vhk_frontend_postcopy_end(struct vhk_frontend *f) {
        CALL(f, VHK_CAP_POSTCOPY, "postcopy", f->ops->postcopy_end(f));
}

VHK_API int vhk_frontend_save_state(struct vhk_frontend *f, size_t max, void **ret_data, size_t *ret_n) {
        CALL(f, VHK_CAP_STATE, "device state to move", f->ops->save_state(f, max, ret_data, ret_n));
}

VHK_API int vhk_frontend_load_state(struct vhk_frontend *f, const void *data, size_t n) {
        CALL(f, VHK_CAP_STATE, "device state to move", f->ops->load_state(f, data, n));
}

VHK_API int vhk_frontend_iotlb_update(struct vhk_frontend *f, const struct vhk_translation *t) {
        CALL(f, VHK_CAP_IOMMU, "way to translate addresses", f->ops->iotlb_update(f, t));
}

VHK_API int vhk_frontend_iotlb_invalidate(struct vhk_frontend *f, uint64_t iova, uint64_t len) {
        CALL(f, VHK_CAP_IOMMU, "way to translate addresses", f->ops->iotlb_invalidate(f, iova, len));
}

VHK_API int vhk_frontend_get_fd(struct vhk_frontend *f) {
        return f->ops->get_fd(f);
}

VHK_API int vhk_frontend_dispatch(struct vhk_frontend *f) {
        int k = vhk_frontend_enter(f);

        if (k < 0)
                return k;
        if (f->closing)
                k = vhk_frontend_need(f);
        else if (f->end.code)
                k = vhk_frontend_try_again(f, false);
        if (k == 0)
                k = f->ops->dispatch(f);
        if (vhk_frontend_was_cut_short(f, k))
                k = vhk_frontend_try_again(f, false);
        return vhk_frontend_leave(f, k == -EAGAIN ? 0 : k);
}
