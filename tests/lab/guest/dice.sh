# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Random bytes from the README's device: each is a 4.
. /lab/lib.sh

load virtio_pci
load virtio-rng
expect current "$(cut -d. -f1 /sys/class/misc/hw_random/rng_current)" virtio_rng
/sbin/dd status=none if=/dev/hwrng of=/tmp/a bs=4096 count=1 iflag=fullblock
expect bytes "$(stat -c %s /tmp/a)" 4096
expect values "$(hexdump -v -e '1/1 "%02x\n"' /tmp/a | sort -u)" 04
