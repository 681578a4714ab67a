/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Every message from one end of the library to the other: each row of messages.def once with success and once refused, with the
 * front-end connecting and with the front-end listening. A row without an entry below does not compile.
 *
 * A success is seen by what it does and in both ends' traces, which must tell the same story. A refusal is one that the row has: a
 * negative acknowledgement that the caller sees with its story (NACKED), words of its own (SAID), or the end of the connection
 * (ENDED), with the rule that was broken. What a correct peer never says is made on the way (relay.h).
 */
#include <sys/syscall.h>

#include "every-message.h"
#include "frontend/vhost_user.h"
#include "mem/mem.h"

/* ---- changes on the way ---- */

static void put(struct relay_message *m, unsigned at, const void *what, unsigned n) {
        memcpy(m->payload + at, what, n);
}

static void change_size(struct relay_message *m) { m->payload[m->h.size++] = 0; }
static void change_fds(struct relay_message *m) { m->fds[m->n_fds++] = eventfd(0, EFD_CLOEXEC); }
static void change_fd(struct relay_message *m) { close(m->fds[0]); m->fds[0] = eventfd(0, EFD_CLOEXEC); }
static void change_bit_63(struct relay_message *m) { m->payload[7] |= 0x80; }
static void change_status(struct relay_message *m) { m->payload[1] = 1; }
static void change_word(struct relay_message *m) { m->payload[0] = 1; }
static void change_num(struct relay_message *m) { m->payload[4] = 2; }
static void change_base(struct relay_message *m) { m->payload[6] = 1; }
static void change_address(struct relay_message *m) { put(m, offsetof(struct vhk_p_iotlb, user_addr), &(uint64_t){ UINT64_C(1) << 50 }, 8); }
static void change_queues(struct relay_message *m) { put(m, offsetof(struct vhk_p_inflight, num_queues), &(uint16_t){ 0 }, 2); }
static void change_bytes(struct relay_message *m) { put(m, offsetof(struct vhk_p_inflight, mmap_size), &(uint64_t){ 1 }, 8); }

/* ---- entries: what is done for a success, and what for a refusal ---- */

struct entry {
        void (*success)(void), (*refusal)(void);        /* refusal NULL: the front-end is not even open then */
        enum { NACKED, SAID, ENDED } how;
        const char *rule;               /* the one that is broken; NULL: the device's own no, which no rule names */
        void (*change)(struct relay_message *m);        /* NULL: our own end may say it */
        unsigned needs;
};

static void nothing_more(void) { }

/* -- what is said when the connection begins -- */

static void features_are_known(void) {
        CHECK_EQ(info().features & (BIT(VHK_F_VERSION_1) | DEVICE_FEATURE), BIT(VHK_F_VERSION_1) | DEVICE_FEATURE);
}

static void protocol_is_known(void) {
        CHECK_EQ(info().carrier_features & (BIT(VHK_PF_SHMEM) | BIT(VHK_PF_CRYPTO_SESSION)), BIT(VHK_PF_SHMEM) | BIT(VHK_PF_CRYPTO_SESSION));
}

static void protocol_is_in_use(void) {
        uint8_t status;

        CHECK_EQ(info().carrier_acked & BIT(VHK_PF_STATUS), BIT(VHK_PF_STATUS));
        CHECK_OK(vhk_frontend_get_status(p.f, &status));
}

static void queues_are_known(void) { CHECK_EQ(info().n_queues, 2); }
static void slots_are_known(void) { CHECK_EQ(info().mem_slots, VHK_MEM_MAX_REGIONS); }

static void regions_are_known(void) {
        uint64_t sizes[VHK_SHMEM_REGIONS];

        CHECK_EQ(vhk_frontend_get_shmem_config(p.f, sizes), 1);
        CHECK_EQ(sizes[5], REGION);
}

static void channel_is_there(void) {
        set_features(0);
        CHECK_OK(vhk_host_config_changed(host()));
        WAIT_FOR(n_config == 1);
}

static const struct entry fe_GET_FEATURES = { features_are_known, NULL, ENDED, "wire.size-long", change_size },
        fe_GET_PROTOCOL_FEATURES = { protocol_is_known, NULL, ENDED, "wire.size-long", change_size },
        fe_SET_PROTOCOL_FEATURES = { protocol_is_in_use, NULL, ENDED, "wire.protocol-offered", change_bit_63 },
        fe_GET_QUEUE_NUM = { queues_are_known, NULL, ENDED, "wire.size-long", change_size },
        fe_GET_MAX_MEM_SLOTS = { slots_are_known, NULL, ENDED, "wire.size-long", change_size },
        fe_GET_SHMEM_CONFIG = { regions_are_known, NULL, ENDED, "wire.fds-extra", change_fds },
        fe_SET_BACKEND_REQ_FD = { channel_is_there, NULL, NACKED, "backend.channel", change_fd },
        fe_SET_OWNER = { nothing_more, NULL, NACKED, "wire.fds-extra", change_fds };

/* -- features, owner, status, configuration -- */

static void take_features(void) {
        set_features(DEVICE_FEATURE);
        CHECK_EQ(devices[0].features & DEVICE_FEATURE, DEVICE_FEATURE);
        CHECK_EQ(info().acked, BIT(VHK_F_VERSION_1) | DEVICE_FEATURE);
}

static void take_refused_features(void) {
        refuse_from_now_on();
        CHECK_EQ(vhk_frontend_set_features(p.f, BIT(VHK_F_VERSION_1)), -EREMOTEIO);
        CHECK_EQ(info().acked, 0);
}

/* Deprecated; no public call sends it. */
static int say_reset_owner(void) {
        struct vhk_vhost_user *u = vhk_container_of(p.f, struct vhk_vhost_user, f);

        return vhk_vu_call(u, &(struct vhk_vu_call){ .id = VHK_FE_RESET_OWNER }, NULL, NULL);
}

