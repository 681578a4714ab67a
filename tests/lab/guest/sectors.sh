# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A disk with large sectors: discarded as a whole and in part, zeroed, with a file system that is filled, emptied and trimmed.
# Parameter: lab_block (bytes).
. /lab/lib.sh

load_disk
load ext4
expect logical_block_size "$(cat /sys/block/vda/queue/logical_block_size)" "$lab_block"
/sbin/blkdiscard /dev/vda || fail "blkdiscard"
/sbin/blkdiscard -o "$lab_block" -l "$lab_block" /dev/vda || fail "blkdiscard of one block"
/sbin/blkdiscard -z -o "$lab_block" -l $((3 * lab_block)) /dev/vda || fail "blkdiscard -z"
/sbin/mkfs.ext4 -q -F /dev/vda || fail "mkfs.ext4"
mount -t ext4 /dev/vda /mnt
/sbin/dd status=none if=/dev/urandom of=/mnt/big bs=1M count=24 conv=fsync
cp -a /lab /mnt/
sync
before=$(find /mnt/lab -type f | sort | xargs sha256sum | sum)
rm /mnt/big
sync
fstrim -v /mnt || fail "fstrim"
echo 3 >/proc/sys/vm/drop_caches
expect kept "$(find /mnt/lab -type f | sort | xargs sha256sum | sum)" "$before"
umount /mnt
