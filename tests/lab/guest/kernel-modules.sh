# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Everything of the kernel's that our programs want is there.
. /lab/kernel-lib.sh

load_vhost
load_vdpa
vdpa_add blk0 vdpasim_blk
vdpa_add net0 vdpasim_net mac 52:54:00:12:34:56
bind_vhost_vdpa blk0
expect node.blk0 "$node" /dev/vhost-vdpa-0
bind_vhost_vdpa net0
expect node.net0 "$node" /dev/vhost-vdpa-1
bind_virtio_vdpa net0
bind_vhost_vdpa net0
expect node.net0.again "$node" /dev/vhost-vdpa-1
for node in vhost-net vhost-vsock vhost-scsi net/tun vduse/control; do
	[ -c /dev/$node ] || fail "no /dev/$node"
done
[ -d /sys/kernel/config/target ] || fail "no SCSI target in configfs"
vdpa_del blk0
vdpa_del net0
[ -z "$(ls /sys/bus/vdpa/devices)" ] || fail "a vDPA device stays"
