#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""vhk-blk under front-ends that bring a shared descriptor into a state in which a call on it would wait: control answers, the next
front-end is served, and SIGTERM ends the process within its limit while the attack is running.

    test-hostile-peers.py VHK-BLK STUCK-DEVICE
"""
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
from front_end import AVAIL, FrontEnd     # noqa: E402

BLK = STUCK = None
ENV = {k: v for k, v in os.environ.items() if not k.startswith('VHK_')}
LIMIT = 30              # seconds, for anything to happen
END_LIMIT = 8           # of the daemon: drain and the rest (src/daemon/daemon.c)

(GET_FEATURES, SET_LOG_FD, SET_VRING_KICK, SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES,
 SET_DEVICE_STATE_FD) = 1, 7, 12, 14, 15, 16, 42
LOAD = 1
LOG_SHMFD, DEVICE_STATE = 1 << 1, 1 << 19
FULL = 0xfffffffffffffffe


def fill(fd):
    """The eventfd is full, and a write(2) of it would wait."""
    os.set_blocking(fd, False)
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        pass
    os.eventfd_write(fd, FULL)
    os.set_blocking(fd, True)


def fill_pipe(fd):
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, bytes(4096))
    except BlockingIOError:
        pass


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.disk = os.path.join(self.dir.name, 'disk')
        with open(self.disk, 'wb') as f:
            f.truncate(1 << 20)
        self.children = []
        self.n = 0

    def tearDown(self):
        for c in self.children:
            if c.poll() is None:
                c.kill()
            c.wait()
            if c.stderr:
                c.stderr.close()
        self.dir.cleanup()

    def start(self, program=None, stderr=subprocess.DEVNULL, **env):
        self.n += 1
        self.path = os.path.join(self.dir.name, 's%d' % self.n)
        args = [program] if program else [BLK, '--blk-file=' + self.disk, '--threads=1']
        c = subprocess.Popen([*args, '--socket-path=' + self.path], env={**ENV, **env}, stderr=stderr)
        self.children.append(c)
        return c

    def connect(self):
        end = time.monotonic() + LIMIT
        while True:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(self.path)
                return s
            except OSError:
                s.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def front_end(self, protocol=0):
        f = FrontEnd(self.connect(), LIMIT)
        if protocol:
            f.ask(GET_FEATURES)
            offered, = struct.unpack('<Q', f.ask(GET_PROTOCOL_FEATURES))
            self.assertEqual(offered & protocol, protocol)
            f.send(SET_PROTOCOL_FEATURES, struct.pack('<Q', protocol))
        return f

    def ends(self, c):
        c.terminate()
        begin = time.monotonic()
        try:
            c.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.fail('still there %d s after SIGTERM' % LIMIT)
        self.assertLess(time.monotonic() - begin, END_LIMIT + 4)        # a loaded machine is slow

    # ---- the attacks: each leaves what it did in place ----

    def attack_call_and_err(self, f):
        f.start()
        f.send(SET_VRING_ERR, struct.pack('<Q', 0), [f.own(os.eventfd(0))])
        self.assertEqual(f.blk_read(0, 512)[1], 0)
        fill(f.fds[-1])
        fill(f.call)
        f.request(struct.pack('<IIQ', 0, 0, 0), 513)
        f.mem[AVAIL + 2:AVAIL + 4] = struct.pack('<H', 5000)    # breaks the ring: the error eventfd is signalled
        os.eventfd_write(f.kick, 1)

    def attack_log(self, f):
        f.send(SET_LOG_FD, b'', [f.own(os.eventfd(0))])
        fill(f.fds[-1])
        f.start()
        self.assertEqual(f.blk_read(0, 512)[1], 0)

    def attack_kick(self, f):
        r, w = os.pipe()
        f.own(r)
        f.own(w)
        fill_pipe(w)
        f.start()
        f.send(SET_VRING_KICK, struct.pack('<Q', 0), [r])
        os.set_blocking(r, True)
        fill_pipe(w)

    def attack_state(self, f):
        r, w = os.pipe()
        f.own(r)
        f.own(w)
        f.send(SET_DEVICE_STATE_FD, struct.pack('<II', LOAD, 0), [r])
        f.read(20)
        os.set_blocking(r, True)
        os.write(w, b'x')

    def attack_refusals(self, f):
        f.s.sendall(struct.pack('<III', 99, 1, 0) * 2000)       # no such request

    ATTACKS = ('call_and_err', 0), ('log', LOG_SHMFD), ('kick', 0), ('state', DEVICE_STATE), ('refusals', 0)

    def each(self):
        for name, protocol in self.ATTACKS:
            with self.subTest(name):
                c = self.start(stderr=subprocess.PIPE)          # which is not read
                f = self.front_end(protocol)
                getattr(self, 'attack_' + name)(f)
                yield c, f
                f.close()

    def test_sigterm_ends_the_process_while_an_attack_is_running(self):
        for c, f in self.each():
            f.ask(GET_FEATURES)         # control is alive
            self.ends(c)

    def test_the_next_front_end_is_served_after_an_attack(self):
        for c, f in self.each():
            f.s.shutdown(socket.SHUT_RDWR)
            g = self.front_end()
            g.start()
            self.assertEqual(g.blk_read(0, 512)[1], 0)
            g.close()
            self.ends(c)

    # ---- the limit of the end: a thread that does not return ----

    def test_sigterm_ends_a_process_whose_control_does_not_return(self):
        c = self.start(program=STUCK, stderr=subprocess.PIPE, STUCK_CONTROL='1')
        f = FrontEnd(self.connect(), LIMIT)
        f.ask(GET_FEATURES)
        f.close()
        self.ends(c)
        self.assertEqual(c.returncode, 1)
        self.assertIn(b'within its limit', c.stderr.read())

    def test_a_log_that_is_not_read_loses_lines_and_says_so(self):
        r, w = os.pipe()
        c = self.start(stderr=w, VHK_LOG='debug', VHK_TRACE='1')
        os.close(w)
        f = self.front_end()
        for _ in range(3000):           # more lines of the trace than a pipe takes
            f.ask(GET_FEATURES)
        text = b''
        while b'are missing' not in text:
            os.set_blocking(r, False)
            try:
                text += os.read(r, 1 << 20)
            except BlockingIOError:
                f.ask(GET_FEATURES)
        self.assertRegex(text, rb'vhk-blk: [0-9]+ lines of this log found no room and are missing')
        f.close()
        self.ends(c)
        os.close(r)


if __name__ == '__main__':
    BLK, STUCK = sys.argv[1:3]
    del sys.argv[1:3]
    unittest.main()
