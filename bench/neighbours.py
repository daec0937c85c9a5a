#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Long-lived guests beside idle ones: run by demo/run --program bench/neighbours.py.

Guests that print "rate N" with what they did since their last such line are busy; they
are started last, beside many idle guests of the other images, and watched for a time.
"""

import re
import time

import common
from common import density, pump

RATE = re.compile(rb"rate (\d+)\s")


def host_faults():
    with open("/proc/vmstat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("pgfault "))


def watch(machines, busy, seconds):
    """What each of the busy did in that time."""
    done = {machine.name: 0 for machine in busy}
    for machine in busy:
        machine.console = b""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pump(machines, 0.2)
        for machine in busy:
            whole, _, rest = machine.console.rpartition(b"\n")
            done[machine.name] += sum(int(rate) for rate in RATE.findall(whole + b"\n"))
            machine.console = rest
    return done


def measure(policy, images, options, machines):
    policy.begin()
    idle = [image for image in images if image.name.rsplit("-", 1)[0] not in options.busy]
    busy = []
    for index in range(options.idle):
        image = idle[index % len(idle)]
        common.boot(machines, f"{image.name}-{index}", image, policy)
    for image in images:
        if image not in idle:
            busy.append(common.boot(machines, f"{image.name}-busy", image, policy))
    common.say(f"{policy.title}: {len(busy)} busy guests beside {options.idle} idle")
    before = density.copies(), host_faults(), density.kernel_threads_seconds()
    done = watch(machines, busy, options.seconds)
    after = density.copies(), host_faults(), density.kernel_threads_seconds()
    policy.end()
    return {"idle": options.idle, "seconds": options.seconds,
            "rates": {machine.image.name: round(done[machine.name] / options.seconds, 1)
                      for machine in busy},
            "copies": after[0] - before[0], "faults": after[1] - before[1],
            "kernel_threads_share": round((after[2] - before[2]) / options.seconds, 4)}


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--busy", action="append", default=["compute", "random"],
                        help="images (without what is after their last '-') of busy guests")
    parser.add_argument("--idle", type=int, default=16, help="number of idle guests")
    parser.add_argument("--seconds", type=int, default=60, help="to watch the busy ones")
    common.run(parser, measure)


if __name__ == "__main__":
    main()
