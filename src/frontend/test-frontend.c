/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The front-end against a scripted back-end: what it sends, what it takes, and how it ends. */
#include "base/test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <vhostkit/kernel.h>

#include "frontend/frontend.h"
#include "frontend/test-fake.h"
#include "mem/mem.h"

#define MIB (1ull << 20)

static struct fake fake;
static struct vhk_frontend *f;
static struct vhk_error err;
static struct vhk_frontend_options options;
static unsigned n_changed, n_gone;
static int called_back;
static bool closes_inside;

static void on_event(void *arg, enum vhk_frontend_event ev, const struct vhk_error *e) {
        uint8_t status;

        n_changed += ev == VHK_FRONTEND_CONFIG_CHANGED;
        n_gone += ev == VHK_FRONTEND_GONE && e && e->code < 0 && e->text[0];
        called_back = vhk_frontend_get_status(f, &status);
        if (f && closes_inside)
                f = vhk_frontend_close(f);
}

static void init(void) {
        fake_init(&fake);
        options = (struct vhk_frontend_options){ .size = sizeof(options), .has_fd = 1, .limit_ns = 10000000000ull, .on_event = on_event };
        n_changed = n_gone = 0;
        called_back = 0;
        closes_inside = false;
        f = NULL;
}

static int open_it(void) {
        int s[2];

        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        fake_start(&fake, s[1]);
        options.fd = s[0];
        int k = vhk_frontend_open(NULL, &options, &f, &err);
        if (k < 0)
                CHECK_OK(close(options.fd));    /* it is the library's on success only */
        return k;
}

static void enter(void) {
        CHECK_MSG(open_it() == 0, "%s", err.text);
}

static void leave(void) {
        f = vhk_frontend_close(f);
        fake_stop(&fake);
        CHECK_MSG(fake.broken == VHK_RULE_OK, "the front-end broke %s", vhk_rule_id(fake.broken));
}

static struct vhk_frontend_info info(void) {
        struct vhk_frontend_info i = { .size = sizeof(i) };

        CHECK_OK(vhk_frontend_get_info(f, &i));
        return i;
}

#define FEATURES (VHK_BIT(VHK_F_VERSION_1) | VHK_BIT(VHK_F_INDIRECT_DESC))

/* ---- negotiation ---- */

TEST(what_is_negotiated) {
        init();
        enter();
        struct vhk_frontend_info i = info();
        CHECK_EQ(i.features, FEATURES | VHK_BIT(VHK_F_RING_PACKED));    /* without bits 26 and 30 */
        CHECK_EQ(i.carrier_features, FAKE_PROTOCOL);
        CHECK_EQ(i.carrier_acked, FAKE_PROTOCOL);
        CHECK_EQ(i.n_queues, 4);
        CHECK_EQ(i.mem_slots, 32);
        CHECK_EQ(i.capabilities, VHK_CAP_CONFIG | VHK_CAP_CONFIG_CHANGED | VHK_CAP_STATUS | VHK_CAP_RESET | VHK_CAP_ENABLE | VHK_CAP_MEM_SLOTS | VHK_CAP_ACK);
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_EQ(fake.state.features, FEATURES | VHK_BIT(VHK_F_PROTOCOL_FEATURES));
        CHECK_EQ(info().acked, FEATURES);
        CHECK_EQ(vhk_frontend_set_features(f, VHK_BIT(5)), -EINVAL);
        CHECK_EQ(fake.count[VHK_FE_SET_FEATURES], 1);
        leave();
}

/* Taken wherever they are offered: it takes a device of their kind. */
#define CLASS (VHK_BIT(VHK_PF_RARP) | VHK_BIT(VHK_PF_NET_MTU) | VHK_BIT(VHK_PF_CRYPTO_SESSION) | VHK_BIT(VHK_PF_CROSS_ENDIAN))

TEST(in_band_notifications_and_xen_are_never_taken) {
        init();
        fake.state.protocol_offered = ~0ull;
        enter();
        CHECK_EQ(info().carrier_acked & ~CLASS, FAKE_PROTOCOL | VHK_BIT(VHK_PF_LOG_SHMFD) | VHK_BIT(VHK_PF_DEVICE_STATE) |
                 VHK_BIT(VHK_PF_GPA_ADDRESSES));
        leave();
}

TEST(what_the_caller_does_not_want_is_not_taken) {
        init();
        options.protocol_no_offer = VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS) | VHK_BIT(VHK_PF_BACKEND_REQ);
        enter();
        CHECK_EQ(info().carrier_acked, FAKE_PROTOCOL & ~options.protocol_no_offer);
        CHECK_EQ(info().mem_slots, 8);
        CHECK_EQ(fake.count[VHK_FE_SET_BACKEND_REQ_FD], 0);
        leave();
}

