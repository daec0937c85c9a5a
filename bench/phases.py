#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Where the cost of merging goes: run this in the VM, under --icount.

64 processes with 1000 pages each are merged while the kernel's clock samples what it
does; each sample below the merge (or in ksmd) counts for one phase, by its innermost
function. Told are parts of the whole, in percent: the samples themselves cost something.
"""

import collections
import json
import re
import subprocess
import sys

PROCESSES, PAGES = 64, 1000
PERIOD = 20000          # nanoseconds, so instructions, between samples
DATA = "/tmp/perf.data"

# In this order; the first that matches the innermost function, or one that called it.
PHASES = (
    ("compare", re.compile(r"memcmp|pages_identical|pages_equal")),
    ("hash", re.compile(r"xxh|calc_checksum")),
    ("free", re.compile(r"free_unref|free_pages|free_one|free_pcppages|uncharge|folios_put|__folio_put")),
    ("page tables", re.compile(
        r"pte|tlb|flush|rmap|mmu_notifier|pmd|folio_walk|vm_normal_page|pgtable|ptlock")),
)
REST = "bookkeeping"
INSIDE = {"dksm": re.compile(r"^dksm_ioctl|^dksm_merge$|^dksm_range_merge"),
          "ksm": re.compile(r"^ksm_scan_thread|^ksm_do_scan|^ksm_madvise|^madvise_vma_behavior")}


def stacks():
    """Innermost first, without offsets."""
    text = subprocess.run(["perf", "script", "-i", DATA, "-F", "ip,sym"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=True).stdout
    for block in text.split("\n\n"):
        stack = [line.split(None, 1)[1] for line in block.splitlines() if len(line.split()) > 1]
        if stack:
            yield stack


def phase(stack):
    for name, pattern in PHASES:
        if pattern.search(stack[0]):
            return name
    return REST


def main():
    policy, seed = sys.argv[1], sys.argv[2]
    subprocess.run(["perf", "record", "-q", "-a", "-g", "-e", "cpu-clock:k", "-c", str(PERIOD),
                    "-o", DATA, "build/bench/cost", policy, str(PROCESSES), str(PAGES), seed],
                   stdout=subprocess.DEVNULL, check=True)
    count, leaves = collections.Counter(), collections.Counter()
    for stack in stacks():
        if any(INSIDE[policy].search(name) for name in stack):
            count[phase(stack)] += 1
            leaves[stack[0]] += 1
    samples = sum(count.values())
    print(json.dumps({
        "policy": policy, "processes": PROCESSES, "pages": PAGES, "samples": samples,
        "phases": {name: round(100 * number / samples, 2) for name, number in count.most_common()},
        "functions": {name: round(100 * number / samples, 2)
                      for name, number in leaves.most_common(25)}}))


if __name__ == "__main__":
    main()
