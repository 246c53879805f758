# SPDX-License-Identifier: Apache-2.0
"""The allocators that the heap is compared with: the distribution's, and those that benches/peers builds."""

import ctypes
import glob
import pathlib
import re

import run
import setup

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "peers"
HARDENED = ROOT / "build" / "peers-hardened"

DEBIAN = {  # name: package, library
    "jemalloc": ("libjemalloc2", "libjemalloc.so.2"),
    "mimalloc2": ("libmimalloc2.0", "libmimalloc.so.2*"),
    "tcmalloc": ("libtcmalloc-minimal4", "libtcmalloc_minimal.so.4"),
    "tbb": ("libtbbmalloc2", "libtbbmalloc_proxy.so.2"),
}
CRATES = {  # name: folder in benches/peers
    "mimalloc3": "mimalloc",
    "snmalloc": "snmalloc",
}


def prepare():
    """Install and build what is not there yet; what cannot be had is named by available()."""
    missing = [package for name, (package, _) in DEBIAN.items() if _find(name) is None]
    if missing:
        setup.apt(*missing)
    _build(BUILT)


def prepare_hardened():
    """Build the hardened forms of mimalloc and snmalloc, and install scudo."""
    if _scudo() is None:
        setup.apt("libclang-common-15-dev")
    _build(HARDENED, "--features", "secure")


def _build(folder, *options):
    run.step("building mimalloc 3 and snmalloc (the first time takes minutes)")
    for name in CRATES:
        # From /, so that this repository's .cargo/config.toml, made for jemalloc, is not read.
        done = run.command("cargo", "build", "--release", "--locked", "--package", f"peer_{name}", *options,
                           "--manifest-path", ROOT / "benches" / "peers" / "Cargo.toml", "--target-dir", folder,
                           cwd="/", quiet=True, check=False)
        if done.returncode != 0:
            print(*done.stdout.splitlines()[-10:], sep="\n")
            _built(name, folder).unlink(missing_ok=True)  # what an earlier build left would be compared instead


def _built(name, folder=BUILT):
    return folder / "release" / f"libpeer_{name}.so"


def hardened():
    """({name: library to preload}, [line on each]): the C library, and allocators in their hardened forms."""
    libraries = {"glibc": None}
    for name in CRATES:
        if _built(name, HARDENED).exists():
            libraries[f"{name}, secure"] = str(_built(name, HARDENED))
    if _scudo() is not None:
        libraries["scudo"] = _scudo()
    return libraries, [f"{name}: {library}" for name, library in libraries.items() if library]


def _scudo():
    found = sorted(glob.glob("/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.scudo_standalone-*.so"))
    return found[-1] if found else None


def available():
    """({name: library to preload, None for the C library}, [line on each peer])."""
    libraries, notes = {"glibc": None}, []
    for name in (*DEBIAN, *CRATES):
        path = _find(name)
        if path is not None:
            libraries[name] = path
            notes.append(f"{name}: {_version(name, path)}")
        elif name in DEBIAN:
            notes.append(f"{name} is not here and not compared with: apt-get install {DEBIAN[name][0]}")
        else:
            notes.append(f"{name} is not here and not compared with: ./dev bench heap builds it, or says why not")
    return libraries, notes


def _find(name):
    if name in DEBIAN:
        library = DEBIAN[name][1]
        found = sorted(glob.glob(f"/usr/lib/*/{library}") + glob.glob(f"/usr/lib/{library}"))
        return found[0] if found else None
    return str(_built(name)) if _built(name).exists() else None


def _version(name, path):
    if name == "mimalloc3":  # asked, because a feature of the crate decides which one it compiles
        number = ctypes.CDLL(path).peer_version()
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    if name in CRATES:
        manifest = (ROOT / "benches" / "peers" / CRATES[name] / "Cargo.toml").read_text()
        return f"crate {re.search('version = .=([0-9.]+)', manifest)[1]}"
    return pathlib.Path(path).resolve().name
