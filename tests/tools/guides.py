#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The guides are true: run this in the VM; it prints KTAP.

Blocks of commands below "<!-- run -->" are run, page after page, by one shell; each
finding of dksm doctor and each message of the command has its entry in the page on
troubleshooting, and no entry is left over; links lead somewhere.
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))

from ktap import check, run_tests  # noqa: E402  (found by the line above)

ROOT = os.path.dirname(os.path.dirname(HERE))
GUIDE = f"{ROOT}/docs/guide"
# Each page that shows what was set up before comes after the page that does.
PAGES = ("quick-start", "numbers", "vmms", "tenants")
BLOCK = re.compile(r"<!-- run -->\n```sh\n(.*?)```\n", re.S)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def page(name):
    return read(f"{GUIDE}/{name}.md")


def commands():
    """A script that says where it is before each block, and leaves nothing running."""
    script = ["set -eu", "trap 'kill $(jobs -p) 2>&- || :' EXIT"]
    for name in PAGES:
        for block in BLOCK.findall(page(name)):
            script += [f"echo '# {name}'", "set -x", block, "{ set +x; } 2>&-"]
    return "\n".join(script)


def commands_run():
    """Ends with the first command that fails, which is then the last one shown."""
    try:
        done = subprocess.run(["bash", "-c", commands()], cwd=ROOT, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as late:
        raise ValueError(f"still running: {(late.stdout or b'')[-300:]!r}") from late
    print(re.sub("(?m)^", "# ", done.stdout), flush=True)
    check(done.returncode == 0, f"status {done.returncode} after {done.stdout[-300:]!r}")


def every_block_is_run():
    marked = {name[:-3] for name in os.listdir(GUIDE)
              if name != "README.md" and "<!-- run -->" in read(f"{GUIDE}/{name}")}
    check(marked == set(PAGES), f"marked are {sorted(marked)}")
    check(all(page(name).count("<!-- run -->") == len(BLOCK.findall(page(name)))
              for name in marked), "a mark without a block of sh below it")


def same(code, entries):
    check(code, "nothing found in the source")
    check(code == entries, f"without entry: {sorted(code - entries)}; stale: {sorted(entries - code)}")


def findings_have_entries():
    same(set(re.findall(r'SEVERITY_\w+,\s+"(\w+)"', read(f"{ROOT}/cli/doctor.c"))),
         set(re.findall(r"(?m)^### (\w+)$", page("troubleshooting"))))


def c_strings(text):
    """What the compiler makes of neighbouring strings."""
    return re.sub(r'"\s*"', "", text)


def cause(message):
    """What stands before the colon; '...' where there are names."""
    return re.sub("%[sd]", "...", message.split(":")[0])


def failure_causes():
    text = c_strings("".join(read(f"{ROOT}/cli/{name}.c") for name in ("failure", "cmd_run", "cli")))
    words = re.findall(r'STEP_\w+, \w+, "([^"]+)"', text)
    words += re.findall(r'#define NO_\w+ (?:\\\s+)?"([^"]+)"', text)
    words += re.findall(r'"(?:dksm[ \w]*: )?((?:cannot|in (?:another )?domain) [^"]+)"', text)
    return {cause(each) for each in words}


def messages_have_entries():
    entries = page("troubleshooting").split("## What the command says")[1]
    first_cells = "".join(re.findall(r"(?m)^\| (`.*?) \|", entries))
    same(failure_causes(), set(re.findall("`([^`]*)`", first_cells)))


def fails(command, status, words):
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    check(done.returncode == status and words in done.stderr,
          f"{command}: status {done.returncode}, {done.stderr!r}")
    check(re.fullmatch(r"dksm[^\n]*: [^\n]+: [^\n]+\n", done.stderr),
          f"{command}: not one line of a cause and what to do: {done.stderr!r}")


def failures_say_what_to_do():
    """Whatever can be brought about here."""
    nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    for command, status, words in (
            (f"{nobody} dksm run true", 1, "no access to /dev/dksm"),
            (f"{nobody} dksm merge 1", 1, "no access to /dev/dksm"),
            (f"{nobody} dksm stat 1", 1, "may not read"),
            (f"chmod 666 /dev/dksm; {nobody} dksm attach 1; status=$?; "
             "chmod 600 /dev/dksm; exit $status", 1, "may not attach"),
            ("dksm stat 2147483647", 1, "no such process"),
            ("dksm unmerge 2147483647", 1, "no such process"),
            ("dksm merge 2", 1, "a kernel thread"),
            ("dksm attach 2", 1, "a kernel thread"),
            ("dksm merge $$ 1000+4K", 1, "not mapped"),
            ("dksm detach $$", 1, "not attached"),
            ("dksm run --domain a dksm run --domain b true", 1, "in domain 'a'"),
            ("dksm run --domain a dksm merge --domain b $$", 1, "in domain 'a'"),
            ("dksm attach --domain a $$; dksm run --fresh-frames --domain a true", 1,
             "without fresh frames"),
            ("dksm run --report /nonexistent/file true", 1, "choose another --report"),
            ("dksm run /nonexistent", 127, "name a program"),
            ("dksm run /etc/passwd", 126, "name a program"),
            ("dksm --help >/dev/full", 1, "send it elsewhere")):
        fails(command, status, words)


def anchors(text):
    """As they are made of headings."""
    titles = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def links_lead_somewhere():
    for name in sorted(os.listdir(GUIDE)):
        for target, anchor in LINK.findall(read(f"{GUIDE}/{name}")):
            path = os.path.normpath(f"{GUIDE}/{target or name}")
            check(os.path.exists(path), f"{name}: {target}")
            check(not anchor or anchor in anchors(read(path)), f"{name}: {target}#{anchor}")
    check("(docs/guide/README.md)" in read(f"{ROOT}/README.md"), "README.md does not lead here")
    index = page("README")
    check(all(name in index for name in os.listdir(GUIDE) if name != "README.md"),
          "the index lacks a page")


TESTS = (findings_have_entries, messages_have_entries, links_lead_somewhere, every_block_is_run,
         failures_say_what_to_do, commands_run)

if __name__ == "__main__":
    run_tests(TESTS, sys.argv[1:])
