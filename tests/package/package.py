#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of the package: what is installed, what it exports, and that users can build with it.

Each command is one ctest test. `install CONFIG` comes first and makes the prefix that the others use; `project CONFIG WAY`
configures the project whose executables `consumer CONFIG WAY FLAVOUR` builds and runs. All use the Cargo folder of the build
that runs the tests, so the core is compiled once in each profile; only `offline` compiles one of its own.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77


def run(*command, expect=0, **options):
    """Run a command and return its output; say all of it when the outcome is not the expected one."""
    command = [str(part) for part in command]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if expect is not None and (done.returncode == 0) != (expect == 0):
        sys.exit(f"{' '.join(command)}\n{done.stdout}\nexit status {done.returncode}")
    return done.stdout


def configure(args, source, build, *options, config, expect=0, env=None):
    shutil.rmtree(build, ignore_errors=True)
    # Both of the generators that users have.
    generator = "Ninja" if config == "Release" and shutil.which("ninja") else "Unix Makefiles"
    return run(args.cmake, "-S", source, "-B", build, "-G", generator, f"-DCMAKE_BUILD_TYPE={config}",
               f"-DLIBGMEM_CARGO={args.cargo}", *options, expect=expect, env=env)


def cargo_options(args):
    """Use what Cargo has built, and build only the library."""
    return [f"-DLIBGMEM_CARGO_TARGET_DIR={args.cargo_target_dir}", "-DLIBGMEM_BUILD_TESTS=OFF",
            "-DLIBGMEM_BUILD_EXAMPLES=OFF", "-DLIBGMEM_BUILD_BENCHES=OFF"]


def prefix(args):
    """The package's folder, after it was installed elsewhere and moved here."""
    return args.work / args.config / "moved"


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def compare(found, reviewed):
    wanted = [line for line in reviewed.read_text().splitlines() if line and not line.startswith("#")]
    missing, unexpected = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unexpected:
        sys.exit(f"{reviewed.name}: missing {missing}, not in the list {unexpected}")


def install(args):
    """Build, install with and without DESTDIR, and move the prefix away from where it was made."""
    top = args.work / args.config
    shutil.rmtree(top, ignore_errors=True)
    original = top / "original"
    configure(args, args.source, top / "build", *cargo_options(args), "-DLIBGMEM_INSTALL=ON",
              "-DCMAKE_INSTALL_LIBDIR=lib", f"-DCMAKE_INSTALL_PREFIX={original}", config=args.config)
    run(args.cmake, "--build", top / "build", "--parallel")
    run(args.cmake, "--install", top / "build")
    staged = top / "staged"
    run(args.cmake, "--install", top / "build", env={**os.environ, "DESTDIR": str(staged)})
    if files_below(staged / original.relative_to("/")) != files_below(original):
        sys.exit("DESTDIR holds something else than the prefix")
    shutil.rmtree(staged)
    original.rename(prefix(args))


def files(args):
    """Exactly the reviewed files, and no link that leads nowhere."""
    found = files_below(prefix(args))
    compare([name.replace(args.config.lower(), "CONFIG") for name in found], HERE / "installed.txt")
    dangling = [name for name in found if not (prefix(args) / name).exists()]
    if dangling:
        sys.exit(f"links that lead nowhere: {dangling}")


def exports(args):
    """Exactly the reviewed symbols."""
    for library in ("libgmem", "libgmem_api"):
        lines = run("nm", "-D", "--defined-only", "--without-symbol-versions",
                    prefix(args) / "lib" / f"{library}.so").splitlines()
        symbols = [line.split() for line in lines]
        # Type A is the name of a version.
        compare([name for _, kind, name in symbols if kind != "A"], HERE / f"exports.{library}.txt")


MOST_STATIC_TLS = 128


def binaries(args):
    """For the loader: SONAME, no RUNPATH, never unloaded, little static thread-local storage."""
    for library in ("libgmem", "libgmem_api"):
        path = prefix(args) / "lib" / f"{library}.so"
        dynamic = run("readelf", "-dW", path)
        for wanted in (rf"SONAME.*\[{library}\.so\.0\]", r"FLAGS_1.*NODELETE"):
            if not re.search(wanted, dynamic):
                sys.exit(f"{path.name}: no {wanted} in\n{dynamic}")
        if re.search("R(UN)?PATH", dynamic):
            sys.exit(f"{path.name} has a RUNPATH:\n{dynamic}")
        tls = re.search(r"^\s*TLS\s+\S+\s+\S+\s+\S+\s+\S+\s+(0x[0-9a-f]+)", run("readelf", "-lW", path), re.M)
        size = int(tls.group(1), 16) if tls else 0
        # glibc has 1664 bytes for all libraries that are dlopened and need static thread-local storage.
        if "STATIC_TLS" in dynamic and size > MOST_STATIC_TLS:
            sys.exit(f"{path.name} needs {size} bytes of static TLS; {MOST_STATIC_TLS} is the limit")


