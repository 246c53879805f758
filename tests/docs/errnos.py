#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the errnos that libgmem.h documents with those that tests provoke, both ways.

  errnos.py PROGRAM   PROGRAM is errnos.c, compiled

A documented errno has to come out of errnos.c, or errnos_elsewhere.txt names the test that provokes it or the reason why
none can. An errno that comes out has to be documented, and docs/errnos.md has to list each one.
"""

import os
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import header  # noqa: E402

# Arguments of the program, and the environment for them.
RUNS = ((), {}), (("exhausted",), {}), (("misnamed",), {"GMEM_DEVICE": "toaster"}), (
    ("unusable",), {"GMEM_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""})


def provoked(program):
    """(function, errno) of each that came out; None if a run failed."""
    rows = set()
    for arguments, environment in RUNS:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GMEM_")}
        done = subprocess.run([program, *arguments], env={**clean, **environment}, stdout=subprocess.PIPE, text=True,
                              check=False, timeout=120)
        if done.returncode != 0:
            return None
        rows |= {tuple(line.split()) for line in done.stdout.splitlines()}
    return rows


def elsewhere(complaints):
    """(function, errno) of each that another test provokes; "*" stands for every function."""
    rows = set()
    for line in (HERE / "errnos_elsewhere.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        function, errno, where, _ = (*line.split(maxsplit=3), "")[:4]
        if where != "-":
            path = ROOT / where
            if not path.exists():
                complaints.append(f"errnos_elsewhere.txt names {where}, which does not exist")
            elif errno not in path.read_text(encoding="utf-8"):
                complaints.append(f"errnos_elsewhere.txt: {where} does not mention {errno}")
        rows.add((function, errno))
    return rows


def main():
    complaints = []
    _, functions, _ = header.parse()
    documented = {(function.name, errno) for function in functions for errno in function.errnos()}
    came = provoked(sys.argv[1])
    if came is None:
        sys.exit(1)
    other = elsewhere(complaints)
    for name, errno in sorted(came - documented):
        complaints.append(f"{name} gave {errno}, which libgmem.h does not document")
    for name, errno in sorted(documented - came - other):
        if ("*", errno) not in other:
            complaints.append(f"{name} documents {errno}, which no test provokes")
    for name, errno in sorted(other):
        if name == "*":
            if not any(errno == documented_errno for _, documented_errno in documented):
                complaints.append(f"errnos_elsewhere.txt has {errno}, which nothing documents")
        elif (name, errno) not in documented:
            complaints.append(f"errnos_elsewhere.txt has {name} {errno}, which libgmem.h does not document")
        elif (name, errno) in came:
            complaints.append(f"errnos_elsewhere.txt has {name} {errno}, which errnos.c provokes: drop the line")
    index = (ROOT / "docs" / "errnos.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `-?(E\w+)`", index, re.MULTILINE))
    expected = {errno for _, errno in documented}
    for errno in sorted(expected ^ listed):
        complaints.append(f"docs/errnos.md {'lacks' if errno in expected else 'lists, and nothing documents,'} {errno}")
    print(f"{len(documented)} documented errnos: {len(came & documented)} provoked here, "
          f"{len(documented - came)} in other tests or listed with a reason")
    if complaints:
        sys.exit("\n".join(complaints))


main()
