"""The cases: what is done with a signed model, against whom, and how good it must be."""

import functools
import json
import shutil
import subprocess
import time

from measure import MIB, Row, Unavailable

CASES = {}
"""By name: a function from a Bench and its Models to rows."""


def case(function):
    CASES[function.__name__.replace("_", "-")] = function
    return function


def rates(size, seconds):
    return [size / s / 1e9 for s in seconds]


def openssl(*files):
    return ["openssl", "dgst", "-sha256", *files]


def mount_and_read(bench, model, *options):
    """A mount that nobody has read from, over a cold source: seconds to the first byte and to the last."""
    bench.evict(model.files)
    with bench.mounted(model, *options) as (folder, _):
        return bench.read(*model.within(folder))


def relay_and_read(bench, model):
    bench.evict(model.files)
    with bench.mounted(model) as (like, _), bench.relayed(model, like=like) as (folder, _):
        return bench.read(*model.within(folder))[1]


def read_cold(bench, model):
    bench.evict(model.files)
    return bench.read(*model.files)[1]


def cold(bench, model, *command):
    bench.evict(model.files)
    return bench.seconds(*command)


def hot(bench, model, *command):
    bench.warm(model.files)
    return bench.seconds(*command)


def reference_then_read(bench, models, model):
    """What a careful user does without modelfs: verify, then read. The read may find the file in the cache."""
    return cold(bench, model, *models.reference(model)) + bench.read(*model.files)[1]


# Cold

@case
def cold_whole(bench, models):
    """cold, one file with one digest"""
    model = models.one
    got = bench.alternate({
        "mount": lambda: mount_and_read(bench, model),
        "verify": lambda: cold(bench, model, *models.verify(model)),
        "openssl": lambda: cold(bench, model, *openssl(*model.files)),
        "reference": lambda: reference_then_read(bench, models, model),
        "native": lambda: read_cold(bench, model),
        "relay": lambda: relay_and_read(bench, model),
    })
    first, total = zip(*got["mount"])
    row = functools.partial(Row, "cold-whole-read", "read through the mount", "GB/s", rates(bench.bytes, total))
    rate = {name: rates(bench.bytes, got[name]) for name in got if name != "mount"}
    return [
        Row("cold-whole-first-byte", "open, first byte", "s", list(first), "`openssl dgst -sha256`, whole process",
            got["openssl"], at_most=1.05),
        row("own `verify`", rate["verify"], at_least=0.9),
        row("reference verify, then read", rate["reference"], at_least=1.8),
        row("native read", rate["native"]),
        row("FUSE relay, no verification", rate["relay"]),
    ]


@case
def cold_4_files(bench, models):
    """cold, four files with a digest each, one reader"""
    model = models.four
    got = bench.alternate({
        "mount": lambda: mount_and_read(bench, model)[1],
        "one core": lambda: hot(bench, model, *openssl(*model.files)),
        "reference": lambda: reference_then_read(bench, models, model),
        "native": lambda: read_cold(bench, model),
        "verify": lambda: cold(bench, model, *models.verify(model)),
    })
    rate = {name: rates(bench.bytes, got[name]) for name in got}
    row = functools.partial(Row, "cold-4-files", "read through the mount", "GB/s", rate["mount"])
    return [
        row("one core's hash: `openssl dgst`, hot", rate["one core"], at_least=1.7),
        row("reference verify, then read", rate["reference"], at_least=2.5),
        row("native read", rate["native"]),
        row("own `verify`", rate["verify"]),
    ]


@case
def cold_shards(bench, models):
    """cold, one file in shards of 1 MiB"""
    model = models.shards

    def first_byte():
        bench.evict(model.files)
        with bench.mounted(model) as (folder, _):
            return bench.look("first", model.within(folder)[0], 1) * 1e3

    def native_first():
        bench.evict(model.files)
        return bench.look("first", model.files[0], MIB) * 1e3

    got = bench.alternate({
        "mount": lambda: mount_and_read(bench, model)[1],
        "native": lambda: read_cold(bench, model),
        "relay": lambda: relay_and_read(bench, model),
        "verify": lambda: cold(bench, model, *models.verify(model)),
        "reference": lambda: reference_then_read(bench, models, model),
        "first byte": first_byte,
        "native 1 MiB": native_first,
    })
    rate = {name: rates(bench.bytes, got[name]) for name in ("mount", "native", "relay", "verify", "reference")}
    row = functools.partial(Row, "cold-shards-read", "read through the mount", "GB/s", rate["mount"])
    return [
        row("native read", rate["native"], at_least=0.9),
        row("FUSE relay, no verification", rate["relay"]),
        row("own `verify`", rate["verify"]),
        row("reference verify, then read", rate["reference"]),
        Row("cold-shards-first-byte", "open, first byte", "ms", got["first byte"], "native, first 1 MiB",
            got["native 1 MiB"], at_most=3),
    ]


