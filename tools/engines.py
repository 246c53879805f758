#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs inference engines with libgmem and without: the examples in examples/engines, against installed packages.

usage: engines.py BUILD_FOLDER [NAME...] [--short] [--rounds N]

Fetches each engine in the version pinned here, installs libgmem beside it, builds the example and runs it in several ways by
turns. The results of all ways have to be the same. Prints a table, and leaves it as build/engines/table.md.

Exit status: 0 if all is well, 1 if a result or a count is wrong, 77 if no engine can be had.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable

# No .pyc files in the source tree.
sys.dont_write_bytecode = True

import debian  # noqa: E402
import run  # noqa: E402
import setup  # noqa: E402

EXAMPLES = setup.ROOT / "examples" / "engines"
WORK = setup.ROOT / "build" / "engines"
PHASES = ("load", "first", "steady", "free")
# glibc's malloc at its best for large blocks.
TUNED = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296:glibc.malloc.hugetlb=1"


class Missing(Exception):
    """An engine cannot be had; says why."""


class Wrong(Exception):
    """A run failed, or its result or a count is not as it has to be."""


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run an example: the value of --memory, and the environment."""

    name: str
    memory: str
    environment: dict = dataclasses.field(default_factory=dict)
    preloaded: bool = False


ENGINE = Way("engine", "engine")
TUNED_GLIBC = Way("tuned glibc", "engine", {"GLIBC_TUNABLES": TUNED})
PRELOADED = Way("libgmem preloaded", "engine", preloaded=True)
MMAP = Way("mmap", "mmap")
ADAPTER = Way("libgmem adapter", "libgmem")


@dataclasses.dataclass(frozen=True)
class Engine:
    """What has to be fetched, and how its example is built and run."""

    version: str
    # Fetches it into a folder.
    fetch: Callable
    # CMake's options for a folder with the engine.
    options: Callable
    ways: tuple
    mib: int
    short_mib: int
    # Folders of libraries that the example's own search path does not name.
    libraries: Callable = lambda folder: []
    # Writes what the example reads, for an engine in a folder and weights of so many MiB.
    prepare: Callable = lambda folder, mib: None
    # The adapter has at most this share of the engine's faults, in the phase that is named.
    faults: tuple = ("load", 0.1)


def from_pypi(*requirements):
    def fetch(folder):
        setup.pip()
        done = run.command(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                           "--root-user-action=ignore", "--target", folder, *requirements, quiet=True, check=False)
        if done.returncode != 0:
            raise Missing(f"{' '.join(requirements)} cannot be installed: {done.stdout.strip().splitlines()[-1]}")
    return fetch


def from_debian(*packages):
    def fetch(folder):
        try:
            debian.Machine().unpack(folder, *packages)
        except debian.Missing as why:
            raise Missing(str(why)) from why
    return fetch


def fetch_torch(folder):
    """About 190 packages, of 127 MB: Debian's libtorch is built with video and maps."""
    try:
        machine = debian.Machine()
        machine.unpack(folder, *machine.with_dependencies("libtorch-dev"))
    except debian.Missing as why:
        raise Missing(str(why)) from why


def fetch_onnxruntime(folder):
    """The library is Python's; its headers are Debian's, of an older version, which ONNX Runtime supports."""
    from_pypi(f"onnxruntime=={ONNXRUNTIME}")(folder)
    try:
        debian.Suite("trixie").unpack(folder, "libonnxruntime-dev")
    except debian.Missing as why:
        raise Missing(str(why)) from why
    library = folder / "onnxruntime" / "capi" / f"libonnxruntime.so.{ONNXRUNTIME}"
    library.with_name("libonnxruntime.so.1").symlink_to(library.name)


