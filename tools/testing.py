# SPDX-License-Identifier: Apache-2.0
"""Builds and runs cargo's tests and ctest's, and ends with a summary: what passed, what failed, what was skipped and why."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree

import machines
import project
import run
import setup
import virtual_machine

MODEL = setup.ROOT / "build" / "minilm-model"
# Labels that the loop while working leaves out (tests/README.md).
NOT_QUICK = "guest|aarch64|checked|package|sanitizer|engines|vendor|slow"


def model():
    """The folder with the weights of examples/minilm."""
    run.step("fetching the model (91 MB, once)")
    setup.pip()
    run.command(sys.executable, setup.ROOT / "examples" / "minilm" / "fetch_model.py", MODEL)
    return MODEL


def _fetch_the_rest():
    """What tests need only once they run: the model, and kernels for the virtual machine."""
    model()
    try:
        virtual_machine.prepare()
    except machines.Unavailable as why:
        print(f"no virtual machine: {why}", flush=True)


def fetch():
    """Download and install everything that the tests need."""
    setup.build_tools()
    setup.vendors()
    _fetch_the_rest()


def _build_all():
    """Both halves, with the downloads at the same time; returns the build folder."""
    folder = project.configure("Release")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        vendors = pool.submit(setup.vendors)
        rust = pool.submit(project.cargo, folder, "test", "--no-run", "--quiet")
        vendors.result()
        rest = pool.submit(_fetch_the_rest)
        folder = project.build("Release", f"-DMINILM_MODEL_DIR={MODEL}")
        rust.result()
        rest.result()
    return folder


def cargo(folder):
    """Runs cargo's tests; returns (passed, failed)."""
    run.step("testing the Rust core (cargo test)")
    process = project.start_cargo(folder, "test")
    passed = failed = 0
    for line in process.stdout:
        print(project.local_paths(line), end="", flush=True)
        result = re.search(r"test result: .* (\d+) passed; (\d+) failed", line)
        if result:
            passed, failed = passed + int(result[1]), failed + int(result[2])
    if process.wait() != 0 and failed == 0:
        run.fail("cargo test failed to build or run")
    return passed, failed


def _guest_tests(program, folder, pattern):
    """The tests in the virtual machine that a pattern selects, without the boots."""
    listed = subprocess.run([program, "--test-dir", folder, "--show-only=json-v1", "-R", pattern, "-FA", ".*"], text=True,
                            capture_output=True, check=True).stdout
    names = [test["name"] for test in json.loads(listed)["tests"]]
    return [name for name in names if name.startswith("guest.") and not name.startswith("guest.boot.")]


def ctest(folder, *options, pattern=None):
    """Returns {name: (status, reason)}."""
    program = setup.tool("ctest")
    run.step("testing the C and C++ interfaces and the package (ctest)")
    report = folder / "ctest.xml"
    report.unlink(missing_ok=True)
    environment = dict(os.environ)
    if pattern:
        options = (*options, "-R", pattern)
        # The machines then run the selected programs alone.
        environment["GMEM_GUEST_TESTS"] = ",".join(_guest_tests(program, folder, pattern))
    run.command(program, "--test-dir", folder, "--parallel", max(2, os.cpu_count() or 2), "--output-on-failure",
                "--output-junit", report, *options, check=False, env=environment)
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


def test(what):
    """what: a pattern, --quick, --all, or None."""
    setup.rust("test")
    if what == "--quick":
        folder = project.build("Release")
        rust = cargo(folder)
        summary(rust, ctest(folder, "--label-exclude", NOT_QUICK))
    elif what in (None, "--all"):
        folder = _build_all()
        rust = cargo(folder)
        # Tests that only the configuration All has are too slow for CI.
        summary(rust, ctest(folder, *(["--build-config", "All"] if what else [])))
    elif what.startswith("-"):
        run.fail(f"PATTERN is {what!r}; it is a regular expression, --quick or --all")
    else:
        setup.vendors()
        folder = project.build("Release", f"-DMINILM_MODEL_DIR={model()}")
        summary(None, ctest(folder, pattern=what))


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
