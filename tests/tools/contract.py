#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The calls of the library do and return what their contracts in dksm.h say: run this
in the VM as root; it prints KTAP. What needs a kernel that is too old or too new, or a
fatal signal, is not here."""

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))

from ktap import check, run_tests  # noqa: E402  (found by the line above)

ROOT = os.path.dirname(os.path.dirname(HERE))
DEVICE = "/dev/dksm"
NOBODY = 65534
SELF = -1
CREATE, EXCL, FRESH, UNTRUSTED = 1, 2, 4, 8
PAGE = mmap.PAGESIZE
PAGES = 8
END = (1 << 47) - PAGE      # of the address space
KERNEL_THREAD = 2
# Sizes of struct dksm_domain and struct dksm_process, which begin with a name.
NAME, DOMAIN, PROCESS = 64, 192, 960
NO_PID = (1 << 22) + 1      # more than there can be

library = ctypes.CDLL(f"{ROOT}/build/libdksm.so")


class Report(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("scanned", "merged", "published", "zero", "unmerged", "ns")] \
        + [("skipped", ctypes.c_uint64 * 16)]


class Handle:
    """A handle, in a domain if one is named."""

    def __init__(self, domain=None, flags=CREATE):
        self.pointer = ctypes.c_void_p()
        self.error = library.dksm_open(ctypes.byref(self.pointer))
        if domain:
            returns(0, self.join(domain, flags), f"joining {domain}")

    def join(self, domain, flags=0):
        return library.dksm_domain_join(self.pointer, domain.encode(), flags)

    def _range(self, call, pidfd, address, size):
        self.report = Report(*[77] * 6)
        return call(self.pointer, pidfd, ctypes.c_uint64(address), ctypes.c_uint64(size), ctypes.byref(self.report))

    def merge(self, pidfd=SELF, address=0, size=0):
        return self._range(library.dksm_merge, pidfd, address, size)

    def unmerge(self, pidfd=SELF, address=0, size=0):
        return self._range(library.dksm_unmerge, pidfd, address, size)

    def attach(self, pidfd=SELF, flags=0):
        return library.dksm_attach(self.pointer, pidfd, flags)

    def detach(self, pidfd=SELF):
        return library.dksm_detach(self.pointer, pidfd)

    def close(self):
        library.dksm_close(self.pointer)


class Memory:
    """Some pages that are all the same, and their address."""

    def __init__(self, pages=PAGES):
        self.map = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.map.write(b"same" * (pages * PAGE // 4))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.size = pages * PAGE


def name_of(value):
    return "-" + errno.errorcode.get(-value, "?") if value < 0 else str(value)


def returns(wanted, value, what):
    """@wanted: 0, or an errno."""
    check(value == -wanted, f"{what} returned {name_of(value)}, not {name_of(-wanted)}")


def in_child(function, user=0):
    """A process of its own, since one that is in a domain stays there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            if user:
                os.setresuid(user, user, user)
            function()
            status = 0
        except Exception as why:
            os.write(writing, f"{type(why).__name__}: {why}"[:400].encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as said:
        why = said.read()
    status = os.waitpid(pid, 0)[1]
    check(not status, why or f"status {status}")


@contextlib.contextmanager
def other(function=None):
    """A process that waits to be asked for its end, after it has done something."""
    reading, writing = os.pipe()
    done, tell = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        if function:
            function()
        os.write(tell, b"1")
        os.read(reading, 1)
        os._exit(0)
    os.read(done, 1)
    pidfd = os.pidfd_open(pid)
    try:
        yield pid, pidfd
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
        for descriptor in reading, done, tell, pidfd:
            os.close(descriptor)


def merged_self(domain):
    returns(0, Handle(domain).merge(), "merging oneself")


# ---- handles ------------------------------------------------------------------


def open_says_why_not():
    def without(limit):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        handle = Handle()
        returns(errno.EMFILE, handle.error, "dksm_open() without descriptors")
        check(not handle.pointer.value, "a handle in spite of an error")

    in_child(lambda: without(3))
    in_child(lambda: returns(errno.EACCES, Handle().error, "dksm_open() by nobody"), NOBODY)
    os.rename(DEVICE, DEVICE + "-away")
    try:
        returns(errno.ENODEV, Handle().error, "dksm_open() without a device")
    finally:
        os.rename(DEVICE + "-away", DEVICE)


def descriptors():
    return [int(name) for name in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{name}") == DEVICE]


def exec_and_close_close():
    before = descriptors()
    handle = Handle()
    mine = set(descriptors()) - set(before)
    check(len(mine) == 1 and not os.get_inheritable(*mine), f"descriptors {mine}")
    handle.close()
    check(descriptors() == before, "a descriptor is left")
    library.dksm_close(None)


def fork_shares_the_binding():
    handle, memory = Handle(), Memory()

    def child():
        returns(0, handle.join("fork", CREATE), "joining in the child")
        returns(0, handle.merge(SELF, memory.address, memory.size), "merging in the child")
        handle.close()

    in_child(child)
    returns(errno.EBUSY, handle.join("fork"), "joining what the child has joined")
    in_child(lambda: returns(0, handle.merge(SELF, memory.address, memory.size), "merging when the child has closed"))
    handle.close()


def info_tells_the_version():
    info = (ctypes.c_uint32 * 6)()
    returns(0, library.dksm_info_get(Handle().pointer, ctypes.byref(info)), "dksm_info_get()")
    check(info[0] == 24 and info[2] == 1 and info[3] >= 14, list(info))


# ---- domains ------------------------------------------------------------------


def joining_says_why_not():
    keep = Handle("taken")
    for name in "", ".", ".x", "a/b", "a b", "\xe4", "n" * 64:
        returns(errno.EINVAL, Handle().join(name, CREATE), f"joining {name!r}")
    returns(0, Handle().join("n" * 63, CREATE), "joining a name of 63")
    for flags in EXCL, 16, 1 << 31:
        returns(errno.EINVAL, Handle().join("new", flags), f"joining with the flags {flags}")
    returns(errno.EINVAL, Handle().join("taken", FRESH), "joining for fresh frames")
    returns(errno.EINVAL, Handle().join("taken", UNTRUSTED), "joining one of members that trust each other")
    returns(errno.ENOENT, Handle().join("new"), "joining what is not there")
    returns(errno.ENOENT, Handle().join("new", FRESH), "joining what is not there for fresh frames")
    returns(errno.EEXIST, Handle().join("taken", CREATE | EXCL), "creating what is there")
    returns(errno.EBUSY, keep.join("taken"), "joining twice")
    handle = Handle()
    in_child(lambda: returns(errno.EACCES, handle.join("taken"), "joining somebody else's"), NOBODY)
    returns(0, handle.join("taken"), "joining after a refusal")


# ---- merging ------------------------------------------------------------------


def refused(handle, wanted, how, *args):
    returns(wanted, getattr(handle, how)(*args), f"{how} of {args}")
    check(bytes(handle.report) == bytes(Report()), f"{how} of {args} left a report")


def ranges_are_checked():
    handle, memory = Handle("ranges"), Memory()
    for how in "merge", "unmerge":
        for address, size in ((memory.address + 1, PAGE), (memory.address, PAGE - 1), (memory.address, 0),
                              (END, 2 * PAGE), (1 << 63, PAGE), (memory.address, (1 << 64) - PAGE)):
            refused(handle, errno.EINVAL, how, SELF, address, size)


def processes_are_checked():
    null = os.open("/dev/null", os.O_RDONLY)
    thread = os.pidfd_open(KERNEL_THREAD)
    handle = Handle("processes")
    with other() as (pid, pidfd):
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        for how in "merge", "unmerge":
            for wanted, what in ((errno.EBADF, null), (errno.EBADF, -2), (errno.EBADF, 9999),
                                 (errno.EINVAL, thread), (errno.ESRCH, pidfd)):
                refused(handle, wanted, how, what)
        for call in handle.attach, handle.detach:
            for wanted, what in ((errno.EBADF, null), (errno.EBADF, -2), (errno.EINVAL, thread), (errno.ESRCH, pidfd)):
                returns(wanted, call(what), f"{call.__name__} of {what}")
    os.close(null)
    os.close(thread)


def others_are_not_ours():
    handle, unbound = Handle("rights"), Handle()

    def nobody(pidfd):
        for how in "merge", "unmerge":
            refused(handle, errno.EACCES, how, pidfd)
        for call in handle.attach, handle.detach:
            returns(errno.EACCES, call(pidfd), f"{call.__name__} of root's process")

    with other() as (_, pidfd):
        in_child(lambda: nobody(pidfd), NOBODY)

    def member():
        returns(0, handle.merge(), "merging oneself")
        os.setresuid(NOBODY, NOBODY, NOBODY)
        returns(errno.EACCES, unbound.merge(), "merging in a domain that is not ours any more")
        returns(errno.EACCES, unbound.attach(), "attaching in it")
        returns(errno.EACCES, unbound.detach(), "detaching in it")
        returns(0, unbound.unmerge(), "leaving it")

    in_child(member)


def domains_of_processes_are_checked():
    memory, unbound, elsewhere = Memory(), Handle(), Handle("elsewhere")
    refused(unbound, errno.ENOENT, "merge", SELF)
    returns(errno.ENOENT, unbound.attach(), "attaching to no domain")
    returns(errno.ENOENT, unbound.detach(), "detaching what is not attached")
    returns(0, unbound.unmerge(), "unmerging in no domain")
    with other(lambda: merged_self("home")) as (_, pidfd):
        refused(elsewhere, errno.EXDEV, "merge", pidfd, memory.address, memory.size)
        returns(errno.EXDEV, elsewhere.attach(pidfd), "attaching a process of another domain")
        returns(0, unbound.merge(pidfd, memory.address, memory.size), "merging in the domain of the process")
        check(unbound.report.scanned == PAGES, "pages were looked at")
        returns(errno.ENOENT, elsewhere.detach(pidfd), "detaching what is not attached")
        returns(errno.EINVAL, unbound.attach(pidfd, 8), "attaching with bad flags")
        returns(0, unbound.attach(pidfd), "attaching in the domain of the process")
        returns(0, elsewhere.unmerge(pidfd, memory.address, memory.size), "unmerging with another domain's handle")
        check(elsewhere.report.unmerged == PAGES, f"{elsewhere.report.unmerged} pages unmerged")
        returns(0, elsewhere.detach(pidfd), "detaching with another domain's handle")


def holes_do_not_stop_it():
    memory = Memory(3)

    def child():
        handle = Handle("holes")
        libc = ctypes.CDLL(None)
        returns(0, libc.munmap(ctypes.c_void_p(memory.address + PAGE), ctypes.c_size_t(PAGE)), "munmap()")
        returns(errno.ENOMEM, handle.merge(SELF, memory.address, memory.size), "merging around a hole")
        report = handle.report
        check(report.scanned == 2 and report.published + report.merged == 2, "what is mapped was merged")
        returns(errno.ENOMEM, handle.unmerge(SELF, memory.address, memory.size), "unmerging around a hole")
        check(handle.report.unmerged == 2, "what is mapped was unmerged")
        returns(0, library.dksm_merge(handle.pointer, SELF, ctypes.c_uint64(0), ctypes.c_uint64(0), None),
                "merging all, without a report")

    in_child(child)


# ---- statistics ---------------------------------------------------------------


def process_stat(pid):
    numbers = ctypes.create_string_buffer(b"\xff" * PROCESS, PROCESS)
    return library.dksm_stat_process(pid, numbers), numbers.raw


def processes_have_numbers():
    for pid in -1, NO_PID:
        error, numbers = process_stat(pid)
        returns(errno.ESRCH, error, f"dksm_stat_process({pid})")
        check(not any(numbers), "numbers in spite of an error")
    for pid in 0, 1, KERNEL_THREAD:
        error, numbers = process_stat(pid)
        returns(0, error, f"dksm_stat_process({pid})")
        check(not any(numbers), f"process {pid} is in no domain")
    in_child(lambda: returns(errno.EACCES, process_stat(1)[0], "dksm_stat_process(1) by nobody"), NOBODY)
    with other(lambda: merged_self("numbers")) as (pid, _):
        error, numbers = process_stat(pid)
        returns(0, error, "dksm_stat_process()")
        check(numbers.startswith(b"numbers\0") and any(numbers[NAME:NAME + 8]), numbers[:NAME + 8])


def domain_names():
    domains, nr = ctypes.c_void_p(), ctypes.c_size_t(77)
    returns(0, library.dksm_stat_domains(ctypes.byref(domains), ctypes.byref(nr)), "dksm_stat_domains()")
    data = ctypes.string_at(domains.value, nr.value * DOMAIN) if domains.value else b""
    library.dksm_stat_domains_free(domains)
    return [data[at:at + NAME].rstrip(b"\0").decode() for at in range(0, len(data), DOMAIN)]


def domains_have_owners():
    keep = [Handle("zz"), Handle("aa")]
    names = domain_names()
    check(names == sorted(names) and {"aa", "zz"} <= set(names), names)
    in_child(lambda: check(not domain_names(), "nobody sees them"), NOBODY)
    for handle in keep:
        handle.close()
    check("aa" not in domain_names(), "it is gone with its last handle")


if __name__ == "__main__":
    run_tests((open_says_why_not, exec_and_close_close, fork_shares_the_binding, info_tells_the_version,
               joining_says_why_not, ranges_are_checked, processes_are_checked, others_are_not_ours,
               domains_of_processes_are_checked, holes_do_not_stop_it, processes_have_numbers, domains_have_owners))
