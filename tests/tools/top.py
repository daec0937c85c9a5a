#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""dksm top, for scripts and live on a terminal: run this in the VM as root; it prints KTAP.

The terminal is a VT52, whose few sequences class Terminal knows, or an xterm where
only the bytes matter.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from ktap import check, run_tests, wait_until  # noqa: E402
from metrics import DOMAIN, PAGES, Sharer, run  # noqa: E402

BYTES = PAGES * 4096
OTHER = "another-domain-with-a-name-of-sixty-three-letters-which-is-most"
SECONDS = 30            # emulated machines are slow


# ---- for scripts -------------------------------------------------------------


def samples(text):
    """The JSON objects of a stream."""
    decoder, found = json.JSONDecoder(), []
    while text.strip():
        sample, end = decoder.raw_decode(text.lstrip())
        found.append(sample)
        text = text.lstrip()[end:]
    return found


def top(*arguments):
    return run("dksm", "top", "--iterations", "1", *arguments)


def json_says_who_shares_what():
    with Sharer() as one, Sharer() as two, Sharer(OTHER) as third:
        sample, = samples(top("--json", "--domain", DOMAIN))
        stat = json.loads(run("dksm", "stat", "--json"))
    domain, = sample["domains"]
    members = {row["pid"]: row for row in sample["processes"]}
    check(members.keys() == {one.process.pid, two.process.pid}, f"members: {members.keys()}")
    check(sample["total"]["processes"] == 3, f"{third.process.pid} is a member of {OTHER}")
    check(domain["name"] == DOMAIN and domain["processes"] == 2, f"{domain}")
    for row in members.values():
        check(row["memory_bytes"] >= row["shared_bytes"] >= BYTES - 4096, f"all are shared: {row}")
        check(row["command"].startswith("python"), f"{row}")
        check(row["cow_breaks_per_second"] is None, "no rate from one sample")
    saved, = [each["saved_bytes"] for each in stat["domains"] if each["name"] == DOMAIN]
    parts = sum(row["saved_bytes"] for row in members.values())
    check(domain["saved_bytes"] == saved, f"{domain['saved_bytes']}, stat says {saved}")
    check(abs(parts - saved) <= 2, f"the parts are {parts} of {saved}")


def tables_say_the_same():
    with Sharer() as one, Sharer(OTHER) as two:
        lines = top("--batch", "--sort", "domain").splitlines()
        found = top("--batch", "--filter", str(one.process.pid))
    check(lines[0].startswith("2 domains, 2 processes, "), lines[0])
    check([line.split()[0] for line in lines[1:4]] == ["DOMAIN", OTHER, DOMAIN], f"{lines[1:4]}")
    pids = [line.split()[0] for line in lines[6:8]]
    check(pids == [str(two.process.pid), str(one.process.pid)], f"{lines[5:]}")
    check(OTHER in lines[6] and len(lines) == 9, "names are whole")
    check(f" {one.process.pid} " in found and OTHER not in found, found)


def rates_count_writes():
    with Sharer() as sharer, subprocess.Popen(
            ["dksm", "top", "--json", "--iterations", "3", "--interval", "2"],
            stdout=subprocess.PIPE, text=True) as watcher:
        line = watcher.stdout.readline()        # the first sample is there
        for page in range(50):
            sharer.write(page)
        seen = samples(line + watcher.stdout.read())
    rates = [sample["total"]["cow_breaks_per_second"] for sample in seen]
    check(len(rates) == 3 and rates[0] is None, f"{rates}")
    breaks = seen[-1]["processes"][0]["cow_breaks"] - seen[0]["processes"][0]["cow_breaks"]
    check(breaks >= 50, f"{breaks} breaks by 50 writes and Python's own")
    in_2_s = 2 * sum(sample["processes"][0]["cow_breaks_per_second"] for sample in seen[1:])
    check(breaks / 2 <= in_2_s <= breaks + 1, f"{breaks} breaks, by the rates {in_2_s}")


def processes_may_vanish():
    with subprocess.Popen(["dksm", "top", "--json", "--iterations", "30", "--interval", "0.1"],
                          stdout=subprocess.PIPE, text=True) as watcher:
        gone = set()
        for _ in range(3):
            with Sharer() as sharer:
                gone.add(sharer.process.pid)
                subprocess.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do /bin/true; done"], check=True)
                sharer.process.kill()
        seen = samples(watcher.stdout.read())
    check(watcher.returncode == 0 and len(seen) == 30, f"status {watcher.returncode}, {len(seen)}")
    pids = {row["pid"] for sample in seen for row in sample["processes"]}
    check(pids and pids <= gone, f"{pids} of {gone}")
    last, = samples(run("dksm", "top", "--json", "--iterations", "1"))
    check(not last["processes"], "all are gone")


