"""Writes README.md and side_by_side.svg from the figures in a folder.

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
# Targets: the largest factor over the lower bound, and the smallest speed-up over other programs.
FLOOR = "igzip -d and -1"
SEPARATE = "2 separate runs"
TARGETS = {
    ("int16", FLOOR): 1.25,
    ("float32", FLOOR): 1.25,
    ("int16", "Python with fslpy and SciPy"): 4.4,
    ("float32", "Python with fslpy and SciPy"): 6.6,
    ("uint8", "Python with fslpy and SciPy"): 5,
    ("int16", "niimath"): 6,
    ("int16", "mrfilter"): 15,
    ("int16", "SimpleITK"): 14,
    ("int16", "antspyx"): 25,
}


def read_rows(path):
    """The rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def by_program(rows, case):
    """CPU milliseconds of each program by round. The lower bound is the sum of both halves of the codec."""
    figures = defaultdict(dict)
    for row in rows:
        if row["case"] == case:
            figures[row["program"]][int(row["round"])] = float(row["cpu_ms_per_image"])
    reading, writing = figures.pop("igzip -d", {}), figures.pop("igzip -1", {})
    floor = {turn: reading[turn] + writing[turn] for turn in reading if turn in writing}
    return {**({FLOOR: floor} if floor else {}), **figures}


def ratio(figures, program):
    """A program's figure over niimpi's: the median over common rounds, and the ratio of the minima of all
    rounds. For the lower bound, niimpi's figure over the bound."""
    own, others = figures["niimpi"], figures[program]
    if program == FLOOR:
        own, others = others, own
    rounds = sorted(set(own) & set(others))
    return statistics.median(others[turn] / own[turn] for turn in rounds), min(others.values()) / min(
        own.values()
    )


def verdict(value, bound, at_most):
    """A target, and whether it is met."""
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
            "| program | CPU ms per image: median | minimum | rounds | niimpi compared with it "
            "| ratio of minima | target |"
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
    yield "| | seconds: median | minimum | speed-up over 1 thread (minima) | target |"
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
            "Two separate runs do twice the work, each on its own CPU. Their speed-up is the limit of the "
            "machine.\n"
        )


def sizes(measured):
    """Output sizes and peak memory."""
    yield "## Size and memory\n"
    yield (
        "| | output size / size with zlib's level 1 | target | peak memory, MiB "
        "| target: twice the decompressed image plus 30 MB, MiB |"
    )
    yield "|---|---:|---:|---:|---:|"
    for case, size in measured["sizes_bytes"].items():
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
            f"Smoothing with sigma 8 takes {against:.2f} times as long as with sigma 2 "
            f"(target {verdict(against, 3.5, True)}).\n"
        )


def plot(rows):
    """Horizontal bars of CPU time, with a block for each case, as SVG."""
    bars, top = [], 24
    width, label, line = 640, 190, 22
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
    measured = json.loads((folder / "side_by_side.json").read_text())
    about = measured["machine"]
    page = [
        f"# Measured on {folder.name}\n",
        f"{about['processor']}, {about['cpus']} CPUs ({', '.join(about['vectors'])}; L2 {about['l2']}, L3 "
        f"{about['l3']}), "
        f"{about['memory_gib']} GiB, Linux {about['kernel']}, hypervisor: {about['hypervisor']}. The load of "
        f"the machine was {about['load_before']:.1f} before the run and {about['load_after']:.1f} at its "
        f"end; 1 of the latter is the benchmark itself.\n",
        ", ".join(
            f"{name} {version.removeprefix(name).strip()}" for name, version in about["versions"].items()
        )
        + ".\n",
        "`make bench` repeats it. Inputs are phantoms (`niimpi synth`) compressed by gzip at level 6; sigma "
        "is 2 voxels. Each program smooths 2 images and then 12 (102 small ones), pinned to one CPU. The "
        "difference in CPU time (user and system) over the difference in images is the cost per image. All "
        "programs take turns in every round. Ratios are computed within a round, and the table shows their "
        "median. The minimum over all rounds is least affected by other programs on the machine. The lower "
        "bound is gzip alone: `igzip -d` of the inputs and `igzip -1` of the voxels that niimpi writes. "
        "niimath and mrfilter take one image per call, so their cost includes their start. mrfilter, nilearn "
        "and antspyx write their default type, which is not always the input's. Raw figures: "
        "[side_by_side.csv](side_by_side.csv), "
        "[side_by_side.json](side_by_side.json), [throughput.csv](throughput.csv), "
        "[growth.csv](growth.csv).\n",
        "![CPU time of each program](side_by_side.svg)\n",
        "## Side by side\n",
        *side_by_side(rows),
        *throughput(read_rows(folder / "throughput.csv")),
        *sizes(measured),
        *growth(read_rows(folder / "growth.csv")),
    ]
    (folder / "README.md").write_text("\n".join(page).rstrip() + "\n")
    (folder / "side_by_side.svg").write_text(plot(rows))


if __name__ == "__main__":
    main()
