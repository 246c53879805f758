#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs inference engines with libgmem and without: the examples in examples/engines, against installed packages.

usage: engines.py BUILD_FOLDER [NAME...] [--short] [--rounds N] [--minilm]

Fetches each engine in the version that engine_packages.py pins, installs libgmem beside it, builds the example and runs it in
several ways by turns. The results of all ways have to be the same. Prints tables, and leaves them as build/engines/table.md: the
median of each way, and its ratio to the engine's own way in pairs of the same round.
With --minilm the engines that read the model of examples/minilm compute its embeddings, which have to be those of that example.

Exit status: 0 if all is well, 1 if a result or a count is wrong, 77 if no engine can be had.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys

# No .pyc files in the source tree.
sys.dont_write_bytecode = True

import engine_packages  # noqa: E402
import memory  # noqa: E402
import minilm  # noqa: E402
import run  # noqa: E402
from engine_packages import ENGINES, WORK, Missing  # noqa: E402

PHASES = ("load", "first", "steady", "free")
UNITS = "Times: median milliseconds, and in parentheses those of the processor; memory in MiB."


class Wrong(Exception):
    """A run failed, or its result or a count is not as it has to be."""


class Example:
    """The built programs of an engine's example."""

    def __init__(self, name, build_folder):
        self.name, self.engine = name, ENGINES[name]
        self._prefix = engine_packages.installed(build_folder)
        with engine_packages.locked(name):
            self.folder = engine_packages.fetched(self.engine.version, self.engine.fetch)
            self._programs = engine_packages.built(name, self._prefix, self.folder)

    def run(self, way, *options):
        """One run; returns what it measured."""
        return json.loads(self._output(f"engine_{self.name}{way.program}", way, "--memory", way.memory, *way.options, *options))

    def check(self, folder):
        """Runs the program that checks more, if there is one, and prints what it saw."""
        if self.engine.checks:
            print(self._output(self.engine.checks, engine_packages.ENGINE, "--folder", folder), end="")

    def _output(self, program, way, *options):
        environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
        environment |= way.environment
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, self.engine.libraries(self.folder)))
        if way.preloaded:
            environment["LD_PRELOAD"] = str(next(self._prefix.glob("lib*/**/libgmem.so")))
        done = subprocess.run([self._programs / program, *map(str, options)], env=environment, text=True, capture_output=True,
                              check=False, timeout=600)
        if done.returncode != 0:
            raise Wrong(f"{program}, {way.name}: exit status {done.returncode}\n{done.stdout}{done.stderr.strip()}")
        return done.stdout


def measure(name, build_folder, rounds, short):
    """Runs an engine in all its ways, each once a round in an order of its own; returns {way: [numbers of a round]}."""
    example = Example(name, build_folder)
    engine, data = example.engine, WORK / "data"
    mib = engine.short_mib if short else engine.mib
    with engine_packages.locked(name):
        data.mkdir(exist_ok=True)
        engine.prepare(example.folder, mib)
    runs = {way.name: [] for way in engine.ways}
    run.step(f"{name}: {rounds} rounds of {len(engine.ways)} ways")
    peak = 1.2 * mib
    for number in range(rounds):
        for way in random.Random(number).sample(engine.ways, len(engine.ways)):
            if not short:
                memory.warm(int(peak))
            runs[way.name].append(example.run(way, "--mib", mib, "--folder", data))
            peak = max(each["peak_mib"] for done in runs.values() for each in done) * 1.1
    check(name, runs)
    example.check(data)
    return runs


def check(name, runs):
    """The results are the same, and the adapter avoids the faults that it is there for."""
    results = {way: {each["checksum"] for each in done} for way, done in runs.items()}
    if len(set.union(*results.values())) != 1:
        raise Wrong(f"{name}: the results differ: {results}")
    phase, share = ENGINES[name].faults
    adapter = next(way.name for way in ENGINES[name].ways if way.memory == "libgmem")
    own, engines = (min(each[f"{phase}_faults"] for each in runs[way]) for way in (adapter, engine_packages.ENGINE.name))
    if own > engines * share + 100:
        raise Wrong(f"{name}: {own:.0f} page faults in the phase {phase!r} with the adapter, and {engines:.0f} without")


