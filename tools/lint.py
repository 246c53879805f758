# SPDX-License-Identifier: Apache-2.0
"""Formatting and static analysis of Rust, C, C++ and Python."""

import os
import subprocess
import sys

import run
import setup


def _sources(root, *patterns):
    """Files that git tracks or would track."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", *patterns], cwd=root, text=True,
                            capture_output=True, check=True).stdout.splitlines()
    return [root / name for name in listed if (root / name).exists()]


def _c_and_cpp(root):
    return _sources(root, "*.c", "*.h", "*.cpp", "*.hpp")


def _workspaces(root):
    return [root, root / "benches" / "peers", root / "crates" / "libgmem-sys"]


def format_all(root):
    setup.rust("fmt")
    for workspace in _workspaces(root):
        run.command("cargo", "fmt", "--all", cwd=workspace)
    run.command(setup.pinned("clang-format"), "-i", *_c_and_cpp(root))


def check(root):
    """Every rule; the first broken one ends it."""
    setup.rust("lint")
    run.step("rustfmt")
    for workspace in _workspaces(root):
        run.command("cargo", "fmt", "--check", "--all", cwd=workspace)
    run.step("clippy (the first time takes a few minutes: jemalloc is compiled)")
    run.command("cargo", "clippy", "--locked", "--all-targets", "--", "-D", "warnings", cwd=root)
    # Checking needs no library, so the build script that would make one is overridden.
    target = subprocess.run(["rustc", "--print", "host-tuple"], text=True, capture_output=True, check=True).stdout.strip()
    run.command("cargo", "clippy", "--locked", "--package", "libgmem-sys", "--all-targets",
                "--target-dir", root / "target" / "libgmem-sys",
                "--config", f'target.{target}.gmem.rustc-link-lib = ["gmem_api"]', "--", "-D", "warnings",
                cwd=root / "crates" / "libgmem-sys")
    run.step("rustdoc")
    run.command("cargo", "doc", "--no-deps", "--locked", "--document-private-items", "--quiet", cwd=root,
                env={**os.environ, "RUSTDOCFLAGS": "-D warnings -A rustdoc::private-intra-doc-links"})
    run.step("clang-format")
    run.command(setup.pinned("clang-format"), "--dry-run", "--Werror", *_c_and_cpp(root))
    run.step("clang-tidy")
    _clang_tidy(root)
    run.step("python")
    for source in _sources(root, "*.py", "dev"):
        compile(source.read_text(), str(source), "exec")
    print("lint: no complaints")


def _clang_tidy(root):
    """The public headers, through one file that includes all of them, and the C++ of the library."""
    generated = root / "build" / "lint"
    # The bridge's header is made by Cargo.
    run.command("cargo", "check", "--locked", "--quiet", cwd=root,
                env={**os.environ, "GMEM_GENERATED_INCLUDE_DIR": str(generated)})
    umbrella = generated / "umbrella.cpp"
    umbrella.write_text("#include <libgmem.hpp>\n#include <libgmem/streams/executor.hpp>\n")
    done = subprocess.run(
        [str(setup.pinned("clang-tidy")), "--quiet", "--warnings-as-errors=*", str(umbrella),
         *map(str, sorted((root / "cpp").glob("*.cpp"))), "--", "-std=c++17", f"-I{root / 'include'}",
         f"-I{generated}"],
        cwd=root, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n")
        sys.exit("clang-tidy has complaints")
