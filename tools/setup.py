# SPDX-License-Identifier: Apache-2.0
"""Makes sure that the tools are there: what can be installed is, what cannot is named with the remedy."""

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

# What the adapters for other streams are tested against: packages of the distribution with a file of each, and of PyPI,
# where what belongs together makes one tree.
VENDOR_PACKAGES = {"libamdhip64-dev": "/usr/include/hip/hip_runtime_api.h", "opencl-headers": "/usr/include/CL/cl.h",
                   "ocl-icd-opencl-dev": "/usr/share/doc/ocl-icd-opencl-dev", "pocl-opencl-icd": "/etc/OpenCL/vendors/pocl.icd",
                   "libasio-dev": "/usr/include/asio.hpp"}
VENDOR_HEADERS = (("nvidia-cuda-nvcc==13.5.37", "nvidia-nvvm==13.5.37", "nvidia-cuda-crt==13.5.37", "nvidia-cuda-runtime==13.5.37"),
                  ("intel-sycl-rt==2025.1.0",))


def _path():
    """PATH with what was installed here first."""
    return os.pathsep.join([*(str(folder) for folder in TOOLS.glob("*/bin")), os.environ.get("PATH", ""),
                            str(pathlib.Path.home() / ".cargo" / "bin")])


def tool(name):
    return shutil.which(name, path=_path())


@functools.cache
def _apt_updated():
    run.command("apt-get", "update", quiet=True)


def apt(*packages):
    """Install packages of the distribution; False where that is not possible."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    _apt_updated()
    run.step(f"installing {' '.join(packages)}")
    done = run.command("apt-get", "install", "-y", "--no-install-recommends", *packages, quiet=True, check=False,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
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
    """Install from PyPI into a folder of their own, because pip replaces the bin of a shared one."""
    pip()
    run.step(f"installing {' '.join(requirements)} into build/tools")
    run.command(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                "--root-user-action=ignore", "--upgrade", "--target", _pypi_folder(requirements[0]), *options,
                *requirements, check=check)
    _use_pypi_tools()


def _use_pypi_tools():
    """The launchers that pip writes look for their package beside the interpreter, not in TOOLS."""
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
    """Everything that a build needs; returns cmake."""
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
    """The headers and libraries that the adapters for other streams are tested against. Without some of them the
    tests that need them are skipped, and say so."""
    for package, file in VENDOR_PACKAGES.items():
        if not pathlib.Path(file).exists():
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
