# SPDX-License-Identifier: MIT
"""One virtual machine: QEMU's microvm with real KVM, started paused or at once.

Its console is QEMU's standard input and output, its control channel (QMP) a
socket pair. Nothing reads them in the background: whoever waits for something
calls poll() again and again.
"""

import json
import os
import re
import selectors
import socket
import struct
import subprocess
import time

# Linux takes its timer from the APIC only where ACPI tells of one; with the old
# timer each idle guest needs 200 exits a second. Unikraft knows no ACPI here.
MACHINE = {"linux": "microvm,acpi=on,pic=off,pit=off,rtc=off", "other": "microvm,acpi=off"}
QUIET_SECONDS = 2       # without a known ready line: console and CPU idle for so long
ANSWER_SECONDS = 120    # QEMU that says nothing for so long hangs
IDLE_SHARE = 0.25       # of a CPU; even an idle guest has a timer
MIB = 1 << 20


class Failure(Exception):
    """Something that ends the whole run, with a message for people."""


class Image:
    """A guest image and what is known about it."""

    def __init__(self, name, kernel, initrd="", ready="", append="", memory=0):
        self.name, self.kernel, self.initrd = name, kernel, initrd
        self.ready = re.compile(ready.encode()) if ready else None
        self.append = append
        self.answers = bool(initrd)     # our own init checks its memory when asked
        self.machine = MACHINE["linux" if initrd else "other"]
        self.memory = memory or memory_for(kernel)


