"""Makes, signs, mounts and changes models, and runs loader programs on them. For the matrix of loaders and its measurements.

Whatever is mounted here is unmounted when its `with` block ends, whatever happens in it.
"""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PATIENCE = 300
"""Seconds after which a program that has not ended is stuck: far more than any of them needs."""
SHARD = 1 << 20
"""Bytes of one shard where a model is signed in shards."""


@dataclasses.dataclass(frozen=True)
class Loader:
    """One way to load one kind of model."""

    name: str
    program: str
    kind: str
    """Which model, a function of models.py."""
    weights: str
    """The file in which a byte is changed, and whose reads are looked at."""
    environment: str = "loaders"
    """The file in scripts/requirements that names what the program needs."""
    packages: tuple = ()
    """The packages whose versions stand in the table."""
    arguments: tuple = ()
    at: float = 0.9
    """Where in the file a byte is changed, as a share of its size: in a part that the program's result depends on."""
    flip: int = 0x40
    """Which bits of it. In the last byte of a little-endian float, these make another number by far."""
    populates: bool = False
    """Whether it maps with MAP_POPULATE. The kernel then asks for a page that fails again and again (docs/SEMANTICS.md)."""
    by_name: bool = False
    """Whether the model is loaded by its name, from a cache in which the mount is a snapshot."""

    @property
    def snapshot(self):
        return self.kind == "snapshot"


LIGHT = (
    Loader("safetensors, mapped", "safetensors_numpy.py", "minilm", "model.safetensors", packages=("safetensors", "numpy")),
    Loader("safetensors, read", "safetensors_read.py", "minilm", "model.safetensors", packages=("safetensors", "numpy")),
    Loader(
        "safetensors, Hugging Face cache",
        "safetensors_numpy.py",
        "snapshot",
        "model.safetensors",
        packages=("safetensors", "numpy"),
    ),
    Loader("tokenizers", "hf_tokenizers.py", "minilm", "tokenizer.json", packages=("tokenizers",), at=0.5, flip=1),
    Loader("processes sharing a descriptor", "shared_descriptor.py", "minilm", "model.safetensors"),
    Loader("onnxruntime, external data", "onnx_runtime.py", "onnx", "model.onnx.data", packages=("onnxruntime",)),
    Loader("LiteRT", "litert.py", "litert", "model.tflite", packages=("ai-edge-litert",)),
    Loader("gguf reader", "gguf_reader.py", "gguf", "model.gguf", packages=("gguf", "numpy")),
    Loader(
        "llama.cpp, mapped",
        "llama_cpp.py",
        "gguf",
        "model.gguf",
        packages=("xllamacpp",),
        arguments=("mmap",),
        populates=True,
    ),
    Loader("llama.cpp, read", "llama_cpp.py", "gguf", "model.gguf", packages=("xllamacpp",), arguments=("none",)),
    Loader("llama.cpp, direct I/O", "llama_cpp.py", "gguf", "model.gguf", packages=("xllamacpp",), arguments=("direct_io",)),
    Loader(
        "llama.cpp, GGUF splits",
        "llama_cpp.py",
        "gguf_split",
        "model-00003-of-00003.gguf",
        packages=("xllamacpp",),
        arguments=("mmap", "model-00001-of-00003.gguf"),
        populates=True,
    ),
)
TORCH = tuple(
    dataclasses.replace(loader, environment="loaders-torch")
    for loader in (
        Loader("torch.load", "torch_load.py", "torch", "pytorch_model.bin", packages=("torch",)),
        Loader(
            "torch.load, mapped",
            "torch_load.py",
            "torch",
            "pytorch_model.bin",
            packages=("torch",),
            arguments=("mmap",),
        ),
        Loader(
            "safetensors into torch",
            "safetensors_torch.py",
            "minilm",
            "model.safetensors",
            packages=("safetensors", "torch"),
        ),
        Loader("transformers", "hf_transformers.py", "minilm", "model.safetensors", packages=("transformers", "torch")),
        Loader(
            "transformers, by name from the cache",
            "hf_transformers.py",
            "snapshot",
            "model.safetensors",
            packages=("transformers", "huggingface_hub", "torch"),
            arguments=("sentence-transformers/all-MiniLM-L6-v2",),
            by_name=True,
        ),
    )
)
TENSORFLOW = (
    Loader(
        "TensorFlow SavedModel",
        "tensorflow_saved_model.py",
        "saved_model",
        "variables/variables.data-00000-of-00001",
        environment="loaders-tensorflow",
        packages=("tensorflow-cpu",),
    ),
)
CANDLE = (Loader("candle", "candle", "minilm", "model.safetensors", environment="candle"),)


def output(*command, **more):
    """What a command prints, or an exception that shows what it said."""
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, timeout=PATIENCE, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\nended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def python_of(environment):
    return output(ROOT / "scripts" / "python-env", environment).strip()


def versions(loader):
    if loader.environment == "candle":
        lock = (HERE / "candle" / "Cargo.lock").read_text()
        return "candle-core " + re.search(r'name = "candle-core"\nversion = "(.*)"', lock)[1]
    script = "import importlib.metadata as m, sys\nprint(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"
    said = output(python_of(loader.environment), "-c", script, *loader.packages).strip()
    python = "import platform\nprint(platform.python_version())"
    return said or "Python " + output(python_of(loader.environment), "-c", python).strip()


@dataclasses.dataclass(frozen=True)
class Model:
    folder: Path
    cache: Path
    """Of a snapshot, the cache that it lies in; of any other model, an empty one."""
    whole: Path
    """The bundle that gives each file one digest, made by the reference tool's command line."""
    sharded: Path
    """The bundle with shards, made by the reference tool's library: its command line makes none."""


