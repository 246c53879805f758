#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a program of ExecuTorch (.pte): layers of x * weights^T with random weights.

usage: make_program.py EXECUTORCH_FOLDER LAYERS FILE

A .pte file is a flatbuffer, with a header behind its identifier, and segments behind it. EXECUTORCH_FOLDER is that of the Python
package, which has the flatbuffer's schema and its compiler.
"""

import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

ROWS, WIDTH = 32, 2048
LAYER_BYTES = WIDTH * WIDTH * 4
ALIGNMENT = 4096
HEADER = struct.Struct("<4sIQQQ")


def tensor(shape, buffer=0, offset=None):
    """A value: weights in a buffer of the constant segment, or memory planned at an offset."""
    planned = {} if offset is None else {"allocation_info": {"memory_id": 1, "memory_offset_low": offset, "memory_offset_high": 0}}
    return {"val_type": "Tensor", "val": {"scalar_type": "FLOAT", "storage_offset": 0, "sizes": list(shape), "dim_order": [0, 1],
                                          "data_buffer_idx": buffer, "layout": 0, **planned}}


def program(layers):
    """The flatbuffer as JSON."""
    plane = ROWS * WIDTH * 4
    values = [tensor((ROWS, WIDTH), offset=0), {"val_type": "Null", "val": {}}]
    instructions, last = [], 0
    for i in range(layers):
        values += [tensor((WIDTH, WIDTH), buffer=i + 1), tensor((ROWS, WIDTH), offset=(i + 1) % 2 * plane)]
        weights, result = len(values) - 2, len(values) - 1
        # The last argument is the one that the kernel returns.
        call = {"op_index": 0, "args": [last, weights, 1, result, result]}
        instructions.append({"instr_args_type": "KernelCall", "instr_args": call})
        last = result
    plan = {"name": "forward", "container_meta_type": {"encoded_inp_str": "", "encoded_out_str": ""}, "values": values,
            "inputs": [0], "outputs": [last], "chains": [{"inputs": [0], "outputs": [last], "instructions": instructions}],
            "operators": [{"name": "aten::linear", "overload": "out"}], "delegates": [],
            "non_const_buffer_sizes": [0, 2 * plane]}
    # Buffer 0 stands for "no data".
    offsets = [0, *(i * LAYER_BYTES for i in range(layers))]
    return {"version": 0, "execution_plan": [plan], "constant_buffer": [], "backend_delegate_data": [],
            "segments": [{"offset": 0, "size": layers * LAYER_BYTES}],
            "constant_segment": {"segment_index": 0, "offsets": offsets}}


def flatbuffer(executorch, layers):
    with tempfile.TemporaryDirectory() as work:
        source = pathlib.Path(work) / "program.json"
        source.write_text(json.dumps(program(layers)))
        compiler = executorch / "data" / "bin" / "flatc"
        subprocess.run([compiler, "--binary", "-o", work, executorch / "schema" / "program.fbs", source], check=True)
        return (pathlib.Path(work) / "program.pte").read_bytes()


def layer(seed):
    """Floats of small magnitude: random signs and fractions, with one exponent."""
    bits = int.from_bytes(random.Random(seed).randbytes(LAYER_BYTES), "little")
    ones = int.from_bytes(b"\x00\x00\x00\x3d" * (WIDTH * WIDTH), "little")
    mask = int.from_bytes(b"\xff\xff\x7f\x80" * (WIDTH * WIDTH), "little")
    return (bits & mask | ones).to_bytes(LAYER_BYTES, "little")


def main():
    executorch, layers, file = pathlib.Path(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
    body = flatbuffer(executorch, layers)
    # 64 bytes keep the alignment of what comes behind; the root's offset is the only one that reaches across.
    space = 64
    size = len(body) + space
    base = (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    header = HEADER.pack(b"eh00", HEADER.size, size, base, layers * LAYER_BYTES)
    root = struct.unpack_from("<I", body)[0] + space
    with file.with_suffix(".partial").open("wb") as out:
        out.write(struct.pack("<I", root) + body[4:8] + header.ljust(space, b"\0") + body[8:])
        out.write(bytes(base - size))
        for i in range(layers):
            out.write(layer(i))
    os.replace(out.name, file)


main()
