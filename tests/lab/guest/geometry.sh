# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the disk says of itself, and the requests beside read and write.  Parameters:
# lab_serial, lab_block (logical block size), lab_size (in 512-byte sectors), lab_cache
# (back or through: what the device starts with).
# The host prepared 16 MiB of data; MiB 2-3 are discarded, MiB 6-7 become zeroes with
# blkdiscard -z, MiB 10 is overwritten with the write cache off.
. /lab/lib.sh

load_disk
queue=/sys/block/vda/queue
expect serial "$(cat /sys/block/vda/serial)" "$lab_serial"
expect logical_block_size "$(cat $queue/logical_block_size)" "$lab_block"
expect size "$(cat /sys/block/vda/size)" "$lab_size"
expect ro "$(cat /sys/block/vda/ro)" 0
expect feature_blk_size "$(feature 6)" 1
expect feature_flush "$(feature 9)" 1
expect feature_config_wce "$(feature 11)" 1
expect feature_discard "$(feature 13)" 1
expect feature_write_zeroes "$(feature 14)" 1
[ "$(cat $queue/discard_max_bytes)" -gt 0 ] || fail "no discard"
[ "$(cat $queue/write_zeroes_max_bytes)" -gt 0 ] || fail "no write zeroes"

mib() {
	/sbin/dd status=none if=/dev/vda bs=1M skip="$1" count=1 iflag=direct | sum
}

keep=$(mib 1)$(mib 4)$(mib 5)$(mib 8)
zero=$(/sbin/dd status=none if=/dev/zero bs=1M count=1 | sum)
/sbin/blkdiscard -o 2M -l 2M /dev/vda || fail "blkdiscard"
/sbin/blkdiscard -z -o 6M -l 2M /dev/vda || fail "blkdiscard -z"
expect zeroed "$(mib 6)$(mib 7)" "$zero$zero"
expect kept "$(mib 1)$(mib 4)$(mib 5)$(mib 8)" "$keep"

expect write_cache "$(cat $queue/write_cache)" "write $lab_cache"
echo "write through" >/sys/block/vda/cache_type
expect cache_off "$(cat /sys/block/vda/cache_type)" "write through"
/sbin/dd status=none if=/dev/zero bs=1M count=1 | tr '\0' W | /sbin/dd status=none of=/dev/vda bs=64k seek=160 oflag=direct iflag=fullblock
echo "write back" >/sys/block/vda/cache_type
expect cache_on "$(cat /sys/block/vda/cache_type)" "write back"

# Not a whole block: the guest's kernel refuses it, the end of the disk does too.
! /sbin/dd status=none if=/dev/vda of=/dev/null bs=512 count=1 iflag=direct 2>/dev/null || [ "$lab_block" = 512 ] || fail "512 bytes of a $lab_block-byte block"
last=$((lab_size / (lab_block / 512) - 1))
/sbin/dd status=none if=/dev/vda of=/dev/null bs="$lab_block" skip="$last" count=1 iflag=direct || fail "the last block cannot be read"