def paths(args):
    """No path of the machine that built it."""
    home = os.environ.get("CARGO_HOME") or os.path.join(os.path.expanduser("~"), ".cargo")
    secrets = [str(args.source), str(args.work), home, str(args.cargo_target_dir)]
    for name in files_below(prefix(args)):
        content = (prefix(args) / name).read_bytes()
        for secret in secrets:
            if secret.encode() in content:
                at = content.index(secret.encode())
                sys.exit(f"{name} holds a path of this machine: {content[at:at + 120]!r}")


def project_folder(args):
    return args.work / args.config / f"project-{args.way}"


def package_environment(args):
    return {**os.environ, "PKG_CONFIG_PATH": str(prefix(args) / "lib" / "pkgconfig")}


def need_pkg_config(args):
    if args.way == "pkgconfig" and not shutil.which("pkg-config"):
        print("skipped: no pkg-config here; apt-get install pkg-config")
        sys.exit(SKIPPED)


def project(args):
    """A project of a user's, configured."""
    need_pkg_config(args)
    options = [f"-DWAY={args.way}", f"-DCMAKE_PREFIX_PATH={prefix(args)}"]
    if args.way == "add_subdirectory":
        options += [f"-DLIBGMEM_SOURCE={args.source}", *cargo_options(args)[:1]]
    configure(args, HERE / "consumer", project_folder(args), *options, config=args.config, env=package_environment(args))


def consumer(args):
    """Its executable for a flavour, built and run."""
    need_pkg_config(args)
    target = f"consumer_{args.flavour}"
    run(args.cmake, "--build", project_folder(args), "--target", target, "--parallel", env=package_environment(args))
    print(run(project_folder(args) / target))


def messages(args):
    """Each mistake of a user's gets one clear sentence."""
    scratch = args.work / "messages"
    shutil.rmtree(scratch, ignore_errors=True)
    project = scratch / "project"
    project.mkdir(parents=True)
    found = f"-DCMAKE_PREFIX_PATH={prefix(args)}"

    def says(sentence, lines, *options, env=None, source=project):
        if lines is not None:
            (project / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.22)\n" + lines)
        output = configure(args, source, scratch / "build", *options, config="Release", expect=1, env=env)
        if sentence not in " ".join(output.split()):
            sys.exit(f"{lines or options}\nshould say: {sentence}\nbut says:\n{output}")

    says("libgmem's targets need C++: write project(<name> LANGUAGES C CXX)",
         "project(p LANGUAGES C)\nfind_package(libgmem REQUIRED)\n", found)
    says('libgmem has no component "cuda"; the components are libgmem, api and static.',
         "project(p LANGUAGES CXX)\nfind_package(libgmem REQUIRED COMPONENTS cuda)\n", found)
    says("version: 0.1.0", "project(p LANGUAGES CXX)\nfind_package(libgmem 0.2 REQUIRED)\n", found)

    rows = (args.source / "src/device/mod.rs").read_text().partition("const ALL:")[2].partition("];")[0]
    devices = ", ".join(re.findall(r"^    &(\w+)::", rows, re.MULTILINE))
    says(f"LIBGMEM_DEVICE=toaster is not a device of libgmem; the devices are: {devices}, and auto", None,
         "-DLIBGMEM_DEVICE=toaster", source=args.source)
    says("and /nowhere/cargo does not run", None, "-DLIBGMEM_CARGO=/nowhere/cargo", source=args.source)
    old = scratch / "cargo"
    old.write_text("#!/bin/sh\necho 'cargo 1.63.0 (fd9c4297c 2022-07-01)'\n")
    old.chmod(0o755)
    says(f"or newer, and {old} is 1.63.0: install one", None, f"-DLIBGMEM_CARGO={old}", source=args.source)
    tools = scratch / "path"
    tools.mkdir()
    for tool in ("cc", "c++", "make", "ninja", "ld", "ar", "ranlib", "strip", "nm", "objcopy", "objdump", "readelf", "as", "uname"):
        if shutil.which(tool):
            (tools / tool).symlink_to(shutil.which(tool))
    says("or newer and found none: install one", None, "-DLIBGMEM_CARGO=LIBGMEM_CARGO-NOTFOUND", source=args.source,
         env={**os.environ, "PATH": str(tools), "HOME": str(scratch)})


