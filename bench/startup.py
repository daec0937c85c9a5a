#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Start-up: run by demo/run --program bench/startup.py, in the VM.

VMs are started one at a time beside two of the same image that stay, then many at a
time: from the launch of the VMM to the guest's first instruction (its first entry with
the reset vector, by the tracepoint kvm_entry) and until the guest says that it is ready.
"""

import concurrent.futures
import os
import re
import subprocess
import time

import common
from common import TRACING, Machine, pump
from policies import write

STAYING = 2
WARMING = 3         # starts that are not counted: programs and images come into memory
RESET_VECTOR = 0xfff0


def trace_first_entries():
    if not os.path.exists(f"{TRACING}/trace"):
        subprocess.run(["mount", "-t", "tracefs", "none", TRACING], check=True)
    write(f"{TRACING}/trace_clock", "mono")
    write(f"{TRACING}/events/kvm/kvm_entry/filter", f"rip == {RESET_VECTOR}")
    write(f"{TRACING}/events/kvm/kvm_entry/enable", 1)


def first_entry(machine):
    """When a thread of the VMM first entered the guest, by the monotonic clock."""
    tasks = set(os.listdir(f"/proc/{machine.pid}/task"))
    with open(f"{TRACING}/trace", encoding="utf-8", errors="replace") as file:
        for line in file:
            found = re.match(r".*-(\d+) +\[.* (\d+\.\d+): kvm_entry:", line)
            if found and found[1] in tasks:
                return float(found[2])
    raise machine.failure("no entry at the reset vector was traced")


def start(name, image, policy):
    """One VM, until it is ready; seconds to the first instruction and to that."""
    machine = Machine(name, image, policy, paused=False)
    while not machine.ready:
        pump([machine], 0.05)
    return machine, first_entry(machine) - machine.launched, machine.ready - machine.launched


def one_by_one(policy, image, number):
    first, ready = [], []
    for index in range(number):
        write(f"{TRACING}/trace", "")
        machine, *seconds = start(f"{image.name}-one{index}", image, policy)
        machine.kill()
        first.append(seconds[0])
        ready.append(seconds[1])
    return first, ready


def together(policy, image, number):
    """Seconds from the launch of so many until all are ready."""
    write(f"{TRACING}/trace", "")
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        started = list(pool.map(
            lambda index: start(f"{image.name}-all{index}", image, policy)[0], range(number)))
    seconds = max(machine.ready for machine in started) - begin
    for machine in started:
        machine.kill()
    return seconds


def summary(name, values):
    return {f"{name}_p50_ms": round(1000 * common.quantile(values, 0.5), 2),
            f"{name}_p99_ms": round(1000 * common.quantile(values, 0.99), 2),
            f"{name}_ms": [round(1000 * value, 2) for value in values]}


def measure(policy, images, options, machines):
    policy.begin()
    trace_first_entries()
    first, ready, batches = [], [], []
    for image in images:
        for index in range(STAYING):
            common.boot(machines, f"{image.name}-stays{index}", image, policy)
        common.say(f"{policy.title}: {image.name}, {options.starts} starts")
        one_by_one(policy, image, WARMING)
        each = one_by_one(policy, image, options.starts)
        first, ready = first + each[0], ready + each[1]
        batches += [together(policy, image, options.parallel) for _ in range(options.batches)]
    policy.end()
    return {"starts": len(first), **summary("first", first), **summary("ready", ready),
            "parallel": options.parallel, "batches": len(batches), **summary("parallel", batches)}


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--starts", type=int, default=50, help="of each image (default 50)")
    parser.add_argument("--parallel", type=int, default=8, help="VMs at a time (default 8)")
    parser.add_argument("--batches", type=int, default=5, help="of so many (default 5)")
    common.run(parser, measure)


if __name__ == "__main__":
    main()