def executorch_program(folder, mib):
    layers = max(1, mib // 16)
    file = WORK / "data" / f"network.{layers}.pte"
    if not file.exists():
        run.command(sys.executable, EXAMPLES / "executorch" / "make_program.py", folder / "executorch", layers, file)


def debian_libraries(folder):
    libraries = folder / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    return [libraries, libraries / "blas", libraries / "lapack", folder / "usr" / "lib"]


ONNXRUNTIME = "1.31.1"

# Its CMake package wants the libraries of every module.
OPENCV_MODULES = ("calib3d", "contrib", "core", "dnn", "features2d", "flann", "highgui", "imgcodecs", "imgproc", "ml",
                  "objdetect", "photo", "shape", "stitching", "superres", "video", "videoio", "videostab", "viz")
OPENCV = ("libopencv-dev", *(f"libopencv-{module}{suffix}" for module in OPENCV_MODULES for suffix in ("-dev", "406")),
          "libtbb12", "libtbbmalloc2", "libtbbbind-2-5", "libprotobuf32", "libblas3", "liblapack3", "libgfortran5")


def linker_finds(folder):
    """Where the libraries are that those of Debian need."""
    return f"-DCMAKE_EXE_LINKER_FLAGS=-Wl,-rpath-link,{':'.join(map(str, debian_libraries(folder)))}"


# Arrow's default pool has an allocator of its own, which preloading does not replace.
SYSTEM_POOL = {"ARROW_DEFAULT_MEMORY_POOL": "system"}

ENGINES = {
    "ggml": Engine(
        "ggml-python 0.0.45", from_pypi("ggml-python==0.0.45"), lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}"],
        (ENGINE, TUNED_GLIBC, MMAP, PRELOADED, ADAPTER), 512, 64),
    "openvino": Engine(
        "openvino 2026.4.1", from_pypi("openvino==2026.4.1"),
        lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}/openvino/cmake"],
        (ENGINE, TUNED_GLIBC, PRELOADED, ADAPTER), 256, 32, faults=("load", 2)),
    "arrow": Engine(
        "pyarrow 26.0.1", from_pypi("pyarrow==26.0.1"), lambda folder: [f"-DPYARROW_FOLDER={folder}/pyarrow"],
        (ENGINE, dataclasses.replace(TUNED_GLIBC, environment={**TUNED_GLIBC.environment, **SYSTEM_POOL}), MMAP,
         dataclasses.replace(PRELOADED, environment=SYSTEM_POOL), ADAPTER), 512, 64, faults=("first", 2)),
    "onnxruntime": Engine(
        f"onnxruntime {ONNXRUNTIME}", fetch_onnxruntime,
        lambda folder: [f"-DONNXRUNTIME_INCLUDE_DIR={folder}/usr/include/onnxruntime",
                        f"-DONNXRUNTIME_LIBRARY={folder}/onnxruntime/capi/libonnxruntime.so.1"],
        (ENGINE, TUNED_GLIBC, PRELOADED, ADAPTER), 256, 32),
    "executorch": Engine(
        "executorch 1.5.1", from_pypi("executorch==1.5.1"),
        lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}/executorch/share/cmake"],
        (ENGINE, TUNED_GLIBC, MMAP, PRELOADED, ADAPTER), 256, 32, prepare=executorch_program),
    "opencv": Engine(
        "libopencv-dev 4.6.0", from_debian(*OPENCV),
        lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}/usr", linker_finds(folder)],
        (ENGINE, TUNED_GLIBC, PRELOADED, ADAPTER), 512, 64, libraries=debian_libraries, faults=("first", 0.1)),
    "torch": Engine(
        "libtorch-dev 1.13.1", fetch_torch, lambda folder: [f"-DTORCH_PREFIX={folder}/usr", linker_finds(folder)],
        (ENGINE, TUNED_GLIBC, PRELOADED, ADAPTER), 512, 64, libraries=debian_libraries),
}


