"""Writes the results in docs/scaling/README.md from a study's tables and plans: `answers.py DOCS WORK`."""

import csv
import datetime
import json
import sys
import textwrap
from pathlib import Path

docs, work = Path(sys.argv[1]), Path(sys.argv[2])
MIB = 2**20


def rows(name):
    with open(docs / f"{name}.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["time_s"]]


def value(row, name):
    return float(row[name])


def duration(seconds):
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def expected(configuration):
    """The time including launching, as in the plan's table."""
    names = ("elapsed_s", "elapsed_low_s", "elapsed_high_s")
    time, low, high = (duration(configuration[name] + configuration["launch_s"]) for name in names)
    return f"{time} (90 %: {low} to {high})"


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def answers():
    study = json.loads((work / "study/study.json").read_text())
    plan = json.loads((work / "plan-40000.json").read_text())["configurations"]
    plan_24 = json.loads((work / "plan-24.json").read_text())["configurations"]
    serial = rows("serial")
    largest = serial[-1]
    images = int(largest["tasks"])
    others = [
        json.loads(path.read_text()).get("others_cpus") for path in (work / "study/runs").glob("*.json")
    ]
    others = [value for value in others if value is not None]
    busy = (
        f"Other programs used {sum(others) / len(others):.2f} CPUs during the study"
        if others
        else "Other programs were not measured"
    )

    yield f"Measured on {datetime.date.today():%-d %B %Y} on {study['cpus']} CPUs ({processor()}), "
    yield f"{study['mpi']}, niimpi "
    yield f"{study['version']}, {study['repeats']} repeats. {busy}.\n\n"

    # Memory
    one, four_hundred = value(serial[0], "mem_bytes") / MIB, value(largest, "mem_bytes") / MIB
    alone = next(c for c in plan if c["ranks"] == 1)
    yield "**How much memory do 40,000 images need?** "
    yield f"{alone['rss_per_rank_bytes'] / MIB:.0f} MiB for each rank of one worker. A rank used "
    yield f"{one:.1f} MiB for 1 image and "
    yield f"{four_hundred:.1f} MiB for {images}, because each image reuses the memory of "
    yield f"the previous one. Only the list grows "
    yield f"({(alone['list_bytes'] / 40000):.0f} bytes per image, on rank 0).\n\n"

    # Time
    yield "**How long do they take?** "
    parts = [f"{expected(c)} on {c['ranks']} rank{'s' if c['ranks'] > 1 else ''}" for c in plan]
    yield f"On this machine {', '.join(parts)} ([all settings](plan-40000.txt)). "
    yield f"{images} images took {value(largest, 'time_s'):.2f} ± {value(largest, 'time_sd_s'):.2f} s on "
    yield f"one worker, including the launch.\n\n"

    # What dominates
    stages = {
        name: value(largest, column)
        for name, column in [("reading", "rtime_s"), ("filtering", "ptime_s"), ("writing", "wtime_s")]
    }
    total = sum(stages.values())
    order = sorted(stages, key=stages.get, reverse=True)
    yield f"**What dominates?** {order[0].capitalize()}. Of the {images} images' time on one worker, "
    yield ", ".join(f"{name} takes {stages[name] / total:.0%}" for name in order)
    yield f"; wtime/ptime is {value(largest, 'wtime/ptime'):.2f}. Reading includes "
    yield f"inflating, writing includes "
    yield "compressing; waiting for the disk (publish) happens in the background.\n\n"

    # Threads and the convolution
    yield "**How far do more threads help the convolution alone?** "
    threaded = [
        row for row in rows("multi-threaded") if int(row["tasks"]) == images and int(row["threads"]) > 1
    ]
    filter_ups, whole_ups = [], []
    for row in threaded:
        threads = int(row["threads"])
        if threads == 1:
            continue
        filter_ups.append(
            f"{value(largest, 'ptime_s') / (value(row, 'ptime_s') / threads):.2f} times as fast "
            f"with {threads} threads"
        )
        whole_ups.append(
            f"{value(largest, 'time_s') / value(row, 'time_s'):.2f} times as fast with {threads}"
        )
    yield f"Each worker filters its own image. Compared with one thread, the convolution of {images} "
    yield f"images is {' and '.join(filter_ups)}; the whole run is {' and '.join(whole_ups)}. "
    yield f"More threads than the {study['cpus']} CPUs make each image slower by the same factor. "
    yield "Threads share an image only if a rank has more threads than images.\n\n"

    # Ranks
    yield "**And more ranks?** "
    ranked = [row for row in rows("multi-process") if int(row["tasks"]) == images and int(row["procs"]) > 1]
    ups = [
        f"{value(largest, 'time_s') / value(row, 'time_s'):.2f} times as fast with {row['procs']}"
        for row in ranked
        if row["procs"] != "1"
    ]
    yield f"The whole run is {' and '.join(ups)}; CPU efficiency is "
    yield ", ".join(f"{value(row, 'CPUeff'):.0%} with {row['procs']}" for row in ranked)
    yield ".\n\n"

    # 24 processes
    with_24 = next(c for c in plan_24 if c["ranks"] == 24)
    yield "**How long with 24 processes?** "
    yield f"On a node with 24 such CPUs {expected(with_24)}; one process takes {expected(plan_24[0])}. "
    yield f"The interval is wide because at most {study['cpus']} workers with one CPU each could be "
    yield "measured here, and 24 is far from that. [The table](plan-24-processes.txt) shows how it "
    yield "widens with the number of workers. A pilot on a node of the cluster gives a narrower one.\n"


def wrapped(text):
    """Wraps each paragraph at 110 columns."""
    fill = {"width": 110, "break_long_words": False, "break_on_hyphens": False}
    return "\n\n".join(textwrap.fill(part, **fill) for part in text.strip().split("\n\n")) + "\n"


readme = docs / "README.md"
text = readme.read_text()
begin, end = "<!-- answers: written by `study` -->\n", "<!-- end of the answers -->\n"
before, rest = text.split(begin)
after = rest.split(end)[1]
readme.write_text(before + begin + "\n" + wrapped("".join(answers())) + "\n" + end + after)
print(f"{readme} is written.")
