# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Streams through the kernel's vhost-vsock: AF_VSOCK sockets of the host's side are the peer.
# Runs: test-kernel-vsock
. /lab/kernel-lib.sh

load_vhost
limit=120
run vhost-vsock test-kernel-vsock
grep 'MiB back' /tmp/vhost-vsock.out
witness "vhost-vsock" back-end "streams both ways, refusals, IOTLB" "\`vhk_vsock_*()\`"
