/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Translations end to end on the back-end's side: a scripted front-end that answers misses, late, wrongly, or never (H30), that
 * invalidates what is in use, and that sends whatever it likes (H29).
 */
#include "backend/test-iotlb.h"

#define LIMIT_SHORT UINT64_C(100000000)

TEST(offered_when_asked_for) {
        static struct rig r;
        uint64_t protocol = PROTOCOL & ~VHK_BIT(VHK_PF_BACKEND_REQ);
        struct vhk_backend *b;
        struct vhk_error e;

        rig_open(&r, NULL, NULL);
        fe_connect(&r);
        CHECK(!(fe_get(&r, VHK_FE_GET_FEATURES) & PLATFORM));
        struct vhk_backend_options o = r.o;
        o.features_offer = PLATFORM | VHK_BIT(VHK_F_RING_PACKED);
        CHECK_EQ(vhk_backend_open("/nowhere", &o, &dev_ops, &r.dev, &b, &e), -EOPNOTSUPP);
        CHECK_STR(e.rule, "backend.features");
        rig_close(&r);

        rig_open(&r, &(struct vhk_backend_options){ .features_offer = PLATFORM }, NULL);
        fe_connect(&r);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES) & PLATFORM);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_PROTOCOL_FEATURES, protocol), 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | PLATFORM), 1);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_PROTOCOL_FEATURES, PROTOCOL), 0);
        CHECK_EQ(iotlb_update(&r, GPA, PAGE, 3), 1);                    /* not negotiated yet */
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | PLATFORM), 0);
        CHECK_EQ(r.dev.features & PLATFORM, 0);                         /* a device sees nothing of it */
        CHECK_EQ(iotlb_memory(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES), 0);
        CHECK_EQ(iotlb_update(&r, GPA, MEM_BYTES, 3), 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | PLATFORM), 0);
        CHECK_EQ(iotlb_update(&r, GPA, MEM_BYTES, 3), 0);
        iotlb_ring(&r, 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES), 1);     /* not while rings run */
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | PLATFORM), 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        rig_close(&r);
}

/* Every page is missed once, and only once; the main channel is served meanwhile. */
TEST(misses_are_answered) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        for (unsigned page = 0; page < 3; page++) {
                struct vhk_p_iotlb p = next_miss(&r);
                CHECK_EQ(p.iova, area_iova(0, page));
                CHECK_EQ(p.perm, page < 2 ? 1 : 3);
                CHECK(fe_get(&r, VHK_FE_GET_FEATURES));                 /* nothing waits */
                CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1), 0);
                channel_answer(0);
                CHECK_EQ(iotlb_update(&r, p.iova, PAGE, p.perm), 0);
        }
        struct vhk_p_iotlb p;
        pump(&r);
        CHECK(!channel_poll(&p));
        for (unsigned i = 0; i < 4; i++)
                ring_add(&r, 0);
        p = next_miss(&r);                                              /* read ... */
        CHECK(p.iova == area_iova(0, 4) && p.perm == 1);
        CHECK_EQ(iotlb_update(&r, p.iova, PAGE, 1), 0);                 /* before the acknowledgement, as QEMU does */
        channel_answer(0);
        p = next_miss(&r);                                              /* ... and written */
        CHECK(p.iova == area_iova(0, 4) && p.perm == 2);
        CHECK(!ring_is_idle(&r, 0));
        channel_answer(0);
        CHECK_EQ(iotlb_update(&r, p.iova, PAGE, 3), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK(!channel_poll(&p));
        CHECK_EQ(ring_stop(&r, 0), 4);
        iotlb_close(&r);
}

TEST(a_stalled_ring_stops_at_once) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        next_miss(&r);
        CHECK_EQ(ring_stop(&r, 0), 0);                                  /* its areas never came */
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        channel_answer(1);                                              /* to the first: nobody waits for that any more, or does again */
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), 3 * PAGE, 3), 0);
        pump(&r);
        ring_stop(&r, 0);
        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 0);
        CHECK_EQ(fe_ask_ring(&r, VHK_FE_SET_VRING_ENABLE, 0, 1), 0);
        ring_add(&r, 0);
        struct vhk_p_iotlb p;
        PUMP_UNTIL(&r, channel_poll(&p) && p.iova == area_iova(0, 4));  /* stalled in a request */
        CHECK_EQ(ring_stop(&r, 0), 0);
        iotlb_close(&r);
}

