"""safetensors into torch."""

from reporting import report
from safetensors.torch import load_file


def load(model):
    return {name: tensor.clone().numpy() for name, tensor in load_file(model / "model.safetensors").items()}


report(load)
