# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A file system on the disk: made, filled, remounted, compared.  Parameters: lab_q
# (queues), lab_event and lab_ind (0 or 1: what must have been negotiated), lab_mem (MiB).
. /lab/lib.sh

load_disk
load ext4

expect queues "$(ls /sys/block/vda/mq | wc -l)" "$lab_q"
expect indirect "$(feature 28)" "$lab_ind"
expect event_idx "$(feature 29)" "$lab_event"
expect version_1 "$(feature 32)" 1
total=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
fact memory "$total"
[ "$total" -gt $((lab_mem * 3 / 4)) ] || fail "only $total MiB of $lab_mem MiB of memory"

/sbin/mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt

# A tree of small files, and from each processor a large one past the page cache, so that
# each queue carries requests.
mkdir /mnt/tree
cp -a /bin /sbin /lib /lab /mnt/tree
cpu=0
while [ "$cpu" -lt "$lab_q" ]; do
	/sbin/dd status=none if=/dev/urandom of=/tmp/random bs=64k count=32
	sum </tmp/random >"/tmp/sum$cpu"
	taskset $((1 << cpu)) /sbin/dd status=none if=/tmp/random of="/mnt/tree/direct$cpu" bs=64k oflag=direct
	taskset $((1 << cpu)) /sbin/dd status=none if=/tmp/random of="/mnt/tree/cached$cpu" bs=1000 conv=fsync
	cpu=$((cpu + 1))
done
cd /mnt/tree
find . -type f | sort | xargs sha256sum >/tmp/before
cd /
sync
umount /mnt

echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt
cd /mnt/tree
find . -type f | sort | xargs sha256sum >/tmp/after
cmp /tmp/before /tmp/after || fail "the tree has changed over a remount"
fact files "$(wc -l </tmp/after)"
cpu=0
while [ "$cpu" -lt "$lab_q" ]; do
	for how in direct cached; do
		back=$(taskset $((1 << cpu)) /sbin/dd status=none if="$how$cpu" bs=64k iflag=direct | sum)
		[ "$back" = "$(cat "/tmp/sum$cpu")" ] || fail "$how$cpu is not what was written"
	done
	expect "queue$cpu" "$(awk -v q="virtio0-req.$cpu" '$NF == q {
		for (i = 2; i < NF - 2; i++) n += $i; print (n > 0) ? "used" : "idle" }' /proc/interrupts)" used
	cpu=$((cpu + 1))
done
cd /
rm -r /mnt/tree/bin
umount /mnt
fact sums "$(grep -v ' \./bin/' /tmp/after | sum)"
