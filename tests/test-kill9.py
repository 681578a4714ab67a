#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""test-kill9 over every engine: VHK_KILLS kills in all (default 100), spread over the rows below.

    test-kill9.py DIRECTORY_OF_PROGRAMS
"""
import os
import shutil
import subprocess
import sys
import tempfile

KILLS = int(os.environ.get('VHK_KILLS', 100))
# options of test-kill9, options of vhk-blk, share of the kills
ROWS = [
    ([], [], 3),
    ([], ['--direct'], 3),
    (['--queues', '4', '--depth', '16'], ['--engine=sync'], 1),
    (['--queues', '1'], ['--engine=sync', '--direct'], 1),
    ([], ['--engine=io_uring', '--poll-us=0', '--threads=1'], 1),
    (['--depth', '1'], ['--poll-us=0'], 1),
]


def main(bindir):
    passed = failed = skipped = 0
    total = sum(share for _, _, share in ROWS)
    # a directory on a disk: tmpfs has no direct I/O on older kernels
    directory = tempfile.mkdtemp(prefix='vhk-kill9-', dir=os.environ.get('TMPDIR', '/var/tmp'))
    try:
        for ours, theirs, share in ROWS:
            n = max(1, KILLS * share // total)
            name = ' '.join(theirs + ours) or 'the defaults'
            probe = subprocess.run([bindir + '/vhk-blk', '--print-capabilities'], stdout=subprocess.DEVNULL, check=False)
            if probe.returncode:
                print('skip %s: cannot: vhk-blk does not run' % name)
                skipped += 1
                continue
            r = subprocess.run([bindir + '/test-kill9', bindir + '/vhk-blk', directory, '--kills', str(n)] + ours + ['--'] + theirs,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60 + n * 2, check=False)
            lines = [x for x in r.stdout.splitlines() if ' passed, ' not in x]
            if 'io_uring' in r.stderr and 'not to be had' in r.stderr and r.returncode:
                print('skip %s: cannot: no io_uring here' % name)
                skipped += 1
                continue
            print('%s %s: %s' % ('FAIL' if r.returncode else 'ok', name, ' '.join(lines)))
            if r.returncode:
                print(r.stderr[-2000:])
            failed += r.returncode != 0
            passed += r.returncode == 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print('%d passed, %d failed, %d skipped' % (passed, failed, skipped))
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1]))
