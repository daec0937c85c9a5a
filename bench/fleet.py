#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many VMs of one image under dksm run, one after the other: run this in the VM.

A VM is started when the one before has booted. At each of the numbers in --counts
it tells what all of them share, what that costs, and what it cost the last one.
"""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests"))
import vmms      # pylint: disable=wrong-import-position

DOMAIN = "fleet"


def number(name):
    return int(vmms.read(f"{vmms.DKSM}/domains/{DOMAIN}/{name}"))


def command(index):
    if not vmms.options.firecracker:
        return vmms.qemu(vmms.MICROVM)
    directory = f"{vmms.WORK}/vm{index}"
    vmms.firecracker_config(directory, share=True)
    return ["env", "-C", directory, vmms.options.firecracker, "--no-api", "--config-file",
            "vm.json"]


def record(fleet):
    last = fleet.vms[-1].stat()
    mapped = number("pages_shared") + number("pages_sharing")
    return {
        "vms": len(fleet.vms),
        "pages_shared": number("pages_shared"),
        "pages_sharing": number("pages_sharing"),
        "pages_zero": number("pages_zero"),
        "saved_mib_per_vm": round(number("saved_bytes") / len(fleet.vms) / (1 << 20), 1),
        "metadata_bytes_per_mapping": round(number("metadata_bytes") / mapped, 2),
        "cow_breaks_last": last["cow_breaks"],
        "load_ms_last": round(last["load_ns"] / 1e6, 1),
        "load_pages_last": last["load_scanned"],
    }


def main():
    parser = vmms.arguments(
        "Start many VMs of one image under dksm run and tell what they share, as JSON lines.",
        "Example: tools/vm --mem 12G --timeout 7200 -- bench/fleet.py --kernel vmlinux "
        "--initrd build/guests/initramfs")
    parser.add_argument("--counts", default="2,16,64,256", help="default %(default)s")
    parser.add_argument("--firecracker", help="its path; QEMU's microvm by default")
    parser.parse_args(namespace=vmms.options)
    counts = [int(count) for count in vmms.options.counts.split(",")]
    vmms.prepare()
    with vmms.Fleet(vmms.dksm_run(DOMAIN)) as fleet:
        for index in range(max(counts)):
            fleet.start(command(index))
            if len(fleet.vms) in counts:
                vmms.wait_until(lambda: fleet.vms[-1].stat()["idle_passes"], 60, "an idle pass")
                print(json.dumps(record(fleet)), flush=True)


if __name__ == "__main__":
    main()
