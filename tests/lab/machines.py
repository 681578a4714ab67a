# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The foreign front-ends: QEMU (TCG only, never KVM) and User-Mode Linux.

A guest script speaks to the host over the console: "LAB name=value" is a fact,
"LAB-PASS" and "LAB-FAIL reason" are its verdict.  A machine has a hard time limit and is
killed at a kernel panic; its console is part of every failure message.
"""

import json
import os
import re
import socket
import subprocess
import time

import guestfs
from lab import Child, Fail, need, read_text, tail

QEMU_PACKAGE = "qemu-system-x86"
TIME_LIMIT = 150


class Machine:
    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.console = lab.path(f"{name}.console")
        self.child = None
        self.seen = 0
        self.may_complain = False       # its back-end is taken away on purpose
        self.tolerated = "warning:"     # complaints that are none (a regular expression)

    def await_fact(self, name, timeout=TIME_LIMIT):
        """Waits until the guest, which goes on, has said a fact."""
        end = time.monotonic() + timeout
        while not re.search(f"^LAB {name}=", read_text(self.console), re.M):
            self._echo()
            self.lab.check_backends()
            if self.child.poll() is not None or time.monotonic() > end:
                self._die(f"ended, or {timeout} s are over, before it said '{name}'")
            time.sleep(0.1)

    def wait(self, expect_status=0, timeout=TIME_LIMIT):
        """Waits for the guest to power off, judges its verdict, gives its facts."""
        end = time.monotonic() + timeout
        while self.child.wait(0.1) is None:
            self._echo()
            self.lab.check_backends()
            self._check_complaints()
            if time.monotonic() > end:
                self._die(f"not finished after {timeout} s")
            if re.search(r"Kernel panic|end Kernel panic", read_text(self.console)):
                time.sleep(0.3)     # let the rest of the message out
                self._die("the guest's kernel panicked")
        self._echo()
        self._check_complaints()
        log = read_text(self.console)
        verdict = re.findall(r"^LAB-(PASS|FAIL)(.*)", log, re.M)
        for word, why in verdict:
            if word == "FAIL":
                self._die(f"the guest says:{why}")
        status = self.child.poll()
        if status != expect_status:
            self._die(f"ended with status {status}")
        if not verdict:
            self._die("ended without a verdict")
        self.lab.note(f"{self.name}: guest passed")
        return dict(re.findall(r"^LAB ([\w.-]+)=(.*?)\s*$", log, re.M))

    def _echo(self):
        """With --verbose: each console line when it comes."""
        if self.lab.verbose:
            lines = read_text(self.console).split("\n")[:-1]
            for line in lines[self.seen:]:
                self.lab.note(f"{self.name}> {line}")
            self.seen = len(lines)

    def _check_complaints(self):
        """QEMU goes on after most faults of a back-end, but it says them."""
        for line in [] if self.may_complain else self.child.err().splitlines():
            if not re.search(self.tolerated, line) and line.startswith("qemu-system"):
                self._die("the front-end complains of its device")

    def _die(self, why):
        self.child.kill()
        raise Fail(f"{self.name}: {why}\n{tail(self.console)}{tail(self.child.err_path)}"
                   + "".join(tail(b.child.err_path) for b in self.lab.backends))


def script_words(script, params):
    """Kernel command line: it hands what it does not know to init as environment variables.
    The prefix keeps our words apart from those it does know."""
    return [f"t={script}"] + [f"lab_{k}={v}" for k, v in (params or {}).items()]


class Qemu(Machine):

    def __init__(self, lab, script, devices, memory="256M", cpus=1, params=None,
                 reboots=False, name="qemu", slots="", boot=(), root=None):
        super().__init__(lab, name)
        self.qmp_path = lab.path(f"{name}.qmp")
        qemu = need("qemu-system-x86_64", QEMU_PACKAGE)
        kernel, initrd = root or guestfs.linux(lab.cache)
        words = ["console=ttyS0", "quiet", "panic=-1", *boot, *script_words(script, params)]
        # -vga: its hole splits low memory into two regions, as in most real guests.
        argv = [qemu, "-M", "q35,memory-backend=mem", "-accel", "tcg,thread=multi", "-cpu", "max",
                "-smp", cpus, "-m", memory + slots, "-nodefaults", "-no-user-config", "-display", "none",
                "-vga", "std", "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
                "-object", f"memory-backend-memfd,id=mem,size={memory},share=on",
                "-serial", f"file:{self.console}", *devices,
                "-kernel", kernel, "-initrd", initrd, "-append", " ".join(words)]
        if not reboots:
            argv.append("-no-reboot")
        self.child = Child(lab, name, argv)

    def qmp(self, command, **arguments):
        """One command on a connection of its own."""
        try:
            reply = self._qmp({"execute": command, "arguments": arguments})
        except (OSError, ValueError) as e:
            self._die(f"{command}: {e}")
        if "return" not in reply:
            raise Fail(f"{self.name}: {command}: {reply}")
        return reply["return"]

    def _qmp(self, request):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(self.qmp_path)
            with s.makefile("rw") as f:
                f.readline()
                for line in ({"execute": "qmp_capabilities"}, request):
                    f.write(json.dumps(line) + "\n")
                    f.flush()
                    reply = {"event": ""}
                    while "event" in reply:
                        reply = json.loads(f.readline())
        return reply

    def vhost(self):
        """What QEMU itself says of its one vhost-user device."""
        path = self.qmp("x-query-virtio")[0]["path"]
        return self.qmp("x-query-virtio-status", path=path)["vhost-dev"]


def reconnect_option(seconds):
    """Of a chardev, so that QEMU connects again after so many seconds: reconnect-ms= came with 9.2, and reconnect= went with 10.2."""
    said = subprocess.run([need("qemu-system-x86_64", QEMU_PACKAGE), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)\.(\d+)", said)
    if tuple(int(n) for n in version.groups()) >= (9, 2):
        return f"reconnect-ms={1000 * seconds}"
    return f"reconnect={seconds}"


def vhost_user_device(kind, socket, **properties):
    """QEMU's arguments for one vhost-user device behind a socket."""
    extra = "".join(f",{k.replace('_', '-') if k in ('num_queues', 'queue_size') else k}={v}"
                    for k, v in properties.items())
    return ["-chardev", f"socket,id=c-{kind},path={socket}",
            "-device", f"vhost-user-{kind}-pci,chardev=c-{kind}{extra}"]


class Uml(Machine):
    """A Linux kernel as a process, its root a directory of ours, read-only."""

    def __init__(self, lab, script, devices, files=None, params=None, name="uml"):
        super().__init__(lab, name)
        root = lab.path(f"{name}-root")
        os.mkdir(root)
        uml = guestfs.uml_root(root)
        for path, data in (files or {}).items():
            with open(os.path.join(root, path), "wb") as f:
                f.write(data)
        argv = [uml, "mem=128M", "rootfstype=hostfs", f"rootflags={root}", "ro", "quiet",
                "init=/init", "con=null", "con0=null,fd:1", "ssl=null", "panic=-1",
                *script_words(script, params)]
        argv += [f"virtio_uml.device={socket}:{virtio_id}:{n}"
                 for n, (socket, virtio_id) in enumerate(devices)]
        self.child = Child(lab, name, argv, env={"TMPDIR": lab.shm_dir(), "HOME": lab.tmp})
        self.console = self.child.out_path
