# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The lab's ground: outcomes, the run's own directory, child processes that never outlive it.

A scenario runs in one process with one Lab.  Everything it starts is a Child in a session
of its own, so that the whole group can be killed and nothing else ever is; everything it
writes is under Lab.tmp, which goes away at the end.  Sockets live there too, so its path
is short.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time

SANITIZER_WORDS = (
    "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer",
    "WARNING: MemorySanitizer", "UndefinedBehaviorSanitizer", "runtime error:",
    "Assertion `", "stack smashing detected", "double free or corruption",
)


class Fail(Exception):
    """The scenario ran and something is wrong; the text says what."""


class Skip(Exception):
    """Something the scenario needs is missing; one line that names it."""


class Child:
    """A process in its own session, its output in files, killed with its whole group."""

    def __init__(self, lab, name, argv, env=None, stdin=subprocess.DEVNULL, pass_fds=()):
        self.name = name
        self.argv = [str(a) for a in argv]
        self.out_path = os.path.join(lab.tmp, f"{name}.out")
        self.err_path = os.path.join(lab.tmp, f"{name}.err")
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.proc = subprocess.Popen(
                self.argv, stdin=stdin, stdout=out, stderr=err, cwd=lab.tmp,
                env=dict(os.environ, **(env or {})), start_new_session=True, pass_fds=pass_fds)
        lab.children.append(self)
        lab.guard(self.proc.pid)

    def poll(self):
        return self.proc.poll()

    def wait(self, timeout):
        """Exit status, or None when the time is over (the process is left alone)."""
        try:
            return self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self):
        """Ends the whole group at once.  Harmless when it is gone already."""
        try:
            os.killpg(self.proc.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.proc.wait()

    def out(self):
        return read_text(self.out_path)

    def err(self):
        return read_text(self.err_path)


# Reads the process groups of a run; when the run is gone without having said so (SIGKILL, by
# which test runners end what takes too long), kills them and removes the run's directory.
GUARD = """
while read -r word; do
	[ "$word" != done ] || exit 0
	groups="$groups $word"
done
for group in $groups; do kill -s KILL -- "-$group"; done
rm -rf "$1"
"""


class Lab:
    """One run of one scenario."""

    def __init__(self, bindir, cache, backend, verbose=False):
        self.bindir = os.path.abspath(bindir)
        self.cache = os.path.abspath(cache)
        self.backend = backend
        self.verbose = verbose
        self.traces = None      # a directory: recordings are written there
        self.record = False     # write down whom the scenario met
        self.tree = None        # the Debian 13 tree, where the scenario runs in it
        self.proxies = None     # a list: every back-end gets a proxy, which is entered here
        self.children = []
        self.backends = []      # those that should be serving
        where = tempfile.gettempdir()
        self.tmp = tempfile.mkdtemp(prefix="vhk-lab.", dir=where if len(where) < 60 else "/tmp")
        self.start = time.monotonic()
        self.guardian = subprocess.Popen(["sh", "-c", GUARD, "lab-guard", self.tmp], stdin=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, start_new_session=True)

    def guard(self, word):
        self.guardian.stdin.write(f"{word}\n".encode())
        self.guardian.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for child in self.children:
            child.kill()
        self.guard("done")
        self.guardian.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def note(self, text):
        """A step worth seeing in the test log, with the time since the start."""
        print(f"[{time.monotonic() - self.start:6.2f}] {text}", flush=True)

    def check_backends(self):
        """A guest waits for ever for a back-end that died: its end is the scenario's end."""
        for b in self.backends:
            b.check_alive()

    def path(self, name):
        return os.path.join(self.tmp, name)

    def program(self, name):
        """One of our own programs; it is a fact of the build whether it is there."""
        path = os.path.join(self.bindir, name)
        if not os.access(path, os.X_OK):
            raise Skip(f"no {name} in {self.bindir}: not built")
        return path

    def image(self, name, size):
        """A sparse disk image."""
        path = self.path(name)
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def shm_dir(self):
        """A directory on tmpfs for guest memory files, or the run's own."""
        try:
            st = os.statvfs("/dev/shm")
        except OSError:
            return self.tmp
        free = st.f_bavail * st.f_frsize
        return "/dev/shm" if free > (256 << 20) and os.access("/dev/shm", os.W_OK) else self.tmp

    def call(self, argv, timeout=60, status=0, name=None):
        """Runs a host program to its end and gives its standard output."""
        name = name or os.path.basename(str(argv[0]))
        child = Child(self, name, argv)
        got = child.wait(timeout)
        if got is None:
            child.kill()
            raise Fail(f"{name}: not finished after {timeout} s\n{tail(child.err_path)}")
        check_sanitizers(name, child.err())
        if status is not None and got != status:
            raise Fail(f"{name}: exit status {got}, expected {status}: {' '.join(child.argv)}\n"
                       f"{tail(child.out_path)}{tail(child.err_path)}")
        return child.out()


def need(program, package):
    """The path of a program of the distribution."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Skip(f"{program} is missing: apt-get install {package}")
    return path


def check_sanitizers(name, text):
    for word in SANITIZER_WORDS:
        if word in text:
            at = text.index(word)
            raise Fail(f"{name}: {word} in its output\n{text[max(0, at - 200):at + 3000]}")


def read_text(path):
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace").replace("\r", "")
    except FileNotFoundError:
        return ""


def tail(path, lines=40):
    text = read_text(path).rstrip("\n")
    if not text:
        return ""
    return f"--- {os.path.basename(path)}\n" + "\n".join(text.split("\n")[-lines:]) + "\n"
