#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How many VMs fit: run by demo/run --program bench/capacity.py, in a VM without swap.

VMs arrive one after another at a fixed interval, whether or not those before are ready,
until one of them dies for want of memory.
"""

import resource
import threading
import time

import common
from common import Machine, pump
from policies import write

# The OOM killer is to take a VM and not this program; both are inherited.
SPARED, CHOSEN = -1000, 500


class Arrival(Machine):
    """Known before its VMM answers."""

    def __init__(self, all_of_them, *arguments):
        all_of_them.append(self)
        super().__init__(*arguments, paused=False)


class Arrivals:
    """Every VM has a thread of its own until it is ready."""

    def __init__(self, policy, machines):
        self.policy, self.machines = policy, machines
        self.lock, self.failure, self.threads, self.begun = threading.Lock(), None, [], []
        policy.launcher = ("choom", "-n", str(CHOSEN), "--", *policy.launcher)

    def arrive(self, image):
        thread = threading.Thread(target=self._start, daemon=True,
                                  args=(f"{image.name}-{len(self.threads)}", image))
        self.threads.append(thread)
        thread.start()

    def _start(self, name, image):
        try:
            machine = Arrival(self.begun, name, image, self.policy)
            with self.lock:
                self.machines.append(machine)
            while not machine.ready and not self.failure:
                pump([machine], 0.1)
        except Exception as error:      # pylint: disable=broad-except
            self.failure = self.failure or error

    def look(self):
        """Note the end of any; the number of those that are ready."""
        with self.lock:
            if not self.failure and any(m.qemu.poll() is not None for m in self.machines):
                self.failure = RuntimeError("a VM has ended")
            return sum(1 for machine in self.machines if machine.ready)

    def end(self):
        """Not one by one, since those that are still starting would take their time."""
        self.failure = self.failure or RuntimeError("enough")
        for machine in self.begun:
            if hasattr(machine, "qemu"):
                machine.qemu.kill()
        for thread in self.threads:
            thread.join()


def measure(policy, images, options, machines):
    policy.begin()
    arrivals = Arrivals(policy, machines)
    begin, ready = time.monotonic(), 0
    while not arrivals.failure and len(arrivals.threads) < options.limit:
        arrivals.arrive(images[len(arrivals.threads) % len(images)])
        due = begin + len(arrivals.threads) * options.interval
        while not arrivals.failure:
            ready = arrivals.look()
            left = due - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, 0.05))
    seconds = time.monotonic() - begin
    common.say(f"{policy.title}: {len(arrivals.threads)} arrived, {ready} ready: "
               f"{str(arrivals.failure).splitlines()[0]}")
    policy.end()
    failed = bool(arrivals.failure)
    arrivals.end()
    return {"interval": options.interval, "arrived": len(arrivals.threads) - failed,
            "ready": ready, "seconds": round(seconds, 2), "memory_failed": failed}


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--interval", type=float, default=0.1, help="seconds (default 0.1)")
    parser.add_argument("--limit", type=int, default=1000, help="VMs at most (default 1000)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16))
    write("/proc/self/oom_score_adj", SPARED)
    common.run(parser, measure)


if __name__ == "__main__":
    main()