TEST(a_back_end_without_protocol_features) {
        uint8_t status, config[8];

        init();
        fake.state.features_offered &= ~VHK_BIT(VHK_F_PROTOCOL_FEATURES);
        enter();
        CHECK_EQ(info().capabilities, 0);
        CHECK_EQ(info().n_queues, 1);
        CHECK_EQ(vhk_frontend_get_status(f, &status), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_set_status(f, 1), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_get_config(f, 0, config, 8), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_set_config(f, 0, config, 8, VHK_CONFIG_DRIVER), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_reset(f), -EOPNOTSUPP);
        CHECK_EQ(vhk_frontend_enable_queue(f, 0, 1), -EOPNOTSUPP);
        CHECK(strstr(vhk_frontend_get_error(f)->text, "enable"));
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_EQ(fake.count[VHK_FE_SET_PROTOCOL_FEATURES], 0);
        CHECK_EQ(n_gone, 0);
        leave();
}

#define LACKS(call, word)                                                               \
        do {                                                                            \
                CHECK_EQ(call, -EOPNOTSUPP);                                            \
                CHECK_STR(vhk_frontend_get_error(f)->rule, "frontend.capability");      \
                CHECK(strstr(vhk_frontend_get_error(f)->text, word));                   \
        } while (0)

TEST(what_only_the_kernel_can_do) {
        uint32_t v = 5;
        int n = 5;

        init();
        enter();
        LACKS(vhk_frontend_set_backend(f, 0, -1), "network interface");
        LACKS(vhk_frontend_vsock_set_cid(f, 3), "vsock");
        LACKS(vhk_frontend_vsock_set_running(f, 1), "vsock");
        LACKS(vhk_frontend_scsi_set_endpoint(f, "naa.1", 1), "SCSI");
        LACKS(vhk_frontend_scsi_clear_endpoint(f), "SCSI");
        LACKS(vhk_frontend_scsi_get_abi_version(f, &n), "SCSI");
        LACKS(vhk_frontend_scsi_set_events_missed(f, 1), "SCSI");
        LACKS(vhk_frontend_scsi_get_events_missed(f, &n), "SCSI");
        LACKS(vhk_frontend_get_queue_group(f, 0, &v), "groups");
        LACKS(vhk_frontend_set_group_asid(f, 0, 0), "groups");
        LACKS(vhk_frontend_dma_map(f, 0, 0, 4096, &v, VHK_ACCESS_BOTH), "mappings");
        LACKS(vhk_frontend_dma_unmap(f, 0, 0, 4096), "mappings");
        LACKS(vhk_frontend_dma_begin(f, 0), "mappings");
        LACKS(vhk_frontend_dma_end(f, 0), "mappings");
        LACKS(vhk_frontend_suspend(f), "suspended");
        LACKS(vhk_frontend_resume(f), "resumed");
        LACKS(vhk_frontend_new_worker(f, &v), "workers");
        LACKS(vhk_frontend_free_worker(f, 0), "workers");
        LACKS(vhk_frontend_attach_worker(f, 0, 0), "workers");
        LACKS(vhk_frontend_get_worker(f, 0, &v), "workers");
        LACKS(vhk_frontend_set_busyloop(f, 0, 50), "busy polling");
        LACKS(vhk_frontend_get_busyloop(f, 0, &v), "busy polling");
        CHECK_EQ(v, 5);
        CHECK_EQ(n, 5);
        CHECK_EQ(info().iova_last, UINT64_MAX);
        leave();
}

/* ---- a back-end that misbehaves ---- */

static const struct { enum mischief m; int first, later; } mischiefs[] = {
        { WRONG_ID, -EPROTO, -EPROTO }, { WRONG_FLAGS, -EPROTO, -EPROTO }, { NEEDS_REPLY_BIT, -EPROTO, -EPROTO }, { SHORTER, -EPROTO, -EPROTO },
        { LONGER, -EPROTO, -EPROTO }, { HUGE_SIZE, -EPROTO, -EPROTO }, { WITH_FD, -EPROTO, -EPROTO }, { ONE_BYTE, 0, 0 },
        { SILENT, -ETIMEDOUT, -ETIMEDOUT }, { CLOSES, -EPROTO, -EPIPE }, { CLOSES_IN_HEADER, -EPROTO, -EPIPE }, { CLOSES_IN_PAYLOAD, -EPROTO, -EPIPE },
        { WEB_SERVER, -EPROTO, -EPROTO },
};

TEST(the_first_answer_goes_wrong) {
        for (size_t i = 0; i < VHK_N(mischiefs); i++) {
                init();
                fake.mischief = mischiefs[i].m;
                fake.at = VHK_FE_GET_FEATURES;
                options.limit_ns = mischiefs[i].m == SILENT ? 20000000 : options.limit_ns;
                err = (struct vhk_error){ 0 };
                int k = open_it();
                CHECK_MSG(k == mischiefs[i].first, "mischief %d gave %d (%s)", mischiefs[i].m, k, err.text);
                CHECK_EQ(err.code, k);
                CHECK(k == 0 || strlen(err.text) > 20);
                if (mischiefs[i].m == WEB_SERVER)
                        CHECK(strstr(err.text, "is not a vhost-user back-end"));
                if (mischiefs[i].m == SILENT)
                        CHECK(strstr(err.text, "busy with another front-end"));
                if (mischiefs[i].m == CLOSES)
                        CHECK(strstr(err.text, "not a vhost-user back-end"));
                CHECK_EQ(n_gone, 0);            /* there is nothing that could have gone */
                leave();
        }
}

