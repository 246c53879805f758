# SPDX-License-Identifier: Apache-2.0
"""abi.py FOLDER: the libraries in a folder, built with debug information, against the committed abi/*.abi."""

import pathlib
import shutil
import subprocess
import sys

ABI = pathlib.Path(__file__).resolve().parent / "abi"


def main():
    folder = pathlib.Path(sys.argv[1])
    if shutil.which("abidiff") is None:
        print("abidiff is missing: apt-get install abigail-tools")
        sys.exit(77)
    changed = False
    for description in sorted(ABI.glob("*.abi")):
        done = subprocess.run(["abidiff", "--no-show-locs", description, folder / f"{description.stem}.so"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            changed = True
            print(f"{description.name}:\n{done.stdout}")
    if changed:
        sys.exit("The binary interface changed. If that is meant, ./dev package --abi describes the new one for review.")


main()
