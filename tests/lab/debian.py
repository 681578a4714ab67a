# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The guests' kernels from Debian's packages, unpacked and never installed, and the modules Debian does not build.

All of it is in the cache, where a later build and the next run find it.  vDPA and VDUSE are off in the configuration of
Debian's 6.1, the simulators in that of its 6.12: what is missing is built from Debian's source of the very same version,
out of tree, and lies beside the kernel's own modules, so that `modprobe --show-depends` knows all of them.
"""

import collections
import contextlib
import fcntl
import glob
import lzma
import os
import re
import shutil
import struct
import subprocess
import zlib

from lab import Skip, need

# The package that names the newest image, and the configuration of what is built for it.
Kernel = collections.namedtuple("Kernel", "package modules")
KERNELS = {
    "6.1": Kernel("linux-image-amd64", ("VHOST_RING", "VHOST_VDPA", "VDPA", "VDPA_SIM", "VDPA_SIM_NET", "VDPA_SIM_BLOCK",
                                        "VDPA_USER", "VIRTIO_VDPA")),
    "6.12": Kernel("linux-image-6.12-amd64", ("VHOST_RING", "VDPA_SIM", "VDPA_SIM_NET", "VDPA_SIM_BLOCK")),
}
OLDEST = "6.1"
# What of drivers/ is needed for that, and the Makefiles that are ours.
SOURCES = (
    "vhost/Makefile", "vhost/vringh.c", "vhost/vdpa.c", "vhost/vhost.h", "vdpa/Makefile", "vdpa/vdpa.c",
    "vdpa/vdpa_sim/Makefile", "vdpa/vdpa_sim/vdpa_sim.c", "vdpa/vdpa_sim/vdpa_sim.h",
    "vdpa/vdpa_sim/vdpa_sim_blk.c", "vdpa/vdpa_sim/vdpa_sim_net.c", "vdpa/vdpa_user/Makefile",
    "vdpa/vdpa_user/iova_domain.c", "vdpa/vdpa_user/iova_domain.h", "vdpa/vdpa_user/vduse_dev.c",
    "virtio/virtio_vdpa.c",
)
MAKEFILES = {"Kbuild": "obj-m := vhost/ vdpa/ virtio/\n", "virtio/Makefile": "obj-$(CONFIG_VIRTIO_VDPA) := virtio_vdpa.o\n"}
ZSTD = b"\x28\xb5\x2f\xfd"
OFF = ("VHOST", "VHOST_NET", "VHOST_SCSI", "VHOST_VSOCK", "VHOST_IOTLB", "VHOST_VDPA", "VDPA", "VDPA_USER", "VIRTIO_VDPA",
       "DEBUG_INFO", "DEBUG_INFO_BTF_MODULES")


@contextlib.contextmanager
def locked(cache, name="lock"):
    """Two scenarios at the same time fill the cache once."""
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, name), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _apt(*argv, cwd=None):
    try:
        return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise Skip("no apt here: the lab wants Debian's kernel package linux-image-amd64") from None
    except subprocess.CalledProcessError as e:
        why = (e.stderr.strip().split("\n") or [""])[-1]
        raise Skip(f"{' '.join(argv)}: {why}: apt-get update, or go online") from None


def _up_to_date(fetch):
    """Once more with new lists, where those here are absent or too old and we may."""
    try:
        fetch()
    except Skip:
        if os.geteuid() != 0:
            raise
        _apt("apt-get", "update", "-q")
        fetch()


def _directory(cache, which):
    return os.path.join(cache, "kernel" if which == OLDEST else f"kernel-{which}")


def _fetch_kernel(cache, which):
    depends = _apt("apt-cache", "depends", "--important", KERNELS[which].package)
    found = re.search(r"linux-image-[0-9]\S*-amd64", depends.split("\n", 1)[1])
    if not found:
        raise Skip(f"apt knows no {KERNELS[which].package}: apt-get update")
    directory = _directory(cache, which)
    work = f"{directory}.new"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    _apt("apt-get", "download", "-q", found.group(0), cwd=work)
    deb = glob.glob(os.path.join(work, "*.deb"))[0]
    subprocess.run(["dpkg", "-x", deb, work], check=True)
    os.unlink(deb)
    if not os.path.isdir(os.path.join(work, "lib")):
        shutil.move(os.path.join(work, "usr/lib"), os.path.join(work, "lib"))
    depmod(work)
    _uncompress(glob.glob(os.path.join(work, "boot/vmlinuz-*"))[0], os.path.join(work, "vmlinux"))
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(work, directory)


def _uncompress(image, path):
    """The ELF kernel inside a bzImage, which QEMU boots by PVH: under TCG that is 3 s sooner
    than letting the guest unpack itself.  Compressed in a way unknown here, it stays as it is."""
    with open(image, "rb") as f:
        data = f.read()
    setup_sects = data[0x1f1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = data[start:start + length]
    for module in (lzma.LZMADecompressor(), zlib.decompressobj(zlib.MAX_WBITS | 16)):
        with contextlib.suppress(lzma.LZMAError, zlib.error):
            data = module.decompress(payload)
            break
    if payload.startswith(ZSTD) and shutil.which("zstd"):
        # the last four bytes are the kernel's own: the size
        data = subprocess.run(["zstd", "-dc"], input=payload[:-4], capture_output=True, check=True).stdout
    with open(path, "wb") as f:
        f.write(data)


def release(kernel):
    """What `uname -r` will say."""
    return os.listdir(os.path.join(kernel, "lib/modules"))[0]


def package_version(kernel):
    """Debian's, which the image's own banner ends with (Documentation/arch/x86/boot.rst: kernel_version)."""
    with open(glob.glob(os.path.join(kernel, "boot/vmlinuz-*"))[0], "rb") as f:
        setup = f.read(0x10000)
    banner = setup[struct.unpack_from("<H", setup, 0x20e)[0] + 0x200:].split(b"\0")[0]
    return re.search(r" Debian (\S+) ", banner.decode()).group(1)


def depmod(kernel):
    subprocess.run([need("depmod", "kmod"), "-b", kernel, release(kernel)], check=True)


def kernel(cache, which=OLDEST):
    """The unpacked package's directory, with `vmlinux` in it; the caller has the cache's lock."""
    directory = _directory(cache, which)
    if not os.path.exists(os.path.join(directory, "vmlinux")):
        _up_to_date(lambda: _fetch_kernel(cache, which))
    return directory


def add_vdpa(cache, which=OLDEST):
    """Sees to it that the cached kernel has the modules of vDPA and VDUSE.  Takes half a minute the first time,
    which scenarios that do not want them need not wait for: hence a lock of its own."""
    with locked(cache, f"vdpa-{which}.lock"):
        with locked(cache):
            directory = kernel(cache, which)
        if os.path.exists(os.path.join(directory, "with-vdpa")):
            return
        for program, package in (("make", "make"), ("gcc-12", "gcc-12"), ("xz", "xz-utils")):
            need(program, package)
        work = os.path.join(cache, f"vdpa-{which}.new")
        try:
            _up_to_date(lambda: _fetch_sources(directory, work))
        except Skip:
            # The archive drops old versions: with the newest kernel there is source for it.
            with locked(cache):
                _fetch_kernel(cache, which)
            _fetch_sources(directory, work)
        modules = _build(directory, work, KERNELS[which].modules)
        with locked(cache):
            updates = os.path.join(directory, "lib/modules", release(directory), "updates")
            os.makedirs(updates, exist_ok=True)
            for module in modules:
                shutil.copy(module, updates)
            depmod(directory)
            with open(os.path.join(directory, "with-vdpa"), "w"):
                pass
        shutil.rmtree(work)


def _headers(kernel):
    return f"linux-headers-{release(kernel)}"


def _fetch_sources(kernel, work):
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    version = package_version(kernel)
    headers = f"{_headers(kernel)}={version}"
    others = re.findall(r"linux-(?:headers|kbuild)-[^ |]\S*", _apt("apt-cache", "show", headers).split("Depends:")[1].split("\n")[0])
    source = "linux-source-" + re.match(r"\d+\.\d+", release(kernel)).group(0)
    names = [headers, f"{source}={version}"] + [f"{name.rstrip(',')}={version}" for name in others]
    _apt("apt-get", "download", "-q", *names, cwd=work)
    for deb in glob.glob(os.path.join(work, "*.deb")):
        if not os.path.basename(deb).startswith(source):
            subprocess.run(["dpkg", "-x", deb, work], check=True)
    # tar ends when it has seen each of these files: half of the archive is never unpacked.
    names = " ".join(f"{source}/drivers/{name}" for name in SOURCES)
    subprocess.run(["sh", "-c", f"mkdir m && dpkg-deb --fsys-tarfile {source}_*.deb | tar -xO --occurrence=1 ./usr/src/{source}.tar.xz | "
                    f"tar -xJ --occurrence=1 --strip-components=2 -C m {names}"],
                   cwd=work, check=True, stderr=subprocess.DEVNULL)


def _build(kernel, work, config):
    """Gives the paths of the modules."""
    sources = os.path.join(work, "m")
    for name, text in MAKEFILES.items():
        with open(os.path.join(sources, name), "w") as f:
            f.write(text)
    headers = os.path.join(work, "usr/src", _headers(kernel))
    with open(os.path.join(headers, "Makefile"), "r+") as f:       # it includes the common part by an absolute path
        text = f.read().replace("/usr/src/", os.path.join(work, "usr/src/"))
        f.seek(0)
        f.write(text)
    argv = ["make", "-s", f"-j{os.cpu_count()}", "-C", headers, f"M={sources}", "CC=gcc-12",
            *(f"CONFIG_{name}=" for name in OFF if name not in config), *(f"CONFIG_{name}=m" for name in config), "modules"]
    made = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    modules = glob.glob(os.path.join(sources, "**/*.ko"), recursive=True)
    if made.returncode or len(modules) != len(config):
        raise Skip(f"the modules of vDPA were not built: {made.stdout[-2000:]}")
    return modules


def load_order(kernel, name):
    """The files insmod wants, in order."""
    shown = subprocess.run([need("modprobe", "kmod"), "-d", kernel, "-S", release(kernel), "--show-depends", name],
                           capture_output=True, text=True, check=True).stdout
    return re.findall(r"^insmod (\S+)", shown, re.M)
