#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Reads every #include of the library, its programs and its examples and fails on an edge that the plan of the house
does not have (docs/architecture.md draws it). Also fails on a public header that has grown beyond 500 lines.

    test-include-edges.py SOURCE_ROOT
"""
import os
import re
import sys

# room: the rooms whose headers it may use beside its own, and the public headers (without .h; '*' is all of them).
# A room below the API needs a public header where it defines what that one declares.
ROOMS = {
    'base':     ((), ('error', 'worker')),
    'wire':     (('base',), ('error', 'frontend')),             # frontend.h declares the feature names; never memory
    'mem':      (('base',), ('error', 'memory')),
    'ring':     (('base', 'mem'), ('error', 'memory', 'queue', 'drvq', 'worker')),
    'sock':     (('base', 'wire'), ('error', 'worker', 'backend')),     # backend.h: how an endpoint is spelled
    'sys':      (('base',), ('error', 'sys', 'vdpa')),
    'frontend': (('base', 'wire', 'mem', 'ring', 'sock', 'sys'),
                 ('error', 'memory', 'queue', 'worker', 'frontend', 'display', 'drvq', 'migration', 'kernel', 'sys', 'vdpa')),
    'backend':  (('base', 'wire', 'mem', 'ring', 'sock', 'sys'), ('error', 'memory', 'queue', 'worker', 'device', 'backend', 'display', 'sys')),
    'driver':   (('base', 'mem', 'ring', 'frontend'), ('error', 'memory', 'queue', 'worker', 'frontend', 'drvq', 'blk', 'net', 'kernel', 'vsock', 'scsi')),
    'device':   (('base', 'mem', 'ring'), ('error', 'memory', 'queue', 'worker', 'device', 'backend', 'blkdev')),
    'daemon':   (('base',), ('*',)),
}

# What unit tests (test-*) may see besides: a back-end's test plays the driver with ring/'s driver side.
TESTS_TOO = {'backend': ('drvq',)}

# Headers of other packages, and who may use them: the library itself needs libc and kernel headers alone.
PACKAGES = {'liburing.h', 'seccomp.h', 'cap-ng.h', 'systemd/sd-daemon.h', 'sys/sdt.h'}
MAY_USE_PACKAGES = ('device', 'daemon', 'programs')
LIBC = set('''assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype
dirent dlfcn elf endian execinfo iconv langinfo err fcntl fnmatch ftw getopt glob grp libgen link netdb poll pthread pwd regex sched search semaphore
spawn strings syslog termios ucontext unistd utime byteswap malloc mntent'''.split())
SYSTEM_DIRECTORIES = ('sys/', 'linux/', 'asm/', 'asm-generic/', 'arpa/', 'net/', 'netinet/', 'netpacket/')

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<([^>]+)>|"([^"]+)"|(\S+))', re.M)
MAX_PUBLIC_LINES = 500


def place_of(path):
    """('include', ''), ('src', room), ('programs', folder) or ('examples', '')"""
    parts = path.split('/')
    if parts[0] == 'src' and len(parts) > 2:
        return 'src', parts[1]
    if parts[0] == 'programs' and len(parts) > 2:
        return 'programs', parts[1]
    return parts[0], ''


def judge_system(who, name):
    if name in PACKAGES:
        return None if who in MAY_USE_PACKAGES else f'{who} needs libc alone, not {name}'
    if name.startswith(SYSTEM_DIRECTORIES) or name.removesuffix('.h') in LIBC:
        return None
    return f'<{name}> is neither libc, nor the kernel, nor a known package'


def judge(path, angled, quoted):
    """Why the file at @path may not include that; None if it may."""
    tree, room = place_of(path)
    who = room if tree == 'src' else tree
    is_test = os.path.basename(path).startswith('test-')
    if tree == 'src' and room not in ROOMS:
        return f'there is no room {room} in the plan'
    if angled and angled.startswith('vhostkit/'):
        allowed = ROOMS[room][1] + (TESTS_TOO.get(room, ()) if is_test else ()) if tree == 'src' else ('*',)
        name = angled[len('vhostkit/'):].removesuffix('.h')
        return None if '*' in allowed or name in allowed else f'{who} may not see <{angled}>'
    if angled:
        return judge_system(who, angled)
    if quoted == 'base/test.h' and is_test:
        return None                                             # the harness is everybody's
    if tree == 'include':
        return 'a public header includes public headers and libc, by <>'
    if tree in ('programs', 'examples'):
        return 'programs and examples see public headers and their own folder only' if '/' in quoted else None
    if '/' not in quoted:
        return 'write it as "room/file.h"'
    target = quoted.split('/')[0]
    if target == room or target in ROOMS[room][0]:
        return None
    return f'{room} may not use {target}'


# What must be found, so that a check that finds nothing any more is noticed.
PLANTED = [
    ('src/base/fd.c', None, 'wire/wire.h'), ('src/wire/check.c', None, 'mem/mem.h'), ('src/wire/check.c', 'vhostkit/memory.h', None),
    ('src/mem/memmap.c', None, 'wire/wire.h'), ('src/ring/split.c', None, 'wire/wire.h'), ('src/sock/sock.c', None, 'mem/mem.h'),
    ('src/frontend/open.c', None, 'backend/session.h'), ('src/frontend/open.c', 'vhostkit/device.h', None),
    ('src/backend/session.c', None, 'frontend/frontend.h'), ('src/backend/session.c', 'vhostkit/drvq.h', None),
    ('src/backend/test-session.c', 'vhostkit/blk.h', None),
    ('src/sys/vhost.c', None, 'mem/mem.h'), ('src/driver/blk.c', None, 'sys/sys.h'),
    ('src/driver/blk.c', None, 'sock/sock.h'), ('src/device/blk.c', None, 'wire/wire.h'), ('src/device/blk.c', None, 'backend/session.h'),
    ('src/daemon/daemon.c', None, 'backend/session.h'), ('programs/vhk-blk/main.c', None, 'base/base.h'),
    ('programs/vhk/main.c', None, '../../src/base/base.h'), ('examples/rng.c', None, 'base/base.h'),
    ('include/vhostkit/queue.h', None, 'base/base.h'), ('include/vhostkit/queue.h', 'liburing.h', None),
    ('src/ring/split.c', 'liburing.h', None), ('src/ring/split.c', 'base/base.h', None), ('src/ring/split.c', None, 'split.h'),
    ('programs/vhk/main.c', None, 'base/test.h'), ('src/attic/x.c', None, 'base/base.h'),
]


def sources(root):
    for top in ('include', 'src', 'programs', 'examples'):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if name.endswith(('.c', '.h', '.def')):
                    yield os.path.relpath(os.path.join(folder, name), root)


def main():
    root = sys.argv[1]
    faults = [f'the check lets {p} include {a or q}' for p, a, q in PLANTED if not judge(p, a, q)]
    n_files = n_edges = 0
    for path in sources(root):
        with open(os.path.join(root, path), encoding='utf-8') as f:
            text = f.read()
        n_files += 1
        if path.startswith('include/') and text.count('\n') > MAX_PUBLIC_LINES:
            faults.append(f'{path}: {text.count(chr(10))} lines; a public header has at most {MAX_PUBLIC_LINES}')
        for m in INCLUDE.finditer(text):
            n_edges += 1
            why = 'an include that only the preprocessor can read' if m.group(3) else judge(path, m.group(1), m.group(2))
            if why:
                line = text.count('\n', 0, m.start()) + 1
                faults.append(f'{path}:{line}: {m.group(0).strip()}: {why}')
    if n_edges < 50:
        faults.append(f'only {n_edges} includes found in {n_files} files: is {root} the source tree?')
    print('\n'.join(faults) or f'{n_files} files, {n_edges} includes, all within the plan')
    return 1 if faults else 0


sys.exit(main())
