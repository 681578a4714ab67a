/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A device with all that a device may have, and a front-end that makes every call: for test-fault-injection.c, which includes this in
 * its middle. A call that fails has an error message; the calls after it are made all the same.
 */
#pragma once

#include <poll.h>
#include <vhostkit/migration.h>

#include "base/clock.h"
#include "wire/features.h"

#define PAGE 4096u

/* ---- the device: all of it on the back-end's thread ---- */

static struct any {
        struct vhk_host *host;
        int object;                     /* a descriptor that it shares and maps */
        uint8_t config[8], state[100];
} any = { .object = -1 };
static const uint8_t any_uuid[16] = "an object to see";

static void any_on_found(void *arg, int error, int fd) {
        if (error == 0)
                close(fd);
}

/* What a device may ask of its front-end; it may fail, at once or later. */
static void any_ask(struct any *d) {
        struct vhk_shmem_map m = { .size = sizeof(m), .id = 5, .fd = d->object, .len = PAGE };

        vhk_host_config_changed(d->host);
        vhk_host_shmem_map(d->host, &m, NULL, NULL);
        vhk_host_shmem_unmap(d->host, 5, 0, PAGE, NULL, NULL);
        vhk_host_object_add(d->host, any_uuid, NULL, NULL);
        vhk_host_object_lookup(d->host, any_uuid, any_on_found, NULL);
        vhk_host_object_remove(d->host, any_uuid, NULL, NULL);
}

static void any_queue_run(void *dev, struct vhk_queue *q) {
        struct vhk_req *r;

        while (vhk_queue_pop(q, &r, 1) == 1) {
                any_ask(dev);
                vhk_queue_push(q, r, (uint32_t)vhk_req_write(r, 0, "used", 4));
        }
        vhk_queue_flush(q);
}

static int any_attach(void *dev, struct vhk_host *h) {
        ((struct any *)dev)->host = h;
        return 0;
}

static int any_get_config(void *dev, uint32_t off, void *buf, uint32_t n) {
        memcpy(buf, ((struct any *)dev)->config + off, n);
        return 0;
}

static int any_set_config(void *dev, uint32_t off, const void *buf, uint32_t n, enum vhk_config_origin from) {
        memcpy(((struct any *)dev)->config + off, buf, n);
        return 0;
}

static int any_save_state(void *dev, void **ret_data, size_t *ret_n) {
        *ret_data = calloc(1, *ret_n = sizeof(any.state));
        return *ret_data ? 0 : -ENOMEM;
}

static int any_load_state(void *dev, const void *data, size_t n) {
        return n == sizeof(any.state) ? 0 : -EINVAL;
}

static int any_get_shmem_config(void *dev, uint64_t sizes[VHK_SHMEM_REGIONS]) {
        sizes[5] = 8 * PAGE;
        return 0;
}

static int any_get_object(void *dev, const uint8_t uuid[16], int *ret_fd) {
        *ret_fd = fcntl(((struct any *)dev)->object, F_DUPFD_CLOEXEC, 0);
        return *ret_fd < 0 ? -errno : 0;
}

static int any_send_rarp(void *dev, const uint8_t mac[6]) { return 0; }
static int any_set_mtu(void *dev, uint16_t mtu) { return 0; }
static int64_t any_create_session(void *dev, enum vhk_crypto_form form, const void *session) { return 1; }
static int any_close_session(void *dev, uint64_t id) { return 0; }
static void any_display_opened(void *dev, struct vhk_display *d, uint32_t features) { }

static const struct vhk_shmem_ops any_shmem = { .size = sizeof(any_shmem), .get_config = any_get_shmem_config };
static const struct vhk_object_ops any_objects = { .size = sizeof(any_objects), .get = any_get_object };
static const struct vhk_net_ops any_net = { sizeof(any_net), any_send_rarp, any_set_mtu };
static const struct vhk_display_ops any_display = { .size = sizeof(any_display), .opened = any_display_opened };
static const struct vhk_crypto_ops any_crypto = { sizeof(any_crypto), any_create_session, any_close_session };
static const struct vhk_device_ops any_ops = {
        .size = sizeof(any_ops), .virtio_id = 1, .n_queues = 2, .queue_size_max = 64, .config_len = 8,
        .threads = VHK_THREADS_PER_QUEUE, .features = VHK_BIT(VHK_F_NET_MTU), .attach = any_attach,
        .get_config = any_get_config, .set_config = any_set_config, .queue_run = any_queue_run,
        .save_state = any_save_state, .load_state = any_load_state, .shmem = &any_shmem, .objects = &any_objects,
        .net = &any_net, .crypto = &any_crypto, .display = &any_display,
};