static void check_every_call_gives_epipe(void) {
        struct vhk_ring_setup s = { .size = sizeof(s), .num = 4 };
        struct vhk_memory *m;
        uint8_t b[8] = { 0 };

        CHECK_OK(vhk_memory_new(&m));
        CHECK_EQ(vhk_frontend_set_features(f, FEATURES), -EPIPE);
        CHECK_EQ(vhk_frontend_set_memory(f, m), -EPIPE);
        CHECK_EQ(vhk_frontend_get_config(f, 0, b, 8), -EPIPE);
        CHECK_EQ(vhk_frontend_set_config(f, 0, b, 8, VHK_CONFIG_DRIVER), -EPIPE);
        CHECK_EQ(vhk_frontend_get_status(f, b), -EPIPE);
        CHECK_EQ(vhk_frontend_set_status(f, 0), -EPIPE);
        CHECK_EQ(vhk_frontend_reset(f), -EPIPE);
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EPIPE);
        CHECK_EQ(vhk_frontend_stop_queue(f, 0, NULL), -EPIPE);
        CHECK_EQ(vhk_frontend_enable_queue(f, 0, 1), -EPIPE);
        CHECK_EQ(vhk_frontend_set_call_fd(f, 0, -1), -EPIPE);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPIPE);
        vhk_memory_free(m);
}

TEST(a_later_answer_goes_wrong) {
        static const uint32_t ids[] = { VHK_FE_GET_STATUS, VHK_FE_SET_STATUS };         /* a reply, an acknowledgement */
        uint8_t status;

        for (size_t i = 0; i < 2 * VHK_N(mischiefs); i++) {
                enum mischief m = mischiefs[i / 2].m;
                init();
                fake.mischief = m;
                fake.at = ids[i % 2];
                options.limit_ns = m == SILENT ? 50000000 : options.limit_ns;
                enter();
                int k = i % 2 ? vhk_frontend_set_status(f, 1) : vhk_frontend_get_status(f, &status);
                CHECK_MSG(k == mischiefs[i / 2].later, "mischief %d gave %d (%s)", m, k, vhk_frontend_get_error(f)->text);
                CHECK_EQ(n_gone, k != 0);
                if (k < 0) {
                        CHECK_EQ(vhk_frontend_get_error(f)->code, k);
                        CHECK_EQ(called_back, -EDEADLK);
                        const char *rule = vhk_frontend_get_error(f)->rule;
                        check_every_call_gives_epipe();
                        CHECK_STR(vhk_frontend_get_error(f)->rule, rule);       /* the story stays */
                        CHECK_EQ(n_gone, 1);
                }
                leave();
        }
}

/* ---- refusals ---- */

static struct vhk_memory *memory_of(unsigned n) {
        struct vhk_memory *m;
        void *va;

        CHECK_OK(vhk_memory_new(&m));
        while (n-- > 0)
                CHECK_OK(vhk_memory_alloc(m, MIB, &va));
        return m;
}

static uint64_t gpa_of(struct vhk_memory *m, unsigned i, struct vhk_region *r) {
        *r = (struct vhk_region){ .size = sizeof(*r) };
        CHECK_OK(vhk_memory_get_region(m, i, r));
        return r->gpa.v;
}

static struct vhk_ring_setup ring_in(struct vhk_memory *m) {
        struct vhk_region r = { .size = sizeof(r) };
        uint64_t gpa = gpa_of(m, 0, &r);

        return (struct vhk_ring_setup){ .size = sizeof(struct vhk_ring_setup), .num = 64, .desc = gpa + 4096, .driver = gpa + 8192, .device = gpa + 12288,
                .base = { .avail = 3, .used = 3 }, .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
}

TEST(every_refusal_is_seen_at_its_call) {
        static const struct { uint32_t id; const char *name; } rows[] = {
                { VHK_FE_SET_FEATURES, "SET_FEATURES" }, { VHK_FE_ADD_MEM_REG, "ADD_MEM_REG" }, { VHK_FE_SET_STATUS, "SET_STATUS" },
                { VHK_FE_SET_CONFIG, "SET_CONFIG" }, { VHK_FE_RESET_DEVICE, "RESET_DEVICE" }, { VHK_FE_SET_VRING_NUM, "SET_VRING_NUM" },
                { VHK_FE_SET_VRING_BASE, "SET_VRING_BASE" }, { VHK_FE_SET_VRING_ADDR, "SET_VRING_ADDR" }, { VHK_FE_SET_VRING_CALL, "SET_VRING_CALL" },
                { VHK_FE_SET_VRING_KICK, "SET_VRING_KICK" }, { VHK_FE_SET_VRING_ENABLE, "SET_VRING_ENABLE" }, { VHK_FE_SET_VRING_ERR, "SET_VRING_ERR" },
        };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                struct vhk_memory *m = memory_of(1);
                struct vhk_ring_setup s = ring_in(m);
                int fd = eventfd(0, EFD_CLOEXEC), k[6] = { 0 }, n = 0;
                uint8_t status;

                init();
                fake.mischief = REFUSES;
                fake.at = rows[i].id;
                fake.refusal = i % 2 ? 1 : (uint64_t)-EINVAL;
                enter();
                s.err_fd = fd;
                k[0] = vhk_frontend_set_features(f, FEATURES);
                k[1] = vhk_frontend_set_memory(f, m);
                k[2] = vhk_frontend_set_status(f, 1);
                k[3] = vhk_frontend_set_config(f, 0, "x", 1, VHK_CONFIG_DRIVER);
                k[4] = vhk_frontend_reset(f);
                if (k[1] == 0)
                        k[5] = vhk_frontend_start_queue(f, 1, &s);
                for (int j = 0; j < 6; j++) {
                        CHECK(k[j] == 0 || k[j] == -EREMOTEIO);
                        n += k[j] != 0;
                }
                CHECK_EQ(n, 1);
                CHECK_MSG(strstr(vhk_frontend_get_error(f)->text, rows[i].name), "%s: %s", rows[i].name, vhk_frontend_get_error(f)->text);
                CHECK_OK(vhk_frontend_get_status(f, &status));          /* the connection lives */
                CHECK_EQ(n_gone, 0);
                leave();
                close(fd);
                vhk_memory_free(m);
        }
}

