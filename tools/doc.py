# SPDX-License-Identifier: Apache-2.0
"""Builds the documentation, offline, with warnings as errors: C and C++ (Doxygen), the Rust core (rustdoc), man pages."""

import os
import subprocess
import sys

import project
import run
import setup

ROOT = setup.ROOT


def build():
    doxygen()
    rustdoc()
    man()
    run.step("build/doc/html/index.html: C and C++; target/*/doc/gmem/index.html: the core; man -l docs/man/man7/libgmem.7")


def doxygen():
    """The reference with guides and the index of errors."""
    if setup.tool("doxygen") is None and not (setup.apt("doxygen") and setup.tool("doxygen")):
        run.fail("doxygen is missing: apt-get install doxygen")
    run.step("Doxygen: C and C++")
    (ROOT / "build" / "doc").mkdir(parents=True, exist_ok=True)
    # By its whole path, because docs/devices has a README.md, too.
    settings = (ROOT / "docs" / "Doxyfile").read_text(encoding="utf-8")
    settings += f'\nUSE_MDFILE_AS_MAINPAGE = "{ROOT / "README.md"}"\n'
    done = subprocess.run(["doxygen", "-"], input=settings, text=True, cwd=ROOT, check=False)
    if done.returncode != 0:
        run.fail("Doxygen has warnings")


def rustdoc():
    setup.rust("doc")
    run.step("rustdoc: the core")
    # These pages have private items, too, so links to them lead somewhere.
    environment = {**os.environ, "RUSTDOCFLAGS": "-D warnings -A rustdoc::private_intra_doc_links"}
    project.cargo(project.configure("Release"), "doc", "--no-deps", "--document-private-items", env=environment)


def man():
    """docs/man is committed, so that installing needs no Python; this writes it anew."""
    run.step("man pages")
    run.command(sys.executable, "-B", ROOT / "tools" / "man.py")
    for tool, package in {"man": "man-db", "groff": "groff"}.items():
        if setup.tool(tool) is None and not (setup.apt(package) and setup.tool(tool)):
            run.fail(f"{tool} is missing: apt-get install {package}")
    run.command(sys.executable, "-B", ROOT / "tests" / "docs" / "man.py")
