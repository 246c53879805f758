#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests in the virtual machine, for ctest: one boot runs all tests of a machine, then each reports its own result.

usage: guest_tests.py run PLAN           boot the machine of a plan and store the result of each of its tests
       guest_tests.py report PLAN NAME   print the stored output of a test and exit with its status

A plan is a file that CMake writes: {"architecture": ..., "kernel": ..., "kind": ..., "tests": [{"name", "program", "arguments", "environment",
"files"}...]}. Results lie in the folder PLAN.results. With GMEM_GUEST_TESTS=NAME,NAME... in the environment, only those tests
run. A result is of no use once the program, a library, an argument or a file has changed: then `report` fails.
"""

import json
import os
import pathlib
import sys

sys.dont_write_bytecode = True
import machines  # noqa: E402
import virtual_machine  # noqa: E402

SKIPPED = 77
# Pages of hugetlb on each node.
HUGEPAGES = 8
# Seconds for the boot and for each program, without those in which the host was busy with something else. All take less
# than a tenth of it.
TIMEOUT = 240


def programs(plan):
    return [virtual_machine.Program(test["name"], pathlib.Path(test["program"]), tuple(test["arguments"]),
                                    tuple(test["environment"]),
                                    tuple((path, pathlib.Path(source)) for path, source in
                                          (file.split("=", 1) for file in test["files"])))
            for test in plan["tests"]]


def architecture(plan):
    return machines.ARCHITECTURES[plan["architecture"]]


def result_file(path, name):
    return path.parent / f"{path.name}.results" / f"{name}.json"


def run_plan(path):
    plan = json.loads(path.read_text())
    wanted = os.environ.get("GMEM_GUEST_TESTS")
    chosen = [program for program in programs(plan) if not wanted or program.name in wanted.split(",")]
    digests = {program.name: program.digest(architecture(plan)) for program in chosen}
    for program in chosen:
        result_file(path, program.name).parent.mkdir(exist_ok=True)
        result_file(path, program.name).unlink(missing_ok=True)

    def store(outcome):
        result = {"digest": digests[outcome.name], "status": outcome.status, "output": outcome.output}
        result_file(path, outcome.name).write_text(json.dumps(result))
        print(f"{outcome.name}: status {outcome.status}, {outcome.seconds:.1f} s", flush=True)

    machine = virtual_machine.Machine(plan["kernel"], architecture(plan), tiers=plan["kind"] == "tiers",
                                      gmem=plan["kind"] == "gmem", hugepages=HUGEPAGES)
    try:
        virtual_machine.run_programs(machine, chosen, TIMEOUT, store)
    except machines.Unavailable as why:
        for program in chosen:
            store(virtual_machine.Outcome(program.name, SKIPPED, f"guest: no virtual machine: {why}\n", 0.0))


def report(path, name):
    file = result_file(path, name)
    if not file.exists():
        sys.exit(f"{name} has no result: the machine has not run it")
    result = json.loads(file.read_text())
    plan = json.loads(path.read_text())
    program = next(program for program in programs(plan) if program.name == name)
    if result["digest"] != program.digest(architecture(plan)):
        sys.exit(f"the result of {name} is older than the program or a library of it")
    print(result["output"], end="")
    sys.exit(result["status"])


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "run":
        run_plan(pathlib.Path(sys.argv[2]))
    elif len(sys.argv) == 4 and sys.argv[1] == "report":
        report(pathlib.Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(__doc__)


main()
