"""safetensors into numpy, as transformers and vLLM open it: `safe_open`, whole tensors, then slices of them."""

from reporting import report
from safetensors import safe_open


def load(model):
    values = {}
    with safe_open(model / "model.safetensors", framework="numpy") as weights:
        for name in weights.keys():
            values[name] = weights.get_tensor(name)
        words = weights.get_slice("embeddings.word_embeddings.weight")
        rows, columns = words.get_shape()
        values["slice of rows"] = words[rows // 3 : rows // 3 + 1000]
        values["slice of columns"] = words[:, columns // 2 : columns // 2 + 8]
    return values


report(load)
