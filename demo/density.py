#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Start many VMs under three policies of sharing and compare what they need.

Runs inside the patched kernel; demo/run prepares the images and calls it.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time

import frames
import policies
from machine import Failure, Image, MIB, Machine, pump

SAMPLE_SECONDS = 0.5
RISE = 0.002            # of all that is shared: less is guests' noise


def say(text):
    print(f"demo: {text}", file=sys.stderr, flush=True)


# ---- starting ---------------------------------------------------------------

def boot(policy, images, options, machines):
    """Start every VM, no more at a time than there are CPUs."""
    for number in range(1, options.count + 1):
        for image in images:
            machine = Machine(f"{image.name}-{number}", image, policy.mergeable)
            machines.append(machine)
            policy.before_resume(machine)
            machine.resume()
            wait_booted(machines, options.parallel - 1, options.boot_limit)
        booted = sum(1 for machine in machines if machine.ready)
        say(f"{policy.title}: {len(machines)} VMs started, {booted} booted")
    wait_booted(machines, 0, options.boot_limit)


def wait_booted(machines, still_booting, limit):
    """Wait until no more than so many are still booting."""
    while True:
        pump(machines, 0.25)
        booting = [machine for machine in machines if not machine.ready]
        if len(booting) <= still_booting:
            return
        for machine in booting:
            if time.monotonic() - machine.resumed > limit:
                raise machine.failure(f"not ready {limit} s after its start" +
                                      ("" if machine.image.ready else
                                       " (it neither went idle nor quiet; "
                                       "READY=regex says what to wait for)"))


# ---- waiting for sharing ----------------------------------------------------

def wait_settled(policy, machines, begin, limit):
    """Return the seconds from begin until sharing rose last, and whether that is final."""
    rise = time.monotonic()
    highest, told = policy.shared(), begin
    policy.settled(0)
    while True:
        pump(machines, SAMPLE_SECONDS)
        now, shared = time.monotonic(), policy.shared()
        if shared > highest + max(4, highest * RISE):
            highest, rise = shared, now
        if policy.settled(now - rise):
            return rise - begin, True
        if now - begin > limit:
            return now - begin, False
        if now - told > 10:
            told = now
            say(f"{policy.title}: {shared} pages saved {now - begin:.0f} s after the last boot")


# ---- one policy -------------------------------------------------------------

def ranges(machines):
    return [(machine.pid, machine.ram, machine.image.memory) for machine in machines]


def check_guests(machines, limit=60):
    """Have each guest of ours check and rewrite its memory; count those that did."""
    asked = [machine for machine in machines if machine.image.answers]
    for machine in asked:
        machine.ask()
    end = time.monotonic() + limit
    while not all(b"intact" in machine.console for machine in asked):
        pump(machines, 0.25)
        for machine in asked:
            if b"corrupt" in machine.console:
                raise machine.failure("ITS MEMORY IS CORRUPT")
            if time.monotonic() > end:
                raise machine.failure("the guest no longer answers")
    return len(asked)


def measure(policy, images, options, machines):
    started = time.monotonic()
    policy.begin()
    boot(policy, images, options, machines)
    booted = time.monotonic()
    policy.after_boot(machines)
    final, converged = wait_settled(policy, machines, booted, options.settle_limit)
    policy.end()
    cpu = policy.cpu_seconds()
    for machine in machines:
        machine.stop()
    say(f"{policy.title}: counting page frames")
    result = {"policy": policy.name, "vms": len(machines), **frames.count(ranges(machines)),
              "counter": policy.sharing(), "seconds_until_final": round(final, 2),
              "converged": converged, "merge_cpu_seconds": round(cpu, 3),
              "boot_seconds": round(median_boot(machines), 3),
              "all_booted_seconds": round(booted - started, 2), "details": policy.details(),
              "boot_seconds_each": {machine.name: round(machine.ready - machine.resumed, 3)
                                    for machine in machines}}
    for machine in machines:
        machine.qmp("cont")
    result["guests_intact"] = check_guests(machines)
    return result


def median_boot(machines):
    return statistics.median(machine.ready - machine.resumed for machine in machines)


def run_policy(policy, images, options):
    say(f"{policy.title}: starting {options.count} VMs each of "
        f"{' and '.join(image.name for image in images)}")
    machines = []
    try:
        return measure(policy, images, options, machines)
    finally:
        for machine in machines:
            with contextlib.suppress(OSError):
                machine.kill()


