# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Random bytes from the device: not constant, not repeated, every value about as often.
. /lab/lib.sh

load virtio_pci
load virtio-rng
expect current "$(cut -d. -f1 /sys/class/misc/hw_random/rng_current)" virtio_rng
/sbin/dd status=none if=/dev/hwrng of=/tmp/a bs=4096 count=1 iflag=fullblock
/sbin/dd status=none if=/dev/hwrng of=/tmp/b bs=4096 count=1 iflag=fullblock
expect bytes "$(stat -c %s /tmp/a)" 4096
! cmp -s /tmp/a /tmp/b || fail "the same 4096 bytes twice"
# Of 4096 good random bytes the 256 values are all there (each is missing with p = 1e-7).
distinct=$(hexdump -v -e '1/1 "%02x\n"' /tmp/a | sort -u | wc -l)
fact distinct "$distinct"
[ "$distinct" -ge 250 ] || fail "only $distinct of 256 byte values in 4096 bytes"
most=$(hexdump -v -e '1/1 "%02x\n"' /tmp/a | sort | uniq -c | sort -rn | awk 'NR == 1 { print $1 }')
fact most "$most"
[ "$most" -le 60 ] || fail "one byte value comes $most times in 4096"
