#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What dksm analyze expects of guests, and what the kernel shares when they are
loaded: run this in the VM as root; it prints KTAP. 'make test-guests' comes first."""

import json
import os
import re
import signal
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

from ktap import check, run_tests  # noqa: E402
from vmms import MEMORY_MIB, MICROVM, Fleet, check_end, dksm_run, prepare, read  # noqa: E402

GUESTS = os.path.join(ROOT, "build/guests")
NAMES = ("hello", "z")
GUEST_PAGES = MEMORY_MIB * 256
FIRMWARE_PAGES = 100    # what else QEMU puts into guest memory


def images(layout):
    paths = [f"{GUESTS}/{name}-{layout}.elf" for name in NAMES]
    check(all(os.path.exists(path) for path in paths), "no guests: make test-guests")
    return paths


def analyze(*names):
    """The result, and how many pages of the second are in the first."""
    done = subprocess.run(["dksm", "analyze", "--json", *names], capture_output=True, check=True)
    found = json.loads(done.stdout)
    return found, next(pair["pages"] for pair in found["pairs"] if (pair["of"], pair["in"]) == (1, 0))


def qemu(path):
    return ["qemu-system-x86_64", "-M", MICROVM, "-enable-kvm", "-cpu", "host", "-m", f"{MEMORY_MIB}M",
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-kernel", path]


def shared(domain, paths):
    """
    Pages of the second VM that are merged before its first instruction, and those that the
    first one wrote to: if nobody else has such a page, its content is gone. At first sight,
    so that both are counted.
    """
    with Fleet(dksm_run(domain, "--untrusted"), ".") as fleet:
        for path in paths:
            fleet.start(qemu(path))
        pages, written = fleet.vms[1].stat()["load_merged"], fleet.vms[0].stat()["cow_breaks"]
    check_end(domain)
    return pages, written


def compare(layout):
    paths = images(layout)
    want, (got, written) = analyze(*paths)[1], shared(layout, paths)
    print(f"# {layout}: {want} pages expected, {got} shared at load, {written} written by the first",
          flush=True)
    check(want - written <= got <= want + FIRMWARE_PAGES, f"{got} shared, {want} expected")


def page_tables(pid):
    return re.search(r"VmPTE:.*", read(f"/proc/{pid}/status")).group()


def a_process_holds_its_image_and_is_left_alone():
    """Memory that the VMM has mapped and not touched does not count, nor does it come into being."""
    image = images("default")[0]
    with Fleet([], ".") as fleet:
        vm = fleet.start(qemu(image))
        vm.process.send_signal(signal.SIGSTOP)
        before = page_tables(vm.pid)
        found, pages = analyze(str(vm.pid), image)
        check(page_tables(vm.pid) == before, f"{before} before, now {page_tables(vm.pid)}")
    process, file = found["images"]
    print(f"# {pages} of {file['distinct']} pages of the image, {process['pages']} in all", flush=True)
    check(pages > file["distinct"] * 9 // 10, f"only {pages} pages of the image are there")
    check(process["pages"] < GUEST_PAGES, f"{process['pages']} pages, of which most are not in memory")


def default_guests_share_what_is_expected():
    compare("default")


def aligned_guests_share_what_is_expected():
    compare("aligned")


def suggested_guests_share_what_is_expected():
    compare("suggested")


TESTS = [a_process_holds_its_image_and_is_left_alone, default_guests_share_what_is_expected,
         aligned_guests_share_what_is_expected, suggested_guests_share_what_is_expected]

if __name__ == "__main__":
    prepare()
    run_tests(TESTS, sys.argv[1:])