class Workshop:
    """A folder with models, a key, and one mount at a time."""

    def __init__(self, modelfs):
        self.modelfs = Path(modelfs).resolve()
        self.reference = python_of("reference")
        self.scratch = tempfile.TemporaryDirectory(prefix="modelfs-loaders-")
        self.work = Path(self.scratch.name)
        self.log = self.work / "modelfs.log"
        self.models = {}
        output("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.work / "key.pem")
        output("openssl", "ec", "-in", self.work / "key.pem", "-pubout", "-out", self.work / "key.pub")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.scratch.cleanup()

    def model(self, loader):
        """The signed model that a loader wants, made when first asked for."""
        if loader.kind in self.models:
            return self.models[loader.kind]
        out = self.work / loader.kind
        # The environment of the light loaders makes what it can; a kind of model that needs more is made by its own.
        own = loader.kind in ("torch", "saved_model")
        maker = python_of(loader.environment if own else "loaders")
        output(maker, HERE / "models.py", loader.kind, out)
        folder = out
        if loader.snapshot:
            folder = next((out / "hub").glob("*/snapshots/*"))
        model = Model(folder, out if loader.snapshot else self.work / "no-cache", *self.sign(loader.kind, folder))
        self.models[loader.kind] = model
        return model

    def sign(self, kind, folder):
        whole, sharded = self.work / f"{kind}.whole.sig", self.work / f"{kind}.sharded.sig"
        key = self.work / "key.pem"
        tool = [self.reference, "-m", "model_signing", "sign", "key", "--signature", whole, "--private_key", key]
        output(*tool, "--allow_symlinks", folder)
        script = (
            "import sys, pathlib\nfrom model_signing import signing, hashing\n"
            "key, folder, bundle = map(pathlib.Path, sys.argv[1:4])\n"
            f"config = hashing.Config().use_shard_serialization(shard_size={SHARD}, allow_symlinks=True)\n"
            "config.set_allow_symlinks(True)\n"
            "signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(folder, bundle)\n"
        )
        output(self.reference, "-c", script, key, folder, sharded)
        return whole, sharded

    def reference_verify(self, model):
        """The command that verifies the folder with the reference tool."""
        tool = [self.reference, "-m", "model_signing", "verify", "key", "--signature", model.whole]
        return [*tool, "--public_key", self.work / "key.pub", "--allow_symlinks", model.folder]

    def mountpoint(self, loader, model):
        """Where to mount, and the cache that belongs to it."""
        if not loader.by_name:
            point, cache = self.work / "mnt", self.work / "no-cache"
        else:
            cache = self.work / "cache"
            point = cache / model.folder.relative_to(model.cache)
            refs = point.parent.parent / "refs"
            refs.mkdir(parents=True, exist_ok=True)
            (refs / "main").write_text(model.folder.name)
        point.mkdir(parents=True, exist_ok=True)
        return point, cache

    @contextlib.contextmanager
    def mounted(self, loader, model, bundle, *options):
        """Mounts, and unmounts in the end; `options` are more of modelfs. Gives the mount point and the cache that belongs to it."""
        point, cache = self.mountpoint(loader, model)
        self.log.write_text("")
        more = ["--allow-symlinks"] if loader.snapshot else []
        trust = ["--public-key", self.work / "key.pub", "--log-file", self.log]
        output(self.modelfs, "mount", *trust, *more, *options, bundle, model.folder, point)
        try:
            yield point, cache
        finally:
            unmounted = subprocess.run([self.modelfs, "unmount", point], capture_output=True, text=True)
            if unmounted.returncode != 0:
                subprocess.run(["umount", "-l", point], check=False)
                print(f"{loader.name}: could not unmount: {unmounted.stderr}", file=sys.stderr)

    def command(self, loader, folder):
        """The command line of a loader program on a folder."""
        if loader.environment == "candle":
            return [os.environ["MODELFS_CANDLE"], str(folder)]
        return [python_of(loader.environment), str(HERE / "programs" / loader.program), str(folder), *loader.arguments]

    def run(self, loader, folder, cache, tracer=(), stuck=lambda: False):
        """Runs a loader program; gives what became of it. It is killed when `stuck` says so, or patience ends."""
        surroundings = {
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "1",
            "HOME": str(self.work),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [*tracer, *self.command(loader, folder)]
        # Into files: a pipe that nobody empties would hold up a loader that says much.
        with open(self.work / "out", "w+b") as out, open(self.work / "err", "w+b") as err:
            process = subprocess.Popen(command, env=os.environ | surroundings, stdout=out, stderr=err)
            ends = time.monotonic() + PATIENCE
            while process.poll() is None:
                if stuck() or time.monotonic() > ends:
                    process.kill()
                    process.wait()
                time.sleep(0.02)
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode(errors="replace"))
        return subprocess.CompletedProcess(command, process.returncode, *said)


def loaded(done):
    """The lines that say what was loaded."""
    return [line for line in done.stdout.splitlines() if re.match(r"[0-9a-f]{64} ", line)]


def seconds(done):
    """How long the program says that the loading took."""
    return float(re.search(r"^loaded in (.*) s$", done.stdout, flags=re.M)[1])


@contextlib.contextmanager
def changed(loader, model):
    """Changes one byte of the weights on disk, and puts it right in the end."""
    path = model.folder / loader.weights
    # A number has four bytes here and starts at a multiple of four; its last byte matters most.
    offset = int(path.stat().st_size * loader.at) // 4 * 4 + 3

    def flip():
        with open(path, "r+b") as weights:
            weights.seek(offset)
            byte = weights.read(1)[0]
            weights.seek(offset)
            weights.write(bytes([byte ^ loader.flip]))

    flip()
    try:
        yield offset
    finally:
        flip()
