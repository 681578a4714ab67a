# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What the real front-ends say: each scenario here puts a proxy between one of them and a back-end.

Without more, such a scenario compares what was said with the trace in the tree: the same kinds of
messages must come, so that the traces, which tests/replay.c plays and the witness column of
messages.def is made from, stay true.  `run NAME --traces DIR` writes the trace instead.
"""

import os
import re
import socket
import struct
import subprocess

import backends
import traces
from lab import Child, Fail, need
from machines import QEMU_PACKAGE, Qemu, Uml, vhost_user_device
from proxy import Proxy
from qtest import Device, Qtest

MIB = 1 << 20
RING_BITS = 3 << 28             # INDIRECT_DESC and EVENT_IDX
PASSES_ON = ("rng", "i2c")      # QEMU takes those though they are not offered


class AnyDevice(backends.Backend):
    kind = "vhk"

    def __init__(self, lab, device, *options):
        path = lab.path("any-device.sock")
        argv = [lab.program("any-device"), f"--socket-path={path}", f"--device={device}", *options]
        super().__init__(lab, argv, "any-device", path)


def version(program, package, pattern):
    said = subprocess.run([need(program, package), "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(pattern, said)[1]


def qemu():
    return "QEMU " + version("qemu-system-x86_64", QEMU_PACKAGE, r"version (\d+\.\d+)")


def uml():
    return "UML " + version("linux.uml", "user-mode-linux", r"(\d+\.\d+)")


def qsd():
    return "qemu-storage-daemon " + version("qemu-storage-daemon", "qemu-system-common", r"version (\d+\.\d+)")


def keep(lab, name, recorded, seldom=()):
    """Writes the trace, or holds it against the kept one.  @seldom: messages whose coming is a
    matter of time."""
    if lab.traces:
        recorded.write(os.path.join(lab.traces, f"{name}.trace"))
        lab.note(f"{name}.trace: {len(recorded.messages)} messages")
        return
    kept = traces.Trace.read(os.path.join(traces.TRACES, f"{name}.trace"))
    now, then = ({f"{m.direction} {traces.name(m)}" for m in t.messages} for t in (recorded, kept))
    changed = {word for word in now ^ then if word.split()[1] not in seldom}
    if changed:
        raise Fail(f"{name}: not as in the kept trace (--traces tests/traces writes it anew): {', '.join(sorted(changed))}")


MOST = 8                        # so many of a kind are worth reading
MANY = {(">", 22), ("}", 1), (">", 35), ("}", 4)}       # translations; notifications as messages


def strip(messages):
    """Without most of the messages that come by the thousand; and their answers."""
    kept, n, due = [], {}, {key: [] for key in MANY}
    for m in messages:
        keep_it = True
        if (m.direction, m.id) in MANY:
            kind = (m.direction, m.id, m.payload[25:26])
            n[kind] = n.get(kind, 0) + 1
            keep_it = n[kind] <= MOST
            due[m.direction, m.id].append(keep_it)
        elif ({"<": ">", "{": "}"}.get(m.direction), m.id) in MANY:
            keep_it = due[">" if m.direction == "<" else "}", m.id].pop(0)
        if keep_it:
            kept.append(m)
    return kept


def write(lab, name):
    """What any other scenario's front-end and back-ends said: a trace for each connection."""
    for proxy in lab.proxies or ():
        for n, messages in enumerate(proxy.traces):
            facts = {"front-end": uml() if name.startswith("uml") else qemu(), "back-end": "vhk-blk",
                     "device": "block 2", "what": f"{name}, {proxy.name[:-6]}, connection {n}"}
            path = os.path.join(lab.traces, f"{name}-{proxy.name[:-6]}-{n}.trace")
            traces.Trace(facts, strip(messages)).write(path)
            lab.note(f"{path}: {len(messages)} messages")


# ---- QEMU with Linux ----

