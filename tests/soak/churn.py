#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Guests that come and go, on a host that is short of memory: run this in the VM.

Some places for guests are always taken. A guest boots, is asked a few times to check its
memory, write to it and check again, and ends; another one takes its place. Meanwhile their
memory cgroup is reclaimed to zram, memory is compacted, and where the guests are attached
one of them at random is merged or unmerged by a call. What has happened is written to
OUT/counts.json every second, so that it outlives this machine.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "../../demo")]

import vmms                                             # noqa: E402
from stacks import Stacks                               # noqa: E402
from machine import MIB, Failure, Image, Machine        # noqa: E402

CGROUP = "/sys/fs/cgroup/soak"
ANSWER_SECONDS = 300    # a guest that says nothing for so long is lost
PAGES = (512, 4096, 16384)
ASKED = (1, 4)          # so often, before it ends
REST_SECONDS = 3        # at most, between two questions
RECLAIM_SECONDS = 4     # at most, between two reclaims
COMPACT_SECONDS = 10
WHY_KEPT = 10           # of what is said of lost guests
CALL_SECONDS = 2        # at most, between two merges or unmerges


class Qemu(Machine):
    """QEMU's microvm with a Linux guest."""

    def __init__(self, number, launcher, options, pages):
        self.launcher, self.mergeable = launcher, False
        image = Image("linux", options.kernel, options.initrd, "guest ready",
                      parameters(pages), options.memory * MIB)
        super().__init__(f"soak{number}", image, self, paused=False)

    def _event(self, message):
        super()._event(message)
        if self.ended:
            raise self.failure(f"the guest stopped ({self.ended})")


class Firecracker(vmms.Vm):
    """The same guest under Firecracker; it has Machine's interface."""

    def __init__(self, number, launcher, options, pages):
        self.ready, config = None, f"/tmp/soak{number}.json"
        vmms.write(config, json.dumps({
            "boot-source": {"kernel_image_path": options.kernel, "initrd_path": options.initrd,
                            "boot_args": parameters(pages)},
            "drives": [], "machine-config": {"vcpu_count": 1, "mem_size_mib": options.memory}}))
        super().__init__(launcher, number, [os.environ["FIRECRACKER"], "--no-api", "--config-file", config])
        os.set_blocking(self.process.stdout.fileno(), False)

    def poll(self):
        self.console = (self.console + (self.process.stdout.read() or b""))[-65536:]
        if not self.ready and b"guest ready" in self.console:
            self.ready = time.monotonic()
        if self.process.poll() is not None:
            raise self.failure(f"Firecracker ended with status {self.process.returncode}")

    def ask(self):
        self.console = b""
        self.process.stdin.write(b"\n")

    def failure(self, why):
        return Failure(f"{why}\n{self.console[-1500:].decode(errors='replace')}")


KINDS = {"qemu": Qemu, "firecracker": Firecracker}


def parameters(pages):
    return f"{vmms.PARAMETERS} memory_pages={pages}"


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(str(text))


def read_stat():
    """Pages that went to swap and came back are among it."""
    with open("/proc/vmstat", encoding="ascii") as file:
        return {key: int(value) for key, value in map(str.split, file)}


class Place:
    """Room for one guest, taken by one after the other."""

    def __init__(self, number, churn):
        self.number, self.churn, self.vm = number, churn, None
        self.asked_at = self.due = 0.0
        self.left = 0

    def step(self):
        try:
            if not self.vm:
                self._start()
            self.vm.poll()
            self._go_on(time.monotonic())
        except Failure as failure:
            self.churn.lose(failure)
            self.end()

    def _start(self):
        options, dice = self.churn.options, self.churn.dice
        self.churn.counts["started"] += 1
        self.left = dice.randint(*ASKED)
        self.vm = KINDS[options.guests](self.number, self.churn.launcher, options, dice.choice(PAGES))
        self.asked_at, self.due = time.monotonic(), 0.0

    def _go_on(self, now):
        """Waiting for an answer (asked_at), or until the next question (due)."""
        if self.asked_at:
            if not self._answered():
                if now - self.asked_at > ANSWER_SECONDS:
                    raise self.vm.failure(f"it has said nothing for {ANSWER_SECONDS} s")
                return
            self.asked_at, self.due = 0.0, now + self.churn.dice.uniform(0, REST_SECONDS)
        elif now >= self.due:
            if not self.left:
                self.churn.counts["ended"] += 1
                self.end()
                return
            self.left -= 1
            self.vm.ask()
            self.asked_at = now

    def _answered(self):
        if not self.vm.ready:
            return False
        said = self.vm.console
        if b"corrupt" in said and b"\n" in said.split(b"corrupt", 1)[1]:
            self.churn.corrupt(said)
            return True
        if b"intact" in said:
            self.churn.counts["checked"] += 1
            return True
        return b"guest ready" in said

    def end(self):
        if self.vm:
            self.vm.kill()
        self.vm = None


