# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Scenarios in which our programs run inside a guest, as root, beside the kernel they drive: vhost-net, vhost-vsock,
vhost-scsi, vhost-vdpa and VDUSE.  The guest has no device of ours; QEMU is only where such a kernel can be had.

What a scenario does is a script, guest/kernel-NAME.sh; guest/kernel-lib.sh is what those share.
"""

import glob
import os

import guestfs
from machines import Qemu

MEMORY = "1024M"
CPUS = 2


def guest(lab, script, programs, files=None, params=None):
    """Runs a guest script with these programs in /bin; gives its facts."""
    tree = guestfs.Tree()
    for program in programs:
        tree.program(program, f"bin/{os.path.basename(program)}")
    for source, path in (files or {}).items():
        tree.copy(source, path)
    root = guestfs.linux_vhost(lab.cache, tree, lab.path("initrd"))
    return Qemu(lab, script, [], memory=MEMORY, cpus=CPUS, params=params, root=root).wait()


def built(lab):
    """Every program of ours that may be of use in a guest."""
    found = glob.glob(os.path.join(lab.bindir, "*")) + glob.glob(os.path.join(lab.bindir, "../test-kernel-*"))
    return [path for path in found if os.path.isfile(path) and os.access(path, os.X_OK)]


def script(lab, path, programs):
    """Not a scenario: one script while it is being written."""
    lab.verbose = True
    guest(lab, "try", built(lab) + programs, files={path: "lab/try.sh"})
