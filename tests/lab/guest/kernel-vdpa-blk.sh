# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The simulated vDPA disk: what our programs write through vhost-vdpa is what the kernel's own driver reads, and back.
# Runs: vhk, test-blk-peer
. /lab/kernel-lib.sh

load_vdpa
vdpa_add blk0 vdpasim_blk
bind_vhost_vdpa blk0
run probe vhk probe "vhost-vdpa:$node"
grep -q '^device  *block' /tmp/probe.out || fail "vhk probe names no block device"
grep -q '134217728 bytes' /tmp/probe.out || fail "vhk probe does not know the disk's size"
# An unknown request is an error to the simulator, and not VIRTIO_BLK_S_UNSUPP as virtio has it.
run peer test-blk-peer "vhost-vdpa:$node" --write --except raw_unknown_type

# The kernel's file system, with our driver at work on the same disk before and after it
bind_virtio_vdpa blk0
exercise_disk "$disk"
bind_vhost_vdpa blk0
run ping vhk ping "vhost-vdpa:blk0" --write --count=50 --interval-ms=0
run ping-polling vhk ping "vhost-vdpa:$node" --write --polling --count=50 --interval-ms=0 --size=65536
run bench vhk bench "vhost-vdpa:$node" --seconds=2 --depth=64
bind_virtio_vdpa blk0
check_disk "$disk"

vdpa_del blk0
witness "vhost-vdpa, vdpa_sim_blk" back-end block "\`vhk\`, \`vhk_blk_*()\`"