static void reset_owner(void) { CHECK_OK(say_reset_owner()); }
static void reset_owner_refused(void) { CHECK_EQ(say_reset_owner(), -EREMOTEIO); }

static void move_status(void) {
        uint8_t status = 0;

        CHECK_OK(vhk_frontend_set_status(p.f, 3));
        CHECK_OK(vhk_frontend_get_status(p.f, &status));
        CHECK_EQ(status, 3);
}

static void set_status_refused(void) { CHECK_EQ(vhk_frontend_set_status(p.f, 3), -EREMOTEIO); }
static void get_status_refused(void) { CHECK_EQ(vhk_frontend_get_status(p.f, &(uint8_t){ 0 }), -EPIPE); }

static void read_config(void) {
        char bytes[4] = "";

        CHECK_OK(vhk_frontend_get_config(p.f, 2, bytes, 4));
        CHECK(!memcmp(bytes, "nfig", 4));
}

static void read_config_refused(void) {
        refuse_from_now_on();
        CHECK_EQ(vhk_frontend_get_config(p.f, 0, (char[4]){ "" }, 4), -EREMOTEIO);
}

static void write_config(void) {
        CHECK_OK(vhk_frontend_set_config(p.f, 6, "!!", 2, VHK_CONFIG_DRIVER));
        CHECK(!memcmp(devices[0].config, "config!!", 8));
}

static void write_config_refused(void) {
        refuse_from_now_on();
        CHECK_EQ(vhk_frontend_set_config(p.f, 6, "!!", 2, VHK_CONFIG_DRIVER), -EREMOTEIO);
        CHECK(!memcmp(devices[0].config, "config..", 8));
}

static void reset_device(void) {
        set_features(0);
        make_ring();
        run_ring();
        CHECK_OK(vhk_frontend_reset(p.f));
        CHECK_EQ(__atomic_load_n(&devices[0].n_resets, __ATOMIC_RELAXED), 1);
}

static void reset_device_refused(void) {
        hold_request();
        CHECK_EQ(vhk_frontend_reset(p.f), -EREMOTEIO);
        CHECK_EQ(__atomic_load_n(&devices[0].n_resets, __ATOMIC_RELAXED), 0);
}

static const struct entry fe_SET_FEATURES = { take_features, take_refused_features, NACKED, "device.features" },
        fe_RESET_OWNER = { reset_owner, reset_owner_refused, NACKED, "wire.fds-extra", change_fds },
        fe_SET_STATUS = { move_status, set_status_refused, NACKED, "wire.status", change_status },
        fe_GET_STATUS = { move_status, get_status_refused, ENDED, "wire.size-long", change_size },
        fe_GET_CONFIG = { read_config, read_config_refused, SAID, "device.config" },
        fe_SET_CONFIG = { write_config, write_config_refused, NACKED, "device.config" },
        fe_RESET_DEVICE = { reset_device, reset_device_refused, NACKED, "backend.time-limit", .needs = SHORT_LIMIT };

/* -- memory -- */

static void use_memory(void) {
        set_features(0);
        make_ring();
        run_ring();
}

static void lend_hollow_memory(void) {
        make_hollow_memory();
        CHECK_EQ(vhk_frontend_set_memory(p.f, ring.m), -EREMOTEIO);
}

static vhk_gpa_t lend_more_memory(void) {
        void *more;
        vhk_gpa_t gpa;

        CHECK_OK(vhk_memory_alloc(ring.m, PAGE, &more));
        CHECK_OK(vhk_memory_find(ring.m, more, PAGE, &gpa));
        CHECK_OK(vhk_frontend_set_memory(p.f, ring.m));
        return gpa;
}

static void take_memory_back(void) {
        set_features(0);
        make_ring();
        run_ring();
        CHECK_OK(vhk_memory_remove(ring.m, lend_more_memory(), PAGE));
        CHECK_OK(vhk_frontend_set_memory(p.f, ring.m));
        offer(0);
        WAIT_FOR(is_served());
}

static void take_memory_in_use_back(void) {
        set_features(0);
        make_ring();
        CHECK_OK(vhk_frontend_set_memory(p.f, ring.m));
        vhk_gpa_t gpa = lend_more_memory();
        __atomic_store_n(&devices[0].holds, true, __ATOMIC_RELEASE);
        CHECK_OK(start_ring());
        offer(0);
        WAIT_FOR(held());
        CHECK_OK(vhk_memory_remove(ring.m, gpa, PAGE));
        CHECK_EQ(vhk_frontend_set_memory(p.f, ring.m), -EREMOTEIO);
}

static const struct entry fe_SET_MEM_TABLE = { use_memory, lend_hollow_memory, NACKED, "mem.beyond-file", .needs = NO_SLOTS },
        fe_ADD_MEM_REG = { use_memory, lend_hollow_memory, NACKED, "mem.beyond-file" },
        fe_REM_MEM_REG = { take_memory_back, take_memory_in_use_back, NACKED, "backend.time-limit", .needs = SHORT_LIMIT };

/* -- postcopy -- */

static int fault_fd = -1;

static void advise(void) {
        CHECK_OK(vhk_frontend_postcopy_advise(p.f, &fault_fd));
        CHECK(fcntl(fault_fd, F_GETFD) & FD_CLOEXEC);
}

static void advise_twice(void) {
        int second = -1;

        advise();
        CHECK_EQ(vhk_frontend_postcopy_advise(p.f, &second), -EPIPE);
        CHECK_EQ(second, -1);
}

static void listen_for_pages(void) {
        advise();
        CHECK_OK(vhk_frontend_postcopy_listen(p.f));
}

static void listen_without_advice(void) { CHECK_EQ(vhk_frontend_postcopy_listen(p.f), -EREMOTEIO); }

static void end_postcopy(void) {
        listen_for_pages();
        CHECK_OK(vhk_frontend_postcopy_end(p.f));
        CHECK_EQ(vhk_frontend_postcopy_listen(p.f), -EREMOTEIO);        /* it begins anew */
}

