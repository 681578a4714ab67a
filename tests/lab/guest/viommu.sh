# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The file system test with every address translated: fs.sh and its parameters, behind an IOMMU.
. /lab/lib.sh

load_disk
[ -e /sys/class/iommu/dmar0 ] || fail "the guest sees no IOMMU"
expect access_platform "$(feature 33)" 1
. /lab/fs.sh
