#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Memory over time: run by demo/run --program bench/memory.py, in the VM.

VMs of several images are started one after another under each policy; every second
until a minute after the last boot the frames of all guest RAM are counted. Printed is
a line of JSON for each policy.
"""

import argparse
import json
import os
import subprocess
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "demo"))
import density                          # pylint: disable=wrong-import-position
from machine import MIB, Image, pump    # pylint: disable=wrong-import-position
from policies import POLICIES           # pylint: disable=wrong-import-position

AFTER_SECONDS = 60


class Frames:
    """The program that counts them."""

    def __init__(self):
        self.process = subprocess.Popen([f"{ROOT}/build/bench/frames"], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def count(self, machines):
        for pid, start, size in density.ranges(machines):
            self.process.stdin.write(f"{pid} {start} {size}\n")
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return [int(word) for word in self.process.stdout.readline().split()]


class Watch:
    """Samples of [seconds, VMs, pages, frames], one a second."""

    def __init__(self, machines):
        self.machines, self.frames = machines, Frames()
        self.start, self.samples = time.monotonic(), []

    def pump(self, seconds):
        pump(self.machines, seconds)
        now = time.monotonic() - self.start
        if self.machines and now >= len(self.samples) + 1:
            self.samples.append([round(now, 2), len(self.machines),
                                 *self.frames.count(self.machines)])


def measure(policy, images, options, machines):
    policy.begin()
    watch, copies = Watch(machines), density.copies()
    for _ in range(options.count):
        for image in images:
            machine = density.Machine(f"{image.name}-{len(machines)}", image, policy)
            machines.append(machine)
            policy.before_resume(machine)
            machine.resume()
            while not machine.ready:
                watch.pump(0.1)
    booted = time.monotonic() - watch.start
    while time.monotonic() - watch.start < booted + AFTER_SECONDS:
        watch.pump(0.1)
    policy.end()
    return {"policy": policy.name, "images": [image.name for image in images],
            "count": options.count, "booted_seconds": round(booted, 2),
            "merge_cpu_seconds": round(policy.cpu_seconds(), 3),
            "copies": density.copies() - copies, "samples": watch.samples}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", action="append", nargs=5, required=True,
                        metavar=("NAME", "KERNEL", "INITRD", "READY", "APPEND"))
    parser.add_argument("--policy", action="append", choices=list(POLICIES), required=True)
    parser.add_argument("--count", type=int, default=8, help="VMs of each image")
    parser.add_argument("--memory", type=int, default=0, help="MiB of each VM")
    options = parser.parse_args()
    images = [Image(*image, memory=options.memory * MIB) for image in options.image]
    for name in options.policy:
        machines = []
        try:
            print(json.dumps(measure(POLICIES[name](), images, options, machines)), flush=True)
        finally:
            for machine in machines:
                machine.kill()


if __name__ == "__main__":
    main()