def verify_merge(machine, merge):
    """Check that a merge of a stopped VM changes no byte of it."""
    machine.stop()
    area = machine.pid, machine.ram, machine.image.memory
    before = frames.checksum(*area)
    report = merge()
    after = frames.checksum(*area)
    bad = [page for page in before if after.get(page) != before[page]]
    if bad:
        raise machine.failure(f"MERGING CHANGED THE CONTENTS of {len(bad)} pages, "
                              f"guest frames {bad[:20]}")
    if machine.resumed:
        machine.qmp("cont")
    return report


# ---- result -----------------------------------------------------------------

COLUMNS = (
    ("", lambda r: r["title"]),
    ("memory, MiB", lambda r: f"{r['bytes'] / MIB:.0f}"),
    ("pages", lambda r: str(r["pages"])),
    ("shared", lambda r: str(r["pages_sharing"])),
    ("zero", lambda r: str(r["pages_zero"])),
    ("until final, s", lambda r: "-" if r["policy"] == "none" else
     f"{'' if r['converged'] else '>'}{r['seconds_until_final']:.1f}"),
    ("all booted, s", lambda r: f"{r['all_booted_seconds']:.1f}"),
    ("merging, CPU s", lambda r: f"{r['merge_cpu_seconds']:.2f}"),
    ("boot, s", lambda r: f"{r['boot_seconds']:.2f}"),
)

NOTES = """\
memory: distinct page frames of guest RAM, by /proc/PID/pagemap, without the zero page
pages: pages of guest RAM that have a frame; shared: those that need none of their own,
  since an equal page has one; zero: those mapped to the kernel's zero page
until final: from when the last VM was ready until sharing no longer rose (">": it still
  did); all booted: from the start of the first VM until the last was ready
merging: time of ksmd and madvise, or of the merge calls; boot: median of a VM from
  being resumed to being ready"""


def print_table(results, images):
    rows = [[title for title, _ in COLUMNS]]
    rows += [[cell(result) for _, cell in COLUMNS] for result in results]
    widths = [max(map(len, column)) for column in zip(*rows)]
    sizes = ", ".join(f"{results[0]['per_image']} x {image.name} ({image.memory // MIB} MiB)"
                      for image in images)
    print(f"\n{sizes} on Linux {os.uname().release}\n")
    for row in rows:
        first = row[0].ljust(widths[0])
        print("  ".join([first] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]).rstrip())
    print(f"\n{NOTES}")
    for result in results:
        if result["guests_intact"]:
            print(f"{result['title']}: {result['guests_intact']} guests checked and rewrote "
                  "their memory: intact")


def warn_about_counters(result):
    """The kernel counts QEMU's own memory too, so it must see as much or more."""
    if result["counter"] < result["pages_sharing"] * 0.99:
        say(f"{result['title']}: the page tables show {result['pages_sharing']} pages that "
            f"share a frame, but the kernel counts {result['counter']}")


# ---- command line -----------------------------------------------------------

def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", action="append", nargs=5, required=True,
                        metavar=("NAME", "KERNEL", "INITRD", "READY", "APPEND"))
    parser.add_argument("--policy", action="append", choices=["none", "ksm", "dksm"])
    parser.add_argument("--count", type=int, default=8, help="VMs of each image")
    parser.add_argument("--memory", type=int, default=0, help="MiB of each VM")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(),
                        help="VMs that boot at a time")
    parser.add_argument("--boot-limit", type=int, default=300, help="seconds")
    parser.add_argument("--settle-limit", type=int, default=180, help="seconds")
    parser.add_argument("--verify", action="store_true",
                        help="compare guest RAM before and after each merge")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    images = [Image(*image, memory=options.memory * MIB) for image in options.image]
    known = {"none": policies.Nothing(), "ksm": policies.Ksm(),
             "dksm": policies.Dksm(verify_merge if options.verify else None)}
    results = []
    try:
        for name in options.policy or known:
            policy = known[name]
            result = run_policy(policy, images, options)
            results.append({"title": policy.title, "per_image": options.count, **result})
            warn_about_counters(results[-1])
    except Failure as failure:
        say(f"failed: {failure}")
        return 1
    if options.json:
        print(json.dumps({"kernel": os.uname().release, "results": results}, indent=2))
    else:
        print_table(results, images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
