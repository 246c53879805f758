# SPDX-License-Identifier: Apache-2.0
"""Runs cargo's tests and ctest's, and says last what passed, what failed and what was skipped and why."""

import re
import subprocess
import sys
import xml.etree.ElementTree

import run
import setup


def cargo(root):
    """Returns (passed, failed)."""
    run.step("testing the Rust core (cargo test)")
    process = subprocess.Popen(["cargo", "test", "--locked"], cwd=root, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    passed = failed = 0
    for line in process.stdout:
        print(line, end="", flush=True)
        result = re.search(r"test result: .* (\d+) passed; (\d+) failed", line)
        if result:
            passed, failed = passed + int(result[1]), failed + int(result[2])
    if process.wait() != 0 and failed == 0:
        run.fail("cargo test failed to build or run")
    return passed, failed


def ctest(program, folder, pattern):
    """Returns {name: (status, reason)}."""
    # The package tests want it and nothing else does.
    if setup.tool("pkg-config") is None:
        setup.apt("pkg-config")
    run.step("testing the C and C++ interfaces and the package (ctest)")
    report = folder / "ctest.xml"
    report.unlink(missing_ok=True)
    run.command(program, "--test-dir", folder, "--parallel", "2", "--output-on-failure",
                "--output-junit", report,
                *(["-R", pattern] if pattern else []), check=False)
    if not report.exists():
        run.fail("ctest did not run")
    outcome = {}
    for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
        said = (case.findtext("system-out") or "").strip()
        status = {"run": "passed", "fail": "failed"}.get(case.get("status"), "skipped")
        outcome[case.get("name")] = (status, said.splitlines()[-1] if said else "no reason given")
    if not outcome:
        run.fail(f"no test matches {pattern!r}")
    return outcome


def summary(rust, c_and_cpp):
    by_status = {status: [name for name, (found, _) in c_and_cpp.items() if found == status]
                 for status in ("passed", "failed", "skipped")}
    notes = sorted({line for name, (_, said) in c_and_cpp.items() for line in [said] if line.startswith("note: ")})
    print()
    if rust is not None:
        print(f"cargo: {rust[0]} passed, {rust[1]} failed")
    for name in by_status["failed"]:
        print(f"failed: {name}")
    for name in by_status["skipped"]:
        print(f"skipped: {name}: {c_and_cpp[name][1]}")
    for line in notes:
        print(line)
    passed = len(by_status["passed"]) + (rust[0] if rust else 0)
    failed = len(by_status["failed"]) + (rust[1] if rust else 0)
    print(f"{passed} passed, {failed} failed, {len(by_status['skipped'])} skipped")
    sys.exit(1 if failed else 0)
