"""Times programs, readers and mounts. Knows no case and no target."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 1 << 20


def say(text):
    print(text, file=sys.stderr, flush=True)


NOT_ALONE = 0.15
"""Share of the processors that others may use before we say that they did."""


class Unavailable(Exception):
    """A case cannot be measured here, and why."""


@dataclasses.dataclass
class Row:
    """One line of the tables: what modelfs did in each round, what its peer did in the same rounds, and how good it
    must be: the ratio ours/peer at least or at most so much, or our own figure at most `limit`."""

    case: str
    what: str
    unit: str
    ours: list
    peer: str = ""
    theirs: list = dataclasses.field(default_factory=list)
    at_least: float = None
    at_most: float = None
    limit: float = None
    note: str = ""

    @property
    def ratios(self):
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs)]

    @property
    def target(self):
        if self.at_least is not None:
            return f"at least {self.at_least:g}x"
        if self.at_most is not None:
            return f"at most {self.at_most:g}x"
        return "" if self.limit is None else f"at most {self.limit:g} {self.unit}"

    @property
    def verdict(self):
        """Whether the target is met: by the median of the ratios, or by our own figure in every round."""
        if self.limit is not None:
            values, good = self.ours, lambda value: value <= self.limit
            met = good(max(values))
        elif self.at_least is not None or self.at_most is not None:
            values = self.ratios
            good = (lambda v: v >= self.at_least) if self.at_least is not None else (lambda v: v <= self.at_most)
            met = good(statistics.median(values))
        else:
            return ""
        return "met" if met else "within the spread" if any(map(good, values)) else "missed"


class Bench:
    """The programs, the machine's memory of files, and the place for all that is made."""

    def __init__(self, binary, programs, python, folder, mib, rounds, smoke=False):
        self.binary, self.python = str(binary), python
        self.reader, self.relay = str(programs / "reader"), str(programs / "relay")
        self.folder, self.mib, self.rounds, self.smoke = folder, mib, rounds, smoke
        self.tmp = Path(tempfile.mkdtemp(prefix="modelfs-bench-"))
        self.mount_help = self.output(self.binary, "mount", "--help")
        self.notices = []

    def close(self):
        shutil.rmtree(self.tmp, ignore_errors=True)

    @property
    def bytes(self):
        return self.mib * MIB

    # Programs

    def output(self, *command):
        """What a program prints."""
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise SystemExit(f"bench: {' '.join(map(str, command))}: exit {done.returncode}")
        return done.stdout

    def seconds(self, *command):
        """How long a whole process takes."""
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        took = time.perf_counter() - began
        if done.returncode != 0:
            raise SystemExit(f"bench: {' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()}")
        return took

    def peak_mib(self, *command):
        """The most memory that a process had, as the system counts it when it ends."""
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"bench: {' '.join(map(str, command))}: exit {process.returncode}")
        return usage.ru_maxrss / 1024

    def read(self, *files):
        """Reads files one after another: seconds to the first byte and to the last."""
        figures = json.loads(self.output(self.reader, "read", *files))
        return figures["first"] / 1e9, figures["total"] / 1e9

    def look(self, how, file, *more):
        """Seconds of one of the reader's other ways (first, sum, touch)."""
        return json.loads(self.output(self.reader, how, file, *map(str, more)))["total"] / 1e9

    def random(self, file, count, seed):
        """Thousands of random 4 KiB reads a second."""
        figures = json.loads(self.output(self.reader, "random", file, str(count), str(seed)))
        return count / (figures["total"] / 1e9) / 1e3

    def metadata(self, folder, during):
        """Latencies of metadata calls in milliseconds while `during()` runs."""
        asking = subprocess.Popen([self.reader, "metadata", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        during()
        out, _ = asking.communicate(b".")
        if asking.returncode != 0:
            raise SystemExit("bench: the reader that asks for metadata failed")
        found = json.loads(out)
        return {op: {k: v / 1e6 for k, v in f.items() if k != "count"} for op, f in found.items()}

    # The page cache

    def evict(self, files):
        """Makes files cold: their pages leave the cache, and it is looked whether they have. Only these files, not
        the programs that will read them: who is measured does not pay for being loaded itself."""
        for _ in range(3):
            for file in files:
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)
            left = self.resident(files)
            if left < 0.01:
                return
            time.sleep(0.05)
        with contextlib.suppress(OSError):
            Path("/proc/sys/vm/drop_caches").write_text("1\n")
        left = self.resident(files)
        if left >= 0.01:
            self.notice(f"{left:.0%} of a file stayed in the page cache: cold is not quite cold")

    def resident(self, files):
        """The share of the files that is in the page cache; 0 where nobody can say."""
        if not shutil.which("fincore"):
            self.notice("fincore (util-linux) is missing: nobody looked whether cold files were cold")
            return 0
        lines = self.output("fincore", "--bytes", "--noheadings", "--output", "RES", *files).split()
        return sum(map(int, lines)) / max(1, sum(os.stat(f).st_size for f in files))

    def warm(self, files):
        """Makes files hot: the page cache holds them until somebody wants the room, which some machines do soon."""
        self.read(*files)

    def notice(self, text):
        if text not in self.notices:
            self.notices.append(text)
            say(f"NOTICE: {text}")

    # Mounts

    @contextlib.contextmanager
    def mounted(self, model, *options):
        """A mount of `model` whose server is our child; yields the mounted folder and the server."""
        command = [self.binary, "mount", "--foreground", "--json", "--log-file", self.tmp / "log", *options]
        command += ["--public-key", model.key, model.bundle, model.folder]
        with self._served(command) as served:
            yield served

    def status(self, folder):
        """What a mount says of itself."""
        return json.loads(self.output(self.binary, "status", "--json", folder))

    def high_water_mib(self, folder):
        """The most memory that the serving process had so far."""
        status = Path(f"/proc/{self.status(folder)['pid']}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    @contextlib.contextmanager
    def relayed(self, model, *options, like=None):
        """A relay of the model's folder, with the read-ahead of the mount `like`."""
        with self._served([self.relay, *options, model.folder]) as (folder, server):
            if like is not None:
                wanted = read_ahead(like).read_text()
                with contextlib.suppress(PermissionError):
                    read_ahead(folder).write_text(wanted)
                if read_ahead(folder).read_text() != wanted:
                    self.notice("the relay's read-ahead could not be set to that of modelfs (needs root)")
            yield folder, server

    @contextlib.contextmanager
    def _served(self, command):
        folder = Path(tempfile.mkdtemp(dir=self.tmp))
        server = subprocess.Popen([*command, folder], stdout=subprocess.PIPE)
        try:
            if not server.stdout.readline().strip():
                raise SystemExit(f"bench: {command[0]} did not mount: exit {server.wait()}")
            yield folder, server
        finally:
            for attempt in range(20):
                unmount = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
                if not os.path.ismount(folder):
                    break
                if subprocess.run([*unmount, folder], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                say(f"bench: {folder} could not be unmounted")
                server.terminate()
            server.stdout.read()
            server.wait()

    # Rounds

    def others(self):
        """The share of the processors that is used while we do nothing; what a host takes counts as well."""
        def ticks():
            found = list(map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]))
            return sum(found), found[3] + found[4]

        if self.smoke:
            return 0
        before, idle_before = ticks()
        time.sleep(0.25)
        after, idle_after = ticks()
        return 1 - (idle_after - idle_before) / max(1, after - before)

    def alternate(self, subjects):
        """Lets each subject do its work once a round, each round beginning with another one. Gives what each
        returned, by name, in the order of the rounds."""
        results = {name: [] for name in subjects}
        names = list(subjects)
        for number in range(self.rounds):
            others = self.others()
            if others > NOT_ALONE:
                self.notice("others used the processors while this was measured")
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                results[name].append(subjects[name]())
            say("  " + "  ".join(f"{name} {brief(results[name][-1])}" for name in names))
        return results


def brief(value):
    if isinstance(value, tuple):
        return "/".join(map(brief, value))
    return f"{value:.4g}" if isinstance(value, (int, float)) else "done"


def read_ahead(folder):
    device = os.stat(folder).st_dev
    return Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