static void end_without_begin(void) { CHECK_EQ(vhk_frontend_postcopy_end(p.f), -EREMOTEIO); }

static void lend_missing_pages(void) {
        uint64_t theirs = 0;

        listen_for_pages();
        make_ring();
        CHECK_OK(vhk_frontend_set_memory(p.f, ring.m));
        CHECK_OK(vhk_frontend_postcopy_get_address(p.f, ring.gpa + 1, &theirs));
        CHECK(theirs % PAGE == 1 && theirs != (uintptr_t)ring.base + 1);
}

static void lend_hollow_pages(void) {
        listen_for_pages();
        make_hollow_memory();
        CHECK_EQ(vhk_frontend_set_memory(p.f, ring.m), -EPIPE);
}

/* The acknowledgement has no answer: its end is seen at the next call. */
static void acknowledge_wrongly(void) {
        listen_for_pages();
        make_ring();
        int k = vhk_frontend_set_memory(p.f, ring.m);
        CHECK(k == 0 || k == -EPIPE);
}

static const struct entry fe_POSTCOPY_ADVISE = { advise, advise_twice, ENDED, "postcopy.order", .needs = POSTCOPY },
        fe_POSTCOPY_LISTEN = { listen_for_pages, listen_without_advice, NACKED, "postcopy.order", .needs = POSTCOPY },
        fe_POSTCOPY_END = { end_postcopy, end_without_begin, NACKED, "postcopy.order", .needs = POSTCOPY },
        fe_SET_MEM_TABLE_POSTCOPY = { lend_missing_pages, lend_hollow_pages, ENDED, "mem.beyond-file", .needs = POSTCOPY },
        fe_SET_MEM_TABLE_ACK = { lend_missing_pages, acknowledge_wrongly, ENDED, "wire.postcopy-ack", change_word, POSTCOPY };

/* -- rings -- */

static void start_ring_refused(void) {
        set_features(0);
        make_ring();
        CHECK_EQ(start_ring(), -EREMOTEIO);
}

static void start_large_ring(void) {
        void *base;
        vhk_gpa_t gpa;

        set_features(0);
        make_ring();
        CHECK_OK(vhk_memory_alloc(ring.m, 16 * PAGE, &base));
        CHECK_OK(vhk_memory_find(ring.m, base, 16 * PAGE, &gpa));
        ring.s.num = 2 * RING_SIZE_SERVED;
        ring.s.desc = gpa.v;
        ring.s.driver = gpa.v + 8 * PAGE;
        ring.s.device = gpa.v + 10 * PAGE;
        CHECK_EQ(start_ring(), -EREMOTEIO);
}

/* From where it was left, and back. */
static void start_in_the_middle(void) {
        struct vhk_ring_base base;

        set_features(0);
        make_ring();
        ring.s.base.avail = ring.s.base.used = 5;
        memcpy(ring.base + PAGE + 2, &(uint16_t){ 5 }, 2);
        memcpy(ring.base + 2 * PAGE + 2, &(uint16_t){ 5 }, 2);
        run_ring();
        CHECK_OK(vhk_frontend_stop_queue(p.f, 0, &base));
        CHECK_EQ(base.avail, 6);
}

static void stop_held_ring(void) {
        hold_request();
        CHECK_EQ(vhk_frontend_stop_queue(p.f, 0, NULL), -EPIPE);
}

static void suspend_ring(void) {
        struct vhk_ring_base base;

        use_memory();
        CHECK_OK(vhk_frontend_suspend_queue(p.f, 0, &base));
        CHECK_EQ(base.avail, 1);
}

static void suspend_ring_refused(void) {
        use_memory();
        CHECK_EQ(vhk_frontend_suspend_queue(p.f, 0, NULL), -EPIPE);
}

static void log_ring(void) {
        struct vhk_dirty_log *l;
        uint64_t gpa = 0, len = 0, n = 0;
        int told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        use_memory();
        CHECK_OK(vhk_dirty_log_new(ring.gpa + 4 * PAGE, &l));
        CHECK_OK(vhk_frontend_set_log(p.f, vhk_dirty_log_get_fd(l), 0, vhk_dirty_log_get_size(l)));
        CHECK_OK(vhk_frontend_set_log_fd(p.f, told));
        CHECK_OK(vhk_frontend_log_data(p.f, 1));
        CHECK_OK(vhk_frontend_log_queue(p.f, 0, 1, ring.s.device));
        offer(0);
        WAIT_FOR(is_served());
        WAIT_FOR(is_signalled(told));
        for (; vhk_dirty_log_take(l, gpa + len, &gpa, &len) == 1; n += len / PAGE)
                CHECK_EQ(gpa, ring.s.device + n * PAGE);        /* the used ring, and the data behind it */
        CHECK_EQ(n, 2);
        vhk_dirty_log_free(l);
        close(told);
}

static void log_too_little(void) {
        struct vhk_dirty_log *l;
        void *more;

        use_memory();
        CHECK_OK(vhk_memory_alloc(ring.m, 16 * PAGE, &more));
        CHECK_OK(vhk_frontend_set_memory(p.f, ring.m));
        CHECK_OK(vhk_dirty_log_new(PAGE, &l));
        int k = vhk_frontend_set_log(p.f, vhk_dirty_log_get_fd(l), 0, 1);       /* 8 pages */
        vhk_dirty_log_free(l);
        CHECK_EQ(k, -EPIPE);
}

static void log_ring_beyond(void) {
        struct vhk_dirty_log *l;

        use_memory();
        CHECK_OK(vhk_dirty_log_new(ring.gpa + 4 * PAGE, &l));
        CHECK_OK(vhk_frontend_set_log(p.f, vhk_dirty_log_get_fd(l), 0, vhk_dirty_log_get_size(l)));
        vhk_dirty_log_free(l);
        CHECK_EQ(vhk_frontend_log_queue(p.f, 0, 1, UINT64_C(1) << 45), -EREMOTEIO);
}

