# SPDX-License-Identifier: Apache-2.0
"""Cross toolchains: compilers of the distribution, and a rustc that has the standard library for the target.

A rustc that has it already is used as it is, and rustup adds it to a toolchain of its own. Otherwise the standard library is
built once from the source of the same rustc version (the distribution's package rust-src) into a sysroot of its own below
build/cross; the installed toolchain stays as it is.
"""

import os
import pathlib
import re
import shutil
import subprocess

import debian
import run
import setup

FOLDER = setup.ROOT / "build" / "cross"
# A Rust target and the prefix of the distribution's compilers for each architecture.
TARGETS = {"aarch64": ("aarch64-unknown-linux-gnu", "aarch64-linux-gnu")}
# Where Debian has recent versions of rust-src.
SUITES = ("trixie-backports", "forky", "sid")


class Missing(Exception):
    """There can be no cross toolchain; the text says why and what would help."""


def _output(*words):
    return subprocess.run(words, text=True, capture_output=True, check=True).stdout.strip()


def _libraries(rustc, target):
    """The folder with a target's standard library, where that rustc has it."""
    folder = pathlib.Path(_output(rustc, "--print", "target-libdir", "--target", target))
    return folder if any(folder.glob("libstd-*.rlib")) else None


def _compilers(architecture):
    prefix = TARGETS[architecture][1]
    packages = {f"{prefix}-gcc": f"gcc-{prefix}", f"{prefix}-g++": f"g++-{prefix}"}
    absent = [package for program, package in packages.items() if setup.tool(program) is None]
    if absent and not setup.apt(*absent):
        raise Missing(f"there is no compiler for {architecture}: apt-get install {' '.join(absent)}")


def _source(folder, version):
    """The source of that version's standard library, unpacked below a folder."""
    unpacked = folder / "source"
    library = unpacked / "usr" / "src" / f"rustc-{version}" / "library"
    for suite in map(debian.Suite, SUITES):
        if library.exists():
            break
        for found in suite.versions("rust-src"):
            if found.split("+")[0] == version:
                suite.unpack(unpacked, f"rust-src={found}")
                break
    if not library.exists():
        raise Missing(f"no package rust-src of version {version} in {', '.join(SUITES)}")
    return library


def _build_library(rustc, target, linker, folder):
    """Build the standard library for a target; returns a rustc that has it and the host's own."""
    version = re.search(r"release: (\S+)", _output(rustc, "--version", "--verbose"))[1]
    sysroot, own = folder / "sysroot", pathlib.Path(_output(rustc, "--print", "sysroot")) / "lib" / "rustlib"
    host = re.search(r"host: (\S+)", _output(rustc, "--version", "--verbose"))[1]
    shutil.rmtree(sysroot, ignore_errors=True)
    rustlib = sysroot / "lib" / "rustlib"
    (rustlib / "src" / "rust").mkdir(parents=True)
    (rustlib / host).symlink_to(own / host)
    (rustlib / "src" / "rust" / "library").symlink_to(_source(folder, version))
    wrapper = folder / "rustc"
    wrapper.write_text(f'#!/bin/sh\nexec "{rustc}" --sysroot "{sysroot}" "$@"\n')
    wrapper.chmod(0o755)

    run.step(f"building Rust's standard library {version} for {target} (once, two minutes)")
    empty = folder / "empty"
    (empty / "src").mkdir(parents=True, exist_ok=True)
    (empty / "src" / "lib.rs").touch()
    (empty / "Cargo.toml").write_text('[package]\nname = "empty"\nedition = "2021"\n[workspace]\n')
    # -Z is for nightly compilers; the variable says that this stable one builds its own library.
    linker_variable = f"CARGO_TARGET_{target.upper().replace('-', '_')}_LINKER"
    environment = {**os.environ, "RUSTC_BOOTSTRAP": "1", "RUSTC": str(wrapper), linker_variable: linker}
    for unwanted in ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"):
        environment.pop(unwanted, None)
    done = run.command(setup.tool("cargo"), "build", "--release", "-Zbuild-std=std,panic_unwind", "--target", target,
                       "--target-dir", folder / "target", cwd=empty, env=environment, quiet=True, check=False)
    if done.returncode != 0:
        raise Missing(f"the standard library for {target} does not build:\n{done.stdout[-2000:]}")
    libraries = rustlib / target / "lib"
    libraries.mkdir(parents=True)
    for built in (folder / "target" / target / "release" / "deps").glob("*.rlib"):
        if not built.name.startswith("libempty-"):
            shutil.copy(built, libraries)
    shutil.rmtree(folder / "target")
    return wrapper


def _added_by_rustup(target):
    """Whether rustup has added a target to the toolchain that it manages."""
    if setup.tool("rustup") is None:
        return False
    run.step(f"rustup target add {target}")
    return run.command(setup.tool("rustup"), "target", "add", target, quiet=True, check=False).returncode == 0


def rustc(architecture):
    """A rustc that compiles for an architecture."""
    target, prefix = TARGETS[architecture]
    installed = pathlib.Path(_output(setup.tool("rustc"), "--print", "sysroot")) / "bin" / "rustc"
    if _libraries(installed, target) or _added_by_rustup(target) and _libraries(installed, target):
        return installed
    folder = FOLDER / target
    wrapper, stamp = folder / "rustc", folder / "version"
    version = _output(installed, "--version", "--verbose")
    if not (stamp.exists() and stamp.read_text() == version):
        try:
            wrapper = _build_library(installed, target, f"{prefix}-gcc", folder)
        except debian.Missing as missing:
            raise Missing(f"rustc has no standard library for {target} (rustup target add {target}), "
                          f"and its source cannot be had: {missing}") from None
        stamp.write_text(version)
    return wrapper


def toolchain(architecture):
    """Make a cross toolchain; returns CMake's options for it."""
    setup.rust(f"setup {architecture}")
    _compilers(architecture)
    file = setup.ROOT / "cmake" / f"{TARGETS[architecture][1]}.cmake"
    return [f"--toolchain={file}", f"-DLIBGMEM_RUSTC={rustc(architecture)}"]
