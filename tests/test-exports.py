#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Holds three lists of functions against each other: what the public headers declare, what the version script names,
and what the built library exports.

    test-exports.py --headers H... --map FILE --lib FILE      compare
    test-exports.py --headers H... --map FILE --write NODE    write the version script anew
"""
import argparse
import re
import subprocess
import sys


def declared(path):
    text = open(path).read()
    text = re.sub(r'/\*.*?\*/', '', text, flags=re.S)
    text = re.sub(r'^#.*$', '', text, flags=re.M).replace('extern "C" {', '')
    while re.search(r'\{[^{}]*\}', text):
        text = re.sub(r'\{[^{}]*\}', '', text)
    for statement in text.split(';'):
        m = re.match(r'^[a-z_][\w\s*]*?\b(vhk_\w+)\s*\(', statement.strip())
        if m and not statement.strip().startswith(('typedef', 'static')):
            yield m.group(1)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--headers', nargs='+', required=True)
    p.add_argument('--map', required=True)
    p.add_argument('--lib')
    p.add_argument('--write')
    a = p.parse_args()
    want = {n for h in a.headers for n in declared(h)}
    if a.write:
        with open(a.map, 'w') as f:
            f.write('/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */\n'
                    '/* The functions of the public headers; tests/test-exports.py writes and compares this list. */\n'
                    '%s {\nglobal:\n%slocal:\n        *;\n};\n'
                    % (a.write, ''.join('        %s;\n' % n for n in sorted(want))))
        return 0
    mapped = set(re.findall(r'^\s+(vhk_\w+);', open(a.map).read(), re.M))
    out = subprocess.run(['nm', '-D', '--defined-only', a.lib], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1].split('@')[0] for line in out.splitlines() if ' A ' not in line}
    bad = 0
    for what, names in (('declared but not in the version script', want - mapped),
                        ('in the version script but not declared', mapped - want),
                        ('declared but not exported', want - exported),
                        ('exported but not declared', exported - want)):
        for n in sorted(names):
            print('%s: %s' % (n, what))
            bad += 1
    print('%d functions' % len(want))
    return 1 if bad or not want else 0


sys.exit(main())
