# SPDX-License-Identifier: MIT
"""
What programs share that start VMs under some policies and print a line of JSON for each:
run by demo/run --program, in the VM. Some run themselves there: outside() is their part
on this machine, which shows what they have printed.
"""

import argparse
import json
import os
import subprocess
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "demo"))
import density                                      # pylint: disable=wrong-import-position
import frames                                       # pylint: disable=wrong-import-position
from machine import MIB, Failure, Image, Machine, pump  # pylint: disable=wrong-import-position
from policies import POLICIES                       # pylint: disable=wrong-import-position

TRACING = "/sys/kernel/tracing"
INSIDE = "DKSM_VM" in os.environ


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
    run_policies(options, [Image(*image, memory=options.memory * MIB) for image in options.image],
                 measure)


def run_policies(options, images, measure):
    """A line of what measure() returns for each policy."""
    for name in options.policy:
        machines = []
        try:
            result = measure(POLICIES[name](), images, options, machines)
            print(json.dumps({"policy": name, "images": [image.name for image in images],
                              "memory_mib": [image.memory // MIB for image in images],
                              "cpus": len(os.sched_getaffinity(0)), **result}), flush=True)
        except Failure as failure:
            sys.exit(f"bench: {failure}")
        finally:
            for machine in machines:
                machine.kill()


# ---- programs that run themselves in the VM -------------------------------------

def machine_options(parser, memory, policies):
    """Options of such a program, but its own; policies: the default ones."""
    parser.add_argument("--policy", action="append", choices=list(POLICIES),
                        metavar="NAME",
                        help=f"only this one; repeatable (default {', '.join(policies)})")
    parser.add_argument("--wait", type=int, default=30, metavar="S",
                        help="until frames are counted (default %(default)s)")
    parser.add_argument("--cpus", default="2", metavar="N",
                        help="of the machine that runs them (default %(default)s)")
    parser.add_argument("--host-memory", default=memory, metavar="SIZE",
                        help="of that machine (default %(default)s)")
    parser.add_argument("--timeout", default="7200", metavar="S",
                        help="of the whole (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="keep all that was measured there")


def check_writable(path):
    """Before hours of work."""
    if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        sys.exit(f"bench: cannot write {path}")


def outside(options, targets, command):
    """
    The results that the command prints in the VM; keep them if that is asked for.
    targets: what make has to build for it.
    """
    if options.json:
        check_writable(options.json)
    if subprocess.run(["make", "-s", "-C", ROOT, "all", *targets], check=False).returncode:
        sys.exit("bench: cannot build what it needs, see above")
    environment = {key: value for key, value in os.environ.items() if key != "GUEST"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
                         check=False)
    if ran.returncode:
        sys.exit(f"bench: failed with status {ran.returncode}, see above: {' '.join(command)}")
    results = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    return results


def limit_now(machines):
    """Frames in use, and what of the limit is lost."""
    counted = frames.count(density.ranges(machines))
    keys = ("pages", "frames", "distinct", "possible", "lost")
    return {key: counted[key] for key in keys}


LOST_TITLES = ("possible", "limit", "frames", "lost", "lost, %", "merging, CPU s", "DKSM / KSM")
LOST_NOTES = """\
limit: distinct contents of populated guest pages but zeroes
possible: populated pages that are neither zero nor needed for the limit
frames: of populated guest pages, by /proc/PID/pagemap, without the zero page
lost: frames above the limit, also in % of what is possible; pages of zeroes with a frame
  of their own count, so it may be more than 100 %
merging: CPU time of ksmd and madvise, or time in merges and idle passes"""


def lost_cells(counted, ksm):
    """Of a table with LOST_TITLES; ksm: what KSM came to, if that was measured."""
    cpu = counted["merge_cpu_seconds"]
    share = f"{cpu / ksm['merge_cpu_seconds']:.2f}" if ksm and ksm["merge_cpu_seconds"] else "-"
    return [str(counted[key]) for key in ("possible", "distinct", "frames", "lost")] + [
        density.percent(counted["lost"], counted["possible"]), f"{cpu:.2f}", share]


# ---- in the VM ------------------------------------------------------------------

def boot(machines, name, image, policy, wait=pump, more=()):
    """One more VM; returns when it is ready."""
    machine = Machine(name, image, policy, more=more)
    machines.append(machine)
    policy.before_resume(machine)
    machine.resume()
    wait_ready(machines, machine, wait)
    return machine


def wait_ready(machines, machine, wait=pump):
    while not machine.ready:
        wait(machines, 0.1)


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
    """
    Samples of [seconds, VMs, pages, frames], one a second; fewer, if to count takes so
    long that the VMs would be held up.
    """

    def __init__(self):
        self.frames = Frames()
        self.start, self.samples, self.due = time.monotonic(), [], 1

    def pump(self, machines, seconds):
        pump(machines, seconds)
        now = time.monotonic() - self.start
        if machines and now >= self.due:
            self.samples.append([round(now, 2), len(machines),
                                 *self.frames.count(machines)])
            end = time.monotonic() - self.start
            self.due = max(now + 1, end + 4 * (end - now))


def say(text):
    density.say(text)


def quantile(values, part):
    """The smallest value that so many are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(part * 1000) * len(ordered) // 1000) - 1)]
