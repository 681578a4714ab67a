# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A guest that is moved while it works.  It reads files into its page cache (the device writes to guest
# memory) and writes others, round by round, until the host has put the word "moved" into the block at
# sector $lab_word; then everything that it remembers must be true: in memory, and read anew.
. /lab/lib.sh

load_disk
load ext4
/sbin/mkfs.ext4 -q -F /dev/vda 96M
mount -t ext4 /dev/vda /mnt
mkdir /mnt/read /mnt/write
i=0
while [ "$i" -lt 48 ]; do
	/sbin/dd status=none if=/dev/urandom of=/mnt/read/$i bs=64k count=8
	i=$((i + 1))
done
(cd /mnt/read && sha256sum *) >/tmp/read.sums
sync
echo 3 >/proc/sys/vm/drop_caches
fact ready yes

: >/tmp/write.sums
round=0
moved=
while [ "$moved" != moved ]; do
	round=$((round + 1))
	[ "$round" -lt 400 ] || fail "never moved"
	# fresh pages of the page cache, written to by the device
	file=$((round % 48))
	cat /mnt/read/$file >/dev/null
	[ "$file" != 47 ] || echo 3 >/proc/sys/vm/drop_caches
	# and the other way
	name=$((round % 32))
	/sbin/dd status=none if=/dev/urandom of=/mnt/write/$name bs=32k count=4 conv=fsync
	grep -v " $name\$" /tmp/write.sums >/tmp/w || :
	(cd /mnt/write && sha256sum $name) >>/tmp/w
	mv /tmp/w /tmp/write.sums
	moved=$(/sbin/dd status=none if=/dev/vda bs=512 skip="$lab_word" count=1 iflag=direct | tr -dc a-z)
	[ "$((round % 20))" != 0 ] || fact round "$round"
done
fact rounds "$round"
check() {
	(cd /mnt/read && sha256sum -cs /tmp/read.sums) || fail "$1: what was read is not what is there"
	(cd /mnt/write && sha256sum -cs /tmp/write.sums) || fail "$1: what was written is not what is there"
}
check "in memory"
sync
echo 3 >/proc/sys/vm/drop_caches
check "on disk"
umount /mnt