static int any_open(void **ret_dev, struct vhk_device_ops *ret_ops, struct vhk_error *ret_e) {
        any = (struct any){ .object = memfd_create("object", MFD_CLOEXEC) };
        if (any.object < 0 || ftruncate(any.object, PAGE) < 0) {
                *ret_e = (struct vhk_error){ -errno, "test", "no memfd" };
                return ret_e->code;
        }
        *ret_ops = any_ops;
        *ret_dev = &any;
        return 0;
}

static void any_close(void *dev) {
        close(any.object);
}

/* ---- the front-end ---- */

static bool with_iommu;
static struct vhk_frontend *front;
static struct vhk_memory *memory;
static struct vhk_drvq *ring;
static void *buffer;

static int any_map(void *arg, const struct vhk_shmem_map *m) { return 0; }
static void any_unmap(void *arg, const struct vhk_shmem_map *m) { }
static int any_get_display_info(void *arg, struct vhk_display_info *ret_info) { return 0; }
static void any_on_queue(void *arg, unsigned queue, enum vhk_frontend_queue_event ev) { }
static int any_on_notifier(void *arg, unsigned queue, int fd, uint64_t offset) { return 0; }

static int any_on_miss(void *arg, uint64_t iova, uint32_t access, struct vhk_translation *ret_t) {
        ret_t->iova = ret_t->gpa = iova - iova % PAGE;
        ret_t->len = PAGE;
        ret_t->access = VHK_ACCESS_BOTH;
        return 0;
}

static bool any_done(long long ret, const char *call) {
        if (ret >= 0)
                return true;
        check_message((int)ret, vhk_frontend_get_error(front), call);
        return false;
}
#define ANY_DONE(call) any_done(call, #call)

/* A call whose errno is all that it has to say. */
static bool any_bare(int ret, const char *call) {
        if (ret >= 0)
                return true;
        run.n_refused++;
        EXPECT(fault_failed_call(), "%s gave %d", call, ret);
        return false;
}
#define ANY_BARE(call) any_bare(call, #call)

/* One request, there and back. A ring that the back-end broke is not seen here, but the back-end has logged why. */
static void any_request(void) {
        struct iovec v = { buffer, 64 };
        struct vhk_done done;
        int n = 0;

        if (!ring || has_broken_ring() || !ANY_DONE(vhk_drvq_add(ring, &v, 0, 1, &v)) || !ANY_DONE(vhk_drvq_kick(ring)))
                return;
        for (uint64_t end = vhk_now_ns() + 4 * BACK_LIMIT_NS; n == 0 && vhk_now_ns() < end && !has_broken_ring();) {
                struct pollfd fds[] = { { vhk_drvq_get_fd(ring), POLLIN, 0 }, { vhk_frontend_get_fd(front), POLLIN, 0 } };
                if (poll(fds, 2, 1) > 0 && fds[0].revents)
                        (void)!read(fds[0].fd, &(uint64_t){ 0 }, 8);
                if (!ANY_DONE(vhk_frontend_dispatch(front)))
                        return;
                n = vhk_drvq_reap(ring, &done, 1);
        }
        if (n == 0) {
                run.n_refused++;
                EXPECT(fault_failed_call() && has_broken_ring(), "a request is not completed; the back-end logged \"%s\"", back.log);
        } else {
                ANY_DONE(n);
        }
}

static void any_use_log(void) {
        struct vhk_dirty_log *l;

        if (!ring || !ANY_BARE(vhk_dirty_log_new(1 << 30, &l)))
                return;
        ANY_DONE(vhk_frontend_set_log(front, vhk_dirty_log_get_fd(l), 0, vhk_dirty_log_get_size(l)));
        ANY_DONE(vhk_frontend_set_log_fd(front, vhk_drvq_get_fd(ring)));
        ANY_DONE(vhk_frontend_log_data(front, 1));
        ANY_DONE(vhk_frontend_log_queue(front, 0, 1, vhk_drvq_get_setup(ring)->device));
        any_request();
        ANY_DONE(vhk_frontend_log_data(front, 0));
        vhk_dirty_log_free(l);
}

static void any_use_state(void) {
        struct vhk_ring_base base;
        void *data;
        size_t n;

        ANY_DONE(vhk_frontend_suspend_queue(front, 0, &base));
        if (ANY_DONE(vhk_frontend_save_state(front, 1000, &data, &n))) {
                ANY_DONE(vhk_frontend_load_state(front, data, n));
                free(data);
        }
}

