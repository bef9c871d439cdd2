"""How good the predictions are: pilots of 20 images against runs of 400, many times. `make validate-plan`
runs this, on a machine that does nothing else; what it prints goes into docs/scaling.

Beside each prediction stands what the machine itself repeats: the run of 400 before the pilot against the one
after it.

Files lie in memory, as those of the benchmarks do, where the disk is never waited for; or in the folder that
NIIMPI_VALIDATION_FOLDER names. A disk's file system remembers what was removed before
(benches/file_system.py). NIIMPI_VALIDATION_SYNC_MS makes fsync take so many milliseconds longer, as on a file
system that is slow to answer. NIIMPI_VALIDATION_TIMES is the number of pilots."""

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
    """The environment that makes the disk as slow as asked for."""
    return faulty(f"fsync:{SYNC_MS}ms:0:/") if SYNC_MS else {}


def full_run(folder, scratch, ranks, disk):
    """All 400 images, synced as the pilot's are: the report."""
    report = scratch / "r.json"
    out = scratch / f"out_{ranks}"
    words = ["smooth", folder, "--output", out, "--sigma", "2", "--threads", "1", "--report", report]
    finished = run([str(word) for word in words], ranks, timeout=600, env=disk)
    assert finished.code == 0, finished
    shutil.rmtree(out)
    return json.loads(report.read_text())


def within(turns, what):
    """In how many turns a time lay within 15 %."""
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
    for ranks, told in turns.items():
        print(
            f"{name}, {ranks} ranks: the interval, {statistics.median(turn['width'] for turn in told):.0%} "
            f"of the time wide, held "
            f"{sum(turn['held'] for turn in told)} of {TIMES}; {within(told, 'off')} of "
            f"{TIMES} predictions within 15 % (median "
            f"{statistics.median(turn['off'] for turn in told):+.1%}, furthest "
            f"{max((turn['off'] for turn in told), key=abs):+.1%}); the run before the pilot was within 15 % "
            f"in "
            f"{within(told, 'machine')} (furthest {max((turn['machine'] for turn in told), key=abs):+.1%}); "
            f"memory {min(turn['memory'] for turn in told):+.1%} to "
            f"{max(turn['memory'] for turn in told):+.1%}"
        )
    for told in turns.values():
        assert all(0 <= turn["memory"] <= 0.10 for turn in told)
        assert sum(turn["held"] for turn in told) >= 0.85 * TIMES
        assert within(told, "off") == TIMES
