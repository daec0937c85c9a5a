#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tools/vm does what it says: run this on the machine itself; it prints KTAP."""

import os
import re
import subprocess
import time

from ktap import Skipped, check, run_tests

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOST = 125      # what tools/vm ends with when the kernel died


def vm(command, *options):
    """Status, standard output and standard error."""
    result = subprocess.run([f"{ROOT}/tools/vm", *options, "--", "sh", "-c", command], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                            check=False)
    return result.returncode, result.stdout, result.stderr


def emulated():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        if os.access("/dev/kvm", os.W_OK) and re.search(r"\b(svm|vmx)\b", file.read()):
            raise Skipped("the CPU is not emulated here")


def check_lost(result, *words):
    status, _, said = result
    check(status == LOST, f"status {status}")
    for word in words:
        check(re.search(word, said, re.M), f"not said: {word!r}; but: {said[-600:]!r}")
    kept = re.search(r"whole kernel log: (.*)", said)
    check(kept and os.path.exists(kept[1]), "no log was kept")
    with open(kept[1], encoding="utf-8", errors="replace") as file:
        log = file.read()
    check("Linux version" in log and "vm: registers" in log, "the log has no kernel or no registers")
    os.unlink(kept[1])


def passes_on_what_the_command_does():
    status, out, said = vm("echo out; echo err >&2; exit 7", "--cpus", "1")
    check((status, out) == (7, "out\n") and said.endswith("err\n"), f"{status}, {out!r}, {said!r}")


def tells_of_a_panic():
    check_lost(vm("echo c >/proc/sysrq-trigger", "--cpus", "1"),
               "the kernel log shows trouble", "sysrq_handle_crash", "^vm: registers$", "^RIP=.* CPL=0")


def tells_of_a_silent_end():
    check_lost(vm("echo b >/proc/sysrq-trigger; sleep 60", "--append", "reboot=triple"),
               "ended without reporting a status", "why it ended: guest-reset", "^vm: a triple fault$",
               "^CPU#1", "^GS =")


def tells_of_a_hang():
    begin = time.monotonic()
    check_lost(vm("sleep 600", "--cpus", "1", "--timeout", "10"), "no end after 10 seconds", "^RIP=.* HLT=1")
    check(time.monotonic() - begin < 60, "it took long to give up")


def tells_the_frequency_of_the_tsc():
    emulated()
    khz = int(subprocess.run([f"{ROOT}/build/tests/tsc"], stdout=subprocess.PIPE, check=True).stdout)
    _, out, _ = vm("cat /proc/cmdline; dmesg")
    told = int(re.search(r"tsc_early_khz=(\d+)", out)[1])
    check(abs(told - khz) < khz / 1000, f"told {told} kHz, and it is {khz} kHz")
    detected = float(re.search(r"tsc: Detected ([\d.]+) MHz", out)[1])
    check(abs(1000 * detected - khz) < khz / 1000, f"the kernel takes it for {detected} MHz")
    _, out, _ = vm("dmesg", "--icount")
    check("tsc: Detected 1000.000 MHz" in out, "an instruction is not a nanosecond")


def keeps_programs_off_cpu_0():
    """Where each emulated CPU has a thread of its own; the number of others is what was asked for."""
    emulated()
    count = "cat /sys/devices/system/cpu/online; nproc; taskset -pc $$"
    _, out, _ = vm(count, "--cpus", "3")
    check(re.search(r"^0-3\n3\n.*: 1-3$", out, re.M), f"with a thread for each: {out!r}")
    _, out, _ = vm(count, "--cpus", "3", "--thread", "single")
    check(re.search(r"^0-2\n3\n.*: 0-2$", out, re.M), f"with one thread: {out!r}")


def refuses_what_it_does_not_know():
    for options in (["--thread", "both"], ["--frob"], ["--kernel", "none"]):
        status, out, said = vm("true", *options)
        check(status == LOST and not out and said.count("\n") <= 2, f"{options}: {status}, {said!r}")


TESTS = (passes_on_what_the_command_does, tells_of_a_panic, tells_of_a_silent_end, tells_of_a_hang,
         tells_the_frequency_of_the_tsc, keeps_programs_off_cpu_0, refuses_what_it_does_not_know)

if __name__ == "__main__":
    subprocess.run(["make", "-s", "-C", ROOT, "build/tests/init", "build/tests/tsc"], check=True)
    run_tests(TESTS)
