# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A guest that is moved while it works.  One process reads what the host wrote to the disk, $lab_chunks
# chunks of 512 KiB from chunk $lab_first on, into the page cache: that is the device writing bytes that the
# guest never had to memory that no processor touches.  Another writes files.  Both end when the
# host has put the word "moved" into the block at sector $lab_word; then everything that the guest
# remembers must be true: in memory, as it was read before or during the move, and read anew.
. /lab/lib.sh

load_disk
load ext4
/sbin/mkfs.ext4 -q -F /dev/vda 64M
mount -t ext4 /dev/vda /mnt

has_moved() {
	[ "$(/sbin/dd status=none if=/dev/vda bs=512 skip="$lab_word" count=1 iflag=direct | tr -dc a-z)" = moved ]
}

read_on() {
	chunk=0
	while ! has_moved; do
		if [ "$chunk" != "$lab_chunks" ]; then
			/sbin/dd status=none if=/dev/vda of=/dev/null bs=512k skip=$((lab_first + chunk)) count=1
			chunk=$((chunk + 1))
		fi
		sleep 0.2
	done
	echo "$chunk" >/tmp/read
}
read_on &
reader=$!
fact ready yes

: >/tmp/write.sums
round=0
while ! has_moved; do
	round=$((round + 1))
	[ "$round" -lt 400 ] || fail "never moved"
	name=$((round % 32))
	/sbin/dd status=none if=/dev/urandom of=/mnt/$name bs=32k count=4 conv=fsync
	grep -v " $name\$" /tmp/write.sums >/tmp/w || :
	(cd /mnt && sha256sum $name) >>/tmp/w
	mv /tmp/w /tmp/write.sums
done
wait "$reader"
fact read "$(cat /tmp/read)"
fact rounds "$round"
check() {
	[ "$(/sbin/dd status=none if=/dev/vda bs=512k skip="$lab_first" count="$lab_chunks" | sum)" = "$lab_sum" ] ||
		fail "$1: what was read is not what is there"
	(cd /mnt && sha256sum -cs /tmp/write.sums) || fail "$1: what was written is not what is there"
}
check "in memory"
sync
echo 3 >/proc/sys/vm/drop_caches
check "on disk"
umount /mnt
