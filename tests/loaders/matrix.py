#!/usr/bin/env python3
"""Runs each loader on a signed model: from its folder, from a mount of it, and from mounts of it with one byte changed.

usage: matrix.py --modelfs BINARY [--write DOCUMENT] [--only NAME] light|torch|tensorflow|candle...

For each loader it holds that
- what it loads from a mount equals, bit for bit, what it loads from the folder, whether each file has one digest or shards;
- it tries to write nothing to the mount that would matter to it;
- with one byte changed in the folder, the loader alone loads something else (or notices by itself): the byte counts;
- with the same byte changed, nothing of the file is loaded from a mount, under either way of signing, and the log and
  `modelfs status` name the file at once.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import harness
import trace

SETS = {"light": harness.LIGHT, "torch": harness.TORCH, "tensorflow": harness.TENSORFLOW, "candle": harness.CANDLE}
SOON = 2
"""Seconds within which the log and the status must name a refused file, once its loader has ended."""


class Failed(Exception):
    pass


def need(holds, what, done=None):
    if not holds:
        said = f"\n{done.stdout[-2000:]}{done.stderr[-3000:]}" if done is not None else ""
        raise Failed(what + said)


def last_words(done, point):
    """What the user of a loader sees in the end: its death, and the line that says most."""
    if done.returncode < 0:
        kind = signal.Signals(-done.returncode)
        return f"dies of {kind.name} (`{signal.strsignal(kind)}`)"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # llama.cpp says what went wrong first, and in the end only that something did.
    telling = [line for line in lines if "error loading model" in line][:1]
    telling = telling or [line for line in lines if re.search(r"error|fail|errno|bus", line, flags=re.I)]
    line = (telling or lines or ["nothing"])[-1]
    # It begins each line with the time; TensorFlow names a node of its graph at length.
    line = re.sub(r"^[\d.]+ [A-Z] +|\{\{function_node .*?\}\} ", "", line.replace(str(point), "/mnt/model"))
    return f"exit {done.returncode}, `{line[:200]}`"


def run_refused(shop, loader, point, cache, expected, may_hang):
    """Holds that a run on a mount of a changed model gets nothing of the changed file, and that the operator can see why.
    Gives what the user sees."""
    hanging = []

    def stuck():
        if may_hang and "which asks for ever" in shop.log.read_text():
            hanging.append(harness.output(shop.modelfs, "status", point))
        return bool(hanging)

    done = shop.run(loader, point, cache, stuck=stuck)
    need(hanging or done.returncode != -signal.SIGKILL, f"the loader did not end in {harness.PATIENCE} s", done)
    for text in hanging:
        need(f"asked again: {loader.weights}" in text, f"status does not say why the loader hangs: {text}")
    ended = time.monotonic()
    need(done.returncode != 0, f"the loader ended well on a changed {loader.weights}", done)
    strange = set(harness.loaded(done)) - set(expected)
    need(not strange, f"the loader got other values than those signed: {strange}", done)
    while True:
        status = json.loads(harness.output(shop.modelfs, "status", "--json", point))
        log = [line for line in shop.log.read_text().splitlines() if f"error: {loader.weights} " in line]
        log = [line for line in log if "content differs" in line]
        if log and loader.weights in json.dumps(status) and "rejected" in json.dumps(status):
            break
        need(time.monotonic() - ended < SOON, f"nobody named {loader.weights}: {status}\n{shop.log.read_text()}", done)
        time.sleep(0.05)
    need(len(log) == 1, f"one refusal is one line of the log: {log}")
    text = harness.output(shop.modelfs, "status", point)
    need(f"rejected: {loader.weights}" in text, f"status does not name the file: {text}")
    return "does not come back" if done.returncode == -signal.SIGKILL else last_words(done, point)


def try_loader(shop, loader):
    """One row of the matrix."""
    model = shop.model(loader)
    plain = shop.run(loader, model.folder, model.cache)
    expected = harness.loaded(plain)
    need(plain.returncode == 0 and expected, "the loader does not load the folder", plain)

    row = {"loader": loader.name, "versions": harness.versions(loader)}
    for bundle in (model.whole, model.sharded):
        with shop.mounted(loader, model, bundle) as (point, cache):
            file = shop.work / "trace"
            for old in shop.work.glob("trace.*"):
                old.unlink()
            mounted = shop.run(loader, point, cache, trace.tracer(file))
            need(mounted.returncode == 0, f"the loader does not load the mount ({bundle.name})", mounted)
            need(harness.loaded(mounted) == expected, f"the mount gave other values ({bundle.name})", mounted)
            row["reads"] = trace.reads(file, point / loader.weights)
            row["writes"] = trace.writes(file, point)
            need(row["reads"], f"the trace shows no read of {loader.weights}")
            refusals = [line for line in shop.log.read_text().splitlines() if "error:" in line or "warn" in line]
            need(not refusals, f"the log complains of a good model: {refusals}")

    with harness.changed(loader, model) as offset:
        alone = shop.run(loader, model.folder, model.cache)
        need(harness.loaded(alone) != expected, f"byte {offset} of {loader.weights} does not matter to this loader")
        row["alone"] = "loads it" if alone.returncode == 0 else last_words(alone, model.folder)
        for key, bundle in (("whole", model.whole), ("sharded", model.sharded)):
            with shop.mounted(loader, model, bundle) as (point, cache):
                may_hang = loader.populates and key == "sharded"
                row[key] = run_refused(shop, loader, point, cache, expected, may_hang)
    again = shop.run(loader, model.folder, model.cache)
    need(harness.loaded(again) == expected, "the folder was not put right again", again)
    return row


def tables(rows):
    """The tables of docs/LOADERS.md, by the name that their markers there have."""

    def cell(text):
        return text.replace("|", "\\|")

    reads = ["| loader | versions | how it reads the weights | tries to write |", "|---|---|---|---|"]
    refusals = ["| loader | one digest a file | shards | without modelfs |", "|---|---|---|---|"]
    for row in rows:
        wrote = "; ".join(f"`{call}`" for call in row["writes"]) or "nothing"
        reads.append("| " + " | ".join(map(cell, (row["loader"], row["versions"], row["reads"], wrote))) + " |")
        refusals.append("| " + " | ".join(cell(row[key]) for key in ("loader", "whole", "sharded", "alone")) + " |")
    return {"reads": "\n".join(reads), "refusals": "\n".join(refusals)}


def rewrite(document, rows):
    """Puts the tables between their markers in a document."""
    text = document.read_text()
    for name, table in tables(rows).items():
        marked = rf"(<!-- {name}:.*? -->\n).*?(<!-- end of {name} -->)"
        text, count = re.subn(marked, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.S)
        need(count == 1, f"{document} has no place for the table {name}")
    document.write_text(text)


def undocumented(document):
    """The loaders of the matrix that a document does not have in both its tables."""
    text = document.read_text()
    every = (loader.name for loaders in SETS.values() for loader in loaders)
    return [name for name in every if len(re.findall(rf"^\| {re.escape(name)} \|", text, flags=re.M)) < 2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--modelfs", required=True)
    parser.add_argument("--write", type=Path, help="a document whose tables are written anew")
    parser.add_argument("--only", default="", help="a part of the loader's name")
    parser.add_argument("sets", nargs="+", choices=SETS)
    arguments = parser.parse_args()
    rows, failed = [], 0
    with harness.Workshop(arguments.modelfs) as shop:
        for loader in (loader for name in arguments.sets for loader in SETS[name] if arguments.only in loader.name):
            began = time.monotonic()
            try:
                rows.append(try_loader(shop, loader))
                print(f"ok      {time.monotonic() - began:5.1f} s  {loader.name} ({rows[-1]['versions']})", flush=True)
            except (Failed, RuntimeError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"FAILED  {time.monotonic() - began:5.1f} s  {loader.name}: {error}", flush=True)
    if arguments.write and not failed:
        rewrite(arguments.write, rows)
    for name in undocumented(harness.ROOT / "docs" / "LOADERS.md"):
        failed += 1
        print(f"FAILED  docs/LOADERS.md does not have {name} in both its tables")
    print(f"loaders: {len(rows)} passed, {failed} failed")
    sys.exit(failed != 0 or not rows)


if __name__ == "__main__":
    main()
