# SPDX-License-Identifier: MIT
"""Which page frames a process maps, from the kernel's own page tables.

Counters can be wrong or count something else; /proc/PID/pagemap says for each
page of memory which frame it has now. What is counted here needs root.
"""

import array

PAGE = 4096
PRESENT = 1 << 63
FRAME_MASK = (1 << 55) - 1
KPF_THP = 1 << 22
KPF_ZERO_PAGE = 1 << 24


def read_words(path, first, count):
    """Read count 64-bit words of a file of words, beginning with word first."""
    words = array.array("Q")
    with open(path, "rb", buffering=0) as file:
        file.seek(first * 8)
        while len(words) < count:
            data = file.read(min(count - len(words), 65536) * 8)
            if not data:
                break
            words.frombytes(data)
    return words


def entries(pid, start, size):
    return read_words(f"/proc/{pid}/pagemap", start // PAGE, size // PAGE)


def populated(pid, start, size):
    """The frame of each page that has one."""
    return [entry & FRAME_MASK for entry in entries(pid, start, size) if entry & PRESENT]


def flags_of(frames):
    """Frame -> flags of /proc/kpageflags."""
    lowest = min(frames, default=0)
    words = read_words("/proc/kpageflags", lowest, max(frames, default=-1) - lowest + 1)
    return {frame: words[frame - lowest] for frame in frames}


def count(ranges):
    """Count the memory of several ranges, each (pid, start, size)."""
    mapped = [frame for each in ranges for frame in populated(*each)]
    flags = flags_of(set(mapped))
    zero = {frame for frame, flag in flags.items() if flag & KPF_ZERO_PAGE}
    frames = len(flags) - len(zero)
    zero_pages = sum(frame in zero for frame in mapped) if zero else 0
    return {
        "pages": len(mapped),
        "frames": frames,
        "bytes": frames * PAGE,
        "pages_sharing": len(mapped) - zero_pages - frames,
        "pages_zero": zero_pages,
        "frames_huge": sum(1 for frame, flag in flags.items()
                           if flag & KPF_THP and frame not in zero),
    }
