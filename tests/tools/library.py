#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The examples, compiled with the installed library, in the VM: they share memory and
print what the kernel says of it."""

import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from installed import EXAMPLES, REPOSITORY, Installed
from ktap import check, run_tests, wait_until

PLACE = "/tmp/library"
IMAGE = f"{PLACE}/image"
PAGE = os.sysconf("SC_PAGESIZE")
PAGES = 300
ZERO = 20       # at the end of the image
DOMAIN = "example"

installed = None


class Guest:
    """One run of the example merge, which keeps its memory until it may end."""

    def __init__(self, linked):
        self.process = subprocess.Popen(
            [f"{PLACE}/merge-{linked}", DOMAIN, IMAGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "LD_LIBRARY_PATH": f"{PLACE}/root/usr/lib"})
        self.said = self.process.stdout.readline()
        self.counts = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", self.said)}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.communicate("\n")

    def memory(self):
        """What is in it, as the kernel sees it."""
        with open(f"/proc/{self.process.pid}/maps", encoding="ascii") as maps:
            ranges = [[int(number, 16) for number in re.match(r"(\w+)-(\w+)", line).groups()] for line in maps]
        start = next(start for start, end in ranges if end - start >= PAGES * PAGE and self.holds_image(start))
        return self.read(start, PAGES * PAGE)

    def holds_image(self, start):
        return self.read(start, PAGE) == image()[:PAGE]

    def read(self, start, size):
        with open(f"/proc/{self.process.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            return memory.read(size)


def image():
    """Pages that differ, and some of zeroes."""
    return b"".join(number.to_bytes(4, "little") * (PAGE // 4) for number in range(1, PAGES - ZERO + 1)) + \
        bytes(ZERO * PAGE)


def stat(*pids):
    return installed.run(f"{PLACE}/stat-shared", *map(str, pids))


def examples_compile():
    global installed
    installed = Installed(f"{PLACE}/root")
    for example in EXAMPLES:
        for linked in ("shared", "static"):
            installed.compile(f"{REPOSITORY}/examples/{example}.c", f"{PLACE}/{example}-{linked}",
                              static=linked == "static")
    with open(IMAGE, "wb") as file:
        file.write(image())


def the_second_guest_shares_with_the_first():
    with Guest("shared") as first, Guest("static") as second:
        for guest in first, second:
            check(guest.counts.get("scanned") == PAGES and guest.counts["zero"] == ZERO, f"it said {guest.said!r}")
        check(first.counts["published"] == PAGES - ZERO, f"the first said {first.said!r}")
        check(second.counts["merged"] == PAGES - ZERO, f"the second said {second.said!r}")
        check(first.memory() == second.memory() == image(), "memory has changed")


def numbers_are_those_of_the_kernel():
    with Guest("shared"), Guest("shared") as second:
        said = stat(second.process.pid)
        saved = (PAGES - ZERO + 2 * ZERO) * PAGE
        line = f"{DOMAIN}: {saved} bytes saved, {PAGES - ZERO} frames shared by {PAGES - ZERO} more pages"
        check(line in said, f"no {line!r} in {said!r}")
        line = f"{second.process.pid}: {PAGES - ZERO} pages merged in domain '{DOMAIN}', {ZERO} zero"
        check(line in said, f"no {line!r} in {said!r}")
        with open("/sys/kernel/mm/dksm/saved_bytes", encoding="ascii") as file:
            check(f"host: {file.read().strip()} bytes" in said, f"of the host it says {said!r}")
    wait_until(lambda: DOMAIN not in stat(), 30, "the domain's end")


if __name__ == "__main__":
    run_tests((examples_compile, the_second_guest_shares_with_the_first, numbers_are_those_of_the_kernel))
