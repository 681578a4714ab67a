# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Frames through the kernel's vhost-net: its stack, in one namespace and in two, is the peer.
# Runs: test-kernel-net
. /lab/kernel-lib.sh

load_vhost
ip link set lo up
limit=240
run vhost-net test-kernel-net
grep -E '^  .*(MiB in|pages written|misses)' /tmp/vhost-net.out
witness "vhost-net" back-end "frames to a tap" "\`vhk_net_*()\`"
witness "vhost-net" back-end "frames, TCP between two namespaces, dirty log, IOTLB, stop and restart" "\`vhost-net:\` of \`vhk_frontend_open()\`"
