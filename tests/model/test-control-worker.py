#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Check the model of the control-worker protocol with spin, exhaustively, without and with each known defect.

    test-control-worker.py [--long]

A configuration without a defect must be searched to its end without an error; one with a defect must give an error,
else the model could not have found that defect. --long searches larger configurations (make soak). Prints TAP.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

MODEL = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'control-worker.pml')
TWO_QUEUES = ('-DMESSAGES=2', '-DREQUESTS=1')
ONE_QUEUE = ('-DMESSAGES=3', '-DREQUESTS=1', '-DQUEUES=1')
LONG = (('-DMESSAGES=3', '-DREQUESTS=1'), ('-DMESSAGES=4', '-DREQUESTS=1', '-DQUEUES=1'), ('-DMESSAGES=3', '-DREQUESTS=2', '-DQUEUES=1'))
DEFECTS = {'A1': TWO_QUEUES, 'A2': ONE_QUEUE, 'A3': TWO_QUEUES, 'A5': TWO_QUEUES, 'READ_ORDER': ONE_QUEUE}
MEMORY_MB = 8000


def search(options):
    """(number of errors, search completed?, states, first violated assertion)"""
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(['spin', '-a', *options, MODEL], cwd=d, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(['cc', '-O2', '-DSAFETY', '-DCOLLAPSE', '-DMEMLIM=%d' % MEMORY_MB, '-w', '-o', 'pan', 'pan.c'],
                       cwd=d, check=True)
        out = subprocess.run(['./pan', '-m200000'], cwd=d, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    errors = re.search(r'errors: (\d+)', out)
    states = re.search(r'(\d+) states, stored', out)
    violated = re.search(r'assertion violated (.*) \(at depth', out)
    complete = 'Search not completed' not in out and 'max search depth too small' not in out
    return (int(errors.group(1)) if errors else -1, complete, int(states.group(1)) if states else 0,
            violated.group(1) if violated else out.strip()[-400:])


def main():
    if not shutil.which('spin'):
        print('1..0 # SKIP needs spin')
        return 77
    runs = [('no_error_with' + ''.join(c), c, False) for c in (TWO_QUEUES, ONE_QUEUE) + (LONG if '--long' in sys.argv else ())]
    runs += [('finds_defect_%s_when_it_is_put_back' % d, ('-DDEFECT_' + d,) + c, True) for d, c in DEFECTS.items()]
    failed = 0
    print('1..%d' % len(runs))
    for i, (name, options, want_error) in enumerate(runs):
        errors, complete, states, violated = search(options)
        ok = errors > 0 if want_error else errors == 0 and complete
        failed += not ok
        print('%sok %d - %s' % ('' if ok else 'not ', i + 1, name), flush=True)
        print('# %d states%s' % (states, ': ' + violated if errors else ''), flush=True)
    print('%d passed, %d failed' % (len(runs) - failed, failed))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
