#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every file that the documentation links to, or names in backquotes by its path, exists."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Folders of the tree: what begins with one of these is a path of it.
TREE = ("src/", "tests/", "tools/", "docs/", "examples/", "benches/", "cpp/", "cmake/")


def documents():
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md"):
        yield from ROOT.glob(pattern)


def links(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            yield target, document.parent / target
    for path in re.findall(r"`([\w./-]+)`", text):
        if path.startswith(TREE) and "<" not in path and "*" not in path:
            yield path, ROOT / path


def main():
    missing = [f"{document.relative_to(ROOT)}: {name} does not exist"
               for document in documents() for name, path in links(document) if not path.exists()]
    print("\n".join(missing) or "all links lead somewhere")
    sys.exit(bool(missing))


main()
