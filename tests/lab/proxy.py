# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Sits between a front-end and a back-end, passes every message on and keeps it as a trace.

One thread.  A message is read whole (header, then as much as it announces: descriptors come with
the header's first byte) and sent on in one piece.  The back-end's own channel, a descriptor in
SET_BACKEND_REQ_FD, and the display's socket, one in GPU_SET_SOCKET, are cut open too.
"""

import array
import os
import select
import socket
import stat
import struct
import threading

from traces import HEADER, Message, Trace

U64 = struct.Struct("=Q")
GET_FEATURES, SET_BACKEND_REQ_FD, GPU_SET_SOCKET = 1, 21, 33
GIFTS = {SET_BACKEND_REQ_FD: "}{", GPU_SET_SOCKET: ")("}
MAX_FDS = 32


class Gone(Exception):
    """One end has closed."""


class Proxy:
    def __init__(self, lab, target, hide=0, name="proxy"):
        """@hide: feature bits of the back-end that the front-end shall not see."""
        self.name = name
        self.socket = lab.path(f"{name}.sock")
        self.target = target
        self.hide = hide
        self.traces = []                # one list of messages per connection
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            front, _ = self.listener.accept()
            back = socket.socket(socket.AF_UNIX)
            try:
                back.connect(self.target)
            except OSError:
                front.close()           # as if nobody listened
                continue
            messages = []
            self.traces.append(messages)
            Connection(self, front, back, messages).run()

    def trace(self, n=0, **facts):
        return Trace({k.replace("_", "-"): v for k, v in facts.items()}, self.traces[n])


class Connection:
    def __init__(self, proxy, front, back, messages):
        self.proxy = proxy
        self.messages = messages
        self.files = {}                 # identity of a file -> its number
        self.ways = {}                  # socket -> (socket, direction)
        self._join(front, back, "><")

    def _join(self, front, back, directions):
        self.ways[front] = (back, directions[0])
        self.ways[back] = (front, directions[1])

    def run(self):
        try:
            while True:
                for s in select.select(list(self.ways), [], [])[0]:
                    if s in self.ways:
                        self._serve(s)
        except (Gone, OSError):
            pass
        for s in self.ways:
            s.close()

    def _serve(self, source):
        """A display may come and go while the rest goes on."""
        sink, direction = self.ways[source]
        try:
            self._pass_on(source)
        except (Gone, OSError):
            if direction not in ")(":
                raise
            for s in (source, sink):
                del self.ways[s]
                s.close()

    def _pass_on(self, source):
        sink, direction = self.ways[source]
        head, fds = receive(source, HEADER.size, MAX_FDS)
        number, flags, size = HEADER.unpack(head)
        payload, more = receive(source, size, 0)
        fds += more
        if direction == "<" and number == GET_FEATURES:
            payload = U64.pack(U64.unpack(payload)[0] & ~self.proxy.hide)
        self.messages.append(Message(direction, number, flags, payload, [self._kind(fd) for fd in fds]))
        if direction == ">" and number in GIFTS and fds:
            ours, theirs = socket.socketpair()
            self._join(ours, socket.socket(fileno=fds[0]), GIFTS[number])
            fds[0] = theirs.detach()
        socket.send_fds(sink, [head + payload], fds)
        for fd in fds:
            os.close(fd)

    def _kind(self, fd):
        target = os.readlink(f"/proc/self/fd/{fd}")
        mode = os.fstat(fd)
        if target == "anon_inode:[eventfd]":
            return "eventfd"
        if stat.S_ISSOCK(mode.st_mode):
            return "socket"
        if stat.S_ISFIFO(mode.st_mode):
            return "pipe"
        if stat.S_ISREG(mode.st_mode):
            n = self.files.setdefault((mode.st_dev, mode.st_ino), len(self.files))
            return f"{'memfd' if target.startswith('/memfd:') else 'file'}:{mode.st_size}:{n}"
        return target.split(":")[-1].strip("[]")


def receive(source, size, n_fds):
    data, fds = b"", []
    while len(data) < size:
        room = socket.CMSG_SPACE(n_fds * 4) if n_fds else 0
        part, control, _, _ = source.recvmsg(size - len(data), room)
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(value[:len(value) - len(value) % 4])
                fds += numbers
        if not part:
            raise Gone
        data += part
    return data, fds