TEST(h30_never_answered) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, 2);
        CHECK_EQ(iotlb_update(&r, area_iova(1, 0), RING_BYTES, 3), 0);
        next_miss(&r);
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));
        PUMP_UNTIL(&r, strstr(r.log, "ring.translation"));
        ring_add(&r, 1);                                                /* the other one works */
        PUMP_UNTIL(&r, ring_is_idle(&r, 1));
        CHECK_EQ(ring_stop(&r, 0), 0);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), RING_BYTES, 3), 0);
        ring_go(&r, 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        iotlb_close(&r);
}

TEST(h30_refused) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), 3 * PAGE, 3), 0);
        next_miss(&r);                                                  /* of the start: answered in time by the update */
        channel_answer(1);
        ring_add(&r, 0);
        struct vhk_p_iotlb p = next_miss(&r);
        CHECK_EQ(p.iova, area_iova(0, 4));
        CHECK(!is_readable(r.rings[0].err));
        channel_answer(1);                                              /* the guest let its device look where nothing is */
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));
        CHECK_EQ(ring_stop(&r, 0), 0);
        iotlb_close(&r);
}

TEST(h30_wrong_permission) {
        static struct rig r;
        struct vhk_p_iotlb p;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), 2 * PAGE, 1), 0);
        next_miss(&r);
        channel_answer(0);
        for (unsigned i = 0; i < 3; i++) {
                p = next_miss(&r);
                CHECK(p.iova == area_iova(0, 2) && p.perm == 3);
                channel_answer(0);
                CHECK(!is_readable(r.rings[0].err));
                CHECK_EQ(iotlb_update(&r, p.iova, PAGE, 1), 0);
        }
        PUMP_UNTIL(&r, channel_poll(&p));
        CHECK(p.type == VHK_IOTLB_ACCESS_FAIL && p.iova == area_iova(0, 2) && p.perm == 3);
        channel_answer(1);
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));
        CHECK_EQ(ring_stop(&r, 0), 0);
        iotlb_close(&r);
}

/* Of no use at first, but then. */
TEST(h30_answered_for_another_page_and_late) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        for (unsigned i = 8; i < 14; i++)
                CHECK_EQ(iotlb_update(&r, area_iova(0, i), PAGE, 3), 0);
        next_miss(&r);
        channel_answer(0);
        pump(&r);
        CHECK(!is_readable(r.rings[0].err));
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), PAGE, 2), 0);        /* cannot be read */
        CHECK_EQ(next_miss(&r).iova, area_iova(0, 0));
        channel_answer(0);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), RING_BYTES, 3), 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        iotlb_close(&r);
}

TEST(h30_answered_after_an_invalidation) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        next_miss(&r);
        CHECK_EQ(iotlb_invalidate(&r, 0, 0), 0);
        channel_answer(0);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), PAGE, 3), 0);
        CHECK_EQ(iotlb_invalidate(&r, area_iova(0, 0), PAGE), 0);
        ring_add(&r, 0);
        SERVE_UNTIL(&r, ring_is_idle(&r, 0));
        iotlb_close(&r);
}

TEST(h30_the_channel_goes) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        next_miss(&r);
        vhk_conn_done(&channel);
        pump(&r);
        CHECK(!is_readable(r.rings[0].err));
        channel_open(&r);
        CHECK_EQ(next_miss(&r).iova, area_iova(0, 0));                  /* asked again */
        vhk_conn_done(&channel);
        pump(&r);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), RING_BYTES, 3), 0);  /* without being asked */
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(iotlb_invalidate(&r, area_iova(0, 4), PAGE), 0);
        ring_add(&r, 0);
        pump(&r);
        CHECK(!ring_is_idle(&r, 0));
        CHECK_EQ(iotlb_update(&r, area_iova(0, 4), PAGE, 3), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        iotlb_close(&r);
}

TEST(two_rings_ask_once) {
        static struct rig r;
        struct vhk_p_iotlb p;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 2);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), 2 * RING_BYTES, 3), 0);
        PUMP_UNTIL(&r, channel_poll(&p) && p.iova == area_iova(1, 0));
        channel_answer(0);
        channel_answer(0);
        CHECK_EQ(iotlb_invalidate(&r, area_iova(0, 4), PAGE), 0);
        uint64_t *shared = (uint64_t *)(r.rings[0].area + BUFFERS);
        struct iovec sg[2] = { { &shared[0], 8 }, { &shared[1], 8 } };
        for (unsigned i = 0; i < 2; i++) {
                CHECK_OK(vhk_drvring_add(r.rings[i].drv, sg, 1, 1, shared));
                r.rings[i].n_added++;
                vhk_drvring_publish(r.rings[i].drv);
                vhk_notify_fd(r.rings[i].kick);
        }
        p = next_miss(&r);
        pump(&r);
        CHECK(!channel_poll(&(struct vhk_p_iotlb){ 0 }));
        CHECK_EQ(iotlb_update(&r, p.iova, PAGE, 3), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0) && ring_is_idle(&r, 1));
        CHECK(!channel_poll(&p));
        iotlb_close(&r);
}

