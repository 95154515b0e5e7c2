"""Runs cases, keeps what they found, prints it, and writes docs/BENCHMARKS.md. Started by scripts/bench."""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import report
from cases import CASES
from measure import MIB, Bench, Row, Unavailable, say
from models import Models, memory_bytes

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ROOT / "scripts" / "bench.d"

SIZES = {"full": 4096, "quick": 512, "smoke": 8}
"""MiB of a model."""

ROUNDS = {"full": 5, "quick": 5, "smoke": 1}


def programs():
    """Cases that are programs of their own: docs/BENCHMARKS.md says what is asked of them."""
    found = sorted(PROGRAMS.iterdir()) if PROGRAMS.is_dir() else []
    return {path.name: path for path in found if path.is_file() and os.access(path, os.X_OK)}


def run_program(bench, path, size):
    """Lets a program of scripts/bench.d measure: its rows."""
    folder = bench.folder / path.name
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "MODELFS_BINARY": bench.binary,
        "MODELFS_BENCH_DIR": str(folder),
        "MODELFS_BENCH_SIZE": size,
        "MODELFS_BENCH_ROUNDS": str(bench.rounds),
        "MODELFS_PYTHON": bench.python,
    }
    done = subprocess.run([path], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"bench: {path} ended with {done.returncode}")
    return [Row(**row) for row in json.loads(done.stdout)]


def chosen(names, known):
    """The cases of these names; the name of a row stands for the case that makes it."""
    found = []
    for name in names:
        matches = [case for case in known if name == case or name.startswith(f"{case}-")]
        if not matches:
            sys.exit(f"bench: there is no case {name}; there are: {', '.join(known)}")
        found.append(max(matches, key=len))
    return list(dict.fromkeys(found))


def first_line(*command):
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError:
        return "missing"
    return done.stdout.strip().split("\n")[0]


def machine(bench):
    """What the figures depend on besides the code."""
    cpus = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.*)", cpus, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)", cpus, re.MULTILINE)
    has = [flag for flag in ("sha_ni", "avx512f", "vaes", "sha2") if flags and flag in flags[1].split()]
    disk = first_line("findmnt", "--noheadings", "--output", "FSTYPE,SOURCE", "--target", str(bench.folder))
    hypervisor = first_line("systemd-detect-virt") if "hypervisor" in (flags[1] if flags else "") else "none"
    return {
        "processor": f"{len(os.sched_getaffinity(0))} x {model[1] if model else platform.machine()} ({', '.join(has)})"
        + (", virtual" if hypervisor != "none" else ""),
        "memory": f"{memory_bytes() / (1 << 30):.0f} GiB",
        "kernel": platform.release(),
        "disk": " ".join(disk.split()[:1]),
        "user": "root" if os.geteuid() == 0 else "not root",
        "models": f"{bench.mib} MiB each; rounds: {bench.rounds}",
        "peers": ", ".join([
            first_line("openssl", "version").split("(")[0].strip(),
            first_line("sha256sum", "--version"),
            first_line("b3sum", "--version"),
            "model-signing " + first_line(bench.python, "-c",
                                          "from importlib.metadata import version; print(version('model-signing'))"),
            f"Python {first_line(bench.python, '-V').split()[-1]}",
        ]),
    }


def commit():
    """What is measured, and whether it is what was committed."""
    git = ["git", "-C", str(ROOT)]
    name = first_line(*git, "rev-parse", "--short=12", "HEAD")
    changed = first_line(*git, "status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock")
    if os.environ.get("MODELFS_BENCH_OTHER"):
        return f"{name} has the bench; what was measured is another binary (MODELFS_BINARY)"
    return name + (", with changes" if changed else "")


def run_case(bench, name, size, models):
    say(f"{name}:")
    try:
        rows = CASES[name](bench, models()) if name in CASES else run_program(bench, programs()[name], size)
    except Unavailable as why:
        rows = [Row(name, (CASES[name].__doc__ or "").strip(), "", [], note=str(why))]
        bench.notice(f"{name} was not measured: {why}")
    return {
        "case": name,
        "rows": rows,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(bench),
        "notices": bench.notices.copy(),
    }


