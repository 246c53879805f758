#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions of malloc and free for each allocator, under valgrind.

A figure is what one more block costs: the difference between a run with COUNT blocks and one with 2 * COUNT, without
the loop; "-" for an allocator that valgrind cannot run. Counts are exact where times are noisy, but say nothing of cache misses and waits.
"""

import argparse
import concurrent.futures
import math
import os
import pathlib
import re
import subprocess

import peers

COUNT = 64_000
WORK = [("pair", 16), ("pair", 64), ("pair", 256), ("pair", 1024), ("pair", 16384), ("batch", 64), ("batch", 1024),
        ("new", 64), ("calloc", 64), ("calloc", 1024), ("realloc", 64), ("realloc", 4096)]


def counted(program, library, what, size, count):
    preload = {"LD_PRELOAD": library} if library else {}
    done = subprocess.run(["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
                           "--soname-synonyms=somalloc=nouserintercepts", program, what, str(size), str(count)],
                          env={**os.environ, **preload}, text=True, capture_output=True, check=False)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode != 0 or found is None:
        return math.nan
    return int(found[1].replace(",", ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    program = str(folder / "benches" / "heap_count")
    others, notes = peers.available()
    libraries = {"libgmem": str(folder / "libgmem.so"), **others}
    print(*notes, sep="\n", end="\n\n")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        def each(library, what, size):
            counts = pool.map(lambda count: counted(program, library, what, size, count), (COUNT, 2 * COUNT))
            less, more = counts
            return (more - less) / COUNT

        loop = each(None, "none", 16)
        print("| instructions |", " | ".join(libraries), "| libgmem / best other |")
        print("|---|" + "---|" * (len(libraries) + 1))
        for what, size in WORK:
            figures = {name: each(library, what, size) - loop for name, library in libraries.items()}
            best = min(figure for name, figure in figures.items() if name != "libgmem" and not math.isnan(figure))
            cells = " | ".join("-" if math.isnan(figure) else f"{figure:.0f}" for figure in figures.values())
            print(f"| `{what}` {size} | {cells} | {figures['libgmem'] / best:.2f} |", flush=True)


if __name__ == "__main__":
    main()