/* A descriptor that nobody can be notified with. */
static int make_silent_fd(int *slot) {
        vhk_close(slot);
        return *slot = memfd_create("silent", MFD_CLOEXEC);
}

static void set_silent_log_fd(void) {
        int fd = -1;

        make_silent_fd(&fd);
        int k = vhk_frontend_set_log_fd(p.f, fd);
        close(fd);
        CHECK_EQ(k, -EREMOTEIO);
}

static void start_with_silent(int *slot) {
        make_silent_fd(slot);
        CHECK_EQ(start_ring(), -EREMOTEIO);
}

static void start_with_silent_kick(void) {
        set_features(0);
        make_ring();
        start_with_silent(&ring.s.kick_fd);
}

static void start_with_silent_err(void) {
        set_features(0);
        make_ring();
        start_with_silent(&ring.s.err_fd);
}

static void be_called(void) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        use_memory();
        WAIT_FOR(is_signalled(ring.s.call_fd));
        CHECK_OK(vhk_frontend_set_call_fd(p.f, 0, fd));
        offer(0);
        WAIT_FOR(is_served() && is_signalled(fd));
        close(fd);
}

static void set_silent_call(void) {
        int fd = -1;

        use_memory();
        make_silent_fd(&fd);
        int k = vhk_frontend_set_call_fd(p.f, 0, fd);
        close(fd);
        CHECK_EQ(k, -EREMOTEIO);
}

static void break_ring(void) {
        set_features(0);
        make_ring();
        CHECK_OK(start_ring());
        CHECK(!is_signalled(ring.s.err_fd));
        offer(999);
        WAIT_FOR(is_signalled(ring.s.err_fd));
}

static void disable_ring(void) {
        use_memory();
        CHECK_OK(vhk_frontend_enable_queue(p.f, 0, 0));
        offer(0);
        usleep(20000);
        CHECK(!is_served());
        CHECK_OK(vhk_frontend_enable_queue(p.f, 0, 1));
        WAIT_FOR(is_served());
}

static void set_byte_order(void) {
        CHECK_OK(vhk_frontend_set_vring_endian(p.f, 0, 0));
        CHECK_EQ(vhk_frontend_set_vring_endian(p.f, 2, 0), -EINVAL);
}

static void set_big_endian(void) { CHECK_EQ(vhk_frontend_set_vring_endian(p.f, 0, 1), -EREMOTEIO); }

/* The request is seen because of the message alone. */
static void kick_in_band(void) {
        set_features(0);
        make_ring();
        lose_fd(&ring.s.kick_fd);
        CHECK_OK(start_ring());
        offer(0);
        CHECK_OK(vhk_frontend_kick_queue(p.f, 0));
        WAIT_FOR(is_served());
        CHECK_EQ(vhk_frontend_kick_queue(p.f, 2), -EINVAL);
}

static void kick_no_ring(void) {
        set_features(0);
        CHECK_EQ(vhk_frontend_kick_queue(p.f, 0), -EREMOTEIO);
}

static const struct entry fe_SET_VRING_NUM = { use_memory, start_large_ring, NACKED, "ring.size" },
        fe_SET_VRING_ADDR = { log_ring, log_ring_beyond, NACKED, "log.range" },
        fe_SET_VRING_BASE = { start_in_the_middle, start_ring_refused, NACKED, "wire.vring-base", change_base },
        fe_GET_VRING_BASE = { start_in_the_middle, stop_held_ring, ENDED, "backend.time-limit", .needs = SHORT_LIMIT },
        fe_GET_VRING_BASE_SKIP_DRAIN = { suspend_ring, suspend_ring_refused, ENDED, "wire.vring-reserved", change_num, RECONNECT },
        fe_SET_VRING_KICK = { use_memory, start_with_silent_kick, NACKED, "ring.notifier" },
        fe_SET_VRING_CALL = { be_called, set_silent_call, NACKED, "ring.notifier" },
        fe_SET_VRING_ERR = { break_ring, start_with_silent_err, NACKED, "ring.notifier" },
        fe_SET_VRING_ENABLE = { disable_ring, start_ring_refused, NACKED, "wire.vring-enable", change_num },
        fe_SET_VRING_ENDIAN = { set_byte_order, set_big_endian, NACKED, "ring.endian" },
        fe_VRING_KICK = { kick_in_band, kick_no_ring, NACKED, "ring.unset" },
        fe_SET_LOG_BASE = { log_ring, log_too_little, ENDED, "log.range" },
        fe_SET_LOG_FD = { log_ring, set_silent_log_fd, NACKED, "log.notifier" };

/* -- the in-flight record -- */

static void track(void) {
        use_memory();
        CHECK(vhk_container_of(p.f, struct vhk_vhost_user, f)->set.record_fd >= 0);
}

static void track_nothing(void) {
        set_features(0);
        make_ring();
        CHECK_OK(start_ring());
        CHECK(vhk_container_of(p.f, struct vhk_vhost_user, f)->set.record_fd < 0);  /* the reply says that no record is kept */
}

static const struct entry fe_GET_INFLIGHT_FD = { track, track_nothing, SAID, "wire.inflight-queues", change_queues, RECONNECT },
        fe_SET_INFLIGHT_FD = { track, start_ring_refused, NACKED, "inflight.size", change_bytes, RECONNECT };

/* -- the IOMMU -- */

static void tell_translations(void) {
        set_features(BIT(VHK_F_ACCESS_PLATFORM));
        make_ring();
        run_ring();
        CHECK_OK(vhk_frontend_iotlb_invalidate(p.f, 0, 0));
}

static void tell_wrong_translation(void) {
        set_features(BIT(VHK_F_ACCESS_PLATFORM));
        make_ring();
        CHECK_EQ(vhk_frontend_set_memory(p.f, ring.m), -EREMOTEIO);
}

