# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Writes /lab/data to the disk at $lab_at MiB, in large and in small requests, and reads it back.
. /lab/lib.sh

load_disk
expect version_1 "$(feature 32)" 1
size=$(stat -c %s /lab/data)
want=$(sum </lab/data)

read_back() {
	echo 3 >/proc/sys/vm/drop_caches
	/sbin/dd status=none if=/dev/vda bs="$1" skip=$((lab_at * 1048576 / $1)) count=$((size / $1)) ${2:-} | sum
}

/sbin/dd status=none if=/lab/data of=/dev/vda bs=4k seek=$((lab_at * 256)) conv=fsync
expect large "$(read_back 65536 iflag=direct)" "$want"

/sbin/dd status=none if=/dev/zero of=/dev/vda bs=64k seek=$((lab_at * 16)) count=$((size / 65536)) oflag=direct
[ "$(read_back 65536)" != "$want" ] || fail "zeroes did not reach the disk"
/sbin/dd status=none if=/lab/data of=/dev/vda bs=4k seek=$((lab_at * 256)) oflag=direct
expect small "$(read_back 512 iflag=direct)" "$want"
expect size "$(cat /sys/block/vda/size)" 32768
