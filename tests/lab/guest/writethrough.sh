# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Writes with the cache set to write-through, before and after "stop" and "cont" of the machine, and after a reboot. The block
# at 15 MiB is the host's: it says there how far things are.
. /lab/lib.sh

load_disk
type=/sys/block/vda/cache_type

step() {
	/sbin/dd status=none if=/dev/vda bs=4096 skip=3840 count=1 iflag=direct | head -c 1
}

await_step() {
	for _ in $(seq 600); do
		[ "$(step)" != "$1" ] || return 0
		sleep 0.1
	done
	fail "the host does not say $1"
}

write8() {
	/sbin/dd status=none if=/dev/zero of=/dev/vda bs=4096 seek="$1" count=8 oflag=direct
}

if [ "$(step)" = 2 ]; then
	fact cache_after_reboot "$(cat $type)"
	write8 512
	exit 0
fi
expect cache "$(cat $type)" "write back"
echo "write through" >$type
expect cache_off "$(cat $type)" "write through"
write8 0
fact written1 8
await_step 1
expect cache_after_stop "$(cat $type)" "write through"
write8 256
fact written2 8
await_step 2
echo b >/proc/sysrq-trigger
sleep 60
