"""Several processes read one file through one file descriptor, each its own stripes, as data loaders that fork do. To whoever
looks at the descriptor alone, the reads seem random. Half of the processes use positioned reads, half a shared mapping."""

import mmap
import os
import sys

from reporting import report

PROCESSES = 4
STRIPE = 1024 * 1024


def load(model):
    descriptor = os.open(model / "model.safetensors", os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(descriptor).st_size
    # An anonymous shared mapping takes what the children read back to their parent.
    gathered = mmap.mmap(-1, size)
    children = []
    for process in range(PROCESSES):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                read_stripes(descriptor, size, process, gathered)
                status = 0
            except OSError as error:
                print(f"process {process}: {error}", file=sys.stderr)
            finally:
                os._exit(status)
        children.append(child)
    failed = [status for status in (os.waitpid(child, 0)[1] for child in children) if status != 0]
    if failed:
        sys.exit(f"{len(failed)} of {PROCESSES} processes failed: {[os.waitstatus_to_exitcode(s) for s in failed]}")
    return {"model.safetensors": bytes(gathered)}


def read_stripes(descriptor, size, process, gathered):
    mapped = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ) if process % 2 else None
    for start in range(process * STRIPE, size, PROCESSES * STRIPE):
        end = min(start + STRIPE, size)
        gathered[start:end] = mapped[start:end] if mapped else os.pread(descriptor, end - start, start)


report(load)
