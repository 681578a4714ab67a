# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the kernel-*.sh scripts share: the kernel's own vhost, vDPA and VDUSE, and programs of ours in /bin that use them.
. /lab/lib.sh

fact version "$(sed 's/.* Debian \([0-9.]*\).*/\1/' /proc/version)"

# at_least 6.5: whether the kernel is that new
at_least() {
	[ "$(printf '%s\n' "$1" "$(uname -r)" | sort -V | head -n 1)" = "$1" ]
}

# witness WHO AS FOR OURS: our program (or the call) has met this peer
witnesses=0
witness() {
	witnesses=$((witnesses + 1))
	fact "witness.$witnesses" "$1 | $2 | $3 | $4"
}

# await WHAT COMMAND...: until the command succeeds
await() {
	what=$1
	shift
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
		! "$@" 2>/dev/null || return 0
		sleep 0.1
	done
	fail "$what"
}

# /dev/vhost-net, /dev/vhost-vsock, /dev/vhost-scsi, /dev/net/tun, and configfs for the SCSI target
load_vhost() {
	for module in vhost_net vhost_vsock vhost_scsi tun target_core_file; do
		load $module
	done
	mount -t configfs none /sys/kernel/config
}

# /dev/vduse/control and the simulators. A vDPA device that is made is bound to no driver: bind_*_vdpa does that.
# vhost-vdpa counts what it pins against the limit of locked memory, root's too; and where it pins, each piece that is in one in the
# host's memory is an entry of its own.
load_vdpa() {
	ulimit -l unlimited
	load vhost_vdpa max_iotlb_entries=65536
	echo 0 >/sys/bus/vdpa/drivers_autoprobe
	load vdpa_sim max_iotlb_entries=65536
	for module in virtio_blk virtio_net virtio_vdpa vdpa_sim_blk vdpa_sim_net vduse; do
		load $module
	done
}

# vdpa_add NAME MANAGER [WORDS]: a device of vdpasim_blk, vdpasim_net or vduse, by a program that is not ours
vdpa_add() {
	name=$1 manager=$2
	shift 2
	vdpa dev add name "$name" mgmtdev "$manager" "$@" || fail "no vDPA device $name of $manager"
	fact "vdpa.$name" "$manager"
}

vdpa_del() {
	vdpa dev del "$1" || fail "vDPA device $1 does not go away"
}

# bind_vdpa NAME DRIVER: from the driver it is bound to, if any
bind_vdpa() {
	device=/sys/bus/vdpa/devices/$1
	[ ! -e "$device/driver" ] || echo "$1" >"$device/driver/unbind"
	echo "$2" >"$device/driver_override"
	echo "$1" >"/sys/bus/vdpa/drivers/$2/bind" || fail "$2 does not take $1"
}

# bind_vhost_vdpa NAME: sets $node to its /dev/vhost-vdpa-N
bind_vhost_vdpa() {
	bind_vdpa "$1" vhost_vdpa
	node=$(ls "/sys/bus/vdpa/devices/$1" | grep '^vhost-vdpa-') || fail "$1 has no node"
	node=/dev/$node
	await "no $node" [ -c "$node" ]
}

# bind_virtio_vdpa NAME: the guest's own drivers get it; sets $disk to its /dev/vdX, if it is one
bind_virtio_vdpa() {
	bind_vdpa "$1" virtio_vdpa
	sleep 0.1
	disk=$(ls -d "/sys/bus/vdpa/devices/$1"/virtio*/block/vd* 2>/dev/null) || disk=
	[ -z "$disk" ] || disk=/dev/$(basename "$disk")
}

# run NAME COMMAND...: a program; how it ended is a fact, what it said is shown if it failed.
# At most $limit seconds.
limit=60
run() {
	as=$1
	shift
	status=0
	begin=$(cut -d' ' -f1 /proc/uptime)
	timeout -s KILL "$limit" "$@" >"/tmp/$as.out" 2>&1 </dev/null || status=$?
	end=$(cut -d' ' -f1 /proc/uptime)
	fact "$as" "$status"
	fact "$as.seconds" "$(echo "$end $begin" | awk '{ print $1 - $2 }')"
	if [ "$status" != 0 ]; then
		tail -n 60 "/tmp/$as.out"
		fail "$* ended with status $status"
	fi
	grep -E '^[0-9]+ passed, [0-9]+ failed' "/tmp/$as.out" || :
}

# check_disk DISK: consistent, and with the tree that exercise_disk made
check_disk() {
	echo 3 >/proc/sys/vm/drop_caches
	mount -t ext4 -o ro "$1" /mnt
	sums=$(cd /mnt && find tree -type f | sort | xargs sha256sum | sum)
	umount /mnt
	[ "$sums" = "$tree" ] || fail "the tree on $1 has changed"
	/sbin/e2fsck -fn "$1" >/tmp/e2fsck 2>&1 || { cat /tmp/e2fsck; fail "the file system on $1"; }
}

# exercise_disk DISK: a new file system with files written through the page cache and past it; they are there when it is mounted again
exercise_disk() {
	[ -e /sys/module/ext4 ] || load ext4
	/sbin/mkfs.ext4 -q -F "$1"
	mount -t ext4 "$1" /mnt
	mkdir /mnt/tree
	cp -a /sbin /lab /mnt/tree
	/sbin/dd status=none if=/dev/urandom of=/mnt/tree/direct bs=64k count=32 oflag=direct iflag=fullblock
	tree=$(cd /mnt && find tree -type f | sort | xargs sha256sum | sum)
	umount /mnt
	check_disk "$1"
	fact "files.$(basename "$1")" "$tree"
}
