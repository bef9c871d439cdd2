"""Compares the models of parallelism of docs/parallelism.md: one thread, threads, ranks, jobs at once.

usage: parallelism.py OUTPUT_FOLDER    writes parallelism.csv there and prints a table

A time is that of the whole command, from its start to its end, on two CPUs. All rows take turns in every
round, and the minimum over the rounds counts. Memory is the sum over the ranks of their highest use.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
from filters import LARGE, NIIMPI
from growth import ENV, LAUNCHER
from side_by_side import write_csv

ROUNDS = 5
ONE, TWO = ["--threads", "1"], ["--threads", "2"]
RANKS = [*LAUNCHER, "-n"]
# Work, model, and the commands that run at the same time: launcher, images and options.
ROWS = [
    ("400 small images", "serial", [([], "small", ONE)]),
    ("400 small images", "2 threads", [([], "small", TWO)]),
    ("400 small images", "2 ranks", [([*RANKS, "2"], "small", ONE)]),
    ("400 small images", "2 jobs", [([], "small", [*ONE, "--shard", f"{k}/2"]) for k in (1, 2)]),
    ("1 small image", "serial", [([], "small/sample_1.nii.gz", ONE)]),
    ("1 small image", "1 rank of mpirun", [([*RANKS, "1"], "small/sample_1.nii.gz", ONE)]),
    ("1 small image", "2 ranks", [([*RANKS, "2"], "small/sample_1.nii.gz", ONE)]),
    ("1 large image, .nii.gz", "serial", [([], "large", ONE)]),
    ("1 large image, .nii.gz", "2 threads", [([], "large", TWO)]),
    ("1 large image, .nii.gz", "2 ranks", [([*RANKS, "2"], "large", ONE)]),
    ("1 large image, .nii", "serial", [([], "plain", ONE)]),
    ("1 large image, .nii", "2 threads", [([], "plain", TWO)]),
    ("1 large image, .nii", "2 ranks", [([*RANKS, "2"], "plain", ONE)]),
    ("1 large image, denoise", "serial", [([], "large", ONE)]),
    ("1 large image, denoise", "2 threads", [([], "large", TWO)]),
    ("1 large image, denoise", "2 ranks", [([*RANKS, "2"], "large", ONE)]),
]


def synth(folder, *options):
    subprocess.run([NIIMPI, "synth", folder, *options], check=True, stdout=subprocess.DEVNULL)


def images(scratch):
    """Small images as in docs/scaling, a large compressed one, and the same one uncompressed."""
    synth(scratch / "small", "--count", "400")
    synth(scratch / "large", "--count", "1", "--shape", LARGE, "--datatype", "int16")
    words = ["--output", scratch / "plain", "--sigma", "0", "--name", "{stem}.nii", "--quiet"]
    subprocess.run([NIIMPI, "smooth", scratch / "large", *words], check=True)


def run(scratch, work, commands):
    """Runs commands at the same time. Returns seconds and bytes of memory."""
    filters = ["denoise"] if "denoise" in work else ["smooth", "--sigma", "2"]
    reports = [scratch / f"report-{number}.json" for number in range(len(commands))]
    options = ["--output", f"out of {work}", "--no-sync", "--overwrite", "--quiet"]
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [*launcher, NIIMPI, *filters, source, *options, *own, "--report", report],
            cwd=scratch,
            env={**os.environ, **ENV},
            stderr=subprocess.PIPE,
        )
        for (launcher, source, own), report in zip(commands, reports)
    ]
    failures = [errors for one in running for errors in [one.communicate()[1]] if one.returncode]
    seconds = time.perf_counter() - started
    if failures:
        sys.exit(failures[0].decode())
    ranks = [rank for report in reports for rank in json.loads(report.read_text())["ranks"]]
    return seconds, sum(rank["max_rss_bytes"] for rank in ranks)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="niimpi-parallelism-") as scratch:
        scratch = Path(scratch)
        images(scratch)
        runs = [[run(scratch, work, commands) for work, _, commands in ROWS] for _ in range(ROUNDS)]
    best = [min(row) for row in zip(*runs)]
    print(measure.machine()["processor"])
    print("| work | model | s | times as fast | memory, MiB |")
    print("|---|---|---:|---:|---:|")
    rows, serial = [], None
    for (work, model, _), (seconds, memory) in zip(ROWS, best):
        serial = seconds if model == "serial" else serial
        print(f"| {work} | {model} | {seconds:.3f} | {serial / seconds:.2f} | {memory / 2**20:.0f} |")
        rows.append({"work": work, "model": model, "seconds": seconds, "memory_bytes": memory})
    write_csv(args.out / "parallelism.csv", rows)


if __name__ == "__main__":
    main()
