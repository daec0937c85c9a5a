#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real VMMs, unmodified, under dksm run: run this in the VM; it prints KTAP.

Each test starts three VMs of one image one after the other. Their guests write to
memory and check it when asked, if they are our own. Firecracker, kvmtool and
unikernels are not in Debian 12: give their paths in the environment.
"""

import argparse
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time

from ktap import Failed, Skipped, check, run_tests, wait_until

DKSM = "/sys/kernel/mm/dksm"
TRACING = "/sys/kernel/tracing"
WORK = "/tmp/vmms"
VMS = 3
READY_SECONDS = 240
IMAGE_PAGES = 1000      # less than what the guest's kernel alone has in common
START_PAGES = 200       # a kernel that has booted has patched most of its image
UNIKERNEL_PAGES = 32
MEMORY_MIB = 64
MICROVM = "microvm,acpi=on,pic=off,pit=off,rtc=off"
# As in demo/run: noxsave for QEMU's emulated CPU; the rest is for speed.
PARAMETERS = ("console=ttyS0 quiet loglevel=1 panic=-1 reboot=t tsc=reliable no_timer_check "
              "random.trust_cpu=on mitigations=off noxsave rdinit=/init")


options = argparse.Namespace()


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


class Vm:
    """A VMM's process, its guest's console on stdin and stdout."""

    def __init__(self, launcher, number, command):
        self.report = f"{WORK}/report{number}"
        self.console = b""
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [word.format(report=self.report) for word in launcher] + command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self.pid = self.process.pid

    def wait_for(self, words):
        end = time.monotonic() + READY_SECONDS
        while not re.search(words, self.console):
            left = end - time.monotonic()
            if left > 0 and select.select([self.process.stdout], [], [], left)[0]:
                data = os.read(self.process.stdout.fileno(), 65536)
                self.console += data
                if data:
                    continue
            tail = self.console[-500:].decode(errors="replace")
            raise Failed(f"no {words!r} in the console: {tail!r}")

    def ask(self):
        """Have the guest write to its memory and check it."""
        self.console = b""
        self.process.stdin.write(b"\n")
        self.wait_for(b"intact|corrupt")
        check(b"intact" in self.console, f"the guest says {self.console!r}")

    def stat(self):
        pairs = dict(line.split(" ", 1) for line in read(f"/proc/{self.pid}/dksm_stat").splitlines())
        return {key: int(value) for key, value in pairs.items() if value.isdigit()}

    def doctor(self):
        """Exit status and severity by code."""
        result = subprocess.run(["dksm", "doctor", "--json", str(self.pid)],
                                stdout=subprocess.PIPE, check=False)
        findings = json.loads(result.stdout)["findings"]
        return result.returncode, {each["code"]: each["severity"] for each in findings}

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def dksm_run(domain, *more):
    return ["dksm", "run", "--domain", domain, "--report", "{report}", *more, "--"]


class Fleet:
    """Some VMs under one launcher; all gone at the end. ready: what a guest says."""

    def __init__(self, launcher, ready="guest ready"):
        self.launcher, self.ready, self.vms = launcher, ready, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for vm in self.vms:
            vm.kill()

    def start(self, command):
        vm = Vm(self.launcher, len(self.vms), command)
        self.vms.append(vm)
        vm.wait_for(self.ready.encode())
        return vm


# ---- what must be true of each VMM --------------------------------------------

def first_merge():
    """When the last merge was over, by the monotonic clock, and what it took."""
    found = re.findall(r" (\d+\.\d+): dksm_merge: .* ns=(\d+) err=0", read(f"{TRACING}/trace"))
    check(found, "no dksm_merge event")
    return float(found[-1][0]), int(found[-1][1]) / 1e9


def tell_start(vm):
    """How long it took until the guest ran, and how much of that was merging."""
    over, took = first_merge()
    stat = vm.stat()
    start = over - vm.started
    print(f"#   load: {stat['load_merged']} merged, {stat['load_zero']} zero, "
          f"{stat['load_published']} published in {1000 * took:.1f} ms, {100 * took / start:.1f} % "
          f"of {start:.2f} s from the launch to the first instruction", flush=True)


def start_all(fleet, command):
    for number in range(VMS):
        write(f"{TRACING}/trace", "")
        tell_start(fleet.start(command(number)))
    for vm in fleet.vms:
        wait_until(lambda vm=vm: vm.stat()["idle_passes"], 120, "a pass when idle")


def check_sharing(fleet, at_start, in_the_end):
    for vm in fleet.vms:
        stat = vm.stat()
        print(f"#   idle: {stat['idle_merged']} merged, {stat['idle_zero']} zero, "
              f"{stat['idle_published']} published; now {stat['pages_sharing']} shared, "
              f"{stat['cow_breaks']} copied", flush=True)
        check(stat["attached"] == 1 and stat["vms"] == 1, f"no VM was merged at its start: {stat}")
        check(stat["pages_sharing"] > in_the_end, f"{stat['pages_sharing']} pages are shared")
    stat = fleet.vms[-1].stat()
    check(stat["load_merged"] > at_start, f"only {stat['load_merged']} pages merged at the start")


def check_tools(fleet):
    for vm in fleet.vms:
        wait_until(lambda vm=vm: os.path.exists(vm.report), 70, "a report")
        load = json.loads(read(vm.report))["load_report"]
        check(load["merged"] == vm.stat()["load_merged"], f"the report says {load}")
        status, findings = vm.doctor()
        check("error" not in findings.values() and "no_vm" not in findings and status < 2,
              f"dksm doctor: status {status}, {findings}")


def check_contents(fleet):
    """What the guests say of their memory, also after one of them is gone."""
    for vm in fleet.vms * 2:
        vm.ask()
    fleet.vms.pop(0).kill()
    for vm in fleet.vms:
        vm.ask()


def check_fleet(name, command):
    """command(number) is what starts the VM of that number."""
    with Fleet(dksm_run(name)) as fleet:
        start_all(fleet, command)
        check_sharing(fleet, START_PAGES, IMAGE_PAGES)
        check_tools(fleet)
        check_contents(fleet)
    check_end(name)


def check_foreign_fleet(name, command, ready, pages):
    """
    Guests that cannot be asked about their memory: they only have to live on. pages: more
    are shared at the start, and twice as many in the end.
    """
    with Fleet(dksm_run(name), ready) as fleet:
        start_all(fleet, command)
        check_sharing(fleet, pages, 2 * pages)
        check_tools(fleet)
        check(all(vm.process.poll() is None for vm in fleet.vms), "a VM has ended")
    check_end(name)


def check_end(name):
    wait_until(lambda: not os.path.exists(f"{DKSM}/domains/{name}"), 30, "the domain's end")


# ---- VMMs ---------------------------------------------------------------------

def qemu(machine, *more):
    return ["qemu-system-x86_64", "-M", machine, "-enable-kvm", "-cpu", "host",
            "-m", f"{MEMORY_MIB}M", "-nodefaults", "-no-user-config", "-display", "none",
            "-serial", "stdio", "-kernel", options.kernel, "-initrd", options.initrd,
            "-append", PARAMETERS, *more]


def qemu_microvm():
    """With its seccomp filters, as libvirt sets them."""
    check_fleet("microvm", lambda _: qemu(
        MICROVM, "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"))


def qemu_q35():
    check_fleet("q35", lambda _: qemu("q35"))


def qemu_shared_memory():
    """Memory in a memfd cannot be merged: counted, and dksm doctor says why."""
    with Fleet(dksm_run("memfd")) as fleet:
        vm = fleet.start(qemu(
            f"{MICROVM},memory-backend=ram", "-object",
            f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on"))
        stat = vm.stat()
        check(stat["vms"] == 1 and stat["load_merged"] + stat["load_published"] < 256,
              f"merged what is shared: {stat}")
        status, findings = vm.doctor()
        check(status == 1 and findings.get("shared_memory") == "error",
              f"dksm doctor: status {status}, {findings}")
        vm.ask()


def program(variable):
    path = os.environ.get(variable)
    if not path:
        raise Skipped(f"{variable} is not given")
    return path


def firecracker_config(directory, share=False):
    """The files of one VM, for a process that sees nothing but this directory."""
    os.makedirs(directory, exist_ok=True)
    for source, name in ((options.kernel, "kernel"), (options.initrd, "initrd")):
        if share:
            os.symlink(os.path.abspath(source), f"{directory}/{name}")
        else:
            shutil.copy(source, f"{directory}/{name}")
    write(f"{directory}/vm.json", json.dumps({
        "boot-source": {"kernel_image_path": "kernel", "initrd_path": "initrd",
                        "boot_args": PARAMETERS},
        "drives": [],
        "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB}}))


def firecracker():
    """In its jail, with its seccomp filters, as nobody."""
    binary, jailer = program("FIRECRACKER"), program("JAILER")

    def command(number):
        jail = f"{WORK}/jail/{os.path.basename(binary)}/vm{number}/root"
        firecracker_config(jail)
        return [jailer, "--id", f"vm{number}", "--exec-file", binary, "--uid", "65534",
                "--gid", "65534", "--chroot-base-dir", f"{WORK}/jail", "--cgroup-version", "2",
                "--", "--no-api", "--config-file", "vm.json"]

    check_fleet("firecracker", command)


def kvmtool():
    """
    Its guest is a bzImage, which unpacks itself after the start. It is not asked about its
    memory: on kvmtool's serial port it did not answer without DKSM either.
    """
    binary = program("LKVM")
    check_foreign_fleet("kvmtool", lambda number: [
        "env", f"HOME={WORK}", binary, "run", "--name", f"vm{number}", "-k", options.bzimage, "-i", options.initrd,
        "-m", str(MEMORY_MIB), "-c", "1", "-p", PARAMETERS, "--console", "serial",
        "--network", "mode=none"], "guest ready", IMAGE_PAGES // 2)


def unikraft():
    """In Firecracker; what it populates itself is as much as its image."""
    binary, image = program("FIRECRACKER"), program("UNIKRAFT")

    def command(number):
        config = f"{WORK}/unikraft{number}.json"
        write(config, json.dumps({
            "boot-source": {"kernel_image_path": image, "boot_args": "vm"}, "drives": [],
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 64}}))
        return [binary, "--no-api", "--config-file", config]

    check_foreign_fleet("unikraft", command, "(?i)unikraft", UNIKERNEL_PAGES)


TESTS = (qemu_microvm, qemu_q35, qemu_shared_memory, firecracker, kvmtool, unikraft)


def arguments(description, epilog):
    """What is said about the guest; more may be added."""
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    parser.add_argument("--kernel", required=True, help="guest's kernel, ELF")
    parser.add_argument("--bzimage", help="the same as a bzImage")
    parser.add_argument("--initrd", required=True, help="guest's initramfs")
    return parser


def prepare():
    os.makedirs(WORK, exist_ok=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if not os.path.exists(f"{TRACING}/trace"):
        subprocess.run(["mount", "-t", "tracefs", "none", TRACING], check=True)
    write(f"{TRACING}/trace_clock", "mono")
    write(f"{TRACING}/events/dksm/dksm_merge/enable", "1")


def main():
    parser = arguments("Test real VMMs under dksm run; environment: FIRECRACKER, JAILER, LKVM, "
                       "UNIKRAFT (an image for Firecracker).",
                       "Example: tools/vm -- tests/vmms.py --kernel vmlinux --bzimage bzImage "
                       "--initrd build/guests/initramfs")
    parser.add_argument("tests", nargs="*", help="names of tests; all by default")
    parser.parse_args(namespace=options)
    prepare()
    run_tests(TESTS, options.tests)


if __name__ == "__main__":
    main()
