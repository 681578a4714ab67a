# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Some device's driver is loaded, used a little, taken away and given back.  Parameters:
# lab_module, lab_do (what to do with it: a function below).
. /lab/lib.sh

device=/sys/bus/virtio/devices/virtio0

driven() {
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		[ ! -e $device/driver ] || return 0
		sleep 0.1
	done
	fail "$lab_module does not take the device"
}

nothing() {
	:
}

network() {
	interface=$(ls $device/net)
	ip link set "$interface" up
	ip address add 10.0.0.1/24 dev "$interface"
	ping -c 2 -W 1 10.0.0.2 >/dev/null || :
	ip link set "$interface" down
}

read_disk() {
	load_disk
	/sbin/dd status=none if=/dev/vda of=/dev/null bs=64k count=16 iflag=direct
}

random() {
	/sbin/dd status=none if=/dev/hwrng of=/dev/null bs=64 count=4 iflag=fullblock
}

[ ! -e /lib/modules/virtio_pci.order ] || load virtio_pci
load "$lab_module"
driven
fact features "$(cat $device/features)"
"$lab_do"
driver=$(basename "$(readlink $device/driver)")
fact driver "$driver"
echo virtio0 >"/sys/bus/virtio/drivers/$driver/unbind"
sleep 0.3
echo virtio0 >"/sys/bus/virtio/drivers/$driver/bind"
driven
"$lab_do"
