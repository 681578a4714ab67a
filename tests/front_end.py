# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The smallest vhost-user front-end, for tests of daemons: one region of memory, split rings, one request at a time. It shares no
code with the library, so it sees what a stranger would see."""
import mmap
import os
import select
import socket
import struct

NUM = 16
GPA, UVA = 0x40000000, 0x700000000000
DESC, AVAIL, USED, DATA = 0, 0x1000, 0x2000, 0x3000     # of ring 0; the others RING behind each other
RING = 0x8000
SIZE = 1 << 20


class FrontEnd:
    def __init__(self, s, limit=20):
        self.s, self.limit, self.seen, self.fds = s, limit, 0, []
        s.settimeout(limit)
        self.memfd = self.own(os.memfd_create('guest'))
        os.ftruncate(self.memfd, SIZE)
        self.mem = mmap.mmap(self.memfd, SIZE)
        self.kick, self.call = self.own(os.eventfd(0)), self.own(os.eventfd(0))
        self.kicks = [self.kick]

    def own(self, fd):
        self.fds.append(fd)
        return fd

    def close(self):
        self.s.close()
        self.mem.close()
        for fd in self.fds:
            os.close(fd)

    def send(self, request, payload=b'', fds=()):
        head = struct.pack('<III', request, 1, len(payload))
        socket.send_fds(self.s, [head + payload], list(fds))

    def ask(self, request, payload=b''):
        self.send(request, payload)
        head = self.read(12)
        got, flags, size = struct.unpack('<III', head)
        assert got == request and flags & 4, (got, flags)
        return self.read(size)

    def read(self, n):
        data = b''
        while len(data) < n:
            more = self.s.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def start(self, features=0, rings=1):
        """Brings up ring 0, and others; all have the same descriptors."""
        self.send(3)
        offered, = struct.unpack('<Q', self.ask(1))
        self.send(2, struct.pack('<Q', (features | 1 << 32) & offered))
        self.send(5, struct.pack('<IIQQQQ', 1, 0, GPA, SIZE, UVA, 0), [self.memfd])
        for i in range(rings):
            at = UVA + i * RING
            self.kicks += [self.own(os.eventfd(0))] if i else []
            self.send(8, struct.pack('<II', i, NUM))
            self.send(10, struct.pack('<II', i, 0))
            self.send(9, struct.pack('<IIQQQQ', i, 0, at + DESC, at + USED, at + AVAIL, 0))
            self.send(13, struct.pack('<Q', i), [self.call])
            self.send(12, struct.pack('<Q', i), [self.kicks[i]])
        self.ask(1)             # all that has been done

    def request(self, out, n_in, ring=0, head=0):
        """Makes one request available: @out bytes, then room for @n_in; kicks."""
        base = ring * RING
        self.mem[DATA:DATA + len(out)] = out
        self.mem[DATA + 0x1000:DATA + 0x1000 + n_in] = b'\xee' * n_in
        at = base + DESC + 16 * head
        if out:
            self.mem[at:at + 16] = struct.pack('<QIHH', GPA + DATA, len(out), 1 if n_in else 0, head + 1)
            at += 16
        self.mem[at:at + 16] = struct.pack('<QIHH', GPA + DATA + 0x1000, n_in, 2, 0)
        index = struct.unpack('<H', self.mem[base + AVAIL + 2:base + AVAIL + 4])[0]
        slot = base + AVAIL + 4 + 2 * (index % NUM)
        self.mem[slot:slot + 2] = struct.pack('<H', head)
        self.mem[base + AVAIL + 2:base + AVAIL + 4] = struct.pack('<H', (index + 1) & 0xffff)
        os.eventfd_write(self.kicks[ring], 1)

    def wait(self, n_in):
        """The answer: what was written, and the used length."""
        while struct.unpack('<H', self.mem[USED + 2:USED + 4])[0] == self.seen:
            if not select.select([self.call], [], [], self.limit)[0]:
                raise TimeoutError('no notification')
            os.eventfd_read(self.call)
        slot = USED + 4 + 8 * (self.seen % NUM)
        _, length = struct.unpack('<II', self.mem[slot:slot + 8])
        self.seen = (self.seen + 1) & 0xffff
        return self.mem[DATA + 0x1000:DATA + 0x1000 + n_in], length

    def blk_read(self, sector, n):
        self.request(struct.pack('<IIQ', 0, 0, sector), n + 1)
        data, length = self.wait(n + 1)
        return data[:n], data[n], length
