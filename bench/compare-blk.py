#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""vhk-blk --engine=null against qemu-storage-daemon null-co: the same generator (vhk bench), the same run, in turns.

    compare-blk.py BINDIR [--rounds=N] [--seconds=S] [--json]

1. Two CPUs: the generator polls on one, the server has the other; one queue, 32 in flight, reads of 4 KiB. IOPS.
2. One CPU for both: the generator sleeps for its answers; one queue, 128 in flight. CPU time of the server per request.

Prints the median of the rounds for both, and two lines "ratio ...". A polling round in which the generator had less than 97 % of
its CPU is disturbed by something else on the machine and is repeated, up to as many times as there are rounds.
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

READY_LIMIT = 20
FULL = 0.97


def listens(path):
    with open('/proc/net/unix') as f:
        return any(w[-1] == path and int(w[3], 16) & 0x10000 for w in map(str.split, f) if w[0] != 'Num')


class Server:
    """Started on all CPUs and put on its own when it listens: what it decides by the number of CPUs, it decides as
    it would in service; on one CPU it is started there."""
    def __init__(self, argv, path, cpus, late):
        start = [] if late else ['taskset', '-c', cpus]
        self.child = subprocess.Popen(start + argv, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + READY_LIMIT
        while not listens(path):
            if self.child.poll() is not None:
                sys.exit('%s: ended with status %d: %s' % (argv[0], self.child.returncode, self.child.stderr.read().strip()))
            if time.monotonic() > end:
                self.end()
                sys.exit('%s: does not listen' % argv[0])
            time.sleep(0.01)
        if late:
            subprocess.run(['taskset', '-a', '-p', '-c', cpus, str(self.child.pid)], check=True, stdout=subprocess.DEVNULL)

    def end(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.communicate()


def servers(bindir, path):
    return {
        'vhk-blk': [os.path.join(bindir, 'vhk-blk'), '--socket-path=' + path, '--engine=null', '--size=64M'],
        'qemu-storage-daemon': ['qemu-storage-daemon', '--blockdev', 'driver=null-co,node-name=d0,size=67108864,read-zeroes=off', '--export',
                                'type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=%s,writable=on,num-queues=1' % path],
    }


def generate(a, path, cpu, server, options):
    argv = ['taskset', '-c', cpu, os.path.join(a.bindir, 'vhk'), 'bench', path, '--json', '--rw=randread', '--block-size=4K', '--queues=1',
            '--seconds=%d' % a.seconds, '--server-pid=%d' % server.child.pid] + options
    r = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    if r.returncode:
        sys.exit('vhk bench ended with status %d' % r.returncode)
    return json.loads(r.stdout)


def rounds(a, tmp, generator_cpu, server_cpu, options, polling):
    """{server: [result]}, in turns, so that a slow minute of the machine meets both. A disturbed round stays where no better came."""
    results = {}
    for n in range(2 * a.rounds):
        for name, argv in servers(a.bindir, os.path.join(tmp, 's')).items():
            have = results.setdefault(name, [])
            if len(have) >= a.rounds:
                continue
            s = Server(argv, os.path.join(tmp, 's'), server_cpu, late=polling)
            try:
                r = generate(a, os.path.join(tmp, 's'), generator_cpu, s, options)
            finally:
                s.end()
            if os.path.exists(os.path.join(tmp, 's')):
                os.unlink(os.path.join(tmp, 's'))
            r['disturbed'] = polling and r['client']['cpu_seconds'] / r['seconds'] < FULL
            if not r['disturbed'] or n >= a.rounds:
                have.append(r)
    return results


def median(results, key):
    return statistics.median(key(r) for r in results)


def main():
    p = argparse.ArgumentParser(description='vhk-blk against qemu-storage-daemon, null devices')
    p.add_argument('bindir')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--seconds', type=int, default=1)
    p.add_argument('--json', action='store_true')
    a = p.parse_args()
    for need in ('qemu-storage-daemon', 'taskset'):
        if not shutil.which(need):
            sys.exit('compare-blk.py: %s is not installed' % need)
    cpus = [str(c) for c in sorted(os.sched_getaffinity(0))]
    out = {}
    with tempfile.TemporaryDirectory(prefix='vhk-bench-') as tmp:
        if len(cpus) > 1:
            out['polling'] = rounds(a, tmp, cpus[0], cpus[1], ['--depth=32', '--poll'], True)
        out['event'] = rounds(a, tmp, cpus[0], cpus[0], ['--depth=128', '--event'], False)
    if a.json:
        print(json.dumps(out))
        return
    iops, cpu = lambda r: r['iops'], lambda r: r['server']['cpu_ns_per_request']
    print('%-36s %20s %20s' % ('null device, reads of 4 KiB', 'vhk-blk', 'qemu-storage-daemon'))
    for word, title in (('polling', 'two CPUs, polling, depth 32'), ('event', 'one CPU, event, depth 128')):
        if word not in out:
            print('%-36s %20s' % (title, 'needs two CPUs'))
            continue
        ours, theirs = out[word]['vhk-blk'], out[word]['qemu-storage-daemon']
        print('%-36s %15.0f IOPS %15.0f IOPS' % (title, median(ours, iops), median(theirs, iops)))
        print('%-36s %14.0f ns/rq %14.0f ns/rq' % ('  server CPU per request', median(ours, cpu), median(theirs, cpu)))
    disturbed = sum(r['disturbed'] for rs in out.get('polling', {}).values() for r in rs)
    if disturbed:
        print('(%d of %d polling rounds were disturbed: something else ran on the generator\'s CPU)' % (disturbed, 2 * a.rounds))
    if 'polling' in out:
        q = median(out['polling']['vhk-blk'], iops) / median(out['polling']['qemu-storage-daemon'], iops)
        print('ratio IOPS, two CPUs: %.2f (aim: at least 2)' % q)
    q = median(out['event']['vhk-blk'], cpu) / median(out['event']['qemu-storage-daemon'], cpu)
    print('ratio server CPU per request, one CPU: %.2f (aim: at most 0.5)' % q)


main()
