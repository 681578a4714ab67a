/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * features.def against a second list, typed from the virtio specification and from vhost-user.rst in the order of the bits, and
 * against the kernel's headers wherever they have the constant.
 */
#include "base/test.h"

#include <linux/vhost_types.h>
#include <linux/virtio_9p.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_crypto.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_gpio.h>
#include <linux/virtio_gpu.h>
#include <linux/virtio_i2c.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>
#include <linux/virtio_vsock.h>

#include <vhostkit/frontend.h>

#include "wire/wire.h"

/* "-" where a bit has no name; the list begins at bit @first. */
static void check_list(uint32_t id, unsigned first, const char *list) {
        char copy[1024], *save = NULL;
        unsigned bit = first;

        snprintf(copy, sizeof(copy), "%s", list);
        for (char *name = strtok_r(copy, " ", &save); name; name = strtok_r(NULL, " ", &save), bit++) {
                const char *ours = id == UINT32_MAX ? vhk_protocol_feature_name(bit) : vhk_feature_name(id, bit);
                if (!strcmp(name, "-"))
                        CHECK_MSG(!ours, "device %u bit %u is %s, expected none", id, bit, ours);
                else
                        CHECK_MSG(ours && !strcmp(ours, name), "device %u bit %u is %s, expected %s", id, bit, ours ? ours : "none", name);
        }
        for (; !first && id != UINT32_MAX && bit < VHK_F_RING_FIRST; bit++)
                CHECK_MSG(!vhk_feature_name(id, bit), "device %u bit %u has a name", id, bit);
}

TEST(virtio_bits_are_the_specifications) {
        check_list(0, 24, "NOTIFY_ON_EMPTY - LOG_ALL ANY_LAYOUT INDIRECT_DESC EVENT_IDX PROTOCOL_FEATURES - VERSION_1 ACCESS_PLATFORM "
                          "RING_PACKED IN_ORDER ORDER_PLATFORM SR_IOV NOTIFICATION_DATA NOTIF_CONFIG_DATA RING_RESET ADMIN_VQ - SUSPEND");
        check_list(0, 0, "- - - - - - - - - - - - - - - - - - - - - - - -");
        check_list(1, 0, "CSUM GUEST_CSUM CTRL_GUEST_OFFLOADS MTU - MAC GSO GUEST_TSO4 GUEST_TSO6 GUEST_ECN GUEST_UFO HOST_TSO4 HOST_TSO6 "
                         "HOST_ECN HOST_UFO MRG_RXBUF STATUS CTRL_VQ CTRL_RX CTRL_VLAN CTRL_RX_EXTRA GUEST_ANNOUNCE MQ CTRL_MAC_ADDR");
        check_list(1, 50, "DEVICE_STATS HASH_TUNNEL VQ_NOTF_COAL NOTF_COAL GUEST_USO4 GUEST_USO6 HOST_USO HASH_REPORT - GUEST_HDRLEN RSS "
                          "RSC_EXT STANDBY SPEED_DUPLEX RSS_CONTEXT GUEST_UDP_TUNNEL_GSO GUEST_UDP_TUNNEL_GSO_CSUM HOST_UDP_TUNNEL_GSO "
                          "HOST_UDP_TUNNEL_GSO_CSUM OUT_NET_HEADER IPSEC -");
        check_list(2, 0, "BARRIER SIZE_MAX SEG_MAX - GEOMETRY RO BLK_SIZE SCSI - FLUSH TOPOLOGY CONFIG_WCE MQ DISCARD WRITE_ZEROES "
                         "LIFETIME SECURE_ERASE ZONED");
        check_list(3, 0, "SIZE MULTIPORT EMERG_WRITE");
        check_list(4, 0, "-");
        check_list(5, 0, "MUST_TELL_HOST STATS_VQ DEFLATE_ON_OOM FREE_PAGE_HINT PAGE_POISON REPORTING");
        check_list(8, 0, "INOUT HOTPLUG CHANGE T10_PI");
        check_list(16, 0, "VIRGL EDID RESOURCE_UUID RESOURCE_BLOB CONTEXT_INIT BLOB_ALIGNMENT");
        check_list(17, 0, "ALARM");
        check_list(19, 0, "STREAM SEQPACKET NO_IMPLIED_STREAM");
        check_list(20, 0, "REVISION_1 CIPHER_STATELESS_MODE HASH_STATELESS_MODE MAC_STATELESS_MODE AEAD_STATELESS_MODE AKCIPHER_STATELESS_MODE");
        check_list(23, 0, "INPUT_RANGE DOMAIN_RANGE MAP_UNMAP BYPASS PROBE MMIO BYPASS_CONFIG");
        check_list(24, 0, "ACPI_PXM UNPLUGGED_INACCESSIBLE PERSISTENT_SUSPEND");
        check_list(25, 0, "CTLS");
        check_list(26, 0, "NOTIFICATION");
        check_list(27, 0, "SHMEM_REGION");
        check_list(32, 0, "P2A_CHANNELS SHARED_MEMORY");
        check_list(34, 0, "ZERO_LENGTH_REQUEST");
        check_list(36, 0, "CAN_CLASSIC CAN_FD RTR_FRAMES LATE_TX_ACK");
        check_list(40, 0, "VND_HCI MSFT_EXT AOSP_EXT");
        check_list(41, 0, "IRQ");
}