class Churn:
    def __init__(self, options):
        self.options, self.dice = options, random.Random(options.seed)
        self.launcher = ["sh", "-c", f'echo $$ >{CGROUP}/cgroup.procs && exec "$@"', "sh"]
        if options.attach:
            self.launcher += ["dksm", "run", "--domain", "soak", "--"]
        self.stacks = Stacks() if options.stacks else None
        self.places = [Place(number, self) for number in range(options.places)]
        self.begin = time.monotonic()
        self.counts = {"started": 0, "checked": 0, "ended": 0, "wrong_pages": 0, "lost": 0, "why": [],
                       "merges": 0, "unmerges": 0, "swapped_out": 0, "swapped_in": 0,
                       "seconds": 0, "finished": False}

    def lose(self, failure):
        self.counts["lost"] += 1
        self.counts["why"] = (self.counts["why"] + [str(failure)])[:WHY_KEPT]

    def corrupt(self, said):
        """'corrupt: N pages before writing, M after'."""
        words = said.split(b"corrupt: ", 1)[1].split()
        self.counts["wrong_pages"] += int(words[0]) + int(words[4])
        self.counts["checked"] += 1

    def running(self):
        return [place.vm for place in self.places if place.vm and place.vm.ready]

    # ---- what is done to them

    def reclaim(self):
        """All that was asked for may not be there."""
        try:
            write(f"{CGROUP}/memory.reclaim", f"{self.dice.randint(8, 64)}M")
        except OSError:
            pass

    def compact(self):
        write("/proc/sys/vm/compact_memory", 1)

    def call(self):
        running = self.running()
        if not running or not self.options.attach:
            return
        what = self.dice.choice(("merge", "unmerge"))
        result = subprocess.run(["dksm", what, str(self.dice.choice(running).pid)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        # 1: not all of it could be done, as with pages that are in use.
        if result.returncode not in (0, 1):
            self.lose(f"dksm {what}: {result.stderr.decode(errors='replace')}")
        self.counts[what + "s"] += 1

    def report(self):
        stat = read_stat()
        if self.stacks:
            self.counts["stacks"] = self.stacks.deepest
        self.counts.update(swapped_out=stat["pswpout"], swapped_in=stat["pswpin"],
                           seconds=round(time.monotonic() - self.begin))
        path = f"{self.options.out}/counts.json"
        write(path + ".new", json.dumps(self.counts))
        os.rename(path + ".new", path)

    def run(self):
        actions = [[action, 0.0, most] for action, most in (
            (self.reclaim, RECLAIM_SECONDS), (self.compact, COMPACT_SECONDS),
            (self.call, CALL_SECONDS), (self.report, 1))]
        while time.monotonic() - self.begin < self.options.seconds:
            for place in self.places:
                place.step()
            for action in actions:
                if time.monotonic() >= action[1]:
                    action[0]()
                    action[1] = time.monotonic() + self.dice.uniform(0, action[2])
            if self.stacks:
                self.stacks.sample()
            time.sleep(0.02)
        for place in self.places:
            place.end()
        self.counts["finished"] = True
        self.report()


def prepare(memory):
    write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")
    os.makedirs(CGROUP, exist_ok=True)
    write("/sys/block/zram0/disksize", memory * MIB)
    subprocess.run(["mkswap", "/dev/zram0"], stdout=subprocess.DEVNULL, check=True)
    subprocess.run(["swapon", "/dev/zram0"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0],
                                     epilog="tests/soak/run runs it with all that is needed.")
    parser.add_argument("--kernel", required=True, help="guests' kernel, ELF")
    parser.add_argument("--initrd", required=True, help="guests' initramfs")
    parser.add_argument("--out", required=True, help="folder for counts.json")
    parser.add_argument("--guests", choices=KINDS, default="qemu")
    parser.add_argument("--attach", action="store_true", help="under dksm run")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stacks", action="store_true", help="keep the deepest stacks: see stacks.py")
    parser.add_argument("--places", type=int, default=5, help="guests at a time")
    parser.add_argument("--memory", type=int, default=256, help="MiB of a guest")
    churn = Churn(parser.parse_args())
    prepare(1024)
    churn.run()
    return bool(churn.counts["wrong_pages"] or churn.counts["lost"])


if __name__ == "__main__":
    sys.exit(main())
