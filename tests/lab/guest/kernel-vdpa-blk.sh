# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The simulated vDPA disk.
. /lab/kernel-lib.sh

load_vdpa
vdpa_add blk0 vdpasim_blk
bind_virtio_vdpa blk0
exercise_disk "$disk" virtio_vdpa
vdpa_del blk0
