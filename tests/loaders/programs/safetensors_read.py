"""safetensors without a mapping, as vLLM's strategies `prefetch` and `eager` do: threads read the file in blocks of 16 MiB
to warm it, then the file is read whole and the tensors are taken from memory."""

import os
from concurrent.futures import ThreadPoolExecutor

from reporting import report
from safetensors.numpy import load as from_bytes

BLOCK = 16 * 1024 * 1024


def load(model):
    path = model / "model.safetensors"

    def block(offset):
        with open(path, "rb", buffering=0) as weights:
            return len(os.pread(weights.fileno(), BLOCK, offset))

    size = path.stat().st_size
    with ThreadPoolExecutor(8) as pool:
        read = sum(pool.map(block, range(0, size, BLOCK)))
    if read != size:
        raise EOFError(f"{path}: the blocks came to {read} of {size} bytes")
    return from_bytes(path.read_bytes())


report(load)