static void miss(void) {
        set_features(BIT(VHK_F_ACCESS_PLATFORM));
        make_ring();
        run_ring();
        CHECK_EQ(n_missed, 4);          /* each page once */
}

static void miss_refused(void) {
        set_features(BIT(VHK_F_ACCESS_PLATFORM));
        make_ring();
        refuses_miss = true;
        CHECK_OK(start_ring());
        WAIT_FOR(n_missed && is_signalled(ring.s.err_fd));
}

static const struct entry fe_IOTLB_MSG = { tell_translations, tell_wrong_translation, NACKED, "iotlb.user-addr", change_address },
        be_IOTLB_MSG = { miss, miss_refused, NACKED, "frontend.translation", .needs = MISSES };

/* -- one class of device -- */

static const uint8_t mac[6] = { 2, 0, 0, 1, 2, 3 };

static void announce(void) {
        CHECK_OK(vhk_frontend_send_rarp(p.f, mac));
        CHECK(!memcmp(devices[0].mac, mac, 6));
}

static void announce_group(void) { CHECK_EQ(vhk_frontend_send_rarp(p.f, (const uint8_t[6]){ 3, 0, 0, 1, 2, 3 }), -EREMOTEIO); }

static void tell_mtu(void) {
        CHECK_OK(vhk_frontend_set_mtu(p.f, 9000));
        CHECK_EQ(devices[0].mtu, 9000);
        CHECK_EQ(vhk_frontend_set_mtu(p.f, 67), -EINVAL);       /* not even sent */
}

static void tell_mtu_refused(void) {
        refuse_from_now_on();
        CHECK_EQ(vhk_frontend_set_mtu(p.f, 9000), -EREMOTEIO);
}

static void open_sessions(void) {
        uint8_t s[1072] = { 0 };
        uint64_t id = 99;

        memset(s + 56, 0x55, 576);
        CHECK_OK(vhk_frontend_crypto_create(p.f, VHK_CRYPTO_FORM_632, s, &id));
        CHECK_EQ(id, 6);
        CHECK(!memcmp(devices[0].session, s, 632));
        CHECK_OK(vhk_frontend_crypto_create(p.f, VHK_CRYPTO_FORM_1072, s, &id));
        CHECK_EQ(id, 1);
        CHECK(!memcmp(devices[0].session, s, 1072));
        CHECK_OK(vhk_frontend_crypto_close(p.f, 1));
        CHECK_EQ(devices[0].n_closed, 1);
}

/* A key longer than its room, then a device that has enough of them. */
static void open_session_refused(void) {
        uint8_t s[1072] = { [12] = 65 };
        uint64_t id = 99;

        CHECK_EQ(vhk_frontend_crypto_create(p.f, VHK_CRYPTO_FORM_1072, s, &id), -EREMOTEIO);
        s[12] = 0;
        refuse_from_now_on();
        CHECK_EQ(vhk_frontend_crypto_create(p.f, VHK_CRYPTO_FORM_1072, s, &id), -EREMOTEIO);
        CHECK_EQ(id, 99);
}

static void close_session_refused(void) {
        refuse_from_now_on();
        CHECK_EQ(vhk_frontend_crypto_close(p.f, 2), -EREMOTEIO);
}

/* Given when the connection is made; the device has it when both sides have said what they can do. The rest is test-display's. */
static void show_display(void) { WAIT_FOR(__atomic_load_n(&devices[0].draws, __ATOMIC_ACQUIRE)); }

/* The front-end goes on without. */
static void show_nothing(void) {
        set_features(0);
        CHECK(!__atomic_load_n(&devices[0].draws, __ATOMIC_ACQUIRE));
}

static const struct entry fe_SEND_RARP = { announce, announce_group, NACKED, "net.mac" },
        fe_NET_SET_MTU = { tell_mtu, tell_mtu_refused, NACKED, "device.mtu" },
        fe_CREATE_CRYPTO_SESSION = { open_sessions, open_session_refused, SAID, NULL },
        fe_CLOSE_CRYPTO_SESSION = { open_sessions, close_session_refused, NACKED, "device.crypto-session" },
        fe_GPU_SET_SOCKET = { show_display, show_nothing, NACKED, "gpu.socket", change_fd, DISPLAY };

/* -- device state -- */

static void move_state(void) {
        void *data;
        size_t n;

        memset(devices[0].state, 7, sizeof(devices[0].state));
        CHECK_OK(vhk_frontend_save_state(p.f, 1000, &data, &n));
        CHECK(n == sizeof(devices[0].state) && !memcmp(data, devices[0].state, n));
        memset(data, 9, n);
        int k = vhk_frontend_load_state(p.f, data, n);
        free(data);
        CHECK_OK(k);
        CHECK(devices[0].state[0] == 9 && devices[0].state[n - 1] == 9);
}

static void save_state_refused(void) {
        void *data;
        size_t n;

        refuse_from_now_on();
        CHECK_EQ(vhk_frontend_save_state(p.f, 1000, &data, &n), -EREMOTEIO);
}

static void load_state_refused(void) {
        CHECK_EQ(vhk_frontend_load_state(p.f, "short", 5), -EREMOTEIO);
        CHECK_EQ(devices[0].state[0], 0);
}

static const struct entry fe_SET_DEVICE_STATE_FD = { move_state, save_state_refused, SAID, NULL },
        fe_CHECK_DEVICE_STATE = { move_state, load_state_refused, SAID, NULL };

/* -- what devices share -- */

static const uint8_t uuid[16] = "an object to see";

static int add(unsigned i) { return ERRAND(vhk_host_object_add(devices[i].host, uuid, on_done, NULL)); }
static int remove_object(unsigned i) { return ERRAND(vhk_host_object_remove(devices[i].host, uuid, on_done, NULL)); }
static int lookup(unsigned i) { return ERRAND(vhk_host_object_lookup(devices[i].host, uuid, on_found, NULL)); }

