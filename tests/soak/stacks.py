# SPDX-License-Identifier: MIT
"""The deepest kernel stacks that were seen, by what the kernel was doing: from the tracer
of the kernel flavour 'stack'."""

import re

TRACING = "/sys/kernel/tracing"
SWITCH = "/proc/sys/kernel/stack_tracer_enabled"
# What a stack belongs to: the first of these that has a function on it.
PATHS = (("a VM is loaded", "dksm_vm_load"), ("a VM is idle", "dksm_vm_idle"),
         ("a call merges or unmerges", r"dksm_(merge|unmerge)"), ("a fault or write copies", "dksm_"),
         ("KVM_RUN without DKSM", "kvm_vcpu_ioctl"), ("anything else", ""))
RECLAIM = re.compile(r"shrink_folio_list|swap_writepage|zram_submit_bio")
ENTRY = re.compile(r"^\s*\d+\)\s+(\d+)\s+(\d+)\s+(\S+)", re.M)


class Stacks:
    """sample() often: the tracer keeps one stack, the deepest since it was asked last."""

    def __init__(self):
        self.deepest = {}
        with open(SWITCH, "w", encoding="ascii") as file:
            file.write("1")

    def sample(self):
        with open(f"{TRACING}/stack_trace", encoding="ascii") as file:
            frames = [(int(depth), int(size), name) for depth, size, name in ENTRY.findall(file.read())]
        with open(f"{TRACING}/stack_max_size", "w", encoding="ascii") as file:
            file.write("0")
        if not frames:
            return
        for path, function in PATHS:
            ours = [depth for depth, _, name in frames if re.match(function or ".", name)]
            if ours:
                break
        if any(RECLAIM.match(name) for _, _, name in frames):
            path += ", reclaiming"
        self._keep(path, frames, ours[-1] if function else 0)

    def _keep(self, path, frames, since):
        """since: how much of it was used up to and with the first function of the path."""
        total = frames[0][0]
        if total > self.deepest.get(path, {"bytes": 0})["bytes"]:
            self.deepest[path] = {
                "bytes": total, "since": since,
                "stack": [f"{size} {name}" for _, size, name in frames]}
