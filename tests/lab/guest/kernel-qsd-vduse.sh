# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The other VDUSE block device there is, qemu-storage-daemon's: under the kernel's driver, and under ours through vhost-vdpa.
# Runs: vhk, test-blk-peer, qemu-storage-daemon of qemu-system-common
. /lab/kernel-lib.sh

load_vdpa
truncate -s 64M /tmp/disk.img
qemu-storage-daemon --blockdev file,node-name=f,filename=/tmp/disk.img,discard=unmap \
	--export type=vduse-blk,id=e,node-name=f,name=disk0,writable=on,num-queues=1 &
await "no /dev/vduse/disk0" [ -e /dev/vduse/disk0 ]
vdpa_add disk0 vduse
bind_vhost_vdpa disk0
run probe vhk probe "vhost-vdpa:$node"
grep -q '^device  *block' /tmp/probe.out || fail "vhk probe names no block device"
run peer test-blk-peer "vhost-vdpa:$node" --write
bind_virtio_vdpa disk0
exercise_disk "$disk"
bind_vhost_vdpa disk0
run ping vhk ping "vhost-vdpa:disk0" --write --count=50 --interval-ms=0
run bench vhk bench "vhost-vdpa:$node" --seconds=2 --depth=64
bind_virtio_vdpa disk0
check_disk "$disk"

bind_vhost_vdpa disk0
vdpa_del disk0
kill $!
wait $! || fail "qemu-storage-daemon ended with status $?"
[ ! -e /dev/vduse/disk0 ] || fail "/dev/vduse/disk0 stays"
witness "vhost-vdpa, VDUSE of qemu-storage-daemon 7.2" back-end block "\`vhk\`, \`vhk_blk_*()\`"
