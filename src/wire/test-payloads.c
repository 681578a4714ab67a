/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The payloads against the kernel's structs of the same meaning, and their sizes against the published numbers. */
#include "base/test.h"

#include <linux/vhost_types.h>

#include "wire/wire.h"

#define SAME_FIELD(ours, field, theirs, their_field)                                                            \
        static_assert(offsetof(struct vhk_p_##ours, field) == offsetof(struct theirs, their_field) &&           \
                      sizeof(((struct vhk_p_##ours *)0)->field) == sizeof(((struct theirs *)0)->their_field), #field)
#define SAME_SIZE(ours, theirs) static_assert(sizeof(struct vhk_p_##ours) == sizeof(struct theirs), #ours)

SAME_SIZE(vring_state, vhost_vring_state);
SAME_FIELD(vring_state, index, vhost_vring_state, index);
SAME_FIELD(vring_state, num, vhost_vring_state, num);
SAME_SIZE(vring_addr, vhost_vring_addr);
SAME_FIELD(vring_addr, index, vhost_vring_addr, index);
SAME_FIELD(vring_addr, flags, vhost_vring_addr, flags);
SAME_FIELD(vring_addr, desc, vhost_vring_addr, desc_user_addr);
SAME_FIELD(vring_addr, used, vhost_vring_addr, used_user_addr);
SAME_FIELD(vring_addr, avail, vhost_vring_addr, avail_user_addr);
SAME_FIELD(vring_addr, log_guest_addr, vhost_vring_addr, log_guest_addr);
SAME_SIZE(iotlb, vhost_iotlb_msg);
SAME_FIELD(iotlb, iova, vhost_iotlb_msg, iova);
SAME_FIELD(iotlb, len, vhost_iotlb_msg, size);
SAME_FIELD(iotlb, user_addr, vhost_iotlb_msg, uaddr);
SAME_FIELD(iotlb, perm, vhost_iotlb_msg, perm);
SAME_FIELD(iotlb, type, vhost_iotlb_msg, type);
SAME_SIZE(region, vhost_memory_region);
SAME_FIELD(region, guest_addr, vhost_memory_region, guest_phys_addr);
SAME_FIELD(region, len, vhost_memory_region, memory_size);
SAME_FIELD(region, user_addr, vhost_memory_region, userspace_addr);
SAME_FIELD(mem_regions, n_regions, vhost_memory, nregions);
static_assert(offsetof(struct vhk_p_mem_regions, regions) == sizeof(struct vhost_memory), "regions");

TEST(constants_are_the_kernels) {
        CHECK_EQ(VHK_VRING_F_LOG, 1u << VHOST_VRING_F_LOG);
        CHECK_EQ(VHK_IOTLB_MISS, VHOST_IOTLB_MISS);
        CHECK_EQ(VHK_IOTLB_UPDATE, VHOST_IOTLB_UPDATE);
        CHECK_EQ(VHK_IOTLB_INVALIDATE, VHOST_IOTLB_INVALIDATE);
        CHECK_EQ(VHK_IOTLB_ACCESS_FAIL, VHOST_IOTLB_ACCESS_FAIL);
        CHECK_EQ(VHK_F_LOG_ALL, VHOST_F_LOG_ALL);
        CHECK_EQ(3, VHOST_ACCESS_RW);
}

/* By hand, from the published layouts: a payload, the protocol features in use, and all its sizes. */
TEST(sizes_are_the_published_ones) {
        const uint64_t xen = VHK_BIT(17);
        const struct { enum vhk_payload payload; uint64_t protocol; uint16_t sizes[34]; } cases[] = {
                { VHK_P_NONE, 0, { 0 } },
                { VHK_P_U64, 0, { 8 } },
                { VHK_P_VRING_STATE, 0, { 8 } },
                { VHK_P_VRING_ADDR, 0, { 40 } },
                { VHK_P_MEM_REGIONS, 0, { 8, 40, 72, 104, 136, 168, 200, 232, 264, 296, 328, 360, 392, 424, 456, 488, 520, 552, 584, 616, 648,
                                           680, 712, 744, 776, 808, 840, 872, 904, 936, 968, 1000, 1032 } },
                { VHK_P_MEM_REGIONS, xen, { 8, 48, 88, 128, 168, 208, 248, 288, 328, 368, 408, 448, 488, 528, 568, 608, 648, 688, 728, 768, 808,
                                             848, 888, 928, 968, 1008, 1048, 1088, 1128, 1168, 1208, 1248, 1288 } },
                { VHK_P_MEM_REGION_SINGLE, 0, { 40 } },
                { VHK_P_MEM_REGION_SINGLE, xen, { 48 } },
                { VHK_P_LOG, 0, { 16 } },
                { VHK_P_IOTLB, 0, { 26, 32 } },
                { VHK_P_VRING_AREA, 0, { 24 } },
                { VHK_P_INFLIGHT, 0, { 20, 24 } },
                { VHK_P_UUID, 0, { 16 } },
                { VHK_P_DEVICE_STATE, 0, { 8 } },
                { VHK_P_MMAP, 0, { 40 } },
                { VHK_P_SHMEM_CONFIG, 0, { 2056 } },
                { VHK_P_CRYPTO_SESSION, 0, { 632, 1072 } },
        };

        for (unsigned i = 0; i < VHK_N(cases); i++) {
                uint32_t largest = 0;

                for (uint32_t size = 0; size <= 3000; size++) {
                        bool listed = cases[i].sizes[0] == size;
                        for (unsigned k = 1; k < VHK_N(cases[i].sizes) && cases[i].sizes[k]; k++)
                                listed |= cases[i].sizes[k] == size;
                        CHECK_MSG(vhk_payload_has_size(cases[i].payload, cases[i].protocol, size) == listed, "payload %d of %u bytes",
                                  cases[i].payload, size);
                        largest = listed ? size : largest;
                }
                CHECK_EQ(vhk_payload_max_size(cases[i].payload, cases[i].protocol), largest);
                CHECK(!vhk_payload_has_size(cases[i].payload, cases[i].protocol, UINT32_MAX));
        }
        for (uint32_t size = 0; size <= 3000; size++)
                CHECK_EQ(vhk_payload_has_size(VHK_P_CONFIG, 0, size), size >= 12 && size <= 268);
        CHECK_EQ(VHK_MAX_PAYLOAD, 2056);
}