TEST(a_refusal_during_the_handshake) {
        static const uint32_t ids[] = { VHK_FE_SET_OWNER, VHK_FE_SET_BACKEND_REQ_FD };

        for (size_t i = 0; i < VHK_N(ids); i++) {
                init();
                fake.mischief = REFUSES;
                fake.at = ids[i];
                CHECK_EQ(open_it(), -EREMOTEIO);
                leave();
        }
}

TEST(configuration) {
        uint8_t c[60];

        init();
        fake.config_len = 40;
        enter();
        CHECK_OK(vhk_frontend_get_config(f, 8, c, 32));
        for (unsigned i = 0; i < 32; i++)
                CHECK_EQ(c[i], 8 + i);
        CHECK_EQ(vhk_frontend_get_config(f, 0, c, 60), -EREMOTEIO);
        CHECK_EQ(vhk_frontend_get_config(f, 250, c, 7), -EINVAL);
        CHECK_EQ(vhk_frontend_get_config(f, UINT32_MAX, c, 7), -EINVAL);
        CHECK_EQ(vhk_frontend_get_config(f, 0, c, 0), -EINVAL);
        CHECK_OK(vhk_frontend_set_config(f, 32, c, 1, VHK_CONFIG_DRIVER));
        leave();
}

/* ---- memory ---- */

TEST(the_difference_is_sent) {
        struct vhk_memory *m = memory_of(5);
        struct vhk_region r = { .size = sizeof(r) };
        void *va;

        init();
        enter();
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 5);
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 5);
        gpa_of(m, 2, &r);
        CHECK_OK(vhk_memory_remove(m, r.gpa, r.len));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_REM_MEM_REG], 1);
        CHECK_OK(vhk_memory_alloc(m, MIB, &va));
        gpa_of(m, 0, &r);
        CHECK_OK(vhk_memory_remove(m, r.gpa, r.len));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 6);
        CHECK_EQ(fake.count[VHK_FE_REM_MEM_REG], 2);
        CHECK_EQ(fake.count[VHK_FE_SET_MEM_TABLE], 0);
        leave();
        vhk_memory_free(m);
}

TEST(the_same_place_in_another_file_is_another_region) {
        struct vhk_memory *m;
        struct vhk_region r = { .size = sizeof(r), .gpa = { 0x100000 }, .len = MIB };

        CHECK_OK(vhk_memory_new(&m));
        init();
        enter();
        for (int i = 0; i < 2; i++) {
                r.fd = memfd_create("test", MFD_CLOEXEC);
                CHECK_OK(ftruncate(r.fd, MIB));
                r.va = mmap(i ? r.va : NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | (i ? MAP_FIXED : 0), r.fd, 0);
                CHECK(r.va != MAP_FAILED);
                CHECK_OK(vhk_memory_add(m, &r));
                CHECK_OK(vhk_frontend_set_memory(f, m));
                CHECK_OK(vhk_memory_remove(m, r.gpa, r.len));
                close(r.fd);
        }
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 2);
        CHECK_EQ(fake.count[VHK_FE_REM_MEM_REG], 1);
        munmap(r.va, MIB);
        leave();
        vhk_memory_free(m);
}

/* The fake holds the sizes against the table: 48 bytes, 8 + 40 for each region. */
TEST(the_form_of_xen_is_sent_when_asked_for) {
        for (unsigned with_slots = 0; with_slots < 2; with_slots++) {
                struct vhk_memory *m = memory_of(3);
                struct vhk_region r = { .size = sizeof(r) };
                init();
                fake.state.protocol_offered |= VHK_BIT(VHK_PF_XEN_MMAP);
                fake.state.protocol_offered &= ~(with_slots ? 0 : VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS));
                options.protocol_offer = VHK_BIT(VHK_PF_XEN_MMAP) | VHK_BIT(VHK_PF_INBAND_NOTIFICATIONS);
                enter();
                CHECK_EQ(info().carrier_acked, fake.state.protocol_offered & (FAKE_PROTOCOL | VHK_BIT(VHK_PF_XEN_MMAP)));
                CHECK_OK(vhk_frontend_set_memory(f, m));
                CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], with_slots ? 3 : 0);
                CHECK_EQ(fake.count[VHK_FE_SET_MEM_TABLE], with_slots ? 0 : 1);
                gpa_of(m, 1, &r);
                CHECK_OK(vhk_memory_remove(m, r.gpa, r.len));
                CHECK_OK(vhk_frontend_set_memory(f, m));
                CHECK_EQ(fake.count[VHK_FE_REM_MEM_REG], with_slots ? 1 : 0);
                CHECK_EQ(fake.count[VHK_FE_SET_MEM_TABLE], with_slots ? 0 : 2);
                leave();
                vhk_memory_free(m);
        }
}

