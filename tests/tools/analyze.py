#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What dksm analyze expects of guests, and what the kernel shares when they are
loaded: run this in the VM as root; it prints KTAP. 'make test-guests' comes first."""

import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

from ktap import check, run_tests  # noqa: E402
from vmms import MICROVM, Fleet, check_end, dksm_run, prepare  # noqa: E402

GUESTS = os.path.join(ROOT, "build/guests")
NAMES = ("hello", "z")
FIRMWARE_PAGES = 100    # what else QEMU puts into guest memory


def images(layout):
    paths = [f"{GUESTS}/{name}-{layout}.elf" for name in NAMES]
    check(all(os.path.exists(path) for path in paths), "no guests: make test-guests")
    return paths


def expected(paths):
    """Pages of the second that are in the first."""
    done = subprocess.run(["dksm", "analyze", "--json", *paths], capture_output=True, check=True)
    pairs = json.loads(done.stdout)["pairs"]
    return next(pair["pages"] for pair in pairs if (pair["of"], pair["in"]) == (1, 0))


def qemu(path):
    return ["qemu-system-x86_64", "-M", MICROVM, "-enable-kvm", "-cpu", "host", "-m", "64M",
            "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-kernel", path]


def shared(domain, paths):
    """
    Pages of the second VM that are merged before its first instruction, and those that the
    first one wrote to: if nobody else has such a page, its content is gone.
    """
    with Fleet(dksm_run(domain, "--no-idle", "--no-learn"), ".") as fleet:
        for path in paths:
            fleet.start(qemu(path))
        pages, written = fleet.vms[1].stat()["load_merged"], fleet.vms[0].stat()["cow_breaks"]
    check_end(domain)
    return pages, written


def compare(layout):
    paths = images(layout)
    want, (got, written) = expected(paths), shared(layout, paths)
    print(f"# {layout}: {want} pages expected, {got} shared at load, {written} written by the first",
          flush=True)
    check(want - written <= got <= want + FIRMWARE_PAGES, f"{got} shared, {want} expected")


def default_guests_share_what_is_expected():
    compare("default")


def aligned_guests_share_what_is_expected():
    compare("aligned")


def suggested_guests_share_what_is_expected():
    compare("suggested")


TESTS = [default_guests_share_what_is_expected, aligned_guests_share_what_is_expected,
         suggested_guests_share_what_is_expected]

if __name__ == "__main__":
    prepare()
    run_tests(TESTS, sys.argv[1:])
