"""Compares the time of niimpi's filters with that of the reference programs, on one CPU, in one run.

usage: filters.py OUTPUT_FOLDER [--quick]    writes filters.csv there and prints a table

niimpi's time is `filter_s` of its report. The reference's time is the CPU time of the filter call, without
reading and writing. Both take turns in every round, and the minimum over all rounds counts. The voxels of
both results are compared. ANTs and dipy are included if .venv-ants and .venv-dipy exist (`.ci/install ants`,
`.ci/install dipy`).
"""

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

import measure

NIIMPI = os.environ["NIIMPI_BIN"]
SMALL = "91,109,91"
LARGE = "197,233,189"


ROOT = Path(__file__).resolve().parents[1]
ANTS = """
import sys, time, ants, numpy
image = ants.image_read(sys.argv[1])
started = time.process_time()
denoised = ants.denoise_image(image, noise_model=sys.argv[2])
print(time.process_time() - started)
numpy.save(sys.argv[3], denoised.numpy())
"""


DIPY = """
import sys, time, nibabel, numpy
from dipy.denoise.nlmeans import nlmeans
from dipy.denoise.noise_estimate import estimate_sigma
data = numpy.asarray(nibabel.load(sys.argv[1]).dataobj).astype(float)
started = time.process_time()
denoised = nlmeans(data, sigma=estimate_sigma(data), method=sys.argv[2], num_threads=1)
print(time.process_time() - started)
numpy.save(sys.argv[3], denoised.astype(numpy.float32))
"""


def python_of(other):
    """The Python that has the other program."""
    return ROOT / f".venv-{other.lower()}" / "bin" / "python"


def in_scipy(filtered):
    """Returns a function that calls scipy and returns the result and the CPU seconds."""

    def call(path):
        data = np.asarray(nibabel.load(path).dataobj)
        started = time.process_time()
        return filtered(data), time.process_time() - started

    return call


def in_python(other, script, option):
    """The same for a program on one thread, in a separate Python."""

    def call(path):
        with tempfile.NamedTemporaryFile(suffix=".npy") as result:
            command = [python_of(other), "-c", script, path, option, result.name]
            env = {**os.environ, **measure.ONE_THREAD}
            run = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
            return np.load(result.name), float(run.stdout.split()[-1])

    return call


def in_ants(model):
    return in_python("ANTs", ANTS, model)


def in_dipy(method):
    return in_python("dipy", DIPY, method)


gaussian = in_scipy(lambda data: ndimage.gaussian_filter(data, 2))
median_3 = in_scipy(lambda data: ndimage.median_filter(data, 3))
median_5 = in_scipy(lambda data: ndimage.median_filter(data, 5))

# The reference, niimpi's command, shape, datatypes, the call of the reference, rounds.
CASES = [
    ("scipy", ["smooth", "--sigma", "2"], SMALL, ["uint8", "int16", "float32"], gaussian, 5),
    ("scipy", ["median", "--size", "3"], SMALL, ["uint8", "int16", "float32"], median_3, 5),
    ("scipy", ["median", "--size", "5"], SMALL, ["uint8", "int16", "float32"], median_5, 3),
    ("scipy", ["median", "--size", "3"], LARGE, ["int16"], median_3, 3),
    ("ANTs", ["denoise"], SMALL, ["float32"], in_ants("Rician"), 2),
    ("ANTs", ["denoise", "--noise-model", "gaussian"], SMALL, ["float32"], in_ants("Gaussian"), 1),
    ("ANTs", ["denoise"], LARGE, ["float32"], in_ants("Rician"), 1),
    ("dipy", ["denoise", "--method", "nlm"], SMALL, ["uint8"], in_dipy("classic"), 2),
    ("dipy", ["denoise", "--method", "nlm-blockwise"], SMALL, ["uint8"], in_dipy("blockwise"), 3),
]


def niimpi_s(command, source, out, cpu):
    """niimpi's seconds of filtering the image on one thread."""
    report = out.with_name("report.json")
    options = ["--output", out, "--threads", "1", "--no-sync", "--overwrite", "--quiet"]
    words = [NIIMPI, *command, source, *options]
    subprocess.run(
        [*map(str, words), "--report", str(report)],
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    (image,) = json.loads(report.read_text())["images"]
    return image["filter_s"]


def compare(case, datatype, scratch, cpu, quick):
    """The figures of a case, one row of the table."""
    other, command, shape, _, call, rounds = case
    source = scratch / f"{datatype}-{shape}"
    if not source.exists():
        words = ["synth", source, "--count", "1", "--shape", shape, "--datatype", datatype]
        subprocess.run([NIIMPI, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    (path,) = source.glob("*.nii.gz")
    out = scratch / "out"
    ours, others = [], []
    for _ in range(1 if quick else rounds):
        ours.append(niimpi_s(command, source, out, cpu))
        expected, seconds = call(path)
        others.append(seconds)
    result = np.asarray(nibabel.load(out / path.name).dataobj)
    return {
        "filter": " ".join(command),
        "shape": shape.replace(",", "×"),
        "datatype": datatype,
        "other": other,
        "other_s": min(others),
        "niimpi_s": min(ours),
        "times_faster": min(others) / min(ours),
        "voxels": result.size,
        "voxels_that_differ": int(np.count_nonzero(result != expected)),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round of each")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    print(measure.machine()["processor"])
    print("| filter | image | reference | reference, s | niimpi, s | niimpi is | different voxels |")
    print("|---|---|---|---:|---:|---:|---:|")
    rows = []
    with tempfile.TemporaryDirectory(prefix="niimpi-filters-") as scratch:
        for case in CASES:
            if case[0] != "scipy" and not python_of(case[0]).exists():
                continue
            for datatype in case[3]:
                row = compare(case, datatype, Path(scratch), cpu, args.quick)
                rows.append(row)
                print(
                    f"| {row['filter']} | {row['datatype']} {row['shape']} | {row['other']} "
                    f"| {row['other_s']:.3f} | {row['niimpi_s']:.4f} | {row['times_faster']:.1f} × faster "
                    f"| {row['voxels_that_differ']} of {row['voxels']:,} |",
                    flush=True,
                )
    with open(args.out / "filters.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
