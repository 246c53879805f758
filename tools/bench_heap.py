#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the heap with the allocators that a user would pick instead, each preloaded into the same program.

In each round every allocator runs the workload once, in turn, each round beginning with another one, so that a
change of the machine's speed meets all of them. A ratio is libgmem's time over another's of the same round; the
best other is the one with the highest median ratio, and shown are that median and its spread. Memory is
libgmem's over the median other's.

Times of pair, batch and random are those of the fastest of many repetitions of a few milliseconds (fork: of the
fastest fork); all others are CPU time, user and system, of all threads. "first" is a fresh process's first block.
RSS after is measured 4 s after everything was freed, in a run of its own beside others.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import peers

# Which workload, the most that libgmem may take of the other's time, and which other (None: the best).
GOALS = [
    (r"pair-4096|batch64-4096", 1.00, None),
    (r"pair-|batch64-", 1.10, None),
    (r"random|larson|xmalloc|mstress", 1.05, None),
    (r"mixed|medium|threads|burst", 1.10, None),
    (r"malloc-large", 0.90, None),
    (r"fill-", 0.95, None),
    (r"push_back|realloc", 0.80, None),
    (r"fork", 1.20, "glibc"),
    (r"hello", 1.20, "jemalloc"),
]
MOST_MEMORY = 1.25
FAR_BEYOND = 1.25  # the verdict says so
WITHOUT_REST = r"pair-|batch64-|fork|hello"
RUNS_OF_HELLO = 20


def goal_of(workload):
    return next((goal, other) for pattern, goal, other in GOALS if re.match(pattern, workload))


