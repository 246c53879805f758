# SPDX-License-Identifier: Apache-2.0
"""Makes the packages: a source archive with vendored crates, and from it .deb, .rpm and a Conan package.

docs/packaging.md is for packagers; all output is below build/package/.
"""

import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

import run
import setup

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "package"
VENDORED = """
# The crates are in vendor/; no network is needed.
[source.crates-io]
replace-with = "vendored-sources"
[source.vendored-sources]
directory = "vendor"
"""

# Debian packages, with a program of each.
TOOLS = {"debhelper": "dh", "fakeroot": "fakeroot", "lintian": "lintian", "rpm": "rpmbuild", "rpmlint": "rpmlint",
         "abigail-tools": "abidw", "mmdebstrap": "mmdebstrap"}


def need(*packages):
    """Install the tools of some Debian packages, or say what is missing."""
    for package in packages:
        if shutil.which(TOOLS[package]) is None and not setup.apt(package):
            run.fail(f"{TOOLS[package]} is missing: apt-get install {package}")


def _manifest(key):
    return re.search(rf'^{key} = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def version():
    return _manifest("version")


def _commit_time():
    """The time of the last commit, so that two runs make the same archive."""
    said = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return datetime.datetime.fromtimestamp(int(said), datetime.timezone.utc)


def _substitute(text):
    when = _commit_time()
    malloc_names = [name for name in (ROOT / "tests" / "package" / "exports.libgmem.txt").read_text().splitlines()
                    if name and not name.startswith(("#", "gmem", "_ZN4gmem"))]
    # As for Debian's other tools.
    packager = f"{os.environ.get('DEBFULLNAME', 'libgmem packagers')} <{os.environ.get('DEBEMAIL', 'packagers@libgmem.invalid')}>"
    values = {"PACKAGER": packager, "VERSION": version(), "RUST_VERSION": _manifest("rust-version"),
              "DATE": when.strftime("%a, %d %b %Y %H:%M:%S +0000"), "RPM_DATE": when.strftime("%a %b %d %Y"),
              "MALLOC_SYMBOLS": "\n".join(f" {name}@Base {version()}" for name in malloc_names)}
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)


def _toolchain_path():
    """PATH with the toolchain itself first: rustup's launchers need the user's home, which package builds replace."""
    setup.rust("package")
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], text=True, capture_output=True, check=True).stdout.strip()
    return f"{sysroot}/bin{os.pathsep}{os.environ['PATH']}"


def _offline_environment(home):
    """An environment in which cargo has neither a network nor a cache."""
    home.mkdir(parents=True, exist_ok=True)
    dropped = ("CARGO_", "RUST", "MAKEFLAGS", "DESTDIR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "PATH": _toolchain_path(), "HOME": str(home), "CARGO_HOME": str(home / ".cargo"),
            "CARGO_NET_OFFLINE": "true"}


# ---- the source archive -----------------------------------------------------------------------------------------------


def _empty_crate(crate):
    """Keep only what cargo reads of a crate for another system: its manifest."""
    for path in crate.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("Cargo.toml", ".cargo-checksum.json") and not path.name.lower().startswith("license"):
            path.unlink()
    (crate / "src").mkdir()
    (crate / "src" / "lib.rs").touch()
    manifest = crate / "Cargo.toml"
    # The build script is gone.
    manifest.write_text(re.sub(r'^build = ".*"$', "build = false", manifest.read_text(), flags=re.M))
    checksums = crate / ".cargo-checksum.json"
    checksums.write_text(json.dumps({**json.loads(checksums.read_text()), "files": {}}))


