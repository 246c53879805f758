# SPDX-License-Identifier: Apache-2.0
"""The model of examples/minilm for other engines: in their formats, with sentences and the embeddings that it gives for them."""

import array
import json
import shutil
import subprocess
import sys

import engine_packages
import run
import setup
import testing

REFERENCE = json.loads((setup.ROOT / "examples" / "minilm" / "reference.json").read_text(encoding="utf-8"))["sentences"]
SENTENCES = len(REFERENCE)
# What the export needs of PyPI.
PACKAGES = ("gguf==0.17.1", "onnx==1.19.1", "numpy==2.4.6", "ml_dtypes==0.6.0", "protobuf==7.36.2", "typing_extensions==4.16.0",
            "PyYAML==6.0.3", "tqdm==4.70.1")


def _embeddings(build_folder):
    """What examples/minilm computes for the sentences of its reference."""
    lines = "".join(sentence["text"] + "\n" for sentence in REFERENCE)
    program = build_folder / "examples" / "minilm" / "minilm"
    done = subprocess.run([program, "--embed", "--model", testing.MODEL], input=lines, text=True, encoding="utf-8",
                          capture_output=True, check=False)
    if done.returncode != 0:
        run.fail(f"{program} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def prepared(build_folder):
    """The folder with minilm.gguf, minilm.onnx, and sentences: minilm.tokens has a line of numbers for each, minilm.f32 the
    embeddings, one after the other."""
    folder = engine_packages.WORK / "data" / "minilm"
    with engine_packages.locked("minilm"):
        if not folder.exists():
            if not (testing.MODEL / "model.safetensors").exists():
                testing.model()
            packages = engine_packages.fetched("formats " + PACKAGES[0], engine_packages.from_pypi(*PACKAGES))
            partial = folder.with_name("minilm.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            run.command(sys.executable, engine_packages.EXAMPLES / "minilm" / "export.py", testing.MODEL, partial,
                        env={"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}, quiet=True)
            partial.rename(folder)
        computed = _embeddings(build_folder)
        (folder / "minilm.tokens").write_text("".join(" ".join(map(str, tokens)) + "\n" for tokens in computed["tokens"]))
        (folder / "minilm.f32").write_bytes(array.array("f", sum(computed["embeddings"], [])).tobytes())
    return folder
