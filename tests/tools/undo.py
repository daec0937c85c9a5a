#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Undoing what was merged when there is little memory: run this in the VM as root; it
prints KTAP."""

import contextlib
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from ktap import Skipped, check, run_tests  # noqa: E402
from metrics import PAGES, Sharer, read, run  # noqa: E402

GROUPS = "/sys/fs/cgroup"
GROUP = f"{GROUPS}/undo/inner"
KIB = 1024


def say(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def unmerge(*arguments):
    done = subprocess.run(["dksm", "unmerge", *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def dry_run(pid):
    status, out, err = unmerge("--dry-run", "--json", pid)
    check(not err, err)
    return status, json.loads(out)


def merged(pid):
    return int(next(line.split()[1] for line in read(f"/proc/{pid}/dksm_stat").splitlines()
                    if line.startswith("pages_merged ")))


@contextlib.contextmanager
def group():
    """A memory cgroup below one with a limit, without swap."""
    try:
        say(f"{GROUPS}/cgroup.subtree_control", "+memory")
    except OSError as why:
        raise Skipped(f"no memory cgroups: {why}") from why
    os.makedirs(os.path.dirname(GROUP))
    say(f"{os.path.dirname(GROUP)}/cgroup.subtree_control", "+memory")
    os.makedirs(GROUP)
    say(f"{os.path.dirname(GROUP)}/memory.swap.max", "0")
    try:
        yield os.path.dirname(GROUP)
    finally:
        os.rmdir(GROUP)
        os.rmdir(os.path.dirname(GROUP))


def dry_run_says_what_it_takes():
    with Sharer() as sharer, Sharer():
        pid = sharer.process.pid
        before = merged(pid)
        status, said = dry_run(pid)
        check(status == 0 and said["suffices"] == 1, f"{status} {said}")
        check(said["pages"] >= before >= PAGES, f"{said}, {before} merged")
        check(said["needed_bytes"] == said["pages"] * 4 * KIB, f"{said}")
        check(said["host_bytes"] > said["needed_bytes"], f"{said}")
        check(merged(pid) == before, "it did more than it said")
        table = run("dksm", "unmerge", "--dry-run", str(pid))
        check("needed" in table and "host" in table, table)


def what_does_not_fit_stays_merged():
    with group() as outer, Sharer() as sharer, Sharer():
        pid = sharer.process.pid
        before = merged(pid)
        say(f"{GROUP}/cgroup.procs", str(pid))
        room = before * 4 * KIB // 2
        say(f"{outer}/memory.max", str(int(read(f"{outer}/memory.current")) + room))
        status, said = dry_run(pid)
        check(status == 1 and said["suffices"] == 0, f"{status} {said}")
        check(said["group_limit"] == f"{outer}/memory.max", f"{said}")
        check(said["group_bytes"] <= room, f"{said}, {room} bytes left")
        status, out, err = unmerge("--json", pid)
        check(status == 1, f"{status} {out} {err}")
        check("memory ran out" in err and err.count("\n") == 1, err)
        left = merged(pid)
        check(0 < left < before, f"{left} of {before} still merged")
        check(json.loads(out)["unmerged"] >= before - left, f"{out}: {before} to {left}")
        check(sharer.process.poll() is None, "it was killed")
        check("oom_kill 0" in read(f"{outer}/memory.events"), read(f"{outer}/memory.events"))
        say(f"{outer}/memory.max", "max")
        status, out, err = unmerge(pid)
        check(status == 0 and merged(pid) == 0, f"{status} {out} {err}")
        sharer.write(0)
        say(f"{GROUPS}/cgroup.procs", str(pid))


TESTS = [dry_run_says_what_it_takes, what_does_not_fit_stays_merged]

if __name__ == "__main__":
    run_tests(TESTS, sys.argv[1:])
