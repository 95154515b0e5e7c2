"""The reader of the gguf package, which maps the file through numpy."""

import gguf
import numpy as np
from reporting import report


def load(model):
    values = {}
    for path in sorted(model.glob("*.gguf")):
        reader = gguf.GGUFReader(path)
        values |= {f"{path.name}: {tensor.name}": np.array(tensor.data) for tensor in reader.tensors}
        values[f"{path.name}: fields"] = repr([(name, str(field.contents())) for name, field in reader.fields.items()])
    return values


report(load)
