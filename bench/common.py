# SPDX-License-Identifier: MIT
"""
What programs share that start VMs under some policies and print a line of JSON for each:
run by demo/run --program, in the VM.
"""

import argparse
import json
import os
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "demo"))
import density                                      # pylint: disable=wrong-import-position
from machine import MIB, Image, Machine, pump       # pylint: disable=wrong-import-position
from policies import POLICIES                       # pylint: disable=wrong-import-position

TRACING = "/sys/kernel/tracing"


def arguments(description):
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", action="append", nargs=5, required=True,
                        metavar=("NAME", "KERNEL", "INITRD", "READY", "APPEND"))
    parser.add_argument("--policy", action="append", choices=list(POLICIES), required=True)
    parser.add_argument("--memory", type=int, default=0, help="MiB of each VM")
    return parser


def run(parser, measure):
    """Print what measure(policy, images, options, machines) returns, for each policy."""
    options = parser.parse_args()
    images = [Image(*image, memory=options.memory * MIB) for image in options.image]
    for name in options.policy:
        machines = []
        try:
            result = measure(POLICIES[name](), images, options, machines)
            print(json.dumps({"policy": name, "images": [image.name for image in images],
                              "memory_mib": [image.memory // MIB for image in images],
                              "cpus": len(os.sched_getaffinity(0)), **result}), flush=True)
        finally:
            for machine in machines:
                machine.kill()


def boot(machines, name, image, policy):
    """One more VM; returns when it is ready."""
    machine = Machine(name, image, policy)
    machines.append(machine)
    policy.before_resume(machine)
    machine.resume()
    while not machine.ready:
        pump(machines, 0.1)
    return machine


def say(text):
    density.say(text)


def quantile(values, part):
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(part * 1000) * len(ordered) // 1000) - 1)]