/* Another device, whose front-end uses the same table. */
static void open_other(void) {
        struct pair_options o = options_for(0, p.o.frontend_listens);

        o.dev = &devices[1];
        o.front.shmem = NULL;
        o.front.on_queue = NULL;
        CHECK_EQ(pair_open(&other, &o), 0);
        CHECK_OK(vhk_frontend_set_features(other.f, BIT(VHK_F_VERSION_1)));
        set_features(0);
}

static void find_object(unsigned owner) {
        struct stat x, y;

        open_other();
        CHECK_EQ(add(owner), 0);
        CHECK_EQ(lookup(!owner), 0);
        CHECK(fstat(found, &x) == 0 && fstat(devices[owner].object, &y) == 0 && x.st_ino == y.st_ino);
        vhk_close(&found);
        CHECK_EQ(remove_object(owner), 0);
        CHECK_EQ(lookup(!owner), -EREMOTEIO);
        CHECK_EQ(found, -1);
}

static void our_object_is_found(void) { find_object(0); }
static void object_is_found(void) { find_object(1); }

static void our_object_is_not_there(void) {
        open_other();
        CHECK_EQ(add(0), 0);
        refuse_from_now_on();
        CHECK_EQ(lookup(1), -EREMOTEIO);
}

static void no_object_is_found(void) {
        open_other();
        CHECK_EQ(lookup(0), -EREMOTEIO);
        CHECK_EQ(found, -1);
}

static void add_twice(void) {
        open_other();
        CHECK_EQ(add(1), 0);
        CHECK_EQ(add(0), -EREMOTEIO);
}

static void remove_anothers(void) {
        open_other();
        CHECK_EQ(add(1), 0);
        CHECK_EQ(remove_object(0), -EREMOTEIO);
        CHECK_EQ(lookup(0), 0);                 /* still there */
        vhk_close(&found);
}

static const struct entry fe_GET_SHARED_OBJECT = { our_object_is_found, our_object_is_not_there, SAID, NULL },
        be_SHARED_OBJECT_ADD = { our_object_is_found, add_twice, NACKED, "objects.taken" },
        be_SHARED_OBJECT_REMOVE = { our_object_is_found, remove_anothers, NACKED, "objects.foreign" },
        be_SHARED_OBJECT_LOOKUP = { object_is_found, no_object_is_found, NACKED, "objects.unknown" };

/* -- shared memory -- */

static struct vhk_shmem_map make_mapping(void) {
        struct vhk_shmem_map m = { .size = sizeof(m), .id = 5, .offset = 2 * PAGE, .len = 2 * PAGE, .writable = 1, .fd_offset = PAGE,
                                   .fd = memfd_create("shared", MFD_CLOEXEC) };

        set_features(0);
        CHECK(m.fd >= 0 && !ftruncate(m.fd, 3 * PAGE) && pwrite(m.fd, "hello", 5, PAGE) == 5);
        CHECK_EQ(ERRAND(vhk_host_shmem_map(host(), &m, on_done, NULL)), 0);
        CHECK_EQ(n_mapped, 1);
        return m;
}

static int take_mapping_away(uint64_t len) { return ERRAND(vhk_host_shmem_unmap(host(), 5, 2 * PAGE, len, on_done, NULL)); }

static void show_memory(void) {
        struct vhk_shmem_map m = make_mapping();
        char text[8] = "";

        CHECK(!memcmp(window + 2 * PAGE, "hello", 5));
        memcpy(window + 3 * PAGE, "back", 4);
        CHECK(pread(m.fd, text, 4, 2 * PAGE) == 4 && !memcmp(text, "back", 4));
        CHECK_EQ(take_mapping_away(2 * PAGE), 0);
        CHECK_EQ(n_mapped, 0);
        CHECK_EQ(ERRAND(vhk_host_shmem_map(host(), &m, on_done, NULL)), 0);
        CHECK_OK(vhk_frontend_reset(p.f));
        CHECK_EQ(n_mapped, 0);
        CHECK_EQ(ERRAND(vhk_host_shmem_map(host(), &m, on_done, NULL)), 0);     /* stays until the end */
        close(m.fd);
}

static void show_memory_twice(void) {
        struct vhk_shmem_map m = make_mapping();

        int k = ERRAND(vhk_host_shmem_map(host(), &m, on_done, NULL));          /* in its own way */
        close(m.fd);
        CHECK_EQ(k, -EREMOTEIO);
}

static void hide_half(void) {
        close(make_mapping().fd);
        CHECK_EQ(take_mapping_away(PAGE), -EREMOTEIO);
        CHECK_EQ(n_mapped, 1);
}

static const struct entry be_SHMEM_MAP = { show_memory, show_memory_twice, NACKED, "shmem.overlap" },
        be_SHMEM_UNMAP = { show_memory, hide_half, NACKED, "shmem.no-such-mapping" };

/* -- notifications -- */

static int notifier(int fd, uint64_t offset) { return ERRAND(vhk_host_set_notifier_area(host(), 0, fd, offset, on_done, NULL)); }

static void kick_by_page(void) {
        int fd = memfd_create("doorbell", MFD_CLOEXEC);

        set_features(0);
        CHECK(fd >= 0 && !ftruncate(fd, 2 * PAGE));
        CHECK_EQ(vhk_host_set_notifier_area(host(), 2, fd, 0, NULL, NULL), -EINVAL);
        CHECK_EQ(notifier(fd, PAGE / 2), -EINVAL);
        CHECK_EQ(notifier(fd, UINT64_MAX - PAGE + 1), -EINVAL);
        CHECK_EQ(notifier(-1, 0), 0);                           /* there is none: nothing to do */
        CHECK_EQ(n_notifiers + n_taken_away, 0);
        CHECK_EQ(notifier(fd, PAGE), 0);
        CHECK(notifier_offset == PAGE && n_notifiers == 1);
        CHECK_EQ(notifier(fd, 0), 0);                           /* replaced */
        CHECK(notifier_offset == 0 && n_notifiers == 2 && n_taken_away == 0);
        CHECK_EQ(notifier(-1, 0), 0);
        CHECK_EQ(n_taken_away, 1);
        CHECK_EQ(notifier(fd, 0), 0);
        CHECK_OK(vhk_frontend_reset(p.f));
        CHECK_EQ(n_taken_away, 2);
        CHECK_EQ(notifier(fd, 0), 0);
        close(fd);
        p.f = vhk_frontend_close(p.f);
        CHECK_EQ(n_taken_away, 3);                              /* and the end takes it away, once */
}

