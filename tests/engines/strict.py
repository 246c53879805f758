#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the adapters of include/libgmem/engines under the warnings of ctest's cpp.strict. The engines' own headers count as
the system's, and are found where the examples find them.

usage: strict.py BUILD_FOLDER WARNING...

Exit status: 0 if all compile, 1 if not, 77 if no engine can be had.
"""

import json
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
sys.dont_write_bytecode = True

import engine_packages  # noqa: E402


def compiler_and_options(name, prefix):
    """The compiler of an engine's example, and its options that headers depend on."""
    with engine_packages.locked(name):
        engine = engine_packages.ENGINES[name]
        build = engine_packages.built(name, prefix, engine_packages.fetched(engine.version, engine.fetch))
    commands = json.loads((build / "compile_commands.json").read_text())
    compiler, *words = shlex.split(next(each["command"] for each in commands if each["file"].endswith("main.cpp")))
    options = []
    for word, following in zip(words, [*words[1:], ""]):
        folder = following if word == "-isystem" else word[2:] if word.startswith("-I") else None
        if folder is not None:
            options += ["-I" if folder == str(prefix / "include") else "-isystem", folder]
        elif word.startswith(("-D", "-std=")):
            options.append(word)
    return compiler, options


def main():
    build_folder, warnings = pathlib.Path(sys.argv[1]), sys.argv[2:]
    prefix = engine_packages.installed(build_folder)
    compiled, failed = [], []
    for name in engine_packages.ENGINES:
        header = f"libgmem/engines/{name}.hpp"
        if not (ROOT / "include" / header).exists():
            continue
        try:
            compiler, options = compiler_and_options(name, prefix)
        except engine_packages.Missing as why:
            print(f"{name}: {why}")
            continue
        done = subprocess.run([compiler, *options, *warnings, "-fsyntax-only", "-x", "c++", "-"], text=True, check=False,
                              input=f"#include <{header}>\n", capture_output=True)
        compiled.append(name)
        if done.returncode != 0:
            failed.append(name)
            print(f"{name}:\n{done.stderr}")
    print(f"compiled: {', '.join(compiled)}; failed: {', '.join(failed) or 'none'}")
    sys.exit(1 if failed else 0 if compiled else 77)


main()
