# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A Debian 13 (trixie) tree: newer QEMU, qemu-storage-daemon, DPDK, and peers that Debian 12 does not have.

debootstrap makes it in the cache from the mirror that the machine's own apt uses; nothing of the machine is changed. It is made
anew when PACKAGES changes. A program of the tree runs in a mount namespace of its own whose root is the tree: so nothing is
mounted once the program has ended, and the process id stays. Folders of the machine are visible at their own paths where the
caller names them. What is compiled for the tree (crate(), c_program()) is kept beside it and made anew when its source changes.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess

from debian import locked
from lab import Fail, Skip, need

SUITE = "trixie"
PACKAGES = (
    "qemu-system-x86", "qemu-system-common", "qemu-utils", "qemu-block-extra", "seabios", "dpdk-dev", "virtiofsd", "passt",
    "libblkio-dev", "gcc", "libc6-dev", "pkg-config", "rustc", "cargo", "librust-vhost-dev", "librust-vhost-user-backend-dev",
    "librust-virtio-queue-dev", "librust-vm-memory-dev", "librust-vmm-sys-util-dev", "librust-libc-dev",
)
# Found in the tree in place of the machine's.
PROGRAMS = ("qemu-system-x86_64", "qemu-storage-daemon", "qemu-img", "qemu-io", "dpdk-testpmd", "virtiofsd", "passt")
ELSEWHERE = {"virtiofsd": "/usr/libexec/virtiofsd"}
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SETTINGS = r"Acquire::(https?::|Check-Date|Check-Valid-Until|ForceIPv|Retries)"      # of the machine's apt, kept in the tree
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
DPKG = """force-unsafe-io
path-exclude=/usr/share/man/*
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/locale/*
"""

# enter TREE FOLDER... -- PROGRAM ARGUMENT...
ENTER = f"""#!/bin/sh
set -e
if [ "$1" != inside ]; then
        exec unshare --mount --propagation private sh "$0" inside "$@"
fi
shift; tree=$1; shift; here=$PWD
mount --bind "$tree" "$tree"
for folder in /proc /sys /dev; do
        mount --rbind $folder "$tree$folder"
done
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
while [ "$1" != -- ]; do
        mkdir -p "$tree$1"
        mount --rbind "$1" "$tree$1"
        shift
done
shift
cd "$tree"
pivot_root . mnt
export PATH={PATH} HOME=/root
exec chroot . sh -c 'umount -l /mnt; cd "$0" 2>/dev/null; exec "$@"' "$here" "$@"
"""

INSTALL = """set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
apt-get clean
rm -rf /var/lib/apt/lists/*
"""


def _run(*argv, what, env=None):
    made = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          env=dict(os.environ, **(env or {})))
    if made.returncode:
        raise Skip(f"{what}: {made.stdout[-2000:]}")
    return made.stdout


def mirror():
    """Where the machine's apt gets Debian from, main archive."""
    form = "$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"
    if not shutil.which("apt-get"):
        raise Skip("no apt here: the Debian 13 tree is made from the mirror that apt uses")
    for again in (False, True):
        listed = _run("apt-get", "indextargets", "--format", form, "Created-By: Packages", what="apt-get indextargets")
        found = re.findall(r"^Debian\|[a-z]+\|main\|(https?://\S+)$", listed, re.M)
        if found:
            return found[0]
        if not again:               # the lists were never fetched
            _run("apt-get", "update", "-q", what="apt-get update")
    raise Skip("apt knows no mirror of Debian (http or https, component main)")


def _settings():
    return "".join(f"{line}\n" for line in _run("apt-config", "dump", what="apt-config").splitlines() if re.match(SETTINGS, line))


def _proxy(settings):
    found = re.search(r'^Acquire::http::proxy "(http[^"]+)";', settings, re.M | re.I)
    return {"http_proxy": found[1]} if found and "http_proxy" not in os.environ else {}


