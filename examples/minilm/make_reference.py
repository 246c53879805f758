#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes reference.json: tokens and embeddings by an implementation that shares no code with this
example: BertModel and BertTokenizerFast of Hugging Face transformers 4.46.3 (tokenizers 0.20.3) on
PyTorch 2.15.0, with mean pooling and L2 normalisation as sentence-transformers does them.

Usage: make_reference.py MODEL_DIR   (pip install torch==2.15.0 transformers==4.46.3)
MODEL_DIR is what fetch_model.py filled.
"""
import json
import pathlib
import sys

import tokenizers
import torch
import transformers

SENTENCES = [
    "This is an example sentence.",
    "",
    "Engine",
    "Ça, c'est déjà vu: naïve façades, Ångström, Łódź, İstanbul, Größe & smørrebrød!",
    "北京は首都です。東京タワー 2020年, 한국어 텍스트.",
    "Привет, МИР! Ελληνικά: Σίσυφος; Tiếng Việt rất hay.",
    "Pay $1,234.56 (or 99.9%) before 2024-12-31T23:59:59Z -- call +44 20 7946 0958.",
    "It's \"quoted\", isn't it?! [SQUARE] {curly} <tag> a@b.example #hash /path/to_file.txt ~^`|",
    "unaffable antidisestablishmentarianism Donaudampfschifffahrtsgesellschaft " + "x" * 120,
    "zero\u200bwidth, soft\u00adhyphen,\u00a0no-break\u3000space,\ttab; e\u0301 = \u00e9, \ufb01 \u2122",
    "I \u2764\ufe0f caf\u00e9 \U0001f600\U0001f680 \u2014 emoji \u201cand\u201d dashes\u2026",
    "The memory of a machine is a long corridor of numbered rooms. " * 40,
]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
    from safetensors.torch import load_file
    model = transformers.BertModel(transformers.BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=512, layer_norm_eps=1e-12,
        attn_implementation="eager"))
    missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if missing.missing_keys:
        sys.exit(f"the model lacks {missing.missing_keys}")
    model.eval()

    cases = []
    with torch.no_grad():
        for text in SENTENCES:
            batch = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1).float()
            states = model(**batch).last_hidden_state
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            vector = torch.nn.functional.normalize(mean, p=2, dim=1)[0]
            cases.append({"text": text, "tokens": batch["input_ids"][0].tolist(),
                          "embedding": [float(f"{v:.7g}") for v in vector.tolist()]})
    made_by = (f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__},"
               f" torch {torch.__version__.split('+')[0]}")
    rows = ",\n".join("  " + json.dumps(case) for case in cases)
    out = pathlib.Path(__file__).with_name("reference.json")
    out.write_text(f'{{"made_by": {json.dumps(made_by)}, "sentences": [\n{rows}\n]}}\n',
                   encoding="utf-8")
    print(f"{out}: {len(cases)} sentences by {made_by}")


if __name__ == "__main__":
    main()
