#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The Debian packages, in the VM: installed, used and purged in a copy of this
machine's root, they work and leave nothing behind. 'make deb' builds them before.

The copy is an overlay: its upper directory has exactly what has changed, so that
nothing else needs to be looked at. udev runs in it; it applies the rule."""

import glob
import os
import re
import shutil
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from ktap import check, run_tests, wait_until

REPOSITORY = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
PACKAGES = ("dksm", "libdksm0", "libdksm-dev")
PLACE = "/tmp/deb"
UPPER, WORK, ROOT = (f"{PLACE}/{name}" for name in ("upper", "work", "root"))
INDEX_MANUALS = "/var/lib/man-db/auto-update"
UNITS = "/usr/share/doc/dksm/examples/systemd"

# What dpkg, ldconfig and useradd's relatives keep for themselves: databases, their
# backups, locks and logs. That dpkg knows none of our packages any more is checked.
KEPT = re.compile(r"var/lib/dpkg/([a-z-]+|triggers/[A-Za-z]+|updates/\d+)"
                  r"|var/log/(dpkg|alternatives)\.log|var/cache/ldconfig/aux-cache"
                  r"|etc/(group|gshadow)-|etc/\.pwd\.lock")

PROGRAM = """
#include <dksm.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	struct dksm *dksm;
	int err = dksm_open(&dksm);

	printf("%s %s\\n", DKSM_VERSION, strerror(-err));
	dksm_close(dksm);
	return err != 0;
}
"""


def mount(*arguments):
    subprocess.run(("mount", *arguments), check=True)


def make_root():
    for directory in (UPPER, WORK, ROOT):
        os.makedirs(directory)
    mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={UPPER},workdir={WORK}", "overlay", ROOT)
    for directory in ("proc", "sys", "dev", "run"):
        mount("--bind", f"/{directory}", f"{ROOT}/{directory}")
    mount("-t", "tmpfs", "tmpfs", f"{ROOT}/tmp")
    if os.path.exists(INDEX_MANUALS):  # minutes, when the machine is emulated
        os.remove(f"{ROOT}{INDEX_MANUALS}")


def inside(*command):
    """Run it in the copy, which udevadm would rather not; its output."""
    result = subprocess.run(("chroot", ROOT, *command), stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                            env={**os.environ, "SYSTEMD_IGNORE_CHROOT": "1", "DEBIAN_FRONTEND": "noninteractive",
                                 "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    check(result.returncode == 0, f"{' '.join(command)}: {result.stdout.strip()[-300:]!r}")
    return result.stdout


def as_member(*command):
    """As somebody whose one right is to be in the group."""
    return inside("setpriv", "--reuid=65534", "--regid=65534", f"--groups={group()}", "--inh-caps=-all", *command)


def device():
    """Group and mode of /dev/dksm."""
    now = os.stat("/dev/dksm")
    return now.st_gid, stat.S_IMODE(now.st_mode)


def group():
    """Its number in the copy, or None."""
    with open(f"{ROOT}/etc/group", encoding="utf-8") as groups:
        numbers = [int(line.split(":")[2]) for line in groups if line.startswith("dksm:")]
    return numbers[0] if numbers else None


def version():
    with open(f"{REPOSITORY}/include/dksm.h", encoding="utf-8") as header:
        return re.search(r'DKSM_VERSION\s+"(.*)"', header.read()).group(1)


def install():
    make_root()
    check(device() == (0, 0o600), f"/dev/dksm is {device()} before")
    check(group() is None, "there is a group dksm before")
    files = [f"{REPOSITORY}/build/deb/{name}_{version()}_amd64.deb" for name in PACKAGES]
    check(all(map(os.path.exists, files)), f"build/deb has no packages of {version()}: run 'make deb'")
    inside("/lib/systemd/systemd-udevd", "--daemon")
    for file in files:      # its /tmp is empty, where this checkout may be
        shutil.copy(file, f"{ROOT}/tmp")
    inside("dpkg", "--path-include=/usr/share/*", "-i", *(f"/tmp/{os.path.basename(file)}" for file in files))


def the_command_works():
    check(inside("dksm", "--version") == f"dksm {version()}\n", "another version")
    check('"total"' in inside("dksm", "stat", "--json"), "dksm stat prints no total")
    for page in ("dksm.1", "dksm.4"):
        check(inside("man", "-w", page).strip().endswith(f"{page}.gz"), f"no man page {page}")


def the_group_may_use_the_device():
    wait_until(lambda: device() == (group(), 0o660), 10, f"/dev/dksm of group {group()}, mode 0660")


def programs_compile_with_the_library():
    with open(f"{ROOT}/tmp/program.c", "w", encoding="utf-8") as source:
        source.write(PROGRAM)
    flags = inside("pkg-config", "--cflags", "--libs", "libdksm").split()
    inside("gcc", "-Wall", "-Werror", "/tmp/program.c", "-o", "/tmp/program", *flags)
    said = as_member("/tmp/program")
    check(said == f"{version()} Success\n", f"the program said {said!r}")


def the_example_for_systemd_is_right():
    """Its syntax; and that the group is all that its command needs."""
    said = inside("env", f"SYSTEMD_UNIT_PATH={UNITS}:", "systemd-analyze", "--man=no", "verify", "vm@test.service")
    check("vm@" not in said, said.strip())
    said = as_member("dksm", "run", "--", "cat", "/proc/self/dksm_stat")
    check("user-65534" in said, f"the attached process said {said!r}")


def left_behind():
    """Paths in the upper directory that differ from what is below."""
    for where, directories, files in os.walk(UPPER):
        for name in directories + files:
            path = os.path.join(where, name)
            inner = os.path.relpath(path, UPPER)
            if f"/{inner}" != INDEX_MANUALS and not KEPT.fullmatch(inner) and not same(path, f"/{inner}"):
                yield inner


def same(new, old):
    """A file that was copied up may still be what it was."""
    if not os.path.lexists(old):
        return False
    one, other = os.lstat(new), os.lstat(old)
    if (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid):
        return False
    if stat.S_ISLNK(one.st_mode):
        return os.readlink(new) == os.readlink(old)
    if not stat.S_ISREG(one.st_mode):
        return stat.S_ISDIR(one.st_mode)
    with open(new, "rb") as ours, open(old, "rb") as theirs:
        return ours.read() == theirs.read()


def purging_leaves_nothing():
    inside("dpkg", "-P", *PACKAGES)
    check(device() == (0, 0o600), f"/dev/dksm is {device()}")
    check(group() is None, "the group dksm stayed")
    known = glob.glob(f"{ROOT}/var/lib/dpkg/info/*dksm*")
    with open(f"{ROOT}/var/lib/dpkg/status", encoding="utf-8") as status:
        known += re.findall(r"^Package: .*dksm.*$", status.read(), re.MULTILINE)
    check(not known, f"dpkg still knows {known}")
    left = sorted(left_behind())
    check(not left, f"left behind: {' '.join(left)}")


if __name__ == "__main__":
    run_tests((install, the_command_works, the_group_may_use_the_device, programs_compile_with_the_library,
               the_example_for_systemd_is_right, purging_leaves_nothing))