def _make(directory, packages):
    if os.geteuid() != 0:
        raise Skip("the Debian 13 tree is made and entered by root only")
    debootstrap = need("debootstrap", "debootstrap")
    uri, settings = mirror(), _settings()
    work = f"{directory}.new"
    tree = os.path.join(work, "tree")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    # It mounts things in the tree: gone with the namespace, however it ends.
    _run("unshare", "--mount", debootstrap, "--variant=minbase", SUITE, tree, uri, what="debootstrap", env=_proxy(settings))
    for path in ("/etc/resolv.conf", "/etc/hosts", CERTIFICATES):
        if os.path.exists(path):
            os.makedirs(os.path.dirname(tree + path), exist_ok=True)
            shutil.copyfile(path, tree + path)
    _write(f"{tree}/etc/apt/apt.conf.d/80machine", settings)
    _write(f"{tree}/etc/dpkg/dpkg.cfg.d/80lean", DPKG)
    _write(f"{tree}/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    _write(f"{work}/enter", ENTER, 0o755)
    _run(f"{work}/enter", tree, "--", "sh", "-c", INSTALL, "install", *packages, what="apt-get in the Debian 13 tree")
    _write(f"{work}/made-of", _recipe(packages))
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(work, directory)


def _recipe(packages):
    return "\n".join((SUITE, *packages, DPKG, ENTER, INSTALL))


def _write(path, text, mode=0o644):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)


class Tree:
    """The tree, made if need be."""

    def __init__(self, cache, name="debian13", packages=PACKAGES):
        self.cache = os.path.abspath(cache)
        self.packages = packages
        self.directory = os.path.join(self.cache, name)
        self.root = os.path.join(self.directory, "tree")
        with locked(self.cache, f"{name}.lock"):
            if not self._is_current():
                _make(self.directory, packages)
        if os.geteuid() != 0:
            raise Skip("the Debian 13 tree is made and entered by root only")

    def _is_current(self):
        try:
            with open(os.path.join(self.directory, "made-of")) as f:
                return f.read() == _recipe(self.packages)
        except FileNotFoundError:
            return False

    def argv(self, folders, *argv):
        """The words that run a program of the tree; these folders of the machine are there as well."""
        return [os.path.join(self.directory, "enter"), self.root, *folders, "--", *(str(a) for a in argv)]

    def version(self, package):
        """Upstream's, "10.0.13"."""
        said = _run("dpkg-query", f"--admindir={self.root}/var/lib/dpkg", "-W", "-f", "${Version}", package, what=package)
        found = re.match(r"(?:\d+:)?(?:0\.0~git(\d+)|([0-9.]+))", said)
        return found[1] or found[2]

    def crate(self, source):
        """Builds a cargo package; gives the folder of its programs."""
        return self._built(source, ("cargo", "build", "--offline", "--quiet"), "target/debug")

    def c_program(self, source, *libraries):
        """Compiles one C file; gives the program's path."""
        name = os.path.basename(source).removesuffix(".c")
        flags = 'gcc -O1 -g -Wall -Wextra -Werror -o "$0" "$0.c" $(pkg-config --cflags --libs "$@")'
        return os.path.join(self._built(source, ("sh", "-c", flags, name, *libraries), ""), name)

    def _built(self, source, argv, where):
        kept = os.path.join(self.cache, f"debian13-{os.path.basename(source)}")
        digest = _digest(source) + _recipe(self.packages)
        with locked(self.cache, "debian13-build.lock"):
            stamp = os.path.join(kept, "made-of")
            if not (os.path.exists(stamp) and open(stamp).read() == digest):
                if os.path.isdir(source):
                    shutil.copytree(source, kept, dirs_exist_ok=True)         # what cargo made of the crates stays
                else:
                    os.makedirs(kept, exist_ok=True)
                    shutil.copy(source, kept)
                made = subprocess.run(self.argv([kept], *argv), cwd=kept, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, check=False)
                if made.returncode:
                    raise Fail(f"{source} does not build in the Debian 13 tree:\n{made.stdout[-4000:]}")
                _write(stamp, digest)
        return os.path.join(kept, where)

    @contextlib.contextmanager
    def programs(self, lab):
        """Meanwhile need() finds the tree's PROGRAMS before the machine's."""
        folder = lab.path("debian13")
        os.mkdir(folder)
        for name in PROGRAMS:
            words = self.argv([lab.tmp, lab.cache], ELSEWHERE.get(name, f"/usr/bin/{name}"))
            _write(os.path.join(folder, name), "#!/bin/sh\nexec " + " ".join(f"'{w}'" for w in words) + ' "$@"\n', 0o755)
        before = os.environ.get("PATH", PATH)
        os.environ["PATH"] = f"{folder}:{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


def _digest(source):
    paths = [source] if os.path.isfile(source) else sorted(
        os.path.join(where, name) for where, _, names in os.walk(source) for name in names)
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            digest.update(path.removeprefix(source).encode() + b"\0" + f.read())
    return digest.hexdigest()
