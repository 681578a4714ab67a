#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""test-kill9 over every engine: VHK_KILLS kills in all (default 100), spread over the rows below.

    test-kill9.py DIRECTORY_OF_PROGRAMS
"""
import contextlib
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

def one(bindir, directory, program, kills, ours, theirs, name=''):
    """One run of test-kill9: 'ok', 'FAIL' or 'skip'."""
    kills = max(1, kills)
    r = subprocess.run([bindir + '/test-kill9', program, directory, '--kills', str(kills)] + ours + ['--'] + theirs,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120 + kills * 3, check=False)
    verdict = 'FAIL' if r.returncode else 'ok'
    if r.returncode and 'io_uring' in r.stderr and 'not to be had' in r.stderr:
        verdict = 'skip'
    text = ' '.join(x for x in r.stdout.splitlines() if ' passed, ' not in x)
    print('%s %s: %s' % (verdict, ' '.join([name] + theirs + ours).strip() or 'the defaults', 'cannot: no io_uring here' if verdict == 'skip' else text))
    if verdict == 'FAIL':
        print(r.stderr[-2000:])
    return verdict


CGROUP = '/sys/fs/cgroup/blkio/vhk-kill9-%d' % os.getpid()
EVERY_OTHER = """#!/bin/sh
# Every other life is slow, so that what the one before left in the block layer comes later than what this one writes.
if [ -e "$0.odd" ]; then rm "$0.odd"; else : >"$0.odd"; echo $$ >%s/cgroup.procs; fi
exec %s "$@"
"""


@contextlib.contextmanager
def slow_device(directory, program):
    """A program that serves a delayed device: direct I/O, held back in the block layer by a control group (cgroup v1, root).
    A killed daemon's requests are carried out all the same. Gives None where that cannot be had."""
    device = os.stat(directory).st_dev
    try:
        os.mkdir(CGROUP)
    except OSError:
        yield None
        return
    try:
        for what in ('write', 'read'):
            with open('%s/blkio.throttle.%s_iops_device' % (CGROUP, what), 'w') as f:
                f.write('%d:%d 500' % (os.major(device), os.minor(device)))
        wrapper = directory + '/slow'
        with open(wrapper, 'w') as f:
            f.write(EVERY_OTHER % (CGROUP, program))
        os.chmod(wrapper, 0o755)
        yield wrapper
    except OSError:
        yield None
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(CGROUP)


def main(bindir):
    verdicts = []
    total = sum(share for _, _, share in ROWS)
    # a directory on a disk: tmpfs has no direct I/O on older kernels
    directory = tempfile.mkdtemp(prefix='vhk-kill9-', dir=os.environ.get('TMPDIR', '/var/tmp'))
    try:
        program = os.path.abspath(bindir) + '/vhk-blk'
        for ours, theirs, share in ROWS:
            verdicts.append(one(bindir, directory, program, KILLS * share // total, ours, theirs))
        with slow_device(directory, program) as slow:
            if slow:
                verdicts.append(one(bindir, directory, slow, KILLS // 10, ['--depth', '128'], ['--direct'], 'a slow device'))
            else:
                print('skip a slow device: cannot: no block I/O control group (v1, as root) for this file system')
                verdicts.append('skip')
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    count = verdicts.count
    print('%d passed, %d failed, %d skipped' % (count('ok'), count('FAIL'), count('skip')))
    return 1 if count('FAIL') or not count('ok') else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1]))
