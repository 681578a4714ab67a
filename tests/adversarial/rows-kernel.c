/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The kernel as a peer that must not be asked everything: a front-end over vhost-vdpa, whose caller knows no limits. The device is
 * not there (frontend/test-vdpa.h), so that it counts what reaches the kernel.
 */
#include "frontend/test-vdpa.h"
#include "hostile.h"

#define CALLS 60000u

static uint64_t state = 0x1234567;

static uint64_t dice(void) {
        state ^= state << 13;
        state ^= state >> 7;
        return state ^= state << 17;
}

/* Near a limit, or anywhere. */
static uint64_t near(uint64_t limit) {
        uint64_t d = dice();

        switch (d >> 8 & 3) {
        case 0:
                return d >> 16 & 3;
        case 1:
                return limit - 2 + (d >> 16 & 3);
        case 2:
                return UINT64_MAX - (d >> 16 & 0x1fff);
        default:
                return dice();
        }
}

static uint64_t page_near(uint64_t limit) {
        return dice() & 7 ? near(limit) & ~UINT64_C(4095) : near(limit);
}

static int one_call(struct vhk_frontend *f, struct vhk_memory *m) {
        static uint8_t pages[4 * 4096] VHK_ALIGNED(4096);
        struct vhk_ring_setup s = { .size = sizeof(s), .num = (uint16_t)near(256), .desc = page_near(0x200000), .driver = page_near(0x210000), .device = near(0x210000),
                                    .base = { .avail = (uint16_t)dice(), .used = (uint16_t)dice() }, .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
        struct vhk_ring_base base;
        uint8_t config[64] = { 0 };
        uint32_t group;
        uint64_t kind = dice() % 20;

        if (kind == 9 && !(dice() & 3)) {               /* a ring that is as it should be */
                s.num = 16;
                s.desc = s.driver = s.device = 0x200000;
        }
        switch (kind) {
        case 0: return vhk_frontend_stop_queue(f, (unsigned)near(3), &base);
        case 1: return vhk_frontend_enable_queue(f, (unsigned)near(3), (int)dice());
        case 2: return vhk_frontend_set_call_fd(f, (unsigned)near(3), -1);
        case 3: return vhk_frontend_get_queue_group(f, (unsigned)near(3), &group);
        case 4: return vhk_frontend_set_group_asid(f, (uint32_t)near(2), (uint32_t)near(2));
        case 5: return vhk_frontend_get_config(f, (uint32_t)near(24), config, (uint32_t)(dice() % sizeof(config)));
        case 6: return vhk_frontend_set_config(f, (uint32_t)near(24), config, (uint32_t)(dice() % sizeof(config)), VHK_CONFIG_DRIVER);
        case 7:
        case 8: return vhk_frontend_dma_map(f, (uint32_t)near(2), page_near(0x7ff000), page_near(8192), pages, (uint32_t)near(3));
        case 9:
        case 10: return vhk_frontend_start_queue(f, (unsigned)near(3), &s);
        case 11: return vhk_frontend_dma_unmap(f, (uint32_t)near(2), page_near(0x7ff000), page_near(8192));
        case 12: return vhk_frontend_dma_begin(f, (uint32_t)near(2));
        case 13: return vhk_frontend_dma_end(f, (uint32_t)near(2));
        case 14: return vhk_frontend_set_memory(f, m);
        case 15: return vhk_frontend_set_features(f, dice() & 1 ? VHK_BIT(32) : dice());
        case 16: return vhk_frontend_set_status(f, (uint8_t)near(15));
        case 17: return vhk_frontend_suspend(f);
        case 18: return vhk_frontend_resume(f);
        default: return dice() & 3 ? 0 : vhk_frontend_reset(f);
        }
}

ROW(H61, "a front-end over the kernel: ring, group, address space, configuration, I/O address, batch beyond every limit", "E") {
        struct vhk_frontend_options o = { .size = sizeof(o), .has_fd = 1 };
        unsigned n_refused = 0, n_done = 0;
        struct vhk_frontend *f;
        struct vhk_memory *m;
        struct vhk_error e;
        void *va;

        fake_begin();
        fake.first = 0x100000;
        fake.last = 0x7fffff;
        fake.backend |= dice() & 0x20;
        o.fd = fake.fd;
        CHECK_OK(vhk_frontend_open("vhost-vdpa:", &o, &f, &e));
        CHECK_OK(vhk_memory_new(&m));
        CHECK_OK(vhk_memory_alloc(m, 65536, &va));
        CHECK_OK(vhk_frontend_set_memory(f, m));
        for (unsigned i = 0; i < CALLS; i++) {
                fake.log[0] = 0;
                int k = one_call(f, m);
                n_refused += k < 0;
                n_done += k >= 0;
                CHECK_MSG(!fake.n_beyond, "call %u: the kernel was asked for what is not there: %s", i, fake.log);
                CHECK_MSG(k >= 0 || *vhk_frontend_get_error(f)->text, "call %u: refused without a story", i);
        }
        CHECK(n_refused > CALLS / 4 && n_done > CALLS / 20);
        CHECK(!vhk_frontend_close(f));
        CHECK_EQ(fake.n_maps, 0);
        fake.fd = -1;
        vhk_memory_free(m);
        snprintf(verdict, sizeof(verdict), "%u refused, %u done", n_refused, n_done);
}
