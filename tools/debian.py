# SPDX-License-Identifier: Apache-2.0
"""Downloads packages of any suite and architecture of the configured Debian mirror and unpacks them into a folder.
Nothing is installed and the machine's own package lists stay as they are."""

import functools
import pathlib
import platform
import re
import shutil
import subprocess
import tempfile
import time

import run
import setup

CACHE = setup.ROOT / "build" / "debian"
KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Debian's names for what the kernel and compilers call x86_64 and aarch64.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Missing(Exception):
    """A package cannot be had; the text says which and why."""


@functools.cache
def _mirror():
    """The address of the first archive that apt knows with a Debian release in it."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing("packages of Debian's are needed, and this is another distribution")
    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)",
                             "Created-By: Packages"], text=True, capture_output=True, check=False)
    found = re.search(r"^(\S+) Debian Debian$", listed.stdout, re.MULTILINE)
    if found is None:
        raise Missing("apt has no Debian archive among its sources")
    return found[1]


class Machine:
    """The releases that the machine's own apt is configured for."""

    name = "this machine's apt"

    def _apt(self, program, *words, **options):
        return subprocess.run([program, *words], text=True, capture_output=True, check=False, **options)

    def update(self):
        """Fetch the lists of packages."""
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise Missing("packages of Debian's are needed, and this is another distribution")
        setup.apt_update()

    def dependencies(self, package, pattern):
        """Packages that a package needs, of those whose name matches."""
        self.update()
        found = self._apt("apt-cache", "depends", package)
        return re.findall(rf"Depends: ({pattern})$", found.stdout, re.MULTILINE)

    def with_dependencies(self, package):
        """A package, and all that it needs and the machine lacks."""
        self.update()
        planned = self._apt("apt-get", "install", "--simulate", "--no-install-recommends", package)
        if planned.returncode != 0:
            raise Missing(f"{package} cannot be installed: {planned.stderr.strip()}")
        return re.findall(r"^Inst (\S+)", planned.stdout, re.MULTILINE) or [package]

    def versions(self, package):
        """The versions of a package, newest first."""
        self.update()
        return re.findall(r"^Version: (\S+)$", self._apt("apt-cache", "show", package).stdout, re.MULTILINE)

    def unpack(self, folder, *packages):
        """Unpack packages ("name" or "name=version") into a folder."""
        self.update()
        run.step(f"fetching {' '.join(packages)} (once)")
        with tempfile.TemporaryDirectory(prefix="debian-") as archives:
            done = self._apt("apt-get", "download", *packages, cwd=archives)
            if done.returncode != 0:
                raise Missing(f"{' '.join(packages)} cannot be downloaded: {done.stderr.strip()}")
            for archive in pathlib.Path(archives).glob("*.deb"):
                run.command("dpkg-deb", "-x", archive, folder, quiet=True)


class Suite(Machine):
    """A release of Debian for one architecture ("trixie", "arm64"), whatever the machine runs."""

    def __init__(self, name, architecture=None):
        self.name = name
        self.architecture = architecture or ARCHITECTURES.get(platform.machine(), platform.machine())
        self.folder = CACHE / f"{name}-{self.architecture}"

    def _apt(self, program, *words, **options):
        folder = self.folder
        settings = {"Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
                    "Dir::State": folder / "state", "Dir::State::status": folder / "status",
                    "Dir::Cache": folder / "cache", "APT::Architecture": self.architecture,
                    "APT::Architectures": self.architecture, "APT::Sandbox::User": "root",
                    "Acquire::Languages": "none"}
        flags = [flag for name, value in settings.items() for flag in ("-o", f"{name}={value}")]
        return subprocess.run([program, *flags, *words], text=True, capture_output=True, check=False, **options)

    @functools.cache
    def update(self):
        """Fetch the suite's list of packages, once a day."""
        fetched = self.folder / "fetched"
        if fetched.exists() and time.time() - fetched.stat().st_mtime < 24 * 3600:
            return
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        (self.folder / "sources.list").write_text(f"deb {signed}{_mirror()} {self.name} main\n")
        done = self._apt("apt-get", "update")
        if done.returncode != 0:
            raise Missing(f"the list of {self.name} for {self.architecture} cannot be had: {done.stderr.strip()}")
        fetched.touch()
