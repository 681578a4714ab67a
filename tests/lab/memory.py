# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Guest memory that is not simply there: behind an IOMMU, and memory that comes and goes under load."""

import os
import re
import time

import backends
from lab import Fail
from machines import Qemu, vhost_user_device

MIB = 1 << 20
LIMIT = 100


def traced_disk(lab, image, *options, queues=1):
    os.environ["VHK_TRACE"] = "1"
    return backends.VhkBlk(lab, image, queues=queues, options=options)


def count(disk, pattern):
    return len(re.findall(pattern, disk.child.err()))


# ---- an IOMMU: every address is translated by QEMU, page by page ----

def viommu(strict):
    def run(lab):
        image = lab.image("disk.img", 128 * MIB)
        disk = traced_disk(lab, image, "--iommu", queues=2)
        # Behind a root port, for on the root bus itself there is no ATS; without it QEMU 7.2 tells nobody of invalidated domains.
        device = vhost_user_device("blk", disk.socket, num_queues=2, iommu_platform="on", ats="on", bus="root1",
                                   **{"disable-legacy": "on"})
        iommu = ["-device", "intel-iommu,device-iotlb=on", "-device", "pcie-root-port,id=root1"]
        guest = Qemu(lab, "viommu", [*iommu, *device], cpus=2,
                     boot=("intel_iommu=on", f"iommu.strict={int(strict)}"),
                     params={"q": 2, "event": 1, "ind": 1, "mem": 256})
        # The firmware's ring is not mapped any more when the kernel resets the device, and QEMU looks at it once more.
        guest.tolerated = "warning:|vtd_iova_to_slpte|vtd_iommu_translate"
        guest.await_fact("memory")
        acked = " ".join(guest.vhost()["acked-features"]["transports"])
        if "IOMMU_PLATFORM" not in acked and "ACCESS_PLATFORM" not in acked:
            raise Fail(f"QEMU acknowledged no IOMMU: {acked}")
        facts = guest.wait()
        updates, invalidations = count(disk, r"-> IOTLB_MSG .* type 2"), count(disk, r"-> IOTLB_MSG .* type 3")
        misses = count(disk, r"<~ IOTLB_MSG .* type 1")
        disk.stop()
        lab.note(f"{misses} misses, {updates} updates, {invalidations} invalidations")
        if not misses or updates < misses or not invalidations:
            raise Fail("no misses, fewer updates than those, or no invalidations")
        import scenarios        # it imports us
        scenarios.check_file_system(lab, image, facts["sums"])
    return run


# ---- DIMMs and virtio-mem ----

def await_rounds(lab, guest, fact):
    guest.await_fact(fact, LIMIT)
    lab.note(f"guest: {fact}")


def hotplug(lab):
    """A DIMM is plugged, used and pulled out twice, then virtio-mem grows and shrinks, while the guest reads and
    verifies through all the memory that it has."""
    image = lab.image("disk.img", 256 * MIB)
    disk = traced_disk(lab, image, queues=2)
    device = vhost_user_device("blk", disk.socket, num_queues=2)
    virtio_mem = ["-object", "memory-backend-memfd,id=vmem,size=512M,share=on",
                  "-device", "virtio-mem-pci,id=vm0,memdev=vmem,requested-size=0"]
    guest = Qemu(lab, "hotplug", [*device, *virtio_mem], memory="256M", slots=",slots=4,maxmem=4G", cpus=2)
    await_rounds(lab, guest, "ready")
    for n in (1, 2):
        adds, removes = count(disk, "-> ADD_MEM_REG"), count(disk, "-> REM_MEM_REG")
        guest.qmp("object-add", **{"qom-type": "memory-backend-memfd", "id": f"more{n}", "size": 256 * MIB, "share": True})
        guest.qmp("device_add", driver="pc-dimm", id=f"dimm{n}", memdev=f"more{n}")
        await_rounds(lab, guest, f"grown{n}")
        if count(disk, "-> ADD_MEM_REG") == adds:
            raise Fail("the DIMM came without ADD_MEM_REG")
        await_rounds(lab, guest, f"used{n}")
        guest.qmp("device_del", id=f"dimm{n}")
        await_rounds(lab, guest, f"shrunk{n}")
        await_gone(lab, guest, f"dimm{n}")
        if count(disk, "-> REM_MEM_REG") == removes:
            raise Fail("the DIMM went without REM_MEM_REG")
    for size, fact in ((384, "grown3"), (0, "shrunk3")):
        guest.qmp("qom-set", path="/machine/peripheral/vm0", property="requested-size", value=size * MIB)
        await_rounds(lab, guest, fact)
    facts = guest.wait()
    disk.stop()
    lab.note(f"{facts['rounds']} rounds of verified reads; {count(disk, '-> ADD_MEM_REG')} regions added, "
             f"{count(disk, '-> REM_MEM_REG')} removed")


def await_gone(lab, guest, name):
    end = time.monotonic() + LIMIT
    while any(d["type"] == "dimm" and d["data"].get("id") == name for d in guest.qmp("query-memory-devices")):
        lab.check_backends()
        if time.monotonic() > end:
            raise Fail(f"the guest does not let go of {name}")
        time.sleep(0.1)


def register(scenario):
    scenario("qemu-viommu")(viommu(False))
    scenario("qemu-viommu-strict", default=False)(viommu(True))
    scenario("qemu-hotplug")(hotplug)
