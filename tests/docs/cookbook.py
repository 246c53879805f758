#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Takes the snippets out of the cookbook.

  cookbook.py COOKBOOK FOLDER   write a file for each snippet, print their names

A snippet is a block of code whose info string names its file: ```cpp name.cpp. C++ and C are whole programs; shell
scripts get the folder of the built library as $1.
"""

import pathlib
import re
import sys


def main():
    cookbook, folder = map(pathlib.Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    snippets = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```", cookbook.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for language, name, code in snippets:
        if not name:
            if language in ("cpp", "c", "sh"):
                sys.exit(f"{cookbook}: a snippet in {language} has no name, so nothing would run it:\n{code}")
            continue
        path = folder / name
        # Unchanged files are not compiled again.
        if not path.exists() or path.read_text(encoding="utf-8") != code:
            path.write_text(code, encoding="utf-8")
        print(name)


main()
