# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Memory comes and goes while the disk is read through it. What comes is put online for movable pages, which the page cache
# takes first: so the disk's data land there at once, and it can be taken away again.
. /lab/lib.sh

load_disk
load ext4
load virtio_mem
echo online_movable >/sys/devices/system/memory/auto_online_blocks

total() {
	awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo
}

/sbin/mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt
/sbin/dd status=none if=/dev/urandom of=/tmp/random bs=64k count=64
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	/sbin/dd status=none if=/tmp/random of="/mnt/part$i" bs=64k conv=fsync
done
wanted=$(sum </tmp/random)
rounds=0

# All that is on the disk is read anew, and a part written again.
round() {
	echo 3 >/proc/sys/vm/drop_caches
	for part in /mnt/part*; do
		[ "$(sum <"$part")" = "$wanted" ] || fail "$part is not what was written, in round $rounds"
	done
	/sbin/dd status=none if=/tmp/random of=/mnt/part1 bs=64k conv=fsync,notrunc
	rounds=$((rounds + 1))
}

# until_total -gt|-lt MIB: rounds until there is that much memory
until_total() {
	i=0
	while ! [ "$(total)" "$1" "$2" ]; do
		round
		i=$((i + 1))
		[ "$i" -lt 300 ] || fail "$(total) MiB of memory, waited for $1 $2"
	done
}

base=$(total)
fact ready "$base"
for n in 1 2; do
	until_total -gt $((base + 200))
	fact "grown$n" "$(total)"
	round
	round
	fact "used$n" "$(awk '/^Cached/ { print int($2 / 1024) }' /proc/meminfo)"
	until_total -lt $((base + 50))
	fact "shrunk$n" "$(total)"
	round
done
until_total -gt $((base + 300))
fact grown3 "$(total)"
round
until_total -lt $((base + 100))
fact shrunk3 "$(total)"
round
umount /mnt
fact rounds "$rounds"
