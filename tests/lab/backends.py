# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The back-ends a front-end meets: ours, and those of qemu-storage-daemon and DPDK as the foreign references.

Started with a socket path, awaited until the kernel lists that socket as listening (no
connection is spent on finding out), stopped with SIGTERM.  A back-end that died early,
ends with a status other than 0 or has a sanitizer report on its standard error fails the
scenario, whatever the guest saw.
"""

import os
import re
import signal
import time

from lab import Child, Fail, Skip, check_sanitizers, need, tail
from proxy import Proxy

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
START_LIMIT = 10
STOP_LIMIT = 10
LISTENING = 0x10000     # __SO_ACCEPTCON in /proc/net/unix


class Backend:
    kind = "program"

    def __init__(self, lab, argv, name, socket, env=None):
        self.lab = lab
        self.name = name
        self.socket = socket
        self.child = Child(lab, name, argv, env=env)
        self._await_socket()
        lab.backends.append(self)
        lab.note(f"{name}: serves {socket}")
        if lab.proxies is not None:
            lab.proxies.append(Proxy(lab, socket, name=f"{name}-proxy"))
            self.socket = lab.proxies[-1].socket

    def _await_socket(self):
        end = time.monotonic() + START_LIMIT
        while not _is_listening(self.socket):
            if self.child.poll() is not None:
                self._die(f"ended at once with status {self.child.poll()}")
            if time.monotonic() > end:
                self._die(f"does not listen after {START_LIMIT} s")
            time.sleep(0.02)

    def check_alive(self):
        if self.child.poll() is not None:
            self._die(f"died with status {self.child.poll()} while it should serve")
        check_sanitizers(self.name, self.child.err())

    def stop(self):
        """SIGTERM must be a clean exit, and soon."""
        self.check_alive()
        self.lab.backends.remove(self)
        self.child.proc.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        status = self.child.wait(STOP_LIMIT)
        if status is None:
            self._die(f"ignores SIGTERM for {STOP_LIMIT} s")
        check_sanitizers(self.name, self.child.err())
        if status != 0:
            self._die(f"exit status {status} after SIGTERM")
        self.lab.note(f"{self.name}: stopped in {time.monotonic() - begin:.2f} s")

    def _die(self, why):
        check_sanitizers(self.name, self.child.err())
        raise Fail(f"{self.name}: {why}\n{' '.join(self.child.argv)}\n"
                   f"{tail(self.child.out_path)}{tail(self.child.err_path)}")


class VhkBlk(Backend):
    kind = "vhk"
    drains = True
    cache = "back"

    def __init__(self, lab, image, queues=1, readonly=False, serial=None, block_size=512,
                 options=(), name="vhk-blk", env=None, before=()):
        """@queues, @block_size None: its default; @before: a program that starts it (strace)."""
        self.serial = serial or ""
        socket = lab.path(f"{name}.sock")
        argv = [*before, lab.program("vhk-blk"), f"--socket-path={socket}", f"--blk-file={image}"]
        argv += [f"--num-queues={queues}"] if queues else []
        argv += [f"--logical-block-size={block_size}"] if block_size else []
        argv += ["--read-only"] if readonly else []
        argv += [f"--serial={serial}"] if serial else []
        super().__init__(lab, argv + list(options), name, socket, env)


class QsdBlk(Backend):
    """Its serial is fixed: it has no option for one.  Its configuration says "write through"
    until the driver has set something else.  It answers GET_VRING_BASE with requests in flight
    and drops the connection when one completes (7.2: "vu_panic: Error writing eventfd"), so a
    guest must be quiet when it is reset."""
    kind = "qsd"
    drains = False
    cache = "through"
    serial = "vhost_user_blk"

    def __init__(self, lab, image, queues=1, readonly=False, serial=None, block_size=512,
                 options=(), blockdev=None, name="qsd"):
        socket = lab.path(f"{name}.sock")
        blockdev = blockdev or f"file,filename={image},discard=unmap,read-only={'on' if readonly else 'off'}"
        argv = [need("qemu-storage-daemon", "qemu-system-common"),
                "--blockdev", f"{blockdev},node-name=disk",
                "--export", "vhost-user-blk,id=export,node-name=disk,addr.type=unix,"
                f"addr.path={socket},num-queues={queues},logical-block-size={block_size},"
                f"writable={'off' if readonly else 'on'}"]
        super().__init__(lab, argv + list(options), name, socket)


class DpdkNet(Backend):
    """testpmd with a vhost-user card: a frame that comes goes back with both addresses exchanged."""
    kind = "dpdk"

    def __init__(self, lab, pairs=1, name="dpdk"):
        socket = lab.path(f"{name}.sock")
        argv = [need("dpdk-testpmd", "dpdk-dev"), "-v", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", f"--file-prefix=vhostkit{os.getpid()}",
                f"--vdev=eth_vhost0,iface={socket},queues={pairs}", "--", "--forward-mode=macswap", "--auto-start",
                "--total-num-mbufs=4096", "--no-mlockall", "--stats-period=60", f"--rxq={pairs}", f"--txq={pairs}"]
        super().__init__(lab, argv, name, socket)

    def release(self):
        """22.11, as it says itself."""
        return re.search(r"DPDK (\d+\.\d+)", self.child.out() + self.child.err())[1]


class VhkRng(Backend):
    kind = "vhk"

    def __init__(self, lab, name="vhk-rng"):
        socket = lab.path(f"{name}.sock")
        argv = [lab.program("vhk-rng"), f"--socket-path={socket}"]
        super().__init__(lab, argv, name, socket)


class Readme(Backend):
    """The README's second program."""
    kind = "vhk"

    def __init__(self, lab):
        socket, source, program = lab.path("dice.sock"), lab.path("dice.c"), lab.path("dice")
        build = os.path.join(lab.bindir, "..")
        with open(os.path.join(TOP, "README.md")) as f:
            text = re.findall(r"```c\n(.*?)```", f.read(), re.S)[1]
        with open(source, "w") as f:
            f.write(text)
        libs = [os.path.join(build, "src/daemon"), os.path.join(build, "src")]
        lab.call([need("cc", "gcc"), source, "-o", program, f"-I{TOP}/include", *(f"-L{d}" for d in libs), *(f"-Wl,-rpath,{d}" for d in libs),
                  "-lvhostkit-daemon", "-lvhostkit"])
        super().__init__(lab, [program, f"--socket-path={socket}"], "dice", socket)


BLK = {"vhk": VhkBlk, "qsd": QsdBlk}


def blk(lab, image, **options):
    return BLK[lab.backend](lab, image, **options)


def rng(lab):
    if lab.backend != "vhk":
        raise Skip("qemu-storage-daemon serves no rng device")
    return VhkRng(lab)


def _is_listening(path):
    with open("/proc/net/unix") as f:
        for line in f:
            words = line.split()
            if len(words) == 8 and words[7] == path and int(words[3], 16) & LISTENING:
                return True
    return False
