"""The signed models that are measured: random bytes, signed by the reference implementation, made once."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

from measure import MIB, say

SHARD = MIB
ROOM_TO_SPARE = 1 << 30
"""Bytes that are left free on the disk: a full disk hurts others than us."""

SIGN = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing
folder = Path(sys.argv[1])
key = ec.generate_private_key(ec.SECP256R1())
encoding = serialization.Encoding.PEM
private = folder / "key.pem"
private.touch(mode=0o600)
private.write_bytes(
    key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
)
public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
whole = hashing.Config().use_file_serialization()
shards = hashing.Config().use_shard_serialization(shard_size=int(sys.argv[2]))
for model, bundle, config in [("one", "one", whole), ("one", "shards", shards), ("four", "four", whole)]:
    signer = signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(config)
    signer.sign(folder / model, folder / f"{bundle}.sig")
private.unlink()
(folder / "key.pub").write_bytes(public)
"""

VERIFY_SHARDS = """
import sys
from pathlib import Path
from model_signing import hashing, verifying
key, bundle, model = map(Path, sys.argv[1:4])
config = hashing.Config().use_shard_serialization(shard_size=int(sys.argv[4]))
verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(config).verify(model, bundle)
"""


@dataclasses.dataclass
class Model:
    """A folder, its files in loading order, the bundle (which lies beside it), and the key to trust."""

    folder: Path
    bundle: Path
    key: Path

    @property
    def files(self):
        return sorted(self.folder.iterdir())

    def within(self, folder):
        """The same files where the model is mounted."""
        return [folder / file.name for file in self.files]


class Models:
    """`one` file with one digest, the same file in `shards` of 1 MiB, and `four` files with a digest each."""

    def __init__(self, bench):
        self.bench = bench
        self.folder = bench.folder / f"{bench.mib}M"
        key = self.folder / "key.pub"
        if not key.exists():
            self._make()
        self.one = Model(self.folder / "one", self.folder / "one.sig", key)
        self.shards = Model(self.folder / "one", self.folder / "shards.sig", key)
        self.four = Model(self.folder / "four", self.folder / "four.sig", key)

    def _make(self):
        bench = self.bench
        needed = 2 * bench.bytes
        shutil.rmtree(self.folder, ignore_errors=True)
        bench.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(bench.folder).free
        if free < needed + ROOM_TO_SPARE:
            sys.exit(
                f"bench: {bench.folder} has {free / 1e9:.1f} GB free, and the models take {needed / 1e9:.1f} GB: "
                "name a folder on another disk in MODELFS_BENCH_DIR, or take smaller models (--quick)"
            )
        say(f"making models of random bytes in {self.folder} ({needed / 1e9:.1f} GB, kept for the next time)")
        for seed, (name, share) in enumerate([("one/weights.bin", 1)] + [(f"four/weights-{n}.bin", 4) for n in "1234"]):
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            bench.output(bench.reader, "generate", file, str(bench.bytes // share), str(seed + 1))
        say("having the reference implementation sign them")
        subprocess.run([bench.python, "-c", SIGN, self.folder, str(SHARD)], check=True)

    def reference(self, model):
        """The command with which the reference implementation verifies a model."""
        if model is self.shards:
            # Its command line does not know shards; its library does when told of them.
            return [self.bench.python, "-c", VERIFY_SHARDS, model.key, model.bundle, model.folder, str(SHARD)]
        tool = [self.bench.python, "-m", "model_signing", "verify", "key"]
        return [*tool, "--signature", model.bundle, "--public_key", model.key, model.folder]

    def verify(self, model):
        """The command with which modelfs does."""
        return [self.bench.binary, "verify", "--public-key", model.key, model.bundle, model.folder]


def memory_bytes():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