static void kick_by_page_refused(void) {
        int fd = memfd_create("doorbell", MFD_CLOEXEC);

        set_features(0);
        CHECK(fd >= 0 && !ftruncate(fd, 2 * PAGE));
        refuses_notifier = true;
        int refused = notifier(fd, 0);
        refuses_notifier = false;
        int behind_the_end = notifier(fd, 2 * PAGE);
        close(fd);
        CHECK_EQ(refused, -EREMOTEIO);
        CHECK_EQ(behind_the_end, -EREMOTEIO);
}

static void be_called_in_band(void) {
        set_features(0);
        make_ring();
        lose_fd(&ring.s.call_fd);
        run_ring();
        WAIT_FOR(n_called);
        CHECK_EQ(n_broken, 0);
}

static void break_in_band(void) {
        set_features(0);
        make_ring();
        lose_fd(&ring.s.err_fd);
        CHECK_OK(start_ring());
        offer(999);
        WAIT_FOR(n_broken);
}

/* What was changed on the way: the front-end says no, and nothing is told. */
static bool is_refused_by_us(void) { return find(&traces[BACK], "~> ", 0); }

static void be_called_wrongly(void) {
        set_features(0);
        make_ring();
        lose_fd(&ring.s.call_fd);
        run_ring();
        WAIT_FOR(is_refused_by_us());
}

static void break_wrongly(void) {
        set_features(0);
        make_ring();
        lose_fd(&ring.s.err_fd);
        CHECK_OK(start_ring());
        offer(999);
        WAIT_FOR(is_refused_by_us());
        CHECK_EQ(n_broken, 0);
}

static void change_config_wrongly(void) {
        set_features(0);
        CHECK_OK(vhk_host_config_changed(host()));
        WAIT_FOR(is_refused_by_us());
        CHECK_EQ(n_config, 0);
}

static const struct entry be_CONFIG_CHANGE_MSG = { channel_is_there, change_config_wrongly, NACKED, "wire.fds-extra", change_fds },
        be_VRING_HOST_NOTIFIER_MSG = { kick_by_page, kick_by_page_refused, NACKED, "notifier.map" },
        be_VRING_CALL = { be_called_in_band, be_called_wrongly, NACKED, "wire.vring-reserved", change_num },
        be_VRING_ERR = { break_in_band, break_wrongly, NACKED, "wire.vring-reserved", change_num };

/* ---- one run: a success or a refusal, one of the two listening ---- */

/* Each line of @t with @arrow is a line of @of, in the same order. */
static void check_same_story(struct tracer *t, struct tracer *of, const char *arrow) {
        const char *line, *theirs;

        CHECK(t->n < VHK_N(t->lines));
        for (unsigned i = 0; (line = find(t, arrow, i)); i++) {
                theirs = find(of, arrow, i);
                CHECK_STR(theirs ? theirs : "nothing", line);
        }
}

/* How a message and its answer begin in both traces. */
static void spell(const struct vhk_row *row, char said[64], char answered[64]) {
        bool front = row->dir == VHK_FROM_FRONTEND;
        /* the printer has no session: under postcopy the table has its usual name */
        const char *name = row->phase == VHK_PHASE_POSTCOPY ? "SET_MEM_TABLE" : row->name;

        snprintf(said, 64, "%s %s ", front ? "->" : "<~", name);
        snprintf(answered, 64, "%s %s reply", front ? "<-" : "~>", name);
}

/* An answer on the channel, for which nobody waits. */
static void await_answer(const struct vhk_row *row) {
        char said[64], answered[64];

        spell(row, said, answered);
        WAIT_FOR(find(&traces[BACK], answered, 0));
}

/* The message went over the wire, and its answer where one is due; unless it was changed on the way, both ends saw the same. */
static void check_story(const struct vhk_row *row, bool ended, bool changed) {
        char said[64], answered[64];

        spell(row, said, answered);
        const char *ours = find(&traces[FRONT], said, 0), *theirs = find(&traces[BACK], said, 0);
        CHECK_MSG(ours && theirs, "%s was not said", row->name);
        if (!ended && (row->reply_rule >= VHK_REPLY_ACKED || strstr(ours, "wants a reply")))
                CHECK_MSG(find(&traces[FRONT], answered, 0) && find(&traces[BACK], answered, 0), "no answer to %s was heard", row->name);
        if (changed)
                return;
        check_same_story(&traces[FRONT], &traces[BACK], "-> ");
        check_same_story(&traces[BACK], &traces[FRONT], "-> ");
        check_same_story(&traces[FRONT], &traces[BACK], "<- ");
        check_same_story(&traces[FRONT], &traces[BACK], "<~ ");
        check_same_story(&traces[BACK], &traces[FRONT], "~> ");
}

static void check_end(int opened) {
        if (opened < 0) {
                CHECK(opened == -EPIPE || opened == -EPROTO);
                CHECK(!strcmp(p.error.rule, "frontend.gone") || !strcmp(p.error.rule, "frontend.not-vhost-user"));
                return;
        }
        WAIT_FOR(n_gone);
        CHECK_EQ(n_gone, 1);
        CHECK_EQ(vhk_frontend_set_status(p.f, 1), -EPIPE);
        CHECK(vhk_frontend_get_error(p.f)->text[0]);
}

