# SPDX-License-Identifier: MIT
"""Tests that are functions, and print KTAP: for the scripts that run in the VM."""

import subprocess
import time


class Failed(Exception):
    """What was seen, and what was wanted."""


class Skipped(Exception):
    """Why."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, f"not within {seconds} s: {what}")
        time.sleep(0.1)


def run_one(number, test):
    name = test.__name__
    try:
        test()
        print(f"ok {number} {name}", flush=True)
    except Skipped as why:
        print(f"ok {number} {name} # SKIP {why}", flush=True)
    except (Failed, OSError, ValueError, LookupError, subprocess.SubprocessError) as why:
        print(f"not ok {number} {name} # {type(why).__name__}: {why}", flush=True)


def run_tests(tests, names=()):
    """Those named, or all of them."""
    chosen = [test for test in tests if not names or test.__name__ in names]
    print(f"KTAP version 1\n1..{len(chosen)}", flush=True)
    for number, test in enumerate(chosen, 1):
        run_one(number, test)