static void any_use_class(void) {
        uint8_t session[1072] = { 0 }, bytes[4];
        uint64_t id, sizes[VHK_SHMEM_REGIONS];

        ANY_DONE(vhk_frontend_set_mtu(front, 1500));
        ANY_DONE(vhk_frontend_send_rarp(front, (uint8_t[6]){ 2 }));
        ANY_DONE(vhk_frontend_set_status(front, 3));
        ANY_DONE(vhk_frontend_get_status(front, bytes));
        ANY_DONE(vhk_frontend_get_config(front, 0, bytes, 4));
        ANY_DONE(vhk_frontend_set_config(front, 4, bytes, 4, VHK_CONFIG_DRIVER));
        ANY_DONE(vhk_frontend_get_shmem_config(front, sizes));
        if (ANY_DONE(vhk_frontend_crypto_create(front, VHK_CRYPTO_FORM_1072, session, &id)))
                ANY_DONE(vhk_frontend_crypto_close(front, id));
}

static void any_use_translations(void) {
        vhk_gpa_t gpa;

        if (!with_iommu || vhk_memory_find(memory, buffer, PAGE, &gpa) < 0)
                return;
        struct vhk_translation t = { .size = sizeof(t), .iova = gpa.v, .len = PAGE, .gpa = gpa.v, .access = VHK_ACCESS_BOTH };
        ANY_DONE(vhk_frontend_iotlb_update(front, &t));
        ANY_DONE(vhk_frontend_iotlb_invalidate(front, gpa.v, PAGE));
        any_request();
}

static void any_use_rings(bool reconnect) {
        void *more;

        if (!ANY_BARE(vhk_memory_alloc(memory, 2 * PAGE, &buffer)) || !ANY_DONE(vhk_frontend_set_memory(front, memory)))
                return;
        if (!ANY_DONE(vhk_drvq_new(front, memory, 0, NULL, &ring)))
                ring = NULL;
        set_phase(LOAD);
        any_request();
        if (ANY_BARE(vhk_memory_alloc(memory, 2 * PAGE, &more)))
                ANY_DONE(vhk_frontend_set_memory(front, memory));
        any_use_translations();
        any_use_log();
        if (reconnect) {
                set_phase(RECONNECT);
                stop_back(VHK_STOP_ABORT, false);
        }
        any_request();
        set_phase(STOP);
        any_use_state();
        ANY_DONE(vhk_frontend_reset(front));
        ring = vhk_drvq_free(ring);
}

static void any_use_front(struct vhk_objects *table, bool reconnect) {
        static const struct vhk_frontend_shmem shmem = { .size = sizeof(shmem), .map = any_map, .unmap = any_unmap };
        static const struct vhk_frontend_display display = { .size = sizeof(display), .get_info = any_get_display_info };
        struct vhk_frontend_options o = { .size = sizeof(o), .limit_ns = LIMIT_NS, .connect_ns = LIMIT_NS, .reconnect_ns = LIMIT_NS,
                                          .on_queue = any_on_queue, .on_notifier = any_on_notifier, .on_miss = any_on_miss,
                                          .shmem = &shmem, .display = &display, .objects = table, .iommu = with_iommu };
        struct vhk_error e = { .code = 0 };

        set_phase(CONNECT);
        int ret = vhk_frontend_open(back.socket, &o, &front, &e);
        if (ret < 0) {
                check_message(ret, &e, "vhk_frontend_open()");
                return;
        }
        if (ANY_DONE(vhk_frontend_set_features(front, VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_NET_MTU) |
                                               (with_iommu ? VHK_BIT(VHK_F_ACCESS_PLATFORM) : 0))))
                any_use_class();
        if (ANY_BARE(vhk_memory_new(&memory)))
                any_use_rings(reconnect);
        ring = vhk_drvq_free(ring);
        set_phase(STOP);
        front = vhk_frontend_close(front);
        memory = vhk_memory_free(memory);
}

static void any_use(bool reconnect) {
        struct vhk_objects *table;

        if (!ANY_BARE(vhk_objects_new(&table)))
                return;
        any_use_front(table, reconnect);
        vhk_objects_free(table);
}

static const struct subject any_subject = {
        any_open, any_close, any_use, 0, VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS) | VHK_BIT(VHK_PF_HOST_NOTIFIER),
};
static const struct subject iommu_subject = { any_open, any_close, any_use, VHK_BIT(VHK_F_ACCESS_PLATFORM), 0 };
