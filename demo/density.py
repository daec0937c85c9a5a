#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Start many VMs under several policies of sharing and compare what they need.

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
from machine import Failure, Image, MIB, Machine, pump
from policies import POLICIES

DEFAULT_POLICIES = ("none", "ksm", "ksm-tuned", "dksm")
SAMPLE_SECONDS = 0.5
EARLY_SECONDS = 10      # copies in so many seconds after the last boot still count
STEADY_SECONDS = 10     # so long is what kernel threads use watched in the end
RISE = 0.002            # of all that is shared: less is guests' noise


def say(text):
    print(f"demo: {text}", file=sys.stderr, flush=True)


# ---- starting ---------------------------------------------------------------

def boot(policy, images, options, machines):
    """Start every VM, no more at a time than there are CPUs."""
    for number in range(1, options.count + 1):
        for image in images:
            machine = Machine(f"{image.name}-{number}", image, policy)
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

class Watch:
    """What is shared over time, and the copies made early on."""

    def __init__(self, policy):
        self.policy = policy
        self.copies, self.copies_before = 0, copies()
        self.samples = []

    def begin(self):
        self.start = time.monotonic()
        self.sample()

    def sample(self):
        seconds, shared = time.monotonic() - self.start, self.policy.shared()
        self.samples.append((seconds, shared))
        if seconds <= EARLY_SECONDS:
            self.copies = copies() - self.copies_before
        return seconds, shared

    def seconds_to(self, part):
        """From the last boot until so much of the most that was shared, was shared."""
        goal = part * max(shared for _, shared in self.samples)
        return next(seconds for seconds, shared in self.samples if shared >= goal)

    def after(self, wanted):
        """What was shared so many seconds after the last boot."""
        return next((shared for seconds, shared in self.samples if seconds >= wanted),
                    self.samples[-1][1])