LINUX = {       # kind -> (any-device's name, virtio id, module, what the guest does, QEMU's arguments)
    "net": ("net", 1, "virtio_net", "network", lambda s: [
        "-chardev", f"socket,id=c,path={s}", "-netdev", "vhost-user,id=n,chardev=c,queues=2",
        "-device", "virtio-net-pci,netdev=n,mq=on,vectors=0,host_mtu=1400"]),
    "rng": ("rng", 4, "virtio-rng", "random", lambda s: vhost_user_device("rng", s)),
    "scsi": ("scsi", 8, "virtio_scsi", "nothing", lambda s: vhost_user_device("scsi", s)),
    "vsock": ("vsock", 19, "vmw_vsock_virtio_transport", "nothing", lambda s: vhost_user_device("vsock", s)),
    "fs": ("fs", 26, "virtiofs", "nothing", lambda s: vhost_user_device("fs", s, tag="lab")),
}


def linux_on_qemu(kind):
    device, virtio_id, module, what, arguments = LINUX[kind]

    def run(lab):
        back = AnyDevice(lab, device)
        proxy = Proxy(lab, back.socket, hide=RING_BITS if kind in PASSES_ON else 0)
        Qemu(lab, "driver", arguments(proxy.socket), params={"module": module, "do": what}).wait()
        back.stop()
        keep(lab, f"qemu-{kind}", proxy.trace(
            front_end=qemu(), back_end="any-device", device=f"{kind} {virtio_id}",
            what=f"Linux takes the device with {module}, gives it back, takes it again and ends"))
    return run


def qemu_blk(lab):
    """Two boots, requests in flight at the first one's end."""
    disk = backends.VhkBlk(lab, lab.image("disk.img", 128 * MIB), queues=4)
    proxy = Proxy(lab, disk.socket)
    Qemu(lab, "again", vhost_user_device("blk", proxy.socket, num_queues=4), cpus=2, reboots=True,
         params={"boots": 2, "end": "reboot", "load": 1}).wait()
    disk.stop()
    keep(lab, "qemu-blk", proxy.trace(
        front_end=qemu(), back_end="vhk-blk", device="block 2",
        what="four rings offered, two used: BIOS, Linux with ext4, a reboot under load, Linux again"))


# ---- QEMU with a driver over qtest ----

def sleeping_bios(lab):
    """The machine must run, or QEMU starts no device; its processor need not."""
    path = lab.path("bios")
    with open(path, "wb") as f:
        f.write(bytes(0x1fff0) + b"\xfa\xf4\xeb\xfd" + bytes(12))    # cli; hlt; jmp to the hlt
    return path


CRYPTO = ["-object", "cryptodev-vhost-user,id=o,chardev=c",
          "-device", "virtio-crypto-pci,cryptodev=o,vectors=0,addr=8"]
# virtio 1.3, 5.9.7.2: the cipher AES-CBC, encryption, with a key of 16 bytes; then session 1 is destroyed.
CREATE_SESSION = struct.pack("<IIII IIII 32x II", 2, 3, 0, 0, 3, 16, 1, 0, 1, 0) + bytes(range(16))
CLOSE_SESSION = struct.pack("<IIII Q 48x", 3, 3, 0, 0, 1)


def over_qtest(kind, virtio_id, n_queues, requests, words=None):
    """@requests: (queue, bytes out, number of bytes in) each; @words: QEMU's arguments behind the
    chardev c."""
    def run(lab):
        back = AnyDevice(lab, kind)
        proxy = Proxy(lab, back.socket, hide=RING_BITS if kind in PASSES_ON else 0)
        path = lab.path("qtest")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listener.settimeout(30)
        child = Child(lab, "qemu", [
            need("qemu-system-x86_64", QEMU_PACKAGE), "-M", "q35,memory-backend=mem", "-accel", "tcg", "-bios", sleeping_bios(lab), "-m", "64M",
            "-object", "memory-backend-memfd,id=mem,size=64M,share=on", "-nodefaults", "-no-user-config",
            "-display", "none", "-vga", "std", "-qtest", f"unix:{path}", "-qtest-log", "/dev/null",
            "-chardev", f"socket,id=c,path={proxy.socket}",
            *(words or ["-device", f"vhost-user-{kind}-pci,chardev=c,addr=8"])])
        try:
            qtest = Qtest(listener.accept()[0])
        except TimeoutError:
            raise Fail(f"QEMU does not connect: {child.err()}") from None
        listener.close()
        device = Device(qtest, 8)
        for _ in (1, 2):
            lab.note(f"features {device.negotiate():#x}")
            device.start(n_queues, 1 << 20)
            for request in requests:
                device.request(*request)
            device.status(0)
        qtest.close()
        child.kill()
        back.stop()
        if child.err():
            raise Fail(f"QEMU says: {child.err()}")
        keep(lab, f"qemu-{kind}", proxy.trace(
            front_end=qemu(), back_end="any-device", device=f"{kind} {virtio_id}",
            what=f"a driver over qtest takes the device, makes {len(requests)} requests, resets it, and all again"))
    return run


