# SPDX-License-Identifier: MIT
"""The three ways of sharing that are compared.

Each policy says whether QEMU marks guest RAM as mergeable for KSM, what happens
before a paused VM is resumed and after all have booted, how much is shared now
(a cheap counter, to see whether it still rises) and what merging has cost.
"""

import json
import mmap
import os
import resource
import subprocess
import time

from machine import Failure

KSM = "/sys/kernel/mm/ksm"
DKSM = "/sys/kernel/mm/dksm"


def read_number(path):
    with open(path, encoding="ascii") as file:
        return int(file.read())


def write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value))


class Nothing:
    """No sharing: what the VMs need on their own."""

    name, title, mergeable = "none", "no sharing", False

    def begin(self):
        write(f"{KSM}/run", 0)

    def before_resume(self, machine):
        pass

    def after_boot(self, machines):
        pass

    def shared(self):
        return 0

    def sharing(self):
        """The kernel's count of pages that share a frame, zero pages aside."""
        return 0

    def settled(self, quiet_seconds):
        return True

    def cpu_seconds(self):
        return 0.0

    def end(self):
        pass

    def details(self):
        return {}


class Ksm(Nothing):
    """KSM as the kernel comes, switched on: ksmd scans in the background."""

    name, title, mergeable = "ksm", "KSM (defaults)", True

    def begin(self):
        self.pid = self._find_ksmd()
        self.used = self._used()
        self.madvise = 0.0
        self.mark, self.scans = 0, 0
        write(f"{KSM}/run", 1)

    @staticmethod
    def _find_ksmd():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
                    if file.read().strip() == "ksmd":
                        return pid
            except OSError:
                pass
        raise Failure("this kernel has no ksmd")

    def _used(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def before_resume(self, machine):
        self.madvise += time_madvise(machine.image.memory)

    def shared(self):
        return self.sharing() + read_number(f"{KSM}/ksm_zero_pages")

    def sharing(self):
        return read_number(f"{KSM}/pages_sharing")

    def settled(self, quiet_seconds):
        """Two whole scans without a rise: a page is shared in its second at best."""
        scans = read_number(f"{KSM}/full_scans")
        if quiet_seconds < 1:
            self.scans = scans
        return scans > self.scans + 2

    def cpu_seconds(self):
        return self._used() - self.used + self.madvise

    def end(self):
        """Stop scanning; what is shared stays so."""
        write(f"{KSM}/run", 0)

    def details(self):
        names = ("pages_shared", "pages_sharing", "ksm_zero_pages", "full_scans",
                 "pages_to_scan", "sleep_millisecs", "smart_scan")
        return {name: read_number(f"{KSM}/{name}") for name in names} | {
            "madvise_seconds": round(self.madvise, 6)}


def time_madvise(size):
    """What marking so much memory costs: QEMU does it where it cannot be timed."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        start = time.perf_counter()
        memory.madvise(mmap.MADV_MERGEABLE)
        return time.perf_counter() - start


def children_cpu_seconds():
    """CPU time of all children that have ended and been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Dksm(Nothing):
    """DKSM: a merge before each VM starts and one after all have booted."""

    name, title = "dksm", "DKSM"
    domain = "demo"

    def __init__(self, verify=None):
        self.verify = verify or (lambda machine, merge: merge())

    def begin(self):
        if not os.path.isdir(DKSM):
            raise Failure(f"this kernel has no DKSM ({DKSM} is missing)")
        write(f"{KSM}/run", 0)
        self.used = 0.0
        self.reports = {"before resume": {}, "after boot": {}}

    def before_resume(self, machine):
        self._merge("before resume", machine)

    def after_boot(self, machines):
        for machine in machines:
            self._merge("after boot", machine)

    def _merge(self, when, machine):
        add_report(self.reports[when], self.verify(machine, lambda: self._run(machine)))

    def _run(self, machine):
        command = ["dksm", "merge", "--domain", self.domain, "--json", str(machine.pid)]
        before = children_cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.used += children_cpu_seconds() - before
        if done.returncode:
            raise Failure(f"{' '.join(command)}: status {done.returncode}: "
                          f"{done.stderr.strip()}")
        return json.loads(done.stdout)

    def shared(self):
        return self.sharing() + read_number(f"{DKSM}/pages_zero")

    def sharing(self):
        return read_number(f"{DKSM}/pages_sharing")

    def settled(self, quiet_seconds):
        return quiet_seconds > 3

    def cpu_seconds(self):
        return self.used

    def details(self):
        names = ("pages_shared", "pages_sharing", "pages_zero", "saved_bytes", "cow_breaks",
                 "metadata_bytes", "merge_calls", "merge_ns")
        return {name: read_number(f"{DKSM}/{name}") for name in names} | {
            "reports": self.reports}


def add_report(total, report):
    """Add the numbers of a report to those of a total, nested ones too."""
    for key, value in report.items():
        if isinstance(value, dict):
            add_report(total.setdefault(key, {}), value)
        elif isinstance(value, int) and key != "pid":
            total[key] = total.get(key, 0) + value
