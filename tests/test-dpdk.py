#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Frames through DPDK's vhost-user card: testpmd gives back what our network driver sends it. Skipped without dpdk-testpmd.

    test-dpdk.py DIRECTORY_OF_PROGRAMS
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time

# pairs of queues, options of test-net-peer
RUNS = [(1, ["--frames=20000"]), (1, ["--frames=20000", "--no-merge"]), (1, ["--frames=300", "--polling"]), (2, ["--frames=2000", "--pairs=2"])]
TESTPMD = ["--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]
FORWARD = ["--forward-mode=macswap", "--auto-start", "--total-num-mbufs=4096", "--no-mlockall", "--stats-period=60"]


def run(testpmd, peer, where, pairs, options):
    path = os.path.join(where, "s")
    card = [testpmd, *TESTPMD, f"--file-prefix=vhostkit{os.getpid()}", f"--vdev=eth_vhost0,iface={path},queues={pairs}", "--",
            *FORWARD, f"--rxq={pairs}", f"--txq={pairs}"]
    with open(os.path.join(where, "log"), "w+", encoding="utf-8", errors="replace") as log:
        other = subprocess.Popen(card, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            for _ in range(200):
                if os.path.exists(path) or other.poll() is not None:
                    break
                time.sleep(0.05)
            if other.poll() is not None:
                log.seek(0)
                print("  testpmd does not run here:", log.read()[-400:])
                return None
            ours = subprocess.run([peer, path, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
            print(f"{'ok' if ours.returncode == 0 else 'FAIL'} {pairs} {' '.join(options)}: {ours.stdout.strip().splitlines()[-1:]}")
            return ours.returncode == 0
        finally:
            other.terminate()
            try:
                other.wait(20)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()


def main():
    testpmd = shutil.which("dpdk-testpmd")
    if not testpmd:
        print("skip: cannot: there is no dpdk-testpmd here")
        return 77
    results = []
    for pairs, options in RUNS:
        with tempfile.TemporaryDirectory() as where:
            results.append(run(testpmd, os.path.join(sys.argv[1], "test-net-peer"), where, pairs, options))
    if None in results:
        return 77
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
