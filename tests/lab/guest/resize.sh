# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The disk grows while it is in use.  Parameters, in MiB: lab_before, lab_after.
. /lab/lib.sh

load_disk
expect before "$(cat /sys/block/vda/size)" $((lab_before * 2048))
/sbin/dd status=none if=/dev/zero bs=1M count=1 | tr '\0' A |
	/sbin/dd status=none of=/dev/vda bs=64k seek=$((lab_before * 16 - 16)) oflag=direct iflag=fullblock
! /sbin/dd status=none if=/dev/vda of=/dev/null bs=64k skip=$((lab_before * 16)) count=1 iflag=direct 2>/dev/null ||
	[ "$(/sbin/dd status=none if=/dev/vda bs=64k skip=$((lab_before * 16)) count=1 iflag=direct | wc -c)" = 0 ] ||
	fail "there is something behind the end"
fact ready 1
for _ in $(seq 200); do
	[ "$(cat /sys/block/vda/size)" = $((lab_before * 2048)) ] || break
	sleep 0.1
done
expect after "$(cat /sys/block/vda/size)" $((lab_after * 2048))
/sbin/dd status=none if=/dev/zero bs=1M count=1 | tr '\0' B |
	/sbin/dd status=none of=/dev/vda bs=64k seek=$((lab_after * 16 - 16)) oflag=direct iflag=fullblock
fact sum "$(/sbin/dd status=none if=/dev/vda bs=1M skip=$((lab_after - 1)) count=1 iflag=direct | sum)"
