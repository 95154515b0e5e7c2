"""torch.load of a zip of pickled tensors, read or (`mmap`) mapped.

usage: torch_load.py MODEL [mmap]
"""

import sys

import torch
from reporting import report


def load(model):
    mapped = sys.argv[2:] == ["mmap"]
    tensors = torch.load(model / "pytorch_model.bin", weights_only=True, mmap=mapped)
    return {name: tensor.clone().numpy() for name, tensor in tensors.items()}


report(load)