def embed(name, build_folder):
    """Computes the embeddings of examples/minilm in an engine, in all its ways; returns {way: largest difference}."""
    example = Example(name, build_folder)
    folder = minilm.prepared(build_folder)
    differences = {}
    for way in example.engine.ways:
        done = example.run(way, "--minilm", folder)
        differences[way.name] = done["difference"]
        if done["sentences"] != minilm.SENTENCES or not done["difference"] <= example.engine.minilm:
            raise Wrong(f"{name}, {way.name}: {done['sentences']:.0f} embeddings, which differ from those of examples/minilm by "
                        f"{done['difference']}")
    return differences


def table(name, runs, load):
    """The tables of an engine, as text that is Markdown as well."""
    lines = [f"### {name} ({ENGINES[name].version})", "",
             f"{len(next(iter(runs.values())))} rounds at a load of {load[0]:.1f} to {load[1]:.1f}.", "",
             "| way | load | first pass | steady pass | free | faults: load | first | steady | peak | after |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for way, done in runs.items():
        numbers = {number: statistics.median(each[number] for each in done) for number in done[0] if number != "checksum"}
        times = (f"{numbers[f'{phase}_ms']:.4g} ({numbers[f'{phase}_cpu_ms']:.4g})" for phase in PHASES)
        faults = (f"{numbers[f'{phase}_faults']:.0f}" for phase in PHASES[:3])
        resident = (f"{numbers[f'{when}_mib']:.0f}" for when in ("peak", "after"))
        lines.append(f"| {way} | {' | '.join((*times, *faults, *resident))} |")
    lines += ["", "| processor time, ratio to the engine | load | first pass | steady pass | free |", "|---|---|---|---|---|"]
    for way, done in runs.items():
        if way != engine_packages.ENGINE.name:
            pairs = zip(done, runs[engine_packages.ENGINE.name])
            lines.append(f"| {way} | {' | '.join(ratios(list(pairs)))} |")
    return "\n".join([*lines, ""])


def ratios(pairs):
    """For each phase the median and the range of the ratio of two runs of a round."""
    for phase in PHASES:
        each = [own[f"{phase}_cpu_ms"] / engines[f"{phase}_cpu_ms"] for own, engines in pairs]
        yield f"{statistics.median(each):.3g} ({min(each):.3g} to {max(each):.3g})"


def table_of_differences(embedded):
    lines = ["| engine | way | largest difference of a component |", "|---|---|---|"]
    lines += [f"| {name} | {way} | {difference:.1e} |" for name, ways in embedded.items() for way, difference in ways.items()]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--short", action="store_true", help="small models, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minilm", action="store_true", help="embeddings of examples/minilm")
    asked = parser.parse_intermixed_args()
    known = [name for name, engine in ENGINES.items() if engine.minilm or not asked.minilm]
    unknown = set(asked.names) - set(known)
    if unknown:
        run.fail(f"no engine {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    measured, missing, wrong = {}, {}, {}
    for name in asked.names or known:
        try:
            if asked.minilm:
                measured[name] = embed(name, asked.build_folder)
            else:
                before = os.getloadavg()[0]
                runs = measure(name, asked.build_folder, 1 if asked.short else asked.rounds, asked.short)
                measured[name] = table(name, runs, sorted((before, os.getloadavg()[0])))
        except Missing as why:
            missing[name] = why
        except Wrong as why:
            wrong[name] = why
    if measured:
        text = table_of_differences(measured) if asked.minilm else "\n".join([*measured.values(), UNITS])
        print(text)
        if not asked.short and not asked.minilm:
            (WORK / "table.md").write_text(text + "\n")
    for name, why in (missing | wrong).items():
        print(f"{name}: {why}")
    sys.exit(1 if wrong else 0 if measured else 77)


if __name__ == "__main__":
    main()