class Bench:
    """The programs, and what is preloaded under which name."""

    def __init__(self, folder):
        self.load = str(folder / "benches" / "heap_load")
        self.hello = str(folder / "benches" / "heap_hello")
        others, self.notes = peers.available()
        self.libraries = {"libgmem": str(folder / "libgmem.so"), **others}
        for path in (self.load, self.hello, self.libraries["libgmem"]):
            if not os.path.exists(path):
                sys.exit(f"{path} is not there: ./dev build makes it")

    def _environment(self, name):
        library = self.libraries[name]
        return {**os.environ, **({"LD_PRELOAD": library} if library else {})}

    def _output(self, name, *words):
        done = subprocess.run(words, env=self._environment(name), text=True, capture_output=True, check=False)
        # The loader would go on without the library.
        if done.returncode != 0 or "cannot be preloaded" in done.stderr:
            sys.exit(f"{' '.join(words)} with {name} ({self.libraries[name] or 'nothing preloaded'}) failed: status "
                     f"{done.returncode}\n{done.stderr}")
        return done.stdout

    def run(self, name, workload, *options):
        """{"seconds": ..., "peak": ...}, as heap_load prints it."""
        if workload == "hello":
            return self._run_hello(name)
        lines = self._output(name, self.load, *options, workload).splitlines()
        return {key: float(value) for key, value in map(str.split, lines)}

    def _run_hello(self, name):
        """CPU time of exec, run and exit, the median of some."""
        times = []
        for _ in range(RUNS_OF_HELLO):
            child = os.posix_spawn(self.hello, [self.hello], self._environment(name),
                                   file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
            _, status, usage = os.wait4(child, 0)
            if status != 0:
                sys.exit(f"{self.hello} with {name} failed: status {status}")
            times.append(usage.ru_utime + usage.ru_stime)
        resident = re.search(r"Rss:\s+(\d+) kB", self._output(name, self.hello, "rss"))
        return {"seconds": statistics.median(times), "peak": int(resident[1]) * 1024}

    def rounds(self, workload, count):
        """A list of {allocator: what it measured}."""
        other = goal_of(workload)[1]
        # A fork with 4 GiB takes seconds to prepare, and is compared with one.
        names = ["libgmem", other] if workload.startswith("fork") and other in self.libraries else list(self.libraries)
        rounds = []
        for index in range(count):
            start = index % len(names)
            rounds.append({name: self.run(name, workload, "--no-rest") for name in names[start:] + names[:start]})
        return rounds

    def after(self, workload):
        """{allocator: resident bytes after it}, {} where that is not asked for."""
        if re.match(WITHOUT_REST, workload):
            return {}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:  # they sleep most of the time
            return dict(zip(self.libraries, pool.map(lambda name: self.run(name, workload)["after"], self.libraries)))


def rows(workload, rounds, after):
    """What the table shows of a workload."""
    goal, other = goal_of(workload)
    names = [name for name in rounds[0] if name != "libgmem"]

    def memory(figures):
        return figures["libgmem"] / statistics.median(figures[name] for name in names)
    peaks = {name: statistics.median(one[name]["peak"] for one in rounds) for name in rounds[0]}
    memories = {} if re.match(r"pair-|batch64-|fork", workload) else {
        "peak": peaks["libgmem"] / peaks[other] if other in names else memory(peaks)}
    if after:
        memories["after"] = memory(after)
    for column, label in (("first", "first"), ("seconds", "steady")):
        if column not in rounds[0]["libgmem"]:
            continue
        ratios = {name: [one["libgmem"][column] / one[name][column] for one in rounds] for name in names}
        best = other if other in names else max(names, key=lambda name: statistics.median(ratios[name]))
        row = {"row": f"{workload} {label}" if "first" in rounds[0]["libgmem"] else workload,
               "ratio": statistics.median(ratios[best]), "least": min(ratios[best]), "most": max(ratios[best]),
               "other": best, "goal": goal}
        if column == "seconds":
            row |= memories
            if "faults" in rounds[0]["libgmem"]:
                row["faults"] = int(statistics.median(one["libgmem"]["faults"] for one in rounds))
        yield row


def means(everything):
    """For each allocator, the geometric mean of its figures over the C library's: medians of the rounds, for the workloads that
    all allocators ran."""
    everyone = max((set(one["rounds"][0]) for one in everything.values()), key=len)
    compared = [one["rounds"] for one in everything.values() if set(one["rounds"][0]) == everyone]
    for name in sorted(everyone):
        ratios = {column: [statistics.median(one[name][column] for one in rounds)
                           / statistics.median(one["glibc"][column] for one in rounds) for rounds in compared]
                  for column in ("seconds", "peak")}
        yield (f"{name:10} time {statistics.geometric_mean(ratios['seconds']):.2f}, peak RSS "
               f"{statistics.geometric_mean(ratios['peak']):.2f} of glibc's (geometric mean of {len(compared)} workloads)")


def verdict(row):
    ratio = round(row["ratio"], 2)
    # 1.00 is to be beaten, not only reached.
    late = ratio >= 1.00 if row["goal"] == 1.00 else ratio > row["goal"]
    wrong = []
    if late:
        wrong.append(f"time beyond {FAR_BEYOND}" if ratio > FAR_BEYOND else "time")
    if row.get("faults", 0) > 0:
        wrong.append("faults")
    most = row["goal"] if row["row"] == "hello" else MOST_MEMORY
    wrong += [f"RSS {name}" for name in ("peak", "after") if row.get(name, 0) > most]
    return f"missed: {', '.join(wrong)}" if wrong else "met"


HEAD = (f"{'workload':18} {'time / best other':>17} {'spread':>14}  {'best other':10} {'goal':>7} {'faults':>6}"
        f" {'peak RSS':>8} {'RSS after':>9}  verdict")


def line(row):
    def memory(name, width):
        return f"{row[name]:{width - 1}.2f}x" if name in row else " " * width
    sign = "<" if row["goal"] == 1.00 else "<="
    return (f"{row['row']:18} {row['ratio']:16.2f}x [{row['least']:5.2f}..{row['most']:5.2f}]  {row['other']:10}"
            f" {sign:>2} {row['goal']:.2f} {row.get('faults', ''):>6} {memory('peak', 8)} {memory('after', 9)}"
            f"  {verdict(row)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="of a CMake build, with libgmem.so and benches/")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", metavar="REGEX", default="", help="workloads whose name it is found in")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="every single figure, and the table's")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; it is 1 or more")

    bench = Bench(args.folder)
    known = [*subprocess.run([bench.load], text=True, capture_output=True, check=True).stdout.split(), "hello"]
    workloads = [name for name in known if re.search(args.only, name)]
    if not workloads:
        parser.error(f"--only {args.only!r} fits no workload; they are {', '.join(known)}")
    print(*bench.notes, sep="\n")
    print(f"{args.rounds} rounds; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores. RSS is over the "
          f"median other's (hello: jemalloc's), goal <= {MOST_MEMORY}\n\n{HEAD}")
    everything, table, begin = {}, [], time.monotonic()
    for workload in workloads:
        rounds, after = bench.rounds(workload, args.rounds), bench.after(workload)
        everything[workload] = {"rounds": rounds, "after": after}
        for row in rows(workload, rounds, after):
            table.append(row | {"verdict": verdict(row)})
            print(line(row), flush=True)
    print("\n" + "\n".join(means(everything)))
    met = sum(row["verdict"] == "met" for row in table)
    print(f"\n{met} of {len(table)} goals met, after {(time.monotonic() - begin) / 60:.0f} minutes; load average "
          f"{os.getloadavg()[0]:.1f}")
    if args.json is not None:
        args.json.write_text(json.dumps({"table": table, "measured": everything}, indent=1) + "\n")


main()
