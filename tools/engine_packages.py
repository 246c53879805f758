# SPDX-License-Identifier: Apache-2.0
"""The inference engines of ./dev engines: where each comes from, in which version, and how its example is built and run."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable

import debian
import run
import setup

EXAMPLES = setup.ROOT / "examples" / "engines"
WORK = setup.ROOT / "build" / "engines"
# glibc's malloc at its best for large blocks.
TUNED = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296:glibc.malloc.hugetlb=1"


class Missing(Exception):
    """An engine cannot be had; says why."""


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run an example: the value of --memory, and the environment."""

    name: str
    memory: str
    environment: dict = dataclasses.field(default_factory=dict)
    preloaded: bool = False
    # What the name of the program ends in: "_malloc" links libgmem::libgmem in place of libgmem::api.
    program: str = ""
    options: tuple = ()


ENGINE = Way("engine", "engine")
TUNED_GLIBC = Way("tuned glibc", "engine", {"GLIBC_TUNABLES": TUNED})
PRELOADED = Way("libgmem preloaded", "engine", preloaded=True)
LINKED = Way("libgmem linked", "engine", program="_malloc")
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
    # Its example computes the embeddings of examples/minilm, too, which may differ by so much.
    minilm: float = 0
    # A program of the example that checks more, and prints what it saw.
    checks: str = ""


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
    """About 190 packages, of 127 MB: Debian's libtorch is built with video and maps. With a BLAS that people use."""
    try:
        machine = debian.Machine()
        machine.unpack(folder, *machine.with_dependencies("libtorch-dev"), "libopenblas0-pthread")
    except debian.Missing as why:
        raise Missing(str(why)) from why


def fetch_onnxruntime(folder):
    """The library is Python's, which has no headers. They are Debian's, the newest that are not newer than the library."""
    from_pypi(f"onnxruntime=={ONNXRUNTIME}")(folder)
    library = folder / "onnxruntime" / "capi" / f"libonnxruntime.so.{ONNXRUNTIME}"
    library.with_name("libonnxruntime.so.1").symlink_to(library.name)
    headers, why = "libonnxruntime-dev", None
    for suite in map(debian.Suite, ("experimental", "sid", "trixie")):
        try:
            usable = [version for version in suite.versions(headers) if minor(version) <= minor(ONNXRUNTIME)]
            if usable:
                suite.unpack(folder, f"{headers}={usable[0]}")
                return
        except debian.Missing as missing:
            why = missing
    raise Missing(f"no {headers} of Debian's is usable with version {ONNXRUNTIME}: {why or 'all are newer'}")


def minor(version):
    """The first two numbers of a version: (1, 27) of "1.27.1+dfsg-1"."""
    return tuple(map(int, version.split(".")[:2]))


