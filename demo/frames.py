# SPDX-License-Identifier: MIT
"""Which page frames a process maps, from the kernel's own page tables.

Counters can be wrong or count something else; /proc/PID/pagemap says for each
page of memory which frame it has now. What is counted here needs root.
"""

import array
import collections
import itertools
import os

PAGE = 4096
PRESENT = 1 << 63
FRAME_MASK = (1 << 55) - 1
KPF_THP = 1 << 22
KPF_ZERO_PAGE = 1 << 24
ZEROES = bytes(PAGE)


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
    """(frame, (pid, address)) of each page that has a frame."""
    return [(entry & FRAME_MASK, (pid, start + index * PAGE))
            for index, entry in enumerate(entries(pid, start, size)) if entry & PRESENT]


def flags_of(frames):
    """Frame -> flags of /proc/kpageflags."""
    lowest = min(frames, default=0)
    words = read_words("/proc/kpageflags", lowest, max(frames, default=-1) - lowest + 1)
    return {frame: words[frame - lowest] for frame in frames}


def contents_of(places):
    """(frame, hash of its contents or None for zeroes), of frame -> (pid, address)."""
    by_process = sorted((place, frame) for frame, place in places.items())
    for pid, group in itertools.groupby(by_process, lambda each: each[0][0]):
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
            for (_, address), frame in group:
                page = os.pread(file.fileno(), PAGE, address)
                yield frame, None if page == ZEROES else hash(page)


def limit(places, uses):
    """What perfect merging would come to. Each frame is read once; no page is faulted in."""
    contents = dict(contents_of(places))
    distinct = len(set(contents.values()) - {None})
    zero = sum(uses[frame] for frame, content in contents.items() if content is None)
    return {"distinct": distinct, "possible": uses.total() - zero - distinct}


def count(ranges):
    """Count the memory of several ranges, each (pid, start, size)."""
    placed = [each for one in ranges for each in populated(*one)]
    mapped = [frame for frame, _ in placed]
    flags = flags_of(set(mapped))
    ideal = limit(dict(placed), collections.Counter(mapped))
    zero = {frame for frame, flag in flags.items() if flag & KPF_ZERO_PAGE}
    frames = len(flags) - len(zero)
    zero_pages = sum(frame in zero for frame in mapped) if zero else 0
    return {
        "pages": len(mapped),
        "frames": frames,
        "bytes": frames * PAGE,
        "pages_sharing": len(mapped) - zero_pages - frames,
        "pages_zero": zero_pages,
        **ideal,
        "lost": frames - ideal["distinct"],
        "frames_huge": sum(1 for frame, flag in flags.items()
                           if flag & KPF_THP and frame not in zero),
    }
