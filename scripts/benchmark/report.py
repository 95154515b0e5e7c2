"""What is shown of the rows: tables for people, and bars."""

import html
import statistics

BEGIN, END = "<!-- scripts/bench writes from here -->", "<!-- to here -->"

TITLES = {
    "cold": "Cold: a fresh mount, and nothing of the model in memory",
    "hot": "Hot: from the page cache",
    "reread": "Read again: verified before, dropped from the page cache since",
    "verify": "`modelfs verify`: no mount, model in the page cache",
    "memory": "Memory of the serving process",
    "metadata": "Metadata calls while all cores hash",
    "resume": "Mounted again, with `--state`",
    "manifest": "Mounting large manifests",
    "loaders": "Loaders",
    "micro": "Parts",
}

PLOTS = {"cold": "Cold, GB/s", "hot": "Hot, GB/s", "reread": "Read again, GB/s", "verify": "verify, GB/s"}

COLOURS = {"modelfs": "#1a6fb0", "peer": "#b8b8b8"}


def spread(values):
    """Median, and the least and greatest of all rounds."""
    if not values:
        return "-"
    middle, least, most = (figure(f(values)) for f in (statistics.median, min, max))
    return f"{middle} ({least}..{most})" if len(values) > 1 else middle


def figure(value):
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def table(rows, judge=True):
    lines = ["| case | | modelfs | peer | peer's | modelfs / peer | target | |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        ratios = spread(row.ratios) if row.theirs else ""
        if not row.ours:
            lines.append(f"| {row.case} | {row.what} | not measured: {row.note} | | | | {row.target} | |")
            continue
        ours, theirs = f"{spread(row.ours)} {row.unit}", f"{spread(row.theirs)} {row.unit}" if row.theirs else ""
        lines.append(f"| {row.case} | {row.what} | {ours} | {row.peer} | {theirs} | {ratios} | {row.target} "
                     f"| {row.verdict if judge else ''} |")
    notes = sorted({f"{row.case}: {row.note}" for row in rows if row.ours and row.note})
    return "\n".join(lines + ([""] + notes if notes else []))


def group(name):
    return name.split("-")[0]


def sections(results):
    """Rows by the section they belong to, in the order in which the cases ran."""
    found = {}
    for result in results:
        found.setdefault(group(result["case"]), []).extend(result["rows"])
    return found


def document(results, plots):
    """The generated part of docs/BENCHMARKS.md."""
    machine = results[0]["machine"]
    same = all(result["machine"] == machine and result["commit"] == results[0]["commit"] for result in results)
    out = ["| | |", "|---|---|"]
    dates = sorted(result["date"] for result in results)
    facts = {"commit": results[0]["commit"], "measured": f"{dates[0]} to {dates[-1]}"} | machine
    out += [f"| {name} | {value} |" for name, value in facts.items()]
    if not same:
        out += ["", "Not all cases are of one commit and machine:", ""]
        out += [f"- {r['case']}: {r['commit']}, {r['date']}" for r in results]
    judged = [row for result in results for row in result["rows"] if row.ours and row.target]
    count = {word: sum(row.verdict == word for row in judged) for word in ("met", "within the spread", "missed")}
    out += ["", f"Of {len(judged)} targets, " + ", ".join(f"{n} {word}" for word, n in count.items() if n) + "."]
    for section, rows in sections(results).items():
        out += ["", f"## {TITLES.get(section, section)}", ""]
        if section in plots:
            out += [f"![{PLOTS[section]}](benchmarks/{section}.svg)", ""]
        out.append(table(rows))
    said = {}
    for result in results:
        for notice in result["notices"]:
            said.setdefault(notice, []).append(result["case"])
    if said:
        out += ["", "Said while measuring:", ""]
        out += [f"- {notice} ({', '.join(cases)})" for notice, cases in said.items()]
    return "\n".join(out) + "\n"


def write(root, results):
    """Puts the generated part into docs/BENCHMARKS.md, between its two marks, and the plots beside it."""
    plots = {}
    for section, rows in sections(results).items():
        bars = bars_of(rows)
        if section in PLOTS and bars:
            plots[section] = svg(PLOTS[section], bars)
    path = root / "docs" / "BENCHMARKS.md"
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n\n{document(results, plots)}\n{END}{after}")
    folder = root / "docs" / "benchmarks"
    folder.mkdir(exist_ok=True)
    for section, text in plots.items():
        (folder / f"{section}.svg").write_text(text)
    return path


def bars_of(rows):
    """(case, [(name, values)]) for each case that is counted in GB/s."""
    cases = {}
    for row in rows:
        if row.unit == "GB/s" and row.ours:
            bars = cases.setdefault(row.case, {"modelfs": row.ours})
            if row.peer:
                bars[row.peer] = row.theirs
    return [(case, list(bars.items())) for case, bars in cases.items()]


def svg(title, cases):
    """Bars of medians with a line from the least to the greatest."""
    left, width, bar, gap = 330, 420, 18, 26
    most = max(max(values) for _, bars in cases for _, values in bars)
    out, y = [], 34

    def x(value):
        return left + width * value / most

    def text(x, y, what, more=""):
        out.append(f'<text x="{x:.0f}" y="{y:.0f}"{more}>{html.escape(what)}</text>')

    text(10, 20, title, ' font-weight="bold"')
    for case, bars in cases:
        text(10, y + 13, case, ' font-style="italic"')
        for name, values in bars:
            ours = name == "modelfs"
            colour = COLOURS["modelfs" if ours else "peer"]
            middle = statistics.median(values)
            text(left - 8, y + 13, name.replace("`", ""), ' text-anchor="end"' + ' font-weight="bold"' * ours)
            out.append(f'<rect x="{left}" y="{y}" width="{x(middle) - left:.1f}" height="{bar - 4}" fill="{colour}"/>')
            line = f'x1="{x(min(values)):.1f}" x2="{x(max(values)):.1f}" y1="{y + 7}" y2="{y + 7}"'
            out.append(f'<line {line} stroke="#222" stroke-width="1.5"/>')
            text(x(max(values)) + 6, y + 12, figure(middle))
            y += bar
        y += gap - bar
    size = f'width="{left + width + 60}" height="{y}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
            f'<rect {size} fill="#fff"/>\n' + "\n".join(out) + "\n</svg>\n")