@contextlib.contextmanager
def locked(name):
    """One process at a time fetches and builds a thing."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetched(name):
    """The folder with an engine."""
    engine = ENGINES[name]
    folder = WORK / "packages" / engine.version.replace(" ", "-")
    if not folder.exists():
        run.step(f"fetching {engine.version} (once)")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        engine.fetch(partial)
        partial.rename(folder)
    return folder


def installed(build_folder):
    """Installs libgmem, as its users have it; returns the prefix."""
    prefix = WORK / "libgmem"
    with locked("libgmem"):
        run.command(setup.tool("cmake"), "--install", build_folder, "--prefix", prefix, quiet=True)
    return prefix


def built(name, prefix, folder):
    """Builds an example; returns the program."""
    build = WORK / "examples" / name
    options = [option.replace("-DCMAKE_PREFIX_PATH=", f"-DCMAKE_PREFIX_PATH={prefix};")
               for option in ENGINES[name].options(folder)]
    if not any(option.startswith("-DCMAKE_PREFIX_PATH=") for option in options):
        options.append(f"-DCMAKE_PREFIX_PATH={prefix}")
    cmake = setup.tool("cmake")
    run.command(cmake, "-S", EXAMPLES / name, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *options, quiet=True)
    run.command(cmake, "--build", build, quiet=True)
    return build / f"engine_{name}"


def run_once(program, way, libraries, prefix, mib):
    """One run; returns what it measured."""
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
    environment |= way.environment
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
    if way.preloaded:
        environment["LD_PRELOAD"] = str(next(prefix.glob("lib*/**/libgmem.so")))
    done = subprocess.run([program, "--memory", way.memory, "--mib", str(mib), "--folder", WORK / "data"], env=environment, text=True,
                          capture_output=True, check=False, timeout=600)
    if done.returncode != 0:
        raise Wrong(f"{program.name}, {way.name}: exit status {done.returncode}\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def measure(name, build_folder, rounds, short):
    """Runs an engine in all its ways by turns; returns {way: {number: median}}."""
    engine = ENGINES[name]
    prefix = installed(build_folder)
    with locked(name):
        folder = fetched(name)
        program = built(name, prefix, folder)
        mib = engine.short_mib if short else engine.mib
        (WORK / "data").mkdir(exist_ok=True)
        engine.prepare(folder, mib)
    runs = {way.name: [] for way in engine.ways}
    run.step(f"{name}: {rounds} rounds of {len(engine.ways)} ways")
    for _ in range(rounds):
        for way in engine.ways:
            runs[way.name].append(run_once(program, way, engine.libraries(folder), prefix, mib))
    check(name, runs)
    return {way: {number: statistics.median(each[number] for each in done) for number in done[0] if number != "checksum"}
            for way, done in runs.items()}


def check(name, runs):
    """The results are the same, and the adapter avoids the faults that it is there for."""
    results = {way: {each["checksum"] for each in done} for way, done in runs.items()}
    if len(set.union(*results.values())) != 1:
        raise Wrong(f"{name}: the results differ: {results}")
    phase, share = ENGINES[name].faults
    own, engines = (min(each[f"{phase}_faults"] for each in runs[way.name]) for way in (ADAPTER, ENGINE))
    if own > engines * share + 100:
        raise Wrong(f"{name}: {own:.0f} page faults in the phase {phase!r} with the adapter, and {engines:.0f} without")


def table(measured):
    """A table for each engine, as text that is Markdown as well."""
    lines = []
    for name, ways in measured.items():
        lines += [f"### {name} ({ENGINES[name].version})", "",
                  "| way | load | first pass | steady pass | free | faults: load | first | steady | peak | after |",
                  "|---|---|---|---|---|---|---|---|---|---|"]
        for way, numbers in ways.items():
            times = (f"{numbers[f'{phase}_ms']:.4g} ({numbers[f'{phase}_cpu_ms']:.4g})" for phase in PHASES)
            faults = (f"{numbers[f'{phase}_faults']:.0f}" for phase in PHASES[:3])
            memory = (f"{numbers[f'{when}_mib']:.0f}" for when in ("peak", "after"))
            lines.append(f"| {way} | {' | '.join((*times, *faults, *memory))} |")
        lines.append("")
    lines.append("Times: median milliseconds, and in parentheses those of the processor; memory in MiB.")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--short", action="store_true", help="small models, one round")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_intermixed_args()
    unknown = set(asked.names) - set(ENGINES)
    if unknown:
        run.fail(f"no engine {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    measured, missing, wrong = {}, {}, {}
    for name in asked.names or ENGINES:
        try:
            measured[name] = measure(name, asked.build_folder, 1 if asked.short else asked.rounds, asked.short)
        except Missing as why:
            missing[name] = why
        except Wrong as why:
            wrong[name] = why
    if measured:
        text = table(measured)
        print(text)
        if not asked.short:
            (WORK / "table.md").write_text(text + "\n")
    for name, why in (missing | wrong).items():
        print(f"{name}: {why}")
    sys.exit(1 if wrong else 0 if measured else 77)


if __name__ == "__main__":
    main()
