#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests for another architecture: built by a cross toolchain, run in that architecture's virtual machine.

usage: cross_tests.py build ARCH PATTERN     build the programs of the tests whose ctest name matches
       cross_tests.py run ARCH PATTERN       run these tests (built before)

For ctest, which runs a short selection of them on every machine (label aarch64). 77, with the reason in the last line, where
there is no cross toolchain.
"""

import json
import pathlib
import re
import sys

sys.dont_write_bytecode = True
import cross  # noqa: E402
import project  # noqa: E402
import run  # noqa: E402
import setup  # noqa: E402
import testing  # noqa: E402

SKIPPED = 77


def _folder(architecture):
    return project.ROOT / "build" / f"{architecture}-Release"


def _programs(folder, pattern):
    """The programs of the tests that a pattern selects, and the files that these need. Targets have the names of their files."""
    tests = [test for plan in (folder / "tests" / "guest").glob("*.json") for test in json.loads(plan.read_text())["tests"]]
    chosen = [test for test in tests if re.search(pattern, test["name"])]
    if not chosen:
        run.fail(f"no test matches {pattern!r}")
    return sorted({pathlib.Path(test["program"]).name for test in chosen})


def _build(architecture, pattern=None):
    """Returns the build folder; raises cross.Missing."""
    folder = project.configure_for(architecture)
    run.step(f"building the tests for {architecture}")
    targets = _programs(folder, pattern) if pattern else ["guest_programs"]
    run.command(setup.tool("cmake"), "--build", folder, "--target", *targets)
    return folder


def test(architecture="", pattern=None):
    """All of them, or those that a pattern selects."""
    if architecture not in cross.TARGETS:
        run.fail(f"ARCH is {architecture!r}; it is one of {', '.join(cross.TARGETS)}")
    try:
        folder = _build(architecture, pattern)
    except cross.Missing as why:
        run.fail(f"no toolchain for {architecture}: {why}")
    testing.summary(None, testing.ctest(folder, "--label-regex", "^guest$", pattern=pattern))


def build_for_ctest(architecture, pattern):
    try:
        _build(architecture, pattern)
    except cross.Missing as why:
        print(f"no toolchain for {architecture}: {why}")
        sys.exit(SKIPPED)


def run_for_ctest(architecture, pattern):
    if not (_folder(architecture) / "build.ninja").exists():
        print(f"nothing was built for {architecture}")
        sys.exit(SKIPPED)
    testing.summary(None, testing.ctest(_folder(architecture), "--label-regex", "^guest$", pattern=pattern))


def main():
    verbs = {"build": build_for_ctest, "run": run_for_ctest}
    if len(sys.argv) < 3 or sys.argv[1] not in verbs:
        sys.exit(__doc__)
    verbs[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
