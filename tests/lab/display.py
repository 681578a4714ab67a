# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Graphics cards: QEMU shows what our device draws, and we show what QEMU's device draws.

QEMU 7.2's vhost-user-gpu refuses to start without KVM's eventfds, though it needs none (8.0 does not
ask any more).  A debugger steps over that one question; everything behind it is QEMU as it is.
"""

import json
import os
import re
import socket
import subprocess
import time

import backends
import recordings
from lab import Child, Fail, Skip, need
from machines import QEMU_PACKAGE
from proxy import Proxy
from qtest import Device, Qtest

WIDTH, HEIGHT = 32, 16                  # any-device's picture
CORNER = (WIDTH - 8, HEIGHT - 4)        # from here on it is white
# Says yes to both questions ("KVM?", "with eventfds?"), and no again as soon as they were asked.
STEP_OVER = """\
set pagination off
set confirm off
set debuginfod enabled off
set startup-with-shell off
handle SIGPIPE nostop noprint pass
handle SIGUSR1 nostop noprint pass
break vhost_user_backend_dev_init
run
set {char}&kvm_allowed = 1
set {char}&kvm_eventfds_allowed = 1
tbreak vhost_user_init
continue
set {char}&kvm_allowed = 0
set {char}&kvm_eventfds_allowed = 0
delete
continue
"""
NO_GL = "console doesn't support GL"    # QEMU's remark on a dma-buf without a window that has it; it answers all the same


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rw")
        self.lines.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        reply = {"event": ""}
        while "event" in reply:
            reply = json.loads(self.lines.readline())
        if "return" not in reply:
            raise Fail(f"{command}: {reply}")
        return reply["return"]


def pixel(x, y):
    return (255, 255, 255) if x >= CORNER[0] and y >= CORNER[1] else (8 * x, 16 * y, 0x7f)


def check_picture(path):
    """A PPM of exactly what was drawn."""
    with open(path, "rb") as f:
        head, size, depth, data = f.read().split(b"\n", 3)
    if (head, size, depth) != (b"P6", b"%d %d" % (WIDTH, HEIGHT), b"255"):
        raise Fail(f"the screen is {head} {size} {depth}, not {WIDTH} x {HEIGHT}")
    for y in range(HEIGHT):
        for x in range(WIDTH):
            got = tuple(data[3 * (y * WIDTH + x):][:3])
            if got != pixel(x, y):
                raise Fail(f"pixel {x}, {y} is {got}, expected {pixel(x, y)}")


def await_lines(lab, back, text, n):
    """Until the device has said @text @n times."""
    for _ in range(600):
        if back.child.err().count(text) >= n:
            return
        back.check_alive()
        time.sleep(0.05)
    raise Fail(f"the device did not say '{text}' {n} times:\n{back.child.err()}")


def debugger():
    """A container may forbid it to look into other programs."""
    gdb = need("gdb", "gdb")
    said = subprocess.run([gdb, "-nx", "-batch", "-ex", "set startup-with-shell off", "-ex", "run", "--args", need("true", "coreutils")],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    if "exited normally" not in said:
        raise Skip("gdb may not run programs here (ptrace)")
    return gdb


def qemu_gpu(lab):
    gdb = debugger()
    back = recordings.AnyDevice(lab, "gpu")
    proxy = Proxy(lab, back.socket, hide=recordings.RING_BITS)
    script = lab.path("step-over.gdb")
    with open(script, "w") as f:
        f.write(STEP_OVER)
    qtest_path, qmp_path = lab.path("qtest"), lab.path("qmp")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(qtest_path)
    listener.listen()
    listener.settimeout(60)
    child = Child(lab, "qemu", [
        gdb, "-nx", "-batch", "-x", script, "--args",
        need("qemu-system-x86_64", QEMU_PACKAGE), "-M", "q35,memory-backend=mem", "-accel", "tcg", "-bios", recordings.sleeping_bios(lab),
        "-m", "64M", "-object", "memory-backend-memfd,id=mem,size=64M,share=on", "-nodefaults", "-no-user-config",
        "-display", "none", "-vga", "none", "-qtest", f"unix:{qtest_path}", "-qtest-log", "/dev/null",
        "-qmp", f"unix:{qmp_path},server=on,wait=off", "-chardev", f"socket,id=c,path={proxy.socket}",
        "-device", "vhost-user-gpu-pci,id=gpu,chardev=c,addr=8"])
    try:
        qtest = Qtest(listener.accept()[0])
    except TimeoutError:
        raise Fail(f"QEMU does not connect: {child.out()}{child.err()}") from None
    listener.close()
    device = Device(qtest, 8)
    qmp = Qmp(qmp_path)
    shot = lab.path("screen.ppm")
    for n in (1, 2):                    # a socket for each life of the device
        lab.note(f"features {device.negotiate():#x}")
        device.start(2, 1 << 20)
        await_lines(lab, back, "the update was shown: Success", n)
        qmp("screendump", filename=shot, device="gpu")
        check_picture(shot)
        os.unlink(shot)
        device.status(0)
    qtest.close()
    child.kill()
    back.stop()
    said = back.child.err()
    if said.count("scanout 0 is 1280 x 800: Success") != 2:
        raise Fail(f"QEMU did not tell its sizes:\n{said}")
    for line in child.err().splitlines():
        if line and not re.search(NO_GL, line):
            raise Fail(f"QEMU says: {line}")
    recordings.keep(lab, "qemu-gpu", proxy.trace(
        front_end=recordings.qemu(), back_end="any-device", device="gpu 16",
        what="a driver over qtest takes the device, which draws; what QEMU shows is looked at; it is reset, and all again"))


# ---- QEMU's device ----

DEVICE, DEVICE_PACKAGE = "/usr/lib/qemu/vhost-user-gpu", "qemu-system-gui"


class VhostUserGpu(backends.Backend):
    """Serves one connection and ends with it."""

    def __init__(self, lab):
        if not os.access(DEVICE, os.X_OK):
            raise Skip(f"{DEVICE} is missing: apt-get install {DEVICE_PACKAGE}")
        path = lab.path("vhost-user-gpu.sock")
        super().__init__(lab, [DEVICE, "-s", path], "vhost-user-gpu", path)

    def await_end(self):
        self.lab.backends.remove(self)
        if self.child.wait(10) is None:
            raise Fail(f"vhost-user-gpu goes on without its front-end:\n{self.child.err()}")


def device_version():
    said = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", DEVICE_PACKAGE], capture_output=True, text=True, check=True).stdout
    return "vhost-user-gpu " + re.search(r"(?:\d+:)?(\d+\.\d+)", said)[1]


def gpu_window(lab):
    device = VhostUserGpu(lab)
    proxy = Proxy(lab, device.socket)
    lab.note(lab.call([lab.program("gpu-window"), f"vhost-user:{proxy.socket}"]).strip())
    device.await_end()
    recordings.keep(lab, "gpu-window", proxy.trace(
        front_end="gpu-window", back_end=device_version(), device="gpu 16",
        what="gpu-window draws a picture and a cursor, and sees both"))


def register(scenario):
    scenario("trace-qemu-gpu")(qemu_gpu)
    scenario("trace-gpu-window")(gpu_window)
