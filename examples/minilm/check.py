#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The test of minilm: embeddings against reference.json, no page fault in the prefetched pass, and
a clear refusal of every kind of damaged model and wrong argument. Stdlib only.

Usage: check.py MINILM_BINARY MODEL_DIR
Exit code: 0 passed, 1 failed, 77 skipped because there is no model.
"""
import json
import math
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile

LEAST_COSINE = 0.9999


def fail(message):
    sys.exit(f"minilm: FAILED: {message}")


def run(binary, *arguments, lines=()):
    return subprocess.run([binary, *arguments], input="".join(line + "\n" for line in lines),
                          capture_output=True, text=True, encoding="utf-8", timeout=300,
                          check=False)


def succeed(binary, *arguments, lines=()):
    result = run(binary, *arguments, lines=lines)
    if result.returncode != 0:
        fail(f"{arguments} ended with {result.returncode}: {result.stderr.strip()}")
    return json.loads(result.stdout)


def refuse(binary, *arguments, lines=(), what, word):
    result = run(binary, *arguments, lines=lines)
    if result.returncode != 2:
        fail(f"{what}: exit code {result.returncode} instead of 2; stderr: {result.stderr!r}")
    if word not in result.stderr or result.stdout:
        fail(f"{what}: the message does not say {word!r}: {result.stderr!r}")


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def check_embeddings(binary, model):
    """@return the number of sentences and the worst cosine"""
    path = pathlib.Path(__file__).with_name("reference.json")
    reference = json.loads(path.read_text(encoding="utf-8"))["sentences"]
    texts = [case["text"] for case in reference]
    got = succeed(binary, "--embed", "--model", model, lines=texts)
    if len(got["embeddings"]) != len(reference):
        fail(f"{len(got['embeddings'])} embeddings for {len(reference)} sentences")
    worst = 1.0
    for case, tokens, vector in zip(reference, got["tokens"], got["embeddings"]):
        name = case["text"][:40]
        if tokens != case["tokens"]:
            fail(f"tokens of {name!r}: {tokens} instead of {case['tokens']}")
        if len(vector) != 384 or abs(math.hypot(*vector) - 1) > 1e-5:
            fail(f"the embedding of {name!r} is not of 384 floats and length 1")
        worst = min(worst, cosine(vector, case["embedding"]))
        if not worst >= LEAST_COSINE:
            fail(f"the cosine of {name!r} to its reference is {worst}, below {LEAST_COSINE}")
    return len(reference), worst


def check_first_pass(binary, model):
    """@return median faults of the computing thread with std::allocator and with prefetch"""
    got = succeed(binary, "--model", model, "--repeat", "5", "--json")
    if not got["same_embeddings"]:
        fail("the three kinds of memory gave different embeddings")
    faults = {kind: [minor + major for minor, major in zip(row["thread_minor_faults"],
                                                           row["thread_major_faults"])]
              for kind, row in got["first_pass"].items()}
    # The median: a pass may meet a thread being started or code that the kernel took back.
    if statistics.median(faults["prefetched"]) != 0:
        fail(f"page faults of the computing thread in prefetched passes: {faults['prefetched']}")
    if got["malloc"] != "libgmem.so.0" and min(faults["standard"]) < 1000:
        fail(f"passes with std::allocator met pages that were there already: {faults['standard']}")
    return statistics.median(faults["standard"]), statistics.median(faults["prefetched"])


def check_arguments(binary, model):
    refuse(binary, "--model", "no/such/folder", what="no model", word="fetch_model.py")
    refuse(binary, "--model", what="an option without its value", word="needs a value")
    refuse(binary, "--nonsense", what="an unknown option", word="--nonsense")
    for number in ("0", "-1", "many", "7x", "99999999999999999999"):
        refuse(binary, "--model", model, "--repeat", number, what=f"--repeat {number}", word="1000")
    refuse(binary, "--embed", "text", what="--embed with a sentence", word="standard input")
    if run(binary, "--help").returncode != 0:
        fail("--help did not succeed")
    if succeed(binary, "--embed", "--model", model)["embeddings"] != []:
        fail("no sentence gave an embedding")


def damaged_headers(header):
    """Yield (what, word in the message, header) for one mistake each."""
    def edited(edit):
        tensors = json.loads(header)
        edit(tensors)
        return json.dumps(tensors).encode()

    word, norm = "embeddings.word_embeddings.weight", "encoder.layer.3.output.LayerNorm.bias"
    yield "not JSON", "header", b"x" * len(header)
    yield "an unclosed header", "header", header.rstrip()[:-1]
    yield "a cut header", "header", header[:len(header) // 2]
    yield "text behind the header", "behind", header + b"x"
    yield "a nested header", "unknown key", b'{"a":' * 100000
    yield "an empty header", "no tensor", b"{}"
    yield "a twin", "twice", header.rstrip()[:-1] + b',"' + norm.encode() + b'"' + \
        header.split(norm.encode() + b'"')[1].split(b"}")[0] + b"}}"
    yield "offsets behind the end", norm, edited(
        lambda t: t[norm].update(data_offsets=[10**9, 10**9 + 1536]))
    yield "offsets backwards", norm, edited(lambda t: t[norm]["data_offsets"].reverse())
    yield "offsets over 64 bits", "64 bits", edited(
        lambda t: t[norm].update(data_offsets=[0, 2**64]))
    yield "one offset", norm, edited(lambda t: t[norm]["data_offsets"].pop())
    yield "a negative offset", "whole number", edited(
        lambda t: t[norm].update(data_offsets=[-1, 1535]))
    yield "a shape that overflows", word, edited(lambda t: t[word].update(shape=[2**33, 2**33]))
    yield "a shape that disagrees", word, edited(lambda t: t[word].update(shape=[30522, 385]))
    yield "another shape", word, edited(lambda t: t[word].update(shape=[384, 30522]))
    yield "another type", word, edited(lambda t: t[word].update(dtype="I32"))
    yield "an unknown type", "F31", edited(lambda t: t[word].update(dtype="F31"))
    yield "a missing tensor", norm, edited(lambda t: t.pop(norm))


def check_damaged_models(binary, model):
    """@return how many models were refused"""
    whole = pathlib.Path(model, "model.safetensors").read_bytes()
    header_size = struct.unpack("<Q", whole[:8])[0]
    header, data_size = whole[8:8 + header_size], len(whole) - 8 - header_size
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        target, vocabulary = pathlib.Path(folder, "model.safetensors"), pathlib.Path(folder, "vocab.txt")
        vocabulary.symlink_to(pathlib.Path(model, "vocab.txt").resolve())

        def write(head, data=data_size):
            """The data is a hole of zeros: only the header matters here."""
            target.write_bytes(head)
            os.truncate(target, len(head) + data)

        def refuse_it(what, word):
            nonlocal refused
            refuse(binary, "--embed", "--model", folder, lines=["text"], what=what, word=word)
            refused += 1

        for size in (0, 7):
            target.write_bytes(whole[:size])
            refuse_it(f"a file of {size} bytes", "8 bytes")
        for claim in (len(whole), 2**63, 2**64 - 1, 10**8 + 1):
            target.write_bytes(struct.pack("<Q", claim) + header)
            refuse_it(f"a header of {claim} bytes", str(claim))
        write(whole[:8 + header_size], data_size - 1)
        refuse_it("a file without its last byte", "data_offsets")
        for what, word, head in damaged_headers(header):
            write(struct.pack("<Q", len(head)) + head)
            refuse_it(what, word)

        chance = random.Random(1)  # any byte may be wrong: an answer or a refusal, never a crash
        for _ in range(40):
            head = bytearray(whole[:8 + header_size])
            head[chance.randrange(len(head))] = chance.randrange(256)
            write(bytes(head))
            result = run(binary, "--embed", "--model", folder, lines=["text"])
            if result.returncode not in (0, 2):
                fail(f"a damaged header: exit code {result.returncode}: {result.stderr!r}")
            refused += result.returncode == 2

        write(whole[:8 + header_size])
        for what, text in (("an empty vocabulary", b""), ("a short vocabulary", b"[UNK]\n[CLS]\n"),
                           ("a foreign vocabulary", b"word\n" * 30522)):
            vocabulary.unlink()
            vocabulary.write_bytes(text)
            refuse_it(what, "vocabulary")
        vocabulary.unlink()
        refuse_it("no vocabulary", "vocab.txt")
    return refused


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    binary, model = sys.argv[1:]
    if not model or not pathlib.Path(model, "model.safetensors").is_file():
        print("minilm: SKIPPED: no model; run 'python3 fetch_model.py DIR' and configure with "
              "-DMINILM_MODEL_DIR=DIR (an absolute path)")
        sys.exit(77)
    check_arguments(binary, model)
    refused = check_damaged_models(binary, model)
    standard, prefetched = check_first_pass(binary, model)
    sentences, worst = check_embeddings(binary, model)
    print(f"minilm: {refused} damaged models refused; page faults of the computing thread in a "
          f"first pass: {standard} with std::allocator, {prefetched} with prefetch")
    print(f"minilm: {sentences} sentences, worst cosine {worst:.14f}")


if __name__ == "__main__":
    main()
