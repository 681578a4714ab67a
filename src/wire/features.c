/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Names of feature bits and devices, from features.def. Any thread. */
#include <vhostkit/frontend.h>

#include "wire/wire.h"

static const char *const ring_features[64] = {
#define RING_FEATURE(bit, name) [bit] = #name,
#include "wire/features.def"
};

static const char *const protocol_features[64] = {
#define PROTOCOL_FEATURE(bit, name) [bit] = #name,
#include "wire/features.def"
};

static const char *const devices[64] = {
#define DEVICE(id, key, name) [id] = name,
#include "wire/features.def"
};

static const struct {
        uint8_t virtio_id, bit;
        const char *name;
} device_features[] = {
#define DEVICE_FEATURE(key, bit, name) { VHK_ID_##key, bit, #name },
#include "wire/features.def"
};

VHK_API const char *vhk_feature_name(uint32_t virtio_id, unsigned bit) {
        for (unsigned i = 0; i < VHK_N(device_features); i++)
                if (device_features[i].virtio_id == virtio_id && device_features[i].bit == bit)
                        return device_features[i].name;
        return bit < VHK_N(ring_features) ? ring_features[bit] : NULL;
}

VHK_API const char *vhk_protocol_feature_name(unsigned bit) {
        return bit < VHK_N(protocol_features) ? protocol_features[bit] : NULL;
}

VHK_API const char *vhk_device_name(uint32_t virtio_id) {
        return virtio_id < VHK_N(devices) ? devices[virtio_id] : NULL;
}
