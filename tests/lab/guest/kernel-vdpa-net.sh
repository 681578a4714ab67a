# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Frames through the simulated vDPA network card, which loops them, and its control ring in an address space of its own.
# Runs: test-kernel-vdpa-net
. /lab/kernel-lib.sh

load_vdpa
limit=100
run vdpa-net test-kernel-vdpa-net
grep 'frames in' /tmp/vdpa-net.out
witness "vhost-vdpa, vdpa_sim_net" back-end "frames looped; control ring in an address space of its own; stop and restart" "\`vhost-vdpa:\` of \`vhk_frontend_open()\`"
witness "vhost-vdpa, vdpa_sim_net" back-end "frames, and its address changed" "\`vhk_net_*()\`"
