# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A queue for each processor, and each of them carries a request.  Parameter: lab_q (queues).
. /lab/lib.sh

load_disk
expect queues "$(ls /sys/block/vda/mq | wc -l)" "$lab_q"
cpu=0
while [ "$cpu" -lt "$lab_q" ]; do
	taskset "$(printf '%x' $((1 << cpu)))" /sbin/dd status=none if=/dev/zero of=/dev/vda bs=4096 seek="$cpu" count=1 oflag=direct ||
		fail "processor $cpu cannot write"
	cpu=$((cpu + 1))
done
[ "$(/sbin/dd status=none if=/dev/vda bs=4096 count="$lab_q" iflag=direct | wc -c)" = $((lab_q * 4096)) ] || fail "what was written cannot be read"
