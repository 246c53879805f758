# SPDX-License-Identifier: Apache-2.0
"""Makes sure that the tools are there: installs what can be installed, and names the remedy for the rest."""

import contextlib
import fcntl
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "build" / "tools"

# Formatters differ between versions, so these two are always the ones pinned here.
PINNED = {"clang-format": "clang-format==19.1.7", "clang-tidy": "clang-tidy==19.1.0"}

# Headers and libraries that the adapters for other streams are tested against: packages of the distribution, with a file of
# each, and packages of PyPI, those of one tree together.
VENDOR_PACKAGES = {"libamdhip64-dev": "/usr/include/hip/hip_runtime_api.h", "opencl-headers": "/usr/include/CL/cl.h",
                   "ocl-icd-opencl-dev": "/usr/share/doc/ocl-icd-opencl-dev", "pocl-opencl-icd": "/etc/OpenCL/vendors/pocl.icd",
                   "libasio-dev": "/usr/include/asio.hpp"}
VENDOR_HEADERS = (("nvidia-cuda-nvcc==13.5.37", "nvidia-nvvm==13.5.37", "nvidia-cuda-crt==13.5.37", "nvidia-cuda-runtime==13.5.37"),
                  ("intel-sycl-rt==2025.1.0",))


def _path():
    """PATH, with the tools installed in build/tools first."""
    return os.pathsep.join([*(str(folder) for folder in TOOLS.glob("*/bin")), os.environ.get("PATH", ""),
                            str(pathlib.Path.home() / ".cargo" / "bin")])


def tool(name):
    return shutil.which(name, path=_path())


@contextlib.contextmanager
def _apt_lock():
    """One process or thread of ours at a time; for others, apt waits by itself."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def apt_update():
    """Bring the list of the distribution's packages up to date, once."""
    with _apt_lock():
        run.command("apt-get", "update", quiet=True, check=False)


def apt(*packages):
    """Install packages of the distribution; False where that is not possible."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    apt_update()
    run.step(f"installing {' '.join(packages)}")
    with _apt_lock():
        done = run.command("apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600",
                           *packages, quiet=True, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode != 0:
        print(f"apt-get install {' '.join(packages)} failed: {done.stdout.strip().splitlines()[-1:]}", flush=True)
    return done.returncode == 0


def pip():
    """Python's package installer."""
    def works():
        return subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    if not works() and not (apt("python3-pip") and works()):
        run.fail("pip is missing: apt-get install python3-pip")


def _pypi_folder(requirement):
    return TOOLS / re.match("[a-z0-9-]+", requirement)[0]


def pypi(*requirements, options=(), check=True):
    """Install from PyPI, each group into its own folder: pip would replace the bin of a shared one."""
    pip()
    run.step(f"installing {' '.join(requirements)} into build/tools")
    run.command(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                "--root-user-action=ignore", "--upgrade", "--target", _pypi_folder(requirements[0]), *options,
                *requirements, check=check)
    _use_pypi_tools()


def _use_pypi_tools():
    """Launchers that pip writes look for their package next to the interpreter, so PYTHONPATH names the folders in TOOLS."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)
              if path and not path.startswith(str(TOOLS))]
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, TOOLS.glob("*")), *others])


def _cmake_is_new_enough(path):
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"(\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= (3, 22)


def rust(for_what):
    if tool("cargo") is None:
        run.fail(f"cargo is missing, and ./dev {for_what} needs it: see https://rustup.rs")
    os.environ["PATH"] = _path()


def build_tools():
    """The tools that a build needs; returns cmake."""
    rust("build")
    for name, package in {"cc": "gcc", "c++": "g++", "make": "make"}.items():
        if tool(name) is None and not (apt(package) and tool(name)):
            run.fail(f"{name} is missing: apt-get install {package}")
    _use_pypi_tools()
    cmake = tool("cmake")
    if cmake is None or not _cmake_is_new_enough(cmake):
        if not (apt("cmake") and _cmake_is_new_enough(tool("cmake"))):
            pypi("cmake>=3.22,<4")
    if tool("ninja") is None and not apt("ninja-build"):
        pypi("ninja")
    return tool("cmake")


def vendors():
    """The headers and libraries that the adapters for other streams are tested against, and pkg-config for the package
    tests. Without some of them the tests that need them are skipped, and say so."""
    missing = [package for package, file in VENDOR_PACKAGES.items() if not pathlib.Path(file).exists()]
    if tool("pkg-config") is None:
        missing.append("pkg-config")
    # Together it is faster. One that cannot be had must not keep the others away.
    if missing and not apt(*missing):
        for package in missing:
            apt(package)
    for requirements in VENDOR_HEADERS:
        if not _pypi_folder(requirements[0]).exists():
            pypi(*requirements, options=["--no-deps"], check=False)
    # For tests/packages/abi.py.
    if tool("abidiff") is None:
        apt("abigail-tools")


def pinned(name):
    """A formatter in the pinned version."""
    path = TOOLS / name / "bin" / name
    if not path.exists():
        pypi(PINNED[name])
    _use_pypi_tools()
    return path
