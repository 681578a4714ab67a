# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Management of vDPA devices by vhk, and by iproute2's vdpa: each lists what the other made, and both are refused alike.
# Runs: vhk
. /lab/kernel-lib.sh

# refused WORDS COMMAND...: fails with status 1 and a line that has these words
refused() {
	words=$1 status=0
	shift
	"$@" >/tmp/refused.out 2>/tmp/refused.err || status=$?
	[ "$status" = 1 ] || fail "$* ended with status $status"
	grep -qF -e "$words" /tmp/refused.err || fail "$* says: $(cat /tmp/refused.err)"
	[ ! -s /tmp/refused.out ] || fail "$* failed, and prints $(cat /tmp/refused.out)"
}

# What vhk vdpa list --json says of devices, as "vdpa dev show" words it: the names of a row are its own, its type's and its parent's
ours() {
	vhk vdpa list --json | awk -F'"' '
		$2 == "devices" { here = 1; n = 0 }
		!here { next }
		$2 == "name" { name[n++] = $4 }
		$2 == "vendor_id" || $2 == "max_queues" || $2 == "max_queue_size" { gsub(/[^0-9]/, "", $3); v[$2] = $3 }
		$2 == "node" {
			sub(/^net$/, "network", name[1])
			printf "%s: type %s mgmtdev %s vendor_id %s max_vqs %s max_vq_size %s\n", name[0], name[1], name[2], v["vendor_id"],
				v["max_queues"], v["max_queue_size"]
			n = 0
		}' | sort
}

same_lists() {
	ours >/tmp/ours
	vdpa dev show | sed 's/ *$//' | sort >/tmp/theirs
	[ "$(wc -l </tmp/theirs)" = "$1" ] || fail "$1 devices expected: $(cat /tmp/theirs)"
	cmp -s /tmp/ours /tmp/theirs || fail "vhk says '$(cat /tmp/ours)', vdpa says '$(cat /tmp/theirs)'"
}

for words in list "list --json" "add blk0 --mgmt=vdpasim_blk" "del blk0" "bind blk0 vhost_vdpa"; do
	refused "this kernel has no vDPA: module vdpa is not loaded" vhk vdpa $words
done
load_vdpa
same_lists 0

