# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# vhk asks the kernel's own devices what they are.
# Runs: vhk
. /lab/kernel-lib.sh

# says LABEL LINE: that line is in what vhk probe said, whatever the blanks between its words
says() {
	tr -s ' ' <"/tmp/$1.out" | grep -qxF -e "$2" || {
		cat "/tmp/$1.out"
		fail "$1 does not say '$2'"
	}
}

load_vhost
load_vdpa
run net vhk probe vhost-net:
says net "device net"
says net "queues 2"
says net " 15 MRG_RXBUF"
says net "configuration none"
run vsock vhk probe vhost-vsock:
says vsock "device vsock"
run scsi vhk probe vhost-scsi:
says scsi "device scsi"

vhk vdpa add blk0 --mgmt=vdpasim_blk
vhk vdpa add net0 --mgmt=vdpasim_net --mac=52:54:00:12:34:56 --mtu=1400
expect node.blk0 "$(vhk vdpa bind blk0 vhost_vdpa)" /dev/vhost-vdpa-0
vhk vdpa bind net0 vhost_vdpa >/dev/null
run vdpa-net vhk probe vhost-vdpa:net0
says vdpa-net "device net"
says vdpa-net "queues 3"
says vdpa-net " 5 MAC"
says vdpa-net " 3 IOTLB_ASID"
says vdpa-net " address 52:54:00:12:34:56"
says vdpa-net " MTU 1400 bytes"
run vdpa-json vhk probe --json vhost-vdpa:net0
grep -q '"mac": "52:54:00:12:34:56"' /tmp/vdpa-json.out || fail "no address in JSON"
grep -q '"name": "IOTLB_MSG_V2"' /tmp/vdpa-json.out || fail "no backend features in JSON"
run vdpa-blk vhk probe vhost-vdpa:/dev/vhost-vdpa-0
says vdpa-blk "device block"
says vdpa-blk " capacity 134217728 bytes (128 MiB)"

vhk vdpa del blk0
vhk vdpa del net0
witness "vhost-net, vhost-vsock, vhost-scsi, vhost-vdpa" back-end "what they say of themselves" "\`vhk probe\`"
