#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The last column of messages.def and gpu.def names the foreign peers that the traces show speaking each row.

A peer is a row's witness if it sent the message, or answered it.  The column must say exactly
what tests/traces holds; `test-witness.py --write` makes it so.
"""

import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "lab"))
sys.dont_write_bytecode = True

import traces                                       # noqa: E402

OURS = ("vhk", "vhk_net", "vhk-blk", "any-device", "gpu-window")
ORDER = ("QEMU", "UML", "qemu-storage-daemon", "vhost-user-gpu", "DPDK", "rust-vhost")
SET_MEM_TABLE, POSTCOPY_LISTEN, POSTCOPY_END = 5, 29, 30


class Phase:
    """Of a session: between POSTCOPY_LISTEN and POSTCOPY_END number 5 is two other rows."""

    def __init__(self):
        self.now = "NORMAL"

    def of(self, m):
        here = self.now if m.direction == ">" and m.id == SET_MEM_TABLE else "NORMAL"
        if m.direction == ">":
            if m.id == POSTCOPY_LISTEN:
                self.now = "POSTCOPY"
            elif m.id == POSTCOPY_END:
                self.now = "NORMAL"
            elif here == "POSTCOPY":
                self.now = "POSTCOPY_ACK"
            elif here == "POSTCOPY_ACK":
                self.now = "POSTCOPY"
        return here


def seen():
    """(side, id, phase) -> the foreign peers in whose traces it is."""
    peers = {key: set() for key in traces.ROWS}
    for trace in traces.kept().values():
        phase, due = Phase(), {}
        speakers = {">": trace.facts["front-end"], "}": trace.facts["back-end"], ")": trace.facts["back-end"]}
        listeners = {"<": trace.facts["back-end"], "{": trace.facts["front-end"], "(": trace.facts["front-end"]}
        for m in trace.messages:
            side = traces.SIDES[m.direction]
            if m.direction in speakers:
                due[side] = (side, m.id, phase.of(m))
                peers[due[side]].add(speakers[m.direction])
            elif side == "GPU":         # in any order
                peers[side, m.id, "NORMAL"].add(listeners[m.direction])
            else:
                peers[due[side]].add(listeners[m.direction])
    return peers


def column():
    """(side, id, phase) -> what the column is to say."""
    said = {}
    for key, peers in seen().items():
        foreign = sorted(peers - set(OURS), key=lambda p: ORDER.index(p.split()[0]))
        said[key] = " + ".join(foreign) or "none"
    return said


def write(wanted):
    for path in (traces.MESSAGES, traces.DISPLAY):
        lines = []
        with open(path) as f:
            for line in f:
                key, _ = traces.row_of(line)
                if key:
                    line = re.sub(r'"[^"]*"\)$', f'"{wanted[key]}")', line.rstrip()) + "\n"
                lines.append(line)
        with open(path, "w") as f:
            f.writelines(lines)


def main():
    wanted = column()
    if "--write" in sys.argv[1:]:
        write(wanted)
        return 0
    wrong = [f"{name} ({phase}): the column says \"{witness}\", the traces \"{wanted[side, number, phase]}\""
             for (side, number, phase), (name, witness) in traces.rows().items()
             if witness != wanted[side, number, phase]]
    print("\n".join(wrong) or f"{sum(w != 'none' for w in wanted.values())} of {len(wanted)} rows have a witness")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
