#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The daemons' command line: wrong use answers in one clear line and a status that is not 0; signals, sockets, idleness.

    test-cli.py VHK-BLK VHK-RNG STUCK-DEVICE
"""
import errno
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
from front_end import FrontEnd          # noqa: E402

BLK = RNG = STUCK = None
ENV = {k: v for k, v in os.environ.items() if not k.startswith('VHK_')}
LIMIT = 20      # seconds, for anything to happen


def run(*args, program=None, **kw):
    return subprocess.run([program or BLK, *args], env=ENV, capture_output=True, text=True, timeout=LIMIT, **kw)


def get_features(s):
    """One vhost-user message (GET_FEATURES) and its reply."""
    s.settimeout(LIMIT)
    s.sendall(struct.pack('<III', 1, 1, 0))
    reply = b''
    while len(reply) < 20:
        more = s.recv(20 - len(reply))
        if not more:
            raise EOFError
        reply += more
    request, flags, size, features = struct.unpack('<IIIQ', reply)
    assert (request, flags & 7, size) == (1, 5, 8), (request, flags, size)
    return features


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.disk = self.path('disk')
        with open(self.disk, 'wb') as f:
            f.truncate(1 << 20)
        self.children = []

    def tearDown(self):
        for c in self.children:
            if c.poll() is None:
                c.kill()
            c.wait()
            c.stderr.close()
        self.dir.cleanup()

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def start(self, *args, program=None, **kw):
        c = subprocess.Popen([program or BLK, *args], env=ENV, stderr=subprocess.PIPE, text=True, **kw)
        self.children.append(c)
        return c

    def serve(self, *args, name='s', **kw):
        """A daemon that listens on socket @name."""
        path = self.path(name)
        c = self.start('--socket-path=' + path, *(args or ('--blk-file=' + self.disk,)), **kw)
        self.connect(path, c).close()
        return c, path

    def connect(self, path, child):
        end = time.monotonic() + LIMIT
        while True:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(path)
                return s
            except (FileNotFoundError, ConnectionRefusedError):
                s.close()
                self.assertIsNone(child.poll(), 'the daemon is gone: ' + (child.stderr.read() if child.poll() is not None else ''))
                self.assertLess(time.monotonic(), end)
                time.sleep(0.005)

    def refused(self, r, *words, program='vhk-blk'):
        lines = r.stderr.splitlines()
        self.assertEqual(r.returncode, 1, r.stderr)
        self.assertEqual(r.stdout, '')
        self.assertEqual(len(lines), 1, r.stderr)
        self.assertTrue(lines[0].startswith(program + ': '), lines[0])
        for w in words:
            self.assertIn(w, lines[0])


class Output(Case):
    def test_an_unknown_log_level_is_reported(self):
        env = dict(ENV, VHK_LOG='verbose')
        r = subprocess.run([BLK, '--version'], env=env, capture_output=True, text=True, timeout=LIMIT)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(r.stderr, 'vhk-blk: VHK_LOG=verbose is ignored: it must be error, warning, info or debug\n')

    def test_help_names_the_environment(self):
        self.assertIn('VHK_LOG=', run('--help').stdout)

    def test_help_that_cannot_be_written_fails(self):
        for word in ('--help', '--version', '--print-capabilities'):
            with self.subTest(word), open('/dev/full', 'w') as full:
                r = subprocess.run([BLK, word], env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
                self.assertEqual(r.returncode, 1)
                self.assertEqual(r.stderr, 'vhk-blk: cannot write the output: %s\n' % os.strerror(errno.ENOSPC))


class WrongUse(Case):
    def check(self, args, *words, **kw):
        self.refused(run(*args, **kw), *words)

    def check_disk(self, args, *words, **kw):
        self.check(['--socket-path=' + self.path('s'), *args], *words, **kw)
        self.assertFalse(os.path.exists(self.path('s')), 'a socket was left behind')

    def test_nothing(self):
        self.check([], '--socket-path or --fd is needed, or --vduse')

    def test_no_file(self):
        self.check_disk([], '--blk-file is needed')

    def test_missing_file(self):
        self.check_disk(['-b', self.path('none')], self.path('none') + ': No such file or directory')

    def test_no_permission(self):
        os.chmod(self.disk, 0o400)
        os.chmod(self.dir.name, 0o755)
        if os.getuid():
            self.check_disk(['-b', self.disk], self.disk + ': Permission denied (for writing)')
            return
        # root may everything: as nobody, who may not make a socket either, but the file comes first
        def nobody():
            os.setgid(65534)
            os.setuid(65534)
        try:
            self.check_disk(['-b', self.disk], self.disk + ': Permission denied', preexec_fn=nobody)
        except (subprocess.SubprocessError, PermissionError):
            self.skipTest('cannot: another user cannot run the program where it lies')

    def test_directory(self):
        self.check_disk(['-b', self.dir.name], self.dir.name + ': is a directory')

    def test_not_a_disk(self):
        self.check_disk(['-b', '/dev/null'], '/dev/null: neither a regular file nor a block device')

    def test_fifo(self):
        os.mkfifo(self.path('fifo'))
        self.check_disk(['-b', self.path('fifo')], 'neither a regular file nor a block device')

    def test_odd_size(self):
        os.truncate(self.disk, 1000)
        self.check_disk(['-b', self.disk], 'size of 1000 bytes is not a multiple of the logical block size (512)')

    def test_odd_size_for_large_blocks(self):
        os.truncate(self.disk, 4096 + 512)
        self.check_disk(['-b', self.disk, '--logical-block-size=4096'], 'not a multiple of the logical block size (4096)')

    def test_empty_file(self):
        os.truncate(self.disk, 0)
        self.check_disk(['-b', self.disk], 'is empty')

    def test_unknown_option(self):
        self.check(['--blk-fiel=x'], 'unknown option --blk-fiel (nearest: --blk-file)')
        self.check(['--socketpath=x'], '(nearest: --socket-path)')
        self.check(['--readonly'], '(nearest: --read-only)')
        self.check(['--qqqqqqqqqq'], 'unknown option --qqqqqqqqqq (--help')
        self.check(['-z'], 'unknown option -z')

    def test_no_option(self):
        self.check(['disk.img'], '"disk.img" is not an option')

    def test_values(self):
        for args, text in ((['--queue-size=3'], '--queue-size=3: must be a power of two'),
                           (['--queue-size=65536'], '--queue-size=65536: out of range, must be from 2 to 32768'),
                           (['--num-queues=0'], '--num-queues=0: out of range, must be from 1 to 256'),
                           (['--num-queues=257'], 'from 1 to 256'),
                           (['--num-queues=four'], '--num-queues=four: must be a whole number'),
                           (['--poll-us=1000001'], 'from 0 to 1000000'),
                           (['--engine=fast'], '--engine=fast: must be one of auto, io_uring, sync, null'),
                           (['--logical-block-size=1000'], '--logical-block-size must be a power of two'),
                           (['--logical-block-size=256'], 'from 512 to 65536'),
                           (['--serial=123456789012345678901'], 'longer than 20 bytes'),
                           (['--size=1M'], '--size goes with --engine=null only'),
                           (['--blk-file'], '--blk-file: needs a value'),
                           (['--read-only=yes'], '--read-only: takes no value')):
            with self.subTest(args=args):
                self.check_disk(['--blk-file=' + self.disk, *args], text)

    def test_null_without_size(self):
        self.check_disk(['--engine=null'], '--engine=null needs --size or --blk-file')
        self.check_disk(['--engine=null', '--size=1000'], 'not a multiple of the logical block size')

    def test_both_endpoints(self):
        self.check_disk(['--fd=3', '-b', self.disk], '--socket-path and --fd exclude each other')

    def test_vduse_alone(self):
        socket = '--socket-path=' + self.path('s')
        self.check(['--vduse=x', '--fd=3', '-b', self.disk], '--vduse goes with neither --socket-path nor --fd')
        self.check(['--vduse=x', socket, '-b', self.disk], '--vduse goes with neither')
        self.check(['--vduse-record=x', socket, '-b', self.disk], '--vduse-record goes with --vduse')
        self.check(['--vduse=a/b', '-b', self.disk], '"a/b" cannot be the name')

    @unittest.skipIf(os.path.exists('/dev/vduse/control'), 'this machine has VDUSE')
    def test_vduse_without_the_module(self):
        self.check(['--vduse=x', '-b', self.disk], '/dev/vduse/control', 'module')

    def test_path_too_long(self):
        self.check(['--socket-path=' + self.path('s' * 200), '-b', self.disk], 'the socket path has', 'at most 107')

    def test_path_in_no_directory(self):
        self.check(['--socket-path=' + self.path('none/s'), '-b', self.disk], self.path('none'), 'does not exist')

    def test_path_is_a_file(self):
        self.check(['--socket-path=' + self.disk, '-b', self.disk], self.disk)
        self.assertEqual(os.path.getsize(self.disk), 1 << 20)

    def test_path_in_use(self):
        _, path = self.serve()
        self.check(['--socket-path=' + path, '-b', self.disk], 'another process listens on ' + path)
        self.assertTrue(os.path.exists(path))

    def test_fd_is_nothing(self):
        self.check(['--fd=99', '-b', self.disk], '99')

    def test_fd_is_a_file(self):
        with open(self.disk) as f:
            self.check(['--fd=%d' % f.fileno(), '-b', self.disk], 'socket', pass_fds=[f.fileno()])


class Answers(Case):
    def test_capabilities(self):
        before = sorted(os.listdir(self.dir.name))
        for args in (['--print-capabilities'], ['-c'], ['--socket-path=' + self.path('s'), '--print-capabilities', '--nonsense', '-b', '/none']):
            r = run(*args)
            self.assertEqual((r.returncode, r.stderr), (0, ''))
            self.assertEqual(json.loads(r.stdout), {'type': 'block', 'features': ['read-only', 'blk-file']})
        self.assertEqual(sorted(os.listdir(self.dir.name)), before)

    def test_rng_capabilities(self):
        r = run('--print-capabilities', program=RNG)
        self.assertEqual(json.loads(r.stdout), {'type': 'rng', 'features': []})

    def test_help_names_every_option(self):
        r = run('--help')
        self.assertEqual((r.returncode, r.stderr), (0, ''))
        for o in ('socket-path=', 'fd=', 'blk-file=', 'read-only', 'serial=', 'num-queues=', 'queue-size=', 'logical-block-size=',
                  'direct', 'engine=', 'size=', 'poll-us=', 'threads=', 'print-capabilities', 'help', 'version'):
            self.assertIn('--' + o, r.stdout)

    def test_offers(self):
        for option, said in (('--offer=INBAND', 'no protocol feature "INBAND" (nearest: INBAND_NOTIFICATIONS)'),
                             ('--no-offer=MQ,RELPY_ACK', 'no protocol feature "RELPY_ACK" (nearest: REPLY_ACK)'),
                             ('--offer=,', 'no protocol feature ""'),
                             ('--offer=SHARED_OBJECT', 'protocol features 0x40000 are not implemented')):
            r = run('-s', self.path('s'), '-b', self.disk, option)
            self.assertEqual((r.returncode, r.stdout), (1, ''))
            self.assertIn(said, r.stderr)
            self.assertEqual(r.stderr.count('\n'), 1)

    def test_quirks(self):
        for option in ('--quirk=log-reply', '--quirk=log-reply-u64,x', '--quirk=,'):
            r = run('-s', self.path('s'), '-b', self.disk, option)
            self.assertEqual((r.returncode, r.stdout), (1, ''))
            self.assertIn('--quirk: there is no quirk "', r.stderr)
            self.assertIn('log-reply-u64', r.stderr)
        c, path = self.serve('-b', self.disk, '--quirk=log-reply-u64', name='s')
        with self.connect(path, c) as front_end:
            self.assertNotEqual(get_features(front_end), 0)
        c.terminate()
        self.assertEqual(c.wait(timeout=20), 0)

    def test_version(self):
        r = run('--version')
        self.assertEqual(r.returncode, 0)
        self.assertRegex(r.stdout, r'^vhk-blk \d+\.\d+\.\d+\n$')


class Serving(Case):
    def ends(self, c, status=0):
        status_is, text = c.wait(LIMIT), c.stderr.read()
        self.assertEqual(status_is, status, text)
        return text

    def test_sigterm(self):
        for s in (signal.SIGTERM, signal.SIGINT):
            c, path = self.serve()
            c.send_signal(s)
            self.ends(c)
            self.assertFalse(os.path.exists(path), 'the socket was left behind')

    def test_sigterm_with_a_front_end(self):
        c, path = self.serve()
        with self.connect(path, c) as s:
            get_features(s)
            c.terminate()
            self.ends(c)

    def test_sighup_resizes(self):
        c, path = self.serve()
        f = FrontEnd(self.connect(path, c))
        try:
            f.start()
            self.assertEqual(f.blk_read(2048, 512)[1], 1)
            os.truncate(self.disk, 2 << 20)
            with open(self.disk, 'r+b') as disk:
                disk.seek(2048 * 512)
                disk.write(b'n' * 512)
            self.assertEqual(f.blk_read(2048, 512)[1], 1)
            c.send_signal(signal.SIGHUP)
            self.until(lambda: f.blk_read(2048, 512)[:2] == (b'n' * 512, 0))
            os.truncate(self.disk, 512)
            c.send_signal(signal.SIGHUP)
            self.until(lambda: f.blk_read(1, 512)[1] == 1)
            self.assertEqual(f.blk_read(0, 512)[1], 0)
        finally:
            f.close()
        c.terminate()
        self.assertIn('shrunk from 2097152 to 512 bytes', self.ends(c))

    def until(self, condition):
        end = time.monotonic() + LIMIT
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.005)

    def test_one_after_the_other(self):
        c, path = self.serve()
        for _ in range(3):
            with self.connect(path, c) as s:
                get_features(s)
        c.terminate()
        self.ends(c)

    def test_second_front_end_waits(self):
        c, path = self.serve()
        first = self.connect(path, c)
        get_features(first)
        second = self.connect(path, c)
        second.sendall(struct.pack('<III', 1, 1, 0))
        second.settimeout(0.1)
        with self.assertRaises(TimeoutError):
            second.recv(1)
        first.close()
        second.settimeout(LIMIT)
        self.assertEqual(len(second.recv(20)), 20)
        second.close()
        c.terminate()
        self.ends(c)

    def test_stale_socket_is_replaced(self):
        path = self.path('s')
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
        c, _ = self.serve()
        with self.connect(path, c) as s:
            get_features(s)
        c.terminate()
        self.ends(c)

    def test_listening_fd(self):
        path = self.path('inherited')
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen()
            c = self.start('--fd=%d' % s.fileno(), '-b', self.disk, pass_fds=[s.fileno()])
        for _ in range(2):
            with self.connect(path, c) as f:
                get_features(f)
        c.terminate()
        self.ends(c)

    def test_connected_fd(self):
        ours, theirs = socket.socketpair()
        c = self.start('-f', str(theirs.fileno()), '-b', self.disk, pass_fds=[theirs.fileno()])
        theirs.close()
        with ours:
            get_features(ours)
        self.ends(c)            # the peer has left

    def test_features(self):
        ro, mq, flush = 1 << 5, 1 << 12, 1 << 9
        for args, want in (([], 0), (['--read-only'], ro)):
            c, path = self.serve('-b', self.disk, *args, name='s%d' % want)
            with self.connect(path, c) as s:
                f = get_features(s)
            self.assertEqual(f & (ro | mq | flush), want | mq | flush)
            c.terminate()
            self.ends(c)

    def test_read_only_file(self):
        os.chmod(self.disk, 0o400)
        c, _ = self.serve('-b', self.disk, '-r')
        c.terminate()
        self.ends(c)

    def test_every_engine(self):
        for engine in ('sync', 'auto', 'null'):
            c, path = self.serve('-b', self.disk, '--engine=' + engine, name=engine)
            with self.connect(path, c) as s:
                get_features(s)
            c.terminate()
            self.ends(c)

    def test_a_peer_that_is_no_front_end(self):
        c, path = self.serve()
        with self.connect(path, c) as s:
            s.sendall(b'GET / HTTP/1.0\r\n\r\n')
            s.settimeout(LIMIT)
            try:
                self.assertEqual(s.recv(100), b'')
            except ConnectionResetError:        # it had not read everything
                pass
        with self.connect(path, c) as s:
            get_features(s)
        c.terminate()
        self.ends(c)

    def test_front_ends_that_leave_anywhere(self):
        c, path = self.serve('-b', self.disk, '--engine=sync')
        chance = random.Random(1)

        def n_fds():
            with self.connect(path, c) as s:
                get_features(s)         # all before us have been cleaned up
                return len(os.listdir('/proc/%d/fd' % c.pid))
        before = n_fds()
        for _ in range(150):
            f = FrontEnd(self.connect(path, c))
            left = chance.randrange(12)
            send = f.send

            def few(request, payload=b'', fds=()):
                nonlocal left
                left -= 1
                if left < 0:
                    head = struct.pack('<III', request, 1, len(payload)) + payload
                    socket.send_fds(f.s, [head[:chance.randrange(1, len(head))]], list(fds))
                    raise EOFError
                send(request, payload, fds)
            f.send = few
            try:
                f.start()
                f.request(struct.pack('<IIQ', 0, 0, 0), 513)
            except EOFError:
                pass
            f.close()
        self.assertEqual(n_fds(), before)
        c.terminate()
        self.ends(c)

    def test_programs_open_the_standard_descriptors_that_are_closed(self):
        with open(self.disk, 'wb') as f:
            f.write(b'\x5a' * (1 << 20))
        for closed in '>&- 2>&-', '2>&-', '<&- >&- 2>&-':
            path = self.path('closed')
            for program, args in (BLK, ['-b', self.disk]), (RNG, []):
                c = subprocess.Popen(['sh', '-c', 'exec "$@" ' + closed, 'sh', program, '-s', path, *args], env=ENV)
                self.addCleanup(c.kill)
                self.connect(path, c).close()
                for fd in 0, 1, 2:
                    target = os.readlink('/proc/%d/fd/%d' % (c.pid, fd))
                    self.assertFalse(target.startswith(('socket', 'anon', self.disk)), (closed, program, fd, target))
                s = self.connect(path, c)
                s.sendall(b'A' * 100)           # no message: a line in the log
                s.settimeout(LIMIT)
                try:
                    self.assertEqual(s.recv(1), b'')
                except ConnectionResetError:
                    pass
                s.close()
                c.terminate()
                self.assertEqual(c.wait(LIMIT), 0)
        with open(self.disk, 'rb') as f:
            self.assertEqual(f.read(), b'\x5a' * (1 << 20))

    def wakeups(self, c):
        n = {}
        for t in os.listdir('/proc/%d/task' % c.pid):
            with open('/proc/%d/task/%s/status' % (c.pid, t)) as f:
                for line in f:
                    if 'ctxt_switches' in line:
                        n[t] = n.get(t, 0) + int(line.split()[1])
        return n

    def sleeps(self, c):
        time.sleep(0.3)
        before = self.wakeups(c)
        time.sleep(2)
        self.assertEqual(self.wakeups(c), before)

    def test_idle_makes_no_wakeups(self):
        c, path = self.serve('-b', self.disk, '--num-queues=2')
        self.sleeps(c)
        f = FrontEnd(self.connect(path, c))
        self.addCleanup(f.close)
        f.start()
        f.blk_read(0, 512)
        self.sleeps(c)          # it has polled, and stopped doing so
        c.terminate()
        self.ends(c)

    def test_reads(self):
        data = bytes(i * 7 & 0xff for i in range(4096))
        with open(self.disk, 'r+b') as d:
            d.seek(8192)
            d.write(data)
        for engine in ('sync', 'auto'):
            c, path = self.serve('-b', self.disk, '--engine=' + engine, name=engine)
            for _ in range(2):
                f = FrontEnd(self.connect(path, c))
                f.start()
                self.assertEqual(f.blk_read(16, 4096), (data, 0, 4097))
                self.assertEqual(f.blk_read(17, 512), (data[512:1024], 0, 513))
                self.assertEqual(f.blk_read(1 << 40, 512), (b'\xee' * 512, 1, 0))      # not a byte from the first on
                f.close()
            c.terminate()
            self.ends(c)

    def test_rng(self):
        path = self.path('rng')
        c = self.start('-s', path, program=RNG)
        f = FrontEnd(self.connect(path, c))
        self.addCleanup(f.close)
        f.start()
        answers = set()
        for _ in range(3):
            f.request(b'', 64)
            data, length = f.wait(64)
            self.assertEqual(length, 64)
            answers.add(data)
        self.assertEqual(len(answers), 3)
        c.terminate()
        self.ends(c)

    def stuck(self, record=None):
        path = self.path('stuck')
        c = self.start('-s', path, program=STUCK)
        f = FrontEnd(self.connect(path, c))
        self.addCleanup(f.close)
        if record is not None:          # INFLIGHT_SHMFD: rings of 16 entries
            f.send(16, struct.pack('<Q', 1 << 12))
            f.send(32, struct.pack('<QQHH', 4096, 0, 3, 16), [record])
        f.start(rings=3)
        f.request(b'', 64)
        f.request(b'', 64, ring=2)
        f.request(b'', 64, ring=2, head=5)
        with self.assertRaises(TimeoutError):
            f.limit = 0.1
            f.wait(64)
        c.terminate()
        with self.assertRaises(subprocess.TimeoutExpired):
            c.wait(0.2)                 # it waits for what it has accepted ...
        return c

    def test_second_sigterm_does_not_wait(self):
        c = self.stuck()
        c.terminate()
        self.ends(c, 1)

    def test_requests_that_never_end(self):
        record = os.memfd_create('record')
        self.addCleanup(os.close, record)
        os.ftruncate(record, 4096)
        c = self.stuck(record)          # ... but not for ever
        told = self.ends(c, 1)
        self.assertIn('still in flight', told)
        self.assertIn("3 left in the in-flight record (ring 0: 1, ring 2: 2)", told)
        for ring, heads in (0, [0]), (1, []), (2, [0, 5]):
            at = ring * 320
            version, _, _, used = struct.unpack('<HHHH', os.pread(record, 8, at + 8))
            self.assertEqual((version, used), (1, 0))
            self.assertEqual([i for i in range(16) if os.pread(record, 1, at + 16 + 16 * i) == b'\x01'], heads)

    def test_memory_that_vanishes(self):
        c, path = self.serve()
        f = FrontEnd(self.connect(path, c))
        f.start()
        self.assertEqual(f.blk_read(0, 512)[1], 0)
        os.ftruncate(f.memfd, 0)
        os.eventfd_write(f.kick, 1)
        try:
            self.assertEqual(f.s.recv(1), b'')          # that connection ends ...
        except ConnectionResetError:
            pass
        f.close()
        f = FrontEnd(self.connect(path, c))             # ... and nothing else
        f.start()
        self.assertEqual(f.blk_read(0, 512), (bytes(512), 0, 513))
        f.close()
        c.terminate()
        self.ends(c)

    def logged(self, *args, cpus=None, **env):
        path = self.path('s')
        c = subprocess.Popen([BLK, '-s', path, '-b', self.disk, *args], env=dict(ENV, **env), stderr=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, preexec_fn=cpus and (lambda: os.sched_setaffinity(0, cpus)))
        with self.connect(path, c) as s:
            get_features(s)
        c.terminate()
        out, err = c.communicate(timeout=LIMIT)
        self.assertEqual((c.returncode, out), (0, ''))
        return err

    def test_log_and_trace_go_to_stderr(self):
        err = self.logged(VHK_LOG='info', VHK_TRACE='1')
        self.assertIn('vhk-blk: serving ' + self.path('s'), err)
        self.assertIn('GET_FEATURES', err)
        self.assertEqual(self.logged(), '')
        self.assertEqual(self.logged(VHK_TRACE='0'), '')

    def test_offered(self):
        def offered(*options):
            c, path = self.serve('-b', self.disk, *options)
            f = FrontEnd(self.connect(path, c))
            bits, = struct.unpack('<Q', f.ask(15))
            f.close()
            c.terminate()
            self.ends(c)
            return bits
        default = offered()
        self.assertEqual(default & (1 << 14), 0)
        self.assertEqual(offered('--offer=INBAND_NOTIFICATIONS', '--no-offer=STATUS,MQ'), default & ~(1 << 16 | 1) | 1 << 14)

    def test_trace(self):
        """Both directions, descriptors, results and refusals with their rule."""
        path = self.path('s')
        c = subprocess.Popen([BLK, '-s', path, '-b', self.disk], env=dict(ENV, VHK_TRACE='1'), stderr=subprocess.PIPE, text=True)
        self.children.append(c)
        f = FrontEnd(self.connect(path, c))
        f.send(3)
        f.ask(1)
        self.assertEqual(len(f.ask(15)), 8)
        f.send(13, struct.pack('<Q', 0), [f.call])
        f.send(16, struct.pack('<Q', 1 << 3))
        for size, answer in ((16, 0), (3, 1)):
            f.s.sendall(struct.pack('<IIIII', 8, 9, 8, 1, size))
            f.read(12)
            self.assertEqual(f.read(8), struct.pack('<Q', answer))
        f.close()
        c.terminate()
        err = c.communicate(timeout=LIMIT)[1]
        for line in ('-> SET_OWNER (0 bytes, no fds)', '<- GET_FEATURES reply 0x', '-> SET_VRING_CALL ring 0 (8 bytes, 1 fd)',
                     '-> SET_VRING_NUM ring 1 num 3 (8 bytes, no fds, wants a reply)', '<- SET_VRING_NUM reply value 0x0 (8 bytes, no fds)',
                     '<- SET_VRING_NUM reply value 0x1 (8 bytes, no fds)', '-- SET_VRING_NUM refused (ring.size): ring 1: size 3',
                     '-- the connection ends (in order): the front-end has gone'):
            self.assertIn('\n' + line, '\n' + err)

    def test_threads_and_polling(self):
        cpus = sorted(os.sched_getaffinity(0))
        one = {cpus[0]}
        err = self.logged('--num-queues=8', '--threads=3', '--poll-us=20', cpus=one, VHK_LOG='info')
        self.assertIn('8 queues of up to 1024 entries, 3 threads beside control', err)
        self.assertIn('polling 20 us', err)     # asked for, also alone on a CPU
        err = self.logged('--queue-size=64', cpus=one, VHK_LOG='info')
        self.assertIn('256 queues of up to 64 entries, 1 thread beside control', err)
        self.assertIn('polling 0 us', err)      # alone on a CPU
        self.assertIn('1 queue of', self.logged('--num-queues=1', VHK_LOG='info'))
        if len(cpus) > 1:
            self.assertIn('polling 20 us', self.logged('--poll-us=20', VHK_LOG='info'))
            self.assertIn('polling 50 us', self.logged(VHK_LOG='info'))
            self.assertIn('polling 0 us', self.logged('--poll-us=0', VHK_LOG='info'))

    def test_queues_beyond_the_descriptors_are_not_offered(self):
        def limit(n):
            return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, n))
        run = lambda n, *args: subprocess.run([BLK, '--fd=200', '-b', self.disk, '--threads=1', *args], env=ENV, stdin=subprocess.DEVNULL,
                                              capture_output=True, text=True, timeout=LIMIT, preexec_fn=limit(n))
        r = run(500, '--num-queues=256')
        self.assertEqual(r.returncode, 1)
        self.assertIn('--num-queues=256 needs 836 descriptors, and this process may open 500 (hard limit of RLIMIT_NOFILE): at most 144 queues',
                      r.stderr)
        self.assertNotIn('--num-queues', run(500, '--num-queues=144').stderr)   # only --fd is wrong
        self.assertIn('144 queues are offered: this process may open 500 descriptors', run(500).stderr)
        self.assertNotIn('offered', run(2000).stderr)


if __name__ == '__main__':
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    BLK, RNG, STUCK = sys.argv[1:4]
    unittest.main(argv=[sys.argv[0]] + sys.argv[4:], verbosity=1)
