# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Commands through the kernel's vhost-scsi: its target on a file is the peer.
# Runs: test-kernel-scsi
. /lab/kernel-lib.sh

load_vhost
target=/sys/kernel/config/target
export VHK_SCSI_WWPN=naa.5001405bd4e0d476 VHK_SCSI_NO_NEXUS=naa.5001405bd4e0d4ff VHK_SCSI_FILE=/tmp/lun.img
truncate -s 16M "$VHK_SCSI_FILE"
mkdir -p $target/core/fileio_0/d0
echo "fd_dev_name=$VHK_SCSI_FILE,fd_dev_size=16777216" >$target/core/fileio_0/d0/control
echo 1 >$target/core/fileio_0/d0/enable
for wwpn in $VHK_SCSI_WWPN $VHK_SCSI_NO_NEXUS; do
	mkdir -p $target/vhost/$wwpn/tpgt_1/lun/lun_0
	ln -s $target/core/fileio_0/d0 $target/vhost/$wwpn/tpgt_1/lun/lun_0/d0
done
echo naa.5001405bd4e0d477 >$target/vhost/$VHK_SCSI_WWPN/tpgt_1/nexus
run vhost-scsi test-kernel-scsi
grep -E '^  ' /tmp/vhost-scsi.out
witness "vhost-scsi" back-end "a LUN on a file: inquired, written, read back; sense, refusals" "\`vhk_scsi_*()\`"

for wwpn in $VHK_SCSI_WWPN $VHK_SCSI_NO_NEXUS; do
	rm $target/vhost/$wwpn/tpgt_1/lun/lun_0/d0
	rmdir $target/vhost/$wwpn/tpgt_1/lun/lun_0
	[ $wwpn != $VHK_SCSI_WWPN ] || echo NULL >$target/vhost/$wwpn/tpgt_1/nexus
	rmdir $target/vhost/$wwpn/tpgt_1 $target/vhost/$wwpn
done
rmdir $target/core/fileio_0/d0
