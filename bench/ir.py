#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Instructions per request of bench-ring's workloads, counted by callgrind in the batch loop alone.

Each workload runs twice, with N and 2N batches; the difference is free of whatever happens once.
ir.py BENCH-RING [WORKLOAD ...]; with --json one object per workload. Ends with 1 if a promise is not kept."""

import json
import re
import subprocess
import sys

N = 100
# What the project promises (instructions per request), and what a workload may cost at most in multiples of another.
LIMITS = {'c1-direct-1': 160, 'c3-direct-1': 300}
RATIOS = {'c3-direct-8runs': ('c3-direct-1', 1.2), 'c3-indirect-8runs': ('c3-indirect-1', 1.2)}


def collected(bench, n, workload):
    """Instructions that serve() took in a run of n batches."""
    run = subprocess.run(
        ['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null', '--toggle-collect=serve',
         bench, '--callgrind', str(n), workload], capture_output=True, text=True)
    found = re.search(r'Collected : (\d+)', run.stderr)
    if run.returncode or not found:
        sys.exit(f'ir.py: {workload}: {run.stderr.strip()}')
    return int(found.group(1))


def main():
    args = [a for a in sys.argv[1:] if a != '--json']
    if not args:
        sys.exit(__doc__)
    bench, wanted = args[0], args[1:]
    listed = [line.split(' ', 2) for line in
              subprocess.run([bench, '--list'], capture_output=True, text=True, check=True).stdout.splitlines()]
    results, kept = {}, True
    if '--json' not in sys.argv:
        print(f'{"workload":<20} {"batch":>6} {"Ir/request":>12}')
    for name, batch, reference in listed:
        if wanted and name not in wanted:
            continue
        ir = (collected(bench, 2 * N, name) - collected(bench, N, name)) / N / int(batch)
        results[name] = ir
        limit = LIMITS.get(name)
        if name in RATIOS and RATIOS[name][0] in results:
            limit = results[RATIOS[name][0]] * RATIOS[name][1]
        verdict = '' if limit is None else f'  at most {limit:.0f}: {"yes" if ir <= limit else "NO"}'
        kept = kept and (limit is None or ir <= limit)
        if '--json' not in sys.argv:
            print(f'{name:<20} {batch:>6} {ir:>12.1f}{verdict}')
            if reference != '-':
                print(f'    reference, other machine: {reference}')
    if '--json' in sys.argv:
        print(json.dumps(results))
    sys.exit(0 if kept else 1)


main()