def fetch_llama(folder):
    """llama.cpp's source is in a crate. It is built and installed; all but the library and the CPU's backend is left out."""
    source = folder / "source"
    source.mkdir()
    manifest = source / "Cargo.toml"
    manifest.write_text(f'[package]\nname = "source"\nedition = "2021"\n[lib]\npath = "none.rs"\n'
                        f'[dependencies]\nllama-cpp-sys-2 = "={LLAMA}"\n')
    (source / "none.rs").touch()
    done = subprocess.run([setup.tool("cargo"), "metadata", "--format-version", "1", "--manifest-path", manifest,
                           "--filter-platform", f"{platform.machine()}-unknown-linux-gnu"], text=True, capture_output=True,
                          check=False, cwd="/")
    if done.returncode != 0:
        raise Missing(f"the crate llama-cpp-sys-2 cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    crate = next(package for package in json.loads(done.stdout)["packages"] if package["name"] == "llama-cpp-sys-2")
    run.step("building llama.cpp (once, some minutes)")
    cmake = setup.tool("cmake")
    left_out = ("BUILD_COMMON", "BUILD_TESTS", "BUILD_TOOLS", "BUILD_EXAMPLES", "BUILD_SERVER", "BUILD_APP", "OPENSSL")
    run.command(cmake, "-S", pathlib.Path(crate["manifest_path"]).parent / "llama.cpp", "-B", source / "build",
                "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_INSTALL_PREFIX={folder}", "-DCMAKE_INSTALL_LIBDIR=lib",
                *(f"-DLLAMA_{part}=OFF" for part in left_out), "-DGGML_NATIVE=OFF", "-DGGML_OPENMP=OFF", quiet=True)
    run.command(cmake, "--build", source / "build", "--parallel", os.cpu_count() or 2, quiet=True)
    run.command(cmake, "--install", source / "build", quiet=True)
    shutil.rmtree(source)


def executorch_program(folder, mib):
    layers = max(1, mib // 16)
    file = WORK / "data" / f"network.{layers}.pte"
    if not file.exists():
        run.command(sys.executable, EXAMPLES / "executorch" / "make_program.py", folder / "executorch", layers, file)


def debian_libraries(folder):
    libraries = folder / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    return [libraries / "openblas-pthread", libraries, libraries / "blas", libraries / "lapack", folder / "usr" / "lib"]


ONNXRUNTIME = "1.32.0"
LLAMA = "0.1.161"

# Its CMake package wants the libraries of every module.
OPENCV_MODULES = ("calib3d", "contrib", "core", "dnn", "features2d", "flann", "highgui", "imgcodecs", "imgproc", "ml",
                  "objdetect", "photo", "shape", "stitching", "superres", "video", "videoio", "videostab", "viz")
OPENCV = ("libopencv-dev", *(f"libopencv-{module}{suffix}" for module in OPENCV_MODULES for suffix in ("-dev", "406")),
          "libtbb12", "libtbbmalloc2", "libtbbbind-2-5", "libprotobuf32", "libblas3", "liblapack3", "libgfortran5")


def linker_finds(folder):
    """Names the folders of the libraries that those of Debian need."""
    return f"-DCMAKE_EXE_LINKER_FLAGS=-Wl,-rpath-link,{':'.join(map(str, debian_libraries(folder)))}"


# Arrow's default pool has an allocator of its own, which preloading does not replace.
SYSTEM_POOL = {"ARROW_DEFAULT_MEMORY_POOL": "system"}

ENGINES = {
    "ggml": Engine(
        "ggml-python 0.0.45", from_pypi("ggml-python==0.0.45"), lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}"],
        (ENGINE, TUNED_GLIBC, MMAP, PRELOADED, ADAPTER, Way("libgmem adapter, device", "device")), 512, 64),
    # llama.cpp's way of reading the weights is the one without libgmem; mapping them is its default.
    "llama": Engine(
        f"llama-cpp-sys-2 {LLAMA}", fetch_llama, lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}"],
        (ENGINE, TUNED_GLIBC, MMAP, PRELOADED, LINKED, dataclasses.replace(ADAPTER, name="libgmem linked, room", program="_malloc"),
         dataclasses.replace(MMAP, name="mmap, cold cache", options=("--cold", "1")),
         Way("libgmem, mmap, cold cache", "mapped", options=("--cold", "1"))), 4096, 128,
        # Its GELU is a table of 16-bit numbers.
        libraries=lambda folder: [folder / "lib"], minilm=1e-3),
    "openvino": Engine(
        "openvino 2026.4.1", from_pypi("openvino==2026.4.1"),
        lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}/openvino/cmake"],
        (ENGINE, TUNED_GLIBC, PRELOADED, LINKED, ADAPTER), 256, 32, faults=("load", 2), minilm=1e-4),
    "arrow": Engine(
        "pyarrow 26.0.1", from_pypi("pyarrow==26.0.1"), lambda folder: [f"-DPYARROW_FOLDER={folder}/pyarrow"],
        (ENGINE, dataclasses.replace(TUNED_GLIBC, environment={**TUNED_GLIBC.environment, **SYSTEM_POOL}), MMAP,
         dataclasses.replace(PRELOADED, environment=SYSTEM_POOL), ADAPTER), 512, 64, faults=("first", 2)),
    "onnxruntime": Engine(
        f"onnxruntime {ONNXRUNTIME}", fetch_onnxruntime,
        lambda folder: [f"-DONNXRUNTIME_INCLUDE_DIR={folder}/usr/include/onnxruntime",
                        f"-DONNXRUNTIME_LIBRARY={folder}/onnxruntime/capi/libonnxruntime.so.1"],
        (ENGINE, TUNED_GLIBC, PRELOADED, ADAPTER), 256, 32, minilm=1e-4, checks="engine_onnxruntime_members"),
    "executorch": Engine(
        "executorch 1.5.1", from_pypi("executorch==1.5.1"),
        lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}/executorch/share/cmake"],
        (ENGINE, TUNED_GLIBC, MMAP, PRELOADED, ADAPTER), 1024, 32, prepare=executorch_program),
    "opencv": Engine(
        "libopencv-dev 4.6.0", from_debian(*OPENCV),
        lambda folder: [f"-DCMAKE_PREFIX_PATH={folder}/usr", linker_finds(folder)],
        (ENGINE, TUNED_GLIBC, PRELOADED, ADAPTER), 512, 64, libraries=debian_libraries, faults=("first", 0.1)),
    "torch": Engine(
        "libtorch-dev 1.13.1 with libopenblas0", fetch_torch, lambda folder: [f"-DTORCH_PREFIX={folder}/usr", linker_finds(folder)],
        (ENGINE, TUNED_GLIBC, PRELOADED, ADAPTER), 1024, 64, libraries=debian_libraries),
}


@contextlib.contextmanager
def locked(name):
    """One process at a time fetches and builds a thing."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetched(version, fetch):
    """The folder with what a function fetches into a folder, once for each version."""
    folder = WORK / "packages" / version.replace(" ", "-")
    if not folder.exists():
        run.step(f"fetching {version} (once)")
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        fetch(partial)
        partial.rename(folder)
    return folder


def installed(build_folder):
    """Installs libgmem, as its users have it; returns the prefix."""
    prefix = WORK / "libgmem"
    with locked("libgmem"):
        run.command(setup.tool("cmake"), "--install", build_folder, "--prefix", prefix, quiet=True)
    return prefix


def built(name, prefix, folder):
    """Builds an example; returns the folder of its programs."""
    build = WORK / "examples" / name
    options = [option.replace("-DCMAKE_PREFIX_PATH=", f"-DCMAKE_PREFIX_PATH={prefix};")
               for option in ENGINES[name].options(folder)]
    if not any(option.startswith("-DCMAKE_PREFIX_PATH=") for option in options):
        options.append(f"-DCMAKE_PREFIX_PATH={prefix}")
    cmake = setup.tool("cmake")
    run.command(cmake, "-S", EXAMPLES / name, "-B", build, "-DCMAKE_BUILD_TYPE=Release",
                "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options, quiet=True)
    run.command(cmake, "--build", build, quiet=True)
    return build