TEST(without_slots_the_table_is_sent) {
        struct vhk_memory *m = memory_of(8);
        struct vhk_region r = { .size = sizeof(r) };
        void *va;

        init();
        fake.state.protocol_offered &= ~VHK_BIT(VHK_PF_CONFIGURE_MEM_SLOTS);
        enter();
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_SET_MEM_TABLE], 1);
        gpa_of(m, 3, &r);
        CHECK_OK(vhk_memory_remove(m, r.gpa, r.len));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_SET_MEM_TABLE], 2);
        CHECK_OK(vhk_memory_alloc(m, MIB, &va));
        CHECK_OK(vhk_memory_alloc(m, MIB, &va));
        CHECK_EQ(vhk_frontend_set_memory(f, m), -ENOSPC);
        CHECK(strstr(vhk_frontend_get_error(f)->text, "9 regions"));
        CHECK(strstr(vhk_frontend_get_error(f)->text, "CONFIGURE_MEM_SLOTS"));
        CHECK_EQ(fake.count[VHK_FE_SET_MEM_TABLE], 2);
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG] + fake.count[VHK_FE_REM_MEM_REG], 0);
        while (vhk_memory_get_region(m, 0, &r) == 0)
                CHECK_OK(vhk_memory_remove(m, r.gpa, r.len));
        CHECK_EQ(vhk_frontend_set_memory(f, m), -EINVAL);       /* a table has at least one */
        leave();
        vhk_memory_free(m);
}

TEST(the_slot_limit_is_kept) {
        struct vhk_memory *m = memory_of(3);
        void *va;

        init();
        fake.slots = 3;
        enter();
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_OK(vhk_memory_alloc(m, MIB, &va));
        CHECK_EQ(vhk_frontend_set_memory(f, m), -ENOSPC);
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 3);
        leave();
        vhk_memory_free(m);
}

TEST(five_hundred_and_nine_regions) {
        struct vhk_memory *m;
        struct vhk_region r = { .size = sizeof(r), .fd = memfd_create("test", MFD_CLOEXEC), .len = 4096 };

        CHECK_OK(vhk_memory_new(&m));
        CHECK_OK(ftruncate(r.fd, 509 * 4096));
        uint8_t *va = mmap(NULL, 509 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, 0);
        for (unsigned i = 0; i < 509; i++) {
                r.gpa.v = 0x100000 + 8192ull * i;
                r.va = va + 4096 * i;
                r.fd_offset = 4096ull * i;
                CHECK_OK(vhk_memory_add(m, &r));
        }
        init();
        fake.slots = 509;
        enter();
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 509);
        CHECK_OK(vhk_memory_remove(m, (vhk_gpa_t){ 0x100000 + 8192 * 250 }, 4096));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 509);
        CHECK_EQ(fake.count[VHK_FE_REM_MEM_REG], 1);
        leave();
        vhk_memory_free(m);
        munmap(va, 509 * 4096);
        close(r.fd);
}

TEST(after_a_refusal_half_way_only_the_rest_is_sent) {
        struct vhk_memory *m = memory_of(4);

        init();
        fake.mischief = REFUSES;
        fake.at = VHK_FE_ADD_MEM_REG;
        fake.skip = 2;
        enter();
        CHECK_EQ(vhk_frontend_set_memory(f, m), -EREMOTEIO);
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 3);
        fake.mischief = HONEST;
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_ADD_MEM_REG], 5);
        leave();
        vhk_memory_free(m);
}

/* ---- rings ---- */

static void check_order(unsigned from, const uint32_t *ids, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                CHECK_MSG(fake.order[from + i] == ids[i], "message %u is %u, expected %u", i, fake.order[from + i], ids[i]);
        CHECK_EQ(fake.total, from + n);
}

