"""How good the predictions are: pilots of 20 images against runs of 400, many times. `make validate-plan` runs this, on a
machine that does nothing else; what it prints goes into docs/scaling."""

import json
import os

import pytest

import program
from conftest import synth
from program import HAS_RANKS, run, smooth

pytestmark = [pytest.mark.validation, pytest.mark.timeout(7200)]

TIMES = int(os.environ.get("NIIMPI_VALIDATION_TIMES", "20"))
RANKS = [1, 2] if HAS_RANKS else [1]


@pytest.fixture(scope="module", params=["one shape", "three shapes, two datatypes"])
def images(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation") / "images"
    if request.param == "one shape":
        return request.param, synth(folder, 400, "91,109,91")
    counts = [(100, "91,109,91"), (60, "64,64,36"), (40, "128,128,60")]
    for place, (count, shape) in enumerate(counts):
        for datatype in ("uint8", "int16"):
            synth(folder / f"{datatype}_{place}", count, shape, datatype, seed=place)
    return request.param, folder


def test_a_pilot_of_20_predicts_400(images, tmp_path, record_property):
    name, folder = images
    lines, held, far, memory = [], {r: 0 for r in RANKS}, {r: [] for r in RANKS}, {r: [] for r in RANKS}
    for turn in range(TIMES):
        words = ["plan", folder, "--sigma", "2", "--pilot", "20", "--ranks", ",".join(map(str, RANKS))]
        words += ["--cpus-per-node", "2", "--json", tmp_path / "p.json", "--output", tmp_path / "pilot", "--quiet"]
        finished = run([str(word) for word in words], timeout=600)
        assert finished.code == 0, finished
        configurations = json.loads((tmp_path / "p.json").read_text())["configurations"]
        for ranks in RANKS:
            predicted = next(c for c in configurations if c["ranks"] == ranks)
            # With --no-sync left out, as the pilot did.
            words = ["smooth", folder, "--output", tmp_path / f"out_{turn}_{ranks}", "--sigma", "2", "--threads", "1"]
            report = tmp_path / "r.json"
            finished = run([str(word) for word in [*words, "--report", report]], ranks, timeout=600)
            assert finished.code == 0, finished
            actual = json.loads(report.read_text())
            elapsed = actual["elapsed_s"]
            held[ranks] += predicted["elapsed_low_s"] <= elapsed <= predicted["elapsed_high_s"]
            far[ranks].append(predicted["elapsed_s"] / elapsed - 1)
            memory[ranks].append(predicted["rss_per_rank_bytes"] / actual["totals"]["max_rss_bytes"] - 1)
            lines.append(
                f"{name}, {ranks} ranks, turn {turn + 1}: predicted {predicted['elapsed_s']:.2f} s "
                f"({predicted['elapsed_low_s']:.2f} to {predicted['elapsed_high_s']:.2f}), took {elapsed:.2f} s; memory "
                f"{memory[ranks][-1]:+.1%}"
            )
            for path in (tmp_path / f"out_{turn}_{ranks}").rglob("*.nii.gz"):
                path.unlink()
    print("\n".join(lines))
    for ranks in RANKS:
        within = sum(abs(value) <= 0.15 for value in far[ranks])
        print(
            f"{name}, {ranks} ranks: the interval held {held[ranks]} of {TIMES}; {within} of {TIMES} within 15 %, the furthest "
            f"{max(far[ranks], key=abs):+.1%}; memory {min(memory[ranks]):+.1%} to {max(memory[ranks]):+.1%}"
        )
    for ranks in RANKS:
        assert min(memory[ranks]) >= 0 and max(memory[ranks]) <= 0.10
        assert held[ranks] >= 0.85 * TIMES
        assert all(abs(value) <= 0.15 for value in far[ranks])
