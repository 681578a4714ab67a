#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""vhk against qemu-storage-daemon, against vhk-blk, and against sockets that are no back-end at all.

    test-vhk.py [BINDIR] [unittest arguments]       BINDIR: where vhk and vhk-blk are; else $VHK_BINDIR

Exit status 77: qemu-storage-daemon is not installed and what needs it was skipped (a failure where CI=true).
"""
import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]):
    BINDIR = sys.argv.pop(1)
else:
    BINDIR = os.environ.get('VHK_BINDIR', 'build/bin')
VHK = os.path.join(BINDIR, 'vhk')
VHK_BLK = os.path.join(BINDIR, 'vhk-blk')
VHK_RNG = os.path.join(BINDIR, 'vhk-rng')
ANY_DEVICE = os.path.join(BINDIR, 'any-device')
QSD = shutil.which('qemu-storage-daemon')
CI = os.environ.get('CI') == 'true'
MIB = 1 << 20
SIZE = 16 * MIB
QUEUES = 2
LIMIT = 60              # no vhk here runs longer; a hung one fails


def vhk(*args, **options):
    return subprocess.run([VHK, *map(str, args)], capture_output=True, text=True, timeout=LIMIT, **options)


def digest(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def await_listening(path, child):
    """The kernel's list says when; no connection is spent on finding out."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with open('/proc/net/unix') as f:
            for line in f:
                w = line.split()
                if w[-1] == path and int(w[3], 16) & 0x10000:
                    return
        if child.poll() is not None:
            raise AssertionError('%s ended with status %d' % (child.args[0], child.returncode))
        time.sleep(0.01)
    raise AssertionError('nobody listens on ' + path)