TEST(a_ring_starts_and_stops) {
        struct vhk_memory *m = memory_of(1);
        struct vhk_ring_setup s = ring_in(m);
        struct vhk_ring_base base;
        struct vhk_region r = { .size = sizeof(r) };
        uint64_t gpa = gpa_of(m, 0, &r), va = (uintptr_t)r.va;

        init();
        enter();
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        unsigned from = fake.total;
        s.kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        s.err_fd = s.call_fd = s.kick_fd;
        CHECK_OK(vhk_frontend_start_queue(f, 2, &s));
        check_order(from, (uint32_t[]){ VHK_FE_SET_VRING_NUM, VHK_FE_SET_VRING_BASE, VHK_FE_SET_VRING_ADDR, VHK_FE_SET_VRING_ERR, VHK_FE_SET_VRING_CALL,
                                       VHK_FE_SET_VRING_KICK, VHK_FE_SET_VRING_ENABLE }, 7);
        CHECK_EQ(fake.addr.index, 2);
        CHECK_EQ(fake.addr.desc, va + (s.desc - gpa));
        CHECK_EQ(fake.addr.avail, va + (s.driver - gpa));
        CHECK_EQ(fake.addr.used, va + (s.device - gpa));
        CHECK_EQ(fake.base.num, 3);
        CHECK_EQ(fake.kick_word, 2);
        CHECK_EQ(vhk_drain_fd(s.kick_fd), 1);           /* kicked once, for back-ends that wait for it */
        CHECK_EQ(vhk_frontend_start_queue(f, 2, &s), -EBUSY);
        CHECK_OK(vhk_frontend_set_call_fd(f, 2, -1));
        CHECK_EQ(fake.call_word, 2 | VHK_RING_NO_FD);
        CHECK_OK(vhk_frontend_enable_queue(f, 2, 0));
        CHECK_OK(vhk_frontend_stop_queue(f, 2, &base));
        CHECK_EQ(base.avail, 7);
        CHECK_OK(vhk_frontend_start_queue(f, 2, &s));
        CHECK_OK(vhk_frontend_reset(f));
        CHECK_OK(vhk_frontend_start_queue(f, 2, &s));
        CHECK_EQ(vhk_frontend_start_queue(f, 4, &s), -EINVAL);
        CHECK_EQ(vhk_frontend_stop_queue(f, 256, &base), -EINVAL);
        CHECK_EQ(vhk_frontend_enable_queue(f, 9999, 1), -EINVAL);
        CHECK_EQ(vhk_frontend_set_call_fd(f, 300, -1), -EINVAL);
        CHECK_EQ(fake.count[VHK_FE_GET_VRING_BASE], 1);
        leave();                                        /* stops what runs */
        CHECK_EQ(fake.count[VHK_FE_GET_VRING_BASE], 2);
        close(s.kick_fd);
        vhk_memory_free(m);
}

TEST(a_polled_ring_has_no_descriptors) {
        struct vhk_memory *m = memory_of(1);
        struct vhk_ring_setup s = ring_in(m);

        init();
        enter();
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_OK(vhk_frontend_start_queue(f, 1, &s));
        CHECK_EQ(fake.call_word, 1 | VHK_RING_NO_FD);
        CHECK_EQ(fake.kick_word, 1 | VHK_RING_NO_FD);
        CHECK_EQ(fake.count[VHK_FE_SET_VRING_ERR], 0);
        leave();
        vhk_memory_free(m);
}

TEST(ring_areas_must_lie_in_one_region) {
        struct vhk_memory *m = memory_of(1);
        struct vhk_ring_setup good = ring_in(m), s;
        struct vhk_region r = { .size = sizeof(r) };
        uint64_t gpa = gpa_of(m, 0, &r), end = gpa + r.len;

        init();
        enter();
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &good), -EFAULT);       /* nothing is lent yet */
        CHECK_OK(vhk_frontend_set_memory(f, m));
        s = good, s.desc = gpa - 16;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EFAULT);
        s = good, s.driver = end - (6 + 2 * 64) + 2;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EFAULT);
        CHECK(strstr(vhk_frontend_get_error(f)->text, "driver area"));
        s = good, s.device = UINT64_MAX - 7;
        CHECK_EQ(vhk_frontend_start_queue(f, 0, &s), -EFAULT);
        CHECK_EQ(fake.count[VHK_FE_SET_VRING_NUM], 0);
        s = good, s.device = end - (6 + 8 * 64) - 2;
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        leave();
        vhk_memory_free(m);
}

TEST(packed_rings_have_another_base) {
        struct vhk_memory *m = memory_of(1);
        struct vhk_ring_setup s = ring_in(m);

        init();
        enter();
        CHECK_OK(vhk_frontend_set_features(f, FEATURES | VHK_BIT(VHK_F_RING_PACKED)));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        s.base = (struct vhk_ring_base){ .avail_wrap = 1, .used_wrap = 1 };
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_EQ(fake.base.num, 0x80008000u);
        leave();
        vhk_memory_free(m);
}

TEST(without_acknowledgements_an_answer_is_awaited) {
        struct vhk_memory *m = memory_of(2);
        struct vhk_ring_setup s = ring_in(m);

        init();
        fake.state.protocol_offered &= ~VHK_BIT(VHK_PF_REPLY_ACK);
        enter();
        unsigned n = fake.count[VHK_FE_GET_FEATURES];
        CHECK_OK(vhk_frontend_set_memory(f, m));
        CHECK_EQ(fake.count[VHK_FE_GET_FEATURES], ++n);
        CHECK_OK(vhk_frontend_start_queue(f, 0, &s));
        CHECK_EQ(fake.count[VHK_FE_GET_FEATURES], ++n);
        CHECK_OK(vhk_frontend_set_call_fd(f, 0, -1));
        CHECK_EQ(fake.count[VHK_FE_GET_FEATURES], ++n);
        leave();
        vhk_memory_free(m);
}

/* ---- the back-end's channel ---- */