def memory_for(kernel):
    """A round size, 24 MiB or more above where the image's segments end."""
    wanted = elf_end(kernel) + 24 * MIB
    return max(64 * MIB, -(-wanted // (16 * MIB)) * 16 * MIB)


def elf_end(path):
    """The first physical address after a 64- or 32-bit ELF's segments."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:4] != b"\x7fELF":
            return 104 * MIB            # a bzImage, say: it unpacks itself somewhere
        wide = head[4] == 2
        offset, = struct.unpack_from("<Q", head, 32) if wide else struct.unpack_from("<I", head, 28)
        size, number = struct.unpack_from("<HH", head, 54 if wide else 42)
        file.seek(offset)
        table = file.read(size * number)
    ends = [0]
    for at in range(0, size * number, size):
        kind, = struct.unpack_from("<I", table, at)
        physical, _, memory = (struct.unpack_from("<QQQ", table, at + 24) if wide
                               else struct.unpack_from("<III", table, at + 12))
        if kind == 1:
            ends.append(physical + memory)
    return max(ends)


class Machine:
    """A VM; pid, ram (host address of guest RAM) and image are for others to read."""

    def __init__(self, name, image, policy, paused=True, more=()):
        self.name, self.image, self.paused = name, image, paused
        self.more = list(more)          # arguments for QEMU
        self.console = b""
        self.resumed = self.ready = None
        self.ended = ""                 # why the guest stopped for good
        self.busy_at, self.busy_time = 0.0, 0.0
        self.errors = open(f"/tmp/{name}.err", "w+b")
        self.launched = time.monotonic()
        self._start(policy)

    def _start(self, policy):
        ours, theirs = socket.socketpair()
        self.qemu = subprocess.Popen(
            [*policy.launcher, *self._command(theirs.fileno(), policy.mergeable)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0)
        theirs.close()
        self.pid = self.qemu.pid
        self.out = self.qemu.stdout.fileno()
        os.set_blocking(self.out, False)
        self.socket = ours
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO,
                               struct.pack("ll", ANSWER_SECONDS, 0))
        self.pending = b""
        self._message()                 # the greeting
        self.qmp("qmp_capabilities")
        self.ram = self._ram_address()
        if not self.paused:
            self.resumed = self.busy_at = self.launched

    def _command(self, fd, mergeable):
        machine = f"{self.image.machine},mem-merge={'on' if mergeable else 'off'}"
        command = [
            "qemu-system-x86_64", "-M", machine, "-enable-kvm", "-cpu", "host", "-smp", "1",
            "-m", f"{self.image.memory // MIB}M", "-nodefaults", "-no-user-config",
            "-display", "none", "-action", "reboot=shutdown,shutdown=pause",
            "-name", f"{self.name},debug-threads=on",
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
            "-chardev", f"socket,id=qmp,fd={fd}", "-mon", "chardev=qmp,mode=control",
            "-kernel", self.image.kernel]
        if self.paused:
            command += ["-S"]
        if self.image.initrd:
            command += ["-initrd", self.image.initrd]
        if self.image.append:
            command += ["-append", self.image.append]
        return command + self.more

    # ---- control channel

    def qmp(self, command, **arguments):
        request = {"execute": command, "arguments": arguments}
        self._send(json.dumps(request).encode())
        while True:
            message = self._message()
            if "error" in message:
                raise Failure(f"{self.name}: {command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
            self._event(message)

    def _send(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise self.failure(f"QEMU does not listen ({error})") from error

    def _message(self):
        while b"\n" not in self.pending:
            try:
                data = self.socket.recv(65536)
            except OSError as error:
                raise self.failure(f"QEMU does not answer ({error})") from error
            if not data:
                raise self.failure("QEMU ended")
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return json.loads(line)

    def _event(self, message):
        if message.get("event") == "SHUTDOWN":
            self.ended = message["data"]["reason"]
        elif message.get("event") in ("GUEST_PANICKED", "MEMORY_FAILURE"):
            self.ended = message["event"]

    def _ram_address(self):
        text = self.qmp("human-monitor-command", **{"command-line": "gpa2hva 0x100000"})
        found = re.search(r"is (0x[0-9a-f]+)", text)
        if not found:
            raise self.failure(f"no address of guest RAM: {text.strip()}")
        return int(found[1], 16) - 0x100000

    # ---- life

    def resume(self):
        self.resumed = self.busy_at = time.monotonic()
        self.busy_time = self._cpu_time()
        self.qmp("cont")

    def stop(self):
        self.qmp("stop")

    def reset(self):
        """As a reset button: QEMU loads the image again. It is ready again later."""
        self.qmp("set-action", reboot="reset")
        self._read_console()
        self.console, self.ready, self.resumed = b"", None, time.monotonic()
        self.qmp("system_reset")

    def ask(self, question=b""):
        """Have the guest check its memory; the answer comes on the console."""
        self.console = b""
        self.qemu.stdin.write(question + b"\n")

    def poll(self):
        """Take in what the console and QEMU say; notice when the guest is ready."""
        self._read_console()
        self._read_events()
        if self.qemu.poll() is not None:
            raise self.failure(f"QEMU ended with status {self.qemu.returncode}")
        if self.resumed and not self.ready:
            self._look_whether_ready()

    def _read_console(self):
        try:
            data = os.read(self.out, 65536)
        except BlockingIOError:
            return
        self.console = (self.console + data)[-65536:]
        if data:
            self.busy_at = time.monotonic()

    def _read_events(self):
        try:
            self.pending += self.socket.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        while b"\n" in self.pending:
            self._event(self._message())

    def _look_whether_ready(self):
        if self.image.ready:
            if self.image.ready.search(self.console):
                self.ready = time.monotonic()
            elif self.ended:
                raise self.failure(f"the guest stopped ({self.ended}) before it was ready")
        elif self.ended and self.ended != "guest-shutdown":
            raise self.failure(f"the guest stopped ({self.ended})")
        elif self._quiet():
            self.ready = self.busy_at

    def watched(self):
        """Does it take looking at the guest to see whether it is ready?"""
        return not (self.ready or self.image.ready)

    def _quiet(self):
        """Has the guest neither printed nor computed anything for a while?"""
        now, used = time.monotonic(), self._cpu_time()
        if used - self.busy_time > IDLE_SHARE * max(now - self.busy_at, 0.2):
            self.busy_at, self.busy_time = now, used
        return now - self.busy_at > QUIET_SECONDS

    def _cpu_time(self):
        """CPU seconds of the virtual CPU's thread."""
        tasks = f"/proc/{self.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/stat", encoding="ascii", errors="replace") as file:
                name, rest = file.read().rsplit(")", 1)
            if "CPU 0" in name:
                fields = rest.split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def failure(self, why):
        self._read_console()
        self.errors.seek(0)
        lines = [f"{self.name} ({self.image.name}): {why}"]
        for title, data in (("its console", self.console), ("QEMU", self.errors.read())):
            text = data.decode(errors="replace").strip().splitlines()
            lines += [f"  {title}: {line}" for line in text[-15:]]
        return Failure("\n".join(lines))

    def kill(self):
        self.qemu.kill()
        self.qemu.wait()
        self.socket.close()
        self.errors.close()


def pump(machines, seconds):
    """Wait so long or until one of them has something to say; take it in."""
    with selectors.PollSelector() as selector:
        for machine in machines:
            selector.register(machine.out, selectors.EVENT_READ, machine)
            selector.register(machine.socket, selectors.EVENT_READ, machine)
        talking = {key.data for key, _ in selector.select(seconds)}
    for machine in machines:
        if machine in talking or machine.watched():
            machine.poll()