def others_see_nothing_of_it():
    with Sharer():
        done = subprocess.run(["dksm", "top", "--json", "--iterations", "1"], user="nobody",
                              capture_output=True, text=True, check=False)
    check(done.returncode == 0 and not done.stderr, f"{done.returncode} {done.stderr}")
    sample, = samples(done.stdout)
    check(not sample["domains"] and not sample["processes"], f"{sample}")
    check(sample["total"]["saved_bytes"] > 0, "all may see the total")


# ---- live --------------------------------------------------------------------


class Terminal:
    """A terminal that dksm top runs on, and what is on its screen if it is a VT52."""

    def __init__(self, *arguments, kind="vt52", before=None):
        self.master, self.slave = pty.openpty()
        self.rows, self.columns = 24, 80
        self.cells, self.row, self.column = {}, 0, 0
        self.kind, self.bytes, self.todo = kind, b"", b""
        self.settings = termios.tcgetattr(self.slave)
        self.set_size(24, 80)

        def begin():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if before:
                before()
        self.process = subprocess.Popen(
            ["dksm", "top", "--interval", "0.5", *arguments], env={**os.environ, "TERM": kind},
            stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            preexec_fn=begin)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for end in self.master, self.slave:
            if end is not None:
                os.close(end)

    def set_size(self, rows, columns):
        """What was on the screen is lost."""
        self.rows, self.columns, self.cells = rows, columns, {}
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def clear(self, condition):
        self.cells = {at: char for at, char in self.cells.items() if not condition(*at)}

    def put(self, char):
        at = (self.row, min(self.column, self.columns - 1))
        self.cells[at] = char
        self.column += 1

    def control(self, code):
        if code == b"\r":
            self.column = 0
        elif code == b"\n":
            self.row = min(self.row + 1, self.rows - 1)
        elif code == b"\b":
            self.column -= 1
        elif code == b"\t":
            self.column = (self.column // 8 + 1) * 8

    def escape(self, code, position):
        if code == b"Y":
            self.row, self.column = position[0] - 32, position[1] - 32
        elif code == b"H":
            self.row = self.column = 0
        elif code == b"J":
            self.clear(lambda y, x: y > self.row or (y == self.row and x >= self.column))
        elif code == b"K":
            self.clear(lambda y, x: y == self.row and x >= self.column)
        elif code in b"ABCD":
            self.row += {b"A": -1, b"B": 1}.get(code, 0)
            self.column += {b"C": 1, b"D": -1}.get(code, 0)
        elif code not in b"=>FG":
            raise ValueError(f"unknown sequence: escape {code}")

    def show(self, data):
        """What comes may end within a sequence; the rest of it comes later."""
        self.todo += data
        pattern = re.compile(rb"\x1b(?:Y(?P<at>[ -\xff]{2})|(?P<escape>[^Y]))"
                             rb"|(?P<control>[\0-\x1a\x1c-\x1f])|(?P<char>[ -\xff])", re.DOTALL)
        while match := pattern.match(self.todo):
            self.todo = self.todo[match.end():]
            if match["char"]:
                self.put(match["char"].decode("latin-1"))
            elif match["control"]:
                self.control(match["control"])
            else:
                self.escape(match["escape"] or b"Y", match["at"])

    def read(self, seconds):
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        data = os.read(self.master, 65536)
        self.bytes += data
        if self.kind == "vt52":
            self.show(data)
        return True

    def lines(self):
        return ["".join(self.cells.get((y, x), " ") for x in range(self.columns)).rstrip()
                for y in range(self.rows)]

    def wait_for(self, *texts, without=()):
        end = time.monotonic() + SECONDS
        while True:
            self.read(0.1)
            screen = "\n".join(self.lines())
            if all(text in screen for text in texts) and not any(text in screen for text in without):
                break
            check(time.monotonic() < end, f"no {texts} without {without} in {SECONDS} s: {screen!r}")

    def wait_for_first(self, pid):
        """That its row is the first of the processes."""
        def found():
            self.read(0.1)
            return self.lines()[5].split()[:1] == [pid]
        wait_until(found, SECONDS, f"{pid} comes first: {self.lines()}")

    def press(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        """The exit status; what is still written is read."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.1)
        while self.read(0.1):
            pass
        return self.process.poll()

    def restored(self):
        return termios.tcgetattr(self.slave) == self.settings


def live_view_fits_80x24():
    with Sharer() as one, Sharer(OTHER) as two, Terminal() as terminal:
        terminal.wait_for(f"{one.process.pid} web-1.test", f"{two.process.pid} another-do+", "q quit")
        lines = terminal.lines()
        check(lines[0].startswith("2 domains, 2 processes, "), lines[0])
        check(lines[1].split()[0] == "DOMAIN" and lines[1].endswith("MEMBERS"), lines[1])
        check(lines[4].split()[0] == "PID" and "COMMAND" in lines[4], f"{lines}")
        check(not terminal.restored(), "it reads keys at once")
        one.write(1)
        one.write(2)
        wait_until(lambda: terminal.read(0.1) and re.search(r" [1-9]\d*\.\d +0  python", "\n".join(
            terminal.lines())), SECONDS, "a rate")
        terminal.press("q")
        check(terminal.end() == 0, f"{terminal.process.poll()}")
        check(terminal.restored(), "the terminal is as before")


def keys_sort_filter_and_explain():
    with Sharer() as one, Sharer(OTHER) as two, Terminal("--sort", "copies") as terminal:
        pids = [str(one.process.pid), str(two.process.pid)]
        terminal.wait_for("by copies", *pids)
        for keys, column in (("P", "pid"), (">", "domain"), ("<<", "command"), (">", "pid")):
            terminal.press(keys)
            terminal.wait_for(f"by {column}")
        terminal.wait_for_first(min(pids, key=int))
        terminal.press("D")
        terminal.wait_for("by domain")
        terminal.wait_for_first(pids[1])
        terminal.press("/anothez\bq-")
        terminal.wait_for("Show only what has: anotheq-", without=pids)
        terminal.press("\b\br\r")
        terminal.wait_for("with another: of 2", pids[1], "q quit", without=pids[:1])
        terminal.press(f"/\rd{DOMAIN}\r")
        terminal.wait_for(f"domain {DOMAIN}: of 2", pids[0], without=pids[1:])
        terminal.press("d\x1b")
        terminal.wait_for(*pids, without=[f"domain {DOMAIN}:"])
        terminal.press("h")
        terminal.wait_for("Keys of dksm top", "q  ", without=pids)
        terminal.press("h")
        terminal.wait_for(*pids)
        terminal.press("q")
        check(terminal.end() == 0, "it quits")


def pause_stops_the_numbers():
    with Sharer() as one, Terminal() as terminal:
        terminal.wait_for(str(one.process.pid))
        terminal.press(" ")
        terminal.wait_for("PAUSED")
        with Sharer(OTHER) as two:
            while terminal.read(2):
                pass
            check(str(two.process.pid) not in "\n".join(terminal.lines()), "nothing is read")
            terminal.press(" ")
            terminal.wait_for(str(two.process.pid), without=["PAUSED"])
        terminal.wait_for(str(one.process.pid), without=[str(two.process.pid)])


def any_size_will_do():
    with Sharer() as one, Sharer(OTHER), Terminal() as terminal:
        pid = str(one.process.pid)
        terminal.wait_for(pid)
        for rows, columns, words in ((40, 150, [OTHER, pid]), (10, 40, [pid, "h help"]),
                                     (3, 20, ["2 domains, 2 process"]), (1, 1, []), (24, 80, [pid])):
            terminal.set_size(rows, columns)
            terminal.wait_for(*words)
            time.sleep(0.7)     # another sample
            check(terminal.process.poll() is None, f"it lives on {rows}x{columns}")
        terminal.press("q")
        check(terminal.end() == 0 and terminal.restored(), "it quits")


def screen_of_xterm_comes_back():
    for how in ("q", "\x03", signal.SIGTERM):
        with Terminal(kind="xterm") as terminal:
            wait_until(lambda: terminal.read(0.1) and b"q quit" in terminal.bytes, SECONDS, "the view")
            check(b"\x1b[?1049h" in terminal.bytes, "a screen of its own")
            if isinstance(how, str):
                terminal.press(how)
            else:
                terminal.process.send_signal(how)
            status = terminal.end()
            check(status == (0 if how == "q" else 1), f"{how!r}: {status}")
            check(b"\x1b[?1049l" in terminal.bytes.split(b"q quit")[-1], f"{how!r}: the old screen")
            check(terminal.restored(), f"{how!r}: the terminal is as before")


def ends_with_its_terminal():
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Terminal(before=ignore) as terminal:
        terminal.wait_for("q quit")
        os.close(terminal.slave)
        os.close(terminal.master)
        terminal.master = terminal.slave = None
        check(terminal.process.wait(SECONDS) is not None, "it ends")


def unknown_terminals_are_told():
    with Terminal(kind="no-such-terminal") as terminal:
        check(terminal.end() == 1, f"{terminal.process.poll()}")
        check(b"set TERM, or use --batch" in terminal.bytes, f"{terminal.bytes}")


TESTS = [
    json_says_who_shares_what, tables_say_the_same, rates_count_writes, processes_may_vanish,
    others_see_nothing_of_it, live_view_fits_80x24, keys_sort_filter_and_explain,
    pause_stops_the_numbers, any_size_will_do, screen_of_xterm_comes_back, ends_with_its_terminal,
    unknown_terminals_are_told,
]

if __name__ == "__main__":
    run_tests(TESTS, sys.argv[1:])
