# SPDX-License-Identifier: Apache-2.0
"""Formatting and static analysis of Rust, C, C++ and Python."""

import concurrent.futures
import os
import subprocess

import project
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
    folder = project.configure("Release")
    # Rust keeps one processor busy for most of the time, and the formatters are downloaded.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        rust = pool.submit(_rust, root, folder)
        _clang_format(root)
        rust.result()
    _clang_tidy(root)
    run.step("python")
    for source in _sources(root, "*.py", "dev"):
        compile(source.read_text(), str(source), "exec")
    print("lint: no complaints")


def _rust(root, folder):
    """Clippy and rustdoc, on the artifacts that the tests use later."""
    run.step("clippy (the first time takes a few minutes: jemalloc is compiled)")
    project.cargo(folder, "clippy", "--all-targets", "--", "-D", "warnings")
    # Checking needs no library, so the build script that would make one is overridden.
    target = subprocess.run(["rustc", "--print", "host-tuple"], text=True, capture_output=True, check=True).stdout.strip()
    run.command("cargo", "clippy", "--locked", "--package", "libgmem-sys", "--all-targets",
                "--target-dir", root / "target" / "libgmem-sys",
                "--config", f'target.{target}.gmem.rustc-link-lib = ["gmem_api"]', "--", "-D", "warnings",
                cwd=root / "crates" / "libgmem-sys")
    run.step("rustdoc")
    project.cargo(folder, "doc", "--no-deps", "--document-private-items", "--quiet",
                  env={**os.environ, "RUSTDOCFLAGS": "-D warnings -A rustdoc::private-intra-doc-links"})


def _clang_format(root):
    program = setup.pinned("clang-format")
    setup.pinned("clang-tidy")
    run.step("clang-format")
    run.command(program, "--dry-run", "--Werror", *_c_and_cpp(root))


def _clang_tidy(root):
    """The public headers, through one file that includes all of them, and the C++ of the library."""
    run.step("clang-tidy")
    folder = root / "build" / "lint"
    folder.mkdir(parents=True, exist_ok=True)
    umbrella = folder / "umbrella.cpp"
    umbrella.write_text("#include <libgmem.hpp>\n#include <libgmem/streams/executor.hpp>\n")
    program = str(setup.pinned("clang-tidy"))

    def tidy(source):
        return subprocess.run([program, "--quiet", "--warnings-as-errors=*", str(source), "--", "-std=c++17",
                               f"-I{root / 'include'}", f"-I{project.generated_headers('debug')}"],
                              cwd=root, text=True, capture_output=True, check=False)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(tidy, [umbrella, *sorted((root / "cpp").glob("*.cpp"))]))
    complaints = [done for done in results if done.returncode != 0]
    for done in complaints:
        print(done.stdout, done.stderr, sep="\n")
    if complaints:
        run.fail("clang-tidy has complaints")
