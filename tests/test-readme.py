#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The README's programs, as a reader would try them: test-readme.py SOURCE BUILD CC [CFLAG...]

Each C block is compiled against the built libraries and run: the front-end reads a sector that vhk-blk serves, the device is
probed; and each makes its mistake on the command line.
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE, BUILD, CC, CFLAGS = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
BIN = os.path.join(BUILD, 'bin')


def run(*args, **kw):
    return subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, **kw)


class Readme(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix='vhk-')
        self.children = []
        self.blocks = re.findall(r'```c\n(.*?)```', open(os.path.join(SOURCE, 'README.md')).read(), re.S)
        self.env = dict(os.environ, LD_LIBRARY_PATH=os.pathsep.join(os.path.join(BUILD, 'src', d) for d in ('', 'daemon')))

    def tearDown(self):
        for c in self.children:
            c.terminate()
            c.wait(10)
        self.dir.cleanup()

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def compile(self, i, name, *libs):
        source = self.path(name + '.c')
        with open(source, 'w') as f:
            f.write(self.blocks[i])
        r = run(CC, *CFLAGS, '-Wall', '-Werror', source, '-I', os.path.join(SOURCE, 'include'), '-o', self.path(name),
                '-L' + os.path.join(BUILD, 'src'), '-L' + os.path.join(BUILD, 'src', 'daemon'), *libs)
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.assertLessEqual(len([line for line in self.blocks[i].splitlines() if line.strip()]), 24)
        return self.path(name)

    def serve(self, socket, *args):
        child = subprocess.Popen(args + ('--socket-path=' + socket,), stdin=subprocess.DEVNULL, env=self.env)
        self.children.append(child)
        end = time.time() + 20
        while not os.path.exists(socket) and time.time() < end:
            self.assertIsNone(child.poll(), 'the daemon ended')
            time.sleep(0.01)
        return child

    def test_front_end(self):
        program = self.compile(0, 'sector', '-lvhostkit')
        image, socket = self.path('disk.img'), self.path('disk.sock')
        content = os.urandom(512) + bytes((1 << 20) - 512)
        with open(image, 'wb') as f:
            f.write(content)
        self.serve(socket, os.path.join(BIN, 'vhk-blk'), '--blk-file=' + image)
        r = run(program, socket, env=self.env)
        self.assertEqual((r.returncode, r.stdout), (0, content[:512]), r.stderr.decode())
        large = self.path('large.sock')
        self.serve(large, os.path.join(BIN, 'vhk-blk'), '--blk-file=' + image, '--read-only', '--logical-block-size=4096')
        r = run(program, large, env=self.env)
        self.assertEqual((r.returncode, r.stdout), (1, b''))
        self.assertIn('blocks of 4096 bytes', r.stderr.decode())
        r = run(program, self.path('nobody.sock'), env=self.env)
        self.assertEqual(r.returncode, 1)
        self.assertIn(self.path('nobody.sock'), r.stderr.decode())
        self.assertEqual(len(r.stderr.decode().splitlines()), 1, r.stderr.decode())

    def test_example_reads_the_first_block(self):
        program = os.path.join(BUILD, 'examples', 'read-sector')
        image, socket = self.path('disk.img'), self.path('disk.sock')
        content = os.urandom(4096) + bytes((1 << 20) - 4096)
        with open(image, 'wb') as f:
            f.write(content)
        self.serve(socket, os.path.join(BIN, 'vhk-blk'), '--blk-file=' + image, '--logical-block-size=4096')
        r = run(program, socket)
        self.assertEqual((r.returncode, r.stdout), (0, content[:4096]), r.stderr.decode())
        r = run(program, self.path('absent.sock'))
        self.assertEqual(r.returncode, 1)
        self.assertIn(self.path('absent.sock'), r.stderr.decode())
        r = run(program)
        self.assertEqual((r.returncode, r.stderr), (2, b'usage: read-sector ENDPOINT\n'))

    def test_device(self):
        program = self.compile(1, 'dice', '-lvhostkit-daemon', '-lvhostkit')
        socket = self.path('rng.sock')
        child = self.serve(socket, program)
        r = run(os.path.join(BIN, 'vhk'), 'probe', socket, '--json')
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.assertEqual(json.loads(r.stdout)['queues'], 1)
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.wait(10), 0)
        r = run(program, '--soket-path=x', env=self.env)
        self.assertNotEqual(r.returncode, 0)
        self.assertIn('--socket-path', r.stderr.decode())


unittest.main(argv=sys.argv[:1])