def copies():
    """Writes that copied a page of KSM or DKSM, in all of the machine."""
    with open("/proc/vmstat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("cow_ksm "))


def wait_settled(watch, machines, limit):
    """Watch until sharing no longer rises; false if it still does when time is up."""
    rise = highest = told = 0
    watch.policy.settled(0)
    while True:
        pump(machines, SAMPLE_SECONDS)
        now, shared = watch.sample()
        if shared > highest + max(4, highest * RISE):
            highest, rise = shared, now
        if watch.policy.settled(now - rise) and now > EARLY_SECONDS:
            return True
        if now > limit:
            return False
        if now - told > 10:
            told = now
            say(f"{watch.policy.title}: {shared} pages saved {now:.0f} s after the last boot")


def kernel_threads_seconds():
    """CPU time of all kernel threads."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            if pid == "2" or fields[1] == "2":
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def steady_share(machines):
    """What part of a CPU kernel threads use when all is done."""
    begin, used = time.monotonic(), kernel_threads_seconds()
    while time.monotonic() - begin < STEADY_SECONDS:
        pump(machines, SAMPLE_SECONDS)
    return (kernel_threads_seconds() - used) / (time.monotonic() - begin)


# ---- one policy -------------------------------------------------------------

def ranges(machines):
    return [(machine.pid, machine.ram, machine.image.memory) for machine in machines]


def check_guests(machines, question=b"", limit=60, wait=pump):
    """Have each guest of ours check and rewrite its memory; count those that did."""
    asked = [machine for machine in machines if machine.image.answers]
    for machine in asked:
        machine.ask(question)
    end = time.monotonic() + limit
    while not all(b"intact" in machine.console for machine in asked):
        wait(machines, 0.25)
        for machine in asked:
            if b"corrupt" in machine.console:
                raise machine.failure("ITS MEMORY IS CORRUPT")
            if time.monotonic() > end:
                raise machine.failure("the guest no longer answers")
    return len(asked)


def measure(policy, images, options, machines):
    started = time.monotonic()
    policy.begin()
    watch = Watch(policy)
    boot(policy, images, options, machines)
    booted = time.monotonic()
    watch.begin()
    converged = wait_settled(watch, machines, options.settle_limit)
    steady = steady_share(machines)
    policy.end()
    cpu, early = policy.cpu_seconds(), policy.at_start(machines)
    for machine in machines:
        machine.stop()
    say(f"{policy.title}: counting page frames")
    result = {"policy": policy.name, "vms": len(machines), **frames.count(ranges(machines)),
              "counter": policy.sharing(), "saved_at_start": early,
              "saved_when_idle": watch.after(1),
              "seconds_to_95": round(watch.seconds_to(0.95), 2),
              "seconds_until_final": round(watch.seconds_to(1 - RISE), 2),
              "converged": converged, "merge_cpu_seconds": round(cpu, 3),
              "copies": watch.copies, "steady_share": round(steady, 4),
              "boot_seconds": round(median_boot(machines), 3),
              "all_booted_seconds": round(booted - started, 2), "details": policy.details(machines),
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


# ---- result -----------------------------------------------------------------

def until(result, key):
    return "-" if result["policy"] == "none" else \
        f"{'' if result['converged'] else '>'}{result[key]:.1f}"


COLUMNS = (
    ("", lambda r: r["title"]),
    ("memory, MiB", lambda r: f"{r['bytes'] / MIB:.0f}"),
    ("frames", lambda r: str(r["frames"])),
    ("limit", lambda r: str(r["distinct"])),
    ("lost", lambda r: percent(r["lost"], r["possible"])),
    ("saved: start", lambda r: str(r["saved_at_start"])),
    ("idle", lambda r: str(r["saved_when_idle"])),
    ("final", lambda r: str(r["pages_sharing"] + r["pages_zero"])),
    ("95 %, s", lambda r: until(r, "seconds_to_95")),
    ("final, s", lambda r: until(r, "seconds_until_final")),
    ("merging, CPU s", lambda r: f"{r['merge_cpu_seconds']:.2f}"),
    ("copies", lambda r: str(r["copies"])),
    ("kthreads", lambda r: f"{100 * r['steady_share']:.1f} %"),
    ("boot, s", lambda r: f"{r['boot_seconds']:.2f}"),
)

NOTES = """\
memory, frames: distinct page frames of guest RAM, by /proc/PID/pagemap, without the
  zero page
limit: distinct contents of guest RAM but zeroes, what perfect merging would need
lost: frames above the limit, in % of what it would save of pages that are not zero; more
  than 100 % where pages of zeroes have frames, too
saved: pages that need no frame of their own, before the first guest instruction, 1 s
  after the last boot, and in the end (counters; the last by pagemap)
95 %, final: seconds from the last boot until so much was saved (">": it still rose)
merging: CPU time of ksmd and madvise, or time in merges and idle passes
copies: writes that copied a merged page, until 10 s after the last boot
kthreads: part of a CPU that the host's kernel threads use in the end
boot: median of a VM from being resumed to being ready"""


def percent(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"


def print_rows(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        first = row[0].ljust(widths[0])
        print("  ".join([first] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]).rstrip())


def print_table(results, images):
    sizes = ", ".join(f"{results[0]['per_image']} x {image.name} ({image.memory // MIB} MiB)"
                      for image in images)
    print(f"\n{sizes} on Linux {os.uname().release}\n")
    print_rows([[title for title, _ in COLUMNS]] +
               [[cell(result) for _, cell in COLUMNS] for result in results])
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
    parser.add_argument("--policy", action="append", choices=list(POLICIES))
    parser.add_argument("--count", type=int, default=8, help="VMs of each image")
    parser.add_argument("--memory", type=int, default=0, help="MiB of each VM")
    parser.add_argument("--parallel", type=int, default=len(os.sched_getaffinity(0)),
                        help="VMs that boot at a time")
    parser.add_argument("--boot-limit", type=int, default=300, help="seconds")
    parser.add_argument("--settle-limit", type=int, default=180, help="seconds")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    images = [Image(*image, memory=options.memory * MIB) for image in options.image]
    results = []
    try:
        for name in options.policy or DEFAULT_POLICIES:
            policy = POLICIES[name]()
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
