#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Line coverage of src/ and programs/ from a build directory made with b_coverage, held against tests/coverage-floor.

Each room's figure and the whole; fails below the floor. gcov alone, no other package.
"""
import collections
import json
import os
import subprocess
import sys

top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
build = os.path.join(top, sys.argv[1])
lines = collections.defaultdict(dict)           # file -> line -> hits

data = [os.path.join(d, f) for d, _, fs in os.walk(build) for f in fs if f.endswith('.gcda')]
for path in data:
    out = subprocess.run(['gcov', '--json-format', '--stdout', path], cwd=build, check=False, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    for text in out.splitlines():
        for f in json.loads(text)['files']:
            source = os.path.relpath(os.path.normpath(os.path.join(build, f['file'])), top)
            if source.startswith(('src/', 'programs/')) and not os.path.basename(source).startswith('test'):
                for line in f['lines']:
                    n = line['line_number']
                    lines[source][n] = lines[source].get(n, 0) + line['count']

rooms = collections.defaultdict(lambda: [0, 0])
for source, hits in lines.items():
    for key in ('/'.join(source.split('/')[:2]), 'all'):
        rooms[key][0] += sum(1 for h in hits.values() if h)
        rooms[key][1] += len(hits)
for key in sorted(rooms, key=lambda k: (k == 'all', k)):
    print('%-20s %5d of %5d lines  %5.1f %%' % (key, *rooms[key], 100.0 * rooms[key][0] / max(1, rooms[key][1])))
figure = 100.0 * rooms['all'][0] / max(1, rooms['all'][1])
floor = float(open(os.path.join(top, 'tests', 'coverage-floor')).read())
print('coverage %.1f %%, floor %.1f %%' % (figure, floor))
sys.exit(0 if figure >= floor else 1)
