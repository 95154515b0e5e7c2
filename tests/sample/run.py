#!/usr/bin/env python3
"""Loads the sample model and names the language of sentences.

usage: run.py MODEL SENTENCE...

It reads as most loaders do: small files whole, weights through a memory mapping. It knows nothing of modelfs,
so it runs on the model's folder and on a mount of it alike.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer


def load(model):
    config = json.loads((model / "config.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    with safe_open(model / "model.safetensors", framework="numpy") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}
    return config["id2label"], tokenizer, tensors


def identify(sentence, labels, tokenizer, tensors):
    tokens = tokenizer.encode(sentence).ids
    bag = tensors["embedding.weight"][tokens].mean(axis=0)
    odds = np.exp(tensors["classifier.weight"] @ bag + tensors["classifier.bias"])
    odds /= odds.sum()
    return labels[str(odds.argmax())], odds.max()


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: run.py MODEL SENTENCE...")
    loaded = load(Path(sys.argv[1]))
    for sentence in sys.argv[2:]:
        language, odds = identify(sentence, *loaded)
        print(f"{sentence} -> {language} {odds:.2f}")


if __name__ == "__main__":
    main()