/* Whatever is not the answer that is due ends the channel, and not the session. */
TEST(h38_wrong_answers) {
        static const struct vhk_hdr wrong[] = {
                { VHK_BE_CONFIG_CHANGE_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 }, { 99, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 },
                { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION, 8 }, { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY | VHK_HDR_NEED_REPLY, 8 },
                { VHK_BE_IOTLB_MSG, 2 | VHK_HDR_REPLY, 8 }, { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 4 },
                { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 16 }, { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 0 },
                { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, UINT32_MAX },
        };
        static const uint8_t zeroes[16];
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        for (unsigned i = 0; i < VHK_N(wrong); i++) {
                int k;
                next_miss(&r);
                CHECK_EQ(send(channel.fd, &wrong[i], sizeof(wrong[i]), MSG_NOSIGNAL), sizeof(wrong[i]));
                CHECK(send(channel.fd, zeroes, VHK_MIN(wrong[i].size, 16u), MSG_NOSIGNAL) >= 0);
                pump(&r);
                while ((k = vhk_conn_receive(&channel)) == VHK_CONN_HEADER)
                        ;
                CHECK(k == VHK_CONN_EOF || k == -ECONNRESET);
                CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
                channel_open(&r);                                       /* asked again */
        }
        CHECK(!is_readable(r.rings[0].err));
        ring_add(&r, 0);
        SERVE_UNTIL(&r, ring_is_idle(&r, 0));
        iotlb_close(&r);
}

/* A descriptor where none belongs, half an answer, and none at all. */
TEST(h38_more_than_an_answer_and_less) {
        static const struct vhk_hdr ack = { VHK_BE_IOTLB_MSG, VHK_HDR_VERSION | VHK_HDR_REPLY, 8 };
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, 1);
        next_miss(&r);
        CHECK_OK(vhk_conn_send(&channel, &ack, &(uint64_t){ 0 }, &r.memfd, 1));
        pump(&r);
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_EOF);
        channel_open(&r);
        next_miss(&r);
        CHECK_EQ(send(channel.fd, &ack, 7, MSG_NOSIGNAL), 7);
        vhk_conn_done(&channel);                                        /* in the middle of it */
        pump(&r);
        channel_open(&r);
        next_miss(&r);
        PUMP_UNTIL(&r, strstr(r.log, "not answered in time"));
        channel_answer(0);                                              /* after the time limit: it is matched still */
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), RING_BYTES, 3), 0);
        pump(&r);
        CHECK(fe_get(&r, VHK_FE_GET_FEATURES));
        CHECK_EQ(vhk_conn_receive(&channel), VHK_CONN_AGAIN);           /* open */
        iotlb_close(&r);
}

/* ---- invalidations ---- */

static void hold_one(struct rig *r) {
        CHECK_EQ(iotlb_update(r, area_iova(0, 0), RING_BYTES, 3), 0);
        r->dev.hold = true;
        ring_add(r, 0);
        PUMP_UNTIL(r, r->dev.n_held == 1);
}

/* It is answered when the request that uses it is done; that still finds the used ring where it was. */
TEST(invalidated_while_in_use) {
        static const struct { uint64_t iova, len; } ranges[] = {
                { GPA + BUFFERS, PAGE }, { GPA, PAGE }, { GPA + 2 * PAGE, 8 }, { 0, 0 }, { 0, UINT64_MAX }, { GPA, RING_BYTES },
        };
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .n_queues = 0 }, 1);
        for (unsigned i = 0; i < VHK_N(ranges); i++) {
                struct vhk_p_iotlb p = { .iova = ranges[i].iova, .len = ranges[i].len, .type = VHK_IOTLB_INVALIDATE };
                uint64_t x = 9;
                hold_one(&r);
                fe_send(&r, VHK_FE_IOTLB_MSG, 0, &p, sizeof(p), NULL, 0);
                pump(&r);
                CHECK_EQ(vhk_conn_receive(&r.fe), VHK_CONN_AGAIN);
                r.dev.hold = false;
                dev_release(&r.dev);
                CHECK_EQ(fe_receive(&r, VHK_FE_IOTLB_MSG, &x, sizeof(x)), 8);
                CHECK_EQ(x, 0);
                CHECK(ring_is_idle(&r, 0));                             /* published before the answer */
                CHECK_EQ(iotlb_invalidate(&r, ranges[i].iova, ranges[i].len), 0);
                ring_add(&r, 0);
                SERVE_UNTIL(&r, ring_is_idle(&r, 0));
        }
        iotlb_close(&r);
}

