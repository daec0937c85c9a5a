# SPDX-License-Identifier: MIT
"""The ways of sharing that are compared.

Each policy says with what words QEMU's command line begins and whether it marks
guest RAM as mergeable for KSM, how much a VM shared before its first instruction,
how much is shared now (a cheap counter, to see whether it still rises) and what
merging has cost.
"""

import mmap
import os
import sys
import time

from machine import Failure

KSM = "/sys/kernel/mm/ksm"
DKSM = "/sys/kernel/mm/dksm"
SKIP_LEARNED = 12       # enum dksm_skip of linux/dksm.h


def read_number(path):
    with open(path, encoding="ascii") as file:
        return int(file.read())


def write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value))


class Nothing:
    """No sharing: what the VMs need on their own."""

    name, title, mergeable = "none", "no sharing", False
    launcher = ()

    def begin(self):
        write(f"{KSM}/run", 0)

    def before_resume(self, machine):
        pass

    def at_start(self, machines):
        """Pages that the VMs shared before their first instruction."""
        return 0

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

    def details(self, machines):
        return {}


class Ksm(Nothing):
    """KSM as the kernel comes, switched on: ksmd scans in the background."""

    name, title, mergeable = "ksm", "KSM (defaults)", True
    pages_to_scan = 100

    def begin(self):
        self.pid = self._find_ksmd()
        self.used = self._used()
        self.madvise = 0.0
        self.mark, self.scans = 0, 0
        self.early = 0
        write(f"{KSM}/pages_to_scan", self.pages_to_scan)
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
        self.early += read_number(f"/proc/{machine.pid}/ksm_merging_pages")

    def at_start(self, machines):
        return self.early

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

    def details(self, machines):
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


class KsmTuned(Ksm):
    """KSM in a hurry, and for all that QEMU has, by inheritance from a launcher."""

    name, title, mergeable = "ksm-tuned", "KSM (tuned)", False
    pages_to_scan = 4000
    launcher = (sys.executable, "-c",
                "import ctypes, os, sys\n"
                "PR_SET_MEMORY_MERGE = 67\n"
                "if ctypes.CDLL(None).prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):\n"
                "    sys.exit('PR_SET_MEMORY_MERGE failed')\n"
                "os.execvp(sys.argv[1], sys.argv[1:])")

    def end(self):
        super().end()
        write(f"{KSM}/pages_to_scan", Ksm.pages_to_scan)


class KsmAdvisor(Ksm):
    """KSM that chooses its own speed: a scan is to take 200 s."""

    name, title = "ksm-advisor", "KSM (advisor)"

    def begin(self):
        super().begin()
        write(f"{KSM}/advisor_mode", "scan-time")

    def end(self):
        super().end()
        write(f"{KSM}/advisor_mode", "none")


class Dksm(Nothing):
    """DKSM: QEMU is run by dksm run, and that is all."""

    name, title = "dksm", "DKSM"
    launcher = ("dksm", "run", "--domain", "demo", "--")

    def begin(self):
        if not os.path.isdir(DKSM):
            raise Failure(f"this kernel has no DKSM ({DKSM} is missing)")
        write(f"{KSM}/run", 0)
        self.before = self._spent()

    @staticmethod
    def _spent():
        return read_number(f"{DKSM}/merge_ns") + read_number(f"{DKSM}/idle_ns")

    def at_start(self, machines):
        return sum(self._process(machine)["load_merged"] + self._process(machine)["load_zero"]
                   for machine in machines)

    @staticmethod
    def _process(machine):
        """The lines of numbers as such, and what was learned out of those of lists."""
        with open(f"/proc/{machine.pid}/dksm_stat", encoding="ascii") as file:
            pairs = dict(line.strip().split(" ", 1) for line in file)
        numbers = {key: int(value) for key, value in pairs.items() if value.isdigit()}
        return numbers | {"load_learned": int(pairs["load_skipped"].split()[SKIP_LEARNED])}

    def shared(self):
        return self.sharing() + read_number(f"{DKSM}/pages_zero")

    def sharing(self):
        return read_number(f"{DKSM}/pages_sharing")

    def settled(self, quiet_seconds):
        return quiet_seconds > 5

    def cpu_seconds(self):
        return (self._spent() - self.before) / 1e9

    def details(self, machines):
        names = ("pages_shared", "pages_sharing", "pages_zero", "saved_bytes", "cow_breaks",
                 "metadata_bytes", "merge_calls", "merge_ns", "idle_ns", "huge_split",
                 "learned_volatile")
        return {name: read_number(f"{DKSM}/{name}") for name in names} | {
            "machines": {machine.name: self._process(machine) for machine in machines}}


class DksmAtStart(Dksm):
    """DKSM without merging idle machines."""

    name, title = "dksm-at-start", "DKSM (start only)"
    launcher = ("dksm", "run", "--domain", "demo", "--no-idle", "--")


class DksmNoLearn(Dksm):
    """DKSM that merges also what is known to be written to."""

    name, title = "dksm-no-learn", "DKSM (no learning)"
    launcher = ("dksm", "run", "--domain", "demo", "--no-learn", "--")


POLICIES = {policy.name: policy for policy in (
    Nothing, Ksm, KsmTuned, KsmAdvisor, Dksm, DksmAtStart, DksmNoLearn)}