def libraries_of(args, build, env=None):
    """Build; when each library was linked."""
    run(args.cmake, "--build", build, "--parallel", env=env)
    return {name: (build / name).stat().st_mtime_ns for name in ("libgmem.so", "libgmem_api.so", "libgmem.a")}


def linked_again(before, after):
    return {name for name in after if after[name] != before[name]}


def rebuild(args):
    """Only what changed is linked again."""
    build = args.work / args.config / "build"
    with_malloc = {"libgmem.so", "libgmem.a"}

    def expect(before, wanted, after_what):
        after = libraries_of(args, build)
        if linked_again(before, after) != wanted:
            sys.exit(f"after {after_what}, {sorted(linked_again(before, after))} were linked again instead of {sorted(wanted)}")
        return after

    first = libraries_of(args, build)
    second = expect(first, set(), "nothing changed")
    for compiled in build.glob("CMakeFiles/gmem*/cpp/malloc.cpp.o"):
        compiled.unlink()
    third = expect(second, with_malloc, "malloc.cpp was compiled anew")
    # As after a change of a Rust source: Cargo's archive differs from the one that was linked.
    core, = build.glob("core/**/libgmem_core.a")
    core.write_bytes(b"older")
    expect(third, set(third), "the core changed")


def copy_of_sources(args, scratch):
    """Without what has been built."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(args.source, scratch / "source", ignore=shutil.ignore_patterns("build", "target", ".git"))
    return scratch / "source"


def vendored_home(args, scratch):
    """A CARGO_HOME that knows nothing but vendored crates; returns the environment for it."""
    home = scratch / "home"
    home.mkdir()
    run(args.cargo, "vendor", "--locked", scratch / "vendor", cwd=scratch / "source")
    (home / "config.toml").write_text('[source.crates-io]\nreplace-with = "vendored"\n'
                                      f'[source.vendored]\ndirectory = "{scratch / "vendor"}"\n')
    return {**os.environ, "CARGO_HOME": str(home)}


def vendored(args):
    """Cargo finds every crate of the lock file among the vendored ones, without a network."""
    scratch = args.work / "vendored"
    source = copy_of_sources(args, scratch)
    env = vendored_home(args, scratch)
    run(args.cargo, "metadata", "--offline", "--locked", "--format-version", "1", cwd=source, env=env)
    shutil.rmtree(scratch)


def offline(args):
    """A copy of the sources builds from vendored crates alone, and a change of a Rust source reaches the libraries."""
    scratch = args.work / "copy"
    source, build = copy_of_sources(args, scratch), scratch / "build"
    # It is about what is built, not how fast that runs.
    env = {**vendored_home(args, scratch), "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
    configure(args, source, build, *cargo_options(args)[1:], "-DLIBGMEM_CARGO_OFFLINE=ON", config="Release", env=env)
    first = libraries_of(args, build, env)
    text = "exceeds the address space"
    file = source / "src" / "error.rs"
    file.write_text(file.read_text().replace(text, "is more than there is"))
    second = libraries_of(args, build, env)
    for library in second:
        if text.encode() in (build / library).read_bytes():
            sys.exit(f"{library} is older than the Rust source")
    if linked_again(first, second) != set(second):
        sys.exit("changing a Rust source did not link everything again")
    shutil.rmtree(scratch)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--source", "--work", "--cmake", "--cargo", "--cargo-target-dir"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    commands = parser.add_subparsers(required=True, dest="command")
    for function in (install, files, exports, binaries, paths, project, consumer, messages, rebuild, vendored, offline):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        if function not in (vendored, offline):
            command.add_argument("config")
        if function in (project, consumer):
            command.add_argument("way")
        if function is consumer:
            command.add_argument("flavour")
    args = parser.parse_args()
    # A user's shell has none of these, but ctest's make and Cargo set them.
    for name in ("MAKEFLAGS", "DESTDIR", "CARGO_TARGET_DIR"):
        os.environ.pop(name, None)
    args.function(args)


if __name__ == "__main__":
    main()
