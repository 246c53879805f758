# SPDX-License-Identifier: Apache-2.0
"""Writes docs/system-calls.md as a table in C: system_calls.py PAGE HEADER"""

import pathlib
import re
import sys


def main():
    page = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    lines = ["static const struct system_call {", "\tconst char *name;", "\tlong number;", "\tint is_refusable;",
             "\tconst char *fails; /* names of functions, each followed by a space */", "} SYSTEM_CALLS[] = {"]
    for heading, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL):
        is_needed = heading.startswith("Needed")
        rows = re.findall(r"^\| `(\w+)` \|.*\| (.*?) \|$", text, re.MULTILINE)
        if is_needed:
            rows = [(name, "") for name in re.findall(r"`(\w+)`", text)]
        for name, fails in rows:
            names = "".join(f"{function} " for function in re.findall(r"`(\w+)`", fails))
            # Some calls exist on one architecture only.
            lines += [f"#ifdef SYS_{name}", f'\t{{"{name}", SYS_{name}, {int(not is_needed)}, "{names}"}},', "#endif"]
    pathlib.Path(sys.argv[2]).write_text("\n".join([*lines, "};", ""]), encoding="utf-8")


main()