def save(folder, result):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(row) for row in result["rows"]]
    (folder / f"{result['case']}.json").write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


def load(folder, known):
    results = []
    for name in known:
        path = folder / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            results.append(result | {"rows": [Row(**row) for row in result["rows"]]})
    return results


def rehearse(bench, results):
    """Writes the document where nobody keeps it, and sees that the verdicts are what the figures say."""
    for row, verdict in (
        (Row("", "", "", [2, 2, 2], "", [1, 1, 4], at_least=2), "met"),
        (Row("", "", "", [2, 1, 1], "", [1, 1, 1], at_least=2), "within the spread"),
        (Row("", "", "", [1, 1, 1], "", [1, 1, 1], at_least=2), "missed"),
        (Row("", "", "", [1, 1, 2], "", [1, 1, 1], at_most=1.05), "met"),
        (Row("", "", "", [1, 2, 2], "", [1, 1, 1], at_most=1.05), "within the spread"),
        (Row("", "", "", [1, 1, 6], limit=5), "within the spread"),
        (Row("", "", "", [1, 1, 5], limit=5), "met"),
        (Row("", "", "", [6], limit=5), "missed"),
        (Row("", "", "", [6], "", [1]), ""),
    ):
        assert row.verdict == verdict, (row, row.verdict)
    assert all(result["rows"] for result in results), "a case that found nothing"
    (bench.tmp / "docs").mkdir()
    document = bench.tmp / "docs" / "BENCHMARKS.md"
    document.write_text((ROOT / "docs" / "BENCHMARKS.md").read_text())
    report.write(bench.tmp, results)
    text = document.read_text()
    for row in (row for result in results for row in result["rows"]):
        assert f"| {row.case} | {row.what} |" in text, f"{row.case} is not in the document"
    assert list((bench.tmp / "docs" / "benchmarks").glob("*.svg")), "no plots"
    print(f"the bench runs: {len(results)} cases")


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(
        "Measures modelfs against its peers, and writes docs/BENCHMARKS.md. Cases that are named run alone: their "
        "figures are printed and kept, and --report writes what is kept."))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="size", const="quick",
                      help="models of 512 MiB; no document")
    size.add_argument("--smoke", action="store_const", dest="size", const="smoke",
                      help="every case once with next to no data, to see that all of them still run")
    parser.add_argument("--report", action="store_true", help="write docs/BENCHMARKS.md from the figures kept")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--prepare", action="store_true", help="make the models and end")
    parser.add_argument("case", nargs="*")
    args = parser.parse_args()
    size = args.size or "full"

    known = [*CASES, *programs()]
    if args.list:
        print("\n".join(known))
        return
    folder = Path(os.environ["MODELFS_BENCH_DIR"])
    mib = int(os.environ.get("MODELFS_BENCH_MIB", SIZES[size]))
    kept = folder / f"results-{mib}M"
    if args.report and not args.case:
        print(report.write(ROOT, load(kept, known)))
        return
    if memory_bytes() < 2.5 * mib * MIB:
        sys.exit(
            f"bench: {memory_bytes() / 1e9:.0f} GB of memory cannot keep a model of {mib} MiB hot: take --quick, or "
            "set MODELFS_BENCH_MIB to less"
        )
    rounds = int(os.environ.get("MODELFS_BENCH_ROUNDS", ROUNDS[size]))
    bench = Bench(os.environ["MODELFS_BINARY"], Path(os.environ["MODELFS_BENCH_PROGRAMS"]),
                  os.environ["MODELFS_PYTHON"], folder, mib, rounds, size == "smoke")
    # Who is told to end still unmounts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    made = []

    def models():
        if not made:
            made.append(Models(bench))
        return made[0]

    try:
        if args.prepare:
            models()
            return
        results = []
        for name in chosen(args.case, known) or known:
            bench.notices.clear()
            results.append(run_case(bench, name, size, models))
            save(kept, results[-1])
            print(report.table(results[-1]["rows"], judge=size != "smoke"), flush=True)
        if size == "smoke":
            rehearse(bench, load(kept, known))
        elif args.report or not (args.case or args.size):
            print(report.write(ROOT, load(kept, known)))
    finally:
        bench.close()


if __name__ == "__main__":
    main()
