# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Live migration between two QEMUs on this host, each with a vhk-blk of its own on the same image, while the
guest reads and writes: pre-copy, one that is cancelled, and postcopy."""

import hashlib
import os
import random
import re
import time

import backends
from lab import Fail, Skip, need
from machines import Qemu, vhost_user_device

MIB = 1 << 20
WORD = 204800           # sector that the host writes to, at 100 MiB; the guest's file system ends before it
FIRST, CHUNKS, CHUNK = 140, 56, MIB // 2        # what the guest reads: 28 MiB at 70 MiB
LIMIT = 100


DATA = random.Random(5).randbytes(CHUNKS * CHUNK)


def disk(lab, image, name, *options):
    os.environ["VHK_TRACE"] = "1"
    return backends.VhkBlk(lab, image, queues=2, options=options, name=name)


def machine(lab, served, name, *extra):
    device = vhost_user_device("blk", served.socket, num_queues=2)
    # A kernel that zeroes each page before use would have the processors mark all that the device writes to.
    return Qemu(lab, "migrate", [*device, *extra], cpus=2, name=name, boot=("init_on_alloc=0",),
                params={"word": WORD, "first": FIRST, "chunks": CHUNKS, "sum": hashlib.sha256(DATA).hexdigest()})


def status(qemu):
    return qemu.qmp("query-migrate").get("status", "none")


def await_status(lab, qemu, wanted):
    end = time.monotonic() + LIMIT
    while status(qemu) != wanted:
        lab.check_backends()
        if status(qemu) == "failed" or time.monotonic() > end:
            raise Fail(f"the migration is '{status(qemu)}' instead of '{wanted}': {qemu.qmp('query-migrate')}\n{qemu.child.err()}")
        time.sleep(0.05)


def say_moved(image):
    """The guest sees it on whichever side it is: the image is one file."""
    with open(image, "r+b") as f:
        f.seek(WORD * 512)
        f.write(b"moved")
        f.flush()


def messages(served):
    """What the front-end sent, from the back-end's trace."""
    return re.findall(r"> ([A-Z_]+.*)$", served.child.err(), re.M)


def check_log(served, switched_off):
    """The log was set, switched on for data and rings, and off again where the migration was cancelled."""
    said = messages(served)
    on = next((i for i, m in enumerate(said) if m.startswith("SET_LOG_BASE")), None)
    if on is None:
        raise Fail(f"{served.name}: no SET_LOG_BASE\n{served.child.err()[-3000:]}")
    after = said[on:]
    features = ["LOG_ALL" in m or "bit-26" in m for m in after if m.startswith("SET_FEATURES")]
    flags = [int(re.search(r"flags (0x[0-9a-f]+)", m)[1], 16) for m in after if m.startswith("SET_VRING_ADDR")]
    if not features or not features[0] or flags[:2] != [1, 1]:
        raise Fail(f"{served.name}: logging was not switched on: features {features}, flags {flags}\n" + "\n".join(after))
    off = not features[-1] and flags[-2:] == [0, 0]
    if switched_off != off:
        raise Fail(f"{served.name}: logging is {'off' if off else 'on'} at the end: features {features}, flags {flags}")


def begin(lab, *options, source_extra=(), capabilities=()):
    if lab.backend != "vhk":
        raise Skip("the migration of other back-ends is not our business")
    need("mkfs.ext4", "e2fsprogs")
    image = lab.image("disk.img", 128 * MIB)
    with open(image, "r+b") as f:
        f.seek(FIRST * CHUNK)
        f.write(DATA)
    here, there = disk(lab, image, "vhk-blk-1", *options), disk(lab, image, "vhk-blk-2", *options)
    source = machine(lab, here, "source", *source_extra)
    target = machine(lab, there, "target", "-incoming", "defer")
    source.await_fact("ready")
    channel = f"unix:{lab.path('migration.sock')}"
    for q in (source, target):
        for name in capabilities:
            q.qmp("migrate-set-capabilities", capabilities=[{"capability": name, "state": True}])
    target.qmp("migrate-incoming", uri=channel)
    return image, here, there, source, target, channel


def finish(lab, image, machine_that_runs, *served):
    if machine_that_runs.qmp("query-status")["status"] != "running":
        raise Fail(f"{machine_that_runs.name} does not run: {machine_that_runs.qmp('query-status')}")
    say_moved(image)
    facts = machine_that_runs.wait()
    lab.note(f"{facts['read']} chunks read, {facts['rounds']} files written")
    for s in served:
        s.stop()
    lab.call([need("e2fsck", "e2fsprogs"), "-fn", image])


def precopy(lab):
    image, here, there, source, target, channel = begin(lab)
    source.qmp("migrate-set-parameters", **{"max-bandwidth": 12 * MIB, "downtime-limit": 4000})
    source.qmp("migrate", uri=channel)
    await_status(lab, source, "completed")
    lab.note(f"moved: {source.qmp('query-migrate')['ram']['dirty-sync-count']} rounds of copying")
    check_log(here, switched_off=False)
    source.qmp("quit")
    source.child.wait(20)
    finish(lab, image, target, here, there)


def cancel(lab):
    """Cancelled in the middle: the source goes on, and nothing is marked any more."""
    image, here, there, source, target, channel = begin(lab)
    source.qmp("migrate-set-parameters", **{"max-bandwidth": 4 * MIB})
    source.qmp("migrate", uri=channel)
    await_status(lab, source, "active")
    time.sleep(2)
    source.qmp("migrate_cancel")
    await_status(lab, source, "cancelled")
    time.sleep(0.5)
    check_log(here, switched_off=True)
    target.child.kill()
    finish(lab, image, source, here, there)


def postcopy(lab):
    """The guest goes on at the target before its memory is there."""
    image, here, there, source, target, channel = begin(lab, "--postcopy", capabilities=["postcopy-ram"])
    source.qmp("migrate-set-parameters", **{"max-bandwidth": 4 * MIB, "max-postcopy-bandwidth": 30 * MIB})
    source.qmp("migrate", uri=channel)
    await_status(lab, source, "active")
    time.sleep(1)
    source.qmp("migrate-start-postcopy")
    await_status(lab, source, "completed")
    requests = source.qmp("query-migrate")["ram"]["postcopy-requests"]
    lab.note(f"moved: {requests} pages were asked for")
    if not requests:
        raise Fail("no page was asked for: this was no postcopy")
    said = messages(there)
    order = ["POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "SET_MEM_TABLE", "SET_VRING_KICK", "POSTCOPY_END"]
    at = [next((i for i, m in enumerate(said) if m.startswith(word)), None) for word in order]
    if None in at or at != sorted(at):
        raise Fail(f"{there.name}: not the order {order}:\n" + "\n".join(said))
    source.qmp("quit")
    source.child.wait(20)
    finish(lab, image, target, here, there)


def register(scenario):
    scenario("qemu-migrate-postcopy")(postcopy)
    scenario("qemu-migrate-precopy")(precopy)
    scenario("qemu-migrate-cancel")(cancel)
