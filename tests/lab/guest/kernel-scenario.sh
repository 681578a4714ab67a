# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# One story over all of the kernel's devices: vhost-net, vhost-vsock, vhost-scsi, and two on the vDPA bus.
# Runs: test-kernel-scenario
. /lab/kernel-lib.sh

load_vhost
load_vdpa
target=/sys/kernel/config/target
export VHK_SCSI_WWPN=naa.5001405bd4e0d476 VHK_VDPA_BLK=vhost-vdpa:blk0 VHK_VDPA_NET=vhost-vdpa:net0
truncate -s 1M /tmp/lun.img
mkdir -p $target/core/fileio_0/d0
echo "fd_dev_name=/tmp/lun.img,fd_dev_size=1048576" >$target/core/fileio_0/d0/control
echo 1 >$target/core/fileio_0/d0/enable
mkdir -p $target/vhost/$VHK_SCSI_WWPN/tpgt_1/lun/lun_0
ln -s $target/core/fileio_0/d0 $target/vhost/$VHK_SCSI_WWPN/tpgt_1/lun/lun_0/d0
echo naa.5001405bd4e0d477 >$target/vhost/$VHK_SCSI_WWPN/tpgt_1/nexus
vdpa_add blk0 vdpasim_blk
vdpa_add net0 vdpasim_net mac 52:54:00:12:34:56
bind_vhost_vdpa blk0
bind_vhost_vdpa net0
run scenario test-kernel-scenario
grep -E '^  ' /tmp/scenario.out
expect skipped "$(grep -c '^skip' /tmp/scenario.out || :)" 0
witness "vhost-net, vhost-vsock, vhost-scsi, vdpa_sim_blk, vdpa_sim_net" back-end "one story over every carrier: features, memory, rings, base, log, reset" "\`vhk_frontend_*()\`"
