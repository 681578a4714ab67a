# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What a guest boots: Debian's kernel (debian.py), its modules, and a root made of busybox and our scripts.

A Tree is the root file system as a dictionary.  It is written out either as an initramfs
(newc cpio, made here: no root and no device nodes needed) or as a plain directory for
User-Mode Linux.  Both are cached and made anew when any byte that goes in has changed.
"""

import glob
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import time

import debian
from lab import Skip, need

GUEST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest")
KERNEL_MODULES = ("virtio_pci", "virtio_blk", "virtio_mem", "virtio-rng", "ext4", "virtio_net", "virtio_scsi",
                  "vmw_vsock_virtio_transport", "virtio_crypto", "virtiofs")
VHOST_MODULES = ("vhost_net", "vhost_vsock", "vhost_scsi", "tun", "target_core_file", "vsock_loopback", "virtio_blk",
                 "virtio_net", "ext4", "vdpa_sim", "vdpa_sim_blk", "vdpa_sim_net", "vduse", "vhost_vdpa", "virtio_vdpa")
GUEST_PROGRAMS = (("mkfs.ext4", "e2fsprogs"), ("blkdiscard", "util-linux"))
VHOST_PROGRAMS = (("e2fsck", "e2fsprogs"), ("vdpa", "iproute2"))
UML_MODULES = {"virtio_blk": (), "virtio_net": ("failover", "net_failover")}         # and what each needs


class Tree:
    """path -> (mode, bytes); parents are made on the way."""

    def __init__(self):
        self.entries = {}
        for d in ("proc", "sys", "dev", "tmp", "mnt", "root"):
            self.directory(d)

    def directory(self, path):
        parent = os.path.dirname(path)
        if parent:
            self.directory(parent)
        self.entries.setdefault(path, (stat.S_IFDIR | 0o755, b""))

    def put(self, path, data, mode=0o644, kind=stat.S_IFREG):
        path = path.lstrip("/")
        self.directory(os.path.dirname(path))
        self.entries[path] = (kind | mode, data)

    def link(self, path, target):
        self.put(path, target.encode(), 0o777, stat.S_IFLNK)

    def copy(self, source, path, mode=0o644):
        with open(source, "rb") as f:
            self.put(path, f.read(), mode)

    def program(self, source, path):
        """A program and the shared libraries it is linked with."""
        self.copy(source, path, 0o755)
        ldd = subprocess.run(["ldd", source], capture_output=True, text=True, check=False)
        for lib in re.findall(r"(/\S+) \(0x", ldd.stdout):
            self.copy(lib, lib, 0o755)

    def busybox(self):
        busybox = need("busybox", "busybox-static")
        self.program(busybox, "bin/busybox")
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for applet in applets.stdout.split():
            if applet != "busybox":
                self.link(f"bin/{applet}", "busybox")
        # busybox's own dd turns O_DIRECT off without a word when its buffer is not aligned.
        self.program(need("dd", "coreutils"), "sbin/dd")

    def scripts(self):
        for script in sorted(os.listdir(GUEST)):
            self.copy(os.path.join(GUEST, script), f"lab/{script}", 0o755)
        self.link("init", "lab/init.sh")

    def digest(self):
        h = hashlib.sha256()
        for path, (mode, data) in sorted(self.entries.items()):
            h.update(f"{path}\0{mode}\0{len(data)}\0".encode())
            h.update(data)
        return h.hexdigest()[:16]

    def write_cpio(self, f):
        for ino, (path, (mode, data)) in enumerate(sorted(self.entries.items()), 1):
            _cpio_entry(f, ino, path, mode, data)
        _cpio_entry(f, 0, "TRAILER!!!", 0, b"")

    def write_directory(self, root):
        for path, (mode, data) in sorted(self.entries.items()):
            full = os.path.join(root, path)
            if stat.S_ISDIR(mode):
                os.makedirs(full, exist_ok=True)
            elif stat.S_ISLNK(mode):
                os.symlink(data.decode(), full)
            else:
                with open(full, "wb") as f:
                    f.write(data)
                os.chmod(full, stat.S_IMODE(mode))


def _cpio_entry(f, ino, path, mode, data):
    name = path.encode() + b"\0"
    fields = (ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % n for n in fields) + name
    f.write(head + b"\0" * (-len(head) % 4))
    f.write(data + b"\0" * (-len(data) % 4))


def _kernel_modules(tree, kernel, names):
    """The modules with what they depend on, and for each name the order of insmod."""
    for name in names:
        order = debian.load_order(kernel, name)
        for module in order:
            with lzma.open(module) if module.endswith(".xz") else open(module, "rb") as f:
                tree.put(f"lib/modules/{_ko(module)}", f.read())
        tree.put(f"lib/modules/{name}.order", "".join(_ko(m) + "\n" for m in order).encode())


def _ko(module):
    return os.path.basename(module).removesuffix(".xz")


def linux(cache):
    """(kernel image, initramfs) for a QEMU that is a front-end."""
    return _boot(cache, debian.OLDEST, "front-end", KERNEL_MODULES, GUEST_PROGRAMS)


def linux_vhost(cache, which, tree, path):
    """(kernel image, initramfs) for a QEMU in which programs meet the kernel's own vhost, vDPA and VDUSE.  The
    programs are in @tree; the initramfs, which they make this run's own, is written to @path."""
    debian.add_vdpa(cache, which)
    vmlinux, initrd = _boot(cache, which, f"vhost-{which}", VHOST_MODULES, GUEST_PROGRAMS + VHOST_PROGRAMS)
    shutil.copyfile(initrd, path)
    with open(path, "ab") as f:
        tree.write_cpio(f)      # one archive after the other: the kernel unpacks both
    return vmlinux, path


def _boot(cache, which, kind, modules, programs):
    need("modprobe", "kmod")
    with debian.locked(cache):
        kernel = debian.kernel(cache, which)
        tree = Tree()
        tree.busybox()
        tree.scripts()
        _kernel_modules(tree, kernel, modules)
        tree.copy("/etc/mke2fs.conf", "etc/mke2fs.conf")
        for program, package in programs:
            tree.program(need(program, package), f"sbin/{program}")
        initrd = os.path.join(cache, f"initrd-{kind}-{tree.digest()}.cpio")
        if not os.path.exists(initrd):
            with open(initrd + ".new", "wb") as f:
                tree.write_cpio(f)
            os.rename(initrd + ".new", initrd)
            _forget_old(cache, kind, initrd)
        return os.path.join(kernel, "vmlinux"), initrd


def _forget_old(cache, kind, keep):
    """Earlier versions, unless a guest may be booting from one just now."""
    for old in glob.glob(os.path.join(cache, f"initrd-{kind}-*")):
        if old != keep and time.time() - os.path.getmtime(old) > 600:
            os.unlink(old)


def uml_root(root):
    """Writes a root directory for User-Mode Linux; gives the program."""
    uml = need("linux.uml", "user-mode-linux")
    tree = Tree()
    tree.busybox()
    tree.scripts()
    for name, needs in UML_MODULES.items():
        order = [*needs, name]
        for module in order:
            found = sorted(glob.glob(f"/usr/lib/uml/modules/*/kernel/**/{module}.ko", recursive=True))
            if not found:
                raise Skip(f"no {module}.ko for User-Mode Linux: apt-get install user-mode-linux")
            tree.copy(found[-1], f"lib/modules/{module}.ko")
        tree.put(f"lib/modules/{name}.order", "".join(f"{module}.ko\n" for module in order).encode())
    tree.write_directory(root)
    return uml
