# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Works on a file system for lab_seconds while the host kills the disk's back-end again and again: two writers past the page
# cache, each of which reads back what it wrote, and a tree that is copied and compared. Says how many rounds.
. /lab/lib.sh

load_disk
load ext4
/sbin/mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt
begin=$(cut -d. -f1 /proc/uptime)
time_is_left() {
	[ $(($(cut -d. -f1 /proc/uptime) - begin)) -lt "$lab_seconds" ] && [ ! -e /tmp/failed ]
}

# writer N: a file of its own
writer() {
	rounds=0
	while time_is_left; do
		/sbin/dd status=none if=/dev/urandom of="/tmp/random$1" bs=64k count=16
		/sbin/dd status=none if="/tmp/random$1" of="/mnt/direct$1" bs=8k oflag=direct conv=notrunc || fail "writer $1: write"
		/sbin/dd status=none if="/mnt/direct$1" of="/tmp/back$1" bs=64k iflag=direct || fail "writer $1: read"
		cmp "/tmp/random$1" "/tmp/back$1" || fail "writer $1: what was written is not what is read"
		rounds=$((rounds + 1))
	done
	fact "rounds$1" "$rounds"
}

fact load begins
writer 1 &
writer 2 &
rounds=0
while time_is_left; do
	rm -rf /mnt/tree
	mkdir /mnt/tree
	cp -a /bin /lab /mnt/tree || fail "copy"
	sync
	echo 3 >/proc/sys/vm/drop_caches
	for f in /lab/*; do
		cmp "$f" "/mnt/tree/lab/$(basename "$f")" || fail "$f differs"
	done
	rounds=$((rounds + 1))
done
fact rounds "$rounds"
wait
[ ! -e /tmp/failed ] || exit 1
umount /mnt
