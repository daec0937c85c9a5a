#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Memory over time: run by demo/run --program bench/memory.py, in the VM.

VMs of several images are started one after another; every second until a minute after
the last boot the frames of all guest RAM are counted.
"""

import time

import common
from common import Machine, Watch, density

AFTER_SECONDS = 60


def measure(policy, images, options, machines):
    policy.begin()
    watch, copies = Watch(), density.copies()
    for _ in range(options.count):
        for image in images:
            machine = Machine(f"{image.name}-{len(machines)}", image, policy)
            machines.append(machine)
            policy.before_resume(machine)
            machine.resume()
            while not machine.ready:
                watch.pump(machines, 0.1)
    booted = time.monotonic() - watch.start
    while time.monotonic() - watch.start < booted + AFTER_SECONDS:
        watch.pump(machines, 0.1)
    policy.end()
    return {"count": options.count, "booted_seconds": round(booted, 2),
            "merge_cpu_seconds": round(policy.cpu_seconds(), 3),
            "copies": density.copies() - copies, "samples": watch.samples}


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--count", type=int, default=8, help="VMs of each image")
    common.run(parser, measure)


if __name__ == "__main__":
    main()
