#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Draw report.html beside what bench/run measured: report.py RECORDS.

Every number is the median of the repetitions, with the lowest and the highest beside
it. The plots are gnuplot's, as SVG inside the page and as PNG beside it.
"""

import html
import json
import os
import statistics
import subprocess
import sys

COLORS = {"dksm": "#1b7837", "dksm-at-start": "#7fbf7b", "dksm-no-learn": "#00441b",
          "ksm": "#b2182b", "ksm-tuned": "#ef8a62", "ksm-advisor": "#762a83",
          "floor": "#4d4d4d", "none": "#878787"}
TITLES = {"dksm": "DKSM", "dksm-at-start": "DKSM, start only", "dksm-no-learn": "DKSM, no learning",
          "ksm": "KSM", "ksm-tuned": "KSM tuned", "ksm-advisor": "KSM advisor",
          "floor": "floor, with memcmp()", "none": "nothing"}
MIB = 1 << 20
STYLE = """\
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right }
th { border-bottom: 1px solid } td:first-child, th:first-child { text-align: left }
small { color: #666 } svg { max-width: 100%; height: auto }"""


class Results:
    """Records of one kernel."""

    def __init__(self, path):
        self.directory = os.path.dirname(path)
        with open(path, encoding="utf-8") as file:
            self.records = [json.loads(line) for line in file]

    def of(self, bench, policy):
        return [record["result"] for record in self.records
                if record["bench"] == bench and record["policy"] == policy]

    def spread(self, bench, policy, value, **wanted):
        """(median, lowest, highest) of value(result), or None."""
        values = [value(result) for result in self.of(bench, policy)
                  if all(result.get(key) == each for key, each in wanted.items())]
        values = [each for each in values if each is not None]
        return (statistics.median(values), min(values), max(values)) if values else None

    def sizes(self, policy, varied, **fixed):
        return sorted({result[varied] for result in self.of("cost", policy)
                       if all(result[key] == each for key, each in fixed.items())})


# ---- plots --------------------------------------------------------------------

def draw(path, curves, script):
    """A picture, SVG or PNG by its name."""
    terminal = ("svg size 800,440 enhanced background '#ffffff'" if path.endswith(".svg")
                else "pngcairo size 1000,550")
    subprocess.run(["gnuplot"], text=True, check=True, input=(
        f"set terminal {terminal}\nset output '{path}'\n{script}plot {curves}\n"))


def gnuplot(results, name, curves, script):
    """Draw NAME.svg and NAME.png; the SVG as text."""
    path = os.path.join(results.directory, name)
    for extension in ("svg", "png"):
        draw(f"{path}.{extension}", curves, script)
    with open(f"{path}.svg", encoding="utf-8") as file:
        text = file.read()
    return text[text.index("<svg"):]


def draw_cost(results, name, title, across, series):
    """A plot of series {policy: [(x, (median, low, high))]}."""
    series = {policy: points for policy, points in series.items() if points}
    if not series:
        return ""
    blocks = "".join(f"${policy} << END\n" +
                     "".join(f"{x} {y[0]} {y[1]} {y[2]}\n" for x, y in points) + "END\n"
                     for policy, points in series.items())
    curves = ", ".join(f"${policy} using 1:2:3:4 with yerrorlines lw 2 pt 7 ps 0.6 "
                       f"lc rgb '{COLORS[policy]}' title '{TITLES[policy]}'" for policy in series)
    return gnuplot(results, name, curves, f"""{blocks}
set title '{title}'
set logscale xy
set xlabel '{across}'
set ylabel 'instructions per page'
set grid
set key left top
set yrange [100:*]
""")


def per_page(result):
    return result["ns_per_page"]


def cost_series(results, varied, **fixed):
    series = {policy: [(size, results.spread("cost", policy, per_page, **{varied: size}, **fixed))
                       for size in results.sizes(policy, varied, **fixed)]
              for policy in ("ksm", "dksm")}
    floor = results.spread("cost", "floor", per_page)
    across = [x for points in series.values() for x, _ in points]
    series["floor"] = [(x, floor) for x in sorted(set(across))] if floor else []
    return series


# ---- tables -------------------------------------------------------------------

def cell(spread, digits=0):
    if not spread:
        return "-"
    middle, low, high = (f"{value:,.{digits}f}" for value in spread)
    return middle if low == high else f"{middle} <small>{low} to {high}</small>"


def table(head, rows):
    return ("<table><tr>" + "".join(f"<th>{each}</th>" for each in head) + "</tr>\n" +
            "".join("<tr>" + "".join(f"<td>{each}</td>" for each in row) + "</tr>\n"
                    for row in rows) + "</table>\n")


def cost_table(results):
    rows = []
    keys = sorted({(r["processes"], r["pages"]) for policy in ("dksm", "ksm")
                   for r in results.of("cost", policy)})
    for processes, pages in keys:
        size = {"processes": processes, "pages": pages}
        dksm, ksm = (results.spread("cost", policy, per_page, **size) for policy in ("dksm", "ksm"))
        rows.append([f"{processes:,} x {pages:,}", cell(dksm), cell(ksm),
                     f"{ksm[0] / dksm[0]:.1f}" if dksm and ksm else "-",
                     cell(results.spread("cost", "dksm", lambda r: r["first_ns_per_page"], **size)),
                     cell(results.spread("cost", "dksm", lambda r: r["last_ns_per_page"], **size)),
                     cell(results.spread("cost", "dksm",
                                         lambda r: r["metadata_bytes_per_merged_mapping"], **size),
                          2)])
    return table(["processes x pages", "DKSM", "KSM", "KSM / DKSM", "DKSM: first process",
                  "last process", "metadata, bytes a mapping"], rows)


def floor_table(results):
    return table(["", "instructions a page"], [
        [title, cell(results.spread("cost", "floor", lambda r, key=key: r[key]))]
        for title, key in (("compare 4 KiB", "compare_ns_per_page"),
                           ("move a page table entry (mremap)", "move_ns_per_page"),
                           ("both", "ns_per_page"))])


def phases_table(results):
    policies = [policy for policy in ("dksm", "ksm") if results.of("phases", policy)]
    names = sorted({name for policy in policies for r in results.of("phases", policy)
                    for name in r["phases"]})
    rows = [[name] + [cell(results.spread("phases", policy,
                                          lambda r, name=name: r["phases"].get(name, 0)), 1)
                      for policy in policies] for name in names]
    return table(["phase"] + [TITLES[policy] for policy in policies], rows)


# ---- memory over time -----------------------------------------------------------

def used(sample):
    return sample[3] * 4096 / MIB


def gain_seconds(result, part):
    """Seconds from the last boot until so much of what is saved in the end is saved."""
    saved = [sample[2] - sample[3] for sample in result["samples"]]
    all_up = [i for i, sample in enumerate(result["samples"])
              if sample[0] >= result["booted_seconds"]]
    at = next(i for i in all_up if saved[i] >= part * saved[-1])
    return max(0, result["samples"][at][0] - result["booted_seconds"])


def memory_table(results, bench):
    rows = []
    for policy in TITLES:
        def middle(value, digits=0, policy=policy):
            return cell(results.spread(bench, policy, value), digits)
        if results.of(bench, policy):
            rows.append([
                TITLES[policy], middle(lambda r: used(r["samples"][-1])),
                "-" if policy == "none" else middle(lambda r: gain_seconds(r, 0.95), 1),
                "-" if policy == "none" else middle(lambda r: gain_seconds(r, 0.998), 1),
                middle(lambda r: r["merge_cpu_seconds"], 2), middle(lambda r: r["copies"])])
    return table(["", "MiB in the end", "95 % saved, s", "99.8 %, s", "merging, CPU s", "copies"],
                 rows)


def draw_memory(results, bench):
    """The first run of each policy."""
    runs = {policy: results.of(bench, policy)[0] for policy in TITLES
            if results.of(bench, policy)}
    blocks = "".join(f"${policy.replace('-', '_')} << END\n" +
                     "".join(f"{sample[0]} {used(sample):.1f}\n" for sample in run["samples"]) +
                     "END\n" for policy, run in runs.items())
    curves = ", ".join(f"${policy.replace('-', '_')} using 1:2 with lines lw 2 "
                       f"lc rgb '{COLORS[policy]}' title '{TITLES[policy]}'" for policy in runs)
    first = next(iter(runs.values()))
    vms = first["samples"][-1][1]
    return gnuplot(results, bench, curves, f"""{blocks}
set title 'Memory of {vms} VMs, started one after another'
set xlabel 'seconds'
set ylabel 'MiB of frames for guest RAM'
set grid
set key left top
set yrange [0:*]
""")


SETS = {"memory-linux": "Linux", "memory-default": "unikernels, the linker's layout",
        "memory-aligned": "unikernels, libraries aligned", "memory-user": "IMAGES"}


def memory_section(results):
    parts = []
    for bench, title in SETS.items():
        runs = [r["result"] for r in results.records if r["bench"] == bench]
        if runs:
            parts.append(f"""<h3>{title}</h3>
<p>{runs[0]["count"]} VMs each of {html.escape(", ".join(runs[0]["images"]))}.</p>
{memory_table(results, bench)}
{draw_memory(results, bench)}""")
    return parts and f"""<h2>Memory over time</h2>
<p>VMs are started one after another; distinct frames of their RAM by /proc/PID/pagemap, until a
minute after the last boot. Times are wall clock under emulation: compare them with each other
only. The seconds count from the last boot.</p>
{"".join(parts)}""" or ""


# ---- change, and guests of many kinds --------------------------------------------

def slots(runs):
    """Of each phase: its name, and where it begins and ends, with room for the slowest run."""
    at = 0
    for phases in zip(*(run["phases"] for run in runs)):
        end = at + max(phase["seconds"] for phase in phases)
        yield phases[0]["phase"], at, end
        at = end + 2


def blocks_of(runs, places):
    """gnuplot's data: a line for each phase of each run, and the limit, of DKSM's if it ran."""
    def line(points):
        return "".join(f"{x:.1f} {frames * 4096 / MIB:.1f}\n" for x, frames in points) + "\n"

    limiting = next((run for run in runs if run["policy"] == "dksm"), runs[-1])
    lines = {run["policy"]: [line((at + x, frames) for x, frames in phase["samples"])
                             for phase, (_, at, _) in zip(run["phases"], places)] for run in runs}
    lines["limit"] = [line((x, phase["distinct"]) for x in (at, end))
                      for phase, (_, at, end) in zip(limiting["phases"], places)]
    return "".join(f"${name.replace('-', '_')} << END\n{''.join(each)}END\n"
                   for name, each in lines.items())


def plot_lasting(runs):
    """Curves and script for draw(): runs of each policy, phases below each other."""
    places = list(slots(runs))
    curves = ", ".join(f"${run['policy'].replace('-', '_')} using 1:2 with lines lw 2 "
                       f"lc rgb '{COLORS[run['policy']]}' title '{TITLES[run['policy']]}'"
                       for run in runs)
    marks = "".join(f"set label '{name}' at {at},graph {0.97 - 0.05 * (number % 2)} offset 0.5,0\n"
                    f"set arrow from {at},graph 0 to {at},graph 1 nohead dt 3\n"
                    for number, (name, at, _) in enumerate(places))
    return f"{curves}, $limit using 1:2 with lines lw 2 dt 2 lc rgb 'black' title 'limit'", f"""
{blocks_of(runs, places)}
set title 'Memory of guests that change'
set xlabel 'seconds'
set ylabel 'MiB of frames for guest RAM'
set grid
set key outside below horizontal
set yrange [0:*]
{marks}"""


def lost_percent(counted):
    return 100 * counted["lost"] / counted["possible"] if counted["possible"] else 0


def lasting_section(results):
    runs = {policy: results.of("lasting", policy)[0] for policy in TITLES
            if results.of("lasting", policy)}
    if not runs:
        return ""
    first = next(iter(runs.values()))
    rows = {}
    for number, phase in enumerate(first["phases"]):
        rows[f"{phase['phase']}: lost, % of possible"] = \
            lambda r, number=number: lost_percent(r["phases"][number])
        rows[f"{phase['phase']}: merging, CPU s"] = \
            lambda r, number=number: r["phases"][number]["merge_cpu_seconds"]
    return f"""<h2>Guests that change</h2>
<p>{first["count"]} VMs each of {html.escape(", ".join(first["images"]))}, {first["wait"]} s after
each phase. Lost: frames above the limit, which is one for each content but zeroes; possible: what
the limit saves of pages that are not zero.</p>
{columns(results, "lasting", rows, 1)}
{gnuplot(results, "lasting", *plot_lasting(list(runs.values())))}"""


def mix_section(results):
    runs = [r["result"] for r in results.records if r["bench"] == "mix"]
    return runs and f"""<h2>Guests of many kinds</h2>
<p>{runs[0]["vms"]} VMs of {runs[0]["kinds"]} kinds and strangers, {runs[0]["smallest_mib"]} to
{runs[0]["largest_mib"]} MiB, in random order; {runs[0]["wait"]} s after the last was idle.</p>
""" + columns(results, "mix", {"possible, pages": item("possible"), "lost, pages": item("lost"),
                               "lost, % of possible": lost_percent,
                               "merging, CPU s": item("merge_cpu_seconds")}, 1) or ""


# ---- start-up, neighbours, capacity, scale -----------------------------------------

def columns(results, bench, rows, digits=0):
    """A table with a column for each policy that was measured; rows: title -> value(result)."""
    policies = [policy for policy in TITLES if results.of(bench, policy)]
    return policies and table([""] + [TITLES[policy] for policy in policies], [
        [title] + [cell(results.spread(bench, policy, value), digits) for policy in policies]
        for title, value in rows.items()]) or ""


def item(name):
    return lambda result: result.get(name, 0)


STARTUP_CLOCKS = {
    1: "On one CPU, whose clock counts instructions, a million each ms; idle time is skipped, so "
       "that a wait for a file of the machine outside may count for much: see the highest values",
    2: "On two CPUs, wall clock under emulation"}


def startup_section(results):
    parts, starts = [], 0
    for cpus in (1, 2):
        bench = f"startup{cpus}"
        runs = [r["result"] for r in results.records if r["bench"] == bench]
        if runs:
            starts = runs[0]["starts"]
            together = f"{runs[0]['parallel']} at a time, until all are ready"
            parts.append(f"<h3>{STARTUP_CLOCKS[cpus]}</h3>" + columns(
                results, bench, {
                    "to the first instruction, p50, ms": item("first_p50_ms"),
                    "p99": item("first_p99_ms"),
                    "to ready, p50, ms": item("ready_p50_ms"), "p99 ": item("ready_p99_ms"),
                    f"{together}, p50, ms": item("parallel_p50_ms")}, 1))
    return parts and f"""<h2>Start-up</h2>
<p>QEMU's microvm with a unikernel, {starts} starts beside two VMs of the same image:
from the launch of QEMU to the guest's first instruction, and until it is ready.</p>
{"".join(parts)}""" or ""


def neighbours_section(results):
    runs = [r["result"] for r in results.records if r["bench"] == "neighbours"]
    return runs and f"""<h2>Busy guests beside idle ones</h2>
<p>A guest that computes and one that reads at random and writes, beside {runs[0]["idle"]} idle
ones, on one CPU for {runs[0]["seconds"]} s by a clock that counts instructions; from the moment
that they are ready.</p>
""" + columns(results, "neighbours", {
        "operations of the computing one, thousands a second":
            lambda r: r["rates"]["compute-aligned.elf"] / 1000,
        "reads of the reading one, thousands a second":
            lambda r: r["rates"]["random-aligned.elf"] / 1000,
        "kernel threads, % of the CPU": lambda r: 100 * r["kernel_threads_share"],
        "copies of merged pages": item("copies"), "page faults of the host": item("faults")}, 1) or ""


def capacity_section(results):
    parts = []
    for bench in ("capacity-0.1s", "capacity-0.5s"):
        runs = [r["result"] for r in results.records if r["bench"] == bench]
        if runs:
            parts.append(f"<h3>One each {1000 * runs[0]['interval']:.0f} ms</h3>" + columns(
                results, bench, {"VMs that arrived": item("arrived"), "of these ready": item("ready"),
                                 "seconds": item("seconds")}))
    return parts and f"""<h2>How many fit</h2>
<p>Unikernels of 32 MiB in QEMU's microvm arrive at a fixed interval on a host with 768 MiB and
without swap, until one of them dies for want of memory; by a clock that counts instructions.
To launch one takes about 200 ms.</p>
{"".join(parts)}""" or ""


def parallel_section(results):
    speedup = results.spread("parallel", "dksm", item("speedup"))
    return speedup and f"""<p>Two emulated CPUs merge {cell(speedup, 2)} times as fast as one.</p>
""" or ""


def scale_section(results):
    runs = [r["result"] for r in results.records if r["bench"] == "scale"]
    return runs and f"""<h2>Many owners of a page</h2>
<p>{runs[0]["sharers"]} processes hold {runs[0]["pages"]} equal pages each; instructions. Nothing
merged: each frame has one owner.</p>
""" + columns(results, "scale", {
        "move a frame to another node": item("migrate_ns_per_frame"),
        "compact all memory, thousands": lambda r: r["compact_ns"] / 1000,
        "frames that this moved": item("compact_moved"),
        "swap a frame out": item("reclaim_ns_per_frame"),
        "write to a merged page": item("write_ns_per_page"),
        "unmerge a page": item("unmerge_ns_per_page"),
        "tear down, a mapping": item("teardown_ns_per_mapping")}) or ""


def start_of(vms, number, cost):
    """Of a benchmark with so many VMs; None if this is the result of another."""
    return lambda result: next((start[cost] for start in result["starts"]
                                if result["vms"] == vms and start["vm"] == number), None)


def starts_section(results):
    runs = [r["result"] for r in results.records if r["bench"] == "starts"]
    if not runs:
        return ""
    most = max(run["vms"] for run in runs)
    large = max(run["pages"] for run in runs)
    small = min(run["pages"] for run in runs)
    return f"""<h2>Starts in one process</h2>
<p>{most} virtual machines of one process with {small} equal pages each, and one with {large}
pages alone: their first KVM_RUN, thousands of instructions, with what KVM itself does.</p>
""" + columns(results, "starts", {
        **{f"VM {number} of {most}": thousands(start_of(most, number, "start_ns"))
           for number in (1, 2, 10, 100, most)},
        "one alone": thousands(start_of(1, 1, "start_ns")),
        "its first writes to all pages": thousands(start_of(1, 1, "write_ns")),
        "to answer a signal meanwhile": thousands(item("signal_ns"))})


def thousands(value):
    def of(result):
        found = value(result)
        return None if found is None else found / 1000
    return of


def page(results):
    by_pages = draw_cost(results, "cost-pages", "Cost of merging 64 processes",
                         "pages of each process", cost_series(results, "pages", processes=64))
    by_processes = draw_cost(results, "cost-processes", "Cost of merging 1000 pages of each process",
                             "processes", cost_series(results, "processes", pages=1000))
    repeats = len({record["seed"] for record in results.records})
    kernels = ", ".join(sorted({record["kernel"] for record in results.records}))
    return f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<title>DKSM: measurements</title><style>{STYLE}</style></head><body>
<h1>DKSM: measurements</h1>
<p>Kernel {html.escape(kernels)}. Costs are instructions, counted by QEMU's emulation
(<code>tools/vm --icount</code>). Medians of {repeats} runs, with the lowest and the highest
where they differ. Made by <code>make bench</code>.</p>
<h2>Cost of merging</h2>
<p>All processes hold the same pages, all different within one. KSM: madvise() and all of
ksmd's time until everything is shared. Floor: one comparison of 4 KiB and one page table
entry moved, in the same kernel.</p>
{cost_table(results)}
{floor_table(results)}
{by_pages}
{by_processes}
{parallel_section(results)}
<h2>Where it goes</h2>
<p>64 processes x 1000 pages: percent of the whole, by sampling.</p>
{phases_table(results)}
{scale_section(results)}
{starts_section(results)}
{memory_section(results)}
{lasting_section(results)}
{mix_section(results)}
{startup_section(results)}
{neighbours_section(results)}
{capacity_section(results)}
</body></html>
"""


def main():
    results = Results(sys.argv[1])
    path = os.path.join(results.directory, "report.html")
    with open(path, "w", encoding="utf-8") as file:
        file.write(page(results))
    print(path)


if __name__ == "__main__":
    main()
