#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does sharing last? Frames in use while guests change, against the limit.

VMs of our own guests boot; then, one phase after the other, they rewrite a part of their
memory with contents that are equal in all, are swapped out and read it back, give it to
the host as a balloon does and fill it anew, are reset, and are restored from a file.
After each phase the VMs are left idle, and what is lost of the limit is counted: without
sharing, with KSM tuned, and with DKSM, one run each.
"""

import argparse
import os
import re
import subprocess
import sys
import time

import common
import report
from common import MIB, Image, Machine, Watch, density
from policies import write

POLICIES = ("none", "ksm-tuned", "dksm")
CGROUP = "/sys/fs/cgroup/bench"
SWAP = "2G"
ANSWER_SECONDS = 600    # guests that are swapped out are slow
GIVEN = re.compile(rb"given((?: [0-9a-f]+\+[0-9a-f]+)+) end")
INTO_CGROUP = ("sh", "-c", f'echo $$ >{CGROUP}/cgroup.procs && exec "$@"', "sh")
EPILOG = """\
examples:
  bench/lasting.py
  bench/lasting.py --policy dksm --count 2 --phase boot --phase rewrite
  bench/lasting.py --json lasting.json --plot lasting.png"""


class Fleet:
    """All VMs under one policy; wait() is pump(), and looks at the frames."""

    def __init__(self, policy, images, options, machines):
        self.policy, self.images, self.options = policy, images, options
        self.machines, self.watch = machines, Watch()
        self.wait = self.watch.pump

    def ask(self, question=b""):
        density.check_guests(self.machines, question, ANSWER_SECONDS, self.wait)

    # ---- phases

    def boot(self):
        for number in range(self.options.count):
            for image in self.images:
                common.boot(self.machines, f"{image.name}-{number}", image, self.policy, self.wait)

    def rewrite(self):
        self.ask()

    def swap(self):
        """Not all that is asked for may go."""
        try:
            write(f"{CGROUP}/memory.reclaim", f"{SWAP} swappiness=200")
        except OSError:
            pass
        self.ask(b"read")

    def balloon(self):
        for machine in self.machines:
            discard(machine, given(machine, lambda: self.wait(self.machines, 0.1)))
        self.ask(b"take")

    def reset(self):
        for machine in self.machines:
            machine.reset()
            common.wait_ready(self.machines, machine, self.wait)

    def restore(self):
        for _ in range(len(self.machines)):
            old = self.machines.pop(0)
            path = f"/tmp/{old.name}.saved"
            save(old, path)
            self.machines.append(restored(old, path, self.policy))
            os.remove(path)
        self.ask(b"read")


def given(machine, wait):
    """Ranges of guest memory, (start, size), that the guest does not need."""
    machine.ask(b"give")
    end = time.monotonic() + ANSWER_SECONDS
    while not (found := GIVEN.search(machine.console)):
        if time.monotonic() > end:
            raise machine.failure("the guest gives no memory")
        wait()
    return [[int(number, 16) * 4096 for number in each.split(b"+")] for each in found[1].split()]


def discard(machine, ranges):
    """The VMM drops them."""
    subprocess.run([f"{common.ROOT}/build/bench/discard", str(machine.pid)], text=True, check=True,
                   input="".join(f"{machine.ram + start} {size}\n" for start, size in ranges))


def migrated(machine):
    while (state := machine.qmp("query-migrate").get("status")) != "completed":
        if state in ("failed", "cancelled"):
            raise machine.failure(f"its migration {state}")
        time.sleep(0.1)


def save(machine, path):
    machine.stop()
    machine.qmp("migrate", uri=f"exec:cat >{path}")
    migrated(machine)
    machine.kill()


def restored(old, path, policy):
    machine = Machine(old.name, old.image, policy, more=("-incoming", "defer"))
    machine.qmp("migrate-incoming", uri=f"exec:cat {path}")
    migrated(machine)
    policy.before_resume(machine)
    machine.resume()
    machine.ready = machine.resumed
    return machine


PHASES = {"boot": Fleet.boot, "rewrite": Fleet.rewrite, "swap": Fleet.swap,
          "balloon": Fleet.balloon, "reset": Fleet.reset, "restore": Fleet.restore}


# ---- in the VM ------------------------------------------------------------------

def prepare(policy):
    write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
    os.makedirs(CGROUP, exist_ok=True)
    policy.launcher = (*INTO_CGROUP, *policy.launcher)
    with open("/proc/swaps", encoding="ascii") as file:
        if "zram" not in file.read():
            subprocess.run([f"{common.ROOT}/bench/swap.sh", SWAP], check=True)


def run_phase(fleet, name):
    common.say(f"{fleet.policy.title}: {name}")
    watch, spent = fleet.watch, fleet.policy.cpu_seconds()
    first, start = len(watch.samples), time.monotonic()
    PHASES[name](fleet)
    idle = time.monotonic()
    while time.monotonic() < idle + fleet.options.wait:
        fleet.wait(fleet.machines, 0.2)
    end, spent = time.monotonic(), fleet.policy.cpu_seconds() - spent
    counted = common.limit_now(fleet.machines)
    common.say(f"{fleet.policy.title}: {name}: {counted['lost']} frames lost of "
               f"{counted['possible']} possible, {fleet.options.wait} s after it")
    return {"phase": name, **counted, "merge_cpu_seconds": round(spent, 3),
            "idle_seconds": round(idle - start, 2), "seconds": round(end - start, 2),
            "samples": [[round(at + watch.start - start, 2), used]
                        for at, _, _, used in watch.samples[first:]]}


def measure(policy, images, options, machines):
    prepare(policy)
    policy.begin()
    fleet = Fleet(policy, images, options, machines)
    phases = [run_phase(fleet, name) for name in PHASES if name in chosen(options)]
    policy.end()
    return {"count": options.count, "pages": options.pages, "wait": options.wait, "phases": phases}


def chosen(options):
    return ("boot", *(options.phase or PHASES))


def larger(options):
    """Images with room for what guests rewrite."""
    for image in options.image:
        fields = Image(*image)
        if not fields.answers:
            sys.exit(f"bench: {fields.name}: only our own guests change when they are asked to")
        yield Image(*image[:4], f"{image[4]} memory_pages={options.pages}",
                    memory=fields.memory + -(-options.pages // 256) * MIB)


# ---- on this machine ------------------------------------------------------------

def show(results):
    rows = [["phase", "", *common.LOST_TITLES]]
    ksm = {phase["phase"]: phase for result in results if result["policy"] == "ksm-tuned"
           for phase in result["phases"]}
    for number, phase in enumerate(results[0]["phases"]):
        for result in results:
            now = result["phases"][number]
            other = ksm.get(phase["phase"]) if result["policy"] == "dksm" else None
            rows.append(["" if result is not results[0] else phase["phase"],
                         report.TITLES[result["policy"]], *common.lost_cells(now, other)])
    first = results[0]
    print(f"\n{first['count']} VMs each of {' and '.join(first['images'])}; each rewrites "
          f"{first['pages']} pages; {first['wait']} s after each phase\n")
    density.print_rows(rows)
    print(f"\n{common.LOST_NOTES}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    common.machine_options(parser, "4G", POLICIES)
    parser.add_argument("--count", type=int, default=4, metavar="N",
                        help="VMs of each image (default %(default)s)")
    parser.add_argument("--pages", type=int, default=2048, metavar="N",
                        help="that each guest rewrites (default %(default)s)")
    parser.add_argument("--phase", action="append", choices=list(PHASES),
                        metavar="NAME",
                        help="only boot and this one; repeatable: " + ", ".join(PHASES))
    parser.add_argument("--plot", metavar="FILE.png", help="draw frames over time")
    parser.add_argument("--image", action="append", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.policy = options.policy or list(POLICIES)
    if common.INSIDE:
        common.run_policies(options, list(larger(options)), measure)
        return
    if options.plot:
        common.check_writable(options.plot)
    results = common.outside(options, [
        "build/bench/frames", "build/bench/discard", "build/guests/initramfs"], [
        f"{common.ROOT}/demo/run", "--program", "bench/lasting.py", "--cpus", options.cpus,
        "--host-memory", options.host_memory, "--timeout", options.timeout, "--", *sys.argv[1:]])
    show(results)
    if options.plot:
        report.draw(options.plot, *report.plot_lasting(results))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