# Hot

def hot_case(bench, models, name, what, unit, figure, least_of_relay=None, least_of_native=None, options=()):
    """The same way of reading three times, each from its own page cache, which is filled anew in every round, with those of mount
    and relay empty: how fast it is depends on which pages the kernel hands out, and so both get the same. It is read twice
    more first, for the second time a page is read the kernel moves it to another list, which takes as long as copying half
    of it."""
    model = models.one
    with bench.mounted(model, *options) as (mount, _), bench.relayed(model, like=mount) as (relay, _):
        bench.warm(model.within(mount))
        if "--pin" in options and not bench.status(mount)["pinned"]["files"]:
            raise Unavailable("nothing was pinned; that needs root, FUSE passthrough, and memory")

        def subject(files):
            def run():
                if "--pin" not in options:
                    bench.evict(model.within(mount) + model.within(relay))
                    bench.warm(files)
                bench.warm(files)
                bench.warm(files)
                return figure(str(files[0]))
            return run

        got = bench.alternate({
            "mount": subject(model.within(mount)),
            "relay": subject(model.within(relay)),
            "native": subject(model.files),
        })
    row = functools.partial(Row, name, what, unit, got["mount"])
    return [
        row("FUSE relay, no verification", got["relay"], at_least=least_of_relay),
        row("native", got["native"], at_least=least_of_native),
    ]


def read_rate(bench):
    return lambda file: bench.bytes / bench.read(file)[1] / 1e9


def mapped_rate(bench, how):
    return lambda file: bench.bytes / bench.look(how, file) / 1e9


def random_rate(bench):
    seeds = iter(range(1, 1000))
    return lambda file: bench.random(file, max(1000, 100 * bench.mib), next(seeds))


@case
def hot_read(bench, models):
    """page cache, `read`"""
    return hot_case(bench, models, "hot-read", "read", "GB/s", read_rate(bench), 1.0)


@case
def hot_mmap(bench, models):
    """page cache, mapped"""
    return [
        *hot_case(bench, models, "hot-mmap", "sum of every mapped byte", "GB/s", mapped_rate(bench, "sum"), 1.0),
        *hot_case(bench, models, "hot-mmap-touch", "one byte of each mapped page", "GB/s", mapped_rate(bench, "touch")),
    ]


@case
def hot_random_4k(bench, models):
    """page cache, random reads of 4 KiB"""
    return hot_case(bench, models, "hot-random-4k", "4 KiB at random", "k/s", random_rate(bench), 1.0)


@case
def hot_pinned(bench, models):
    """pinned in memory"""
    if "--pin" not in bench.mount_help:
        raise Unavailable("this binary has no --pin")
    options = ("--pin", "all", "--memory", str(bench.bytes + 1024 * MIB))
    ways = [
        ("read", "read", "GB/s", read_rate(bench), 0.85),
        ("mmap", "sum of every mapped byte", "GB/s", mapped_rate(bench, "sum"), None),
        ("touch", "one byte of each mapped page", "GB/s", mapped_rate(bench, "touch"), None),
        ("random-4k", "4 KiB at random", "k/s", random_rate(bench), None),
    ]
    return [
        row
        for way, what, unit, figure, least in ways
        for row in hot_case(bench, models, f"hot-pinned-{way}", what, unit, figure, None, least, options)
    ]


