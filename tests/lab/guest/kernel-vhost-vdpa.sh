# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The simulated vDPA disk and network card, driven by us over vhost-vdpa; the guest's own driver reads what we wrote to the disk.
# Runs: test-kernel-vdpa, vhk
. /lab/kernel-lib.sh

load_vdpa
vdpa_add blk0 vdpasim_blk
vdpa_add net0 vdpasim_net
bind_vhost_vdpa net0
bind_vhost_vdpa blk0
limit=120
run vdpa test-kernel-vdpa
grep -E '^  (disk:|v[12]|5 times)' /tmp/vdpa.out
run probe vhk probe "vhost-vdpa:$node"
grep -q '^device  *block$' /tmp/probe.out || fail "vhk probe does not know the disk"
run ping vhk ping --write --count=3 "vhost-vdpa:$node"
run bench vhk bench --seconds=2 vhost-vdpa:blk0
grep -E '^(IOPS|latency)' /tmp/bench.out
bind_virtio_vdpa blk0
/sbin/dd if="$disk" bs=512 skip=8 count=1 status=none | grep -aq '^vhostkit was here$' || fail "the guest's own driver does not read what we wrote"
witness "vhost-vdpa, vdpa_sim_blk" back-end "reads and writes, IOTLB v1 and v2, batches, stop and restart, suspend" "\`vhost-vdpa:\` of \`vhk_frontend_open()\`"
witness "vhost-vdpa, vdpa_sim_net" back-end "a control ring in its own address space, refusals" "\`vhost-vdpa:\` of \`vhk_frontend_open()\`"
