# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Scenarios with the programs of a Debian 13 tree (debian13.py).

NAME-debian13 is the scenario NAME with the tree's QEMU, qemu-storage-daemon or DPDK in place of the machine's. The others meet
what Debian 12 does not have: the reference crates vhost and vhost-user-backend (tests/interop/rust), libblkio, virtiofsd, passt.

PEERS is what the README's table says of them; the versions are in debian13-versions.
"""

import collections
import json
import os
import random
import shutil
import socket
import threading
import time

import backends
import recordings
from backends import Backend
from debian13 import Tree
from lab import Fail, need
from proxy import Proxy

MIB = 1 << 20
INTEROP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../interop")
VERSIONS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "debian13-versions")
SUFFIX = "-debian13"

Peer = collections.namedtuple("Peer", "name package role device ours")
PEERS = {
    "qemu": Peer("QEMU", "qemu-system-x86", "front-end", "block", "`vhk-blk`"),
    "qemu-rng": Peer("QEMU", "qemu-system-x86", "front-end", "rng", "`vhk-rng`, the README's device in 20 lines"),
    "qsd": Peer("qemu-storage-daemon", "qemu-system-common", "back-end", "block", "`vhk`, `vhk_blk_*()`"),
    "dpdk": Peer("DPDK", "dpdk-dev", "back-end", "net", "`vhk_net_*()`"),
    "vhost": Peer("rust-vmm's crate vhost", "librust-vhost-dev", "front-end", "block", "`vhk-blk`"),
    "vhost-user-backend": Peer("rust-vmm's crate vhost-user-backend", "librust-vhost-user-backend-dev", "back-end", "block", "`vhk`, `vhk_blk_*()`"),
    "libblkio": Peer("libblkio", "libblkio-dev", "front-end", "block", "`vhk-blk`"),
    "qemu-img": Peer("QEMU's block layer on libblkio", "qemu-utils", "front-end", "block", "`vhk-blk`"),
    "virtiofsd": Peer("virtiofsd", "virtiofsd", "back-end", "fs", "`vhk probe`"),
    "passt": Peer("passt", "passt", "back-end", "net", "`vhk_net_*()`"),
}

# Of the twins, what `make check` runs; `make soak` runs all.
DEFAULT_TWINS = ("qemu-blk-4q-event-ind-256m", "qemu-blk-reboot", "qemu-kill9", "qemu-blk-readonly", "qemu-blk-resize", "qemu-viommu",
                 "qemu-hotplug", "qemu-migrate-precopy", "qemu-migrate-postcopy", "qemu-migrate-cancel", "qemu-rng-readme", "qsd-peer",
                 "trace-dpdk")


def twin_of(name):
    """Which of the peers does a scenario of the other lab meet in the tree? None: it has no twin."""
    if name.startswith("qemu-rng"):
        return "qemu-rng"
    if name.startswith("qemu-"):
        return "qemu"
    if name.startswith("qsd-"):
        return "qsd"
    return {"trace-dpdk": "dpdk"}.get(name)


def with_tree(run):
    """The scenario, with the tree's programs in place of the machine's."""
    def scenario(lab):
        lab.tree = Tree(lab.cache)
        with lab.tree.programs(lab):
            run(lab)
    return scenario


# ---- the reference crates ----

def crate(tree):
    return tree.crate(os.path.join(INTEROP, "rust"))


def rust(lab, name, *words):
    """The words that run one of the programs in interop/rust."""
    folder = crate(lab.tree)
    return lab.tree.argv([lab.tmp, folder], os.path.join(folder, name), *words)


def rust_front_end(lab):
    """Every request of the crate; then again with the dirty log, whose answer it takes in another form up to release 0.15."""
    image = lab.image("disk.img", 8 * MIB)
    disk = backends.VhkBlk(lab, image)
    proxy = Proxy(lab, disk.socket)
    steps(lab, proxy.socket, "--no-log")
    disk.stop()
    release = ".".join(lab.tree.version(PEERS["vhost"].package).split(".")[:2])
    recordings.keep(lab, "rust-front-end", proxy.trace(
        front_end=f"rust-vhost {release}", back_end="vhk-blk", device="block 2",
        what="each request of the crate, and two rounds of a write and a read"))
    disk = backends.VhkBlk(lab, image, options=["--quirk=log-reply-u64"], name="quirk")
    steps(lab, disk.socket)
    disk.stop()


def steps(lab, *words):
    said = lab.call(rust(lab, "front-end", *words), name="front-end").splitlines()
    lab.note(f"{len(said)} steps, last: {said[-1]}")


class NullDisk(Backend):
    """It keeps nothing, and ends of no signal with status 0."""
    kind = "rust"

    def __init__(self, lab, queues):
        path = lab.path("null.sock")
        super().__init__(lab, rust(lab, "null-disk", path, queues), "null-disk", path)

    def end(self):
        self.check_alive()
        self.lab.backends.remove(self)
        self.child.kill()


def rust_null_disk(lab):
    disk = NullDisk(lab, 4)
    vhk = lab.program("vhk")
    said = json.loads(lab.call([vhk, "probe", disk.socket, "--json", "--device=blk"]))
    if said["queues"] != 4 or said["config"]["block"]["capacity"] != 64 * MIB:
        raise Fail(f"vhk probe says {said}")
    for options in ((), ("--polling",), ("--size=65536",)):
        lab.call([vhk, "ping", disk.socket, "--count=50", "--interval-ms=0", *options])
    for options in (("--rw=randread", "--queues=4", "--depth=8"), ("--rw=write", "--write", "--poll"), ("--rw=randwrite", "--write")):
        said = json.loads(lab.call([vhk, "bench", disk.socket, "--seconds=1", "--json", *options]))
        if said["error"] is not None or said["requests"] < 10:
            raise Fail(f"bench {' '.join(options)} says {said}")
        lab.note(f"bench {' '.join(options)}: {said['iops']:.0f} IOPS")
    disk.end()


# ---- libblkio ----

def blkio_disk(tree):
    return tree.c_program(os.path.join(INTEROP, "blkio-disk.c"), "blkio")


def blkio(queues, how):
    def run(lab):
        image = lab.image("disk.img", 64 * MIB)
        disk = backends.VhkBlk(lab, image, queues=queues)
        program = blkio_disk(lab.tree)
        said = lab.call(lab.tree.argv([lab.tmp, os.path.dirname(program)], program, disk.socket, queues, how), name="blkio-disk")
        lab.note(said.strip())
        disk.stop()
        check_pattern(image, queues)
    return run


def check_pattern(image, queues):
    """What blkio-disk left in the first MiB of each queue's part, its pattern() in round 3."""
    with open(image, "rb") as f:
        for part in range(queues):
            f.seek(part * 8 * MIB)
            data = f.read(MIB)
            for at in range(0, MIB, 8):
                wanted = (at // 8 + 1) * 0x9e3779b97f4a7c15 & (1 << 64) - 1 ^ part << 56 ^ 3 << 48
                if int.from_bytes(data[at:at + 8], "little") != wanted:
                    raise Fail(f"part {part}: the file differs at byte {at}")


def blkio_qemu_img(lab):
    """QEMU's block layer copies a disk through libblkio, there and back: the same bytes."""
    data = random.Random(6).randbytes(16 * MIB)
    source, back, image = lab.path("source.img"), lab.path("back.img"), lab.image("disk.img", 32 * MIB)
    with open(source, "wb") as f:
        f.write(data + bytes(8 * MIB) + data[:8 * MIB])
    disk = backends.VhkBlk(lab, image, queues=2)
    target = f"driver=virtio-blk-vhost-user,path={disk.socket},cache.direct=on"
    qemu_img = need("qemu-img", "qemu-utils")
    lab.call([qemu_img, "convert", "-n", "-t", "none", "-f", "raw", "--target-image-opts", source, target], name="there")
    same(source, image, "the disk that was written to")
    lab.call([qemu_img, "convert", "-T", "none", "-O", "raw", "--image-opts", target, back], name="back")
    same(source, back, "the file that was read back")
    disk.stop()
    disk = backends.VhkBlk(lab, image, readonly=True, name="readonly")
    target = f"driver=virtio-blk-vhost-user,path={disk.socket},cache.direct=on"
    lab.call([qemu_img, "convert", "-n", "-t", "none", "-f", "raw", "--target-image-opts", source, target], status=1, name="refused")
    disk.stop()
    same(source, image, "the read-only disk")


def same(wanted, got, what):
    with open(wanted, "rb") as a, open(got, "rb") as b:
        if a.read() != b.read():
            raise Fail(f"{what} differs from what was copied")


# ---- virtiofsd ----

def virtiofsd(lab):
    """It ends after one connection, a probe included."""
    shared, path = lab.path("shared"), lab.path("fs.sock")
    os.mkdir(shared)
    argv = [need("virtiofsd", "virtiofsd"), f"--socket-path={path}", f"--shared-dir={shared}", "--tag=interop", "--sandbox=none"]
    daemon = Backend(lab, argv, "virtiofsd", path)
    said = json.loads(lab.call([lab.program("vhk"), "probe", path, "--json", "--device=fs"]))
    lab.note(f"vhk probe: {said['config']}")
    if said["config"]["fs"]["tag"] != "interop" or said["config"]["fs"]["n_request_queues"] != 1:
        raise Fail(f"vhk probe says {said['config']}")
    lab.backends.remove(daemon)
    if daemon.child.wait(20) != 0:
        raise Fail(f"virtiofsd did not end with status 0 after its connection: {daemon.child.err()}")


# ---- passt ----

def echo(listener):
    """Gives each datagram back, until the scenario ends."""
    while True:
        data, who = listener.recvfrom(2048)
        listener.sendto(data, who)


def passt(lab):
    """An address by DHCP, the router by ARP, 20,000 datagrams to the host and back."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    port = listener.getsockname()[1]
    path = lab.path("passt.sock")
    argv = [need("passt", "passt"), "--foreground", "--vhost-user", "--socket", path, "--runas", "0", "--ipv4-only", "--quiet",
            "--address", "10.9.0.2", "--netmask", "24", "--gateway", "10.9.0.1", "--map-host-loopback", "10.9.0.1"]
    card = Backend(lab, argv, "passt", path)
    for options in (["--frames=20000"], ["--frames=2000", "--no-merge"], ["--frames=2000", "--polling"]):
        said = lab.call([lab.program("test-net-stack"), card.socket, f"--port={port}", *options], timeout=120)
        lab.note(f"{' '.join(options)}: {said.splitlines()[-1]}")
    card.stop()


# ---- our own build ----

# A test that lacks a tool is skipped there, whatever CI says.
BUILD = """set -e
cd /root/vhostkit
unset CI
make
make demo
tools/check native
"""


def bare_build(lab):
    """A clone is built, shown and tested where there is nothing but git, make and python3."""
    tree = Tree(lab.cache, "debian13-bare", ("git", "make", "python3"))
    clone = os.path.join(tree.root, "root/vhostkit")
    shutil.rmtree(clone, ignore_errors=True)
    lab.call([need("git", "git"), "clone", "--quiet", os.path.realpath(backends.TOP), clone])
    said = lab.call(tree.argv([], "sh", "-c", BUILD), timeout=3600, name="build")
    lab.note(said.splitlines()[-1])
    shutil.rmtree(clone)


# ---- versions ----

def versions():
    """package -> version, as kept"""
    with open(VERSIONS) as f:
        return dict(line.split() for line in f if not line.startswith("#"))


def check_versions(lab):
    """What the README's table says. Later ones of the same Debian are no fault: `run debian13-versions --record` writes them down."""
    found = {peer.package: lab.tree.version(peer.package) for peer in PEERS.values()}
    kept = versions()
    if lab.record:
        with open(VERSIONS, "r+") as f:
            head = [line for line in f if line.startswith("#")]
            f.seek(0)
            f.truncate()
            f.writelines(head + [f"{package} {version}\n" for package, version in sorted(found.items())])
    elif set(found) != set(kept):
        raise Fail(f"debian13-versions names {sorted(kept)}, the table's packages are {sorted(found)} (--record)")
    for package in sorted(found):
        lab.note(f"{package} {found[package]}" + ("" if kept.get(package) == found[package] else f" (kept: {kept.get(package)})"))


def make(cache):
    """The tree and what is compiled in it; gives the seconds that it took."""
    begin = time.monotonic()
    tree = Tree(cache)
    crate(tree)
    blkio_disk(tree)
    return time.monotonic() - begin


def register(scenario, others):
    """@others: the scenarios that there are without the tree."""
    def add(name, peer, run, default=True, backend="vhk"):
        scenario(name, backend=backend, default=default, peer=peer)(with_tree(run))

    add("debian13-versions", None, check_versions)
    scenario("debian13-build", default=False)(bare_build)
    add("trace-rust-front-end", "vhost", rust_front_end)
    add("rust-null-disk", "vhost-user-backend", rust_null_disk, backend="rust")
    for queues in (1, 4):
        for how in ("interrupt", "poll"):
            add(f"blkio-{queues}q-{how}", "libblkio", blkio(queues, how))
    add("blkio-qemu-img", "qemu-img", blkio_qemu_img)
    add("virtiofsd-probe", "virtiofsd", virtiofsd, backend="virtiofsd")
    add("passt-udp", "passt", passt, backend="passt")
    for other in others:
        peer = twin_of(other.name)
        if peer:
            add(other.name + SUFFIX, peer, other.run, default=other.name in DEFAULT_TWINS, backend=other.backend)
