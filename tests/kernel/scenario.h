/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * One story for every carrier of the front-end: the same calls in the same order over vhost-user, the kernel's vhost devices and vDPA,
 * with the same answers. What a carrier lacks it says so by its capabilities, and then each call of it is -EOPNOTSUPP, with a
 * sentence that names it.
 */
#pragma once

#include "base/test.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <vhostkit/kernel.h>
#include <vhostkit/vhostkit.h>
#include <vhostkit/migration.h>

#include "base/base.h"

#define SCENARIO_RING 8u
#define SCENARIO_RINGS 3u
#define SCENARIO_PLATFORM VHK_BIT(33)

struct scenario {
        const char *spec;
        struct vhk_frontend_options options;
        unsigned n_rings;                       /* that the device needs to begin, at most SCENARIO_RINGS */
        uint32_t virtio_id;
        uint32_t must, must_not;                /* capabilities */
        int (*begin)(struct vhk_frontend *f);   /* lets the device begin behind its rings; NULL: nothing is needed */
};

struct scenario_state {
        struct vhk_frontend *f;
        struct vhk_frontend_info info;
        struct vhk_memory *m;
        uint8_t *va;
        uint64_t gpa;
        int kick[SCENARIO_RINGS], call[SCENARIO_RINGS];
};

static inline const char *scenario_story(const struct scenario_state *s) {
        return vhk_frontend_get_error(s->f)->text;
}

