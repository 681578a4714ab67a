# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The other VDUSE block device there is: qemu-storage-daemon's.
# Runs: qemu-storage-daemon of qemu-system-common
. /lab/kernel-lib.sh

load_vdpa
truncate -s 64M /tmp/disk.img
qemu-storage-daemon --blockdev file,node-name=f,filename=/tmp/disk.img \
	--export type=vduse-blk,id=e,node-name=f,name=disk0,writable=on,num-queues=1 &
await "no /dev/vduse/disk0" [ -e /dev/vduse/disk0 ]
vdpa_add disk0 vduse
bind_virtio_vdpa disk0
exercise_disk "$disk"
bind_vhost_vdpa disk0
vdpa_del disk0
kill $!
wait $! || fail "qemu-storage-daemon ended with status $?"
[ ! -e /dev/vduse/disk0 ] || fail "/dev/vduse/disk0 stays"
