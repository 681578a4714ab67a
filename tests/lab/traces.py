# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Traces: what two ends of vhost-user said to each other, one message per line.

    # key: value                                    front-end, back-end, device, what
    > 0d0000000100000008000000 0000000000000000 eventfd ; SET_VRING_CALL

A line is the direction, the header, the payload ("-": none; "+N": and N zeroes), the descriptors, and behind ";"
words for the reader.  Directions: > from the front-end, < its answer; } from the back-end on its
own channel, { its answer; ) from the back-end on the display's socket, ( its answer.  A descriptor is its kind: eventfd, socket, pipe, memfd:SIZE:N or
file:SIZE:N; those with the same N are the same file.
"""

import collections
import functools
import os
import re
import struct

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
MESSAGES = os.path.join(ROOT, "src/wire/messages.def")
DISPLAY = os.path.join(ROOT, "src/wire/gpu.def")
TRACES = os.path.join(ROOT, "tests/traces")

HEADER = struct.Struct("=III")
REPLY, NEED_REPLY = 4, 8
SIDES = {">": "FRONTEND", "<": "FRONTEND", "}": "BACKEND", "{": "BACKEND", ")": "GPU", "(": "GPU"}

Message = collections.namedtuple("Message", "direction id flags payload fds")


MANY = 64               # zeroes


def to_words(payload):
    head = payload.rstrip(b"\0")
    n = len(payload) - len(head)
    return f"{head.hex()}+{n}" if n > MANY else payload.hex() or "-"


def to_bytes(words):
    head, _, n = words.partition("+")
    return b"" if words == "-" else bytes.fromhex(head) + bytes(int(n or 0))


class Trace:
    def __init__(self, facts, messages):
        self.facts = facts              # key -> value
        self.messages = messages

    def write(self, path):
        with open(path, "w") as f:
            f.write("# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause\n")
            for key, value in self.facts.items():
                f.write(f"# {key}: {value}\n")
            for m in self.messages:
                header = HEADER.pack(m.id, m.flags, len(m.payload)).hex()
                words = " ".join([m.direction, header, to_words(m.payload), *m.fds])
                f.write(f"{words} ; {name(m)}\n")

    @classmethod
    def read(cls, path):
        facts, messages = {}, []
        with open(path) as f:
            for line in f:
                fact = re.match(r"# ([a-z-]+): (.*)", line)
                if fact:
                    facts[fact[1]] = fact[2]
                if line.startswith("#"):
                    continue
                direction, header, payload, *fds = line.split(";")[0].split()
                number, flags, size = HEADER.unpack(bytes.fromhex(header))
                payload = to_bytes(payload)
                assert len(payload) == size, f"{path}: {line}"
                messages.append(Message(direction, number, flags, payload, fds))
        return cls(facts, messages)


def rows():
    """The rows of messages.def and gpu.def: (side, id, phase) -> (name, witness)."""
    found = {}
    for path in (MESSAGES, DISPLAY):
        with open(path) as f:
            for line in f:
                key, name_of_row = row_of(line)
                if key:
                    found[key] = (name_of_row, re.search(r'"([^"]*)"\)$', line.rstrip())[1])
    return found


def row_of(line):
    """The key and the name of a row; None, None: the line is none."""
    cells = re.match(r"(FRONTEND|BACKEND|GPU)\( *(\d+), *(\w+), *(\w+),", line)
    if not cells or not re.search(r'"[^"]*"\)$', line.rstrip()):
        return None, None
    return (cells[1], int(cells[2]), "NORMAL" if cells[1] == "GPU" else cells[4]), cells[3]


ROWS = rows()


def name(m):
    row = ROWS.get((SIDES[m.direction], m.id, "NORMAL"))
    return (row[0] if row else f"unknown {m.id}") + (" answered" if m.direction in "<{(" else "")


@functools.cache
def kept():
    """Every trace in the tree: name -> Trace."""
    return {entry[:-6]: Trace.read(os.path.join(TRACES, entry))
            for entry in sorted(os.listdir(TRACES)) if entry.endswith(".trace")}
