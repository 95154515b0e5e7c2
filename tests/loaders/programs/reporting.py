"""What every loader program shares: it loads the folder that it is given, and says what it got.

One line per value, `sha256 size name`, then how long the loading took. Two runs that print the same lines got the same
bits. Nothing here, and nothing in a loader program, knows of modelfs.
"""

import hashlib
import sys
import time
from pathlib import Path


def report(load):
    """Runs `load(folder)`, which returns the loaded values by name, as bytes, text or arrays."""
    began = time.perf_counter()
    values = load(Path(sys.argv[1]))
    took = time.perf_counter() - began
    for name, value in sorted(values.items()):
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, (bytes, bytearray)):
            # numpy: dtype and shape are part of what was loaded.
            name = f"{name} {value.dtype} {list(value.shape)}"
            value = value.tobytes()
        print(f"{hashlib.sha256(value).hexdigest()} {len(value)} {name}")
    print(f"loaded in {took:.6f} s", flush=True)