TEST(protocol_bits_are_the_specifications) {
        check_list(UINT32_MAX, 0, "MQ LOG_SHMFD RARP REPLY_ACK NET_MTU BACKEND_REQ CROSS_ENDIAN CRYPTO_SESSION PAGEFAULT CONFIG "
                                  "BACKEND_SEND_FD HOST_NOTIFIER INFLIGHT_SHMFD RESET_DEVICE INBAND_NOTIFICATIONS CONFIGURE_MEM_SLOTS STATUS "
                                  "XEN_MMAP SHARED_OBJECT DEVICE_STATE GET_VRING_BASE_INFLIGHT GPA_ADDRESSES SHMEM GET_VRING_BASE_SKIP_DRAIN");
        for (unsigned bit = 24; bit < 70; bit++)
                CHECK(!vhk_protocol_feature_name(bit));
        for (unsigned bit = VHK_F_RING_LAST + 1; bit < 70; bit++)
                CHECK(bit == VHK_F_SUSPEND || !vhk_feature_name(0, bit));
        for (unsigned bit = 64; bit < 200; bit++)
                CHECK(!vhk_feature_name(0, bit) && !vhk_protocol_feature_name(bit));
        CHECK(!vhk_feature_name(1, UINT32_MAX));
}

/* A device's own bits, and behind them the ring's. */
TEST(devices_know_the_ring_bits_too) {
        CHECK_STR(vhk_feature_name(VHK_ID_BLK, 5), "RO");
        CHECK_STR(vhk_feature_name(VHK_ID_BLK, 29), "EVENT_IDX");
        CHECK_STR(vhk_feature_name(999, 32), "VERSION_1");
        CHECK(!vhk_feature_name(999, 5));
}

TEST(device_names) {
        static const struct { uint32_t id; const char *name; } list[] = {
                { 1, "net" }, { 2, "block" }, { 3, "console" }, { 4, "rng" }, { 5, "balloon" }, { 8, "scsi" }, { 9, "9p" }, { 16, "gpu" },
                { 18, "input" }, { 19, "vsock" }, { 20, "crypto" }, { 23, "iommu" }, { 24, "mem" }, { 25, "sound" }, { 26, "fs" },
                { 27, "pmem" }, { 32, "scmi" }, { 34, "i2c" }, { 36, "can" }, { 41, "gpio" }, { 45, "spi" }, { 46, "tee" },
                { 47, "cpu-balloon" }, { 48, "media" }, { 49, "usb" },
        };

        for (unsigned i = 0; i < VHK_N(list); i++)
                CHECK_STR(vhk_device_name(list[i].id), list[i].name);
        CHECK(!vhk_device_name(0));
        CHECK(!vhk_device_name(10000));
        CHECK(!vhk_device_name(UINT32_MAX));
}

