#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the heap with the allocators that a user would pick instead, each preloaded into the same program.

usage: bench_heap.py HEAP_LOAD LIBGMEM_SO [--rounds N] [--only WORKLOAD...]

In each round every allocator runs every workload once, so that a change of the machine's speed meets all of
them. What is printed are ratios: libgmem's CPU time over the best other's of the same round, median and
spread; and its memory over the median other's.
"""

import argparse
import glob
import os
import statistics
import subprocess
import sys

PEERS = {  # Debian's packages
    "jemalloc": ("libjemalloc2", "libjemalloc.so.2"),
    "mimalloc": ("libmimalloc2.0", "libmimalloc.so.2*"),
    "tcmalloc": ("libtcmalloc-minimal4", "libtcmalloc_minimal.so.4"),
    "tbb": ("libtbbmalloc2", "libtbbmalloc_proxy.so.2"),
}


def find(pattern):
    found = glob.glob(f"/usr/lib/*/{pattern}") + glob.glob(f"/usr/lib/{pattern}")
    return found[0] if found else None


def run(program, workload, library):
    env = dict(os.environ)
    if library:
        env["LD_PRELOAD"] = library
    done = subprocess.run([program, workload], env=env, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{workload} with {library or 'the C library'} failed: {done.returncode}\n{done.stderr}")
    seconds, peak, after = done.stdout.split()
    return float(seconds), int(peak), int(after)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("libgmem")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()

    libraries = {"glibc": None}
    for name, (package, pattern) in PEERS.items():
        path = find(pattern)
        if path:
            libraries[name] = path
        else:
            print(f"note: {name} is not here: apt-get install {package}")
    workloads = args.only or subprocess.run([args.program], text=True, capture_output=True, check=True).stdout.split()

    print(f"{'workload':14} {'CPU / best other':>17} {'spread':>16}  {'best other':10}"
          f" {'peak RSS':>9} {'RSS after':>10}  (over the median other's)")
    for workload in workloads:
        rounds = []
        for index in range(args.rounds):
            order = ["libgmem", *libraries]
            order = order[index % len(order):] + order[:index % len(order)]
            rounds.append({name: run(args.program, workload, args.libgmem if name == "libgmem" else libraries[name])
                           for name in order})
        ratios = [one["libgmem"][0] / min(one[name][0] for name in libraries) for one in rounds]
        medians = {name: statistics.median(one[name][0] for one in rounds) for name in libraries}
        best = min(medians, key=medians.get)

        def memory(column):
            others = statistics.median(statistics.median(one[name][column] for one in rounds) for name in libraries)
            return statistics.median(one["libgmem"][column] for one in rounds) / others
        print(f"{workload:14} {statistics.median(ratios):16.2f}x [{min(ratios):6.2f}..{max(ratios):6.2f}]  {best:10}"
              f" {memory(1):8.2f}x {memory(2):9.2f}x", flush=True)


main()