/* Refused at the time limit, and the next one knows that the request is still there. */
TEST(invalidated_and_not_given_back) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, 1);
        hold_one(&r);
        CHECK_EQ(iotlb_invalidate(&r, area_iova(0, 4), PAGE), 1);
        CHECK_EQ(iotlb_invalidate(&r, area_iova(0, 4), PAGE), 1);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 4), PAGE, 3), 0);
        r.dev.hold = false;
        dev_release(&r.dev);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(iotlb_invalidate(&r, area_iova(0, 4), PAGE), 0);
        CHECK_EQ(iotlb_invalidate(&r, area_iova(0, 4), PAGE), 0);
        ring_add(&r, 0);
        SERVE_UNTIL(&r, ring_is_idle(&r, 0));
        iotlb_close(&r);
}

TEST(h29_whatever_comes) {
        static const struct { uint64_t iova, len, user_addr; uint8_t perm, type; } bad[] = {
                { GPA, 0, 0, 3, VHK_IOTLB_UPDATE }, { UINT64_MAX, 2, 0, 3, VHK_IOTLB_UPDATE }, { 0, UINT64_MAX, 0, 3, VHK_IOTLB_UPDATE },
                { GPA, PAGE, MEM_BYTES, 3, VHK_IOTLB_UPDATE }, { GPA, 2 * PAGE, MEM_BYTES - PAGE, 3, VHK_IOTLB_UPDATE },
                { GPA, PAGE, 0, 0, VHK_IOTLB_UPDATE }, { GPA, PAGE, 0, 4, VHK_IOTLB_UPDATE }, { GPA, PAGE, 0, 0xff, VHK_IOTLB_UPDATE },
                { GPA, PAGE, 0, 3, 0 }, { GPA, PAGE, 0, 3, VHK_IOTLB_MISS }, { GPA, PAGE, 0, 3, VHK_IOTLB_ACCESS_FAIL }, { GPA, PAGE, 0, 3, 99 },
        };
        static struct rig r;

        /* the ring misses a translation all the while: that must not time out on a slow machine */
        iotlb_open(&r, (struct vhk_backend_options){ .limit_ns = UINT64_C(600000000000) }, 1);
        for (unsigned i = 0; i < VHK_N(bad); i++)
                CHECK_EQ(iotlb_send(&r, bad[i].type, bad[i].iova, bad[i].len, (uint64_t)(uintptr_t)r.mem + bad[i].user_addr, bad[i].perm), 1);
        for (uint64_t i = 0; i < 10000; i++)            /* more than are kept, each apart from the others */
                CHECK_EQ(iotlb_send(&r, VHK_IOTLB_UPDATE, i * 2 * PAGE + (UINT64_C(1) << 40), PAGE, (uint64_t)(uintptr_t)r.mem, 3), 0);
        for (uint64_t i = 0; i < 100; i++)              /* overlapping */
                CHECK_EQ(iotlb_send(&r, VHK_IOTLB_UPDATE, GPA + i, MEM_BYTES - 100, (uint64_t)(uintptr_t)r.mem + i, 1 + i % 3), 0);
        ring_add(&r, 0);
        SERVE_UNTIL(&r, ring_is_idle(&r, 0));
        iotlb_close(&r);
}

/* ---- other memory, other address spaces ---- */

