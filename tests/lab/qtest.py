# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A virtio driver without a guest: QEMU's qtest socket reads and writes ports and memory, and this
drives one modern virtio-pci device through it.  For devices that Debian's kernel has no driver for.

Source: virtio 1.3, 4.1.4 (the structures in the BARs) and 3.1.1 (the order of initialisation).
"""

import struct
import time

COMMON, NOTIFY, _, CONFIG = 1, 2, 3, 4          # cfg_type of the capabilities
VENDOR_CAPABILITY = 9
BAR_BASE = 0xe0000000
# Offsets in the common structure.
DEVICE_FEATURE_SELECT, DEVICE_FEATURE, DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0, 4, 8, 12
STATUS, QUEUE_SELECT, QUEUE_SIZE, QUEUE_ENABLE, QUEUE_NOTIFY_OFF, QUEUE_DESC = 20, 22, 24, 28, 30, 32
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
WRITE, NEXT = 2, 1


class Qtest:
    def __init__(self, connected):
        self.socket = connected
        self.socket.settimeout(30)
        self.lines = self.socket.makefile("rw")

    def __call__(self, *words):
        self.lines.write(" ".join(w if isinstance(w, str) else hex(w) for w in words) + "\n")
        self.lines.flush()
        answer = ["IRQ"]
        while answer[0] == "IRQ":
            answer = self.lines.readline().split()
        if answer[0] != "OK":
            raise ValueError(f"qtest: {words}: {answer}")
        return int(answer[1], 16) if len(answer) > 1 else 0

    def close(self):
        self.lines.close()
        self.socket.close()


class Device:
    """The modern virtio-pci device in a slot of bus 0."""

    def __init__(self, qtest, slot):
        self.qtest = qtest
        self.slot = slot
        self.at = {}                    # cfg_type -> address in memory
        self.queues = {}
        bar = self._capabilities()
        self._pci_write(0x10 + 4 * bar, BAR_BASE)
        self._pci_write(0x14 + 4 * bar, 0)
        self._pci_write(4, 6)           # memory, bus master

    def _pci_read(self, offset):
        self.qtest("outl", 0xcf8, 0x80000000 | self.slot << 11 | offset & 0xfc)
        return self.qtest("inl", 0xcfc)

    def _pci_write(self, offset, value):
        self.qtest("outl", 0xcf8, 0x80000000 | self.slot << 11 | offset & 0xfc)
        self.qtest("outl", 0xcfc, value)

    def _capabilities(self):
        """Where the structures are; all are in one BAR, whose number is returned."""
        here = self._pci_read(0x34) & 0xff
        while here:
            head = self._pci_read(here)
            if head & 0xff == VENDOR_CAPABILITY:
                kind, bar = head >> 24, self._pci_read(here + 4) & 0xff
                if kind in (COMMON, NOTIFY, CONFIG):
                    self.at[kind] = BAR_BASE + self._pci_read(here + 8)
                    found = bar
                if kind == NOTIFY:
                    self.notify_multiplier = self._pci_read(here + 16)
            here = head >> 8 & 0xff
        return found

    def common(self, offset, value=None, size="l"):
        if value is None:
            return self.qtest(f"read{size}", self.at[COMMON] + offset)
        return self.qtest(f"write{size}", self.at[COMMON] + offset, value)

    def status(self, value):
        self.common(STATUS, value, "b")

    def negotiate(self):
        """Takes everything that is offered, as Linux does with what it knows."""
        self.status(0)
        self.status(ACKNOWLEDGE | DRIVER)
        features = 0
        for word in (0, 1):
            self.common(DEVICE_FEATURE_SELECT, word)
            bits = self.common(DEVICE_FEATURE)
            features |= bits << 32 * word
            self.common(DRIVER_FEATURE_SELECT, word)
            self.common(DRIVER_FEATURE, bits)
        self.status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
        return features

    def start(self, n_queues, memory):
        """Rings at @memory, 64 KiB each, and DRIVER_OK."""
        for i in range(n_queues):
            base = memory + (i << 16)
            self.common(QUEUE_SELECT, i, "w")
            size = self.common(QUEUE_SIZE, size="w")
            self.qtest("memset", base, 0x10000, 0)
            for k, address in enumerate((base, base + 0x4000, base + 0x8000)):
                self.common(QUEUE_DESC + 8 * k, address)
                self.common(QUEUE_DESC + 8 * k + 4, 0)
            self.common(QUEUE_ENABLE, 1, "w")
            self.queues[i] = [base, size, self.common(QUEUE_NOTIFY_OFF, size="w"), 0]
        self.status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)

    def request(self, i, out, n_in):
        """One request on queue @i, awaited; gives the bytes that the device wrote."""
        base, size, offset, index = self.queues[i]
        buffers = base + 0xc000
        self.qtest("write", buffers, len(out), "0x" + out.hex())
        self._write(base, struct.pack("<QIHHQIHH", buffers, len(out), NEXT, 1,
                                      buffers + 0x1000, n_in, WRITE, 0))
        self._write(base + 0x4000 + 4 + 2 * (index % size), struct.pack("<H", 0))
        index += 1
        self._write(base + 0x4000 + 2, struct.pack("<H", index))
        self.queues[i][3] = index
        self.qtest("writew", self.at[NOTIFY] + offset * self.notify_multiplier, i)
        for _ in range(1000):
            if self.qtest("readw", base + 0x8000 + 2) == index:
                return
            time.sleep(0.001)
        raise ValueError(f"no answer on queue {i}")

    def _write(self, address, data):
        self.qtest("write", address, len(data), "0x" + data.hex())
