#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Prints the README's table "What works with whom", from the traces, the lab's scenarios, lab/debian13-versions and
lab/kernel-witness.

    who.py              the table
    who.py --check      README.md has exactly this table between its markers
    who.py --write      puts it there
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "lab"))
sys.dont_write_bytecode = True

import interop                                      # noqa: E402
import kernel                                       # noqa: E402
import scenarios                                    # noqa: E402
import traces                                       # noqa: E402

README = os.path.join(HERE, "../README.md")
BEGIN, END = "<!-- who -->\n", "<!-- /who -->\n"
ROLES = {"QEMU": "front-end", "UML": "front-end", "qemu-storage-daemon": "back-end", "vhost-user-gpu": "back-end", "DPDK": "back-end",
         "rust-vhost": "front-end"}
IN_THE_TREE = ("rust-vhost",)           # rows of their own: debian13()
LONG = {"UML": "User-Mode Linux", "rust-vhost": "rust-vmm's vhost"}
OURS = {"vhk-blk": "`vhk-blk`", "any-device": "the library, under a device that answers as little as it can",
        "vhk": "`vhk`, `vhk_blk_*()`", "vhk_net": "`vhk_net_*()`", "gpu-window": "the library, under a program that shows what is drawn"}
PREFIXES = {"QEMU": ("qemu-", "trace-qemu-"), "UML": ("uml-", "trace-uml-"),
            "qemu-storage-daemon": ("qsd-", "trace-qsd"), "vhost-user-gpu": ("gpu-", "trace-gpu-"),
            "DPDK": ("dpdk-", "trace-dpdk")}


def families(names):
    """Scenarios by the first two words of their names: "qemu-blk-*", or the name where it is alone."""
    found = {}
    for name in names:
        found.setdefault("-".join(name.split("-")[:2]), []).append(name)
    return ", ".join(f"`{family}-*`" if members[1:] else f"`{members[0]}`" for family, members in sorted(found.items()))


def pairs():
    """(foreign peer, ours) -> kinds of devices that a trace holds."""
    found = {}
    for trace in traces.kept().values():
        front, back = trace.facts["front-end"], trace.facts["back-end"]
        foreign, ours = (back, front) if front in OURS else (front, back)
        found.setdefault((foreign, ours), set()).add(trace.facts["device"].split()[0])
    return found


def names_of(peer, ours, kinds):
    """The scenarios in which @peer meets @ours: those of small kinds carry their name."""
    prefixes = PREFIXES[peer]
    mine = [n for n, s in scenarios.BY_NAME.items() if n.startswith(prefixes) and not s.interop]
    small = {n for n in mine for p in prefixes for kind in small_kinds() if f"{n}-".startswith(f"{p}{kind}-")}
    if ours == "any-device":
        return [n for n in mine if n in small and set(n.split("-")) & kinds]
    return [n for n in mine if n not in small]


def small_kinds():
    return {kind for (_, ours), kinds in pairs().items() if ours == "any-device" for kind in kinds}


def debian13():
    """A row for each peer of the Debian 13 tree."""
    rows, versions = [], interop.versions()
    for key, peer in interop.PEERS.items():
        names = [n for n, s in scenarios.BY_NAME.items() if s.peer == key]
        twins = [n.removesuffix(interop.SUFFIX) for n in names if n.endswith(interop.SUFFIX)]
        own = [n for n in names if not n.endswith(interop.SUFFIX)]
        said = ", ".join([families(own)] * bool(own) + [f"with `{interop.SUFFIX}`: {families(twins)}"] * bool(twins))
        rows.append(f"| {peer.name} {versions[peer.package]} | {peer.role} | {peer.device} | {peer.ours} | {said} |")
    return rows


def kernels():
    """A row for each way into the kernel, with the versions and the scenarios that went it; one on both kernels is named once."""
    rows = {}
    for name, seen in sorted(kernel.kept().items()):
        for version, *words in seen:
            versions, names = rows.setdefault(tuple(words), ({}, {}))
            versions[version] = True
            names[f"`{kernel.script_of(name)}`"] = True
    return [f"| {who} in Linux {', '.join(versions)} | {' | '.join(words)} | {', '.join(names)} |"
            for (who, *words), (versions, names) in sorted(rows.items())]


def table():
    lines = ["| who | as | for | to our | scenarios (`tests/lab/run --list --all [--interop]`) |", "|---|---|---|---|---|"]
    order = list(ROLES)
    found = pairs()
    for foreign, ours in sorted(found, key=lambda p: (order.index(p[0].split()[0]), p[1] == "any-device")):
        peer, release = foreign.split()
        if peer in IN_THE_TREE:
            continue
        kinds = found[foreign, ours]
        lines.append(f"| {LONG.get(peer, peer)} {release} | {ROLES[peer]} | {', '.join(sorted(kinds))} | {OURS[ours]} "
                     f"| {families(names_of(peer, ours, kinds))} |")
    lines += debian13() + kernels()
    witnesses = [witness for _, witness in traces.rows().values()]
    spoken = sum(witness != "none" for witness in witnesses)
    by_peer = ", ".join(f"{LONG.get(peer, peer)} {sum(peer in w for w in witnesses)}" for peer in ROLES)
    lines += ["", f"Of the protocol's {len(witnesses)} messages, with those to a display, {spoken} were spoken or answered by one of them: "
                  f"{by_peer}."]
    return "\n".join(lines) + "\n"


def main():
    wanted = BEGIN + "\n" + table() + "\n" + END
    if not sys.argv[1:]:
        print(table(), end="")
        return 0
    with open(README) as f:
        text = f.read()
    if sys.argv[1] == "--check":
        if wanted in text:
            return 0
        print("README.md does not say what works with whom: tests/who.py --write\n\n" + table())
        return 1
    before, rest = text.split(BEGIN)
    with open(README, "w") as f:
        f.write(before + wanted + rest.split(END)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
