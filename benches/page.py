"""Turns the figures of a folder into a page and a plot: README.md and side_by_side.svg.

usage: page.py FOLDER    reads side_by_side.csv, side_by_side.json, throughput.csv and growth.csv there
"""

import csv
import json
import statistics
import sys
from collections import defaultdict
from html import escape
from pathlib import Path

CASES = {
    "int16": "int16, 197 × 233 × 189",
    "float32": "float32, 197 × 233 × 189",
    "uint8": "uint8, 91 × 109 × 91",
}
# What niimpi is to reach: a factor of the floor at most, and so many times faster than others at least.
FLOOR = "igzip -d and -1"
SEPARATE = "2 separate runs"
TARGETS = {
    ("int16", FLOOR): 1.25,
    ("float32", FLOOR): 1.25,
    ("int16", "workshop's Python"): 4.4,
    ("float32", "workshop's Python"): 6.6,
    ("uint8", "workshop's Python"): 5,
    ("int16", "niimath"): 6,
    ("int16", "mrfilter"): 15,
    ("int16", "SimpleITK"): 14,
    ("int16", "antspyx"): 25,
}


def read_rows(path):
    """The rows of a CSV file; none where there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def by_program(rows, case):
    """CPU milliseconds of each program, by round; the floor is the two halves of the codec together."""
    figures = defaultdict(dict)
    for row in rows:
        if row["case"] == case:
            figures[row["program"]][int(row["round"])] = float(row["cpu_ms_per_image"])
    reading, writing = figures.pop("igzip -d", {}), figures.pop("igzip -1", {})
    floor = {turn: reading[turn] + writing[turn] for turn in reading if turn in writing}
    return {**({FLOOR: floor} if floor else {}), **figures}


def ratio(figures, program):
    """How many times niimpi's figure a program's is: the median over the rounds that both were in, and the
    least of all rounds against the least. For the floor the other way round, since niimpi is not below it."""
    own, others = figures["niimpi"], figures[program]
    if program == FLOOR:
        own, others = others, own
    rounds = sorted(set(own) & set(others))
    return statistics.median(others[turn] / own[turn] for turn in rounds), min(others.values()) / min(
        own.values()
    )


def verdict(value, bound, at_most):
    """A bound, and whether it is met."""
    met = value <= bound if at_most else value >= bound
    return f"{'≤' if at_most else '≥'} {bound:.4g} {'✓' if met else '✗'}"


def side_by_side(rows):
    """A table for each case."""
    for case, title in CASES.items():
        figures = by_program(rows, case)
        if "niimpi" not in figures:
            continue
        yield f"### {title}\n"
        yield (
            "| program | CPU ms per image: median | least | rounds | niimpi against it | least against least "
            "| must be |"
        )
        yield "|---|---:|---:|---:|---:|---:|---:|"
        for program, values in sorted(figures.items(), key=lambda item: statistics.median(item[1].values())):
            times, of_least, must = "", "", ""
            if program != "niimpi":
                middle, least = ratio(figures, program)
                floor = program == FLOOR
                times, of_least = (
                    (f"{middle:.2f} × its time", f"{least:.2f} ×")
                    if floor
                    else (f"{middle:.1f} × faster", f"{least:.1f} ×")
                )
                if target := TARGETS.get((case, program)):
                    must = verdict(middle, target, floor)
            yield (
                f"| {program} | {statistics.median(values.values()):.1f} | {min(values.values()):.1f} | "
                f"{len(values)} | "
                f"{times} | {of_least} | {must} |"
            )
        yield ""


def throughput(rows):
    """How two CPUs compare with one."""
    spans = defaultdict(list)
    for row in rows:
        spans[row["way"]].append(float(row["run_s"]))
    if not spans:
        return
    yield "## Two CPUs instead of one\n"
    yield "| | seconds, median | least | against 1 thread (least / least) | must be |"
    yield "|---|---:|---:|---:|---:|"
    for way, taken in spans.items():
        base = next(
            base
            for base in reversed(spans)
            if base.endswith("1 thread") and way.startswith(base.removesuffix("1 thread"))
        )
        separate = way == SEPARATE
        against = min(spans[base]) / min(taken) * (2 if separate else 1)
        target = None if way == base or separate else 1.7 if way.startswith("1 ") else 1.9
        must = verdict(against, target, False) if target else ""
        yield f"| {way} | {statistics.median(taken):.3f} | {min(taken):.3f} | {against:.2f} × | {must} |"
    yield ""
    if SEPARATE in spans:
        yield (
            "Two separate runs do twice the work, each on a CPU of its own and knowing nothing of the other: "
            "what they reach is what "
            "the machine gives.\n"
        )


def sizes(told):
    """Output sizes and peak memory."""
    yield "## Size and memory\n"
    yield (
        "| | output against zlib's level 1 | must be | peak memory, MiB "
        "| twice the decompressed image and 30 MB, MiB |"
    )
    yield "|---|---:|---:|---:|---:|"
    for case, size in told["sizes_bytes"].items():
        peak = size["peak memory"] / 2**20
        limit = 2 * size["raw"] / size["images"] / 2**20 + 30e6 / 2**20
        against = size["niimpi"] / size["zlib level 1"]
        yield (
            f"| {CASES[case]} | {against:.3f} | {verdict(against, 1.05, True)} | {peak:.1f} "
            f"| {verdict(peak, limit, True)} |"
        )
    yield ""


def growth(rows):
    """A table for each quantity that grows."""
    tables = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        tables[row["grows"]][float(row["size"])][row["figure"]] = float(row["value"])
    if tables:
        yield "## How cost grows\n"
    for grows, sizes_of in tables.items():
        names = list(dict.fromkeys(name for figures in sizes_of.values() for name in figures))
        yield f"| {grows} | " + " | ".join(name.replace("_", " ") for name in names) + " |"
        yield "|---:|" + "---:|" * len(names)
        for size, figures in sizes_of.items():
            cells = (f"{figures[name]:.4g}" if name in figures else "" for name in names)
            yield f"| {size:.15g} | " + " | ".join(cells) + " |"
        yield ""
    filter_ms = {size: figures["filter_ms"] for size, figures in tables.get("sigma", {}).items()}
    if {2, 8} <= filter_ms.keys():
        against = filter_ms[8] / filter_ms[2]
        yield (
            f"Smoothing at sigma 8 takes {against:.2f} × what it takes at sigma 2 "
            f"(must be {verdict(against, 3.5, True)}).\n"
        )


def plot(rows):
    """Horizontal bars of CPU time, a block for each case, as SVG."""
    bars, top = [], 24
    width, label, line = 640, 150, 22
    for case, title in CASES.items():
        figures = {
            name: statistics.median(values.values()) for name, values in by_program(rows, case).items()
        }
        if not figures:
            continue
        bars.append(
            f'<text x="8" y="{top}" font-weight="bold">{escape(title)}: CPU ms per image</text>'
        )
        top += 10
        longest = max(figures.values())
        for name, value in sorted(figures.items(), key=lambda item: item[1]):
            length = max(1.0, (width - label - 80) * value / longest)
            colour = {"niimpi": "#1b7837", FLOOR: "#999999"}.get(name, "#762a83")
            bars.append(
                f'<text x="{label - 8}" y="{top + 15}" text-anchor="end">{escape(name)}</text>'
                f'<rect x="{label}" y="{top + 3}" width="{length:.1f}" height="{line - 6}" fill="{colour}"/>'
                f'<text x="{label + length + 6:.1f}" y="{top + 15}">{value:.4g}</text>'
            )
            top += line
        top += 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(bars)
        + "\n</svg>\n"
    )


def main():
    folder = Path(sys.argv[1])
    rows = read_rows(folder / "side_by_side.csv")
    told = json.loads((folder / "side_by_side.json").read_text())
    about = told["machine"]
    page = [
        f"# Measured on {folder.name}\n",
        f"{about['processor']}, {about['cpus']} CPUs ({', '.join(about['vectors'])}; L2 {about['l2']}, L3 "
        f"{about['l3']}), "
        f"{about['memory_gib']} GiB, Linux {about['kernel']}, hypervisor: {about['hypervisor']}. Other work "
        f"on the machine: a load "
        f"of {about['load_before']:.1f} before and {about['load_after']:.1f} after, of which this run is "
        f"1.\n",
        ", ".join(
            f"{name} {version.removeprefix(name).strip()}" for name, version in about["versions"].items()
        )
        + ".\n",
        "`make bench` repeats it. Inputs are phantoms (`niimpi synth`) compressed by gzip at level 6; sigma "
        "is 2 voxels. "
        "Each program smooths 2 images and then 12 (102 small ones), pinned to one CPU, and the difference "
        "of their CPU times "
        "(user and system) over their number is the cost per image. All take turns in every round; "
        "ratios are made within a round, and their median "
        "is given. The least of all rounds is what is left where others on the machine only ever slow things "
        "down. The floor is gzip alone: `igzip -d` of the inputs and `igzip -1` of the voxels that niimpi "
        "writes. Programs "
        "that take one image per call (niimath, mrfilter) start once per image. mrfilter, nilearn, antspyx "
        "write their default type, which is not always the input's. Raw figures: "
        "[side_by_side.csv](side_by_side.csv), "
        "[side_by_side.json](side_by_side.json), [throughput.csv](throughput.csv), "
        "[growth.csv](growth.csv).\n",
        "![CPU time of each program](side_by_side.svg)\n",
        "## Side by side\n",
        *side_by_side(rows),
        *throughput(read_rows(folder / "throughput.csv")),
        *sizes(told),
        *growth(read_rows(folder / "growth.csv")),
    ]
    (folder / "README.md").write_text("\n".join(page).rstrip() + "\n")
    (folder / "side_by_side.svg").write_text(plot(rows))


if __name__ == "__main__":
    main()
