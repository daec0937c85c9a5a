#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How many pages of a huge page are worth its splitting?

VMs boot on a host that gives out huge pages wherever it can. When they have been idle for a
while, what is lost of the limit is counted, and how much of guest memory is in huge pages:
without sharing, with KSM tuned, which splits whatever it merges, and with DKSM for some values
of its knob huge_min.
"""

import argparse
import sys
import time

import common
from common import Failure, density
import report
from policies import DKSM, write

POLICIES = ("none", "ksm-tuned", "dksm")
THP = "/sys/kernel/mm/transparent_hugepage/"
MINIMA = (1, 16, 64, 128, 256, 512)
EPILOG = """\
examples:
  bench/huge.py
  bench/huge.py --count 8 --json huge.json"""


# ---- in the VM ------------------------------------------------------------------

def prepare():
    write(f"{THP}enabled", "always")
    write(f"{THP}defrag", "always")
    # What is split is not to come back while it is measured.
    write(f"{THP}khugepaged/defrag", 0)
    write(f"{THP}khugepaged/max_ptes_shared", 0)


def huge_mib(machine):
    with open(f"/proc/{machine.pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("AnonHuge")) / 1024


def measure_once(policy, images, options, machines):
    spent = policy.cpu_seconds()
    for number in range(options.count):
        for image in images:
            common.boot(machines, f"{image.name}-{number}", image, policy)
    end = time.monotonic() + options.wait
    while time.monotonic() < end:
        common.pump(machines, 0.2)
    row = {"huge_mib": round(sum(map(huge_mib, machines))), **common.limit_now(machines),
           "merge_cpu_seconds": round(policy.cpu_seconds() - spent, 3)}
    while machines:
        machines.pop().kill()
    return row


def measure(policy, images, options, machines):
    prepare()
    policy.begin()
    minima = MINIMA if policy.name == "dksm" else (None,)
    rows = []
    for minimum in minima:
        if minimum:
            write(f"{DKSM}/huge_min", minimum)
        rows.append({"huge_min": minimum, **measure_once(policy, images, options, machines)})
        common.say(f"{policy.title}, huge_min {minimum or '-'}: {rows[-1]['lost']} lost, "
                   f"{rows[-1]['huge_mib']} MiB in huge pages")
    policy.end()
    return {"count": options.count, "wait": options.wait, "rows": rows}


# ---- on this machine ------------------------------------------------------------

def show(results):
    first = results[0]
    print(f"\n{first['count']} VMs each of {' and '.join(first['images'])}, huge pages always; "
          f"{first['wait']} s after the last one\n")
    table = [["", "huge_min", "in huge pages, MiB", *common.LOST_TITLES[:-1]]]
    for result in results:
        for row in result["rows"]:
            table.append([report.TITLES[result["policy"]], str(row["huge_min"] or "-"),
                          str(row["huge_mib"]), *common.lost_cells(row, None)[:-1]])
    density.print_rows(table)
    print(f"\n{common.LOST_NOTES}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    common.machine_options(parser, "4G", POLICIES)
    parser.add_argument("--count", type=int, default=3, metavar="N",
                        help="VMs of each image (default %(default)s)")
    parser.add_argument("--image", action="append", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.policy = options.policy or list(POLICIES)
    if common.INSIDE:
        common.run_policies(options, [common.Image(*image) for image in options.image], measure)
        return
    show(common.outside(options, ["build/bench/frames", "build/guests/initramfs"], [
        f"{common.ROOT}/demo/run", "--program", "bench/huge.py", "--cpus", options.cpus,
        "--host-memory", options.host_memory, "--timeout", options.timeout, "--", *sys.argv[1:]]))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
