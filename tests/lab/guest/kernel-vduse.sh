# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# vhk-blk as a vDPA device of the kernel it runs on: a disk of that kernel, resized, its server killed under load, taken over; then
# a node for another process, held open while the server is asked to end.
# Runs: vhk, vhk-blk
. /lab/kernel-lib.sh

load_vdpa
mkdir -p /run
image=/tmp/disk.img

# serve [OPTION]...: sets $server
serve() {
	VHK_LOG=info vhk-blk --vduse=disk0 --blk-file=$image --num-queues=2 "$@" 2>/tmp/server.log &
	server=$!
}
said() { grep -q "$1" /tmp/server.log; }
await_said() {
	await "the server does not say: $1 ($(cat /tmp/server.log))" said "$1"
}
# refused STORY [OPTION]...: another server gives up with that
refused() {
	story=$1
	shift
	! vhk-blk --vduse=disk0 --blk-file=$image --num-queues=2 "$@" 2>/tmp/refused || fail "a server that should not: $story"
	grep -q "$story" /tmp/refused || fail "not '$story': $(cat /tmp/refused)"
}
# ends STATUS: as it was asked to
ends() {
	status=0
	kill "$server"
	wait "$server" || status=$?
	[ "$status" = "$1" ] || { cat /tmp/server.log; fail "the server ended with status $status, not $1"; }
}
nothing_is_left() {
	[ ! -e /dev/vduse/disk0 ] || fail "/dev/vduse/disk0 stays"
	[ ! -e /sys/bus/vdpa/devices/disk0 ] || fail "the vDPA device stays"
	[ -z "$(ls /run/vhostkit)" ] || fail "a record stays"
}

truncate -s 48M $image
serve
await_said "is on the vDPA bus"
bind_virtio_vdpa disk0
exercise_disk "$disk" virtio_vdpa
refused "is served by somebody else"

# it grows
truncate -s 64M $image
kill -HUP "$server"
grown() { [ "$(cat "/sys/block/$(basename "$disk")/size")" = 131072 ]; }
await "the disk does not grow" grown

# nothing is lost, and nothing is written twice in another order
for round in 1 2 3; do
	dd status=none if=/dev/urandom of=/tmp/data bs=1M count=8
	/sbin/dd status=none if=/tmp/data of="$disk" bs=128k oflag=direct &
	writer=$!
	/sbin/dd status=none if="$disk" of=/dev/null bs=16k skip=2000 count=800 iflag=direct &
	reader=$!
	sleep 0.$round
	kill -9 "$server"
	wait "$server" 2>/dev/null || :
	serve
	wait "$writer" || fail "a write failed in round $round"
	wait "$reader" || fail "a read failed in round $round"
	await_said "was running: going on"
	cmp -n 8388608 /tmp/data "$disk" || fail "the disk differs in round $round"
done
fact kill9 "$round"

# a successor that would be another disk
kill -9 "$server"
wait "$server" 2>/dev/null || :
refused "queues" --num-queues=1
refused "another configuration" --queue-size=64          # its seg_max
refused "features" --read-only
truncate -s 60M $image
refused "another configuration"
truncate -s 64M $image
serve
await_said "was running: going on"
cmp -n 8388608 /tmp/data "$disk" || fail "the disk differs behind those that were refused"
ends 0
nothing_is_left

# a node for another process
serve
await_said "is on the vDPA bus"
bind_vhost_vdpa disk0
run ping vhk ping --write --count 3 --interval-ms=100 "vhost-vdpa:$node"
run bench vhk bench --write --rw=randwrite --seconds=2 "vhost-vdpa:$node"
vhk bench --rw=randread --seconds=3 "vhost-vdpa:$node" >/tmp/bench.out 2>&1 &
bench=$!
sleep 1
kill -9 "$server"
wait "$server" 2>/dev/null || :
serve
wait "$bench" || { cat /tmp/bench.out /tmp/server.log; fail "vhk bench did not get over a kill"; }
ends 0
nothing_is_left

witness "virtio_vdpa, VDUSE" front-end "ext4 on a disk of its own, resize, kill -9 under load and a successor" "\`vhk-blk --vduse\`"
witness "vhost-vdpa, VDUSE" kernel "read, write, kill -9 under load and a successor" "\`vhk-blk --vduse\`, \`vhk\`"