# Management devices
vhk vdpa list >/tmp/list
expect mgmt "$(grep -c ' makes ' /tmp/list)" "$(vdpa mgmtdev show | grep -c supported_classes)"
n_bits() {
	bits=$1 n=0
	while [ $bits != 0 ]; do
		n=$((n + (bits & 1))) bits=$((bits >> 1))
	done
	echo $n
}
for mgmt in "vdpasim_net net" "vdpasim_blk block"; do
	name=${mgmt% *} type=${mgmt#* }
	vdpa mgmtdev show "$name" >/tmp/theirs
	queues=$(awk '$1 == "max_supported_vqs" { print $2 }' /tmp/theirs)
	words=$(awk '$1 == "dev_features" { print NF - 1 }' /tmp/theirs)
	line=$(grep " $name " /tmp/list)
	features=${line##* }
	[ "$queues" != 0 ] || { line="$line  at most 0 queues  features 0x0" features=0; }       # it does not tell
	fact "mgmt.$name" "$line"
	[ "${line%0x*}" = "  $name  makes $type  at most $queues queues  features " ] || fail "vhk says '$line', vdpa says '$(cat /tmp/theirs)'"
	[ "$(n_bits "$features")" = "$words" ] || fail "$words features according to vdpa, $features according to vhk"
done
grep -q '^no devices$' /tmp/list || fail "devices that nobody made"

# Either makes, both list, either removes
vhk vdpa add blk0 --mgmt=vdpasim_blk
vdpa_add blk1 vdpasim_blk
vhk vdpa add net0 --mgmt=vdpasim_net --mac=52:54:00:12:34:56
vhk vdpa add net1 --mgmt=vdpasim_net --mac=52:54:00:12:34:57 --mtu=1400
same_lists 4
vdpa_del blk0
vhk vdpa del blk1
same_lists 2

# Refused: our words, and the kernel's own behind them
refused "net0: a vDPA device of this name exists already" vhk vdpa add net0 --mgmt=vdpasim_net
refused "File exists" sh -c 'vdpa dev add name net0 mgmtdev vdpasim_net || exit 1'
for mgmt in nosuch pci/vdpasim_net; do
	refused "x: there is no such management device (vdpa: Fail to find the specified management device)" vhk vdpa add x --mgmt=$mgmt
done
refused "Fail to find the specified management device" sh -c 'vdpa dev add name x mgmtdev nosuch || exit 1'
refused "x: there is no such vDPA device (vdpa: device not found)" vhk vdpa del x
refused "device not found" sh -c 'vdpa dev del x || exit 1'
refused "x: the management device does not take these attributes (vdpa: " \
	vhk vdpa add x --mgmt=vdpasim_net --queues=2
if at_least 6.2; then			# features that a device shall have, and those that its parent does not
	vhk vdpa add feat0 --mgmt=vdpasim_net --features=0x300000020
	vhk vdpa bind feat0 vhost_vdpa >/dev/null
	vhk probe vhost-vdpa:feat0 >/tmp/feat0
	grep -q '^features  *0x100000020$' /tmp/feat0 || fail "$(cat /tmp/feat0)"	# the carrier keeps ACCESS_PLATFORM
	vhk vdpa del feat0
	refused "x: the management device refuses" vhk vdpa add x --mgmt=vdpasim_net --features=0x700000020
fi
refused "x: the management device refuses" vhk vdpa add x --mgmt=vduse
refused "there is no vDPA device \"x\"" vhk vdpa bind x vhost_vdpa
echo 'nobody:x:99:99::/:/bin/sh' >/etc/passwd
refused "net0: removing vDPA devices needs CAP_NET_ADMIN" su nobody -c 'vhk vdpa del net0'
refused "x: making vDPA devices needs CAP_NET_ADMIN" su nobody -c 'vhk vdpa add x --mgmt=vdpasim_net'
refused "net0: Permission denied (it needs root)" su nobody -c 'vhk vdpa bind net0 vhost_vdpa'
same_lists 2

# Bound to nothing, to this kernel, to a program
expect unbound "$(vhk vdpa list | grep net1)" "  net1  net  of vdpasim_net  queues 3, size 256  not bound"
vhk vdpa bind net1 virtio_vdpa
await "no interface of net1" test -e /sys/bus/vdpa/devices/net1/virtio*/net
expect mac "$(cat /sys/bus/vdpa/devices/net1/virtio*/net/*/address)" 52:54:00:12:34:57
expect mtu "$(cat /sys/bus/vdpa/devices/net1/virtio*/net/*/mtu)" 1400
expect bound "$(vhk vdpa list | grep net1)" "  net1  net  of vdpasim_net  queues 3, size 256  virtio_vdpa"
expect node "$(vhk vdpa bind net1 vhost_vdpa)" /dev/vhost-vdpa-0
expect node.net0 "$(vhk vdpa bind net0 vhost_vdpa)" /dev/vhost-vdpa-1
expect node.again "$(vhk vdpa bind net1 vhost_vdpa)" /dev/vhost-vdpa-0
[ -c /dev/vhost-vdpa-0 ] || fail "no /dev/vhost-vdpa-0"
expect listed "$(vhk vdpa list | grep net1)" "  net1  net  of vdpasim_net  queues 3, size 256  vhost_vdpa /dev/vhost-vdpa-0"
expect override "$(cat /sys/bus/vdpa/devices/net1/driver_override)" vhost_vdpa

# Whoever has the node open is waited for
(exec 3<>/dev/vhost-vdpa-0 && : >/tmp/open && sleep 2 && : >/tmp/closed) &
await "the node cannot be opened" test -e /tmp/open
vhk vdpa bind net1 virtio_vdpa
[ -e /tmp/closed ] || fail "the device is taken from under whoever has it open"
wait

# A driver that is not there, and one that fails: the device stays where it was
vhk vdpa bind net1 vhost_vdpa >/dev/null
vhk vdpa bind net0 vhost_vdpa >/dev/null
rmmod virtio_vdpa
refused "there is no bus driver \"virtio_vdpa\": its module is not loaded" vhk vdpa bind net1 virtio_vdpa
expect stays "$(vhk vdpa bind net1 vhost_vdpa)" /dev/vhost-vdpa-0

# Many (100 names of 240 letters come in several parts, and all of them; but vdpa's buffers overflow with such names)
for i in 0 1 2 3 4 5 6 7 8 9 a b c d e f; do
	vhk vdpa add a-longer-name-than-one-would-choose-by-hand-$i --mgmt=vdpasim_net
done
same_lists 18
for name in $(vdpa dev show | cut -d: -f1); do
	vhk vdpa del "$name"
done
same_lists 0
witness "vDPA's netlink family" kernel "vDPA devices, made and removed" "\`vhk vdpa\`, \`vhk_vdpa_*()\`"