def source():
    """Make libgmem-<version>.tar.xz, which builds without a network; returns its path."""
    setup.rust("package")
    name = f"libgmem-{version()}"
    tree = OUT / "source" / name
    shutil.rmtree(tree.parent, ignore_errors=True)
    run.step(f"{name}.tar.xz: the sources and the crates")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, capture_output=True,
                            check=True).stdout.splitlines()
    for path in listed:
        if (ROOT / path).exists():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, tree / path, follow_symlinks=False)
    run.command("cargo", "vendor", "--locked", "vendor", cwd=tree, quiet=True)
    # Windows' import libraries are binaries without a source, and of no use here.
    for crate in (tree / "vendor").iterdir():
        if re.match(r"(windows|winapi)", crate.name):
            _empty_crate(crate)
    with open(tree / ".cargo" / "config.toml", "a", encoding="utf-8") as file:
        file.write(VENDORED)
    run.command("sh", tree / "autogen.sh", quiet=True)
    archive = OUT / f"{name}.tar.xz"
    when = int(_commit_time().timestamp())

    def as_released(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = when
        return entry

    with tarfile.open(archive, "w:xz", preset=3) as packed:
        packed.add(tree, name, filter=as_released)
    shutil.rmtree(tree.parent)
    return archive


# ---- .deb -------------------------------------------------------------------------------------------------------------


def deb():
    """Make the .deb packages from the source archive, and check them with lintian."""
    need("debhelper", "fakeroot", "lintian")
    archive = source()
    folder = OUT / "deb"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(archive, folder / f"libgmem_{version()}.orig.tar.xz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder)
    tree = folder / f"libgmem-{version()}"
    for path in (ROOT / "packaging" / "debian").rglob("*"):
        if path.is_file():
            target = tree / "debian" / path.relative_to(ROOT / "packaging" / "debian")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_substitute(path.read_text()))
            target.chmod(path.stat().st_mode)
    run.step("dpkg-buildpackage (a few minutes)")
    environment = {**_offline_environment(folder / "home"), "DEB_BUILD_OPTIONS": f"parallel={os.cpu_count()}",
                   "DEB_BUILD_PROFILES": "pkg.libgmem.rustup"}
    run.command("dpkg-buildpackage", "--no-sign", cwd=tree, env=environment, quiet=True)
    shutil.rmtree(tree)
    run.step("lintian")
    changes = next(folder.glob("*.changes"))
    run.command("lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", changes)
    return sorted(folder.glob("*.deb"))


# ---- .rpm -------------------------------------------------------------------------------------------------------------


def rpm():
    """Make the .rpm packages from the source archive, and check them with rpmlint."""
    need("rpm", "rpmlint")
    archive = source()
    folder = OUT / "rpm"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "SOURCES").mkdir(parents=True)
    shutil.copy(archive, folder / "SOURCES")
    spec = folder / "libgmem.spec"
    spec.write_text(_substitute((ROOT / "packaging" / "rpm" / "libgmem.spec.in").read_text()))
    options = ["--define", f"_topdir {folder}"]
    if shutil.which("rpm", path="/usr/bin") and pathlib.Path("/etc/debian_version").exists():
        # Debian's rpm knows neither its own packages nor openEuler's names and folders.
        options += ["--nodeps", "--define", "_lib lib64", "--define", "_libdir /usr/lib64", "--define", "debug_package %{nil}"]
    run.step("rpmbuild (a few minutes)")
    run.command("rpmbuild", "-ba", *options, spec, env=_offline_environment(folder / "home"), quiet=True)
    shutil.rmtree(folder / "BUILD", ignore_errors=True)
    packages = sorted(folder.glob("*RPMS/**/*.rpm"))
    run.step("rpmlint")
    run.command("rpmlint", "--strict", "--config", ROOT / "packaging" / "rpm" / "rpmlint.toml", spec, *packages)
    return packages


# ---- Conan ------------------------------------------------------------------------------------------------------------


def conan():
    """Run `conan create` on the recipe, with its test package."""
    setup.build_tools()
    program = setup.TOOLS / "conan" / "bin" / "conan"
    if not program.exists():
        setup.pypi("conan==2.32.0")
    environment = {**os.environ, "CONAN_HOME": str(OUT / "conan"), "PATH": _toolchain_path(),
                   "PYTHONPATH": str(setup.TOOLS / "conan")}
    run.command(sys.executable, program, "profile", "detect", "--exist-ok", env=environment, quiet=True)
    run.step("conan create (a few minutes)")
    run.command(sys.executable, program, "create", ".", "--no-remote",
                "--conf", f"tools.cmake.cmake_layout:test_folder={OUT / 'conan-test'}", cwd=ROOT / "packaging" / "conan", env=environment,
                quiet=True)


# ---- the binary interface ---------------------------------------------------------------------------------------------


def abi(folder):
    """Write the description of the binary interface anew: tests/packages/abi/*.abi."""
    need("abigail-tools")
    run.command(sys.executable, ROOT / "tests" / "packages" / "abi.py", "--write", "--work", OUT / "abi",
                "--include", ROOT / "include", "--libraries", folder, "--cc", "cc")


def package(build, what="all"):
    """what: all, source, deb, rpm, conan, or --abi."""
    makers = {"source": [source], "deb": [deb], "rpm": [rpm], "conan": [conan], "all": [deb, rpm, conan]}
    if what == "--abi":
        for target in ("gmem", "gmem_api"):
            folder = build("Release", target=target)
        abi(folder)
    elif what in makers:
        for make in makers[what]:
            make()
    else:
        run.fail(f"WHAT is {what!r}; it is {', '.join(makers)} or --abi")
