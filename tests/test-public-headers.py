#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Each public header compiles alone, twice over, as C11 and as C++17, with every compiler that is here.

    test-public-headers.py INCLUDE_DIRECTORY
"""
import glob
import os
import shutil
import subprocess
import sys
import tempfile

COMPILERS = [
    ('gcc', ['-x', 'c', '-std=c11']), ('clang', ['-x', 'c', '-std=c11']),
    ('g++', ['-x', 'c++', '-std=c++17']), ('clang++', ['-x', 'c++', '-std=c++17']),
]
STRICT = ['-Wall', '-Wextra', '-Wpedantic', '-Werror', '-fsyntax-only']


def compiles(compiler, flags, directory, source):
    r = subprocess.run([compiler, *flags, *STRICT, '-I', directory, '-'], input=source, text=True, capture_output=True)
    return r.returncode == 0, r.stderr


def main():
    directory = sys.argv[1]
    names = sorted(os.path.basename(p) for p in glob.glob(os.path.join(directory, 'vhostkit', '*.h')))
    here = [(c, f) for c, f in COMPILERS if shutil.which(c)]
    faults = []
    for compiler, flags in here:
        for name in names:
            ok, text = compiles(compiler, flags, directory, f'#include <vhostkit/{name}>\n' * 2)
            if not ok:
                faults.append(f'{name} with {compiler} {flags[-1]}:\n{text}')
        with tempfile.TemporaryDirectory() as bad:      # the check itself: a header that needs another one must fail
            os.mkdir(os.path.join(bad, 'vhostkit'))
            with open(os.path.join(bad, 'vhostkit', 'bad.h'), 'w', encoding='utf-8') as f:
                f.write('static inline uint32_t one(void) { return 1; }\n')
            if compiles(compiler, flags, bad, '#include <vhostkit/bad.h>\n')[0]:
                faults.append(f'{compiler} accepts a header that is not self-contained')
    missing = [c for c, _ in COMPILERS if not shutil.which(c)]
    if missing:
        print('not here, not tried:', ' '.join(missing))
    if not here or not names:
        print(f'{len(names)} headers, {len(here)} compilers: nothing to try')
        return 77 if names else 1
    print('\n'.join(faults) or f'{len(names)} headers with {", ".join(c for c, _ in here)}')
    return 1 if faults else 0


sys.exit(main())
