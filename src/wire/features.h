/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Feature bit numbers and device ids, made from features.def. Numbers, not masks: VHK_BIT(VHK_F_VERSION_1). */
#pragma once

enum vhk_virtio_id {
#define DEVICE(id, key, name) VHK_ID_##key = id,
#include "wire/features.def"
};

/* Ring and transport bits are VHK_F_<NAME>, a device's own VHK_F_<DEVICE>_<NAME>. */
enum vhk_feature {
#define RING_FEATURE(bit, name) VHK_F_##name = bit,
#define DEVICE_FEATURE(key, bit, name) VHK_F_##key##_##name = bit,
#include "wire/features.def"
};

enum vhk_protocol_feature {
#define PROTOCOL_FEATURE(bit, name) VHK_PF_##name = bit,
#include "wire/features.def"
};

enum vhk_status_bit {
#define STATUS_BIT(value, name) VHK_STATUS_##name = value,
#include "wire/features.def"
};

/* Bits 24-41 (and SUSPEND) are about rings, transport and session; all others belong to the device
 * type. */
#define VHK_F_RING_FIRST 24u
#define VHK_F_RING_LAST 41u
