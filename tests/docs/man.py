#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The man pages are those that libgmem.h makes, and formatting them gives no warning."""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def formatted(pages):
    """The warnings of formatting them."""
    done = subprocess.run(["man", "--warnings=w", "-E", "UTF-8", "-l", "-Tutf8", "-Z", *pages], text=True, check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return done.stderr.strip() or ("" if done.returncode == 0 else f"status {done.returncode}")


def main():
    subprocess.run([sys.executable, "-B", ROOT / "tools" / "man.py", "--check"], check=True)
    if shutil.which("man") is None or shutil.which("groff") is None:
        print("man and groff are not installed: the pages were not formatted")
        sys.exit(77)
    pages = sorted((ROOT / "docs" / "man").glob("man?/*"))
    warnings = formatted(pages)
    if warnings:
        # Warnings do not name the page.
        warnings = "\n".join(f"{page.name}: {said}" for page in pages if (said := formatted([page])))
        sys.exit(warnings)
    print(f"{len(pages)} man pages without a warning")


main()
