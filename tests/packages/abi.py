# SPDX-License-Identifier: Apache-2.0
"""Compares the binary interface with its committed description in abi/, or writes that anew (--write).

libgmem.abi and libgmem_api.abi have the symbols of each library and their versions. libgmem.h.abi has the types: libabigail
does not read Rust's debug information, so they come from a C library with a pointer to each function of the header.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ABI = HERE / "abi"
PORTABLE = ("--no-show-locs", "--no-corpus-path", "--no-comp-dir-path", "--type-id-style", "hash")


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, **options)
    return done.returncode, done.stdout


def pointers(args):
    """A library that has a variable for each C function that libgmem.so exports."""
    exports = (HERE.parent / "package" / "exports.libgmem.txt").read_text().splitlines()
    functions = [name for name in exports if name.startswith("gmem")]
    source, library = args.work / "pointers.c", args.work / "libgmem.h.so"
    source.write_text("#include <libgmem.h>\n" + "".join(f"__typeof__(&{name}) pointer_to_{name};\n" for name in functions))
    # A relative name, because the description keeps it.
    status, said = run(args.cc, "-std=c11", "-g", "-shared", "-fPIC", "-nostdlib", f"-I{args.include.resolve()}",
                       "-o", library.name, source.name, cwd=args.work)
    if status != 0:
        sys.exit(f"libgmem.h does not declare what the library exports:\n{said}")
    return library


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    for name in ("--work", "--include", "--libraries", "--cc"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    args = parser.parse_args()
    if shutil.which("abidiff") is None:
        print("abidiff is missing: apt-get install abigail-tools")
        sys.exit(77)
    args.work.mkdir(parents=True, exist_ok=True)
    changed = False
    for library in (args.libraries / "libgmem.so", args.libraries / "libgmem_api.so", pointers(args)):
        description = ABI / f"{library.stem}.abi"
        if args.write:
            status, said = run("abidw", *PORTABLE, "--out-file", description, library)
        else:
            status, said = run("abidiff", "--no-show-locs", description, library)
        if status != 0:
            changed = True
            print(f"{description.name}:\n{said}")
    if changed:
        sys.exit("The binary interface changed. If that is meant, ./dev package --abi describes the new one for review.")


main()