TEST(memory_changes) {
        static struct rig r;

        iotlb_open(&r, (struct vhk_backend_options){ .limit_ns = LIMIT_SHORT }, 1);
        CHECK_EQ(iotlb_memory(&r, VHK_FE_REM_MEM_REG, 0, MEM_BYTES), 0);        /* stalled in its areas */
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), PAGE, 3), 1);                /* to nowhere */
        CHECK_EQ(iotlb_memory(&r, VHK_FE_ADD_MEM_REG, 0, MEM_BYTES / 2), 0);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 0), RING_BYTES, 3), 0);
        CHECK_EQ(iotlb_memory(&r, VHK_FE_ADD_MEM_REG, MEM_BYTES / 2, MEM_BYTES / 2), 0);        /* translations stay */
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(iotlb_memory(&r, VHK_FE_REM_MEM_REG, 0, MEM_BYTES / 2), 0);    /* go with what they lead to */
        PUMP_UNTIL(&r, is_readable(r.rings[0].err));                            /* and nothing comes in time */
        ring_stop(&r, 0);
        iotlb_close(&r);
}

static struct vhk_p_region gpa_region(uint64_t uva) {
        return (struct vhk_p_region){ GPA, MEM_BYTES, uva, 0 };
}

/* GPA_ADDRESSES: user addresses are guest addresses, in regions, rings and updates. */
TEST(guest_addresses) {
        static struct rig r;
        struct vhk_p_mem_region_single bad = { .region = { gpa_region(GPA + PAGE) } }, good = { .region = { gpa_region(GPA) } };

        for (unsigned platform = 0; platform < 2; platform++) {
                rig_open(&r, &(struct vhk_backend_options){ .features_offer = PLATFORM, .protocol_offer = VHK_BIT(VHK_PF_GPA_ADDRESSES) }, NULL);
                fe_connect(&r);
                fe_negotiate(&r, FEATURES | (platform ? PLATFORM : 0), PROTOCOL | VHK_BIT(VHK_PF_GPA_ADDRESSES));
                CHECK_EQ(fe_ask(&r, VHK_FE_ADD_MEM_REG, &bad, sizeof(bad), r.memfd), 1);
                CHECK_EQ(fe_ask(&r, VHK_FE_ADD_MEM_REG, &good, sizeof(good), r.memfd), 0);
                if (platform) {
                        CHECK_EQ(iotlb_update(&r, GPA, MEM_BYTES, 3), 1);       /* a user address */
                        CHECK_EQ(iotlb_send(&r, VHK_IOTLB_UPDATE, GPA, MEM_BYTES, GPA, 3), 0);
                }
                iotlb_ring(&r, 0);
                ring_add(&r, 0);
                PUMP_UNTIL(&r, ring_is_idle(&r, 0));
                CHECK_EQ(ring_stop(&r, 0), 1);
                if (!platform) {
                        struct vhk_p_vring_addr a = ring_addr(&r, 0);
                        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
                        CHECK_EQ(fe_ask_fd(&r, VHK_FE_SET_VRING_KICK, 0, r.rings[0].kick), 1);
                }
                rig_close(&r);
        }
}

