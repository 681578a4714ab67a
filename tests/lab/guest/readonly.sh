# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A disk that must not be written.  Parameter: lab_sum (of its first MiB).
. /lab/lib.sh

load_disk
expect ro "$(cat /sys/block/vda/ro)" 1
expect feature_ro "$(feature 5)" 1
expect content "$(/sbin/dd status=none if=/dev/vda bs=64k count=16 iflag=direct | sum)" "$lab_sum"
if /sbin/dd status=none if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>/dev/null; then
	fail "a write to a read-only disk succeeded"
fi
expect after "$(/sbin/dd status=none if=/dev/vda bs=64k count=16 iflag=direct | sum)" "$lab_sum"
