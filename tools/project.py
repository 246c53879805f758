# SPDX-License-Identifier: Apache-2.0
"""Configures and builds the project, and runs Cargo on the artifacts that CMake's builds use."""

import os
import subprocess

import cross
import run
import setup

ROOT = setup.ROOT
# Shared by every build folder and by Cargo's own commands: each crate, and jemalloc, is compiled once in each profile. It has
# the name that Cargo leaves out when it looks for changed files.
CARGO_FOLDER = ROOT / "target"
CONFIGS = ("Debug", "Release", "RelWithDebInfo", "MinSizeRel")
# The beginning of the project's paths in the compiler's messages (--remap-path-prefix).
REMAPPED = "/libgmem/"


def configure(config="Release", *options):
    """Returns the build folder."""
    if config not in CONFIGS:
        run.fail(f"CONFIG is {config!r}; it is one of {', '.join(CONFIGS)}")
    cmake = setup.build_tools()
    folder = ROOT / "build" / config
    run.step(f"configuring {config}")
    run.command(cmake, "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_BUILD_TYPE={config}",
                f"-DCMAKE_MAKE_PROGRAM={setup.tool('ninja')}", f"-DLIBGMEM_CARGO_TARGET_DIR={CARGO_FOLDER}",
                *options, quiet=True)
    return folder


def configure_for(architecture):
    """Configures a release for another architecture; returns the build folder. Raises cross.Missing."""
    setup.build_tools()
    options = cross.toolchain(architecture)
    folder = ROOT / "build" / f"{architecture}-Release"
    run.step(f"configuring Release for {architecture}")
    run.command(setup.tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                f"-DCMAKE_MAKE_PROGRAM={setup.tool('ninja')}", f"-DLIBGMEM_CARGO_TARGET_DIR={CARGO_FOLDER}",
                "-DLIBGMEM_BUILD_EXAMPLES=OFF", "-DLIBGMEM_BUILD_BENCHES=OFF",
                f"-DGMEM_64K_KERNEL={os.environ.get('GMEM_64K_KERNEL', 'OFF')}", *options, quiet=True)
    return folder


def build(config="Release", *options, target="all"):
    """Configures and builds; returns the build folder."""
    folder = configure(config, *options)
    run.step(f"building {config} (the first time takes a few minutes: jemalloc is compiled)")
    run.command(setup.tool("cmake"), "--build", folder, "--target", target)
    return folder


def _cargo_words(folder, *words):
    """A command of Cargo's with the settings of a build folder, up to the first "--" of its words."""
    settings = (folder / "cargo_environment.txt").read_text().splitlines()
    target = next(line for line in (folder / "CMakeCache.txt").read_text().splitlines()
                  if line.startswith("LIBGMEM_RUST_TARGET:")).partition("=")[2]
    at = words.index("--") if "--" in words else len(words)
    return [setup.tool("cmake"), "-E", "env", *settings, "cargo", *words[:at], "--locked", "--target", target,
            "--target-dir", str(CARGO_FOLDER), *words[at:]]


def start_cargo(folder, *words, env=None):
    """Starts Cargo; its output is to be read line by line, through local_paths()."""
    return subprocess.Popen(_cargo_words(folder, *words), cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env=env)


def local_paths(text):
    """The compiler's messages with paths from the project's root on."""
    return text.replace(REMAPPED, "")


def cargo(folder, *words, env=None):
    """Runs Cargo in the foreground; stops if it fails."""
    process = start_cargo(folder, *words, env=env)
    for line in process.stdout:
        print(local_paths(line), end="", flush=True)
    if process.wait() != 0:
        run.fail(f"cargo {' '.join(words)} failed with status {process.returncode}")


def generated_headers(profile):
    """The folder of the headers that the core's build script makes."""
    found = list(CARGO_FOLDER.glob(f"*/{profile}/include"))
    if not found:
        run.fail(f"Cargo has made no headers below {CARGO_FOLDER}")
    return found[0]