static const struct vhk_hdr config_changed = { VHK_BE_CONFIG_CHANGE_MSG, VHK_HDR_VERSION, 0 };
static const struct vhk_hdr config_changed_asks = { VHK_BE_CONFIG_CHANGE_MSG, VHK_HDR_VERSION | VHK_HDR_NEED_REPLY, 0 };

static void check_heard(uint32_t id, bool refused) {
        struct vhk_hdr h;
        uint64_t v;

        CHECK_EQ(fake.heard_n, 20);
        memcpy(&h, fake.heard, 12);
        memcpy(&v, fake.heard + 12, 8);
        CHECK_EQ(h.request, id);
        CHECK_EQ(h.flags, VHK_HDR_VERSION | VHK_HDR_REPLY);
        CHECK_EQ(v != 0, refused);
}

TEST(the_channel_is_served_while_we_wait) {
        uint8_t status;

        init();
        fake.say_at = VHK_FE_GET_STATUS;
        fake.say = &config_changed_asks;
        fake.say_n = sizeof(config_changed_asks);
        fake.await = 20;                /* the back-end insists on that before it answers */
        enter();
        CHECK_OK(vhk_frontend_get_status(f, &status));
        check_heard(VHK_BE_CONFIG_CHANGE_MSG, false);
        CHECK_EQ(n_changed, 1);
        CHECK_EQ(called_back, -EDEADLK);
        CHECK_OK(vhk_frontend_get_status(f, &status));
        leave();
}

TEST(requests_that_were_not_negotiated_are_refused) {
        static const struct { struct vhk_hdr h; uint8_t payload[24]; } rows[] = {
                { { VHK_BE_IOTLB_MSG, 9, 0 }, { 0 } },                  /* too short as well */
                { { VHK_BE_VRING_CALL, 9, 8 }, { 0 } },
                { { VHK_BE_SHARED_OBJECT_ADD, 9, 16 }, { 1 } },
                { { VHK_BE_CONFIG_CHANGE_MSG, 9, 8 }, { 0 } },          /* too long */
                { { 99, 9, 8 }, { 0 } },                                /* unknown */
        };
        uint8_t status;

        for (size_t i = 0; i < VHK_N(rows); i++) {
                init();
                fake.say_at = VHK_FE_GET_STATUS;
                fake.say = &rows[i];
                fake.say_n = 12 + rows[i].h.size;
                fake.await = 20;
                enter();
                CHECK_OK(vhk_frontend_get_status(f, &status));
                check_heard(rows[i].h.request, true);
                CHECK_EQ(n_changed, 0);
                CHECK_EQ(n_gone, 0);
                leave();
        }
}

TEST(nonsense_on_the_channel_ends_the_connection) {
        static const struct vhk_hdr rows[] = {
                { VHK_BE_CONFIG_CHANGE_MSG, 2, 0 },             /* version */
                { VHK_BE_CONFIG_CHANGE_MSG, 5, 0 },             /* reply bit */
                { VHK_BE_CONFIG_CHANGE_MSG, 1, 0xffffffff },    /* oversize */
        };

        for (size_t i = 0; i < VHK_N(rows); i++) {
                init();
                enter();
                CHECK_EQ(send(fake.channel, &rows[i], 12, MSG_NOSIGNAL), 12);
                CHECK_EQ(vhk_frontend_dispatch(f), -EPROTO);
                CHECK_EQ(n_gone, 1);
                check_every_call_gives_epipe();
                leave();
        }
}

TEST(news_are_found_by_the_descriptor) {
        init();
        enter();
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        CHECK_EQ(poll(&p, 1, 0), 0);
        CHECK_EQ(vhk_frontend_dispatch(f), 0);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(send(fake.channel, &config_changed, 12, MSG_NOSIGNAL), 12);
        CHECK_EQ(poll(&p, 1, 1000), 1);
        CHECK_EQ(vhk_frontend_dispatch(f), 3);
        CHECK_EQ(n_changed, 1);         /* one piece of news */
        CHECK_EQ(poll(&p, 1, 0), 0);
        leave();
}

TEST(a_flood_does_not_hold_us) {
        uint8_t status;
        int n = 0;

        init();
        enter();
        vhk_fd_set_nonblock(fake.channel, true);
        while (send(fake.channel, &config_changed, 12, MSG_NOSIGNAL) == 12)
                n++;
        CHECK(n > 64);
        CHECK_OK(vhk_frontend_get_status(f, &status));
        int k = vhk_frontend_dispatch(f);
        CHECK(k >= 0 && k <= 64);
        leave();
}

TEST(a_closed_channel_is_no_end) {
        uint8_t status;

        init();
        enter();
        vhk_close(&fake.channel);
        CHECK_OK(vhk_frontend_dispatch(f));
        CHECK_OK(vhk_frontend_get_status(f, &status));
        CHECK_EQ(n_gone, 0);
        leave();
}

TEST(an_answer_that_nobody_asked_for) {
        static const struct { struct vhk_hdr h; uint32_t v[2]; } m = { { VHK_FE_GET_STATUS, 5, 8 }, { 0 } };

        init();
        enter();
        CHECK_EQ(send(fake.fd, &m, 20, MSG_NOSIGNAL), 20);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPROTO);
        CHECK_STR(vhk_frontend_get_error(f)->rule, vhk_rule_id(VHK_RULE_REPLY_UNEXPECTED));
        leave();
}

