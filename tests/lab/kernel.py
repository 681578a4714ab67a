# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Scenarios in which our programs run inside a guest, as root, beside the kernel they drive: vhost-net, vhost-vsock,
vhost-scsi, vhost-vdpa and VDUSE.  The guest has no device of ours; QEMU is only where such a kernel can be had.

What the scenario kernel-NAME does is a script, guest/kernel-NAME.sh; guest/kernel-lib.sh is what those share.  kernel-NAME-6.12 is
the same on a newer kernel.  Whom they met there
("LAB witness.N=who | as | for | our program") is kept in kernel-witness, which the README's table is made from:
a scenario that sees something else fails, `run NAME --record` writes it anew.
"""

import fcntl
import glob
import itertools
import os
import re

import debian
import guestfs
from lab import Fail, need, read_text
from machines import Qemu

MEMORY = "1024M"
CPUS = 2
WITNESS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel-witness")
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", re.M)

# Its line "Runs: vhk, qemu-storage-daemon of qemu-system-common" names programs of ours and of packages.
RUNS = re.compile(r"^# Runs: (.*)$", re.M)


def scripts():
    """The scenarios' names on the oldest kernel; each is its script's."""
    found = (os.path.basename(path).removesuffix(".sh") for path in glob.glob(os.path.join(guestfs.GUEST, "kernel-*.sh")))
    return sorted(name for name in found if name != "kernel-lib")


def programs(lab, name):
    """The paths of what a script runs."""
    found = RUNS.search(read_text(os.path.join(guestfs.GUEST, f"{name}.sh")))
    words = [word.split(" of ") for word in found.group(1).split(", ")] if found else []
    return [need(*word) if word[1:] else lab.program(word[0]) for word in words]


def guest(lab, kernel, script, paths, files=None):
    """Runs a guest script with these programs in /bin; gives its facts, the programs' tests among them."""
    tree = guestfs.Tree()
    for program in paths:
        tree.program(program, f"bin/{os.path.basename(program)}")
    for source, path in (files or {}).items():
        tree.copy(source, path)
    root = guestfs.linux_vhost(lab.cache, kernel, tree, lab.path("initrd"))
    machine = Qemu(lab, script, [], memory=MEMORY, cpus=CPUS, root=root)
    facts = machine.wait()
    tests = [sum(int(n or 0) for n in column) for column in zip(*SUMMARY.findall(read_text(machine.console)))]
    if tests:
        lab.note("{} passed, {} failed, {} skipped".format(*tests))
    return facts


def run(name, kernel):
    def scenario(lab):
        facts = guest(lab, kernel, name, programs(lab, name))
        for fact in sorted(facts):
            if fact.endswith(".seconds"):
                lab.note(f"{fact[:-len('.seconds')]}: {facts[fact]} s")
        keep(lab, full_name(name, kernel), facts)
    return scenario


def full_name(name, kernel):
    return name if kernel == debian.OLDEST else f"{name}-{kernel}"


def script_of(name):
    return next((name.removesuffix(f"-{kernel}") for kernel in debian.KERNELS if name.endswith(f"-{kernel}")), name)


# ---- whom they met ----

def kept():
    """scenario -> lines of (version, who, as, for, our program)"""
    found = {}
    with open(WITNESS) as f:
        for line in f:
            if not line.startswith("#"):
                name, *words = line.rstrip("\n").split(" | ")
                found.setdefault(name, []).append(tuple(words))
    return found


def keep(lab, name, facts):
    seen = [(facts["version"], *fact.split(" | ")) for n, fact in sorted(facts.items()) if n.startswith("witness.")]
    if lab.record:
        with open(WITNESS, "r+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            head = [line for line in f if line.startswith("#")]
            everything = dict(kept(), **{name: seen})
            f.seek(0)
            f.truncate()
            f.writelines(head + [" | ".join((n, *words)) + "\n" for n in sorted(everything) for words in everything[n]])
        return
    # The kernel's version is the one there was then.
    if [words[1:] for words in seen] != [words[1:] for words in kept().get(name, [])]:
        raise Fail(f"{name}: not whom kernel-witness names (--record writes it anew): {seen}")


# ---- for `run` ----

def built(lab):
    """Every program of ours that may be of use in a guest."""
    found = glob.glob(os.path.join(lab.bindir, "*")) + glob.glob(os.path.join(lab.bindir, "../test-kernel-*"))
    return [path for path in found if os.path.isfile(path) and os.access(path, os.X_OK)]


def script(lab, kernel, path, others):
    """Not a scenario: one script while it is being written."""
    lab.verbose = True
    guest(lab, kernel, "try", built(lab) + others, files={path: "lab/try.sh"})


def register(scenario):
    for name, kernel in itertools.product(scripts(), debian.KERNELS):
        scenario(full_name(name, kernel), backend=f"Linux {kernel}")(run(name, kernel))
