#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What learning does, for VMs of several images: run this in the VM.

Each image is started three times, one VM after the other, without DKSM, with it, and
with it but without learning. Told of the last VM: page faults of its process from
the launch until it was idle, copies of frames among them, and what it shares then.
Without huge pages, unless --thp says otherwise: merging breaks those up, and what a
guest touches of the rest are then faults of 4 KiB, learned or not.
"""

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests"))
import vmms      # pylint: disable=wrong-import-position

VMS = 3
MODES = {
    "none": [],
    "dksm": vmms.dksm_run("learn"),
    "no-learn": vmms.dksm_run("no-learn", "--no-learn"),
}


def faults(vm):
    return int(vmms.read(f"/proc/{vm.pid}/stat").rsplit(")", 1)[1].split()[7])


def measure(mode, launcher):
    with vmms.Fleet(launcher) as fleet:
        for _ in range(VMS):
            vm = fleet.start(vmms.qemu(vmms.MICROVM))
            time.sleep(3)       # so long at least, two passes when idle
        result = {"mode": mode, "faults": faults(vm)}
        if mode != "none":
            vmms.wait_until(lambda: vm.stat()["idle_passes"] > 1, 60, "two idle passes")
            time.sleep(3)       # for the others to have theirs
            stat = vm.stat()
            result |= {"copies": stat["cow_breaks"],
                       "shared": stat["pages_sharing"], "zero": stat["pages_zero"],
                       "zero_at_load": stat["load_zero"]}
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--initrd", required=True, help="of all of them")
    parser.add_argument("--memory", dest="memory", type=int, default=96, help="MiB of each VM")
    parser.add_argument("--thp", default="never", choices=("never", "madvise", "always"))
    parser.add_argument("kernels", nargs="+", help="guests' kernels, ELF")
    options = parser.parse_args()
    vmms.options.initrd = options.initrd
    vmms.MEMORY_MIB = options.memory
    vmms.prepare()
    vmms.write("/sys/kernel/mm/transparent_hugepage/enabled", options.thp)
    for kernel in options.kernels:
        vmms.options.kernel = kernel
        for mode, launcher in MODES.items():
            print(json.dumps({"image": os.path.basename(kernel)} | measure(mode, launcher)),
                  flush=True)


if __name__ == "__main__":
    main()