TEST(the_end_is_found_by_dispatch) {
        init();
        enter();
        shutdown(fake.fd, SHUT_RDWR);
        struct pollfd p = { .fd = vhk_frontend_get_fd(f), .events = POLLIN };
        CHECK_EQ(poll(&p, 1, 1000), 1);
        CHECK_EQ(vhk_frontend_dispatch(f), -EPIPE);
        CHECK_EQ(n_gone, 1);
        leave();
}

/* ---- opening ---- */

static char dir[64], path[108];

static void make_dir(void) {
        strcpy(dir, "/tmp/vhk-test-frontend.XXXXXX");
        CHECK(mkdtemp(dir));
        snprintf(path, sizeof(path), "vhost-user:%s/s", dir);
        init();
        options.has_fd = 0;
}

static void *connect_later(void *arg) {
        int fd;

        usleep(5000);
        if (vhk_sock_connect(strchr(path, ':') + 1, 5000000000ull, &fd, NULL) == 0)
                fake_start(&fake, fd);
        return NULL;
}

TEST(we_listen_and_the_back_end_comes) {
        pthread_t t;

        make_dir();
        options.mode = VHK_SOCKET_LISTEN;
        CHECK_EQ(pthread_create(&t, NULL, connect_later, NULL), 0);
        int k = vhk_frontend_open(path, &options, &f, &err);
        pthread_join(t, NULL);
        CHECK_MSG(k == 0, "%s", err.text);
        CHECK_EQ(access(strchr(path, ':') + 1, F_OK), -1);      /* one came, the file is gone */
        leave();
        CHECK_OK(rmdir(dir));
}

TEST(an_inherited_descriptor_may_be_called_by_its_carrier) {
        int s[2];

        init();
        CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
        fake_start(&fake, s[1]);
        options.fd = s[0];
        CHECK_EQ(vhk_frontend_open("vhost-user:/run/x.sock", &options, &f, &err), -EINVAL);
        CHECK_EQ(vhk_frontend_open("x.sock", &options, &f, &err), -EINVAL);
        CHECK_OK(vhk_frontend_open("vhost-user:", &options, &f, &err));
        CHECK_OK(vhk_frontend_set_features(f, FEATURES));
        leave();
}

TEST(an_inherited_listener) {
        struct vhk_listener l;
        pthread_t t;

        make_dir();
        CHECK_OK(vhk_listener_open(strchr(path, ':') + 1, &l, NULL));
        options.has_fd = 1;
        options.fd = l.fd;
        CHECK_EQ(pthread_create(&t, NULL, connect_later, NULL), 0);
        CHECK_OK(vhk_frontend_open(NULL, &options, &f, &err));
        pthread_join(t, NULL);
        leave();
        CHECK_EQ(fcntl(l.fd, F_GETFD), -1);                     /* it was ours */
        CHECK_OK(unlink(l.path));
        CHECK_OK(rmdir(dir));
}

TEST(nobody_comes) {
        make_dir();
        options.mode = VHK_SOCKET_LISTEN;
        options.connect_ns = 20000000;
        CHECK_EQ(vhk_frontend_open(path, &options, &f, &err), -ETIMEDOUT);
        CHECK_STR(err.rule, "frontend.nobody-came");
        CHECK_OK(rmdir(dir));
}

TEST(a_busy_back_end_is_called_busy) {
        struct vhk_listener l;

        make_dir();
        CHECK_OK(vhk_listener_open(strchr(path, ':') + 1, &l, NULL));
        options.limit_ns = 20000000;
        CHECK_EQ(vhk_frontend_open(path, &options, &f, &err), -ETIMEDOUT);
        CHECK_STR(err.rule, "frontend.busy");
        vhk_listener_close(&l);
        CHECK_OK(rmdir(dir));
}

TEST(closing_inside_a_callback_is_done_when_the_call_is_over) {
        struct vhk_frontend *same;
        uint8_t status;

        init();
        fake.mischief = CLOSES;
        fake.at = VHK_FE_GET_STATUS;
        enter();
        closes_inside = true;
        same = f;
        CHECK_EQ(vhk_frontend_get_status(same, &status), -EPIPE);
        CHECK_EQ(n_gone, 1);
        CHECK(!f);                      /* its descriptors are counted by the harness, its memory by the sanitizer */
        leave();
}

TEST(wrong_use) {
        make_dir();
        CHECK_EQ(vhk_frontend_open(path, &options, &f, &err), -ENOENT);
        CHECK_EQ(vhk_frontend_open(NULL, &options, &f, &err), -EINVAL);
        options.has_fd = 1;
        CHECK_EQ(vhk_frontend_open(path, &options, &f, &err), -EINVAL);
        options.size = 3;
        CHECK_EQ(vhk_frontend_open(path, &options, &f, &err), -EINVAL);
#ifdef VHK_WITH_KERNEL
        CHECK_EQ(vhk_frontend_open("vhost-net:/nonexistent", NULL, &f, &err), -ENOENT);
#endif
        CHECK(!vhk_frontend_close(NULL));
        CHECK_OK(rmdir(dir));
}