@case
def reread(bench, models):
    """read again after the kernel dropped the mount's pages"""
    model = models.one
    with bench.mounted(model) as (mount, _), bench.relayed(model, like=mount) as (relay, _):
        bench.warm(model.within(mount))

        def again(folder, source):
            bench.evict(model.within(folder))
            source(model.files)
            return bench.read(*model.within(folder))[1]

        got = bench.alternate({
            "mount, source cold": lambda: again(mount, bench.evict),
            "native cold": lambda: read_cold(bench, model),
            "relay, source cold": lambda: again(relay, bench.evict),
            "mount, source hot": lambda: again(mount, bench.warm),
            "relay, source hot": lambda: again(relay, bench.warm),
            "openssl": lambda: hot(bench, model, *openssl(*model.files)),
        })
    rate = {name: rates(bench.bytes, seconds) for name, seconds in got.items()}
    cold_row = functools.partial(Row, "reread-source-cold", "read again", "GB/s", rate["mount, source cold"])
    hot_row = functools.partial(Row, "reread-source-hot", "read again", "GB/s", rate["mount, source hot"])
    return [
        cold_row("native read", rate["native cold"], at_least=0.7),
        cold_row("FUSE relay, no verification", rate["relay, source cold"]),
        hot_row("hashing again: `openssl dgst`, hot", rate["openssl"], at_least=4),
        hot_row("FUSE relay, no verification", rate["relay, source hot"]),
    ]


# Verify without a mount

@case
def verify_one(bench, models):
    """`modelfs verify`, one file with one digest, hot"""
    model = models.one
    subjects = {
        "verify": models.verify(model),
        "openssl": openssl(*model.files),
        "reference": models.reference(model),
        "sha256sum": ["sha256sum", *model.files],
    }
    if shutil.which("b3sum"):
        subjects["b3sum"] = ["b3sum", *model.files]
    got = bench.alternate({name: functools.partial(hot, bench, model, *command) for name, command in subjects.items()})
    rate = {name: rates(bench.bytes, seconds) for name, seconds in got.items()}
    row = functools.partial(Row, "verify-one", "`modelfs verify`", "GB/s", rate["verify"])
    peers = {
        "openssl": "`openssl dgst -sha256`",
        "reference": "reference verify",
        "sha256sum": "coreutils `sha256sum`",
        "b3sum": "`b3sum` (another hash, all cores)",
    }
    least = {"openssl": 1.15}
    return [row(name, rate[peer], at_least=least.get(peer)) for peer, name in peers.items() if peer in rate]


def verify_many(bench, models, model, name, least):
    got = bench.alternate({
        "verify": lambda: hot(bench, model, *models.verify(model)),
        "reference": lambda: hot(bench, model, *models.reference(model)),
        "openssl": lambda: hot(bench, model, *openssl(*model.files)),
    })
    rate = {name: rates(bench.bytes, seconds) for name, seconds in got.items()}
    row = functools.partial(Row, name, "`modelfs verify`", "GB/s", rate["verify"])
    return [
        row("reference verify", rate["reference"], at_least=least),
        row("`openssl dgst -sha256`, one core", rate["openssl"]),
    ]


@case
def verify_4_files(bench, models):
    """`modelfs verify`, four files with a digest each, hot"""
    return verify_many(bench, models, models.four, "verify-4-files", 1.5)


@case
def verify_shards(bench, models):
    """`modelfs verify`, shards of 1 MiB, hot"""
    return verify_many(bench, models, models.shards, "verify-shards", 2.5)


@case
def micro(bench, _):
    """the parts, with criterion: `cargo bench --bench verify`"""
    command = ["cargo", "bench", "--locked", "--quiet", "--bench", "verify"]
    if bench.smoke:
        # Each once, built as the tests are.
        bench.output(*command, "--profile", "dev", "--", "--test")
        raise Unavailable("the smoke test only runs the parts once")
    out = bench.tmp / "criterion"
    bench.output("env", f"CRITERION_HOME={out}", *command)
    rate = {}
    for known in out.glob("*/*/new/benchmark.json"):
        about, sample = (json.loads((known.parent / name).read_text()) for name in ("benchmark.json", "sample.json"))
        size = about["throughput"]["Bytes"]
        rate[about["group_id"], about["function_id"]] = [
            size * count / time for count, time in zip(sample["iters"], sample["times"])]
    rows = []
    for what in ("one digest", "shards of 1 MiB"):
        first, again = f"first pass, {what}", f"again, {what}"
        rows += [
            Row("micro-first-pass", f"{what}: verify and serve", "GB/s", rate[first, "verify and serve"],
                "read and hash, one core", rate[first, "read and hash"]),
            Row("micro-again", f"{what}: check tags and serve", "GB/s", rate[again, "check tags and serve"],
                "read and hash, one core", rate[again, "read and hash"], at_least=4),
            Row("micro-again", f"{what}: check tags and serve", "GB/s", rate[again, "check tags and serve"],
                "read, no check", rate[again, "read"], at_least=0.75),
        ]
    return rows