/* It lives, and the caller has the story. */
static void check_no(const struct vhk_row *row, int opened) {
        uint8_t status;

        if (opened < 0)
                CHECK_STR(p.error.rule, "frontend.refused");
        else if (row->dir == VHK_FROM_FRONTEND && row->id != VHK_FE_GET_SHARED_OBJECT && row->id != VHK_FE_GET_INFLIGHT_FD)
                CHECK_STR(vhk_frontend_get_error(p.f)->rule, "frontend.refused");
        if (opened == 0)
                CHECK_OK(vhk_frontend_get_status(p.f, &status));
        CHECK_EQ(n_gone, 0);
}

static void check_refusal(const struct vhk_row *row, const struct entry *e, int opened) {
        bool front = row->dir == VHK_FROM_FRONTEND;
        char line[100];

        if (e->how == ENDED)
                check_end(opened);
        else
                check_no(row, opened);
        if (!e->rule)
                return;
        if (front)
                snprintf(line, sizeof(line), e->how == ENDED ? "-- the connection ends (%s)" : "-- %s refused (%s)",
                         e->how == ENDED ? e->rule : row->name, e->rule);
        else
                snprintf(line, sizeof(line), "-- request %u of the back-end refused (%s)", row->id, e->rule);
        WAIT_FOR(find(&traces[front ? BACK : FRONT], line, 0));
}

static void close_run(void) {
        if (held()) {
                __atomic_store_n(&devices[0].holds, false, __ATOMIC_RELEASE);
                vhk_req_complete(devices[0].held, 0);
        }
        pair_close(&p);
        if (other.dir[0])
                pair_close(&other);
        other.dir[0] = 0;
        CHECK_EQ(n_mapped, 0);
        vhk_close(&fault_fd);
        forget_ring();
        munmap(window, REGION);
        CHECK(!vhk_objects_free(table));
        close(devices[0].object);
        close(devices[1].object);
}

static void run(const struct vhk_row *row, const struct entry *e, bool refused, bool frontend_listens) {
        struct relay relay = { .dir = row->dir, .id = row->id, .size = row->phase == VHK_PHASE_POSTCOPY_ACK ? 8 : 0, .change = e->change,
                               .frontend_listens = frontend_listens };

        traces[FRONT].n = traces[BACK].n = 0;
        n_config = n_gone = n_called = n_broken = n_missed = n_notifiers = n_taken_away = n_mapped = 0;
        refuses_notifier = refuses_miss = false;
        ring.s.kick_fd = ring.s.call_fd = ring.s.err_fd = -1;
        for (unsigned i = 0; i < 2; i++)
                devices[i] = (struct device){ .config = "config..", .object = memfd_create("object", MFD_CLOEXEC) };
        window = mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK_OK(vhk_objects_new(&table));
        /* a time limit that is to be missed is none to be met on a machine that is busy */
        struct pair_options o = options_for(e->needs & ~(refused ? 0u : SHORT_LIMIT), frontend_listens);
        o.dev = &devices[0];
        o.front.trace = o.back.trace = trace;
        o.front.trace_arg = &traces[FRONT];
        o.back.trace_arg = &traces[BACK];
        if (refused && e->change) {
                o.between = relay_start;
                o.between_arg = &relay;
        }
        int opened = pair_open(&p, &o);
        if (!refused || e->refusal)
                CHECK_MSG(opened == 0, "%s", p.error.text);
        if (!refused)
                e->success();
        else if (e->refusal)
                e->refusal();
        if (refused)
                check_refusal(row, e, opened);
        if (row->dir == VHK_FROM_BACKEND)
                await_answer(row);
        close_run();
        if (o.between)
                CHECK_EQ(relay_stop(&relay), 1);
        check_story(row, refused && e->how == ENDED, o.between);
}

static void run_all(enum vhk_dir dir, uint32_t id, enum vhk_phase phase, const struct entry *e) {
        int fd = e->needs & POSTCOPY ? (int)syscall(SYS_userfaultfd, O_CLOEXEC) : dup(0);

        if (fd < 0)
                SKIP("cannot: userfaultfd is not for us here");
        close(fd);
        for (unsigned i = 0; i < 4; i++)
                run(vhk_wire_row(dir, id, phase), e, i / 2, i % 2);
}

#define FRONTEND(id, name, phase, ...) TEST(fe_##name) { run_all(VHK_FROM_FRONTEND, id, VHK_PHASE_##phase, &fe_##name); }
#define BACKEND(id, name, phase, ...) TEST(be_##name) { run_all(VHK_FROM_BACKEND, id, VHK_PHASE_##phase, &be_##name); }
#include "wire/messages.def"

/* What was not negotiated is not even sent. */
TEST(without_them) {
        uint8_t s[1072] = { 0 };
        uint64_t id = 99;

        for (unsigned i = 0; i < 2; i++) {
                struct pair_options o = { .ops = &bare_ops, .frontend_listens = i, .back.protocol_offer = BIT(VHK_PF_INBAND_NOTIFICATIONS) };
                CHECK_EQ(pair_open(&p, &o), 0);
                set_features(0);
                CHECK_EQ(info().capabilities & (VHK_CAP_INBAND | VHK_CAP_ENDIAN | VHK_CAP_RARP | VHK_CAP_MTU | VHK_CAP_CRYPTO), 0);
                CHECK_EQ(vhk_frontend_send_rarp(p.f, mac), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_set_mtu(p.f, 1500), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_crypto_create(p.f, VHK_CRYPTO_FORM_1072, s, &id), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_crypto_close(p.f, 1), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_set_vring_endian(p.f, 0, 0), -EOPNOTSUPP);
                CHECK_EQ(vhk_frontend_kick_queue(p.f, 0), -EOPNOTSUPP);
                CHECK_EQ(id, 99);
                pair_close(&p);
        }
}