class Base(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='vhk-test-')
        self.addCleanup(shutil.rmtree, self.dir)

    def path(self, name):
        return os.path.join(self.dir, name)

    def fails(self, run, status, *words):
        """One line on stderr, with these words, and that status."""
        self.assertEqual(run.returncode, status, run)
        self.assertEqual(run.stderr.count('\n'), 1, run)
        self.assertTrue(run.stderr.startswith('vhk'), run)
        for w in words:
            self.assertIn(w, run.stderr)

    def works(self, run):
        self.assertEqual(run.returncode, 0, run)
        self.assertEqual(run.stderr, '', run)
        return run.stdout

    def spawn(self, *args):
        child = subprocess.Popen([VHK, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def end():
            child.kill()
            child.communicate()
        self.addCleanup(end)
        return child


class Usage(Base):
    def test_help_and_version(self):
        for args in (['--help'], ['-h'], ['probe', '--help'], ['ping', '--help'], ['bench', '--help'], ['demo', '--help'], ['--version']):
            self.assertIn('vhk', self.works(vhk(*args)))
        self.assertIn('--block-size=', vhk('bench', '--help').stdout)

    def test_output_that_cannot_be_written_fails(self):
        with open('/dev/full', 'w') as full:
            r = subprocess.run([VHK, '--help'], stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
        self.assertEqual((r.returncode, r.stderr), (1, 'vhk: cannot write the output: %s\n' % os.strerror(errno.ENOSPC)))

    def test_numbers_are_explained(self):
        self.fails(vhk('ping', '/x', '--count=-1'), 2, '--count=-1', 'must be a whole number')
        self.fails(vhk('bench', '/x', '--seconds=0.5'), 2, '--seconds=0.5', 'must be a whole number')

    def test_nothing_said(self):
        self.assertEqual(vhk().returncode, 2)

    def test_unknown_words_name_the_nearest(self):
        self.fails(vhk('prob'), 2, '"prob"', '"probe"')
        self.fails(vhk('frobnicate', 'x'), 2, 'frobnicate')
        self.fails(vhk('--frobnicate'), 2, '--frobnicate')
        self.fails(vhk('probe', '/x', '--jsn'), 2, 'vhk probe: ', '--json')
        self.fails(vhk('bench', '/x', '--blck-size=4K'), 2, 'vhk bench: ', '--block-size')

    def test_wrong_values(self):
        for args in (['probe'], ['probe', '/x', '/y'], ['bench', '/x', '--depth=0'], ['bench', '/x', '--depth=many'], ['bench', '/x', '--rw=backwards'],
                     ['bench', '/x', '--event', '--poll'], ['bench', '/x', '--rw=randwrite'], ['bench', '/x', '--rw=read', '--write'],
                     ['bench', '/x', '--queue-size=100'], ['bench', '/x', '--depth=1K', '--block-size=16M'], ['ping', '/x', '--count=0'], ['probe', '/x', '--device=toaster'], ['demo', 'x']):
            with self.subTest(args=args):
                self.fails(vhk(*args), 2)
        self.assertIn('--write', vhk('bench', '/x', '--rw=randwrite').stderr)


class Vdpa(Base):
    """The command line; what it does is seen in a guest (tests/lab/guest/kernel-mgmt.sh)."""
    def setUp(self):
        super().setUp()
        if '\n  vdpa ' not in vhk('--help').stdout:
            self.skipTest('vhk was built without with_kernel')

    def test_help(self):
        for args in (['vdpa', '--help'], ['vdpa', 'list', '--help'], ['vdpa', 'add', '--help'], ['vdpa', 'del', '-h'], ['vdpa', 'bind', '--help']):
            self.assertIn('usage: vhk vdpa', self.works(vhk(*args)))
        r = vhk('vdpa')
        self.assertEqual(r.returncode, 2)
        for word in ('list', 'add', 'del', 'bind'):
            self.assertIn('\n  %s ' % word, r.stdout)

    def test_wrong_use(self):
        for words, args in ((('vhk vdpa: ', '"lst"', '"list"'), ['lst']), (('vhk vdpa: ', '--help'), ['frobnicate']), (('vhk vdpa list: ', '--json'), ['list', '--jsn']),
                            (('vhk vdpa list: ', '"x"'), ['list', 'x']), (('vhk vdpa add: ', 'NAME is missing'), ['add', '--mgmt=sim']),
                            (('--mgmt=',), ['add', 'blk0']), (('--mac=', '52:54:00:12:34:56'), ['add', 'net0', '--mgmt=sim', '--mac=52:54:00:12:34']),
                            (('--mac=',), ['add', 'net0', '--mgmt=sim', '--mac=52:54:00:12:34:56:78']), (('--mac=',), ['add', 'net0', '--mgmt=sim', '--mac=5:254:00:12:34:56']),
                            (('--mac=',), ['add', 'net0', '--mgmt=sim', '--mac=+2:54:00:12:34:56']), (('--mtu=', '68'), ['add', 'net0', '--mgmt=sim', '--mtu=67']),
                            (('--queues=', '32768'), ['add', 'net0', '--mgmt=sim', '--queues=0']), (('--mgmt=',), ['add', 'net0', '--mgmt=' + 'x' * 64 + '/y']),
                            (('--features=', '0x'), ['add', 'net0', '--mgmt=sim', '--features=20']), (('--features=',), ['add', 'net0', '--mgmt=sim', '--features=0x']),
                            (('--features=',), ['add', 'net0', '--mgmt=sim', '--features=0x-1']), (('--features=',), ['add', 'net0', '--mgmt=sim', '--features=0x1' + '0' * 16]),
                            (('NAME is missing',), ['del']), (('one argument too many',), ['del', 'a', 'b']), (('DRIVER is missing',), ['bind', 'blk0']),
                            (('"vfio"', 'vhost_vdpa', 'virtio_vdpa'), ['bind', 'blk0', 'vfio'])):
            with self.subTest(args=args):
                self.fails(vhk('vdpa', *args), 2, *words)

    def test_impossible_names(self):
        for args in (['add', 'a/b', '--mgmt=sim'], ['add', '..', '--mgmt=sim'], ['add', 'x' * 256, '--mgmt=sim'], ['add', 'x', '--mgmt=pci/'], ['add', 'x', '--mgmt=pci/a/b'],
                     ['del', '../x'], ['bind', '.', 'vhost_vdpa']):
            with self.subTest(args=args):
                self.fails(vhk('vdpa', *args), 1, 'vhk vdpa ')

    def test_no_vdpa_here(self):
        if vhk('vdpa', 'list').returncode == 0:
            return              # there is, or the kernel loaded it when it was asked for
        for args in (['list'], ['list', '--json'], ['add', 'blk0', '--mgmt=vdpasim_blk'], ['del', 'blk0'], ['bind', 'blk0', 'vhost_vdpa']):
            with self.subTest(args=args):
                r = vhk('vdpa', *args)
                self.fails(r, 1, 'this kernel has no vDPA', 'module vdpa')
                self.assertEqual(r.stdout, '')


class WrongEndpoint(Base):
    def test_what_is_no_socket(self):
        open(self.path('file'), 'w').close()
        self.fails(vhk('probe', self.path('nothing')), 1, 'no socket', self.path('nothing'))
        self.fails(vhk('ping', self.dir), 1, 'a directory, not a socket')
        self.fails(vhk('bench', self.path('file')), 1, 'a regular file, not a socket')
        self.fails(vhk('probe', 'vhost-user:' + self.path('nothing')), 1, 'no socket')
        self.fails(vhk('probe', 'vhost-user:'), 1, 'empty')
        self.fails(vhk('probe', self.path('x' * 200)), 1, '107')
        self.fails(vhk('probe', 'vhost-vdpa:/dev/vhost-vdpa-0'), 1, 'vhost-vdpa')
        self.fails(vhk('probe', 'fd:99'), 1, '99')
        self.fails(vhk('probe', 'fd:x'), 2, 'fd:x')
        self.fails(vhk('probe', 'vhost-vdpa:fd:x'), 2, 'fd:x')
        with open(self.path('file')) as f:
            self.fails(vhk('probe', 'fd:%d' % f.fileno(), pass_fds=[f.fileno()]), 1, str(f.fileno()))

    def test_trace(self):
        """Standard output is the same with VHK_TRACE=1; every message is a line on standard error."""
        def serve(c):
            c.recv(4096)
            c.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')
        r = vhk('probe', self.served(serve), '--timeout-ms=5000', env=dict(os.environ, VHK_TRACE='1'))
        self.assertIn('-> GET_FEATURES (0 bytes, no fds)\n-- the connection ends (', r.stderr)

    def test_stale_socket(self):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
            s.bind(self.path('s'))
            s.listen()
        self.fails(vhk('probe', self.path('s')), 1, 'nobody listens', self.path('s'))

    def served(self, serve):
        """A socket whose connections are given to @serve, one after the other."""
        s = socket.socket(socket.AF_UNIX)
        s.bind(self.path('s'))
        s.listen()

        def run():
            with contextlib.suppress(OSError):
                while True:
                    c, _ = s.accept()
                    with contextlib.closing(c), contextlib.suppress(OSError):
                        serve(c)
        t = threading.Thread(target=run, daemon=True)
        t.start()

        def end():
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()
            t.join()
        self.addCleanup(end)
        return self.path('s')

    def test_http_server(self):
        def serve(c):
            c.recv(4096)
            c.sendall(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
        for sub in ('probe', 'ping', 'bench'):
            with self.subTest(sub=sub):
                if sub == 'probe':
                    path = self.served(serve)
                self.fails(vhk(sub, path, '--timeout-ms=5000'), 1, 'vhost-user')

    def test_talks_before_it_is_asked(self):
        self.fails(vhk('probe', self.served(lambda c: (c.sendall(b'220 mail.example.org ESMTP\r\n'), c.recv(1)))), 1, 'vhost-user')

    def test_hangs_up(self):
        self.fails(vhk('probe', self.served(lambda c: None)), 1)

    def test_silent(self):
        """Neither one that accepts and says nothing, nor one that does not even accept."""
        path = self.served(lambda c: c.recv(1 << 16) and c.recv(1))
        for sub in ('probe', 'ping', 'bench'):
            self.fails(vhk(sub, path, '--timeout-ms=200'), 3, 'busy')
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
            s.bind(self.path('backlog'))
            s.listen()
            self.fails(vhk('probe', self.path('backlog'), '--timeout-ms=200'), 3, 'busy')


class Server:
    """What serves a disk: a path, a process."""
    def __init__(self, test, image, read_only=False):
        self.socket = test.path('disk.sock')
        self.child = subprocess.Popen(self.argv(image, read_only), stderr=subprocess.PIPE, text=True)
        test.addCleanup(self.end)
        await_listening(self.socket, self.child)

    def end(self):
        self.child.send_signal(signal.SIGCONT)
        self.child.terminate()
        try:
            _, err = self.child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.communicate()
            raise
        if 'Sanitizer' in err:
            raise AssertionError(err)


class Qsd(Server):
    def argv(self, image, read_only):
        return [QSD, '--blockdev', 'driver=file,node-name=d0,filename=%s,read-only=%s' % (image, 'on' if read_only else 'off'),
                '--export', 'type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=%s,writable=%s,num-queues=%d,logical-block-size=512'
                % (self.socket, 'off' if read_only else 'on', QUEUES)]


class VhkBlk(Server):
    def argv(self, image, read_only):
        return [VHK_BLK, '--socket-path=' + self.socket, '--blk-file=' + image, '--num-queues=%d' % QUEUES] + ['--read-only'] * read_only


class BlockSize(VhkBlk):
    def __init__(self, test, image, block):
        self.block = block
        super().__init__(test, image)

    def argv(self, image, read_only):
        return super().argv(image, read_only) + ['--logical-block-size=%d' % self.block]


class Disk:
    """The same for each server that can be had."""
    server = None

    def start(self, **options):
        self.image = self.path('disk.img')
        with open(self.image, 'wb') as f:
            f.write(os.urandom(MIB) * (SIZE // MIB))
        self.before = digest(self.image)
        self.s = self.server(self, self.image, **options)
        return self.s.socket

    def unchanged(self):
        self.assertEqual(digest(self.image), self.before, 'the contents of the disk have changed')

    def test_probe_json(self):
        p = json.loads(self.works(vhk('probe', self.start(), '--json')))
        self.assertEqual(p['endpoint'], self.s.socket)
        self.assertEqual(p['device'], {'name': 'block', 'id': 2, 'how': 'inferred'})
        self.assertEqual(p['queues'], QUEUES)
        self.assertGreaterEqual(p['memory_slots'], 8)
        block = p['config']['block']
        self.assertEqual((block['capacity'], block['block_size'], block['n_queues']), (SIZE, 512, QUEUES))
        self.assertEqual(bytes.fromhex(p['config']['hex'])[:8], (SIZE // 512).to_bytes(8, 'little'))
        for word, name, bit in (('features', 'FLUSH', 9), ('features', 'VERSION_1', 32), ('protocol_features', 'CONFIG', 9)):
            self.assertTrue(int(p[word]['value'], 16) >> bit & 1)
            self.assertTrue([b for b in p[word]['bits'] if b['bit'] == bit and b['name'].endswith(name)], (word, name))
        told = json.loads(self.works(vhk('probe', self.s.socket, '--json', '--device=blk')))
        self.assertEqual(told['device']['how'], 'told')
        self.unchanged()

    def test_probe_text(self):
        out = self.works(vhk('probe', 'vhost-user:' + self.start()))
        for words in ('block (inferred', 'BLK_SIZE', 'REPLY_ACK', '16777216 bytes (16 MiB)'):
            self.assertIn(words, out)

    def test_inherited_socket(self):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
            s.connect(self.start())
            out = self.works(vhk('probe', 'fd:%d' % s.fileno(), pass_fds=[s.fileno()]))
        self.assertIn('16777216 bytes', out)

    def test_ping(self):
        path = self.start()
        for args in ([], ['--polling'], ['--size=512', '--offset=15K'], ['--size=1M']):
            out = self.works(vhk('ping', path, '--count=3', '--interval-ms=1', *args))
            self.assertEqual(out.count('seq='), 3)
            self.assertIn('3 rounds, 3 ok, 0 failed', out)
            self.assertIn('mdev', out)
        self.fails_at_the_end(vhk('ping', path, '--count=1', '--offset=16M'), 'beyond the end')
        self.assertEqual(vhk('ping', path, '--count=1', '--offset=100').returncode, 2)
        self.unchanged()

    def fails_at_the_end(self, run, *words):
        self.fails(run, 1, *words)

    def test_ping_write_restores(self):
        path = self.start()
        for args in ([], ['--polling', '--size=64K'], ['--size=512', '--offset=16776704']):
            out = self.works(vhk('ping', path, '--count=5', '--interval-ms=0', '--write', *args))
            self.assertEqual(out.count('verified, restored'), 5)
        self.unchanged()

    def test_ping_ends_with_its_summary(self):
        child = self.spawn('ping', self.start(), '--interval-ms=10')
        for _ in range(4):
            child.stdout.readline()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=LIMIT)
        self.assertEqual((child.returncode, err), (0, ''))
        self.assertIn('mdev', out)

    def bench(self, *args):
        r = json.loads(self.works(vhk('bench', self.s.socket, '--seconds=1', '--json', *args)))
        self.assertGreater(r['requests'], 10)
        self.assertAlmostEqual(r['iops'], r['requests'] / r['seconds'], delta=r['iops'] / 100)
        self.assertAlmostEqual(r['mb_per_s'], r['iops'] * r['block_size'] / 1e6, delta=r['mb_per_s'] / 100)
        self.assertEqual(sum(b['count'] for b in r['histogram']), r['requests'])
        t = r['latency_ns']
        order = [t[k] for k in ('min', 'p50', 'p90', 'p99', 'p99_9', 'p99_99', 'max')]
        self.assertEqual(order, sorted(order))
        self.assertGreater(t['min'], 0)
        self.assertTrue(0 < r['bursts'] <= r['requests'])
        self.assertGreater(r['client']['cpu_seconds'], 0)
        self.assertIsNone(r['error'])
        return r

    def test_bench_read(self):
        self.start()
        r = self.bench('--server-pid=%d' % self.s.child.pid)
        self.assertEqual((r['rw'], r['block_size'], r['depth'], r['queues'], r['mode']), ('randread', 4096, 32, 1, 'event'))
        self.assertGreater(r['server']['cpu_seconds'], 0)
        r = self.bench('--rw=read', '--poll', '--block-size=64K', '--depth=4', '--queues=2')
        self.assertEqual((r['rw'], r['block_size'], r['depth'], r['queues'], r['mode'], r['server']), ('read', 65536, 4, 2, 'poll', None))
        self.bench('--depth=200', '--queue-size=16')            # more than the ring takes: it is kept full
        self.unchanged()

    def test_bench_text(self):
        out = self.works(vhk('bench', self.start(), '--seconds=1', env=dict(os.environ, LC_ALL='C')))
        for words in ('IOPS', 'MB/s', 'p99.9', '####'):
            self.assertIn(words, out)
        out = self.works(vhk('bench', self.s.socket, '--seconds=1', env=dict(os.environ, LC_ALL='C.UTF-8')))
        self.assertIn('██', out)

    def test_bench_write(self):
        path = self.start()
        self.fails(vhk('bench', path, '--rw=randwrite', '--seconds=1'), 2, '--write')
        self.unchanged()
        self.assertEqual(self.bench('--write')['rw'], 'randwrite')
        self.assertNotEqual(digest(self.image), self.before)
        self.assertEqual(self.bench('--write', '--rw=write', '--depth=1')['rw'], 'write')
        self.assertEqual(os.path.getsize(self.image), SIZE)

    def test_bench_refuses(self):
        path = self.start()
        self.fails(vhk('bench', path, '--queues=200'), 1)
        self.fails(vhk('bench', path, '--server-pid=%d' % (1 << 30)), 1, '--server-pid')
        self.fails(vhk('bench', path, '--block-size=1000'), 2, '512')

    def test_bench_interrupted(self):
        for args in ([], ['--poll']):
            child = self.spawn('bench', self.s.socket if args else self.start(), '--seconds=100', '--progress', *args)
            self.assertIn('IOPS', child.stderr.readline())
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=LIMIT)
            self.assertEqual(child.returncode, 0)
            self.assertIn('p99.9', out)

    def test_read_only(self):
        path = self.start(read_only=True)
        for sub in ('bench', 'ping'):
            self.fails(vhk(sub, path, '--write'), 1, 'read-only')
        self.works(vhk('ping', path, '--count=1'))

    def test_busy(self):
        child = self.spawn('ping', self.start(), '--interval-ms=1')
        child.stdout.readline()
        child.stdout.readline()
        self.fails(vhk('probe', self.s.socket, '--timeout-ms=300'), 3, 'busy')
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=LIMIT)
        self.works(vhk('probe', self.s.socket, '--timeout-ms=20000'))

    def test_server_stops_answering(self):
        child = self.spawn('bench', self.start(), '--seconds=100', '--progress', '--timeout-ms=300')
        child.stderr.readline()
        self.s.child.send_signal(signal.SIGSTOP)
        _, err = child.communicate(timeout=LIMIT)
        self.assertEqual(child.returncode, 1)
        self.assertIn('no answer', err)

    def test_server_dies(self):
        for args in ([], ['--poll']):
            with self.subTest(args=args):
                if args:
                    os.unlink(self.s.socket)
                child = self.spawn('bench', self.start(), '--seconds=100', '--progress', *args)
                child.stderr.readline()
                self.s.child.kill()
                _, err = child.communicate(timeout=LIMIT)
                self.assertEqual(child.returncode, 1)
                self.assertIn('connection', err)


class Rng(Server):
    def argv(self, image, read_only):
        return [VHK_RNG, '--socket-path=' + self.socket]


class AnyDevice(Server):
    def __init__(self, test, kind):
        self.kind = kind
        super().__init__(test, None)

    def argv(self, image, read_only):
        return [ANY_DEVICE, '--socket-path=' + self.socket, '--device=' + self.kind]


@unittest.skipUnless(os.path.exists(ANY_DEVICE), 'no any-device in ' + BINDIR)
class Configurations(Base):
    """What the bytes mean (programs/vhk/test-layout.c has every type). vhost-user does not tell how many there are: this back-end
    fills up what is asked for with zeroes."""
    def probe(self, kind, *args):
        s = AnyDevice(self, kind)
        return json.loads(self.works(vhk('probe', s.socket, '--json', *args))), self.works(vhk('probe', s.socket, *args))

    def test_net(self):
        p, text = self.probe('net-plain')
        self.assertEqual((p['device']['name'], p['device']['how']), ('net', 'inferred'))
        self.assertEqual(p['config']['net'], {'mac': '52:54:00:12:34:56'})
        self.assertTrue(p['config']['hex'].startswith('5254001234560000'))
        self.assertIn('\n  address            52:54:00:12:34:56\n', text)
        self.assertNotIn('52 54 00', text)

    def test_net_told(self):
        p, text = self.probe('net-plain', '--device=net')
        self.assertEqual((p['device']['how'], p['config']['length'], p['config']['net']['mac']), ('told', 28, '52:54:00:12:34:56'))

    def test_vsock(self):
        p, text = self.probe('vsock', '--device=vsock')
        self.assertEqual(p['config']['vsock'], {'guest_cid': 3})
        self.assertIn('\n  guest CID          3\n', text)

    def test_gpio(self):
        p, text = self.probe('gpio', '--device=gpio')
        self.assertEqual(p['config']['gpio'], {'n_lines': 4, 'names_size': 0})
        self.assertIn('\n  lines              4\n', text)
        self.assertNotIn('names  ', text)

    def test_unknown_stays_hexadecimal(self):
        p, text = self.probe('vsock')
        self.assertEqual(set(p['config']), {'length', 'hex'})
        self.assertTrue(p['config']['hex'].startswith('0300000000000000'))
        self.assertIn('  03 00 00 00 00 00 00 00 ', text)


@unittest.skipUnless(os.path.exists(VHK_RNG), 'no vhk-rng in ' + BINDIR)
class NoDisk(Base):
    def test_unknown_device(self):
        s = Rng(self, None)
        p = json.loads(self.works(vhk('probe', s.socket, '--json')))
        self.assertEqual(p['device'], {'name': None, 'id': 0, 'how': 'unknown'})
        self.assertEqual(p['config'], {'length': 0, 'hex': ''})
        self.assertIn('unknown (vhost-user does not say)', self.works(vhk('probe', s.socket)))
        self.assertIn('rng\n', self.works(vhk('probe', s.socket, '--device=rng')))
        for sub in ('ping', 'bench'):
            self.fails(vhk(sub, s.socket), 1, 'no block device')


@unittest.skipUnless(QSD or CI, 'qemu-storage-daemon is not installed (package qemu-system-x86 or qemu-utils)')
class WithQsd(Disk, Base):
    server = Qsd


@unittest.skipUnless(os.path.exists(VHK_BLK), 'no vhk-blk in ' + BINDIR)
class WithVhkBlk(Disk, Base):
    server = VhkBlk

    def test_the_default_size_suits_the_disk(self):
        for bytes_, block, size in ((512, 512, 512), (3 * 512, 512, 3 * 512), (MIB, 512, 4096), (MIB, 65536, 65536)):
            with self.subTest(bytes=bytes_, block=block):
                image = self.path('sized-%d-%d.img' % (bytes_, block))
                with open(image, 'wb') as f:
                    f.truncate(bytes_)
                s = BlockSize(self, image, block)
                self.assertIn('%d-byte requests' % size, self.works(vhk('ping', s.socket, '--count=1')))
                self.assertEqual(json.loads(self.works(vhk('bench', s.socket, '--seconds=1', '--json')))['block_size'], size)
                s.end()

    def test_demo(self):
        out = self.works(vhk('demo', '--dir=' + self.dir, '--seconds=1', '--bindir=' + BINDIR))
        for words in ('VERSION_1', 'REPLY_ACK', 'all equal', 'p99.9', 'memory-backend-memfd', 'share=on', 'vhost-user-blk-pci', 'vhk-blk --socket-path='):
            self.assertIn(words, out)
        self.assertEqual(os.listdir(self.dir), [])

    def test_demo_interrupted(self):
        child = self.spawn('demo', '--dir=' + self.dir, '--seconds=100', '--bindir=' + BINDIR)
        while '[6]' not in child.stdout.readline():
            pass
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=LIMIT)
        self.assertEqual(child.returncode, 1)
        self.assertEqual(os.listdir(self.dir), [])

    def test_demo_without_server(self):
        self.fails(vhk('demo', '--bindir=' + self.dir), 1, 'vhk-blk', '--bindir')


if __name__ == '__main__':
    if not os.access(VHK, os.X_OK):
        sys.exit('%s: no such program; test-vhk.py BINDIR, or VHK_BINDIR, says where it is' % VHK)
    result = unittest.main(exit=False, verbosity=1).result
    sys.stderr.flush()
    n_failed = len({getattr(t, 'test_case', t).id() for t, _ in result.failures + result.errors})      # not once per subtest
    n_skipped = len(result.skipped)
    for test, why in result.skipped:
        print('skip %s: %s' % (test, why))
    print('%d passed, %d failed, %d skipped' % (result.testsRun - n_failed - n_skipped, n_failed, n_skipped))
    sys.exit(1 if n_failed else 77 if n_skipped else 0)