# ---- User-Mode Linux ----

def on_uml(kind, start, virtio_id, module, what):
    def run(lab):
        back = start(lab)
        proxy = Proxy(lab, back.socket)
        Uml(lab, "driver", [(proxy.socket, virtio_id)], params={"module": module, "do": what}).wait()
        back.stop()
        keep(lab, f"uml-{'blk' if virtio_id == 2 else kind}", proxy.trace(
            front_end=uml(), back_end=back.name, device=f"{kind} {virtio_id}",
            what=f"Linux takes the device with {module}, gives it back, takes it again and ends"))
    return run


# ---- our front-end on a foreign back-end ----

def qsd_blk(lab):
    disk = backends.QsdBlk(lab, lab.image("disk.img", 8 * MIB), queues=2)
    proxy = Proxy(lab, disk.socket)
    for words in (["probe"], ["ping", "--count=3", "--interval-ms=0", "--write"], ["bench", "--seconds=1", "--queues=2"]):
        lab.call([lab.program("vhk"), words[0], f"vhost-user:{proxy.socket}", *words[1:]])
    disk.stop()
    for n, words in enumerate(("probe", "ping", "bench")):
        keep(lab, f"qsd-{words}", proxy.trace(
            n, front_end="vhk", back_end=qsd(), device="block 2", what=f"vhk {words}"))


NET_RUNS = (1, ["--frames=20000"]), (1, ["--frames=20000", "--no-merge"]), (1, ["--frames=300", "--polling"]), (2, ["--frames=2000"])


def dpdk_net(lab):
    """Frames there and back; the first run is what is said."""
    for n, (pairs, options) in enumerate(NET_RUNS):
        card = backends.DpdkNet(lab, pairs, f"dpdk-{n}")
        proxy = Proxy(lab, card.socket, name=f"proxy-{n}")
        lab.call([lab.program("test-net-peer"), proxy.socket, f"--pairs={pairs}", *options])
        if n == 0:
            recorded = proxy.trace(front_end="vhk_net", back_end=f"DPDK {card.release()}", device="net 1", what="frames there and back")
        card.stop()
    keep(lab, "dpdk-net", recorded)


def register(scenario):
    scenario("trace-qemu-blk")(qemu_blk)
    for kind in LINUX:
        scenario(f"trace-qemu-{kind}")(linux_on_qemu(kind))
    scenario("trace-qemu-i2c")(over_qtest("i2c", 34, 1, 3 * [(0, bytes([0x20, 0, 0, 0, 1, 0, 0, 0]), 1)]))
    scenario("trace-qemu-gpio")(over_qtest("gpio", 41, 2, 3 * [(0, bytes([2, 0, 1, 0, 0, 0, 0, 0]), 2)]))
    scenario("trace-qemu-crypto")(over_qtest(
        "crypto", 20, 2, [(1, CREATE_SESSION, 16), (0, bytes(128), 16), (1, CLOSE_SESSION, 16)], CRYPTO))
    scenario("trace-uml-blk")(on_uml("block", lambda lab: backends.VhkBlk(lab, lab.image("disk.img", 8 * MIB)),
                                     2, "virtio_blk", "read_disk"))
    scenario("trace-uml-net")(on_uml("net", lambda lab: AnyDevice(lab, "net-plain"), 1, "virtio_net", "network"))
    scenario("trace-qsd", backend="qsd")(qsd_blk)
    scenario("trace-dpdk")(dpdk_net)
