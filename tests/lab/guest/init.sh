#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# First process of every lab guest: runs /lab/$t.sh, says what came of it, powers off.
# The kernel hands t=NAME and the script's parameters, lab_NAME, over from its command line.
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
mount -t tmpfs mnt /mnt

# What the kernel complains of from here on is a failure too.  Not so a soft lockup: that is
# the host having been busy elsewhere.
complaints() {
	dmesg | sed '1,/lab begins/d' | grep -v 'soft lockup' |
		grep -E 'I/O error|WARNING:|BUG:|Oops|EXT4-fs (error|warning)|blocked for more' | head -n 1
}

echo "lab begins" >/dev/kmsg
sh -eu "/lab/$t.sh"
status=$?
complaint=$(complaints)
if [ "$status" = 0 ] && [ -n "$complaint" ]; then
	echo "LAB-FAIL the kernel says: $complaint"
elif [ "$status" = 0 ]; then
	echo "LAB-PASS"
elif [ ! -e /tmp/failed ]; then
	echo "LAB-FAIL $t.sh ended with status $status"
fi
[ "$status" = 0 ] || dmesg | tail -n 20
sync
if grep -q "User Mode" /proc/cpuinfo; then
	echo o >/proc/sysrq-trigger
else
	poweroff -f
fi
sleep 60
