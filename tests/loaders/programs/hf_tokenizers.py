"""Hugging Face tokenizers, from tokenizer.json."""

from reporting import report
from tokenizers import Tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Größe, naïveté, 東京, 🦊: what is not ASCII", ""]


def load(model):
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    values = {"vocabulary": repr(sorted(tokenizer.get_vocab().items()))}
    for text in TEXTS:
        encoded = tokenizer.encode(text)
        values[f"tokens of {text!r}"] = repr((encoded.ids, encoded.offsets))
    return values


report(load)
