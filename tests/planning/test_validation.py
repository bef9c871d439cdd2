"""Measures the accuracy of plans: compares pilots of 20 images with runs of 400 images, many times.
`make validate-plan` runs this on an idle machine. Its output goes into docs/scaling.

To show how much the machine itself varies, it also compares the run of 400 images before each pilot with the
run after it.

Files are in memory if there is room, as in the benchmarks, so that runs never wait for the disk and earlier
runs do not affect the file system (benches/file_system.py). Environment variables:

NIIMPI_VALIDATION_FOLDER   the folder for all files
NIIMPI_VALIDATION_SYNC_MS  additional milliseconds of each fsync, as on a slow file system
NIIMPI_VALIDATION_TIMES    the number of pilots"""

import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import pytest

import program
from conftest import synth
from faulty import faulty  # noqa: F401
from program import HAS_RANKS, run

pytestmark = [pytest.mark.validation, pytest.mark.timeout(7200)]

# Room for the images and the results of one run.
ROOM_BYTES = 3 << 30
IN_MEMORY = "/dev/shm"
TIMES = int(os.environ.get("NIIMPI_VALIDATION_TIMES", "20"))
SYNC_MS = int(os.environ.get("NIIMPI_VALIDATION_SYNC_MS", "0"))
RANKS = [1, 2] if HAS_RANKS else [1]


@pytest.fixture(scope="module")
def scratch():
    """A folder for all files."""
    in_memory = os.path.isdir(IN_MEMORY) and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES
    below = os.environ.get("NIIMPI_VALIDATION_FOLDER", IN_MEMORY if in_memory else None)
    print(f"files are below {below or tempfile.gettempdir()}")
    with tempfile.TemporaryDirectory(prefix="niimpi-validation-", dir=below) as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=["one shape", "three shapes, two datatypes"])
def images(request, scratch):
    folder = scratch / request.param.replace(" ", "_")
    if request.param == "one shape":
        return request.param, synth(folder, 400, "91,109,91")
    counts = [(100, "91,109,91"), (60, "64,64,36"), (40, "128,128,60")]
    for place, (count, shape) in enumerate(counts):
        for datatype in ("uint8", "int16"):
            synth(folder / f"{datatype}_{place}", count, shape, datatype, seed=place)
    return request.param, folder


@pytest.fixture(scope="module")
def disk(faulty):
    """The environment that slows the disk down by NIIMPI_VALIDATION_SYNC_MS."""
    return faulty(f"fsync:{SYNC_MS}ms:0:/") if SYNC_MS else {}


def full_run(folder, scratch, ranks, disk):
    """Filters all 400 images, synced as in the pilot, and returns the report."""
    report = scratch / "r.json"
    out = scratch / f"out_{ranks}"
    words = ["smooth", folder, "--output", out, "--sigma", "2", "--threads", "1", "--report", report]
    finished = run([str(word) for word in words], ranks, timeout=600, env=disk)
    assert finished.code == 0, finished
    shutil.rmtree(out)
    return json.loads(report.read_text())


def within(turns, what):
    """The number of turns with an error of at most 15 %."""
    return sum(abs(turn[what]) <= 0.15 for turn in turns)


def test_a_pilot_of_20_predicts_400(images, scratch, disk):
    name, folder = images
    lines, turns = [], {ranks: [] for ranks in RANKS}
    before = {ranks: full_run(folder, scratch, ranks, disk)["elapsed_s"] for ranks in RANKS}
    for turn in range(TIMES):
        words = ["plan", folder, "--sigma", "2", "--pilot", "20", "--ranks", ",".join(map(str, RANKS))]
        words += [
            "--cpus-per-node",
            "2",
            "--json",
            scratch / "p.json",
            "--output",
            scratch / "pilot",
            "--quiet",
        ]
        finished = run([str(word) for word in words], timeout=600, env=disk)
        assert finished.code == 0, finished
        configurations = json.loads((scratch / "p.json").read_text())["configurations"]
        for ranks in RANKS:
            predicted = next(c for c in configurations if c["ranks"] == ranks)
            actual = full_run(folder, scratch, ranks, disk)
            elapsed = actual["elapsed_s"]
            turns[ranks].append({
                "held": predicted["elapsed_low_s"] <= elapsed <= predicted["elapsed_high_s"],
                "off": predicted["elapsed_s"] / elapsed - 1,
                "width": (predicted["elapsed_high_s"] - predicted["elapsed_low_s"]) / predicted["elapsed_s"],
                "machine": before[ranks] / elapsed - 1,
                "memory": predicted["rss_per_rank_bytes"] / actual["totals"]["max_rss_bytes"] - 1,
            })  # fmt: skip
            last = turns[ranks][-1]
            lines.append(
                f"{name}, {ranks} ranks, turn {turn + 1}: predicted {predicted['elapsed_s']:.2f} s "
                f"({predicted['elapsed_low_s']:.2f} to {predicted['elapsed_high_s']:.2f}), took "
                f"{elapsed:.2f} s, and "
                f"{before[ranks]:.2f} s before the pilot; memory {last['memory']:+.1%}"
            )
            before[ranks] = elapsed
    print("\n".join(lines))
    for ranks, found in turns.items():
        width = statistics.median(turn["width"] for turn in found)
        median = statistics.median(turn["off"] for turn in found)
        largest = max((turn["off"] for turn in found), key=abs)
        machine = max((turn["machine"] for turn in found), key=abs)
        memory = [turn["memory"] for turn in found]
        print(
            f"{name}, {ranks} ranks: {sum(turn['held'] for turn in found)} of {TIMES} times inside the "
            f"interval, whose width is {width:.0%} of the time; {within(found, 'off')} of {TIMES} "
            f"predictions within 15 % (median error {median:+.1%}, largest {largest:+.1%}); repeatability: "
            f"{within(found, 'machine')} of {TIMES} runs before the pilot within 15 % (largest difference "
            f"{machine:+.1%}); memory {min(memory):+.1%} to {max(memory):+.1%}"
        )
    for found in turns.values():
        assert all(0 <= turn["memory"] <= 0.10 for turn in found)
        assert sum(turn["held"] for turn in found) >= 0.85 * TIMES
        assert within(found, "off") == TIMES
