# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the guest scripts share.  They run under sh -eu.

fail() {
	: >/tmp/failed
	echo "LAB-FAIL $*"
	exit 1
}

fact() {
	echo "LAB $1=$2"
}

# expect WHAT GOT WANTED
expect() {
	fact "$1" "$2"
	[ "$2" = "$3" ] || fail "$1 is '$2', expected '$3'"
}

# load MODULE [PARAMETER]: it and what it needs, in order
load() {
	while read -r module; do
		name=$(basename "$module" .ko | tr - _)
		parameter=
		[ "$module" != "$1.ko" ] || parameter=${2-}
		[ -d "/sys/module/$name" ] || insmod "/lib/modules/$module" $parameter
	done <"/lib/modules/$1.order"
}

# The disk is there a moment after its driver.
load_disk() {
	[ ! -e /lib/modules/virtio_pci.order ] || load virtio_pci
	load virtio_blk
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		[ ! -b /dev/vda ] || return 0
		sleep 0.1
	done
	fail "no /dev/vda"
}

# feature BIT: what the driver and the device agreed on, for the first virtio device
feature() {
	/sbin/dd status=none if=/sys/bus/virtio/devices/virtio0/features bs=1 skip="$1" count=1
}

sum() {
	sha256sum | cut -d' ' -f1
}
