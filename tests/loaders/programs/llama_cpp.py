"""llama.cpp: loads a GGUF model in one of its ways and computes a sentence embedding.

usage: llama_cpp.py MODEL mmap|none|direct_io [FIRST-FILE]
"""

import json
import sys

import xllamacpp
from reporting import report

SENTENCES = ["The quick brown fox jumps over the lazy dog.", "A model is what was signed."]


def load(model):
    parameters = xllamacpp.CommonParams()
    first = sys.argv[3] if len(sys.argv) > 3 else "model.gguf"
    parameters.model.path = str(model / first)
    parameters.load_mode = getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{sys.argv[2].upper()}")
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 256
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    values = {}
    for sentence in SENTENCES:
        answer = server.handle_embeddings({"input": sentence, "model": "m"})
        values[f"embedding of {sentence!r}"] = json.dumps(answer["data"][0]["embedding"])
    return values


report(load)
