#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many kinds of guests in one domain: what is lost of the limit when all are idle?

Small guests of so many kinds, several of each and as many strangers that equal nobody,
of sizes between 1 MiB and 256 MiB (as many between 1 and 2 as between 128 and 256), are
started in random order, one after the other. Half of a guest's memory is its image, the
rest it fills itself. After the last one has become idle and a time of waiting, frames in
use are counted: with KSM tuned and with DKSM, one run each.
"""

import argparse
import random
import re
import subprocess
import sys
import time
import types

import common
from common import MIB, Failure, density
import report

POLICIES = ("ksm-tuned", "dksm")
READY = re.compile(rb"guest ready at (\d+)\n")
EPILOG = """\
examples:
  bench/mix.py
  bench/mix.py --kinds 32 --largest 64 --json mix.json
  bench/mix.py --seed 7 --policy dksm"""


class Guest:
    """A process of tests/vm/guest.c; for policies and counting it is as a Machine is."""

    def __init__(self, name, mib, seed, policy):
        self.name, self.image = name, types.SimpleNamespace(memory=mib * MIB)
        self.process = subprocess.Popen(
            [*policy.launcher, f"{common.ROOT}/build/tests/guest", str(mib), str(seed)],
            stdout=subprocess.PIPE)
        self.pid = self.process.pid
        found = READY.match(self.process.stdout.readline())
        if not found:
            self.kill()
            raise Failure(f"{name}: it ended with status {self.process.returncode} "
                          "before it was ready")
        self.ram = int(found[1])

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def order(options):
    """(name, MiB, seed of its contents) of each guest, in the order they are started."""
    dice = random.Random(options.seed)
    bounds = [options.smallest, options.largest]

    def size():
        return round(bounds[0] * (bounds[1] / bounds[0]) ** dice.random())

    kinds = [(f"kind{kind}", size(), kind) for kind in range(1, options.kinds + 1)]
    strangers = [(f"stranger{kind}", size(), options.kinds + kind)
                 for kind in range(1, options.kinds + 1)]
    guests = kinds * options.count + strangers
    dice.shuffle(guests)
    return guests


# ---- in the VM ------------------------------------------------------------------

def measure(policy, _images, options, machines):
    guests = order(options)
    policy.begin()
    for number, (name, mib, seed) in enumerate(guests, 1):
        machines.append(Guest(name, mib, seed, policy))
        policy.before_resume(machines[-1])
        if number % 8 == 0 or number == len(guests):
            common.say(f"{policy.title}: {number} of {len(guests)} guests")
    time.sleep(options.wait)
    spent = policy.cpu_seconds()
    counted = common.limit_now(machines)
    policy.end()
    return {"seed": options.seed, "kinds": options.kinds, "count": options.count,
            "vms": len(guests), "smallest_mib": min(mib for _, mib, _ in guests),
            "largest_mib": max(mib for _, mib, _ in guests), "wait": options.wait, **counted,
            "merge_cpu_seconds": round(spent, 3), "order": guests}


# ---- on this machine ------------------------------------------------------------

def show(results):
    first = results[0]
    total = sum(mib for _, mib, _ in first["order"])
    ksm = next((result for result in results if result["policy"] == "ksm-tuned"), None)
    print(f"\n{first['vms']} guests, {first['count']} each of {first['kinds']} kinds and "
          f"{first['kinds']} strangers, {first['smallest_mib']} to {first['largest_mib']} MiB, "
          f"{total} MiB in all, seed {first['seed']}; {first['wait']} s after the last one\n")
    density.print_rows([["", *common.LOST_TITLES]] + [
        [report.TITLES[result["policy"]],
         *common.lost_cells(result, ksm if result["policy"] == "dksm" else None)]
        for result in results])
    print(f"\n{common.LOST_NOTES}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    common.machine_options(parser, "5G", POLICIES)
    parser.add_argument("--kinds", type=int, default=16, metavar="N", help="default %(default)s")
    parser.add_argument("--count", type=int, default=2, metavar="N",
                        help="guests of each kind (default %(default)s)")
    parser.add_argument("--smallest", type=int, default=1, metavar="MIB",
                        help="default %(default)s")
    parser.add_argument("--largest", type=int, default=256, metavar="MIB",
                        help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="of sizes and order (default %(default)s)")
    options = parser.parse_args()
    if not 1 <= options.smallest <= options.largest <= 1024:
        parser.error("sizes are 1 to 1024 MiB")
    options.policy = options.policy or list(POLICIES)
    if common.INSIDE:
        common.run_policies(options, [], measure)
        return
    print(f"seed {options.seed}", flush=True)
    show(common.outside(options, ["build/tests/guest"], [
        f"{common.ROOT}/tools/vm", "--cpus", options.cpus, "--mem", options.host_memory,
        "--timeout", options.timeout, "--", "bench/mix.py", *sys.argv[1:]]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
