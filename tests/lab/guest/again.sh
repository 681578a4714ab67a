# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A disk that outlives its guest.  The number of boots so far is kept on the disk, in a
# block of its own; each boot verifies what the ones before left and adds to it, and ends
# without unmounting.  Parameters: lab_boots (how many there are), lab_end (how those before
# the last one end: reboot, poweroff, or killed, which means by the host while it writes),
# lab_load (1: with reads in flight at the end).
. /lab/lib.sh

counter=204800	# sector; the file system ends before it

load_disk
load ext4
boot=$(($(/sbin/dd status=none if=/dev/vda bs=512 skip=$counter count=1 iflag=direct | tr -dc 0-9) + 1))
fact "boot$boot" yes
[ "$boot" != 1 ] || /sbin/mkfs.ext4 -q -F /dev/vda 64M
mount -t ext4 /dev/vda /mnt
i=1
while [ "$i" -lt "$boot" ]; do
	(cd "/mnt/$i" && sha256sum -cs sums) || fail "what boot $i wrote is not what boot $boot reads"
	i=$((i + 1))
done

mkdir "/mnt/$boot"
cp -a /lib /lab "/mnt/$boot"
/sbin/dd status=none if=/dev/urandom of="/mnt/$boot/random" bs=64k count=32
(cd "/mnt/$boot" && find . -type f ! -name sums | xargs sha256sum >sums)
sync
printf '%-512s' "$boot" | /sbin/dd status=none of=/dev/vda bs=512 seek=$counter oflag=direct

if [ "$boot" = "$lab_boots" ]; then
	umount /mnt
	exit 0
fi
# The end comes while requests are in flight.
[ "$lab_load" = 0 ] || while :; do /sbin/dd status=none if=/dev/vda of=/dev/null bs=64k count=512 iflag=direct; done &
if [ "$lab_end" = killed ]; then
	while :; do /sbin/dd status=none if=/dev/zero of=/mnt/end bs=64k count=128 oflag=direct; done &
fi
sleep 0.3
case "$lab_end" in
reboot) reboot -f ;;
killed) fact kill me ;;
poweroff) exit 0 ;;
esac
sleep 60