/* As far as the headers of this machine have the constant. */
TEST(bits_are_the_kernels) {
#define SAME(ours, theirs) CHECK_EQ(ours, theirs)
#ifdef VIRTIO_F_NOTIFY_ON_EMPTY
        SAME(VHK_F_NOTIFY_ON_EMPTY, VIRTIO_F_NOTIFY_ON_EMPTY);
#endif
#ifdef VHOST_F_LOG_ALL
        SAME(VHK_F_LOG_ALL, VHOST_F_LOG_ALL);
#endif
#ifdef VIRTIO_F_ANY_LAYOUT
        SAME(VHK_F_ANY_LAYOUT, VIRTIO_F_ANY_LAYOUT);
#endif
#ifdef VIRTIO_RING_F_INDIRECT_DESC
        SAME(VHK_F_INDIRECT_DESC, VIRTIO_RING_F_INDIRECT_DESC);
#endif
#ifdef VIRTIO_RING_F_EVENT_IDX
        SAME(VHK_F_EVENT_IDX, VIRTIO_RING_F_EVENT_IDX);
#endif
#ifdef VIRTIO_F_VERSION_1
        SAME(VHK_F_VERSION_1, VIRTIO_F_VERSION_1);
#endif
#ifdef VIRTIO_F_ACCESS_PLATFORM
        SAME(VHK_F_ACCESS_PLATFORM, VIRTIO_F_ACCESS_PLATFORM);
#endif
#ifdef VIRTIO_F_RING_PACKED
        SAME(VHK_F_RING_PACKED, VIRTIO_F_RING_PACKED);
#endif
#ifdef VIRTIO_F_IN_ORDER
        SAME(VHK_F_IN_ORDER, VIRTIO_F_IN_ORDER);
#endif
#ifdef VIRTIO_F_ORDER_PLATFORM
        SAME(VHK_F_ORDER_PLATFORM, VIRTIO_F_ORDER_PLATFORM);
#endif
#ifdef VIRTIO_F_SR_IOV
        SAME(VHK_F_SR_IOV, VIRTIO_F_SR_IOV);
#endif
#ifdef VIRTIO_F_RING_RESET
        SAME(VHK_F_RING_RESET, VIRTIO_F_RING_RESET);
#endif
#ifdef VIRTIO_NET_F_CSUM
        SAME(VHK_F_NET_CSUM, VIRTIO_NET_F_CSUM);
#endif
#ifdef VIRTIO_NET_F_GUEST_CSUM
        SAME(VHK_F_NET_GUEST_CSUM, VIRTIO_NET_F_GUEST_CSUM);
#endif
#ifdef VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
        SAME(VHK_F_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
#endif
#ifdef VIRTIO_NET_F_MTU
        SAME(VHK_F_NET_MTU, VIRTIO_NET_F_MTU);
#endif
#ifdef VIRTIO_NET_F_MAC
        SAME(VHK_F_NET_MAC, VIRTIO_NET_F_MAC);
#endif
#ifdef VIRTIO_NET_F_GSO
        SAME(VHK_F_NET_GSO, VIRTIO_NET_F_GSO);
#endif
#ifdef VIRTIO_NET_F_GUEST_TSO4
        SAME(VHK_F_NET_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO4);
#endif
#ifdef VIRTIO_NET_F_GUEST_TSO6
        SAME(VHK_F_NET_GUEST_TSO6, VIRTIO_NET_F_GUEST_TSO6);
#endif
#ifdef VIRTIO_NET_F_GUEST_ECN
        SAME(VHK_F_NET_GUEST_ECN, VIRTIO_NET_F_GUEST_ECN);
#endif
#ifdef VIRTIO_NET_F_GUEST_UFO
        SAME(VHK_F_NET_GUEST_UFO, VIRTIO_NET_F_GUEST_UFO);
#endif
#ifdef VIRTIO_NET_F_HOST_TSO4
        SAME(VHK_F_NET_HOST_TSO4, VIRTIO_NET_F_HOST_TSO4);
#endif
#ifdef VIRTIO_NET_F_HOST_TSO6
        SAME(VHK_F_NET_HOST_TSO6, VIRTIO_NET_F_HOST_TSO6);
#endif
#ifdef VIRTIO_NET_F_HOST_ECN
        SAME(VHK_F_NET_HOST_ECN, VIRTIO_NET_F_HOST_ECN);
#endif
#ifdef VIRTIO_NET_F_HOST_UFO
        SAME(VHK_F_NET_HOST_UFO, VIRTIO_NET_F_HOST_UFO);
#endif
#ifdef VIRTIO_NET_F_MRG_RXBUF
        SAME(VHK_F_NET_MRG_RXBUF, VIRTIO_NET_F_MRG_RXBUF);
#endif
#ifdef VIRTIO_NET_F_STATUS
        SAME(VHK_F_NET_STATUS, VIRTIO_NET_F_STATUS);
#endif
#ifdef VIRTIO_NET_F_CTRL_VQ
        SAME(VHK_F_NET_CTRL_VQ, VIRTIO_NET_F_CTRL_VQ);
#endif
#ifdef VIRTIO_NET_F_CTRL_RX
        SAME(VHK_F_NET_CTRL_RX, VIRTIO_NET_F_CTRL_RX);
#endif
#ifdef VIRTIO_NET_F_CTRL_VLAN
        SAME(VHK_F_NET_CTRL_VLAN, VIRTIO_NET_F_CTRL_VLAN);
#endif
#ifdef VIRTIO_NET_F_CTRL_RX_EXTRA
        SAME(VHK_F_NET_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_RX_EXTRA);
#endif
#ifdef VIRTIO_NET_F_GUEST_ANNOUNCE
        SAME(VHK_F_NET_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_ANNOUNCE);
#endif
#ifdef VIRTIO_NET_F_MQ
        SAME(VHK_F_NET_MQ, VIRTIO_NET_F_MQ);
#endif
#ifdef VIRTIO_NET_F_CTRL_MAC_ADDR
        SAME(VHK_F_NET_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_MAC_ADDR);
#endif
#ifdef VIRTIO_NET_F_NOTF_COAL
        SAME(VHK_F_NET_NOTF_COAL, VIRTIO_NET_F_NOTF_COAL);
#endif
#ifdef VIRTIO_NET_F_HASH_REPORT
        SAME(VHK_F_NET_HASH_REPORT, VIRTIO_NET_F_HASH_REPORT);
#endif
#ifdef VIRTIO_NET_F_RSS
        SAME(VHK_F_NET_RSS, VIRTIO_NET_F_RSS);
#endif
#ifdef VIRTIO_NET_F_RSC_EXT
        SAME(VHK_F_NET_RSC_EXT, VIRTIO_NET_F_RSC_EXT);
#endif
#ifdef VIRTIO_NET_F_STANDBY
        SAME(VHK_F_NET_STANDBY, VIRTIO_NET_F_STANDBY);
#endif
#ifdef VIRTIO_NET_F_SPEED_DUPLEX
        SAME(VHK_F_NET_SPEED_DUPLEX, VIRTIO_NET_F_SPEED_DUPLEX);
#endif
#ifdef VIRTIO_BLK_F_BARRIER
        SAME(VHK_F_BLK_BARRIER, VIRTIO_BLK_F_BARRIER);
#endif
#ifdef VIRTIO_BLK_F_SIZE_MAX
        SAME(VHK_F_BLK_SIZE_MAX, VIRTIO_BLK_F_SIZE_MAX);
#endif
#ifdef VIRTIO_BLK_F_SEG_MAX
        SAME(VHK_F_BLK_SEG_MAX, VIRTIO_BLK_F_SEG_MAX);
#endif
#ifdef VIRTIO_BLK_F_GEOMETRY
        SAME(VHK_F_BLK_GEOMETRY, VIRTIO_BLK_F_GEOMETRY);
#endif
#ifdef VIRTIO_BLK_F_RO
        SAME(VHK_F_BLK_RO, VIRTIO_BLK_F_RO);
#endif
#ifdef VIRTIO_BLK_F_BLK_SIZE
        SAME(VHK_F_BLK_BLK_SIZE, VIRTIO_BLK_F_BLK_SIZE);
#endif
#ifdef VIRTIO_BLK_F_SCSI
        SAME(VHK_F_BLK_SCSI, VIRTIO_BLK_F_SCSI);
#endif
#ifdef VIRTIO_BLK_F_FLUSH
        SAME(VHK_F_BLK_FLUSH, VIRTIO_BLK_F_FLUSH);
#endif
#ifdef VIRTIO_BLK_F_TOPOLOGY
        SAME(VHK_F_BLK_TOPOLOGY, VIRTIO_BLK_F_TOPOLOGY);
#endif
#ifdef VIRTIO_BLK_F_CONFIG_WCE
        SAME(VHK_F_BLK_CONFIG_WCE, VIRTIO_BLK_F_CONFIG_WCE);
#endif
#ifdef VIRTIO_BLK_F_MQ
        SAME(VHK_F_BLK_MQ, VIRTIO_BLK_F_MQ);
#endif
#ifdef VIRTIO_BLK_F_DISCARD
        SAME(VHK_F_BLK_DISCARD, VIRTIO_BLK_F_DISCARD);
#endif
#ifdef VIRTIO_BLK_F_WRITE_ZEROES
        SAME(VHK_F_BLK_WRITE_ZEROES, VIRTIO_BLK_F_WRITE_ZEROES);
#endif
#ifdef VIRTIO_BLK_F_SECURE_ERASE
        SAME(VHK_F_BLK_SECURE_ERASE, VIRTIO_BLK_F_SECURE_ERASE);
#endif
#ifdef VIRTIO_CONSOLE_F_SIZE
        SAME(VHK_F_CONSOLE_SIZE, VIRTIO_CONSOLE_F_SIZE);
#endif
#ifdef VIRTIO_CONSOLE_F_MULTIPORT
        SAME(VHK_F_CONSOLE_MULTIPORT, VIRTIO_CONSOLE_F_MULTIPORT);
#endif
#ifdef VIRTIO_CONSOLE_F_EMERG_WRITE
        SAME(VHK_F_CONSOLE_EMERG_WRITE, VIRTIO_CONSOLE_F_EMERG_WRITE);
#endif
#ifdef VIRTIO_BALLOON_F_MUST_TELL_HOST
        SAME(VHK_F_BALLOON_MUST_TELL_HOST, VIRTIO_BALLOON_F_MUST_TELL_HOST);
#endif
#ifdef VIRTIO_BALLOON_F_STATS_VQ
        SAME(VHK_F_BALLOON_STATS_VQ, VIRTIO_BALLOON_F_STATS_VQ);
#endif
#ifdef VIRTIO_BALLOON_F_DEFLATE_ON_OOM
        SAME(VHK_F_BALLOON_DEFLATE_ON_OOM, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
#endif
#ifdef VIRTIO_BALLOON_F_FREE_PAGE_HINT
        SAME(VHK_F_BALLOON_FREE_PAGE_HINT, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
#endif
#ifdef VIRTIO_BALLOON_F_PAGE_POISON
        SAME(VHK_F_BALLOON_PAGE_POISON, VIRTIO_BALLOON_F_PAGE_POISON);
#endif
#ifdef VIRTIO_BALLOON_F_REPORTING
        SAME(VHK_F_BALLOON_REPORTING, VIRTIO_BALLOON_F_REPORTING);
#endif
#ifdef VIRTIO_SCSI_F_INOUT
        SAME(VHK_F_SCSI_INOUT, VIRTIO_SCSI_F_INOUT);
#endif
#ifdef VIRTIO_SCSI_F_HOTPLUG
        SAME(VHK_F_SCSI_HOTPLUG, VIRTIO_SCSI_F_HOTPLUG);
#endif
#ifdef VIRTIO_SCSI_F_CHANGE
        SAME(VHK_F_SCSI_CHANGE, VIRTIO_SCSI_F_CHANGE);
#endif
#ifdef VIRTIO_SCSI_F_T10_PI
        SAME(VHK_F_SCSI_T10_PI, VIRTIO_SCSI_F_T10_PI);
#endif
#ifdef VIRTIO_GPU_F_VIRGL
        SAME(VHK_F_GPU_VIRGL, VIRTIO_GPU_F_VIRGL);
#endif
#ifdef VIRTIO_GPU_F_EDID
        SAME(VHK_F_GPU_EDID, VIRTIO_GPU_F_EDID);
#endif
#ifdef VIRTIO_GPU_F_RESOURCE_UUID
        SAME(VHK_F_GPU_RESOURCE_UUID, VIRTIO_GPU_F_RESOURCE_UUID);
#endif
#ifdef VIRTIO_GPU_F_RESOURCE_BLOB
        SAME(VHK_F_GPU_RESOURCE_BLOB, VIRTIO_GPU_F_RESOURCE_BLOB);
#endif
#ifdef VIRTIO_GPU_F_CONTEXT_INIT
        SAME(VHK_F_GPU_CONTEXT_INIT, VIRTIO_GPU_F_CONTEXT_INIT);
#endif
#ifdef VIRTIO_VSOCK_F_SEQPACKET
        SAME(VHK_F_VSOCK_SEQPACKET, VIRTIO_VSOCK_F_SEQPACKET);
#endif
#ifdef VIRTIO_IOMMU_F_INPUT_RANGE
        SAME(VHK_F_IOMMU_INPUT_RANGE, VIRTIO_IOMMU_F_INPUT_RANGE);
#endif
#ifdef VIRTIO_IOMMU_F_DOMAIN_RANGE
        SAME(VHK_F_IOMMU_DOMAIN_RANGE, VIRTIO_IOMMU_F_DOMAIN_RANGE);
#endif
#ifdef VIRTIO_IOMMU_F_MAP_UNMAP
        SAME(VHK_F_IOMMU_MAP_UNMAP, VIRTIO_IOMMU_F_MAP_UNMAP);
#endif
#ifdef VIRTIO_IOMMU_F_BYPASS
        SAME(VHK_F_IOMMU_BYPASS, VIRTIO_IOMMU_F_BYPASS);
#endif
#ifdef VIRTIO_IOMMU_F_PROBE
        SAME(VHK_F_IOMMU_PROBE, VIRTIO_IOMMU_F_PROBE);
#endif
#ifdef VIRTIO_IOMMU_F_MMIO
        SAME(VHK_F_IOMMU_MMIO, VIRTIO_IOMMU_F_MMIO);
#endif
#ifdef VIRTIO_IOMMU_F_BYPASS_CONFIG
        SAME(VHK_F_IOMMU_BYPASS_CONFIG, VIRTIO_IOMMU_F_BYPASS_CONFIG);
#endif
#ifdef VIRTIO_MEM_F_ACPI_PXM
        SAME(VHK_F_MEM_ACPI_PXM, VIRTIO_MEM_F_ACPI_PXM);
#endif
#ifdef VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE
        SAME(VHK_F_MEM_UNPLUGGED_INACCESSIBLE, VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
#endif
#ifdef VIRTIO_SCMI_F_P2A_CHANNELS
        SAME(VHK_F_SCMI_P2A_CHANNELS, VIRTIO_SCMI_F_P2A_CHANNELS);
#endif
#ifdef VIRTIO_SCMI_F_SHARED_MEMORY
        SAME(VHK_F_SCMI_SHARED_MEMORY, VIRTIO_SCMI_F_SHARED_MEMORY);
#endif
#ifdef VIRTIO_I2C_F_ZERO_LENGTH_REQUEST
        SAME(VHK_F_I2C_ZERO_LENGTH_REQUEST, VIRTIO_I2C_F_ZERO_LENGTH_REQUEST);
#endif
#ifdef VIRTIO_BT_F_VND_HCI
        SAME(VHK_F_BT_VND_HCI, VIRTIO_BT_F_VND_HCI);
#endif
#ifdef VIRTIO_BT_F_MSFT_EXT
        SAME(VHK_F_BT_MSFT_EXT, VIRTIO_BT_F_MSFT_EXT);
#endif
#ifdef VIRTIO_BT_F_AOSP_EXT
        SAME(VHK_F_BT_AOSP_EXT, VIRTIO_BT_F_AOSP_EXT);
#endif
#ifdef VIRTIO_GPIO_F_IRQ
        SAME(VHK_F_GPIO_IRQ, VIRTIO_GPIO_F_IRQ);
#endif
#ifdef VIRTIO_ID_NET
        SAME(VHK_ID_NET, VIRTIO_ID_NET);
#endif
#ifdef VIRTIO_ID_BLOCK
        SAME(VHK_ID_BLK, VIRTIO_ID_BLOCK);
#endif
#ifdef VIRTIO_ID_CONSOLE
        SAME(VHK_ID_CONSOLE, VIRTIO_ID_CONSOLE);
#endif
#ifdef VIRTIO_ID_RNG
        SAME(VHK_ID_RNG, VIRTIO_ID_RNG);
#endif
#ifdef VIRTIO_ID_BALLOON
        SAME(VHK_ID_BALLOON, VIRTIO_ID_BALLOON);
#endif
#ifdef VIRTIO_ID_RPMSG
        SAME(VHK_ID_RPMSG, VIRTIO_ID_RPMSG);
#endif
#ifdef VIRTIO_ID_SCSI
        SAME(VHK_ID_SCSI, VIRTIO_ID_SCSI);
#endif
#ifdef VIRTIO_ID_9P
        SAME(VHK_ID_9P, VIRTIO_ID_9P);
#endif
#ifdef VIRTIO_ID_RPROC_SERIAL
        SAME(VHK_ID_RPROC_SERIAL, VIRTIO_ID_RPROC_SERIAL);
#endif
#ifdef VIRTIO_ID_CAIF
        SAME(VHK_ID_CAIF, VIRTIO_ID_CAIF);
#endif
#ifdef VIRTIO_ID_GPU
        SAME(VHK_ID_GPU, VIRTIO_ID_GPU);
#endif
#ifdef VIRTIO_ID_CLOCK
        SAME(VHK_ID_RTC, VIRTIO_ID_CLOCK);
#endif
#ifdef VIRTIO_ID_INPUT
        SAME(VHK_ID_INPUT, VIRTIO_ID_INPUT);
#endif
#ifdef VIRTIO_ID_VSOCK
        SAME(VHK_ID_VSOCK, VIRTIO_ID_VSOCK);
#endif
#ifdef VIRTIO_ID_CRYPTO
        SAME(VHK_ID_CRYPTO, VIRTIO_ID_CRYPTO);
#endif
#ifdef VIRTIO_ID_SIGNAL_DIST
        SAME(VHK_ID_SIGNAL_DIST, VIRTIO_ID_SIGNAL_DIST);
#endif
#ifdef VIRTIO_ID_PSTORE
        SAME(VHK_ID_PSTORE, VIRTIO_ID_PSTORE);
#endif
#ifdef VIRTIO_ID_IOMMU
        SAME(VHK_ID_IOMMU, VIRTIO_ID_IOMMU);
#endif
#ifdef VIRTIO_ID_MEM
        SAME(VHK_ID_MEM, VIRTIO_ID_MEM);
#endif
#ifdef VIRTIO_ID_SOUND
        SAME(VHK_ID_SND, VIRTIO_ID_SOUND);
#endif
#ifdef VIRTIO_ID_FS
        SAME(VHK_ID_FS, VIRTIO_ID_FS);
#endif
#ifdef VIRTIO_ID_PMEM
        SAME(VHK_ID_PMEM, VIRTIO_ID_PMEM);
#endif
#ifdef VIRTIO_ID_RPMB
        SAME(VHK_ID_RPMB, VIRTIO_ID_RPMB);
#endif
#ifdef VIRTIO_ID_MAC80211_HWSIM
        SAME(VHK_ID_MAC80211_HWSIM, VIRTIO_ID_MAC80211_HWSIM);
#endif
#ifdef VIRTIO_ID_VIDEO_ENCODER
        SAME(VHK_ID_VIDEO_ENCODER, VIRTIO_ID_VIDEO_ENCODER);
#endif
#ifdef VIRTIO_ID_VIDEO_DECODER
        SAME(VHK_ID_VIDEO_DECODER, VIRTIO_ID_VIDEO_DECODER);
#endif
#ifdef VIRTIO_ID_SCMI
        SAME(VHK_ID_SCMI, VIRTIO_ID_SCMI);
#endif
#ifdef VIRTIO_ID_NITRO_SEC_MOD
        SAME(VHK_ID_NITRO_SEC_MOD, VIRTIO_ID_NITRO_SEC_MOD);
#endif
#ifdef VIRTIO_ID_I2C_ADAPTER
        SAME(VHK_ID_I2C, VIRTIO_ID_I2C_ADAPTER);
#endif
#ifdef VIRTIO_ID_WATCHDOG
        SAME(VHK_ID_WATCHDOG, VIRTIO_ID_WATCHDOG);
#endif
#ifdef VIRTIO_ID_CAN
        SAME(VHK_ID_CAN, VIRTIO_ID_CAN);
#endif
#ifdef VIRTIO_ID_PARAM_SERV
        SAME(VHK_ID_PARAM_SERV, VIRTIO_ID_PARAM_SERV);
#endif
#ifdef VIRTIO_ID_AUDIO_POLICY
        SAME(VHK_ID_AUDIO_POLICY, VIRTIO_ID_AUDIO_POLICY);
#endif
#ifdef VIRTIO_ID_BT
        SAME(VHK_ID_BT, VIRTIO_ID_BT);
#endif
#ifdef VIRTIO_ID_GPIO
        SAME(VHK_ID_GPIO, VIRTIO_ID_GPIO);
#endif
#undef SAME
}
