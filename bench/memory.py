#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Memory over time: run by demo/run --program bench/memory.py, in the VM.

VMs of several images are started one after another; every second until a minute after
the last boot the frames of all guest RAM are counted.
"""

import subprocess
import time

import common
from common import Machine, density, pump

AFTER_SECONDS = 60


class Frames:
    """The program that counts them."""

    def __init__(self):
        self.process = subprocess.Popen([f"{common.ROOT}/build/bench/frames"], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def count(self, machines):
        for pid, start, size in density.ranges(machines):
            self.process.stdin.write(f"{pid} {start} {size}\n")
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return [int(word) for word in self.process.stdout.readline().split()]


class Watch:
    """
    Samples of [seconds, VMs, pages, frames], one a second; fewer, if to count takes so
    long that the VMs would be held up.
    """

    def __init__(self, machines):
        self.machines, self.frames = machines, Frames()
        self.start, self.samples, self.due = time.monotonic(), [], 1

    def pump(self, seconds):
        pump(self.machines, seconds)
        now = time.monotonic() - self.start
        if self.machines and now >= self.due:
            self.samples.append([round(now, 2), len(self.machines),
                                 *self.frames.count(self.machines)])
            end = time.monotonic() - self.start
            self.due = max(now + 1, end + 4 * (end - now))


def measure(policy, images, options, machines):
    policy.begin()
    watch, copies = Watch(machines), density.copies()
    for _ in range(options.count):
        for image in images:
            machine = Machine(f"{image.name}-{len(machines)}", image, policy)
            machines.append(machine)
            policy.before_resume(machine)
            machine.resume()
            while not machine.ready:
                watch.pump(0.1)
    booted = time.monotonic() - watch.start
    while time.monotonic() - watch.start < booted + AFTER_SECONDS:
        watch.pump(0.1)
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
