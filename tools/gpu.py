# SPDX-License-Identifier: Apache-2.0
"""Tests and figures on a GPU, as one page.

A machine with a GPU may have neither a network nor cargo: the program is one file, which `pack` builds into build/gpu, and
which runs wherever the C library is no older than where it was built.
"""

import datetime
import os
import pathlib
import shutil
import subprocess

import run
import setup

FOLDER = setup.ROOT / "build" / "gpu"
PROGRAM = FOLDER / "gpu"
# ctest's code for "skipped".
SKIPPED = 77
# Seconds; all four together stay below 8 minutes, with what building takes.
LIMIT = 90


def pack(build):
    """Build it and put it aside."""
    folder = build("Release", target="gpu")
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copy2(folder / "tests" / "gpu" / "gpu", PROGRAM)
    if shutil.which("strip"):
        run.command("strip", "--strip-debug", PROGRAM)
    run.step(f"{PROGRAM.relative_to(setup.ROOT)} is ready, {PROGRAM.stat().st_size >> 20} MiB")


def _call(*words, **settings):
    environment = {**os.environ, "GMEM_DEVICE": "cuda", **settings}
    try:
        done = subprocess.run([PROGRAM, *words], env=environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired as late:
        said = late.stdout or ""
        return 124, said.decode() if isinstance(said, bytes) else said
    return done.returncode, done.stdout


def _nvidia_smi(*words):
    """What it says; nothing where there is none or it fails."""
    try:
        asked = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, check=False, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _lists_a_gpu():
    return _nvidia_smi("--list-gpus").startswith("GPU")


def _machine():
    gpu = _nvidia_smi("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader") or "nvidia-smi says nothing"
    return f"{datetime.date.today()}, {gpu}, Linux {os.uname().release}"


def measure(build):
    """Returns the exit status: 0, 1, or 77 where there is no GPU."""
    if setup.tool("cargo") is not None:
        pack(build)
    elif not PROGRAM.exists():
        run.fail("there is no cargo here: `./dev gpu pack` on a machine that has it, and bring build/gpu along")
    model = setup.ROOT / "build" / "minilm-model" / "model.safetensors"
    weights = [model] if model.exists() else []
    page, failed = f"# Device cuda on a GPU\n\n`./dev gpu`, {_machine()}.\n", False
    # The kinds that the GPU needs, and managed memory in any case.
    for settings in ({}, {"GMEM_CUDA_MEMORY": "managed"}):
        if settings and "are managed memory" in page:
            break
        run.step(f"tests on the GPU {settings or ''}")
        status, said = _call("check", **settings)
        print(said, end="")
        if status == SKIPPED and not _lists_a_gpu():
            print("./dev gpu: no GPU, nothing was tested or measured")
            return SKIPPED
        verdict = "All tests pass" if status == 0 else f"The tests FAILED with status {status}"
        run.step("figures")
        measured, table = _call("figures", *weights, **settings)
        failed |= status != 0 or measured != 0
        page += f"\n{verdict}. Figures ended with status {measured}: {table}"
    out = pathlib.Path(os.environ.get("OUT") or FOLDER) / "gpu.md"
    out.write_text(page)
    print(f"{page}\n(in {out})")
    return 1 if failed else 0