# What it takes besides time

@case
def memory(bench, models):
    """most memory of the serving process (VmHWM)"""
    def peak(model, budget):
        bench.evict(model.files)
        with bench.mounted(model, "--memory", f"{budget}M") as (folder, _):
            readers = [subprocess.Popen([bench.reader, "read", file], stdout=subprocess.DEVNULL)
                       for file in model.within(folder)]
            if any([reader.wait() for reader in readers]):
                raise SystemExit("bench: a reader failed while memory was watched")
            return bench.high_water_mib(folder)

    ways = {
        (name, budget): functools.partial(peak, model, budget)
        for budget in (1024, 64)
        for name, model in (("one reader, one file", models.one), ("four readers, four files", models.four),
                            ("one reader, shards", models.shards))
    }
    reference = functools.partial(bench.peak_mib, *models.reference(models.one))
    got = bench.alternate({f"{name} {budget}M": way for (name, budget), way in ways.items()} | {"reference": reference})
    return [
        Row(f"memory-{budget}m", f"`--memory {budget}M`, {name}", "MiB", got[f"{name} {budget}M"],
            "reference verify", got["reference"], limit=budget + 64)
        for name, budget in ways
    ]


@case
def metadata(bench, models):
    """added latency of metadata calls while all cores hash (99th percentile)"""
    model = models.four

    def latencies(folder, load):
        idle = bench.metadata(folder, lambda: time.sleep(0.3))

        def loaded():
            working = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in load]
            if any([process.wait() for process in working]):
                raise SystemExit("bench: what was to hash failed")

        return idle, bench.metadata(folder, loaded)

    def mount():
        bench.warm(model.files)
        with bench.mounted(model) as (folder, _):
            return latencies(folder, [[bench.reader, "read", file] for file in model.within(folder)])

    def relay():
        bench.warm(model.files)
        with bench.relayed(model, "--ask-again") as (folder, _):
            return latencies(folder, [openssl(*half) for half in (model.files[:2], model.files[2:])])

    got = bench.alternate({"mount": mount, "relay": relay})
    what = {
        "lookup": "`stat` of a name that the kernel has not met",
        "getattr": "`stat` of a file",
        "readdir": "list the folder",
    }

    def busy(who, op, which):
        return [busy[op][which] for _, busy in got[who]]

    rows = []
    for op, name in what.items():
        added = [busy[op]["p99"] - idle[op]["p99"] for idle, busy in got["mount"]]
        rows.append(Row(f"metadata-{op}", f"{name}: added to p99", "ms", added, limit=5))
        for which in ("p50", "p99", "max"):
            rows.append(Row(f"metadata-{op}", f"{name}: {which} while hashing", "ms", busy("mount", op, which),
                            "FUSE relay beside two `openssl dgst`", busy("relay", op, which)))
    return rows


@case
def resume(bench, models):
    """second mount with `--state`"""
    if "--state" not in bench.mount_help:
        raise Unavailable("this binary has no --state")
    model = models.one
    state = bench.tmp / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    with bench.mounted(model, "--state", state) as (folder, _):
        bench.warm(model.within(folder))

    def second():
        bench.evict(model.files)
        with bench.mounted(model, "--state", state) as (folder, _):
            first, total = bench.read(*model.within(folder))
            return first * 1e3, total

    def native():
        bench.evict(model.files)
        return bench.look("first", model.files[0], MIB) * 1e3

    got = bench.alternate({
        "second mount": second,
        "first mount": lambda: mount_and_read(bench, model)[0] * 1e3,
        "native 1 MiB": native,
        "native": lambda: read_cold(bench, model),
    })
    first, total = zip(*got["second mount"])
    row = functools.partial(Row, "resume-first-byte", "second mount, open, first byte", "ms", list(first))
    return [
        row("native, first 1 MiB", got["native 1 MiB"]),
        row("first mount", got["first mount"]),
        Row("resume-read", "second mount, read", "GB/s", rates(bench.bytes, total), "native read",
            rates(bench.bytes, got["native"])),
    ]
