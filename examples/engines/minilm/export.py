#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes all-MiniLM-L6-v2 in the formats of llama.cpp (minilm.gguf) and of ONNX Runtime and OpenVINO (minilm.onnx).

usage: export.py MODEL_DIR OUT_DIR   (pip install gguf onnx)

MODEL_DIR is what examples/minilm/fetch_model.py filled. The weights stay as they are, 32-bit floats. The ONNX model takes the
tokens of one sentence, [1, n], and gives its embedding of length 1, [1, 384].
"""

import json
import pathlib
import sys

import gguf
import numpy
import onnx

LAYERS, HEADS, WIDTH, INNER, POSITIONS = 6, 12, 384, 1536, 512
EPSILON = 1e-12
# The parts of a layer: in the weights' file, and in llama.cpp.
PARTS = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
         "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
         "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}


def read_weights(path):
    """{name: array} of a safetensors file of 32-bit floats."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {name: numpy.frombuffer(data[start + each["data_offsets"][0]:start + each["data_offsets"][1]],
                                   dtype=numpy.float32).reshape(each["shape"])
            for name, each in header.items() if name != "__metadata__" and each["dtype"] == "F32"}


def gguf_token(text):
    """llama.cpp marks the beginnings of words, BERT their other parts."""
    if text.startswith("[") and text.endswith("]"):
        return text
    return text[2:] if text.startswith("##") else "\u2581" + text


def write_gguf(weights, vocabulary, path):
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(2)
    writer.add_token_list([gguf_token(text) for text in vocabulary])
    writer.add_token_types([gguf.TokenType.CONTROL if text.startswith("[") and text.endswith("]") and len(text) > 2
                            else gguf.TokenType.NORMAL for text in vocabulary])
    names = {"embeddings.word_embeddings.weight": "token_embd.weight",
             "embeddings.position_embeddings.weight": "position_embd.weight",
             "embeddings.token_type_embeddings.weight": "token_types.weight",
             "embeddings.LayerNorm.weight": "token_embd_norm.weight", "embeddings.LayerNorm.bias": "token_embd_norm.bias"}
    for i in range(LAYERS):
        for theirs, ours in PARTS.items():
            for kind in ("weight", "bias"):
                names[f"encoder.layer.{i}.{theirs}.{kind}"] = f"blk.{i}.{ours}.{kind}"
    for theirs, ours in names.items():
        writer.add_tensor(ours, weights[theirs])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Graph:
    """An ONNX graph that grows node by node."""

    def __init__(self, weights):
        self._weights, self._nodes, self._constants = weights, [], {}

    def node(self, kind, *inputs, **attributes):
        """Appends a node; returns the name of its output."""
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, name, values):
        self._constants[name] = onnx.numpy_helper.from_array(numpy.ascontiguousarray(values), name)
        return name

    def weight(self, name):
        return self.constant(name, self._weights[name])

    def linear(self, x, name):
        product = self.node("MatMul", x, self.constant(name + ".transposed", self._weights[name + ".weight"].T))
        return self.node("Add", product, self.weight(name + ".bias"))

    def norm(self, x, name):
        return self.node("LayerNormalization", x, self.weight(name + ".weight"), self.weight(name + ".bias"), axis=-1,
                         epsilon=EPSILON)

    def model(self, last):
        value = onnx.helper.make_tensor_value_info
        output = self._nodes[-1].output
        assert output[0] == last
        output[0] = "embedding"
        graph = onnx.helper.make_graph(self._nodes, "minilm", [value("tokens", onnx.TensorProto.INT64, [1, "n"])],
                                       [value("embedding", onnx.TensorProto.FLOAT, [1, WIDTH])],
                                       list(self._constants.values()))
        return onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])


def write_onnx(weights, path):
    graph = Graph(weights)
    node, constant, weight = graph.node, graph.constant, graph.weight
    zero, one, two = (constant(f"number_{i}", numpy.array([i], dtype=numpy.int64)) for i in range(3))
    words = node("Gather", weight("embeddings.word_embeddings.weight"), "tokens", axis=0)
    length = node("Slice", node("Shape", "tokens"), one, two)
    positions = node("Slice", weight("embeddings.position_embeddings.weight"), zero, length, zero)
    kind = constant("token_type", weights["embeddings.token_type_embeddings.weight"][0])
    x = graph.norm(node("Add", node("Add", words, positions), kind), "embeddings.LayerNorm")

    heads = constant("heads", numpy.array([0, 0, HEADS, WIDTH // HEADS], dtype=numpy.int64))
    joined = constant("joined", numpy.array([0, 0, WIDTH], dtype=numpy.int64))
    scale = constant("scale", numpy.array((WIDTH // HEADS) ** -0.5, dtype=numpy.float32))
    half, unit, root = (constant(name, numpy.array(value, dtype=numpy.float32))
                        for name, value in (("half", 0.5), ("unit", 1), ("root", 2 ** -0.5)))
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."

        def split(part, order):
            return node("Transpose", node("Reshape", graph.linear(x, layer + "attention.self." + part), heads), perm=order)
        scores = node("Mul", node("MatMul", split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1])), scale)
        seen = node("MatMul", node("Softmax", scores, axis=-1), split("value", [0, 2, 1, 3]))
        seen = node("Reshape", node("Transpose", seen, perm=[0, 2, 1, 3]), joined)
        x = graph.norm(node("Add", graph.linear(seen, layer + "attention.output.dense"), x), layer + "attention.output.LayerNorm")
        inner = graph.linear(x, layer + "intermediate.dense")
        share = node("Mul", node("Add", node("Erf", node("Mul", inner, root)), unit), half)
        inner = graph.linear(node("Mul", inner, share), layer + "output.dense")
        x = graph.norm(node("Add", inner, x), layer + "output.LayerNorm")
    mean = node("ReduceMean", x, axes=[1], keepdims=0)
    model = graph.model(node("Div", mean, node("ReduceL2", mean, axes=[1], keepdims=1)))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, out = map(pathlib.Path, sys.argv[1:])
    weights = read_weights(source / "model.safetensors")
    write_gguf(weights, (source / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n"), out / "minilm.gguf")
    write_onnx(weights, str(out / "minilm.onnx"))


if __name__ == "__main__":
    main()