/* The used ring is marked where it is in guest memory, not at its I/O address. */
TEST(dirty_log) {
        static struct rig r;
        struct vhk_p_log log = { .mmap_size = PAGE, .mmap_offset = 0 };
        uint64_t reply[2];
        int fd = memfd_create("log", MFD_CLOEXEC);

        CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
        uint8_t *bits = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(bits != MAP_FAILED);
        rig_open(&r, &(struct vhk_backend_options){ .features_offer = PLATFORM }, NULL);
        iotlb_connect(&r, VHK_BIT(VHK_PF_LOG_SHMFD));
        CHECK_EQ(iotlb_update(&r, GPA, MEM_BYTES, 3), 0);
        iotlb_ring(&r, 0);
        CHECK_EQ(fe_ask_u64(&r, VHK_FE_SET_FEATURES, FEATURES | PLATFORM | VHK_BIT(VHK_F_LOG_ALL)), 0);
        fe_send(&r, VHK_FE_SET_LOG_BASE, 0, &log, sizeof(log), &fd, 1);
        CHECK(fe_receive(&r, VHK_FE_SET_LOG_BASE, reply, sizeof(reply)) > 0);
        struct vhk_p_vring_addr a = { 0, VHK_VRING_F_LOG, GPA, GPA + 2 * PAGE, GPA + PAGE, GPA + 2 * PAGE };
        CHECK_EQ(fe_ask(&r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        ring_add(&r, 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        CHECK_EQ(ring_stop(&r, 0), 1);
        CHECK_EQ(bits[0], 1u << 2 | 1u << 4);           /* used ring, buffer */
        for (unsigned i = 1; i < PAGE; i++)
                CHECK_EQ(bits[i], 0);
        munmap(bits, PAGE);
        close(fd);
        iotlb_close(&r);
}

/* A guest's ring of 1024: its parts are ranges of I/O addresses on pages in falling order. The
 * driver has such a view of its own. */
#define N_PIECES 8u
#define BIG 1024u
#define PIECES UINT64_C(0x700000000000)

static uint64_t piece_offset(unsigned i) { return RING_BYTES + (15u - i) * PAGE; }      /* in memory, of page @i: in the part of ring 1 */

static int64_t update_piece(struct rig *r, unsigned i) {
        return iotlb_send(r, VHK_IOTLB_UPDATE, PIECES + i * PAGE, PAGE, (uint64_t)(uintptr_t)r->mem + piece_offset(i), 3);
}

static uint8_t *ring_in_pieces(struct rig *r) {
        struct vhk_p_vring_addr a = { .desc = PIECES, .avail = PIECES + 4 * PAGE, .used = PIECES + 5 * PAGE };
        uint8_t *at = mmap(NULL, N_PIECES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        CHECK(at != MAP_FAILED);
        for (unsigned i = 0; i < N_PIECES; i++)
                CHECK(mmap(at + i * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->memfd, (off_t)piece_offset(i)) != MAP_FAILED);
        ring_make(r, 0);
        struct ring *g = &r->rings[0];
        vhk_drvring_free(g->drv);
        struct vhk_drvring_setup s = {
                .num = BIG, .event_idx = true, .desc = at, .avail = at + 4 * PAGE, .used = at + 5 * PAGE, .gpa = to_gpa, .gpa_arg = r,
        };
        memset(at, 0, N_PIECES * PAGE);
        CHECK_OK(vhk_drvring_new(&s, &g->drv));
        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_CALL, 0, g->call), 0);
        CHECK_EQ(fe_ask_fd(r, VHK_FE_SET_VRING_ERR, 0, g->err), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_NUM, 0, BIG), 0);
        CHECK_EQ(fe_ask_ring(r, VHK_FE_SET_VRING_BASE, 0, 0), 0);
        CHECK_EQ(fe_ask(r, VHK_FE_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
        return at;
}

static void eight_requests(struct rig *r) {
        for (unsigned i = 0; i < 8; i++)
                ring_add(r, 0);
        PUMP_UNTIL(r, ring_is_idle(r, 0));
}

TEST(a_ring_larger_than_a_page_may_lie_on_pages_in_any_order) {
        if (getenv("VHK_TEST_SLOW"))
                SKIP("cannot: valgrind has no mremap(2) with an old size of 0");
        static struct rig r;
        struct vhk_device_ops ops = dev_ops;

        ops.queue_size_max = BIG;
        rig_open(&r, &(struct vhk_backend_options){ .features_offer = PLATFORM }, &ops);
        iotlb_connect(&r, 0);
        uint8_t *at = ring_in_pieces(&r);
        CHECK_EQ(iotlb_update(&r, area_iova(0, 4), PAGE, 3), 0);        /* buffers */
        for (unsigned i = 0; i < N_PIECES; i++)
                CHECK_EQ(update_piece(&r, i), 0);
        ring_go(&r, 0);
        struct vhk_mem_counters before = vhk_mem_counters();
        for (unsigned i = 0; i < 300; i++)                              /* past the ring's end, through all pieces */
                eight_requests(&r);
        /* without one of them it waits, and goes on when that is there again; somewhere else,
         * too */
        CHECK_EQ(iotlb_invalidate(&r, PIECES + 6 * PAGE, PAGE), 0);
        ring_add(&r, 0);
        struct vhk_p_iotlb p = next_miss(&r);
        CHECK_EQ(p.iova, PIECES + 6 * PAGE);
        uint8_t *other = (uint8_t *)r.mem + 3 * RING_BYTES;
        memcpy(other, at + 6 * PAGE, PAGE);
        CHECK(mmap(at + 6 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r.memfd, 3 * RING_BYTES) != MAP_FAILED);
        channel_answer(0);
        CHECK_EQ(iotlb_send(&r, VHK_IOTLB_UPDATE, PIECES + 6 * PAGE, PAGE, (uint64_t)(uintptr_t)other, 3), 0);
        PUMP_UNTIL(&r, ring_is_idle(&r, 0));
        for (unsigned i = 0; i < 300; i++)
                eight_requests(&r);
        CHECK_EQ(vhk_mem_counters().mmaps, before.mmaps);
        CHECK_EQ(ring_stop(&r, 0), 300 * 16 + 1);
        munmap(at, N_PIECES * PAGE);
        iotlb_close(&r);
}
