# SPDX-License-Identifier: MIT
"""The library as make installs it, in a folder of its own, and programs compiled with
that: for the tests of it on the host and in the VM."""

import os
import subprocess

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXAMPLES = ("merge", "stat")
# Languages that a user may compile with, and how strict we are for them.
C = ("gcc", "-std=gnu11", "-x", "c")
CXX = ("g++", "-std=c++17", "-x", "c++")


def run(*command, **how):
    """What it said; that it fails is an error which tells that."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **how)
    if result.returncode:
        raise ValueError(f"{' '.join(command)}: {result.stdout.strip()[-400:]!r}")
    return result.stdout


class Installed:
    """make install below a folder, as a package build does it."""

    def __init__(self, root):
        self.root = root
        self.make("install")

    def make(self, target):
        run("make", "-s", "-C", REPOSITORY, target, "PREFIX=/usr", f"DESTDIR={self.root}")

    def flags(self, *what):
        return run("pkg-config", *what, "libdksm", env={
            **os.environ, "PKG_CONFIG_SYSROOT_DIR": self.root,
            "PKG_CONFIG_LIBDIR": f"{self.root}/usr/lib/pkgconfig"}).split()

    def compile(self, source, program, language=C, static=False):
        how = ("--static",) if static else ()
        run(*language, "-Wall", "-Wextra", "-Werror", *self.flags("--cflags"), source, "-x", "none",
            *(("-static",) if static else ()), "-o", program, *self.flags(*how, "--libs"))

    def run(self, *command, **how):
        """With the shared library, if the program wants it."""
        return run(*command, env={**os.environ, "LD_LIBRARY_PATH": f"{self.root}/usr/lib"}, **how)

    def files(self):
        return sorted(os.path.relpath(os.path.join(where, name), self.root)
                      for where, _, files in os.walk(self.root) for name in files)