#define STEP(call)                                                                                      \
        do {                                                                                            \
                int k_ = (call);                                                                        \
                CHECK_MSG(k_ >= 0, "%s gave %d: %s", #call, k_, scenario_story(s));                     \
        } while (0)
#define REFUSED(call, how)                                                                              \
        do {                                                                                            \
                int k_ = (call);                                                                        \
                CHECK_MSG(k_ == (how), "%s gave %d, not %d: %s", #call, k_, how, scenario_story(s));     \
                CHECK_EQ(vhk_frontend_get_error(s->f)->code, how);                                      \
                CHECK(scenario_story(s)[0]);                                                            \
        } while (0)

/* ---- what it is ---- */

static inline void scenario_open(struct scenario_state *s, const struct scenario *o) {
        struct vhk_frontend_info short_info = { .size = offsetof(struct vhk_frontend_info, iova_first) }, wrong = { .size = 1 };
        struct vhk_frontend_options options = o->options;
        struct vhk_error e;

        options.size = sizeof(options);
        int k = vhk_frontend_open(o->spec, &options, &s->f, &e);
        CHECK_MSG(k == 0, "%s: %s", o->spec, e.text);
        s->info.size = sizeof(s->info);
        CHECK_OK(vhk_frontend_get_info(s->f, &s->info));
        CHECK_OK(vhk_frontend_get_info(s->f, &short_info));     /* a caller of before */
        CHECK_EQ(short_info.n_queues, s->info.n_queues);
        CHECK_EQ(vhk_frontend_get_info(s->f, &wrong), -EINVAL);
        CHECK_EQ(s->info.acked, 0);
        CHECK(s->info.n_queues >= o->n_rings && s->info.mem_slots >= 8 && s->info.iova_last > s->info.iova_first);
        if (o->virtio_id)
                CHECK_EQ(s->info.virtio_id, o->virtio_id);
        CHECK_MSG((s->info.capabilities & o->must) == o->must, "capabilities 0x%x lack 0x%x", s->info.capabilities, o->must & ~s->info.capabilities);
        CHECK_MSG(!(s->info.capabilities & o->must_not), "capabilities 0x%x have 0x%x", s->info.capabilities, s->info.capabilities & o->must_not);
        CHECK(vhk_frontend_get_fd(s->f) >= 0);
        STEP(vhk_frontend_dispatch(s->f));
}

static inline void scenario_features(struct scenario_state *s) {
        unsigned absent = 63;

        while (s->info.features & VHK_BIT(absent))
                absent--;
        REFUSED(vhk_frontend_set_features(s->f, VHK_BIT(32) | VHK_BIT(absent)), -EINVAL);
        CHECK(strstr(scenario_story(s), "not on offer"));
        CHECK(s->info.features & VHK_BIT(32));
        STEP(vhk_frontend_set_features(s->f, VHK_BIT(32) | (s->info.features & SCENARIO_PLATFORM)));
        CHECK_OK(vhk_frontend_get_info(s->f, &s->info));
        CHECK_EQ(s->info.acked, VHK_BIT(32) | (s->info.features & SCENARIO_PLATFORM));
}

/* ---- what it lacks ---- */

static inline void scenario_lacks(struct scenario_state *s, uint32_t capability, int k, const char *word) {
        if (s->info.capabilities & capability)
                return;
        CHECK_MSG(k == -EOPNOTSUPP, "without \"%s\": %d", word, k);
        CHECK_STR(vhk_frontend_get_error(s->f)->rule, "frontend.capability");
        CHECK_MSG(strstr(scenario_story(s), word), "\"%s\" does not name \"%s\"", scenario_story(s), word);
}

/* The call is made only where it is to fail. */
#define LACK(capability, call, word) scenario_lacks(s, capability, s->info.capabilities & (capability) ? 0 : (call), word)

static inline void scenario_capabilities(struct scenario_state *s) {
        uint64_t sizes[VHK_SHMEM_REGIONS];
        struct vhk_ring_base base;
        uint8_t byte = 0;
        uint32_t n;
        void *data;
        size_t size;
        int fd;

        LACK(VHK_CAP_CONFIG, vhk_frontend_get_config(s->f, 0, &byte, 1), "configuration");
        LACK(VHK_CAP_CONFIG, vhk_frontend_set_config(s->f, 0, &byte, 1, VHK_CONFIG_DRIVER), "configuration");
        LACK(VHK_CAP_STATUS, vhk_frontend_get_status(s->f, &byte), "status");
        LACK(VHK_CAP_STATUS, vhk_frontend_set_status(s->f, 1), "status");
        LACK(VHK_CAP_RESET, vhk_frontend_reset(s->f), "reset");
        LACK(VHK_CAP_ENABLE, vhk_frontend_enable_queue(s->f, 0, 1), "enable");
        LACK(VHK_CAP_INBAND, vhk_frontend_kick_queue(s->f, 0), "in-band");
        LACK(VHK_CAP_ENDIAN, vhk_frontend_set_vring_endian(s->f, 0, 1), "byte order");
        LACK(VHK_CAP_RARP, vhk_frontend_send_rarp(s->f, (uint8_t[6]){ 2 }), "RARP");
        LACK(VHK_CAP_MTU, vhk_frontend_set_mtu(s->f, 1500), "MTU");
        LACK(VHK_CAP_CRYPTO, vhk_frontend_crypto_close(s->f, 0), "crypto");
        LACK(VHK_CAP_SUSPEND, vhk_frontend_suspend_queue(s->f, 0, &base), "in flight");
        LACK(VHK_CAP_LOG, vhk_frontend_log_data(s->f, 1), "dirty log");
        LACK(VHK_CAP_LOG, vhk_frontend_set_log_fd(s->f, s->call[0]), "dirty log");
        LACK(VHK_CAP_POSTCOPY, vhk_frontend_postcopy_advise(s->f, &fd), "postcopy");
        LACK(VHK_CAP_STATE, vhk_frontend_save_state(s->f, 4096, &data, &size), "device state");
        LACK(VHK_CAP_SHMEM, vhk_frontend_get_shmem_config(s->f, sizes), "shared memory");
        LACK(VHK_CAP_IOMMU, vhk_frontend_iotlb_invalidate(s->f, 0, 0), "translate");
        LACK(VHK_CAP_BACKEND_FD, vhk_frontend_set_backend(s->f, 0, -1), "network interface");
        LACK(VHK_CAP_VSOCK, vhk_frontend_vsock_set_cid(s->f, 3), "vsock");
        LACK(VHK_CAP_SCSI, vhk_frontend_scsi_set_endpoint(s->f, "naa.1", 1), "SCSI");
        LACK(VHK_CAP_GROUPS, vhk_frontend_get_queue_group(s->f, 0, &n), "groups");
        LACK(VHK_CAP_DMA, vhk_frontend_dma_map(s->f, 0, 0, 4096, s->va, VHK_ACCESS_BOTH), "mappings");
        LACK(VHK_CAP_DEVICE_SUSPEND, vhk_frontend_suspend(s->f), "suspended");
        LACK(VHK_CAP_DEVICE_RESUME, vhk_frontend_resume(s->f), "resumed");
        LACK(VHK_CAP_WORKERS, vhk_frontend_new_worker(s->f, &n), "workers");
        LACK(VHK_CAP_BUSYLOOP, vhk_frontend_set_busyloop(s->f, 0, 10), "busy polling");
        if (s->info.capabilities & VHK_CAP_CONFIG) {
                STEP(vhk_frontend_get_config(s->f, 0, &byte, 1));
                REFUSED(vhk_frontend_get_config(s->f, UINT32_MAX, &byte, 1), -EINVAL);
        }
        if (s->info.capabilities & VHK_CAP_STATUS)
                STEP(vhk_frontend_get_status(s->f, &byte));
        if (s->info.capabilities & VHK_CAP_GROUPS) {
                STEP(vhk_frontend_get_queue_group(s->f, 0, &n));
                CHECK(n < s->info.n_groups);
        }
        if (s->info.capabilities & VHK_CAP_BUSYLOOP) {
                STEP(vhk_frontend_set_busyloop(s->f, 0, 10));
                STEP(vhk_frontend_get_busyloop(s->f, 0, &n));
                CHECK_EQ(n, 10);
                STEP(vhk_frontend_set_busyloop(s->f, 0, 0));
        }
        if (s->info.capabilities & VHK_CAP_WORKERS) {
                uint32_t first, id;
                STEP(vhk_frontend_get_worker(s->f, 0, &first));
                STEP(vhk_frontend_new_worker(s->f, &n));
                STEP(vhk_frontend_attach_worker(s->f, 0, n));
                STEP(vhk_frontend_get_worker(s->f, 0, &id));
                CHECK_EQ(id, n);
                REFUSED(vhk_frontend_free_worker(s->f, n), -EBUSY);
                STEP(vhk_frontend_attach_worker(s->f, 0, first));
                STEP(vhk_frontend_free_worker(s->f, n));
        }
}

/* ---- memory ---- */

static inline void scenario_memory(struct scenario_state *s) {
        void *more;
        vhk_gpa_t gpa, more_gpa;

        CHECK_OK(vhk_memory_new(&s->m));
        CHECK_OK(vhk_memory_alloc(s->m, 65536, (void **)&s->va));
        CHECK_OK(vhk_memory_find(s->m, s->va, 65536, &gpa));
        s->gpa = gpa.v;
        STEP(vhk_frontend_set_memory(s->f, s->m));
        STEP(vhk_frontend_set_memory(s->f, s->m));
        for (int i = 0; i < 3; i++) {
                CHECK_OK(vhk_memory_alloc(s->m, 8192, &more));
                CHECK_OK(vhk_memory_find(s->m, more, 8192, &more_gpa));
                STEP(vhk_frontend_set_memory(s->f, s->m));
                CHECK_OK(vhk_memory_remove(s->m, more_gpa, 8192));
                STEP(vhk_frontend_set_memory(s->f, s->m));
        }
}

/* ---- rings ---- */

static inline struct vhk_ring_setup scenario_setup(const struct scenario_state *s, unsigned i, uint16_t base) {
        uint8_t *page = s->va + 4096 * i;

        memset(page, 0, 4096);
        memcpy(page + 1024 + 2, &base, 2);              /* as many were made available, and used, before */
        memcpy(page + 2048 + 2, &base, 2);
        return (struct vhk_ring_setup){
                .size = sizeof(struct vhk_ring_setup), .num = SCENARIO_RING, .desc = s->gpa + 4096 * i, .driver = s->gpa + 4096 * i + 1024,
                .device = s->gpa + 4096 * i + 2048, .base = { .avail = base, .used = base }, .kick_fd = s->kick[i], .call_fd = s->call[i], .err_fd = -1,
        };
}

static inline void scenario_start(struct scenario_state *s, const struct scenario *o, uint16_t base) {
        for (unsigned i = 0; i < o->n_rings; i++) {
                struct vhk_ring_setup r = scenario_setup(s, i, base);
                STEP(vhk_frontend_start_queue(s->f, i, &r));
        }
}

static inline void scenario_stop(struct scenario_state *s, const struct scenario *o, uint16_t base) {
        struct vhk_ring_base b;

        for (unsigned i = 0; i < o->n_rings; i++) {
                STEP(vhk_frontend_stop_queue(s->f, i, &b));
                CHECK_EQ(b.avail, base);
        }
}

static inline void scenario_rings(struct scenario_state *s, const struct scenario *o) {
        struct vhk_ring_setup r = scenario_setup(s, 0, 0);
        int other = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        r.size = 4;
        REFUSED(vhk_frontend_start_queue(s->f, 0, &r), -EINVAL);
        r = scenario_setup(s, 0, 0);
        REFUSED(vhk_frontend_start_queue(s->f, 70000, &r), -EINVAL);
        CHECK(strstr(scenario_story(s), "70000"));
        if (!(s->info.acked & SCENARIO_PLATFORM)) {
                r.desc = 1ull << 40;
                REFUSED(vhk_frontend_start_queue(s->f, 0, &r), -EFAULT);
                CHECK(strstr(scenario_story(s), "descriptors"));
        }
        scenario_start(s, o, 0);
        r = scenario_setup(s, 0, 0);
        REFUSED(vhk_frontend_start_queue(s->f, 0, &r), -EBUSY);
        if (o->begin)
                STEP(o->begin(s->f));
        STEP(vhk_frontend_set_call_fd(s->f, 0, other));
        STEP(vhk_frontend_set_call_fd(s->f, 0, -1));
        STEP(vhk_frontend_set_call_fd(s->f, 0, s->call[0]));
        REFUSED(vhk_frontend_set_call_fd(s->f, 70000, other), -EINVAL);
        close(other);
        if (s->info.capabilities & VHK_CAP_ENABLE) {
                STEP(vhk_frontend_enable_queue(s->f, 0, 0));
                STEP(vhk_frontend_enable_queue(s->f, 0, 1));
        }
        scenario_stop(s, o, 0);
        for (uint16_t base = 5; base < 8; base++) {             /* and what was bound is bound again */
                scenario_start(s, o, base);
                STEP(vhk_frontend_dispatch(s->f));
                scenario_stop(s, o, base);
        }
}

/* ---- the log, a reset ---- */

static inline void scenario_log(struct scenario_state *s, const struct scenario *o) {
        struct vhk_dirty_log *log;
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        scenario_start(s, o, 1);
        CHECK_OK(vhk_dirty_log_new(s->gpa + 65536, &log));
        STEP(vhk_frontend_set_log(s->f, vhk_dirty_log_get_fd(log), 0, vhk_dirty_log_get_size(log)));
        STEP(vhk_frontend_set_log_fd(s->f, fd));
        STEP(vhk_frontend_log_data(s->f, 1));
        for (int on = 1; on >= 0; on--)
                for (unsigned i = 0; i < o->n_rings; i++)
                        STEP(vhk_frontend_log_queue(s->f, i, on, s->gpa + 4096 * i + 2048));
        REFUSED(vhk_frontend_log_queue(s->f, 70000, 1, s->gpa), -EINVAL);
        STEP(vhk_frontend_log_data(s->f, 0));
        scenario_stop(s, o, 1);
        REFUSED(vhk_frontend_log_queue(s->f, 0, 1, s->gpa), -EINVAL);   /* it does not run */
        vhk_dirty_log_free(log);
        close(fd);
}

static inline void scenario_reset(struct scenario_state *s, const struct scenario *o) {
        scenario_start(s, o, 2);
        STEP(vhk_frontend_reset(s->f));
        STEP(vhk_frontend_set_features(s->f, VHK_BIT(32) | (s->info.features & SCENARIO_PLATFORM)));
        STEP(vhk_frontend_set_memory(s->f, s->m));
        scenario_start(s, o, 3);
        if (o->begin)
                STEP(o->begin(s->f));
        scenario_stop(s, o, 3);
}

static inline void scenario_close(struct scenario_state *s) {
        s->f = vhk_frontend_close(s->f);
        s->m = vhk_memory_free(s->m);
}

static inline void scenario_run(const struct scenario *o) {
        struct scenario_state state = { 0 }, *s = &state;

        for (unsigned i = 0; i < SCENARIO_RINGS; i++) {
                s->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                s->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        }
        scenario_open(s, o);
        scenario_features(s);
        scenario_memory(s);
        scenario_capabilities(s);
        scenario_rings(s, o);
        if (s->info.capabilities & VHK_CAP_LOG)
                scenario_log(s, o);
        if (s->info.capabilities & VHK_CAP_RESET)
                scenario_reset(s, o);
        scenario_close(s);
        if (!o->options.has_fd) {                               /* the next one finds it free, and with its rings as they were left */
                scenario_open(s, o);
                scenario_features(s);
                scenario_memory(s);
                scenario_start(s, o, 0);
                scenario_close(s);
        }
        for (unsigned i = 0; i < SCENARIO_RINGS; i++) {
                close(s->kick[i]);
                close(s->call[i]);
        }
        printf("  %s: features 0x%llx, capabilities 0x%x, %u rings\n", o->spec, (unsigned long long)s->info.features, s->info.capabilities, s->info.n_queues);
}
